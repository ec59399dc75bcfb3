"""Gates as safetensors files under the keys of the method's reference: what `convert` takes, and PyTorch too.

How a gate was made stands in the file's metadata, under names that begin with `lcg.`:

| name | value |
|---|---|
| lcg.name, lcg.version, lcg.license | as in a gate file; absent if empty |
| lcg.base_model | names of the models it was made for |
| lcg.families | names in the order of the outputs |
| lcg.rules | rule set it was trained with |
| lcg.thresholds | JSON array of the thresholds of its families; absent if they have none of their own |
| lcg.first_thresholds | the same before a reply's first language token; absent if they are no others |
| lcg.allow_thresholds | the same for what may come without being predicted; absent if nothing may |
| lcg.datasets | JSON array of what it was trained on, of each the fields of `spec.Source` that are not empty |
| lcg.train | JSON object of `adapter.lcg.train.*` |
"""

from __future__ import annotations

import dataclasses
import json
import re
import struct
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ..errors import GateError
from ..files import PathLike, write_whole
from ..gate.spec import GateSpec, Source, TrainValue

# Name in a checkpoint of the reference's trainer -> name in a gate file.
CHECKPOINT_KEYS = {
    "code_switch_pre.weight": "lcg.fc1.weight",
    "code_switch_pre.bias": "lcg.fc1.bias",
    "code_switch_head.weight": "lcg.fc2.weight",
    "code_switch_head.bias": "lcg.fc2.bias",
}

_KEY = re.compile(r"[a-z0-9_.]{1,64}")
_SURROGATE = re.compile("[\ud800-\udfff]")  # JSON can hold them, UTF-8 cannot
_MAX_UINT64 = 2**64 - 1
_MAX_FLOAT32 = float(np.finfo(np.float32).max)


# ---- writing ----


def write_gate_checkpoint(path: PathLike, spec: GateSpec, weights: Mapping[str, npt.NDArray[np.float32]]) -> None:
    """Write a gate as a safetensors file, whole or not at all; `weights` are as `write_gate` takes them.

    The same arguments give the same bytes.
    """
    tensors = {key: weights[name] for key, name in CHECKPOINT_KEYS.items() if name in weights}
    write_whole(path, _serialize(tensors, _metadata(spec)))


def _metadata(spec: GateSpec) -> dict[str, str]:
    datasets = [{key: text for key, text in dataclasses.asdict(source).items() if text} for source in spec.datasets]
    values = {
        "format": "pt",  # without it transformers loads nothing
        "lcg.name": spec.name,
        "lcg.version": spec.version,
        "lcg.license": spec.license,
        "lcg.base_model": ", ".join(source.name for source in spec.base_models),
        "lcg.families": ", ".join(spec.families.names),
        "lcg.rules": spec.families.rules,
        "lcg.thresholds": json.dumps(spec.own_thresholds) if spec.own_thresholds else "",
        "lcg.first_thresholds": json.dumps(spec.first_thresholds) if spec.first_thresholds else "",
        "lcg.allow_thresholds": json.dumps(spec.allow_thresholds) if spec.allow_thresholds else "",
        "lcg.datasets": json.dumps(datasets, ensure_ascii=False) if datasets else "",
        "lcg.train": json.dumps(spec.train, ensure_ascii=False, allow_nan=False) if spec.train else "",
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


# ---- reading ----


@dataclass(frozen=True)
class Provenance:
    """What a checkpoint says of its gate; empty where it says nothing. The fields are those of `GateSpec`."""

    name: str = ""
    version: str = ""
    license: str = ""
    rules: str = ""
    own_thresholds: tuple[float, ...] = ()
    first_thresholds: tuple[float, ...] = ()
    allow_thresholds: tuple[float, ...] = ()
    datasets: tuple[Source, ...] = ()
    train: Mapping[str, TrainValue] = field(default_factory=dict)


def read_provenance(path: Path, metadata: Mapping[str, str]) -> Provenance:
    """Read how a gate was made, from a file's metadata.

    Names that are not ours are ignored; a value that is not as `write_gate_checkpoint` writes it is refused.
    """
    texts = {name: metadata.get(f"lcg.{name}", "") for name in ("name", "version", "license", "rules")}
    for name, text in texts.items():
        if _SURROGATE.search(text):
            raise _bad(path, name, text, "a text")
    names = ("thresholds", "first_thresholds", "allow_thresholds")
    thresholds = {name: _parsed(path, metadata, name, []) for name in names}
    for name, values in thresholds.items():
        or_one = name == "allow_thresholds"
        if not isinstance(values, list) or not all(_is_probability(value, or_one) for value in values):
            raise _bad(path, name, values, "an array of probabilities between 0 and 1")
    datasets = _parsed(path, metadata, "datasets", [])
    if not isinstance(datasets, list) or not all(map(_is_source, datasets)):
        raise _bad(path, "datasets", datasets, "an array of objects with a name")
    train = _parsed(path, metadata, "train", {})
    if not isinstance(train, dict):
        raise _bad(path, "train", train, "an object")
    for key, value in train.items():
        if not _KEY.fullmatch(key) or not _is_train_value(value):
            raise _bad(path, "train", {key: value}, "bools, natural numbers, floats and texts")
    return Provenance(
        **texts,
        own_thresholds=tuple(thresholds["thresholds"]),
        first_thresholds=tuple(thresholds["first_thresholds"]),
        allow_thresholds=tuple(thresholds["allow_thresholds"]),
        datasets=tuple(Source(**source) for source in datasets),
        train=train,
    )


def _parsed(path: Path, metadata: Mapping[str, str], name: str, default: Any) -> Any:
    text = metadata.get(f"lcg.{name}")
    if text is None:
        return default
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise _bad(path, name, text, "JSON") from error


def _is_probability(value: Any, or_one: bool) -> bool:
    return isinstance(value, float) and (0 < float(np.float32(value)) < 1 or (or_one and value == 1))


def _is_source(value: Any) -> bool:
    if not isinstance(value, dict) or "name" not in value:
        return False
    return {part.name for part in dataclasses.fields(Source)}.issuperset(value) and all(map(_is_text, value.values()))


def _is_train_value(value: Any) -> bool:
    if isinstance(value, float):
        return abs(value) <= _MAX_FLOAT32  # False for NaN
    return 0 <= value <= _MAX_UINT64 if isinstance(value, int) else _is_text(value)


def _is_text(value: Any) -> bool:
    return isinstance(value, str) and value != "" and not _SURROGATE.search(value)


def _bad(path: Path, name: str, found: Any, wanted: str) -> GateError:
    return GateError(f"{path}: metadata `lcg.{name}` is {repr(found)[:80]}, expected {wanted}")
