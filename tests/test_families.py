"""Families of hand-made vocabularies of every tokenizer kind, and of the real ones in LCG_VOCAB_DIR."""

from __future__ import annotations

import os
import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lcg_cpp.engine.base_model import BYTE, CONTROL, NORMAL, UNKNOWN, UNUSED, USER_DEFINED, BaseModel, Vocab
from lcg_cpp.errors import GateError
from lcg_cpp.gate.families import exempt_tokens, family_report, family_set, text_families, token_families
from lcg_cpp.gate.rule_set import FamilySet
from tiny_model import byte_alphabet

FAMILIES = ("cj", "latin", "symbols", "lowres")
REAL_VOCABS = ("qwen2", "llama-bpe", "deepseek-llm", "llama-spm", "gemma-4")

# Unicode's blocks of ideographs, apart from the code's own list; test_block_list_agrees_with_names checks it.
REFERENCE_IDEOGRAPHS = [  # of the paper's reference implementation
    range(0x4E00, 0xA000),
    range(0x20000, 0x2A6E0),
    range(0x2A700, 0x2EE60),
    range(0x2F800, 0x2FA20),
    range(0x30000, 0x323B0),
]
IDEOGRAPHS = [
    range(0x3400, 0x4DC0),
    range(0x4E00, 0xA000),
    range(0xF900, 0xFB00),
    range(0x20000, 0x2A6E0),
    range(0x2A700, 0x2EE60),
    range(0x2F800, 0x2FA20),
    range(0x30000, 0x33480),
]


def make_vocab(tokens: Iterable[bytes | tuple[bytes, int]]) -> Vocab:
    pairs = [token if isinstance(token, tuple) else (token, NORMAL) for token in tokens]
    return Vocab(tuple(token for token, _ in pairs), np.array([bits for _, bits in pairs], dtype=np.uint32))


def families_of(tokens: Iterable[bytes | tuple[bytes, int]], rules: str = "default") -> list[str]:
    return [FAMILIES[family] for family in token_families(make_vocab(tokens), rules)]


@cache
def completions() -> dict[bytes, tuple[int, int]]:
    """Every unfinished character -> first and last code point it can become, from encoding all of Unicode."""
    table: dict[bytes, tuple[int, int]] = {}
    for code_point in range(0x80, 0x110000):
        if not 0xD800 <= code_point <= 0xDFFF:
            encoded = chr(code_point).encode("utf-8")
            for n in range(1, len(encoded)):
                table[encoded[:n]] = (table.get(encoded[:n], (code_point,))[0], code_point)
    return table


# Names of letters that are no letters of a script by the default rules, and of marks that are cj.
LETTER_LIKE = re.compile(
    r"(MODIFIER LETTER|MATHEMATICAL|ARABIC MATHEMATICAL|DOUBLE-STRUCK|SCRIPT|BLACK-LETTER) .*|CARON"
    r"|((LATIN|GREEK|CYRILLIC) )?(SUPERSCRIPT|SUBSCRIPT) .*|.* ORDINAL INDICATOR"
    r"|(MICRO|OHM|KELVIN|ANGSTROM|GREEK NUMERAL) SIGN|(ALEF|BET|GIMEL|DALET) SYMBOL|(PLANCK|EULER) CONSTANT.*"
    r"|VERTICAL TILDE|INFORMATION SOURCE|TURNED (CAPITAL F|SMALL F|GREEK SMALL LETTER IOTA)|TIFINAGH MODIFIER .*"
)
MORE_CJ = re.compile(r"BOPOMOFO .*|(VERTICAL )?IDEOGRAPHIC .*|VERTICAL KANA REPEAT .*|MASU MARK|OLD CHINESE .*")


def slow_name(character: str, rules: str) -> str:
    """The name of a letter, with the script by which it is judged in it; empty for what is no letter."""
    name = unicodedata.name(character, "") if unicodedata.category(character).startswith("L") else ""
    if rules == "default" and LETTER_LIKE.fullmatch(name):
        return ""
    return "CJK" if rules == "default" and MORE_CJ.fullmatch(name) else name


