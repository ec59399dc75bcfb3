"""Tables in Markdown."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

_FEW = 10  # times less, below which a decimal is told


def table(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table; a name stands in the first column, numbers in the others."""
    lines = ["| " + " | ".join(heads) + " |", "|---" + "|--:" * (len(heads) - 1) + "|"]
    return "\n".join([*lines, *("| " + " | ".join(row) + " |" for row in rows)])


def cell(estimate: Mapping[str, float] | None, digits: int = 1) -> str:
    """A value and its 95 % interval."""
    if estimate is None:
        return ""
    value, low, high = (f"{estimate[end]:.{digits}f}" for end in ("value", "low", "high"))
    return f"{value} ({low}–{high})"


def change(difference: Mapping[str, float] | None) -> str:
    """A difference and its 95 % interval."""
    if difference is None:
        return ""
    value, low, high = (round(difference[end], 1) + 0.0 for end in ("difference", "low", "high"))  # no -0.0
    return f"{value:+.1f} ({low:+.1f} to {high:+.1f})"


def times(ratio: Mapping[str, float | None] | None) -> str:
    """How many times less, from a share by the baseline's."""

    def inverse(share: float | None) -> str:
        return "0" if share is None else "∞" if not share else f"{1 / share:{'.2g' if 1 / share < _FEW else '.0f'}}"

    return "" if ratio is None else f"{inverse(ratio['value'])} ({inverse(ratio['high'])}–{inverse(ratio['low'])})"
