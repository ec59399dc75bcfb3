"""Training a gate for the tiny model from end to end: what is learned, what comes of it, and going on after a stop."""

from __future__ import annotations

import dataclasses
import errno
import hashlib
import itertools
import json
import math
import os
import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

torch = pytest.importorskip("torch")

import tiny_model  # noqa: E402
import training_data  # noqa: E402
from lcg_cpp import Gate, GateError  # noqa: E402
from lcg_cpp.data import weighted  # noqa: E402
from lcg_cpp.demo import MODEL as DEMO  # noqa: E402
from lcg_cpp.engine.load import Engine  # noqa: E402
from lcg_cpp.engine.model import read_base_model  # noqa: E402
from lcg_cpp.engine.teacher import Teacher  # noqa: E402
from lcg_cpp.gate.families import family_set, token_families  # noqa: E402
from lcg_cpp.gate.rule_set import FamilySet  # noqa: E402
from lcg_cpp.gate.spec import spec_for  # noqa: E402
from lcg_cpp.gate.thresholds import Thresholds  # noqa: E402
from lcg_cpp.train import report as train_report  # noqa: E402
from lcg_cpp.train import saved_run  # noqa: E402
from lcg_cpp.train.batches import Evaluator  # noqa: E402
from lcg_cpp.train.heldout import HeldOut  # noqa: E402
from lcg_cpp.train.learner import Learner  # noqa: E402
from lcg_cpp.train.options import PAPER_TRAINING, TrainOptions  # noqa: E402
from lcg_cpp.train.run import Run, Texts  # noqa: E402
from lcg_cpp.train.train import Trained, saved_run_path, train  # noqa: E402
from training_data import CLOSE, Finder, Text, chat_rows, evaluate, write_rows  # noqa: E402

Floats = npt.NDArray[np.float32]

N_ROWS = 24
# two texts a group, two steps or so in each of its passes: a run takes 0.1 s
OPTIONS = TrainOptions(
    n_hidden=8, label_scripts="likely", batch=64, n_ctx=256, held_out=0.2, passes=2, warmup=10, rules="default"
)
ENGINE = Engine(n_batch=64, n_threads=1)


@pytest.fixture(autouse=True)
def light(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> Iterator[None]:
    """One thread for PyTorch, and no report but where it is tested: drawing takes ten times as long as learning."""
    if "with_report" not in request.fixturenames:
        monkeypatch.setattr(train_report, "write_report", lambda *_: None)
    n_threads = torch.get_num_threads()
    yield
    torch.set_num_threads(n_threads)


@pytest.fixture(scope="module")
def rows() -> list[dict[str, str]]:
    """The chats."""
    return chat_rows(N_ROWS)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory, rows: list[dict[str, str]]) -> str:
    """The chats in a file."""
    return write_rows(tmp_path_factory.mktemp("data") / "chats.jsonl", rows)


@pytest.fixture(scope="module")
def texts(tiny_model_path: Path, rows: list[dict[str, str]]) -> list[Text]:
    """The chats as the model sees them."""
    return evaluate(tiny_model_path, rows)


@pytest.fixture
def learn(tiny_model_path: Path, data: str) -> Callable[..., Trained]:
    """Trains a gate on the chats."""

    def learn(output: Path, options: TrainOptions = OPTIONS, **how: Any) -> Trained:
        return train(tiny_model_path, [data], output, options, **{"engine": ENGINE, **how})

    return learn


@dataclasses.dataclass
class Update:
    """A step of the optimizer."""

    hidden: Floats
    labels: Floats
    progress: float


@dataclasses.dataclass
class Spy:
    """What the optimizer was given."""

    sample: list[Floats]
    updates: list[Update]


@pytest.fixture
def spy(monkeypatch: pytest.MonkeyPatch) -> Spy:
    """Records what the learner is given."""
    spy = Spy([], [])
    begin, update = Learner.__init__, Learner.update

    def beginning(self: Learner, n_families: int, options: TrainOptions, sample: Floats, *start: Any) -> None:
        spy.sample.append(sample.copy())
        begin(self, n_families, options, sample, *start)

    def updating(self: Learner, hidden: Floats, labels: Floats, progress: float) -> float:
        spy.updates.append(Update(hidden.copy(), labels.copy(), progress))
        return update(self, hidden, labels, progress)

    monkeypatch.setattr(Learner, "__init__", beginning)
    monkeypatch.setattr(Learner, "update", updating)
    return spy


class Stop:
    """Asks to stop after some groups, or after so many evaluations."""

    def __init__(self, *, groups: float = math.inf, evaluations: float = math.inf) -> None:
        self._groups, self._evaluations = groups, evaluations

    def progress(self, run: Run) -> None:
        """Counts groups."""
        self._groups -= 1

    def asked(self) -> bool:
        """Counts evaluations."""
        self._evaluations -= 1
        return self._groups <= 0 or self._evaluations < 0


def files_in(folder: Path) -> list[str]:
    """Names of all files, hidden ones too."""
    return sorted(path.name for path in folder.iterdir())


def metadata_of(gate: Path) -> dict[str, Any]:
    """The training record in a gate file."""
    prefix = "adapter.lcg.train."
    found = Gate.load(gate).metadata
    return {key[len(prefix) :]: value for key, value in found.items() if key.startswith(prefix)}


# ---- what is learned ----


@pytest.mark.parametrize("positions", ["all", "reply"])
def test_every_training_position_is_learned_from_once_in_each_pass(
    tmp_path: Path, learn: Callable[..., Trained], spy: Spy, texts: list[Text], positions: str
) -> None:
    run = learn(tmp_path / "g.gguf", dataclasses.replace(OPTIONS, positions=positions)).run
    finder = Finder(texts)
    held_out = {min(i for i, _ in found) for found in finder.find(spy.sample[0]) if len(found) == 1}
    assert len(held_out) == round(0.2 * N_ROWS) == 5
    wanted = [(i, p) for i, text in enumerate(texts) if i not in held_out for p in text.learned(positions)]
    assert run.positions == len(wanted)
    assert run.texts == N_ROWS - 5
    assert run.tokens == sum(len(text.tokens) for i, text in enumerate(texts) if i not in held_out)
    assert run.skipped == 0
    # beginnings that texts share cannot be told apart by their states, so each class of equals is counted as one
    found = Counter(tuple(where) for update in spy.updates for where in finder.find(update.hidden))
    learned = set(wanted)
    assert sum(found.values()) == 2 * len(wanted)  # passes
    for where, times in found.items():
        assert times == 2 * sum(place in learned for place in where)


