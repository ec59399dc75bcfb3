"""What many families cost: a sampling step and an evaluation of the gate, with 4 and with 20 families, in turn.

    python tools/bench/families.py

Random logits and hidden states; the gate is asked at every step. Prints the fastest run of each: what else the machine
does only adds.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

import llama_cpp
import numpy as np

from lcg_cpp import Gate, GateOptions
from lcg_cpp.engine.chain import insert_stages
from lcg_cpp.gate.gate_file import write_gate
from lcg_cpp.gate.rule_set import FamilySet
from lcg_cpp.gate.spec import GateSpec

COUNTS = (4, 20)


def make_gate(folder: Path, n_families: int, n_vocab: int, n_embd: int, n_hidden: int) -> Gate:
    """A random gate whose families are spread over the vocabulary; the first is neutral, all others may be removed."""
    rng = np.random.default_rng(0)
    names = tuple(f"family {f}" for f in range(n_families))
    spec = GateSpec(
        architecture="llama",
        n_embd=n_embd,
        n_hidden=n_hidden,
        token_family=rng.integers(0, n_families, n_vocab).astype(np.uint8),
        tokenizer_hash="0" * 64,
        families=FamilySet(names, (False, *[True] * (n_families - 1)), 0, "default"),
    )
    weights = {
        "lcg.fc1.weight": rng.normal(0, n_embd**-0.5, (n_hidden, n_embd)).astype(np.float32),
        "lcg.fc2.weight": rng.normal(0, 2 * n_hidden**-0.5, (n_families, n_hidden)).astype(np.float32),
    }
    path = folder / f"gate-{n_families}.gguf"
    write_gate(path, spec, weights, "f16")
    return Gate.load(path)


@dataclass
class Run:
    """Microseconds."""

    step: float  # of a whole sampling step
    gate: float  # of one evaluation of the MLP


def measure(gate: Gate, rows: np.ndarray, hidden: np.ndarray) -> Run:
    """Sample once from each row."""
    stage = gate.new_stages(GateOptions(eager=True))
    llama = SimpleNamespace(_n_vocab=rows.shape[1], _seed=1, last_n_tokens_size=64, _input_ids=np.zeros(1, np.intc))
    sampler = llama_cpp.Llama._init_sampler(llama, top_k=20, top_p=0.8, min_p=0.0, typical_p=1.0, temp=0.7)
    chain = insert_stages(sampler, stage, temperature=0.7, top_k=20)
    stage.begin_reply(chain.facts)
    start = time.perf_counter()
    for row, state in zip(rows, hidden):
        stage.apply_row(chain.address, row, state, True)
    seconds = time.perf_counter() - start
    stats = stage.stats()
    return Run(seconds / len(rows) * 1e6, stats["gate_seconds"] / stats["gate_runs"] * 1e6)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for option, default in (("n-vocab", 151936), ("n-embd", 1024), ("n-hidden", 256), ("steps", 200), ("pairs", 15)):
        parser.add_argument(f"--{option}", type=int, default=default, help=f"(default: {default})")
    args = parser.parse_args()
    rng = np.random.default_rng(1)
    rows = rng.normal(0, 2.5, (args.steps, args.n_vocab)).astype(np.float32)
    hidden = rng.normal(0, 1, (args.steps, args.n_embd)).astype(np.float32)
    with tempfile.TemporaryDirectory() as folder:
        gates = [make_gate(Path(folder), n, args.n_vocab, args.n_embd, args.n_hidden) for n in COUNTS]
        for gate in gates:
            measure(gate, rows[:50], hidden[:50])
        pairs = [[measure(gate, rows, hidden) for gate in gates] for _ in range(args.pairs)]
    best = {what: [min(getattr(pair[i], what) for pair in pairs) for i in range(2)] for what in ("step", "gate")}
    for i, n in enumerate(COUNTS):
        print(f"{n:3} families: {best['step'][i]:7.1f} µs a step, {best['gate'][i]:6.1f} µs of it in the gate's MLP")
    for what, (few, many) in best.items():
        print(f"{what}: {many / few:.3f} times as long with {COUNTS[1]} as with {COUNTS[0]}")


if __name__ == "__main__":
    main()
