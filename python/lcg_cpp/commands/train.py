"""`lcg-cpp train`: a gate for a model, learned from the model itself."""

from __future__ import annotations

import argparse
import dataclasses
import math
import shlex
from collections.abc import Callable
from typing import TYPE_CHECKING

from ..engine.output_norms import NORMS
from ..errors import GateError
from ..gate.families import RULES
from ..gate.gate_file import OUTTYPES
from ..train.options import BALANCES, LABEL_SCRIPTS, POSITIONS, PRESETS, SCHEDULES, TrainOptions
from ..train.train import require_extra, train
from . import options, train_engine
from .errors import EXIT_INTERRUPTED, UsageError
from .loading import gate_path, load_gate
from .output import print_facts, print_heading, print_json, quantity
from .paths import file_size
from .progress import StatusLines, ask_to_stop, duration

if TYPE_CHECKING:
    from ..engine.load import Engine, HfEngine
    from ..train.heldout import FamilyScore
    from ..train.run import Run
    from ..train.train import Trained


def _width(text: str) -> int:
    try:
        return -1 if text == "full" else options.whole(0, 1 << 16)(text)
    except argparse.ArgumentTypeError as error:
        raise argparse.ArgumentTypeError(f"{error}, or full") from error


_MOST_SHOWN = 4  # families in a line of 80 characters
_LEAST_STEPS = 300  # with fewer, most of a run is the warm-up

