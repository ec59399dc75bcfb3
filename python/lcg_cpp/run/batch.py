"""Many replies at once: each token of the model's weights is read once for all of them."""

from __future__ import annotations

import contextlib
import dataclasses
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from ..engine.chain import Chain
from ..engine.model import require_open
from ..engine.sequences import MOST, Sequences, least_rows
from ..errors import GateError
from ..gate.gate import Gate
from ..gate.options import GateOptions
from ..gate.phase import PROMPT_END
from .reply import Reply, context_size, event_to_tell, room
from .requests import Prompt, Request, make_requests

if TYPE_CHECKING:
    from .llama import GatedLlama

_PARALLEL = 16  # sequences by default
_GROUP = 64  # replies begun at once to one prompt
_MEMORY = 16_384  # tokens that they have together by default, or four times the model's context if that is more


@dataclass(frozen=True, eq=False)
class Job:
    """A reply that is wanted.

    Attributes:
        reply: Empty; it grows.
        max_tokens: Its tokens at most; None: until the sequence is full.
        seed: Of the random choices; None takes the model's.
        sampling: As for `Llama.generate`.
        gate: None is no gate.
        options: How the gate acts.
        label: What the caller knows it by.
    """

    reply: Reply
    max_tokens: int | None = None
    seed: int | None = None
    sampling: Mapping[str, Any] = field(default_factory=dict)
    gate: Gate | None = None
    options: GateOptions = field(default_factory=GateOptions)
    label: Any = None


def generate_batch(
    llm: GatedLlama,
    prompts: Iterable[Prompt | Request],
    *,
    parallel: int | None = None,
    should_stop: Callable[[], bool] = lambda: False,
    **settings: Any,
) -> Iterator[tuple[int, Reply]]:
    """Answer many prompts, several at once, each through a sampling chain and a gate of its own.

    A reply is the one that `create_completion` (or for messages `create_chat_completion`) would give with the same seed
    wherever the logits are equal. They differ in their last bits: llama.cpp rounds a product of several rows otherwise
    than that of one (with weights of 4 bits by up to 0.3 logits), so that texts part sooner or later. On a CPU a reply
    does not depend on the others of its batch, and on `parallel` only in three steps: 1 (then it is exactly the one of
    `create_completion`), 2 to 4, and more.

    The batch has a context of its own, which is freed at its end; that of the model stays as it is. Its memory is that
    of `parallel` sequences of as many tokens as the longest prompt and its reply need. `gate_stats` and `gate_events`
    tell nothing of a batch: each reply has its own events.

    Example:
        >>> for index, reply in llm.generate_batch(["…", [{"role": "user", "content": "…"}]], max_tokens=200, seed=1):
        ...     print(index, reply.text, reply.finish)

    Args:
        llm: The model.
        prompts: Texts to continue, messages of chats, lists of tokens, or `Request`s that have settings of their own.
        parallel: Replies generated at once; 8 and more pay off. None: see `check_parallel`.
        should_stop: Asked after every step; the replies that are not finished are `interrupted` then.
        settings: Fields of `Request` for the prompts that are none. Prompt i gets the seed `seed` + i.

    Yields:
        Index of the prompt, and its reply: `text`, `tokens`, `events`, `finish` (`stop`, `length`, `interrupted`). They
        come in the order in which they end. A KeyboardInterrupt is raised after the replies that were finished.

    Raises:
        GateError: A prompt does not fit the context, a setting has no meaning, `parallel` cannot be, or llama.cpp
            fails. All prompts are looked at before the first is answered.
    """
    require_open(llm._model)
    requests = make_requests(prompts, llm._seed, settings)
    jobs, n_tokens = [], 1
    for i, request in enumerate(requests):
        try:
            reply = Reply(request.prompt_tokens(llm), llm.vocab)
            n_tokens = max(n_tokens, tokens_needed(llm, reply, request.max_tokens))
        except GateError as error:
            raise GateError(f"prompt {i}: {error}") from error
        options = request.gate_options or llm.gate_options
        jobs.append(Job(reply, request.max_tokens, request.seed, request.sampling, llm.gate, options, label=i))
    places = check_parallel(llm, parallel, n_tokens)
    places = min(places, max(len(jobs), 1 if parallel is None else least_rows(places)))
    return ((job.label, job.reply) for job in follow_all(llm, jobs, places, n_tokens, should_stop))


