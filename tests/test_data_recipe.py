"""The paper's mix, read from small copies of its datasets in the layout they have on the hub."""

from __future__ import annotations

import json
import random
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from lcg_cpp import GateError, cli
from lcg_cpp.data import Message, open_dataset, recipe
from lcg_cpp.data.languages import flores_names
from test_data import write_lines, write_parquet

VARIETIES = {
    ("eng", "Latn", "stan1293"): "eng_Latn",
    ("cmn", "Hans", "beij1234"): "cmn_Hans",
    ("cmn", "Hant", "taib1240"): "cmn_Hant",
    ("ace", "Arab", "achi1257"): "ace_Arab",
    ("ace", "Latn", "achi1257"): "ace_Latn",
    ("kor", "Hang", "kore1280"): "kor_Hang",
}
TARGETS = {"English", "Simplified Chinese", "Traditional Chinese", "Acehnese (Arabic script)", "Korean"} | {
    "Acehnese (Latin script)"
}


@pytest.fixture(autouse=True)
def _few(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> None:
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path_factory.mktemp("cache"))
    monkeypatch.setattr(recipe, "AYA_PER_LANGUAGE", 3)
    monkeypatch.setattr(recipe, "FLORES_PER_LANGUAGE", 4)
    monkeypatch.setattr(recipe, "ALPACA_ROWS", 5)
    monkeypatch.setitem(cli.COMMANDS, "data", "texts to train on")


def flores_rows(iso: str, script: str, glottocode: str, split: str) -> list[dict[str, Any]]:
    code = f"{iso}_{script}"
    facts = {"iso_639_3": iso, "iso_15924": script, "glottocode": glottocode, "url": "https://…", "domain": "wikinews"}
    return [{"id": i, **facts, "text": f"{code} {split} {i}"} for i in range(6)]


def write_flores(folder: Path) -> Path:
    for variety, code in VARIETIES.items():
        for split in ("dev", "devtest"):
            write_parquet(folder / split / f"{code}.parquet", flores_rows(*variety, split))
    return folder


def write_aya(folder: Path) -> Path:
    def rows(language: str, n: int) -> list[dict[str, Any]]:
        facts = {"language": language, "language_code": language[:3].lower(), "annotation_type": "original-annotations"}
        return [
            {"inputs": f"{language}? {i}", "targets": f"{language}! {i}", **facts, "user_id": "x"} for i in range(n)
        ]

    train = rows("Tamil", 7) + rows("Zulu", 2) + [{**rows("Tamil", 1)[0], "targets": " "}]
    write_parquet(folder / "data" / "train-00000-of-00001.parquet", train)
    write_parquet(folder / "data" / "test-00000-of-00001.parquet", rows("Never", 3))
    return folder


def write_reasoning(folder: Path) -> Path:
    rows = [
        {
            "en_prompt": "What is 1 + 1?",
            "language": language,
            "translated_prompt": f"{language} 1 + 1?",
            "response": f"<think>\n{language}\n</think>\n\n2",
            "is_valid_res": True,
            "conversations": [{"from": "human", "value": "other"}, {"from": "gpt", "value": "words"}],
        }
        for language in ("Arabic", "Thai")
    ]
    write_parquet(folder / "data" / "train-00000-of-00001.parquet", rows)
    return folder


def write_alpaca(path: Path, word: str) -> Path:
    rows = [{"instruction": f"{word} {i}", "input": "" if i % 2 else "x", "output": f"{word}! {i}"} for i in range(9)]
    path.write_text(json.dumps([*rows, {"instruction": "?", "input": "", "output": ""}], ensure_ascii=False), "utf-8")
    return path


@pytest.fixture
def copies(tmp_path: Path) -> list[str]:
    """Local copies of all sources, as options."""
    return [
        *("--flores", str(write_flores(tmp_path / "flores_plus"))),
        *("--aya", str(write_aya(tmp_path / "aya_dataset"))),
        *("--reasoning", str(write_reasoning(tmp_path / "reasoning"))),
        *("--alpaca-en", str(write_alpaca(tmp_path / "alpaca_data_cleaned.json", "en"))),
        *("--alpaca-zh", str(write_alpaca(tmp_path / "alpaca_gpt4_data_zh.json", "中"))),
    ]


