"""Measures of one reply, by hand."""

from __future__ import annotations

import pytest

from lcg_cpp.measure.judge import check_prompts, measure_reply, unknown_languages
from sample_replies import event, make_prompt, make_reply


def measured(pieces, **values):
    return measure_reply(make_reply(pieces), make_prompt(**values))


def test_letters_of_a_script_that_is_not_expected_are_counted_by_reply_and_by_token():
    measures = measured(["ألمانيا", " Berlin", " and", "柏", "林", "", "!"])
    assert (measures["cj"], measures["latin"], measures["unwanted"]) == (1, 1, 1)
    assert (measures["cj_tokens"], measures["latin_tokens"], measures["tokens"]) == (2, 2, 7)
    assert measures["unwanted_tokens"] == 4
    measures = measured(["ألمانيا", " Berlin", "柏"], switch="latin")
    assert (measures["cj"], measures["latin"], measures["cj_tokens"], measures["latin_tokens"]) == (1, 0, 1, 0)


def test_without_language_and_scripts_no_letter_is_wrong():
    measures = measured("Berlin 柏林", language="")
    assert {measures[name] for name in measures if name.startswith(("cj", "latin", "unwanted", "wrong", "code"))} == {
        None
    }


def test_half_a_character_and_digits_are_no_letters():
    measures = measured("12 \ufffd (3)?")
    assert (measures["cj"], measures["latin"]) == (0, 0)


def test_the_letter_of_a_choice_is_no_confusion():
    measures = measured(["الجواب", ": ", "B", " bonn"], answer="B")
    assert (measures["latin_tokens"], measures["right_choice"]) == (1, 1)
    measures = measured(["الجواب", ": ", "C"], answer="B")
    assert (measures["latin"], measures["right_choice"]) == (0, 0)
    assert measured("C", reference="نعم")["latin"] == 1
    assert measured("C")["right_choice"] is None


@pytest.mark.parametrize(
    ("text", "values", "switched"),
    [
        ("عاصمة ألمانيا Berlin", {"expect_scripts": ("latin",)}, 1),
        ("عاصمة ألمانيا", {"expect_scripts": ("latin",)}, 0),
        ("عاصمة 柏林", {"expect_scripts": ("latin",)}, 0),
        ("Berlin", {}, None),
        ("Berlin 柏林", {"language": "de", "expect_scripts": ("latin", "cj")}, 1),
        ("Berlin", {"language": "de", "expect_scripts": ("latin", "cj")}, 0),
        ("Berlin", {"language": "de", "expect_scripts": ("latin",)}, None),
    ],
)
def test_a_second_script_that_may_be_there_is_a_code_switch(text, values, switched):
    assert measured(text, **values)["code_switch"] == switched


@pytest.mark.parametrize(
    ("text", "values", "kept"),
    [
        ("برلين (Berlin).", {"items": (("Berlin",),)}, (1, 1)),
        ("برلين وBerlin", {"items": (("برلين", "Berlin"), ("Bonn",))}, (2, 1)),
        ("برلين Bonn", {}, (1, 1)),
        ("برلين 柏林", {}, (1, 0)),
        ("برلين (Berlin)", {"chat": False, "reference": "برلين (Berlin)", "items": (("برلين", "Berlin"),)}, (1, 1)),
        ("Berlin برلين", {"chat": False, "reference": "برلين (Berlin)", "items": (("برلين", "Berlin"),)}, (1, 0)),
        ("Berlin برلين", {"chat": True, "reference": "برلين (Berlin)", "items": (("برلين", "Berlin"),)}, (1, 1)),
        ("Berlin برلين", {"chat": False, "reference": "برلين Berlin", "items": (("برلين", "Berlin"),)}, (1, 1)),
        ("Berlin برلين", {"chat": False, "items": (("Berlin",),)}, (1, 1)),
    ],
)
def test_requested_switches_must_be_said_and_in_a_completion_be_marked_as_in_the_reference(text, values, kept):
    measures = measured(text, switch="latin", **values)
    assert (measures["switches"], measures["switches_kept"]) == kept


def test_without_a_request_there_is_no_switch_to_keep():
    assert measured("برلين Berlin")["switches_kept"] is None


RUSSIAN = "Завтра в городе будет хорошая погода"
GERMAN = "Morgen wird das Wetter in der Stadt schön"


@pytest.mark.parametrize(
    ("text", "values", "passes"),
    [
        (RUSSIAN, {"language": "ru"}, (1, 1)),
        (f"{RUSSIAN}\n\nДа!\n{RUSSIAN}.", {"language": "rus_Cyrl"}, (1, 1)),
        (f"{RUSSIAN}\n{GERMAN}", {"language": "ru"}, (0, None)),
        (f"{RUSSIAN}, weather", {"language": "ru"}, (1, 0)),
        (f"{RUSSIAN}, Paris и ООН", {"language": "ru"}, (1, 1)),
        (f"{RUSSIAN}, weather", {"language": "ru", "expect_scripts": ("latin",)}, (None, None)),
        (RUSSIAN, {"language": "ru", "expect_scripts": ("cj",)}, (None, None)),
        (RUSSIAN, {"language": "uk"}, (0, None)),
        ("Да, завтра.", {"language": "ru"}, (None, None)),  # too short to tell
        (GERMAN, {"language": "de"}, (1, None)),
        (RUSSIAN, {"language": "ru", "switch": "latin"}, (None, None)),
        (RUSSIAN, {"language": ""}, (None, None)),
        (RUSSIAN, {"language": "ibo_Latn"}, (None, None)),  # the model does not know Igbo
        ("", {"language": "ru"}, (None, None)),
    ],
)
def test_lines_and_words_pass_as_in_the_language_confusion_benchmark(text, values, passes):
    measures = measured(text, **values)
    assert (measures["line_pass"], measures["word_pass"]) == passes


def test_words_of_an_identified_language_whose_script_is_not_known_are_not_judged():
    nahuatl = "In tlahtōlli nāhuatlahtōlli cah īpan Mēxihcatl Tlacetilīlli Tlahtohcāyōtl"
    measures = measured(nahuatl, language="nah")
    assert (measures["line_pass"], measures["word_pass"], measures["latin"]) == (1, None, None)


def test_interventions_time_and_length_are_read_off_the_reply():
    reply = make_reply(["a", "b", "c", "d"], events=[event(0.25, 0.5), event(0.125)], finish="length", seconds=2.0)
    measures = measure_reply(reply, make_prompt())
    assert (measures["interventions"], measures["removed_mass"]) == (2, 0.875)
    assert (measures["tokens"], measures["seconds"], measures["truncated"], measures["empty"]) == (4, 2.0, 1, 0)
    assert measured(" \n")["empty"] == 1


def test_an_unknown_language_is_told_and_makes_no_letter_wrong():
    known, unknown = make_prompt(reference="برلين"), make_prompt(language="xx", reference="Berlin")
    prompts = [known, make_prompt(language=""), unknown, make_prompt(language="xx-Latn"), unknown]
    check_prompts(prompts)
    assert unknown_languages(prompts) == ["xx"]
    measures = measure_reply(make_reply("Berlin 柏林"), unknown)
    assert (measures["cj"], measures["latin"], measures["line_pass"], measures["exact_match"]) == (None, None, None, 0)
