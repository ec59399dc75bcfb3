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
_LATIN = "cs de en es fi fil fr hu id it ms nl pl pt ro sv sw tr vi"
_CODE = re.compile("[A-Za-z]{2,3}([-_][A-Za-z0-9]{2,8})*")


def code_of(language: str) -> str:
    """The code of a language, of which the code or the English name is given."""
    if language in CODES:
        return CODES[language]
    if not _CODE.fullmatch(language):
        raise BadRow(f"`language` is {language!r}, expected a BCP-47 code such as `ar`, or a language's English name")
    return language


def usual_family(code: str) -> str:
    """The family of the letters of a language in `CODES`: `cj`, `latin` or `lowres`; empty for all others."""
    if code not in CODES.values():
        return ""
    return "cj" if code in ("ja", "zh") else "latin" if code in _LATIN.split() else "lowres"
