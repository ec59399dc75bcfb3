"""Tables for docs/results.md."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from demo.cldr import LANGUAGES, LOW_RESOURCE
from lcg_cpp.gate.families import text_families
from lcg_cpp.measure.compare import compare
from lcg_cpp.measure.unwanted import unwanted
from markdown import cell, change, table, times

from .generate import Outcome

COLUMNS = {
    "cj_percent": "CJ %",
    "latin_percent": "Latin %",
    "switches_kept_percent": "switches kept %",
    "exact_match_percent": "exact match %",
    "chrf": "chrF++",
    "intervention_percent": "interventions, % of tokens",
}
_QUALITY = {
    "switches_kept_percent": "requested switches kept %",
    "exact_match_percent": "exact match %",
    "bleu": "BLEU",
    "chrf": "chrF++",
    "line_pass_percent": "line-level pass %",
    "length_tokens": "tokens a reply",
    "empty_percent": "empty replies %",
    "truncated_percent": "truncated replies %",
}
# what the language of a family is called in prompts
_NAMES = {"cj": {"chinese", "chino", "中文"}, "latin": {"english", "inglés", "英语"}}

_KINDS = {"cj": ("han", "kana"), "latin": ("latin",)}


def methods(outcome: Outcome, title: str = "method") -> str:
    """All methods with the main metrics."""
    rows = [[name, *(cell(found.get(metric)) for metric in COLUMNS)] for name, found in outcome.summary().items()]
    return table([title, *COLUMNS.values()], rows)


def reduction(outcome: Outcome, method: str) -> str:
    """How many times less confusion, with the paired interval."""
    found, compared = outcome.summary(), outcome.compared()[method]
    rows = [
        [
            title,
            cell(found[outcome.baseline][metric]),
            cell(found[method][metric]),
            times(compared[metric]["ratio"]) if "ratio" in compared[metric] else "",
        ]
        for metric, title in (
            ("cj_percent", "replies with unwanted Chinese, %"),
            ("latin_percent", "replies with unwanted Latin, %"),
        )
    ]
    return table(["", outcome.baseline, method, "times less"], rows)


def quality(outcome: Outcome, method: str) -> str:
    """What the gate does to everything else: paired differences, and the switches as a share of the plain model's."""
    found, compared = outcome.summary(), outcome.compared()[method]
    rows = []
    for metric, title in _QUALITY.items():
        if metric not in compared:
            continue
        difference = compared[metric]
        p = f"{difference['p']:.3f}"
        rows.append([title, cell(found[outcome.baseline][metric]), cell(found[method][metric]), change(difference), p])
    ratio = compared["switches_kept_percent"]["ratio"]
    kept = " to ".join(f"{100 * ratio[end]:.1f}" for end in ("low", "high"))
    text = f"Requested switches kept: {100 * ratio['value']:.1f} % of what the plain model keeps ({kept})."
    return table(["", outcome.baseline, method, "difference", "p"], rows) + "\n\n" + text


def changes(outcome: Outcome, pairs: Sequence[tuple[str, str]]) -> str:
    """What changes from one method to another on the same prompts and seeds."""
    metrics = list(COLUMNS)[:4]
    rows = []
    for before, after in pairs:
        replies = [reply for reply in outcome.replies if reply["method"] in (before, after)]
        found = compare(replies, outcome.prompts, baseline=before)[after]
        rows.append([f"{before} → {after}", *(change(found[metric]) for metric in metrics)])
    return table(["", *(COLUMNS[metric] for metric in metrics)], rows)


def remaining(outcome: Outcome, method: str) -> str:
    """The replies that are still confused: with which letters, and what might explain it."""
    rows = []
    for family, words in _NAMES.items():
        n = n_start = n_misread = 0
        for reply in outcome.replies:
            prompt, text = outcome.prompts[reply["id"]], reply["reply"]
            stretches = unwanted(text, prompt) if reply["method"] == method else None
            wrong = [begin for begin, _, kind in stretches or () if kind in _KINDS[family]]
            if wrong:
                n += 1
                n_start += not text_families(text[: wrong[0]])
                listed = {name.strip().lower() for name in prompt.prompt.split("\n")[0].split(",")}
                n_misread += bool(prompt.switch) and not words.isdisjoint(listed)
        rows.append([family, str(n), str(n_start), str(n_misread)])
    heads = ["unwanted letters", "replies", "begin with them", "asked for the other switch, and list this one's name"]
    return table(heads, rows)


def by_language(outcomes: Iterable[Outcome], method: str) -> str:
    """Confusion and interventions by the language of the reply."""
    rows = []
    for outcome in outcomes:
        for code in LANGUAGES:
            if not any(prompt.language == code for prompt in outcome.prompts.values()):
                continue
            found = outcome.summary(lambda prompt, code=code: prompt.language == code)  # type: ignore[misc]
            before, after = found[outcome.baseline], found[method]
            rows.append(
                [
                    LANGUAGES[code] + (" (contaminated)" if code in LOW_RESOURCE else ""),
                    *(
                        f"{cell(before[metric])} → {cell(after[metric])}" if metric in before else ""
                        for metric in ("cj_percent", "latin_percent", "exact_match_percent")
                    ),
                    cell(after["intervention_percent"]),
                ]
            )
    heads = ["language", *(COLUMNS[metric] for metric in ("cj_percent", "latin_percent", "exact_match_percent"))]
    return table([*heads, COLUMNS["intervention_percent"]], rows)


def side_by_side(outcomes: Mapping[str, Outcome], title: str) -> str:
    """Experiments of two methods each, a line for each experiment: the baseline's value and the other's."""
    rows = []
    for name, outcome in outcomes.items():
        found = list(outcome.summary().values())
        cells = [
            f"{cell(found[0][metric])} → {cell(found[1][metric])}" if metric in found[0] else ""
            for metric in list(COLUMNS)[:4]
        ]
        rows.append([name, *cells, cell(found[1]["intervention_percent"])])
    heads = [title, *list(COLUMNS.values())[:4], COLUMNS["intervention_percent"]]
    return table(heads, rows)


def same_replies(outcome: Outcome, method: str) -> str:
    """Share of the replies of every other method that are token by token those of one."""
    tokens: dict[str, dict[str, Any]] = {}
    for reply in outcome.replies:
        tokens.setdefault(reply["method"], {})[reply["id"]] = reply["tokens"]
    rows = []
    for name, of_method in tokens.items():
        if name not in (outcome.baseline, method):
            same = sum(reply == tokens[method][prompt] for prompt, reply in of_method.items())
            rows.append([name, f"{100 * same / len(of_method):.2f}"])
    return table(["type of the gate's matrices", f"replies equal to {method}'s, %"], rows)
