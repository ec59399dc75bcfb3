"""The terms of the demo: names of places, languages, currencies, days and months from Unicode CLDR, through Babel."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from babel import Locale
from babel.localedata import locale_identifiers

from lcg_cpp.gate.families import text_families

# Code -> name, in the order of the tables. The first five are the high-resource ones, in scripts a gate may mask.
LANGUAGES = {
    "en": "English",
    "zh": "Chinese",
    "es": "Spanish",
    "fr": "French",
    "ja": "Japanese",
    "ru": "Russian",
    "ko": "Korean",
    "ar": "Arabic",
    "he": "Hebrew",
    "th": "Thai",
    "el": "Greek",
    "hi": "Hindi",
}
HIGH_RESOURCE = ("en", "zh", "es", "fr", "ja")
LOW_RESOURCE = tuple(code for code in LANGUAGES if code not in HIGH_RESOURCE)
_SCRIPTS = {"en": {"latin"}, "es": {"latin"}, "fr": {"latin"}, "zh": {"cj"}, "ja": {"cj"}}

# What the replies themselves use, and what would make a name something else than a word or two.
_NOT_IN_A_NAME = frozenset("(),&…/.[]–-’'")
_MAX_WORDS = 2
_MAX_LETTERS = 16
# Of what is left, the terms with the shortest names: they are learned in minutes. Days and months are always in.
_N_TERMS = 160

# a language is a term if CLDR itself is translated into it, as far as the names of so many territories
_WELL_KNOWN = 290


@dataclass(frozen=True)
class Term:
    """One thing and its names.

    Attributes:
        key: Kind (t, l, c, m, d) and CLDR code, e.g. `t:DE`.
        names: Language code -> name.
    """

    key: str
    names: dict[str, str]


def well_known_languages() -> set[str]:
    """The codes of the languages whose names are terms."""
    locales = {code for code in locale_identifiers() if len(code) == 2}
    return {code for code in locales if len(Locale.parse(code).territories) >= _WELL_KNOWN}


def all_names(code: str, well_known: set[str]) -> dict[str, str]:
    """Key -> name of everything CLDR knows in one language that could be a term."""
    locale = Locale.parse(code)
    names = {f"t:{key}": name for key, name in locale.territories.items() if len(key) == 2 and key.isalpha()}
    names.update({f"l:{key}": name for key, name in locale.languages.items() if len(key) == 2 and key in well_known})
    names.update({f"c:{key}": name for key, name in locale.currencies.items()})
    names.update({f"m:{key}": name for key, name in locale.months["format"]["wide"].items()})
    names.update({f"d:{key}": name for key, name in locale.days["format"]["wide"].items()})
    return names


def _is_usable(names: dict[str, str]) -> bool:
    for code, name in names.items():
        if text_families(name) != _SCRIPTS.get(code, {"lowres"}):
            return False
        if _NOT_IN_A_NAME & set(name) or len(name.split()) > _MAX_WORDS or len(name) > _MAX_LETTERS:
            return False
    return True


def common_terms(tables: dict[str, dict[str, str]], is_usable: Callable[[dict[str, str]], bool]) -> list[Term]:
    """Joins what all languages have a name for.

    Args:
        tables: Language code -> key -> name.
        is_usable: Whether the names of a term (by language code) will do.

    Returns:
        The terms in key order; no two share a name in English, Chinese or Spanish, the languages that prompts use.
    """
    terms: list[Term] = []
    seen: set[str] = set()
    for key in sorted(tables["en"]):
        names = {code: table[key] for code, table in tables.items() if key in table}
        if len(names) < len(tables) or not is_usable(names):
            continue
        sources = {names[code].lower() for code in ("en", "zh", "es")}
        if seen & sources:
            continue
        seen |= sources
        terms.append(Term(key, names))
    return terms


def load_terms() -> list[Term]:
    """Reads the terms that have a short name in every language, written in that language's script alone.

    Returns:
        The terms in key order.
    """
    well_known = well_known_languages()
    terms = common_terms({code: all_names(code, well_known) for code in LANGUAGES}, _is_usable)
    terms.sort(key=lambda term: (term.key[0] not in "dm", sum(map(len, term.names.values())), term.key))
    return sorted(terms[:_N_TERMS], key=lambda term: term.key)
