"""Norm-adjusted self-distillation (paper, section 3.2): a gate learns which families its own base model would allow."""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from ..data.balance import script_of_tokens
from ..engine.output_norms import label_norms
from ..errors import GateError
from ..files import PathLike
from ..gate.decisions import DecodingRules
from ..gate.spec import spec_for
from .batches import Batch, Evaluator
from .options import TrainOptions
from .run import Measurement, Run, Texts
from .source import Labeller, Lessons
from .start import Start

if TYPE_CHECKING:
    from .learner import Learner

_N_MEASUREMENTS = 50  # on held-out text, spread over a run
_LEAST_POSITIVES = 64  # labels with a family, below which the gate has not learned where it is right


class Trainer:
    """One training run.

    Attributes:
        run: How far it is.
        options: Settings.
        base: The base model.
        learner: The gate.
        spec: What the gate file will say of the model.
        expected: How much there is to do.
        start: The gate that it goes on from; None begins with random weights.
    """

    def __init__(
        self,
        lessons: Lessons,
        options: TrainOptions,
        n_threads: int = 0,
        start: PathLike | None = None,
    ) -> None:
        """Evaluate the held-out texts and set up the gate.

        Args:
            lessons: What to learn from.
            options: Settings.
            n_threads: CPU threads of the label kernel; 0 takes all.
            start: The gate file to go on from.

        Raises:
            GateError: The held-out texts hold nothing to measure on, or `start` is no gate of the same shape.
            OSError: `start` cannot be read.
        """
        from .learner import Learner  # noqa: PLC0415 (torch)

        self.run = Run()
        self.options = options
        self.base = lessons.base
        self.spec = spec_for(self.base, n_hidden=options.hidden_width(self.base.n_embd), rules=options.rules)
        self.start = None if start is None else Start.read(start, self.spec, self.base)
        self._texts = Texts(lessons.datasets, options)
        norms, n_families = label_norms(lessons.norms, options.norm), len(self.spec.families)
        labeller = Labeller(norms, lessons.softcap, self.spec.token_family, n_families, options, n_threads)
        rules = DecodingRules.of(self.spec)
        source = lessons.source(self._texts, labeller, rules)
        self._evaluator = Evaluator(source, self._texts, rules, options)
        begun = time.monotonic()
        self.held_out = self._evaluator.held_out()
        if self.start is not None:
            self.held_out = dataclasses.replace(self.held_out, known=self.start.thresholds)
        self.run.seconds = time.monotonic() - begun
        self.expected = self._evaluator.expected(self.run.seconds)
        planned, is_limited = self.expected.planned, self.expected.is_limited
        is_in_a_hurry = is_limited and options.minutes is not None
        self.run.passes = options.passes_for(self._evaluator.states_of(planned))
        self.run.group_size = self._evaluator.group_size(planned) if is_in_a_hurry else options.group
        self.run.budget = math.ceil(planned) if is_limited else 0
        weights = None if self.start is None else self.start.weights
        self.learner: Learner = Learner(len(self.spec.families), options, self.held_out.hidden, weights)

    @property
    def skipped(self) -> Mapping[str, int]:
        """Why texts gave nothing to learn from, and how many."""
        return self._evaluator.skipped

    # ---- learning ----

    def groups(self) -> Iterator[None]:
        """Learn until the end, or until it shall stop; `run` changes between two groups only.

        Yields:
            Nothing, after each group.

        Raises:
            GateError: The texts hold nothing to learn from, or the gate's weights are no longer numbers.
        """
        if not self.run.measurements:
            self._measure()
        if self.run.budget and self.options.balance == "scripts":
            begun = time.monotonic()
            self._evaluator.choose(self.run.budget, lambda text: script_of_tokens(text, self.base.vocab))
            self.run.seconds += time.monotonic() - begun
        size = self.run.group_size
        while self.run.progress < 1.0:
            order = self._texts.epoch(self.run.epoch)
            n_groups = -(-len(order) // size)
            for number in range(self.run.group, n_groups):
                if not self._learn_group(order[number * size : (number + 1) * size], number, n_groups):
                    return
                yield
                if self.run.progress >= 1.0:
                    return
            self.run.epoch += 1
            self.run.group = 0
            if self.run.positions == 0:
                raise GateError(f"none of {len(order)} texts could be learned from{self._evaluator.main_reason()}")

    def _learn_group(self, rows: npt.NDArray[np.int64], number: int, n_groups: int) -> bool:
        """Evaluate a group's texts and learn from them; False if it shall stop."""
        start = time.monotonic()
        batch = self._evaluator.batch(rows.tolist())
        if batch is None:
            return False
        if len(batch.keys):
            self.run.losses.append(self._learn(batch, number))
        run = self.run
        run.group = number + 1
        run.tokens += batch.n_tokens
        run.texts += batch.n_texts
        run.skipped += len(rows) - batch.n_texts
        run.positions += len(batch.keys)
        positives = np.count_nonzero(batch.labels, 0).tolist()
        run.positives = [n + new for n, new in zip(run.positives or [0] * len(positives), positives)]
        run.seconds += time.monotonic() - start
        before = run.progress
        done = run.tokens / self.options.n_tokens if self.options.n_tokens else (number + 1) / n_groups
        in_time = run.seconds / (60 * self.options.minutes) if self.options.minutes else 0.0
        run.progress = min(max(done, in_time), 1.0)
        if int(before * _N_MEASUREMENTS) != int(run.progress * _N_MEASUREMENTS):
            self._measure()
        return True

    def _learn(self, batch: Batch, number: int) -> float:
        """Steps of the optimizer over a group's states; returns the mean loss."""
        options = self.options
        n_steps = max(1, round(len(batch.keys) / options.batch))
        loss = 0.0
        for number_of_pass in range(self.run.passes):
            salt = np.random.default_rng([options.seed, 2, self.run.epoch, number, number_of_pass]).integers(1 << 63)
            step_of = _mix(batch.keys ^ np.uint64(salt)) % np.uint64(n_steps)
            for step in range(n_steps):
                rows = np.flatnonzero(step_of == step)
                if len(rows):
                    loss += self.learner.update(batch.hidden[rows], batch.labels[rows], self.run.progress)
        if not (math.isfinite(loss) and self.learner.is_finite()):
            raise GateError(
                f"the gate diverged after {self.run.tokens} tokens: its weights are no longer numbers;"
                f" a lower learning rate helps (was {self.learner.learning_rates[0]:.2g})"
            )
        return loss / (len(batch.keys) * self.run.passes)

    def _measure(self) -> None:
        run = self.run
        scores = self.held_out.measure(self.learner.predict, self.spared)
        run.measurements.append(Measurement(run.progress, run.tokens, self.learner.step, scores))

    # ---- what comes of it ----

    @property
    def spared(self) -> tuple[str, ...]:
        """The families that too few labels held so far: the gate must not mask them, it would ban them everywhere."""
        families = self.spec.families
        seen = zip(families.names, families.maskable, self.run.positives)
        few = (name for name, maskable, n in seen if maskable and n < _LEAST_POSITIVES)
        return tuple(name for name in few if self.start is None or not self.start.is_known(name))

    def finish(self) -> None:
        """Measure the gate as it is now, if it was not."""
        if self.run.measurements[-1].step != self.learner.step:
            self._measure()


def _mix(keys: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
    """Spreads numbers evenly over 64 bits (the finalizer of SplitMix64; Steele, Lea and Flood, 2014)."""
    x = keys + np.uint64(0x9E3779B97F4A7C15)
    x = (x ^ x >> np.uint64(30)) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ x >> np.uint64(27)) * np.uint64(0x94D049BB133111EB)
    return x ^ x >> np.uint64(31)
