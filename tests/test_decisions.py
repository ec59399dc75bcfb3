"""The decoding rules on many positions at once, against the NumPy oracle, against `Gate.decide` and by hand."""

from __future__ import annotations

import dataclasses
import math
from collections import Counter
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

import oracle
from lcg_cpp import PAPER_OPTIONS, Gate, GateError, GateOptions
from lcg_cpp.gate.decisions import NO_FAMILY, DecodingRules, FamilyTable, Rulings, last_families
from lcg_cpp.gate.results import REASONS
from lcg_cpp.gate.rule_set import FamilySet
from lcg_cpp.gate.spec import GateSpec
from lcg_cpp.gate.steps import MAX_TOP_K, Sampling, Steps
from lcg_cpp.gate.thresholds import Thresholds
from oracle import Chain, Rules, Switches

MakeGate = Callable[..., Gate]

CJ, LATIN, SYMBOLS, LOWRES = range(4)
MASKABLE = (True, True, False, False)
MARGIN = 1e-5  # closer to a border than this, single precision may decide otherwise

# ten tokens of each family, the family is the tens digit
BY_TENS = Rules(np.repeat(np.arange(4), 10), MASKABLE, SYMBOLS)
CJ_0, CJ_1, LATIN_0, SYMBOL_0, LOWRES_0, LOWRES_1 = 0, 1, 10, 20, 30, 31
ONLY_LOWRES = (-4.0, -4.0, -4.0, 4.0)
PLAIN = Sampling(temperature=1.0, top_k=20, top_p=1.0)


def table_of(rules: Rules) -> FamilyTable:
    """The families as the package has them."""
    names = tuple(f"family {f}" for f in range(len(rules.maskable)))
    families = FamilySet(names, rules.maskable, rules.neutral, "default")
    masked_as = np.array([rules.goes_with(token) for token in range(len(rules.family))], np.intp)
    return FamilyTable(rules.family.astype(np.intp), families, masked_as)


def rules_of(rules: Rules, options: GateOptions) -> DecodingRules:
    """The decoding rules as the package has them."""
    usual = rules.own_thresholds or (rules.threshold,) * len(rules.maskable)
    thresholds = Thresholds(usual, rules.first_thresholds, rules.allow_thresholds)
    return DecodingRules(table_of(rules), thresholds, rules.confidence, options)


def one(
    probabilities: dict[int, float],
    z: tuple[float, ...],
    last: int | None,
    options: GateOptions = PAPER_OPTIONS,
    sampling: Sampling = PLAIN,
) -> tuple[bool, list[bool]]:
    """Decides one position over the forty tokens; tokens without a probability are at -inf."""
    logits = np.full((1, 40), -np.inf, np.float32)
    for token, probability in probabilities.items():
        logits[0, token] = math.log(probability)
    rules = rules_of(BY_TENS, options)
    newest = np.array([NO_FAMILY if last is None else last])
    found = rules.judge(rules.steps(logits, sampling), np.array([z], np.float32), newest)
    return bool(found.intervene[0]), found.banned[0].tolist()


# ---- each rule by hand ----


def test_confusion_point_is_acted_on() -> None:
    assert one({CJ_0: 0.6, LOWRES_0: 0.4}, ONLY_LOWRES, LOWRES) == (True, [True, True, False, False])


def test_last_family_is_never_banned() -> None:
    assert one({CJ_0: 0.6, LOWRES_0: 0.4}, ONLY_LOWRES, CJ) == (False, [False, True, False, False])
    no_persistence = GateOptions(persistence=False)
    assert one({CJ_0: 0.6, LOWRES_0: 0.4}, ONLY_LOWRES, CJ, no_persistence) == (True, [True, True, False, False])


def test_before_the_first_language_token_only_if_wanted() -> None:
    c = {CJ_0: 0.6, LOWRES_0: 0.4}
    assert not one(c, ONLY_LOWRES, None)[0]
    assert one(c, ONLY_LOWRES, None, GateOptions(first_token=True))[0]
    assert one(c, ONLY_LOWRES, None, GateOptions(first_token=False, persistence=False))[0]
    assert one(c, ONLY_LOWRES, None, GateOptions())[0]  # as GateOptions has it


