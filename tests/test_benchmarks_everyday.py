"""The built-in benchmark `everyday`: what its prompts ask for, and that they stay what they are."""

from __future__ import annotations

import hashlib
import json
import re
from collections import Counter
from pathlib import Path

import pytest

from lcg_cpp.benchmarks import Prompt, load_benchmark
from lcg_cpp.benchmarks.everyday import PROMPTS
from lcg_cpp.data import prompts as training
from lcg_cpp.gate.families import letter_counts, text_families
from lcg_cpp.gate.scripts import RULE_SET, families_of_script

SCRIPTS = {
    **dict.fromkeys(("en", "vi", "id", "tr", "es", "fr", "de", "pt", "it", "pl"), "Latn"),
    **dict.fromkeys(("ar", "fa", "ur"), "Arab"),
    **dict.fromkeys(("ru", "uk", "bg"), "Cyrl"),
    "zh": "Hans", "zh-Hant": "Hant", "ja": "Jpan", "ko": "Kore", "he": "Hebr", "hi": "Deva", "bn": "Beng", "ta": "Taml",
    "te": "Telu", "th": "Thai", "el": "Grek", "ka": "Geor", "hy": "Armn", "am": "Ethi",
}  # fmt: skip


@pytest.fixture(scope="module")
def prompts() -> tuple[Prompt, ...]:
    return load_benchmark("everyday").prompts


def scripts(text: str) -> set[str]:
    return text_families(text, RULE_SET.families)


def test_the_prompts_are_version_1() -> None:
    # Numbers of different prompts cannot be compared: a change of the file is a new version.
    digest = "3b754e0e893581d579ba560e4b70a2c3b3a44865d72c0a9679a981395f3e4b4e"
    assert hashlib.sha256(PROMPTS.read_bytes()).hexdigest() == digest
    assert PROMPTS.stat().st_size < 100_000


def test_the_subsets_are_as_large_as_documented(prompts: tuple[Prompt, ...]) -> None:
    assert Counter(prompt.subset for prompt in prompts) == {
        "own": 240, "switch": 108, "say": 40, "agent": 16, "neighbours": 26, "long": 20,
    }  # fmt: skip
    assert len({prompt.id for prompt in prompts}) == len({prompt.prompt for prompt in prompts}) == len(prompts)
    assert all(prompt.chat and not prompt.reference for prompt in prompts)


def test_eight_questions_are_asked_in_each_of_30_languages_in_its_own_script(prompts: tuple[Prompt, ...]) -> None:
    own = [prompt for prompt in prompts if prompt.subset == "own"]
    assert Counter(prompt.language for prompt in own) == dict.fromkeys(SCRIPTS, 8)
    for prompt in (*own, *(prompt for prompt in prompts if prompt.subset == "neighbours")):
        assert scripts(prompt.prompt) <= families_of_script(SCRIPTS[prompt.language]), prompt
        assert not prompt.switch
        assert not prompt.expect_scripts


def test_agents_are_asked_in_english_alone(prompts: tuple[Prompt, ...]) -> None:
    for prompt in (prompt for prompt in prompts if prompt.subset == "agent"):
        assert (prompt.language, scripts(prompt.prompt)) == ("en", {"latin"})


def test_what_is_switched_to_is_not_the_languages_own_script(prompts: tuple[Prompt, ...]) -> None:
    switches = [prompt for prompt in prompts if prompt.subset in ("switch", "say")]
    assert all(prompt.switch for prompt in switches)
    assert not any(prompt.switch for prompt in prompts if prompt.subset not in ("switch", "say"))
    groups = {"japanese": {"kana"}, "chinese": {"hans", "hant"}}
    for prompt in switches:
        own = families_of_script(SCRIPTS[prompt.language])
        assert not own >= groups.get(prompt.switch, {prompt.switch}), prompt
    assert {prompt.switch for prompt in switches} >= {"latin", "cyrillic", "japanese", "chinese", "hangul", "arabic"}


def test_the_items_of_a_switch_are_letters_of_it(prompts: tuple[Prompt, ...]) -> None:
    with_items = [prompt for prompt in prompts if prompt.items]
    assert len(with_items) == 5 * 18
    for prompt in with_items:
        assert prompt.subset == "switch"
        assert scripts("".join(string for item in prompt.items for string in item)) == {prompt.switch} == {"latin"}
        # what the prompt itself names is asked for; `def` is how a Python function begins
        named = "Python" if prompt.id.endswith("-function") else prompt.items[0][0]
        assert named in prompt.prompt, prompt


def test_a_long_prompt_is_a_question_behind_notes_in_16_languages(prompts: tuple[Prompt, ...]) -> None:
    long = [prompt for prompt in prompts if prompt.subset == "long"]
    notes = json.loads(PROMPTS.read_text(encoding="utf-8"))["documents"]
    assert len(notes) == 16
    for language, note in notes.items():
        assert scripts(note) <= families_of_script(SCRIPTS[language]), language
    firsts = set()
    for prompt in long:
        *before, question = prompt.prompt.split("\n\n")
        assert sorted(before) == sorted(notes.values())
        assert scripts(question) <= families_of_script(SCRIPTS[prompt.language])
        assert sum(letter_counts(prompt.prompt, RULE_SET.families).values()) > 3_000
        firsts.add(before[0])
    assert len(firsts) == 16


def test_no_prompt_is_one_that_training_texts_answer(prompts: tuple[Prompt, ...]) -> None:
    known = json.loads(Path(training.__file__).with_name("instructions.json").read_text(encoding="utf-8"))
    asked = " ".join(prompt.prompt for prompt in prompts)
    for own in known["languages"].values():
        for value in own.values():
            texts = value if isinstance(value, list) else [re.split(r"[{`:：؟?]", value)[0]]
            assert not [text for text in texts if len(text) > 30 and text in asked]
    del known["blanks"]["code"]  # names of languages alone
    for blanks in known["blanks"].values():
        for blank in blanks:
            assert not re.search(rf"(?<!\w){re.escape(blank)}(?!\w)", asked), blank
