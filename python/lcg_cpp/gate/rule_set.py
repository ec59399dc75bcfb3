"""What a rule set is: the families it has, and how characters and pieces of characters get theirs."""

from __future__ import annotations

import unicodedata
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property

from ..errors import GateError

MAX_FAMILIES = 127

# Characters of category L that say nothing of a text's script: units, numbers, transcription, mathematics. Together
# with the superscripts, subscripts and modifier letters of `letter_name` they are all letters that Unicode gives no
# script (Script=Common), but for those that one script uses: tatweel, marks of kana, Vedic and Javanese signs.
_LETTER_LIKE = (
    (0x00B5, 0x00B5),  # µ, micro
    (0x02B0, 0x02FF),  # Spacing Modifier Letters: ʰ ʼ ˈ ː
    (0x0374, 0x0374),  # the Greek numeral sign, ʹ
    (0x2100, 0x214F),  # Letterlike Symbols: ℃ ℓ ℝ Ω Å
    (0x2E2F, 0x2E2F),  # vertical tilde
    (0x1D400, 0x1D7FF),  # Mathematical Alphanumeric Symbols: 𝑥 𝛼
    (0x1EE00, 0x1EEFF),  # Arabic Mathematical Alphabetic Symbols
)


@dataclass(frozen=True)
class FamilySet:
    """The families of a gate, in the order of its outputs."""

    names: tuple[str, ...]  # every name once; 2 to 127
    maskable: tuple[bool, ...]  # for each family, whether its tokens may be removed
    neutral: int  # index of the family that is no language; it is never maskable
    rules: str  # the rule set that gave the tokens their families

    def __post_init__(self) -> None:
        n = len(self.names)
        if not self.rules:
            raise GateError("`rules` is empty")
        if not 2 <= n <= MAX_FAMILIES:
            raise GateError(f"number of `families` is {n}, expected 2 to {MAX_FAMILIES}")
        if len(set(self.names)) != n:
            raise GateError(f"`families` are {self.names}, expected every name once")
        if len(self.maskable) != n:
            raise GateError(f"`maskable` has {len(self.maskable)} elements, expected {n}, one for each family")
        if not 0 <= self.neutral < n:
            raise GateError(f"`neutral` is {self.neutral}, expected 0 to {n - 1}")
        if self.maskable[self.neutral]:
            raise GateError(f"`maskable` is true for the neutral family `{self.names[self.neutral]}`")

    def __len__(self) -> int:
        return len(self.names)

    def subset(self, names: Sequence[str]) -> FamilySet:
        """Some of the families, the neutral one among them, in the order given."""
        maskable = dict(zip(self.names, self.maskable))
        neutral = names.index(self.names[self.neutral])
        return FamilySet(tuple(names), tuple(maskable[name] for name in names), neutral, self.rules)

    def unmaskable(self, names: Collection[str]) -> FamilySet:
        """The same families, some of which are never removed."""
        maskable = tuple(may and name not in names for name, may in zip(self.names, self.maskable))
        return replace(self, maskable=maskable)

    @property
    def languages(self) -> dict[int, str]:
        """Index -> name of every family but the neutral one."""
        return {f: name for f, name in enumerate(self.names) if f != self.neutral}


