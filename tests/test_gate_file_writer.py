"""Gate files as written, read back with gguf's own reader."""

from __future__ import annotations

import dataclasses
import os
import stat
import struct
import subprocess
import sys
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest

from lcg_cpp.engine.base_model import BYTE, CONTROL, NORMAL, BaseModel, Vocab
from lcg_cpp.errors import GateError
from lcg_cpp.gate import gate_file
from lcg_cpp.gate.gate_file import gate_file_name, write_gate
from lcg_cpp.gate.rule_set import FamilySet
from lcg_cpp.gate.spec import GateSpec, Source, spec_for

N_EMBD, N_HIDDEN = 64, 32
KINDS = gguf.GGUFValueType


def make_spec(**changes: Any) -> GateSpec:
    fields: dict[str, Any] = {
        "architecture": "qwen3",
        "n_embd": N_EMBD,
        "n_hidden": N_HIDDEN,
        "token_family": np.array([0, 1, 2, 3, 1, 0, 2], dtype=np.uint8),
        "tokenizer_hash": "ab" * 32,
    }
    return GateSpec(**{**fields, **changes})


def make_weights(n_embd: int = N_EMBD, n_hidden: int = N_HIDDEN, n_families: int = 4) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    weights = {"lcg.fc2.weight": rng.standard_normal((n_families, n_hidden or n_embd), dtype=np.float32)}
    if n_hidden:
        weights["lcg.fc1.weight"] = rng.standard_normal((n_hidden, n_embd), dtype=np.float32)
    return weights


def read(path: Path) -> tuple[dict[str, tuple[list[gguf.GGUFValueType], Any]], dict[str, gguf.ReaderTensor]]:
    reader = gguf.GGUFReader(path)
    keys = {key: (field.types, field.contents()) for key, field in reader.fields.items() if not key.startswith("GGUF.")}
    return keys, {tensor.name: tensor for tensor in reader.tensors}


def test_every_key_has_the_type_and_value_of_the_format(tmp_path: Path) -> None:
    spec = make_spec(
        exempt_tokens=(1, 4),
        masked_as={5: 1, 3: 0},
        name="LCG for Qwen3",
        version="v1.0",
        license="mit",
        base_models=(Source("Qwen3-4B", organization="Qwen", version="2507", repo_url="https://example.org/q"),),
        datasets=(Source("aya"), Source("flores", version="+")),
        train={"tokens": 5_000_000_000, "label.top_p": 0.5, "label.norm": "relative", "shuffled": True},
    )
    write_gate(tmp_path / "gate.gguf", spec, make_weights(), "f32")
    keys, _ = read(tmp_path / "gate.gguf")
    assert keys == {
        "general.architecture": ([KINDS.STRING], "qwen3"),
        "general.type": ([KINDS.STRING], "adapter"),
        "adapter.type": ([KINDS.STRING], "lcg"),
        "general.name": ([KINDS.STRING], "LCG for Qwen3"),
        "general.version": ([KINDS.STRING], "v1.0"),
        "general.license": ([KINDS.STRING], "mit"),
        "general.file_type": ([KINDS.UINT32], 0),
        "general.base_model.count": ([KINDS.UINT32], 1),
        "general.base_model.0.name": ([KINDS.STRING], "Qwen3-4B"),
        "general.base_model.0.organization": ([KINDS.STRING], "Qwen"),
        "general.base_model.0.version": ([KINDS.STRING], "2507"),
        "general.base_model.0.repo_url": ([KINDS.STRING], "https://example.org/q"),
        "general.dataset.count": ([KINDS.UINT32], 2),
        "general.dataset.0.name": ([KINDS.STRING], "aya"),
        "general.dataset.1.name": ([KINDS.STRING], "flores"),
        "general.dataset.1.version": ([KINDS.STRING], "+"),
        "adapter.lcg.version": ([KINDS.UINT32], 1),
        "adapter.lcg.n_embd": ([KINDS.UINT32], 64),
        "adapter.lcg.n_hidden": ([KINDS.UINT32], 32),
        "adapter.lcg.n_vocab": ([KINDS.UINT32], 7),
        "adapter.lcg.families": ([KINDS.ARRAY, KINDS.STRING], ["cj", "latin", "symbols", "lowres"]),
        "adapter.lcg.maskable": ([KINDS.ARRAY, KINDS.BOOL], [True, True, False, False]),
        "adapter.lcg.neutral": ([KINDS.UINT32], 2),
        "adapter.lcg.threshold": ([KINDS.FLOAT32], 0.5),
        "adapter.lcg.confidence.top_k": ([KINDS.ARRAY, KINDS.UINT32], [5, 20]),
        "adapter.lcg.confidence.top_p": (
            [KINDS.ARRAY, KINDS.FLOAT32],
            [float(np.float32(0.999)), float(np.float32(0.95))],
        ),
        "adapter.lcg.exempt_tokens": ([KINDS.ARRAY, KINDS.UINT32], [1, 4]),
        "adapter.lcg.masked_as.tokens": ([KINDS.ARRAY, KINDS.UINT32], [3, 5]),
        "adapter.lcg.masked_as.families": ([KINDS.ARRAY, KINDS.UINT32], [0, 1]),
        "adapter.lcg.rules": ([KINDS.STRING], "default"),
        "adapter.lcg.tokenizer_hash": ([KINDS.STRING], "ab" * 32),
        "adapter.lcg.train.tokens": ([KINDS.UINT64], 5_000_000_000),
        "adapter.lcg.train.label.top_p": ([KINDS.FLOAT32], 0.5),
        "adapter.lcg.train.label.norm": ([KINDS.STRING], "relative"),
        "adapter.lcg.train.shuffled": ([KINDS.BOOL], True),
    }


