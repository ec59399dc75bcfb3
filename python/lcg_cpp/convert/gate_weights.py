"""Which tensors of a checkpoint are the gate's, and their values.

A key is the path of modules to a tensor. What trainers put into it is seen through: wrappers (torch.compile,
DataParallel, FSDP), the state of optimizers, and the two copies that PEFT keeps of a module it trains.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ..errors import GateError
from .gate_checkpoint import CHECKPOINT_KEYS
from .pytorch import Checkpoint

_WRAPPERS = {"_orig_mod", "module", "_fsdp_wrapped_module", "_checkpoint_wrapped_module", "_forward_module"}
_OPTIMIZER = re.compile(r"optim|optimizers?(_.*)?|(max_)?exp_avg.*|momentum.*")
_UNTRAINED, _TRAINED = "original_module", "modules_to_save"  # PEFT's copies of a module


@dataclass(frozen=True)
class GateWeights:
    """A gate's tensors."""

    tensors: dict[str, npt.NDArray[np.float32]]  # as `write_gate` wants them
    sources: dict[str, str]  # name of each -> key of the checkpoint
    untrained: tuple[str, ...]  # keys that were left out because PEFT trained a copy of them

    @property
    def n_hidden(self) -> int:
        """Width of the hidden layer; 0 for a linear gate."""
        return self.tensors["lcg.fc1.weight"].shape[0] if "lcg.fc1.weight" in self.tensors else 0


def read_weights(opened: Checkpoint, n_embd: int, n_families: int) -> GateWeights:
    """Read the gate's tensors, and no others, from a checkpoint; other shapes than the model's are refused."""
    sources, untrained = _find_keys(opened)
    _check_shapes(opened, sources, n_embd, n_families)
    tensors: dict[str, npt.NDArray[np.float32]] = {}
    for name, key in sources.items():
        tensors[name] = tensor = opened.read(key)
        bad = ~np.isfinite(tensor)
        if bad.any():
            at = [int(i) for i in np.argwhere(bad)[0]]
            raise GateError(f"{opened.path}: tensor `{key}` holds {tensor[tuple(at)]} at {at}, expected finite numbers")
    return GateWeights(tensors, sources, untrained)


def _find_keys(checkpoint: Checkpoint) -> tuple[dict[str, str], tuple[str, ...]]:
    """Name in the gate file -> key in the checkpoint, in the order of CHECKPOINT_KEYS; and PEFT's untrained copies."""
    keys = checkpoint.names()
    of_gate = {key: _parts(key) for key in keys if "code_switch" in key and not _is_moment(key)}
    untrained = tuple(key for key, parts in of_gate.items() if _UNTRAINED in parts)
    found: dict[str, str] = {}
    for short, name in CHECKPOINT_KEYS.items():
        matches = [key for key, parts in of_gate.items() if _ends_in(parts, *short.split("."))]
        if len(matches) > 1:
            raise GateError(f"{checkpoint.path}: several tensors `{short}` ({', '.join(matches[:5])}), expected one")
        if matches:
            found[name] = matches[0]
    # a misspelt first layer must not turn the gate into a linear one without a word
    known = {*found.values(), *(untrained if any(_TRAINED in of_gate[key] for key in found.values()) else ())}
    strange = [key for key in of_gate if key not in known]
    if strange:
        raise GateError(f"{checkpoint.path}: unknown key `{strange[0]}`, expected {', '.join(CHECKPOINT_KEYS)}")
    if "lcg.fc2.weight" not in found or ("lcg.fc1.bias" in found and "lcg.fc1.weight" not in found):
        missing = "code_switch_pre.weight" if "lcg.fc2.weight" in found else "code_switch_head.weight"
        raise GateError(f"{checkpoint.path}: no tensor `{missing}`, {_nearest(missing, keys)}")
    return found, untrained


def _parts(key: str) -> list[str]:
    return [part for part in key.split(".") if part not in _WRAPPERS]


def _is_moment(key: str) -> bool:
    """Whether a tensor is an optimizer's: by a name above it, or because it is part of what is a tensor elsewhere."""
    parts = _parts(key)
    is_below = any(part in ("weight", "bias") for part in parts[:-1]) and "parametrizations" not in parts
    return is_below or any(map(_OPTIMIZER.fullmatch, parts))


def _ends_in(parts: list[str], layer: str, kind: str) -> bool:
    """Whether a key names this tensor of this layer, itself or in the copy that PEFT has trained."""
    return parts[-2:] == [layer, kind] or (parts[-4:-2] == [layer, _TRAINED] and parts[-1] == kind)


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
