"""HumanEval-XL (Peng et al. 2024): Python functions to be written, described in the two languages the paper measures.

Layout: the repository FloatAI/humaneval-xl, data/python/Arabic.jsonl and so on, with `task_id`, `prompt`, `language`
(of the program) and `natural_language`; on the hub one configuration a programming language and one split a natural
language.
"""

from __future__ import annotations

from ..data.columns import Row, Rows, text
from ..data.files import HUB as HUB_PREFIX
from ..data.files import RowFile, open_files
from .languages import CODES
from .prompt import Benchmark, Prompt

HUB = "hf:FloatAI/HumanEval-XL"
PROGRAMS = "python"
MAX_TOKENS = 8000
_LANGUAGES = ("Arabic", "Hebrew")


def load_humaneval_xl(name: str, place: str) -> Benchmark:
    """Functions to be completed, the beginning of each as the prompt, as in the paper's published evaluation.

    Latin letters are expected, there is no reference: what is measured is confusion, not whether the programs work.
    """
    rows = Rows(place, _files(place))
    prompts = {prompt.id: prompt for prompt in rows.read(_prompt)}
    rows.check(len(prompts), f"{PROGRAMS} functions described in {' or '.join(_LANGUAGES)}")
    return Benchmark(name, tuple(prompts.values()), f"HumanEval-XL from {place}", rows.n_bad, tuple(rows.bad))


def _files(place: str) -> list[RowFile]:
    if place.startswith(HUB_PREFIX) and ":" not in place[len(HUB_PREFIX) :]:
        return [file for language in _LANGUAGES for file in open_files(f"{place}:{PROGRAMS}", language)]
    return open_files(place, PROGRAMS)


def _prompt(row: Row, number: int) -> Prompt | None:
    del number
    language = text(row, "natural_language")
    if language not in _LANGUAGES or text(row, "language") != PROGRAMS:
        return None
    return Prompt(
        id=f"{CODES[language]}-{text(row, 'task_id')}",
        prompt=text(row, "prompt"),
        chat=True,
        language=CODES[language],
        expect_scripts=("latin",),
        max_tokens=MAX_TOKENS,
    )