def test_provenance_and_exemptions_that_are_not_given_are_left_out(tmp_path: Path) -> None:
    write_gate(tmp_path / "gate.gguf", make_spec(), make_weights())
    keys, _ = read(tmp_path / "gate.gguf")
    assert [key for key in keys if key.startswith("general.")] == [
        "general.architecture",
        "general.type",
        "general.file_type",
    ]
    assert not {"adapter.lcg.exempt_tokens", "adapter.lcg.masked_as.tokens"} & set(keys)


def test_header_is_gguf_3_little_endian_with_data_aligned_to_32(tmp_path: Path) -> None:
    path = tmp_path / "gate.gguf"
    write_gate(path, make_spec(), make_weights(), "bf16")
    magic, version, n_tensors, _ = struct.unpack("<4sIQQ", path.read_bytes()[:24])
    assert (magic, version, n_tensors) == (b"GGUF", 3, 3)
    tensors = gguf.GGUFReader(path).tensors
    assert [tensor.data_offset % 32 for tensor in tensors] == [0, 0, 0]
    assert path.stat().st_size % 32 == 0


def test_f32_matrices_and_biases_come_back_exactly_with_reversed_shapes(tmp_path: Path) -> None:
    weights = make_weights()
    weights["lcg.fc1.bias"] = np.arange(N_HIDDEN, dtype=np.float32)
    weights["lcg.fc2.bias"] = np.array([1.5, -2.0, 0.0, 3.25], dtype=np.float32)
    write_gate(tmp_path / "gate.gguf", make_spec(), weights, "f32")
    _, tensors = read(tmp_path / "gate.gguf")
    assert {name: (tensor.tensor_type.name, tensor.shape.tolist()) for name, tensor in tensors.items()} == {
        "lcg.fc1.weight": ("F32", [64, 32]),
        "lcg.fc1.bias": ("F32", [32]),
        "lcg.fc2.weight": ("F32", [32, 4]),
        "lcg.fc2.bias": ("F32", [4]),
        "lcg.token_family": ("I8", [7]),
    }
    for name, weight in weights.items():
        np.testing.assert_array_equal(tensors[name].data, weight)
    assert tensors["lcg.token_family"].data.tolist() == [0, 1, 2, 3, 1, 0, 2]


