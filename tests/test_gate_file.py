"""The C++ reader of gate files: every refusal from literal bytes, and round trips with the writer."""

from __future__ import annotations

import dataclasses
import math
import os
import random
import struct
import subprocess
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import gguf_bytes as gb
from lcg_cpp import Gate, _core
from lcg_cpp.engine.connect import connect_core
from lcg_cpp.errors import GateError
from lcg_cpp.gate.families import family_set
from lcg_cpp.gate.gate import read_gate_file
from lcg_cpp.gate.gate_file import write_gate
from lcg_cpp.gate.rule_set import FamilySet
from lcg_cpp.gate.spec import GateSpec, Source
from lcg_cpp.gate.thresholds import Thresholds

PATH = "some/gate.gguf"
BASE_MODEL_HINT = " (is this a base model? it goes to -m/--model)"

Damage = Callable[[gb.GgufFile], object]


def parse(data: bytes) -> _core.GateFile:
    return _core.parse_gate_file(data, PATH)


def refusal(data: bytes) -> str:
    """The message with which the reader refuses the file, without the path that it must start with."""
    with pytest.raises(GateError) as caught:
        parse(data)
    message = str(caught.value)
    assert message.startswith(PATH + ": ")
    return message[len(PATH) + 2 :]


def damaged(damage: Damage) -> bytes:
    file = gb.minimal()
    damage(file)
    return file.bytes()


def test_the_undamaged_file_is_accepted() -> None:
    file = parse(gb.minimal().bytes())
    assert file.metadata == {
        "general.architecture": "llama",
        "general.type": "adapter",
        "adapter.type": "lcg",
        "adapter.lcg.version": 1,
        "adapter.lcg.n_embd": 4,
        "adapter.lcg.n_hidden": 2,
        "adapter.lcg.n_vocab": 5,
        "adapter.lcg.families": ["han", "latin", "symbols"],
        "adapter.lcg.maskable": [True, True, False],
        "adapter.lcg.neutral": 2,
        "adapter.lcg.threshold": 0.5,
        "adapter.lcg.confidence.top_k": [5, 20],
        "adapter.lcg.confidence.top_p": [0.75, 1.0],
        "adapter.lcg.exempt_tokens": [4],
        "adapter.lcg.rules": "default",
        "adapter.lcg.tokenizer_hash": "ab" * 32,
    }
    assert file.tensors == {
        "lcg.fc1.weight": ("F32", (2, 4)),
        "lcg.fc1.bias": ("F32", (2,)),
        "lcg.fc2.weight": ("F32", (3, 2)),
        "lcg.fc2.bias": ("F32", (3,)),
        "lcg.token_family": ("I8", (5,)),
    }


def test_a_loaded_file_is_the_gate_it_describes(tmp_path: Path) -> None:
    path = tmp_path / "gate.gguf"
    path.write_bytes(gb.minimal().bytes())
    gate = Gate.load(path)
    assert (gate.architecture, gate.families.rules, gate.tokenizer_hash) == ("llama", "default", "ab" * 32)
    assert (gate.n_embd, gate.n_hidden, gate.n_vocab) == (4, 2, 5)
    assert gate.families == FamilySet(("han", "latin", "symbols"), (True, True, False), 2, "default")
    assert (gate.thresholds, gate.confidence, gate.exempt_tokens) == (
        Thresholds((0.5,) * 3),
        ((5, 0.75), (20, 1.0)),
        (4,),
    )
    assert gate.token_families.tolist() == [0, 1, 2, 0, 2]  # token 4 is exempt
    # relu([3, -7 + 2 * 5] + [0.5, 0.25]) = [3.5, 3.25]; relu([3, -7] + …) = [3.5, 0]
    assert gate.predict([[3, 7, 1, 5], [3, 7, 1, 0]]).tolist() == [[3.5, 3.25, 7 - 6.5 + 1], [3.5, 0, 8]]


def test_a_file_with_a_threshold_for_each_family_gives_these(tmp_path: Path) -> None:
    path = tmp_path / "gate.gguf"
    path.write_bytes(damaged(lambda f: f.set("adapter.lcg.thresholds", gb.array(gb.F32, [0.25, 0.75, 0.5]))))
    assert Gate.load(path).thresholds == Thresholds((0.25, 0.75, 0.5))


def test_a_file_may_give_the_first_language_token_others(tmp_path: Path) -> None:
    first, usual = (gb.array(gb.F32, values) for values in ([0.25, 0.75, 0.5], [0.125, 0.5, 0.625]))
    path = tmp_path / "gate.gguf"
    path.write_bytes(damaged(lambda f: f.set("adapter.lcg.first_thresholds", first)))
    assert Gate.load(path).thresholds == Thresholds((0.5,) * 3, (0.25, 0.75, 0.5))
    both = damaged(lambda f: f.set("adapter.lcg.thresholds", usual).set("adapter.lcg.first_thresholds", first))
    path.write_bytes(both)
    assert Gate.load(path).thresholds == Thresholds((0.125, 0.5, 0.625), (0.25, 0.75, 0.5))


def test_a_file_may_say_from_which_probability_families_may_come(tmp_path: Path) -> None:
    path = tmp_path / "gate.gguf"
    path.write_bytes(damaged(lambda f: f.set("adapter.lcg.allow_thresholds", gb.array(gb.F32, [0.25, 1.0, 1.0]))))
    assert Gate.load(path).thresholds == Thresholds((0.5,) * 3, (), (0.25, 1.0, 1.0))


def test_files_that_end_at_any_byte_are_refused() -> None:
    data = gb.minimal().bytes()
    for size in range(len(data)):
        assert refusal(data[:size])


@pytest.mark.parametrize(
    ("size", "message"),
    [
        (0, "file ends inside the magic number: 0 bytes are left, 4 are needed"),
        (3, "file ends inside the magic number: 3 bytes are left, 4 are needed"),
        (7, "file ends inside the GGUF version: 3 bytes are left, 4 are needed"),
        (15, "file ends inside the number of tensors: 7 bytes are left, 8 are needed"),
        (16, "file ends inside the number of keys: 0 bytes are left, 8 are needed"),
        (24 + 10, "file ends inside the name of key 0: 2 bytes are left, 20 are needed"),
        (24 + 28, "file ends inside key `general.architecture`: 0 bytes are left, 4 are needed"),
    ],
)
def test_a_truncated_file_is_told_where_it_ends(size: int, message: str) -> None:
    assert refusal(gb.minimal().bytes()[:size]) == message


def test_a_file_whose_tensors_are_cut_off_names_the_tensor() -> None:
    data = gb.minimal().bytes()
    assert refusal(data[:-1]) == (
        "tensor `lcg.token_family` leaves the file: offset 128, 5 bytes, the data section has 132"
    )
    data = damaged(lambda file: file.set("x", gb.scalar(gb.U8, 1)))  # the header now ends between multiples of 32
    start = len(data) - (128 + 5)
    assert refusal(data[: start - 1]) == "file ends before its data section"


# ---- header ----


