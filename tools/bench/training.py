"""Measures what learning adds to the forward passes of `lcg-cpp train`: label kernel, MLP steps, everything else.

    python tools/bench/training.py --model random-0.6B-Q8_0.gguf [--threads 2]

The script evaluates texts of random tokens (logits and hidden states of all tokens, unused) and learns from the same
texts, in turn. Needs the extra `train`; tools/bench/make_random_model.py writes models.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from pathlib import Path

import numpy as np
import torch

from lcg_cpp.data import Encoded
from lcg_cpp.engine.output_norms import label_norms, read_output_matrix
from lcg_cpp.engine.teacher import Teacher
from lcg_cpp.gate.families import DEFAULT_FAMILIES, token_families
from lcg_cpp.gate.labels import family_labels
from lcg_cpp.train.learner import Learner
from lcg_cpp.train.options import PRESETS, TrainOptions


class Training:
    """A gate that learns from all states of the given texts."""

    def __init__(self, teacher: Teacher, model: Path, options: TrainOptions, threads: int) -> None:
        self.teacher, self.options, self.threads = teacher, options, threads
        matrix = read_output_matrix(model)
        self.norms, self.softcap = label_norms(matrix.norms, options.norm), matrix.softcap
        self.families = token_families(teacher.base.vocab)
        sample = np.random.default_rng(0).standard_normal((512, teacher.n_embd), np.float32)
        self.learner = Learner(len(DEFAULT_FAMILIES), options, sample)

    def learn(self, texts: list[Encoded]) -> dict[str, float]:
        """One group of texts; returns seconds of the parts."""
        start = time.perf_counter()
        label_seconds = 0.0
        hidden, labels = [], []
        for states in self.teacher.states([text.tokens for text in texts]):
            begin = time.perf_counter()
            labels.append(
                family_labels(
                    states.logits,
                    self.norms,
                    self.families,
                    self.options.top_k,
                    self.options.top_p,
                    softcap=self.softcap,
                    n_threads=self.threads,
                )
            )
            label_seconds += time.perf_counter() - begin
            hidden.append(states.hidden.copy())
        begin = time.perf_counter()
        all_hidden, all_labels = np.concatenate(hidden), np.concatenate(labels)
        for number in range(self.options.passes_for(float("inf"))):
            order = np.random.default_rng(number).permutation(len(all_hidden))
            for first in range(0, len(order), self.options.batch):
                rows = order[first : first + self.options.batch]
                self.learner.update(all_hidden[rows], all_labels[rows], 0.5)
        end = time.perf_counter()
        return {"total": end - start, "labels": label_seconds, "steps": end - begin}

    def forward(self, texts: list[Encoded]) -> float:
        """The same texts, evaluated and forgotten; seconds."""
        start = time.perf_counter()
        for _ in self.teacher.states([text.tokens for text in texts]):
            pass
        return time.perf_counter() - start


def main() -> None:
    """Reads the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--preset", choices=tuple(PRESETS), default="default")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--texts", type=int, default=4)
    parser.add_argument("--tokens", type=int, default=256, help="of each text (default: %(default)s)")
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    rng = np.random.default_rng(0)
    with Teacher(arguments.model, n_ctx=arguments.tokens, n_threads=arguments.threads) as teacher:
        training = Training(teacher, arguments.model, PRESETS[arguments.preset], arguments.threads)
        tokens = rng.integers(0, teacher.n_vocab, (arguments.texts, arguments.tokens)).tolist()
        texts = [Encoded(text, [True] * len(text)) for text in tokens]
        training.forward(texts[:1])
        runs = [(training.forward(texts), training.learn(texts)) for _ in range(arguments.runs)]
    n_tokens = arguments.texts * arguments.tokens
    plain = statistics.median(seconds for seconds, _ in runs)
    result = {
        "tokens": n_tokens,
        "forward_ms_per_token": 1e3 * plain / n_tokens,
        **{
            f"{part}_ms_per_token": 1e3 * statistics.median(learned[part] for _, learned in runs) / n_tokens
            for part in ("total", "labels", "steps")
        },
        "ratio": statistics.median(learned["total"] / seconds for seconds, learned in runs),
    }
    if arguments.json:
        print(json.dumps(result, indent=2))
        return
    for name, value in result.items():
        print(f"{name:24} {value:.4g}")


if __name__ == "__main__":
    main()
