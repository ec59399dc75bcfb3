"""The replies of a model: those of several runs together, and what is measured of some of them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from lcg_cpp.benchmarks import Prompt, load_benchmark
from lcg_cpp.evaluate.folder import read_replies
from lcg_cpp.measure.compare import compare, summarize

from .plan import RUNS, Plan

BASELINE, GATED = "none", "lcg"

Reply = Mapping[str, Any]
Keep = Callable[[Prompt], bool]


@dataclass(frozen=True)
class Outcome:
    """Replies to one benchmark, with one sampling.

    Attributes:
        replies: Objects of replies.jsonl; each method, prompt and seed once.
        prompts: By id.
    """

    replies: tuple[Reply, ...]
    prompts: Mapping[str, Prompt]

    @classmethod
    def of(cls, plan: Plan, names: Iterable[str]) -> Outcome:
        """The replies of some runs on the same benchmark, as far as they are there."""
        runs = [name for name in names if plan.run(name).exists()]
        replies = [reply for name in runs for reply in read_replies(plan.run(name))]
        benchmark = RUNS[runs[0]].benchmark.format_map(plan.benchmarks) if runs else "everyday"
        return cls(tuple(replies), {prompt.id: prompt for prompt in load_benchmark(benchmark).prompts})

    def part(self, keep: Keep) -> Outcome:
        """The replies to some of the prompts."""
        return Outcome(tuple(reply for reply in self.replies if keep(self.prompts[reply["id"]])), self.prompts)

    def common(self) -> Outcome:
        """The replies to the prompts, with the seeds, that every method answered: their shares can be compared."""
        answered: dict[str, set[tuple[str, int]]] = {}
        for reply in self.replies:
            answered.setdefault(reply["method"], set()).add((reply["id"], reply["seed"]))
        known = set.intersection(*answered.values()) if answered else set()
        return Outcome(tuple(reply for reply in self.replies if (reply["id"], reply["seed"]) in known), self.prompts)

    @cached_property
    def methods(self) -> dict[str, dict[str, Any]]:
        """Method -> metric -> estimate."""
        return dict(summarize(self.replies, self.prompts)) if self.replies else {}

    @cached_property
    def compared(self) -> dict[str, dict[str, Any]]:
        """Method -> metric -> difference from the model alone."""
        if BASELINE not in self.methods:
            return {}
        return dict(compare(self.replies, self.prompts, baseline=BASELINE))

    def ratio(self, method: str, metric: str) -> Any:
        """A method's share by the model's own; None where one of them is not there."""
        return self.compared.get(method, {}).get(metric, {}).get("ratio")


def main_runs() -> list[str]:
    """The runs on `everyday` with the usual sampling, which can be compared."""
    return [name for name, run in RUNS.items() if run.benchmark == "everyday" and not run.options and not run.copy]
