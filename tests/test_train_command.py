"""`lcg-cpp train` as a user runs it, on the tiny model."""

from __future__ import annotations

import dataclasses
import json
import math
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

torch = pytest.importorskip("torch")

from command_line import refusal  # noqa: E402
from lcg_cpp import Gate  # noqa: E402
from lcg_cpp.cli import main  # noqa: E402
from lcg_cpp.commands import progress  # noqa: E402
from lcg_cpp.commands import train as command  # noqa: E402
from lcg_cpp.train.heldout import FamilyScore, Scores  # noqa: E402
from lcg_cpp.train.options import PAPER_TRAINING, TrainOptions  # noqa: E402
from lcg_cpp.train.run import Measurement, Run  # noqa: E402
from training_data import chat_rows, write_rows  # noqa: E402

POSIX_ONLY = pytest.mark.skipif(os.name == "nt", reason="signals and terminals of POSIX")
SMALL = ("--hidden", "8", "--batch", "64", "-c", "256", "--held-out", "0.2", "-t", "1", "-b", "64")

START = Path.cwd()  # paths to the package may be relative to it

Capture = pytest.CaptureFixture[str]


@pytest.fixture(autouse=True)
def in_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Files without a folder are written into an empty one; PyTorch's threads are put back."""
    monkeypatch.chdir(tmp_path)
    n_threads = torch.get_num_threads()
    yield
    torch.set_num_threads(n_threads)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Chats in a file."""
    return write_rows(tmp_path_factory.mktemp("data") / "chats.jsonl", chat_rows(24))


@pytest.fixture
def small(tiny_model_path: Path, data: str) -> tuple[str, ...]:
    """Arguments of a small run."""
    return ("train", "-m", str(tiny_model_path), "-d", data, "--rules", "default", *SMALL)


@pytest.fixture
def no_report(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leaves the report out: drawing takes ten times as long as learning."""
    monkeypatch.setattr("lcg_cpp.train.report.write_report", lambda *_: None)


# ---- options ----


def test_help_names_every_setting_and_its_default(capsys: Capture) -> None:
    with pytest.raises(SystemExit) as stop:
        main(["train", "--help"])
    assert stop.value.code == 0
    text = " ".join(capsys.readouterr().out.split())
    options = {
        "--hidden N": "n_hidden",
        "--label-top-k K": "top_k",
        "--label-top-p P": "top_p",
        "--label-scripts {written,likely}": "label_scripts",
        "--norm {token,relative,none}": "norm",
        "--soft": "soft",
        "--positions {all,reply}": "positions",
        "--batch N": "batch",
        "--passes N": "passes",
        "--lr RATE": "learning_rate",
        "--schedule {cosine,linear,constant}": "schedule",
        "--warmup N": "warmup",
        "--weight-decay X": "weight_decay",
        "--ctx-size N": "n_ctx",
        "--tokens N": "n_tokens",
        "--minutes N": "minutes",
        "--balance {scripts,none}": "balance",
        "--held-out SHARE": "held_out",
        "--max-missed SHARE": "max_missed",
        "--rules {default,paper,scripts}": "rules",
        "--window N": "window",
        "--seed N": "seed",
    }
    assert sorted(options.values()) == sorted(field.name for field in dataclasses.fields(TrainOptions))
    for option, field in options.items():
        default = getattr(TrainOptions(), field)
        said = "" if default in (None, False) else rf"[^()]*\(default: {re.escape(str(default))}\)"
        assert re.search(re.escape(option) + said, text), option


