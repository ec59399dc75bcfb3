"""A llama-server that runs as a child process, for tests and measurements; and the replies that it has to give."""

from __future__ import annotations

import contextlib
import http.client
import json
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import llama_cpp

from lcg_cpp import GatedLlama

Json = dict[str, Any]


def wrapped(command: Sequence[str], lcg: str, *options: str) -> list[str]:
    """The command line of a program with a gate in it."""
    return [sys.executable, "-m", "lcg_cpp", "wrap", "--lcg", lcg, "--strict", *options, "--", *command]


class LlamaServer:
    """A llama-server on a free port of this machine's own address, which others cannot reach."""

    def __init__(self, command: Sequence[str], log: Path) -> None:
        """Start it, and wait until it is ready."""
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.log = log
        with log.open("w") as file:
            self.process = subprocess.Popen([*command, "--port", str(self.port)], stdout=file, stderr=file)
        while self.process.poll() is None:
            with contextlib.suppress(OSError):
                if self.call("GET", "/health")[0] == 200:
                    return
            time.sleep(0.1)
        raise SystemExit(f"llama-server ended before it was ready:\n{self.said()}")

    def said(self) -> str:
        """The end of its log."""
        return self.log.read_text("utf-8", "replace")[-2000:]

    @contextlib.contextmanager
    def open(self, method: str, path: str, body: object = None) -> Iterator[http.client.HTTPResponse]:
        """Send a request; leaving the block hangs up."""
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        with contextlib.closing(http.client.HTTPConnection("127.0.0.1", self.port, timeout=600)) as connection:
            connection.request(method, path, data, {"Content-Type": "application/json"})
            yield connection.getresponse()

    def call(self, method: str, path: str, body: object = None) -> tuple[int, Any]:
        """Status and JSON body of a response."""
        with self.open(method, path, body) as response:
            return response.status, json.loads(response.read())

    def result(self, prompt: Sequence[int] | str, **body: Any) -> Json:
        """What it says of a greedy reply."""
        settings = {"temperature": 0, "return_tokens": True, "repeat_penalty": 1.0}
        status, found = self.call("POST", "/completion", {"prompt": prompt, **settings, **body})
        assert status == 200, found
        return found

    def break_off(self, prompt: Sequence[int], after: int = 40) -> None:
        """Hang up in the middle of a streamed reply, `after` so many bytes of it."""
        body = {"prompt": prompt, "n_predict": 200, "stream": True, "ignore_eos": True}
        with self.open("POST", "/completion", body) as response:
            response.read(after)

    def cpu_seconds(self) -> float:
        """CPU time of all its threads, also of those that have ended."""
        return time.clock_gettime((~self.process.pid << 3) | 2)  # clock_getcpuclockid(3), which Python does not have

    def megabytes(self) -> float:
        """Memory that it occupies."""
        pages = Path(f"/proc/{self.process.pid}/statm").read_text("ascii").split()[1]
        return int(pages) * 4096 / 1e6

    def stop(self) -> None:
        """End it as a person would."""
        self.process.send_signal(signal.SIGTERM)
        assert self.process.wait(60) == 0, self.said()


@contextlib.contextmanager
def running(command: Sequence[str], log: Path) -> Iterator[LlamaServer]:
    """A server that does not outlive the block."""
    server = LlamaServer(command, log)
    try:
        yield server
    finally:
        server.process.kill()
        server.process.wait()


def greedy_reply(llm: GatedLlama, prompt: Sequence[int], n_predict: int, **sampling: Any) -> list[int]:
    """The tokens that a server has to answer with."""
    llm.reset()
    reply: list[int] = []
    for token in llm.generate(prompt, temp=0.0, **sampling):
        reply.append(token)
        if llama_cpp.llama_vocab_is_eog(llm._model.vocab, token) or len(reply) == n_predict:
            break
    return reply
