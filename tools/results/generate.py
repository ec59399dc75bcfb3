"""Runs the experiments: trains the gates, generates the replies. What is finished is kept."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from demo.corpus import write_gate_texts
from demo.gates import train_gate
from demo.jsonl import write_rows
from lcg_cpp.benchmarks import Prompt, load_benchmark
from lcg_cpp.commands.demo import load_demo_model
from lcg_cpp.demo import MODEL
from lcg_cpp.engine.model import read_base_model
from lcg_cpp.evaluate.evaluate import EvalOptions, evaluate
from lcg_cpp.gate.gate_file import OUTTYPES, read_weights, write_gate
from lcg_cpp.gate.spec import spec_for
from lcg_cpp.measure.compare import compare, summarize
from lcg_cpp.train.options import TrainOptions
from timed_log import log

from .experiments import SEED, Experiment, gates


@dataclass(frozen=True)
class Outcome:
    """The replies of an experiment.

    Attributes:
        replies: Objects of replies.jsonl.
        prompts: By id.
        baseline: The method the others are compared with.
    """

    replies: Sequence[dict[str, Any]]
    prompts: Mapping[str, Prompt]
    baseline: str

    def summary(self, keep: Callable[[Prompt], bool] = lambda prompt: True) -> dict[str, Any]:
        """Method -> metric -> estimate, of the prompts to keep."""
        return summarize([reply for reply in self.replies if keep(self.prompts[reply["id"]])], self.prompts)

    def compared(self) -> dict[str, Any]:
        """Method -> metric -> difference from the baseline."""
        return compare(self.replies, self.prompts, baseline=self.baseline)


def make_gates(work: Path, n_threads: int) -> dict[str, Path]:
    """Trains what is not there yet, from the demo model and the demo's clean texts.

    Returns:
        The files of `gates`, and `type f32` to `type q8_0`: one gate in every type a gate file can have.
    """
    texts = work / "gate-texts.jsonl"
    if not texts.exists():
        write_gate_texts(texts, SEED)
    files = {}
    for name, options in gates().items():
        files[name] = work / f"gate-{_slug(options)}.gguf"
        if not files[name].exists():
            train_gate(MODEL, texts, options, files[name], n_threads)
            log(f"trained {files[name].name}")
    exact = files[f"type {OUTTYPES[0]}"] = work / f"type-{OUTTYPES[0]}.gguf"
    if not exact.exists():
        train_gate(MODEL, texts, gates()[f"seed {SEED}"], exact, n_threads, outtype=OUTTYPES[0])
    weights = read_weights(exact)
    base = read_base_model(MODEL)
    for outtype in OUTTYPES[1:]:
        files[f"type {outtype}"] = work / f"type-{outtype}.gguf"
        write_gate(files[f"type {outtype}"], spec_for(base, n_hidden=base.n_embd), weights, outtype)
    return files


def _slug(options: TrainOptions) -> str:
    width = "full" if options.n_hidden is None else options.n_hidden
    return f"{options.norm}-{width}-{options.top_k}-{options.top_p:g}-{options.rules}-{options.seed}"


def run(name: str, experiment: Experiment, work: Path) -> Outcome:
    """Generates the replies that are not there yet."""
    path = work / f"prompts-{name}.jsonl"
    write_rows(path, map(vars, experiment.prompts()))
    benchmark = load_benchmark(f"demo:{path}")
    total = len(benchmark.prompts) * len(experiment.methods)

    def tell(progress: Any) -> None:
        if progress.new % 2_000 == 0:
            log(f"{name}: {progress.done} of {total} replies")

    llm = load_demo_model()
    options = EvalOptions(max_tokens=experiment.max_tokens)
    evaluation = evaluate(llm, benchmark, experiment.methods, work / name, options, on_progress=tell)
    llm.close()
    log(f"{name}: {total} replies")
    return Outcome(evaluation.replies, {prompt.id: prompt for prompt in benchmark.prompts}, experiment.methods[0].name)
