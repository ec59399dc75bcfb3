"""What a gate's answers show: shares with intervals over the texts, by place and kind, and at other thresholds."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from ..measure.bootstrap import interval, resampled_sums, unanimous_bound
from .detect import Detection
from .places import GROUPS, OWN, PLACES, PLAIN
from .rules import BANNED, REASONS, Answers
from .words import SPLICED

Bools = npt.NDArray[np.bool_]
Floats = npt.NDArray[np.float64]

THRESHOLDS = tuple(round(0.05 * i, 2) for i in range(1, 20))
_N_RESAMPLES = 1000


@dataclass(frozen=True)
class Share:
    """How many of some tokens the gate would remove."""

    n: int  # tokens asked about
    removed: int  # of these, those that it would remove
    percent: float  # the share, NaN for no tokens
    low: float  # lower end of its 95 % interval over the texts, NaN likewise
    high: float  # upper end


@dataclass(frozen=True)
class Cell:
    """Tokens of one kind: all that were asked about, and those of a family that the model could choose there anyway."""

    asked: Share
    in_reach: Share


@dataclass(frozen=True)
class Rate:
    """A number and its 95 % interval over the texts, NaN where it is not defined."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class FamilyScore:
    """A gate as a detector of tokens of one or of all families."""

    wrong: Cell  # tokens that are wrong: the share is the recall
    own: Cell  # tokens that the replies themselves have there: the share is a rate of false bans
    spliced: Cell  # switches that were spliced in: likewise
    # percent of the removed tokens that are wrong, if as many wrong tokens as own ones were to be chosen
    precision_own: Rate
    precision_spliced: Rate  # the same with switches that were spliced in
    places: dict[str, Cell]  # place of a wrong token -> those
    kinds: dict[str, Cell]  # kind of a legitimate one -> those
    kept_because: dict[str, int]  # why wrong tokens would stay -> how many
    # for each of `THRESHOLDS` the percents of wrong, own and spliced tokens that would be removed
    thresholds: tuple[tuple[float, float, float], ...]


@dataclass(frozen=True)
class Score:
    """A gate as a detector."""

    every: FamilyScore  # of all maskable families together
    # name of a maskable family -> its score; families that nothing was asked about are absent
    families: dict[str, FamilyScore]
    own_tokens: int  # tokens of the clean replies
    own_removed: int  # those that it would remove: false alarms


def as_dict(detection: Detection, found: Score) -> dict[str, Any]:
    """All of it as plain values, for JSON; None for what is not defined."""
    values = dataclasses.asdict(found)
    for family in (values["every"], *values["families"].values()):
        rows = zip(THRESHOLDS, family["thresholds"])
        family["thresholds"] = [dict(zip(("threshold", "wrong", "own", "spliced"), (at, *row))) for at, row in rows]
    gate = detection.options.gate_options
    names = ("persistence", "confidence", "confidence_temperature", "first_token")
    rules = {name: getattr(gate, name) for name in names}
    told: dict[str, Any] = _defined(
        {
            "model": detection.base.path,
            "gate": detection.gate.path,
            "sampling": dataclasses.asdict(detection.options.sampling),
            "rules": {**_thresholds(detection), **rules},
            "seed": detection.options.seed,
            "texts": detection.n_texts,
            "wanted": detection.n_wanted,
            "with_reference": detection.n_given,
            "skipped": dict(detection.skipped),
            "tokens": detection.tokens,
            "seconds": detection.seconds,
            "finished": detection.finished,
            **values,
        }
    )
    return told


