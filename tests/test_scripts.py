"""The rule set `scripts`: which family letters, tokens, pieces of characters and texts have, and why."""

from __future__ import annotations

import sys
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from functools import cache
from pathlib import Path

import numpy as np
import pytest

from lcg_cpp.engine.base_model import BYTE, CONTROL, NORMAL, UNKNOWN, UNUSED, USER_DEFINED, BaseModel, Vocab
from lcg_cpp.engine.model import read_base_model
from lcg_cpp.gate.families import (
    family_report,
    family_set,
    letter_counts,
    masked_as,
    text_families,
    token_families,
    vocab_families,
)
from lcg_cpp.gate.scripts import NAMES, SIBLINGS, families_of_script
from lcg_cpp.gate.spec import SPARED, spec_for

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tools"))

SCRIPTS = family_set("scripts")

# Written out here once more: who can write a character of the family (simplified, traditional, Japanese).
USES = {"hans": "s", "hant": "t", "hanst": "st", "hansj": "sj", "hantj": "tj", "han": "stj", "kana": "j"}

# Enough tokens of every family that all stand alone: one letter of each, repeated.
LETTERS = {
    "latin": "a", "cyrillic": "ж", "greek": "λ", "armenian": "ա", "georgian": "ა", "arabic": "ع", "hebrew": "א",
    "thaana": "ހ", "devanagari": "क", "bengali": "ক", "gurmukhi": "ਕ", "gujarati": "ક", "oriya": "କ", "tamil": "க",
    "telugu": "క", "kannada": "ಕ", "malayalam": "ക", "sinhala": "ක", "thai": "ก", "lao": "ກ", "khmer": "ក",
    "myanmar": "က", "tibetan": "ཀ", "ethiopic": "ሀ", "hangul": "한", "kana": "か", "hans": "这", "hant": "嗎",
    "hanst": "你", "hansj": "国", "hantj": "語", "han": "中",
}  # fmt: skip
ALL_HELD = [letter.encode() for letter in LETTERS.values() for _ in range(22)]


def make_vocab(tokens: Iterable[bytes | tuple[bytes, int]]) -> Vocab:
    pairs = [token if isinstance(token, tuple) else (token, NORMAL) for token in tokens]
    return Vocab(tuple(token for token, _ in pairs), np.array([bits for _, bits in pairs], dtype=np.uint32))


def families_of(tokens: Iterable[bytes | tuple[bytes, int]]) -> list[str]:
    """Families in a vocabulary that holds every script."""
    tokens = list(tokens)
    families, family = vocab_families(make_vocab([*tokens, *ALL_HELD]), "scripts")
    assert families.names == NAMES
    return [families.names[f] for f in family[: len(tokens)]]


@pytest.mark.parametrize(("family", "letter"), LETTERS.items())
def test_every_family_has_letters(family: str, letter: str) -> None:
    assert families_of([letter.encode(), b" 1" + letter.encode() + b"."]) == [family, family]