def test_banned_token_must_be_among_the_survivors() -> None:
    c = {LOWRES_0: 0.6, CJ_0: 0.4}
    assert one(c, ONLY_LOWRES, LOWRES, sampling=Sampling(1.0, 20, 0.7))[0]
    assert not one(c, ONLY_LOWRES, LOWRES, sampling=Sampling(1.0, 20, 0.59))[0]  # the first one reaches 0.59
    assert not one(c, ONLY_LOWRES, LOWRES, sampling=Sampling(1.0, 1, 1.0))[0]


def test_model_that_finds_the_gates_choice_implausible_wins() -> None:
    c = {CJ_0: 0.9995, LOWRES_0: 0.0005}
    assert not one(c, ONLY_LOWRES, LOWRES)[0]
    assert one(c, ONLY_LOWRES, LOWRES, GateOptions(confidence=False))[0]
    # at T = 3 the weights are 0.9995^(1/3) = 0.99983 and 0.0005^(1/3) = 0.0794: the sum before is 0.926 < 0.95
    assert one(c, ONLY_LOWRES, LOWRES, sampling=Sampling(3.0, 20, 1.0))[0]


def test_the_confidence_set_is_taken_at_no_lower_temperature_than_its_own() -> None:
    # weights exp(0) and exp(-4 / T): before the second token come 0.9967 at T = 0.7 and 0.999999998 at T = 0.2
    c = {CJ_0: 0.98201, LOWRES_0: 0.01799}
    assert one(c, ONLY_LOWRES, LOWRES, GateOptions(), Sampling(0.2, 20, 1.0))[0]
    assert not one(c, ONLY_LOWRES, LOWRES, PAPER_OPTIONS, Sampling(0.2, 20, 1.0))[0]


def test_truncation_comes_before_the_temperature() -> None:
    # at T = 3 the second token has 43 %, but top-p sees 8 % and drops it
    c = {LOWRES_0: 0.92, CJ_0: 0.08}
    assert not one(c, ONLY_LOWRES, LOWRES, sampling=Sampling(3.0, 20, 0.9))[0]


def test_confidence_is_among_all_tokens_and_not_among_the_best() -> None:
    # forty equal tokens: before the twentieth, the only lowres one, are 19/40 of all, but 0.95 of the best twenty
    rules = Rules(np.array([CJ] * 19 + [LOWRES] + [SYMBOLS] * 20), MASKABLE, SYMBOLS)
    decoding = rules_of(rules, GateOptions())
    steps = decoding.steps(np.zeros((1, 40), np.float32), PLAIN)
    assert steps.log_sum[0] == pytest.approx(math.log(40))
    assert steps.n_confident.tolist() == [20]
    found = decoding.judge(steps, np.array([ONLY_LOWRES], np.float32), np.array([LOWRES]))
    assert found.intervene.tolist() == [True]


def test_last_family_alone_does_not_make_the_model_confident() -> None:
    c = {LATIN_0: 0.6, CJ_0: 0.4}
    assert not one(c, ONLY_LOWRES, CJ)[0]


def test_nothing_is_done_where_nothing_would_be_left() -> None:
    # P = {latin}, last = lowres: without the confidence rule only Chinese tokens are there
    only_latin = (-4.0, 4.0, -4.0, -4.0)
    c = {CJ_0: 0.6, CJ_1: 0.4}
    assert not one(c, only_latin, LOWRES, GateOptions(confidence=False))[0]
    assert one({**c, LOWRES_0: 1e-9}, only_latin, LOWRES, GateOptions(confidence=False))[0]  # S holds it


def test_forbidden_tokens_never_count() -> None:
    forbidden = {LOWRES_0: 1.0}  # all others are at -inf: the Chinese tokens that fill the twenty do not survive
    assert not one(forbidden, ONLY_LOWRES, LOWRES)[0]


def test_threshold() -> None:
    # sigmoid(1) = 0.731
    z = (1.0, -5.0, -5.0, 3.0)
    c = {CJ_0: 0.5, LOWRES_0: 0.5}
    assert one(c, z, LOWRES) == (False, [False, True, False, False])
    assert one(c, z, LOWRES, GateOptions(threshold=0.74)) == (True, [True, True, False, False])
    assert one(c, (0.0, -5.0, -5.0, 3.0), LOWRES)[1][CJ] is False  # 0.5 reaches 0.5


