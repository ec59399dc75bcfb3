"""What is measured of one reply."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from ..benchmarks.prompt import CONFUSABLE
from ..gate.families import text_families
from .answer import Reply, take_apart
from .language_id import base_language, identified_languages, identify, language_family
from .reply_text import choice, count_held, count_marked, holds_latin_word, lines_to_judge, normalize, without_choices
from .translation import segment_statistics, tokenizer

if TYPE_CHECKING:
    from ..benchmarks import Prompt

    Measures = dict[str, "float | None"]


def expected_families(prompt: Prompt) -> frozenset[str] | None:
    """The families whose letters are right in a reply; None if no letter is wrong.

    Those the prompt names, its language's, and those of a requested code-switch. None if the prompt says neither
    language nor scripts, or a language that CLDR does not know.
    """
    if not prompt.language and not prompt.expect_scripts:
        return None
    families = set(prompt.expect_scripts)
    if prompt.language:
        family = language_family(prompt.language)
        if not family:
            return None
        families.add(family)
    if prompt.switch:
        families.add(prompt.switch)
        families |= text_families("".join(string for item in prompt.items for string in item))
    return frozenset(families)


def measure_reply(reply: Reply, prompt: Prompt, *, extras: bool = True) -> Measures:
    """Measure one reply: counts, seconds, 1 for yes and 0 for no; None where one is not defined.

    `line_pass` and `word_pass` follow the Language Confusion Benchmark (Marchisio et al. 2024, section 3): a reply
    passes the line level if each of its lines of five words or more is in the prompt's language, and of the replies
    that do, those in another script than Latin pass the word level if no such line holds a lower-case Latin word of
    four letters or more (the benchmark's are words of an English list). Replies without such a line, and prompts that
    expect a second script (names, code) or whose language cannot be identified, have neither; nor has any without
    `extras`, because identifying languages needs the extra `eval`.
    """
    parts = take_apart(reply)
    text = parts.answer
    return {
        "tokens": len(reply["tokens"]),
        "answer_tokens": parts.is_thought.count(False),
        "seconds": reply["seconds"],
        "empty": float(not text.strip()),
        "truncated": float(reply["finish"] == "length"),
        "interventions": len(reply["events"]),
        "removed_mass": sum(removed[2] for event in reply["events"] for removed in event["removed"]),
        "exact_match": float(normalize(text) == normalize(prompt.reference)) if prompt.reference else None,
        "right_choice": float(choice(text) == prompt.answer) if prompt.answer else None,
        **_confusion(text, parts.pieces, prompt),
        **_thinking(parts.thinking, prompt),
        **_switches(text, prompt),
        **_passes(text, prompt, extras=extras),
    }


def _confusion(text: str, pieces: Sequence[str], prompt: Prompt) -> Measures:
    """Letters of families that the prompt does not expect, and the second script that it allows."""
    measures: Measures = dict.fromkeys(("cj", "latin", "cj_tokens", "latin_tokens", "code_switch"))
    expected = expected_families(prompt)
    if expected is None:
        return measures
    if prompt.answer:
        text, pieces = without_choices(text), [without_choices(piece) for piece in pieces]
    found = text_families(text)
    for family in CONFUSABLE:
        is_wrong = family in found and family not in expected
        measures[family] = float(is_wrong)
        measures[f"{family}_tokens"] = sum(family in text_families(piece) for piece in pieces) if is_wrong else 0
    if prompt.language:
        others = expected.intersection(CONFUSABLE) - {language_family(prompt.language)}
        measures["code_switch"] = float(not found.isdisjoint(others)) if others else None
    return measures


def _thinking(text: str, prompt: Prompt) -> Measures:
    """Letters in the thoughts of families that the prompt does not expect."""
    expected = expected_families(prompt) if text else None
    if expected is None:
        return {"thinking_cj": None, "thinking_latin": None}
    wrong = text_families(text) - expected
    return {"thinking_cj": float("cj" in wrong), "thinking_latin": float("latin" in wrong)}


def _switches(text: str, prompt: Prompt) -> Measures:
    """Requested code-switches, and how many of them are there.

    A completion takes the form of what it completes, so the names must stand marked where the reference has them; a
    chat model may put it otherwise and need only say them. Without items, any letter of the script will do.
    """
    if not prompt.switch:
        return {"switches": None, "switches_kept": None}
    if not prompt.items:
        return {"switches": 1, "switches_kept": float(prompt.switch in text_families(text))}
    is_marked = not prompt.chat and count_marked(prompt.reference, prompt.items, prompt.reference) == len(prompt.items)
    kept = count_marked(text, prompt.items, prompt.reference) if is_marked else count_held(text, prompt.items)
    return {"switches": len(prompt.items), "switches_kept": kept}


def _passes(text: str, prompt: Prompt, *, extras: bool) -> Measures:
    """The two levels of the Language Confusion Benchmark."""
    measures: Measures = {"line_pass": None, "word_pass": None}
    if not (extras and prompt.language):
        return measures
    language = base_language(prompt.language)
    if language not in identified_languages() or len(expected_families(prompt) or ()) > 1:
        return measures
    lines = lines_to_judge(text)
    if lines:
        passes = all(identify(line) == language for line in lines)
        measures["line_pass"] = float(passes)
        if passes and language_family(prompt.language) not in ("latin", ""):
            measures["word_pass"] = float(not any(map(holds_latin_word, lines)))
    return measures


def check_prompts(prompts: Iterable[Prompt]) -> None:
    """Find out before any reply is generated whether the replies can be measured."""
    for prompt in prompts:
        expected_families(prompt)
        if prompt.language:
            identified_languages()
        if prompt.reference:
            segment_statistics("", prompt.reference, tokenizer(prompt.language))


def unknown_languages(prompts: Iterable[Prompt]) -> list[str]:
    """The languages of prompts that CLDR does not know, each once."""
    return sorted({p.language for p in prompts if p.language and not language_family(p.language)})
