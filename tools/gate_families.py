"""Compares gates with four families and gates with a family for each script, on a toy model that confuses scripts.

    python tools/gate_families.py --model MODEL.gguf --train TRAIN.jsonl --points POINTS.jsonl \\
        --prompts PROMPTS.jsonl --out DIR

Needs the extras `train` and `eval`. Keeps the model's states on the training texts, fits every gate to them, measures
each on clean texts (teacher forced) and lets it answer the prompts. DIR keeps finished work: start again to continue a
run that was stopped.
"""

from __future__ import annotations

import argparse
import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from families import tables
from families.forced import Scores, Sets, read, score
from lcg_cpp.benchmarks import load_benchmark
from lcg_cpp.commands.demo import load_demo_model
from lcg_cpp.engine.load import Engine
from lcg_cpp.engine.model import read_base_model
from lcg_cpp.evaluate.evaluate import evaluate
from lcg_cpp.evaluate.methods import Method
from lcg_cpp.gate.gate import Gate
from lcg_cpp.gate.gate_file import read_weights, write_gate
from lcg_cpp.gate.options import GateOptions
from lcg_cpp.gate.spec import CONFIDENCE, spec_for
from lcg_cpp.train.collect import collect
from lcg_cpp.train.options import TrainOptions
from lcg_cpp.train.train import train
from results.generate import Outcome
from timed_log import log

PLAIN = "none"
DEFAULT, SCRIPTS = "default", "scripts"  # the two rule sets, all else as `lcg-cpp train` has it
WINDOWS = (0, 4, 24)
THRESHOLDS = (0.2, 0.35, 0.5)
# H, what a model is confident about: wider than the paper's, and wider still
WIDE: Sets = ((5, 0.999), (20, 0.9999))
WIDER: Sets = ((5, 0.999), (20, 0.99999))


@dataclass(frozen=True)
class Arm:
    """A gate and how it acts.

    Attributes:
        training: How it is trained.
        options: How it acts.
        confidence: H.
    """

    training: TrainOptions
    options: GateOptions = GateOptions()  # noqa: RUF009 (frozen)
    confidence: Sets = CONFIDENCE


def arms() -> dict[str, Arm]:
    """What is compared, by name."""
    default = Arm(TrainOptions(positions="reply", n_ctx=512, rules="default"))
    scripts = Arm(replace(default.training, rules="scripts"))
    found = {DEFAULT: default, SCRIPTS: scripts}
    for window in WINDOWS:
        found[f"{SCRIPTS}, window {window}"] = replace(scripts, training=replace(scripts.training, window=window))
    for threshold in THRESHOLDS:
        found[f"{SCRIPTS}, threshold {threshold:g}"] = replace(scripts, options=GateOptions(threshold=threshold))
    found[f"{SCRIPTS}, no persistence"] = replace(scripts, options=GateOptions(persistence=False))
    found[f"{SCRIPTS}, no confidence"] = replace(scripts, options=GateOptions(confidence=False))
    found[f"{SCRIPTS}, no first token"] = replace(scripts, options=GateOptions(first_token=False))
    found[f"{DEFAULT}, H to 0.9999"] = replace(default, confidence=WIDE)
    found[f"{SCRIPTS}, H to 0.9999"] = replace(scripts, confidence=WIDE)
    found[f"{SCRIPTS}, H to 0.99999"] = replace(scripts, confidence=WIDER)
    found[f"{SCRIPTS}, H to 0.9999, threshold 0.5"] = Arm(scripts.training, GateOptions(threshold=0.5), WIDE)
    return found


def slug(name: str) -> str:
    """A name as a file's."""
    return name.replace(", ", "-").replace(" ", "-")


