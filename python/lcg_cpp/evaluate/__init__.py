"""Methods side by side on the same prompts."""

from .evaluate import EvalOptions, Evaluation, evaluate
from .methods import METHODS, Method, parse_methods

__all__ = ["METHODS", "EvalOptions", "Evaluation", "Method", "evaluate", "parse_methods"]
