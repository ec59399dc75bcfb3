"""`lcg-cpp eval` as a user runs it, on the demo and on the tiny model."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from command_line import refusal
from lcg_cpp import GatedLlama
from lcg_cpp.cli import main
from lcg_cpp.commands import eval as command
from lcg_cpp.demo import GATES, MODEL
from lcg_cpp.evaluate.evaluate import Evaluation, Progress, evaluate
from lcg_cpp.gate.families import text_families
from lcg_cpp.measure.unwanted import KINDS

POSIX_ONLY = pytest.mark.skipif(os.name == "nt", reason="signals of POSIX")
DEMO = ("eval", "-m", str(MODEL), "-d", "demo", "-t", "1")
GATE = ("--lcg", str(GATES["default"]))

Capture = pytest.CaptureFixture[str]
Json = dict[str, Any]


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with an evaluation of 20 prompts."""
    folder = tmp_path_factory.mktemp("eval") / "a" / "run"
    assert main([*DEMO, *GATE, "--limit", "20", "--methods", "none,ban,lcg", "-o", str(folder), "--json"]) == 0
    return folder


def replies(folder: Path) -> list[Json]:
    """The replies in a folder, without what no two runs share."""
    found = [json.loads(line) for line in (folder / "replies.jsonl").read_text("utf-8").splitlines()]
    return [{**reply, "seconds": 0} for reply in found]


# ---- what it leaves ----


def test_a_folder_holds_replies_summary_and_page(finished: Path) -> None:
    assert sorted(file.name for file in finished.iterdir()) == [
        "replies.jsonl",
        "report.html",
        "settings.json",
        "summary.json",
    ]
    summary = json.loads((finished / "summary.json").read_text("utf-8"))
    assert list(summary["methods"]) == ["none", "ban", "lcg"]
    told = {name: summary[name] for name in ("model", "gate", "benchmark", "prompts", "seeds")}
    assert told == {"model": str(MODEL), "gate": GATE[1], "benchmark": "demo", "prompts": 20, "seeds": 1}
    for metric in ("cj_percent", "latin_percent", "switches_kept_percent", "exact_match_percent", "tokens_per_second"):
        assert set(summary["methods"]["lcg"][metric]) == {"value", "low", "high"}
    found = replies(finished)
    assert len(found) == 60
    confused = [reply for reply in found if reply["method"] == "none" and reply["unwanted"]]
    assert 100 * len(confused) / 20 == summary["methods"]["none"]["unwanted_percent"]["value"]
    assert {kind for reply in confused for kind in reply["unwanted"]} <= set(KINDS)


def test_the_gate_removes_confusion_and_keeps_switches_and_a_ban_does_not(finished: Path) -> None:
    methods = json.loads((finished / "summary.json").read_text("utf-8"))["methods"]

    def value(method: str, metric: str) -> float:
        return float(methods[method][metric]["value"])

    assert value("none", "cj_percent") >= 20
    assert value("lcg", "cj_percent") <= 5
    assert value("lcg", "switches_kept_percent") >= 0.98 * value("none", "switches_kept_percent")
    assert value("ban", "switches_kept_percent") == 0
    assert value("ban", "intervention_percent") == 0 < value("lcg", "intervention_percent")


