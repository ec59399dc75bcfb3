"""The tool that compares gates of different families on a toy model: what it counts."""

from __future__ import annotations

import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

pytest.importorskip("torch")  # which the tool trains with

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tools"))

from families import tables
from families.forced import HAN, KINDS, LATIN, OTHER, SIBLING, Counts, Forced, kind_of, right_families, score
from gate_families import arms
from lcg_cpp.gate.options import GateOptions
from lcg_cpp.gate.rule_set import FamilySet
from lcg_cpp.gate.spec import CONFIDENCE
from lcg_cpp.gate.steps import Steps
from lcg_cpp.gate.thresholds import Thresholds
from results.generate import Outcome
from sample_replies import make_prompt, make_reply

HANGUL, ENGLISH, NEUTRAL = range(3)  # the ids of tokens and of their families
NARROW = ((1, 0.5),)


def test_right_is_what_the_language_writes_and_what_the_text_holds_itself():
    assert right_families("독일", "ko") == {"hangul"}
    assert right_families("독일 (Germany)", "ko") == {"hangul", "latin"}
    assert right_families("スペイン", "ja") == {"kana", "hansj", "hantj", "han"}


def test_whoever_may_write_simplified_characters_may_write_what_they_share():
    assert right_families("스페인 (这)", "ko") == {"hangul", "hans", "hanst", "hansj", "han"}


@pytest.mark.parametrize(
    ("family", "code", "kind"),
    [
        ("latin", "ko", LATIN),
        ("cyrillic", "ko", OTHER),
        ("hans", "ko", HAN),
        ("kana", "ko", HAN),
        ("hans", "ja", SIBLING),
        ("hant", "zh", SIBLING),
        ("kana", "zh_Hant", SIBLING),
        ("latin", "zh", LATIN),
    ],
)
def test_unwanted_tokens_have_a_kind(family, code, kind):
    assert kind_of(family, code) == kind


@pytest.fixture
def forced() -> Forced:
    """A Korean reply of three tokens, 독일 Germany 독일: at each Hangul and Latin could be sampled."""
    n = 3
    steps = Steps(
        np.array([[HANGUL, ENGLISH]] * n, np.int32),
        np.array([[2.0, 1.9]] * n, np.float32),
        np.zeros(n),
        np.full(n, 2, np.int32),
        np.full(n, 2, np.int32),
    )
    tokens = np.array([NEUTRAL, HANGUL, ENGLISH, HANGUL])
    unwanted = np.array([[False, True], [False, False], [False, True]])
    return Forced(
        hidden=np.zeros((n, 1), np.float32),
        steps=steps,
        n_confident={CONFIDENCE: steps.n_confident, NARROW: np.ones(n, np.int32)},
        following=tokens[1:],
        text=np.zeros(n, np.int64),
        languages=["ko"],
        tokens=[(tokens, np.array([False, True, True, True]))],
        at=np.arange(n),
        unwanted=unwanted,
        kinds={kind: unwanted if kind == LATIN else np.zeros_like(unwanted) for kind in KINDS},
        is_switch=np.array([False, True, False]),
    )


def gate(hangul: float, english: float) -> SimpleNamespace:
    """A gate that says the same everywhere."""
    return SimpleNamespace(
        token_families=np.array([HANGUL, ENGLISH, NEUTRAL], np.uint8),
        masked_as=np.array([HANGUL, ENGLISH, NEUTRAL], np.uint8),
        families=FamilySet(("hangul", "latin", "symbols"), (True, True, False), NEUTRAL, "scripts"),
        thresholds=Thresholds((0.5,) * 3),
        confidence=((5, 0.999), (20, 0.95)),
        predict=lambda hidden: np.tile(np.array([hangul, english, -9.0], np.float32), (len(hidden), 1)),
    )


def test_a_gate_that_bans_latin_mends_the_start_and_breaks_the_switch(forced):
    found = score(forced, gate(9.0, -9.0), GateOptions())
    # at the third position the newest token is Latin, which persistence allows
    assert found.repaired["any"] == found.repaired[LATIN] == Counts(2, 1)
    assert found.repaired[HAN] == Counts(0, 0)
    assert found.switches == Counts(1, 1)
    assert found.banned["ko"] == found.banned["all"] == Counts(3, 1)
    assert found.interventions["ko"] == Counts(3, 2)
    assert found.needless["ko"] == Counts(3, 1)


def test_a_gate_that_allows_both_does_nothing(forced):
    found = score(forced, gate(9.0, 9.0), GateOptions())
    assert [found.repaired["any"].found, found.banned["all"].found, found.interventions["all"].found] == [0, 0, 0]


def test_the_confidence_rule_is_that_of_the_h_given(forced):
    # with the first token alone in H, Hangul, a gate that wants Latin never acts
    assert score(forced, gate(-9.0, 9.0), GateOptions()).interventions["all"].found > 0
    assert score(forced, gate(-9.0, 9.0), GateOptions(), NARROW).interventions["all"].found == 0


def test_replies_that_the_gate_makes_wrong_and_right_are_counted_by_language():
    prompts = {str(i): make_prompt(id=str(i), prompt="?", reference="독일", language="ko") for i in range(3)}
    texts = {"none": ("독일", "Germany", "Germany"), "lcg": ("독", "독일", "독일")}
    replies = [
        make_reply([text], id=str(i), method=method) for method, said in texts.items() for i, text in enumerate(said)
    ]
    line = tables.by_language(Outcome(replies, prompts, "none"), ["lcg"]).splitlines()[-1]
    assert line.startswith("| Korean |")
    assert line.endswith("| 1 / 2 |")


def test_the_two_rule_sets_differ_in_nothing_else():
    default, scripts = arms()["default"], arms()["scripts"]
    differing = {name for name, value in vars(default.training).items() if vars(scripts.training)[name] != value}
    assert differing == {"rules"}
    assert default.options == scripts.options == GateOptions()
