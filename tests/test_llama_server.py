"""llama-server under `lcg-cpp wrap`: whatever its slots do, each reply is the one that GatedLlama gives.

`LCG_LLAMA_SERVER` names a llama-server of the installed llama-cpp-python's llama.cpp (tools/llama_server builds one);
without it these tests are left out.
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from llama_cpp import LlamaGrammar, LogitsProcessorList

import odd_models
import tiny_model
from lcg_cpp import GatedLlama, GateOptions, demo
from lcg_cpp.gate.options import with_phases

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tools"))
from llama_server.running import Json, LlamaServer, greedy_reply, wrapped

SERVER = os.environ.get("LCG_LLAMA_SERVER", "")
pytestmark = pytest.mark.skipif(not SERVER, reason="LCG_LLAMA_SERVER names no llama-server")

N_PREDICT = 24
N_PROMPTS = 12


class Server(LlamaServer):
    """A llama-server that is running, gated unless told otherwise."""

    def __init__(
        self,
        folder: Path,
        *arguments: str,
        model: Path = demo.MODEL,
        gate: Path | None = demo.GATES["default"],
        options: tuple[str, ...] = (),
    ) -> None:
        self.stats = folder / "stats.jsonl"
        # FlashAttention rounds otherwise than GatedLlama
        command = [SERVER, "-m", str(model), "-t", "1", "-fa", "off", *arguments]
        if gate is not None:
            command = wrapped(command, str(gate), "--stats", str(self.stats), *options)
        super().__init__(command, folder / "server.log")

    def complete(self, prompt: list[int], **body: Any) -> list[int]:
        """The tokens of a greedy reply."""
        return self.result(prompt, **{"n_predict": N_PREDICT, **body})["tokens"]

    def end(self) -> Json:
        """Stop the server; its statistics."""
        self.stop()
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


def replies_of(model: Path, gate: Path, prompts: list[list[int]]) -> tuple[list[list[int]], int]:
    llm = GatedLlama(str(model), gate=gate, n_ctx=256, verbose=False)
    replies = [greedy_reply(llm, prompt, N_PREDICT) for prompt in prompts]
    assert llm.gate_stats.interventions > 5
    return replies, llm.gate_stats.interventions


@pytest.fixture(scope="module")
def gated(prompts: list[list[int]]) -> tuple[list[list[int]], int]:
    """The replies of GatedLlama, to the end, and how often its gate intervened."""
    return replies_of(demo.MODEL, demo.GATES["default"], prompts)


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
        stats = server.end()
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
        server.end()


def test_requests_of_every_kind_are_gated_alike(
    prompts: list[list[int]], gated: tuple[list[list[int]], int], tmp_path: Path
) -> None:
    with serving(tmp_path, "-np", "2", "-c", "512", "--slot-save-path", str(tmp_path)) as server:
        prompt, reply = prompts[0], gated[0][0]
        anything = 'root ::= [^"]*'
        assert server.complete(prompt, grammar=anything) == reply
        for body in ({"n_probs": 5}, {"n_probs": 5, "post_sampling_probs": True}):
            found = server.result(prompt, n_predict=N_PREDICT, **body)
            assert found["tokens"] == reply
            assert found["completion_probabilities"][0]["id"] == reply[0]
        letters = server.result(prompt, n_predict=N_PREDICT, grammar="root ::= [a-z]+")["content"]
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
        server.end()


def test_a_context_that_is_shifted_goes_on(prompts: list[list[int]], tmp_path: Path) -> None:
    with serving(tmp_path, "-np", "1", "-c", "64", "--context-shift") as server:
        assert len(server.complete(prompts[0], n_predict=150, ignore_eos=True)) == 150
        stats = server.end()
        assert (stats["steps"], stats["without_hidden"]) == (150, 0)


def test_embeddings_beside_completions_are_those_of_an_ungated_server(
    prompts: list[list[int]], gated: tuple[list[list[int]], int], tmp_path: Path
) -> None:
    arguments = ("-np", "2", "-c", "512", "--embeddings", "--pooling", "mean")
    vectors = []
    for gate in (None, demo.GATES["default"]):
        with serving(tmp_path, *arguments, gate=gate) as server, ThreadPoolExecutor(4) as clients:
            replies = clients.map(server.complete, prompts) if gate else ()
            found = [server.call("POST", "/embedding", {"content": prompt}) for prompt in prompts]
            vectors.append(found)
            if gate:
                assert list(replies) == gated[0]
                server.end()
    assert vectors[0] == vectors[1]


# ---- models of other kinds ----

NUMBERS = [[(7 * i + 3 * n) % 250 for i in range(n)] for n in (9, 40, 12, 25)]  # prompts of any tokens


# what llama.cpp restores from its prompt cache with --swa-full is not what it saved, with and without a gate
@pytest.mark.parametrize(
    "arguments", [(), ("--swa-full", "--cache-ram", "0"), ("-kvu", "-b", "32", "-ub", "4")], ids=" ".join
)
def test_a_sliding_window_keeps_its_rows(
    tmp_path: Path, make_gate_file: Callable[..., Path], arguments: tuple[str, ...]
) -> None:
    model = tmp_path / "gemma3.gguf"
    odd_models.write_gemma3(model)
    gate = make_gate_file(tiny_model.gate_weights(16, n_embd=odd_models.N_EMBD), base=model)
    replies, interventions = replies_of(model, gate, NUMBERS)
    kind = {"model": model, "gate": gate}
    with serving(tmp_path, "-np", "2", "-c", "512", *arguments, **kind) as server, ThreadPoolExecutor(4) as clients:
        assert list(clients.map(server.complete, NUMBERS)) == replies
        assert list(clients.map(server.complete, NUMBERS)) == replies  # now from the prompt cache
        stats = server.end()
    assert (stats["interventions"], stats["without_hidden"]) == (2 * interventions, 0)


def test_ranking_beside_completions_is_that_of_an_ungated_server(
    tmp_path: Path, make_gate_file: Callable[..., Path]
) -> None:
    model = tmp_path / "qwen3.gguf"
    odd_models.write_qwen3(model)
    gate = make_gate_file(tiny_model.gate_weights(16, n_embd=odd_models.N_EMBD), base=model)
    replies, interventions = replies_of(model, gate, NUMBERS)
    question = {"query": "the city", "documents": ["the time of the city", "in the name of"]}
    ranks = []
    for chosen in (None, gate):
        with (
            serving(tmp_path, "-np", "2", "-c", "512", "--reranking", model=model, gate=chosen) as server,
            ThreadPoolExecutor(4) as clients,
        ):
            asked = [clients.submit(server.call, "POST", "/rerank", question) for _ in range(4)]
            found = list(clients.map(server.complete, NUMBERS * 2)) if chosen else []
            ranks.append([each.result() for each in asked])
            if chosen:
                assert found == replies * 2
                stats = server.end()
                assert (stats["interventions"], stats["without_hidden"]) == (2 * interventions, 0)
    assert ranks[0] == ranks[1]
    assert ranks[0][0][0] == 200


# ---- calls of tools ----

TOOLS_TEMPLATE = """\
{%- if tools %}<|im_start|>system
{%- for tool in tools %}
{{ tool | tojson }}
{%- endfor %}<|im_end|>
{% endif %}
{%- for message in messages %}<|im_start|>{{ message.role }}
{{ message.content or "" }}
{%- for call in message.tool_calls or [] %}
<tool_call>{"name": "{{ call.function.name }}", "arguments": {{ call.function.arguments | tojson }}}</tool_call>
{%- endfor %}<|im_end|>
{% endfor %}
{%- if add_generation_prompt %}<|im_start|>assistant
{% endif %}"""
CITIES = ["東京", "Paris", "서울", "city"]
CITY = {"type": "object", "properties": {"city": {"enum": CITIES}}, "required": ["city"]}
TOOL = {"type": "function", "function": {"name": "weather", "description": "the time", "parameters": CITY}}


@pytest.fixture(scope="module")
def tiny(tiny_model_path: Path, make_gate_file: Callable[..., Path]) -> tuple[Path, Path]:
    """A model, and a gate that often intervenes."""
    return tiny_model_path, make_gate_file(tiny_model.gate_weights(16, seed=2))


@pytest.mark.parametrize("options", [(), ("--leave-alone", "tool_calls")], ids=" ".join)
def test_calls_of_tools_are_gated_behind_their_grammar(
    tmp_path: Path, tiny: tuple[Path, Path], tiny_vocab: tiny_model.TinyVocab, options: tuple[str, ...]
) -> None:
    template = tmp_path / "template.jinja"
    template.write_text(TOOLS_TEMPLATE)
    alone = with_phases(GateOptions(), None, ("tool_calls",) if options else ())
    llm = GatedLlama(str(tiny[0]), gate=tiny[1], gate_options=alone, n_ctx=1024, verbose=False)
    begin, *blanks = (tiny_vocab.contents.index(text) for text in (b"<tool_call>", b" ", b"\n"))
    server_has = ("-np", "2", "-c", "2048", "--jinja", "--chat-template-file", str(template))
    with serving(tmp_path, *server_has, model=tiny[0], gate=tiny[1], options=options) as server:
        for text in ("the city", "name of", "time"):
            for wanted in (100, -100):  # a call at once, or none: then the grammar that waits for one never acts
                bias = {begin: wanted, **dict.fromkeys(blanks, -100)}
                body = {"messages": [{"role": "user", "content": text}], "tools": [TOOL], "verbose": True}
                body |= {"temperature": 0, "return_tokens": True, "max_tokens": 60, "cache_prompt": False}
                body |= {"logit_bias": {str(token): x for token, x in bias.items()}}
                status, found = server.call("POST", "/v1/chat/completions", body)
                assert status == 200, found
                said, settings = found["__verbose"], found["__verbose"]["generation_settings"]
                assert settings["grammar_lazy"]

                def biased(_: Any, logits: Any, bias: dict[int, int] = bias) -> Any:
                    logits[list(bias)] += list(bias.values())
                    return logits

                grammar = LlamaGrammar.from_string(settings["grammar"], verbose=False) if wanted > 0 else None
                prompt = llm.tokenize(said["prompt"].encode(), add_bos=False, special=True)
                sampling = {"grammar": grammar, "logits_processor": LogitsProcessorList([biased])}
                assert said["tokens"] == greedy_reply(llm, prompt, 60, **sampling)
                calls = found["choices"][0]["message"].get("tool_calls", [])
                assert [json.loads(each["function"]["arguments"])["city"] in CITIES for each in calls[:1]] == (
                    [True] if wanted > 0 else []
                )
        stats = server.end()
    assert stats["interventions"] == llm.gate_stats.interventions > 5
    assert stats["without_hidden"] == 0


def test_a_token_that_is_sampled_again_behind_a_grammar_counts_once(tmp_path: Path, tiny: tuple[Path, Path]) -> None:
    llm = GatedLlama(str(tiny[0]), gate=tiny[1], n_ctx=512, verbose=False)
    words = "root ::= ([一-龥가-힣ऀ-ॿ]+ [a-z]* | [.] [a-z]+)+"
    with serving(tmp_path, "-np", "2", "-c", "1024", model=tiny[0], gate=tiny[1]) as server:
        for prompt in NUMBERS:
            grammar = LlamaGrammar.from_string(words, verbose=False)
            assert server.complete(prompt, grammar=words) == greedy_reply(llm, prompt, N_PREDICT, grammar=grammar)
        assert server.end()["interventions"] == llm.gate_stats.interventions > 5
