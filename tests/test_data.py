"""Training data: what rows are understood, what is said of the others, and how they are found again on disk."""

from __future__ import annotations

import json
import logging
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from lcg_cpp import GateError
from lcg_cpp.data import Message, Sample, open_dataset
from lcg_cpp.data.rows import BadRow, sample_from_row

POSIX_ONLY = pytest.mark.skipif(os.name == "nt", reason="pipes with names are of POSIX")
CHAT = (Message("user", "Hi"), Message("assistant", "Hello"))
MESSAGES = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}]
TOOL_USE = [  # OpenAI's
    {"role": "assistant", "content": None, "tool_calls": [{"id": "1", "function": {"name": "f", "arguments": "{}"}}]},
    {"role": "tool", "tool_call_id": "1", "content": "7"},
    {"role": "tool", "tool_call_id": "2", "content": "8"},
]
FUNCTION_USE = [  # and its older one
    {"role": "assistant", "content": "", "function_call": {"name": "f", "arguments": "{}"}},
    {"role": "function", "name": "f", "content": "7"},
]
SHAREGPT_USE = [{"from": "function_call", "value": "{}"}, {"from": "observation", "value": "7"}]
PARTS = [{"type": "text", "text": "H"}, {"type": "text", "text": "i"}]


def write_lines(path: Path, *rows: object) -> Path:
    path.write_bytes(b"".join(line if isinstance(line, bytes) else json.dumps(line).encode() + b"\n" for line in rows))
    return path


def write_parquet(path: Path, rows: list[dict[str, Any]], row_group_size: int = 2) -> Path:
    import pyarrow as pa
    from pyarrow import parquet

    path.parent.mkdir(parents=True, exist_ok=True)
    parquet.write_table(pa.Table.from_pylist(rows), path, row_group_size=row_group_size)
    return path


@pytest.fixture(autouse=True)
def _datasets_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path_factory.mktemp("cache"))


# ---- rows ----


@pytest.mark.parametrize(
    "row",
    [
        {"messages": MESSAGES},
        {"conversations": [{"from": "human", "value": "Hi"}, {"from": "gpt", "value": "Hello"}]},
        {"conversations": {"from": ["human", "gpt"], "value": ["Hi", "Hello"]}},
        {"messages": [{"role": "user", "content": PARTS}, {"role": "assistant", "content": "Hello"}]},
        {"messages": [{"role": "system", "content": ""}, *MESSAGES, {"role": "user", "content": "Bye"}]},
        {"prompt": "Hi", "response": "Hello", "language": "en"},
        {"prompt": "Hi", "completion": "Hello"},
        {"query": "Hi", "query_response": "Hello"},
        {"query": "Hi", "query_response": "HiHello"},
        {"instruction": "Hi", "input": "", "output": "Hello", "text": "Below is an instruction …"},
        {"instruction": "Hi", "input": None, "output": "Hello"},
        {"inputs": "Hi", "targets": "Hello", "language": "English"},
        {"messages": None, "text": None, "prompt": "Hi", "response": "Hello"},
        {"prompt": MESSAGES[:1], "completion": MESSAGES[1:]},  # TRL's conversations
        {"prompt": "Hi", "completion": MESSAGES[1:]},
        {"prompt": MESSAGES[:1], "completion": "Hello"},
        {"prompt": "Hi", "completion": MESSAGES},  # which repeats the prompt
        {"prompt": "Hi", "chosen": "Hello", "rejected": "No"},  # and its preferences
        {"prompt": MESSAGES[:1], "chosen": MESSAGES[1:], "rejected": MESSAGES[1:]},
        {"chosen": MESSAGES, "rejected": MESSAGES},
        {"messages": [{"role": "Human", "content": "Hi"}, {"role": " ASSISTANT ", "content": "Hello"}]},
        {"messages": [{"role": "prompter", "text": "Hi"}, {"role": "Bot", "text": "Hello"}]},
        {"messages": [{"role": "user", "content": ["H", "i"]}, {"role": "assistant", "content": "Hello"}]},
        {"messages": [MESSAGES[0], *TOOL_USE, MESSAGES[1]]},
        {"messages": [*MESSAGES, *TOOL_USE]},
        {"messages": [MESSAGES[0], *FUNCTION_USE, MESSAGES[1]]},
        {"conversations": [{"from": "human", "value": "Hi"}, *SHAREGPT_USE, {"from": "gpt", "value": "Hello"}]},
    ],
)
def test_a_chat_is_understood_in_every_layout(row: Mapping[str, object]) -> None:
    assert sample_from_row(row) == Sample(messages=CHAT)


