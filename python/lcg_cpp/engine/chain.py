"""llama_cpp's sampling chain, with the shortlist and the gate in it."""

from __future__ import annotations

import ctypes
from dataclasses import dataclass
from typing import Any

from llama_cpp import _internals as internals
from llama_cpp import llama_cpp as bindings

from .. import _core
from .connect import connect_core


def _sampler_name(sampler: Any) -> str:
    """llama.cpp's name of a sampler, without the marks of its state; "" where it has none (Python callbacks)."""
    if not sampler.contents.iface.contents.name:
        return ""  # llama_sampler_name would call the null pointer
    return str(bindings.llama_sampler_name(sampler).decode()).lstrip("+-")


_CHOOSERS = ("greedy", "dist", "mirostat", "mirostat-v2")


@dataclass(frozen=True)
class Chain:
    """A sampling chain with the two stages in it."""

    sampler: internals.LlamaSampler  # llama_cpp's wrapper, which owns the chain
    stages: _core.StagePair  # the state of the two stages
    address: int  # the chain, as the core takes it
    facts: _core.ChainFacts  # what the stages know of it


def _address(pointer: Any) -> int:
    return ctypes.cast(pointer, ctypes.c_void_p).value or 0


def insert_stages(sampler: internals.LlamaSampler, stages: _core.StagePair, *, temperature: float, top_k: int) -> Chain:
    """Take a finished chain of llama_cpp apart and put the shortlist and the gate in; `sampler` keeps owning all parts.

    The shortlist goes before the first sampler that truncates or chooses, the gate after top-p. The request's
    temperature and top-k are used only where the chain applies them.
    """
    interfaces = connect_core()
    chain = sampler.sampler
    parts = [bindings.llama_sampler_chain_remove(chain, 0) for _ in range(bindings.llama_sampler_chain_n(chain))]
    names = [_sampler_name(part) for part in parts]
    first = next(i for i, name in enumerate(names) if name.lstrip("?") in ("top-k", *_CHOOSERS))
    after_top_p = next((i + 1 for i, name in enumerate(names) if name.lstrip("?") == "top-p"), first)
    addresses = stages.make_samplers(
        ctypes.addressof(interfaces.shortlist),
        ctypes.addressof(interfaces.gate),
    )
    shortlist, gate = (ctypes.cast(a, bindings.llama_sampler_p_ctypes) for a in addresses)
    order = [*parts[:first], shortlist, *parts[first:after_top_p], gate, *parts[after_top_p:]]
    for part in order:
        bindings.llama_sampler_chain_add(chain, part)
    _renumber_custom_samplers(sampler, parts, order)
    end = names[-1].split("-")[0]
    facts = _core.ChainFacts(
        temperature=temperature if "temp" in names else 1.0,
        top_k=top_k if "top-k" in names else 0,
        end=end if end in ("greedy", "mirostat") else "draw",
        direct=all(name.startswith("?") for name in names[:first]),
        mirostat=_address(parts[-1]) if end == "mirostat" else 0,
    )
    return Chain(sampler, stages, _address(chain), facts)


def _renumber_custom_samplers(sampler: internals.LlamaSampler, parts: list[Any], order: list[Any]) -> None:
    """llama_cpp takes its Python callbacks out of the chain by index before it frees the chain."""
    positions = {_address(part): i for i, part in enumerate(order)}
    sampler.custom_samplers = [(positions[_address(parts[i])], custom) for i, custom in sampler.custom_samplers]
