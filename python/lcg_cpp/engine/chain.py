"""llama_cpp's sampling chain, with the shortlist and the gate in it."""

from __future__ import annotations

import ctypes
from dataclasses import dataclass

from llama_cpp import _internals as internals

from .. import _core
from .connect import connect_core


@dataclass(frozen=True)
class Chain:
    """A sampling chain with the two stages in it."""

    sampler: internals.LlamaSampler  # llama_cpp's wrapper, which owns the chain
    stages: _core.StagePair  # the state of the two stages
    address: int  # the chain, as the core takes it
    facts: _core.ChainFacts  # what the stages know of it


def insert_stages(sampler: internals.LlamaSampler, stages: _core.StagePair, *, temperature: float, top_k: int) -> Chain:
    """Put the shortlist and the gate into a finished chain of llama_cpp; `sampler` keeps owning all parts.

    The request's temperature and top-k are used only where the chain applies them.
    """
    connect_core()
    chain = ctypes.cast(sampler.sampler, ctypes.c_void_p).value or 0
    shortlist, gate, facts = stages.insert(chain, temperature, top_k)
    # llama_cpp takes its Python callbacks out of the chain by index before it frees the chain
    sampler.custom_samplers = [
        (index + (index >= shortlist) + (index + 1 >= gate), custom) for index, custom in sampler.custom_samplers
    ]
    return Chain(sampler, stages, chain, facts)
