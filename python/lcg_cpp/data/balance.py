"""A budget of tokens, shared out between the scripts of texts.

Where there are more texts than a budget allows, chance would give most of it to the script with the most texts, and to
those that a tokenizer writes byte by byte: they take more tokens and give fewer words. So every script gets a share of
the *tokens*, which does not depend on how many texts there are of it. What a script cannot use up goes to the others.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from itertools import zip_longest

from ..engine.base_model import CONTROL, Vocab
from ..gate.families import family_set, letter_counts
from ..gate.scripts import SIBLINGS
from .encode import Encoded

# How large a script's share is, beside the 1 of all others: scripts that many people and languages write have more to
# show, and Chinese and Japanese have families that are hard to tell apart.
SHARES = {
    "simplified": 10, "traditional": 10, "japanese": 10,
    "latin": 8,
    "cyrillic": 6, "arabic": 6, "hangul": 6,
    "devanagari": 4, "hebrew": 4, "greek": 4,
    "thai": 3,
    "bengali": 2, "tamil": 2, "telugu": 2, "armenian": 2, "georgian": 2, "ethiopic": 2,
}  # fmt: skip

_FAMILIES = family_set("scripts")
_OWN = 0.2  # of a text's letters, from which a script other than Latin is its own: every text may hold names and code
_KANA = 0.1  # of the letters of a Chinese or Japanese text, from which it is Japanese


def script_of(text: str) -> str:
    """The script that a text is written in, whatever names and code it holds.

    Returns:
        `simplified`, `traditional`, `japanese`, or the family of the rule set `scripts` that most letters belong to;
        Latin only where less than a fifth of the letters belong to others. "" without letters.
    """
    counts = letter_counts(text, _FAMILIES)
    chinese = {name: counts.pop(name, 0) for name in SIBLINGS}
    others = {**counts, "cj": sum(chinese.values())}
    latin = others.pop("latin", 0)
    n_others = sum(others.values())
    if n_others < _OWN * (latin + n_others) or n_others == 0:
        return "latin" if latin else ""
    script = max(others, key=lambda name: (others[name], name))
    if script != "cj":
        return script
    if chinese["kana"] >= _KANA * others["cj"]:
        return "japanese"
    is_traditional = chinese["hant"] + chinese["hantj"] > chinese["hans"] + chinese["hansj"]
    return "traditional" if is_traditional else "simplified"


def script_of_tokens(text: Encoded, vocab: Vocab) -> str:
    """`script_of` what is to be said in a text; "" where that is nothing."""
    said = (t for t, is_said in zip(text.tokens, text.is_reply) if is_said and not vocab.types[t] & CONTROL)
    return script_of(b"".join(vocab.tokens[t] for t in said).decode("utf-8", "ignore"))


def in_turns(scripts: Sequence[str]) -> list[int]:
    """Indices of texts in turns of their scripts, those of each script in order."""
    places: dict[str, list[int]] = defaultdict(list)
    for i, script in enumerate(scripts):
        places[script].append(i)
    return [i for turn in zip_longest(*places.values()) for i in turn if i is not None]


def balanced(scripts: Sequence[str], sizes: Sequence[float], n_tokens: float) -> list[int]:
    """Choose texts so that every script gets its share of a budget, as far as its texts last.

    Args:
        scripts: Of each text, see `script_of`.
        sizes: Tokens of each.
        n_tokens: The budget.

    Returns:
        Indices of the chosen texts, ascending: of each script the first ones, until they have its share or a little
        more. All of them where the budget is large enough.
    """
    there_are: dict[str, float] = defaultdict(float)
    for script, size in zip(scripts, sizes):
        there_are[script] += size
    share = _share(there_are, n_tokens)
    taken: dict[str, float] = defaultdict(float)
    return list(_taken(scripts, sizes, share, taken))


def _taken(scripts: Sequence[str], sizes: Sequence[float], share: float, taken: dict[str, float]) -> Iterator[int]:
    for i, (script, size) in enumerate(zip(scripts, sizes)):
        if taken[script] < share * SHARES.get(script, 1):
            taken[script] += size
            yield i


def _share(there_are: dict[str, float], n_tokens: float) -> float:
    """Tokens of a share of 1: scripts that have less than their share leave the rest to the others."""
    left, open_shares = n_tokens, float(sum(SHARES.get(script, 1) for script in there_are))
    for script, n in sorted(there_are.items(), key=lambda item: item[1] / SHARES.get(item[0], 1)):
        share = SHARES.get(script, 1)
        if n * open_shares > left * share:
            break
        left -= n
        open_shares -= share
    return left / open_shares if open_shares > 0 else float("inf")
