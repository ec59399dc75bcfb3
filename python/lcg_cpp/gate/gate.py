"""A gate, loaded."""

from __future__ import annotations

import copy
import math
import os
from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING, get_args

import numpy as np
import numpy.typing as npt

from .. import _core
from ..engine.connect import connect_core
from ..errors import GateError
from ..files import PYTORCH_SUFFIXES, PathLike, require_regular
from .labels import LABEL_TOP_K, LABEL_TOP_P
from .options import Device, GateOptions, ModelCheck
from .pin import Pins
from .results import REASONS, Decision, GateEvent
from .rule_set import FamilySet
from .thresholds import Thresholds

if TYPE_CHECKING:
    from ..engine.base_model import BaseModel

MAX_FILE_SIZE = 2 << 30  # bytes; the largest real gate, F32 at 8,192 dimensions, has 270 MB


def read_gate_file(path: PathLike) -> _core.GateFile:
    """Read and validate a gate file without loading it onto a device."""
    name = os.fsdecode(path)
    require_regular(name)
    size = os.stat(name).st_size
    with open(name, "rb") as file:
        start = file.read(4)
        if start != b"GGUF" and os.path.splitext(name)[1].lower() in PYTORCH_SUFFIXES:
            raise GateError(
                f"{name}: holds weights for PyTorch, expected a gate file; make one with `lcg-cpp convert {name} --base"
                " MODEL.gguf`"
            )
        if size > MAX_FILE_SIZE:
            raise GateError(
                f"{name}: has {size / 1e9:.1f} GB, a gate file has at most {MAX_FILE_SIZE / 1e9:.1f} GB"
                " (is this a base model? it goes to -m/--model)"
            )
        return _core.parse_gate_file(start + file.read(), name)


