"""Gates that need no training, for the methods of an evaluation that have no gate file."""

from __future__ import annotations

import os
import tempfile

import numpy as np
import numpy.typing as npt

from ..engine.base_model import BaseModel
from ..engine.output_norms import label_norms, read_output_matrix
from ..gate.gate import Gate
from ..gate.gate_file import write_gate
from ..gate.labels import LABEL_NORM
from ..gate.scripts import SIBLINGS
from ..gate.spec import GateSpec, spec_for


def rules_gate(base: BaseModel, gate: Gate | None = None, rules: str = "default") -> Gate:
    """Make a gate that knows nothing: whatever the state, it predicts the families that may not be masked, all of them.

    What is left of the method is its rules, which ask: how much of the effect needs a gate at all? With the four
    families P = {symbols, lowres} at every step. So after a language token, `cj` and `latin` are banned but for the
    family of that token, where one of their tokens could be sampled and the model's own confidence set H holds a token
    of `symbols` or `lowres`. Before the first language token it never acts. Of a family for each script, P = {symbols}.

    The families are those of `gate`, or else those of a rule set.
    """
    spec = spec_for(base, n_hidden=0, rules=rules, name="rules without a gate") if gate is None else _spec_like(gate)
    return _load(spec, np.where(spec.families.maskable, -8.0, 8.0))


def training_free_gate(base: BaseModel, rules: str = "scripts") -> Gate:
    """Make a gate that asks the step's own distribution: P is the label that `train` would give the position.

    The logits are divided by the norms of the output rows, relative to their mean; P are the families among the most
    probable tokens (`LABEL_TOP_K`, `LABEL_TOP_P`). A gate that had learned its labels by heart would predict the same,
    so the difference to a trained gate is what training adds. But training tells the families of Chinese and Japanese
    apart by the tokens behind a position too (`train.windows`), which do not exist yet while a model generates. At a
    single position chance decides between them, so here all of them are predicted where one is.

    Args:
        base: The model, a file.
        rules: Rule set of the families; all of them may be masked.

    Raises:
        GateError: The norms of the model's output matrix cannot be read.
    """
    spec = spec_for(base, n_hidden=0, rules=rules, name="training-free gate")
    matrix = read_output_matrix(base.path)
    norms = label_norms(matrix.norms, LABEL_NORM)
    gate = _load(spec, np.zeros(len(spec.families)))
    return gate.training_free(spec.token_family, norms, matrix.softcap, SIBLINGS)


def _load(spec: GateSpec, bias: npt.NDArray[np.float64]) -> Gate:
    """A linear gate that gives the same z (n_families,) for every state."""
    weights = {
        "lcg.fc2.weight": np.zeros((len(spec.families), spec.n_embd), np.float32),
        "lcg.fc2.bias": bias.astype(np.float32),
    }
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "untrained.gguf")
        write_gate(path, spec, weights, "f32")
        return Gate.load(path)


def _spec_like(gate: Gate) -> GateSpec:
    others = np.flatnonzero(gate.masked_as != gate.token_families)
    return GateSpec(
        architecture=gate.architecture,
        n_embd=gate.n_embd,
        n_hidden=0,
        token_family=gate.token_families.copy(),  # exemptions are applied
        tokenizer_hash=gate.tokenizer_hash,
        fingerprint=gate.fingerprint,
        families=gate.families,
        confidence=gate.confidence,
        masked_as={int(token): int(gate.masked_as[token]) for token in others},
    )
