"""The hand-written sentences, and what their slots take."""

from __future__ import annotations

import configparser
import string
from dataclasses import dataclass
from pathlib import Path

# what a text can switch to -> code of that language
SWITCHES = {"english": "en", "chinese": "zh"}

# slot -> kind of the terms that fill it; a slot's name may end in 2, `number` takes no term
_KINDS = {"place": "t", "language": "l", "currency": "c", "day": "d", "date": "m", "quantity": "u"}
_KINDS.update(dict.fromkeys(SWITCHES, "t"))
# the kinds whose English or Chinese name a prompt can ask for, in brackets
_BRACKETED = frozenset("tlc")


def kind(slot: str) -> str:
    """First letter of the keys of the terms that fill a slot; empty for a number."""
    return _KINDS.get(slot.rstrip("2"), "")


def has_brackets(slot: str) -> bool:
    """Whether a prompt can ask for the English or Chinese name behind this slot."""
    return slot not in SWITCHES and kind(slot) in _BRACKETED


def parse(text: str) -> list[tuple[str, str]]:
    """A sentence with {slots} as pairs of literal text and the slot behind it, empty at the end."""
    return [(literal, slot or "") for literal, slot, _, _ in string.Formatter().parse(text)]


@dataclass(frozen=True)
class Sentence:
    """One sentence in all languages.

    Attributes:
        key: Its name in sentences.ini.
        texts: Language code -> text with {slots}.
        slots: The slots, in the order of the English text.
    """

    key: str
    texts: dict[str, str]
    slots: tuple[str, ...]

    @property
    def quotes(self) -> frozenset[str]:
        """`english`, `chinese`: what it quotes, in every language."""
        return frozenset(self.slots) & SWITCHES.keys()

    @property
    def can_switch(self) -> bool:
        """Whether a name in brackets can be asked for."""
        return any(map(has_brackets, self.slots))


def load_sentences() -> list[Sentence]:
    """Reads sentences.ini, in file order."""
    parser = configparser.ConfigParser(delimiters=("=",), interpolation=None)
    parser.optionxform = str  # keys are codes of languages as they are
    parser.read_string(Path(__file__).with_name("sentences.ini").read_text(encoding="utf-8"))
    return [_sentence(key, dict(parser[key])) for key in parser.sections()]


def _sentence(key: str, texts: dict[str, str]) -> Sentence:
    return Sentence(key, texts, tuple(slot for _, slot in parse(texts["en"]) if slot))
