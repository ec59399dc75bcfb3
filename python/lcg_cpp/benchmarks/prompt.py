"""What a benchmark is made of."""

from __future__ import annotations

from dataclasses import dataclass

from ..errors import GateError

CONFUSABLE = ("cj", "latin")  # the families that replies may be confused with
CHOICES = "ABCDEFG"


@dataclass(frozen=True)
class Prompt:
    """A prompt, and what is known of the right reply.

    Attributes:
        id: Unique within the benchmark.
        prompt: What the user says.
        chat: Whether it goes through the model's chat template; otherwise it is completed as it is.
        reference: A right reply; empty: none is known.
        language: Code of the reply's language (BCP-47: `ar`, `zh`, `sr-Latn`); empty: unknown.
        expect_scripts: Families out of `cj` and `latin` whose letters may be in the reply, besides those of its
            language.
        switch: `cj` or `latin` if the prompt asks for a code-switch: the reply must hold such a letter.
        items: What must be in the reply for the code-switches to count as kept: of each, all strings.
        subset: The part of the benchmark: `no-latin`, `with-latin`, `switch`, …
        answer: Multiple choice: the right letter.
        stop: Texts that end the reply.
        max_tokens: Most tokens of the reply.
    """

    id: str
    prompt: str
    chat: bool
    reference: str = ""
    language: str = ""
    expect_scripts: tuple[str, ...] = ()
    switch: str = ""
    items: tuple[tuple[str, ...], ...] = ()
    subset: str = ""
    answer: str = ""
    stop: tuple[str, ...] = ()
    max_tokens: int = 256

    def __post_init__(self) -> None:
        for name in ("id", "prompt"):
            if not getattr(self, name).strip():
                raise GateError(f"`{name}` is empty")
        wrong = [family for family in self.expect_scripts if family not in CONFUSABLE]
        if wrong:
            raise GateError(f"`expect_scripts` holds {wrong[0]!r}, expected some of 'cj', 'latin'")
        if self.switch not in ("", *CONFUSABLE):
            raise GateError(f"`switch` is {self.switch!r}, expected 'cj', 'latin' or nothing")
        if self.items and not self.switch:
            raise GateError("has `items` and no `switch`, expected the script of what they hold: 'cj' or 'latin'")
        if not all(item and all(string.strip() for string in item) for item in self.items):
            raise GateError("`items` holds an empty one, expected strings that must be in the reply")
        if self.answer and (len(self.answer) > 1 or self.answer not in CHOICES):
            raise GateError(f"`answer` is {self.answer!r}, expected a letter from A to G")
        if self.max_tokens < 1:
            raise GateError(f"`max_tokens` is {self.max_tokens}, expected at least 1")


@dataclass(frozen=True)
class Benchmark:
    """Prompts that belong together.

    Attributes:
        name: What it is called, as given to `load_benchmark`.
        prompts: The prompts.
        source: Where they come from.
        n_bad: Rows of the source that cannot be used and are left out.
        bad: What is wrong with the first of them: "FILE:LINE: reason".
    """

    name: str
    prompts: tuple[Prompt, ...]
    source: str
    n_bad: int = 0
    bad: tuple[str, ...] = ()
