"""Labels that agree with the text, against a loop over positions."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lcg_cpp.errors import GateError
from lcg_cpp.train.written import written_labels


@given(st.integers(0, 40), st.booleans(), st.booleans(), st.integers(0, 2**32 - 1))
def test_labels_agree_with_a_loop(n: int, soft: bool, with_own: bool, seed: int) -> None:
    random = np.random.default_rng(seed)
    labels = (random.random((n, 5)) if soft else random.random((n, 5)) < 0.4).astype(np.float32)
    own, decided = random.integers(0, 5, n), random.random(5) < 0.6
    section = 7 + np.cumsum(random.random(n) < 0.2)
    before = labels.copy()
    found = written_labels(labels, own, section, decided, with_own=with_own)
    assert found.dtype == np.float32
    assert np.array_equal(labels, before), "the argument is left as it was"
    expected = [
        [
            1.0
            if with_own and own[i] == f
            else 0.0
            if decided[f] and all(own[j] != f for j in range(n) if section[j] == section[i])
            else float(labels[i, f])
            for f in range(5)
        ]
        for i in range(n)
    ]
    assert found.tolist() == expected


def test_a_reply_in_georgian_teaches_nothing_of_english() -> None:
    latin, georgian, symbols = range(3)
    likely = np.array([[1, 0, 1], [1, 1, 0], [0, 1, 1]], np.float32)  # the model would rather begin in English
    own, decided = np.array([georgian, symbols, georgian]), np.array([True, True, False])
    assert written_labels(likely, own, np.zeros(3, np.int64), decided).tolist() == [[0, 1, 1], [0, 1, 1], [0, 1, 1]]
    # with a name in Latin letters somewhere, they may come anywhere
    own[1] = latin
    assert written_labels(likely, own, np.zeros(3, np.int64), decided).tolist() == [[1, 1, 1], [1, 1, 0], [0, 1, 1]]


def test_sections_come_in_order() -> None:
    with pytest.raises(GateError, match="`section` falls"):
        written_labels(np.zeros((2, 2), np.float32), np.zeros(2, np.int64), np.array([1, 0]), np.ones(2, np.bool_))
