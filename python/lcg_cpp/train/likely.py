"""The most likely tokens of positions: all that labels and decoding rules need of a row of logits.

Labels made of them are those of the whole row: a label is a matter of its few best tokens and of one sum over the
vocabulary, which is kept in double precision for each way of dividing logits. Only where more than `KEPT` -
`MOST_TOP_K` tokens are equal but for rounding at the border of a label may another of the equals be in it.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from .. import _core
from ..engine.output_norms import NORMS, label_norms
from ..errors import GateError
from ..gate.decisions import DecodingRules
from ..gate.steps import PAPER_SAMPLING, Steps
from .options import TrainOptions

KEPT = 32  # tokens of either order
MOST_TOP_K = 20  # of labels; the rest is for logits that are equal but for rounding

Floats64 = npt.NDArray[np.float64]


def before_softcap(logits: npt.NDArray[np.float32], softcap: float) -> Floats64:
    """The logits before the model's soft cap, as the label kernel takes them."""
    wide = logits.astype(np.float64)
    if not softcap > 0:
        return wide
    limit = 1 - 2.0**-24
    raw: Floats64 = softcap * np.arctanh(np.clip(wide / softcap, -limit, limit))
    return np.where(np.isfinite(wide), raw, wide)


@dataclass(frozen=True, eq=False)
class Likely:
    """The best tokens of n positions in two orders: by their logits, and by their logits over their norms."""

    ids: npt.NDArray[np.int32]  # (n, 2, k)
    logits: npt.NDArray[np.float32]  # (n, 2, k), the model's own
    log_sums: Floats64  # (n, 3): log of the sum of exp(logit / divisor) over the vocabulary, in the order of `NORMS`
    log_sum: Floats64  # (n,), `log_sum` of `Steps`, with the next two
    n_survivors: npt.NDArray[np.int32]  # (n,)
    n_confident: npt.NDArray[np.int32]  # (n,)

    @classmethod
    def of(cls, logits: npt.NDArray[np.float32], norms: npt.NDArray[np.float32], softcap: float) -> Likely:
        """Take them from the model's logits, float32 (n, n_vocab), with the norms of its output rows."""
        steps = Steps.of(logits, PAPER_SAMPLING, n_kept=KEPT)
        divisors = [label_norms(norms, norm) for norm in NORMS]
        adjusted, log_sums = _core.read_likely(logits, divisors, NORMS.index("relative"), KEPT, softcap, 0)
        ids = np.stack((steps.ids, adjusted), axis=1)
        kept = np.take_along_axis(logits[:, None], ids.astype(np.intp), 2)
        return cls(ids, kept, log_sums, steps.log_sum, steps.n_survivors, steps.n_confident)

    def steps(self, rules: DecodingRules) -> Steps:
        """What decoding rules look at, at the sampling that held-out scores are measured with."""
        k = max(PAPER_SAMPLING.top_k, *(top_k for top_k, _ in rules.confidence))
        return Steps(self.ids[:, 0, :k], self.logits[:, 0, :k], self.log_sum, self.n_survivors, self.n_confident)

    def labels(
        self,
        norms: npt.NDArray[np.float32] | None,
        softcap: float,
        families: npt.NDArray[np.uint8],
        n_families: int,
        options: TrainOptions,
    ) -> npt.NDArray[np.float32]:
        """The labels of `gate.labels.family_labels`, float32 (n, n_families)."""
        order = int(options.norm != "none")
        ids = self.ids[:, order]
        adjusted = before_softcap(self.logits[:, order], softcap)
        if norms is not None:
            adjusted /= norms[ids]
        ranked = np.lexsort((ids, -adjusted))[:, : options.top_k]
        ids, adjusted = np.take_along_axis(ids, ranked, 1), np.take_along_axis(adjusted, ranked, 1)
        best = adjusted[:, :1]
        weights = np.exp(adjusted - best)
        above = np.hstack((np.zeros_like(best), np.cumsum(weights, 1)[:, :-1]))
        total = np.exp(self.log_sums[:, [NORMS.index(options.norm)]] - best)
        kept = (adjusted > -np.inf) & ((above / total < options.top_p) | (options.top_p >= 1))
        kept[:, 0] = True
        shares = np.zeros((len(ids), n_families))
        np.add.at(shares, (np.arange(len(ids))[:, None], families[ids]), kept * weights if options.soft else kept)
        return (shares / shares.sum(1, keepdims=True) if options.soft else shares > 0).astype(np.float32)

    def __getitem__(self, rows: npt.NDArray[np.intp]) -> Likely:
        return Likely(*(getattr(self, field.name)[rows] for field in dataclasses.fields(self)))


def check_label_options(options: TrainOptions) -> None:
    """Refuse labels of more tokens than are kept.

    Raises:
        GateError: A label may hold more.
    """
    if not 1 <= options.top_k <= MOST_TOP_K:
        raise GateError(
            f"`top_k` is {options.top_k}, expected 1 to {MOST_TOP_K}: the states hold no more likely tokens"
        )
