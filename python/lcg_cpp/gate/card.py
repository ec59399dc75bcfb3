"""Publishing a gate: its folder, its model card, its line in the index."""

from __future__ import annotations

import hashlib
import json
import re
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ..errors import GateError
from ..files import PathLike, replacing, write_whole
from .find import PublishedGate, read_index, write_index
from .gate import Gate
from .gate_file import gate_file_name

_TRAIN = "adapter.lcg.train."
_OF_FAMILY = (".precision", ".recall")
_NAME = re.compile(r"[A-Za-z0-9][\w.-]*")
_TYPES = {0: "f32", 1: "f16", 7: "q8_0", 32: "bf16"}  # llama.cpp's numbers of file types
_UNITS = {"_percent": " %"}
_NOT_OF_GATE = ("tokens_per_second", "length_tokens", "truncated_percent")  # of the machine and the settings


def publish_gate(
    gate_file: PathLike,
    folder: PathLike,
    *,
    name: str,
    base_model: str,
    license: str = "",
    summary: Mapping[str, Any] | None = None,
    notes: str = "",
) -> PublishedGate:
    """Put a gate into a folder of gates, with a model card, as a hub takes it; a gate of the same name is replaced.

    Args:
        gate_file: The gate; it must have the fingerprint of its model.
        folder: Where `NAME/` and `index.json` are written.
        name: Of the gate's folder: letters, digits, dots and dashes.
        base_model: The base model as hubs call it, `ORGANIZATION/NAME`.
        license: SPDX expression, in small letters as hubs have it; empty takes the gate file's.
        summary: What `lcg-cpp eval` measured (summary.json), for the card.
        notes: Markdown for the end of the card: limits, what else was measured.

    Raises:
        GateError: The gate has no fingerprint or no license, or a name cannot be used.
        OSError: A file cannot be read or written.
    """
    gate = Gate.load(gate_file)
    license = license or str(gate.metadata.get("general.license", ""))
    if not _NAME.fullmatch(name):
        raise GateError(f"`name` is {name!r}, expected letters, digits, dots and dashes")
    if base_model.count("/") != 1 or not all(map(_NAME.fullmatch, base_model.split("/"))):
        raise GateError(f"`base_model` is {base_model!r}, expected ORGANIZATION/NAME")
    if not gate.fingerprint:
        raise GateError(f"{gate.path}: has no fingerprint, nobody could find it; make it again with `lcg-cpp train`")
    if not license:
        raise GateError(f"{gate.path}: has no license, expected one (--license)")
    outtype = _TYPES.get(int(str(gate.metadata.get("general.file_type", 1))), "f16")
    file_name = gate_file_name(base_model.partition("/")[2], outtype, str(gate.metadata.get("general.version", "")))
    own = Path(folder) / name
    own.mkdir(parents=True, exist_ok=True)
    for old in own.glob("lcg-*.gguf"):
        if old.name != file_name:
            old.unlink()
    with replacing(own / file_name) as temporary:
        shutil.copyfile(gate.path, temporary)
    published = PublishedGate(
        name=name,
        file=f"{name}/{file_name}",
        sha256=hashlib.sha256((own / file_name).read_bytes()).hexdigest(),
        base_model=base_model,
        architecture=gate.architecture,
        fingerprint=gate.fingerprint,
        license=license,
    )
    write_whole(own / "README.md", model_card(gate, published, summary, notes).encode())
    others = [other for other in read_index(Path(folder)) if other.name != name]
    write_index(Path(folder), [*others, published])
    return published


