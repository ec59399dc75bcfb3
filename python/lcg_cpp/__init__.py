"""The Language Confusion Gate (arXiv 2510.17555) for llama.cpp: keeps local models in the right script."""

import importlib
from typing import TYPE_CHECKING

from .errors import GateError

if TYPE_CHECKING:
    from .gate.gate import Gate
    from .gate.labels import family_labels
    from .gate.options import PAPER_OPTIONS, GateOptions
    from .gate.phase import Phase
    from .gate.results import Decision, GateEvent, GateStats
    from .run.llama import GatedLlama
    from .run.reply import Reply
    from .run.requests import Request

__all__ = [
    "PAPER_OPTIONS",
    "Decision",
    "Gate",
    "GateError",
    "GateEvent",
    "GateOptions",
    "GateStats",
    "GatedLlama",
    "Phase",
    "Reply",
    "Request",
    "family_labels",
]
__version__ = "0.2.0"


def __getattr__(name: str) -> object:
    """Import what is asked for: an engine that cannot be used is then an error of its use, one line at the shell."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    room = ".run" if name in ("GatedLlama", "Reply", "Request") else ".gate"
    return getattr(importlib.import_module(room, __name__), name)
