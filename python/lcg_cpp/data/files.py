"""Files of rows: JSON lines, JSON arrays, Parquet files and Hugging Face datasets, row by row and by position."""

from __future__ import annotations

import json
import logging
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from ..errors import GateError, first_line
from ..files import require_regular
from .rows import BadRow

HUB = "hf:"
_TEXT = (".jsonl", ".ndjson", ".json")
_SUFFIXES = (*_TEXT, ".parquet")
_NO_ROWS = ("dataset_info.json", "dataset_infos.json")  # what `datasets` writes beside its files
_BYTE_ORDER_MARK = b"\xef\xbb\xbf"
_SPACES = re.compile(r"\s*")


class Found(NamedTuple):
    """A row that was met while reading a file from its start.

    Attributes:
        where: "FILE:LINE", or the number of the row in a table.
        key: Where `RowFile.read` finds it again.
        row: What it holds, or why it cannot be read.
    """

    where: str
    key: tuple[int, int]
    row: object


class RowFile(Protocol):
    """A file of rows, or a dataset of the hub.

    Attributes:
        name: What to call it.
    """

    name: str

    def scan(self) -> Iterator[Found]:
        """All rows, in order."""

    def read(self, key: tuple[int, int]) -> object:
        """One row; a `BadRow` if the file changed and the row is gone."""


class TextFile:
    """A JSON array of rows, or JSON lines: one object a line. A key is where the row's bytes begin and end."""

    def __init__(self, path: Path) -> None:
        self.name = str(path)
        self._path = path

    def scan(self) -> Iterator[Found]:
        """All rows, in order; blank lines are skipped."""
        with self._path.open("rb") as file:
            start = file.read(256)
            begin = len(_BYTE_ORDER_MARK) if start.startswith(_BYTE_ORDER_MARK) else 0
            if start[begin:].lstrip().startswith(b"["):
                file.seek(begin)
                yield from self._scan_array(file.read(), begin)
                return
            file.seek(begin)
            for number, line in enumerate(file, 1):
                if line.strip():
                    yield Found(f"{self.name}:{number}", (begin, begin + len(line)), _parse(line))
                begin += len(line)

    def _scan_array(self, data: bytes, begin: int) -> Iterator[Found]:
        try:
            text = data.decode()
        except UnicodeDecodeError as error:
            yield Found(self.name, (0, 0), BadRow(f"is not UTF-8 (byte {begin + error.start})"))
            return
        decoder, line, done, at = json.JSONDecoder(), 1, 0, text.index("[") + 1

        def advance(to: int) -> None:
            nonlocal begin, line, done
            begin += len(text[done:to].encode())
            line += text.count("\n", done, to)
            done = to

        at = _skip_spaces(text, at)
        while not text.startswith("]", at):
            advance(at)
            where = f"{self.name}:{line}"
            try:
                row, end = decoder.raw_decode(text, at)
            except (ValueError, RecursionError) as error:
                yield Found(where, (0, 0), BadRow(f"is not JSON: {_reason(error)}; what follows is not read"))
                return
            first = begin
            advance(end)
            yield Found(where, (first, begin), row)
            at = _skip_spaces(text, end)
            if text.startswith(",", at):
                at = _skip_spaces(text, at + 1)
            elif not text.startswith("]", at):
                advance(at)
                yield Found(f"{self.name}:{line}", (0, 0), BadRow("is not JSON: the array has no end here"))
                return

    def read(self, key: tuple[int, int]) -> object:
        """One row."""
        begin, end = key
        with self._path.open("rb") as file:
            file.seek(begin)
            return _parse(file.read(end - begin))


class Table:
    """A dataset of Hugging Face's `datasets`, which keeps it on disk. A key is the number of the row."""

    def __init__(self, name: str, rows: Any) -> None:
        """`rows` is a `datasets.Dataset`."""
        self.name = name
        self._rows = rows

    def scan(self) -> Iterator[Found]:
        """All rows, in order."""
        for number, row in enumerate(self._rows):
            yield Found(f"{self.name}:{number + 1}", (number, 0), row)

    def read(self, key: tuple[int, int]) -> object:
        """One row."""
        row: object = self._rows[key[0]]
        return row


