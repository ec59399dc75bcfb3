"""Codes of languages that data names in English."""

from __future__ import annotations

import re

from ..data.rows import BadRow

CODES = {
    "Amharic": "am",
    "Arabic": "ar",
    "Armenian": "hy",
    "Bengali": "bn",
    "Bulgarian": "bg",
    "Burmese": "my",
    "Chinese": "zh",
    "Czech": "cs",
    "Dutch": "nl",
    "English": "en",
    "Filipino": "fil",
    "Finnish": "fi",
    "French": "fr",
    "Georgian": "ka",
    "German": "de",
    "Greek": "el",
    "Gujarati": "gu",
    "Hebrew": "he",
    "Hindi": "hi",
    "Hungarian": "hu",
    "Indonesian": "id",
    "Italian": "it",
    "Japanese": "ja",
    "Kannada": "kn",
    "Kazakh": "kk",
    "Khmer": "km",
    "Korean": "ko",
    "Lao": "lo",
    "Malay": "ms",
    "Malayalam": "ml",
    "Marathi": "mr",
    "Mongolian": "mn",
    "Nepali": "ne",
    "Persian": "fa",
    "Polish": "pl",
    "Portuguese": "pt",
    "Punjabi": "pa",
    "Romanian": "ro",
    "Russian": "ru",
    "Serbian": "sr",
    "Sinhala": "si",
    "Spanish": "es",
    "Swahili": "sw",
    "Swedish": "sv",
    "Tamil": "ta",
    "Telugu": "te",
    "Thai": "th",
    "Turkish": "tr",
    "Ukrainian": "uk",
    "Urdu": "ur",
    "Vietnamese": "vi",
}
# ISO 15924 code -> the languages above that are written in it.
_SCRIPTS = {
    "Latn": "cs de en es fi fil fr hu id it ms nl pl pt ro sv sw tr vi",
    "Cyrl": "bg kk mn ru sr uk",
    "Arab": "ar fa ur",
    "Deva": "hi mr ne",
    "Armn": "hy",
    "Beng": "bn",
    "Ethi": "am",
    "Geor": "ka",
    "Grek": "el",
    "Gujr": "gu",
    "Guru": "pa",
    "Hans": "zh",
    "Hebr": "he",
    "Jpan": "ja",
    "Khmr": "km",
    "Knda": "kn",
    "Kore": "ko",
    "Laoo": "lo",
    "Mlym": "ml",
    "Mymr": "my",
    "Sinh": "si",
    "Taml": "ta",
    "Telu": "te",
    "Thai": "th",
}
_USUAL_SCRIPT = {code: script for script, codes in _SCRIPTS.items() for code in codes.split()}
_CODE = re.compile("[A-Za-z]{2,3}([-_][A-Za-z0-9]{2,8})*")


def code_of(language: str) -> str:
    """The code of a language, of which the code or the English name is given."""
    if language in CODES:
        return CODES[language]
    if not _CODE.fullmatch(language):
        raise BadRow(f"`language` is {language!r}, expected a BCP-47 code such as `ar`, or a language's English name")
    return language


def usual_script(code: str) -> str:
    """The script (ISO 15924) of a language in `CODES`; empty for all others."""
    return _USUAL_SCRIPT.get(code, "")
