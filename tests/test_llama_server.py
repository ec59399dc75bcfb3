"""llama-server under `lcg-cpp wrap`: whatever its slots do, each reply is the one that GatedLlama gives.

`LCG_LLAMA_SERVER` names a llama-server of the installed llama-cpp-python's llama.cpp (tools/llama_server builds one);
without it these tests are left out.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from lcg_cpp import GatedLlama, demo

SERVER = os.environ.get("LCG_LLAMA_SERVER", "")
pytestmark = pytest.mark.skipif(not SERVER, reason="LCG_LLAMA_SERVER names no llama-server")

N_PREDICT = 24
N_PROMPTS = 12
EOS = 1
Json = dict[str, Any]


class Server:
    """A llama-server that is running, gated unless told otherwise."""

    def __init__(self, folder: Path, *arguments: str, gate: bool = True, options: tuple[str, ...] = ()) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.stats = folder / "stats.jsonl"
        self.log = folder / "server.log"
        wrap = (sys.executable, "-m", "lcg_cpp", "wrap", "--lcg", str(demo.GATES["default"]), "--strict", *options)
        command = [SERVER, "-m", str(demo.MODEL), "--port", str(self.port), "-t", "1", *arguments]
        command = [*wrap, "--stats", str(self.stats), "--", *command] if gate else command
        with self.log.open("w") as log:
            self.process = subprocess.Popen(command, stdout=log, stderr=log)
        while True:
            assert self.process.poll() is None, self.log.read_text("utf-8", "replace")
            with contextlib.suppress(OSError):
                if self.call("GET", "/health")[0] == 200:
                    return
            time.sleep(0.1)

    def call(self, method: str, path: str, body: Json | None = None) -> tuple[int, Any]:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=300)
        connection.request(method, path, json.dumps(body), {"Content-Type": "application/json"})
        response = connection.getresponse()
        data = response.read()
        connection.close()
        return response.status, json.loads(data)

    def complete(self, prompt: list[int], **body: Any) -> list[int]:
        """The tokens of a greedy reply."""
        return self.result(prompt, **body)["tokens"]

    def result(self, prompt: list[int], **body: Any) -> Json:
        settings = {"n_predict": N_PREDICT, "temperature": 0, "return_tokens": True, "repeat_penalty": 1.0}
        status, found = self.call("POST", "/completion", {"prompt": prompt, **settings, **body})
        assert status == 200, found
        return found

    def break_off(self, prompt: list[int]) -> None:
        """Hangs up in the middle of a streamed reply."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=300)
        body = {"prompt": prompt, "n_predict": 200, "stream": True, "ignore_eos": True}
        connection.request("POST", "/completion", json.dumps(body), {"Content-Type": "application/json"})
        connection.getresponse().read(40)
        connection.close()

    def stop(self) -> Json:
        """End the server; its statistics."""
        self.process.send_signal(signal.SIGTERM)
        assert self.process.wait(60) == 0, self.log.read_text("utf-8", "replace")[-2000:]
        return json.loads(self.stats.read_text("utf-8").splitlines()[-1])


@contextlib.contextmanager
def serving(folder: Path, *arguments: str, **how: Any) -> Iterator[Server]:
    server = Server(folder, *arguments, **how)
    try:
        yield server
    finally:
        server.process.kill()
        server.process.wait()


@pytest.fixture(scope="module")
def prompts() -> list[list[int]]:
    llm = GatedLlama(str(demo.MODEL), n_ctx=256, verbose=False)
    lines = demo.PROMPTS.read_text(encoding="utf-8").splitlines()[:N_PROMPTS]
    return [llm.tokenize(json.loads(line)["prompt"].encode(), special=True) for line in lines]


@pytest.fixture(scope="module")
def gated(prompts: list[list[int]]) -> tuple[list[list[int]], int]:
    """The replies of GatedLlama, to the end, and how often its gate intervened."""
    llm = GatedLlama(str(demo.MODEL), gate=demo.GATES["default"], n_ctx=256, verbose=False)
    replies = []
    for prompt in prompts:
        llm.reset()
        reply: list[int] = []
        for token in llm.generate(prompt, temp=0.0):
            reply.append(token)
            if token == EOS or len(reply) == N_PREDICT:
                break
        replies.append(reply)
    assert llm.gate_stats.interventions > 5
    return replies, llm.gate_stats.interventions


