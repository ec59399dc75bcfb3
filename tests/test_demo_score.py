"""Scoring of the demo's replies."""

from __future__ import annotations

import pytest

from lcg_cpp.demo import DemoPrompt
from lcg_cpp.demo.score import Score, names_kept, normalize, score_reply, summarize, switches_kept, wrong_scripts

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


def test_white_space_and_unicode_form_do_not_matter():
    assert normalize("  한국 \n x ") == "한국 x"


@pytest.mark.parametrize(
    ("reply", "kept"),
    [
        ("ألمانيا (德国), الاثنين (星期一)", 2),
        ("德国 (德国), الاثنين (星期一)", 2),  # the switch is kept, though the name before it is not right
        ("ألمانيا (德国), الاثنين", 1),
        ("ألمانيا (星期一), الاثنين (德国)", 0),  # right names, wrong places
        ("ألمانيا 德国, الاثنين 星期一", 0),
        ("ألمانيا (Germany), الاثنين (Monday)", 0),
        ("ألمانيا (德国), الاثنين (星期一), اليابان (日本)", 2),
        ("", 0),
    ],
)
def test_a_switch_is_kept_if_the_name_is_in_the_brackets_of_its_item(reply, kept):
    assert switches_kept(reply, CHINESE.items) == kept


QUOTED = DemoPrompt(
    "Seen: Oman. Read: “Romania”. Read: “Oman”.\nRussian + English:",
    "Видели: Оман (Oman). Прочли: «Romania». Прочли: «Oman».",
    "Russian",
    "english",
    (("Оман", "Oman"), ("Румыния", "Romania"), ("Оман", "Oman")),
    3,
)


@pytest.mark.parametrize(
    ("reply", "kept"),
    [
        ("Видели: Оман (Oman). Прочли: «Romania». Прочли: «Oman».", 3),
        ("Видели: «Оман (Oman)». Прочли: « Romania ». Прочли: “Oman”.", 3),
        ("Видели: Оман. Прочли: «Romania». Прочли: «Oman».", 2),
        ("Видели: Оман (Oman). Прочли: «Румыния». Прочли: «Oman».", 2),
        ("Прочли: «Romania». Видели: Оман (Oman).", 2),  # Romania, then the second Oman
        ("Видели: Oman. Прочли: Romania.", 0),
        ("Видели: (Omani).", 0),
        ("", 0),
    ],
)
def test_in_a_paragraph_a_name_is_kept_if_it_is_marked_and_in_its_order(reply, kept):
    assert names_kept(reply, QUOTED.items) == kept
    assert score_reply(QUOTED, reply).n_kept == kept


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
