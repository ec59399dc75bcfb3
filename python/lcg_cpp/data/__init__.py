"""Training data: rows of many kinds, rendered as the model sees them; a published mix, and data made by the model."""

from __future__ import annotations

from .dataset import Dataset, open_dataset, weighted
from .encode import Encoded, Encoder
from .rows import Message, Sample

__all__ = ["Dataset", "Encoded", "Encoder", "Message", "Sample", "open_dataset", "weighted"]
