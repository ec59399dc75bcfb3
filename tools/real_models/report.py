"""docs/real-models.md: document.md with the tables that the results of all models give."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TypeVar

from lcg_cpp.files import write_whole
from lcg_cpp.measure.metrics import KIND_METRICS
from lcg_cpp.measure.unwanted import title_of
from markdown import cell, change, table, times

from .bans import Bans
from .copies import COPIES
from .models import MODELS
from .outcome import BASELINE, GATED, Outcome, main_runs
from .plan import MAIN, PAIRS, RUNS, Plan
from .published import pass_rates, published_rows, rate_rows, rate_table

TEMPLATE = Path(__file__).with_name("document.md")
_UNWANTED = "unwanted_percent"
_SWITCHES = "switches_kept_percent"
_ACTS = "intervention_percent"
_TITLES = {
    _UNWANTED: "replies with unwanted letters, %",
    "slips_percent": "slips in replies that are mostly right, %",
    "wrong_script_percent": "mostly in a wrong script, %",
    "cj_percent": "with unwanted Chinese or Japanese, %",
    "latin_percent": "with unwanted Latin, %",
    _SWITCHES: "requested switches there, %",
    _ACTS: "interventions, % of tokens",
}
_COLUMNS = (_UNWANTED, "slips_percent", "wrong_script_percent", _SWITCHES, _ACTS)
_SPEED = ("model", "tokens/s alone", "tokens/s with its gate", "with ÷ alone", "steps with the gate evaluated, %",
          "one evaluation, µs")  # fmt: skip
_ASKING = ("switch", "say")  # subsets that ask for a second script


Work = TypeVar("Work")


def title(plan: Plan) -> str:
    """What a model is called."""
    name = plan.folder.name
    return MODELS[name].title if name in MODELS else name


def write_report(document: Path, plans: Sequence[Plan]) -> None:
    """Measure everything that is there and write the document."""
    by_title = {title(plan): plan for plan in plans}
    everyday = {name: Outcome.of(plan, main_runs()) for name, plan in by_title.items()}
    blocks = {
        "models": _models(),
        "notes": _each(by_title, notes),
        "headline": _each(everyday, headline),
        "kinds": _each(everyday, kinds),
        "languages": _each(everyday, by_language),
        "methods": _each(everyday, methods),
        "temperature": _each(by_title, temperature),
        "copies": _each(by_title, copies),
        "bans": _each(by_title, bans),
        "translation": _each(by_title, translation),
        "code": _each(by_title, code),
        "pairs": str(PAIRS),
        "speed": _table(_SPEED, [line for plan in plans for line in speed(plan)]),
        "lcb": _each(by_title, lcb),
        "published": "".join(rate_table(published_rows(folder)) for folder in {plan.lcb for plan in plans} if folder),
        "times": _table(["model", "step", "minutes"], [line for plan in plans for line in _times(plan)]),
    }
    text = TEMPLATE.read_text(encoding="utf-8")
    for name, block in blocks.items():
        text = text.replace(f"{{{{{name}}}}}", block or ("" if name == "notes" else "Not measured yet."))
    write_whole(document, text.encode())


def _each(works: Mapping[str, Work], make: Callable[[Work], str]) -> str:
    """A table for each model that has one."""
    tables = {name: make(work) for name, work in works.items()}
    return "\n\n".join(f"**{name}**\n\n{found}" for name, found in tables.items() if found)


def notes(plan: Plan) -> str:
    """What is to be said of this run: the text of `notes.md` in its folder."""
    path = plan.folder / "notes.md"
    return path.read_text(encoding="utf-8").strip() if path.exists() else ""


def _table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    return table(heads, rows) if rows else ""


def _models() -> str:
    rows = [
        [model.title, model.licence, f"`{model.package.format('1')}`" + (f" to {model.n_parts}" * (model.n_parts > 1))]
        for model in MODELS.values()
    ]
    return table(["model", "licence", "packages"], rows)


def _plain(outcome: Outcome) -> Outcome:
    """The replies to prompts that ask for no second script."""
    return outcome.part(lambda prompt: prompt.subset not in _ASKING)


def _asked(outcome: Outcome) -> Outcome:
    """The replies to prompts that ask for one."""
    return outcome.part(lambda prompt: prompt.subset in _ASKING)


def headline(outcome: Outcome) -> str:
    """The model alone and with its gate, where no second script is asked for and where one is."""
    if not outcome.replies:
        return ""
    plain, asked = _plain(outcome), _asked(outcome)
    rows = []
    for metric, name in _TITLES.items():
        part = asked if metric == _SWITCHES else outcome if metric == _ACTS else plain
        found = [part.methods.get(method, {}).get(metric) for method in (BASELINE, GATED)]
        rows.append([name, *map(cell, found), "" if metric == _SWITCHES else times(part.ratio(GATED, metric))])
    kept = asked.ratio(GATED, _SWITCHES)
    share = (
        f"\n\nSwitches kept: {100 * kept['value']:.1f} % of the model's own"
        f" ({100 * kept['low']:.1f}–{100 * (kept['high'] or 0):.1f})."
        if kept and kept["value"] is not None
        else ""
    )
    return table(["", "model alone", "with its gate", "times less"], rows) + share


def kinds(outcome: Outcome) -> str:
    """Unwanted letters by script."""
    rows = []
    for metric, kind in KIND_METRICS.items():
        found = [outcome.methods.get(method, {}).get(metric) for method in (BASELINE, GATED)]
        if any(estimate and estimate["value"] for estimate in found):
            rows.append([title_of(kind), *map(cell, found), times(outcome.ratio(GATED, metric))])
    return _table([_TITLES[_UNWANTED], "model alone", "with its gate", "times less"], rows)


def by_language(outcome: Outcome) -> str:
    """Questions in one language each."""
    own = outcome.part(lambda prompt: prompt.subset == "own")
    rows = []
    for code in dict.fromkeys(own.prompts[reply["id"]].language for reply in own.replies):
        found = own.part(lambda prompt, code=code: prompt.language == code).methods  # type: ignore[misc]
        values = [found.get(method, {}).get(_UNWANTED) for method in (BASELINE, GATED)]
        rows.append([code, *map(cell, values), cell(found.get(GATED, {}).get(_ACTS))])
    return _table(["language", "model alone", "with its gate", _TITLES[_ACTS]], rows)


def methods(outcome: Outcome) -> str:
    """Every method, on the prompts that all answered: unwanted letters, and switches where one is asked for."""
    outcome = outcome.common()
    plain, asked = _plain(outcome), _asked(outcome)
    rows = []
    for method, found in outcome.methods.items():
        own = {
            **plain.methods.get(method, {}),
            _SWITCHES: asked.methods.get(method, {}).get(_SWITCHES),
            _ACTS: found.get(_ACTS),
        }
        cells = [cell(own.get(metric)) for metric in _COLUMNS]
        rows.append([method, *cells, times(plain.ratio(method, _UNWANTED))])
    if not rows:
        return ""
    told = f"{len({reply['id'] for reply in outcome.replies})} prompts, which every method answered.\n\n"
    return told + table(["method", *(_TITLES[metric] for metric in _COLUMNS), "unwanted: times less"], rows)


def temperature(plan: Plan) -> str:
    """The model alone and with its gate at other temperatures."""
    rows = []
    for name, run in RUNS.items():
        outcome = Outcome.of(plan, [name] if run.benchmark == "everyday" and "--temp" in run.options else [])
        if outcome.replies:
            found = [outcome.methods.get(method, {}).get(_UNWANTED) for method in (BASELINE, GATED)]
            rows.append([run.options[1], *map(cell, found), times(outcome.ratio(GATED, _UNWANTED))])
    return _table(["temperature", "model alone", "with its gate", "times less"], rows)


def copies(plan: Plan) -> str:
    """Other quantizations of the model, alone and with the gate that was trained for it."""
    rows = []
    for name in COPIES:
        plain = _plain(Outcome.of(plan, [name]))
        for metric in (_UNWANTED, "slips_percent"):
            found = [plain.methods.get(method, {}).get(metric) for method in (BASELINE, GATED)]
            if any(found):
                rows.append([name, _TITLES[metric], *map(cell, found), times(plain.ratio(GATED, metric))])
    return _table(["quantization", "", "model alone", "with the gate", "times less"], rows)


def translation(plan: Plan) -> str:
    """Translations of what no gate learned from, alone and with the gate."""
    outcome = Outcome.of(plan, ["translation"])
    rows = []
    for metric, name in (("chrf", "chrF++"), ("bleu", "BLEU"), (_UNWANTED, _TITLES[_UNWANTED])):
        found = [outcome.methods.get(method, {}).get(metric) for method in (BASELINE, GATED)]
        if any(found):
            rows.append([name, *map(cell, found), change(outcome.compared.get(GATED, {}).get(metric))])
    return _table(["", "model alone", "with its gate", "difference"], rows)


def code(plan: Plan) -> str:
    """How many greedy answers to English requests for code are the same with the gate, to the last letter."""
    said: dict[str, dict[str, str]] = {}
    for reply in Outcome.of(plan, ["code"]).replies:
        said.setdefault(reply["id"], {})[reply["method"]] = reply["reply"]
    pairs = [of_prompt for of_prompt in said.values() if len(of_prompt) > 1]
    same = sum(of_prompt[BASELINE] == of_prompt[GATED] for of_prompt in pairs)
    return f"{same} of {len(pairs)} answers are the same." if pairs else ""


def bans(plan: Plan) -> str:
    """Right tokens that the gates would ban on the texts that they did not learn from."""
    if not plan.bans.exists():
        return ""
    found = {
        name: {language: Bans(**counts) for language, counts in of_gate.items()}
        for name, of_gate in json.loads(plan.bans.read_text(encoding="utf-8")).items()
    }
    every = [[name, *_bans(sum(of_gate.values(), Bans()))] for name, of_gate in found.items()]
    each = [[language, *_bans(counts)] for language, counts in found.get(MAIN, {}).items()]
    heads = ["positions", "right token banned, %", "would act, %"]
    return "\n\n".join(filter(None, (_table(["gate", *heads], every), _table([f"`{MAIN}`, language", *heads], each))))


def _bans(found: Bans) -> list[str]:
    shares = (100 * n / max(found.positions, 1) for n in (found.wrong, found.interventions))
    return [f"{found.positions:,}", *(f"{share:.2f}" for share in shares)]


def speed(plan: Plan) -> list[list[str]]:
    """How fast the model generates alone and with its gate, by `lcg-cpp bench`."""
    if not plan.speed.exists():
        return []
    found = json.loads(plan.speed.read_text(encoding="utf-8"))
    rates = (f"{found[side]['tokens_per_second']:.2f}" for side in ("stock", "gated"))
    low, high = found["middle_half"]
    gate = (f"{100 * found['gated']['gate_run_share']:.1f}", f"{found['gate_us']:.0f}")
    return [[title(plan), *rates, f"{found['ratio']:.3f} ({low:.3f}–{high:.3f})", *gate]]


def lcb(plan: Plan) -> str:
    """Pass rates of the benchmark's prompts."""
    outcome = Outcome.of(plan, ["lcb"])
    rows = []
    for method in outcome.methods:
        replies = [
            {"completion": reply["reply"], "language": prompt.language, "task": prompt.subset, "source": source}
            for reply in outcome.replies
            if reply["method"] == method
            for prompt in (outcome.prompts[reply["id"]],)
            for _, source, *_ in (prompt.id.split("/"),)
        ]
        rows += rate_rows({BASELINE: "alone", GATED: "with its gate"}.get(method, method), pass_rates(replies))
    return rate_table(rows)


def _times(plan: Plan) -> list[list[str]]:
    path = plan.folder / "times.json"
    if not path.exists():
        return []
    return [[title(plan), step, f"{seconds / 60:.1f}"] for step, seconds in json.loads(path.read_text()).items()]
