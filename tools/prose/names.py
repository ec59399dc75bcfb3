"""The terms of the prose: CLDR's names of places, languages, currencies and days, its dates and its quantities."""

from __future__ import annotations

from datetime import date

from babel import Locale
from babel.dates import format_skeleton
from babel.units import format_unit

from demo.cldr import Term, all_names, common_terms, well_known_languages
from lcg_cpp.gate.families import family_set, text_families
from lcg_cpp.gate.scripts import families_of_script

# Code -> name. The first six are the high-resource ones.
LANGUAGES = {
    "en": "English",
    "zh": "Chinese",
    "zh_Hant": "Traditional Chinese",
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
    "hy": "Armenian",
    "ka": "Georgian",
}
# code -> script (ISO 15924)
SCRIPTS = {
    "en": "Latn",
    "zh": "Hans",
    "zh_Hant": "Hant",
    "es": "Latn",
    "fr": "Latn",
    "ja": "Jpan",
    "ru": "Cyrl",
    "ko": "Kore",
    "ar": "Arab",
    "he": "Hebr",
    "th": "Thai",
    "el": "Grek",
    "hi": "Deva",
    "hy": "Armn",
    "ka": "Geor",
}
HIGH_RESOURCE = ("en", "zh", "zh_Hant", "es", "fr", "ja")
LOW_RESOURCE = tuple(code for code in LANGUAGES if code not in HIGH_RESOURCE)
HAN = ("zh", "zh_Hant", "ja")
CLEAN = ("en", "es", "fr")  # what no training text contaminates
CONTAMINATED = (*LOW_RESOURCE, *HAN)

# Where a noun follows one of these it has one form in all our languages: five and more in Russian, eleven and more in
# Arabic. {n} of a date is a day of the month.
NUMBERS = tuple(range(15, 100, 5))
DAYS = tuple(range(2, 29, 2))

# kind (as in Term.key) -> most terms: those with the shortest names
_N_TERMS = {"t": 72, "l": 32, "c": 20, "d": 7, "m": 12, "u": 13}
_NOT_IN_A_NAME = frozenset("(),&…/.[]–’'")
_MAX_WORDS = 3
_MAX_LETTERS = 24
_SAMPLE = 25
_FAMILIES = family_set("scripts")


def is_written_in(text: str, code: str) -> bool:
    """Whether a text has letters, and none that this language is not written with."""
    found = text_families(text, _FAMILIES)
    return bool(found) and found <= families_of_script(SCRIPTS[code])


def _dates(code: str) -> dict[str, str]:
    """Month -> a date in it, with {n} for the day: `March {n}`."""
    return {f"m:{month}": format_skeleton("MMMMd", date(2021, month, _SAMPLE), locale=code) for month in range(1, 13)}


def _quantities(code: str) -> dict[str, str]:
    """Unit -> a quantity, with {n} for the number: `{n} kilometers`. Only units that all our numbers leave alone."""
    found = {}
    for unit in Locale.parse(code)._data["unit_patterns"]:
        for length in ("long", "short"):  # Babel 2.18 leaves out long forms that are as the short ones
            texts = {format_unit(number, unit, length, locale=code).replace(str(number), "{n}") for number in NUMBERS}
            if len(texts) == 1 and unit not in texts.pop():
                found[f"u:{unit}"] = format_unit(_SAMPLE, unit, length, locale=code)
                break
    return found


def _names(code: str, well_known: set[str]) -> dict[str, str]:
    """Key -> name or pattern."""
    names = {key: name for key, name in all_names(code, well_known).items() if key[0] in "tlcd"}
    for key, text in {**_dates(code), **_quantities(code)}.items():
        names[key] = text.replace("\N{NO-BREAK SPACE}", " ").replace(str(_SAMPLE), "{n}")
    return names


def _is_usable(names: dict[str, str]) -> bool:
    is_pattern = "{n}" in names["en"]
    for code, name in names.items():
        letters = name.replace("{n}", "")
        if not is_written_in(letters, code) or name.count("{n}") != is_pattern:
            return False
        if _NOT_IN_A_NAME & set(name) or len(name.split()) > _MAX_WORDS or len(letters) > _MAX_LETTERS:
            return False
    return True


def load_terms() -> list[Term]:
    """Reads the terms that have a short name in every language, written in that language's script alone.

    Returns:
        The terms in key order, of kinds t (places), l (languages), c (currencies), d (weekdays), m (dates) and
        u (quantities); names of the last two hold `{n}` for a number.
    """
    well_known = well_known_languages()
    terms = common_terms({code: _names(code, well_known) for code in LANGUAGES}, _is_usable)
    terms.sort(key=lambda term: (sum(map(len, term.names.values())), term.key))
    kept = [
        term for kind, most in _N_TERMS.items() for term in [term for term in terms if term.key.startswith(kind)][:most]
    ]
    return sorted(kept, key=lambda term: term.key)
