"""Safetensors files: a length, a JSON header and raw bytes.

Parsed here, because the safetensors package cannot hand out BF16 without PyTorch.
"""

from __future__ import annotations

import json
import math
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import numpy.typing as npt

from ..errors import GateError

_MAX_HEADER = 100_000_000  # the limit of the format itself
_DTYPE_SIZES = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2}


@dataclass(frozen=True)
class _Entry:
    dtype: str
    shape: tuple[int, ...]
    begin: int  # in bytes, from the start of the data
    end: int


class SafetensorsFile:
    """One safetensors file: u64 header length, JSON header, data; a `pytorch.Checkpoint`.

    Attributes:
        path: The file.
    """

    def __init__(self, path: Path) -> None:
        """Read the header."""
        self.path = path
        with path.open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            if size < 8:
                self._fail(f"the file has {size} bytes, a safetensors file has at least 8")
            n_header = int.from_bytes(file.read(8), "little")
            room = min(_MAX_HEADER, size - 8)
            if n_header > room:
                self._fail(f"the header has {n_header} bytes, expected at most {room}: truncated, or not safetensors")
            header = parse_json(path, file.read(n_header), "header")
        self._data_start = 8 + n_header
        self._metadata = self._texts(header.get("__metadata__") or {})
        self._entries = {key: self._entry(key, entry) for key, entry in header.items() if key != "__metadata__"}
        self._check_layout(size - self._data_start)

    def metadata(self) -> dict[str, str]:
        """What the file says of itself."""
        return self._metadata

    def names(self) -> list[str]:
        """The keys, in the file's order."""
        return list(self._entries)

    def shape(self, key: str) -> tuple[int, ...]:
        """The shape of one tensor."""
        return self._entries[key].shape

    def read(self, key: str) -> npt.NDArray[np.float32]:
        """The values of one tensor; a tensor that is not of floats is refused."""
        entry = self._entries[key]
        if entry.dtype not in _DTYPE_SIZES:
            self._fail(f"tensor `{key}` has dtype {entry.dtype}, expected {', '.join(_DTYPE_SIZES)}")
        n_bytes, n_found = math.prod(entry.shape) * _DTYPE_SIZES[entry.dtype], entry.end - entry.begin
        if n_bytes != n_found:
            self._fail(f"tensor `{key}` has {n_found} bytes, expected {n_bytes} for {entry.dtype} {entry.shape}")
        with self.path.open("rb") as file:
            file.seek(self._data_start + entry.begin)
            data = file.read(n_bytes)
        if len(data) != n_bytes:
            self._fail(f"file ends inside tensor `{key}`")
        return _to_float32(data, entry.dtype).reshape(entry.shape)

    def _texts(self, metadata: Any) -> dict[str, str]:
        if not isinstance(metadata, dict) or not all(isinstance(text, str) for text in metadata.values()):
            self._fail(f"`__metadata__` is {str(metadata)[:80]}, expected an object of texts")
        return metadata

    def _entry(self, key: str, entry: Any) -> _Entry:
        fields = entry if isinstance(entry, dict) else {}
        dtype, shape, offsets = fields.get("dtype"), _counts(fields.get("shape")), _counts(fields.get("data_offsets"))
        if not isinstance(dtype, str) or shape is None or offsets is None or len(offsets) != 2:
            self._fail(f"tensor `{key}` is described by {str(entry)[:80]}, expected dtype, shape and data_offsets")
        return _Entry(dtype, shape, *offsets)

    def _check_layout(self, n_data: int) -> None:
        """The tensors must fill the data from its first to its last byte, as the format demands."""
        end = 0
        for key, entry in sorted(self._entries.items(), key=lambda item: (item[1].begin, item[1].end)):
            if entry.begin != end or entry.end < entry.begin:
                self._fail(f"tensor `{key}` has bytes {entry.begin} to {entry.end}, expected them to start at {end}")
            end = entry.end
        if end != n_data:
            self._fail(f"the data has {n_data} bytes, its tensors {end}: truncated, or not safetensors")

    def _fail(self, message: str) -> NoReturn:
        raise GateError(f"{self.path}: {message}")


def _counts(values: Any) -> tuple[int, ...] | None:
    if isinstance(values, list) and all(type(value) is int and value >= 0 for value in values):
        return tuple(values)
    return None


def _to_float32(data: bytes, dtype: str) -> npt.NDArray[np.float32]:
    if dtype == "BF16":  # the upper half of a float32
        return (np.frombuffer(data, "<u2").astype(np.uint32) << 16).view(np.float32)
    with np.errstate(over="ignore"):  # a float64 beyond float32 becomes Inf, which is refused with its position
        return np.frombuffer(data, f"<f{_DTYPE_SIZES[dtype]}").astype(np.float32)


def parse_json(path: Path, text: bytes, what: str) -> dict[str, Any]:
    """Parse a JSON object whose names are unique; `path` and `what` are for messages."""

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        result = dict(pairs)
        if len(result) != len(pairs):
            raise ValueError("a name occurs twice")
        return result

    try:
        value = json.loads(text.decode("utf-8"), object_pairs_hook=unique)
    except (ValueError, RecursionError) as error:
        raise GateError(f"{path}: the {what} is no valid JSON ({error})") from error
    if not isinstance(value, dict):
        raise GateError(f"{path}: the {what} is a JSON {type(value).__name__}, expected an object")
    return value
