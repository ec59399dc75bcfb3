"""The gate: token families, the gate file, its options, its decisions."""

from .gate import Gate
from .labels import family_labels
from .options import PAPER_OPTIONS, GateOptions
from .phase import Phase
from .results import Decision, GateEvent, GateStats

__all__ = ["PAPER_OPTIONS", "Decision", "Gate", "GateEvent", "GateOptions", "GateStats", "Phase", "family_labels"]
