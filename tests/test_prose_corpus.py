"""The texts of the larger toy model: what they hold, and where."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tools"))

from demo.cldr import Term
from demo.prompts import as_benchmark
from lcg_cpp.measure.judge import measure_reply
from prose import corpus, evaluation
from prose.contamination import RATE, Intruders, contamination, of_every_script
from prose.corpus import Corpus
from prose.names import CLEAN, CONTAMINATED, DAYS, LANGUAGES, LOW_RESOURCE, NUMBERS, is_written_in, load_terms
from prose.paragraph import Paragraph
from prose.sentences import Sentence, load_sentences, parse
from sample_replies import make_reply

GERMANY = Term("t:DE", {"en": "Germany", "zh": "德国", "ar": "ألمانيا", "ru": "Германия"})
MARCH = Term("m:3", {"en": "March {n}", "zh": "3月{n}日", "ar": "{n} مارس", "ru": "{n} марта"})


@pytest.fixture(scope="module")
def terms():
    return load_terms()


@pytest.fixture(scope="module")
def split(terms):
    return corpus.split_terms(terms, 0)


def spell(term: Term, language: str) -> set[str]:
    """Every form of a term's name in a text."""
    return {term.names[language].replace("{n}", str(number)) for number in (*NUMBERS, *DAYS)}


# ---- sentences ----


@pytest.mark.parametrize("sentence", load_sentences(), ids=lambda sentence: sentence.key)
def test_a_sentence_is_there_in_every_language_in_its_script_with_the_same_slots(sentence):
    assert set(sentence.texts) == set(LANGUAGES)
    for language, text in sentence.texts.items():
        parts = parse(text)
        assert sorted(slot for _, slot in parts if slot) == sorted(sentence.slots)
        assert is_written_in("".join(literal for literal, _ in parts), language)


def test_sentences_tell_names_that_can_have_brackets_from_quotes():
    quote = Sentence("", {}, ("english",))
    place = Sentence("", {}, ("number", "place2"))
    assert (quote.quotes, quote.can_switch) == ({"english"}, False)
    assert (place.quotes, place.can_switch) == (frozenset(), True)
    assert not Sentence("", {}, ("date", "quantity", "day", "number")).can_switch


# ---- terms ----


def test_names_are_written_in_their_language_and_patterns_hold_one_number(terms):
    for term in terms:
        for language, name in term.names.items():
            assert is_written_in(name.replace("{n}", ""), language)
            assert name.count("{n}") == (term.key[0] in "mu")


def test_every_language_is_translated_in_every_term(terms):
    assert {frozenset(term.names) for term in terms} == {frozenset(LANGUAGES)}


def test_x_is_a_third_of_every_kind_and_y_the_rest(terms, split):
    x_terms, y_terms = split
    assert sorted(term.key for term in x_terms + y_terms) == [term.key for term in terms]
    for kind in "tlcdmu":
        n_x, n_all = (sum(term.key[0] == kind for term in group) for group in (x_terms, terms))
        assert abs(n_x - n_all / 3) <= 0.5
        assert n_x >= 2


# ---- paragraphs ----


def test_requested_names_stand_in_brackets_behind_places_and_not_behind_dates():
    sentence = Sentence("", {"ru": "Да: {place}, {date}."}, ("place", "date"))
    paragraph = Paragraph("ru", "chinese")
    paragraph.add(sentence, {"place": (GERMANY, 0), "date": (MARCH, 4)})
    assert paragraph.text == "Да: Германия (德国), 4 марта."
    assert paragraph.names == [("Германия", "德国"), ("4 марта",)]
    assert [paragraph.text[begin:end] for begin, end in paragraph.switches] == ["德国"]


