"""Which family (script group) every token of a vocabulary, and every letter of a text, belongs to."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache

import numpy as np
import numpy.typing as npt

from ..engine.base_model import NORMAL, Vocab
from ..errors import GateError
from . import four_families, scripts
from .rule_set import FamilySet, RuleSet

_RULE_SETS = {rules.families.rules: rules for rules in (four_families.DEFAULT, four_families.PAPER, scripts.RULE_SET)}
RULES = tuple(_RULE_SETS)
DEFAULT_FAMILIES = four_families.DEFAULT.families

# Multiple-choice letters and the name of the assistant's turn, which the reference's plugin never masks.
_EXEMPT = frozenset([b"assistant", *(space + bytes([letter]) for space in (b"", b" ") for letter in b"ABCDEFG")])


def _rule_set(rules: str) -> RuleSet:
    if rules not in _RULE_SETS:
        raise GateError(f"`rules` is {rules!r}, expected one of {', '.join(RULES)}")
    return _RULE_SETS[rules]


def family_set(rules: str = "default", vocab: Vocab | None = None) -> FamilySet:
    """The families of a rule set; of `scripts` only those that a vocabulary holds, if it is given."""
    return _rule_set(rules).families if vocab is None else vocab_families(vocab, rules)[0]


def token_families(vocab: Vocab, rules: str = "default") -> npt.NDArray[np.uint8]:
    """The family of every token, uint8 (n_vocab,); the second result of `vocab_families`."""
    return vocab_families(vocab, rules)[1]


def vocab_families(vocab: Vocab, rules: str = "default") -> tuple[FamilySet, npt.NDArray[np.uint8]]:
    """Assigns every token to one family (paper section 3.1; the exemptions of decoding are not applied).

    A token of the four families is `cj` if it holds a letter named CJK, HIRAGANA or KATAKANA, else `latin` if it holds
    a LATIN letter, else `lowres` if it holds any letter, else `symbols`. Control tokens, and the token for unknown
    text, are `symbols`. A token that ends in the middle of a character is also `cj` if two of the character's bytes are
    there and it can become one of a CJK ideograph block.

    Args:
        vocab: The vocabulary.
        rules: `paper`, which is the above; `default`: user-defined and unused tokens are always `symbols` too (a gate
            must never mask `</think>`); letter-like symbols (µ º ℝ 𝑥 ʰ) are no letters, Bopomofo and marks such as 々
            are `cj`; and every unfinished character counts as a letter of a family if all letters it can become are of
            that family, and most of what it can become are letters or their marks: the lead byte D8 as `lowres`
            (Arabic), E5 as `cj`, C2 (« £ ° and µ) as `symbols`; or `scripts`: a family for each script that the
            vocabulary holds, and several for Han (see `gate/scripts.py`).

    Returns:
        The families, and uint8 (n_vocab,), indices into their names.

    Raises:
        GateError: `rules` names no rule set.
    """
    rule_set = _rule_set(rules)
    set_of, index_of = rule_set.sets, cache(rule_set.index_of)
    indices = np.empty(vocab.n_vocab, dtype=np.intp)
    for i, token in enumerate(vocab.tokens):
        found = 0
        # "ignore" drops what is no part of a complete character and keeps every complete one.
        for character in token.decode("utf-8", "ignore"):
            found |= set_of[character]
        if token and token[-1] >= 0x80:
            found |= rule_set.fragment_set(token)
        indices[i] = index_of(found)
    indices[vocab.types & np.uint32(rule_set.never_text) != 0] = rule_set.families.neutral
    names = rule_set.families.names
    families = rule_set.held(np.bincount(indices, minlength=len(names)).tolist())
    place = [families.names.index(rule_set.family_in(families, name)) for name in names]
    return families, np.array(place, dtype=np.uint8)[indices]


def text_families(text: str, families: FamilySet = DEFAULT_FAMILIES) -> set[str]:
    """Which families the letters of a text belong to; the neutral one is never among them."""
    return set(letter_counts(text, families))


def letter_counts(text: str, families: FamilySet = DEFAULT_FAMILIES) -> Counter[str]:
    """How many letters of a text belong to each family; the neutral one is never among them."""
    rule_set = _rule_set(families.rules)
    counts: Counter[str] = Counter()
    for found, n in Counter(map(rule_set.sets.__getitem__, text)).items():
        if found:
            counts[rule_set.family_in(families, rule_set.families.names[found.bit_length() - 1])] += n
    return counts


def families_of_scripts(scripts: Iterable[str], families: FamilySet) -> set[str]:
    """The families that have the letters of some families of the rule set `scripts`."""
    rule_set = _rule_set(families.rules)
    return {rule_set.family_in(families, rule_set.of_script(script)) for script in scripts}


def exempt_tokens(vocab: Vocab) -> tuple[int, ...]:
    """Ids, ascending, of the normal tokens that count as neutral while decoding (not while training); see `_EXEMPT`."""
    normal = (vocab.types & np.uint32(NORMAL) != 0).tolist()
    return tuple(i for i, token in enumerate(vocab.tokens) if token in _EXEMPT and normal[i])


def masked_as(vocab: Vocab, families: FamilySet, token_family: npt.NDArray[np.uint8]) -> dict[int, int]:
    """Tokens that go with a ban on another family than their own: token -> index of that family.

    These are white space and the beginning of a Han character, which may become one that only simplified Chinese has:
    `han`, for what they become is open, but removed with `hans`. Nothing is lost then: the white space can come alone,
    and behind it the character whole. Without the white space there would be no other way to write it.

    Args:
        vocab: The vocabulary.
        families: Its families. Only those of the rule set `scripts` have such tokens.
        token_family: uint8 (n_vocab,), the family of each token.
    """
    if not {"han", "hans"} <= set(families.names):
        return {}
    han, hans = map(families.names.index, ("han", "hans"))
    if not families.maskable[hans]:
        return {}
    rule_set = _rule_set(families.rules)
    return {
        int(token): hans
        for token in np.flatnonzero(token_family == han)
        if "hans" in rule_set.begun_behind_blanks(vocab.tokens[token])
    }


@dataclass(frozen=True)
class FamilyReport:
    """What `token_families` makes of a vocabulary."""

    n_vocab: int
    families: FamilySet
    counts: dict[str, int]  # family -> number of tokens
    examples: dict[str, tuple[str, ...]]  # family -> text of a few of its tokens, evenly spaced over the vocabulary
    n_fragments: int  # number of tokens whose bytes are not complete UTF-8
    fragment_counts: dict[str, int]  # family -> how many of those it holds

    @property
    def fragment_share(self) -> float:
        """Part of the vocabulary that is not complete UTF-8, 0 to 1."""
        return self.n_fragments / self.n_vocab if self.n_vocab else 0.0


def family_report(vocab: Vocab, rules: str = "default", n_examples: int = 5) -> FamilyReport:
    """Count the families of a vocabulary, with examples: normal tokens that are complete UTF-8."""
    families, family = vocab_families(vocab, rules)
    complete = np.fromiter(map(_is_complete, vocab.tokens), dtype=bool, count=vocab.n_vocab)
    shown = complete & (vocab.types & np.uint32(NORMAL) != 0)
    counts = np.bincount(family, minlength=len(families)).tolist()
    fragments = np.bincount(family[~complete], minlength=len(families)).tolist()
    examples: dict[str, tuple[str, ...]] = {}
    for f, name in enumerate(families.names):
        ids = np.flatnonzero(shown & (family == f))
        picked = ids[np.arange(min(n_examples, len(ids))) * len(ids) // max(min(n_examples, len(ids)), 1)]
        examples[name] = tuple(vocab.tokens[i].decode("utf-8") for i in picked)
    return FamilyReport(
        n_vocab=vocab.n_vocab,
        families=families,
        counts=dict(zip(families.names, counts)),
        examples=examples,
        n_fragments=int(np.count_nonzero(~complete)),
        fragment_counts=dict(zip(families.names, fragments)),
    )


def _is_complete(token: bytes) -> bool:
    try:
        token.decode("utf-8")
    except UnicodeDecodeError:
        return False
    return True
