"""What stands between the clients and llama-cpp-python's application: `lcg` of a request, and of its response.

It reads and writes the protocol alone, so that it works with every handler behind it.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any

import anyio
from fastapi import HTTPException
from fastapi.responses import JSONResponse
from llama_cpp.server.types import CreateChatCompletionRequest, CreateCompletionRequest
from pydantic import ValidationError
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from ..errors import GateError, first_line
from ..gate.named import make_options
from .exchange import Exchange, current
from .settings import first_problem

_EVENT = b"data: "


class Exchanges:
    """Makes an `Exchange` of every request for a completion, and completes its response."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle a request."""
        if scope["type"] != "http" or scope["method"] != "POST" or not scope["path"].endswith("/completions"):
            await self._app(scope, receive, send)
            return
        body = await _read(receive)
        try:
            exchange = Exchange(_wanted(scope["path"], body))
        except GateError as error:
            await JSONResponse(error_body(str(error), 400), 400)(scope, receive, send)
            return
        current.set(exchange)
        async with anyio.create_task_group() as tasks:
            left = anyio.Event()
            tasks.start_soon(_wait_for_leave, receive, exchange, left)
            await self._answer(scope, _Body(body, left), _Response(exchange, send))
            tasks.cancel_scope.cancel()

    async def _answer(self, scope: Scope, body: _Body, response: _Response) -> None:
        try:
            await self._app(scope, body.receive, response.send)
        except Exception as error:
            if not response.is_stream:
                raise
            await response.fail(error)
        await response.end()


async def _read(receive: Receive) -> bytes:
    """The whole body of a request."""
    body = bytearray()
    while True:
        message = await receive()
        body += message.get("body", b"")
        if not message.get("more_body", False):
            return bytes(body)


def _wanted(path: str, body: bytes) -> dict[str, Any]:
    """The options of the gate that a request names; refuses what upstream would answer with a failure of its own."""
    try:
        request = json.loads(body, parse_constant=_finite, parse_float=_finite)
    except (ValueError, RecursionError) as error:
        raise GateError(f"the body is not JSON: {first_line(error)}") from error
    try:
        json.dumps(request, ensure_ascii=False).encode()
    except UnicodeError as error:
        raise GateError(f"the body holds half a character: {first_line(error)}") from error
    if not isinstance(request, dict):
        raise GateError(f"the body is a JSON {type(request).__name__}, expected an object")
    kind = CreateChatCompletionRequest if path.endswith("/chat/completions") else CreateCompletionRequest
    try:
        kind.model_validate(request)
    except ValidationError as error:
        raise GateError(first_problem(error)) from error
    if isinstance(request.get("prompt"), list) and len(request["prompt"]) > 1:
        raise GateError(f"`prompt` holds {len(request['prompt'])} texts, expected one: send a request for each")
    wanted = request.get("lcg")
    if wanted is None:
        return {}
    if not isinstance(wanted, dict):
        raise GateError(f'`lcg` is {wanted!r:.80}, expected an object such as {{"mode": "observe"}}')
    try:
        make_options(wanted)
    except GateError as error:
        raise GateError(str(error).replace("`", "`lcg.", 1)) from error
    return wanted


def _finite(text: str) -> float:
    """A number of JSON; others make no sense to samplers."""
    number = float(text)
    if not math.isfinite(number):
        raise ValueError(f"{text} is not a finite number")
    return number


async def _wait_for_leave(receive: Receive, exchange: Exchange, left: anyio.Event) -> None:
    """Notice that the client leaves: upstream asks for it only where it streams, and between two tokens."""
    while (await receive())["type"] != "http.disconnect":
        pass
    exchange.gone.set()
    left.set()


class _Body:
    """The body that was read, for the application."""

    def __init__(self, body: bytes, left: anyio.Event) -> None:
        self._message: Message | None = {"type": "http.request", "body": body, "more_body": False}
        self._left = left

    async def receive(self) -> Message:
        """The body; after it nothing until the client leaves."""
        message, self._message = self._message, None
        if message is None:
            await self._left.wait()
            return {"type": "http.disconnect"}
        return message


class _Response:
    """The response on its way to the client: `usage` comes in, and a stream that fails says why."""

    def __init__(self, exchange: Exchange, send: Send) -> None:
        self._exchange = exchange
        self._send = send
        self._start: Message | None = None  # of a JSON response, whose length is not known yet
        self._data = bytearray()  # of a JSON response
        self._last: Message | None = None  # of a stream
        self.is_stream = False

    async def send(self, message: Message) -> None:
        """Send on what the application sends."""
        if message["type"] == "http.response.start":
            kind = dict(message["headers"]).get(b"content-type", b"")
            self.is_stream = kind.startswith(b"text/event-stream")
            if kind.startswith(b"application/json"):
                self._start = message
                return
        elif self._start is not None:
            self._data += message.get("body", b"")
            return
        elif self.is_stream and not message.get("more_body", False):
            self._last = message
            return
        elif self.is_stream:
            message = {**message, "body": self._with_usage(message["body"])}
        await self._send(message)

    async def fail(self, error: Exception) -> None:
        """Say in a stream why it ends."""
        if isinstance(error.__cause__, HTTPException):  # starlette says that it comes too late for a status
            error = error.__cause__
        while getattr(error, "exceptions", None):  # a group
            error = error.exceptions[0]  # type: ignore[attr-defined]
        status, detail = 400 if isinstance(error, ValueError) else 500, first_line(error)
        if isinstance(error, HTTPException):
            status, detail = error.status_code, str(error.detail)
        await self._send({"type": "http.response.body", "body": _event(error_body(detail, status)), "more_body": True})

    async def end(self) -> None:
        """Send what was held back."""
        if self._start is not None:
            data = self._completed(bytes(self._data))
            headers = [(name, value) for name, value in self._start["headers"] if name != b"content-length"]
            headers.append((b"content-length", str(len(data)).encode()))
            await self._send({**self._start, "headers": headers})
            await self._send({"type": "http.response.body", "body": data})
        elif self.is_stream:
            await self._send(self._last or {"type": "http.response.body", "body": b""})

    def _completed(self, data: bytes) -> bytes:
        """A JSON body with what the gate did."""
        if self._exchange.usage is None or b'"usage"' not in data:
            return data
        response = json.loads(data)
        response["usage"]["lcg"] = self._exchange.usage["lcg"]
        return json.dumps(response, ensure_ascii=False).encode()

    def _with_usage(self, event: bytes) -> bytes:
        """An event of a stream; with `usage` if it ends a reply."""
        if self._exchange.usage is None or not event.startswith(_EVENT) or b'"finish_reason"' not in event:
            return event
        chunk = json.loads(event[len(_EVENT) :])
        if all(choice["finish_reason"] is None for choice in chunk["choices"]):
            return event
        return _event({**chunk, "usage": self._exchange.usage})


def _event(value: Mapping[str, Any]) -> bytes:
    return _EVENT + json.dumps(value).encode() + b"\n\n"


def error_body(message: str, status: int) -> dict[str, Any]:
    """An error as OpenAI's clients read it."""
    kind = "invalid_request_error" if 400 <= status < 500 else "internal_server_error"
    return {"error": {"message": message, "type": kind, "param": None, "code": None}}
