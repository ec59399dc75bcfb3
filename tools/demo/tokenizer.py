"""A byte-level BPE tokenizer, trained on the demo's own texts, in the form that llama.cpp reads."""

from __future__ import annotations

import json
from dataclasses import dataclass

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


def train_tokenizer(texts: list[str], n_vocab: int) -> Bpe:
    """Trains the merges.

    Args:
        texts: What to learn from.
        n_vocab: Number of tokens wanted, the control tokens among them.
    """
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=n_vocab,
        special_tokens=[BOS, EOS],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return from_json(tokenizer.to_str())


def from_json(text: str) -> Bpe:
    """Restores a tokenizer from its Hugging Face JSON."""
    model = json.loads(text)["model"]
    tokens = sorted(model["vocab"], key=model["vocab"].get)
    merges = tuple(" ".join(merge) if isinstance(merge, list) else merge for merge in model["merges"])
    return Bpe(tuple(tokens), merges, Tokenizer.from_str(text))
