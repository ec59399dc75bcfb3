"""The pin: letters that must not come out, whole or in pieces, with and without a gate."""

from __future__ import annotations

import itertools
import math
import unicodedata
from collections import Counter
from collections.abc import Callable
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from llama_cpp import Llama, LlamaGrammar

import oracle
from lcg_cpp import Gate, GatedLlama, GateError, GateOptions, _core
from lcg_cpp.engine.base_model import CONTROL, NORMAL, Vocab
from lcg_cpp.engine.connect import connect_core
from lcg_cpp.gate import scripts
from lcg_cpp.gate.families import family_set, text_families
from lcg_cpp.gate.pin import Pins, denied_families
from lcg_cpp.gate.scripts import GROUPS, NAMES, character_families
from lcg_cpp.gate.thresholds import Thresholds
from test_generation import COMMON, PROMPTS
from test_stages import (
    LOWRES,
    STOCK_TOLERANCE,
    assert_same_candidates,
    four_families,
    gate_options,
    history_of,
    random_chain,
    random_row,
    random_switches,
    run_stage,
)
from tiny_model import TinyVocab

MakeGate = Callable[..., Gate]
SCRIPTS = family_set("scripts")


@cache
def families_of_characters() -> dict[str, set[str]]:
    some = map(chr, (*range(0xD800), *range(0xE000, 0x40000), *range(0xE0000, 0xE1000)))
    return {c: text_families(c, SCRIPTS) for c in some}


@cache
def letters_of(allow: tuple[str, ...] = (), deny: tuple[str, ...] = ()) -> oracle.Letters:
    """All characters, as a pin sees them."""
    denied, families = denied_families(allow, deny), families_of_characters()
    return oracle.Letters(
        denied=frozenset(c for c, found in families.items() if found & denied),
        allowed=frozenset(c for c, found in families.items() if found and not found & denied),
        neutral=frozenset(c for c, found in families.items() if not found and ord(c) in assigned()),
    )


@cache
def assigned() -> frozenset[int]:
    """The code points in characters.txt, which another Python's Unicode does not change."""
    lines = Path(scripts.__file__).with_name("characters.txt").read_text("utf-8").splitlines()
    entries = " ".join(line.removeprefix("assigned:") for line in lines if line[0] != "#").split()
    bounds = [entry.split("-") for entry in entries]
    return frozenset(c for ends in bounds for c in range(int(ends[0], 16), int(ends[-1], 16) + 1))


def vocabulary(tokens: list[bytes], n_control: int = 0) -> Vocab:
    types = np.full(len(tokens), NORMAL, np.uint32)
    types[:n_control] = CONTROL
    return Vocab(tuple(tokens), types)


# --- names ------------------------------------------------------------------------------------------------------------


def test_c_programs_get_the_same_names_and_letters() -> None:
    for name in (*NAMES, *GROUPS):
        lists = [(f"latin, {name}", "")] + ([("", name)] if name != "symbols" else [])
        for allow, deny in lists:
            names = tuple(part.strip() for part in allow.split(",")) if allow else ()
            expected = denied_families(names, (deny,) if deny else ())
            assert {NAMES[f] for f in _core.denied_families(allow, deny)} == expected, (allow, deny)
    assert _core.denied_families("", " , ") == []
    families = character_families()
    for character in "aя語説说한ー々𠀀1。\u0301\U0001f600\ufdfa":
        assert NAMES[families[ord(character)]] == scripts.RULE_SET.letter(character)
    unassigned = {c for c in range(0x110000) if families[c] == 255}
    assert not unassigned & assigned()
    assert {0xD800, 0xE000, 0x10FFFF} <= unassigned
    known = [c for c in range(0x110000) if unicodedata.category(chr(c)) not in ("Cn", "Co", "Cs")]
    assert len(assigned().symmetric_difference(known)) < 20_000  # this Python may know an older or newer Unicode


