"""Writing gate files: a gate's specification and its weights as one GGUF file; and reading the weights back.

The strict reader of these files is C++ (csrc/gate_file.cpp); what it refuses is refused here before a byte is written.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from typing import Any

import gguf
import numpy as np
import numpy.typing as npt

from ..errors import GateError
from ..files import replacing, sync
from .spec import GateSpec, Source, TrainValue

VERSION = 1
OUTTYPES = ("f32", "f16", "bf16", "q8_0")

_Q8_0_BLOCK = 32


def gate_file_name(base_name: str, outtype: str = "f16", version: str = "") -> str:
    """The name a gate file should have: `lcg-<base name>[-<version>]-<TYPE>.gguf`.

    What does not belong into a file name becomes a dash.
    """
    _check_outtype(outtype)
    parts = [re.sub(r"[^\w.+]+", "-", part).strip("-.") for part in (base_name, version)]
    return "-".join(["lcg", *filter(None, parts), outtype.upper()]) + ".gguf"


def write_gate(
    path: str | os.PathLike[str],
    spec: GateSpec,
    weights: Mapping[str, npt.NDArray[np.float32]],
    outtype: str = "f16",
) -> None:
    """Writes a gate file, whole or not at all: an existing file is replaced only once the new one is on disk.

    The same arguments give the same bytes. Biases stay F32. A row of Q8_0 is made of blocks of 32 values, so a matrix
    whose rows are no multiple of 32 is written as F16 instead.

    Args:
        path: The file to write.
        spec: Everything but the weights.
        weights: float32 arrays: `lcg.fc1.weight` (n_hidden, n_embd), absent from a linear gate, `lcg.fc2.weight`
            (n_families, n_hidden or n_embd), and optionally `lcg.fc1.bias` (n_hidden,) and `lcg.fc2.bias`
            (n_families,). GGUF stores shapes the other way round, so readers see [n_embd, n_hidden].
        outtype: Type of the matrices, one of `OUTTYPES`.

    Raises:
        GateError: Weights are missing, unknown, of a wrong dtype or shape, NaN or Inf, or too large for `outtype`.
        OSError: The file cannot be written; nothing of it is left behind.
    """
    _check_outtype(outtype)
    _check_weights(spec, weights)
    tensors = {name: _encode(name, weights[name], outtype) for name in _wanted_shapes(spec) if name in weights}
    kinds = [kind for name, (_, kind) in tensors.items() if "weight" in name]
    with replacing(path) as temporary:
        writer = gguf.GGUFWriter(temporary, spec.architecture)
        try:
            _add_keys(writer, spec, _file_type(outtype, kinds))
            for name, (data, kind) in tensors.items():
                writer.add_tensor(name, data, raw_dtype=kind)
            writer.add_tensor("lcg.token_family", spec.token_family.view(np.int8))
            writer.write_header_to_file()
            writer.write_kv_data_to_file()
            writer.write_tensors_to_file()
            for file in writer.fout or ():
                sync(file)
            writer.close()
        finally:
            _close_quietly(writer)


def read_weights(path: str | os.PathLike[str]) -> dict[str, npt.NDArray[np.float32]]:
    """The matrices and biases of a gate file that `Gate.load` has read, as `write_gate` takes them."""
    tensors = [tensor for tensor in gguf.GGUFReader(path).tensors if tensor.name != "lcg.token_family"]
    return {t.name: np.array(gguf.quants.dequantize(t.data, t.tensor_type), np.float32) for t in tensors}


def _close_quietly(writer: gguf.GGUFWriter) -> None:
    """Closes what a failed write left open; flushing it can fail again, which says nothing new."""
    try:
        writer.close()
    except OSError:
        writer.fout = None


def _check_outtype(outtype: str) -> None:
    if outtype not in OUTTYPES:
        raise GateError(f"`outtype` is {outtype!r}, expected one of {', '.join(OUTTYPES)}")


def _wanted_shapes(spec: GateSpec) -> dict[str, tuple[int, ...]]:
    shapes: dict[str, tuple[int, ...]] = {}
    if spec.n_hidden > 0:
        shapes["lcg.fc1.weight"] = (spec.n_hidden, spec.n_embd)
        shapes["lcg.fc1.bias"] = (spec.n_hidden,)
    shapes["lcg.fc2.weight"] = (len(spec.families), spec.n_hidden or spec.n_embd)
    shapes["lcg.fc2.bias"] = (len(spec.families),)
    return shapes


def _check_weights(spec: GateSpec, weights: Mapping[str, npt.NDArray[np.float32]]) -> None:
    wanted = _wanted_shapes(spec)
    for name in weights:
        if name not in wanted:
            raise GateError(f"tensor `{name}` is unknown, expected {', '.join(wanted)}")
    for name, shape in wanted.items():
        if name not in weights:
            if name.endswith(".weight"):
                raise GateError(f"tensor `{name}` is missing, expected shape {shape}")
            continue
        tensor = weights[name]
        if tensor.dtype != np.float32:
            raise GateError(f"tensor `{name}` has dtype {tensor.dtype}, expected float32")
        if tensor.shape != shape:
            raise GateError(f"tensor `{name}` has shape {tensor.shape}, expected {shape}")
        _check_finite(name, tensor)


def _check_finite(name: str, tensor: npt.NDArray[Any], cause: str = "") -> None:
    bad = ~np.isfinite(tensor)
    if bad.any():
        at = tuple(int(i) for i in np.argwhere(bad)[0])
        raise GateError(f"tensor `{name}` holds {tensor[at]} at {list(at)}, expected finite numbers{cause}")


def _encode(
    name: str, tensor: npt.NDArray[np.float32], outtype: str
) -> tuple[npt.NDArray[Any], gguf.GGMLQuantizationType]:
    """Converts a tensor to the type it is stored in; values that this type cannot hold are refused."""
    kind = gguf.GGMLQuantizationType[outtype.upper()]
    if name.endswith(".bias"):
        kind = gguf.GGMLQuantizationType.F32
    elif kind == gguf.GGMLQuantizationType.Q8_0 and tensor.shape[-1] % _Q8_0_BLOCK != 0:
        kind = gguf.GGMLQuantizationType.F16
    # overflow shows in the result; the scale of a Q8_0 block of (almost) nothing but zeros divides by zero in gguf
    with np.errstate(all="ignore"):
        data = gguf.quants.quantize(tensor, kind)
        stored = gguf.quants.dequantize(data, kind)
    _check_finite(name, stored, f": {kind.name} cannot hold what the weights hold, f32 can")
    return data, kind


def _file_type(outtype: str, kinds: list[gguf.GGMLQuantizationType]) -> int:
    """llama.cpp's number for a file whose matrices are of these types: `outtype`, unless all of them fell back."""
    types = {
        "F32": gguf.LlamaFileType.ALL_F32,
        "F16": gguf.LlamaFileType.MOSTLY_F16,
        "BF16": gguf.LlamaFileType.MOSTLY_BF16,
        "Q8_0": gguf.LlamaFileType.MOSTLY_Q8_0,
    }
    names = [kind.name for kind in kinds]
    return int(types[outtype.upper() if outtype.upper() in names else names[0]])


