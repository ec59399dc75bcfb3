"""Where a model's language confusion comes from."""

from .analyze import Analysis, analyze
from .texts import AnalyzeOptions

__all__ = ["Analysis", "AnalyzeOptions", "analyze"]
