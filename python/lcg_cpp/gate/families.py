"""Which family (script group) every token of a vocabulary belongs to.

A letter is a character of Unicode's general category L*; its script is read off its Unicode name. Characters that the
running Python's Unicode database does not know yet are no letters.
"""

from __future__ import annotations

import unicodedata
from dataclasses import dataclass
from functools import cache

import numpy as np
import numpy.typing as npt

from ..engine.base_model import CONTROL, NORMAL, UNKNOWN, UNUSED, USER_DEFINED, Vocab
from ..errors import GateError

FAMILIES = ("cj", "latin", "symbols", "lowres")
MASKABLE = (True, True, False, False)
NEUTRAL = FAMILIES.index("symbols")
RULES = ("default", "paper")

# A token's family is its strongest letter's: what decides is the order cj > latin > lowres > no letter.
_NO_LETTER, _LOWRES, _LATIN, _CJ = range(4)
_FAMILY_OF_RANK = np.array([FAMILIES.index(name) for name in ("symbols", "lowres", "latin", "cj")], dtype=np.uint8)

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

# Multiple-choice letters and the name of the assistant's turn, which the reference's plugin never masks.
_EXEMPT = frozenset([b"assistant", *(space + bytes([letter]) for space in (b"", b" ") for letter in b"ABCDEFG")])


class _CharacterRanks(dict[str, int]):
    """Character -> rank, each looked up in the Unicode database once."""

    def __missing__(self, character: str) -> int:
        rank = self[character] = _character_rank(character)
        return rank


def _character_rank(character: str) -> int:
    if unicodedata.category(character)[0] != "L":
        return _NO_LETTER
    name = unicodedata.name(character, "")
    if "CJK" in name or "HIRAGANA" in name or "KATAKANA" in name:
        return _CJ
    return _LATIN if "LATIN" in name else _LOWRES


_character_ranks = _CharacterRanks()


