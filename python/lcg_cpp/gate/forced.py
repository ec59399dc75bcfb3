"""The decoding rules on many positions of given texts at once: what the gate would do where the text goes its own way.

Array arithmetic on the most probable tokens of each position, where `Gate.decide` takes one position and all tokens.
Used to measure a gate without generating: while it is trained, and to analyze a model.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from ..errors import GateError
from .gate_file import CONFIDENCE, GateSpec
from .labels import top_tokens
from .options import LEAST_CONFIDENCE_TEMPERATURE, GateOptions

N_BEST = max(top_k for top_k, _ in CONFIDENCE)  # tokens kept of each position: all that the rules look at

NO_FAMILY = -1


@dataclass(frozen=True)
class Sampling:
    """A request's truncation and temperature; by default those of the paper's experiments (section 4.1).

    Attributes:
        temperature: Above 0.
        top_k: 1 to `N_BEST`.
        top_p: Up to 1.
        confidence_temperature: The least at which the confidence set is taken, as `GateOptions` has it.
    """

    temperature: float = 0.7
    top_k: int = 20
    top_p: float = 0.8
    confidence_temperature: float = LEAST_CONFIDENCE_TEMPERATURE

    def __post_init__(self) -> None:
        if not 1 <= self.top_k <= N_BEST:
            raise GateError(f"`top_k` is {self.top_k}, expected 1 to {N_BEST}")

    @property
    def confident_at(self) -> float:
        """The temperature at which the confidence set is taken."""
        return max(self.temperature, self.confidence_temperature)


@dataclass(frozen=True, eq=False)
class Candidates:
    """The most probable tokens at n positions.

    Attributes:
        ids: int32 (n, N_BEST), most probable first.
        logits: float32 (n, N_BEST).
        log_sum: float64 (n,), log of the sum over all tokens of exp(logit / temperature).
        confident_log_sum: float64 (n,), the same at the confidence set's temperature.
        sampling: The request.
    """

    ids: npt.NDArray[np.int32]
    logits: npt.NDArray[np.float32]
    log_sum: npt.NDArray[np.float64]
    confident_log_sum: npt.NDArray[np.float64]
    sampling: Sampling

    @classmethod
    def of(cls, logits: npt.NDArray[np.float32], sampling: Sampling = Sampling()) -> Candidates:
        """Takes them from logits, float32 (n, n_vocab)."""
        n_best = min(N_BEST, logits.shape[1])
        ids, best, log_sum = top_tokens(logits, n_best, temperature=sampling.temperature)
        confident_log_sum = log_sum
        if sampling.confident_at != sampling.temperature:
            confident_log_sum = top_tokens(logits, n_best, temperature=sampling.confident_at)[2]
        return cls(ids, best, log_sum, confident_log_sum, sampling)

    @classmethod
    def join(cls, parts: Sequence[Candidates]) -> Candidates:
        """Puts the positions of several one after another."""
        return cls(
            np.concatenate([part.ids for part in parts]),
            np.concatenate([part.logits for part in parts]),
            np.concatenate([part.log_sum for part in parts]),
            np.concatenate([part.confident_log_sum for part in parts]),
            parts[0].sampling,
        )

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, rows: slice | npt.NDArray[np.intp]) -> Candidates:
        return Candidates(
            self.ids[rows], self.logits[rows], self.log_sum[rows], self.confident_log_sum[rows], self.sampling
        )

    def survivors(self) -> npt.NDArray[np.bool_]:
        """S, bool (n, N_BEST): what top-k and then top-p leave; llama.cpp applies both before the temperature."""
        kept = np.arange(self.ids.shape[1]) < self.sampling.top_k
        kept = kept & np.isfinite(self.logits)
        shifted = np.where(kept, self.logits - self.logits[:, :1], -np.inf).astype(np.float64)
        p = np.exp(shifted)
        p /= p.sum(1, keepdims=True)
        return kept & (p.cumsum(1) - p < self.sampling.top_p)

    def probabilities(self) -> npt.NDArray[np.float64]:
        """float64 (n, N_BEST), among all tokens, at the request's temperature."""
        return np.exp(self.logits.astype(np.float64) / self.sampling.temperature - self.log_sum[:, None])

    def confident(self) -> npt.NDArray[np.bool_]:
        """H, bool (n, N_BEST): what the model itself is confident about."""
        p = np.exp(self.logits.astype(np.float64) / self.sampling.confident_at - self.confident_log_sum[:, None])
        before = p.cumsum(1) - p
        rank = np.arange(p.shape[1])
        finite = np.isfinite(self.logits)
        sets = [finite & (rank < top_k) & ((before < top_p) | (rank == 0)) for top_k, top_p in CONFIDENCE]
        held: npt.NDArray[np.bool_] = np.logical_or.reduce(sets)
        return held


