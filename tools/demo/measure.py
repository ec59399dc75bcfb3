"""Runs gates on llama.cpp and chooses the demo's default by what they do, on prompts that the demo does not show."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from lcg_cpp.commands.demo import load_demo_model
from lcg_cpp.evaluate.evaluate import EvalOptions
from lcg_cpp.evaluate.methods import Method
from lcg_cpp.evaluate.replies import Replier
from lcg_cpp.gate.gate import Gate
from lcg_cpp.gate.options import GateOptions
from lcg_cpp.measure.metrics import values

from .prompts import DemoPrompt, as_benchmark

SHARES = ("cj_percent", "latin_percent", "switches_kept_percent", "exact_match_percent")
# a gate that loses more of the requested switches than this is no gate
MIN_SWITCHES_KEPT = 0.98


@dataclass(frozen=True)
class Measured:
    """What one gate, with or without the option `first_token`, does to the development prompts.

    Attributes:
        gate: Name of the gate; "" for the plain model.
        first_token: The option.
        values: As in the demo's closing table, without the speed.
        interventions: Steps on which the gate removed something.
        steps: Tokens sampled.
    """

    gate: str
    first_token: bool
    values: dict[str, float]
    interventions: int
    steps: int

    @property
    def wrong(self) -> float:
        """Replies with unwanted Chinese or Latin, the two shares added."""
        return self.values["cj_percent"] + self.values["latin_percent"]


def measure(model: Path, gate: Path | None, name: str, first_token: bool, prompts: Sequence[DemoPrompt]) -> Measured:
    """Answers the prompts with one gate.

    Args:
        model: The base model.
        gate: The gate file, None for the plain model.
        name: Its name.
        first_token: The option.
        prompts: What to answer.
    """
    answered = answer(model, gate, GateOptions(first_token=first_token), prompts)
    return Measured(name, first_token, answered.values, answered.interventions, answered.steps)


@dataclass(frozen=True)
class Answered:
    """What became of the prompts.

    Attributes:
        values: As in the demo's closing table, without the speed.
        interventions: Steps on which the gate removed something.
        steps: Tokens sampled.
        gate_seconds: Of each run of the gate; 0 without one.
    """

    values: dict[str, float]
    interventions: int
    steps: int
    gate_seconds: float


def answer(model: Path, gate: Path | None, options: GateOptions, prompts: Sequence[DemoPrompt]) -> Answered:
    """Answers prompts as the demo does."""
    asked = as_benchmark(prompts)
    method = Method("none") if gate is None else Method("lcg", options, str(gate))
    llm = load_demo_model(model)
    replier = Replier(llm, [method], {} if gate is None else {str(gate): Gate.load(gate)}, EvalOptions().sampling())
    replies, seconds, runs = [], 0.0, 0
    for reply in replier.replies(asked, [method]):
        replies.append(reply)
        seconds, runs = seconds + llm.gate_stats.gate_seconds, runs + llm.gate_stats.gate_runs
    llm.close()
    found = values(replies, {prompt.id: prompt for prompt in asked}, extras=False)[method.name]
    return Answered(
        {name: round(found.get(name, 100.0), 2) for name in SHARES},
        sum(len(reply["events"]) for reply in replies),
        sum(len(reply["tokens"]) + (reply["finish"] == "stop") for reply in replies),
        seconds / max(runs, 1),
    )


def choose(plain: Measured, measured: Sequence[Measured]) -> Measured:
    """The gate with the fewest wrong replies of those that keep the switches and the exact matches.

    Among equals the one with more exact matches.

    Raises:
        RuntimeError: No gate keeps them.
    """
    kept = MIN_SWITCHES_KEPT * plain.values["switches_kept_percent"]
    usable = [
        found
        for found in measured
        if found.values["switches_kept_percent"] >= kept
        and found.values["exact_match_percent"] >= plain.values["exact_match_percent"]
    ]
    if not usable:
        raise RuntimeError("no gate keeps the requested switches and the exact matches")
    return min(usable, key=lambda found: (found.wrong, -found.values["exact_match_percent"]))
