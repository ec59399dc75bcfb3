"""FLORES+, split by whether a sentence's translations hold Latin letters (the paper's FLORES-NO-LATIN and -WITH-LATIN).

Layout: openlanguagedata/flores_plus, one row for each sentence and language, with `id`, `iso_639_3`, `iso_15924` and
`text`.
"""

from __future__ import annotations

from collections import defaultdict

from ..data.columns import Row, Rows, text
from ..data.files import open_files
from ..data.rows import BadRow
from ..errors import GateError
from .prompt import Benchmark, Prompt
from .prompt_rows import scripts_in

HUB = "hf:openlanguagedata/flores_plus"
SPLIT = "devtest"
MAX_TOKENS = 512

_SOURCE = "eng_Latn"
# target -> code, and the name the paper's prompts use
_TARGETS = {
    "arb_Arab": ("ar", "Modern Standard Arabic"),
    "heb_Hebr": ("he", "Hebrew"),
    "kor_Hang": ("ko", "Korean"),
    "tha_Thai": ("th", "Thai"),
}
# Their translations decide, for all targets alike, which subset a sentence belongs to.
_DECIDING = (*_TARGETS, "cmn_Hans")
_NEEDED = (_SOURCE, *_DECIDING)


def load_flores(name: str, place: str) -> Benchmark:
    """Sentences of the devtest split, to be translated from English into Arabic, Hebrew, Korean and Thai.

    A sentence is `no-latin` if none of its translations into these languages and simplified Chinese holds a Latin
    letter, and else `with-latin`, for every target: so a `with-latin` reference need not hold one itself (38 % do).
    The rule is that of the paper's published evaluation, but for one thing: that takes the first language written in
    Arabic letters for Arabic, this takes Modern Standard Arabic. The prompt's wording is our own.
    """
    rows = Rows(place, open_files(place, SPLIT))
    sentences: dict[str, dict[str, str]] = defaultdict(dict)  # by language, then number
    for language, number, sentence in rows.read(_sentence):
        sentences[language][number] = sentence
    rows.check(len(sentences), f"FLORES+ in {', '.join(_NEEDED)}")
    missing = [language for language in _NEEDED if language not in sentences]
    if missing:
        raise GateError(f"{place}: lacks sentences in {', '.join(missing)}, expected FLORES+ in {', '.join(_NEEDED)}")
    prompts = tuple(
        _prompt(number, target, {language: sentences[language][number] for language in _NEEDED})
        for target in _TARGETS
        for number in sentences[_SOURCE]
        if all(number in sentences[language] for language in _NEEDED)
    )
    if not prompts:
        raise GateError(f"{place}: no sentence is there in all of {', '.join(_NEEDED)}")
    return Benchmark(name, prompts, f"FLORES+ {SPLIT} from {place}", rows.n_bad, tuple(rows.bad))


def _sentence(row: Row, number: int) -> tuple[str, str, str] | None:
    """Language, number and text of a row in a language that is needed."""
    del number
    language = f"{text(row, 'iso_639_3')}_{text(row, 'iso_15924')}"
    if language not in _NEEDED:
        return None
    if "id" not in row:
        raise BadRow("has no `id`")
    return language, str(row["id"]), text(row, "text")


def _prompt(number: str, target: str, sentences: dict[str, str]) -> Prompt:
    code, language = _TARGETS[target]
    with_latin = any("latin" in scripts_in(sentences[deciding]) for deciding in _DECIDING)
    return Prompt(
        id=f"{code}-{number}",
        prompt=f"Translate this English sentence into {language}:\n\n{sentences[_SOURCE]}",
        chat=True,
        reference=sentences[target],
        language=code,
        expect_scripts=("latin",) if with_latin else (),
        subset="with-latin" if with_latin else "no-latin",
        max_tokens=MAX_TOKENS,
    )
