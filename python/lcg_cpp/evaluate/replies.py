"""Replies for an evaluation: one prompt, one method, one seed at a time, on a model that is loaded once.

Tokens are those of `create_completion` and `create_chat_completion`, but their text is put together as they come:
those calls detokenize the whole reply at every token.
"""

from __future__ import annotations

import dataclasses
import time
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NoReturn

import numpy as np
import numpy.typing as npt

from ..engine.model import describe_model
from ..errors import GateError
from ..gate.gate import Gate
from ..gate.options import MAX_EVENTS
from ..run.llama import GatedLlama
from .methods import WARNING, Method, rules_gate
from .record import DIGITS, ReplyText, event_record, visible_bytes

if TYPE_CHECKING:
    from ..benchmarks import Prompt


def reply_seed(seed: int, prompt_id: str) -> int:
    """The seed of a reply: the same for all methods, whatever other prompts there are; never llama.cpp's "random"."""
    return zlib.crc32(f"{seed}:{prompt_id}".encode()) % (2**32 - 1)


@dataclass(frozen=True)
class Question:
    """A prompt as the model gets it.

    Attributes:
        tokens: Its tokens.
        stop: Texts that end the reply.
        max_tokens: Most tokens of the reply; less where the context has no room.
    """

    tokens: list[int]
    stop: tuple[str, ...]
    max_tokens: int


class _Captured(Exception):  # noqa: N818 (no error: it carries what was asked for out of llama_cpp)
    def __init__(self, tokens: list[int], stop: list[str]) -> None:
        super().__init__()
        self.tokens, self.stop = tokens, stop


