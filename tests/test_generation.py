"""GatedLlama end to end on the tiny model: against an independent loop with the oracle, and against plain Llama."""

from __future__ import annotations

import gc
import hashlib
import itertools
import json
import math
import re
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import llama_cpp
import numpy as np
import numpy.typing as npt
import pytest
from llama_cpp import Llama, LlamaGrammar, LlamaRAMCache, LogitsProcessorList, StoppingCriteriaList
from llama_cpp.llama_speculative import LlamaDraftModel, LlamaPromptLookupDecoding

import oracle
from lcg_cpp import Gate, GatedLlama, GateError, GateOptions
from oracle import Chain, Rules, Switches
from tiny_model import N_EMBD, TinyVocab, gate_weights

MakeGateFile = Callable[..., Path]

CJ, LATIN, SYMBOLS, LOWRES = range(4)
PROMPTS = ("the name of the city", "中国 的 名字", "في مدينة", "です", "1, 2, 3", "{")
COMMON: dict[str, Any] = {
    "n_ctx": 256,
    "n_threads": 1,
    "n_threads_batch": 1,
    "verbose": False,
    # an F16 cache turns the last bit of a state, which depends on the batch size, into differences that can be seen
    "type_k": llama_cpp.GGML_TYPE_F32,
    "type_v": llama_cpp.GGML_TYPE_F32,
}

PAPER = Switches()
GREEDY = Chain(temp=0.0)

# gates that always say the same, whatever the state
SAYS_LOWRES = (-6.0, -6.0, -6.0, 6.0)
SAYS_LATIN = (-6.0, 6.0, -6.0, -6.0)


def load(path: Path, gate: Any = None, **arguments: Any) -> GatedLlama:
    """Opens the model with a gate."""
    return GatedLlama(str(path), gate=gate, **{**COMMON, **arguments})


def load_stock(path: Path, **arguments: Any) -> Llama:
    """Opens the model without any of our code."""
    return Llama(str(path), **{**COMMON, **arguments})


def generated(llm: Llama, prompt: str, n: int = 40, seed: int = 1, **settings: Any) -> tuple[list[int], str]:
    """Runs `create_completion` and returns the tokens that its generator gave, and the text."""
    tokens: list[int] = []
    generate = llm.generate

    def recording(*arguments: Any, **keywords: Any) -> Iterator[int]:
        for token in generate(*arguments, **keywords):
            tokens.append(token)
            yield token

    llm.generate = recording  # type: ignore[method-assign]
    try:
        completion = llm.create_completion(prompt, max_tokens=n, seed=seed, **settings)
    finally:
        del llm.generate  # type: ignore[attr-defined]
    assert isinstance(completion, dict)
    return tokens, completion["choices"][0]["text"]


@pytest.fixture(scope="module")
def families(tiny_model_path: Path, gate16: Path) -> npt.NDArray[np.int64]:
    """The families of the tiny model's tokens while decoding, int64 (n_vocab,)."""
    return Gate.load(gate16).token_families.astype(np.int64)


# --- (a) greedy and sampled generation equal an independent loop -----------------------------------------------------


@dataclass
class LoopStep:
    """One step of the independent loop."""

    token: int
    hidden: npt.NDArray[np.float32]
    step: oracle.Step


class IndependentLoop:
    """Generates with llama.cpp's C functions and the oracle; shares no code with GatedLlama but the engine."""

    def __init__(self, path: Path) -> None:
        self.llm = load_stock(path)
        self.ctx = self.llm.ctx
        self.n_vocab = self.llm.n_vocab()

    def _decode(self, tokens: Sequence[int], hidden: bool) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
        llama_cpp.llama_set_embeddings(self.ctx, hidden)
        array = (llama_cpp.llama_token * len(tokens))(*tokens)
        assert llama_cpp.llama_decode(self.ctx, llama_cpp.llama_batch_get_one(array, len(tokens))) == 0
        row = np.ctypeslib.as_array(llama_cpp.llama_get_logits_ith(self.ctx, -1), (self.n_vocab,)).copy()
        if not hidden:
            return row, np.zeros(0, np.float32)
        return row, np.ctypeslib.as_array(llama_cpp.llama_get_embeddings_ith(self.ctx, -1), (N_EMBD,)).copy()

    def run(
        self,
        prompt: Sequence[int],
        n: int,
        *,
        rules: Rules | None = None,
        weights: dict[str, npt.NDArray[np.float32]] | None = None,
        switches: Switches = PAPER,
        chain: Chain = GREEDY,
        seed: int = 0,
        repeat_penalty: float = 1.0,
        judged: Callable[[list[int]], tuple[bool, list[int]]] = lambda tokens: (True, tokens),
    ) -> list[LoopStep]:
        """Generates up to n tokens; stops where rounding alone would decide.

        `judged` says of the tokens so far whether the gate acts on the next one, and behind which of them.
        """
        llama_cpp.llama_memory_clear(llama_cpp.llama_get_memory(self.ctx), True)
        if len(prompt) > 1:
            self._decode(prompt[:-1], hidden=False)
        random = np.random.RandomState(seed)
        steps: list[LoopStep] = []
        token = prompt[-1]
        for _ in range(n):
            row, hidden = self._decode([token], hidden=True)
            for seen in {s.token for s in steps[-64:]}:
                row[seen] = row[seen] / repeat_penalty if row[seen] > 0 else row[seen] * repeat_penalty
            z = oracle.gate_forward(weights, hidden) if weights is not None else None
            acts, history = judged([s.token for s in steps])
            last = oracle.last_family(rules, history) if rules is not None else None
            step = oracle.step(row, chain, rules=rules if acts else None, z=z, last=last, switches=switches)
            margin = step.margin
            if step.chosen is not None:
                token = step.chosen
                order = sorted(step.candidates.values(), reverse=True)
                margin = min(margin, order[0] - order[1]) if len(order) > 1 else margin
            else:
                token, distance = draw(step.candidates, random)
                margin = min(margin, distance)
            if margin < 5e-6:
                break
            steps.append(LoopStep(token, hidden, step))
        return steps


def draw(candidates: dict[int, float], random: np.random.RandomState) -> tuple[int, float]:
    """Chooses as llama.cpp's `dist` does: one 53-bit number, the cumulative sum from the most probable token on.

    Returns:
        The token, and how close the number came to the border between two tokens.
    """
    low, high = (int(x) for x in random.randint(0, 2**32, 2, dtype=np.uint64))
    number = (low + high * 2.0**32) / 2.0**64
    ids = list(candidates)
    order = [ids[position] for position in oracle.ranking(ids, [candidates[i] for i in ids])]
    cumulative = np.cumsum(oracle.softmax([candidates[i] for i in order]))
    position = min(int(np.searchsorted(cumulative, number)), len(order) - 1)
    return order[position], float(np.min(np.abs(cumulative[:-1] - number), initial=math.inf))


def rules_of(gate: Gate) -> Rules:
    """Returns the oracle's view of a gate's plain values."""
    return Rules(
        gate.token_families.astype(np.int64),
        gate.families.maskable,
        gate.families.neutral,
        confidence=tuple((int(k), float(p)) for k, p in gate.confidence),
        own_thresholds=gate.thresholds.usual,
        first_thresholds=gate.thresholds.first,
        allow_thresholds=gate.thresholds.allow,
    )


