"""PyTorch checkpoints as tensors by key: safetensors or pickled, in one file or in shards, read no further than asked.

Safetensors files are parsed here (the format is a length, a JSON header and raw bytes), because the safetensors package
cannot hand out BF16 without PyTorch; pickled checkpoints go through PyTorch's restricted loader and nothing else.
"""

from __future__ import annotations

import errno
import json
import math
import os
import zipfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn, Protocol

import numpy as np
import numpy.typing as npt

from .errors import GateError

if TYPE_CHECKING:
    import torch

SAFETENSORS_SUFFIXES = (".safetensors",)
PICKLE_SUFFIXES = (".pt", ".pth", ".bin")
INDEX_SUFFIX = ".index.json"

# The first release whose weights_only loader has none of the known ways around it.
_MIN_TORCH = (2, 10)
_MAX_HEADER = 100_000_000  # the limit of the safetensors format itself
_MAX_INDEX = 100_000_000
_MAX_NESTING = 4
_DTYPE_SIZES = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2}


class Checkpoint(Protocol):
    """Tensors by key; shapes are known before any data is read."""

    path: Path

    def names(self) -> list[str]:
        """The keys, in the file's order."""

    def shape(self, key: str) -> tuple[int, ...]:
        """The shape of one tensor."""

    def read(self, key: str) -> npt.NDArray[np.float32]:
        """The values of one tensor; a tensor that is not of floats is refused."""


def open_checkpoint(path: Path) -> Checkpoint:
    """Opens a checkpoint and reads what it says of its tensors, but none of them.

    Args:
        path: A `.safetensors`, `.pt`, `.pth` or `.bin` file, the `.index.json` of a sharded one, or a folder with
            either.

    Returns:
        The checkpoint.

    Raises:
        GateError: It is damaged or of an unknown kind, or PyTorch is needed and is missing or too old.
        OSError: It cannot be read.
    """
    if path.is_dir():
        path = _pick_file(path)
    suffixes = (*SAFETENSORS_SUFFIXES, *PICKLE_SUFFIXES)
    if path.name.endswith(INDEX_SUFFIX):
        if Path(path.name[: -len(INDEX_SUFFIX)]).suffix in suffixes:
            return _Sharded(path)
    elif path.suffix in suffixes:
        return _open_file(path)
    wanted = ", ".join((*suffixes, *(f"{suffix}{INDEX_SUFFIX}" for suffix in (".safetensors", ".bin"))))
    raise GateError(f"{path}: unknown kind of checkpoint {path.suffix!r}, expected {wanted}")


def _open_file(path: Path) -> Checkpoint:
    return _Safetensors(path) if path.suffix in SAFETENSORS_SUFFIXES else _Pickled(path)


def _pick_file(folder: Path) -> Path:
    """The one checkpoint of a folder: safetensors before pickles, an index before the shards it names."""
    names = sorted(entry.name for entry in folder.iterdir() if entry.is_file())
    for suffixes, usual in ((SAFETENSORS_SUFFIXES, "model.safetensors"), (PICKLE_SUFFIXES, "pytorch_model.bin")):
        indexes = tuple(suffix + INDEX_SUFFIX for suffix in suffixes)
        for found in (
            [name for name in names if name.endswith(indexes)],
            [name for name in names if name == usual],
            [name for name in names if name.endswith(suffixes)],
        ):
            if len(found) == 1:
                return folder / found[0]
            if found:
                raise GateError(f"{folder}: several checkpoints ({', '.join(found[:5])}), name one of them")
    raise GateError(f"{folder}: no checkpoint in this folder, expected a .safetensors, .pt, .pth or .bin file")


# ---- safetensors ----


@dataclass(frozen=True)
class _Entry:
    dtype: str
    shape: tuple[int, ...]
    begin: int  # in bytes, from the start of the data
    end: int


class _Safetensors:
    """One safetensors file: u64 header length, JSON header, data."""

    def __init__(self, path: Path) -> None:
        self.path = path
        with path.open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            if size < 8:
                self._fail(f"the file has {size} bytes, a safetensors file has at least 8")
            n_header = int.from_bytes(file.read(8), "little")
            room = min(_MAX_HEADER, size - 8)
            if n_header > room:
                self._fail(f"the header has {n_header} bytes, expected at most {room}: truncated, or not safetensors")
            header = _parse_json(path, file.read(n_header), "header")
        self._data_start = 8 + n_header
        self._entries = {key: self._entry(key, entry) for key, entry in header.items() if key != "__metadata__"}
        self._check_layout(size - self._data_start)

    def names(self) -> list[str]:
        return list(self._entries)

    def shape(self, key: str) -> tuple[int, ...]:
        return self._entries[key].shape

    def read(self, key: str) -> npt.NDArray[np.float32]:
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


