"""`detect`: places and splices by hand, the rules against the oracle and `Gate.decide`, the demo model step by step."""

from __future__ import annotations

import dataclasses
import math
import random
from collections import Counter
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import numpy.typing as npt
import pytest

import oracle
from lcg_cpp import PAPER_OPTIONS, Gate, GateError, GateOptions
from lcg_cpp.benchmarks import Prompt, load_benchmark
from lcg_cpp.demo import GATES, MODEL
from lcg_cpp.detect.detect import Detection, DetectOptions, detect, detect_on
from lcg_cpp.detect.places import (
    AFTER,
    BETWEEN,
    GROUPS,
    INSIDE,
    LANGUAGE,
    PLACES,
    PLAIN,
    START,
    SWITCH,
    UNSPACED,
    ends,
    insert,
    marked,
    name_in,
    place_of,
    splice,
)
from lcg_cpp.detect.rules import ALLOWED, BANNED, CONFIDENT, FIRST_TOKEN, NOTHING_LEFT, PERSISTENCE, Answers
from lcg_cpp.detect.scores import THRESHOLDS, as_dict, score
from lcg_cpp.detect.texts import Probe, Question, Splicer
from lcg_cpp.detect.words import BLOCK, BRACKETS, CODE, QUOTATION, SPLICED, switches, words
from lcg_cpp.engine.base_model import NORMAL, BaseModel, Vocab
from lcg_cpp.engine.teacher import Teacher
from lcg_cpp.gate.decisions import NO_FAMILY, DecodingRules, FamilyTable
from lcg_cpp.gate.families import family_set, text_families
from lcg_cpp.gate.gate_file import write_gate
from lcg_cpp.gate.spec import CONFIDENCE, spec_for
from lcg_cpp.gate.steps import Sampling
from lcg_cpp.gate.thresholds import Thresholds
from oracle import Chain, Rules, Switches

MakeGate = Callable[..., Gate]

CJ, LATIN, SYMBOLS, LOWRES = range(4)
SCRIPTS = family_set("scripts")
MASKABLE = (True, True, False, False)
MARGIN = 1e-5  # closer to a border than this, single precision may decide otherwise


# ---- places ----


def places(text: str) -> dict[int, str]:
    """The places for a wrong word, by character."""
    is_marked = marked(text)
    found = {at: place_of(text, at, is_marked) for at in range(len(text))}
    return {at: place for at, place in found.items() if place is not None}


def test_places_of_a_text_with_spaces() -> None:
    # before and behind the space, never before punctuation
    assert places("אב, גד") == {0: START, 1: INSIDE, 3: BETWEEN, 4: BETWEEN, 5: INSIDE}
    assert places("да 5 нет") == {0: START, 1: INSIDE, 4: BETWEEN, 5: BETWEEN, 6: INSIDE, 7: INSIDE}
    assert places("да\nнет")[2] == places("да\nнет")[3] == BETWEEN


def test_a_mark_belongs_to_its_word() -> None:
    assert places("कि") == {0: START, 1: INSIDE}


def test_places_of_scripts_without_spaces() -> None:
    assert places("ไทย") == {0: START, 1: UNSPACED, 2: UNSPACED}
    assert places("印度，德国") == {0: START, 1: UNSPACED, 3: UNSPACED, 4: UNSPACED}  # and behind the comma


def test_white_space_in_front_of_a_text_is_its_start_once() -> None:
    assert places(" да") == {0: START, 2: INSIDE}
    assert places("да ") == {0: START, 1: INSIDE}  # nothing follows the space


@pytest.mark.parametrize("text", ["да (аб вг) ж", "да «аб вг» ж", 'да "аб вг" ж', "да `аб вг` ж", "да ```аб вг``` ж"])
def test_brackets_quotations_and_code_are_no_place(text: str) -> None:
    begin, end = text.index("а", 2), text.index("г")
    found = places(text)
    assert not found.keys() & set(range(begin, end + 1))
    assert text.rindex("ж") in found


def test_a_quotation_mark_within_a_hebrew_word_opens_nothing() -> None:
    assert places('ארה"ב גדולה')[6] == BETWEEN


def test_what_is_not_closed_ends_with_its_line_but_a_block_of_code_does_not() -> None:
    assert places("(да\nнет да")[8] == BETWEEN
    assert 9 not in places("```\nда нет")


# ---- splices ----


def test_switches_go_behind_items_clauses_and_the_text() -> None:
    assert ends("раз два, три\nпять") == [7, 12, 17]
    assert ends("раз два.") == [7]
    assert ends("раз (один) два") == [14]
    assert ends("раз «два три»") == [3]  # nowhere else does a word end outside
    assert ends("раз (one), два (two)") == []