@pytest.mark.parametrize(
    ("characters", "family"),
    [
        # Han, by who writes it
        ("这说们为吗发东广气个", "hans"),  # 广 气 个 are in JIS X 0208 too, but nobody writes them in Japanese
        ("說嗎權對學發", "hant"),  # 權 對 學 發 too: Japanese has 権 対 学 発
        ("你她卡咖吧", "hanst"),
        ("国学会来当万体机", "hansj"),
        ("語話東時間為於後這們", "hantj"),  # 這 is Japanese too: 這う; 們 is in JIS X 0208
        ("中文字人因后台着里", "han"),  # 后 台 里 are traditional characters of their own too
        ("働込駅広気実発図円", "kana"),
        ("齟齬躊饗", "hantj"),  # JIS level 2, without a simpler Japanese form
        ("么听网优胜", "hans"),  # in Big5, but traditional texts write 麼 聽 網 優 勝
        ("嘅啲喺冇", "hant"),  # Cantonese
        ("乭畓", "han"),  # Korean: no list has them
        ("𠀀𪚥㐀龥", "han"),  # rare
        ("﨑髙", "kana"),  # IBM's
        ("李金", "han"),  # compatibility ideographs are what they decompose into
        # kana and its marks
        ("あアぁァゟヿㇰ𛀀", "kana"),
        ("ｱｶﾞｰ", "kana"),  # halfwidth, with its voiced mark and its prolonged sound mark
        ("ー", "kana"),  # common to Hiragana and Katakana, nothing else
        ("ゝゞヽヾ〱", "kana"),
        ("々〆〼", "kana"),  # modern Chinese writes neither
        ("\u3099", "kana"),  # combining voiced mark
        # combining marks and vowel signs of scripts
        ("\u093e\u094d\u0902", "devanagari"),
        ("\u0e31\u0e48", "thai"),
        ("\u0bbe\u0bcd", "tamil"),
        ("\u064b\u0651\u0640", "arabic"),  # harakat and tatweel, which Syriac shares
        ("\u05b8", "hebrew"),
        # forms of letters
        ("Ａｚ", "latin"),
        ("ﬁĳŉ", "latin"),
        ("ﻋﷲ", "arabic"),
        ("ש\ufb2a", "hebrew"),
        ("ᄀㄱﾡ", "hangul"),  # jamo: conjoining, compatibility, halfwidth
        ("əʃɪŋᴀ", "latin"),  # IPA
        ("ⴀᲐა", "georgian"),  # all three cases
        ("ἀώ", "greek"),
        ("ㄅㄆㆠ", "hant"),  # Bopomofo
        # scripts that share `other`
        ("ᐊᏣꦀߊⲁܐᠠ𐎀", "other"),
        # signs, whatever script they come from
        ("ªºµ", "symbols"),
        ("ʰˈʼⁿₐᵃ", "symbols"),
        ("\u2126\u212a\u212b", "symbols"),  # ohm, kelvin, ångström
        ("ℝℓ™№𝑥𝔸", "symbols"),
        ("ⓐ㉠㋐㎏㍿🅰", "symbols"),
        ("Ⅷⅷ〇〡", "symbols"),  # numbers by category
        ("0٣۳३๓３", "symbols"),  # digits of every script
        ("\u0301\u0308\ufe0f\u200d", "symbols"),  # marks of every script
        ("、。「」・゛。？．", "symbols"),
        ("।؟׃฿", "symbols"),
        ("😀\ue000", "symbols"),
    ],
)
def test_letters_have_the_family_of_who_writes_them(characters: str, family: str) -> None:
    assert dict(zip(characters, families_of(map(str.encode, characters)))) == dict.fromkeys(characters, family)


@pytest.mark.parametrize(
    ("token", "family"),
    [
        ("因为", "hans"),  # 因 can be anything, 为 cannot
        ("中国", "hansj"),
        ("你国", "hans"),  # simplified or traditional, simplified or Japanese
        ("国語", "kana"),  # only Japanese writes both
        ("你們", "hant"),  # either Chinese, traditional or Japanese
        ("参數", "han"),  # nobody writes both: anything, so that it is never banned where it is right
        ("食べる", "kana"),
        ("は中国", "kana"),
        ("Tシャツ", "kana"),
        ("T吧", "hanst"),
        ("iPhone手机壳", "hans"),
        ("API를", "hangul"),
        ("Привет hello", "cyrillic"),
        ("α-beta", "greek"),
        ("cafe\u0301", "latin"),
        ("１２月", "han"),
        ("한中", "han"),  # Han first
        ("жλ", "cyrillic"),  # then the order of the families
        ("ᐊa", "other"),
        ("1ª", "symbols"),
        ("«»", "symbols"),
        ("", "symbols"),
    ],
)
def test_a_token_of_several_families_is_what_all_its_letters_can_be(token: str, family: str) -> None:
    assert families_of([token.encode()]) == [family]


def test_tokens_that_are_never_text_are_neutral_whatever_they_spell() -> None:
    bits = (UNKNOWN, CONTROL, USER_DEFINED, UNUSED, CONTROL | NORMAL)
    assert families_of((b"think", bit) for bit in bits) == ["symbols"] * len(bits)


