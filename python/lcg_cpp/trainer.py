"""Norm-adjusted self-distillation (paper, section 3.2): a gate learns which families its own base model would allow.

Texts stream through the frozen model; of each token the hidden state is kept until the gate has learned from it, and
the logits only until the label is made.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import numpy as np
import numpy.typing as npt

from .base_model import BaseModel
from .data import Dataset, Encoded, Encoder
from .errors import GateError
from .families import token_families
from .forced import Candidates, FamilyTable, last_families
from .gate_file import spec_for
from .heldout import MAX_BYTES, MAX_STATES, HeldOut
from .labels import family_labels
from .train_options import TrainOptions
from .train_run import Measurement, Run, Texts

if TYPE_CHECKING:
    from .learner import Learner, Ranks
    from .teacher import States

_N_MEASUREMENTS = 50  # on held-out text, spread over a run


class Model(Protocol):
    """A frozen base model; see `teacher.Teacher`."""

    base: BaseModel
    n_embd: int
    n_ctx: int

    def tokenize(self, text: str, *, special: bool = False, bos: bool = False) -> list[int]:
        """Tokens of a text."""

    def states(self, texts: Sequence[Sequence[int]]) -> Iterator[States]:
        """Evaluates texts."""


@dataclass(frozen=True, eq=False)
class Labeller:
    """What turns logits into labels.

    Attributes:
        norms: float32 (n_vocab,), what each token's logit is divided by; None for nothing.
        softcap: The model's final soft-capping, 0 if it has none.
        families: uint8 (n_vocab,).
        n_families: Number of families.
        options: top-k, top-p, hard or soft.
        n_threads: CPU threads; 0 takes all.
    """

    norms: npt.NDArray[np.float32] | None
    softcap: float
    families: npt.NDArray[np.uint8]
    n_families: int
    options: TrainOptions
    n_threads: int = 0

    def __call__(self, logits: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        """float32 (n, n_vocab) -> float32 (n, n_families)."""
        return family_labels(
            logits,
            self.norms,
            self.families,
            self.options.top_k,
            self.options.top_p,
            n_families=self.n_families,
            soft=self.options.soft,
            softcap=self.softcap,
            n_threads=self.n_threads,
        )


@dataclass(frozen=True, eq=False)
class Batch:
    """Hidden states to learn from.

    Attributes:
        hidden: float32 (n, n_embd).
        labels: float32 (n, n_families).
        keys: uint64 (n,), a number of each position that does not depend on how the texts were shared out.
    """

    hidden: npt.NDArray[np.float32]
    labels: npt.NDArray[np.float32]
    keys: npt.NDArray[np.uint64]


class Trainer:
    """One training run.

    Attributes:
        run: How far it is.
        options: Settings.
        base: The base model.
        learner: The gate.
        spec: What the gate file will say of the model.
    """

    def __init__(
        self,
        model: Model,
        datasets: Sequence[Dataset],
        options: TrainOptions,
        *,
        norms: npt.NDArray[np.float32] | None,
        softcap: float,
        ranks: Ranks,
        should_stop: Callable[[], bool] = lambda: False,
        n_threads: int = 0,
    ) -> None:
        """Evaluate the held-out texts and set up the gate.

        Args:
            model: The base model.
            datasets: What to learn from.
            options: Settings.
            norms: See `Labeller`.
            softcap: See `Labeller`.
            ranks: The processes that train together; each evaluates its share of the texts.
            should_stop: Asked after every evaluation.
            n_threads: CPU threads of the label kernel; 0 takes all.

        Raises:
            GateError: The held-out texts hold nothing to measure on.
        """
        from .learner import Learner  # noqa: PLC0415 (torch)

        self.run = Run()
        self.options = options
        self.base = model.base
        self.spec = spec_for(model.base, n_hidden=options.hidden_width(model.n_embd), rules=options.rules)
        self._model = model
        self._ranks = ranks
        self._should_stop = should_stop
        self._encoder = Encoder(model.tokenize, model.base, model.n_ctx)
        self._texts = Texts(datasets, options)
        families = token_families(model.base.vocab, options.rules)
        self._label = Labeller(norms, softcap, families, self.spec.n_families, options, n_threads)
        self.held_out = self._evaluate_held_out()
        self.learner: Learner = Learner(self.spec.n_families, options, self.held_out.hidden, ranks)

    @property
    def skipped(self) -> Mapping[str, int]:
        """Why texts gave nothing to learn from, and how many; of this process."""
        return self._encoder.skipped

    def _main_reason(self) -> str:
        return "".join(f": {reason}" for reason, _ in self._encoder.skipped.most_common(1))

    # ---- evaluating the base model ----

    def _evaluate_held_out(self) -> HeldOut:
        table = FamilyTable.of(self.spec)
        most = max(1, min(MAX_STATES, MAX_BYTES // (4 * self._model.n_embd)))
        rows = self._texts.held_out if len(self._texts.held_out) else self._texts.epoch(0)[: self.options.group]
        hidden, labels, candidates, last, following = [], [], [], [], []
        n = 0
        for row in rows:
            text = self._texts.encode(int(row), self._encoder)
            if text is None:
                continue
            tokens, is_reply = np.array(text.tokens), np.array(text.is_reply)
            newest = last_families(tokens, is_reply, table)
            for states in self._model.states([text.tokens]):
                for rows_of in _runs(_learned(text, states.position, "reply")):
                    at = states.position[rows_of]
                    hidden.append(states.hidden[rows_of].copy())
                    labels.append(self._label(states.logits[rows_of]))
                    candidates.append(Candidates.of(states.logits[rows_of]))
                    last.append(newest[at])
                    following.append(tokens[at + 1])
                    n += len(at)
                if self._should_stop():
                    raise KeyboardInterrupt
            if n >= most:
                break
        if n == 0:
            raise GateError(f"none of the {len(rows)} held-out texts has a reply to measure on{self._main_reason()}")
        return HeldOut(
            np.concatenate(hidden)[:most],
            np.concatenate(labels)[:most],
            Candidates.join(candidates)[:most],
            np.concatenate(last)[:most],
            np.concatenate(following)[:most],
            table,
            self.spec.families,
        )

    def _evaluate(self, rows: Sequence[int], texts: Sequence[Encoded]) -> Batch | None:
        """States and labels of texts; None if it shall stop."""
        hidden = [np.empty((0, self._model.n_embd), np.float32)]
        labels = [np.empty((0, self.spec.n_families), np.float32)]
        keys = [np.empty(0, np.uint64)]
        row_of = np.array(rows, np.uint64)
        for states in self._model.states([text.tokens for text in texts]):
            learned = np.zeros(len(states.text), np.bool_)
            for i in np.unique(states.text):
                own = states.text == i
                learned[own] = _learned(texts[i], states.position[own], self.options.positions)
            for part in _runs(learned):
                hidden.append(states.hidden[part].copy())
                labels.append(self._label(states.logits[part]))
                keys.append(row_of[states.text[part]] << np.uint64(32) | states.position[part].astype(np.uint64))
            if self._should_stop():
                return None
        return Batch(np.concatenate(hidden), np.concatenate(labels), np.concatenate(keys))

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
        size = self.options.group * self._ranks.size
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
                raise GateError(f"none of {len(order)} texts could be learned from{self._main_reason()}")

    def _learn_group(self, rows: npt.NDArray[np.int64], number: int, n_groups: int) -> bool:
        """Evaluate this process's share of a group's texts and learn from them; False if it shall stop."""
        start = time.monotonic()
        own = [
            (int(row), self._texts.encode(int(row), self._encoder))
            for row in rows[self._ranks.rank :: self._ranks.size]
        ]
        kept = [(row, text) for row, text in own if text is not None]
        batch = self._evaluate([row for row, _ in kept], [text for _, text in kept])
        n_tokens = sum(len(text.tokens) for _, text in kept)
        n_own = 0 if batch is None else len(batch.keys)
        stopped, tokens, texts, skipped, n_total = self._ranks.sum(
            [batch is None, n_tokens, len(kept), len(own) - len(kept), n_own]
        )
        if stopped or batch is None:
            return False
        loss = self._learn(batch, int(n_total), number) if n_total else float("nan")
        run = self.run
        run.group = number + 1
        run.tokens += int(tokens)
        run.texts += int(texts)
        run.skipped += int(skipped)
        run.positions += int(n_total)
        before = run.progress
        done = run.tokens / self.options.n_tokens if self.options.n_tokens else (number + 1) / n_groups
        run.progress = min(done, 1.0)
        if n_total:
            run.losses.append(loss)
        run.seconds += time.monotonic() - start
        if int(before * _N_MEASUREMENTS) != int(run.progress * _N_MEASUREMENTS):
            self._measure()
        return True

    def _learn(self, batch: Batch, n_total: int, number: int) -> float:
        """Steps of the optimizer over a group's states; returns the mean loss."""
        options = self.options
        n_steps = max(1, round(n_total / (options.batch * self._ranks.size)))
        loss = 0.0
        for number_of_pass in range(options.passes):
            salt = np.random.default_rng([options.seed, 2, self.run.epoch, number, number_of_pass]).integers(1 << 63)
            step_of = _mix(batch.keys ^ np.uint64(salt)) % np.uint64(n_steps)
            for step in range(n_steps):
                rows = np.flatnonzero(step_of == step)
                (n,) = self._ranks.sum([float(len(rows))])
                if n > 0:
                    loss += self.learner.update(batch.hidden[rows], batch.labels[rows], int(n), self.run.progress)
        (loss,) = self._ranks.sum([loss])
        if not (math.isfinite(loss) and self.learner.is_finite()):
            raise GateError(
                f"the gate diverged after {self.run.tokens} tokens: its weights are no longer numbers;"
                f" a lower learning rate helps (was {self.learner.learning_rates[0]:.2g})"
            )
        return loss / (n_total * options.passes)

    def _measure(self) -> None:
        run = self.run
        scores = self.held_out.measure(self.learner.predict)
        run.measurements.append(Measurement(run.progress, run.tokens, self.learner.step, scores))

    # ---- what comes of it ----

    def finish(self) -> None:
        """Measure the gate as it is now, if it was not."""
        if self.run.measurements[-1].step != self.learner.step:
            self._measure()


def _learned(text: Encoded, position: npt.NDArray[np.int32], positions: str) -> npt.NDArray[np.bool_]:
    """Which positions of a text are learned from; the last one predicts nothing."""
    follows = np.append(np.array(text.is_reply[1:], np.bool_), False)
    if positions == "all":
        follows[:-1] = True
    return follows[position]


def _runs(wanted: npt.NDArray[np.bool_]) -> Iterator[slice]:
    """Runs of wanted rows, so that their logits need no copy."""
    edges = np.flatnonzero(np.diff(wanted.astype(np.int8), prepend=0, append=0))
    for begin, end in zip(edges[::2].tolist(), edges[1::2].tolist()):
        yield slice(begin, end)


def _mix(keys: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
    """Spreads numbers evenly over 64 bits (the finalizer of SplitMix64; Steele, Lea and Flood, 2014)."""
    x = keys + np.uint64(0x9E3779B97F4A7C15)
    x = (x ^ x >> np.uint64(30)) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ x >> np.uint64(27)) * np.uint64(0x94D049BB133111EB)
    return x ^ x >> np.uint64(31)