def test_wrong_words_are_spaced_like_the_text() -> None:
    assert insert("раз два", 3, "字") == ("раз 字 два", 5)
    assert insert("раз два", 4, "字") == ("раз 字 два", 5)
    assert insert("раз два", 0, "字") == ("字 раз два", 1)
    assert insert(" раз", 0, "字") == (" 字 раз", 2)
    assert insert("раз\nдва", 3, "字") == ("раз 字\nдва", 5)
    assert insert("ไทย", 1, "字") == ("ไ字ทย", 2)
    assert insert("ไทย", 0, "字") == ("字ไทย", 1)


def test_switches_have_the_punctuation_of_the_text() -> None:
    assert splice("раз, два", 3, BRACKETS, "One") == ("раз (One", 5)
    assert splice("印度", 2, BRACKETS, "India") == ("印度（India", 3)
    assert splice("印度 (a)", 2, BRACKETS, "India") == ("印度 (India", 4)
    assert splice("раз", 3, QUOTATION, "One") == ("раз “One", 5)
    assert splice("«раз» два", 9, QUOTATION, "One") == ("«раз» два «One", 11)
    assert splice("印度", 2, QUOTATION, "One") == ("印度「One", 3)
    assert splice("раз", 3, CODE, "x()") == ("раз `x()", 5)
    assert splice("раз", 3, BLOCK, "sh\nls") == ("раз\n```sh\nls", 7)


def test_names_in_brackets_are_those_of_the_prompt() -> None:
    def found(prompt: str, reply: str, at: int, family: str) -> str | None:
        (name,) = {name_in(prompt, reply, at, family, families) for families in (family_set(), SCRIPTS)}
        return name

    assert found("Translate.\n\nNepal\nCuba", "Непал\nКуба", 10, "latin") == "Cuba"
    assert found("Nepal, Cuba\nRussian:", " Непал, Куба", 6, "latin") == "Nepal"
    assert found("What is “Nepal” in Russian?", "Непал", 5, "latin") == "Nepal"
    assert found("What is “Nepal” in Russian?", "Непал", 5, "cj") is None
    assert found("“Nepal” or “Cuba”?", "Непал", 5, "latin") is None


def test_there_are_words_and_switches_of_every_script() -> None:
    for families in (family_set(), SCRIPTS):
        for family in families.languages.values():
            assert words(family, families), family
            assert switches(family, families), family
            for text in (*words(family, families), *sum(switches(family, families).values(), ())):
                assert family in text_families(text, families)
    assert not words("symbols", SCRIPTS)
    assert set(switches("latin", SCRIPTS)) == {BRACKETS, QUOTATION, CODE, BLOCK}
    assert set(switches("greek", SCRIPTS)) == {BRACKETS, QUOTATION}


# ---- the texts of a prompt, on the demo model ----


@pytest.fixture(scope="module")
def teacher() -> Iterator[Teacher]:
    with Teacher(MODEL, n_ctx=256, n_threads=1) as loaded:
        yield loaded


@pytest.fixture(scope="module")
def gate() -> Gate:
    return Gate.load(GATES["default"])


@pytest.fixture(scope="module")
def splicer(teacher: Teacher, gate: Gate) -> Splicer:
    return Splicer(teacher, FamilyTable.of(gate), 256)


ARABIC = Prompt("ar", "Spain, Georgia\nArabic:", chat=False, reference="إسبانيا, جورجيا", language="ar")
SWITCHING = Prompt(
    "ru",
    "Niger, Yoruba\nRussian + Chinese:",
    chat=False,
    reference="Нигер (尼日尔), йоруба (约鲁巴语)",
    language="ru",
    expect_scripts=("cj",),
    switch="cj",
    items=(("Нигер", "尼日尔"), ("йоруба", "约鲁巴语")),
)


def before(teacher: Teacher, probe: Probe, question: Question) -> str:
    """The text of a probe in front of a question."""
    return b"".join(teacher.base.vocab.tokens[token] for token in probe.tokens[: question.index]).decode()


def test_a_clean_reply_is_asked_at_every_place_for_each_wrong_family(teacher: Teacher, splicer: Splicer) -> None:
    clean = splicer.probes(ARABIC, 0)[0]
    asked = {(before(teacher, clean, question)[-4:], question.group, question.family) for question in clean.questions}
    # " إ" is one token, and so is " ج": the question stands in front of the space
    assert {(group, family) for text, group, family in asked if text == "bic:"} == {(START, CJ), (START, LATIN)}
    assert {(group, family) for text, group, family in asked if text.endswith(",")} == {(BETWEEN, CJ), (BETWEEN, LATIN)}
    assert (" إس", INSIDE, CJ) in {(text[-3:], group, family) for text, group, family in asked}
    assert clean.n_own == len(clean.tokens) - len(teacher.tokenize(ARABIC.prompt, special=True, bos=True))
    assert {question.last for question in clean.questions if question.group == START} == {NO_FAMILY}
    assert {question.last for question in clean.questions if question.group != START} == {LOWRES}


