"""Samples as tokens: the model's chat template decides, and replies are told from prompts."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lcg_cpp import GateError
from lcg_cpp.data import Encoder, Message, Sample
from lcg_cpp.data.template import ChatTemplate, Refused
from lcg_cpp.engine.base_model import CONTROL, NORMAL, BaseModel, Vocab

CONTROLS = ("<bos>", "<eos>", "<|turn|>", "<|end|>")
LETTERS = tuple(map(chr, range(1, 0x180)))
CHATML = (
    "{% for m in messages %}<|turn|>{{ m['role'] }}\n{{ m['content'] }}<|end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|turn|>assistant\n{% endif %}"
)
CHAT = (Message("user", "Hi"), Message("assistant", "Hello"))


class Letters:
    """A tokenizer whose words are single letters, with control tokens; it notes what it is asked."""

    def __init__(self, *, adds_bos: bool, adds_space: bool = False) -> None:
        self.adds_bos, self.adds_space = adds_bos, adds_space
        self.asked: list[str] = []

    def __call__(self, text: str, *, special: bool = False, bos: bool = False) -> list[int]:
        assert special
        self.asked.append(text)
        pieces = re.findall("|".join(map(re.escape, CONTROLS)) + "|.", text, re.DOTALL)
        names = [*CONTROLS, *LETTERS]
        if self.adds_space:  # SentencePiece: before every text, also before one that follows a control token
            raw = pieces
            pieces = []
            for i, piece in enumerate(raw):
                if piece not in CONTROLS and (i == 0 or raw[i - 1] in CONTROLS):
                    pieces.append(" ")
                pieces.append(piece)
        return [0] * (bos and self.adds_bos) + [names.index(piece) for piece in pieces]


def base_model(template: str | None = None, **metadata: str) -> BaseModel:
    types = np.array([CONTROL] * len(CONTROLS) + [NORMAL] * len(LETTERS), np.uint32)
    vocab = Vocab(tuple(text.encode() for text in (*CONTROLS, *LETTERS)), types)
    facts = {"tokenizer.ggml.bos_token_id": "0", "tokenizer.ggml.eos_token_id": "1", **metadata}
    if template is not None:
        facts["tokenizer.chat_template"] = template
    return BaseModel("model.gguf", "model", "llama", 8, vocab, "F16", facts)


def shown(encoder: Encoder, sample: Sample) -> str:
    """The tokens as text, replies in brackets."""
    encoded = encoder.encode(sample)
    assert encoded is not None
    assert len(encoded.tokens) == len(encoded.is_reply)
    text, inside = "", False
    for token, is_reply in zip(encoded.tokens, encoded.is_reply):
        text += ("", "[", "]")[is_reply - inside] + [*CONTROLS, *LETTERS][token]
        inside = is_reply
    return text + "]" * inside


def marked(template: str, *messages: Message) -> str:
    """What a template renders, replies in brackets."""
    parts = ChatTemplate(template, bos="<bos>", eos="<eos>", ends=CONTROLS).parts(messages)
    return "".join(f"[{text}]" if is_reply else text for text, is_reply in parts)


def talk(*contents: str) -> tuple[Message, ...]:
    return tuple(Message(("user", "assistant")[i % 2], content) for i, content in enumerate(contents))


# ---- with a chat template ----


def test_a_reply_ends_with_the_token_that_ends_its_turn() -> None:
    encoder = Encoder(Letters(adds_bos=True), base_model(CHATML), 100)
    assert shown(encoder, Sample(CHAT)) == "<|turn|>user\nHi<|end|>\n<|turn|>assistant\n[Hello<|end|>]\n"


def test_every_reply_of_a_chat_is_marked() -> None:
    chat = (Message("system", "S"), *talk("a", "b", "c", "d"))
    assert marked(CHATML, *chat) == (
        "<|turn|>system\nS<|end|>\n<|turn|>user\na<|end|>\n<|turn|>assistant\n[b<|end|>]\n"
        "<|turn|>user\nc<|end|>\n<|turn|>assistant\n[d<|end|>]\n"
    )


def test_prompt_and_reply_are_made_into_tokens_separately() -> None:
    tokenize = Letters(adds_bos=False)
    Encoder(tokenize, base_model(CHATML), 100).encode(Sample(CHAT))
    assert tokenize.asked[1:] == ["<|turn|>user\nHi<|end|>\n<|turn|>assistant\n", "Hello<|end|>", "\n"]


def test_a_template_alone_decides_about_the_beginning_of_text() -> None:
    with_bos = Encoder(Letters(adds_bos=True), base_model("{{ bos_token }}" + CHATML), 100)
    assert shown(with_bos, Sample(CHAT)).count("<bos>") == 1
    without = Encoder(Letters(adds_bos=True), base_model(CHATML), 100)
    assert "<bos>" not in shown(without, Sample(CHAT))


def test_a_turn_that_ends_without_a_control_token_ends_with_its_words() -> None:
    template = "{% for m in messages %}{{ m.role }}: {{ m.content|trim }}\n{% endfor %}assistant:"
    assert marked(template, *talk("Hi", " Hello ")) == "user: Hi\nassistant:[ Hello]\nassistant:"


def test_reasoning_that_the_template_leaves_out_of_earlier_turns_is_no_reply_there() -> None:
    """As Qwen3 does: reasoning only in the last turn, where an empty one is written if there is none."""
    template = (
        "{% for m in messages %}<|turn|>{{ m.role }}\n{% set words = m.content.split('</think>')[-1] %}"
        "{% if loop.last and m.role == 'assistant' %}<think>\n\n</think>\n\n{% endif %}{{ words }}<|end|>\n"
        "{% endfor %}{% if add_generation_prompt %}<|turn|>assistant\n{% endif %}"
    )
    assert marked(template, *talk("a", "<think>x</think>b", "c", "d")) == (
        "<|turn|>user\na<|end|>\n<|turn|>assistant\n[b<|end|>]\n"
        "<|turn|>user\nc<|end|>\n<|turn|>assistant\n[<think>\n\n</think>\n\nd<|end|>]\n"
    )


def test_a_prompt_that_opens_a_reasoning_the_chat_leaves_out() -> None:
    """As DeepSeek-R1's distillations do: the prompt ends in <think>, which chats without reasoning do not have."""
    template = (
        "{% for m in messages %}{% if m.role == 'user' %}<|turn|>{{ m.content }}<|turn|>{% else %}"
        "{{ m.content.split('</think>')[-1] }}<eos>{% endif %}{% endfor %}"
        "{% if add_generation_prompt %}<think>\n{% endif %}"
    )
    assert marked(template, *talk("a", "<think>x</think>b")) == "<|turn|>a<|turn|>[b<eos>]"
    assert marked(template, *talk("a", "<tea", "c", "d")) == "<|turn|>a<|turn|>[<tea<eos>]<|turn|>c<|turn|>[d<eos>]"


