"""The embedded demo: a tiny multilingual model, its gates and its prompts. See MODEL_CARD.md for how they were made."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

_FOLDER = Path(__file__).resolve().parent

MODEL = _FOLDER / "tiny-names-F16.gguf"
PROMPTS = _FOLDER / "prompts.jsonl"
CARD = _FOLDER / "MODEL_CARD.md"
GATES = {"default": _FOLDER / "lcg-tiny-names-F16.gguf", "paper": _FOLDER / "lcg-tiny-names-paper-F16.gguf"}


@dataclass(frozen=True)
class DemoPrompt:
    """One evaluation prompt.

    Attributes:
        prompt: `Germany, Monday⏎Arabic:`.
        reference: The right reply.
        language: The target language, by its English name.
        switch: `english` or `chinese` if the reply must repeat each name in that language, in brackets.
        items: For each term its name in the target language and, in a switch prompt, the name in brackets.
        seed: Seed of the reply.
    """

    prompt: str
    reference: str
    language: str
    switch: str | None
    items: tuple[tuple[str, ...], ...]
    seed: int


def load_prompts(path: Path = PROMPTS) -> list[DemoPrompt]:
    """Reads the evaluation prompts.

    Args:
        path: A file with one JSON object a line.

    Returns:
        The prompts, in file order.
    """
    with path.open(encoding="utf-8") as file:
        records = [json.loads(line) for line in file]
    return [DemoPrompt(**{**record, "items": tuple(tuple(item) for item in record["items"])}) for record in records]