def test_scripts_are_pinned_for_every_method(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    pin = ("--deny-scripts", "chinese,japanese")
    assert (
        main([*DEMO, *GATE, "--limit", "12", "--methods", "none,lcg,x=none+deny=latin", *pin, "-o", str(folder)]) == 0
    )
    found = replies(folder)
    assert len(found) == 36
    letters = {name: set[str]() for name in ("none", "lcg", "x")}
    for reply in found:
        letters[reply["method"]] |= text_families(reply["reply"])
    assert "cj" not in letters["none"] | letters["lcg"]
    assert letters["x"] >= {"cj"}
    assert "latin" not in letters["x"]
    settings = json.loads((folder / "settings.json").read_text("utf-8"))["methods"]
    assert settings["none"]["deny"] == ["chinese", "japanese"]
    assert main([*DEMO, *GATE, "--limit", "12", "--methods", "none", "-o", str(folder)]) != 0


def test_starting_it_again_generates_nothing_and_tells_the_same(
    finished: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "100")
    before = (finished / "replies.jsonl").read_bytes()
    assert main([*DEMO, *GATE, "--limit", "20", "--methods", "none,lcg", "-o", str(finished)]) == 0
    out, err = capsys.readouterr()
    assert (finished / "replies.jsonl").read_bytes() == before
    assert err == ""
    assert out.startswith("demo: 20 prompts\n")
    assert "* differs from none" in out
    assert out.endswith(f"wrote {finished}/replies.jsonl, {finished}/summary.json, {finished}/report.html\n")
    rows = [line.split() for line in out.splitlines()]
    assert [row[0] for row in rows if row[0] in ("none", "ban", "lcg")] == ["none", "ban", "lcg"] * 3
    (scripts,) = (i for i, row in enumerate(rows) if row[0] == "unwanted,")
    assert rows[scripts][-3:] == ["none", "ban", "lcg"]
    assert {"Latin", "Chinese"} <= {row[0] for row in rows[scripts:]}
    assert max(map(len, out.splitlines()[:-1])) <= 100


def test_json_is_the_summary_and_nothing_else(finished: Path, capsys: Capture) -> None:
    assert main([*DEMO, *GATE, "--limit", "20", "-o", str(finished), "--json", "--no-page"]) == 0
    out, err = capsys.readouterr()
    assert err == ""
    assert json.loads(out)["methods"].keys() == {"none", "ban", "lcg"}


def test_a_larger_limit_keeps_the_replies_that_are_there(tmp_path: Path, capsys: Capture) -> None:
    arguments = (*DEMO, "-o", str(tmp_path / "run"), "--no-page", "-n", "4")
    assert main([*arguments, "--limit", "5"]) == 0
    before = (tmp_path / "run" / "replies.jsonl").read_bytes()
    assert main([*arguments, "--limit", "8"]) == 0
    assert (tmp_path / "run" / "replies.jsonl").read_bytes().startswith(before)
    assert len({reply["id"] for reply in replies(tmp_path / "run")}) == len(replies(tmp_path / "run")) == 8
    capsys.readouterr()
    assert "ask for as many prompts as before (--limit) or more" in refusal(capsys, *arguments, "--limit", "3")


def test_two_seeds_and_other_settings(tmp_path: Path, capsys: Capture) -> None:
    folder = tmp_path / "run"
    others = ("--seeds", "2", "-n", "5", "--temp", "1.5", "--top-k", "0", "--top-p", "1", "--min-p", "0.1", "-c", "256")
    assert main([*DEMO, "--limit", "3", "-o", str(folder), *others, "--no-page"]) == 0
    assert "demo: 3 prompts, 2 seeds\n" in capsys.readouterr().out
    found = replies(folder)
    assert [(reply["method"], reply["seed"]) for reply in found] == [("none", 0)] * 3 + [("none", 1)] * 3
    assert max(len(reply["tokens"]) for reply in found) == 5
    settings = json.loads((folder / "settings.json").read_text("utf-8"))
    assert settings["sampling"] == {"temp": 1.5, "top_k": 0, "top_p": 1.0, "min_p": 0.1}
    assert settings["engine"]["n_ctx"] == 256
    assert not (folder / "report.html").exists()


def test_the_context_fits_the_prompts_and_stays_as_it_was(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    arguments = (*DEMO, "--limit", "2", "-o", str(folder), "--no-page", "--json", "-n", "4")
    assert main([*arguments, "-c", "700"]) == 0
    assert json.loads((folder / "settings.json").read_text("utf-8"))["engine"]["n_ctx"] == 700
    assert main([*arguments, "--methods", "none,prompt"]) == 0
    assert json.loads((folder / "settings.json").read_text("utf-8"))["engine"]["n_ctx"] == 700


@POSIX_ONLY
def test_ctrl_c_before_the_first_reply_says_so(
    tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*arguments: Any, **options: Any) -> Evaluation:
        signal.raise_signal(signal.SIGINT)
        return evaluate(*arguments, **options)

    monkeypatch.setattr(command, "evaluate", interrupted)
    assert main([*DEMO, "--limit", "2", "-o", str(tmp_path / "run")]) == 130
    out, err = capsys.readouterr()
    assert out == ""
    assert err.endswith("stopped before the first reply: nothing was measured\n")


def test_replies_that_were_cut_off_are_shown_where_there_are_any(tmp_path: Path, capsys: Capture) -> None:
    for n_tokens, is_shown in (("2", True), ("120", False)):
        assert main([*DEMO, "--limit", "2", "-n", n_tokens, "-o", str(tmp_path / n_tokens), "--no-page"]) == 0
        assert ("cut off %" in capsys.readouterr().out) == is_shown


@POSIX_ONLY
def test_ctrl_c_keeps_what_is_there_and_measures_it(finished: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    arguments = [*DEMO, *GATE, "--limit", "20", "--methods", "none,ban,lcg", "-o", str(folder), "--no-page"]
    code = f"import sys; from lcg_cpp.cli import main; sys.exit(main({arguments!r}))"
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    file = folder / "replies.jsonl"
    while process.poll() is None and not (file.exists() and file.stat().st_size > 0):
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=120)
    if process.returncode == 0:
        pytest.skip("it was done before it could be stopped")
    assert process.returncode == 130, err
    assert err == "stopping: what is there is measured (Ctrl-C again ends at once)\n"
    assert "(stopped; start it again to go on)" in out
    n = len(replies(folder))
    assert 0 < n < 60
    assert replies(folder) == replies(finished)[:n]
    assert json.loads((folder / "summary.json").read_text("utf-8"))["finished"] is False
    assert main([*arguments, "--json"]) == 0

    def ordered(folder: Path) -> list[Json]:
        return sorted(replies(folder), key=lambda reply: (reply["method"], reply["id"]))

    assert ordered(folder) == ordered(finished)


# ---- what it refuses ----


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--methods", "lcg"), "--methods: method `lcg` needs a gate file (--lcg)"),
        (("--methods", "nothing"), "--methods: method `nothing` is unknown, expected some of none, greedy, ban"),
        (("--methods", "x=missing.gguf"), "--methods: missing.gguf: no such file or directory"),
        ((*GATE, "--methods", "none"), f"--lcg: {GATE[1]}: no method uses the gate"),
        (("--lcg", str(MODEL)), f"--lcg: {MODEL}: is a base model"),
        (("-d", "nothing"), "-d/--benchmark: "),
        (("--seeds", "0"), "argument --seeds: is '0', expected a whole number from 1"),
        (("--temp", "-1"), "argument --temp: is '-1', expected a number from 0"),
        (("-c", "8"), "prompt `"),
    ],
)
def test_bad_options_are_told_in_one_line(
    tmp_path: Path, capsys: Capture, arguments: tuple[str, ...], message: str
) -> None:
    assert refusal(capsys, *DEMO, "-o", str(tmp_path / "run"), *arguments).startswith(message)
    assert not (tmp_path / "run").exists()


