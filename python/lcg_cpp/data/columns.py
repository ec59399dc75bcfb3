"""Rows of files, by their columns: read one by one, the unusable ones counted and left out."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Protocol, TypeVar

from ..errors import GateError
from .files import Found
from .rows import BadRow, text_of

Row = Mapping[str, Any]
Item = TypeVar("Item")

_MAX_BAD_SHOWN = 5


class RowSource(Protocol):
    """A file that is read once; `files.RowFile` is one."""

    def scan(self) -> Iterator[Found]:
        """All rows, in order."""


class Rows:
    """The rows of some files.

    Attributes:
        name: What to call them.
        n_bad: Rows that could not be used, of those read so far.
        bad: What is wrong with the first of them: "FILE:LINE: reason".
    """

    def __init__(self, name: str, files: Sequence[RowSource]) -> None:
        self.n_bad = 0
        self.bad: list[str] = []
        self.name = name
        self._files = files

    def read(self, convert: Callable[[Row, int], Item | None]) -> Iterator[Item]:
        """What `convert` makes of each row and its number, counted from 1 through all files, in order.

        None is a row that is not wanted. A BadRow, or a GateError of what it makes, is a row that cannot be used.
        """
        number = 0
        for file in self._files:
            for found in file.scan():
                number += 1
                try:
                    item = convert(_columns(found.row), number)
                except (BadRow, GateError) as reason:
                    self.n_bad += 1
                    if len(self.bad) < _MAX_BAD_SHOWN:
                        self.bad.append(f"{found.where}: {reason}")
                else:
                    if item is not None:
                        yield item

    def check(self, n_found: int, wanted: str) -> None:
        """Refuse files that gave nothing of what is wanted."""
        if n_found:
            return
        if self.bad:
            raise GateError(f"{self.bad[0]}; none of {self.n_bad} rows can be used, expected {wanted}")
        raise GateError(f"{self.name}: holds none, expected {wanted}")


def _columns(row: object) -> Row:
    """The columns of a row that are not null."""
    if isinstance(row, BadRow):
        raise row
    if not isinstance(row, Mapping):
        raise BadRow("is not an object with named columns")
    return {name: value for name, value in row.items() if value is not None}


def text(row: Row, column: str) -> str:
    """A column that must hold text that is not blank."""
    if column not in row:
        raise BadRow(f"has no `{column}`")
    return text_of(row[column], f"`{column}`")


def optional_text(row: Row, column: str) -> str:
    """A column that may be missing or empty."""
    return text(row, column) if row.get(column, "") != "" else ""


def texts(row: Row, column: str) -> tuple[str, ...]:
    """A column that holds a list of texts (of white space, too), or is missing."""
    value = row.get(column, [])
    if not isinstance(value, (list, tuple)):
        raise BadRow(f"`{column}` is {value!r}, expected a list of texts")
    return tuple(item if isinstance(item, str) and item.isspace() else text_of(item, f"`{column}`") for item in value)


def text_lists(row: Row, column: str) -> tuple[tuple[str, ...], ...]:
    """A column that holds a list of lists of texts, or is missing."""
    value = row.get(column, [])
    if not isinstance(value, (list, tuple)):
        raise BadRow(f"`{column}` is {value!r}, expected a list of lists of texts")
    return tuple(texts({column: item}, column) for item in value)