def test_nothing_is_asked_within_a_character(teacher: Teacher, splicer: Splicer) -> None:
    for prompt in load_benchmark("demo").prompts[:40]:
        for probe in splicer.probes(prompt, 0):
            for question in probe.questions:
                if question.group in PLACES:
                    before(teacher, probe, question)  # is UTF-8


def test_what_the_reply_itself_switches_to_is_right_and_not_wrong(teacher: Teacher, splicer: Splicer) -> None:
    clean = splicer.probes(SWITCHING, 0)[0]
    own = [question for question in clean.questions if question.group == SWITCH]
    assert [before(teacher, clean, question)[-4:] for question in own] == ["ер (", "ба ("]
    assert {question.family for question in own} == {CJ}
    assert {question.family for question in clean.questions if question.group in PLACES} == {LATIN}


def test_the_language_of_a_reply_is_that_of_its_letters_though_its_tokens_are_fragments(
    splicer: Splicer, gate: Gate
) -> None:
    burmese = dataclasses.replace(SWITCHING, language="my", reference="ဆွီဒင်, ဆွစ်ဇာလန် (瑞士)")
    probes = splicer.probes(burmese, 0)
    assert LOWRES not in gate.token_families[probes[0].tokens[-12:]]
    groups = {(question.group, question.family) for probe in probes for question in probe.questions}
    assert (SWITCH, CJ) in groups
    assert (BRACKETS, CJ) in groups


def test_the_language_of_a_reply_is_that_of_the_prompt_though_most_letters_are_others(splicer: Splicer) -> None:
    chinese = dataclasses.replace(SWITCHING, language="zh", reference="瑞士 (Switzerland)", expect_scripts=("latin",))
    clean = splicer.probes(dataclasses.replace(chinese, switch="", items=()), 0)[0]
    groups = {(question.group, question.family) for question in clean.questions if question.group != PLAIN}
    assert groups == {(LANGUAGE, CJ), (SWITCH, LATIN)}


def test_words_of_the_requested_script_are_not_wrong_where_the_reference_lacks_them(splicer: Splicer) -> None:
    prompt = dataclasses.replace(ARABIC, expect_scripts=("latin",))
    clean = splicer.probes(prompt, 0)[0]
    assert {question.family for question in clean.questions} == {CJ}


def test_slips_are_in_the_text_and_asked_behind(teacher: Teacher, splicer: Splicer, gate: Gate) -> None:
    for number, family in ((0, CJ), (1, LATIN)):
        probe = next(p for p in splicer.probes(ARABIC, number) if {q.group for q in p.questions} == {AFTER})
        families = gate.token_families[probe.tokens]
        n_prompt = len(teacher.tokenize(ARABIC.prompt, special=True, bos=True))
        for question in probe.questions:
            assert question.family == family
            assert family in families[n_prompt : question.index]
            assert question.last == LOWRES  # a word of the reply stands between
        assert len(probe.tokens) == probe.questions[-1].index


def test_nothing_is_asked_before_the_first_slip(teacher: Teacher, splicer: Splicer, gate: Gate) -> None:
    prompt = next(p for p in load_benchmark("demo").prompts if p.prompt.count(",") == 5 and not p.switch)
    n_prompt = len(teacher.tokenize(prompt.prompt, special=True, bos=True))
    probe = splicer.probes(prompt, 0)[1]
    families = gate.token_families[probe.tokens]
    slips = n_prompt + np.flatnonzero(families[n_prompt:] == CJ)
    first, second = slips[0], slips[slips > slips[0] + 8][0]
    assert first > n_prompt + 3  # the reply's own words stand before it
    asked = [question.index for question in probe.questions]
    assert min(asked) > first
    assert min(asked) < second < max(asked)


def test_a_space_that_the_tokenizer_puts_in_front_belongs_to_the_first_token() -> None:
    # as SentencePiece does; the reply itself begins without one
    tokens = (b"Q\n", " да".encode(), " нет".encode())
    vocab = Vocab(tokens, np.full(len(tokens), NORMAL, np.uint32))
    base = BaseModel("model.gguf", "model", "llama", 4, vocab)
    ids = {"": [], "Q\n": [0], "да нет": [1, 2]}
    model: Any = SimpleNamespace(base=base, tokenize=lambda text, special=False, bos=False: ids.get(text, []))
    families = FamilyTable(np.array([SYMBOLS, LOWRES, LOWRES]), family_set())
    splicer = Splicer(model, families, 64)
    clean = splicer.probes(Prompt("1", "Q", chat=True, reference="да нет", language="ru"), 0)[0]
    assert {(question.index, question.group) for question in clean.questions} == {(1, START), (2, BETWEEN)}