def test_each_family_has_its_own_threshold() -> None:
    # sigmoid(1) = 0.731, sigmoid(-1) = 0.269, sigmoid(-2) = 0.119
    rules = dataclasses.replace(BY_TENS, own_thresholds=(0.25, 0.75, 0.5, 0.125))
    z = np.array([(-1.0, 1.0, 2.0, -2.0)], np.float32)
    none = np.zeros((1, 4), np.bool_)
    for options, predicted in (
        (PAPER_OPTIONS, [True, False, True, False]),
        (GateOptions(threshold=0.7), [False, True, True, False]),
    ):
        found = rules_of(rules, options).judge_families(z, np.array([LOWRES]), none, none, none)
        assert found.predicted.tolist() == [predicted]


def test_the_first_language_token_has_thresholds_of_its_own() -> None:
    # sigmoid(-1) = 0.269
    rules = dataclasses.replace(BY_TENS, own_thresholds=(0.25,) * 4, first_thresholds=(0.5, 0.25, 0.5, 0.5))
    z = np.array([(-1.0, -1.0, 3.0, -1.0)] * 2, np.float32)
    none = np.zeros((2, 4), np.bool_)
    for options, wanted in (
        (GateOptions(), [[False, True, True, False], [True] * 4]),
        (GateOptions(threshold=0.25), [[True] * 4] * 2),
        (GateOptions(threshold=0.5), [[False, False, True, False]] * 2),
    ):
        found = rules_of(rules, options).judge_families(z, np.array([NO_FAMILY, LOWRES]), none, none, none)
        assert found.predicted.tolist() == wanted


def test_most_probable_family_is_predicted_below_the_threshold() -> None:
    assert one({CJ_0: 0.5, LATIN_0: 0.5}, (-3.0, -2.0, -4.0, -5.0), LOWRES) == (True, [True, False, False, False])


def test_z_of_any_size_is_read() -> None:
    # a gate on its way to diverging: no overflow, no warning
    assert one({CJ_0: 0.6, LOWRES_0: 0.4}, (-3e38, -1000.0, -800.0, 3e38), LOWRES) == (True, [True, True, False, False])


def test_vocabulary_smaller_than_the_confidence_sets() -> None:
    rules = Rules(np.array([CJ, LOWRES, SYMBOLS]), MASKABLE, SYMBOLS)
    decoding = rules_of(rules, GateOptions())
    steps = decoding.steps(np.log(np.array([[0.6, 0.3, 0.1]], np.float32)), PLAIN)
    assert steps.ids.tolist() == [[0, 1, 2]]
    found = decoding.judge(steps, np.array([ONLY_LOWRES], np.float32), np.array([LOWRES]))
    assert found.intervene.tolist() == [True]


def test_as_many_tokens_are_kept_as_the_sets_need() -> None:
    logits = np.log(np.full((1, 40), 1 / 40, np.float32))
    for k, sets, wanted in ((3, ((2, 0.5),), 3), (3, ((7, 0.5), (5, 1.0)), 7), (30, ((20, 0.95),), 30)):
        assert Steps.of(logits, Sampling(top_k=k), sets).ids.tolist() == [list(range(wanted))]


def test_the_gates_own_confidence_sets_and_threshold_count() -> None:
    # the second token is outside of a set of one; sigmoid(1) = 0.731 is below 0.8
    c = np.full((1, 40), -np.inf, np.float32)
    c[0, [CJ_0, LOWRES_0]] = np.log([0.6, 0.4])
    z = np.array([[1.0, -5.0, -5.0, 3.0]], np.float32)
    for confidence, threshold, wanted in (
        (((20, 0.95),), 0.8, "intervene"),
        (((1, 0.95),), 0.8, "not_confident"),
        (((20, 0.5),), 0.8, "not_confident"),
        (((20, 0.95),), 0.7, "nothing_banned"),
    ):
        rules = rules_of(dataclasses.replace(BY_TENS, confidence=confidence, threshold=threshold), PAPER_OPTIONS)
        found = rules.judge(rules.steps(c, PLAIN), z, np.array([LOWRES]))
        assert REASONS[found.reasons[0]] == wanted


# ---- random cases ----


@dataclasses.dataclass(frozen=True)
class Case:
    """Positions that share families, a request and options."""

    rules: Rules
    exempt: tuple[int, ...]
    logits: npt.NDArray[np.float32]
    z: npt.NDArray[np.float32]
    last: npt.NDArray[np.int64]
    sampling: Sampling
    switches: Switches

    @property
    def options(self) -> GateOptions:
        """The switches as the package names them."""
        return GateOptions(**dataclasses.asdict(self.switches))

    def survivors(self, row: int) -> tuple[list[int], float]:
        """S as llama.cpp's samplers leave it, and the distance of the closest comparison from its border."""
        chain = Chain(self.sampling.top_k, 1.0, self.sampling.top_p, 0.0, 1.0)
        left, margin = oracle.truncate({i: float(x) for i, x in enumerate(self.logits[row])}, chain)
        return [token for token, logit in left.items() if logit > -np.inf], margin


