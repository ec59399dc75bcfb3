"""Public benchmarks, read from small files in the layout they have where they are published."""

from __future__ import annotations

import csv
import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from lcg_cpp import GateError
from lcg_cpp.benchmarks import Prompt, load_benchmark


@pytest.fixture(autouse=True)
def _cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path_factory.mktemp("cache"))


def write_parquet(path: Path, rows: list[dict[str, Any]]) -> None:
    import pyarrow as pa
    from pyarrow import parquet

    path.parent.mkdir(parents=True, exist_ok=True)
    parquet.write_table(pa.Table.from_pylist(rows), path)


def write_jsonl(path: Path, rows: list[dict[str, Any]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def on_hub(monkeypatch: pytest.MonkeyPatch, tables: dict[tuple[str, str | None, str], list[dict[str, Any]]]) -> None:
    """Lets `datasets` find tables by name, configuration and split, and nothing else."""
    import datasets

    def load_dataset(name: str, config: str | None, *, split: str) -> Any:
        return datasets.Dataset.from_list(tables[name, config, split])

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)


# ---- FLORES+ ----

SENTENCES = {
    # language: (glottocode, sentences of devtest)
    ("eng", "Latn"): ("stan1293", ["One.", "Two.", "Three.", "Four."]),
    ("arb", "Arab"): ("stan1318", ["واحد", "اثنان", "ثلاثة", "أربعة"]),
    ("heb", "Hebr"): ("hebr1245", ["אחת", "שתיים TWO", "שלוש", "ארבע"]),
    ("kor", "Hang"): ("kore1280", ["하나", "둘", "셋", "넷"]),
    ("tha", "Thai"): ("thai1261", ["หนึ่ง", "สอง", "สาม", "สี่"]),
    ("cmn", "Hans"): ("beij1234", ["一", "二", "三", "四 four"]),
    # not to be mistaken for one of the above
    ("arb", "Latn"): ("stan1318", ["wahid", "ithnan", "thalatha", "arba'a"]),
    ("ace", "Arab"): ("achi1257", ["sa A", "dua A", "lhee A", "peuet A"]),
    ("cmn", "Hant"): ("taib1240", ["一 A", "二 A", "三 A", "四 A"]),
}


def flores_rows(language: tuple[str, str], texts: list[str]) -> list[dict[str, Any]]:
    iso, script = language
    facts = {"iso_639_3": iso, "iso_15924": script, "glottocode": SENTENCES[language][0], "domain": "wikinews"}
    return [{"id": i, **facts, "text": text, "has_image": "no"} for i, text in enumerate(texts)]


def write_flores(folder: Path, leave_out: tuple[str, str] | None = None) -> Path:
    for language, (_, texts) in SENTENCES.items():
        if language != leave_out:
            name = "_".join(language)
            write_parquet(folder / "devtest" / f"{name}.parquet", flores_rows(language, texts))
            write_parquet(folder / "dev" / f"{name}.parquet", flores_rows(language, ["dev"]))
    return folder


def test_flores_is_split_by_the_translations_of_a_sentence_into_all_five_languages(tmp_path: Path) -> None:
    benchmark = load_benchmark(f"flores:{write_flores(tmp_path / 'flores_plus')}")
    of_subset = {
        subset: {prompt.id for prompt in benchmark.prompts if prompt.subset == subset}
        for subset in ("no-latin", "with-latin")
    }
    # Hebrew's sentence 1 and Chinese's sentence 3 hold a Latin letter
    assert of_subset["no-latin"] == {f"{code}-{i}" for code in ("ar", "he", "ko", "th") for i in (0, 2)}
    assert of_subset["with-latin"] == {f"{code}-{i}" for code in ("ar", "he", "ko", "th") for i in (1, 3)}
    assert len(benchmark.prompts) == 16
    assert {prompt.expect_scripts for prompt in benchmark.prompts if prompt.subset == "no-latin"} == {()}
    assert {prompt.expect_scripts for prompt in benchmark.prompts if prompt.subset == "with-latin"} == {("latin",)}


def test_flores_asks_for_translations(tmp_path: Path) -> None:
    prompts = {prompt.id: prompt for prompt in load_benchmark(f"flores:{write_flores(tmp_path)}").prompts}
    assert prompts["ar-2"] == Prompt(
        id="ar-2",
        prompt="Translate this English sentence into Modern Standard Arabic:\n\nThree.",
        chat=True,
        reference="ثلاثة",
        language="ar",
        subset="no-latin",
        max_tokens=512,
    )
    assert prompts["ko-2"].prompt == "Translate this English sentence into Korean:\n\nThree."


def test_flores_is_found_on_the_hub(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [row for language, (_, texts) in SENTENCES.items() for row in flores_rows(language, texts)]
    on_hub(monkeypatch, {("openlanguagedata/flores_plus", None, "devtest"): rows})
    assert len(load_benchmark("flores:hf").prompts) == 16


def test_flores_without_one_of_the_languages_is_refused(tmp_path: Path) -> None:
    folder = write_flores(tmp_path, leave_out=("cmn", "Hans"))
    with pytest.raises(GateError) as refused:
        load_benchmark(f"flores:{folder}")
    assert str(refused.value) == (
        f"{folder}: lacks sentences in cmn_Hans, expected FLORES+ in eng_Latn, arb_Arab, heb_Hebr, kor_Hang, tha_Thai, "
        "cmn_Hans"
    )


def test_flores_leaves_out_sentences_that_are_not_there_in_all_languages(tmp_path: Path) -> None:
    rows = [row for language, (_, texts) in SENTENCES.items() for row in flores_rows(language, texts)]
    thai = next(row for row in rows if row["iso_15924"] == "Thai" and row["id"] == 2)
    thai["text"] = ""
    write_jsonl(tmp_path / "devtest.jsonl", rows)
    benchmark = load_benchmark(f"flores:{tmp_path / 'devtest.jsonl'}")
    assert Counter(prompt.id.split("-")[1] for prompt in benchmark.prompts) == {"0": 4, "1": 4, "3": 4}
    assert benchmark.n_bad == 1
    assert benchmark.bad[0].endswith(":19: `text` is empty")


# ---- INCLUDE ----


def include_row(language: str, number: int, answer: object = 1) -> dict[str, Any]:
    return {
        "language": language,
        "country": "somewhere",
        "domain": "Humanities",
        "subject": "History",
        "regional_feature": "agnostic",
        "level": "",
        "question": f"{language} question {number}?",
        **{f"option_{letter}": f"{letter}{number}" for letter in "abcd"},
        "answer": answer,
    }


def test_include_asks_in_six_languages(tmp_path: Path) -> None:
    for language in ("Arabic", "Korean", "Turkish"):
        write_parquet(tmp_path / language / "test-00000-of-00001.parquet", [include_row(language, i) for i in (1, 2)])
        write_parquet(tmp_path / language / "validation-00000-of-00001.parquet", [include_row(language, 9)])
    prompts = load_benchmark(f"include:{tmp_path}").prompts
    assert [prompt.id for prompt in prompts] == ["ar-1", "ar-2", "ko-1", "ko-2"]
    assert prompts[3] == Prompt(
        id="ko-2",
        prompt="Here is an exam question with four options. Work it out step by step in Korean, then end with a line "
        "of its own that names the right option by its letter (A, B, C or D): 답변: LETTER"
        "\n\nKorean question 2?\n\nA) a2\nB) b2\nC) c2\nD) d2",
        chat=True,
        language="ko",
        expect_scripts=("latin",),
        answer="B",
        max_tokens=8000,
    )


def test_include_is_found_on_the_hub_language_by_language(monkeypatch: pytest.MonkeyPatch) -> None:
    languages = ("Arabic", "Hebrew", "Greek", "Korean", "Russian", "Vietnamese")
    name = "CohereLabs/include-base-44"
    on_hub(monkeypatch, {(name, language, "test"): [include_row(language, 1)] for language in languages})
    assert [prompt.language for prompt in load_benchmark("include:hf").prompts] == ["ar", "he", "el", "ko", "ru", "vi"]


def test_one_configuration_of_the_hub_can_be_named(monkeypatch: pytest.MonkeyPatch) -> None:
    on_hub(monkeypatch, {("Owner/copy", "Greek", "validation"): [include_row("Greek", 1)]})
    assert [prompt.id for prompt in load_benchmark("include:hf:Owner/copy:Greek:validation").prompts] == ["el-1"]


@pytest.mark.parametrize("answer", [4, -1, "B", None, True, 1.0])
def test_an_answer_that_is_no_option_is_told(tmp_path: Path, answer: object) -> None:
    write_jsonl(tmp_path / "test.jsonl", [include_row("Hebrew", 1, answer), include_row("Hebrew", 2, 0)])
    benchmark = load_benchmark(f"include:{tmp_path}")
    assert [prompt.answer for prompt in benchmark.prompts] == ["A"]
    assert benchmark.bad[0].endswith(f"test.jsonl:1: `answer` is {answer!r}, expected a number from 0 to 3")


def test_include_in_other_languages_only_is_refused(tmp_path: Path) -> None:
    write_jsonl(tmp_path / "test.jsonl", [include_row("Turkish", 1)])
    with pytest.raises(
        GateError, match=r"holds none, expected questions in Arabic, Hebrew, Greek, Korean, Russian, Vi"
    ):
        load_benchmark(f"include:{tmp_path}")


# ---- HumanEval-XL ----


def humaneval_row(program: str, language: str, number: int) -> dict[str, Any]:
    return {
        "task_id": f"{program}/{number}",
        "prompt": f'\n\ndef f{number}(x):\n    """{language}"""\n',
        "entry_point": f"f{number}",
        "test": "def check(candidate):\n    pass\n",
        "language": program,
        "canonical_solution": float("nan"),
        "description": language,
        "natural_language": language,
    }


def write_humaneval(folder: Path) -> Path:
    for program in ("python", "java"):
        for language in ("Arabic", "Hebrew", "Chinese"):
            rows = [humaneval_row(program, language, i) for i in (0, 1)]
            write_jsonl(folder / "data" / program / f"{language}.jsonl", rows)
    sample = {"task_id": "python/0", "completion": "pass", "language": "python"}
    write_jsonl(folder / "mxeval" / "python_chinese_generated_samples.jsonl", [sample])
    return folder


@pytest.mark.parametrize("part", [".", "data", "data/python"])
def test_humaneval_xl_gives_the_python_of_two_languages(tmp_path: Path, part: str) -> None:
    benchmark = load_benchmark(f"humaneval-xl:{write_humaneval(tmp_path) / part}")
    assert [prompt.id for prompt in benchmark.prompts] == ["ar-python/0", "ar-python/1", "he-python/0", "he-python/1"]
    assert benchmark.prompts[2] == Prompt(
        id="he-python/0",
        prompt='\n\ndef f0(x):\n    """Hebrew"""\n',
        chat=True,
        language="he",
        expect_scripts=("latin",),
        max_tokens=8000,
    )
    assert benchmark.n_bad == (1 if part == "." else 0)  # the repository's sample of a model's answer


def test_humaneval_xl_is_found_on_the_hub(monkeypatch: pytest.MonkeyPatch) -> None:
    name = "FloatAI/HumanEval-XL"
    tables = {(name, "python", lang): [humaneval_row("python", lang, 0)] for lang in ("Arabic", "Hebrew")}
    on_hub(monkeypatch, tables)
    assert [prompt.id for prompt in load_benchmark("humaneval-xl:hf").prompts] == ["ar-python/0", "he-python/0"]


def test_humaneval_xl_in_other_languages_only_is_refused(tmp_path: Path) -> None:
    place = write_humaneval(tmp_path) / "data" / "java"
    with pytest.raises(GateError, match="holds none, expected python functions described in Arabic or Hebrew"):
        load_benchmark(f"humaneval-xl:{place}")


# ---- Language Confusion Benchmark ----

LONG = 'Reply in Arabic.\n\n"Two lines",\nand a comma'


def write_csv(path: Path, rows: list[dict[str, str]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


def write_lcb(folder: Path) -> Path:
    native = [{"prompt": f"질문 {i}", "source": "native_prompts", "language": "ko"} for i in (1, 2)]
    write_csv(folder / "test_sets" / "monolingual" / "native" / "ko.csv", native)
    facts = {"location": "Start", "phrasing": "reply in {language_requested}", "language": "ar", "source": "okapi"}
    write_csv(folder / "test_sets" / "crosslingual" / "okapi" / "ar.csv", [{"prompt": LONG, **facts}])
    write_csv(folder / "test_sets" / "monolingual" / "okapi" / "ar.csv", [{"prompt": "سؤال", **facts}])
    reply = {"model": "m", "completion": "c", "task": "t", "source": "s", "language": "ar", "prompt": "not a prompt"}
    write_csv(folder / "outputs" / "command-r.csv", [reply])
    return folder


@pytest.mark.parametrize("part", [".", "test_sets"])
def test_lcb_reads_all_test_sets_of_a_clone(tmp_path: Path, part: str) -> None:
    benchmark = load_benchmark(f"lcb:{write_lcb(tmp_path) / part}")
    assert [prompt.id for prompt in benchmark.prompts] == [
        "crosslingual/okapi/ar/1",
        "monolingual/native_prompts/ko/1",
        "monolingual/native_prompts/ko/2",
        "monolingual/okapi/ar/1",
    ]
    assert benchmark.prompts[0] == Prompt(
        id="crosslingual/okapi/ar/1",
        prompt=LONG,
        chat=True,
        language="ar",
        subset="crosslingual",
        max_tokens=100,
    )
    assert benchmark.n_bad == 0


def test_lcb_reads_one_file(tmp_path: Path) -> None:
    place = write_lcb(tmp_path) / "test_sets" / "monolingual" / "native" / "ko.csv"
    assert [(p.prompt, p.subset) for p in load_benchmark(f"lcb:{place}").prompts] == [
        ("질문 1", "monolingual"),
        ("질문 2", "monolingual"),
    ]


def test_lcb_reads_rows_of_other_files(tmp_path: Path) -> None:
    row = {"prompt": "Hi", "task": "monolingual", "source": "aya", "language": "English"}
    write_jsonl(tmp_path / "test.jsonl", [row, row])
    prompts = load_benchmark(f"lcb:{tmp_path / 'test.jsonl'}").prompts
    assert [prompt.id for prompt in prompts] == ["monolingual/aya/en/1", "monolingual/aya/en/2"]


def test_a_line_of_a_csv_file_is_told_by_where_its_row_begins(tmp_path: Path) -> None:
    place = tmp_path / "x.csv"
    place.write_text('prompt,source,language\n"two\nlines",okapi,ar\n"",okapi,ar\nHi,okapi\n', encoding="utf-8-sig")
    benchmark = load_benchmark(f"lcb:{place}")
    assert [prompt.prompt for prompt in benchmark.prompts] == ["two\nlines"]
    assert benchmark.bad == (f"{place}:4: `prompt` is empty", f"{place}:5: has no `language`")


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", ": holds none, expected rows with `prompt` and `language`"),
        (b"question\nHi\n", ":2: has no `language`; none of 1 rows can be used"),
        (b"prompt,language\n\xff\xfe,ar\n", ":2: 'utf-8' codec can't decode byte 0xff"),
        (b'prompt,language\n"' + b"x" * 200_000 + b'",ar\n', ":2: field larger than field limit"),
    ],
)
def test_a_broken_csv_file_is_told_in_one_line(tmp_path: Path, data: bytes, reason: str) -> None:
    place = tmp_path / "x.csv"
    place.write_bytes(data)
    with pytest.raises(GateError) as refused:
        load_benchmark(f"lcb:{place}")
    assert str(refused.value).startswith(f"{place}{reason}")
    assert "\n" not in str(refused.value)


def test_a_folder_without_csv_files_is_refused(tmp_path: Path) -> None:
    with pytest.raises(GateError, match=r"holds no \.csv files, expected a clone of the benchmark's repository"):
        load_benchmark(f"lcb:{tmp_path}")


def test_a_missing_csv_file_is_an_os_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        load_benchmark(f"lcb:{tmp_path / 'x.csv'}")