class Gate:
    """A Language Confusion Gate, loaded. Immutable: any number of models and threads may share one."""

    def __init__(self, path: PathLike, *, device: Device = "cpu") -> None:
        """See `Gate.load`."""
        connect_core()
        self.path = os.fsdecode(path)
        file = read_gate_file(path)
        self.metadata: dict[str, object] = file.metadata
        self.tensors: dict[str, tuple[str, tuple[int, ...]]] = file.tensors
        self._core = _core.Gate(file, device)
        core = self._core
        self.families = FamilySet(tuple(core.families), tuple(core.maskable), core.neutral, core.rules)
        self._token_families = self._core.token_families
        self._token_families.flags.writeable = False
        self._masked_as = self._core.masked_as
        self._masked_as.flags.writeable = False

    @classmethod
    def load(cls, path: PathLike, device: Device = "cpu") -> Gate:
        """Load a gate file.

        Args:
            path: A gate file (GGUF v3).
            device: Where the MLP runs: `cpu`, `gpu` (the GPU backend of the installed llama-cpp-python), or `auto`
                (a GPU that supports the gate's tensor types, or else the CPU).

        Raises:
            GateError: The file is not a valid gate file, or the device is not there.
            OSError: The file cannot be read.
        """
        return cls(path, device=device)

    def training_free(
        self,
        families: npt.NDArray[np.uint8],
        norms: npt.NDArray[np.float32] | None,
        softcap: float,
        siblings: Collection[str] = (),
    ) -> Gate:
        """The same families and rules without the MLP: P is the label that training would give the step.

        The logits are those of the model, before anything in the sampling chain changes them.

        Args:
            families: uint8 (n_vocab,), the family of each token in labels, exemptions not applied.
            norms: float32 (n_vocab,), what each token's logit is divided by, see `label_norms`; None for nothing.
            softcap: The model's final soft-capping, 0 if it has none.
            siblings: Names of families that are all predicted where one of them is, as far as the gate has them.

        Raises:
            GateError: An array has another length, a family is unknown, or a norm is not above 0.
        """
        gate = copy.copy(self)
        gate.path, gate.tensors = "training-free gate", {}
        together = [f for f, name in enumerate(self.families.names) if name in siblings]
        gate._core = self._core.training_free(families, norms, LABEL_TOP_K, LABEL_TOP_P, softcap, together)
        return gate

    def __repr__(self) -> str:
        return (
            f"Gate({self.path!r}, architecture={self.architecture!r}, n_embd={self.n_embd}, "
            f"n_hidden={self.n_hidden}, n_vocab={self.n_vocab}, device={self.device!r})"
        )

    @property
    def device(self) -> str:
        """The ggml device that holds the weights, e.g. `CPU` or `Metal`."""
        return self._core.device

    @property
    def architecture(self) -> str:
        """Architecture of the base model, e.g. `qwen3`."""
        return self._core.architecture

    @property
    def n_embd(self) -> int:
        """Width of the hidden state."""
        return self._core.n_embd

    @property
    def n_hidden(self) -> int:
        """Width of the hidden layer; 0 is a linear gate."""
        return self._core.n_hidden

    @property
    def n_vocab(self) -> int:
        """Size of the base model's vocabulary."""
        return self._core.n_vocab

    @property
    def thresholds(self) -> Thresholds:
        """For each family, the probability from which it counts as predicted."""
        core = self._core
        return Thresholds(tuple(core.thresholds), tuple(core.first_thresholds), tuple(core.allow_thresholds))

    @property
    def confidence(self) -> tuple[tuple[int, float], ...]:
        """(top-k, top-p) of the sets whose union is what the model itself is confident about."""
        return tuple(self._core.confidence)

    @property
    def tokenizer_hash(self) -> str:
        """Identifies the base model's tokenizer, see `Vocab.tokenizer_hash`."""
        return self._core.tokenizer_hash

    @property
    def fingerprint(self) -> str:
        """Identifies the base model's weights, see `engine.fingerprint`; empty in older gates."""
        return self._core.fingerprint

    @property
    def exempt_tokens(self) -> tuple[int, ...]:
        """Tokens that count as neutral while decoding."""
        return tuple(self._core.exempt_tokens)

    @property
    def token_families(self) -> npt.NDArray[np.uint8]:
        """uint8 (n_vocab,): the family of each token as used while decoding (exemptions applied); read-only."""
        return self._token_families

    @property
    def masked_as(self) -> npt.NDArray[np.uint8]:
        """uint8 (n_vocab,): the family whose ban removes each token, see `GateSpec.masked_as`; read-only."""
        return self._masked_as

    def names(self, indices: Sequence[int]) -> tuple[str, ...]:
        """Names of families by index."""
        return tuple(self.families.names[i] for i in indices)

    def predict(self, hidden: npt.ArrayLike) -> npt.NDArray[np.float32]:
        """Evaluate the MLP: z = W2 · relu(W1 · h + b1) + b2.

        Args:
            hidden: float32 (n, n_embd), hidden states after the final norm.

        Returns:
            float32 (n, n_families), logits; the sigmoid of each is the probability that its family may come next.

        Raises:
            GateError: `hidden` has another shape.
        """
        return self._core.predict(np.asarray(hidden, dtype=np.float32))

    def decide(
        self,
        ids: npt.ArrayLike,
        logits: npt.ArrayLike,
        survivors: npt.ArrayLike,
        z: npt.ArrayLike,
        *,
        last: int | None,
        temperature: float = 1.0,
        options: GateOptions | None = None,
    ) -> Decision:
        """Apply the decoding rules (paper, section 3.3) to explicit data, for anyone who wants to see why.

        Args:
            ids: int32 (n,), all candidates C, each once.
            logits: float32 (n,), their logits before temperature; -inf for what a grammar forbids.
            survivors: int32 (m,), the ids of C that the user's own truncation (top-k, top-p …) leaves.
            z: float32 (n_families,), the gate's output at this step.
            last: Family index of the most recent generated language token, None at the start of a reply.
            temperature: The request's temperature, above 0 (1 for greedy).
            options: Rules, threshold and strength; `mode`, `n_events`, `eager`, `allow`, `deny` and `phases` have
                no meaning here: what is pinned away is not in C.

        Raises:
            GateError: An argument does not fit the gate or the others.
        """
        chosen = options if options is not None else GateOptions()
        if not 0 < temperature < math.inf:
            raise GateError(f"`temperature` is {temperature}, expected more than 0 (1 for greedy)")
        if last is not None and not 0 <= last < len(self.families):
            raise GateError(f"`last` is {last}, expected None or a family that is not neutral")
        code, predicted, allowed, banned, (left, left_logits) = self._core.decide(
            np.asarray(ids, dtype=np.int32),
            np.asarray(logits, dtype=np.float32),
            np.asarray(survivors, dtype=np.int32),
            np.asarray(z, dtype=np.float32),
            last,
            temperature,
            chosen.core_rules(self.thresholds),
            chosen.strength,
        )
        return Decision(
            intervene=REASONS[code] == "intervene",
            reason=REASONS[code],
            predicted=self.names(predicted),
            allowed=self.names(allowed),
            banned=self.names(banned),
            candidates=left,
            logits=left_logits,
        )

    def match(self, base: BaseModel) -> ModelCheck:
        """`weights` if the gate was made for this very model; `shape` if not, or if gate or model do not tell."""
        return "weights" if self.fingerprint and self.fingerprint == base.fingerprint else "shape"

    def check_model(self, base: BaseModel, check: ModelCheck = "weights") -> None:
        """Refuse a model that the gate was not made for.

        Args:
            base: The model.
            check: `weights`: it must be the very model, in any quantization (`engine.fingerprint`), as far as gate and
                model tell. A LoRA does not show: whether a gate fits a model with one has to be measured. `shape`:
                another model of the same architecture, width and tokenizer will do, such as a fine-tune.

        Raises:
            GateError: The model is another one.
        """
        if check not in get_args(ModelCheck):
            raise GateError(f"`gate_check` is {check!r}, expected {' or '.join(get_args(ModelCheck))}")
        only = "a gate fits only the model it was trained on"
        for what, wanted, found in (
            ("architecture", self.architecture, base.architecture),
            ("n_embd", self.n_embd, base.n_embd),
            ("n_vocab", self.n_vocab, base.vocab.n_vocab),
        ):
            if wanted != found:
                raise GateError(f"{self.path}: was made for {what} {wanted}, the model {base.path} has {found}; {only}")
        if not base.vocab.has_hash(self.tokenizer_hash):
            own = self.metadata.get("general.base_model.0.name", "another model")
            raise GateError(
                f"{self.path}: was made for {own}, the model {base.path} ({base.name}) has another tokenizer;"
                f" {only}, however it is quantized"
            )
        if check == "weights" and self.fingerprint and base.fingerprint not in ("", self.fingerprint):
            raise GateError(
                f"{self.path}: was made for other weights than those of {base.path} ({base.name}), which has the same"
                f' shape; {only}; to try it all the same, pass gate_check="shape" (--any-model)'
            )

    def new_stages(self, options: GateOptions, pins: Pins | None = None) -> _core.StagePair:
        """State for one sampling chain at a time.

        Args:
            options: How the gate acts.
            pins: What is known of the model's tokens; None if there is neither a pin nor a phase.
        """
        return _core.StagePair(self._core, options.core_stage_options(self.thresholds, pins))

    def read_events(self, stages: _core.StagePair) -> list[GateEvent]:
        """The interventions that stages of this gate kept, oldest first."""
        return [
            GateEvent(
                reply=event["reply"],
                position=event["position"],
                last=None if event["last"] is None else self.families.names[event["last"]],
                predicted=self.names(event["predicted"]),
                allowed=self.names(event["allowed"]),
                banned=self.names(event["banned"]),
                z=tuple(event["z"]),
                removed=tuple(event["removed"]),
                left=tuple(event["left"]),
                chosen=event["chosen"],
                observed=event["observed"],
            )
            for event in stages.events()
        ]
