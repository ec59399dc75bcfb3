"""Runs gates on llama.cpp and chooses the demo's default by what they do, on prompts that the demo does not show."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from lcg_cpp.demo import DemoPrompt
from lcg_cpp.demo.compare import Arm, load_model, run_prompts
from lcg_cpp.demo.score import score_reply
from lcg_cpp.gate.options import GateOptions

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
    llm = load_model(gate, GateOptions(first_token=first_token), model)
    replies = tuple(reply for (reply,) in run_prompts([llm], prompts, 0))
    stats = llm.gate_stats
    llm.close()
    arm = Arm(replies, tuple(score_reply(prompt, reply.text) for prompt, reply in zip(prompts, replies)))
    values = {key: value for key, value in arm.measures().items() if key != "tokens_per_second"}
    return Measured(name, first_token, values, stats.interventions, stats.steps)


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