@pytest.mark.parametrize(
    ("token", "family"),
    [
        (b"\xe4", "han"),  # all of U+4000..4FFF but 64 hexagrams
        (b"\xe9", "han"),
        (b"\xe8\xbf", "han"),  # U+8FC0..8FFF holds 这 這 込 近
        (b"\xf0\xa0", "han"),
        (b"\xf0\xb3\x92", "han"),  # planes 2 and 3 are reserved for ideographs
        (b"\xef\xa4", "han"),  # compatibility ideographs
        (b"\xe3\x81", "kana"),
        (b"\xe3\x83", "kana"),  # with ・
        (b"\xe3", "symbols"),  # kana, Bopomofo, Hangul, ideographs
        (b"\xe3\x80", "symbols"),  # 、 and 。 are more than 々 and 〆
        (b"\xe3\x84", "symbols"),  # Bopomofo, Hangul
        (b"\xef\xbc", "symbols"),  # fullwidth punctuation and letters
        (b"\xef\xbd", "symbols"),  # fullwidth Latin, halfwidth kana
        (b"\xc3", "latin"),
        (b"\xca", "latin"),  # with modifier letters
        (b"\xe1\xba", "latin"),  # Vietnamese
        (b"\xc2", "symbols"),
        (b"\xcb", "symbols"),  # modifier letters only
        (b"\xce", "greek"),
        (b"\xcf", "greek"),  # with 14 letters of Coptic
        (b"\xd0", "cyrillic"),
        (b"\xd4", "symbols"),  # Cyrillic, Armenian
        (b"\xd5", "armenian"),
        (b"\xd7", "hebrew"),
        (b"\xd8", "arabic"),
        (b"\xdd", "arabic"),  # with Syriac
        (b"\xe0", "symbols"),  # fifteen scripts
        (b"\xe0\xa4", "devanagari"),
        (b"\xe0\xa6", "bengali"),
        (b"\xe0\xb8", "thai"),
        (b"\xe0\xb9", "thai"),  # with digits
        (b"\xe1\x83", "georgian"),
        (b"\xe1\x88", "ethiopic"),
        (b"\xe1\x90", "other"),
        (b"\xea", "symbols"),  # Yi, Latin extensions, Hangul
        (b"\xea\xb0", "hangul"),
        (b"\xeb", "hangul"),
        (b"\xed", "hangul"),
        (b"\xe2\x80", "symbols"),
        (b"\xf0", "symbols"),
        (b"\xf0\x9f\x98", "symbols"),
        (b"\xb8\xad", "symbols"),  # the end of a character: nobody knows which
        (b"abc\xe4\xb8", "han"),
        ("国".encode() + b"\xe5", "hansj"),
        (b"\xb8\xad\xd0", "cyrillic"),
    ],
)
def test_an_unfinished_character_counts_only_where_its_family_is_sure(token: bytes, family: str) -> None:
    assert families_of([token, (token, BYTE)]) == [family, family]


@cache
def completions() -> dict[bytes, list[str]]:
    """Every unfinished character -> what it can become, from encoding all of Unicode."""
    found: dict[bytes, list[str]] = defaultdict(list)
    for character in map(chr, (*range(0x80, 0xD800), *range(0xE000, 0x110000))):
        encoded = character.encode()
        for n in range(1, len(encoded)):
            found[encoded[:n]].append(character)
    return found


def test_no_unfinished_character_is_banned_where_a_letter_that_it_can_become_is_right() -> None:
    letters = [c for c in map(chr, range(0x110000)) if unicodedata.category(c)[0] in "LM"]
    family_of = dict(zip(letters, (next(iter(text_families(c, SCRIPTS)), "") for c in letters)))
    judged = Counter()
    for fragment, family in zip(completions(), families_of(completions())):
        possible = {family_of.get(character, "") for character in completions()[fragment]} - {""}
        judged[family] += 1
        if family in USES:
            assert all(set(USES[other]) <= set(USES[family]) for other in possible - {"other"}), fragment
        elif family != "symbols":
            assert possible - {"other"} <= {family}, fragment
    assert judged.keys() > {"han", "kana", "hangul", "latin", "other", "symbols"}


