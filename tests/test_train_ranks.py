"""Two processes that train together, as torchrun starts them, against one with the doubled batch."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest

torch = pytest.importorskip("torch")
if not torch.distributed.is_available():
    pytest.skip("this PyTorch has no distributed package", allow_module_level=True)

from lcg_cpp import Gate, GateError  # noqa: E402
from lcg_cpp.engine.load import Engine  # noqa: E402
from lcg_cpp.train import report as train_report  # noqa: E402
from lcg_cpp.train.learner import Ranks  # noqa: E402
from lcg_cpp.train.options import TrainOptions  # noqa: E402
from lcg_cpp.train.train import train  # noqa: E402
from training_data import chat_rows, write_rows  # noqa: E402

# two texts a group and process, some rounds; 23 texts leave the second process without any in the last group
OPTIONS = TrainOptions(
    n_hidden=8, batch=64, n_ctx=256, held_out=0.0, learning_rate=0.01, warmup=5, n_tokens=2600, passes=2
)
SMALL = "--hidden 8 --batch 64 -c 256 --held-out 0 --lr 0.01 --warmup 5 --tokens 2600 --passes 2 -t 1 -b 64"
ENGINE = Engine(n_batch=64, n_threads=1)

# What each process does in turn. The lines of the first one are what is looked at.
PROGRAM = """
import dataclasses, json, os, sys
sys.path[:0] = json.loads(sys.argv[5])
from lcg_cpp import GateError
from lcg_cpp.engine.load import Engine
from lcg_cpp.train import train
from lcg_cpp.train import report
from lcg_cpp.train.options import TrainOptions

report.write_report = lambda *_: None
model, data, folder, options = sys.argv[1:5]
rank = int(os.environ["RANK"])

def learn(name, stop_after=None, resume=False, breaks=False):
    left = [stop_after]
    def progress(run):
        if left[0] is not None:
            left[0] -= 1
    def should_stop():
        if breaks and rank == 1:
            raise GateError("process 1 breaks")
        return rank == 1 and left[0] is not None and left[0] <= 0  # only one of them is asked to
    trained = train(
        model, [data], f"{folder}/{name}.gguf", TrainOptions(**json.loads(options)), outtype="f32", resume=resume,
        engine=Engine(n_batch=64, n_threads=1), should_stop=should_stop, on_progress=progress,
    )
    return {"finished": trained.finished, "losses": trained.run.losses, "tokens": trained.run.tokens}

name, arguments = json.loads(sys.argv[6])
try:
    found = learn(**arguments)
except GateError as error:
    found = str(error)
with open(f"{folder}/{name}-{rank}.json", "w") as file:
    json.dump(found, file)
"""


# What they are told to do, one after the other, each in processes of its own: a process joins one group in its life.
STEPS: dict[str, dict[str, Any]] = {
    "stopped": {"name": "parts", "stop_after": 3},
    "resumed": {"name": "parts", "resume": True},
    "broken": {"name": "broken", "breaks": True},
}


def weights_of(path: Path) -> dict[str, Any]:
    """The matrices in a gate file."""
    return {tensor.name: np.array(tensor.data) for tensor in gguf.GGUFReader(path).tensors if "fc" in tensor.name}


def close(found: Path, wanted: Path) -> None:
    """Compares the matrices of two gates; sums in another order round differently."""
    expected = weights_of(wanted)
    for name, matrix in weights_of(found).items():
        np.testing.assert_allclose(matrix, expected[name], atol=1e-4, rtol=0)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Chats in a file."""
    return write_rows(tmp_path_factory.mktemp("data") / "chats.jsonl", chat_rows(23))


@pytest.fixture(scope="module")
def one(tmp_path_factory: pytest.TempPathFactory, tiny_model_path: Path, data: str) -> tuple[Any, Path]:
    """One process with the doubled batch."""
    output = tmp_path_factory.mktemp("one") / "g.gguf"
    options = dataclasses.replace(OPTIONS, batch=2 * OPTIONS.batch)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(train_report, "write_report", lambda *_: None)
        return train(tiny_model_path, [data], output, options, engine=ENGINE, outtype="f32").run, output


