"""`lcg-cpp analyze`: whether and where a model confuses scripts, and what training labels make of it."""

from __future__ import annotations

import argparse
import textwrap

from ..analyze.analyze import Analysis, analyze, as_dict
from ..analyze.page import analysis_page
from ..analyze.report import conclusion, norms_section, position_blocks, texts_sections
from ..analyze.texts import AnalyzeOptions, TextReport
from ..engine.model import quiet_log
from ..files import write_whole
from ..gate.steps import MAX_TOP_K, Sampling
from ..pages.report import Facts, Section, Table, new_figure
from . import options
from .errors import EXIT_INTERRUPTED
from .loading import load_base
from .output import print_facts, print_heading, print_json, print_table
from .paths import check_output, require_file
from .progress import StatusLines, ask_to_stop

_CONTEXT = 60  # characters of the text before a position
_WIDTH = 110


# ---- options ----


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add this command's arguments."""
    default = AnalyzeOptions()
    options.add_model(parser)
    options.add(
        parser,
        "--data",
        default=[],
        help="clean texts to follow with the model: a .jsonl or .parquet file, a folder of them, or hf:NAME; may be"
        " repeated; without any, only the output norms are measured",
    )
    options.add(parser, "--output", metavar="PAGE.html", help="write all of it as a page with plots")
    options.add(parser, "--rules")
    for option, value, kind, what in (
        ("--tokens", default.n_tokens, options.whole(1), "tokens of the texts to evaluate"),
        ("--worst", default.n_worst, options.whole(0, 100), "positions to show in full"),
    ):
        parser.add_argument(option, metavar="N", type=kind, default=value, help=f"{what} (default: {value})")
    options.add(parser, "--seed", default.seed, help="seed of the order of the texts")
    options.add_reach(parser, default.sampling, MAX_TOP_K)
    options.add_teacher(parser, default.n_ctx)
    options.add_json(parser)


# ---- running ----


def run(args: argparse.Namespace) -> int:
    """Run the command."""
    settings = AnalyzeOptions(
        Sampling(args.temp, args.top_k, args.top_p),
        rules=args.rules,
        n_ctx=args.ctx_size,
        n_tokens=args.tokens,
        n_worst=args.worst,
        seed=args.seed,
    )
    _check_output(args)
    quiet_log()
    load_base(args.model, "-m/--model")  # what is wrong with it is told as of this option
    with StatusLines() as line, ask_to_stop("what was measured is told", line) as should_stop:
        analysis = analyze(
            args.model,
            args.data,
            settings,
            engine=options.teacher_engine(args),
            should_stop=should_stop,
            on_progress=lambda report: line.show(_status(report, settings.n_tokens)),
        )
    if args.output is not None:
        write_whole(args.output, analysis_page(analysis).encode())
    if args.json:
        print_json(as_dict(analysis))
    else:
        _print(analysis)
        if args.output is not None:
            print(f"wrote {args.output}")
    return 0 if analysis.texts is None or analysis.texts.finished else EXIT_INTERRUPTED


def _check_output(args: argparse.Namespace) -> None:
    """Find out before long work whether the page can be written."""
    require_file(args.model, "-m/--model")
    if args.output is None:
        return
    new_figure()
    check_output(args.output, "-o/--output", (args.model, *args.data), "the model or the texts")


def _status(report: TextReport, n_tokens: int) -> str:
    done = min(report.tokens / n_tokens, 1.0)
    left = report.seconds * (1 - done) / done
    return (
        f"{done:4.0%}  {report.tokens:,} tokens  {report.tokens / max(report.seconds, 1e-9):,.0f} tokens/s"
        f"  {report.tally.confused.sum():,} confusion points  {left:,.0f} s left at most"
    )


# ---- what is printed ----


def _print(analysis: Analysis) -> None:
    base, report = analysis.base, analysis.texts
    print_heading(f"{base.name} ({base.architecture}): {base.vocab.n_vocab:,} tokens, rules {analysis.options.rules}")
    for section in (norms_section(analysis), *texts_sections(analysis)):
        _print_section(section)
    if report is None:
        print("\nwith -d TEXTS it also measures where the model leaves the script of a text")
        return
    for number, position in enumerate(report.worst, 1):
        blocks = position_blocks(position, base.vocab, analysis.families.names, n_context=_CONTEXT)
        _print_section(Section(f"Worst position {number} of {len(report.worst)}", blocks))
    if not report.finished:
        print(f"\nstopped after {report.tokens:,} tokens: all of this is about those")
    print(f"\n{conclusion(report.tally)}")


def _print_section(section: Section) -> None:
    print()
    print_heading(section.heading)
    for block in section.blocks:
        if isinstance(block, str):
            print(textwrap.fill(block, _WIDTH, initial_indent="  ", subsequent_indent="  "))
        elif isinstance(block, Facts):
            print_facts(block.rows)
        elif isinstance(block, Table):
            if block.caption:
                print(f"  {block.caption}")
            print_table(block.columns, block.rows)