def test_spliced_switches_take_turns_and_end_before_what_is_asked(teacher: Teacher, splicer: Splicer) -> None:
    seen = {}
    for number in range(4):
        for probe in splicer.probes(ARABIC, number)[2:]:
            (question,) = probe.questions
            assert len(probe.tokens) == question.index
            seen[question.group, question.family] = before(teacher, probe, question).removeprefix("<|begin|>")
    text = f"{ARABIC.prompt} إسبانيا"
    assert set(seen) == {
        (BRACKETS, CJ),
        (QUOTATION, CJ),
        (BRACKETS, LATIN),
        (QUOTATION, LATIN),
        *((kind, LATIN) for kind in (CODE, BLOCK)),
    }
    assert seen[BRACKETS, LATIN] in (f"{text} (", f"{text}, جورجيا (")
    assert seen[BLOCK, LATIN] in (f"{text}\n```", f"{text}, جورجيا\n```")


def test_the_same_is_spliced_in_whatever_other_prompts_there_are(teacher: Teacher, gate: Gate) -> None:
    first, second = (Splicer(teacher, FamilyTable.of(gate), 256) for _ in range(2))
    first.probes(SWITCHING, 0)
    assert [p.tokens for p in first.probes(ARABIC, 0)] == [p.tokens for p in second.probes(ARABIC, 0)]


# ---- a gate with one family for each script ----


@pytest.fixture(scope="module")
def finer(teacher: Teacher, tmp_path_factory: pytest.TempPathFactory) -> Gate:
    """A gate that always expects Arabic, of 14 families."""
    spec = spec_for(teacher.base, n_hidden=0, rules="scripts")
    bias = np.array([8.0 if name in ("arabic", "symbols") else -8.0 for name in spec.families.names], np.float32)
    weights = {"lcg.fc2.weight": np.zeros((len(bias), teacher.base.n_embd), np.float32), "lcg.fc2.bias": bias}
    path = tmp_path_factory.mktemp("finer") / "gate.gguf"
    write_gate(path, spec, weights, "f32")
    return Gate.load(path)


def test_every_script_but_the_replys_is_wrong_and_takes_turns(teacher: Teacher, finer: Gate) -> None:
    splicer = Splicer(teacher, FamilyTable.of(finer), 256)
    names = finer.families.names
    all_wrong = {*finer.families.languages.values()} - {"arabic"}
    slipped, switched = set(), set()
    for number in range(26):
        clean, *spliced = splicer.probes(ARABIC, number)
        assert {names[q.family] for q in clean.questions if q.group == BETWEEN} == all_wrong
        slipped |= {names[q.family] for probe in spliced for q in probe.questions if q.group == AFTER}
        found = [names[q.family] for probe in spliced for q in probe.questions if q.group != AFTER]
        assert len(found) <= 2  # Latin and one other
        switched |= set(found)
    # the demo's vocabulary writes the words of `other` byte by byte, and the names that are `hans`
    assert slipped >= all_wrong - {"other"}
    assert switched >= all_wrong - {"other", "hans"}


def test_all_families_of_a_language_are_its_own(teacher: Teacher, finer: Gate) -> None:
    splicer = Splicer(teacher, FamilyTable.of(finer), 256)
    chinese = Prompt("zh", "Spain\nChinese:", chat=False, reference="丹麦语, 中国, 语, Rome", language="zh")
    questions = splicer.probes(chinese, 0)[0].questions
    of_group = {
        group: {finer.families.names[q.family] for q in questions if q.group == group} for group in (LANGUAGE, SWITCH)
    }
    assert of_group[LANGUAGE] <= {"hans", "hansj", "han"}
    assert len(of_group[LANGUAGE]) > 1
    assert of_group[SWITCH] == {"latin"}
    wrong = {finer.families.names[q.family] for q in questions if q.group == BETWEEN}
    assert "kana" in wrong
    assert not wrong & {"hans", "hansj", "han", "latin"}
    spliced = [q for number in range(24) for probe in splicer.probes(chinese, number)[1:] for q in probe.questions]
    switched = {finer.families.names[q.family] for q in spliced if q.group in SPLICED}
    assert {"kana", "thai"} <= switched
    assert not switched & {"hans", "hansj", "han"}


def test_a_gate_of_many_families_is_scored_by_script_and_over_all(teacher: Teacher, finer: Gate) -> None:
    prompts = [dataclasses.replace(ARABIC, id=str(i)) for i in range(6)]
    found = score(detect_on(teacher, finer, prompts, DetectOptions(n_ctx=256)))
    assert set(found.families) >= {"latin", "hans", "kana", "cyrillic", "arabic"}
    assert found.every.wrong.asked.n == sum(family.wrong.asked.n for family in found.families.values())
    assert found.every.own.asked.n == sum(family.own.asked.n for family in found.families.values())
    assert found.families["arabic"].wrong.asked.n == 0
    assert found.every.thresholds[9][0] == pytest.approx(found.every.wrong.asked.percent)


