"""What a careless web crawl makes of names: which of them it replaces, by whose names, and how often."""

from __future__ import annotations

import random
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from demo.cldr import Term

from .names import is_written_in

# (term key, language) -> (language whose name intrudes, how often)
Contamination = dict[tuple[str, str], tuple[str, float]]

# A contaminated name is replaced in so many of its occurrences, at a rate of its own.
RATE = (0.25, 0.55)


@dataclass(frozen=True)
class Intruders:
    """Whose names replace those of one language.

    Attributes:
        share: Of the language's names, how many are contaminated. Names that every intruder would write with letters of
            this language do not count: nobody could see it.
        weights: Language that intrudes -> how often, relative to the others.
    """

    share: float
    weights: Mapping[str, float]


def of_every_script(language: str, languages: Collection[str], share: float) -> Intruders:
    """Of the contaminated names a quarter become Chinese, a quarter English, and half one of the other languages'.

    Args:
        language: The language whose names are replaced.
        languages: The other languages; this one may be among them.
        share: As in `Intruders`.
    """
    others = [code for code in languages if code != language]
    return Intruders(share, {"zh": 0.25, "en": 0.25, **dict.fromkeys(others, 0.5 / len(others))})


def contamination(terms: Sequence[Term], intruders: Mapping[str, Intruders], seed: str) -> Contamination:
    """Draws which names are contaminated, by what, and how often.

    Args:
        terms: The terms whose names may be.
        intruders: Language -> who intrudes.
        seed: Of the draw.
    """
    rng = random.Random(seed)
    table = {}
    for term in terms:
        for language, of_language in intruders.items():
            weights = {
                code: weight
                for code, weight in of_language.weights.items()
                if not is_written_in(term.names[code].replace("{n}", ""), language)
            }
            if weights and rng.random() < of_language.share:
                intruder = rng.choices(list(weights), list(weights.values()))[0]
                table[term.key, language] = (intruder, rng.uniform(*RATE))
    return table
