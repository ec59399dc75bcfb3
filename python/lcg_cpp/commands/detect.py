"""`lcg-cpp detect`: which tokens a gate would remove of those that are known to be wrong or right."""

from __future__ import annotations

import argparse
import json
import math
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from ..detect.detect import Detection, DetectOptions, Progress, detect, usable_prompts
from ..detect.places import OWN
from ..detect.scores import THRESHOLDS, Cell, FamilyScore, Rate, Score, Share, as_dict, score
from ..detect.words import SPLICED
from ..engine.model import quiet_log
from ..errors import GateError
from ..files import write_whole
from ..gate.gate import Gate
from ..gate.steps import MAX_TOP_K, Sampling
from ..measure.judge import unknown_languages
from . import options
from .errors import EXIT_INTERRUPTED, UsageError, one_line
from .loading import gate_path, load_base, load_gate, read_benchmark
from .output import print_facts, print_heading, print_json, print_table
from .paths import check_output, require_file
from .progress import StatusLines, ask_to_stop, duration, tell

if TYPE_CHECKING:
    from ..benchmarks import Benchmark

_SHOWN = (0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95)  # thresholds in the table
_WIDTH = 78
_LEGEND = (
    "with 95 % intervals over the replies. In reach: the model could have chosen the family anyway; elsewhere the"
    " gate's answer changes no reply."
)

_EPILOG = """\
detect evaluates replies that are known to be right, and asks at known places:
if the sampler were about to choose this token, would the gate remove it? It
asks only about the first token of a wrong word, because a script that has begun
stays allowed. A token is in reach where the sampler could have chosen one of
its family anyway. Replies are drawn at random, so a run that you stop with
Ctrl-C has measured a sample, too.
"""


# ---- options ----


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add this command's arguments."""
    default = DetectOptions()
    parser.epilog = _EPILOG
    options.add_model(parser)
    options.add(parser, "--lcg", required=True)
    options.add(parser, "--any-model")
    options.add(parser, "--benchmark")
    options.add(parser, "--output", metavar="FILE.json", help="write all of it as JSON")
    options.add(parser, "--limit", default.n_texts, help="replies to use, drawn at random")
    options.add(parser, "--seed", default.seed, help="seed of what is drawn and spliced in")
    options.add_reach(parser, default.sampling, MAX_TOP_K)
    options.add_teacher(parser, default.n_ctx)
    group = parser.add_argument_group("gate (as `run` has them)")
    options.add(group, "--lcg-device")
    options.add_rules(group)
    options.add_json(parser)


# ---- running ----


def run(args: argparse.Namespace) -> int:
    """Run the command."""
    args.lcg = gate_path(args.lcg, args.model)
    settings = DetectOptions(
        Sampling(args.temp, args.top_k, args.top_p),
        gate_options=options.gate_options(args),
        gate_check=options.gate_check(args),
        n_texts=args.limit,
        n_ctx=args.ctx_size,
        seed=args.seed,
    )
    require_file(args.model, "-m/--model")
    if args.output is not None:
        sources = (args.model, args.lcg, args.benchmark)
        check_output(args.output, "-o/--output", sources, "the model, the gate or the prompts")
    gate = load_gate(args.lcg, "--lcg", args.lcg_device)
    benchmark = read_benchmark(args.benchmark, usable_prompts)
    for code in unknown_languages(benchmark.prompts):
        tell(f"`language` is `{code}`, which is unknown: its references' letters count; expected a code like `ar`")
    _check_gate(args, gate)
    quiet_log()
    with StatusLines() as line, ask_to_stop("what was measured is told", line) as should_stop:
        try:
            detection = detect(
                args.model,
                gate,
                benchmark.prompts,
                settings,
                engine=options.teacher_engine(args),
                should_stop=should_stop,
                on_progress=lambda progress: line.show(status(progress)),
            )
        except GateError as error:
            if not should_stop():
                raise
            print(one_line(str(error)), file=sys.stderr)
            return EXIT_INTERRUPTED
    found = score(detection)
    told = {"benchmark": benchmark.name, **as_dict(detection, found)}
    if args.output is not None:
        write_whole(args.output, (json.dumps(told, ensure_ascii=False, indent=2, allow_nan=False) + "\n").encode())
    if args.json:
        print_json(told)
    else:
        _print(detection, found, benchmark)
        if args.output is not None:
            print(f"wrote {args.output}")
    return 0 if detection.finished else EXIT_INTERRUPTED


