"""Phases: parts of a reply that have options of their own."""

from __future__ import annotations

import difflib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Union

from .. import _core
from ..errors import GateError
from .marks import NAMED

if TYPE_CHECKING:
    from .options import GateOptions
    from .pin import Pins
    from .thresholds import Thresholds

Mark = Union[str, tuple[int, ...]]

PROMPT_END = _core.PROMPT_END  # tokens of a prompt among which the mark of a phase is looked for
_MAX_MARK = 256  # bytes or tokens


@dataclass(frozen=True)
class Phase:
    """A part of a reply that has options of its own, told by the marks around it.

    It begins behind its first mark and ends behind its second one. Marks are found in the text however tokens divide
    them; within a phase only the mark that ends it counts. Where a phase begins or ends, the gate forgets the language
    before: the family of the last language token starts anew. A phase is open from the start where the prompt ends in
    its first mark and white space, as chat templates do that begin a thought (unless both marks are the same).

    Example:
        >>> GateOptions(phases=(Phase("thinking", GateOptions(mode="observe")), Phase("code", GateOptions(mode="off"))))

    Attributes:
        marks: `thinking`, `code` (between fences) or `tool_calls`, for the marks that models use for them; or pairs of
            a mark that begins the phase and one that ends it, each a text (control tokens as they are written) or the
            ids of tokens. "" as the first begins the phase with the reply, as the second ends it with the reply.
        options: How the gate acts in the phase, pins included; nothing is taken from the options outside. `phases`,
            `n_events` and `eager` have no meaning here.
        leading: The first mark counts only where nothing but white space stands before it, at the start of the reply or
            behind another phase; always so with `thinking`.
    """

    marks: str | tuple[tuple[Mark, Mark], ...]
    options: GateOptions
    leading: bool = False

    def __post_init__(self) -> None:
        if isinstance(self.marks, str):
            if self.marks not in NAMED:
                near = difflib.get_close_matches(self.marks.lower(), NAMED) or NAMED
                raise GateError(f"`marks` is {self.marks!r}, expected {', '.join(near)}, or pairs of marks")
            object.__setattr__(self, "leading", self.leading or NAMED[self.marks][1])
        else:
            object.__setattr__(self, "marks", _checked(self.marks))

    @property
    def pairs(self) -> tuple[tuple[Mark, Mark], ...]:
        """The marks themselves."""
        return NAMED[self.marks][0] if isinstance(self.marks, str) else self.marks

    def core_phases(self, thresholds: Thresholds, pins: Pins) -> list[_core.Phase]:
        """As the core takes them, one for each pair."""
        conduct = self.options.core_conduct(thresholds, pins)
        return [_core.Phase(_core_mark(begin), _core_mark(end), self.leading, conduct) for begin, end in self.pairs]


def _checked(marks: object) -> tuple[tuple[Mark, Mark], ...]:
    if not isinstance(marks, (tuple, list)) or not marks:
        raise GateError(f"`marks` is {marks!r}, expected {', '.join(NAMED)}, or pairs of marks")
    pairs = []
    for pair in marks:
        if not isinstance(pair, (tuple, list)) or len(pair) != 2:
            raise GateError(f"`marks` holds {pair!r}, expected a pair: what begins the phase, and what ends it")
        begin, end = map(_checked_mark, pair)
        if not begin and not end:
            raise GateError(
                "`marks` holds a pair of nothing, expected a mark that begins the phase or one that ends it"
            )
        pairs.append((begin, end))
    return tuple(pairs)


def _checked_mark(mark: object) -> Mark:
    if isinstance(mark, str) and len(mark.encode("utf-8", "replace")) <= _MAX_MARK:
        return mark
    if isinstance(mark, (tuple, list)) and len(mark) <= _MAX_MARK:
        tokens = tuple(mark)
        if all(type(token) is int and 0 <= token < 1 << 31 for token in tokens):
            return tokens
    raise GateError(f"`marks` holds {mark!r}, expected a text or ids of tokens, at most {_MAX_MARK}")


def _core_mark(mark: Mark) -> bytes | list[int]:
    return mark.encode() if isinstance(mark, str) else list(mark)
