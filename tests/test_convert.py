"""Checkpoints as PyTorch and safetensors write them, and damaged ones from literal bytes."""

from __future__ import annotations

import argparse
import json
import os
import pickle
import struct
import sys
import tracemalloc
import warnings
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest

from lcg_cpp.convert.convert import convert
from lcg_cpp.convert.gate_weights import read_weights
from lcg_cpp.convert.pytorch import open_checkpoint
from lcg_cpp.engine.base_model import NORMAL, BaseModel, Vocab
from lcg_cpp.errors import GateError
from lcg_cpp.gate.thresholds import Thresholds

N_EMBD, N_HIDDEN = 64, 32
PRE, HEAD = "code_switch_pre.weight", "code_switch_head.weight"


def random(*shape: int) -> np.ndarray:
    return np.random.default_rng(shape).standard_normal(shape, dtype=np.float32)


FC1, FC2 = random(N_HIDDEN, N_EMBD), random(4, N_HIDDEN)


def read_gate_weights(path: Path, n_embd: int) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    weights = read_weights(open_checkpoint(path), n_embd, 4)
    return weights.tensors, weights.sources


@pytest.fixture
def base() -> BaseModel:
    tokens = (b"A", " 中".encode(), b"the", "ع".encode(), b"1")
    vocab = Vocab(tokens, np.full(len(tokens), NORMAL, dtype=np.uint32))
    return BaseModel("tiny.gguf", "Tiny", "qwen3", N_EMBD, vocab)


def safetensors_bytes(
    tensors: dict[str, tuple[str, tuple[int, ...], bytes]], metadata: dict[str, str] | None = None
) -> bytes:
    """The format from its description: u64 header length, JSON header, data without gaps."""
    header: dict[str, Any] = {"__metadata__": {"format": "pt", **(metadata or {})}}
    data = b""
    for key, (dtype, shape, content) in tensors.items():
        header[key] = {
            "dtype": dtype,
            "shape": list(shape),
            "data_offsets": [len(data), len(data) + len(content)],
        }
        data += content
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data


def write_safetensors(path: Path, tensors: dict[str, np.ndarray], metadata: dict[str, str] | None = None) -> Path:
    names = {"float64": "F64", "float32": "F32", "float16": "F16", "int8": "I8"}
    path.write_bytes(
        safetensors_bytes({key: (names[str(t.dtype)], t.shape, t.tobytes()) for key, t in tensors.items()}, metadata)
    )
    return path


def written(path: Path) -> dict[str, np.ndarray]:
    tensors = gguf.GGUFReader(path).tensors
    return {
        tensor.name: gguf.quants.dequantize(tensor.data, tensor.tensor_type)
        for tensor in tensors
        if tensor.name != "lcg.token_family"
    }


@pytest.mark.parametrize(
    "prefix", ["", "module.", "model.", "module.model.", "_orig_mod.base.model.", "_fsdp_wrapped_module.model."]
)
def test_keys_are_found_under_any_prefix_beside_the_base_models_weights(
    tmp_path: Path, base: BaseModel, prefix: str
) -> None:
    tensors = {
        f"{prefix}embed_tokens.weight": random(5, N_EMBD),
        f"{prefix}{HEAD}": FC2,
        f"{prefix}layers.0.mlp.up_proj.weight": random(8, N_EMBD),
        f"{prefix}{PRE}": FC1,
        "lm_head.weight": random(5, N_EMBD),
    }
    checkpoint = write_safetensors(tmp_path / "model.safetensors", tensors)
    result = convert(checkpoint, base, tmp_path / "gate.gguf", outtype="f32")
    assert result.sources == {"lcg.fc1.weight": f"{prefix}{PRE}", "lcg.fc2.weight": f"{prefix}{HEAD}"}
    assert result.path == tmp_path / "gate.gguf"
    assert (result.spec.n_hidden, result.spec.architecture, result.spec.families.rules) == (
        N_HIDDEN,
        "qwen3",
        "paper",
    )
    assert result.spec.token_family.tolist() == [1, 0, 1, 3, 2]
    gate = written(tmp_path / "gate.gguf")
    assert gate.keys() == {"lcg.fc1.weight", "lcg.fc2.weight"}
    np.testing.assert_array_equal(gate["lcg.fc1.weight"], FC1)
    np.testing.assert_array_equal(gate["lcg.fc2.weight"], FC2)


WRAPPERS = ("_orig_mod", "module", "_fsdp_wrapped_module", "_checkpoint_wrapped_module", "module._orig_mod")


@pytest.mark.parametrize("wrapper", WRAPPERS)
@pytest.mark.parametrize("prefix", ["", "model.", "module.model."])
def test_wrappers_inside_a_name_are_seen_through(tmp_path: Path, base: BaseModel, prefix: str, wrapper: str) -> None:
    keys = [f"{prefix}code_switch_{layer}.{wrapper}.{kind}" for layer in ("pre", "head") for kind in ("weight", "bias")]
    tensors = dict(zip(keys, (FC1, random(N_HIDDEN), FC2, random(4))))
    result = convert(write_safetensors(tmp_path / "c.safetensors", tensors), base, tmp_path / "g", outtype="f32")
    assert list(result.sources.values()) == keys
    np.testing.assert_array_equal(written(tmp_path / "g")["lcg.fc2.weight"], FC2)


@pytest.mark.parametrize(
    "key",
    [
        "optimizer.state.{}.exp_avg",
        "optimizer.{}.max_exp_avg_sq",
        "exp_avg.{}",
        "optim.exp_avg_sq.module.{}",
        "optimizer_state_dict.state.{}.momentum_buffer",
        "{}.step",
    ],
)
def test_the_state_of_an_optimizer_is_not_taken_for_a_second_gate(tmp_path: Path, base: BaseModel, key: str) -> None:
    tensors = {f"model.{PRE}": FC1, f"model.{HEAD}": FC2}
    state = {key.format(name): np.ones_like(tensor) for name, tensor in tensors.items()}
    checkpoint = write_safetensors(tmp_path / "c.safetensors", {**state, **tensors})
    assert list(convert(checkpoint, base, tmp_path / "g").sources.values()) == list(tensors)