GATES: dict[str, dict[str, Any]] = {
    "linear": {"n_hidden": 0, "seed": 1},
    "narrow": {"n_hidden": 16, "seed": 2},
    "full": {"n_hidden": N_EMBD, "seed": 3},
    "biases": {"n_hidden": 16, "seed": 4, "biases": True},
}
OPTIONS: dict[str, Switches] = {
    "paper": Switches(),
    "first_token": Switches(first_token=True),
    "no_persistence": Switches(persistence=False),
    "no_confidence": Switches(confidence=False),
    "confidence_temperature": Switches(confidence_temperature=2.0),
    "soft": Switches(strength=1.0),
    "threshold": Switches(threshold=0.9),
}


def random_gate(n_hidden: int, seed: int, biases: bool = False) -> dict[str, npt.NDArray[np.float32]]:
    """Makes the weights of a gate that says something else at nearly every step."""
    weights = gate_weights(n_hidden, seed=seed)
    if biases:
        rng = np.random.default_rng(seed)
        weights["lcg.fc1.bias"] = rng.normal(0, 0.5, n_hidden).astype(np.float32)
        weights["lcg.fc2.bias"] = rng.normal(0, 0.5, 4).astype(np.float32)
    return weights


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


@pytest.fixture(scope="module")
def loop(tiny_model_path: Path) -> IndependentLoop:
    """The independent loop on the tiny model."""
    return IndependentLoop(tiny_model_path)


def compare_with_loop(
    llm: GatedLlama,
    loop: IndependentLoop,
    weights: dict[str, npt.NDArray[np.float32]],
    *,
    switches: Switches,
    n: int,
    settings: dict[str, Any],
    **loop_settings: Any,
) -> tuple[int, int]:
    """Asserts equality on all prompts.

    Returns:
        How many tokens were compared and on how many of them the oracle intervened.
    """
    assert llm.gate is not None
    rules = rules_of(llm.gate)
    compared = interventions = 0
    for prompt in PROMPTS:
        tokens = llm.tokenize(prompt.encode())
        steps = loop.run(tokens, n, rules=rules, weights=weights, switches=switches, **loop_settings)
        llm.reset_gate_stats()
        llm.set_seed(loop_settings.get("seed", 0))
        ours = list(itertools.islice(llm.generate(tokens, **settings), len(steps)))
        assert ours == [s.token for s in steps]
        outcomes = [s.step.outcome for s in steps]
        acted = [position for position, o in enumerate(outcomes) if o is not None and o.intervene]
        assert llm.gate_stats.interventions == len(acted)
        assert [event.position for event in llm.gate_events] == acted
        compared += len(steps)
        interventions += len(acted)
    return compared, interventions


@pytest.mark.parametrize("kind", GATES)
@pytest.mark.parametrize("option", OPTIONS)
def test_greedy_generation_equals_the_independent_loop(
    tiny_model_path: Path, make_gate_file: MakeGateFile, loop: IndependentLoop, kind: str, option: str
) -> None:
    weights = random_gate(**GATES[kind])
    switches = OPTIONS[option]
    llm = load(tiny_model_path, make_gate_file(weights), gate_options=gate_options(switches))
    compared, interventions = compare_with_loop(llm, loop, weights, switches=switches, n=30, settings={"temp": 0.0})
    assert compared > 0.8 * 30 * len(PROMPTS)
    assert interventions > 10


def test_greedy_generation_with_thresholds_for_first_tokens_equals_the_independent_loop(
    tiny_model_path: Path, make_gate_file: MakeGateFile, loop: IndependentLoop
) -> None:
    weights = random_gate(16, 2)
    switches = OPTIONS["first_token"]
    early: dict[bool, list[int]] = {}
    for is_lenient in (False, True):
        gate = make_gate_file(weights, first_thresholds=(1e-6,) * 4 if is_lenient else ())
        llm = load(tiny_model_path, gate, gate_options=gate_options(switches))
        compared, _ = compare_with_loop(llm, loop, weights, switches=switches, n=30, settings={"temp": 0.0})
        assert compared > 0.8 * 30 * len(PROMPTS)
        early[is_lenient] = []
        for prompt in PROMPTS:
            llm.reset_gate_stats()
            list(itertools.islice(llm.generate(llm.tokenize(prompt.encode()), temp=0.0), 30))
            early[is_lenient] += [event.position for event in llm.gate_events if event.last is None]
    assert early[False]
    assert not early[True]


def test_greedy_generation_with_penalties_equals_the_independent_loop(
    tiny_model_path: Path, make_gate_file: MakeGateFile, loop: IndependentLoop
) -> None:
    weights = random_gate(16, 5)
    llm = load(tiny_model_path, make_gate_file(weights), gate_options=gate_options(Switches()))
    compared, interventions = compare_with_loop(
        llm, loop, weights, switches=PAPER, n=30, settings={"temp": 0.0, "repeat_penalty": 1.3}, repeat_penalty=1.3
    )
    assert compared > 0.8 * 30 * len(PROMPTS)
    assert interventions > 10


CHAINS: dict[str, Chain] = {
    "llama_cpp_python": Chain(),
    "paper": Chain(top_k=20, top_p=0.8, min_p=0.0, temp=0.7),
    "top_k": Chain(top_k=5, top_p=1.0, min_p=0.0, temp=1.0),
    "top_k_1": Chain(top_k=1, temp=1.0),
    "typical": Chain(top_k=40, typical_p=0.7, top_p=0.9, min_p=0.05, temp=1.2),
    "no_top_k": Chain(top_k=0, top_p=0.9, min_p=0.02, temp=0.9),
    "min_p": Chain(top_k=100, top_p=1.0, min_p=0.2, temp=1.5),
    "hot": Chain(top_k=100, top_p=0.9, min_p=0.0, temp=3.0),
    "cold": Chain(top_k=40, top_p=0.95, min_p=0.05, temp=0.1),
}


def chain_settings(chain: Chain) -> dict[str, Any]:
    """Returns the arguments of `Llama.generate` for a chain."""
    return {
        "top_k": chain.top_k,
        "typical_p": chain.typical_p,
        "top_p": chain.top_p,
        "min_p": chain.min_p,
        "temp": chain.temp,
    }


@pytest.mark.parametrize("name", CHAINS)
def test_sampled_generation_equals_the_independent_loop(
    tiny_model_path: Path, make_gate_file: MakeGateFile, loop: IndependentLoop, name: str
) -> None:
    chain = CHAINS[name]
    # the loop's random choice is llama.cpp's, or else nothing below would mean anything
    stock = load_stock(tiny_model_path)
    for seed, prompt in enumerate(PROMPTS):
        tokens = stock.tokenize(prompt.encode())
        steps = loop.run(tokens, 25, chain=chain, seed=seed)
        stock.set_seed(seed)
        assert list(itertools.islice(stock.generate(tokens, **chain_settings(chain)), len(steps))) == [
            s.token for s in steps
        ]
    weights = random_gate(16, 6)
    llm = load(tiny_model_path, make_gate_file(weights), gate_options=gate_options(Switches()))
    compared, interventions = compare_with_loop(
        llm, loop, weights, switches=PAPER, n=25, settings=chain_settings(chain), chain=chain, seed=7
    )
    assert compared > 0.5 * 25 * len(PROMPTS)
    assert interventions > 3


