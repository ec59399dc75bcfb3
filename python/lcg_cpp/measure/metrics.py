"""What the metrics are, and the sums over replies they are computed from.

Every metric is a ratio of two sums, or BLEU or chrF of summed counts. So one row of numbers for each reply holds all
that the bootstrap needs.

Of a reply that thinks, the answer alone is judged (see `answer.take_apart`); times, lengths and interventions are of
the whole.

| metric | what it is |
|---|---|
| unwanted_percent | replies with at least one unwanted letter of any script (see `unwanted.py`) |
| unwanted_per_1000_tokens | tokens with such a letter, of 1,000 of the answers |
| unwanted_latin_percent, … | replies with an unwanted letter of one kind of `unwanted.KINDS` |
| wrong_script_percent | replies with more unwanted letters than letters of their language |
| slips_percent | the other replies with an unwanted letter: the model speaks the language, and slips |
| cj_percent, latin_percent | the paper's rates: replies with unwanted Latin; with unwanted Chinese or Japanese |
| cj_per_1000_tokens, latin_per_1000_tokens | tokens with such a letter, of 1,000 of the answers |
| thinking_…_percent | of the replies that think, those with an unwanted letter (cj, latin) in their thoughts |
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
| empty_percent, truncated_percent | replies without an answer; replies cut at their longest |
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from ..errors import GateError
from .answer import Reply, take_apart
from .judge import measure_of, measure_reply
from .translation import N_BLEU, N_CHRF, corpus_bleu, corpus_chrf, segment_statistics, tokenizer
from .unwanted import KINDS

if TYPE_CHECKING:
    from ..benchmarks import Prompt

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Rate:
    """A metric that is a ratio of sums of measures."""

    name: str  # of the metric
    part: str  # the measure that is summed
    whole: str = ""  # the measure it is divided by; empty: the number of replies that have `part`
    scale: float = 100.0  # of the result
    is_share: bool = True  # whether it is a part of so many yes-or-no outcomes
    is_compared: bool = True  # False where methods without a gate have no other value than 0


RATES = (
    Rate("unwanted_percent", "unwanted"),
    Rate("wrong_script_percent", "wrong_script"),
    Rate("slips_percent", "slips"),
    Rate("unwanted_per_1000_tokens", "unwanted_tokens", "answer_tokens", 1000.0, is_share=False),
    Rate("cj_percent", "cj"),
    Rate("latin_percent", "latin"),
    Rate("cj_per_1000_tokens", "cj_tokens", "answer_tokens", 1000.0, is_share=False),
    Rate("latin_per_1000_tokens", "latin_tokens", "answer_tokens", 1000.0, is_share=False),
    Rate("thinking_unwanted_percent", "thinking_unwanted"),
    Rate("thinking_cj_percent", "thinking_cj"),
    Rate("thinking_latin_percent", "thinking_latin"),
    Rate("code_switch_percent", "code_switch"),
    Rate("switches_kept_percent", "switches_kept", "switches"),
    Rate("exact_match_percent", "exact_match"),
    Rate("accuracy_percent", "right_choice"),
    Rate("line_pass_percent", "line_pass"),
    Rate("word_pass_percent", "word_pass"),
    Rate("intervention_percent", "interventions", "tokens", is_share=False, is_compared=False),
    Rate("removed_mass_percent", "removed_mass", "interventions", is_share=False, is_compared=False),
    Rate("tokens_per_second", "tokens", "seconds", 1.0, is_share=False),
    Rate("length_tokens", "tokens", "", 1.0, is_share=False),
    Rate("empty_percent", "empty"),
    Rate("truncated_percent", "truncated"),
    *(Rate(f"{measure_of(kind)}_percent", measure_of(kind)) for kind in KINDS),
)
_N_RATES = len(RATES)
METRICS = (*(rate.name for rate in RATES), "bleu", "chrf")


KIND_METRICS = {f"{measure_of(kind)}_percent": kind for kind in KINDS}


@dataclass(frozen=True)
class Sums:
    """The replies of one method, as rows to be summed."""

    units: list[tuple[str, int]]  # the prompt's id and the seed of each, ascending
    columns: Floats  # (n, 2 * rates + counts of BLEU + counts of chrF), parts and wholes of the rates first

    @property
    def wholes(self) -> Floats:
        """(n, rates) what each rate's part is divided by; 0 where it is not defined."""
        return self.columns[:, _N_RATES : 2 * _N_RATES]

    @property
    def prompt_of(self) -> npt.NDArray[np.intp]:
        """(n,) the prompt of each row, counted from 0."""
        return np.unique([prompt for prompt, _ in self.units], return_inverse=True)[1]

    def rows(self, units: Sequence[tuple[str, int]]) -> Sums:
        """The rows of some of the units."""
        row_of = {unit: row for row, unit in enumerate(self.units)}
        return Sums(list(units), self.columns[[row_of[unit] for unit in units]])


