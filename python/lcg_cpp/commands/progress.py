"""Long work: a line that says how far it is, and Ctrl-C that leaves whole files."""

from __future__ import annotations

import contextlib
import math
import signal
import sys
import time
from collections.abc import Callable, Iterator
from types import FrameType

PLAIN_SECONDS = 30.0  # between two lines where there is no terminal


@contextlib.contextmanager
def ask_to_stop(consequence: str) -> Iterator[Callable[[], bool]]:
    """The first Ctrl-C asks to stop, the second one ends the process.

    Args:
        consequence: What the user is told after the first.

    Yields:
        Whether it was asked.
    """
    asked = False

    def ask(number: int, frame: FrameType | None) -> None:
        nonlocal asked
        if asked:
            raise KeyboardInterrupt
        asked = True
        print(f"\nstopping: {consequence} (Ctrl-C again ends at once)", file=sys.stderr, flush=True)

    earlier = signal.signal(signal.SIGINT, ask)
    try:
        yield lambda: asked
    finally:
        signal.signal(signal.SIGINT, earlier)


@contextlib.contextmanager
def status_line() -> Iterator[Callable[[str], None]]:
    """A line on standard error that changes on a terminal; a line now and then elsewhere."""
    on_terminal = sys.stderr.isatty()
    shown = time.monotonic()

    def show(line: str) -> None:
        nonlocal shown
        if on_terminal:
            print(f"\r\x1b[K{line}", end="", file=sys.stderr, flush=True)
        elif time.monotonic() - shown >= PLAIN_SECONDS:
            print(line, file=sys.stderr, flush=True)
            shown = time.monotonic()

    try:
        yield show
    finally:
        if on_terminal:
            print("\r\x1b[K", end="", file=sys.stderr, flush=True)


def duration(seconds: float) -> str:
    """A time for people, "?" for NaN."""
    if math.isnan(seconds):
        return "?"
    if seconds < 100:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 120 else f"{minutes / 60:.1f} h"
