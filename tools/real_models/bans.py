"""How often a gate would ban the right token of a clean text, which it did not learn from."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from lcg_cpp.gate.decisions import DecodingRules
from lcg_cpp.gate.gate import Gate
from lcg_cpp.gate.walk import ForcedText
from lcg_cpp.train.options import TrainOptions
from lcg_cpp.train.source import Labeller
from lcg_cpp.train.states import KeptSource, StatesFolder


@dataclass(frozen=True)
class Bans:
    """Counts of positions."""

    positions: int = 0
    interventions: int = 0
    wrong: int = 0  # of these, at which the text's own next token is banned

    def __add__(self, other: Bans) -> Bans:
        """Both together."""
        return Bans(
            self.positions + other.positions, self.interventions + other.interventions, self.wrong + other.wrong
        )


def bans_by_language(gate: Gate, states: Path, rows: Sequence[Mapping[str, Any]]) -> dict[str, Bans]:
    """Count by language, at the paper's sampling.

    Args:
        gate: The gate.
        states: The folder with what the model makes of the rows.
        rows: The rows, with `language`.
    """
    folder, rules = StatesFolder.open(states), DecodingRules.of(gate)
    labeller = Labeller(folder.norms, folder.facts.softcap, gate.token_families, len(gate.families), TrainOptions())
    source = KeptSource(folder, labeller, rules, lambda: False)
    found: dict[str, Bans] = defaultdict(Bans)
    for number, row in enumerate(rows):
        text = source.encode(number)
        if text is None:
            continue
        for part in source.find([number], [ForcedText.of(text.tokens, text.is_reply, "reply")], with_steps=True):
            assert part.steps is not None  # asked for
            rulings = rules.judge(part.steps, gate.predict(part.hidden), part.last)
            banned = rulings.banned[np.arange(len(part.following)), rules.families.token_family[part.following]]
            acts = rulings.intervene
            found[row["language"]] += Bans(len(acts), int(acts.sum()), int((acts & banned).sum()))
    return dict(found)
