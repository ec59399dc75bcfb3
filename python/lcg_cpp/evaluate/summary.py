"""What an evaluation found: summary.json."""

from __future__ import annotations

import importlib.metadata
import os
from pathlib import Path

from .. import __version__
from ..benchmarks import Benchmark
from ..errors import GateError
from ..measure.compare import compare, summarize
from .evaluate import Evaluation
from .folder import SUMMARY, Json, write_json

_BASELINE = "none"


def write_summary(
    folder: str | os.PathLike[str],
    evaluation: Evaluation,
    benchmark: Benchmark,
    *,
    model: str,
    gate: str | None,
    seed: int = 0,
) -> Json:
    """Measure the replies, write summary.json and give it back; `seed` is that of the intervals.

    It holds "methods" of `summarize` and, where there are replies of the method `none` and of others,
    "compared_with_none" of `compare` (an infinite ratio is null); model, gate, benchmark, numbers of prompts and seeds.
    """
    replies = evaluation.replies
    if not replies:
        raise GateError(f"{folder}: holds no replies, nothing can be measured")
    prompts = {prompt.id: prompt for prompt in benchmark.prompts}
    summary: Json = {"methods": summarize(replies, prompts, seed=seed)}
    if _BASELINE in summary["methods"] and len(summary["methods"]) > 1:
        summary["compared_with_none"] = compare(replies, prompts, baseline=_BASELINE, seed=seed)
    summary.update(
        model=model,
        gate=gate,
        benchmark=benchmark.name,
        source=benchmark.source,
        prompts=len({reply["id"] for reply in replies}),
        seeds=len({reply["seed"] for reply in replies}),
        finished=evaluation.finished,
        families=list(evaluation.families),
        settings=evaluation.settings,
        versions={"lcg-cpp": __version__, "llama-cpp-python": importlib.metadata.version("llama-cpp-python")},
    )
    write_json(Path(folder) / SUMMARY, summary)
    return summary