def open_files(name: str, split: str = "") -> list[RowFile]:
    """Open what a name stands for.

    Args:
        name: A .jsonl, .json or .parquet file, a folder with such files (those below it too), or
            `hf:NAME[:CONFIG][:SPLIT]` for a dataset of Hugging Face's hub, where the split is `train` if not given.
        split: Which part is wanted: the split where `name` gives none, and of a folder only the files with this word
            in their path, if there are any.

    Raises:
        GateError: The name stands for none of these, or the package that reads it is missing.
        OSError: A file cannot be read.
    """
    if name.startswith(HUB):
        return [_open_hub(name, split or "train")]
    path = Path(name)
    if path.is_dir():
        return [_open_file(file) for file in _files_in(path, split)]
    if path.suffix.lower() not in _SUFFIXES:
        wanted = f"a {', '.join(_SUFFIXES)} file, a folder with such files, or {HUB}NAME for one of Hugging Face's"
        raise GateError(f"{name}: {'has another suffix' if path.exists() else 'does not exist'}, expected {wanted}")
    return [_open_file(path)]


def _files_in(folder: Path, split: str) -> list[Path]:
    inside = [(file, file.relative_to(folder)) for file in sorted(folder.rglob("*")) if file.is_file()]
    files = [
        (file, below)
        for file, below in inside
        if below.suffix.lower() in _SUFFIXES
        and below.name not in _NO_ROWS
        and not any(part.startswith(".") for part in below.parts)
    ]
    if not files:
        raise GateError(f"{folder}: holds no rows, expected {', '.join(_SUFFIXES)} files")
    of_split = [file for file, below in files if split in re.findall(r"[a-z0-9]+", below.as_posix().lower())]
    return of_split or [file for file, _ in files]


def _open_file(path: Path) -> RowFile:
    require_regular(path)  # rows are found again by their place in it
    if path.suffix.lower() in _TEXT:
        return TextFile(path)
    return Table(str(path), _load(str(path), "parquet", data_files=str(path), split="train"))


def _open_hub(name: str, default_split: str) -> RowFile:
    parts = name[len(HUB) :].split(":")
    if len(parts) > 3 or not parts[0]:
        raise GateError(f"{name}: expected {HUB}NAME, {HUB}NAME:CONFIG or {HUB}NAME:CONFIG:SPLIT")
    dataset, config, split = (*parts, "", "")[:3]
    return Table(name, _load(name, dataset, config or None, split=split or default_split))


def _load(name: str, *what: str | None, **how: str) -> Any:
    """`datasets.load_dataset`, whose refusals become one line."""
    try:
        import datasets  # noqa: PLC0415 (optional, and slow to import)
    except ImportError as error:
        raise GateError(f'{name}: reading it needs `datasets`: pip install "lcg-cpp[data]"') from error
    if not sys.stderr.isatty():
        datasets.disable_progress_bars()
    logging.getLogger("datasets").setLevel(logging.CRITICAL)  # its errors are raised too, and told by us
    try:
        return datasets.load_dataset(*what, **how)
    except Exception as error:  # it raises what its many readers and the network raise
        reason = _reason(error)
        if "gated" in reason:
            page = f"https://huggingface.co/datasets/{what[0]}"
            reason = f"is gated: accept its terms at {page} and log in with `hf auth login`, or use a copy of your own"
        raise GateError(f"{name}: {reason}") from error


def _parse(data: bytes) -> object:
    try:
        return json.loads(data.decode("utf-8-sig"))  # files with a mark that were joined have some inside
    except UnicodeDecodeError as error:
        utf16 = ", but UTF-16" if data.startswith((b"\xff\xfe", b"\xfe\xff")) else ""
        return BadRow(f"is not UTF-8{utf16} (byte {error.start + 1} of the line)")
    except (ValueError, RecursionError) as error:
        return BadRow(f"is not JSON: {_reason(error)}")


def _reason(error: Exception) -> str:
    if isinstance(error, json.JSONDecodeError):
        return f"{error.msg.lower()} at column {error.colno}"
    return first_line(error)


def _skip_spaces(text: str, at: int) -> int:
    match = _SPACES.match(text, at)
    return match.end() if match else at
