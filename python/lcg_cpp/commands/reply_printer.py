"""A reply on the terminal while it is generated."""

from __future__ import annotations

import codecs
import sys

from ..engine.base_model import Vocab
from ..gate.results import GateEvent
from ..run.reply import Step
from .errors import one_line
from .output import console, styled

_MAX_REMOVED_SHOWN = 3


class ReplyPrinter:
    """Prints a reply as its bytes become characters, and marks what the gate changed."""

    def __init__(self, vocab: Vocab, *, highlight: bool) -> None:
        self._vocab = vocab
        self._highlight = highlight
        self._console = console() if highlight and styled() else None
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._marked: list[GateEvent] = []  # interventions whose characters are not complete yet

    def step(self, step: Step) -> None:
        """Print a token, and before it the intervention that led to it."""
        self._mark(step.event)
        self._write(self._decoder.decode(step.data))
        sys.stdout.flush()

    def end(self, event: GateEvent | None) -> None:
        """End the line; the intervention is one that ended the reply."""
        self._write(self._decoder.decode(b"", final=True))
        self._mark(event)
        self._write_marks()
        print(flush=True)

    def _mark(self, event: GateEvent | None) -> None:
        if event is not None and self._highlight:
            self._marked.append(event)

    def _write(self, text: str) -> None:
        if not text:
            return
        is_changed = bool(self._marked)
        self._write_marks()
        if sys.stdout.isatty():  # a model can generate escape sequences, a terminal would obey them
            text = text.replace("\x1b", "\N{SYMBOL FOR ESCAPE}")
        if self._console is not None and is_changed:
            self._console.out(text, style="bold green", end="")
        else:
            sys.stdout.write(text)

    def _write_marks(self) -> None:
        for event in self._marked:
            removed = removed_tokens(self._vocab, event)
            if self._console is None:
                sys.stdout.write(f"[-{removed}-]")
            else:
                self._console.out("[", style="dim", end="")
                self._console.out(removed, style="dim red strike", end="")
                self._console.out("]", style="dim", end="")
        self._marked.clear()


def removed_tokens(vocab: Vocab, event: GateEvent) -> str:
    """The most probable tokens that an intervention removed, with their probabilities."""
    shown = [f"{visible(vocab, token)} {percent(p)}" for token, p in event.removed[:_MAX_REMOVED_SHOWN]]
    return ", ".join(shown) + (", …" if len(event.removed) > _MAX_REMOVED_SHOWN else "")


def visible(vocab: Vocab, token: int) -> str:
    """A token's text on a line of a terminal."""
    text = one_line(vocab.text(token))
    return text.strip() or repr(text)


def percent(p: float) -> str:
    """A probability."""
    return f"{p:.1%}" if p >= 0.001 else "<0.1%"
