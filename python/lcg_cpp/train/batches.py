"""What a gate learns from: the base model's hidden states, and the families of the tokens it would go on with.

Texts stream through the frozen model; of each token the hidden state is kept until the gate has learned from it, and
the logits only until the label is made.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from ..data import Encoded, Encoder
from ..errors import GateError
from ..gate.decisions import DecodingRules, last_families
from ..gate.gate_file import GateSpec
from ..gate.labels import family_labels
from ..gate.steps import Steps
from .heldout import MAX_BYTES, MAX_STATES, HeldOut
from .options import TrainOptions
from .run import Texts

if TYPE_CHECKING:
    from ..engine.load import Model


@dataclass(frozen=True, eq=False)
class Labeller:
    """What turns logits into labels.

    Attributes:
        norms: float32 (n_vocab,), what each token's logit is divided by; None for nothing.
        softcap: The model's final soft-capping, 0 if it has none.
        families: uint8 (n_vocab,).
        n_families: Number of families.
        options: top-k, top-p, hard or soft.
        n_threads: CPU threads; 0 takes all.
    """

    norms: npt.NDArray[np.float32] | None
    softcap: float
    families: npt.NDArray[np.uint8]
    n_families: int
    options: TrainOptions
    n_threads: int = 0

    def __call__(self, logits: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        """float32 (n, n_vocab) -> float32 (n, n_families)."""
        return family_labels(
            logits,
            self.norms,
            self.families,
            self.options.top_k,
            self.options.top_p,
            n_families=self.n_families,
            soft=self.options.soft,
            softcap=self.softcap,
            n_threads=self.n_threads,
        )


@dataclass(frozen=True, eq=False)
class Batch:
    """Hidden states to learn from.

    Attributes:
        hidden: float32 (n, n_embd).
        labels: float32 (n, n_families).
        keys: uint64 (n,), a number of each position that does not depend on how the texts were shared out.
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

    def __init__(
        self,
        model: Model,
        texts: Texts,
        labeller: Labeller,
        spec: GateSpec,
        should_stop: Callable[[], bool],
    ) -> None:
        """Nothing is evaluated yet.

        Args:
            model: The base model.
            texts: The rows.
            labeller: What makes the labels.
            spec: Of the gate.
            should_stop: Asked after every evaluation.
        """
        self._model = model
        self._texts = texts
        self._label = labeller
        self._options = labeller.options
        self._spec = spec
        self._should_stop = should_stop
        self._encoder = Encoder(model.tokenize, model.base, model.n_ctx)

    @property
    def skipped(self) -> Mapping[str, int]:
        """Why texts gave nothing to learn from, and how many."""
        return self._encoder.skipped

    def main_reason(self) -> str:
        """The most frequent of these reasons, as the end of a message."""
        return "".join(f": {reason}" for reason, _ in self._encoder.skipped.most_common(1))

    def held_out(self) -> HeldOut:
        """Evaluate the texts to measure on.

        Raises:
            GateError: They hold nothing to measure on.
            KeyboardInterrupt: It shall stop.
        """
        rules = DecodingRules.of(self._spec)
        most = max(1, min(MAX_STATES, MAX_BYTES // (4 * self._model.n_embd)))
        rows = self._texts.held_out if len(self._texts.held_out) else self._texts.epoch(0)[: self._options.group]
        hidden, labels, steps, last, following = [], [], [], [], []
        n = 0
        for row in rows:
            text = self._texts.encode(int(row), self._encoder)
            if text is None:
                continue
            tokens, is_reply = np.array(text.tokens), np.array(text.is_reply)
            newest = last_families(tokens, is_reply, rules.families)
            for states in self._model.states([text.tokens]):
                for rows_of in _runs(_learned(text, states.position, "reply")):
                    at = states.position[rows_of]
                    hidden.append(states.hidden[rows_of].copy())
                    labels.append(self._label(states.logits[rows_of]))
                    steps.append(rules.steps(states.logits[rows_of]))
                    last.append(newest[at])
                    following.append(tokens[at + 1])
                    n += len(at)
                if self._should_stop():
                    raise KeyboardInterrupt
            if n >= most:
                break
        if n == 0:
            raise GateError(f"none of the {len(rows)} held-out texts has a reply to measure on{self.main_reason()}")
        return HeldOut(
            np.concatenate(hidden)[:most],
            np.concatenate(labels)[:most],
            Steps.join(steps)[:most],
            np.concatenate(last)[:most],
            np.concatenate(following)[:most],
            rules,
        )

    def batch(self, rows: Sequence[int]) -> Batch | None:
        """States and labels of rows; None if it shall stop."""
        encoded = [(row, self._texts.encode(row, self._encoder)) for row in rows]
        kept = [(row, text) for row, text in encoded if text is not None]
        texts = [text for _, text in kept]
        hidden = [np.empty((0, self._model.n_embd), np.float32)]
        labels = [np.empty((0, len(self._spec.families)), np.float32)]
        keys = [np.empty(0, np.uint64)]
        row_of = np.array([row for row, _ in kept], np.uint64)
        for states in self._model.states([text.tokens for text in texts]):
            learned = np.zeros(len(states.text), np.bool_)
            for i in np.unique(states.text):
                own = states.text == i
                learned[own] = _learned(texts[i], states.position[own], self._options.positions)
            for part in _runs(learned):
                hidden.append(states.hidden[part].copy())
                labels.append(self._label(states.logits[part]))
                keys.append(row_of[states.text[part]] << np.uint64(32) | states.position[part].astype(np.uint64))
            if self._should_stop():
                return None
        n_tokens = sum(len(text.tokens) for text in texts)
        return Batch(np.concatenate(hidden), np.concatenate(labels), np.concatenate(keys), len(texts), n_tokens)


def _learned(text: Encoded, position: npt.NDArray[np.int32], positions: str) -> npt.NDArray[np.bool_]:
    """Which positions of a text are learned from; the last one predicts nothing."""
    follows = np.append(np.array(text.is_reply[1:], np.bool_), False)
    if positions == "all":
        follows[:-1] = True
    return follows[position]


def _runs(wanted: npt.NDArray[np.bool_]) -> Iterator[slice]:
    """Runs of wanted rows, so that their logits need no copy."""
    edges = np.flatnonzero(np.diff(wanted.astype(np.int8), prepend=0, append=0))
    for begin, end in zip(edges[::2].tolist(), edges[1::2].tolist()):
        yield slice(begin, end)
