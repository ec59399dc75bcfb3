"""A reply: its text by tokens, what ends it, and that it is the one `create_completion` gives."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import tiny_model
from lcg_cpp import GatedLlama, GateError, GateOptions
from lcg_cpp.engine.base_model import CONTROL, NORMAL, Vocab
from lcg_cpp.run.prompt import PromptTokens, completion_prompt
from lcg_cpp.run.reply import Reply, Step, follow

ENGINE: dict[str, Any] = {"n_ctx": 256, "n_threads": 1, "n_threads_batch": 1, "verbose": False}


def reply_of(tokens: list[bytes], *stop: str, control: tuple[int, ...] = ()) -> Reply:
    """An empty reply of a made-up vocabulary."""
    types = np.full(len(tokens), NORMAL, np.uint32)
    types[list(control)] = CONTROL
    return Reply(PromptTokens([0], stop), Vocab(tuple(tokens), types))


@pytest.fixture(scope="module")
def llm(tiny_model_path: Path, gate16: Path) -> Iterator[GatedLlama]:
    llm = GatedLlama(str(tiny_model_path), gate=gate16, gate_options=GateOptions(n_events=1), **ENGINE)
    yield llm
    llm.close()


# ---- the text ----


def test_bytes_of_a_character_are_joined_to_the_token_that_completes_it() -> None:
    reply = reply_of([b" a", "中".encode()[:1], "中".encode()[1:2], "中".encode()[2:] + b"!", b"", b"\xff"])
    added = [reply.add(token) for token in (0, 1, 2, 3, 4, 5, 0, 1)]
    assert added == [b" a", b"\xe4", b"\xb8", b"\xad!", b"", b"\xff", b" a", b"\xe4"]
    assert reply.pieces == [" a", "", "", "中!", "", "\ufffd", " a", "\ufffd"]
    assert reply.data == " a中!".encode() + b"\xff a\xe4"
    reply.add(2)
    assert reply.pieces[-2:] == ["", "\ufffd"]  # asking for the pieces ends nothing


@pytest.mark.parametrize(
    ("stop", "pieces", "n_tokens"),
    [
        (("de",), ["ab", "c", ""], 3),
        (("f", "cd"), ["ab", ""], 2),
        (("f",), ["ab", "cd", "e", ""], 4),
        (("x", "abcdef"), ["", "", "", ""], 4),
        (("b", "a"), [""], 1),
        (("x",), ["ab", "cd", "e", "fgh"], 0),
    ],
)
def test_a_text_that_ends_the_reply_is_left_out_and_all_behind_it(
    stop: tuple[str, ...], pieces: list[str], n_tokens: int
) -> None:
    reply = reply_of([b"ab", b"cd", b"e", b"fgh"], *stop)
    for token in range(4):
        reply.add(token)
        if reply.finish:
            break
    assert reply.pieces == pieces
    assert (reply.finish, len(reply.tokens)) == (("stop", n_tokens) if n_tokens else ("", 4))


def test_control_tokens_are_not_its_text_and_break_no_stop() -> None:
    reply = reply_of([b"a", b"<|x|>", b"b"], "ab", control=(1,))
    assert [reply.add(token) for token in (1, 0, 1, 2)] == [b"", b"a", b"", b""]
    assert (reply.pieces, reply.finish, reply.tokens) == (["", "", "", ""], "stop", [1, 0, 1, 2])


# ---- following one ----


def said(llm: GatedLlama, text: str, *stop: str, **settings: Any) -> tuple[Reply, list[Step]]:
    reply = Reply(completion_prompt(llm, text, stop=stop), llm.vocab)
    return reply, list(follow(llm, reply, **settings))


def test_it_is_the_reply_of_create_completion(llm: GatedLlama) -> None:
    n_events = 0
    for seed in range(4):
        reply, steps = said(llm, "the name", max_tokens=40, seed=seed)
        llm.reset()
        llm.reset_gate_stats()
        expected: Any = llm.create_completion("the name", max_tokens=40, seed=seed)
        text = expected["choices"][0]["text"]
        assert text.startswith(reply.data.decode("utf-8", "ignore"))  # llama_cpp goes on to the end of a character
        assert reply.finish == expected["choices"][0]["finish_reason"] == "length"
        assert len(reply.prompt.tokens) == expected["usage"]["prompt_tokens"]
        assert [step.token for step in steps] == reply.tokens
        assert b"".join(step.data for step in steps) == reply.data
        assert [step.event for step in steps if step.event] == reply.events
        assert all(steps[event.position].event == event for event in reply.events)
        assert all(event.chosen == reply.tokens[event.position] for event in reply.events)
        assert 0 <= llm.gate_stats.interventions - len(reply.events) <= expected["usage"]["completion_tokens"] - 40
        n_events += len(reply.events)
    assert n_events > 3


def test_stop_texts_end_it_as_in_create_completion(llm: GatedLlama) -> None:
    whole, _ = said(llm, "the name", max_tokens=60, seed=3)
    text = whole.data.decode("utf-8", "ignore")
    stop = next(text[i : i + 3] for i in range(20, len(text)) if text[i : i + 3].isalpha() and text[i].isascii())
    reply, steps = said(llm, "the name", "never", stop, max_tokens=60, seed=3)
    llm.reset()
    expected: Any = llm.create_completion("the name", max_tokens=60, seed=3, stop=["never", stop])
    assert reply.finish == expected["choices"][0]["finish_reason"] == "stop"
    assert reply.data.decode("utf-8", "ignore") == expected["choices"][0]["text"] == text[: text.index(stop)]
    assert reply.tokens == whole.tokens[: len(steps)]


def test_the_token_that_ends_it_is_not_told(llm: GatedLlama) -> None:
    end = llm.token_eos()

    def bias(ids: Any, scores: Any) -> Any:
        scores = scores.copy()
        scores[end] = 1e4 if len(ids) >= 6 else -np.inf
        return scores

    n_prompt = len(completion_prompt(llm, "the name").tokens)
    reply, steps = said(llm, "the name", max_tokens=40, seed=0, logits_processor=[bias])
    assert (reply.finish, len(reply.tokens), len(steps)) == ("stop", 6 - n_prompt, 6 - n_prompt)


def test_it_ends_where_the_context_does(llm: GatedLlama) -> None:
    for most in (None, 9999):
        reply, _ = said(llm, "the of " * 30, max_tokens=most)
        assert len(reply.prompt.tokens) + len(reply.tokens) == 256
        assert reply.finish == "length"


def test_it_ends_where_the_context_does_that_was_asked_for(tiny_model_path: Path) -> None:
    llm = GatedLlama(str(tiny_model_path), **{**ENGINE, "n_ctx": 100})  # llama.cpp makes 256 of it
    reply, _ = said(llm, "the name")
    assert len(reply.prompt.tokens) + len(reply.tokens) == 100
    llm.close()


def test_a_prompt_as_long_as_the_context_is_refused(llm: GatedLlama) -> None:
    with pytest.raises(GateError, match=r"the prompt has \d+ tokens and the context 256, expected a longer context"):
        said(llm, "the of " * 200)


def test_a_prompt_without_tokens_is_refused(llm: GatedLlama) -> None:
    with pytest.raises(GateError, match="the prompt has no tokens, expected some text"):
        next(follow(llm, Reply(PromptTokens([], ()), llm.vocab)))


def test_it_can_be_stopped_after_any_token(llm: GatedLlama) -> None:
    whole, _ = said(llm, "the name", max_tokens=8, seed=1)
    asked = iter([False, False, True])
    reply, _ = said(llm, "the name", max_tokens=8, seed=1, should_stop=lambda: next(asked))
    assert (reply.finish, reply.tokens) == ("interrupted", whole.tokens[:3])
    reply, _ = said(llm, "the name", max_tokens=1, seed=1, should_stop=lambda: True)
    assert reply.finish == "length"  # it was over anyway


def test_replies_do_not_depend_on_those_before(llm: GatedLlama) -> None:
    first, _ = said(llm, "the name", max_tokens=12, seed=1)
    said(llm, "the name of the city", max_tokens=5, seed=2)
    again, _ = said(llm, "the name", max_tokens=12, seed=1)
    assert first.tokens == again.tokens
    assert [event.z for event in first.events] == [event.z for event in again.events] != []


# ---- words of more than 32 bytes, for which llama_cpp's own buffer is too short ----

WORDS = ("प्रधानमंत्री", "আন্তর্জাতিক", "பல்கலைக்கழகம்")


@pytest.fixture(scope="module")
def long_words(tmp_path_factory: pytest.TempPathFactory) -> Iterator[GatedLlama]:
    """A model whose vocabulary holds the words."""
    path = tmp_path_factory.mktemp("long") / "long.gguf"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tiny_model, "LOWRES", " ".join((tiny_model.LOWRES, *WORDS)))
        tiny_model.write_model(path)
    llm = GatedLlama(str(path), logits_all=True, **ENGINE)
    yield llm
    llm.close()


def bias_for(llm: GatedLlama, *words: str) -> dict[int, float]:
    return {llm.vocab.tokens.index(f" {word}".encode()): 1e4 for word in words}


@pytest.mark.parametrize("word", WORDS)
def test_long_words_are_in_every_text(long_words: GatedLlama, word: str) -> None:
    llm: Any = long_words
    token = llm.vocab.tokens.index(f" {word}".encode())
    assert len(llm.vocab.tokens[token]) > 32
    assert llm.detokenize([token]) == llm.detokenize([token], special=True) == f" {word}".encode()
    assert llm.tokenizer().decode([token, token]) == f" {word} {word}"
    how: dict[str, Any] = {"max_tokens": 3, "logit_bias": bias_for(llm, word), "temperature": 0.0}
    text = f" {word}" * 3
    completion = llm.create_completion("the name", logprobs=1, **how)["choices"][0]
    assert completion["text"] == text
    assert completion["logprobs"]["tokens"] == [f" {word}"] * 3
    assert llm.create_completion("the name", echo=True, **how)["choices"][0]["text"] == "the name" + text
    chunks = llm.create_completion("the name", stream=True, **how)
    assert "".join(chunk["choices"][0]["text"] for chunk in chunks) == text
    messages = [{"role": "user", "content": "the name"}]
    assert llm.create_chat_completion(messages, **how)["choices"][0]["message"]["content"] == text
    chunks = llm.create_chat_completion(messages, stream=True, **how)
    assert "".join(chunk["choices"][0]["delta"].get("content", "") for chunk in chunks) == text
    for stream in (False, True):
        found = llm.create_completion("the name", stop=[word[3:]], stream=stream, **how)
        found = "".join(part["choices"][0]["text"] for part in (found if stream else [found]))
        assert found == f" {word[:3]}"


def test_every_other_text_is_as_llama_cpp_writes_it(long_words: GatedLlama, tiny_vocab: tiny_model.TinyVocab) -> None:
    llm = long_words
    long = {i for i, text in enumerate(llm.vocab.tokens) if len(text) > 32}
    assert len(long) == 2 * len(WORDS)
    for special in (False, True):
        for token in set(range(llm.n_vocab())) - long:
            assert llm.detokenize([token], special=special) == llm._model.detokenize([token], special=special)
    begin, space = llm.token_bos(), llm.vocab.tokens.index(b" the")
    for tokens in ([], [begin], [begin, space, space], [space, begin]):
        assert llm.detokenize(tokens) == llm._model.detokenize(tokens)


def test_a_tokenizer_that_the_caller_chose_stays(tiny_model_path: Path) -> None:
    class Shouting:
        def tokenize(self, text: bytes, add_bos: bool = True, special: bool = True) -> list[int]:
            return [1]

        def detokenize(self, tokens: Any, prev_tokens: Any = None, special: bool = False) -> bytes:
            return b"HERE"

    llm = GatedLlama(str(tiny_model_path), tokenizer=Shouting(), **ENGINE)
    assert llm.detokenize([5]) == b"HERE"
    llm.close()
