"""Samples as the tokens that the model sees at run time, and which of them it generates itself."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from ..engine.base_model import CONTROL, BaseModel
from .rows import Message, Sample
from .template import ChatTemplate, Refused

_LEAST_TOKENS = 2  # one that is predicted, and one to predict it from
_APART = "\x01"  # in no vocabulary's words: a token of its own wherever it stands


class Tokenize(Protocol):
    """How a text becomes tokens; see `teacher.Teacher.tokenize`."""

    def __call__(self, text: str, *, special: bool = False, bos: bool = False) -> list[int]:
        """Tokens of a text."""


@dataclass(frozen=True)
class Encoded:
    """A sample as tokens."""

    tokens: list[int]
    # for each of them whether it belongs to an assistant's reply, the token that ends the reply included; all of a
    # plain text does
    is_reply: list[bool]


class Encoder:
    """Renders samples for one model.

    Chats go through the model's own chat template, as at run time: what the template writes is all there is, with or
    without a beginning-of-text token. A model without a template sees the messages as plain text: a reply directly
    behind its prompt, every other message on a new line, at last the token that ends a text. Plain texts and such
    chats begin with the beginning-of-text token if the model wants one.

    Prompts and replies are made into tokens separately, as at run time, where a reply never merges with its prompt.

    Attributes:
        skipped: Why samples gave nothing to learn from, and how many.
    """

    def __init__(self, tokenize: Tokenize, base: BaseModel, n_ctx: int) -> None:
        """Prepare for a model; what is longer than `n_ctx` tokens is cut."""
        self.skipped: Counter[str] = Counter()
        self._tokenize = tokenize
        self._n_ctx = n_ctx
        self._vocab = base.vocab
        metadata = base.metadata
        self._bos = _token_id(metadata.get("tokenizer.ggml.bos_token_id"), base.vocab.n_vocab)
        self._eos = _token_id(metadata.get("tokenizer.ggml.eos_token_id"), base.vocab.n_vocab)
        self._wants_bos = self._bos is not None and tokenize("", special=True, bos=True)[:1] == [self._bos]
        self._adds_space = (
            metadata.get("tokenizer.ggml.model") == "llama"
            and metadata.get("tokenizer.ggml.add_space_prefix", "true") == "true"
        )
        source = metadata.get("tokenizer.chat_template")
        self._template = None
        if source:
            bos, eos = self._text(self._bos), self._text(self._eos)
            ends = [self._text(int(token)) for token in np.flatnonzero(base.vocab.types & CONTROL)]
            self._template = ChatTemplate(source, bos=bos, eos=eos, ends=ends)

    def encode(self, sample: Sample) -> Encoded | None:
        """Tokens of a sample; None where there is nothing to learn from, which is counted in `skipped`."""
        try:
            parts = self._parts(sample)
        except Refused as reason:
            self.skipped[str(reason)] += 1
            return None
        is_plain = self._template is None or not sample.messages
        tokens: list[int] = []
        is_reply: list[bool] = []
        for text, part_is_reply in parts:
            new = self._continued(text, tokens[-1], part_is_reply) if tokens else self._beginning(text, is_plain)
            tokens += new
            is_reply += [part_is_reply] * len(new)
            if len(tokens) >= self._n_ctx:
                break
        if sample.messages and is_plain and self._eos is not None:
            tokens.append(self._eos)
            is_reply.append(True)
        if len(tokens) < _LEAST_TOKENS:
            self.skipped[f"has fewer than {_LEAST_TOKENS} tokens"] += 1
            return None
        return Encoded(tokens[: self._n_ctx], is_reply[: self._n_ctx])

    def _parts(self, sample: Sample) -> list[tuple[str, bool]]:
        """The text in parts, each with whether it is a reply."""
        if sample.text:
            return [(sample.text, True)]
        if self._template is None:
            return _plain_parts(sample.messages)
        return self._template.parts(sample.messages)

    def _beginning(self, text: str, is_plain: bool) -> list[int]:
        """Tokens of the first part."""
        tokens = self._tokenize(text, special=True)
        if is_plain and self._bos is not None and self._wants_bos and tokens[:1] != [self._bos]:
            return [self._bos, *tokens]
        return tokens

    def _continued(self, text: str, before: int, is_reply: bool) -> list[int]:
        """Tokens of a part behind another one, which ends in the token `before`."""
        if self._adds_space and (is_reply or not self._vocab.types[before] & CONTROL):
            # SentencePiece puts a space in front of what it is given, and generates none where there is none.
            mark = self._tokenize(_APART, special=True)
            tokens = self._tokenize(_APART + text, special=True)
            if tokens[: len(mark)] == mark:
                return tokens[len(mark) :]
        return self._tokenize(text, special=True)

    def _text(self, token: int | None) -> str:
        return "" if token is None else self._vocab.tokens[token].decode("utf-8", "replace")


def _plain_parts(messages: tuple[Message, ...]) -> list[tuple[str, bool]]:
    """The messages as text, for models that know no chats."""
    parts: list[tuple[str, bool]] = []
    lines: list[str] = []  # of the prompt
    for message in messages:
        if message.role != "assistant":
            lines.append(message.content)
            continue
        parts += [("\n".join(lines), False), (message.content, True)]
        lines = [""]
    return [part for part in parts if part[0]]


def _token_id(value: str | None, n_vocab: int) -> int | None:
    return int(value) if value is not None and value.isdigit() and int(value) < n_vocab else None
