"""Budgets shared out between scripts: which texts are chosen, and what training and collecting make of it."""

from __future__ import annotations

import dataclasses
import itertools
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from lcg_cpp.data.balance import SHARES, balanced, in_turns, script_of  # noqa: E402
from lcg_cpp.engine.load import Engine  # noqa: E402
from lcg_cpp.train import report  # noqa: E402
from lcg_cpp.train.batches import Evaluator, Expected  # noqa: E402
from lcg_cpp.train.collect import Collected, collect  # noqa: E402
from lcg_cpp.train.options import TrainOptions  # noqa: E402
from lcg_cpp.train.train import Trained, estimate, train  # noqa: E402
from training_data import write_rows  # noqa: E402

OPTIONS = TrainOptions(
    n_hidden=8, label_scripts="likely", batch=64, n_ctx=256, held_out=0.1, passes=2, warmup=10, rules="default"
)
ENGINE = Engine(n_batch=64, n_threads=1)
WORDS = {"latin": "the name of the city", "cyrillic": "мир город мир", "thai": "ไทย ไทย"}


# ---- which texts ----


@pytest.mark.parametrize(
    ("text", "script"),
    [
        ("the name", "latin"),
        ("Schreibe `print()` für mich", "latin"),
        ("これは日本語の文です", "japanese"),
        ("東京都庁に行った", "japanese"),
        ("我们今天学习这个", "simplified"),
        ("我們今天學習這個", "traditional"),
        ("中文", "simplified"),  # nothing tells, so the more frequent one
        ("함수예요 def f(x): return x + 1", "hangul"),  # a fifth is enough beside code
        ("def f(x): return x + 1, so says the function which is called 함수", "latin"),
        ("мир שלום שלום", "hebrew"),  # the one with the most letters
        ("12 + 3 = 15", ""),
    ],
)
def test_the_script_of_a_text_is_that_which_it_is_written_in(text: str, script: str) -> None:
    assert script_of(text) == script


def test_every_script_gets_its_share_and_what_one_leaves_goes_to_the_others() -> None:
    scripts = ["latin"] * 10 + ["thai"] * 10 + ["lao"] * 2
    # 8 + 3 + 1 shares of 5 tokens
    assert balanced(scripts, [10] * 22, 60) == [0, 1, 2, 3, 10, 11, 20]
    # Lao has 20 of its 30; of the 340 that are left, Thai could have 92.7 and Latin 247, which has only 100: all
    assert balanced(scripts, [10] * 22, 360) == list(range(22))
    # Latin 100 of 8 * 25 and Lao 20 of 25; Thai the rest of 180
    assert balanced(scripts, [10] * 22, 180) == [*range(10), *range(10, 16), 20, 21]


def test_choices_are_those_of_an_independent_search_for_the_share() -> None:
    rng = np.random.default_rng(0)
    names = ["latin", "thai", "lao", "japanese", "khmer", ""]
    n_open = 0
    for _ in range(1500):
        n = int(rng.integers(1, 60))
        scripts = [names[i] for i in rng.integers(0, rng.integers(1, 7), n)]
        sizes = rng.integers(1, 50, n).tolist()
        budget = float(rng.uniform(1, 1.2 * sum(sizes)))
        totals = Counter[str]()
        for script, size in zip(scripts, sizes):
            totals[script] += size
        low, high = 0.0, 1e6  # by bisection, what a share is worth
        for _ in range(100):
            middle = (low + high) / 2
            used = sum(min(total, middle * SHARES.get(script, 1)) for script, total in totals.items())
            low, high = (middle, high) if used < budget else (low, middle)
        before, expected, is_open = Counter[str](), [], False
        for i, (script, size) in enumerate(zip(scripts, sizes)):
            limit = low * SHARES.get(script, 1)
            is_open = is_open or abs(before[script] - limit) < 1e-6
            if before[script] < limit:
                expected.append(i)
            before[script] += size
        if is_open:
            n_open += 1
            continue
        assert balanced(scripts, sizes, budget) == expected
    assert n_open < 30


def test_texts_in_turns_of_their_scripts_keep_their_order() -> None:
    assert in_turns(["a", "a", "b", "a", "c", "b"]) == [0, 2, 4, 1, 5, 3]


