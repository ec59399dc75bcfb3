"""Gate files from PyTorch checkpoints."""

from .convert import Conversion, convert

__all__ = ["Conversion", "convert"]
