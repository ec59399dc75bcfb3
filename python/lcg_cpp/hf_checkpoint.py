"""Gates as safetensors files under the keys of the method's reference: what `convert` takes, and PyTorch too."""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from .convert import CHECKPOINT_KEYS
from .gate import PathLike
from .gate_file import GateSpec
from .whole_file import write_whole


def write_gate_checkpoint(path: PathLike, spec: GateSpec, weights: Mapping[str, npt.NDArray[np.float32]]) -> None:
    """Write a gate, whole or not at all. The same arguments give the same bytes.

    Args:
        path: The safetensors file to write.
        spec: What is known of the gate; its names and how it was made go into the file's metadata.
        weights: float32 matrices as `write_gate` takes them; a linear gate has no `lcg.fc1.weight`.

    Raises:
        OSError: The file cannot be written; nothing of it is left behind.
    """
    tensors = {key: weights[name] for key, name in CHECKPOINT_KEYS.items() if name in weights}
    write_whole(path, _serialize(tensors, _metadata(spec)))


def _metadata(spec: GateSpec) -> dict[str, str]:
    values = {
        "format": "pt",  # without it transformers loads nothing
        "name": spec.name,
        "license": spec.license,
        "base_model": ", ".join(source.name for source in spec.base_models),
        "families": ", ".join(spec.families),
        "rules": spec.rules,
        **{f"train.{key}": str(value) for key, value in spec.train.items()},
    }
    return {key: value for key, value in values.items() if value}


def _serialize(tensors: Mapping[str, npt.NDArray[np.float32]], metadata: Mapping[str, str]) -> bytes:
    """A safetensors file: u64 header length, JSON header, data. The package writes metadata in a random order."""
    header: dict[str, Any] = {"__metadata__": metadata}
    end = 0
    for key, tensor in tensors.items():
        header[key] = {"dtype": "F32", "shape": tensor.shape, "data_offsets": [end, end + tensor.nbytes]}
        end += tensor.nbytes
    text = json.dumps(header, ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)  # tensors are aligned to 8 bytes
    return b"".join(
        [struct.pack("<Q", len(text)), text, *(tensor.astype("<f4").tobytes() for tensor in tensors.values())]
    )
