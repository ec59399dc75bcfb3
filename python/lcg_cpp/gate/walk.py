"""Walking over given texts with a base model: at each token its state, and what the text goes on with."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import numpy.typing as npt

from .decisions import Bools, FamilyTable, last_families

if TYPE_CHECKING:
    from ..engine.load import Model

_GROUP_TOKENS = 512

T = TypeVar("T")


class StoppedError(Exception):
    """The walk was asked to stop."""


@dataclass(frozen=True, eq=False)
class ForcedText:
    """A text that a model is led through."""

    tokens: npt.NDArray[np.int64]  # (n,), its ids
    is_reply: Bools  # (n,), which of them belong to a reply
    wanted: Bools  # (n,), the positions whose states are wanted

    @classmethod
    def of(cls, tokens: Sequence[int], is_reply: Sequence[bool], positions: str = "reply") -> ForcedText:
        """A text of which `all` positions are wanted, or those that predict a token of a `reply`; the last has none."""
        mine = np.array(is_reply, np.bool_)
        wanted = np.append(mine[1:] if positions == "reply" else np.ones(len(mine) - 1, np.bool_), False)
        return cls(np.array(tokens), mine, wanted)


@dataclass(frozen=True, eq=False)
class Rows:
    """Neighbouring rows of one evaluation, all of them wanted. Views, valid until the next evaluation."""

    hidden: npt.NDArray[np.float32]  # (n, n_embd), the last hidden state after the final norm
    logits: npt.NDArray[np.float32]  # (n, n_vocab)
    text: npt.NDArray[np.int32]  # (n,), which of the given texts a row belongs to
    position: npt.NDArray[np.int32]  # (n,), which of its tokens
    # (n,), family of the newest language token of the reply, NO_FAMILY if there is none
    last: npt.NDArray[np.int64]
    following: npt.NDArray[np.int64]  # (n,), the text's own next token; -1 at its end


class Walk:
    """Leads a model through texts, asking after each evaluation whether to stop; `tokens` counts what it evaluated."""

    def __init__(self, model: Model, families: FamilyTable, should_stop: Callable[[], bool]) -> None:
        self._model, self._families, self._should_stop = model, families, should_stop
        self.tokens = 0

    def rows(self, texts: Sequence[ForcedText]) -> Iterator[Rows]:
        """Evaluate texts, several short ones at once; StoppedError if it shall stop.

        Every wanted row comes once, in order; in runs of neighbours, so that their logits need no copy.
        """
        starts = np.cumsum([0, *(len(text.tokens) for text in texts)])
        wanted = _joined([text.wanted for text in texts], np.bool_)
        last = _joined([last_families(text.tokens, text.is_reply, self._families) for text in texts], np.int64)
        following = _joined([np.append(text.tokens[1:], -1) for text in texts], np.int64)
        for states in self._model.states([text.tokens.tolist() for text in texts]):
            self.tokens += len(states.text)
            at = starts[states.text] + states.position  # of each row, in the arrays above
            for part in _runs(wanted[at]):
                yield Rows(
                    states.hidden[part],
                    states.logits[part],
                    states.text[part],
                    states.position[part],
                    last[at[part]],
                    following[at[part]],
                )
            if self._should_stop():
                raise StoppedError


def grouped(items: Iterable[T], n_tokens: Callable[[T], int]) -> Iterator[list[T]]:
    """A few items at a time, so that short texts are evaluated together; `n_tokens` counts the tokens of an item."""
    group: list[T] = []
    for item in items:
        group.append(item)
        if sum(map(n_tokens, group)) >= _GROUP_TOKENS:
            yield group
            group = []
    if group:
        yield group


def _joined(parts: Sequence[npt.NDArray[Any]], dtype: type[np.generic]) -> npt.NDArray[Any]:
    return np.concatenate([np.empty(0, dtype), *parts])


def _runs(wanted: Bools) -> Iterator[slice]:
    edges = np.flatnonzero(np.diff(wanted.astype(np.int8), prepend=0, append=0))
    for begin, end in zip(edges[::2].tolist(), edges[1::2].tolist()):
        yield slice(begin, end)
