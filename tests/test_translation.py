"""BLEU and chrF of summed statistics, against sacrebleu's own corpus scores."""

from __future__ import annotations

import builtins

import numpy as np
import pytest
from sacrebleu.metrics import BLEU, CHRF

from lcg_cpp.errors import GateError
from lcg_cpp.measure import translation
from lcg_cpp.measure.translation import N_BLEU, N_CHRF, corpus_bleu, corpus_chrf, segment_statistics, tokenizer

REFERENCES = [
    "The cat sat on the mat, and the dog looked at it.",
    "Сегодня хорошая погода, и мы идём в парк гулять.",
    "Berlin",
    "今天天气很好，我们去公园散步。",
    "He said: “no”.",
]
REPLIES = [
    "The cat sat on a mat and the dog looked at him.",
    "Сегодня плохая погода, и мы идём в парк.",
    "Berlin",
    "今天天气不好，我们不去公园。",
    "",
]


def statistics(replies, references, tokenize="intl"):
    return np.array([segment_statistics(*pair, tokenize) for pair in zip(replies, references)], dtype=float)


def scores(rows):
    sums = rows.sum(axis=0, keepdims=True)
    return corpus_bleu(sums[:, :N_BLEU])[0], corpus_chrf(sums[:, N_BLEU:])[0]


@pytest.mark.parametrize("tokenize", ["intl", "char", "zh"])
@pytest.mark.parametrize(
    "chosen",
    [[0, 1, 2, 3, 4], [0], [1, 3], [2], [4], [2, 4], [0, 0, 3, 4, 4], [3, 3, 1]],
)
def test_sums_of_statistics_give_sacrebleus_corpus_scores(tokenize, chosen):
    replies, references = [REPLIES[i] for i in chosen], [REFERENCES[i] for i in chosen]
    bleu = BLEU(tokenize=tokenize, effective_order=True).corpus_score(replies, [references]).score
    chrf = CHRF(word_order=2).corpus_score(replies, [references]).score
    assert scores(statistics(replies, references, tokenize)) == pytest.approx((bleu, chrf), rel=1e-12)


def test_random_texts_with_few_matches_give_sacrebleus_corpus_scores():
    rng = np.random.default_rng(0)
    for _ in range(100):
        texts = [" ".join(rng.choice(list("abc"), size=rng.integers(0, 7))) for _ in range(6)]
        replies, references = texts[:3], [text or "a" for text in texts[3:]]
        bleu = BLEU(tokenize="intl", effective_order=True).corpus_score(replies, [references]).score
        chrf = CHRF(word_order=2).corpus_score(replies, [references]).score
        assert scores(statistics(replies, references)) == pytest.approx((bleu, chrf), rel=1e-12)


def test_many_sets_are_scored_at_once():
    rows = statistics(REPLIES, REFERENCES)
    sums = np.stack([rows.sum(axis=0), rows[:1].sum(axis=0), np.zeros(N_BLEU + N_CHRF)])
    bleu, chrf = corpus_bleu(sums[:, :N_BLEU]), corpus_chrf(sums[:, N_BLEU:])
    assert (bleu[0], chrf[0]) == pytest.approx(scores(rows))
    assert (bleu[1], chrf[1]) == pytest.approx(scores(rows[:1]))
    assert np.isnan([bleu[2], chrf[2]]).all()  # no reference


def test_the_same_text_scores_100_and_nothing_scores_0():
    assert scores(statistics(REFERENCES, REFERENCES)) == pytest.approx((100, 100))
    assert scores(statistics([""] * 5, REFERENCES)) == (0, 0)


@pytest.mark.parametrize(
    ("language", "name"),
    [
        ("zh-Hans", "zh"),
        ("zho_Hant", "zh"),
        ("ja", "char"),
        ("kor_Hang", "char"),
        ("tha_Thai", "char"),
        ("ar", "intl"),
        ("de", "intl"),
        ("", "intl"),
    ],
)
def test_the_tokenizer_suits_the_language(language, name):
    assert tokenizer(language) == name


def test_a_missing_sacrebleu_is_told_in_one_line(monkeypatch):
    translation._scorers.cache_clear()
    stock = builtins.__import__

    def missing(name, *args, **kwargs):
        if name.startswith("sacrebleu"):
            raise ImportError(name)
        return stock(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", missing)
    with pytest.raises(GateError, match=r'^BLEU and chrF need `sacrebleu`: pip install "lcg-cpp\[eval\]"$'):
        segment_statistics("never", "asked before", "intl")
