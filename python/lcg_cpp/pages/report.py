"""Reports as one HTML file that needs nothing else: no network, fonts or scripts; for light and dark, phone and paper.

A report is a list of sections: a heading over paragraphs (plain strings), facts, tables and figures. Text that can be
in any script (tokens, prompts, replies) belongs into tables: a browser has the glyphs, matplotlib's font has not.
"""

from __future__ import annotations

import io
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from ..errors import GateError

if TYPE_CHECKING:
    import matplotlib.figure

_TEMPLATES = Path(__file__).parent
# matplotlib numbers the groups of each figure from 1, so two figures on a page would share ids; nothing refers to these
_GROUP_ID = re.compile(r' id="[A-Za-z0-9.]+_\d+"')


@dataclass(frozen=True)
class Facts:
    """A list of names and values."""

    rows: Sequence[tuple[str, str]]  # (name, value) as they are to be read


@dataclass(frozen=True)
class Table:
    """A table."""

    columns: Sequence[str]  # headings; one that begins with `>` has its column aligned to the right, for numbers
    rows: Sequence[Sequence[str]]  # the cells as they are to be read
    caption: str = ""  # a line above the table

    def __post_init__(self) -> None:
        for number, row in enumerate(self.rows):
            if len(row) != len(self.columns):
                raise GateError(f"`rows` has {len(row)} cells in row {number}, expected {len(self.columns)}")


@dataclass(frozen=True)
class Figure:
    """A drawing."""

    svg: str  # from `figure_svg`; it goes into the page as it is
    caption: str  # what it shows, for those who cannot see it too


@dataclass(frozen=True)
class Section:
    """A part of a report."""

    heading: str  # its heading; none if empty
    blocks: Sequence[str | Facts | Table | Figure]  # what is under it, in order; a string is a paragraph


def page(title: str, sections: Sequence[Section]) -> str:
    """Write a report as an HTML document.

    All text is escaped; characters that UTF-8 cannot hold (lone surrogates) become `?`.
    """
    return render("report.html.jinja", {"title": title, "sections": sections})


def render(template: str, values: Mapping[str, object]) -> str:
    """Fill in a template of this package; text is escaped unless it is `Markup`.

    For reports with more than sections, whose templates extend the report's.
    """
    html = _environment().get_template(template).render(values)
    return html.encode("utf-8", "replace").decode("utf-8")


def new_figure(width: float = 7.0, height: float = 3.0) -> matplotlib.figure.Figure:
    """An empty matplotlib figure of this size in inches, without a window or any global state."""
    try:
        from matplotlib.figure import Figure as MatplotlibFigure  # noqa: PLC0415 (an extra)
    except ImportError as error:
        raise GateError('matplotlib is missing, needed to draw figures: pip install "lcg-cpp[analyze]"') from error
    return MatplotlibFigure(figsize=(width, height), layout="constrained")


def figure_svg(figure: matplotlib.figure.Figure) -> str:
    """Draws a figure for a page, or for an .svg file of its own.

    The same figure gives the same text every time. What is black takes the colour of the text around it, what is white
    becomes transparent, so that the figure can be read on light and dark; text stays text.
    """
    import matplotlib as mpl  # noqa: PLC0415 (an extra)

    file = io.StringIO()
    with mpl.rc_context({"svg.fonttype": "none", "svg.hashsalt": "lcg-cpp"}):
        nothing = dict.fromkeys(("Creator", "Date", "Format", "Type"))
        figure.savefig(file, format="svg", metadata=nothing)
    svg = file.getvalue()
    svg = _GROUP_ID.sub("", svg[svg.index("<svg") :])
    svg = svg.replace("<svg ", '<svg fill="currentColor" ', 1)
    return svg.replace("#000000", "currentColor").replace("#ffffff", "none")


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=FileSystemLoader(_TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.tests["facts"] = lambda block: isinstance(block, Facts)
    environment.tests["table"] = lambda block: isinstance(block, Table)
    return environment
