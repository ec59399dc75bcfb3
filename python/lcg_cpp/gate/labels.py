"""What a gate learns from: the families of the tokens that the base model itself finds likely."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from .. import _core
from ..errors import GateError
from .rule_set import MAX_FAMILIES

# What measured best (docs/settings.md); the paper divides by the bare norm (`token`) and takes 20 tokens up to 0.95.
LABEL_TOP_K, LABEL_TOP_P, LABEL_NORM = 5, 0.9, "relative"


def family_labels(
    logits: npt.NDArray[np.float32],
    norms: npt.NDArray[np.float32] | None,
    families: npt.NDArray[np.uint8],
    top_k: int = 20,
    top_p: float = 0.95,
    *,
    n_families: int = 4,
    soft: bool = False,
    softcap: float = 0.0,
    n_threads: int = 0,
) -> npt.NDArray[np.float32]:
    """Labels positions of a text by norm-adjusted self-distillation (paper, section 3.2).

    S is the top-k/top-p set of the adjusted logits, logit / norm in double precision: sorted by probability (softmax
    over the whole vocabulary, equal ones by id), at most `top_k` tokens, and of these each whose more probable
    predecessors sum to less than `top_p`. The most probable token is always in S, a token at -inf never is.

    Args:
        logits: float32 (n, n_vocab), C-contiguous; read in place, so it may be a view on llama.cpp's own buffer.
        norms: float32 (n_vocab,), above 0: the norms of the output matrix's rows, absolute or relative to their mean.
            None divides by nothing.
        families: uint8 (n_vocab,), the family of each token.
        top_k: The most tokens that S may hold; 0 is no limit.
        top_p: Above 0, at most 1; 1 leaves `top_k` the only limit.
        n_families: 2 to 127.
        soft: Return each family's share of the probability of S instead of 0 or 1.
        softcap: The model's soft cap c on its logits (Gemma 2: 30), which is undone first: c * atanh(logit / c). A
            logit that was rounded to c itself is taken for (1 - 2^-24) c. 0 is no cap.
        n_threads: 0 takes all cores. The labels do not depend on it.

    Returns:
        float32 (n, n_families): 1 for each family that S holds a token of, otherwise 0; with `soft`, shares that sum
        to 1.

    Raises:
        GateError: An argument has a wrong type, shape or value, a logit is NaN or +inf, or a row is -inf throughout.
    """
    check_array("logits", logits, np.float32)
    check_array("families", families, np.uint8)
    if norms is not None:
        check_array("norms", norms, np.float32)
    if top_k < 0:
        raise GateError(f"`top_k` is {top_k}, expected a number of tokens, or 0 for no limit")
    if not 0 < top_p <= 1:
        raise GateError(f"`top_p` is {top_p}, expected a probability above 0, at most 1")
    if not 2 <= n_families <= MAX_FAMILIES:
        raise GateError(f"`n_families` is {n_families}, expected 2 to {MAX_FAMILIES}")
    if not 0 <= softcap < math.inf:
        raise GateError(f"`softcap` is {softcap}, expected the model's soft cap, or 0 for none")
    check_threads(n_threads)
    return _core.family_labels(logits, norms, families, n_families, top_k, top_p, soft, softcap, n_threads)


def check_array(name: str, array: object, dtype: type[np.generic]) -> None:
    """Refuses what the core could only read by copying it.

    Raises:
        GateError: It has another type, or is not contiguous.
    """
    if not isinstance(array, np.ndarray) or array.dtype != dtype:
        found = f"an array of {array.dtype}" if isinstance(array, np.ndarray) else f"a {type(array).__name__}"
        raise GateError(f"`{name}` is {found}, expected an array of {np.dtype(dtype)}")
    if not array.flags.c_contiguous:
        raise GateError(f"`{name}` is strided by {array.strides} bytes, expected a C-contiguous array")


def check_threads(n_threads: int) -> None:
    """Refuses a negative number of threads."""
    if n_threads < 0:
        raise GateError(f"`n_threads` is {n_threads}, expected a number of threads, or 0 for all cores")
