"""Measures what the gate costs in llama-server: a stock server and one under `lcg-cpp wrap`, asked in turn.

    python tools/bench/llama_server.py --server llama-server --model MODEL.gguf --lcg GATE.gguf [--slots 1,4]

Each round sends the same prompts to both, as many at once as there are slots, in an order that alternates. Printed are
medians of the rounds' ratios, gated ÷ stock: tokens a second of whole rounds, the time until the first token, and the
servers' CPU seconds, which a busy machine disturbs least.
"""

from __future__ import annotations

import argparse
import contextlib
import http.client
import json
import os
import signal
import socket
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from lcg_cpp.benchmarks import load_benchmark

TICK = 1 / os.sysconf("SC_CLK_TCK")  # seconds


@dataclass
class Round:
    """What a server took for the prompts of one round: seconds, but `rate`, tokens a second."""

    rate: float
    first_token: float
    cpu: float


class Server:
    """A llama-server that is running."""

    def __init__(self, command: Sequence[str]) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        command = [*command, "--port", str(self.port)]
        self.process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    def connect(self, method: str, path: str, body: object = None) -> http.client.HTTPResponse:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=600)
        connection.request(method, path, json.dumps(body), {"Content-Type": "application/json"})
        return connection.getresponse()

    def wait(self) -> None:
        while self.process.poll() is None:
            with contextlib.suppress(OSError):
                if self.connect("GET", "/health").status == 200:
                    return
            time.sleep(0.2)
        raise SystemExit("llama-server ended before it was ready")

    def cpu_seconds(self) -> float:
        with open(f"/proc/{self.process.pid}/stat", encoding="ascii") as file:
            fields = file.read().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) * TICK

    def first_token(self, prompt: str, n_predict: int) -> float:
        """Answers a prompt; seconds until its first token."""
        body = {"prompt": prompt, "n_predict": n_predict, "stream": True, "ignore_eos": True, "cache_prompt": False}
        begin = time.perf_counter()
        response = self.connect("POST", "/completion", {**body, "temperature": 0.7, "top_k": 20, "seed": 1})
        response.readline()
        seconds = time.perf_counter() - begin
        response.read()
        return seconds

    def round(self, prompts: Sequence[str], n_predict: int) -> Round:
        cpu, begin = self.cpu_seconds(), time.perf_counter()
        with ThreadPoolExecutor(len(prompts)) as clients:
            waits = list(clients.map(lambda prompt: self.first_token(prompt, n_predict), prompts))
        rate = len(prompts) * n_predict / (time.perf_counter() - begin)
        return Round(rate, statistics.mean(waits), self.cpu_seconds() - cpu)


@contextlib.contextmanager
def pair(arguments: argparse.Namespace, slots: int) -> Iterator[list[Server]]:
    """A stock and a gated server."""
    own = [arguments.server, "-m", arguments.model, "-np", str(slots), "-c", str(1024 * slots)]
    own += ["-t", str(arguments.threads)]
    wrap = [sys.executable, "-m", "lcg_cpp", "wrap", "--lcg", arguments.lcg, "--any-model", "--strict", "--"]
    servers = [Server(own), Server([*wrap, *own])]
    try:
        for server in servers:
            server.wait()
        yield servers
    finally:
        for server in servers:
            server.process.send_signal(signal.SIGTERM)
            server.process.wait()


def main() -> None:
    """Reads the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--server", required=True, help="llama-server, with shared libraries")
    parser.add_argument("--model", required=True)
    parser.add_argument("--lcg", required=True)
    parser.add_argument("--slots", default="1,4")
    parser.add_argument("--rounds", type=int, default=8)
    parser.add_argument("--n-predict", type=int, default=48)
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    prompts = [prompt.prompt for prompt in load_benchmark("everyday").prompts]
    for slots in map(int, arguments.slots.split(",")):
        found: list[tuple[Round, Round]] = []
        with pair(arguments, slots) as (stock, gated):
            for i in range(arguments.rounds + 1):
                asked = [prompts[(i * slots + k) % len(prompts)] for k in range(slots)]
                order = (stock, gated) if i % 2 else (gated, stock)
                rounds = {server: server.round(asked, arguments.n_predict) for server in order}
                found.append((rounds[stock], rounds[gated]))
        for name in ("rate", "first_token", "cpu"):
            ratios = sorted(getattr(gated, name) / getattr(stock, name) for stock, gated in found[1:])  # one to warm up
            middle = statistics.median(ratios)
            print(f"{slots} slots: {name} gated ÷ stock {middle:.3f} ({ratios[0]:.3f} to {ratios[-1]:.3f})", flush=True)


if __name__ == "__main__":
    main()
