"""One reply: how it grows token by token, and how a model is made to generate it."""

from __future__ import annotations

import codecs
import time
from collections.abc import Callable, Iterator
from dataclasses import astuple, dataclass
from typing import TYPE_CHECKING, Any

from ..engine.base_model import Vocab
from ..errors import GateError
from ..gate.options import GateOptions
from ..gate.results import GateEvent
from .prompt import PromptTokens
from .thinking import Thought, find_thinking

if TYPE_CHECKING:
    from .llama import GatedLlama


@dataclass(frozen=True)
class Step:
    """A generated token."""

    token: int  # its id
    data: bytes  # the bytes that it adds to the text; none if it is a control token or stands behind a stop text
    event: GateEvent | None  # what the gate did when it was sampled (in mode `observe`: would have), None if nothing


class Reply:
    """A reply that grows by one token after the other. It knows nothing of what evaluates the model.

    Attributes:
        prompt: What it answers.
        tokens: Generated tokens, without the one that ends the reply.
        events: What the gate did; one can be at the position of the token that ends the reply.
        finish: "" as long as it goes on; `stop`: the model or a stop text ended it; `length`: it was cut;
            `interrupted`.
        prompt_seconds: Up to its first token.
        seconds: From its first token to its newest.
    """

    def __init__(self, prompt: PromptTokens, vocab: Vocab) -> None:
        self.prompt = prompt
        self.tokens: list[int] = []
        self.events: list[GateEvent] = []
        self.finish = ""
        self.prompt_seconds = self.seconds = 0.0
        self._written, self._visible = vocab.tokens, vocab.visible
        self._stop = [text.encode() for text in prompt.stop]
        self._data = bytearray()
        self._ends = [0]  # of each token's bytes

    def add(self, token: int) -> bytes:
        """Add a token, and give the bytes it adds to the text.

        If a stop text is complete now, it and what is behind it are left out and the reply ends.
        """
        begin = len(self._data)
        self._data += self._visible[token]
        self.tokens.append(token)
        found = [self._data.find(text, max(0, begin - len(text) + 1)) for text in self._stop]
        if any(at >= 0 for at in found):
            del self._data[min(at for at in found if at >= 0) :]
            self.finish = "stop"
        self._ends.append(len(self._data))
        return bytes(self._data[begin:])

    def grow(self, token: int, event: GateEvent | None, *, ends: bool, most: int) -> Step | None:
        """Take a sampled token.

        Args:
            token: Its id.
            event: What the gate did.
            ends: Whether this token ends the reply and is left out.
            most: Tokens of the reply at most; the last of them ends it too.

        Returns:
            The token as part of the reply, None if it is left out.
        """
        if event is not None:
            self.events.append(event)
        if ends:
            self.finish = "stop"
            return None
        data = self.add(token)
        if not self.finish and len(self.tokens) == most:
            self.finish = "length"
        return Step(token, data, event)

    @property
    def data(self) -> bytes:
        """The text in bytes, which need not be whole characters."""
        return bytes(self._data)

    @property
    def text(self) -> str:
        """The text, without the bytes that are no whole character."""
        return self._data.decode("utf-8", "ignore")

    @property
    def pieces(self) -> list[str]:
        """The text that each token completes: a character's last byte brings it, U+FFFD stands for what is none."""
        decoder = codecs.getincrementaldecoder("utf-8")("replace")
        pieces = [decoder.decode(self._data[begin:end]) for begin, end in zip(self._ends, self._ends[1:])]
        if pieces:
            pieces[-1] += decoder.decode(b"", final=True)
        return pieces

    @property
    def thinking(self) -> list[Thought]:
        """Where the text of the pieces is thought and not answer."""
        marked, at = "", [0]  # the text with its control tokens, and where each of its characters is without
        for token, piece in zip(self.tokens, self.pieces):
            hidden = "" if self._visible[token] else self._written[token].decode("utf-8", "replace")
            marked += piece + hidden
            at += [at[-1] + 1 + i for i in range(len(piece))]
            at += [at[-1]] * len(hidden)
        thoughts = find_thinking(marked, begun=self.prompt.begins_thinking)
        return [Thought(*(at[place] for place in astuple(thought))) for thought in thoughts]


def event_to_tell(event: GateEvent, options: GateOptions) -> GateEvent | None:
    """An event as part of a reply; None if it only was observed, in a phase of options that do more."""
    return None if event.observed and options.mode != "observe" else event


def context_size(llm: GatedLlama) -> int:
    """Tokens of a prompt and its reply together at most."""
    return min(llm.n_ctx(), len(llm.input_ids))  # llama.cpp rounds up, llama_cpp does not


def room(llm: GatedLlama, prompt: PromptTokens) -> int:
    """How many tokens a reply can have."""
    if len(prompt.tokens) == 0:
        raise GateError("the prompt has no tokens, expected some text; look at what the chat template makes of it")
    n_ctx = context_size(llm)
    if len(prompt.tokens) >= n_ctx:
        raise GateError(
            f"the prompt has {len(prompt.tokens)} tokens and the context {n_ctx}, expected a longer context"
            " (-c/--ctx-size) or a shorter prompt"
        )
    return n_ctx - len(prompt.tokens)


def follow(
    llm: GatedLlama,
    reply: Reply,
    *,
    max_tokens: int | None = None,
    seed: int | None = None,
    should_stop: Callable[[], bool] = lambda: False,
    fresh: bool = True,
    **sampling: Any,
) -> Iterator[Step]:
    """Generate a reply token by token, by default from an empty context: it does not depend on those before.

    Args:
        llm: The model. Of several interventions it must keep the newest (`GateOptions.n_events`).
        reply: An empty reply; it grows.
        max_tokens: Tokens of the reply at most; None: until the context is full, which ends it in any case.
        seed: Of the random choices.
        should_stop: Asked after every token; the reply is `interrupted` then.
        fresh: False keeps what the context holds of the prompt, as long chats want it. Evaluated in other pieces, a
            prompt has other last bits.
        sampling: As for `Llama.generate`.

    Yields:
        The tokens of the reply, each when it is part of it.

    Raises:
        GateError: The context has no room for a reply.
    """
    most = room(llm, reply.prompt)
    most = most if max_tokens is None else min(max_tokens, most)
    begin = time.perf_counter()
    if fresh:
        llm.reset()
    if seed is not None:
        llm.set_seed(seed)
    n_events = llm.n_interventions
    for token in llm.generate(reply.prompt.tokens, **sampling):
        now = time.perf_counter()
        if not reply.tokens:
            reply.prompt_seconds, begin = now - begin, now
        reply.seconds = now - begin
        event = None
        if llm.n_interventions != n_events:
            n_events, event = llm.n_interventions, event_to_tell(llm.gate_events[-1], llm.gate_options)
        step = reply.grow(token, event, ends=llm.ends_reply(token), most=most)
        if step is not None:
            yield step
        if not reply.finish and should_stop():
            reply.finish = "interrupted"
        if reply.finish:
            return
