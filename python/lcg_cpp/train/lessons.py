"""What a gate is trained from: the model itself, or the states that were kept of it."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from ..data import Dataset, weighted
from ..engine.load import Engine, HfEngine, load_teacher
from ..engine.model import read_base_model
from ..errors import GateError
from ..files import PathLike
from .likely import check_label_options
from .options import TrainOptions
from .source import Lessons, LiveSource
from .states import JoinedSource, KeptSource, StatesFolder


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
    states: Sequence[str],
    options: TrainOptions,
    should_stop: Callable[[], bool],
    on_notice: Callable[[str], None],
    unmeasured: Sequence[str] = (),
) -> Iterator[Lessons]:
    """Lessons from folders of states that were kept, each perhaps with a weight; of the model only the vocabulary.

    Of the texts of those that are `unmeasured` none is held out.
    """
    named = [weighted(source) for source in (*states, *unmeasured)]
    folders = [StatesFolder.open(Path(name)) for name, _ in named]
    base = read_base_model(model)
    check_label_options(options)
    for folder in folders:
        folder.check_base(base)
        folder.check_same(folders[0])
        facts = folder.facts
        if options.n_ctx > facts.n_ctx:
            raise GateError(
                f"`n_ctx` is {options.n_ctx}, expected at most {facts.n_ctx}: {folder.path} holds texts cut there"
            )
        if missing := folder.missing():
            on_notice(
                f"{folder.path}: {len(missing)} of {len(facts.shards)} files are missing; the gate learns from the rest"
            )
    first = folders[0]
    datasets = [folder.datasets(weight) for folder, (_, weight) in zip(folders, named)]
    for own in datasets[len(states) :]:
        for dataset in own:
            dataset.is_measured = False
    yield Lessons(
        dataclasses.replace(base, n_embd=first.facts.n_embd, name=first.facts.model, file_type=first.facts.file_type),
        [dataset for own in datasets for dataset in own],
        first.norms,
        first.facts.softcap,
        lambda texts, labeller, rules: JoinedSource(
            [KeptSource(folder, labeller, rules, should_stop) for folder in folders]
        ),
    )
