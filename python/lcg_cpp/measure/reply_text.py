"""What is right and wrong in the text of a reply. Pure functions of texts."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from functools import lru_cache
from itertools import groupby

from ..gate.families import text_families

MIN_WORDS = 5  # a shorter line says too little of its language (Marchisio et al. 2024)
MIN_LETTERS = 4  # so do shorter words: names and abbreviations

# what stands in brackets or quotation marks, nothing of the kind within
_MARKED = re.compile("[(“„«「] ?([^()“”„«»「」]+?) ?[)”“»」]")
_CHOICE = re.compile("(?<![A-Za-z])[A-G](?![A-Za-z])")
# letters of scripts without spaces between words: Thai, Lao, Tibetan, Burmese, Khmer, kana, Chinese
_UNSPACED = re.compile(
    "[\u0e00-\u0fff\u1000-\u109f\u1780-\u17ff\u3041-\u30ff\u3400-\u9fff\uf900-\ufaff\U00020000-\U0003ffff]"
)


def normalize(text: str) -> str:
    """NFC, with every run of white space as one space and none at the ends."""
    return " ".join(unicodedata.normalize("NFC", text).split())


# ---- requested code-switches ----


def switches_kept(reply: str, items: Sequence[Sequence[str]]) -> int:
    """Count the requested names of a list that stand in brackets at the end of their own item.

    `items` are for each term some strings, the name wanted in brackets last.
    """
    found = normalize(reply).split(", ")
    return sum(got.endswith(f"({normalize(item[-1])})") for got, item in zip(found, items))


def names_kept(reply: str, items: Sequence[Sequence[str]]) -> int:
    """Count the names in brackets or quotation marks of a paragraph that are there, in the right order.

    `items` are as for `switches_kept`, in the order of the right reply.
    """
    kept = [0] * (len(items) + 1)  # of the first n items, in the text so far: a longest common subsequence
    for found in _MARKED.findall(normalize(reply)):
        before = kept.copy()
        for n, item in enumerate(items, 1):
            kept[n] = before[n - 1] + 1 if found == normalize(item[-1]) else max(kept[n - 1], before[n])
    return kept[-1]


def count_marked(reply: str, items: Sequence[Sequence[str]], reference: str) -> int:
    """Count the requested names by place where the right reply is a list, by order where it is a paragraph."""
    is_list = switches_kept(reference, items) == len(items)
    return (switches_kept if is_list else names_kept)(reply, items)


def count_held(reply: str, items: Sequence[Sequence[str]]) -> int:
    """Count the items all of whose strings are anywhere in a reply."""
    text = normalize(reply)
    return sum(all(normalize(string) in text for string in item) for item in items)


# ---- multiple choice ----


def choice(reply: str) -> str:
    """The letter a reply chooses: the last of A to G that is no part of a Latin word, or an empty string.

    The last, because a reply that reasons first goes through the options before it names one.
    """
    found = _CHOICE.findall(reply)
    return found[-1] if found else ""


def blank_choices(text: str) -> str:
    """A text with spaces for its letters of multiple choice, which belong to no language."""
    return _CHOICE.sub(" ", text)


# ---- lines and words, after the Language Confusion Benchmark ----


def lines_to_judge(reply: str) -> list[str]:
    """The lines of a reply that are long enough to tell their language, without punctuation and symbols.

    A line needs five words with letters. Where words are not separated by spaces, two letters count as a word (the
    benchmark uses a segmenter of Chinese and one of Japanese, and counts numbers too).
    """
    lines = ("".join(map(_plain, line)).strip() for line in reply.splitlines())
    return [line for line in lines if _count_words(line) >= MIN_WORDS]


@lru_cache(maxsize=1 << 12)
def _plain(character: str) -> str:
    category = unicodedata.category(character)
    if category == "Pd":  # a dash stands between words
        return " "
    return "" if category[0] in "PS" else character


def _count_words(line: str) -> int:
    return sum(max(1, len(_UNSPACED.findall(word)) // 2) for word in line.split() if any(map(str.isalpha, word)))


def holds_latin_word(text: str) -> bool:
    """Whether a text holds a word of at least four Latin letters, all in lower case.

    The benchmark looks for words of an English list, as long and in lower case too, so that names and abbreviations
    do not count; this asks for the script alone, and also finds a word that touches letters of another script.
    """
    if "latin" not in text_families(text):
        return False
    runs = groupby(unicodedata.normalize("NFC", text), key=lambda character: "latin" in text_families(character))
    words = ("".join(letters) for is_latin, letters in runs if is_latin)
    return any(len(word) >= MIN_LETTERS and word.islower() for word in words)
