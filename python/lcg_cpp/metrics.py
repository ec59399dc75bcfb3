"""What replies to the same prompts show of the methods that made them: metrics, intervals, significance.

Every metric is a function of sums over replies: a ratio of two sums, or BLEU or chrF of summed counts. So a table with
one row for each reply holds all that the bootstrap needs.

| metric | what it is |
|---|---|
| cj_percent, latin_percent | replies with at least one letter of the family that the prompt does not expect |
| cj_per_1000_tokens, latin_per_1000_tokens | tokens with such a letter, of 1,000 generated |
| code_switch_percent | of the replies that may use a second script (names, code), those that do |
| switches_kept_percent | requested code-switches that are there |
| exact_match_percent | replies that are the reference, but for white space and Unicode form |
| accuracy_percent | multiple choice: replies that choose the right letter |
| bleu, chrf | against the reference; chrF++ |
| line_pass_percent, word_pass_percent | of the Language Confusion Benchmark, see `measure_reply` |
| intervention_percent | generated tokens at which the gate removed a family |
| removed_mass_percent | probability that the gate removed, mean of its interventions |
| tokens_per_second | generated tokens by the replies' time |
| length_tokens | generated tokens of a reply, mean |
| empty_percent, truncated_percent | replies without text; replies cut at their longest |
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypedDict

import numpy as np
import numpy.typing as npt

from .bootstrap import holm, interval, resampled_sums, two_sided_p, unanimous_bound
from .errors import GateError
from .measures import Reply, check_prompts, measure_reply
from .translation import N_BLEU, N_CHRF, corpus_bleu, corpus_chrf, segment_statistics, tokenizer

if TYPE_CHECKING:
    from .benchmarks import Prompt

Floats = npt.NDArray[np.float64]

__all__ = ["METRICS", "Difference", "Estimate", "check_prompts", "compare", "measure_reply", "summarize"]

MIN_RESAMPLES = 100


class Estimate(TypedDict):
    """A metric and its 95 % interval."""

    value: float
    low: float
    high: float


class Difference(TypedDict):
    """A method's metric less the baseline's, its 95 % interval and the p-value, alone and adjusted for all methods."""

    difference: float
    low: float
    high: float
    p: float
    p_adjusted: float


@dataclass(frozen=True)
class _Ratio:
    """A metric that is a ratio of sums of measures.

    Attributes:
        name: Of the metric.
        part: The measure that is summed.
        whole: The measure it is divided by; empty: the number of replies that have `part`.
        scale: Of the result.
        is_share: Whether it is a part of so many yes-or-no outcomes.
    """

    name: str
    part: str
    whole: str = ""
    scale: float = 100.0
    is_share: bool = True


_RATIOS = (
    _Ratio("cj_percent", "cj"),
    _Ratio("latin_percent", "latin"),
    _Ratio("cj_per_1000_tokens", "cj_tokens", "tokens", 1000.0, False),
    _Ratio("latin_per_1000_tokens", "latin_tokens", "tokens", 1000.0, False),
    _Ratio("code_switch_percent", "code_switch"),
    _Ratio("switches_kept_percent", "switches_kept", "switches"),
    _Ratio("exact_match_percent", "exact_match"),
    _Ratio("accuracy_percent", "right_choice"),
    _Ratio("line_pass_percent", "line_pass"),
    _Ratio("word_pass_percent", "word_pass"),
    _Ratio("intervention_percent", "interventions", "tokens", 100.0, False),
    _Ratio("removed_mass_percent", "removed_mass", "interventions", 100.0, False),
    _Ratio("tokens_per_second", "tokens", "seconds", 1.0, False),
    _Ratio("length_tokens", "tokens", "", 1.0, False),
    _Ratio("empty_percent", "empty"),
    _Ratio("truncated_percent", "truncated"),
)
_N = len(_RATIOS)
METRICS = (*(ratio.name for ratio in _RATIOS), "bleu", "chrf")


@dataclass(frozen=True)
class _Table:
    """The replies of one method.

    Attributes:
        units: The prompt's id and the seed of each, ascending.
        columns: (n, 2 * ratios + counts of BLEU + counts of chrF), parts and wholes of the ratios first.
    """

    units: list[tuple[str, int]]
    columns: Floats

    @property
    def prompt_of(self) -> npt.NDArray[np.intp]:
        """(n,) the prompt of each row, counted from 0."""
        return np.unique([prompt for prompt, _ in self.units], return_inverse=True)[1]

    def rows(self, units: Sequence[tuple[str, int]]) -> _Table:
        """The rows of some of the units."""
        row_of = {unit: row for row, unit in enumerate(self.units)}
        return _Table(list(units), self.columns[[row_of[unit] for unit in units]])


def _row(reply: Reply, prompt: Prompt) -> list[float]:
    measures = measure_reply(reply, prompt)
    parts, wholes = [], []
    for ratio in _RATIOS:
        part, whole = measures[ratio.part], measures[ratio.whole] if ratio.whole else 1.0
        parts.append(0.0 if part is None or whole is None else part)
        wholes.append(0.0 if part is None or whole is None else whole)
    if not prompt.reference:
        return [*parts, *wholes, *[0.0] * (N_BLEU + N_CHRF)]
    return [*parts, *wholes, *segment_statistics(reply["reply"], prompt.reference, tokenizer(prompt.language))]


def _tables(replies: Iterable[Reply], prompts: Mapping[str, Prompt]) -> dict[str, _Table]:
    """The replies by method, in the order the methods come in."""
    rows: dict[str, dict[tuple[str, int], list[float]]] = {}
    for reply in replies:
        unit = (reply["id"], reply["seed"])
        if unit[0] not in prompts:
            raise GateError(f"a reply is to prompt `{unit[0]}`, which the benchmark does not have")
        of_method = rows.setdefault(reply["method"], {})
        if unit in of_method:
            raise GateError(f"method `{reply['method']}` has two replies to prompt `{unit[0]}` with seed {unit[1]}")
        of_method[unit] = _row(reply, prompts[unit[0]])
    return {method: _table(of_method) for method, of_method in rows.items()}


def _table(rows: Mapping[tuple[str, int], list[float]]) -> _Table:
    units = sorted(rows)
    return _Table(units, np.array([rows[unit] for unit in units], dtype=np.float64))


def _scores(sums: Floats) -> Floats:
    """(m, columns) -> (m, metrics), NaN where a metric is not defined."""
    wholes, scales = sums[:, _N : 2 * _N], np.array([ratio.scale for ratio in _RATIOS])
    ratios = np.full_like(wholes, np.nan)
    np.divide(sums[:, :_N] * scales, wholes, out=ratios, where=wholes > 0)
    bleu, chrf = sums[:, 2 * _N : 2 * _N + N_BLEU], sums[:, 2 * _N + N_BLEU :]
    return np.column_stack([ratios, corpus_bleu(bleu), corpus_chrf(chrf)])


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
        Method -> metric -> estimate. A metric that is not defined on a method's replies is absent.

    Raises:
        GateError: A reply's prompt is missing or it is there twice; or as `measure_reply`.
    """
    _check_resamples(n_resamples)
    return {
        method: _estimates(table, seed=seed, n_resamples=n_resamples)
        for method, table in _tables(replies, prompts).items()
    }


