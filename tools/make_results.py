"""Measures the demo model and its gates, and writes the tables of docs/results.md.

    python tools/make_results.py --work DIR

Needs the extras `train`, `data` and `eval`. The script replaces what stands between `<!-- results: NAME -->` and
`<!-- end -->`; the rest of the document is written by hand. DIR keeps finished work: start again to continue a run that
was stopped. The whole takes about an hour in one quiet thread.
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Mapping
from pathlib import Path

import torch

from lcg_cpp.files import write_whole
from results import agreement, tables
from results.experiments import PAIRS, experiments
from results.generate import Outcome, make_gates, run
from timed_log import log

DOCUMENT = Path(__file__).resolve().parents[1] / "docs" / "results.md"
_BLOCK = re.compile(r"(?P<begin><!-- results: (?P<name>[\w -]+) -->\n).*?(?P<end><!-- end -->)", re.DOTALL)


def blocks(outcomes: Mapping[str, Outcome], gates: Mapping[str, Path], work: Path) -> dict[str, str]:
    """What goes between the marks, by name."""
    found = {
        "reduction": tables.reduction(outcomes["bars"], "lcg"),
        "quality": tables.quality(outcomes["bars"], "lcg"),
        "changes": tables.changes(outcomes["methods"], PAIRS),
        "remaining": tables.remaining(outcomes["bars"], "lcg"),
        "languages": tables.by_language([outcomes["bars"], outcomes["other"]], "lcg"),
        "temperature": tables.side_by_side(
            {
                name.replace("temperature ", ""): outcome
                for name, outcome in outcomes.items()
                if name.startswith("temperature ")
            },
            "T",
        ),
        "long": tables.side_by_side(
            {"9 to 12 names": outcomes["long"], "behind an answered list": outcomes["context"]}, "prompts"
        ),
        "quantized": tables.same_replies(outcomes["quantized"], "f32") + "\n\n" + agreement.decisions(gates, work),
        "detector": agreement.detector(gates),
    }
    for name in ("methods", "threshold", "width", "labels", "seeds"):
        found[name] = tables.methods(outcomes[name], {"methods": "method", "seeds": "gate"}.get(name, name))
    return found


def fill(text: str, found: Mapping[str, str]) -> str:
    """The document with its tables replaced; a mark that no table has, or a table that no mark has, is an error."""
    names = [match["name"] for match in _BLOCK.finditer(text)]
    if sorted(names) != sorted(found):
        raise RuntimeError(f"the document has the tables {sorted(names)}, expected {sorted(found)}")
    return _BLOCK.sub(lambda match: match["begin"] + "\n" + found[match["name"]] + "\n\n" + match["end"], text)


def main() -> None:
    """Reads the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True, help="folder for gates and replies, kept")
    parser.add_argument("--only", nargs="+", metavar="NAME", help="generate the replies of these experiments, no more")
    parser.add_argument("--threads", type=int, default=1, help="for training (default: 1)")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    arguments.work.mkdir(parents=True, exist_ok=True)
    gates = make_gates(arguments.work, arguments.threads)
    wanted = experiments(gates)
    outcomes = {name: run(name, wanted[name], arguments.work) for name in arguments.only or wanted}
    if not arguments.only:
        text = fill(DOCUMENT.read_text(encoding="utf-8"), blocks(outcomes, gates, arguments.work))
        write_whole(DOCUMENT, text.encode())
        log(f"wrote {DOCUMENT}")


if __name__ == "__main__":
    main()
