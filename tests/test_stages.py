"""The two stages inside real llama.cpp chains, one row of logits at a time: direct, full array, eager and the oracle.

A gate whose matrix is the identity makes z equal to the hidden state, so every test says what the gate predicts.
"""

from __future__ import annotations

import ctypes
import math
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace
from types import SimpleNamespace
from typing import Any

import llama_cpp
import numpy as np
import numpy.typing as npt
import pytest
from llama_cpp import _internals as internals

import oracle
from lcg_cpp import Gate, GateOptions, _core
from lcg_cpp.engine.chain import insert_stages
from oracle import Chain, Rules, Switches

MakeGate = Callable[..., Gate]
Row = npt.NDArray[np.float32]

CJ, LATIN, SYMBOLS, LOWRES = range(4)
MASKABLE = (True, True, False, False)
ONLY_LOWRES = np.array([-4.0, -4.0, -4.0, 4.0], np.float32)

STOCK_TOLERANCE = 1e-5  # llama.cpp sums probabilities in float32


def four_families(n_vocab: int, seed: int = 0) -> Rules:
    """Returns the usual families, spread over the vocabulary at random."""
    return Rules(np.random.default_rng(seed).integers(0, 4, n_vocab), MASKABLE, SYMBOLS)


def stock_chain(n_vocab: int, chain: Chain, **others: Any) -> internals.LlamaSampler:
    """Builds the chain that `Llama.generate` builds for these settings, with a fixed seed."""
    llama = SimpleNamespace(_n_vocab=n_vocab, _seed=11, last_n_tokens_size=64, _input_ids=np.zeros(1, np.intc))
    return llama_cpp.Llama._init_sampler(
        llama,  # type: ignore[arg-type]
        top_k=chain.top_k,
        typical_p=chain.typical_p,
        top_p=chain.top_p,
        min_p=chain.min_p,
        temp=chain.temp,
        **others,
    )


@dataclass
class Result:
    """What a chain left of a row: ids and logits in the array's order."""

    ids: list[int]
    logits: list[float]
    selected: int | None = None
    stats: Any = None
    events: Any = None

    @property
    def candidates(self) -> dict[int, float]:
        """Token id -> logit of everything that is not forbidden."""
        return {i: x for i, x in zip(self.ids, self.logits) if x > -math.inf}

    @property
    def best(self) -> int:
        """The token that greedy takes: the first of the highest."""
        return self.ids[int(np.argmax(self.logits))]


def run_stock(row: Row, chain: Chain, history: tuple[int, ...] = (), **others: Any) -> Result:
    """Runs the plain chain on a full array, as `llama_sampler_sample` does."""
    sampler = stock_chain(len(row), chain, **others)
    for token in history:
        sampler.accept(token)
    array = (llama_cpp.llama_token_data * len(row))()
    view = np.ctypeslib.as_array(ctypes.cast(array, ctypes.POINTER(ctypes.c_int32)), (len(row), 3))
    view[:, 0] = np.arange(len(row))
    view[:, 1] = row.view(np.int32)
    view[:, 2] = 0
    tokens = llama_cpp.llama_token_data_array(data=array, size=len(row), selected=-1, sorted=False)
    llama_cpp.llama_sampler_apply(sampler.sampler, ctypes.byref(tokens))
    left = tokens.data[: tokens.size]
    return Result([t.id for t in left], [t.logit for t in left], left[tokens.selected].id)


def run(
    gate: Gate,
    row: Row,
    chain: Chain,
    z: Row | None,
    history: tuple[int, ...] = (),
    *,
    options: GateOptions = GateOptions(first_token=False),  # noqa: B008 (frozen)
    direct: bool = True,
    **others: Any,
) -> Result:
    """Runs the chain with a gate's stages in it, after accepting a history."""
    return run_stage(gate.new_stages(options), row, chain, z, history, direct, **others)


def run_stage(
    stage: _core.StagePair, row: Row, chain: Chain, z: Row | None, history: tuple[int, ...], direct: bool, **others: Any
) -> Result:
    """Runs the chain with stages in it, put there as GatedLlama puts them."""
    sampler = stock_chain(len(row), chain, **others)
    built = insert_stages(sampler, stage, temperature=chain.temp, top_k=chain.top_k)
    stage.begin_reply(built.facts)
    for token in history:
        sampler.accept(token)
    ids, logits = stage.apply_row(built.address, row, z, direct)
    return Result(ids.tolist(), logits.tolist(), None, stage.stats(), stage.events())