@pytest.mark.parametrize("start", [b"GGML", b"FUGG", b"PK\3\4"])
def test_wrong_magic_is_refused(start: bytes) -> None:
    found = refusal(start + gb.minimal().bytes()[4:])
    assert found == "not a GGUF file: it does not begin with the letters GGUF"


@pytest.mark.parametrize("version", [0, 1, 2, 4])
def test_other_versions_of_gguf_are_refused(version: int) -> None:
    file = gb.minimal()
    file.version = version
    assert refusal(file.bytes()) == f"GGUF version {version}, expected 3 (little-endian)"


def test_big_endian_files_are_refused() -> None:
    data = b"GGUF" + struct.pack(">IQQ", 3, 5, 16) + gb.minimal().bytes()[24:]
    assert refusal(data) == f"GGUF version {3 << 24}, expected 3 (little-endian)"


def huge_counts() -> dict[str, tuple[bytes, str]]:
    """Files of a few bytes that claim to be giants, and the messages that refuse them."""

    def with_key(value: bytes, name: str = "general.type") -> bytes:
        return gb.GgufFile([(name, value)], []).bytes()

    def with_tensor(tail: bytes) -> bytes:
        file = gb.minimal()
        file.tensors = []
        file.n_tensors = 1
        return file.header() + b"".join(gb.text(name) + value for name, value in file.keys) + tail

    giant = 2**64 - 1
    files = {
        "keys": (gb.GgufFile([], [], n_keys=giant).bytes(), f"number of keys is {giant}, at most 1024 are allowed"),
        "1025 keys": (gb.GgufFile([], [], n_keys=1025).bytes(), "number of keys is 1025, at most 1024 are allowed"),
        "missing keys": (
            gb.GgufFile([], [], n_keys=1024).header(),
            "file ends inside the name of key 0: 0 bytes are left, 8 are needed",
        ),
        "tensors": (
            gb.GgufFile(gb.minimal().keys, [], n_tensors=giant).bytes(),
            f"number of tensors is {giant}, a gate has at most 5",
        ),
        # the PyPI package gguf walks through such an array for ever
        "43 bytes": (
            gb.GgufFile([("k" * 2, struct.pack("<IIQ", gb.ARRAY, gb.U8, 2**40))], []).bytes()[:43],
            "file ends inside key `kk`: 1 bytes are left, 8 are needed",
        ),
        "key name": (
            gb.GgufFile([], [], n_keys=1).header() + gb.text("", length=2**63),
            f"the name of key 0 has length {2**63}, at most 256 is allowed",
        ),
        "string": (
            with_key(struct.pack("<I", gb.STRING) + gb.text("", length=2**60)),
            f"key `general.type` has length {2**60}, at most {2**20} is allowed",
        ),
        "string within the cap": (
            gb.GgufFile([], [], n_keys=1).header()
            + gb.text("k")
            + struct.pack("<I", gb.STRING)
            + gb.text("", length=2**20),
            f"file ends inside key `k`: 0 bytes are left, {2**20} are needed",
        ),
        "string in an array": (
            with_key(struct.pack("<IIQ", gb.ARRAY, gb.STRING, 1) + gb.text("", length=2**62)),
            f"key `general.type` has length {2**62}, at most {2**20} is allowed",
        ),
        "tensor name": (
            with_tensor(gb.text("", length=giant)),
            f"the name of tensor 0 has length {giant}, at most 256 is allowed",
        ),
        "dimensions": (
            with_tensor(gb.text("t") + struct.pack("<I", 2**32 - 1)),
            f"tensor `t` has {2**32 - 1} dimensions, expected 1 to 4",
        ),
    }
    for kind, name in enumerate(gb.TYPE_NAMES):
        if kind == gb.ARRAY:
            continue
        for n in (2**20 + 1, 2**40, 2**61, giant):
            files[f"array of {n} {name}"] = (
                with_key(struct.pack("<IIQ", gb.ARRAY, kind, n)),
                f"key `general.type` has {n} elements, at most {2**20} are allowed",
            )
        size = 8 if kind == gb.STRING else struct.calcsize(gb.FORMATS[kind])
        files[f"array of {name} within the cap"] = (
            gb.GgufFile([], [], n_keys=1).header() + gb.text("k") + struct.pack("<IIQ", gb.ARRAY, kind, 2**20),
            f"file ends inside key `k`: 0 bytes are left, {size * 2**20} are needed",
        )
    for key, low, high in (("n_vocab", 1, 2**22), ("n_embd", 1, 2**16), ("n_hidden", 0, 2**16)):
        name = f"adapter.lcg.{key}"
        files[key] = (
            gb.minimal().set(name, gb.scalar(gb.U32, 2**32 - 1)).bytes(),
            f"key `{name}` is {2**32 - 1}, expected {low} to {high}",
        )
    return files


HUGE = huge_counts()


@pytest.mark.parametrize("name", HUGE)
def test_huge_counts_are_refused(name: str) -> None:
    data, message = HUGE[name]
    assert refusal(data) == message


@pytest.mark.skipif(sys.platform != "linux", reason="limits memory with RLIMIT_AS and reads /proc, both Linux")
def test_huge_counts_are_refused_before_anything_is_allocated(tmp_path: Path) -> None:
    for i, (data, _) in enumerate(HUGE.values()):
        (tmp_path / f"{i}.gguf").write_bytes(data)
    program = """
        import pathlib, resource, sys
        from lcg_cpp import _core
        from lcg_cpp.errors import GateError
        files = [path.read_bytes() for path in pathlib.Path(sys.argv[1]).iterdir()]
        pages = int(pathlib.Path("/proc/self/statm").read_text().split()[0])
        limit = pages * resource.getpagesize() + (4 << 20)
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
        try:
            bytes(16 << 20)
        except MemoryError:
            pass
        else:
            sys.exit("the limit does not limit")
        for data in files:
            try:
                _core.parse_gate_file(data, "gate.gguf")
            except GateError:
                continue
            sys.exit("a file was accepted")
        print(len(files))
    """
    result = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program), str(tmp_path)], capture_output=True, text=True
    )
    assert (result.returncode, result.stderr, result.stdout.strip()) == (0, "", str(len(HUGE)))


# ---- keys ----

REQUIRED = [name for name, _ in gb.minimal().keys if name != "adapter.lcg.exempt_tokens"]


@pytest.mark.parametrize("name", REQUIRED)
def test_missing_keys_are_refused(name: str) -> None:
    hint = BASE_MODEL_HINT if name == "general.type" else ""
    assert refusal(damaged(lambda file: file.drop(name))) == f"key `{name}` is missing" + hint


def test_a_gate_without_exempt_tokens_may_leave_the_key_out_or_empty() -> None:
    assert "adapter.lcg.exempt_tokens" not in parse(damaged(lambda f: f.drop("adapter.lcg.exempt_tokens"))).metadata
    empty = parse(damaged(lambda f: f.set("adapter.lcg.exempt_tokens", gb.array(gb.U32, []))))
    assert empty.metadata["adapter.lcg.exempt_tokens"] == []


def type_of(value: bytes) -> tuple[int, str]:
    """Number of a value's element type, and the name of the whole in error messages."""
    kind = struct.unpack_from("<I", value)[0]
    if kind != gb.ARRAY:
        return kind, gb.TYPE_NAMES[kind]
    element = struct.unpack_from("<I", value, 4)[0]
    return element, f"array of {gb.TYPE_NAMES[element]}"


