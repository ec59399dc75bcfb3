"""A corpus of the model's own answers: the prompts, and what happens to the file."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
import unicodedata
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from lcg_cpp import GateError, cli
from lcg_cpp.data import open_dataset, prompts
from lcg_cpp.data.languages import cldr_version
from lcg_cpp.data.prompts import Prompt, PromptSeries, prompt_languages
from lcg_cpp.data.synth import Answer, Corpus, answers
from lcg_cpp.gate.families import text_families
from lcg_cpp.gate.scripts import RULE_SET, families_of_script

# The scripts that a language's instructions are written in; all others are written in Latin.
SCRIPTS = {
    "zh": {"CJK"},
    "zh_Hant": {"CJK"},
    "ja": {"CJK", "HIRAGANA", "KATAKANA", "KATAKANA-HIRAGANA"},
    "ko": {"HANGUL"},
    **{code: {"ARABIC"} for code in ("ar", "fa", "ur")},
    "he": {"HEBREW"},
    "th": {"THAI"},
    **{code: {"DEVANAGARI"} for code in ("hi", "mr", "ne")},
    **{code: {"CYRILLIC"} for code in ("ru", "uk", "bg", "sr", "kk", "mn")},
    "el": {"GREEK"},
    "bn": {"BENGALI"},
    "ta": {"TAMIL"},
    "te": {"TELUGU"},
    "ka": {"GEORGIAN"},
    "hy": {"ARMENIAN"},
    "am": {"ETHIOPIC"},
    "km": {"KHMER"},
    "lo": {"LAO"},
    "my": {"MYANMAR"},
    "si": {"SINHALA"},
    "gu": {"GUJARATI"},
    "kn": {"KANNADA"},
    "ml": {"MALAYALAM"},
    "pa": {"GURMUKHI"},
}
# What stands in the blanks of instructions, the same in every language.
FOREIGN = json.loads(Path(prompts.__file__).with_name("instructions.json").read_text(encoding="utf-8"))["blanks"]
# the tiny model knows no language: all of its answers would be left out
FEW = ("--texts", "6", "-n", "8", "-t", "1", "--languages", "ko,ar", "--keep-confused")


def scripts_of(text: str) -> set[str]:
    letters = [c for c in text if unicodedata.category(c).startswith("L") and c != "ʼ"]
    return {unicodedata.name(c).split()[0] for c in letters}


def without_foreign_words(text: str) -> str:
    for blank in sorted(("Python", *(b for blanks in FOREIGN.values() for b in blanks)), key=len, reverse=True):
        text = text.replace(blank, "")
    return text


@pytest.fixture(autouse=True)
def _command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(cli.COMMANDS, "data", "texts to train on")


@pytest.fixture(scope="module")
def series() -> PromptSeries:
    return PromptSeries(prompt_languages(), 0)


def run(*args: object) -> int:
    return cli.main(["data", "synth", *map(str, args)])


def read(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_bytes().splitlines()]


# ---- prompts ----


def test_there_are_prompts_in_at_least_forty_languages(series: PromptSeries) -> None:
    languages = [series.prompt(number).language for number in range(len(prompt_languages()))]
    assert len(set(languages)) >= 40
    assert set(languages) == set(prompt_languages())


@pytest.mark.parametrize("language", prompt_languages())
def test_instructions_are_written_in_the_script_of_their_language(language: str) -> None:
    own = PromptSeries([language], 1)
    seen = Counter()
    for number in range(300):
        prompt = own.prompt(number)
        seen[prompt.kind] += 1
        if prompt.kind in {"from_en", "from_zh", "translate"}:
            continue
        text = without_foreign_words(prompt.text)
        assert scripts_of(text) <= SCRIPTS.get(language, {"LATIN"}), prompt
        assert "{" not in text
        assert "}" not in text
    assert len(seen) >= 10


WITH_BLANKS = {"code", "command", "repair", "table", "formula", "quote", "tech"}


def test_at_least_25_languages_ask_for_code_tables_formulas_and_quotations() -> None:
    asked = {code: {PromptSeries([code], 2).prompt(n).kind for n in range(400)} for code in prompt_languages()}
    assert sum(kinds >= WITH_BLANKS for kinds in asked.values()) >= 25
    assert all(kinds >= WITH_BLANKS or not kinds & WITH_BLANKS for kinds in asked.values())


@pytest.fixture
def _fresh_names() -> Iterator[None]:
    prompts._names.cache_clear()
    yield
    prompts._names.cache_clear()


@pytest.mark.usefixtures("_fresh_names")
def test_names_in_letters_of_another_script_are_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    from babel import Locale

    names = {"US": "U.S.A", "IN": "భారతదేశం", "FR": "ఫ్రాన్స్", "JP": "జపాన్", "CN": "中国"}
    monkeypatch.setattr(Locale, "territories", property(lambda self: names))
    monkeypatch.setattr(prompts, "_worth_asking", lambda: (list(names), ["te", "en", "fr"], ["INR", "USD", "JPY"]))
    assert prompts._names("te")["territory"] == ["భారతదేశం", "ఫ్రాన్స్", "జపాన్"]
    del names["JP"]
    prompts._names.cache_clear()
    reason = "holds 2 names of kind `territory` in the script of `te`, expected at least 3"
    with pytest.raises(GateError, match=re.escape(f"{cldr_version()} {reason}")):
        prompts._names("te")


def test_some_prompts_ask_for_a_switch_and_some_for_a_translation(series: PromptSeries) -> None:
    n = 4000
    kinds = Counter(series.prompt(number).kind for number in range(n))
    assert 0.30 < sum(kinds[kind] for kind in ("say", "program", "names", *WITH_BLANKS)) / n < 0.42
    assert 0.17 < sum(kinds[kind] for kind in ("from_en", "from_zh", "translate")) / n < 0.25


def test_traditional_chinese_is_asked_in_its_own_characters() -> None:
    own = PromptSeries(["zh_Hant"], 3)
    asked = [own.prompt(number) for number in range(300)]
    texts = [p.text for p in asked if p.kind not in ("from_en", "from_zh", "translate", "formula", "quote")]
    assert all(text_families(text, RULE_SET.families) <= {*families_of_script("Hant"), "latin"} for text in texts)
    assert any("hantj" in text_families(text, RULE_SET.families) for text in texts)
    assert not [p.text for p in asked if p.kind == "say" and p.text.endswith("中文")]  # which is no other language


def test_nothing_is_translated_into_itself(series: PromptSeries) -> None:
    prompts = [PromptSeries([code], 0).prompt(number) for code in ("en", "zh") for number in range(200)]
    assert not [p for p in prompts if p.kind == "from_" + p.language]
    chinese = [p.text for p in prompts if p.language == "zh" and p.kind == "translate"]
    assert chinese
    assert all("LATIN" in scripts_of(text) for text in chinese)


def test_a_prompt_depends_on_seed_and_number_alone(series: PromptSeries) -> None:
    again = PromptSeries(prompt_languages(), 0)
    assert [again.prompt(number) for number in (9, 3)] == [series.prompt(number) for number in (9, 3)]
    other = PromptSeries(prompt_languages(), 1)
    assert [other.prompt(n).text for n in range(30)] != [series.prompt(n).text for n in range(30)]
    assert len({series.prompt(number).seed for number in range(1000)}) == 1000


def test_prompts_do_not_depend_on_the_day(monkeypatch: pytest.MonkeyPatch) -> None:
    """Babel gives the currencies of today where nobody says of which day."""
    from babel import numbers

    stock, days = numbers.get_territory_currencies, set()
    monkeypatch.setattr(numbers, "get_territory_currencies", lambda code, day=None: days.add(day) or stock(code, day))
    prompts._worth_asking.cache_clear()
    prompts._worth_asking()
    assert days
    assert None not in days


def test_names_do_not_depend_on_what_was_asked_before() -> None:
    """Babel gives another language's names where a language inherits an alias that was resolved before."""
    from babel import Locale

    for code in ("zh", "ur"):
        assert Locale.parse(code).months["stand-alone"]["wide"][1]
        assert Locale.parse(code).days["stand-alone"]["wide"][1]
    for code in ("he", "lo", "sw"):
        prompts = [PromptSeries([code], 2).prompt(number) for number in range(100)]
        with_dates = " ".join(prompt.text for prompt in prompts if prompt.kind in {"words", "say"})
        assert scripts_of(with_dates) == SCRIPTS.get(code, {"LATIN"})


