"""The norms of a base model's output rows, and its logit soft-capping: what step 1 of the training labels divides by.

The logit of token v is e_v . h, so a long row e_v makes a token look probable whatever h says; the method divides it
out (paper section 3.2). Most models multiply by `output.weight`; where that is missing the token embeddings serve.

What llama.cpp does to the product before anyone samples from it:

- soft-capping, c * tanh(x / c) (Gemma 2, 3n and 4, Grok 2): it bends every logit differently, so it has to be undone
  before the division. `OutputMatrix.softcap` is c.
- a scale for all logits (Cohere, Granite, Grok, MiniCPM): part of the distribution that the model was trained to give,
  and a temperature as far as the division is concerned. It stays.
- a bias (Phi-2, some Qwen2): part of the logit. It stays, and is divided with it.
"""

from __future__ import annotations

import importlib.metadata
import math
from dataclasses import dataclass
from os import PathLike
from pathlib import Path

import numpy as np
import numpy.typing as npt
from gguf import GGML_QUANT_SIZES, GGMLQuantizationType
from gguf.quants import dequantize

from ..errors import GateError
from .gguf_header import Header, read_headers

NORMS = ("token", "relative", "none")

_OUTPUT, _EMBEDDINGS = "output.weight", "token_embd.weight"
_OUTPUT_SCALE, _OUTPUT_BIAS = "output.scale", "output.bias"
_SLICE_BYTES = 2 << 20  # of float32, for the processor's cache; a whole matrix can be 2.5 GB and more
# llama.cpp caps the logits of these architectures even where the file has no such key.
_DEFAULT_SOFTCAP = {"gemma2": 30.0, "gemma3n": 30.0, "gemma4": 30.0, "muse-glimmer": 30.0}


_DEFAULT_LOGIT_SCALE = {"grok": 1 / math.sqrt(3)}


class UndecodableTypeError(GateError):
    """The installed `gguf` package cannot decode the type of a tensor."""


@dataclass(frozen=True, eq=False)
class OutputMatrix:
    """The rows that turn a hidden state into logits."""

    norms: npt.NDArray[np.float32]  # (n_vocab,), the L2 norm of each row; 0 for a row of zeros
    softcap: float  # c, where the model's logits are c * tanh(x / c); 0 if they are not capped
    tensor: str  # the tensor they come from, `output.weight` or `token_embd.weight` (tied)
    tensor_type: str  # what it is stored as, e.g. `Q6_K`


@dataclass(frozen=True, eq=False)
class _Stored:
    """The output matrix as it is stored, and what is done to its product with a hidden state."""

    path: Path
    model: Header  # of the first file
    name: str
    type: GGMLQuantizationType
    rows: npt.NDArray[np.uint8]  # (n_vocab, bytes of a row)
    n_embd: int
    scale: float
    bias: npt.NDArray[np.float64]  # (n_vocab,)


def read_output_matrix(path: str | PathLike[str]) -> OutputMatrix:
    """Read the norms of the output rows from a GGUF model, a few megabytes of the matrix at a time.

    Of a split model, `path` is the first file (`-00001-of-0000N.gguf`).
    """
    stored = _open_matrix(path)
    norms = _row_norms(stored.rows, stored.type) * abs(stored.scale)
    bad = np.flatnonzero(~np.isfinite(norms))
    if len(bad):
        raise GateError(
            f"{stored.path}: row {bad[0]} of tensor `{stored.name}` holds NaN or Inf, expected finite numbers"
        )
    return OutputMatrix(norms.astype(np.float32), _softcap(stored.model), stored.name, stored.type.name)


def predict_logits(
    path: str | PathLike[str], hidden: npt.NDArray[np.float32], tokens: npt.NDArray[np.intp]
) -> list[npt.NDArray[np.float64]]:
    """Compute some tokens' logits of hidden states, float32 (n, n_embd), from the model's file alone.

    Gives float64 (n, len(tokens)) for each scale that an engine may apply to all logits: files say a number, and the
    architecture whether it multiplies or divides.
    """
    stored = _open_matrix(path)
    if hidden.shape[1] != stored.n_embd or tokens.max() >= len(stored.rows):
        shape = (len(stored.rows), stored.n_embd)
        raise GateError(
            f"{stored.path}: tensor `{stored.name}` has shape {shape}, the model's states have {hidden.shape[1]}"
            " numbers"
        )
    rows = dequantize(stored.rows[tokens], stored.type).astype(np.float64) * stored.scale
    product, bias, softcap = hidden @ rows.T, stored.bias[tokens], _softcap(stored.model)
    logits = [scale * product + bias for scale in _logit_scales(stored)]
    return [softcap * np.tanh(x / softcap) for x in logits] if softcap else logits


def label_norms(norms: npt.NDArray[np.float32], norm: str) -> npt.NDArray[np.float32] | None:
    """Returns what each token's logit is divided by when labels are made.

    A row of zeros (padding of the vocabulary) gives the logit 0 for every state; 0 / 0 would poison the whole
    distribution. Divided by any positive number it stays 0, so the mean of the other norms stands in.

    Args:
        norms: float32 (n_vocab,), the norms of the output rows.
        norm: `token` divides by the norm (paper section 3.2), `relative` by the norm over the mean norm, so that the
            logits keep their size on average, `none` by nothing (the paper's ablation).

    Returns:
        float32 (n_vocab,), all positive; None for `none`.

    Raises:
        GateError: `norm` is unknown, or all rows are zero.
    """
    if norm not in NORMS:
        raise GateError(f"`norm` is {norm!r}, expected {', '.join(NORMS)}")
    if norm == "none":
        return None
    is_row = norms > 0
    if not is_row.any():
        raise GateError("`norms` are all zero, expected the norms of an output matrix")
    mean = norms[is_row].mean(dtype=np.float64)
    divisors = np.where(is_row, norms, mean)
    return (divisors / mean if norm == "relative" else divisors).astype(np.float32)


