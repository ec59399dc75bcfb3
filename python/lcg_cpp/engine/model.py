"""The facts of a base model, read from llama.cpp."""

from __future__ import annotations

import functools
import os
from pathlib import Path

import numpy as np
from llama_cpp import _internals as internals
from llama_cpp import llama_cpp as bindings

from .. import _core
from ..errors import GateError
from ..files import PathLike, require_regular
from .base_model import TYPE_BITS, BaseModel, Vocab
from .connect import connect_core
from .gguf_header import read_texts


def read_vocab(model: internals.LlamaModel) -> Vocab:
    """The tokens of a loaded model."""
    connect_core()
    data, offsets, attributes = _core.read_vocab(model.vocab)
    bounds = offsets.tolist()
    tokens = tuple(data[begin:end] for begin, end in zip(bounds, bounds[1:]))
    path = Path(model.path_model).absolute()
    texts = functools.partial(read_texts, path, "tokenizer.ggml.tokens")
    return Vocab(tokens, attributes & np.uint32(TYPE_BITS), texts)


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
    )


def read_base_model(path: PathLike) -> BaseModel:
    """Read what a gate must know of a base model, without loading its weights.

    Args:
        path: A GGUF model; one that holds only a vocabulary will do.

    Returns:
        The facts. `n_embd` is 0 where the file does not say.

    Raises:
        GateError: llama.cpp cannot load the file.
        OSError: The file cannot be read.
    """
    name = os.fspath(path)
    require_regular(name)
    bindings.llama_backend_init()
    params = bindings.llama_model_default_params()
    params.vocab_only = True
    try:
        model = internals.LlamaModel(path_model=name, params=params, verbose=False)
    except ValueError as error:
        raise GateError(f"{name}: llama.cpp cannot load it, is it a GGUF model?") from error
    try:
        metadata = model.metadata()
        n_embd = metadata.get(f"{metadata.get('general.architecture', '')}.embedding_length", "0")
        return describe_model(model, int(n_embd))
    finally:
        model.close()