def test_help_does_not_load_pytorch() -> None:
    code = (
        "import contextlib, sys; from lcg_cpp.cli import main\n"
        "with contextlib.suppress(SystemExit): main(['train', '--help'])\n"
        "print([name for name in ('torch', 'matplotlib', 'transformers', 'datasets') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=START)
    assert done.stdout.endswith("\n[]\n")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--lr", "0"], "--lr is 0.0, expected more than 0"),
        (["--lr", "fast"], "argument --lr: is 'fast', expected a number"),
        (["--label-top-p", "0"], "--label-top-p is 0.0, expected more than 0 and at most 1"),
        (["--label-top-p", "1.5"], "argument --label-top-p: is '1.5', expected a number from 0 to 1"),
        (["--label-top-k", "-1"], "argument --label-top-k: is '-1', expected a whole number from 0"),
        (["--hidden", "wide"], "argument --hidden: is 'wide', expected a whole number from 0 to 65536, or full"),
        (["--norm", "l2"], "argument --norm: invalid choice: 'l2'"),
        (["--tokens", "0"], "argument --tokens: is '0', expected a whole number from 1"),
        (["--held-out", "1"], "argument --held-out: is '1', expected a number from 0 to 0.9"),
        (["--batch", "9999999"], "--batch is 9999999, expected 1 to 1048576"),
        (["-c", "9999999"], "-c/--ctx-size is 9999999, expected 2 to"),
        (["--preset", "best"], "argument --preset: invalid choice: 'best'"),
        (["--outtype", "q4_0"], "argument --outtype: invalid choice: 'q4_0'"),
        (["--rpc", "nowhere"], "RPC server 'nowhere': expected host:port"),
        (["-o", "none/g.gguf"], "-o/--output: none/g.gguf: there is no folder none, expected a file to write"),
        (["-o", "."], "-o/--output: .: is a folder, expected a file to write"),
        (["--resume"], "lcg-tiny-F16.unfinished.safetensors: does not exist, there is nothing to resume"),
        (["-d", "none.jsonl"], "none.jsonl: no such file or directory"),
        (["-d", "notes.txt"], "notes.txt: does not exist, expected a .jsonl"),
    ],
)
def test_bad_options_are_refused_in_one_line(
    small: tuple[str, ...], tmp_path: Path, capsys: Capture, arguments: list[str], said: str
) -> None:
    assert refusal(capsys, *small, *arguments).startswith(said)
    assert list(tmp_path.iterdir()) == []


def test_model_and_data_are_needed(capsys: Capture, tiny_model_path: Path, data: str) -> None:
    assert "-d/--data" in refusal(capsys, "train", "-m", str(tiny_model_path))
    assert "-m/--model" in refusal(capsys, "train", "-d", data)


def test_model_that_is_none_is_refused(capsys: Capture, gate16: Path, data: str) -> None:
    assert refusal(capsys, "train", "-m", "none.gguf", "-d", data).startswith("-m/--model: none.gguf: no such file")
    assert refusal(capsys, "train", "-m", data, "-d", data).startswith(f"-m/--model: {data}: llama.cpp cannot load it")
    said = refusal(capsys, "train", "-m", str(gate16), "-d", data)
    assert said.startswith(f"-m/--model: {gate16}: is a gate")


def test_output_that_is_the_model_is_refused(
    capsys: Capture, small: tuple[str, ...], tiny_model_path: Path, tmp_path: Path
) -> None:
    before = tiny_model_path.read_bytes()
    link = tmp_path / "link.gguf"
    link.symlink_to(tiny_model_path)
    for output in (tiny_model_path, link):
        assert "is the file given as -m/--model" in refusal(capsys, *small, "-o", str(output))
    assert tiny_model_path.read_bytes() == before


@pytest.mark.parametrize("missing", ["torch", "safetensors", "matplotlib"])
def test_missing_extra_is_named(
    capsys: Capture, small: tuple[str, ...], monkeypatch: pytest.MonkeyPatch, missing: str
) -> None:
    monkeypatch.setitem(sys.modules, missing, None)
    assert refusal(capsys, *small) == f'training needs `{missing}`: pip install "lcg-cpp[train]"'


@pytest.mark.parametrize("kind", ["only bad rows", "no rows"])
def test_data_without_a_row_is_refused(capsys: Capture, tiny_model_path: Path, tmp_path: Path, kind: str) -> None:
    rows = [{"x": 1}, 2, None] if kind == "only bad rows" else []
    data = write_rows(tmp_path / "bad.jsonl", rows)
    assert refusal(capsys, "train", "-m", str(tiny_model_path), "-d", data).startswith(data)


class Asked(Exception):  # noqa: N818 (no error)
    """Ends a run before it begins."""


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> Callable[..., SimpleNamespace]:
    """What a command line asks `train` for."""

    def ask(*arguments: str) -> SimpleNamespace:
        found: list[SimpleNamespace] = []

        def instead(model: str, data: list[str], output: str, options: TrainOptions, **how: Any) -> None:
            found.append(SimpleNamespace(model=model, data=data, output=output, options=options, **how))
            raise Asked

        monkeypatch.setattr(command, "train", instead)
        with pytest.raises(Asked):
            main(arguments)
        return found[0]

    return ask


