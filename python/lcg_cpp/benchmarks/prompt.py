"""What a benchmark is made of."""

from __future__ import annotations

from dataclasses import dataclass

from ..errors import GateError
from ..gate.scripts import GROUPS, NAMES, nearest_names

_NAMED = frozenset((*NAMES, *GROUPS)) - {"symbols"}
CHOICES = "ABCDEFG"


@dataclass(frozen=True)
class Prompt:
    """A prompt, and what is known of the right reply."""

    id: str  # unique within the benchmark
    prompt: str  # what the user says
    chat: bool  # whether it goes through the model's chat template; otherwise it is completed as it is
    reference: str = ""  # a right reply; empty: none is known
    language: str = ""  # code of the reply's language (BCP-47: `ar`, `zh`, `sr-Latn`); empty: unknown
    # scripts that the reply may hold besides its language's: families of the rule set `scripts`, or `scripts.GROUPS`
    # such as `cj`, which is all of Chinese and Japanese
    expect_scripts: tuple[str, ...] = ()
    switch: str = ""  # such a script if the prompt asks for a code-switch: the reply must hold a letter of it
    # what must be in the reply for the code-switches to count as kept: of each, all strings
    items: tuple[tuple[str, ...], ...] = ()
    subset: str = ""  # the part of the benchmark: `no-latin`, `with-latin`, `switch`, …
    answer: str = ""  # multiple choice: the right letter
    stop: tuple[str, ...] = ()  # texts that end the reply
    max_tokens: int = 256  # most tokens of the reply

    def __post_init__(self) -> None:
        for name in ("id", "prompt"):
            if not getattr(self, name).strip():
                raise GateError(f"`{name}` is empty")
        for script in self.expect_scripts:
            if script not in _NAMED:
                raise GateError(f"`expect_scripts` holds {script!r}, expected {nearest_names(script)}")
        if self.switch and self.switch not in _NAMED:
            raise GateError(f"`switch` is {self.switch!r}, expected nothing or {nearest_names(self.switch)}")
        if self.items and not self.switch:
            raise GateError("has `items` and no `switch`, expected the script of what they hold, such as 'latin'")
        if not all(item and all(string.strip() for string in item) for item in self.items):
            raise GateError("`items` holds an empty one, expected strings that must be in the reply")
        if self.answer and (len(self.answer) > 1 or self.answer not in CHOICES):
            raise GateError(f"`answer` is {self.answer!r}, expected a letter from A to G")
        if self.max_tokens < 1:
            raise GateError(f"`max_tokens` is {self.max_tokens}, expected at least 1")


@dataclass(frozen=True)
class Benchmark:
    """Prompts that belong together."""

    name: str  # what it is called, as given to `load_benchmark`
    prompts: tuple[Prompt, ...]
    source: str  # where they come from
    n_bad: int = 0  # rows of the source that cannot be used and are left out
    bad: tuple[str, ...] = ()  # what is wrong with the first of them: "FILE:LINE: reason"
