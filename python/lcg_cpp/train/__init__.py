"""Training a gate for a model from the model itself."""

from .options import PAPER_TRAINING, TrainOptions
from .train import Trained, train

__all__ = ["PAPER_TRAINING", "TrainOptions", "Trained", "train"]
