"""What is measured on held-out text, on numbers small enough to count by hand, and the loss against PyTorch's."""

from __future__ import annotations

import dataclasses
import json
import math

import numpy as np
import numpy.typing as npt
import pytest

from lcg_cpp.gate.decisions import NO_FAMILY, DecodingRules, FamilyTable
from lcg_cpp.gate.families import family_set
from lcg_cpp.gate.rule_set import FamilySet
from lcg_cpp.gate.scripts import SIBLINGS
from lcg_cpp.gate.spec import CONFIDENCE
from lcg_cpp.gate.steps import PAPER_SAMPLING, Sampling
from lcg_cpp.gate.thresholds import Thresholds
from lcg_cpp.train.heldout import FamilyScore, HeldOut, Scores
from lcg_cpp.train.thresholds import (
    ALLOW,
    HIGHEST,
    HIGHEST_OF_SIBLINGS,
    LEAST_RIGHT,
    LOWEST,
    UNLEARNED,
    UNSURE,
    UNSURE_AT_FIRST,
    Judged,
    allowed_from,
    family_thresholds,
    first_thresholds,
    highest,
)

CJ, LATIN, SYMBOLS, LOWRES = range(4)
NAMES = ("cj", "latin", "symbols", "lowres")
N_VOCAB = 8  # two tokens of each family: token // 2

