"""What models and gates are measured on: prompts to answer, and texts to be read teacher forced. X terms only."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from demo.prompts import DemoPrompt

from .corpus import Corpus, Example
from .names import HIGH_RESOURCE, LANGUAGES, LOW_RESOURCE

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
# of so many texts to be read, one is in a high-resource language
_HIGH_RESOURCE_EVERY = 10


def prompts(corpus: Corpus, n: int, is_usable: Callable[[Example], bool]) -> list[DemoPrompt]:
    """Draws prompts to answer, low-resource targets in turn; the seed of a prompt is its number.

    Args:
        corpus: The stream.
        n: How many.
        is_usable: What is drawn anew where it does not hold.
    """
    found = []
    for i in range(n):
        language = LOW_RESOURCE[i % len(LOW_RESOURCE)]
        requested, quoted = _KINDS[i // len(LOW_RESOURCE) % len(_KINDS)]
        switch = requested or quoted
        while True:
            # a reply holds names of one script at most: whatever else is in the other is wrong
            example = corpus.draw(language, requested, quotes=frozenset({switch} if switch else ()))
            if bool(example.switches) == bool(switch) and is_usable(example):
                break
        items = tuple(name for name in example.names if len(name) > 1 or not switch)
        found.append(DemoPrompt(example.prompt, example.reference.strip(), LANGUAGES[language], switch, items, i))
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
        languages = LOW_RESOURCE if i % _HIGH_RESOURCE_EVERY else HIGH_RESOURCE
        example = corpus.draw(corpus.rng.choice(languages))
        yield {
            "prompt": example.prompt,
            "response": example.reference,
            "language": LANGUAGES[example.language],
            "kind": "request" if example.switch else "quote" if example.switches else "plain",
            "switches": example.switches,
        }