# ---- training ----


@pytest.fixture(autouse=True)
def no_report(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leaves the report out: drawing takes ten times as long as learning."""
    monkeypatch.setattr(report, "write_report", lambda *_: None)


@pytest.fixture(scope="module")
def rows() -> list[dict[str, str]]:
    """Plain texts, most of them Latin: 16 rows of a script behind each other."""
    order = [script for script in ("latin",) * 6 + ("cyrillic", "thai") for _ in range(16)]
    return [{"text": f"{WORDS[script]} {i}"} for i, script in enumerate(order)]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory, rows: list[dict[str, str]]) -> str:
    """The texts in a file."""
    return write_rows(tmp_path_factory.mktemp("data") / "texts.jsonl", rows)


@pytest.fixture
def learned(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The rows that are learned from, as they come."""
    seen: list[int] = []
    batch = Evaluator.batch

    def noting(self: Evaluator, given: Any) -> Any:
        seen.extend(given)
        return batch(self, given)

    monkeypatch.setattr(Evaluator, "batch", noting)
    return seen


@pytest.fixture
def learn(tiny_model_path: Path, data: str) -> Callable[..., Trained]:
    """Trains a gate on the texts."""

    def learn(output: Path, options: TrainOptions, **how: Any) -> Trained:
        return train(tiny_model_path, how.pop("data", [data]), output, options, **{"engine": ENGINE, **how})

    return learn


def scripts_of(seen: list[int], rows: list[dict[str, str]]) -> Counter[str]:
    """How many of the rows are in each script."""
    return Counter(script_of(rows[row]["text"]) for row in seen)


def test_a_limited_run_learns_from_every_script_and_a_whole_one_from_every_text(
    tmp_path: Path, learn: Callable[..., Trained], rows: list[dict[str, str]], learned: list[int]
) -> None:
    whole = learn(tmp_path / "whole.gguf", OPTIONS).run
    assert sorted(learned) == sorted(set(learned))  # each once
    assert whole.texts == len(learned) > 100
    learned.clear()
    limited = dataclasses.replace(OPTIONS, n_tokens=whole.tokens // 3)
    run = learn(tmp_path / "limited.gguf", limited).run
    found = scripts_of(learned, rows)
    assert run.tokens >= limited.n_tokens  # type: ignore[operator]
    assert found["cyrillic"] + found["thai"] > 0.6 * found["latin"]
    learned.clear()
    learn(tmp_path / "chance.gguf", dataclasses.replace(limited, balance="none"))
    chance = scripts_of(learned, rows)
    assert chance["cyrillic"] + chance["thai"] < 0.6 * chance["latin"]  # there are three times as many Latin ones


def test_a_limited_run_that_is_resumed_ends_at_the_same_gate(
    tmp_path: Path, learn: Callable[..., Trained], learned: list[int]
) -> None:
    options = dataclasses.replace(OPTIONS, n_tokens=400)
    learn(tmp_path / "whole.gguf", options)
    whole = list(learned)
    learned.clear()
    asked = itertools.count()
    stopped = learn(tmp_path / "g.gguf", options, should_stop=lambda: next(asked) > 30)
    assert not stopped.finished
    n_stopped = stopped.run.texts
    del learned[n_stopped:]  # the group that was stopped comes again
    assert learn(tmp_path / "g.gguf", options, resume=True).finished
    assert learned == whole
    assert (tmp_path / "g.gguf").read_bytes() == (tmp_path / "whole.gguf").read_bytes()


def test_states_are_chosen_among_as_texts_are(
    tmp_path: Path, tiny_model_path: Path, data: str, learn: Callable[..., Trained], learned: list[int]
) -> None:
    options = dataclasses.replace(OPTIONS, n_tokens=400)
    collect(tiny_model_path, [data], tmp_path / "states", OPTIONS, engine=ENGINE)
    learn(tmp_path / "live.gguf", options)
    live = list(learned)
    learned.clear()
    learn(tmp_path / "kept.gguf", options, data=[], states=[str(tmp_path / "states")])
    assert learned == live


def test_the_estimate_comes_before_the_first_group(
    tmp_path: Path, learn: Callable[..., Trained], learned: list[int]
) -> None:
    told: list[tuple[str, int]] = []
    run = learn(tmp_path / "g.gguf", OPTIONS, on_notice=lambda text: told.append((text, len(learned)))).run
    assert len(told) == 1
    text, n_learned = told[0]
    assert n_learned == 0
    words = text.split()
    assert words[:2] == ["evaluating", "about"]
    assert int(words[2].replace(",", "")) == pytest.approx(run.tokens, rel=0.3)  # as far as a few texts tell


@pytest.mark.parametrize(
    ("planned", "in_texts", "rate", "said"),
    [
        (1234, 1234, 100.0, "1,200 tokens takes about 12.3 s at 100 tokens/s"),
        (114_000, 114_000, 70.0, "110,000 tokens takes about 27 minutes at 70 tokens/s"),
        (
            1e6,
            5e6,
            70.0,
            "1,000,000 of 5,000,000 tokens takes about 4.0 hours at 70 tokens/s, every script's share of them",
        ),
    ],
)
def test_the_estimate_in_words(planned: float, in_texts: float, rate: float, said: str) -> None:
    assert estimate(Expected(in_texts, planned, rate), TrainOptions()) == f"evaluating about {said}"


# ---- collecting ----


def kept_scripts(folder: Path, rows: list[dict[str, str]]) -> Counter[str]:
    """The scripts of the files in a folder of states, which hold 16 rows each."""
    firsts = [int(file.name.split("-")[1]) for file in folder.glob("rows-*")]
    return Counter(script_of(rows[first]["text"]) for first in firsts)


def test_a_limited_collection_keeps_files_of_every_script_and_is_then_finished(
    tmp_path: Path, tiny_model_path: Path, data: str, rows: list[dict[str, str]]
) -> None:
    folder = tmp_path / "states"
    whole = collect(tiny_model_path, [data], tmp_path / "whole", OPTIONS, engine=ENGINE)
    limited = dataclasses.replace(OPTIONS, n_tokens=whole.tokens // 2)
    found = collect(tiny_model_path, [data], folder, limited, engine=ENGINE)
    kept = kept_scripts(folder, rows)
    assert kept["cyrillic"] == kept["thai"] == 1
    assert 1 <= kept["latin"] < 6
    assert found.finished
    assert found.kept == found.n_rows == 16 * kept.total()
    assert limited.n_tokens is not None
    assert limited.n_tokens <= found.tokens < whole.tokens
    again = collect(tiny_model_path, [data], folder, limited, engine=ENGINE)  # another process, or a second time
    assert (again.tokens, again.kept, again.finished) == (0, found.kept, True)
    rest = collect(tiny_model_path, [data], folder, OPTIONS, engine=ENGINE)
    assert (rest.kept, rest.tokens) == (len(rows), whole.tokens - found.tokens)
    assert {f.name: f.read_bytes() for f in folder.iterdir()} == {
        f.name: f.read_bytes() for f in (tmp_path / "whole").iterdir()
    }


def test_a_collection_ends_when_its_time_is_up_and_goes_on_later(
    tmp_path: Path, tiny_model_path: Path, data: str, rows: list[dict[str, str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    seconds = itertools.count()
    monkeypatch.setattr("time.monotonic", lambda: float(next(seconds)))  # every look at the clock takes a second
    folder, options = tmp_path / "states", dataclasses.replace(OPTIONS, minutes=8 / 60)
    found = collect(tiny_model_path, [data], folder, options, engine=ENGINE)
    n_files = kept_scripts(folder, rows).total()
    assert found.finished
    assert 1 < n_files < 8
    assert found.kept == 16 * n_files
    more = collect(tiny_model_path, [data], folder, options, engine=ENGINE)
    assert more.finished
    assert kept_scripts(folder, rows).total() > n_files


def test_a_collection_tells_how_long_it_will_take_after_its_first_file(
    tmp_path: Path, tiny_model_path: Path, data: str
) -> None:
    said: list[str] = []

    def note(collected: Collected) -> None:
        said.append(str(collected.kept))

    collect(tiny_model_path, [data], tmp_path / "s", OPTIONS, engine=ENGINE, on_notice=said.append, on_progress=note)
    assert said[0].startswith("evaluating about ")
    assert said[1:] == [str(16 * n) for n in range(1, 9)]