@pytest.mark.parametrize("outtype", ["f16", "bf16", "q8_0"])
def test_gate_of_every_weight_type_generates(
    tiny_model_path: Path, make_gate_file: MakeGateFile, families: npt.NDArray[np.int64], outtype: str
) -> None:
    path = make_gate_file(gate_weights(64, seed=3), outtype=outtype)
    llm = load(tiny_model_path, path, gate_options=GateOptions(first_token=False))
    tokens, _ = generated(llm, PROMPTS[0], temperature=0.0)
    check_events(llm, tokens, families)
    assert llm.gate_stats.interventions > 0


# --- (b) observe and off are stock, byte for byte --------------------------------------------------------------------


def mild_processor(input_ids: npt.NDArray[np.intc], scores: npt.NDArray[np.single]) -> npt.NDArray[np.single]:
    """Favours tokens by id, in a way that depends on the last token."""
    return scores + np.sin(np.arange(len(scores)) + input_ids[-1]).astype(np.single)


JSON_GRAMMAR = r"""
root ::= "{\"name\": \"" char char char char* "\", \"city\": " [1-9] [0-9]? "}"
char ::= [^"\\{}\x00-\x1f]
"""

SETTINGS: dict[str, Callable[[], dict[str, Any]]] = {
    "defaults": dict,
    "greedy": lambda: {"temperature": 0.0},
    "top_k_1": lambda: {"top_k": 1},
    "top_k_5": lambda: {"top_k": 5},
    "top_k_20": lambda: {"top_k": 20},
    "top_k_0": lambda: {"top_k": 0},
    "top_k_negative": lambda: {"top_k": -1},
    "top_k_200": lambda: {"top_k": 200, "top_p": 1.0, "temperature": 2.0},
    "top_k_beyond_vocab": lambda: {"top_k": 100_000, "temperature": 1.5},
    "typical": lambda: {"typical_p": 0.6},
    "typical_without_top_k": lambda: {"typical_p": 0.8, "top_k": 0, "top_p": 1.0},
    "top_p": lambda: {"top_p": 0.3},
    "top_p_1": lambda: {"top_p": 1.0},
    "top_p_alone": lambda: {"top_p": 0.9, "top_k": 0, "min_p": 0.0},
    "top_p_0": lambda: {"top_p": 0.0},
    "min_p_0": lambda: {"min_p": 0.0},
    "min_p": lambda: {"min_p": 0.4},
    "min_p_alone": lambda: {"min_p": 0.1, "top_k": 0, "top_p": 1.0},
    "no_truncation": lambda: {"min_p": 0.0, "top_k": 0, "top_p": 1.0, "temperature": 1.0},
    "cold": lambda: {"temperature": 0.1},
    "hot": lambda: {"temperature": 3.0, "min_p": 0.0},
    "negative_temperature": lambda: {"temperature": -1.0},
    "mirostat_1": lambda: {"mirostat_mode": 1, "mirostat_tau": 4.0},
    "mirostat_2": lambda: {"mirostat_mode": 2, "mirostat_tau": 4.0, "mirostat_eta": 0.2},
    "repeat_penalty": lambda: {"repeat_penalty": 1.4},
    "frequency_penalty": lambda: {"frequency_penalty": 0.7, "temperature": 0.0},
    "presence_penalty": lambda: {"presence_penalty": 0.9},
    "logit_bias": lambda: {"logit_bias": {"300": 6.0, "301": -8.0, "450": 5.0}},
    "logits_processor": lambda: {"logits_processor": LogitsProcessorList([mild_processor])},
    "greedy_processor": lambda: {"logits_processor": LogitsProcessorList([mild_processor]), "temperature": 0.0},
    "bias_and_processor": lambda: {
        "logit_bias": {"300": 6.0},
        "logits_processor": LogitsProcessorList([mild_processor]),
    },
    "grammar": lambda: {"grammar": LlamaGrammar.from_string(JSON_GRAMMAR, verbose=False)},
    "greedy_grammar": lambda: {
        "grammar": LlamaGrammar.from_string(JSON_GRAMMAR, verbose=False),
        "temperature": 0.0,
    },
    "mirostat_grammar_penalty": lambda: {
        "mirostat_mode": 2,
        "grammar": LlamaGrammar.from_string(JSON_GRAMMAR, verbose=False),
        "repeat_penalty": 1.2,
    },
    "everything": lambda: {
        "top_k": 60,
        "typical_p": 0.95,
        "top_p": 0.97,
        "min_p": 0.01,
        "temperature": 1.3,
        "repeat_penalty": 1.1,
        "frequency_penalty": 0.1,
        "presence_penalty": 0.1,
        "logits_processor": LogitsProcessorList([mild_processor]),
    },
}


@pytest.fixture(scope="module")
def stock(tiny_model_path: Path) -> Llama:
    """The tiny model in plain llama-cpp-python."""
    return load_stock(tiny_model_path)


@pytest.fixture(scope="module")
def gated(tiny_model_path: Path, gate16: Path) -> GatedLlama:
    """The tiny model with a random gate."""
    return load(tiny_model_path, gate16)


@pytest.mark.parametrize("name", SETTINGS)
@pytest.mark.parametrize("mode", ["observe", "off", "no gate"])
def test_modes_that_change_nothing_equal_stock(
    stock: Llama, gated: GatedLlama, tiny_model_path: Path, mode: str, name: str
) -> None:
    if mode == "no gate":
        llm = load(tiny_model_path, None)
    else:
        llm = gated
        llm.gate_options = GateOptions(mode=mode)  # type: ignore[arg-type]
        llm.reset_gate_stats()
    for seed, prompt in enumerate(PROMPTS[:4]):
        stock.reset()
        llm.reset()
        expected = generated(stock, prompt, seed=seed, **SETTINGS[name]())
        assert generated(llm, prompt, seed=seed, **SETTINGS[name]()) == expected
    if mode == "off":
        assert llm.gate_events == []
        assert llm.gate_stats.gate_runs == 0


def test_observe_records_what_mask_would_do_first(gated: GatedLlama) -> None:
    # up to the first intervention both see the same steps
    first: list[Any] = []
    for mode in ("observe", "mask"):
        gated.gate_options = GateOptions(mode=mode, first_token=False)  # type: ignore[arg-type]
        gated.reset_gate_stats()
        gated.reset()
        generated(gated, PROMPTS[0], temperature=0.0)
        event = gated.gate_events[0]
        first.append((event.position, event.last, event.predicted, event.banned, event.removed))
    assert first[0] == first[1]


def test_bias_and_processor_together_are_dropped_as_in_stock(stock: Llama) -> None:
    # llama-cpp-python 0.3.36 loses both; the day it does not, the comparison above covers the repaired behaviour
    stock.reset()
    plain = generated(stock, PROMPTS[0])
    stock.reset()
    both = generated(stock, PROMPTS[0], **SETTINGS["bias_and_processor"]())
    stock.reset()
    one = generated(stock, PROMPTS[0], **SETTINGS["logits_processor"]())
    assert one != plain
    if llama_cpp.__version__ == "0.3.36":
        assert both == plain