def random_case(rng: np.random.Generator, n: int) -> Case:
    """Families, logits and options of all kinds; ties are ranked by id everywhere, so that they may occur."""
    n_families = int(rng.choice([2, 3, 4, 6, 20, 64, 127]))
    n_vocab = int(rng.choice([2, 5, 19, 21, 60, 200]))
    neutral = int(rng.integers(n_families))
    maskable = tuple(bool(f != neutral and rng.random() < 0.6) for f in range(n_families))
    stored = rng.choice(n_families, n_vocab, p=rng.dirichlet(np.ones(n_families)))
    exempt = tuple(np.flatnonzero(rng.random(n_vocab) < 0.05).tolist())
    family = stored.copy()
    family[list(exempt)] = neutral
    sets = [(int(rng.choice([1, 2, 5, 20, 64])), float(rng.choice([0.1, 0.5, 0.95, 0.999]))) for _ in range(3)]
    confidence = [((5, 0.999), (20, 0.95)), tuple(sets[: rng.integers(1, 4)])][rng.integers(2)]
    own, first = (
        tuple(rng.choice([0.5, 0.25, 0.75, 0.01], n_families).tolist()) if rng.random() < 0.5 else () for _ in range(2)
    )
    masked_as = oracle.draw_masked_as(rng, n_vocab, n_families) if rng.random() < 0.4 else {}
    common = float(rng.choice([0.5, 0.25, 0.75]))
    allow = oracle.draw_allowed(rng, n_families)
    rules = Rules(family, maskable, neutral, common, confidence, own, first, masked_as, allow)
    logits = rng.normal(0, rng.choice([0.1, 1.0, 3.0, 8.0]), (n, n_vocab)) + rng.choice([0.0, -40.0, 25.0])
    if rng.random() < 0.3:
        logits = np.round(logits)  # equal ones
    if rng.random() < 0.4:
        logits[:, 1:][rng.random((n, n_vocab - 1)) < 0.5] = -np.inf
    languages = [f for f in range(n_families) if f != neutral]
    last = rng.choice([NO_FAMILY, *languages], n)
    switches = Switches(
        threshold=[None, 0.1, 0.5, 0.9][rng.integers(4)],
        persistence=bool(rng.random() < 0.8),
        confidence=bool(rng.random() < 0.7),
        confidence_temperature=float(rng.choice([0.0, 0.7, 1.2])),
        first_token=bool(rng.random() < 0.5),
    )
    sampling = Sampling(
        temperature=float(rng.choice([0.2, 0.7, 1.0, 2.0])),
        top_k=int(rng.choice([1, 3, 20, 50])),
        top_p=float(rng.choice([0.3, 0.8, 0.95, 1.0])),
    )
    z = rng.normal(-0.5, 2, (n, n_families)) - (n_families > 6) * rng.exponential(4, (n, n_families))
    if rng.random() < 0.2:
        z = np.round(z)  # a probability of exactly one half, equal ones
    return Case(rules, exempt, logits.astype(np.float32), z.astype(np.float32), last, sampling, switches)


CASES = [random_case(np.random.default_rng([7, number]), 24) for number in range(250)]


def row_of(found: Rulings, row: int) -> tuple[str, set[int], set[int], set[int]]:
    """One ruling as the oracle has it."""
    predicted, allowed, banned = (
        set(np.flatnonzero(families[row]).tolist()) for families in (found.predicted, found.allowed, found.banned)
    )
    return REASONS[found.reasons[row]], predicted, allowed, banned


