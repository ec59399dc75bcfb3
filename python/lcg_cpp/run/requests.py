"""What `generate_batch` is asked: prompts, and how each is answered."""

from __future__ import annotations

import dataclasses
import difflib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Union

from llama_cpp import llama_cpp as bindings

from ..errors import GateError
from ..gate.options import GateOptions
from .prompt import PromptTokens, chat_prompt, completion_prompt

if TYPE_CHECKING:
    from .llama import GatedLlama

Prompt = Union[str, Sequence[Mapping[str, Any]], Sequence[int]]
_MAX_SEED = 2**32 - 2  # llama.cpp reads the next one as "random"


@dataclass(frozen=True)
class Request:
    """A prompt, and how it is answered. The defaults are those of `Llama.create_completion`, but for `max_tokens`.

    Attributes:
        prompt: A text to continue, the messages of a chat, or tokens.
        max_tokens: Tokens of the reply at most; None: until the context is full.
        seed: Of the random choices, 0 to 2**32 - 2; None takes the model's.
        stop: A text or texts that end the reply and are left out.
        temperature: 0 always takes the most probable token.
        top_k: 0 keeps all tokens.
        top_p: 1 keeps all tokens.
        min_p: 0 keeps all tokens.
        typical_p: 1 keeps all tokens.
        repeat_penalty: 1 is none.
        frequency_penalty: 0 is none.
        presence_penalty: 0 is none.
        mirostat_mode: 0 is off.
        mirostat_tau: Its target.
        mirostat_eta: Its rate.
        logits_processor: Functions of the tokens so far and the logits, each gives new logits.
        grammar: A `llama_cpp.LlamaGrammar` that the reply follows.
        gate_options: How the gate acts; None takes the model's.
    """

    prompt: Prompt
    max_tokens: int | None = None
    seed: int | None = None
    stop: str | Sequence[str] = ()
    temperature: float = 0.8
    top_k: int = 40
    top_p: float = 0.95
    min_p: float = 0.05
    typical_p: float = 1.0
    repeat_penalty: float = 1.0
    frequency_penalty: float = 0.0
    presence_penalty: float = 0.0
    mirostat_mode: int = 0
    mirostat_tau: float = 5.0
    mirostat_eta: float = 0.1
    logits_processor: Sequence[Callable[[Any, Any], Any]] | None = None
    grammar: Any = None
    gate_options: GateOptions | None = None

    def __post_init__(self) -> None:
        if self.max_tokens is not None and (type(self.max_tokens) is not int or self.max_tokens < 1):
            raise GateError(f"`max_tokens` is {self.max_tokens!r}, expected at least 1, or None")
        if self.seed is not None and (type(self.seed) is not int or not 0 <= self.seed <= _MAX_SEED):
            raise GateError(f"`seed` is {self.seed!r}, expected 0 to {_MAX_SEED}, or None")
        if not isinstance(self.temperature, (int, float)) or not self.temperature >= 0:
            raise GateError(f"`temperature` is {self.temperature!r}, expected at least 0")
        if self.gate_options is not None and not isinstance(self.gate_options, GateOptions):
            raise GateError(f"`gate_options` is {self.gate_options!r}, expected GateOptions")

    @property
    def sampling(self) -> dict[str, Any]:
        """As arguments of `Llama.generate`."""
        others = ("prompt", "max_tokens", "seed", "stop", "temperature", "gate_options")
        names = [field.name for field in dataclasses.fields(self) if field.name not in others]
        return {"temp": self.temperature, **{name: getattr(self, name) for name in names}}

    def prompt_tokens(self, llm: GatedLlama) -> PromptTokens:
        """The prompt as `create_completion`, or for messages `create_chat_completion`, would evaluate it."""
        stop = (self.stop,) if isinstance(self.stop, str) else self.stop
        if isinstance(self.prompt, str):
            return completion_prompt(llm, self.prompt, stop=stop)
        items: list[Any] = list(self.prompt) if isinstance(self.prompt, Iterable) else [None]
        if items and all(isinstance(item, Mapping) for item in items):
            return chat_prompt(llm, items, stop=stop)
        if not all(type(item) is int and 0 <= item < llm.n_vocab() for item in items):
            raise GateError(
                f"the prompt is {self.prompt!r:.80}, expected a text, messages, or tokens from 0 to {llm.n_vocab() - 1}"
            )
        return PromptTokens(items, tuple(filter(None, stop)))


def make_requests(prompts: Iterable[Prompt | Request], default_seed: int, settings: Mapping[str, Any]) -> list[Request]:
    """Requests of prompts, all with the same settings but for their seeds, which count up."""
    names = [field.name for field in dataclasses.fields(Request) if field.name != "prompt"]
    for name in settings:
        if name not in names:
            near = difflib.get_close_matches(name, names, n=1) or names
            raise GateError(f"`{name}` is unknown, expected {', '.join(f'`{name}`' for name in near)}")
    if isinstance(prompts, str):
        raise GateError(f"`prompts` is the text {prompts!r:.80}, expected a list of prompts")
    like = Request("", **settings)
    first = like.seed
    if first is None and default_seed != bindings.LLAMA_DEFAULT_SEED:
        first = default_seed
    found = []
    for i, prompt in enumerate(prompts):
        seed = None if first is None else (first + i) % (_MAX_SEED + 1)
        found.append(prompt if isinstance(prompt, Request) else dataclasses.replace(like, prompt=prompt, seed=seed))
    return found
