"""`lcg-cpp serve`: replies are those of `GatedLlama`, each request has its own options, and errors are told."""

from __future__ import annotations

import contextlib
import json
import os
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import openai
import pytest

from command_line import refusal
from lcg_cpp import GatedLlama, GateOptions
from lcg_cpp.demo import GATES, MODEL
from lcg_cpp.gate.families import family_set, text_families
from serving import Server, serving

PROMPTS = [
    "India, alemán, Panamá, Libia, Irán, Guam\nRussian:",
    "Serbia, Morocco, Urdu, Libya\nKorean:",
    "Spain, Georgia, German, Thailand\nArabic:",
]
SAMPLING = {"temperature": 1.2, "top_k": 40, "top_p": 0.95, "min_p": 0.05, "repeat_penalty": 1.1}
ENGINE = {"n_ctx": 256, "n_threads": 1, "n_threads_batch": 1}
GATED = {"model": str(MODEL), "model_alias": "gated", **ENGINE, "lcg": {"gate": str(GATES["default"])}}
PLAIN = {"model": str(MODEL), "model_alias": "plain", **ENGINE}
OBSERVED = {
    "model": str(MODEL),
    "model_alias": "observed",
    **ENGINE,
    "lcg": {"gate": str(GATES["paper"]), "mode": "observe"},
}


def write_config(folder: Path, *models: dict[str, Any], **settings: Any) -> Path:
    path = folder / "config.json"
    path.write_text(json.dumps({"models": models, **settings}))
    return path


def body(prompt: str = PROMPTS[0], seed: int = 1, **others: Any) -> dict[str, Any]:
    return {"prompt": prompt, "seed": seed, "max_tokens": 40, **SAMPLING, **others}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with serving("--config", write_config(tmp_path_factory.mktemp("serve"), GATED, PLAIN, OBSERVED)) as running:
        yield running


@pytest.fixture(scope="module")
def llm() -> Iterator[GatedLlama]:
    with contextlib.closing(GatedLlama(str(MODEL), gate=GATES["default"], verbose=False, **ENGINE)) as model:
        yield model


def completed(llm: GatedLlama, options: GateOptions, request: dict[str, Any]) -> str:
    """What GatedLlama replies to the same request."""
    llm.gate_options = options
    llm.reset()
    return str(llm.create_completion(**request)["choices"][0]["text"])


def text_of(response: dict[str, Any]) -> str:
    return str(response["choices"][0]["text"])


def streamed(server: Server, request: dict[str, Any], kind: str = "completions") -> list[dict[str, Any]]:
    """The chunks of a stream that ends as it should."""
    with contextlib.closing(server.open(f"/v1/{kind}", {**request, "stream": True})) as connection:
        lines = connection.getresponse().read().decode().splitlines()
    events = [line.removeprefix("data: ") for line in lines if line.startswith("data: ")]
    assert events.pop() == "[DONE]"
    return [json.loads(event) for event in events]


# ---- replies ----


def test_replies_are_those_of_the_model_with_and_without_its_gate(server: Server, llm: GatedLlama) -> None:
    gate, n = llm.gate, 0
    for name, options in (("gated", GateOptions()), ("plain", GateOptions(mode="off"))):
        for seed, prompt in enumerate(PROMPTS):
            llm.reset_gate_stats()
            expected = completed(llm, options, body(prompt, seed))
            found = server.complete(body(prompt, seed, model=name))
            assert text_of(found) == expected
            usage = found["usage"]["lcg"]
            assert usage["interventions"] == llm.gate_stats.interventions
            assert usage["removed_mass"] == pytest.approx(llm.gate_stats.removed_mass)
            assert usage["gate"] == (GATES["default"].name if name == "gated" else None)
            n += usage["interventions"]
    assert gate is not None
    assert n > 0


def test_a_model_only_observes_where_its_settings_say_so(server: Server, llm: GatedLlama) -> None:
    found = server.complete(body(model="observed"))
    assert text_of(found) == completed(llm, GateOptions(mode="off"), body())
    usage = found["usage"]["lcg"]
    assert (usage["gate"], usage["mode"]) == (GATES["paper"].name, "observe")
    assert usage["observed"] == usage["interventions"] > 0


