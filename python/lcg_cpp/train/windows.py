"""Labels of families that every text of some language mixes: the seven of Chinese and Japanese.

- Whether the next token of a Chinese text is a shared or a simplified character is chance, and a gate that learns from
  single positions learns the chance: it bans right tokens. That both are plausible nearby is no chance.
- A model that finds Chinese likely in a Japanese text, or simplified Chinese in a traditional one, would teach its gate
  to allow that. The text itself shows which it is: what only others write is not plausible near a token of the text
  that only its own writers use. Near tokens of both the text mixes, and either may be plausible.
- Some families are rare: a simplified text seldom shows what it shares with traditional Chinese alone. But whoever may
  write simplified characters may write those, too.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from ..errors import GateError
from ..gate.scripts import IMPLIED, USES

_WRITERS = "stj"  # of simplified Chinese, traditional Chinese and Japanese, as in `scripts.USES`


def sibling_labels(
    labels: npt.NDArray[np.float32],
    own: npt.NDArray[np.intp],
    section: npt.NDArray[np.int64],
    names: Sequence[str],
    width: int,
) -> npt.NDArray[np.float32]:
    """Makes siblings plausible where one of them, or one that implies them, is plausible nearby in the text's language.

    Args:
        labels: float32 (n, n_families), of each position alone.
        own: intp (n,), family of the token that the text itself has there.
        section: int64 (n,), see `window_labels`.
        names: Of the families. Those without siblings keep their labels.
        width: How many positions to each side a window holds; 0 is the position alone.

    Returns:
        float32 (n, n_families).
    """
    siblings = [f for f, name in enumerate(names) if name in IMPLIED]
    if not siblings:
        return labels
    windowed = window_labels(labels, section, siblings, before=width, after=width)
    for f, is_written in zip(siblings, _written(own, section, [names[f] for f in siblings], names, width).T):
        windowed[~is_written, f] = 0
    closed = windowed.copy()
    for f in siblings:
        implying = [g for g in siblings if names[f] in IMPLIED[names[g]]]
        closed[:, f] = windowed[:, implying].max(1, initial=0)
    return closed


def _written(
    own: npt.NDArray[np.intp], section: npt.NDArray[np.int64], siblings: Sequence[str], names: Sequence[str], width: int
) -> npt.NDArray[np.bool_]:
    """Where a sibling is of a language that all of the text's own tokens nearby can be, bool (n, n_siblings)."""
    has = {name: [writer in USES.get(name, writer) for writer in _WRITERS] for name in names}
    lacks = np.array([has[name] for name in names]) == 0
    writers = range(len(_WRITERS))
    could_not = window_labels(lacks[own].astype(np.float32), section, writers, before=width, after=width) > 0
    could = ~could_not | could_not.all(1, keepdims=True)
    return np.stack([could[:, has[name]].any(1) for name in siblings], 1)


def sections(text: npt.NDArray[np.int64], is_reply: npt.NDArray[np.bool_]) -> npt.NDArray[np.int64]:
    """Numbers the prompts and replies that positions belong to.

    Args:
        text: int64 (n,), the number of each position's text; the positions of a text follow one another.
        is_reply: bool (n,), whether the position is in a reply of its text.

    Returns:
        int64 (n,): 0 from the first position on, one more at each change of text and between prompt and reply.
    """
    changes = (text[1:] != text[:-1]) | (is_reply[1:] != is_reply[:-1])
    return np.concatenate((np.zeros(min(len(text), 1), np.int64), np.cumsum(changes, dtype=np.int64)))


def window_labels(
    labels: npt.NDArray[np.float32],
    section: npt.NDArray[np.int64],
    families: Sequence[int],
    *,
    before: int = 12,
    after: int = 12,
) -> npt.NDArray[np.float32]:
    """Makes a family plausible at a position if it is plausible nearby in the same section.

    Args:
        labels: float32 (n, n_families), of positions in the order of the text.
        section: int64 (n,), never falling; a window ends where it changes, see `sections`.
        families: Indices of the families with windows; the labels of the others stay.
        before: How many earlier positions a window holds.
        after: How many later ones.

    Returns:
        float32 (n, n_families): for each of `families`, the largest label in the window; soft labels then sum to more
        than 1.

    Raises:
        GateError: `section` has another length or falls, or a width is negative.
    """
    if section.shape != labels.shape[:1]:
        raise GateError(f"`section` has shape {section.shape}, expected {labels.shape[:1]}")
    if np.any(section[1:] < section[:-1]):
        raise GateError("`section` falls, expected the sections in order")
    if before < 0 or after < 0:
        raise GateError(f"`before` and `after` are {before} and {after}, expected 0 or more positions")
    columns = list(families)
    own = labels[:, columns]
    found = own.copy()
    for distance in range(1, min(max(before, after), len(labels) - 1) + 1):
        same = (section[distance:] == section[:-distance])[:, None]
        if distance <= before:
            np.maximum(found[distance:], own[:-distance], out=found[distance:], where=same)
        if distance <= after:
            np.maximum(found[:-distance], own[distance:], out=found[:-distance], where=same)
    windowed = labels.copy()
    windowed[:, columns] = found
    return windowed
