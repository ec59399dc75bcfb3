"""`lcg-cpp demo`: the embedded model, without and with its gate."""

from __future__ import annotations

import argparse

from . import options
from .loading import quiet_engine
from .output import print_json


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add this command's arguments."""
    parser.add_argument("--prompts", metavar="N", type=options.whole(1), help="how many prompts (default: all)")
    parser.add_argument(
        "--gate",
        choices=("default", "paper"),
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
    from ..demo.compare import run_demo  # noqa: PLC0415 (so that --help need not wait for it)

    with quiet_engine():
        result = run_demo(prompts=args.prompts, seed=args.seed, gate=args.gate, show=args.show, json=args.json)
    if args.json:
        print_json(result)
    return 0
