"""Unwanted letters by script: what a prompt expects, what a reader calls them, what texts of every language hold."""

from __future__ import annotations

import pytest

from lcg_cpp.benchmarks import load_benchmark
from lcg_cpp.gate.scripts import SIBLINGS, families_of_script
from lcg_cpp.measure.judge import measure_reply, unwanted_letters
from lcg_cpp.measure.unwanted import KINDS, expected, letters_by_kind, title_of, unwanted
from sample_replies import make_prompt, make_reply

HANS, HANT, JPAN = (families_of_script(script) for script in ("Hans", "Hant", "Jpan"))


def found(text, language="ko", **values):
    """The unwanted parts of a text with their kinds."""
    stretches = unwanted(text, make_prompt(language=language, **values))
    return None if stretches is None else [(text[begin:end], kind) for begin, end, kind in stretches]


# ---- what a prompt expects ----


@pytest.mark.parametrize(
    ("values", "own", "others"),
    [
        ({}, {"arabic"}, set()),
        ({"language": "zh"}, HANS, set()),
        ({"language": "zh-Hant"}, HANT, set()),
        ({"language": "zh", "prompt": "請說明這個問題"}, HANT, set()),
        ({"language": "zh-Hans", "prompt": "請說明這個問題"}, HANS, set()),
        ({"language": "zh", "prompt": "請說明這個問題", "reference": "这个问题"}, HANS, set()),
        ({"language": "ja"}, JPAN, set()),
        ({"language": "ko"}, {"hangul"}, set()),
        ({"language": "chr"}, {"other"}, set()),
        ({"expect_scripts": ("latin", "arabic")}, {"arabic"}, {"latin"}),
        ({"expect_scripts": ("cj",)}, {"arabic"}, SIBLINGS),
        ({"language": "ja", "expect_scripts": ("cj",)}, JPAN, set()),
        ({"language": "ja", "switch": "simplified"}, JPAN, {"hans", "hanst"}),
        ({"language": "ko", "expect_scripts": ("hant",)}, {"hangul"}, HANT),
        ({"language": "", "expect_scripts": ("greek",)}, {"greek"}, set()),
        ({"switch": "cj", "items": (("هاتف", "iPhone 手机"),)}, {"arabic"}, {*SIBLINGS, "latin"}),
    ],
)
def test_a_prompt_expects_its_language_its_scripts_and_its_switch(values, own, others):
    right = expected(make_prompt(**values))
    assert (right.own, right.others) == (own, others)


@pytest.mark.parametrize("values", [{"language": ""}, {"language": "", "switch": "latin"}, {"language": "xx"}])
def test_without_a_known_language_and_scripts_no_letter_is_wrong(values):
    assert expected(make_prompt(**values)) is None
    assert unwanted("Berlin 柏林", make_prompt(**values)) is None
    assert unwanted_letters(make_reply("Berlin"), make_prompt(**values)) is None


@pytest.mark.parametrize("name", ["cldr", "demo"])
def test_no_letter_of_a_reference_is_unwanted(name):
    for prompt in load_benchmark(name).prompts:
        assert unwanted(prompt.reference, prompt) == [], prompt.id


# ---- what a reader calls them ----


@pytest.mark.parametrize(
    ("language", "text", "kinds"),
    [
        ("ko", "한 中国 国語 这", [("中国", "han"), ("国語", "han"), ("这", "han")]),
        ("ru", "день かな 駅 中", [("かな", "kana"), ("駅", "kana"), ("中", "han")]),
        ("ja", "国語の駅、你们说話", [("你们说", "chinese")]),
        ("zh", "中国你说 說話 かな 気", [("說話", "traditional"), ("かな", "kana"), ("気", "kana")]),
        ("zh-Hant", "中國你說 说国 かな", [("说国", "simplified"), ("かな", "kana")]),
        (
            "en",
            "day день ημέρα יום 하루",
            [("день", "cyrillic"), ("ημέρα", "greek"), ("יום", "hebrew"), ("하루", "hangul")],
        ),
        ("hi", "दिन দিন ᏂᎦᏓ", [("দিন", "bengali"), ("ᏂᎦᏓ", "other")]),
        ("hi", "दिन 1 ॥ 😀 ٣", []),
    ],
)
def test_unwanted_letters_are_named_as_a_reader_sees_them(language, text, kinds):
    assert found(text, language) == kinds
    assert {kind for _, kind in kinds} <= set(KINDS)


def test_every_kind_has_a_title_of_its_own():
    assert len({title_of(kind) for kind in KINDS}) == len(KINDS)
    assert (title_of("chinese"), title_of("latin")) == ("Chinese in Japanese", "Latin")


def test_letters_are_counted_by_kind():
    assert letters_by_kind([(0, 3, "latin"), (5, 6, "han"), (7, 9, "latin")]) == {"latin": 5, "han": 1}
    reply = make_reply(["<t>", "Bonn", "</t>", "نعم ", "ab"], thinking=[(0, 3, 7, 11)])
    assert unwanted_letters(reply, make_prompt()) == {"latin": 2}  # of the answer alone


# ---- what texts of every language hold ----


