"""What is measured on held-out text, on numbers small enough to count by hand, and the loss against PyTorch's."""

from __future__ import annotations

import json
import math

import numpy as np
import numpy.typing as npt
import pytest

from lcg_cpp.gate.decisions import NO_FAMILY, DecodingRules, FamilyTable
from lcg_cpp.gate.families import family_set
from lcg_cpp.gate.spec import CONFIDENCE
from lcg_cpp.gate.steps import PAPER_SAMPLING, Sampling
from lcg_cpp.train.heldout import FamilyScore, HeldOut, Scores

CJ, LATIN, SYMBOLS, LOWRES = range(4)
NAMES = ("cj", "latin", "symbols", "lowres")
N_VOCAB = 8  # two tokens of each family: token // 2

RULES = DecodingRules(FamilyTable(np.arange(N_VOCAB) // 2, family_set()), (0.5,) * 4, CONFIDENCE)

Floats = npt.NDArray[np.float32]


def held_out(
    labels: list[list[float]],
    probabilities: list[dict[int, float]],
    last: list[int],
    following: list[int],
) -> HeldOut:
    """Positions whose hidden states are never looked at."""
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
        RULES,
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


# ---- as a record ----


def test_scores_survive_json() -> None:
    scores = Scores(7, 0.5, {"cj": FamilyScore(3, 0.25, 1.0), "latin": FamilyScore(0, 0.0, 0.5)}, 0.125, 0.0625)
    assert Scores.from_dict(json.loads(json.dumps(scores.as_dict()))) == scores
    nowhere = Scores(1, 0.5, {"cj": FamilyScore(0, math.nan, math.nan)}, 0.0, 0.0)
    again = Scores.from_dict(json.loads(json.dumps(nowhere.as_dict()))).families["cj"]
    assert math.isnan(again.precision)
    assert math.isnan(again.recall)