def test_random_positions_equal_the_oracle() -> None:
    seen: Counter[Any] = Counter()
    for case in CASES:
        rules = rules_of(case.rules, case.options)
        steps = rules.steps(case.logits, case.sampling)
        found = rules.judge(steps, case.z, case.last)
        for row, last in enumerate(case.last.tolist()):
            survivors, margin = case.survivors(row)
            wanted = oracle.decide(
                case.rules,
                np.arange(case.logits.shape[1]),
                case.logits[row],
                survivors,
                case.z[row],
                last=None if last == NO_FAMILY else last,
                temperature=case.sampling.temperature,
                switches=case.switches,
            )
            if min(margin, wanted.margin) < MARGIN:
                seen["undecided"] += 1
                continue
            assert row_of(found, row) == (wanted.reason, wanted.predicted, wanted.allowed, wanted.banned)
            assert set(steps.ids[row][steps.survivors()[row]].tolist()) == set(survivors)
            assert set(steps.ids[row][steps.confident()[row]].tolist()) == wanted.confident
            seen[wanted.reason] += 1
    # every outcome occurs, and few are left out
    assert min(seen[reason] for reason in ("intervene", "no_history", "nothing_banned", "not_confident")) > 100
    assert seen["would_empty"] > 10
    assert seen["undecided"] < 300  # of 6,000


def test_random_positions_equal_single_decisions(make_gate: MakeGate) -> None:
    n_acts = 0
    for case in CASES[:80]:
        gate = make_gate(case.rules)
        names = np.array(gate.families.names)
        rules = DecodingRules.of(gate, case.options)
        found = rules.judge(rules.steps(case.logits, case.sampling), case.z, case.last)
        for row, last in enumerate(case.last.tolist()):
            survivors, margin = case.survivors(row)
            wanted = gate.decide(
                np.arange(case.logits.shape[1]),
                case.logits[row],
                survivors,
                case.z[row],
                last=None if last == NO_FAMILY else last,
                temperature=case.sampling.temperature,
                options=case.options,
            )
            if margin < MARGIN:
                continue
            reason, *families = row_of(found, row)
            assert reason == wanted.reason
            for some, named in zip(families, (wanted.predicted, wanted.allowed, wanted.banned)):
                assert set(names[sorted(some)]) == set(named)
            n_acts += wanted.intervene
    assert n_acts > 100


def test_positions_do_not_touch_each_other() -> None:
    for case in CASES[:20]:
        rules = rules_of(case.rules, case.options)
        steps = rules.steps(case.logits, case.sampling)
        together = rules.judge(steps, case.z, case.last)
        halves = [slice(0, 10), slice(10, 24)]
        parts = [rules.judge(steps[rows], case.z[rows], case.last[rows]) for rows in halves]
        for column in dataclasses.fields(Rulings):
            joined = np.concatenate([getattr(part, column.name) for part in parts])
            np.testing.assert_array_equal(getattr(together, column.name), joined)
        again = Steps.join([steps[rows] for rows in halves])
        assert len(again) == 24
        for column in dataclasses.fields(Steps):
            np.testing.assert_array_equal(getattr(again, column.name), getattr(steps, column.name))


def test_mode_and_strength_of_the_options_do_not_matter() -> None:
    c = {CJ_0: 0.6, LOWRES_0: 0.4}
    assert one(c, ONLY_LOWRES, None, GateOptions(mode="observe", strength=1.0)) == one(
        c, ONLY_LOWRES, None, GateOptions()
    )
    alone = {CJ_0: 1.0}  # with a finite strength it would stay, and nothing would be empty
    assert not one(alone, ONLY_LOWRES, LOWRES, GateOptions(strength=1.0, confidence=False))[0]


@pytest.mark.parametrize(
    ("changes", "subject"),
    [
        ({"z": np.zeros((2, 3), np.float32)}, "z"),
        ({"last": np.array([3])}, "z"),
        ({"last": np.array([4, 0])}, "last"),
        ({"last": np.array([-2, 0])}, "last"),
        ({"survivors": np.zeros((2, 5), np.bool_)}, "survivors"),
        ({"confident": np.zeros(8, np.bool_)}, "confident"),
        ({"confident_masked": np.zeros((1, 4), np.bool_)}, "confident_masked"),
    ],
)
def test_wrong_shapes_and_families_are_refused_by_name(changes: dict[str, Any], subject: str) -> None:
    some = np.ones((2, 4), np.bool_)
    arguments = {"z": np.zeros((2, 4), np.float32), "last": np.array([3, 3])}
    arguments |= dict.fromkeys(("survivors", "confident", "confident_masked"), some)
    with pytest.raises(GateError, match=f"^`{subject}` "):
        rules_of(BY_TENS, GateOptions()).judge_families(**{**arguments, **changes})


