"""A chat of several turns: what was said, and how the next reply is asked for."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

from .prompt import PromptTokens, chat_prompt
from .reply import Reply, Step, context_size, follow

if TYPE_CHECKING:
    from .llama import GatedLlama

_ROOM = 0.25  # of the context for a reply, as long as earlier messages can be forgotten


class Conversation:
    """The messages of a chat with a model.

    Attributes:
        messages: What the next prompt is made of; replies without their thoughts.
        reply: The newest reply, None before the first.
        n_forgotten: Messages that the newest prompt had no room for.
    """

    def __init__(self, llm: GatedLlama, system: str | None = None) -> None:
        self.messages: list[dict[str, str]] = []
        self.reply: Reply | None = None
        self.n_forgotten = 0
        self._llm = llm
        self._system = system
        self.reset()

    def reset(self) -> None:
        """Forget everything but what the system says."""
        self.messages = [] if self._system is None else [{"role": "system", "content": self._system}]
        self.reply = None

    def ask(
        self,
        text: str,
        *,
        max_tokens: int | None = None,
        should_stop: Callable[[], bool] = lambda: False,
        **sampling: Any,
    ) -> Iterator[Step]:
        """Say something, and generate the reply; what there is of it stays, wherever it ends.

        Args:
            text: What the user says.
            max_tokens: Tokens of the reply at most; None: until the context is full.
            should_stop: Asked after every token; the reply is `interrupted` then.
            sampling: As for `follow`.

        Yields:
            The tokens of the reply.

        Raises:
            GateError: The text does not fit the context, or the chat template refuses it. It counts as not said.
        """
        before = list(self.messages)
        self.messages.append({"role": "user", "content": text})
        reply = None
        try:
            reply = Reply(self._prompt(), self._llm.vocab)
            yield from follow(self._llm, reply, max_tokens=max_tokens, should_stop=should_stop, fresh=False, **sampling)
        finally:
            if reply is None or not (reply.tokens or reply.finish):
                self.messages = before
            else:
                reply.finish = reply.finish or "interrupted"
                self.reply = reply
                self.messages.append({"role": "assistant", "content": _answer(reply)})

    def _prompt(self) -> PromptTokens:
        """The messages as a prompt; without the oldest turns, if there is no room for a reply otherwise."""
        most = context_size(self._llm) * (1 - _ROOM)
        first = 0 if self._system is None else 1
        self.n_forgotten = 0
        while True:
            prompt = chat_prompt(self._llm, self.messages)
            if len(prompt.tokens) <= most or len(self.messages) <= first + 1:
                return prompt
            del self.messages[first : first + 2]
            self.n_forgotten += 2


def _answer(reply: Reply) -> str:
    """A reply without its thoughts, which chat templates leave out of later prompts."""
    thoughts = reply.thinking
    return "".join(reply.pieces)[thoughts[-1].end :].lstrip() if thoughts else reply.text
