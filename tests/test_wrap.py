"""`lcg-cpp wrap` and the preload library: programs that know nothing of the gate decide as `GatedLlama` does."""

from __future__ import annotations

import dataclasses
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import llama_cpp
import pytest

import lcg_cpp
import odd_models
import tiny_model
from lcg_cpp import GatedLlama, GateOptions, demo
from lcg_cpp.commands import wrap
from lcg_cpp.commands.errors import UsageError
from lcg_cpp.gate.find import AUTO
from lcg_cpp.gate.options import with_phases
from wrapping import GATE, N_PROMPTS, demo_prompts, replies, run, stats_in, tokens, wrapped

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="LD_PRELOAD is Linux's; macOS has not been tried")

ROOT = Path(__file__).resolve().parents[1]
LLAMA = Path(llama_cpp.__file__).resolve().parents[1]  # headers and libraries, as llama-cpp-python installs them
LIBRARY = Path(lcg_cpp.__file__).resolve().parent / "lib" / "liblcg_preload.so"
STOCK_PYTHON = """
import sys
from llama_cpp import Llama

llm = Llama(sys.argv[1], n_ctx=256, verbose=False)
for prompt in sys.argv[2:]:
    llm.reset()
    tokens = [int(token) for token in prompt.split(",")]
    print(*[token for _, token in zip(range(24), llm.generate(tokens, temp=0.0))])
"""


@pytest.fixture(scope="module")
def compiler() -> str:
    names = [os.environ.get("CXX", ""), "c++", "g++", "clang++"]
    found = next((path for name in names if name and (path := shutil.which(name))), None)
    if found is None:
        pytest.skip("no C++ compiler")
    return found


