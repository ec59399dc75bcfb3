"""Prompts as rows: this package's own format, and the demo's."""

from __future__ import annotations

from ..data.columns import Row, Rows, optional_text, text, text_lists, texts
from ..data.files import open_files
from ..data.rows import BadRow
from ..gate.families import text_families
from ..gate.scripts import RULE_SET, SIBLINGS
from .languages import code_of
from .prompt import Benchmark, Prompt

DEMO_MAX_TOKENS = 120  # of a reply, as `lcg-cpp demo` has it
_DEMO_SWITCHES = {"": "", "english": "latin", "chinese": "cj"}


def load_rows(name: str, place: str, source: str) -> Benchmark:
    """Prompts of the package's own format.

    A row has `prompt`, and may have `id` (default: its number), `chat` (default: true), `reference`, `language` (a code
    or an English name), `expect_scripts`, `switch`, `items`, `subset`, `answer`, `stop` and `max_tokens`; see `Prompt`.
    Without `expect_scripts`, scripts that the reference holds are expected. Other columns are ignored.
    """
    rows = Rows(place, open_files(place, "test"))
    prompts: dict[str, Prompt] = {}

    def convert(row: Row, number: int) -> Prompt:
        prompt = _prompt(row, str(number))
        if prompt.id in prompts:
            raise BadRow(f"has the id {prompt.id!r} of an earlier row")
        return prompt

    for prompt in rows.read(convert):
        prompts[prompt.id] = prompt
    rows.check(len(prompts), "rows with `prompt`")
    return Benchmark(name, tuple(prompts.values()), source, rows.n_bad, tuple(rows.bad))


def _prompt(row: Row, default_id: str) -> Prompt:
    given, max_tokens, chat = row.get("id", default_id), row.get("max_tokens", 256), row.get("chat", True)
    if not isinstance(given, (str, int)):
        raise BadRow(f"`id` is {given!r}, expected text or a number")
    if not isinstance(chat, bool):
        raise BadRow(f"`chat` is {chat!r}, expected true or false")
    if not isinstance(max_tokens, int) or isinstance(max_tokens, bool):
        raise BadRow(f"`max_tokens` is {max_tokens!r}, expected a number")
    language, reference = optional_text(row, "language"), optional_text(row, "reference")
    return Prompt(
        id=str(given),
        prompt=text(row, "prompt"),
        chat=chat,
        reference=reference,
        language=code_of(language) if language else "",
        expect_scripts=texts(row, "expect_scripts") if "expect_scripts" in row else scripts_in(reference),
        switch=optional_text(row, "switch"),
        items=text_lists(row, "items"),
        subset=optional_text(row, "subset"),
        answer=optional_text(row, "answer"),
        stop=texts(row, "stop"),
        max_tokens=max_tokens,
    )


def scripts_in(reference: str) -> tuple[str, ...]:
    """The scripts of a right reply, Chinese and Japanese together as `cj`: which of them a language's text may hold."""
    found = text_families(reference, RULE_SET.families)
    return tuple(sorted({"cj" if family in SIBLINGS else family for family in found}))


def subset_of(reference: str) -> str:
    """`with-latin` or `no-latin`: whether a right reply holds a Latin letter."""
    return "with-latin" if "latin" in text_families(reference) else "no-latin"


def load_demo(name: str, place: str, source: str) -> Benchmark:
    """Prompts of the demo's format, which a model completes as they are.

    A row has `prompt`, `reference`, `language` (by its English name), `switch` (`english` or `chinese`, where the reply
    must repeat each name in that language, in brackets) and `items`: of each term its name in the target language and,
    with a switch, the name in brackets.
    """
    rows = Rows(place, open_files(place))
    prompts = tuple(rows.read(demo_prompt))
    rows.check(len(prompts), "rows of the demo's format: `prompt`, `reference`, `language`, `switch`, `items`")
    return Benchmark(name, prompts, source, rows.n_bad, tuple(rows.bad))


def demo_prompt(row: Row, number: int) -> Prompt:
    """A prompt of a row of the demo's format."""
    asked = optional_text(row, "switch")
    if asked not in _DEMO_SWITCHES:
        raise BadRow(f"`switch` is {asked!r}, expected 'english', 'chinese' or null")
    switch, reference = _DEMO_SWITCHES[asked], text(row, "reference")
    items = text_lists(row, "items")
    if switch and not items:
        raise BadRow("asks for a switch and has no `items`")
    return Prompt(
        id=str(number),
        prompt=text(row, "prompt"),
        chat=False,
        reference=reference,
        language=code_of(text(row, "language")),
        expect_scripts=scripts_in(reference),
        switch=switch,
        items=items if switch else (),
        subset="switch" if switch else subset_of(reference),
        max_tokens=DEMO_MAX_TOKENS,
    )
