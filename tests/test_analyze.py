"""`lcg-cpp analyze`: positions by hand, whole texts against plain loops over sorted rows, and the command itself."""

from __future__ import annotations

import argparse
import dataclasses
import json
import math
import re
import signal
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

import tiny_model
from lcg_cpp import GateError
from lcg_cpp.analyze.analyze import analyze, context_text, norm_report, token_text
from lcg_cpp.analyze.confusion import LabelSetting, Points, Tally, compare_norms, mixed_families
from lcg_cpp.analyze.texts import AnalyzeOptions, TextAnalysis
from lcg_cpp.commands import analyze as command
from lcg_cpp.commands.errors import UsageError
from lcg_cpp.data import Encoder, open_dataset
from lcg_cpp.demo import MODEL, PROMPTS
from lcg_cpp.engine.base_model import NORMAL, BaseModel, Vocab
from lcg_cpp.engine.load import Engine
from lcg_cpp.engine.output_norms import OutputMatrix, read_output_matrix
from lcg_cpp.engine.teacher import States, Teacher
from lcg_cpp.gate.decisions import NO_FAMILY, FamilyTable
from lcg_cpp.gate.families import exempt_tokens, family_set, token_families
from lcg_cpp.gate.steps import Sampling, Steps

CJ, LATIN, SYMBOLS, LOWRES = range(4)
NAMES = ("cj", "latin", "symbols", "lowres")
FOUR = family_set()
FAMILIES = FamilyTable(np.array([CJ, LATIN, SYMBOLS, LOWRES, LOWRES]), FOUR)
REQUEST = Sampling(temperature=1.0, top_k=20, top_p=0.8)
ONE_THREAD = Engine(n_batch=64, n_threads=1)


def logits_of(*rows: Sequence[float]) -> npt.NDArray[np.float32]:
    with np.errstate(divide="ignore"):
        return np.log(np.array(rows, np.float32))


def points_of(rows: list[list[float]], last: list[int], following: list[int], sampling: Sampling = REQUEST) -> Points:
    steps = Steps.of(logits_of(*rows), sampling)
    return Points.of(steps, sampling, np.array(last, np.int64), np.array(following), FAMILIES)


#        cj   latin  symbols  lowres  lowres
MIXED = [0.55, 0.07, 0.05, 0.30, 0.03]  # top-p 0.8 leaves cj and the first lowres


# ---- positions ----


def test_a_family_that_is_neither_the_texts_nor_the_last_one_is_wrong() -> None:
    points = points_of([MIXED], [LOWRES], [3])
    assert points.confused.tolist() == [True]
    assert points.wrong.tolist() == [[True, False, False, False]]
    assert points.right.tolist() == [LOWRES]
    assert points.switch.tolist() == [False]
    assert points.wrong_is_top.tolist() == [True]
    assert points.rank.tolist() == [2]
    assert points.chance[0] == pytest.approx(0.55 / 0.85)


def test_the_chance_of_a_wrong_token_is_that_of_the_temperature() -> None:
    points = points_of([MIXED], [LOWRES], [3], dataclasses.replace(REQUEST, temperature=0.5))
    assert points.chance[0] == pytest.approx(0.55**2 / (0.55**2 + 0.30**2))


def test_the_family_just_written_is_never_wrong() -> None:
    assert not points_of([MIXED], [CJ], [3]).confused[0]


def test_before_the_first_language_token_every_other_maskable_family_is_wrong() -> None:
    points = points_of([MIXED], [NO_FAMILY], [3])
    assert points.wrong.tolist() == [[True, False, False, False]]


def test_a_family_that_cannot_be_masked_is_never_wrong() -> None:
    points = points_of([[0.3, 0.6, 0.0, 0.1, 0.0]], [LATIN], [0])  # the text turns to cj, lowres may survive
    assert not points.confused[0]
    points = points_of([[0.35, 0.05, 0.0, 0.6, 0.0]], [LATIN], [0])
    assert not points.confused[0]


def test_where_the_text_goes_on_with_a_neutral_token_nothing_is_said() -> None:
    points = points_of([MIXED], [LOWRES], [2])
    assert (points.confused[0], points.switch[0], points.chance[0], points.wrong_is_top[0]) == (False, False, 0, False)


def test_what_top_p_or_top_k_removes_is_not_wrong() -> None:
    row = [0.10, 0.05, 0.0, 0.82, 0.03]
    assert not points_of([row], [LOWRES], [3]).confused[0]
    assert points_of([row], [LOWRES], [3], dataclasses.replace(REQUEST, top_p=0.9)).confused[0]
    assert not points_of([row], [LOWRES], [3], dataclasses.replace(REQUEST, top_p=0.9, top_k=1)).confused[0]


