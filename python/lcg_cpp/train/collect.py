"""Collecting states: the model is evaluated once, and any number of gates are fitted to what is kept of it."""

from __future__ import annotations

import contextlib
import math
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from secrets import SystemRandom

import numpy as np

from ..data import Encoder
from ..data.balance import balanced, script_of_tokens
from ..engine.load import Engine, HfEngine, Model, load_teacher
from ..errors import GateError
from ..files import PathLike
from ..gate.decisions import DecodingRules
from ..gate.spec import spec_for
from ..gate.walk import ForcedText, StoppedError, Walk
from .batches import LOOKED_AT, Expected
from .likely import Likely
from .options import TrainOptions
from .run import Texts
from .states import LIKELY, Arrays, Facts, StatesFolder, write_shard
from .train import estimate, open_datasets, public_name, require_extra

Shard = tuple[int, int]  # first row and end

_FILES_LOOKED_AT = 8  # for an estimate


@dataclass
class Collected:
    """How far a collection is."""

    n_rows: int  # of the data that are wanted
    kept: int = 0  # of them, by this process or others
    evaluated: int = 0  # by this process
    tokens: int = 0  # of those
    seconds: float = 0.0  # that these took
    finished: bool = False  # all of them are kept, or the time is up


def collect(
    model: PathLike,
    data: Sequence[str],
    folder: PathLike,
    options: TrainOptions | None = None,
    *,
    engine: Engine | HfEngine | None = None,
    should_stop: Callable[[], bool] = lambda: False,
    on_progress: Callable[[Collected], None] = lambda collected: None,
    on_notice: Callable[[str], None] = lambda text: None,
) -> Collected:
    """Keep what a model makes of texts, for `train(..., states=folder)`.

    Any number of processes may collect into the same folder at once, and go on with it later.

    Args:
        model: The base model, see `train`.
        data: Names of datasets, see `data.open_dataset`; the same for every process.
        folder: Where states are kept.
        options: `n_ctx`, and what limits a run: `n_tokens`, `minutes`, `balance`. What is chosen are whole files of 16
            rows: each counts for the script that most of its tokens are in. With the same `n_tokens` every process
            chooses the same files; `minutes` are those of this process.
        engine: What evaluates the model; None is llama.cpp.
        should_stop: Asked after every evaluation; rows that are not finished are evaluated again later.
        on_progress: Called after each file.
        on_notice: Called with what a user should know.

    Raises:
        GateError: Data or model cannot be used, or the folder holds other states.
        OSError: A file cannot be read or written.
    """
    require_extra(hf=isinstance(engine, HfEngine))
    begun = time.monotonic()
    options, engine = options or TrainOptions(), engine or Engine()
    datasets = open_datasets(data, on_notice)
    with load_teacher(model, options.n_ctx, engine) as (teacher, matrix):
        base = teacher.base
        facts = Facts(
            model=base.name,
            architecture=base.architecture,
            file_type=base.file_type,
            tokenizer_hash=base.vocab.tokenizer_hash,
            fingerprint=base.fingerprint,
            n_vocab=base.vocab.n_vocab,
            n_embd=teacher.n_embd,
            n_ctx=options.n_ctx,
            softcap=matrix.softcap,
            norms="",
            data=[
                [public_name(dataset), len(dataset), *([w] if (w := dataset.weight) != 1 else [])]
                for dataset in datasets
            ],
        )
        kept = StatesFolder.create(Path(folder), facts, matrix.norms)
        collection = _Collection(teacher, Texts(datasets, options), kept, options, should_stop, begun)
        with contextlib.suppress(StoppedError):
            collection.run(on_progress, on_notice)
    return collection.done


