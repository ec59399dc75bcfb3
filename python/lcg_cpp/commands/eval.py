"""`lcg-cpp eval`: how much a model confuses languages, what a gate removes, what it costs and what it takes away."""

from __future__ import annotations

import argparse
import dataclasses
import shutil
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..benchmarks import Benchmark
from ..errors import GateError
from ..evaluate.evaluate import EvalOptions, Evaluation, Progress, evaluate
from ..evaluate.folder import PAGE, REPLIES, SUMMARY, read_settings
from ..evaluate.methods import METHODS, WARNING, Method, parse_methods
from ..evaluate.replies import needed_context
from ..files import write_whole
from ..gate.options import GateOptions
from ..measure.judge import check_prompts, unknown_languages
from ..measure.metrics import KIND_METRICS
from ..measure.unwanted import title_of
from . import options
from .errors import EXIT_INTERRUPTED, UsageError
from .loading import gate_path, load_gate, load_model, read_benchmark
from .output import print_heading, print_json, print_table
from .paths import require_file
from .progress import StatusLines, ask_to_stop, duration, tell

if TYPE_CHECKING:
    from ..gate.gate import Gate

_LEAST_CONTEXT = 512
_SIGNIFICANT = 0.05
_COLUMNS = {
    "unwanted_percent": "unwanted %",
    "cj_percent": "CJ %",
    "latin_percent": "Latin %",
    "switches_kept_percent": "switches kept %",
    "exact_match_percent": "exact match %",
    "accuracy_percent": "accuracy %",
    "chrf": "chrF++",
    "line_pass_percent": "line pass %",
    "intervention_percent": "interventions %",
    "tokens_per_second": "tokens/s",
    "empty_percent": "empty %",
    "wrong_script_percent": "in another script %",
    "truncated_percent": "cut off %",
}
_SELDOM = ("empty_percent", "truncated_percent", "wrong_script_percent")  # shown where there are any

_EPILOG = f"""\
LIST holds methods, separated by commas: {", ".join(METHODS)};
  NAME=GATE.gguf for another gate; options follow a +: early=lcg+first_token=off, hot=none+temperature=1.2,
  pin=none+allow=latin/hangul, …;
  all: every built-in one. The default is none, and lcg if --lcg names a gate.

Start the same command again to continue an evaluation that was stopped, or to add methods, seeds and prompts. Replies
in the folder are not generated again.
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add this command's arguments."""
    default = EvalOptions()
    parser.epilog = _EPILOG
    options.add_model(parser)
    options.add(parser, "--lcg")
    options.add(parser, "--any-model")
    options.add(parser, "--benchmark")
    parser.add_argument("--methods", metavar="LIST", help="methods to compare, see below")
    options.add(parser, "--output", metavar="DIR", required=True, help="folder for the results")
    parser.add_argument(
        "--seeds", metavar="N", type=options.whole(1), default=1, help="replies of each method to a prompt (default: 1)"
    )
    options.add(parser, "--limit", help="prompts to ask (default: all)")
    options.add(parser, "--n-predict", help="tokens of a reply at most (default: the prompt's)")
    parser.add_argument(
        "--no-thinking",
        dest="thinking",
        action="store_false",
        help="ask the chat template to switch the model's thinking off (enable_thinking)",
    )
    parser.add_argument("--no-page", dest="page", action="store_false", help=f"write no {PAGE}")
    options.add_json(parser)
    sampling = parser.add_argument_group("sampling (defaults are those of the paper)")
    for option, name in options.SAMPLING.items():
        options.add(sampling, option, getattr(default, name))
    options.add_pin(parser.add_argument_group("pin and phases (of every method that has none of its own)"))
    model = parser.add_argument_group("model")
    options.add(model, "--ctx-size", help="tokens of context (default: fitted to the prompts)")
    for option in ("--parallel", "--threads", "--n-gpu-layers", "--batch-size", "--lcg-device"):
        options.add(model, option)


def run(args: argparse.Namespace) -> int:
    """Run the command."""
    args.lcg = gate_path(args.lcg, args.model)
    settings = EvalOptions(
        n_seeds=args.seeds,
        max_tokens=args.n_predict,
        temperature=args.temp,
        top_k=args.top_k,
        top_p=args.top_p,
        min_p=args.min_p,
        thinking=args.thinking,
    )
    methods = _methods(args)
    folder = Path(args.output)
    if folder.exists() and not folder.is_dir():
        raise UsageError(f"-o/--output: {folder}: is a file, expected a folder")
    require_file(args.model, "-m/--model")
    gates = _gates(args, methods)
    benchmark = read_benchmark(args.benchmark, check_prompts, args.limit)
    for code in unknown_languages(benchmark.prompts):
        tell(f"`language` is `{code}`, which is unknown: no letter is wrong in its replies; expected a code like `ar`")
    if args.ctx_size is None:
        args.ctx_size = _context(folder, benchmark, settings)
    llm = load_model(args.model, None, GateOptions(), options.llama_arguments(args))
    if "tokenizer.chat_template" not in llm.metadata and any(prompt.chat for prompt in benchmark.prompts):
        tell("the model has no chat template: it continues each prompt from a new line")
    with StatusLines() as line, ask_to_stop("what is there is measured", line) as should_stop:
        evaluation = evaluate(
            llm,
            benchmark,
            methods,
            folder,
            settings,
            gates=gates,
            parallel=args.parallel,
            should_stop=should_stop,
            on_progress=lambda progress: line.show(status(progress)),
        )
        line.clear()
        if evaluation.replies:
            _report(args, folder, benchmark, evaluation)
        else:
            tell("stopped before the first reply: nothing was measured")
    return 0 if evaluation.finished else EXIT_INTERRUPTED


