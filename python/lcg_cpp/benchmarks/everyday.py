"""The built-in benchmark `everyday`: what people ask a local model, in the languages they ask it in.

`everyday.json` holds the prompts, written for this package; no text that gates are trained on is among them.

| subset | what is asked | what may be in the reply |
|---|---|---|
| own | explain, write a letter, a recipe, a story, a plan, a list, advise, compare; in 30 languages | the language |
| switch | code, names of products, acronyms, a formula, a quotation, a translation; in 18 languages | Latin too |
| say | how something is written in another script | that script, and Latin for how it is read |
| agent | English prompts of coding agents, with code, logs and calls of tools | English |
| neighbours | questions in Japanese about China, in Chinese about Japan, in both kinds of Chinese | the language |
| long | a question behind 16 notes in as many languages and scripts, about 2,800 tokens | the question's language |
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from .prompt import Benchmark, Prompt

PROMPTS = Path(__file__).with_name("everyday.json")
MAX_TOKENS = 160

# What of each kind must be in the reply for the switch to count as kept; of the others, any Latin letter.
_ITEMS = {
    "function": (("def",),),
    "systems": (("Android",), ("iOS",)),
    "web": (("HTML",), ("CSS",)),
    "formula": (("E", "m", "c"),),
    "quote": (("or not to be",),),
}


def load_everyday(name: str) -> Benchmark:
    """All prompts, those of one language in a row within each subset."""
    data = json.loads(PROMPTS.read_text(encoding="utf-8"))
    prompts = (*_own(data), *_switch(data), *_say(data), *_agent(data), *_neighbours(data), *_long(data))
    return Benchmark(name, prompts, "everyday, version 1: questions in 30 languages")


def _prompt(subset: str, language: str, kind: object, text: str, **others: Any) -> Prompt:
    name = f"{subset}-{language}-{kind}"
    return Prompt(name, text, chat=True, language=language, subset=subset, max_tokens=MAX_TOKENS, **others)


def _own(data: Any) -> Iterator[Prompt]:
    for language, texts in data["own"]["languages"].items():
        for kind, text in zip(data["own"]["kinds"], texts):
            yield _prompt("own", language, kind, text)


def _switch(data: Any) -> Iterator[Prompt]:
    for language, texts in data["switch"]["languages"].items():
        for kind, text in zip(data["switch"]["kinds"], texts):
            yield _prompt("switch", language, kind, text, switch="latin", items=_ITEMS.get(kind, ()))


def _say(data: Any) -> Iterator[Prompt]:
    for number, (language, text, script) in enumerate(data["say"], 1):
        yield _prompt("say", language, number, text, switch=script, expect_scripts=("latin",))


def _agent(data: Any) -> Iterator[Prompt]:
    for number, text in enumerate(data["agent"], 1):
        yield _prompt("agent", "en", number, text)


def _neighbours(data: Any) -> Iterator[Prompt]:
    for language, texts in data["neighbours"].items():
        for number, text in enumerate(texts, 1):
            yield _prompt("neighbours", language, number, text)


def _long(data: Any) -> Iterator[Prompt]:
    """Every question has the notes in an order of its own, so that each script is the last one somewhere."""
    notes, begin = list(data["documents"].values()), 0
    for language, questions in data["long"].items():
        for number, question in enumerate(questions, 1):
            yield _prompt("long", language, number, "\n\n".join([*notes[begin:], *notes[:begin], question]))
            begin = (begin + 3) % len(notes)  # 3 and 16 notes have no common divisor
