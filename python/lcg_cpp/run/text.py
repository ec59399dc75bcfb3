"""The text of tokens, whole: llama_cpp's own tokenizer writes nothing for a token of more than 32 bytes."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property

from llama_cpp.llama_tokenizer import LlamaTokenizer

from ..engine.base_model import Vocab
from ..engine.model import read_vocab, require_open


class WholeTokenizer(LlamaTokenizer):
    """llama_cpp's tokenizer with the engine's full bytes; all its other conventions hold."""

    @cached_property
    def vocab(self) -> Vocab:
        """The model's tokens; read once, which takes a tenth of a second where they are many."""
        return read_vocab(self._model)

    def tokenize(self, text: bytes, add_bos: bool = True, special: bool = True) -> list[int]:
        """The tokens of a text, as `LlamaTokenizer` gives them.

        Raises:
            GateError: The model is closed.
        """
        require_open(self._model)
        return super().tokenize(text, add_bos, special)

    def detokenize(
        self, tokens: Sequence[int], prev_tokens: Sequence[int] | None = None, special: bool = False
    ) -> bytes:
        """The bytes of tokens, as `Llama.detokenize` gives them; `special` writes control tokens out.

        After a beginning-of-text token, one space is left out.
        """
        del prev_tokens
        pieces = self.vocab.tokens if special else self.vocab.visible
        text = b"".join([pieces[token] for token in tokens])
        starts = len(tokens) > 0 and tokens[0] == self._model.token_bos()
        return text[1:] if starts and text[:1] == b" " else text
