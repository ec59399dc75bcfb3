"""What gates say at given positions of texts, without generating."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from demo import corpus
from demo.jsonl import write_rows
from gate_settings import evaluate
from gate_transfer import flips
from lcg_cpp.benchmarks import load_benchmark
from lcg_cpp.demo import GATES, MODEL
from lcg_cpp.detect.detect import DetectOptions, detect_on
from lcg_cpp.detect.scores import Share, score
from lcg_cpp.engine.model import read_base_model
from lcg_cpp.engine.teacher import Teacher
from lcg_cpp.gate.decisions import DecodingRules
from lcg_cpp.gate.gate import Gate
from lcg_cpp.gate.gate_file import OUTTYPES
from lcg_cpp.gate.options import PAPER_OPTIONS, GateOptions
from lcg_cpp.gate.spec import spec_for
from markdown import table

from .experiments import SEED, contaminated_terms

N_TEXTS = 3_000
N_SPLICED_TEXTS = 280


def decisions(gates: Mapping[str, Path], work: Path) -> str:
    """How often a gate decides differently when its matrices are of another type, teacher forced on clean texts."""
    path = work / "points.jsonl"
    examples = corpus.evaluation_examples(contaminated_terms(), N_TEXTS, f"{SEED} results points")
    write_rows(path, ({"prompt": example.prompt, "response": f" {example.reference}"} for example in examples))
    rows = evaluate(MODEL, path, 1 << 40, False, 1)
    rules = DecodingRules.of(spec_for(read_base_model(MODEL), n_hidden=0))
    z = {outtype: Gate.load(gates[f"type {outtype}"]).predict(rows.hidden) for outtype in OUTTYPES}
    exact = rules.judge(rows.steps, z["f32"], rows.last)
    lines = []
    for outtype in OUTTYPES[1:]:
        found = rules.judge(rows.steps, z[outtype], rows.last)
        size = gates[f"type {outtype}"].stat().st_size
        difference = float(np.abs(z[outtype] - z["f32"]).max())
        lines.append([outtype, f"{size / 1000:.0f} kB", f"{difference:.3f}", f"{100 * flips(found, exact):.4f}"])
    heads = ["type", "file", "largest difference of a logit", f"decisions changed, % of {len(rows.last):,} positions"]
    return table(heads, lines)


def detector(gates: Mapping[str, Path]) -> str:
    """How well gates tell wrong tokens from right ones at places where it is known (`lcg-cpp detect`)."""
    benchmark = load_benchmark("demo")
    lines = []
    with Teacher(MODEL, n_ctx=256, n_threads=1) as teacher:
        for name, path, rules in (
            ("default", GATES["default"], GateOptions()),
            ("adjusted, paper's rules", gates["adjusted"], PAPER_OPTIONS),
        ):
            options = DetectOptions(gate_options=rules, n_texts=N_SPLICED_TEXTS, n_ctx=256)
            found = score(detect_on(teacher, Gate.load(path), benchmark.prompts, options))
            for family, of_family in found.families.items():
                cells = [getattr(of_family, kind) for kind in ("wrong", "own", "spliced")]
                shares = [share for found_cell in cells for share in (found_cell.asked, found_cell.in_reach)]
                lines.append([name, family, *map(_share, shares)])
            false = f"{1000 * found.own_removed / found.own_tokens:.2f}"
            lines.append([name, "any", "", "", f"{false} of 1,000 own tokens", "", "", ""])
    kinds = ("wrong", "the reply's own switch", "spliced-in switch")
    heads = [head for kind in kinds for head in (f"{kind}: removed %", "where in reach")]
    return table(["gate", "family", *heads], lines)


def _share(share: Share) -> str:
    return f"{share.percent:.1f} of {share.n:,}" if share.n else "–"