@pytest.mark.parametrize(("languages", "reason"), [(["ko", "xx"], "holds 'xx', expected some of en"), ([], "is empty")])
def test_unknown_languages_are_refused(languages: list[str], reason: str) -> None:
    with pytest.raises(GateError, match=f"`languages` {reason}"):
        PromptSeries(languages, 0)


def test_only_some_kinds_are_asked_for() -> None:
    series = PromptSeries(["ru", "ko"], 2, ["tech", "from_en"])
    assert {series.prompt(number).kind for number in range(60)} == {"tech", "from_en"}
    assert len(prompt_languages(["tech", "poem"])) < len(prompt_languages(["say"])) == len(prompt_languages())
    assert {PromptSeries([code], 0, ["tech"]).prompt(7).kind for code in prompt_languages(["tech"])} == {"tech"}
    with pytest.raises(GateError, match=r"`kinds` holds 'poem', expected some of about, language, "):
        PromptSeries(["ru"], 0, ["tech", "poem"])
    with pytest.raises(GateError, match="`languages` holds 'km', which has no prompts of tech, table"):
        PromptSeries(["ru", "km"], 0, ["tech", "table"])


# ---- answers ----


@pytest.fixture(scope="module")
def llm(tiny_model_path: Path) -> Iterator[Any]:
    from lcg_cpp import GatedLlama

    llm = GatedLlama(str(tiny_model_path), n_ctx=256, n_threads=1, n_threads_batch=1, verbose=False)
    yield llm
    llm.close()


