"""The Language Confusion Gate (arXiv 2510.17555) for llama.cpp: keeps local models in the right script."""

from .errors import GateError
from .gate.gate import Gate
from .gate.labels import family_labels
from .gate.options import PAPER_OPTIONS, GateOptions
from .gate.results import Decision, GateEvent, GateStats
from .run.llama import GatedLlama

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