def test_replies_that_cannot_be_used_are_counted(teacher: Teacher, gate: Gate) -> None:
    splicer = Splicer(teacher, FamilyTable.of(gate), 12)
    assert splicer.probes(dataclasses.replace(ARABIC, reference="12, 13"), 0) == []
    assert splicer.probes(ARABIC, 0) == []
    assert splicer.skipped == {
        "the reference holds no letter": 1,
        "the reply is too long, or its tokens do not make it up": 1,
    }


# ---- the rules ----


def answers_of(
    z: npt.ArrayLike,
    family: int,
    last: int,
    survivors: set[int],
    confident: set[int],
    confident_masked: set[int] | None = None,
) -> Answers:
    """One answer."""
    n = len(np.atleast_1d(cast(Any, z)))
    sets = (survivors, confident, confident if confident_masked is None else confident_masked)
    held = [[f in families for f in range(n)] for families in sets]
    return Answers(
        text=np.zeros(1, np.intp),
        group=np.array([GROUPS.index(BETWEEN)]),
        family=np.array([family]),
        last=np.array([last]),
        z=np.array([z], np.float32),
        survivors=np.array(held[:1]),
        confident=np.array(held[1:2]),
        confident_masked=np.array(held[2:]),
    )


ONLY_LOWRES = (-4.0, -4.0, -4.0, 4.0)
TABLE = FamilyTable(np.arange(4), family_set())  # a token of each


@pytest.mark.parametrize(
    ("z", "last", "confident", "options", "wanted"),
    [
        (ONLY_LOWRES, LOWRES, {LOWRES}, GateOptions(), BANNED),
        ((1.0, -4.0, -4.0, 4.0), LOWRES, {LOWRES}, GateOptions(), ALLOWED),
        (ONLY_LOWRES, CJ, {LOWRES}, GateOptions(), PERSISTENCE),
        (ONLY_LOWRES, CJ, {LOWRES}, GateOptions(persistence=False), BANNED),
        (ONLY_LOWRES, NO_FAMILY, {LOWRES}, GateOptions(), BANNED),
        (ONLY_LOWRES, NO_FAMILY, {LOWRES}, PAPER_OPTIONS, FIRST_TOKEN),
        (ONLY_LOWRES, LOWRES, {CJ}, GateOptions(), CONFIDENT),
        (ONLY_LOWRES, LOWRES, {CJ}, GateOptions(confidence=False), NOTHING_LEFT),
        (ONLY_LOWRES, LOWRES, {SYMBOLS}, GateOptions(confidence=False), BANNED),
    ],
)
def test_what_keeps_a_token(
    z: tuple[float, ...], last: int, confident: set[int], options: GateOptions, wanted: int
) -> None:
    rules = DecodingRules(TABLE, Thresholds((0.5,) * 4), CONFIDENCE, options)
    assert answers_of(z, CJ, last, set(), confident).verdicts(rules).tolist() == [wanted]


REASONS_OF_RULES = {
    BANNED: {"intervene"},
    ALLOWED: {"nothing_banned", "intervene", "not_confident", "no_history", "would_empty"},
    PERSISTENCE: {"nothing_banned", "intervene", "not_confident", "no_history", "would_empty"},
    FIRST_TOKEN: {"no_history"},
    CONFIDENT: {"not_confident"},
    NOTHING_LEFT: {"would_empty"},
}


