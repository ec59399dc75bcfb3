"""What a command raises when its input is at fault."""

from __future__ import annotations


class UsageError(Exception):
    """An option or a file is not what it must be. The message names it, says what was found and what to do."""


def one_line(text: str) -> str:
    """Text for one line of a terminal: line breaks and control characters become escapes.

    Messages quote what stands in files, and a file can hold anything.
    """
    return "".join(c if c.isprintable() else c.encode("unicode_escape", "backslashreplace").decode() for c in text)