@cache
def slow_fragment_names(reachable: range) -> list[str]:
    """A name for what an unfinished character can become: of the one family of its letters, if most of it is script."""
    characters = [c for c in map(chr, reachable) if unicodedata.category(c) not in ("Cn", "Cs")]
    letters = [c for c in characters if slow_name(c, "default")]
    n_marks = sum(unicodedata.category(c)[0] == "M" for c in characters)
    families = {slow_family(c.encode(), "default") for c in letters}
    if len(families) != 1 or len(letters) + n_marks < len(characters) / 2:
        return []
    return [{"cj": "CJK", "latin": "LATIN", "lowres": "GREEK"}[families.pop()]]


def slow_family(token: bytes, rules: str) -> str:
    """The rules of the paper on one normal token, character by character."""
    names: list[str] = []
    i = 0
    while i < len(token):
        for n in (1, 2, 3, 4):
            try:
                character = token[i : i + n].decode("utf-8")
            except UnicodeDecodeError:
                continue
            names.append(slow_name(character, rules))
            i += n
            break
        else:
            fragment = token[i:]
            if fragment in completions():
                first, last = completions()[fragment]
                reachable = range(first, last + 1)
                blocks = IDEOGRAPHS if rules == "default" else REFERENCE_IDEOGRAPHS
                if len(fragment) >= 2 and any(c in block for c in reachable for block in blocks):
                    names.append("CJK")
                elif rules == "default":
                    names += slow_fragment_names(reachable)
            i += 1
    if any(script in name for name in names for script in ("CJK", "HIRAGANA", "KATAKANA")):
        return "cj"
    if any("LATIN" in name for name in names):
        return "latin"
    return "lowres" if any(names) else "symbols"


@pytest.mark.parametrize(
    ("text", "family"),
    [
        ("中", "cj"),
        ("ひらがな", "cj"),
        ("カタカナ", "cj"),
        ("ー", "cj"),  # KATAKANA-HIRAGANA PROLONGED SOUND MARK
        ("ｱ", "cj"),  # HALFWIDTH KATAKANA LETTER A
        ("𠀀", "cj"),
        ("abc", "latin"),
        (" naïve", "latin"),
        ("Ａ", "latin"),  # FULLWIDTH LATIN CAPITAL LETTER A
        ("123", "symbols"),
        (" \n\t", "symbols"),
        ("。「」", "symbols"),
        ("😀", "symbols"),
        ("㌢", "symbols"),  # a square of katakana, but no letter
        ("", "symbols"),
        ("عربي", "lowres"),
        ("עברית", "lowres"),
        ("ไทย", "lowres"),
        ("한국", "lowres"),
        ("Русский", "lowres"),
        ("ελ", "lowres"),
        ("हिन्दी", "lowres"),
        ("iPhone手机", "cj"),
        ("Привет hello", "latin"),
        ("C++ عربي", "latin"),
        ("1,5 м", "lowres"),
    ],
)
def test_complete_tokens_follow_their_strongest_letter(text: str, family: str) -> None:
    for rules in ("default", "paper"):
        assert families_of([text.encode()], rules) == [family]


