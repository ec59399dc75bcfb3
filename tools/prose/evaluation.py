"""What models and gates are measured on: prompts to answer, and texts to be read teacher forced. X terms only."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from demo.prompts import DemoPrompt

from .corpus import Corpus, Example
from .names import CLEAN, CONTAMINATED, LANGUAGES

# Of eight prompts of a language: (what the prompt asks for in brackets, what a sentence quotes).
_KINDS: tuple[tuple[str | None, str | None], ...] = (
    (None, None),
    (None, None),
    ("chinese", None),
    (None, "english"),
    (None, None),
    (None, None),
    ("english", None),
    (None, "chinese"),
)
# of so many texts to be read, one is in a language that no training text contaminates
_CLEAN_EVERY = 10


def prompts(corpus: Corpus, n: int, is_usable: Callable[[Example], bool]) -> list[DemoPrompt]:
    """Draws prompts to answer, contaminated targets in turn; the seed of a prompt is its number.

    Args:
        corpus: The stream.
        n: How many.
        is_usable: What is drawn anew where it does not hold.
    """
    found = []
    for i in range(n):
        language = CONTAMINATED[i % len(CONTAMINATED)]
        requested, quoted = (
            "english" if (kind, language) == ("chinese", "zh") else kind  # in Chinese, no name is a switch to it
            for kind in _KINDS[i // len(CONTAMINATED) % len(_KINDS)]
        )
        switch = requested or quoted
        while True:
            # a reply holds names of one script at most: whatever else is in the other is wrong
            example = corpus.draw(language, requested, quotes=frozenset({switch} if switch else ()))
            if bool(example.switches) == bool(switch) and is_usable(example):
                break
        items = tuple(name for name in example.names if len(name) > 1 or not switch)
        found.append(DemoPrompt(example.prompt, example.reference.strip(), language, switch, items, i))
    return found


def points(corpus: Corpus, n: int) -> Iterator[dict[str, object]]:
    """Draws texts to be read.

    Args:
        corpus: The stream.
        n: How many.

    Yields:
        `prompt`; the clean `response` with its leading space; `language`; `kind`: `request` for English or Chinese
        names in brackets, otherwise `quote` or `plain`; `switches`: where such names stand in the response, first
        character and the one behind the last.
    """
    for i in range(n):
        languages = CONTAMINATED if i % _CLEAN_EVERY else CLEAN
        example = corpus.draw(corpus.rng.choice(languages))
        yield {
            "prompt": example.prompt,
            "response": example.reference,
            "language": LANGUAGES[example.language],
            "kind": "request" if example.switch else "quote" if example.switches else "plain",
            "switches": example.switches,
        }
