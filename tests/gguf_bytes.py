"""GGUF v3 files byte by byte: every count, length, type and offset can be made wrong, which a real writer never does.

Written from the GGUF specification and independent of gguf-py. The gate that `minimal()` returns is the smallest that
uses everything: two layers with biases, three families, five tokens, two confidence sets, one exempt token.
"""

from __future__ import annotations

import dataclasses
import struct
from dataclasses import dataclass, field

U8, I8, U16, I16, U32, I32, F32, BOOL, STRING, ARRAY, U64, I64, F64 = range(13)
TYPE_NAMES = (
    *("uint8", "int8", "uint16", "int16", "uint32", "int32", "float32", "bool", "string", "array"),
    *("uint64", "int64", "float64"),
)
FORMATS = {U8: "B", I8: "b", U16: "H", I16: "h", U32: "I", I32: "i", F32: "f", BOOL: "B", U64: "Q", I64: "q", F64: "d"}

TENSOR_F32, TENSOR_F16, TENSOR_Q8_0, TENSOR_I8, TENSOR_BF16 = 0, 1, 8, 24, 30


def text(value: str | bytes, *, length: int | None = None) -> bytes:
    """A string as GGUF stores it; `length` is what the file claims."""
    raw = value.encode() if isinstance(value, str) else value
    return struct.pack("<Q", len(raw) if length is None else length) + raw


def number(kind: int, value: float) -> bytes:
    """A number without its type."""
    return struct.pack("<" + FORMATS[kind], value)


def scalar(kind: int, value: float | str | bytes) -> bytes:
    """A value with its type in front."""
    payload = text(value) if isinstance(value, (str, bytes)) else number(kind, value)
    return struct.pack("<I", kind) + payload


def array(kind: int, values: list[float] | list[str] | list[bytes], *, length: int | None = None) -> bytes:
    """An array with its types in front; `length` is what the file claims."""
    head = struct.pack("<IIQ", ARRAY, kind, len(values) if length is None else length)
    return head + b"".join(text(v) if isinstance(v, (str, bytes)) else number(kind, v) for v in values)


@dataclass(frozen=True)
class Tensor:
    """A tensor as the file describes it.

    Attributes:
        name: Its name.
        shape: Row length first, as GGUF stores it.
        kind: Number of a ggml type.
        data: Its bytes.
        offset: What the file claims; None: where the data is.
        n_dims: What the file claims; None: as many as `shape` has.
    """

    name: str
    shape: tuple[int, ...]
    kind: int
    data: bytes
    offset: int | None = None
    n_dims: int | None = None


@dataclass
class GgufFile:
    """A file in parts. `bytes()` puts them together without correcting anything.

    Attributes:
        keys: (name, value with its type) in file order.
        tensors: In file order.
        magic: The first four bytes.
        version: Of GGUF.
        n_keys: What the file claims; None: as many as there are.
        n_tensors: What the file claims; None: as many as there are.
        alignment: Of the data of every tensor.
    """

    keys: list[tuple[str | bytes, bytes]]
    tensors: list[Tensor]
    magic: bytes = b"GGUF"
    version: int = 3
    n_keys: int | None = None
    n_tensors: int | None = None
    alignment: int = field(default=32)

    def set(self, name: str, value: bytes) -> GgufFile:
        """Replaces a key's value, or adds the key."""
        names = [key for key, _ in self.keys]
        if name in names:
            self.keys[names.index(name)] = (name, value)
        else:
            self.keys.append((name, value))
        return self

    def drop(self, name: str) -> GgufFile:
        """Removes a key or a tensor."""
        self.keys = [(key, value) for key, value in self.keys if key != name]
        self.tensors = [tensor for tensor in self.tensors if tensor.name != name]
        return self

    def change(self, name: str, **changes: object) -> GgufFile:
        """Replaces fields of a tensor."""
        self.tensors = [dataclasses.replace(t, **changes) if t.name == name else t for t in self.tensors]  # type: ignore[arg-type]
        return self

    def add(self, tensor: Tensor) -> GgufFile:
        """Adds a tensor."""
        self.tensors.append(tensor)
        return self

    def header(self) -> bytes:
        """Magic, version and counts."""
        n_keys = len(self.keys) if self.n_keys is None else self.n_keys
        n_tensors = len(self.tensors) if self.n_tensors is None else self.n_tensors
        return self.magic + struct.pack("<IQQ", self.version, n_tensors, n_keys)

    def bytes(self) -> bytes:
        """The file; the last tensor's data is its end."""
        head = self.header() + b"".join(text(name) + value for name, value in self.keys)
        body = b""
        for tensor in self.tensors:
            body += b"\0" * (-len(body) % self.alignment)
            n_dims = len(tensor.shape) if tensor.n_dims is None else tensor.n_dims
            offset = len(body) if tensor.offset is None else tensor.offset
            head += text(tensor.name) + struct.pack("<I", n_dims)
            head += struct.pack(f"<{len(tensor.shape)}Q", *tensor.shape) + struct.pack("<IQ", tensor.kind, offset)
            body += tensor.data
        return head + b"\0" * (-len(head) % self.alignment) + body


