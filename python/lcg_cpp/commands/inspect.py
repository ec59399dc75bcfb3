"""`lcg-cpp inspect`: everything that a gate file says."""

from __future__ import annotations

import argparse
from collections import Counter
from typing import Any

import numpy as np

from ..gate.gate import Gate
from . import options
from .loading import load_gate
from .output import print_facts, print_heading, print_json, print_table, quantity, short
from .paths import file_size

_TRAIN = "adapter.lcg.train."
_HELD_OUT = ("precision", "recall")  # of each family, where `train` measured them
# What the facts and the table below already say, or what says nothing about this file.
_SHOWN = (
    "general.type",
    "adapter.type",
    "general.architecture",
    "general.name",
    "general.version",
    "general.license",
    "general.file_type",
    "general.base_model.",
    "general.dataset.",
    "adapter.lcg.",
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add this command's arguments."""
    parser.add_argument("file", metavar="FILE", type=options.path, help="a gate file")
    options.add_json(parser)


def run(args: argparse.Namespace) -> int:
    """Run the command."""
    gate = load_gate(args.file, "")
    if args.json:
        print_json(_to_json(gate))
        return 0
    print_heading(f"{args.file}: a gate for {gate.architecture} models ({quantity(file_size(args.file))})")
    print_facts(_facts(gate))
    print()
    scored = _HELD_OUT if any(map(_is_of_family, gate.metadata)) else ()
    print_table(
        (
            "family",
            ">tokens",
            ">share",
            ">threshold",
            ">at the start",
            *([">allowed from"] if gate.thresholds.allow else []),
            "may be masked",
            *(f">held-out {measure}" for measure in scored),
        ),
        [
            (
                family["name"],
                f"{family['n_tokens']:,}",
                f"{family['n_tokens'] / gate.n_vocab:.1%}",
                *(_threshold(family, key) for key in ("threshold", "first_threshold")),
                *([_threshold(family, "allow_threshold")] if gate.thresholds.allow else []),
                "yes" if family["maskable"] else "no (neutral)" if family["neutral"] else "no",
                *(_held_out(gate, family["name"], measure) for measure in scored),
            )
            for family in _families(gate)
        ],
    )
    return 0


def _threshold(family: dict[str, Any], key: str) -> str:
    return f"{short(family[key]):g}" if family["maskable"] and family[key] < 1 else "-"


def _held_out(gate: Gate, family: str, measure: str) -> str:
    """How well the gate knew a family on texts that it did not learn from."""
    value = gate.metadata.get(f"{_TRAIN}held_out.{family}.{measure}")
    return f"{value:.3f}" if isinstance(value, float) else "-"


def _is_of_family(key: str) -> bool:
    """Whether the table of families shows a value."""
    return key.startswith(f"{_TRAIN}held_out.") and key.endswith(_HELD_OUT)


def _families(gate: Gate) -> list[dict[str, Any]]:
    families, at = gate.families, gate.thresholds
    counts = np.bincount(gate.token_families, minlength=len(families)).tolist()
    return [
        {
            "name": name,
            "n_tokens": n,
            "maskable": may,
            "neutral": f == families.neutral,
            "threshold": threshold,
            "first_threshold": first,
            "allow_threshold": allow,
        }
        for f, (name, n, may, threshold, first, allow) in enumerate(
            zip(families.names, counts, families.maskable, at.usual, at.first, at.allow or (1.0,) * len(families))
        )
    ]


def _facts(gate: Gate) -> list[tuple[str, str]]:
    metadata = gate.metadata
    families = gate.families
    widths = [gate.n_embd, *([gate.n_hidden] if gate.n_hidden else []), len(gate.families)]
    facts = [
        ("name", _text(metadata.get("general.name"))),
        ("version", _text(metadata.get("general.version"))),
        ("license", _text(metadata.get("general.license"))),
        *(("base model", source) for source in _sources(metadata, "general.base_model")),
        *(("trained on", source) for source in _sources(metadata, "general.dataset")),
        *(
            (key[len(_TRAIN) :].replace("_", " "), _text(v))
            for key, v in metadata.items()
            if key.startswith(_TRAIN) and not _is_of_family(key)
        ),
        ("layers", " -> ".join(f"{width:,}" for width in widths) + ("" if gate.n_hidden else " (linear)")),
        *((name, f"{kind} {tuple(shape)}") for name, (kind, shape) in gate.tensors.items()),
        ("vocabulary", f"{gate.n_vocab:,} tokens, rules {gate.families.rules}"),
        (
            "exempt tokens",
            f"{len(gate.exempt_tokens)}, which count as {families.names[families.neutral]} while decoding",
        ),
        ("removed with another family", _masked_as_others(gate)),
        ("tokenizer hash", gate.tokenizer_hash),
        ("fingerprint", gate.fingerprint or "none: any model of this shape is taken"),
        ("confidence", " or ".join(f"top-k {k} with top-p {short(p):g}" for k, p in gate.confidence)),
        *((key, _text(value)) for key, value in metadata.items() if not key.startswith(_SHOWN)),
    ]
    return [(name, value) for name, value in facts if value]


def _masked_as_others(gate: Gate) -> str:
    """How many tokens go with a ban on another family than their own."""
    others = Counter(gate.masked_as[gate.masked_as != gate.token_families].tolist())
    return ", ".join(f"{n} as {gate.families.names[f]}" for f, n in sorted(others.items()))


def _sources(metadata: dict[str, object], key: str) -> list[str]:
    """The models or datasets under a key, one text each."""
    texts = []
    for i in range(len(metadata)):
        parts = [_text(metadata.get(f"{key}.{i}.{part}")) for part in ("organization", "name", "version", "repo_url")]
        texts.append(" ".join(part for part in parts if part))
    return [text for text in texts if text]


def _text(value: object) -> str:
    if value is None:
        return ""
    if isinstance(value, float):
        return f"{short(value):g}"
    if isinstance(value, int) and not isinstance(value, bool):
        return f"{value:,}"
    return str(value)


def _to_json(gate: Gate) -> dict[str, Any]:
    return {
        "path": gate.path,
        "file_size": file_size(gate.path),
        "architecture": gate.architecture,
        "n_embd": gate.n_embd,
        "n_hidden": gate.n_hidden,
        "n_vocab": gate.n_vocab,
        "families": _families(gate),
        "confidence": [{"top_k": k, "top_p": p} for k, p in gate.confidence],
        "rules": gate.families.rules,
        "exempt_tokens": list(gate.exempt_tokens),
        "tokenizer_hash": gate.tokenizer_hash,
        "fingerprint": gate.fingerprint,
        "tensors": {name: {"type": kind, "shape": list(shape)} for name, (kind, shape) in gate.tensors.items()},
        "metadata": gate.metadata,
    }