def _row(reply: Reply, prompt: Prompt, *, extras: bool) -> list[float]:
    measures = measure_reply(reply, prompt, extras=extras)
    parts, wholes = [], []
    for rate in RATES:
        part, whole = measures[rate.part], measures[rate.whole] if rate.whole else 1.0
        parts.append(0.0 if part is None or whole is None else part)
        wholes.append(0.0 if part is None or whole is None else whole)
    if not (extras and prompt.reference):
        return [*parts, *wholes, *[0.0] * (N_BLEU + N_CHRF)]
    return [
        *parts,
        *wholes,
        *segment_statistics(take_apart(reply).answer, prompt.reference, tokenizer(prompt.language)),
    ]


def sums_by_method(replies: Iterable[Reply], prompts: Mapping[str, Prompt], *, extras: bool = True) -> dict[str, Sums]:
    """The replies by method, in the order the methods come in; `extras` are what needs the extra `eval`."""
    rows: dict[str, dict[tuple[str, int], list[float]]] = {}
    for reply in replies:
        unit = (reply["id"], reply["seed"])
        if unit[0] not in prompts:
            raise GateError(f"a reply is to prompt `{unit[0]}`, which the benchmark does not have")
        of_method = rows.setdefault(reply["method"], {})
        if unit in of_method:
            raise GateError(f"method `{reply['method']}` has two replies to prompt `{unit[0]}` with seed {unit[1]}")
        of_method[unit] = _row(reply, prompts[unit[0]], extras=extras)
    return {method: _sums(of_method) for method, of_method in rows.items()}


def _sums(rows: Mapping[tuple[str, int], list[float]]) -> Sums:
    units = sorted(rows)
    return Sums(units, np.array([rows[unit] for unit in units], dtype=np.float64))


def silent_metrics(sums: Iterable[Sums]) -> frozenset[str]:
    """The metrics of kinds of letters that are unwanted in no reply of any method, of which nothing is to be told."""
    found = {rate.name for method in sums for rate, part in zip(RATES, method.columns.sum(axis=0)) if part}
    return frozenset(KIND_METRICS.keys() - found)


def scores(sums: Floats) -> Floats:
    """(m, columns) -> (m, metrics), NaN where a metric is not defined."""
    wholes, scales = sums[:, _N_RATES : 2 * _N_RATES], np.array([rate.scale for rate in RATES])
    rates = np.full_like(wholes, np.nan)
    np.divide(sums[:, :_N_RATES] * scales, wholes, out=rates, where=wholes > 0)
    bleu, chrf = sums[:, 2 * _N_RATES : 2 * _N_RATES + N_BLEU], sums[:, 2 * _N_RATES + N_BLEU :]
    return np.column_stack([rates, corpus_bleu(bleu), corpus_chrf(chrf)])


def values(
    replies: Iterable[Reply], prompts: Mapping[str, Prompt], *, extras: bool = True
) -> dict[str, dict[str, float]]:
    """Every metric of every method, without intervals; absent are those that are not defined and `silent_metrics`."""
    sums_of = sums_by_method(replies, prompts, extras=extras)
    silent = silent_metrics(sums_of.values())
    found = {}
    for method, sums in sums_of.items():
        of_method = zip(METRICS, scores(sums.columns.sum(axis=0, keepdims=True))[0].tolist())
        found[method] = {metric: value for metric, value in of_method if not math.isnan(value) and metric not in silent}
    return found
