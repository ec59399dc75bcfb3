"""Kept states: what a model makes of every position of a data set, from which any gate is fitted without the model.

A folder holds `model.safetensors` (the norms of the output rows, and what the model and the data were) and a file
`rows-FIRST-END.safetensors` for every few rows of the data. Each file is there whole or not at all, and says the same
whoever writes it, so that any number of processes fill a folder with nothing between them but the folder.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from ..data import Dataset, Encoded
from ..engine.base_model import BaseModel
from ..errors import GateError
from ..files import write_whole
from ..gate.decisions import DecodingRules, last_families
from ..gate.walk import ForcedText, StoppedError
from .likely import Likely
from .source import Found, Labeller

ROWS = 16  # of the data in one file

_KEY = "lcg_cpp.states"
_FORMAT = 1
LIKELY = tuple(field.name for field in dataclasses.fields(Likely))

Arrays = dict[str, npt.NDArray[Any]]


class KeptData(Dataset):
    """A dataset whose rows are not needed any more."""

    def __init__(self, name: str, n: int, weight: float = 1.0) -> None:
        self.name, self._n, self.weight = name, n, weight
        self.n_bad, self.bad = 0, []

    def __len__(self) -> int:
        return self._n


@dataclass(frozen=True)
class Facts:
    """What states are of."""

    model: str
    architecture: str
    file_type: str
    tokenizer_hash: str
    n_vocab: int
    n_embd: int
    n_ctx: int  # most tokens of a text
    softcap: float
    norms: str  # SHA-256 of the norms of the output rows
    data: list[list[Any]]  # name, number of rows, and the weight if it is not 1, of each dataset
    format: int = _FORMAT
    fingerprint: str = ""  # `BaseModel.fingerprint`; older states have none

    @property
    def n_rows(self) -> int:
        """Rows of the data."""
        return int(sum(entry[1] for entry in self.data))

    @property
    def shards(self) -> list[tuple[int, int]]:
        """First row and end of every file."""
        return [(first, min(first + ROWS, self.n_rows)) for first in range(0, self.n_rows, ROWS)]


class StatesFolder:
    """A folder with states."""

    def __init__(self, path: Path, facts: Facts, norms: npt.NDArray[np.float32]) -> None:
        self.path, self.facts, self.norms = path, facts, norms

    @classmethod
    def create(cls, path: Path, facts: Facts, norms: npt.NDArray[np.float32]) -> StatesFolder:
        """Begin a folder, or go on with one.

        Raises:
            GateError: It holds states of another model or other data.
            OSError: It cannot be written.
        """
        facts = dataclasses.replace(facts, norms=hashlib.sha256(norms.tobytes()).hexdigest())
        path.mkdir(parents=True, exist_ok=True)
        head = path / "model.safetensors"
        if not head.exists():
            write_whole(head, save({"norms": norms}, {_KEY: json.dumps(dataclasses.asdict(facts))}))
        folder = cls.open(path)
        for name, wanted in dataclasses.asdict(facts).items():
            found = getattr(folder.facts, name)
            if found != wanted and not (name == "fingerprint" and not (found and wanted)):
                raise GateError(f"{path}: holds states with `{name}` {found!r}, these have {wanted!r}")
        return folder

    @classmethod
    def open(cls, path: Path) -> StatesFolder:
        """Open a folder.

        Raises:
            GateError: It holds no states.
            OSError: It cannot be read.
        """
        tensors, facts = _read(path / "model.safetensors")
        try:
            return cls(path, Facts(**facts), tensors["norms"])
        except (TypeError, KeyError) as error:
            raise GateError(f"{path}: holds no states that this lcg-cpp can read ({error})") from error

    def shard(self, first: int, end: int) -> Path:
        """The file of some rows."""
        return self.path / f"rows-{first:08}-{end:08}.safetensors"

    def missing(self) -> list[tuple[int, int]]:
        """First row and end of the files that are not there."""
        return [rows for rows in self.facts.shards if not self.shard(*rows).exists()]

    def datasets(self, weight: float = 1.0) -> list[Dataset]:
        """The data, each dataset as often as it was to be, times `weight`."""
        return [KeptData(name, n, weight * own) for name, n, own in (([*entry, 1.0][:3]) for entry in self.facts.data)]

    def check_same(self, other: StatesFolder) -> None:
        """Refuse states of another model, or of another quantization of the same one.

        Raises:
            GateError: The norms of the output rows, or what the model was, differ.
        """
        for name in ("model", "file_type", "norms", "softcap"):
            found, wanted = getattr(self.facts, name), getattr(other.facts, name)
            if found != wanted:
                raise GateError(f"{self.path}: holds states with `{name}` {found!r}, {other.path} with {wanted!r}")

    def check_base(self, base: BaseModel) -> None:
        """Refuse a model that the states are not of.

        Raises:
            GateError: Its tokens, its architecture or its width are others.
        """
        facts = self.facts
        for name, found, wanted in (
            ("architecture", base.architecture, facts.architecture),
            ("vocabulary", base.vocab.tokenizer_hash, facts.tokenizer_hash),
            ("`n_embd`", base.n_embd or facts.n_embd, facts.n_embd),
            ("fingerprint", (facts.fingerprint and base.fingerprint) or facts.fingerprint, facts.fingerprint),
        ):
            if found != wanted:
                raise GateError(
                    f"{base.path}: has the {name} {found}, but {self.path} holds states of one with {wanted}"
                )


def write_shard(path: Path, texts: Sequence[Encoded | None], reasons: Sequence[str], found: Arrays) -> None:
    """Write the states of some rows of the data, whole or not at all.

    Args:
        path: The file.
        texts: The tokens of each row; None where there is nothing to learn from.
        reasons: Why there is nothing, "" where there is.
        found: `hidden`, float16 (n, n_embd), and the arrays of `Likely`: of every token of the rows but their last.

    Raises:
        OSError: It cannot be written.
    """
    kept = [text for text in texts if text is not None]
    arrays: Arrays = {
        "n_tokens": np.array([0 if text is None else len(text.tokens) for text in texts], np.int64),
        "tokens": np.array([token for text in kept for token in text.tokens], np.int32),
        "is_reply": np.array([mine for text in kept for mine in text.is_reply], np.bool_),
        **found,
    }
    write_whole(path, save(arrays, {_KEY: json.dumps(list(reasons))}))


@dataclass(frozen=True, eq=False)
class _Shard:
    """What is in memory of a file: the texts."""

    path: Path
    texts: list[Encoded | None]
    reasons: list[str]
    starts: list[int]  # of each text's states


class KeptSource:
    """Reads states from a folder; see `Source`."""

    def __init__(
        self, folder: StatesFolder, labeller: Labeller, rules: DecodingRules, should_stop: Callable[[], bool]
    ) -> None:
        self.n_embd, self.n_rows = folder.facts.n_embd, folder.facts.n_rows
        self.skipped: Counter[str] = Counter()
        self._folder, self._label, self._rules, self._should_stop = folder, labeller, rules, should_stop
        self._n_ctx = labeller.options.n_ctx
        self._shards = cache(self._open)

    def _open(self, first: int, end: int) -> _Shard | None:
        path = self._folder.shard(first, end)
        if not path.exists():
            return None
        arrays, reasons = _read(path, ("n_tokens", "tokens", "is_reply"))
        lengths = arrays["n_tokens"].tolist()
        ends = np.cumsum([0, *lengths]).tolist()
        texts = [
            Encoded(arrays["tokens"][a:b].tolist(), arrays["is_reply"][a:b].tolist()) if n else None
            for n, a, b in zip(lengths, ends, ends[1:])
        ]
        return _Shard(path, texts, reasons, np.cumsum([0, *(max(n - 1, 0) for n in lengths)]).tolist())

    def _of(self, row: int) -> tuple[_Shard | None, int]:
        first = row // ROWS * ROWS
        return self._shards(first, min(first + ROWS, self.n_rows)), row - first

    def encode(self, row: int) -> Encoded | None:
        """Tokens of a row."""
        shard, at = self._of(row)
        text = None if shard is None else shard.texts[at]
        if text is None:
            self.skipped["the states are not kept" if shard is None else shard.reasons[at]] += 1
            return None
        return Encoded(text.tokens[: self._n_ctx], text.is_reply[: self._n_ctx])

    def find(self, rows: Sequence[int], texts: Sequence[ForcedText], *, with_steps: bool = False) -> Iterator[Found]:
        """Read the states of texts."""
        for i, (row, text) in enumerate(zip(rows, texts)):
            position = np.flatnonzero(text.wanted)
            shard, at = self._of(row)
            if shard is not None and len(position):
                begin = shard.starts[at]
                arrays, _ = _read(shard.path, ("hidden", *LIKELY), slice(begin, begin + len(text.tokens) - 1))
                likely = Likely(*(arrays[name] for name in LIKELY))[position]
                yield Found(
                    arrays["hidden"][position].astype(np.float32),
                    self._label.of_likely(likely),
                    likely.steps(self._rules) if with_steps else None,
                    np.full(len(position), i, np.int32),
                    position.astype(np.int32),
                    last_families(text.tokens, text.is_reply, self._rules.families)[position],
                    text.tokens[position + 1],
                )
            if self._should_stop():
                raise StoppedError


class JoinedSource:
    """Several folders, one behind the other; see `Source`."""

    def __init__(self, sources: Sequence[KeptSource]) -> None:
        self.n_embd = sources[0].n_embd
        self.skipped = sources[0].skipped
        for source in sources:
            source.skipped = self.skipped
        self._of = [(source, row) for source in sources for row in range(source.n_rows)]

    def encode(self, row: int) -> Encoded | None:
        """Tokens of a row."""
        source, own_row = self._of[row]
        return source.encode(own_row)

    def find(self, rows: Sequence[int], texts: Sequence[ForcedText], *, with_steps: bool = False) -> Iterator[Found]:
        """Read the states of texts."""
        for i, (row, text) in enumerate(zip(rows, texts)):
            source, own_row = self._of[row]
            for found in source.find([own_row], [text], with_steps=with_steps):
                yield dataclasses.replace(found, text=np.full_like(found.text, i))


def _read(path: Path, names: Sequence[str] | None = None, rows: slice = slice(None)) -> tuple[Arrays, Any]:
    """Arrays of a file, or some of their rows, and what else it says."""
    with path.open("rb"):  # safetensors' own error does not name the file
        pass
    try:
        with safe_open(str(path), "numpy") as file:
            said: Mapping[str, str] = file.metadata() or {}
            wanted = file.keys() if names is None else names
            return {name: file.get_slice(name)[rows] for name in wanted}, json.loads(said[_KEY])
    except (SafetensorError, KeyError, ValueError) as error:
        raise GateError(
            f"{path}: holds no states of this lcg-cpp ({error}); delete it to collect them again"
        ) from error