def test_each_request_has_its_own_options(server: Server, llm: GatedLlama) -> None:
    assert server.complete(body(lcg={"mode": "off"}))["usage"]["lcg"]["mode"] == "off"
    wishes = [
        ({"mode": "observe"}, GateOptions(mode="observe")),
        ({}, GateOptions()),
        ({"deny": ["cyrillic"]}, GateOptions(deny=("cyrillic",))),
        (None, GateOptions()),
        ({"strength": 0.5, "first_token": False}, GateOptions(strength=0.5, first_token=False)),
        ({"allow": "hangul, thai", "strength": "inf"}, GateOptions(allow=("hangul", "thai"))),
    ]
    replies = [text_of(server.complete(body(lcg=wish))) for wish, _ in wishes]
    assert replies == [completed(llm, options, body()) for _, options in wishes]
    assert len(set(replies)) > 3
    assert text_families(replies[2], family_set("scripts")).isdisjoint({"cyrillic"})
    assert text_families(replies[5], family_set("scripts")) <= {"hangul", "thai"}


def test_a_pin_acts_on_a_model_without_a_gate_too(server: Server) -> None:
    found = server.complete(body(model="plain", lcg={"allow": ["greek"]}))
    assert text_families(text_of(found), family_set("scripts")) <= {"greek"}
    assert text_families(text_of(server.complete(body(model="plain"))), family_set("scripts")) > {"cyrillic"}


def test_a_stream_has_the_same_reply_and_tells_the_same_in_its_last_chunk(server: Server) -> None:
    whole = server.complete(body())
    chunks = streamed(server, body())
    assert "".join(text_of(chunk) for chunk in chunks) == text_of(whole)
    assert chunks[-1]["usage"] == whole["usage"]
    assert not any("usage" in chunk for chunk in chunks[:-1])


def test_chats_go_through_the_models_template(server: Server, llm: GatedLlama) -> None:
    llm.gate_options = GateOptions()
    llm.reset()
    request = {**body(), "messages": [{"role": "user", "content": PROMPTS[0]}]}
    del request["prompt"]
    expected = llm.create_chat_completion(**request)
    found = server.complete(request, "chat/completions")
    assert found["choices"][0]["message"] == expected["choices"][0]["message"]
    assert found["usage"]["lcg"]["interventions"] > 0
    chunks = streamed(server, request, "chat/completions")
    pieces = [chunk["choices"][0]["delta"].get("content", "") for chunk in chunks]
    assert "".join(pieces) == found["choices"][0]["message"]["content"]
    assert chunks[-1]["usage"] == found["usage"]


def test_concurrent_requests_are_answered_each_with_its_own_options(server: Server, llm: GatedLlama) -> None:
    wishes = [{}, {"mode": "off"}, {"deny": ["cyrillic"]}, {"mode": "observe"}] * 3
    requests = [body(PROMPTS[i % 3], i, lcg=wish) for i, wish in enumerate(wishes)]
    with ThreadPoolExecutor(len(requests)) as pool:
        found = list(pool.map(server.complete, requests))
    for response, request in zip(found, requests):
        wish = request.pop("lcg")
        assert text_of(response) == completed(llm, GateOptions(**wish), request)
        assert response["usage"]["lcg"]["mode"] == wish.get("mode", "mask")


# ---- what llama_cpp.server does goes through ----


def test_grammars_stop_texts_and_bias_hold(server: Server) -> None:
    assert text_of(server.complete(body(grammar='root ::= "あ" "b"'))) == "あb"
    whole = text_of(server.complete(body()))
    assert text_of(server.complete(body(stop=[whole[5:8]]))) == whole[:5]


def test_json_and_tools_come_as_asked_for(server: Server) -> None:
    chat = {"messages": [{"role": "user", "content": "x"}], "max_tokens": 60, "seed": 1}
    schema = {"type": "object", "properties": {"a": {"type": "boolean"}}, "required": ["a"]}
    found = server.complete({**chat, "response_format": {"type": "json_object", "schema": schema}}, "chat/completions")
    assert isinstance(json.loads(found["choices"][0]["message"]["content"])["a"], bool)
    tool = {"type": "function", "function": {"name": "f", "description": "", "parameters": schema}}
    choice = {"type": "function", "function": {"name": "f"}}
    found = server.complete({**chat, "tools": [tool], "tool_choice": choice}, "chat/completions")
    (call,) = found["choices"][0]["message"]["tool_calls"]
    assert call["function"]["name"] == "f"
    assert isinstance(json.loads(call["function"]["arguments"])["a"], bool)


