"""Benchmarks by name."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from ..data.files import HUB as HUB_PREFIX
from ..demo import PROMPTS as DEMO_PROMPTS
from ..errors import GateError
from . import everyday, flores, humaneval_xl, include, lcb
from .prompt import Benchmark
from .prompt_rows import load_demo, load_rows

CLDR_PROMPTS = Path(__file__).with_name("cldr.jsonl")
_ON_HUB = "hf"
_FILES = (".jsonl", ".ndjson", ".json", ".parquet")


@dataclass(frozen=True)
class _Kind:
    """A benchmark that is read from somewhere."""

    load: Callable[[str, str], Benchmark]  # reads it, from its name and its place
    hub: str = ""  # where it is on Hugging Face's hub; empty: not there


_KINDS = {
    "flores": _Kind(flores.load_flores, flores.HUB),
    "include": _Kind(include.load_include, include.HUB),
    "humaneval-xl": _Kind(humaneval_xl.load_humaneval_xl, humaneval_xl.HUB),
    "lcb": _Kind(lcb.load_lcb),
    "demo": _Kind(lambda name, place: load_demo(name, place, f"prompts of the demo's format, {place}")),
}
BENCHMARKS = {
    "cldr": "names and short sentences to be translated into 18 scripts, and requested code-switches; built in",
    "everyday": "questions of everyday life in 30 languages, some that ask for another script; built in",
    "demo": "what the demo model was made for; built in. `demo:FILE.jsonl` reads prompts of its format",
    "flores:PATH": "FLORES+ into Arabic, Hebrew, Korean and Thai, with and without Latin letters",
    "include:PATH": "INCLUDE, multiple choice in six languages",
    "humaneval-xl:PATH": "HumanEval-XL, Python described in Arabic and Hebrew",
    "lcb:PATH": "Language Confusion Benchmark, from a clone of its repository",
    "FILE.jsonl": "rows with `prompt` and perhaps `reference`, `language`, `expect_scripts`, …",
}


def load_benchmark(name: str, *, limit: int | None = None, seed: int = 0) -> Benchmark:
    """Load a benchmark.

    Args:
        name: A key of `BENCHMARKS`. PATH is a copy in the public layout or `hf:NAME[:CONFIG][:SPLIT]`; `hf` alone
            stands for the dataset's own place on Hugging Face's hub.
        limit: At most so many prompts, drawn at random and left in order. A larger limit adds prompts to those of a
            smaller one.
        seed: Of the drawing.

    Raises:
        GateError: There is no such benchmark, it holds no usable row, or a package is missing that reads it.
        OSError: A file cannot be read.
    """
    if limit is not None and limit < 1:
        raise GateError(f"`limit` is {limit}, expected at least 1")
    benchmark = _load(name)
    if limit is None or limit >= len(benchmark.prompts):
        return benchmark
    order = list(range(len(benchmark.prompts)))
    random.Random(seed).shuffle(order)  # not `sample`, whose draws of two sizes have little in common
    return replace(benchmark, prompts=tuple(benchmark.prompts[i] for i in sorted(order[:limit])))


def _load(name: str) -> Benchmark:
    if name == "cldr":
        return load_rows(name, str(CLDR_PROMPTS), "cldr, version 1: names of Unicode CLDR 47")
    if name == "everyday":
        return everyday.load_everyday(name)
    if name == "demo":
        return load_demo(name, str(DEMO_PROMPTS), "the demo's prompts")
    kind, _, place = name.partition(":")
    if kind in _KINDS:
        return _KINDS[kind].load(name, _place(kind, place))
    is_file = Path(name).suffix.lower() in _FILES or Path(name).is_dir()
    if name.startswith(HUB_PREFIX) or (name and is_file):
        return load_rows(name, name, name)
    raise GateError(f"`{name}` is no benchmark, expected {', '.join(BENCHMARKS)}")


def _place(kind: str, place: str) -> str:
    hub = _KINDS[kind].hub
    if not place:
        wanted = f"{kind}:PATH" + (f" or {kind}:{_ON_HUB}" if hub else "")
        raise GateError(f"`{kind}` is not built in, expected {wanted}")
    if place != _ON_HUB:
        return place
    if not hub:
        raise GateError(f"`{kind}` is not on Hugging Face's hub, expected {kind}:PATH")
    return hub
