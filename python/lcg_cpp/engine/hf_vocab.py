"""The vocabulary of a Hugging Face tokenizer, as llama.cpp sees it in the GGUF file of the same model."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

import numpy as np

from ..errors import GateError
from .base_model import BYTE, CONTROL, NORMAL, UNKNOWN, UNUSED, USER_DEFINED, Vocab

_SPACE = "▁"  # how SentencePiece spells a space
_BYTE_TOKEN = re.compile(r"<0x([0-9A-Fa-f]{2})>")

# Added tokens that llama.cpp's converter takes for control tokens although the tokenizer does not say so.
_CONTROL_NAME = re.compile(r"<\|.*\|>|<｜.*｜>|<unused.*>|<pad>|<mask>|<2mass>|\[@BOS@\]", re.DOTALL)


def read_vocab(tokenizer: Any, n_vocab: int, path: str) -> Vocab:
    """Read the bytes and types of all tokens of a `tokenizers.Tokenizer`: byte-level BPE, or of SentencePiece's kind.

    There are `n_vocab` of them, rows of the output matrix. Those that the tokenizer does not know are unused and empty,
    as llama.cpp writes them.
    """
    spec = json.loads(tokenizer.to_str())
    is_byte_level = _is_byte_level(spec, path)
    texts = {i: text for text, i in tokenizer.get_vocab(with_added_tokens=True).items()}
    added = tokenizer.get_added_tokens_decoder()
    unknown = spec["model"].get("unk_token")
    if spec["model"].get("unk_id") is not None:
        unknown = texts[spec["model"]["unk_id"]]
    tokens, types = [b""] * n_vocab, np.full(n_vocab, UNUSED, np.uint32)
    for i in range(n_vocab):
        if i in added:
            tokens[i], types[i] = _added_token(added[i])
        elif i in texts and texts[i] == unknown:
            tokens[i], types[i] = unknown.encode(), UNKNOWN
        elif i in texts:
            tokens[i], types[i] = _byte_level(texts[i]) if is_byte_level else _sentencepiece(texts[i])
    spelled = [added[i].content if i in added else texts.get(i, "") for i in range(n_vocab)]
    return Vocab(tuple(tokens), types, lambda: [text.encode() for text in spelled])


def tokenizer_metadata(tokenizer: Any) -> dict[str, str]:
    """The keys of a GGUF file that say how a text becomes tokens."""
    backend, bos, eos = tokenizer.backend_tokenizer, tokenizer.bos_token_id, tokenizer.eos_token_id
    is_byte_level = "ByteLevel" in _kinds(json.loads(backend.to_str())["decoder"])
    adds_bos = bos is not None and backend.encode("", add_special_tokens=True).ids[:1] == [bos]
    adds_space = any(text.startswith(_SPACE) for text in backend.encode("a", add_special_tokens=False).tokens)
    metadata = {
        "tokenizer.ggml.model": "gpt2" if is_byte_level else "llama",
        "tokenizer.ggml.add_bos_token": "true" if adds_bos else "false",
        "tokenizer.ggml.add_space_prefix": "true" if adds_space else "false",
    }
    for name, token in (("bos", bos), ("eos", eos)):
        if token is not None:
            metadata[f"tokenizer.ggml.{name}_token_id"] = str(token)
    template = tokenizer.chat_template
    if isinstance(template, dict):
        template = template.get("default")
    if template:
        metadata["tokenizer.chat_template"] = template
    return metadata


def _is_byte_level(spec: dict[str, Any], path: str) -> bool:
    """Whether tokens are spelled in the byte-level alphabet; else they are spelled as SentencePiece does."""
    decoder = spec["decoder"]
    kinds = list(_kinds(decoder))
    if "ByteLevel" in kinds:
        return True
    if "Metaspace" in kinds or "ByteFallback" in kinds or _SPACE in json.dumps(decoder, ensure_ascii=False):
        return False
    raise GateError(
        f"{path}: its tokenizer ({spec['model']['type']}, decoder {', '.join(kinds) or 'none'}) spells bytes in an"
        " unknown way, expected byte-level BPE or SentencePiece"
    )


def _kinds(decoder: dict[str, Any] | None) -> Iterator[str]:
    """The types of a decoder and of those it is made of."""
    if decoder is not None:
        yield decoder["type"]
        for part in decoder.get("decoders", ()):
            yield from _kinds(part)


def _added_token(token: Any) -> tuple[bytes, int]:
    if token.special or _CONTROL_NAME.fullmatch(token.content):
        return token.content.encode(), CONTROL
    return token.content.replace(_SPACE, " ").encode(), USER_DEFINED


def _sentencepiece(text: str) -> tuple[bytes, int]:
    byte = _BYTE_TOKEN.fullmatch(text)
    if byte:
        return bytes([int(byte[1], 16)]), BYTE
    return text.replace(_SPACE, " ").encode(), NORMAL


def _byte_level(text: str) -> tuple[bytes, int]:
    try:
        return bytes(map(_BYTE_OF.__getitem__, text)), NORMAL
    except KeyError:  # a word that was put into the vocabulary as it is
        return text.encode(), NORMAL


def _byte_alphabet() -> dict[str, int]:
    """Character -> byte in byte-level vocabularies: what is visible in Latin-1 is itself, the others follow U+0100."""
    visible = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    others = (byte for byte in range(256) if byte not in visible)
    return {**{chr(byte): byte for byte in visible}, **{chr(0x100 + i): byte for i, byte in enumerate(others)}}


_BYTE_OF = _byte_alphabet()