@pytest.mark.parametrize(
    ("characters", "default", "paper"),
    [
        # units, numbers, transcription and mathematics say nothing of a text's language
        ("µ", "symbols", "lowres"),
        ("ªº", "symbols", "lowres"),
        ("\u2126", "symbols", "lowres"),  # OHM SIGN
        ("\u212a\u212b", "symbols", "lowres"),  # KELVIN SIGN, ANGSTROM SIGN
        ("ℓℝℵℏℹ", "symbols", "lowres"),
        ("𝑥𝟋𝛼𝔸", "symbols", "lowres"),
        ("\U0001ee01", "symbols", "lowres"),  # ARABIC MATHEMATICAL BEH
        ("ˈˌːʰʷʼʻˇ", "symbols", "lowres"),
        ("ᴬᵝᵸ", "symbols", "lowres"),
        ("ⁿⁱₐ", "symbols", "latin"),  # superscripts and subscripts, whatever letter they show
        ("ᵦ", "symbols", "lowres"),
        ("\u0374", "symbols", "lowres"),  # GREEK NUMERAL SIGN, the same as the modifier letter prime
        # what only Chinese and Japanese texts use, whatever its name
        ("々", "cj", "lowres"),
        ("〆", "cj", "lowres"),
        ("〻", "cj", "lowres"),
        ("〱〵", "cj", "lowres"),
        ("〼", "cj", "lowres"),
        ("ㄅㆠ", "cj", "lowres"),  # Bopomofo
        ("\U00016fe3", "cj", "lowres"),  # OLD CHINESE ITERATION MARK
        ("ゝヾー", "cj", "cj"),
        ("ｱｰﾞ", "cj", "cj"),  # halfwidth forms are letters of their script
        ("〇〡㆒㊥", "symbols", "symbols"),  # numbers and circled signs are no letters, as 1 and Ⓐ
        # forms and variants of a script's letters are its letters
        ("Ａｚ", "latin", "latin"),
        ("ﬁǅ", "latin", "latin"),
        ("ɪəʃʔǃ", "latin", "latin"),  # what the phonetic alphabet takes from Latin
        ("θϑϕ", "lowres", "lowres"),
        ("Ωμ", "lowres", "lowres"),  # GREEK CAPITAL LETTER OMEGA, GREEK SMALL LETTER MU
        ("ᄀㄱﾡ", "lowres", "lowres"),  # Hangul jamo
        ("ـﷺ", "lowres", "lowres"),  # tatweel, a ligature
        ("ﬡ", "lowres", "lowres"),  # HEBREW LETTER WIDE ALEF
        ("ๆๅ", "lowres", "lowres"),
    ],
)
def test_letter_like_symbols_marks_and_variants(characters: str, default: str, paper: str) -> None:
    tokens = [character.encode() for character in characters]
    assert families_of(tokens) == [default] * len(tokens)
    assert families_of(tokens, "paper") == [paper] * len(tokens)
    for character in characters:
        assert text_families(f"1 {character}") == {default} - {"symbols"}


def test_default_rules_judge_every_letter_as_its_name_says() -> None:
    letters = [c for c in map(chr, range(0x110000)) if unicodedata.category(c)[0] == "L"]
    assert families_of([c.encode() for c in letters]) == [slow_family(c.encode(), "default") for c in letters]


@pytest.mark.parametrize(
    ("token", "default", "paper"),
    [
        (b"\xe4\xb8", "cj", "cj"),  # U+4E00..4E3F
        (b"\xe3\x90", "cj", "symbols"),  # U+3400..343F, the first of extension A
        (b"\xe4\xb6", "cj", "symbols"),  # U+4D80..4DBF, the last of extension A
        (b"\xef\xa4", "cj", "symbols"),  # U+F900..F93F, compatibility ideographs
        (b"\xf0\xb2\x8e", "cj", "cj"),  # U+32380..323BF, the last of extension H and the first of J
        (b"\xf0\xb2\x8f", "cj", "symbols"),  # U+323C0..323FF
        (b"\xf0\xaf\xa0", "cj", "cj"),  # U+2F800..2F83F
    ],
)
def test_unfinished_ideographs_count_as_cj_in_the_paper_only_in_its_references_blocks(
    token: bytes, default: str, paper: str
) -> None:
    assert families_of([token]) == [default]
    assert families_of([token], "paper") == [paper]


@pytest.mark.parametrize(
    ("token", "family"),
    [
        (b"\xe4\xb8", "cj"),  # U+4E00..4E3F
        (b"\xe3\x8f", "symbols"),  # U+33C0..33FF, just before extension A
        (b"\xe4\xb7", "symbols"),  # U+4DC0..4DFF, hexagrams
        (b"\xe9\xbf", "cj"),  # U+9FC0..9FFF
        (b"\xef\xac", "symbols"),  # U+FB00, presentation forms
        (b"\xf0\xa0", "cj"),  # U+20000..20FFF
        (b"\xf0\xaf", "cj"),  # U+2F000..2FFFF holds the compatibility supplement
        (b"\xf0\xaf\xa0", "cj"),  # U+2F800..2F83F
        (b"\xf0\xaf\xa9", "symbols"),  # U+2FA40..2FA7F, after it
        (b"\xf0\xb3\x92", "symbols"),  # U+33480.., after extension J
        (b"\xf0\x9f", "symbols"),  # emoji
        (b"\xf0\x9f\x98", "symbols"),
        (b"\xe0\x80", "symbols"),  # overlong
        (b"\xf0\x84", "symbols"),  # overlong: U+4000..4FFF in four bytes
        (b"\xf8\xa0", "symbols"),  # F8 starts nothing
        (b"\xef\xab\xbf", "symbols"),  # U+FAFF is complete: in a block of ideographs, but never assigned
        (b"\xc3\xa9\xa9", "latin"),
        (b"\xed\xa0", "symbols"),  # a surrogate
        (b"\xf4\x90", "symbols"),  # beyond U+10FFFF
        (b"\xb8\xad", "symbols"),  # the end of a character
        (b"\xe4\xb8 ", "symbols"),  # broken off in the middle of the token: nothing can complete it
        (b"\xb8\xad\xe4\xb8", "cj"),  # end of one, start of the next
        (b"\xb8\xadabc", "latin"),
        (b"abc\xe4\xb8", "cj"),
        (b"abc\xd0", "latin"),
        ("д".encode() + b"\xd0", "lowres"),
        (b"\x80" * 5, "symbols"),
    ],
)
def test_fragments_count_as_what_they_can_become(token: bytes, family: str) -> None:
    for rules in ("default", "paper"):
        assert families_of([token], rules) == [family]


