"""`lcg-cpp bench`: what the gate costs on this machine."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING

from ..bench import BenchOptions, BenchResult, Side, run_bench
from ..gate.options import GateOptions
from . import options
from .loading import gate_path, load_gate, load_model, quiet_engine, read_benchmark
from .output import print_facts, print_json, print_table

if TYPE_CHECKING:
    from ..benchmarks import Prompt


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add this command's arguments."""
    options.add_model(parser)
    options.add(parser, "--lcg", required=True)
    options.add(parser, "--n-predict", BenchOptions.n_tokens, help="tokens to generate in each run")
    for names, default, what in (
        (("--n-prompt",), BenchOptions.n_prompt, "tokens of the prompt whose evaluation is timed"),
        (("-r", "--repetitions"), BenchOptions.n_pairs, "runs of each kind"),
    ):
        parser.add_argument(
            *names, metavar="N", type=options.whole(1), default=default, help=f"{what} (default: {default})"
        )
    what = "prompts to answer, each pair of runs another: cldr, everyday, … or a .jsonl file (default: random tokens)"
    parser.add_argument("-d", "--benchmark", metavar="BENCH", type=options.path, help=what)
    options.add(parser, "--threads")
    options.add(parser, "--n-gpu-layers")
    options.add(parser, "--seed", BenchOptions.seed, help="seed of prompts and random choices")
    options.add(parser, "--json")


def run(args: argparse.Namespace) -> int:
    """Run the command."""
    args.lcg = gate_path(args.lcg, args.model)
    prompts: Sequence[Prompt] = ()
    if args.benchmark is not None:
        prompts = read_benchmark(args.benchmark, lambda prompts: None, args.repetitions).prompts
    bench_options = BenchOptions(
        n_tokens=args.n_predict,
        n_prompt=args.n_prompt,
        n_pairs=args.repetitions,
        prompts=prompts,
        n_threads=args.threads,
        n_gpu_layers=BenchOptions.n_gpu_layers if args.n_gpu_layers is None else args.n_gpu_layers,
        seed=args.seed,
    )
    gate = load_gate(args.lcg, "--lcg")
    load_model(args.model, gate, GateOptions(), {}).close()  # what does not fit is told before long work
    terminal = sys.stderr
    with quiet_engine():
        result = run_bench(args.model, args.lcg, bench_options, lambda line: print(line, file=terminal, flush=True))
    if args.json:
        print_json(asdict(result))
    else:
        _print_result(result)
    return 0


def _print_result(result: BenchResult) -> None:
    sides = {"stock": result.stock, "gated": result.gated, "gated, every step": result.gated_forced}
    print_table(
        ("", ">tokens/s", ">sampling µs/token", ">gate runs", ">interventions", ">memory MB"),
        [_row(name, side) for name, side in sides.items()],
    )
    print()
    low, high = result.middle_half
    print_facts(
        [
            ("gated / stock", f"{result.ratio:.3f}, of the middle half of the pairs {low:.3f} to {high:.3f}"),
            ("gated, every step / stock", f"{result.forced_ratio:.3f}"),
            ("prompt, gated / stock", f"{result.prompt_eval_ratio:.3f}"),
            ("the same with first_token", f"{result.prompt_eval_ratio_first_token:.3f}"),
            ("one run of the gate", f"{result.gate_us:.1f} µs"),
        ]
    )
    print("  medians of paired runs; above 1 the gated model is the faster one")


def _row(name: str, side: Side) -> tuple[str, ...]:
    return (
        name,
        f"{side.tokens_per_second:.2f}",
        f"{side.sampling_us_per_token:.0f}",
        f"{side.gate_run_share:.1%}",
        f"{side.intervention_share:.1%}",
        "?" if side.rss_mb is None else f"{side.rss_mb:.0f}",
    )
