"""What the package needs to know of a base model: plain data, read elsewhere."""

from __future__ import annotations

import functools
import hashlib
import struct
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

# The type bits of llama.cpp's `llama_token_attr`. A token can carry several (some control tokens are also unused).
UNKNOWN = 1
UNUSED = 2
NORMAL = 4
CONTROL = 8
USER_DEFINED = 16
BYTE = 32
TYPE_BITS = UNKNOWN | UNUSED | NORMAL | CONTROL | USER_DEFINED | BYTE

_HASH_VERSION = "v2:"
_SPACE = "▁".encode()  # how SentencePiece spells a space


@dataclass(frozen=True, eq=False)
class Vocab:
    """The tokens of a model, as the engine itself writes them out.

    Attributes:
        tokens: The bytes of each token (`llama_token_to_piece` with special=True), in id order. The engine writes
            unused tokens as nothing at all.
        types: uint32 (n_vocab,), the type bits of each token's `llama_token_attr`.
        texts: Reads how the model's own file spells the tokens; None: as `tokens`.
    """

    tokens: tuple[bytes, ...]
    types: npt.NDArray[np.uint32]
    texts: Callable[[], Sequence[bytes]] | None = None

    def __post_init__(self) -> None:
        if self.types.dtype != np.uint32:
            raise ValueError(f"`types` has dtype {self.types.dtype}, expected uint32")
        if self.types.shape != (len(self.tokens),):
            raise ValueError(f"`types` has shape {self.types.shape}, expected {(len(self.tokens),)}")
        if np.any(self.types & ~np.uint32(TYPE_BITS)):
            raise ValueError(f"`types` holds {int(self.types.max())}, expected type bits only, at most {TYPE_BITS}")

    @property
    def n_vocab(self) -> int:
        """The number of tokens."""
        return len(self.tokens)

    @functools.cached_property
    def visible(self) -> tuple[bytes, ...]:
        """What each token adds to a text, as the engine writes texts: nothing where it is a control token."""
        hidden = (self.types & np.uint32(CONTROL | UNKNOWN) != 0).tolist()
        return tuple(b"" if is_hidden else token for token, is_hidden in zip(self.tokens, hidden))

    def text(self, token: int) -> str:
        """A token on its own, control tokens too; bytes of no complete character become escapes."""
        return self.tokens[token].decode("utf-8", "backslashreplace")

    @functools.cached_property
    def tokenizer_hash(self) -> str:
        """Identifies the tokenizer: two models with the same hash can share a gate's token table.

        It is the same for every conversion of a model and every version of the engine. These give the tokens different
        types, spell spaces as "▁" or " ", and call the rows of the output matrix that no token has `[PAD<id>]` or
        nothing; all of that is left out.

        Returns:
            "v2:" and the SHA-256, in hexadecimal, of every token's text in id order: number of its bytes (u32, little
            endian), the bytes.
        """
        texts = self.tokens if self.texts is None else self.texts()
        return _HASH_VERSION + _sha256(_common_text(i, text) for i, text in enumerate(texts))

    def has_hash(self, tokenizer_hash: str) -> bool:
        """Whether a gate's hash is of this tokenizer; older gates have one without a version, of `tokens`."""
        has_version = tokenizer_hash.startswith(_HASH_VERSION)
        return tokenizer_hash == (self.tokenizer_hash if has_version else self._unversioned_hash)

    @functools.cached_property
    def _unversioned_hash(self) -> str:
        return _sha256(self.tokens)


def _common_text(token: int, text: bytes) -> bytes:
    return b"" if text == b"[PAD%d]" % token else text.replace(_SPACE, b" ")


def _sha256(texts: Iterable[bytes]) -> str:
    digest = hashlib.sha256()
    for text in texts:
        digest.update(struct.pack("<I", len(text)) + text)
    return digest.hexdigest()


@dataclass(frozen=True, eq=False)
class BaseModel:
    """The facts of a base model that a gate is tied to.

    Attributes:
        path: The GGUF file they were read from.
        name: `general.name`, or the file's name where the model has none.
        architecture: `general.architecture`, e.g. `qwen3`.
        n_embd: Width of the hidden state that is multiplied by the output matrix.
        vocab: The tokens.
        file_type: What the weights are stored as, e.g. `Q4_K - Medium`.
        metadata: Every metadata value of the file, as text.
        weights: Reads `fingerprint`; None where it is not known.
    """

    path: str
    name: str
    architecture: str
    n_embd: int
    vocab: Vocab
    file_type: str = ""
    metadata: dict[str, str] = field(default_factory=dict)
    weights: Callable[[], str] | None = None

    @property
    def fingerprint(self) -> str:
        """Identifies the weights, however they are quantized (`engine.fingerprint`); empty if that is not known."""
        return "" if self.weights is None else self.weights()
