"""Walking a model through given texts, on a model whose states say where they are."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pytest

from lcg_cpp.engine.teacher import States
from lcg_cpp.gate.decisions import NO_FAMILY, FamilyTable
from lcg_cpp.gate.families import family_set
from lcg_cpp.gate.walk import ForcedText, StoppedError, Walk, grouped

CJ, LATIN, SYMBOLS, LOWRES = range(4)
TABLE = FamilyTable(np.arange(4), family_set())  # a token of each family


class Places:
    """Evaluates a few tokens at a time; a hidden state is (text, position), a logit the token."""

    def __init__(self, n_batch: int) -> None:
        self.n_batch = n_batch
        self.n_evaluated = 0

    def states(self, texts: Sequence[Sequence[int]]) -> Iterator[States]:
        places = [(i, p) for i, text in enumerate(texts) for p in range(len(text))]
        for begin in range(0, len(places), self.n_batch):
            part = places[begin : begin + self.n_batch]
            self.n_evaluated += len(part)
            text, position = np.array(part, np.int32).T
            logits = np.array([[texts[i][p]] * 4 for i, p in part], np.float32)
            yield States(text, position, np.array(part, np.float32), logits)


def walk_of(n_batch: int, should_stop: Any = lambda: False) -> Walk:
    model: Any = Places(n_batch)
    return Walk(model, TABLE, should_stop)


TEXTS = [
    ForcedText.of([LATIN, CJ, SYMBOLS, LOWRES, SYMBOLS], [False, True, True, True, True]),
    ForcedText.of([LATIN, SYMBOLS, CJ], [True, True, True]),
    ForcedText.of([LATIN, LOWRES, LATIN, CJ], [False, False, False, True]),
]
#         text, position, last family of the reply, the text's own next token
WANTED = [
    (0, 0, NO_FAMILY, CJ),  # the prompt's last token predicts the reply's first
    (0, 1, CJ, SYMBOLS),
    (0, 2, CJ, LOWRES),
    (0, 3, LOWRES, SYMBOLS),
    (1, 0, LATIN, SYMBOLS),
    (1, 1, LATIN, CJ),
    (2, 2, NO_FAMILY, CJ),
]


@pytest.mark.parametrize("n_batch", [1, 2, 3, 5, 100])
def test_every_wanted_row_comes_once_with_what_the_text_goes_on_with(n_batch: int) -> None:
    walk = walk_of(n_batch)
    found = []
    for rows in walk.rows(TEXTS):
        places = [rows.text.tolist(), rows.position.tolist()]
        assert rows.hidden.T.tolist() == places
        assert rows.logits[:, 0].tolist() == [TEXTS[i].tokens[p] for i, p in zip(*places)]
        found += list(zip(*places, rows.last.tolist(), rows.following.tolist()))
    assert found == WANTED
    assert walk.tokens == 12


def test_rows_are_views_on_the_evaluation() -> None:
    for rows in walk_of(100).rows(TEXTS):
        assert not rows.hidden.flags.owndata
        assert not rows.logits.flags.owndata


def test_all_positions_but_the_last_predict_something() -> None:
    texts = [ForcedText.of([LATIN, CJ, LOWRES], [False, False, True], "all"), ForcedText.of([CJ], [True], "all")]
    rows = list(walk_of(100).rows(texts))
    assert [(r.text.tolist(), r.position.tolist(), r.following.tolist()) for r in rows] == [
        ([0, 0], [0, 1], [CJ, LOWRES])
    ]


def test_the_last_position_of_a_text_is_given_if_it_is_wanted() -> None:
    text = ForcedText(np.array([LATIN, CJ]), np.ones(2, np.bool_), np.array([False, True]))
    (rows,) = walk_of(100).rows([text])
    assert (rows.position.tolist(), rows.last.tolist(), rows.following.tolist()) == ([1], [CJ], [-1])


def test_no_texts_have_no_rows() -> None:
    assert list(walk_of(2).rows([])) == []


def test_it_stops_after_the_evaluation_in_which_it_was_asked_to() -> None:
    answers = iter([False, True])
    walk = walk_of(2, lambda: next(answers))
    rows = walk.rows(TEXTS)
    assert [next(rows).position.tolist() for _ in range(2)] == [[0, 1], [2, 3]]
    with pytest.raises(StoppedError):
        next(rows)
    assert walk.tokens == 4


def test_short_texts_are_grouped_until_they_have_512_tokens() -> None:
    sizes = [100, 300, 112, 600, 511, 1, 3]
    assert list(grouped(sizes, lambda size: size)) == [[100, 300, 112], [600], [511, 1], [3]]
    assert list(grouped([], len)) == []
