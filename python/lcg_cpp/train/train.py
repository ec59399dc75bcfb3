"""Training a gate: from the files a user has to the gate, the saved run and the report.

Two engines evaluate the base model: llama.cpp reads a GGUF file and the gate becomes a gate file, transformers reads a
Hugging Face checkpoint and the gate becomes a checkpoint too. All else is the same.
"""

from __future__ import annotations

import dataclasses
import math
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..convert.gate_checkpoint import write_gate_checkpoint
from ..data import open_dataset, weighted
from ..engine.load import Engine, HfEngine
from ..errors import GateError
from ..files import PathLike
from ..gate.gate_file import write_gate
from ..gate.scripts import SIBLINGS
from ..gate.spec import SPARED, GateSpec, Source, TrainValue
from ..gate.thresholds import Thresholds
from .options import TrainOptions

if TYPE_CHECKING:
    from ..data import Dataset
    from .batches import Expected
    from .learner import Weights
    from .run import Run
    from .trainer import Trainer


@dataclass(frozen=True, eq=False)
class Trained:
    """What a run came to.

    Attributes:
        run: Counts, losses and measurements.
        weights: The gate's matrices.
        finished: False if it was stopped before its end; the run is then saved to go on from.
        bad_rows: Rows of the data that could not be read.
    """

    run: Run
    weights: Weights
    finished: bool
    bad_rows: int


def require_extra(*, hf: bool = False) -> None:
    """Make sure that what training needs is installed.

    Args:
        hf: Training from a Hugging Face checkpoint.

    Raises:
        GateError: It is not.
    """
    try:
        import matplotlib  # noqa: F401, PLC0415
        import safetensors  # noqa: F401, PLC0415
        import torch  # noqa: F401, PLC0415

        if hf:
            import transformers  # noqa: F401, PLC0415
    except ImportError as error:
        extra = "hf" if hf else "train"
        raise GateError(f'training needs `{error.name}`: pip install "lcg-cpp[{extra}]"') from error


def train(
    model: PathLike,
    data: Sequence[str],
    output: PathLike,
    options: TrainOptions | None = None,
    *,
    states: Sequence[str] = (),
    unmeasured: Sequence[str] = (),
    engine: Engine | HfEngine | None = None,
    outtype: str = "f16",
    name: str = "",
    license: str = "",
    start: PathLike | None = None,
    resume: bool = False,
    should_stop: Callable[[], bool] = lambda: False,
    on_progress: Callable[[Run], None] = lambda run: None,
    on_notice: Callable[[str], None] = lambda text: None,
) -> Trained:
    """Train a gate for a model, from its own hidden states.

    Args:
        model: The base model, a GGUF file or, with a `HfEngine`, a folder; it is only read.
        data: Names of datasets, see `data.open_dataset`, each perhaps with a weight: `FILE:2` has each text twice as
            often as others; none with `states`.
        output: The gate to write: a gate file or, with a `HfEngine`, a safetensors file that `convert` takes. Beside it
            come a report (.html), the training curve (.svg) and, while it runs, the saved run.
        options: Settings that change the gate.
        states: Folders that `collect` filled, each perhaps with a weight as `data`: the gate is fitted to these
            states, and of the model, the GGUF file, only the vocabulary is read.
        unmeasured: More of `data`, or of `states`, of which nothing is held out: requests so rare that no threshold
            should make room for them.
        engine: What evaluates the model, and its settings; None is llama.cpp.
        outtype: Type of a gate file's matrices, see `write_gate`; safetensors files keep all bits.
        name: Name of the gate.
        license: SPDX expression of its licence.
        start: A gate file to go on from, instead of random weights: of this model, or of another one of the same shape
            such as the one that it was fine-tuned from. The settings must give a gate of the same width and families.
            What it knows of families that the new texts hardly hold stays.
        resume: Go on from the saved run beside `output`; the gate becomes the one of a run that was never stopped.
        should_stop: Asked after every evaluation; the gate learned so far is then written, and the run saved.
        on_progress: Called after each group of texts.
        on_notice: Called with what a user should know.

    Returns:
        What came of it.

    Raises:
        GateError: Data or model cannot be used, an extra is missing, or a saved run does not fit.
        OSError: A file cannot be read or written.
    """
    require_extra(hf=isinstance(engine, HfEngine))
    from .learner import set_threads  # noqa: PLC0415 (torch)
    from .lessons import kept_lessons, live_lessons  # noqa: PLC0415 (safetensors)
    from .report import write_report  # noqa: PLC0415
    from .saved_run import RunKeeper  # noqa: PLC0415
    from .trainer import Trainer  # noqa: PLC0415

    options, engine = options or TrainOptions(), engine or Engine()
    if engine.n_threads > 0:
        set_threads(engine.n_threads)
    if data and states:
        raise GateError("`data` and `states` are both given, expected one of them")
    _check_output(Path(output), model, [*data, *unmeasured] if data else [], resume)
    datasets = open_datasets(data, on_notice, unmeasured) if not states else []
    lessons_of = (
        live_lessons(model, datasets, options, engine, should_stop)
        if not states
        else kept_lessons(model, states, options, should_stop, on_notice, unmeasured)
    )
    with lessons_of as lessons:
        datasets = list(lessons.datasets)
        trainer = Trainer(lessons, options, engine.n_threads, start)
        keeper = RunKeeper(saved_run_path(output), trainer, run_setting(trainer, datasets))
        if resume:
            keeper.load()
        else:
            on_notice(estimate(trainer.expected, options))
        for _ in trainer.groups():
            on_progress(trainer.run)
            if keeper.is_due():
                keeper.save(on_notice)
        finished = trainer.run.progress >= 1.0
        for reason, n in trainer.skipped.items():
            on_notice(f"{n} texts are left out: {reason}")
    if not finished:
        keeper.save(on_notice)
    trainer.finish()
    if trainer.spared:
        on_notice(f"the gate never masks {', '.join(trainer.spared)}: the texts gave it too little to learn of them")
    result = Trained(trainer.run, trainer.learner.weights(), finished, sum(dataset.n_bad for dataset in datasets))
    spec = gate_spec(trainer, datasets, name, license)
    _write(output, spec, result.weights, engine, outtype)
    if finished:
        keeper.delete()
    try:
        write_report(output, result.run, spec)
    except OSError as error:  # the gate is there, and that is what took hours
        on_notice(f"no report could be written ({error.strerror})")
    return result