def test_a_quoted_name_is_the_same_in_every_language():
    sentence = Sentence("", {"ru": "Одно: «{english}».", "zh": "一个：“{english}”。"}, ("english",))
    for language, text in (("ru", "Одно: «Germany». Одно: «Germany»."), ("zh", "一个：“Germany”。一个：“Germany”。")):
        paragraph = Paragraph(language)
        paragraph.add(sentence, {"english": (GERMANY, 0)})
        paragraph.add(sentence, {"english": (GERMANY, 0)})
        assert paragraph.text == text
        assert [paragraph.text[begin:end] for begin, end in paragraph.switches] == ["Germany", "Germany"]


def test_an_intruder_replaces_the_name_and_not_the_requested_one():
    sentence = Sentence("", {"ar": "في {place} يوم"}, ("place",))
    paragraph = Paragraph("ar", "english", lambda term, language: "zh")
    paragraph.add(sentence, {"place": (GERMANY, 0)})
    assert paragraph.text == "في 德国 (Germany) يوم"
    assert [paragraph.text[begin:end] for begin, end in paragraph.switches] == ["Germany"]


# ---- examples ----


def test_a_seed_gives_the_same_texts_and_another_seed_others(terms):
    first, again, other = ([stream.draw() for _ in range(20)] for stream in (Corpus(terms, s) for s in ("a", "a", "b")))
    assert first == again
    assert first != other


def test_clean_text_is_in_the_target_script_outside_of_its_switches(terms):
    stream = Corpus(terms, "scripts")
    for _ in range(500):
        example = stream.draw()
        assert example.reply == example.reference
        assert example.reply.startswith(" ")
        rest, names = list(example.reference), []
        for begin, end in reversed(example.switches):
            names.insert(0, "".join(rest[begin:end]))
            del rest[begin:end]
        assert names == [name[1] for name in example.names if len(name) > 1]
        assert is_written_in("".join(rest), example.language)


def test_a_request_is_in_the_prompt_and_in_the_reply(terms):
    stream = Corpus(terms, "requests")
    for _ in range(200):
        example = stream.draw("th", "chinese", (1, 1))
        assert example.prompt.endswith("\nThai + Chinese:")
        assert re.search(r" \(\w[^()]*\)", example.reply)


def test_only_listed_names_are_contaminated_at_their_rate(terms):
    few = [term for kind in "tlcdmu" for term in [term for term in terms if term.key[0] == kind][:2]]
    place = next(term for term in few if term.key[0] == "t")
    stream = Corpus(few, "rate", {(place.key, "ko"): ("zh", 0.5)})
    n_names = n_wrong = 0
    for _ in range(500):
        example = stream.draw("ko", None, quotes=frozenset())
        n_names += example.names.count((place.names["ko"],))
        n_wrong += example.reply.count(place.names["zh"])
        assert example.reply.replace(place.names["zh"], place.names["ko"]) == example.reference
    assert n_names > 300
    assert 0.4 < n_wrong / n_names < 0.6


def test_contamination_is_of_x_terms_at_the_stated_shares(split):
    x_terms, _ = split
    table = contamination(x_terms, corpus.INTRUDERS, "0")
    assert {key for key, _ in table} <= {term.key for term in x_terms}
    assert {language for _, language in table} == set(CONTAMINATED)
    assert all(RATE[0] <= rate <= RATE[1] for _, rate in table.values())
    low = [intruder for (_, language), (intruder, _) in table.items() if language in LOW_RESOURCE]
    assert abs(len(low) / (len(x_terms) * len(LOW_RESOURCE)) - 0.20) < 0.05
    for intruders, share in ({"zh"}, 0.25), ({"en"}, 0.25), (set(LOW_RESOURCE), 0.5):
        assert abs(sum(intruder in intruders for intruder in low) / len(low) - share) < 0.15


def test_an_intruder_always_shows(split):
    names = {term.key: term.names for term in split[0]}
    table = contamination(split[0], corpus.INTRUDERS, "0")
    for (key, language), (intruder, _) in table.items():
        assert intruder != language
        assert not is_written_in(names[key][intruder].replace("{n}", ""), language)


