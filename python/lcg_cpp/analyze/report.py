"""An analysis as sections of a report: the terminal shows them as they are, the page with plots."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

from ..engine.base_model import Vocab
from ..pages.report import Facts, Section, Table
from .analyze import Analysis, context_text, token_text
from .confusion import N_RANKS, LabelSetting, Position, Tally
from .texts import LABELS, NORMS

_TOPS = (1, 3, 5, N_RANKS)
_MAX_REASONS = 3
_MAX_WRONG = 4  # families named in a line
_LABEL_NAMES = {name: f"{top_k} / {top_p:g}" for name, (top_k, top_p) in LABELS.items()}


def norms_section(analysis: Analysis) -> Section:
    """The output norms, as a table (paper, Table 1)."""
    norms = analysis.norms
    n_vocab = norms.families["all"].tokens
    rows = [
        (
            name,
            f"{family.tokens:,}",
            f"{family.tokens / n_vocab:.1%}",
            *(number(value) for value in (family.mean, *family.quartiles)),
            _share(family.largest, 2),
        )
        for name, family in norms.families.items()
        if family.tokens
    ]
    capped = f" The model caps its logits at {norms.softcap:g}." if norms.softcap else ""
    return Section(
        "Output norms",
        [
            f"The logit of token v is e_v · h: a long row e_v of {norms.tensor} ({norms.tensor_type}) makes v likely"
            f" whatever the text is.{capped}",
            Table(
                (
                    "family",
                    ">tokens",
                    ">share",
                    ">mean norm",
                    ">1st quartile",
                    ">median",
                    ">3rd quartile",
                    ">largest 5%",
                ),
                rows,
            ),
            "Largest 5%: share of a family's tokens that are among the 5% of all tokens with the largest norms. Above"
            " 5% the model favours the family. The paper's Qwen3-8B has cj 10.74%, latin 4.61%, lowres 0.14%.",
        ],
    )


def texts_sections(analysis: Analysis) -> list[Section]:
    """What was measured on texts, as tables."""
    if analysis.texts is None:
        return []
    tally = analysis.texts.tally
    sections = [_points_section(analysis)]
    if tally.confused.any():
        sections += [_ranks_section(tally), _labels_section(tally)]
    return sections


def _points_section(analysis: Analysis) -> Section:
    sampling = analysis.options.sampling
    return Section(
        "Confusion points",
        [
            f"The model follows each text token by token. A confusion point is a position where temperature"
            f" {sampling.temperature:g}, top-k {sampling.top_k} and top-p {sampling.top_p:g} leave it a token of a"
            " family that may be banned and is neither that of the text's own next token (the right family) nor the"
            " one just written. Texts can often go on in two ways, so this is an upper bound.",
            _points_table(analysis),
            Facts(_points_facts(analysis)),
        ],
    )


def _points_table(analysis: Analysis) -> Table:
    assert analysis.texts is not None
    tally = analysis.texts.tally
    names = analysis.families.names
    rows = [
        (
            name,
            f"{tally.language[f]:,}",
            f"{tally.confused[f]:,}",
            _share(_ratio(tally.confused[f], tally.language[f]), 2),
            _most(dict(zip(names, tally.intruders[f].tolist()))),
        )
        for f, name in analysis.families.languages.items()
        if tally.language[f]
    ]
    return Table(("right family", ">positions", ">confusion points", ">share", "wrong families, and at how many"), rows)


def _most(counts: Mapping[str, int]) -> str:
    """The families with the largest counts, and all others together."""
    found = sorted(((n, name) for name, n in counts.items() if n), key=lambda pair: -pair[0])
    shown = [f"{name} {n:,}" for n, name in found[:_MAX_WRONG]]
    rest = sum(n for n, _ in found[_MAX_WRONG:])
    return ", ".join([*shown, *([f"others {rest:,}"] if rest else [])])


def _points_facts(analysis: Analysis) -> list[tuple[str, str]]:
    report = analysis.texts
    assert report is not None
    tally = report.tally
    n_language, n_confused = int(tally.language.sum()), int(tally.confused.sum())
    stopped = "" if report.finished else ", then stopped"
    return [
        ("texts", f"{report.texts:,}, {report.tokens:,} tokens in {report.seconds:,.1f} s{stopped}"),
        *(("left out", f"{n:,} texts: {reason}") for reason, n in report.skipped.most_common(_MAX_REASONS)),
        *([("left out", f"{report.bad_rows:,} rows, such as {report.bad[0]}")] if report.bad else []),
        ("positions", f"{tally.positions:,} in replies, {n_language:,} where the text's token has a family"),
        ("confusion points", f"{n_confused:,} ({_share(_ratio(n_confused, n_language), 2)})"),
        ("at the start of a reply", f"{tally.at_start:,} of them, before its first letter"),
        ("wrong tokens", f"{_share(_ratio(tally.chance, n_language), 2)} of the positions, if it sampled there"),
        ("switch points", f"{tally.switches:,}, where the text changes its script and the model would too"),
    ]


def _ranks_section(tally: Tally) -> Section:
    def row(what: str, points: float, chance: float) -> tuple[str, str, str]:
        return (what, _share(_ratio(points, tally.confused.sum())), _share(_ratio(chance, tally.chance)))

    rows = [row("a wrong token is the most probable", tally.wrong_is_top, tally.chance_is_top)]
    for top in _TOPS:
        what = "a right token is the most probable" if top == 1 else f"a right token is in the top {top}"
        rows.append(row(what, tally.ranks[1 : top + 1].sum(), tally.chance_ranks[1 : top + 1].sum()))
    return Section(
        "Where the right family stands",
        [
            "At the confusion points as they are, and at the wrong tokens that would be sampled there (each point"
            " weighted by its probability of one). The paper finds a wrong token on top in 56.74% of cases and a right"
            " one in the top 3 in 99.29%.",
            Table(("", ">of confusion points", ">of wrong tokens"), rows),
        ],
    )


def _labels_section(tally: Tally) -> Section:
    n = int(tally.confused.sum())
    rows = []
    for name, label in LABELS.items():
        for norm in NORMS:
            outcome = tally.labels[LabelSetting(norm, *label)]
            shares = (outcome.repaired / n, outcome.wrong / n, _ratio(outcome.kept, tally.switches))
            rows.append((_LABEL_NAMES[name], norm, *map(_share, shares)))
    return Section(
        "What training labels make of it",
        [
            "A gate learns the families of the model's most probable tokens after their logits were divided by the"
            " norm (token), by the norm relative to the mean (relative) or by nothing (none). Repaired: confusion"
            " points whose label holds no wrong family. Wrong share: the wrong families' part of the label's"
            " probability, on average. Switches kept: switch points whose label holds the text's family.",
            Table(("top-k / top-p", "norm", ">repaired", ">wrong share", ">switches kept"), rows),
            "These are the labels at the very points. A label that is wider than the request, and not divided, holds"
            " all that could be sampled, so that none cannot repair there; and a gate, which learns from all its texts,"
            " can repair points whose own label does not.",
        ],
    )


def conclusion(tally: Tally) -> str:
    """What dividing by the norms does at the confusion points, in one line."""
    n = int(tally.confused.sum())
    if n == 0:
        measured = "on these texts the model never left the script" if tally.language.any() else "nothing was measured"
        return f"no confusion points: {measured}"
    outcomes = {norm: tally.labels[LabelSetting(norm, *LABELS["paper"])] for norm in NORMS}
    repaired = ", ".join(f"{norm} {_share(outcome.repaired / n)}" for norm, outcome in outcomes.items())
    wrong = ", ".join(f"{norm} {_share(outcome.wrong / n)}" for norm, outcome in outcomes.items())
    return f"labels {_LABEL_NAMES['paper']} at {n:,} confusion points: repaired {repaired}; wrong share {wrong}"


def position_blocks(
    position: Position,
    vocab: Vocab,
    names: Sequence[str],
    *,
    n_context: int | None = None,
    family: Callable[[str], str] = str,
) -> list[Facts | Table]:
    """A position in full (paper, Figure 2).

    At most `n_context` characters of the text before are shown; `family` writes a family's name.
    """
    before = context_text(position.before, vocab)
    if n_context is not None and len(before) > n_context:
        before = "…" + before[-n_context:]
    rows = [
        (
            *(f"{p:.1%}{' *' if held else '  '}" for p, held in zip(shown.probabilities, shown.in_label)),
            family(names[shown.family]),
            "of the text" if shown.token == position.own else "",
            token_text(vocab.tokens[shown.token]),
        )
        for shown in position.candidates
    ]
    repaired = [norm for norm, yes in zip(NORMS, position.repaired) if yes]
    facts = [
        ("where", f"{position.dataset}, row {position.row + 1}, token {position.index + 1}"),
        ("wrong", f"{', '.join(names[f] for f in position.wrong)}, sampled with {position.chance:.1%}"),
        ("right", names[position.right]),
        ("repaired by", ", ".join(repaired) or "no norm"),
        ("text before", before),
    ]
    columns = (*(f">{norm}  " for norm in NORMS), "family", "", "token")
    return [Facts(facts), Table(columns, rows, f"probability by norm; * is in the label ({_LABEL_NAMES['paper']})")]


# ---- numbers ----


def _ratio(part: float, whole: float) -> float:
    return float(part) / float(whole) if whole else math.nan


def _share(value: float, digits: int = 1) -> str:
    return "-" if math.isnan(value) else f"{value:.{digits}%}"


def number(value: float) -> str:
    """Four digits; "-" for NaN."""
    return "-" if math.isnan(value) else f"{value:.4g}"
