"""Running a model with its gate."""

from .llama import GatedLlama

__all__ = ["GatedLlama"]
