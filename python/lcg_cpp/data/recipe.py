"""The training mix of the paper (section 4.1), put together from the datasets it names."""

from __future__ import annotations

import json
import random
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, TypeVar

from ..errors import GateError
from ..files import replacing
from .columns import Row, Rows, text
from .files import open_files
from .languages import flores_names
from .rows import BadRow, Message, sample_from_row

AYA_PER_LANGUAGE = 600
FLORES_PER_LANGUAGE = 100
ALPACA_ROWS = 10_000
_FLORES_SOURCES = {("eng", "Latn"): "English", ("cmn", "Hans"): "Chinese"}

Messages = tuple[Message, ...]
Chats = list[tuple[str, Messages]]  # the language and the messages of each row
Item = TypeVar("Item")


@dataclass(frozen=True)
class SourceRows:
    """What one source gave."""

    source: str  # its name
    rows: Chats
    n_bad: int = 0  # rows of it that cannot be used
    bad: Sequence[str] = ()  # what is wrong with the first of them

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


def _messages(row: Row) -> Messages:
    messages = sample_from_row(row).messages
    if not messages:
        raise BadRow("is plain text, expected a prompt and a reply")
    return messages


def _aya(rows: Rows, rng: random.Random) -> Chats:
    """Human-written prompts and replies in 65 languages."""
    samples: dict[str, _Reservoir[Messages]] = defaultdict(lambda: _Reservoir(AYA_PER_LANGUAGE, rng))
    for language, messages in rows.read(lambda row, _: (text(row, "language"), _messages(row))):
        samples[language].add(messages)
    return [(language, messages) for language in sorted(samples) for messages in samples[language].items]


def _flores(rows: Rows, rng: random.Random) -> Chats:
    """Sentences in more than 200 languages, to be translated from English and from Chinese."""
    texts: dict[tuple[str, str, str], dict[str, str]] = defaultdict(dict)
    for variety, number, sentence in rows.read(_flores_row):
        texts[variety][number] = sentence
    sources = {_FLORES_SOURCES[v[:2]]: texts[v] for v in sorted(texts) if v[:2] in _FLORES_SOURCES}
    if len(sources) < len(_FLORES_SOURCES):
        raise GateError(f"{rows.name}: lacks sentences in eng_Latn or cmn_Hans, expected FLORES+ with all languages")
    found: Chats = []
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
            found.append((target, (Message("user", prompt), Message("assistant", own[number]))))
    return found


def _flores_row(row: Row, _number: int) -> tuple[tuple[str, str, str], str, str]:
    """The variety of a sentence (language, script, glottocode), its number and its text."""
    if "id" not in row:
        raise BadRow("has no `id`")
    variety = (text(row, "iso_639_3"), text(row, "iso_15924"), str(row.get("glottocode", "")))
    return variety, str(row["id"]), text(row, "text")


def _reasoning(rows: Rows, _rng: random.Random) -> Chats:
    """Problems with a reasoning and an answer, in 38 languages; all of them."""

    def convert(row: Row, _number: int) -> tuple[str, Messages]:
        language, asked, answered = (text(row, name) for name in ("language", "translated_prompt", "response"))
        return language, (Message("user", asked), Message("assistant", answered))

    return list(rows.read(convert))


def _alpaca(language: str) -> Callable[[Rows, random.Random], Chats]:
    """Instructions and replies in one language."""

    def read(rows: Rows, rng: random.Random) -> Chats:
        sample: _Reservoir[Messages] = _Reservoir(ALPACA_ROWS, rng)
        for messages in rows.read(lambda row, _: _messages(row)):
            sample.add(messages)
        return [(language, messages) for messages in sample.items]

    return read


@dataclass(frozen=True)
class Source:
    """A part of the mix."""

    hub: str  # where it is on Hugging Face's hub
    about: str  # what is taken of it
    read: Callable[[Rows, random.Random], Chats]
    split: str = "train"


# The one that needs permission comes first: a refusal shall not wait for the others.
SOURCES = {
    "flores": Source(
        "hf:openlanguagedata/flores_plus",
        f"FLORES+ dev, {FLORES_PER_LANGUAGE} translations a language from English and Chinese; accept its terms first",
        _flores,
        "dev",
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
    wanted = SOURCES[source]
    rows = Rows(name, open_files(name, wanted.split))
    found = wanted.read(rows, random.Random(f"{seed} {source}"))
    rows.check(len(found), f"rows with the columns of {wanted.hub}")
    return SourceRows(source, found, rows.n_bad, rows.bad)


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
