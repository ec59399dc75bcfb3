"""Benchmarks by name, and prompts as rows: the package's own format, and the demo's."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest

from lcg_cpp import GateError
from lcg_cpp.benchmarks import BENCHMARKS, Prompt, load_benchmark
from lcg_cpp.demo import PROMPTS as DEMO_PROMPTS


def write_lines(path: Path, *rows: object) -> str:
    path.write_text("".join(row if isinstance(row, str) else json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return str(path)


# ---- prompts ----


@pytest.mark.parametrize(
    ("wrong", "reason"),
    [
        ({"id": " "}, "`id` is empty"),
        ({"prompt": ""}, "`prompt` is empty"),
        ({"expect_scripts": ("latin", "greec")}, "`expect_scripts` holds 'greec', expected greek"),
        ({"switch": "english"}, "`switch` is 'english', expected nothing or "),
        ({"items": (("x",),)}, "has `items` and no `switch`"),
        ({"switch": "cj", "items": ((),)}, "`items` holds an empty one"),
        ({"switch": "cj", "items": (("德国", " "),)}, "`items` holds an empty one"),
        ({"answer": "AB"}, "`answer` is 'AB', expected a letter from A to G"),
        ({"answer": "X"}, "`answer` is 'X'"),
        ({"max_tokens": 0}, "`max_tokens` is 0, expected at least 1"),
    ],
)
def test_a_prompt_that_cannot_be_scored_is_refused(wrong: dict[str, Any], reason: str) -> None:
    with pytest.raises(GateError, match=f"^{reason}"):
        Prompt(**{"id": "1", "prompt": "Hi", "chat": True, **wrong})


# ---- rows ----


def test_a_row_needs_only_a_prompt(tmp_path: Path) -> None:
    place = write_lines(tmp_path / "own.jsonl", {"prompt": "Hi"}, {"prompt": "Ho", "reference": None, "other": 1})
    benchmark = load_benchmark(place)
    assert benchmark.prompts == (Prompt(id="1", prompt="Hi", chat=True), Prompt(id="2", prompt="Ho", chat=True))
    assert (benchmark.name, benchmark.source, benchmark.n_bad) == (place, place, 0)


def test_a_row_may_say_everything(tmp_path: Path) -> None:
    row = {
        "id": 7,
        "prompt": "Say Germany in Chinese",
        "chat": False,
        "reference": "德国",
        "language": "fr",
        "expect_scripts": ["cj"],
        "switch": "cj",
        "items": [["德国", "x"]],
        "subset": "switch",
        "answer": "B",
        "stop": ["\n"],
        "max_tokens": 9,
    }
    assert load_benchmark(write_lines(tmp_path / "own.jsonl", row)).prompts == (
        Prompt(
            id="7",
            prompt="Say Germany in Chinese",
            chat=False,
            reference="德国",
            language="fr",
            expect_scripts=("cj",),
            switch="cj",
            items=(("德国", "x"),),
            subset="switch",
            answer="B",
            stop=("\n",),
            max_tokens=9,
        ),
    )


@pytest.mark.parametrize(
    ("given", "code"), [("ar", "ar"), ("Arabic", "ar"), ("zh-Hant-TW", "zh-Hant-TW"), ("arb_Arab", "arb_Arab")]
)
def test_languages_are_codes_or_english_names(tmp_path: Path, given: str, code: str) -> None:
    place = write_lines(tmp_path / "own.jsonl", {"prompt": "Hi", "language": given})
    assert load_benchmark(place).prompts[0].language == code


@pytest.mark.parametrize(
    ("row", "expected"),
    [
        ({"reference": "ملف PDF"}, ("arabic", "latin")),
        ({"reference": "德国 (Germany), ドイツ"}, ("cj", "latin")),
        ({"reference": "12 %"}, ()),
        ({"reference": "ملف PDF", "expect_scripts": []}, ()),
    ],
)
def test_scripts_of_the_reference_are_expected_unless_the_row_says_which(
    tmp_path: Path, row: dict[str, Any], expected: tuple[str, ...]
) -> None:
    place = write_lines(tmp_path / "own.jsonl", {"prompt": "Hi", "language": "ar", **row})
    assert load_benchmark(place).prompts[0].expect_scripts == expected


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ({}, "has no `prompt`"),
        ({"prompt": " "}, "`prompt` is empty"),
        ({"prompt": 3}, "`prompt` is a number, expected text"),
        (["Hi"], "is not an object with named columns"),
        ("{\n", "is not JSON: expecting property name enclosed in double quotes at column 1"),
        ({"prompt": "Hi", "id": "good"}, "has the id 'good' of an earlier row"),
        ({"prompt": "Hi", "id": 1.5}, "`id` is 1.5, expected text or a number"),
        ({"prompt": "Hi", "chat": "no"}, "`chat` is 'no', expected true or false"),
        ({"prompt": "Hi", "max_tokens": "9"}, "`max_tokens` is '9', expected a number"),
        ({"prompt": "Hi", "max_tokens": True}, "`max_tokens` is True, expected a number"),
        ({"prompt": "Hi", "max_tokens": 0}, "`max_tokens` is 0, expected at least 1"),
        ({"prompt": "Hi", "language": "Klingonese?"}, "`language` is 'Klingonese?', expected a BCP-47 code"),
        ({"prompt": "Hi", "expect_scripts": "latin"}, "`expect_scripts` is 'latin', expected a list of texts"),
        ({"prompt": "Hi", "expect_scripts": ["symbols"]}, "`expect_scripts` holds 'symbols'"),
        ({"prompt": "Hi", "switch": "cj", "items": ["德国"]}, "`items` is '德国', expected a list of texts"),
        ({"prompt": "Hi", "switch": "cj", "items": "德国"}, "`items` is '德国', expected a list of lists of texts"),
        ({"prompt": "Hi", "switch": ["cj"]}, "`switch` is a list, expected text"),
    ],
)
def test_bad_rows_are_counted_shown_and_left_out(tmp_path: Path, row: object, reason: str) -> None:
    place = write_lines(tmp_path / "own.jsonl", {"prompt": "Good", "id": "good"}, row, {"prompt": "Fine"})
    benchmark = load_benchmark(place)
    assert [prompt.prompt for prompt in benchmark.prompts] == ["Good", "Fine"]
    assert benchmark.prompts[1].id == "3"  # the row's number, so that mending a row changes no other one's id
    assert benchmark.n_bad == 1
    assert benchmark.bad[0].startswith(f"{place}:2: {reason}")


def test_a_file_without_a_good_row_is_refused(tmp_path: Path) -> None:
    place = write_lines(tmp_path / "own.jsonl", {"promt": "Hi"}, {"prompt": ""})
    with pytest.raises(GateError) as refused:
        load_benchmark(place)
    assert str(refused.value) == (
        f"{place}:1: has no `prompt`; none of 2 rows can be used, expected rows with `prompt`"
    )


def test_an_empty_file_is_refused(tmp_path: Path) -> None:
    place = write_lines(tmp_path / "own.jsonl")
    with pytest.raises(GateError) as refused:
        load_benchmark(place)
    assert str(refused.value) == f"{place}: holds none, expected rows with `prompt`"


def test_rows_may_be_json_arrays_or_parquet(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import datasets
    import pyarrow as pa
    from pyarrow import parquet

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    rows = [{"prompt": "Hi", "items": [["德国"]], "switch": "cj"}, {"prompt": "Ho", "items": None, "switch": None}]
    (tmp_path / "own.json").write_text(json.dumps(rows), encoding="utf-8")
    parquet.write_table(pa.Table.from_pylist(rows), tmp_path / "own.parquet")
    for name in ("own.json", "own.parquet"):
        prompts = load_benchmark(str(tmp_path / name)).prompts
        assert [(prompt.prompt, prompt.items) for prompt in prompts] == [("Hi", (("德国",),)), ("Ho", ())]


# ---- names ----


@pytest.mark.parametrize("name", ["", "mmlu", "own.txt", "cldr:x", "hf", "C:/own.csv"])
def test_an_unknown_benchmark_names_those_that_are_known(name: str) -> None:
    with pytest.raises(GateError) as refused:
        load_benchmark(name)
    assert str(refused.value) == f"`{name}` is no benchmark, expected " + ", ".join(BENCHMARKS)


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("flores", "`flores` is not built in, expected flores:PATH or flores:hf"),
        ("include:", "`include` is not built in, expected include:PATH or include:hf"),
        ("humaneval-xl", "`humaneval-xl` is not built in, expected humaneval-xl:PATH or humaneval-xl:hf"),
        ("lcb", "`lcb` is not built in, expected lcb:PATH"),
        ("lcb:hf", "`lcb` is not on Hugging Face's hub, expected lcb:PATH"),
        ("demo:hf", "`demo` is not on Hugging Face's hub, expected demo:PATH"),
        ("flores:nowhere", "nowhere: does not exist, expected a .jsonl, .ndjson, .json, .parquet file"),
    ],
)
def test_a_benchmark_without_its_place_names_the_fix(name: str, reason: str) -> None:
    with pytest.raises(GateError) as refused:
        load_benchmark(name)
    assert str(refused.value).startswith(reason)


def test_a_missing_file_is_an_os_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        load_benchmark(str(tmp_path / "own.jsonl"))


@pytest.mark.parametrize("name", ["flores:hf", "include:hf", "humaneval-xl:hf", "hf:Owner/name"])
def test_a_missing_package_names_the_fix(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(GateError, match=r'reading it needs `datasets`: pip install "lcg-cpp\[data\]"$'):
        load_benchmark(name)


@pytest.mark.parametrize("name", ["cldr", "demo"])
def test_what_is_built_in_needs_no_extra(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for package in ("babel", "datasets"):
        monkeypatch.setitem(sys.modules, package, None)
    assert load_benchmark(name).n_bad == 0


# ---- limit ----


def test_a_limit_draws_by_the_seed_and_keeps_the_order(tmp_path: Path) -> None:
    place = write_lines(tmp_path / "own.jsonl", *({"prompt": str(i)} for i in range(1, 101)))
    drawn = [[int(prompt.id) for prompt in load_benchmark(place, limit=10, seed=seed).prompts] for seed in (0, 0, 1)]
    assert drawn[0] == drawn[1] != drawn[2]
    for ids in drawn:
        assert len(set(ids)) == 10
        assert ids == sorted(ids)
    assert max(drawn[0]) > 50  # not the first ones


def test_a_larger_limit_only_adds_prompts(tmp_path: Path) -> None:
    place = write_lines(tmp_path / "own.jsonl", *({"prompt": str(i)} for i in range(500)))
    drawn = [{prompt.id for prompt in load_benchmark(place, limit=limit).prompts} for limit in (1, 20, 21, 100, 499)]
    assert [len(ids) for ids in drawn] == [1, 20, 21, 100, 499]
    assert all(fewer < more for fewer, more in zip(drawn, drawn[1:]))


@pytest.mark.parametrize("limit", [3, 4])
def test_a_limit_beyond_the_prompts_takes_all(tmp_path: Path, limit: int) -> None:
    place = write_lines(tmp_path / "own.jsonl", *({"prompt": str(i)} for i in range(3)))
    assert len(load_benchmark(place, limit=limit).prompts) == 3


@pytest.mark.parametrize("limit", [0, -1])
def test_a_limit_must_be_positive(limit: int) -> None:
    with pytest.raises(GateError, match=f"^`limit` is {limit}, expected at least 1$"):
        load_benchmark("demo", limit=limit)


# ---- the demo's format ----

PLAIN = {"prompt": "Germany\nArabic:", "reference": "ألمانيا", "language": "Arabic", "switch": None, "seed": 0}
CHINESE = {**PLAIN, "reference": "ألمانيا (德国)", "switch": "chinese", "items": [["ألمانيا", "德国"]]}
ENGLISH = {**PLAIN, "reference": "ألمانيا (Germany)", "switch": "english", "items": [["ألمانيا", "Germany"]]}


def test_the_demos_format_is_read_from_a_file(tmp_path: Path) -> None:
    place = write_lines(tmp_path / "x.jsonl", {**PLAIN, "items": [["ألمانيا"]]}, CHINESE, ENGLISH)
    plain, chinese, english = load_benchmark(f"demo:{place}").prompts
    assert plain == Prompt(
        id="1",
        prompt="Germany\nArabic:",
        chat=False,
        reference="ألمانيا",
        language="ar",
        expect_scripts=("arabic",),
        subset="no-latin",
        max_tokens=120,
    )
    assert (chinese.switch, chinese.items, chinese.subset) == ("cj", (("ألمانيا", "德国"),), "switch")
    assert (english.switch, english.items, english.subset) == ("latin", (("ألمانيا", "Germany"),), "switch")
    assert (chinese.expect_scripts, english.expect_scripts) == (("arabic", "cj"), ("arabic", "latin"))


@pytest.mark.parametrize(
    ("wrong", "reason"),
    [
        ({"switch": "latin"}, "`switch` is 'latin', expected 'english', 'chinese' or null"),
        ({"switch": ["english"]}, "`switch` is a list, expected text"),
        ({"items": []}, "asks for a switch and has no `items`"),
        ({"language": "?"}, "`language` is '\\?'"),
        ({"reference": ""}, "`reference` is empty"),
    ],
)
def test_rows_that_are_not_of_the_demos_format_are_told(tmp_path: Path, wrong: dict[str, Any], reason: str) -> None:
    place = write_lines(tmp_path / "x.jsonl", {**CHINESE, **wrong})
    with pytest.raises(
        GateError, match=f"x.jsonl:1: {reason}.*; none of 1 rows can be used, expected rows of the demo"
    ):
        load_benchmark(f"demo:{place}")


def test_the_demo_has_all_prompts_of_the_package() -> None:
    prompts = load_benchmark("demo").prompts
    demo = [json.loads(line) for line in DEMO_PROMPTS.read_text(encoding="utf-8").splitlines()]
    assert [prompt.prompt for prompt in prompts] == [own["prompt"] for own in demo]
    assert [prompt.reference for prompt in prompts] == [own["reference"] for own in demo]
    switches = {None: "", "english": "latin", "chinese": "cj"}
    assert [prompt.switch for prompt in prompts] == [switches[own["switch"]] for own in demo]
    assert all(list(map(list, p.items)) == own["items"] for p, own in zip(prompts, demo) if own["switch"])
    assert [own["seed"] for own in demo] == list(range(len(demo)))  # which the demo takes for granted
    assert {prompt.chat for prompt in prompts} == {False}
    assert {prompt.language for prompt in prompts} == {"ar", "el", "he", "hi", "ko", "ru", "th"}