def test_a_text_that_changes_to_a_surviving_maskable_family_is_at_a_switch_point() -> None:
    points = points_of([MIXED, MIXED, MIXED], [LOWRES, CJ, LOWRES], [0, 0, 1])
    assert points.switch.tolist() == [True, False, False]  # the second goes on in cj, latin does not survive
    assert points.confused.tolist() == [False, False, True]


def test_a_position_can_be_a_switch_and_a_confusion_point() -> None:
    points = points_of([[0.4, 0.35, 0.0, 0.25, 0.0]], [LOWRES], [1])
    assert points.switch[0]
    assert points.wrong.tolist() == [[True, False, False, False]]
    assert points.rank[0] == 2


def test_families_that_a_chinese_or_japanese_reply_mixes_are_one() -> None:
    scripts = family_set("scripts").subset(["latin", "kana", "hans", "han", "symbols"])
    latin, kana, hans, han, _ = range(5)
    families = FamilyTable(np.arange(5), scripts)
    chinese = mixed_families(np.array([latin, hans, han, hans]), families)
    assert chinese.tolist() == [False, False, True, True, False]
    assert not mixed_families(np.arange(4), FAMILIES).any()  # of the four families there is one
    #                latin kana  hans  han
    rows = logits_of([0.2, 0.25, 0.35, 0.2, 0.0])
    request = dataclasses.replace(REQUEST, top_p=1.0)

    def points(last: int, right: int, mixed: npt.NDArray[np.bool_]) -> Points:
        steps = Steps.of(rows, request)
        return Points.of(steps, request, np.array([last]), np.array([right]), families, mixed[None])

    found = points(han, han, chinese)
    assert found.wrong.tolist() == [[True, True, False, False, False]]
    assert (found.rank[0], found.switch[0]) == (1, False)  # `hans` is as right as `han`
    assert found.chance[0] == pytest.approx(0.45)
    assert not points(hans, han, chinese).switch[0]
    assert points(latin, han, chinese).switch[0]
    found = points(han, latin, chinese)  # where Latin is right, they are wrong
    assert found.wrong.tolist() == [[False, True, True, False, False]]
    found = points(kana, kana, mixed_families(np.array([kana, han]), families))
    assert found.wrong.tolist() == [[True, False, True, False, False]]


def test_a_right_token_outside_the_twenty_most_probable_has_no_rank() -> None:
    families = FamilyTable(np.array([CJ] * 21 + [LOWRES]), FOUR)
    row = np.linspace(2, 1, 22, dtype=np.float32)[None]
    last, following = np.array([LOWRES]), np.array([21])
    for top_k in (1, 20, 22):  # however many the request could sample
        request = dataclasses.replace(REQUEST, top_k=top_k)
        assert Points.of(Steps.of(row, request), request, last, following, families).rank[0] == 0
    row[0, 21] = row[0, 18] + 0.01  # above the tokens 18 to 20: the nineteenth
    assert Points.of(Steps.of(row, REQUEST), REQUEST, last, following, families).rank[0] == 19


def test_a_right_token_that_is_impossible_has_no_rank() -> None:
    assert points_of([[0.6, 0.2, 0.2, 0.0, 0.0]], [LOWRES], [3]).rank[0] == 0


def test_a_tally_counts_by_family_and_weighs_by_chance() -> None:
    last = [LOWRES, NO_FAMILY, LOWRES, LOWRES, CJ]
    rows = [MIXED, MIXED, [0.3, 0.1, 0.0, 0.6, 0.0], MIXED, MIXED]
    points = points_of(rows, last, [3, 3, 3, 2, 0])
    tally = Tally(FAMILIES, [])
    tally.add(points, np.array(last))
    assert tally.positions == 5
    assert tally.language.tolist() == [1, 0, 0, 3]
    assert tally.confused.tolist() == [0, 0, 0, 3]
    assert tally.intruders.tolist() == [[0] * 4, [0] * 4, [0] * 4, [3, 0, 0, 0]]
    assert (tally.at_start, tally.wrong_is_top, tally.switches) == (1, 2, 0)
    high, low = 0.55 / 0.85, 0.3 / 0.9
    assert tally.chance == pytest.approx(2 * high + low)
    assert tally.chance_is_top == pytest.approx(2 * high)
    assert tally.ranks[:4].tolist() == [0, 1, 2, 0]
    assert tally.chance_ranks[:4] == pytest.approx([0, low, 2 * high, 0])
    assert tally.chances.tolist() == [0, 0, 0, 1, 0, 0, 2, 0, 0, 0]


def test_a_sure_wrong_token_counts_in_the_last_bin() -> None:
    points = points_of([[1.0, 0.0, 0.0, 0.0, 0.0]], [LOWRES], [3])
    tally = Tally(FAMILIES, [])
    tally.add(points, np.array([LOWRES]))
    assert tally.chances.tolist() == [0] * 9 + [1]


