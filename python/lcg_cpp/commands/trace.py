"""A reply of `lcg-cpp run` as a page."""

from __future__ import annotations

import argparse
import codecs
import secrets
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from ..families import FAMILIES, token_families
from ..gate import GateEvent
from ..llama import GatedLlama, describe_model
from .errors import UsageError

if TYPE_CHECKING:
    from .run import _Reply

_OPTION = "--trace"


def check_target(args: argparse.Namespace) -> None:
    """Find out whether the page can be written before anything is generated.

    Raises:
        UsageError: It is a folder or in one that does not exist, or a file the reply is made from.
    """
    target = Path(args.trace)
    if target.is_dir() or not target.parent.is_dir():
        raise UsageError(f"{_OPTION}: {target}: expected a file to write, in a folder that exists")
    sources = [Path(source) for source in (args.model, args.lcg, args.file) if source is not None]
    if target.exists() and any(source.exists() and target.samefile(source) for source in sources):
        raise UsageError(f"{_OPTION}: {target}: is the model, the gate or the prompt, expected another file")


def write_trace(args: argparse.Namespace, llm: GatedLlama, reply: _Reply, prompt: str, seed: int) -> None:
    """Write the page.

    Args:
        args: Of the command.
        llm: The model that replied.
        reply: What it said, and where the gate intervened.
        prompt: What it was asked.
        seed: Of the random choices.

    Raises:
        OSError: The file cannot be written.
    """
    from ..reply_page import trace_page  # noqa: PLC0415 (most runs write no page)

    gate = llm.gate
    families = token_families(describe_model(llm._model, llm.n_embd()).vocab) if gate is None else gate.token_families
    pieces = _pieces(llm, reply.tokens)
    record = {
        "method": "none" if gate is None else "lcg",
        "seed": seed,
        "id": "",
        "prompt": prompt,
        "reply": "".join(pieces),
        "tokens": reply.tokens,
        "pieces": pieces,
        "families": families[reply.tokens].tolist(),
        "n_prompt": reply.n_prompt,
        "finish": reply.finish_reason,
        "seconds": reply.prompt_seconds + reply.seconds,
        "events": [_event(llm, event, families) for event in reply.events],
    }
    facts = [("model", args.model), ("gate", "none" if gate is None else gate.path), ("seed", f"{seed}")]
    if gate is not None and args.lcg_mode == "observe":
        facts.append(("mode", "observe: the interventions are what the gate would have done, nothing was changed"))
    if args.system is not None:
        facts.append(("system", args.system))
    _write(Path(args.trace), trace_page(record, FAMILIES if gate is None else gate.families, facts=facts))


def _event(llm: GatedLlama, event: GateEvent, families: npt.NDArray[np.uint8]) -> dict[str, Any]:
    """An intervention as in replies.jsonl (see `evaluate`)."""

    def listed(tokens: Sequence[tuple[int, float]]) -> list[list[Any]]:
        return [[token_text(llm, token), int(families[token]), p] for token, p in tokens]

    return {
        "position": event.position,
        "last": event.last,
        "predicted": event.predicted,
        "allowed": event.allowed,
        "banned": event.banned,
        "z": event.z,
        "removed": listed(event.removed),
        "candidates": listed(event.left),
        "chosen": token_text(llm, event.chosen),
    }


def token_text(llm: GatedLlama, token: int) -> str:
    """The text of a token; bytes that are no complete character become escapes."""
    return llm.detokenize([token], special=True).decode("utf-8", "backslashreplace")


def _pieces(llm: GatedLlama, tokens: Sequence[int]) -> list[str]:
    """The text that each token completes; at the end U+FFFD for what stays incomplete."""
    decoder = codecs.getincrementaldecoder("utf-8")("replace")
    pieces = [decoder.decode(llm.detokenize([token])) for token in tokens]
    if pieces:
        pieces[-1] += decoder.decode(b"", final=True)
    return pieces


def _write(path: Path, text: str) -> None:
    """Write a file whole or not at all."""
    temporary = path.with_name(f".lcg-{secrets.token_hex(8)}.tmp")
    try:
        temporary.write_bytes(text.encode())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
