"""Intervals and paired tests, against binomial probabilities, a formula of variance and a slow resampler."""

from __future__ import annotations

import math
import random

import numpy as np
import pytest

from lcg_cpp.measure import bootstrap
from lcg_cpp.measure.bootstrap import holm, interval, ratio_interval, resampled_sums, two_sided_p, unanimous_bound

RAGGED = [[1.0, 0.0, 0.0], [0.0], [1.0, 1.0], [0.0, 0.0, 0.0, 1.0], [0.0, 0.0], [1.0], [0.0, 1.0, 0.0]]


def table(groups):
    """Groups of values -> columns (value, 1) and the group of each row."""
    values = [value for group in groups for value in group]
    prompt_of = np.repeat(np.arange(len(groups)), [len(group) for group in groups])
    return np.column_stack([values, np.ones(len(values))]), prompt_of


def slow_means(groups, n_resamples, seed):
    """Means of two-level resamples, drawn one by one."""
    draw = random.Random(seed)
    means = []
    for _ in range(n_resamples):
        values = []
        for _ in groups:
            group = draw.choice(groups)
            values += [draw.choice(group) for _ in group]
        means.append(sum(values) / len(values))
    return means


def binomial_quantile(n, share, level):
    total = 0.0
    for k in range(n + 1):
        total += math.comb(n, k) * share**k * (1 - share) ** (n - k)
        if total >= level:
            return k / n
    return 1.0


def test_a_share_with_one_seed_has_the_binomial_interval():
    columns, prompt_of = table([[1.0]] * 11 + [[0.0]] * 29)
    sums = resampled_sums(columns, prompt_of, n_resamples=20_000, seed=0)
    expected = binomial_quantile(40, 11 / 40, 0.025), binomial_quantile(40, 11 / 40, 0.975)
    assert interval(sums[:, 0] / sums[:, 1]) == pytest.approx(expected)


def test_seeds_add_their_own_variance_to_that_of_prompts():
    groups = np.random.default_rng(1).normal(size=(25, 1)) + np.random.default_rng(2).normal(size=(25, 4))
    columns, prompt_of = table(groups.tolist())
    sums = resampled_sums(columns, prompt_of, n_resamples=20_000, seed=0)
    expected = (groups.mean(axis=1).var() + groups.var(axis=1).mean() / 4) / 25
    assert np.var(sums[:, 0] / sums[:, 1]) == pytest.approx(expected, rel=0.04)


def test_prompts_with_different_numbers_of_seeds_agree_with_a_slow_resampler():
    columns, prompt_of = table(RAGGED)
    sums = resampled_sums(columns, prompt_of, n_resamples=6000, seed=0)
    fast, slow = np.sort(sums[:, 0] / sums[:, 1]), np.sort(slow_means(RAGGED, 6000, 5))
    levels = np.linspace(0.02, 0.98, 25)
    np.testing.assert_allclose(np.quantile(fast, levels), np.quantile(slow, levels), atol=0.03)
    assert fast.mean() == pytest.approx(slow.mean(), abs=0.01)


def test_a_resample_draws_as_many_prompts_as_there_are_and_all_rows_of_each():
    groups = [[0.0] * n for n in (1, 2, 3, 5)]
    _, prompt_of = table(groups)
    drawn = resampled_sums(np.eye(11), prompt_of, n_resamples=200, seed=3)
    of_prompts = np.stack([drawn[:, prompt_of == i].sum(axis=1) for i in range(4)], axis=1) / [1, 2, 3, 5]
    assert np.array_equal(of_prompts, of_prompts.round())
    assert (of_prompts.sum(axis=1) == 4).all()
    assert (of_prompts == 0).any()
    assert drawn[:, 6:].max() > of_prompts[:, 3].max()  # some seed more often than its prompt


def test_the_seed_decides_and_the_size_of_a_batch_does_not(monkeypatch):
    columns, prompt_of = table(RAGGED)
    first = resampled_sums(columns, prompt_of, n_resamples=50, seed=7)
    assert not np.array_equal(first, resampled_sums(columns, prompt_of, n_resamples=50, seed=8))
    monkeypatch.setattr(bootstrap, "_MAX_WEIGHTS", 40)
    np.testing.assert_array_equal(first, resampled_sums(columns, prompt_of, n_resamples=50, seed=7))


def test_tables_of_the_same_prompts_get_the_same_draws():
    columns, prompt_of = table(RAGGED)
    wide = resampled_sums(np.hstack([columns, columns]), prompt_of, n_resamples=20, seed=0)
    np.testing.assert_array_equal(wide[:, :2], resampled_sums(columns, prompt_of, n_resamples=20, seed=0))
    np.testing.assert_array_equal(wide[:, :2], wide[:, 2:])