def test_a_label_repairs_a_confusion_point_and_keeps_a_switch() -> None:
    setting = LabelSetting("none", 20, 0.95)
    points = points_of([MIXED, MIXED], [LOWRES, LOWRES], [3, 0])
    tally = Tally(FAMILIES, [setting])
    assert not tally.add_label(setting, np.array([0.25, 0, 0, 0.75], np.float32), points, 0)
    assert tally.add_label(setting, np.array([0, 0.5, 0, 0.5], np.float32), points, 0)
    assert dataclasses.astuple(tally.labels[setting]) == (1, 0.25, 0)
    tally.add_label(setting, np.array([0, 0, 0, 1], np.float32), points, 1)  # the switch to cj is left out
    assert dataclasses.astuple(tally.labels[setting]) == (1, 0.25, 0)
    tally.add_label(setting, np.array([0.1, 0, 0, 0.9], np.float32), points, 1)
    assert dataclasses.astuple(tally.labels[setting]) == (1, 0.25, 1)


# ---- before and after the division ----


def test_the_division_by_the_norms_by_hand() -> None:
    logits = np.array([4.0, 1.0, 0.0, 3.0, 2.0], np.float32)
    norms = np.array([2.0, 1.0, 1.0, 1.0, 1.0], np.float32)
    shown = compare_norms(logits, [None, norms], 2, FAMILIES, label=(20, 0.6), n_shown=2)
    # the two best of each (0, 3 and 3, 0 before 4, which ties with 0 at logit 2), and the text's own
    assert [candidate.token for candidate in shown] == [0, 3, 2]
    before = np.exp(logits.astype(np.float64))
    after = np.exp(np.array([2.0, 1.0, 0.0, 3.0, 2.0]))
    for candidate in shown:
        wanted = (before[candidate.token] / before.sum(), after[candidate.token] / after.sum())
        assert candidate.probabilities == pytest.approx(wanted)
    assert [candidate.family for candidate in shown] == [CJ, LOWRES, SYMBOLS]
    # before: 0 has 0.636 and is enough; after: 3 has 0.563, so that 0 is in too
    assert [candidate.in_label for candidate in shown] == [(True, True), (False, True), (False, False)]


def test_the_label_holds_no_more_than_its_top_k() -> None:
    shown = compare_norms(np.zeros(5, np.float32), [None], 4, FAMILIES, label=(2, 0.95), n_shown=4)
    assert [candidate.in_label for candidate in shown] == [(True,), (True,), (False,), (False,), (False,)]


def test_soft_capping_is_undone_before_the_division() -> None:
    raw = np.array([30.0, 10.0, 0.0, 24.0, -5.0])
    capped = (20 * np.tanh(raw / 20)).astype(np.float32)
    norms = np.array([3.0, 1.0, 1.0, 2.0, 1.0], np.float32)
    shown = compare_norms(capped, [norms], 1, FAMILIES, label=(20, 0.95), softcap=20.0)
    wanted = np.exp(raw / norms)
    for candidate in shown:
        assert candidate.probabilities[0] == pytest.approx(wanted[candidate.token] / wanted.sum(), rel=1e-4)


def test_a_logit_at_the_cap_or_at_minus_infinity_gives_numbers() -> None:
    logits = np.array([20.0, 1.0, -np.inf, 3.0, 2.0], np.float32)
    shown = compare_norms(logits, [None], 2, FAMILIES, label=(20, 0.95), softcap=20.0)
    by_token = {candidate.token: candidate for candidate in shown}
    assert by_token[0].probabilities[0] == pytest.approx(1.0)
    assert (by_token[2].probabilities[0], by_token[2].in_label[0]) == (0.0, False)


# ---- norms ----


def test_norms_by_family_and_the_largest_five_percent_by_hand() -> None:
    norms = np.arange(1, 41, dtype=np.float32)  # the largest 5 % of 40 are two: 39 and 40
    families = np.full(40, LATIN, np.uint8)
    families[[0, 1, 2, 38]] = CJ  # norms 1, 2, 3, 39
    families[39] = SYMBOLS
    report = norm_report(OutputMatrix(norms, 0.0, "output.weight", "F32"), families, NAMES)
    cj, latin = report.families["cj"], report.families["latin"]
    assert (cj.tokens, cj.mean, cj.quartiles, cj.largest) == (4, 11.25, (1.75, 2.5, 12.0), 0.25)
    assert (latin.tokens, latin.mean, latin.largest) == (35, 21.0, 0.0)
    assert report.families["symbols"].largest == 1.0
    assert report.families["lowres"].tokens == 0
    assert math.isnan(report.families["lowres"].mean)
    assert math.isnan(report.families["lowres"].largest)
    assert (report.families["all"].tokens, report.families["all"].largest) == (40, 0.05)
    assert report.largest_from == 39
    for family in report.families.values():
        assert sum(family.histogram) == family.tokens
    assert len(report.edges) == len(cj.histogram) + 1