def _parse_json(path: Path, text: bytes, what: str) -> dict[str, Any]:
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


# ---- pickled ----


class _Pickled:
    """A file written by `torch.save`: a state dict, or a dict that holds one."""

    def __init__(self, path: Path) -> None:
        self.path = path
        with path.open("rb") as file:  # a missing file stays an OSError, whether PyTorch is there or not
            if not file.read(1):
                raise GateError(f"{path}: the file is empty")
        torch = _import_torch(path)
        try:
            # only zip archives can be mapped; older files are read whole, by the same restricted loader
            content = torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
        except Exception as error:  # a damaged pickle can raise anything, and a truncated archive is EINVAL to PyTorch
            if isinstance(error, MemoryError) or (isinstance(error, OSError) and error.errno != errno.EINVAL):
                raise
            raise GateError(
                f"{path}: PyTorch cannot load it as weights ({type(error).__name__}), expected an undamaged file with "
                "tensors and no other objects in it"
            ) from error
        self._tensors = dict(_flatten(content, torch))

    def names(self) -> list[str]:
        return list(self._tensors)

    def shape(self, key: str) -> tuple[int, ...]:
        return tuple(self._tensors[key].shape)

    def read(self, key: str) -> npt.NDArray[np.float32]:
        torch = _import_torch(self.path)
        tensor = self._tensors[key]
        if tensor.dtype not in (torch.float64, torch.float32, torch.float16, torch.bfloat16):
            raise GateError(f"{self.path}: tensor `{key}` has dtype {tensor.dtype}, expected a float of 16 to 64 bits")
        if tensor.layout != torch.strided or tensor.is_meta:
            raise GateError(f"{self.path}: tensor `{key}` is {tensor.layout} on {tensor.device}, expected dense data")
        values: npt.NDArray[np.float32] = tensor.detach().to(torch.float32).numpy()
        return values


def _flatten(content: Any, torch: Any, prefix: str = "", depth: int = 0) -> Iterator[tuple[str, torch.Tensor]]:
    """The tensors of nested dicts ({"state_dict": {…}}), under keys joined by dots."""
    if not isinstance(content, Mapping) or depth > _MAX_NESTING:
        return
    for key, value in content.items():
        if isinstance(value, torch.Tensor):
            yield f"{prefix}{key}", value
        else:
            yield from _flatten(value, torch, f"{prefix}{key}.", depth + 1)


def _import_torch(path: Path) -> Any:
    try:
        import torch  # noqa: PLC0415 (an extra that most conversions do without)
    except ImportError as error:
        raise GateError(f"{path}: reading it needs PyTorch, install it with: pip install lcg-cpp[train]") from error
    found = tuple(int(part) for part in torch.__version__.split("+")[0].split(".")[:2])
    if found < _MIN_TORCH:
        raise GateError(
            f"{path}: PyTorch is {torch.__version__}, expected {'.'.join(map(str, _MIN_TORCH))} or newer, "
            "because older ones can be made to run code from a checkpoint"
        )
    return torch


# ---- sharded ----


class _Sharded:
    """A checkpoint in several files, described by an index; only the files that are asked for are opened."""

    def __init__(self, path: Path) -> None:
        self.path = path
        with path.open("rb") as file:
            text = file.read(_MAX_INDEX + 1)
        if len(text) > _MAX_INDEX:
            raise GateError(f"{path}: the index has more than {_MAX_INDEX} bytes")
        shards = _parse_json(path, text, "index").get("weight_map")
        if not isinstance(shards, dict) or not all(isinstance(name, str) for name in shards.values()):
            raise GateError(f"{path}: `weight_map` is no object of file names, expected tensor -> file")
        suffix = Path(path.name[: -len(INDEX_SUFFIX)]).suffix
        for name in shards.values():
            if name != Path(name).name or Path(name).suffix != suffix:
                raise GateError(
                    f"{path}: `weight_map` names the file {name!r}, expected a {suffix} file beside the index"
                )
        self._shards: dict[str, str] = shards
        self._opened: dict[str, Checkpoint] = {}

    def names(self) -> list[str]:
        return list(self._shards)

    def shape(self, key: str) -> tuple[int, ...]:
        return self._shard(key).shape(key)

    def read(self, key: str) -> npt.NDArray[np.float32]:
        return self._shard(key).read(key)

    def _shard(self, key: str) -> Checkpoint:
        name = self._shards[key]
        if name not in self._opened:
            self._opened[name] = _open_file(self.path.with_name(name))
        if key not in self._opened[name].names():
            raise GateError(f"{self.path}: `weight_map` puts `{key}` into {name}, which does not hold it")
        return self._opened[name]