def test_held_out_positions_are_those_of_the_replies(
    tmp_path: Path, learn: Callable[..., Trained], spy: Spy, texts: list[Text]
) -> None:
    scores = learn(tmp_path / "g.gguf").run.measurements[-1].scores
    found = list(Finder(texts).find(spy.sample[0]))
    held_out = {i for where in found for i, _ in where if len(where) == 1}
    wanted = [(i, p) for i in held_out for p in texts[i].learned("reply")]
    assert scores.positions == len(found) == len(wanted)
    assert all(any(place in wanted for place in where) for where in found)


def test_held_out_texts_are_never_learned_from(
    tmp_path: Path, learn: Callable[..., Trained], spy: Spy, texts: list[Text]
) -> None:
    learn(tmp_path / "g.gguf", dataclasses.replace(OPTIONS, n_tokens=2500))  # several rounds
    finder = Finder(texts)
    held_out = {where[0][0] for where in finder.find(spy.sample[0]) if len(where) == 1}
    learned = {where[0][0] for update in spy.updates for where in finder.find(update.hidden) if len(where) == 1}
    assert held_out | learned == set(range(N_ROWS))
    assert not held_out & learned


@pytest.mark.parametrize(
    ("norm", "top_k", "top_p", "soft"),
    [("relative", 5, 0.9, False), ("token", 20, 0.95, False), ("none", 3, 0.7, False), ("relative", 20, 0.95, True)],
)
def test_labels_are_the_families_of_the_models_likely_tokens(
    tmp_path: Path,
    tiny_model_path: Path,
    learn: Callable[..., Trained],
    spy: Spy,
    texts: list[Text],
    norm: str,
    top_k: int,
    top_p: float,
    soft: bool,
) -> None:
    options = dataclasses.replace(OPTIONS, norm=norm, top_k=top_k, top_p=top_p, soft=soft, passes=1)
    learn(tmp_path / "g.gguf", options)
    finder = Finder(texts)
    norms = training_data.norms_of(tiny_model_path, norm)
    families = token_families(read_base_model(tiny_model_path).vocab, "default")
    n = n_compared = 0
    for update in spy.updates:
        for where, found in zip(finder.find(update.hidden), update.labels):
            i, position = where[0]
            wanted, margin = training_data.label(texts[i].logits[position], norms, families, top_k, top_p, soft)
            n += 1
            # the logits are those of another batch: as far off as the tolerance of the teacher's own test
            if margin > 100 * CLOSE:
                n_compared += 1
                np.testing.assert_allclose(found, wanted, atol=2e-3)
    assert n_compared > 0.9 * n > 100


@pytest.mark.parametrize("soft", [False, True])
def test_labels_hold_what_the_text_writes(
    tmp_path: Path, tiny_model_path: Path, learn: Callable[..., Trained], spy: Spy, texts: list[Text], soft: bool
) -> None:
    learn(tmp_path / "likely.gguf", dataclasses.replace(OPTIONS, passes=1, soft=soft))
    likely = [update.labels for update in spy.updates]
    spy.updates.clear()
    learn(tmp_path / "written.gguf", dataclasses.replace(OPTIONS, passes=1, soft=soft, label_scripts="written"))
    gate = Gate.load(tmp_path / "written.gguf")
    families, symbols = gate.token_families, gate.families.neutral  # choices such as A are symbols
    finder, n_fewer, n_more = Finder(texts), 0, 0
    for update, before in zip(spy.updates, likely):
        for where, found, was in zip(finder.find(update.hidden), update.labels, before):
            if len(where) > 1:
                continue
            ((i, position),) = where
            tokens, is_reply = texts[i].tokens, texts[i].is_reply
            written = {
                int(families[token])
                for p, token in enumerate(tokens)
                if p > 0 and len(set(is_reply[min(p, position + 1) : max(p, position + 1) + 1])) == 1
            }
            wanted = [value if f in written or f == symbols else 0 for f, value in enumerate(was)]
            if not soft:
                wanted[families[tokens[position + 1]]] = 1
            n_fewer += any(wanted < was)
            n_more += any(wanted > was)
            np.testing.assert_array_equal(found, wanted)
    assert n_fewer > 20
    assert soft or n_more > 20
    assert metadata_of(tmp_path / "written.gguf")["label_scripts"] == "written"


def plain_families(path: Path) -> FamilySet:
    """The families of the rule set `scripts` that the tiny model has."""
    return family_set("scripts", read_base_model(path).vocab)


def test_labels_of_scripts_hold_what_is_plausible_nearby(
    tmp_path: Path, tiny_model_path: Path, learn: Callable[..., Trained], spy: Spy, texts: list[Text]
) -> None:
    options = dataclasses.replace(OPTIONS, rules="scripts", window=3, passes=1)
    learn(tmp_path / "g.gguf", options, engine=Engine(n_batch=8, n_threads=1))  # texts span several evaluations
    names = plain_families(tiny_model_path).names
    siblings = [f for f, name in enumerate(names) if name in ("kana", "han")]
    assert len(siblings) == 2, "the tiny vocabulary has few Han tokens, so that all are `han`"
    norms = training_data.norms_of(tiny_model_path, "relative")
    families = token_families(read_base_model(tiny_model_path).vocab, "scripts")
    single = [
        [training_data.label(row, norms, families, options.top_k, options.top_p, False) for row in text.logits]
        for text in texts
    ]
    finder = Finder(texts)
    n = n_compared = n_widened = 0
    for update in spy.updates:
        for where, found in zip(finder.find(update.hidden), update.labels):
            n += 1
            if len(where) > 1:
                continue
            ((i, position),) = where
            replies = texts[i].is_reply
            near = [
                p
                for p in range(max(position - 3, 0), min(position + 4, len(replies) - 1))
                if len(set(replies[min(p, position) + 1 : max(p, position) + 2])) == 1
            ]
            if min(single[i][p][1] for p in near) <= 100 * CLOSE:
                continue
            n_compared += 1
            wanted = single[i][position][0].copy()
            for f in siblings:
                wanted[f] = max(single[i][p][0][f] for p in near)
            kana, han = (names.index(name) for name in ("kana", "han"))
            wanted[han] = max(wanted[han], wanted[kana])
            n_widened += not np.array_equal(wanted, single[i][position][0])
            np.testing.assert_array_equal(found, wanted)
    assert n_compared > 0.5 * n
    assert n_widened > 0.1 * n_compared