@pytest.fixture(scope="module")
def two(
    tmp_path_factory: pytest.TempPathFactory, tiny_model_path: Path, data: str
) -> tuple[list[dict[str, Any]], Path]:
    """What two processes find that run the program, and the folder with their files."""
    folder = tmp_path_factory.mktemp("two")
    settings = json.dumps(dataclasses.asdict(OPTIONS))
    found: list[dict[str, Any]] = [{}, {}]
    for name, arguments in STEPS.items():
        with socket.create_server(("127.0.0.1", 0)) as server:
            port = str(server.getsockname()[1])
        step = json.dumps([name, arguments])
        group = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "OMP_NUM_THREADS": "1"}
        processes = [
            subprocess.Popen(
                [sys.executable, "-c", PROGRAM, tiny_model_path, data, folder, settings, json.dumps(sys.path), step],
                env={**os.environ, **group, "RANK": str(rank)},
            )
            for rank in range(2)
        ]
        try:
            assert [process.wait(timeout=120) for process in processes] == [0, 0]
        finally:
            for process in processes:
                process.kill()
                process.wait()
        for rank in range(2):
            found[rank][name] = json.loads((folder / f"{name}-{rank}.json").read_text())
        if name == "stopped":
            for suffix in (".gguf", ".unfinished.safetensors"):
                shutil.copy(folder / f"parts{suffix}", folder / f"left{suffix}")
    return found, folder


@pytest.fixture(scope="module")
def torchrun(tmp_path_factory: pytest.TempPathFactory, tiny_model_path: Path, data: str) -> tuple[dict[str, Any], Path]:
    """What the command reports where torchrun starts two of it, and the gate."""
    gate = tmp_path_factory.mktemp("torchrun") / "g.gguf"
    line = f"-m {tiny_model_path} -d {data} -o {gate} --outtype f32 --json {SMALL}"
    launch = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "lcg_cpp", "train")
    done = subprocess.run(
        [sys.executable, *launch, *line.split()],
        capture_output=True,
        text=True,
        timeout=300,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("100.0%") == 1
    return json.loads(done.stdout), gate  # printed once


def test_two_processes_learn_what_one_learns_with_the_doubled_batch(
    one: tuple[Any, Path], torchrun: tuple[dict[str, Any], Path]
) -> None:
    run, gate = one
    found, gate_of_two = torchrun
    assert run.epoch > 1
    wanted = (run.tokens, run.positions, run.texts, True)
    assert (found["tokens"], found["positions"], found["texts"], found["finished"]) == wanted
    assert len(run.losses) > 10
    np.testing.assert_allclose(found["losses"], run.losses, rtol=1e-5)
    close(gate_of_two, gate)


def test_two_processes_go_on_to_the_same_gate(
    two: tuple[list[dict[str, Any]], Path], torchrun: tuple[dict[str, Any], Path]
) -> None:
    steps, folder = two
    whole, gate = torchrun
    for found in steps:
        assert found["stopped"]["finished"] is False
        assert len(found["stopped"]["losses"]) == 3  # though only the second was asked to stop
        assert found["resumed"]["finished"] is True
        assert found["resumed"]["losses"] == pytest.approx(whole["losses"], rel=1e-9)
    assert (folder / "parts.gguf").read_bytes() == gate.read_bytes()


def test_another_number_of_processes_is_refused(
    two: tuple[list[dict[str, Any]], Path], tiny_model_path: Path, data: str
) -> None:
    _, folder = two
    with pytest.raises(GateError) as refused:
        train(tiny_model_path, [data], folder / "left.gguf", OPTIONS, engine=ENGINE, resume=True)
    checkpoint = folder / "left.unfinished.safetensors"
    assert str(refused.value) == f"{checkpoint}: was written by a run with `processes` 2, this one has 1"
    Gate.load(folder / "left.gguf")


def test_process_that_breaks_ends_the_others(two: tuple[list[dict[str, Any]], Path]) -> None:
    (first, second), folder = two
    assert second["broken"] == "process 1 breaks"
    assert first["broken"].startswith("process 0 of 2: lost another one, which says why (")
    assert "\n" not in first["broken"]
    assert sorted(path.name for path in folder.glob("broken*")) == ["broken-0.json", "broken-1.json"]  # and no gate


@pytest.mark.parametrize("size", ["2", "many"])
def test_processes_that_do_not_find_each_other_are_told_so(monkeypatch: pytest.MonkeyPatch, size: str) -> None:
    monkeypatch.setenv("WORLD_SIZE", size)
    for name in ("RANK", "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(
        GateError, match=f"`WORLD_SIZE` is {size}, but .* start them with torchrun, or unset it"
    ) as said:
        Ranks()
    assert "\n" not in str(said.value)


def test_one_process_adds_up_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    with Ranks() as ranks:
        assert (ranks.size, ranks.rank) == (1, 0)
        assert ranks.sum([1.0, 2.5]) == [1.0, 2.5]
