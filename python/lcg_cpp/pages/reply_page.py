"""Replies as one HTML page that needs nothing else: what was measured, where the gate acted, and every reply to read.

The replies are data in the page, drawn a few at a time by a script in it; the page's policy lets that script run and no
other, and nothing be loaded.
"""

from __future__ import annotations

import base64
import hashlib
import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from markupsafe import Markup

from ..benchmarks.prompt import Prompt
from ..benchmarks.prompt_rows import scripts_in
from ..data.files import HUB
from ..gate.families import DEFAULT_FAMILIES
from ..measure.answer import Reply, take_apart
from ..measure.metrics import KIND_METRICS
from ..measure.unwanted import KINDS, pieces_with, title_of, unwanted
from .families import family_css
from .reply_data import Unwanted, ordered, pack
from .reply_plots import ANY, confusion, positions, removed_mass
from .report import Facts, Section, Table, render

_TEMPLATE = "reply_page.html.jinja"
_SCRIPTS = ("reply_card.js", "reply_page.js")
_SIGNIFICANT = 0.05
_METRICS = {
    "unwanted_percent": "replies with unwanted letters of any script, %",
    "unwanted_per_1000_tokens": "tokens with unwanted letters, of 1,000",
    "wrong_script_percent": "replies mostly in another script, %",
    "cj_percent": "replies with unwanted Chinese or Japanese, %",
    "latin_percent": "replies with unwanted Latin, %",
    **{metric: f"replies with unwanted {title_of(kind)}, %" for metric, kind in KIND_METRICS.items()},
    "cj_per_1000_tokens": "unwanted Chinese or Japanese tokens, of 1,000",
    "latin_per_1000_tokens": "unwanted Latin tokens, of 1,000",
    "thinking_unwanted_percent": "thoughts with unwanted letters of any script, %",
    "thinking_cj_percent": "thoughts with unwanted Chinese or Japanese, %",
    "thinking_latin_percent": "thoughts with unwanted Latin, %",
    "code_switch_percent": "second script used where it is allowed, %",
    "switches_kept_percent": "requested code-switches kept, %",
    "exact_match_percent": "exact match, %",
    "accuracy_percent": "right choice, %",
    "bleu": "BLEU",
    "chrf": "chrF++",
    "line_pass_percent": "line-level pass rate, %",
    "word_pass_percent": "word-level pass rate, %",
    "intervention_percent": "interventions, % of tokens",
    "removed_mass_percent": "probability removed by an intervention, mean, %",
    "tokens_per_second": "tokens/s",
    "length_tokens": "tokens of a reply",
    "empty_percent": "empty replies, %",
    "truncated_percent": "replies cut off, %",
}
_CONFUSION = ("unwanted_percent", "cj_percent", "latin_percent")
_TWICE = "unwanted_latin_percent"  # the same as latin_percent
_FACTS = ("model", "gate", "benchmark", "source", "prompts", "seeds")
_KIND = re.compile(r"[a-z-]{2,}:")  # what a benchmark's name can begin with; one letter is a drive


def benchmark_label(name: str) -> str:
    """A benchmark's name as a page shows it: of a path only the last part, `flores:flores` or `names.jsonl`."""
    kind, place = _kind_and_place(name)
    return kind + _last_part(place)


def _kind_and_place(name: str) -> tuple[str, str]:
    kind = _KIND.match(name)
    end = kind.end() if kind is not None and kind[0] != HUB else 0
    return name[:end], name[end:]


def _last_part(place: str) -> str:
    """A page is passed on, and where its files lay is nobody's business."""
    return place if place.startswith(HUB) else Path(place).name or place


def reply_page(
    replies: Sequence[Reply],
    summary: Mapping[str, Any],
    families: Sequence[str],
    *,
    title: str,
    prompts: Mapping[str, Prompt] | None = None,
) -> str:
    """Write the page of an evaluation; what its summary does not hold is left out.

    Prompts, by id, tell which letters are wrong in a reply; without them, its language and reference do.
    """
    metrics: Mapping[str, Any] = summary.get("methods", {})
    methods = ordered([*metrics, *(reply["method"] for reply in replies)])
    confused = [_confused(reply, prompts) for reply in replies]
    kinds = [kind for kind in KINDS if any(wrong and kind in wrong.kinds for wrong in confused)]
    values = {
        "title": title,
        "sections": _sections(summary),
        "methods": methods,
        "confusion": confusion(replies, [None if wrong is None else wrong.kinds for wrong in confused], methods, kinds),
        "plots": [plot for plot in (positions(replies, methods), removed_mass(replies, methods)) if plot is not None],
        "names": {ANY: "any script", **{kind: title_of(kind) for kind in kinds}},
        "is_trace": False,
    }
    return _render(values, replies, [wrong or Unwanted() for wrong in confused], families)