def _completions(token: bytes) -> tuple[int, range] | None:
    """The unfinished character at the end of a token.

    Returns:
        How many of its bytes are there, and the code points it can become; None if the token ends in no such character
        (it is complete, or its last bytes cannot be the start of a character).
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


@cache
def _common_rank(code_points: range) -> int:
    """Rank of the letters among code points that are mostly letters (and their marks), if it is the same for all."""
    categories = [unicodedata.category(chr(code_point)) for code_point in code_points]
    ranks = {_character_rank(chr(c)) for c, category in zip(code_points, categories) if category[0] == "L"}
    n_script = sum(category[0] in "LM" for category in categories)
    n_possible = sum(category not in ("Cn", "Cs") for category in categories)  # assigned, and no surrogate
    return ranks.pop() if len(ranks) == 1 and 2 * n_script >= n_possible else _NO_LETTER


def _fragment_rank(token: bytes, rules: str) -> int:
    """Rank of the unfinished character at the end of a token; that of no letter where nothing can be known."""
    fragment = _completions(token)
    if fragment is None:
        return _NO_LETTER
    n_bytes, code_points = fragment
    if n_bytes > 1 and any(code_points[0] <= last and first <= code_points[-1] for first, last in _IDEOGRAPH_BLOCKS):
        return _CJ
    return _common_rank(code_points) if rules == "default" else _NO_LETTER


def token_families(vocab: Vocab, rules: str = "default") -> npt.NDArray[np.uint8]:
    """Assigns every token to one family (paper section 3.1; the exemptions of decoding are not applied).

    A token is `cj` if it holds a letter named CJK, HIRAGANA or KATAKANA, else `latin` if it holds a LATIN letter, else
    `lowres` if it holds any letter, else `symbols`. Control tokens, and the token for unknown text, are `symbols`. A
    token that ends in the middle of a character is also `cj` if two of the character's bytes are there and it can
    become one of a CJK ideograph block.

    Args:
        vocab: The vocabulary.
        rules: `paper`, which is the above, or `default`, in which user-defined and unused tokens are always `symbols`
            too (a gate must never mask `</think>`), and every unfinished character counts as a letter of a family if
            all letters it can become are of that family, and most of what it can become are letters or their marks:
            the lead byte D8 as `lowres` (Arabic), E5 as `cj`, C2 (« £ ° and µ) as `symbols`.

    Returns:
        uint8 (n_vocab,), indices into `FAMILIES`.

    Raises:
        GateError: `rules` names no rule set.
    """
    if rules not in RULES:
        raise GateError(f"`rules` is {rules!r}, expected one of {', '.join(RULES)}")
    rank_of = _character_ranks.__getitem__
    ranks = np.empty(vocab.n_vocab, dtype=np.uint8)
    for i, token in enumerate(vocab.tokens):
        # "ignore" drops what is no part of a complete character and keeps every complete one.
        rank = max(map(rank_of, token.decode("utf-8", "ignore")), default=_NO_LETTER)
        if rank != _CJ and token and token[-1] >= 0x80:
            rank = max(rank, _fragment_rank(token, rules))
        ranks[i] = rank
    never_text = UNKNOWN | CONTROL
    if rules == "default":
        never_text |= USER_DEFINED | UNUSED
    ranks[vocab.types & np.uint32(never_text) != 0] = _NO_LETTER
    return _FAMILY_OF_RANK[ranks]


def exempt_tokens(vocab: Vocab) -> tuple[int, ...]:
    """The tokens that count as `symbols` while decoding (not while training), as in the reference's plugin.

    Args:
        vocab: The vocabulary.

    Returns:
        The ids, ascending, of the normal tokens that are exactly `assistant`, `A` to `G` or ` A` to ` G`.
    """
    normal = (vocab.types & np.uint32(NORMAL) != 0).tolist()
    return tuple(i for i, token in enumerate(vocab.tokens) if token in _EXEMPT and normal[i])


def text_scripts(text: str) -> set[str]:
    """Which of `cj`, `latin` and `lowres` the letters of a text belong to."""
    ranks = set(map(_character_ranks.__getitem__, text)) - {_NO_LETTER}
    return {FAMILIES[_FAMILY_OF_RANK[rank]] for rank in ranks}


@dataclass(frozen=True)
class FamilyReport:
    """What `token_families` makes of a vocabulary.

    Attributes:
        n_vocab: Number of tokens.
        rules: The rule set.
        counts: Family -> number of tokens.
        examples: Family -> text of a few of its tokens, evenly spaced over the vocabulary.
        n_fragments: Number of tokens whose bytes are not complete UTF-8.
        fragment_counts: Family -> how many of those it holds.
    """

    n_vocab: int
    rules: str
    counts: dict[str, int]
    examples: dict[str, tuple[str, ...]]
    n_fragments: int
    fragment_counts: dict[str, int]

    @property
    def fragment_share(self) -> float:
        """Part of the vocabulary that is not complete UTF-8, 0 to 1."""
        return self.n_fragments / self.n_vocab if self.n_vocab else 0.0


def family_report(vocab: Vocab, rules: str = "default", n_examples: int = 5) -> FamilyReport:
    """Counts the families of a vocabulary, with examples.

    Args:
        vocab: The vocabulary.
        rules: `default` or `paper`.
        n_examples: Examples wanted for each family; only normal tokens that are complete UTF-8 are shown.

    Returns:
        The report.
    """
    families = token_families(vocab, rules)
    complete = np.fromiter(map(_is_complete, vocab.tokens), dtype=bool, count=vocab.n_vocab)
    shown = complete & (vocab.types & np.uint32(NORMAL) != 0)
    counts = np.bincount(families, minlength=len(FAMILIES)).tolist()
    fragments = np.bincount(families[~complete], minlength=len(FAMILIES)).tolist()
    examples: dict[str, tuple[str, ...]] = {}
    for family, name in enumerate(FAMILIES):
        ids = np.flatnonzero(shown & (families == family))
        picked = ids[np.arange(min(n_examples, len(ids))) * len(ids) // max(min(n_examples, len(ids)), 1)]
        examples[name] = tuple(vocab.tokens[i].decode("utf-8") for i in picked)
    return FamilyReport(
        n_vocab=vocab.n_vocab,
        rules=rules,
        counts=dict(zip(FAMILIES, counts)),
        examples=examples,
        n_fragments=int(np.count_nonzero(~complete)),
        fragment_counts=dict(zip(FAMILIES, fragments)),
    )


def _is_complete(token: bytes) -> bool:
    try:
        token.decode("utf-8")
    except UnicodeDecodeError:
        return False
    return True
