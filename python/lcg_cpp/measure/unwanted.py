"""Which letters of a reply are unwanted, and of which script.

A letter is one of the rule set `scripts` (`gate/scripts.py`). It is unwanted if it belongs to no script that the prompt
expects: its language's, those it names, and those of a requested code-switch. Where no reference says what is right,
a letter is also wanted as part of what texts of every language hold, see `wanted.py`.

Unwanted letters have a kind: the family of the letter, but Chinese and Japanese letters are named as a reader of the
reply's language sees them.

| kind | in a reply in | letters that only these write |
|---|---|---|
| kana | any language but Japanese | Japanese: kana, kokuji and Japan's own simplified characters |
| chinese | Japanese | Chinese, simplified or traditional |
| traditional | simplified Chinese | traditional Chinese, or that and Japanese |
| simplified | traditional Chinese | simplified Chinese, or that and Japanese |
| han | any other language, Korean too | every other Chinese character |
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache, lru_cache
from itertools import groupby
from typing import TYPE_CHECKING

from ..gate.families import letter_counts, text_families
from ..gate.scripts import IMPLIED, NAMES, RULE_SET, SIBLINGS, families_named, families_of_script
from .language_id import language_script
from .reply_text import blank_choices
from .wanted import is_usual

if TYPE_CHECKING:
    from ..benchmarks import Prompt

_FAMILIES = RULE_SET.families
_OF_HAN = ("han", "chinese", "simplified", "traditional")
KINDS = (*(name for name in NAMES[:-2] if name not in SIBLINGS), "kana", *_OF_HAN, "other")
_TITLES = {
    "han": "Chinese characters",
    "chinese": "Chinese in Japanese",
    "simplified": "simplified in traditional Chinese",
    "traditional": "traditional in simplified Chinese",
    "other": "other scripts",
}
_TRADITIONAL = families_of_script("Hant") - families_of_script("Hans")


@dataclass(frozen=True)
class Expected:
    """The families of the rule set `scripts` whose letters are right in a reply."""

    own: frozenset[str]  # its language's
    others: frozenset[str]  # those that the prompt names or asks for besides

    @property
    def every(self) -> frozenset[str]:
        """Both."""
        return self.own | self.others

    def kind(self, family: str) -> str:
        """What letters of a family are to a reader of the language where they are unwanted."""
        if family not in IMPLIED or family == "kana":
            return family
        if not self.own & SIBLINGS:
            return "han"
        if "kana" in self.own:
            return "chinese"
        return "traditional" if family in _TRADITIONAL else "simplified"


@lru_cache(maxsize=1 << 14)
def expected(prompt: Prompt) -> Expected | None:
    """The families that are right in a reply to a prompt; None if no letter is wrong.

    None if the prompt says neither language nor scripts, or a language that CLDR does not know. `cj` says nothing about
    a reply in Chinese or Japanese, which is written with its own letters.
    """
    if not prompt.language and not prompt.expect_scripts:
        return None
    own = frozenset[str]()
    if prompt.language:
        script = language_script(prompt.language)
        if not script:
            return None
        own = families_of_script("Hant" if script == "Hans" and _asks_for_traditional(prompt) else script)
    names = [name for name in (*prompt.expect_scripts, prompt.switch) if name and not (name == "cj" and own & SIBLINGS)]
    asked = {*families_named(names)}
    if prompt.switch:
        asked |= text_families("".join(string for item in prompt.items for string in item), _FAMILIES)
    asked = asked.union(*(IMPLIED[family] for family in asked & SIBLINGS))
    return Expected(own, frozenset(asked - own)) if prompt.language else Expected(frozenset(asked), frozenset())


def _asks_for_traditional(prompt: Prompt) -> bool:
    """Whether a prompt in Chinese, whose language names no script, is written in traditional characters."""
    if "-" in prompt.language or "_" in prompt.language:
        return False
    counts = letter_counts(prompt.reference or prompt.prompt, _FAMILIES)
    return counts["hant"] + counts["hantj"] > counts["hans"] + counts["hansj"]


@cache
def _family(character: str) -> str:
    return next(iter(text_families(character, _FAMILIES)), "")


def unwanted(text: str, prompt: Prompt) -> list[tuple[int, int, str]] | None:
    """The stretches of unwanted letters in a reply: where each begins and ends, and its kind, one of `KINDS`.

    None if no letter can be wrong, see `expected`.
    """
    right = expected(prompt)
    if right is None:
        return None
    if prompt.answer:
        text = blank_choices(text)
    if text_families(text, _FAMILIES) <= right.every:
        return []
    families = [_family(character) for character in text]
    foreign = [bool(family) and family not in right.every for family in families]
    if not prompt.reference:
        usual = is_usual(text, families, foreign, prompt.prompt if _is_in(prompt.prompt, right) else "")
        foreign = [wrong and not is_right for wrong, is_right in zip(foreign, usual)]
    return list(_stretches(right.kind(family) if wrong else "" for family, wrong in zip(families, foreign)))


def _is_in(text: str, right: Expected) -> bool:
    """Whether most letters of a text are of a reply's language."""
    counts = letter_counts(text, _FAMILIES)
    return 2 * sum(counts[family] for family in right.own) > sum(counts.values())


def _stretches(kinds: Iterable[str]) -> Iterator[tuple[int, int, str]]:
    end = 0
    for kind, letters in groupby(kinds):
        begin, end = end, end + len(list(letters))
        if kind:
            yield begin, end, kind


def letters_by_kind(stretches: Iterable[tuple[int, int, str]]) -> dict[str, int]:
    """How many letters there are of each kind."""
    counts: Counter[str] = Counter()
    for begin, end, kind in stretches:
        counts[kind] += end - begin
    return dict(counts)


def pieces_with(pieces: Sequence[str], stretches: Sequence[tuple[int, int, str]]) -> list[int]:
    """Which pieces of a text hold a letter of some stretches of it, ascending like them."""
    found, end, left = [], 0, list(reversed(stretches))
    for i, piece in enumerate(pieces):
        begin, end = end, end + len(piece)
        while left and left[-1][1] <= begin:
            left.pop()
        if left and left[-1][0] < end:
            found.append(i)
    return found


def title_of(kind: str) -> str:
    """A kind as a table names it."""
    return _TITLES.get(kind, kind.capitalize())


def is_in_another_script(text: str, stretches: list[tuple[int, int, str]], prompt: Prompt) -> bool:
    """Whether more letters of a reply are unwanted than are its language's."""
    right = expected(prompt)
    counts = letter_counts(text, _FAMILIES)
    own = sum(counts[family] for family in right.own) if right is not None else 0
    return sum(end - begin for begin, end, _ in stretches) > own
