"""What the gate costs: stock and gated generation, alternating in one process, compared pair by pair."""

from __future__ import annotations

import multiprocessing
import os
import random
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from .evaluate.replies import needed_context, prompt_tokens
from .files import PathLike
from .gate.gate import Gate
from .gate.options import PAPER_OPTIONS, GateOptions
from .gate.results import GateStats
from .run.llama import GatedLlama, Llama

if TYPE_CHECKING:
    from .benchmarks import Prompt


@dataclass(frozen=True)
class BenchOptions:
    """What is run."""

    n_tokens: int = 64  # tokens generated and timed per run; fewer where a reply ends
    n_prompt: int = 512  # prompt tokens, random ids; the prompt evaluation is timed over them
    n_pairs: int = 7  # runs of each kind, in turn
    prompts: Sequence[Prompt] = ()  # what the runs answer, one after another; empty: 16 random tokens
    n_threads: int | None = None  # threads of llama.cpp, None for its default
    n_gpu_layers: int = 0  # layers on a GPU
    seed: int = 0  # of the prompts and the sampling


@dataclass(frozen=True)
class Side:
    """One way to generate: medians over the runs."""

    tokens_per_second: float  # of generation, the prompt not counted
    sampling_us_per_token: float  # everything after decode, the gate included, in microseconds
    # peak resident memory of a process that loads the model so and generates, in 10^6 bytes; None where the platform
    # does not tell
    rss_mb: float | None
    gate_run_share: float  # share of steps on which the MLP was evaluated
    intervention_share: float  # share of steps on which the gate removed a family


@dataclass(frozen=True)
class BenchResult:
    """All ratios are medians over pairs of neighbouring runs, above 1 where gated is faster."""

    ratio: float  # generation speed, gated / stock
    middle_half: tuple[float, float]  # of the same, where the middle half of the pairs lies
    forced_ratio: float  # the same with the MLP evaluated at every step
    prompt_eval_ratio: float  # speed of prompt evaluation, gated / stock, by the paper's rules
    prompt_eval_ratio_first_token: float  # the same with `first_token`
    stock: Side  # stock `llama_cpp.Llama`
    gated: Side  # with the gate, evaluated where its answer can matter
    gated_forced: Side  # with the gate evaluated at every step
    gate_us: float  # time of one evaluation of the MLP, in microseconds


@dataclass(frozen=True)
class _Run:
    n_tokens: int
    seconds: float
    sampling_seconds: float
    gate: GateStats = field(default_factory=GateStats)

    @property
    def tokens_per_second(self) -> float:
        return self.n_tokens / self.seconds


class _TimedSampling:
    """Counts the time spent in `sample`; goes before a model class."""

    sampling_seconds = 0.0

    def sample(self, *args: Any, **kwargs: Any) -> int:
        """Sample a token as the model does."""
        start = time.perf_counter()
        token: int = super().sample(*args, **kwargs)  # type: ignore[misc]
        self.sampling_seconds += time.perf_counter() - start
        return token


class _Stock(_TimedSampling, Llama):
    pass


class _Gated(_TimedSampling, GatedLlama):
    pass


def _generate(
    llm: _Stock | _Gated,
    prompt: Sequence[int],
    n_tokens: int,
    seed: int,
    ends_reply: Callable[[int], bool] = lambda token: False,
) -> _Run:
    """Generate with Llama's default sampling; the clock starts with the first token."""
    llm.reset()
    llm.set_seed(seed)
    start, n = 0.0, 0
    for n, token in enumerate(llm.generate(prompt)):
        if n == 0:
            llm.sampling_seconds = 0.0
            start = time.perf_counter()
        elif n == n_tokens or ends_reply(token):
            break
    return _Run(n, time.perf_counter() - start, llm.sampling_seconds)


def _prompt_seconds(llm: Llama, prompt: list[int]) -> float:
    llm.reset()
    start = time.perf_counter()
    llm.eval(prompt)
    return time.perf_counter() - start


def _llama_arguments(options: BenchOptions) -> dict[str, Any]:
    return {
        "n_ctx": max(options.n_prompt + options.n_tokens + 16, needed_context(options.prompts, options.n_tokens)),
        "n_threads": options.n_threads,
        "n_gpu_layers": options.n_gpu_layers,
        "verbose": False,
    }


def _random_prompt(llm: Llama, n: int, seed: int) -> list[int]:
    rng = random.Random(seed)
    return [rng.randrange(llm.n_vocab()) for _ in range(n)]


def _peak_rss_mb() -> float | None:
    """Peak of this process's resident memory in 10^6 bytes; None where the platform does not tell."""
    try:
        import resource  # noqa: PLC0415 (not on Windows)
    except ImportError:
        return None
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e6


def _measure_memory(model: str, gate: str | None, gate_options: GateOptions, options: BenchOptions) -> float | None:
    """Runs in a process of its own: load, generate, report the peak of resident memory."""
    arguments = _llama_arguments(options)
    llm: _Stock | _Gated
    if gate is None:
        llm = _Stock(model, **arguments)
    else:
        llm = _Gated(model, gate=gate, gate_options=gate_options, **arguments)
    _generate(llm, _random_prompt(llm, options.n_prompt, options.seed), 8, options.seed)
    return _peak_rss_mb()