def test_a_reply_that_the_template_changes_counts_as_prompt() -> None:
    template = CHATML.replace("m['content'] }}", "m['content'].replace('secret', '…') }}")
    assert marked(template, *talk("a", "secret", "c", "d")).count("[") == 1
    with pytest.raises(Refused, match="does not show the reply as it is"):
        marked(template, *talk("a", "secret"))


def test_words_of_the_next_prompt_are_never_taken_for_the_reply() -> None:
    template = CHATML.replace("{{ m['content'] }}", "{{ m['content'] if m.role == 'user' else '…' }}")
    with pytest.raises(Refused):
        marked(template, *talk("a", "yes", "yes", "b"))


def test_chats_that_a_template_refuses_are_skipped_and_counted() -> None:
    template = (
        "{% if messages[0]['role'] == 'system' %}{{ raise_exception('No system role\nhere') }}{% endif %}" + CHATML
    )
    encoder = Encoder(Letters(adds_bos=True), base_model(template), 100)
    chat = (Message("system", "S"), *CHAT)
    assert [encoder.encode(Sample(chat)) for _ in range(2)] == [None, None]
    assert shown(encoder, Sample(CHAT)).endswith("[Hello<|end|>]\n")
    assert encoder.skipped == {"the model's chat template refuses it: No system role": 2}


def test_templates_get_what_they_get_at_run_time() -> None:
    source = (
        "{%- for m in messages -%}{% if loop.last %}{% continue %}{% endif %}{{ m|tojson }}{%- endfor -%}"
        "{{ strftime_now('%%') }} {{ tools is none }} {{ eos_token }}\n  {% generation %}\n{{ add_generation_prompt }}"
        "{% endgeneration %}"
    )
    template = ChatTemplate(source, bos="<bos>", eos="<eos>", ends=())
    assert template.render(talk("ü", "b")) == '{"role": "user", "content": "ü"}% True <eos>\nFalse'
    assert template.render(talk("ü", "b"), asks=True).endswith("True")


def test_a_template_cannot_reach_out() -> None:
    with pytest.raises(Refused, match="unsafe"):
        marked("{{ ''.__class__.__mro__[1].__subclasses__() }}", *CHAT)


def test_what_is_no_template_is_refused() -> None:
    with pytest.raises(GateError, match=r"`tokenizer\.chat_template` cannot be compiled: "):
        Encoder(Letters(adds_bos=True), base_model("{% for %}"), 100)


# ---- without one ----


def test_without_a_template_messages_are_plain_text() -> None:
    encoder = Encoder(Letters(adds_bos=True), base_model(), 100)
    assert shown(encoder, Sample(talk("Arabic:", " x"))) == "<bos>Arabic:[ x<eos>]"
    chat = (Message("system", "S"), *talk("a", "b", "c", "d"))
    assert shown(encoder, Sample(chat)) == "<bos>S\na[b]\nc[d<eos>]"


