"""The one-page report of a training run, and its curve."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ..files import write_whole
from ..gate.spec import SPARED, GateSpec, TrainValue
from ..pages.report import Facts, Figure, Section, Table, figure_svg, new_figure, page
from .run import Run

if TYPE_CHECKING:
    import matplotlib.figure

_COLOURS = ("#d1495b", "#2e86ab", "#888888", "#3d9970", "#edae49", "#6a4c93", "#00798c", "#8d5524")
_LINES = ("-", "--", ":", "-.")  # of every eight families
_POINTS = 200  # of the loss curve; more groups than this are averaged
_COLUMNS = (
    "family",
    ">positions",
    ">precision",
    ">recall",
    ">F1",
    ">threshold",
    ">at a reply's start",
    ">allowed from",
)


def training_curve(run: Run) -> matplotlib.figure.Figure:
    """Draws loss and F1 over the tokens seen."""
    figure = new_figure(7.0, 3.2)
    left, right = figure.subplots(1, 2)
    losses = np.array(run.losses)
    if len(losses):
        parts = np.array_split(losses, min(len(losses), _POINTS))
        end = np.cumsum([len(part) for part in parts]) / len(losses) * run.tokens
        left.plot(end, [part.mean() for part in parts], color="#888888", linewidth=0.8, label="training")
    tokens = [measurement.tokens for measurement in run.measurements]
    scores = [measurement.scores for measurement in run.measurements]
    left.plot(tokens, [score.loss for score in scores], color="#d1495b", marker=".", label="held out")
    left.set(xlabel="tokens", ylabel="binary cross-entropy", yscale="log")
    names = list(scores[0].families)
    for f, name in enumerate(names):
        colour, line = _COLOURS[f % len(_COLOURS)], _LINES[f // len(_COLOURS) % len(_LINES)]
        f1 = [score.families[name].f1 for score in scores]
        right.plot(tokens, f1, line, color=colour, marker=".", label=name)
    right.set(xlabel="tokens", ylabel="F1, held out", ylim=(0, 1.02))
    for axes in (left, right):
        n_columns = 1 + len(axes.lines) // 8
        axes.legend(frameon=False, fontsize="small" if n_columns == 1 else 4, ncols=n_columns)
        axes.spines[["top", "right"]].set_visible(False)
        axes.ticklabel_format(axis="x", style="plain")
        axes.tick_params(axis="x", labelrotation=20)
    return figure


def training_page(run: Run, spec: GateSpec, svg: str) -> str:
    """Writes the report.

    Args:
        run: The run.
        spec: What the gate file says.
        svg: The curve.

    Returns:
        An HTML document.
    """
    scores = run.measurements[-1].scores
    rows = [
        (
            name,
            f"{score.positions:,}",
            *map(_share, (score.precision, score.recall, score.f1, score.threshold, score.first_threshold)),
            _share(score.allow_threshold) if score.allow_threshold < 1 else "–",
        )
        for name, score in scores.families.items()
    ]
    return page(
        spec.name,
        [
            Section("", [Facts(_result(run)), Figure(svg, "Loss and F1 while the gate learned.")]),
            Section(
                "Does it know the families?",
                [
                    f"On {scores.positions:,} held-out positions in replies: the families that the gate predicts"
                    " (probability of at least 0.5) against the labels, the families of the model's own likely tokens.",
                    Table(_COLUMNS, rows),
                    *_spared(spec),
                    "With these thresholds and the decoding rules, at temperature 0.7, top-k 20 and top-p 0.8, it"
                    f" would act at {scores.intervene:.2%} of these positions, and at {scores.contradict:.2%} it would"
                    " ban the very token that the text goes on with. On clean text the latter are mistakes;"
                    " on text that mixes languages by accident they are what a gate is for.",
                ],
            ),
            Section("How it was made", [Facts(_provenance(spec.train))]),
        ],
    )


def _spared(spec: GateSpec) -> list[str]:
    names = spec.train.get(SPARED)
    return (
        [f"The gate never masks {names}: too few labels held them, and it would ban them where they are right."]
        if names
        else []
    )


def _share(value: float) -> str:
    return "–" if math.isnan(value) else f"{value:.3f}"


def _result(run: Run) -> list[tuple[str, str]]:
    return [
        ("learned from", f"{run.positions:,} hidden states of {run.tokens:,} tokens in {run.texts:,} texts"),
        ("texts left out", f"{run.skipped:,}"),
        ("done", f"{run.progress:.0%} in {run.seconds / 60:,.1f} minutes"),
    ]


def _provenance(train: Mapping[str, TrainValue]) -> list[tuple[str, str]]:
    shown = {key: value for key, value in train.items() if not key.startswith("held_out.")}
    return [
        (key.replace("_", " "), f"{value:.4g}" if isinstance(value, float) else f"{value}")
        for key, value in shown.items()
    ]


def write_report(gate: str | os.PathLike[str], run: Run, spec: GateSpec) -> Sequence[Path]:
    """Write the report and the curve beside a gate, each whole or not at all.

    Args:
        gate: The gate file.
        run: The run.
        spec: What the gate file says.

    Returns:
        The files: .html and .svg.

    Raises:
        OSError: A file cannot be written.
    """
    svg = figure_svg(training_curve(run))
    texts = {".html": training_page(run, spec, svg), ".svg": svg}
    paths = []
    for suffix, text in texts.items():
        path = Path(gate).with_suffix(suffix)
        write_whole(path, text.encode())
        paths.append(path)
    return paths