@pytest.mark.parametrize(
    "text",
    [
        "PDF 파일, GPT-4 모델, iPhone으로",
        "Leonardo da Vinci와 Vincent van Gogh",
        "5 km, 60 km/h, 5 µm, 200 ml, 10 GB, 5kg, MP3, x86",
        "C 비타민, a) 하나, ii) 둘, πr², Δx",
        "`print(x)`와 ```python\nfor x in range(3):\n    pass\n```",
        "```\nnever closed",
        "<b>굵게</b> read_file main() README.md example.com --help /usr/bin/env ~/notes C:\\temp",
        "https://example.com/a-page, www.example.com/x, someone@example.com",
        "$x + vy = z$, $$mean$$, \\(speed\\), \\frac{a}{b}",
        "광합성(photosynthesis), “to be or not to be”, 《the wall》",
    ],
)
def test_what_texts_of_every_language_hold_is_wanted(text):
    assert found(text) == []


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("하지만 because 그", ["because"]),
        ("However, this works 그", ["However", "this", "works"]),
        ("2 and 3, $5 and $10", ["and", "and"]),
        ("the 그 of", ["the", "of"]),
        ("km 단위", ["km"]),
        ("I am Sam", ["I", "am", "Sam"]),
        ("(however 그)", ["however"]),
        ("“" + "word " * 13 + "”", ["word"] * 13),
        ("`code` and `code`", ["and"]),
        ("αβ", ["αβ"]),
        ("(中国) “привет” `变量`", ["中国", "привет", "变量"]),
    ],
)
def test_what_explains_itself_by_no_rule_is_unwanted(text, parts):
    assert [part for part, _ in found(text)] == parts


@pytest.mark.parametrize(
    ("text", "parts"),
    [("Cпасибо", ["C"]), ("Helloмир", ["Hello"]), ("словаs", ["s"]), ("PDF-файл, C и я", []), ("πримет", ["π"])],
)
def test_latin_grown_together_with_a_cased_script_is_never_wanted(text, parts):
    assert [part for part, _ in found(text, "ru")] == parts


def test_words_of_a_prompt_in_the_same_script_may_be_repeated():
    assert found("pytorch 是库 привет", "zh", prompt="请介绍pytorch和привет这两个词的含义和用法吧朋友") == []
    assert found("pytorch는 это 一 は", prompt="파이썬의 pytorch는 무엇인가요? 一") == [
        ("это", "cyrillic"),
        ("は", "kana"),
    ]
    assert found("the sky", prompt="Why is the sky blue? 한국어로") == [("the", "latin"), ("sky", "latin")]


def test_where_a_reference_is_known_it_decides():
    assert found("PDF", reference="문서") == [("PDF", "latin")]
    assert found("pdf", reference="PDF 문서", expect_scripts=("latin",)) == []


def test_letters_of_multiple_choice_are_not_judged():
    assert found("정답: B) Bonn", answer="B", reference="B") == [("Bonn", "latin")]


# ---- measures ----


def test_measures_of_unwanted_letters_tell_the_total_and_each_kind():
    measures = measure_reply(make_reply(["نعم ", "да", "ла", " Bonn ", "", "波", "恩"]), make_prompt(reference="نعم"))
    assert (measures["unwanted"], measures["unwanted_tokens"]) == (1, 5)
    told = {kind for kind in KINDS if measures[f"unwanted_{kind}"]}
    assert told == {"cyrillic", "latin", "han"}
    assert (measures["cj"], measures["cj_tokens"], measures["latin"], measures["latin_tokens"]) == (1, 2, 1, 1)
    clean = measure_reply(make_reply("نعم"), make_prompt())
    assert {clean["unwanted"], clean["unwanted_tokens"], *(clean[f"unwanted_{kind}"] for kind in KINDS)} == {0}


@pytest.mark.parametrize(
    ("language", "text", "cj"), [("ja", "你们", 0), ("zh", "かな", 0), ("ko", "中", 1), ("en", "かな", 1)]
)
def test_the_papers_cj_is_never_wrong_in_chinese_or_japanese(language, text, cj):
    measures = measure_reply(make_reply(text), make_prompt(language=language), extras=False)
    assert (measures["unwanted"], measures["cj"]) == (1, cj)


@pytest.mark.parametrize(
    ("text", "is_another", "slips"),
    [("Это ответ", 1, 0), ("نعم и да и да", 1, 0), ("نعم نعم да", 0, 1), ("PDF", 0, 0), ("", 0, 0)],
)
def test_a_reply_slips_or_is_in_another_script_if_most_of_its_letters_are_unwanted(text, is_another, slips):
    measures = measure_reply(make_reply(text), make_prompt(), extras=False)
    assert (measures["wrong_script"], measures["slips"]) == (is_another, slips)


def test_thoughts_have_their_own_measures():
    reply = make_reply(["<t>", "да", "</t>", "نعم"], thinking=[(0, 3, 5, 9)])
    measures = measure_reply(reply, make_prompt(), extras=False)
    assert [measures[f"thinking_{name}"] for name in ("unwanted", "cj", "latin")] == [1, 0, 0]
    assert measures["unwanted"] == 0