def test_the_table_agrees_with_the_names_of_letters() -> None:
    """Unicode's names are independent of the Script property that made the table."""
    words = {name.upper(): name for name in LETTERS if name not in USES}
    words.update(HIRAGANA="kana", KATAKANA="kana", BOPOMOFO="hant")
    signs = ("<super>", "<sub>", "<font>", "<circle>", "<square>")
    checked = Counter()
    for code_point in range(0x110000):
        character = chr(code_point)
        if unicodedata.category(character)[0] != "L" or unicodedata.normalize("NFC", character) != character:
            continue  # no letter, or the same as another
        if unicodedata.decomposition(character).startswith(signs):
            continue
        word, _, rest = unicodedata.name(character, "").removeprefix("HALFWIDTH ").partition(" ")
        word = rest.partition(" ")[0] if word == "FULLWIDTH" else word
        if word in words and "KATAKANA-HIRAGANA" not in rest:
            assert text_families(character, SCRIPTS) == {words[word]}, unicodedata.name(character)
            checked[words[word]] += 1
    assert checked.keys() == {*words.values()}


def rows(codec: str, first: int, last: int) -> Iterator[str]:
    """The characters in some rows of a character set of 94 by 94, from Python's codec of it."""
    for row in range(first, last + 1):
        for cell in range(1, 95):
            try:
                yield bytes((0xA0 + row, 0xA0 + cell)).decode(codec)
            except UnicodeDecodeError:
                continue


def share(characters: Iterable[str], use: str) -> float:
    """Part of some characters that a use can write."""
    uses = [USES[text_families(character, SCRIPTS).pop()] for character in characters]
    return sum(use in each for each in uses) / len(uses)


def big5(first: int, last: int) -> Iterator[str]:
    for code in range(first, last + 1):
        try:
            yield code.to_bytes(2, "big").decode("big5")
        except UnicodeDecodeError:
            continue


def test_common_characters_of_the_legacy_code_pages_can_be_written_where_the_code_page_was_made() -> None:
    assert share(rows("gb2312", 16, 55), "s") == 1.0
    assert share(rows("euc_jp", 16, 47), "j") == 1.0
    assert share(rows("gb2312", 56, 87), "s") > 0.99  # without 後 於 乾's like
    assert share(rows("euc_jp", 48, 84), "j") > 0.93  # without the old forms of jōyō kanji
    # Big5 also has characters that are only simplified forms today: 么 体 听
    assert share(big5(0xA440, 0xC67E), "t") > 0.99
    hanja = list(rows("euc_kr", 42, 93))
    assert len(hanja) == 4888
    assert sum("t" in USES[text_families(c, SCRIPTS).pop()] for c in hanja) / len(hanja) > 0.96


def test_families_are_empty_of_what_the_other_code_pages_are_full_of() -> None:
    for codec, use, most in (("euc_jp", "hans", 0.02), ("gb2312", "hant", 0.02), ("big5", "hans", 0.08)):
        encodable = 0
        characters = [chr(c) for c in range(0x4E00, 0xA000) if text_families(chr(c), SCRIPTS) == {use}]
        for character in characters:
            try:
                character.encode(codec)
            except UnicodeEncodeError:
                continue
            encodable += character.encode(codec)[0] != 0x8F  # JIS X 0212, which holds everything
        assert encodable / len(characters) < most, (codec, use)


