"""Prompts are the tokens that `create_completion` and `create_chat_completion` evaluate, and nothing is a traceback."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from llama_cpp.llama_chat_format import Jinja2ChatFormatter

import tiny_model
from lcg_cpp import GatedLlama, GateError
from lcg_cpp.cli import main
from lcg_cpp.run.prompt import chat_prompt, completion_prompt

ENGINE: dict[str, Any] = {"n_ctx": 256, "n_threads": 1, "n_threads_batch": 1, "verbose": False}
CHATS = (
    [{"role": "user", "content": "the name"}],
    [{"role": "system", "content": "of"}, {"role": "user", "content": "<think> <|im_end|> é 中"}],
    [
        {"role": "user", "content": "a"},
        {"role": "assistant", "content": "b"},
        {"role": "user", "content": "c" * 40},
    ],
)


class Watched(GatedLlama):
    """Tells what was generated from, and generates nothing else."""

    def generate(self, tokens: Any, *args: Any, **kwargs: Any) -> Iterator[int]:
        self.asked = list(tokens)
        self.reset()
        self.eval(self.asked)
        yield self.token_eos()

    def create_completion(self, *args: Any, **kwargs: Any) -> Any:
        self.stop = kwargs.get("stop")
        return super().create_completion(*args, **kwargs)


@pytest.fixture
def llm(tiny_model_path: Path) -> Iterator[Watched]:
    llm = Watched(str(tiny_model_path), **ENGINE)
    yield llm
    llm.close()


@pytest.fixture
def with_template(llm: Watched) -> Callable[[str], Watched]:
    """Gives the model another template."""

    def give(template: str) -> Watched:
        handlers: Any = llm._chat_handlers
        formatter = Jinja2ChatFormatter(template, eos_token="<|im_end|>", bos_token="<|begin|>", stop_token_ids=[1])
        handlers[llm.chat_format] = formatter.to_chat_handler()
        return llm

    return give


@pytest.mark.parametrize("chat", CHATS)
@pytest.mark.parametrize("chat_format", [None, "llama-2", "chatml", "mistral-instruct", "gemma"])
def test_a_chat_becomes_what_create_chat_completion_evaluates(llm: Watched, chat: Any, chat_format: str | None) -> None:
    llm.chat_format = chat_format or llm.chat_format
    found = chat_prompt(llm, chat, stop=("end",))
    llm.create_chat_completion(chat, stop=["end"])
    assert list(found.tokens) == llm.asked
    assert {*found.stop, ""} == {*(llm.stop or ()), ""}


@pytest.mark.parametrize("text", ["the name", " the\n", "<|im_start|>x", "中国", "\n"])
def test_a_text_becomes_what_create_completion_evaluates(llm: Watched, text: str) -> None:
    found = completion_prompt(llm, text, stop=("", "end"))
    llm.create_completion(text)
    assert (list(found.tokens), found.stop) == (llm.asked, ("end",))


def test_a_template_gets_more_variables(with_template: Callable[[str], Watched]) -> None:
    llm = with_template("{{ messages[0]['content'] }}{% if enable_thinking is false %}</think>{% endif %}")
    for variables, expected in (({}, "the"), ({"enable_thinking": False}, "the</think>")):
        tokens = chat_prompt(llm, [{"role": "user", "content": "the"}], **variables).tokens
        assert llm.detokenize(list(tokens), special=True).decode() == expected


@pytest.mark.parametrize(
    ("template", "reason"),
    [
        ("{{ raise_exception('no Arabic\\nplease') }}", "no Arabic"),
        ("{{ messages[7].content.x }}", "list object has no element 7"),
        ("{{ 1 / 0 }}", "division by zero"),
        ("{{ messages.__class__.__mro__ }}", "access to attribute"),
        ("{{ nothing() }}", "'nothing' is undefined"),
        ("{% for i in range(10 ** 9) %}{% endfor %}", "Range too big"),
        ("{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}", "maximum recursion depth exceeded"),
    ],
)
def test_whatever_a_template_raises_is_one_line(
    with_template: Callable[[str], Watched], template: str, reason: str
) -> None:
    with pytest.raises(GateError) as error:
        chat_prompt(with_template(template), CHATS[0])
    assert f"`tokenizer.chat_template` of {with_template(template).model_path} refuses the chat: " in str(error.value)
    assert reason in str(error.value)
    assert "gguf-new-metadata" in str(error.value)
    assert "\n" not in str(error.value)


def test_a_chat_format_that_is_unknown_is_named(llm: Watched) -> None:
    llm.chat_format = "nonsense"
    del llm.metadata["tokenizer.chat_template"]
    with pytest.raises(GateError, match=r"the chat format `nonsense` of .* refuses the chat: Invalid chat handler"):
        chat_prompt(llm, CHATS[0])


def test_a_chat_handler_that_completes_no_text_is_told(llm: Watched) -> None:
    llm.chat_handler = lambda **_: {}  # type: ignore[assignment]
    with pytest.raises(GateError, match="completes no text"):
        chat_prompt(llm, CHATS[0])


@pytest.mark.parametrize("template", ["{% if %}", "{{ 'unfinished }}", "{% endfor %}", "{{ " + "(" * 3000 + " }}"])
def test_a_template_that_cannot_be_compiled_is_one_line(tmp_path: Path, template: str) -> None:
    path = tmp_path / "broken.gguf"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tiny_model, "CHAT_TEMPLATE", template)
        tiny_model.write_model(path)
    with pytest.raises(GateError) as error:
        GatedLlama(str(path), **ENGINE)
    assert str(error.value).startswith(f"{path}: `tokenizer.chat_template` cannot be compiled: ")
    assert str(error.value).endswith("gguf-new-metadata --chat-template-file)")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("template", ["{% if %}", "{{ raise_exception('no') }}"])
@pytest.mark.parametrize("command", ["run", "eval", "synth", "bench"])
def test_no_command_shows_a_traceback_for_a_chat_template(
    tmp_path: Path, gate16: Path, capsys: pytest.CaptureFixture[str], command: str, template: str
) -> None:
    path, rows = tmp_path / "broken.gguf", tmp_path / "rows.jsonl"
    rows.write_text('{"prompt": "the name"}\n')
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tiny_model, "CHAT_TEMPLATE", template)
        tiny_model.write_model(path)
    arguments = {
        "run": ["run", "-m", path, "--lcg", gate16, "--chat", "-p", "x"],
        "eval": ["eval", "-m", path, "-d", rows, "-o", tmp_path / "out", "-n", "1"],
        "synth": ["data", "synth", "-m", path, "-o", tmp_path / "out.jsonl"],
        "bench": ["bench", "-m", path, "--lcg", gate16, "-n", "2", "-r", "1", "--n-prompt", "4", "-t", "1"],
    }[command]
    code = main([str(argument) for argument in arguments])
    lines = capsys.readouterr().err.splitlines()
    if command == "bench" and "raise" in template:
        assert code == 0  # it renders nothing
        return
    assert code == 2
    assert len(lines) == 1
    assert "`tokenizer.chat_template`" in lines[0]
    assert "gguf-new-metadata" in lines[0]
    assert ("-m/--model: " in lines[0]) == ("raise" not in template or command == "synth")