@pytest.mark.parametrize(
    ("token", "family"),
    [
        (b"\xea\x80", "lowres"),  # U+A000..A03F, Yi
        (b"\xe3\x81", "cj"),  # U+3040..307F, hiragana
        (b"\xe3\x84", "symbols"),  # U+3100..313F, Bopomofo and Hangul
        (b"\xe3\x85", "lowres"),  # U+3140..317F, Hangul
        (b"\xc2", "symbols"),  # U+0080..00BF, « £ ° and µ
        (b"\xcb", "symbols"),  # U+02C0..02FF, modifier letters
        (b"\xf0\x9d\x91", "symbols"),  # U+1D440..1D47F, 𝑥
        (b"\xe3", "symbols"),  # kana, bopomofo, Hangul and ideographs
        (b"\xe0\xb8", "lowres"),  # U+0E00..0E3F, Thai
        (b" \xe0\xb8", "lowres"),
        (b"\xe0\xb9", "lowres"),  # U+0E40..0E7F, Thai vowels, tone marks and digits
        (b"\xe1\xba", "latin"),  # U+1E80..1EBF, Vietnamese
        (b"\xe2\x80", "symbols"),  # U+2000..203F, dashes and quotation marks
        (b"\xef\xbc", "symbols"),  # U+FF00..FF3F, fullwidth: more signs and digits than letters
        (b"\xf0\x90", "lowres"),  # U+10000..10FFF, scripts of antiquity
        (b"\xf0\x9f", "symbols"),  # emoji
        (b"x\xd0", "latin"),  # the stronger letter counts
    ],
)
def test_by_default_unfinished_characters_count_as_letters_where_their_family_is_sure(
    token: bytes, family: str
) -> None:
    assert families_of([token]) == [family]
    assert families_of([token], "paper") == ["latin" if token[:1] == b"x" else "symbols"]


def test_a_lone_lead_byte_counts_by_default_where_all_letters_it_starts_are_of_one_family() -> None:
    single = [bytes([byte]) for byte in range(256)]
    ascii_letters = {byte for byte in range(0x80) if chr(byte).isalpha()}
    latin = set(range(0xC3, 0xCB))  # U+00C0..02BF; C2 starts « £ ° µ, CB modifier letters
    # U+0340..07FF: Greek to N'Ko; E0 Indic scripts, Thai, Tibetan; EB to ED Hangul (EA starts Latin extensions too)
    lowres = {*range(0xCD, 0xE1), 0xEB, 0xEC, 0xED}
    cj = set(range(0xE4, 0xEA))
    expected = dict.fromkeys(range(256), "symbols")
    expected.update(dict.fromkeys(ascii_letters, "latin"))
    assert families_of(single, "paper") == list(expected.values())
    for bytes_, family in ((latin, "latin"), (lowres, "lowres"), (cj, "cj")):
        expected.update(dict.fromkeys(bytes_, family))
    assert families_of(single, "default") == list(expected.values())
    for rules, strong in (("default", cj), ("paper", set())):
        assert families_of([b"x" + token for token in single[0x80:]], rules) == [
            "cj" if b in strong else "latin" for b in range(0x80, 256)
        ]


