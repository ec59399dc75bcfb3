"""The one exception type of the package."""

from __future__ import annotations


class GateError(ValueError):
    """Something about a gate, a checkpoint or a base model is not what it must be.

    The message names the subject, the value found and the value wanted; messages about a file start with its path.
    Failures of the operating system (a missing file, a full disk) stay `OSError`.
    """


def first_line(error: Exception) -> str:
    """What somebody else's program said when it failed, in one line."""
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__