def test_names_are_families_and_groups_of_them() -> None:
    assert denied_families((), ()) == frozenset()
    assert denied_families((), ("hans", "thai")) == {"hans", "thai"}
    assert denied_families((), ("han",)) == denied_families((), ("chinese",)) == {
        "hans", "hant", "hanst", "hansj", "hantj", "han"
    }  # fmt: skip
    assert denied_families((), ("cj",)) == denied_families((), ("han", "kana"))
    languages = set(SCRIPTS.names) - {"symbols"}
    assert denied_families(("hangul", "latin"), ()) == languages - {"hangul", "latin"}
    assert denied_families(("korean",), ()) == languages - {"hangul"}
    assert denied_families(("japanese",), ()) == languages - {"kana", "hansj", "hantj", "han"}
    assert denied_families(("symbols",), ()) == languages
    assert denied_families(("latin", "thai"), ("thai",)) == languages - {"latin"}
    assert denied_families((), ("lowres", "cj", "latin")) == languages
    assert GateOptions(allow=["latin"]).allow == ("latin",)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"allow": ("hangull",)}, r"`allow` names 'hangull', expected hangul"),
        ({"deny": ("Latin",)}, r"`deny` names 'Latin', expected latin"),
        ({"deny": ("klingon",)}, r"`deny` names 'klingon', expected .*arabic"),
        ({"deny": ("symbols",)}, r"`deny` names 'symbols', expected a script"),
        ({"deny": ("choices",)}, r"`deny` names 'choices', expected "),
        ({"allow": "latin"}, r"`allow` is 'latin', expected a tuple of scripts"),
    ],
)
def test_wrong_names_are_refused_with_the_nearest_ones(fields: dict[str, tuple[str, ...]], message: str) -> None:
    with pytest.raises(GateError, match=message):
        GateOptions(**fields)  # type: ignore[arg-type]


# --- pieces of characters ---------------------------------------------------------------------------------------------

CASES: tuple[dict[str, tuple[str, ...]], ...] = (
    {"allow": ("hangul",)},
    {"allow": ("latin", "arabic")},
    {"allow": ("thai",)},
    {"allow": ("simplified",)},
    {"allow": ("traditional", "latin")},
    {"deny": ("han",)},
    {"deny": ("cyrillic", "kana")},
    {"allow": ("symbols",)},
)


@pytest.mark.parametrize("names", CASES, ids=str)
def test_every_fragment_of_one_to_three_bytes_is_judged_by_what_it_can_become(
    names: dict[str, tuple[str, ...]],
) -> None:
    # every start of a character, every byte, and stretches of bytes around the borders of what is UTF-8
    starts = sorted(oracle.characters_of_bytes()[1])
    leads = (0x41, 0x80, 0xBF, 0xC0, 0xC1, 0xC2, 0xE0, 0xE3, 0xED, 0xEE, 0xF0, 0xF4, 0xF5, 0xFF)
    odd = [bytes(b) for n in (2, 3) for b in itertools.product(leads, repeat=n)]
    words = [
        t.encode()
        for t in ("中A", "中", "가", "가나", "A가", "и", "ー", "だ", " 12", "。", "µ", "中国", "這", "이다👍")
    ]
    tails = [
        word + piece for word in (b"A", "가".encode()) for piece in (b"\xe4", b"\xe4\xb8", b"\xea\xb0", b"\xf0\x9f")
    ]
    behind = [blank + start for blank in (b" ", b"\n\t", b" 1 ", b"A") for start in starts if len(start) < 3]
    tokens = [b"<end>", *(bytes([b]) for b in range(256)), *starts, *odd, *words, *tails, *behind]
    table = Pins(vocabulary(tokens, 1)).pin(names.get("allow", ()), names.get("deny", ()))
    assert table is not None
    letters = letters_of(**names)
    free = [i == 0 for i in range(len(tokens))]
    expected = oracle.pinned_away(tokens, free, b"", letters)
    np.testing.assert_array_equal(table.away([]), expected)
    assert 0 < expected.sum() < len(tokens)

    rng = np.random.default_rng(3)
    openings = [start for start in starts if not expected[tokens.index(start)]]
    for opened in (openings[i] for i in rng.choice(len(openings), min(8, len(openings)), replace=False)):
        away = table.away([tokens.index(opened)])
        continuing = [i for i, t in enumerate(tokens) if i < 257 or 0x80 <= t[0] < 0xC0]
        some = [*continuing, *rng.choice(len(tokens), 300).tolist()]
        wanted = oracle.pinned_away([tokens[i] for i in some], [free[i] for i in some], opened, letters)
        np.testing.assert_array_equal(away[some], wanted)
        assert not wanted.all(), opened  # what has been begun can be finished


