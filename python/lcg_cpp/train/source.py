"""Where a gate's lessons come from: the states of given rows of the data, with the labels of their positions."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import numpy as np
import numpy.typing as npt

from ..data import Dataset, Encoded, Encoder
from ..gate.decisions import DecodingRules
from ..gate.labels import family_labels
from ..gate.steps import Steps
from ..gate.walk import ForcedText, Walk
from .likely import Likely
from .options import TrainOptions
from .run import Texts

if TYPE_CHECKING:
    from ..engine.base_model import BaseModel
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

    def of_likely(self, likely: Likely) -> npt.NDArray[np.float32]:
        """The same of n positions whose likely tokens alone are known."""
        return likely.labels(self.norms, self.softcap, self.families, self.n_families, self.options)


@dataclass(frozen=True, eq=False)
class Found:
    """Neighbouring wanted positions of one text or several.

    Attributes:
        hidden: float32 (n, n_embd).
        labels: float32 (n, n_families), of each position alone.
        steps: What the decoding rules look at; None where nobody asked.
        text: int32 (n,), which of the given texts a position belongs to.
        position: int32 (n,), which of its tokens.
        last: int64 (n,), family of the newest language token of the reply.
        following: int64 (n,), the text's own next token.
    """

    hidden: npt.NDArray[np.float32]
    labels: npt.NDArray[np.float32]
    steps: Steps | None
    text: npt.NDArray[np.int32]
    position: npt.NDArray[np.int32]
    last: npt.NDArray[np.int64]
    following: npt.NDArray[np.int64]


class Source(Protocol):
    """What knows the states of texts.

    Attributes:
        n_embd: Width of a hidden state.
        skipped: Why texts gave nothing to learn from, and how many.
    """

    n_embd: int
    skipped: Counter[str]

    def encode(self, row: int) -> Encoded | None:
        """Tokens of a row of the data, None if nothing can be learned from it."""

    def find(self, rows: Sequence[int], texts: Sequence[ForcedText], *, with_steps: bool = False) -> Iterator[Found]:
        """The wanted positions of texts, each once, in order.

        Args:
            rows: The row of each text.
            texts: Made of what `encode` gave.
            with_steps: Tell what the decoding rules look at, too.

        Raises:
            StoppedError: It shall stop.
        """


class LiveSource:
    """Evaluates the base model; see `Source`."""

    def __init__(
        self,
        model: Model,
        texts: Texts,
        labeller: Labeller,
        rules: DecodingRules,
        should_stop: Callable[[], bool],
    ) -> None:
        """Nothing is evaluated yet.

        Args:
            model: The base model.
            texts: The rows.
            labeller: What makes the labels.
            rules: Of the gate.
            should_stop: Asked after every evaluation.
        """
        self.n_embd = model.n_embd
        self._texts, self._label, self._rules = texts, labeller, rules
        self._walk = Walk(model, rules.families, should_stop)
        self._encoder = Encoder(model.tokenize, model.base, model.n_ctx)
        self.skipped = self._encoder.skipped

    def encode(self, row: int) -> Encoded | None:
        """Tokens of a row."""
        return self._texts.encode(row, self._encoder)

    def find(self, rows: Sequence[int], texts: Sequence[ForcedText], *, with_steps: bool = False) -> Iterator[Found]:
        """Evaluate texts."""
        for found in self._walk.rows(texts):
            yield Found(
                found.hidden.copy(),
                self._label(found.logits),
                self._rules.steps(found.logits) if with_steps else None,
                found.text,
                found.position,
                found.last,
                found.following,
            )


@dataclass(frozen=True, eq=False)
class Lessons:
    """What a gate is trained from."""

    base: BaseModel
    datasets: Sequence[Dataset]
    norms: npt.NDArray[np.float32]  # (n_vocab,), of the output rows
    softcap: float  # 0 if the model has none
    source: Callable[[Texts, Labeller, DecodingRules], Source]
