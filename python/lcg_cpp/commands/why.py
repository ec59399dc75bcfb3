"""What the gate did in a reply, and why, in words."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import TYPE_CHECKING

from .errors import one_line
from .reply_printer import percent, removed_tokens, visible

if TYPE_CHECKING:
    from ..gate.gate import Gate
    from ..gate.results import GateEvent, GateStats
    from ..run.llama import GatedLlama
    from ..run.reply import Reply

_CONTEXT = 24  # characters of the text before
_MOST = 20  # interventions that are explained


def explain(llm: GatedLlama, reply: Reply, stats: GateStats) -> Iterator[str]:
    """Lines about a reply; `stats` are those of its steps alone."""
    gate = llm.gate
    if gate is None:
        yield "there is no gate" + ("; pins act on every token alike" if llm.gate_options.has_pin else "")
        return
    yield _summary(reply, stats)
    pieces = reply.pieces
    for event in reply.events[:_MOST]:
        before = one_line("".join(pieces[: event.position])[-_CONTEXT:])
        place = f"after “{before}”" if before else "at the start"
        did = "would have removed" if event.observed else "removed"
        sampled = f", sampled {visible(llm.vocab, event.chosen)}"
        yield f"token {event.position + 1}, {place}: {did} {removed_tokens(llm.vocab, event)}{sampled}"
        yield f"  {_reason(gate, event)}"
    if len(reply.events) > _MOST:
        yield f"… and {len(reply.events) - _MOST} more"


def _summary(reply: Reply, stats: GateStats) -> str:
    parts = [f"{count(len(reply.tokens), 'token')}, {count(len(reply.events), 'intervention')}"]
    parts.append(f"another script was in reach, so that the gate was asked, at {count(stats.gate_runs, 'token')}")
    if stats.not_confident:
        parts.append(f"the model found nothing that the gate expected plausible at {stats.not_confident} of them")
    return "; ".join(parts)


def _reason(gate: Gate, event: GateEvent) -> str:
    """Which families the gate expected, which it did not, and which the text before was in."""
    names = gate.families.names
    probability = {name: 1 / (1 + math.exp(-z)) for name, z in zip(names, event.z)}

    def listed(families: Iterator[str]) -> str:
        return ", ".join(f"{name} {percent(probability[name])}" for name in dict.fromkeys(families))

    banned = (names[gate.masked_as[token]] for token, _ in event.removed)
    before = f"the text before is {event.last}" if event.last is not None else "no text before"
    return f"expected: {listed(iter(event.predicted))}; not: {listed(banned)}; {before}"


def count(n: int, noun: str) -> str:
    """A number of things."""
    return f"{n} {noun}" + ("" if n == 1 else "s")