def random_row(rng: np.random.Generator, n_vocab: int) -> Row:
    """Draws a row: normal, peaked, with ties or with forbidden tokens."""
    row = rng.normal(0.0, float(rng.choice([0.3, 1.0, 3.0])), n_vocab).astype(np.float32)
    kind = rng.random()
    if kind < 0.3:
        best = rng.choice(n_vocab, min(n_vocab, int(rng.integers(1, 8))), replace=False)
        row[best] += rng.uniform(3, 12, len(best)).astype(np.float32)
    if 0.2 < kind < 0.4:
        row[rng.random(n_vocab) < rng.choice([0.1, 0.9])] = -np.inf
        row[rng.integers(n_vocab)] = 1.0
    elif kind > 0.9:
        row += np.float32(rng.choice([-300, 300]))
    return row


def random_chain(rng: np.random.Generator, n_vocab: int) -> Chain:
    """Draws sampler settings, the usual ones most often."""
    if rng.random() < 0.15:
        return Chain(temp=float(rng.choice([0.0, 0.0, 0.0, -1.0])))
    return Chain(
        top_k=int(rng.choice([1, 2, 5, 19, 20, 21, 40, 40, 40, 0, -1, 130, n_vocab - 1, n_vocab, n_vocab + 7])),
        typical_p=float(rng.choice([1.0, 1.0, 1.0, 0.9, 0.5])),
        top_p=float(rng.choice([1.0, 0.95, 0.95, 0.8, 0.3])),
        min_p=float(rng.choice([0.0, 0.05, 0.05, 0.3])),
        temp=float(rng.choice([0.1, 0.7, 0.8, 1.0, 1.5, 4.0])),
    )


def random_switches(rng: np.random.Generator) -> Switches:
    """Draws options, the defaults most often."""
    return Switches(
        strength=math.inf if rng.random() < 0.8 else float(rng.choice([0.5, 3.0])),
        threshold=None if rng.random() < 0.9 else 0.7,
        persistence=bool(rng.random() < 0.85),
        confidence=bool(rng.random() < 0.85),
        confidence_temperature=float(rng.choice([0.0, 0.0, 0.7, 1.2])),
        first_token=bool(rng.random() < 0.3),
    )


def gate_options(switches: Switches, **others: Any) -> GateOptions:
    """Returns the package's options for the oracle's."""
    return GateOptions(
        strength=switches.strength,
        threshold=switches.threshold,
        persistence=switches.persistence,
        confidence=switches.confidence,
        confidence_temperature=switches.confidence_temperature,
        first_token=switches.first_token,
        **others,
    )


def history_of(rules: Rules, last: int | None, rng: np.random.Generator) -> tuple[int, ...]:
    """Returns accepted tokens after which the last family is `last`, symbols before and after it."""
    symbols = np.flatnonzero(rules.family == rules.neutral)[:3].tolist()
    if last is None:
        return tuple(symbols[: int(rng.integers(0, 3))])
    return (*symbols[:1], int(rng.choice(np.flatnonzero(rules.family == last))), *symbols[1:])


def assert_same_candidates(found: Result, expected: dict[int, float], chain: Chain, what: Any) -> None:
    """Compares with the oracle; a greedy chain leaves the choice to its last sampler."""
    if chain.temp == 0.0:
        best = [i for i, x in expected.items() if x == max(expected.values())]
        assert found.best == min(best), what
        return
    assert set(found.candidates) == set(expected), what
    np.testing.assert_allclose(
        [found.candidates[i] for i in expected], list(expected.values()), rtol=1e-5, atol=1e-6, err_msg=str(what)
    )


# --- lazy, eager, direct and full array against the oracle -----------------------------------------------------------


