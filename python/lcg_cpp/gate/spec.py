"""What a gate is, apart from its weights."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Union

import numpy as np
import numpy.typing as npt

from ..engine.base_model import BaseModel
from ..errors import GateError
from .families import DEFAULT_FAMILIES, exempt_tokens, masked_as, vocab_families
from .rule_set import FamilySet
from .thresholds import Thresholds

SPARED = "never_masked"  # in `train`: names of the families that are not maskable because too few labels held them
CONFIDENCE = ((5, 0.999), (20, 0.95))  # the two sets of H, paper section 3.3

_MAX_WIDTH = 1 << 16
_MAX_VOCAB = 1 << 22
_MAX_CONFIDENCE_SETS = 8
_MAX_CONFIDENCE_K = 1024

TrainValue = Union[bool, int, float, str]


@dataclass(frozen=True)
class Source:
    """A model or a dataset that a gate was made from; the fields are those of the GGUF specification."""

    name: str
    organization: str = ""
    version: str = ""
    repo_url: str = ""


@dataclass(frozen=True, eq=False)
class GateSpec:
    """Everything that goes into a gate file but the weights."""

    architecture: str  # the base model's, e.g. `qwen3`; must match when the gate is used
    n_embd: int  # width of the base model's last hidden state
    n_hidden: int  # width of the gate's hidden layer; 0 is a linear gate
    token_family: npt.NDArray[np.uint8]  # (n_vocab,), indices into the families, exemptions not applied
    tokenizer_hash: str  # `Vocab.tokenizer_hash` of the base model; must match when the gate is used
    # the families, in the order of the gate's outputs, and the rule set that made `token_family`
    families: FamilySet = DEFAULT_FAMILIES
    threshold: float = 0.5  # probability from which a family counts as predicted, between 0 and 1
    own_thresholds: tuple[float, ...] = ()  # one for each family instead; empty: `threshold` for all
    first_thresholds: tuple[float, ...] = ()  # before a reply's first language token; empty: as after it
    allow_thresholds: tuple[float, ...] = ()  # from which a family may come, predicted or not; see `Thresholds.allow`
    # (top_k, top_p) of each set whose union is the confidence set H
    confidence: tuple[tuple[int, float], ...] = CONFIDENCE
    exempt_tokens: tuple[int, ...] = ()  # ids that count as neutral while decoding
    # token -> index of the family whose ban removes it, where that is not its own; see `families.masked_as`
    masked_as: Mapping[int, int] = field(default_factory=dict)
    fingerprint: str = ""  # of the base model's weights, see `engine.fingerprint`; must match when the gate is used
    name: str = ""  # human-readable name of the gate
    version: str = ""  # version of the gate, e.g. `v1.0`
    license: str = ""  # SPDX expression
    base_models: tuple[Source, ...] = ()  # what the gate was made for
    datasets: tuple[Source, ...] = ()  # what it was trained on
    # how it was made, written as `adapter.lcg.train.<key>`: tokens seen, label settings, loss, …
    train: Mapping[str, TrainValue] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for what in ("architecture", "tokenizer_hash"):
            if not getattr(self, what):
                raise GateError(f"`{what}` is empty")
        _check_range("n_embd", self.n_embd, 1, _MAX_WIDTH)
        _check_range("n_hidden", self.n_hidden, 0, _MAX_WIDTH)
        self._check_token_family()
        self._check_thresholds()
        _check_range("number of `confidence` sets", len(self.confidence), 1, _MAX_CONFIDENCE_SETS)
        for top_k, top_p in self.confidence:
            _check_range("`confidence` top_k", top_k, 1, _MAX_CONFIDENCE_K)
            if not 0.0 < float(np.float32(top_p)) <= 1.0:
                raise GateError(f"`confidence` top_p is {top_p}, expected more than 0 and at most 1")
        for token in self.exempt_tokens:
            _check_range("`exempt_tokens` id", token, 0, self.n_vocab - 1)
        for token, family in self.masked_as.items():
            _check_range("`masked_as` id", token, 0, self.n_vocab - 1)
            _check_range("family in `masked_as`", family, 0, len(self.families) - 1)
        for key, value in self.train.items():
            if not isinstance(value, (int, float, str)) or value == "" or (isinstance(value, int) and value < 0):
                raise GateError(f"`train` {key} is {value!r}, expected a bool, a natural number, a float or a text")

    def _check_thresholds(self) -> None:
        # as the reader will see them: 0.99999999 is 1 in 32 bits
        for threshold in (self.threshold, *self.own_thresholds, *self.first_thresholds):
            if not 0.0 < float(np.float32(threshold)) < 1.0:
                raise GateError(f"`threshold` is {threshold}, expected a probability between 0 and 1")
        for threshold in self.allow_thresholds:
            if not 0.0 < float(np.float32(threshold)) <= 1.0:
                raise GateError(f"`allow_thresholds` holds {threshold}, expected a probability above 0")
        for what in ("own_thresholds", "first_thresholds", "allow_thresholds"):
            n, n_families = len(getattr(self, what)), len(self.families)
            if n not in (0, n_families):
                raise GateError(f"`{what}` has {n} elements, expected {n_families}, one for each family")

    def _check_token_family(self) -> None:
        table = self.token_family
        if table.dtype != np.uint8 or table.ndim != 1:
            raise GateError(f"`token_family` is {table.dtype} {table.shape}, expected uint8 (n_vocab,)")
        _check_range("length of `token_family`", len(table), 1, _MAX_VOCAB)
        n_families = len(self.families)
        if int(table.max()) >= n_families:
            token = int(np.argmax(table >= n_families))
            raise GateError(
                f"`token_family` gives token {token} the family {table[token]}, expected 0 to {n_families - 1}"
            )

    @property
    def n_vocab(self) -> int:
        """The number of tokens in the table."""
        return len(self.token_family)

    @property
    def thresholds(self) -> Thresholds:
        """For each family, the probability from which it counts as predicted, and from which it is allowed."""
        usual = self.own_thresholds or (self.threshold,) * len(self.families)
        return Thresholds(usual, self.first_thresholds, self.allow_thresholds)


def spec_for(
    base: BaseModel,
    *,
    n_hidden: int,
    rules: str = "default",
    threshold: float = 0.5,
    own_thresholds: tuple[float, ...] = (),
    first_thresholds: tuple[float, ...] = (),
    allow_thresholds: tuple[float, ...] = (),
    name: str = "",
    version: str = "",
    license: str = "",
    datasets: tuple[Source, ...] = (),
    train: Mapping[str, TrainValue] | None = None,
) -> GateSpec:
    """Describe a gate for a base model: families, token table, tokenizer hash and exemptions come from its vocabulary.

    Without a name, it is called "LCG for <base name>". The families that `train` names as `SPARED` are not maskable.
    """
    metadata = base.metadata
    source = Source(
        name=base.name,
        organization=metadata.get("general.organization", ""),
        version=metadata.get("general.version", ""),
        repo_url=metadata.get("general.repo_url", ""),
    )
    families, token_family = vocab_families(base.vocab, rules)
    train = dict(train or {})
    families = families.unmaskable(str(train.get(SPARED, "")).split(", "))
    return GateSpec(
        architecture=base.architecture,
        n_embd=base.n_embd,
        n_hidden=n_hidden,
        token_family=token_family,
        tokenizer_hash=base.vocab.tokenizer_hash,
        fingerprint=base.fingerprint,
        threshold=threshold,
        own_thresholds=own_thresholds,
        first_thresholds=first_thresholds,
        allow_thresholds=allow_thresholds,
        exempt_tokens=exempt_tokens(base.vocab),
        masked_as=masked_as(base.vocab, families, token_family),
        families=families,
        name=name or f"LCG for {base.name}",
        version=version,
        license=license,
        base_models=(source,),
        datasets=datasets,
        train=train,
    )


def _check_range(what: str, value: int, low: int, high: int) -> None:
    if not low <= value <= high:
        raise GateError(f"{what if '`' in what else f'`{what}`'} is {value}, expected {low} to {high}")
