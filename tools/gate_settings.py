"""Finds which settings make the best gate: trains one for every combination and measures it, teacher forced and free.

    python tools/gate_settings.py --model MODEL.gguf --train TRAIN.jsonl --points POINTS.jsonl \\
        --prompts PROMPTS.jsonl --out DIR

Needs the extra `train`. Trains every combination of norm, hidden width and labels with three seeds on the states of the
same texts; `Point` says what is counted. The best five and the paper's settings then answer the prompts. DIR keeps
finished work: start again to continue a run that was stopped.
"""

from __future__ import annotations

import argparse
import dataclasses
import itertools
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from demo.measure import answer
from demo.prompts import DemoPrompt
from lcg_cpp.data import Encoder, open_dataset
from lcg_cpp.engine.model import read_base_model
from lcg_cpp.engine.output_norms import label_norms, read_output_matrix
from lcg_cpp.engine.teacher import Teacher
from lcg_cpp.gate.decisions import DecodingRules, FamilyTable
from lcg_cpp.gate.families import DEFAULT_FAMILIES, token_families
from lcg_cpp.gate.gate_file import write_gate
from lcg_cpp.gate.labels import family_labels
from lcg_cpp.gate.options import PAPER_OPTIONS, GateOptions
from lcg_cpp.gate.spec import spec_for
from lcg_cpp.gate.steps import Steps
from lcg_cpp.gate.walk import ForcedText, Walk
from lcg_cpp.train.learner import Learner
from lcg_cpp.train.options import TrainOptions
from timed_log import log

NORMS = ("none", "token", "relative")
WIDTHS = (0, 4, 16, 64, None)
LABELS = ((20, 0.95, False), (5, 0.9, False), (3, 0.7, False), (1, 1.0, False), (20, 0.95, True))
SEEDS = (0, 1, 2)
MOST_BANNED = 0.01  # a gate that bans more of the legitimate switches than this is no gate
N_BEST = 5

Labels = tuple[int, float, bool]


@dataclass(frozen=True)
class Setting:
    """One way to make a gate."""

    norm: str
    n_hidden: int | None
    labels: Labels

    @property
    def name(self) -> str:
        """Short name, for tables and files."""
        top_k, top_p, soft = self.labels
        width = "full" if self.n_hidden is None else str(self.n_hidden)
        return f"{self.norm}-{width}-{top_k}-{top_p:g}{'-soft' if soft else ''}"

    def options(self, seed: int) -> TrainOptions:
        """As `lcg-cpp train` takes it."""
        top_k, top_p, soft = self.labels
        return TrainOptions(
            norm=self.norm, n_hidden=self.n_hidden, top_k=top_k, top_p=top_p, soft=soft, positions="reply", seed=seed
        )


PAPER = Setting("token", None, (20, 0.95, False))
UNADJUSTED = Setting("none", None, (20, 0.95, False))
DEFAULT = Setting(TrainOptions().norm, TrainOptions().n_hidden, (TrainOptions().top_k, TrainOptions().top_p, False))
GRID = [Setting(*values) for values in itertools.product(NORMS, WIDTHS, LABELS)]


@dataclass(frozen=True, eq=False)
class Rows:
    """Positions that predict a token of a reply.

    Attributes:
        hidden: float32 (n, n_embd).
        labels: Norm and labels -> float32 (n, n_families); only of training texts.
        steps: The most probable tokens.
        last: int64 (n,), family of the newest language token of the reply.
        following: int64 (n,), family of the text's own next token.
    """

    hidden: npt.NDArray[np.float32]
    labels: dict[tuple[str, Labels], npt.NDArray[np.float32]]
    steps: Steps
    last: npt.NDArray[np.int64]
    following: npt.NDArray[np.int64]


def evaluate(model: Path, data: Path, n_rows: int, with_labels: bool, n_threads: int) -> Rows:
    """Runs texts through the base model."""
    matrix = read_output_matrix(model)
    norms = {norm: label_norms(matrix.norms, norm) for norm in NORMS}
    dataset = open_dataset(str(data))
    hidden, steps, last, following = [], [], [], []
    labels: dict[tuple[str, Labels], list[npt.NDArray[np.float32]]] = {}
    with Teacher(model, n_ctx=512, n_threads=n_threads) as teacher:
        encoder = Encoder(teacher.tokenize, teacher.base, teacher.n_ctx)
        families = token_families(teacher.base.vocab)
        table = FamilyTable.of(spec_for(teacher.base, n_hidden=0))
        walk = Walk(teacher, table, lambda: False)
        encoded = (encoder.encode(dataset[i]) for i in range(len(dataset)))
        for text in encoded:
            if text is None or n_rows <= 0:
                continue
            for found in walk.rows([ForcedText.of(text.tokens, text.is_reply)]):
                n_rows -= len(found.last)
                hidden.append(found.hidden.copy())
                steps.append(Steps.of(found.logits))
                last.append(found.last)
                following.append(table.token_family[found.following])
                for (norm, divisor), chosen in itertools.product(norms.items() if with_labels else (), LABELS):
                    top_k, top_p, soft = chosen
                    label = family_labels(
                        found.logits, divisor, families, top_k, top_p, soft=soft, softcap=matrix.softcap
                    )
                    labels.setdefault((norm, chosen), []).append(label)
    return Rows(
        np.concatenate(hidden),
        {key: np.concatenate(parts) for key, parts in labels.items()},
        Steps.join(steps),
        np.concatenate(last),
        np.concatenate(following),
    )


