"""Makes the prompts of the built-in benchmark `cldr`.

    python tools/make_cldr_prompts.py --out python/lcg_cpp/benchmarks/cldr.jsonl

Needs lcg_cpp and Babel 2.18, which has the names of Unicode CLDR 47; takes a second. The file is fixed: a file that
differs is another version of the benchmark, and numbers of different versions cannot be compared.

The prompts ask for names of places, languages, currencies, days, dates and quantities, alone or as a list, and for
sentences that hold one. The instructions are in English, in Chinese, or in the language of the reply.
"""

from __future__ import annotations

import argparse
import json
import random
from collections.abc import Iterator, Sequence
from itertools import chain
from pathlib import Path
from typing import Any

import lcg_cpp.data
from cldr_prompts import wording
from cldr_prompts.names import SCRIPTS, SOURCES, UNAMBIGUOUS_PLACES, Name, francs, language_name, names
from demo.jsonl import write_rows
from lcg_cpp.data.languages import cldr_version
from lcg_cpp.gate.families import text_families

CLDR = "CLDR 47"
_DATA = Path(__file__).with_name("cldr_prompts")
SENTENCES: dict[str, dict[str, str]] = json.loads((_DATA / "sentences.json").read_text(encoding="utf-8"))
_INSTRUCTIONS = Path(lcg_cpp.data.__file__).with_name("instructions.json")
INSTRUCTIONS: dict[str, dict[str, str]] = json.loads(_INSTRUCTIONS.read_text(encoding="utf-8"))["languages"]

_SINGLE, _SENTENCE, _LIST, _LONG = 96, 192, 384, 512  # most tokens of a reply
_SHORT_LIST, _LONG_LIST, _BRACKETS, _DESCRIBED = 5, 8, 3, 2  # items

# kind, items and language of the instruction (`own`: that of the reply); of the latter, English names are translated
LISTS = (
    ("place", _SHORT_LIST, "en"),
    ("language", _SHORT_LIST, "en"),
    ("currency", _SHORT_LIST, "en"),
    ("date", _SHORT_LIST, "en"),
    ("quantity", _SHORT_LIST, "en"),
    ("place", _LONG_LIST, "en"),
    ("place", _SHORT_LIST, "zh"),
    ("language", _SHORT_LIST, "zh"),
    ("currency", _SHORT_LIST, "zh"),
    ("place", _LONG_LIST, "own"),
    ("day", _SHORT_LIST, "own"),
)
LATIN_LISTS = (LISTS[0], LISTS[3], LISTS[5], LISTS[6], LISTS[7], LISTS[8], LISTS[9])
PLAIN_SENTENCES = (("closed", "en"), ("date", "zh"), ("map", "own"))
LATIN_SENTENCES = (("file", "en"), ("file", "zh"), ("mail", "en"), ("site", "zh"), ("site", "own"))

Row = dict[str, Any]


