"""What a training run goes through, and how far it is."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, field
from itertools import zip_longest

import numpy as np
import numpy.typing as npt

from ..data import Dataset, Encoded, Encoder
from .heldout import Scores
from .options import TrainOptions

_DRAWN = 8  # texts that are looked at for each that is held out
_MOST_OF_KIND = 0.2  # share of a kind's texts that is held out


@dataclass(frozen=True)
class Measurement:
    """A gate at one point of its training.

    Attributes:
        progress: Share of the training that was done.
        tokens: Tokens evaluated until then.
        step: Steps of the optimizer until then.
        scores: On held-out text.
    """

    progress: float
    tokens: int
    step: int
    scores: Scores


@dataclass
class Run:
    """How far a training run is; all of it is saved.

    Attributes:
        epoch: Rounds through the texts that are done.
        group: Groups of texts done in this round.
        progress: Share of the training that is done, 0 to 1.
        texts: Texts learned from.
        skipped: Texts that the model's chat template cannot render, or with no token to learn from.
        tokens: Tokens evaluated.
        positions: Hidden states learned from.
        positives: Of these, how many have each family in their label.
        seconds: Time spent.
        passes: How often each state is learned from.
        group_size: Texts that are evaluated before the gate learns from them.
        budget: Tokens to evaluate where the texts have more; 0 where they have not.
        losses: Mean training loss of each group.
        measurements: On held-out text.
    """

    epoch: int = 0
    group: int = 0
    progress: float = 0.0
    texts: int = 0
    skipped: int = 0
    tokens: int = 0
    positions: int = 0
    seconds: float = 0.0
    passes: int = 0
    group_size: int = 0
    budget: int = 0
    positives: list[int] = field(default_factory=list)
    losses: list[float] = field(default_factory=list)
    measurements: list[Measurement] = field(default_factory=list)


class Texts:
    """The rows of several datasets in a seeded order; some are held out.

    Attributes:
        held_out: int64, rows that are only measured on, in the order in which they are evaluated.
    """

    def __init__(self, datasets: Sequence[Dataset], options: TrainOptions) -> None:
        self._datasets = datasets
        self._ends = np.cumsum([len(dataset) for dataset in datasets])
        self._seed = options.seed
        n = int(self._ends[-1])
        self._order = np.random.default_rng([self._seed, 0]).permutation(n)
        lengths = [len(dataset) for dataset in datasets]
        self._all_weights = np.repeat([dataset.weight for dataset in datasets], lengths)
        is_measured = np.repeat([dataset.is_measured for dataset in datasets], lengths)
        self._measurable = self._order[is_measured[self._order]]
        self._hold_out(self._measurable[: options.n_held_out(n)])

    def hold_out(self, kind_of: Callable[[int], Hashable]) -> None:
        """Draw the texts to measure on anew: in turns of their kinds, and never most texts of a kind.

        Of each kind one text in five at most, or the share that is held out of all; those of rare kinds are learned
        from. Where every kind is rare, the draw stays as it is.

        Args:
            kind_of: What tells texts apart, by row; None for those that cannot be measured on.
        """
        wanted = len(self.held_out)
        kinds: dict[Hashable, list[int]] = defaultdict(list)
        for row in self._measurable[: wanted * _DRAWN].tolist():
            if (kind := kind_of(row)) is not None:
                kinds[kind].append(row)
        share = max(_MOST_OF_KIND, wanted / len(self._order))
        turns = zip_longest(*(rows[: round(share * len(rows))] for rows in kinds.values()))
        drawn = [row for turn in turns for row in turn if row is not None][:wanted]
        if drawn:
            self._hold_out(np.array(drawn, np.int64))

    def _hold_out(self, rows: npt.NDArray[np.int64]) -> None:
        self.held_out = rows
        self._training = np.flatnonzero(~np.isin(np.arange(len(self._order)), rows))
        self._weights = self._all_weights[self._training]

    def weight(self, row: int) -> float:
        """How often a row comes in a round."""
        return float(self._all_weights[row])

    def learn_from(self, rows: Sequence[int]) -> None:
        """Leave out all other rows."""
        self._training = np.sort(np.array(rows, np.int64))
        self._weights = self._all_weights[self._training]

    def __len__(self) -> int:
        """Number of rows to learn from in a round, or about so many where weights are no whole numbers."""
        return round(float(self._weights.sum()))

    def epoch(self, number: int) -> npt.NDArray[np.int64]:
        """The rows to learn from, in the order of this round, each as often as its weight says.

        A weight of 2.5 is two or three times, as chance has it.
        """
        chance = np.random.default_rng([self._seed, 3, number]).random(len(self._training))
        rows = np.repeat(self._training, np.floor(self._weights + chance).astype(np.int64))
        return np.random.default_rng([self._seed, 1 + number]).permutation(rows)

    def encode(self, row: int, encoder: Encoder) -> Encoded | None:
        """Tokens of a row, None if nothing can be learned from it."""
        i = int(np.searchsorted(self._ends, row, side="right"))
        dataset = self._datasets[i]
        return encoder.encode(dataset[row - int(self._ends[i]) + len(dataset)])