def _add_keys(writer: gguf.GGUFWriter, spec: GateSpec, file_type: int) -> None:
    """Adds the keys in a fixed order; `general.architecture` is there already."""
    kinds = gguf.GGUFValueType
    writer.add_type("adapter")
    writer.add_string("adapter.type", "lcg")
    writer.add_string("general.name", spec.name)
    writer.add_string("general.version", spec.version)
    writer.add_string("general.license", spec.license)
    writer.add_file_type(file_type)
    _add_sources(writer, "general.base_model", spec.base_models)
    _add_sources(writer, "general.dataset", spec.datasets)
    writer.add_uint32("adapter.lcg.version", VERSION)
    writer.add_uint32("adapter.lcg.n_embd", spec.n_embd)
    writer.add_uint32("adapter.lcg.n_hidden", spec.n_hidden)
    writer.add_uint32("adapter.lcg.n_vocab", spec.n_vocab)

    def add_array(key: str, values: list[Any], kind: gguf.GGUFValueType) -> None:
        # add_array() would guess the elements' type, and makes every integer an int32
        writer.add_key_value(key, values, kinds.ARRAY, sub_type=kind)

    add_array("adapter.lcg.families", list(spec.families.names), kinds.STRING)
    add_array("adapter.lcg.maskable", [bool(value) for value in spec.families.maskable], kinds.BOOL)
    writer.add_uint32("adapter.lcg.neutral", spec.families.neutral)
    writer.add_float32("adapter.lcg.threshold", spec.threshold)
    for key, thresholds in (
        ("thresholds", spec.own_thresholds),
        ("first_thresholds", spec.first_thresholds),
        ("allow_thresholds", spec.allow_thresholds),
    ):
        if thresholds:
            add_array(f"adapter.lcg.{key}", [float(value) for value in thresholds], kinds.FLOAT32)
    add_array("adapter.lcg.confidence.top_k", [top_k for top_k, _ in spec.confidence], kinds.UINT32)
    add_array("adapter.lcg.confidence.top_p", [top_p for _, top_p in spec.confidence], kinds.FLOAT32)
    if spec.exempt_tokens:  # gguf-py writes no empty arrays
        add_array("adapter.lcg.exempt_tokens", list(spec.exempt_tokens), kinds.UINT32)
    if spec.masked_as:
        tokens = sorted(spec.masked_as)
        add_array("adapter.lcg.masked_as.tokens", tokens, kinds.UINT32)
        add_array("adapter.lcg.masked_as.families", [spec.masked_as[token] for token in tokens], kinds.UINT32)
    writer.add_string("adapter.lcg.rules", spec.families.rules)
    writer.add_string("adapter.lcg.tokenizer_hash", spec.tokenizer_hash)
    if spec.fingerprint:
        writer.add_string("adapter.lcg.fingerprint", spec.fingerprint)
    for key, value in spec.train.items():
        _add_train_value(writer, f"adapter.lcg.train.{key}", value)


def _add_sources(writer: gguf.GGUFWriter, key: str, sources: tuple[Source, ...]) -> None:
    if sources:
        writer.add_uint32(f"{key}.count", len(sources))
    for i, source in enumerate(sources):
        for part in ("name", "organization", "version", "repo_url"):
            writer.add_string(f"{key}.{i}.{part}", getattr(source, part))


def _add_train_value(writer: gguf.GGUFWriter, key: str, value: TrainValue) -> None:
    if isinstance(value, bool):
        writer.add_bool(key, value)
    elif isinstance(value, int):
        writer.add_uint64(key, value)
    elif isinstance(value, float):
        writer.add_float32(key, value)
    else:
        writer.add_string(key, value)