def test_of_the_copies_that_peft_keeps_the_trained_one_is_taken(tmp_path: Path, base: BaseModel) -> None:
    def copies(name: str) -> tuple[str, str]:
        layer, kind = f"base_model.model.{name}".rsplit(".", 1)
        return f"{layer}.original_module.{kind}", f"{layer}.modules_to_save.default.{kind}"

    tensors: dict[str, np.ndarray] = {}
    for name, tensor in ((PRE, FC1), (HEAD, FC2)):
        old, new = copies(name)
        tensors |= {old: np.zeros_like(tensor), new: tensor}
    result = convert(write_safetensors(tmp_path / "c.safetensors", tensors), base, tmp_path / "g", outtype="f32")
    assert result.sources == {"lcg.fc1.weight": copies(PRE)[1], "lcg.fc2.weight": copies(HEAD)[1]}
    assert result.untrained == (copies(PRE)[0], copies(HEAD)[0])
    np.testing.assert_array_equal(written(tmp_path / "g")["lcg.fc2.weight"], FC2)
    two = {**tensors, copies(HEAD)[1].replace("default", "other"): FC2}
    with pytest.raises(GateError, match=f"several tensors `{HEAD}` .*modules_to_save.other"):
        convert(write_safetensors(tmp_path / "two.safetensors", two), base, tmp_path / "g")
    alone = {PRE: FC1, copies(HEAD)[0]: FC2}  # the copy that was trained is elsewhere
    with pytest.raises(GateError, match=r"unknown key `base_model\.model\.code_switch_head\.original_module\.weight`"):
        convert(write_safetensors(tmp_path / "alone.safetensors", alone), base, tmp_path / "g")


def test_biases_come_along(tmp_path: Path, base: BaseModel) -> None:
    tensors = {
        PRE: FC1,
        HEAD: FC2,
        "code_switch_pre.bias": random(N_HIDDEN),
        "code_switch_head.bias": random(4),
    }
    convert(write_safetensors(tmp_path / "c.safetensors", tensors), base, tmp_path / "gate.gguf", outtype="q8_0")
    gate = written(tmp_path / "gate.gguf")
    np.testing.assert_array_equal(gate["lcg.fc1.bias"], tensors["code_switch_pre.bias"])
    np.testing.assert_array_equal(gate["lcg.fc2.bias"], tensors["code_switch_head.bias"])


def test_a_head_alone_is_a_linear_gate(tmp_path: Path, base: BaseModel) -> None:
    head = random(4, N_EMBD)
    result = convert(write_safetensors(tmp_path / "c.safetensors", {HEAD: head}), base, tmp_path / "g", outtype="f32")
    assert result.spec.n_hidden == 0
    gate = written(tmp_path / "g")
    assert gate.keys() == {"lcg.fc2.weight"}
    np.testing.assert_array_equal(gate["lcg.fc2.weight"], head)


def test_two_runs_give_identical_bytes(tmp_path: Path, base: BaseModel) -> None:
    checkpoint = write_safetensors(tmp_path / "c.safetensors", {PRE: FC1, HEAD: FC2})
    for outtype in ("f32", "f16", "bf16", "q8_0"):
        for name in ("a", "b"):
            convert(checkpoint, base, tmp_path / name, outtype=outtype)
        assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_names_rules_and_threshold_go_into_the_gate_file(tmp_path: Path, base: BaseModel) -> None:
    checkpoint = write_safetensors(tmp_path / "c.safetensors", {PRE: FC1, HEAD: FC2})
    convert(
        checkpoint, base, tmp_path / "g", rules="paper", threshold=0.25, name="N", version="v3", license="apache-2.0"
    )
    fields = gguf.GGUFReader(tmp_path / "g").fields
    keys = ("adapter.lcg.rules", "adapter.lcg.threshold", "general.name", "general.version", "general.license")
    assert [fields[key].contents() for key in keys] == ["paper", 0.25, "N", "v3", "apache-2.0"]


# ---- how a gate was made ----


MADE = {
    "lcg.name": "Gäte",
    "lcg.version": "v2",
    "lcg.license": "mit",
    "lcg.rules": "paper",
    "lcg.thresholds": "[0.5, 0.25, 0.5, 0.125]",
    "lcg.first_thresholds": "[0.5, 0.25, 0.5, 0.375]",
    "lcg.allow_thresholds": "[0.125, 1.0, 1.0, 1.0]",
    "lcg.datasets": '[{"name": "a.jsonl"}, {"name": "b", "organization": "c"}]',
    "lcg.train": '{"tokens": 12, "loss": 0.25, "label_soft": true, "held_out.cj.recall": 1.0, "label_norm": "5"}',
}


