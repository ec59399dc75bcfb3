"""Makes the tables that the rule set `scripts` reads: scripts.txt, which family each letter of Unicode belongs to, and
characters.txt, which code points are characters at all.

    python tools/make_script_table.py --unicode /usr/share/unicode --out python/lcg_cpp/gate

Needs the Unicode Character Database with Unihan, as Debian's package `unicode-data` installs it; two seconds. The file
is fixed: another table gives other families to tokens, and gates that were trained with them no longer compare.

Three rules say what a Han character can be. Each asks Unihan for characters in use, never for shapes:

- Simplified Chinese: in the Table of General Standard Characters (kTGH) or GB 2312 (kGB0), unless Unihan gives it a
  simplified form other than itself.
- Traditional Chinese: in Hong Kong's list of commonly used characters (kHKGlyph) or IICore for Hong Kong or Macao; or,
  unless it is the simplified form of another character, in Big5 or IICore for Taiwan (Big5 holds many that were
  characters once and are only simplified forms today: 体 优 听).
- Japanese: jōyō, jinmeiyō, JIS X 0208 level 1 or IBM's extension; or in JIS X 0208 level 2, unless it is the
  traditional or the mainland's form of a jōyō character (發 of 発, 气 of 気). Unihan's variants lack most of these
  pairs, but EACC has them: characters whose planes differ by a multiple of six at the same place are forms of one.

Characters that no rule knows can be anything: they are `han`.
"""

from __future__ import annotations

import argparse
import bz2
import re
from collections import defaultdict
from collections.abc import Iterator
from itertools import groupby
from pathlib import Path

# ISO 15924 -> family: the scripts that Unicode recommends for identifiers (UAX #31, table 5), which are those in
# everyday use. Han is told apart below; every other script is `other`.
FAMILY_OF_SCRIPT = {
    "Latin": "latin",
    "Cyrillic": "cyrillic",
    "Greek": "greek",
    "Armenian": "armenian",
    "Georgian": "georgian",
    "Arabic": "arabic",
    "Hebrew": "hebrew",
    "Thaana": "thaana",
    "Devanagari": "devanagari",
    "Bengali": "bengali",
    "Gurmukhi": "gurmukhi",
    "Gujarati": "gujarati",
    "Oriya": "oriya",
    "Tamil": "tamil",
    "Telugu": "telugu",
    "Kannada": "kannada",
    "Malayalam": "malayalam",
    "Sinhala": "sinhala",
    "Thai": "thai",
    "Lao": "lao",
    "Khmer": "khmer",
    "Myanmar": "myanmar",
    "Tibetan": "tibetan",
    "Ethiopic": "ethiopic",
    "Hangul": "hangul",
    "Hiragana": "kana",
    "Katakana": "kana",
    "Bopomofo": "hant",  # written in Taiwan only
    "Han": "kana",  # its letters that are no ideographs: 々 〆 〻 〼, which modern Chinese does not write
}
# What a Han character can be (s: simplified Chinese, t: traditional Chinese, j: Japanese) -> family.
FAMILY_OF_USES = {"s": "hans", "t": "hant", "j": "kana", "st": "hanst", "sj": "hansj", "tj": "hantj", "stj": "han"}
FAMILIES = (*dict.fromkeys(FAMILY_OF_SCRIPT.values()), "hans", "hanst", "hansj", "hantj", "han", "other")

# Letters by category that are written as signs in every script: ª º ʰ ₐ; Ω Å K; Arabic mathematical letters
SIGNS = re.compile("<(super|sub)>")
SIGN_BLOCKS = (range(0x2100, 0x2150), range(0x1EE00, 0x1EF00))
IDEOGRAPHIC_PLANES = range(0x20000, 0x3FFFE)  # reserved for ideographs, assigned or not

HEADER = """\
# Families of letters, made by tools/make_script_table.py from the Unicode Character Database {version}.
# Code points, or ranges of them, in hexadecimal; Han characters other than `han` as themselves, which come after `han`.
# Code points that are in no line are no letters. A gap of unassigned code points belongs to the family around it.
# Unicode data, copyright © Unicode, Inc., under the Unicode License v3 (SPDX `Unicode-3.0`).
"""