def test_a_gate_for_another_model_is_refused(tmp_path: Path, capsys: Capture, tiny_model_path: Path) -> None:
    message = refusal(capsys, "eval", "-m", str(tiny_model_path), *GATE, "-d", "demo", "-o", str(tmp_path / "run"))
    assert "was made for n_" in message
    assert message.startswith(GATE[1])


def test_an_output_that_is_a_file_is_refused(tmp_path: Path, capsys: Capture) -> None:
    (tmp_path / "run").write_text("mine")
    message = refusal(capsys, *DEMO, "-o", str(tmp_path / "run"))
    assert message == f"-o/--output: {tmp_path / 'run'}: is a file, expected a folder"
    assert (tmp_path / "run").read_text() == "mine"


def test_other_settings_in_the_same_folder_are_refused(finished: Path, capsys: Capture) -> None:
    before = {file.name: file.read_bytes() for file in finished.iterdir()}
    message = refusal(capsys, *DEMO, *GATE, "--limit", "20", "-o", str(finished), "--temp", "1")
    assert message.startswith(f"{finished}: was made with sampling.temp 0.7, now it is 1.0")
    assert {file.name: file.read_bytes() for file in finished.iterdir()} == before


def test_a_missing_output_is_told(capsys: Capture) -> None:
    assert "-o/--output" in refusal(capsys, *DEMO)


