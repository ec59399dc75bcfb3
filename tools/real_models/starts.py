"""How replies begin: a question in some language, and the first words of a clean text in that language.

A reply's first token decides on all that follow. A model that hardly speaks a language begins in another, so its own
replies teach a gate nothing of how one begins in it; the texts alone do not, because nobody asks a question in them.
What the words say does not matter: the gate learns which script comes next.

The other way round, some questions rightly have an answer in another script: how a word is said in another language.
Unicode CLDR knows the names of countries in both.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import islice
from typing import Any

from lcg_cpp.data.balance import in_turns
from lcg_cpp.data.languages import locale
from lcg_cpp.data.prompts import SWITCHES, PromptSeries, say_prompt

TOKENS = 24  # of a beginning, about
PER_LANGUAGE = 32
PER_LATIN_LANGUAGE = 3  # there are many of these
_SEED = 77
COUNTRIES = ("AT", "BE", "BG", "CH", "CZ", "DE", "EG", "ES", "FI", "GR", "HU", "IE", "IN", "IR", "IT", "NL", "NO", "PL")
_KINDS = ("about", "language", "currency", "words", "free")  # what is asked: replies in the language alone

# languages of `lcg-cpp data synth` -> their declarations
DECLARATIONS = {
    "en": "eng", "zh": "cmn_hans", "zh_Hant": "cmn_hant", "ja": "jpn", "ko": "kor", "ar": "arb", "he": "heb",
    "th": "tha", "hi": "hin", "ru": "rus", "el": "ell_monotonic", "es": "spa", "fr": "fra", "de": "deu_1996",
    "bn": "ben", "fa": "pes_1", "ur": "urd", "ta": "tam", "te": "tel", "uk": "ukr", "ka": "kat", "hy": "hye",
    "am": "amh", "mr": "mar", "bg": "bul", "sr": "srp_cyrl", "ne": "nep", "km": "khm", "lo": "lao", "my": "mya",
    "kn": "kan", "ml": "mal", "gu": "guj", "pa": "pan", "si": "sin", "vi": "vie", "tr": "tur", "pl": "pol",
    "id": "ind", "pt": "por_BR", "it": "ita",
}  # fmt: skip


def start_rows(
    paragraphs: Callable[[str], Sequence[str]], is_latin: Callable[[str], bool], count: Callable[[str], int]
) -> list[dict[str, Any]]:
    """Rows for `lcg-cpp train`, in turns of the languages.

    Args:
        paragraphs: The clean ones of a declaration.
        is_latin: Whether a declaration is in Latin letters.
        count: Tokens of a text.
    """
    rows = []
    for language, declaration in DECLARATIONS.items():
        own = [text for text in paragraphs(declaration) if count(text) >= TOKENS]
        n = PER_LATIN_LANGUAGE if is_latin(declaration) else PER_LANGUAGE
        series = PromptSeries([language], _SEED, _KINDS)
        asked = islice(dict.fromkeys(series.prompt(number).text for number in range(20 * n)), n)
        for question, text in zip(asked, own[:: max(1, len(own) // n)]):
            rows.append(_row(question, beginning(text, count), declaration, count))
    rows += [row for n, language in enumerate(DECLARATIONS) for row in said_rows(language, n, count)]
    return [rows[i] for i in in_turns([row["language"] for row in rows])]


def said_rows(language: str, first: int, count: Callable[[str], int]) -> list[dict[str, Any]]:
    """Rows that ask in a language how a country is called in each of `SWITCHES`, in English twice, and the answers.

    Args:
        language: Code out of `DECLARATIONS`.
        first: Number of the first country that is asked about.
        count: Tokens of a text.
    """
    targets = [target for target in ("en", *SWITCHES) if target != language.partition("_")[0]]
    rows = []
    for n, target in enumerate(targets, first):
        country = COUNTRIES[n % len(COUNTRIES)]
        asked = say_prompt(language, locale(language).territories[country], target)
        rows.append(_row(asked, locale(target).territories[country], DECLARATIONS[language], count))
    return rows


def _row(asked: str, answer: str, declaration: str, count: Callable[[str], int]) -> dict[str, Any]:
    messages = [{"role": "user", "content": asked}, {"role": "assistant", "content": answer}]
    tokens = count(asked) + count(answer)
    return {"messages": messages, "language": declaration, "kind": "starts", "tokens": tokens}


def beginning(text: str, count: Callable[[str], int]) -> str:
    """The first letters of a text, about `TOKENS` tokens of them."""
    n = 1
    while n < len(text) and count(text[:n]) < TOKENS:
        n += 1
    return text[:n]
