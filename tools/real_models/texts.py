"""Clean texts in every script: the Declaration and manuals, balanced by script.

A language gives one row for every few paragraphs, as an answer to the headings over them. Every script gets its share
of the tokens, those that more people write a larger one: where a tokenizer writes a script byte by byte, it takes more
tokens and gives fewer words.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llama_cpp import Llama

from .declaration import LEARNED, MEASURED, declaration_sections
from .manuals import manual_sections
from .sections import Section

TOKENS_OF_ROW = 350  # about; long enough for windows, short enough that rows of all scripts come soon
TOKENS_OF_MEASURED_ROW = 150  # many languages must fit in


@dataclass(frozen=True)
class Script:
    """How much text a script gets, and in which languages.

    Attributes:
        weight: How often the tokens of a rare script, from each of the two sources.
        declarations: Languages of the Declaration, as its files are called.
        manuals: Languages of the manuals.
    """

    weight: float
    declarations: str
    manuals: str = ""

    @property
    def n_sources(self) -> int:
        """How many sources it has texts from."""
        return len([languages for languages in (self.declarations, self.manuals) if languages])


# ISO 15924 codes
SCRIPTS = {
    "Latn": Script(8, "eng fra spa deu_1996 por_BR ita pol tur vie ind nld swe ces hun ron_2006 fin tgl swh",
                   "C de fr es pt_BR it pl tr vi id"),
    "Cyrl": Script(6, "rus ukr bul srp_cyrl kaz khk", "ru uk sr"),
    "Arab": Script(6, "arb pes_1 urd", "fa"),
    "Hans": Script(10, "cmn_hans", "zh_CN"),
    "Hant": Script(10, "cmn_hant", "zh_TW"),
    "Jpan": Script(10, "jpn", "ja"),
    "Kore": Script(6, "kor", "ko"),
    "Deva": Script(4, "hin mar nep"),
    "Hebr": Script(4, "heb"),
    "Thai": Script(3, "tha"),
    "Grek": Script(4, "ell_monotonic", "el"),
    "Beng": Script(2, "ben"),
    "Taml": Script(2, "tam", "ta"),
    "Telu": Script(2, "tel", "te"),
    "Armn": Script(2, "hye"),
    "Geor": Script(2, "kat"),
    "Ethi": Script(2, "amh"),
    "Guru": Script(1, "pan"),
    "Gujr": Script(1, "guj"),
    "Knda": Script(1, "kan"),
    "Mlym": Script(1, "mal"),
    "Sinh": Script(1, "sin"),
    "Laoo": Script(1, "lao"),
    "Khmr": Script(1, "khm"),
    "Mymr": Script(1, "mya"),
    "Tibt": Script(1, "bod"),
    "Thaa": Script(1, "div"),
}  # fmt: skip

Row = dict[str, Any]


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
    share = n_tokens / sum(script.weight * script.n_sources for script in SCRIPTS.values())
    by_script: dict[str, list[Row]] = defaultdict(list)
    for script, wanted in SCRIPTS.items():
        for kind, languages, of in (
            ("udhr", wanted.declarations, sources.declaration),
            ("manuals", wanted.manuals, sources.manual),
        ):
            for language in languages.split():
                left = wanted.weight * share / len(languages.split())
                for messages, n in _replies(of(language, script, measured=measured), row_tokens, count):
                    if left <= 0:
                        break
                    row = {"messages": messages, "language": language, "kind": kind, "script": script, "tokens": n}
                    by_script[script].append(row)
                    left -= n
    most = max(map(len, by_script.values()))
    return [rows[i] for i in range(most) for rows in by_script.values() if i < len(rows)]


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
    vocab = Llama(str(model), vocab_only=True, verbose=False)
    return lambda text: len(vocab.tokenize(text.encode(), add_bos=False))
