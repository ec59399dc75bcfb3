"""Phases: parts of a reply with options of their own, told by the marks around them."""

from __future__ import annotations

import ctypes
import itertools
import math
import pickle
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import llama_cpp
import numpy as np
import pytest
from llama_cpp import LlamaRAMCache
from llama_cpp.llama_speculative import LlamaPromptLookupDecoding

import oracle
from lcg_cpp import Gate, GatedLlama, GateError, GateOptions, Phase, _core
from lcg_cpp.engine.chain import insert_stages
from lcg_cpp.engine.connect import connect_core
from lcg_cpp.gate.families import text_families
from lcg_cpp.gate.marks import NAMED
from lcg_cpp.gate.options import with_phases
from lcg_cpp.gate.pin import Pins
from lcg_cpp.gate.thresholds import Thresholds
from lcg_cpp.run.prompt import completion_prompt
from lcg_cpp.run.reply import Reply, follow
from test_generation import GREEDY, PROMPTS, SAYS_LOWRES, IndependentLoop, generated, load, rules_of
from test_pin import CASES, SCRIPTS, complete, letters_of, random_vocabulary, vocabulary
from test_stages import (
    ONLY_LOWRES,
    STOCK_TOLERANCE,
    four_families,
    gate_options,
    random_chain,
    random_row,
    random_switches,
    stock_chain,
    tens_row,
)
from tiny_model import TinyVocab, gate_weights

MakeGate = Callable[..., Gate]

OFF, OBSERVE = GateOptions(mode="off"), GateOptions(mode="observe")
CHAIN = oracle.Chain(temp=0.0)


def core_mark(mark: bytes | tuple[int, ...]) -> str | tuple[int, ...]:
    return mark.decode() if isinstance(mark, bytes) else mark


def public(phase: oracle.Phase, options: GateOptions = OFF) -> Phase:
    return Phase(((core_mark(phase.begin), core_mark(phase.end)),), options, phase.leading)


class Follower:
    """A chain without a gate that is told of tokens."""

    def __init__(self, texts: list[bytes], options: GateOptions) -> None:
        connect_core()
        core = options.core_stage_options(Thresholds(), Pins(vocabulary(texts)))
        self.stage = _core.StagePair.without_gate(len(texts), core)
        self.sampler = stock_chain(len(texts), CHAIN)
        self.facts = insert_stages(self.sampler, self.stage, temperature=0.0, top_k=40).facts

    def phases(self, tokens: list[int], prompt: list[int]) -> list[int | None]:
        """The phase before each token, and behind the last one."""
        self.stage.begin_reply(self.facts)
        self.stage.read_prompt(prompt)
        found = [self.stage.phase]
        for token in tokens:
            self.sampler.accept(token)
            found.append(self.stage.phase)
        return found


def phases_of(text: list[str], phases: tuple[Phase, ...], prompt: list[str] = []) -> list[int | None]:  # noqa: B006
    """The phase behind each piece of a text, each of which is a token."""
    texts = sorted({piece.encode() for piece in (*text, *prompt)})
    tokens, before = ([texts.index(piece.encode()) for piece in pieces] for pieces in (text, prompt))
    return Follower(texts, GateOptions(phases=phases)).phases(tokens, before)[1:]