@pytest.mark.parametrize(
    ("outtype", "file_type", "values", "expected"),
    [
        # BF16 keeps 8 bits of mantissa, ties to even; F16 keeps 11
        ("bf16", 32, [1.0, 1.00390625, 1.01171875, -3e38], [1.0, 1.0, 1.015625, -1.765625 * 2.0**127]),
        ("f16", 1, [1.0, 1.00048828125, 65504.0, 6e-8], [1.0, 1.0, 65504.0, 5.9604645e-08]),
        # the scale of a block is its largest value / 127
        ("q8_0", 7, [127.0, 63.4, -63.6, 0.4], [127.0, 63.0, -64.0, 0.0]),
    ],
)
def test_narrow_types_round_as_they_must(
    tmp_path: Path, outtype: str, file_type: int, values: list[float], expected: list[float]
) -> None:
    weights = make_weights(n_hidden=0)
    weights["lcg.fc2.weight"][:] = 0.0
    weights["lcg.fc2.weight"][2, :4] = values
    weights["lcg.fc2.bias"] = np.array([1.00048828125, 0, 0, 0], dtype=np.float32)
    write_gate(tmp_path / "gate.gguf", make_spec(n_hidden=0), weights, outtype)
    keys, tensors = read(tmp_path / "gate.gguf")
    assert keys["general.file_type"] == ([KINDS.UINT32], file_type)
    fc2 = tensors["lcg.fc2.weight"]
    assert (fc2.tensor_type.name, fc2.shape.tolist()) == (outtype.upper(), [64, 4])
    stored = gguf.quants.dequantize(fc2.data, fc2.tensor_type)
    np.testing.assert_array_equal(stored[2, :4], np.array(expected, dtype=np.float32))
    assert np.count_nonzero(stored) == np.count_nonzero(expected)
    np.testing.assert_array_equal(tensors["lcg.fc2.bias"].data, weights["lcg.fc2.bias"])


def test_q8_0_rows_that_are_no_multiple_of_32_fall_back_to_f16(tmp_path: Path) -> None:
    path = tmp_path / "gate.gguf"
    write_gate(path, make_spec(n_hidden=12), make_weights(n_hidden=12), "q8_0")
    keys, tensors = read(path)
    assert {name: tensor.tensor_type.name for name, tensor in tensors.items()} == {
        "lcg.fc1.weight": "Q8_0",
        "lcg.fc2.weight": "F16",
        "lcg.token_family": "I8",
    }
    assert keys["general.file_type"][1] == 7
    write_gate(path, make_spec(n_embd=12, n_hidden=0), make_weights(12, 0), "q8_0")
    keys, tensors = read(path)
    assert tensors["lcg.fc2.weight"].tensor_type.name == "F16"
    assert keys["general.file_type"][1] == 1


@pytest.mark.parametrize(("outtype", "value"), [("f16", 65520.0), ("bf16", 3.4e38), ("q8_0", 1e7)])
def test_values_that_the_type_cannot_hold_are_refused(tmp_path: Path, outtype: str, value: float) -> None:
    weights = make_weights()
    weights["lcg.fc1.weight"][3, 5] = -value
    with pytest.raises(GateError, match=rf"tensor `lcg.fc1.weight` holds .*{outtype.upper()} cannot hold"):
        write_gate(tmp_path / "gate.gguf", make_spec(), weights, outtype)
    assert list(tmp_path.iterdir()) == []
    write_gate(tmp_path / "gate.gguf", make_spec(), weights, "f32")


def test_q8_0_stores_blocks_of_almost_nothing_as_zero(tmp_path: Path) -> None:
    weights = make_weights(n_hidden=0)
    weights["lcg.fc2.weight"][:] = 1e-41
    weights["lcg.fc2.weight"][:, 0] = 0.0
    write_gate(tmp_path / "gate.gguf", make_spec(n_hidden=0), weights, "q8_0")
    fc2 = read(tmp_path / "gate.gguf")[1]["lcg.fc2.weight"]
    assert not gguf.quants.dequantize(fc2.data, fc2.tensor_type).any()


