"""Prompts in many languages: short instructions whose blanks are filled with names from Unicode CLDR.

`instructions.json` holds the instructions, and blanks that are the same in every language: programs, formulas, names of
products. A name stands where it needs no inflection: behind a colon, in quotation marks or in a list. CLDR writes a few
names with letters of another script (`CFA`); these are left out.
"""

from __future__ import annotations

import functools
import json
import random
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any

from ..errors import GateError
from .languages import cldr_version, locale

_INSTRUCTIONS = Path(__file__).with_name("instructions.json")

# How often each kind of prompt is asked, in percent; a language that lacks one asks the others the more.
_KINDS = {
    # in one language
    "about": 9,
    "language": 5,
    "currency": 4,
    "words": 8,
    "free": 14,
    # translations
    "from_en": 6,
    "from_zh": 6,
    "translate": 6,
    # replies that rightly hold another script
    "say": 5,
    "program": 3,
    "names": 5,
    "code": 6,
    "command": 5,
    "repair": 4,
    "table": 4,
    "formula": 4,
    "quote": 3,
    "tech": 3,
}
PROMPT_KINDS = tuple(_KINDS)
_SOURCES = ("en", "zh")
SWITCHES = ("en", "zh", "ja", "ru", "ar", "ko")  # languages that `say` asks for
_N_NAMES = 3
# a language is asked about if CLDR itself is translated into it, as far as the names of so many territories
_WELL_KNOWN = 290
_TODAY = date(2026, 1, 1)  # whose currencies are asked about: a prompt must not change with the calendar


@dataclass(frozen=True)
class Prompt:
    """A prompt."""

    number: int  # its number in the series
    language: str  # code of the language that the reply is expected in
    kind: str  # what it asks for
    text: str  # what the user says
    seed: int  # seed of the reply


@functools.cache
def _instructions() -> dict[str, Any]:
    loaded: dict[str, Any] = json.loads(_INSTRUCTIONS.read_text(encoding="utf-8"))
    return loaded


def prompt_languages(kinds: Sequence[str] = ()) -> list[str]:
    """Codes of the languages that have prompts of some kinds, or any; the first ones cover the most scripts."""
    return [code for code in _instructions()["languages"] if _weights(code, kinds)]


class PromptSeries:
    """An endless series of prompts in which the languages take turns; each is a function of seed and number."""

    def __init__(self, languages: Sequence[str], seed: int, kinds: Sequence[str] = ()) -> None:
        """Load the names.

        Args:
            languages: Codes out of `prompt_languages`.
            seed: Of the series.
            kinds: Ask only for these, out of `PROMPT_KINDS`; empty: for all.

        Raises:
            GateError: A language or a kind is not known, or a language has no prompt of these kinds.
        """
        known = _instructions()["languages"]
        for code in languages:
            if code not in known:
                raise GateError(f"`languages` holds {code!r}, expected some of {', '.join(known)}")
        if not languages:
            raise GateError("`languages` is empty, expected at least one")
        for kind in kinds:
            if kind not in _KINDS:
                raise GateError(f"`kinds` holds {kind!r}, expected some of {', '.join(_KINDS)}")
        self._languages = list(languages)
        self._seed = seed
        self._kinds = tuple(kinds)
        for code in languages:
            if not _weights(code, kinds):
                raise GateError(f"`languages` holds {code!r}, which has no prompts of {', '.join(kinds)}")

    def prompt(self, number: int) -> Prompt:
        """Make a prompt."""
        rng = random.Random(f"{self._seed} {number}")
        language = self._languages[number % len(self._languages)]
        kinds = _weights(language, self._kinds)
        kind = rng.choices(list(kinds), list(kinds.values()))[0]
        if kind.startswith("from_"):
            source = _other(kind[len("from_") :], language)
            kind = f"from_{source}"
            text = _translation_from(source, language, rng)
        elif kind == "translate":
            sentence = _sentence(_other(rng.choice(_SOURCES), language), rng)
            text = _instruction(language, kind).format(text=sentence)
        elif kind == "free":
            text = rng.choice(_instructions()["languages"][language]["free"])
        else:
            text = _instruction(language, kind).format(**_blanks(language, rng))
        return Prompt(number, language, kind, text, rng.randrange(2**31))


@functools.cache
def _kinds(language: str) -> dict[str, int]:
    own = _instructions()["languages"][language]
    return {kind: weight for kind, weight in _KINDS.items() if kind in own or kind.startswith("from_")}