def test_models_health_and_tokens(server: Server) -> None:
    assert server.call("/health") == (200, {"status": "ok"})
    assert [model["id"] for model in server.call("/v1/models")[1]["data"]] == ["gated", "plain", "observed"]
    assert server.call("/extras/tokenize/count", {"input": "Urdu, Libya"})[1]["count"] > 1


def test_the_openai_package_reads_what_the_gate_did(server: Server) -> None:
    with openai.OpenAI(base_url=server.url, api_key="none", max_retries=0) as client:
        wish = {"lcg": {"mode": "observe"}}
        found = client.completions.create(model="gated", prompt=PROMPTS[0], seed=1, max_tokens=40, extra_body=wish)
        assert found.usage is not None
        assert found.usage.lcg["mode"] == "observe"
        with pytest.raises(openai.BadRequestError, match=r"`lcg\.mode` is 'loud', expected"):
            client.completions.create(model="gated", prompt="x", extra_body={"lcg": {"mode": "loud"}})
        with pytest.raises(openai.APIError, match="exceed context window of 256"):
            list(client.completions.create(model="gated", prompt="x " * 300, stream=True))


# ---- requests that cannot be answered ----


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"lcg": {"mode": "loud"}}, '`lcg.mode` is \'loud\', expected "mask", "observe" or "off"'),
        ({"lcg": {"mode": []}}, '`lcg.mode` is [], expected "mask", "observe" or "off"'),
        ({"lcg": {"mood": "off"}}, "`lcg.mood` is unknown, expected `mode`"),
        ({"lcg": {"gate": "x"}}, "`lcg.gate` is unknown, expected `mode`, `strength`, "),
        ({"lcg": {"deny": ["tai"]}}, "`lcg.deny` names 'tai', expected thai"),
        ({"lcg": {"allow": 7}}, "`lcg.allow` is 7, expected a list of names"),
        ({"lcg": {"allow": [7]}}, "`lcg.allow` is [7], expected a list of names"),
        ({"lcg": {"strength": "strong"}}, "`lcg.strength` is 'strong', expected a number"),
        ({"lcg": {"strength": -1}}, "`lcg.strength` is -1.0, expected logits from 0 to infinity"),
        ({"lcg": {"threshold": True}}, "`lcg.threshold` is True, expected a number"),
        ({"lcg": {"first_token": 1}}, "`lcg.first_token` is 1, expected true or false"),
        ({"lcg": {"while_thinking": "x"}}, "`lcg.while_thinking` is 'x', expected \"mask\""),
        ({"lcg": {"leave_alone": ["prose"]}}, "`lcg.leave_alone` names 'prose', expected code or tool_calls"),
        ({"lcg": "off"}, '`lcg` is \'off\', expected an object such as {"mode": "observe"}'),
        ({"temperature": "warm"}, "`temperature`: input should be a valid number"),
        ({"prompt": ["a", "b"]}, "`prompt` holds 2 texts, expected one: send a request for each"),
    ],
)
def test_a_bad_value_is_a_bad_request_with_one_clear_line(server: Server, change: dict[str, Any], message: str) -> None:
    status, found = server.call("/v1/completions", body(**change))
    assert status == 400
    assert found["error"]["message"].startswith(message)
    assert found["error"]["type"] == "invalid_request_error"


def test_malformed_bodies_are_refused(server: Server) -> None:
    for data in (b"{", b"\xff\xfe", b"", b"[" * 100_000, b'{"temperature": NaN}', b'{"temperature": 1e400}'):
        status, found = server.call("/v1/chat/completions", data)
        assert (status, found["error"]["message"].partition(":")[0]) == (400, "the body is not JSON")
    status, found = server.call("/v1/completions", rb'{"prompt": "\ud800"}')
    assert (status, found["error"]["message"].partition(":")[0]) == (400, "the body holds half a character")
    status, found = server.call("/v1/completions", b"[1]")
    assert (status, found["error"]["message"]) == (400, "the body is a JSON list, expected an object")


@pytest.mark.parametrize("model", ["gated", "plain"])
def test_a_grammar_that_cannot_be_parsed_is_refused(server: Server, model: str) -> None:
    message = "`grammar` cannot be parsed, expected GBNF: 'root = '"
    wrong = body(grammar="root = ", model=model)
    status, found = server.call("/v1/completions", wrong)
    assert (status, found["error"]["message"]) == (400, message)
    with contextlib.closing(server.open("/v1/completions", {**wrong, "stream": True})) as connection:
        events = connection.getresponse().read().decode()
    assert json.loads(events.removeprefix("data: "))["error"]["message"] == message
    assert server.call("/v1/completions", body(model=model, top_k=2**31))[0] == 200


