"""Compares the label kernel's speed with PyTorch's, and times a training step of the gate and what is kept of states.

    python tools/bench/labels.py [--rows 64 256] [--threads 1 2] [--json]

PyTorch computes the same labels with topk, logsumexp and cumsum, once on all rows together and once in the chunks that
are fastest on this machine. The kernel and both PyTorch versions run in turn, with the same number of threads. Times
are medians per row, ratios are medians over the turns. Needs the extra `train`.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass

import numpy as np
import numpy.typing as npt

from lcg_cpp.gate.families import DEFAULT_FAMILIES
from lcg_cpp.gate.labels import family_labels

try:
    import torch

    from lcg_cpp.train.learner import Learner
    from lcg_cpp.train.likely import Likely
    from lcg_cpp.train.options import TrainOptions
except ImportError:
    raise SystemExit('PyTorch is not installed: pip install "lcg-cpp[train]"') from None

Singles = npt.NDArray[np.float32]

CHUNKS = (1, 2, 4, 8, 16, 32)
BATCH = 512


@dataclass(frozen=True)
class Task:
    """Labels to compute: logits (n, n_vocab), norms and families (n_vocab,), top-k and top-p."""

    logits: Singles
    norms: Singles
    families: npt.NDArray[np.uint8]
    top_k: int
    top_p: float

    def with_kernel(self, n_threads: int) -> Singles:
        """Computes them with the kernel."""
        return family_labels(self.logits, self.norms, self.families, self.top_k, self.top_p, n_threads=n_threads)

    def with_torch(self, n_at_once: int) -> Singles:
        """Computes them with PyTorch, so many rows at a time."""
        norms, families = torch.from_numpy(self.norms), torch.from_numpy(self.families).long()
        labels = []
        for rows in torch.from_numpy(self.logits).split(n_at_once):
            adjusted = rows / norms
            best, ids = adjusted.topk(self.top_k)
            probability = (best - adjusted.logsumexp(-1, keepdim=True)).exp()
            kept = probability.cumsum(-1) - probability < self.top_p
            held = torch.nn.functional.one_hot(families[ids], len(DEFAULT_FAMILIES)) * kept.unsqueeze(-1)
            labels.append(held.amax(1).float())
        return torch.cat(labels).numpy()


@dataclass(frozen=True)
class Result:
    """One line of the table: microseconds per row, and how many times faster the kernel is.

    Attributes:
        logits: What kind of rows.
        n_at_once: Rows at a time with which PyTorch is the fastest.
        different: Labels on which the two do not agree (PyTorch computes in single precision).
    """

    logits: str
    rows: int
    threads: int
    kernel: float
    torch_whole: float
    torch_chunks: float
    n_at_once: int
    ratio_whole: float
    ratio_chunks: float
    different: int


def make_task(kind: str, n: int, n_vocab: int, top_k: int, top_p: float) -> Task:
    """Rows of random logits: `normal`, or `text` with a head that falls off as in natural language."""
    rng = np.random.default_rng(0)
    norms = rng.lognormal(0, 0.15, n_vocab).astype(np.float32)
    logits = rng.standard_normal((n, n_vocab), np.float32) * (3.0 if kind == "normal" else 2.5)
    if kind == "text":
        rank = np.log(np.arange(1, 2001))
        for row in logits:
            head = rng.choice(n_vocab, len(rank), replace=False)
            row[head] = (20 - rng.uniform(0.8, 4) * rank + rng.normal(0, 0.3, len(rank))) * norms[head]
    families = rng.choice(len(DEFAULT_FAMILIES), n_vocab, p=[0.18, 0.62, 0.07, 0.13]).astype(np.uint8)
    return Task(logits, norms, families, top_k, top_p)


def seconds(call: Callable[[], object]) -> float:
    """How long one call takes."""
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def compare(kind: str, task: Task, n_threads: int, n_pairs: int) -> Result:
    """Times all three in turn."""
    torch.set_num_threads(n_threads)
    n = len(task.logits)
    different = int(np.count_nonzero(task.with_kernel(n_threads) != task.with_torch(n)))
    n_at_once = min(CHUNKS, key=lambda size: min(seconds(lambda: task.with_torch(size)) for _ in range(3)))
    turns = [
        (
            seconds(lambda: task.with_kernel(n_threads)),
            seconds(lambda: task.with_torch(n)),
            seconds(lambda: task.with_torch(n_at_once)),
        )
        for _ in range(n_pairs)
    ]
    kernel, whole, chunks = (1e6 * statistics.median(times) / n for times in zip(*turns))
    ratio_whole, ratio_chunks = (statistics.median(turn[i] / turn[0] for turn in turns) for i in (1, 2))
    return Result(kind, n, n_threads, kernel, whole, chunks, n_at_once, ratio_whole, ratio_chunks, different)


def step_time(n_hidden: int, n_embd: int, n_threads: int, n_steps: int) -> float:
    """Microseconds per state of one optimizer step on a batch of random states."""
    torch.set_num_threads(n_threads)
    rng = np.random.default_rng(0)
    states = rng.standard_normal((BATCH, n_embd), np.float32)
    labels = rng.integers(0, 2, (BATCH, len(DEFAULT_FAMILIES))).astype(np.float32)
    learner = Learner(len(DEFAULT_FAMILIES), TrainOptions(n_hidden=n_hidden), states)
    times = [seconds(lambda: learner.update(states, labels, 0.5)) for _ in range(n_steps)]
    return 1e6 * statistics.median(times[1:]) / BATCH


def kept_time(task: Task, n_times: int) -> float:
    """Microseconds per row of reading what `train --keep-states` keeps, with all cores."""
    times = [seconds(lambda: Likely.of(task.logits, task.norms, 0.0)) for _ in range(n_times)]
    return 1e6 * statistics.median(times) / len(task.logits)


def print_table(results: list[Result], kept: float, steps: dict[str, float], n_embd: int) -> None:
    """Prints what was measured."""
    print("labels, µs per row                      PyTorch          times faster than")
    print("logits   rows threads  kernel    whole  in chunks (rows)   whole  in chunks")
    for r in results:
        print(
            f"{r.logits:7} {r.rows:5} {r.threads:7} {r.kernel:7.1f} {r.torch_whole:8.1f} {r.torch_chunks:10.1f} "
            f"({r.n_at_once:4}) {r.ratio_whole:7.1f} {r.ratio_chunks:10.1f}"
            + (f"   {r.different} labels differ" if r.different else "")
        )
    print(f"\nkept by --keep-states, all cores, µs per row: {kept:.1f}")
    print(f"\ntraining step, µs per state of {n_embd}, batches of {BATCH}")
    for name, value in steps.items():
        print(f"{name:24} {value:6.2f}")


def main() -> None:
    """Reads the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, nargs="+", default=[64, 256], help="default: 64 256")
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2], help="default: 1 2")
    parser.add_argument("--vocab", type=int, default=151_936, help="default: %(default)s, Qwen3's")
    parser.add_argument("--top-k", type=int, default=20, help="default: %(default)s")
    parser.add_argument("--top-p", type=float, default=0.95, help="default: %(default)s")
    parser.add_argument("--pairs", type=int, default=9, help="turns (default: %(default)s)")
    parser.add_argument("--hidden", type=int, nargs="*", default=[0, 16, 1024], help="default: 0 16 1024")
    parser.add_argument("--n-embd", type=int, default=1024, help="default: %(default)s, Qwen3-0.6B's")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    results = []
    for kind in ("normal", "text"):
        for rows in arguments.rows:
            task = make_task(kind, rows, arguments.vocab, arguments.top_k, arguments.top_p)
            results += [compare(kind, task, n, arguments.pairs) for n in arguments.threads]
    text = make_task("text", max(arguments.rows), arguments.vocab, arguments.top_k, arguments.top_p)
    kept = kept_time(text, arguments.pairs)
    steps = {
        f"{n_hidden} hidden, {n} threads": step_time(n_hidden, arguments.n_embd, n, 5 * arguments.pairs)
        for n_hidden in arguments.hidden
        for n in arguments.threads
    }
    if arguments.json:
        found = {"labels": [asdict(result) for result in results], "kept_us_per_row": kept, "step_us_per_state": steps}
        print(json.dumps(found, indent=2))
    else:
        print_table(results, kept, steps, arguments.n_embd)


if __name__ == "__main__":
    main()
