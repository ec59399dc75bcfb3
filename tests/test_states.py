"""Kept states: labels of the likely tokens against whole rows, and gates fitted to states against gates trained."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st

torch = pytest.importorskip("torch")

import tiny_model  # noqa: E402
from command_line import refusal  # noqa: E402
from lcg_cpp import Gate, GateError, _core  # noqa: E402
from lcg_cpp.cli import main  # noqa: E402
from lcg_cpp.engine.load import Engine  # noqa: E402
from lcg_cpp.engine.output_norms import NORMS, label_norms  # noqa: E402
from lcg_cpp.gate.decisions import DecodingRules, FamilyTable  # noqa: E402
from lcg_cpp.gate.families import family_set  # noqa: E402
from lcg_cpp.gate.labels import family_labels  # noqa: E402
from lcg_cpp.gate.spec import CONFIDENCE  # noqa: E402
from lcg_cpp.gate.thresholds import Thresholds  # noqa: E402
from lcg_cpp.gate.walk import Walk  # noqa: E402
from lcg_cpp.train import lessons, report  # noqa: E402
from lcg_cpp.train.collect import Collected, collect  # noqa: E402
from lcg_cpp.train.likely import Likely, before_softcap  # noqa: E402
from lcg_cpp.train.options import TrainOptions  # noqa: E402
from lcg_cpp.train.source import LiveSource  # noqa: E402
from lcg_cpp.train.states import StatesFolder  # noqa: E402
from lcg_cpp.train.train import train  # noqa: E402
from training_data import chat_rows, write_rows  # noqa: E402

Floats = npt.NDArray[np.float32]

OPTIONS = TrainOptions(n_hidden=8, batch=64, n_ctx=256, held_out=0.2, passes=2, warmup=10, rules="default")
ENGINE = Engine(n_batch=32, n_threads=1)  # so small that every text is evaluated alone: others would change last bits
N_ROWS = 24


@pytest.fixture(autouse=True)
def no_report(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leaves the report out: drawing takes ten times as long as learning."""
    monkeypatch.setattr(report, "write_report", lambda *_: None)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Chats in a file."""
    return write_rows(tmp_path_factory.mktemp("data") / "chats.jsonl", chat_rows(N_ROWS))


@pytest.fixture(scope="module")
def states(tmp_path_factory: pytest.TempPathFactory, tiny_model_path: Path, data: str) -> Path:
    """The states of the chats."""
    folder = tmp_path_factory.mktemp("states") / "states"
    collected = collect(tiny_model_path, [data], folder, OPTIONS, engine=ENGINE)
    assert (collected.kept, collected.n_rows) == (N_ROWS, N_ROWS)
    return folder


@pytest.fixture
def rounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Hidden states in 16 bits where the model is evaluated, as they are kept."""
    find = LiveSource.find

    def rounding(self: LiveSource, *args: Any, **how: Any) -> Any:
        for found in find(self, *args, **how):
            yield dataclasses.replace(found, hidden=found.hidden.astype(np.float16).astype(np.float32))

    monkeypatch.setattr(LiveSource, "find", rounding)


def contents(folder: Path) -> dict[str, bytes]:
    """Every file of a folder."""
    return {path.name: path.read_bytes() for path in folder.iterdir()}


# ---- likely tokens ----


@given(
    st.integers(0, 2**32 - 1),
    st.integers(2, 400),
    st.sampled_from(NORMS),
    st.integers(1, 20),
    st.sampled_from([0.3, 0.9, 0.95, 1.0]),
    st.sampled_from([0.0, 30.0]),
    st.booleans(),
)
def test_labels_of_likely_tokens_are_those_of_whole_rows(
    seed: int, n_vocab: int, norm: str, top_k: int, top_p: float, softcap: float, soft: bool
) -> None:
    random = np.random.default_rng(seed)
    logits = (random.normal(size=(5, n_vocab)) * random.choice([0.3, 3, 9])).astype(np.float32)
    if softcap:
        logits = (softcap * np.tanh(logits / softcap)).astype(np.float32)
    logits[random.random(logits.shape) < 0.1] = -np.inf
    logits[:, -1] = 0.5
    norms = random.gamma(4, 0.3, n_vocab).astype(np.float32)
    norms[0] = 0.0  # a row of padding
    families = random.integers(0, 6, n_vocab).astype(np.uint8)
    options = TrainOptions(top_k=top_k, top_p=top_p, soft=soft, norm=norm)
    divisors = label_norms(norms, norm)
    wanted = family_labels(logits, divisors, families, top_k, top_p, n_families=6, soft=soft, softcap=softcap)
    found = Likely.of(logits, norms, softcap).labels(divisors, softcap, families, 6, options)
    assert found.dtype == np.float32
    if soft:
        np.testing.assert_allclose(found, wanted, atol=1e-7)
    else:
        assert found.tolist() == wanted.tolist()


