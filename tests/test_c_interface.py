"""`lcg.h`: what C and C++ programs get decides as `GatedLlama` does; the example of the docs builds and runs."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import llama_cpp
import pytest
from llama_cpp import _internals as internals
from llama_cpp import llama_cpp as bindings

import lcg_cpp
from lcg_cpp import GatedLlama, GateOptions, Phase, _core, demo
from lcg_cpp.engine.model import read_base_model
from lcg_cpp.gate.gate_file import read_weights, write_gate
from lcg_cpp.gate.spec import spec_for

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = Path(lcg_cpp.__file__).resolve().parent
LLAMA = Path(llama_cpp.__file__).resolve().parents[1]  # headers and libraries, as llama-cpp-python installs them
N_PREDICT = 24


@pytest.fixture(scope="module")
def build(tmp_path_factory: pytest.TempPathFactory) -> object:
    names = [os.environ.get("CXX", ""), "c++", "g++", "clang++"]
    compiler = next((found for name in names if name and (found := shutil.which(name))), None)
    if compiler is None:
        pytest.skip(f"no C++ compiler, tried {', '.join(filter(None, names))}")
    if not (LLAMA / "include" / "llama.h").exists():
        pytest.skip(f"this llama-cpp-python installed no headers, {LLAMA}/include/llama.h is not there")
    folder = tmp_path_factory.mktemp("programs")

    def compile_program(source: Path) -> Path:
        program = folder / source.stem
        flags = ["-std=c++17", "-O1", "-Wall", "-Wextra", "-Werror", f"-I{LLAMA}/include", f"-I{PACKAGE}/include"]
        libraries = [f"-L{LLAMA}/lib", "-lllama", "-lggml", "-lggml-base", f"-L{PACKAGE}/lib", "-llcg"]
        paths = [f"-Wl,-rpath,{LLAMA}/lib", f"-Wl,-rpath,{PACKAGE}/lib"]
        subprocess.run([compiler, *flags, str(source), "-o", str(program), *libraries, *paths], check=True)
        return program

    return compile_program


@pytest.fixture(scope="module")
def program(build) -> Path:
    return build(ROOT / "tests" / "cpp" / "c_interface.cpp")


@pytest.fixture(scope="module")
def prompts() -> list[list[int]]:
    llm = GatedLlama(str(demo.MODEL), n_ctx=256, verbose=False)
    lines = demo.PROMPTS.read_text(encoding="utf-8").splitlines()[:12]
    return [llm.tokenize(json.loads(line)["prompt"].encode(), special=True) for line in lines]


def run(program: Path, mode: str, prompts: list[list[int]], gate: Path = demo.GATES["default"]) -> str:
    arguments = [",".join(map(str, tokens)) for tokens in prompts]
    command = [str(program), str(demo.MODEL), str(gate), mode, *arguments]
    result = subprocess.run(command, capture_output=True, text=True)
    assert (result.returncode, result.stderr) == (0, "")
    return result.stdout


def in_python(
    prompts: list[list[int]], options: GateOptions | None = None, gate: Path = demo.GATES["default"]
) -> list[str]:
    """The lines that the program has to print."""
    llm = GatedLlama(str(demo.MODEL), gate=gate, gate_options=options, n_ctx=256, verbose=False)
    lines = []
    for tokens in prompts:
        llm.reset_gate_stats()
        llm.reset()
        reply = [token for _, token in zip(range(N_PREDICT), llm.generate(tokens, temp=0.0))]
        stats, events = llm.gate_stats, llm.gate_events
        event = [1, events[-1].position, events[-1].removed[0][0], events[-1].chosen] if events else [0, 0, 0, 0]
        lines.append(f"{' '.join(map(str, reply))} | {stats.steps} {stats.interventions} | {' '.join(map(str, event))}")
    assert any("| 24 0 |" not in line for line in lines)
    return lines


@pytest.mark.parametrize("mode", ["greedy", "accepted", "slots"])
def test_a_program_gets_the_tokens_and_interventions_of_gated_llama(
    program: Path, prompts: list[list[int]], mode: str
) -> None:
    assert run(program, mode, prompts).splitlines() == in_python(prompts)


# `new_phases` in tests/cpp/c_interface.cpp
PHASES = (
    Phase("thinking", GateOptions(mode="observe")),
    Phase(((", ", "и"),), GateOptions(mode="off")),
    Phase((("а", ""),), GateOptions(deny=("latin", "cyrillic"), threshold=0.9)),
)


@pytest.mark.parametrize(
    ("kind", "thresholds"), [("first_thresholds", (1e-6,) * 4), ("allow_thresholds", (1e-6, 0.5, 0.5, 0.5))]
)
def test_the_thresholds_of_the_gate_file_hold(
    program: Path, prompts: list[list[int]], tmp_path: Path, kind: str, thresholds: tuple[float, ...]
) -> None:
    weights = read_weights(demo.GATES["default"])
    lenient: dict[str, Any] = {kind: thresholds}
    spec = spec_for(read_base_model(demo.MODEL), n_hidden=len(weights["lcg.fc1.weight"]), **lenient)
    gate = tmp_path / "lenient.gguf"
    write_gate(gate, spec, weights, "f32")
    expected = in_python(prompts, gate=gate)
    assert run(program, "greedy", prompts, gate).splitlines() == expected
    assert expected != in_python(prompts)
    strict = in_python(prompts, GateOptions(threshold=0.9), gate)
    assert run(program, "strict", prompts, gate).splitlines() == strict
    assert strict != expected


@pytest.mark.parametrize("mode", ["phases", "phases accepted"])
def test_phases_have_options_of_their_own_as_in_gated_llama(program: Path, prompts: list[list[int]], mode: str) -> None:
    llm = GatedLlama(str(demo.MODEL), n_ctx=256, verbose=False)
    thought = llm.tokenize(b"<think>\n", add_bos=False, special=True)
    both = [*prompts, *([*prompt, *thought] for prompt in prompts)]  # the second half goes on in a thought
    expected = in_python(both, GateOptions(phases=PHASES))
    assert run(program, mode, both).splitlines() == expected
    plain = in_python(both)
    n = len(prompts)
    assert sum(a != b for a, b in zip(expected[:n], plain[:n])) > 2
    assert sum(a != b for a, b in zip(expected[n:], plain[n:])) > 2


def test_observing_changes_no_token(program: Path, prompts: list[list[int]]) -> None:
    assert run(program, "observe", prompts).splitlines() == in_python(prompts, GateOptions(mode="observe"))


def test_a_pin_needs_no_gate(program: Path, prompts: list[list[int]]) -> None:
    llm = GatedLlama(str(demo.MODEL), gate_options=GateOptions(deny=("lowres", "cj")), n_ctx=256, verbose=False)
    lines = []
    for tokens in prompts:
        llm.reset()
        reply = [token for _, token in zip(range(N_PREDICT), llm.generate(tokens, temp=0.0))]
        lines.append(f"{' '.join(map(str, reply))} | 24 0 | 0 0 0 0")
    assert run(program, "pinned", prompts).splitlines() == lines


def test_a_cloned_sampler_continues_with_the_history(program: Path, prompts: list[list[int]]) -> None:
    tokens = [line.split(" |")[0] for line in run(program, "clone", prompts).splitlines()]
    assert tokens == [line.split(" |")[0] for line in in_python(prompts)]


def test_what_cannot_be_is_refused_in_one_line(program: Path) -> None:
    lines = dict(line.split(": ", 1) for line in run(program, "errors", []).splitlines())
    assert lines["missing"] == "1 nowhere.gguf: cannot be read: No such file or directory"
    assert lines["model"].startswith(f"1 {demo.MODEL}: ")
    assert lines["device"].startswith("3 ")
    choice = "the sampling chain does not end in a choice; add greedy, dist or mirostat to it first"
    assert lines["empty chain"] == lines["no choice"] == f"3 {choice}"
    assert lines["strength"].startswith("3 `strength` is -1")
    assert lines["threshold"].startswith("3 `threshold` is 1")
    assert lines["no chain"] == "3 `chain` is NULL"
    assert lines["part"] == "3 `name` is prose, expected thinking, code or tool_calls"
    assert lines["no marks"].startswith("3 `begin` and `end` are empty, expected a mark")
    assert lines["mark"] == "3 `begin` has 257 bytes, expected at most 256"
    assert lines["phases in a phase"] == "3 `params` has phases of its own, expected none"
    assert lines["strength of a phase"].startswith("3 `strength` is -1")
    assert lines["prompt"] == "3 `sampler` was not made by lcg_sampler_init"
    assert lines["script"].startswith("3 `allow` names klingon, expected one of latin, cyrillic, ")


def test_a_gate_of_another_model_is_refused(program: Path, gate16: Path) -> None:
    command = [str(program), str(demo.MODEL), str(gate16), "greedy", "5,6"]
    result = subprocess.run(command, capture_output=True, text=True)
    assert result.returncode == 1
    assert result.stderr.startswith(f"{gate16}: was made for n_embd 64, the model has ")
    assert result.stderr.endswith("; a gate fits only the model it was trained on\n")


def test_the_example_shows_what_the_gate_changed(build) -> None:
    example = build(ROOT / "examples" / "cpp" / "main.cpp")
    prompt = json.loads(demo.PROMPTS.read_text(encoding="utf-8").splitlines()[0])["prompt"]
    command = [str(example), str(demo.MODEL), str(demo.GATES["default"]), prompt, "24"]
    result = subprocess.run(command, capture_output=True, text=True)
    assert result.returncode == 0
    assert result.stdout.startswith(" Индия, немецкий, Панама")
    assert result.stderr.splitlines()[:2] == ["24 tokens, 2 interventions", "token 0:  И instead of  India"]


PAGE_PROGRAM = """
#include <lcg.h>
#include <llama.h>

