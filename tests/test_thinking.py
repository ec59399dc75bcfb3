"""Thoughts and answers are told apart, whatever marks a model uses, and judged apart."""

from __future__ import annotations

import numpy as np
import pytest

from lcg_cpp.engine.base_model import CONTROL, NORMAL, Vocab
from lcg_cpp.evaluate.record import reply_record
from lcg_cpp.measure.answer import take_apart
from lcg_cpp.measure.judge import measure_reply
from lcg_cpp.measure.metrics import values
from lcg_cpp.run.prompt import PromptTokens
from lcg_cpp.run.reply import Reply
from lcg_cpp.run.thinking import begins_thinking, find_thinking
from sample_replies import make_prompt, make_reply

HARMONY = "<|channel|>analysis<|message|>hmm<|end|><|start|>assistant<|channel|>final<|message|>yes"


def split(text: str, *, begun: bool = False) -> tuple[list[str], str]:
    """The words of the thoughts, and the answer."""
    thoughts = find_thinking(text, begun=begun)
    answer, at = "", 0
    for thought in thoughts:
        answer += text[at : thought.begin]
        at = thought.end
    return [text[thought.words : thought.words_end] for thought in thoughts], answer + text[at:]


@pytest.mark.parametrize(
    ("text", "thoughts", "answer"),
    [
        ("yes", [], "yes"),
        ("", [], ""),
        ("<think>hmm</think>\n\nyes", ["hmm"], "\n\nyes"),
        ("\n<think>\nhmm\n</think>yes", ["\nhmm\n"], "yes"),
        ("<think></think>yes", [""], "yes"),
        ("<thinking>hmm</thinking>yes", ["hmm"], "yes"),
        ("<thought>hmm</thought>yes", ["hmm"], "yes"),
        ("<reasoning>hmm</reasoning>yes", ["hmm"], "yes"),
        ("<seed:think>hmm</seed:think>yes", ["hmm"], "yes"),
        ("[THINK]hmm[/THINK]yes", ["hmm"], "yes"),
        ("◁think▷hmm◁/think▷yes", ["hmm"], "yes"),
        ("<|START_THINKING|>hmm<|END_THINKING|><|START_RESPONSE|>yes", ["hmm"], "<|START_RESPONSE|>yes"),
        ("<|channel>thought\nhmm<channel|>yes", ["\nhmm"], "yes"),
        ("<unused94>thought\nhmm<unused95>yes", ["\nhmm"], "yes"),
        ("<|think|>hmm<|end|><|begin|>assistant<|content|>yes", ["hmm"], "yes"),
        ("Here are my reasoning steps:\nhmm[BEGIN FINAL RESPONSE]yes", ["\nhmm"], "yes"),
        (HARMONY, ["hmm"], "yes"),
        ("<|channel|>final<|message|>yes", [""], "yes"),
        ("<|channel|>analysis<|message|>hmm", ["hmm"], ""),
        ("<|channel|>analysis", [""], ""),
        # two thoughts, one that never ends, one whose beginning is missing, one that is only talked about
        ("<think>a</think>\n<think>b</think>yes", ["a", "b"], "yes"),
        ("<think>hmm and", ["hmm and"], ""),
        ("hmm</think>yes", ["hmm"], "yes"),
        ("Write <think>, then </think>.", [], "Write <think>, then </think>."),
    ],
)
def test_thoughts_are_found_before_the_answer(text: str, thoughts: list[str], answer: str) -> None:
    assert split(text) == (thoughts, answer)


@pytest.mark.parametrize(
    ("text", "thoughts", "answer"),
    [
        ("hmm</think>yes", ["hmm"], "yes"),
        ("hmm", ["hmm"], ""),
        ("hmm<|end|><|begin|>assistant<|content|>yes", ["hmm"], "yes"),
        ("hmm <think> is a mark</think>yes", ["hmm <think> is a mark"], "yes"),
    ],
)
def test_a_thought_that_the_prompt_has_begun_goes_on(text: str, thoughts: list[str], answer: str) -> None:
    assert split(text, begun=True) == (thoughts, answer)


