"""What evaluates a base model: llama.cpp a GGUF file, transformers a Hugging Face checkpoint."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from ..errors import GateError
from ..files import PathLike
from .output_norms import OutputMatrix, read_output_matrix
from .teacher import Teacher

if TYPE_CHECKING:
    from .base_model import BaseModel
    from .teacher import States

DTYPES = ("auto", "float32", "bfloat16", "float16")


class Model(Protocol):
    """A frozen base model; see `teacher.Teacher`."""

    base: BaseModel
    n_embd: int
    n_ctx: int

    def tokenize(self, text: str, *, special: bool = False, bos: bool = False) -> list[int]:
        """Tokens of a text."""

    def states(self, texts: Sequence[Sequence[int]]) -> Iterator[States]:
        """Evaluates texts."""


@dataclass(frozen=True)
class Engine:
    """How llama.cpp evaluates the base model."""

    n_batch: int = 256  # tokens evaluated at once
    n_threads: int = 0  # CPU threads; 0 takes all
    n_gpu_layers: int = 0  # layers on the GPU or on RPC servers; -1 is all
    rpc: tuple[str, ...] = ()  # `host:port` of RPC servers


@dataclass(frozen=True)
class HfEngine:
    """How transformers evaluates the base model."""

    n_batch: int = 256  # tokens evaluated at once; a longer text is evaluated alone
    n_threads: int = 0  # CPU threads; 0 leaves it to PyTorch
    dtype: str = "auto"  # what it computes in; `auto` is what the weights are stored as
    device: str = "auto"  # a device of PyTorch; `auto` is a CUDA device if there is one, else the CPU

    def __post_init__(self) -> None:
        if self.dtype not in DTYPES:
            raise GateError(f"`dtype` is {self.dtype!r}, expected one of {', '.join(DTYPES)}")


@contextlib.contextmanager
def load_teacher(model: PathLike, n_ctx: int, engine: Engine | HfEngine) -> Iterator[tuple[Model, OutputMatrix]]:
    """A base model and its output matrix, for as long as they are needed.

    The model is a GGUF file or, with a `HfEngine`, a folder.
    """
    if isinstance(engine, Engine):
        with Teacher(model, n_ctx=n_ctx, **dataclasses.asdict(engine)) as teacher:
            yield teacher, read_output_matrix(model)
        return
    from .hf_teacher import HfTeacher  # noqa: PLC0415 (torch and transformers)

    with HfTeacher(model, n_ctx=n_ctx, n_batch=engine.n_batch, dtype=engine.dtype, device=engine.device) as hf_teacher:
        yield hf_teacher, hf_teacher.output_matrix()
