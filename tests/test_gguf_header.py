"""What `read_header` finds in GGUF files, and how it refuses damaged ones."""

from __future__ import annotations

import contextlib
import random
import tracemalloc
from pathlib import Path

import gguf
import numpy as np
import pytest

from gguf_bytes import (
    ARRAY,
    BOOL,
    F32,
    F64,
    I8,
    I16,
    I32,
    I64,
    STRING,
    TENSOR_F16,
    TENSOR_F32,
    U8,
    U16,
    U32,
    U64,
    GgufFile,
    Tensor,
    array,
    floats,
    halves,
    number,
    scalar,
    text,
)
from lcg_cpp.engine.gguf_header import TensorInfo, read_header, read_texts
from lcg_cpp.errors import GateError


def sample() -> GgufFile:
    """One value of every kind, an array of every kind, two tensors."""
    numbers = {U8: 200, I8: -3, U16: 60000, I16: -300, U32: 4_000_000_000, I32: -70000, U64: 2**63, I64: -(2**62)}
    keys = [(f"n{kind}", scalar(kind, value)) for kind, value in numbers.items()]
    keys += [(f"a{kind}", array(kind, [value] * 3)) for kind, value in numbers.items()]
    keys += [("f32", scalar(F32, 0.5)), ("f64", scalar(F64, 0.1)), ("yes", scalar(BOOL, 1)), ("no", scalar(BOOL, 0))]
    keys += [("tokens", array(STRING, ["a", "中", ""])), ("af32", array(F32, [])), ("ab", array(BOOL, [1, 0]))]
    keys += [("name", scalar(STRING, "größe"))]
    tensors = [Tensor("x", (3,), TENSOR_F32, floats(1, 2, 3)), Tensor("y", (2, 2), TENSOR_F16, halves(4, 5, 6, 7))]
    return GgufFile(keys, tensors)


def write(folder: Path, content: bytes) -> Path:
    """Writes a file."""
    path = folder / "file.gguf"
    path.write_bytes(content)
    return path


@pytest.mark.parametrize("version", [2, 3])
def test_single_values_are_read_and_arrays_are_stepped_over(tmp_path: Path, version: int) -> None:
    file = sample()
    file.version = version
    assert read_header(write(tmp_path, file.bytes())).values == {
        f"n{U8}": 200,
        f"n{I8}": -3,
        f"n{U16}": 60000,
        f"n{I16}": -300,
        f"n{U32}": 4_000_000_000,
        f"n{I32}": -70000,
        f"n{U64}": 2**63,
        f"n{I64}": -(2**62),
        "f32": 0.5,
        "f64": 0.1,
        "yes": True,
        "no": False,
        "name": "größe",
    }


@pytest.mark.parametrize("alignment", [None, 32, 64, 512])
def test_tensors_lie_where_their_data_is(tmp_path: Path, alignment: int | None) -> None:
    file = sample()
    if alignment is not None:
        file.alignment = alignment
        file.set("general.alignment", scalar(U32, alignment))
    content = file.bytes()
    header = read_header(write(tmp_path, content))
    x, y = content.index(floats(1, 2, 3)), content.index(halves(4, 5, 6, 7))
    assert header.tensors == {"x": TensorInfo(TENSOR_F32, (3,), x), "y": TensorInfo(TENSOR_F16, (2, 2), y)}
    assert header.size == len(content)


def test_a_model_of_the_public_writer_reads_the_same_as_with_the_public_reader(tiny_model_path: Path) -> None:
    header = read_header(tiny_model_path)
    reader = gguf.GGUFReader(tiny_model_path)
    assert {name: info.offset for name, info in header.tensors.items()} == {
        tensor.name: tensor.data_offset for tensor in reader.tensors
    }
    for tensor in reader.tensors:
        info = header.tensors[tensor.name]
        assert (info.type, list(info.shape)) == (tensor.tensor_type, tensor.shape.tolist())
    for field in reader.fields.values():
        if not field.name.startswith("GGUF.") and field.types[0] != gguf.GGUFValueType.ARRAY:
            assert header.values[field.name] == field.contents()