# --- marks ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("share_of_tokens", [0.0, 0.4])
def test_phases_of_random_texts_are_those_of_the_oracle(share_of_tokens: float) -> None:
    rng = np.random.default_rng(int(10 * share_of_tokens))
    pieces = [b"a", b"b", b"ab", b"ba", b"aab", b"bab", b"abab", b" ", b" a", b"b ", b"\n", b"", b"\xe4\xb8", b"\xad"]
    seen: Counter[str] = Counter()

    def mark() -> bytes | tuple[int, ...]:
        if rng.random() < share_of_tokens:
            return tuple(rng.integers(0, len(pieces), int(rng.integers(1, 4))).tolist())
        return "".join(rng.choice(list("ab \u4e2d"), int(rng.integers(1, 5)), p=[0.5, 0.35, 0.1, 0.05])).encode()

    for _ in range(1500):
        phases = []
        for _ in range(int(rng.integers(1, 4))):
            begin, end = mark(), mark()
            kind = rng.random()
            begin, end = (begin, begin) if kind < 0.1 else (b"", end) if kind < 0.2 else (begin, end)
            phases.append(oracle.Phase(begin, b"" if 0.2 < kind < 0.25 else end, bool(rng.random() < 0.3)))
        follower = Follower(pieces, GateOptions(phases=tuple(map(public, phases))))
        for _ in range(4):
            tokens = rng.integers(0, len(pieces), 25).tolist()
            prompt = rng.integers(0, len(pieces), int(rng.integers(0, 12))).tolist()
            expected, marks = oracle.follow_phases(phases, pieces, tokens, prompt)
            assert follower.phases(tokens, prompt) == expected, (phases, tokens, prompt)
            seen.update(opened=expected[0] is not None, changes=len(marks) > 2, twice=len(marks) > len(set(marks)))
    assert min(seen["opened"], seen["changes"]) > 500
    assert seen["twice"] > 50  # two marks in one token


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (["<think>", "a", "</think>", "b"], [0, 0, None, None]),
        (["\n", "<", "thin", "k>", "a</thi", "nk", ">b"], [None, None, None, 0, 0, 0, None]),
        (["<think>a</think>b"], [None]),
        (["b", "<think>"], [None, None]),  # behind its first word it is part of the answer
        (["<think>", "</think>", " ", "<think>"], [0, None, None, 0]),
        (["<think>", "</think>", "a", "<think>"], [0, None, None, None]),
        (["<think>", "</thinking>"], [0, 0]),
        (["<|channel|>analysis", "<|message|>", "<|end|>", "<|channel|>", "fin", "al"], [0, 0, 0, 0, 0, None]),
    ],
)
def test_thoughts_stand_in_front_of_the_answer(text: list[str], expected: list[int | None]) -> None:
    found = phases_of(text, (Phase("thinking", OFF),))
    assert [i is not None for i in found] == [i is not None for i in expected]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (["a", "```", "python", "x", "```", "b"], [False, True, True, True, False, False]),
        (["a`", "``py", "x`", "`", "`"], [False, True, True, True, False]),
        (["````", "x", "````"], [True, True, False]),
        (["``````"], [False]),
        (["<tool_call>", "{", "</tool", "_call>", "b"], [True, True, True, False, False]),
        (["[TOOL_CALLS]", "[{}]", "a"], [True, True, True]),
    ],
)
def test_code_and_calls_of_tools_are_left_alone(text: list[str], expected: list[bool]) -> None:
    found = phases_of(text, with_phases(GateOptions(), alone=("code", "tool_calls")).phases)
    assert [i is not None for i in found] == expected


def test_within_a_phase_only_its_own_end_counts() -> None:
    phases = (Phase("thinking", OBSERVE), Phase("code", OFF))
    text = ["<think>", "```", "</thinking>", "```", "</think>", "```", "<think>", "</think>", "```"]
    n_thoughts = len(NAMED["thinking"][0])
    assert phases_of(text, phases) == [0, 0, 0, 0, None, n_thoughts, n_thoughts, n_thoughts, None]