def train(rows: Rows, setting: Setting, seed: int) -> Learner:
    """Trains a gate on states that are all there, otherwise as `lcg-cpp train` does."""
    options = setting.options(seed)
    learner = Learner(len(DEFAULT_FAMILIES), options, rows.hidden[:16_384])
    labels = rows.labels[setting.norm, setting.labels]
    passes = options.passes_for(len(labels))
    n_steps = passes * -(-len(labels) // options.batch)
    for number in range(passes):
        order = np.random.default_rng([seed, number]).permutation(len(labels))
        for begin in range(0, len(order), options.batch):
            part = order[begin : begin + options.batch]
            learner.update(rows.hidden[part], labels[part], learner.step / n_steps)
    return learner


@dataclass(frozen=True, eq=False)
class Point:
    """What is counted, teacher forced on clean text.

    Attributes:
        confused: bool (n,): what may be sampled holds a maskable family that is neither the text's own nor the one of
            the reply's newest language token (which the rules never ban). Repaired: no such token is left.
        switch: bool (n,): the text's own next token is of a maskable family, and not of the newest one. Wrongly
            banned: the gate bans that family.
        wrong: bool (n, n_families), the families that make a position confused.
    """

    confused: npt.NDArray[np.bool_]
    switch: npt.NDArray[np.bool_]
    wrong: npt.NDArray[np.bool_]


def find_points(rows: Rows, table: FamilyTable) -> Point:
    """Finds the positions where a gate has something to do, or something to leave alone."""
    n_families = len(table.maskable)
    present = table.held(rows.steps, rows.steps.survivors())
    other = table.maskable & (np.arange(n_families) != rows.following[:, None])
    other &= np.arange(n_families) != rows.last[:, None]
    wrong = present & other
    maskable = table.maskable[rows.following]
    return Point(wrong.any(1), maskable & (rows.following != rows.last), wrong)


def score(rows: Rows, points: Point, rules: DecodingRules, z: npt.NDArray[np.float32]) -> dict[str, float]:
    """Shares of confusion points repaired and of legitimate switches wrongly banned."""
    rulings = rules.judge(rows.steps, z, rows.last)
    active = rulings.banned & rulings.intervene[:, None]
    repaired = ~(points.wrong & ~active).any(1)[points.confused]
    banned = active[np.arange(len(z)), rows.following][points.switch]
    return {"repaired": float(repaired.mean()), "wrongly_banned": float(banned.mean())}


def mean_and_spread(values: Sequence[float]) -> tuple[float, float]:
    """Mean, and half the distance between the largest and the smallest."""
    return float(np.mean(values)), (max(values) - min(values)) / 2


def run_grid(rows: Rows, held: Rows, rules: DecodingRules, out: Path) -> dict[str, dict[str, float]]:
    """Trains and measures every setting; what an earlier run finished is read."""
    path = out / "grid.json"
    done: dict[str, dict[str, float]] = json.loads(path.read_text()) if path.exists() else {}
    points = find_points(held, rules.families)
    log(
        f"{len(held.last)} positions: {int(points.confused.sum())} of confusion, {int(points.switch.sum())} of switches"
    )
    for setting, seed in itertools.product(GRID, SEEDS):
        name = f"{setting.name}/{seed}"
        if name in done:
            continue
        learner = train(rows, setting, seed)
        z = learner.predict(held.hidden)
        done[name] = score(held, points, rules, z)
        paper = score(held, points, dataclasses.replace(rules, options=PAPER_OPTIONS), z)
        done[name].update({f"{key}_paper_rules": value for key, value in paper.items()})
        path.write_text(json.dumps(done, indent=1))
        log(f"{name}: {done[name]}")
    return done


def of_setting(grid: dict[str, dict[str, float]], setting: Setting, key: str) -> tuple[float, float]:
    """A setting's value over the seeds."""
    return mean_and_spread([grid[f"{setting.name}/{seed}"][key] for seed in SEEDS])


def best_settings(grid: dict[str, dict[str, float]]) -> list[Setting]:
    """The settings that repair most among those that leave the switches alone; the narrower ones among equals."""

    def usable(setting: Setting) -> bool:
        return of_setting(grid, setting, "wrongly_banned")[0] <= MOST_BANNED

    def rank(setting: Setting) -> tuple[float, float]:
        width = 1 << 16 if setting.n_hidden is None else setting.n_hidden
        return -round(of_setting(grid, setting, "repaired")[0], 3), width

    return sorted(filter(usable, GRID), key=rank)[:N_BEST]


def generate(
    model: Path, setting: Setting | None, options: GateOptions, rows: Rows, prompts: Sequence[DemoPrompt], out: Path
) -> dict[str, Any]:
    """Answers the prompts with a setting's gate (of the first seed), or with none."""
    path = None
    if setting is not None:
        base = read_base_model(model)
        path = out / f"{setting.name}.gguf"
        weights = train(rows, setting, 0).weights()
        write_gate(path, spec_for(base, n_hidden=setting.options(0).hidden_width(base.n_embd)), weights, "f16")
    answered = answer(model, path, options, prompts)
    values: dict[str, Any] = {**answered.values, "interventions": answered.interventions, "steps": answered.steps}
    if path is not None:
        values["file_size"] = path.stat().st_size
        values["gate_microseconds"] = 1e6 * answered.gate_seconds
    return values


def run_generation(
    model: Path, grid: dict[str, dict[str, float]], rows: Rows, prompts: Sequence[DemoPrompt], out: Path
) -> dict[str, dict[str, Any]]:
    """Full generation: plain, the paper's settings with its rules and with ours, the default, the best settings."""
    path = out / "generation.json"
    done: dict[str, dict[str, Any]] = json.loads(path.read_text()) if path.exists() else {}
    arms: dict[str, tuple[Setting | None, GateOptions]] = {
        "plain": (None, GateOptions()),
        f"{UNADJUSTED.name} (paper's rules)": (UNADJUSTED, PAPER_OPTIONS),
        f"{PAPER.name} (paper's rules)": (PAPER, PAPER_OPTIONS),
    }
    for setting in (PAPER, DEFAULT, *best_settings(grid)):
        arms[setting.name] = (setting, GateOptions())
    for name, (setting, options) in arms.items():
        if name not in done:
            done[name] = generate(model, setting, options, rows, prompts, out)
            path.write_text(json.dumps(done, indent=1))
            log(f"{name}: {done[name]}")
    return done


def tables(grid: dict[str, dict[str, float]], generation: dict[str, dict[str, Any]]) -> Iterator[str]:
    """Markdown."""

    def cell(setting: Setting) -> str:
        repaired, spread = of_setting(grid, setting, "repaired")
        banned, _ = of_setting(grid, setting, "wrongly_banned")
        return f"{100 * repaired:.0f} ± {100 * spread:.0f} / {100 * banned:.1f}"

    yield "Confusion points repaired ± half the range over 3 seeds / legitimate switches wrongly banned, in %:\n"
    heads = [f"{top_k} / {top_p:g}{' soft' if soft else ''}" for top_k, top_p, soft in LABELS]
    yield "| norm | width | " + " | ".join(heads) + " |"
    yield "|---|---|" + "---|" * len(LABELS)
    for norm, width in itertools.product(NORMS, WIDTHS):
        cells = [cell(Setting(norm, width, labels)) for labels in LABELS]
        yield f"| {norm} | {'full' if width is None else width} | " + " | ".join(cells) + " |"
    yield "\nFull generation:\n"
    columns = ("cj_percent", "latin_percent", "switches_kept_percent", "exact_match_percent")
    yield "| gate | CJ % | Latin % | switches kept % | exact % | interventions / steps | size | time a run |"
    yield "|---|---|---|---|---|---|---|---|"
    for name, values in generation.items():
        size = f"{values['file_size'] / 1000:.0f} kB" if "file_size" in values else ""
        duration = f"{values['gate_microseconds']:.0f} µs" if "gate_microseconds" in values else ""
        cells = [f"{values[column]:.1f}" for column in columns]
        cells += [f"{values['interventions']} / {values['steps']}", size, duration]
        yield f"| {name} | " + " | ".join(cells) + " |"


def main() -> None:
    """Reads the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--train", type=Path, required=True, help="texts the gates learn from")
    parser.add_argument("--points", type=Path, required=True, help="clean texts to measure on, teacher forced")
    parser.add_argument("--prompts", type=Path, required=True, help="prompts to answer, as the demo has them")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--states", type=int, default=200_000, help="states to learn from (default: %(default)s)")
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    arguments.out.mkdir(parents=True, exist_ok=True)
    rows = evaluate(arguments.model, arguments.train, arguments.states, True, arguments.threads)
    held = evaluate(arguments.model, arguments.points, 1 << 40, False, arguments.threads)
    log(f"{len(rows.last)} states to learn from")
    rules = DecodingRules.of(spec_for(read_base_model(arguments.model), n_hidden=0))
    grid = run_grid(rows, held, rules, arguments.out)
    rows_of_prompts = map(json.loads, arguments.prompts.read_text(encoding="utf-8").splitlines())
    prompts = [DemoPrompt(**row) for row in rows_of_prompts]
    generation = run_generation(arguments.model, grid, rows, prompts, arguments.out)
    text = "\n".join(tables(grid, generation))
    (arguments.out / "tables.md").write_text(text + "\n", encoding="utf-8")
    print(text)


if __name__ == "__main__":
    main()