def _defined(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _defined(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_defined(item) for item in value]
    return None if isinstance(value, float) and math.isnan(value) else value


def score(detection: Detection, *, seed: int = 0) -> Score:
    """Sums up what was measured.

    Intervals are percentile bootstraps over the texts. Where none or all of the tokens would be removed, the other end
    is the exact bound of as many texts (`evaluation.bootstrap.unanimous_bound`).
    """
    answers = detection.answers
    verdicts = answers.verdicts(detection.rules)
    removed = [_removed_at(detection, threshold) for threshold in THRESHOLDS]
    counter = _Counter(answers, verdicts == BANNED, detection.n_texts, seed)
    own = _is_any(answers, (*OWN, PLAIN))
    names = enumerate(detection.gate.families.names)
    return Score(
        every=_family_score(answers, verdicts, removed, counter, np.ones(len(answers), np.bool_)),
        families={
            name: _family_score(answers, verdicts, removed, counter, answers.family == f)
            for f, name in names
            if f in answers.family
        },
        own_tokens=int(detection.own_tokens.sum()),
        own_removed=int(np.count_nonzero(own & counter.removed)),
    )


def _thresholds(detection: Detection) -> dict[str, dict[str, float]]:
    chosen = detection.rules.options.chosen_thresholds(detection.rules.thresholds)
    names = detection.gate.families.names
    kinds = {"thresholds": chosen.usual, "first_thresholds": chosen.first, "allow_thresholds": chosen.allow}
    return {kind: dict(zip(names, values)) for kind, values in kinds.items() if values}


def _removed_at(detection: Detection, threshold: float) -> Bools:
    options = dataclasses.replace(detection.rules.options, threshold=threshold)
    return np.equal(detection.answers.verdicts(dataclasses.replace(detection.rules, options=options)), BANNED)


def _is_any(answers: Answers, groups: Sequence[str]) -> Bools:
    return np.isin(answers.group, [GROUPS.index(group) for group in groups])


class _Counter:
    """Counts answers, in all texts and in resamples of them.

    Attributes:
        removed: bool (n,), the answers.
    """

    def __init__(self, answers: Answers, removed: Bools, n_texts: int, seed: int) -> None:
        self.removed = removed
        self._text, self._in_reach, self._n_texts = answers.text, answers.in_reach, n_texts
        each = np.arange(n_texts)
        self._drawn = resampled_sums(np.eye(n_texts), each, n_resamples=_N_RESAMPLES, seed=seed)  # how often each text

    def cell(self, chosen: Bools) -> Cell:
        """Of the chosen answers, bool (n,), all and those in reach."""
        return Cell(self._share(chosen), self._share(chosen & self._in_reach))

    def _share(self, chosen: Bools) -> Share:
        parts, wholes = self._by_text(chosen & self.removed), self._by_text(chosen)
        percents = [100 * value for value in self.ratio(parts, wholes)]
        return Share(int(wholes.sum()), int(parts.sum()), *percents)

    def _by_text(self, chosen: Bools) -> npt.NDArray[np.intp]:
        return np.bincount(self._text[chosen], minlength=self._n_texts)

    def ratio(self, parts: npt.NDArray[Any], wholes: npt.NDArray[Any]) -> tuple[float, float, float]:
        """A ratio of sums over the texts, each (n_texts,), from 0 to 1, with its interval; NaN if there is nothing."""
        if not wholes.any():
            return (math.nan,) * 3
        value = float(parts.sum() / wholes.sum())
        if value in (0.0, 1.0):
            bound = unanimous_bound(int(np.count_nonzero(wholes)))
            return (0.0, 0.0, bound) if value == 0 else (1.0, 1 - bound, 1.0)
        return value, *interval(_divide(self._drawn @ parts, self._drawn @ wholes))

    def precision(self, wrong: Bools, right: Bools) -> Rate:
        """Percent of the removed that are wrong where wrong and right ones come equally often, with its interval."""
        recall, false_bans = self._share(wrong), self._share(right)
        if not recall.n or not false_bans.n or not recall.removed + false_bans.removed:
            return Rate(math.nan, math.nan, math.nan)
        value = _precision(recall.percent, false_bans.percent)
        if any(share.removed in (0, share.n) for share in (recall, false_bans)):  # certain to a bootstrap
            return Rate(value, _precision(recall.low, false_bans.high), _precision(recall.high, false_bans.low))
        rates = [
            _divide(self._drawn @ self._by_text(chosen & self.removed), self._drawn @ self._by_text(chosen))
            for chosen in (wrong, right)
        ]
        return Rate(value, *interval(100 * _divide(rates[0], rates[0] + rates[1])))


def _divide(parts: Floats, wholes: Floats) -> Floats:
    return np.divide(parts, wholes, out=np.full_like(parts, np.nan), where=wholes > 0)


def _precision(recall: float, false_bans: float) -> float:
    return 100 * recall / (recall + false_bans) if recall + false_bans > 0 else math.nan


def _family_score(
    answers: Answers,
    verdicts: npt.NDArray[np.intp],
    removed_at: Sequence[Bools],
    counter: _Counter,
    of_family: Bools,
) -> FamilyScore:
    """Verdicts by the gate's own thresholds; `removed_at` each of `THRESHOLDS`; of all answers."""
    wrong, own, spliced = (of_family & _is_any(answers, groups) for groups in (PLACES, OWN, SPLICED))
    at_thresholds = [(_percent(gone[wrong]), _percent(gone[own]), _percent(gone[spliced])) for gone in removed_at]

    def cells(groups: Sequence[str]) -> dict[str, Cell]:
        chosen = {group: of_family & _is_any(answers, (group,)) for group in groups}
        return {group: counter.cell(some) for group, some in chosen.items() if some.any()}

    return FamilyScore(
        wrong=counter.cell(wrong),
        own=counter.cell(own),
        spliced=counter.cell(spliced),
        precision_own=counter.precision(wrong, own),
        precision_spliced=counter.precision(wrong, spliced),
        places=cells(PLACES),
        kinds=cells((*OWN, *SPLICED)),
        kept_because={why: int(np.count_nonzero(verdicts[wrong] == code)) for code, why in enumerate(REASONS, 1)},
        thresholds=tuple(at_thresholds),
    )


def _percent(removed: Bools) -> float:
    return 100 * float(removed.mean()) if len(removed) else math.nan