# The first article of the Universal Declaration of Human Rights, or its first words.
ARTICLE = {
    "Hans": "人人生而自由,在尊严和权利上一律平等。他们赋有理性和良心,并应以兄弟关系的精神相对待。",
    "Hant": "人人生而自由,在尊嚴和權利上一律平等。他們賦有理性和良心,並應以兄弟關係的精神相對待。",
    "Jpan": "すべての人間は、生まれながらにして自由であり、かつ、尊厳と権利とについて平等である。",
    "Kore": "모든 인간은 태어날 때부터 자유로우며 그 존엄과 권리에 있어 동등하다.",
    "Latn": "Tất cả mọi người sinh ra đều được tự do và bình đẳng về nhân phẩm và quyền lợi.",
    "Cyrl": "Все люди рождаются свободными и равными в своем достоинстве и правах.",
    "Grek": "Όλοι οι άνθρωποι γεννιούνται ελεύθεροι και ίσοι στην αξιοπρέπεια και τα δικαιώματα.",
    "Arab": "يولد جميع الناس أحرارًا متساوين في الكرامة والحقوق.",
    "Hebr": "כל בני אדם נולדו בני חורין ושווים בערכם ובזכויותיהם.",
    "Deva": "सभी मनुष्यों को गौरव और अधिकारों के मामले में जन्मजात स्वतन्त्रता और समानता प्राप्त है ।",
    "Thai": "มนุษย์ทั้งหลายเกิดมามีอิสระและเสมอภาคกันในเกียรติศักดิ์และสิทธิ",
    "Cher": "ᏂᎦᏓ ᎠᏂᏴᏫ",
}


@pytest.mark.parametrize(("script", "text"), ARTICLE.items())
def test_texts_hold_only_the_families_of_their_script(script: str, text: str) -> None:
    assert text_families(text, SCRIPTS) <= families_of_script(script)


def test_texts_of_sibling_scripts_can_be_told_apart() -> None:
    def foreign(text: str, reader: str) -> set[str]:
        return {c for c in ARTICLE[text] if text_families(c, SCRIPTS) - families_of_script(reader)}

    assert foreign("Hans", "Hant") == set("严权们赋应关对")
    assert foreign("Hant", "Hans") == set("嚴權們賦並應關係對")
    assert foreign("Hans", "Jpan") == set("严权们赋并应关对")
    assert foreign("Hant", "Jpan") == set("權關對")  # the others are old forms that names still have, or not simpler
    assert foreign("Jpan", "Hans") == {c for c in ARTICLE["Jpan"] if "ぁ" <= c <= "ゖ"} | set("間権厳")


def test_letters_of_texts_are_counted() -> None:
    assert letter_counts("因为「かな」 says 2", SCRIPTS) == {"han": 1, "hans": 1, "kana": 2, "latin": 4}


def test_siblings_are_the_families_of_chinese_and_japanese() -> None:
    assert families_of_script("Hans") | families_of_script("Hant") | families_of_script("Jpan") == SIBLINGS


@pytest.mark.parametrize(
    ("script", "families"),
    [
        ("Hans", "hans hanst hansj han"),
        ("Hant", "hant hanst hantj han"),
        ("Jpan", "kana hansj hantj han"),
        ("Hani", "hans hant hanst hansj hantj han"),
        ("Kore", "hangul"),
        ("hebr", "hebrew"),
        ("Laoo", "lao"),
        ("Cher", "other"),
    ],
)
def test_a_script_has_the_families_that_it_is_written_with(script: str, families: str) -> None:
    assert families_of_script(script) == set(families.split())


def test_a_script_with_fewer_than_22_tokens_shares_other_or_han() -> None:
    def held(**counts: int) -> tuple[str, ...]:
        tokens = [LETTERS[family].encode() for family, n in counts.items() for _ in range(n)]
        return vocab_families(make_vocab(tokens), "scripts")[0].names

    assert held() == ("other", "symbols")
    assert held(hebrew=22, latin=40, greek=21) == ("latin", "hebrew", "other", "symbols")
    assert held(hans=22, hant=21, han=1) == ("hans", "han", "other", "symbols")  # 22 in `han`
    assert held(hans=20, han=1, kana=22) == ("kana", "other", "symbols")