def trace_page(
    reply: Reply,
    families: Sequence[str] = DEFAULT_FAMILIES.names,
    *,
    title: str = "One reply",
    facts: Sequence[tuple[str, str]] = (),
) -> str:
    """Write the page of a single reply, with facts above it."""
    sections = [Section("", [Facts(facts)])] if facts else []
    values = {"title": title, "sections": sections, "confusion": [], "plots": [], "is_trace": True}
    return _render({**values, "methods": [reply["method"]]}, [reply], [Unwanted()], families)


def _render(
    values: dict[str, Any], replies: Sequence[Reply], confused: Sequence[Unwanted], families: Sequence[str]
) -> str:
    data = pack(replies, confused, values["methods"], families)
    script = "\n".join(Path(__file__).with_name(name).read_text(encoding="utf-8") for name in _SCRIPTS)
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    texts = {
        "script": Markup(script),
        "script_hash": f"sha256-{digest}",
        "data": Markup(data),
        "family_css": Markup(family_css(families)),
    }
    return render(_TEMPLATE, {**values, **texts, "is_packed": not data.startswith("{")})


def _confused(reply: Reply, prompts: Mapping[str, Prompt] | None) -> Unwanted | None:
    """What is unwanted in a reply; None if no letter can be wrong."""
    prompt = _prompt_of(reply) if prompts is None else prompts[reply["id"]]
    parts = take_apart(reply)
    found = unwanted(parts.answer, prompt)
    if found is None:
        return None
    kinds = [kind for kind in KINDS if any(kind == one for _, _, one in found)]
    return Unwanted(kinds, pieces_with(parts.pieces, found))


def _prompt_of(reply: Reply) -> Prompt:
    """What a reply itself tells of its prompt."""
    language, reference = (reply.get(name, "") for name in ("language", "reference"))
    return Prompt(reply["id"], reply["prompt"], True, reference, language, expect_scripts=scripts_in(reference))


# ---- the summary ----


def _sections(summary: Mapping[str, Any]) -> list[Section]:
    facts = [(name, _fact(name, summary)) for name in _FACTS if summary.get(name) is not None]
    sections = [Section("", [Facts(facts)])] if facts else []
    methods: Mapping[str, Any] = summary.get("methods", {})
    found = ordered(name for metrics in methods.values() for name in metrics if name != _TWICE)
    compared: Mapping[str, Any] = summary.get("compared_with_none", {})
    rows = []
    for name in ordered([*(name for name in _METRICS if name in found), *found]):
        differences = [compared.get(method, {}).get(name, {}) for method in methods]
        cells = [_cell(metrics.get(name), more) for metrics, more in zip(methods.values(), differences)]
        rows.append([_METRICS.get(name, name.replace("_", " ")), *cells])
        if name in _CONFUSION and any("ratio" in more for more in differences):
            rows.append(["times less often than none", *(_times_less(more.get("ratio")) for more in differences)])
    if rows:
        caption = "with 95 % intervals" + (
            f"; * differs from none (p < {_SIGNIFICANT}, Holm-adjusted)" if compared else ""
        )
        sections.append(Section("Summary", [Table(["", *(f">{method}" for method in methods)], rows, caption)]))
    return sections


def _fact(name: str, summary: Mapping[str, Any]) -> str:
    value = summary[name]
    if name in ("model", "gate"):
        return _last_part(value)
    if name == "benchmark":
        return benchmark_label(value)
    if name == "source":  # it ends in the benchmark's place
        place = _kind_and_place(summary.get("benchmark", ""))[1]
        return value.removesuffix(place) + _last_part(place) if value.endswith(place) else str(value)
    return f"{value:,}" if isinstance(value, int) else str(value)


def _cell(estimate: Mapping[str, float] | None, difference: Mapping[str, Any]) -> str:
    if estimate is None:
        return ""
    mark = " *" if difference.get("p_adjusted", 1.0) < _SIGNIFICANT else ""
    return _with_interval(estimate["value"], estimate["low"], estimate["high"], mark)


def _times_less(ratio: Mapping[str, float | None] | None) -> str:
    """The inverse of a ratio to the baseline."""
    if ratio is None:
        return ""
    value, low, high = (_inverse(ratio[key]) for key in ("value", "high", "low"))
    return _with_interval(value, low, high)


def _inverse(ratio: float | None) -> float:
    if ratio is None:  # infinite
        return 0.0
    return 1 / ratio if ratio > 0 else math.inf


def _with_interval(value: float, low: float, high: float, mark: str = "") -> str:
    """On two lines, so that many methods fit beside one another."""
    return f"{_number(value)}{mark}\n{_number(low)}–{_number(high)}"


def _number(value: float) -> str:
    if math.isinf(value):
        return "∞"
    if abs(value) >= 1000:
        return f"{value:,.0f}"
    if 0 < value < 0.005:
        return "< 0.01"
    return f"{value:.1f}" if abs(value) >= 0.095 or value == 0 else f"{value:.2f}"
