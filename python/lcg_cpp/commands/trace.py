"""A reply of `lcg-cpp run` as a page."""

from __future__ import annotations

import argparse
from pathlib import Path

from ..evaluate.record import reply_record
from ..files import write_whole
from ..gate.families import vocab_families
from ..run.llama import GatedLlama
from ..run.reply import Reply


def write_trace(args: argparse.Namespace, llm: GatedLlama, reply: Reply, prompt: str, seed: int) -> None:
    """Write the page."""
    from ..pages.reply_page import trace_page  # noqa: PLC0415 (most runs write no page)

    gate = llm.gate
    families, token_family = (
        vocab_families(llm.vocab, "scripts") if gate is None else (gate.families, gate.token_families)
    )
    record = {
        "method": "none" if gate is None else "lcg",
        "seed": seed,
        "id": "",
        "prompt": prompt,
        **reply_record(reply, token_family, llm.vocab),
    }
    # names only: pages are shown to others
    name = "none" if gate is None else Path(gate.path).name
    facts = [("model", Path(args.model).name), ("gate", name), ("seed", f"{seed}")]
    if gate is not None and args.lcg_mode == "observe":
        facts.append(("mode", "observe: the interventions are what the gate would have done, nothing was changed"))
    if args.system is not None:
        facts.append(("system", args.system))
    page = trace_page(record, families.names, facts=facts)
    write_whole(args.trace, page.encode())
