"""The Language Confusion Benchmark (Marchisio et al. 2024): questions in, or to be answered in, one of 15 languages.

Layout: the repository Cohere-Labs-Community/language-confusion (before: for-ai/language-confusion),
test_sets/TASK/SOURCE/LANGUAGE.csv with `prompt`, `source` and `language`; TASK is `monolingual` or `crosslingual`.
"""

from __future__ import annotations

import csv
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from ..data.columns import Row, Rows, RowSource, optional_text, text
from ..data.files import HUB as HUB_PREFIX
from ..data.files import Found, open_files
from ..data.rows import BadRow
from ..errors import GateError
from .languages import code_of
from .prompt import Benchmark, Prompt

MAX_TOKENS = 100
_TASKS = ("monolingual", "crosslingual")
_FOLDER = "test_sets"


@dataclass(frozen=True)
class _CsvFile:
    """A file of comma-separated values, whose first line names the columns."""

    name: str  # what to call it
    path: Path

    def scan(self) -> Iterator[Found]:
        """All rows, in order, each with the `task` that its folder is named after."""
        task = next((part for part in reversed(self.path.parts) if part in _TASKS), None)
        line = 1
        with self.path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.DictReader(file)
            try:
                for row in reader:
                    yield Found(f"{self.name}:{line + 1}", (0, 0), {"task": task, **row})
                    line = reader.line_num
            except (csv.Error, UnicodeDecodeError) as error:
                yield Found(f"{self.name}:{line + 1}", (0, 0), BadRow(f"{error}; what follows is not read"))


def load_lcb(name: str, place: str) -> Benchmark:
    """All prompts, with the 100 tokens a reply that the benchmark's authors give them."""
    rows = Rows(place, _files(place))
    counts: Counter[str] = Counter()

    def convert(row: Row, number: int) -> Prompt:
        del number
        task, source = optional_text(row, "task"), optional_text(row, "source")
        language = code_of(text(row, "language"))
        group = "/".join(filter(None, (task, source, language)))
        counts[group] += 1
        return Prompt(
            id=f"{group}/{counts[group]}",
            prompt=text(row, "prompt"),
            chat=True,
            language=language,
            subset=task,
            max_tokens=MAX_TOKENS,
        )

    prompts = tuple(rows.read(convert))
    rows.check(len(prompts), "rows with `prompt` and `language`")
    return Benchmark(name, prompts, f"Language Confusion Benchmark from {place}", rows.n_bad, tuple(rows.bad))


def _files(place: str) -> Sequence[RowSource]:
    path = Path(place)
    if path.suffix.lower() == ".csv":
        return [_CsvFile(place, path)]
    if place.startswith(HUB_PREFIX) or not path.is_dir():
        return open_files(place, "test")
    # the repository's other .csv files hold replies of models
    folder = path / _FOLDER if (path / _FOLDER).is_dir() else path
    files = [_CsvFile(str(file), file) for file in sorted(folder.rglob("*.csv"))]
    if not files:
        raise GateError(f"{place}: holds no .csv files, expected a clone of the benchmark's repository")
    return files
