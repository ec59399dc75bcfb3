"""BLEU and chrF of very many sets of replies, from sacrebleu's statistics of each reply.

Both are functions of counts summed over the replies, so a resample needs sums and no text. Both are the corpus scores
of sacrebleu: BLEU with exponential smoothing and the effective order (which matters only where no reply has four
tokens), chrF with word bigrams, known as chrF++.
"""

from __future__ import annotations

from functools import cache, lru_cache
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from ..errors import GateError
from .language_id import base_language

if TYPE_CHECKING:
    from sacrebleu.metrics.bleu import BLEU
    from sacrebleu.metrics.chrf import CHRF

Floats = npt.NDArray[np.float64]

N_BLEU = 10  # length of the reply and of the reference, n-grams in both (4), n-grams of the reply (4)
N_CHRF = 24  # of 6 character and 2 word orders: n-grams of the reply, of the reference, in both

_CHAR_LANGUAGES = frozenset({"ja", "ko", "th", "lo", "km", "my", "bo", "dz", "yue"})
_BETA2 = 4.0  # chrF weighs recall twice as much as precision


def tokenizer(language: str) -> str:
    """Sacrebleu's BLEU tokenizer for the language of a reference; none of them downloads anything.

    `zh` for Chinese, `char` where words are not separated by spaces and for Korean, where a word is a phrase, and
    otherwise `intl`, which splits at Unicode's punctuation.
    """
    base = base_language(language) if language else ""
    if base == "zh":
        return "zh"
    return "char" if base in _CHAR_LANGUAGES else "intl"


@cache
def _scorers(tokenize: str) -> tuple[BLEU, CHRF]:
    try:
        from sacrebleu.metrics.bleu import BLEU  # noqa: PLC0415 (optional)
        from sacrebleu.metrics.chrf import CHRF  # noqa: PLC0415
    except ImportError as error:
        raise GateError('BLEU and chrF need `sacrebleu`: pip install "lcg-cpp[eval]"') from error
    return BLEU(tokenize=tokenize, effective_order=True, force=True), CHRF(word_order=2)


@lru_cache(maxsize=1 << 16)
def segment_statistics(reply: str, reference: str, tokenize: str) -> tuple[int, ...]:
    """The counts that BLEU (`N_BLEU`) and then chrF (`N_CHRF`) of a corpus are made of, for one reply."""
    counts: list[int] = []
    for scorer in _scorers(tokenize):
        # not public, but what sacrebleu's own resampling uses; a test compares the sums with its corpus scores
        counts += scorer._extract_corpus_statistics([reply.strip()], [[reference]])[0]
    return tuple(counts)


def corpus_bleu(sums: Floats) -> Floats:
    """BLEU of summed statistics (Papineni et al. 2002), as sacrebleu computes it.

    float64 (m, N_BLEU) -> (m,), 0 to 100; NaN where there is no reference.
    """
    reply, reference = sums[:, 0], sums[:, 1]
    matches, totals = sums[:, 2:6], sums[:, 6:10]
    missed = np.cumsum(matches == 0, axis=1)  # orders without a match so far: each halves what counts as one
    with np.errstate(divide="ignore", invalid="ignore"):
        precisions = np.where(matches > 0, matches, 0.5**missed) / totals
        logs = np.where(totals > 0, np.log(precisions), 0.0).sum(axis=1) / np.maximum((totals > 0).sum(axis=1), 1)
        brevity = np.where(reply < reference, np.exp(1 - reference / reply), 1.0)
    score = np.where(matches.any(axis=1), 100 * brevity * np.exp(logs), 0.0)
    return np.where(reference > 0, score, np.nan)


def corpus_chrf(sums: Floats) -> Floats:
    """chrF++ of summed statistics (Popović 2017), as sacrebleu computes it.

    float64 (m, N_CHRF) -> (m,), 0 to 100; NaN where there is no reference.
    """
    replies, references, matches = sums[:, 0::3], sums[:, 1::3], sums[:, 2::3]
    counts = (replies > 0) & (references > 0)
    n = np.maximum(counts.sum(axis=1), 1)
    with np.errstate(divide="ignore", invalid="ignore"):
        precision = np.where(counts, matches / replies, 0.0).sum(axis=1) / n
        recall = np.where(counts, matches / references, 0.0).sum(axis=1) / n
        score = 100 * (1 + _BETA2) * precision * recall / (_BETA2 * precision + recall)
    return np.where((references > 0).any(axis=1), np.nan_to_num(score), np.nan)