CHARACTERS_HEADER = """\
# Characters, made by tools/make_script_table.py from the Unicode Character Database {version}: the code points that are
# assigned, but no surrogates and none for private use.
# Unicode data, copyright © Unicode, Inc., under the Unicode License v3 (SPDX `Unicode-3.0`).
"""

Unihan = dict[int, dict[str, str]]


def read_lines(path: Path) -> Iterator[list[str]]:
    """The fields of a file of the database, without comments."""
    with path.open(encoding="utf-8") as file:
        for line in file:
            fields = [field.strip() for field in line.partition("#")[0].split(";")]
            if len(fields) > 1:
                yield fields


def code_points(field: str) -> range:
    """`41..5A` or `AA`."""
    first, _, last = field.partition("..")
    return range(int(first, 16), int(last or first, 16) + 1)


def read_property(path: Path) -> dict[int, str]:
    """Code point -> value, of a file whose first two fields are code points and a value."""
    return {code_point: fields[1] for fields in read_lines(path) for code_point in code_points(fields[0])}


def read_unihan(folder: Path) -> Unihan:
    """Code point -> field -> value."""
    unihan: Unihan = defaultdict(dict)
    for path in sorted(folder.glob("Unihan_*.txt.bz2")):
        with bz2.open(path, "rt", encoding="utf-8") as file:
            for line in file:
                if line.startswith("U+"):
                    code_point, field, value = line.rstrip("\n").split("\t", 2)
                    unihan[int(code_point[2:], 16)][field] = value
    return unihan


class HanUses:
    """What Han characters can be, by the rules at the top of this file."""

    def __init__(self, unihan: Unihan) -> None:
        self.unihan = unihan
        self.joyo_of_eacc: dict[str, list[int]] = defaultdict(list)
        for character, fields in unihan.items():
            if "kJoyoKanji" in fields and "kEACC" in fields:
                self.joyo_of_eacc[fields["kEACC"][2:]].append(character)

    def uses(self, character: int) -> str:
        """Some of `s`, `t` and `j`, in this order."""
        return "".join(
            use
            for use, can_be in zip("stj", (self.is_simplified, self.is_traditional, self.is_japanese))
            if can_be(character)
        )

    def variants(self, character: int, field: str) -> set[int]:
        return {int(value[2:], 16) for value in self.unihan[character].get(field, "").split()}

    def is_simplified(self, character: int) -> bool:
        simplified = self.variants(character, "kSimplifiedVariant")
        return not self.unihan[character].keys().isdisjoint(("kTGH", "kGB0")) and (
            not simplified or character in simplified
        )

    def is_traditional(self, character: int) -> bool:
        fields = self.unihan[character]
        regions = fields.get("kIICore", "A")[1:]
        if "kHKGlyph" in fields or not {"H", "M"}.isdisjoint(regions):
            return True
        return not self.variants(character, "kTraditionalVariant") - {character} and (
            "kBigFive" in fields or "T" in regions
        )

    def is_japanese(self, character: int) -> bool:
        fields = self.unihan[character]
        if not fields.keys().isdisjoint(("kJoyoKanji", "kJinmeiyoKanji", "kIBMJapan")):
            return True
        row = int(fields.get("kJis0", "0")) // 100
        return 0 < row < 48 or (row >= 48 and not self.is_form_of_joyo(character))

    def is_form_of_joyo(self, character: int) -> bool:
        eacc = self.unihan[character].get("kEACC", "")
        return eacc[:2] in ("21", "27") and any(
            (int(self.unihan[joyo]["kEACC"][:2], 16) - 0x21) % 6 == 0 for joyo in self.joyo_of_eacc[eacc[2:]]
        )


def family_of_scripts(scripts: set[str]) -> str:
    """The family of a letter that these scripts use; empty if several families do."""
    families = {FAMILY_OF_SCRIPT.get(script, "other") for script in scripts}
    if len(families) > 1:
        families.discard("other")
    return families.pop() if len(families) == 1 else ""


