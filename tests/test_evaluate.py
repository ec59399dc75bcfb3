"""Methods side by side: each is what it says it is, and a folder of replies can be stopped and continued."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import llama_cpp
import numpy as np
import pytest

import tiny_model
from lcg_cpp import PAPER_OPTIONS, Gate, GatedLlama, GateError, GateOptions
from lcg_cpp.benchmarks import Benchmark, Prompt
from lcg_cpp.evaluate.evaluate import EvalOptions, Evaluation, Progress, evaluate
from lcg_cpp.evaluate.folder import read_replies
from lcg_cpp.evaluate.methods import SOFT_STRENGTH, WARNING, Method, parse_methods
from lcg_cpp.evaluate.replies import Replier, reply_seed
from lcg_cpp.evaluate.summary import write_summary
from lcg_cpp.gate.rule_set import FamilySet

Json = dict[str, Any]

ENGINE: Json = {"n_ctx": 512, "n_threads": 1, "n_threads_batch": 1, "verbose": False}
PAPER_SAMPLING: Json = {"temp": 0.7, "top_k": 20, "top_p": 0.8, "min_p": 0.0}
PROMPTS = (
    Prompt("plain", "the name of the city", chat=False, max_tokens=40),
    Prompt("chat", "في مدينة", chat=True, max_tokens=40, subset="low"),
    Prompt("short", "中国 的 名字", chat=True, max_tokens=5),
)
BENCHMARK = Benchmark("tiny", PROMPTS, "made up")


@pytest.fixture(scope="module")
def llm(tiny_model_path: Path) -> GatedLlama:
    """The model that methods are run on."""
    return GatedLlama(str(tiny_model_path), **ENGINE)


@pytest.fixture(scope="module")
def gate_path(make_gate_file: Callable[..., Path]) -> str:
    """A random gate that acts now and then."""
    return str(make_gate_file(tiny_model.gate_weights(16, seed=2)))


@pytest.fixture(scope="module")
def replier(llm: GatedLlama, gate_path: str) -> Replier:
    """Answers by every built-in method."""
    methods = parse_methods("all,paper=lcg+first_token=off+confidence_temperature=0", gate_path)
    return Replier(llm, methods, {gate_path: Gate.load(gate_path)}, PAPER_SAMPLING)


def method(name: str, gate: str | None = None) -> Method:
    """One of the built-in methods."""
    return parse_methods(name, gate)[0]


def answered(
    path: Path,
    prompt: Prompt,
    seed: int,
    *,
    gate: str | None = None,
    options: GateOptions | None = None,
    **changes: Any,
) -> tuple[list[int], str, str, GatedLlama]:
    """What a model that is loaded anew says through llama_cpp's own calls: tokens, text, why it ends."""
    llm: Any = GatedLlama(str(path), gate=gate, gate_options=options, **ENGINE)
    tokens: list[int] = []
    generate = llm.generate

    def recording(*arguments: Any, **keywords: Any) -> Iterator[int]:
        for token in generate(*arguments, **keywords):
            tokens.append(token)
            yield token

    llm.generate = recording
    sampling: Json = {"temperature": 0.7, "top_k": 20, "top_p": 0.8, "min_p": 0.0, "repeat_penalty": 1.0, **changes}
    if prompt.chat:
        found = llm.create_chat_completion(
            [{"role": "user", "content": prompt.prompt}], max_tokens=prompt.max_tokens, seed=seed, **sampling
        )
        text = found["choices"][0]["message"]["content"]
    else:
        found = llm.create_completion(prompt.prompt, max_tokens=prompt.max_tokens, seed=seed, **sampling)
        text = found["choices"][0]["text"]
    if tokens and llm.ends_reply(tokens[-1]):
        tokens.pop()
    del tokens[prompt.max_tokens :]  # llama_cpp goes on to the end of a character
    return tokens, text, found["choices"][0]["finish_reason"], llm


def said_by(replier: Replier, how: Method, prompt: Prompt, seed: int) -> Json:
    """A reply as in replies.jsonl."""
    return replier.record(how, replier.reply(how, replier.prompt_tokens(prompt), seed, prompt.max_tokens))