@pytest.mark.parametrize(("n_vocab", "n_cases"), [(30, 2000), (300, 1200), (3000, 40)])
def test_every_path_equals_the_oracle(make_gate: MakeGate, n_vocab: int, n_cases: int) -> None:
    rng = np.random.default_rng(n_vocab)
    allow = (0.2, 0.3, 1.0, 1.0)
    rules = replace(four_families(n_vocab), masked_as=oracle.draw_masked_as(rng, n_vocab, 4), allow_thresholds=allow)
    gate = make_gate(rules)
    outcomes: Counter[str] = Counter()
    on_the_border = 0
    lazy_runs = 0
    for number in range(n_cases):
        row, chain, switches = random_row(rng, n_vocab), random_chain(rng, n_vocab), random_switches(rng)
        z = rng.normal(-1.0, 3.0, 4).astype(np.float32)
        last = None if rng.random() < 0.15 else int(rng.choice([CJ, LATIN, LOWRES]))
        history = history_of(rules, last, rng)
        expected = oracle.step(row, chain, rules=rules, z=z, last=last, switches=switches)
        if expected.margin == 0.0 and chain.typical_p < 1.0:  # llama.cpp's typical sampler is undefined on this row
            chain = replace(chain, typical_p=1.0)
            expected = oracle.step(row, chain, rules=rules, z=z, last=last, switches=switches)
        what = (number, chain, switches, last, z)
        if expected.margin < STOCK_TOLERANCE:
            on_the_border += 1
            continue
        assert expected.outcome is not None
        outcomes[expected.outcome.reason] += 1
        for direct in (True, False):
            for eager in (False, True):
                options = gate_options(switches, eager=eager)
                result = run(gate, row, chain, z, history, options=options, direct=direct)
                assert_same_candidates(
                    result,
                    {i: x for i, x in expected.candidates.items() if x > -math.inf},
                    chain,
                    (*what, direct, eager),
                )
                assert result.stats["interventions"] == int(expected.outcome.intervene), what
                assert len(result.events) == int(expected.outcome.intervene), what
                assert result.stats["not_confident"] == int(expected.outcome.reason == "not_confident"), what
                assert result.stats["without_hidden"] == 0
                if not eager:
                    lazy_runs += result.stats["gate_runs"]
                if expected.outcome.intervene:
                    check_event(result.events[0], expected, rules, row, chain)
    compared = sum(outcomes.values())
    assert on_the_border < 0.15 * n_cases  # many small probabilities: one is always near a border
    assert min(outcomes[r] for r in ("intervene", "no_history", "nothing_banned")) > 0.02 * n_cases, outcomes
    assert outcomes["not_confident"] > 0
    # lazy means lazy: without a maskable foreign token among the survivors the MLP does not run
    assert 2 * outcomes["intervene"] <= lazy_runs < 2 * compared


def check_event(event: dict[str, Any], expected: oracle.Step, rules: Rules, row: Row, chain: Chain) -> None:
    """Compares the record of an intervention with the oracle."""
    assert expected.outcome is not None
    assert set(event["predicted"]) == expected.outcome.predicted
    assert set(event["allowed"]) == expected.outcome.allowed
    assert set(event["banned"]) == expected.outcome.banned
    probability = oracle.softmax(row, chain.temp if chain.temp > 0 else 1.0)
    removed = [i for i in expected.survivors if rules.goes_with(i) in expected.outcome.banned and row[i] > -math.inf]
    removed.sort(key=lambda i: (-probability[i], i))
    assert {token for token, _ in event["removed"]} <= set(removed)
    assert len(event["removed"]) == min(20, len(removed))
    np.testing.assert_allclose(
        [share for _, share in event["removed"]], [probability[i] for i in removed[:20]], rtol=1e-4, atol=1e-7
    )
    left = sorted(expected.outcome.candidates.items(), key=lambda item: (-item[1], item[0]))[:20]
    assert [token for token, _ in event["left"]] == [token for token, _ in left]
    lost = [float(row[token]) - logit for token, logit in left]  # by a finite strength
    before = [
        probability[token] * math.exp(-x / (chain.temp if chain.temp > 0 else 1.0)) for (token, _), x in zip(left, lost)
    ]
    np.testing.assert_allclose([share for _, share in event["left"]], before, rtol=1e-4, atol=1e-7)


def test_order_of_direct_equals_order_of_full_array(make_gate: MakeGate) -> None:
    # the random choice walks through the array, so the order decides which token a seed gives
    rng = np.random.default_rng(5)
    rules = four_families(400)
    gate = make_gate(rules)
    for number in range(800):
        row, chain = random_row(rng, 400), random_chain(rng, 400)
        if number % 3 == 0:
            row = np.round(row * 2) / 2
        if chain.temp == 0.0:
            continue
        z = rng.normal(-1.0, 3.0, 4).astype(np.float32)
        history = history_of(rules, int(rng.choice([CJ, LATIN, LOWRES])), rng)
        direct = run(gate, row, chain, z, history, direct=True)
        full = run(gate, row, chain, z, history, direct=False)
        assert direct.ids == full.ids, (number, chain)
        assert direct.logits == full.logits


# --- observe, off and no history leave exactly what stock leaves -----------------------------------------------------