def estimate(expected: Expected, options: TrainOptions) -> str:
    """What a run is going to take, in words."""
    planned, in_texts = (f"{float(f'{n:.2g}'):,.0f}" for n in (expected.planned, expected.in_texts))
    of_all = f" of {in_texts}" if expected.is_limited else ""
    minutes = expected.seconds / 60
    time = f"{minutes:.0f} minutes" if minutes >= 2 else f"{expected.seconds:.1f} s"
    time = f"{minutes / 60:.1f} hours" if minutes >= 120 else time
    share = ", every script's share of them" if expected.is_limited and options.balance == "scripts" else ""
    return f"evaluating about {planned}{of_all} tokens takes about {time} at {expected.rate:,.0f} tokens/s{share}"


def open_datasets(
    data: Sequence[str], on_notice: Callable[[str], None], unmeasured: Sequence[str] = ()
) -> list[Dataset]:
    """Open datasets, and tell which of their rows cannot be used, and why; of those `unmeasured` none is held out."""
    if not data:
        raise GateError("`data` is empty, expected the names of datasets")
    datasets = []
    for number, source in enumerate((*data, *unmeasured)):
        name, weight = weighted(source)
        datasets.append(open_dataset(name))
        datasets[-1].weight, datasets[-1].is_measured = weight, number < len(data)
    for dataset in datasets:
        for reason in dataset.bad:
            on_notice(f"{reason}; the row is left out")
        if dataset.n_bad > len(dataset.bad):
            on_notice(f"{dataset.name}: {dataset.n_bad - len(dataset.bad):,} more rows are left out")
    return datasets


def _write(output: PathLike, spec: GateSpec, weights: Weights, engine: Engine | HfEngine, outtype: str) -> None:
    if isinstance(engine, Engine):
        write_gate(output, spec, weights, outtype)
    else:
        write_gate_checkpoint(output, spec, weights)


def gate_spec(trainer: Trainer, datasets: Sequence[Dataset], name: str = "", license: str = "") -> GateSpec:
    """What the gate file says of a gate and how it was made."""
    thresholds = fitted_thresholds(trainer)
    before = () if trainer.start is None else trainer.start.datasets
    sources = [Source(public_name(dataset)) for dataset in datasets]
    return dataclasses.replace(
        trainer.spec,
        families=trainer.spec.families.unmaskable(trainer.spared),
        own_thresholds=thresholds.usual,
        first_thresholds=thresholds.first,
        allow_thresholds=thresholds.allow,
        name=name or trainer.spec.name,
        license=license,
        datasets=(*before, *(source for source in sources if source not in before)),
        train=provenance(trainer, datasets),
    )