def test_an_ideograph_behind_white_space_comes_whole_where_a_piece_of_it_could_become_a_wrong_one() -> None:
    # as in Qwen's vocabulary, which has no token for ` 鸡` nor for ` 雞`: a model that begins the first, and must not
    # end it, would write a third one
    tokens = [b"<end>", b" ", b" \xe9", b" \xe9\xb8", b"\xe9\xb8", "鸡".encode(), "雞".encode(), b" \xea", b" \xe3\x81"]
    left = {}
    for name in ("traditional", "simplified", "chinese", "hangul"):
        pin = Pins(vocabulary(tokens, 1)).pin((name,), ())
        assert pin is not None
        left[name] = [tokens[i] for i in np.flatnonzero(~pin.away([]))]
    assert left == {
        "traditional": [b"<end>", b" ", b"\xe9\xb8", "雞".encode()],
        "simplified": [b"<end>", b" ", b"\xe9\xb8", "鸡".encode()],
        # of what begins with E9, some are written in Japanese alone, of what begins with E9 B8, none
        "chinese": [b"<end>", b" ", b" \xe9\xb8", b"\xe9\xb8", "鸡".encode(), "雞".encode()],
        "hangul": [b"<end>", b" ", b" \xea"],
    }


def test_what_is_open_follows_the_bytes_of_every_token() -> None:
    tokens = [b"<end>", b"\xe4\xb8", b"\xad", b"A", b"\xad\xe4", b"\xb8\xad", b"\xff", b"\xb8"]
    end, two, last, latin, last_and_lead, two_last, bad, middle = range(len(tokens))
    pin = Pins(vocabulary(tokens, 1)).pin((), ("thai",))
    assert pin is not None

    def left(*history: int) -> list[int]:
        return np.flatnonzero(~pin.away(list(history))).tolist()

    nothing_open = [end, two, latin]
    assert left() == nothing_open
    assert left(two) == [last, last_and_lead, middle]
    assert left(two, last) == nothing_open
    assert left(two, last_and_lead) == [last, two_last, middle]
    assert left(two, last_and_lead, middle) == [last, last_and_lead, middle]
    for broken in (end, latin, bad):  # a step on which the pin yielded
        assert left(two, broken) == nothing_open
    assert left(two, two) == [last, last_and_lead, middle]


# --- one row at a time ------------------------------------------------------------------------------------------------


def pinned_stage(gate: Gate | None, options: GateOptions, pins: Pins | None, n_vocab: int) -> _core.StagePair:
    if gate is not None:
        return gate.new_stages(options, pins)
    return _core.StagePair.without_gate(n_vocab, options.core_stage_options(Thresholds(), pins))


WORDS = ("A", "the", "中", "国", "さ", "가", "나다", "и", "12", "!", " ", "ع", "ש", "ไ", "👍")


OPENERS = (b"\xe4", b"\xe4\xb8", b"\xea", b"\xea\xb0", b"\xf0\x9f")


def random_vocabulary(rng: np.random.Generator, n_vocab: int) -> list[bytes]:
    """Words, and pieces of them."""
    tokens = [b"the", b"12", "가".encode(), *OPENERS]
    for _ in range(n_vocab - len(tokens)):
        word = str(rng.choice(WORDS)).encode()
        if rng.random() < 0.4:
            begin, end = sorted(rng.integers(0, len(word) + 1, 2).tolist())
            word = word[begin:end] or word
        tokens.append(word)
    return tokens