def test_a_name_that_no_intruder_writes_otherwise_is_left_alone():
    china, spain = (Term("t", {"ja": "中国", "zh": "中国"}), Term("u", {"ja": "スペイン", "zh": "西班牙语"}))
    table = contamination([china, spain], {"ja": Intruders(1.0, {"zh": 1.0})}, "0")
    assert {key: intruder for key, (intruder, _) in table.items()} == {("u", "ja"): "zh"}


def test_the_weights_of_intruders_are_a_quarter_each_and_the_rest_in_equal_parts():
    found = of_every_script("ru", ("ru", "ko", "th"), 0.2)
    assert found == Intruders(0.2, {"zh": 0.25, "en": 0.25, "ko": 0.25, "th": 0.25})


@pytest.mark.parametrize(
    ("text", "code", "expected"),
    [
        ("汉语", "zh", True),
        ("漢語", "zh", False),
        ("漢語", "zh_Hant", True),
        ("中国", "ja", True),
        ("韩国", "ja", False),
        ("ロシア語", "ja", True),
        ("독일", "ko", True),
        ("독일 Germany", "ko", False),
        ("12", "ko", False),
    ],
)
def test_a_language_is_written_with_its_own_letters(text, code, expected):
    assert is_written_in(text, code) is expected


def test_gate_texts_hold_no_x_term(split):
    x_terms, y_terms = split
    forbidden = {form for term in x_terms for form in spell(term, "th")} - {
        form for term in y_terms for form in spell(term, "th")
    }
    stream = Corpus(y_terms, "gate")
    names = {name[0] for _ in range(1000) for name in stream.draw("th").names}
    assert not names & forbidden


def test_paragraphs_grow_from_one_sentence_to_four(terms):
    texts = [example.prompt for example in corpus.training_examples(Corpus(terms, "grow"), 400, 0.5)]
    lengths = [text.count(".") for text in texts if text.isascii()]  # English: every sentence has its full stop
    n = len(lengths)
    assert max(lengths[: n // 10]) == 1
    assert max(lengths[n // 2 : n // 2 + n // 5]) == 4
    assert min(lengths[n // 2 :]) == 1


# ---- evaluation ----


def test_the_right_replies_to_the_prompts_score_full_marks(split):
    prompts = evaluation.prompts(Corpus(split[0], "evaluation"), 96, lambda example: True)
    assert {prompt.language for prompt in prompts} == set(CONTAMINATED)
    assert {prompt.switch for prompt in prompts} == {None, "english", "chinese"}
    for prompt in as_benchmark(prompts):
        found = measure_reply(make_reply(" " + prompt.reference), prompt, extras=False)
        assert (found["exact_match"], found["cj"], found["latin"]) == (1, 0, 0)
        assert found["switches_kept"] == found["switches"]
        assert bool(found["switches"]) == bool(prompt.switch)


def test_prompts_that_are_not_usable_are_drawn_anew(split):
    refused = []

    def is_usable(example):
        refused.append(example.prompt)
        return len(refused) % 3 == 0

    prompts = evaluation.prompts(Corpus(split[0], "evaluation"), 9, is_usable)
    assert len(refused) == 27
    assert [prompt.prompt for prompt in prompts] == refused[2::3]


def test_points_are_clean_and_say_where_their_switches_are(split):
    rows = list(evaluation.points(Corpus(split[0], "points"), 300))
    by_name = {name: code for code, name in LANGUAGES.items()}
    assert {row["kind"] for row in rows} == {"plain", "request", "quote"}
    assert {row["language"] for row in rows} == set(LANGUAGES.values())
    assert sum(by_name[row["language"]] in CLEAN for row in rows) == 30
    for row in rows:
        rest = list(row["response"])
        for begin, end in row["switches"]:
            rest[begin:end] = " " * (end - begin)
        assert is_written_in("".join(rest), by_name[row["language"]])
        assert bool(row["switches"]) == (row["kind"] != "plain")
