"""PyTorch checkpoint -> gate file. Only the gate's few tensors are read, however large the checkpoint is."""

from __future__ import annotations

import difflib
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from ..engine.base_model import BaseModel
from ..errors import GateError
from ..gate.families import RULES, family_set
from ..gate.gate_file import GateSpec, spec_for, write_gate
from .gate_checkpoint import CHECKPOINT_KEYS, read_provenance
from .pytorch import Checkpoint, open_checkpoint


@dataclass(frozen=True)
class Conversion:
    """What was converted into what.

    Attributes:
        path: The gate file that was written.
        spec: Its specification.
        sources: Name of each tensor of the gate file -> key of the checkpoint it came from.
    """

    path: Path
    spec: GateSpec
    sources: dict[str, str]


def convert(
    checkpoint: str | os.PathLike[str],
    base: BaseModel,
    output: str | os.PathLike[str],
    *,
    outtype: str = "f16",
    rules: str = "",
    threshold: float = 0.5,
    name: str = "",
    version: str = "",
    license: str = "",
) -> Conversion:
    """Converts the gate of a PyTorch checkpoint into a gate file.

    The checkpoint may hold the gate alone or beside the base model's weights, under any prefix. One that holds
    `code_switch_head` and no `code_switch_pre` is a linear gate. What it says of how the gate was made, as one of
    `lcg-cpp train --hf` does, goes into the gate file.

    Args:
        checkpoint: A `.safetensors`, `.pt`, `.pth` or `.bin` file, the `.index.json` of a sharded one, or a folder with
            either.
        base: The model the gate was trained for.
        output: The gate file to write.
        outtype: Type of the gate's matrices: `f32`, `f16`, `bf16` or `q8_0`.
        rules: Rule set the gate was trained with, `default` or `paper`; empty: what the checkpoint says, else
            `default`.
        threshold: Probability from which a family counts as predicted.
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
    rules = rules or made.rules or RULES[0]
    weights, sources = read_weights(opened, base.n_embd, len(family_set(rules, base.vocab)))
    spec = spec_for(
        base,
        n_hidden=weights["lcg.fc1.weight"].shape[0] if "lcg.fc1.weight" in weights else 0,
        rules=rules,
        threshold=threshold,
        name=name or made.name,
        version=version or made.version,
        license=license or made.license,
        datasets=made.datasets,
        train=made.train,
    )
    write_gate(output, spec, weights, outtype)
    return Conversion(Path(output), spec, sources)


def read_weights(
    opened: Checkpoint, n_embd: int, n_families: int
) -> tuple[dict[str, npt.NDArray[np.float32]], dict[str, str]]:
    """Reads the gate's tensors, and no others, from a checkpoint.

    Args:
        opened: The checkpoint.
        n_embd: Width of the base model's hidden state.
        n_families: Number of the gate's outputs.

    Returns:
        The tensors as `write_gate` wants them, and for each the key it was found under.

    Raises:
        GateError: It holds no gate or more than one, or its gate has other shapes.
        OSError: The file cannot be read.
    """
    sources = _find_keys(opened)
    _check_shapes(opened, sources, n_embd, n_families)
    weights: dict[str, npt.NDArray[np.float32]] = {}
    for name, key in sources.items():
        weights[name] = tensor = opened.read(key)
        bad = ~np.isfinite(tensor)
        if bad.any():
            at = [int(i) for i in np.argwhere(bad)[0]]
            raise GateError(f"{opened.path}: tensor `{key}` holds {tensor[tuple(at)]} at {at}, expected finite numbers")
    return weights, sources


def _find_keys(checkpoint: Checkpoint) -> dict[str, str]:
    """Name in the gate file -> key in the checkpoint, in the order of CHECKPOINT_KEYS."""
    keys = checkpoint.names()
    found: dict[str, str] = {}
    for short, name in CHECKPOINT_KEYS.items():
        matches = [key for key in keys if key == short or key.endswith("." + short)]
        if len(matches) > 1:
            raise GateError(f"{checkpoint.path}: several tensors `{short}` ({', '.join(matches[:5])}), expected one")
        if matches:
            found[name] = matches[0]
    # a misspelt first layer must not turn the gate into a linear one without a word
    strange = [key for key in keys if "code_switch" in key and key not in found.values()]
    if strange:
        raise GateError(f"{checkpoint.path}: unknown key `{strange[0]}`, expected {', '.join(CHECKPOINT_KEYS)}")
    if "lcg.fc2.weight" not in found or ("lcg.fc1.bias" in found and "lcg.fc1.weight" not in found):
        missing = "code_switch_pre.weight" if "lcg.fc2.weight" in found else "code_switch_head.weight"
        raise GateError(f"{checkpoint.path}: no tensor `{missing}`, {_nearest(missing, keys)}")
    return found


def _nearest(wanted: str, keys: list[str]) -> str:
    if not keys:
        return "the checkpoint is empty"
    by_end = {".".join(key.split(".")[-2:]): key for key in keys}
    nearest = [by_end[end] for end in difflib.get_close_matches(wanted, by_end, n=5, cutoff=0.0)]
    return f"the nearest of its {len(keys)} keys are {', '.join(f'`{key}`' for key in nearest)}"


def _check_shapes(checkpoint: Checkpoint, sources: Mapping[str, str], n_embd: int, n_families: int) -> None:
    shapes = {name: checkpoint.shape(key) for name, key in sources.items()}
    n_in = n_embd
    wanted: dict[str, tuple[int, ...]] = {}
    if "lcg.fc1.weight" in shapes:
        fc1, fc2 = shapes["lcg.fc1.weight"], shapes["lcg.fc2.weight"]
        # the hidden width is free: whichever matrix is the right way round tells it, or else a transposed fc1
        if len(fc1) == 2 and fc1[1] == n_embd:
            n_in = fc1[0]
        elif len(fc2) == 2 and fc2[0] == n_families:
            n_in = fc2[1]
        elif len(fc1) == 2 and fc1[0] == n_embd:
            n_in = fc1[1]
        wanted["lcg.fc1.weight"] = (n_in, n_embd)
        wanted["lcg.fc1.bias"] = (n_in,)
    wanted["lcg.fc2.weight"] = (n_families, n_in)
    wanted["lcg.fc2.bias"] = (n_families,)
    for name, shape in shapes.items():
        if shape != wanted[name] or 0 in shape:
            hint = "; it looks transposed" if shape == wanted[name][::-1] else ""
            raise GateError(
                f"{checkpoint.path}: tensor `{sources[name]}` has shape {shape}, expected {wanted[name]} "
                f"for a base model with n_embd {n_embd} and {n_families} families{hint}"
            )
