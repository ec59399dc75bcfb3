"""The engine's side of the gate: with teacher.py the only module that touches llama_cpp."""

from __future__ import annotations

import contextlib
import ctypes
import functools
import inspect
import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast

import llama_cpp
import numpy as np
from llama_cpp import Llama
from llama_cpp import _ctypes_extensions as ctypes_extensions
from llama_cpp import _internals as internals
from llama_cpp import llama_cpp as bindings

from . import _core
from .base_model import TYPE_BITS, BaseModel, Vocab
from .errors import GateError
from .gate import Device, Gate, GateEvent, GateOptions, GateStats, PathLike

__all__ = [
    "Chain",
    "GatedLlama",
    "Llama",
    "connect_core",
    "describe_model",
    "function_addresses",
    "insert_stages",
    "read_base_model",
]

# ---- connecting the core ----


@dataclass(frozen=True)
class _StageInterfaces:
    """The two `llama_sampler_i`. Every chain keeps pointers to them, also while the interpreter exits."""

    shortlist: Any
    gate: Any


def _libraries() -> list[ctypes.CDLL]:
    """The shared libraries of llama-cpp-python that are there, libllama first."""
    found = [bindings._lib]
    for name in ("ggml", "ggml-base", "ggml-cpu"):
        try:
            found.append(ctypes_extensions.load_shared_library(name, bindings._base_path))
        except FileNotFoundError:  # linked into another library in this build
            continue
    return found


def function_addresses(names: Sequence[str]) -> dict[str, int]:
    """Addresses of functions in the libraries of llama-cpp-python; those that are not there are left out."""
    addresses = {}
    libraries = _libraries()
    for name in names:
        for library in libraries:
            function = getattr(library, name, None)
            if function is not None:
                addresses[name] = ctypes.cast(function, ctypes.c_void_p).value or 0
                break
    return addresses


def _check_layouts(wanted: dict[str, dict[str, int]]) -> None:
    """Compare the core's structures with those that llama_cpp declares for the library it loaded."""
    for struct_name, fields in wanted.items():
        struct = getattr(bindings, struct_name)
        for field, value in fields.items():
            found = ctypes.sizeof(struct) if field == "size" else getattr(struct, field.rstrip("_")).offset
            if found != value:
                what = "size" if field == "size" else f"offset of `{field.rstrip('_')}`"
                raise GateError(
                    f"llama-cpp-python {llama_cpp.__version__}: `{struct_name}`: {what} is {found}, lcg-cpp was"
                    f" written for {value}; install a version of lcg-cpp made for this llama-cpp-python"
                )


def _interface(callbacks: dict[str, int]) -> Any:
    interface = bindings.llama_sampler_i()
    for field, address in callbacks.items():
        function_type: Any = getattr(bindings, f"llama_sampler_i_{field}")
        setattr(interface, field, function_type(address))
    # Never freed: chains are freed last, some as late as the interpreter's exit, and call through it then.
    ctypes.pythonapi.Py_IncRef(ctypes.py_object(interface))
    return interface


@functools.cache
def connect_core() -> _StageInterfaces:
    """Give the core the functions of the llama.cpp that llama_cpp has loaded; once per process.

    Raises:
        GateError: The installed llama-cpp-python lacks a function or lays out a structure differently.
    """
    _check_layouts(_core.host_layouts())
    _core.set_host_api(function_addresses(_core.host_functions()))
    return _StageInterfaces(_interface(_core.shortlist_callbacks()), _interface(_core.gate_callbacks()))


# ---- base-model facts ----


def _read_vocab(model: internals.LlamaModel) -> Vocab:
    connect_core()
    data, offsets, attributes = _core.read_vocab(model.vocab)
    bounds = offsets.tolist()
    tokens = tuple(data[begin:end] for begin, end in zip(bounds, bounds[1:]))
    return Vocab(tokens, attributes & np.uint32(TYPE_BITS))


def describe_model(model: internals.LlamaModel, n_embd: int) -> BaseModel:
    """The facts of a loaded model; `n_embd` is the width of its last hidden state."""
    metadata = model.metadata()
    file_type = metadata.get("general.file_type", "")
    if file_type.isdigit():
        file_type = bindings.llama_ftype_name(int(file_type)).decode()
    return BaseModel(
        path=model.path_model,
        name=metadata.get("general.name") or os.path.splitext(os.path.basename(model.path_model))[0],
        architecture=metadata.get("general.architecture", ""),
        n_embd=n_embd,
        vocab=_read_vocab(model),
        file_type=file_type,
        metadata=metadata,
    )


