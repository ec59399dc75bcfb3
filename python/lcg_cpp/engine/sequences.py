"""Many texts that grow side by side in one context of a loaded model."""

from __future__ import annotations

import contextlib
import ctypes
from collections.abc import Sequence
from typing import Any

from llama_cpp import _internals as internals
from llama_cpp import llama_cpp as bindings

from ..errors import GateError
from .connect import attach_tap, new_tap
from .model import require_decoder, require_open, require_tokens

# llama.cpp's CPU kernels round a product of rows by how many there are: fours otherwise than rows that are left over,
# and less than eight otherwise than more. Every step has as many as make a row's logits independent of the others.
_ROWS = 4
_MANY_ROWS = 8
MOST = 252  # sequences: llama.cpp has 256 at most, of which one is spare
_FILLER = 0  # the token of rows that nobody wants


class Sequences:
    """A context of its own with room for many sequences; the weights are those of the model.

    Each sequence has its own part of the memory. So one attends to nothing but its own tokens, in time too, and rows of
    logits come in the order in which they were asked for, also where the memory is recurrent.

    Attributes:
        n_sequences: Sequences at most.
        n_tokens: Tokens of each at most.
        spare: The number of one more, which no step touches.
    """

    def __init__(
        self,
        model: internals.LlamaModel,
        params: Any,
        *,
        n_sequences: int,
        n_tokens: int,
        lora: tuple[Any, float] | None = None,
    ) -> None:
        """Make the context.

        Args:
            model: The loaded model. Closing it closes the context too.
            params: The parameters of its own context; all are kept that do not say how many sequences there are.
            n_sequences: Sequences at most, 1 to `MOST`.
            n_tokens: Tokens of each at most.
            lora: An adapter and its scale.

        Raises:
            GateError: The model is closed or generates no text, or llama.cpp cannot make the context.
        """
        require_open(model)
        require_decoder(model)
        self.n_sequences, self.n_tokens = n_sequences, n_tokens
        self._model = model
        self._chunk = min(params.n_batch, params.n_ubatch)  # as the model's own context evaluates a prompt
        self.spare = n_rows = self._n_rows(n_sequences)
        params = type(params).from_buffer_copy(params)
        params.n_seq_max = n_parts = n_rows + (n_sequences > 1)
        params.n_ctx = n_parts * (-(-n_tokens // 256) * 256)  # llama.cpp rounds each part up to this
        params.n_batch = max(params.n_batch, n_rows)
        params.n_ubatch = max(params.n_ubatch, n_rows + 1)  # one more, or llama.cpp splits the step
        params.kv_unified = False
        params.embeddings = False  # it would make every token of a prompt an output
        self.tap = new_tap(params.n_batch)
        attach_tap(self.tap, params)
        self._lengths = [0] * n_parts
        self._stack = contextlib.ExitStack()
        try:
            self._context = internals.LlamaContext(model=model, params=params, verbose=False)
        except ValueError as error:
            raise GateError(
                f"{model.path_model}: llama.cpp cannot make a context of {n_sequences} sequences with {n_tokens} tokens"
                " each; fewer sequences or tokens take less memory"
            ) from error
        self._stack.callback(self._context.close)
        try:
            require_tokens(self._context)
        except GateError:
            self.close()
            raise
        if lora is not None:
            adapter, scale = lora
            bindings.llama_set_adapters_lora(
                self._context.ctx, (bindings.llama_adapter_lora_p_ctypes * 1)(adapter), 1, (ctypes.c_float * 1)(scale)
            )
        self._batch = internals.LlamaBatch(n_tokens=params.n_batch, embd=0, n_seq_max=1, verbose=False)
        self._stack.callback(self._batch.close)

    def __enter__(self) -> Sequences:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def close(self) -> None:
        """Free the context."""
        self._stack.close()

    @property
    def address(self) -> int:
        """The context, as the core takes it."""
        return self._context.ctx or 0

    def begin(self, sequence: int, tokens: Sequence[int]) -> None:
        """Evaluate the beginning of a sequence, in place of the one that was there; row -1 has its logits."""
        self._forget(sequence)
        for start in range(0, len(tokens), self._chunk):
            part = tokens[start : start + self._chunk]
            rows = [(token, start + i, sequence) for i, token in enumerate(part)]
            self._evaluate(rows, n_outputs=1)
        self._lengths[sequence] = len(tokens)

    def step(self, tokens: Sequence[int]) -> None:
        """Append a token to each of the first sequences; row i has the logits of sequence i."""
        n_rows = self._n_rows(len(tokens))
        for sequence in range(len(tokens), n_rows):
            self._forget(sequence)
        padded = [*tokens, *[_FILLER] * (n_rows - len(tokens))]
        self._evaluate([(token, self._lengths[i], i) for i, token in enumerate(padded)], n_outputs=n_rows)
        for sequence in range(n_rows):
            self._lengths[sequence] += 1

    def copy(self, source: int, target: int) -> None:
        """Put a copy of a sequence into the place of another."""
        self._forget(target)
        bindings.llama_memory_seq_cp(self._memory, source, target, -1, -1)
        self._lengths[target] = self._lengths[source]

    def _n_rows(self, n: int) -> int:
        """Rows of a step for `n` sequences."""
        least = least_rows(self.n_sequences)
        return n if least == 1 else max(least, -(-n // _ROWS) * _ROWS)

    @property
    def _memory(self) -> Any:
        require_open(self._model)
        return self._context.memory

    def _forget(self, sequence: int) -> None:
        bindings.llama_memory_seq_rm(self._memory, sequence, -1, -1)
        self._lengths[sequence] = 0

    def _evaluate(self, rows: Sequence[tuple[int, int, int]], *, n_outputs: int) -> None:
        """Evaluate (token, position, sequence); the last `n_outputs` of them get logits."""
        require_open(self._model)
        batch = self._batch.batch
        batch.n_tokens = n = len(rows)
        for row, (token, position, sequence) in enumerate(rows):
            batch.token[row] = token
            batch.pos[row] = position
            batch.n_seq_id[row] = 1
            batch.seq_id[row][0] = sequence
            batch.logits[row] = row >= n - n_outputs
        code = bindings.llama_decode(self._context.ctx, batch)
        if code != 0:
            self.tap.forget()
            raise GateError(
                f"{self._model.path_model}: llama.cpp failed to evaluate {n} tokens (`llama_decode` gave {code})"
            )


def least_rows(n_sequences: int) -> int:
    """Rows of a step of so many sequences at least: with the same number a sequence has the same logits, on a CPU."""
    return 1 if n_sequences == 1 else _ROWS if n_sequences <= _ROWS else _MANY_ROWS
