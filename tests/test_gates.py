"""Which model a gate was made for: fingerprints, gates that are found by them, gates that are published."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gguf
import llama_cpp
import numpy as np
import pytest

import tiny_model
from lcg_cpp import Gate, GatedLlama, GateError
from lcg_cpp.cli import main
from lcg_cpp.commands import gates as command
from lcg_cpp.engine.fingerprint import model_fingerprint
from lcg_cpp.engine.model import read_base_model
from lcg_cpp.gate import find
from lcg_cpp.gate.card import publish_gate
from lcg_cpp.gate.find import PublishedGate, find_gate, read_index
from test_generation import COMMON, generated, load

SUMMARY = {
    "methods": {
        "none": {"cj_percent": {"value": 4.5, "low": 3.0, "high": 6.0}, "only": {"value": 1, "low": 1, "high": 1}},
        "lcg": {"cj_percent": {"value": 0.125, "low": 0.0, "high": 0.25}},
    },
    "settings": {"sampling": {"temp": 0.7, "top_k": 20}},
    "prompts": 1200,
    "seeds": 3,
    "benchmark": "cldr",
    "model": "/somewhere/tiny.gguf",
}
MakeGateFile = Callable[..., Path]


def quantize(model: Path, to: Path, file_type: int = llama_cpp.LLAMA_FTYPE_MOSTLY_Q8_0) -> Path:
    """llama.cpp's own quantizer."""
    params = llama_cpp.llama_model_quantize_default_params()
    params.ftype = file_type
    assert llama_cpp.llama_model_quantize(str(model).encode(), str(to).encode(), params) == 0
    return to


def changed(model: Path, to: Path, tensor: str) -> Path:
    """A copy of a model with one number of a tensor changed."""
    data = bytearray(model.read_bytes())
    (found,) = (t for t in gguf.GGUFReader(model).tensors if t.name == tensor)
    data[found.data_offset + 3] ^= 1  # an exponent
    to.write_bytes(data)
    return to


@pytest.fixture(scope="module")
def quantized(tmp_path_factory: pytest.TempPathFactory, tiny_model_path: Path) -> Path:
    return quantize(tiny_model_path, tmp_path_factory.mktemp("quantized") / "tiny-Q8_0.gguf")


@pytest.fixture(scope="module")
def finetune(tmp_path_factory: pytest.TempPathFactory, tiny_model_path: Path) -> Path:
    return changed(tiny_model_path, tmp_path_factory.mktemp("finetune") / "other.gguf", "output_norm.weight")


# --- the fingerprint --------------------------------------------------------------------------------------------------


def test_the_fingerprint_is_that_of_all_norms_and_biases(tiny_model_path: Path) -> None:
    ones = np.ones(tiny_model.N_EMBD, "<f4").tobytes()
    names = ["output_norm.weight"]
    names += [f"blk.{i}.{name}.weight" for i in range(tiny_model.N_LAYER) for name in ("attn_norm", "ffn_norm")]
    data = b"".join(name.encode() + b"\0" + len(ones).to_bytes(8, "little") + ones for name in sorted(names))
    assert model_fingerprint(tiny_model_path) == "v1:" + hashlib.sha256(data).hexdigest()
    assert read_base_model(tiny_model_path).fingerprint == model_fingerprint(tiny_model_path)


def test_quantizing_a_model_leaves_its_fingerprint(tiny_model_path: Path, quantized: Path) -> None:
    types = {t.name: t.tensor_type.name for t in gguf.GGUFReader(quantized).tensors}
    assert types["output.weight"] == types["blk.0.attn_q.weight"] == "Q8_0"
    assert model_fingerprint(quantized) == model_fingerprint(tiny_model_path)


@pytest.mark.parametrize("tensor", ["output_norm.weight", "blk.1.ffn_norm.weight"])
def test_any_norm_changes_it_and_matrices_do_not(tiny_model_path: Path, tmp_path: Path, tensor: str) -> None:
    own = model_fingerprint(tiny_model_path)
    assert model_fingerprint(changed(tiny_model_path, tmp_path / "a.gguf", tensor)) != own
    assert model_fingerprint(changed(tiny_model_path, tmp_path / "b.gguf", "output.weight")) == own