class Replier:
    """Lets a model reply by any method.

    Attributes:
        families: The families of all gates.
        n_ctx: Tokens of a prompt and its reply together at most.
    """

    def __init__(
        self,
        llm: GatedLlama,
        methods: Sequence[Method],
        gates: Mapping[str, Gate],
        sampling: Mapping[str, Any],
        *,
        thinking: bool = True,
    ) -> None:
        """Prepare the methods.

        Args:
            llm: The model; its gate is changed.
            methods: What will be asked for.
            gates: By path, those the methods name.
            sampling: Arguments of `Llama.generate`: `temp`, `top_k`, `top_p`, `min_p`.
            thinking: False tells chat templates that know it (`enable_thinking`) to leave a model's thinking out.

        Raises:
            GateError: A gate was made for another model, or has other families than the first.
        """
        self._llm, self._sampling, self._thinking = llm, sampling, thinking
        self.n_ctx = min(llm.n_ctx(), len(llm.input_ids))  # llama.cpp rounds up, llama_cpp does not
        for gate in gates.values():  # finds out before any reply whether they fit the model
            llm.set_gate(gate)
        base = describe_model(llm._model, llm.n_embd())
        self._rules = rules_gate(base, next(iter(gates.values()), None))
        self.families = self._rules.families
        for gate in gates.values():
            names, wanted = gate.families.names, self.families.names
            if names != wanted:
                raise GateError(f"{gate.path}: has the families {names}, the first gate has {wanted}")
        self._gates = {method.name: self._rules if method.gate is None else gates[method.gate] for method in methods}
        self._texts, self._visible = base.vocab.tokens, visible_bytes(base.vocab)
        is_maskable = np.asarray(self.families.maskable)[self._rules.token_families]
        self._ban = _StaticBan(is_maskable)

    # ---- prompts ----

    def question(self, prompt: Prompt, *, warning: bool = False, max_tokens: int | None = None) -> Question:
        """Make a prompt into tokens, as llama-cpp-python would.

        A model without a chat template continues the prompt from a new line.

        Args:
            prompt: The prompt.
            warning: Whether `WARNING` stands in front of it.
            max_tokens: Most tokens of the reply; None: what the prompt says.

        Raises:
            GateError: The chat template refuses the prompt, or the context has no room for a reply.
        """
        text = WARNING + prompt.prompt if warning else prompt.prompt
        stop: list[str] = []
        if prompt.chat and "tokenizer.chat_template" in self._llm.metadata:
            tokens, stop = self._chat(prompt.id, text)
        else:
            text += "\n" if prompt.chat else ""
            tokens = self._llm.tokenize(text.encode(), add_bos=True, special=True)
        wanted = prompt.max_tokens if max_tokens is None else max_tokens
        room = self.n_ctx - len(tokens)
        if room < 1:
            raise GateError(
                f"prompt `{prompt.id}` has {len(tokens)} tokens and the context {self.n_ctx}, expected a longer context"
                " (-c/--ctx-size)"
            )
        return Question(tokens, tuple(filter(None, (*stop, *prompt.stop))), min(wanted, room))

    def _chat(self, prompt_id: str, text: str) -> tuple[list[int], list[str]]:
        """What `create_chat_completion` would hand to `create_completion`."""

        def capture(*, prompt: list[int], stop: list[str] | None = None, **others: object) -> NoReturn:
            raise _Captured(prompt, stop or [])

        llm: Any = self._llm
        messages = [{"role": "user", "content": text}]
        llm.create_completion = capture
        try:
            handler = llm._chat_handlers.get(llm.chat_format) if not self._thinking else None
            if handler is None:
                llm.create_chat_completion(messages)
            else:
                handler(llama=llm, messages=messages, enable_thinking=False)
        except _Captured as captured:
            return captured.tokens, captured.stop
        except Exception as error:  # a chat template is a program, and somebody else's
            reason = str(error).strip().splitlines() or [type(error).__name__]
            raise GateError(f"prompt `{prompt_id}`: the model's chat template refuses it: {reason[0]}") from error
        finally:
            del llm.create_completion
        raise GateError(f"prompt `{prompt_id}`: the model's chat format {llm.chat_format!r} completes no text")

    # ---- replies ----

    def reply(
        self, method: Method, question: Question, seed: int, should_stop: Callable[[], bool] = lambda: False
    ) -> dict[str, Any] | None:
        """Generate a reply.

        Args:
            method: How.
            question: The prompt.
            seed: Seed of the random choices.
            should_stop: Asked after every token.

        Returns:
            The fields of a reply in replies.jsonl that generation gives (see `evaluate`); None if it was stopped.
        """
        llm = self._llm
        self._switch_to(method, question.max_tokens)
        sampling = {**self._sampling, "logits_processor": [self._ban] if method.ban else None}
        if method.temperature is not None:
            sampling["temp"] = method.temperature
        text = ReplyText(self._visible, question.stop)
        begin = time.perf_counter()
        llm.reset()  # a prefix that is kept would change the arithmetic: replies must not depend on those before
        llm.set_seed(seed)
        finish = "length"
        for token in llm.generate(question.tokens, **sampling):
            if llm.ends_reply(token) or text.add(token):
                finish = "stop"
                break
            if len(text.tokens) == question.max_tokens:
                break
            if should_stop():
                return None
        seconds = time.perf_counter() - begin
        families = self._gates[method.name].token_families
        pieces = text.finish()
        return {
            "reply": "".join(pieces),
            "tokens": text.tokens,
            "pieces": pieces,
            "families": families[text.tokens].tolist(),
            "n_prompt": len(question.tokens),
            "finish": finish,
            "seconds": round(seconds, DIGITS),
            "events": [event_record(event, families, self._texts) for event in llm.gate_events],
        }

    def _switch_to(self, method: Method, max_tokens: int) -> None:
        self._llm.set_gate(None)
        if method.options is not None:
            n_events = min(max_tokens, MAX_EVENTS)
            self._llm.gate_options = dataclasses.replace(method.options, n_events=n_events)
            self._llm.set_gate(self._gates[method.name])  # a stage of its own: no counters or events from before


class _StaticBan:
    """A logits processor, as `Llama` makes one of a `logit_bias`, for many tokens."""

    def __init__(self, is_banned: npt.NDArray[np.bool_]) -> None:
        self._bias = np.where(is_banned, -np.inf, 0.0).astype(np.float32)

    def __call__(self, tokens: object, logits: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        return logits + self._bias
