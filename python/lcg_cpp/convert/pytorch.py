"""PyTorch checkpoints as tensors by key: safetensors or pickled, in one file or in shards, read no further than asked.

Safetensors files are parsed in safetensors_file.py; pickled checkpoints go through PyTorch's restricted loader and
nothing else.
"""

from __future__ import annotations

import errno
import re
import warnings
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import numpy.typing as npt

from ..errors import GateError
from ..files import PYTORCH_SUFFIXES, require_regular
from .safetensors_file import SafetensorsFile, parse_json

if TYPE_CHECKING:
    import torch

SAFETENSORS_SUFFIXES = PYTORCH_SUFFIXES[:1]
PICKLE_SUFFIXES = PYTORCH_SUFFIXES[1:]
INDEX_SUFFIX = ".index.json"

# The first release whose weights_only loader has none of the known ways around it.
_MIN_TORCH = (2, 10)
_MAX_INDEX = 100_000_000
_ZERO_SUFFIXES = ("_model_states.pt", "_optim_states.pt")
_ZERO_SCRIPT = "zero_to_fp32.py"
_TRAINER_STATE = re.compile(r"(optimizer|scheduler|scaler|training_args|rng_state.*|random_states.*)\.\w+")
_REFUSED = re.compile(r"GLOBAL (\S+)")  # what PyTorch says of an object that it does not make
_MAX_NESTING = 4


class Checkpoint(Protocol):
    """Tensors by key; shapes are known before any data is read."""

    path: Path

    def metadata(self) -> Mapping[str, str]:
        """What the file says of itself; only a safetensors file says anything."""

    def names(self) -> list[str]:
        """The keys, in the file's order."""

    def shape(self, key: str) -> tuple[int, ...]:
        """The shape of one tensor."""

    def read(self, key: str) -> npt.NDArray[np.float32]:
        """The values of one tensor; a tensor that is not of floats is refused."""


def open_checkpoint(path: Path) -> Checkpoint:
    """Open a checkpoint, of a kind that `convert` takes, and read what it says of its tensors, but none of them."""
    if path.is_dir():
        path = _pick_file(path)
    elif path.name.endswith(_ZERO_SUFFIXES):
        raise _zero_error(path, path.parent)
    if path.name.endswith(INDEX_SUFFIX):
        if Path(path.name[: -len(INDEX_SUFFIX)]).suffix in PYTORCH_SUFFIXES:
            return _Sharded(path)
    elif path.suffix in PYTORCH_SUFFIXES:
        return _open_file(path)
    wanted = ", ".join((*PYTORCH_SUFFIXES, *(f"{suffix}{INDEX_SUFFIX}" for suffix in (".safetensors", ".bin"))))
    raise GateError(f"{path}: unknown kind of checkpoint {path.suffix!r}, expected {wanted}")


def _open_file(path: Path) -> Checkpoint:
    require_regular(path)
    return SafetensorsFile(path) if path.suffix in SAFETENSORS_SUFFIXES else _Pickled(path)


def _pick_file(folder: Path) -> Path:
    """The one checkpoint of a folder: safetensors before pickles, an index before the shards it names."""
    names = sorted(entry.name for entry in folder.iterdir() if entry.is_file())
    states = [name for name in names if name.endswith(_ZERO_SUFFIXES)]
    names = [name for name in names if name not in states and not _TRAINER_STATE.fullmatch(name)]
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
    if states or _ZERO_SCRIPT in names:
        raise _zero_error(folder, folder)
    raise GateError(f"{folder}: no checkpoint in this folder, expected a file in {', '.join(PYTORCH_SUFFIXES)}")


def _zero_error(path: Path, folder: Path) -> GateError:
    """What to do with a checkpoint whose weights are spread over the files of DeepSpeed's processes."""
    root = next((place for place in (folder, folder.parent) if (place / _ZERO_SCRIPT).exists()), folder)
    return GateError(
        f"{path}: is part of a DeepSpeed ZeRO checkpoint, whose weights are spread over several files; join them with"
        f" `python {root / _ZERO_SCRIPT} {root} WHOLE` (DeepSpeed writes the script) and convert WHOLE"
    )


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
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # of other pickle protocols; what fails is told below
                content = torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
        except Exception as error:  # a damaged pickle can raise anything, and a truncated archive is EINVAL to PyTorch
            if isinstance(error, MemoryError) or (isinstance(error, OSError) and error.errno != errno.EINVAL):
                raise
            refused = _REFUSED.search(str(error))
            if refused:
                raise GateError(
                    f"{path}: holds an object `{refused[1]}`, which could run code; save its tensors alone: if you"
                    " trust the file, load it with `torch.load(…, weights_only=False)` and `torch.save` its state dict"
                ) from error
            raise GateError(
                f"{path}: PyTorch cannot load it as weights ({type(error).__name__}), expected an undamaged file with "
                "tensors and no other objects in it"
            ) from error
        self._tensors = dict(_flatten(content, torch))

    def metadata(self) -> Mapping[str, str]:
        return {}

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
        raise GateError(f'{path}: reading it needs `torch`: pip install "lcg-cpp[train]"') from error
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
        require_regular(path)
        with path.open("rb") as file:
            text = file.read(_MAX_INDEX + 1)
        if len(text) > _MAX_INDEX:
            raise GateError(f"{path}: the index has more than {_MAX_INDEX} bytes")
        shards = parse_json(path, text, "index").get("weight_map")
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

    def metadata(self) -> Mapping[str, str]:
        return {}

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