# --- (c) every setting with the gate acting --------------------------------------------------------------------------


def check_events(llm: GatedLlama, tokens: list[int], families: npt.NDArray[np.int64]) -> None:
    """Asserts that events and statistics fit the tokens of one reply and the rules."""
    assert llm.gate is not None
    names = llm.gate.families.names
    events = llm.gate_events
    strength = llm.gate_options.strength
    stats = llm.gate_stats
    assert stats.steps == len(tokens)
    assert stats.interventions == len(events)
    assert stats.interventions <= stats.gate_runs <= stats.steps
    assert len({event.reply for event in events}) <= 1
    assert [event.position for event in events] == sorted({event.position for event in events})
    total = 0.0
    for event in events:
        assert tokens[event.position] == event.chosen
        before = [int(families[t]) for t in tokens[: event.position] if families[t] != SYMBOLS]
        assert event.last == (names[before[-1]] if before else None)
        banned = {names.index(name) for name in event.banned}
        assert banned <= {CJ, LATIN}
        assert len(event.z) == len(names)
        assert set(event.allowed) >= set(event.predicted)
        assert event.last is None or event.last in event.allowed
        assert not set(event.allowed) & set(event.banned)
        if math.isinf(strength) and llm.gate_options.mode == "mask":
            assert int(families[event.chosen]) not in banned
        assert 1 <= len(event.removed) <= 20
        shares = [share for _, share in event.removed]
        assert shares == sorted(shares, reverse=True)
        assert all(0.0 <= share <= 1.0 + 1e-6 for share in shares)
        assert sum(shares) <= 1.0 + 1e-5
        assert {int(families[token]) for token, _ in event.removed} <= banned
        total += sum(shares)
    assert stats.removed_mass >= total - 1e-4


@pytest.mark.parametrize("name", SETTINGS)
def test_mask_works_with_every_setting(gated: GatedLlama, families: npt.NDArray[np.int64], name: str) -> None:
    gated.gate_options = GateOptions()
    interventions = 0
    for seed, prompt in enumerate(PROMPTS[:4]):
        gated.reset()
        gated.reset_gate_stats()
        tokens, _ = generated(gated, prompt, seed=seed, **SETTINGS[name]())
        check_events(gated, tokens, families)
        interventions += gated.gate_stats.interventions
        # the same seed gives the same reply
        gated.reset()
        assert generated(gated, prompt, seed=seed, **SETTINGS[name]())[0] == tokens
    assert interventions > 0


@pytest.mark.parametrize("name", SETTINGS)
def test_eager_equals_lazy_in_generation(gated: GatedLlama, name: str) -> None:
    replies = []
    for eager in (False, True):
        gated.gate_options = GateOptions(eager=eager)
        gated.reset()
        gated.reset_gate_stats()
        tokens, _ = generated(gated, PROMPTS[1], seed=3, **SETTINGS[name]())
        events = [(e.position, e.last, e.predicted, e.banned, e.removed, e.chosen) for e in gated.gate_events]
        replies.append((tokens, events))
        if eager:
            assert gated.gate_stats.gate_runs == gated.gate_stats.steps
    assert replies[0] == replies[1]


@pytest.mark.parametrize("temperature", [0.0, 0.8])
def test_json_grammar_keeps_its_latin_keys(
    tiny_model_path: Path, make_gate_file: MakeGateFile, families: npt.NDArray[np.int64], temperature: float
) -> None:
    llm = load(tiny_model_path, make_gate_file(constant_gate(SAYS_LOWRES)))
    grammar = LlamaGrammar.from_string(JSON_GRAMMAR, verbose=False)
    finished = 0
    for seed in range(8):
        llm.reset()
        llm.reset_gate_stats()
        tokens, text = generated(llm, PROMPTS[2], n=200, seed=seed, grammar=grammar, temperature=temperature)
        # the gate wants anything but Latin from the first token on, and the grammar leaves nothing else
        assert text.startswith('{"name": "')
        spoken = [int(families[token]) for token in tokens if families[token] != SYMBOLS]
        assert spoken[0] == LATIN
        if LOWRES in spoken and text.endswith("}"):
            assert set(json.loads(text)) == {"name", "city"}
            # the value stays in its script once it is there; then the second key, and digits
            value = spoken[spoken.index(LOWRES) : len(spoken) - 1 - spoken[::-1].index(LOWRES)]
            assert set(value) == {LOWRES}
            assert spoken[-1] == LATIN
            finished += 1
        check_events(llm, tokens, families)
    assert temperature == 0.0 or finished > 0


def constant_gate(z: Sequence[float]) -> dict[str, npt.NDArray[np.float32]]:
    """Makes a linear gate whose answer is always the same."""
    return {"lcg.fc2.weight": np.zeros((len(z), N_EMBD), np.float32), "lcg.fc2.bias": np.array(z, np.float32)}


def test_constant_gate_keeps_a_reply_in_its_script(
    tiny_model_path: Path, make_gate_file: MakeGateFile, families: npt.NDArray[np.int64]
) -> None:
    # without the confidence rule: a few of these steps have no lowres token among their most probable ones
    options = GateOptions(first_token=True, confidence=False)
    llm = load(tiny_model_path, make_gate_file(constant_gate(SAYS_LOWRES)), gate_options=options)
    for seed, prompt in enumerate(PROMPTS):
        tokens, _ = generated(llm, prompt, seed=seed, temperature=1.0)
        assert {int(families[t]) for t in tokens} <= {SYMBOLS, LOWRES}
    llm.gate_options = replace(options, first_token=False)
    firsts = set()
    for seed in range(12):
        tokens, _ = generated(llm, PROMPTS[0], seed=seed, temperature=1.0)
        spoken = [int(families[t]) for t in tokens if families[t] != SYMBOLS]
        firsts.add(spoken[0])
        # the first language token is free, its family may go on, and after a lowres token there is nothing else
        assert set(spoken) <= {spoken[0], LOWRES}
        assert LOWRES not in spoken or set(spoken[spoken.index(LOWRES) :]) == {LOWRES}
    assert len(firsts) > 1


def test_observe_and_mask_never_touch_control_tokens(
    tiny_model_path: Path, make_gate_file: MakeGateFile, tiny_vocab: TinyVocab
) -> None:
    special = [tiny_vocab.id_of(text) for text in ("<think>", "</think>", "<tool_call>", "<|im_end|>")]
    bias = {str(token): 30.0 for token in special}
    llm = load(tiny_model_path, make_gate_file(constant_gate(SAYS_LOWRES)))
    tokens, _ = generated(llm, PROMPTS[0], n=10, temperature=1.0, logit_bias=bias)
    assert set(tokens) <= set(special)
    assert llm.gate_stats.interventions == 0


def test_event_log_is_bounded_and_keeps_the_latest(gated: GatedLlama) -> None:
    positions = []
    for n_events in (256, 3, 0):
        gated.gate_options = GateOptions(n_events=n_events)
        gated.reset()
        gated.reset_gate_stats()
        generated(gated, PROMPTS[0], temperature=0.0)
        positions.append([event.position for event in gated.gate_events])
        assert gated.gate_stats.interventions == len(positions[0])
    assert len(positions[0]) > 3
    assert positions[1] == positions[0][-3:]
    assert positions[2] == []


