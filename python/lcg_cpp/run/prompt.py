"""What a model is asked, as tokens: the same that `create_completion` and `create_chat_completion` would evaluate."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from llama_cpp import llama_chat_format

from ..errors import GateError, first_line
from .thinking import begins_thinking

if TYPE_CHECKING:
    from .llama import GatedLlama

TEMPLATE = "tokenizer.chat_template"
_TAIL = 32  # tokens that a mark at the end of a prompt can have


@dataclass(frozen=True)
class PromptTokens:
    """A prompt as the model gets it."""

    tokens: Sequence[int]  # its tokens
    stop: tuple[str, ...] = ()  # texts that end the reply
    begins_thinking: bool = False  # whether it ends in the mark that begins a thought, which the reply continues


def template_notice(llm: GatedLlama) -> str:
    """What a user must know of the model's chat template; empty if it brings one."""
    return (
        "" if has_template(llm) else f"the model has no chat template, llama-cpp-python's `{llm.chat_format}` is used"
    )


def has_template(llm: GatedLlama) -> bool:
    """Whether the model brings a chat template."""
    return TEMPLATE in llm.metadata


def completion_prompt(llm: GatedLlama, text: str, *, stop: Sequence[str] = ()) -> PromptTokens:
    """Make a text into a prompt that the model continues; control tokens in it count as such."""
    return PromptTokens(llm.tokenize(text.encode(), add_bos=True, special=True), tuple(filter(None, stop)))


def chat_prompt(
    llm: GatedLlama, messages: Sequence[Mapping[str, Any]], *, stop: Sequence[str] = (), **variables: Any
) -> PromptTokens:
    """Make a chat into a prompt that asks for the reply; `stop` are texts that end it besides those of the chat format.

    `create_chat_completion` decides how: by the model's template or, where there is none, by its `chat_format`. The
    template gets more `variables`, such as `enable_thinking`; formats of llama_cpp's own ignore them.
    """
    stand_in = _StandIn(llm)
    try:
        name = llm.chat_format or ""
        handler: Any = llm.chat_handler or llm._chat_handlers.get(name)
        handler = handler or llama_chat_format.get_chat_completion_handler(name)
        handler(llama=stand_in, messages=list(messages), **variables)
    except Exception as error:  # a chat template is a program, and somebody else's
        subject = f"`{TEMPLATE}`" if has_template(llm) else f"the chat format `{llm.chat_format}`"
        raise GateError(
            f"{subject} of {llm.model_path} refuses the chat: {first_line(error)}; change the chat, or write the model"
            " with another template (gguf-new-metadata --chat-template-file)"
        ) from error
    if stand_in.tokens is None:
        raise GateError(f"the chat format `{llm.chat_format}` completes no text, expected one that makes a prompt")
    tail = b"".join(llm.vocab.tokens[token] for token in stand_in.tokens[-_TAIL:]).decode("utf-8", "replace")
    return PromptTokens(stand_in.tokens, tuple(filter(None, (*stand_in.stop, *stop))), begins_thinking(tail))


class _StandIn:
    """Takes the model's place before a chat handler, and keeps the prompt instead of completing it."""

    def __init__(self, llm: GatedLlama) -> None:
        self.tokens: list[int] | None = None
        self.stop: list[str] = []
        self._llm = llm

    def __getattr__(self, name: str) -> Any:
        return getattr(self._llm, name)

    def create_completion(self, *, prompt: list[int], stop: list[str] | None = None, **others: object) -> Any:
        """An empty completion."""
        del others
        self.tokens, self.stop = prompt, stop or []
        choice = {"text": "", "index": 0, "logprobs": None, "finish_reason": "stop"}
        usage = {"prompt_tokens": len(prompt), "completion_tokens": 0, "total_tokens": len(prompt)}
        return {"id": "", "object": "text_completion", "created": 0, "model": "", "choices": [choice], "usage": usage}
