"""An analysis as one page with plots."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from markupsafe import Markup

from ..pages.families import HUES, hues
from ..pages.report import Facts, Figure, Section, figure_svg, new_figure, page
from .analyze import LARGEST, Analysis, NormReport
from .confusion import BEYOND, N_CHANCES, N_RANKS, Tally
from .report import conclusion, norms_section, number, position_blocks, texts_sections

if TYPE_CHECKING:
    import matplotlib.axes

_LINES = ("-", "--", ":", "-.")  # of families in one colour
_MAX_SHOWN = 7  # families in a plot, those with the most tokens


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
    colours = {name: HUES[hue][0] for name, hue in zip(names, hues(names))}

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
    shown, rest = _shown(norms, families)
    groups = {**{name: [name] for name in shown}, **({f"{len(rest)} others": rest} if rest else {})}
    hue_of, used, shares = dict(zip(families, hues(families))), Counter[str](), {}
    for name, group in groups.items():
        hue = hue_of.get(name, "grey")
        some = [norms.families[one] for one in group]
        tokens = sum(family.tokens for family in some)
        share = np.sum([family.histogram for family in some], axis=0) / tokens
        look = {"color": HUES[hue][0], "linestyle": _LINES[used[hue] % len(_LINES)]}
        left.stairs(share, norms.edges, **look, linewidth=1.2, label=name)
        used[hue] += 1
        shares[name] = (100 * sum(family.largest * family.tokens for family in some) / tokens, HUES[hue][0])
    left.axvline(norms.largest_from, color="black", linewidth=0.6)
    left.set_yscale("function", functions=(np.sqrt, np.square))  # one bin can hold half of a family
    left.set(xlabel="norm", ylabel="share of the family's tokens", ylim=(0, None))
    left.legend(frameon=False, fontsize="small")
    right.bar(list(shares), [share for share, _ in shares.values()], color=[colour for _, colour in shares.values()])
    right.axhline(LARGEST * 100, color="black", linewidth=0.6)
    right.set(ylabel="% among the largest 5%")
    right.tick_params(axis="x", labelrotation=60 if rest else 20, labelsize="small")
    _without_frame(left, right)
    caption = (
        f"Norms by family (line: the 5% largest begin at {number(norms.largest_from)}), and the share of each family"
        " among these (line: 5%, no preference)."
    )
    return Figure(figure_svg(figure), caption)


def _shown(norms: NormReport, families: Sequence[str]) -> tuple[list[str], list[str]]:
    """The families with the most tokens, and the others that have some, both in their own order."""
    some = [name for name in families if norms.families[name].tokens]
    largest = sorted(some, key=lambda name: -norms.families[name].tokens)
    kept = some if len(some) <= _MAX_SHOWN + 1 else largest[:_MAX_SHOWN]
    return [name for name in some if name in kept], [name for name in some if name not in kept]


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
