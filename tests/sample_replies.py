"""Prompts and replies as the metrics take them."""

from __future__ import annotations

from lcg_cpp.benchmarks import Prompt


def make_prompt(**values):
    return Prompt(**{"id": "p", "prompt": "?", "chat": True, "language": "ar", **values})


def make_reply(pieces, **values):
    """A reply, one token for each piece."""
    pieces = pieces if isinstance(pieces, list) else [pieces]
    return {
        "method": "none",
        "seed": 0,
        "id": "p",
        "reply": "".join(pieces),
        "pieces": pieces,
        "tokens": list(range(len(pieces))),
        "finish": "stop",
        "seconds": 0.5,
        "events": [],
        **values,
    }


def event(*removed):
    """An intervention that removed tokens of these probabilities."""
    return {"removed": [["x", "latin", p] for p in removed]}