def test_thresholds_that_do_not_fit_the_families_are_refused() -> None:
    some = np.ones((1, 4), np.bool_)
    for thresholds, name in (
        (Thresholds((0.5,) * 3, (0.5,) * 4), "thresholds"),
        (Thresholds((0.5,) * 4, (0.5,) * 3), "first_thresholds"),
        (Thresholds((0.5,) * 4, (), (0.5,) * 3), "allow_thresholds"),
    ):
        rules = dataclasses.replace(rules_of(BY_TENS, GateOptions()), thresholds=thresholds)
        with pytest.raises(GateError, match=rf"^`{name}` has 3 elements, expected 4, one for each family$"):
            rules.judge_families(np.zeros((1, 4), np.float32), np.array([3]), some, some, some)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("top_k", 0),
        ("top_k", MAX_TOP_K + 1),
        ("temperature", 0.0),
        ("temperature", 1e-60),
        ("temperature", math.inf),
        ("temperature", math.nan),
        ("top_p", 0.0),
        ("top_p", 1.01),
        ("top_p", math.nan),
    ],
)
def test_requests_that_cannot_be_are_refused(name: str, value: float) -> None:
    with pytest.raises(GateError, match=f"^`{name}` is {value}, expected "):
        Sampling(**{name: value})  # type: ignore[arg-type]


def test_exempt_tokens_are_neutral() -> None:
    stored = np.array([CJ, LATIN, LATIN, LOWRES], np.uint8)
    spec = GateSpec("llama", 4, 0, stored, "0" * 64, exempt_tokens=(2,))
    table = FamilyTable.of(spec)
    assert table.token_family.tolist() == [CJ, LATIN, SYMBOLS, LOWRES]
    assert table.maskable.tolist() == [True, True, False, False]
    assert table.neutral == SYMBOLS
    assert stored.tolist() == [CJ, LATIN, LATIN, LOWRES]  # the gate file keeps what the rules said


# ---- the newest family of a reply ----


@pytest.mark.parametrize(
    ("families", "reply", "wanted"),
    [
        pytest.param([CJ, LATIN, LOWRES], "...", [-1, -1, -1], id="a prompt has none"),
        pytest.param([CJ, LATIN, LOWRES], "rrr", [CJ, LATIN, LOWRES], id="a plain text from its first token"),
        pytest.param([CJ, LATIN, LOWRES], ".rr", [-1, LATIN, LOWRES], id="the prompt's families do not count"),
        pytest.param(
            [SYMBOLS, LATIN, SYMBOLS, SYMBOLS, CJ, SYMBOLS],
            "rrrrrr",
            [-1, LATIN, LATIN, LATIN, CJ, CJ],
            id="neutral tokens keep it",
        ),
        pytest.param(
            [CJ, LATIN, SYMBOLS, CJ, SYMBOLS, LOWRES, SYMBOLS],
            ".rr..rr",
            [-1, LATIN, LATIN, -1, -1, LOWRES, LOWRES],
            id="every reply begins anew",
        ),
        pytest.param(
            [LATIN, SYMBOLS, SYMBOLS, SYMBOLS, CJ],
            "r.rrr",
            [LATIN, -1, -1, -1, CJ],
            id="an earlier reply is not remembered",
        ),
        pytest.param([SYMBOLS, SYMBOLS], "rr", [-1, -1], id="neutral alone is none"),
        pytest.param([CJ], "r", [CJ], id="one token"),
        pytest.param([], "", [], id="no token"),
    ],
)
def test_newest_family_of_the_reply(families: list[int], reply: str, wanted: list[int]) -> None:
    tokens = np.array([10 * family + i % 10 for i, family in enumerate(families)], np.int64)
    is_reply = np.array([mark == "r" for mark in reply], np.bool_)
    assert last_families(tokens, is_reply, table_of(BY_TENS)).tolist() == wanted


def test_newest_family_equals_a_walk_over_the_reply() -> None:
    rng = np.random.default_rng(3)
    for _ in range(300):
        n = int(rng.integers(1, 40))
        tokens = rng.integers(0, 40, n)
        is_reply = np.repeat(rng.random(n) < 0.7, rng.integers(1, 5, n))[:n]
        wanted = []
        reply: list[int] = []
        for token, inside in zip(tokens.tolist(), is_reply.tolist()):
            reply = [*reply, token] if inside else []
            newest = oracle.last_family(BY_TENS, reply)
            wanted.append(NO_FAMILY if newest is None else newest)
        assert last_families(tokens, is_reply, table_of(BY_TENS)).tolist() == wanted
