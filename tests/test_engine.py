"""What the engine refuses: models without a vocabulary, files that llama.cpp cannot load, another llama_cpp."""

from __future__ import annotations

import struct
import subprocess
import sys
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
from llama_cpp import Llama

import odd_models
import tiny_model
from command_line import refusal
from lcg_cpp import GatedLlama, GateError
from lcg_cpp.engine import installed
from lcg_cpp.engine.model import read_base_model
from lcg_cpp.engine.teacher import Teacher

SETTINGS: dict[str, Any] = {"n_ctx": 64, "n_threads": 1, "verbose": False}

OPENERS: dict[str, Callable[[Path], object]] = {
    "read_base_model": read_base_model,
    "Teacher": lambda path: Teacher(path, n_ctx=32, n_batch=8, n_threads=1),
    "GatedLlama": lambda path: GatedLlama(str(path), **SETTINGS),
}


def write_without_vocabulary(path: Path, model: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The tiny model, but for its tokens."""
    add_tokenizer_model = gguf.GGUFWriter.add_tokenizer_model
    with monkeypatch.context() as patch:
        patch.setattr(gguf.GGUFWriter, "add_tokenizer_model", lambda self, _: add_tokenizer_model(self, model))
        for name in ("pre", "token_list", "token_types", "token_merges", "bos_token_id", "eos_token_id"):
            full_name = {"pre": "add_tokenizer_pre"}.get(name, f"add_{name}")
            patch.setattr(gguf.GGUFWriter, full_name, lambda self, _: None)
        patch.setattr(gguf.GGUFWriter, "add_add_bos_token", lambda self, _: None)
        tiny_model.write_model(path)


@pytest.mark.parametrize("model", ["no_vocab", "none"])
@pytest.mark.parametrize("opener", OPENERS)
def test_a_model_without_a_vocabulary_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, opener: str, model: str
) -> None:
    path = tmp_path / "mute.gguf"
    write_without_vocabulary(path, model, monkeypatch)
    with pytest.raises(GateError) as refused:
        OPENERS[opener](path)
    assert str(refused.value) == (
        f'{path}: has no vocabulary (`tokenizer.ggml.model` is "{model}"), expected a model with its tokens;'
        " convert it again, with its tokenizer"
    )


@pytest.mark.parametrize("command", [["families"], ["run", "-p", "a", "--no-lcg"]])
def test_no_command_dies_of_a_model_without_a_vocabulary(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], command: list[str]
) -> None:
    path = tmp_path / "mute.gguf"
    write_without_vocabulary(path, "no_vocab", monkeypatch)
    message = refusal(capsys, command[0], "-m", str(path), *command[1:])
    assert message.startswith(f"-m/--model: {path}: has no vocabulary")


@pytest.mark.parametrize("opener", OPENERS)
@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "the file has 0 bytes, a GGUF file has at least 24"),
        (b"GGUF" + struct.pack("<IQQ", 3, 0, 5), "the file ends inside its header"),
        (b"hello, world: this is a text, and a long one", "llama.cpp cannot load it: invalid magic characters: 'hell'"),
    ],
)
def test_llama_cpps_own_reason_is_given(tmp_path: Path, opener: str, content: bytes, reason: str) -> None:
    path = tmp_path / "odd.gguf"
    path.write_bytes(content)
    with pytest.raises(GateError, match=f"^{path}: {reason}"):
        OPENERS[opener](path)


def test_a_missing_key_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "keyless.gguf"
    with monkeypatch.context() as patch:
        patch.setattr(gguf.GGUFWriter, "add_tokenizer_model", lambda self, _: None)
        tiny_model.write_model(path)
    for opener in OPENERS.values():
        with pytest.raises(GateError, match=r"key not found in model: tokenizer\.ggml\.model$"):
            opener(path)


def test_a_width_that_is_no_number_is_not_known(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        gguf.GGUFWriter, "add_embedding_length", lambda self, _: self.add_string("llama.embedding_length", "wide")
    )
    path = tmp_path / "wide.gguf"
    tiny_model.write_model(path)
    assert read_base_model(path).n_embd == 0


@pytest.mark.parametrize("kind", ["bert", "t5"])
def test_models_that_generate_nothing_end_no_process(tmp_path: Path, gate16: Path, kind: str) -> None:
    path = tmp_path / f"{kind}.gguf"
    getattr(odd_models, f"write_{kind}")(path)
    program = (
        "import sys; from lcg_cpp import GatedLlama, GateError\n"
        "try: GatedLlama(sys.argv[1], gate=sys.argv[2], n_ctx=64, verbose=False)\n"
        "except GateError: print('refused')"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, str(path), str(gate16)], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout) == (0, "refused\n"), done.stderr


def test_a_vocabulary_alone_takes_no_gate(tiny_model_path: Path, gate16: Path) -> None:
    with pytest.raises(
        GateError, match=r"^`vocab_only` is True, a gate needs the model.s weights; pass `vocab_only=False`$"
    ):
        GatedLlama(str(tiny_model_path), gate=gate16, vocab_only=True, **SETTINGS)


@pytest.mark.parametrize("kind", [list, tuple, lambda ids: np.array(ids, np.int32), np.array])
def test_every_sequence_that_stock_evaluates_is_evaluated(
    tiny_model_path: Path, gate16: Path, kind: Callable[[list[int]], Any]
) -> None:
    llm, stock = GatedLlama(str(tiny_model_path), gate=gate16, **SETTINGS), Llama(str(tiny_model_path), **SETTINGS)
    for each in (llm, stock):
        each.eval(kind([300, 301, 302]))
        each.eval(kind([]))
    assert llm.n_tokens == stock.n_tokens == 3
    token = llm.sample(temp=0.0)
    llm.eval(kind([token]))
    assert llm._in_reply
    assert len([t for t, _ in zip(llm.generate(kind([300, 301]), temp=0.0), range(3))]) == 3


# ---- another llama_cpp ----


def test_the_installed_llama_cpp_is_taken() -> None:
    installed.check_llama_cpp()


@pytest.mark.parametrize("missing", ["llama_cpp.Llama._init_sampler", "llama_cpp.llama_cpp.llama_sampler_i_apply"])
def test_a_fork_of_the_same_name_is_refused_in_one_line(monkeypatch: pytest.MonkeyPatch, missing: str) -> None:
    real = installed.importlib.import_module

    class Without:
        """A module or class that has everything but one name."""

        def __init__(self, inner: Any, path: list[str]) -> None:
            self._inner, self._path = inner, path

        def __getattr__(self, name: str) -> Any:
            if name == self._path[0]:
                if len(self._path) == 1:
                    raise AttributeError(name)
                return Without(getattr(self._inner, name), self._path[1:])
            return getattr(self._inner, name)

    module, path = (
        ("llama_cpp.llama_cpp", missing.split(".")[2:])
        if "sampler_i" in missing
        else (
            "llama_cpp",
            missing.split(".")[1:],
        )
    )
    fake = types.SimpleNamespace(import_module=lambda n: Without(real(n), path) if n == module else real(n))
    monkeypatch.setattr(installed, "importlib", fake)
    with pytest.raises(GateError) as refused:
        installed.check_llama_cpp()
    assert f"has no `{missing}`" in str(refused.value)
    assert "pip install" in str(refused.value)
    assert "\n" not in str(refused.value)


def test_a_command_with_a_fork_ends_with_one_line(tmp_path: Path) -> None:
    (tmp_path / "llama_cpp").mkdir()
    (tmp_path / "llama_cpp" / "__init__.py").write_text("__version__ = '0.3.48'\n\n\nclass Llama:\n    pass\n")
    program = f"import sys; sys.path.insert(0, {str(tmp_path)!r}); from lcg_cpp.cli import main; sys.exit(main())"
    done = subprocess.run(
        [sys.executable, "-c", program, "families", "-m", "x.gguf"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    assert done.stderr.startswith("lcg-cpp: error: the installed llama-cpp-python 0.3.48 has no `llama_cpp.Llama._init")
    assert done.stderr.count("\n") == 1
