"""Steps of decoding on given texts: what a request could sample at each of them, and what the model is sure of."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from .. import _core
from ..errors import GateError
from .labels import check_array, check_threads
from .options import LEAST_CONFIDENCE_TEMPERATURE
from .spec import CONFIDENCE

MAX_TOP_K = 1024  # so many tokens are kept of every step


@dataclass(frozen=True)
class Sampling:
    """A request's truncation and temperature; by default those of the paper's experiments (section 4.1)."""

    temperature: float = 0.7  # above 0
    top_k: int = 20  # 1 to `MAX_TOP_K`
    top_p: float = 0.8  # above 0, at most 1

    def __post_init__(self) -> None:
        # checked as the core will see it: 1e-60 is 0 in 32 bits
        if not 0 < np.float32(self.temperature) < math.inf:
            raise GateError(f"`temperature` is {self.temperature}, expected more than 0")
        if not 1 <= self.top_k <= MAX_TOP_K:
            raise GateError(f"`top_k` is {self.top_k}, expected 1 to {MAX_TOP_K}")
        if not 0 < np.float32(self.top_p) <= 1:
            raise GateError(f"`top_p` is {self.top_p}, expected more than 0 and at most 1")


PAPER_SAMPLING = Sampling()


@dataclass(frozen=True, eq=False)
class Steps:
    """The most probable tokens at n steps: S and H are the first few of them."""

    ids: npt.NDArray[np.int32]  # (n, k), most probable first, equal ones by id
    logits: npt.NDArray[np.float32]  # (n, k)
    # (n,), which makes probabilities of them: exp(logit / temperature - log_sum); to 1e-6
    log_sum: npt.NDArray[np.float64]
    # (n,), tokens in S, what top-k and then top-p leave; llama.cpp applies both before the temperature
    n_survivors: npt.NDArray[np.int32]
    n_confident: npt.NDArray[np.int32]  # (n,), tokens in H, what the model itself is confident about

    @classmethod
    def of(
        cls,
        logits: npt.NDArray[np.float32],
        sampling: Sampling = PAPER_SAMPLING,
        confidence: Sequence[tuple[int, float]] = CONFIDENCE,
        confidence_temperature: float = LEAST_CONFIDENCE_TEMPERATURE,
        *,
        n_kept: int = 1,
        n_threads: int = 0,
    ) -> Steps:
        """Take them from the model's logits.

        Args:
            logits: float32 (n, n_vocab), C-contiguous; read in place, so it may be a view on llama.cpp's own buffer.
            sampling: The request.
            confidence: (top-k, top-p) of the sets whose union is H.
            confidence_temperature: The least at which H is taken, see `GateOptions`.
            n_kept: Tokens that are wanted of each step, at least; S and H may need more.
            n_threads: 0 takes all cores.

        Raises:
            GateError: An argument has a wrong type, shape or value, a logit is NaN or +inf, or a row is -inf
                throughout.
        """
        check_array("logits", logits, np.float32)
        check_threads(n_threads)
        n_best = max(n_kept, sampling.top_k, *(top_k for top_k, _ in confidence))
        confident_at = max(sampling.temperature, confidence_temperature)
        return cls(
            *_core.read_steps(
                logits,
                n_best,
                sampling.top_k,
                sampling.top_p,
                sampling.temperature,
                confident_at,
                list(confidence),
                n_threads,
            )
        )

    @classmethod
    def join(cls, parts: Sequence[Steps]) -> Steps:
        """Put the steps of several one after another."""
        names = [column.name for column in dataclasses.fields(cls)]
        return cls(*(np.concatenate([getattr(part, name) for part in parts]) for name in names))

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, rows: slice | npt.NDArray[np.intp]) -> Steps:
        return Steps(*(getattr(self, column.name)[rows] for column in dataclasses.fields(self)))

    def survivors(self) -> npt.NDArray[np.bool_]:
        """Which of the tokens are in S, bool (n, k)."""
        return np.arange(self.ids.shape[1]) < self.n_survivors[:, None]

    def confident(self) -> npt.NDArray[np.bool_]:
        """Which of the tokens are in H, bool (n, k)."""
        return np.arange(self.ids.shape[1]) < self.n_confident[:, None]
