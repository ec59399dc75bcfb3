"""The embedded demo: what ships with the package does what its card says."""

from __future__ import annotations

import pytest

from lcg_cpp.demo import CARD, GATES, MODEL, load_prompts
from lcg_cpp.demo.compare import Piece, Reply, load_model, reply_to, run_demo
from lcg_cpp.gate.families import text_families


@pytest.fixture(scope="module")
def result():
    return run_demo(json=True)


def test_the_plain_model_confuses_scripts(result):
    assert result["prompts"] >= 300
    assert result["plain"]["cj_percent"] >= 5
    assert result["plain"]["latin_percent"] >= 5


def test_the_gate_leaves_a_tenth_of_the_confusion_at_most(result):
    assert result["gated"]["cj_percent"] <= result["plain"]["cj_percent"] / 10
    assert result["gated"]["latin_percent"] <= result["plain"]["latin_percent"] / 10
    assert 0 < result["interventions"] < result["steps"]


def test_the_gate_keeps_requested_switches_and_right_answers(result):
    assert result["gated"]["switches_kept_percent"] >= 0.98 * result["plain"]["switches_kept_percent"]
    assert result["gated"]["exact_match_percent"] >= result["plain"]["exact_match_percent"]


def test_the_papers_gate_runs_beside_the_default():
    result = run_demo(prompts=24, gate="paper", json=True)
    assert result["prompts"] == 24
    assert result["steps"] > 0


def test_nothing_is_printed_where_json_is_wanted(capsys):
    run_demo(prompts=2, json=True)
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err == ""


def test_replies_and_table_are_shown(capsys):
    run_demo(prompts=16, show=3)
    printed = capsys.readouterr().out
    assert "16 prompts" in printed
    assert "exact match" in printed
    assert "removed by the gate" in printed


def test_no_prompts_are_refused():
    with pytest.raises(ValueError, match="`prompts` is 0, expected at least 1"):
        run_demo(prompts=0, json=True)


def test_a_reply_repeats_with_its_seed():
    prompt = load_prompts()[0]
    llm = load_model(GATES["default"])
    texts = [reply_to(llm, prompt, seed).text for seed in (0, 0, 1, 2, 3, 0)]
    llm.close()
    assert texts[0] == texts[1] == texts[5]


def test_the_prompts_ask_for_low_resource_languages_and_some_for_a_switch():
    prompts = load_prompts()
    assert len({prompt.prompt for prompt in prompts}) == len(prompts)
    for prompt in prompts:
        wanted = {"lowres", *({"english": ["latin"], "chinese": ["cj"]}[prompt.switch] if prompt.switch else [])}
        assert text_families(prompt.reference) == wanted
        assert 4 <= len(prompt.items) <= 6
    share = sum(prompt.switch is not None for prompt in prompts) / len(prompts)
    assert 0.15 < share < 0.35


def test_model_gates_and_card_are_small_and_there():
    for path in (MODEL, CARD, *GATES.values()):
        assert 0 < path.stat().st_size < 8_000_000


def test_a_reply_joins_characters_split_over_tokens():
    assert Reply((Piece(b" \xed"), Piece(b"\x95\x9c"), Piece("국".encode())), 1.0).text == "한국"
