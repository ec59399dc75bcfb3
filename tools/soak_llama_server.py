"""Asks a gated llama-server for minutes, with many clients at once, and compares every reply with GatedLlama's.

    python tools/soak_llama_server.py --server llama-server --seconds 300

Four languages are in four slots, each with its own history. Beside whole greedy replies there are requests that are
broken off, prompts that are too long, and bodies that cannot be understood. The server must refuse those, crash never,
answer as GatedLlama answers each prompt alone, and hold its memory. Everything stays on this machine.
"""

from __future__ import annotations

import argparse
import http.client
import json
import random
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from lcg_cpp import GatedLlama, demo
from llama_server.running import LlamaServer, greedy_reply, running, wrapped

LANGUAGES = ("Russian", "Korean", "Arabic", "Hindi")
N_PREDICT = 24
N_CTX = 256  # of a slot
# With FlashAttention, or from its prompt cache, llama-server answers otherwise than alone, with and without a gate.
EXACT = ("-t", "1", "-fa", "off", "--cache-ram", "0")
KINDS = {"reply": 70, "broken off": 15, "too long": 5, "malformed": 10}  # per cent of the requests
MALFORMED: tuple[object, ...] = (b"{", b"\xff\xfe\x00", {"prompt": 7.5}, {"messages": 3}, {"prompt": [-5]}, [], "text")


@dataclass(frozen=True)
class Case:
    """A prompt, and its reply."""

    slot: int  # of its language
    prompt: list[int]
    reply: list[int]
    ungated: list[int]


@dataclass
class Tally:
    """What was seen so far."""

    counts: Counter[str] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def add(self, kind: str, wrong: str | None) -> None:
        """Count a request; say what was wrong with its answer."""
        with self.lock:
            self.counts[kind] += 1
            if wrong is not None:
                self.wrong.append(wrong)


def make_cases(n_each: int) -> list[Case]:
    """Prompts of the demo, and their replies with and without its gate, each alone."""
    gated, stock = (
        GatedLlama(str(demo.MODEL), gate=gate, n_ctx=N_CTX, verbose=False) for gate in (demo.GATES["default"], None)
    )
    rows = [json.loads(line) for line in demo.PROMPTS.read_text("utf-8").splitlines()]
    cases = []
    for slot, language in enumerate(LANGUAGES):
        for row in [row for row in rows if row["language"] == language][:n_each]:
            prompt = gated.tokenize(row["prompt"].encode(), special=True)
            replies = (greedy_reply(llm, prompt, N_PREDICT) for llm in (gated, stock))
            cases.append(Case(slot, prompt, *replies))
    return cases


def ask(server: LlamaServer, case: Case, kind: str, dice: random.Random) -> str | None:
    """Send a request; what was wrong with the answer."""
    if kind == "broken off":
        server.break_off(case.prompt, dice.randrange(400))
        return None
    if kind == "reply":
        place = {"id_slot": case.slot} if dice.random() < 0.5 else {}
        found = server.result(case.prompt, n_predict=N_PREDICT, cache_prompt=False, **place)["tokens"]
        return None if found == case.reply else f"{case.prompt}: {found}, expected {case.reply}"
    body = {"prompt": case.prompt * 100} if kind == "too long" else dice.choice(MALFORMED)
    status, _ = server.call("POST", "/completion", body)
    return None if 400 <= status <= 500 else f"{str(body)[:60]}: status {status}, expected a refusal"


def be_client(server: LlamaServer, cases: Sequence[Case], tally: Tally, until: float, seed: int) -> None:
    """Ask one thing after another."""
    dice = random.Random(seed)
    while time.monotonic() < until and server.process.poll() is None:
        (kind,) = dice.choices([*KINDS], [*KINDS.values()])
        try:
            wrong = ask(server, dice.choice(cases), kind, dice)
        except (OSError, http.client.HTTPException, ValueError, AssertionError) as error:
            wrong = f"{kind}: {error!r}"
        tally.add(kind, wrong)


def soak(server: LlamaServer, cases: Sequence[Case], n_clients: int, seconds: float) -> tuple[Tally, list[float]]:
    """What all clients saw, and the server's memory in megabytes, once a second."""
    tally, until = Tally(), time.monotonic() + seconds
    clients = [
        threading.Thread(target=be_client, args=(server, cases, tally, until, seed)) for seed in range(n_clients)
    ]
    for client in clients:
        client.start()
    memory = []
    while time.monotonic() < until and server.process.poll() is None:
        memory.append(server.megabytes())
        time.sleep(1)
    for client in clients:
        client.join()
    return tally, memory


def main() -> None:
    """Reads the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--server", required=True, help="llama-server, with shared libraries")
    parser.add_argument("--seconds", type=float, default=300)
    parser.add_argument("--clients", type=int, default=32)
    arguments = parser.parse_args()
    cases = make_cases(n_each=16)
    n_changed = sum(case.reply != case.ungated for case in cases)
    command = [arguments.server, "-m", str(demo.MODEL), "-np", str(len(LANGUAGES)), "-c", str(N_CTX * len(LANGUAGES))]
    with tempfile.TemporaryDirectory() as folder:
        stats = Path(folder, "stats.jsonl")
        gated = wrapped([*command, *EXACT], str(demo.GATES["default"]), "--stats", str(stats))
        with running(gated, Path(folder, "log")) as server:
            tally, memory = soak(server, cases, arguments.clients, arguments.seconds)
            if server.process.poll() is not None:
                raise SystemExit(f"llama-server ended with {server.process.returncode}:\n{server.said()}")
            server.stop()
        found = json.loads(stats.read_text("utf-8").splitlines()[-1])
    settled = memory[len(memory) // 10 :]
    print(f"{arguments.clients} clients for {arguments.seconds:g} s, {len(LANGUAGES)} languages in as many slots:")
    print(", ".join(f"{tally.counts[kind]} {kind}" for kind in KINDS) + f"; {len(tally.wrong)} answered wrongly")
    print(f"the gate changes {n_changed} of the {len(cases)} replies; steps {found['steps']}, interventions", end=" ")
    print(f"{found['interventions']}, without a hidden state {found['without_hidden']}")
    print(
        f"memory {settled[0]:.1f} MB after a tenth of the time, {settled[-1]:.1f} at the end, {max(memory):.1f} at most"
    )
    for wrong in tally.wrong[:5]:
        print("wrong:", wrong)
    sys.exit(1 if tally.wrong or found["without_hidden"] else 0)


if __name__ == "__main__":
    main()
