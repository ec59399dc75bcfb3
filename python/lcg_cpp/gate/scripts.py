"""The rule set `scripts`: one family for each script, and Han told apart by who writes a character.

Which letters belong to which family is a table (scripts.txt, made by tools/make_script_table.py from the Unicode
Character Database), so that it does not change with Python:

- A letter is a letter or combining mark (categories L and M) of a script that Unicode recommends for everyday use;
  every other script is `other`. Vowel signs, harakat and `ー` count for the scripts that use them. What several scripts
  use is no letter: digits of every script, U+0301, ʼ and Vedic accents.
- Letters that serve as signs are no letters: ª º µ ʰ ⁿ Ω (U+2126) ℝ 𝑥 ⓐ ㎏ and Roman numerals stand in texts of every
  script. Fullwidth letters, halfwidth kana, ligatures, presentation forms and Hangul jamo belong to their scripts, IPA
  letters to `latin`, because IPA is never written without Latin letters.
- A Han character can be simplified Chinese, traditional Chinese, Japanese, or several of them, and its family says
  which: `hans` 这, `hant` 說, `hanst` 你, `hansj` 国, `hantj` 語, `han` 中 (all three, and characters that no list
  knows). Any text may use three or four of the seven and none of the others, so a shared character is never banned
  where it is right. Three quarters of a text are `han`, but nearly all that tells a traditional from a simplified text
  is `hantj` and `hansj`: without them a gate would see 2 % of what is wrong in a mixed text.
- Kanji that only Japanese writes (働 込 駅 気) are `kana`, with 々 and 〆: whoever may write them may write kana.
- Bopomofo is `hant`, because only Taiwan writes it. 〇 is a number.
"""

from __future__ import annotations

import difflib
import unicodedata
from bisect import bisect_right
from collections.abc import Iterable, Iterator
from functools import cache
from importlib.resources import files

import numpy as np
import numpy.typing as npt

from .. import _core
from ..engine.base_model import CONTROL, UNKNOWN, UNUSED, USER_DEFINED
from .rule_set import FamilySet, RuleSet

# What a character of a family can be: s simplified Chinese, t traditional Chinese, j Japanese.
USES = {"hans": "s", "hant": "t", "hanst": "st", "hansj": "sj", "hantj": "tj", "han": "stj", "kana": "j"}
SIBLINGS = frozenset(USES)  # every Chinese or Japanese text mixes three or four of them
# Sibling -> those that are right wherever it is: what is shared is never wrong where one of its users is right.
IMPLIED = {f: frozenset(g for g, uses in USES.items() if set(USES[f]) <= set(uses)) for f in USES}
_FAMILY_OF_USES = {frozenset(uses): family for family, uses in USES.items()}

# ISO 15924 code -> family, of the scripts that are a family of their own.
_ALPHABETS = {
    "Latn": "latin",
    "Cyrl": "cyrillic",
    "Grek": "greek",
    "Armn": "armenian",
    "Geor": "georgian",
    "Arab": "arabic",
    "Hebr": "hebrew",
    "Thaa": "thaana",
    "Deva": "devanagari",
    "Beng": "bengali",
    "Guru": "gurmukhi",
    "Gujr": "gujarati",
    "Orya": "oriya",
    "Taml": "tamil",
    "Telu": "telugu",
    "Knda": "kannada",
    "Mlym": "malayalam",
    "Sinh": "sinhala",
    "Thai": "thai",
    "Laoo": "lao",
    "Khmr": "khmer",
    "Mymr": "myanmar",
    "Tibt": "tibetan",
    "Ethi": "ethiopic",
    "Hang": "hangul",
}
_NEUTRAL = "symbols"
NAMES = (*_ALPHABETS.values(), "kana", "hans", "hant", "hanst", "hansj", "hantj", "han", "other", _NEUTRAL)

# A family with fewer tokens joins `han` or `other`: the shortest alphabet, Hebrew, has 22 letters, so a vocabulary with
# fewer tokens of a script than that writes it byte by byte.
_MIN_TOKENS = 22

_FAMILIES_OF_SCRIPT = {
    **{script: frozenset((family,)) for script, family in _ALPHABETS.items()},
    "Hans": frozenset(("hans", "hanst", "hansj", "han")),
    "Hant": frozenset(("hant", "hanst", "hantj", "han")),
    "Jpan": frozenset(("kana", "hansj", "hantj", "han")),
    "Hani": frozenset(USES) - {"kana"},
    **dict.fromkeys(("Hira", "Kana", "Hrkt"), frozenset(("kana",))),
    "Kore": frozenset(("hangul",)),  # Hanja are so rare today that the paper's measures count them as unwanted
    "Bopo": frozenset(("hant",)),
    "Aran": frozenset(("arabic",)),
}


