"""A reply of `lcg-cpp run` as a page."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from ..engine.model import describe_model
from ..evaluate.record import ReplyText, event_record, visible_bytes
from ..files import write_whole
from ..gate.families import DEFAULT_FAMILIES, token_families
from ..run.llama import GatedLlama

if TYPE_CHECKING:
    from .run import _Reply


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
    from ..pages.reply_page import trace_page  # noqa: PLC0415 (most runs write no page)

    gate, vocab = llm.gate, describe_model(llm._model, llm.n_embd()).vocab
    families = token_families(vocab) if gate is None else gate.token_families
    text = ReplyText(visible_bytes(vocab))
    for token in reply.tokens:
        text.add(token)
    pieces = text.finish()
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
        "events": [event_record(event, families, vocab.tokens) for event in reply.events],
    }
    # names only: pages are shown to others
    name = "none" if gate is None else Path(gate.path).name
    facts = [("model", Path(args.model).name), ("gate", name), ("seed", f"{seed}")]
    if gate is not None and args.lcg_mode == "observe":
        facts.append(("mode", "observe: the interventions are what the gate would have done, nothing was changed"))
    if args.system is not None:
        facts.append(("system", args.system))
    names = (DEFAULT_FAMILIES if gate is None else gate.families).names
    page = trace_page(record, names, facts=facts)
    write_whole(args.trace, page.encode())


def token_text(llm: GatedLlama, token: int) -> str:
    """The text of a token; bytes that are no complete character become escapes."""
    return llm.detokenize([token], special=True).decode("utf-8", "backslashreplace")
