"""A training run, saved to go on with: one safetensors file beside the gate, replaced whole or not at all."""

from __future__ import annotations

import dataclasses
import json
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from ..errors import GateError
from ..files import write_whole
from .heldout import Scores
from .learner import Weights
from .run import Measurement, Run
from .trainer import Trainer

_KEY = "lcg_cpp.train"
_SECONDS = 300.0  # between two saves


class RunKeeper:
    """Saves one run.

    Attributes:
        path: The file.
    """

    def __init__(self, path: Path, trainer: Trainer, setting: Mapping[str, Any]) -> None:
        """Nothing is written yet.

        Args:
            path: The file.
            trainer: The run.
            setting: What must be the same when it goes on: options, model, data.
        """
        self.path = path
        self._trainer = trainer
        self._setting = setting
        self._saved = time.monotonic()

    def load(self) -> None:
        """Bring the run to where the file was written; see `load_run`."""
        load_run(self.path, self._trainer, self._setting)

    def is_due(self) -> bool:
        """Whether it was saved long ago, or a run is finished that has none to lose."""
        return time.monotonic() - self._saved >= _SECONDS and self._trainer.run.progress < 1.0

    def save(self, on_error: Callable[[str], None]) -> None:
        """Write one. A run of hours does not end because a disk is full for a minute: that is only told."""
        try:
            save_run(self.path, self._trainer, self._setting)
        except OSError as error:
            on_error(f"{self.path}: the run could not be saved ({error.strerror}); training goes on")
        self._saved = time.monotonic()

    def delete(self) -> None:
        """Remove it, at the end of a run."""
        self.path.unlink(missing_ok=True)


def save_run(path: Path, trainer: Trainer, setting: Mapping[str, Any]) -> None:
    """Write everything that a later process needs to go on.

    Args:
        path: The file.
        trainer: The run, between two groups.
        setting: What must be the same when it goes on: options, model, data.

    Raises:
        OSError: It cannot be written; what was saved before is still there.
    """
    state = {"setting": setting, "run": dataclasses.asdict(trainer.run), "step": trainer.learner.step}
    write_whole(path, save(trainer.learner.state(), {_KEY: json.dumps(state)}))


def load_run(path: Path, trainer: Trainer, setting: Mapping[str, Any]) -> None:
    """Bring a new run to where it was saved.

    Args:
        path: The file.
        trainer: A run that has not begun.
        setting: See `save_run`.

    Raises:
        GateError: The file holds no saved run, or one with other settings.
        OSError: It cannot be read.
    """
    with path.open("rb"):  # safetensors' own error does not name the file
        pass
    try:
        with safe_open(str(path), "numpy") as file:
            state = json.loads((file.metadata() or {})[_KEY])
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (no mapping)
        difference = _difference(state["setting"], json.loads(json.dumps(setting)))
        if not difference:
            _restore(trainer, state, tensors)
    except (SafetensorError, AttributeError, LookupError, TypeError, ValueError, RuntimeError) as error:
        raise GateError(f"{path}: holds no run saved by this lcg-cpp ({error}); delete it to begin anew") from error
    if difference:
        raise GateError(f"{path}: was written by a run with {difference}")


def _difference(found: Mapping[str, Any], wanted: Mapping[str, Any]) -> str:
    for name, value in wanted.items():
        if found.get(name) != value:
            return f"`{name}` {found.get(name)!r}, this one has {value!r}"
    return ""


def _restore(trainer: Trainer, state: Mapping[str, Any], tensors: Weights) -> None:
    run = state["run"]
    measurements = [Measurement(**{**m, "scores": Scores.from_dict(m["scores"])}) for m in run["measurements"]]
    trainer.run = Run(**{**run, "measurements": measurements})
    trainer.learner.load_state(tensors, state["step"])
