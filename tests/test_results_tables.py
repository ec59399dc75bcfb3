"""The tables of docs/results.md, on replies whose numbers are plain."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tools"))

from results import tables
from results.experiments import PAIRS, experiments, gates
from results.generate import Outcome
from sample_replies import make_prompt, make_reply

CJ, LATIN, SYMBOLS, LOWRES = range(4)
ROOT = Path(__file__).resolve().parents[1]


def row_of(table: str, name: str) -> list[str]:
    """The cells of a line behind its first one."""
    lines = [[cell.strip() for cell in line.strip("|").split("|")] for line in table.splitlines()]
    return next(cells[1:] for cells in lines if cells[0] == name)


@pytest.fixture
def outcome() -> Outcome:
    """Four prompts; the plain model confuses all replies, the gated one a quarter."""
    prompts = {str(i): make_prompt(id=str(i), prompt="Guam, Chinese\nArabic:", reference="غوام") for i in range(4)}
    items = (("غوام", "Guam"),)
    prompts["3"] = make_prompt(
        id="3", prompt="Guam, Chinese\nArabic + English:", switch="latin", items=items, reference="غوام (Guam)"
    )
    replies = []
    for i in range(4):
        replies.append(make_reply(["关岛"], id=str(i), families=[CJ]))
        good = ["غ", "وام"] if i < 3 else ["غوام", " (", "", "关", ")"]
        families = [LOWRES] * 2 if i < 3 else [LOWRES, SYMBOLS, CJ, CJ, SYMBOLS]
        replies.append(make_reply(good, id=str(i), method="lcg", families=families))
    return Outcome(replies, prompts, "none")


def test_reduction_is_the_ratio_of_the_shares_and_infinite_where_nothing_is_left(outcome: Outcome) -> None:
    found = tables.reduction(outcome, "lcg")
    plain, gated, times = row_of(found, "replies with unwanted Chinese, %")
    assert plain.startswith("100.0 (")
    assert gated.startswith("25.0 (0.0–")
    assert re.fullmatch(r"4 \([\d.]+–∞\)", times)  # in some resamples no prompt is the confused one
    assert row_of(found, "replies with unwanted Latin, %")[2] == ""  # neither had any


@pytest.mark.parametrize(
    ("ratio", "shown"),
    [
        ({"value": 0.05, "low": 0.025, "high": 0.1}, "20 (10–40)"),
        ({"value": 0.0, "low": 0.0, "high": 0.04}, "∞ (25–∞)"),
        ({"value": 2.0, "low": 0.5, "high": None}, "0.5 (0–2)"),
    ],
)
def test_times_less_is_the_ratio_turned_over(ratio: dict[str, float | None], shown: str) -> None:
    assert tables.times(ratio) == shown


def test_remaining_counts_replies_by_what_might_explain_them(outcome: Outcome) -> None:
    assert row_of(tables.remaining(outcome, "none"), "cj") == ["4", "4", "1"]
    assert row_of(tables.remaining(outcome, "lcg"), "cj") == ["1", "0", "1"]
    assert row_of(tables.remaining(outcome, "lcg"), "latin") == ["0", "0", "0"]


def test_changes_are_the_second_methods_less_the_firsts(outcome: Outcome) -> None:
    (change, *_) = row_of(tables.changes(outcome, [("none", "lcg")]), "none → lcg")
    assert change.startswith("-75.0 (")
    (change, *_) = row_of(tables.changes(outcome, [("lcg", "none")]), "lcg → none")
    assert change.startswith("+75.0 (")


def test_same_replies_are_compared_token_by_token() -> None:
    replies = [make_reply(["a"], id=str(i), method="f32", tokens=[i]) for i in range(4)]
    replies += [make_reply(["a"], id=str(i), method="f16", tokens=[min(i, 2)]) for i in range(4)]
    assert row_of(tables.same_replies(Outcome(replies, {}, "none"), "f32"), "f16") == ["75.00"]


def test_every_method_that_a_table_compares_is_generated() -> None:
    files = {name: Path(name) for name in (*gates(), *(f"type {kind}" for kind in ("f32", "f16", "bf16", "q8_0")))}
    wanted = experiments(files)
    names = {method.name for method in wanted["methods"].methods}
    assert {name for pair in PAIRS for name in pair} <= names
    assert all(experiment.methods[0].options is None for experiment in wanted.values())


def test_the_document_has_a_place_for_every_table() -> None:
    source = (ROOT / "tools" / "make_results.py").read_text("utf-8")
    document = (ROOT / "docs" / "results.md").read_text("utf-8")
    marks = re.findall(r"<!-- results: (\w+) -->\n\n\|", document)
    assert len(marks) == len(set(marks)) > 10
    assert all(f'"{mark}"' in source for mark in marks)
