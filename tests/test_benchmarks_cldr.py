"""The built-in benchmark `cldr`: what its prompts ask for, and that they stay what they are."""

from __future__ import annotations

import hashlib
import sys
import unicodedata
from collections import Counter
from pathlib import Path

import pytest

from lcg_cpp.benchmarks import Prompt, load_benchmark
from lcg_cpp.benchmarks.load import CLDR_PROMPTS
from lcg_cpp.data.languages import cldr_version
from lcg_cpp.gate.families import text_families

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tools"))

LOW_RESOURCE = ("ar", "he", "ko", "th", "ru", "el", "hi", "bn", "ta", "te", "ka", "hy", "my", "km", "am")
FAMILIES = {
    **dict.fromkeys(LOW_RESOURCE, "lowres"),
    **dict.fromkeys(("ja", "zh"), "cj"),
    **dict.fromkeys(("es", "de", "tr", "vi"), "latin"),
}


@pytest.fixture(scope="module")
def prompts() -> tuple[Prompt, ...]:
    return load_benchmark("cldr").prompts


def test_the_prompts_are_version_1() -> None:
    # Numbers of different prompts cannot be compared: a change of the file is a new version.
    digest = "3ee3bd78d4c31014eb7f1cb09b3c71efb57b247532ed83e87b92e8d7fc3c89f6"
    assert hashlib.sha256(CLDR_PROMPTS.read_bytes()).hexdigest() == digest
    assert CLDR_PROMPTS.stat().st_size < 300_000


def test_the_prompts_can_be_made_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import make_cldr_prompts

    if not cldr_version().startswith(f"{make_cldr_prompts.CLDR} ("):
        pytest.skip(f"the names here are of {cldr_version()}, the benchmark's of {make_cldr_prompts.CLDR}")
    out = tmp_path / "cldr.jsonl"
    monkeypatch.setattr(sys, "argv", ["make_cldr_prompts.py", "--out", str(out)])
    make_cldr_prompts.main()
    assert out.read_bytes() == CLDR_PROMPTS.read_bytes()


def test_the_subsets_are_as_large_as_the_card_says(prompts: tuple[Prompt, ...]) -> None:
    assert Counter(prompt.subset for prompt in prompts) == {
        "no-latin": 263, "with-latin": 78, "latin-script": 36, "switch": 106,
    }  # fmt: skip
    assert len({prompt.id for prompt in prompts}) == len({prompt.prompt for prompt in prompts}) == 483
    assert all(prompt.chat for prompt in prompts)


def test_replies_are_wanted_in_at_least_12_scripts(prompts: tuple[Prompt, ...]) -> None:
    assert {prompt.language for prompt in prompts} == set(FAMILIES)
    scripts = {
        unicodedata.name(character).split()[0]
        for prompt in prompts
        if not prompt.switch
        for character in prompt.reference
        if unicodedata.category(character) == "Lo"
    }
    assert len(scripts) >= 12
    assert scripts >= {"ARABIC", "HEBREW", "HANGUL", "THAI", "DEVANAGARI", "CJK", "ETHIOPIC"}


def test_a_reference_holds_what_its_subset_says_and_nothing_unexpected(prompts: tuple[Prompt, ...]) -> None:
    for prompt in prompts:
        family = FAMILIES[prompt.language]
        scripts = text_families(prompt.reference)
        expected = {family, *prompt.expect_scripts}
        if prompt.subset == "no-latin":
            assert prompt.reference
            assert scripts | {family} == {family}, prompt.id
            assert prompt.expect_scripts == ()
        elif prompt.subset == "with-latin":
            assert scripts == {family, "latin"}, prompt.id
            assert prompt.expect_scripts == ("latin",)
        elif prompt.subset == "latin-script":
            assert scripts == {"latin"} == expected, prompt.id
        else:
            assert prompt.switch
            assert scripts <= expected, prompt.id


def test_requested_switches_can_be_scored(prompts: tuple[Prompt, ...]) -> None:
    for prompt in (prompt for prompt in prompts if prompt.subset == "switch"):
        assert prompt.items, prompt.id
        assert prompt.switch in {*prompt.expect_scripts, FAMILIES[prompt.language]}, prompt.id
        assert prompt.switch != FAMILIES[prompt.language], prompt.id
        for item in prompt.items:
            for string in item:
                assert text_families(string) == {prompt.switch}, prompt.id
                assert not prompt.reference or f"({string})" in prompt.reference, prompt.id
    assert not any(prompt.items or prompt.switch for prompt in prompts if prompt.subset != "switch")


def test_a_reply_has_room_for_its_reference(prompts: tuple[Prompt, ...]) -> None:
    # No tokenizer needs more than a token for each byte; those of our time need a third of that for rare scripts.
    assert all(len(prompt.reference.encode()) / 2 < prompt.max_tokens for prompt in prompts)


def test_some_instructions_are_in_chinese_and_some_in_the_replys_language(prompts: tuple[Prompt, ...]) -> None:
    starts = Counter(
        "zh"
        if text_families(prompt.prompt[:5]) == {"cj"}
        else "en"
        if "latin" in text_families(prompt.prompt[:5])
        else "own"
        for prompt in prompts
        if FAMILIES[prompt.language] == "lowres"
    )
    assert min(starts.values()) > 60
    assert set(starts) == {"en", "zh", "own"}
