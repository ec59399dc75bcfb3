"""Evaluating a model on texts, teacher forced, and counting its confusion points; nothing is kept of a position."""

from __future__ import annotations

import bisect
import math
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from ..data import Dataset, Encoder
from ..engine.output_norms import OutputMatrix, label_norms
from ..errors import GateError
from ..gate.decisions import FamilyTable
from ..gate.families import RULES, token_families
from ..gate.labels import family_labels
from ..gate.spec import spec_for
from ..gate.steps import Sampling, Steps
from ..gate.walk import ForcedText, Rows, StoppedError, Walk, grouped
from ..train.options import PRESETS
from .confusion import LabelSetting, Points, Position, Tally, compare_norms, mixed_families

if TYPE_CHECKING:
    from ..engine.load import Model

NORMS = ("none", "token", "relative")  # what labels can be divided by
LABELS = {name: (options.top_k, options.top_p) for name, options in sorted(PRESETS.items(), reverse=True)}

_BEFORE = 48  # tokens of context kept of a position


@dataclass(frozen=True)
class AnalyzeOptions:
    """What is measured."""

    sampling: Sampling = field(default_factory=Sampling)  # the request whose survivors are looked at
    rules: str = RULES[0]  # rule set of the token families
    n_ctx: int = 2048  # most tokens of a text, if the model takes that many; what is longer is cut
    n_tokens: int = 20_000  # tokens to evaluate; it ends after the text that reaches this many
    n_worst: int = 8  # confusion points shown in full: those with the largest probability of a wrong token
    seed: int = 0  # seed of the order in which texts are taken

    def __post_init__(self) -> None:
        for name, low in (("n_ctx", 2), ("n_tokens", 1), ("n_worst", 0), ("seed", 0)):
            if getattr(self, name) < low:
                raise GateError(f"`{name}` is {getattr(self, name)}, expected at least {low}")


class TextReport:
    """What was measured on texts, so far.

    Attributes:
        tally: The counts.
        worst: The confusion points with the largest probability of a wrong token, largest first.
        texts: Texts evaluated.
        skipped: Why texts were left out, and how many.
        bad_rows: Rows of the data that cannot be used.
        bad: What is wrong with the first of them.
        tokens: Tokens evaluated.
        seconds: Time spent.
        finished: False if it was stopped.
    """

    def __init__(self, tally: Tally, datasets: Sequence[Dataset], skipped: Counter[str]) -> None:
        self.tally = tally
        self.worst: list[Position] = []
        self.texts = self.tokens = 0
        self.skipped = skipped
        self.bad_rows = sum(dataset.n_bad for dataset in datasets)
        self.bad = [reason for dataset in datasets for reason in dataset.bad]
        self.seconds = 0.0
        self.finished = False


@dataclass(frozen=True, eq=False)
class _Text:
    """A text to evaluate, and where it is from."""

    dataset: str
    row: int
    forced: ForcedText


