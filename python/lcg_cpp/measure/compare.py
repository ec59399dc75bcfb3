"""What replies to the same prompts show of the methods that made them: values, intervals, significance.

The metrics themselves are in metrics.py.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, TypedDict

import numpy as np
import numpy.typing as npt

from ..errors import GateError
from .answer import Reply
from .bootstrap import holm, interval, ratio_interval, resampled_sums, two_sided_p, unanimous_bound
from .metrics import METRICS, RATES, Sums, scores, silent_metrics, sums_by_method

if TYPE_CHECKING:
    from ..benchmarks import Prompt

Floats = npt.NDArray[np.float64]

MIN_RESAMPLES = 100
_SHARES = frozenset(rate.name for rate in RATES if rate.is_share)
_NOT_COMPARED = frozenset(rate.name for rate in RATES if not rate.is_compared)
_UNANIMOUS = (0.0, 100.0)


class Estimate(TypedDict):
    """A metric and its 95 % interval."""

    value: float
    low: float
    high: float


class Ratio(TypedDict):
    """A method's share by the baseline's, and its 95 % interval; None where it is infinite.

    1 / ratio is how many times less often something happens than with the baseline: from 1 / high to 1 / low times.
    """

    value: float | None
    low: float
    high: float | None


class _Difference(TypedDict):
    difference: float
    low: float
    high: float
    p: float
    p_adjusted: float


class Difference(_Difference, total=False):
    """A method's metric less the baseline's, its 95 % interval and the p-value, alone and adjusted for all methods.

    `ratio` is there for shares (`Rate.is_share`) that are not 0 with both.
    """

    ratio: Ratio


def _check_resamples(n_resamples: int) -> None:
    if n_resamples < MIN_RESAMPLES:
        raise GateError(f"`n_resamples` is {n_resamples}, expected at least {MIN_RESAMPLES}")


def summarize(
    replies: Iterable[Reply], prompts: Mapping[str, Prompt], *, seed: int = 0, n_resamples: int = 1000
) -> dict[str, dict[str, Estimate]]:
    """Every metric of every method, with a percentile bootstrap interval over prompts and their seeds.

    An interval holds what another draw of prompts and seeds could have given; with a single prompt, only other seeds.
    A share that no prompt or every prompt has gets the exact bound of as many prompts at its other end
    (`bootstrap.unanimous_bound`), where a bootstrap would claim certainty.

    Args:
        replies: Objects of replies.jsonl, any order; one for each method, prompt and seed.
        prompts: By id.
        seed: Of the resampling: the same replies and seed give the same intervals.
        n_resamples: At least 100.

    Returns:
        Method -> metric -> estimate. A metric that is not defined on a method's replies is absent, and so are the
        scripts that are unwanted in no reply of any method.

    Raises:
        GateError: A reply's prompt is missing or it is there twice; or as `measure_reply`.
    """
    _check_resamples(n_resamples)
    sums_of = sums_by_method(replies, prompts)
    silent = silent_metrics(sums_of.values())
    return {
        method: _estimates(
            sums, scores(resampled_sums(sums.columns, sums.prompt_of, n_resamples=n_resamples, seed=seed)), silent
        )
        for method, sums in sums_of.items()
    }


def _estimates(sums: Sums, samples: Floats, silent: frozenset[str]) -> dict[str, Estimate]:
    """Samples (n_resamples, metrics): the scores of the resamples; nothing is told of the silent metrics."""
    prompt_of = sums.prompt_of
    values = scores(sums.columns.sum(axis=0, keepdims=True))[0]
    estimates = {}
    for i, metric in enumerate(METRICS):
        if np.isnan(values[i]) or metric in silent:
            continue
        low, high = interval(samples[:, i])
        if metric in _SHARES and values[i] in _UNANIMOUS:
            bound = 100 * unanimous_bound(len(np.unique(prompt_of[sums.wholes[:, i] > 0])))
            low, high = (0.0, bound) if values[i] == 0 else (100 - bound, 100.0)
        estimates[metric] = Estimate(value=float(values[i]), low=low, high=high)
    return estimates


def compare(
    replies: Iterable[Reply],
    prompts: Mapping[str, Prompt],
    *,
    baseline: str = "none",
    seed: int = 0,
    n_resamples: int = 1000,
) -> dict[str, dict[str, Difference]]:
    """What changes from one method to each other one, by a paired bootstrap over prompts and their seeds.

    Only prompts and seeds that both methods answered count, and both replies to one are always drawn together: how
    hard a prompt is cancels out. The p-value is two-sided and agrees with the interval; the adjusted one is Holm's over
    the methods, for each metric.

    Shares have a ratio too, by the same resamples. Where one of the two is 0 or 100 % its resamples are all the same,
    and the interval is made of the two shares' own (`bootstrap.ratio_interval`): with no event left, the ratio is 0 and
    its high end is what the exact bound allows, so that 1 / high is the least "how many times less".

    Args:
        replies: As for `summarize`.
        prompts: By id.
        baseline: The method the others are compared with.
        seed: Of the resampling.
        n_resamples: At least 100; the smallest p-value is 2 / (n_resamples + 1).

    Returns:
        Method -> metric -> difference, for all methods but the baseline. A metric that is not defined for one of the
        two is absent, and so are those of the gate's work (`Rate.is_compared`): they differ by what a method is.

    Raises:
        GateError: There is no such baseline; or as `summarize`.
    """
    _check_resamples(n_resamples)
    sums_of = sums_by_method(replies, prompts)
    if baseline not in sums_of:
        raise GateError(f"`baseline` is `{baseline}`, expected one of {', '.join(map(repr, sums_of)) or 'no methods'}")
    silent = silent_metrics(sums_of.values())
    found = {
        method: _differences(sums_of[baseline], sums, silent, seed=seed, n_resamples=n_resamples)
        for method, sums in sums_of.items()
        if method != baseline
    }
    for metric in METRICS:
        of_methods = [differences[metric] for differences in found.values() if metric in differences]
        for difference, p in zip(of_methods, holm([difference["p"] for difference in of_methods])):
            difference["p_adjusted"] = p
    return found


def _differences(
    baseline: Sums, other: Sums, silent: frozenset[str], *, seed: int, n_resamples: int
) -> dict[str, Difference]:
    common = sorted(set(baseline.units).intersection(other.units))
    if not common:
        return {}
    before, after = baseline.rows(common), other.rows(common)
    pairs = np.hstack([before.columns, after.columns])
    resampled = resampled_sums(pairs, before.prompt_of, n_resamples=n_resamples, seed=seed)
    n = before.columns.shape[1]
    before_samples, after_samples = scores(resampled[:, :n]), scores(resampled[:, n:])
    of_before, of_after = _estimates(before, before_samples, silent), _estimates(after, after_samples, silent)
    differences = {}
    for i, metric in enumerate(METRICS):
        if metric not in of_before or metric not in of_after or metric in _NOT_COMPARED:
            continue
        samples = after_samples[:, i] - before_samples[:, i]
        value = of_after[metric]["value"] - of_before[metric]["value"]
        low, high = interval(samples)
        p = two_sided_p(samples)
        differences[metric] = Difference(difference=value, low=low, high=high, p=p, p_adjusted=p)
        if metric in _SHARES and (of_before[metric]["value"] or of_after[metric]["value"]):
            differences[metric]["ratio"] = _ratio(
                of_before[metric], of_after[metric], before_samples[:, i], after_samples[:, i]
            )
    return differences


def _ratio(before: Estimate, after: Estimate, before_samples: Floats, after_samples: Floats) -> Ratio:
    """The ratio of two shares that are not both 0; samples (n_resamples,) of the same resamples."""
    if before["value"] in _UNANIMOUS or after["value"] in _UNANIMOUS:
        low, high = ratio_interval(
            (after["value"], after["low"], after["high"]), (before["value"], before["low"], before["high"])
        )
    else:
        with np.errstate(divide="ignore", invalid="ignore"):  # x / 0 is infinite, 0 / 0 is not defined
            low, high = interval(after_samples / before_samples)
    value = after["value"] / before["value"] if before["value"] else None
    return Ratio(value=value, low=low, high=None if math.isinf(high) else high)
