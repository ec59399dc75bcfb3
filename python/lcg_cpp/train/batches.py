"""What a gate learns from: the base model's hidden states, and the families of the tokens it would go on with.

Texts stream through the frozen model; of each token the hidden state is kept until the gate has learned from it, and
the logits only until the label is made.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ..data import Encoded
from ..data.balance import balanced
from ..errors import GateError
from ..gate.decisions import DecodingRules
from ..gate.scripts import SIBLINGS
from ..gate.steps import Steps
from ..gate.walk import ForcedText, StoppedError
from .heldout import MAX_BYTES, MAX_STATES, HeldOut
from .options import TrainOptions
from .run import Texts
from .source import Found, Source
from .windows import sections, sibling_labels
from .written import written_labels

_WRITTEN = 0.1  # share of a text's letters from which a family counts as written there
_TIME_HELD_OUT = 0.1  # of a run's limit, at most
_TIME_OF_GROUP = 0.02  # of what is left of it
LOOKED_AT = 10  # tokens of texts that are looked at for each that is chosen


@dataclass(frozen=True)
class Expected:
    """What a run is going to do, as far as the held-out texts tell.

    Attributes:
        in_texts: Tokens of all texts that are learned from.
        planned: Tokens to evaluate: those, or what the options or the time left allow.
        rate: Tokens evaluated in a second.
    """

    in_texts: float
    planned: float
    rate: float

    @property
    def seconds(self) -> float:
        """Time of evaluating the planned tokens."""
        return self.planned / self.rate

    @property
    def is_limited(self) -> bool:
        """Whether some of the texts are left out."""
        return self.planned < self.in_texts


@dataclass(frozen=True, eq=False)
class Batch:
    """Hidden states to learn from.

    Attributes:
        hidden: float32 (n, n_embd).
        labels: float32 (n, n_families).
        keys: uint64 (n,), a number of each position, of its row and its place there.
        n_texts: Texts they are of.
        n_tokens: Tokens of these texts.
    """

    hidden: npt.NDArray[np.float32]
    labels: npt.NDArray[np.float32]
    keys: npt.NDArray[np.uint64]
    n_texts: int
    n_tokens: int


class Evaluator:
    """Evaluates rows of datasets with the base model."""

    def __init__(self, source: Source, texts: Texts, rules: DecodingRules, options: TrainOptions) -> None:
        """Nothing is evaluated yet.

        Args:
            source: What knows the states.
            texts: The order of the rows.
            rules: Of the gate.
            options: Settings.
        """
        self._source, self._texts, self._rules, self._options = source, texts, rules, options
        self._seen = np.zeros(3)  # of the held-out texts: rows, tokens, states to learn from if they were not held out
        self._seconds = 0.0  # that they took

    @property
    def skipped(self) -> Mapping[str, int]:
        """Why texts gave nothing to learn from, and how many."""
        return self._source.skipped

    def _script(self, row: int) -> frozenset[int] | None:
        """The families that a text is mostly written in; None if there is nothing to measure on."""
        encoded = self._source.encode(row)
        if encoded is None:
            return None
        families = self._rules.families.token_family[np.array(encoded.tokens)[np.array(encoded.is_reply)]]
        counts = np.bincount(families[np.isin(families, np.flatnonzero(self._rules.families.maskable))])
        return frozenset(np.flatnonzero(counts > _WRITTEN * counts.sum()).tolist())

    def main_reason(self) -> str:
        """The most frequent of these reasons, as the end of a message."""
        return "".join(f": {reason}" for reason, _ in self._source.skipped.most_common(1))

    def held_out(self) -> HeldOut:
        """Draw and evaluate the texts to measure on, or as many as there is time for.

        Raises:
            GateError: They hold nothing to measure on.
            KeyboardInterrupt: It shall stop.
        """
        self._texts.hold_out(self._script)
        self._source.skipped.clear()
        most = max(1, min(MAX_STATES, MAX_BYTES // (4 * self._source.n_embd)))
        rows = self._texts.held_out if len(self._texts.held_out) else self._texts.epoch(0)[: self._options.group]
        parts: list[Found] = []
        labels: list[npt.NDArray[np.float32]] = []
        n = 0
        begun = time.monotonic()
        seconds = math.inf if self._options.minutes is None else _TIME_HELD_OUT * 60 * self._options.minutes
        for row in rows.tolist():
            encoded = self._source.encode(row)
            self._seen[0] += 1
            if encoded is None:
                continue
            text = ForcedText.of(encoded.tokens, encoded.is_reply)
            learned = ForcedText.of(encoded.tokens, encoded.is_reply, self._options.positions)
            self._seen[1:] += [len(text.tokens), int(np.count_nonzero(learned.wanted))]
            try:
                found = list(self._source.find([row], [text], with_steps=True))
            except StoppedError:
                raise KeyboardInterrupt from None
            parts += found
            labels.append(self._labels([text], found))
            n += len(labels[-1])
            if n >= most or time.monotonic() - begun >= seconds:
                break
        self._seconds = time.monotonic() - begun
        if n == 0:
            raise GateError(f"none of the {len(rows)} held-out texts has a reply to measure on{self.main_reason()}")
        return HeldOut(
            np.concatenate([part.hidden for part in parts])[:most],
            np.concatenate(labels)[:most],
            Steps.join([part.steps for part in parts if part.steps is not None])[:most],
            np.concatenate([part.last for part in parts])[:most],
            np.concatenate([part.following for part in parts])[:most],
            np.repeat(np.arange(len(labels)), [len(part) for part in labels])[:most],
            self._rules,
            self._options.max_missed,
        )

    def expected(self, seconds: float) -> Expected:
        """About how much there is to do in a run that has taken so many seconds by now."""
        rows, tokens, _ = self._seen.tolist()
        options, rate = self._options, tokens / max(self._seconds, 1e-6)
        in_texts = len(self._texts) * tokens / rows
        in_time = math.inf if options.minutes is None else max(60 * options.minutes - seconds, 0) * rate
        return Expected(in_texts, min(options.n_tokens or in_texts, in_time), rate)

    def states_of(self, n_tokens: float) -> float:
        """About how many states there are to learn from in so many tokens."""
        _, tokens, states = self._seen.tolist()
        return float(n_tokens * states / tokens)

    def group_size(self, n_tokens: float) -> int:
        """Texts of a group where there is time for so many tokens: a run ends with a group, not long after its time."""
        rows, tokens, _ = self._seen.tolist()
        return int(max(1, min(self._options.group, _TIME_OF_GROUP * n_tokens * rows / tokens)))

    def choose(self, n_tokens: float, script_of: Callable[[Encoded], str]) -> None:
        """Learn only from texts of about so many tokens in which every script has its share, see `data.balance`."""
        rows: list[int] = []
        scripts: list[str] = []
        sizes: list[float] = []
        total = 0.0
        for row in dict.fromkeys(self._texts.epoch(0).tolist()):
            encoded = self._source.encode(row)
            if encoded is None:
                continue
            rows.append(row)
            scripts.append(script_of(encoded))
            sizes.append(len(encoded.tokens) * self._texts.weight(row))
            total += sizes[-1]
            if total >= LOOKED_AT * n_tokens:
                break
        self._source.skipped.clear()
        if rows:
            self._texts.learn_from([rows[i] for i in balanced(scripts, sizes, n_tokens)])

    def batch(self, rows: Sequence[int]) -> Batch | None:
        """States and labels of rows; None if it shall stop."""
        encoded = [(row, self._source.encode(row)) for row in rows]
        kept: list[tuple[int, Encoded]] = [(row, text) for row, text in encoded if text is not None]
        texts = [ForcedText.of(text.tokens, text.is_reply, self._options.positions) for _, text in kept]
        try:
            parts = list(self._source.find([row for row, _ in kept], texts))
        except StoppedError:
            return None
        row_of = np.array([row for row, _ in kept], np.uint64)
        keys = [row_of[part.text] << np.uint64(32) | part.position.astype(np.uint64) for part in parts]
        n_tokens = sum(len(text.tokens) for text in texts)
        return Batch(
            np.concatenate([np.empty((0, self._source.n_embd), np.float32), *(part.hidden for part in parts)]),
            self._labels(texts, parts),
            np.concatenate([np.empty(0, np.uint64), *keys]),
            len(texts),
            n_tokens,
        )

    def _labels(self, texts: Sequence[ForcedText], parts: Sequence[Found]) -> npt.NDArray[np.float32]:
        """What the positions of whole texts teach: their likely families, as far as the text itself does not object."""
        families = self._rules.families
        names = families.names
        if not parts:
            return np.empty((0, len(names)), np.float32)
        lengths = [len(text.tokens) for text in texts]
        section = sections(np.repeat(np.arange(len(texts)), lengths), np.concatenate([text.is_reply for text in texts]))
        starts = np.cumsum([0, *lengths])
        text = np.concatenate([part.text for part in parts])
        predicted = starts[text] + np.concatenate([part.position for part in parts]) + 1  # what a label is about
        labels = np.concatenate([part.labels for part in parts])
        own = families.token_family[np.concatenate([part.following for part in parts])]
        found = sibling_labels(labels, own, section[predicted], names, self._options.window)
        if self._options.label_scripts == "likely":
            return found
        # siblings are decided on above, where the text shows which of them are its own
        decided = np.array([name not in SIBLINGS and f != families.neutral for f, name in enumerate(names)])
        return written_labels(found, own, section[predicted], decided, with_own=not self._options.soft)