def _open_matrix(path: str | PathLike[str]) -> _Stored:
    files = read_headers(Path(path))
    for name in (_OUTPUT, _EMBEDDINGS):
        for file in files:
            if name in file.tensors:
                tensor_type = _decodable_type(file, name)
                rows = _map_rows(file, name, tensor_type)
                # by its name: the type is newer than gguf 0.17
                scale = _floats(files, _OUTPUT_SCALE, 1) if tensor_type.name == "NVFP4" and name == _OUTPUT else None
                bias = _floats(files, _OUTPUT_BIAS, len(rows))
                return _Stored(
                    path=file.path,
                    model=files[0],
                    name=name,
                    type=tensor_type,
                    rows=rows,
                    n_embd=file.tensors[name].shape[0],
                    scale=1.0 if scale is None else float(scale[0]),
                    bias=np.zeros(len(rows)) if bias is None else bias.astype(np.float64),
                )
    raise GateError(f"{path}: neither `{_OUTPUT}` nor `{_EMBEDDINGS}` is among the tensors")


def _decodable_type(file: Header, name: str) -> GGMLQuantizationType:
    number = file.tensors[name].type
    try:
        tensor_type = GGMLQuantizationType(number)
        dequantize(np.zeros((1, GGML_QUANT_SIZES[tensor_type][1]), np.uint8), tensor_type)
    except (ValueError, NotImplementedError) as error:  # the type is newer than the package, or it only knows its name
        type_name = {known.value: known.name for known in GGMLQuantizationType}.get(number, f"of type {number}")
        option = "--output-tensor-type" if name == _OUTPUT else "--token-embedding-type"
        raise UndecodableTypeError(
            f"{file.path}: tensor `{name}` is {type_name}, which gguf {importlib.metadata.version('gguf')} cannot "
            f"decode: pip install -U gguf, or store it as Q8_0 (llama-quantize {option} q8_0)"
        ) from error
    return tensor_type


def _map_rows(file: Header, name: str, tensor_type: GGMLQuantizationType) -> npt.NDArray[np.uint8]:
    """The stored matrix, uint8 (n_vocab, bytes of a row), mapped and not read."""
    tensor = file.tensors[name]
    block, block_bytes = GGML_QUANT_SIZES[tensor_type]
    if len(tensor.shape) != 2 or 0 in tensor.shape or tensor.shape[0] % block:
        raise GateError(
            f"{file.path}: tensor `{name}` has shape {tensor.shape}, expected rows of whole blocks of {block}"
        )
    n_embd, n_vocab = tensor.shape
    row_bytes = n_embd // block * block_bytes
    end = tensor.offset + n_vocab * row_bytes
    if end > file.size:
        raise GateError(f"{file.path}: tensor `{name}` ends at byte {end}, the file has {file.size}")
    return np.memmap(file.path, np.uint8, "r", tensor.offset, (n_vocab, row_bytes))


def _row_norms(rows: npt.NDArray[np.uint8], tensor_type: GGMLQuantizationType) -> npt.NDArray[np.float64]:
    """The L2 norm of each row, float64 (n_vocab,)."""
    block, block_bytes = GGML_QUANT_SIZES[tensor_type]
    n_embd = rows.shape[1] // block_bytes * block
    n_rows = max(1, _SLICE_BYTES // (4 * n_embd))
    norms = np.empty(len(rows))
    for start in range(0, len(rows), n_rows):
        part = dequantize(rows[start : start + n_rows], tensor_type).astype(np.float64)
        norms[start : start + n_rows] = np.sqrt(np.einsum("ij,ij->i", part, part))
    return norms


def _floats(files: list[Header], name: str, n: int) -> npt.NDArray[np.float32] | None:
    """A vector of n float32, None where no file has it."""
    for file in files:
        tensor = file.tensors.get(name)
        if tensor is not None and tensor.shape == (n,) and tensor.type == GGMLQuantizationType.F32:
            return np.memmap(file.path, np.float32, "r", tensor.offset, (n,))
    return None


def _logit_scales(stored: _Stored) -> list[float]:
    """What the product may be multiplied by before the bias: 1, or what the file says either way."""
    architecture = stored.model.values.get("general.architecture")
    stated = stored.model.values.get(f"{architecture}.logit_scale", _DEFAULT_LOGIT_SCALE.get(str(architecture)))
    if str(architecture).startswith("minicpm"):
        stated = stated or 256 / stored.n_embd
    is_number = isinstance(stated, (int, float)) and 0 < stated < math.inf
    return [1.0, float(stated), 1 / float(stated)] if is_number and stated is not None else [1.0]


def _softcap(file: Header) -> float:
    architecture = file.values.get("general.architecture", "")
    key = f"{architecture}.final_logit_softcapping"
    softcap = file.values.get(key, _DEFAULT_SOFTCAP.get(str(architecture), 0.0))
    if not isinstance(softcap, (int, float)) or not 0 <= softcap < math.inf:
        raise GateError(f"{file.path}: `{key}` is {softcap!r}, expected a finite number of at least 0")
    return float(softcap)
