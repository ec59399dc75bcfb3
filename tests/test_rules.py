"""`Gate.decide` against the NumPy oracle and against examples computed by hand from the rules' text."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import oracle
from lcg_cpp import Gate, GateError, GateOptions
from lcg_cpp.gate.options import PAPER_OPTIONS
from lcg_cpp.gate.results import Decision
from lcg_cpp.gate.thresholds import Thresholds
from oracle import Rules, Switches

MakeGate = Callable[..., Gate]

CJ, LATIN, SYMBOLS, LOWRES = range(4)
NAMES = ("cj", "latin", "symbols", "lowres")
MASKABLE = (True, True, False, False)

# the vocabulary of the examples: ten tokens of each family, the family is the tens digit
BY_TENS = Rules(np.repeat(np.arange(4), 10), MASKABLE, SYMBOLS)
CJ_0, CJ_1, CJ_2 = 0, 1, 2
LATIN_0, LATIN_1 = 10, 11
SYMBOL_0, SYMBOL_1 = 20, 21
LOWRES_0, LOWRES_1, LOWRES_2 = 30, 31, 32

# z of a gate that is sure of one family
ONLY_CJ = (4.0, -4.0, -4.0, -4.0)
ONLY_LATIN = (-4.0, 4.0, -4.0, -4.0)
ONLY_SYMBOLS = (-4.0, -4.0, 4.0, -4.0)
ONLY_LOWRES = (-4.0, -4.0, -4.0, 4.0)

# every option switched to what the paper does
PAPER = PAPER_OPTIONS


@pytest.fixture(scope="module")
def gate(make_gate: MakeGate) -> Gate:
    """A gate over the vocabulary of the examples."""
    return make_gate(BY_TENS)


def options(switches: Switches) -> GateOptions:
    """Returns the package's options for the oracle's."""
    return GateOptions(
        strength=switches.strength,
        threshold=switches.threshold,
        persistence=switches.persistence,
        confidence=switches.confidence,
        confidence_temperature=switches.confidence_temperature,
        first_token=switches.first_token,
    )


def decide(
    gate: Gate,
    probabilities: dict[int, float],
    survivors: list[int],
    z: tuple[float, ...],
    last: int | None,
    *,
    temperature: float = 1.0,
    gate_options: GateOptions = PAPER,
) -> Decision:
    """Calls `Gate.decide` with the logits of explicit probabilities; 0 is a forbidden token."""
    ids = np.array(list(probabilities), np.int32)
    with np.errstate(divide="ignore"):
        logits = np.log(np.array(list(probabilities.values()), np.float32))
    return gate.decide(
        ids,
        logits,
        np.array(survivors, np.int32),
        np.array(z, np.float32),
        last=last,
        temperature=temperature,
        options=gate_options,
    )


# --- each rule, by hand --------------------------------------------------------------------------------------------


def test_confusion_point_keeps_the_right_script(gate: Gate) -> None:
    # an Arabic reply (last = lowres), the model prefers a Chinese word, the gate expects lowres
    c = {CJ_0: 0.6, LOWRES_0: 0.3, SYMBOL_0: 0.06, LATIN_0: 0.04}
    decision = decide(gate, c, [CJ_0, LOWRES_0], ONLY_LOWRES, last=LOWRES)
    assert decision.intervene
    assert decision.reason == "intervene"
    assert decision.predicted == ("lowres",)
    assert decision.allowed == ("lowres",)
    assert decision.banned == ("cj", "latin")
    # H is all four (5/0.999); S u H without cj and latin, the most probable first
    assert decision.candidates.tolist() == [LOWRES_0, SYMBOL_0]
    np.testing.assert_array_equal(decision.logits, np.log(np.array([0.3, 0.06], np.float32)))


def test_no_token_of_a_language_so_far_leaves_the_survivors(gate: Gate) -> None:
    c = {CJ_0: 0.6, LOWRES_0: 0.4}
    decision = decide(gate, c, [CJ_0], ONLY_LOWRES, last=None)
    assert not decision.intervene
    assert decision.reason == "no_history"
    assert decision.candidates.tolist() == [CJ_0]


def test_last_family_is_never_banned(gate: Gate) -> None:
    c = {CJ_0: 0.6, LOWRES_0: 0.4}
    decision = decide(gate, c, [CJ_0, LOWRES_0], ONLY_LOWRES, last=CJ)
    assert decision.reason == "nothing_banned"
    assert decision.allowed == ("cj", "lowres")
    assert decision.banned == ("latin",)
    assert decision.candidates.tolist() == [CJ_0, LOWRES_0]


def test_banned_family_outside_the_survivors_does_not_matter(gate: Gate) -> None:
    # H reaches the Chinese token, but S does not: nothing wrong could be sampled
    c = {LOWRES_0: 0.6, CJ_0: 0.4}
    decision = decide(gate, c, [LOWRES_0], ONLY_LOWRES, last=LOWRES)
    assert decision.reason == "nothing_banned"
    assert decision.candidates.tolist() == [LOWRES_0]


def test_model_that_finds_the_gates_choice_implausible_wins(gate: Gate) -> None:
    # sums before the tokens: 0, 0.7, 0.97, 0.9995: the lowres token is in neither confidence set
    c = {LATIN_0: 0.7, LATIN_1: 0.27, SYMBOL_0: 0.0295, LOWRES_0: 0.0005}
    decision = decide(gate, c, [LATIN_0, LATIN_1, SYMBOL_0], ONLY_LOWRES, last=CJ)
    assert decision.reason == "not_confident"
    assert decision.banned == ("latin",)
    assert decision.candidates.tolist() == [LATIN_0, LATIN_1, SYMBOL_0]


def test_last_family_alone_does_not_make_the_model_confident(gate: Gate) -> None:
    # H must hold a token of P; a token of the last family, which is in A only, is not enough
    c = {LATIN_0: 0.6, CJ_0: 0.4}
    decision = decide(gate, c, [LATIN_0, CJ_0], ONLY_LOWRES, last=CJ)
    assert decision.reason == "not_confident"


def test_neutral_prediction_counts_as_confidence(gate: Gate) -> None:
    # P = {symbols}: a symbol in H suffices; the banned words go, the symbol and the last family stay
    c = {LATIN_0: 0.5, SYMBOL_0: 0.3, LOWRES_0: 0.2}
    decision = decide(gate, c, [LATIN_0, SYMBOL_0], ONLY_SYMBOLS, last=LOWRES)
    assert decision.intervene
    assert decision.candidates.tolist() == [SYMBOL_0, LOWRES_0]


def test_confident_tokens_outside_the_survivors_come_back(gate: Gate) -> None:
    # greedy: S is the most probable token alone
    c = {CJ_0: 0.5, CJ_1: 0.3, LOWRES_1: 0.12, LOWRES_0: 0.08}
    decision = decide(gate, c, [CJ_0], ONLY_LOWRES, last=LOWRES)
    assert decision.candidates.tolist() == [LOWRES_1, LOWRES_0]


def test_survivors_outside_the_confidence_sets_stay(gate: Gate) -> None:
    # sums before: 0, 0.9, 0.9992: LOWRES_1 is not in H, but the user's truncation left it in S
    c = {LOWRES_0: 0.9, CJ_0: 0.0992, LOWRES_1: 0.0008}
    decision = decide(gate, c, [LOWRES_0, CJ_0, LOWRES_1], ONLY_LOWRES, last=LOWRES)
    assert decision.candidates.tolist() == [LOWRES_0, LOWRES_1]


def test_confidence_set_is_the_union_of_both_sets(gate: Gate) -> None:
    # nine equal lowres tokens after one Chinese: the 5/0.999 set ends with the fifth, the 20/0.95 set holds all ten
    c = {CJ_0: 0.19, **{LOWRES_0 + i: 0.09 for i in range(9)}}
    decision = decide(gate, c, [CJ_0], ONLY_LOWRES, last=LOWRES)
    assert decision.candidates.tolist() == [LOWRES_0 + i for i in range(9)]
    # the reference plugin's slip would keep four of them
    slip = oracle.plugin_slip(BY_TENS, list(c), np.log(list(c.values())))
    assert slip == {CJ_0, LOWRES_0, LOWRES_0 + 1, LOWRES_0 + 2, LOWRES_0 + 3}


def test_first_confidence_set_reaches_where_the_second_stops(gate: Gate) -> None:
    # sums before: 0, 0.96, 0.9988: the third token is only in the 5/0.999 set
    c = {CJ_0: 0.96, CJ_1: 0.0388, LOWRES_0: 0.0012}
    decision = decide(gate, c, [CJ_0], ONLY_LOWRES, last=LOWRES)
    assert decision.intervene
    assert decision.candidates.tolist() == [LOWRES_0]


def test_mass_of_banned_tokens_counts_in_the_confidence_sets(gate: Gate) -> None:
    # the sums run over all candidates, not over the allowed ones
    c = {CJ_0: 0.9995, LOWRES_0: 0.0005}
    decision = decide(gate, c, [CJ_0], ONLY_LOWRES, last=LOWRES)
    assert decision.reason == "not_confident"


@pytest.mark.parametrize(
    ("temperature", "reason"), [(1.0, "not_confident"), (3.0, "intervene"), (0.2, "not_confident")]
)
def test_temperature_widens_the_confidence_sets(gate: Gate, temperature: float, reason: str) -> None:
    # at T = 3 the weights are 0.9995^(1/3) = 0.99983 and 0.0005^(1/3) = 0.0794: the sum before is 0.926 < 0.95
    c = {CJ_0: 0.9995, LOWRES_0: 0.0005}
    assert decide(gate, c, [CJ_0], ONLY_LOWRES, last=LOWRES, temperature=temperature).reason == reason


def test_logits_come_back_without_the_temperature(gate: Gate) -> None:
    c = {CJ_0: 0.6, LOWRES_0: 0.4}
    decision = decide(gate, c, [CJ_0, LOWRES_0], ONLY_LOWRES, last=LOWRES, temperature=0.5)
    np.testing.assert_array_equal(decision.logits, np.log(np.array([0.4], np.float32)))


def test_sigmoid_at_the_threshold_is_predicted(gate: Gate) -> None:
    c = {CJ_0: 0.5, LATIN_0: 0.3, LOWRES_0: 0.2}
    decision = decide(gate, c, [CJ_0, LATIN_0], (0.0, -0.001, -5.0, 1.0), last=LOWRES)
    assert decision.predicted == ("cj", "lowres")
    assert decision.banned == ("latin",)
    assert decision.candidates.tolist() == [CJ_0, LOWRES_0]


def test_threshold_option_replaces_the_files(gate: Gate) -> None:
    # sigmoid(1) = 0.731
    z = (1.0, -5.0, -5.0, 3.0)
    c = {CJ_0: 0.5, LOWRES_0: 0.5}
    assert decide(gate, c, [CJ_0, LOWRES_0], z, LOWRES).reason == "nothing_banned"
    strict = GateOptions(first_token=False, threshold=0.74)
    assert decide(gate, c, [CJ_0, LOWRES_0], z, LOWRES, gate_options=strict).candidates.tolist() == [LOWRES_0]


def test_threshold_of_the_file_is_used(make_gate: MakeGate) -> None:
    gate = make_gate(Rules(BY_TENS.family, MASKABLE, SYMBOLS, threshold=0.25))
    assert gate.thresholds == Thresholds((0.25,) * 4)
    # sigmoid(-1) = 0.269
    decision = decide(gate, {CJ_0: 0.5, LOWRES_0: 0.5}, [CJ_0, LOWRES_0], (-1.0, -2.0, -2.0, -2.0), LOWRES)
    assert decision.predicted == ("cj",)


def test_each_family_has_the_threshold_that_the_file_gives_it(make_gate: MakeGate) -> None:
    gate = make_gate(Rules(BY_TENS.family, MASKABLE, SYMBOLS, own_thresholds=(0.25, 0.75, 0.5, 0.125)))
    assert gate.thresholds == Thresholds((0.25, 0.75, 0.5, 0.125))
    c = {CJ_0: 0.4, LATIN_0: 0.4, LOWRES_0: 0.2}
    # sigmoid(-1) = 0.269, sigmoid(1) = 0.731, sigmoid(-2) = 0.119
    decision = decide(gate, c, [CJ_0, LATIN_0, LOWRES_0], (-1.0, 1.0, 2.0, -2.0), LOWRES)
    assert decision.predicted == ("cj", "symbols")
    assert decision.candidates.tolist() == [CJ_0, LOWRES_0]
    one_for_all = GateOptions(first_token=False, threshold=0.7)
    decision = decide(gate, c, [CJ_0, LATIN_0], (-1.0, 1.0, 2.0, -2.0), LOWRES, gate_options=one_for_all)
    assert decision.predicted == ("latin", "symbols")


def test_the_first_language_token_has_the_thresholds_that_the_file_gives_it(make_gate: MakeGate) -> None:
    gate = make_gate(Rules(BY_TENS.family, MASKABLE, SYMBOLS, threshold=0.25, first_thresholds=(0.5, 0.25, 0.5, 0.5)))
    assert gate.thresholds == Thresholds((0.25,) * 4, (0.5, 0.25, 0.5, 0.5))
    c = {CJ_0: 0.4, LATIN_0: 0.4, LOWRES_0: 0.2}
    z = (-1.0, -1.0, -2.0, 3.0)  # sigmoid(-1) = 0.269
    early = decide(gate, c, [CJ_0, LATIN_0], z, None, gate_options=GateOptions())
    assert (early.predicted, early.candidates.tolist()) == (("latin", "lowres"), [LATIN_0, LOWRES_0])
    assert decide(gate, c, [CJ_0, LATIN_0], z, LOWRES).predicted == ("cj", "latin", "lowres")
    one_for_all = GateOptions(threshold=0.25)
    assert decide(gate, c, [CJ_0, LATIN_0], z, None, gate_options=one_for_all).predicted == ("cj", "latin", "lowres")


def test_a_family_may_come_without_being_predicted(make_gate: MakeGate) -> None:
    gate = make_gate(Rules(BY_TENS.family, MASKABLE, SYMBOLS, allow_thresholds=(0.25, 1.0, 1.0, 1.0)))
    assert gate.thresholds == Thresholds((0.5,) * 4, (), (0.25, 1.0, 1.0, 1.0))
    z = (-1.0, -1.0, -2.0, 3.0)  # sigmoid(-1) = 0.269
    c = {CJ_0: 0.4, LATIN_0: 0.4, LOWRES_0: 0.2}
    for last, options in ((LOWRES, PAPER), (None, GateOptions())):
        decision = decide(gate, c, [CJ_0, LATIN_0], z, last, gate_options=options)
        assert (decision.predicted, decision.allowed, decision.banned) == (("lowres",), ("cj", "lowres"), ("latin",))
        assert decision.candidates.tolist() == [CJ_0, LOWRES_0]
    # the model must find something plausible that is predicted: the allowed family is no reason to remove another
    unsure = {CJ_0: 0.5, LATIN_0: 0.4999, LOWRES_0: 0.0001}
    assert decide(gate, unsure, [CJ_0, LATIN_0], z, LOWRES).reason == "not_confident"
    strict = GateOptions(first_token=False, threshold=0.5)
    assert decide(gate, c, [CJ_0, LATIN_0], z, LOWRES, gate_options=strict).banned == ("cj", "latin")


def test_confidence_sets_of_the_file_are_used(make_gate: MakeGate) -> None:
    gate = make_gate(Rules(BY_TENS.family, MASKABLE, SYMBOLS, confidence=((2, 0.9),)))
    c = {CJ_0: 0.5, CJ_1: 0.3, LOWRES_0: 0.2}
    assert decide(gate, c, [CJ_0], ONLY_LOWRES, LOWRES).reason == "not_confident"


def test_highest_z_is_predicted_below_the_threshold(gate: Gate) -> None:
    c = {CJ_0: 0.5, LATIN_0: 0.3, LOWRES_0: 0.2}
    decision = decide(gate, c, [CJ_0, LATIN_0], (-3.0, -2.0, -4.0, -5.0), last=LOWRES)
    assert decision.predicted == ("latin",)
    assert decision.candidates.tolist() == [LATIN_0, LOWRES_0]


def test_first_of_equal_z_is_predicted(gate: Gate) -> None:
    decision = decide(gate, {CJ_0: 0.5, LATIN_0: 0.5}, [CJ_0, LATIN_0], (-2.0, -2.0, -2.0, -2.0), last=LOWRES)
    assert decision.predicted == ("cj",)
    assert decision.candidates.tolist() == [CJ_0]


def test_equal_logits_rank_by_lower_id(make_gate: MakeGate) -> None:
    # one set of five: the Chinese token and four of six equal ones
    gate = make_gate(Rules(BY_TENS.family, MASKABLE, SYMBOLS, confidence=((5, 0.999),)))
    c = {CJ_0: 0.7, **dict.fromkeys((35, 33, 31, 34, 32, 30), 0.05)}
    decision = decide(gate, c, [CJ_0], ONLY_LOWRES, last=LOWRES)
    assert decision.candidates.tolist() == [30, 31, 32, 33]


def test_forbidden_token_does_not_make_the_model_confident(gate: Gate) -> None:
    c = {LATIN_0: 0.6, LATIN_1: 0.4, LOWRES_0: 0.0}
    decision = decide(gate, c, [LATIN_0, LATIN_1], ONLY_LOWRES, last=CJ)
    assert decision.reason == "not_confident"


def test_forbidden_survivor_of_a_banned_family_does_not_matter(gate: Gate) -> None:
    c = {LOWRES_0: 1.0, CJ_0: 0.0}
    decision = decide(gate, c, [LOWRES_0, CJ_0], ONLY_LOWRES, last=LOWRES)
    assert decision.reason == "nothing_banned"


def test_forbidden_survivor_is_no_candidate_after_an_intervention(gate: Gate) -> None:
    c = {CJ_0: 0.6, LOWRES_0: 0.4, LOWRES_1: 0.0, SYMBOL_0: 0.0}
    decision = decide(gate, c, [CJ_0, LOWRES_0, LOWRES_1, SYMBOL_0], ONLY_LOWRES, last=LOWRES)
    assert decision.candidates.tolist() == [LOWRES_0]


# --- the options, by hand ------------------------------------------------------------------------------------------


def test_without_persistence_the_last_family_can_be_banned(gate: Gate) -> None:
    c = {CJ_0: 0.6, LOWRES_0: 0.4}
    decision = decide(gate, c, [CJ_0, LOWRES_0], ONLY_LOWRES, CJ, gate_options=GateOptions(persistence=False))
    assert decision.allowed == ("lowres",)
    assert decision.banned == ("cj", "latin")
    assert decision.candidates.tolist() == [LOWRES_0]


@pytest.mark.parametrize("first_token", [False, True])
def test_without_persistence_no_earlier_token_is_needed(gate: Gate, first_token: bool) -> None:
    c = {CJ_0: 0.6, LOWRES_0: 0.4}
    off = GateOptions(persistence=False, first_token=first_token)
    assert decide(gate, c, [CJ_0, LOWRES_0], ONLY_LOWRES, None, gate_options=off).candidates.tolist() == [LOWRES_0]


def test_first_token_acts_at_the_start_of_a_reply(gate: Gate) -> None:
    c = {CJ_0: 0.6, LOWRES_0: 0.4}
    decision = decide(gate, c, [CJ_0, LOWRES_0], ONLY_LOWRES, None, gate_options=GateOptions(first_token=True))
    assert decision.intervene
    assert decision.allowed == ("lowres",)
    assert decision.candidates.tolist() == [LOWRES_0]


def test_first_token_keeps_persistence_afterwards(gate: Gate) -> None:
    c = {CJ_0: 0.6, LOWRES_0: 0.4}
    decision = decide(gate, c, [CJ_0, LOWRES_0], ONLY_LOWRES, CJ, gate_options=GateOptions(first_token=True))
    assert decision.reason == "nothing_banned"


def test_the_confidence_set_is_taken_at_no_lower_temperature_than_its_own(gate: Gate) -> None:
    # weights exp(0) and exp(-4 / T): before the second token come 0.9967 at T = 0.7 and 0.999999998 at T = 0.2
    c = {CJ_0: 0.98201, LOWRES_0: 0.01799}
    for options, temperature, intervenes in (
        (PAPER, 0.7, True),
        (PAPER, 0.2, False),
        (GateOptions(first_token=False), 0.2, True),
        (GateOptions(first_token=False, confidence_temperature=0.3), 0.2, False),
        (GateOptions(first_token=False, confidence_temperature=0.3), 0.7, True),
    ):
        decision = decide(gate, c, [CJ_0], ONLY_LOWRES, LOWRES, temperature=temperature, gate_options=options)
        assert decision.reason == ("intervene" if intervenes else "not_confident")
        assert decision.candidates.tolist() == ([LOWRES_0] if intervenes else [CJ_0])


def test_without_confidence_the_gate_alone_decides(gate: Gate) -> None:
    # LOWRES_0 is in no confidence set, the symbol is in S
    c = {LATIN_0: 0.7, LATIN_1: 0.27, SYMBOL_0: 0.0295, LOWRES_0: 0.0005}
    off = GateOptions(first_token=False, confidence=False)
    decision = decide(gate, c, [LATIN_0, LATIN_1, SYMBOL_0], ONLY_LOWRES, CJ, gate_options=off)
    assert decision.intervene
    assert decision.candidates.tolist() == [SYMBOL_0]


def test_without_confidence_nothing_is_left_empty(gate: Gate) -> None:
    c = {LATIN_0: 0.7, LATIN_1: 0.2995, LOWRES_0: 0.0005}
    off = GateOptions(first_token=False, confidence=False)
    decision = decide(gate, c, [LATIN_0], ONLY_LOWRES, CJ, gate_options=off)
    assert not decision.intervene
    assert decision.reason == "would_empty"
    assert decision.candidates.tolist() == [LATIN_0]


def test_finite_strength_lowers_the_banned_families(gate: Gate) -> None:
    c = {CJ_0: 0.6, LOWRES_0: 0.2, LATIN_0: 0.15, SYMBOL_0: 0.05}
    soft = GateOptions(first_token=False, strength=1.5)
    decision = decide(gate, c, [CJ_0, LOWRES_0], ONLY_LOWRES, LOWRES, gate_options=soft)
    assert decision.intervene
    # log 0.6 - 1.5 = -2.011; log 0.2 = -1.609; log 0.05 = -2.996; log 0.15 - 1.5 = -3.397
    assert decision.candidates.tolist() == [LOWRES_0, CJ_0, SYMBOL_0, LATIN_0]
    np.testing.assert_allclose(decision.logits, [-1.6094379, -2.0108256, -2.9957323, -3.3971200], rtol=1e-6)


def test_strength_zero_only_widens_the_survivors(gate: Gate) -> None:
    c = {CJ_0: 0.6, LOWRES_0: 0.4}
    decision = decide(gate, c, [CJ_0], ONLY_LOWRES, LOWRES, gate_options=GateOptions(strength=0.0))
    assert decision.candidates.tolist() == [CJ_0, LOWRES_0]
    np.testing.assert_array_equal(decision.logits, np.log(np.array([0.6, 0.4], np.float32)))


# --- refused input -------------------------------------------------------------------------------------------------

GOOD: dict[str, Any] = {
    "ids": np.array([0, 10, 30], np.int32),
    "logits": np.zeros(3, np.float32),
    "survivors": np.array([0], np.int32),
    "z": np.zeros(4, np.float32),
    "last": 3,
    "temperature": 1.0,
}


@pytest.mark.parametrize(
    ("change", "mentions"),
    [
        ({"ids": np.array([0, 10, 40], np.int32)}, "40"),
        ({"ids": np.array([0, 10, -1], np.int32)}, "-1"),
        ({"logits": np.zeros(2, np.float32)}, "2"),
        ({"survivors": np.array([11], np.int32)}, "11"),
        ({"z": np.zeros(3, np.float32)}, "3"),
        ({"z": np.zeros((1, 4), np.float32)}, "z"),
        ({"last": 4}, "4"),
        ({"last": -1}, "-1"),
        ({"temperature": -1.0}, "-1"),
        ({"temperature": math.nan}, "nan"),
    ],
)
def test_bad_arguments_are_refused_with_the_value_found(gate: Gate, change: dict[str, Any], mentions: str) -> None:
    arguments = {**GOOD, **change}
    with pytest.raises(GateError, match=mentions):
        gate.decide(
            arguments.pop("ids"), arguments.pop("logits"), arguments.pop("survivors"), arguments.pop("z"), **arguments
        )


@pytest.mark.parametrize(
    "change",
    [
        {"mode": "mute"},
        {"strength": -1.0},
        {"strength": math.nan},
        {"threshold": 1.5},
        {"threshold": -0.1},
        {"threshold": math.nan},
        {"n_events": -1},
    ],
)
def test_bad_options_are_refused(change: dict[str, Any]) -> None:
    with pytest.raises(GateError, match=next(iter(change))):
        GateOptions(**change)


# --- random cases against the oracle -------------------------------------------------------------------------------


def random_rules(rng: np.random.Generator) -> Rules:
    """Draws a gate: 2 to 127 families, any of them maskable but the neutral one, 1 to 400 tokens."""
    n_families = int(rng.choice([2, 3, 4, 4, 4, 5, 8, 17, 64, 127]))
    n_vocab = int(rng.choice([n_families, 40, 200, 400]))
    n_vocab = max(n_vocab, 4)
    neutral = int(rng.integers(n_families))
    maskable = tuple(bool(f != neutral and rng.random() < 0.7) for f in range(n_families))
    shape = rng.random()
    if shape < 0.1:
        family = np.full(n_vocab, neutral)  # nothing but symbols
    elif shape < 0.2:
        family = np.full(n_vocab, rng.integers(n_families))
    else:
        family = rng.integers(0, n_families, n_vocab)
    confidence: tuple[tuple[int, float], ...] = ((5, 0.999), (20, 0.95))
    if rng.random() < 0.3:
        confidence = tuple(
            (int(rng.integers(1, 40)), float(np.float32(rng.uniform(0.05, 0.9995)))) for _ in range(rng.integers(1, 4))
        )
    threshold = 0.5 if rng.random() < 0.6 else float(np.float32(rng.uniform(0.05, 0.95)))
    own, first = (
        tuple(rng.uniform(0.02, 0.98, n_families).astype(np.float32).tolist()) if rng.random() < 0.4 else ()
        for _ in range(2)
    )
    masked_as = oracle.draw_masked_as(rng, n_vocab, n_families) if rng.random() < 0.4 else {}
    allow = oracle.draw_allowed(rng, n_families)
    return Rules(family, maskable, neutral, threshold, confidence, own, first, masked_as, allow)


def random_case(rng: np.random.Generator, rules: Rules) -> dict[str, Any]:
    """Draws the arguments of one decision, odd ones among them."""
    n_vocab, n_families = len(rules.family), len(rules.maskable)
    n = int(rng.choice([1, 2, 3, 5, 12, 30, n_vocab]))
    n = min(n, n_vocab)
    ids = rng.choice(n_vocab, n, replace=False).astype(np.int32)
    logits = rng.normal(0.0, float(rng.choice([0.01, 1.0, 3.0, 10.0])), n).astype(np.float32)
    kind = rng.random()
    if kind < 0.25:
        logits = np.round(logits)  # ties
    elif kind < 0.30:
        logits[:] = logits[0]  # nothing but ties
    elif kind < 0.35:
        logits = (logits * np.float32(1e30)).astype(np.float32)
    elif kind < 0.40:
        logits += np.float32(rng.choice([-1e4, 1e4]))
    if rng.random() < 0.25:
        forbidden = rng.random(n) < rng.choice([0.1, 0.5, 0.9])
        if forbidden.all():
            forbidden[rng.integers(n)] = False
        logits[forbidden] = -np.inf
    if rng.random() < 0.85:
        survivors = ids[oracle.ranking(ids, logits)[: int(rng.integers(1, n + 1))]]
    else:
        survivors = rng.choice(ids, int(rng.integers(1, n + 1)), replace=False)
    rng.shuffle(survivors)
    z = rng.normal(rng.choice([-3.0, 0.0]), float(rng.choice([0.5, 3.0, 50.0])), n_families).astype(np.float32)
    if rng.random() < 0.1:
        z = np.round(z)  # ties, and zeros: a sigmoid of exactly one half
    last: int | None = None
    languages = [f for f in range(n_families) if f != rules.neutral]
    if languages and rng.random() < 0.85:
        last = int(rng.choice(languages))
    temperature = float(np.float32(rng.choice([0.05, 0.3, 0.7, 1.0, 1.0, 1.5, 5.0])))
    switches = Switches(
        strength=math.inf if rng.random() < 0.7 else float(np.float32(rng.choice([0.0, 0.5, 2.0, 30.0]))),
        threshold=None if rng.random() < 0.8 else float(np.float32(rng.uniform(0.05, 0.95))),
        persistence=bool(rng.random() < 0.8),
        confidence=bool(rng.random() < 0.8),
        confidence_temperature=float(np.float32(rng.choice([0.0, 0.7, 1.2]))),
        first_token=bool(rng.random() < 0.4),
    )
    return {
        "ids": ids,
        "logits": logits,
        "survivors": survivors,
        "z": z,
        "last": last,
        "temperature": temperature,
        "switches": switches,
    }


def expected_candidates(outcome: oracle.Outcome) -> tuple[list[int], list[float]]:
    """Returns ids and float32 logits as `Decision` lists them: most probable first, then the lower id."""
    ids = np.array([i for i, x in outcome.candidates.items() if x > -math.inf], np.int64)
    logits = np.array([outcome.candidates[int(i)] for i in ids], np.float32)
    order = oracle.ranking(ids, logits)
    return ids[order].tolist(), logits[order].tolist()


def check(gate: Gate, names: tuple[str, ...], rules: Rules, case: dict[str, Any], outcome: oracle.Outcome) -> None:
    """Compares one decision with the oracle's, and asserts what must hold whatever the rules say."""
    switches: Switches = case["switches"]
    decision = gate.decide(
        case["ids"],
        case["logits"],
        case["survivors"],
        case["z"],
        last=case["last"],
        temperature=case["temperature"],
        options=options(switches),
    )
    assert decision.reason == outcome.reason, case
    assert decision.intervene == outcome.intervene, case
    if outcome.reason != "no_history":
        assert set(decision.predicted) == {names[f] for f in outcome.predicted}, case
        assert set(decision.allowed) == {names[f] for f in outcome.allowed}, case
        assert set(decision.banned) == {names[f] for f in outcome.banned}, case
    finite = decision.logits > -np.inf
    ids, logits = expected_candidates(outcome)
    assert decision.candidates[finite].tolist() == ids, case
    if math.isinf(switches.strength):
        assert decision.logits[finite].tolist() == logits, case
    else:
        np.testing.assert_allclose(decision.logits[finite], logits, rtol=1e-6, atol=1e-6)

    survivors = {int(i) for i, x in zip(case["ids"], case["logits"]) if i in case["survivors"] and x > -np.inf}
    left = set(ids)
    if survivors:
        assert left, case
    for token in survivors - left:
        assert rules.maskable[rules.goes_with(token)], case
        assert rules.goes_with(token) != rules.neutral, case
        assert rules.goes_with(token) in outcome.banned, case
    if not decision.intervene:
        assert left == survivors, case


