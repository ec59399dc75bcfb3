"""What a gate is trained from: the model itself, or the states that were kept of it."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from ..data import Dataset
from ..engine.load import Engine, HfEngine, load_teacher
from ..engine.model import read_base_model
from ..errors import GateError
from ..files import PathLike
from .likely import check_label_options
from .options import TrainOptions
from .source import Lessons, LiveSource
from .states import KeptSource, StatesFolder


@contextlib.contextmanager
def live_lessons(
    model: PathLike,
    datasets: Sequence[Dataset],
    options: TrainOptions,
    engine: Engine | HfEngine,
    should_stop: Callable[[], bool],
) -> Iterator[Lessons]:
    """Lessons from the model itself."""
    with load_teacher(model, options.n_ctx, engine) as (teacher, matrix):
        yield Lessons(
            teacher.base,
            datasets,
            matrix.norms,
            matrix.softcap,
            lambda texts, labeller, rules: LiveSource(teacher, texts, labeller, rules, should_stop),
        )


@contextlib.contextmanager
def kept_lessons(
    model: PathLike,
    folder: Path,
    options: TrainOptions,
    should_stop: Callable[[], bool],
    on_notice: Callable[[str], None],
) -> Iterator[Lessons]:
    """Lessons from states that were kept; of the model only the vocabulary is read."""
    states = StatesFolder.open(folder)
    facts = states.facts
    base = read_base_model(model)
    states.check_base(base)
    check_label_options(options)
    if options.n_ctx > facts.n_ctx:
        raise GateError(f"`n_ctx` is {options.n_ctx}, expected at most {facts.n_ctx}: {folder} holds texts cut there")
    if states.missing():
        on_notice(
            f"{folder}: {len(states.missing())} of {len(facts.shards)} files are missing; the gate learns from the rest"
        )
    base = dataclasses.replace(base, n_embd=facts.n_embd, name=facts.model, file_type=facts.file_type)
    yield Lessons(
        base,
        facts.datasets,
        states.norms,
        facts.softcap,
        lambda texts, labeller, rules: KeptSource(states, labeller, rules, should_stop),
    )