RULES = DecodingRules(FamilyTable(np.arange(N_VOCAB) // 2, family_set()), Thresholds((0.5,) * 4), CONFIDENCE)

Floats = npt.NDArray[np.float32]


def held_out(
    labels: list[list[float]],
    probabilities: list[dict[int, float]],
    last: list[int],
    following: list[int],
    max_missed: float = 1.0,
    text: list[int] | None = None,
) -> HeldOut:
    """Positions whose hidden states are never looked at, each of a text of its own unless said otherwise."""
    n = len(labels)
    logits = np.full((n, N_VOCAB), -np.inf, np.float32)
    for row, shares in enumerate(probabilities):
        for token, share in shares.items():
            logits[row, token] = math.log(share)
    return HeldOut(
        np.arange(n, dtype=np.float32)[:, None],
        np.array(labels, np.float32),
        RULES.steps(logits),
        np.array(last),
        np.array(following),
        np.arange(n) if text is None else np.array(text),
        RULES,
        max_missed,
    )


def anywhere(labels: list[list[float]]) -> HeldOut:
    """Positions of which only the labels matter."""
    n = len(labels)
    return held_out(labels, [{4: 1.0}] * n, [LOWRES] * n, [4] * n)


def measured(positions: HeldOut, z: list[list[float]]) -> Scores:
    """Scores of a gate that answers z."""
    given = np.array(z, np.float32)

    def predict(hidden: Floats) -> Floats:
        assert hidden is positions.hidden
        return given

    return positions.measure(predict)


# ---- against the labels ----


def test_precision_and_recall_are_counted() -> None:
    #          cj: 2 of 3 predictions right, 2 of 4 labels found; latin: none predicted; lowres: none labelled
    labels = [[1, 1, 0, 0], [1, 0, 1, 0], [0, 0, 1, 0], [1, 0, 1, 0], [1, 0, 1, 0]]
    z = [[2, -1, -1, 1], [3, -1, 0, -1], [1, -1, 1, 2], [-1, -1, 1, -2], [-0.5, -1, 1, -2]]
    scores = measured(anywhere(labels), z)
    assert scores.positions == 5
    cj, latin, symbols, lowres = (scores.families[name] for name in NAMES)
    assert (cj.positions, cj.precision, cj.recall) == (4, 2 / 3, 2 / 4)
    assert cj.f1 == pytest.approx(2 * (2 / 3) * (1 / 2) / (2 / 3 + 1 / 2))
    assert (latin.positions, latin.recall, latin.f1) == (1, 0, 0)
    assert math.isnan(latin.precision)
    assert (symbols.positions, symbols.precision, symbols.recall, symbols.f1) == (4, 1, 1, 1)  # z = 0 is predicted
    assert (lowres.positions, lowres.precision, lowres.f1) == (0, 0, 0)
    assert math.isnan(lowres.recall)


def test_family_that_is_nowhere_has_no_score() -> None:
    score = measured(anywhere([[1, 0, 0, 0]]), [[1, -1, -1, -1]]).families["latin"]
    assert score.positions == 0
    assert all(math.isnan(value) for value in (score.precision, score.recall, score.f1))


def test_soft_labels_count_from_one_half() -> None:
    labels = [[0.5, 0.49, 0.01, 0], [0.2, 0.3, 0.5, 0]]
    scores = measured(anywhere(labels), [[1, 1, -1, -1], [1, 1, 1, -1]])
    assert [scores.families[name].positions for name in NAMES] == [1, 0, 1, 0]
    assert scores.families["cj"].precision == 0.5


def test_loss_is_the_mean_over_positions_and_families() -> None:
    # by hand: log(1 + e^-2) where z agrees, log(1 + e^2) where not
    scores = measured(anywhere([[1, 0, 0, 1]]), [[2, -2, 2, -2]])
    assert scores.loss == pytest.approx((math.log1p(math.exp(-2)) + math.log1p(math.exp(2))) / 2)


@pytest.mark.parametrize("soft", [False, True])
def test_loss_is_that_of_torch(soft: bool) -> None:
    torch = pytest.importorskip("torch")
    rng = np.random.default_rng(0)
    labels = rng.random((50, 4)) if soft else rng.integers(0, 2, (50, 4))
    z = rng.normal(0, 30, (50, 4))
    scores = measured(anywhere(labels.tolist()), z.tolist())
    wanted = torch.nn.functional.binary_cross_entropy_with_logits(
        torch.tensor(z.astype(np.float32), dtype=torch.float64), torch.tensor(labels.astype(np.float32)).double()
    )
    assert scores.loss == pytest.approx(float(wanted), rel=1e-6)


# ---- what the gate would do ----

ONLY_LOWRES = [-4.0, -4.0, -4.0, 4.0]
ONLY_CJ = [4.0, -4.0, -4.0, -4.0]


def test_interventions_and_contradictions_are_counted() -> None:
    confused = {0: 0.5, 6: 0.4, 4: 0.1}  # a Chinese token, a lowres one, a symbol
    positions = held_out(
        [[0, 0, 0, 1]] * 8,
        [confused, confused, confused, confused, confused, {6: 0.95, 0: 0.05}, {0: 0.9999, 6: 0.0001}, {0: 1.0}],
        [LOWRES, LOWRES, LOWRES, CJ, NO_FAMILY, LOWRES, LOWRES, LOWRES],
        [6, 0, 4, 0, 0, 0, 0, 0],
    )
    z = [ONLY_LOWRES] * 8
    # the text goes on with: 6 allowed, 0 banned, a symbol; cj is the last family; a first token; then: the Chinese
    # token does not survive top-p 0.8; the model is sure of it; it is all there is
    scores = measured(positions, z)
    assert scores.intervene == 4 / 8
    assert scores.contradict == 2 / 8


def test_gate_that_is_right_contradicts_nothing() -> None:
    positions = held_out([[1, 0, 0, 0]], [{0: 0.5, 2: 0.4, 6: 0.1}], [LOWRES], [0])
    scores = measured(positions, [ONLY_CJ])
    assert (scores.intervene, scores.contradict) == (1, 0)  # the Latin token goes, the text's own stays


def test_measured_at_the_papers_sampling() -> None:
    # T 0.7, top-k 20, top-p 0.8 (paper, section 4.1)
    assert Sampling(temperature=0.7, top_k=20, top_p=0.8) == PAPER_SAMPLING
    # a token behind 0.8 does not survive; behind 0.79 it does
    inside = held_out([[0, 0, 0, 1]], [{6: 0.79, 0: 0.21}], [LOWRES], [6])
    outside = held_out([[0, 0, 0, 1]], [{6: 0.81, 0: 0.19}], [LOWRES], [6])
    assert measured(inside, [ONLY_LOWRES]).intervene == 1
    assert measured(outside, [ONLY_LOWRES]).intervene == 0


# ---- thresholds ----


def chosen(probabilities: list[float], *, max_missed: float, right: int = CJ, is_removed: bool = True) -> float:
    """The threshold of a family that is right wherever it has these probabilities."""
    z = np.full((len(probabilities), 4), 4.0, np.float32)
    z[:, right] = np.log(np.array(probabilities)) - np.log1p(-np.array(probabilities))
    n = len(z)
    found = Judged(z, np.full(n, right), np.full(n, is_removed), np.arange(n))
    return family_thresholds(found, family_set(), max_missed)[right]


def test_a_threshold_is_the_highest_at_which_so_few_right_ones_are_removed() -> None:
    # 25 right positions: at 8 % two of them may be missed, at 7.9 % one, and one always, but at 0
    probabilities = [0.125, 0.25, 0.375, *[0.9375] * 22]
    assert chosen(probabilities, max_missed=0.08) == pytest.approx(0.375)
    assert chosen(probabilities, max_missed=0.079) == pytest.approx(0.25)
    assert chosen(probabilities, max_missed=0.0001) == pytest.approx(0.25)
    assert chosen(probabilities, max_missed=0) == pytest.approx(0.125)
    assert chosen(probabilities, max_missed=0.12) == HIGHEST == 0.5
    assert chosen(probabilities, max_missed=1) == 0.5


def test_texts_that_hold_a_family_count_with_all_their_positions() -> None:
    # Chinese is right at 20 positions of a text of 40 and nowhere else: at 5 % two may be missed, of two texts four
    probabilities = np.array([0.125, 0.25, 0.375, 0.4375, *[0.9375] * 16, *[0.5] * 60])
    z = np.full((80, 4), 4.0, np.float32)
    z[:, CJ] = np.log(probabilities) - np.log1p(-probabilities)
    right = np.array([CJ] * 20 + [LOWRES] * 60)

    def threshold(text: list[int]) -> float:
        return family_thresholds(Judged(z, right, np.full(80, True), np.array(text)), family_set(), 0.05)[CJ]

    assert threshold([0] * 40 + [1] * 40) == pytest.approx(0.375)
    assert threshold([0] * 80) == HIGHEST
    assert threshold([0, 0, *[1] * 38, *[2] * 40]) == pytest.approx(0.375)


def test_what_has_the_threshold_in_32_bits_is_predicted() -> None:
    for probability in np.random.default_rng(0).uniform(LOWEST, HIGHEST, 50).tolist():
        threshold = chosen([probability] * LEAST_RIGHT, max_missed=0)
        assert float(np.float32(threshold)) == threshold
        z = np.float32(np.log(probability) - np.log1p(-probability))
        assert threshold <= 1 / (1 + math.exp(-float(z)))
        assert threshold == pytest.approx(probability, rel=1e-5)


def test_thresholds_have_limits() -> None:
    assert chosen([0.001, *[0.75] * 199], max_missed=0) == pytest.approx(LOWEST)
    assert chosen([0.75] * 25, max_missed=0) == HIGHEST
    assert chosen([0.001] * (LEAST_RIGHT - 1), max_missed=0) == pytest.approx(UNSURE)
    assert 0 < LOWEST < UNSURE < HIGHEST


def test_siblings_may_have_higher_thresholds() -> None:
    families = FamilySet(("latin", "hans", "symbols"), (True, True, False), 2, "scripts")
    n, right = 25, 1
    z = np.full((n, 3), 4.0, np.float32)
    for probability, threshold in ((0.8, 0.8), (0.95, HIGHEST_OF_SIBLINGS)):
        z[:, right] = np.log(probability) - np.log1p(-probability)
        found = Judged(z, np.full(n, right), np.full(n, True), np.arange(n))
        assert family_thresholds(found, families, 0)[right] == pytest.approx(threshold)
        assert family_thresholds(found, families, 1)[right] == HIGHEST
    assert highest(families) == (HIGHEST, HIGHEST_OF_SIBLINGS, HIGHEST) == (0.5, 0.9, 0.5)


def test_traditional_characters_may_come_long_before_they_are_predicted() -> None:
    families = FamilySet(("latin", "hant", "hans", "symbols"), (True, True, True, False), 3, "scripts")
    assert allowed_from(families) == pytest.approx((1.0, 0.1, 1.0, 1.0))
    assert allowed_from(families)[1] <= 0.1  # in 32 bits
    assert set(ALLOW) < SIBLINGS


def test_what_may_come_is_not_removed_from_held_out_text() -> None:
    # the text goes on with a traditional character, which the gate gives 0.269; the model finds Latin as plausible
    families = FamilySet(("hant", "latin", "symbols", "thai"), (True, True, False, True), 2, "scripts")
    table = FamilyTable(np.arange(N_VOCAB) // 2, families)
    positions = held_out([[1, 0, 0, 1]], [{0: 0.5, 6: 0.5}], [LOWRES], [0])
    positions = dataclasses.replace(positions, rules=dataclasses.replace(RULES, families=table))
    found = {
        missed: measured(dataclasses.replace(positions, max_missed=missed), [[-1, -4, -4, 4]]) for missed in (0, 1)
    }
    assert [scores.contradict for scores in found.values()] == [0, 1]
    assert [scores.families["hant"].allow_threshold for scores in found.values()] == [pytest.approx(0.1), 1]
    assert found[0].families["thai"].allow_threshold == 1
    assert Scores.from_dict(found[0].as_dict()) == found[0]


def test_a_family_that_the_gate_has_not_learned_is_hardly_ever_banned() -> None:
    # improbable at 10 of 100 right positions, and at 11; at all of them, where the rules would not remove it anyway
    assert chosen([0.001] * 10 + [0.75] * 90, max_missed=0) == pytest.approx(LOWEST)
    assert chosen([0.001] * 11 + [0.75] * 89, max_missed=0) == pytest.approx(0.001)
    assert chosen([0.003, 0.002] * 20, max_missed=0.5, is_removed=False) == pytest.approx(0.003)
    assert chosen([1e-9] * 25, max_missed=0) == pytest.approx(UNLEARNED)


def test_right_families_that_the_gate_would_not_remove_are_not_missed() -> None:
    assert chosen([0.125] * 25, max_missed=0, is_removed=False) == HIGHEST
    assert chosen([0.125] * 25, max_missed=0) == pytest.approx(0.125)


def test_families_that_are_never_masked_keep_their_threshold() -> None:
    assert chosen([0.125] * 25, max_missed=0, right=LOWRES) == HIGHEST


def first_of(usual: float, probabilities: list[float], max_missed: float = 0.0) -> float:
    """The first threshold of a family that is right at first tokens where it has these probabilities."""
    n = len(probabilities)
    z = np.full((n, 4), 4.0, np.float32)
    z[:, CJ] = np.log(np.array(probabilities)) - np.log1p(-np.array(probabilities))
    own = tuple(float(np.float32(value)) for value in (usual, 0.5, 0.5, 0.5))
    return first_thresholds(own, Judged(z, np.full(n, CJ), np.full(n, True), np.arange(n)), family_set(), max_missed)[
        CJ
    ]


def test_first_tokens_have_a_higher_threshold_and_never_a_lower_one() -> None:
    enough = [0.25] * LEAST_RIGHT
    assert first_of(0.0625, enough) == pytest.approx(0.25)
    assert first_of(0.375, enough) == 0.375
    assert first_of(0.0625, enough[1:]) == pytest.approx(UNSURE_AT_FIRST)
    assert first_of(0.25, enough[1:]) == 0.25
    assert first_of(0.0625, [0.125, *enough]) == pytest.approx(0.125)
    assert first_of(0.0625, [0.125, *enough], max_missed=0.1) == pytest.approx(0.25)


def test_a_family_that_the_gate_has_not_learned_keeps_its_threshold_at_first_tokens() -> None:
    assert first_of(0.001, []) == pytest.approx(0.001)
    lowest = chosen([0.001, *[0.75] * 199], max_missed=0)  # in 32 bits a little below LOWEST
    assert first_of(lowest, []) == pytest.approx(UNSURE_AT_FIRST)


def test_each_threshold_comes_from_its_own_positions() -> None:
    # Chinese is right everywhere; its probability is 0.269 where a reply begins and 0.119 later
    n = LEAST_RIGHT
    confused = {0: 0.5, 6: 0.4, 4: 0.1}
    last = [NO_FAMILY] * n + [LOWRES] * n
    positions = held_out([[1, 0, 0, 1]] * 2 * n, [confused] * 2 * n, last, [0] * 2 * n, 0.0)
    z = [[-1.0, -4.0, -4.0, 4.0]] * n + [[-2.0, -4.0, -4.0, 4.0]] * n
    score = measured(positions, z).families["cj"]
    assert score.threshold == pytest.approx(0.1192, abs=1e-4)
    assert score.first_threshold == pytest.approx(0.2689, abs=1e-4)
    score = measured(positions, z[::-1]).families[
        "cj"
    ]  # what is improbable where a reply begins, says nothing of later
    assert score.threshold == pytest.approx(0.2689, abs=1e-4)
    assert score.first_threshold == pytest.approx(0.2689, abs=1e-4)


def test_scores_are_those_of_the_gate_with_its_thresholds() -> None:
    # Chinese is right, and has a probability of sigmoid(-1) = 0.269: at 0.5 it would be banned everywhere
    n = 30
    confused = {0: 0.5, 6: 0.4, 4: 0.1}
    for max_missed, threshold, missed in ((1.0, 0.5, 1), (0.0, 0.2689, 0)):
        positions = held_out([[1, 0, 0, 1]] * n, [confused] * n, [LOWRES] * n, [0] * n, max_missed)
        scores = measured(positions, [[-1.0, -4.0, -4.0, 4.0]] * n)
        assert (scores.intervene, scores.contradict) == (missed, missed)
        assert scores.families["cj"].threshold == pytest.approx(threshold, abs=1e-4)
        assert scores.families["cj"].recall == 0  # at 0.5


def test_a_family_is_removed_only_where_the_gate_acts() -> None:
    # The same gate: where nothing confident is predicted, or the family of the newest token is right, it does not act
    n = 30
    alone, confused = {0: 1.0}, {0: 0.5, 6: 0.4, 4: 0.1}
    for logits, last, threshold in ((alone, LOWRES, 0.5), (confused, CJ, 0.5), (confused, LOWRES, 0.2689)):
        positions = held_out([[1, 0, 0, 1]] * n, [logits] * n, [last] * n, [0] * n, 0.0)
        scores = measured(positions, [[-1.0, -4.0, -4.0, 4.0]] * n)
        assert scores.families["cj"].threshold == pytest.approx(threshold, abs=1e-4)


# ---- as a record ----


def test_scores_survive_json() -> None:
    scores = Scores(
        7, 0.5, {"cj": FamilyScore(3, 0.25, 1.0, 0.125, 0.25), "latin": FamilyScore(0, 0.0, 0.5)}, 0.125, 0.0625
    )
    assert Scores.from_dict(json.loads(json.dumps(scores.as_dict()))) == scores
    nowhere = Scores(1, 0.5, {"cj": FamilyScore(0, math.nan, math.nan)}, 0.0, 0.0)
    again = Scores.from_dict(json.loads(json.dumps(nowhere.as_dict()))).families["cj"]
    assert math.isnan(again.precision)
    assert math.isnan(again.recall)