@pytest.mark.parametrize("name", [name for name, _ in gb.minimal().keys])
def test_keys_of_every_other_type_are_refused(name: str) -> None:
    wanted = type_of(dict(gb.minimal().keys)[name])[1]
    for kind in range(len(gb.TYPE_NAMES)):
        if kind == gb.ARRAY:
            continue
        sample: Any = "1" if kind == gb.STRING else 1
        for value in (gb.scalar(kind, sample), gb.array(kind, [sample]), gb.array(kind, [])):
            found = type_of(value)[1]
            if found != wanted:
                message = refusal(damaged(lambda file, value=value: file.set(name, value)))
                assert message.removesuffix(BASE_MODEL_HINT) == f"key `{name}` has type {found}, expected {wanted}"


@pytest.mark.parametrize("name", ["general.name", "adapter.lcg.version", "adapter.lcg.train.loss"])
def test_keys_that_occur_twice_are_refused(name: str) -> None:
    file = gb.minimal()
    value = dict(file.keys).get(name, gb.scalar(gb.F64, 1.5))
    file.keys = [(key, v) for key, v in file.keys if key != name] + [(name, value), ("x", value), (name, value)]
    assert refusal(file.bytes()) == f"key `{name}` occurs twice"


def test_other_keys_of_every_type_are_allowed_and_kept() -> None:
    values: dict[str, Any] = {
        "u8": (gb.U8, 255),
        "i8": (gb.I8, -128),
        "u16": (gb.U16, 65535),
        "i16": (gb.I16, -32768),
        "u32": (gb.U32, 2**32 - 1),
        "i32": (gb.I32, -(2**31)),
        "u64": (gb.U64, 2**64 - 1),
        "i64": (gb.I64, -(2**63)),
        "f32": (gb.F32, 0.5),
        "f64": (gb.F64, 0.1),
        "bool": (gb.BOOL, True),
        "string": (gb.STRING, "日本 \x00 é"),
    }
    file = gb.minimal()
    expected: dict[str, Any] = {}
    for name, (kind, value) in values.items():
        file.set(f"x.{name}", gb.scalar(kind, value)).set(f"y.{name}", gb.array(kind, [value, value]))
        file.set(f"z.{name}", gb.array(kind, []))
        expected.update({f"x.{name}": value, f"y.{name}": [value, value], f"z.{name}": []})
    metadata = parse(file.bytes()).metadata
    found = {key: metadata[key] for key in expected}
    assert found == expected
    assert {key: type(value) for key, value in found.items()} == {key: type(value) for key, value in expected.items()}


def mask_as(file: gb.GgufFile, tokens: list[int], families: list[int]) -> None:
    file.set("adapter.lcg.masked_as.tokens", gb.array(gb.U32, tokens))
    file.set("adapter.lcg.masked_as.families", gb.array(gb.U32, families))


