"""A row of training data: from the columns that people's data has to messages or plain text."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from ..errors import GateError

_CHATS = ("messages", "conversations", "conversation")
# prompt, what belongs to it, the columns its reply may be in
_PAIRS: tuple[tuple[str, tuple[str, ...], tuple[str, ...]], ...] = (
    ("prompt", (), ("response", "completion", "chosen")),
    ("query", (), ("query_response", "response")),
    ("instruction", ("input", "context"), ("output", "response")),
    ("inputs", (), ("targets",)),
)
KNOWN_COLUMNS = (
    "`messages`, `prompt` and `response`, `query` and `query_response`, `instruction` and `output`, or `text`"
)
_CALL = "call"  # an assistant calls a tool and says nothing
# spelling of a role, in lower case -> role
_ROLES = {
    "system": "system",
    "developer": "developer",
    **dict.fromkeys(("user", "human", "prompter", "question"), "user"),
    **dict.fromkeys(("assistant", "gpt", "model", "bot", "chatbot", "ai", "chatgpt", "answer"), "assistant"),
    **dict.fromkeys(("tool", "function", "observation", "ipython", "tool_response", "function_response"), "tool"),
    **dict.fromkeys(("function_call", "tool_call"), _CALL),
}
_MAX_SHOWN = 60  # characters


class BadRow(Exception):  # noqa: N818 (not an error of the program)
    """A row that cannot be learned from. The message says why, as the end of "FILE:LINE: "."""


@dataclass(frozen=True)
class Message:
    """One message of a chat."""

    role: str  # `system`, `developer`, `user`, `assistant` or `tool`
    content: str  # its text, not blank


@dataclass(frozen=True)
class Sample:
    """What is learned from: a chat or a plain text."""

    messages: tuple[Message, ...] = ()  # a chat that ends in an assistant's reply; empty for a plain text
    text: str = ""  # a plain text; empty for a chat

    def __post_init__(self) -> None:
        if bool(self.messages) == bool(self.text):
            raise GateError("a sample has both `messages` and `text` or neither, expected one of them")


def sample_from_row(row: object) -> Sample:
    """Read a row.

    Known are, in this order: `messages` (role and content; also ShareGPT's `conversations` with from and value);
    `prompt` with `response`, `completion` or `chosen` (TRL; each of them text or messages); `query` with
    `query_response`; `instruction`, `input` and `output` (Alpaca); `inputs` and `targets` (Aya); `chosen` alone;
    `text`. Columns that are null count as absent, others are ignored.

    `query_response` holds the reply alone in the data of the method's reference implementation, and the query with the
    reply behind it where that name comes from (the summarization data of RLHF trainers). Both are read: a query at its
    very beginning is taken off.

    Messages behind the last reply are left out: nothing answers them.
    """
    if not isinstance(row, Mapping):
        raise BadRow(f"is {_a(row)}, expected an object with named columns")
    columns = {name: value for name, value in row.items() if value is not None}
    for name in _CHATS:
        if name in columns:
            return Sample(messages=_chat(columns[name], name))
    for prompt, additions, replies in _PAIRS:
        reply = next((name for name in replies if name in columns), None)
        if prompt in columns and reply is not None:
            if isinstance(columns[prompt], list) or isinstance(columns[reply], list):
                return _conversation(columns, prompt, reply)
            return _pair(columns, prompt, additions, reply)
    if isinstance(columns.get("chosen"), list):  # of a pair of whole chats
        return Sample(messages=_chat(columns["chosen"], "chosen"))
    if "chosen" in columns:
        return Sample(text=text_of(columns["chosen"], "`chosen`"))
    if "text" in columns:
        return Sample(text=text_of(columns["text"], "`text`"))
    found = ", ".join(f"`{name}`" for name in columns)
    raise BadRow(f"has {_shortened(found) or 'no columns'}, expected {KNOWN_COLUMNS}")


def text_of(value: object, name: str) -> str:
    """Check a text; `name` is what to call it.

    It must not be blank or hold half a surrogate pair, which no tokenizer takes.
    """
    if not isinstance(value, str):
        raise BadRow(f"{name} is {_a(value)}, expected text")
    if not value.strip():
        raise BadRow(f"{name} is empty")
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise BadRow(f"{name} holds half a surrogate pair at character {error.start}") from error
    return value


def _pair(columns: Mapping[str, object], prompt: str, additions: tuple[str, ...], reply: str) -> Sample:
    asked = text_of(columns[prompt], f"`{prompt}`")
    answered = text_of(columns[reply], f"`{reply}`")
    if reply == "query_response" and answered.startswith(asked) and answered[len(asked) :].strip():
        answered = answered[len(asked) :]
    for name in additions:
        addition = columns.get(name, "")
        if not isinstance(addition, str) or addition.strip():
            asked += "\n\n" + text_of(addition, f"`{name}`")
    return Sample(messages=(Message("user", asked), Message("assistant", answered)))


def _conversation(columns: Mapping[str, object], prompt: str, reply: str) -> Sample:
    """A prompt and its reply, of which one at least is a list of messages; the reply may repeat the prompt."""
    turns = []
    for name, role in ((prompt, "user"), (reply, "assistant")):
        value = columns[name]
        turns.append(value if isinstance(value, list) else [{"role": role, "content": value}])
    asked, answered = (_messages(turn, name) for turn, name in zip(turns, (prompt, reply)))
    if answered[: len(asked)] == asked:
        asked = []
    return Sample(messages=_until_reply([*asked, *answered], reply))


def _chat(value: object, name: str) -> tuple[Message, ...]:
    if isinstance(value, Mapping):  # a list of records, as older `datasets` give it: a record of lists
        columns = [column for column in value.values() if isinstance(column, list)]
        value = [dict(zip(value, record)) for record in zip(*columns)] if len(columns) == len(value) else value
    if not isinstance(value, list):
        raise BadRow(f"`{name}` is {_a(value)}, expected a list of messages")
    return _until_reply(_messages(value, name), name)


def _until_reply(messages: list[Message], name: str) -> tuple[Message, ...]:
    """The messages up to the last reply."""
    n = max((i for i, message in enumerate(messages, 1) if message.role == "assistant"), default=0)
    if not n:
        raise BadRow(f"`{name}` holds no message of an assistant")
    return tuple(messages[:n])


def _messages(items: list[object], name: str) -> list[Message]:
    """The messages, without empty system messages and without tool calls that have no text and their results."""
    kept: list[Message] = []
    called = False
    for number, item in enumerate(items, 1):
        where = f"message {number}" if name in _CHATS else f"message {number} of `{name}`"
        message = _message(item, where)
        called = message is not None and (message.role == _CALL or (called and message.role == "tool"))
        if message is not None and not called:
            kept.append(message)
    return kept


def _message(item: object, name: str) -> Message | None:
    """One message; None for an empty system message, which many collections have."""
    if not isinstance(item, Mapping):
        raise BadRow(f"{name} is {_a(item)}, expected an object with `role` and `content`")
    given = item.get("role") or item.get("from")
    role = _ROLES.get(given.strip().lower()) if isinstance(given, str) else None
    if role is None:
        raise BadRow(f"{name} has the role {_shortened(repr(given))}, expected system, user, assistant or tool")
    content = next((item[key] for key in ("content", "value", "text") if item.get(key) is not None), None)
    if isinstance(content, list):
        content = "".join(_part(part, name) for part in content)
    if content is None or content == "":
        if role == "system":
            return None
        if role == "assistant" and (item.get("tool_calls") or item.get("function_call")):
            role = _CALL
    return Message(role, "" if role == _CALL else text_of(content, name))


def _part(part: object, name: str) -> str:
    """A part of a message that is a list of texts, images and the like."""
    text = part.get("text") if isinstance(part, Mapping) else part
    if not isinstance(text, str):
        raise BadRow(f"{name} has a part that is not text")
    return text


def _a(value: object) -> str:
    names = {type(None): "nothing", bool: "true or false", list: "a list", dict: "an object", str: "text"}
    return names.get(type(value), "a number" if isinstance(value, (int, float)) else f"a {type(value).__name__}")


def _shortened(text: str) -> str:
    return text if len(text) <= _MAX_SHOWN else text[:_MAX_SHOWN] + "…"
