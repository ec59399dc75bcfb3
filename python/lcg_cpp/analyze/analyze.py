"""The paper's analysis for any GGUF model: does its output matrix favour a script, and where does it leave a text's?

Without texts only the vocabulary and the output matrix are read; with texts the model is evaluated on them.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from ..data import open_dataset
from ..engine.load import Engine
from ..engine.model import read_base_model
from ..engine.output_norms import OutputMatrix, read_output_matrix
from ..engine.teacher import Teacher
from ..errors import GateError
from ..files import PathLike
from ..gate.families import family_set, vocab_families
from ..gate.rule_set import FamilySet
from .confusion import BEYOND, N_RANKS, Position, Tally
from .texts import NORMS, AnalyzeOptions, TextAnalysis, TextReport

if TYPE_CHECKING:
    from ..engine.base_model import BaseModel, Vocab

LARGEST = 0.05  # "the 5 % largest output norms" of the paper's Table 1
N_BINS = 60

_OUTSIDE = 0.0005  # share of the norms at either end that goes into the first or last bin
_CONTINUES, _CONTINUATION = 0xC0, 0x80  # mask and value of UTF-8's continuation bytes


@dataclass(frozen=True)
class FamilyNorms:
    """The output norms ‖e_v‖ of a family's tokens."""

    tokens: int
    mean: float  # mean norm; NaN for no tokens, like the following
    quartiles: tuple[float, float, float]  # first quartile, median, third quartile
    # share of the family's tokens that are among the 5 % of all tokens with the largest norms (paper, Table 1). More
    # than 0.05: the model favours the family whatever the text is
    largest: float
    histogram: tuple[int, ...]  # tokens in each bin between `NormReport.edges`


@dataclass(frozen=True)
class NormReport:
    """The output norms of a model."""

    tensor: str  # the tensor that makes the logits
    tensor_type: str  # what it is stored as
    softcap: float  # c where logits are c * tanh(x / c), 0 if they are not capped
    largest_from: float  # the least of the 5 % largest norms
    families: dict[str, FamilyNorms]  # name -> its tokens; "all" for all of them
    # borders of the histograms' bins; the few norms outside count in the first and the last one
    edges: tuple[float, ...]


@dataclass(frozen=True, eq=False)
class Analysis:
    """All that was measured."""

    options: AnalyzeOptions
    base: BaseModel
    norms: NormReport  # of its output matrix
    texts: TextReport | None  # on texts, None without any

    @property
    def families(self) -> FamilySet:
        """The token families."""
        return family_set(self.options.rules, self.base.vocab)


def analyze(
    model: PathLike,
    data: Sequence[str] = (),
    options: AnalyzeOptions | None = None,
    *,
    engine: Engine | None = None,
    should_stop: Callable[[], bool] = lambda: False,
    on_progress: Callable[[TextReport], None] = lambda report: None,
) -> Analysis:
    """Analyze a model.

    Args:
        model: A GGUF file.
        data: Names of datasets, see `data.open_dataset`; without any the model's weights are not loaded.
        options: What is measured.
        engine: Settings of llama.cpp.
        should_stop: Asked after every evaluation; what was measured until then is the result.
        on_progress: Called after every few texts.

    Raises:
        GateError: Model or data cannot be used.
        OSError: A file cannot be read.
    """
    options, engine = options or AnalyzeOptions(), engine or Engine()
    datasets = [open_dataset(name) for name in data]
    matrix = read_output_matrix(model)
    if not datasets:
        base = read_base_model(model)
        return Analysis(options, base, _norms(matrix, base.vocab, options), None)
    with Teacher(model, n_ctx=options.n_ctx, **dataclasses.asdict(engine)) as teacher:
        norms = _norms(matrix, teacher.base.vocab, options)
        texts = TextAnalysis(teacher, datasets, matrix, options, should_stop)
        texts.run(on_progress)
        return Analysis(options, teacher.base, norms, texts.report)


def _norms(matrix: OutputMatrix, vocab: Vocab, options: AnalyzeOptions) -> NormReport:
    families, token_family = vocab_families(vocab, options.rules)
    return norm_report(matrix, token_family, families.names)


