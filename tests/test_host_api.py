"""The boundary to llama.cpp: declarations against the installed headers, and what is refused when they do not fit."""

from __future__ import annotations

import ctypes
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import llama_cpp
import pytest
from llama_cpp import llama_cpp as bindings

import gguf_bytes as gb
from lcg_cpp import Gate, _core
from lcg_cpp.engine import connect as core_connection
from lcg_cpp.errors import GateError

ROOT = Path(__file__).resolve().parents[1]
HEADERS = Path(llama_cpp.__file__).resolve().parents[1] / "include"
HOST_API = ROOT / "csrc" / "host_api.h"

Compile = Callable[[Path], "subprocess.CompletedProcess[str]"]


@pytest.fixture(scope="module")
def compile_against() -> Compile:
    """Checks the drift test's source against the host_api.h of a folder."""
    names = [os.environ.get("CXX", ""), "c++", "g++", "clang++"]
    compiler = next((found for name in names if name and (found := shutil.which(name))), None)
    if compiler is None:
        pytest.skip(f"no C++ compiler, tried {', '.join(filter(None, names))}")
    if not (HEADERS / "llama.h").exists():
        pytest.skip(f"this llama-cpp-python installed no headers, {HEADERS}/llama.h is not there")
    if not HOST_API.exists():
        pytest.skip("the sources of the core are not there")

    def run(folder: Path) -> subprocess.CompletedProcess[str]:
        source = ROOT / "tests" / "cpp" / "host_api_drift.cpp"
        arguments = ["-std=c++17", "-fsyntax-only", "-Wall", "-Wextra", "-Werror"]
        return subprocess.run(
            [compiler, *arguments, f"-I{folder}", f"-I{HEADERS}", str(source)], capture_output=True, text=True
        )

    return run


def test_the_fuzz_target_compiles() -> None:
    compiler = os.environ.get("CXX") or shutil.which("c++") or shutil.which("g++") or shutil.which("clang++")
    if compiler is None:
        pytest.skip("no C++ compiler")
    command = [compiler, "-std=c++17", "-fsyntax-only", f"-I{ROOT}/csrc", str(ROOT / "tools/fuzz/fuzz_gate_file.cpp")]
    result = subprocess.run(command, capture_output=True, text=True)
    assert (result.returncode, result.stderr) == (0, "")


def test_declarations_equal_the_headers_of_the_installed_llama_cpp(compile_against: Compile) -> None:
    result = compile_against(HOST_API.parent)
    assert (result.returncode, result.stderr) == (0, "")


@pytest.mark.parametrize(
    ("name", "found", "changed"),
    [
        # a parameter, a result, a count, constness, a pointee, the size and sign of integers
        ("llama_sampler_accept", "(llama_sampler *, int32_t)", "(llama_sampler *, int64_t)"),
        ("llama_sampler_accept", "(llama_sampler *, int32_t)", "(llama_sampler *, uint32_t)"),
        ("llama_sampler_accept", "(llama_sampler *, int32_t)", "(llama_sampler *, int32_t, int32_t)"),
        ("llama_sampler_accept", "(llama_sampler *, int32_t)", "(llama_sampler *)"),
        ("llama_sampler_clone", "(const llama_sampler *)", "(llama_sampler *)"),
        ("llama_vocab_n_tokens", "(const llama_vocab *)", "(const llama_context *)"),
        ("llama_vocab_get_attr", "int32_t, (", "int64_t, ("),
        ("ggml_gallocr_alloc_graph", "bool, (", "int32_t, ("),
        ("ggml_backend_graph_compute", "int32_t, (", "uint32_t, ("),
        ("ggml_backend_dev_by_type", "(int32_t)", "(int64_t)"),
        ("ggml_backend_load_all", "()", "(int32_t)"),
        ("ggml_init", "(tensor_context_params)", "(sampler_object)"),
        ("ggml_set_input", "void, (", "void *, ("),
    ],
)
def test_a_changed_function_does_not_compile(
    compile_against: Compile, tmp_path: Path, name: str, found: str, changed: str
) -> None:
    lines = HOST_API.read_text().splitlines()
    (place,) = [i for i, line in enumerate(lines) if f"X({name}, " in line]
    assert found in lines[place]
    lines[place] = lines[place].replace(found, changed)
    assert_differs(compile_against, tmp_path, "\n".join(lines) + "\n", f"function {name} differs")