def test_plain_text_is_all_reply_and_gets_no_end() -> None:
    for template in (None, CHATML):
        encoder = Encoder(Letters(adds_bos=True), base_model(template), 100)
        assert shown(encoder, Sample(text="a\nb")) == "[<bos>a\nb]"
        assert shown(encoder, Sample(text="<bos>a")) == "[<bos>a]"


def test_models_that_want_no_beginning_get_none() -> None:
    assert shown(Encoder(Letters(adds_bos=False), base_model(), 100), Sample(text="ab")) == "[ab]"


def test_a_sentencepiece_model_gets_no_space_within_a_text() -> None:
    spm = {"tokenizer.ggml.model": "llama"}
    encoder = Encoder(Letters(adds_bos=True, adds_space=True), base_model(**spm), 100)
    assert shown(encoder, Sample(talk("a", "b", "c", " d"))) == "<bos> a[b]\nc[ d<eos>]"
    chat = Encoder(Letters(adds_bos=True, adds_space=True), base_model(CHATML, **spm), 100)
    assert shown(chat, Sample(CHAT)) == "<|turn|> user\nHi<|end|> \n<|turn|> assistant\n[Hello<|end|>] \n"


# ---- length ----


def test_long_samples_are_cut() -> None:
    sample = Sample(talk("abcd", "efgh"))
    for n_ctx, expected in ((20, "<bos>abcd[efgh<eos>]"), (9, "<bos>abcd[efgh]"), (7, "<bos>abcd[ef]"), (3, "<bos>ab")):
        assert shown(Encoder(Letters(adds_bos=True), base_model(), n_ctx), sample) == expected


def test_one_token_gives_nothing_to_learn_from() -> None:
    encoder = Encoder(Letters(adds_bos=False), base_model(), 100)
    assert encoder.encode(Sample(text="a")) is None
    assert encoder.skipped == {"has fewer than 2 tokens": 1}


# ---- the engine itself ----


@pytest.fixture(scope="module")
def llm(tiny_model_path: Path) -> Iterator[Any]:
    from lcg_cpp.run.llama import Llama

    llm = Llama(str(tiny_model_path), vocab_only=True, verbose=False)
    yield llm
    llm.close()


def encoder_for(llm: Any, path: Path, n_ctx: int = 200) -> Encoder:
    from lcg_cpp.engine.model import read_base_model

    def tokenize(text: str, *, special: bool = False, bos: bool = False) -> list[int]:
        return list(llm.tokenize(text.encode(), add_bos=bos, special=special))

    return Encoder(tokenize, read_base_model(path), n_ctx)


def test_the_prompt_has_the_tokens_of_a_chat_completion(
    llm: Any, tiny_model_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    prompts: list[list[int]] = []

    def create_completion(prompt: list[int], **_: object) -> None:
        prompts.append(prompt)
        raise StopIteration

    monkeypatch.setattr(llm, "create_completion", create_completion)
    with pytest.raises(StopIteration):
        llm.create_chat_completion([{"role": "user", "content": "the name 中国"}])
    chat = Sample((Message("user", "the name 中国"), Message("assistant", "of the 城市")))
    encoded = encoder_for(llm, tiny_model_path).encode(chat)
    assert encoded is not None
    n_prompt = encoded.is_reply.index(True)
    assert encoded.tokens[:n_prompt] == prompts[0]
    reply = encoded.tokens[n_prompt:]
    assert llm.detokenize(reply, special=True).decode() == "of the 城市<|im_end|>\n"
    assert encoded.is_reply == [False] * n_prompt + [True] * (len(reply) - 1) + [False]


def test_plain_text_has_the_tokens_of_a_completion(llm: Any, tiny_model_path: Path) -> None:
    encoded = encoder_for(llm, tiny_model_path).encode(Sample(text="the name"))
    assert encoded is not None
    assert encoded.tokens == [llm.token_bos(), *llm.tokenize(b"the name", add_bos=False, special=True)]


def test_a_real_sentencepiece_vocabulary(vocab_dir: Path) -> None:
    from lcg_cpp.run.llama import Llama

    path = next((vocab_dir / name for name in os.listdir(vocab_dir) if name == "ggml-vocab-llama-spm.gguf"), None)
    if path is None:
        pytest.skip("the folder holds no ggml-vocab-llama-spm.gguf")
    llm = Llama(str(path), vocab_only=True, verbose=False)
    encoded = encoder_for(llm, path).encode(Sample(talk("Name it in Russian:", " Москва")))
    assert encoded is not None
    pieces = [llm.detokenize([token], special=True).decode() for token in encoded.tokens]
    assert "".join(pieces) == "<s> Name it in Russian: Москва</s>"
    llm.close()