@pytest.mark.parametrize(
    ("prompt", "marks", "expected"),
    [
        (["<think>"], "thinking", True),
        (["assistant\n", "<th", "ink>\n\n"], "thinking", True),
        (["<think>", "\n", "</think>", "\n"], "thinking", False),
        (["<think>", "a"], "thinking", False),
        (["```", "\n"], "code", False),  # it may be the end of a block
        (["a"], (("", "</think>"),), True),
        (["a"], (("</think>", ""),), False),
        (["</think>"], (("</think>", ""),), True),
    ],
)
def test_the_end_of_the_prompt_says_what_is_open_at_the_start(prompt: list[str], marks: Any, expected: bool) -> None:
    texts = sorted({piece.encode() for piece in prompt})
    follower = Follower(texts, GateOptions(phases=(Phase(marks, OFF),)))
    tokens = [texts.index(piece.encode()) for piece in prompt]
    assert (follower.phases([], tokens)[0] is not None) == expected
    follower.sampler.reset()  # begins the same reply again
    assert (follower.stage.phase is not None) == expected
    assert (follower.phases([], [])[0] is not None) == (marks == (("", "</think>"),))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("thinkng", OFF), r"`marks` is 'thinkng', expected thinking, or pairs of marks"),
        (((), OFF), r"`marks` is \(\), expected thinking, code, tool_calls, or pairs of marks"),
        ((("a", "b"), OFF), r"`marks` holds 'a', expected a pair"),
        (((("", ""),), OFF), r"`marks` holds a pair of nothing"),
        ((((1.5, ""),), OFF), r"`marks` holds 1.5, expected a text or ids of tokens, at most 256"),
        (((((-1,), ""),), OFF), r"`marks` holds \(-1,\), expected"),
        (((("a" * 257, ""),), OFF), r"expected a text or ids of tokens, at most 256"),
    ],
)
def test_wrong_marks_are_refused(arguments: Any, message: str) -> None:
    with pytest.raises(GateError, match=message):
        Phase(*arguments)


def test_wrong_phases_are_refused() -> None:
    with pytest.raises(GateError, match="`phases` holds 'thinking', expected a Phase"):
        GateOptions(phases=("thinking",))  # type: ignore[arg-type]
    inner = GateOptions(phases=(Phase("code", OFF),))
    with pytest.raises(GateError, match="a phase with phases of its own"):
        GateOptions(phases=(Phase("thinking", inner),))
    assert pickle.loads(pickle.dumps(inner)) == inner


# --- one row at a time ------------------------------------------------------------------------------------------------


def test_every_path_equals_the_oracle_in_every_phase(make_gate: MakeGate) -> None:
    rng = np.random.default_rng(7)
    n_vocab, outcomes = 150, Counter[str]()
    rules = four_families(n_vocab)
    gate = make_gate(rules)
    texts = [b"<a>", b"<", b"a>", b"</a>", b"`", b"``", *random_vocabulary(rng, n_vocab - 6)]
    pins, free = Pins(vocabulary(texts)), [False] * n_vocab
    phases = [oracle.Phase(b"<a>", b"</a>"), oracle.Phase(b"``", (4,))]
    plain = [i for i, text in enumerate(texts) if i > 5 and max(text) < 0x80]  # nothing is open behind them
    for number in range(1000):
        row, chain = random_row(rng, n_vocab), random_chain(rng, n_vocab)
        if chain.typical_p < 1.0:  # undefined on some rows
            continue
        parts = [
            (
                str(rng.choice(["mask", "mask", "observe", "off"])),
                random_switches(rng),
                int(rng.integers(len(CASES) + 4)),
            )
            for _ in range(3)
        ]  # the usual, and of each phase
        options = [
            gate_options(switches, mode=mode, **(CASES[case] if case < len(CASES) else {}))
            for mode, switches, case in parts
        ]
        tokens = [
            int(rng.choice(plain) if rng.random() < 0.6 else rng.integers(0, 6)) for _ in range(rng.integers(0, 9))
        ]
        opened, marks = oracle.follow_phases(phases, texts, tokens, [])
        mode, switches, case = parts[0 if opened[-1] is None else opened[-1] + 1]
        last = oracle.last_family(rules, tokens[marks[-1] + 1 if marks else 0 :])
        away = None
        if mode == "mask" and case < len(CASES):
            away = oracle.pinned_away(texts, free, b"", letters_of(**CASES[case]))
        z = rng.normal(-1.0, 3.0, 4).astype(np.float32)
        judged = oracle.step(row, chain, rules=rules, z=z, last=last, switches=switches, away=away)
        expected = judged if mode == "mask" else oracle.step(row, chain)
        if min(judged.margin, expected.margin) < STOCK_TOLERANCE:
            continue
        assert judged.outcome is not None
        outcomes[f"{opened[-1]} {mode} {judged.outcome.intervene}"] += 1
        for direct in (True, False):
            all_options = gate_options(
                parts[0][1],
                mode=parts[0][0],
                allow=options[0].allow,
                deny=options[0].deny,
                phases=tuple(map(public, phases, options[1:])),
            )
            stage = gate.new_stages(all_options, pins)
            sampler = stock_chain(n_vocab, chain)
            built = insert_stages(sampler, stage, temperature=chain.temp, top_k=chain.top_k)
            stage.begin_reply(built.facts)
            for token in tokens:
                sampler.accept(token)
            ids, logits = stage.apply_row(built.address, row, z, direct)
            left = {i: x for i, x in expected.candidates.items() if x > -math.inf}
            found = dict(zip(ids.tolist(), logits.tolist()))
            what = (number, chain, parts, tokens, direct)
            if chain.temp == 0.0:
                assert min(i for i, x in found.items() if x == max(found.values())) == min(
                    i for i, x in left.items() if x == max(left.values())
                ), what
            else:
                assert {i for i, x in found.items() if x > -math.inf} == set(left), what
            acted, stats = mode != "off" and judged.outcome.intervene, stage.stats()
            assert (stats["interventions"], stats["observed"]) == (int(acted), int(acted and mode == "observe")), what
            assert [event["observed"] for event in stage.events()] == [mode == "observe"] * int(acted)
    assert all(outcomes[f"{i} {mode} True"] > 5 for i in (None, 0, 1) for mode in ("mask", "observe", "off")), outcomes