def model_card(gate: Gate, published: PublishedGate, summary: Mapping[str, Any] | None = None, notes: str = "") -> str:
    """The card of a gate, in the format of model hubs: metadata in YAML, then Markdown."""
    front = {
        "license": published.license,
        "base_model": published.base_model,
        "base_model_relation": "adapter",
        "library_name": "lcg-cpp",
        "tags": ["language-confusion", "lcg", "llama.cpp", "gguf"],
    }
    lines = ["---", *(f"{key}: {json.dumps(value, ensure_ascii=False)}" for key, value in front.items()), "---", ""]
    lines += [
        f"# Language Confusion Gate for {published.base_model.partition('/')[2]}",
        "",
        f"A Language Confusion Gate (arXiv 2510.17555) for {published.base_model}, in any quantization: it keeps"
        " replies in the right script, and lets the model switch where that is right. The model itself is not changed.",
        "",
        "```python",
        "from lcg_cpp import GatedLlama",
        "",
        f'llm = GatedLlama("MODEL.gguf", gate="{Path(published.file).name}")  # or gate="auto"',
        "```",
        "",
        "## The gate",
        "",
        *_table(("", ""), _facts(gate, published)),
    ]
    if held_out := _held_out(gate):
        told = "Its predictions on texts that it did not learn from, by family, %:"
        lines += ["", told, "", *_table(("family", "precision", "recall"), held_out)]
    if summary is not None:
        lines += ["", "## Measured", "", *_measured(summary)]
    if notes:
        lines += ["", notes.strip()]
    return "\n".join(lines) + "\n"


def _table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    head = ["| " + " | ".join(heads) + " |", "|" + "---|" * len(heads)]
    return [*head, *("| " + " | ".join(row) + " |" for row in rows)]


def _training(gate: Gate) -> dict[str, Any]:
    """How the gate was made, as training tells it."""
    return {key[len(_TRAIN) :]: value for key, value in gate.metadata.items() if key.startswith(_TRAIN)}


def _held_out(gate: Gate) -> list[tuple[str, ...]]:
    """Each family with its precision and recall, where the held-out texts have it."""
    made = _training(gate)
    found = {name: [made.get(f"held_out.{name}{ending}") for ending in _OF_FAMILY] for name in gate.families.names}
    return [
        (name, *("" if share is None else f"{100 * share:.1f}" for share in shares))
        for name, shares in found.items()
        if any(share is not None for share in shares)
    ]


def _facts(gate: Gate, published: PublishedGate) -> list[tuple[str, str]]:
    names = zip(gate.families.names, gate.families.maskable)
    made = {key: value for key, value in _training(gate).items() if not key.endswith(_OF_FAMILY)}
    datasets = [value for key, value in gate.metadata.items() if re.fullmatch(r"general\.dataset\.\d+\.name", key)]
    return [
        ("layers", f"{gate.n_embd} → {gate.n_hidden or 'none'} → {len(gate.families)}"),
        ("families that it may remove", ", ".join(name for name, may in names if may)),
        ("trained on", ", ".join(map(str, datasets)) or "not told"),
        *((re.sub("[_.]", " ", key), f"{v:g}" if isinstance(v, float) else str(v)) for key, v in made.items()),
        ("fingerprint of the base model", f"`{published.fingerprint}`"),
        ("SHA-256 of the file", f"`{published.sha256}`"),
    ]


def _measured(summary: Mapping[str, Any]) -> list[str]:
    methods: Mapping[str, Mapping[str, Any]] = summary["methods"]
    metrics = [
        name
        for name in next(iter(methods.values()))
        if name not in _NOT_OF_GATE
        and all(isinstance(found.get(name), dict) and "low" in found[name] for found in methods.values())
    ]
    rows = [[_title(name), *(_cell(found[name]) for found in methods.values())] for name in metrics]
    asked = f"{summary['prompts']:,} prompts of {summary['benchmark']}, {summary['seeds']} replies to each"
    sampling = ", ".join(f"{name} {value:g}" for name, value in summary["settings"]["sampling"].items())
    told = f"{asked}; {sampling}; {Path(summary['model']).name}. In brackets 95 % intervals."
    return [told, "", *_table(["", *methods], rows)]


def _title(metric: str) -> str:
    for ending, unit in _UNITS.items():
        if metric.endswith(ending):
            return metric[: -len(ending)].replace("_", " ") + unit
    return metric.replace("_", " ")


def _cell(estimate: Mapping[str, float]) -> str:
    return f"{estimate['value']:.2f} ({estimate['low']:.2f}–{estimate['high']:.2f})"