@pytest.mark.parametrize("with_gate", [False, True])
def test_every_path_equals_the_oracle(make_gate: MakeGate, with_gate: bool) -> None:
    connect_core()
    rng = np.random.default_rng(with_gate)
    n_vocab, outcomes = 120, Counter[str]()
    rules = four_families(n_vocab)
    gate = make_gate(rules) if with_gate else None
    tokens = random_vocabulary(rng, n_vocab)
    vocab = vocabulary(tokens, 3)
    pins, free = Pins(vocab), [i < 3 for i in range(n_vocab)]
    letters = [letters_of(**case) for case in CASES]
    for number in range(2500):
        case = int(rng.integers(len(CASES)))
        row, chain, switches = random_row(rng, n_vocab), random_chain(rng, n_vocab), random_switches(rng)
        z = rng.normal(-1.0, 3.0, 4).astype(np.float32) if with_gate else None
        last = LOWRES if with_gate else None
        history = history_of(rules, last, rng) if with_gate else ()
        opened = b""
        if not with_gate and rng.random() < 0.3:
            opened = OPENERS[rng.integers(len(OPENERS))]
            history = (tokens.index(opened),)
        elif with_gate:
            history = tuple(i for i in history if i < 3 or not any(b >= 0x80 for b in tokens[i]))
            last = oracle.last_family(rules, list(history))
        away = oracle.pinned_away(tokens, free, opened, letters[case])
        if rng.random() < 0.03:
            row[~away] = -np.inf
        expected = oracle.step(
            row, chain, rules=rules if with_gate else None, z=z, last=last, switches=switches, away=away
        )
        if expected.margin == 0.0 and chain.typical_p < 1.0:  # llama.cpp's typical sampler is undefined on this row
            continue
        if expected.margin < STOCK_TOLERANCE:
            continue
        yields = math.isinf(switches.strength) and not (row[~away] > -np.inf).any()
        outcomes["yields" if yields else "opened" if opened else "pinned"] += 1
        for direct in (True, False):
            options = gate_options(switches, **CASES[case])
            result = run_stage(pinned_stage(gate, options, pins, n_vocab), row, chain, z, history, direct)
            what = (number, chain, switches, CASES[case], opened, direct)
            left = {i: x for i, x in expected.candidates.items() if x > -math.inf}
            assert_same_candidates(result, left, chain, what)
            assert result.stats["pin_yields"] == int(yields), what
            if with_gate:
                assert expected.outcome is not None
                assert result.stats["interventions"] == int(expected.outcome.intervene), what
                outcomes["intervene"] += int(expected.outcome.intervene)
    assert outcomes["pinned"] > 1200
    assert outcomes["yields"] > 5
    assert outcomes["intervene" if with_gate else "opened"] > 100


def test_order_of_direct_equals_order_of_full_array() -> None:
    rng = np.random.default_rng(5)
    connect_core()
    tokens = random_vocabulary(rng, 400)
    pins = Pins(vocabulary(tokens))
    for number in range(600):
        row, chain = random_row(rng, 400), random_chain(rng, 400)
        if number % 3 == 0:
            row = np.round(row * 2) / 2
        if chain.temp == 0.0:
            continue
        options = GateOptions(strength=math.inf if number % 2 else 2.0, **CASES[number % len(CASES)])
        direct, full = (
            run_stage(pinned_stage(None, options, pins, 400), row, chain, None, (), d) for d in (True, False)
        )
        assert direct.ids == full.ids, (number, chain)
        assert direct.logits == full.logits


# --- generation without a gate ----------------------------------------------------------------------------------------


def open_model(path: Path, **names: object) -> GatedLlama:
    return GatedLlama(str(path), gate_options=GateOptions(**names), **COMMON)  # type: ignore[arg-type]


def replies(llm: Llama, vocab: TinyVocab, n_seeds: int, **settings: object) -> list[bytes]:
    """Bytes of replies, without control and added tokens, and without a character that the length cut off."""
    texts = []
    special = {i for i, t in enumerate(vocab.types) if t != 1}
    for prompt in PROMPTS:
        for seed in range(n_seeds):
            llm.set_seed(seed)
            tokens = list(
                itertools.islice(llm.generate(llm.tokenize(prompt.encode(), special=True), temp=1.0, **settings), 40)  # type: ignore[arg-type]
            )
            texts.append(b"".join(vocab.contents[i] for i in tokens if i not in special))
    return texts


def complete(text: bytes) -> str:
    for n in (0, 1, 2, 3):
        try:
            return text[: len(text) - n].decode()
        except UnicodeDecodeError:
            continue
    raise AssertionError(f"not UTF-8: {text!r}")


