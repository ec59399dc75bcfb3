"""How a command ends that did not do what was asked."""

from __future__ import annotations

EXIT_USAGE = 2
EXIT_INTERRUPTED = 128 + 2  # as a shell reports SIGINT
EXIT_BROKEN_PIPE = 128 + 13  # and SIGPIPE


class UsageError(Exception):
    """An option or a file is not what it must be. The message names it, says what was found and what to do."""


def one_line(text: str) -> str:
    """Text for one line of a terminal: line breaks and control characters become escapes.

    Messages quote what stands in files, and a file can hold anything.
    """
    return "".join(c if c.isprintable() else c.encode("unicode_escape", "backslashreplace").decode() for c in text)