LAYOUTS = {
    "one slot": ("-np", "1"),
    "slots": ("-np", "4", "-c", "1024"),
    "slots in one cache": ("-np", "4", "-c", "1024", "-kvu"),
    "micro-batches": ("-np", "4", "-c", "1024", "-b", "32", "-ub", "4"),
    "a draft model": ("-np", "2", "-c", "512", "-md", str(demo.MODEL), "--spec-draft-n-max", "3"),
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_each_reply_is_that_of_gated_llama(
    prompts: list[list[int]], gated: tuple[list[list[int]], int], tmp_path: Path, layout: str
) -> None:
    with serving(tmp_path, *LAYOUTS[layout]) as server, ThreadPoolExecutor(6) as clients:
        assert list(clients.map(server.complete, prompts)) == gated[0]
        assert list(clients.map(server.complete, prompts[::-1])) == gated[0][::-1]  # now from the prompt cache
        stats = server.stop()
        assert stats["without_hidden"] == 0
        if layout != "a draft model":  # whose drafts are gated too, as it is the same model
            assert stats["interventions"] == 2 * gated[1]


def test_what_is_broken_off_leaves_nothing_behind(
    prompts: list[list[int]], gated: tuple[list[list[int]], int], tmp_path: Path
) -> None:
    with serving(tmp_path, "-np", "4", "-c", "1024") as server, ThreadPoolExecutor(8) as clients:
        broken = [clients.submit(server.break_off, prompt) for prompt in prompts * 3]
        assert list(clients.map(server.complete, prompts)) == gated[0]
        for each in broken:
            each.result()
        assert list(clients.map(server.complete, prompts)) == gated[0]
        for body in ({"prompt": [1] * 5000}, {"prompt": 7.5}, {"messages": 3}):  # what cannot be answered
            assert server.call("POST", "/completion", body)[0] in {400, 500}
        assert server.complete(prompts[0]) == gated[0][0]
        server.stop()


def test_requests_of_every_kind_are_gated_alike(
    prompts: list[list[int]], gated: tuple[list[list[int]], int], tmp_path: Path
) -> None:
    with serving(tmp_path, "-np", "2", "-c", "512", "--slot-save-path", str(tmp_path)) as server:
        prompt, reply = prompts[0], gated[0][0]
        anything = 'root ::= [^"]*'
        assert server.complete(prompt, grammar=anything) == reply
        for body in ({"n_probs": 5}, {"n_probs": 5, "post_sampling_probs": True}):
            found = server.result(prompt, **body)
            assert found["tokens"] == reply
            assert found["completion_probabilities"][0]["id"] == reply[0]
        letters = server.result(prompt, grammar="root ::= [a-z]+")["content"]
        assert letters.isascii()
        assert letters.islower()
        schema = {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]}
        found = server.result(prompt, json_schema=schema, n_predict=100)
        assert list(json.loads(found["content"])) == ["a"]
        assert server.complete(prompt, id_slot=0) == reply
        assert server.call("POST", "/slots/0?action=save", {"filename": "slot.bin"})[0] == 200
        server.complete(prompts[1], id_slot=0)
        assert server.call("POST", "/slots/0?action=restore", {"filename": "slot.bin"})[0] == 200
        assert server.complete(prompt, id_slot=0) == reply
        server.stop()


def test_a_context_that_is_shifted_goes_on(prompts: list[list[int]], tmp_path: Path) -> None:
    with serving(tmp_path, "-np", "1", "-c", "64", "--context-shift") as server:
        assert len(server.complete(prompts[0], n_predict=150, ignore_eos=True)) == 150
        stats = server.stop()
        assert (stats["steps"], stats["without_hidden"]) == (150, 0)


def test_embeddings_beside_completions_are_those_of_an_ungated_server(
    prompts: list[list[int]], gated: tuple[list[list[int]], int], tmp_path: Path
) -> None:
    arguments = ("-np", "2", "-c", "512", "--embeddings", "--pooling", "mean")
    vectors = []
    for gate in (False, True):
        with serving(tmp_path, *arguments, gate=gate) as server, ThreadPoolExecutor(4) as clients:
            replies = clients.map(server.complete, prompts) if gate else ()
            found = [server.call("POST", "/embedding", {"content": prompt}) for prompt in prompts]
            vectors.append(found)
            if gate:
                assert list(replies) == gated[0]
                server.stop()
    assert vectors[0] == vectors[1]
