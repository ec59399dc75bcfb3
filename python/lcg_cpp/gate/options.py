"""How a gate acts while a model generates."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from typing import Literal

import numpy as np

from .. import _core
from ..errors import GateError
from .phase import Phase
from .pin import Pins, check_scripts, denied_families
from .thresholds import Thresholds

Mode = Literal["mask", "observe", "off"]
Device = Literal["cpu", "gpu", "auto"]
ModelCheck = Literal["weights", "shape"]

MAX_EVENTS = 65536  # kept in memory that is taken at once, about 0.8 kB each
LEAST_CONFIDENCE_TEMPERATURE = 0.7  # the lowest at which the paper measured its rules (section 4.1)
_MAX_FLOAT32 = float(np.finfo(np.float32).max)  # what is larger is infinite to the core


@dataclass(frozen=True)
class GateOptions:
    """How a gate acts while a model generates. `PAPER_OPTIONS` are the method's; two defaults differ from them.

    Attributes:
        mode: `mask` removes what the gate bans; `observe` computes and records the same decisions and leaves every
            token exactly as stock llama.cpp would sample it; `off` does nothing.
        strength: Logits subtracted from banned families. Infinity removes them.
        allow: The only scripts whose letters may come out, whatever the gate thinks and without a gate too; empty
            allows all. Names are families of the rule set `scripts` (`latin`, `hangul` …) or groups of them: `chinese`
            and `han` (every Han family), `simplified`, `traditional`, `japanese`, `korean`, `cj`, `lowres`. What is no
            letter always stays, and so do control and added tokens; `choices` keeps the letters of multiple choice (`A`
            to `G`) where Latin is not allowed. Acts in mode `mask` only, with `strength`.
        deny: Scripts whose letters must not come out, also where `allow` names them.
        threshold: Probability from which every family counts as predicted, at a reply's beginning too, and below which
            none is allowed; None takes what the gate file says.
        persistence: The gate acts only after a language token was generated, and that token's family stays allowed.
        confidence: The gate acts only where the model itself finds a predicted family plausible.
        confidence_temperature: What the model finds plausible, H, is taken at the request's temperature (1 if greedy),
            but at none below this. The paper has no such limit (0): the lower the temperature, the less H holds beside
            the model's first choice, until the confidence rule overrules the gate wherever that choice is wrong.
        first_token: Act before the first language token of a reply too, on the gate's word alone (the paper never
            does).
        phases: Parts of a reply with options of their own, such as the thoughts of a model; where two begin at once,
            the first counts. Everything else in these options is for the rest of the reply.
        n_events: How many of the latest interventions are kept in `GatedLlama.gate_events`.
        eager: Run the MLP at every step at which the gate may act, not only where its answer can matter. Changes no
            decision.
    """

    mode: Mode = "mask"
    strength: float = math.inf
    allow: tuple[str, ...] = ()
    deny: tuple[str, ...] = ()
    threshold: float | None = None
    persistence: bool = True
    confidence: bool = True
    confidence_temperature: float = LEAST_CONFIDENCE_TEMPERATURE
    first_token: bool = True
    phases: tuple[Phase, ...] = ()
    n_events: int = 256
    eager: bool = False

    def __post_init__(self) -> None:
        if self.mode not in ("mask", "observe", "off"):
            raise GateError(f'`mode` is "{self.mode}", expected "mask", "observe" or "off"')
        if not self.strength >= 0:
            raise GateError(f"`strength` is {self.strength}, expected logits from 0 to infinity")
        # checked as the core will see it: 1e-60 is 0 in 32 bits
        if self.threshold is not None and not 0 < np.float32(self.threshold) < 1:
            raise GateError(f"`threshold` is {self.threshold}, expected a probability between 0 and 1")
        if not 0 <= self.confidence_temperature <= _MAX_FLOAT32:
            raise GateError(f"`confidence_temperature` is {self.confidence_temperature}, expected a number from 0")
        for field in ("allow", "deny"):
            object.__setattr__(self, field, check_scripts(field, getattr(self, field)))
        object.__setattr__(self, "phases", tuple(self.phases))
        for phase in self.phases:
            if not isinstance(phase, Phase) or not isinstance(phase.options, GateOptions):
                raise GateError(f"`phases` holds {phase!r}, expected a Phase with GateOptions")
            if phase.options.phases:
                raise GateError("`phases` holds a phase with phases of its own, expected none")
        if type(self.n_events) is not int or not 0 <= self.n_events <= MAX_EVENTS:
            raise GateError(f"`n_events` is {self.n_events}, expected 0 to {MAX_EVENTS}")

    @property
    def _everywhere(self) -> tuple[GateOptions, ...]:
        return (self, *(phase.options for phase in self.phases))

    @property
    def has_pin(self) -> bool:
        """Whether some letters must not come out, so that the options act without a gate."""
        return any(denied_families(options.allow, options.deny) for options in self._everywhere)

    @property
    def is_off(self) -> bool:
        """Whether the gate does nothing in any part of a reply."""
        return all(options.mode == "off" for options in self._everywhere)

    def core_rules(self, thresholds: Thresholds) -> _core.Rules:
        """The rules as the core takes them, with a gate's thresholds where none is named."""
        chosen = self.chosen_thresholds(thresholds)
        return _core.Rules(
            thresholds=chosen.usual,
            first_thresholds=chosen.first,
            allow_thresholds=chosen.allow,
            persistence=self.persistence,
            confidence=self.confidence,
            first_token=self.first_token,
            confidence_temperature=self.confidence_temperature,
        )

    def chosen_thresholds(self, thresholds: Thresholds) -> Thresholds:
        """A gate's thresholds, or the one that is named here."""
        return thresholds if self.threshold is None else thresholds.set_to(self.threshold)

    def core_conduct(self, thresholds: Thresholds, pins: Pins | None) -> _core.Conduct:
        """What holds in one part of a reply, as the core takes it; see `core_stage_options`."""
        return _core.Conduct(
            mode=self.mode,
            rules=self.core_rules(thresholds),
            strength=self.strength,
            pinned=pins.pin(self.allow, self.deny) if pins is not None else None,
        )

    def core_stage_options(self, thresholds: Thresholds | None, pins: Pins | None = None) -> _core.StageOptions:
        """Everything as the core takes it.

        Args:
            thresholds: The gate's; None without a gate.
            pins: What is known of the model's tokens; None if there is neither a pin nor a phase.
        """
        thresholds = thresholds or Thresholds()
        phases = None
        if pins is not None and self.phases:
            found = [core for phase in self.phases for core in phase.core_phases(thresholds, pins)]
            phases = _core.PhaseSet(pins.texts, found)
        return _core.StageOptions(
            usual=self.core_conduct(thresholds, pins), n_events=self.n_events, eager=self.eager, phases=phases
        )


def with_phases(options: GateOptions, thinking: Mode | None = None, alone: tuple[str, ...] = ()) -> GateOptions:
    """Add the phases that most people want to some options, in front of those that are there.

    Args:
        options: The options.
        thinking: The mode while a model thinks; None: the same as elsewhere.
        alone: Names of parts that are left alone (`code`, `tool_calls`).
    """
    phases = [Phase(name, GateOptions(mode="off")) for name in alone]
    if thinking is not None:
        phases.insert(0, Phase("thinking", dataclasses.replace(options, mode=thinking, phases=())))
    return dataclasses.replace(options, phases=(*phases, *options.phases))


PAPER_OPTIONS = GateOptions(first_token=False, confidence_temperature=0.0)