def test_the_family_of_the_last_language_token_starts_anew_at_both_marks(make_gate: MakeGate) -> None:
    # 0-9 Chinese, 10-19 Latin, 20-29 symbols, 30-39 the others; the gate wants the others
    rules, row = tens_row({0: 5.0, 30: 4.0})
    gate = make_gate(rules)
    texts = [b"<t>" if i == 20 else b"</t>" if i == 21 else b"x" for i in range(40)]
    same = GateOptions(first_token=False)
    options = GateOptions(first_token=False, phases=(Phase((("<t>", "</t>"),), same),))

    def best(*history: int) -> int:
        stage = gate.new_stages(options, Pins(vocabulary(texts)))
        sampler = stock_chain(40, CHAIN)
        built = insert_stages(sampler, stage, temperature=0.0, top_k=40)
        stage.begin_reply(built.facts)
        for token in history:
            sampler.accept(token)
        ids, logits = stage.apply_row(built.address, row, ONLY_LOWRES, True)
        return int(ids[int(np.argmax(logits))])

    assert best(33) == 30
    assert best(33, 20) == 0  # no history: it does not act
    assert best(20, 33) == 30
    assert best(20, 5, 21, 33) == 30
    assert best(20, 33, 21) == 0
    assert best(33, 22) == 30


# --- a cloned chain, and mirostat -------------------------------------------------------------------------------------


def apply_chain(sampler: Any, row: Any, among: Any = None) -> dict[int, float]:
    """What a chain leaves of a row or some of its tokens, without the object that drives it."""
    ids = range(len(row)) if among is None else among.tolist()
    array = (llama_cpp.llama_token_data * len(ids))(*((i, float(row[i]), 0.0) for i in ids))
    tokens = llama_cpp.llama_token_data_array(data=array, size=len(ids), selected=-1, sorted=False)
    llama_cpp.llama_sampler_apply(sampler.sampler, ctypes.byref(tokens))
    return {token.id: token.logit for token in tokens.data[: tokens.size] if token.logit > -math.inf}


