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
        allow: From which a family may come anywhere, though it does not count as predicted: the gate then has no reason
            to remove it, and none to remove others in its favor. 1 or empty: only where it is predicted.
    """

    usual: tuple[float, ...] = ()
    first: tuple[float, ...] = ()
    allow: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "first", self.first or self.usual)

    def set_to(self, threshold: float) -> Thresholds:
        """The same for every family, everywhere; what is below it is not allowed."""
        return Thresholds((threshold,) * len(self.usual))