def fitted_thresholds(trainer: Trainer) -> Thresholds:
    """The thresholds that held-out text gave the families; none where they were not asked for."""
    if trainer.options.max_missed >= 1:
        return Thresholds()
    scores = trainer.run.measurements[-1].scores.families.values()
    return Thresholds(
        tuple(score.threshold for score in scores),
        tuple(score.first_threshold for score in scores),
        tuple(score.allow_threshold for score in scores) if any(s.allow_threshold < 1 for s in scores) else (),
    )


def provenance(trainer: Trainer, datasets: Sequence[Dataset]) -> dict[str, TrainValue]:
    """How a gate was made, for `adapter.lcg.train.*`."""
    run, options = trainer.run, trainer.options
    scores = run.measurements[-1].scores
    values: dict[str, TrainValue] = {
        **({} if trainer.start is None else trainer.start.provenance),
        "base_file_type": trainer.base.file_type,
        "data": "; ".join(map(_described, datasets)),
        "texts": run.texts,
        "tokens": run.tokens,
        "positions": run.positions,
        "label_top_k": options.top_k,
        "label_top_p": options.top_p,
        "label_scripts": options.label_scripts,
        "label_norm": options.norm,
        "label_soft": options.soft,
        **({"label_window": options.window} if SIBLINGS.intersection(trainer.spec.families.names) else {}),
        SPARED: ", ".join(trainer.spared),
        "learned_positions": options.positions,
        "learning_rate": trainer.learner.learning_rates[0],
        "schedule": options.schedule,
        "batch": options.batch,
        "passes": run.passes,
        **({"max_missed": options.max_missed} if options.max_missed < 1 else {}),
        "seed": options.seed,
        "progress": run.progress,
        "held_out.positions": scores.positions,
        "held_out.loss": scores.loss,
        "held_out.intervene": scores.intervene,
        "held_out.contradict": scores.contradict,
    }
    for family, score in scores.families.items():
        values[f"held_out.{family}.precision"] = score.precision
        values[f"held_out.{family}.recall"] = score.recall
    if run.losses:
        values["loss"] = run.losses[-1]
    return {key: value for key, value in values.items() if value != "" and not _is_nan(value)}


def _described(dataset: Dataset) -> str:
    weight = "" if dataset.weight == 1 else f", weight {dataset.weight:g}"
    unmeasured = "" if dataset.is_measured else ", not measured on"
    return f"{public_name(dataset)} ({len(dataset)} texts{weight}{unmeasured})"


def public_name(dataset: Dataset) -> str:
    """A file's name without its folders: gates are passed on, and where their data lay is nobody's business."""
    return dataset.name if dataset.name.startswith("hf:") else Path(dataset.name).resolve().name


def _is_nan(value: TrainValue) -> bool:
    return isinstance(value, float) and math.isnan(value)


def run_setting(trainer: Trainer, datasets: Sequence[Dataset]) -> dict[str, Any]:
    """What must be the same when a run goes on: anything else would give another gate."""
    return {
        **dataclasses.asdict(trainer.options),
        "start": None if trainer.start is None else trainer.start.sha256,
        "model": trainer.base.name,
        "file type": trainer.base.file_type,
        "tokenizer hash": trainer.spec.tokenizer_hash,
        "data": [[dataset.name, len(dataset), dataset.weight] for dataset in datasets],
        "unmeasured": [dataset.name for dataset in datasets if not dataset.is_measured] or None,
    }


def saved_run_path(output: str | os.PathLike[str]) -> Path:
    """Where a run that writes `output` is saved."""
    return Path(output).with_suffix(".unfinished.safetensors")


def _check_output(output: Path, model: PathLike, data: Sequence[str], resume: bool) -> None:
    """Find out before hours of work whether the gate can be written."""
    if not output.parent.is_dir():
        raise GateError(f"{output}: its folder does not exist")
    if output.is_dir():
        raise GateError(f"{output}: is a folder, expected the gate file to write")
    if output.resolve().parent == Path(model).resolve():
        raise GateError(f"{output}: is in the model's folder, expected it in another one")
    names = [weighted(source)[0] for source in data]
    if any(os.path.exists(source) and output.exists() and output.samefile(source) for source in (model, *names)):
        raise GateError(f"{output}: is the model or the data, expected another file to write")
    if not os.access(output.parent, os.W_OK):
        raise GateError(f"{output}: its folder cannot be written to")
    saved = saved_run_path(output)
    if resume and not saved.exists():
        raise GateError(f"{saved}: does not exist, there is nothing to resume")
    if not resume and saved.exists():
        raise GateError(f"{saved}: an unfinished run; --resume goes on with it, delete it to begin anew")
