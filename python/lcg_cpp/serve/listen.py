"""The server's socket, and how it runs until it is stopped."""

from __future__ import annotations

import contextlib
import errno
import logging
import socket
from types import FrameType

import uvicorn
from fastapi import FastAPI

from .exchange import stopping
from .settings import Settings

_GRACE = 3  # seconds for replies to end after Ctrl-C


def listen(settings: Settings) -> socket.socket:
    """Open the socket, before a model is loaded: the address may be taken.

    Raises:
        OSError: It cannot be opened.
    """
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    try:
        return socket.create_server((settings.host, settings.port), family=family)
    except OSError as error:  # a host that nobody knows has no number that names it
        reason = "address already in use" if error.errno == errno.EADDRINUSE else str(error.strerror or error)
        raise OSError(error.errno, f"cannot be listened on: {reason.lower()}", address(settings)) from error


def address(settings: Settings, port: int | None = None) -> str:
    """The host and port as an address of the web writes them."""
    host = f"[{settings.host}]" if ":" in settings.host else settings.host
    return f"{host}:{settings.port if port is None else port}"


class _Server(uvicorn.Server):
    """Tells the replies that are being generated to end where the server is asked to."""

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Stop; the second time at once."""
        stopping.set()
        super().handle_exit(sig, frame)


def run(app: FastAPI, settings: Settings, listening: socket.socket) -> None:
    """Answer requests until Ctrl-C or SIGTERM; each gets a line on standard output."""
    config = uvicorn.Config(
        app,
        ssl_keyfile=settings.ssl_keyfile,
        ssl_certfile=settings.ssl_certfile,
        timeout_graceful_shutdown=_GRACE,
    )
    logging.getLogger("uvicorn.error").setLevel(logging.WARNING)  # not how it starts and ends
    stopping.clear()
    with contextlib.suppress(KeyboardInterrupt):  # raised again where it was asked to stop, and has
        _Server(config).run(sockets=[listening])
