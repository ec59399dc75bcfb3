"""Translated manuals of Debian: prose about software, in which other scripts rightly hold Latin names and commands.

Two packages are unpacked, and nothing of them is run: GNOME's user documentation (CC BY-SA 3.0) in 20 languages, and
the Debian Reference (GPL 2 or later) in traditional Chinese, which the first does not have. A page is the answer to its
own title.
"""

from __future__ import annotations

import re
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

from lcg_cpp.gate.families import letter_counts
from lcg_cpp.gate.scripts import RULE_SET, families_of_script

from .sections import Section, plain

PACKAGES = ("gnome-user-docs", "debian-reference-zh-tw")
_FOLDERS = ("usr/share/help", "usr/share/debian-reference")
_OWN = 0.6  # share of a paragraph's letters that are of the language's script; less is a list of names, or English
_MEASURED = 5  # every so many pages one is measured on

_HEADING = re.compile(r"<title[^>]*>(.*?)</title>", re.DOTALL)
_PARAGRAPH = re.compile(r"<p>(.*?)</p>", re.DOTALL)
_CHAPTER_SECTION = re.compile(r'<div class="section">(.*?)(?=<div class="section">|\Z)', re.DOTALL)
_CHAPTER_HEADING = re.compile(r"<h[2-4][^>]*>(.*?)</h[2-4]>", re.DOTALL)
_NUMBER = re.compile(r"^[\d.]+\s*")


def get_manuals(folder: Path) -> Path:
    """The folder with the unpacked packages: downloaded with apt, unless it is there."""
    manuals = folder / "manuals"
    if not manuals.exists():
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder) as name:
            partial = Path(name)
            for package in PACKAGES:
                subprocess.run(["apt-get", "download", "-qq", package], cwd=partial, check=True)
                packed = next(partial.glob(f"{package}_*.deb"))
                subprocess.run(["dpkg-deb", "-x", str(packed), str(partial / "all")], check=True)
            (partial / "all").rename(manuals)
    return manuals


def manual_sections(manuals: Path, language: str, script: str, *, measured: bool) -> list[Section]:
    """The pages in a language whose paragraphs are mostly in its script.

    Args:
        manuals: The folder with the packages.
        language: As GNOME calls it.
        script: ISO 15924 code.
        measured: Give those that no gate learns from, one in five, or the others. They are the same in every language.
    """
    found = []
    for number, (heading, texts) in enumerate(_pages(manuals, language)):
        own = tuple(text for text in texts if _is_own(text, script))
        if (number % _MEASURED == 0) == measured and own and _is_own(heading, script):
            found.append(Section(heading, own))
    return found


def _pages(manuals: Path, language: str) -> Iterator[tuple[str, list[str]]]:
    """Title and paragraphs of every page, in an order that mixes their subjects and is the same in every language."""
    help_pages, chapters = (manuals / folder for folder in _FOLDERS)
    if language == "zh_TW":
        for path in sorted(chapters.glob("ch*.zh-tw.html")):
            for section in _CHAPTER_SECTION.findall(path.read_text(encoding="utf-8")):
                heading = next(map(plain, _CHAPTER_HEADING.findall(section)), "")
                yield _NUMBER.sub("", heading), list(map(plain, _PARAGRAPH.findall(section)))
    for path in sorted((help_pages / language).glob("gnome-help/*.page"), key=lambda path: path.name[::-1]):
        page = path.read_text(encoding="utf-8")
        yield next(map(plain, _HEADING.findall(page)), ""), list(map(plain, _PARAGRAPH.findall(page)))


def _is_own(text: str, script: str) -> bool:
    """Whether a text is in a script: most letters are of it, and the others Latin."""
    own, counts = families_of_script(script), letter_counts(text, RULE_SET.families)
    n_own = sum(n for family, n in counts.items() if family in own)
    return counts.keys() <= own | {"latin"} and n_own > 0 and n_own >= _OWN * counts.total()