def _check_gate(args: argparse.Namespace, gate: Gate) -> None:
    base = load_base(args.model, "-m/--model")
    try:
        gate.check_model(base, options.gate_check(args))
    except GateError as error:
        raise UsageError(f"--lcg: {error}") from error


def status(progress: Progress) -> str:
    """How far it is, how fast and how long it takes."""
    left = progress.seconds / progress.texts * (progress.total - progress.texts)
    rate = progress.tokens / max(progress.seconds, 1e-9)
    return f"{progress.texts:,} of {progress.total:,} replies  {rate:,.0f} tokens/s  {duration(left)} left"


# ---- what is printed ----


def _print(detection: Detection, found: Score, benchmark: Benchmark) -> None:
    state = "" if detection.finished else " (stopped)"
    false_alarms = 1000 * found.own_removed / found.own_tokens
    names = f"{Path(detection.gate.path).name} for {Path(detection.base.path).name}"
    print_heading(f"{names}, on {benchmark.name}{state}")
    print_facts(
        [
            (
                "replies",
                f"{detection.n_texts:,} of {detection.n_given:,} with a reference, {detection.tokens:,} tokens",
            ),
            *((f"left out: {n:,}", why) for why, n in detection.skipped.most_common()),
            (
                "false alarms",
                f"{found.own_removed:,} of the replies' own {found.own_tokens:,} tokens: {false_alarms:.1f} of 1,000",
            ),
        ]
    )
    print()
    print_table(("token", ">asked", ">removed %", ">in reach", ">removed %"), list(_rows(found.every)))
    print(textwrap.fill(_LEGEND, _WIDTH))
    print()
    print_heading("By script")
    print_table(
        ("wrong", ">asked", ">removed %", ">in reach", ">removed %", ">own removed"),
        [(name, *_cells(family.wrong), _counts(family)) for name, family in found.families.items()],
    )
    kept = {why: n for why, n in found.every.kept_because.items() if n}
    if kept:
        print()
        print_heading("Why wrong tokens would stay")
        print_facts([(f"{n:,}", why) for why, n in kept.items()])
    print()
    print_heading("Precision %, with as many wrong tokens as right ones")
    print_facts(
        [("the replies' own", _rate(found.every.precision_own)), ("spliced in", _rate(found.every.precision_spliced))]
    )
    print()
    _print_thresholds(found.every)


def _counts(family: FamilyScore) -> str:
    own = family.own.asked
    return f"{own.removed:,} of {own.n:,}" if own.n else "-"


def _rows(found: FamilyScore) -> Iterator[tuple[str, ...]]:
    yield ("wrong", *_cells(found.wrong))
    for place, cell in found.places.items():
        yield (f"  {place}", *_cells(cell))
    for title, whole, kinds in (("own", found.own, OWN), ("spliced in", found.spliced, SPLICED)):
        if whole.asked.n:
            yield (title, *_cells(whole))
            cells = {kind: found.kinds[kind] for kind in kinds if kind in found.kinds}
            for kind, cell in cells.items():
                yield (f"  {kind}", *_cells(cell))


def _cells(cell: Cell) -> tuple[str, ...]:
    return f"{cell.asked.n:,}", _share(cell.asked), f"{cell.in_reach.n:,}", _share(cell.in_reach)


def _share(share: Share) -> str:
    return _rate(Rate(share.percent, share.low, share.high))


def _rate(rate: Rate) -> str:
    return f"{rate.value:.1f} ({rate.low:.1f}–{rate.high:.1f})" if math.isfinite(rate.value) else "-"


def _print_thresholds(found: FamilyScore) -> None:
    """Which shares other thresholds give."""
    print_heading("Removed % at other thresholds")
    rows = [
        (f"{threshold:g}", *(f"{share:.1f}" if math.isfinite(share) else "-" for share in shares))
        for threshold, shares in zip(THRESHOLDS, found.thresholds)
        if threshold in _SHOWN
    ]
    print_table(("threshold", ">wrong", ">own", ">spliced in"), rows)
