"""The demo's texts: lists of terms to be named in another language, and what a careless web crawl makes of them."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from .cldr import LANGUAGES, LOW_RESOURCE, Term, load_terms
from .jsonl import write_rows

# (term key, language) -> (language that intrudes, how often)
Contamination = dict[tuple[str, str], tuple[str, float]]

# How often each language is the target, in percent of the training texts: the imbalance the norm bias comes from.
TARGET_WEIGHTS = {"en": 16, "zh": 16, "es": 8, "fr": 7, "ja": 7, **dict.fromkeys(LOW_RESOURCE, 6.5)}
SOURCE_WEIGHTS = {"en": 80, "zh": 10, "es": 10}
SWITCHES = {"english": "en", "chinese": "zh"}
SWITCH_SHARE = 0.25
N_ITEMS = (4, 6)
N_GATE_TEXTS = 8000

# A third of the terms (X) is contaminated; the gate's own training text holds the others (Y) only.
CONTAMINATED_TERMS = 1 / 3
# Of an X term's names in a low-resource language, this many are now and then replaced by the Chinese or the English
# name, each at a rate of its own.
CONTAMINATED_NAMES = 0.30
CONTAMINATION_RATE = (0.25, 0.55)


@dataclass(frozen=True)
class Example:
    """One prompt with the right reply.

    Attributes:
        prompt: `Germany, Monday⏎Arabic:`, or `… Arabic + Chinese:` where the Chinese name is wanted in brackets.
        reply: The reply as this text has it, with a leading space; contaminated or not.
        reference: The right reply.
        language: Code of the target language.
        switch: `english` or `chinese` if that name is wanted in brackets.
        terms: What is listed.
    """

    prompt: str
    reply: str
    reference: str
    language: str
    switch: str | None
    terms: tuple[Term, ...]

    @property
    def items(self) -> tuple[tuple[str, ...], ...]:
        """For each term its name in the target language and, with a switch, the name wanted in brackets."""
        codes = (self.language, SWITCHES[self.switch]) if self.switch else (self.language,)
        return tuple(tuple(term.names[code] for code in codes) for term in self.terms)


def split_terms(terms: list[Term], seed: int) -> tuple[list[Term], list[Term]]:
    """Splits the terms into X (contaminated, unknown to the gate) and Y (clean)."""
    shuffled = terms.copy()
    random.Random(f"{seed} split").shuffle(shuffled)
    n_x = round(len(terms) * CONTAMINATED_TERMS)
    return shuffled[:n_x], shuffled[n_x:]


def contamination(x_terms: list[Term], seed: int) -> Contamination:
    """Draws which names are contaminated, by what, and how often."""
    rng = random.Random(f"{seed} contamination")
    table = {}
    for term in x_terms:
        for language in LOW_RESOURCE:
            if rng.random() < CONTAMINATED_NAMES:
                table[term.key, language] = (rng.choice(["zh", "en"]), rng.uniform(*CONTAMINATION_RATE))
    return table


class Corpus:
    """A seeded stream of examples."""

    def __init__(self, terms: list[Term], seed: str, table: Contamination | None = None):
        """Args:
        terms: The terms to draw from.
        seed: Seed of the stream.
        table: What is contaminated; nothing if None.
        """
        self.terms = terms
        self.table = table or {}
        self.rng = random.Random(seed)

    def draw(
        self, language: str | None = None, switch: str | None = "any", n_items: tuple[int, int] = N_ITEMS
    ) -> Example:
        """Draws an example.

        Args:
            language: Code of the target language; drawn by `TARGET_WEIGHTS` if None.
            switch: `english`, `chinese`, None, or `any`: drawn by `SWITCH_SHARE`.
            n_items: Least and greatest number of terms.
        """
        rng = self.rng
        language = language or rng.choices(list(TARGET_WEIGHTS), list(TARGET_WEIGHTS.values()))[0]
        source = rng.choices(list(SOURCE_WEIGHTS), list(SOURCE_WEIGHTS.values()))[0]
        if switch == "any":
            possible = [name for name, code in SWITCHES.items() if code != language]
            switch = rng.choice(possible) if rng.random() < SWITCH_SHARE else None
        terms = tuple(rng.sample(self.terms, rng.randint(*n_items)))
        wanted = LANGUAGES[language] + (f" + {switch.capitalize()}" if switch else "")
        prompt = ", ".join(term.names[source] for term in terms) + f"\n{wanted}:"
        reply = [_item(self._name(term, language), term, switch) for term in terms]
        reference = [_item(term.names[language], term, switch) for term in terms]
        return Example(prompt, " " + ", ".join(reply), ", ".join(reference), language, switch, terms)

    def _name(self, term: Term, language: str) -> str:
        intruder, rate = self.table.get((term.key, language), ("", 0.0))
        return term.names[intruder if self.rng.random() < rate else language]


def _item(name: str, term: Term, switch: str | None) -> str:
    return f"{name} ({term.names[SWITCHES[switch]]})" if switch else name


def training_examples(corpus: Corpus, n_texts: int, curriculum: float) -> Iterator[Example]:
    """What the model is trained on, in order.

    Args:
        corpus: Where they come from.
        n_texts: How many.
        curriculum: Share of them over which the longest list grows from one item to six.
    """
    longest = N_ITEMS[1]
    for i in range(n_texts):
        n_most = min(longest, 1 + int(longest * i / (n_texts * curriculum)))
        yield corpus.draw(n_items=(1, n_most))


def evaluation_examples(x_terms: list[Term], n: int, seed: str) -> list[Example]:
    """Draws prompts to evaluate on: X terms, low-resource targets in turn, every fourth with a switch."""
    corpus = Corpus(x_terms, seed)
    examples = []
    for i in range(n):
        language = LOW_RESOURCE[i % len(LOW_RESOURCE)]
        switch = (None, None, None, "chinese", None, None, None, "english")[i // len(LOW_RESOURCE) % 8]
        examples.append(corpus.draw(language, switch))
    return examples


def write_gate_texts(path: Path, seed: int = 0, n_texts: int = N_GATE_TEXTS) -> None:
    """Writes the texts that gates are trained on, Y terms only: one `{"prompt", "response"}` a line.

    A response starts with the space that follows the prompt's colon, so that both parts give the training's tokens.

    Args:
        path: The JSONL file.
        seed: Seed of the whole demo.
        n_texts: How many.
    """
    _, y_terms = split_terms(load_terms(), seed)
    stream = Corpus(y_terms, f"{seed} gate")
    examples = (stream.draw() for _ in range(n_texts))
    write_rows(path, ({"prompt": example.prompt, "response": example.reply} for example in examples))