def _weights(language: str, wanted: Sequence[str]) -> dict[str, int]:
    """How often each kind is asked in a language, of those that are wanted; empty: of all."""
    return {kind: weight for kind, weight in _kinds(language).items() if not wanted or kind in wanted}


def say_prompt(language: str, word: str, target: str) -> str:
    """Ask in a language how a word of it is said in another; codes out of `prompt_languages` and `SWITCHES`."""
    return _instruction(language, "say").format(word=word, target=locale(language).languages[target])


def _instruction(language: str, kind: str) -> str:
    text: str = _instructions()["languages"][language][kind]
    return text


def _other(source: str, language: str) -> str:
    """The source of a translation: never the language itself."""
    return source if source != language else next(code for code in _SOURCES if code != language)


def _translation_from(source: str, target: str, rng: random.Random) -> str:
    name, sentence = locale(source).languages[target], _sentence(source, rng)
    if source == "zh":
        return f"请把下面的中文翻译成{name}：\n\n{sentence}"
    return f"Translate the following English text into {name}.\n\n{sentence}"


def _sentence(language: str, rng: random.Random) -> str:
    sentence: str = rng.choice(_instructions()["sentences"][language])
    return sentence.format(**_blanks(language, rng))


def _blanks(language: str, rng: random.Random) -> dict[str, str]:
    """Random fillings for the blanks of an instruction."""
    names = _names(language)
    drawn = {kind: rng.choice(known) for kind, known in names.items()}
    target = rng.choice([code for code in SWITCHES if code != language.split("_", maxsplit=1)[0]])
    return {
        **drawn,
        **{kind: rng.choice(known) for kind, known in _instructions()["blanks"].items()},
        "word": drawn[rng.choice(("day", "territory"))],
        "words": _list(language, [drawn["day"], drawn["month"], drawn["territory"]]),
        "places": _list(language, rng.sample(names["territory"], _N_NAMES)),
        "target": locale(language).languages[target],
    }


def _list(language: str, items: list[str]) -> str:
    from babel.lists import format_list  # noqa: PLC0415 (`locale` has found it)

    return str(format_list(items, locale=locale(language)))


@functools.cache
def _names(language: str) -> dict[str, list[str]]:
    """Names in a language and its script, by what they name."""
    own = locale(language)
    territories, languages, currencies = _worth_asking()
    known = {
        "territory": [own.territories[code] for code in territories if code in own.territories],
        "language": [own.languages[code] for code in languages if code in own.languages],
        "currency": [own.currencies[code] for code in currencies if code in own.currencies],
        # Not `stand-alone`: where a language has no such forms, Babel gives those of one that was asked for before.
        "month": [str(name) for _, name in sorted(own.months["format"]["wide"].items())],
        "day": [str(name) for _, name in sorted(own.days["format"]["wide"].items())],
    }
    scripts = scripts_of(" ".join(_instructions()["languages"][language]["free"]))
    names = {kind: [name for name in found if scripts_of(name) <= scripts] for kind, found in known.items()}
    for kind, left in names.items():
        if len(left) < _N_NAMES:
            found = f"{len(left)} names of kind `{kind}` in the script of `{language}`"
            raise GateError(f"{cldr_version()} holds {found}, expected at least {_N_NAMES}; install another Babel")
    return names


def scripts_of(text: str) -> set[str]:
    """Scripts of the letters in a text, as their Unicode names begin: `LATIN`, `CJK`, and so on."""
    letters = (character for character in text if unicodedata.category(character) in {"Lu", "Ll", "Lt", "Lo"})
    return {unicodedata.name(letter, "UNNAMED").split()[0] for letter in letters}


@functools.cache
def _worth_asking() -> tuple[list[str], list[str], list[str]]:
    """Codes of territories with a currency of today, of languages that are well known, and of these currencies."""
    english = locale("en")
    from babel.localedata import locale_identifiers  # noqa: PLC0415 (`locale` has found it)
    from babel.numbers import get_territory_currencies  # noqa: PLC0415

    codes = sorted(code for code in map(str, english.territories) if len(code) == 2 and code.isalpha())
    money = {code: get_territory_currencies(code, _TODAY) for code in codes}
    territories = [code for code in codes if money[code]]
    languages = sorted(code for code in locale_identifiers() if len(code) == 2 and code in english.languages)
    well_known = [code for code in languages if len(locale(code).territories) >= _WELL_KNOWN]
    return territories, well_known, sorted({code for own in money.values() for code in own})