# option, field of TrainOptions, metavar, type or choices, help
_SETTINGS: tuple[tuple[str, str, str | None, Callable[[str], object] | tuple[str, ...], str], ...] = (
    ("--hidden", "n_hidden", "N", _width, "width of the hidden layer; 0 is linear, full (default) the model's width"),
    ("--label-top-k", "top_k", "K", options.whole(0), "make labels of the K most likely tokens; 0 is no limit"),
    ("--label-top-p", "top_p", "P", options.real(0, 1), "of these, take the most likely up to this probability"),
    (
        "--label-scripts",
        "label_scripts",
        None,
        LABEL_SCRIPTS,
        "of their scripts, take those that the text itself writes, or all",
    ),
    ("--norm", "norm", None, NORMS, "divide logits by token norms, by norms relative to their mean, or not"),
    ("--window", "window", "N", options.whole(0), "with --rules scripts: tokens around one that tell of Han and kana"),
    ("--positions", "positions", None, POSITIONS, "learn from all tokens, or only from those of replies"),
    ("--batch", "batch", "N", options.whole(1), "hidden states per step of the optimizer"),
    (
        "--passes",
        "passes",
        "N",
        options.whole(1, 100),
        "passes over each hidden state (default: 3, more for few texts)",
    ),
    ("--lr", "learning_rate", "RATE", options.real(0), "learning rate (default: fitted to the model's states)"),
    ("--schedule", "schedule", None, SCHEDULES, "how the learning rate falls"),
    ("--warmup", "warmup", "N", options.whole(0), "steps over which the learning rate rises"),
    ("--weight-decay", "weight_decay", "X", options.real(0), "weight decay"),
    ("--tokens", "n_tokens", "N", options.whole(1, 1 << 50), "tokens to evaluate (default: every text once)"),
    ("--minutes", "minutes", "N", options.real(0), "time of the run: evaluate as many tokens as it allows"),
    ("--balance", "balance", None, BALANCES, "which texts a limited run learns from: each script gets its share"),
    (
        "--held-out",
        "held_out",
        "SHARE",
        options.real(0, 0.9),
        "share of the texts to measure on (default: 0.05, more of few texts)",
    ),
    (
        "--max-missed",
        "max_missed",
        "SHARE",
        options.real(0, 1),
        "fit thresholds: a right family is removed at most so often",
    ),
    ("--rules", "rules", None, RULES, "one family for each script; `default` and `paper` have four"),
    ("--seed", "seed", "N", options.whole(0, 1 << 62), "seed of the whole run"),
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add this command's arguments."""
    train_engine.add_model(parser)
    options.add(
        parser,
        "--data",
        default=[],
        help="texts to learn from: a .jsonl or .parquet file, a folder of them, or hf:NAME; may be repeated, each with"
        " :WEIGHT behind it to have its texts so many times as often",
    )
    parser.add_argument(
        "--keep-states",
        metavar="DIR",
        help="evaluate the model only, and keep what it makes of the texts in a folder; any number of processes may"
        " fill one folder together, and go on with it later",
    )
    parser.add_argument(
        "--states",
        action="append",
        default=[],
        metavar="DIR",
        help="learn from such a folder instead of --data, which takes seconds; may be repeated, and have a :WEIGHT",
    )
    parser.add_argument(
        "--unmeasured",
        action="append",
        default=[],
        metavar="TEXTS",
        type=options.path,
        help="more of --data, or of --states, that no threshold makes room for: none of it is held out to measure on",
    )
    parser.add_argument(
        "--from",
        dest="start",
        metavar="GATE",
        type=options.path,
        help="go on from a gate instead of beginning anew: a gate file of this model or of one that it was fine-tuned"
        " from; auto finds one",
    )
    options.add(
        parser,
        "--output",
        help="the gate to write (default: lcg-<base name>-<TYPE>.gguf, with --hf .safetensors, here)",
    )
    parser.add_argument("--resume", action="store_true", help="continue a run that was stopped")
    parser.add_argument("--outtype", choices=OUTTYPES, help="type of the weights (default: f16, with --hf always f32)")
    parser.add_argument("--name", default="", help="name of the gate (default: LCG for <base name>)")
    parser.add_argument("--license", metavar="SPDX", default="", help="licence of the gate, e.g. apache-2.0")
    _add_settings(parser)
    train_engine.add_engine(parser)
    options.add_json(parser)


def _add_settings(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("settings (the preset gives those you leave out)")
    group.add_argument(
        "--preset",
        choices=tuple(PRESETS),
        default="default",
        help="default: what measured best; paper: what the paper used (default: %(default)s)",
    )
    default = TrainOptions()
    for option, field, metavar, kind, what in _SETTINGS:
        value = getattr(default, field)
        group.add_argument(
            option,
            dest=field,
            metavar=metavar,
            type=str if isinstance(kind, tuple) else kind,
            choices=kind if isinstance(kind, tuple) else None,
            help=what + ("" if value is None else f" (default: {value})"),
        )
    group.add_argument("--soft", action="store_true", help="labels are shares of probability instead of 0 or 1")


def _settings(args: argparse.Namespace) -> TrainOptions:
    fields = [field.name for field in dataclasses.fields(TrainOptions)]
    given = {name: getattr(args, name) for name in fields if getattr(args, name, None) is not None}
    given["n_ctx"] = args.ctx_size
    if args.start:
        gate = load_gate(args.start, "--from")
        given = {"n_hidden": gate.n_hidden, "rules": gate.families.rules, **given}
    if given.get("n_hidden") == -1:
        given["n_hidden"] = None
    if not args.soft:
        given.pop("soft", None)
    try:
        return dataclasses.replace(PRESETS[args.preset], **given)
    except GateError as error:  # its message begins with the field in backticks
        message = str(error).replace("`n_ctx`", "-c/--ctx-size")
        for option, field, *_ in _SETTINGS:
            message = message.replace(f"`{field}`", option)
        raise UsageError(message) from error


def _check_source(args: argparse.Namespace) -> None:
    """Refuse a command without texts, and options that exclude one another."""
    if args.states and (args.keep_states or args.data or args.hf):
        other = "--keep-states" if args.keep_states else "-d/--data" if args.data else "--hf"
        raise UsageError(f"--states: has all that is learned from, expected no {other}")
    if not args.states and not args.data:
        raise UsageError("-d/--data: is missing, expected texts to learn from, or --states with what was kept of some")
    given = {"-o/--output": args.output, "--resume": args.resume, "--from": args.start, "--unmeasured": args.unmeasured}
    if args.keep_states and any(given.values()):
        what = next(option for option, value in given.items() if value)
        raise UsageError(f"--keep-states: writes no gate and always goes on with its folder, expected no {what}")


def _collect(args: argparse.Namespace, settings: TrainOptions, engine: Engine | HfEngine) -> int:
    """Keep states instead of learning."""
    from ..train.collect import Collected, collect  # noqa: PLC0415 (safetensors)

    def status_of(found: Collected) -> str:
        rate = found.tokens / found.seconds if found.seconds else 0.0
        left = duration((found.n_rows - found.kept) * found.seconds / max(found.evaluated, 1))
        return f"{found.kept:,} of {found.n_rows:,} texts  {found.tokens:,} tokens  {rate:,.0f} tokens/s  {left} left"

    progress = StatusLines(at_once=True, opening="reading the texts …")
    with progress as line, ask_to_stop("what was evaluated is kept", line) as should_stop:
        found = collect(
            args.hf or args.model,
            args.data,
            args.keep_states,
            settings,
            engine=engine,
            should_stop=should_stop,
            on_progress=lambda found: line.show(status_of(found), last=found.kept >= found.n_rows),
            on_notice=line.tell,
        )
    if args.json:
        print_json({"path": args.keep_states, **dataclasses.asdict(found)})
    else:
        print_heading(f"{args.keep_states} holds the states of {found.kept:,} of {found.n_rows:,} texts")
        model = shlex.quote(args.model or "MODEL.gguf")
        print(f"try: lcg-cpp train -m {model} --states {shlex.quote(args.keep_states)}")
    return 0 if found.finished else EXIT_INTERRUPTED


def run(args: argparse.Namespace) -> int:
    """Run the command."""
    _check_source(args)
    if args.model:
        args.start = gate_path(args.start, args.model, "--from")
    settings = _settings(args)
    output, engine = train_engine.output_and_engine(args)
    require_extra(hf=args.hf is not None)
    if args.keep_states:
        return _collect(args, settings, engine)
    progress = StatusLines(at_once=True, opening="reading the texts …")
    with progress as line, ask_to_stop("the gate is written as it is", line) as should_stop:
        result = train(
            args.hf or args.model,
            args.data,
            output,
            settings,
            states=args.states,
            unmeasured=args.unmeasured,
            engine=engine,
            outtype=args.outtype or "f16",
            name=args.name,
            license=args.license,
            start=args.start,
            resume=args.resume,
            should_stop=should_stop,
            on_progress=lambda run: line.show(*status(run), last=run.progress >= 1.0),
            on_notice=line.tell,
        )
    _print_result(args, output, result)
    return 0 if result.finished else EXIT_INTERRUPTED


def status(run: Run) -> tuple[str, str]:
    """What is done, how fast and how long it takes; how good the gate is. Each fits into a line of 80 characters."""
    scores = run.measurements[-1].scores
    known = sorted((score.f1, name) for name, score in scores.families.items() if score.positions)
    if len(known) > _MOST_SHOWN:
        f1 = f"mean {sum(value for value, _ in known) / len(known):.2f} least {known[0][0]:.2f} ({known[0][1]})"
    else:
        f1 = " ".join(f"{name} {score.f1:.2f}" for name, score in scores.families.items() if score.positions)
    rate = run.tokens / run.seconds if run.seconds else 0.0
    left = run.seconds * (1 - run.progress) / run.progress if run.progress else float("nan")
    loss = f"{run.losses[-1]:.4f}" if run.losses else "-"
    return (
        f"{run.progress:6.1%}  {run.tokens:,} tokens  {rate:,.0f} tokens/s  loss {loss}  {duration(left)} left",
        f"held out: loss {scores.loss:.3f}  F1 {f1}  acts {scores.intervene:.2%}",
    )


def _threshold(score: FamilyScore) -> str:
    first = f" ({score.first_threshold:.2g} at the start)" if score.first_threshold != score.threshold else ""
    allow = f", allowed from {score.allow_threshold:.2g}" if score.allow_threshold < score.threshold else ""
    return f"{score.threshold:.2g}{first}{allow}"


def _share(value: float) -> str:
    """A share between 0 and 1, "–" where there was nothing to take one of."""
    return "–" if math.isnan(value) else f"{value:.3f}"


def _steps(run: Run) -> str:
    n = run.measurements[-1].step
    few = "" if n >= _LEAST_STEPS else ": too few to learn much; take more texts, or the same more often with --tokens"
    return f"{n:,} steps of the optimizer{few}"


def _print_result(args: argparse.Namespace, output: str, result: Trained) -> None:
    run, scores = result.run, result.run.measurements[-1].scores
    if args.json:
        print_json(
            {
                "path": output,
                "file_size": file_size(output),
                "finished": result.finished,
                "texts": run.texts,
                "skipped_texts": run.skipped,
                "bad_rows": result.bad_rows,
                "tokens": run.tokens,
                "positions": run.positions,
                "seconds": run.seconds,
                "losses": run.losses,
                "held_out": scores.as_dict(),
            }
        )
        return
    state = "" if result.finished else f" after {run.progress:.0%} of the training; --resume goes on with it"
    print_heading(f"wrote {output} ({quantity(file_size(output))}){state}")
    print_facts(
        [
            ("learned from", f"{run.positions:,} states of {run.tokens:,} tokens in {run.texts:,} texts"),
            ("left out", f"{result.bad_rows:,} rows that cannot be read, {run.skipped:,} texts with nothing to learn"),
            ("time", f"{duration(run.seconds)}, {_steps(run)}"),
            *(
                (
                    f"held out, {name}",
                    f"precision {_share(score.precision)}, recall {_share(score.recall)},"
                    f" threshold {_threshold(score)}, {score.positions:,} positions",
                )
                for name, score in scores.families.items()
                if score.positions or len(scores.families) <= _MOST_SHOWN
            ),
            ("would act at", f"{scores.intervene:.2%} of {scores.positions:,} held-out positions"),
            ("against the text", f"{scores.contradict:.2%}"),
        ]
    )
    if args.hf is None:
        print(f"try: lcg-cpp run -m {shlex.quote(args.model)} --lcg {shlex.quote(output)} --highlight -p …")
    else:
        rules = f" --rules {args.rules}" if args.rules else ""
        print(f"try: lcg-cpp convert {shlex.quote(output)}{rules} --base …  (the same model as a GGUF file)")