def test_a_model_without_norms_has_none(vocab_dir: Path) -> None:
    assert read_base_model(vocab_dir / "ggml-vocab-qwen2.gguf").fingerprint == ""


# --- a gate meets a model ---------------------------------------------------------------------------------------------


def test_a_gate_fits_every_quantization_and_no_finetune(
    tiny_model_path: Path, quantized: Path, finetune: Path, gate16: Path
) -> None:
    gate = Gate.load(gate16)
    assert gate.fingerprint == gate.metadata["adapter.lcg.fingerprint"] == model_fingerprint(tiny_model_path)
    for model in (tiny_model_path, quantized):
        llm = load(model, gate)
        assert gate.match(llm.base_model) == "weights"
    with pytest.raises(GateError) as error:
        load(finetune, gate)
    assert str(error.value) == (
        f"{gate16}: was made for other weights than those of {finetune} (tiny), which has the same shape; a gate fits"
        ' only the model it was trained on; to try it all the same, pass gate_check="shape" (--any-model)'
    )
    llm = load(finetune, gate, gate_check="shape")
    assert gate.match(llm.base_model) == "shape"
    assert len(generated(llm, "the name", n=5)[0]) == 5
    assert llm.__getstate__()["gate_check"] == "shape"
    with pytest.raises(GateError, match="`gate_check` is 'any', expected weights or shape"):
        load(tiny_model_path, gate, gate_check="any")


def test_gates_without_a_fingerprint_fit_as_they_did(
    finetune: Path, tiny_model_path: Path, make_gate_file: MakeGateFile
) -> None:
    gate = Gate.load(make_gate_file(tiny_model.gate_weights(16), fingerprint=""))
    assert gate.fingerprint == ""
    assert "adapter.lcg.fingerprint" not in gate.metadata
    for model in (tiny_model_path, finetune):
        assert gate.match(load(model, gate).base_model) == "shape"