BAD_VALUES: dict[str, tuple[Damage, str]] = {
    "base model": (
        lambda f: f.set("general.type", gb.scalar(gb.STRING, "model")),
        'key `general.type` is "model", expected "adapter"' + BASE_MODEL_HINT,
    ),
    "LoRA": (
        lambda f: f.set("adapter.type", gb.scalar(gb.STRING, "lora")),
        'key `adapter.type` is "lora", expected "lcg" (another kind of adapter)',
    ),
    "version 0": (
        lambda f: f.set("adapter.lcg.version", gb.scalar(gb.U32, 0)),
        "key `adapter.lcg.version` is 0, expected 1 to 1",
    ),
    "version 2": (
        lambda f: f.set("adapter.lcg.version", gb.scalar(gb.U32, 2)),
        "key `adapter.lcg.version` is 2, expected 1 to 1",
    ),
    "n_embd 0": (
        lambda f: f.set("adapter.lcg.n_embd", gb.scalar(gb.U32, 0)),
        "key `adapter.lcg.n_embd` is 0, expected 1 to 65536",
    ),
    "n_embd too large": (
        lambda f: f.set("adapter.lcg.n_embd", gb.scalar(gb.U32, 65537)),
        "key `adapter.lcg.n_embd` is 65537, expected 1 to 65536",
    ),
    "n_hidden too large": (
        lambda f: f.set("adapter.lcg.n_hidden", gb.scalar(gb.U32, 65537)),
        "key `adapter.lcg.n_hidden` is 65537, expected 0 to 65536",
    ),
    "n_vocab 0": (
        lambda f: f.set("adapter.lcg.n_vocab", gb.scalar(gb.U32, 0)),
        "key `adapter.lcg.n_vocab` is 0, expected 1 to 4194304",
    ),
    "n_vocab too large": (
        lambda f: f.set("adapter.lcg.n_vocab", gb.scalar(gb.U32, 4194305)),
        "key `adapter.lcg.n_vocab` is 4194305, expected 1 to 4194304",
    ),
    "no family": (
        lambda f: f.set("adapter.lcg.families", gb.array(gb.STRING, [])),
        "key `adapter.lcg.families` has 0 elements, expected 2 to 127",
    ),
    "one family": (
        lambda f: f.set("adapter.lcg.families", gb.array(gb.STRING, ["symbols"])),
        "key `adapter.lcg.families` has 1 elements, expected 2 to 127",
    ),
    "128 families": (
        lambda f: f.set("adapter.lcg.families", gb.array(gb.STRING, [f"f{i}" for i in range(128)])),
        "key `adapter.lcg.families` has 128 elements, expected 2 to 127",
    ),
    "family twice": (
        lambda f: f.set("adapter.lcg.families", gb.array(gb.STRING, ["han", "symbols", "han"])),
        "key `adapter.lcg.families` names a family twice",
    ),
    "maskable too short": (
        lambda f: f.set("adapter.lcg.maskable", gb.array(gb.BOOL, [1, 0])),
        "key `adapter.lcg.maskable` has 2 elements, expected 3, one for each family",
    ),
    "maskable too long": (
        lambda f: f.set("adapter.lcg.maskable", gb.array(gb.BOOL, [1, 1, 0, 0])),
        "key `adapter.lcg.maskable` has 4 elements, expected 3, one for each family",
    ),
    "neutral is maskable": (
        lambda f: f.set("adapter.lcg.maskable", gb.array(gb.BOOL, [0, 1, 1])),
        "key `adapter.lcg.maskable` says that the neutral family `symbols` may be masked",
    ),
    "neutral out of range": (
        lambda f: f.set("adapter.lcg.neutral", gb.scalar(gb.U32, 3)),
        "key `adapter.lcg.neutral` is 3, expected 0 to 2",
    ),
    "bool in an array": (
        lambda f: f.set("adapter.lcg.maskable", gb.array(gb.BOOL, [1, 2, 0])),
        "key `adapter.lcg.maskable` is 2, a bool is 0 or 1",
    ),
    "bool": (
        lambda f: f.set("adapter.lcg.train.shuffled", gb.scalar(gb.BOOL, 255)),
        "key `adapter.lcg.train.shuffled` is 255, a bool is 0 or 1",
    ),
    "threshold NaN": (
        lambda f: f.set("adapter.lcg.threshold", gb.scalar(gb.F32, math.nan)),
        "key `adapter.lcg.threshold` is nan, expected a probability between 0 and 1",
    ),
    "threshold of a family": (
        lambda f: f.set("adapter.lcg.thresholds", gb.array(gb.F32, [0.5, 1.0, 0.5])),
        "key `adapter.lcg.thresholds` holds 1.000000, expected a probability between 0 and 1",
    ),
    "too few thresholds": (
        lambda f: f.set("adapter.lcg.thresholds", gb.array(gb.F32, [0.5, 0.25])),
        "key `adapter.lcg.thresholds` has 2 elements, expected 3, one for each family",
    ),
    "first threshold of a family": (
        lambda f: f.set("adapter.lcg.first_thresholds", gb.array(gb.F32, [0.5, 0.5, 0.0])),
        "key `adapter.lcg.first_thresholds` holds 0.000000, expected a probability between 0 and 1",
    ),
    "too many first thresholds": (
        lambda f: f.set("adapter.lcg.first_thresholds", gb.array(gb.F32, [0.5] * 4)),
        "key `adapter.lcg.first_thresholds` has 4 elements, expected 3, one for each family",
    ),
    "threshold from which a family may come": (
        lambda f: f.set("adapter.lcg.allow_thresholds", gb.array(gb.F32, [1.0, 0.5, 1.5])),
        "key `adapter.lcg.allow_thresholds` holds 1.500000, expected a probability between 0 and 1",
    ),
    "no thresholds": (
        lambda f: f.set("adapter.lcg.thresholds", gb.array(gb.F32, [])),
        "key `adapter.lcg.thresholds` has 0 elements, expected 3, one for each family",
    ),
    "no confidence set": (
        lambda f: f.set("adapter.lcg.confidence.top_k", gb.array(gb.U32, [])).set(
            "adapter.lcg.confidence.top_p", gb.array(gb.F32, [])
        ),
        "keys `adapter.lcg.confidence.top_k` and `.top_p` have 0 and 0 elements, expected the same number from 1 to 8",
    ),
    "confidence sets of two lengths": (
        lambda f: f.set("adapter.lcg.confidence.top_p", gb.array(gb.F32, [0.5])),
        "keys `adapter.lcg.confidence.top_k` and `.top_p` have 2 and 1 elements, expected the same number from 1 to 8",
    ),
    "nine confidence sets": (
        lambda f: f.set("adapter.lcg.confidence.top_k", gb.array(gb.U32, [5] * 9)).set(
            "adapter.lcg.confidence.top_p", gb.array(gb.F32, [0.5] * 9)
        ),
        "keys `adapter.lcg.confidence.top_k` and `.top_p` have 9 and 9 elements, expected the same number from 1 to 8",
    ),
    "top_k 0": (
        lambda f: f.set("adapter.lcg.confidence.top_k", gb.array(gb.U32, [5, 0])),
        "key `adapter.lcg.confidence.top_k` holds 0, expected 1 to 1024",
    ),
    "top_k too large": (
        lambda f: f.set("adapter.lcg.confidence.top_k", gb.array(gb.U32, [1025, 20])),
        "key `adapter.lcg.confidence.top_k` holds 1025, expected 1 to 1024",
    ),
    "exempt token": (
        lambda f: f.set("adapter.lcg.exempt_tokens", gb.array(gb.U32, [0, 5])),
        "key `adapter.lcg.exempt_tokens` holds token 5, the vocabulary has 5",
    ),
    "masked token": (
        lambda f: mask_as(f, [0, 5], [1, 1]),
        "key `adapter.lcg.masked_as.tokens` holds token 5 at index 1, expected ascending ones below 5",
    ),
    "masked token twice": (
        lambda f: mask_as(f, [3, 3], [1, 1]),
        "key `adapter.lcg.masked_as.tokens` holds token 3 at index 1, expected ascending ones below 5",
    ),
    "masked as no family": (
        lambda f: mask_as(f, [3], [3]),
        "key `adapter.lcg.masked_as.families` holds 3, expected 0 to 2",
    ),
    "masked as too few families": (
        lambda f: mask_as(f, [1, 3], [0]),
        "keys `adapter.lcg.masked_as.tokens` and `.families` have 2 and 1 elements, expected the same number",
    ),
    "masked tokens without families": (
        lambda f: f.set("adapter.lcg.masked_as.tokens", gb.array(gb.U32, [3])),
        "key `adapter.lcg.masked_as.families` is missing",
    ),
    "masked families without tokens": (
        lambda f: f.set("adapter.lcg.masked_as.families", gb.array(gb.U32, [1])),
        "key `adapter.lcg.masked_as.tokens` is missing",
    ),
    "nested array": (
        lambda f: f.set("x", struct.pack("<IIQ", gb.ARRAY, gb.ARRAY, 1) + gb.array(gb.U8, [1])[4:]),
        "key `x` is an array of arrays, which no gate file has",
    ),
    "unknown type": (lambda f: f.set("x", struct.pack("<I", 13)), "key `x` has unknown type 13"),
    "unknown element type": (
        lambda f: f.set("x", struct.pack("<IIQ", gb.ARRAY, 2**32 - 1, 1)),
        f"key `x` has unknown type {2**32 - 1}",
    ),
    "long key": (
        lambda f: f.set("x" * 257, gb.scalar(gb.U8, 1)),
        "the name of key 16 has length 257, at most 256 is allowed",
    ),
    "1025 keys": (
        lambda f: [f.set(f"x{i}", gb.scalar(gb.U8, 1)) for i in range(1025 - 16)],
        "number of keys is 1025, at most 1024 are allowed",
    ),
}
for bad_alignment in (3, 24, 33):
    BAD_VALUES[f"alignment {bad_alignment}"] = (
        lambda f, n=bad_alignment: f.set("general.alignment", gb.scalar(gb.U32, n)),  # type: ignore[misc]
        f"key `general.alignment` is {bad_alignment}, expected a power of two",
    )
for bad_alignment in (0, 8192):
    BAD_VALUES[f"alignment {bad_alignment}"] = (
        lambda f, n=bad_alignment: f.set("general.alignment", gb.scalar(gb.U32, n)),  # type: ignore[misc]
        f"key `general.alignment` is {bad_alignment}, expected 1 to 4096",
    )
BAD_VALUES["alignment of another type"] = (
    lambda f: f.set("general.alignment", gb.scalar(gb.U64, 32)),
    "key `general.alignment` has type uint64, expected uint32",
)


@pytest.mark.parametrize("name", BAD_VALUES)
def test_bad_values_are_refused(name: str) -> None:
    damage, message = BAD_VALUES[name]
    assert refusal(damaged(damage)) == message


@pytest.mark.parametrize("value", [0.0, 1.0, -0.5, 1.5, math.inf, -math.inf])
def test_thresholds_outside_of_0_to_1_are_refused(value: float) -> None:
    message = refusal(damaged(lambda f: f.set("adapter.lcg.threshold", gb.scalar(gb.F32, value))))
    assert message.startswith("key `adapter.lcg.threshold` is ")
    assert message.endswith(", expected a probability between 0 and 1")
    assert float(message.split()[3].rstrip(",")) == value