@given(
    st.integers(0, 2**32 - 1),
    st.integers(1, 2000),
    st.integers(1, 40),
    st.sampled_from([0.0, 30.0]),
    st.sampled_from([0.0, 0.2, 0.99]),
    st.sampled_from([0.3, 9.0, 90.0]),
)
def test_likely_tokens_and_sums_are_those_of_numpy(
    seed: int, n_vocab: int, n_best: int, softcap: float, forbidden: float, scale: float
) -> None:
    random = np.random.default_rng(seed)
    logits = np.round(random.normal(size=(3, n_vocab)) * scale, 2).astype(np.float32)  # some are equal
    if softcap:
        logits = (softcap * np.tanh(logits / softcap)).astype(np.float32)
    logits[random.random(logits.shape) < forbidden] = -np.inf
    logits[:, 0] = 0.5
    norms = [None, *(np.float32(scale) * random.choice([0.5, 1, 3], n_vocab).astype(np.float32) for scale in (1, 7))]
    order = int(random.integers(3))
    ids, log_sums = _core.read_likely(logits, norms, order, n_best, softcap, 1)
    raw = before_softcap(logits, softcap)
    adjusted = [raw if divisor is None else raw / divisor for divisor in norms]
    everyone = np.broadcast_to(np.arange(n_vocab), logits.shape)
    assert ids.tolist() == np.lexsort((everyone, -adjusted[order]))[:, :n_best].tolist()
    for found, one in zip(log_sums.T, adjusted):
        best = one.max(1)
        np.testing.assert_allclose(found, best + np.log(np.exp(one - best[:, None]).sum(1)), rtol=0, atol=1e-12)
    again = _core.read_likely(logits, norms, order, n_best, softcap, 3)
    assert all(np.array_equal(one, other) for one, other in zip((ids, log_sums), again))


def test_rows_that_cannot_be_are_refused() -> None:
    logits = np.zeros((2, 5), np.float32)
    for norms, order, message in (
        ([np.ones(4, np.float32)], 0, "norms"),
        ([np.zeros(5, np.float32)], 0, "`norms` is 0"),
        ([None], 1, "`order` is 1, expected less than 1"),
    ):
        with pytest.raises(GateError, match=message):
            _core.read_likely(logits, norms, order, 3, 0.0, 1)
    for value, message in ((np.nan, "row 1 at token 2"), (-np.inf, "at every token of row 1")):
        logits[1, 2:] = value
        logits[1, :2] = -np.inf
        with pytest.raises(GateError, match=message):
            _core.read_likely(logits, [None], 0, 3, 0.0, 1)


def test_what_the_rules_look_at_is_kept() -> None:
    logits = np.random.default_rng(0).normal(size=(40, 500)).astype(np.float32) * 3
    rules = DecodingRules(FamilyTable(np.arange(500) % 4, family_set()), Thresholds((0.5,) * 4), CONFIDENCE)
    kept, wanted = Likely.of(logits, np.ones(500, np.float32), 0.0).steps(rules), rules.steps(logits)
    for field in dataclasses.fields(wanted):
        np.testing.assert_array_equal(getattr(kept, field.name), getattr(wanted, field.name))


# ---- gates ----


