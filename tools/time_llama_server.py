"""Measures what the gate costs in llama-server: a stock server and one under `lcg-cpp wrap`, asked in turn.

    taskset -c 0 chrt -r 1 python tools/time_llama_server.py --server llama-server --model MODEL.gguf --lcg GATE.gguf

Both servers are up all the time. Each pair sends the same short requests to one and then to the other, in an order
drawn at random, as many at once as there are slots. Printed are the medians of the pairs' ratios, gated ÷ stock, with
95 % bootstrap intervals: tokens a second, time until the first token, and the server's own CPU time, which other
programs on the same core disturb least.
"""

from __future__ import annotations

import argparse
import random
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import astuple, dataclass
from pathlib import Path

import numpy as np

from lcg_cpp.benchmarks import load_benchmark
from lcg_cpp.measure.bootstrap import interval
from llama_server.running import LlamaServer, running, wrapped

N_RESAMPLES = 2000
N_WARM = 3  # pairs that do not count


@dataclass
class Cost:
    """What a server took for the requests of one pair; seconds."""

    all: float
    first_token: float
    cpu: float


def first_token(server: LlamaServer, prompt: str, n_predict: int) -> float:
    """Seconds until the first token of a reply, which is read to its end."""
    body = {"prompt": prompt, "n_predict": n_predict, "stream": True, "ignore_eos": True, "cache_prompt": False}
    begin = time.perf_counter()
    with server.open("POST", "/completion", {**body, "temperature": 0.7, "top_k": 20, "seed": 1}) as response:
        response.readline()
        seconds = time.perf_counter() - begin
        response.read()
    return seconds


def ask(server: LlamaServer, prompts: Sequence[str], n_predict: int, clients: ThreadPoolExecutor) -> Cost:
    """Send prompts at once."""
    cpu, begin = server.cpu_seconds(), time.perf_counter()
    waits = list(clients.map(lambda prompt: first_token(server, prompt, n_predict), prompts))
    return Cost(time.perf_counter() - begin, sum(waits) / len(waits), server.cpu_seconds() - cpu)


def measure(servers: Sequence[LlamaServer], n_slots: int, seconds: float, n_predict: int) -> list[list[Cost]]:
    """The costs of each pair, in the order of the servers, for so many seconds."""
    prompts = [prompt.prompt for prompt in load_benchmark("everyday").prompts]
    dice, pairs = random.Random(0), []
    begin = time.monotonic()
    with ThreadPoolExecutor(n_slots) as clients:
        while time.monotonic() - begin < seconds:
            asked = dice.sample(prompts, n_slots)
            order = dice.sample([0, 1], 2)
            found = {i: ask(servers[i], asked, n_predict, clients) for i in order}
            pairs.append([found[0], found[1]])
    return pairs[N_WARM:]


def report(n_slots: int, pairs: Sequence[Sequence[Cost]]) -> None:
    """Print the ratios."""
    costs = np.array([[astuple(cost) for cost in pair] for pair in pairs])  # (n, 2, 3)
    ratios = costs[:, 1] / costs[:, 0]
    ratios[:, 0] = 1 / ratios[:, 0]  # the same tokens in less time
    drawn = np.random.default_rng(0).integers(len(ratios), size=(N_RESAMPLES, len(ratios)))
    for name, column in zip(("tokens a second", "first token", "CPU time"), ratios.T):
        low, high = interval(np.median(column[drawn], axis=1))
        middle = np.median(column)
        print(
            f"{n_slots} slots, {len(ratios)} pairs: {name} gated ÷ stock {middle:.4f} ({low:.4f}–{high:.4f})",
            flush=True,
        )
    stock, gated = np.median(costs, axis=0)
    print(f"{n_slots} slots: medians stock {stock}, gated {gated} (seconds: all, first token, CPU)", flush=True)


def main() -> None:
    """Reads the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--server", required=True, help="llama-server, with shared libraries")
    parser.add_argument("--model", required=True)
    parser.add_argument("--lcg", required=True)
    parser.add_argument("--slots", default="1,4")
    parser.add_argument("--seconds", type=float, default=240, help="for each number of slots")
    parser.add_argument("--n-predict", type=int, default=16)
    arguments = parser.parse_args()
    for n_slots in map(int, arguments.slots.split(",")):
        command = [arguments.server, "-m", arguments.model, "-np", str(n_slots), "-c", str(512 * n_slots), "-t", "1"]
        with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
            both = (command, wrapped(command, arguments.lcg, "--any-model"))
            servers = [stack.enter_context(running(line, Path(folder, f"log{i}"))) for i, line in enumerate(both)]
            report(n_slots, measure(servers, n_slots, arguments.seconds, arguments.n_predict))


if __name__ == "__main__":
    main()
