"""Thresholds of a gate's families, from held-out text: low enough that a right family is hardly ever removed.

On held-out text the text's own next token is right, and a gate that removes its family is wrong. A family's threshold
is the highest one at which this happens at no more than `max_missed` of the positions of the texts that hold the
family, or at one of them if that is less than one: a single position may be a mistake in the text. It lies between
`LOWEST` and the family's `highest`; only positions where the gate would remove it with that count. A family that is
less probable than `LOWEST` at more than `MOST_UNLIKELY` of its right positions has not been learned: its threshold is
so low that it is predicted at nearly all of them.

Before a reply's first language token, thresholds are fitted to such positions alone, and may be higher, but never are
lower. A low one makes room for names and words of another script in the middle of a reply; where a reply begins, it
lets the model begin in the wrong language. The usual ones are fitted to all other positions: a reply that rightly
begins in another script is hard to foresee, and says nothing of the middle of others.

Some Chinese characters may come from a lower probability on (`ALLOW`), whatever their thresholds. Families of
traditional ones are as probable as such characters are frequent, and a text can go on for long without one; hardly any
slips into other texts. Those that all share are right wherever any of Chinese and Japanese is.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ..gate.rule_set import FamilySet
from ..gate.scripts import SIBLINGS

HIGHEST = 0.5  # the paper's; a higher one would only look better on text that is as clean as the held-out text
HIGHEST_OF_SIBLINGS = 0.9  # of Han and kana: their labels are windowed, so that a right one is nearly certain
# From which probability a family may come; the gate does not count on it there: of the two ways to write a word that a
# question asks for, it would remove the other one.
ALLOW = {"han": 0.5, "hant": 0.1, "hantj": 0.1, "hanst": 0.5}
LOWEST = 0.01  # below it a gate hardly bans anything
MOST_UNLIKELY = 0.1  # share of a family's right positions
UNLEARNED = 1e-6  # the lowest of a family that the gate has not learned
UNSURE = 0.1  # of a family that is right at too few held-out positions
UNSURE_AT_FIRST = 0.15  # the same before the first language token: right ones are above it, see docs/training.md
LEAST_RIGHT = 20  # such positions


def highest(families: FamilySet) -> tuple[float, ...]:
    """The highest threshold that each family may get."""
    return tuple(HIGHEST_OF_SIBLINGS if name in SIBLINGS else HIGHEST for name in families.names)


def allowed_from(families: FamilySet) -> tuple[float, ...]:
    """The probability from which each family may come, predicted or not; 1: only where it is predicted."""
    return tuple(_narrow(ALLOW.get(name, 1.0)) for name in families.names)


@dataclass(frozen=True, eq=False)
class Judged:
    """Held-out positions, and what a gate makes of them.

    Attributes:
        z: float32 (n, n_families), the gate's logits.
        right: intp (n,), family of the text's own next token.
        is_removed: bool (n,), whether the gate would remove that family with the `highest` thresholds.
        text: int64 (n,), which text each position is of.
    """

    z: npt.NDArray[np.float32]
    right: npt.NDArray[np.intp]
    is_removed: npt.NDArray[np.bool_]
    text: npt.NDArray[np.int64]

    def at(self, where: npt.NDArray[np.bool_]) -> Judged:
        """Some of them."""
        return Judged(self.z[where], self.right[where], self.is_removed[where], self.text[where])

    def may_miss(self, family: int, max_missed: float) -> int:
        """At how many positions a family may be removed where it is right."""
        n = np.count_nonzero(np.isin(self.text, self.text[self.right == family]))
        return max(1, int(max_missed * n)) if max_missed > 0 else 0


def family_thresholds(
    found: Judged, families: FamilySet, max_missed: float, unsure: Sequence[float] = ()
) -> tuple[float, ...]:
    """Choose the threshold of each family.

    Args:
        found: What to choose them by.
        families: The families; those that are not maskable, and all with a `max_missed` of 1, get `HIGHEST`.
        max_missed: Share of the positions of the texts that hold a family at which it may be removed, 0 to 1.
        unsure: The threshold of each family that has fewer than `LEAST_RIGHT` right positions; empty: `UNSURE`.

    Returns:
        One for each family, exact in 32 bits.
    """
    with np.errstate(over="ignore"):
        probability = 1 / (1 + np.exp(-found.z.astype(np.float64)))
    thresholds = []
    unsure = unsure or (UNSURE,) * len(families)
    for f, (may_go, most) in enumerate(zip(families.maskable, highest(families))):
        is_right = found.right == f
        n_right = np.count_nonzero(is_right)
        if not may_go or max_missed >= 1:
            threshold = HIGHEST
        elif n_right < LEAST_RIGHT:
            threshold = unsure[f]
        else:
            is_learned = np.count_nonzero(probability[is_right, f] < LOWEST) <= MOST_UNLIKELY * n_right
            at_risk = np.sort(probability[is_right & found.is_removed if is_learned else is_right, f])
            threshold = next(iter(at_risk[found.may_miss(f, max_missed) :]), most)
            threshold = max(threshold, LOWEST if is_learned else UNLEARNED)
        thresholds.append(_narrow(min(threshold, most)))
    return tuple(thresholds)


def first_thresholds(
    usual: tuple[float, ...], found: Judged, families: FamilySet, max_missed: float, unsure: Sequence[float] = ()
) -> tuple[float, ...]:
    """Choose the thresholds before a reply's first language token, from such positions; see `family_thresholds`.

    Families that are `unsure` get `UNSURE_AT_FIRST` where nothing is given. One that the gate has not learned keeps its
    `usual` one.
    """
    fitted = family_thresholds(found, families, max_missed, unsure or (UNSURE_AT_FIRST,) * len(families))
    return tuple(own if own < _narrow(LOWEST) else max(own, first) for own, first in zip(usual, fitted))


def _narrow(value: float) -> float:
    """The largest number of 32 bits that is not above a number."""
    narrow = np.float32(value)
    return float(narrow if float(narrow) <= value else np.nextafter(narrow, np.float32(0)))
