"""INCLUDE (Romanou et al. 2024): multiple-choice questions of exams, in the six languages the paper measures.

Layout: CohereLabs/include-base-44, one configuration a language, with `language`, `question`, `option_a` to `option_d`
and `answer` (0 to 3).
"""

from __future__ import annotations

from collections import Counter

from ..data.columns import Row, Rows, text
from ..data.files import HUB as HUB_PREFIX
from ..data.files import RowFile, open_files
from ..data.rows import BadRow
from .languages import CODES
from .prompt import CHOICES, Benchmark, Prompt

HUB = "hf:CohereLabs/include-base-44"
SPLIT = "test"
MAX_TOKENS = 8000

# language -> the word for "answer" that the last line begins with
_LANGUAGES = {
    "Arabic": "إجابة",
    "Hebrew": "תשובה",
    "Greek": "Απάντηση",
    "Korean": "답변",
    "Russian": "Ответ",
    "Vietnamese": "Câu trả lời",
}
_OPTIONS = ("option_a", "option_b", "option_c", "option_d")


def load_include(name: str, place: str) -> Benchmark:
    """Questions of the test split in Arabic, Hebrew, Greek, Korean, Russian and Vietnamese.

    As in the paper's evaluation the reply shall reason step by step in the language and end in a line with the letter;
    the wording is our own. Latin letters count as expected: answers are letters, and formulas and quotations are
    common.
    """
    rows = Rows(place, _files(place))
    counts: Counter[str] = Counter()

    def convert(row: Row, number: int) -> Prompt | None:
        del number
        language = text(row, "language")
        if language not in _LANGUAGES:
            return None
        counts[language] += 1
        return _prompt(row, language, counts[language])

    prompts = tuple(rows.read(convert))
    rows.check(len(prompts), f"questions in {', '.join(_LANGUAGES)}")
    return Benchmark(name, prompts, f"INCLUDE {SPLIT} from {place}", rows.n_bad, tuple(rows.bad))


def _files(place: str) -> list[RowFile]:
    if place.startswith(HUB_PREFIX) and ":" not in place[len(HUB_PREFIX) :]:
        return [file for language in _LANGUAGES for file in open_files(f"{place}:{language}", SPLIT)]
    return open_files(place, SPLIT)


def _prompt(row: Row, language: str, number: int) -> Prompt:
    answer = row.get("answer")
    if not isinstance(answer, int) or isinstance(answer, bool) or not 0 <= answer < len(_OPTIONS):
        raise BadRow(f"`answer` is {answer!r}, expected a number from 0 to {len(_OPTIONS) - 1}")
    options = "\n".join(f"{letter}) {text(row, option)}" for letter, option in zip(CHOICES, _OPTIONS))
    return Prompt(
        id=f"{CODES[language]}-{number}",
        prompt=f"Here is an exam question with four options. Work it out step by step in {language}, then end with a "
        f"line of its own that names the right option by its letter (A, B, C or D): {_LANGUAGES[language]}: LETTER"
        f"\n\n{text(row, 'question')}\n\n{options}",
        chat=True,
        language=CODES[language],
        expect_scripts=("latin",),
        answer=CHOICES[answer],
        max_tokens=MAX_TOKENS,
    )