def test_what_a_checkpoint_says_of_its_gate_goes_into_the_gate_file(tmp_path: Path, base: BaseModel) -> None:
    checkpoint = write_safetensors(tmp_path / "c.safetensors", {PRE: FC1, HEAD: FC2}, MADE)
    convert(checkpoint, base, tmp_path / "g")
    fields = gguf.GGUFReader(tmp_path / "g").fields
    said = {key: field.contents() for key, field in fields.items() if not key.startswith("GGUF.")}
    train = {key: value for key, value in said.items() if key.startswith("adapter.lcg.train.")}
    assert train == {
        "adapter.lcg.train.tokens": 12,
        "adapter.lcg.train.loss": 0.25,
        "adapter.lcg.train.label_soft": True,
        "adapter.lcg.train.held_out.cj.recall": 1.0,
        "adapter.lcg.train.label_norm": "5",
    }
    kinds = [fields[f"adapter.lcg.train.{key}"].types[0].name for key in ("tokens", "loss", "label_soft", "label_norm")]
    assert kinds == ["UINT64", "FLOAT32", "BOOL", "STRING"]
    keys = ("general.name", "general.version", "general.license", "adapter.lcg.rules", "general.dataset.count")
    assert [said[key] for key in keys] == ["Gäte", "v2", "mit", "paper", 2]
    assert [said[f"general.dataset.{i}.name"] for i in range(2)] == ["a.jsonl", "b"]
    assert said["general.dataset.1.organization"] == "c"
    assert said["general.base_model.0.name"] == "Tiny"
    assert said["adapter.lcg.thresholds"] == [0.5, 0.25, 0.5, 0.125]
    assert said["adapter.lcg.first_thresholds"] == [0.5, 0.25, 0.5, 0.375]
    assert said["adapter.lcg.allow_thresholds"] == [0.125, 1.0, 1.0, 1.0]


def test_what_is_asked_for_goes_before_what_the_checkpoint_says(tmp_path: Path, base: BaseModel) -> None:
    checkpoint = write_safetensors(tmp_path / "c.safetensors", {PRE: FC1, HEAD: FC2}, MADE)
    spec = convert(checkpoint, base, tmp_path / "g", name="N", version="v3", license="apache-2.0", rules="paper").spec
    assert (spec.name, spec.version, spec.license, spec.train["tokens"]) == ("N", "v3", "apache-2.0", 12)
    assert convert(checkpoint, base, tmp_path / "g", threshold=0.25).spec.thresholds == Thresholds((0.25,) * 4)
    with pytest.raises(GateError) as error:
        convert(checkpoint, base, tmp_path / "other", rules="default")
    assert str(error.value) == f"{checkpoint}: was trained with the rules `paper`, expected default"
    assert not (tmp_path / "other").exists()


def test_a_checkpoint_that_says_nothing_of_its_gate_has_the_references_rules(tmp_path: Path, base: BaseModel) -> None:
    checkpoint = write_safetensors(tmp_path / "c.safetensors", {PRE: FC1, HEAD: FC2}, {"name": "x", "train.a": "1"})
    spec = convert(checkpoint, base, tmp_path / "g").spec
    assert (spec.name, spec.license, spec.families.rules, spec.datasets, spec.train) == (
        "LCG for Tiny",
        "",
        "paper",
        (),
        {},
    )


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("rules", "x", "was trained with the rules `x`, expected default or paper"),
        ("name", "\ud800", r"metadata `lcg.name` is '\ud800', expected a text"),
        ("train", "{", "metadata `lcg.train` is '{', expected JSON"),
        ("train", "[" * 100_000, "metadata `lcg.train` is '["),
        ("train", "[]", "metadata `lcg.train` is [], expected an object"),
        ("train", '{"a": -1}', "metadata `lcg.train` is {'a': -1}, expected bools, natural numbers, floats and texts"),
        ("train", '{"a": 18446744073709551616}', "metadata `lcg.train` is {'a': 1844"),
        ("train", '{"a": 1e39}', "metadata `lcg.train` is {'a': 1e+39}"),
        ("train", '{"a": NaN}', "metadata `lcg.train` is {'a': nan}"),
        ("train", '{"a": null}', "metadata `lcg.train` is {'a': None}"),
        ("train", '{"a": ""}', "metadata `lcg.train` is {'a': ''}"),
        ("train", '{"a": "\\ud800"}', "metadata `lcg.train` is {'a': "),
        ("train", '{"a b": 1}', "metadata `lcg.train` is {'a b': 1}"),
        (
            "thresholds",
            "[1.0]",
            "metadata `lcg.thresholds` is [1.0], expected an array of probabilities between 0 and 1",
        ),
        ("first_thresholds", "[0]", "metadata `lcg.first_thresholds` is [0], expected an array of probabilities"),
        ("allow_thresholds", "[1]", "metadata `lcg.allow_thresholds` is [1], expected an array of probabilities"),
        ("allow_thresholds", "[1.5]", "metadata `lcg.allow_thresholds` is [1.5], expected an array of probabilities"),
        ("thresholds", '["0.5"]', "metadata `lcg.thresholds` is ['0.5']"),
        ("datasets", "{}", "metadata `lcg.datasets` is {}, expected an array of objects with a name"),
        ("datasets", '[{"organization": "x"}]', "metadata `lcg.datasets` is [{'org"),
        ("datasets", '[{"name": 1}]', "metadata `lcg.datasets` is [{'name': 1}]"),
        ("datasets", '[{"name": "a", "size": "b"}]', "metadata `lcg.datasets` is [{'name': 'a'"),
    ],
)
def test_a_checkpoint_that_says_nonsense_is_refused(
    tmp_path: Path, base: BaseModel, name: str, text: str, message: str
) -> None:
    checkpoint = write_safetensors(tmp_path / "c.safetensors", {PRE: FC1, HEAD: FC2}, {f"lcg.{name}": text})
    with pytest.raises(GateError) as error:
        convert(checkpoint, base, tmp_path / "g")
    assert str(error.value).startswith(f"{checkpoint}: {message}")
    assert not (tmp_path / "g").exists()


# ---- safetensors ----