@pytest.mark.parametrize(
    ("found", "changed", "error"),
    [
        ("int32_t id;", "int64_t id;", "size of llama_token_data differs"),
        ("float logit;", "int32_t logit;", "field llama_token_data::logit differs"),
        ("int32_t id; float logit;", "float logit; int32_t id;", "field llama_token_data::id differs"),
        ("int64_t selected;", "int32_t selected;", "field llama_token_data_array::selected differs"),
        ("int64_t selected;", "uint64_t selected;", "field llama_token_data_array::selected differs"),
        ("bool sorted;", "bool sorted; int64_t more;", "size of llama_token_data_array differs"),
        ("void * ctx;", "void * gap; void * ctx;", "size of llama_sampler differs"),
        ("void * mem_buffer;", "size_t mem_buffer;", "field ggml_init_params::mem_buffer differs"),
        ("type_bf16 = 30", "type_bf16 = 31", "GGML_TYPE_BF16 differs"),
        ("device_igpu = 2", "device_igpu = 3", "GGML_BACKEND_DEVICE_TYPE_IGPU differs"),
    ],
)
def test_a_changed_layout_or_number_does_not_compile(
    compile_against: Compile, tmp_path: Path, found: str, changed: str, error: str
) -> None:
    pattern = r"\s+".join(re.escape(word) for word in found.split())
    text, n = re.subn(pattern, changed, HOST_API.read_text())
    assert n == 1
    assert_differs(compile_against, tmp_path, text, error)


def assert_differs(compile_against: Compile, folder: Path, text: str, error: str) -> None:
    (folder / "host_api.h").write_text(text)
    result = compile_against(folder)
    assert result.returncode != 0
    assert error in result.stderr


# ---- what Python compares before it hands anything over ----


@pytest.fixture
def connect(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[], object]]:
    """Connects the core anew, whatever was connected before, and again when the test is over."""
    core_connection.connect_core.cache_clear()
    yield core_connection.connect_core
    monkeypatch.undo()
    core_connection.connect_core.cache_clear()
    core_connection.connect_core()


class LargerTokenData(ctypes.Structure):
    _fields_ = (("id", ctypes.c_int32), ("logit", ctypes.c_float), ("p", ctypes.c_float), ("q", ctypes.c_float))


class SwappedTokenData(ctypes.Structure):
    _fields_ = (("id", ctypes.c_int32), ("p", ctypes.c_float), ("logit", ctypes.c_float))


class SmallerTokenArray(ctypes.Structure):
    _fields_ = (
        ("data", ctypes.c_void_p),
        ("size", ctypes.c_size_t),
        ("selected", ctypes.c_int32),
        ("sorted", ctypes.c_bool),
    )


class LargerSampler(ctypes.Structure):
    _fields_ = (("iface", ctypes.c_void_p), ("ctx", ctypes.c_void_p), ("more", ctypes.c_int64))


@pytest.mark.parametrize(
    ("name", "struct", "difference"),
    [
        ("llama_token_data", LargerTokenData, "size is 16, lcg-cpp was written for 12"),
        ("llama_token_data", SwappedTokenData, "offset of `logit` is 8, lcg-cpp was written for 4"),
        ("llama_token_data_array", SmallerTokenArray, "size is 24, lcg-cpp was written for 32"),
        ("llama_sampler", LargerSampler, "size is 24, lcg-cpp was written for 16"),
    ],
)
@pytest.mark.skipif(ctypes.sizeof(ctypes.c_void_p) != 8, reason="the expected sizes are those of 64-bit systems")
def test_a_llama_cpp_with_other_structures_is_refused(
    connect: Callable[[], object],
    monkeypatch: pytest.MonkeyPatch,
    name: str,
    struct: type[ctypes.Structure],
    difference: str,
) -> None:
    monkeypatch.setattr(bindings, name, struct)
    with pytest.raises(GateError) as caught:
        connect()
    assert str(caught.value) == (
        f"llama-cpp-python {llama_cpp.__version__}: `{name}`: {difference};"
        " install a version of lcg-cpp made for this llama-cpp-python"
    )


def test_the_core_checks_the_layouts_that_it_shares() -> None:
    layouts = _core.host_layouts()
    whole = {"llama_token_data", "llama_token_data_array", "llama_sampler"}
    assert set(layouts) == {*whole, "llama_sampler_i"}
    for name in whole:
        fields = {field.rstrip("_") for field in layouts[name]}
        assert fields == {"size", *(field[0] for field in getattr(bindings, name)._fields_)}
    assert list(layouts["llama_sampler_i"]) == sorted(f[0] for f in bindings.llama_sampler_i._fields_[:6])


@pytest.fixture
def addresses(connect: Callable[[], object], monkeypatch: pytest.MonkeyPatch) -> dict[str, int]:
    """The addresses that Python hands over."""
    seen: list[dict[str, int]] = []
    original = _core.set_host_api
    monkeypatch.setattr(_core, "set_host_api", lambda table: (seen.append(table), original(table)))
    connect()
    monkeypatch.undo()
    return seen[0]


