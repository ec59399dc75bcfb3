"""An analysis as one page with plots."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from itertools import cycle
from typing import TYPE_CHECKING

import numpy as np
from markupsafe import Markup

from ..pages.report import Facts, Figure, Section, figure_svg, new_figure, page
from .analyze import LARGEST, Analysis, NormReport
from .confusion import BEYOND, N_CHANCES, N_RANKS, Tally
from .report import conclusion, norms_section, number, position_blocks, texts_sections

if TYPE_CHECKING:
    import matplotlib.axes

_COLOURS = ("#d1495b", "#2e86ab", "#888888", "#3d9970")  # by family
_LINES = ("-", "--", ":", "-.")


def analysis_page(analysis: Analysis) -> str:
    """All of it as one HTML page."""
    base, report = analysis.base, analysis.texts
    facts = [
        ("model", f"{base.name} ({', '.join(filter(None, (base.architecture, base.file_type)))})"),
        ("token families", f"rules {analysis.options.rules}"),
    ]
    sections = [
        _with(norms_section(analysis), _norm_plots(analysis.norms, analysis.families.names)),
        *texts_sections(analysis),
    ]
    if report is not None:
        facts.append(("in short", conclusion(report.tally)))
        if report.tally.confused.any():
            sections[2] = _with(sections[2], _rank_plots(report.tally))
            sections.append(_worst_section(analysis))
    return page(f"Script confusion of {base.name}", [Section("", [Facts(facts)]), *sections])


def _with(section: Section, figure: Figure) -> Section:
    return dataclasses.replace(section, blocks=[*section.blocks, figure])


def _worst_section(analysis: Analysis) -> Section:
    assert analysis.texts is not None
    intro = (
        "The confusion points with the largest probability of a wrong token: the most probable tokens at temperature 1,"
        " before the division (none) and after it (token, relative)."
    )
    names = analysis.families.names
    colours = dict(zip(names, cycle(_COLOURS)))

    def coloured(family: str) -> str:
        style = f"border-left: .6em solid {colours[family]}; padding-left: .4em"
        return Markup('<span style="{}">{}</span>').format(style, family)

    blocks = [
        block
        for position in analysis.texts.worst
        for block in position_blocks(position, analysis.base.vocab, names, family=coloured)
    ]
    return Section("The worst positions", [intro, *blocks])


def _norm_plots(norms: NormReport, families: Sequence[str]) -> Figure:
    figure = new_figure(7.0, 2.9)
    left, right = figure.subplots(1, 2, width_ratios=(2, 1))
    looks = {name: look for name, *look in zip(families, cycle(_COLOURS), cycle(_LINES)) if norms.families[name].tokens}
    for name, (colour, line) in looks.items():
        share = np.array(norms.families[name].histogram) / norms.families[name].tokens
        left.stairs(share, norms.edges, color=colour, linestyle=line, linewidth=1.2, label=name)
    left.axvline(norms.largest_from, color="black", linewidth=0.6)
    left.set_yscale("function", functions=(np.sqrt, np.square))  # one bin can hold half of a family
    left.set(xlabel="norm", ylabel="share of the family's tokens", ylim=(0, None))
    left.legend(frameon=False, fontsize="small")
    shares = [norms.families[name].largest * 100 for name in looks]
    right.bar(list(looks), shares, color=[colour for colour, _ in looks.values()])
    right.axhline(LARGEST * 100, color="black", linewidth=0.6)
    right.set(ylabel="% among the largest 5%")
    right.tick_params(axis="x", labelrotation=20)
    _without_frame(left, right)
    caption = (
        f"Norms by family (line: the 5% largest begin at {number(norms.largest_from)}), and the share of each family"
        " among these (line: 5%, no preference)."
    )
    return Figure(figure_svg(figure), caption)


def _rank_plots(tally: Tally) -> Figure:
    figure = new_figure(7.0, 2.6)
    left, right = figure.subplots(1, 2)
    left.bar([*range(1, N_RANKS + 1), N_RANKS + 2], [*tally.ranks[1:], tally.ranks[BEYOND]], color="#888888")
    left.set_xticks([1, 5, 10, 15, N_RANKS + 2], ["1", "5", "10", "15", f">{N_RANKS}"])
    left.set(xlabel="rank of the first right token", ylabel="confusion points")
    right.stairs(tally.chances, np.linspace(0, 1, N_CHANCES + 1), fill=True, color="#888888")
    right.set(xlabel="probability of a wrong token", ylabel="confusion points", xlim=(0, 1))
    _without_frame(left, right)
    caption = "Confusion points by rank of the first right token, and by their probability of a wrong one."
    return Figure(figure_svg(figure), caption)


def _without_frame(*all_axes: matplotlib.axes.Axes) -> None:
    for axes in all_axes:
        axes.spines[["top", "right"]].set_visible(False)