def test_a_cloned_chain_goes_on_in_the_phase_and_the_character_of_its_original() -> None:
    connect_core()
    texts = [b"A", "中".encode(), b"\xe4", b"\xb8\xad", "가".encode(), b"\xea", b"\xb0\x80", b"<t>", b"<", b"t>", b"!"]
    row = np.linspace(1.0, 0.0, len(texts)).astype(np.float32)
    chain = oracle.Chain(top_k=0, top_p=1.0, min_p=0.0, temp=1.0)
    latin, first, hangul, begin, rest = 0, 2, 4, 8, {3, 6}
    options = GateOptions(allow=("latin",), phases=(Phase((("<t>", "</t>"),), GateOptions(deny=("hangul",))),))
    stage = _core.StagePair.without_gate(len(texts), options.core_stage_options(Thresholds(), Pins(vocabulary(texts))))
    sampler = stock_chain(len(texts), chain)
    built = insert_stages(sampler, stage, temperature=1.0, top_k=0)
    stage.begin_reply(built.facts)
    usual = {0, 5, 7, 8, 9, 10}  # EA can become Latin
    assert set(apply_chain(sampler, row)) == usual
    sampler.accept(begin)
    clone = sampler.clone()
    clone.accept(begin + 1)  # completes the mark, in the clone alone
    assert set(apply_chain(sampler, row)) == usual
    assert set(apply_chain(clone, row)) == set(range(len(texts))) - {hangul, *rest}
    clone.accept(first)
    twice = clone.clone()
    assert set(apply_chain(twice, row)) == set(apply_chain(clone, row)) == rest
    twice.accept(min(rest))
    assert latin in apply_chain(twice, row)
    assert set(apply_chain(clone, row)) == rest
    assert stage.stats()["steps"] == 1


@pytest.mark.parametrize("mirostat_mode", [1, 2])
@pytest.mark.parametrize("names", CASES[:4], ids=str)
def test_mirostat_sees_only_what_the_pin_leaves(mirostat_mode: int, names: dict[str, tuple[str, ...]]) -> None:
    connect_core()
    rng = np.random.default_rng(3)
    texts = random_vocabulary(rng, 200)
    away = oracle.pinned_away(texts, [False] * 200, b"", letters_of(**names))
    options = GateOptions(**names)  # type: ignore[arg-type]
    stage = _core.StagePair.without_gate(200, options.core_stage_options(Thresholds(), Pins(vocabulary(texts))))
    for _ in range(60):
        row = rng.normal(0.0, 2.0, 200).astype(np.float32)
        settings = {"mirostat_mode": mirostat_mode, "mirostat_tau": 3.0}
        sampler = stock_chain(200, oracle.Chain(), **settings)
        built = insert_stages(sampler, stage, temperature=0.8, top_k=40)
        stage.begin_reply(built.facts)
        ids, _ = stage.apply_row(built.address, row, None, True)
        stock = stock_chain(200, oracle.Chain(), **settings)
        assert set(ids.tolist()) == set(apply_chain(stock, row, np.flatnonzero(~away)))


@pytest.mark.parametrize("mirostat_mode", [1, 2])
def test_no_letter_outside_the_pin_comes_out_of_mirostat(
    tiny_model_path: Path, tiny_vocab: TinyVocab, mirostat_mode: int
) -> None:
    llm = load(tiny_model_path, gate_options=GateOptions(allow=("thai",)))
    special = {i for i, kind in enumerate(tiny_vocab.types) if kind != 1}
    text = ""
    for seed in range(4):
        tokens, _ = generated(llm, PROMPTS[0], seed=seed, mirostat_mode=mirostat_mode, mirostat_tau=6.0)
        text += complete(b"".join(tiny_vocab.contents[i] for i in tokens if i not in special))
    assert text_families(text, SCRIPTS) == {"thai"}


# --- generation -------------------------------------------------------------------------------------------------------

# the tiny model's texts are full of these letters
E_TO_O = oracle.Phase(b"e", b"o")