@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize("direct", [False, True])
def test_what_changes_nothing_leaves_the_array_of_stock(make_gate: MakeGate, direct: bool, ties: bool) -> None:
    rng = np.random.default_rng(17)
    rules = four_families(500)
    gate = make_gate(rules)
    acted = 0
    for number in range(800):
        row, chain = random_row(rng, 500), random_chain(rng, 500)
        if ties:
            row = np.round(row * float(rng.choice([1, 4]))).astype(np.float32)
        z = rng.normal(-1.0, 3.0, 4).astype(np.float32)
        last = None if number % 4 == 0 else LOWRES
        history = history_of(rules, last, rng)
        expected = run_stock(row, chain, history)
        mode = "mask" if last is None else ("observe", "off")[number % 2]
        options = GateOptions(mode=mode, first_token=False)  # type: ignore[arg-type]
        found = run(gate, row, chain, z, history, options=options, direct=direct)
        acted += found.stats["interventions"]
        if chain.temp == 0.0:
            assert found.best == expected.selected, (number, chain)
        else:
            assert found.ids == expected.ids, (number, chain)
            np.testing.assert_array_equal(found.logits, expected.logits)
    assert acted > 30


@pytest.mark.parametrize("top_k", [1, 5, 19, 20, 21, 40])
@pytest.mark.parametrize("mode", ["observe", "mask"])
def test_ties_at_the_edge_of_top_k(make_gate: MakeGate, top_k: int, mode: str) -> None:
    # ten tokens share the last place: llama.cpp keeps some of them, and these must be the same
    rules = four_families(200)
    gate = make_gate(rules)
    rng = np.random.default_rng(top_k)
    chain = Chain(top_k=top_k, top_p=1.0, min_p=0.0, temp=1.0)
    options = GateOptions(mode=mode)  # type: ignore[arg-type]
    for _ in range(40):
        row = np.full(200, -3.0, np.float32)
        places = rng.choice(200, top_k + 9, replace=False)
        row[places[: top_k - 1]] = rng.normal(4.0, 0.3, top_k - 1)
        row[places[top_k - 1 :]] = 1.0
        expected = run_stock(row, chain)
        # z allows every family: nothing to ban in either mode
        for direct in (True, False):
            found = run(
                gate, row, chain, np.full(4, 5.0, np.float32), (int(places[0]),), options=options, direct=direct
            )
            assert found.ids == expected.ids
            assert found.logits == expected.logits
            assert len(found.ids) == top_k


def test_order_of_equal_survivors_is_stocks(make_gate: MakeGate) -> None:
    rules = four_families(300)
    gate = make_gate(rules)
    rng = np.random.default_rng(8)
    chain = Chain(top_k=40, top_p=1.0, min_p=0.0, temp=0.5)
    for _ in range(100):
        row = rng.normal(0, 1, 300).astype(np.float32)
        twins = np.argsort(-row)[:10]
        row[twins[1::2]] = row[twins[::2]]
        assert run(gate, row, chain, ONLY_LOWRES, (), direct=True).ids == run_stock(row, chain).ids


@pytest.mark.parametrize("mirostat_mode", [1, 2])
def test_mirostat_in_observe_mode_chooses_as_stock(make_gate: MakeGate, mirostat_mode: int) -> None:
    rng = np.random.default_rng(4)
    rules = four_families(300)
    gate = make_gate(rules)
    acted = 0
    for number in range(150):
        row = random_row(rng, 300)
        if number % 3 == 0:
            row = np.round(row)
        others = {"mirostat_mode": mirostat_mode, "mirostat_tau": 3.0}
        history = history_of(rules, LOWRES, rng)
        expected = run_stock(row, Chain(), history, **others)
        found = run(gate, row, Chain(), ONLY_LOWRES, history, options=GateOptions(mode="observe"), **others)
        acted += found.stats["interventions"]
        assert found.ids == expected.ids
        np.testing.assert_array_equal(found.logits, expected.logits)
    assert acted > 30


@pytest.mark.parametrize("mirostat_mode", [1, 2])
def test_mirostat_never_gets_a_banned_token(make_gate: MakeGate, mirostat_mode: int) -> None:
    rng = np.random.default_rng(4)
    rules = four_families(300)
    gate = make_gate(rules)
    acted = 0
    for _ in range(150):
        row = random_row(rng, 300)
        others = {"mirostat_mode": mirostat_mode, "mirostat_tau": 3.0}
        history = history_of(rules, LOWRES, rng)
        found = run(gate, row, Chain(), ONLY_LOWRES, history, **others)
        assert found.ids
        if found.stats["interventions"]:
            acted += 1
            assert not {CJ, LATIN} & {int(rules.family[i]) for i in found.ids}
        else:
            assert found.ids == run_stock(row, Chain(), history, **others).ids
    assert acted > 30