def _estimates(table: _Table, *, seed: int, n_resamples: int) -> dict[str, Estimate]:
    prompt_of = table.prompt_of
    values = _scores(table.columns.sum(axis=0, keepdims=True))[0]
    samples = _scores(resampled_sums(table.columns, prompt_of, n_resamples=n_resamples, seed=seed))
    estimates = {}
    for i, metric in enumerate(METRICS):
        if np.isnan(values[i]):
            continue
        low, high = interval(samples[:, i])
        if i < _N and _RATIOS[i].is_share and values[i] in (0.0, 100.0):
            bound = 100 * unanimous_bound(len(np.unique(prompt_of[table.columns[:, _N + i] > 0])))
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

    Args:
        replies: As for `summarize`.
        prompts: By id.
        baseline: The method the others are compared with.
        seed: Of the resampling.
        n_resamples: At least 100; the smallest p-value is 2 / (n_resamples + 1).

    Returns:
        Method -> metric -> difference, for all methods but the baseline. A metric that is not defined for one of the
        two is absent.

    Raises:
        GateError: There is no such baseline; or as `summarize`.
    """
    _check_resamples(n_resamples)
    tables = _tables(replies, prompts)
    if baseline not in tables:
        raise GateError(f"`baseline` is `{baseline}`, expected one of {', '.join(map(repr, tables)) or 'no methods'}")
    found = {
        method: _differences(tables[baseline], table, seed=seed, n_resamples=n_resamples)
        for method, table in tables.items()
        if method != baseline
    }
    for metric in METRICS:
        of_methods = [differences[metric] for differences in found.values() if metric in differences]
        for difference, p in zip(of_methods, holm([difference["p"] for difference in of_methods])):
            difference["p_adjusted"] = p
    return found


def _differences(baseline: _Table, table: _Table, *, seed: int, n_resamples: int) -> dict[str, Difference]:
    common = sorted(set(baseline.units).intersection(table.units))
    if not common:
        return {}
    before, after = baseline.rows(common), table.rows(common)
    pairs = np.hstack([before.columns, after.columns])
    sums = resampled_sums(pairs, before.prompt_of, n_resamples=n_resamples, seed=seed)
    n = before.columns.shape[1]
    values = (_scores(after.columns.sum(axis=0, keepdims=True)) - _scores(before.columns.sum(axis=0, keepdims=True)))[0]
    samples = _scores(sums[:, n:]) - _scores(sums[:, :n])
    differences = {}
    for i, metric in enumerate(METRICS):
        if not np.isnan(values[i]):
            low, high = interval(samples[:, i])
            p = two_sided_p(samples[:, i])
            differences[metric] = Difference(difference=float(values[i]), low=low, high=high, p=p, p_adjusted=p)
    return differences
