"""Tables of docs/settings.md that compare gates of different families."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from lcg_cpp.measure.compare import compare
from lcg_cpp.measure.judge import measure_reply
from markdown import cell, table, times
from prose.names import LANGUAGES
from results.generate import Outcome

from .forced import Counts, Scores

# metric -> what a table calls it
UNWANTED = {
    "unwanted_percent": "any script",
    "unwanted_latin_percent": "Latin",
    "unwanted_han_percent": "Chinese where none is",
    "unwanted_chinese_percent": "Chinese in Japanese",
    "unwanted_traditional_percent": "traditional in simplified",
    "unwanted_simplified_percent": "simplified in traditional",
    "unwanted_kana_percent": "kana",
}
QUALITY = {
    "switches_kept_percent": "switches kept %",
    "exact_match_percent": "exact match %",
    "intervention_percent": "interventions, % of tokens",
}
_OF_LANGUAGES = {"unwanted_percent": "unwanted letters %", "exact_match_percent": "exact match %"}


def _share(counts: Counts, digits: int = 2) -> str:
    return f"{counts.percent:.{digits}f}" if counts.n else "–"


def forced(scores: Mapping[str, Scores]) -> str:
    """All gates on clean texts."""
    first = next(iter(scores.values()))
    rows = []
    for name, found in scores.items():
        worst = max((code for code in found.banned if code != "all"), key=lambda code: found.banned[code].percent)
        busiest = max(
            (code for code in found.interventions if code != "all"), key=lambda code: found.needless[code].percent
        )
        rows.append(
            [
                name,
                *(_share(counts, 1) for counts in found.repaired.values()),
                _share(found.banned["all"], 3),
                f"{_share(found.banned[worst], 3)} {worst}",
                _share(found.interventions["all"]),
                _share(found.needless["all"]),
                f"{_share(found.needless[busiest])} {busiest}",
                _share(found.switches),
            ]
        )
    kinds = [f"{name} ({counts.n:,})" for name, counts in first.repaired.items()]
    heads = ["gate", *(f"repaired %: {kind}" for kind in kinds), "right tokens banned %", "most in"]
    heads += ["interventions %", "where nothing unwanted was in reach %", "most in", "own switches banned %"]
    return table(heads, rows)


def forced_by_language(scores: Scores) -> str:
    """One gate on clean texts, by language."""
    rows = [
        [
            LANGUAGES.get(code, code),
            f"{counts.n:,}",
            f"{_share(counts, 3)} ({counts.found})",
            _share(scores.interventions[code]),
            _share(scores.needless[code]),
        ]
        for code, counts in scores.banned.items()
    ]
    heads = [
        "language",
        "positions",
        "right tokens banned %",
        "interventions %",
        "where nothing unwanted was in reach %",
    ]
    return table(heads, rows)


def answers(outcome: Outcome) -> str:
    """All methods on the prompts."""
    metrics = {**UNWANTED, **QUALITY}
    rows = [[name, *(cell(found.get(metric)) for metric in metrics)] for name, found in outcome.summary().items()]
    return table(["method", *metrics.values()], rows)


def reduction(outcome: Outcome, method: str) -> str:
    """How many times less confusion of each kind, where a kind can be, with the paired interval."""
    rows = []
    for metric, title in UNWANTED.items():
        replies = [r for r in outcome.replies if r["method"] in (outcome.baseline, method)]
        found = compare(replies, outcome.prompts, baseline=outcome.baseline)[method].get(metric)
        if found and "ratio" in found:
            before, after = (outcome.summary()[name].get(metric) for name in (outcome.baseline, method))
            rows.append([title, cell(before), cell(after), times(found["ratio"])])
    return table(["replies with unwanted letters, %", outcome.baseline, method, "times less"], rows)


def by_language(outcome: Outcome, methods: Sequence[str]) -> str:
    """Confusion and right replies by language; `harmed`: replies that are right without the gate and wrong with it."""
    rows = []
    shown = (outcome.baseline, *methods)
    for code, name in LANGUAGES.items():
        if not any(prompt.language == code for prompt in outcome.prompts.values()):
            continue
        found = outcome.summary(lambda prompt, code=code: prompt.language == code)
        cells = [" → ".join(cell(found[method].get(metric)) for method in shown) for metric in _OF_LANGUAGES]
        rows.append([name, *cells, *(_changed(outcome, method, code) for method in methods)])
    heads = [f"{title}: {' → '.join(shown)}" for title in _OF_LANGUAGES.values()]
    return table(["language", *heads, *(f"harmed / mended by {method}" for method in methods)], rows)


def _changed(outcome: Outcome, method: str, code: str) -> str:
    """How many replies in a language the gate made wrong, and how many it made right."""
    before, after = set[str](), set[str]()
    right = {outcome.baseline: before, method: after}
    for reply in outcome.replies:
        prompt = outcome.prompts[reply["id"]]
        if reply["method"] not in right or prompt.language != code:
            continue
        if measure_reply(reply, prompt, extras=False)["exact_match"]:
            right[reply["method"]].add(reply["id"])
    return f"{len(before - after)} / {len(after - before)}"
