"""The demo's gates: trained as a user trains one, by `lcg_cpp.train` from the GGUF model that ships."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from lcg_cpp.engine.load import Engine
from lcg_cpp.train.options import PAPER_TRAINING, TrainOptions
from lcg_cpp.train.run import Run
from lcg_cpp.train.train import train

# Only replies are learned from: a prompt is a list of names, and no model generates it.
DEFAULT = TrainOptions(positions="reply", passes=3)
# The paper's width, labels and norm. Its learning rate belongs to wider models and to millions of texts.
PAPER = dataclasses.replace(PAPER_TRAINING, positions="reply", learning_rate=None, passes=DEFAULT.passes)
UNADJUSTED = dataclasses.replace(PAPER, norm="none")
CANDIDATES = {"default": DEFAULT, "paper": PAPER, "paper, unadjusted": UNADJUSTED}


def describe(options: TrainOptions) -> str:
    """Width, norm and labels in a few words."""
    width = {None: "full width", 0: "linear"}.get(options.n_hidden, f"hidden {options.n_hidden}")
    return f"{width}, {options.norm}, {options.top_k} / {options.top_p:g}"


def train_gate(
    model: Path, texts: Path, options: TrainOptions, path: Path, n_threads: int, outtype: str = "f16"
) -> Run:
    """Trains a gate.

    Args:
        model: The base model.
        texts: What the gate learns from.
        options: Settings.
        path: The gate file to write.
        n_threads: CPU threads.
        outtype: Type of the gate's matrices.
    """
    trained = train(
        model,
        [str(texts)],
        path,
        options,
        engine=Engine(n_threads=n_threads),
        outtype=outtype,
        name=f"lcg-tiny-names {describe(options)}",
        license="Unicode-3.0",
    )
    return trained.run