@pytest.mark.parametrize("value", [0.0, -0.5, 1.5, math.inf, math.nan])
def test_confidence_probabilities_outside_of_0_to_1_are_refused(value: float) -> None:
    message = refusal(damaged(lambda f: f.set("adapter.lcg.confidence.top_p", gb.array(gb.F32, [0.5, value]))))
    assert message.startswith("key `adapter.lcg.confidence.top_p` holds ")
    assert message.endswith(", expected more than 0 and at most 1")
    assert message.split()[3].rstrip(",") == f"{value:.6f}"


def test_limits_themselves_are_allowed() -> None:
    n = 127
    file = gb.linear(gb.TENSOR_F32, gb.floats(*range(n)), n_embd=1)
    file.change("lcg.fc2.weight", shape=(1, n)).drop("lcg.fc2.bias")
    file.set("adapter.lcg.families", gb.array(gb.STRING, [f"f{i}" for i in range(n)]))
    file.set("adapter.lcg.maskable", gb.array(gb.BOOL, [1] * (n - 1) + [0]))
    file.set("adapter.lcg.neutral", gb.scalar(gb.U32, n - 1))
    file.change("lcg.token_family", data=bytes([0, 126, 125, 1, 2]))
    file.set("adapter.lcg.confidence.top_k", gb.array(gb.U32, [1, 1024] * 4))
    file.set("adapter.lcg.confidence.top_p", gb.array(gb.F32, [1e-6, 1.0] * 4))
    file.set("x" * 256, gb.scalar(gb.STRING, "y" * 2**20)).set("z", gb.array(gb.U8, [7] * 2**20))
    while len(file.keys) < 1024:
        file.set(f"k{len(file.keys)}", gb.scalar(gb.U8, 1))
    assert len(parse(file.bytes()).metadata) == 1024


@pytest.mark.parametrize("alignment", [1, 2, 16, 64, 4096])
def test_other_alignments_are_followed(alignment: int, tmp_path: Path) -> None:
    file = gb.minimal().set("general.alignment", gb.scalar(gb.U32, alignment))
    file.alignment = alignment
    (tmp_path / "gate.gguf").write_bytes(file.bytes())
    assert Gate.load(tmp_path / "gate.gguf").predict([[3, 7, 1, 5]]).tolist() == [[3.5, 3.25, 1.5]]


@pytest.mark.parametrize("name", ["x\xff", "\xc3", "\xed\xa0\x80", "x" * 63 + "日"])
def test_names_that_are_no_text_or_end_in_the_middle_of_a_character_do_not_hide_the_error(name: str) -> None:
    raw = name.encode() if name.endswith("日") else name.encode("latin-1")
    file = gb.minimal()
    file.keys += [(raw, gb.scalar(gb.U8, 1))] * 2
    assert "key" in refusal(file.bytes())
    file = gb.minimal()
    file.tensors[0] = dataclasses.replace(file.tensors[0], name=name)
    assert "tensor" in refusal(file.bytes())


NOT_UTF_8 = (
    *(b"caf\xe9", b"\x80", b"\xbf", b"\xfe", b"\xff"),
    *(b"\xc0\x80", b"\xc1\xbf", b"\xe0\x9f\xbf", b"\xf0\x8f\xbf\xbf"),  # longer than they need to be
    *(b"\xed\xa0\x80", b"\xed\xbf\xbf", b"\xf4\x90\x80\x80", b"\xf5\x80\x80\x80"),  # surrogates, above U+10FFFF
    *(b"\xc3", b"\xe6\x97", b"\xf0\x9f\x98", b"\xe6\x97x", b"\xf0\x9f\x98x", b"\xf0\x9fxx"),  # cut off
)


@pytest.mark.parametrize("raw", NOT_UTF_8, ids=repr)
def test_strings_that_are_not_utf_8_are_refused(raw: bytes) -> None:
    for name in ("general.architecture", "adapter.lcg.rules", "general.name"):
        value = gb.scalar(gb.STRING, b"good " + raw)
        assert refusal(damaged(lambda f, n=name, v=value: f.set(n, v))) == f"key `{name}` is not UTF-8"
    assert refusal(damaged(lambda f: f.set("x", gb.array(gb.STRING, [b"ok", raw])))) == "key `x` is not UTF-8"
    file = gb.minimal()
    file.keys.append((raw, gb.scalar(gb.U8, 1)))
    assert refusal(file.bytes()) == "the name of key 16 is not UTF-8"


def test_strings_at_the_edges_of_utf_8_are_allowed() -> None:
    text = "\x7f\x80\u07ff\u0800\ud7ff\ue000\uffff\U00010000\U0010ffff"
    assert parse(damaged(lambda f: f.set("general.name", gb.scalar(gb.STRING, text)))).metadata["general.name"] == text


# ---- tensors ----

MATRICES = "F32, F16, BF16, Q8_0"
FC1, FC2, TABLE = "lcg.fc1.weight", "lcg.fc2.weight", "lcg.token_family"

