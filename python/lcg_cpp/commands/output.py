"""How commands print: JSON, facts and tables; colour and boxes only on a terminal."""

from __future__ import annotations

import json
import math
import os
import sys
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from .errors import one_line

if TYPE_CHECKING:
    from rich.console import Console


def styled() -> bool:
    """Whether standard output is a terminal that wants colour."""
    return sys.stdout.isatty() and "NO_COLOR" not in os.environ and os.environ.get("TERM") != "dumb"


def console() -> Console:
    """A console on standard output that prints text as it is."""
    from rich.console import Console  # noqa: PLC0415 (for terminals only)

    return Console(highlight=False, markup=False, emoji=False, soft_wrap=True)


def print_json(value: Mapping[str, Any]) -> None:
    """Print one JSON object; numbers that JSON cannot write become null."""
    print(json.dumps(_finite(value), ensure_ascii=False, indent=2, allow_nan=False))


def _finite(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(item) for item in value]
    if isinstance(value, float):
        return short(value) if math.isfinite(value) else None
    return value


def short(value: float) -> float:
    """The shortest decimal of a float32 (0.999 for 0.9990000128746033); other floats as they are."""
    with np.errstate(over="ignore"):
        narrow = np.float32(value)
    return float(str(narrow)) if float(narrow) == value else value


def print_heading(text: str) -> None:
    """Print a line that stands out on a terminal."""
    if styled():
        console().print(one_line(text), style="bold")
    else:
        print(one_line(text))


def print_facts(facts: Sequence[tuple[str, str]]) -> None:
    """Print names and values in two columns."""
    width = max((len(name) for name, _ in facts), default=0)
    for name, value in facts:
        label = f"  {name:<{width}}  "
        if styled():
            console().print(label, style="cyan", end="")
            console().print(one_line(value))
        else:
            print(label + one_line(value))


def print_table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print a table; headings that begin with ">" are of columns that are flush right.

    Wide characters belong into the last column, where they cannot shift others.
    """
    right = [name.startswith(">") for name in columns]
    lines = [[name.lstrip(">") for name in columns], *([one_line(cell) for cell in row] for row in rows)]
    widths = [max(len(line[i]) for line in lines) for i in range(len(columns))]
    for number, line in enumerate(lines):
        cells = [cell.rjust(width) if flush else cell.ljust(width) for cell, width, flush in zip(line, widths, right)]
        text = "  " + "  ".join(cells).rstrip()
        if number == 0 and styled():
            console().print(text, style="bold")
        else:
            print(text)


def quantity(n_bytes: int) -> str:
    """A file size for people."""
    if n_bytes < 1000:
        return f"{n_bytes} bytes"
    for unit, size in (("kB", 1e3), ("MB", 1e6)):
        if n_bytes < size * 1000:
            return f"{n_bytes / size:.1f} {unit}"
    return f"{n_bytes / 1e9:.2f} GB"