def letter_families(folder: Path) -> tuple[dict[int, str], set[int]]:
    """Code point -> family of every letter and mark of a script, and every code point that is assigned."""
    script_of = read_property(folder / "Scripts.txt")
    extensions = read_property(folder / "ScriptExtensions.txt")
    aliases = read_lines(folder / "PropertyValueAliases.txt")
    long_names = {fields[1]: fields[2] for fields in aliases if fields[0] == "sc"}
    uses = HanUses(read_unihan(folder))
    families: dict[int, str] = dict.fromkeys(IDEOGRAPHIC_PLANES, "han")
    assigned: set[int] = set()
    for character, category, decomposition in characters(folder / "UnicodeData.txt"):
        assigned.add(character)
        sign = SIGNS.match(decomposition) or any(character in block for block in SIGN_BLOCKS)
        if category[0] not in "LM" or sign:
            continue
        script = script_of.get(character, "Common")
        if script == "Han" and (category == "Lo" or character > 0xFFFF):
            unified = int(decomposition, 16) if decomposition else character
            families[character] = FAMILY_OF_USES.get(uses.uses(unified), "han")
            continue
        scripts = {script}
        if script in ("Common", "Inherited"):
            scripts = {long_names[short] for short in extensions.get(character, "").split()}
        family = family_of_scripts(scripts) if scripts else ""
        if family:
            families[character] = family
    return families, assigned


def characters(path: Path) -> Iterator[tuple[int, str, str]]:
    """Code point, category and decomposition of every assigned character but surrogates and private ones."""
    first = None
    for fields in read_lines(path):
        code_point, name, category, decomposition = int(fields[0], 16), fields[1], fields[2], fields[5]
        if name.endswith("First>"):
            first = code_point
            continue
        if category not in ("Cs", "Co"):
            for character in range(code_point if first is None else first, code_point + 1):
                yield character, category, decomposition
        first = None


def ranges(families: dict[int, str], assigned: set[int]) -> Iterator[tuple[str, int, int]]:
    """Family, first and last code point of what belongs together; Han characters are all `han` here."""
    found: tuple[str, int, int] | None = None
    for character in sorted(families):
        family = families[character]
        if family in FAMILY_OF_USES.values() and is_ideograph(character):
            family = "han"
        if found and found[0] == family and not any(c in assigned for c in range(found[2] + 1, character)):
            found = (family, found[1], character)
            continue
        if found:
            yield found
        found = (family, character, character)
    if found:
        yield found


def runs(code_points: set[int]) -> Iterator[str]:
    """Ranges of a set without a gap."""
    for _, pairs in groupby(enumerate(sorted(code_points)), key=lambda pair: pair[1] - pair[0]):
        run = [code_point for _, code_point in pairs]
        yield f"{run[0]:X}" if len(run) == 1 else f"{run[0]:X}-{run[-1]:X}"


def is_ideograph(character: int) -> bool:
    return 0x3400 <= character <= 0x9FFF or 0xF900 <= character <= 0xFAFF or character in IDEOGRAPHIC_PLANES


def wrapped(family: str, words: list[str], separator: str, width: int) -> Iterator[str]:
    line = ""
    for word in words:
        if len(line) + len(separator) + len(word) > width:
            yield f"{family}:{line}"
            line = ""
        line += separator + word if separator or line else " " + word
    if line:
        yield f"{family}:{line}"


def main() -> None:
    """Reads the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--unicode", type=Path, required=True, help="folder of Scripts.txt, UnicodeData.txt, Unihan_*")
    parser.add_argument("--out", type=Path, required=True, help="folder of the tables")
    arguments = parser.parse_args()
    families, assigned = letter_families(arguments.unicode)
    version = re.search(r"Scripts-([\d.]+)\.txt", (arguments.unicode / "Scripts.txt").read_text("utf-8"))
    assert version
    lines = [HEADER.format(version=version[1]).rstrip("\n")]
    by_family = sorted(ranges(families, assigned), key=lambda entry: FAMILIES.index(entry[0]))
    for family, entries in groupby(by_family, key=lambda entry: entry[0]):
        words = [f"{first:X}" if first == last else f"{first:X}-{last:X}" for _, first, last in entries]
        lines += wrapped(family, words, " ", 110)
    for family in FAMILIES:
        own = [chr(c) for c in sorted(families) if families[c] == family and is_ideograph(c)]
        if family != "han":
            lines += wrapped(family, own, "", 55)
    (arguments.out / "scripts.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
    lines = [CHARACTERS_HEADER.format(version=version[1]).rstrip("\n")]
    lines += wrapped("assigned", list(runs(assigned)), " ", 110)
    (arguments.out / "characters.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
