"""The decoding rules at many steps of given texts: what a gate would do where the text goes its own way.

The rules themselves are the core's, the very ones that the sampling chain applies.
"""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from .. import _core
from .options import GateOptions
from .results import REASONS, Reason
from .rule_set import FamilySet
from .spec import GateSpec
from .steps import PAPER_SAMPLING, Sampling, Steps
from .thresholds import Thresholds

if TYPE_CHECKING:
    from .gate import Gate

Bools = npt.NDArray[np.bool_]

NO_FAMILY = -1


@dataclass(frozen=True, eq=False)
class FamilyTable:
    """The families of a gate's tokens."""

    token_family: npt.NDArray[np.intp]  # (n_vocab,), as used while decoding: exemptions applied
    families: FamilySet
    masked_as: npt.NDArray[np.intp] | None = None  # (n_vocab,), the family whose ban removes each token; None: its own

    @classmethod
    def of(cls, gate: Gate | GateSpec) -> FamilyTable:
        """The table of a gate."""
        if isinstance(gate, GateSpec):
            token_family = gate.token_family.astype(np.intp)
            token_family[list(gate.exempt_tokens)] = gate.families.neutral
            masked_as = token_family.copy()
            masked_as[list(gate.masked_as)] = list(gate.masked_as.values())
        else:
            token_family, masked_as = gate.token_families.astype(np.intp), gate.masked_as.astype(np.intp)
        return cls(token_family, gate.families, masked_as)

    @property
    def maskable(self) -> Bools:
        """Which families may be removed, bool (n_families,)."""
        return np.array(self.families.maskable)

    @property
    def neutral(self) -> int:
        """Index of the family that is no language."""
        return self.families.neutral

    @property
    def names(self) -> tuple[str, ...]:
        """Their names."""
        return self.families.names

    def held(self, steps: Steps, tokens: Bools) -> Bools:
        """The families, bool (n, n_families), of some of the tokens of each step, bool (n, k)."""
        return self._found(self.token_family, steps, tokens)

    def masked(self, steps: Steps, tokens: Bools) -> Bools:
        """The families whose ban removes some of the tokens of each step, likewise."""
        return self._found(self.token_family if self.masked_as is None else self.masked_as, steps, tokens)

    def _found(self, family: npt.NDArray[np.intp], steps: Steps, tokens: Bools) -> Bools:
        families = np.zeros((len(steps), len(self.families)), np.bool_)
        rows, columns = np.nonzero(tokens)
        families[rows, family[steps.ids[rows, columns]]] = True
        return families


@dataclass(frozen=True, eq=False)
class Rulings:
    """What the rules make of n steps."""

    reasons: npt.NDArray[np.uint8]  # (n,), indices into `results.REASONS`
    predicted: Bools  # (n, n_families), P
    allowed: Bools  # (n, n_families), A
    banned: Bools  # (n, n_families), B; of no effect where the gate does not intervene

    def are(self, reason: Reason) -> Bools:
        """Which of them have this reason, bool (n,)."""
        return np.equal(self.reasons, REASONS.index(reason))

    @property
    def intervene(self) -> Bools:
        """Whether the gate removes anything, bool (n,)."""
        return self.are("intervene")


@dataclass(frozen=True, eq=False)
class DecodingRules:
    """The decoding rules of a gate (paper, section 3.3), for steps of given texts."""

    families: FamilyTable  # of its tokens
    thresholds: Thresholds
    confidence: tuple[tuple[int, float], ...]  # (top-k, top-p) of the sets whose union is H
    # which rules hold, and a threshold for every family; `mode` and `strength` are ignored: banned tokens are removed
    options: GateOptions = GateOptions()  # noqa: RUF009 (frozen)

    @classmethod
    def of(cls, gate: Gate | GateSpec, options: GateOptions = GateOptions()) -> DecodingRules:  # noqa: B008 (frozen)
        """The rules of a gate."""
        return cls(FamilyTable.of(gate), gate.thresholds, gate.confidence, options)

    def steps(self, logits: npt.NDArray[np.float32], sampling: Sampling = PAPER_SAMPLING) -> Steps:
        """What these rules look at in logits, float32 (n, n_vocab); see `Steps.of`."""
        return Steps.of(logits, sampling, self.confidence, self.options.confidence_temperature)

    def judge(self, steps: Steps, z: npt.NDArray[np.float32], last: npt.NDArray[np.int64]) -> Rulings:
        """Apply the rules to n steps, of rules with the same confidence sets and `confidence_temperature`.

        `z`, float32 (n, n_families), are the gate's logits; `last`, int64 (n,), the family of the newest language token
        of the reply, NO_FAMILY if there is none.
        """
        return self.judge_families(z, last, *self.families_at(steps))

    def families_at(self, steps: Steps) -> tuple[Bools, Bools, Bools]:
        """What `judge_families` must know of n steps: its `survivors`, `confident` and `confident_masked`."""
        table, confident = self.families, steps.confident()
        return table.masked(steps, steps.survivors()), table.held(steps, confident), table.masked(steps, confident)

    def judge_families(
        self,
        z: npt.NDArray[np.float32],
        last: npt.NDArray[np.int64],
        survivors: Bools,
        confident: Bools,
        confident_masked: Bools,
    ) -> Rulings:
        """The same where only families of tokens are known, all bool (n, n_families).

        `survivors` and `confident_masked` are those whose ban removes the tokens in S and H, `confident` those that the
        tokens in H belong to.
        """
        rules = dataclasses.replace(self.options, mode="mask").core_rules(self.thresholds)
        may_go = self.families.maskable
        return Rulings(*_core.judge(rules, math.inf, may_go, z, last, survivors, confident, confident_masked))


def last_families(
    tokens: npt.NDArray[np.integer[Any]], is_reply: Bools, families: FamilyTable
) -> npt.NDArray[np.int64]:
    """At each token of a text, the family of the newest token of the same reply that is not neutral.

    Gives int64 (n,), NO_FAMILY outside of replies and before a reply's first such token.
    """
    family = families.token_family[tokens]
    at = np.arange(len(family))
    newest = np.maximum.accumulate(np.where(is_reply & (family != families.neutral), at, -1))
    outside = np.maximum.accumulate(np.where(is_reply, -1, at))
    return np.where(newest > outside, family[newest], NO_FAMILY)