def run(*args: object) -> int:
    return cli.main(["data", "recipe", "paper", *map(str, args)])


def read(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text("utf-8").splitlines()]


def test_the_mix(copies: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "mix.jsonl"
    assert run("-o", out, *copies, "--json") == 0
    said = capsys.readouterr()
    assert json.loads(said.out) == {
        "path": str(out),
        "rows": 41,
        "sources": {
            "flores": {"rows": 24, "languages": 6, "bad_rows": 0},
            "aya": {"rows": 5, "languages": 2, "bad_rows": 1},
            "reasoning": {"rows": 2, "languages": 2, "bad_rows": 0},
            "alpaca-en": {"rows": 5, "languages": 1, "bad_rows": 1},
            "alpaca-zh": {"rows": 5, "languages": 1, "bad_rows": 1},
        },
    }
    assert "train-00000-of-00001.parquet:10: `targets` is empty" in said.err
    rows = read(out)
    assert Counter(row["source"] for row in rows) == {
        "flores": 24, "aya": 5, "reasoning": 2, "alpaca-en": 5, "alpaca-zh": 5,
    }  # fmt: skip
    assert Counter(row["language"] for row in rows if row["source"] == "aya") == {"Tamil": 3, "Zulu": 2}
    assert {row["language"] for row in rows if row["source"] == "alpaca-zh"} == {"Chinese"}
    assert len({json.dumps(row) for row in rows}) == 41
    assert sorted(tmp_path.glob("*.tmp")) == []
    assert open_dataset(str(out)).n_bad == 0


def test_translations_come_from_english_and_chinese_dev_sentences(copies: list[str], tmp_path: Path) -> None:
    out = tmp_path / "mix.jsonl"
    run("-o", out, *copies)
    rows = [row for row in read(out) if row["source"] == "flores"]
    assert Counter(row["language"] for row in rows) == dict.fromkeys(TARGETS, 4)
    sources = set()
    for row in rows:
        prompt, reply = (message["content"] for message in row["messages"])
        head, text = prompt.split("\n\n")
        code, split, number = text.split()
        source = {"eng_Latn": "English", "cmn_Hans": "Chinese"}[code]
        assert head == f"Translate the following {source} text into {row['language']}."
        assert split == "dev"
        assert reply.split()[1:] == ["dev", number]
        assert reply.split()[0] != code
        sources.add(source)
    assert sources == {"English", "Chinese"}


def test_reasoning_stays_in_its_reply(copies: list[str], tmp_path: Path) -> None:
    out = tmp_path / "mix.jsonl"
    run("-o", out, *copies)
    row = next(row for row in read(out) if row["language"] == "Thai")
    assert [message["content"] for message in row["messages"]] == ["Thai 1 + 1?", "<think>\nThai\n</think>\n\n2"]


def test_the_same_seed_gives_the_same_bytes(copies: list[str], tmp_path: Path) -> None:
    made = []
    for number, seed in enumerate((1, 1, 2)):
        path = tmp_path / f"{number}.jsonl"
        run("-o", path, *copies, "--seed", seed)
        made.append(path.read_bytes())
    assert made[0] == made[1]
    assert sorted(made[0].splitlines()) != sorted(made[2].splitlines())
    sources = [row["source"] for row in read(tmp_path / "0.jsonl")]
    assert sum(one != other for one, other in zip(sources, sources[1:])) > len(set(sources))  # they are mixed


def test_sampling_is_fair() -> None:
    counts: Counter[int] = Counter()
    for seed in range(2000):
        reservoir = recipe._Reservoir[int](3, random.Random(seed))
        for item in range(10):
            reservoir.add(item)
        assert len(set(reservoir.items)) == 3
        counts.update(reservoir.items)
    # 600 expected of each, standard deviation 20
    assert all(500 < counts[item] < 700 for item in range(10))


def test_a_refused_source_names_the_fix(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    import datasets

    def load_dataset(*what: object, **how: object) -> Any:
        raise datasets.exceptions.DatasetNotFoundError(f"Dataset '{what[0]}' is a gated dataset on the Hub.")

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    out = tmp_path / "mix.jsonl"
    assert run("-o", out) == 2
    assert capsys.readouterr().err.splitlines() == [
        "reading flores: hf:openlanguagedata/flores_plus",
        "lcg-cpp: error: --flores: hf:openlanguagedata/flores_plus: is gated: accept its terms at"
        " https://huggingface.co/datasets/openlanguagedata/flores_plus and log in with `hf auth login`, or use a copy"
        " of your own (`--without flores` leaves it out)",
    ]
    assert not out.exists()


def test_sources_are_asked_for_the_right_split(monkeypatch: pytest.MonkeyPatch) -> None:
    import datasets

    asked = []

    def load_dataset(name: str, config: str | None, *, split: str) -> Any:
        asked.append((name, config, split))
        return datasets.Dataset.from_list([])

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    for name, source in recipe.SOURCES.items():
        with pytest.raises(GateError, match=f"{source.hub}: "):
            recipe.read_source(name, source.hub, 0)
    assert asked == [
        ("openlanguagedata/flores_plus", None, "dev"),
        ("CohereLabs/aya_dataset", None, "train"),
        ("lightblue/reasoning-multilingual-R1-Llama-70B-train", None, "train"),
        ("yahma/alpaca-cleaned", None, "train"),
        ("shibing624/alpaca-zh", None, "train"),
    ]


def test_what_goes_wrong_is_one_line(copies: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def refusal(*args: object) -> str:
        assert run(*args) == 2
        return capsys.readouterr().err.splitlines()[-1].removeprefix("lcg-cpp: error: ")

    out = tmp_path / "mix.jsonl"
    texts = write_lines(tmp_path / "texts.jsonl", {"text": "plain"})
    only = ["--without", "flores", "--without", "reasoning", "--without", "alpaca-en", "--without", "alpaca-zh"]
    assert refusal("-o", out, *only, "--without", "aya").startswith("--without leaves nothing of the mix")
    assert refusal("-o", tmp_path).startswith(f"-o/--output: {tmp_path}: is a folder")
    assert refusal("-o", out, *only, "--aya", texts).startswith(f"--aya: {texts}:1: has no `language`; none of 1 rows")
    assert refusal("-o", out, *only, "--aya", tmp_path / "no.jsonl").endswith("no.jsonl: no such file or directory")
    korean = write_parquet(tmp_path / "kor.parquet", flores_rows("kor", "Hang", "", "dev"))
    assert refusal("-o", out, *copies, "--flores", korean).startswith(
        f"--flores: {korean}: lacks sentences in eng_Latn or cmn_Hans"
    )
    assert not out.exists()


def test_a_row_of_a_source_that_is_no_chat_is_bad(tmp_path: Path) -> None:
    data = write_lines(
        tmp_path / "x.jsonl", {"text": "x"}, [1], b"?\n", {"prompt": "a", "response": "b"}, {"messages": 1}
    )
    part = recipe.read_source("alpaca-en", str(data), 0)
    assert part.rows == [("English", (Message("user", "a"), Message("assistant", "b")))]
    assert part.n_bad == 4
    assert part.bad[0] == f"{data}:1: is plain text, expected a prompt and a reply"
    assert part.bad[1] == f"{data}:2: is not an object with named columns"
    assert part.bad[2].startswith(f"{data}:3: is not JSON")


def test_names_of_languages() -> None:
    varieties = [
        *VARIETIES,
        ("cat", "Latn", "stan1289"),
        ("cat", "Latn", "vale1252"),
        ("hne", "Deva", "chha1249"),
        ("gaz", "Latn", "west2721"),
        ("xxq", "Latn", ""),
    ]
    assert {code[0] + code[2]: name for code, name in flores_names(varieties).items()}.items() >= {
        "engstan1293": "English",
        "catstan1289": "Catalan",
        "catvale1252": "Valencian",
        "hnechha1249": "Chhattisgarhi",
        "gazwest2721": "Oromo",
        "xxq": "xxq",
    }.items()