def test_families_that_few_labels_held_are_never_masked(
    tmp_path: Path,
    tiny_model_path: Path,
    learn: Callable[..., Trained],
    spy: Spy,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    told: list[str] = []
    monkeypatch.setattr("lcg_cpp.train.trainer._LEAST_POSITIVES", 3)
    options = dataclasses.replace(OPTIONS, rules="scripts", top_k=1, n_tokens=1)  # a group of two texts
    run = learn(tmp_path / "g.gguf", options, on_notice=told.append).run
    families = plain_families(tiny_model_path)
    counts = np.concatenate([update.labels for update in spy.updates]).sum(0).astype(int) // OPTIONS.passes
    unseen = [name for name, may, n in zip(families.names, families.maskable, counts) if may and n < 3]
    assert {0, 1, 2} & set(counts.tolist()) > {0}
    assert 0 < len(unseen) < len(families) - 1
    maskable = dict(zip(families.names, Gate.load(tmp_path / "g.gguf").families.maskable))
    assert maskable == {name: name not in (*unseen, "symbols") for name in families.names}
    assert told[1:] == [f"the gate never masks {', '.join(unseen)}: the texts gave it too little to learn of them"]
    assert metadata_of(tmp_path / "g.gguf")["never_masked"] == ", ".join(unseen)
    assert run.positives == counts.tolist()


def test_a_converted_gate_spares_the_same_families(tiny_model_path: Path) -> None:
    spec = spec_for(read_base_model(tiny_model_path), n_hidden=0, train={"never_masked": "cj, lowres"})
    assert spec.families.maskable == (False, True, False, False)


def test_windows_are_recorded_where_there_are_any(tmp_path: Path, learn: Callable[..., Trained]) -> None:
    learn(tmp_path / "four.gguf", dataclasses.replace(OPTIONS, n_tokens=1))
    assert "label_window" not in metadata_of(tmp_path / "four.gguf")
    learn(tmp_path / "many.gguf", dataclasses.replace(OPTIONS, n_tokens=1, rules="scripts", window=7))
    assert metadata_of(tmp_path / "many.gguf")["label_window"] == 7


def test_states_of_a_group_are_dealt_out_anew_in_each_pass(
    tmp_path: Path, learn: Callable[..., Trained], spy: Spy
) -> None:
    learn(tmp_path / "g.gguf", dataclasses.replace(OPTIONS, passes=3, held_out=0.5))
    assert all(len(update.hidden) == len(update.labels) > 0 for update in spy.updates)
    # two texts a group: 12 texts make 6 groups, and a step knows the progress of the groups before
    progress = sorted({update.progress for update in spy.updates})
    assert progress == pytest.approx([i / 6 for i in range(6)])
    n_dealt = 0
    for share in progress:
        steps = [frozenset(row.tobytes() for row in step.hidden) for step in spy.updates if step.progress == share]
        n_steps = len(steps) // 3
        n_states = sum(len(update.hidden) for update in spy.updates if update.progress == share) / 3
        assert n_steps == max(1, round(n_states / 64))
        passes = [set(steps[begin : begin + n_steps]) for begin in (0, n_steps, 2 * n_steps)]
        assert len({frozenset().union(*steps_of) for steps_of in passes}) == 1  # the same states
        if n_steps > 1:
            assert not passes[0] & passes[1]
            assert not passes[1] & passes[2]
            n_dealt += 1
    assert n_dealt


def test_loss_falls_and_is_that_of_the_learner(tmp_path: Path, learn: Callable[..., Trained], spy: Spy) -> None:
    options = dataclasses.replace(OPTIONS, n_tokens=10_000, warmup=0, schedule="constant", learning_rate=0.01)
    run = learn(tmp_path / "g.gguf", options).run
    assert run.losses[0] == pytest.approx(math.log(2), abs=0.1)
    assert np.mean(run.losses[-5:]) < 0.6 * run.losses[0]
    first, *_, last = run.measurements
    assert last.scores.loss < first.scores.loss
    assert (first.progress, first.tokens, first.step) == (0, 0, 0)
    assert (last.progress, last.tokens, last.step) == (1, run.tokens, len(spy.updates))


# ---- budgets ----


def test_without_a_budget_every_text_is_read_once(tmp_path: Path, learn: Callable[..., Trained]) -> None:
    run = learn(tmp_path / "g.gguf").run
    assert (run.epoch, run.texts, run.progress) == (0, 19, 1.0)
    assert len(run.losses) == run.group == 10  # two texts a group


def test_larger_budget_than_the_data_repeats_it(tmp_path: Path, learn: Callable[..., Trained]) -> None:
    once = learn(tmp_path / "once.gguf").run
    options = dataclasses.replace(OPTIONS, n_tokens=3 * once.tokens + 1)
    run = learn(tmp_path / "g.gguf", options).run
    assert run.epoch == 3
    assert run.progress == 1.0
    assert 0 <= run.tokens - options.n_tokens < 200  # a group more than asked for at most
    assert run.texts == 3 * once.texts + 2


def test_budget_of_one_token_learns_from_one_text(tmp_path: Path, learn: Callable[..., Trained]) -> None:
    trained = learn(tmp_path / "g.gguf", dataclasses.replace(OPTIONS, n_tokens=1))
    assert trained.finished
    assert (trained.run.texts, len(trained.run.losses), trained.run.progress) == (1, 1, 1.0)
    Gate.load(tmp_path / "g.gguf")


def test_a_run_ends_when_its_time_is_up(
    tmp_path: Path, learn: Callable[..., Trained], monkeypatch: pytest.MonkeyPatch
) -> None:
    seconds = itertools.count()
    monkeypatch.setattr("time.monotonic", lambda: float(next(seconds)))  # every look at the clock takes a second
    told: list[str] = []
    found = learn(tmp_path / "g.gguf", dataclasses.replace(OPTIONS, minutes=10 / 60), on_notice=told.append)
    # one held-out text is all that a tenth of 10 s allows; with it the evaluation took 4 s, choosing texts and each
    # group takes 1; a group has one text, because a second one would take more than 2 % of the time
    assert found.finished
    assert (found.run.seconds, len(found.run.losses), found.run.progress) == (10, 5, 1.0)
    assert (found.run.texts, found.run.group_size) == (5, 1)
    assert 0 < found.run.measurements[0].scores.positions < 256
    estimate = r"evaluating about [\d,]+ of [\d,]+ tokens takes about [\d.]+ s at \d+ tokens/s"
    assert re.fullmatch(f"{estimate}, every script's share of them", told[0])


def test_texts_that_end_before_the_time_is_up_end_the_run(tmp_path: Path, learn: Callable[..., Trained]) -> None:
    limited = learn(tmp_path / "g.gguf", dataclasses.replace(OPTIONS, minutes=1000.0)).run
    free = learn(tmp_path / "free.gguf").run
    assert (limited.texts, limited.losses) == (free.texts, free.losses)


class Rows:
    """So many rows of a dataset with a weight."""

    is_measured = True

    def __init__(self, n: int, weight: float = 1.0) -> None:
        self._n, self.weight = n, weight

    def __len__(self) -> int:
        return self._n


def test_rows_come_as_often_in_a_round_as_their_weight_says() -> None:
    data: Any = [Rows(40, 3.0), Rows(1000, 0.25), Rows(20)]
    order = Texts(data, TrainOptions(held_out=0.0))
    assert len(order) == 3 * 40 + 250 + 20
    rounds = [np.bincount(order.epoch(number), minlength=1060) for number in range(40)]
    for times in rounds:
        assert times[:40].tolist() == [3] * 40
        assert set(times[40:1040].tolist()) == {0, 1}
        assert times[1040:].tolist() == [1] * 20
    assert np.mean([times[40:1040].mean() for times in rounds]) == pytest.approx(0.25, abs=0.01)
    assert not np.array_equal(rounds[0], rounds[1])  # others come in the next round
    assert order.epoch(7).tolist() == Texts(data, TrainOptions(held_out=0.0)).epoch(7).tolist()


@pytest.mark.parametrize(
    ("source", "name", "weight"),
    [
        ("chats.jsonl", "chats.jsonl", 1.0),
        ("chats.jsonl:2", "chats.jsonl", 2.0),
        ("hf:name:config:train:0.5", "hf:name:config:train", 0.5),
        ("hf:name:config", "hf:name:config", 1.0),
        ("C:\\chats.jsonl", "C:\\chats.jsonl", 1.0),
        ("there:2", "there:2", 1.0),
    ],
)
def test_a_dataset_may_be_named_with_a_weight(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, source: str, name: str, weight: float
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "there:2").touch()  # a file's own name goes before
    assert weighted(source) == (name, weight)


def test_a_weight_of_nothing_is_refused() -> None:
    with pytest.raises(GateError, match=r"^chats:0: has the weight 0, expected more$"):
        weighted("chats:0")


def test_weights_are_recorded_and_learned_with(
    tmp_path: Path, learn: Callable[..., Trained], tiny_model_path: Path, data: str
) -> None:
    weighty = train(tiny_model_path, [f"{data}:2"], tmp_path / "g.gguf", OPTIONS, engine=ENGINE).run
    once = learn(tmp_path / "once.gguf").run
    assert (weighty.texts, weighty.tokens) == (2 * once.texts, 2 * once.tokens)
    assert metadata_of(tmp_path / "g.gguf")["data"] == f"chats.jsonl ({N_ROWS} texts, weight 2)"


def test_rounds_have_other_orders_of_the_same_texts() -> None:
    order = Texts([Rows(7), Rows(30)], TrainOptions(held_out=0.1, seed=3))  # type: ignore[list-item]
    assert len(order.held_out) == 4  # of 37
    assert len(order) == 33
    first, second = order.epoch(0), order.epoch(1)
    assert sorted([*first, *order.held_out]) == list(range(37))
    assert sorted(first) == sorted(second)
    assert first.tolist() != second.tolist()
    again = Texts([Rows(7), Rows(30)], TrainOptions(held_out=0.1, seed=3))  # type: ignore[list-item]
    assert again.epoch(1).tolist() == second.tolist()
    other = Texts([Rows(7), Rows(30)], TrainOptions(held_out=0.1, seed=4))  # type: ignore[list-item]
    assert other.epoch(0).tolist() != first.tolist()
    assert sorted(other.held_out) != sorted(order.held_out)


def test_held_out_texts_come_in_turns_of_their_kinds_and_rare_kinds_are_learned_from() -> None:
    order = Texts([Rows(200)], TrainOptions(held_out=0.04, seed=3))  # type: ignore[list-item]
    drawn = order.held_out.tolist()
    assert len(drawn) == 8  # of 200, whatever they are
    kinds = ["common"] * 170 + ["seldom"] * 20 + ["rare"] * 2 + [None] * 8
    order.hold_out(lambda row: kinds[row])
    held_out = order.held_out.tolist()
    counts = Counter(kinds[row] for row in held_out)
    # 64 texts are looked at, some 7 of the seldom kind and 1 of the rare one: a fifth of the first, none of the other
    assert set(counts) == {"common", "seldom"}
    assert counts["seldom"] in (1, 2)
    assert len(held_out) == 8
    assert [kinds[row] for row in held_out][:2] in (["common", "seldom"], ["seldom", "common"])
    assert sorted([*order.epoch(0), *held_out]) == list(range(200))
    order.hold_out(lambda row: row)  # every text is of its own kind
    assert order.held_out.tolist() == held_out


def test_where_much_is_held_out_it_is_so_much_of_every_kind() -> None:
    order = Texts([Rows(40)], TrainOptions(held_out=0.5))  # type: ignore[list-item]
    order.hold_out(lambda row: row % 4 == 0)
    assert Counter(row % 4 == 0 for row in order.held_out.tolist()) == {False: 15, True: 5}


# ---- data ----


def test_data_of_one_row_is_learned_from_and_measured_on(
    tmp_path: Path, tiny_model_path: Path, rows: list[dict[str, str]]
) -> None:
    data = write_rows(tmp_path / "one.jsonl", rows[:1])
    trained = train(tiny_model_path, [data], tmp_path / "g.gguf", OPTIONS, engine=ENGINE)
    assert trained.run.texts == 1
    assert trained.run.measurements[-1].scores.positions > 0
    Gate.load(tmp_path / "g.gguf")


def test_rows_that_cannot_be_read_are_counted_and_told(
    tmp_path: Path, tiny_model_path: Path, rows: list[dict[str, str]]
) -> None:
    bad = write_rows(tmp_path / "some.jsonl", [rows[0], {"x": 1}, rows[1], 5])
    good = write_rows(tmp_path / "more.jsonl", rows[2:])
    told: list[str] = []
    trained = train(tiny_model_path, [bad, good], tmp_path / "g.gguf", OPTIONS, engine=ENGINE, on_notice=told.append)
    assert trained.bad_rows == 2
    assert trained.run.texts == 19
    assert any(f"{bad}:2: " in line for line in told), told
    assert all("\n" not in line for line in told)


@pytest.fixture
def silent_model(tmp_path: Path, tiny_model_path: Path) -> Path:
    """The tiny model with a chat template that does not show what is said."""
    shown, hidden = b"message['content']", b"''                "
    content = tiny_model_path.read_bytes()
    assert content.count(shown) == 1
    path = tmp_path / "silent.gguf"
    path.write_bytes(content.replace(shown, hidden))
    return path


def test_texts_that_the_template_refuses_are_counted_and_told(
    tmp_path: Path, silent_model: Path, rows: list[dict[str, str]]
) -> None:
    plain = [{"text": f"the city {row['response']}"} for row in rows]
    data = write_rows(tmp_path / "mixed.jsonl", [*plain, rows[0], rows[1]])
    told: list[str] = []
    trained = train(
        silent_model,
        [data],
        tmp_path / "g.gguf",
        dataclasses.replace(OPTIONS, held_out=0.0),
        engine=ENGINE,
        on_notice=told.append,
    )
    assert (trained.run.texts, trained.run.skipped) == (N_ROWS, 2)
    assert told[1:] == ["2 texts are left out: the model's chat template does not show the reply as it is"]


def test_texts_that_are_all_refused_are_an_error_that_says_why(tmp_path: Path, silent_model: Path, data: str) -> None:
    with pytest.raises(GateError, match=r"none of the 5 held-out texts .* template does not show the reply as it is"):
        train(silent_model, [data], tmp_path / "g.gguf", OPTIONS, engine=ENGINE)


@pytest.mark.parametrize("bad_rows", [[{"x": 1}, [], "text"], []])
def test_data_without_a_row_is_refused(tmp_path: Path, tiny_model_path: Path, bad_rows: list[Any]) -> None:
    data = write_rows(tmp_path / "bad.jsonl", bad_rows)
    with pytest.raises(GateError, match=f"^{data}"):
        train(tiny_model_path, [data], tmp_path / "g.gguf", OPTIONS, engine=ENGINE)
    assert files_in(tmp_path) == ["bad.jsonl"]


def test_no_data_is_refused(tmp_path: Path, tiny_model_path: Path) -> None:
    with pytest.raises(GateError, match="`data`"):
        train(tiny_model_path, [], tmp_path / "g.gguf", OPTIONS, engine=ENGINE)


def test_missing_data_is_refused_before_the_model_is_loaded(tmp_path: Path) -> None:
    with pytest.raises(OSError, match=r"none\.jsonl"):
        train("no model", [str(tmp_path / "none.jsonl")], tmp_path / "g.gguf", OPTIONS, engine=ENGINE)


def test_texts_longer_than_the_context_are_cut(
    tmp_path: Path, learn: Callable[..., Trained], texts: list[Text]
) -> None:
    shortest = min(len(text.tokens) for text in texts)
    run = learn(tmp_path / "g.gguf", dataclasses.replace(OPTIONS, n_ctx=shortest)).run
    assert run.tokens == shortest * run.texts > 0
    assert run.positions == (shortest - 1) * run.texts


def test_texts_longer_than_the_model_was_trained_for_are_cut(tmp_path: Path, tiny_model_path: Path) -> None:
    data = write_rows(tmp_path / "long.jsonl", [{"text": f"{i} " * 2000} for i in (1, 2, 3)])
    options = dataclasses.replace(OPTIONS, n_ctx=4096)  # one of the texts is held out
    run = train(tiny_model_path, [data], tmp_path / "g.gguf", options, engine=ENGINE).run
    assert (run.texts, run.tokens) == (2, 2 * tiny_model.N_CTX_TRAIN)


def test_replies_that_are_cut_off_leave_nothing_to_measure(tmp_path: Path, learn: Callable[..., Trained]) -> None:
    with pytest.raises(GateError, match="held-out texts has a reply to measure on"):
        learn(tmp_path / "g.gguf", dataclasses.replace(OPTIONS, n_ctx=10))


def test_held_out_positions_know_their_texts(
    tmp_path: Path, learn: Callable[..., Trained], texts: list[Text], monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[HeldOut] = []
    held_out = Evaluator.held_out

    def noting(self: Evaluator) -> HeldOut:
        seen.append(held_out(self))
        return seen[-1]

    monkeypatch.setattr(Evaluator, "held_out", noting)
    learn(tmp_path / "g.gguf")
    (found,) = seen
    replies = [[text.tokens[i + 1] for i in text.learned("reply")] for text in texts]
    assert set(found.text.tolist()) == set(range(OPTIONS.n_held_out(N_ROWS)))
    for text in set(found.text.tolist()):
        assert found.following[found.text == text].tolist() in replies


# ---- what comes of it ----


def test_same_settings_give_the_same_gate(tmp_path: Path, learn: Callable[..., Trained]) -> None:
    gates = [tmp_path / f"{name}.gguf" for name in "ab"]
    for gate in gates:
        learn(gate)
    assert gates[0].read_bytes() == gates[1].read_bytes()
    learn(tmp_path / "c.gguf", dataclasses.replace(OPTIONS, seed=1))
    assert (tmp_path / "c.gguf").read_bytes() != gates[0].read_bytes()


@pytest.mark.parametrize("n_hidden", [0, 8, None])
def test_gate_file_holds_what_was_learned(
    tmp_path: Path, learn: Callable[..., Trained], texts: list[Text], n_hidden: int | None
) -> None:
    trained = learn(tmp_path / "g.gguf", dataclasses.replace(OPTIONS, n_hidden=n_hidden), outtype="f32")
    gate = Gate.load(tmp_path / "g.gguf")
    assert (gate.n_embd, gate.n_hidden) == (64, 64 if n_hidden is None else n_hidden)
    hidden = texts[0].hidden
    wanted = hidden
    if n_hidden != 0:
        wanted = np.maximum(hidden @ trained.weights["lcg.fc1.weight"].T, 0)
    np.testing.assert_allclose(gate.predict(hidden), wanted @ trained.weights["lcg.fc2.weight"].T, atol=1e-4)


def test_gate_file_says_how_it_was_made(tmp_path: Path, tiny_model_path: Path, learn: Callable[..., Trained]) -> None:
    options = dataclasses.replace(OPTIONS, seed=11, positions="reply", learning_rate=0.015625)
    trained = learn(tmp_path / "g.gguf", options, name="my gate", license="cc0-1.0")
    run, scores = trained.run, trained.run.measurements[-1].scores
    whole = Gate.load(tmp_path / "g.gguf").metadata
    assert (whole["general.name"], whole["general.license"]) == ("my gate", "cc0-1.0")
    assert whole["general.base_model.0.name"] == "tiny"
    assert whole["general.dataset.0.name"] == "chats.jsonl"  # without the folder
    assert whole["adapter.lcg.tokenizer_hash"] == read_base_model(tiny_model_path).vocab.tokenizer_hash
    found = metadata_of(tmp_path / "g.gguf")
    wanted = {
        "base_file_type": "all F32",
        "data": f"chats.jsonl ({N_ROWS} texts)",
        "texts": 19,
        "tokens": run.tokens,
        "positions": run.positions,
        "label_top_k": 5,
        "label_top_p": 0.9,
        "label_norm": "relative",
        "label_soft": False,
        "learned_positions": "reply",
        "learning_rate": 0.015625,
        "schedule": "linear",
        "batch": 64,
        "passes": 2,
        "max_missed": 0.001,
        "seed": 11,
        "progress": 1.0,
        "loss": run.losses[-1],
        "held_out.positions": scores.positions,
        "held_out.loss": scores.loss,
        "held_out.intervene": scores.intervene,
        "held_out.contradict": scores.contradict,
    }
    for name, score in scores.families.items():
        for what in ("precision", "recall"):
            value = getattr(score, what)
            if not math.isnan(value):
                wanted[f"held_out.{name}.{what}"] = value
    for key, value in wanted.items():
        assert found[key] == (pytest.approx(value, rel=1e-6) if isinstance(value, float) else value), key
    assert not any(isinstance(value, float) and math.isnan(value) for value in found.values())
    usual, first = zip(*((score.threshold, score.first_threshold) for score in scores.families.values()))
    assert Gate.load(tmp_path / "g.gguf").thresholds == Thresholds(usual, first)


def test_base_model_is_only_read(tmp_path: Path, tiny_model_path: Path, learn: Callable[..., Trained]) -> None:
    before = hashlib.sha256(tiny_model_path.read_bytes()).hexdigest()
    learn(tmp_path / "g.gguf")
    assert hashlib.sha256(tiny_model_path.read_bytes()).hexdigest() == before


@pytest.mark.parametrize("link", [False, True])
def test_gate_is_never_written_over_the_base_model(
    tmp_path: Path, tiny_model_path: Path, data: str, link: bool
) -> None:
    model = tmp_path / "model.gguf"
    model.write_bytes(tiny_model_path.read_bytes())
    output = tmp_path / "gate.gguf" if link else model
    if link:
        os.link(model, output)
    with pytest.raises(GateError, match=f"^{output}: is the model or the data"):
        train(model, [data], output, OPTIONS, engine=ENGINE)
    assert output.read_bytes() == tiny_model_path.read_bytes()


@pytest.fixture
def with_report() -> None:
    """For tests that want the report to be written."""


@pytest.mark.usefixtures("with_report")
def test_files_beside_the_gate(tmp_path: Path, learn: Callable[..., Trained]) -> None:
    learn(tmp_path / "lcg-tiny-0.6B-F16.gguf")
    assert files_in(tmp_path) == [f"lcg-tiny-0.6B-F16{suffix}" for suffix in (".gguf", ".html", ".svg")]
    page = (tmp_path / "lcg-tiny-0.6B-F16.html").read_text("utf-8")
    assert "LCG for tiny" in page
    assert "<svg" in page
    assert "chats.jsonl" in page


@pytest.mark.usefixtures("with_report")
def test_report_that_cannot_be_written_costs_no_gate(tmp_path: Path, learn: Callable[..., Trained]) -> None:
    (tmp_path / "g.html").mkdir()
    told: list[str] = []
    assert learn(tmp_path / "g.gguf", on_notice=told.append).finished
    Gate.load(tmp_path / "g.gguf")
    assert any("report" in line for line in told)


def test_paper_preset_trains(tmp_path: Path, learn: Callable[..., Trained]) -> None:
    learn(tmp_path / "g.gguf", dataclasses.replace(PAPER_TRAINING, batch=64, held_out=0.2))
    found = metadata_of(tmp_path / "g.gguf")
    assert Gate.load(tmp_path / "g.gguf").n_hidden == 64
    assert (found["label_top_k"], found["label_norm"]) == (20, "token")
    assert not {"adapter.lcg.thresholds", "adapter.lcg.first_thresholds"} & {*Gate.load(tmp_path / "g.gguf").metadata}
    assert Gate.load(tmp_path / "g.gguf").thresholds == Thresholds((0.5,) * 4)
    assert found["label_top_p"] == pytest.approx(0.95)
    assert found["learning_rate"] == pytest.approx(2e-5)


def test_demo_model_trains(tmp_path: Path) -> None:
    asked = [
        {"prompt": f"{name}\n{to}:", "response": f" {answer}"}
        for name, answers in (("Japan", ("日本", "اليابان", "일본")), ("Friday", ("星期五", "الجمعة", "금요일")))
        for to, answer in zip(("Chinese", "Arabic", "Korean"), answers)
    ]
    data = write_rows(tmp_path / "names.jsonl", asked)
    options = dataclasses.replace(OPTIONS, n_tokens=600)
    for name in "ab":
        assert train(DEMO, [data], tmp_path / f"{name}.gguf", options, engine=ENGINE).finished
    assert (tmp_path / "a.gguf").read_bytes() == (tmp_path / "b.gguf").read_bytes()
    assert Gate.load(tmp_path / "a.gguf").n_vocab == len(read_base_model(DEMO).vocab.tokens)


# ---- stopping and going on ----

LONG = dataclasses.replace(OPTIONS, n_tokens=2600, schedule="cosine")  # two rounds and a part of the third


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory, tiny_model_path: Path, data: str) -> tuple[Run, bytes]:
    """The long run, never stopped, and its gate file."""
    path = tmp_path_factory.mktemp("whole") / "g.gguf"
    write, train_report.write_report = train_report.write_report, lambda *_: None
    try:
        run = train(tiny_model_path, [data], path, LONG, engine=ENGINE, outtype="f32").run
    finally:
        train_report.write_report = write
    return run, path.read_bytes()


def test_long_run_has_several_rounds(uninterrupted: tuple[Run, bytes]) -> None:
    run, _ = uninterrupted
    assert run.epoch >= 2
    assert run.group > 0


def same_run(found: Run, wanted: Run) -> None:
    """Compares all but the time it took."""
    assert dataclasses.replace(found, seconds=0.0) == dataclasses.replace(wanted, seconds=0.0)


@pytest.mark.parametrize("groups", [1, 5, 9, 10, 11, 20, 24])
def test_run_that_was_stopped_goes_on_to_the_same_gate(
    tmp_path: Path, learn: Callable[..., Trained], uninterrupted: tuple[Run, bytes], groups: int
) -> None:
    output = tmp_path / "g.gguf"
    stop = Stop(groups=groups)
    first = learn(output, LONG, outtype="f32", should_stop=stop.asked, on_progress=stop.progress)
    assert not first.finished
    assert len(first.run.losses) == groups
    assert files_in(tmp_path) == ["g.gguf", "g.unfinished.safetensors"]
    assert Gate.load(output).n_hidden == 8
    assert metadata_of(output)["progress"] == pytest.approx(first.run.progress)
    second = learn(output, LONG, outtype="f32", resume=True)
    assert second.finished
    same_run(second.run, uninterrupted[0])
    assert second.run.seconds > first.run.seconds
    assert output.read_bytes() == uninterrupted[1]
    assert files_in(tmp_path) == ["g.gguf"]


def test_stopped_run_with_a_family_for_each_script_goes_on_to_the_same_gate(
    tmp_path: Path, learn: Callable[..., Trained]
) -> None:
    options = dataclasses.replace(LONG, rules="scripts")
    learn(tmp_path / "whole.gguf", options, outtype="f32")
    stop = Stop(groups=9)
    assert not learn(
        tmp_path / "parts.gguf", options, outtype="f32", should_stop=stop.asked, on_progress=stop.progress
    ).finished
    assert learn(tmp_path / "parts.gguf", options, outtype="f32", resume=True).finished
    assert (tmp_path / "parts.gguf").read_bytes() == (tmp_path / "whole.gguf").read_bytes()
    assert "kana" in Gate.load(tmp_path / "parts.gguf").families.names


@pytest.mark.parametrize("evaluations", [0, 1, 2, 7])
def test_run_that_was_stopped_within_groups_goes_on_to_the_same_gate(
    tmp_path: Path, learn: Callable[..., Trained], uninterrupted: tuple[Run, bytes], evaluations: int
) -> None:
    output = tmp_path / "g.gguf"
    n_held_out = 10
    engine = dataclasses.replace(ENGINE, n_batch=64)
    n_stops = 0
    while True:
        stop = Stop(evaluations=n_held_out + evaluations)
        trained = learn(output, LONG, outtype="f32", engine=engine, should_stop=stop.asked, resume=n_stops > 0)
        if trained.finished:
            break
        Gate.load(output)
        n_stops += 1
        if evaluations < 4 or n_stops > 4:  # too short for a group: it would never end
            evaluations = 10_000
    assert n_stops > 0
    same_run(trained.run, uninterrupted[0])
    assert output.read_bytes() == uninterrupted[1]


def test_run_that_was_killed_goes_on_from_where_it_was_saved(
    tmp_path: Path,
    learn: Callable[..., Trained],
    uninterrupted: tuple[Run, bytes],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(saved_run, "_SECONDS", 0.0)  # due after every group
    n_groups = 0

    def die(run: Run) -> None:
        nonlocal n_groups
        n_groups += 1
        if n_groups == 7:  # before the run was saved after this group
            raise RuntimeError("killed")

    output = tmp_path / "g.gguf"
    with pytest.raises(RuntimeError, match="killed"):
        learn(output, LONG, outtype="f32", on_progress=die)
    assert files_in(tmp_path) == ["g.unfinished.safetensors"]
    begun: list[int] = []
    trained = learn(output, LONG, outtype="f32", resume=True, on_progress=lambda run: begun.append(len(run.losses)))
    assert begun[0] == 7
    same_run(trained.run, uninterrupted[0])
    assert output.read_bytes() == uninterrupted[1]


def test_stop_before_the_first_group_leaves_no_gate(tmp_path: Path, learn: Callable[..., Trained]) -> None:
    with pytest.raises(KeyboardInterrupt):
        learn(tmp_path / "g.gguf", should_stop=lambda: True)
    assert files_in(tmp_path) == []


def test_earlier_gate_stays_until_the_new_one_is_whole(
    tmp_path: Path, learn: Callable[..., Trained], monkeypatch: pytest.MonkeyPatch
) -> None:
    output = tmp_path / "g.gguf"
    output.write_bytes(b"an earlier gate")
    with pytest.raises(GateError, match="diverged"):
        learn(output, DIVERGING)
    assert output.read_bytes() == b"an earlier gate"
    assert files_in(tmp_path) == ["g.gguf"]


DIVERGING = dataclasses.replace(OPTIONS, learning_rate=1e6, weight_decay=1e6, warmup=0, schedule="constant")


def test_divergence_is_an_error_that_says_what_helps(tmp_path: Path, learn: Callable[..., Trained]) -> None:
    with pytest.raises(GateError, match=r"diverged after \d+ tokens.*a lower learning rate helps \(was 1e\+06\)"):
        learn(tmp_path / "g.gguf", DIVERGING)
    assert files_in(tmp_path) == []


# ---- saved runs ----


@pytest.fixture
def stopped(tmp_path: Path, learn: Callable[..., Trained]) -> Path:
    """The gate of a run that was stopped after three groups; the saved run is beside it."""
    stop = Stop(groups=3)
    learn(tmp_path / "g.gguf", should_stop=stop.asked, on_progress=stop.progress)
    return tmp_path / "g.gguf"


def test_unfinished_run_is_not_begun_anew(stopped: Path, learn: Callable[..., Trained]) -> None:
    checkpoint = saved_run_path(stopped)
    before = checkpoint.read_bytes()
    with pytest.raises(GateError) as refused:
        learn(stopped)
    assert str(refused.value) == f"{checkpoint}: an unfinished run; --resume goes on with it, delete it to begin anew"
    assert checkpoint.read_bytes() == before


def test_nothing_to_resume_is_refused(tmp_path: Path, learn: Callable[..., Trained]) -> None:
    with pytest.raises(GateError, match=r"g\.unfinished\.safetensors: does not exist, there is nothing to resume"):
        learn(tmp_path / "g.gguf", resume=True)


@pytest.mark.parametrize(
    ("field", "value", "said"),
    [
        ("n_hidden", 4, "`n_hidden` 8, this one has 4"),
        ("seed", 5, "`seed` 0, this one has 5"),
        ("top_p", 0.8, "`top_p` 0.9, this one has 0.8"),
        ("n_tokens", 999, "`n_tokens` None, this one has 999"),
        ("batch", 32, "`batch` 64, this one has 32"),
        ("positions", "reply", "`positions` 'all', this one has 'reply'"),
        ("held_out", 0.5, "`held_out` 0.2, this one has 0.5"),
    ],
)
def test_other_settings_are_refused_by_name(
    stopped: Path, learn: Callable[..., Trained], field: str, value: Any, said: str
) -> None:
    with pytest.raises(GateError) as refused:
        learn(stopped, dataclasses.replace(OPTIONS, **{field: value}), resume=True)
    assert str(refused.value).startswith(f"{saved_run_path(stopped)}: ")
    assert said in str(refused.value)
    Gate.load(stopped)  # nothing was touched


def test_other_data_or_model_is_refused_by_name(
    stopped: Path, tmp_path: Path, tiny_model_path: Path, data: str
) -> None:
    fewer = write_rows(tmp_path / "fewer.jsonl", chat_rows(9))
    with pytest.raises(GateError, match=r"`data`.*fewer"):
        train(tiny_model_path, [fewer], stopped, OPTIONS, engine=ENGINE, resume=True)
    with pytest.raises(GateError, match="`model` 'tiny', this one has 'tiny-names'"):
        train(DEMO, [data], stopped, OPTIONS, engine=ENGINE, resume=True)


def foreign(path: Path) -> None:
    """A safetensors file of somebody else's."""
    from safetensors.numpy import save_file

    save_file({"x": np.zeros(3, np.float32)}, path, {"format": "pt"})


@pytest.mark.parametrize(
    "damage",
    [
        pytest.param(lambda path: path.write_bytes(path.read_bytes()[:-7]), id="cut off"),
        pytest.param(lambda path: path.write_bytes(path.read_bytes()[:100]), id="cut in its header"),
        pytest.param(lambda path: path.write_bytes(b""), id="empty"),
        pytest.param(lambda path: path.write_bytes(b"\xff" * 4000), id="noise"),
        pytest.param(foreign, id="of another program"),
    ],
)
def test_file_that_holds_no_saved_run_is_refused(
    stopped: Path, learn: Callable[..., Trained], damage: Callable[[Path], None]
) -> None:
    checkpoint = saved_run_path(stopped)
    damage(checkpoint)
    with pytest.raises(GateError, match="holds no run saved by this lcg-cpp") as refused:
        learn(stopped, resume=True)
    assert str(refused.value).startswith(f"{checkpoint}: ")
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    "change",
    [
        pytest.param(lambda state: [], id="a list"),
        pytest.param(lambda state: {**state, "run": {**state["run"], "new": 1}}, id="a run with more"),
        pytest.param(lambda state: {"setting": state["setting"]}, id="no run"),
    ],
)
def test_run_saved_by_another_version_is_refused(
    stopped: Path, learn: Callable[..., Trained], change: Callable[[Mapping[str, Any]], Any]
) -> None:
    from safetensors import safe_open
    from safetensors.numpy import save_file

    checkpoint = saved_run_path(stopped)
    with safe_open(str(checkpoint), "numpy") as file:
        ((key, text),) = file.metadata().items()
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    save_file(tensors, checkpoint, {key: json.dumps(change(json.loads(text)))})
    with pytest.raises(GateError, match="holds no run saved by this lcg-cpp"):
        learn(stopped, resume=True)


def test_full_disk_loses_no_saved_run_and_does_not_stop_the_run(
    tmp_path: Path,
    learn: Callable[..., Trained],
    uninterrupted: tuple[Run, bytes],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(saved_run, "_SECONDS", 0.0)
    sync = os.fsync
    told: list[str] = []
    kept: list[bytes] = []
    checkpoint = tmp_path / "g.unfinished.safetensors"

    def full(file: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def watch(run: Run) -> None:
        kept.append(checkpoint.read_bytes() if checkpoint.exists() else b"")
        monkeypatch.setattr(os, "fsync", full if 3 <= len(kept) <= 5 else sync)

    trained = learn(tmp_path / "g.gguf", LONG, outtype="f32", on_progress=watch, on_notice=told.append)
    assert trained.finished
    assert (tmp_path / "g.gguf").read_bytes() == uninterrupted[1]
    assert told[1:] == [f"{checkpoint}: the run could not be saved (No space left on device); training goes on"] * 3
    # saved after groups 1 and 2, not after 3 to 5, and again from the 6th on
    assert kept[0] == b""
    assert kept[1] != kept[2] == kept[3] == kept[4] == kept[5] != kept[6]
    assert files_in(tmp_path) == ["g.gguf"]  # and no temporary file


def test_saved_runs_are_replaced_whole(
    tmp_path: Path, learn: Callable[..., Trained], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(saved_run, "_SECONDS", 0.0)
    checkpoint, earlier = tmp_path / "g.unfinished.safetensors", tmp_path / "earlier"
    seen: list[bytes] = []

    def watch(run: Run) -> None:
        if len(run.losses) == 2:  # there is one of the first group
            os.link(checkpoint, earlier)
        if len(run.losses) >= 2:
            seen.append(checkpoint.read_bytes())

    learn(tmp_path / "g.gguf", on_progress=watch)
    assert len(set(seen)) == 9
    assert earlier.read_bytes() == seen[0]  # the file itself was never written to again


def test_disk_that_is_full_at_the_end_is_an_error_and_the_saved_run_stays(
    tmp_path: Path, learn: Callable[..., Trained], uninterrupted: tuple[Run, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(saved_run, "_SECONDS", 0.0)
    sync = os.fsync

    def full(file: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def watch(run: Run) -> None:
        if run.progress >= 1.0:
            monkeypatch.setattr(os, "fsync", full)

    with pytest.raises(OSError, match=r"g\.gguf") as refused:
        learn(tmp_path / "g.gguf", LONG, outtype="f32", on_progress=watch)
    assert refused.value.errno == errno.ENOSPC
    assert files_in(tmp_path) == ["g.unfinished.safetensors"]
    monkeypatch.setattr(os, "fsync", sync)
    learn(tmp_path / "g.gguf", LONG, outtype="f32", resume=True)
    assert (tmp_path / "g.gguf").read_bytes() == uninterrupted[1]


# ---- where it is written ----


def test_folder_that_is_not_there_is_refused(tmp_path: Path, learn: Callable[..., Trained]) -> None:
    output = tmp_path / "none" / "g.gguf"
    with pytest.raises(GateError) as refused:
        learn(output)
    assert str(refused.value) == f"{output}: its folder does not exist"


def test_folder_given_as_the_gate_is_refused(tmp_path: Path, learn: Callable[..., Trained]) -> None:
    with pytest.raises(GateError, match=f"^{tmp_path}: is a folder, expected the gate file to write"):
        learn(tmp_path)


@pytest.mark.skipif(os.name == "nt" or os.geteuid() == 0, reason="nothing is read-only for this user")
def test_folder_that_is_read_only_is_refused(tmp_path: Path, learn: Callable[..., Trained]) -> None:
    folder = tmp_path / "read-only"
    folder.mkdir(mode=0o500)
    with pytest.raises(GateError, match="its folder cannot be written to"):
        learn(folder / "g.gguf")


@pytest.mark.parametrize("name", ["", "g.gguf"])
def test_missing_model_is_an_os_error(tmp_path: Path, data: str, name: str) -> None:
    with pytest.raises(OSError, match=r"No such file|directory"):
        train(tmp_path / "none" / name, [data], tmp_path / "g.gguf", OPTIONS, engine=ENGINE)


def test_gate_given_as_the_model_is_refused(tmp_path: Path, gate16: Path, data: str) -> None:
    with pytest.raises(GateError, match=f"^{gate16}: llama"):
        train(gate16, [data], tmp_path / "g.gguf", OPTIONS, engine=ENGINE)


def test_model_is_closed_again(tmp_path: Path, learn: Callable[..., Trained], monkeypatch: pytest.MonkeyPatch) -> None:
    closed = []
    close = Teacher.close
    monkeypatch.setattr(Teacher, "close", lambda self: (closed.append(1), close(self))[1])
    learn(tmp_path / "g.gguf")
    assert closed == [1]
    with pytest.raises(GateError):
        learn(tmp_path / "h.gguf", DIVERGING)
    assert closed == [1, 1]