def test_equal_norms_are_told_apart_by_id_and_make_a_histogram() -> None:
    families = np.array([CJ] + [LATIN] * 19, np.uint8)
    report = norm_report(OutputMatrix(np.ones(20, np.float32), 0.0, "output.weight", "F32"), families, NAMES)
    assert (report.families["cj"].largest, report.families["latin"].largest) == (1.0, 0.0)
    assert sum(report.families["all"].histogram) == 20


def test_a_matrix_of_another_vocabulary_is_refused() -> None:
    matrix = OutputMatrix(np.ones(5, np.float32), 0.0, "output.weight", "F32")
    with pytest.raises(GateError, match=r"`output.weight` has 5 rows, expected 4"):
        norm_report(matrix, np.zeros(4, np.uint8), NAMES)


# ---- texts ----


class Script:
    """A model of one-letter tokens whose next-token probabilities depend on the newest token alone."""

    n_embd, n_ctx = 1, 64
    letters = "aб中 ."

    def __init__(self, probabilities: dict[str, list[float]], batch: int = 1000) -> None:
        tokens = tuple(letter.encode() for letter in self.letters)
        vocab = Vocab(tokens, np.full(len(tokens), NORMAL, np.uint32))
        self.base = BaseModel("script.gguf", "script", "none", 1, vocab)
        self.n_evaluated = 0
        self._rows = np.array([probabilities.get(letter, [0.2] * 5) for letter in self.letters])
        self._batch = batch

    def tokenize(self, text: str, *, special: bool = False, bos: bool = False) -> list[int]:
        return [self.letters.index(letter) for letter in text]

    def states(self, texts: Sequence[Sequence[int]]) -> Iterator[States]:
        rows = [(i, p) for i, text in enumerate(texts) for p in range(len(text))]
        for begin in range(0, len(rows), self._batch):
            part = rows[begin : begin + self._batch]
            text, position = np.array(part, np.int32).T
            newest = [texts[i][p] for i, p in part]
            self.n_evaluated += len(part)
            yield States(text, position, np.zeros((len(part), 1), np.float32), logits_of(*self._rows[newest]))


SURE = {"a": [0.97, 0.01, 0.0, 0.01, 0.01], "б": [0.0, 0.5, 0.48, 0.01, 0.01], ".": [0.0, 0.9, 0.08, 0.01, 0.01]}


def texts_of(tmp_path: Path, *rows: dict[str, str]) -> Path:
    path = tmp_path / "texts.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def run_script(model: Script, *paths: Path, softcap: float = 0.0, **options: Any) -> TextAnalysis:
    matrix = OutputMatrix(np.array([1, 1, 4, 1, 1], np.float32), softcap, "output.weight", "F32")
    datasets = [open_dataset(str(path)) for path in paths]
    analysis = TextAnalysis(model, datasets, matrix, AnalyzeOptions(**options))
    analysis.run(lambda report: None)
    return analysis


@pytest.mark.parametrize("batch", [1, 3, 1000])
def test_only_what_predicts_a_token_of_a_reply_counts(tmp_path: Path, batch: int) -> None:
    path = texts_of(tmp_path, {"prompt": "бб.", "response": "ббб"}, {"prompt": "aa", "response": "aa"})
    report = run_script(Script(SURE, batch), path).report
    tally = report.tally
    # of the first reply the first token follows "." (sure of lowres), the other two follow "б" (cj survives)
    assert tally.positions == 5
    assert tally.language.tolist() == [0, 2, 0, 3]
    assert tally.confused.tolist() == [0, 0, 0, 2]
    assert tally.at_start == 0
    assert (report.texts, report.tokens, report.skipped, report.finished) == (2, 10, {}, True)


def test_labels_are_made_at_the_confusion_points_with_each_norm(tmp_path: Path) -> None:
    report = run_script(Script(SURE), texts_of(tmp_path, {"prompt": ".", "response": "ббб"})).report
    # logits log 0.5, log 0.48, log 0.01 …; dividing cj's negative logit by 4 only makes it likelier
    cj, rest = 0.48 ** (1 / 4), 0.5
    outcome = report.tally.labels[LabelSetting("token", 20, 0.95)]
    assert outcome.repaired == 0
    assert outcome.wrong == pytest.approx(2 * cj / (cj + rest), rel=1e-5)
    assert report.tally.labels[LabelSetting("none", 20, 0.95)].wrong == pytest.approx(2 * 0.48 / 0.98, rel=1e-5)
    assert [position.own for position in report.worst] == [1, 1]
    position = report.worst[0]
    assert (position.row, position.index, position.before) == (0, 2, (4, 1))
    assert (position.right, position.wrong) == (LOWRES, (CJ,))
    assert position.repaired == (False, False, False)
    assert [candidate.token for candidate in position.candidates[:2]] == [1, 2]