#include <cstdio>

int main(int, char ** files) {
    llama_log_set([](ggml_log_level, const char *, void *) {}, nullptr);
    ggml_backend_load_all();
    const uint32_t       n_batch        = 64;
    llama_model *        model          = llama_model_load_from_file(files[1], llama_model_default_params());
    llama_context_params context_params = llama_context_default_params();
    context_params.n_ctx = context_params.n_batch = n_batch;
    llama_sampler * chain = llama_sampler_chain_init(llama_sampler_chain_default_params());
    llama_sampler_chain_add(chain, llama_sampler_init_greedy());
    llama_token tokens[n_batch];
    const int   n = llama_tokenize(llama_model_get_vocab(model), files[3], %d, tokens, n_batch, true, true);
    %s
    llama_decode(context, llama_batch_get_one(tokens, n));
    %s
    std::printf("%%d\\n", token);
    llama_sampler_free(sampler);
    {
        llama_sampler * chain = llama_sampler_chain_init(llama_sampler_chain_default_params());
        llama_sampler_chain_add(chain, llama_sampler_init_greedy());
        %s
        std::printf("%%s%%d\\n", error.message, llama_sampler_sample(sampler, context, -1));
        llama_sampler_free(sampler);
    }
    llama_free(context);
    lcg_tap_free(tap);
    lcg_gate_free(gate);
    llama_model_free(model);
}
"""


def test_the_code_of_the_page_runs_as_written(build, tmp_path: Path, prompts: list[list[int]]) -> None:
    code, phases = re.findall(r"^```cpp\n(.*?)^```$", (ROOT / "docs" / "c.md").read_text("utf-8"), re.M | re.S)
    written = '"lcg-MODEL-F16.gguf"'
    assert written in code
    code = code.replace(written, "files[2]")
    setup, sampling = code[: (end := code.index("llama_token "))], code[end:]
    text = json.loads(demo.PROMPTS.read_text(encoding="utf-8").splitlines()[0])["prompt"]
    (tmp_path / "page.cpp").write_text(PAGE_PROGRAM % (len(text.encode()), setup, sampling, phases), encoding="utf-8")
    command = [str(build(tmp_path / "page.cpp")), str(demo.MODEL), str(demo.GATES["default"]), text]
    result = subprocess.run(command, capture_output=True, text=True)
    assert (result.returncode, result.stderr) == (0, "")
    assert result.stdout.split() == in_python(prompts)[0].split()[:1] * 2


def hashes_agree(path: Path) -> bool:
    base = read_base_model(path)
    params = bindings.llama_model_default_params()
    params.vocab_only = True
    model = internals.LlamaModel(path_model=str(path), params=params, verbose=False)
    try:
        other = base.vocab.tokenizer_hash[:-1] + "g"
        assert not _core.has_tokenizer_hash(model.vocab, other)
        assert _core.has_tokenizer_hash(model.vocab, base.vocab._unversioned_hash)
        return _core.has_tokenizer_hash(model.vocab, base.vocab.tokenizer_hash)
    finally:
        model.close()


def test_the_core_finds_the_hash_that_python_computes(tiny_model_path: Path) -> None:
    assert hashes_agree(demo.MODEL)
    assert hashes_agree(tiny_model_path)


def test_the_core_finds_it_for_every_real_vocabulary(vocab_dir: Path) -> None:
    agree = {path.name: hashes_agree(path) for path in vocab_dir.glob("*.gguf")}
    assert agree == dict.fromkeys(agree, True)
    assert agree
