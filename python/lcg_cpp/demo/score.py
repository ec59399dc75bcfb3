"""What is right and wrong in a reply of the demo model. Pure functions of texts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ..gate.families import text_families
from ..measure.reply_text import count_marked, normalize
from . import DemoPrompt

_SWITCH_SCRIPTS = {None: frozenset[str](), "english": frozenset({"latin"}), "chinese": frozenset({"cj"})}
_TARGET_SCRIPTS = {"English": "latin", "Spanish": "latin", "French": "latin", "Chinese": "cj", "Japanese": "cj"}


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


def wrong_scripts(reply: str, language: str, switch: str | None) -> frozenset[str]:
    """Families of letters in a reply that are neither the target language's nor the requested switch's.

    Args:
        reply: The whole reply.
        language: The target language, by its English name.
        switch: `english`, `chinese` or None.
    """
    allowed = {_TARGET_SCRIPTS.get(language, "lowres")} | _SWITCH_SCRIPTS[switch]
    return frozenset(text_families(reply) - allowed)


def score_reply(prompt: DemoPrompt, reply: str) -> Score:
    """Scores one reply.

    Args:
        prompt: What was asked.
        reply: The whole reply, as generated.
    """
    return Score(
        wrong=wrong_scripts(reply, prompt.language, prompt.switch),
        n_switches=len(prompt.items) if prompt.switch else 0,
        n_kept=count_marked(reply, prompt.items, prompt.reference) if prompt.switch else 0,
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
