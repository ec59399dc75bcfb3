"""A model's own chat template, and which parts of what it renders are replies."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from datetime import datetime
from typing import Any, NoReturn

import jinja2
from jinja2.ext import Extension, loopcontrols
from jinja2.nodes import Node
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment

from ..errors import GateError, first_line
from .rows import Message

_THINK_END = "</think>"


class Refused(Exception):  # noqa: N818 (not an error of the program)
    """A chat that a model's template does not take. The message says why."""


class _GenerationTag(Extension):
    """`{% generation %}` marks replies for Transformers; what it encloses is rendered as it is."""

    tags = {"generation"}  # noqa: RUF012 (as jinja2 declares it)

    def parse(self, parser: Parser) -> Node | list[Node]:
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


def _raise_exception(message: str) -> NoReturn:
    raise jinja2.TemplateError(message)


def _strftime_now(form: str) -> str:
    return datetime.now().strftime(form)


def _to_json(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


class ChatTemplate:
    """Renders chats as `Llama.create_chat_completion` does at run time."""

    def __init__(self, source: str, *, bos: str, eos: str, ends: Sequence[str]) -> None:
        """Compile a template; `ends` are texts of control tokens: the first of them behind a reply is what ends it."""
        environment = ImmutableSandboxedEnvironment(
            trim_blocks=True, lstrip_blocks=True, extensions=[_GenerationTag, loopcontrols]
        )
        environment.filters["tojson"] = _to_json
        try:
            self._template = environment.from_string(source)
        except (jinja2.TemplateError, RecursionError) as error:
            raise GateError(f"`tokenizer.chat_template` cannot be compiled: {first_line(error)}") from error
        self._names = {
            "bos_token": bos,
            "eos_token": eos,
            "raise_exception": _raise_exception,
            "strftime_now": _strftime_now,
            **dict.fromkeys(("functions", "function_call", "tools", "tool_choice")),
        }
        controls = "|".join(re.escape(text) for text in sorted({eos, *ends} - {""}, key=len, reverse=True))
        self._edge = re.compile("|".join(filter(None, [controls, "\n"])))
        self._end = re.compile(rf"\s*(?:{controls or '(?!)'})")

    def render(self, messages: Sequence[Message], *, asks: bool = False) -> str:
        """The text of a chat, if it `asks` up to where the reply shall follow."""
        chat = [{"role": message.role, "content": message.content} for message in messages]
        try:
            return self._template.render(messages=chat, add_generation_prompt=asks, **self._names)
        except Exception as error:  # a template is a program, and somebody else's
            raise Refused(f"the model's chat template refuses it: {first_line(error)}") from error

    def parts(self, messages: Sequence[Message]) -> list[tuple[str, bool]]:
        """The text of a chat in parts, each with whether it is a reply.

        A reply begins where a prompt that asks for it ends and goes on to the control token that ends it, if the
        template writes one: these are the tokens that the model generates. A reply that the template does not show as
        it is (some leave out the reasoning of earlier replies) counts as prompt.
        """
        text = self.render(messages)
        parts: list[tuple[str, bool]] = []
        done = 0
        for i, message in enumerate(messages):
            if message.role != "assistant":
                continue
            start = self._start(text, messages[:i])
            end = None if start is None else self._reply_end(text, start, messages[i : i + 2])
            if start is None or end is None or start < done:
                continue
            parts += [(text[done:start], False), (text[start:end], True)]
            done = end
        if not parts:
            raise Refused("the model's chat template does not show the reply as it is")
        parts.append((text[done:], False))
        return [part for part in parts if part[0]]

    def _start(self, text: str, before: Sequence[Message]) -> int | None:
        """Where the reply to these messages begins in the text of the whole chat."""
        if not before:
            return 0
        prompt = self.render(before, asks=True)
        if text.startswith(prompt):
            return len(prompt)
        # The prompt asks for more than the chat shows, such as the beginning of a reasoning that was left out.
        common = next((i for i, (a, b) in enumerate(zip(text, prompt)) if a != b), min(len(text), len(prompt)))
        asked = before[-1].content.strip()
        at = text.rfind(asked, 0, common)
        if at < 0:
            return None
        return max([at + len(asked), *(match.end() for match in self._edge.finditer(text, at + len(asked), common))])

    def _reply_end(self, text: str, start: int, messages: Sequence[Message]) -> int | None:
        """Where a reply ends: behind the control token that follows its words.

        `messages` are the reply and the message behind it, if there is one.
        """
        content, *others = (message.content.strip() for message in messages)
        for words in (content, content.rpartition(_THINK_END)[2].strip()):
            at = text.find(words, start) if words else -1
            if at < 0 or any(other not in text[at + len(words) :] for other in others):
                continue  # not shown, and perhaps found in what stands behind it
            end = self._end.match(text, at + len(words))
            return end.end() if end else at + len(words)
        return None
