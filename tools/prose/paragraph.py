"""A paragraph under construction, in one language."""

from __future__ import annotations

from collections.abc import Callable

from demo.cldr import Term

from .names import HAN
from .sentences import SWITCHES, Sentence, has_brackets, kind, parse

# slot -> (term, number); a place where only a number stands has a term too, which is not used
Filling = dict[str, tuple[Term, int]]

_WITHOUT_SPACE = frozenset(HAN)


class Paragraph:
    """A paragraph.

    Attributes:
        text: The text so far.
        names: For each name in it, in its order, that name in the paragraph's language, and behind it the English or
            Chinese name if one stands in brackets or in the name's place.
        switches: Where those English and Chinese names stand: first character, and the one behind the last.
    """

    def __init__(self, language: str, switch: str | None = None, choose: Callable[[Term, str], str] | None = None):
        """Args:
        language: Code of the language.
        switch: `english` or `chinese` if that name stands in brackets behind each name.
        choose: Which language a name is written in, from its term and the paragraph's language; the latter if None.
        """
        self.language = language
        self.switch = switch
        self.text = ""
        self.names: list[tuple[str, ...]] = []
        self.switches: list[tuple[int, int]] = []
        self._choose = choose or (lambda term, language: language)

    def add(self, sentence: Sentence, filling: Filling) -> None:
        """Appends a sentence."""
        if self.text and self.language not in _WITHOUT_SPACE:
            self.text += " "
        for literal, slot in parse(sentence.texts[self.language]):
            self.text += literal
            if slot:
                self._add_slot(slot, *filling[slot])

    def _add_slot(self, slot: str, term: Term, number: int) -> None:
        own = term.names[self.language].replace("{n}", str(number))
        if not kind(slot):
            self.text += str(number)
        elif slot in SWITCHES:
            self._add_switch(own, term.names[SWITCHES[slot]])
        else:
            self.text += term.names[self._choose(term, self.language)].replace("{n}", str(number))
            if self.switch and has_brackets(slot):
                self.text += " ("
                self._add_switch(own, term.names[SWITCHES[self.switch]])
                self.text += ")"
            else:
                self.names.append((own,))

    def _add_switch(self, own: str, name: str) -> None:
        self.switches.append((len(self.text), len(self.text) + len(name)))
        self.names.append((own, name))
        self.text += name