@pytest.mark.parametrize(("tau", "intervenes"), [(1.0, False), (5.0, True)])
def test_survivors_of_mirostat_are_what_it_would_leave_itself(
    make_gate: MakeGate, tau: float, intervenes: bool
) -> None:
    # mirostat 2 starts by cutting what is more surprising than 2 tau bits; the Chinese token has
    # log2(e) * log(1 + e^4.5) = 6.5 bits
    rules, row = tens_row({30: 6.0, 0: 1.5})
    gate = make_gate(rules)
    found = run(gate, row, Chain(), ONLY_LOWRES, (33,), mirostat_mode=2, mirostat_tau=tau)
    assert found.stats["interventions"] == int(intervenes)
    assert found.stats["gate_runs"] == int(intervenes)


@pytest.mark.parametrize(("chain", "others"), [(Chain(temp=-1.0), {}), (Chain(temp=3.0), {"mirostat_mode": 2})])
def test_temperature_counts_only_where_the_chain_applies_it(
    make_gate: MakeGate, chain: Chain, others: dict[str, Any]
) -> None:
    # at T = 1 the sums before the lowres token are above 0.999 and 0.95; at T = 3 they would not be
    rules, row = tens_row({0: 5.0, 30: -2.5})
    gate = make_gate(rules)
    found = run(gate, row, chain, ONLY_LOWRES, (33,), mirostat_tau=20.0, **others)
    assert found.stats["not_confident"] == 1
    applied = run(gate, row, Chain(temp=3.0), ONLY_LOWRES, (33,))
    assert applied.stats["interventions"] == 1


# --- single cases by hand --------------------------------------------------------------------------------------------


def tens_row(values: dict[int, float]) -> tuple[Rules, Row]:
    """Returns families by tens digit over 40 tokens, and a row that is -20 but for these tokens."""
    row = np.full(40, -20.0, np.float32)
    for token, value in values.items():
        row[token] = value
    return Rules(np.repeat(np.arange(4), 10), MASKABLE, SYMBOLS), row


@pytest.mark.parametrize("direct", [False, True])
def test_gate_stands_before_min_p(make_gate: MakeGate, direct: bool) -> None:
    # min-p 0.5 would leave the Chinese token alone; without it the best of the rest sets the measure
    rules, row = tens_row({0: 5.0, 30: 3.0, 31: 2.5, 32: 1.0})
    gate = make_gate(rules)
    chain = Chain(top_k=40, top_p=1.0, min_p=0.5, temp=1.0)
    assert run(gate, row, chain, ONLY_LOWRES, (), direct=direct).ids == [0]
    found = run(gate, row, chain, ONLY_LOWRES, (33,), direct=direct)
    # 2.5 >= 3.0 + log 0.5 = 2.307
    assert found.ids == [30, 31]


@pytest.mark.parametrize("direct", [False, True])
def test_greedy_takes_the_best_token_of_an_allowed_family(make_gate: MakeGate, direct: bool) -> None:
    rules, row = tens_row({0: 5.0, 10: 4.5, 30: 4.0, 31: 3.9})
    gate = make_gate(rules)
    assert run(gate, row, Chain(temp=0.0), ONLY_LOWRES, (), direct=direct).best == 0
    assert run(gate, row, Chain(temp=0.0), ONLY_LOWRES, (33,), direct=direct).best == 30
    assert run(gate, row, Chain(temp=0.0), ONLY_LOWRES, (2,), direct=direct).best == 0


@pytest.mark.parametrize("direct", [False, True])
@pytest.mark.parametrize("chain", [Chain(top_k=1, top_p=1.0, min_p=0.0, temp=1.0), Chain(temp=0.0)])
def test_lower_ids_win_a_tie_at_the_edge_of_the_confidence_set(make_gate: MakeGate, chain: Chain, direct: bool) -> None:
    # one set of five: the Chinese token and the first four of ten equal ones, wherever they stand in the row
    rules, row = tens_row(dict.fromkeys(range(30, 40), 3.0))
    gate = make_gate(replace(rules, confidence=((5, 0.999),)))
    row[3] = 5.0
    found = run(gate, row, chain, ONLY_LOWRES, (33,), direct=direct)
    assert found.ids == [30, 31, 32, 33]


