"""`lcg-cpp analyze`: whether and where a model confuses scripts, and what training labels make of it."""

from __future__ import annotations

import argparse
import textwrap

from ..analyze.analyze import Analysis, analyze, as_dict
from ..analyze.page import analysis_page
from ..analyze.report import conclusion, norms_section, position_blocks, texts_sections
from ..analyze.texts import AnalyzeOptions, TextReport
from ..engine.load import Engine
from ..files import write_whole
from ..gate.families import RULES
from ..gate.forced import N_BEST, Sampling
from ..pages.report import Facts, Section, Table, new_figure
from . import options
from .errors import EXIT_INTERRUPTED
from .loading import check_output, load_base, quiet_log, require_file
from .output import print_facts, print_heading, print_json, print_table
from .progress import ask_to_stop, status_line

_CONTEXT = 60  # characters of the text before a position
_WIDTH = 110


# ---- options ----


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add this command's arguments."""
    default, engine = AnalyzeOptions(), Engine()
    options.add_model(parser)
    parser.add_argument(
        "-d",
        "--data",
        metavar="TEXTS",
        action="append",
        default=[],
        help="clean texts to follow with the model: a .jsonl or .parquet file, a folder of them, or hf:NAME; may be"
        " repeated; without any, only the output norms are measured",
    )
    parser.add_argument("-o", "--output", metavar="PAGE.html", help="write all of it as a page with plots")
    parser.add_argument(
        "--rules", choices=RULES, default=default.rules, help="rule set of the token families (default: %(default)s)"
    )
    measured = (
        (("--tokens",), "n_tokens", options.whole(1), default.n_tokens, "tokens of the texts to evaluate"),
        (("--worst",), "n_worst", options.whole(0, 100), default.n_worst, "positions to show in full"),
        (("--seed",), "seed", options.whole(0), default.seed, "seed of the order of the texts"),
    )
    sampling = (
        (("--temp",), "temperature", options.real(0.01), default.sampling.temperature, "temperature"),
        (("--top-k",), "top_k", options.whole(1, N_BEST), default.sampling.top_k, "keep the N most probable tokens"),
        (("--top-p",), "top_p", options.real(0.01, 1), default.sampling.top_p, "and only until they sum up to this"),
    )
    model = (
        (("-c", "--ctx-size"), "n_ctx", options.whole(2), default.n_ctx, "tokens of a text; longer ones are cut"),
        (("-b", "--batch-size"), "n_batch", options.whole(1), engine.n_batch, "tokens evaluated at once"),
    )
    request = parser.add_argument_group("sampling (what the model could choose from; the paper's by default)")
    loading = parser.add_argument_group("model")
    for group, arguments in ((parser, measured), (request, sampling), (loading, model)):
        for names, field, kind, value, what in arguments:
            metavar = "X" if isinstance(value, float) else "N"
            text = f"{what} (default: {value})"
            group.add_argument(*names, dest=field, metavar=metavar, type=kind, default=value, help=text)
    loading.add_argument(
        "-t", "--threads", metavar="N", type=options.whole(1), default=0, help="CPU threads (default: all)"
    )
    options.add_gpu_layers(loading)
    options.add_json(parser)


# ---- running ----


def run(args: argparse.Namespace) -> int:
    """Run the command."""
    settings = AnalyzeOptions(
        Sampling(args.temperature, args.top_k, args.top_p),
        rules=args.rules,
        n_ctx=args.n_ctx,
        n_tokens=args.n_tokens,
        n_worst=args.n_worst,
        seed=args.seed,
    )
    _check_output(args)
    quiet_log()
    load_base(args.model, "-m/--model")  # what is wrong with it is told as of this option
    engine = Engine(n_batch=args.n_batch, n_threads=args.threads, n_gpu_layers=args.n_gpu_layers or 0)
    with ask_to_stop("what was measured is told") as should_stop, status_line() as show:
        analysis = analyze(
            args.model,
            args.data,
            settings,
            engine=engine,
            should_stop=should_stop,
            on_progress=lambda report: show(_status(report, settings.n_tokens)),
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
