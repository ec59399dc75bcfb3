"""Windowed labels, against a loop over positions."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lcg_cpp.data import Encoded
from lcg_cpp.errors import GateError
from lcg_cpp.gate.decisions import DecodingRules, FamilyTable
from lcg_cpp.gate.rule_set import FamilySet
from lcg_cpp.gate.spec import CONFIDENCE
from lcg_cpp.gate.thresholds import Thresholds
from lcg_cpp.gate.walk import ForcedText
from lcg_cpp.train.batches import Evaluator
from lcg_cpp.train.options import TrainOptions
from lcg_cpp.train.source import Found
from lcg_cpp.train.windows import sections, sibling_labels, window_labels


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


# ---- siblings ----

NAMES = ("latin", "kana", "hans", "hant", "hanst", "hansj", "hantj", "han", "symbols")
# Who writes a family may write these too, from what the families mean: s simplified, t traditional, j Japanese.
ALONG = {
    "kana": {"kana", "hansj", "hantj", "han"},
    "hans": {"hans", "hanst", "hansj", "han"},
    "hant": {"hant", "hanst", "hantj", "han"},
    "hanst": {"hanst", "han"},
    "hansj": {"hansj", "han"},
    "hantj": {"hantj", "han"},
    "han": {"han"},
}
JAPANESE = {"kana", "hansj", "hantj", "han"}
SIMPLIFIED = {"hans", "hanst", "hansj", "han"}
TRADITIONAL = {"hant", "hanst", "hantj", "han"}


@pytest.mark.parametrize("name", NAMES)
def test_what_a_plausible_sibling_implies(name: str) -> None:
    labels = np.array([[name == other for other in NAMES]], np.float32)
    found = sibling_labels(labels, np.zeros(1, np.int64), np.zeros(1, np.int64), NAMES, 0)
    assert {other for other, value in zip(NAMES, found[0]) if value} == ALONG.get(name, {name})


def test_a_family_that_a_vocabulary_lacks_is_implied_by_none() -> None:
    own = np.full(3, 2)
    found = sibling_labels(np.eye(3, dtype=np.float32), own, np.arange(3), ("hans", "han", "latin"), 12)
    assert found.tolist() == [[1, 1, 0], [0, 1, 0], [0, 0, 1]]


def test_shares_of_siblings_become_the_largest_of_those_that_imply_them() -> None:
    labels = np.array([[0.5, 0.25, 0.25], [0, 0.125, 0.875]], np.float32)  # kana, han, latin
    found = sibling_labels(labels, np.full(2, 2), np.zeros(2, np.int64), ("kana", "han", "latin"), 1)
    assert found.tolist() == [[0.5, 0.5, 0.25], [0.5, 0.5, 0.875]]


def test_four_families_have_no_windows() -> None:
    labels = np.eye(4, dtype=np.float32)
    names = ("cj", "latin", "symbols", "lowres")
    assert sibling_labels(labels, np.zeros(4, np.int64), np.zeros(4, np.int64), names, 12) is labels


@pytest.mark.parametrize(
    ("own", "plausible"),
    [  # the families of the text's own tokens, and what may be plausible among them where the model likes them all
        (("han", "symbols", "latin"), set(ALONG)),
        (("kana", "han"), JAPANESE),
        (("hans", "han", "hansj"), SIMPLIFIED),
        (("hant", "hantj"), TRADITIONAL),
        (("hanst", "hansj"), SIMPLIFIED),
        (("hansj", "hantj"), JAPANESE),
        (("hanst", "han"), SIMPLIFIED | TRADITIONAL),
        (("hans", "kana"), set(ALONG)),  # texts that mix
        (("hans", "hant"), set(ALONG)),
    ],
)
def test_a_sibling_of_another_language_than_the_texts_is_not_plausible(
    own: tuple[str, ...], plausible: set[str]
) -> None:
    n = len(own)
    found = sibling_labels(
        np.ones((n, len(NAMES)), np.float32), np.array([NAMES.index(f) for f in own]), np.zeros(n, np.int64), NAMES, 12
    )
    for label in found:
        assert {name for name, value in zip(NAMES, label) if value} == {"latin", "symbols"} | plausible


def test_the_language_is_seen_within_the_window_only() -> None:
    own = np.array([NAMES.index(name) for name in ("kana", "han", "han", "hans")])
    labels = np.ones((4, len(NAMES)), np.float32)
    hans = sibling_labels(labels, own, np.zeros(4, np.int64), NAMES, 1)[:, NAMES.index("hans")]
    assert hans.tolist() == [0, 0, 1, 1]
    hans = sibling_labels(labels, own, np.array([0, 0, 0, 1]), NAMES, 3)[:, NAMES.index("hans")]
    assert hans.tolist() == [0, 0, 0, 1]


# Of the forty tokens of the texts below: a few of each family, so that most windows have one writer or several.
FAMILY_OF_TOKEN = np.random.default_rng(1).choice(len(NAMES), 40, p=[0.3, 0.03, 0.03, 0.03, 0.03, 0.03, 0.05, 0.3, 0.2])


class FakeSource:
    """Texts with random labels, some positions of which come at a time, without regard for where a text ends."""

    n_embd = 1

    def __init__(self, seed: int) -> None:
        random = np.random.default_rng(seed)
        self.skipped: Counter[str] = Counter()
        self.texts: list[Encoded] = []
        for _ in range(random.integers(1, 5)):
            n = int(random.integers(2, 40))
            turns = np.cumsum(random.random(n) < 0.15) % 2 == 1  # prompts and replies in turn, begun by either
            self.texts.append(Encoded(random.integers(0, 40, n).tolist(), (turns ^ (random.random() < 0.5)).tolist()))
        self.labels = [(random.random((len(t.tokens), len(NAMES))) < 0.04).astype(np.float32) for t in self.texts]
        self._size = int(random.integers(1, 9))

    def encode(self, row: int) -> Encoded | None:
        """The tokens of a row; one row has none."""
        return None if row == len(self.texts) else self.texts[row]

    def find(self, rows: Sequence[int], texts: Sequence[ForcedText], *, with_steps: bool = False) -> Iterator[Found]:
        """The wanted positions."""
        at = [(i, position) for i, text in enumerate(texts) for position in np.flatnonzero(text.wanted).tolist()]
        for begin in range(0, len(at), self._size):
            part = at[begin : begin + self._size]
            labels = np.array([self.labels[rows[i]][position] for i, position in part])
            text, position = np.array(part, np.int32).T
            none = np.zeros(len(part), np.int64)
            following = np.array([self.texts[rows[i]].tokens[position + 1] for i, position in part])
            yield Found(none[:, None].astype(np.float32), labels, None, text, position, none, following)


def expected_label(source: FakeSource, row: int, position: int, width: int) -> set[str]:
    """What is plausible for the token after a position, by going through its neighbours."""
    is_reply = source.texts[row].is_reply
    held = [{name for name, x in zip(NAMES, label) if x} for label in source.labels[row]]
    found = set(held[position])
    own = set()
    for step in (1, -1):
        near = position
        while abs(near - position) <= width and 0 <= near < len(is_reply) - 1:
            if is_reply[near + 1] != is_reply[position + 1]:
                break
            found |= held[near] & ALONG.keys()
            own.add(NAMES[FAMILY_OF_TOKEN[source.texts[row].tokens[near + 1]]])
            near += step
    languages = [language for language in (SIMPLIFIED, TRADITIONAL, JAPANESE) if own & ALONG.keys() <= language]
    if languages:
        found &= set().union(*languages) | (set(NAMES) - ALONG.keys())
    return set().union(*(ALONG.get(name, {name}) for name in found))


def written_label(source: FakeSource, row: int, position: int, found: set[str]) -> set[str]:
    """Of a label, what the same prompt or reply writes, and the next token's own family; siblings stay."""
    text = source.texts[row]
    own = [NAMES[FAMILY_OF_TOKEN[token]] for token in text.tokens]
    written = set()
    for step in (-1, 1):
        near = position + 1
        while 1 <= near < len(own) and text.is_reply[near] == text.is_reply[position + 1]:
            written.add(own[near])
            near += step
    return (found & (written | ALONG.keys() | {"symbols"})) | {own[position + 1]}


