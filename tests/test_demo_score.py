"""Scoring of the demo's replies."""

from __future__ import annotations

import pytest

from lcg_cpp.demo import DemoPrompt
from lcg_cpp.demo.score import Score, score_reply, summarize, wrong_scripts

PLAIN = DemoPrompt("Germany, Monday\nArabic:", "ألمانيا, الاثنين", "Arabic", None, (("ألمانيا",), ("الاثنين",)), 1)
CHINESE = DemoPrompt(
    "Germany, Monday\nArabic + Chinese:",
    "ألمانيا (德国), الاثنين (星期一)",
    "Arabic",
    "chinese",
    (("ألمانيا", "德国"), ("الاثنين", "星期一")),
    2,
)


@pytest.mark.parametrize(
    ("reply", "language", "switch", "wrong"),
    [
        ("ألمانيا, الاثنين", "Arabic", None, set()),
        ("ألمانيا, Monday", "Arabic", None, {"latin"}),
        ("德国, Monday", "Arabic", None, {"cj", "latin"}),
        ("독일 (德国)", "Korean", "chinese", set()),
        ("독일 (Germany)", "Korean", "chinese", {"latin"}),
        ("Германия (Germany)", "Russian", "english", set()),
        ("Германия (德国)", "Russian", "english", {"cj"}),
        ("ドイツ", "Japanese", None, set()),
        ("Alemania, 德国", "Spanish", None, {"cj"}),
        ("12, (3)?", "Thai", None, set()),
        ("", "Thai", None, set()),
    ],
)
def test_letters_that_were_not_asked_for_are_wrong(reply, language, switch, wrong):
    assert wrong_scripts(reply, language, switch) == wrong


def test_half_a_character_is_no_letter():
    assert wrong_scripts("독일\ufffd", "Korean", None) == set()


def test_a_reply_is_scored_as_a_whole():
    assert score_reply(PLAIN, " ألمانيا, الاثنين") == Score(frozenset(), 0, 0, True)
    assert score_reply(PLAIN, " ألمانيا, 星期一") == Score(frozenset({"cj"}), 0, 0, False)
    assert score_reply(CHINESE, " ألمانيا (德国), Monday (星期一)") == Score(frozenset({"latin"}), 2, 2, False)


def test_shares_are_of_replies_and_of_switches():
    scores = [
        Score(frozenset({"cj", "latin"}), 0, 0, False),
        Score(frozenset({"latin"}), 0, 0, False),
        Score(frozenset(), 4, 3, False),
        Score(frozenset(), 6, 6, True),
    ]
    summary = summarize(scores)
    assert summary.cj_percent == 25.0
    assert summary.latin_percent == 50.0
    assert summary.switches_kept_percent == 90.0
    assert summary.exact_match_percent == 25.0


def test_without_switch_prompts_nothing_can_be_lost():
    assert summarize([Score(frozenset(), 0, 0, True)]).switches_kept_percent == 100.0
