"""What long work prints: each line with the time since the start."""

from __future__ import annotations

import time

_START = time.monotonic()


def elapsed() -> float:
    """Seconds since the start."""
    return time.monotonic() - _START


def log(text: str) -> None:
    """Prints a line."""
    print(f"[{elapsed():6.0f} s] {text}", flush=True)
