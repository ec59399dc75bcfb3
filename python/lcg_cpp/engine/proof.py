"""The proof that the tap reads the state that a model's output matrix multiplies, before anything relies on it."""

from __future__ import annotations

import contextlib
from typing import Any

import numpy as np
import numpy.typing as npt
from llama_cpp import _internals as internals

from ..errors import GateError
from .connect import attach_tap, new_tap
from .output_norms import UndecodableTypeError, predict_logits

_N_TOKENS = 8
_OUTPUTS = (3, 7)  # the tokens whose logits are asked for
_LEAST_PART = 256  # tokens of each sequence at least, to llama.cpp
_N_LIKELY, _N_OTHERS = 32, 32  # logits that are computed again
# Right states differ by 0.5 to 1.3 % of the logits' spread (Q8_0; the engine rounds the state), those of another token
# by 46 % and more.
_MAX_ERROR = 0.1


def prove_hidden_state(model: internals.LlamaModel, params: Any, *, several: bool = False) -> int:
    """Evaluate a few tokens, and compute some of their logits again from what the tap gave; the width of the state.

    It takes a context of its own, with a copy of `params`, so that nothing of another context changes. A model is
    refused, with its architecture's name, if its logits are not finite or all equal, or no state was captured, or it is
    not the one that the output matrix multiplies. The tokens are one text, or `several` of a token each.
    """
    architecture = model.metadata().get("general.architecture", "")
    refusal = f"{model.path_model}: lcg-cpp cannot use the architecture {architecture} in this llama-cpp-python: "
    logits, hidden = _evaluate(model, params, _N_TOKENS if several else 1)
    if not np.isfinite(logits).all() or (logits.min(axis=1) == logits.max(axis=1)).any():
        raise GateError(f"{refusal}its logits are all equal or not finite")
    if hidden is None:
        raise GateError(f"{refusal}its graph does not name the hidden state `result_norm`")
    error = _relative_error(model.path_model, logits, hidden)
    if error > _MAX_ERROR:
        raise GateError(
            f"{refusal}hidden state · output matrix differs from the logits by {error:.0%} of their spread,"
            f" expected at most {_MAX_ERROR:.0%}"
        )
    return hidden.shape[1]


def _evaluate(
    model: internals.LlamaModel, params: Any, n_sequences: int
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32] | None]:
    """Logits (n, n_vocab) and hidden states (n, n_embd) of the outputs; None where one has no state."""
    n_vocab = model.n_vocab()
    params = type(params).from_buffer_copy(params)
    params.n_ctx = _N_TOKENS if n_sequences == 1 else n_sequences * _LEAST_PART
    params.n_batch = params.n_ubatch = _N_TOKENS
    params.n_seq_max = n_sequences
    tap = new_tap(_N_TOKENS)
    tap.active = True
    attach_tap(tap, params)
    try:
        context = internals.LlamaContext(model=model, params=params, verbose=False)
    except ValueError as error:
        raise GateError(f"{model.path_model}: llama.cpp cannot make a context of {_N_TOKENS} tokens") from error
    with contextlib.closing(context):
        batch = internals.LlamaBatch(n_tokens=_N_TOKENS, embd=0, n_seq_max=1, verbose=False)
        with contextlib.closing(batch):
            tokens = [n_vocab * (i + 1) // (_N_TOKENS + 1) for i in range(_N_TOKENS)]
            batch.set_batch(tokens, 0, False)
            for i in range(_N_TOKENS if n_sequences > 1 else 0):
                batch.batch.pos[i], batch.batch.seq_id[i][0] = 0, i
            for token in _OUTPUTS:
                batch.batch.logits[token] = True
            try:
                context.decode(batch)
            except RuntimeError as error:
                raise GateError(f"{model.path_model}: llama.cpp failed to evaluate {_N_TOKENS} tokens") from error
            logits = [np.ctypeslib.as_array(context.get_logits_ith(i), (n_vocab,)).copy() for i in _OUTPUTS]
            hidden = [tap.row_of(context.ctx or 0, i, n_vocab) for i in _OUTPUTS]
    found = [row for row in hidden if row is not None]
    return np.stack(logits), np.stack(found) if len(found) == len(hidden) else None


def _relative_error(path: str, logits: npt.NDArray[np.float32], hidden: npt.NDArray[np.float32]) -> float:
    """RMS of what differs between logits and those computed from `hidden`, over their standard deviation.

    A matrix that cannot be decoded here proves nothing and refutes nothing: 0.
    """
    likely = np.argpartition(-logits, min(_N_LIKELY, logits.shape[1] - 1), axis=1)[:, :_N_LIKELY]
    others = np.linspace(0, logits.shape[1] - 1, _N_OTHERS, dtype=np.intp)
    tokens = np.union1d(likely, others)
    try:
        predicted = predict_logits(path, hidden, tokens)
    except UndecodableTypeError:
        return 0.0
    found = logits[:, tokens].astype(np.float64)
    return min(float((np.square(found - p).mean(axis=1) ** 0.5 / found.std(axis=1)).max()) for p in predicted)