def test_a_request_that_fails_leaves_the_model_as_it_was(server: Server, llm: GatedLlama) -> None:
    long = body("x " * 300)
    assert server.call("/v1/completions", long)[0] == 400
    with contextlib.closing(server.open("/v1/completions", {**long, "stream": True})) as connection:
        events = connection.getresponse().read().decode()
    assert "exceed context window of 256" in json.loads(events.removeprefix("data: "))["error"]["message"]
    assert text_of(server.complete(body())) == completed(llm, GateOptions(), body())


def test_a_client_that_leaves_does_not_disturb_the_next_one(server: Server, llm: GatedLlama) -> None:
    for stream in (True, False, True):
        with contextlib.closing(
            server.open("/v1/completions", body(max_tokens=None, stream=stream, lcg={"mode": "off"}))
        ) as connection:
            if stream:
                connection.getresponse().read(10)
    assert text_of(server.complete(body())) == completed(llm, GateOptions(), body())


def test_a_reply_ends_where_nobody_waits_for_it() -> None:
    from fastapi import HTTPException

    from lcg_cpp.serve.exchange import Exchange, ServedLlama, current

    with contextlib.closing(ServedLlama(str(MODEL), lcg={}, verbose=False, **ENGINE)) as model:
        exchange = Exchange({})
        token = current.set(exchange)
        chunks = model.create_completion(PROMPTS[0], max_tokens=40, stream=True, temperature=0)
        next(iter(chunks))
        exchange.gone.set()
        with pytest.raises(HTTPException, match="the client is gone"):
            list(chunks)
        current.reset(token)


# ---- how it starts and ends ----


STOPPING = b'{"error":{"message":"the server is stopping","type":"internal_server_error","param":null,"code":null}}'


@pytest.mark.skipif(os.name == "nt", reason="signals of POSIX")
@pytest.mark.parametrize("stream", [True, False])
def test_ctrl_c_ends_a_server_that_is_in_the_middle_of_a_reply(tmp_path: Path, stream: bool) -> None:
    config = write_config(tmp_path, {**GATED, "n_ctx": 30_000})
    with serving("--config", config) as server:
        request = body(max_tokens=29_000, stream=stream, logit_bias={"1": -100})
        with contextlib.closing(server.open("/v1/completions", request)) as connection:
            if stream:
                connection.getresponse().read(10)
            assert server.call("/health")[0] == 200  # the request before has begun
            assert server.stop() == 0
            if not stream:
                response = connection.getresponse()
                assert (response.status, response.read()) == (503, STOPPING)
    assert server.said[-1] == "stopped"
    assert not any("Traceback" in line for line in server.said)


def test_a_key_is_asked_for_where_there_is_one(tmp_path: Path) -> None:
    with serving("--config", write_config(tmp_path, PLAIN), "--api-key", "secret", "--host", "0.0.0.0") as server:
        assert server.call("/v1/completions", body())[0] == 401
        assert server.call("/v1/completions", body(), "guess")[0] == 401
        assert server.call("/v1/completions", body(), "secret")[0] == 200
        assert server.call("/health")[0] == 200


def test_embeddings_and_logprobs_come_beside_gated_replies_where_the_settings_say_so(
    tmp_path: Path, server: Server, llm: GatedLlama
) -> None:
    whole = {**GATED, "embedding": True, "logits_all": True}
    with serving("--config", write_config(tmp_path, whole)) as other:
        for _ in range(2):
            assert text_of(other.complete(body())) == completed(llm, GateOptions(), body())
            embedding = other.complete({"input": "Urdu"}, "embeddings")["data"][0]["embedding"]
            assert len(embedding[0]) == llm.n_embd()
        logprobs = other.complete(body(logprobs=2))["choices"][0]["logprobs"]
        assert max(logprobs["token_logprobs"]) <= 0
    for path, request in (("embeddings", {"input": "Urdu"}), ("completions", body(logprobs=2))):
        status, found = server.call(f"/v1/{path}", request)
        assert status == 500
        assert found["error"]["message"]