def test_defaults_are_those_of_the_options(
    asked: Callable[..., SimpleNamespace], tiny_model_path: Path, data: str
) -> None:
    found = asked("train", "-m", str(tiny_model_path), "-d", data)
    assert found.options == TrainOptions()
    assert (found.model, found.data, found.output) == (str(tiny_model_path), [data], "lcg-tiny-F16.gguf")
    assert (found.outtype, found.name, found.license, found.resume) == ("f16", "", "", False)
    assert (found.engine.n_batch, found.engine.n_threads, found.engine.n_gpu_layers, found.engine.rpc) == (
        256,
        0,
        0,
        (),
    )


def test_paper_preset(asked: Callable[..., SimpleNamespace], tiny_model_path: Path, data: str) -> None:
    base = ("train", "-m", str(tiny_model_path), "-d", data, "--preset", "paper")
    paper = asked(*base).options
    assert paper == PAPER_TRAINING
    assert (paper.n_hidden, paper.top_k, paper.top_p, paper.norm, paper.learning_rate) == (
        None,
        20,
        0.95,
        "token",
        2e-5,
    )
    changed = asked(*base, "--hidden", "16", "--soft", "--lr", "0.5").options
    assert changed == dataclasses.replace(PAPER_TRAINING, n_hidden=16, soft=True, learning_rate=0.5)


def test_every_option_arrives(asked: Callable[..., SimpleNamespace], tiny_model_path: Path, data: str) -> None:
    line = (
        f"train -m {tiny_model_path} -d {data} -d other.jsonl -o out.gguf --outtype q8_0 --name N --license cc0-1.0"
        " --resume --hidden full --label-top-k 7 --label-top-p 0.5 --norm none --positions reply --batch 32 --passes 4"
        " --lr 0.25 --schedule cosine --warmup 3 --weight-decay 0.5 --tokens 1000 --held-out 0.25 --rules paper"
        " --max-missed 0.5 --minutes 90 --seed 9 --soft -c 128 -b 16 -t 2 -ngl all --rpc a:1,b:2"
    )
    found = asked(*line.split())
    assert found.options == TrainOptions(
        n_hidden=None,
        top_k=7,
        top_p=0.5,
        norm="none",
        soft=True,
        positions="reply",
        batch=32,
        passes=4,
        learning_rate=0.25,
        schedule="cosine",
        warmup=3,
        weight_decay=0.5,
        n_ctx=128,
        n_tokens=1000,
        minutes=90.0,
        held_out=0.25,
        max_missed=0.5,
        rules="paper",
        seed=9,
    )
    assert (found.data, found.output, found.outtype) == ([data, "other.jsonl"], "out.gguf", "q8_0")
    assert (found.name, found.license, found.resume) == ("N", "cc0-1.0", True)
    assert dataclasses.asdict(found.engine) == {
        "n_batch": 16, "n_threads": 2, "n_gpu_layers": -1, "rpc": ("a:1", "b:2")
    }  # fmt: skip


# ---- what it prints ----


def test_result_for_people(small: tuple[str, ...], tmp_path: Path, capsys: Capture) -> None:
    assert main([*small, "--name", "my gate"]) == 0
    out, err = capsys.readouterr()
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        f"lcg-tiny-F16{suffix}" for suffix in (".gguf", ".html", ".svg")
    ]
    first, *facts, last = out.splitlines()
    assert re.fullmatch(r"wrote lcg-tiny-F16\.gguf \(\d[\d.]* kB\)", first)
    found = dict(re.split(r"  +", fact.strip(), maxsplit=1) for fact in facts)
    assert re.fullmatch(r"\d+ states of \d+ tokens in 19 texts", found["learned from"])
    assert re.fullmatch(r"precision .+, recall .+, \d+ positions", found["held out, cj"])
    assert last.startswith("try: lcg-cpp run -m ")
    assert "--lcg lcg-tiny-F16.gguf" in last
    assert Gate.load("lcg-tiny-F16.gguf").metadata["general.name"] == "my gate"
    assert err.splitlines()[-1].startswith("100.0%  ")
    assert "\x1b" not in out + err


@pytest.mark.usefixtures("no_report")
def test_result_as_json(small: tuple[str, ...], capsys: Capture) -> None:
    assert main([*small, "--json", "-o", "g.gguf"]) == 0
    out, _ = capsys.readouterr()
    found = json.loads(out, parse_constant=pytest.fail)  # NaN is no JSON
    assert found["path"] == "g.gguf"
    assert found["file_size"] == Path("g.gguf").stat().st_size
    assert found["finished"] is True
    assert (found["texts"], found["skipped_texts"], found["bad_rows"]) == (19, 0, 0)
    assert found["positions"] == found["tokens"] - 19  # the last token of a text predicts nothing
    assert found["seconds"] > 0
    assert len(found["losses"]) == 10
    held_out = found["held_out"]
    assert set(held_out["families"]) == {"cj", "latin", "symbols", "lowres"}
    assert held_out["positions"] > 0
    assert all(0 <= held_out[name] <= 1 for name in ("loss", "intervene", "contradict"))


