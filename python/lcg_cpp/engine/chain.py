"""llama_cpp's sampling chain, with the shortlist and the gate in it."""

from __future__ import annotations

import ctypes
from dataclasses import dataclass

from llama_cpp import _internals as internals
from llama_cpp import llama_cpp as bindings
from llama_cpp.llama_grammar import LlamaGrammar

from .. import _core
from ..errors import GateError
from .connect import connect_core

_INT_MAX = 2**31 - 1


@dataclass(frozen=True)
class Chain:
    """A sampling chain with the two stages in it."""

    sampler: internals.LlamaSampler  # llama_cpp's wrapper, which owns the chain
    stages: _core.StagePair  # the state of the two stages
    address: int  # the chain, as the core takes it
    facts: _core.ChainFacts  # what the stages know of it


def require_grammar(model: internals.LlamaModel, grammar: LlamaGrammar | None) -> None:
    """Refuse a grammar that llama.cpp cannot parse: llama_cpp would put nothing in its place, and the process crash."""
    if grammar is None:
        return
    texts = (text.encode("utf-8") for text in (grammar._grammar, grammar._root))
    sampler = bindings.llama_sampler_init_grammar(model.vocab, *texts)
    if not sampler:
        raise GateError(f"`grammar` cannot be parsed, expected GBNF: {grammar._grammar!r:.80}")
    bindings.llama_sampler_free(sampler)


def insert_stages(sampler: internals.LlamaSampler, stages: _core.StagePair, *, temperature: float, top_k: int) -> Chain:
    """Put the shortlist and the gate into a finished chain of llama_cpp; `sampler` keeps owning all parts.

    The request's temperature and top-k are used only where the chain applies them.
    """
    connect_core()
    chain = ctypes.cast(sampler.sampler, ctypes.c_void_p).value or 0
    shortlist, gate, facts = stages.insert(chain, temperature, min(top_k, _INT_MAX))
    # llama_cpp takes its Python callbacks out of the chain by index before it frees the chain
    sampler.custom_samplers = [
        (index + (index >= shortlist) + (index + 1 >= gate), custom) for index, custom in sampler.custom_samplers
    ]
    return Chain(sampler, stages, chain, facts)
