"""`lcg-cpp demo`: the embedded model, without and with its gate: an evaluation of the demo's prompts, in memory."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypedDict

from ..demo import GATES, MODEL
from ..gate.options import PAPER_OPTIONS, GateOptions
from . import options
from .loading import quiet_engine
from .output import print_json

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from ..benchmarks import Prompt
    from ..measure.answer import Reply
    from ..run.llama import GatedLlama

OPTIONS = {"default": GateOptions(), "paper": PAPER_OPTIONS}
METRICS = ("cj_percent", "latin_percent", "switches_kept_percent", "exact_match_percent", "tokens_per_second")
PLAIN, GATED = "plain", "gated"


class DemoResult(TypedDict):
    """The closing table: the metrics of both methods, and how often the gate intervened in how many steps."""

    prompts: int
    plain: dict[str, float]
    gated: dict[str, float]
    interventions: int
    steps: int


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add this command's arguments."""
    parser.add_argument("--prompts", metavar="N", type=options.whole(1), help="how many prompts (default: all)")
    parser.add_argument(
        "--gate",
        choices=tuple(GATES),
        default="default",
        help="default: what we measured to work best; paper: the published width, labels and rules",
    )
    parser.add_argument(
        "--show", metavar="N", type=options.whole(0), default=8, help="replies to show side by side (default: 8)"
    )
    parser.add_argument(
        "--seed", metavar="N", type=options.whole(0, 10**6), default=0, help="of the random choices (default: 0)"
    )
    options.add_json(parser)


def run(args: argparse.Namespace) -> int:
    """Run the command."""
    from ..benchmarks import load_benchmark  # noqa: PLC0415 (so that --help need not wait for it)
    from .demo_printer import Printer  # noqa: PLC0415

    printer = Printer(quiet=args.json)
    prompts = load_benchmark("demo").prompts[: args.prompts]
    with quiet_engine():
        llm = load_demo_model()
        replies = answer(llm, prompts, GATES[args.gate], OPTIONS[args.gate], args.seed, printer.follow)
        llm.close()
    result = measure(replies, {prompt.id: prompt for prompt in prompts})
    if args.json:
        print_json(result)
    else:
        printer.examples(prompts, replies, args.show)
        printer.result(result)
    return 0


def load_demo_model(model: Path = MODEL) -> GatedLlama:
    """Load the demo model, or one like it; one thread, since it is too small to share."""
    from ..run.llama import GatedLlama  # noqa: PLC0415

    return GatedLlama(str(model), n_ctx=256, n_threads=1, n_threads_batch=1, verbose=False)


def answer(
    llm: GatedLlama,
    prompts: Sequence[Prompt],
    gate: Path,
    gate_options: GateOptions,
    seed: int = 0,
    follow: Any = lambda replies, total: replies,
) -> list[Reply]:
    """Answer the demo's prompts without and with a gate, in turn, so that a busy machine slows both alike.

    `follow` gets the replies as they come and their number, and gives them back.
    """
    from ..evaluate.evaluate import EvalOptions  # noqa: PLC0415
    from ..evaluate.methods import Method  # noqa: PLC0415
    from ..evaluate.replies import Replier  # noqa: PLC0415
    from ..gate.gate import Gate  # noqa: PLC0415

    methods = (Method(PLAIN), Method(GATED, gate_options, str(gate)))
    replier = Replier(llm, methods, {str(gate): Gate.load(gate)}, EvalOptions().sampling())
    return list(follow(replier.replies(prompts, methods, seed), len(methods) * len(prompts)))


def measure(replies: Sequence[Reply], prompts: Mapping[str, Prompt]) -> DemoResult:
    """What the closing table says."""
    from ..measure.metrics import values  # noqa: PLC0415

    found = values(replies, prompts, extras=False)
    gated = [reply for reply in replies if reply["method"] == GATED]
    return DemoResult(
        prompts=len(gated),
        plain=_table(found[PLAIN]),
        gated=_table(found[GATED]),
        interventions=sum(len(reply["events"]) for reply in gated),
        steps=sum(len(reply["tokens"]) + (reply["finish"] == "stop") for reply in gated),  # the one that ends it, too
    )


def _table(found: Mapping[str, float]) -> dict[str, float]:
    """The metrics, rounded; where no switch was requested none was lost."""
    return {metric: round(found.get(metric, 100.0), 1 if metric == "tokens_per_second" else 2) for metric in METRICS}
