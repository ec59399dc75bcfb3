"""The Language Confusion Benchmark's published replies, measured by our code and by its paper.

    python tools/measure_lcb.py DIR

DIR is a clone of the benchmark's repository; `outputs/` holds the replies of models. Both pass rates are averaged as
there: over the sources of a language, then over languages.
"""

from __future__ import annotations

import csv
import sys
from collections import defaultdict
from collections.abc import Iterable, Mapping
from pathlib import Path
from statistics import fmean

from lcg_cpp.benchmarks import Prompt
from lcg_cpp.measure.judge import measure_reply
from markdown import table

TASKS = ("monolingual", "crosslingual")

# (file, task) -> line-level pass rates of arXiv 2406.20052 (version 3, tables 3 and 6) that we know; `all` is the mean.
PAPER = {
    ("command-r-plus", "monolingual"): {
        "all": 99.2, "ar": 99.7, "hi": 100.0, "ja": 99.0, "ko": 100.0, "vi": 99.0, "zh": 97.5,
    },
    ("llama-3-instruct", "monolingual"): {
        "all": 46.0, "ar": 21.7, "hi": 23.0, "ja": 10.0, "ko": 0.0, "vi": 10.0, "zh": 8.0,
    },
    ("llama-3-instruct", "crosslingual"): {"all": 30.3},
    ("mistral-large", "monolingual"): {"all": 69.9},
}  # fmt: skip

Rates = dict[str, float]  # by language; `all` is the mean
Row = tuple[str, str, str, Rates]
_FIELD_SIZE = 1 << 24


def pass_rates(rows: Iterable[Mapping[str, str]]) -> dict[str, tuple[Rates, Rates]]:
    """Line-level and word-level pass rates in percent, by task.

    Args:
        rows: Replies with `completion`, `task`, `source` and `language`.
    """
    found: dict[tuple[str, str, str], list[tuple[float | None, float | None]]] = defaultdict(list)
    for number, row in enumerate(rows):
        prompt = Prompt(str(number), "…", chat=True, language=row["language"])
        reply = {
            "reply": row["completion"], "pieces": (), "tokens": (), "events": (), "seconds": 0.0, "finish": "stop",
        }  # fmt: skip
        measures = measure_reply(reply, prompt)
        found[row["task"], row["language"], row["source"]].append((measures["line_pass"], measures["word_pass"]))
    return {task: (_means(found, task, 0), _means(found, task, 1)) for task in TASKS}


def _means(
    found: Mapping[tuple[str, str, str], list[tuple[float | None, float | None]]], task: str, which: int
) -> Rates:
    by_language: dict[str, list[float]] = defaultdict(list)
    for (own_task, language, _), passes in sorted(found.items()):
        judged = [one[which] for one in passes]
        known = [value for value in judged if value is not None]
        if own_task == task and known:
            by_language[language].append(100 * fmean(known))
    rates = {language: fmean(values) for language, values in by_language.items()}
    return {"all": fmean(rates.values()), **rates} if rates else {}


def read_published(file: Path) -> list[dict[str, str]]:
    """The replies of a model in `outputs/`."""
    csv.field_size_limit(_FIELD_SIZE)
    with file.open(encoding="utf-8", newline="") as opened:
        return list(csv.DictReader(opened))


def rate_rows(name: str, rates: Mapping[str, tuple[Rates, Rates]]) -> list[Row]:
    """What a table has of `pass_rates`: name, task and rate, and the rates themselves."""
    return [
        (name, task, kind, found) for task, both in rates.items() for kind, found in zip(("LPR", "WPR"), both) if found
    ]


def published_rows(folder: Path) -> list[Row]:
    """The same of the replies in `outputs/`, each behind the paper's own line if we know one."""
    found: list[Row] = []
    for file in sorted((folder / "outputs").glob("*.csv")):
        for row in rate_rows(file.stem, pass_rates(read_published(file))):
            if row[2] == "LPR" and (file.stem, row[1]) in PAPER:
                found.append((f"{file.stem}, paper", row[1], row[2], PAPER[file.stem, row[1]]))
            found.append(row)
    return found


def rate_table(rows: Iterable[Row]) -> str:
    """Pass rates in the form of the paper's tables: the mean over languages, then each."""
    known = list(rows)
    languages = sorted({language for *_, rates in known for language in rates} - {"all"})
    lines = [
        [name, task, kind, *(f"{rates[code]:.1f}" if code in rates else "" for code in ("all", *languages))]
        for name, task, kind, rates in known
    ]
    return table(["", "task", "rate", "mean", *languages], lines) if known else ""


def main() -> None:
    """Reads the command line."""
    if len(sys.argv) != 2:
        raise SystemExit(__doc__)
    print(rate_table(published_rows(Path(sys.argv[1]))))