@pytest.mark.parametrize("mode", ["observe", "off"])
@pytest.mark.parametrize("chain", [GREEDY, oracle.Chain()], ids=["greedy", "sampled"])
def test_generation_equals_an_independent_loop(
    tiny_model_path: Path, tiny_vocab: TinyVocab, gate16: Path, mode: str, chain: oracle.Chain
) -> None:
    loop, gate = IndependentLoop(tiny_model_path), Gate.load(gate16)
    texts = list(tiny_vocab.contents)
    options = GateOptions(
        first_token=False,
        confidence_temperature=0.0,
        phases=(public(E_TO_O, GateOptions(mode=mode)),),  # type: ignore[arg-type]
    )
    llm = load(tiny_model_path, gate, gate_options=options)

    def judged(tokens: list[int]) -> tuple[bool, list[int]]:
        opened, marks = oracle.follow_phases([E_TO_O], texts, tokens, [])
        return opened[-1] is None, tokens[marks[-1] + 1 if marks else 0 :]

    n_compared = n_marks = n_acted = 0
    for seed, prompt in enumerate(PROMPTS):
        tokens = llm.tokenize(prompt.encode(), special=True)
        weights = gate_weights(16, seed=2)
        steps = loop.run(tokens, 40, rules=rules_of(gate), weights=weights, chain=chain, seed=seed, judged=judged)
        llm.reset()
        llm.set_seed(seed)
        sampling = {"temp": chain.temp, "top_k": chain.top_k, "top_p": chain.top_p, "min_p": chain.min_p}
        expected = [step.token for step in steps]
        found = list(itertools.islice(llm.generate(tokens, **sampling), len(expected)))  # type: ignore[arg-type]
        assert found == expected, prompt
        acted = sum(step.step.outcome is not None and step.step.outcome.intervene for step in steps)
        n_compared += len(expected)
        n_marks += len(oracle.follow_phases([E_TO_O], texts, expected, [])[1])
        n_acted += acted
    stats = llm.gate_stats
    assert stats.interventions - stats.observed == n_acted
    assert (stats.observed > 5) == (mode == "observe")
    assert n_compared > 100
    assert n_marks > 10
    assert n_acted > 5


def test_a_prompt_that_begins_a_thought_begins_the_phase(tiny_model_path: Path, make_gate_file: Any) -> None:
    path = make_gate_file(
        {"lcg.fc2.weight": np.zeros((4, 64), np.float32), "lcg.fc2.bias": np.array(SAYS_LOWRES, np.float32)}
    )
    options = GateOptions(persistence=False, confidence=False, phases=(Phase("thinking", OFF),))
    llm = load(tiny_model_path, path, gate_options=options)
    thought, stock = llm.tokenize(b"the name <think>\n", special=True), load(tiny_model_path)
    end = llm.tokenize(b"</think>", add_bos=False, special=True)
    assert len(end) == 1

    def reply(model: GatedLlama, prompt: list[int]) -> list[int]:
        model.reset()
        model.set_seed(3)
        return list(itertools.islice(model.generate(prompt), 30))

    plain = reply(stock, thought)
    assert end[0] not in plain
    assert reply(llm, thought) == plain
    assert llm.gate_stats.interventions == llm.gate_stats.gate_runs == 0
    closed = [*thought, *end]
    assert reply(llm, closed) != reply(stock, closed)
    assert llm.gate_stats.interventions > 5
    llm.reset_gate_stats()
    for _ in range(2):  # the second time all of it is in the cache
        list(itertools.islice(llm.generate(thought), 1))
    assert (llm.gate_stats.steps, llm.gate_stats.interventions) == (2, 0)
    low_level = load(tiny_model_path, path, gate_options=options)
    low_level.eval(thought)
    for _ in range(5):
        low_level.eval([low_level.sample()])
    assert (low_level.gate_stats.steps, low_level.gate_stats.interventions) == (5, 0)


def test_follow_tells_only_of_what_was_done(tiny_model_path: Path, gate16: Path) -> None:
    llm = load(tiny_model_path, gate16)
    counts = {}
    for name, phases in (("none", ()), ("all", (Phase((("", "never"),), OBSERVE),))):
        llm.gate_options = GateOptions(phases=phases)
        llm.reset_gate_stats()
        reply = Reply(completion_prompt(llm, PROMPTS[0]), llm.vocab)
        steps = list(follow(llm, reply, max_tokens=40, seed=1))
        counts[name] = (len(reply.events), sum(step.event is not None for step in steps), llm.gate_stats.observed)
    assert counts["none"][0] == counts["none"][1] > 3
    assert counts["none"][2] == 0
    assert counts["all"][:2] == (0, 0)
    assert counts["all"][2] > 3


