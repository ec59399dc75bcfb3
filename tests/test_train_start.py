"""Training that goes on from a gate (`train(start=…)`, `--from`), and with texts that are not measured on."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Hashable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")

import tiny_model  # noqa: E402
from command_line import refusal  # noqa: E402
from lcg_cpp import Gate, GateError  # noqa: E402
from lcg_cpp.cli import main  # noqa: E402
from lcg_cpp.engine.load import Engine  # noqa: E402
from lcg_cpp.gate.gate_file import OUTTYPES, read_weights  # noqa: E402
from lcg_cpp.train import report as train_report  # noqa: E402
from lcg_cpp.train.collect import collect  # noqa: E402
from lcg_cpp.train.learner import Learner  # noqa: E402
from lcg_cpp.train.options import TrainOptions  # noqa: E402
from lcg_cpp.train.run import Texts  # noqa: E402
from lcg_cpp.train.train import Trained, train  # noqa: E402
from training_data import chat_rows, write_rows  # noqa: E402

OPTIONS = TrainOptions(n_hidden=8, batch=64, n_ctx=256, held_out=0.2, passes=2, warmup=10, rules="default")
SMALL = ("--batch", "64", "-c", "256", "--held-out", "0.2", "-t", "1", "-b", "64")

Learn = Callable[..., Trained]


@pytest.fixture(autouse=True)
def light(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """One thread for PyTorch, and no report: drawing takes ten times as long as learning."""
    monkeypatch.setattr(train_report, "write_report", lambda *_: None)
    n_threads = torch.get_num_threads()
    yield
    torch.set_num_threads(n_threads)


@pytest.fixture
def data(tmp_path: Path) -> str:
    """Chats of mixed scripts."""
    return write_rows(tmp_path / "chats.jsonl", chat_rows(24))


@pytest.fixture
def latin(tmp_path: Path) -> str:
    """Chats in Latin letters alone."""
    rows = [{"prompt": f"the city {i}", "response": f"the name of the city and {i} of the year {i}"} for i in range(24)]
    return write_rows(tmp_path / "latin.jsonl", rows)


@pytest.fixture
def learn(tiny_model_path: Path, data: str) -> Learn:
    """Trains a gate, on the chats of mixed scripts if nothing else is said."""

    def learn(output: Path, options: TrainOptions = OPTIONS, texts: str = data, **how: Any) -> Trained:
        how = {"engine": Engine(n_batch=64, n_threads=1), "outtype": "f32", **how}
        return train(tiny_model_path, [texts], output, options, **how)

    return learn


@pytest.mark.parametrize("n_hidden", [8, 0])
def test_a_run_begins_as_good_as_the_gate_that_it_goes_on_from(tmp_path: Path, learn: Learn, n_hidden: int) -> None:
    options = dataclasses.replace(OPTIONS, n_hidden=n_hidden)
    before = learn(tmp_path / "a.gguf", options).run.measurements
    after = learn(tmp_path / "b.gguf", options, start=tmp_path / "a.gguf").run.measurements
    assert after[0].scores.loss == pytest.approx(before[-1].scores.loss, abs=1e-6)
    assert after[0].scores.loss < before[0].scores.loss - 0.05
    assert after[-1].scores.loss < after[0].scores.loss


@pytest.mark.parametrize("outtype", OUTTYPES)
def test_weights_are_read_as_they_were_written(make_gate_file: Callable[..., Path], outtype: str) -> None:
    rng = np.random.default_rng(3)
    written = {
        "lcg.fc1.weight": rng.standard_normal((32, tiny_model.N_EMBD)).astype(np.float32),
        "lcg.fc1.bias": rng.standard_normal(32).astype(np.float32),
        "lcg.fc2.weight": rng.standard_normal((4, 32)).astype(np.float32),
    }
    path = make_gate_file(written, outtype=outtype)
    found = read_weights(path)
    assert found.keys() == written.keys()
    for name, weight in found.items():
        assert (weight.shape, weight.dtype) == (written[name].shape, np.float32)
        assert np.abs(weight - written[name]).max() <= {"f32": 0, "f16": 2e-3, "bf16": 2e-2, "q8_0": 2e-2}[outtype]
    hidden = rng.standard_normal((5, tiny_model.N_EMBD)).astype(np.float32)
    z = np.maximum(hidden @ found["lcg.fc1.weight"].T + found["lcg.fc1.bias"], 0) @ found["lcg.fc2.weight"].T
    np.testing.assert_allclose(Gate.load(path).predict(hidden), z, rtol=0.05, atol=0.3)


def test_families_that_the_new_texts_do_not_hold_stay_as_they_were(
    tmp_path: Path, learn: Learn, latin: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lcg_cpp.train.trainer._LEAST_POSITIVES", 16)
    first, alone, second = (tmp_path / name for name in ("first.gguf", "alone.gguf", "second.gguf"))
    learn(first)
    learn(alone, texts=latin)
    learn(second, texts=latin, start=first)
    gates = [Gate.load(path) for path in (first, alone, second)]
    cj, words = (gates[0].families.names.index(name) for name in ("cj", "latin"))
    assert [gate.families.maskable[cj] for gate in gates] == [True, False, True]
    usual, begin = ([getattr(gate.thresholds, part)[cj] for gate in gates] for part in ("usual", "first"))
    assert usual[2] == usual[0] != usual[1]
    assert begin[2] == begin[0]
    assert gates[2].families.maskable[words]
    said = gates[2].metadata
    assert said["adapter.lcg.train.start"] == f"{gates[0].metadata['general.name']} (first.gguf)"
    assert said["adapter.lcg.train.start_data"] == "chats.jsonl (24 texts)"
    assert said["adapter.lcg.train.data"] == "latin.jsonl (24 texts)"
    assert [said[f"general.dataset.{i}.name"] for i in range(2)] == ["chats.jsonl", "latin.jsonl"]
    assert "adapter.lcg.train.start" not in gates[0].metadata
    learn(tmp_path / "third.gguf", start=second)
    third = Gate.load(tmp_path / "third.gguf").metadata
    assert third["adapter.lcg.train.start_data"] == "chats.jsonl (24 texts); latin.jsonl (24 texts)"
    assert third["general.dataset.count"] == 2


def test_a_unit_that_no_new_state_reaches_stays() -> None:
    rng = np.random.default_rng(0)
    states = rng.random((64, 6), np.float32)
    start = {
        "lcg.fc1.weight": rng.standard_normal((8, 6)).astype(np.float32),
        "lcg.fc2.weight": rng.standard_normal((4, 8)).astype(np.float32),
    }
    start["lcg.fc1.weight"][0] = -1  # below 0 at every state
    found = Learner(4, OPTIONS, states, start).weights()
    for name, weight in start.items():
        np.testing.assert_array_equal(found[name], weight)


def test_gates_of_another_shape_are_refused(
    tmp_path: Path, learn: Learn, make_gate_file: Callable[..., Path], data: str
) -> None:
    learn(tmp_path / "a.gguf")
    for change, message in (
        ({"n_hidden": 16}, r"a.gguf: has the `n_hidden` 8, the gate to train has 16"),
        ({"rules": "paper"}, r"a.gguf: has the `rules` default, the gate to train has paper"),
    ):
        with pytest.raises(GateError, match=message):
            learn(tmp_path / "b.gguf", dataclasses.replace(OPTIONS, **change), start=tmp_path / "a.gguf")
    weights = {"lcg.fc2.weight": np.ones((4, tiny_model.N_EMBD), np.float32)}
    linear = dataclasses.replace(OPTIONS, n_hidden=0)
    biased = make_gate_file({**weights, "lcg.fc2.bias": np.ones(4, np.float32)})
    with pytest.raises(GateError, match=r"has lcg.fc2.bias, expected a gate of `lcg-cpp train`"):
        learn(tmp_path / "b.gguf", linear, start=biased)
    with pytest.raises(GateError, match="has another tokenizer"):
        learn(tmp_path / "b.gguf", linear, start=make_gate_file(weights, tokenizer_hash="ab" * 32))
    with pytest.raises(GateError, match=r"chats\.jsonl"):
        learn(tmp_path / "b.gguf", start=data)
    assert not (tmp_path / "b.gguf").exists()


def test_a_run_that_was_stopped_goes_on_only_with_the_gate_that_it_began_with(tmp_path: Path, learn: Learn) -> None:
    learn(tmp_path / "a.gguf")
    learn(tmp_path / "other.gguf", dataclasses.replace(OPTIONS, seed=1))
    learn(tmp_path / "whole.gguf", start=tmp_path / "a.gguf")
    groups: list[object] = []
    stop = {"on_progress": groups.append, "should_stop": lambda: len(groups) > 2}
    stopped = learn(tmp_path / "b.gguf", start=tmp_path / "a.gguf", **stop)
    assert not stopped.finished
    for start in (None, tmp_path / "other.gguf"):
        with pytest.raises(GateError, match="was written by a run with `start`"):
            learn(tmp_path / "b.gguf", start=start, resume=True)
    assert learn(tmp_path / "b.gguf", start=tmp_path / "a.gguf", resume=True).finished
    whole, resumed = (read_weights(tmp_path / name) for name in ("whole.gguf", "b.gguf"))
    for name, weight in whole.items():
        np.testing.assert_array_equal(resumed[name], weight)


def test_the_command_takes_width_and_families_from_the_gate(
    tmp_path: Path, tiny_model_path: Path, data: str, capsys: pytest.CaptureFixture[str]
) -> None:
    first, second = str(tmp_path / "a.gguf"), str(tmp_path / "b.gguf")
    command = ("train", "-m", str(tiny_model_path), "-d", data, *SMALL)
    assert main([*command, "--hidden", "8", "--rules", "default", "-o", first]) == 0
    assert main([*command, "--from", first, "-o", second]) == 0
    gate = Gate.load(second)
    assert (gate.n_hidden, gate.families.rules) == (8, "default")
    capsys.readouterr()
    for more, message in (
        (("--from", first, "--hidden", "16"), "has the `n_hidden` 8, the gate to train has 16"),
        (("--from", data), "--from: "),
        (("--from", str(tmp_path / "none.gguf")), "--from: "),
        (("--from", "auto"), "--from: "),
        (("--from", ""), "argument --from: is empty"),
        (("--from", first, "--keep-states", str(tmp_path / "states")), "--keep-states: writes no gate"),
    ):
        output = () if "--keep-states" in more else ("-o", str(tmp_path / "c.gguf"))
        assert message in refusal(capsys, *command, *more, *output)
    assert not (tmp_path / "c.gguf").exists()


# ---- texts of which nothing is held out ----


def test_texts_that_are_not_measured_on_are_never_held_out(
    tmp_path: Path, learn: Learn, latin: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[tuple[int, ...]] = []
    choose = Texts.hold_out

    def hold_out(self: Texts, kind_of: Callable[[int], Hashable]) -> None:
        choose(self, kind_of)
        asked.append(tuple(self.held_out.tolist()))

    monkeypatch.setattr(Texts, "hold_out", hold_out)
    both = learn(tmp_path / "a.gguf", unmeasured=[f"{latin}:2"])
    (held_out,) = asked
    assert len(held_out) > 3
    assert max(held_out) < 24  # rows of the first file
    assert both.run.texts == 24 - len(held_out) + 2 * 24
    said = Gate.load(tmp_path / "a.gguf").metadata["adapter.lcg.train.data"]
    assert said == "chats.jsonl (24 texts); latin.jsonl (24 texts, weight 2, not measured on)"


def test_states_that_are_not_measured_on_give_the_gate_of_their_texts(
    tmp_path: Path, tiny_model_path: Path, learn: Learn, data: str, latin: str
) -> None:
    folders = {name: tmp_path / f"states-{name}" for name in ("data", "latin")}
    for folder, texts in zip(folders.values(), (data, latin)):
        collect(tiny_model_path, [texts], folder, OPTIONS, engine=Engine(n_batch=64, n_threads=1))
    learn(tmp_path / "texts.gguf", unmeasured=[latin])
    kept = {"states": [str(folders["data"])], "unmeasured": [str(folders["latin"])]}
    train(tiny_model_path, [], tmp_path / "states.gguf", OPTIONS, outtype="f32", **kept)
    one, other = (read_weights(tmp_path / f"{name}.gguf") for name in ("texts", "states"))
    for name, weight in one.items():
        np.testing.assert_allclose(other[name], weight, atol=1e-3)
    assert Gate.load(tmp_path / "texts.gguf").thresholds.usual == pytest.approx(
        Gate.load(tmp_path / "states.gguf").thresholds.usual, abs=1e-3
    )


def test_a_run_goes_on_only_with_the_same_texts_measured(tmp_path: Path, learn: Learn, latin: str) -> None:
    groups: list[object] = []
    stop = {"on_progress": groups.append, "should_stop": lambda: len(groups) > 1}
    assert not learn(tmp_path / "b.gguf", unmeasured=[latin], **stop).finished
    with pytest.raises(GateError, match=r"was written by a run with `(data|unmeasured)`"):
        learn(tmp_path / "b.gguf", resume=True)
    assert learn(tmp_path / "b.gguf", unmeasured=[latin], resume=True).finished