def test_input_stands_behind_its_instruction() -> None:
    row = {"instruction": "Add.", "input": "1, 2", "output": "3"}
    assert sample_from_row(row).messages == (Message("user", "Add.\n\n1, 2"), Message("assistant", "3"))


def test_what_an_assistant_says_beside_a_call_is_kept_and_so_is_what_the_tool_answers() -> None:
    said = {"role": "assistant", "content": "Let me see.", "tool_calls": [{"id": "1"}]}
    row = {"messages": [MESSAGES[0], said, TOOL_USE[1], MESSAGES[1]]}
    assert sample_from_row(row).messages == (
        CHAT[0],
        Message("assistant", "Let me see."),
        Message("tool", "7"),
        CHAT[1],
    )


def test_text_is_kept_to_the_letter() -> None:
    assert sample_from_row({"text": "  a\n b "}) == Sample(text="  a\n b ")


def test_query_response_that_only_repeats_the_query_is_the_reply() -> None:
    row = {"query": "Repeat.", "query_response": "Repeat."}
    assert sample_from_row(row).messages[1] == Message("assistant", "Repeat.")


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ([1], "is a list, expected an object with named columns"),
        ({}, "has no columns, expected `messages`"),
        ({"title": "x", "url": "y"}, "has `title`, `url`, expected `messages`"),
        ({"prompt": "Hi"}, "has `prompt`, expected `messages`"),
        ({"prompt": "Hi", "response": "  "}, "`response` is empty"),
        ({"prompt": 7, "response": "x"}, "`prompt` is a number, expected text"),
        ({"instruction": "Add.", "input": 1, "output": "3"}, "`input` is a number, expected text"),
        ({"text": True}, "`text` is true or false, expected text"),
        ({"text": "a\ud800"}, "`text` holds half a surrogate pair at character 1"),
        ({"messages": "Hi"}, "`messages` is text, expected a list of messages"),
        ({"messages": []}, "`messages` holds no message of an assistant"),
        ({"messages": ["Hi"]}, "message 1 is text, expected an object with `role` and `content`"),
        ({"messages": [{"role": "user", "content": "Hi"}]}, "`messages` holds no message of an assistant"),
        ({"messages": [{"role": "narrator", "content": "Hi"}]}, "message 1 has the role 'narrator', expected system"),
        ({"messages": [{"role": ["x"], "content": "Hi"}]}, "message 1 has the role ['x'], expected system"),
        ({"messages": [{"role": "assistant", "content": None}]}, "message 1 is nothing, expected text"),
        ({"messages": [MESSAGES[0], *TOOL_USE]}, "`messages` holds no message of an assistant"),
        ({"prompt": MESSAGES[:1], "completion": MESSAGES[:1]}, "`completion` holds no message of an assistant"),
        ({"prompt": [{"role": "x"}], "completion": "y"}, "message 1 of `prompt` has the role 'x', expected system"),
        ({"chosen": 7}, "`chosen` is a number, expected text"),
        ({"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, "message 1 has a part that is not text"),
    ],
)
def test_what_cannot_be_used_says_why(row: object, reason: str) -> None:
    with pytest.raises(BadRow) as refused:
        sample_from_row(row)
    assert str(refused.value).startswith(reason)


def test_a_sample_is_either_a_chat_or_a_text() -> None:
    with pytest.raises(GateError, match="both `messages` and `text` or neither"):
        Sample()
    with pytest.raises(GateError, match="both `messages` and `text` or neither"):
        Sample(CHAT, "x")


# ---- files ----


def test_bad_lines_are_counted_shown_and_skipped(tmp_path: Path) -> None:
    rows = write_lines(
        tmp_path / "x.jsonl",
        b"\xef\xbb\xbf" + b'{"text": "first"}\r\n',
        b"\n",
        b"{'text': 1}\n",
        {"text": "zwei \u00fc\u4e2d\u2028\u00e4"},
        b'{"text": "\xff"}\n',
        {"title": "x"},
        b'["array"]\n',
        b"[" * 100_000 + b"\n",
        {"text": ""},
        b'{"text": "last"}',
    )
    dataset = open_dataset(str(rows))
    assert [sample.text for sample in dataset] == ["first", "zwei ü中\u2028ä", "last"]
    assert dataset[-1] == Sample(text="last")
    assert dataset.n_bad == 6
    assert [reason.split(": ", 1)[0] for reason in dataset.bad] == [f"{rows}:{line}" for line in (3, 5, 6, 7, 8)]
    assert dataset.bad[0].endswith("is not JSON: expecting property name enclosed in double quotes at column 2")
    assert dataset.bad[1].endswith("is not UTF-8 (byte 11 of the line)")
    assert (dataset.name, len(dataset)) == (str(rows), 3)


