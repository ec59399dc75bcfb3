"""What a gate reports: counters, interventions, decisions."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
import numpy.typing as npt

Reason = Literal["intervene", "no_history", "nothing_banned", "not_confident", "would_empty"]
REASONS: tuple[Reason, ...] = get_args(Reason)  # as the core numbers them


@dataclass(frozen=True)
class GateStats:
    """Counters since the model was loaded or `reset_gate_stats` was called.

    Attributes:
        steps: Tokens sampled.
        gate_runs: Steps on which the MLP was evaluated.
        interventions: Steps on which a banned family was removed (in mode `observe`: would have been).
        observed: Of these, steps in mode `observe`, where nothing was removed.
        not_confident: Steps on which the gate banned a family that could be sampled and the confidence rule, the
            model's own opinion, overruled it.
        without_hidden: Steps on which the gate was wanted but no hidden state was there to read.
        removed_mass: Probability of the removed tokens, summed over the interventions.
        gate_seconds: Time spent in the MLP.
        pin_yields: Steps on which a grammar or a bias had left only what is pinned away, so that the pin did not act.
    """

    steps: int = 0
    gate_runs: int = 0
    interventions: int = 0
    observed: int = 0
    not_confident: int = 0
    without_hidden: int = 0
    removed_mass: float = 0.0
    gate_seconds: float = 0.0
    pin_yields: int = 0


@dataclass(frozen=True)
class GateEvent:
    """One intervention.

    Attributes:
        reply: Counts the replies since the model was loaded, from 1.
        position: Index of the generated token in its reply, from 0.
        last: Family of the most recent language token, None before the first.
        predicted: Families the gate predicts.
        allowed: `predicted` and `last`.
        banned: Families that were removed.
        z: The gate's output, one logit for each family.
        removed: (token id, probability) of the removed tokens that could have been sampled, most probable first, at
            most 20.
        left: (token id, probability) of the tokens that were sampled from, likewise. The probabilities are those before
            the intervention; a banned token that a finite `strength` leaves has what it kept of its own.
        chosen: The token sampled instead.
        observed: Nothing was removed: the mode was `observe`.
    """

    reply: int
    position: int
    last: str | None
    predicted: tuple[str, ...]
    allowed: tuple[str, ...]
    banned: tuple[str, ...]
    z: tuple[float, ...]
    removed: tuple[tuple[int, float], ...]
    left: tuple[tuple[int, float], ...]
    chosen: int
    observed: bool = False


@dataclass(frozen=True, eq=False)
class Decision:
    """What the rules make of one step.

    Attributes:
        intervene: Whether anything is removed.
        reason: `intervene`, or which condition failed: `no_history` (no language token was generated yet),
            `nothing_banned` (no banned family could be sampled), `not_confident` (the model finds no predicted family
            plausible), `would_empty` (nothing would be left).
        predicted: Families whose probability reaches the threshold, and the most probable one.
        allowed: `predicted`, the last family, and those that the gate allows without predicting them
            (`Thresholds.allow`).
        banned: Maskable families that are not allowed.
        candidates: int32 ids of the tokens left to sample from, most probable first.
        logits: float32 logits of `candidates`.
    """

    intervene: bool
    reason: Reason
    predicted: tuple[str, ...]
    allowed: tuple[str, ...]
    banned: tuple[str, ...]
    candidates: npt.NDArray[np.int32]
    logits: npt.NDArray[np.float32]