def test_two_runs_write_identical_bytes_and_the_order_of_weights_does_not_matter(tmp_path: Path) -> None:
    weights = make_weights()
    weights["lcg.fc2.bias"] = np.ones(4, dtype=np.float32)
    for outtype in gate_file.OUTTYPES:
        write_gate(tmp_path / "a.gguf", make_spec(name="x"), weights, outtype)
        write_gate(tmp_path / "b.gguf", make_spec(name="x"), dict(reversed(weights.items())), outtype)
        assert (tmp_path / "a.gguf").read_bytes() == (tmp_path / "b.gguf").read_bytes()


def test_non_contiguous_weights_are_written_as_seen(tmp_path: Path) -> None:
    weights = make_weights()
    strided = {name: np.asfortranarray(weight) for name, weight in weights.items()}
    table = np.array([[0, 1, 2, 3], [3, 3, 3, 3]], dtype=np.uint8).T[:, 0]
    for outtype in gate_file.OUTTYPES:
        write_gate(tmp_path / "a", make_spec(token_family=table.copy()), weights, outtype)
        write_gate(tmp_path / "b", make_spec(token_family=table), strided, outtype)
        assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"lcg.fc2.weight": None}, r"tensor `lcg.fc2.weight` is missing, expected shape \(4, 32\)"),
        ({"lcg.fc1.weight": None}, r"tensor `lcg.fc1.weight` is missing, expected shape \(32, 64\)"),
        ({"lcg.fc3.weight": np.zeros(1, np.float32)}, "tensor `lcg.fc3.weight` is unknown"),
        (
            {"lcg.fc1.weight": np.zeros((64, 32), np.float32)},
            r"tensor `lcg.fc1.weight` has shape \(64, 32\), expected \(32, 64\)",
        ),
        (
            {"lcg.fc2.weight": np.zeros((5, 32), np.float32)},
            r"tensor `lcg.fc2.weight` has shape \(5, 32\), expected \(4, 32\)",
        ),
        ({"lcg.fc1.bias": np.zeros(31, np.float32)}, r"tensor `lcg.fc1.bias` has shape \(31,\), expected \(32,\)"),
        ({"lcg.fc2.bias": np.zeros((4, 1), np.float32)}, r"tensor `lcg.fc2.bias` has shape \(4, 1\)"),
        ({"lcg.fc2.weight": np.zeros((4, 32))}, "tensor `lcg.fc2.weight` has dtype float64, expected float32"),
        (
            {"lcg.fc2.weight": np.where(np.arange(128).reshape(4, 32) == 70, np.nan, 0).astype(np.float32)},
            r"tensor `lcg.fc2.weight` holds nan at \[2, 6\], expected finite numbers$",
        ),
        (
            {"lcg.fc2.bias": np.array([0, 0, 0, -np.inf], np.float32)},
            r"`lcg.fc2.bias` holds -inf at \[3\], expected finite numbers$",
        ),
    ],
)
def test_wrong_weights_are_refused_before_anything_is_written(
    tmp_path: Path, change: dict[str, np.ndarray | None], message: str
) -> None:
    weights = {name: weight for name, weight in {**make_weights(), **change}.items() if weight is not None}
    with pytest.raises(GateError, match=message):
        write_gate(tmp_path / "gate.gguf", make_spec(), weights)
    assert list(tmp_path.iterdir()) == []


