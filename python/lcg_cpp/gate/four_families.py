"""The rule sets of the paper's four families: `paper`, which is the paper's own, and `default`.

A letter is a character of Unicode's general category L*; its script is read off its Unicode name. Characters that the
running Python's Unicode database does not know yet are no letters.
"""

from __future__ import annotations

import unicodedata
from dataclasses import replace
from functools import cache

from ..engine.base_model import CONTROL, UNKNOWN, UNUSED, USER_DEFINED
from .rule_set import FamilySet, RuleSet, common_family

_NAMES = ("cj", "latin", "symbols", "lowres")
_FAMILIES = FamilySet(_NAMES, (True, True, False, False), _NAMES.index("symbols"), "default")
_ORDER = ("symbols", "lowres", "latin", "cj")  # weakest first

# The blocks of Unicode's Blocks.txt (version 17) that hold ideographs, first and last code point. The list is fixed,
# because block boundaries never change once published, while the database of an old Python lacks the newest ones.
_IDEOGRAPH_BLOCKS = (
    (0x3400, 0x4DBF),  # CJK Unified Ideographs Extension A
    (0x4E00, 0x9FFF),  # CJK Unified Ideographs
    (0xF900, 0xFAFF),  # CJK Compatibility Ideographs
    (0x20000, 0x2A6DF),  # Extension B
    (0x2A700, 0x2B73F),  # Extension C
    (0x2B740, 0x2B81F),  # Extension D
    (0x2B820, 0x2CEAF),  # Extension E
    (0x2CEB0, 0x2EBEF),  # Extension F
    (0x2EBF0, 0x2EE5F),  # Extension I
    (0x2F800, 0x2FA1F),  # CJK Compatibility Ideographs Supplement
    (0x30000, 0x3134F),  # Extension G
    (0x31350, 0x323AF),  # Extension H
    (0x323B0, 0x3347F),  # Extension J
)


def _letter(character: str) -> str:
    if unicodedata.category(character)[0] != "L":
        return "symbols"
    name = unicodedata.name(character, "")
    if "CJK" in name or "HIRAGANA" in name or "KATAKANA" in name:
        return "cj"
    return "latin" if "LATIN" in name else "lowres"


def _paper_fragment(n_bytes: int, code_points: range) -> str:
    overlaps = any(code_points[0] <= last and first <= code_points[-1] for first, last in _IDEOGRAPH_BLOCKS)
    return "cj" if n_bytes > 1 and overlaps else "symbols"


@cache
def _fragment(n_bytes: int, code_points: range) -> str:
    if _paper_fragment(n_bytes, code_points) == "cj":
        return "cj"
    return common_family(_letter, code_points, "symbols")


DEFAULT = RuleSet(_FAMILIES, _ORDER, _letter, _fragment, UNKNOWN | CONTROL | USER_DEFINED | UNUSED)
PAPER = RuleSet(replace(_FAMILIES, rules="paper"), _ORDER, _letter, _paper_fragment, UNKNOWN | CONTROL)
