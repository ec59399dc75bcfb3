"""What of a reply is its answer, and what it thought before."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

Reply = Mapping[str, Any]  # one object of replies.jsonl


@dataclass(frozen=True)
class Parts:
    """A reply, taken apart."""

    answer: str  # the text of its answer
    pieces: list[str]  # of each token what it adds to the answer
    thinking: str  # the words of its thoughts; empty: it has none
    is_thought: list[bool]  # of each token whether it belongs to a thought alone


def take_apart(reply: Reply) -> Parts:
    """Tell the answer of a reply in replies.jsonl from its thoughts; its `thinking` holds a `Thought` each."""
    pieces: list[str] = list(reply["pieces"])
    thoughts = reply.get("thinking", ())
    if not thoughts:
        return Parts(reply["reply"], pieces, "", [False] * len(pieces))
    text: str = reply["reply"]
    is_thought = [False] * len(text)
    for begin, _, _, end in thoughts:
        is_thought[begin:end] = [True] * (end - begin)
    ends = list(accumulate(map(len, pieces)))
    spans = list(zip([0, *ends], ends))
    answers = ["".join(text[i] for i in range(a, b) if not is_thought[i]) for a, b in spans]
    alone = [all(is_thought[a:b]) if a < b else a < len(text) and is_thought[a] for a, b in spans]
    return Parts("".join(answers), answers, "\n".join(text[words:end] for _, words, end, _ in thoughts), alone)