def test_every_float_type_of_safetensors_is_read_without_the_package_or_torch(tmp_path: Path) -> None:
    # 1.0, -2.5 and 3.140625 as BF16: the upper halves of 3f800000, c0200000 and 40490000
    head = np.zeros((4, 2), dtype=np.float32)
    head[0], head[1, 0] = (1.0, -2.5), 3.140625
    bf16 = bytes.fromhex("803f20c04940") + bytes(10)
    for dtype, content in (
        ("F64", head.astype("<f8").tobytes()),
        ("F32", head.astype("<f4").tobytes()),
        ("F16", head.astype("<f2").tobytes()),
        ("BF16", bf16),
    ):
        path = tmp_path / f"{dtype}.safetensors"
        path.write_bytes(safetensors_bytes({HEAD: (dtype, (4, 2), content)}))
        weights, _ = read_gate_weights(path, 2)
        assert weights["lcg.fc2.weight"].dtype == np.float32
        np.testing.assert_array_equal(weights["lcg.fc2.weight"], head)


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
def test_safetensors_written_by_the_package_are_read_exactly(tmp_path: Path, dtype: str) -> None:
    torch = pytest.importorskip("torch")
    save_file = pytest.importorskip("safetensors.torch").save_file
    tensors = {
        f"model.{key}": torch.from_numpy(value).to(getattr(torch, dtype)) for key, value in [(PRE, FC1), (HEAD, FC2)]
    }
    tensors["model.norm.weight"] = torch.ones(N_EMBD, dtype=torch.float8_e4m3fn)
    save_file(tensors, tmp_path / "model.safetensors", metadata={"format": "pt"})
    weights, _ = read_gate_weights(tmp_path / "model.safetensors", N_EMBD)
    np.testing.assert_array_equal(weights["lcg.fc1.weight"], tensors[f"model.{PRE}"].float().numpy())
    np.testing.assert_array_equal(weights["lcg.fc2.weight"], tensors[f"model.{HEAD}"].float().numpy())