@pytest.mark.parametrize(
    "setting",
    [
        {},
        {"rules": "scripts", "n_tokens": 3000},
        {"norm": "token", "top_k": 20, "top_p": 0.95, "positions": "reply", "seed": 3},
        {"norm": "none", "n_ctx": 32, "held_out": 0.0},
    ],
)
def test_a_gate_fitted_to_states_is_the_one_that_the_model_teaches(
    tmp_path: Path, tiny_model_path: Path, data: str, states: Path, rounded: None, setting: dict[str, Any]
) -> None:
    options = dataclasses.replace(OPTIONS, **setting)
    trained = train(tiny_model_path, [data], tmp_path / "trained.gguf", options, engine=ENGINE)
    fitted = train(tiny_model_path, [], tmp_path / "fitted.gguf", options, states=[str(states)], engine=ENGINE)
    trained.run.seconds = fitted.run.seconds = 0.0
    assert repr(fitted.run) == repr(trained.run)  # equal, where NaN is equal to NaN
    assert (tmp_path / "fitted.gguf").read_bytes() == (tmp_path / "trained.gguf").read_bytes()


@pytest.fixture
def halves(tmp_path: Path, tiny_model_path: Path, data: str) -> list[str]:
    """The states of the first chats and of the others, in a folder each."""
    rows = Path(data).read_text(encoding="utf-8").splitlines(keepends=True)
    folders = []
    for name, part in (("first", rows[:7]), ("second", rows[7:])):
        (tmp_path / f"{name}.jsonl").write_text("".join(part), encoding="utf-8")
        folders.append(str(tmp_path / name))
        collect(tiny_model_path, [str(tmp_path / f"{name}.jsonl")], folders[-1], OPTIONS, engine=ENGINE)
    return folders


def test_folders_of_states_are_one_behind_the_other(
    tmp_path: Path, tiny_model_path: Path, states: Path, halves: list[str]
) -> None:
    whole = train(tiny_model_path, [], tmp_path / "whole.gguf", OPTIONS, states=[str(states)], engine=ENGINE)
    joined = train(tiny_model_path, [], tmp_path / "joined.gguf", OPTIONS, states=halves, engine=ENGINE)
    whole.run.seconds = joined.run.seconds = 0.0
    assert repr(joined.run) == repr(whole.run)
    for name, wanted in whole.weights.items():
        np.testing.assert_array_equal(joined.weights[name], wanted)


def test_a_folder_of_states_has_a_weight(tmp_path: Path, tiny_model_path: Path, halves: list[str]) -> None:
    options = dataclasses.replace(OPTIONS, held_out=0.0)
    run = train(tiny_model_path, [], tmp_path / "g.gguf", options, states=[f"{halves[0]}:3", halves[1]]).run
    assert run.texts == 3 * 7 + 17
    made = Gate.load(tmp_path / "g.gguf").metadata["adapter.lcg.train.data"]
    assert made == "first.jsonl (7 texts, weight 3); second.jsonl (17 texts)"


def test_states_of_two_models_are_not_joined(tmp_path: Path, tiny_model_path: Path, halves: list[str]) -> None:
    second = StatesFolder.open(Path(halves[1]))
    (second.path / "model.safetensors").unlink()
    StatesFolder.create(second.path, dataclasses.replace(second.facts, file_type="Q2_K"), second.norms)
    with pytest.raises(GateError, match=r"second: holds states with `file_type` 'Q2_K', .*first with '"):
        train(tiny_model_path, [], tmp_path / "g.gguf", OPTIONS, states=halves)


def test_states_lose_nothing_but_half_of_the_bits(
    tmp_path: Path, tiny_model_path: Path, data: str, states: Path
) -> None:
    trained = train(tiny_model_path, [data], tmp_path / "trained.gguf", OPTIONS, engine=ENGINE)
    fitted = train(tiny_model_path, [], tmp_path / "fitted.gguf", OPTIONS, states=[str(states)], engine=ENGINE)
    for name, wanted in trained.weights.items():
        np.testing.assert_allclose(fitted.weights[name], wanted, atol=0.02 * float(np.abs(wanted).max()))
    losses = [trained_.run.measurements[-1].scores.loss for trained_ in (trained, fitted)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-2)


def test_a_gate_is_fitted_without_the_models_weights(
    tmp_path: Path, tiny_model_path: Path, states: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lessons, "load_teacher", None)
    assert train(tiny_model_path, [], tmp_path / "g.gguf", OPTIONS, states=[str(states)]).finished
    Gate.load(tmp_path / "g.gguf")


# ---- collecting ----


def test_every_process_writes_the_same_files(tmp_path: Path, tiny_model_path: Path, data: str, states: Path) -> None:
    collect(tiny_model_path, [data], tmp_path / "again", OPTIONS, engine=ENGINE)
    assert contents(tmp_path / "again") == contents(states)


