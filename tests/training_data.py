"""Chats for the tiny model, what they are as tokens, and what is learned from them: nothing here asks the trainer."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import numpy.typing as npt

import oracle
from lcg_cpp.engine.teacher import Teacher

Floats = npt.NDArray[np.float32]

CLOSE = 1e-5  # probabilities closer to a border than this are not compared: the kernel has single precision

_WORDS = [
    "the",
    "city",
    "name",
    "中国",
    "日本",
    "語",
    "мир",
    "город",
    "שם",
    "ไทย",
    "2024",
    "!",
    "of",
    "and",
    "year",
    "ß",
]


def chat_rows(n: int, seed: int = 0) -> list[dict[str, str]]:
    """Prompts and replies of mixed scripts, no two alike."""
    rng = np.random.default_rng(seed)

    def words(least: int, most: int) -> str:
        return " ".join(rng.choice(_WORDS, rng.integers(least, most)))

    return [{"prompt": f"{i}: {words(1, 4)}", "response": f"{words(8, 24)} {i}"} for i in range(n)]


def write_rows(path: Path, rows: Iterable[Any]) -> str:
    """Writes JSON lines; returns the name to open them by."""
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return str(path)


@dataclass(frozen=True)
class Text:
    """A chat as the tiny model sees it.

    Attributes:
        tokens: Its tokens.
        is_reply: Which of them the model generates: the reply and the token that ends it.
        hidden: float32 (n, n_embd), evaluated alone.
        logits: float32 (n, n_vocab).
    """

    tokens: list[int]
    is_reply: list[bool]
    hidden: Floats
    logits: Floats

    def learned(self, positions: str) -> list[int]:
        """Positions that predict a token that counts."""
        return [i for i in range(len(self.tokens) - 1) if positions == "all" or self.is_reply[i + 1]]


def evaluate(model: Path, rows: Sequence[Mapping[str, str]]) -> list[Text]:
    """Renders rows with the tiny model's template, written out here, and evaluates them one at a time."""
    texts = []
    with Teacher(model, n_ctx=512, n_batch=512, n_threads=1) as teacher:
        for row in rows:
            parts = (
                (f"<|im_start|>user\n{row['prompt']}<|im_end|>\n<|im_start|>assistant\n", False),
                (f"{row['response']}<|im_end|>", True),
                ("\n", False),
            )
            tokens: list[int] = []
            is_reply: list[bool] = []
            for part, part_is_reply in parts:
                tokens += teacher.tokenize(part, special=True)
                is_reply += [part_is_reply] * (len(tokens) - len(is_reply))
            (states,) = teacher.states([tokens])
            texts.append(Text(tokens, is_reply, states.hidden.copy(), states.logits.copy()))
    return texts


def norms_of(model: Path, norm: str) -> npt.NDArray[np.float64] | None:
    """What logits are divided by, from the file's own matrix."""
    if norm == "none":
        return None
    (matrix,) = (tensor.data for tensor in gguf.GGUFReader(model).tensors if tensor.name == "output.weight")
    norms = np.sqrt(np.square(matrix.astype(np.float64)).sum(1))
    return norms / norms.mean() if norm == "relative" else norms


def label(
    logits: Floats, norms: npt.NDArray[np.float64] | None, families: npt.NDArray[np.uint8], k: int, p: float, soft: bool
) -> tuple[npt.NDArray[np.float64], float]:
    """The label of one position by the method's text, and how close the closest comparison was."""
    adjusted = logits.astype(np.float64) if norms is None else logits / norms
    kept, margin = oracle.topkp(np.arange(len(adjusted)), adjusted, k, p)
    shares = np.zeros(int(families.max()) + 1)
    for token, probability in zip(kept, oracle.softmax(adjusted)[kept]):
        shares[families[token]] += probability
    ranked = np.sort(adjusted)[::-1]
    margin = min(margin, float(ranked[len(kept) - 1] - ranked[len(kept)]))
    return (shares / shares.sum() if soft else (shares > 0).astype(np.float64)), margin


class Finder:
    """Tells which position of which text a hidden state belongs to.

    Texts that begin alike have the same states there: every one of them is found.
    """

    def __init__(self, texts: Sequence[Text]) -> None:
        self._where = [(i, position) for i, text in enumerate(texts) for position in range(len(text.tokens))]
        self._hidden = np.concatenate([text.hidden for text in texts]).astype(np.float64)

    def find(self, hidden: Floats) -> Iterator[list[tuple[int, int]]]:
        """(text, position) of each state; other batches round a little differently."""
        squares = np.square(self._hidden).sum(1)
        for state in hidden.astype(np.float64):
            distance = squares - 2 * self._hidden @ state + np.square(state).sum()
            found = np.flatnonzero(distance < 1e-2)
            assert len(found), "a state that is of no text"
            yield [self._where[i] for i in found]
