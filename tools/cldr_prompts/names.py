"""Names from Unicode CLDR, through Babel, that translate one to one."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date
from functools import cache

from babel import Locale
from babel.dates import format_skeleton
from babel.localedata import locale_identifiers
from babel.numbers import get_territory_currencies
from babel.units import format_unit

from lcg_cpp.gate.families import text_families

# Languages replies are wanted in, one for each script; a script's family, where it is one that a gate may mask.
SCRIPTS = {
    "ar": "lowres",
    "he": "lowres",
    "ko": "lowres",
    "th": "lowres",
    "ru": "lowres",
    "el": "lowres",
    "hi": "lowres",
    "bn": "lowres",
    "ta": "lowres",
    "te": "lowres",
    "ka": "lowres",
    "hy": "lowres",
    "my": "lowres",
    "km": "lowres",
    "am": "lowres",
    "ja": "cj",
    "zh": "cj",
    "es": "latin",
    "de": "latin",
    "tr": "latin",
    "vi": "latin",
}
SOURCES = {"en": "latin", "zh": "cj"}

# Names that are the same in simplified and traditional Chinese and have no second common name in English.
UNAMBIGUOUS_PLACES = "JP CA BR CU SE CH MX PT ES IQ ZA CL HU VN MN AR KW KH EG AF"

# places whose standing is disputed, and islands with no code of their own in ISO 3166
_LEFT_OUT = frozenset(["EH", "HK", "MO", "PS", "TW", "XK", "AC", "DG", "EA", "IC", "TA"])
_FRANCS = ("XAF", "XOF", "XPF")
# What would make a name something else than a few words.
_NOT_IN_A_NAME = frozenset("(),&…/[]–’'ʻʼ\u200b\u200c\u200d")
_MAX_WORDS = 3
_TODAY = date(2026, 1, 1)  # whose currencies are asked about: the prompts must not change with the calendar
# a language is well known if CLDR itself is translated into it, as far as the names of so many territories
_WELL_KNOWN = 290
_UNITS = (
    "length-kilometer",
    "length-meter",
    "length-centimeter",
    "mass-kilogram",
    "mass-gram",
    "volume-liter",
    "duration-hour",
    "duration-minute",
    "duration-month",
    "duration-year",
)
_NUMBERS = (15, 25, 40, 60, 75)  # the nouns behind them have the form of many in all our languages
_DAYS_OF_MONTH = (3, 14, 22)


@dataclass(frozen=True)
class Name:
    """Something and what it is called.

    Attributes:
        key: Kind and code: `place:JP`.
        texts: Code of a language -> its name there.
    """

    key: str
    texts: dict[str, str]


@cache
def names(kind: str, language: str) -> list[Name]:
    """Everything of a kind that has a plain name in a language, in English and in Chinese, in the order of the keys."""
    codes = (*SOURCES, language)
    tables = [_table(kind, code) for code in codes]
    found, seen = [], set()
    for key in sorted(tables[0]):
        texts = {code: table[key] for code, table in zip(codes, tables) if key in table}
        if len(texts) < len(set(codes)) or not all(_is_plain(text, code) for code, text in texts.items()):
            continue
        if seen.isdisjoint(texts.values()):
            found.append(Name(f"{kind}:{key}", texts))
            seen.update(texts.values())
    return found


def francs(language: str) -> list[Name]:
    """The francs whose names hold an abbreviation in Latin letters."""
    english, own = Locale.parse("en").currencies, Locale.parse(language).currencies
    if SCRIPTS[language] == "latin":
        return []
    return [
        Name(f"currency:{code}", {"en": english[code], language: own[code]})
        for code in _FRANCS
        if text_families(own.get(code, "")) == {SCRIPTS[language], "latin"} and "[" not in own[code]
    ]


def language_name(code: str, of: str) -> str:
    """What one language is called in another one."""
    name: str = Locale.parse(of).languages[code]
    return name


def _is_plain(text: str, code: str) -> bool:
    wanted = SCRIPTS.get(code) or SOURCES[code]
    return text_families(text) == {wanted} and _NOT_IN_A_NAME.isdisjoint(text) and len(text.split()) <= _MAX_WORDS


@cache
def _table(kind: str, code: str) -> dict[str, str]:
    """Key -> name of everything CLDR knows of a kind."""
    locale = Locale.parse(code)
    if kind == "place":
        return {key: name for key, name in locale.territories.items() if key in _territories()}
    if kind == "language":
        return {key: name for key, name in locale.languages.items() if key in _languages()}
    if kind == "currency":
        return {key: name for key, name in locale.currencies.items() if key in _currencies()}
    if kind == "day":
        # Not `stand-alone`: where a language has no such forms, Babel gives those of one that was asked for before.
        return {str(key): name for key, name in locale.days["format"]["wide"].items()}
    if kind == "date":
        dates = [date(2021, month, day) for month in range(1, 13) for day in _DAYS_OF_MONTH]
        return {f"{day:%m-%d}": format_skeleton("MMMMd", day, locale=code) for day in dates}
    return {unit: _quantity(_NUMBERS[i % len(_NUMBERS)], unit, code) for i, unit in enumerate(_UNITS)}


def _quantity(n: int, unit: str, code: str) -> str:
    """`25 kilometers`. Babel has no long form where it is the short one; what it then says ends in the unit's code."""
    forms = [format_unit(n, unit, length, locale=code) for length in ("long", "short")]
    return next(form for form in forms if not form.endswith(unit))


@cache
def _territories() -> frozenset[str]:
    codes = {str(code) for code in Locale.parse("en").territories if len(code) == 2 and code.isalpha()}
    return frozenset(code for code in codes - _LEFT_OUT if get_territory_currencies(code, _TODAY))


@cache
def _languages() -> frozenset[str]:
    codes = {code for code in locale_identifiers() if len(code) == 2}
    return frozenset(code for code in codes if len(Locale.parse(code).territories) >= _WELL_KNOWN)


@cache
def _currencies() -> frozenset[str]:
    return frozenset(code for place in _territories() for code in get_territory_currencies(place, _TODAY))
