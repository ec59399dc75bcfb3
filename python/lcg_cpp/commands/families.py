"""`lcg-cpp families`: which script family the tokens of a model belong to."""

from __future__ import annotations

import argparse

from ..gate.families import RULES, FamilyReport, family_report
from . import options
from .loading import load_base
from .output import print_heading, print_json, print_table

_MAX_EXAMPLE = 16  # characters


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add this command's arguments."""
    options.add_model(parser)
    parser.add_argument(
        "--rules",
        choices=RULES,
        default=RULES[0],
        help="default: added tokens count as symbols, and pieces of a character as its letters where these are sure;"
        " paper: as published; scripts: a family for each script",
    )
    options.add_json(parser)


def run(args: argparse.Namespace) -> int:
    """Run the command."""
    base = load_base(args.model, "-m/--model")
    report = family_report(base.vocab, args.rules)
    if args.json:
        print_json(
            {
                "n_vocab": report.n_vocab,
                "rules": report.families.rules,
                "counts": report.counts,
                "examples": report.examples,
                "fragments": {
                    "count": report.n_fragments,
                    "share": report.fragment_share,
                    "counts": report.fragment_counts,
                },
            }
        )
    else:
        print_heading(f"{base.name} ({base.architecture}): {report.n_vocab:,} tokens, rules {report.families.rules}")
        print_table(
            ("family", ">tokens", ">share", ">fragments", "examples"), [_row(report, name) for name in report.counts]
        )
        print(
            f"{report.n_fragments:,} tokens ({report.fragment_share:.2%}) are fragments: "
            "their bytes begin or end inside a character"
        )
    return 0


def _row(report: FamilyReport, name: str) -> tuple[str, ...]:
    return (
        name,
        f"{report.counts[name]:,}",
        f"{report.counts[name] / max(report.n_vocab, 1):.1%}",
        f"{report.fragment_counts[name]:,}",
        " ".join(_visible(text) for text in report.examples[name]),
    )


def _visible(text: str) -> str:
    shown = text.strip() or repr(text)
    return shown if len(shown) <= _MAX_EXAMPLE else shown[:_MAX_EXAMPLE] + "…"
