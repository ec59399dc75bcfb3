"""PyTorch checkpoint -> gate file. Only the gate's few tensors are read, however large the checkpoint is."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from ..engine.base_model import BaseModel
from ..errors import GateError
from ..gate.families import RULES, family_set
from ..gate.gate_file import write_gate
from ..gate.spec import GateSpec, spec_for
from .gate_checkpoint import read_provenance
from .gate_weights import read_weights
from .pytorch import open_checkpoint


@dataclass(frozen=True)
class Conversion:
    """What was converted into what."""

    path: Path  # the gate file that was written
    spec: GateSpec
    sources: dict[str, str]  # name of each tensor of the gate file -> key of the checkpoint it came from
    untrained: tuple[str, ...]  # keys that were left out because PEFT trained a copy of them


def convert(
    checkpoint: str | os.PathLike[str],
    base: BaseModel,
    output: str | os.PathLike[str],
    *,
    outtype: str = "f16",
    rules: str = "",
    threshold: float | None = None,
    name: str = "",
    version: str = "",
    license: str = "",
) -> Conversion:
    """Converts the gate of a PyTorch checkpoint into a gate file.

    The checkpoint may hold the gate alone or beside the base model's weights, under any prefix and wrapper. One that
    holds `code_switch_head` and no `code_switch_pre` is a linear gate. What it says of how the gate was made, as one of
    `lcg-cpp train --hf` does, goes into the gate file.

    Args:
        checkpoint: A `.safetensors`, `.pt`, `.pth`, `.bin` or `.ckpt` file, the `.index.json` of a sharded one, or a
            folder with either.
        base: The model the gate was trained for.
        output: The gate file to write.
        outtype: Type of the gate's matrices: `f32`, `f16`, `bf16` or `q8_0`.
        rules: Rule set the gate was trained with; empty: what the checkpoint says, else `paper`, with which the
            method's reference trains.
        threshold: Probability from which every family counts as predicted; None: what the checkpoint says, else 0.5.
        name: Name of the gate; empty: what the checkpoint says.
        version: Version of the gate; empty: what the checkpoint says.
        license: SPDX expression of the gate's licence; empty: what the checkpoint says.

    Returns:
        What was written.

    Raises:
        GateError: The checkpoint is damaged, holds no gate or more than one, or its gate does not fit `base` or was
            trained with other rules; or PyTorch is needed and is missing or too old.
        OSError: A file cannot be read or written.
    """
    opened = open_checkpoint(Path(checkpoint))
    made = read_provenance(opened.path, opened.metadata())
    wanted = (rules,) if rules else RULES
    if made.rules and made.rules not in wanted:
        raise GateError(f"{opened.path}: was trained with the rules `{made.rules}`, expected {' or '.join(wanted)}")
    rules = rules or made.rules or "paper"
    weights = read_weights(opened, base.n_embd, len(family_set(rules, base.vocab)))
    spec = spec_for(
        base,
        n_hidden=weights.n_hidden,
        rules=rules,
        threshold=0.5 if threshold is None else threshold,
        own_thresholds=made.own_thresholds if threshold is None else (),
        first_thresholds=made.first_thresholds if threshold is None else (),
        allow_thresholds=made.allow_thresholds if threshold is None else (),
        name=name or made.name,
        version=version or made.version,
        license=license or made.license,
        datasets=made.datasets,
        train=made.train,
    )
    write_gate(output, spec, weights.tensors, outtype)
    return Conversion(Path(output), spec, weights.sources, weights.untrained)