class _Collection:
    """Evaluates the files of a folder that are missing, or as many as a budget allows."""

    def __init__(
        self,
        model: Model,
        texts: Texts,
        folder: StatesFolder,
        options: TrainOptions,
        should_stop: Callable[[], bool],
        begun: float,
    ) -> None:
        self.done = Collected(folder.facts.n_rows)
        self._texts, self._folder, self._options = texts, folder, options
        self._vocab = model.base.vocab
        self._encoder = Encoder(model.tokenize, model.base, model.n_ctx)
        self._walk = Walk(model, DecodingRules.of(spec_for(model.base, n_hidden=0)).families, should_stop)
        self._begun = begun

    def run(self, on_progress: Callable[[Collected], None], on_notice: Callable[[str], None]) -> None:
        """Evaluate what is wanted.

        Raises:
            StoppedError: It shall stop; the files that are finished are kept.
        """
        done, minutes, budget = self.done, self._options.minutes, float(self._options.n_tokens or math.inf)
        shards = self._folder.facts.shards
        np.random.default_rng(self._options.seed).shuffle(shards)  # the same for every process
        n_kept = done.n_rows - _n_rows(self._missing(shards))
        done.kept, done.finished = n_kept, n_kept == done.n_rows
        if done.finished:
            return
        if minutes is not None:
            self._evaluate(self._missing(shards)[0])  # tells how fast the model is
            budget = min(budget, self._rate * self._seconds_left)
            shards = self._missing(shards)
            n_kept = self._folder.facts.n_rows - _n_rows(shards)
        wanted, planned, in_texts = self._plan(shards, budget)
        missing = self._missing(wanted)
        done.kept, done.n_rows = n_kept, n_kept + _n_rows(missing)
        SystemRandom().shuffle(missing)  # processes that collect together seldom meet
        for shard in missing:
            if self._seconds_left <= 0:
                break
            if not self._folder.shard(*shard).exists():
                self._evaluate(shard)
            done.kept += _n_rows([shard])
            if shard is missing[0] and len(missing) > 1 and done.tokens:
                share = len(missing) / len(wanted)
                on_notice(estimate(Expected(in_texts * share, planned * share, self._rate), self._options))
            on_progress(done)
        done.finished = True

    @property
    def _rate(self) -> float:
        return self.done.tokens / max(self.done.seconds, 1e-6)

    @property
    def _seconds_left(self) -> float:
        minutes = self._options.minutes
        return math.inf if minutes is None else 60 * minutes - (time.monotonic() - self._begun)

    def _missing(self, shards: Sequence[Shard]) -> list[Shard]:
        return [shard for shard in shards if not self._folder.shard(*shard).exists()]

    def _plan(self, shards: Sequence[Shard], budget: float) -> tuple[list[Shard], float, float]:
        """The files that a budget allows, about how many tokens they have, and how many all of them have."""
        scripts: list[str] = []
        sizes: list[int] = []
        total = 0
        for shard in shards:
            script, size = self._look(shard)
            scripts.append(script if self._options.balance == "scripts" else "")
            sizes.append(size)
            total += size
            if total >= LOOKED_AT * budget or (budget == math.inf and len(sizes) >= _FILES_LOOKED_AT):
                break
        in_texts = total * len(shards) / max(len(sizes), 1)
        if in_texts <= budget:
            return list(shards), in_texts, in_texts
        chosen = balanced(scripts, sizes, budget)
        return [shards[i] for i in chosen], sum(sizes[i] for i in chosen), in_texts

    def _look(self, shard: Shard) -> tuple[str, int]:
        """The script that most tokens of a file are in, and its tokens."""
        sizes = Counter[str]()
        for row in range(*shard):
            text = self._texts.encode(row, self._encoder)
            if text is not None:
                sizes[script_of_tokens(text, self._vocab)] += len(text.tokens)
        return max(sizes, key=sizes.__getitem__, default=""), sum(sizes.values())

    def _evaluate(self, shard: Shard) -> None:
        begun = time.monotonic()
        self.done.tokens += self._write(*shard)
        self.done.evaluated += _n_rows([shard])
        self.done.seconds += time.monotonic() - begun

    def _write(self, first: int, end: int) -> int:
        """Write the file of some rows; returns the number of their tokens."""
        texts, reasons = [], []
        for row in range(first, end):
            self._encoder.skipped.clear()
            texts.append(self._texts.encode(row, self._encoder))
            reasons.append("".join(self._encoder.skipped))
        forced = [ForcedText.of(text.tokens, text.is_reply, "all") for text in texts if text is not None]
        folder = self._folder
        hidden = [np.empty((0, folder.facts.n_embd), np.float16)]
        likely = [Likely.of(np.zeros((0, folder.facts.n_vocab), np.float32), folder.norms, 0.0)]
        for found in self._walk.rows(forced):
            with np.errstate(over="ignore"):
                hidden.append(found.hidden.astype(np.float16))
            if not np.isfinite(hidden[-1]).all():
                raise GateError(f"a hidden state holds {np.abs(found.hidden).max()}, too large for 16 bits")
            likely.append(Likely.of(found.logits, folder.norms, folder.facts.softcap))
        arrays: Arrays = {"hidden": np.concatenate(hidden)}
        for name in LIKELY:
            arrays[name] = np.concatenate([getattr(part, name) for part in likely])
        write_shard(folder.shard(first, end), texts, reasons, arrays)
        return sum(len(text.tokens) for text in forced)


def _n_rows(shards: Sequence[Shard]) -> int:
    return sum(end - first for first, end in shards)
