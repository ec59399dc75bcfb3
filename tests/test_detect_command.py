"""`lcg-cpp detect` as a user runs it, on the demo model."""

from __future__ import annotations

import argparse
import json
import os
import signal
from pathlib import Path
from typing import Any

import pytest

from command_line import refusal
from lcg_cpp.cli import main
from lcg_cpp.commands import detect as command
from lcg_cpp.demo import GATES, MODEL
from lcg_cpp.detect.detect import Detection, Progress, detect

POSIX_ONLY = pytest.mark.skipif(os.name == "nt", reason="signals of POSIX")
MODEL_AND_GATE = ("-m", str(MODEL), "--lcg", str(GATES["default"]), "-t", "1")
DEMO = ("detect", *MODEL_AND_GATE, "-d", "demo", "--limit", "20")

Capture = pytest.CaptureFixture[str]


def told(capsys: Capture, *arguments: str) -> dict[str, Any]:
    """What a run with --json prints."""
    assert main([*arguments, "--json"]) == 0
    value = json.loads(capsys.readouterr().out)
    assert isinstance(value, dict)
    return value


def write_rows(path: Path, *rows: dict[str, Any]) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    return str(path)


# ---- what it tells ----


def test_json_holds_what_was_used_and_found(capsys: Capture) -> None:
    found = told(capsys, *DEMO)
    assert (found["model"], found["gate"], found["benchmark"]) == (str(MODEL), str(GATES["default"]), "demo")
    assert (found["texts"], found["with_reference"], found["finished"]) == (20, 400, True)
    assert list(found["families"]) == ["cj", "latin"]
    assert found["families"]["cj"]["wrong"]["asked"]["percent"] > 90
    assert found["own_removed"] == 0


def test_the_same_run_finds_the_same(capsys: Capture) -> None:
    first, second = ({**told(capsys, *DEMO), "seconds": 0} for _ in range(2))
    assert first == second
    other = told(capsys, *DEMO, "--seed", "1")
    assert other["families"] != first["families"]


def test_rules_and_threshold_are_those_asked_for(capsys: Capture) -> None:
    paper = told(capsys, *DEMO, "--no-lcg-first-token")
    assert paper["rules"]["first_token"] is False
    assert paper["families"]["cj"]["places"]["start"]["asked"]["removed"] == 0
    strict_rules = ("--lcg-threshold", "0.9", "--lcg-confidence-temperature", "0.25")
    strict = told(capsys, *DEMO, *strict_rules, "--no-lcg-confidence", "--no-lcg-persistence")
    assert strict["rules"] == {
        "thresholds": dict.fromkeys(("cj", "latin", "symbols", "lowres"), 0.9),
        "first_thresholds": dict.fromkeys(("cj", "latin", "symbols", "lowres"), 0.9),
        "persistence": False,
        "confidence": False,
        "confidence_temperature": 0.25,
        "first_token": True,
    }
    at_default = strict["families"]["cj"]["thresholds"]
    assert [row["threshold"] for row in at_default][17] == 0.9
    assert at_default[17]["wrong"] == pytest.approx(strict["families"]["cj"]["wrong"]["asked"]["percent"])


def test_tables_fit_into_80_columns(capsys: Capture) -> None:
    assert main(DEMO) == 0
    out = capsys.readouterr().out
    assert max(map(len, out.splitlines())) <= 80
    assert "20 of 400 with a reference" in out
    for line in ("wrong", "  between words", "  own switch", "spliced in", "cj ", "latin ", "threshold"):
        assert f"\n  {line}" in out


def test_a_switch_that_is_on_by_default_has_no_default_that_help_tells_again() -> None:
    parser = argparse.ArgumentParser()
    command.add_arguments(parser)
    assert parser.get_default("lcg_first_token") is None


def test_the_built_in_benchmark_is_the_default(capsys: Capture) -> None:
    found = told(capsys, "detect", *MODEL_AND_GATE, "--limit", "3", "-c", "2048")
    assert found["benchmark"] == "cldr"
    assert found["with_reference"] > 400


def test_a_file_of_prompts(tmp_path: Path, capsys: Capture) -> None:
    name = write_rows(
        tmp_path / "mine.jsonl",
        {"prompt": "Spain\nRussian:", "reference": "Испания", "language": "ru", "chat": False},
        {"prompt": "Spain\nGreek:", "language": "el"},
        {"reference": "no prompt"},
    )
    assert main(["detect", *MODEL_AND_GATE, "-d", name, "--json"]) == 0
    out, err = capsys.readouterr()
    assert (json.loads(out)["texts"], json.loads(out)["with_reference"]) == (1, 1)
    assert "left out 1 rows that cannot be used, the first:" in err


