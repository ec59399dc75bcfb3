"""The frozen base model as the teacher, from a Hugging Face checkpoint: what `teacher` gives, computed by PyTorch."""

from __future__ import annotations

import contextlib
import os
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import transformers

from ..errors import GateError
from ..files import PathLike
from .base_model import BaseModel
from .hf_vocab import read_vocab, tokenizer_metadata
from .output_norms import OutputMatrix
from .teacher import States

_ROWS = 8192  # of the output matrix whose norms are computed at once
_MAX_REASON = 250  # characters of what transformers and PyTorch say when they fail


class HfTeacher:
    """A base model that is only read.

    Attributes:
        base: What a gate must know of it. `metadata` holds the keys of a GGUF file that say how texts are encoded.
        n_embd: Width of the hidden state.
        n_vocab: Number of rows of the output matrix; a tokenizer often has fewer tokens.
        n_ctx: Most tokens of a text: what was asked for, or what the model was trained for if that is less.
    """

    def __init__(
        self, folder: PathLike, *, n_ctx: int = 2048, n_batch: int = 256, dtype: str = "auto", device: str = "auto"
    ) -> None:
        """Load a model. Nothing is downloaded, and no code that comes with a checkpoint is run.

        Args:
            folder: A checkpoint as `save_pretrained` writes it: weights, config.json and the tokenizer.
            n_ctx: Most tokens of a text.
            n_batch: Tokens evaluated at once. A longer text is evaluated whole: 4 * n_vocab bytes of logits a token,
                half of it in 16 bits.
            dtype: What the model computes in: `float32`, `bfloat16`, `float16`, or `auto`, what its weights are stored
                as. Logits of 16 bits are coarse: two tokens can have the same one.
            device: Where PyTorch computes, e.g. `cuda` or `cpu`; `auto` is a CUDA device if there is one.

        Raises:
            GateError: Transformers cannot load the model, or it is not one that generates text.
            OSError: The folder cannot be read.
        """
        path = os.fspath(folder)
        _check_folder(Path(path))
        self._device = _device(device)
        self._n_batch = n_batch
        config, tokenizer, model = _load(path, dtype)
        self._tokenizer = tokenizer.backend_tokenizer
        self._tokenizer.no_truncation()
        self._tokenizer.no_padding()
        self._head = model.get_output_embeddings()
        weight = None if self._head is None else self._head.weight
        if weight is None or weight.ndim != 2 or not weight.is_floating_point():
            raise GateError(f"{path}: {type(model).__name__} has no output matrix of floats, expected a causal LM")
        self.n_vocab, self.n_embd = weight.shape
        self._config = config.get_text_config()
        self.n_ctx = min(n_ctx, getattr(self._config, "max_position_embeddings", None) or n_ctx)
        metadata = tokenizer_metadata(tokenizer)
        adds_bos = metadata["tokenizer.ggml.add_bos_token"] == "true"
        self._bos = [int(metadata["tokenizer.ggml.bos_token_id"])] if adds_bos else []
        self.base = BaseModel(
            path=path,
            name=Path(path).resolve().name,
            architecture=config.model_type,
            n_embd=self.n_embd,
            vocab=read_vocab(self._tokenizer, self.n_vocab, path),
            file_type=str(weight.dtype).rpartition(".")[2],
            metadata=metadata,
        )
        self._hidden: torch.Tensor | None = None  # what the output matrix was multiplied by last
        self._head.register_forward_pre_hook(self._keep_hidden)
        try:
            self._model = model.to(self._device)
        except RuntimeError as error:
            raise GateError(f"{path}: cannot be moved to {self._device}: {_reason(error)}") from error

    def _keep_hidden(self, module: torch.nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
        self._hidden = inputs[0]

    def __enter__(self) -> HfTeacher:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def close(self) -> None:
        """Free the model."""
        self._model = self._head = self._hidden = None

    def tokenize(self, text: str, *, special: bool = False, bos: bool = False) -> list[int]:
        """Tokens of a text, as `Teacher.tokenize` makes them."""
        self._tokenizer.encode_special_tokens = not special
        tokens: list[int] = self._tokenizer.encode(text, add_special_tokens=False).ids
        return [*self._bos, *tokens] if bos else tokens

    def output_matrix(self) -> OutputMatrix:
        """The norms of the output rows and the model's logit soft-capping."""
        with torch.inference_mode():
            parts = [torch.linalg.vector_norm(part.float(), dim=1) for part in self._head.weight.split(_ROWS)]
            norms: npt.NDArray[np.float32] = torch.cat(parts).cpu().numpy()
        bad = np.flatnonzero(~np.isfinite(norms))
        if len(bad):
            raise GateError(f"{self.base.path}: row {bad[0]} of the output matrix holds NaN or Inf")
        softcap = float(getattr(self._config, "final_logit_softcapping", None) or 0.0)
        return OutputMatrix(norms, softcap, "output embeddings", self.base.file_type)

    def states(self, texts: Sequence[Sequence[int]]) -> Iterator[States]:
        """Evaluate texts as `Teacher.states` does; each result has at most `n_batch` rows of one text."""
        for i, text in enumerate(texts):
            if not 1 <= len(text) <= self.n_ctx:
                raise GateError(f"text {i} has {len(text)} tokens, expected 1 to {self.n_ctx}")
            if not 0 <= min(text) <= max(text) < self.n_vocab:
                raise GateError(f"text {i} holds a token that is none of the {self.n_vocab} of {self.base.path}")
        for first, end in self._windows(texts):
            hidden, logits = self._evaluate(texts[first:end])
            for i in range(first, end):
                for begin in range(0, len(texts[i]), self._n_batch):
                    position = np.arange(begin, min(begin + self._n_batch, len(texts[i])), dtype=np.int32)
                    rows = slice(begin, begin + len(position))
                    yield States(
                        np.full(len(position), i, np.int32),
                        position,
                        _floats(hidden[i - first, rows]),
                        _floats(logits[i - first, rows]),
                    )

    def _windows(self, texts: Sequence[Sequence[int]]) -> Iterator[tuple[int, int]]:
        """Runs of texts that fit into one batch, all as long as the longest; a longer text is a run of its own."""
        first, longest = 0, 0
        for i, text in enumerate(texts):
            longest = max(longest, len(text))
            if i > first and (i + 1 - first) * longest > self._n_batch:
                yield first, i
                first, longest = i, len(text)
        if first < len(texts):
            yield first, len(texts)

    @torch.inference_mode()
    def _evaluate(self, texts: Sequence[Sequence[int]]) -> tuple[torch.Tensor, torch.Tensor]:
        """Hidden states (n_texts, length, n_embd) and logits (n_texts, length, n_vocab).

        Short texts are filled up at their ends, which nothing before sees: attention is causal.
        """
        length = max(map(len, texts))
        ids = torch.tensor([[*text, *[text[-1]] * (length - len(text))] for text in texts], device=self._device)
        sizes = torch.tensor([[len(text)] for text in texts], device=self._device)
        mask = (torch.arange(length, device=self._device) < sizes).long()
        try:
            logits: torch.Tensor = self._model(input_ids=ids, attention_mask=mask, use_cache=False).logits
        except RuntimeError as error:
            raise GateError(
                f"{self.base.path}: PyTorch failed to evaluate {ids.numel()} tokens: {_reason(error)}"
            ) from error
        hidden = self._hidden
        self._hidden = None
        assert hidden is not None  # the logits come from there
        return hidden, logits


# ---- loading ----


def _check_folder(folder: Path) -> None:
    if not folder.exists():
        raise GateError(
            f"{folder}: no such folder, expected one with a Hugging Face checkpoint; models are not downloaded here"
            " (`hf download NAME --local-dir FOLDER` does)"
        )
    if not folder.is_dir():
        raise GateError(
            f"{folder}: is a file, expected the folder of a Hugging Face checkpoint; a GGUF file goes to -m"
        )
    if "config.json" not in os.listdir(folder):
        raise GateError(f"{folder}: no config.json in this folder, expected a Hugging Face checkpoint")


def _device(name: str) -> torch.device:
    """A device that works."""
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
        torch.zeros(1, device=device).tolist()
    except (RuntimeError, AssertionError, NotImplementedError) as error:  # a PyTorch without CUDA asserts
        raise GateError(
            f"`device` is {name!r}, expected one that PyTorch has here, or auto: {_reason(error)}"
        ) from error
    return device


def _load(path: str, dtype: str) -> tuple[Any, Any, Any]:
    """Configuration, tokenizer and model."""
    here = {"local_files_only": True, "trust_remote_code": False}
    dtype_key = "dtype" if int(transformers.__version__.partition(".")[0]) >= 5 else "torch_dtype"
    with _quiet():
        config = _loaded(path, "config.json", transformers.AutoConfig, here)
        if config.is_encoder_decoder:
            raise GateError(f"{path}: {config.model_type} has an encoder, expected a model with a decoder only")
        for name in config.architectures or ():
            if name.endswith(("ForMaskedLM", "ForPreTraining")):  # transformers loads them as if they were causal
                raise GateError(f"{path}: is a {name}, expected a model that generates text")
        tokenizer = _loaded(path, "the tokenizer", transformers.AutoTokenizer, here)
        if not tokenizer.is_fast:
            raise GateError(
                f"{path}: its tokenizer is a {type(tokenizer).__name__}, expected a fast one (tokenizer.json); where"
                " tokenizer.model is there, `pip install sentencepiece protobuf` lets transformers convert it"
            )
        found_out = {"output_loading_info": True, "ignore_mismatched_sizes": True}  # what does not fit is refused below
        options = {**here, **found_out, dtype_key: dtype}
        model, found = _loaded(path, "the model", transformers.AutoModelForCausalLM, options)
    for key, shape, wanted in sorted(found["mismatched_keys"]):
        raise GateError(f"{path}: tensor `{key}` has shape {tuple(shape)}, expected {tuple(wanted)}")
    for key in sorted(found["missing_keys"]):
        raise GateError(f"{path}: no tensor `{key}`, expected all weights of a {type(model).__name__}")
    return config, tokenizer, model.eval().requires_grad_(False)


def _loaded(path: str, what: str, kind: Any, options: Mapping[str, Any]) -> Any:
    try:
        return kind.from_pretrained(path, **options)
    except MemoryError:
        raise
    except Exception as error:  # damaged files can raise anything in there; its OSErrors are none of the system
        needs_code = "trust_remote_code" in str(error)
        reason = "it needs code that comes with the checkpoint, which is never run" if needs_code else _reason(error)
        raise GateError(f"{path}: transformers cannot load {what}: {reason}") from error


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """No progress bars and advice on standard error while a model is loaded."""
    log: Any = transformers.utils.logging
    level, had_bar = log.get_verbosity(), log.is_progress_bar_enabled()
    log.set_verbosity_error()
    log.disable_progress_bar()
    try:
        yield
    finally:
        log.set_verbosity(level)
        if had_bar:
            log.enable_progress_bar()


def _reason(error: BaseException) -> str:
    """What an error says, in one line."""
    text = textwrap.shorten(str(error), _MAX_REASON, placeholder=" …")
    return text if isinstance(error, (OSError, RuntimeError, ValueError)) else f"{type(error).__name__} {text}".strip()


def _floats(values: torch.Tensor) -> npt.NDArray[np.float32]:
    floats: npt.NDArray[np.float32] = values.float().contiguous().cpu().numpy()
    return floats