def test_block_list_agrees_with_names() -> None:
    for code_point in range(0x110000):
        character = chr(code_point)
        if unicodedata.category(character) == "Cn":
            continue  # not assigned in this Python's Unicode version
        name = unicodedata.name(character, "")
        is_ideograph = name.startswith(("CJK UNIFIED IDEOGRAPH", "CJK COMPATIBILITY IDEOGRAPH"))
        assert is_ideograph == any(code_point in block for block in IDEOGRAPHS), name


def test_every_unfinished_character_is_judged_by_its_completions() -> None:
    fragments = list(completions())
    expected = [slow_family(fragment, "default") for fragment in fragments]
    assert families_of(fragments) == expected
    assert Counter(expected).keys() == {"cj", "latin", "lowres", "symbols"}


def test_lead_bytes_e4_to_e9_are_exactly_those_that_start_only_cj_letters() -> None:
    only_cj = []
    for lead in range(0xC2, 0xF5):
        first, last = completions()[bytes([lead])]
        letters = [chr(c) for c in range(first, last + 1) if unicodedata.category(chr(c)).startswith("L")]
        names = [unicodedata.name(letter, "") for letter in letters]
        if names and all(any(script in name for script in ("CJK", "HIRAGANA", "KATAKANA")) for name in names):
            only_cj.append(lead)
    assert only_cj == list(range(0xE4, 0xEA))


@settings(max_examples=500)  # the first example encodes all of Unicode
@given(
    st.lists(st.binary(max_size=6) | st.text("aZ1 é中ひカд한ع😀𠀀", max_size=4).map(str.encode), max_size=4).map(
        b"".join
    ),
    st.integers(0, 3),
    st.integers(0, 3),
)
def test_any_bytes_agree_with_the_slow_rules(token: bytes, cut_left: int, cut_right: int) -> None:
    token = token[cut_left : len(token) - cut_right]
    for rules in ("default", "paper"):
        assert families_of([token], rules) == [slow_family(token, rules)]


def test_byte_level_bpe_keeps_added_tokens_neutral_by_default_and_reads_them_in_paper() -> None:
    tokens = [
        b"Hello",
        " 世界".encode(),
        b"\xe4\xb8",
        b"\xe4",
        (b"<|im_end|>", CONTROL),
        (b"</s>", CONTROL | NORMAL),
        (b"<think>", USER_DEFINED),
        ("<｜工具｜>".encode(), USER_DEFINED),
        (b"[unused1]", UNUSED),
    ]
    assert families_of(tokens) == ["latin", "cj", "cj", "cj", *["symbols"] * 5]
    assert families_of(tokens, "paper") == [
        "latin",
        "cj",
        "cj",
        "symbols",
        "symbols",
        "symbols",
        "latin",
        "cj",
        "latin",
    ]


def test_sentencepiece_byte_tokens_are_judged_as_the_bytes_they_stand_for() -> None:
    tokens = [
        (b"<unk>", UNKNOWN),
        (b"<s>", CONTROL),
        *((bytes([byte]), BYTE) for byte in (0x0A, 0x41, 0xD0, 0xE3, 0xE4, 0xE9, 0xEA, 0xF0)),
        b" the",
        "です".encode(),
        "й".encode(),
    ]
    expected = ["symbols", "symbols", "symbols", "latin", "lowres", "symbols", "cj", "cj", "symbols", "symbols"]
    assert families_of(tokens) == [*expected, "latin", "cj", "lowres"]
    expected[4:8] = ["symbols"] * 4
    assert families_of(tokens, "paper") == [*expected, "latin", "cj", "lowres"]


def test_gemma_4_mixes_complete_tokens_byte_tokens_and_doubly_typed_ones() -> None:
    tokens = [
        (b"<pad>", CONTROL),
        (b"<|tool>", USER_DEFINED),
        (b"<|tool_call>", CONTROL | USER_DEFINED),
        (b"\xe5", BYTE),
        (b"\xce", BYTE),
        " 日本語".encode(),
        " α".encode(),
    ]
    assert families_of(tokens) == ["symbols", "symbols", "symbols", "cj", "lowres", "cj", "lowres"]
    assert families_of(tokens, "paper") == ["symbols", "latin", "symbols", "symbols", "symbols", "cj", "lowres"]


def test_families_are_uint8_and_an_empty_vocabulary_has_none() -> None:
    families = token_families(make_vocab([b"a", b"1"]))
    assert families.dtype == np.uint8
    assert families.tolist() == [1, 2]
    assert token_families(make_vocab([])).shape == (0,)