def test_an_unknown_language_is_told_and_its_reference_decides(tmp_path: Path, capsys: Capture) -> None:
    row = {"prompt": "Spain\nRussian:", "reference": "Испания", "chat": False}
    found = {}
    for language in ("ru", "xx"):
        name = write_rows(tmp_path / f"{language}.jsonl", {**row, "language": language})
        assert main(["detect", *MODEL_AND_GATE, "-d", name, "--json"]) == 0
        out, err = capsys.readouterr()
        assert ("`language` is `xx`, which is unknown" in err) == (language == "xx")
        found[language] = json.loads(out)["families"]["cj"]["wrong"]["asked"]
    assert found["xx"] == found["ru"]
    assert found["xx"]["n"] > 0


def test_output_is_the_same_as_json(tmp_path: Path, capsys: Capture) -> None:
    target = tmp_path / "found.json"
    target.write_text("old")
    assert main([*DEMO, "-o", str(target)]) == 0
    assert capsys.readouterr().out.endswith(f"wrote {target}\n")
    found = json.loads(target.read_text("utf-8"))
    assert {**found, "seconds": 0} == {**told(capsys, *DEMO), "seconds": 0}
    assert [file.name for file in tmp_path.iterdir()] == ["found.json"]


@POSIX_ONLY
def test_ctrl_c_tells_what_is_there(capsys: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(progress: Progress) -> str:
        signal.raise_signal(signal.SIGINT)
        return "never shown"

    monkeypatch.setattr(command, "status", interrupt)
    assert main([*DEMO[:-1], "200", "--json"]) == 130
    out, err = capsys.readouterr()
    found = json.loads(out)
    assert found["finished"] is False
    assert 0 < found["texts"] < found["wanted"] == 200
    assert err.count("stopping: what was measured is told") == 1


@POSIX_ONLY
def test_ctrl_c_before_the_first_reply_is_no_bad_input(capsys: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*arguments: Any, **options: Any) -> Detection:
        signal.raise_signal(signal.SIGINT)
        return detect(*arguments, **options)

    monkeypatch.setattr(command, "detect", interrupted)
    assert main([*DEMO, "--json"]) == 130
    out, err = capsys.readouterr()
    assert out == ""
    assert err.endswith("none of 20 replies was measured: it was stopped\n")


def test_progress_in_words() -> None:
    assert command.status(Progress(10, 40, 2000, 4.0)) == "10 of 40 replies  500 tokens/s  12 s left"


# ---- what it refuses ----


def test_bad_input_is_refused_in_one_line(tmp_path: Path, capsys: Capture, gate16: Path) -> None:
    questions = write_rows(tmp_path / "questions.jsonl", {"prompt": "Why?", "language": "en"})
    for arguments, wanted in (
        (("-d", questions), "-d/--benchmark: none of 1 prompts has a `reference`, expected some whose right reply is"),
        (("-d", "flores"), "-d/--benchmark: `flores` is not built in"),
        (("-d", "nothing"), "-d/--benchmark: `nothing` is no benchmark"),
        (("--lcg", str(gate16)), f"--lcg: {gate16}: was made for n_embd 64, the model {MODEL} has 160"),
        (("--lcg", str(MODEL)), f"--lcg: {MODEL}: is a base model (llama), expected a gate"),
        (("-m", GATES["default"]), f"-m/--model: {GATES['default']}: is a gate (for llama), expected a base model"),
        (("-m", "no.gguf"), "-m/--model: no.gguf: no such file or directory"),
        (("-o", str(tmp_path)), f"-o/--output: {tmp_path}: is a folder, expected a file to write"),
        (("-o", str(tmp_path / "no" / "x.json")), f"-o/--output: {tmp_path / 'no' / 'x.json'}: there is no folder"),
        (("-o", questions, "-d", questions), f"-o/--output: {questions}: is the model, the gate or the prompts"),
        (("--lcg-threshold", "2"), "`--lcg-threshold` is 2.0, expected a probability"),
        (("--limit", "0"), "argument --limit: is '0', expected a whole number from 1"),
        (("--top-k", "1025"), "argument --top-k: is '1025', expected a whole number from 1 to 1024"),
    ):
        said = refusal(capsys, *DEMO[:5], "-t", "1", "-d", "demo", *map(str, arguments))
        assert said.startswith(wanted), said


def test_replies_that_do_not_fit_are_told(capsys: Capture) -> None:
    said = refusal(capsys, *DEMO, "-c", "5")
    assert said == "none of 20 replies was measured: the reply is too long, or its tokens do not make it up"