def test_a_linear_gate_has_no_first_layer(tmp_path: Path) -> None:
    with pytest.raises(GateError, match=r"tensor `lcg.fc1.weight` is unknown"):
        write_gate(tmp_path / "gate.gguf", make_spec(n_hidden=0), {**make_weights(), **make_weights(n_hidden=0)})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"architecture": ""}, "`architecture` is empty"),
        ({"n_embd": 0}, "`n_embd` is 0, expected 1 to 65536"),
        ({"n_hidden": 65537}, "`n_hidden` is 65537, expected 0 to 65536"),
        ({"token_family": np.array([0, 4, 5], np.uint8)}, "gives token 1 the family 4, expected 0 to 3"),
        ({"token_family": np.zeros(0, np.uint8)}, "length of `token_family` is 0"),
        ({"token_family": np.zeros(3, np.int64)}, r"`token_family` is int64 \(3,\), expected uint8"),
        ({"threshold": 1.0}, "`threshold` is 1.0"),
        ({"threshold": 0.99999999}, "`threshold` is 0.99999999"),
        ({"threshold": float("nan")}, "`threshold` is nan"),
        ({"own_thresholds": (0.5, 0.5, 0.5)}, "`own_thresholds` has 3 elements, expected 4, one for each family"),
        ({"first_thresholds": (0.5,) * 5}, "`first_thresholds` has 5 elements, expected 4, one for each family"),
        ({"allow_thresholds": (0.5,) * 3}, "`allow_thresholds` has 3 elements, expected 4, one for each family"),
        ({"allow_thresholds": (1.0, 1.0, 1.0, 0.0)}, "`allow_thresholds` holds 0.0, expected a probability above 0"),
        ({"first_thresholds": (0.5, 0.5, 0.5, 1.0)}, "`threshold` is 1.0, expected a probability between 0 and 1"),
        ({"own_thresholds": (0.5, 0.5, 0.0, 0.5)}, "`threshold` is 0.0, expected a probability between 0 and 1"),
        ({"confidence": ()}, "number of `confidence` sets is 0, expected 1 to 8"),
        ({"confidence": ((0, 0.5),)}, "`confidence` top_k is 0, expected 1 to 1024"),
        ({"confidence": ((5, 1.5),)}, "`confidence` top_p is 1.5"),
        ({"exempt_tokens": (7,)}, "`exempt_tokens` id is 7, expected 0 to 6"),
        ({"masked_as": {7: 1}}, "`masked_as` id is 7, expected 0 to 6"),
        ({"masked_as": {3: 4}}, "family in `masked_as` is 4, expected 0 to 3"),
        ({"train": {"loss": None}}, "`train` loss is None"),
        ({"train": {"steps": -1}}, "`train` steps is -1"),
    ],
)
def test_a_specification_that_the_reader_would_refuse_cannot_be_made(change: dict[str, Any], message: str) -> None:
    with pytest.raises(GateError, match=message):
        make_spec(**change)


def test_an_unknown_type_is_refused(tmp_path: Path) -> None:
    with pytest.raises(GateError, match="`outtype` is 'q4_0', expected one of f32, f16, bf16, q8_0"):
        write_gate(tmp_path / "gate.gguf", make_spec(), make_weights(), "q4_0")


def test_more_families_than_the_papers_need_no_other_code(tmp_path: Path) -> None:
    names = tuple(f"script{i}" for i in range(127))
    spec = make_spec(
        families=FamilySet(names, (True,) * 126 + (False,), 126, "default"), token_family=np.array([126, 0], np.uint8)
    )
    write_gate(tmp_path / "gate.gguf", spec, make_weights(n_families=127))
    keys, tensors = read(tmp_path / "gate.gguf")
    assert keys["adapter.lcg.families"][1] == list(names)
    assert tensors["lcg.fc2.weight"].shape.tolist() == [32, 127]
    assert tensors["lcg.token_family"].data.tolist() == [126, 0]


def test_an_existing_file_is_replaced_and_nothing_else_is_left(tmp_path: Path) -> None:
    path = tmp_path / "gate.gguf"
    path.write_bytes(b"old")
    write_gate(path, make_spec(), make_weights())
    assert path.read_bytes().startswith(b"GGUF")
    assert list(tmp_path.iterdir()) == [path]


def test_the_path_may_be_a_name_in_the_working_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write_gate("gate.gguf", make_spec(), make_weights())
    assert list(tmp_path.iterdir()) == [tmp_path / "gate.gguf"]


@pytest.mark.skipif(os.name == "nt", reason="file modes are POSIX")
def test_the_file_gets_the_mode_of_any_new_file(tmp_path: Path) -> None:
    (tmp_path / "plain").write_bytes(b"")
    write_gate(tmp_path / "gate.gguf", make_spec(), make_weights())
    assert stat.S_IMODE((tmp_path / "gate.gguf").stat().st_mode) == stat.S_IMODE((tmp_path / "plain").stat().st_mode)