@pytest.mark.parametrize("names", [{"allow": ("hangul",)}, {"allow": ("thai", "latin")}, {"deny": ("cj",)}], ids=str)
@pytest.mark.parametrize("settings", [{"top_k": 40}, {"top_k": 0, "top_p": 1.0, "repeat_penalty": 1.1}], ids=str)
def test_no_letter_outside_the_pin_comes_out(
    tiny_model_path: Path, tiny_vocab: TinyVocab, names: dict[str, tuple[str, ...]], settings: dict[str, object]
) -> None:
    denied = denied_families(names.get("allow", ()), names.get("deny", ()))
    with_pin, stock = open_model(tiny_model_path, **names), open_model(tiny_model_path)
    pinned = [complete(text) for text in replies(with_pin, tiny_vocab, 6, **settings)]
    free = [text.decode("utf-8", "ignore") for text in replies(stock, tiny_vocab, 2, **settings)]
    assert not text_families("".join(pinned), SCRIPTS) & denied
    assert len(text_families("".join(free), SCRIPTS) & denied) > 1
    assert len(set("".join(pinned))) > 40
    stats = with_pin.gate_stats
    assert stats.pin_yields == stats.gate_runs == 0
    assert stats.steps == 6 * len(PROMPTS) * 40
    assert with_pin.gate_events == []


@pytest.mark.parametrize("mode", ["observe", "off"])
def test_a_pin_that_does_not_act_changes_no_token(tiny_model_path: Path, tiny_vocab: TinyVocab, mode: str) -> None:
    found = replies(open_model(tiny_model_path, allow=("hangul",), mode=mode), tiny_vocab, 2)
    assert found == replies(Llama(str(tiny_model_path), **COMMON), tiny_vocab, 2)


def test_options_change_between_replies(tiny_model_path: Path, tiny_vocab: TinyVocab) -> None:
    llm = open_model(tiny_model_path)
    stock = replies(llm, tiny_vocab, 1)
    llm.gate_options = GateOptions(allow=("thai",))
    thai = "".join(complete(text) for text in replies(llm, tiny_vocab, 1))
    assert text_families(thai, SCRIPTS) == {"thai"}
    llm.gate_options = GateOptions()
    assert replies(llm, tiny_vocab, 1) == stock


def test_a_grammar_that_wants_what_is_pinned_away_wins(tiny_model_path: Path) -> None:
    llm = open_model(tiny_model_path, allow=("hangul",))
    reply = llm.create_completion("the", grammar=LlamaGrammar.from_string('root ::= "key" "가"'), max_tokens=20)
    assert reply["choices"][0]["text"] == "key가"  # type: ignore[index]
    assert 1 <= llm.gate_stats.pin_yields <= 3


def test_a_bias_counts_and_the_pin_holds_against_it(tiny_model_path: Path, tiny_vocab: TinyVocab) -> None:
    llm = open_model(tiny_model_path, deny=("han",))
    bias = {str(tiny_vocab.id_of("中国")): 50.0, str(tiny_vocab.id_of("한국")): 40.0}
    reply = llm.create_completion("the", logit_bias=bias, max_tokens=5)  # type: ignore[arg-type]
    assert set(reply["choices"][0]["text"]) == set("한국")  # type: ignore[index]


def test_letters_of_multiple_choice_stay_where_they_are_named(tiny_model_path: Path, tiny_vocab: TinyVocab) -> None:
    bias = {str(tiny_vocab.id_of("B")): 50.0, str(tiny_vocab.id_of("H")): 60.0}
    for allow, expected in ((("hangul", "choices"), {"B"}), (("hangul",), set())):
        llm = open_model(tiny_model_path, allow=allow)
        text = llm.create_completion("the", logit_bias=bias, max_tokens=5)["choices"][0]["text"]  # type: ignore[index, arg-type]
        assert set(text) & {"B", "H"} == expected


def test_the_pin_holds_at_the_first_token_and_whatever_the_gate_says(
    tiny_model_path: Path, tiny_vocab: TinyVocab, gate16: Path
) -> None:
    options = GateOptions(allow=("arabic",), persistence=False, confidence=False)
    llm = GatedLlama(str(tiny_model_path), gate=gate16, gate_options=options, **COMMON)
    text = "".join(complete(text) for text in replies(llm, tiny_vocab, 3))
    assert text_families(text, SCRIPTS) == {"arabic"}
    llm.set_gate(None)  # the pin stays
    assert text_families("".join(map(complete, replies(llm, tiny_vocab, 1))), SCRIPTS) == {"arabic"}
