"""`family_labels` and `Steps` against NumPy in float64, written from the method's text, and against examples.

The oracle sorts whole rows and adds up whole distributions. Whether a sum of probabilities is less than p is left open
where the two are closer than `OPEN`: then the label must lie between those of both answers. Such rows are counted, and
a test fails when they are more than one in a thousand.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from lcg_cpp import GateError
from lcg_cpp.gate.labels import family_labels
from lcg_cpp.gate.steps import Sampling, Steps

Floats = npt.NDArray[np.float64]
Singles = npt.NDArray[np.float32]
Bytes = npt.NDArray[np.uint8]

OPEN = 1e-9
CJ, LATIN, SYMBOLS, LOWRES = range(4)


# --- the oracle ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Expected:
    """What the label of one row must be.

    Attributes:
        certain: Families in S whatever rounding does.
        possible: Families that may be in S; the same as `certain` where no sum is too close to p.
        shares: float64 (n_families,), each family's share of the probability of S; None where S is open.
    """

    certain: frozenset[int]
    possible: frozenset[int]
    shares: Floats | None


def adjusted_logits(logits: Singles, norms: Singles | None, softcap: float) -> Floats:
    """logits_adj of the method: the soft-capping undone, then divided by the norms; float64 (n_vocab,)."""
    raw = logits.astype(np.float64)
    if softcap > 0:
        raw = softcap * np.arctanh(raw / softcap, where=raw > -math.inf, out=np.full_like(raw, -math.inf))
    return raw if norms is None else raw / norms.astype(np.float64)


def expected_label(adjusted: Floats, families: Bytes, k: int, p: float, n_families: int) -> Expected:
    """topkp of the method and the families it holds.

    Args:
        adjusted: (n_vocab,); -inf never counts.
        families: (n_vocab,).
        k: At most so many tokens, 0 for any number.
        p: A token is kept if its more-probable predecessors sum to less; with 1 that is every token.
        n_families: The number of families.
    """
    ids = np.flatnonzero(adjusted > -math.inf)
    order = ids[np.lexsort((ids, -adjusted[ids]))]
    weights = np.exp(adjusted[order] - adjusted[order[0]])
    probability = weights / weights.sum()
    before = np.concatenate([[0.0], np.cumsum(probability)[:-1]])
    at_most = len(order) if k == 0 else min(k, len(order))

    def n_kept(limit: float) -> int:
        return at_most if p == 1.0 else max(1, min(int(np.count_nonzero(before < limit)), at_most))

    fewest, most = n_kept(p - OPEN), n_kept(p + OPEN)
    family = families[order]
    shares = np.bincount(family[:most], weights=probability[:most], minlength=n_families)
    return Expected(
        certain=frozenset(family[:fewest].tolist()),
        possible=frozenset(family[:most].tolist()),
        shares=shares / shares.sum() if fewest == most else None,
    )


# --- random cases --------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Case:
    """Arguments of one call."""

    logits: Singles
    norms: Singles | None
    families: Bytes
    top_k: int
    top_p: float
    n_families: int
    softcap: float
    n_threads: int

    def labels(self, *, soft: bool = False) -> Singles:
        """Calls the code under test."""
        return family_labels(
            self.logits,
            self.norms,
            self.families,
            self.top_k,
            self.top_p,
            n_families=self.n_families,
            soft=soft,
            softcap=self.softcap,
            n_threads=self.n_threads,
        )

    def expected(self) -> Iterator[Expected]:
        """Asks the oracle, row by row."""
        for row in self.logits:
            adjusted = adjusted_logits(row, self.norms, self.softcap)
            yield expected_label(adjusted, self.families, self.top_k, self.top_p, self.n_families)


def random_logits(rng: np.random.Generator, n: int, n_vocab: int) -> Singles:
    """Rows of one kind: flat, peaked, full of equal values, sorted, forbidden in part, far from zero, ..."""
    x = rng.normal(0, rng.choice([0.001, 0.3, 2.0, 5.0]), (n, n_vocab))
    kind = rng.integers(9)
    if kind == 0:
        x[:] = rng.choice([0.0, -3.5, 11.0])
    elif kind == 1:
        x[np.arange(n), rng.integers(0, n_vocab, n)] += 30
    elif kind == 2:
        x = np.round(2 * x) / 2  # equal values, and zeros of both signs
    elif kind == 3:
        x = np.sort(x, axis=1)[:, :: rng.choice([-1, 1])]
    elif kind == 4:
        x += rng.choice([-8000.0, -200.0, 200.0])
    elif kind == 5:
        x[:, [0, -1]] += 7  # both ends of the row
    forbidden = rng.random((n, n_vocab)) < rng.choice([0.0, 0.0, 0.3, 0.97, 1.0])
    forbidden[np.arange(n), rng.integers(0, n_vocab, n)] = False  # at least one token is left
    x[forbidden] = -math.inf
    return x.astype(np.float32)


def random_norms(rng: np.random.Generator, n_vocab: int) -> Singles | None:
    """Norms as of real models, far apart, powers of two (whose quotients are exact), all ones, or None."""
    norms = (
        None,
        np.ones(n_vocab),
        rng.lognormal(0, 0.3, n_vocab),
        10 ** rng.uniform(-2, 2, n_vocab),
        2.0 ** rng.integers(-2, 3, n_vocab),
    )[rng.integers(5)]
    return None if norms is None else norms.astype(np.float32)


def random_case(rng: np.random.Generator, n: int, n_vocab: int) -> Case:
    """A case with n rows."""
    n_families = int(rng.choice([2, 4, 4, 4, 17, 127]))
    logits = random_logits(rng, n, n_vocab)
    softcap = 0.0
    if rng.random() < 0.2:
        softcap = float(rng.choice([5.0, 30.0]))
        logits = np.where(logits > -math.inf, 0.9999 * softcap * np.tanh(logits / softcap), -math.inf).astype(
            np.float32
        )
    logits.flags.writeable = False  # it is the engine's own memory
    return Case(
        logits=logits,
        norms=random_norms(rng, n_vocab),
        families=rng.integers(0, n_families, n_vocab, dtype=np.uint8),
        top_k=int(rng.choice([0, 1, 3, 5, 20, n_vocab, n_vocab + 7])),
        top_p=float(rng.choice([1e-9, 0.053, 0.49, 0.9, 0.95, 0.999, 1.0, rng.uniform(0.01, 1)])),
        n_families=n_families,
        softcap=softcap,
        n_threads=int(rng.integers(1, 4)),
    )


def check(case: Case, name: str = "the case") -> int:
    """Compares hard and soft labels with the oracle; returns the number of rows whose S is open."""
    hard, soft = case.labels(), case.labels(soft=True)
    shape = (len(case.logits), case.n_families)
    assert (hard.dtype, hard.shape, soft.dtype, soft.shape) == (np.float32, shape, np.float32, shape)
    assert np.isin(hard, (0, 1)).all()
    np.testing.assert_allclose(soft.sum(axis=1, dtype=np.float64), 1, atol=1e-6)
    if case.top_p < 1:  # with 1, S holds tokens whose share is below single precision
        np.testing.assert_array_equal(soft > 0, hard > 0)
    n_open = 0
    for row, expected in enumerate(case.expected()):
        held = frozenset(np.flatnonzero(hard[row]).tolist())
        assert expected.certain <= held <= expected.possible, f"row {row} of {name}"
        if expected.shares is None:
            n_open += 1
        else:
            assert np.abs(soft[row] - expected.shares).max() <= 1e-6, f"row {row} of {name}"
    return n_open


@pytest.mark.parametrize("seed", range(8))
def test_labels_of_random_rows_are_those_of_the_rule(seed: int) -> None:
    rng = np.random.default_rng(seed)
    n_rows = n_open = 0
    for number in range(500):
        n = int(rng.integers(1, 6))
        case = random_case(rng, n, int(np.exp(rng.uniform(np.log(2), np.log(5000)))))
        n_open += check(case, f"case {number}")
        n_rows += n
    assert n_open <= n_rows / 1000


def test_labels_of_random_rows_of_a_real_vocabulary_are_those_of_the_rule() -> None:
    rng = np.random.default_rng(0)
    for number in range(12):
        check(random_case(rng, 2, 151_936), f"case {number}")


@pytest.mark.parametrize("divided", [False, True])
@pytest.mark.parametrize("soft", [False, True])
def test_sums_next_to_p_are_decided_exactly(divided: bool, soft: bool) -> None:
    rng = np.random.default_rng(5)
    for n in range(1, 126):
        n_vocab = int(rng.integers(130, 3000))
        row = rng.normal(0, rng.uniform(0.1, 4), (1, n_vocab)).astype(np.float32)
        norms = rng.lognormal(0, 0.3, n_vocab).astype(np.float32) if divided else None
        adjusted = adjusted_logits(row[0], norms, 0.0)
        order = np.argsort(-adjusted, kind="stable")
        each = np.full(n_vocab, 126, np.uint8)
        each[order[:126]] = np.arange(126)  # so that the label tells how many tokens are kept
        after_n = np.ones(n_vocab, np.uint8)
        after_n[order[:n]] = 0  # so that it hangs on one token, and all before it are alike
        weights = np.exp(adjusted[order])
        of_n = weights[:n].sum() / weights.sum()
        for p, n_more in ((of_n - OPEN, 0), (of_n + OPEN, 1)):
            for families, n_held in ((each, n + n_more), (after_n, 1 + n_more)):
                label = family_labels(row, norms, families, 0, p, n_families=127, soft=soft, n_threads=1)
                assert np.count_nonzero(label) == n_held


def test_labels_are_those_of_pytorch() -> None:
    torch = pytest.importorskip("torch")
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(300, 48, generator=generator)
    output = torch.randn(2000, 48, generator=generator) * torch.rand(2000, 1, generator=generator).add(0.2)
    families = torch.randint(4, (2000,), generator=generator)
    norms = output.norm(dim=1)
    logits = hidden @ output.T
    for divisor in (norms, norms / norms.mean()):
        for k, p in ((20, 0.95), (5, 0.9), (3, 0.7)):
            best, ids = (logits.double() / divisor.double()).softmax(-1).topk(k, -1)
            kept = best.cumsum(-1) - best < p
            wanted = torch.zeros(300, 4).scatter_reduce_(1, families[ids], kept.float(), "amax")
            got = family_labels(logits.numpy(), divisor.numpy(), families.numpy().astype(np.uint8), k, p)
            np.testing.assert_array_equal(got, wanted.numpy())


# --- labels by hand ------------------------------------------------------------------------------------------------


def logs(*probabilities: float) -> Singles:
    """Logits (1, n_vocab) of explicit probabilities."""
    with np.errstate(divide="ignore"):
        return np.log(np.array([probabilities], np.float32))


def label_of(logits: Singles, families: list[int], top_k: int, top_p: float, **options: Any) -> list[float]:
    """The label of a single row without norms."""
    norms = options.pop("norms", None)
    if norms is not None:
        norms = np.array(norms, np.float32)
    labels = family_labels(logits, norms, np.array(families, np.uint8), top_k, top_p, **options)
    assert labels.shape[0] == 1
    return [float(value) for value in labels[0]]


def test_a_token_is_kept_while_those_before_it_sum_to_less_than_p() -> None:
    row = logs(0.5, 0.3, 0.15, 0.05)
    families = [CJ, LATIN, SYMBOLS, LOWRES]
    assert label_of(row, families, 0, 0.49) == [1, 0, 0, 0]
    assert label_of(row, families, 0, 0.51) == [1, 1, 0, 0]  # 0.5 before the second token
    assert label_of(row, families, 0, 0.79) == [1, 1, 0, 0]
    assert label_of(row, families, 0, 0.81) == [1, 1, 1, 0]
    assert label_of(row, families, 0, 0.96) == [1, 1, 1, 1]
    assert label_of(row, families, 2, 0.96) == [1, 1, 0, 0]


def test_a_sum_of_exactly_p_is_not_less_than_p() -> None:
    # two equal logits: the first token has exactly half of the probability
    row = np.array([[1.0, 1.0, -math.inf]], np.float32)
    assert label_of(row, [CJ, LATIN, LOWRES], 0, 0.5) == [1, 0, 0, 0]
    assert label_of(row, [CJ, LATIN, LOWRES], 0, 0.5000001) == [1, 1, 0, 0]


def test_probabilities_are_those_of_the_whole_vocabulary_not_of_the_k_best() -> None:
    # 0.4 of the whole: with the two best alone the first would have 0.67 and the second would be cut at 0.5
    row = logs(0.4, 0.2, *[0.01] * 40)
    assert label_of(row, [CJ, LATIN, *[LOWRES] * 40], 2, 0.5) == [1, 1, 0, 0]


def test_the_best_token_is_always_kept() -> None:
    assert label_of(logs(0.2, 0.7, 0.1), [CJ, LATIN, LOWRES], 20, 1e-12) == [0, 1, 0, 0]


def test_with_p_one_only_k_cuts() -> None:
    # the first token's probability rounds to one; every other token still has some
    row = np.array([[90.0, 0.0, -5.0, -6.0, -math.inf]], np.float32)
    families = [CJ, LATIN, SYMBOLS, LOWRES, 4]
    assert label_of(row, families, 3, 1.0, n_families=5) == [1, 1, 1, 0, 0]
    assert label_of(row, families, 0, 1.0, n_families=5) == [1, 1, 1, 1, 0]


def test_the_norm_decides_the_order_and_the_probabilities() -> None:
    # 6/3 = 2 is less than 3/1 = 3: the larger logit has the smaller share
    row = np.array([[6.0, 3.0]], np.float32)
    assert label_of(row, [CJ, LATIN], 1, 1.0, norms=[3, 1]) == [0, 1, 0, 0]
    share = 1 / (1 + math.exp(-1))
    wanted = [1 - share, share, 0, 0]
    assert label_of(row, [CJ, LATIN], 2, 1.0, norms=[3, 1], soft=True) == pytest.approx(wanted, abs=1e-7)


def test_norms_are_used_as_they_are_given() -> None:
    # twice the norms are half the logits: a flatter distribution
    row = np.array([[2.0, 0.0]], np.float32)
    wanted = [1 / (1 + math.exp(-1)), 1 / (1 + math.exp(1)), 0, 0]
    assert label_of(row, [CJ, LATIN], 2, 1.0, norms=[2, 2], soft=True) == pytest.approx(wanted, abs=1e-7)


def test_soft_labels_are_shares_of_what_is_kept() -> None:
    # S holds 0.5 + 0.3: shares 5/8 and 3/8
    row = logs(0.5, 0.3, 0.15, 0.05)
    assert label_of(row, [CJ, LATIN, CJ, LOWRES], 2, 1.0, soft=True) == pytest.approx([0.625, 0.375, 0, 0], abs=1e-6)
    # families add up: 0.5 + 0.15 of 0.95
    wanted = [0.65 / 0.95, 0.3 / 0.95, 0, 0]
    assert label_of(row, [CJ, LATIN, CJ, LOWRES], 3, 1.0, soft=True) == pytest.approx(wanted, abs=1e-6)


def test_of_equally_probable_tokens_the_lower_id_comes_first() -> None:
    row = np.zeros((1, 4), np.float32)
    row[0, 1] = -0.0
    assert label_of(row, [CJ, LATIN, SYMBOLS, LOWRES], 1, 1.0) == [1, 0, 0, 0]
    assert label_of(row, [CJ, LATIN, SYMBOLS, LOWRES], 3, 1.0) == [1, 1, 1, 0]


def test_the_soft_cap_is_undone_before_the_division() -> None:
    # raw logits 40 and 30 under a cap of 30; divided by 2 and 1 the second is larger
    raw = np.array([40.0, 30.0])
    row = (30 * np.tanh(raw / 30))[None].astype(np.float32)
    assert label_of(row, [CJ, LATIN], 1, 1.0, softcap=30.0) == [1, 0, 0, 0]
    assert label_of(row, [CJ, LATIN], 1, 1.0, softcap=30.0, norms=[2, 1]) == [0, 1, 0, 0]
    # 40/5 - 30/5 = 2
    wanted = [1 / (1 + math.exp(-2)), 1 / (1 + math.exp(2)), 0, 0]
    got = label_of(row, [CJ, LATIN], 2, 1.0, softcap=30.0, norms=[5, 5], soft=True)
    assert got == pytest.approx(wanted, abs=1e-5)  # the row is single precision


def test_logits_that_reached_the_soft_cap_are_the_largest_and_equal() -> None:
    # tanh rounds to one: what was above is lost, but it was more than 29.999 stands for
    row = np.array([[29.999, 30.0, 30.0, -30.0]], np.float32)
    families = [LATIN, CJ, SYMBOLS, LOWRES]
    assert label_of(row, families, 1, 1.0, softcap=30.0) == [1, 0, 0, 0]
    assert label_of(row, families, 3, 1.0, softcap=30.0, soft=True) == pytest.approx([0.5, 0, 0.5, 0], abs=1e-7)
    assert label_of(row, families, 0, 1.0, softcap=30.0) == [1, 1, 1, 1]


def test_only_one_token_left_is_the_whole_label() -> None:
    row = np.full((1, 300), -math.inf, np.float32)
    row[0, 299] = -50.0
    families = [CJ] * 299 + [LOWRES]
    assert label_of(row, families, 20, 0.95) == [0, 0, 0, 1]
    assert label_of(row, families, 0, 1.0, soft=True) == [0, 0, 0, 1]


def test_forbidden_tokens_do_not_fill_up_k() -> None:
    row = np.array([[0.0, -math.inf, -math.inf, -1.0]], np.float32)
    assert label_of(row, [CJ, LATIN, LATIN, LOWRES], 3, 1.0) == [1, 0, 0, 1]


def test_the_lowest_number_is_as_good_as_forbidden() -> None:
    # llama.cpp gives it to the image tokens of Chameleon; divided by a small norm it leaves single precision
    lowest = float(np.finfo(np.float32).min)
    row = np.array([[lowest, 2.0, lowest, 1.0]], np.float32)
    for norms in (None, [0.01, 1, 1, 1]):
        assert label_of(row, [CJ, LATIN, CJ, LOWRES], 20, 0.95, norms=norms) == [0, 1, 0, 1]


# --- what must not matter -------------------------------------------------------------------------------------------


def test_rows_and_threads_do_not_influence_each_other() -> None:
    rng = np.random.default_rng(1)
    logits = rng.normal(0, 3, (67, 700)).astype(np.float32)
    norms = rng.lognormal(0, 0.3, 700).astype(np.float32)
    families = rng.integers(0, 4, 700, dtype=np.uint8)
    for soft in (False, True):
        alone = np.concatenate([family_labels(logits[i : i + 1], norms, families, soft=soft) for i in range(67)])
        for n_threads in (0, 1, 2, 3, 100):
            together = family_labels(logits, norms, families, soft=soft, n_threads=n_threads)
            np.testing.assert_array_equal(together, alone)


def test_defaults_are_the_papers() -> None:
    rng = np.random.default_rng(2)
    case = Case(
        logits=rng.normal(0, 1.5, (200, 400)).astype(np.float32),
        norms=rng.lognormal(0, 0.3, 400).astype(np.float32),
        families=rng.integers(0, 4, 400, dtype=np.uint8),
        top_k=20,
        top_p=0.95,
        n_families=4,
        softcap=0.0,
        n_threads=1,
    )
    np.testing.assert_array_equal(family_labels(case.logits, case.norms, case.families), case.labels())
    check(case)


def test_no_rows_have_no_labels() -> None:
    labels = family_labels(np.empty((0, 9), np.float32), None, np.zeros(9, np.uint8), n_families=6)
    assert (labels.shape, labels.dtype) == ((0, 6), np.float32)


def test_arguments_are_left_as_they_were() -> None:
    rng = np.random.default_rng(3)
    logits = rng.normal(0, 3, (4, 100)).astype(np.float32)
    norms = rng.lognormal(0, 0.3, 100).astype(np.float32)
    families = rng.integers(0, 4, 100, dtype=np.uint8)
    copies = [array.copy() for array in (logits, norms, families)]
    family_labels(logits, norms, families, softcap=30.0)
    Steps.of(logits)
    for array, copy in zip((logits, norms, families), copies):
        np.testing.assert_array_equal(array, copy)


# --- steps ---------------------------------------------------------------------------------------------------------
# what S and H hold is in test_decisions.py


@pytest.mark.parametrize("seed", range(4))
def test_the_best_tokens_are_those_of_a_sorted_row(seed: int) -> None:
    rng = np.random.default_rng(seed)
    for _ in range(300):
        n, n_vocab = int(rng.integers(1, 5)), int(np.exp(rng.uniform(np.log(2), np.log(5000))))
        k = int(rng.choice([1, 20, 1000]))
        sampling = Sampling(float(rng.choice([0.3, 0.7, 1.0, 1.9])), k)
        check_best_tokens(random_logits(rng, n, n_vocab), sampling, int(rng.integers(1, 4)))


def test_the_best_tokens_of_a_real_vocabulary_are_those_of_a_sorted_row() -> None:
    rng = np.random.default_rng(0)
    for k in (1, 20, 1000):
        check_best_tokens(random_logits(rng, 2, 151_936), Sampling(1.0, k), 2)


def check_best_tokens(logits: Singles, sampling: Sampling, n_threads: int) -> None:
    """Compares ids and logits exactly, the logarithm of the sum to single precision."""
    logits.flags.writeable = False
    steps = Steps.of(logits, sampling, [(1, 0.5)], n_threads=n_threads)
    n_vocab = logits.shape[1]
    assert (steps.ids.dtype, steps.logits.dtype, steps.log_sum.dtype) == (np.int32, np.float32, np.float64)
    order = np.lexsort((np.broadcast_to(np.arange(n_vocab), logits.shape), -logits), axis=1)[:, : sampling.top_k]
    np.testing.assert_array_equal(steps.ids, order)
    np.testing.assert_array_equal(steps.logits, np.take_along_axis(logits, order, axis=1))
    scaled = logits.astype(np.float64) / sampling.temperature
    assert np.isfinite(steps.log_sum).all()
    largest = scaled.max(axis=1)
    wanted = largest + np.log(np.exp(scaled - largest[:, None]).sum(axis=1))
    np.testing.assert_allclose(steps.log_sum, wanted, rtol=1e-7, atol=1e-6)


def test_the_best_tokens_have_probabilities() -> None:
    steps = Steps.of(logs(0.1, 0.6, 0.3), Sampling(1.0, 2), [(1, 0.5)])
    assert steps.ids.tolist() == [[1, 2]]
    assert np.exp(steps.logits - steps.log_sum[:, None])[0].tolist() == pytest.approx([0.6, 0.3], abs=1e-6)
    steps = Steps.of(logs(0.1, 0.6, 0.3), Sampling(0.5, 1), [(1, 0.5)])
    # squares: 0.36 of 0.01 + 0.36 + 0.09
    assert math.exp(steps.logits[0, 0] / 0.5 - steps.log_sum[0]) == pytest.approx(0.36 / 0.46, abs=1e-6)


def test_forbidden_tokens_come_last() -> None:
    steps = Steps.of(np.array([[-math.inf, 1, -math.inf, -math.inf]], np.float32), Sampling(1.0, 3), [(1, 0.5)])
    assert steps.ids.tolist() == [[1, 0, 2]]
    assert steps.logits.tolist() == [[1, -math.inf, -math.inf]]
    assert steps.log_sum.tolist() == [1]


def test_steps_do_not_depend_on_threads() -> None:
    logits = np.random.default_rng(4).normal(0, 3, (33, 900)).astype(np.float32)
    alone = Steps.of(logits, n_threads=1)
    for n_threads in (0, 2, 5):
        many = Steps.of(logits, n_threads=n_threads)
        for column in dataclasses.fields(Steps):
            np.testing.assert_array_equal(getattr(alone, column.name), getattr(many, column.name))


# --- refusals ------------------------------------------------------------------------------------------------------


ROWS = np.zeros((2, 5), np.float32)
FAMILIES = np.array([0, 1, 2, 3, 0], np.uint8)


def with_value(value: float) -> Singles:
    """Two rows of zeros but for one value in row 1, token 3."""
    rows = ROWS.copy()
    rows[1, 3] = value
    return rows


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_logit_that_is_no_number_is_refused_with_its_place(value: float) -> None:
    for call in (lambda rows: family_labels(rows, None, FAMILIES), Steps.of):
        with pytest.raises(GateError) as error:
            call(with_value(value))
        assert "row 1" in str(error.value)
        assert "token 3" in str(error.value)


def test_of_several_bad_rows_the_first_is_named() -> None:
    rows = np.zeros((12, 50_000), np.float32)
    rows[3:, 7] = math.nan
    rows[3, 7] = 0
    rows[3, -1] = math.nan  # the last to be found
    families = np.zeros(50_000, np.uint8)
    for n_threads in (1, 2, 4, 8):
        for call in (
            lambda n: family_labels(rows, None, families, n_threads=n),
            lambda n: Steps.of(rows, n_threads=n),
        ):
            with pytest.raises(GateError, match=r"row 3\b"):
                call(n_threads)


def test_a_row_without_any_token_is_refused() -> None:
    rows = ROWS.copy()
    rows[1] = -math.inf
    for call in (lambda: family_labels(rows, None, FAMILIES), lambda: Steps.of(rows)):
        with pytest.raises(GateError, match="row 1"):
            call()


@pytest.mark.parametrize(
    ("changes", "subject"),
    [
        ({"logits": ROWS.astype(np.float64)}, "logits"),
        ({"logits": ROWS[0]}, "logits"),
        ({"logits": np.zeros((2, 10), np.float32)[:, ::2]}, "logits"),
        ({"logits": np.zeros((2, 6), np.float32)}, "families"),
        ({"norms": np.ones(4, np.float32)}, "norms"),
        ({"norms": np.ones(5)}, "norms"),
        ({"norms": np.array([1, 1, 0, 1, 1], np.float32)}, "norms"),
        ({"norms": np.array([1, 1, -1, 1, 1], np.float32)}, "norms"),
        ({"norms": np.array([1, 1, math.nan, 1, 1], np.float32)}, "norms"),
        ({"norms": np.array([1, 1, math.inf, 1, 1], np.float32)}, "norms"),
        ({"families": FAMILIES.astype(np.int64)}, "families"),
        ({"families": np.array([0, 1, 2, 4, 0], np.uint8)}, "families"),
        ({"top_k": -1}, "top_k"),
        ({"top_p": 0.0}, "top_p"),
        ({"top_p": 1.01}, "top_p"),
        ({"top_p": math.nan}, "top_p"),
        ({"n_families": 1}, "n_families"),
        ({"n_families": 128}, "n_families"),
        ({"softcap": -1.0}, "softcap"),
        ({"softcap": math.nan}, "softcap"),
        ({"n_threads": -1}, "n_threads"),
    ],
)
def test_wrong_arguments_are_refused_by_name(changes: dict[str, Any], subject: str) -> None:
    arguments: dict[str, Any] = {"logits": ROWS, "norms": np.ones(5, np.float32), "families": FAMILIES}
    with pytest.raises(GateError, match=f"`{subject}`"):
        family_labels(**{**arguments, **changes})


@pytest.mark.parametrize(
    ("changes", "subject"),
    [({"logits": ROWS.astype(np.float16)}, "logits"), ({"n_threads": -1}, "n_threads")],
)
def test_wrong_arguments_of_steps_are_refused_by_name(changes: dict[str, Any], subject: str) -> None:
    with pytest.raises(GateError, match=f"`{subject}`"):
        Steps.of(**{"logits": ROWS, **changes})
