"""What a page and a summary know of a reply: its text by tokens, and the gate's interventions. See `evaluate`."""

from __future__ import annotations

import codecs
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from ..engine.base_model import CONTROL, UNKNOWN, Vocab
from ..gate.results import GateEvent

DIGITS = 6  # of probabilities and seconds
_MAX_CANDIDATES = 10


def visible_bytes(vocab: Vocab) -> list[bytes]:
    """What each token adds to the text of a reply: nothing if it is a control token."""
    hidden = (vocab.types & np.uint32(CONTROL | UNKNOWN) != 0).tolist()
    return [b"" if is_hidden else token for token, is_hidden in zip(vocab.tokens, hidden)]


class ReplyText:
    """The text of a reply that grows by one token after the other.

    Attributes:
        tokens: Their ids.
    """

    def __init__(self, visible: Sequence[bytes], stop: Sequence[str] = ()) -> None:
        """Begin a reply.

        Args:
            visible: As of `visible_bytes`.
            stop: Texts that end it.
        """
        self.tokens: list[int] = []
        self._pieces: list[str] = []
        self._visible, self._stop = visible, stop
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._recent = ""  # enough to find a text that ends the reply
        self._longest = max(map(len, stop), default=0)

    def add(self, token: int) -> bool:
        """Add a token.

        Returns:
            Whether one of the texts that end the reply is complete now.
        """
        self.tokens.append(token)
        piece = self._decoder.decode(self._visible[token])
        self._pieces.append(piece)
        if not self._stop:
            return False
        self._recent = self._recent[-self._longest :] + piece
        return any(text in self._recent for text in self._stop)

    def finish(self) -> list[str]:
        """End the reply.

        Returns:
            The text that each token completes, nothing from the first text that ends the reply on; U+FFFD for what
            stays incomplete.
        """
        if self._pieces:
            self._pieces[-1] += self._decoder.decode(b"", final=True)
        text = "".join(self._pieces)
        left = min((text.index(stop) for stop in self._stop if stop in text), default=len(text))
        pieces = []
        for piece in self._pieces:
            pieces.append(piece[:left])
            left -= len(pieces[-1])
        return pieces


def event_record(event: GateEvent, families: npt.NDArray[np.uint8], texts: Sequence[bytes]) -> dict[str, Any]:
    """An intervention as in replies.jsonl.

    Args:
        event: The intervention.
        families: uint8 (n_vocab,), of each token.
        texts: Bytes of each token, control tokens too; what is no complete character becomes escapes.
    """

    def text(token: int) -> str:
        return texts[token].decode("utf-8", "backslashreplace")

    def listed(tokens: Sequence[tuple[int, float]]) -> list[list[Any]]:
        return [[text(token), int(families[token]), round(p, DIGITS)] for token, p in tokens]

    return {
        "position": event.position,
        "last": event.last,
        "predicted": event.predicted,
        "allowed": event.allowed,
        "banned": event.banned,
        "z": [round(z, 3) for z in event.z],
        "removed": listed(event.removed),
        "candidates": listed(event.left[:_MAX_CANDIDATES]),
        "chosen": text(event.chosen),
    }