def test_twenty_thousand_random_cases_equal_the_oracle(make_gate: MakeGate) -> None:
    rng = np.random.default_rng(20251017)
    n_gates, n_cases = 50, 400
    reasons: Counter[str] = Counter()
    on_the_border = 0
    for _ in range(n_gates):
        rules = random_rules(rng)
        gate = make_gate(rules)
        for _ in range(n_cases):
            case = random_case(rng, rules)
            outcome = oracle.decide(rules, **case)
            if outcome.margin < 1e-6:
                on_the_border += 1
                continue
            check(gate, gate.families.names, rules, case, outcome)
            reasons[outcome.reason] += 1
    assert on_the_border < 0.01 * n_gates * n_cases
    assert sum(reasons.values()) > 0.99 * n_gates * n_cases
    assert {r for r, n in reasons.items() if n >= 200} == {
        "intervene",
        "no_history",
        "nothing_banned",
        "not_confident",
        "would_empty",
    }, reasons


@settings(max_examples=150)
@given(data=st.data())
def test_invariants_on_the_four_families(gate: Gate, data: st.DataObject) -> None:
    ids = data.draw(st.lists(st.integers(0, 39), min_size=1, max_size=40, unique=True))
    value = st.floats(-80, 80, width=32) | st.just(-math.inf) | st.sampled_from([0.0, 1.0])
    logits = np.array(data.draw(st.lists(value, min_size=len(ids), max_size=len(ids))), np.float32)
    survivors = data.draw(st.lists(st.sampled_from(ids), min_size=1, max_size=len(ids), unique=True))
    z = np.array(data.draw(st.lists(st.floats(-30, 30, width=32), min_size=4, max_size=4)), np.float32)
    last = data.draw(st.sampled_from([None, CJ, LATIN, LOWRES]))
    temperature = data.draw(st.sampled_from([0.05, 0.7, 1.0, 5.0]))
    decision = gate.decide(
        np.array(ids, np.int32),
        logits,
        np.array(survivors, np.int32),
        z,
        last=last,
        temperature=temperature,
        options=PAPER,
    )
    by_id = dict(zip(ids, logits.tolist()))
    alive = {i for i in survivors if by_id[i] > -math.inf}
    left = set(decision.candidates[decision.logits > -np.inf].tolist())
    assert not alive or left
    # symbols and lowres tokens are never taken away
    assert {i for i in alive if i // 10 in (SYMBOLS, LOWRES)} <= left
    # what is left comes from C with its own logit
    assert all(by_id[int(i)] == x for i, x in zip(decision.candidates, decision.logits))
    if decision.intervene:
        assert last is not None
        banned = {NAMES.index(name) for name in decision.banned}
        assert banned
        assert last not in banned
        assert any(i // 10 in banned for i in alive)
        assert not any(i // 10 in banned for i in left)
    else:
        assert left == alive


def test_order_of_the_arguments_does_not_matter(gate: Gate) -> None:
    rng = np.random.default_rng(3)
    for _ in range(200):
        case = random_case(rng, BY_TENS)
        switches = options(case.pop("switches"))
        keywords = {name: case[name] for name in ("last", "temperature")}
        decision = gate.decide(case["ids"], case["logits"], case["survivors"], case["z"], options=switches, **keywords)
        shuffle = rng.permutation(len(case["ids"]))
        again = gate.decide(
            case["ids"][shuffle],
            case["logits"][shuffle],
            case["survivors"][::-1].copy(),
            case["z"],
            options=switches,
            **keywords,
        )
        assert again.reason == decision.reason
        assert again.candidates.tolist() == decision.candidates.tolist()


def test_everything_forbidden_is_left_alone(gate: Gate) -> None:
    decision = decide(gate, {CJ_0: 0.0, LOWRES_0: 0.0}, [CJ_0], ONLY_LOWRES, last=LOWRES)
    assert not decision.intervene


def test_a_token_that_goes_with_another_family_still_counts_for_its_own(make_gate: MakeGate) -> None:
    gate = make_gate(replace(BY_TENS, masked_as={LOWRES_0: LATIN}))
    assert gate.token_families[LOWRES_0] == LOWRES
    assert gate.masked_as[[LOWRES_0, LOWRES_1, LATIN_0]].tolist() == [LATIN, LOWRES, LATIN]
    # it is in H, and its own family is expected, so the gate acts; it goes with `latin`
    decision = decide(gate, {LOWRES_0: 0.9, SYMBOL_0: 0.1}, [LOWRES_0], ONLY_LOWRES, last=LOWRES)
    assert decision.candidates.tolist() == [SYMBOL_0]
    assert decision.banned == ("cj", "latin")
    # nothing else is left
    decision = decide(gate, {LOWRES_0: 1.0}, [LOWRES_0], ONLY_LOWRES, last=LOWRES)
    assert (decision.reason, decision.candidates.tolist()) == ("would_empty", [LOWRES_0])
    # `latin` may come, so it may come
    assert decide(gate, {LOWRES_0: 0.9, SYMBOL_0: 0.1}, [LOWRES_0], ONLY_LATIN, last=LOWRES).reason == "nothing_banned"


def test_exempt_tokens_are_neutral_while_decoding(make_gate: MakeGate) -> None:
    gate = make_gate(BY_TENS, exempt_tokens=(LATIN_0,))
    assert gate.token_families[LATIN_0] == SYMBOLS
    assert gate.token_families[LATIN_1] == LATIN
    c = {LATIN_0: 0.5, LATIN_1: 0.3, LOWRES_0: 0.2}
    decision = decide(gate, c, [LATIN_0, LATIN_1], ONLY_LOWRES, last=LOWRES)
    assert decision.candidates.tolist() == [LATIN_0, LOWRES_0]
