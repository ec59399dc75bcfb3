"""A server of the tests: `lcg-cpp serve` in a process of its own, on a free port."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.client import HTTPConnection
from typing import Any


@dataclass
class Server:
    """A server that runs."""

    process: subprocess.Popen[str]
    port: int
    said: list[str] = field(default_factory=list)  # on standard error

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/v1"

    def open(self, path: str, body: dict[str, Any] | bytes | None = None, key: str | None = None) -> HTTPConnection:
        """Send a request, and leave the response to be read."""
        connection = HTTPConnection("127.0.0.1", self.port, timeout=300)
        data = json.dumps(body).encode() if isinstance(body, dict) else body
        headers = {"Content-Type": "application/json"}
        if key is not None:
            headers["Authorization"] = f"Bearer {key}"
        connection.request("GET" if data is None else "POST", path, data, headers)
        return connection

    def call(self, path: str, body: dict[str, Any] | bytes | None = None, key: str | None = None) -> tuple[int, Any]:
        """Status and JSON body of the response."""
        with contextlib.closing(self.open(path, body, key)) as connection:
            response = connection.getresponse()
            return response.status, json.loads(response.read())

    def complete(self, body: dict[str, Any], kind: str = "completions") -> dict[str, Any]:
        status, found = self.call(f"/v1/{kind}", body)
        assert status == 200, found
        return found

    def stop(self) -> int:
        """Press Ctrl-C, and give the exit code."""
        self.process.send_signal(signal.SIGINT)
        return self.process.wait(timeout=300)


@contextlib.contextmanager
def serving(*arguments: object) -> Iterator[Server]:
    """Start a server and wait until it listens."""
    command = [sys.executable, "-m", "lcg_cpp", "serve", "--port", "0", *map(str, arguments)]
    environment = {name: value for name, value in os.environ.items() if name != "LLAMA_API_KEY"}
    with subprocess.Popen(
        command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, encoding="utf-8", env=environment
    ) as process:
        assert process.stderr is not None
        server, ready = Server(process, 0), threading.Event()

        def listen() -> None:
            for line in process.stderr or ():
                server.said.append(line.rstrip("\n"))
                found = re.search(r"listening at https?://\S+:(\d+)/v1", line)
                if found:
                    server.port = int(found[1])
                    ready.set()
            ready.set()

        reader = threading.Thread(target=listen)
        reader.start()
        try:
            assert ready.wait(300), server.said
            assert server.port, server.said
            yield server
        finally:
            process.kill()
            process.wait()
            reader.join()