def test_real_vocabularies_are_stepped_over(vocab_dir: Path) -> None:
    values = read_header(vocab_dir / "ggml-vocab-qwen2.gguf").values
    assert values["tokenizer.ggml.model"] == "gpt2"
    assert values["general.architecture"] == "qwen2"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "the file has 0 bytes, a GGUF file has at least 24"),
        (b"GGUF", "the file has 4 bytes"),
        (b"PK\3\4" + bytes(40), "not a GGUF file, it starts with b'PK"),
        (GgufFile([], [], version=1).bytes(), "GGUF version 1, expected 2 or 3"),
        (GgufFile([], [], version=3 << 24).bytes(), "GGUF version 50331648, expected 2 or 3"),
        (GgufFile([], [], n_keys=1).bytes(), "ends inside its header"),
        (GgufFile([], [], n_keys=2**63).bytes(), "ends inside its header"),
        (GgufFile([], [], n_tensors=2**64 - 1).bytes(), "ends inside its header"),
        (GgufFile([("k", number(U32, 13) + bytes(9))], []).bytes(), "`k` has the unknown type 13"),
        (
            GgufFile([("k", number(U32, ARRAY) + number(U32, ARRAY) + bytes(20))], []).bytes(),
            "`k` has the unknown type 9",
        ),
        (GgufFile([("k", number(U32, STRING) + text("abc", length=2**63))], []).bytes(), "ends inside its header"),
        (GgufFile([("k", array(STRING, ["a"], length=2**60))], []).bytes(), "ends inside its header"),
        (
            GgufFile(
                [("k", number(U32, ARRAY) + number(U32, STRING) + number(U64, 2) + text("a", length=2**64 - 8))], []
            ).bytes(),
            "ends inside its header",
        ),
        (GgufFile([("k", array(U64, [1], length=2**61))], []).bytes(), "ends inside its header"),
        (GgufFile([("general.alignment", scalar(U32, 0))], []).bytes(), "`general.alignment` is 0"),
        (GgufFile([("general.alignment", scalar(STRING, "32"))], []).bytes(), "`general.alignment` is 32"),
        (GgufFile([], [Tensor("t", (1,), 0, b"", n_dims=5)]).bytes(), "tensor `t` has 5 dimensions, at most 4"),
    ],
)
def test_damaged_files_are_refused(tmp_path: Path, content: bytes, message: str) -> None:
    path = write(tmp_path, content)
    with pytest.raises(GateError) as error:
        read_header(path)
    assert str(error.value).startswith(f"{path}: ")
    assert message in str(error.value)


def test_any_damage_is_an_error_or_harmless(tmp_path: Path) -> None:
    whole = sample().bytes()
    header = whole.index(text("y")) + len(text("y")) + 4 + 2 * 8 + 4 + 8  # dimensions, type, offset
    for n in range(0, header, 3):
        with pytest.raises(GateError):
            read_header(write(tmp_path, whole[:n]))
    rng = random.Random(0)
    for _ in range(2000):
        damaged = bytearray(whole)
        for _ in range(rng.choice([1, 1, 4])):
            damaged[rng.randrange(header)] = rng.choice([0, 1, 9, 255, rng.randrange(256)])
        with contextlib.suppress(GateError):
            read_header(write(tmp_path, bytes(damaged)))


def test_a_missing_file_is_an_error_of_the_operating_system(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        read_header(tmp_path / "none.gguf")


def test_memory_does_not_grow_with_the_vocabulary(tmp_path: Path) -> None:
    tokens = np.char.add("token", np.arange(200_000).astype(str)).tolist()
    path = write(tmp_path, GgufFile([("tokens", array(STRING, tokens))], []).bytes())
    tracemalloc.start()
    read_header(path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 100_000


def test_one_array_of_texts_is_read_byte_by_byte(tmp_path: Path) -> None:
    path = write(tmp_path, sample().bytes())
    assert read_texts(path, "tokens") == [b"a", "中".encode(), b""]
    assert read_texts(path, "name") == []  # a single text
    assert read_texts(path, "merges") == []
    with pytest.raises(GateError, match=rf"`a{U32}` is an array of type {U32}, expected texts"):
        read_texts(path, f"a{U32}")
    whole = path.read_bytes()
    for n in range(24, whole.index(b"tokens") + 30, 7):
        with pytest.raises(GateError, match="the file ends inside its header"):
            read_texts(write(tmp_path, whole[:n]), "tokens")