def test_a_collection_goes_on_where_it_was_stopped(
    tmp_path: Path, tiny_model_path: Path, data: str, states: Path
) -> None:
    whole, left = contents(states), iter((False, True))
    shards = sorted(name for name in whole if name.startswith("rows-"))
    assert shards == ["rows-00000000-00000016.safetensors", "rows-00000016-00000024.safetensors"]
    folder = tmp_path / "states"
    stopped = collect(tiny_model_path, [data], folder, OPTIONS, engine=ENGINE, should_stop=lambda: next(left))
    assert (stopped.kept, list(contents(folder))) == (0, ["model.safetensors"])  # no part of a file
    (folder / shards[1]).write_bytes(whole[shards[1]])  # another process was there
    shown: list[int] = []

    def note(collected: Collected) -> None:
        shown.append(collected.kept)

    collected = collect(tiny_model_path, [data], folder, OPTIONS, engine=ENGINE, on_progress=note)
    assert shown == [N_ROWS]
    assert collected.kept == N_ROWS
    assert contents(folder) == whole
    assert collect(tiny_model_path, [data], folder, OPTIONS, engine=ENGINE).tokens == 0


def test_a_gate_learns_from_what_is_there(tmp_path: Path, tiny_model_path: Path, states: Path) -> None:
    part = tmp_path / "part"
    part.mkdir()
    for name in ("model.safetensors", "rows-00000000-00000016.safetensors"):
        (part / name).write_bytes((states / name).read_bytes())
    told: list[str] = []
    options = dataclasses.replace(OPTIONS, held_out=0.0)
    run = train(tiny_model_path, [], tmp_path / "g.gguf", options, states=[str(part)], on_notice=told.append).run
    assert (run.texts, run.skipped) == (16, 8)
    assert [text for text in told if "tokens/s" not in text] == [
        f"{part}: 1 of 2 files are missing; the gate learns from the rest",
        "9 texts are left out: the states are not kept",  # one of them twice: it was to be measured on, too
    ]


def test_texts_with_nothing_to_learn_are_kept_in_mind(tmp_path: Path, tiny_model_path: Path) -> None:
    shown = b"message['content']"
    silent = tmp_path / "silent.gguf"  # its template does not show what is said
    silent.write_bytes(tiny_model_path.read_bytes().replace(shown, b"''".ljust(len(shown))))
    rows = chat_rows(6)
    data = write_rows(tmp_path / "mixed.jsonl", [rows[0], *({"text": row["response"]} for row in rows[1:]), rows[0]])
    collect(silent, [data], tmp_path / "states", OPTIONS, engine=ENGINE)
    told: list[str] = []
    options = dataclasses.replace(OPTIONS, held_out=0.0, seed=2)
    run = train(silent, [], tmp_path / "g.gguf", options, states=[str(tmp_path / "states")], on_notice=told.append).run
    assert (run.texts, run.skipped) == (5, 2)
    assert len(told) == 2  # how long it will take, and this
    assert told[1].endswith(" texts are left out: the model's chat template does not show the reply as it is")


# ---- refusals ----


@pytest.mark.parametrize(
    ("setting", "said"),
    [
        ({"top_k": 21}, r"`top_k` is 21, expected 1 to 20"),
        ({"top_k": 0}, r"`top_k` is 0, expected 1 to 20"),
        ({"n_ctx": 257}, r"`n_ctx` is 257, expected at most 256"),
    ],
)
def test_what_states_do_not_hold_is_refused(
    tmp_path: Path, tiny_model_path: Path, states: Path, setting: dict[str, Any], said: str
) -> None:
    with pytest.raises(GateError, match=said):
        train(tiny_model_path, [], tmp_path / "g.gguf", dataclasses.replace(OPTIONS, **setting), states=[str(states)])


def test_data_and_states_together_are_refused(tmp_path: Path, tiny_model_path: Path, data: str, states: Path) -> None:
    with pytest.raises(GateError, match="`data` and `states` are both given, expected one of them"):
        train(tiny_model_path, [data], tmp_path / "g.gguf", OPTIONS, states=[str(states)])