def test_labels_are_made_of_the_logits_as_they_were_before_a_softcap(tmp_path: Path) -> None:
    path = texts_of(tmp_path, {"prompt": ".", "response": "ббб"})
    report = run_script(Script(SURE), path, softcap=5.0).report  # caps log 0.01 = -4.6, and log 0.5 hardly
    weights = np.exp(5 * np.arctanh(np.log([0.5, 0.48, 0.01, 0.01]) / 5) / [1, 4, 1, 1])
    wanted = weights[1] / weights[:2].sum()
    assert weights[:2].sum() / weights.sum() > 0.95
    assert report.tally.labels[LabelSetting("token", 20, 0.95)].wrong == pytest.approx(2 * wanted, rel=1e-5)
    shown = {candidate.token: candidate for candidate in report.worst[0].candidates}
    assert shown[2].probabilities[1] == pytest.approx(weights[1] / weights.sum(), rel=1e-5)


def test_rows_of_several_datasets_are_told_apart(tmp_path: Path) -> None:
    (tmp_path / "second").mkdir()
    first = texts_of(tmp_path, {"text": "бб"}, {"text": "a."}, {"text": "бб"})
    second = texts_of(tmp_path / "second", {"text": "a."}, {"text": "бб"})
    report = run_script(Script(SURE), first, second).report
    found = sorted((position.dataset, position.row) for position in report.worst)
    assert found == sorted([(str(first), 0), (str(first), 2), (str(second), 1)])
    assert report.texts == 5


def test_the_worst_positions_are_those_of_the_largest_chance(tmp_path: Path) -> None:
    chances = {"б": [0.0, 0.5, 0.48, 0.01, 0.01], ".": [0.0, 0.1, 0.88, 0.01, 0.01], " ": [0.0, 0.6, 0.38, 0.01, 0.01]}
    path = texts_of(tmp_path, {"text": "бб.б бб.б"})
    report = run_script(Script(chances), path, n_worst=3).report
    assert [round(position.chance, 2) for position in report.worst] == [1.0, 1.0, 0.49]
    assert [position.index for position in report.worst] == [3, 8, 1]
    assert run_script(Script(chances), path, n_worst=0).report.worst == []


def test_it_ends_after_the_text_that_reaches_the_budget(tmp_path: Path) -> None:
    path = texts_of(tmp_path, *({"text": "бб.б"} for _ in range(100)))
    model = Script(SURE)
    report = run_script(model, path, n_tokens=9).report
    assert (report.texts, report.tokens, model.n_evaluated, report.finished) == (3, 12, 12, True)
    report = run_script(Script(SURE), path, n_tokens=10_000).report
    assert (report.texts, report.tokens, report.finished) == (100, 400, True)


def test_the_order_of_the_texts_is_the_seeds(tmp_path: Path) -> None:
    path = texts_of(tmp_path, *({"text": "бб" + "б" * i} for i in range(30)))
    rows = [[p.row for p in run_script(Script(SURE), path, n_tokens=50, seed=seed).report.worst] for seed in (1, 1, 2)]
    assert rows[0] == rows[1] != rows[2]


def test_what_was_counted_until_it_was_stopped_stays(tmp_path: Path) -> None:
    path = texts_of(tmp_path, *({"text": "бб.б"} for _ in range(100)))
    matrix = OutputMatrix(np.ones(5, np.float32), 0.0, "output.weight", "F32")
    asked = iter([False, True])
    data = [open_dataset(str(path))]
    analysis = TextAnalysis(Script(SURE, 7), data, matrix, AnalyzeOptions(), lambda: next(asked))
    analysis.run(lambda report: None)
    report = analysis.report
    assert (report.tokens, report.texts, report.finished) == (14, 0, False)
    assert report.tally.positions == 11  # of 14 rows, three are the last ones of their text


def test_texts_without_a_reply_are_counted_and_refused_if_there_is_nothing_else(tmp_path: Path) -> None:
    path = texts_of(tmp_path, {"text": "б"}, {"text": "бб"}, {"texts": "бб"})
    report = run_script(Script(SURE), path).report
    assert (report.texts, report.skipped) == (1, {"has fewer than 2 tokens": 1})
    assert report.bad_rows == len(report.bad) == 1
    cut = texts_of(tmp_path, {"prompt": "ббб", "response": "б"}, {"prompt": "б", "response": "бб"})
    report = run_script(Script(SURE), cut, n_ctx=3).report
    assert (report.texts, report.skipped) == (1, {"has no reply within 3 tokens": 1})
    assert report.tally.positions == 2
    path = texts_of(tmp_path, {"prompt": "б" * 64, "response": "б"})
    with pytest.raises(GateError, match="none of 1 texts has a reply to measure on: has no reply within 64 tokens"):
        run_script(Script(SURE), path)
    path = texts_of(tmp_path, {"text": "б"}, {"text": "a"})
    with pytest.raises(GateError, match="none of 2 texts has a reply to measure on: has fewer than 2 tokens"):
        run_script(Script(SURE), path)