def said(llm: Any, *prompts: Prompt, parallel: int = 1) -> list[Answer]:
    """The answers, in the order of the prompts."""
    found = {p.number: said for p, said in answers(llm, prompts, n_predict=12, temperature=0.7, parallel=parallel)}
    return [found[prompt.number] for prompt in prompts]


@pytest.mark.parametrize("parallel", [1, 2, 4])
def test_an_answer_does_not_depend_on_others(llm: Any, parallel: int) -> None:
    prompts = [Prompt(i, "en", "free", text, 5) for i, text in enumerate(("the name", "the name of", "x", "of a city"))]
    first = said(llm, *prompts, parallel=parallel)
    assert first == said(llm, *prompts[::-1], parallel=parallel)[::-1]
    assert first == [said(llm, *[prompt] * 1, parallel=parallel)[0] for prompt in prompts]
    assert all(answer.text.strip() and answer.n_tokens >= 12 for answer in first)


def test_a_model_without_a_template_continues_the_prompt(llm: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    prompt = Prompt(0, "en", "free", "the name", 5)
    llm.reset()
    expected = llm.create_completion("the name\n", max_tokens=12, temperature=0.7, seed=5)["choices"][0]["text"]
    monkeypatch.delitem(llm.metadata, "tokenizer.chat_template")
    (answer,) = said(llm, prompt)
    assert answer.prompt == "the name\n"
    assert expected.startswith(answer.text)  # llama_cpp goes on to the end of a character
    assert len(answer.text) > 8


def test_a_prompt_without_room_is_refused(llm: Any) -> None:
    with pytest.raises(GateError, match=r"prompt 3 \(en\) cannot be answered: the prompt has \d+ tokens"):
        said(llm, Prompt(3, "en", "free", "x " * 300, 5))


# ---- the command ----


def test_the_corpus(tiny_model_path: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "own.jsonl"
    assert run("-m", tiny_model_path, "-o", out, *FEW) == 0
    rows = read(out)
    assert capsys.readouterr().out.startswith(f"{out}: 6 texts added, ")
    series = PromptSeries(["ko", "ar"], 0)
    for number, row in enumerate(rows):
        prompt = series.prompt(number)
        assert {**row, "messages": None} == {
            "messages": None, "language": prompt.language, "kind": prompt.kind, "number": number, "next": number + 1,
            "model": "tiny", "names": cldr_version(),
        }  # fmt: skip
        assert [message["role"] for message in row["messages"]] == ["user", "assistant"]
        assert row["messages"][0]["content"] == prompt.text
    assert len(open_dataset(str(out))) == 6


def test_it_goes_on_as_if_it_had_not_stopped(
    tiny_model_path: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    whole, cut = tmp_path / "whole.jsonl", tmp_path / "cut.jsonl"
    run("-m", tiny_model_path, "-o", whole, *FEW)
    lines = whole.read_bytes().splitlines(keepends=True)
    cut.write_bytes(b"".join(lines[:4]) + lines[4][:20])  # killed within a row
    capsys.readouterr()
    assert run("-m", tiny_model_path, "-o", cut, *FEW, "--resume", "--json") == 0
    assert cut.read_bytes() == whole.read_bytes()
    facts = json.loads(capsys.readouterr().out)
    assert (facts["before"], facts["written"], facts["complete"]) == (4, 2, True)
    assert run("-m", tiny_model_path, "-o", tmp_path / "new.jsonl", *FEW, "--resume") == 0  # nothing to go on with
    assert (tmp_path / "new.jsonl").read_bytes() == whole.read_bytes()


def test_it_goes_on_where_answers_came_out_of_order(tmp_path: Path, series: PromptSeries) -> None:
    path = tmp_path / "own.jsonl"
    corpus = Corpus(path, "m", series, resume=False)
    for number, text in ((1, "a"), (3, ""), (0, "b"), (4, "c"), (2, "d"), (6, "e"), (7, "")):
        corpus.settle(series.prompt(number), Answer(series.prompt(number).text, text, 1), keep=bool(text))
    assert [(row["number"], row["next"]) for row in read(path)] == [(1, 0), (0, 2), (4, 2), (2, 5), (6, 5)]
    assert (list(corpus.missing(9)), corpus.n_done) == ([5, 8], 7)
    again = Corpus(path, "m", series, resume=True)
    assert (list(again.missing(9)), again.n_done) == ([5, 7, 8], 6)  # 7 left no row behind
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join(lines[:3]))
    assert list(Corpus(path, "m", series, resume=True).missing(6)) == [2, 3, 5]
    row = json.loads(lines[0])
    del row["next"]  # as earlier versions wrote them, in order
    path.write_text(json.dumps(row) + "\n")
    assert list(Corpus(path, "m", series, resume=True).missing(4)) == [2, 3]
    for broken in ({"number": "1"}, {"number": -1}, {"next": "x"}, {"messages": [{"content": 5}]}):
        path.write_text(json.dumps({**row, **broken}) + "\n")
        with pytest.raises(GateError, match=r"own\.jsonl:1: is no row of `lcg-cpp data synth`"):
            Corpus(path, "m", series, resume=True)


def test_empty_answers_are_left_out(
    tiny_model_path: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from lcg_cpp.commands import data

    monkeypatch.setattr(
        data,
        "answers",
        lambda llm, prompts, **_: ((p, Answer(p.text, "x" if p.number % 3 else " \n", 1)) for p in prompts),
    )
    out = tmp_path / "own.jsonl"
    assert run("-m", tiny_model_path, "-o", out, *FEW) == 0
    assert [row["number"] for row in read(out)] == [1, 2, 4, 5]
    assert "2 empty answers were left out" in capsys.readouterr().out
    monkeypatch.setattr(data, "answers", lambda llm, prompts, **_: ((p, Answer(p.text, "", 0)) for p in prompts))
    assert run("-m", tiny_model_path, "-o", tmp_path / "none.jsonl", *FEW) == 2
    assert "6 of 6 answers are empty, expected some text" in capsys.readouterr().err


def test_answers_with_chinese_that_nobody_asked_for_are_left_out(
    tiny_model_path: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from lcg_cpp.commands import data

    monkeypatch.setattr(
        data,
        "answers",
        lambda llm, prompts, **_: ((p, Answer(p.text, "是 yes" if p.number == 2 else "예 yes", 1)) for p in prompts),
    )
    few = [option for option in FEW if option != "--keep-confused"]
    assert run("-m", tiny_model_path, "-o", tmp_path / "own.jsonl", *few) == 0
    assert [row["number"] for row in read(tmp_path / "own.jsonl")] == [0, 1, 3, 4, 5]
    assert "1 answers with Chinese or Japanese that nobody asked for were left out" in capsys.readouterr().out
    assert run("-m", tiny_model_path, "-o", tmp_path / "all.jsonl", *FEW) == 0
    assert len(read(tmp_path / "all.jsonl")) == 6


@pytest.mark.parametrize(
    ("language", "kind", "reply", "expected"),
    [
        ("ko", "about", "한국 中国", True),
        ("ko", "about", "한국 (Korea)", False),
        ("ko", "say", "你好", False),
        ("zh", "about", "中国", False),
        ("ja", "free", "ひらがな", False),
        ("ar", "from_zh", "كلمة 字", True),
        ("ko", "quote", "千里之行 는 노자의 말입니다.", False),
    ],
)
def test_confusion_is_cj_that_neither_language_nor_prompt_wants(
    language: str, kind: str, reply: str, expected: bool
) -> None:
    from lcg_cpp.data.prompts import Prompt
    from lcg_cpp.data.synth import is_confused

    assert is_confused(Prompt(0, language, kind, "", 0), reply) is expected


@pytest.mark.parametrize(
    ("reply", "expected"),
    [
        ("Das ist gut. " + "verflucht, " * 12 + "verfl", True),
        ("תש" + "ע" * 48, True),
        ("a" * 40, False),  # too short to tell
        ("Das ist gut. " * 4, False),
        ("verflucht, " * 12 + "und so weiter geht es nun mit etwas ganz anderem, das neu ist.", False),
        ("| " + "-" * 90 + " |", False),  # of a table
        ("int f() {\n" + " " * 80 + "}", False),
    ],
)
def test_a_reply_loops_if_its_end_says_the_same_over_and_over(reply: str, expected: bool) -> None:
    from lcg_cpp.data.synth import is_looping

    assert is_looping(reply) is expected


def test_it_tells_how_far_it_is(
    tiny_model_path: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from lcg_cpp.commands import progress

    out = tmp_path / "own.jsonl"
    assert run("-m", tiny_model_path, "-o", out, *FEW) == 0
    assert capsys.readouterr().err == ""  # too short a run to tell
    out.write_bytes(b"".join(out.read_bytes().splitlines(keepends=True)[:4]))
    monkeypatch.setattr(progress, "PLAIN_SECONDS", 0.0)
    assert run("-m", tiny_model_path, "-o", out, *FEW, "--resume") == 0
    lines = capsys.readouterr().err.splitlines()
    assert [line.split("  ")[0] for line in lines] == ["5 of 6 texts", "6 of 6 texts"]
    assert [line.split("  ")[2] for line in lines][-1] == "0 s left"
    assert lines[0].split("  ")[1].endswith(" tokens/s")
    assert lines[0].split("  ")[3] == read(out)[4]["language"]


@pytest.mark.skipif(os.name == "nt", reason="signals of POSIX")
def test_an_interrupt_keeps_what_is_there(tiny_model_path: Path, tmp_path: Path) -> None:
    out = tmp_path / "own.jsonl"
    code = (
        "import signal, sys; from lcg_cpp import cli\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "cli.COMMANDS['data'] = 'x'; sys.exit(cli.main(sys.argv[1:]))"
    )
    args = [
        "data",
        "synth",
        "-m",
        str(tiny_model_path),
        "-o",
        str(out),
        "-t",
        "1",
        "--texts",
        "100000",
        "-n",
        "8",
        "--keep-confused",
    ]
    process = subprocess.Popen([sys.executable, "-c", code, *args], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    deadline = time.monotonic() + 60
    while not (out.exists() and out.read_bytes().count(b"\n") >= 3):
        assert process.poll() is None
        assert time.monotonic() < deadline
    process.send_signal(signal.SIGINT)
    said, complaints = process.communicate(timeout=60)
    notice = b"stopping: what is answered is in the file (Ctrl-C again ends at once)\n"
    assert (process.returncode, complaints) == (130, notice)
    rows = read(out)
    assert len({row["number"] for row in rows}) == len(rows)
    assert f"{len(rows):,} texts added" in said.decode()
    assert "--resume goes on" in said.decode()


def test_what_goes_wrong_is_one_line(tiny_model_path: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def refusal(*args: object) -> str:
        code: object
        try:
            code = run("-m", tiny_model_path, *args, "-t", 1, "-n", 8, "--texts", 2)
        except SystemExit as stop:  # argparse
            code = stop.code
        assert code == 2
        lines = capsys.readouterr().err.splitlines()
        assert len(lines) == 1
        return lines[0].removeprefix("lcg-cpp: error: ")

    out = tmp_path / "own.jsonl"
    assert refusal("-o", out, "-c", 16).startswith(f"-m/--model: {tiny_model_path}: prompt 0 (en) cannot be answered")
    assert not out.exists()
    run("-m", tiny_model_path, "-o", out, "-t", 1, "-n", 8, "--texts", 2)
    assert refusal("-o", out) == (
        f"-o/--output: {out}: is there already; continue it with --resume, or choose another name"
    )
    assert refusal("-o", out, "--resume", "--seed", 1).startswith(
        f"-o/--output: {out}:{len(read(out))}: holds another prompt"
    )
    row = read(out)[0]
    out.write_text(json.dumps({**row, "model": "other"}) + "\n")
    assert refusal("-o", out, "--resume") == f"-o/--output: {out}:1: was answered by 'other', expected 'tiny'"
    out.write_text('{"text": "x"}\n')
    assert refusal("-o", out, "--resume").startswith(f"-o/--output: {out}:1: is no row of `lcg-cpp data synth`")
    assert refusal("-o", out, "--languages", "xx").startswith("argument --languages: holds 'xx', expected a number")
    assert refusal("-o", out, "--languages", "0").startswith("argument --languages: holds '0', expected a number")
    assert refusal("-o", tmp_path / "no" / "x").startswith(f"-o/--output: {tmp_path / 'no' / 'x'}: there is no folder")


def test_a_number_takes_the_first_languages(tiny_model_path: Path, tmp_path: Path) -> None:
    out = tmp_path / "own.jsonl"
    run("-m", tiny_model_path, "-o", out, "-t", 1, "-n", 4, "--texts", 4, "--keep-confused", "--languages", 3)
    assert [row["language"] for row in read(out)] == [*prompt_languages()[:3], prompt_languages()[0]]
