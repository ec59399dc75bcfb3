"""What a text may hold of a script that its language is not written in: the rules, and why.

They are for replies whose right form nobody knows: where a prompt has a reference, that decides, and nothing here is
asked. All of this is common in texts of every language, and no reader would call it confusion.

- The prompt's own words, if the prompt is written mostly in the reply's scripts. In a request to translate, what is
  copied was to be translated.
- Code: between backticks; tags; identifiers such as `read_file`, `main()`, `README.md`, `--help`; paths.
- Addresses: URLs, e-mail addresses, names of hosts.
- Formulas: between TeX's signs, and TeX's commands.
- Single letters, of Latin and Greek: variables, vitamins, items of a list (also ii, iv).
- Units behind a number (5 km, 60 km/h), and up to three letters that touch a digit (5km, MP3, x86).
- Names and acronyms: words with a capital letter, and up to three letters between them (PDF, iPhone, Leonardo
  da Vinci).
- What is cited: Latin that fills brackets or quotation marks, at most 60 characters: a title, a term in English behind
  its translation.

All but the first are about Latin letters, because no other script is used like this all over the world: a Chinese gloss
in an Arabic text is unwanted. Words in a row count together: a name beside a word that nothing above explains is part
of the slip ("However, this works"). A word that is grown together with letters of Cyrillic, Greek, Armenian or Georgian
is half a word or made of look-alikes, and never wanted.

Known errors: a slip of capitalized words alone (German nouns) is taken for a name, and a name in its own script, if it
is not Latin, for a slip.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence, Set
from itertools import groupby

from ..gate.scripts import SIBLINGS

_TECHNICAL = re.compile(
    r"""
    ```.*?(?:```|\Z) | `[^`\n]+`                            # code
    | </?[A-Za-z!][^<>\n]*>                                 # tags
    | (?:https?://|www\.)[!-~]+                             # addresses
    | [\w.+-]+@[\w-]+(?:\.[\w-]+)+
    | (?<![^\W_])[A-Za-z][\w-]*(?:\.[\w-]+)*\.[a-z]{1,4}(?!\w)  # hosts, files, attributes
    | \w*[A-Za-z0-9]_\w+ | [A-Za-z]\w*\(\)                  # identifiers
    | (?<!\S)--[a-z][\w-]*                                  # options
    | (?<!\S)(?:~|\.{1,2}|[A-Za-z]:)?[/\\][\w.-][\w./\\-]*  # paths
    | \$\$.+?\$\$ | \$(?=\S)[^$\n]*?(?<=\S)\$(?!\d)         # formulas
    | \\\(.+?\\\) | \\\[.+?\\\] | \\[A-Za-z]+
    """,
    re.VERBOSE | re.DOTALL | re.ASCII,
)
_OPENING, _CLOSING = r"\"“”„«‹‘「『《〈(（\[【", r"\"“”»›’」』》〉)）\]】"
_CITED = re.compile(f"[{_OPENING}]([^{_OPENING}{_CLOSING}\\n]{{1,60}})[{_CLOSING}]")
_STRETCH = re.compile(r"[^\n]+")
_LATIN = "A-Za-zÀ-ÖØ-öø-\u02af\u1e00-\u1effＡ-Ｚａ-ｚ"
_WORD = re.compile(f"[{_LATIN}][{_LATIN}\u0300-\u036f]*")
_UNIT = re.compile(  # in lower case, of more than a letter; the others are names
    "[nµmcdk]m|[cdm]l|[mk]g|[nm]s|ha|min|mol|bar|[mk]ph|[rb]pm|ppm|dpi|k?cal|k?bit|p[xt]|[ap]m|ft|lb|oz"
)
_BEFORE_UNIT = re.compile(r"\d[\s\u00a0\u202f]?(?:[A-Za-z]{1,3}/)?$")
_NUMERAL = re.compile("[ivx]+")
_ACCENTS = frozenset(map(chr, range(0x300, 0x370)))
_SHORT = 3  # letters of a word that can be part of a name: da, von, the


def is_usual(text: str, families: Sequence[str], foreign: Sequence[bool], prompt: str) -> list[bool]:
    """Which foreign letters of a reply are wanted all the same.

    Args:
        text: The reply.
        families: Of each character, its family of the rule set `scripts`; empty for what is no letter.
        foreign: Of each, whether it is a letter of a script that the prompt does not expect.
        prompt: What was asked; empty if nothing may be copied from it.
    """
    is_latin = [wrong and family == "latin" for wrong, family in zip(foreign, families)]
    usual = [False] * len(text)
    for begin, end in (match.span() for match in _TECHNICAL.finditer(text)):
        usual[begin:end] = is_latin[begin:end]
    for begin, end in (match.span(1) for match in _CITED.finditer(text)):
        if all(is_latin[i] for i in range(begin, end) if families[i]):
            usual[begin:end] = is_latin[begin:end]
    known = frozenset(word.lower() for word in _WORD.findall(prompt))
    latin = "".join(
        c if is_latin[i] and not usual[i] else "\n" if families[i] or c == "\n" else c if c in _ACCENTS else " "
        for i, c in enumerate(text)
    )
    for stretch in _STRETCH.finditer(latin):
        words = [match.span() for match in _WORD.finditer(latin, *stretch.span())]
        if all(_is_right(text, words, i, known) for i in range(len(words))):
            usual[stretch.start() : stretch.end()] = is_latin[stretch.start() : stretch.end()]
    for begin, end in _runs(families, foreign):
        is_sign = families[begin] == "greek" and end - begin == 1 and not _is_grown(text, begin, end)
        if is_sign or text[begin:end] in prompt:
            usual[begin:end] = [True] * (end - begin)
    return usual


def _is_right(text: str, words: Sequence[tuple[int, int]], i: int, known: Set[str]) -> bool:
    """Whether one of the Latin words of a stretch is wanted; `known` are words of the prompt."""
    begin, end = words[i]
    word = text[begin:end]
    if _is_grown(text, begin, end):
        return False
    touches_digit = text[begin - 1 : begin].isdigit() or text[end : end + 1].isdigit()
    return (
        len(word) == 1
        or not word.islower()
        or word in known
        or (len(word) <= _SHORT and (touches_digit or _joins_names([text[a:b] for a, b in words], i)))
        or (_UNIT.fullmatch(word) is not None and _BEFORE_UNIT.search(text, 0, begin) is not None)
        or _NUMERAL.fullmatch(word) is not None
    )


def _joins_names(words: Sequence[str], i: int) -> bool:
    """Whether the nearest longer words on both sides of a short one are capitalized."""

    def is_name(others: Iterable[str]) -> bool:
        longer = (word for word in others if len(word) > _SHORT or not word.islower())
        return next((len(word) > 1 and word[0].isupper() for word in longer), False)

    return is_name(reversed(words[:i])) and is_name(words[i + 1 :])


def _is_grown(text: str, begin: int, end: int) -> bool:
    """Whether a word is a part of another: two letters of a script with upper and lower case touch it."""

    def is_cased(letters: str) -> bool:
        return len(letters) > 1 and all(c.isalpha() and c.lower() != c.upper() for c in letters)

    return is_cased(text[max(0, begin - 2) : begin]) or is_cased(text[end : end + 2])


def _runs(families: Sequence[str], foreign: Sequence[bool]) -> Iterator[tuple[int, int]]:
    """Stretches of foreign letters other than Latin, those of Chinese and Japanese together."""
    scripts = ["" if not wrong or f == "latin" else "cj" if f in SIBLINGS else f for f, wrong in zip(families, foreign)]
    end = 0
    for script, letters in groupby(scripts):
        begin, end = end, end + len(list(letters))
        if script:
            yield begin, end