def test_texts_longer_than_the_model_was_trained_for_are_cut(tmp_path: Path, tiny_model_path: Path) -> None:
    path = texts_of(tmp_path, {"text": "1 " * 2000})
    report = analyze(tiny_model_path, [str(path)], AnalyzeOptions(n_ctx=4096), engine=ONE_THREAD).texts
    assert report is not None
    assert (report.texts, report.tokens) == (1, tiny_model.N_CTX_TRAIN)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"n_ctx": 1}, "`n_ctx` is 1, expected at least 2"),
        ({"n_worst": -1}, "`n_worst` is -1, expected at least 0"),
    ],
)
def test_options_out_of_range_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(GateError, match=message):
        AnalyzeOptions(**options)


# ---- real models, against plain loops ----


def topkp(logits: npt.NDArray[np.float64], top_k: int, top_p: float, within: bool) -> list[int]:
    """Tokens of the top-k/top-p set; `within` takes the probabilities among the k only, as llama.cpp's chain does."""
    order = sorted(range(len(logits)), key=lambda token: (-logits[token], token))
    weights = np.exp(logits - logits.max())
    total = weights[order[:top_k]].sum() if within else weights.sum()
    kept, before = [], 0.0
    for token in order[:top_k]:
        if before >= top_p:
            break
        kept.append(token)
        before += weights[token] / total
    return kept


def loops(model: Path, data: str, options: AnalyzeOptions) -> SimpleNamespace:
    """What the analysis must count, from sorted rows, one position after the other."""
    found = SimpleNamespace(counts=Counter(), chance=0.0, wrong=Counter())
    norms = read_output_matrix(model).norms.astype(np.float64)
    divisors = {"none": np.ones_like(norms), "token": norms, "relative": norms / norms.mean()}
    with Teacher(model, n_ctx=options.n_ctx, n_batch=64, n_threads=1) as teacher:
        trained = token_families(teacher.base.vocab, options.rules)
        family = trained.copy()
        family[list(exempt_tokens(teacher.base.vocab))] = SYMBOLS
        encoder = Encoder(teacher.tokenize, teacher.base, options.n_ctx)
        for sample in open_dataset(data):
            text = encoder.encode(sample)
            assert text is not None
            logits = np.concatenate([states.logits.astype(np.float64) for states in teacher.states([text.tokens])])
            last = None
            for t in range(len(text.tokens) - 1):
                if not text.is_reply[t]:
                    last = None
                elif family[text.tokens[t]] != SYMBOLS:
                    last = family[text.tokens[t]]
                if text.is_reply[t + 1]:
                    count_position(found, logits[t], family, trained, text.tokens[t + 1], last, divisors, options)
    return found


def count_position(
    found: SimpleNamespace,
    logits: npt.NDArray[np.float64],
    family: npt.NDArray[np.uint8],
    trained: npt.NDArray[np.uint8],
    own: int,
    last: int | None,
    divisors: dict[str, npt.NDArray[np.float64]],
    options: AnalyzeOptions,
) -> None:
    counts, right, sampling = found.counts, family[own], options.sampling
    counts["positions"] += 1
    if right == SYMBOLS:
        return
    counts["language", right] += 1
    survivors = topkp(logits, sampling.top_k, sampling.top_p, within=True)
    could_ban = {family[token] for token in survivors} & {CJ, LATIN} - {last}
    wrong = could_ban - {right}
    if right in could_ban:
        counts["switches"] += 1
    if wrong:
        weights = {token: math.exp((logits[token] - logits.max()) / sampling.temperature) for token in survivors}
        found.chance += sum(w for token, w in weights.items() if family[token] in wrong) / sum(weights.values())
        order = np.lexsort((np.arange(len(logits)), -logits))[:20].tolist()
        rank = next((r for r, token in enumerate(order, 1) if family[token] == right), 0)
        counts["confused", right] += 1
        counts["rank", rank] += 1
        counts["wrong_is_top"] += family[order[0]] in wrong
        counts["at_start"] += last is None
    for norm, divisor in divisors.items():
        for top_k, top_p in ((20, 0.95), (5, 0.9)):
            label = topkp(logits / divisor, top_k, top_p, within=False)
            held = {trained[token] for token in label}
            weights = np.exp((logits / divisor)[label])
            found.wrong[norm, top_k] += weights[np.isin(trained[label], list(wrong))].sum() / weights.sum()
            counts["repaired", norm, top_k] += bool(wrong) and not held & wrong
            counts["kept", norm, top_k] += right in could_ban and right in held


