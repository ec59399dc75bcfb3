"""What is right and wrong in a reply of the demo model. Pure functions of texts."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass

from ..families import text_scripts
from . import DemoPrompt

_SWITCH_SCRIPTS = {None: frozenset[str](), "english": frozenset({"latin"}), "chinese": frozenset({"cj"})}
_TARGET_SCRIPTS = {"English": "latin", "Spanish": "latin", "French": "latin", "Chinese": "cj", "Japanese": "cj"}
# what stands in brackets or quotation marks, nothing of the kind within
_MARKED = re.compile("[(“„«「] ?([^()“”„«»「」]+?) ?[)”“»」]")


@dataclass(frozen=True)
class Score:
    """What one reply got right and wrong.

    Attributes:
        wrong: Families of letters in the reply that the prompt did not ask for.
        n_switches: How many English or Chinese names the prompt asks for, in brackets or quoted.
        n_kept: How many of them are there: right name, right place.
        is_exact: The reply is the reference.
    """

    wrong: frozenset[str]
    n_switches: int
    n_kept: int
    is_exact: bool


@dataclass(frozen=True)
class Summary:
    """Shares over many replies, in percent.

    Attributes:
        cj_percent: Replies with at least one Chinese or Japanese letter that was not asked for.
        latin_percent: Replies with at least one Latin letter that was not asked for.
        switches_kept_percent: Requested English or Chinese names that are there.
        exact_match_percent: Replies that are the reference.
    """

    cj_percent: float
    latin_percent: float
    switches_kept_percent: float
    exact_match_percent: float


def normalize(text: str) -> str:
    """NFC, with every run of white space as one space and none at the ends."""
    return " ".join(unicodedata.normalize("NFC", text).split())


def wrong_scripts(reply: str, language: str, switch: str | None) -> frozenset[str]:
    """Families of letters in a reply that are neither the target language's nor the requested switch's.

    Args:
        reply: The whole reply.
        language: The target language, by its English name.
        switch: `english`, `chinese` or None.
    """
    allowed = {_TARGET_SCRIPTS.get(language, "lowres")} | _SWITCH_SCRIPTS[switch]
    return frozenset(text_scripts(reply) - allowed)


def switches_kept(reply: str, items: Sequence[Sequence[str]]) -> int:
    """Counts the requested names of a list that stand in brackets at the end of their own item.

    Args:
        reply: The whole reply.
        items: For each term its name in the target language and the name wanted in brackets.
    """
    found = normalize(reply).split(", ")
    return sum(got.endswith(f"({normalize(item[1])})") for got, item in zip(found, items))


def names_kept(reply: str, items: Sequence[Sequence[str]]) -> int:
    """Counts the names in brackets or quotation marks of a paragraph that are there, in the right order.

    Args:
        reply: The whole reply.
        items: As for `switches_kept`, in the order of the right reply.
    """
    kept = [0] * (len(items) + 1)  # of the first n items, in the text so far: a longest common subsequence
    for found in _MARKED.findall(normalize(reply)):
        before = kept.copy()
        for n, item in enumerate(items, 1):
            kept[n] = before[n - 1] + 1 if found == normalize(item[1]) else max(kept[n - 1], before[n])
    return kept[-1]


def _count_kept(prompt: DemoPrompt, reply: str) -> int:
    """Counts by place where the right reply is a list, by order where it is a paragraph."""
    is_list = switches_kept(prompt.reference, prompt.items) == len(prompt.items)
    return (switches_kept if is_list else names_kept)(reply, prompt.items)


def score_reply(prompt: DemoPrompt, reply: str) -> Score:
    """Scores one reply.

    Args:
        prompt: What was asked.
        reply: The whole reply, as generated.
    """
    return Score(
        wrong=wrong_scripts(reply, prompt.language, prompt.switch),
        n_switches=len(prompt.items) if prompt.switch else 0,
        n_kept=_count_kept(prompt, reply) if prompt.switch else 0,
        is_exact=normalize(reply) == normalize(prompt.reference),
    )


def summarize(scores: Sequence[Score]) -> Summary:
    """Shares over replies; over the requested switches for `switches_kept_percent` (100 where none was requested).

    Args:
        scores: At least one.
    """
    n_switches = sum(score.n_switches for score in scores)
    n_kept = sum(score.n_kept for score in scores)
    return Summary(
        cj_percent=_percent(sum("cj" in score.wrong for score in scores), len(scores)),
        latin_percent=_percent(sum("latin" in score.wrong for score in scores), len(scores)),
        switches_kept_percent=_percent(n_kept, n_switches) if n_switches else 100.0,
        exact_match_percent=_percent(sum(score.is_exact for score in scores), len(scores)),
    )


def _percent(part: int, whole: int) -> float:
    return round(100.0 * part / whole, 2)