def test_a_public_address_needs_a_key(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    public = "which others can reach: set `api_key`, or stay on 127.0.0.1"
    for host in ("0.0.0.0", "::", "192.168.1.2", "example.com", ""):
        assert public in refusal(capsys, "serve", "-m", str(MODEL), "--no-lcg", "--host", host)
    config = write_config(tmp_path, PLAIN, host="0.0.0.0")
    assert public in refusal(capsys, "serve", "--config", str(config))
    assert "`api_key` is empty" in refusal(capsys, "serve", "-m", str(MODEL), "--no-lcg", "--api-key", " ")


def test_the_environment_does_not_change_the_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    from lcg_cpp.serve.settings import make_settings

    for name, value in {"HOST": "0.0.0.0", "API_KEY": "x", "SEED": "7", "EMBEDDING": "1"}.items():
        monkeypatch.setenv(name, value)
    settings = make_settings({"models": [{"model": "x.gguf"}]})
    assert (settings.host, settings.api_key) == ("127.0.0.1", None)
    assert (settings.models[0].seed, settings.models[0].embedding) == (2**32 - 1, False)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"models": []}, "`models`: list should have at least 1 item"),
        ({}, "`models`: field required"),
        ({"models": [PLAIN, PLAIN]}, "`models` holds 'plain' 2 times: give each a `model_alias` of its own"),
        ({"models": [{**PLAIN, "lgc": {}}]}, "`models.0.lgc`: extra inputs are not permitted"),
        ({"models": [{**PLAIN, "lcg": {"gate": 7}}]}, "`models.0.lcg`: `gate` is 7, expected a text"),
        ({"models": [{**PLAIN, "lcg": {"device": "tpu"}}]}, "`models.0.lcg`: `device` is 'tpu', expected"),
        ({"models": [{**PLAIN, "lcg": {"mode": "loud"}}]}, "`models.0.lcg`: `mode` is 'loud', expected"),
        ({"models": [PLAIN], "port": 70_000}, "`port`: input should be less than or equal to 65535"),
    ],
)
def test_bad_settings_are_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], settings: dict[str, Any], message: str
) -> None:
    path = tmp_path / "config.json"
    path.write_text(json.dumps(settings))
    assert refusal(capsys, "serve", "--config", str(path)).startswith(f"--config: {path}: {message}")


def test_files_that_cannot_be_used_are_told(tmp_path: Path, gate16: Path, capsys: pytest.CaptureFixture[str]) -> None:
    broken = tmp_path / "broken.yaml"
    broken.write_text("models: [")
    assert "broken.yaml: is not valid: while parsing" in refusal(capsys, "serve", "--config", str(broken))
    assert "no such file" in refusal(capsys, "serve", "--config", str(tmp_path / "missing.json"))
    assert "expected a base model; a gate goes to --lcg" in refusal(
        capsys, "serve", "-m", str(GATES["default"]), "--no-lcg", "--port", "0"
    )
    wrong = {**GATED, "model_alias": "wrong", "lcg": {"gate": str(gate16)}}
    config = str(write_config(tmp_path, PLAIN, wrong))
    assert refusal(capsys, "serve", "--config", config).startswith(f"models.1.lcg.gate: {gate16}: was made for")
    assert refusal(capsys, "serve", "-m", str(MODEL), "--lcg", str(gate16)).startswith(f"--lcg: {gate16}: was made for")
    assert "--lcg is missing" in refusal(capsys, "serve", "-m", str(MODEL))
    for option, value in (("--ctx-size", "7"), ("--lcg-mode", "observe"), ("--alias", "x")):
        said = refusal(capsys, "serve", "--config", config, option, value)
        assert said == f"{option}: is given with --config, expected it in the file, for each model"


def test_an_address_that_is_taken_is_told(server: Server, capsys: pytest.CaptureFixture[str]) -> None:
    said = refusal(capsys, "serve", "-m", str(MODEL), "--no-lcg", "--port", str(server.port))
    assert said == f"127.0.0.1:{server.port}: cannot be listened on: address already in use"


def test_missing_packages_are_told(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    for name in [name for name in sys.modules if name.startswith("lcg_cpp.serve")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "fastapi", None)
    said = refusal(capsys, "serve", "-m", str(MODEL), "--no-lcg")
    assert said == "`fastapi` is not installed, expected the packages of the server: pip install 'lcg-cpp[server]'"