class Prompts:
    """The prompts for replies in one language."""

    def __init__(self, code: str) -> None:
        """Args:
        code: Of the language.
        """
        self.code = code
        self.family = SCRIPTS[code]
        self._rng = random.Random(f"1 {code}")
        self._index = list(SCRIPTS).index(code)

    def rows(self) -> Iterator[Row]:
        """All of them."""
        yield from self._singles()
        yield from (self._list(*what) for what in (LATIN_LISTS if self.family == "latin" else LISTS))
        if self.code in SENTENCES["map"]:
            yield from (self._sentence(*what) for what in PLAIN_SENTENCES + LATIN_SENTENCES)
        found = francs(self.code)
        if len(found) > 1:
            prompt = self._fill(wording.LIST, "en", _lines(found, "en"), "currency")
            yield self._row("francs", prompt, _lines(found, self.code), _LIST)
        yield from self._switches()

    # ---- translations ----

    def _singles(self) -> Iterator[Row]:
        for kind in ("place", "language" if self.family == "latin" else "currency"):
            name = self._rng.choice(names(kind, self.code))
            prompt = wording.SINGLE.format(text=name.texts["en"], language=self._called("en"))
            yield self._row(kind, prompt, name.texts[self.code], _SINGLE)

    def _list(self, kind: str, n: int, instruction: str) -> Row:
        chosen = self._rng.sample(names(kind, self.code), n)
        source = self._source(instruction)
        prompt = self._fill(wording.LIST, instruction, _lines(chosen, source), kind)
        return self._row(f"{kind}-list", prompt, _lines(chosen, self.code), _LIST)

    def _sentence(self, template: str, instruction: str) -> Row:
        source = self._source(instruction)
        blanks: dict[str, dict[str, str]] = {
            kind: self._rng.choice(names(kind, self.code)).texts for kind in ("day", "date", "place")
        }
        for blank, values in (("format", wording.FILES), ("mail", wording.MAILS), ("site", wording.SITES)):
            blanks[blank] = dict.fromkeys((*SOURCES, self.code), self._rng.choice(values))
        text, reference = (
            SENTENCES[template][code].format(**{blank: texts[code] for blank, texts in blanks.items()})
            for code in (source, self.code)
        )
        return self._row(template, self._fill(wording.SENTENCE, instruction, text), reference, _SENTENCE)

    def _source(self, instruction: str) -> str:
        """What is translated from: Chinese with a Chinese instruction, but never the language itself."""
        return "zh" if instruction == "zh" and self.code != "zh" else "en"

    def _fill(self, texts: dict[str, str], instruction: str, text: str, kind: str = "") -> str:
        if instruction == "own":
            return _below(INSTRUCTIONS[self.code]["translate"], "text", text)
        instruction = self._source(instruction)
        known = wording.KINDS.get(kind, {}).get(instruction, "")
        return texts[instruction].format(kind=known, language=self._called(instruction), text=text)

    def _called(self, of: str) -> str:
        """What the language is called in English or in Chinese."""
        return "simplified Chinese" if self.code == "zh" else language_name(self.code, of)

    # ---- requested code-switches ----

    def _switches(self) -> Iterator[Row]:
        if self.family != "cj":
            yield self._brackets("zh", "cj", wording.CHINESE_IN_BRACKETS)
            yield self._say()
        if self.family != "latin":
            yield self._brackets("en", "latin", wording.ENGLISH_IN_BRACKETS["zh" if self._index % 2 else "en"])
            yield self._title()
            yield self._describe()
            yield self._function() if self._index % 2 else self._program()

    def _brackets(self, extra: str, switch: str, text: str) -> Row:
        chosen = self._places(_BRACKETS)
        called = self._called("zh" if text == wording.ENGLISH_IN_BRACKETS["zh"] else "en")
        prompt = text.format(language=called, text=_lines(chosen, "en"))
        reference = "\n".join(f"{name.texts[self.code]} ({name.texts[extra]})" for name in chosen)
        items = [[name.texts[extra]] for name in chosen]
        return self._row("brackets", prompt, reference, _LIST, switch=switch, items=items)

    def _say(self) -> Row:
        """How a name is called in Chinese, and pronounced: in Latin letters."""
        (name,) = self._places(1)
        target = language_name("zh", self.code)
        prompt = INSTRUCTIONS[self.code]["say"].format(word=name.texts[self.code], target=target)
        return self._row(
            "say", prompt, "", _LIST, switch="cj", items=[[name.texts["zh"]]], expect_scripts=["cj", "latin"]
        )

    def _title(self) -> Row:
        title = wording.TITLES[self._index % len(wording.TITLES)]
        prompt = wording.QUOTED_TITLE.format(title=title, language=self._called("en"))
        return self._row("title", prompt, "", _LIST, switch="latin", items=[[title]])

    def _describe(self) -> Row:
        chosen = self._places(_DESCRIBED)
        prompt = _below(INSTRUCTIONS[self.code]["names"], "places", _lines(chosen, self.code))
        return self._row("describe", prompt, "", _LONG, switch="latin", items=[[name.texts["en"]] for name in chosen])

    def _function(self) -> Row:
        signature, task = list(wording.FUNCTIONS.items())[self._index // 2 % len(wording.FUNCTIONS)]
        prompt = wording.CODE.format(signature=f"`{signature}`", task=task, language=self._called("en"))
        items = [["def " + signature.partition("(")[0]]]
        return self._row("code", prompt, "", _LONG, switch="latin", items=items)

    def _program(self) -> Row:
        prompt = INSTRUCTIONS[self.code]["program"]
        return self._row("code", prompt, "", _LONG, switch="latin", items=[["print("]])

    def _places(self, n: int) -> list[Name]:
        known = {name.key: name for name in names("place", self.code)}
        possible = [known[f"place:{code}"] for code in UNAMBIGUOUS_PLACES.split() if f"place:{code}" in known]
        return self._rng.sample(possible, n)

    def _row(self, kind: str, prompt: str, reference: str, max_tokens: int, **switch: Any) -> Row:
        scripts = text_families(reference) & {"cj", "latin"} | {*filter(None, [switch.get("switch")])}
        row: Row = {"id": f"{self.code}-{kind}", "prompt": prompt}
        if reference:
            row["reference"] = reference
        row["language"] = self.code
        row["expect_scripts"] = sorted(scripts - {self.family})
        row.update(switch)
        row["subset"] = "switch" if switch else self._subset(reference)
        row["max_tokens"] = max_tokens
        return row

    def _subset(self, reference: str) -> str:
        if self.family == "latin":
            return "latin-script"
        return "with-latin" if "latin" in text_families(reference) else "no-latin"


def _below(instruction: str, blank: str, text: str) -> str:
    """An instruction with its blank filled: lines stand below it."""
    if "\n" not in text:
        return instruction.format(**{blank: text})
    return instruction.format(**{blank: ""}).rstrip() + "\n\n" + text


def _lines(chosen: Sequence[Name], code: str) -> str:
    return "\n".join(name.texts[code] for name in chosen)


def make_rows() -> list[Row]:
    """All prompts, by language."""
    rows = list(chain.from_iterable(Prompts(code).rows() for code in SCRIPTS))
    counts: dict[str, int] = {}
    for row in rows:
        counts[row["id"]] = counts.get(row["id"], 0) + 1
        row["id"] += f"-{counts[row['id']]}"
    return rows


def main() -> None:
    """Writes the file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, metavar="FILE", help="the prompts")
    out: Path = parser.parse_args().out
    if not cldr_version().startswith(f"{CLDR} ("):
        parser.error(f"the names here are of {cldr_version()}, expected {CLDR}: pip install babel==2.18")
    write_rows(out, make_rows())


if __name__ == "__main__":
    main()