BAD_TENSORS: dict[str, tuple[Damage, str]] = {
    "fc1 is missing": (lambda f: f.drop(FC1), f"tensor `{FC1}` is missing"),
    "fc2 is missing": (lambda f: f.drop(FC2), f"tensor `{FC2}` is missing"),
    "table is missing": (lambda f: f.drop(TABLE), f"tensor `{TABLE}` is missing"),
    "no tensors": (lambda f: setattr(f, "tensors", []), f"tensor `{TABLE}` is missing"),
    "sixth tensor": (
        lambda f: f.add(gb.Tensor("lcg.fc3.weight", (3, 3), gb.TENSOR_F32, gb.floats(*range(9)))),
        "number of tensors is 6, a gate has at most 5",
    ),
    "extra tensor": (
        lambda f: f.drop("lcg.fc2.bias").add(gb.Tensor("output.weight", (4, 5), gb.TENSOR_F32, b"\0" * 80)),
        "tensor `output.weight` does not belong into a gate file",
    ),
    "tensor twice": (
        lambda f: f.drop("lcg.fc2.bias").add(gb.Tensor(TABLE, (5,), gb.TENSOR_I8, bytes(5))),
        f"tensor `{TABLE}` occurs twice",
    ),
    "fc1 in a linear gate": (
        lambda f: f.set("adapter.lcg.n_hidden", gb.scalar(gb.U32, 0)),
        f"tensor `{FC1}` does not belong into a gate file with `adapter.lcg.n_hidden` 0",
    ),
    "fc1.bias in a linear gate": (
        lambda f: f.set("adapter.lcg.n_hidden", gb.scalar(gb.U32, 0)).drop(FC1),
        "tensor `lcg.fc1.bias` does not belong into a gate file with `adapter.lcg.n_hidden` 0",
    ),
    "linear gate whose fc2 reads a hidden layer": (
        lambda f: f.set("adapter.lcg.n_hidden", gb.scalar(gb.U32, 0)).drop(FC1).drop("lcg.fc1.bias"),
        f"tensor `{FC2}` has shape (2, 3), expected (4, 3)",
    ),
    "matrix of I8": (
        lambda f: f.change(FC1, kind=gb.TENSOR_I8),
        f"tensor `{FC1}` has type I8, expected {MATRICES}",
    ),
    "matrix of Q4_0": (lambda f: f.change(FC2, kind=2), f"tensor `{FC2}` has type 2, expected {MATRICES}"),
    "matrix of an unknown type": (
        lambda f: f.change(FC2, kind=2**32 - 1),
        f"tensor `{FC2}` has type {2**32 - 1}, expected {MATRICES}",
    ),
    "bias of F16": (
        lambda f: f.change("lcg.fc1.bias", kind=gb.TENSOR_F16),
        "tensor `lcg.fc1.bias` has type F16, expected F32",
    ),
    "table of F32": (lambda f: f.change(TABLE, kind=gb.TENSOR_F32), f"tensor `{TABLE}` has type F32, expected I8"),
    "transposed matrix": (lambda f: f.change(FC1, shape=(2, 4)), f"tensor `{FC1}` has shape (2, 4), expected (4, 2)"),
    "flat matrix": (lambda f: f.change(FC1, shape=(8,)), f"tensor `{FC1}` has shape (8), expected (4, 2)"),
    "matrix with a third dimension": (
        lambda f: f.change(FC1, shape=(4, 2, 1)),
        f"tensor `{FC1}` has shape (4, 2, 1), expected (4, 2)",
    ),
    "matrix of 2^62 rows": (
        lambda f: f.change(FC1, shape=(4, 2**62)),
        f"tensor `{FC1}` has shape (4, {2**62}), expected (4, 2)",
    ),
    "fc2 with too few families": (
        lambda f: f.change(FC2, shape=(2, 2)),
        f"tensor `{FC2}` has shape (2, 2), expected (2, 3)",
    ),
    "bias of another length": (
        lambda f: f.change("lcg.fc1.bias", shape=(3,)),
        "tensor `lcg.fc1.bias` has shape (3), expected (2)",
    ),
    "bias as a matrix": (
        lambda f: f.change("lcg.fc2.bias", shape=(3, 1)),
        "tensor `lcg.fc2.bias` has shape (3, 1), expected (3)",
    ),
    "table of another vocabulary": (
        lambda f: f.change(TABLE, shape=(6,), data=bytes(6)),
        f"tensor `{TABLE}` has shape (6), expected (5)",
    ),
    "no dimensions": (lambda f: f.change(FC1, n_dims=0), f"tensor `{FC1}` has 0 dimensions, expected 1 to 4"),
    "five dimensions": (
        lambda f: f.change(FC1, shape=(4, 2, 1, 1, 1)),
        f"tensor `{FC1}` has 5 dimensions, expected 1 to 4",
    ),
    "unaligned": (
        lambda f: f.change("lcg.fc2.bias", offset=100),
        "tensor `lcg.fc2.bias` has offset 100, expected a multiple of 32",
    ),
    "overlap": (
        lambda f: f.change("lcg.fc1.bias", offset=0),
        "tensors `lcg.fc1.weight` and `lcg.fc1.bias` overlap",
    ),
    "offset at the end of the file": (
        lambda f: f.change(TABLE, offset=160),
        f"tensor `{TABLE}` leaves the file: offset 160, 5 bytes, the data section has 133",
    ),
    "offset that overflows": (
        lambda f: f.change(TABLE, offset=2**64 - 32),
        f"tensor `{TABLE}` leaves the file: offset {2**64 - 32}, 5 bytes, the data section has 133",
    ),
    "family 3 of 3": (
        lambda f: f.change(TABLE, data=bytes([0, 1, 3, 0, 0])),
        f"tensor `{TABLE}` gives token 2 the family 3, expected 0 to 2",
    ),
    "negative family": (
        lambda f: f.change(TABLE, data=bytes([0, 1, 2, 0, 255])),
        f"tensor `{TABLE}` gives token 4 the family -1, expected 0 to 2",
    ),
    "Q8_0 rows of 4": (
        lambda f: f.change(FC1, kind=gb.TENSOR_Q8_0),
        f"tensor `{FC1}` is Q8_0 with rows of 4 values, expected a multiple of 32",
    ),
}


@pytest.mark.parametrize("name", BAD_TENSORS)
def test_bad_tensors_are_refused(name: str) -> None:
    damage, message = BAD_TENSORS[name]
    assert refusal(damaged(damage)) == message


def test_tensors_that_share_a_single_byte_are_refused() -> None:
    file = gb.minimal().set("general.alignment", gb.scalar(gb.U32, 1))
    file.alignment = 1
    parse(file.bytes())
    assert refusal(file.change("lcg.fc1.bias", offset=31).bytes()) == (
        "tensors `lcg.fc1.weight` and `lcg.fc1.bias` overlap"
    )


def test_q8_0_rows_longer_than_a_block_but_not_of_whole_blocks_are_refused() -> None:
    data = gb.q8_0_block(1.0, [1] * 32) * 6
    assert refusal(gb.linear(gb.TENSOR_Q8_0, data, n_embd=48).bytes()) == (
        f"tensor `{FC2}` is Q8_0 with rows of 48 values, expected a multiple of 32"
    )