@pytest.mark.parametrize("sampling", [Sampling(), Sampling(temperature=1.3, top_k=7, top_p=0.95)])
def test_whole_texts_are_counted_as_plain_loops_count_them(
    tiny_model_path: Path, tmp_path: Path, sampling: Sampling
) -> None:
    words = f"{tiny_model.LATIN} {tiny_model.CJ} {tiny_model.LOWRES} {tiny_model.SYMBOLS} A B".split()
    rng = np.random.default_rng(5)
    first, second, third, fourth = (" ".join(rng.choice(words, 70)) for _ in range(4))
    path = texts_of(
        tmp_path,
        {"prompt": "и", "response": first},
        {"text": second},
        {"prompt": third, "response": "하세요 the 中国 안녕 of"},
        {"prompt": "the of", "response": fourth},
    )
    options = AnalyzeOptions(sampling, n_ctx=256)
    report = analyze(tiny_model_path, [str(path)], options, engine=ONE_THREAD).texts
    assert report is not None
    tally, wanted = report.tally, loops(tiny_model_path, str(path), options)
    counts = wanted.counts
    assert tally.positions == counts["positions"] > 100
    assert tally.language.tolist() == [counts["language", f] for f in range(4)]
    assert tally.confused.tolist() == [counts["confused", f] for f in range(4)]
    assert tally.confused.sum() > 10
    assert tally.switches == counts["switches"] > 5
    assert tally.ranks.tolist() == [counts["rank", rank] for rank in range(21)]
    assert (tally.wrong_is_top, tally.at_start) == (counts["wrong_is_top"], counts["at_start"])
    assert tally.chance == pytest.approx(wanted.chance, rel=1e-5)
    for setting, outcome in tally.labels.items():
        assert outcome.repaired == counts["repaired", setting.norm, setting.top_k], setting
        assert outcome.kept == counts["kept", setting.norm, setting.top_k], setting
        assert outcome.wrong == pytest.approx(wanted.wrong[setting.norm, setting.top_k], rel=1e-5), setting


@pytest.fixture(scope="module")
def demo_texts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The demo's prompts with their right replies."""
    records = [json.loads(line) for line in PROMPTS.read_text(encoding="utf-8").splitlines()]
    rows = ({"prompt": record["prompt"], "response": record["reference"]} for record in records)
    return texts_of(tmp_path_factory.mktemp("demo"), *rows)


def test_the_demo_model_writes_chinese_and_english_where_other_scripts_belong(demo_texts: Path) -> None:
    report = analyze(MODEL, [str(demo_texts)], AnalyzeOptions(n_tokens=4000), engine=ONE_THREAD).texts
    assert report is not None
    tally = report.tally
    confused = tally.confused.sum()
    assert confused > 40
    assert tally.confused[LOWRES] > 0.8 * confused  # what was contaminated
    assert tally.intruders[LOWRES, [CJ, LATIN]].min() > 10
    assert tally.ranks[1:4].sum() > 0.9 * confused
    assert tally.switches > 50  # of the prompts that ask for one
    assert report.worst[0].chance > 0.9
    assert all(position.wrong for position in report.worst)


def test_without_texts_only_norms_are_measured() -> None:
    analysis = analyze(MODEL)
    assert analysis.texts is None
    assert analysis.norms.families["all"].tokens == analysis.base.vocab.n_vocab
    norms = read_output_matrix(MODEL).norms.astype(np.float64)
    lowres = norms[token_families(analysis.base.vocab) == LOWRES]
    assert analysis.norms.families["lowres"].quartiles[1] == pytest.approx(np.median(lowres))
    assert analysis.norms.families["lowres"].mean == pytest.approx(lowres.mean())


# ---- texts of tokens ----


def test_tokens_become_text_that_a_line_can_hold() -> None:
    assert token_text(b" name") == "name"
    assert token_text(b"\xe4\xb8") == "\\xe4\\xb8"
    assert token_text(b"a\n\x1b") == "a\\n\\x1b"
    assert token_text(b" ") == "' '"


def test_context_begins_with_a_whole_character() -> None:
    vocab = Vocab(("中".encode()[1:], "文\n".encode(), "й".encode()[:1]), np.full(3, NORMAL, np.uint32))
    assert context_text([0, 1, 1, 2], vocab) == "文 文 \ufffd"


# ---- the command ----


def run_command(*arguments: object) -> int:
    parser = argparse.ArgumentParser()
    command.add_arguments(parser)
    return command.run(parser.parse_args(["-t", "1", *map(str, arguments)]))


