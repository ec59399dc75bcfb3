"""The replies of a model that its gate may learn from: those without a letter that nobody wanted.

A gate learns what its model does. Taught by replies in which the model slips, it learns to allow that; taught by none
with code and names, it forbids those where they are right.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from typing import Any

from opencc import OpenCC

from lcg_cpp.benchmarks import Prompt
from lcg_cpp.data.synth import is_looping
from lcg_cpp.measure.unwanted import unwanted

Row = dict[str, Any]

# Kinds of prompts of `lcg-cpp data synth` -> scripts that their replies rightly hold besides what every text may.
_ASKED = {
    "say": ("cj", "latin", "lowres"),  # any of six languages
    "names": ("cj", "latin"),  # English prompts ask for names in Chinese, all others in English
}

_IN_CHINESE_ALONE = ("about", "language", "currency", "words", "free", "program", "code", "command", "repair", "table",
                     "formula", "quote", "tech")  # fmt: skip
_CHINESE = ("zh", "zh_Hant")
_RESPELLED = 200  # rows
_LETTERS_RESPELLED = 120  # of a reply, at most; whole sentences


def traditional_rows(rows: Iterable[Row]) -> list[Row]:
    """The Chinese ones of `lcg-cpp data synth` in traditional characters, with the words of Taiwan.

    A small model asked in traditional Chinese answers in simplified, so that hardly a clean reply of its own is left to
    learn from. These are its own too, but for the characters.
    """
    convert = OpenCC("s2twp").convert
    return [
        {**row, "language": "zh_Hant", "messages": [{**m, "content": convert(m["content"])} for m in row["messages"]]}
        for row in _in_chinese_alone(rows)
    ]


def respelled_rows(rows: Iterable[Row]) -> list[Row]:
    """Requests to write a clean Chinese reply in the other set of characters: to traditional and back in turns.

    Traditional replies alone would teach a gate that simplified characters never come behind traditional ones.
    """
    to_traditional, to_simplified = OpenCC("s2twp").convert, OpenCC("tw2sp").convert
    found: list[Row] = []
    for n, row in enumerate(_in_chinese_alone(rows)):
        text = row["messages"][1]["content"][:_LETTERS_RESPELLED].rpartition("。")[0]
        if not text:
            continue
        if len(found) == _RESPELLED:
            break
        simplified, traditional = to_simplified(text) + "。", to_traditional(text) + "。"
        language, asked, said = (
            ("zh", f"请把下面的话改成繁体字：\n\n{simplified}", traditional)
            if n % 2
            else ("zh_Hant", f"請把下面的話改成簡體字：\n\n{traditional}", simplified)
        )
        messages = [{"role": "user", "content": asked}, {"role": "assistant", "content": said}]
        found.append({**row, "language": language, "kind": "respell", "messages": messages})
    return found


def _in_chinese_alone(rows: Iterable[Row]) -> Iterator[Row]:
    """Those whose replies are wholly in Chinese, but for code and names."""
    return (row for row in rows if row["language"] in _CHINESE and row["kind"] in _IN_CHINESE_ALONE)


def clean_rows(rows: Iterable[Row]) -> tuple[list[Row], Counter[str]]:
    """The clean rows of `lcg-cpp data synth`, and how many replies were left out for what.

    That is an unwanted letter of some kind, or `looping`.

    Raises:
        ValueError: A row is in a language that nothing is known of.
    """
    kept, left_out = [], Counter[str]()
    for row in rows:
        asked, said = (message["content"] for message in row["messages"])
        if is_looping(said):
            left_out["looping"] += 1
            continue
        is_translation = row["kind"] == "translate" or row["kind"].startswith("from_")  # no word of it may stay
        prompt = Prompt(
            str(row["number"]),
            row["kind"] if is_translation else asked,
            chat=True,
            language=row["language"],
            expect_scripts=_ASKED.get(row["kind"], ()),
        )
        found = unwanted(said, prompt)
        if found is None:
            raise ValueError(f"row {row['number']}: `language` is {row['language']!r}, whose script is unknown")
        left_out.update({kind for _, _, kind in found})
        if not found:
            kept.append(row)
    return kept, left_out