# ---- what is told on the way ----


def test_left_out_rows_and_a_missing_chat_template_are_told(
    tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def without_template(*arguments: Any) -> GatedLlama:
        llm = load_model(*arguments)
        del llm.metadata["tokenizer.chat_template"]
        return llm

    load_model = command.load_model
    monkeypatch.setattr(command, "load_model", without_template)
    rows = [{"prompt": "Say nothing.", "chat": True}, {"no prompt": 1}]
    file = tmp_path / "rows.jsonl"
    file.write_text("\n".join(map(json.dumps, rows)))
    arguments = ("eval", "-m", str(MODEL), "-t", "1", "-d", str(file), "-n", "3", "--no-page", "--json")
    assert main([*arguments, "-o", str(tmp_path / "run")]) == 0
    lines = capsys.readouterr().err.splitlines()
    assert lines[0].startswith(f"{file}: left out 1 rows that cannot be used, the first: {file}:2: ")
    assert lines[1:] == ["the model has no chat template: it continues each prompt from a new line"]


@pytest.mark.parametrize(
    ("progress", "expected"),
    [
        (Progress(1, 3, 1, 50, 2.0), "1 of 3 replies  25.0 tokens/s  4 s left"),
        (Progress(1500, 2000, 500, 250000, 5000.0), "1,500 of 2,000 replies  50.0 tokens/s  83 min left"),
        (Progress(10, 10, 3, 0, 0.0), "10 of 10 replies  0.0 tokens/s  0 s left"),
        (Progress(2, 1002, 1, 10, 100.0), "2 of 1,002 replies  0.1 tokens/s  27.8 h left"),
    ],
)
def test_progress_tells_rate_and_time_left(progress: Progress, expected: str) -> None:
    assert command.status(progress) == expected


def test_scripts_that_are_unwanted_in_some_reply_are_a_table_of_their_own() -> None:
    estimate = {"value": 12.34, "low": 5.0, "high": 20.0}
    methods = {"none": {"unwanted_greek_percent": estimate, "unwanted_chinese_percent": estimate}, "lcg": {}}
    difference = {"lcg": {"unwanted_greek_percent": {"p_adjusted": 0.01}}}
    methods["lcg"] = dict(methods["none"])
    _, scripts = command.tables({"methods": methods, "compared_with_none": difference}, 80)
    assert scripts == (
        ["unwanted, % of replies", ">none", ">lcg"],
        [
            ["Greek                 ", "12.3 (5.0–20.0) ", "12.3 (5.0–20.0)*"],
            ["Chinese in Japanese   ", "12.3 (5.0–20.0) ", "12.3 (5.0–20.0) "],
        ],
    )
    narrow = list(command.tables({"methods": methods}, 45))[1:]
    assert [heads[1:] for heads, _ in narrow] == [[">none"], [">lcg"]]


def test_tables_are_no_wider_than_the_terminal() -> None:
    estimate = {"value": 12.34, "low": 5.0, "high": 20.0}
    methods = {"none": {"cj_percent": estimate, "chrf": estimate, "unknown": estimate}, "a longer name": {}}
    difference = {"a longer name": {"cj_percent": {"p_adjusted": 0.01}}, "b": {"cj_percent": {"p_adjusted": 0.5}}}
    methods["b"] = {"cj_percent": estimate}
    methods["a longer name"] = {"cj_percent": estimate}
    found = list(command.tables({"methods": methods, "compared_with_none": difference}, 40))
    assert found == [
        (
            ["method       ", ">CJ %"],
            [
                ["none         ", "12.3 (5.0–20.0) "],
                ["a longer name", "12.3 (5.0–20.0)*"],
                ["b            ", "12.3 (5.0–20.0) "],
            ],
        ),
        (
            ["method       ", ">chrF++"],
            [["none         ", "12.3 (5.0–20.0) "], ["a longer name", "- "], ["b            ", "- "]],
        ),
    ]
    assert len(list(command.tables({"methods": methods}, 80))) == 1
