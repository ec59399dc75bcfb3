"""The application: llama-cpp-python's own, whose models are gated ones."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Mapping
from typing import Any

import llama_cpp
from fastapi import FastAPI, HTTPException, Request
from fastapi.middleware import Middleware
from fastapi.responses import JSONResponse
from llama_cpp.server import app as upstream
from llama_cpp.server.model import LlamaProxy
from llama_cpp.server.settings import ModelSettings

from ..gate.gate import Gate
from .exchange import ServedLlama
from .middleware import Exchanges, error_body
from .settings import ServedModel, Settings, options_in


def _proxy_with(gates: Mapping[str, Gate | None]) -> type[LlamaProxy]:
    """What loads the models: as llama-cpp-python's server does, with their gates."""

    class Proxy(LlamaProxy):
        @staticmethod
        def load_llama_from_model_settings(settings: ModelSettings) -> llama_cpp.Llama:
            """Load a model; upstream reads its settings."""
            assert isinstance(settings, ServedModel)
            arguments: dict[str, Any] = {
                "lcg": options_in(settings.lcg),
                "gate": gates[settings.name],
                "gate_check": settings.gate_check,
            }

            class Loaded(ServedLlama):
                def __init__(self, *args: Any, **others: Any) -> None:
                    super().__init__(*args, **others, **arguments)

            with _replaced(llama_cpp, "Llama", Loaded):
                return LlamaProxy.load_llama_from_model_settings(settings)

    return Proxy


@contextlib.contextmanager
def _replaced(module: Any, name: str, value: object) -> Iterator[None]:
    """Give a name of a module another meaning for a while."""
    own = getattr(module, name)
    setattr(module, name, value)
    try:
        yield
    finally:
        setattr(module, name, own)


def make_app(settings: Settings, gates: Mapping[str, Gate | None]) -> FastAPI:
    """Load the default model, and make the application.

    Args:
        settings: All settings.
        gates: The gate of each model by the model's name; None: it has none.

    Raises:
        GateError: A gate or a model cannot be used.
        ValueError: From `llama_cpp.Llama`, e.g. an argument it refuses.
    """
    os.environ.pop("CONFIG_FILE", None)  # upstream would read it instead of these settings
    with _replaced(upstream, "LlamaProxy", _proxy_with(gates)):
        app: FastAPI = upstream.create_app(server_settings=settings, model_settings=list(settings.models))
    app.title = "lcg-cpp"
    app.user_middleware.append(Middleware(Exchanges))  # the innermost: errors need the headers of the others too
    app.add_exception_handler(HTTPException, _refuse)
    app.add_api_route("/health", _health, summary="Health", tags=["Extras"])
    return app


async def _health() -> dict[str, str]:
    return {"status": "ok"}


async def _refuse(request: Request, error: Exception) -> JSONResponse:
    """A refusal as OpenAI's clients read it."""
    assert isinstance(error, HTTPException)
    return JSONResponse(error_body(str(error.detail), error.status_code), error.status_code, error.headers)