def test_statistics_of_replies_add_up(gated: GatedLlama) -> None:
    gated.gate_options = GateOptions()
    gated.reset_gate_stats()
    assert gated.gate_stats.steps == 0
    lengths = []
    for seed in range(3):
        tokens, _ = generated(gated, PROMPTS[seed], n=15, seed=seed)
        lengths.append(len(tokens))
    assert gated.gate_stats.steps == sum(lengths)
    assert len({event.reply for event in gated.gate_events}) == 3
    gated.reset_gate_stats()
    assert gated.gate_stats.steps == 0
    assert gated.gate_events == []


# --- (d) draft models ------------------------------------------------------------------------------------------------


class Prophet(LlamaDraftModel):
    """Drafts a known continuation with every fifth token wrong, so that drafts are accepted and refused."""

    def __init__(self, tokens: list[int]) -> None:
        self.tokens = tokens
        self.drafted = 0

    def __call__(self, input_ids: npt.NDArray[np.intc], /, **kwargs: Any) -> npt.NDArray[np.intc]:
        n = len(input_ids)
        draft = [t if position % 5 else t ^ 1 for position, t in enumerate(self.tokens[n : n + 4], n)]
        self.drafted += len(draft)
        return np.array(draft, np.intc)


@pytest.mark.parametrize("option", ["paper", "first_token", "no_persistence"])
def test_prompt_lookup_decoding_changes_no_greedy_token(
    looping_model_path: Path, make_gate_file: MakeGateFile, option: str
) -> None:
    path = make_gate_file(gate_weights(16, seed=1), base=looping_model_path)
    options = gate_options(OPTIONS[option])
    plain = load(looping_model_path, path, gate_options=options)
    draft = load(
        looping_model_path,
        path,
        gate_options=options,
        draft_model=LlamaPromptLookupDecoding(max_ngram_size=2, num_pred_tokens=6),
    )
    for prompt in PROMPTS:
        for llm in (plain, draft):
            llm.reset_gate_stats()
        tokens, text = generated(plain, prompt, n=120, temperature=0.0)
        assert generated(draft, prompt, n=120, temperature=0.0) == (tokens, text)
        assert [e.position for e in draft.gate_events] == [e.position for e in plain.gate_events]
        assert draft.gate_stats.steps == plain.gate_stats.steps
        assert plain.gate_stats.interventions > 0


def test_accepted_and_refused_drafts_read_the_right_row(tiny_model_path: Path, gate16: Path) -> None:
    plain = load(tiny_model_path, gate16)
    for prompt in PROMPTS:
        tokens, _ = generated(plain, prompt, n=60, temperature=0.0)
        prophet = Prophet(plain.tokenize(prompt.encode()) + tokens)
        draft = load(tiny_model_path, gate16, draft_model=prophet)
        assert generated(draft, prompt, n=60, temperature=0.0)[0] == tokens
        assert prophet.drafted > 20


@pytest.mark.parametrize("name", ["greedy", "defaults", "top_k_0", "mirostat_2", "repeat_penalty", "logits_processor"])
def test_observe_with_a_draft_model_equals_stock(
    looping_model_path: Path, make_gate_file: MakeGateFile, name: str
) -> None:
    path = make_gate_file(gate_weights(16, seed=1), base=looping_model_path)

    def lookup() -> LlamaDraftModel:
        return LlamaPromptLookupDecoding(max_ngram_size=2, num_pred_tokens=4)

    stock = load_stock(looping_model_path, draft_model=lookup())
    observe = load(looping_model_path, path, gate_options=GateOptions(mode="observe"), draft_model=lookup())
    mask = load(looping_model_path, path, draft_model=lookup())
    for seed, prompt in enumerate(PROMPTS[:3]):
        expected = generated(stock, prompt, n=60, seed=seed, **SETTINGS[name]())
        assert generated(observe, prompt, n=60, seed=seed, **SETTINGS[name]()) == expected
        generated(mask, prompt, n=60, seed=seed, **SETTINGS[name]())
    assert observe.gate_stats.gate_runs > 0
    assert mask.gate_stats.interventions > 0


# --- (e) prompt caches -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("first_token", [False, True])
@pytest.mark.parametrize("temperature", [0.0, 0.9])
def test_cached_prompts_give_the_same_reply(
    tiny_model_path: Path, gate16: Path, first_token: bool, temperature: float
) -> None:
    options = GateOptions(first_token=first_token)
    warm = load(tiny_model_path, gate16, gate_options=options)
    prompts = [
        "the name of the city",
        "the name of the city",  # the very same
        "the name of the city is",  # longer
        "the name of the",  # a prefix of what is cached
        "the name of 中国",  # shares a prefix
        "です",  # shares nothing but the first token
        "the name of the city",
    ]
    for prompt in prompts:
        fresh = load(tiny_model_path, gate16, gate_options=options)
        warm.reset_gate_stats()
        expected = generated(fresh, prompt, temperature=temperature)
        assert generated(warm, prompt, temperature=temperature) == expected
        assert [(e.position, e.banned, e.chosen) for e in warm.gate_events] == [
            (e.position, e.banned, e.chosen) for e in fresh.gate_events
        ]


@pytest.mark.parametrize("first_token", [False, True])
def test_exact_prompt_hit_samples_without_a_new_decode(tiny_model_path: Path, gate16: Path, first_token: bool) -> None:
    # evaluating the prompt by hand makes `generate` skip evaluation altogether
    options = GateOptions(first_token=first_token)
    fresh = load(tiny_model_path, gate16, gate_options=options)
    warm = load(tiny_model_path, gate16, gate_options=options)
    for prompt in PROMPTS:
        tokens = fresh.tokenize(prompt.encode())
        fresh.reset()
        expected = list(itertools.islice(fresh.generate(tokens, temp=0.0), 25))
        warm.reset()
        warm.eval(tokens)
        assert list(itertools.islice(warm.generate(tokens, temp=0.0), 25)) == expected


def test_ram_cache_gives_the_same_replies(tiny_model_path: Path, gate16: Path) -> None:
    cached = load(tiny_model_path, gate16)
    cached.set_cache(LlamaRAMCache())
    for prompt in ("the name of the city", "です", "the name of the city", "the name of the city is", "です"):
        fresh = load(tiny_model_path, gate16)
        assert generated(cached, prompt, temperature=0.0) == generated(fresh, prompt, temperature=0.0)


def test_saved_state_continues_as_before(tiny_model_path: Path, gate16: Path) -> None:
    llm = load(tiny_model_path, gate16)
    tokens = llm.tokenize(PROMPTS[0].encode())
    llm.eval(tokens)
    state = llm.save_state()
    expected = list(itertools.islice(llm.generate(tokens, temp=0.0), 20))
    llm.eval(llm.tokenize("中国".encode()))
    llm.load_state(state)
    assert list(itertools.islice(llm.generate(tokens, temp=0.0), 20)) == expected


# --- (f) streaming and chat ------------------------------------------------------------------------------------------