def test_the_command_prints_tables_and_one_line_that_compares_the_norms(
    demo_texts: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_command("-m", MODEL, "-d", demo_texts, "--tokens", 2000, "--worst", 2) == 0
    out = capsys.readouterr().out
    for expected in ("Output norms", "Confusion points", "a wrong token is the most probable", "Worst position 2 of 2"):
        assert expected in out
    assert out.splitlines()[-1].startswith("labels 20 / 0.95 at ")
    header = next(line for line in out.splitlines() if line.endswith("token") and "family" in line)
    assert header.split() == ["none", "token", "relative", "family", "token"]


def test_the_command_without_texts_prints_the_norms(capsys: pytest.CaptureFixture[str]) -> None:
    assert run_command("-m", MODEL) == 0
    out = capsys.readouterr().out
    assert "largest 5%" in out
    assert "Confusion points" not in out


def test_json_holds_everything(demo_texts: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_command("-m", MODEL, "-d", demo_texts, "--tokens", 2000, "--worst", 1, "--json") == 0
    value = json.loads(capsys.readouterr().out)
    texts = value["texts"]
    assert value["norms"]["families"]["all"]["tokens"] == value["n_vocab"]
    assert texts["confusion_points"] == sum(family["confusion_points"] for family in texts["families"].values()) > 0
    assert texts["confusion_points"] == sum(texts["ranks"].values()) == sum(texts["chances"])
    assert {(label["norm"], label["top_k"]) for label in texts["labels"]} == {
        (norm, top_k) for norm in ("none", "token", "relative") for top_k in (20, 5)
    }
    (position,) = texts["worst"]
    assert position["own"]["text"] in [candidate["text"] for candidate in position["candidates"]]
    assert set(position["candidates"][0]["probabilities"]) == {"none", "token", "relative"}
    assert run_command("-m", MODEL, "--json") == 0
    assert json.loads(capsys.readouterr().out)["texts"] is None


def test_the_page_has_the_plots_and_the_families_in_colour(
    demo_texts: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    page = tmp_path / "page.html"
    assert run_command("-m", MODEL, "-d", demo_texts, "--tokens", 2000, "-o", page) == 0
    assert capsys.readouterr().out.endswith(f"wrote {page}\n")
    html = page.read_text(encoding="utf-8")
    assert html.count("<svg") == 2
    assert '#b3202c; padding-left: .4em">cj</span>' in html
    assert "The worst positions" in html
    assert list(tmp_path.iterdir()) == [page]
    assert run_command("-m", MODEL, "-o", page) == 0
    assert page.read_text(encoding="utf-8").count("<svg") == 1


def test_of_many_families_those_with_tokens_are_shown(
    demo_texts: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    page = tmp_path / "page.html"
    arguments = ("-m", MODEL, "-d", demo_texts, "--rules", "scripts", "--tokens", 2000, "--worst", 1)
    assert run_command(*arguments, "-o", page) == 0
    out = capsys.readouterr().out
    html = page.read_text(encoding="utf-8")
    for text in ("hans", "hangul", ">7 others<"):  # of 14 families the plot names 7
        assert text in html
    points = out[out.index("Confusion points") :]
    assert "wrong families, and at how many" in points
    row = next(line for line in points.splitlines() if line.strip().startswith("thai"))
    assert re.search(r" hans? \d+", row)
    assert max(len(line) for line in points[: points.index("positions  ")].splitlines()) < 120
    assert run_command(*arguments, "--json") == 0
    value = json.loads(capsys.readouterr().out)
    assert sum(value["texts"]["families"]["thai"]["wrong"].values()) > 0
    # the four families put both of them into `cj`
    assert len(value["norms"]["families"]) == 15


def test_texts_where_the_model_never_leaves_the_script_make_a_report_too(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = texts_of(tmp_path, {"text": "1, 2, 3"})
    page = tmp_path / "page.html"
    assert run_command("-m", MODEL, "-d", path, "-o", page) == 0
    assert "no confusion points: nothing was measured" in capsys.readouterr().out
    assert page.exists()


def test_an_output_that_cannot_be_written_is_refused_before_any_work(tmp_path: Path) -> None:
    for output in (tmp_path, tmp_path / "none" / "page.html"):
        with pytest.raises(UsageError, match=r"-o/--output: .* folder.*, expected a file to write"):
            run_command("-m", MODEL, "-o", output)
    texts = texts_of(tmp_path, {"text": "a b"})
    for output in (MODEL, texts):
        with pytest.raises(UsageError, match="is the model or the texts, expected another file"):
            run_command("-m", MODEL, "-d", texts, "-o", output)
    with pytest.raises(UsageError, match=r"-m/--model: .*none.gguf"):
        run_command("-m", tmp_path / "none.gguf")


def test_ctrl_c_reports_what_was_measured_until_then(
    demo_texts: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    states = Teacher.states

    def interrupted(self: Teacher, texts: Sequence[Sequence[int]]) -> Iterator[States]:
        for n, part in enumerate(states(self, texts)):
            if n == 1:
                signal.raise_signal(signal.SIGINT)
            yield part

    monkeypatch.setattr(Teacher, "states", interrupted)
    handler = signal.getsignal(signal.SIGINT)
    assert run_command("-m", MODEL, "-d", demo_texts, "--json") == 130
    assert signal.getsignal(signal.SIGINT) is handler
    captured = capsys.readouterr()
    texts = json.loads(captured.out)["texts"]
    assert texts["finished"] is False
    assert 0 < texts["tokens"] <= 512
    assert texts["positions"] > 0
    assert "stopping" in captured.err
