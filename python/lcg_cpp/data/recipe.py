"""The training mix of the paper (section 4.1), put together from the datasets it names."""

from __future__ import annotations

import json
import random
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Generic, TypeVar

from ..errors import GateError
from ..files import replacing
from .files import open_files
from .languages import flores_names
from .rows import BadRow, Message, sample_from_row, text_of

AYA_PER_LANGUAGE = 600
FLORES_PER_LANGUAGE = 100
ALPACA_ROWS = 10_000
_FLORES_SOURCES = {("eng", "Latn"): "English", ("cmn", "Hans"): "Chinese"}
_MAX_BAD_SHOWN = 3

Messages = tuple[Message, ...]
Item = TypeVar("Item")


@dataclass
class SourceRows:
    """What one source gave."""

    source: str  # its name
    rows: list[tuple[str, Messages]] = field(default_factory=list)  # the language and the messages of each row
    n_bad: int = 0  # rows of it that cannot be used
    bad: list[str] = field(default_factory=list)  # what is wrong with the first of them

    @property
    def n_languages(self) -> int:
        """The number of languages."""
        return len({language for language, _ in self.rows})


class _Reservoir(Generic[Item]):
    """A uniform sample of at most n items out of a stream."""

    def __init__(self, n: int, rng: random.Random) -> None:
        self.items: list[Item] = []
        self._n, self._rng, self._seen = n, rng, 0

    def add(self, item: Item) -> None:
        """Give it the next item of the stream."""
        self._seen += 1
        if len(self.items) < self._n:
            self.items.append(item)
            return
        place = self._rng.randrange(self._seen)
        if place < self._n:
            self.items[place] = item


class _Reader:
    """The rows of a source, each turned into something by a function that raises `BadRow` where it cannot."""

    def __init__(self, name: str, split: str, into: SourceRows) -> None:
        self._files = open_files(name, split)
        self._into = into

    def __call__(self, convert: Callable[[Mapping[str, Any]], Item]) -> Iterator[Item]:
        for file in self._files:
            for found in file.scan():
                try:
                    if isinstance(found.row, BadRow):
                        raise found.row
                    if not isinstance(found.row, Mapping):
                        raise BadRow("is not an object with named columns")
                    item = convert(found.row)
                except BadRow as reason:
                    self._into.n_bad += 1
                    if len(self._into.bad) < _MAX_BAD_SHOWN:
                        self._into.bad.append(f"{found.where}: {reason}")
                else:
                    yield item


def _text(row: Mapping[str, Any], column: str) -> str:
    if column not in row:
        raise BadRow(f"has no `{column}`")
    return text_of(row[column], f"`{column}`")


def _messages(row: Mapping[str, Any]) -> Messages:
    messages = sample_from_row(row).messages
    if not messages:
        raise BadRow("is plain text, expected a prompt and a reply")
    return messages


def _aya(name: str, rng: random.Random, into: SourceRows) -> None:
    """Human-written prompts and replies in 65 languages."""
    samples: dict[str, _Reservoir[Messages]] = defaultdict(lambda: _Reservoir(AYA_PER_LANGUAGE, rng))
    for language, messages in _Reader(name, "train", into)(lambda row: (_text(row, "language"), _messages(row))):
        samples[language].add(messages)
    into.rows = [(language, messages) for language in sorted(samples) for messages in samples[language].items]


def _flores(name: str, rng: random.Random, into: SourceRows) -> None:
    """Sentences in more than 200 languages, to be translated from English and from Chinese."""
    texts: dict[tuple[str, str, str], dict[str, str]] = defaultdict(dict)
    for variety, number, text in _Reader(name, "dev", into)(_flores_row):
        texts[variety][number] = text
    sources = {_FLORES_SOURCES[v[:2]]: texts[v] for v in sorted(texts) if v[:2] in _FLORES_SOURCES}
    if len(sources) < len(_FLORES_SOURCES):
        raise GateError(f"{name}: lacks sentences in eng_Latn or cmn_Hans, expected FLORES+ with all languages")
    for variety, target in flores_names(texts).items():
        own = texts[variety]
        possible = [
            (source, number)
            for source, sentences in sources.items()
            for number in sorted(own)
            if number in sentences and sentences is not own
        ]
        for source, number in rng.sample(possible, min(FLORES_PER_LANGUAGE, len(possible))):
            prompt = f"Translate the following {source} text into {target}.\n\n{sources[source][number]}"
            into.rows.append((target, (Message("user", prompt), Message("assistant", own[number]))))


