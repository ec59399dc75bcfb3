"""Datasets: rows are checked once, and read from disk when they are needed."""

from __future__ import annotations

import os
import re
from array import array
from collections.abc import Iterator, Sequence

import numpy as np

from ..errors import GateError
from .files import RowFile, open_files
from .rows import BadRow, Sample, sample_from_row

_MAX_BAD_SHOWN = 5
_WEIGHTED = re.compile(r"(.+):([0-9]{1,6}(?:\.[0-9]{1,6})?)", re.DOTALL)


class Dataset:
    """The usable rows of one or several files, by number. Memory holds only their places on disk.

    Attributes:
        name: What was opened.
        n_bad: Unusable rows, which are left out.
        bad: What is wrong with the first few: "FILE:LINE: reason".
        weight: How often each row comes in a round through the data.
        is_measured: Whether some of its rows may be held out to measure on.
    """

    weight = 1.0
    is_measured = True

    def __init__(self, name: str, files: Sequence[RowFile]) -> None:
        self.name = name
        self.n_bad = 0
        self.bad: list[str] = []
        self._files = list(files)
        keys = [self._usable(file) for file in files]
        self._keys = np.concatenate([np.frombuffer(key, np.int64) for key in keys]).reshape(-1, 2)
        self._ends = np.cumsum([len(key) // 2 for key in keys])

    def _usable(self, file: RowFile) -> array[int]:
        keys, n_bad, first = array("q"), 0, ""
        for found in file.scan():
            try:
                _sample(found.row)
                keys.extend(found.key)
            except BadRow as reason:
                n_bad += 1
                first = first or f"{found.where}: {reason}"
                if len(self.bad) < _MAX_BAD_SHOWN:
                    self.bad.append(f"{found.where}: {reason}")
        if not keys:
            raise GateError(f"{first}; none of {n_bad} rows can be used" if first else f"{file.name}: holds no rows")
        self.n_bad += n_bad
        return keys

    def __len__(self) -> int:
        """The number of usable rows."""
        return len(self._keys)

    def __getitem__(self, i: int) -> Sample:
        """Read a row; GateError if the file changed after it was opened."""
        if not -len(self) <= i < len(self):
            raise IndexError(f"row {i} of {len(self)}")
        i %= len(self)
        file = self._files[int(np.searchsorted(self._ends, i, side="right"))]
        begin, end = self._keys[i].tolist()
        try:
            return _sample(file.read((begin, end)))
        except BadRow as reason:
            raise GateError(f"{file.name}: changed after it was opened: a row {reason}") from reason

    def __iter__(self) -> Iterator[Sample]:
        """All usable rows, in order."""
        return (self[i] for i in range(len(self)))


def _sample(row: object) -> Sample:
    if isinstance(row, BadRow):
        raise row
    return sample_from_row(row)


def open_dataset(name: str) -> Dataset:
    """Open training data and check every row once.

    Args:
        name: A .jsonl, .json or .parquet file, a folder with such files, or `hf:NAME[:CONFIG][:SPLIT]` for a dataset
            of Hugging Face's hub.

    Returns:
        Its usable rows; see `rows.sample_from_row` for the columns that are known.

    Raises:
        GateError: The data does not exist, or a file holds no usable row.
        OSError: A file cannot be read.
    """
    return Dataset(name, open_files(name))


def weighted(source: str) -> tuple[str, float]:
    """Name and weight of what is named as `NAME` or `NAME:WEIGHT`: a dataset, or a folder of kept states.

    Raises:
        GateError: The weight is 0.
    """
    match = None if os.path.exists(source) else _WEIGHTED.fullmatch(source)
    if match is None:
        return source, 1.0
    if float(match[2]) == 0:
        raise GateError(f"{source}: has the weight 0, expected more")
    return match[1], float(match[2])