@pytest.fixture(scope="module")
def stock(compiler: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The program of tests/cpp/stock.cpp, linked with llama-cpp-python's libraries."""
    if not (LLAMA / "include" / "llama.h").exists():
        pytest.skip("no headers of llama.cpp")
    program = tmp_path_factory.mktemp("program") / "stock"
    flags = ["-std=c++17", "-O1", "-Wall", "-Wextra", "-Werror", f"-I{LLAMA}/include"]
    libraries = [f"-L{LLAMA}/lib", "-lllama", "-lggml", "-lggml-base", f"-Wl,-rpath,{LLAMA}/lib"]
    source = str(ROOT / "tests" / "cpp" / "stock.cpp")
    subprocess.run([compiler, *flags, source, "-o", str(program), *libraries], check=True)
    return program


@pytest.fixture(scope="module")
def prompts() -> list[str]:
    return demo_prompts()


@pytest.fixture(scope="module")
def gated(prompts: list[str]) -> tuple[list[str], dict[str, int]]:
    found = replies(prompts)
    assert found[1]["interventions"] > 5
    return found


# ---- the same decisions ----


@pytest.mark.parametrize("mode", ["sample", "array", "micro", "watch", "slots"])
def test_a_program_gets_the_tokens_and_interventions_of_gated_llama(
    stock: Path, prompts: list[str], gated: tuple[list[str], dict[str, int]], tmp_path: Path, mode: str
) -> None:
    stats = tmp_path / "stats.jsonl"
    result = run(*wrapped(str(stock), mode, str(demo.MODEL), *prompts, options=("--stats", str(stats), "--strict")))
    assert tokens(result)[:N_PROMPTS] == gated[0]
    assert stats_in(stats) == gated[1]
    assert result.stderr == ""


@pytest.mark.parametrize("mode", ["silent", "rebuilt", "changed"])
def test_a_program_that_accepts_nothing_is_followed_by_what_it_decodes(
    stock: Path, prompts: list[str], gated: tuple[list[str], dict[str, int]], tmp_path: Path, mode: str
) -> None:
    stats = tmp_path / "stats.jsonl"
    result = run(*wrapped(str(stock), mode, str(demo.MODEL), *prompts, options=("--stats", str(stats), "--strict")))
    assert tokens(result) == gated[0]
    found = stats_in(stats)
    assert found["interventions"] == gated[1]["interventions"]  # though the program samples each row twice
    assert found["steps"] == gated[1]["steps"] - N_PROMPTS  # nothing is decoded behind a reply's last token


def test_where_neither_accepts_nor_batches_are_seen_nothing_is_gated_and_a_line_says_so(
    stock: Path, prompts: list[str]
) -> None:
    command = (str(stock), "unseen", str(demo.MODEL), *prompts)
    result = run(*wrapped(*command, options=("--stats", os.devnull)))
    assert tokens(result)[1:] == tokens(run(*command))[1:]  # that it accepts nothing shows at its second token
    (line,) = result.stderr.splitlines()
    assert line.startswith("lcg: tiny-names (llama): is not gated: the program does not accept the tokens")
    assert run(*wrapped(*command, options=("--strict",))).returncode == 2


def test_stock_python_does_too_though_it_opens_llama_cpp_privately(
    prompts: list[str], gated: tuple[list[str], dict[str, int]], tmp_path: Path
) -> None:
    stats = tmp_path / "stats.jsonl"
    command = (sys.executable, "-c", STOCK_PYTHON, str(demo.MODEL), *prompts)
    assert tokens(run(*wrapped(*command, options=("--stats", str(stats))))) == gated[0]
    assert stats_in(stats) == gated[1]


def test_a_draft_that_is_taken_back_leaves_no_history(
    stock: Path, prompts: list[str], gated: tuple[list[str], dict[str, int]]
) -> None:
    assert tokens(run(*wrapped(str(stock), "drafts", str(demo.MODEL), *prompts))) == gated[0]


def test_a_context_of_embeddings_beside_is_left_alone(
    stock: Path, prompts: list[str], gated: tuple[list[str], dict[str, int]]
) -> None:
    command = (str(stock), "embeddings", str(demo.MODEL), *prompts)
    plain, found = tokens(run(*command)), tokens(run(*wrapped(*command)))
    assert found[::2] == plain[::2]
    assert found[1::2] == gated[0]


def test_a_recurrent_model_keeps_the_rows_of_its_slots_apart(
    stock: Path, tmp_path: Path, make_gate_file: Callable[..., Path]
) -> None:
    model = tmp_path / "lfm2.gguf"
    odd_models.write_lfm2(model)
    gate = str(make_gate_file(tiny_model.gate_weights(16, n_embd=odd_models.N_EMBD), base=model))
    prompts = [",".join(str(7 * i + 3 * n % 250) for i in range(n)) for n in (9, 4, 12, 8)]
    expected = replies(prompts, gate, model=model)
    assert expected[1]["interventions"] > 0
    stats = tmp_path / "stats.jsonl"
    command = wrapped(str(stock), "slots", str(model), *prompts, gates=(gate,), options=("--stats", str(stats)))
    assert tokens(run(*command)) == expected[0]
    assert stats_in(stats, gate) == expected[1]


PINS = {
    "allowed": (GateOptions(allow=("cyrillic",)), ("--allow-scripts", "cyrillic")),
    "denied": (GateOptions(deny=("lowres", "cj")), ("--deny-scripts", "lowres,cj")),
}


@pytest.mark.parametrize("pin", PINS)
@pytest.mark.parametrize("gate", [None, GATE])
def test_a_pin_holds_with_and_without_a_gate(stock: Path, prompts: list[str], pin: str, gate: str | None) -> None:
    options, given = PINS[pin]
    expected, _ = replies(prompts[:6], gate, options)
    command = (str(stock), "array", str(demo.MODEL), *prompts[:6])
    assert tokens(run(*wrapped(*command, gates=() if gate is None else (gate,), options=given))) == expected
    assert expected != replies(prompts[:6], gate)[0]


PHASES = {
    "thinking": (with_phases(GateOptions(), "observe"), ("--while-thinking", "observe"), "<think>\n"),
    "calls": (
        with_phases(GateOptions(), None, ("code", "tool_calls")),
        ("--leave-alone", "code,tool-calls"),
        "<tool_call>",
    ),
    "pin": (
        with_phases(GateOptions(deny=("latin",)), "off"),
        ("--deny-scripts", "latin", "--while-thinking", "off"),
        "<think>",
    ),
}


@pytest.mark.parametrize("name", PHASES)
@pytest.mark.parametrize("mode", ["array", "clone"])
def test_phases_have_options_of_their_own_as_in_gated_llama(
    stock: Path, prompts: list[str], tmp_path: Path, name: str, mode: str
) -> None:
    options, given, mark = PHASES[name]
    begun = GatedLlama(str(demo.MODEL), n_ctx=256, verbose=False).tokenize(mark.encode(), add_bos=False, special=True)
    opened = [",".join([prompt, *map(str, begun)]) for prompt in prompts]
    stats = tmp_path / "stats.jsonl"
    for asked in (prompts, opened):
        expected, counted = replies(asked, options=options)
        command = (str(stock), mode, str(demo.MODEL), *asked)
        assert tokens(run(*wrapped(*command, options=(*given, "--stats", str(stats))))) == expected
        assert stats_in(stats) == counted
        assert (counted["interventions"] == 0) == (asked is opened and "observe" not in given)
    assert replies(opened, options=options)[0] != replies(opened, options=dataclasses.replace(options, phases=()))[0]


def test_observing_changes_no_token(stock: Path, prompts: list[str], tmp_path: Path) -> None:
    stats = tmp_path / "stats.jsonl"
    command = (str(stock), "sample", str(demo.MODEL), *prompts)
    options = ("--lcg-mode", "observe", "--stats", str(stats))
    assert tokens(run(*wrapped(*command, options=options))) == tokens(run(*command))
    assert stats_in(stats)["interventions"] > 0


# ---- what is told ----


def test_a_model_that_no_gate_fits_runs_ungated_with_one_line(stock: Path, prompts: list[str], gate16: Path) -> None:
    command = (str(stock), "sample", str(demo.MODEL), *prompts[:2])
    options = ("--stats", os.devnull)
    result = run(*wrapped(*command, gates=(str(gate16),), options=options))
    assert tokens(result) == tokens(run(*command))
    (line,) = result.stderr.splitlines()
    assert line.startswith(
        f"lcg: tiny-names (llama): is not gated: {gate16}: was made for n_embd 64, the model has 160"
    )
    strict = run(*wrapped(*command, gates=(str(gate16),), options=(*options, "--strict")))
    assert (strict.returncode, strict.stdout, strict.stderr) == (2, "", result.stderr)


def test_of_several_gates_each_model_gets_its_own(
    stock: Path, prompts: list[str], gated: tuple[list[str], dict[str, int]], gate16: Path
) -> None:
    result = run(*wrapped(str(stock), "sample", str(demo.MODEL), *prompts, gates=(str(gate16), GATE)))
    assert tokens(result) == gated[0]
    assert f"lcg: {gate16}: was not used" in result.stderr.splitlines()


def test_a_draft_model_is_no_reason_to_end(
    stock: Path, tmp_path: Path, tiny_model_path: Path, gate16: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tiny_model, "N_EMBD", 32)
    draft = tmp_path / "draft.gguf"
    tiny_model.write_model(draft)
    prompt, options = "300,301,302", ("--strict", "--stats", os.devnull)
    (expected,), _ = replies([prompt], str(gate16), model=tiny_model_path)
    alone = tokens(run(str(stock), "sample", str(draft), prompt))
    command = (str(stock), "beside", str(tiny_model_path), str(draft), prompt)
    result = run(*wrapped(*command, gates=(str(gate16),), options=options))
    assert tokens(result) == [expected, *alone]
    assert result.stderr == ""
    command = (str(stock), "beside", str(tiny_model_path), str(demo.MODEL), prompt)  # another tokenizer
    assert run(*wrapped(*command, gates=(str(gate16),), options=options)).returncode == 2


def test_a_program_that_never_calls_llama_cpp_is_told(stock: Path) -> None:
    line = "lcg: nothing was gated: this process never made a context of a llama.cpp that is a shared library\n"
    result = run(*wrapped(str(stock), "nothing"))
    assert (result.returncode, result.stderr) == (0, line)
    strict = run(*wrapped(str(stock), "nothing", options=("--strict",)))
    assert (strict.returncode, strict.stderr) == (2, line)


def test_statistics_come_at_the_signal_and_at_the_end(
    stock: Path, prompts: list[str], gated: tuple[list[str], dict[str, int]], tmp_path: Path
) -> None:
    stats = tmp_path / "stats.jsonl"
    command = wrapped(str(stock), "signal", str(demo.MODEL), *prompts, options=("--stats", str(stats)))
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        for _ in prompts:
            process.stdout.readline()
        process.send_signal(signal.SIGUSR1)
        while not stats.exists() or not stats.read_text("utf-8").endswith("\n"):
            assert process.poll() is None
        assert stats_in(stats) == gated[1]
        process.stdin.close()
    assert process.returncode == 0
    assert len(stats.read_text("utf-8").splitlines()) == 2
    assert stats_in(stats) == gated[1]


OTHER_LLAMAS = {
    "llama_sampler": (1, "lays out `llama_sampler` in another way"),
    "llama_sampler_i": (2, "lays out `llama_sampler_i` in another way"),
    "llama_token_data": (3, "lays out `llama_token_data` in another way"),
    "llama_token_data_array": (4, "lays out `llama_token_data` in another way"),
    "a function": (0, "has no function `llama_model_n_embd_out`"),
}


def other_llama(compiler: str, folder: Path, differs: int, missing: str = "") -> list[str]:
    """A program that opens tests/cpp/other_llama.cpp, built with all functions that the core names but one."""
    names = set(re.findall(r"X\((\w+),", (ROOT / "csrc" / "host_api.h").read_text("utf-8"))) - {"name", missing}
    stubs = "".join(f"__attribute__((weak)) void {name}() {{ __builtin_trap(); }}\n" for name in sorted(names))
    (folder / "stubs.cpp").write_text(f'extern "C" {{\n{stubs}}}\n')
    library = folder / "libother.so"
    sources = [str(ROOT / "tests" / "cpp" / "other_llama.cpp"), str(folder / "stubs.cpp")]
    subprocess.run(
        [compiler, "-std=c++17", "-shared", "-fPIC", f"-DDIFFERS={differs}", *sources, "-o", str(library)], check=True
    )
    return [sys.executable, "-c", f"import ctypes; ctypes.CDLL({str(library)!r}).make_context(); print('went on')"]


@pytest.mark.parametrize("what", OTHER_LLAMAS)
def test_another_llama_cpp_runs_ungated_with_one_line(compiler: str, tmp_path: Path, what: str) -> None:
    differs, message = OTHER_LLAMAS[what]
    program = other_llama(compiler, tmp_path, differs, missing="" if differs else "llama_model_n_embd_out")
    result = run(*wrapped(*program, options=("--stats", os.devnull)))
    assert (result.returncode, result.stdout) == (0, "went on\n")
    (line, *rest) = result.stderr.splitlines()
    assert line == f"lcg: this llama.cpp {message}: it is older or newer than those that the gate works with"
    assert rest == []
    assert run(*wrapped(*program, options=("--strict",))).returncode == 2


def test_the_llama_cpp_that_the_gate_knows_passes_the_same_proof(compiler: str, tmp_path: Path) -> None:
    program = other_llama(compiler, tmp_path, 0)
    result = run(*wrapped(*program, gates=(), options=("--strict", "--deny-scripts", "cyrillic")))
    assert (result.returncode, result.stdout, result.stderr) == (0, "went on\n", "")


@pytest.mark.parametrize(
    ("variable", "value", "message"),
    [
        ("LCG_MODE", "soft", "`LCG_MODE` is soft, expected mask, observe or off"),
        ("LCG_WHILE_THINKING", "on", "`LCG_WHILE_THINKING` is on, expected mask, observe or off"),
        (
            "LCG_LEAVE_ALONE",
            "code,maths",
            "`LCG_LEAVE_ALONE` is code,maths, expected code, tool_calls, or both with a comma",
        ),
        ("LCG_STRENGTH", "-1", "`LCG_STRENGTH` is -1, expected logits from 0 to inf"),
        (
            "LCG_DENY",
            "symbols",
            "LCG_ALLOW, LCG_DENY: `deny` names symbols, expected a script: digits, signs and control"
            " tokens always stay",
        ),
        ("LCG_GATE", "auto", "`LCG_GATE` is auto, expected the path of a gate; `lcg-cpp wrap --lcg auto` finds it"),
        ("LCG_GATE", "nowhere.gguf", "nowhere.gguf: cannot be read: No such file or directory"),
    ],
)
def test_without_the_command_wrong_settings_are_told(
    stock: Path, prompts: list[str], variable: str, value: str, message: str
) -> None:
    environment = {**os.environ, "LD_PRELOAD": str(LIBRARY), "LCG_GATE": GATE, variable: value, "LCG_STRICT": "1"}
    command = [str(stock), "sample", str(demo.MODEL), prompts[0]]
    result = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert (result.returncode, result.stdout, result.stderr) == (2, "", f"lcg: {message}\n")


def test_the_variables_of_the_page_do_the_same(
    stock: Path, prompts: list[str], gated: tuple[list[str], dict[str, int]]
) -> None:
    page = (ROOT / "docs" / "llama-server.md").read_text("utf-8")
    (script,) = re.findall(r"^```sh\n(.*?)^```$", page, re.M | re.S)
    program = shlex.join([str(stock), "sample", str(demo.MODEL), *prompts])
    for written, real in {
        "lcg-cpp --prefix": f"{sys.executable} -m lcg_cpp --prefix",
        "/models/lcg-MODEL-F16.gguf": GATE,
        "llama-server -m /models/MODEL.gguf": program,
    }.items():
        assert written in script
        script = script.replace(written, real)
    assert tokens(run("sh", "-c", script)) == gated[0]


# ---- what is refused ----


def refusal(*arguments: str) -> str:
    result = run(sys.executable, "-m", "lcg_cpp", "wrap", *arguments)
    assert (result.returncode, result.stdout) == (2, "")
    (line,) = result.stderr.splitlines()
    return line.removeprefix("lcg-cpp: error: ")


def test_what_cannot_be_wrapped_is_refused_from_the_outset(tmp_path: Path, gate16: Path) -> None:
    gate = ("--lcg", GATE, "--")
    assert refusal("--lcg", GATE) == "PROGRAM is missing: write it and its arguments behind --"
    assert refusal(*gate, "nowhere").startswith("nowhere: no such program")
    assert refusal("--", "cat").startswith("--lcg auto: the program's arguments name no model (-m FILE)")
    assert refusal("--", "cat", "-m", "no.gguf").startswith("-m/--model: no.gguf: no such file")
    assert refusal("--lcg", "no.gguf", "--", "cat").startswith("--lcg: no.gguf: no such file")
    assert refusal("--lcg", str(demo.MODEL), "--", "cat").startswith(f"--lcg: {demo.MODEL}: ")


def elf(path: Path, types: tuple[int, ...], kind: int = 2) -> Path:
    """The beginning of a 64-bit program with program headers of these types."""
    header = b"\x7fELF" + bytes([kind, 1, 1]) + bytes(25) + (64).to_bytes(8, "little") + bytes(14)
    header += (56).to_bytes(2, "little") + len(types).to_bytes(2, "little") + bytes(6)
    path.write_bytes(header + b"".join(t.to_bytes(4, "little") + bytes(52) for t in types))
    path.chmod(0o755)
    return path


def test_programs_that_nothing_can_be_loaded_into_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    static, dynamic = elf(tmp_path / "static", (1, 6)), elf(tmp_path / "dynamic", (6, 3, 1))
    script = tmp_path / "script"
    script.write_text(f"#!{static} -x\n")
    script.chmod(0o755)
    assert wrap._find_program(str(dynamic)) == str(dynamic)
    for program in (static, script):
        with pytest.raises(UsageError, match=f"^{static}: is linked statically"):
            wrap._find_program(str(program))
    with pytest.raises(UsageError, match="is a program of another kind"):
        wrap._find_program(str(elf(tmp_path / "small", (3,), kind=1)))
    dynamic.chmod(0o4755)
    wrap._find_program(str(dynamic))  # its rights are ours
    monkeypatch.setattr(os, "geteuid", lambda: 12345)
    with pytest.raises(UsageError, match="runs with rights of its own"):
        wrap._find_program(str(dynamic))


def test_the_model_is_seen_in_the_arguments(monkeypatch: pytest.MonkeyPatch) -> None:
    assert wrap._model_of(["--port", "1", "-m", "a.gguf"]) == "a.gguf"
    assert wrap._model_of(["--model", "a.gguf", "-c", "8"]) == "a.gguf"
    assert wrap._model_of(["--model=a.gguf"]) == "a.gguf"
    assert wrap._model_of(["-c", "8"]) is None
    monkeypatch.setenv("LLAMA_ARG_MODEL", "b.gguf")
    assert wrap._model_of(["-c", "8"]) == "b.gguf"


def test_auto_finds_the_gate_and_another_fine_tunes_is_refused(
    tmp_path: Path, tiny_model_path: Path, make_gate_file
) -> None:
    model = shutil.copy(tiny_model_path, tmp_path / "model.gguf")
    gate = Path(shutil.copy(make_gate_file(tiny_model.gate_weights(16)), tmp_path / "lcg-model.gguf"))
    assert wrap._find_gate(AUTO, str(model), any_model=False) == str(gate)
    assert wrap._find_gate(str(gate), str(model), any_model=False) == str(gate)