@pytest.mark.skipif(os.name == "nt", reason="file size limits are POSIX")
@pytest.mark.parametrize("limit", [0, 100, 4096], ids=["at once", "in the keys", "in the weights"])
def test_a_full_disk_leaves_the_old_file_and_no_temporary_one(tmp_path: Path, limit: int) -> None:
    path = tmp_path / "gate.gguf"
    path.write_bytes(b"old")
    script = """
import resource, sys
import test_gate_file_writer as t
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[2]),) * 2)
try:
    t.write_gate(sys.argv[1], t.make_spec(), t.make_weights())
except OSError as error:
    print(error.filename)
"""
    run = subprocess.run(
        [sys.executable, "-c", script, str(path), str(limit)],
        cwd=Path(__file__).parent,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (run.returncode, run.stdout.strip(), run.stderr) == (0, str(path), "")
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_failing_replace_leaves_no_temporary_file(tmp_path: Path) -> None:
    target = tmp_path / "gate.gguf"
    (target / "in the way").mkdir(parents=True)
    with pytest.raises(OSError, match=r"gate\.gguf"):
        write_gate(target, make_spec(), make_weights())
    assert list(tmp_path.iterdir()) == [target]


def test_a_missing_folder_is_an_os_error_that_names_the_target(tmp_path: Path) -> None:
    target = tmp_path / "missing" / "gate.gguf"
    with pytest.raises(FileNotFoundError) as caught:
        write_gate(target, make_spec(), make_weights())
    assert caught.value.filename == str(target)


@pytest.mark.skipif(os.name == "nt" or os.geteuid() == 0, reason="root may write anywhere")
def test_a_read_only_folder_is_an_os_error_that_names_the_target(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    try:
        with pytest.raises(PermissionError) as caught:
            write_gate(tmp_path / "gate.gguf", make_spec(), make_weights())
    finally:
        tmp_path.chmod(0o700)
    assert caught.value.filename == str(tmp_path / "gate.gguf")


@pytest.mark.parametrize(
    ("arguments", "name"),
    [
        (("Qwen3-4B",), "lcg-Qwen3-4B-F16.gguf"),
        (("Qwen3-4B", "q8_0", "v1.0"), "lcg-Qwen3-4B-v1.0-Q8_0.gguf"),
        (("org/My Model: big", "bf16"), "lcg-org-My-Model-big-BF16.gguf"),
        (("../..", "f32"), "lcg-F32.gguf"),
    ],
)
def test_file_names_say_base_version_and_type(arguments: tuple[str, ...], name: str) -> None:
    assert gate_file_name(*arguments) == name


def make_base(**changes: Any) -> BaseModel:
    vocab = Vocab(
        (b"<s>", b"\xe4", b"A", " 中".encode(), b"the", "ع".encode()),
        np.array([CONTROL, BYTE, NORMAL, NORMAL, NORMAL, NORMAL], dtype=np.uint32),
    )
    base = BaseModel("m.gguf", "Tiny", "llama", 64, vocab, metadata={"general.organization": "Org"})
    return dataclasses.replace(base, **changes)


def test_spec_for_takes_everything_from_the_base_model() -> None:
    base = make_base()
    spec = spec_for(base, n_hidden=16, version="v2", train={"loss": 0.25})
    assert (spec.architecture, spec.n_embd, spec.n_hidden, spec.n_vocab) == ("llama", 64, 16, 6)
    assert spec.token_family.tolist() == [2, 0, 1, 0, 1, 3]  # exemptions are not applied
    assert spec.exempt_tokens == (2,)
    assert spec.tokenizer_hash == base.vocab.tokenizer_hash
    assert (spec.families.rules, spec.threshold, spec.name, spec.version) == ("default", 0.5, "LCG for Tiny", "v2")
    assert spec.base_models == (Source("Tiny", organization="Org"),)
    assert spec.train == {"loss": 0.25}
    assert spec_for(base, n_hidden=0, rules="paper").token_family.tolist() == [2, 2, 1, 0, 1, 3]
