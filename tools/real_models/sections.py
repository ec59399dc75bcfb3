"""Sections: what the texts of every source are made of."""

from __future__ import annotations

import re
from dataclasses import dataclass
from html import unescape

_TAG = re.compile(r"<[^>]*>")


@dataclass(frozen=True)
class Section:
    """A heading and what stands under it."""

    heading: str
    paragraphs: tuple[str, ...]


def plain(markup: str) -> str:
    """The text of HTML or XML, in one line."""
    return " ".join(unescape(_TAG.sub("", markup)).split())
