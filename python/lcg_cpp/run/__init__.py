"""Running a model with its gate."""

from .llama import GatedLlama
from .reply import Reply
from .requests import Request

__all__ = ["GatedLlama", "Reply", "Request"]