@dataclass(frozen=True, eq=False)
class FamilyTable:
    """The families, as a gate file has them.

    Attributes:
        token_family: intp (n_vocab,), as used while decoding: exemptions applied.
        maskable: bool (n_families,).
        neutral: Index of the family that is no language.
    """

    token_family: npt.NDArray[np.intp]
    maskable: npt.NDArray[np.bool_]
    neutral: int

    @classmethod
    def of(cls, spec: GateSpec) -> FamilyTable:
        """The table of a gate."""
        token_family = spec.token_family.astype(np.intp)
        token_family[list(spec.exempt_tokens)] = spec.families.neutral
        return cls(token_family, np.array(spec.families.maskable), spec.families.neutral)


@dataclass(frozen=True, eq=False)
class Decisions:
    """What the gate would do at n positions.

    Attributes:
        intervene: bool (n,).
        banned: bool (n, n_families), B; of no effect where it does not intervene.
    """

    intervene: npt.NDArray[np.bool_]
    banned: npt.NDArray[np.bool_]


def last_families(
    tokens: npt.NDArray[np.integer[Any]], is_reply: npt.NDArray[np.bool_], families: FamilyTable
) -> npt.NDArray[np.int64]:
    """At each token, the family of the newest token of the same reply that is not neutral.

    Args:
        tokens: (n,), the ids of a text.
        is_reply: bool (n,), which of them belong to a reply.
        families: The families of the tokens.

    Returns:
        int64 (n,), NO_FAMILY outside of replies and before a reply's first such token.
    """
    family = families.token_family[tokens]
    at = np.arange(len(family))
    newest = np.maximum.accumulate(np.where(is_reply & (family != families.neutral), at, -1))
    outside = np.maximum.accumulate(np.where(is_reply, -1, at))
    return np.where(newest > outside, family[newest], NO_FAMILY)


def predict_and_allow(
    z: npt.NDArray[np.float32], last: npt.NDArray[np.int64], threshold: float, *, persistence: bool
) -> tuple[npt.NDArray[np.bool_], npt.NDArray[np.bool_]]:
    """The families that the gate predicts, P, and those that the rules allow, A (paper, section 3.3).

    Args:
        z: float32 (n, n_families), the gate's logits.
        last: int64 (n,), family of the newest language token of the reply, NO_FAMILY if there is none.
        threshold: Probability from which a family is predicted.
        persistence: Whether the newest family stays allowed.

    Returns:
        Both bool (n, n_families).
    """
    with np.errstate(over="ignore"):  # 1 / (1 + inf) is the 0 that it must be
        predicted = 1.0 / (1.0 + np.exp(-z.astype(np.float64))) >= threshold
    predicted[np.arange(len(z)), z.argmax(1)] = True
    allowed = predicted.copy()
    has_last = last != NO_FAMILY
    if persistence:
        allowed[np.flatnonzero(has_last), last[has_last]] = True
    return predicted, allowed


def decide(
    candidates: Candidates,
    z: npt.NDArray[np.float32],
    last: npt.NDArray[np.int64],
    families: FamilyTable,
    options: GateOptions = GateOptions(),  # noqa: B008 (frozen)
) -> Decisions:
    """Apply the decoding rules (paper, section 3.3) at every position.

    Args:
        candidates: The most probable tokens.
        z: float32 (n, n_families), the gate's logits.
        last: int64 (n,), family of the newest language token of the reply, NO_FAMILY if there is none.
        families: The families of the tokens.
        options: Threshold (None is 0.5) and which rules hold; `strength` and `mode` are ignored.

    Raises:
        GateError: The candidates' confidence set was taken at another temperature than the options say.
    """
    sampling = candidates.sampling
    if max(sampling.temperature, options.confidence_temperature) != sampling.confident_at:
        raise GateError(
            f"`confidence_temperature` is {options.confidence_temperature}, that of the candidates"
            f" {sampling.confidence_temperature}"
        )
    threshold = 0.5 if options.threshold is None else options.threshold
    predicted, allowed = predict_and_allow(z, last, threshold, persistence=options.persistence)
    banned = families.maskable & ~allowed
    family = families.token_family[candidates.ids]
    survivors, confident = candidates.survivors(), candidates.confident()

    def holds(tokens: npt.NDArray[np.bool_], wanted: npt.NDArray[np.bool_]) -> npt.NDArray[np.bool_]:
        found: npt.NDArray[np.bool_] = np.any(tokens & np.take_along_axis(wanted, family, 1), axis=1)
        return found

    may_act = np.logical_or(last != NO_FAMILY, options.first_token or not options.persistence)
    intervene = may_act & holds(survivors, banned) & holds(survivors | confident, ~banned)
    if options.confidence:
        intervene &= holds(confident, predicted)
    return Decisions(intervene, banned)
