"""A request and its reply: what the server keeps of them, and the model that reads and fills it in."""

from __future__ import annotations

import threading
from collections.abc import Generator, Mapping, Sequence
from contextvars import ContextVar
from pathlib import Path
from typing import Any

from fastapi import HTTPException

from ..errors import GateError
from ..gate.named import make_options
from ..gate.options import GateOptions
from ..run.llama import GatedLlama

stopping = threading.Event()  # the server ends: no reply goes on


class Exchange:
    """What a request wants of the gate, and what its reply came to.

    Attributes:
        wanted: Options of the gate by name, beside those of the model.
        gone: Whether the client has left, so that nobody waits for the reply.
        usage: What `usage` of the response says; None until a reply is there.
    """

    def __init__(self, wanted: Mapping[str, Any]) -> None:
        self.wanted = wanted
        self.gone = threading.Event()
        self.usage: dict[str, Any] | None = None

    def check(self) -> None:
        """End the reply where it makes no sense to go on."""
        if stopping.is_set():
            raise HTTPException(503, "the server is stopping")
        if self.gone.is_set():
            raise HTTPException(499, "the client is gone")

    def add(self, n_prompt: int, n_tokens: int, lcg: dict[str, Any]) -> None:
        """Add a generation; some ways to call a tool need two for a reply."""
        earlier = self.usage or {"prompt_tokens": 0, "completion_tokens": 0, "lcg": {}}
        n_prompt, n_tokens = n_prompt + earlier["prompt_tokens"], n_tokens + earlier["completion_tokens"]
        sums = {name: value + earlier["lcg"].get(name, 0) for name, value in lcg.items() if name in COUNTED}
        self.usage = {
            "prompt_tokens": n_prompt,
            "completion_tokens": n_tokens,
            "total_tokens": n_prompt + n_tokens,
            "lcg": {**lcg, **sums},
        }


_DIGITS = 6
COUNTED = ("interventions", "observed", "removed_mass", "pin_yields")  # of `GateStats`
current: ContextVar[Exchange | None] = ContextVar("current", default=None)


class ServedLlama(GatedLlama):
    """A model of the server: each reply is generated with the options of its own request.

    The server lets one request at a time use the model, so the options are set where a reply begins. They are not set
    back where it ends: what is left of an abandoned reply could do so at any time later.
    """

    def __init__(self, *args: Any, lcg: Mapping[str, Any], **arguments: Any) -> None:
        """Load the model; `lcg` are its options of the gate by name, everything else is as for `GatedLlama`."""
        self._lcg = lcg
        super().__init__(*args, gate_options=make_options(lcg), **arguments)

    def generate(
        self, tokens: Sequence[int], *args: Any, **arguments: Any
    ) -> Generator[int, Sequence[int] | None, None]:
        """Generate as `Llama.generate` does, with the options of the request, until its client is gone."""
        exchange = current.get() or Exchange({})
        options = self.options_for(exchange.wanted)
        if options != self.gate_options:
            self.gate_options = options
        self.reset_gate_stats()
        n_tokens = 0
        exchange.check()
        try:
            for token in super().generate(tokens, *args, **arguments):
                exchange.check()
                n_tokens += not self.ends_reply(token)
                yield token
        except GateError as error:
            raise HTTPException(400, str(error)) from error
        finally:
            exchange.add(len(tokens), n_tokens, self._report())

    def options_for(self, wanted: Mapping[str, Any]) -> GateOptions:
        """The model's options with those that a request wants in their place."""
        return make_options({**self._lcg, **wanted})

    def _report(self) -> dict[str, Any]:
        """What the gate did in this generation."""
        stats = self.gate_stats
        gate = None if self.gate is None else Path(self.gate.path).name
        counts = {name: round(getattr(stats, name), _DIGITS) for name in COUNTED}
        return {"gate": gate, "mode": self.gate_options.mode, **counts}
