"""The gate without an MLP, whose P is the label of the step's own logits; the labels here are NumPy's."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import llama_cpp
import numpy as np
import numpy.typing as npt
import pytest

import oracle
from lcg_cpp import Gate, GatedLlama, GateError, GateOptions
from lcg_cpp.engine.model import read_base_model
from lcg_cpp.engine.output_norms import read_output_matrix
from lcg_cpp.evaluate.folder import method_settings
from lcg_cpp.evaluate.methods import Method, parse_methods
from lcg_cpp.evaluate.replies import Replier
from lcg_cpp.evaluate.untrained import training_free_gate
from lcg_cpp.gate.families import token_families
from oracle import Chain
from test_evaluate import ENGINE, PAPER_SAMPLING, PROMPTS, said_by
from test_labels import adjusted_logits, expected_label
from test_stages import (
    LATIN,
    LOWRES,
    STOCK_TOLERANCE,
    SYMBOLS,
    MakeGate,
    assert_same_candidates,
    check_event,
    four_families,
    gate_options,
    history_of,
    random_chain,
    random_row,
    random_switches,
    run,
)

TOP_K, TOP_P = 5, 0.9  # of a label
SURE = 16.0
SIBLINGS = frozenset((0, LOWRES))


CHINESE_AND_JAPANESE = {"hans", "hant", "hanst", "hansj", "hantj", "han", "kana"}


def z_of(certain: frozenset[int], n_families: int) -> npt.NDArray[np.float32]:
    """What a gate says that is sure of some families and of nothing else."""
    return np.where(np.isin(np.arange(n_families), list(certain)), SURE, -SURE).astype(np.float32)


# ---- one step ----


@pytest.mark.parametrize(("n_vocab", "n_cases"), [(30, 1200), (300, 1000), (3000, 15)])
def test_it_acts_as_a_gate_does_that_knows_the_label_of_the_step(
    make_gate: MakeGate, n_vocab: int, n_cases: int
) -> None:
    rng = np.random.default_rng(n_vocab)
    in_labels = four_families(n_vocab)
    exempt = tuple(rng.choice(n_vocab, n_vocab // 10, replace=False).tolist())  # in labels they keep their family
    rules = replace(in_labels, family=np.where(np.isin(np.arange(n_vocab), exempt), SYMBOLS, in_labels.family))
    gate = make_gate(in_labels, exempt_tokens=exempt)
    families = in_labels.family.astype(np.uint8)
    outcomes: Counter[str] = Counter()
    n_open = n_runs = 0
    for number in range(n_cases):
        row, chain, switches = random_row(rng, n_vocab), random_chain(rng, n_vocab), random_switches(rng)
        switches = replace(switches, threshold=None)
        norms = rng.lognormal(0, 0.3, n_vocab).astype(np.float32) if number % 4 else None
        softcap = 0.0 if number % 5 or np.abs(row[row > -math.inf]).max() > 60 else 30.0  # equal values are llama.cpp's
        if softcap:
            row = np.where(row > -math.inf, 29.9 * np.tanh(row / 30), row).astype(np.float32)
        label = expected_label(adjusted_logits(row, norms, softcap), families, TOP_K, TOP_P, 4)
        siblings = SIBLINGS if number % 3 == 0 else frozenset()
        predicted = label.certain | (siblings if label.certain & siblings else frozenset())
        last = None if rng.random() < 0.15 else int(rng.choice([0, LATIN, LOWRES]))
        history = history_of(rules, last, rng)
        z = z_of(predicted, 4)
        expected = oracle.step(row, chain, rules=rules, z=z, last=last, switches=switches)
        if label.certain != label.possible or expected.margin < STOCK_TOLERANCE:
            n_open += 1
            continue
        assert expected.outcome is not None
        outcomes[expected.outcome.reason] += 1
        names = [gate.families.names[f] for f in siblings]
        free = gate.training_free(families, norms, softcap, names)
        for direct, eager in ((True, False), (False, True)):
            options = gate_options(switches, eager=eager)
            result = run(free, row, chain, None, history, options=options, direct=direct)
            left = {i: x for i, x in expected.candidates.items() if x > -math.inf}
            assert_same_candidates(result, left, chain, (number, chain, switches, last, direct))
            assert result.stats["interventions"] == len(result.events) == int(expected.outcome.intervene), number
            assert result.stats["without_hidden"] == 0
            n_runs += 0 if eager else result.stats["gate_runs"]
            if expected.outcome.intervene:
                check_event(result.events[0], expected, rules, row, chain)
                assert result.events[0]["z"] == z.tolist()
    n_compared = sum(outcomes.values())
    assert n_open < 0.15 * n_cases
    assert min(outcomes[r] for r in ("intervene", "no_history", "nothing_banned")) > 0.02 * n_cases, outcomes
    assert outcomes["intervene"] <= n_runs < n_compared  # lazy as a gate with weights


def test_the_norms_decide_what_is_predicted(make_gate: MakeGate) -> None:
    rules = oracle.Rules(np.array([LOWRES, LATIN, SYMBOLS, LOWRES]), (True, True, False, False), SYMBOLS)
    gate, families = make_gate(rules), rules.family.astype(np.uint8)
    row = np.array([6.0, 6.2, -9.0, -9.0], np.float32)  # Latin is a little ahead: its row is long
    chain = Chain(top_k=0, top_p=1.0, min_p=0.0, temp=1.0)
    plain = gate.training_free(families, None, 0.0)
    adjusted = gate.training_free(families, np.array([1.0, 2.0, 1.0, 1.0], np.float32), 0.0)  # 6 to 3.1
    assert set(run(plain, row, chain, None, (0,)).candidates) == {0, 1, 2, 3}
    assert set(run(adjusted, row, chain, None, (0,)).candidates) == {0, 2, 3}
    assert set(run(adjusted, row, chain, None, (1,)).candidates) == {0, 1, 2, 3}  # Latin goes on


def test_it_reads_what_the_model_said_and_not_what_the_chain_made_of_it(make_gate: MakeGate) -> None:
    rules = oracle.Rules(np.array([LOWRES, LATIN, LATIN, LOWRES]), (True, True, False, False), SYMBOLS)
    gate = make_gate(rules).training_free(rules.family.astype(np.uint8), None, 0.0)
    row = np.array([5.0, 5.0, -9.0, -9.0], np.float32)  # Latin and Arabic are likely
    chain = Chain(top_k=0, top_p=1.0, min_p=0.0, temp=1.0)
    result = run(gate, row, chain, None, (1, 3), direct=False, repeat_penalty=100.0)
    assert set(result.candidates) == {0, 1, 2, 3}  # the penalty on token 1 says nothing about Latin
    assert result.stats["interventions"] == 0


def test_what_cannot_be_is_refused(make_gate: MakeGate) -> None:
    gate = make_gate(four_families(10))
    families, norms = four_families(10).family.astype(np.uint8), np.ones(10, np.float32)
    for changes, message in (
        ({"families": families[:9]}, r"`families` has shape \(9,\), expected \(10,\)"),
        ({"families": np.full(10, 4, np.uint8)}, "`families` is 4 at token 0, expected 0 to 3"),
        ({"norms": norms[:9]}, r"`norms` has shape \(9,\), expected \(10,\)"),
        ({"norms": norms * 0}, r"`norms` is 0\.0+ at token 0, expected a finite number above 0"),
    ):
        given: dict[str, Any] = {"families": families, "norms": norms, "softcap": 0.0, **changes}
        with pytest.raises(GateError, match=message):
            gate.training_free(**given)
    with pytest.raises(GateError, match="a training-free gate has no weights"):
        gate.training_free(families, norms, 0.0).predict(np.zeros((1, 4), np.float32))


# ---- as a method ----


@pytest.fixture(scope="module")
def llm(tiny_model_path: Path) -> GatedLlama:
    """The model that methods are run on."""
    return GatedLlama(str(tiny_model_path), **ENGINE)


def test_every_intervention_is_that_of_the_label_of_the_models_own_logits(
    llm: GatedLlama, tiny_model_path: Path
) -> None:
    method = Method("free", GateOptions(), training_free=True)
    replier = Replier(llm, (method,), {}, PAPER_SAMPLING)
    base = read_base_model(tiny_model_path)
    families, norms = token_families(base.vocab, "scripts"), read_output_matrix(tiny_model_path).norms
    relative = (norms / norms.mean(dtype=np.float64)).astype(np.float32)
    plain: Any = llama_cpp.Llama(str(tiny_model_path), logits_all=True, **ENGINE)
    n_events = n_chinese = 0
    for prompt in PROMPTS:
        for seed in range(4):
            reply = said_by(replier, method, prompt, seed)
            asked = list(replier.prompt_tokens(prompt).tokens)
            plain.reset()
            plain.eval([*asked, *reply["tokens"]])
            for event in reply["events"]:
                logits = plain.scores[len(asked) + event["position"] - 1]
                adjusted = adjusted_logits(logits, relative, 0.0)
                names = replier.families.names
                label = expected_label(adjusted, families, TOP_K, TOP_P, len(names))
                likely = {names[f] for f in label.certain}
                assert likely <= set(event["predicted"]) <= likely | CHINESE_AND_JAPANESE
                assert CHINESE_AND_JAPANESE & set(names) <= set(event["predicted"]) or not CHINESE_AND_JAPANESE & likely
                n_events += 1
                n_chinese += bool(CHINESE_AND_JAPANESE & likely)
    assert n_events > 10
    assert n_chinese > 0


def test_without_a_gate_file_its_families_are_scripts_and_a_ban_stays_one_of_chinese_japanese_and_latin(
    llm: GatedLlama, gate16: Path
) -> None:
    methods = parse_methods("training-free,ban,rules-only", None)
    replier = Replier(llm, methods, {}, PAPER_SAMPLING)
    assert replier.families.rules == "scripts"
    four = Gate.load(gate16).token_families
    for seed in range(4):
        reply = said_by(replier, methods[1], PROMPTS[1], seed)
        assert min(four[reply["tokens"]]) >= SYMBOLS
        assert reply["reply"].strip()  # Arabic is not banned
    assert Replier(llm, parse_methods("none,ban", None), {}, PAPER_SAMPLING).families.rules == "default"


def test_beside_a_gate_its_families_are_the_gates(llm: GatedLlama, gate16: Path) -> None:
    methods = parse_methods("training-free,lcg", str(gate16))
    replier = Replier(llm, methods, {str(gate16): Gate.load(gate16)}, PAPER_SAMPLING)
    assert replier.families.names == ("cj", "latin", "symbols", "lowres")
    events = [event for seed in range(6) for event in said_by(replier, methods[0], PROMPTS[0], seed)["events"]]
    assert events
    assert {name for event in events for name in event["banned"]} <= {"cj", "latin"}


def test_replies_of_it_are_told_from_those_of_the_rules_alone() -> None:
    free, rules = parse_methods("training-free,rules-only", None)
    assert method_settings(free)["training_free"]
    assert "training_free" not in method_settings(rules)


def test_a_threshold_has_no_meaning_for_it_and_it_takes_no_gate_file() -> None:
    with pytest.raises(GateError, match="method `a` has no probabilities, `threshold` has no meaning"):
        parse_methods("a=training-free+threshold=0.3", None)
    with pytest.raises(GateError, match="method `x` is training-free, expected `options` and no gate"):
        Method("x", GateOptions(), "g.gguf", training_free=True)


def test_an_output_matrix_without_rows_is_told(tiny_model_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    matrix = read_output_matrix(tiny_model_path)
    empty: Callable[[str], Any] = lambda path: replace(matrix, norms=matrix.norms * 0)  # noqa: E731
    monkeypatch.setattr("lcg_cpp.evaluate.untrained.read_output_matrix", empty)
    with pytest.raises(GateError, match="`norms` are all zero"):
        training_free_gate(read_base_model(tiny_model_path))