def test_every_function_is_found_in_the_libraries(addresses: dict[str, int]) -> None:
    assert set(addresses) == set(_core.host_functions())
    assert all(addresses.values())


def test_a_missing_function_is_refused_and_the_connection_kept(addresses: dict[str, int], tmp_path: Path) -> None:
    for name in addresses:
        for broken in ({n: a for n, a in addresses.items() if n != name}, {**addresses, name: 0}):
            with pytest.raises(GateError) as caught:
                _core.set_host_api(broken)
            assert str(caught.value) == (
                f"llama.cpp's function `{name}` was not found in the libraries of llama-cpp-python"
            )
    (tmp_path / "gate.gguf").write_bytes(gb.minimal().bytes())
    assert Gate.load(tmp_path / "gate.gguf").predict([[3, 7, 1, 5]]).tolist() == [[3.5, 3.25, 1.5]]


def test_libraries_without_the_functions_are_refused(
    connect: Callable[[], object], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(core_connection, "_libraries", list)
    with pytest.raises(GateError, match="`llama_sampler_init` was not found in the libraries of llama-cpp-python"):
        connect()


MISUSE = {
    "a stage without a gate": "_core.StagePair(None, GateOptions().core_stage_options(Thresholds()))",
    "predict without a gate": "_core.Gate.predict(None, [[1, 2, 3, 4]])",
    "too few logits": "stage.apply_row(1, np.zeros(4, np.float32), None, False)",
    "logits of two dimensions": "stage.apply_row(1, np.zeros((5, 1), np.float32), None, False)",
    "too few hidden channels": "stage.apply_row(1, np.zeros(5, np.float32), np.zeros(3, np.float32), False)",
    "no options": "stage.set_options(None)",
    "no facts": "stage.begin_reply(None)",
    "endless events": "_core.StageOptions(GateOptions().core_conduct(Thresholds(), None), -1, False)",
    "no file": "_core.Gate(None, 'cpu')",
    "no device": "_core.Gate(_core.parse_gate_file(data, 'gate.gguf'), None)",
    "text for bytes": "_core.parse_gate_file('GGUF', 'gate.gguf')",
    "no addresses": "_core.set_host_api(None)",
}


@pytest.mark.parametrize("name", MISUSE)
def test_misuse_of_the_core_is_an_exception_and_no_crash(name: str, tmp_path: Path) -> None:
    (tmp_path / "gate.gguf").write_bytes(gb.minimal().bytes())
    program = f"""
import pathlib, sys
import numpy as np
from lcg_cpp import Gate, GateOptions, _core
from lcg_cpp.gate.thresholds import Thresholds
data = pathlib.Path(sys.argv[1]).read_bytes()
gate = Gate.load(sys.argv[1])
stage = gate.new_stages(GateOptions())
try:
    {MISUSE[name]}
except (ValueError, TypeError):
    print(gate.predict([[3, 7, 1, 5]]).tolist())
"""
    result = subprocess.run(
        [sys.executable, "-c", program, str(tmp_path / "gate.gguf")], capture_output=True, text=True
    )
    assert (result.returncode, result.stdout.strip()) == (0, "[[3.5, 3.25, 1.5]]"), result.stderr


def test_gates_before_the_core_is_connected_are_refused(tmp_path: Path) -> None:
    (tmp_path / "gate.gguf").write_bytes(gb.minimal().bytes())
    program = """
import pathlib, sys
from lcg_cpp import GateError, _core
file = _core.parse_gate_file(pathlib.Path(sys.argv[1]).read_bytes(), "gate.gguf")
for use in (lambda: _core.Gate(file, "cpu"), lambda: _core.read_vocab(0)):
    try:
        use()
    except GateError as error:
        print(error)
"""
    result = subprocess.run(
        [sys.executable, "-c", program, str(tmp_path / "gate.gguf")], capture_output=True, text=True
    )
    message = "the core is not connected to llama.cpp: import lcg_cpp first"
    assert (result.returncode, result.stdout.splitlines()) == (0, [message] * 2), result.stderr


def test_a_gate_dies_with_the_interpreter_in_any_order(tmp_path: Path) -> None:
    (tmp_path / "gate.gguf").write_bytes(gb.minimal().bytes())
    program = """
import builtins, sys
from lcg_cpp import Gate, GateOptions
builtins.gate = gate = Gate.load(sys.argv[1])
builtins.stage = gate.new_stages(GateOptions())
gate.cycle = [gate, builtins.stage]
"""
    result = subprocess.run(
        [sys.executable, "-c", program, str(tmp_path / "gate.gguf")], capture_output=True, text=True
    )
    assert (result.returncode, result.stderr) == (0, "")
