"""What the plots of the reply page show: counts over replies, as shares to be drawn."""

from __future__ import annotations

import math
from bisect import bisect_right
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from ..measure.answer import Reply

ANY = "any"  # kind of unwanted letters
_N_MASS_BINS = 10
_REMOVED = (
    "What an intervention removed is the probability that the banned tokens had just before it, summed over those that"
    " could have been sampled (the 20 most probable). The line above a chart has the mean of the interventions."
)


@dataclass(frozen=True)
class Share:
    """How many of some."""

    part: int  # how many
    whole: int  # of how many; 0 where there are none

    @property
    def percent(self) -> float:
        """In per cent, 0 of none."""
        return 100 * self.part / self.whole if self.whole else 0.0

    def rounded(self, digits: int) -> str:
        """In per cent with so many digits after the point; what is not nothing does not look like it."""
        least = 10.0**-digits
        return f"< {least:.{digits}f}" if 0 < self.percent < least / 2 else f"{self.percent:.{digits}f}"


@dataclass(frozen=True)
class Confusion:
    """Replies with unwanted letters of a kind."""

    kind: str
    rows: list[tuple[str, list[Share]]]  # of each language, the share of each method's replies


@dataclass(frozen=True)
class Bars:
    """A bar chart of one method."""

    method: str
    labels: list[str]  # under the bars; empty where there would be too many
    titles: list[str]  # what each bar covers
    shares: list[Share]  # their heights
    summary: str  # what it shows in a sentence


@dataclass(frozen=True)
class Plot:
    """The charts of all methods that intervened, on one scale."""

    caption: str  # what the heights are
    axis: str  # what the bars are
    top: float  # height of the scale in per cent
    charts: list[Bars]  # one for each method
    note: str = ""  # what the caption does not say; can be empty


def confusion(
    replies: Sequence[Reply], confused: Sequence[Sequence[str] | None], methods: Sequence[str], kinds: Sequence[str]
) -> list[Confusion]:
    """Count confused replies by language and method, for each kind of letters; nothing if no reply says its language.

    `confused` holds of each reply the kinds of its unwanted letters; None if none can be wrong. Of several kinds, `ANY`
    of them comes first, and only languages that have some are told of each.
    """
    wholes: Counter[tuple[str, str]] = Counter()
    parts: Counter[tuple[str, str, str]] = Counter()
    for reply, wrong in zip(replies, confused):
        if wrong is not None and reply.get("language"):
            key = reply["language"], reply["method"]
            wholes[key] += 1
            parts.update((kind, *key) for kind in (*wrong, *([ANY] if wrong else [])))
    languages = sorted({language for language, _ in wholes})
    tables = []
    for kind in (ANY, *kinds) if len(kinds) > 1 else kinds:
        rows = [
            (language, [Share(parts[kind, language, method], wholes[language, method]) for method in methods])
            for language in languages
        ]
        tables.append(Confusion(kind, [row for row in rows if kind == ANY or any(share.part for share in row[1])]))
    return [table for table in tables if table.rows]


def _intervening(replies: Sequence[Reply], methods: Sequence[str]) -> list[tuple[str, list[Reply]]]:
    """The replies of each method that intervened at all."""
    found: dict[str, list[Reply]] = {method: [] for method in methods}
    for reply in replies:
        found[reply["method"]].append(reply)
    return [(method, some) for method, some in found.items() if any(reply["events"] for reply in some)]


def positions(replies: Sequence[Reply], methods: Sequence[str]) -> Plot | None:
    """At which tokens of a reply the gate intervenes: the share of the steps that got there; None if it never did."""
    found = _intervening(replies, methods)
    if not found:
        return None
    # the token that ends a reply was a step too, on which the gate can have intervened
    n_steps = max(max(len(reply["tokens"]) + 1, *_at(reply)) for _, some in found for reply in some)
    edges = [0, *(1 << i for i in range((n_steps - 1).bit_length()))]
    ends = [*edges[1:], n_steps]
    titles = [f"token {a + 1}" if b - a == 1 else f"tokens {a + 1} to {b}" for a, b in zip(edges, ends)]
    charts = []
    for method, some in found:
        steps, events = [0] * len(edges), [0] * len(edges)
        for reply in some:
            n = max(len(reply["tokens"]) + (reply["finish"] == "stop"), *_at(reply))
            for i, (a, b) in enumerate(zip(edges, ends)):
                steps[i] += max(0, min(n, b) - a)
            for event in reply["events"]:
                events[bisect_right(edges, event["position"]) - 1] += 1
        summary = f"{sum(events):,} interventions in {sum(steps):,} steps of {len(some):,} replies"
        charts.append(_bars(method, [str(a + 1) for a in edges], titles, list(map(Share, events, steps)), summary))
    return _plot("Share of the steps at which the gate intervened, by their place in the reply", "token", charts)


def _at(reply: Reply) -> list[int]:
    """How many steps each intervention needs, and 0."""
    return [0, *(event["position"] + 1 for event in reply["events"])]


def removed_mass(replies: Sequence[Reply], methods: Sequence[str]) -> Plot | None:
    """How much probability an intervention takes away: the share of the interventions; None if there was none."""
    charts = []
    width = 100 // _N_MASS_BINS
    edges = range(0, 100, width)
    for method, some in _intervening(replies, methods):
        masses = [sum(token[2] for token in event["removed"]) for reply in some for event in reply["events"]]
        counts = Counter(min(int(mass * _N_MASS_BINS), _N_MASS_BINS - 1) for mass in masses)
        shares = [Share(counts[i], len(masses)) for i in range(_N_MASS_BINS)]
        titles = [f"{a} to {a + width} %" for a in edges]
        summary = f"{len(masses):,} interventions removed {100 * sum(masses) / len(masses):.1f} % on average"
        charts.append(_bars(method, [str(a) if a % 20 == 0 else "" for a in edges], titles, shares, summary))
    if not charts:
        return None
    return _plot("Share of the interventions, by the probability they removed", "removed, %", charts, _REMOVED)


def _bars(method: str, labels: list[str], titles: list[str], shares: list[Share], summary: str) -> Bars:
    titles = [f"{title}: {share.part} of {share.whole}, {share.rounded(1)} %" for title, share in zip(titles, shares)]
    return Bars(method, labels, titles, shares, summary)


def _plot(caption: str, axis: str, charts: list[Bars], note: str = "") -> Plot:
    highest = max(share.percent for chart in charts for share in chart.shares)
    return Plot(caption, axis, _round_up(highest), charts, note)


def _round_up(value: float) -> float:
    """The next number of 1, 2 or 5 and zeros; a scale of it has good marks."""
    power = 10.0 ** math.floor(math.log10(value))
    return next(power * step for step in (1, 2, 5, 10) if power * step >= value)
