"""Methods as text, and the gate that knows nothing."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path

import numpy as np
import pytest

from lcg_cpp import PAPER_OPTIONS, Gate, GateError, GateOptions, Phase
from lcg_cpp.engine.model import read_base_model
from lcg_cpp.evaluate.methods import METHODS, SOFT_STRENGTH, Method, parse_methods
from lcg_cpp.evaluate.untrained import rules_gate
from lcg_cpp.gate.families import DEFAULT_FAMILIES, token_families
from lcg_cpp.gate.rule_set import FamilySet
from tiny_model import TinyVocab

CJ, LATIN, SYMBOLS, LOWRES = range(4)

# ---- methods as text ----


def test_built_in_methods_are_what_they_are_called() -> None:
    found = parse_methods("all", "g.gguf")
    assert tuple(method.name for method in found) == METHODS
    assert set(found) == {
        Method("none"),
        Method("greedy", temperature=0.0),
        Method("ban", ban=True),
        Method("prompt", warning=True),
        Method("rules-only", GateOptions(first_token=False, confidence_temperature=0.0)),
        Method("training-free", GateOptions(), training_free=True),
        Method("gate-only", GateOptions(persistence=False, confidence=False), "g.gguf"),
        Method("lcg", GateOptions(), "g.gguf"),
        Method("lcg-soft", GateOptions(strength=SOFT_STRENGTH), "g.gguf"),
    }


def test_without_a_gate_all_is_what_needs_none() -> None:
    names = [method.name for method in parse_methods("all", None)]
    assert names == ["none", "greedy", "ban", "prompt", "rules-only", "training-free"]


def test_methods_stand_in_the_order_they_are_named() -> None:
    assert [method.name for method in parse_methods(" lcg, none ,ban", "g.gguf")] == ["lcg", "none", "ban"]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("unadjusted=other/g.gguf", Method("unadjusted", GateOptions(), "other/g.gguf")),
        (r"x=C:\gates\a=b+c.gguf", Method("x", GateOptions(), r"C:\gates\a=b+c.gguf")),
        ("paper=lcg+first_token=off+confidence_temperature=0", Method("paper", PAPER_OPTIONS, "g.gguf")),
        (
            "lcg+threshold=0.3+temperature=1.5",
            Method("lcg+threshold=0.3+temperature=1.5", GateOptions(threshold=0.3), "g.gguf", temperature=1.5),
        ),
        ("hot=none+temperature=1.2", Method("hot", temperature=1.2)),
        ("pin=none+deny=cj/thai", Method("pin", deny=("cj", "thai"))),
        ("lcg+allow=latin", Method("lcg+allow=latin", GateOptions(), "g.gguf", allow=("latin",))),
        (
            "a=lcg+while_thinking=observe+leave_alone=code/tool_calls",
            Method("a", GateOptions(), "g.gguf", while_thinking="observe", leave_alone=("code", "tool_calls")),
        ),
        ("hard=lcg-soft+strength=inf", Method("hard", GateOptions(strength=math.inf), "g.gguf")),
        (
            "bare=o.gguf+persistence=off+confidence=off",
            Method("bare", GateOptions(persistence=False, confidence=False), "o.gguf"),
        ),
    ],
)
def test_gates_names_and_options(text: str, expected: Method) -> None:
    assert parse_methods(text, "g.gguf") == (expected,)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "no method is named, expected some of none, greedy"),
        ("none,lgc", "method `lgc` is unknown, expected some of none, greedy"),
        ("lcg+treshold=0.3", "method `lcg+treshold=0.3` is unknown"),
        ("g.gguf", "method `g.gguf` is unknown"),
        ("none,x=lcg,x=ban", "two methods are called `x`, expected NAME=METHOD with another name"),
        ("lcg+threshold=2", "method `lcg+threshold=2`: `threshold` is 2.0, expected a probability"),
        ("lcg+threshold=half", "method `lcg+threshold=half`: `threshold` is 'half', expected a probability"),
        ("a=lcg+confidence=no", "method `a`: `confidence` is 'no', expected on or off"),
        ("none+threshold=0.3", "method `none+threshold=0.3` has no gate, `threshold` has no meaning"),
        ("a=none+temperature=-1", "method `a`: `temperature` is -1.0, expected at least 0"),
        ("a=none+allow=latim", "method `a`: `allow` names 'latim', expected latin"),
        ("a=lcg+while_thinking=no", 'method `a`: `mode` is "no", expected "mask"'),
        ("a=none+leave_alone=cod", "method `a`: `marks` is 'cod', expected code"),
        ("a=none+temperature=nan", "method `a`: `temperature` is nan, expected at least 0"),
    ],
)
def test_what_is_no_method_is_refused(text: str, message: str) -> None:
    with pytest.raises(GateError) as error:
        parse_methods(text, "g.gguf")
    assert str(error.value).startswith(message)


def test_a_method_asks_for_its_gate_its_pin_and_its_phases_together() -> None:
    method = Method(
        "a", GateOptions(threshold=0.3), "g.gguf", deny=("thai",), while_thinking="off", leave_alone=("code",)
    )
    usual = GateOptions(threshold=0.3, deny=("thai",))
    thinking = Phase("thinking", GateOptions(threshold=0.3, deny=("thai",), mode="off"))
    code = Phase("code", GateOptions(mode="off"))
    assert method.gate_options() == dataclasses.replace(usual, phases=(thinking, code))
    assert Method("none").gate_options() == GateOptions()


def test_a_method_that_needs_a_gate_says_so() -> None:
    with pytest.raises(GateError, match=r"method `gate-only` needs a gate file \(--lcg\)"):
        parse_methods("none,gate-only", None)


@pytest.mark.parametrize("fields", [{"gate": "g.gguf"}, {"ban": True, "options": GateOptions()}])
def test_methods_that_make_no_sense_are_refused(fields: dict[str, object]) -> None:
    with pytest.raises(GateError, match="method `x`"):
        Method("x", **fields)  # type: ignore[arg-type]


# ---- the gate that knows nothing ----


@pytest.fixture(scope="module")
def rules(tiny_model_path: Path) -> Gate:
    """The rules around nothing, for the tiny model."""
    return rules_gate(read_base_model(tiny_model_path))


def test_it_predicts_what_may_not_be_masked_whatever_the_state(rules: Gate) -> None:
    hidden = np.random.default_rng(0).normal(0, 50, (64, rules.n_embd)).astype(np.float32)
    predicted = rules.predict(hidden) > 0
    assert (predicted == [False, False, True, True]).all()
    assert rules.families == DEFAULT_FAMILIES


def test_its_families_are_the_default_ones_with_exemptions(rules: Gate, tiny_model_path: Path) -> None:
    vocab = read_base_model(tiny_model_path).vocab
    expected = token_families(vocab, "default")
    expected[[vocab.tokens.index(text) for text in (b"assistant", *(b"%c" % c for c in b"ABCDEFG"))]] = SYMBOLS
    expected[[vocab.tokens.index(b" " + bytes([c])) for c in b"ABCDEFG"] + [vocab.tokens.index(b" assistant")]] = [
        *[SYMBOLS] * 7,
        LATIN,
    ]
    np.testing.assert_array_equal(rules.token_families, expected)


def test_it_has_the_families_of_the_gate_it_stands_beside(tiny_model_path: Path, make_gate_file) -> None:
    base = read_base_model(tiny_model_path)
    families = np.arange(base.vocab.n_vocab, dtype=np.uint8) % 5
    weights = {"lcg.fc2.weight": np.ones((5, base.n_embd), np.float32)}
    path = make_gate_file(
        weights,
        families=(five := FamilySet(("a", "b", "c", "d", "e"), (True, False, True, False, True), 3, "letters")),
        token_family=families,
        exempt_tokens=(5,),
        masked_as={7: 4},
        confidence=((3, 0.5),),
    )
    rules = rules_gate(base, Gate.load(path))
    families[5] = 3
    np.testing.assert_array_equal(rules.token_families, families)
    families[7] = 4
    np.testing.assert_array_equal(rules.masked_as, families)
    assert rules.families == five
    assert rules.confidence == ((3, 0.5),)
    predicted = rules.predict(np.ones((1, base.n_embd), np.float32))[0] > 0
    assert predicted.tolist() == [False, True, False, True, False]


@pytest.mark.parametrize(
    ("last", "likely", "reason"),
    [
        # (after Arabic, Chinese and Latin can be sampled, the model finds Arabic plausible): both go
        (LOWRES, ("中国", " the", " في"), "intervene"),
        # nothing but Chinese and Latin is plausible: the model is sure of the switch
        (LOWRES, ("中国", " the"), "not_confident"),
        (LATIN, ("中国", " the", ","), "intervene"),
        (LATIN, (" of", " the", ","), "nothing_banned"),
        (LATIN, ("中国", " the", " of"), "not_confident"),
        (None, ("中国", " في"), "no_history"),
    ],
)
def test_what_is_left_are_persistence_and_confidence(
    rules: Gate, tiny_vocab: TinyVocab, last: int | None, likely: tuple[str, ...], reason: str
) -> None:
    ids = np.array([tiny_vocab.id_of(text) for text in likely], np.int32)
    z = rules.predict(np.zeros((1, rules.n_embd), np.float32))[0]
    found = rules.decide(ids, np.zeros(len(ids)), ids, z, last=last, options=PAPER_OPTIONS)
    assert found.reason == reason
    if reason == "intervene":
        kept = {text for text, token in zip(likely, ids) if rules.token_families[token] in (last, SYMBOLS, LOWRES)}
        assert {tiny_vocab.contents[token].decode() for token in found.candidates} == kept