def make_gates(model: Path, texts: Path, n_texts: int, out: Path, n_threads: int) -> dict[str, Path]:
    """Fits the gates that are not there yet.

    Returns:
        Name of each arm -> its gate's file.
    """
    engine = Engine(n_threads=n_threads)
    some = out / "train.jsonl"
    with texts.open(encoding="utf-8") as file:
        some.write_text("".join(itertools.islice(file, n_texts)), "utf-8")
    collected = collect(model, [str(some)], out / "states", TrainOptions(n_ctx=512), engine=engine)
    log(f"states of {collected.kept} texts")
    files: dict[str, Path] = {}
    first: dict[tuple[TrainOptions, Sets], Path] = {}  # the arm that made a gate
    for name, arm in arms().items():
        made = first.setdefault((arm.training, arm.confidence), out / f"{slug(name)}.gguf")
        files[name] = made
        if made.exists():
            continue
        if arm.confidence == CONFIDENCE:
            run = train(model, [], made, arm.training, states=[str(out / "states")], engine=engine, name=made.stem).run
            scores = run.measurements[-1].scores
            log(f"{name}: {run.positions} states, loss {scores.loss:.4f}, contradicts {scores.contradict:.5f}")
        else:
            with_confidence(first[arm.training, CONFIDENCE], model, arm.confidence, made)
    return files


def with_confidence(gate: Path, model: Path, confidence: Sets, out: Path) -> None:
    """Writes a copy of a gate of the rule set `scripts` or `default` with another H."""
    loaded = Gate.load(gate)
    weights = read_weights(gate)
    base = read_base_model(model)
    spec = spec_for(base, n_hidden=len(weights["lcg.fc1.weight"]), rules=loaded.families.rules)
    at = loaded.thresholds
    spec = replace(
        spec,
        families=loaded.families,
        own_thresholds=at.usual,
        first_thresholds=at.first,
        allow_thresholds=at.allow,
        confidence=confidence,
    )
    write_gate(out, spec, weights, "f16")


def generate(model: Path, prompts: Path, methods: Sequence[Method], out: Path) -> Outcome:
    """Answers the prompts by every method, each in a folder of its own: their families differ."""
    benchmark = load_benchmark(f"demo:{prompts}")
    replies: list[dict[str, Any]] = []
    for method in methods:
        llm = load_demo_model(model)
        found = evaluate(llm, benchmark, [method], out / "replies" / slug(method.name))
        llm.close()
        replies += found.replies
        log(f"{method.name}: {len(found.replies)} replies")
    return Outcome(replies, {prompt.id: prompt for prompt in benchmark.prompts}, PLAIN)


def blocks(scores: Mapping[str, Scores], outcome: Outcome) -> Iterator[str]:
    """The page."""
    yield "On clean texts, teacher forced:\n\n" + tables.forced(scores)
    for name in (DEFAULT, SCRIPTS):
        yield f"By language, {name}:\n\n" + tables.forced_by_language(scores[name])
    yield "Answers:\n\n" + tables.answers(outcome)
    for name in (DEFAULT, SCRIPTS):
        yield f"How many times less, {name}:\n\n" + tables.reduction(outcome, name)
    yield "By language:\n\n" + tables.by_language(outcome, (DEFAULT, SCRIPTS))


def main() -> None:
    """Reads the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--train", type=Path, required=True, help="texts the gates learn from")
    parser.add_argument("--points", type=Path, required=True, help="clean texts to measure on, teacher forced")
    parser.add_argument("--prompts", type=Path, required=True, help="prompts to answer, as the demo has them")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--texts", type=int, default=5_000, help="texts to learn from (default: %(default)s)")
    parser.add_argument("--generate", nargs="*", metavar="NAME", help="gates that answer (default: all)")
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    arguments.out.mkdir(parents=True, exist_ok=True)
    files = make_gates(arguments.model, arguments.train, arguments.texts, arguments.out, arguments.threads)
    confidence = {arm.confidence for arm in arms().values()}
    forced = read(arguments.model, arguments.points, confidence, arguments.threads)
    log(f"{len(forced.text)} positions; something unwanted could be sampled at {int(forced.unwanted.any(1).sum())}")
    scores = {name: score(forced, Gate.load(files[name]), arm.options, arm.confidence) for name, arm in arms().items()}
    (arguments.out / "forced.md").write_text(tables.forced(scores) + "\n", "utf-8")
    print(tables.forced(scores))
    methods = [Method(PLAIN)]
    for name, arm in arms().items():
        if arguments.generate is None or name in (*arguments.generate, DEFAULT, SCRIPTS):
            methods.append(Method(name, arm.options, str(files[name])))
    outcome = generate(arguments.model, arguments.prompts, methods, arguments.out)
    text = "\n\n".join(blocks(scores, outcome))
    (arguments.out / "tables.md").write_text(text + "\n", encoding="utf-8")
    print(text)


if __name__ == "__main__":
    main()
