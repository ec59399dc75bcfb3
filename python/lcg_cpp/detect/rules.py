"""The decoding rules on one more survivor: what keeps a token that is about to be chosen, if anything does."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ..gate.decisions import DecodingRules

Bools = npt.NDArray[np.bool_]

BANNED, ALLOWED, PERSISTENCE, FIRST_TOKEN, CONFIDENT, NOTHING_LEFT = range(6)
REASONS = (  # why a token is not removed, by the verdicts above but `BANNED`
    "the gate allows its family",
    "persistence: its family is that of the last word",
    "first token: the gate does not act before the first word",
    "confidence: the model finds nothing plausible that the gate allows",
    "nothing else could be chosen",
)


@dataclass(frozen=True, eq=False)
class Answers:
    """All that the rules look at where n questions were asked."""

    text: npt.NDArray[np.intp]  # (n,), the reply, counted from 0
    group: npt.NDArray[np.intp]  # (n,), index into `GROUPS`
    family: npt.NDArray[np.intp]  # (n,), family of the token that is asked about
    last: npt.NDArray[np.int64]  # (n,), family of the newest language token before it, NO_FAMILY if there is none
    z: npt.NDArray[np.float32]  # (n, n_families), the gate's logits
    survivors: Bools  # (n, n_families), the families whose ban removes the tokens in S
    confident: Bools  # (n, n_families), the families of the tokens in H
    confident_masked: Bools  # (n, n_families), the families whose ban removes these

    @classmethod
    def join(cls, parts: Sequence[Answers]) -> Answers:
        """Puts several one after another."""
        names = [column.name for column in dataclasses.fields(cls)]
        return cls(*(np.concatenate([getattr(part, name) for part in parts]) for name in names))

    def __len__(self) -> int:
        return len(self.family)

    @property
    def in_reach(self) -> Bools:
        """Whether S holds a token of the family anyway, bool (n,)."""
        held: Bools = self.survivors[np.arange(len(self)), self.family]
        return held

    def verdicts(self, rules: DecodingRules) -> npt.NDArray[np.intp]:
        """Apply the decoding rules with the token among the survivors.

        Gives intp (n,): BANNED, or the first thing that keeps the token.
        """
        rows = np.arange(len(self))
        survivors = self.survivors.copy()
        survivors[rows, self.family] = True
        rulings = rules.judge_families(self.z, self.last, survivors, self.confident, self.confident_masked)
        keeps = (
            rulings.predicted[rows, self.family] | (rulings.allowed[rows, self.family] & (self.family != self.last)),
            ~rulings.banned[rows, self.family],
            rulings.are("no_history"),
            rulings.are("not_confident"),
            rulings.are("would_empty"),
        )
        return np.select(keeps, range(ALLOWED, NOTHING_LEFT + 1), BANNED)