@dataclass(frozen=True, eq=False)
class RuleSet:
    """How the tokens of a vocabulary get their families."""

    families: FamilySet
    letter: Callable[[str], str]  # character -> name of its family; the neutral one's for what is no letter
    # names of the families that a token's letters belong to -> name of the token's
    strongest: Callable[[frozenset[str]], str]
    # name of the family that an unfinished character counts as: takes how many of its bytes are there, and the code
    # points it can become
    fragment: Callable[[int, range], str]
    never_text: int  # type bits of tokens that are neutral whatever their text is
    of_script: Callable[[str], str]  # family of the rule set `scripts` -> name of the family that has its letters
    # name -> name of the later family that takes its tokens in a vocabulary that has fewer than `min_tokens`
    joins: Mapping[str, str] = field(default_factory=dict)
    min_tokens: int = 0  # how many tokens a family in `joins` must have to stand alone

    @cached_property
    def sets(self) -> _Sets:
        """Character -> the set of its family."""
        return _Sets(self)

    def fragment_set(self, token: bytes) -> int:
        """The set of the family that the unfinished character at the end of a token counts as."""
        found = _completions(token)
        return 0 if found is None else self.set_of(self.fragment(*found))

    def begun_behind_blanks(self, token: bytes) -> set[str]:
        """The families of what a token becomes that is white space and the beginning of a character; else none."""
        begun = token.lstrip(b" \t\r\n")
        found = _completions(begun)
        if found is None or begun == token or found[0] < len(begun):
            return set()
        return {self.letter(chr(code_point)) for code_point in found[1]}

    def set_of(self, name: str) -> int:
        """A family as a set: the bit of its index, none for the neutral one."""
        index = self.families.names.index(name)
        return 0 if index == self.families.neutral else 1 << index

    def index_of(self, found: int) -> int:
        """Index of the family of a token whose letters belong to a set of families."""
        names = self.families.names
        return names.index(self.strongest(frozenset(name for f, name in enumerate(names) if found >> f & 1)))

    def held(self, counts: Sequence[int]) -> FamilySet:
        """The families that stand alone in a vocabulary with so many tokens of each."""
        names, total = list(self.families.names), dict(zip(self.families.names, counts))
        for name, other in self.joins.items():
            if total[name] < self.min_tokens:
                names.remove(name)
                total[other] += total[name]
        return self.families.subset(names)

    def family_in(self, families: FamilySet, name: str) -> str:
        """The one of a vocabulary's families that holds a family."""
        while name not in families.names:
            name = self.joins[name]
        return name


class _Sets(dict[str, int]):
    """Each character looked up once."""

    def __init__(self, rules: RuleSet) -> None:
        self._rules = rules

    def __missing__(self, character: str) -> int:
        found = self[character] = self._rules.set_of(self._rules.letter(character))
        return found


def _completions(token: bytes) -> tuple[int, range] | None:
    """Of the unfinished character at the end of a token, how many bytes are there and the code points it can become.

    None if the token ends in no such character (it is complete, or its last bytes cannot be the start of a character).
    """
    for n_bytes in (1, 2, 3):
        lead = token[-n_bytes] if n_bytes <= len(token) else 0
        if lead < 0x80:
            return None
        if lead >= 0xC0:
            break
    else:
        return None
    # RFC 3629: C0, C1 and F5.. start nothing; the ranges below leave out overlong forms and what is beyond U+10FFFF.
    if 0xC2 <= lead <= 0xDF:
        length, bits = 2, lead & 0x1F
    elif 0xE0 <= lead <= 0xEF:
        length, bits = 3, lead & 0x0F
    elif 0xF0 <= lead <= 0xF4:
        length, bits = 4, lead & 0x07
    else:
        return None
    if n_bytes >= length:
        return None
    for byte in token[len(token) - n_bytes + 1 :]:
        bits = bits << 6 | byte & 0x3F
    missing = 6 * (length - n_bytes)
    first = max(bits << missing, (0x80, 0x800, 0x10000)[length - 2])
    last = min(((bits + 1) << missing) - 1, 0x10FFFF)
    return (n_bytes, range(first, last + 1)) if first <= last else None


def letter_name(character: str) -> str:
    """The Unicode name of a letter; empty for everything else, letter-like symbols (µ º ℝ 𝑥 ʰ ⁿ) included."""
    if unicodedata.category(character)[0] != "L":
        return ""
    name = unicodedata.name(character, "")
    kind = unicodedata.decomposition(character).partition(" ")[0]
    if kind in ("<super>", "<sub>") or name.startswith("MODIFIER LETTER"):
        return ""
    return "" if any(first <= ord(character) <= last for first, last in _LETTER_LIKE) else name


def common_family(letter: Callable[[str], str], code_points: range, neutral: str) -> str:
    """The family of all letters among some code points, if they share one and most code points are letters or marks.

    The neutral family where none is sure.
    """
    characters = [c for c in map(chr, code_points) if unicodedata.category(c) not in ("Cn", "Cs")]  # assigned
    families = [letter(character) for character in characters]
    n_script = sum(f != neutral or unicodedata.category(c)[0] == "M" for f, c in zip(families, characters))
    found = set(families) - {neutral}
    return found.pop() if len(found) == 1 and 2 * n_script >= len(characters) else neutral