def read_base_model(path: PathLike) -> BaseModel:
    """Read what a gate must know of a base model, without loading its weights.

    Args:
        path: A GGUF model; one that holds only a vocabulary will do.

    Returns:
        The facts. `n_embd` is 0 where the file does not say.

    Raises:
        GateError: llama.cpp cannot load the file.
        OSError: The file cannot be read.
    """
    name = os.fspath(path)
    with open(name, "rb"):  # a missing or unreadable file is an OSError, not llama.cpp's "failed to load"
        pass
    bindings.llama_backend_init()
    params = bindings.llama_model_default_params()
    params.vocab_only = True
    try:
        model = internals.LlamaModel(path_model=name, params=params, verbose=False)
    except ValueError as error:
        raise GateError(f"{name}: llama.cpp cannot load it, is it a GGUF model?") from error
    try:
        metadata = model.metadata()
        n_embd = metadata.get(f"{metadata.get('general.architecture', '')}.embedding_length", "0")
        return describe_model(model, int(n_embd))
    finally:
        model.close()


# ---- the sampling chain ----


def _sampler_name(sampler: Any) -> str:
    """llama.cpp's name of a sampler, without the marks of its state; "" where it has none (Python callbacks)."""
    if not sampler.contents.iface.contents.name:
        return ""  # llama_sampler_name would call the null pointer
    return str(bindings.llama_sampler_name(sampler).decode()).lstrip("+-")


_CHOOSERS = ("greedy", "dist", "mirostat", "mirostat-v2")


@dataclass(frozen=True)
class Chain:
    """A sampling chain with the two stages in it.

    Attributes:
        sampler: llama_cpp's wrapper, which owns the chain.
        stage: The state of the two stages.
        address: The chain, as the core takes it.
        facts: What the stages know of it.
    """

    sampler: internals.LlamaSampler
    stage: _core.Stage
    address: int
    facts: _core.ChainFacts


def _address(pointer: Any) -> int:
    return ctypes.cast(pointer, ctypes.c_void_p).value or 0