@pytest.mark.parametrize("direct", [False, True])
def test_gate_without_a_hidden_state_stays_out_and_says_so(make_gate: MakeGate, direct: bool) -> None:
    rules, row = tens_row({0: 5.0, 30: 4.0})
    gate = make_gate(rules)
    found = run(gate, row, Chain(), None, (33,), direct=direct)
    assert found.best == 0
    assert found.stats["without_hidden"] == 1
    assert found.stats["gate_runs"] == 0


def test_mlp_runs_only_where_it_can_matter(make_gate: MakeGate) -> None:
    rules, row = tens_row({30: 5.0, 31: 4.0, 20: 3.0})
    gate = make_gate(rules)
    narrow = Chain(top_k=3, top_p=1.0, min_p=0.0)
    assert run(gate, row, narrow, ONLY_LOWRES, (33,)).stats["gate_runs"] == 0
    assert run(gate, row, narrow, ONLY_LOWRES, (33,), options=GateOptions(eager=True)).stats["gate_runs"] == 1
    # a token of the last family cannot be banned either
    row[5] = 6.0
    assert run(gate, row, narrow, ONLY_LOWRES, (2,)).stats["gate_runs"] == 0
    assert run(gate, row, narrow, ONLY_LOWRES, (33,)).stats["gate_runs"] == 1
    # and before the first language token nothing can
    assert run(gate, row, narrow, ONLY_LOWRES, (21,)).stats["gate_runs"] == 0
    assert run(gate, row, narrow, ONLY_LOWRES, (21,), options=GateOptions(first_token=True)).stats["gate_runs"] == 1


def test_symbols_in_between_do_not_end_the_history(make_gate: MakeGate) -> None:
    rules, row = tens_row({0: 5.0, 30: 4.0})
    gate = make_gate(rules)
    assert run(gate, row, Chain(), ONLY_LOWRES, (33, 20, 21, 22)).best == 30
    assert run(gate, row, Chain(), ONLY_LOWRES, (33, 5, 20)).best == 0
    assert run(gate, row, Chain(), ONLY_LOWRES, (5, 33)).best == 30


def test_new_reply_forgets_and_continued_reply_does_not(make_gate: MakeGate) -> None:
    rules, row = tens_row({0: 5.0, 30: 4.0})
    gate = make_gate(rules)
    stage = gate.new_stages(GateOptions(first_token=False))

    def best(continued: bool, *accepted: int) -> int:
        sampler = stock_chain(40, Chain())
        built = insert_stages(sampler, stage, temperature=0.8, top_k=40)
        stage.begin_reply(built.facts, continued)
        for token in accepted:
            sampler.accept(token)
        ids, logits = stage.apply_row(built.address, row, ONLY_LOWRES, True)
        return int(ids[int(np.argmax(logits))])

    assert best(False, 33) == 30
    assert best(True) == 30
    assert best(False) == 0
    assert best(True) == 0


def test_reset_of_the_chain_forgets_the_history(make_gate: MakeGate) -> None:
    rules, row = tens_row({0: 5.0, 30: 4.0})
    gate = make_gate(rules)
    stage = gate.new_stages(GateOptions(first_token=False))
    sampler = stock_chain(40, Chain(temp=0.0))
    built = insert_stages(sampler, stage, temperature=0.0, top_k=40)
    stage.begin_reply(built.facts)
    sampler.accept(33)
    ids, logits = stage.apply_row(built.address, row, ONLY_LOWRES, True)
    assert ids[np.argmax(logits)] == 30
    sampler.reset()
    ids, logits = stage.apply_row(built.address, row, ONLY_LOWRES, True)
    assert ids[np.argmax(logits)] == 0


def test_clone_of_a_chain_has_its_own_history(make_gate: MakeGate) -> None:
    rules, row = tens_row({0: 5.0, 30: 4.0})
    gate = make_gate(rules)
    stage = gate.new_stages(GateOptions(first_token=False))
    sampler = stock_chain(40, Chain(temp=0.0))
    built = insert_stages(sampler, stage, temperature=0.0, top_k=40)
    stage.begin_reply(built.facts)
    sampler.accept(33)
    clone = sampler.clone()
    clone.accept(5)  # were it the original's history, Chinese would go on
    ids, logits = stage.apply_row(built.address, row, ONLY_LOWRES, True)
    assert ids[np.argmax(logits)] == 30
    assert stage.stats()["steps"] == 1


