"""What is measured of one reply."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from ..gate.families import text_families
from ..gate.scripts import RULE_SET, SIBLINGS, families_named
from .answer import Reply, take_apart
from .language_id import base_language, identified_languages, identify, language_script
from .reply_text import choice, count_held, count_marked, holds_latin_word, lines_to_judge, normalize
from .translation import segment_statistics, tokenizer
from .unwanted import KINDS, expected, is_in_another_script, letters_by_kind, pieces_with, unwanted

if TYPE_CHECKING:
    from ..benchmarks import Prompt

    Measures = dict[str, "float | None"]


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
    """Unwanted letters, of any script and of each, and the second script that the prompt allows."""
    counted = ("unwanted", "cj", "latin")
    stretches, right = unwanted(text, prompt), expected(prompt)
    if stretches is None or right is None:
        others = ("wrong_script", "slips", "code_switch")
        return dict.fromkeys([*counted, *(f"{name}_tokens" for name in counted), *map(measure_of, KINDS), *others])
    kinds = {kind for _, _, kind in stretches}
    measures: Measures = {measure_of(kind): float(kind in kinds) for kind in KINDS}
    for name, wrong in zip(counted, (kinds, _cj(right.own) & kinds, {"latin"} & kinds)):
        measures[name] = float(bool(wrong))
        measures[f"{name}_tokens"] = len(pieces_with(pieces, [one for one in stretches if one[2] in wrong]))
    is_other = is_in_another_script(text, stretches, prompt)
    measures["wrong_script"], measures["slips"] = float(is_other), float(bool(kinds) and not is_other)
    found = text_families(text, RULE_SET.families)
    measures["code_switch"] = float(not found.isdisjoint(right.others)) if right.others else None
    return measures


def unwanted_letters(reply: Reply, prompt: Prompt) -> dict[str, int] | None:
    """How many letters of each kind are unwanted in a reply's answer; None if none can be wrong."""
    stretches = unwanted(take_apart(reply).answer, prompt)
    return None if stretches is None else letters_by_kind(stretches)


def measure_of(kind: str) -> str:
    """The name of the measure of unwanted letters of a kind."""
    return f"unwanted_{kind}"


def _cj(own: frozenset[str]) -> frozenset[str]:
    """The kinds that the paper counts as `cj`, which is never wrong in a Chinese or Japanese reply."""
    return frozenset() if own & SIBLINGS else frozenset(("han", "kana"))


def _thinking(text: str, prompt: Prompt) -> Measures:
    """Unwanted letters in the thoughts."""
    stretches, right = (unwanted(text, prompt), expected(prompt)) if text else (None, None)
    if stretches is None or right is None:
        return dict.fromkeys(("thinking_unwanted", "thinking_cj", "thinking_latin"))
    kinds = {kind for _, _, kind in stretches}
    return {
        "thinking_unwanted": float(bool(kinds)),
        "thinking_cj": float(bool(kinds & _cj(right.own))),
        "thinking_latin": float("latin" in kinds),
    }


def _switches(text: str, prompt: Prompt) -> Measures:
    """Requested code-switches, and how many of them are there.

    A completion takes the form of what it completes, so the names must stand marked where the reference has them; a
    chat model may put it otherwise and need only say them. Without items, any letter of the script will do.
    """
    if not prompt.switch:
        return {"switches": None, "switches_kept": None}
    if not prompt.items:
        is_there = not text_families(text, RULE_SET.families).isdisjoint(families_named((prompt.switch,)))
        return {"switches": 1, "switches_kept": float(is_there)}
    is_marked = not prompt.chat and count_marked(prompt.reference, prompt.items, prompt.reference) == len(prompt.items)
    kept = count_marked(text, prompt.items, prompt.reference) if is_marked else count_held(text, prompt.items)
    return {"switches": len(prompt.items), "switches_kept": kept}


def _passes(text: str, prompt: Prompt, *, extras: bool) -> Measures:
    """The two levels of the Language Confusion Benchmark."""
    measures: Measures = {"line_pass": None, "word_pass": None}
    if not (extras and prompt.language):
        return measures
    language = base_language(prompt.language)
    right = expected(prompt)
    if language not in identified_languages() or (right is not None and right.others):
        return measures
    lines = lines_to_judge(text)
    if lines:
        passes = all(identify(line) == language for line in lines)
        measures["line_pass"] = float(passes)
        if passes and language_script(prompt.language) not in ("Latn", ""):
            measures["word_pass"] = float(not any(map(holds_latin_word, lines)))
    return measures


def check_prompts(prompts: Iterable[Prompt]) -> None:
    """Find out before any reply is generated whether the replies can be measured."""
    for prompt in prompts:
        expected(prompt)
        if prompt.language:
            identified_languages()
        if prompt.reference:
            segment_statistics("", prompt.reference, tokenizer(prompt.language))


def unknown_languages(prompts: Iterable[Prompt]) -> list[str]:
    """The languages of prompts that CLDR does not know, each once."""
    return sorted({p.language for p in prompts if p.language and not language_script(p.language)})