def test_streaming_gives_the_text_of_a_plain_call(gated: GatedLlama) -> None:
    gated.gate_options = GateOptions()
    gated.reset()
    _, text = generated(gated, PROMPTS[1], seed=5)
    gated.reset()
    gated.reset_gate_stats()
    pieces = [
        chunk["choices"][0]["text"] for chunk in gated.create_completion(PROMPTS[1], max_tokens=40, seed=5, stream=True)
    ]
    assert len(pieces) > 5
    assert "".join(pieces) == text
    assert gated.gate_stats.steps == 40


def test_abandoned_stream_does_not_disturb_the_next_reply(gated: GatedLlama) -> None:
    gated.gate_options = GateOptions()
    gated.reset()
    expected = generated(gated, PROMPTS[0], temperature=0.0)
    stream = gated.create_completion(PROMPTS[1], max_tokens=40, seed=5, stream=True)
    for _ in range(5):
        next(stream)  # type: ignore[arg-type]
    del stream
    gated.reset()
    assert generated(gated, PROMPTS[0], temperature=0.0) == expected


def test_chat_completion_equals_stock_in_observe_mode_and_runs_in_mask_mode(
    stock: Llama, gated: GatedLlama, families: npt.NDArray[np.int64]
) -> None:
    messages = [{"role": "user", "content": "name of the city 中国"}]
    arguments: dict[str, Any] = {"max_tokens": 30, "seed": 4, "temperature": 0.9}
    stock.reset()
    expected = stock.create_chat_completion(messages, **arguments)["choices"]  # type: ignore[arg-type,index]
    gated.gate_options = GateOptions(mode="observe")
    gated.reset()
    assert gated.create_chat_completion(messages, **arguments)["choices"] == expected  # type: ignore[arg-type,index]
    gated.gate_options = GateOptions()
    gated.reset()
    gated.reset_gate_stats()
    whole = gated.create_chat_completion(messages, **arguments)["choices"][0]["message"]["content"]  # type: ignore[arg-type,index]
    assert gated.gate_stats.interventions > 0
    gated.reset()
    stream = gated.create_chat_completion(messages, stream=True, **arguments)  # type: ignore[arg-type]
    assert "".join(c["choices"][0]["delta"].get("content", "") for c in stream) == whole  # type: ignore[union-attr,index]


# --- (g) instances and threads ---------------------------------------------------------------------------------------


def test_instances_share_one_gate_without_sharing_history(tiny_model_path: Path, gate16: Path) -> None:
    alone = [generated(load(tiny_model_path, gate16), prompt, temperature=0.0)[0] for prompt in PROMPTS[:3]]
    gate = Gate.load(gate16)
    instances = [load(tiny_model_path, gate) for _ in range(3)]
    assert all(llm.gate is gate for llm in instances)
    streams = [llm.generate(llm.tokenize(prompt.encode()), temp=0.0) for llm, prompt in zip(instances, PROMPTS)]
    together: list[list[int]] = [[], [], []]
    for _ in range(40):  # token by token in turn
        for stream, tokens in zip(streams, together):
            tokens.append(next(stream))
    assert together == alone


def test_threads_share_one_gate(tiny_model_path: Path, gate16: Path) -> None:
    gate = Gate.load(gate16)
    expected = [generated(load(tiny_model_path, gate), prompt, n=100, seed=2)[0] for prompt in PROMPTS[:4]]
    instances = [load(tiny_model_path, gate) for _ in range(4)]
    results: list[Any] = [None] * 4

    def work(number: int) -> None:
        try:
            results[number] = generated(instances[number], PROMPTS[number], n=100, seed=2)[0]
        except BaseException as error:  # shown by the comparison below
            results[number] = error

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == expected


def test_gate_can_be_exchanged_between_replies(
    tiny_model_path: Path, gate16: Path, make_gate_file: MakeGateFile
) -> None:
    other = make_gate_file(constant_gate(SAYS_LATIN))
    expected = {
        path: generated(load(tiny_model_path, path), PROMPTS[0], temperature=0.0) for path in (gate16, other, None)
    }
    llm = load(tiny_model_path, gate16)
    for path in (gate16, other, None, gate16, None, other):
        llm.set_gate(None if path is None else Gate.load(path))
        llm.reset()
        assert generated(llm, PROMPTS[0], temperature=0.0) == expected[path]
        assert (llm.gate is None) == (path is None)


# --- (h) lifetimes ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("gated", [True, False])
def test_a_grammar_that_cannot_be_parsed_is_refused(tiny_model_path: Path, gate16: Path, gated: bool) -> None:
    llm = load(tiny_model_path, gate16 if gated else None)
    for text in ("root = ", 'x ::= "a"', 'root ::= root "a"'):
        grammar = LlamaGrammar.from_string(text, verbose=False)
        with pytest.raises(GateError, match="`grammar` cannot be parsed, expected GBNF"):
            llm.create_completion("the", grammar=grammar, max_tokens=2)
        with pytest.raises(GateError, match="`grammar` cannot be parsed, expected GBNF"):
            next(llm.generate_batch(["the"], grammar=grammar, max_tokens=2))
    assert llm.create_completion("the", max_tokens=2, top_k=2**31)["usage"]["completion_tokens"] > 0


def test_everything_can_be_closed_and_collected_in_any_order(tiny_model_path: Path, gate16: Path) -> None:
    gc.collect()
    for order in itertools.permutations(("gate", "stream", "sampler", "llm")):
        things: dict[str, Any] = {"gate": Gate.load(gate16)}
        things["llm"] = load(tiny_model_path, things["gate"])
        things["stream"] = things["llm"].generate(things["llm"].tokenize(b"the"), temp=0.9)
        next(things["stream"])
        things["sampler"] = things["llm"]._sampler.clone()
        for name in order:
            del things[name]
    gc.collect()


def test_close_can_be_called_twice_and_mid_reply(tiny_model_path: Path, gate16: Path) -> None:
    llm = load(tiny_model_path, gate16)
    stream = llm.generate(llm.tokenize(b"the"), temp=0.0)
    next(stream)
    llm.close()
    llm.close()
    del stream, llm
    gc.collect()


def test_many_replies_build_and_free_their_chains(tiny_model_path: Path, gate16: Path) -> None:
    llm = load(tiny_model_path, gate16)
    expected = generated(llm, PROMPTS[0], n=3, temperature=0.0)
    for _ in range(300):
        assert generated(llm, PROMPTS[0], n=3, temperature=0.0) == expected


def test_cloned_chain_has_its_own_history(
    tiny_model_path: Path, make_gate_file: MakeGateFile, tiny_vocab: TinyVocab
) -> None:
    llm = load(tiny_model_path, make_gate_file(constant_gate(SAYS_LOWRES)), gate_options=GateOptions(first_token=False))
    stream = llm.generate(llm.tokenize(PROMPTS[0].encode()), temp=0.0)
    for _ in range(5):
        next(stream)
    original = llm._sampler
    assert original is not None
    clone = original.clone()
    n = llama_cpp.llama_sampler_chain_n(clone.sampler)
    assert n == llama_cpp.llama_sampler_chain_n(original.sampler)
    names = [llama_cpp.llama_sampler_name(llama_cpp.llama_sampler_chain_get(clone.sampler, i)) for i in range(n)]
    assert all(names)
    # the clone is told of a Chinese token, the original goes on as if nothing had happened
    clone.accept(tiny_vocab.id_of("中国"))
    del clone
    gc.collect()
    rest = [next(stream) for _ in range(20)]
    fresh = load(tiny_model_path, llm.gate, gate_options=GateOptions(first_token=False))
    whole = list(itertools.islice(fresh.generate(fresh.tokenize(PROMPTS[0].encode()), temp=0.0), 25))
    assert rest == whole[5:]


