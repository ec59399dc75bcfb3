"""Texts of replies: requested names, multiple choice, lines and words."""

from __future__ import annotations

import pytest

from lcg_cpp.measure.reply_text import (
    blank_choices,
    choice,
    count_held,
    count_marked,
    holds_latin_word,
    lines_to_judge,
    names_kept,
    normalize,
    switches_kept,
)

LISTED = (("ألمانيا", "德国"), ("الاثنين", "星期一"))
LIST = "ألمانيا (德国), الاثنين (星期一)"
QUOTED = (("Оман", "Oman"), ("Румыния", "Romania"), ("Оман", "Oman"))
PARAGRAPH = "Видели: Оман (Oman). Прочли: «Romania». Прочли: «Oman»."


def test_white_space_and_unicode_form_do_not_matter():
    assert normalize("  한국 \n x ") == "한국 x"
    assert normalize("e\u0301") == "\u00e9"


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
def test_in_a_list_a_name_is_kept_if_it_is_in_the_brackets_of_its_item(reply, kept):
    assert switches_kept(reply, LISTED) == kept
    assert count_marked(reply, LISTED, LIST) == kept


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
    assert names_kept(reply, QUOTED) == kept
    assert count_marked(reply, QUOTED, PARAGRAPH) == kept


def test_a_single_string_is_the_name_wanted():
    assert switches_kept("독일 (Germany), 월요일 (Monday)", [("Germany",), ("Monday",)]) == 2


@pytest.mark.parametrize(
    ("reply", "held"),
    [
        ("المال: Germany، ألمانيا", 1),
        ("ألمانيا", 0),  # all strings of an item are needed
        ("الاثنين (星期一) وألمانيا (Germany)", 2),
        ("", 0),
    ],
)
def test_anywhere_in_a_reply_will_do_where_it_need_not_be_marked(reply, held):
    assert count_held(reply, (("ألمانيا", "Germany"), ("星期一",))) == held


@pytest.mark.parametrize(
    ("reply", "letter"),
    [
        ("B", "B"),
        ("**C**. Paris", "C"),
        ("الجواب: D", "D"),
        ("答案是B。", "B"),
        ("Berlin", ""),
        ("I think (A)", "A"),
        ("A) 뜨겁다, B) 차갑다: 얼음은 차갑다.\n답변: B", "B"),
        ("b", ""),
        ("", ""),
    ],
)
def test_the_last_letter_that_stands_alone_is_the_choice(reply, letter):
    assert choice(reply) == letter


def test_choices_are_no_letters_of_a_language():
    assert blank_choices("الجواب: B) Berlin, H") == "الجواب:  ) Berlin, H"


@pytest.mark.parametrize(
    ("reply", "lines"),
    [
        ("one two three four", []),
        ("one two three, four — five!", ["one two three four   five"]),
        ("# Titel\n\nDas ist ein ganzer Satz.\nJa.", ["Das ist ein ganzer Satz"]),
        ("这是一句中文的话。", []),  # eight letters
        ("这是一句比较长的中文。", ["这是一句比较长的中文"]),
        ("ประเทศไทย", []),  # nine letters
        ("ภาษาไทยเป็นภาษาราชการ", ["ภาษาไทยเป็นภาษาราชการ"]),
        ("한국어로 쓴 문장 하나", []),  # Korean has spaces
        ("1 2 3 4 5, drei vier", []),
        ("", []),
    ],
)
def test_lines_of_five_words_or_ten_unspaced_letters_are_judged(reply, lines):
    assert lines_to_judge(reply) == lines


@pytest.mark.parametrize(
    ("text", "holds"),
    [
        ("это слово word здесь", True),
        ("这个word没有空格", True),
        ("это Paris и NATO", False),
        ("это the и iOS", False),
        ("mot déjà vu", True),
        ("de\u0301ja\u0300", True),  # accents as marks of their own
        ("слово", False),
        ("", False),
    ],
)
def test_a_latin_word_has_four_letters_in_lower_case(text, holds):
    assert holds_latin_word(text) == holds
