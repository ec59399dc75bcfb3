"""The facts of a base model, read from llama.cpp."""

from __future__ import annotations

import contextlib
import ctypes
import functools
import logging
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from llama_cpp import _internals as internals
from llama_cpp import _logger
from llama_cpp import llama_cpp as bindings

from .. import _core
from ..errors import GateError
from ..files import PathLike, require_regular
from .base_model import TYPE_BITS, BaseModel, Vocab
from .connect import connect_core
from .fingerprint import model_fingerprint
from .gguf_header import read_header, read_texts


def quiet_log() -> None:
    """Let llama.cpp's log go nowhere from now on.

    `verbose=False` still lets warnings through: llama_cpp takes their level, 3, for that of errors.
    """
    logging.getLogger("llama-cpp-python").setLevel(logging.CRITICAL + 1)  # what llama_cpp asks before it prints it


def read_vocab(model: internals.LlamaModel) -> Vocab:
    """The tokens of a loaded model."""
    connect_core()
    data, offsets, attributes = _core.read_vocab(model.vocab)
    bounds = offsets.tolist()
    tokens = tuple(data[begin:end] for begin, end in zip(bounds, bounds[1:]))
    path = Path(model.path_model).absolute()
    texts = functools.partial(read_texts, path, "tokenizer.ggml.tokens")
    return Vocab(tokens, attributes & np.uint32(TYPE_BITS), texts)


@contextlib.contextmanager
def failure_reason(path: str) -> Iterator[None]:
    """Give llama.cpp's own reason, as a GateError, where llama_cpp only says that a model failed to load."""
    lines: list[str] = []

    def collect(level: int, text: bytes, user_data: Any) -> None:
        lines.append(text.decode(errors="replace").strip())
        _logger.llama_log_callback(level, text, user_data)

    nothing, callback = ctypes.c_void_p(0), bindings.llama_log_callback(collect)
    bindings.llama_log_set(callback, nothing)
    try:
        yield
    except ValueError as error:
        if not str(error).startswith("Failed to "):
            raise
        reason = _reason(lines) or str(error)
        if "failed to load model from" in reason:
            read_header(Path(path))  # knows where a file ends too early
        raise GateError(f"{path}: llama.cpp cannot load it: {reason}") from error
    finally:
        bindings.llama_log_set(_logger.llama_log_callback, nothing)


def _reason(log: list[str]) -> str:
    """The most telling line of llama.cpp's log of a load that failed."""
    for pattern in (r"(invalid magic .+)", r"error loading model(?: [a-z]+)?: (.+)", r"((?:failed|error|unable) .+)"):
        found = [match[1] for match in (re.search(pattern, line) for line in log) if match]
        if found:
            return found[-1]
    return ""


def require_open(model: internals.LlamaModel) -> None:
    """Refuse a model that was closed: llama.cpp would follow a pointer to what is no longer there."""
    if model.model is None:
        raise GateError(f"{model.path_model}: the model is closed")


def require_vocabulary(model: internals.LlamaModel) -> None:
    """Refuse a model without tokens: llama.cpp ends the process where it is asked for one."""
    if bindings.llama_vocab_type(model.vocab) == bindings.LLAMA_VOCAB_TYPE_NONE or model.n_vocab() == 0:
        stated = model.metadata().get("tokenizer.ggml.model", "")
        raise GateError(
            f'{model.path_model}: has no vocabulary (`tokenizer.ggml.model` is "{stated}"), expected a model with its'
            " tokens; convert it again, with its tokenizer"
        )


def require_decoder(model: internals.LlamaModel) -> None:
    """Refuse a model with an encoder: llama.cpp ends the process where its decoder is asked first."""
    if bindings.llama_model_has_encoder(model.model) or not bindings.llama_model_has_decoder(model.model):
        raise GateError(f"{model.path_model}: has an encoder, expected a model with a decoder only")


def require_tokens(context: internals.LlamaContext) -> None:
    """Refuse an encoder alone, such as BERT: it has no memory, and rows of zeros for logits."""
    if context.memory is None or context.pooling_type() != bindings.LLAMA_POOLING_TYPE_NONE:
        raise GateError(f"{context.model.path_model}: makes embeddings of texts, expected a model that generates text")


def describe_model(model: internals.LlamaModel, n_embd: int, vocab: Vocab | None = None) -> BaseModel:
    """The facts of a loaded model; `n_embd` is the width of its last hidden state, `vocab` its tokens if known."""
    metadata = model.metadata()
    file_type = metadata.get("general.file_type", "")
    if file_type.isdigit():
        file_type = bindings.llama_ftype_name(int(file_type)).decode()
    return BaseModel(
        path=model.path_model,
        name=metadata.get("general.name") or os.path.splitext(os.path.basename(model.path_model))[0],
        architecture=metadata.get("general.architecture", ""),
        n_embd=n_embd,
        vocab=read_vocab(model) if vocab is None else vocab,
        file_type=file_type,
        metadata=metadata,
        weights=functools.cache(functools.partial(model_fingerprint, model.path_model)),
    )


def read_base_model(path: PathLike) -> BaseModel:
    """Read what a gate must know of a base model, without loading its weights; a GGUF file of a vocabulary will do.

    `n_embd` is 0 where the file does not say.
    """
    name = os.fspath(path)
    require_regular(name)
    bindings.llama_backend_init()
    params = bindings.llama_model_default_params()
    params.vocab_only = True
    with failure_reason(name):
        model = internals.LlamaModel(path_model=name, params=params, verbose=False)
    try:
        require_vocabulary(model)
        metadata = model.metadata()
        n_embd = metadata.get(f"{metadata.get('general.architecture', '')}.embedding_length", "0")
        return describe_model(model, int(n_embd) if n_embd.isdigit() else 0)
    finally:
        model.close()
