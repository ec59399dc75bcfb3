"""How sure a number measured on some prompts is: intervals and paired tests by resampling prompts, then seeds."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]

TAIL = 0.025  # on each side of a 95 % interval
_MAX_WEIGHTS = 1 << 22  # held at once: 32 MB


def resampled_sums(columns: Floats, prompt_of: npt.NDArray[np.intp], *, n_resamples: int, seed: int) -> Floats:
    """Sums of columns over resamples of the rows, in two levels.

    A resample draws as many prompts as there are, with replacement, and for each prompt drawn as many of its rows (its
    seeds) as it has, again with replacement. What is a ratio of sums on the data (a share, a rate, BLEU) is then the
    same ratio on each row of the result. Two tables whose rows belong to the same prompts get the same draws.

    Args:
        columns: float64 (n, n_columns), one row for each reply.
        prompt_of: (n,) the prompt of each row, counted from 0 without gaps, ascending.
        n_resamples: How many resamples.
        seed: Of the draws.

    Returns:
        float64 (n_resamples, n_columns).
    """
    n = len(columns)
    n_rows = np.bincount(prompt_of)  # of each prompt
    first = np.cumsum(n_rows) - n_rows
    rng = np.random.default_rng(seed)
    sums = np.empty((n_resamples, columns.shape[1]))
    step = max(1, _MAX_WEIGHTS // n)
    for begin in range(0, n_resamples, step):
        weights = np.empty((min(step, n_resamples - begin), n))  # how often each row was drawn
        for row in weights:
            drawn = rng.integers(len(n_rows), size=len(n_rows))
            n_drawn = n_rows[drawn]
            within = rng.integers(np.repeat(n_drawn, n_drawn))
            row[:] = np.bincount(np.repeat(first[drawn], n_drawn) + within, minlength=n)
        sums[begin : begin + len(weights)] = weights @ columns
    return sums


def interval(samples: Floats) -> tuple[float, float]:
    """The percentile interval that holds 95 % of the resamples, its ends resamples themselves.

    Resamples on which the metric is not defined are NaN; at least one must not be.
    """
    defined = samples[~np.isnan(samples)]
    low = np.quantile(defined, TAIL, method="lower")
    return float(low), float(np.quantile(defined, 1 - TAIL, method="higher"))


def unanimous_bound(n_prompts: int) -> float:
    """How large a share may still be (95 %, two-sided) after none of `n_prompts` prompts showed it.

    Every resample of a unanimous sample is unanimous, so the bootstrap would claim certainty there. This is the exact
    binomial bound (Clopper and Pearson 1934), about 3.7 / n; it counts prompts and not replies, since a prompt's
    replies resemble one another.
    """
    return float(1 - TAIL ** (1 / n_prompts))


def ratio_interval(part: tuple[float, float, float], whole: tuple[float, float, float]) -> tuple[float, float]:
    """The interval of a ratio from those of its two sides (MOVER-R, Donner and Zou 2012, without covariance).

    For sides of which one is unanimous: its resamples are all the same, so that only its exact bound tells what else it
    could be, and it does not vary together with the other side. Each side is its value, low and high end, not negative,
    and not both values 0. The ends are infinity where `whole` may be 0.
    """
    low, inverse = (
        _least_ratio(part[0], part[1], whole[0], whole[2]),
        _least_ratio(whole[0], whole[1], part[0], part[2]),
    )
    return low, 1 / inverse if inverse > 0 else math.inf


def _least_ratio(part: float, low: float, whole: float, high: float) -> float:
    """The root of the paper's equation, written so that `whole` may be 0."""
    of_part, of_whole = low * (2 * part - low), high * (2 * whole - high)
    if of_part == 0:
        return 0.0
    both = part * whole
    return of_part / (both + math.sqrt(max(0.0, both**2 - of_part * of_whole)))


def two_sided_p(differences: Floats) -> float:
    """The p-value that agrees with `interval`: below 0.05 where the interval of the differences leaves out 0.

    Twice the smaller share of resamples on or beyond 0, the data counted as one more, so that it is never 0. The
    differences, (n_resamples,), are those of the same resamples of two methods; NaN where it is not defined.
    """
    defined = differences[~np.isnan(differences)]
    fewer = min(np.count_nonzero(defined <= 0), np.count_nonzero(defined >= 0))
    return min(1.0, 2 * (1 + float(fewer)) / (1 + len(defined)))


def holm(p_values: Sequence[float]) -> list[float]:
    """Adjust the p-values of one metric for their number (Holm 1979): one false finding stays less likely than 5 %."""
    adjusted = [0.0] * len(p_values)
    largest = 0.0
    for n_smaller, i in enumerate(sorted(range(len(p_values)), key=p_values.__getitem__)):
        largest = max(largest, min(1.0, (len(p_values) - n_smaller) * p_values[i]))
        adjusted[i] = largest
    return adjusted
