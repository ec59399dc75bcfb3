"""Clean texts in every script: the Declaration and manuals, balanced by script.

A language gives one row for every few paragraphs, as an answer to the headings over them. Scripts get their shares of
the tokens as in `lcg-cpp train`; the languages and sources of a script take turns.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llama_cpp import Llama

from lcg_cpp.commands.loading import quiet_engine
from lcg_cpp.data.balance import balanced, in_turns, script_of

from .declaration import LEARNED, MEASURED, declaration_sections
from .manuals import manual_sections
from .sections import Section

TOKENS_OF_ROW = 350  # about; long enough for windows, short enough that rows of all scripts come soon
TOKENS_OF_MEASURED_ROW = 150  # many languages must fit in
_MOST_OF_LANGUAGE = 0.25  # of all tokens


@dataclass(frozen=True)
class Script:
    """The languages of a script.

    Attributes:
        declarations: Languages of the Declaration, as its files are called.
        manuals: Languages of the manuals.
    """

    declarations: str
    manuals: str = ""


# ISO 15924 codes
SCRIPTS = {
    "Latn": Script("eng fra spa deu_1996 por_BR ita pol tur vie ind nld swe ces hun ron_2006 fin tgl swh",
                   "C de fr es pt_BR it pl tr vi id"),
    "Cyrl": Script("rus ukr bul srp_cyrl kaz khk", "ru uk sr"),
    "Arab": Script("arb pes_1 urd", "fa"),
    "Hans": Script("cmn_hans", "zh_CN"),
    "Hant": Script("cmn_hant", "zh_TW"),
    "Jpan": Script("jpn", "ja"),
    "Kore": Script("kor", "ko"),
    "Deva": Script("hin mar nep"),
    "Hebr": Script("heb"),
    "Thai": Script("tha"),
    "Grek": Script("ell_monotonic", "el"),
    "Beng": Script("ben"),
    "Taml": Script("tam", "ta"),
    "Telu": Script("tel", "te"),
    "Armn": Script("hye"),
    "Geor": Script("kat"),
    "Ethi": Script("amh"),
    "Guru": Script("pan"),
    "Gujr": Script("guj"),
    "Knda": Script("kan"),
    "Mlym": Script("mal"),
    "Sinh": Script("sin"),
    "Laoo": Script("lao"),
    "Khmr": Script("khm"),
    "Mymr": Script("mya"),
    "Tibt": Script("bod"),
    "Thaa": Script("div"),
}  # fmt: skip

Row = dict[str, Any]


def script_of_declaration(language: str) -> str:
    """The script that the Declaration in a language is written in."""
    return next(script for script, wanted in SCRIPTS.items() if language in wanted.declarations.split())


def is_latin(language: str) -> bool:
    """Whether the Declaration in a language is in Latin letters."""
    return script_of_declaration(language) == "Latn"


@dataclass(frozen=True)
class Sources:
    """Where texts come from.

    Attributes:
        declarations: See `declaration.get_declarations`.
        manuals: See `manuals.get_manuals`.
    """

    declarations: Path
    manuals: Path

    def declaration(self, language: str, script: str, *, measured: bool) -> list[Section]:
        """The articles in a language that no gate learns from, or the others."""
        html = (self.declarations / f"{language}.html").read_text(encoding="utf-8")
        return declaration_sections(html, script, MEASURED if measured else LEARNED)

    def clean_paragraphs(self, language: str) -> list[str]:
        """The paragraphs of the articles in a language that a gate learns from."""
        sections = self.declaration(language, script_of_declaration(language), measured=False)
        return [text for section in sections for text in section.paragraphs]

    def manual(self, language: str, script: str, *, measured: bool) -> list[Section]:
        """The pages in a language that no gate learns from, or the others."""
        return manual_sections(self.manuals, language, script, measured=measured)


def text_rows(sources: Sources, n_tokens: int, count: Callable[[str], int], *, measured: bool = False) -> list[Row]:
    """Rows for `lcg-cpp train`, in turns of the scripts.

    Args:
        sources: Of the texts.
        n_tokens: About how many tokens in all, where the texts are long enough.
        count: Tokens of a text.
        measured: Take the parts that no gate learns from, the same in every language, because they say the same.
    """
    row_tokens = TOKENS_OF_MEASURED_ROW if measured else TOKENS_OF_ROW
    rows: list[Row] = []
    first: list[int] = []  # of each language and source: all of them are there
    for script, wanted in SCRIPTS.items():
        languages = [
            _language_rows(of(language, script, measured=measured), row_tokens, n_tokens, count, about)
            for kind, codes, of in (
                ("udhr", wanted.declarations, sources.declaration),
                ("manuals", wanted.manuals, sources.manual),
            )
            for language in codes.split()
            for about in [{"language": language, "kind": kind, "script": script}]
        ]
        first += range(len(rows), len(rows) + sum(map(bool, languages)))
        own = [row for of_language in languages for row in of_language]
        rows += [own[i] for i in in_turns([f"{row['kind']} {row['language']}" for row in own])]
    names = [script_of(row["messages"][1]["content"]) for row in rows]
    chosen = sorted({*first, *balanced(names, [row["tokens"] for row in rows], n_tokens)})
    return [rows[chosen[i]] for i in in_turns([names[i] for i in chosen])]


def _language_rows(
    sections: Sequence[Section], row_tokens: int, n_tokens: int, count: Callable[[str], int], about: Row
) -> list[Row]:
    """The rows of a language, or more of them than it can get: manuals are long."""
    most, rows = _MOST_OF_LANGUAGE * n_tokens, list[Row]()
    for messages, n in _replies(sections, row_tokens, count):
        if most <= 0:
            break
        rows.append({"messages": messages, **about, "tokens": n})
        most -= n
    return rows


def _replies(
    sections: Sequence[Section], row_tokens: int, count: Callable[[str], int]
) -> Iterator[tuple[list[dict[str, str]], int]]:
    """Neighbouring paragraphs as the answer to the headings over them, and the tokens of each row."""
    asked: list[str] = []
    said: list[str] = []
    n = 0
    paragraphs = [(s.heading, text, i == 0) for s in sections for i, text in enumerate(s.paragraphs)]
    for number, (heading, text, begins) in enumerate(paragraphs, 1):
        asked.append(heading)
        said.append(f"{heading}\n{text}".strip() if begins else text)
        n += count(text)
        if n >= row_tokens or number == len(paragraphs):
            question = "\n".join(dict.fromkeys(asked)).strip() or said[0]
            yield [{"role": "user", "content": question}, {"role": "assistant", "content": "\n\n".join(said)}], n
            asked, said, n = [], [], 0


def token_counter(model: Path) -> Callable[[str], int]:
    """What counts the tokens of a text, as a model's tokenizer makes them."""
    with quiet_engine():
        vocab = Llama(str(model), vocab_only=True, verbose=False)
    return lambda text: len(vocab.tokenize(text.encode(), add_bos=False))