def test_hidden_state_is_gone_after_its_step(make_gate: MakeGate) -> None:
    # somebody else applies the chain: the stages must not read what the last step left behind
    rules, row = tens_row({0: 5.0, 30: 4.0})
    gate = make_gate(rules)
    stage = gate.new_stages(GateOptions(first_token=False))
    sampler = stock_chain(40, Chain(temp=0.0))
    built = insert_stages(sampler, stage, temperature=0.0, top_k=40)
    stage.begin_reply(built.facts)
    sampler.accept(33)
    stage.apply_row(built.address, row, ONLY_LOWRES, True)
    array = (llama_cpp.llama_token_data * 40)(*((i, float(x), 0.0) for i, x in enumerate(row)))
    tokens = llama_cpp.llama_token_data_array(data=array, size=40, selected=-1, sorted=False)
    llama_cpp.llama_sampler_apply(sampler.sampler, ctypes.byref(tokens))
    assert tokens.data[tokens.selected].id == 0
    assert stage.stats()["without_hidden"] == 1


def test_clone_of_a_chain_works_after_the_original_is_gone(make_gate: MakeGate) -> None:
    rules, row = tens_row({0: 5.0, 30: 4.0})
    gate = make_gate(rules)
    stage = gate.new_stages(GateOptions(first_token=False))
    sampler = stock_chain(40, Chain(temp=0.0))
    built = insert_stages(sampler, stage, temperature=0.0, top_k=40)
    stage.begin_reply(built.facts)
    sampler.accept(33)
    clone = sampler.clone()
    twice = clone.clone()
    del sampler, built, stage, gate
    array = (llama_cpp.llama_token_data * 40)(*((i, float(x), 0.0) for i, x in enumerate(row)))
    for chain in (clone, twice):
        tokens = llama_cpp.llama_token_data_array(data=array, size=40, selected=-1, sorted=False)
        llama_cpp.llama_sampler_apply(chain.sampler, ctypes.byref(tokens))
        assert tokens.data[tokens.selected].id == 0  # a clone has no hidden state, the gate stays out


def test_chain_still_knows_which_of_its_samplers_is_a_python_callback(make_gate: MakeGate) -> None:
    # llama_cpp takes callbacks out of a chain by index before it frees the chain; stages before them shift them
    rules, row = tens_row({0: 5.0, 30: 4.0})
    gate = make_gate(rules)
    stage = gate.new_stages(GateOptions())
    calls = []
    sampler = internals.LlamaSampler()
    sampler.add_top_k(40)
    sampler.add_custom(lambda tokens: calls.append(tokens.contents.size))
    sampler.add_greedy()
    built = insert_stages(sampler, stage, temperature=0.0, top_k=40)
    stage.begin_reply(built.facts)
    stage.apply_row(built.address, row, ONLY_LOWRES, True)
    assert len(calls) == 1
    ((index, custom),) = sampler.custom_samplers
    part = llama_cpp.llama_sampler_chain_get(sampler.sampler, index)
    assert ctypes.addressof(part.contents) == ctypes.addressof(custom.sampler)


def test_penalties_and_processors_come_before_the_gate(make_gate: MakeGate) -> None:
    # the penalty takes the lowres token that was just said behind another one; C is what the penalty left
    rules, row = tens_row({0: 5.0, 30: 4.0, 31: 3.5})
    gate = make_gate(rules)
    chain = Chain(temp=0.0)
    assert run(gate, row, chain, ONLY_LOWRES, (30,), direct=True).best == 30
    assert run(gate, row, chain, ONLY_LOWRES, (30,), direct=True, repeat_penalty=2.0).best == 31

    def forbid_lowres(_: Any, scores: Row) -> Row:
        scores = scores.copy()
        scores[30:] = -np.inf
        return scores

    processors = llama_cpp.LogitsProcessorList([forbid_lowres])
    found = run(gate, row, chain, ONLY_LOWRES, (30,), direct=True, logits_processor=processors)
    assert found.best == 0
    assert found.stats["not_confident"] == 1


def test_disabled_penalties_allow_the_direct_path_and_active_ones_forbid_it(make_gate: MakeGate) -> None:
    rules, row = tens_row({0: 5.0, 30: 4.0})
    gate = make_gate(rules)
    stage = gate.new_stages(GateOptions())
    chain = Chain(top_k=5, top_p=1.0, min_p=0.0, temp=1.0)
    # with penalties in the chain the row must be filled into the array, whatever the caller asks for
    for others in (
        {},
        {"presence_penalty": 4.0},
        {"logits_processor": llama_cpp.LogitsProcessorList([lambda _, s: s])},
    ):
        sampler = stock_chain(40, chain, **others)
        built = insert_stages(sampler, stage, temperature=1.0, top_k=5)
        stage.begin_reply(built.facts)
        sampler.accept(0)
        ids, _ = stage.apply_row(built.address, row, ONLY_LOWRES, True)
        assert ids[0] == (30 if "presence_penalty" in others else 0)