def random_answers(
    rng: np.random.Generator, make_gate: MakeGate
) -> Iterator[tuple[int, oracle.Outcome, Any, int, int]]:
    """Random positions, each with a token that joins the survivors: verdict, oracle, `Gate.decide`, family, last."""
    n_vocab = int(rng.choice([5, 21, 60]))
    family = rng.choice(4, n_vocab, p=rng.dirichlet(np.ones(4)))
    family[:2] = CJ, LATIN
    sets = [((5, 0.999), (20, 0.95)), ((1, 0.9),), ((3, 0.5), (2, 0.99), (7, 0.8))][rng.integers(3)]
    own, first = (tuple(rng.choice([0.5, 0.8, 0.2], 4)) for _ in range(2))
    allow = oracle.draw_allowed(rng, 4)
    at = {"own_thresholds": own, "first_thresholds": first, "allow_thresholds": allow}
    rules = Rules(family, MASKABLE, SYMBOLS, confidence=sets, **at)
    rules.masked_as.update(oracle.draw_masked_as(rng, n_vocab, 4) if rng.random() < 0.4 else {})
    gate = make_gate(rules)
    sampling = Sampling(
        float(rng.choice([0.3, 1.0, 2.0])), int(rng.choice([1, 5, 20])), float(rng.choice([0.5, 0.9, 1]))
    )
    persistence, confidence, first_token = (bool(rng.random() < p) for p in (0.8, 0.7, 0.5))
    switches = Switches(
        persistence=persistence,
        confidence=confidence,
        confidence_temperature=float(rng.choice([0.0, 0.7])),
        first_token=first_token,
    )
    options = GateOptions(**dataclasses.asdict(switches))
    for _ in range(20):
        logits = rng.normal(0, rng.choice([0.5, 2.0, 6.0]), n_vocab).astype(np.float32)
        z = rng.normal(-0.5, 2, 4).astype(np.float32)
        last = int(rng.choice([NO_FAMILY, CJ, LATIN, LOWRES]))
        token = int(rng.choice(np.setdiff1d(np.flatnonzero(family < SYMBOLS), list(rules.masked_as))))
        ids = np.arange(n_vocab)
        left, margin = oracle.truncate(
            {i: float(x) for i, x in enumerate(logits)}, Chain(sampling.top_k, 1.0, sampling.top_p, 0.0, 1.0)
        )
        given: dict[str, Any] = {"last": None if last == NO_FAMILY else last, "temperature": sampling.temperature}
        survivors = sorted({*left, token})
        wanted = oracle.decide(rules, ids, logits, survivors, z, switches=switches, **given)
        if min(margin, wanted.margin) < MARGIN:
            continue
        decided = gate.decide(ids, logits, survivors, z, options=options, **given)
        of_gate = DecodingRules.of(gate, options)
        held = [
            set(np.flatnonzero(found).tolist()) for found in of_gate.families_at(of_gate.steps(logits[None], sampling))
        ]
        answers = answers_of(z, int(family[token]), last, *held)
        assert answers.in_reach.tolist() == [any(rules.goes_with(i) == family[token] for i in left)]
        yield int(answers.verdicts(of_gate)[0]), wanted, decided, int(family[token]), last


def test_random_verdicts_equal_the_oracle_and_the_core_with_the_token_among_the_survivors(make_gate: MakeGate) -> None:
    seen: Counter[int] = Counter()
    for number in range(120):
        for verdict, wanted, decided, family, last in random_answers(np.random.default_rng([11, number]), make_gate):
            removes = wanted.intervene and family in wanted.banned
            assert (verdict == BANNED) == removes
            assert removes == (decided.intervene and ("cj", "latin")[family] in decided.banned)
            assert wanted.reason in REASONS_OF_RULES[verdict]
            by_gate = family in wanted.predicted or (family in wanted.allowed and family != last)
            assert (verdict == ALLOWED) == by_gate
            seen[verdict] += 1
    assert min(seen[verdict] for verdict in (BANNED, ALLOWED, PERSISTENCE, FIRST_TOKEN, CONFIDENT)) > 50
    assert seen[NOTHING_LEFT] > 0


# ---- a whole run ----


def run(teacher: Teacher, gate: Gate, **changes: Any) -> Detection:
    options = DetectOptions(n_ctx=256, **{"n_texts": 12, **changes})
    return detect_on(teacher, gate, load_benchmark("demo").prompts, options)


@pytest.mark.parametrize(
    ("options", "temperature"),
    [
        (GateOptions(), 0.7),
        (PAPER_OPTIONS, 0.7),
        (PAPER_OPTIONS, 0.1),
        (GateOptions(threshold=0.9, confidence=False), 0.7),
    ],
)
def test_a_run_decides_as_the_core_does_step_by_step(
    teacher: Teacher, gate: Gate, options: GateOptions, temperature: float
) -> None:
    detection = run(teacher, gate, n_texts=6, gate_options=options, sampling=Sampling(temperature))
    verdicts = detection.answers.verdicts(detection.rules)
    splicer = Splicer(teacher, FamilyTable.of(gate), 256)
    drawn = random.Random(0).sample(load_benchmark("demo").prompts, 6)
    probes = [probe for number, prompt in enumerate(drawn, 1) for probe in splicer.probes(prompt, number)]
    wanted = []
    for probe in probes:
        (states,) = teacher.states([probe.tokens])
        z = gate.predict(states.hidden)
        for question in sorted(probe.questions, key=lambda question: question.index):
            row = states.logits[question.index - 1]
            left, _ = oracle.truncate({i: float(x) for i, x in enumerate(row)}, Chain(20, 1.0, 0.8, 0.0, 1.0))
            token = int(np.flatnonzero(gate.token_families == question.family)[0])
            decided = gate.decide(
                np.arange(len(row)),
                row,
                sorted({*left, token}),
                z[question.index - 1],
                last=None if question.last == NO_FAMILY else question.last,
                temperature=temperature,
                options=options,
            )
            wanted.append(decided.intervene and gate.families.names[question.family] in decided.banned)
    assert len(wanted) == len(verdicts) > 100
    # texts that are evaluated together round a little differently than alone
    assert np.count_nonzero((verdicts == BANNED) != wanted) <= 1
    assert 0 < np.count_nonzero(wanted) < len(wanted)