def test_an_unknown_rule_set_is_refused() -> None:
    with pytest.raises(GateError, match="`rules` is 'strict', expected one of default, paper"):
        token_families(make_vocab([b"a"]), "strict")


def test_exempt_tokens_are_the_exact_normal_ones() -> None:
    tokens = [
        b"A",
        b" A",
        b"  A",
        b"G",
        b" G",
        b"H",
        b"assistant",
        b" assistant",
        b"Assistant",
        (b"B", BYTE),
        (b"C", USER_DEFINED),
        (b"D", CONTROL | NORMAL),
        b"a",
        b" E",
        b"A",
        "Ａ".encode(),
    ]
    assert exempt_tokens(make_vocab(tokens)) == (0, 1, 3, 4, 6, 11, 13, 14)


@pytest.mark.parametrize(
    ("text", "scripts"),
    [
        ("", set()),
        ("1 + 2 = 3 😀", set()),
        ("نص", {"lowres"}),
        ("نص with 中文 in it", {"lowres", "latin", "cj"}),
        ("東京 Tower", {"cj", "latin"}),
    ],
)
def test_text_families_names_the_families_of_the_letters(text: str, scripts: set[str]) -> None:
    assert text_families(text) == text_families(text, family_set("paper")) == scripts


def test_text_families_follow_the_rules_of_the_family_set() -> None:
    assert text_families("5 µm 々", family_set("default")) == {"latin", "cj"}
    assert text_families("5 µm 々", family_set("paper")) == {"latin", "lowres"}
    with pytest.raises(GateError, match="`rules` is 'letters', expected one of default, paper"):
        text_families("a", FamilySet(("a", "b"), (True, False), 1, "letters"))


def test_report_counts_families_and_fragments_and_shows_complete_normal_tokens() -> None:
    tokens = [b"a", b"b", b"c", b"d", b"!", b"\xe4\xb8", b"\xd0", "中".encode(), (b"<s>", CONTROL), b"x\xd0"]
    report = family_report(make_vocab(tokens), n_examples=2)
    assert (report.n_vocab, report.families.rules) == (10, "default")
    assert report.counts == {"cj": 2, "latin": 5, "symbols": 2, "lowres": 1}
    assert report.examples == {"cj": ("中",), "latin": ("a", "c"), "symbols": ("!",), "lowres": ()}
    assert report.n_fragments == 3
    assert report.fragment_counts == {"cj": 1, "latin": 1, "symbols": 0, "lowres": 1}
    assert report.fragment_share == pytest.approx(0.3)


def test_tokenizer_hash_covers_texts_and_their_borders_but_not_types() -> None:
    # printf '\x02\0\0\0ab\x01\0\0\0c' | sha256sum
    digest = "60014a36d7b05b0730e42a8b96faa1ffb4bd28469aea4000191179f01561ddb7"
    vocab = make_vocab([b"ab", (b"c", CONTROL)])
    assert vocab.tokenizer_hash == f"v2:{digest}"
    assert make_vocab([b"ab", b"c"]).tokenizer_hash == vocab.tokenizer_hash
    others = [
        make_vocab([b"a", (b"bc", CONTROL)]),
        make_vocab([(b"c", CONTROL), b"ab"]),
        make_vocab([b"ab", (b"c", CONTROL), b""]),
    ]
    assert len({other.tokenizer_hash for other in (vocab, *others)}) == 4
    assert vocab.has_hash(f"v2:{digest}")
    assert vocab.has_hash(digest)  # of a gate from before the hash had a version
    assert not any(other.has_hash(digest) or other.has_hash(f"v2:{digest}") for other in others)


def write_vocab(path: Path, tokens: Sequence[str], types: Sequence[int]) -> BaseModel:
    """Writes a byte-level vocabulary as a GGUF file, and reads it back."""
    from lcg_cpp.engine.model import read_base_model

    writer = gguf.GGUFWriter(path, "llama")
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("default")
    writer.add_token_list(list(tokens))
    writer.add_token_types(list(types))
    writer.add_token_merges(["Ġ t"])
    for describe in (writer.add_context_length, writer.add_embedding_length, writer.add_block_count):
        describe(64)
    writer.add_feed_forward_length(64)
    writer.add_head_count(1)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.close()
    return read_base_model(path)