def _methods(args: argparse.Namespace) -> tuple[Method, ...]:
    text = args.methods or ("none" if args.lcg is None else "none,lcg")
    try:
        methods = parse_methods(text, args.lcg)
    except GateError as error:
        raise UsageError(f"--methods: {error}") from error
    given = {
        "allow": args.allow_scripts or (),
        "deny": args.deny_scripts or (),
        "while_thinking": args.while_thinking,
        "leave_alone": args.leave_alone or (),
    }
    return tuple(
        dataclasses.replace(method, **{field: getattr(method, field) or value for field, value in given.items()})
        for method in methods
    )


def _gates(args: argparse.Namespace, methods: Sequence[Method]) -> dict[str, Gate]:
    paths = {method.gate for method in methods if method.gate is not None}
    if args.lcg is not None and args.lcg not in paths:
        raise UsageError(
            f"--lcg: {args.lcg}: no method uses the gate, expected --methods with lcg, gate-only or lcg-soft"
        )
    return {
        path: load_gate(path, "--lcg" if path == args.lcg else "--methods", args.lcg_device) for path in sorted(paths)
    }


def _context(folder: Path, benchmark: Benchmark, settings: EvalOptions) -> int:
    """Tokens of context: as for the replies in the folder; else room for every prompt, a token a byte at most.

    A power of two, and with room for the warning: so it seldom changes when prompts or methods are added.
    """
    found = read_settings(folder).get("engine", {}).get("n_ctx")
    if found is not None:
        return int(found)
    wanted = needed_context(benchmark.prompts, settings.max_tokens) + len(WARNING.encode())
    return max(_LEAST_CONTEXT, 1 << (wanted - 1).bit_length())


def status(progress: Progress) -> str:
    """How far it is, how fast and how long it takes."""
    left = progress.seconds / progress.new * (progress.total - progress.done)
    rate = progress.tokens / max(progress.seconds, 1e-9)
    return f"{progress.done:,} of {progress.total:,} replies  {rate:,.1f} tokens/s  {duration(left)} left"


# ---- the results ----


def _report(args: argparse.Namespace, folder: Path, benchmark: Benchmark, evaluation: Evaluation) -> None:
    from ..evaluate.summary import write_summary  # noqa: PLC0415 (the extra `eval`)

    summary = write_summary(folder, evaluation, benchmark, model=args.model, gate=args.lcg)
    written = [REPLIES, SUMMARY]
    if args.page:
        from ..pages.reply_page import benchmark_label, reply_page  # noqa: PLC0415 (large)

        title = f"{Path(args.model).name} on {benchmark_label(benchmark.name)}"
        prompts = {prompt.id: prompt for prompt in benchmark.prompts}
        page = reply_page(evaluation.replies, summary, evaluation.families, title=title, prompts=prompts)
        write_whole(folder / PAGE, page.encode())
        written.append(PAGE)
    if args.json:
        print_json(summary)
        return
    seeds = f", {summary['seeds']} seeds" if summary["seeds"] > 1 else ""
    state = "" if evaluation.finished else " (stopped; start it again to go on)"
    print_heading(f"{benchmark.name}: {summary['prompts']:,} prompts{seeds}{state}")
    for columns, rows in tables(summary, shutil.get_terminal_size((80, 24)).columns):
        print_table(columns, rows)
    if "compared_with_none" in summary:
        print("with 95 % intervals; * differs from none (paired bootstrap, p < 0.05 after Holm's correction)")
    print("wrote " + ", ".join(str(folder / name) for name in written))


def tables(summary: Mapping[str, Any], width: int) -> Iterator[tuple[list[str], list[list[str]]]]:
    """The main metrics in summary.json, as headings and rows of tables that are no wider than `width` characters."""
    methods = summary["methods"]
    columns = []
    for metric, title in _COLUMNS.items():
        estimates = [metrics[metric] for metrics in methods.values() if metric in metrics]
        if estimates and (metric not in _SELDOM or any(estimate["value"] for estimate in estimates)):
            columns.append([">" + title, *(_cell(summary, method, metric) for method in methods)])
    yield from _fitted(["method", *methods], columns, width)
    found = {metric for metrics in methods.values() for metric in metrics}
    kinds = {metric: title_of(kind) for metric, kind in KIND_METRICS.items() if metric in found}
    if kinds:
        columns = [[f">{method}", *(_cell(summary, method, metric) for metric in kinds)] for method in methods]
        yield from _fitted(["unwanted, % of replies", *kinds.values()], columns, width)


def _fitted(first: list[str], columns: list[list[str]], width: int) -> Iterator[tuple[list[str], list[list[str]]]]:
    """Tables of some columns behind a first one, each no wider than `width` characters if that can be."""
    first = [name.ljust(max(map(len, first))) for name in first]
    shown: list[list[str]] = []
    used = len(first[0]) + 2
    for cells in columns:
        wide = max(map(len, cells)) + 2
        if shown and used + wide > width:
            yield _table(first, shown)
            shown, used = [], len(first[0]) + 2
        shown.append(cells)
        used += wide
    yield _table(first, shown)


def _table(first: list[str], columns: list[list[str]]) -> tuple[list[str], list[list[str]]]:
    lines = [list(line) for line in zip(first, *columns)]
    return lines[0], lines[1:]


def _cell(summary: Mapping[str, Any], method: str, metric: str) -> str:
    estimate = summary["methods"][method].get(metric)
    if estimate is None:
        return "- "
    difference = summary.get("compared_with_none", {}).get(method, {}).get(metric)
    mark = "*" if difference is not None and difference["p_adjusted"] < _SIGNIFICANT else " "
    return f"{estimate['value']:.1f} ({estimate['low']:.1f}–{estimate['high']:.1f}){mark}"
