"""Replies for an evaluation, by every method, on a model that is loaded once."""

from __future__ import annotations

import dataclasses
import functools
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from ..errors import GateError
from ..gate.decisions import FamilyTable
from ..gate.gate import Gate
from ..gate.options import GateOptions
from ..gate.spec import spec_for
from ..run.batch import Job
from ..run.llama import GatedLlama
from ..run.prompt import PromptTokens, chat_prompt, completion_prompt, has_template
from ..run.reply import Reply, follow, room
from .methods import WARNING, Method
from .record import prompt_record, reply_record
from .untrained import rules_gate, training_free_gate

if TYPE_CHECKING:
    from ..benchmarks import Prompt


_TEMPLATE_TOKENS = 256  # what chat templates add to a prompt at most


def reply_seed(seed: int, prompt_id: str) -> int:
    """The seed of a reply: the same for all methods, whatever other prompts there are; never llama.cpp's "random"."""
    return zlib.crc32(f"{seed}:{prompt_id}".encode()) % (2**32 - 1)


def prompt_tokens(llm: GatedLlama, prompt: Prompt, variables: Mapping[str, Any] = MappingProxyType({})) -> PromptTokens:
    """Make a prompt into tokens, as llama-cpp-python would; `variables` are more of the chat template's.

    A model without a chat template continues the prompt from a new line.

    Raises:
        GateError: The chat template refuses the prompt, or it does not fit into the context.
    """
    text = prompt.prompt
    try:
        if prompt.chat and has_template(llm):
            tokens = chat_prompt(llm, [{"role": "user", "content": text}], stop=prompt.stop, **variables)
        else:
            tokens = completion_prompt(llm, text + "\n" if prompt.chat else text, stop=prompt.stop)
        room(llm, tokens)
    except GateError as error:
        raise GateError(f"prompt `{prompt.id}`: {error}") from error
    return tokens


def needed_context(prompts: Sequence[Prompt], max_tokens: int | None = None) -> int:
    """Tokens of context that prompts and replies take at most: a token a byte, and what chat templates add.

    `max_tokens` are those of a reply; None: as each prompt says. 0 without prompts.
    """
    return max(
        (len(prompt.prompt.encode()) + (max_tokens or prompt.max_tokens) + _TEMPLATE_TOKENS for prompt in prompts),
        default=0,
    )


class Replier:
    """Lets a model reply by any method.

    Attributes:
        families: The families of all gates.
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
        """Prepare the methods; the model's gate is changed.

        `gates` are by path; `sampling` are arguments of `Llama.generate`. False for `thinking` tells chat templates
        that know it (`enable_thinking`) to leave a model's thinking out.
        """
        self._llm, self._sampling, self._thinking = llm, sampling, thinking
        for gate in gates.values():  # finds out before any reply whether they fit the model
            llm.set_gate(gate)
        first = next(iter(gates.values()), None)
        is_free = any(method.training_free for method in methods)
        rules = first.families.rules if first is not None else "scripts" if is_free else "default"
        self._rules = rules_gate(llm.base_model, first, rules)
        self._free = training_free_gate(llm.base_model, rules) if is_free else self._rules
        self.families = self._rules.families
        for gate in (*gates.values(), self._free):
            names, wanted = gate.families.names, self.families.names
            if names != wanted:
                raise GateError(f"{gate.path}: has the families {names}, the first gate has {wanted}")
        untrained = {True: self._free, False: self._rules}
        self._gates = {
            method.name: untrained[method.training_free] if method.gate is None else gates[method.gate]
            for method in methods
        }

    def prompt_tokens(self, prompt: Prompt, *, warning: bool = False) -> PromptTokens:
        """Make a prompt into tokens, see `prompt_tokens`, with `WARNING` in front if there is a `warning`."""
        warned = dataclasses.replace(prompt, prompt=WARNING + prompt.prompt) if warning else prompt
        return prompt_tokens(self._llm, warned, {} if self._thinking else {"enable_thinking": False})

    # ---- replies ----

    def reply(
        self,
        method: Method,
        prompt: PromptTokens,
        seed: int,
        max_tokens: int,
        should_stop: Callable[[], bool] = lambda: False,
    ) -> Reply:
        """Generate a reply: fewer tokens where the context has no room, `interrupted` if it should stop."""
        self._llm.set_gate(None)
        self._llm.gate_options = self._options(method)
        # a stage of its own: no counters from before
        self._llm.set_gate(self._gate(method))
        reply = Reply(prompt, self._llm.vocab)
        sampling = self._sampling_of(method)
        for _ in follow(self._llm, reply, max_tokens=max_tokens, seed=seed, should_stop=should_stop, **sampling):
            pass
        return reply

    def job(self, method: Method, prompt: PromptTokens, seed: int, max_tokens: int, label: object = None) -> Job:
        """The same reply as one of a batch, see `follow_all`."""
        reply = Reply(prompt, self._llm.vocab)
        gate, options = self._gate(method), self._options(method)
        return Job(reply, max_tokens, seed, self._sampling_of(method), gate, options, label)

    def replies(self, prompts: Sequence[Prompt], methods: Sequence[Method], seed: int = 0) -> Iterator[dict[str, Any]]:
        """Answer prompts in memory, each by every method, as objects of replies.jsonl; nothing is written.

        The seed of a prompt's replies is `seed` and its place.
        """
        for place, prompt in enumerate(prompts):
            tokens = self.prompt_tokens(prompt)
            for method in methods:
                if place == 0:  # the first reply of a process is slow
                    self.reply(method, tokens, seed, prompt.max_tokens)
                reply = self.reply(method, tokens, seed + place, prompt.max_tokens)
                yield {**prompt_record(prompt, method.name, seed), **self.record(method, reply)}

    def record(self, method: Method, reply: Reply) -> dict[str, Any]:
        """The fields of a reply in replies.jsonl that generation gives, see `evaluate`."""
        return reply_record(reply, self._gates[method.name].token_families, self._llm.vocab)

    def _sampling_of(self, method: Method) -> dict[str, Any]:
        temperature = {} if method.temperature is None else {"temp": method.temperature}
        return {**self._sampling, **temperature, "logits_processor": [self._ban] if method.ban else None}

    @functools.cached_property
    def _ban(self) -> _StaticBan:
        four = FamilyTable.of(spec_for(self._llm.base_model, n_hidden=0))
        return _StaticBan(four.maskable[four.token_family])

    def _gate(self, method: Method) -> Gate | None:
        return self._gates[method.name] if method.options is not None else None

    def _options(self, method: Method) -> GateOptions:
        return dataclasses.replace(method.gate_options(), n_events=1)  # events are collected as they come


class _StaticBan:
    """A logits processor, as `Llama` makes one of a `logit_bias`, for many tokens."""

    def __init__(self, is_banned: npt.NDArray[np.bool_]) -> None:
        self._bias = np.where(is_banned, -np.inf, 0.0).astype(np.float32)

    def __call__(self, tokens: object, logits: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        return logits + self._bias
