"""A byte-level BPE tokenizer, trained on the model's own texts, in the form that llama.cpp reads."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

BOS, EOS = "<|begin|>", "<|end|>"


@dataclass(frozen=True)
class Bpe:
    """The tokenizer.

    Attributes:
        tokens: The tokens in the byte-level alphabet, in id order; the two control tokens first.
        merges: The merges, `left right`, in rank order.
        encoder: The Hugging Face tokenizer.
    """

    tokens: tuple[str, ...]
    merges: tuple[str, ...]
    encoder: Tokenizer

    @property
    def bos(self) -> int:
        """Id of the token that starts a text."""
        return self.tokens.index(BOS)

    @property
    def eos(self) -> int:
        """Id of the token that ends a reply."""
        return self.tokens.index(EOS)

    def encode(self, text: str) -> list[int]:
        """Token ids of a text, without control tokens."""
        return list(self.encoder.encode(text, add_special_tokens=False).ids)


def train_tokenizer(texts: Iterable[str], n_vocab: int, max_bytes: int | None = None) -> Bpe:
    """Trains the merges.

    Args:
        texts: What to learn from.
        n_vocab: Number of tokens wanted, the control tokens among them.
        max_bytes: Longest token; without it whole Chinese or Japanese clauses become tokens.
    """
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=n_vocab,
        special_tokens=[BOS, EOS],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
        max_token_length=max_bytes,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return from_json(tokenizer.to_str())


def from_json(text: str) -> Bpe:
    """Restores a tokenizer from its Hugging Face JSON."""
    model = json.loads(text)["model"]
    tokens = sorted(model["vocab"], key=model["vocab"].get)
    merges = tuple(" ".join(merge) if isinstance(merge, list) else merge for merge in model["merges"])
    return Bpe(tuple(tokens), merges, Tokenizer.from_str(text))


def train_or_load(path: Path, texts: Iterable[str], n_vocab: int, max_bytes: int | None = None) -> Bpe:
    """Trains a tokenizer and keeps it, or reads what an earlier run left.

    Args:
        path: Where its Hugging Face JSON is kept.
        texts: As for `train_tokenizer`; not drawn from where nothing is trained.
        n_vocab: As for `train_tokenizer`.
        max_bytes: As for `train_tokenizer`.
    """
    if not path.exists():
        bpe = train_tokenizer(texts, n_vocab, max_bytes)
        path.write_text(bpe.encoder.to_str(), encoding="utf-8")
    return from_json(path.read_text(encoding="utf-8"))
