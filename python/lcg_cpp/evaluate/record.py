"""What a page and a summary know of a reply: its text by tokens, and the gate's interventions. See `evaluate`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import astuple
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from ..engine.base_model import Vocab
from ..gate.results import GateEvent
from ..run.reply import Reply

if TYPE_CHECKING:
    from ..benchmarks import Prompt

DIGITS = 6  # of probabilities and seconds
_MAX_CANDIDATES = 10


def prompt_record(prompt: Prompt, method: str, seed: int) -> dict[str, Any]:
    """The fields of a reply in replies.jsonl that say which one it is."""
    return {
        "method": method,
        "seed": seed,
        "id": prompt.id,
        "prompt": prompt.prompt,
        "language": prompt.language,
        "subset": prompt.subset,
        "reference": prompt.reference,
    }


def reply_record(reply: Reply, families: npt.NDArray[np.uint8], vocab: Vocab) -> dict[str, Any]:
    """The fields of a reply in replies.jsonl that generation gives; `families` is uint8 (n_vocab,)."""
    pieces = reply.pieces
    return {
        "reply": "".join(pieces),
        "thinking": [astuple(thought) for thought in reply.thinking],
        "tokens": reply.tokens,
        "pieces": pieces,
        "families": families[reply.tokens].tolist(),
        "n_prompt": len(reply.prompt.tokens),
        "finish": reply.finish,
        "seconds": round(reply.prompt_seconds + reply.seconds, DIGITS),
        "events": [_event_record(event, families, vocab) for event in reply.events],
    }


def _event_record(event: GateEvent, families: npt.NDArray[np.uint8], vocab: Vocab) -> dict[str, Any]:
    """An intervention; of the tokens it names the text, control tokens too."""

    def listed(tokens: Sequence[tuple[int, float]]) -> list[list[Any]]:
        return [[vocab.text(token), int(families[token]), round(p, DIGITS)] for token, p in tokens]

    return {
        "position": event.position,
        "last": event.last,
        "predicted": event.predicted,
        "allowed": event.allowed,
        "banned": event.banned,
        "z": [round(z, 3) for z in event.z],
        "removed": listed(event.removed),
        "candidates": listed(event.left[:_MAX_CANDIDATES]),
        "chosen": vocab.text(event.chosen),
    }
