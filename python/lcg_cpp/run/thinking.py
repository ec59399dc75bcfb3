"""Where a model thinks before it answers: the marks that its chat template puts around its thoughts."""

from __future__ import annotations

import re
from dataclasses import dataclass

from ..gate.marks import NAMED

# These go on with a header of the answer, see `_FORMATS`.
_WITH_HEADER = ("<|think|>", "<|channel|>analysis", "<|channel|>commentary")
_THOUGHTS = [pair for pair in NAMED["thinking"][0] if pair[0] not in _WITH_HEADER]
_BEGIN = "|".join(re.escape(begin) for begin, _ in _THOUGHTS)
_END = re.compile("|".join(re.escape(end) for _, end in _THOUGHTS))
_FINAL = r"(?:<\|start\|>assistant)?<\|channel\|>final[^<]*(?:<\|constrain\|>[^<]*)?<\|message\|>"
_FORMATS = (
    (re.compile(rf"\s*(?:{_BEGIN})"), _END),
    (re.compile(r"\s*<\|think\|>"), re.compile(r"<\|end\|>(?:<\|begin\|>assistant)?(?:<\|content\|>)?")),
    # channels: all of them are thoughts but the final one
    (re.compile(rf"\s*{_FINAL}"), re.compile("")),
    (
        re.compile(r"\s*(?:<\|start\|>assistant)?<\|channel\|>[^<]*(?:<\|message\|>|\Z)"),
        re.compile(rf"(?:<\|end\|>)?{_FINAL}"),
    ),
)
_OPEN_PROMPT = re.compile(rf"(?:{_BEGIN}|<\|think\|>)\s*\Z")


def begins_thinking(prompt: str) -> bool:
    """Whether a prompt ends in the mark that begins a thought, so that the reply continues it."""
    return _OPEN_PROMPT.search(prompt) is not None


@dataclass(frozen=True)
class Thought:
    """A thought within a text; positions of characters."""

    begin: int  # of its first mark
    words: int  # the first behind that mark
    words_end: int  # the first behind its words
    end: int  # the first behind its last mark, where the answer begins


def find_thinking(text: str, *, begun: bool = False) -> list[Thought]:
    """Find the thoughts of a reply, whose control tokens are written out; `begun` is one that the prompt has begun.

    Thoughts come before the answer: marks behind its first word are part of it. A thought that never ends takes all
    that follows. Where only the mark that ends a thought is there, everything before it is one.
    """
    found: list[Thought] = []
    at = 0
    if begun or (_END.search(text) and not re.search(_BEGIN, text)):
        found.append(_thought(text, 0, 0, _END.search(text) or _FORMATS[1][1].search(text)))
        at = found[-1].end
    while at < len(text):
        matches = ((pattern.match(text, at), end) for pattern, end in _FORMATS)
        begin, end = next(((match, end) for match, end in matches if match), (None, _END))
        if begin is None:
            break
        found.append(_thought(text, at, begin.end(), end.search(text, begin.end())))
        at = found[-1].end
    return found


def _thought(text: str, begin: int, words: int, end: re.Match[str] | None) -> Thought:
    return Thought(begin, words, *(end.span() if end else (len(text), len(text))))
