"""The rule sets of the paper's four families: `paper`, which is the paper's own, and `default`.

A letter is a character of Unicode's general category L*; its script is read off its Unicode name. Characters that the
running Python's Unicode database does not know yet are no letters.

Beyond the paper, `default` leaves out letter-like symbols (µ º ℝ 𝑥 ʰ), and counts as `cj` whatever only Chinese and
Japanese texts use: Bopomofo too, and the marks 々 〆 〱 〼, whose names are unlike those of ideographs and kana.
"""

from __future__ import annotations

import unicodedata
from dataclasses import replace
from functools import cache

from ..engine.base_model import CONTROL, UNKNOWN, UNUSED, USER_DEFINED
from .rule_set import FamilySet, RuleSet, common_family, letter_name
from .scripts import SIBLINGS

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


# The paper's reference implementation leaves some of these blocks out.
_REFERENCE_BLOCKS = tuple(block for block in _IDEOGRAPH_BLOCKS if block[0] not in (0x3400, 0xF900, 0x323B0))

_CJ = ("CJK", "HIRAGANA", "KATAKANA")
# 々 〆 〻, 〱 to 〵, 〼, Bopomofo, and the iteration mark of old Chinese
_ALSO_CJ = ("IDEOGRAPHIC", "KANA REPEAT", "MASU MARK", "BOPOMOFO", "CHINESE")


def _paper_letter(character: str) -> str:
    is_letter = unicodedata.category(character)[0] == "L"
    return _family(unicodedata.name(character, ""), _CJ) if is_letter else "symbols"


def _letter(character: str) -> str:
    name = letter_name(character)
    return _family(name, _CJ + _ALSO_CJ) if name else "symbols"


def _family(name: str, cj: tuple[str, ...]) -> str:
    if any(word in name for word in cj):
        return "cj"
    return "latin" if "LATIN" in name else "lowres"


def _strongest(found: frozenset[str]) -> str:
    return max(found, key=_ORDER.index, default="symbols")


def _paper_fragment(n_bytes: int, code_points: range) -> str:
    return "cj" if n_bytes > 1 and _overlaps(code_points, _REFERENCE_BLOCKS) else "symbols"


@cache
def _fragment(n_bytes: int, code_points: range) -> str:
    if n_bytes > 1 and _overlaps(code_points, _IDEOGRAPH_BLOCKS):
        return "cj"
    return common_family(_letter, code_points, "symbols")


def _overlaps(code_points: range, blocks: tuple[tuple[int, int], ...]) -> bool:
    return any(code_points[0] <= last and first <= code_points[-1] for first, last in blocks)


def _of_script(family: str) -> str:
    return "cj" if family in SIBLINGS else family if family in ("latin", "symbols") else "lowres"


DEFAULT = RuleSet(_FAMILIES, _letter, _strongest, _fragment, UNKNOWN | CONTROL | USER_DEFINED | UNUSED, _of_script)
PAPER = RuleSet(
    replace(_FAMILIES, rules="paper"), _paper_letter, _strongest, _paper_fragment, UNKNOWN | CONTROL, _of_script
)