# --- (i) mismatches --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "found", "wanted"),
    [
        ({"architecture": "qwen3"}, "qwen3", "llama"),
        ({"tokenizer_hash": "v2:" + "ab" * 32}, "was made for tiny", "another tokenizer"),
        ({"tokenizer_hash": "ab" * 32}, "was made for tiny", "another tokenizer"),
    ],
)
def test_gate_of_another_model_is_refused_with_both_values(
    tiny_model_path: Path, make_gate_file: MakeGateFile, change: dict[str, Any], found: str, wanted: str
) -> None:
    path = make_gate_file(gate_weights(16), **change)
    with pytest.raises(GateError) as error:
        load(tiny_model_path, path)
    assert found in str(error.value)
    assert wanted in str(error.value)


@pytest.mark.parametrize("version", ["v2", ""])
def test_gates_with_a_hash_of_either_version_are_accepted(
    tiny_model_path: Path, make_gate_file: MakeGateFile, version: str
) -> None:
    from lcg_cpp.engine.model import read_base_model

    vocab = read_base_model(tiny_model_path).vocab
    digest = hashlib.sha256(b"".join(len(token).to_bytes(4, "little") + token for token in vocab.tokens)).hexdigest()
    path = make_gate_file(gate_weights(16), tokenizer_hash=vocab.tokenizer_hash if version else digest)
    assert load(tiny_model_path, path).gate is not None


def test_gate_of_another_width_is_refused_with_both_values(tiny_model_path: Path, make_gate_file: MakeGateFile) -> None:
    path = make_gate_file(gate_weights(16, n_embd=32), n_embd=32)
    with pytest.raises(GateError, match=r"(?s)32.*64|64.*32"):
        load(tiny_model_path, path)


def test_gate_of_another_vocabulary_size_is_refused_with_both_values(
    tiny_model_path: Path, make_gate_file: MakeGateFile, tiny_vocab: TinyVocab
) -> None:
    n = len(tiny_vocab.tokens)
    path = make_gate_file(gate_weights(16), token_family=np.zeros(n - 1, np.uint8), exempt_tokens=())
    with pytest.raises(GateError, match=rf"(?s){n - 1}.*{n}|{n}.*{n - 1}"):
        load(tiny_model_path, path)


def test_refused_gate_leaves_a_live_model_as_it_was(
    stock: Llama, tiny_model_path: Path, gate16: Path, make_gate_file: MakeGateFile
) -> None:
    wrong = Gate.load(make_gate_file(gate_weights(16), architecture="qwen3"))
    llm = load(tiny_model_path, None)
    with pytest.raises(GateError):
        llm.set_gate(wrong)
    assert llm.gate is None
    stock.reset()
    assert generated(llm, PROMPTS[0], seed=3) == generated(stock, PROMPTS[0], seed=3)
    llm = load(tiny_model_path, gate16)
    expected = generated(llm, PROMPTS[0], seed=3)
    gate = llm.gate
    with pytest.raises(GateError):
        llm.set_gate(wrong)
    assert llm.gate is gate
    llm.reset()
    assert generated(llm, PROMPTS[0], seed=3) == expected


def test_missing_gate_file_is_an_os_error(tiny_model_path: Path, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"nothing\.gguf"):
        load(tiny_model_path, tmp_path / "nothing.gguf")


def test_model_file_is_no_gate_file(tiny_model_path: Path) -> None:
    with pytest.raises(GateError, match=re.escape(str(tiny_model_path))):
        load(tiny_model_path, tiny_model_path)


# --- (j) low-level loops and other modes of Llama --------------------------------------------------------------------


@pytest.mark.parametrize("first_token", [False, True])
def test_eval_and_sample_by_hand_equal_generate(tiny_model_path: Path, gate16: Path, first_token: bool) -> None:
    options = GateOptions(first_token=first_token)
    for prompt in PROMPTS:
        llm = load(tiny_model_path, gate16, gate_options=options)
        tokens = llm.tokenize(prompt.encode())
        expected = list(itertools.islice(llm.generate(tokens, temp=0.0), 25))
        by_hand = load(tiny_model_path, gate16, gate_options=options)
        by_hand.reset()
        by_hand.eval(tokens)
        ours = []
        for _ in range(25):
            token = by_hand.sample(temp=0.0)
            ours.append(token)
            by_hand.eval([token])
        assert ours == expected


def test_generate_accepts_tokens_from_the_caller(tiny_model_path: Path, gate16: Path) -> None:
    # Llama.generate is a coroutine: what is sent goes into the context after the sampled token. Without logits_all
    # plain llama-cpp-python aborts here, because the row it samples was no output
    stock = load_stock(tiny_model_path, logits_all=True)
    observe = load(tiny_model_path, gate16, gate_options=GateOptions(mode="observe"), logits_all=True)
    mask = load(tiny_model_path, gate16, logits_all=True)
    results = []
    for llm in (stock, observe, mask):
        stream = llm.generate(llm.tokenize(PROMPTS[0].encode()), temp=0.0)
        reply = [next(stream)]
        reply.extend(stream.send([300, 301]) for _ in range(15))
        results.append(reply)
    assert results[0] == results[1]
    assert len(results[2]) == 16


def test_stopping_criteria_see_the_same_as_in_stock(stock: Llama, gated: GatedLlama) -> None:
    def stop(tokens: npt.NDArray[np.intc], logits: npt.NDArray[np.single]) -> bool:
        return len(tokens) > 20

    gated.gate_options = GateOptions(mode="observe")
    replies = []
    for llm in (stock, gated):
        llm.reset()
        replies.append(generated(llm, PROMPTS[0], stopping_criteria=StoppingCriteriaList([stop])))
    assert replies[0] == replies[1]
    assert 1 < len(replies[0][0]) < 40


@pytest.mark.parametrize("temperature", [0.0, 0.8])
def test_logits_all_changes_no_token(tiny_model_path: Path, gate16: Path, temperature: float) -> None:
    for options in (GateOptions(), GateOptions(first_token=False)):
        plain = load(tiny_model_path, gate16, gate_options=options)
        everything = load(tiny_model_path, gate16, gate_options=options, logits_all=True)
        for prompt in PROMPTS:
            assert (
                generated(everything, prompt, temperature=temperature)[0]
                == generated(plain, prompt, temperature=temperature)[0]
            )


def test_logprobs_come_as_in_stock(tiny_model_path: Path, gate16: Path) -> None:
    stock = load_stock(tiny_model_path, logits_all=True)
    observe = load(tiny_model_path, gate16, logits_all=True, gate_options=GateOptions(mode="observe"))
    mask = load(tiny_model_path, gate16, logits_all=True)
    arguments: dict[str, Any] = {"max_tokens": 10, "temperature": 0.0, "logprobs": 3, "seed": 1}
    expected = stock.create_completion(PROMPTS[0], **arguments)["choices"][0]["logprobs"]  # type: ignore[index]
    found = observe.create_completion(PROMPTS[0], **arguments)["choices"][0]["logprobs"]  # type: ignore[index]
    assert found["tokens"] == expected["tokens"]
    np.testing.assert_allclose(found["token_logprobs"], expected["token_logprobs"], rtol=1e-4, atol=1e-4)
    assert len(mask.create_completion(PROMPTS[0], **arguments)["choices"][0]["logprobs"]["tokens"]) == 10  # type: ignore[index]


