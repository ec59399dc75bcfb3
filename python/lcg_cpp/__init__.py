"""The Language Confusion Gate (arXiv 2510.17555) for llama.cpp: keeps local models in the right script."""

from .errors import GateError
from .gate import PAPER_OPTIONS, Decision, Gate, GateEvent, GateOptions, GateStats
from .labels import family_labels
from .llama import GatedLlama

__all__ = [
    "PAPER_OPTIONS",
    "Decision",
    "Gate",
    "GateError",
    "GateEvent",
    "GateOptions",
    "GateStats",
    "GatedLlama",
    "family_labels",
]
__version__ = "0.2.0"
