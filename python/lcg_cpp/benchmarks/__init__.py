"""Benchmarks: prompts whose replies show how much a model confuses languages, built in or read from public data."""

from __future__ import annotations

from .load import BENCHMARKS, load_benchmark
from .prompt import Benchmark, Prompt

__all__ = ["BENCHMARKS", "Benchmark", "Prompt", "load_benchmark"]
