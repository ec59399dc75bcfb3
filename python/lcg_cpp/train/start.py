"""The gate that a run goes on from, instead of random weights."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import GateError
from ..files import PathLike
from ..gate.gate import Gate
from ..gate.gate_file import read_weights
from ..gate.rule_set import FamilySet
from ..gate.spec import GateSpec, Source, TrainValue
from ..gate.thresholds import Thresholds

if TYPE_CHECKING:
    from ..engine.base_model import BaseModel
    from .learner import Weights


@dataclass(frozen=True, eq=False)
class Start:
    """A gate to go on from.

    What it has learned of families that the new texts do not hold stays: it still masks them, with its thresholds.

    Attributes:
        families: Its families.
        thresholds: From which probability it predicts them.
        weights: Its matrices.
        datasets: What it was trained on.
        provenance: What the new gate's file says of it, in `adapter.lcg.train.*`.
        sha256: Of its file.
    """

    families: FamilySet
    thresholds: Thresholds
    weights: Weights
    datasets: Sequence[Source]
    provenance: dict[str, TrainValue]
    sha256: str

    @classmethod
    def read(cls, path: PathLike, spec: GateSpec, base: BaseModel) -> Start:
        """Read a gate file.

        Args:
            path: The file.
            spec: The gate to train.
            base: The model that it is for; the gate may be that of another one of its shape, such as a fine-tune.

        Raises:
            GateError: It is no gate file, or its gate is of another shape, for another tokenizer, or has biases.
            OSError: It cannot be read.
        """
        gate = Gate.load(path)
        gate.check_model(base, "shape")
        for what, found, wanted in (
            ("`n_hidden`", gate.n_hidden, spec.n_hidden),
            ("`rules`", gate.families.rules, spec.families.rules),
            ("families", ", ".join(gate.families.names), ", ".join(spec.families.names)),
        ):
            if found != wanted:
                raise GateError(f"{gate.path}: has the {what} {found}, the gate to train has {wanted}")
        weights = read_weights(path)
        if biases := [name for name in weights if name.endswith(".bias")]:
            raise GateError(f"{gate.path}: has {biases[0]}, expected a gate of `lcg-cpp train`, which have no biases")
        said = {key: str(value) for key, value in gate.metadata.items()}
        fields = [field.name for field in dataclasses.fields(Source)]
        datasets = [
            Source(*(said.get(f"general.dataset.{i}.{field}", "") for field in fields))
            for i in range(int(said.get("general.dataset.count", 0)))
        ]
        provenance: dict[str, TrainValue] = {"start": f"{said.get('general.name', '')} ({Path(gate.path).name})"}
        learned = [said.get(f"adapter.lcg.train.{key}", "") for key in ("start_data", "data")]
        if any(learned):
            provenance["start_data"] = "; ".join(filter(None, learned))
        sha256 = hashlib.sha256(Path(gate.path).read_bytes()).hexdigest()
        return cls(gate.families, gate.thresholds, weights, datasets, provenance, sha256)

    def is_known(self, family: str) -> bool:
        """Whether it has learned a family well enough to mask it."""
        return family in self.families.names and self.families.maskable[self.families.names.index(family)]