def floats(*values: float) -> bytes:
    """F32 data."""
    return struct.pack(f"<{len(values)}f", *values)


def halves(*values: float) -> bytes:
    """F16 data."""
    return struct.pack(f"<{len(values)}e", *values)


def brain_floats(*values: float) -> bytes:
    """BF16 data: the upper halves of F32."""
    return b"".join(struct.pack("<f", value)[2:] for value in values)


def q8_0_block(scale: float, values: list[int]) -> bytes:
    """A block of 32 values."""
    return struct.pack("<e32b", scale, *values)


def minimal() -> GgufFile:
    """A valid gate: n_embd 4, n_hidden 2, three families, five tokens."""
    return GgufFile(
        keys=[
            ("general.architecture", scalar(STRING, "llama")),
            ("general.type", scalar(STRING, "adapter")),
            ("adapter.type", scalar(STRING, "lcg")),
            ("adapter.lcg.version", scalar(U32, 1)),
            ("adapter.lcg.n_embd", scalar(U32, 4)),
            ("adapter.lcg.n_hidden", scalar(U32, 2)),
            ("adapter.lcg.n_vocab", scalar(U32, 5)),
            ("adapter.lcg.families", array(STRING, ["han", "latin", "symbols"])),
            ("adapter.lcg.maskable", array(BOOL, [1, 1, 0])),
            ("adapter.lcg.neutral", scalar(U32, 2)),
            ("adapter.lcg.threshold", scalar(F32, 0.5)),
            ("adapter.lcg.confidence.top_k", array(U32, [5, 20])),
            ("adapter.lcg.confidence.top_p", array(F32, [0.75, 1.0])),
            ("adapter.lcg.exempt_tokens", array(U32, [4])),
            ("adapter.lcg.rules", scalar(STRING, "default")),
            ("adapter.lcg.tokenizer_hash", scalar(STRING, "ab" * 32)),
        ],
        tensors=[
            Tensor("lcg.fc1.weight", (4, 2), TENSOR_F32, floats(1, 0, 0, 0, 0, -1, 0, 2)),
            Tensor("lcg.fc1.bias", (2,), TENSOR_F32, floats(0.5, 0.25)),
            Tensor("lcg.fc2.weight", (2, 3), TENSOR_F32, floats(1, 0, 0, 1, 2, -2)),
            Tensor("lcg.fc2.bias", (3,), TENSOR_F32, floats(0, 0, 1)),
            Tensor("lcg.token_family", (5,), TENSOR_I8, bytes([0, 1, 2, 0, 1])),
        ],
    )


def linear(kind: int, data: bytes, n_embd: int = 32) -> GgufFile:
    """A valid gate without a hidden layer whose matrix, 3 rows of n_embd, has this type and data."""
    file = minimal().drop("lcg.fc1.weight").drop("lcg.fc1.bias")
    file.set("adapter.lcg.n_embd", scalar(U32, n_embd)).set("adapter.lcg.n_hidden", scalar(U32, 0))
    return file.change("lcg.fc2.weight", shape=(n_embd, 3), kind=kind, data=data)
