"""Prompts in the demo's format, as the tools draw them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from lcg_cpp.benchmarks import Prompt
from lcg_cpp.benchmarks.prompt_rows import demo_prompt


@dataclass(frozen=True)
class DemoPrompt:
    """One evaluation prompt.

    Attributes:
        prompt: `Germany, Monday⏎Arabic:`.
        reference: The right reply.
        language: The target language, by its English name.
        switch: `english` or `chinese` if the reply must repeat each name in that language, in brackets.
        items: For each term its name in the target language and, in a switch prompt, the name in brackets.
        seed: Its number.
    """

    prompt: str
    reference: str
    language: str
    switch: str | None
    items: tuple[tuple[str, ...], ...]
    seed: int


def as_benchmark(prompts: Sequence[DemoPrompt]) -> list[Prompt]:
    """The prompts as the package reads them from a file."""
    rows = ({name: value for name, value in vars(prompt).items() if value is not None} for prompt in prompts)
    return [demo_prompt(row, number) for number, row in enumerate(rows, 1)]