class _Table:
    """The table of letters: sorted ranges, and the Han characters that are not `han`."""

    def __init__(self, text: str) -> None:
        self.ideographs: dict[str, str] = {}
        ranges: list[tuple[int, int, str]] = []
        for line in text.splitlines():
            if line.startswith("#"):
                continue
            family, entries = line.split(":")
            if not entries.isascii():
                self.ideographs.update(dict.fromkeys(entries.strip(), family))
                continue
            for entry in entries.split():
                first, _, last = entry.partition("-")
                ranges.append((int(first, 16), int(last or first, 16), family))
        self.ranges = sorted(ranges)
        self.firsts = [first for first, _, _ in self.ranges]

    def family(self, character: str) -> str:
        """The family of a character, `symbols` if it is no letter."""
        if character in self.ideographs:
            return self.ideographs[character]
        code_point = ord(character)
        _, last, family = self.ranges[max(bisect_right(self.firsts, code_point) - 1, 0)]
        return family if self.firsts[0] <= code_point <= last else _NEUTRAL

    def overlaps(self, code_points: range) -> Iterator[tuple[range, str]]:
        """The parts of a range of code points that are letters, each with the family of its line."""
        for first, last, family in self.ranges[max(bisect_right(self.firsts, code_points[0]) - 1, 0) :]:
            if first > code_points[-1]:
                return
            part = range(max(first, code_points[0]), min(last, code_points[-1]) + 1)
            if part:
                yield part, family


@cache
def _table() -> _Table:
    return _Table(files(__package__).joinpath("scripts.txt").read_text("utf-8"))


def _letter(character: str) -> str:
    return _table().family(character)


@cache
def character_families() -> npt.NDArray[np.uint8]:
    """uint8 (0x110000,): the family of each code point, an index into `NAMES`; 255 where no character is assigned."""
    return _core.character_families()


def _strongest(found: frozenset[str]) -> str:
    """The family of a token that holds letters of several.

    Han characters and kana come first: the token can be what all of them can be (中国, `han` and `hansj`, is `hansj`;
    你国 is `hans`), and anything if no text writes them together. Of the others the first in the order of `NAMES`
    counts, but Latin only where it is alone, because Latin letters stand in words of every script.
    """
    han = found & USES.keys()
    if han:
        uses = frozenset("stj").intersection(*(USES[family] for family in han))
        return _FAMILY_OF_USES.get(uses, "han")
    return min(found - {"latin"} or found, key=NAMES.index, default=_NEUTRAL)


@cache
def _fragment(_n_bytes: int, code_points: range) -> str:
    """Sure families only: what the unfinished character can become must not be banned where it is right.

    All its letters are of one family, where scripts that share `other` are too rare to count beside one, and what can
    become a Han character is `han`: E8 is `han`, E3 81 `kana`, D4 (Cyrillic or Armenian) `symbols`. And letters are at
    least half of it: E3 80 (、 。 and 々) is `symbols`.
    """
    found: set[str] = set()
    n_letters = 0
    for part, family in _table().overlaps(code_points):
        found.add(family)
        n_letters += len(part)
    if len(found) > 1:
        found.discard("other")
    if len(found) != 1:
        return _NEUTRAL
    n_signs = sum(
        unicodedata.category(character) not in ("Cn", "Cs") and _letter(character) == _NEUTRAL
        for character in map(chr, code_points)
    )
    return found.pop() if n_letters >= n_signs else _NEUTRAL


def families_of_script(script: str) -> frozenset[str]:
    """The families of the letters that a script (ISO 15924) is written with; `other` if it has none of its own.

    `Hant` is `hant`, `hanst`, `hantj` and `han`; `Jpan` is `kana`, `hansj`, `hantj` and `han`.
    """
    return _FAMILIES_OF_SCRIPT.get(script.title(), frozenset(("other",)))


# Names of several families. `han` is also the name of the family that all of them share, which nobody wants alone.
GROUPS = {
    "han": SIBLINGS - {"kana"},
    "chinese": SIBLINGS - {"kana"},
    "simplified": families_of_script("Hans"),
    "traditional": families_of_script("Hant"),
    "japanese": families_of_script("Jpan"),
    "korean": families_of_script("Kore"),
    "cj": SIBLINGS,  # as the four families have it
    "lowres": frozenset(NAMES) - SIBLINGS - {"latin", _NEUTRAL},
}


def families_named(names: Iterable[str]) -> frozenset[str]:
    """The families of some names: families themselves, or `GROUPS`."""
    return frozenset().union(*(GROUPS.get(name, (name,)) for name in names))


def nearest_names(name: object, known: Iterable[str] = (*NAMES[:-1], *GROUPS)) -> str:
    """What a name that is not known could have been meant to be, as an error lists it."""
    names = sorted({*known})
    return ", ".join(difflib.get_close_matches(str(name).lower(), names) or names)


RULE_SET = RuleSet(
    families=FamilySet(NAMES, tuple(name != _NEUTRAL for name in NAMES), NAMES.index(_NEUTRAL), "scripts"),
    letter=_letter,
    strongest=_strongest,
    fragment=_fragment,
    never_text=UNKNOWN | CONTROL | USER_DEFINED | UNUSED,
    of_script=str,
    # in the order of NAMES: the Han families before `han`
    joins={name: "han" if name in USES and name not in ("kana", "han") else "other" for name in NAMES[:-2]},
    min_tokens=_MIN_TOKENS,
)