def test_embedding_model_embeds_and_generates(tiny_model_path: Path, gate16: Path) -> None:
    stock = load_stock(tiny_model_path, embedding=True)
    ours = load(tiny_model_path, gate16, embedding=True)
    for _ in range(2):
        expected = stock.create_embedding("the name of the city")["data"][0]["embedding"]
        np.testing.assert_array_equal(ours.create_embedding("the name of the city")["data"][0]["embedding"], expected)
        plain = load(tiny_model_path, gate16)
        assert generated(ours, PROMPTS[0], temperature=0.0) == generated(plain, PROMPTS[0], temperature=0.0)
    ours.gate_options = GateOptions(mode="observe")
    for llm in (stock, ours):
        llm.reset()
    assert generated(ours, PROMPTS[0], seed=2) == generated(stock, PROMPTS[0], seed=2)


def test_long_prompts_in_several_batches(tiny_model_path: Path, gate16: Path) -> None:
    prompt = "the name of the city is " * 8
    whole = load(tiny_model_path, gate16)
    for n_batch in (1, 7, 16):
        parts = load(tiny_model_path, gate16, n_batch=n_batch, n_ubatch=n_batch)
        assert generated(parts, prompt, temperature=0.0) == generated(whole, prompt, temperature=0.0)


def test_full_context_stops_as_in_stock(tiny_model_path: Path, gate16: Path) -> None:
    stock = load_stock(tiny_model_path, n_ctx=64)
    ours = load(tiny_model_path, gate16, n_ctx=64, gate_options=GateOptions(mode="observe"))
    expected = generated(stock, PROMPTS[0], n=1000, seed=1)
    assert generated(ours, PROMPTS[0], n=1000, seed=1) == expected


def test_pickled_instance_keeps_its_gate(tiny_model_path: Path, gate16: Path) -> None:
    llm = load(tiny_model_path, gate16, gate_options=GateOptions(first_token=False, threshold=0.6))
    state = llm.__getstate__()
    again = GatedLlama.__new__(GatedLlama)
    again.__setstate__(state)
    assert again.gate_options == llm.gate_options
    assert generated(again, PROMPTS[0], temperature=0.0) == generated(llm, PROMPTS[0], temperature=0.0)


# --- (k) prompt evaluation never asks for all outputs ----------------------------------------------------------------


@pytest.mark.parametrize("first_token", [False, True])
def test_prompt_evaluation_asks_for_one_output(
    tiny_model_path: Path, gate16: Path, first_token: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    llm = load(tiny_model_path, gate16, gate_options=GateOptions(first_token=first_token))
    decode = llm._ctx.decode
    batches: list[tuple[int, bool]] = []

    def watching(batch: Any) -> None:
        decode(batch)
        # llama.cpp knows no logits for a token that was no output
        batches.append((batch.n_tokens(), bool(llama_cpp.llama_get_logits_ith(llm.ctx, 0))))

    monkeypatch.setattr(llm._ctx, "decode", watching)
    prompt = "the name of the city is " * 6
    n_prompt = len(llm.tokenize(prompt.encode()))
    for options in (GateOptions(first_token=first_token), GateOptions(first_token=first_token, eager=True)):
        llm.gate_options = options
        for _ in range(3):  # the second time most of the prompt is cached
            batches.clear()
            generated(llm, prompt, n=6, temperature=0.0)
            assert all(n == 1 or not first_is_output for n, first_is_output in batches)
            assert sum(n for n, _ in batches) <= n_prompt + 6
    llm.reset()
    batches.clear()
    generated(llm, prompt, n=6, temperature=0.0)
    sizes = [n for n, _ in batches]
    # as stock: the prompt at once, and then 5 or 6 single tokens
    assert sizes[0] == n_prompt
    assert len(sizes) <= 7


def test_context_is_left_without_embeddings_for_the_next_prompt(tiny_model_path: Path, gate16: Path) -> None:
    llm = load(tiny_model_path, gate16, gate_options=GateOptions(first_token=False))
    generated(llm, PROMPTS[0], n=5, temperature=0.0)
    llm.reset()
    tokens = llm.tokenize(PROMPTS[0].encode())
    llm.eval(tokens)
    assert not llama_cpp.llama_get_logits_ith(llm.ctx, 0)
    assert llama_cpp.llama_get_logits_ith(llm.ctx, len(tokens) - 1)


# ---- misuse of the gate on a live model ----


def test_set_gate_in_the_middle_of_a_reply_holds_from_the_next_reply_on(
    tiny_model_path: Path, gate16: Path, make_gate_file: MakeGateFile
) -> None:
    other = Gate.load(make_gate_file(gate_weights(0)))
    whole = list(itertools.islice(load(tiny_model_path, gate16).generate([300, 301], temp=0.0), 40))
    for replacement in (other, None):
        llm = load(tiny_model_path, gate16)
        stream = llm.generate([300, 301], temp=0.0)
        reply = list(itertools.islice(stream, 10))
        llm.set_gate(replacement)
        reply += itertools.islice(stream, 30)
        assert reply == whole
    plain = GatedLlama(str(tiny_model_path), n_ctx=512, verbose=False)
    expected = list(itertools.islice(load_stock(tiny_model_path).generate([300, 301], temp=0.0), 40))
    stream = plain.generate([300, 301], temp=0.0)
    reply = list(itertools.islice(stream, 10))
    plain.set_gate(other)
    assert reply + list(itertools.islice(stream, 30)) == expected
    assert plain.gate_stats.steps == 0


def test_a_closed_model_refuses_a_gate_a_token_and_a_text(tiny_model_path: Path, gate16: Path) -> None:
    llm = load(tiny_model_path, gate16)
    llm.eval([300, 301])
    llm.close()
    with pytest.raises(GateError, match="the model is closed"):
        llm.set_gate(Gate.load(gate16))
    with pytest.raises(GateError, match="the model is closed"):
        llm.sample()
    for use in (lambda: llm.eval([300]), lambda: llm.tokenize(b"a"), lambda: llm.create_completion("a")):
        with pytest.raises(GateError, match="the model is closed"):
            use()


def test_what_is_no_gate_and_no_options_is_refused_by_name(tiny_model_path: Path, gate16: Path) -> None:
    with pytest.raises(GateError, match="`gate` is 5, expected a Gate"):
        load(tiny_model_path, 5)
    with pytest.raises(GateError, match="`gate_options` is 'mask', expected GateOptions"):
        load(tiny_model_path, gate16, gate_options="mask")
    llm = load(tiny_model_path, gate16)
    with pytest.raises(GateError, match=r"`gate` is 'x.gguf', expected a Gate; Gate.load reads a file"):
        llm.set_gate("x.gguf")
    with pytest.raises(GateError, match="`gate_options` is None, expected GateOptions"):
        llm.gate_options = None