def test_one_prompt_and_equal_replies_have_no_width():
    columns, prompt_of = table([[3.0]])
    assert interval(resampled_sums(columns, prompt_of, n_resamples=10, seed=0)[:, 0]) == (3.0, 3.0)
    columns, prompt_of = table([[2.0, 2.0], [2.0, 2.0]])
    assert interval(resampled_sums(columns, prompt_of, n_resamples=10, seed=0)[:, 0]) == (8.0, 8.0)


def test_an_interval_leaves_out_a_fortieth_on_each_side_and_what_is_not_defined():
    samples = np.arange(1000.0)
    assert interval(samples) == (24.0, 975.0)
    assert interval(np.concatenate([np.full(300, np.nan), samples])) == (24.0, 975.0)


def test_the_bound_of_a_unanimous_sample_is_exact():
    assert unanimous_bound(1) == pytest.approx(0.975)
    assert unanimous_bound(400) == pytest.approx(0.0091798, abs=1e-6)
    for n in (3, 50, 1000):
        assert (1 - unanimous_bound(n)) ** n == pytest.approx(0.025)


@pytest.mark.parametrize(
    ("part", "whole", "expected"),
    [
        ((0, 0, 0.03), (0.5, 0.4, 0.6), (0, 0.03 / math.sqrt(0.4 * 0.6))),
        ((0, 0, 0.03), (0.5, 0.5, 0.5), (0, 0.06)),  # a denominator that is certain: the bound by it
        ((0.5, 0.4, 0.6), (0, 0, 0.03), (math.sqrt(0.4 * 0.6) / 0.03, math.inf)),
        ((0, 0, 0.03), (0.02, 0, 0.05), (0, math.inf)),  # the denominator may be 0
        ((1, 0.96, 1), (1, 0.96, 1), (0.96, 1 / 0.96)),
        ((0.4, 0.3, 0.5), (0.8, 0.8, 0.8), (0.375, 0.625)),
    ],
)
def test_the_interval_of_a_ratio_is_made_of_those_of_its_sides(part, whole, expected):
    assert ratio_interval(part, whole) == pytest.approx(expected)


def test_the_interval_of_a_ratio_solves_the_published_equation():
    (p, l1, u1), (q, l2, u2) = (0.9, 0.8, 0.95), (1.0, 0.93, 1.0)
    low = (p * q - math.sqrt((p * q) ** 2 - l1 * u2 * (2 * p - l1) * (2 * q - u2))) / (u2 * (2 * q - u2))
    high = (p * q + math.sqrt((p * q) ** 2 - u1 * l2 * (2 * p - u1) * (2 * q - l2))) / (l2 * (2 * q - l2))
    assert 0.79 < low < 0.9 < high < 1
    assert ratio_interval((p, l1, u1), (q, l2, u2)) == pytest.approx((low, high))


@pytest.mark.parametrize(
    ("differences", "p"),
    [
        ([1.0] * 999, 0.002),
        ([-1.0] * 999, 0.002),
        ([1.0] * 989 + [0.0] * 10, 0.022),
        ([1.0] * 500 + [-1.0] * 499, 1.0),
        ([0.0] * 999, 1.0),
        ([1.0] * 99 + [np.nan] * 900, 0.02),
    ],
)
def test_p_is_twice_the_share_on_the_smaller_side(differences, p):
    assert two_sided_p(np.array(differences)) == pytest.approx(p)


@pytest.mark.parametrize("n_below", [0, 1, 23, 24, 25, 26, 100])
@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_p_is_below_5_percent_where_the_interval_leaves_out_0(n_below, sign):
    samples = sign * np.concatenate([-np.arange(float(n_below)), np.arange(1.0, 1001 - n_below)])
    low, high = interval(samples)
    assert (two_sided_p(samples) < 0.05) == (low > 0 or high < 0)


@pytest.mark.parametrize(
    ("p_values", "adjusted"),
    [
        ([0.01, 0.04, 0.03, 0.005], [0.03, 0.06, 0.06, 0.02]),
        ([0.2], [0.2]),
        ([0.6, 0.5], [1.0, 1.0]),
        ([0.01, 0.01, 0.01], [0.03, 0.03, 0.03]),
        ([], []),
    ],
)
def test_holm_multiplies_the_smallest_most_and_keeps_the_order(p_values, adjusted):
    assert holm(p_values) == pytest.approx(adjusted)