@pytest.mark.usefixtures("no_report")
def test_rows_that_are_left_out_are_shown(tiny_model_path: Path, tmp_path: Path, capsys: Capture) -> None:
    rows: list[Any] = [*chat_rows(6), *[{"x": "\x1b[31m"}] * 7]
    data = write_rows(tmp_path / "some.jsonl", rows)
    assert main(["train", "-m", str(tiny_model_path), "-d", data, *SMALL]) == 0
    out, err = capsys.readouterr()
    lines = err.splitlines()
    assert lines[0].startswith(f"{data}:7: has `x`, expected `messages`")
    assert lines[0].endswith("; the row is left out")
    assert lines[5] == f"{data}: 2 more rows are left out"
    assert "7 rows that cannot be read" in out
    assert "\x1b" not in err


@pytest.mark.usefixtures("no_report")
def test_lines_without_a_terminal_are_few(
    small: tuple[str, ...], capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    line = re.compile(
        r" *\d+\.\d%  [\d,]+ tokens  [\d,]+ tokens/s  loss 0\.\d+  .+ left"
        r"  held out: loss 0\.\d+  F1 (\w+ (0\.\d\d|1\.00) ?)+  acts \d+\.\d\d%"
    )
    assert main([*small]) == 0
    estimate, *lines = capsys.readouterr().err.splitlines()
    assert estimate.startswith("evaluating about ")
    assert len(lines) == 2  # the first group, and the end
    assert all(line.fullmatch(text) for text in lines), lines
    monkeypatch.setattr(progress, "PLAIN_SECONDS", 0.0)
    assert main([*small]) == 0
    _, *lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 10
    assert all(line.fullmatch(text) for text in lines), lines


def run_at(progress: float, seconds: float, tokens: int) -> Run:
    """A run whose gate is good."""
    families = {name: FamilyScore(10, 0.5, 0.5) for name in ("cj", "latin", "symbols", "lowres")}
    families["cj"] = FamilyScore(0, math.nan, math.nan)
    scores = Scores(100, 0.25, families, 0.0123, 0.0)
    return Run(
        progress=progress,
        seconds=seconds,
        tokens=tokens,
        losses=[0.5] if progress else [],
        measurements=[Measurement(progress, tokens, 1, scores)],
    )


def test_status() -> None:
    first, second = command.status(run_at(0.25, 600, 1_200_000))
    assert first == " 25.0%  1,200,000 tokens  2,000 tokens/s  loss 0.5000  30 min left"
    assert second == "held out: loss 0.250  F1 latin 0.50 symbols 0.50 lowres 0.50  acts 1.23%"
    assert command.status(run_at(0.0, 0.0, 0))[0] == "  0.0%  0 tokens  0 tokens/s  loss -  ? left"
    for seconds, left in ((10, "30 s"), (33, "99 s"), (34, "2 min"), (2380, "119 min"), (2500, "2.1 h")):
        assert command.status(run_at(0.25, seconds, 1))[0].endswith(f"  {left} left")


def test_status_fits_into_eighty_columns() -> None:
    run = run_at(0.999, 86400.0, 99_000_000_000)
    assert all(len(line) <= 80 for line in command.status(run))


def test_status_of_many_families_names_the_weakest() -> None:
    run = run_at(0.25, 600, 1_200_000)
    families = {name: FamilyScore(10, 0.75, 0.75) for name in ("latin", "devanagari", "thai", "symbols")}
    families |= {"malayalam": FamilyScore(10, 0.25, 0.25), "lao": FamilyScore(0, math.nan, math.nan)}
    scores = dataclasses.replace(run.measurements[-1].scores, families=families)
    run.measurements[-1] = dataclasses.replace(run.measurements[-1], scores=scores)
    second = command.status(run)[1]
    assert second == "held out: loss 0.250  F1 mean 0.65 least 0.25 (malayalam)  acts 1.23%"
    assert len(second) <= 80


@POSIX_ONLY
def test_status_on_a_terminal(small: tuple[str, ...], tmp_path: Path) -> None:
    master, terminal = os.openpty()
    process = subprocess.Popen(
        [sys.executable, "-m", "lcg_cpp", *small, "-o", str(tmp_path / "g.gguf")],
        stdout=subprocess.PIPE,
        stderr=terminal,
        cwd=START,
        env={**os.environ, "TERM": "xterm-256color", "COLUMNS": "80"},
    )
    os.close(terminal)
    chunks = []
    try:
        while chunk := os.read(master, 65536):
            chunks.append(chunk)
    except OSError:  # how Linux reports that the other end is closed
        pass
    out, _ = process.communicate(timeout=120)
    os.close(master)
    assert process.returncode == 0
    assert b"\x1b" not in out
    text = b"".join(chunks).decode()
    assert text.startswith("reading the texts …")
    assert text.endswith("\r\x1b[K\x1b[1A\x1b[K")  # both lines are gone in the end
    plain = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", text).replace("\r", "\n").split("\n")
    assert max(map(len, plain)) <= 80
    *_, last_but_one, last = (line for line in plain if line.strip())
    assert last_but_one.startswith("100.0%  ")
    assert last.startswith("held out: ")


# ---- stopping ----


@pytest.fixture
def interrupt(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Presses Ctrl-C when a number of groups were learned from."""

    def at(*groups: int) -> None:
        show, n_groups = progress.StatusLines.show, 0

        def shown(self: Any, *lines: str, last: bool) -> None:
            nonlocal n_groups
            n_groups += 1
            show(self, *lines, last=last)
            for _ in range(groups.count(n_groups)):
                signal.raise_signal(signal.SIGINT)

        monkeypatch.setattr(progress.StatusLines, "show", shown)

    return at


@pytest.mark.usefixtures("no_report")
def test_interrupt_leaves_a_gate_to_go_on_from(
    small: tuple[str, ...],
    tmp_path: Path,
    capsys: Capture,
    monkeypatch: pytest.MonkeyPatch,
    interrupt: Callable[..., None],
) -> None:
    assert main([*small, "-o", "whole.gguf"]) == 0
    handler = signal.getsignal(signal.SIGINT)
    capsys.readouterr()
    with monkeypatch.context():
        interrupt(3)
        assert main([*small, "-o", "g.gguf"]) == 130
    monkeypatch.undo()
    monkeypatch.chdir(tmp_path)
    out, err = capsys.readouterr()
    assert "stopping: the gate is written as it is (Ctrl-C again ends at once)\n" in err
    assert re.match(r"wrote g\.gguf \(.+\) after \d+% of the training; --resume goes on with it\n", out)
    assert Gate.load("g.gguf").n_hidden == 8
    assert signal.getsignal(signal.SIGINT) is handler
    # once more without --resume
    said = refusal(capsys, *small, "-o", "g.gguf")
    assert said == "g.unfinished.safetensors: an unfinished run; --resume goes on with it, delete it to begin anew"
    # with other settings
    said = refusal(capsys, *small, "-o", "g.gguf", "--resume", "--seed", "3")
    assert said == "g.unfinished.safetensors: was written by a run with `seed` 0, this one has 3"
    # to the end
    assert main([*small, "-o", "g.gguf", "--resume"]) == 0
    assert Path("g.gguf").read_bytes() == Path("whole.gguf").read_bytes()
    assert not Path("g.unfinished.safetensors").exists()


@pytest.mark.usefixtures("no_report")
def test_second_interrupt_ends_at_once(small: tuple[str, ...], tmp_path: Path, interrupt: Callable[..., None]) -> None:
    handler = signal.getsignal(signal.SIGINT)
    interrupt(3, 3)
    assert main([*small, "-o", "g.gguf"]) == 130
    assert list(tmp_path.iterdir()) == []
    assert signal.getsignal(signal.SIGINT) is handler


@POSIX_ONLY
def test_interrupt_from_outside(small: tuple[str, ...], tmp_path: Path) -> None:
    gate = tmp_path / "g.gguf"
    process = subprocess.Popen(
        [sys.executable, "-m", "lcg_cpp", *small, "-o", str(gate), "--json", "--tokens", "1000000000"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        # a shell starts its background jobs, and so perhaps this test, with SIGINT ignored
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # noqa: PLW1509 (no other threads)
        cwd=START,
    )
    assert process.stderr is not None
    assert process.stderr.readline().startswith(b"evaluating about 1,000,000,000 tokens takes about ")
    assert process.stderr.readline().startswith(b"  0.0%  ")  # the first group
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=120)
    assert process.returncode == 130, err
    assert json.loads(out)["finished"] is False
    assert b"Traceback" not in err
    Gate.load(gate)
    assert gate.with_suffix(".unfinished.safetensors").exists()
    assert gate.with_suffix(".html").exists()
