"""Confusion points: where a model would leave the script of the text it is given, and what its labels make of it.

Pure functions of logits and tokens. At a position the model predicts the token that the text goes on with; what it
would have sampled there instead is compared with that token. Let

- g be the family of the text's own token (the right family). Positions where it is neutral say nothing: left out;
- S be the survivors: what the request's top-k and top-p leave;
- `last` be the family of the newest language token of the same reply, which a gate never bans;
- B be the maskable families other than `last` with a token in S: what a gate could ban here.

The position is a *confusion point* if B holds a family other than g (a wrong family), and a *switch point* if B holds
g: there the text changes its script, the model would follow, and a ban would be a mistake. It can be both.

Where Chinese and Japanese have several families (the rule set `scripts`), those that the reply uses anywhere are one:
which of them comes next is chance, so none of them is wrong where another is right.

A text can often go on in two ways (a name in its own script or in Latin), so confusion points are an upper bound.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Optional

import numpy as np
import numpy.typing as npt

from ..gate.decisions import NO_FAMILY, FamilyTable
from ..gate.scripts import SIBLINGS
from ..gate.steps import Sampling, Steps

N_RANKS = 20  # of the most probable tokens
BEYOND = 0  # the rank of a right token that is not among them
Norms = Optional[npt.NDArray[np.float32]]


@dataclass(frozen=True, eq=False)
class Points:
    """What there is to say of n positions."""

    right: npt.NDArray[np.intp]  # (n,), g; the neutral family where the position says nothing
    wrong: npt.NDArray[np.bool_]  # (n, n_families), the families of B other than g
    switch: npt.NDArray[np.bool_]  # (n,), whether B holds g
    # (n,), probability that the request samples a token of a wrong family (temperature applied, among the
    # survivors)
    chance: npt.NDArray[np.float64]
    # (n,), whether the most probable token is of a wrong family: greedy decoding takes it
    wrong_is_top: npt.NDArray[np.bool_]
    # (n,), rank of the most probable token of family g among all tokens, from 1; `BEYOND` if it is not among the
    # N_RANKS most probable
    rank: npt.NDArray[np.intp]

    @property
    def confused(self) -> npt.NDArray[np.bool_]:
        """Which of them are confusion points, bool (n,)."""
        found: npt.NDArray[np.bool_] = np.logical_or.reduce(self.wrong, axis=1)
        return found

    @classmethod
    def of(
        cls,
        steps: Steps,
        sampling: Sampling,
        last: npt.NDArray[np.int64],
        following: npt.NDArray[np.integer[Any]],
        families: FamilyTable,
        mixed: npt.NDArray[np.bool_] | None = None,
    ) -> Points:
        """Compare n positions with their text.

        `steps` hold at least `N_RANKS` tokens each. `last`, int64 (n,), is the family of the newest language token of
        the reply, NO_FAMILY if there is none; `following`, (n,), are the text's own next tokens; `mixed`, bool
        (n, n_families), are families of Chinese and Japanese that the reply mixes, see `mixed_families`.
        """
        rows = np.arange(len(steps))
        family = families.token_family[steps.ids]  # (n, k)
        right = families.token_family[following]
        survivors = steps.survivors()
        is_right_family = np.zeros((len(steps), len(families.maskable)), np.bool_)
        if mixed is not None:
            is_right_family[:] = mixed & mixed[rows, right][:, None]
        is_right_family[rows, right] = True
        could_ban = families.maskable & families.held(steps, survivors)
        has_last = rows[last != NO_FAMILY]
        could_ban[has_last, last[has_last]] = False
        could_ban[right == families.neutral] = False
        switch = could_ban[rows, right]
        switch[has_last] &= ~is_right_family[has_last, last[has_last]]
        wrong = could_ban & ~is_right_family
        is_wrong = np.take_along_axis(wrong, family, 1)
        above = (steps.logits - steps.logits[:, :1]).astype(np.float64)  # at most 0
        weights = survivors * np.exp(above / sampling.temperature)
        is_right = (np.take_along_axis(is_right_family, family, 1) & np.isfinite(steps.logits))[:, :N_RANKS]
        return cls(
            right=right,
            wrong=wrong,
            switch=switch,
            chance=(weights * is_wrong).sum(1) / weights.sum(1),
            wrong_is_top=is_wrong[:, 0],
            rank=np.where(is_right.any(1), is_right.argmax(1) + 1, BEYOND),
        )


def mixed_families(reply: npt.NDArray[np.integer[Any]], families: FamilyTable) -> npt.NDArray[np.bool_]:
    """Which families of Chinese and Japanese some tokens have, bool (n_families,)."""
    siblings = np.array([name in SIBLINGS for name in families.names])
    siblings[np.setdiff1d(np.arange(len(siblings)), families.token_family[reply])] = False
    return siblings


@dataclass(frozen=True)
class Shown:
    """One token in the table of a position."""

    token: int  # its id
    family: int  # its family, as used while decoding
    # for each norm, its probability among all tokens, at temperature 1 as when labels are made
    probabilities: tuple[float, ...]
    in_label: tuple[bool, ...]  # for each norm, whether it is in the set that makes the label


def compare_norms(
    logits: npt.NDArray[np.float32],
    norms: Sequence[Norms],
    own: int,
    families: FamilyTable,
    *,
    label: tuple[int, float],
    softcap: float = 0.0,
    n_shown: int = 5,
) -> tuple[Shown, ...]:
    """What dividing by the output norms does to the most probable tokens (paper, Figure 2).

    `logits`, float32 (n_vocab,), are of one position. Of `norms`, each float32 (n_vocab,) or None for nothing, the
    first one orders. `label` is the top-k (0 is no limit) and the top-p, below 1, that make the label. The result is
    the union of the `n_shown` most probable tokens of each norm, and the text's own, most probable first.
    """
    raw = logits.astype(np.float64)
    if softcap > 0:
        bound = float(np.nextafter(np.float32(1), np.float32(0)))  # a logit can be rounded to the cap itself
        raw = np.where(np.isfinite(raw), softcap * np.arctanh(np.clip(raw / softcap, -bound, bound)), raw)
    top_k = label[0] or len(raw)
    request = Sampling(temperature=1.0, top_k=n_shown, top_p=1.0)
    by_norm = []
    shown = {own}
    for divisor in norms:
        adjusted = (raw if divisor is None else raw / divisor).astype(np.float32)
        step = Steps.of(adjusted[None], request, [(top_k, label[1])], 1.0)  # the label's set, as if it were H
        best = step.ids[0].tolist()
        by_norm.append((adjusted, step.log_sum[0], set(best[: step.n_confident[0]])))
        shown |= set(best[:n_shown])
    first = by_norm[0][0]
    return tuple(
        Shown(
            token=token,
            family=int(families.token_family[token]),
            probabilities=tuple(float(np.exp(adjusted[token] - log_sum)) for adjusted, log_sum, _ in by_norm),
            in_label=tuple(token in members for _, _, members in by_norm),
        )
        for token in sorted(shown, key=lambda token: (-first[token], token))
    )


@dataclass(frozen=True)
class LabelSetting:
    """One way to make labels."""

    norm: str  # what logits are divided by: `none`, `token` or `relative`, see `output_norms.label_norms`
    top_k: int  # at most so many tokens make the label
    top_p: float  # and only until they hold this much probability


@dataclass
class LabelOutcome:
    """What labels made in one way say at confusion and switch points: a gate learns to say the same."""

    repaired: int = 0  # confusion points whose label holds none of the wrong families
    wrong: float = 0.0  # sum over confusion points of the wrong families' share of the label's probability
    kept: int = 0  # switch points whose label holds the family that the text changes to


@dataclass(frozen=True)
class Position:
    """A confusion point in full."""

    dataset: str
    row: int  # which of its usable rows, from 0
    index: int  # which token of the rendered text is predicted, from 0
    before: tuple[int, ...]  # the tokens before it, the newest ones
    own: int  # the text's own token
    right: int  # its family
    wrong: tuple[int, ...]  # the wrong families
    chance: float  # probability that the request samples a token of a wrong family
    repaired: tuple[bool, ...]  # for each norm, whether its label holds none of the wrong families
    candidates: tuple[Shown, ...]  # its most probable tokens, before and after the division


N_CHANCES = 10  # bins of `TextReport.chances`


class Tally:
    """Counts over positions; nothing is kept of a position.

    Attributes:
        positions: Positions seen.
        language: int64 (n_families,), those whose right family is a language, by it.
        confused: int64 (n_families,), confusion points, by right family.
        intruders: int64 (n_families, n_families), how often the second family was wrong where the first one is right.
        at_start: Confusion points before the first language token of a reply.
        wrong_is_top: Confusion points whose most probable token is of a wrong family.
        ranks: int64 (N_RANKS + 1,), confusion points by rank of the first right token; at `BEYOND` the others.
        chance: Sum of `Points.chance`: how many wrong tokens the request would sample.
        chance_is_top: The part of `chance` that is at points counted in `wrong_is_top`.
        chance_ranks: float64 (N_RANKS + 1,), `chance` by rank as in `ranks`.
        chances: int64 (N_CHANCES,), confusion points by `Points.chance`, in steps of 1 / N_CHANCES.
        switches: Switch points.
        labels: Each way of making labels -> its outcome.
    """

    def __init__(self, families: FamilyTable, settings: Sequence[LabelSetting]) -> None:
        n = len(families.maskable)
        self.positions = self.at_start = self.wrong_is_top = self.switches = 0
        self.chance = self.chance_is_top = 0.0
        self.language, self.confused = np.zeros((2, n), np.int64)
        self.intruders = np.zeros((n, n), np.int64)
        self.ranks = np.zeros(N_RANKS + 1, np.int64)
        self.chance_ranks = np.zeros(N_RANKS + 1)
        self.chances = np.zeros(N_CHANCES, np.int64)
        self.labels = {setting: LabelOutcome() for setting in settings}
        self._neutral = families.neutral

    def add(self, points: Points, last: npt.NDArray[np.int64]) -> None:
        """Count positions; `last` as for `Points.of`."""
        n = len(self.language)
        at = points.confused
        right = points.right[at]
        self.positions += len(points.right)
        self.language += np.bincount(points.right[points.right != self._neutral], minlength=n)
        self.confused += np.bincount(right, minlength=n)
        np.add.at(self.intruders, right, points.wrong[at])
        self.at_start += int(np.count_nonzero(last[at] == NO_FAMILY))
        self.wrong_is_top += int(np.count_nonzero(points.wrong_is_top))
        self.ranks += np.bincount(points.rank[at], minlength=N_RANKS + 1)
        chance = points.chance[at]
        self.chance += float(chance.sum())
        self.chance_is_top += float(points.chance[points.wrong_is_top].sum())
        self.chance_ranks += np.bincount(points.rank[at], chance, minlength=N_RANKS + 1)
        bins = np.minimum((chance * N_CHANCES).astype(np.intp), N_CHANCES - 1)
        self.chances += np.bincount(bins, minlength=N_CHANCES)
        self.switches += int(np.count_nonzero(points.switch))

    def add_label(self, setting: LabelSetting, label: npt.NDArray[np.float32], points: Points, row: int) -> bool:
        """Count the label of one of the positions, and tell whether it holds none of the wrong families.

        `label`, float32 (n_families,), has each family's share of its probability (a soft label).
        """
        wrong = float(label[points.wrong[row]].sum())
        outcome = self.labels[setting]
        outcome.wrong += wrong
        outcome.repaired += bool(points.wrong[row].any() and wrong == 0)
        outcome.kept += bool(points.switch[row] and label[points.right[row]] > 0)
        return wrong == 0