def assert_same(reply: Json, tokens: list[int], text: str, finish: str) -> None:
    """Compares a reply with what llama_cpp said: it leaves out the bytes of broken characters, which a reply marks."""
    assert (reply["tokens"], reply["finish"]) == (tokens, finish)
    assert text.startswith(reply["reply"].replace("\ufffd", ""))
    assert "".join(reply["pieces"]) == reply["reply"]
    assert len(reply["pieces"]) == len(reply["tokens"]) == len(reply["families"])


# ---- every method is what it says ----


@pytest.mark.parametrize("prompt", PROMPTS, ids=lambda prompt: prompt.id)
@pytest.mark.parametrize(("name", "changes"), [("none", {}), ("greedy", {"temperature": 0.0})])
def test_plain_methods_equal_stock(
    replier: Replier, tiny_model_path: Path, prompt: Prompt, name: str, changes: Json
) -> None:
    for seed in (1, 2):
        tokens, text, finish, _ = answered(tiny_model_path, prompt, seed, **changes)
        reply = said_by(replier, method(name), prompt, seed)
        assert_same(reply, tokens, text, finish)
        assert reply["events"] == []
        assert len(tokens) > 3


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("lcg", GateOptions()),
        ("paper=lcg+first_token=off+confidence_temperature=0", PAPER_OPTIONS),
        ("gate-only", GateOptions(persistence=False, confidence=False)),
        ("lcg-soft", GateOptions(strength=SOFT_STRENGTH)),
    ],
)
def test_gated_methods_equal_gated_llama(
    replier: Replier, tiny_model_path: Path, gate_path: str, name: str, options: GateOptions
) -> None:
    n_events = 0
    for prompt in PROMPTS:
        for seed in (1, 2, 3):
            tokens, text, finish, llm = answered(tiny_model_path, prompt, seed, gate=gate_path, options=options)
            reply = said_by(replier, method(name, gate_path), prompt, seed)
            assert_same(reply, tokens, text, finish)
            events = [event for event in llm.gate_events if event.position < prompt.max_tokens]
            assert len(reply["events"]) == len(events)
            for found, event in zip(reply["events"], events):
                check_event(found, event, llm)
            n_events += len(reply["events"])
    assert n_events > 3


def check_event(found: Json, event: Any, llm: GatedLlama) -> None:
    """Compares an event of replies.jsonl with the one it tells."""
    assert llm.gate is not None

    def listed(tokens: Sequence[tuple[int, float]]) -> list[list[Any]]:
        pieces = [llm.detokenize([token], special=True).decode("utf-8", "backslashreplace") for token, _ in tokens]
        return [[piece, llm.gate.token_families[t], round(p, 6)] for piece, (t, p) in zip(pieces, tokens)]  # type: ignore[union-attr]

    assert (found["position"], found["last"]) == (event.position, event.last)
    assert (found["predicted"], found["allowed"], found["banned"]) == (event.predicted, event.allowed, event.banned)
    assert found["z"] == pytest.approx(event.z, abs=1e-3)
    assert found["removed"] == listed(event.removed)
    assert found["candidates"] == listed(event.left)[:10]
    assert found["chosen"] == listed([(event.chosen, 0.0)])[0][0]


def test_a_static_ban_equals_a_logit_bias(replier: Replier, tiny_model_path: Path, gate_path: str) -> None:
    families = Gate.load(gate_path).token_families
    bias = {int(token): -math.inf for token in np.flatnonzero(families < 2)}
    for prompt in PROMPTS:
        tokens, text, finish, _ = answered(tiny_model_path, prompt, 3, logit_bias=bias)
        reply = said_by(replier, method("ban"), prompt, 3)
        assert_same(reply, tokens, text, finish)
        assert min(reply["families"]) >= 2


def test_a_ban_holds_from_the_first_token_on(replier: Replier) -> None:
    n_first = 0
    for prompt in PROMPTS:
        for seed in range(8):
            plain, banned = (said_by(replier, method(name), prompt, seed) for name in ("none", "ban"))
            assert min(banned["families"]) >= 2
            n_first += plain["families"][0] < 2
    assert n_first > 3  # without a ban some replies begin so


