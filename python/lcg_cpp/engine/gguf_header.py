"""What a GGUF file says of itself: metadata and the places of tensors, without the arrays that nobody asked for.

PyPI's `gguf.GGUFReader` makes two NumPy arrays of every token and every merge: half a gigabyte and seconds for 151,936
tokens, and some damaged files make it loop forever. What is asked here is a few numbers and the place of one tensor, so
arrays are stepped over, and every step is checked against the end of the file.
"""

from __future__ import annotations

import mmap
import os
import struct
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn, TypeVar, Union

from ..errors import GateError

Scalar = Union[bool, int, float, str]
_Found = TypeVar("_Found")

_VERSIONS = (2, 3)
_SMALLEST = 24  # magic, version, number of tensors, number of keys
_MAGIC = 0x46554747  # "GGUF"
_DEFAULT_ALIGNMENT = 32
# Types of values: a text, an array, and the numbers as `struct` has them.
_STRING, _ARRAY = 8, 9
_FORMATS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}


@dataclass(frozen=True)
class TensorInfo:
    """One tensor of a file."""

    type: int  # its `ggml_type`
    shape: tuple[int, ...]  # its dimensions as ggml counts them: the length of a row first
    offset: int  # where its data begins, in bytes from the start of the file


@dataclass(frozen=True)
class Header:
    """What a GGUF file says of itself."""

    path: Path
    size: int  # its length in bytes
    values: dict[str, Scalar]  # the metadata that are single values; arrays are left out
    tensors: dict[str, TensorInfo]  # its tensors by name


def read_header(path: Path) -> Header:
    """Reads the metadata of a GGUF file (version 2 or 3) and the places of its tensors.

    Time is linear in the number of tokens, memory does not depend on it.
    """
    return _walk(path, _Walk.header)


def read_headers(path: Path) -> list[Header]:
    """Reads the headers of all files of a model; of a split one, `path` is the first file."""
    first = read_header(path)
    n_files = first.values.get("split.count", 1)
    if not isinstance(n_files, int) or n_files <= 1:
        return [first]
    suffix = f"-00001-of-{n_files:05}.gguf"
    if not path.name.endswith(suffix):
        raise GateError(f"{path}: split into {n_files} files, expected the first, named *{suffix}")
    prefix = path.name[: -len(suffix)]
    others = (path.with_name(f"{prefix}-{number:05}-of-{n_files:05}.gguf") for number in range(2, n_files + 1))
    return [first, *map(read_header, others)]


def read_texts(path: Path, key: str) -> list[bytes]:
    """Reads one array of texts from the metadata of a GGUF file; it is empty where the file has none under this key."""
    return _walk(path, lambda walk: walk.texts(key))


def _walk(path: Path, read: Callable[[_Walk], _Found]) -> _Found:
    with path.open("rb") as file:
        size = os.fstat(file.fileno()).st_size
        if size < _SMALLEST:
            raise GateError(f"{path}: the file has {size} bytes, a GGUF file has at least {_SMALLEST}")
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            return read(_Walk(path, data))


class _Walk:
    """A position in the bytes of a header."""

    def __init__(self, path: Path, data: mmap.mmap) -> None:
        self._path = path
        self._data = data
        self._size = len(data)
        self._position = 0

    def texts(self, wanted: str) -> list[bytes]:
        """One array of texts, empty if it is not there."""
        _, n_values = self._start()
        for _ in range(n_values):
            key, kind = self._string(), self._number("I")
            if key != wanted or kind != _ARRAY:
                self._value(kind, key)
                continue
            element, n_texts = self._number("I"), self._number("Q")
            if element != _STRING:
                self._fail(f"`{key}` is an array of type {element}, expected texts")
            return [self._bytes() for _ in range(n_texts)]
        return []

    def _start(self) -> tuple[int, int]:
        """Numbers of tensors and of values."""
        magic, version = self._number("I"), self._number("I")
        if magic != _MAGIC:
            self._fail(f"not a GGUF file, it starts with {self._data[:4]!r}")
        if version not in _VERSIONS:
            self._fail(f"GGUF version {version}, expected {' or '.join(map(str, _VERSIONS))}")
        return self._number("Q"), self._number("Q")

    def header(self) -> Header:
        n_tensors, n_values = self._start()
        values: dict[str, Scalar] = {}
        for _ in range(n_values):
            key = self._string()
            value = self._value(self._number("I"), key)
            if value is not None:
                values[key] = value
        tensors = dict(self._tensor() for _ in range(n_tensors))
        alignment = values.get("general.alignment", _DEFAULT_ALIGNMENT)
        if not isinstance(alignment, int) or alignment < 1:
            self._fail(f"`general.alignment` is {alignment}, expected a number of at least 1")
        data_start = -(-self._position // alignment) * alignment
        placed = {name: TensorInfo(t.type, t.shape, data_start + t.offset) for name, t in tensors.items()}
        return Header(self._path, self._size, values, placed)

    def _tensor(self) -> tuple[str, TensorInfo]:
        """The next description of a tensor; its offset is still from the start of the data."""
        name = self._string()
        n_dims = self._number("I")
        if n_dims > 4:
            self._fail(f"tensor `{name}` has {n_dims} dimensions, at most 4 are allowed")
        shape = tuple(self._number("Q") for _ in range(n_dims))
        return name, TensorInfo(self._number("I"), shape, self._number("Q"))

    def _value(self, value_type: int, key: str) -> Scalar | None:
        """The next value; an array is stepped over and is None."""
        if value_type == _ARRAY:
            self._skip_array(key)
            return None
        if value_type == _STRING:
            return self._string()
        return self._scalar(self._format(value_type, key))

    def _skip_array(self, key: str) -> None:
        element_type, length = self._number("I"), self._number("Q")
        if element_type == _STRING:
            self._skip_strings(length)
        else:
            self._skip(length * struct.calcsize("<" + self._format(element_type, key)))

    def _skip_strings(self, n: int) -> None:
        """Step over strings; a vocabulary has hundreds of thousands, so nothing else is done for each."""
        data, position, length_at = self._data, self._position, struct.Struct("<Q").unpack_from
        try:
            for _ in range(n):  # no more often than the file has bytes: each step needs eight
                position += 8 + length_at(data, position)[0]
        except (struct.error, OverflowError):  # beyond the end
            position = self._size + 1
        self._skip(position - self._position)

    def _format(self, value_type: int, key: str) -> str:
        if value_type not in _FORMATS:
            self._fail(f"`{key}` has the unknown type {value_type}")
        return _FORMATS[value_type]

    def _string(self) -> str:
        return self._bytes().decode(errors="replace")

    def _bytes(self) -> bytes:
        length = self._number("Q")
        start = self._position
        self._skip(length)
        return self._data[start : start + length]

    def _number(self, number_format: str) -> int:
        number = self._scalar(number_format)
        assert isinstance(number, int)
        return number

    def _scalar(self, number_format: str) -> Scalar:
        start = self._position
        self._skip(struct.calcsize("<" + number_format))
        value: Scalar = struct.unpack_from("<" + number_format, self._data, start)[0]
        return value

    def _skip(self, n: int) -> None:
        if n > self._size - self._position:
            self._fail("the file ends inside its header")
        self._position += n

    def _fail(self, message: str) -> NoReturn:
        raise GateError(f"{self._path}: {message}")