def test_a_batch_has_the_phases_of_each_reply(tiny_model_path: Path, gate16: Path) -> None:
    llm = load(tiny_model_path, gate16, gate_options=GateOptions(phases=(Phase("thinking", OBSERVE),)))
    prompts = [f"the name {mark}" for mark in ("", "<think>", "</think>", "<think>\n")]
    for index, reply in llm.generate_batch(prompts, max_tokens=30, seed=1, parallel=1):
        alone = Reply(completion_prompt(llm, prompts[index]), llm.vocab)
        assert list(follow(llm, alone, max_tokens=30, seed=1 + index))
        assert reply.tokens == alone.tokens
        assert [event.position for event in reply.events] == [event.position for event in alone.events]
        assert (len(reply.events) > 2) == (index in (0, 2))


PHASED = GateOptions(
    phases=(Phase((("e", "o"),), OBSERVE), Phase((("a", "i"),), GateOptions(allow=("hangul", "thai", "latin")))),
)


@pytest.mark.parametrize("temperature", [0.0, 0.8])
def test_streams_stops_and_caches_give_the_same_text(tiny_model_path: Path, gate16: Path, temperature: float) -> None:
    plain = load(tiny_model_path, gate16, gate_options=PHASED)
    other = load(tiny_model_path, gate16, gate_options=PHASED)
    other.set_cache(LlamaRAMCache())
    for seed, prompt in enumerate(PROMPTS[:4]):
        plain.reset()
        tokens, text = generated(plain, prompt, seed=seed, temperature=temperature)
        for _ in range(2):  # the second time from the cache
            assert generated(other, prompt, seed=seed, temperature=temperature) == (tokens, text)
        stop = text[len(text) // 2 :][:2]
        stopped = other.create_completion(prompt, max_tokens=40, seed=seed, temperature=temperature, stop=[stop])
        assert stopped["choices"][0]["text"] == text[: text.index(stop)]  # type: ignore[index]
        chunks = other.create_completion(prompt, max_tokens=40, seed=seed, temperature=temperature, stream=True)
        streamed = "".join(chunk["choices"][0]["text"] for chunk in chunks)  # type: ignore[index, union-attr]
        assert [c for c in streamed if c.isascii()] == [c for c in text if c.isascii()]  # it holds unfinished letters
    assert plain.gate_stats.interventions > plain.gate_stats.observed > 0


@pytest.mark.parametrize(
    "options",
    [PHASED, GateOptions(allow=("thai", "latin")), GateOptions(deny=("latin",), strength=2.0)],
    ids=["phases", "allow", "deny"],
)
@pytest.mark.parametrize("with_gate", [False, True])
def test_drafted_tokens_change_nothing(
    looping_model_path: Path, make_gate_file: Any, options: GateOptions, with_gate: bool
) -> None:
    gate = make_gate_file(gate_weights(16, seed=2), base=looping_model_path) if with_gate else None
    plain = load(looping_model_path, gate, gate_options=options)
    lookup = LlamaPromptLookupDecoding(max_ngram_size=2, num_pred_tokens=6)
    drafted: list[int] = []
    draft = load(
        looping_model_path,
        gate,
        gate_options=options,
        logits_all=True,
        draft_model=lambda ids, **others: drafted.append(1) or lookup(ids, **others),
    )
    for prompt in PROMPTS[:3]:
        tokens = plain.tokenize(prompt.encode())
        expected, found = (list(itertools.islice(llm.generate(tokens, temp=0.0), 100)) for llm in (plain, draft))
        assert found == expected
    assert drafted
    for field in ("steps", "interventions", "observed", "pin_yields"):
        assert getattr(draft.gate_stats, field) == getattr(plain.gate_stats, field)