def test_rules_only_acts_without_asking_the_state(replier: Replier) -> None:
    events = []
    for seed in range(6):
        reply = said_by(replier, method("rules-only"), PROMPTS[0], seed)
        events += reply["events"]
    assert events
    for event in events:
        assert event["predicted"] == ("symbols", "lowres")
        assert event["last"] is not None
        assert set(event["allowed"]) == {event["last"], "symbols", "lowres"}


# ---- prompts ----


def test_the_warning_stands_in_front_of_the_prompt(replier: Replier, llm: GatedLlama) -> None:
    for prompt in PROMPTS:
        tokens = replier.prompt_tokens(prompt, warning=True).tokens
        text = llm.detokenize(tokens, special=True).decode()
        assert WARNING + prompt.prompt in text
        assert text.count("<|im_start|>") == 2 * prompt.chat


def test_a_model_without_a_chat_template_goes_on_from_a_new_line(
    replier: Replier, llm: GatedLlama, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delitem(llm.metadata, "tokenizer.chat_template")
    assert replier.prompt_tokens(PROMPTS[1]).tokens == llm.tokenize("في مدينة\n".encode())


def test_thinking_can_be_left_out_by_templates_that_know_it(llm: GatedLlama, monkeypatch: pytest.MonkeyPatch) -> None:
    handlers: Any = llm._chat_handlers
    template = "{{ messages[0]['content'] }}{% if enable_thinking is false %}</think>{% endif %}"
    formatter = llama_cpp.llama_chat_format.Jinja2ChatFormatter(template, eos_token="", bos_token="")
    monkeypatch.setitem(handlers, llm.chat_format, formatter.to_chat_handler())
    thinking = Replier(llm, (), {}, PAPER_SAMPLING).prompt_tokens(PROMPTS[1])
    without = Replier(llm, (), {}, PAPER_SAMPLING, thinking=False).prompt_tokens(PROMPTS[1])
    assert llm.detokenize(thinking.tokens, special=True).decode() == "في مدينة"
    assert llm.detokenize(without.tokens, special=True).decode() == "في مدينة</think>"
    assert without.stop == ()  # an empty text would end every reply at once


def test_what_the_chat_template_refuses_is_told(llm: GatedLlama, monkeypatch: pytest.MonkeyPatch) -> None:
    formatter = llama_cpp.llama_chat_format.Jinja2ChatFormatter(
        "{{ raise_exception('no Arabic') }}", eos_token="", bos_token=""
    )
    monkeypatch.setitem(llm._chat_handlers, llm.chat_format, formatter.to_chat_handler())
    with pytest.raises(GateError, match=r"prompt `chat`: `tokenizer.chat_template` of .* refuses the chat: no Arabic;"):
        Replier(llm, (), {}, PAPER_SAMPLING).prompt_tokens(PROMPTS[1])


def test_a_prompt_longer_than_the_context_is_refused(replier: Replier) -> None:
    with pytest.raises(GateError, match=r"prompt `long`: the prompt has \d+ tokens and the context 512"):
        replier.prompt_tokens(Prompt("long", "the " * 600, chat=False))


def test_stops_equal_stock(replier: Replier, tiny_model_path: Path) -> None:
    said, _, _, _ = answered(tiny_model_path, PROMPTS[0], 4)
    tokens, text, finish, llm = answered(tiny_model_path, PROMPTS[0], 4, stop=["never said", "an o"])
    stop = ("never said", "an o")
    reply = said_by(replier, method("none"), Prompt("x", PROMPTS[0].prompt, chat=False, max_tokens=40, stop=stop), 4)
    assert_same(reply, tokens, text, finish)
    assert (reply["reply"], finish, tokens) == (text, "stop", said[: len(tokens)])
    assert text + "an o" in llm.detokenize(said).decode("utf-8", "replace")


def test_replies_do_not_depend_on_those_before(replier: Replier, gate_path: str) -> None:
    names = ["none", "lcg", "ban", "rules-only", "greedy"]

    def said(order: Sequence[str]) -> dict[str, list[int]]:
        return {name: said_by(replier, method(name, gate_path), PROMPTS[0], 7)["tokens"] for name in order}

    assert said(names) == said(names[::-1]) == said(["none", "none", *names])


def test_every_reply_evaluates_its_whole_prompt(
    replier: Replier, gate_path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is kept of the reply before would change the last bits, and make the first method look slow."""
    evaluated: list[int] = []
    stock_eval = llama_cpp.Llama.eval
    monkeypatch.setattr(
        llama_cpp.Llama, "eval", lambda self, tokens: (evaluated.append(len(tokens)), stock_eval(self, tokens))[1]
    )
    n = len(replier.prompt_tokens(PROMPTS[2]).tokens)
    for name, prompt_evaluations in (("none", [n]), ("none", [n]), ("lcg", [n]), ("ban", [n]), ("greedy", [n])):
        evaluated.clear()
        reply = said_by(replier, method(name, gate_path), PROMPTS[2], 0)
        assert evaluated == [*prompt_evaluations, *[1] * (len(reply["tokens"]) - 1)]


def test_seeds_differ_by_prompt_and_number_alone() -> None:
    assert reply_seed(0, "a") == reply_seed(0, "a")
    assert len({reply_seed(seed, name) for seed in range(10) for name in ("a", "b", "10", "")}) == 40
    assert all(0 <= reply_seed(seed, "x") < 2**32 - 1 for seed in range(100))


def test_gates_with_other_families_are_refused(llm: GatedLlama, gate_path: str, make_gate_file) -> None:
    two = make_gate_file(
        {"lcg.fc2.weight": np.ones((2, tiny_model.N_EMBD), np.float32)},
        families=FamilySet(("a", "b"), (True, False), 1, "letters"),
        token_family=np.arange(llm.n_vocab(), dtype=np.uint8) % 2,
    )
    methods = (Method("one", GateOptions(), gate_path), Method("two", GateOptions(), str(two)))
    gates = {name: Gate.load(name) for name in (gate_path, str(two))}
    with pytest.raises(GateError, match=r"has the families \('a', 'b'\), the first gate has \('cj', 'latin'"):
        Replier(llm, methods, gates, PAPER_SAMPLING)


# ---- a folder of replies ----

Run = Callable[..., Evaluation]


@pytest.fixture
def run(llm: GatedLlama, gate_path: str, tmp_path: Path) -> Run:
    """Runs an evaluation in a folder."""

    def evaluate_in(folder: str = "run", *, names: str = "none,lcg,ban", n_seeds: int = 2, **others: Any) -> Evaluation:
        options = EvalOptions(n_seeds=n_seeds, **others.pop("options", {}))
        benchmark = others.pop("benchmark", BENCHMARK)
        others.setdefault("parallel", 1)
        return evaluate(llm, benchmark, parse_methods(names, gate_path), tmp_path / folder, options, **others)

    return evaluate_in


def lines(folder: Path) -> list[Json]:
    """The replies in a folder, without what no two runs share."""
    replies = read_replies(folder)
    return [{key: value for key, value in reply.items() if key != "seconds"} for reply in replies]


def test_every_reply_is_there_once_in_order(run: Run, tmp_path: Path) -> None:
    told: list[Progress] = []
    found = run(on_progress=told.append)
    assert found.finished
    keys = [(reply["seed"], reply["id"], reply["method"]) for reply in lines(tmp_path / "run")]
    assert keys == [(s, p.id, m) for s in (0, 1) for p in PROMPTS for m in ("none", "lcg", "ban")]
    assert [progress.done for progress in told] == list(range(1, 19))
    assert {progress.total for progress in told} == {18}
    assert told[-1].tokens == sum(len(reply["tokens"]) for reply in found.replies)
    reply = found.replies[3]
    assert (reply["prompt"], reply["subset"], reply["reference"]) == ("في مدينة", "low", "")
    assert json.loads((tmp_path / "run" / "replies.jsonl").read_text("utf-8").splitlines()[3]) == json.loads(
        json.dumps(reply)
    )
    again = run()
    assert again.replies == json.loads(json.dumps(found.replies))


def test_each_method_gets_its_own_prompt(run: Run, replier: Replier) -> None:
    found = run(names="none,prompt", n_seeds=1)
    n_tokens = [
        len(replier.prompt_tokens(prompt, warning=warning).tokens) for prompt in PROMPTS for warning in (False, True)
    ]
    assert [reply["n_prompt"] for reply in found.replies] == n_tokens
    assert {reply["prompt"] for reply in found.replies} == {prompt.prompt for prompt in PROMPTS}


def test_all_methods_of_a_prompt_have_the_same_seed(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    seeds: list[int] = []
    job = Replier.job
    monkeypatch.setattr(
        Replier, "job", lambda self, m, p, seed, *others: (seeds.append(seed), job(self, m, p, seed, *others))[1]
    )
    run()
    assert seeds[1:] == [reply_seed(s, p.id) for s in (0, 1) for p in PROMPTS for _ in range(3)]  # the first warms up


@pytest.mark.parametrize("n_asked", [1, 30, 200])
def test_a_run_that_was_stopped_goes_on_to_the_same_replies(run: Run, tmp_path: Path, n_asked: int) -> None:
    run("whole")
    asked = 0

    def stop() -> bool:
        nonlocal asked
        asked += 1
        return asked > n_asked

    stopped = run(should_stop=stop)
    assert not stopped.finished
    there = lines(tmp_path / "run")
    assert len(there) < 18
    assert run().finished
    assert lines(tmp_path / "run") == lines(tmp_path / "whole")
    assert lines(tmp_path / "run")[: len(there)] == there


def test_a_torn_line_is_cut_and_answered_again(run: Run, tmp_path: Path) -> None:
    run()
    file = tmp_path / "run" / "replies.jsonl"
    data = file.read_bytes()
    expected = lines(tmp_path / "run")
    for cut in (1, 2, 40, len(data.splitlines()[-1]), len(data) - 7):
        file.write_bytes(data[:-cut])
        assert run().finished
        assert lines(tmp_path / "run") == expected


def test_replies_that_two_processes_wrote_count_once(run: Run, tmp_path: Path) -> None:
    run(names="none,lcg")
    expected = lines(tmp_path / "run")
    file = tmp_path / "run" / "replies.jsonl"
    file.write_bytes(file.read_bytes() * 2)
    assert lines(tmp_path / "run") == expected
    assert len(run(names="none,lcg,ban").replies) == 18


def test_replies_of_a_batch_are_those_of_one_by_one(run: Run, tmp_path: Path, gate_path: str) -> None:
    names = ",".join(parse_methods_of(gate_path)) + ",pin=none+deny=latin"
    run("single", names=names)
    found = run("batch", names=names, parallel=8)
    assert found.finished
    assert found.settings["engine"]["batch"] == 8
    single = {(r["method"], r["seed"], r["id"]): r for r in lines(tmp_path / "single")}
    batch = {(r["method"], r["seed"], r["id"]): r for r in lines(tmp_path / "batch")}
    assert single.keys() == batch.keys()
    assert len(single) == 10 * 2 * 3
    same = [batch[key]["tokens"] == reply["tokens"] for key, reply in single.items()]
    assert sum(same) >= 58  # their logits differ in the last bits
    for key in [key for key, is_same in zip(single, same) if is_same]:
        for field in ("reply", "pieces", "families", "n_prompt", "finish", "prompt"):
            assert batch[key][field] == single[key][field]
        assert [e["position"] for e in batch[key]["events"]] == [e["position"] for e in single[key]["events"]]
    assert sum(len(reply["events"]) for reply in batch.values()) > 10


def parse_methods_of(gate_path: str) -> list[str]:
    """Names of all built-in methods."""
    return [method.name for method in parse_methods("all", gate_path)]


@pytest.mark.parametrize("n_asked", [1, 9, 40])
def test_a_batch_that_was_stopped_goes_on_to_the_same_replies(run: Run, tmp_path: Path, n_asked: int) -> None:
    whole = run("whole", parallel=4)
    asked = 0

    def stop() -> bool:
        nonlocal asked
        asked += 1
        return asked > n_asked

    assert not run(parallel=4, should_stop=stop).finished
    there = lines(tmp_path / "run")
    assert len(there) < 18
    assert all(reply["finish"] != "interrupted" for reply in there)
    found = run(parallel=None)  # goes on as it was begun
    assert found.finished
    assert found.settings == whole.settings

    def ordered(folder: str) -> list[Json]:
        return sorted(lines(tmp_path / folder), key=lambda reply: (reply["method"], reply["seed"], reply["id"]))

    assert ordered("run") == ordered("whole")


def test_a_folder_goes_on_as_it_was_begun(run: Run) -> None:
    for folder, parallel, batch in (("one", 1, None), ("few", 3, 4), ("many", 20, 8), ("usual", None, 8)):
        run(folder, names="none", n_seeds=1, parallel=parallel)
        assert run(folder, n_seeds=1, parallel=None).settings["engine"].get("batch") == batch
    with pytest.raises(GateError, match=r"one: was made with engine.batch null, now it is 4"):
        run("one", parallel=4)
    with pytest.raises(GateError, match=r"many: was made with engine.batch 8, now it is null"):
        run("many", parallel=1)


def test_a_folder_goes_on_with_another_number_of_threads(run: Run, tmp_path: Path) -> None:
    run("whole")
    run(n_seeds=1)
    path = tmp_path / "run" / "settings.json"
    settings = json.loads(path.read_bytes())
    assert settings["engine"]["n_threads"] == ENGINE["n_threads"]
    settings["engine"]["n_threads"] = 16
    path.write_text(json.dumps(settings))
    assert run().finished
    assert len(lines(tmp_path / "run")) == len(lines(tmp_path / "whole"))


def test_methods_and_seeds_can_be_added(run: Run, tmp_path: Path) -> None:
    run("whole", names="none,lcg,greedy")
    run(names="lcg", n_seeds=1)
    run(names="none,lcg", n_seeds=2)
    found = run(names="greedy", n_seeds=2)
    assert found.finished

    def ordered(folder: str) -> list[Json]:
        return sorted(lines(tmp_path / folder), key=lambda reply: (reply["method"], reply["seed"], reply["id"]))

    assert ordered("run") == ordered("whole")
    assert list(found.settings["methods"]) == ["lcg", "none", "greedy"]
    assert set(found.settings["methods"]["lcg"]["gate"]) == {"file", "sha256"}


def test_prompts_can_be_added_and_not_be_changed(run: Run) -> None:
    first, *others = PROMPTS
    run(benchmark=Benchmark("tiny", (first,), ""))
    assert run().finished
    with pytest.raises(GateError, match=r"replies.jsonl:7: is a reply to a prompt `chat` that is not asked now"):
        run(benchmark=Benchmark("tiny", (first,), ""))
    changed = Prompt("chat", "another", chat=True)
    with pytest.raises(GateError, match="is a reply to a prompt `chat` that is not asked now"):
        run(benchmark=Benchmark("tiny", (first, changed, others[1]), ""))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"options": {"temperature": 0.9}}, "run: was made with sampling.temp 0.7, now it is 0.9"),
        ({"options": {"max_tokens": 7}}, "was made with max_tokens null, now it is 7"),
        ({"options": {"thinking": False}}, "was made with thinking true, now it is false"),
        ({"benchmark": Benchmark("other", PROMPTS, "")}, 'was made with benchmark "tiny", now it is "other"'),
        (
            {"names": "none,lcg=lcg+threshold=0.25"},
            "was made with methods.lcg.options.threshold null, now it is 0.25",
        ),
        (
            {"names": "none,lcg=lcg+confidence_temperature=0.5"},
            "was made with methods.lcg.options.confidence_temperature 0.7, now it is 0.5",
        ),
        ({"names": "lcg=ban"}, "was made with methods.lcg.ban false, now it is true"),
    ],
)
def test_replies_that_were_made_otherwise_are_not_mixed(run: Run, tmp_path: Path, changes: Json, message: str) -> None:
    run()
    before = (tmp_path / "run" / "replies.jsonl").read_bytes()
    with pytest.raises(GateError) as error:
        run(**changes)
    assert message in str(error.value)
    assert "choose another folder" in str(error.value)
    assert (tmp_path / "run" / "replies.jsonl").read_bytes() == before


def test_a_gate_is_known_by_its_bytes(
    run: Run, llm: GatedLlama, gate_path: str, make_gate_file: Callable[..., Path], tmp_path: Path
) -> None:
    run(names="a=lcg")
    copy, other = tmp_path / "copy.gguf", make_gate_file(tiny_model.gate_weights(16, seed=3))
    copy.write_bytes(Path(gate_path).read_bytes())
    assert run(names=f"a={copy}").finished
    with pytest.raises(GateError, match=r"was made with methods.a.gate.sha256 "):
        run(names=f"a={other}")


def test_settings_without_replies_and_replies_without_settings(run: Run, tmp_path: Path) -> None:
    run()
    folder = tmp_path / "run"
    replies = (folder / "replies.jsonl").read_bytes()
    (folder / "replies.jsonl").unlink()
    assert run().finished
    (folder / "settings.json").unlink()
    with pytest.raises(GateError, match=r"replies.jsonl: is there without settings.json, expected another folder"):
        run()
    (folder / "settings.json").write_text("[1]")
    with pytest.raises(GateError, match=r"settings.json: is no file of `lcg-cpp eval`"):
        run()
    (folder / "settings.json").unlink()
    (folder / "replies.jsonl").unlink()
    run()
    (folder / "replies.jsonl").write_bytes(replies.replace(b'"tokens"', b'"toxens"', 1))
    with pytest.raises(GateError, match=r"replies.jsonl:1: is no reply of `lcg-cpp eval`"):
        run()


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"n_seeds": 0}, "`n_seeds` is 0"),
        ({"max_tokens": 0}, "`max_tokens` is 0"),
        ({"temperature": math.nan}, "`temperature` is nan"),
    ],
)
def test_options_out_of_range_are_refused(fields: Json, message: str) -> None:
    with pytest.raises(GateError, match=message):
        EvalOptions(**fields)


# ---- the summary ----


def test_the_summary_says_what_was_measured_and_how(run: Run, tmp_path: Path) -> None:
    found = run(names="lcg,none")
    summary = write_summary(tmp_path / "run", found, BENCHMARK, model="m.gguf", gate="g.gguf")
    assert json.loads((tmp_path / "run" / "summary.json").read_text("utf-8")) == json.loads(json.dumps(summary))
    assert list(summary["methods"]) == ["lcg", "none"]
    assert set(summary["methods"]["none"]["tokens_per_second"]) == {"value", "low", "high"}
    assert list(summary["compared_with_none"]) == ["lcg"]
    assert summary["methods"]["none"]["intervention_percent"]["value"] == 0
    n_events = sum(len(reply["events"]) for reply in found.replies)
    n_tokens = sum(len(reply["tokens"]) for reply in found.replies if reply["method"] == "lcg")
    assert summary["methods"]["lcg"]["intervention_percent"]["value"] == pytest.approx(100 * n_events / n_tokens)
    told = {name: summary[name] for name in ("model", "gate", "benchmark", "prompts", "seeds", "finished", "families")}
    assert told == {
        "model": "m.gguf",
        "gate": "g.gguf",
        "benchmark": "tiny",
        "prompts": 3,
        "seeds": 2,
        "finished": True,
        "families": ["cj", "latin", "symbols", "lowres"],
    }
    assert summary["settings"]["sampling"] == PAPER_SAMPLING


def test_nothing_to_summarize_is_told(tmp_path: Path) -> None:
    with pytest.raises(GateError, match="holds no replies"):
        write_summary(tmp_path, Evaluation([], (), False, {}), BENCHMARK, model="m", gate=None)