@pytest.mark.parametrize("name", ["lcg.fc1.weight", "lcg.fc1.bias", "lcg.fc2.weight", "lcg.fc2.bias"])
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_nan_and_inf_are_refused_in_every_tensor(name: str, value: float) -> None:
    size = {tensor.name: len(tensor.data) // 4 for tensor in gb.minimal().tensors}[name]
    for place in range(size):
        values = [1.0] * size
        values[place] = value
        data = damaged(lambda file, values=values: file.change(name, data=gb.floats(*values)))
        assert refusal(data) == f"tensor `{name}` holds NaN or Inf"


ENCODED: dict[int, Callable[[int, float], bytes]] = {
    gb.TENSOR_F16: lambda at, value: gb.halves(*[value if i == at else 1.0 for i in range(96)]),
    gb.TENSOR_BF16: lambda at, value: gb.brain_floats(*[value if i == at else 1.0 for i in range(96)]),
    gb.TENSOR_Q8_0: lambda at, value: b"".join(
        gb.q8_0_block(value if i == at // 32 else 1.0, [127] * 32) for i in range(3)
    ),
}


@pytest.mark.parametrize("kind", ENCODED)
@pytest.mark.parametrize("value", [math.nan, -math.nan, math.inf, -math.inf])
def test_nan_and_inf_are_refused_in_every_type(kind: int, value: float) -> None:
    for place in (0, 31, 32, 95):
        assert refusal(gb.linear(kind, ENCODED[kind](place, value)).bytes()) == f"tensor `{FC2}` holds NaN or Inf"


def test_nan_is_seen_in_its_least_visible_bit_pattern() -> None:
    assert "NaN" in refusal(gb.linear(gb.TENSOR_F16, struct.pack("<96H", 0x7C01, *[0] * 95)).bytes())
    assert "NaN" in refusal(gb.linear(gb.TENSOR_BF16, struct.pack("<96H", *[0] * 95, 0xFF81)).bytes())


@pytest.mark.parametrize("kind", ENCODED)
def test_largest_and_smallest_finite_values_are_allowed(kind: int) -> None:
    largest = 2.0**127 if kind == gb.TENSOR_BF16 else 65504.0
    for value in (largest, -largest, 0.0, -0.0, 2.0**-24):
        parse(gb.linear(kind, ENCODED[kind](7, value)).bytes())


def test_tensors_may_stand_in_any_order_with_gaps_and_bytes_behind_them(tmp_path: Path) -> None:
    file = gb.minimal()
    file.tensors.reverse()
    size_of_data = 4 * 32 + 32
    start = len(file.bytes()) - size_of_data
    file.tensors = [dataclasses.replace(t, offset=64 * (9 - i)) for i, t in enumerate(file.tensors)]
    data = bytearray(file.bytes()[:start] + b"\xff" * 1024)
    for tensor in file.tensors:
        assert tensor.offset is not None
        data[start + tensor.offset : start + tensor.offset + len(tensor.data)] = tensor.data
    (tmp_path / "gate.gguf").write_bytes(data)
    gate = Gate.load(tmp_path / "gate.gguf")
    assert gate.predict([[3, 7, 1, 5]]).tolist() == [[3.5, 3.25, 1.5]]
    assert gate.token_families.tolist() == [0, 1, 2, 0, 2]


# ---- other files ----


def test_the_first_bytes_of_a_base_model_are_told_for_what_they_are() -> None:
    file = gb.GgufFile(
        [
            ("general.architecture", gb.scalar(gb.STRING, "qwen3")),
            ("general.type", gb.scalar(gb.STRING, "model")),
            ("general.name", gb.scalar(gb.STRING, "Qwen3 4B")),
            ("tokenizer.ggml.tokens", gb.array(gb.STRING, ["!"] * 8, length=2_000_000)),
        ],
        [],
        n_tensors=398,
        n_keys=28,
    )
    assert refusal(file.bytes()[:160]) == 'key `general.type` is "model", expected "adapter"' + BASE_MODEL_HINT


def test_real_vocabularies_are_refused(vocab_dir: Path) -> None:
    paths = sorted(vocab_dir.glob("*.gguf"))
    assert paths
    for path in paths:
        with pytest.raises(GateError, match=r"general\.type") as caught:
            read_gate_file(path)
        assert str(caught.value).startswith(f"{path}: ")


def test_gguf_py_writes_lora_adapters_that_are_refused(tmp_path: Path) -> None:
    import gguf

    writer = gguf.GGUFWriter(tmp_path / "lora.gguf", "llama")
    writer.add_type("adapter")
    writer.add_string("adapter.type", "lora")
    writer.add_tensor("blk.0.attn_q.weight.lora_a", np.zeros((4, 4), np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    with pytest.raises(GateError, match=r'key `adapter\.type` is "lora", expected "lcg"'):
        read_gate_file(tmp_path / "lora.gguf")


def test_files_that_cannot_be_read_are_os_errors(tmp_path: Path) -> None:
    missing = tmp_path / "missing.gguf"
    for read in (read_gate_file, Gate.load):
        with pytest.raises(FileNotFoundError) as caught:
            read(missing)
        assert caught.value.filename == str(missing)
        with pytest.raises(OSError, match=tmp_path.name):  # IsADirectoryError, on Windows PermissionError
            read(tmp_path)


@pytest.mark.skipif(os.name == "nt" or os.geteuid() == 0, reason="root and Windows may read everything")
def test_unreadable_files_are_os_errors(tmp_path: Path) -> None:
    path = tmp_path / "gate.gguf"
    path.write_bytes(gb.minimal().bytes())
    path.chmod(0)
    with pytest.raises(PermissionError):
        read_gate_file(path)


def test_files_larger_than_any_gate_are_refused_unread(tmp_path: Path) -> None:
    path = tmp_path / "model.gguf"
    with path.open("wb") as file:
        file.truncate((2 << 30) + 1)
    with pytest.raises(GateError) as caught:
        read_gate_file(path)
    assert str(caught.value) == f"{path}: has 2.1 GB, a gate file has at most 2.1 GB{BASE_MODEL_HINT}"


@pytest.mark.skipif(sys.platform != "linux", reason="other systems do not allow such names")
def test_file_names_that_are_not_utf_8_are_readable_and_named_in_errors(tmp_path: Path) -> None:
    path = tmp_path / os.fsdecode(b"caf\xe9.gguf")
    path.write_bytes(gb.minimal().bytes())
    assert Gate.load(path).path == str(path)
    path.write_bytes(b"nothing")
    with pytest.raises(GateError, match="not a GGUF file"):
        Gate.load(path)


def test_a_path_may_hold_any_character(tmp_path: Path) -> None:
    path = tmp_path / "a gate: ä 日本 `x` %s {}.gguf"
    path.write_bytes(b"GGUF")
    with pytest.raises(GateError) as caught:
        read_gate_file(str(path))
    assert str(caught.value).startswith(f"{path}: file ends inside the GGUF version")


# ---- round trips ----


def assert_same(found: object, expected: object) -> None:
    assert found == expected
    assert type(found) is type(expected)
    if isinstance(found, list):
        assert isinstance(expected, list)
        assert [type(value) for value in found] == [type(value) for value in expected]


@pytest.mark.parametrize("outtype", ["f32", "f16", "bf16", "q8_0"])
@pytest.mark.parametrize("n_hidden", [0, 64])
def test_what_the_writer_writes_is_read_back_with_its_types(tmp_path: Path, outtype: str, n_hidden: int) -> None:
    spec = GateSpec(
        architecture="qwen3",
        n_embd=32,
        n_hidden=n_hidden,
        token_family=np.array([0, 1, 2, 3, 3], np.uint8),
        tokenizer_hash="0f" * 32,
        threshold=0.25,
        own_thresholds=(0.5, 0.125, 0.75, 0.0625),
        first_thresholds=(0.625, 0.25, 0.875, 0.5),
        allow_thresholds=(0.125, 1.0, 1.0, 0.25),
        confidence=((3, 0.5), (7, 0.25), (1, 1.0)),
        exempt_tokens=(3, 0),
        masked_as={4: 1, 1: 0},
        families=family_set("paper"),
        name="LCG for Q",
        version="v2",
        license="apache-2.0",
        base_models=(Source("Q", organization="o", version="3", repo_url="https://example.org"),),
        datasets=(Source("d"),),
        train={"tokens": 2**40, "label.top_p": 0.5, "norm": "output", "shuffled": False},
    )
    rng = np.random.default_rng(0)
    weights = {FC2: rng.standard_normal((4, n_hidden or 32), dtype=np.float32)}
    if n_hidden:
        weights[FC1] = rng.standard_normal((n_hidden, 32), dtype=np.float32)
        weights["lcg.fc1.bias"] = np.ones(n_hidden, np.float32)
    path = tmp_path / "gate.gguf"
    write_gate(path, spec, weights, outtype)
    file = read_gate_file(path)
    metadata = file.metadata
    expected: dict[str, Any] = {
        "general.architecture": "qwen3",
        "general.type": "adapter",
        "adapter.type": "lcg",
        "general.name": "LCG for Q",
        "general.version": "v2",
        "general.license": "apache-2.0",
        "general.file_type": {"f32": 0, "f16": 1, "bf16": 32, "q8_0": 7}[outtype],
        "general.base_model.count": 1,
        "general.base_model.0.name": "Q",
        "general.base_model.0.organization": "o",
        "general.base_model.0.version": "3",
        "general.base_model.0.repo_url": "https://example.org",
        "general.dataset.count": 1,
        "general.dataset.0.name": "d",
        "adapter.lcg.version": 1,
        "adapter.lcg.n_embd": 32,
        "adapter.lcg.n_hidden": n_hidden,
        "adapter.lcg.n_vocab": 5,
        "adapter.lcg.families": ["cj", "latin", "symbols", "lowres"],
        "adapter.lcg.maskable": [True, True, False, False],
        "adapter.lcg.neutral": 2,
        "adapter.lcg.threshold": 0.25,
        "adapter.lcg.thresholds": [0.5, 0.125, 0.75, 0.0625],
        "adapter.lcg.first_thresholds": [0.625, 0.25, 0.875, 0.5],
        "adapter.lcg.allow_thresholds": [0.125, 1.0, 1.0, 0.25],
        "adapter.lcg.confidence.top_k": [3, 7, 1],
        "adapter.lcg.confidence.top_p": [0.5, 0.25, 1.0],
        "adapter.lcg.exempt_tokens": [3, 0],
        "adapter.lcg.masked_as.tokens": [1, 4],
        "adapter.lcg.masked_as.families": [0, 1],
        "adapter.lcg.rules": "paper",
        "adapter.lcg.tokenizer_hash": "0f" * 32,
        "adapter.lcg.train.tokens": 2**40,
        "adapter.lcg.train.label.top_p": 0.5,
        "adapter.lcg.train.norm": "output",
        "adapter.lcg.train.shuffled": False,
    }
    assert list(metadata) == list(expected)
    for key, value in expected.items():
        assert_same(metadata[key], value)
    kind = outtype.upper()
    tensors: dict[str, Any] = {FC2: (kind, (4, n_hidden or 32)), TABLE: ("I8", (5,))}
    if n_hidden:
        tensors.update({FC1: (kind, (n_hidden, 32)), "lcg.fc1.bias": ("F32", (n_hidden,))})
    assert file.tensors == tensors
    gate = Gate.load(path)
    assert gate.token_families.tolist() == [2, 1, 2, 2, 3]
    assert gate.masked_as.tolist() == [2, 0, 2, 2, 1]
    assert gate.thresholds == Thresholds((0.5, 0.125, 0.75, 0.0625), (0.625, 0.25, 0.875, 0.5), (0.125, 1.0, 1.0, 0.25))
    assert gate.families.rules == "paper"
    assert gate.confidence == ((3, 0.5), (7, 0.25), (1, 1.0))


def test_a_gate_that_exempts_nothing_is_read_back(tmp_path: Path) -> None:
    spec = GateSpec("llama", 4, 0, np.array([0, 1, 2, 3], np.uint8), "0" * 64)
    write_gate(tmp_path / "gate.gguf", spec, {FC2: np.eye(4, dtype=np.float32)})
    assert Gate.load(tmp_path / "gate.gguf").exempt_tokens == ()


# ---- random damage ----


def mutated(rng: random.Random, data: bytes) -> bytes:
    """The file with a few random bytes changed, inserted, removed or cut off, half of them in the header."""
    raw = bytearray(data)
    for _ in range(rng.choice((1, 1, 1, 2, 4, 16))):
        place = rng.randrange(len(raw)) if rng.random() < 0.5 else min(rng.randrange(1024), len(raw) - 1)
        action = rng.randrange(6)
        if action == 0:
            raw[place] ^= 1 << rng.randrange(8)
        elif action == 1:
            raw[place] = rng.choice((0, 1, 127, 128, 254, 255, rng.randrange(256)))
        elif action == 2:
            raw[place:place] = rng.randbytes(rng.randrange(1, 9))
        elif action == 3:
            del raw[place : place + rng.randrange(1, 9)]
        elif action == 4:
            raw[place : place + 8] = struct.pack("<Q", rng.choice((0, 1, 2**20, 2**31, 2**32 - 1, 2**63, 2**64 - 1)))
        else:
            source = rng.randrange(len(raw))
            raw[place : place + 16] = raw[source : source + 16]
        if rng.random() < 0.02:
            del raw[rng.randrange(len(raw)) :]
        if not raw:
            return b""
    return bytes(raw)


SEEDS = {
    "two layers": gb.minimal().bytes(),
    "f16": gb.linear(gb.TENSOR_F16, ENCODED[gb.TENSOR_F16](0, 2.0)).bytes(),
    "bf16": gb.linear(gb.TENSOR_BF16, ENCODED[gb.TENSOR_BF16](0, 2.0)).bytes(),
    "q8_0": gb.linear(gb.TENSOR_Q8_0, ENCODED[gb.TENSOR_Q8_0](0, 2.0)).bytes(),
}


@pytest.mark.parametrize("name", SEEDS)
def test_randomly_damaged_files_are_refused_or_make_a_gate_that_works(name: str) -> None:
    connect_core()
    rng = random.Random(name)
    accepted = 0
    messages = set()
    for _ in range(5000):
        data = mutated(rng, SEEDS[name])
        try:
            file = parse(data)
        except GateError as error:
            messages.add(str(error))
            continue
        accepted += 1
        metadata = file.metadata
        gate = _core.Gate(file, "cpu")
        n_families = len(metadata["adapter.lcg.families"])
        assert gate.predict(np.zeros((1, gate.n_embd), np.float32)).shape == (1, n_families)
        assert gate.token_families.max() < n_families
    assert 50 < accepted < 4950
    assert all(message.startswith(PATH + ": ") for message in messages)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes with names on this system")
def test_a_pipe_is_refused_at_once(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.gguf")
    with pytest.raises(OSError, match=r"is a pipe, expected a regular file: .*pipe\.gguf"):
        Gate.load(tmp_path / "pipe.gguf")


@pytest.mark.parametrize("suffix", [".safetensors", ".pt", ".pth", ".bin", ".ckpt"])
def test_a_checkpoint_is_pointed_to_convert(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"gate{suffix}"
    path.write_bytes(b"\x10\0\0\0\0\0\0\0{}")
    with pytest.raises(GateError) as error:
        Gate.load(path)
    assert str(error.value) == (
        f"{path}: holds weights for PyTorch, expected a gate file; make one with `lcg-cpp convert {path} --base"
        " MODEL.gguf`"
    )
    path.write_bytes(gb.minimal().bytes())  # a gate file by its content
    assert Gate.load(path).n_vocab == 5


def test_a_path_of_bytes_is_a_path(tmp_path: Path) -> None:
    path = tmp_path / "gate.gguf"
    path.write_bytes(gb.minimal().bytes())
    assert Gate.load(os.fsencode(path)).path == str(path)  # type: ignore[arg-type]
