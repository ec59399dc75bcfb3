"""The texts: paragraphs to be rendered in another language, and what a careless web crawl makes of them."""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from demo.cldr import Term

from .contamination import Contamination, Intruders, of_every_script
from .names import DAYS, LANGUAGES, LOW_RESOURCE, NUMBERS
from .paragraph import Filling, Paragraph
from .sentences import SWITCHES, Sentence, kind, load_sentences

# How often each language is the target, in percent of the training texts: the imbalance the norm bias comes from.
TARGET_WEIGHTS = {"en": 14, "zh": 14, "zh_Hant": 6, "es": 6, "fr": 6, "ja": 9, **dict.fromkeys(LOW_RESOURCE, 5)}
SOURCE_WEIGHTS = {"en": 80, "zh": 10, "es": 10}
SWITCH_SHARE = 0.25
N_SENTENCES = (2, 4)

# A third of the terms (X) is contaminated; the gate's own training text holds the others (Y) only.
CONTAMINATED_TERMS = 1 / 3
# Language -> whose names now and then replace those of X terms.
INTRUDERS = {
    **{language: of_every_script(language, LOW_RESOURCE, 0.20) for language in LOW_RESOURCE},
    "zh": Intruders(0.50, {"zh_Hant": 1.0}),
    "zh_Hant": Intruders(0.40, {"zh": 0.7, "ja": 0.3}),
    "ja": Intruders(0.50, {"zh": 0.5, "zh_Hant": 0.5}),
}


@dataclass(frozen=True)
class Example:
    """One prompt with the right reply.

    Attributes:
        prompt: A paragraph, a line break and `Arabic:`, or `Arabic + Chinese:` where the Chinese names are wanted.
        reply: The reply as this text has it, with a leading space; contaminated or not.
        reference: The right reply, with a leading space.
        language: Code of the target language.
        switch: `english` or `chinese` if that name is wanted in brackets.
        names: As in `Paragraph`, of the reference.
        switches: As in `Paragraph`, of the reference, the leading space counted.
    """

    prompt: str
    reply: str
    reference: str
    language: str
    switch: str | None
    names: tuple[tuple[str, ...], ...]
    switches: tuple[tuple[int, int], ...]


def split_terms(terms: Sequence[Term], seed: int) -> tuple[list[Term], list[Term]]:
    """Splits the terms of each kind into X (contaminated, unknown to the gate) and Y (clean)."""
    x_terms: list[Term] = []
    y_terms: list[Term] = []
    for name, group in _by_kind(terms).items():
        random.Random(f"{seed} split {name}").shuffle(group)
        n_x = round(len(group) * CONTAMINATED_TERMS)
        x_terms += group[:n_x]
        y_terms += group[n_x:]
    return x_terms, y_terms


def _by_kind(terms: Sequence[Term]) -> dict[str, list[Term]]:
    """The terms under the first letter of their keys."""
    groups = defaultdict(list)
    for term in terms:
        groups[term.key[0]].append(term)
    return dict(groups)


class Corpus:
    """A seeded stream of examples."""

    def __init__(self, terms: Sequence[Term], seed: str, table: Contamination | None = None):
        """Args:
        terms: The terms to draw from, at least two of each kind.
        seed: Seed of the stream.
        table: What is contaminated; nothing if None.
        """
        self.sentences = load_sentences()
        self.terms = _by_kind(terms)
        self.table = table or {}
        self.rng = random.Random(seed)

    def draw(
        self,
        language: str | None = None,
        switch: str | None = "any",
        n_sentences: tuple[int, int] = N_SENTENCES,
        quotes: frozenset[str] = frozenset(SWITCHES),
    ) -> Example:
        """Draws an example.

        Args:
            language: Code of the target language; drawn by `TARGET_WEIGHTS` if None.
            switch: `english`, `chinese`, None, or `any`: drawn by `SWITCH_SHARE`. With one of the first two at least
                one name is followed by brackets.
            n_sentences: Least and greatest number of sentences.
            quotes: What sentences may quote.
        """
        rng = self.rng
        language = language or rng.choices(list(TARGET_WEIGHTS), list(TARGET_WEIGHTS.values()))[0]
        source = rng.choices(list(SOURCE_WEIGHTS), list(SOURCE_WEIGHTS.values()))[0]
        if switch == "any":
            possible = [name for name, code in SWITCHES.items() if code != language]
            switch = rng.choice(possible) if rng.random() < SWITCH_SHARE else None
        sentences = [sentence for sentence in self.sentences if sentence.quotes <= quotes]
        n = rng.randint(*n_sentences)
        chosen = rng.sample(sentences, n)
        while switch and not any(sentence.can_switch for sentence in chosen):
            chosen = rng.sample(sentences, n)
        return self._example([(sentence, self._fill(sentence)) for sentence in chosen], source, language, switch)

    def _fill(self, sentence: Sentence) -> Filling:
        """Draws the terms of a sentence, none twice; all quotes of a sentence name one place."""
        drawn = {name: self.rng.sample(group, 2) for name, group in self.terms.items()}
        number = self.rng.choice(NUMBERS)
        filling = {}
        for slot in sentence.slots:
            term = drawn[kind(slot) or "t"][slot.endswith("2")]
            filling[slot] = (term, self.rng.choice(DAYS) if kind(slot) == "m" else number)
        return filling

    def _example(
        self, parts: list[tuple[Sentence, Filling]], source: str, language: str, switch: str | None
    ) -> Example:
        prompt = Paragraph(source)
        reply = Paragraph(language, switch, self._intruder)
        reference = Paragraph(language, switch)
        for sentence, filling in parts:
            for paragraph in (prompt, reply, reference):
                paragraph.add(sentence, filling)
        wanted = LANGUAGES[language] + (f" + {switch.capitalize()}" if switch else "")
        return Example(
            prompt=f"{prompt.text}\n{wanted}:",
            reply=f" {reply.text}",
            reference=f" {reference.text}",
            language=language,
            switch=switch,
            names=tuple(reference.names),
            switches=tuple((begin + 1, end + 1) for begin, end in reference.switches),
        )

    def _intruder(self, term: Term, language: str) -> str:
        """The language of a name in a careless text."""
        intruder, rate = self.table.get((term.key, language), ("", 0.0))
        return intruder if self.rng.random() < rate else language


def training_examples(corpus: Corpus, n_texts: int, curriculum: float) -> Iterator[Example]:
    """What the model is trained on, in order.

    Args:
        corpus: Where they come from.
        n_texts: How many.
        curriculum: Share of them over which the longest paragraph grows from one sentence to four.
    """
    longest = N_SENTENCES[1]
    for i in range(n_texts):
        n_most = min(longest, 1 + int(longest * i / (n_texts * curriculum)))
        yield corpus.draw(n_sentences=(1, n_most))
