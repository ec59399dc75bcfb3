"""Collecting states: the model is evaluated once, and any number of gates are fitted to what is kept of it."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from secrets import SystemRandom

import numpy as np

from ..data import Encoder
from ..engine.load import Engine, HfEngine, Model, load_teacher
from ..errors import GateError
from ..files import PathLike
from ..gate.decisions import DecodingRules
from ..gate.spec import spec_for
from ..gate.walk import ForcedText, StoppedError, Walk
from .likely import Likely
from .options import TrainOptions
from .run import Texts
from .states import LIKELY, Arrays, Facts, StatesFolder, write_shard
from .train import open_datasets, public_name, require_extra


@dataclass
class Collected:
    """How far a collection is."""

    n_rows: int  # of the data
    kept: int = 0  # of them, by this process or others
    tokens: int = 0  # evaluated by this process
    seconds: float = 0.0


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
        options: Only `n_ctx` counts.
        engine: What evaluates the model; None is llama.cpp.
        should_stop: Asked after every evaluation; rows that are not finished are evaluated again later.
        on_progress: Called after each file.
        on_notice: Called with what a user should know.

    Raises:
        GateError: Data or model cannot be used, or the folder holds other states.
        OSError: A file cannot be read or written.
    """
    require_extra(hf=isinstance(engine, HfEngine))
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
        collected = Collected(sum(map(len, datasets)))
        collector = _Collector(teacher, Texts(datasets, options), kept, should_stop)
        begun = time.monotonic()
        missing = kept.missing()
        collected.kept = collected.n_rows - sum(end - first for first, end in missing)
        SystemRandom().shuffle(missing)  # processes that collect together seldom meet
        for first, end in missing:
            if not kept.shard(first, end).exists():
                try:
                    collected.tokens += collector.collect(first, end)
                except StoppedError:
                    break
            collected.kept += end - first
            collected.seconds = time.monotonic() - begun
            on_progress(collected)
    return collected


class _Collector:
    """Evaluates the rows of one file."""

    def __init__(self, model: Model, texts: Texts, folder: StatesFolder, should_stop: Callable[[], bool]) -> None:
        self._texts, self._folder = texts, folder
        self._encoder = Encoder(model.tokenize, model.base, model.n_ctx)
        self._walk = Walk(model, DecodingRules.of(spec_for(model.base, n_hidden=0)).families, should_stop)

    def collect(self, first: int, end: int) -> int:
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