def test_a_byte_order_mark_inside_of_joined_files_is_no_text(tmp_path: Path) -> None:
    one = b"\xef\xbb\xbf" + b'{"text": "one"}\n'
    joined = write_lines(tmp_path / "x.jsonl", one, one)
    dataset = open_dataset(str(joined))
    assert [sample.text for sample in dataset] == ["one", "one"]
    assert dataset.n_bad == 0


def test_utf_16_is_named(tmp_path: Path) -> None:
    path = tmp_path / "x.jsonl"
    path.write_bytes('{"text": "one"}\n'.encode("utf-16"))
    with pytest.raises(GateError, match=r"x\.jsonl:1: is not UTF-8, but UTF-16 \(byte 1 of the line\)"):
        open_dataset(str(path))


@POSIX_ONLY
@pytest.mark.parametrize("name", ["x.jsonl", "x.parquet"])
def test_a_pipe_is_refused_and_does_not_wait(tmp_path: Path, name: str) -> None:
    os.mkfifo(tmp_path / name)
    with pytest.raises(OSError, match="is a pipe, expected a regular file"):
        open_dataset(str(tmp_path / name))


def test_a_json_array_is_read_row_by_row(tmp_path: Path) -> None:
    path = tmp_path / "alpaca.json"
    rows = [{"instruction": "Hi \u4e2d", "input": "", "output": "Hello"}, {"output": "?"}, {"text": "\u00fcb\n\u4e2d"}]
    path.write_bytes(b"\xef\xbb\xbf \n" + json.dumps(rows, indent=1, ensure_ascii=False).encode())
    dataset = open_dataset(str(path))
    assert list(dataset) == [
        Sample(messages=(Message("user", "Hi 中"), Message("assistant", "Hello"))),
        Sample(text="üb\n中"),
    ]
    assert dataset.bad == [f"{path}:8: has `output`, expected `messages`, `prompt` and `response`, `query` and"
                           " `query_response`, `instruction` and `output`, or `text`"]  # fmt: skip


@pytest.mark.parametrize(
    ("data", "line", "reason"),
    [
        (b'[{"text": "a"},\n {"text": b}]', 2, "is not JSON: expecting value at column 11; what follows is not read"),
        (b'[{"text": "a"}\n {"text": "b"}]', 2, "is not JSON: the array has no end here"),
        (b'[{"text": "a"}', 1, "is not JSON: the array has no end here"),
        (b'[{"text": "a"},', 1, "is not JSON: expecting value at column 16; what follows is not read"),
    ],
)
def test_a_broken_json_array_is_used_as_far_as_it_goes(tmp_path: Path, data: bytes, line: int, reason: str) -> None:
    path = tmp_path / "x.json"
    path.write_bytes(data)
    dataset = open_dataset(str(path))
    assert (list(dataset), dataset.bad) == ([Sample(text="a")], [f"{path}:{line}: {reason}"])


