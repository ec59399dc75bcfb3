"""What a gate learns from: the base model's hidden states, and the families of the tokens it would go on with.

Texts stream through the frozen model; of each token the hidden state is kept until the gate has learned from it, and
the logits only until the label is made.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from ..data import Encoder
from ..errors import GateError
from ..gate.decisions import DecodingRules
from ..gate.labels import family_labels
from ..gate.spec import GateSpec
from ..gate.steps import Steps
from ..gate.walk import ForcedText, StoppedError, Walk
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
        self._rules = DecodingRules.of(spec)
        self._walk = Walk(model, self._rules.families, should_stop)
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
        most = max(1, min(MAX_STATES, MAX_BYTES // (4 * self._model.n_embd)))
        rows = self._texts.held_out if len(self._texts.held_out) else self._texts.epoch(0)[: self._options.group]
        hidden, labels, steps, last, following = [], [], [], [], []
        n = 0
        for row in rows:
            text = self._texts.encode(int(row), self._encoder)
            if text is None:
                continue
            try:
                for found in self._walk.rows([ForcedText.of(text.tokens, text.is_reply)]):
                    hidden.append(found.hidden.copy())
                    labels.append(self._label(found.logits))
                    steps.append(self._rules.steps(found.logits))
                    last.append(found.last)
                    following.append(found.following)
                    n += len(found.last)
            except StoppedError:
                raise KeyboardInterrupt from None
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
            self._rules,
        )

    def batch(self, rows: Sequence[int]) -> Batch | None:
        """States and labels of rows; None if it shall stop."""
        encoded = [(row, self._texts.encode(row, self._encoder)) for row in rows]
        kept = [(row, text) for row, text in encoded if text is not None]
        texts = [ForcedText.of(text.tokens, text.is_reply, self._options.positions) for _, text in kept]
        hidden = [np.empty((0, self._model.n_embd), np.float32)]
        labels = [np.empty((0, len(self._spec.families)), np.float32)]
        keys = [np.empty(0, np.uint64)]
        row_of = np.array([row for row, _ in kept], np.uint64)
        try:
            for found in self._walk.rows(texts):
                hidden.append(found.hidden.copy())
                labels.append(self._label(found.logits))
                keys.append(row_of[found.text] << np.uint64(32) | found.position.astype(np.uint64))
        except StoppedError:
            return None
        n_tokens = sum(len(text.tokens) for text in texts)
        return Batch(np.concatenate(hidden), np.concatenate(labels), np.concatenate(keys), len(texts), n_tokens)
