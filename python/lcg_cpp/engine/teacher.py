"""The frozen base model as the teacher: logits and hidden states of all tokens of given texts, from llama.cpp."""

from __future__ import annotations

import contextlib
import ctypes
import os
import re
import socket
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from llama_cpp import _internals as internals
from llama_cpp import llama_cpp as bindings

from ..errors import GateError
from ..files import PathLike, require_regular
from .base_model import BaseModel
from .connect import attach_tap, function_addresses, new_tap
from .model import describe_model, failure_reason, quiet_log, require_decoder, require_tokens, require_vocabulary
from .proof import prove_hidden_state

_MAX_SEQUENCES = 32  # texts in one batch
_CONNECT_SECONDS = 5.0
_MAX_PORT = 65535


@dataclass(frozen=True, eq=False)
class States:
    """What one evaluation gave: a row for each token, in the order of the texts. Views, valid until the next one."""

    text: npt.NDArray[np.int32]  # (n,), which of the given texts a row belongs to
    position: npt.NDArray[np.int32]  # (n,), which of its tokens; the row predicts the token after it
    hidden: npt.NDArray[np.float32]  # (n, n_embd), the last hidden state after the final norm
    logits: npt.NDArray[np.float32]  # (n, n_vocab)


class Teacher:
    """A base model that is only read.

    Attributes:
        base: What a gate must know of it.
        n_embd: Width of the hidden state.
        n_vocab: Number of tokens.
        n_ctx: Most tokens of a text: what was asked for, or what the model was trained for if that is less.
    """

    def __init__(
        self,
        model_path: PathLike,
        *,
        n_ctx: int = 2048,
        n_batch: int = 256,
        n_threads: int = 0,
        n_gpu_layers: int = 0,
        rpc: Sequence[str] = (),
    ) -> None:
        """Load a model.

        Args:
            model_path: A GGUF file.
            n_ctx: Most tokens of a text.
            n_batch: Tokens evaluated at once; their logits take 4 * n_batch * n_vocab bytes.
            n_threads: CPU threads; 0 takes all.
            n_gpu_layers: Layers on the GPU or on RPC servers; -1 is all.
            rpc: `host:port` of llama.cpp's RPC servers that share the model's weights.

        Raises:
            GateError: llama.cpp cannot load the model, it has no decoder alone, or an RPC server cannot be used.
            OSError: The file cannot be read.
        """
        name = os.fspath(model_path)
        require_regular(name)
        self._n_batch = n_batch
        self._stack = contextlib.ExitStack()
        quiet_log()
        bindings.llama_backend_init()
        add_rpc_servers(rpc)
        try:
            self._model = self._load_model(name, n_gpu_layers)
            self._stack.callback(self._model.close)
            require_vocabulary(self._model)
            self._n_sequences = self._most_sequences()
            self._tap = new_tap(n_batch)
            self._tap.active = True
            self.n_ctx = min(n_ctx, self._model.n_ctx_train())
            params = self._context_params(n_threads or os.cpu_count() or 1)
            self._context = self._make_context(name, params)
            self.n_embd = prove_hidden_state(self._model, params)
        except BaseException:
            self._stack.close()
            raise
        self._batch = internals.LlamaBatch(n_tokens=n_batch, embd=0, n_seq_max=1, verbose=False)
        self._stack.callback(self._batch.close)
        self.n_vocab = self._model.n_vocab()
        self.base: BaseModel = describe_model(self._model, self.n_embd)

    def _load_model(self, name: str, n_gpu_layers: int) -> internals.LlamaModel:
        params = bindings.llama_model_default_params()
        params.n_gpu_layers = n_gpu_layers
        with failure_reason(name):
            model = internals.LlamaModel(path_model=name, params=params, verbose=False)
        try:
            require_decoder(model)
        except GateError:
            model.close()
            raise
        return model

    def _most_sequences(self) -> int:
        """Texts in one batch: of models with a recurrent state one, since llama.cpp reorders the rows of several."""
        model = self._model.model
        if bindings.llama_model_is_recurrent(model) or bindings.llama_model_is_hybrid(model):
            return 1
        return min(_MAX_SEQUENCES, self._n_batch)  # llama.cpp ends the process where there are more

    def _context_params(self, n_threads: int) -> Any:
        params = bindings.llama_context_default_params()
        params.n_ctx = max(self.n_ctx, self._n_batch)
        params.n_batch = params.n_ubatch = self._n_batch
        params.n_seq_max = self._n_sequences
        params.kv_unified = True  # all texts of a batch share n_ctx, instead of a part of it for each
        params.n_threads = params.n_threads_batch = n_threads
        params.flash_attn_type = bindings.LLAMA_FLASH_ATTN_TYPE_DISABLED  # as Llama() does
        attach_tap(self._tap, params)
        return params

    def _make_context(self, name: str, params: Any) -> internals.LlamaContext:
        try:
            context = internals.LlamaContext(model=self._model, params=params, verbose=False)
        except ValueError as error:
            raise GateError(
                f"{name}: llama.cpp cannot make a context of {params.n_ctx} tokens; a smaller context takes less memory"
            ) from error
        try:
            require_tokens(context)
        except GateError:
            context.close()
            raise
        return context

    def __enter__(self) -> Teacher:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def close(self) -> None:
        """Free the model."""
        self._stack.close()

    def tokenize(self, text: str, *, special: bool = False, bos: bool = False) -> list[int]:
        """Tokens of a text.

        `special` reads the names of control tokens as these tokens, `bos` puts the beginning-of-text token in front if
        the model wants one.
        """
        tokens: list[int] = self._model.tokenize(text.encode(), add_bos=bos, special=special)
        return tokens

    def states(self, texts: Sequence[Sequence[int]]) -> Iterator[States]:
        """Evaluate texts, each on its own, several short ones at once.

        Args:
            texts: Token ids of each text, 1 to `n_ctx` of them.

        Yields:
            One evaluation's rows; every token of every text is in exactly one, in order.

        Raises:
            GateError: A text is empty or too long, or llama.cpp fails.
        """
        for i, text in enumerate(texts):
            if not 1 <= len(text) <= self.n_ctx:
                raise GateError(f"text {i} has {len(text)} tokens, expected 1 to {self.n_ctx}")
        for first, end in self._windows(texts):
            bindings.llama_memory_clear(self._context.memory, True)
            rows = [(i, p) for i in range(first, end) for p in range(len(texts[i]))]
            for begin in range(0, len(rows), self._n_batch):
                yield self._evaluate(texts, rows[begin : begin + self._n_batch], first)

    def _windows(self, texts: Sequence[Sequence[int]]) -> Iterator[tuple[int, int]]:
        """Runs of texts that fit into one batch; a longer text is a run of its own."""
        first, n_tokens = 0, 0
        for i, text in enumerate(texts):
            if i > first and (n_tokens + len(text) > self._n_batch or i - first == self._n_sequences):
                yield first, i
                first, n_tokens = i, 0
            n_tokens += len(text)
        if first < len(texts):
            yield first, len(texts)

    def _evaluate(self, texts: Sequence[Sequence[int]], rows: list[tuple[int, int]], first: int) -> States:
        batch = self._batch.batch
        batch.n_tokens = n = len(rows)
        for row, (i, position) in enumerate(rows):
            batch.token[row] = texts[i][position]
            batch.pos[row] = position
            batch.n_seq_id[row] = 1
            batch.seq_id[row][0] = i - first
            batch.logits[row] = True
        code = bindings.llama_decode(self._context.ctx, batch)
        if code != 0:
            raise GateError(f"{self.base.path}: llama.cpp failed to evaluate {n} tokens (`llama_decode` gave {code})")
        text, position = np.array(rows, np.int32).T
        return States(text, position, self._tap.newest(n), _logits(self._context, n, self.n_vocab))