@pytest.mark.parametrize(
    ("prompt", "begins"),
    [
        ("<|im_start|>assistant\n<think>\n", True),
        ("[THINK]", True),
        ("<|begin|>assistant<|think|>", True),
        ("<think>\n\n</think>\n\n", False),
        ("what is <think>?<|im_end|>\n<|im_start|>assistant\n", False),
        ("", False),
    ],
)
def test_a_prompt_begins_a_thought_by_its_end(prompt: str, begins: bool) -> None:
    assert begins_thinking(prompt) is begins


def reply_of(*tokens: str, begun: bool = False) -> Reply:
    """A reply; what stands in <|…|> is a control token."""
    texts = [token.encode() for token in tokens]
    types = np.array([CONTROL if text.startswith(b"<|") else NORMAL for text in texts], np.uint32)
    reply = Reply(PromptTokens([0], (), begun), Vocab(tuple(texts), types))
    for token in range(len(texts)):
        reply.add(token)
    reply.finish = "stop"
    return reply


def record_of(reply: Reply) -> dict[str, object]:
    vocab = Vocab(tuple(b"" for _ in reply.tokens), np.full(len(reply.tokens), NORMAL, np.uint32))
    return reply_record(reply, np.zeros(len(reply.tokens), np.uint8), vocab)


def test_marks_that_are_control_tokens_are_seen_though_they_are_not_text() -> None:
    tokens = ("<|channel|>", "analysis", "<|message|>", "hm", "m", "<|end|>", "<|start|>", "assistant", "<|channel|>")
    record = record_of(reply_of(*tokens, "final", "<|message|>", "y", "es"))
    assert record["reply"] == "analysishmmassistantfinalyes"
    assert record["thinking"] == [(0, 8, 11, 25)]
    parts = take_apart(record)
    assert (parts.answer, parts.thinking) == ("yes", "hmm")
    assert parts.is_thought[:10] == [True] * 10
    assert parts.is_thought[-2:] == [False] * 2


def test_a_token_that_holds_the_end_of_a_thought_is_shared() -> None:
    parts = take_apart(record_of(reply_of("<think>", "a", "</think", ">The", " end")))
    assert (parts.answer, parts.pieces, parts.thinking) == ("The end", ["", "", "", "The", " end"], "a")
    assert parts.is_thought == [True, True, True, False, False]


def test_a_thought_begun_by_the_template_and_never_ended_leaves_no_answer() -> None:
    record = record_of(reply_of("hm", "m", begun=True))
    found = measure_reply({**record, "events": []}, make_prompt())
    assert (found["empty"], found["answer_tokens"], found["tokens"]) == (1, 0, 2)


def test_replies_without_thoughts_are_all_answer() -> None:
    parts = take_apart(make_reply(["a", "", "b"]))  # as older files have them
    assert (parts.answer, parts.pieces, parts.thinking, parts.is_thought) == ("ab", ["a", "", "b"], "", [False] * 3)


def thinking_reply(thought: str, answer: str, **values: object) -> dict[str, object]:
    begin, end = len("<think>"), len("<think>" + thought)
    thoughts = [(0, begin, end, end + len("</think>"))]
    return make_reply(["<think>", thought, "</think>", answer], thinking=thoughts, **values)


def test_answers_and_thoughts_are_judged_apart() -> None:
    prompts = {"p": make_prompt(reference="برلين"), "q": make_prompt(id="q", reference="برلين")}
    replies = [thinking_reply("Berlin, 柏林", "برلين"), thinking_reply("برلين", "Berlin 柏林", id="q")]
    found = values(replies, prompts)["none"]
    assert (found["cj_percent"], found["latin_percent"]) == (50, 50)
    assert (found["thinking_cj_percent"], found["thinking_latin_percent"]) == (50, 50)
    assert (found["exact_match_percent"], found["empty_percent"]) == (50, 0)
    assert found["cj_per_1000_tokens"] == found["latin_per_1000_tokens"] == 500  # one of the two tokens of the answers
    assert found["length_tokens"] == 4
    answers = [make_reply("برلين"), make_reply("Berlin 柏林", id="q")]
    assert found["chrf"] == values(answers, prompts)["none"]["chrf"] > 0


def test_without_thoughts_nothing_is_said_of_them() -> None:
    found = values([make_reply("برلين")], {"p": make_prompt()})["none"]
    assert not {"thinking_cj_percent", "thinking_latin_percent"} & set(found)
