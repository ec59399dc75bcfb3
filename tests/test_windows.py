"""Windowed labels, against a loop over positions."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lcg_cpp.errors import GateError
from lcg_cpp.train.windows import sections, window_labels


def slow(
    labels: npt.NDArray[np.float32], section: npt.NDArray[np.int64], families: list[int], before: int, after: int
) -> list[list[float]]:
    expected = labels.tolist()
    for i in range(len(labels)):
        for family in families:
            near = [j for j in range(len(labels)) if i - before <= j <= i + after and section[j] == section[i]]
            expected[i][family] = max(float(labels[j, family]) for j in near)
    return expected


@given(st.integers(0, 40), st.integers(0, 6), st.integers(0, 50), st.booleans(), st.integers(0, 2**32 - 1))
def test_windows_agree_with_a_loop(n: int, before: int, after: int, soft: bool, seed: int) -> None:
    random = np.random.default_rng(seed)
    labels = random.random((n, 5)) if soft else random.random((n, 5)) < 0.15
    section = np.cumsum(random.random(n) < 0.1)
    families = random.permutation(5)[: random.integers(0, 6)].tolist()
    given_labels = labels.astype(np.float32)
    windowed = window_labels(given_labels, section, families, before=before, after=after)
    assert windowed.dtype == np.float32
    assert windowed.tolist() == slow(given_labels, section, families, before, after)
    assert np.array_equal(given_labels, labels.astype(np.float32)), "the argument is left as it was"


def test_a_window_of_two_tokens_ends_with_the_reply() -> None:
    labels = np.array([[0, 1, 0, 0, 0, 0, 0, 1], [1, 0, 0, 0, 0, 0, 0, 0]], np.float32).T
    text, is_reply = np.array([3, 3, 3, 3, 3, 3, 4, 4]), np.array([0, 0, 1, 1, 1, 1, 1, 1], bool)
    section = sections(text, is_reply)
    assert section.tolist() == [0, 0, 1, 1, 1, 1, 2, 2]
    assert window_labels(labels, section, [0], before=2, after=2).T.tolist() == [
        [1, 1, 0, 0, 0, 0, 1, 1],
        [1, 0, 0, 0, 0, 0, 0, 0],
    ]
    assert window_labels(labels, np.zeros(8, np.int64), [0], before=2, after=0)[:, 0].tolist() == [
        *(0, 1, 1, 1, 0, 0, 0, 1)
    ]


def test_no_positions_have_no_sections() -> None:
    empty = np.zeros(0, np.int64)
    assert sections(empty, empty.astype(bool)).tolist() == []
    assert window_labels(np.zeros((0, 3), np.float32), empty, [0, 2]).shape == (0, 3)


@pytest.mark.parametrize(
    ("section", "before", "message"),
    [
        ([0, 0], 1, r"`section` has shape \(2,\), expected \(3,\)"),
        ([1, 0, 0], 1, "`section` falls, expected the sections in order"),
        ([0, 0, 0], -1, "`before` and `after` are -1 and 12, expected 0 or more positions"),
    ],
)
def test_what_makes_no_window_is_refused(section: list[int], before: int, message: str) -> None:
    with pytest.raises(GateError, match=message):
        window_labels(np.zeros((3, 2), np.float32), np.array(section), [0], before=before)