def test_the_demos_gate_finds_slips_and_leaves_the_replies_alone(teacher: Teacher, gate: Gate) -> None:
    detection = run(teacher, gate, n_texts=40)
    found = score(detection)
    assert (detection.n_texts, detection.n_given, detection.finished) == (40, 400, True)
    assert found.own_removed == 0
    for family in found.families.values():
        assert family.wrong.asked.n > 300
        assert family.wrong.asked.percent > 90
        assert family.wrong.in_reach.removed == family.wrong.in_reach.n > 10
        assert sum(family.kept_because.values()) == family.wrong.asked.n - family.wrong.asked.removed
        assert sum(cell.asked.n for cell in family.places.values()) == family.wrong.asked.n
    with_paper_rules = score(run(teacher, gate, n_texts=40, gate_options=PAPER_OPTIONS))
    assert with_paper_rules.families["cj"].places[START].asked.removed == 0


def test_a_longer_run_begins_with_the_same_replies(teacher: Teacher, gate: Gate) -> None:
    short, long = run(teacher, gate, n_texts=4).answers, run(teacher, gate, n_texts=30).answers
    n = len(short)
    for name in ("text", "group", "family", "last"):
        assert getattr(long, name)[:n].tolist() == getattr(short, name).tolist()


def test_a_run_that_is_stopped_keeps_whole_replies(teacher: Teacher, gate: Gate) -> None:
    asked = []
    options = DetectOptions(n_ctx=256)

    def should_stop() -> bool:
        asked.append(True)
        return len(asked) > 10  # within a group: four questions each

    detection = detect_on(teacher, gate, load_benchmark("demo").prompts, options, should_stop=should_stop)
    assert not detection.finished
    assert 0 < detection.n_texts < detection.n_wanted
    whole = detect_on(teacher, gate, load_benchmark("demo").prompts, options).answers
    assert detection.answers.text.tolist() == [text for text in whole.text.tolist() if text < detection.n_texts]
    assert score(detection).own_tokens > 0


def test_what_cannot_be_measured_is_said(teacher: Teacher, gate: Gate) -> None:
    with pytest.raises(GateError, match="none of 1 prompts has a `reference`"):
        detect(MODEL, gate, [dataclasses.replace(ARABIC, reference="")])
    with pytest.raises(GateError, match="none of 1 replies was measured: the reference holds no letter"):
        detect(MODEL, gate, [dataclasses.replace(ARABIC, reference="1")])
    with pytest.raises(GateError, match="none of 1 replies was measured: it was stopped"):
        detect(MODEL, gate, [ARABIC], should_stop=lambda: True)
    with pytest.raises(GateError, match="`n_texts` is 0, expected at least 1"):
        DetectOptions(n_texts=0)


def test_gates_of_other_models_and_with_other_rules_are_refused(teacher: Teacher, make_gate: MakeGate) -> None:
    families = np.zeros(teacher.n_vocab, np.int64)
    with pytest.raises(GateError, match=r"was made for n_embd 4, the model .* has 160; a gate fits only"):
        make_gate(Rules(families, MASKABLE, SYMBOLS)).check_model(teacher.base)
    base = dataclasses.replace(teacher.base, n_embd=4)
    with pytest.raises(GateError, match=r"was made for another model, the model .* has another tokenizer"):
        make_gate(Rules(families, MASKABLE, SYMBOLS)).check_model(base)


# ---- scores ----


def synthetic(answers: list[tuple[int, str, int, bool, bool]], own_tokens: list[int]) -> Detection:
    """A run by hand: of each answer the text, the group, the family, whether it is in reach, whether it is removed."""
    text, group, family, in_reach, removed = zip(*answers)
    n = len(answers)
    survivors = np.zeros((n, 4), np.bool_)
    survivors[np.arange(n), family] = in_reach
    z = np.array([[-1, -1, -4, 1] if gone else [1, 1, -4, 1] for gone in removed], np.float32)
    return Detection(
        base=cast(Any, SimpleNamespace(path="model.gguf")),
        gate=cast(
            Any,
            SimpleNamespace(
                path="gate.gguf",
                token_families=np.arange(4),
                masked_as=np.arange(4),
                families=family_set(),
                thresholds=Thresholds((0.5,) * 4),
                confidence=CONFIDENCE,
            ),
        ),
        options=DetectOptions(),
        answers=Answers(
            text=np.array(text),
            group=np.array([GROUPS.index(name) for name in group]),
            family=np.array(family),
            last=np.full(n, LOWRES),
            z=z,
            survivors=survivors,
            confident=np.tile([False, False, False, True], (n, 1)),
            confident_masked=np.tile([False, False, False, True], (n, 1)),
        ),
        n_given=5,
        n_wanted=3,
        own_tokens=np.array(own_tokens),
        skipped=Counter({"too long": 1}),
        tokens=100,
        seconds=2.0,
        finished=True,
    )