# --- odd rows --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("direct", [False, True])
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("share", [0.01, 0.5, 1.0])
def test_broken_rows_do_not_crash(make_gate: MakeGate, value: float, share: float, direct: bool) -> None:
    rng = np.random.default_rng(0)
    rules = four_families(300)
    gate = make_gate(rules)
    for chain in (
        Chain(),
        Chain(temp=0.0),
        Chain(top_k=0, top_p=1.0, min_p=0.0),
        Chain(top_k=5),
        Chain(top_k=1000),
        Chain(top_k=200),
    ):
        for _ in range(5):
            row = rng.normal(0, 2, 300).astype(np.float32)
            row[rng.random(300) < share] = value
            found = run(gate, row, chain, ONLY_LOWRES, history_of(rules, LOWRES, rng), direct=direct)
            assert len(found.ids) >= 1
            assert set(found.ids) <= set(range(300))


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_broken_hidden_states_do_not_crash_and_never_empty_the_candidates(make_gate: MakeGate, bad: float) -> None:
    rng = np.random.default_rng(0)
    rules = four_families(300)
    gate = make_gate(rules)
    for _ in range(20):
        row = rng.normal(0, 2, 300).astype(np.float32)
        hidden = np.where(rng.random(4) < 0.5, bad, 1.0).astype(np.float32)
        found = run(gate, row, Chain(), hidden, history_of(rules, LOWRES, rng))
        assert found.candidates


def test_vocabulary_smaller_than_the_confidence_sets(make_gate: MakeGate) -> None:
    gate = make_gate(Rules(np.array([0, 1, 2, 3]), MASKABLE, SYMBOLS))
    row = np.array([3.0, 2.0, 1.0, 2.5], np.float32)
    for direct in (True, False):
        for chain in (Chain(top_p=1.0, min_p=0.0), Chain(temp=0.0), Chain(top_k=1), Chain(top_k=0)):
            found = run(gate, row, chain, ONLY_LOWRES, (3,), direct=direct)
            assert found.best == 3
            assert not {0, 1} & set(found.ids)


def test_wrong_sizes_are_refused(make_gate: MakeGate) -> None:
    from lcg_cpp import GateError

    rules, row = tens_row({})
    gate = make_gate(rules)
    with pytest.raises(GateError, match="logits"):
        run(gate, row[:39], Chain(), ONLY_LOWRES)
    with pytest.raises(GateError, match="hidden"):
        run(gate, row, Chain(), ONLY_LOWRES[:3])


def test_large_vocabulary_with_default_and_wide_settings(make_gate: MakeGate) -> None:
    # llama.cpp takes another way to sort above 128 and above 1,024 candidates
    n_vocab = 20_000
    rng = np.random.default_rng(1)
    rules = four_families(n_vocab)
    gate = make_gate(rules)
    for chain in (
        Chain(),
        Chain(top_k=500, top_p=0.9),
        Chain(top_k=0, top_p=0.7, min_p=0.0),
        Chain(top_k=0, top_p=1.0, min_p=0.1),
        Chain(top_k=15_000, top_p=0.99),
        Chain(temp=0.0),
    ):
        for _ in range(4):
            row = rng.normal(0, 3, n_vocab).astype(np.float32)
            row[:64] = row.max()  # the blocks of the fast pass
            row[:64] += rng.normal(0, 0.01, 64).astype(np.float32)
            history = history_of(rules, LOWRES, rng)
            expected = oracle.step(row, chain, rules=rules, z=ONLY_LOWRES, last=LOWRES)
            if expected.margin < 1e-6:
                continue
            results = [run(gate, row, chain, ONLY_LOWRES, history, direct=direct) for direct in (True, False)]
            if chain.temp != 0.0:
                assert results[0].ids == results[1].ids
            if chain.top_k in (40, 500) or chain.temp == 0.0:
                assert_same_candidates(results[0], expected.candidates, chain, chain)
            assert not results[0].stats["interventions"] or not {CJ, LATIN} & {
                int(rules.family[i]) for i in results[0].ids
            }