def insert_stages(sampler: internals.LlamaSampler, stage: _core.Stage, *, temperature: float, top_k: int) -> Chain:
    """Take a finished chain of llama_cpp apart and put the shortlist and the gate in.

    The shortlist goes before the first sampler that truncates or chooses, the gate after top-p.

    Args:
        sampler: What `Llama._init_sampler` built; it keeps owning all parts.
        stage: The state the two stages share.
        temperature: The request's temperature; used only where the chain applies it.
        top_k: The request's top-k; used only where the chain applies it.
    """
    interfaces = connect_core()
    chain = sampler.sampler
    parts = [bindings.llama_sampler_chain_remove(chain, 0) for _ in range(bindings.llama_sampler_chain_n(chain))]
    names = [_sampler_name(part) for part in parts]
    first = next(i for i, name in enumerate(names) if name.lstrip("?") in ("top-k", *_CHOOSERS))
    after_top_p = next((i + 1 for i, name in enumerate(names) if name.lstrip("?") == "top-p"), first)
    addresses = stage.make_samplers(
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
    return Chain(sampler, stage, _address(chain), facts)


def _renumber_custom_samplers(sampler: internals.LlamaSampler, parts: list[Any], order: list[Any]) -> None:
    """llama_cpp takes its Python callbacks out of the chain by index before it frees the chain."""
    positions = {_address(part): i for i, part in enumerate(order)}
    sampler.custom_samplers = [(positions[_address(parts[i])], custom) for i, custom in sampler.custom_samplers]


# ---- GatedLlama ----


class GatedLlama(Llama):
    """A `llama_cpp.Llama` whose replies stay in the right script.

    Every constructor argument and method of `Llama` works as before; the gate stands in the sampling chain of every
    reply.

    Example:
        >>> llm = GatedLlama("Qwen3-4B-Q4_K_M.gguf", gate="lcg-Qwen3-4B-F16.gguf", n_ctx=8192)
        >>> llm.create_chat_completion(messages=[{"role": "user", "content": "…"}], stream=True)
        >>> llm.gate_stats
    """

    def __init__(
        self,
        model_path: str,
        *,
        gate: PathLike | Gate | None = None,
        gate_options: GateOptions | None = None,
        gate_device: Device = "cpu",
        **llama_arguments: Any,
    ) -> None:
        """Load a model and its gate.

        Args:
            model_path: The base model, a GGUF file.
            gate: A gate file trained for this model, or a loaded gate to share. None: plain `Llama`.
            gate_options: How the gate acts, see `GateOptions`.
            gate_device: Where a gate file's MLP runs: `cpu`, `gpu` or `auto`. A loaded gate stays where it is.
            llama_arguments: Every keyword argument of `llama_cpp.Llama`.

        Raises:
            GateError: The gate file is not valid or was made for another model.
            OSError: The gate file cannot be read.
            ValueError: From `llama_cpp.Llama`, e.g. a model that cannot be loaded.
        """
        self._stack = contextlib.ExitStack()  # Llama.close() wants it, also where loading the gate fails
        self._gate: Gate | None = None
        self._stage: _core.Stage | None = None
        self.gate_options = gate_options if gate_options is not None else GateOptions()
        self._chain: Chain | None = None
        self._sampled: int | None = None  # the newest sampled token, until it is evaluated
        self._in_reply = False  # the newest evaluated tokens continue a reply
        self._low_level = False  # sample() is called without generate()
        self._hidden_end = -1  # n_tokens after the newest evaluation that kept hidden states
        self._n_hidden_rows = 0
        loaded = Gate.load(gate, gate_device) if isinstance(gate, (str, os.PathLike)) else gate
        super().__init__(model_path, **llama_arguments)
        try:
            self.set_gate(loaded)
        except GateError:
            self.close()
            raise

    # ---- the gate ----

    @property
    def gate(self) -> Gate | None:
        """The gate, None if there is none."""
        return self._gate

    @property
    def gate_options(self) -> GateOptions:
        """How the gate acts; assign to change it between replies."""
        return self._gate_options

    @gate_options.setter
    def gate_options(self, options: GateOptions) -> None:
        if not isinstance(options, GateOptions):
            raise GateError(f"`gate_options` is {options!r}, expected GateOptions")
        self._gate_options = options
        if self._gate is not None and self._stage is not None:
            self._stage.set_options(self._gate.core_stage_options(options))

    @property
    def gate_stats(self) -> GateStats:
        """Counters over all replies since the gate was set or the counters were reset."""
        return GateStats(**self._stage.stats()) if self._stage is not None else GateStats()

    @property
    def gate_events(self) -> list[GateEvent]:
        """The latest interventions, oldest first, at most `gate_options.n_events`."""
        if self._gate is None or self._stage is None:
            return []
        gate = self._gate
        return [
            GateEvent(
                reply=event["reply"],
                position=event["position"],
                last=None if event["last"] is None else gate.families[event["last"]],
                predicted=gate.names(event["predicted"]),
                allowed=gate.names(event["allowed"]),
                banned=gate.names(event["banned"]),
                z=tuple(event["z"]),
                removed=tuple(event["removed"]),
                left=tuple(event["left"]),
                chosen=event["chosen"],
            )
            for event in self._stage.events()
        ]

    def reset_gate_stats(self) -> None:
        """Set the counters to zero and forget the events."""
        if self._stage is not None:
            self._stage.reset_stats()

    def set_gate(self, gate: Gate | None) -> None:
        """Replace the gate, or take it away with None; holds from the next reply on.

        Raises:
            GateError: The gate was made for another model. The model keeps the gate it had.
        """
        if gate is not None:
            self._check_gate(gate)
        self._stage = gate.new_stage(self._gate_options) if gate is not None else None
        self._gate = gate

    def _check_gate(self, gate: Gate) -> None:
        """Compare what the gate was made for with the model that is loaded."""
        if not isinstance(gate, Gate):
            raise GateError(f"`gate` is {gate!r}, expected a Gate; Gate.load reads a file")
        if self._model.model is None:
            raise GateError(f"{self.model_path}: the model is closed")
        n_embd = bindings.llama_model_n_embd_out(self._model.model)
        pairs: list[tuple[str, object, object]] = [
            ("architecture", gate.architecture, self.metadata.get("general.architecture", "")),
            ("n_embd", gate.n_embd, n_embd),
            ("n_vocab", gate.n_vocab, self._n_vocab),
        ]
        if all(wanted == found for _, wanted, found in pairs):
            pairs.append(("tokenizer hash", gate.tokenizer_hash, self._tokenizer_hash))
        gate.check_model(self.model_path, pairs)
        pooling_type = self._ctx.pooling_type()
        if pooling_type != bindings.LLAMA_POOLING_TYPE_NONE:
            raise GateError(
                f"`pooling_type` is {pooling_type}, a gate needs {bindings.LLAMA_POOLING_TYPE_NONE} (none): it reads"
                " the hidden state of each token"
            )

    @functools.cached_property
    def _tokenizer_hash(self) -> str:
        """Reading a large vocabulary takes a tenth of a second; gates may be changed for every reply."""
        return _read_vocab(self._model).tokenizer_hash()

    # ---- what Llama calls while it generates ----

    def _init_sampler(self, *args: Any, **kwargs: Any) -> internals.LlamaSampler:
        sampler = super()._init_sampler(*args, **kwargs)
        if self._stage is None:
            return sampler
        request = inspect.signature(Llama._init_sampler).bind(self, *args, **kwargs)
        request.apply_defaults()
        self._chain = insert_stages(
            sampler, self._stage, temperature=request.arguments["temp"], top_k=request.arguments["top_k"]
        )
        continued = self._low_level and self._in_reply
        self._stage.begin_reply(self._chain.facts, continued)
        if not self._low_level:
            self._sampled = None
        return sampler

    def _stage_of_reply(self) -> _core.Stage | None:
        """The stage that the next token is sampled through; `set_gate` does not change it within a reply."""
        if self._sampler is None:  # sample() without generate(): a chain for each token
            return self._stage
        chain = self._chain
        return chain.stage if chain is not None and chain.sampler is self._sampler else None

    def eval(self, tokens: Sequence[int]) -> None:
        """Evaluate tokens as `Llama.eval` does; keep the hidden states that the gate may ask for."""
        stage = self._stage_of_reply()
        if stage is None or not tokens:
            super().eval(tokens)
            return
        self._in_reply = self._sampled is not None and tokens[0] == self._sampled
        self._sampled = None
        if self._in_reply and self._logits_all:
            n_hidden = len(tokens)  # any row may be sampled: of a draft, or of tokens sent to generate()
        elif self._gate_options.mode == "off" or not (self._in_reply or stage.wants_hidden_at_start):
            n_hidden = 0
        else:
            n_hidden = 1
        if len(tokens) > n_hidden:
            super().eval(tokens[: len(tokens) - n_hidden])
        if n_hidden > 0:
            self._eval_with_hidden(tokens[len(tokens) - n_hidden :])

    def _eval_with_hidden(self, tokens: Sequence[int]) -> None:
        """Evaluate tokens with hidden states beside the logits: llama.cpp then makes an output of every token."""
        bindings.llama_set_embeddings(self._ctx.ctx, True)
        try:
            super().eval(tokens)
        finally:
            bindings.llama_set_embeddings(self._ctx.ctx, self.context_params.embeddings)
        self._hidden_end = self.n_tokens
        self._n_hidden_rows = len(tokens)

    def sample(self, *args: Any, idx: int | None = None, **kwargs: Any) -> int:
        """Sample a token as `Llama.sample` does, through the gate.

        Args:
            args: As `Llama.sample`.
            idx: Position whose logits are sampled; None is the newest.
            kwargs: As `Llama.sample`.

        Raises:
            GateError: Nothing was evaluated, the model is closed, or the chain left no token to choose.
        """
        if self._stage_of_reply() is None:
            return super().sample(*args, **{**kwargs, "idx": idx})
        if self._sampler is None:
            self._make_one_token_chain(*args, **kwargs)
        chain = cast(Chain, self._chain)
        row = -1 if idx is None else idx - self.n_tokens
        with_hidden = self._hidden_end == self.n_tokens and -row <= self._n_hidden_rows
        token = chain.stage.sample(chain.address, self._ctx.ctx or 0, row, with_hidden)
        self._sampled = token
        return token

    def _make_one_token_chain(self, *args: Any, **kwargs: Any) -> None:
        """A chain for a single token, which continues the reply if the token before was sampled and evaluated."""
        self._low_level = True
        try:
            self._init_sampler(*args, **kwargs)
        finally:
            self._low_level = False

    def ends_reply(self, token: int) -> bool:
        """Whether `create_completion` ends a reply where this token is generated, and leaves it out."""
        return bool(bindings.llama_vocab_is_eog(self._model.vocab, token))

    def reset(self) -> None:
        """Forget all evaluated tokens, as `Llama.reset` does."""
        super().reset()
        self._sampled = None
        self._in_reply = False

    def __getstate__(self) -> dict[str, Any]:
        state = dict(super().__getstate__())
        state.update(gate=self._gate.path if self._gate is not None else None, gate_options=self._gate_options)
        return state