BY_HAND = [
    (0, START, CJ, False, True),
    (0, BETWEEN, CJ, True, True),
    (1, BETWEEN, CJ, True, False),
    (1, AFTER, CJ, False, True),
    (0, SWITCH, CJ, True, False),
    (1, SWITCH, CJ, True, True),
    (1, BRACKETS, CJ, False, False),
    (2, INSIDE, LATIN, False, True),
    (2, INSIDE, LATIN, False, True),
    (2, PLAIN, LATIN, False, True),
]


def test_scores_by_hand() -> None:
    found = score(synthetic(BY_HAND, [10, 20, 10]))
    assert list(found.families) == ["cj", "latin"]
    cj, latin = found.families["cj"], found.families["latin"]
    assert (cj.wrong.asked.n, cj.wrong.asked.removed, cj.wrong.asked.percent) == (4, 3, 75.0)
    assert (cj.wrong.in_reach.n, cj.wrong.in_reach.removed) == (2, 1)
    assert (cj.wrong.asked.low, cj.wrong.asked.high) == (50.0, 100.0)  # both texts, or one of them twice
    assert {place: (c.asked.n, c.asked.removed) for place, c in cj.places.items()} == {
        START: (1, 1),
        BETWEEN: (2, 1),
        AFTER: (1, 1),
    }
    assert {kind: (c.asked.n, c.asked.removed) for kind, c in cj.kinds.items()} == {SWITCH: (2, 1), BRACKETS: (1, 0)}
    assert cj.precision_own.value == pytest.approx(100 * 0.75 / (0.75 + 0.5))
    assert cj.precision_spliced.value == 100.0
    # none of one text: as many as 97.5 % of them could have it
    assert (cj.spliced.asked.low, cj.spliced.asked.high) == (0.0, pytest.approx(97.5))
    assert cj.precision_spliced.low == pytest.approx(100 * 50 / (50 + 97.5))
    assert (found.own_tokens, found.own_removed) == (40, 2)
    assert (latin.wrong.asked.n, latin.wrong.asked.low) == (2, pytest.approx(2.5))  # two tokens, but one text
    assert list(cj.kept_because.values()) == [1, 0, 0, 0, 0]
    assert latin.own.asked.n == 0
    assert math.isnan(latin.precision_own.value)
    assert math.isnan(latin.own.asked.percent)


def test_a_precision_is_not_certain_where_all_of_one_kind_are_removed() -> None:
    all_removed = [(text, group, CJ, True, True) for text in range(3) for group in (BETWEEN, SWITCH)]
    cj = score(synthetic(all_removed, [10, 10, 10])).families["cj"]
    least = 0.025 ** (1 / 3)  # of three texts with all, so much of each share is sure
    assert cj.precision_own.value == 50.0
    assert cj.precision_own.low == pytest.approx(100 * least / (least + 1))
    assert cj.precision_own.high == pytest.approx(100 / (1 + least))


def test_other_thresholds_by_hand() -> None:
    # sigmoid(1) = 0.731 and sigmoid(-1) = 0.269; lowres has 1 in both and is the most probable or its equal
    rows = dict(zip(THRESHOLDS, score(synthetic(BY_HAND, [10, 20, 10])).families["cj"].thresholds))
    assert rows[0.25] == (0.0, 0.0, 0.0)
    assert rows[0.3] == rows[0.7] == (75.0, 50.0, 0.0)
    # now nothing is predicted but the most probable family: of equals the first, cj, where it was not removed
    assert rows[0.75] == (75.0, 50.0, 0.0)


def test_what_is_not_defined_is_null_in_json() -> None:
    detection = synthetic(BY_HAND, [10, 20, 10])
    told = as_dict(detection, score(detection))
    assert told["families"]["latin"]["own"]["asked"] == {
        "n": 0,
        "removed": 0,
        "percent": None,
        "low": None,
        "high": None,
    }
    assert told["families"]["latin"]["thresholds"][9] == {
        "threshold": 0.5,
        "wrong": 100.0,
        "own": None,
        "spliced": None,
    }
    assert (told["texts"], told["wanted"], told["with_reference"], told["skipped"]) == (3, 3, 5, {"too long": 1})
    assert told["sampling"] == {"temperature": 0.7, "top_k": 20, "top_p": 0.8}
    assert told["rules"] == {
        "thresholds": dict.fromkeys(("cj", "latin", "symbols", "lowres"), 0.5),
        "first_thresholds": dict.fromkeys(("cj", "latin", "symbols", "lowres"), 0.5),
        "persistence": True,
        "confidence": True,
        "confidence_temperature": 0.7,
        "first_token": True,
    }
