"""The pin: which scripts may come out, with or without a gate.

A pin is about letters, as the rule set `scripts` knows them: a token may come if all its letters may. It holds at every
step, the first included, and acts on the logits before anything truncates. Bytes are followed from token to token
(csrc/pin.cpp), so that no character is built of pieces that could not come whole, and none stays unfinished.
"""

from __future__ import annotations

import functools

import numpy as np

from .. import _core
from ..engine.base_model import CONTROL, UNKNOWN, UNUSED, USER_DEFINED, Vocab
from ..errors import GateError
from .families import exempt_tokens
from .scripts import GROUPS, RULE_SET, character_families, families_named, nearest_names

_FAMILIES = RULE_SET.families
_NEUTRAL = _FAMILIES.names[_FAMILIES.neutral]

# The tokens that a gate exempts while decoding: letters of multiple choice, and `assistant`. A pin does so only where
# `allow` names them: a model that may write nothing else of Latin makes words of them.
CHOICES = "choices"


def check_scripts(field: str, names: object) -> tuple[str, ...]:
    """The names of scripts in a field of the options.

    Args:
        field: Its name.
        names: Its value: families of the rule set `scripts`, or `scripts.GROUPS`.

    Raises:
        GateError: It is no tuple of known names, or denies what is no letter.
    """
    if isinstance(names, str) or not isinstance(names, (tuple, list)):
        raise GateError(f"`{field}` is {names!r}, expected a tuple of scripts")
    known = sorted({*_FAMILIES.names, *GROUPS, *((CHOICES,) if field == "allow" else ())})
    for name in names:
        if name not in known:
            raise GateError(f"`{field}` names {name!r}, expected {nearest_names(name, known)}")
        if field == "deny" and name == _NEUTRAL:
            raise GateError(f"`deny` names {name!r}, expected a script: digits, signs and control tokens always stay")
    return tuple(names)


def denied_families(allow: tuple[str, ...], deny: tuple[str, ...]) -> frozenset[str]:
    """The families that must not come out: those outside `allow` unless it is empty, and those in `deny`."""
    languages = frozenset(_FAMILIES.languages.values())
    return (languages - families_named(allow) if allow else frozenset()) | families_named(deny)


class Pins:
    """Makes the pins of one model, and knows what its tokens write."""

    def __init__(self, vocab: Vocab) -> None:
        """Take the tokens of a model. Control and added tokens will never be pinned away."""
        self._vocab = vocab

    @functools.cached_property
    def texts(self) -> _core.TokenTexts:
        """What the tokens write, as the core takes it."""
        lengths = np.fromiter(map(len, self._vocab.tokens), np.int64, self._vocab.n_vocab)
        offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
        return _core.TokenTexts(b"".join(self._vocab.tokens), offsets)

    @functools.cached_property
    def _choices(self) -> list[int]:
        return list(exempt_tokens(self._vocab))

    @functools.cached_property
    def _table(self) -> _core.LetterTable:
        no_text = self._vocab.types & np.uint32(CONTROL | UNKNOWN | USER_DEFINED | UNUSED) != 0
        return _core.LetterTable(character_families(), _FAMILIES.neutral, self.texts, no_text.astype(np.uint8))

    def pin(self, allow: tuple[str, ...], deny: tuple[str, ...]) -> _core.Pin | None:
        """The pin of some options; None if every script may come."""
        denied = [_FAMILIES.names.index(name) for name in sorted(denied_families(allow, deny))]
        return _core.Pin(self._table, denied, self._choices if CHOICES in allow else []) if denied else None