def norm_report(matrix: OutputMatrix, token_family: npt.NDArray[np.uint8], names: Sequence[str]) -> NormReport:
    """Sum up the output norms by family; `token_family` is uint8 (n_vocab,), indices into `names`."""
    norms = matrix.norms.astype(np.float64)
    if norms.shape != token_family.shape:
        raise GateError(f"`{matrix.tensor}` has {len(norms)} rows, expected {len(token_family)}, one for each token")
    largest = np.argsort(-norms, kind="stable")[: max(1, round(LARGEST * len(norms)))]
    is_largest = np.zeros(len(norms), np.bool_)
    is_largest[largest] = True
    edges = np.histogram_bin_edges(np.quantile(norms, [_OUTSIDE, 1 - _OUTSIDE]), N_BINS)

    def of(tokens: npt.NDArray[np.bool_]) -> FamilyNorms:
        some = bool(tokens.any())
        q1, median, q3 = np.quantile(norms[tokens], [0.25, 0.5, 0.75]).tolist() if some else [math.nan] * 3
        return FamilyNorms(
            tokens=int(np.count_nonzero(tokens)),
            mean=float(norms[tokens].mean()) if some else math.nan,
            quartiles=(q1, median, q3),
            largest=float(is_largest[tokens].mean()) if some else math.nan,
            histogram=tuple(np.histogram(np.clip(norms[tokens], edges[0], edges[-1]), edges)[0].tolist()),
        )

    by_family = {name: of(token_family == f) for f, name in enumerate(names)}
    return NormReport(
        tensor=matrix.tensor,
        tensor_type=matrix.tensor_type,
        softcap=matrix.softcap,
        largest_from=float(norms[largest[-1]]),
        families={**by_family, "all": of(np.ones(len(norms), np.bool_))},
        edges=tuple(edges.tolist()),
    )


# ---- as text and plain values ----


def token_text(token: bytes) -> str:
    """A token as text: bytes that are no complete character, and what cannot be printed, become escapes."""
    text = token.decode("utf-8", "backslashreplace")
    text = "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
    return text.strip() or repr(text)


def context_text(tokens: Sequence[int], vocab: Vocab) -> str:
    """The text of some tokens in one line; it may begin and end within a character."""
    data = b"".join(vocab.tokens[token] for token in tokens)
    while data and data[0] & _CONTINUES == _CONTINUATION:  # what is left of a character that began before
        data = data[1:]
    return " ".join(data.decode("utf-8", "replace").split())


def as_dict(analysis: Analysis) -> dict[str, Any]:
    """All of it as plain values, for JSON."""
    base, options, report = analysis.base, analysis.options, analysis.texts
    counts = ("texts", "skipped", "bad_rows", "bad", "tokens", "seconds", "finished")
    return {
        "model": base.path,
        "name": base.name,
        "architecture": base.architecture,
        "n_vocab": base.vocab.n_vocab,
        "rules": options.rules,
        "norms": dataclasses.asdict(analysis.norms),
        "texts": None
        if report is None
        else {
            "sampling": dataclasses.asdict(options.sampling),
            "seed": options.seed,
            **{name: getattr(report, name) for name in counts},
            **_tally_as_dict(report.tally, analysis.families),
            "worst": [_position_as_dict(position, base.vocab, analysis.families.names) for position in report.worst],
        },
    }


def _tally_as_dict(tally: Tally, families: FamilySet) -> dict[str, Any]:
    return {
        "positions": tally.positions,
        "families": {
            name: {
                "positions": int(tally.language[f]),
                "confusion_points": int(tally.confused[f]),
                "wrong": {other: int(tally.intruders[f, g]) for g, other in families.languages.items()},
            }
            for f, name in families.languages.items()
        },
        "confusion_points": int(tally.confused.sum()),
        "at_start": tally.at_start,
        "wrong_is_top": tally.wrong_is_top,
        "ranks": _ranks_as_dict(tally.ranks),
        "chance": tally.chance,
        "chance_is_top": tally.chance_is_top,
        "chance_ranks": _ranks_as_dict(tally.chance_ranks),
        "chances": tally.chances.tolist(),
        "switch_points": tally.switches,
        "labels": [
            {**dataclasses.asdict(setting), **dataclasses.asdict(outcome)} for setting, outcome in tally.labels.items()
        ],
    }


def _ranks_as_dict(counts: npt.NDArray[Any]) -> dict[str, Any]:
    return {**{str(rank): counts[rank].item() for rank in range(1, N_RANKS + 1)}, "beyond": counts[BEYOND].item()}


def _position_as_dict(position: Position, vocab: Vocab, names: Sequence[str]) -> dict[str, Any]:
    return {
        "data": position.dataset,
        "row": position.row,
        "token": position.index,
        "before": context_text(position.before, vocab),
        "own": {"id": position.own, "text": token_text(vocab.tokens[position.own])},
        "right": names[position.right],
        "wrong": [names[f] for f in position.wrong],
        "chance": position.chance,
        "repaired": dict(zip(NORMS, position.repaired)),
        "candidates": [
            {
                "id": shown.token,
                "text": token_text(vocab.tokens[shown.token]),
                "family": names[shown.family],
                "probabilities": dict(zip(NORMS, shown.probabilities)),
                "in_label": dict(zip(NORMS, shown.in_label)),
            }
            for shown in position.candidates
        ],
    }