def tokens_needed(llm: GatedLlama, reply: Reply, max_tokens: int | None) -> int:
    """Tokens of a reply and its prompt at most."""
    most = room(llm, reply.prompt)
    return len(reply.prompt.tokens) + (most if max_tokens is None else min(most, max_tokens))


def check_parallel(llm: GatedLlama, parallel: int | None, n_tokens: int) -> int:
    """How many replies are generated at once.

    Args:
        llm: The model.
        parallel: What was asked for. None: up to 16, fewer where they would take more than four times the tokens of the
            model's context, or than 16,384 if that is more.
        n_tokens: Tokens of a reply and its prompt at most.

    Raises:
        GateError: llama.cpp cannot generate so many.
    """
    if parallel is None:
        n = max(1, min(_PARALLEL, max(_MEMORY, 4 * context_size(llm)) // n_tokens))
        return n if n < 4 else n // 4 * 4
    if type(parallel) is not int or not 1 <= parallel <= MOST:
        raise GateError(f"`parallel` is {parallel!r}, expected 1 to {MOST}, or None")
    return parallel


def follow_all(
    llm: GatedLlama,
    jobs: Iterable[Job],
    parallel: int,
    n_tokens: int,
    should_stop: Callable[[], bool] = lambda: False,
) -> Iterator[Job]:
    """Generate replies side by side; as one ends, the next begins.

    Args:
        llm: The model.
        jobs: The replies; each is asked for when there is a place for it.
        parallel: Places.
        n_tokens: Tokens of a reply and its prompt at most.
        should_stop: Asked after every step; the replies that are not finished are `interrupted` then.

    Yields:
        The jobs, each when its reply is finished.

    Raises:
        GateError: A prompt does not fit, or llama.cpp fails.
    """
    with contextlib.closing(_Batch(llm, jobs, parallel, n_tokens)) as batch:
        while batch.is_open:
            try:
                batch.advance()
            except KeyboardInterrupt:
                yield from batch.take_finished()
                raise
            yield from batch.take_finished()
            if should_stop():
                yield from batch.interrupt()
                return


class _Batch:
    """The replies that are being generated.

    The prompt of jobs that follow each other is evaluated once, if it is the same: all of them take their first token
    from its logits, and those that wait for a place a copy of the sequence then.
    """

    def __init__(self, llm: GatedLlama, jobs: Iterable[Job], parallel: int, n_tokens: int) -> None:
        self._llm = llm
        self._jobs = iter(jobs)
        self._next = next(self._jobs, None)
        self._running: list[_Running | None] = [None] * parallel  # None: the place is free
        self._ready: deque[_Running] = deque()  # begun; their prompt is in the spare sequence
        self._finished: list[Job] = []
        self._is_single = parallel == 1  # then all is as if each reply were alone
        self.is_open = True  # more replies may come
        self._sequences = Sequences(
            llm._model,
            llm.context_params,
            n_sequences=parallel,
            n_tokens=n_tokens,
            lora=None if llm._lora_adapter is None else (llm._lora_adapter, llm.lora_scale),
        )

    def close(self) -> None:
        """Free the context."""
        self._sequences.close()

    def take_finished(self) -> Iterator[Job]:
        """The jobs that were finished since the last call."""
        while self._finished:
            yield self._finished.pop(0)

    def interrupt(self) -> Iterator[Job]:
        """End all replies."""
        for running in [*filter(None, self._running), *self._ready]:
            running.reply.finish = "interrupted"
            yield running.job

    def advance(self) -> None:
        """Begin a reply, if there is a place and one is waiting; or else let all grow by a token."""
        if None in self._running and (self._ready or self._next is not None):
            place = self._running.index(None)
            if self._ready:
                self._sequences.copy(self._sequences.spare, place)
                self._running[place] = self._ready.popleft()
            else:
                self._begin(place)
            return
        self._close_ranks()
        running = [each for each in self._running if each is not None]
        self.is_open = bool(running)
        if running:
            self._step(running)

    def _begin(self, place: int) -> None:
        """Evaluate the next prompt, for all jobs in a row that have it."""
        begin = time.perf_counter()
        group = self._take_group()
        prompt = group[0].reply.prompt.tokens
        self._watch(group)
        self._sequences.begin(place, prompt)
        for each in group:
            each.sample(self._sequences, -1)
        seconds = time.perf_counter() - begin
        for each in group:
            each.reply.prompt_seconds = seconds / len(group)
        self._finished += [each.job for each in group if each.reply.finish]
        going_on = [each for each in group if not each.reply.finish]
        if going_on:
            self._running[place] = going_on.pop(0)
        if going_on:
            self._sequences.copy(place, self._sequences.spare)
            self._ready.extend(going_on)

    def _take_group(self) -> list[_Running]:
        group: list[_Running] = []
        most = 1 if self._is_single else _GROUP
        while self._next is not None and len(group) < most:
            prompt = self._next.reply.prompt
            if group and list(prompt.tokens) != list(group[0].reply.prompt.tokens):
                break
            n_tokens = min(room(self._llm, prompt), self._sequences.n_tokens - len(prompt.tokens))
            if n_tokens < 1:
                raise GateError(
                    f"the prompt has {len(prompt.tokens)} tokens, expected fewer than {self._sequences.n_tokens}"
                )
            group.append(_Running(self._llm, self._next, n_tokens))
            self._next = next(self._jobs, None)
        return group

    def _step(self, running: list[_Running]) -> None:
        begin = time.perf_counter()
        self._watch(running)
        self._sequences.step([each.reply.tokens[-1] for each in running])
        for place, each in enumerate(running):
            each.sample(self._sequences, place)
            if each.reply.finish:
                self._finished.append(each.job)
                self._running[place] = None
        seconds = time.perf_counter() - begin
        for each in running:
            each.reply.seconds += seconds / len(running)

    def _watch(self, running: list[_Running]) -> None:
        """Let the tap keep hidden states where a gate may ask for them."""
        wanted = any(each.job.gate is not None and not each.job.options.is_off for each in running)
        # the first time, the states of several sequences are proven
        self._sequences.tap.active = wanted and (self._is_single or self._llm.several_hidden_width > 0)

    def _close_ranks(self) -> None:
        """Fill places that stay free with the replies behind them."""
        while None in self._running:
            last = self._running.pop()
            if last is not None:
                place = self._running.index(None)
                self._sequences.copy(len(self._running), place)
                self._running[place] = last


class _Running:
    """A reply and what it is sampled with."""

    def __init__(self, llm: GatedLlama, job: Job, most: int) -> None:
        self.job, self.reply = job, job.reply
        self._llm = llm
        self._most = most if job.max_tokens is None else min(job.max_tokens, most)
        self._n_events = 0
        options = dataclasses.replace(job.options, n_events=1)  # events are collected as they come
        sampling = dict(job.sampling)
        processors = sampling.get("logits_processor")
        if processors is not None:
            sampling["logits_processor"] = [lambda _, scores, p=p: p(self._tokens(), scores) for p in processors]
        with llm.seeded(job.seed):
            self.chain: Chain = llm.new_chain(llm.new_stages(job.gate, options), **sampling)
        self.chain.stages.read_prompt(list(self.reply.prompt.tokens[-PROMPT_END:]))

    def _tokens(self) -> Any:
        """What a logits processor gets: int32 tokens of the prompt and the reply."""
        return np.array([*self.reply.prompt.tokens, *self.reply.tokens], np.intc)

    def sample(self, sequences: Sequences, row: int) -> None:
        """Let the reply grow by the token that a row of logits gives."""
        stages = self.chain.stages
        token = stages.sample(self.chain.address, sequences.address, row, sequences.tap)
        event = None
        n_events = stages.stats()["interventions"]
        if self.job.gate is not None and n_events != self._n_events:
            self._n_events = n_events
            event = event_to_tell(self.job.gate.read_events(stages)[-1], self.job.options)
        self.reply.grow(token, event, ends=self._llm.ends_reply(token), most=self._most)
