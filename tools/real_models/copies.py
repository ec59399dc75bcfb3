"""Copies of a model in other quantizations, made by llama.cpp's own quantizer."""

from __future__ import annotations

import os
from ctypes import byref
from pathlib import Path

import llama_cpp

COPIES = {"Q8_0": llama_cpp.LLAMA_FTYPE_MOSTLY_Q8_0, "Q2_K": llama_cpp.LLAMA_FTYPE_MOSTLY_Q2_K}


def make_copy(model: Path, path: Path, quantization: str) -> None:
    """Write a copy, unless it is there.

    Args:
        model: A GGUF file. If it is quantized itself, the copy holds its rounded weights: it gets no better.
        path: Of the copy.
        quantization: A key of `COPIES`.

    Raises:
        OSError: llama.cpp could not make it.
    """
    if path.exists():
        return
    params = llama_cpp.llama_model_quantize_default_params()
    params.ftype = COPIES[quantization]
    params.allow_requantize = True
    partial = path.with_suffix(".partial")
    if llama_cpp.llama_model_quantize(os.fsencode(model), os.fsencode(partial), byref(params)):
        partial.unlink(missing_ok=True)
        raise OSError(f"{model}: llama.cpp could not write it as {quantization} to {path}")
    os.replace(partial, path)
