"""Measuring a gate on held-out text while it is trained."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from ..gate.decisions import NO_FAMILY, DecodingRules
from ..gate.steps import Steps
from ..gate.thresholds import Thresholds
from .thresholds import Judged, allowed_from, family_thresholds, first_thresholds, highest

MAX_BYTES = 256 << 20  # of the states that are kept
MAX_STATES = 16_384


@dataclass(frozen=True)
class FamilyScore:
    """How well a gate knows one family, against the labels.

    Attributes:
        positions: Positions whose label holds the family.
        precision: Share of its predictions that are in the label; NaN if there are none.
        recall: Share of the labels that are predicted; NaN if there are none.
        threshold: Probability from which the gate file will predict it, see `train.thresholds`; the shares are at 0.5.
        first_threshold: The same before a reply's first language token.
        allow_threshold: Probability from which it may come, predicted or not; 1: only where it is.
    """

    positions: int
    precision: float
    recall: float
    threshold: float = 0.5
    first_threshold: float = 0.5
    allow_threshold: float = 1.0

    @property
    def f1(self) -> float:
        """Harmonic mean of precision and recall; 0 where either is, NaN where the family is nowhere."""
        if 0 in (self.precision, self.recall):  # the other may be NaN
            return 0.0
        return 2 * self.precision * self.recall / (self.precision + self.recall)


@dataclass(frozen=True)
class Scores:
    """A gate on held-out text.

    Attributes:
        positions: Positions measured.
        loss: Binary cross-entropy against the labels, mean over positions and families.
        families: Name of each family -> its score.
        intervene: Share of positions at which the gate would act, at the paper's sampling.
        contradict: Share at which it would then ban the very token that the text goes on with. On clean text these
            are mistakes.
    """

    positions: int
    loss: float
    families: dict[str, FamilyScore]
    intervene: float
    contradict: float

    def as_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Scores:
        """The other way."""
        families = {name: FamilyScore(**score) for name, score in values["families"].items()}
        return cls(**{**values, "families": families})


@dataclass(frozen=True, eq=False)
class HeldOut:
    """Everything that is needed of held-out positions.

    Attributes:
        hidden: float32 (n, n_embd).
        labels: float32 (n, n_families).
        steps: What the rules look at.
        last: int64 (n,), family of the newest language token of the reply.
        following: int64 (n,), the text's own next token.
        text: int64 (n,), which text each position is of.
        rules: The decoding rules, but for the thresholds.
        max_missed: How often a right family may be removed, see `family_thresholds`; 1 leaves the thresholds at 0.5.
        known: Thresholds of the gate that training goes on from, which families keep that the text hardly holds.
    """

    hidden: npt.NDArray[np.float32]
    labels: npt.NDArray[np.float32]
    steps: Steps
    last: npt.NDArray[np.int64]
    following: npt.NDArray[np.int64]
    text: npt.NDArray[np.int64]
    rules: DecodingRules
    max_missed: float = 1.0
    known: Thresholds = field(default_factory=Thresholds)

    def measure(
        self, predict: Callable[[npt.NDArray[np.float32]], npt.NDArray[np.float32]], spared: Collection[str] = ()
    ) -> Scores:
        """Measure a gate.

        Args:
            predict: float32 (n, n_embd) -> z, float32 (n, n_families).
            spared: Families that the gate never masks, for want of lessons.
        """
        z = predict(self.hidden)
        wide = z.astype(np.float64)
        with np.errstate(invalid="ignore"):  # a gate that has diverged has no loss
            loss = np.maximum(wide, 0) - wide * self.labels + np.log1p(np.exp(-np.abs(wide)))
        families = replace(self.rules.families, families=self.rules.families.families.unmaskable(spared))
        right = families.token_family[self.following]

        def judge(thresholds: Thresholds) -> tuple[npt.NDArray[np.bool_], npt.NDArray[np.bool_]]:
            """Where the gate acts, and where it then removes the right family."""
            rulings = replace(self.rules, families=families, thresholds=thresholds).judge(self.steps, z, self.last)
            return rulings.intervene, rulings.intervene & rulings.banned[np.arange(len(z)), right]

        _, is_removed = judge(Thresholds(highest(families.families)))
        at = self.last == NO_FAMILY
        found = Judged(z, right, is_removed, self.text)
        usual = family_thresholds(found.at(~at), families.families, self.max_missed, self.known.usual)
        first = first_thresholds(usual, found.at(at), families.families, self.max_missed, self.known.first)
        allow = allowed_from(families.families) if self.max_missed < 1 else (1.0,) * len(usual)
        acts, contradicts = judge(Thresholds(usual, first, allow))
        return Scores(
            positions=len(z),
            loss=float(loss.mean()),
            families={
                name: _score(z[:, f] >= 0, self.labels[:, f] >= 0.5, (usual[f], first[f], allow[f]))
                for f, name in enumerate(families.names)
            },
            intervene=float(acts.mean()),
            contradict=float(contradicts.mean()),
        )


def _score(
    predicted: npt.NDArray[np.bool_], wanted: npt.NDArray[np.bool_], thresholds: tuple[float, float, float]
) -> FamilyScore:
    both, n_predicted, n_wanted = (int(np.count_nonzero(x)) for x in (predicted & wanted, predicted, wanted))
    precision, recall = (both / n if n else np.nan for n in (n_predicted, n_wanted))
    return FamilyScore(n_wanted, precision, recall, *thresholds)
