"""`lcg-cpp bench`: what each run generates, and how runs are compared. No time is asserted."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from lcg_cpp import GatedLlama, bench
from lcg_cpp.bench import BenchOptions, run_bench
from lcg_cpp.benchmarks import Prompt

KINDS = 3  # stock, gated, gated at every step


class Model:
    """A model that says always the same."""

    sampling_seconds = 0.0

    def reset(self) -> None:
        pass

    def set_seed(self, seed: int) -> None:
        pass

    def generate(self, prompt: Sequence[int]) -> Iterator[int]:
        yield from (9, 5, 6, 9, 7, 7, 7)


def n_timed(n_tokens: int, *ends_reply: Any) -> int:
    return bench._generate(Model(), [1], n_tokens, 0, *ends_reply).n_tokens  # type: ignore[arg-type]


def test_a_run_stops_where_the_reply_ends() -> None:
    def is_end(token: int) -> bool:
        return token == 9

    assert n_timed(2, is_end) == 2
    assert n_timed(6, is_end) == 3  # a reply of nothing but its end goes on, because something must be timed
    assert n_timed(6) == 6


def test_each_pair_answers_a_prompt_of_its_own(
    tiny_model_path: Path, gate16: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[list[int]] = []

    def generate(llm: Any, prompt: Sequence[int], *others: Any) -> bench._Run:
        asked.append(list(prompt))
        return original(llm, prompt, *others)

    original = bench._generate
    monkeypatch.setattr(bench, "_generate", generate)
    monkeypatch.setattr(bench, "_memory", lambda *_: None)  # in a process of its own
    texts = ["the cat", "the name of the", "a"]
    prompts = [Prompt(text, text, chat=False) for text in texts]
    options = BenchOptions(n_tokens=4, n_prompt=16, n_pairs=4, n_threads=1, prompts=prompts)
    found = run_bench(tiny_model_path, gate16, options)
    llm = GatedLlama(str(tiny_model_path), n_ctx=64, verbose=False)
    first, second, third = (llm.tokenize(text.encode()) for text in texts)
    llm.close()
    warm_up = [first] * KINDS
    assert asked == warm_up + [prompt for prompt in (first, second, third, first) for _ in range(KINDS)]
    low, high = found.middle_half
    assert low <= found.ratio <= high


def test_a_prompt_that_is_longer_than_the_random_one_fits(
    tiny_model_path: Path, gate16: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bench, "_memory", lambda *_: None)
    prompts = [Prompt("1", "the " * 60, chat=True)]
    options = BenchOptions(n_tokens=4, n_prompt=4, n_pairs=1, n_threads=1, prompts=prompts)
    assert run_bench(tiny_model_path, gate16, options).ratio > 0


def test_the_middle_half_leaves_out_what_is_rare() -> None:
    assert bench._middle_half([1.0]) == (1.0, 1.0)
    assert bench._middle_half([5.0, 1.0, 2.0, 3.0, 4.0]) == (2.0, 4.0)