@given(
    st.integers(0, 2**32 - 1),
    st.sampled_from(["all", "reply"]),
    st.integers(0, 15),
    st.sampled_from(["written", "likely"]),
)
def test_labels_of_a_group_of_texts_agree_with_a_walk_through_the_neighbours(
    seed: int, positions: str, width: int, label_scripts: str
) -> None:
    source = FakeSource(seed)
    families = FamilySet(NAMES, (True,) * 8 + (False,), 8, "scripts")
    rules = DecodingRules(FamilyTable(FAMILY_OF_TOKEN, families), Thresholds((0.5,) * len(families)), CONFIDENCE)
    options = TrainOptions(rules="scripts", window=width, positions=positions, label_scripts=label_scripts)
    evaluator = Evaluator(source, None, rules, options)  # type: ignore[arg-type] (asked for no order)
    rows = np.random.default_rng(seed).permutation(len(source.texts) + 1).tolist()
    batch = evaluator.batch(rows)
    assert batch is not None
    wanted = [
        (row, position)
        for row in rows
        if row < len(source.texts)
        for position in range(len(source.texts[row].tokens) - 1)
        if positions == "all" or source.texts[row].is_reply[position + 1]
    ]
    assert batch.keys.tolist() == [row << 32 | position for row, position in wanted]
    for (row, position), label in zip(wanted, batch.labels):
        found = {name for name, value in zip(NAMES, label) if value}
        wanted_label = expected_label(source, row, position, width)
        if label_scripts == "written":
            wanted_label = written_label(source, row, position, wanted_label)
        assert found == wanted_label


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
