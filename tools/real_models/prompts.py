"""Prompts that show whether anything is lost: translations with references, and code."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from .declaration import MEASURED, declaration_sections

_CODE = Path(__file__).with_name("code.txt")
_ENGLISH = "eng"
_LENGTHS = range(60, 260)  # characters of a paragraph that is translated
_PER_LANGUAGE = 4

# file of the Declaration -> code and name of the language, ISO 15924 code of its script
LANGUAGES = {
    "arb": ("ar", "Arabic", "Arab"),
    "heb": ("he", "Hebrew", "Hebr"),
    "jpn": ("ja", "Japanese", "Jpan"),
    "kor": ("ko", "Korean", "Kore"),
    "cmn_hans": ("zh", "simplified Chinese", "Hans"),
    "cmn_hant": ("zh-Hant", "traditional Chinese", "Hant"),
    "rus": ("ru", "Russian", "Cyrl"),
    "ell_monotonic": ("el", "Greek", "Grek"),
    "tha": ("th", "Thai", "Thai"),
    "hin": ("hi", "Hindi", "Deva"),
    "fra": ("fr", "French", "Latn"),
    "deu_1996": ("de", "German", "Latn"),
    "tur": ("tr", "Turkish", "Latn"),
    "vie": ("vi", "Vietnamese", "Latn"),
}


def code_prompts() -> list[dict[str, Any]]:
    """English requests for code, as rows of a benchmark."""
    lines = _CODE.read_text(encoding="utf-8").splitlines()
    return [
        {"id": f"code-{n}", "prompt": line, "language": "en", "subset": "code", "max_tokens": 160}
        for n, line in enumerate(lines)
    ]


def translation_prompts(declarations: Path) -> list[dict[str, Any]]:
    """Paragraphs of the articles that no gate learns from, to be translated from English, as rows of a benchmark."""

    def paragraphs(name: str, script: str) -> list[tuple[str, ...]]:
        html = (declarations / f"{name}.html").read_text(encoding="utf-8")
        return [section.paragraphs for section in declaration_sections(html, script, MEASURED)]

    english = paragraphs(_ENGLISH, "Latn")
    rows = []
    for name, (code, language, script) in LANGUAGES.items():
        pairs = [
            (source, reference)
            for sources, references in zip(english, paragraphs(name, script))
            if len(sources) == len(references)
            for source, reference in zip(sources, references)
            if len(source) in _LENGTHS
        ]
        rows += [
            {
                "id": f"translation-{code}-{n}",
                "prompt": f"Translate into {language}, and write nothing but the translation:\n\n{source}",
                "reference": reference,
                "language": code,
                "subset": "translation",
                "max_tokens": 160,
            }
            for n, (source, reference) in enumerate(pairs[:_PER_LANGUAGE])
        ]
    return rows
