"""A gate as a detector of tokens that are known to be wrong or right."""

from .detect import Detection, DetectOptions, detect

__all__ = ["DetectOptions", "Detection", "detect"]