def test_conversions_of_a_model_have_one_tokenizer_hash(tmp_path: Path) -> None:
    kinds = gguf.TokenType
    words = [*byte_alphabet(), "Ġthe", "<tool>"]
    n = len(words)
    one = write_vocab(
        tmp_path / "a.gguf",
        [*words, "a▁▁b", f"[PAD{n + 1}]", f"[PAD{n + 2}]"],
        [kinds.NORMAL] * (n - 1) + [kinds.CONTROL, kinds.USER_DEFINED, kinds.UNUSED, kinds.UNUSED],
    )
    two = write_vocab(
        tmp_path / "b.gguf",
        [*words, "a  b", f"[PAD{n + 1}]", f"[PAD{n + 2}]"],
        [kinds.NORMAL] * (n - 1) + [kinds.USER_DEFINED, kinds.USER_DEFINED, kinds.USER_DEFINED, kinds.USER_DEFINED],
    )
    assert one.vocab.tokens[-1] == b""  # the engine writes nothing for unused tokens
    assert two.vocab.tokens[-1] == f"[PAD{n + 2}]".encode()
    assert one.vocab.tokenizer_hash == two.vocab.tokenizer_hash
    known = make_vocab([*(word.encode() for word in words), b"a  b", b"", b""])  # as a tokenizer without padding has it
    assert known.tokenizer_hash == one.vocab.tokenizer_hash
    moved = write_vocab(tmp_path / "c.gguf", [*words, "a  b", f"[PAD{n}]", ""], [kinds.NORMAL] * (n + 3))
    assert moved.vocab.tokenizer_hash != one.vocab.tokenizer_hash  # a token that is called like padding elsewhere


def test_a_real_vocabulary_with_other_token_types_has_the_same_hash(tmp_path: Path) -> None:
    from lcg_cpp.engine.model import read_base_model

    base = real_model("qwen2")
    fields = gguf.GGUFReader(base.path).fields
    types = fields["tokenizer.ggml.token_type"]
    data = bytearray(Path(base.path).read_bytes())
    unused = np.flatnonzero(np.array(types.contents()) == gguf.TokenType.USER_DEFINED)
    assert len(unused) == 290
    begin = types.offset + len(b"tokenizer.ggml.token_type") + 8 + 4 + 4 + 8  # key, value type, element type, length
    for token in unused.tolist():
        data[begin + 4 * token : begin + 4 * token + 4] = int(gguf.TokenType.UNUSED).to_bytes(4, "little")
    other = tmp_path / "other.gguf"
    other.write_bytes(data)
    vocab = read_base_model(other).vocab
    assert vocab.tokens != base.vocab.tokens
    assert vocab.tokenizer_hash == base.vocab.tokenizer_hash


