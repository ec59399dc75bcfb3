"""From which probability a gate predicts its families."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Thresholds:
    """For each family, the probability from which it counts as predicted; empty without a gate.

    Attributes:
        usual: After a reply's first language token.
        first: Before it; empty: the usual ones. A reply's beginning decides on its language, and needs no room for
            names in other letters.
    """

    usual: tuple[float, ...] = ()
    first: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "first", self.first or self.usual)

    def set_to(self, threshold: float) -> Thresholds:
        """The same for every family, everywhere."""
        return Thresholds((threshold,) * len(self.usual))