def _logits(context: internals.LlamaContext, n_rows: int, n_vocab: int) -> npt.NDArray[np.float32]:
    return np.ctypeslib.as_array(context.get_logits(), (n_rows, n_vocab))


def add_rpc_servers(servers: Sequence[str]) -> None:
    """Make the devices of llama.cpp's RPC servers (`host:port`) known, as its own `--rpc` does."""
    if not servers:
        return
    for server in servers:
        _check_server(server)
    names = ("ggml_backend_reg_by_name", "ggml_backend_reg_get_proc_address", "ggml_backend_register")
    addresses = function_addresses(names)
    pointer = ctypes.c_void_p
    find = ctypes.CFUNCTYPE(pointer, ctypes.c_char_p)(addresses[names[0]])
    function_of = ctypes.CFUNCTYPE(pointer, pointer, ctypes.c_char_p)(addresses[names[1]])
    register = ctypes.CFUNCTYPE(None, pointer)(addresses[names[2]])
    backend = find(b"RPC")
    if not backend:
        raise GateError(
            "llama-cpp-python was built without the RPC backend; build it with it:"
            ' CMAKE_ARGS="-DGGML_RPC=on" pip install --force-reinstall --no-cache-dir llama-cpp-python'
        )
    add = ctypes.CFUNCTYPE(pointer, ctypes.c_char_p)(function_of(backend, b"ggml_backend_rpc_add_server"))
    for server in servers:
        register(add(server.encode()))


def _check_server(server: str) -> None:
    """Connect once: where llama.cpp cannot, it ends the process."""
    host, _, port = server.rpartition(":")
    if not host or not re.fullmatch("[0-9]{1,5}", port) or int(port) > _MAX_PORT:
        raise GateError(f"RPC server {server!r}: expected host:port")
    try:
        socket.create_connection((host, int(port)), timeout=_CONNECT_SECONDS).close()
    except (OSError, UnicodeError) as error:  # a host that cannot be a name
        reason = (getattr(error, "strerror", None) or str(error)).lower()
        raise GateError(f"RPC server {server}: {reason}, expected llama.cpp's rpc-server there") from error
