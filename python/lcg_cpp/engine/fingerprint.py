"""What tells apart two models of the same shape and tokenizer, such as a base model and its fine-tunes."""

from __future__ import annotations

import hashlib
import os
import struct
from pathlib import Path

from .gguf_header import read_headers

_VERSION = "v1:"
_F32 = 0  # ggml_type
_NAMES = ("norm.weight", ".bias")


def model_fingerprint(path: str | os.PathLike[str]) -> str:
    """Identify the weights of a GGUF model, however they are quantized.

    Vectors (the weights of norms, and biases) stay F32 in every quantization of a model, and training a model moves
    them. A LoRA does not: a model with one, loaded beside it or merged into it, has the fingerprint of its base.

    Args:
        path: The model; of a split one, the first file.

    Returns:
        "v1:" and the SHA-256, in hexadecimal, of every F32 vector called `*norm.weight` or `*.bias`, sorted by name:
        the name, a zero byte, the number of bytes (u64, little endian), the bytes. Empty if the model has none.

    Raises:
        GateError: The file is no GGUF file, or is cut off.
        OSError: It cannot be read.
    """
    vectors = {
        name: (header.path, tensor.offset, 4 * tensor.shape[0])
        for header in read_headers(Path(path))
        for name, tensor in header.tensors.items()
        if name.endswith(_NAMES) and tensor.type == _F32 and len(tensor.shape) == 1
    }
    digest = hashlib.sha256()
    for name, (file_path, offset, n_bytes) in sorted(vectors.items()):
        with file_path.open("rb") as file:
            file.seek(offset)
            digest.update(name.encode() + b"\0" + struct.pack("<Q", n_bytes) + file.read(n_bytes))
    return _VERSION + digest.hexdigest() if vectors else ""