def test_states_of_other_data_are_not_mixed(tmp_path: Path, tiny_model_path: Path, data: str, states: Path) -> None:
    before = contents(states)
    with pytest.raises(GateError, match=r"holds states with `data` \[\['chats.jsonl', 24\]\], these have"):
        collect(tiny_model_path, [data, data], states, OPTIONS, engine=ENGINE)
    with pytest.raises(GateError, match="holds states with `n_ctx` 256, these have 128"):
        collect(tiny_model_path, [data], states, dataclasses.replace(OPTIONS, n_ctx=128), engine=ENGINE)
    tiny_model.write_model(tmp_path / "other.gguf", seed=1)
    with pytest.raises(GateError, match="holds states with `norms`"):
        collect(tmp_path / "other.gguf", [data], states, OPTIONS, engine=ENGINE)
    assert contents(states) == before


def test_states_of_another_model_fit_no_gate(tmp_path: Path, tiny_model_path: Path, states: Path) -> None:
    content = tiny_model_path.read_bytes()
    other = tmp_path / "other.gguf"
    other.write_bytes(content.replace(b"assistant", b"assisdant"))
    with pytest.raises(GateError, match="vocabulary"):
        train(other, [], tmp_path / "g.gguf", OPTIONS, states=[str(states)])


@pytest.mark.parametrize("content", [b"", b"nothing", b"\xff" * 64])
def test_damaged_files_are_named(tmp_path: Path, tiny_model_path: Path, states: Path, content: bytes) -> None:
    broken = tmp_path / "broken"
    broken.mkdir()
    for name, whole in contents(states).items():
        (broken / name).write_bytes(content if name.startswith("rows-") else whole)
    with pytest.raises(GateError, match=r"rows-000000\d\d-000000\d\d.safetensors: holds no states"):
        train(tiny_model_path, [], tmp_path / "g.gguf", OPTIONS, states=[str(broken)])
    (broken / "model.safetensors").write_bytes(content)
    with pytest.raises(GateError, match=r"model.safetensors: holds no states"):
        train(tiny_model_path, [], tmp_path / "g.gguf", OPTIONS, states=[str(broken)])


def test_states_beyond_half_precision_are_refused(
    tmp_path: Path, tiny_model_path: Path, data: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = Walk.rows

    def large(self: Walk, texts: Any) -> Any:
        for found in rows(self, texts):
            yield dataclasses.replace(found, hidden=found.hidden * 1e6)

    monkeypatch.setattr(Walk, "rows", large)
    with pytest.raises(GateError, match="too large for 16 bits"):
        collect(tiny_model_path, [data], tmp_path / "states", OPTIONS, engine=ENGINE)


# ---- the command ----


def test_one_pass_many_gates(
    tmp_path: Path, tiny_model_path: Path, data: str, capsys: pytest.CaptureFixture[str]
) -> None:
    model, folder = ("train", "-m", str(tiny_model_path)), str(tmp_path / "states")
    assert main([*model, "-d", data, "-c", "256", "-t", "1", "-b", "64", "--keep-states", folder]) == 0
    assert capsys.readouterr().out.startswith(f"{folder} holds the states of 24 of 24 texts")
    for rules in ("default", "scripts"):
        gate = str(tmp_path / f"{rules}.gguf")
        settings = ("--rules", rules, "--hidden", "8", "--batch", "64", "-c", "256", "--held-out", "0.2", "-t", "1")
        assert main([*model, "--states", folder, "-o", gate, *settings, "--json"]) == 0
        assert json.loads(capsys.readouterr().out)["positions"] > 500
        assert Gate.load(gate).families.rules == rules


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--states", "s", "-d", "x.jsonl"], "--states: has all that is learned from, expected no -d/--data"),
        (["--states", "s", "--keep-states", "s"], "--states: has all that is learned from, expected no --keep-states"),
        (["-d", "x", "--keep-states", "s", "-o", "g.gguf"], "--keep-states: writes no gate"),
        (["-d", "x", "--keep-states", "s", "--resume"], "--keep-states: writes no gate"),
    ],
)
def test_options_that_exclude_one_another(
    capsys: pytest.CaptureFixture[str], tiny_model_path: Path, arguments: list[str], said: str
) -> None:
    assert refusal(capsys, "train", "-m", str(tiny_model_path), *arguments).startswith(said)
