"""Labels that agree with the text: the scripts that a clean text itself is written in.

A model that slips finds wrong scripts likely on clean text too, above all where a reply begins: asked in Georgian, a
model that hardly speaks Georgian would rather answer in English. Labels made of its likely tokens alone teach a gate to
allow that. The text shows what is right: only what it writes somewhere in the same prompt or reply is, and what it goes
on with always is, whether the model finds it likely or not.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from ..errors import GateError


def written_labels(
    labels: npt.NDArray[np.float32],
    own: npt.NDArray[np.intp],
    section: npt.NDArray[np.int64],
    decided: npt.NDArray[np.bool_],
    *,
    with_own: bool = True,
) -> npt.NDArray[np.float32]:
    """Takes families that the text does not write out of labels, and puts that of its own next token in.

    Args:
        labels: float32 (n, n_families), of each position alone.
        own: intp (n,), family of the token that the text itself has there.
        section: int64 (n,), never falling: the prompt or reply, see `windows.sections`.
        decided: bool (n_families,), the families that the text decides on; the others stay in where they are.
        with_own: Put the next token's family in.

    Returns:
        float32 (n, n_families).

    Raises:
        GateError: `section` falls.
    """
    if np.any(section[1:] < section[:-1]):
        raise GateError("`section` falls, expected the sections in order")
    number = np.cumsum(np.diff(section, prepend=section[:1]) > 0)
    written = np.zeros((len(labels), labels.shape[1]), np.bool_)  # at most as many sections as positions
    written[number, own] = True
    found = np.where(written[number] | ~decided, labels, np.float32(0))
    if with_own:
        found[np.arange(len(own)), own] = 1
    return found