def _flores_row(row: Mapping[str, Any]) -> tuple[tuple[str, str, str], str, str]:
    """The variety of a sentence (language, script, glottocode), its number and its text."""
    if "id" not in row:
        raise BadRow("has no `id`")
    variety = (_text(row, "iso_639_3"), _text(row, "iso_15924"), str(row.get("glottocode") or ""))
    return variety, str(row["id"]), _text(row, "text")


def _reasoning(name: str, rng: random.Random, into: SourceRows) -> None:
    """Problems with a reasoning and an answer, in 38 languages; all of them."""
    del rng
    into.rows = list(
        _Reader(name, "train", into)(
            lambda row: (
                _text(row, "language"),
                (Message("user", _text(row, "translated_prompt")), Message("assistant", _text(row, "response"))),
            )
        )
    )


def _alpaca(language: str) -> Callable[[str, random.Random, SourceRows], None]:
    """Instructions and replies in one language."""

    def read(name: str, rng: random.Random, into: SourceRows) -> None:
        sample: _Reservoir[Messages] = _Reservoir(ALPACA_ROWS, rng)
        for messages in _Reader(name, "train", into)(_messages):
            sample.add(messages)
        into.rows = [(language, messages) for messages in sample.items]

    return read


@dataclass(frozen=True)
class Source:
    """A part of the mix."""

    hub: str  # where it is on Hugging Face's hub
    about: str  # what is taken of it
    # reads it from a name, with a random generator, into a `SourceRows`
    read: Callable[[str, random.Random, SourceRows], None]


# The one that needs permission comes first: a refusal shall not wait for the others.
SOURCES = {
    "flores": Source(
        "hf:openlanguagedata/flores_plus",
        f"FLORES+ dev, {FLORES_PER_LANGUAGE} translations a language from English and Chinese; accept its terms first",
        _flores,
    ),
    "aya": Source("hf:CohereLabs/aya_dataset", f"Aya, {AYA_PER_LANGUAGE} rows a language", _aya),
    "reasoning": Source(
        "hf:lightblue/reasoning-multilingual-R1-Llama-70B-train", "reasoning in 38 languages, all of it", _reasoning
    ),
    "alpaca-en": Source("hf:yahma/alpaca-cleaned", f"Alpaca, cleaned, {ALPACA_ROWS:,} rows", _alpaca("English")),
    "alpaca-zh": Source("hf:shibing624/alpaca-zh", f"Alpaca in Chinese, {ALPACA_ROWS:,} rows", _alpaca("Chinese")),
}


def read_source(source: str, name: str, seed: int) -> SourceRows:
    """Read one of `SOURCES` from its `hub`, or a copy of the same layout; see `files.open_files`."""
    found = SourceRows(source)
    SOURCES[source].read(name, random.Random(f"{seed} {source}"), found)
    if not found.rows:
        reason = f"{found.bad[0]}; none of {found.n_bad} rows can be used" if found.bad else f"{name}: holds no rows"
        raise GateError(reason)
    return found


def write_mix(path: Path, parts: Sequence[SourceRows], seed: int) -> int:
    """Write the rows of all parts in random order, and give their number; the file appears when it is complete.

    It holds JSON lines with the `messages`, `source` and `language` of each row.
    """
    rows = [(part.source, *row) for part in parts for row in part.rows]
    random.Random(f"{seed} order").shuffle(rows)
    with replacing(path) as unfinished, unfinished.open("wb") as file:
        for source, language, messages in rows:
            chat = [{"role": message.role, "content": message.content} for message in messages]
            row = {"messages": chat, "source": source, "language": language}
            file.write(json.dumps(row, ensure_ascii=False).encode() + b"\n")
    return len(rows)