def test_a_json_array_that_is_no_text(tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    path.write_bytes(b'[{"text": "\xff"}]')
    with pytest.raises(GateError) as refused:
        open_dataset(str(path))
    assert str(refused.value) == f"{path}: is not UTF-8 (byte 11); none of 1 rows can be used"


def test_parquet(tmp_path: Path) -> None:
    rows = [{"messages": MESSAGES, "text": None}, {"messages": None, "text": "plain"}, {"messages": None, "text": None}]
    path = write_parquet(tmp_path / "x.parquet", rows)
    dataset = open_dataset(str(path))
    assert list(dataset) == [Sample(messages=CHAT), Sample(text="plain")]
    assert dataset.bad[0].startswith(f"{path}:3: has no columns, expected")


def test_a_folder_holds_all_files_below_it(tmp_path: Path) -> None:
    write_parquet(tmp_path / "data" / "b.parquet", [{"text": "three"}])
    write_lines(tmp_path / "a.jsonl", {"text": "one"}, {"text": "two"}, b"?\n")
    write_lines(tmp_path / "dataset_infos.json", {"default": {}})
    (tmp_path / ".git").mkdir()
    write_lines(tmp_path / ".git" / "c.jsonl", {"text": "never"})
    (tmp_path / "README.md").write_text("never")
    dataset = open_dataset(str(tmp_path))
    assert [dataset[i].text for i in (0, 1, 2, -3)] == ["one", "two", "three", "one"]
    assert (len(dataset), dataset.n_bad) == (3, 1)
    with pytest.raises(IndexError):
        dataset[3]


def test_a_file_with_no_usable_row_is_an_error(tmp_path: Path) -> None:
    write_lines(tmp_path / "a.jsonl", {"text": "good"})
    bad = write_lines(tmp_path / "b.jsonl", {"title": "x"}, b"?\n")
    with pytest.raises(GateError, match=r"b\.jsonl:1: has `title`, expected .+; none of 2 rows can be used"):
        open_dataset(str(tmp_path))
    bad.write_bytes(b"")
    with pytest.raises(GateError, match=r"b\.jsonl: holds no rows"):
        open_dataset(str(bad))


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        (
            "x.csv",
            "x.csv: has another suffix, expected a .jsonl, .ndjson, .json, .parquet file, a folder",
        ),
        ("Owner/name", "Owner/name: does not exist, expected a .jsonl"),
        ("empty", "empty: holds no rows, expected .jsonl"),
        ("hf:", "hf:: expected hf:NAME, hf:NAME:CONFIG or hf:NAME:CONFIG:SPLIT"),
        ("hf:a:b:c:d", "hf:a:b:c:d: expected hf:NAME"),
        ("broken.parquet", "broken.parquet: "),
    ],
)
def test_names_that_are_no_data(
    name: str, reason: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(logging.getLogger("datasets"), "handlers", [caplog.handler])
    monkeypatch.chdir(tmp_path)
    Path("x.csv").write_text("text\nx\n")
    Path("broken.parquet").write_text("PAR1")
    Path("empty").mkdir()
    with pytest.raises(GateError) as refused:
        open_dataset(name)
    assert str(refused.value).startswith(reason)
    assert "\n" not in str(refused.value)
    assert not caplog.records


@pytest.mark.parametrize("name", ["missing.jsonl", "missing.parquet"])
def test_a_missing_file_is_an_os_error(name: str) -> None:
    with pytest.raises(FileNotFoundError):
        open_dataset(name)


def test_a_file_that_was_changed_meanwhile_is_noticed(tmp_path: Path) -> None:
    path = write_lines(tmp_path / "x.jsonl", {"text": "one"}, {"text": "two"})
    dataset = open_dataset(str(path))
    write_lines(path, {"text": "longer than before"}, {"text": "two"})
    with pytest.raises(GateError, match=r"x\.jsonl: changed after it was opened: a row is not JSON"):
        dataset[1]


# ---- Hugging Face ----


def test_hub_names_give_config_and_split(monkeypatch: pytest.MonkeyPatch) -> None:
    import datasets

    asked = []

    def load_dataset(*what: object, **how: object) -> Any:
        asked.append((*what, how))
        return datasets.Dataset.from_list([{"inputs": "Hi", "targets": "Hello"}])

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    for name in ("hf:Owner/name", "hf:Owner/name:config", "hf:Owner/name:config:test", "hf:Owner/name::dev"):
        assert list(open_dataset(name)) == [Sample(messages=CHAT)]
    assert asked == [
        ("Owner/name", None, {"split": "train"}),
        ("Owner/name", "config", {"split": "train"}),
        ("Owner/name", "config", {"split": "test"}),
        ("Owner/name", None, {"split": "dev"}),
    ]


def test_a_gated_dataset_names_the_fix(monkeypatch: pytest.MonkeyPatch) -> None:
    import datasets

    def load_dataset(*what: object, **how: object) -> Any:
        raise datasets.exceptions.DatasetNotFoundError("Dataset 'Owner/name' is a gated dataset on the Hub.\nVisit …")

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    with pytest.raises(GateError) as refused:
        open_dataset("hf:Owner/name")
    assert str(refused.value) == (
        "hf:Owner/name: is gated: accept its terms at https://huggingface.co/datasets/Owner/name and log in with"
        " `hf auth login`, or use a copy of your own"
    )


def test_a_missing_package_names_the_fix(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(GateError, match=r'hf:x: reading it needs `datasets`: pip install "lcg-cpp\[data\]"'):
        open_dataset("hf:x")