def output_json(capsys: pytest.CaptureFixture[str], *arguments: object) -> Any:
    assert main([*map(str, arguments), "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def test_the_command_line_asks_and_tells(
    finetune: Path, tiny_model_path: Path, gate16: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    models = (tiny_model_path, finetune)
    own, other = (("run", "-m", model, "--lcg", gate16, "-p", "the", "-n", "3") for model in models)
    assert output_json(capsys, *own)["gate_match"] == "weights"
    assert main([*map(str, other)]) == 2
    assert "--lcg: " in capsys.readouterr().err
    assert output_json(capsys, *other, "--any-model")["gate_match"] == "shape"
    assert output_json(capsys, "inspect", gate16)["fingerprint"] == Gate.load(gate16).fingerprint


# --- finding a gate ---------------------------------------------------------------------------------------------------


@pytest.fixture
def shelf(tmp_path: Path, tiny_model_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a model, no gates anywhere."""
    (tmp_path / "published").mkdir()
    (tmp_path / "models").mkdir()
    shutil.copy(tiny_model_path, tmp_path / "models" / "tiny.gguf")
    monkeypatch.setattr(find, "published_folder", lambda: tmp_path / "published")
    monkeypatch.delenv("LCG_GATES", raising=False)
    return tmp_path


def test_gates_are_looked_for_beside_the_model_then_in_folders_then_in_the_index(
    shelf: Path,
    gate16: Path,
    finetune: Path,
    make_gate_file: MakeGateFile,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    model = shelf / "models" / "tiny.gguf"
    with pytest.raises(GateError, match=r"tiny\.gguf: no gate for it was found, neither beside it, nor in the folders"):
        find_gate(model)

    published = publish_gate(gate16, shelf / "published", name="tiny", base_model="us/tiny", license="mit")
    assert find_gate(model) == str(shelf / "published" / published.file)

    folders = [shelf / "empty", shelf / "mine"]
    (folders[1] / "sub").mkdir(parents=True)
    shutil.copy(gate16, folders[1] / "sub" / "lcg-a.gguf")
    monkeypatch.setenv("LCG_GATES", find.os.pathsep.join(map(str, folders)))
    assert find_gate(model) == str(folders[1] / "sub" / "lcg-a.gguf")

    beside = model.parent
    other = make_gate_file(tiny_model.gate_weights(16), base=finetune)
    older = make_gate_file(tiny_model.gate_weights(16), fingerprint="")
    for source, name in ((other, "lcg-other.gguf"), (older, "lcg-older.gguf"), (gate16, "renamed.gguf")):
        shutil.copy(source, beside / name)
    (beside / "lcg-broken.gguf").write_bytes(b"GGUF")
    assert find_gate(model) == str(folders[1] / "sub" / "lcg-a.gguf")
    for name in ("lcg-tiny-v1.gguf", "lcg-tiny-v2.gguf"):
        shutil.copy(gate16, beside / name)
    assert find_gate(model) == str(beside / "lcg-tiny-v2.gguf")
    llm = GatedLlama(str(model), gate="auto", **COMMON)
    assert llm.gate is not None
    assert llm.gate.path == str(beside / "lcg-tiny-v2.gguf")
    found = output_json(capsys, "run", "-m", model, "--lcg", "auto", "-p", "the", "-n", "2")
    assert found["gate"] == llm.gate.path


# --- publishing one ---------------------------------------------------------------------------------------------------


def test_a_published_gate_has_a_card_and_a_line_in_the_index(
    tmp_path: Path, gate16: Path, make_gate_file: MakeGateFile
) -> None:
    found = publish_gate(
        gate16,
        tmp_path,
        name="tiny",
        base_model="us/Tiny-1B",
        license="apache-2.0",
        summary=SUMMARY,
        notes="## Limits\n",
    )
    assert found == PublishedGate(
        name="tiny",
        file="tiny/lcg-Tiny-1B-F32.gguf",
        sha256=hashlib.sha256(gate16.read_bytes()).hexdigest(),
        base_model="us/Tiny-1B",
        architecture="llama",
        fingerprint=Gate.load(gate16).fingerprint,
        license="apache-2.0",
    )
    assert (tmp_path / found.file).read_bytes() == gate16.read_bytes()
    card = (tmp_path / "tiny" / "README.md").read_text(encoding="utf-8")
    front, _, text = (
        card.removeprefix("---\n").partition("\n---\n") if hasattr(card, "removeprefix") else ("", "", card)
    )
    assert 'base_model: "us/Tiny-1B"' in front
    assert 'license: "apache-2.0"' in front
    assert "| cj % | 4.50 (3.00–6.00) | 0.12 (0.00–0.25) |" in text
    assert "1,200 prompts of cldr, 3 replies to each; temp 0.7, top_k 20; tiny.gguf." in text
    assert "/somewhere" not in card
    assert "only" not in text.partition("## Measured")[2]
    assert text.endswith("\n## Limits\n")

    other = publish_gate(gate16, tmp_path, name="another", base_model="us/Other", license="mit")
    train = {"label.top_k": 5, "held_out.cj.precision": 0.875, "held_out.cj.recall": 0.5, "held_out.latin.recall": 1.0}
    again = make_gate_file(tiny_model.gate_weights(16, seed=9), version="v2", license="mit", outtype="f16", train=train)
    newer = publish_gate(again, tmp_path, name="tiny", base_model="us/Tiny-1B")
    card = (tmp_path / "tiny" / "README.md").read_text(encoding="utf-8")
    assert "# Language Confusion Gate for Tiny-1B\n" in card
    assert "| label top k | 5 |" in card
    assert "| family | precision | recall |\n|---|---|---|\n| cj | 87.5 | 50.0 |\n| latin |  | 100.0 |\n" in card
    assert "held" not in card
    assert read_index(tmp_path) == [other, newer]
    assert [path.name for path in (tmp_path / "tiny").iterdir() if path.suffix == ".gguf"] == [
        "lcg-Tiny-1B-v2-F16.gguf"
    ]
    assert newer.license == "mit"
    assert json.loads((tmp_path / "index.json").read_bytes()) == {
        "version": 1,
        "gates": [dataclasses.asdict(other), dataclasses.asdict(newer)],
    }


def test_what_cannot_be_published_is_refused(tmp_path: Path, gate16: Path, make_gate_file: MakeGateFile) -> None:
    for changes, message in (
        ({"name": "a/b"}, "`name` is 'a/b', expected letters"),
        ({"base_model": "tiny"}, "`base_model` is 'tiny', expected ORGANIZATION/NAME"),
        ({"license": ""}, "has no license, expected one"),
    ):
        with pytest.raises(GateError, match=message):
            publish_gate(gate16, tmp_path, **{"name": "a", "base_model": "us/tiny", "license": "mit", **changes})
    older = make_gate_file(tiny_model.gate_weights(16), fingerprint="")
    with pytest.raises(GateError, match="has no fingerprint, nobody could find it"):
        publish_gate(older, tmp_path, name="a", base_model="us/tiny", license="mit")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "is no index of gates"),
        ('{"version": 2, "gates": []}', "`version` is 2, expected 1"),
        ("[]", "is no index"),
    ],
)
def test_an_index_that_cannot_be_read_says_so(tmp_path: Path, text: str, message: str) -> None:
    assert read_index(tmp_path) == []
    (tmp_path / "index.json").write_text(text)
    with pytest.raises(GateError, match=message):
        read_index(tmp_path)


def test_the_published_gates_are_what_their_index_says() -> None:
    folder = find.published_folder()
    assert (folder / "index.json").is_file()
    for gate in read_index():
        assert hashlib.sha256((folder / gate.file).read_bytes()).hexdigest() == gate.sha256
        assert Gate.load(folder / gate.file).fingerprint == gate.fingerprint
        assert (folder / gate.name / "README.md").is_file()


def test_the_command_lists_finds_and_adds(
    shelf: Path, gate16: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(command, "published_folder", find.published_folder)
    assert main(["gates"]) == 0
    assert "no gates are published" in capsys.readouterr().out
    (shelf / "summary.json").write_text(json.dumps(SUMMARY))
    folder = shelf / "published"
    add = ["gates", "add", str(gate16), "--name", "tiny", "--base-model", "us/tiny", "-o", str(folder)]
    assert main([*add, "--license", "mit", "--summary", str(shelf / "summary.json")]) == 0
    assert "## Measured" in (folder / "tiny" / "README.md").read_text(encoding="utf-8")
    capsys.readouterr()
    path = str(folder / "tiny" / "lcg-tiny-F32.gguf")
    for arguments in (["tiny"], ["-m", str(shelf / "models" / "tiny.gguf")]):
        assert main(["gates", "path", *arguments]) == 0
        assert capsys.readouterr().out == path + "\n"
    assert main(["gates", "list"]) == 0
    assert "us/tiny" in capsys.readouterr().out
    assert main(["gates", "list", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["gates"][0]["name"] == "tiny"
    for arguments, message in (
        (["path", "other"], "NAME: other: no such gate is published, expected tiny"),
        (["path", "-m", str(gate16)], "has no norms to know it by"),
        ([*add[1:], "--summary", str(gate16)], "is no summary.json of `lcg-cpp eval`"),
    ):
        assert main(["gates", *arguments]) == 2
        assert message in capsys.readouterr().err


def test_kept_states_are_of_one_fingerprint(tmp_path: Path, tiny_model_path: Path, finetune: Path) -> None:
    pytest.importorskip("safetensors")
    from lcg_cpp.train.states import Facts, StatesFolder

    base = read_base_model(tiny_model_path)
    facts = Facts("tiny", "llama", "F32", base.vocab.tokenizer_hash, base.vocab.n_vocab, base.n_embd, 8, 0.0, "", [])
    norms = np.ones(base.vocab.n_vocab, np.float32)
    known = dataclasses.replace(facts, fingerprint=base.fingerprint)
    for kept in (facts, known):
        StatesFolder(tmp_path, kept, norms).check_base(base)
    other = read_base_model(finetune)
    StatesFolder(tmp_path, facts, norms).check_base(other)  # older states do not tell
    with pytest.raises(GateError, match=r"has the fingerprint v1:\w+, but .* holds states of one with v1:"):
        StatesFolder(tmp_path, known, norms).check_base(other)
    StatesFolder.create(tmp_path / "a", facts, norms)
    StatesFolder.create(tmp_path / "a", known, norms)  # goes on with them
    StatesFolder.create(tmp_path / "b", known, norms)
    with pytest.raises(GateError, match="holds states with `fingerprint`"):
        StatesFolder.create(tmp_path / "b", dataclasses.replace(facts, fingerprint=other.fingerprint), norms)
