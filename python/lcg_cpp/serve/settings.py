"""The server's settings: those of llama-cpp-python's server, and `lcg` for each model.

They come from the command line or a file, never from the environment: a stray `HOST` must not change who can reach the
server. Annotations are as pydantic wants them on Python 3.9.
"""

import ipaddress
import json
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml
from llama_cpp.server.settings import ModelSettings, ServerSettings
from pydantic import Field, ValidationError, field_validator, model_validator
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource

from ..errors import GateError
from ..gate.named import make_options
from ..gate.options import ModelCheck

LOOPBACK = "127.0.0.1"
_OF_GATE = {"gate": str, "device": str, "any_model": bool}  # what `lcg` of a model holds beside options


class _Given(BaseSettings):
    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """What was given, and nothing of the environment."""
        return (init_settings,)


class ServedModel(_Given, ModelSettings):
    """A model of the server.

    `lcg` holds `gate` (a file, or `auto`), `device`, `any_model`, and the options of the gate by name. Unlike
    llama-cpp-python's server, it keeps the logits of the newest token only, unless `logits_all` is true: those of a
    whole context take more memory than many a model. Requests for logprobs need them.
    """

    lcg: dict[str, Any] = Field(default={}, description="The gate of this model and its options.")
    logits_all: bool = Field(default=False, description="Whether to keep all logits, which logprobs need.")
    verbose: bool = Field(default=False, description="Whether to print llama.cpp's log.")

    @field_validator("lcg")
    @classmethod
    def _check_lcg(cls, lcg: dict[str, Any]) -> dict[str, Any]:
        for name, kind in _OF_GATE.items():
            if not isinstance(lcg.get(name, kind()), kind):
                raise GateError(f"`{name}` is {lcg[name]!r}, expected {'a text' if kind is str else 'true or false'}")
        if lcg.get("device", "cpu") not in ("cpu", "gpu", "auto"):
            raise GateError(f'`device` is {lcg["device"]!r}, expected "cpu", "gpu" or "auto"')
        make_options(options_in(lcg))
        return lcg

    @property
    def name(self) -> str:
        """What requests call the model."""
        return self.model_alias or self.model

    @property
    def gate_check(self) -> ModelCheck:
        """How alike this model and the one that the gate was made for must be."""
        return "shape" if self.lcg.get("any_model") else "weights"


class Settings(_Given, ServerSettings):
    """The server's settings.

    Unlike in llama-cpp-python's server, a new request waits for its turn: by default it does not end the stream of
    another user.
    """

    host: str = Field(default=LOOPBACK, description="Listen address")
    port: int = Field(default=8000, ge=0, le=65535, description="Listen port")
    interrupt_requests: bool = Field(default=False, description="Whether a new request ends the stream of another.")
    models: list[ServedModel] = Field(min_length=1, description="The models; the first is the default.")

    @model_validator(mode="after")
    def _check(self) -> "Settings":
        if not is_loopback(self.host) and not self.api_key:
            raise GateError(f"`host` is {self.host!r}, which others can reach: set `api_key`, or stay on {LOOPBACK}")
        if self.api_key is not None and not self.api_key.strip():
            raise GateError("`api_key` is empty, expected a secret")
        name, n = Counter(model.name for model in self.models).most_common(1)[0]
        if n > 1:
            raise GateError(f"`models` holds {name!r} {n} times: give each a `model_alias` of its own")
        return self


def is_loopback(host: str) -> bool:
    """Whether only programs on this machine can reach an address."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def options_in(lcg: Mapping[str, Any]) -> dict[str, Any]:
    """The options of the gate in a model's `lcg`."""
    return {name: value for name, value in lcg.items() if name not in _OF_GATE}


def make_settings(values: Mapping[str, Any]) -> Settings:
    """Check settings.

    Raises:
        GateError: One is unknown or not what it must be.
    """
    try:
        return Settings(**values)
    except ValidationError as error:
        raise GateError(first_problem(error)) from error


def read_settings(path: str, **changes: Any) -> Settings:
    """Read a file of settings, in JSON or (`.yaml`, `.yml`) YAML; `changes` go before what it holds.

    Raises:
        GateError: It is not valid.
        OSError: It cannot be read.
    """
    data = Path(path).read_bytes()
    try:
        values = yaml.safe_load(data) if path.endswith((".yaml", ".yml")) else json.loads(data)
    except (ValueError, yaml.YAMLError) as error:
        raise GateError(f"{path}: is not valid: {' '.join(str(error).split())}") from error
    if not isinstance(values, dict):
        raise GateError(f"{path}: holds a {type(values).__name__}, expected an object with `models`")
    try:
        return make_settings({**values, **changes})
    except GateError as error:
        raise GateError(f"{path}: {error}") from error


def first_problem(error: ValidationError) -> str:
    """The first thing that is wrong with some values, in one line."""
    first = error.errors(include_url=False)[0]
    place = ".".join(str(part) for part in first["loc"])
    reason = first["msg"].removeprefix("Value error, ")
    if "ctx" not in first or "error" not in first["ctx"]:  # pydantic's own
        reason = f"{reason[:1].lower()}{reason[1:]}"
    return f"`{place}`: {reason}" if place else reason