class TextAnalysis:
    """Evaluates texts and counts.

    Attributes:
        report: What was measured so far.
    """

    def __init__(
        self,
        model: Model,
        datasets: Sequence[Dataset],
        matrix: OutputMatrix,
        options: AnalyzeOptions,
        should_stop: Callable[[], bool] = lambda: False,
    ) -> None:
        """Set up the counts; `should_stop` is asked after every evaluation."""
        self._datasets = datasets
        self._options = options
        self._softcap = matrix.softcap
        self._families = FamilyTable.of(spec_for(model.base, n_hidden=0, rules=options.rules))
        self._walk = Walk(model, self._families, should_stop)
        self._label_families = token_families(model.base.vocab, options.rules)
        self._norms = {norm: label_norms(matrix.norms, norm) for norm in NORMS}
        settings = [LabelSetting(norm, *label) for label in LABELS.values() for norm in NORMS]
        self._n_ctx = min(options.n_ctx, model.n_ctx)
        self._encoder = Encoder(model.tokenize, model.base, self._n_ctx)
        self.report = TextReport(Tally(self._families, settings), datasets, self._encoder.skipped)

    def run(self, on_progress: Callable[[TextReport], None]) -> None:
        """Evaluate texts in a seeded random order until `n_tokens` are reached."""
        report, start = self.report, time.monotonic()
        try:
            for texts in grouped(self._texts(), lambda text: len(text.forced.tokens)):
                for rows in self._walk.rows([text.forced for text in texts]):
                    self._count(texts, rows)
                report.texts += len(texts)
                report.tokens, report.seconds = self._walk.tokens, time.monotonic() - start
                on_progress(report)
        except StoppedError:
            report.tokens, report.seconds = self._walk.tokens, time.monotonic() - start
            return
        if report.texts == 0:
            reason, _ = report.skipped.most_common(1)[0]
            raise GateError(f"none of {sum(report.skipped.values())} texts has a reply to measure on: {reason}")
        report.finished = True

    def _texts(self) -> Iterator[_Text]:
        """Texts in a seeded random order, until they have `n_tokens`."""
        ends = np.cumsum([len(dataset) for dataset in self._datasets]).tolist()
        n_tokens = 0
        for number in np.random.default_rng(self._options.seed).permutation(ends[-1]).tolist():
            i = bisect.bisect_right(ends, number)
            dataset = self._datasets[i]
            row = number - ends[i] + len(dataset)
            encoded = self._encoder.encode(dataset[row])
            if encoded is None:
                continue
            if not any(encoded.is_reply[1:]):
                self.report.skipped[f"has no reply within {self._n_ctx} tokens"] += 1
                continue
            yield _Text(dataset.name, row, ForcedText.of(encoded.tokens, encoded.is_reply))
            n_tokens += len(encoded.tokens)
            if n_tokens >= self._options.n_tokens:
                return

    def _count(self, texts: Sequence[_Text], rows: Rows) -> None:
        """Counts positions."""
        sampling = self._options.sampling
        mixed = np.array([mixed_families(text.forced.tokens[text.forced.is_reply], self._families) for text in texts])
        steps = Steps.of(rows.logits, sampling)
        points = Points.of(steps, sampling, rows.last, rows.following, self._families, mixed[rows.text])
        self.report.tally.add(points, rows.last)
        for i in np.flatnonzero(points.confused | points.switch).tolist():
            logits = rows.logits[i : i + 1]
            repaired = self._count_labels(points, i, logits)
            if points.chance[i] > self._least_chance():
                text, index = texts[rows.text[i]], int(rows.position[i]) + 1
                self._keep(self._position(text, index, points, i, logits[0], repaired))

    def _count_labels(self, points: Points, i: int, logits: npt.NDArray[np.float32]) -> dict[LabelSetting, bool]:
        """Makes the labels of a position, logits float32 (1, n_vocab); whether each repairs it."""
        tally = self.report.tally
        repaired = {}
        for setting in tally.labels:
            label = family_labels(
                logits,
                self._norms[setting.norm],
                self._label_families,
                setting.top_k,
                setting.top_p,
                n_families=len(self._families.maskable),
                soft=True,
                softcap=self._softcap,
                n_threads=1,
            )[0]
            repaired[setting] = tally.add_label(setting, label, points, i)
        return repaired

    def _least_chance(self) -> float:
        """What a position must exceed to be one of the worst."""
        if not self._options.n_worst:
            return math.inf
        return 0.0 if len(self.report.worst) < self._options.n_worst else self.report.worst[-1].chance

    def _keep(self, position: Position) -> None:
        worst = self.report.worst
        worst.append(position)
        worst.sort(key=lambda position: -position.chance)
        del worst[self._options.n_worst :]

    def _position(
        self,
        text: _Text,
        index: int,
        points: Points,
        i: int,
        logits: npt.NDArray[np.float32],
        repaired: dict[LabelSetting, bool],
    ) -> Position:
        tokens, label = text.forced.tokens.tolist(), LABELS["paper"]
        return Position(
            dataset=text.dataset,
            row=text.row,
            index=index,
            before=tuple(tokens[max(0, index - _BEFORE) : index]),
            own=tokens[index],
            right=int(points.right[i]),
            wrong=tuple(np.flatnonzero(points.wrong[i]).tolist()),
            chance=float(points.chance[i]),
            repaired=tuple(repaired[LabelSetting(norm, *label)] for norm in NORMS),
            candidates=compare_norms(
                logits,
                [self._norms[norm] for norm in NORMS],
                tokens[index],
                self._families,
                label=label,
                softcap=self._softcap,
            ),
        )
