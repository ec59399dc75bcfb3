"""`GatedLlama`: a `llama_cpp.Llama` with a gate in its sampling chain."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import inspect
import os
from collections.abc import Iterator, Sequence
from typing import Any, cast

import jinja2
from llama_cpp import Llama
from llama_cpp import _internals as internals
from llama_cpp import llama_cpp as bindings
from llama_cpp.llama_tokenizer import LlamaTokenizer

from .. import _core
from ..engine.base_model import BaseModel, Vocab
from ..engine.chain import Chain, insert_stages, require_grammar
from ..engine.connect import attach_tap, new_tap
from ..engine.model import describe_model, failure_reason, require_open, require_vocabulary
from ..engine.proof import prove_hidden_state
from ..errors import GateError, first_line
from ..files import PathLike, require_regular
from ..gate.find import AUTO, find_gate
from ..gate.gate import Gate
from ..gate.options import Device, GateOptions, ModelCheck
from ..gate.phase import PROMPT_END
from ..gate.pin import Pins
from ..gate.results import GateEvent, GateStats
from .batch import generate_batch
from .text import WholeTokenizer

__all__ = ["GatedLlama", "Llama"]


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
        gate_check: ModelCheck = "weights",
        **llama_arguments: Any,
    ) -> None:
        """Load a model and its gate.

        Args:
            model_path: The base model, a GGUF file.
            gate: A gate file trained for this model, or a loaded gate to share. `auto` finds the gate that was made
                for the weights of this model (see `find_gate`). None: plain `Llama`, but for the scripts that
                `gate_options` pins (`allow`, `deny`).
            gate_options: How the gate acts, see `GateOptions`.
            gate_device: Where a gate file's MLP runs: `cpu`, `gpu` or `auto`. A loaded gate stays where it is.
            gate_check: `weights` refuses a gate that was made for another model; `shape` takes one of a model with the
                same architecture, width and tokenizer, such as a fine-tune. See `Gate.check_model`.
            llama_arguments: Every keyword argument of `llama_cpp.Llama`.

        Raises:
            GateError: The gate file is not valid or was made for another model; llama.cpp cannot load the model, or its
                vocabulary or chat template cannot be used.
            OSError: The gate file cannot be read.
            ValueError: From `llama_cpp.Llama`, e.g. an argument it refuses.
        """
        self._stack = contextlib.ExitStack()  # Llama.close() wants it, also where loading the gate fails
        self._gate: Gate | None = None
        self._stages: _core.StagePair | None = None
        self.gate_options = gate_options if gate_options is not None else GateOptions()
        self._chain: Chain | None = None
        self._sampled: int | None = None  # the newest sampled token, until it is evaluated
        self._in_reply = False  # the newest evaluated tokens continue a reply
        self._low_level = False  # sample() is called without generate()
        self._at_start = False  # the next token is the first of a reply
        self._gate_check = gate_check
        self._tap = new_tap()
        if os.path.exists(model_path):  # Llama says itself where it does not exist
            require_regular(model_path)
        if isinstance(gate, (str, os.PathLike)):
            gate = Gate.load(find_gate(model_path) if gate == AUTO else gate, gate_device)
        try:
            with failure_reason(model_path):
                super().__init__(model_path, **llama_arguments)
            require_vocabulary(self._model)
        except GateError:
            self.close()
            raise
        except (jinja2.TemplateError, RecursionError) as error:
            self.close()
            raise GateError(
                f"{model_path}: `tokenizer.chat_template` cannot be compiled: {first_line(error)}; write the model with"
                " another template (gguf-new-metadata --chat-template-file)"
            ) from error
        self._tokenizer = WholeTokenizer(self)
        if type(self.tokenizer_) is LlamaTokenizer:  # not one that the caller chose
            self.tokenizer_ = self._tokenizer
        self._tap.capacity = self.n_batch
        try:
            self.set_gate(gate)
        except (GateError, OSError):
            self.close()
            raise

    # ---- the model ----

    @property
    def vocab(self) -> Vocab:
        """The tokens of the model."""
        return self._tokenizer.vocab

    @functools.cached_property
    def base_model(self) -> BaseModel:
        """The facts of the model."""
        return describe_model(self._model, self.n_embd(), self.vocab)

    def tokenizer(self) -> LlamaTokenizer:
        """The model's own tokenizer."""
        return self._tokenizer

    @property
    def context_params(self) -> Any:
        """The parameters of the context. `Llama` makes them, then the context; the tap goes in between."""
        return self._context_params

    @context_params.setter
    def context_params(self, params: Any) -> None:
        attach_tap(self._tap, params)
        self._context_params = params

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
        if self._stages is not None:
            thresholds = self._gate.thresholds if self._gate is not None else None
            self._stages.set_options(options.core_stage_options(thresholds, self._pins(options)))
        elif options.has_pin and hasattr(self, "_tokenizer"):  # the model is loaded
            self._stages = self.new_stages(None, options)

    @property
    def gate_stats(self) -> GateStats:
        """Counters over all replies since the gate was set or the counters were reset."""
        return GateStats(**self._stages.stats()) if self._stages is not None else GateStats()

    @property
    def n_interventions(self) -> int:
        """`gate_stats.interventions`, for those who ask after every token."""
        return self._stages.stats()["interventions"] if self._stages is not None else 0

    @property
    def gate_events(self) -> list[GateEvent]:
        """The latest interventions, oldest first, at most `gate_options.n_events`."""
        if self._gate is None or self._stages is None:
            return []
        return self._gate.read_events(self._stages)

    def reset_gate_stats(self) -> None:
        """Set the counters to zero and forget the events."""
        if self._stages is not None:
            self._stages.reset_stats()

    def set_gate(self, gate: Gate | None) -> None:
        """Replace the gate, or take it away with None; holds from the next reply on.

        Raises:
            GateError: The gate was made for another model. The model keeps the gate it had.
        """
        if gate is not None:
            self._check_gate(gate)
        self._gate = gate
        has_stages = gate is not None or self._gate_options.has_pin
        self._stages = self.new_stages(gate, self._gate_options) if has_stages else None

    def new_stages(self, gate: Gate | None, options: GateOptions) -> _core.StagePair:
        """The two stages of one more sampling chain; without a gate and a pin they only sample faster."""
        pins = self._pins(options)
        if gate is not None:
            return gate.new_stages(options, pins)
        return _core.StagePair.without_gate(self.vocab.n_vocab, options.core_stage_options(None, pins))

    def _pins(self, options: GateOptions) -> Pins | None:
        return self._all_pins if options.has_pin or options.phases else None

    @functools.cached_property
    def _all_pins(self) -> Pins:
        return Pins(self.vocab)

    def _check_gate(self, gate: Gate) -> None:
        """Compare what the gate was made for with the model that is loaded."""
        if not isinstance(gate, Gate):
            raise GateError(f"`gate` is {gate!r}, expected a Gate; Gate.load reads a file")
        require_open(self._model)
        if self.model_params.vocab_only:
            raise GateError("`vocab_only` is True, a gate needs the model's weights; pass `vocab_only=False`")
        gate.check_model(dataclasses.replace(self.base_model, n_embd=gate.n_embd), self._gate_check)  # not known yet
        pooling_type = self._ctx.pooling_type()
        if pooling_type != bindings.LLAMA_POOLING_TYPE_NONE:
            raise GateError(
                f"`pooling_type` is {pooling_type}, a gate needs {bindings.LLAMA_POOLING_TYPE_NONE} (none): it reads"
                " the hidden state of each token"
            )
        gate.check_model(dataclasses.replace(self.base_model, n_embd=self._hidden_width), self._gate_check)

    @functools.cached_property
    def _hidden_width(self) -> int:
        return prove_hidden_state(self._model, self._context_params)

    @functools.cached_property
    def several_hidden_width(self) -> int:
        """Width of the hidden states of several sequences; a model whose states cannot be read raises a GateError."""
        return prove_hidden_state(self._model, self._context_params, several=True)

    # ---- what Llama calls while it generates ----

    generate_batch = generate_batch

    def new_chain(self, stages: _core.StagePair, *args: Any, continued: bool = False, **kwargs: Any) -> Chain:
        """A sampling chain with stages in it, at the beginning of a reply; arguments are those of `Llama.sample`."""
        request = inspect.signature(Llama._init_sampler).bind(self, *args, **kwargs)
        request.apply_defaults()
        require_grammar(self._model, request.arguments["grammar"])
        sampler = super()._init_sampler(*args, **kwargs)
        chain = insert_stages(sampler, stages, temperature=request.arguments["temp"], top_k=request.arguments["top_k"])
        stages.begin_reply(chain.facts, continued)
        return chain

    @contextlib.contextmanager
    def seeded(self, seed: int | None) -> Iterator[None]:
        """Give the chains that are made now another seed; None leaves it."""
        own = self._seed
        try:
            self.set_seed(own if seed is None else seed)
            yield
        finally:
            self.set_seed(own)

    def _init_sampler(self, *args: Any, **kwargs: Any) -> internals.LlamaSampler:
        if self._stages is None:
            require_grammar(self._model, kwargs.get("grammar"))
            return super()._init_sampler(*args, **kwargs)
        continued = self._low_level and self._in_reply
        self._chain = self.new_chain(self._stages, *args, continued=continued, **kwargs)
        self._at_start = not continued
        if not self._low_level:
            self._sampled = None
        return self._chain.sampler

    def _stages_of_reply(self) -> _core.StagePair | None:
        """The stages that the next token is sampled through; `set_gate` does not change them within a reply."""
        if self._sampler is None:  # sample() without generate(): a chain for each token
            return self._stages
        chain = self._chain
        return chain.stages if chain is not None and chain.sampler is self._sampler else None

    def eval(self, tokens: Sequence[int]) -> None:
        """Evaluate tokens as `Llama.eval` does; the tap keeps the hidden states that the gate may ask for.

        Raises:
            GateError: The model is closed.
        """
        require_open(self._model)
        if len(tokens) > 0:
            self._in_reply = self._sampled is not None and tokens[0] == self._sampled
            self._sampled = None
        stages = self._stages_of_reply()
        self._tap.active = stages is not None and stages.has_gate and not self._gate_options.is_off
        try:
            super().eval(tokens)
        except BaseException:
            self._tap.forget()  # the rows of an evaluation that failed half-way fit no logits
            raise

    def sample(self, *args: Any, idx: int | None = None, **kwargs: Any) -> int:
        """Sample a token as `Llama.sample` does, through the gate.

        Args:
            args: As `Llama.sample`.
            idx: Position whose logits are sampled; None is the newest.
            kwargs: As `Llama.sample`.

        Raises:
            GateError: Nothing was evaluated, the model is closed, or the chain left no token to choose.
        """
        if self._stages_of_reply() is None:
            return super().sample(*args, **{**kwargs, "idx": idx})
        if self._sampler is None:
            self._make_one_token_chain(*args, **kwargs)
        chain = cast(Chain, self._chain)
        if self._at_start:
            self._at_start = False
            end = self.n_tokens if idx is None else idx + 1
            chain.stages.read_prompt(self.input_ids[max(0, end - PROMPT_END) : end].tolist())
        row = -1 if idx is None else idx - self.n_tokens
        token = chain.stages.sample(chain.address, self._ctx.ctx or 0, row, self._tap)
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
        state.update(gate=self._gate.path if self._gate is not None else None)
        state.update(gate_options=self._gate_options, gate_check=self._gate_check)
        return state