def _memory(model: str, gate: str | None, gate_options: GateOptions, options: BenchOptions) -> float | None:
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        return pool.submit(_measure_memory, model, gate, gate_options, options).result()


LAZY = GateOptions()
FORCED = GateOptions(eager=True)


class _Bench:
    """Two models over the same mapped weights, run in turn."""

    def __init__(self, model: str, gate: Gate, options: BenchOptions) -> None:
        self.options = options
        arguments = _llama_arguments(options)
        self.stock = _Stock(model, **arguments)
        self.gated = _Gated(model, gate=gate, **arguments)
        self.prompt = _random_prompt(self.stock, options.n_prompt, options.seed)
        # generation is timed, not the prompt
        self.asked: list[Sequence[int]] = [prompt_tokens(self.gated, prompt).tokens for prompt in options.prompts]
        self.asked = self.asked or [self.prompt[:16]]

    def run(self, gate_options: GateOptions | None, pair: int = 0) -> _Run:
        """Answer the prompt of a pair, or the only one."""
        llm: _Stock | _Gated = self.stock
        if gate_options is not None:
            llm = self.gated
            self.gated.gate_options = gate_options
            self.gated.reset_gate_stats()
        # what is said after the end of a reply is nothing that a model says
        ends_reply = self.gated.ends_reply if self.options.prompts else lambda token: False
        prompt = self.asked[pair % len(self.asked)]
        run = _generate(llm, prompt, self.options.n_tokens, self.options.seed, ends_reply)
        return run if gate_options is None else replace(run, gate=self.gated.gate_stats)

    def prompt_ratio(self, gate_options: GateOptions) -> float:
        """Median over pairs of stock seconds / gated seconds."""
        self.gated.gate_options = gate_options
        ratios = []
        for _ in range(self.options.n_pairs + 1):
            stock = _prompt_seconds(self.stock, self.prompt)
            ratios.append(stock / _prompt_seconds(self.gated, self.prompt))
        return statistics.median(ratios[1:])  # the first pair allocates what the others use


def run_bench(
    model: PathLike, gate: PathLike, options: BenchOptions, progress: Callable[[str], None] = lambda line: None
) -> BenchResult:
    """Measure what the gate costs on this machine.

    Args:
        model: The base model.
        gate: Its gate file.
        options: What to run.
        progress: Called with a line of text now and then.

    Raises:
        GateError: The gate is not valid or was made for another model, or the chat template refuses a prompt.
        OSError: A file cannot be read.
    """
    model_path, gate_path = os.fspath(model), os.fspath(gate)
    bench = _Bench(model_path, Gate.load(gate_path), options)
    for gate_options in (None, LAZY, FORCED):  # the first run of each pays for page faults and graph building
        bench.run(gate_options)
    kinds: dict[str, GateOptions | None] = {"stock": None, "gated": LAZY, "gated_forced": FORCED}
    runs: dict[str, list[_Run]] = {kind: [] for kind in kinds}
    for pair in range(options.n_pairs):
        for kind, gate_options in kinds.items():
            runs[kind].append(bench.run(gate_options, pair))
        line = ", ".join(f"{kind} {runs[kind][-1].tokens_per_second:.2f}" for kind in kinds)
        progress(f"pair {pair + 1}/{options.n_pairs}: {line} tokens/s")
    progress("prompt evaluation")
    prompt_ratio = bench.prompt_ratio(PAPER_OPTIONS)
    prompt_ratio_first_token = bench.prompt_ratio(LAZY)
    progress("memory, in processes of their own")
    ratios = _ratios(runs["gated"], runs["stock"])
    return BenchResult(
        ratio=statistics.median(ratios),
        middle_half=_middle_half(ratios),
        forced_ratio=statistics.median(_ratios(runs["gated_forced"], runs["stock"])),
        prompt_eval_ratio=prompt_ratio,
        prompt_eval_ratio_first_token=prompt_ratio_first_token,
        stock=_side(runs["stock"], _memory(model_path, None, LAZY, options)),
        gated=_side(runs["gated"], _memory(model_path, gate_path, LAZY, options)),
        gated_forced=_side(runs["gated_forced"], _memory(model_path, gate_path, FORCED, options)),
        gate_us=statistics.median(
            run.gate.gate_seconds / max(run.gate.gate_runs, 1) * 1e6 for run in runs["gated_forced"]
        ),
    )


def _ratios(over: list[_Run], under: list[_Run]) -> list[float]:
    return [a.tokens_per_second / b.tokens_per_second for a, b in zip(over, under)]


def _middle_half(values: list[float]) -> tuple[float, float]:
    low, high = np.quantile(values, (0.25, 0.75)).tolist()
    return low, high


def _side(runs: list[_Run], rss_mb: float | None) -> Side:
    return Side(
        tokens_per_second=statistics.median(run.tokens_per_second for run in runs),
        sampling_us_per_token=statistics.median(run.sampling_seconds / run.n_tokens * 1e6 for run in runs),
        rss_mb=rss_mb,
        gate_run_share=statistics.median(run.gate.gate_runs / max(run.gate.steps, 1) for run in runs),
        intervention_share=statistics.median(run.gate.interventions / max(run.gate.steps, 1) for run in runs),
    )