def test_what_shares_a_family_is_counted_there_in_tokens_and_in_texts() -> None:
    tokens = [letter.encode() for letter in "中" * 21 + "这" + "a" * 22 + "λか한"]
    families, family = vocab_families(make_vocab(tokens), "scripts")
    assert families.names == ("latin", "han", "other", "symbols")
    assert families.maskable == (True, True, True, False)
    assert families.neutral == 3
    assert [families.names[f] for f in family] == ["han"] * 22 + ["latin"] * 22 + ["other"] * 3
    assert letter_counts("这中a λか1", families) == {"han": 2, "latin": 1, "other": 2}


def test_families_depend_on_nothing_but_the_vocabulary() -> None:
    tokens = ALL_HELD[::-1]
    assert family_set("scripts", make_vocab(tokens)) == family_set("scripts", make_vocab(ALL_HELD)) == SCRIPTS
    assert np.array_equal(
        token_families(make_vocab(tokens), "scripts"), token_families(make_vocab(ALL_HELD), "scripts")[::-1]
    )


def test_the_beginning_of_a_simplified_character_goes_with_hans_behind_white_space() -> None:
    begun = [b" \xe5", b"\n\t\xe9\xb8", b" \xe5\x9b"]
    others = [
        b"\xe5",  # there would be no other way to write it
        b"\xe9\xb8",
        b"-\xe5",
        " 中".encode() + b"\xe5",
        b" \xe6\x9b",  # no simplified character begins so
        b" \xe3\x82",  # kana
        " 鸡".encode(),  # complete
        b" ",
    ]
    tokens = ALL_HELD + begun + others
    vocab = make_vocab(tokens)
    families, table = vocab_families(vocab, "scripts")
    found = masked_as(vocab, families, table)
    hans, han = map(families.names.index, ("hans", "han"))
    assert found == {tokens.index(token): hans for token in begun}
    assert {table[token] for token in found} == {han}
    base = BaseModel("m.gguf", "Tiny", "llama", 64, vocab)
    assert spec_for(base, n_hidden=0, rules="scripts").masked_as == found
    assert spec_for(base, n_hidden=0, rules="scripts", train={SPARED: "hans, hant"}).masked_as == {}
    # where simplified Chinese has no family of its own, or one that is never removed
    assert masked_as(vocab, families.unmaskable(["hans"]), table) == {}
    assert masked_as(vocab, *vocab_families(vocab, "default")) == {}


@pytest.mark.parametrize(
    ("name", "families", "not_japanese", "by_code_page"),
    [
        ("qwen2", 29, 0.511, 0.496),
        ("gemma-4", 34, 0.335, 0.350),
        ("llama-bpe", 17, 0.264, 0.238),
        ("deepseek-llm", 13, 0.473, 0.451),
        ("llama-spm", 19, None, None),
    ],
)
def test_real_vocabularies(
    vocab_dir: Path, name: str, families: int, not_japanese: float | None, by_code_page: float | None
) -> None:
    vocab = read_base_model(vocab_dir / f"ggml-vocab-{name}.gguf").vocab
    report = family_report(vocab, "scripts")
    assert len(report.families) == families
    assert sum(report.counts.values()) == vocab.n_vocab
    assert all(count >= 22 for family, count in report.counts.items() if family != "other")
    if not_japanese is None:
        return
    han = [token for token in (t.decode("utf-8", "ignore") for t in vocab.tokens) if any(map(is_han, token))]
    table = dict(zip(vocab.tokens, token_families(vocab, "scripts")))
    names = report.families.names
    found = sum("j" not in USES[names[table[token.encode()]]] for token in han if token.encode() in table)
    assert found / len(han) == pytest.approx(not_japanese, abs=0.01)
    assert sum(not in_japanese_code_page(token) for token in han) / len(han) == pytest.approx(by_code_page, abs=0.01)


def is_han(character: str) -> bool:
    return unicodedata.name(character, "").startswith("CJK UNIFIED")


def in_japanese_code_page(token: str) -> bool:
    try:
        "".join(filter(is_han, token)).encode("cp932")
    except UnicodeEncodeError:
        return False
    return True