@pytest.mark.skipif(sys.platform == "win32", reason="the file is sparse")
def test_a_16_gb_checkpoint_costs_no_more_memory_than_its_gate(tmp_path: Path, base: BaseModel) -> None:
    n_rest = 16 << 30
    header = {
        "model.rest": {"dtype": "U8", "shape": [n_rest], "data_offsets": [0, n_rest]},
        PRE: {"dtype": "F32", "shape": [N_HIDDEN, N_EMBD], "data_offsets": [n_rest, n_rest + FC1.nbytes]},
        HEAD: {
            "dtype": "F32",
            "shape": [4, N_HIDDEN],
            "data_offsets": [n_rest + FC1.nbytes, n_rest + FC1.nbytes + FC2.nbytes],
        },
    }
    text = json.dumps(header).encode()
    checkpoint = tmp_path / "model.safetensors"
    with checkpoint.open("wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        file.seek(n_rest, os.SEEK_CUR)
        file.write(FC1.tobytes() + FC2.tobytes())
    tracemalloc.start()
    try:
        convert(checkpoint, base, tmp_path / "gate.gguf", outtype="f32")
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 4 << 20
    np.testing.assert_array_equal(written(tmp_path / "gate.gguf")["lcg.fc1.weight"], FC1)


# ---- sharded checkpoints and folders ----


def write_sharded(folder: Path) -> Path:
    write_safetensors(folder / "model-00001-of-00002.safetensors", {"a": FC1, f"model.{PRE}": FC1})
    write_safetensors(folder / "model-00002-of-00002.safetensors", {f"model.{HEAD}": FC2})
    weight_map = {
        "a": "model-00001-of-00002.safetensors",
        "lost": "model-00003-of-00002.safetensors",  # not the gate's, so never looked for
        f"model.{PRE}": "model-00001-of-00002.safetensors",
        f"model.{HEAD}": "model-00002-of-00002.safetensors",
    }
    index = folder / "model.safetensors.index.json"
    index.write_text(json.dumps({"metadata": {"total_size": 1}, "weight_map": weight_map}))
    return index


def test_a_sharded_checkpoint_opens_only_the_shards_of_the_gate(tmp_path: Path) -> None:
    index = write_sharded(tmp_path)
    for checkpoint in (index, tmp_path):
        weights, sources = read_gate_weights(checkpoint, N_EMBD)
        assert sources == {"lcg.fc1.weight": f"model.{PRE}", "lcg.fc2.weight": f"model.{HEAD}"}
        np.testing.assert_array_equal(weights["lcg.fc1.weight"], FC1)
        np.testing.assert_array_equal(weights["lcg.fc2.weight"], FC2)


def test_a_sharded_pickled_checkpoint_is_read(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch", "2.10")
    torch.save({PRE: torch.from_numpy(FC1)}, tmp_path / "pytorch_model-00001-of-00002.bin")
    torch.save({HEAD: torch.from_numpy(FC2)}, tmp_path / "pytorch_model-00002-of-00002.bin")
    weight_map = {PRE: "pytorch_model-00001-of-00002.bin", HEAD: "pytorch_model-00002-of-00002.bin"}
    (tmp_path / "pytorch_model.bin.index.json").write_text(json.dumps({"weight_map": weight_map}))
    weights, _ = read_gate_weights(tmp_path, N_EMBD)
    np.testing.assert_array_equal(weights["lcg.fc2.weight"], FC2)


@pytest.mark.parametrize(
    ("index", "message"),
    [
        (b"", "the index is no valid JSON"),
        (b"[]", "the index is a JSON list, expected an object"),
        (b"[" * 100_000, "the index is no valid JSON"),
        (b'{"weight_map": {"a": "x.safetensors", "a": "y.safetensors"}}', "a name occurs twice"),
        (b"{}", "`weight_map` is no object of file names"),
        (b'{"weight_map": {"a": 1}}', "`weight_map` is no object of file names"),
        (b'{"weight_map": {"a": "../x.safetensors"}}', "names the file '../x.safetensors'"),
        (b'{"weight_map": {"a": "x.bin"}}', "names the file 'x.bin', expected a .safetensors file"),
        (b'{"weight_map": {"a": "x.safetensors"}}', f"no tensor `{HEAD}`"),
    ],
)
def test_a_damaged_index_is_refused(tmp_path: Path, index: bytes, message: str) -> None:
    path = tmp_path / "model.safetensors.index.json"
    path.write_bytes(index)
    with pytest.raises(GateError, match=message) as caught:
        read_gate_weights(path, N_EMBD)
    assert str(caught.value).startswith(f"{path}: ")


def test_an_index_that_names_the_wrong_shard_is_refused(tmp_path: Path) -> None:
    write_safetensors(tmp_path / "x.safetensors", {"other": FC2})
    path = tmp_path / "model.safetensors.index.json"
    path.write_text(json.dumps({"weight_map": {HEAD: "x.safetensors"}}))
    with pytest.raises(GateError, match=f"`weight_map` puts `{HEAD}` into x.safetensors, which does not hold it"):
        read_gate_weights(path, N_HIDDEN)
    (tmp_path / "x.safetensors").unlink()
    with pytest.raises(FileNotFoundError):
        read_gate_weights(path, N_HIDDEN)


def test_a_folder_prefers_the_usual_names_and_refuses_to_guess(tmp_path: Path) -> None:
    with pytest.raises(GateError, match="no checkpoint in this folder"):
        read_gate_weights(tmp_path, N_EMBD)
    write_safetensors(tmp_path / "gate.safetensors", {PRE: FC1, HEAD: FC2})
    (tmp_path / "training_args.bin").write_bytes(b"no checkpoint")
    assert read_gate_weights(tmp_path, N_EMBD)[1]["lcg.fc2.weight"] == HEAD
    write_safetensors(tmp_path / "second.safetensors", {HEAD: random(4, N_EMBD)})
    with pytest.raises(GateError, match=r"several checkpoints \(gate.safetensors, second.safetensors\), name one"):
        read_gate_weights(tmp_path, N_EMBD)
    write_safetensors(tmp_path / "model.safetensors", {f"m.{HEAD}": random(4, N_EMBD)})
    assert read_gate_weights(tmp_path, N_EMBD)[1]["lcg.fc2.weight"] == f"m.{HEAD}"


# ---- what a gate must be ----


@pytest.mark.parametrize(
    ("tensors", "message"),
    [
        ({PRE: FC1.T, HEAD: FC2}, rf"tensor `{PRE}` has shape \(64, 32\), expected \(32, 64\) .*; it looks transposed"),
        ({PRE: FC1, HEAD: FC2.T}, rf"tensor `{HEAD}` has shape \(32, 4\), expected \(4, 32\) .*; it looks transposed"),
        ({PRE: FC1.T, HEAD: FC2.T}, rf"tensor `{PRE}` has shape \(64, 32\), .*; it looks transposed"),
        ({HEAD: random(N_EMBD, 4)}, r"has shape \(64, 4\), expected \(4, 64\) .*; it looks transposed"),
        (
            {PRE: random(32, 128), HEAD: FC2},
            r"has shape \(32, 128\), expected \(32, 64\) for .* n_embd 64 and 4 families$",
        ),
        ({PRE: FC1, HEAD: random(5, 32)}, r"has shape \(5, 32\), expected \(4, 32\)"),
        ({PRE: FC1, HEAD: random(4, 16)}, r"has shape \(4, 16\), expected \(4, 32\)"),
        ({PRE: FC1[0], HEAD: FC2}, rf"tensor `{PRE}` has shape \(64,\), expected \(32, 64\)"),
        ({PRE: random(0, 64), HEAD: random(4, 0)}, rf"tensor `{PRE}` has shape \(0, 64\)"),
        ({PRE: FC1, HEAD: FC2, "code_switch_pre.bias": random(64)}, r"bias` has shape \(64,\), expected \(32,\)"),
        ({PRE: FC1, HEAD: FC2, "code_switch_head.bias": random(1, 4)}, r"bias` has shape \(1, 4\), expected \(4,\)"),
        ({HEAD: np.where(random(4, 64) > 2, np.nan, 0)}, rf"tensor `{HEAD}` holds nan at \[\d, \d+\], expected finite"),
        ({HEAD: np.full((4, 64), 1e300)}, rf"tensor `{HEAD}` holds inf at \[0, 0\]"),
        ({HEAD: np.zeros((4, 64), np.int8)}, rf"tensor `{HEAD}` has dtype I8, expected F64, F32, F16, BF16"),
        ({f"a.{PRE}": FC1, f"b.{PRE}": FC1, HEAD: FC2}, rf"several tensors `{PRE}` \(a.{PRE}, b.{PRE}\), expected one"),
        ({PRE: FC1}, rf"no tensor `{HEAD}`, the nearest of its 1 keys are `{PRE}`"),
        ({HEAD: FC2, "code_switch_pre.bias": random(32)}, rf"no tensor `{PRE}`, the nearest of its 2 keys are"),
        ({"code_switch_pre.0.weight": FC1, HEAD: random(4, 64)}, "unknown key `code_switch_pre.0.weight`, expected"),
        ({f"my{HEAD}": FC2}, f"unknown key `my{HEAD}`"),
        ({}, f"no tensor `{HEAD}`, the checkpoint is empty"),
    ],
)
def test_a_gate_that_does_not_fit_is_refused_and_nothing_is_written(
    tmp_path: Path, base: BaseModel, tensors: dict[str, np.ndarray], message: str
) -> None:
    checkpoint = write_safetensors(tmp_path / "c.safetensors", tensors)
    with pytest.raises(GateError, match=message) as caught:
        convert(checkpoint, base, tmp_path / "gate.gguf")
    assert str(caught.value).startswith(f"{checkpoint}: ")
    assert list(tmp_path.iterdir()) == [checkpoint]


def test_a_base_models_checkpoint_is_refused_with_its_nearest_keys(tmp_path: Path) -> None:
    tensors = {f"model.layers.{i}.mlp.gate_proj.weight": random(2, 2) for i in range(20)}
    tensors["model.codeswitch_head.weight"] = FC2
    checkpoint = write_safetensors(tmp_path / "c.safetensors", tensors)
    with pytest.raises(GateError, match=f"no tensor `{HEAD}`, the nearest of its 21 keys are `model.codeswitch_head"):
        read_gate_weights(checkpoint, N_EMBD)


def test_shapes_are_refused_before_any_data_is_read(tmp_path: Path) -> None:
    checkpoint = tmp_path / "c.safetensors"
    checkpoint.write_bytes(safetensors_bytes({HEAD: ("F8_E4M3", (1 << 40, 1 << 40), b"1234")}))
    with pytest.raises(GateError, match=r"has shape \(1099511627776, 1099511627776\), expected \(4, 64\)"):
        read_gate_weights(checkpoint, N_EMBD)


# ---- damaged safetensors files ----


def entry(dtype: Any = "F32", shape: Any = (4, 1), offsets: Any = (0, 16)) -> dict[str, Any]:
    return {"dtype": dtype, "shape": shape, "data_offsets": offsets}


def with_header(header: Any, data: bytes = bytes(16)) -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (with_header({"__metadata__": {"a": 1}}, b""), "`__metadata__` is {'a': 1}, expected an object of texts"),
        (b"", "the file has 0 bytes, a safetensors file has at least 8"),
        (b"1234567", "the file has 7 bytes"),
        (struct.pack("<Q", 1000) + b"{}", "the header has 1000 bytes, expected at most 2"),
        (struct.pack("<Q", 1 << 63) + b"{}", "the header has 9223372036854775808 bytes"),
        (
            b"GGUF\3\0\0\0" + bytes(100),
            "the header has 14064895815 bytes, expected at most 100: truncated, or not safe",
        ),
        (with_header(b"", b""), "the header is no valid JSON"),
        (with_header(b'{"a": '), "the header is no valid JSON"),
        (with_header(b"\xff\xfe"), "the header is no valid JSON"),
        (with_header(b"[" * 100_000), "the header is no valid JSON"),
        (with_header([]), "the header is a JSON list, expected an object"),
        (with_header(b'{"a": {}, "a": {}}'), r"the header is no valid JSON \(a name occurs twice\)"),
        (with_header({HEAD: 7}), f"tensor `{HEAD}` is described by 7, expected dtype, shape and data_offsets"),
        (with_header({HEAD: {}}), "is described by {}"),
        (with_header({HEAD: entry(dtype=1)}), "is described by"),
        (with_header({HEAD: entry(shape="4")}), "is described by"),
        (with_header({HEAD: entry(shape=[4, -1])}), "is described by"),
        (with_header({HEAD: entry(shape=[4, True])}), "is described by"),
        (with_header({HEAD: entry(shape=[4.0, 1])}), "is described by"),
        (with_header({HEAD: entry(offsets=[0])}), "is described by"),
        (with_header({HEAD: entry(offsets=[0, 16, 32])}), "is described by"),
        (with_header({HEAD: entry(offsets=[16, 0])}), "has bytes 16 to 0, expected them to start at 0"),
        (with_header({HEAD: entry(offsets=[4, 20])}), "has bytes 4 to 20, expected them to start at 0"),
        (with_header({"a": entry(), HEAD: entry(offsets=[8, 24])}), "has bytes 8 to 24, expected them to start at 16"),
        (with_header({"a": entry(), HEAD: entry(offsets=[16, 8])}, bytes(8)), "has bytes 16 to 8, expected"),
        (with_header({HEAD: entry()}, bytes(15)), "the data has 15 bytes, its tensors 16: truncated"),
        (with_header({HEAD: entry()}, bytes(17)), "the data has 17 bytes, its tensors 16"),
        (with_header({HEAD: entry(offsets=[0, 12])}, bytes(12)), "has 12 bytes, expected 16 for F32"),
        (with_header({HEAD: entry("F16")}), "has 16 bytes, expected 8 for F16"),
        (with_header({HEAD: entry("I32")}), "has dtype I32, expected F64, F32, F16, BF16"),
    ],
)
def test_a_damaged_safetensors_file_is_refused(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "c.safetensors"
    path.write_bytes(content)
    with pytest.raises(GateError, match=message) as caught:
        read_gate_weights(path, 1)
    assert str(caught.value).startswith(f"{path}: ")


@pytest.mark.skipif(sys.platform == "win32", reason="the file is sparse")
def test_a_header_beyond_the_formats_limit_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / "c.safetensors"
    path.write_bytes(struct.pack("<Q", 100_000_001))
    os.truncate(path, 200_000_000)
    with pytest.raises(GateError, match="the header has 100000001 bytes, expected at most 100000000"):
        read_gate_weights(path, 1)


def test_a_safetensors_file_cut_anywhere_is_refused(tmp_path: Path) -> None:
    whole = safetensors_bytes({HEAD: ("F32", (4, 1), bytes(16)), "b": ("F32", (1,), bytes(4))})
    path = tmp_path / "c.safetensors"
    path.write_bytes(whole)
    read_gate_weights(path, 1)
    for n in range(len(whole)):
        path.write_bytes(whole[:n])
        with pytest.raises(GateError):
            read_gate_weights(path, 1)


def test_a_missing_file_is_an_os_error(tmp_path: Path) -> None:
    for name in ("c.safetensors", "c.bin", "c.pt", "c.safetensors.index.json"):
        with pytest.raises(FileNotFoundError):
            read_gate_weights(tmp_path / name, N_EMBD)


@pytest.mark.parametrize("name", ["gate.gguf", "gate", "gate.npz", "config.json", "x.index.json", "x.gguf.index.json"])
def test_an_unknown_extension_is_refused_with_the_known_ones(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(b"{}")
    with pytest.raises(GateError, match=r"unknown kind of checkpoint .*, expected .safetensors, .pt, .pth, .bin, "):
        read_gate_weights(tmp_path / name, N_EMBD)


# ---- pickled checkpoints ----


@pytest.fixture
def torch() -> Any:
    return pytest.importorskip("torch", "2.10")


@pytest.mark.parametrize("dtype", ["float64", "float32", "float16", "bfloat16"])
@pytest.mark.parametrize("legacy", [False, True], ids=["zip", "legacy"])
@pytest.mark.parametrize("suffix", ["pt", "pth", "bin"])
def test_state_dicts_written_by_pytorch_are_read_exactly(
    tmp_path: Path, torch: Any, suffix: str, legacy: bool, dtype: str
) -> None:
    state = {
        f"model.{key}": torch.from_numpy(value).to(getattr(torch, dtype)) for key, value in [(PRE, FC1), (HEAD, FC2)]
    }
    state["model.step"] = 3
    path = tmp_path / f"checkpoint.{suffix}"
    torch.save(state, path, _use_new_zipfile_serialization=not legacy)
    weights, sources = read_gate_weights(path, N_EMBD)
    assert sources == {"lcg.fc1.weight": f"model.{PRE}", "lcg.fc2.weight": f"model.{HEAD}"}
    for name, key in sources.items():
        assert weights[name].dtype == np.float32
        np.testing.assert_array_equal(weights[name], state[key].float().numpy())


def test_a_trainers_checkpoint_with_a_nested_state_dict_is_read(tmp_path: Path, torch: Any, base: BaseModel) -> None:
    class Gate(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.code_switch_pre = torch.nn.Linear(N_EMBD, N_HIDDEN)
            self.code_switch_head = torch.nn.Linear(N_HIDDEN, 4)

    gate = Gate()
    optimizer = torch.optim.AdamW(gate.parameters())
    gate.code_switch_head(torch.relu(gate.code_switch_pre(torch.ones(N_EMBD)))).sum().backward()
    optimizer.step()
    path = tmp_path / "checkpoint.pt"
    torch.save({"epoch": 1, "state_dict": gate.state_dict(), "optimizer": optimizer.state_dict()}, path)
    result = convert(path, base, tmp_path / "gate.gguf", outtype="f32")
    assert result.sources["lcg.fc1.bias"] == "state_dict.code_switch_pre.bias"
    converted = written(tmp_path / "gate.gguf")
    x = random(N_EMBD)
    hidden = np.maximum(converted["lcg.fc1.weight"] @ x + converted["lcg.fc1.bias"], 0)
    z = converted["lcg.fc2.weight"] @ hidden + converted["lcg.fc2.bias"]
    expected = gate.code_switch_head(torch.relu(gate.code_switch_pre(torch.from_numpy(x))))
    np.testing.assert_allclose(z, expected.detach().numpy(), rtol=1e-5, atol=1e-6)


def test_a_lightning_checkpoint_is_read(tmp_path: Path, torch: Any) -> None:
    state = {f"model.{PRE}": torch.from_numpy(FC1), f"model.{HEAD}": torch.from_numpy(FC2)}
    moments = {0: {"exp_avg": torch.zeros(3), "step": torch.tensor(1.0)}}
    saved = {"epoch": 1, "state_dict": state, "optimizer_states": [{"state": moments}], "loops": {"fit": {}}}
    torch.save(saved, tmp_path / "last.ckpt")
    for path in (tmp_path / "last.ckpt", tmp_path):
        weights, sources = read_gate_weights(path, N_EMBD)
        assert sources["lcg.fc2.weight"] == f"state_dict.model.{HEAD}"
        np.testing.assert_array_equal(weights["lcg.fc1.weight"], FC1)


def test_a_folder_of_a_trainer_has_one_checkpoint(tmp_path: Path, torch: Any) -> None:
    for name in ("optimizer.pt", "scheduler.pt", "rng_state.pth", "rng_state_0.pth", "training_args.bin", "scaler.pt"):
        torch.save({"a": 1}, tmp_path / name)
    torch.save({HEAD: torch.from_numpy(FC2), PRE: torch.from_numpy(FC1)}, tmp_path / "gate.pt")
    assert read_gate_weights(tmp_path, N_EMBD)[1]["lcg.fc2.weight"] == HEAD


def test_a_zero_checkpoint_is_pointed_to_deepspeeds_script(tmp_path: Path) -> None:
    (tmp_path / "zero_to_fp32.py").touch()
    (tmp_path / "latest").write_text("global_step5")
    step = tmp_path / "global_step5"
    step.mkdir()
    names = ("mp_rank_00_model_states.pt", "bf16_zero_pp_rank_0_mp_rank_00_optim_states.pt")
    for name in names:
        (step / name).write_bytes(b"x")
    for path in (tmp_path, step, *(step / name for name in names)):
        with pytest.raises(GateError) as error:
            open_checkpoint(path)
        assert str(error.value).startswith(f"{path}: is part of a DeepSpeed ZeRO checkpoint, whose weights are spread")
        assert f"`python {tmp_path}/zero_to_fp32.py {tmp_path} WHOLE`" in str(error.value)
    write_safetensors(tmp_path / "model.safetensors", {PRE: FC1, HEAD: FC2})  # gathered while it was saved
    assert read_gate_weights(tmp_path, N_EMBD)[1]["lcg.fc2.weight"] == HEAD


def test_views_are_read_as_the_tensors_they_show(tmp_path: Path, torch: Any) -> None:
    stored = torch.from_numpy(np.ascontiguousarray(FC1.T))
    torch.save({PRE: stored.T, HEAD: torch.from_numpy(FC2)}, tmp_path / "c.pt")
    weights, _ = read_gate_weights(tmp_path / "c.pt", N_EMBD)
    np.testing.assert_array_equal(weights["lcg.fc1.weight"], FC1)


def test_pickles_are_only_ever_loaded_restricted_and_mapped(
    tmp_path: Path, torch: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[dict[str, Any]] = []
    load = torch.load

    def spy(path: Path, **options: Any) -> Any:
        calls.append(options)
        return load(path, **options)

    monkeypatch.setattr(torch, "load", spy)
    torch.save({PRE: torch.from_numpy(FC1), HEAD: torch.from_numpy(FC2)}, tmp_path / "c.pt")
    read_gate_weights(tmp_path / "c.pt", N_EMBD)
    assert calls == [{"map_location": "cpu", "weights_only": True, "mmap": True}]


class Bomb:
    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.touch, (self.target,))


@pytest.mark.parametrize("how", ["zip", "legacy", "pickle"])
def test_a_checkpoint_that_runs_code_is_refused_and_not_run(tmp_path: Path, torch: Any, how: str) -> None:
    target, path = tmp_path / "executed", tmp_path / "c.pt"
    state = {HEAD: torch.from_numpy(random(4, N_EMBD)), "bomb": Bomb(target)}
    if how == "pickle":
        path.write_bytes(pickle.dumps(Bomb(target)))
    else:
        torch.save(state, path, _use_new_zipfile_serialization=how == "zip")
    with pytest.raises(GateError, match=r"holds an object `getattr`|PyTorch cannot load it as weights"):
        read_gate_weights(path, N_EMBD)
    assert not target.exists()


@pytest.mark.parametrize("legacy", [False, True], ids=["zip", "legacy"])
def test_the_object_for_which_a_checkpoint_is_refused_is_named(tmp_path: Path, torch: Any, legacy: bool) -> None:
    saved = {"state_dict": {HEAD: torch.from_numpy(FC2)}, "hyper_parameters": argparse.Namespace(lr=1)}
    torch.save(saved, tmp_path / "last.ckpt", _use_new_zipfile_serialization=not legacy)
    with pytest.raises(GateError) as error:
        read_gate_weights(tmp_path / "last.ckpt", N_EMBD)
    assert str(error.value) == (
        f"{tmp_path / 'last.ckpt'}: holds an object `argparse.Namespace`, which could run code; save its tensors alone:"
        " if you trust the file, load it with `torch.load(…, weights_only=False)` and `torch.save` its state dict"
    )


def test_damaged_pickled_checkpoints_are_refused(tmp_path: Path, torch: Any) -> None:
    path = tmp_path / "c.pt"
    torch.save({PRE: torch.from_numpy(FC1), HEAD: torch.from_numpy(FC2)}, path)
    whole = path.read_bytes()
    for n in (1, 3, 4, 100, *range(200, len(whole), 997), len(whole) - 1):
        path.write_bytes(whole[:n])
        with pytest.raises(GateError, match="PyTorch cannot load it as weights"):
            read_gate_weights(path, N_EMBD)
    path.write_bytes(b"")
    with pytest.raises(GateError, match="the file is empty"):
        read_gate_weights(path, N_EMBD)
    path.write_bytes(b"no checkpoint at all, but a text")
    with pytest.raises(GateError, match="PyTorch cannot load it as weights"):
        read_gate_weights(path, N_EMBD)


@pytest.mark.parametrize("content", [[1, 2], 3, {"a": {"b": 1}}, {1: {2: 3}}])
def test_pickles_without_tensors_are_refused(tmp_path: Path, torch: Any, content: Any) -> None:
    torch.save(content, tmp_path / "c.pt")
    with pytest.raises(GateError, match=f"no tensor `{HEAD}`, the checkpoint is empty"):
        read_gate_weights(tmp_path / "c.pt", N_EMBD)


def test_tensors_that_are_no_dense_floats_are_refused(tmp_path: Path, torch: Any) -> None:
    path = tmp_path / "c.pt"
    torch.save({HEAD: torch.zeros(4, N_EMBD, dtype=torch.int64)}, path)
    with pytest.raises(GateError, match=rf"tensor `{HEAD}` has dtype torch.int64, expected a float"):
        read_gate_weights(path, N_EMBD)
    torch.save({HEAD: torch.zeros(4, N_EMBD).to_sparse()}, path)
    with pytest.raises(GateError, match=rf"tensor `{HEAD}` is torch.sparse_coo on cpu, expected dense data"):
        read_gate_weights(path, N_EMBD)
    torch.save({HEAD: torch.zeros(4, N_EMBD, device="meta")}, path)
    with pytest.raises(GateError, match=rf"tensor `{HEAD}` is torch.strided on meta, expected dense data"):
        read_gate_weights(path, N_EMBD)


def test_pytorchs_warnings_of_a_pickle_are_not_told(tmp_path: Path, torch: Any) -> None:
    path = tmp_path / "c.pt"
    path.write_bytes(pickle.dumps({"epoch": 1}, protocol=4))  # PyTorch warns of protocols that it does not write
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        with pytest.raises(GateError):
            read_gate_weights(path, N_EMBD)
    assert [str(warning.message) for warning in told] == []


def test_pickles_ask_for_pytorch_where_it_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "c.pt").write_bytes(b"x")
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(GateError, match=r'reading it needs `torch`: pip install "lcg-cpp\[train\]"'):
        read_gate_weights(tmp_path / "c.pt", N_EMBD)


def test_an_old_pytorch_is_refused_before_it_loads_anything(
    tmp_path: Path, torch: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.save({HEAD: torch.zeros(4, N_EMBD)}, tmp_path / "c.pt")
    monkeypatch.setattr(torch, "load", None)
    for version in ("1.13.1", "2.6.0+cu124", "2.9.1"):
        monkeypatch.setattr(torch, "__version__", version)
        with pytest.raises(GateError, match=f"PyTorch is {version.replace('+', '.')}, expected 2.10 or newer"):
            read_gate_weights(tmp_path / "c.pt", N_EMBD)