@pytest.mark.parametrize(
    ("types", "message"),
    [
        (np.array([4, 4], dtype=np.uint32), "`types` has shape \\(2,\\), expected \\(1,\\)"),
        (np.array([4], dtype=np.int64), "`types` has dtype int64, expected uint32"),
        (np.array([68], dtype=np.uint32), "`types` holds 68, expected type bits only, at most 63"),
    ],
)
def test_a_vocabulary_of_wrong_types_is_refused(types: np.ndarray, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Vocab((b"a",), types)


@cache
def real_model(name: str) -> BaseModel:
    folder = os.environ.get("LCG_VOCAB_DIR")
    if not folder:
        pytest.skip("LCG_VOCAB_DIR is not set")
    from lcg_cpp.engine.model import read_base_model

    return read_base_model(Path(folder) / f"ggml-vocab-{name}.gguf")


def test_qwen2_gives_the_papers_counts_of_qwen3_less_its_added_tokens() -> None:
    vocab = real_model("qwen2").vocab
    assert vocab.n_vocab == 151_936
    families = [FAMILIES[family] for family in token_families(vocab, "paper")]
    # the paper's table does not count fragments as cj
    by_fragment = sum(
        family == "cj" and slow_family(token.decode("utf-8", "ignore").encode(), "paper") != "cj"
        for family, token in zip(families, vocab.tokens)
    )
    assert by_fragment == 486
    assert families.count("cj") == 28_144
    counts = Counter(families)
    paper = {"cj": 27_658, "latin": 94_666, "symbols": 10_355, "lowres": 19_257}
    assert counts["cj"] - by_fragment == paper["cj"]
    assert counts["lowres"] == paper["lowres"]
    # Qwen3 adds 26 tokens: 14 control tokens, and 12 like <think> that are latin by their text; the 267 numbers up to
    # 151,936 are padding without a text. This file has 3 control tokens and 290 user-defined ones called [PAD151646].
    # Besides, llama.cpp takes the ordinary token </s> for a control token.
    assert counts["latin"] == paper["latin"] - 12 + 290 - 1
    assert counts["symbols"] + by_fragment == paper["symbols"] - 14 - 267 + 3 + 1


def test_qwen2_by_default_rules_differs_from_paper_in_what_the_rules_name_only() -> None:
    vocab = real_model("qwen2").vocab
    default, paper = (token_families(vocab, rules) for rules in ("default", "paper"))
    changed = Counter((FAMILIES[before], FAMILIES[after]) for before, after in zip(paper, default) if before != after)
    assert changed == {
        ("latin", "symbols"): 290 + 8,  # padding, and superscripts
        ("symbols", "cj"): 79,
        ("symbols", "latin"): 17,
        ("symbols", "lowres"): 433,
        ("lowres", "cj"): 23,  # Bopomofo, 々
        ("lowres", "symbols"): 550,  # 𝑥, ª, modifier letters
    }
    assert len(exempt_tokens(vocab)) == 15


@pytest.mark.parametrize("rules", ["default", "paper"])
@pytest.mark.parametrize("name", REAL_VOCABS)
def test_real_vocabularies_agree_with_the_slow_rules(name: str, rules: str) -> None:
    vocab = real_model(name).vocab
    never_text = UNKNOWN | CONTROL | (USER_DEFINED | UNUSED if rules == "default" else 0)
    expected = [
        "symbols" if bits & never_text else slow_family(token, rules)
        for token, bits in zip(vocab.tokens, vocab.types.tolist())
    ]
    assert [FAMILIES[family] for family in token_families(vocab, rules)] == expected


@pytest.mark.parametrize("name", ["llama-spm", "gemma-4"])
def test_byte_fallback_vocabularies_hold_every_lead_byte_of_cj(name: str) -> None:
    vocab = real_model(name).vocab
    families = token_families(vocab)
    by_bytes = {token: family for token, family, bits in zip(vocab.tokens, families, vocab.types) if bits == BYTE}
    assert len(by_bytes) == 256
    assert [lead for lead in range(0x80, 256) if by_bytes[bytes([lead])] == 0] == list(range(0xE4, 0xEA))


@pytest.mark.parametrize("name", REAL_VOCABS)
def test_control_tokens_of_real_vocabularies_are_never_maskable(name: str) -> None:
    vocab = real_model(name).vocab
    control = (vocab.types & CONTROL) != 0
    assert control.any()
    for rules in ("default", "paper"):
        assert set(token_families(vocab, rules)[control]) == {FAMILIES.index("symbols")}


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ((("a",), (False,), 0, "r"), "number of `families` is 1, expected 2 to 127"),
        ((tuple(map(str, range(128))), (False,) * 128, 0, "r"), "number of `families` is 128, expected 2 to 127"),
        ((("a", "b", "a"), (True, False, True), 1, "r"), "expected every name once"),
        ((("a", "b"), (True, False, True), 1, "r"), "`maskable` has 3 elements, expected 2"),
        ((("a", "b"), (True, False), 2, "r"), "`neutral` is 2, expected 0 to 1"),
        ((("a", "b"), (True, False), 0, "r"), "`maskable` is true for the neutral family `a`"),
        ((("a", "b"), (True, False), 1, ""), "`rules` is empty"),
    ],
)
def test_a_family_set_that_cannot_be_is_refused(fields: tuple[Any, ...], message: str) -> None:
    with pytest.raises(GateError, match=message):
        FamilySet(*fields)


@pytest.mark.parametrize("rules", ["default", "paper"])
def test_a_family_set_names_its_languages_by_index(rules: str) -> None:
    families = family_set(rules)
    assert (families.names, families.maskable, families.rules) == (FAMILIES, (True, True, False, False), rules)
    assert families.languages == {0: "cj", 1: "latin", 3: "lowres"}
