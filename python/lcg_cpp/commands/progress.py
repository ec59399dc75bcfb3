"""Long work: a line that says how far it is, and Ctrl-C that leaves whole files."""

from __future__ import annotations

import contextlib
import math
import shutil
import signal
import sys
import time
from collections.abc import Callable, Iterator
from types import FrameType

from .errors import one_line

PLAIN_SECONDS = 30.0  # between two lines where there is no terminal


@contextlib.contextmanager
def stop_at_ctrl_c(on_first: Callable[[], None] = lambda: None) -> Iterator[Callable[[], bool]]:
    """The first Ctrl-C asks to stop, the second raises KeyboardInterrupt."""
    asked = False

    def ask(number: int, frame: FrameType | None) -> None:
        nonlocal asked
        if asked:
            raise KeyboardInterrupt
        asked = True
        on_first()

    earlier = signal.signal(signal.SIGINT, ask)
    try:
        yield lambda: asked
    finally:
        signal.signal(signal.SIGINT, earlier)


def ask_to_stop(consequence: str, line: StatusLines) -> contextlib.AbstractContextManager[Callable[[], bool]]:
    """The same where the second Ctrl-C ends the process, and the first tells the consequence of stopping."""
    return stop_at_ctrl_c(lambda: line.tell(f"stopping: {consequence} (Ctrl-C again ends at once)"))


class StatusLines:
    """A line or more on standard error that change on a terminal; elsewhere one line now and then."""

    def __init__(self, *, at_once: bool = False, opening: str = "") -> None:
        """`at_once` shows the first status without a terminal too; `opening` stands on one before it."""
        self._on_terminal = sys.stderr.isatty()
        self._opening = opening
        self._n_shown = 0
        self._next = time.monotonic() + (0.0 if at_once else PLAIN_SECONDS)

    def __enter__(self) -> StatusLines:
        if self._on_terminal and self._opening:
            self.show(self._opening)
        return self

    def __exit__(self, *error: object) -> None:
        self.clear()

    def show(self, *lines: str, last: bool = False) -> None:
        """Show how far the work is, in place of the lines before; the `last` ones in any case."""
        if self._on_terminal:
            self.clear()
            width = shutil.get_terminal_size().columns  # a line that wraps could not be erased
            print("\n".join(line[:width] for line in lines), end="", file=sys.stderr, flush=True)
            self._n_shown = len(lines)
        elif last or time.monotonic() >= self._next:
            print("  ".join(lines), file=sys.stderr, flush=True)
            self._next = time.monotonic() + PLAIN_SECONDS

    def tell(self, text: str) -> None:
        """Show a notice that stays."""
        self.clear()
        tell(text)

    def clear(self) -> None:
        """Take the lines off the terminal."""
        if self._n_shown:
            print("\r\x1b[K" + "\x1b[1A\x1b[K" * (self._n_shown - 1), end="", file=sys.stderr, flush=True)
            self._n_shown = 0


def tell(text: str) -> None:
    """Print a notice on standard error, in one line."""
    print(one_line(text), file=sys.stderr, flush=True)


def duration(seconds: float) -> str:
    """A time for people, "?" for NaN."""
    if math.isnan(seconds):
        return "?"
    if seconds < 100:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 120 else f"{minutes / 60:.1f} h"
