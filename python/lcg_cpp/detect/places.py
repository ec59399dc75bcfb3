"""Places of a reply where a word of another script is wrong, and switches of script that are right there."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence

from ..gate.families import text_families
from ..gate.rule_set import FamilySet
from .words import BRACKETS, CODE, QUOTATION, SPLICED

START, BETWEEN, INSIDE, UNSPACED, AFTER = PLACES = (
    "start",
    "between words",
    "inside a word",
    "unspaced script",
    "after a slip",
)
SWITCH, LANGUAGE = OWN = ("own switch", "own language")
PLAIN = "plain"  # the reply's own token, of the family that it was in already
GROUPS = (*PLACES, *OWN, *SPLICED, PLAIN)

_QUOTES = ("“”", "«»", "„“", "「」", "『』", '""')
_CLOSERS = {"(": ")", "（": "）", "[": "]", "【": "】", "“": "”", "„": "“”", "«": "»", "「": "」", "『": "』"}
_BRACKETS = ("(", "（", "[", "【")
_QUOTED = re.compile('[“„«「『"]([^“”„«»「」『』"\n]+)[”“»」』"]')
_SEPARATORS = ("\n", ", ", "、")
_WITHOUT_SPACES = ("THAI", "LAO", "TIBETAN", "MYANMAR", "KHMER", "CJK", "HIRAGANA", "KATAKANA")


def _is_word(character: str) -> bool:
    return unicodedata.category(character)[0] in "LM"


def _is_unspaced(character: str) -> bool:
    return unicodedata.name(character, "").startswith(_WITHOUT_SPACES)


def marked(text: str) -> list[bool]:
    """For each place from 0 to the text's length, whether brackets, a quotation or code are open there.

    What is never closed ends with its line, but for blocks of code.
    """
    inside = [False]
    closers, in_block = "", False
    for i, character in enumerate(text):
        before = text[i - 1] if i else " "
        if text.startswith("```", i):
            in_block = not in_block
        if closers:
            closers = "" if character in closers or character == "\n" else closers
        elif character in '"`':
            closers = character if not _is_word(before) else ""  # Hebrew abbreviations have a " within
        else:
            closers = _CLOSERS.get(character, "")
        inside.append(bool(closers) or in_block)
    return inside


def place_of(text: str, at: int, is_marked: Sequence[bool]) -> str | None:
    """What kind of place for a wrong word there is in front of a character of a reply; None: none."""
    if not text[:at].strip():
        return START if at == 0 else None
    following = text[at:].lstrip()[:1]
    if is_marked[at] or not following or not _is_word(following):
        return None
    left, right = text[at - 1], text[at]
    if left.isspace() or right.isspace():
        return BETWEEN
    if _is_unspaced(right):
        return UNSPACED
    return INSIDE if _is_word(left) else None


def ends(text: str) -> list[int]:
    """Where words end with an item of a list, a clause or the text; if nowhere, all ends of words, none in brackets."""
    is_marked = marked(text)
    found = [
        i
        for i in range(1, len(text) + 1)
        if _is_word(text[i - 1]) and not is_marked[i] and (i == len(text) or not _is_word(text[i]))
    ]
    found = [i for i in found if not text[i:].lstrip().startswith(_BRACKETS)]  # these have theirs already
    return [i for i in found if i == len(text) or text[i] != " "] or found


def insert(text: str, at: int, word: str) -> tuple[str, int]:
    """Put a word into a text, with a space between it and its neighbours where the text has spaces.

    Gives the text, and where the word ends in it.
    """
    right = text[at : at + 1]
    if right.isspace():
        word = f" {word}"
    elif not at or text[at - 1].isspace():
        return text[:at] + word + ("" if _is_unspaced(right) else " ") + text[at:], at + len(word)
    return text[:at] + word + text[at:], at + len(word)


def splice(text: str, at: int, kind: str, what: str) -> tuple[str, int]:
    """Put a switch behind a word, in the text's own punctuation if it has such.

    Gives the text up to the end of `what`, and where that begins.
    """
    wide = text_families(text[:at]) == {"cj"}
    if kind == BRACKETS:
        opening = "（" if "（" in text or (wide and "(" not in text) else " ("
    elif kind == QUOTATION:
        default = "「" if wide else "“"
        opening = next((quotes[0] for quotes in _QUOTES if all(mark in text for mark in quotes)), default)
        opening = opening if wide else f" {opening}"
    else:
        opening = " `" if kind == CODE else "\n```"
    begin = text[:at] + opening
    return begin + what, len(begin)


def name_in(prompt: str, reply: str, at: int, family: str, families: FamilySet) -> str | None:
    """What the prompt calls the thing that the reply names before `at`: its item of a list, or what is quoted alone.

    None where there is no such thing with letters of that family alone.
    """
    quoted = set(_QUOTED.findall(prompt))
    name = quoted.pop() if len(quoted) == 1 else ""
    for separator in _SEPARATORS:
        number, n = reply[:at].count(separator), reply.count(separator) + 1
        for block in (*prompt.split("\n\n"), *prompt.split("\n")):
            items = block.split(separator)
            if n > 1 and len(items) == n:
                name = items[number].strip()
    return name if text_families(name, families) == {family} else None
