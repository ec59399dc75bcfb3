"""The page of replies: what is in it, and what a reader sees and does, in a real browser where there is one."""

from __future__ import annotations

import base64
import hashlib
import html as html_
import json
import re
import subprocess
import sys
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from browser import Browser, find_chromium
from lcg_cpp import GateError
from lcg_cpp.benchmarks import Prompt
from lcg_cpp.engine.model import read_base_model
from lcg_cpp.gate.families import family_set, vocab_families
from lcg_cpp.pages.families import BLUISH, HUES, family_css, hues
from lcg_cpp.pages.reply_page import benchmark_label, reply_page, trace_page
from lcg_cpp.pages.reply_plots import ANY, Share, confusion, positions, removed_mass

FAMILIES = ("cj", "latin", "symbols", "lowres")
CJ, LATIN, SYMBOLS, LOWRES = range(4)
READY = "document.documentElement.dataset.ready"
EVIL = "</script><script>alert(1)</script><!--<img src=x onerror=alert(2)>\"'`&amp;\u2028\ud800"


def event(position: int, **changes: Any) -> dict[str, Any]:
    """An intervention: the model wanted a Latin word, the gate a letter of the rest."""
    return {
        "position": position,
        "last": "lowres",
        "predicted": ["lowres"],
        "allowed": ["lowres"],
        "banned": ["cj", "latin"],
        "z": [-4.0, -2.0, 0.0, 2.0],
        "removed": [["Rome", LATIN, 0.5], ["罗马", CJ, 0.125]],
        "candidates": [["ל", LOWRES, 0.25], ["ר", LOWRES, 0.0625]],
        "chosen": "ר",
        **changes,
    }


def reply(method: str, text: str, /, **changes: Any) -> dict[str, Any]:
    """A reply; its pieces are separated by bars, the ids of equal pieces are equal."""
    texts = text.split("|") if text else []
    of_script = {"A-Za-z": LATIN, "\u4e00-\u9fff": CJ, "\u0400-\u06ff": LOWRES}
    families = [next((f for s, f in of_script.items() if re.search(f"[{s}]", piece)), SYMBOLS) for piece in texts]
    return {
        "method": method,
        "seed": 0,
        "id": "a",
        "prompt": "Say it.",
        "language": "",
        "subset": "",
        "reference": "",
        "reply": "".join(texts),
        "tokens": [zlib.crc32(piece.encode("utf-8", "replace")) % 1000 for piece in texts],
        "pieces": texts,
        "families": families,
        "n_prompt": 3,
        "finish": "stop",
        "seconds": 0.5,
        "events": [],
        **changes,
    }


def data_of(page: str) -> dict[str, Any]:
    """What is packed into a page."""
    found = re.search(r'<script type="([a-z/]*)" id="data">([^<]*)</script>', page)
    assert found
    is_packed = {"text/plain": True, "application/json": False}[found[1]]
    unpacked: dict[str, Any] = json.loads(zlib.decompress(base64.b64decode(found[2])) if is_packed else found[2])
    return unpacked


# ---- what is in the page ----


def test_replies_are_packed_with_every_token_once() -> None:
    replies = [
        reply("none", "ab|, |ab", tokens=[7, 1, 7], language="ru", reference="аб", subset="s"),
        reply("lcg", "ab|д", tokens=[7, 9], language="ru", reference="аб", subset="s", events=[event(1, last=None)]),
    ]
    page = reply_page(replies, {}, FAMILIES, title="t")
    assert data_of(page) == {
        "methods": ["none", "lcg"],
        "families": list(FAMILIES),
        "kinds": ["Latin"],
        "bluish": [False, True, False, False],
        "pieces": [
            [7, 1, 9, -1, -1, -1, -1],
            ["ab", ", ", "д", "Rome", "罗马", "ל", "ר"],
            [LATIN, SYMBOLS, LOWRES, LATIN, CJ, LOWRES, LOWRES],
        ],
        "prompts": [["a", "Say it.", "ru", "s", "аб"]],
        "replies": [
            [0, 0, 0, "stop", 0.5, 3, [0, 1, 0], [], [0], [0, 2], []],
            [
                *(0, 1, 0, "stop", 0.5, 3, [0, 2]),
                [[1, -1, [3], [3], [0, 1], [-4.0, -2.0, 0.0, 2.0], [3, 5000, 4, 1250], [5, 2500, 6, 625], "ר"]],
                [0],
                [0],
                [],
            ],
        ],
    }


def test_many_replies_are_deflated_and_say_the_same() -> None:
    few = [reply("none", EVIL, id=str(i)) for i in range(50)]
    plain, packed = (reply_page(made, {}, FAMILIES, title="t") for made in (few, [*few, few[0]]))
    assert 'type="application/json" id="data"' in plain
    assert 'type="text/plain" id="data"' in packed
    assert "Unpacking" not in plain
    assert "Unpacking the replies" in packed
    assert data_of(packed)["replies"] == [*data_of(plain)["replies"], data_of(plain)["replies"][0]]
    assert data_of(packed)["pieces"][1] == data_of(plain)["pieces"][1] == EVIL.split("|")


def test_replies_that_are_not_whole_are_refused() -> None:
    with pytest.raises(GateError) as error:
        reply_page([reply("lcg", "a|b", tokens=[1])], {}, FAMILIES, title="t")
    assert str(error.value) == (
        "the reply of `lcg` to prompt `a` has 1 tokens, 2 pieces and 2 families, expected as many of each"
    )
    with pytest.raises(GateError) as error:
        trace_page(reply("lcg", "a", events=[event(0, banned=["greek"])]))
    assert str(error.value) == "an event names the family `greek`, expected one of cj, latin, symbols, lowres"


def test_the_summary_has_intervals_and_marks_what_differs() -> None:
    ratio = {"value": 0.002, "low": 0.0, "high": 0.05}
    summary = {
        "methods": {
            "none": {
                "my_own_metric": {"value": 0.001, "low": 0.0, "high": 0.01},
                "cj_percent": {"value": 22.75, "low": 18.0, "high": 27.0},
            },
            "lcg": {
                "cj_percent": {"value": 0.04, "low": 0.0, "high": 1.25},
                "tokens_per_second": {"value": 1234.5, "low": 1200.0, "high": 1300.0},
            },
        },
        "compared_with_none": {
            "lcg": {"cj_percent": {"p_adjusted": 0.01, "ratio": ratio}, "tokens_per_second": {"p_adjusted": 0.05}}
        },
        "model": "folder/m.gguf",
        "prompts": 4000,
        "gate": None,
    }
    page = reply_page([], summary, FAMILIES, title="t")
    cells = [html_.unescape(text) for text in re.findall(r"<bdi>(.*?)</bdi>", page, re.DOTALL)]
    assert cells[:14] == [
        *("m.gguf", "4,000"),
        *("replies with unwanted Chinese or Japanese, %", "22.8\n18.0–27.0", "0.04 *\n0.0–1.2"),
        *("times less often than none", "", "500.0\n20.0–∞"),
        *("tokens/s", "", "1,234\n1,200–1,300"),
        *("my own metric", "< 0.01\n0.0–0.01", ""),
    ]


@pytest.mark.parametrize(
    ("benchmark", "source", "label", "shown"),
    [
        ("flores:/home/me/x", "FLORES+ devtest from /home/me/x", "flores:x", "FLORES+ devtest from x"),
        ("demo:/tmp/p.jsonl", "prompts, /tmp/p.jsonl", "demo:p.jsonl", "prompts, p.jsonl"),
        ("/home/me: it/p.jsonl", "/home/me: it/p.jsonl", "p.jsonl", "p.jsonl"),
        ("my/folder/", "my/folder/", "folder", "folder"),
        ("lcb:.", "the benchmark from .", "lcb:.", "the benchmark from ."),
        ("cldr", "cldr, version 1: names", "cldr", "cldr, version 1: names"),
        ("include:hf", "INCLUDE test from hf:lab/include", "include:hf", "INCLUDE test from hf:lab/include"),
        (
            "include:hf:me/x:Arabic",
            "INCLUDE from hf:me/x:Arabic",
            "include:hf:me/x:Arabic",
            "INCLUDE from hf:me/x:Arabic",
        ),
        ("hf:me/x", "hf:me/x", "hf:me/x", "hf:me/x"),
    ],
)
def test_the_folder_of_a_benchmark_is_not_told(benchmark: str, source: str, label: str, shown: str) -> None:
    page = reply_page([], {"benchmark": benchmark, "source": source}, FAMILIES, title=benchmark_label(benchmark))
    assert re.findall(r"<bdi>(.*?)</bdi>", page)[:2] == [label, shown]
    assert f"<h1>{label}</h1>" in page


@pytest.mark.parametrize(
    ("ratio", "shown"),
    [
        ({"value": 0.0, "low": 0.0, "high": 0.125}, "∞\n8.0–∞"),
        ({"value": 0.0, "low": 0.0, "high": None}, "∞\n0.0–∞"),
        ({"value": None, "low": 4.0, "high": None}, "0.0\n0.0–0.2"),
        ({"value": 2.0, "low": 1.0, "high": 4.0}, "0.5\n0.2–1.0"),
    ],
)
def test_a_ratio_is_shown_as_times_less(ratio: dict[str, float | None], shown: str) -> None:
    estimate = {"value": 1.0, "low": 1.0, "high": 1.0}
    compared = {"lcg": {"latin_percent": {"p_adjusted": 1.0, "ratio": ratio}}}
    methods = {"none": {"latin_percent": estimate}, "lcg": {"latin_percent": estimate}}
    page = reply_page([], {"methods": methods, "compared_with_none": compared}, FAMILIES, title="t")
    cells = re.findall(r"<bdi>(.*?)</bdi>", page, re.DOTALL)
    assert cells[3:6] == ["times less often than none", "", shown]


def test_only_the_pages_own_script_may_run() -> None:
    page = reply_page([reply("none", EVIL, prompt=EVIL, id=EVIL, language=EVIL)], {}, FAMILIES, title=EVIL)
    assert page.encode().decode() == page
    scripts = re.findall(r"<script([^>]*)>(.*?)</script>", page, re.DOTALL)
    assert [attributes for attributes, _ in scripts] == [' type="application/json" id="data"', ""]
    digest = base64.b64encode(hashlib.sha256(scripts[1][1].encode()).digest()).decode()
    policy = re.search(r'http-equiv="Content-Security-Policy" content="([^"]*)"', page)
    assert policy
    rules = html_.unescape(policy[1])
    assert rules.split("; ") == [
        "default-src 'none'",
        "style-src 'unsafe-inline'",
        "img-src data:",
        f"script-src 'sha256-{digest}'",
    ]
    assert not re.search(r"<link|<iframe|@import|https?://", page)


def test_letters_are_wrong_that_the_prompt_does_not_expect() -> None:
    replies = [
        reply("none", "Рим|Rome|罗马", id="plain", language="ru", reference="Рим"),
        reply("none", "Рим|Rome", id="switch", language="ru", reference="Рим"),
        reply("none", "Рим|Rome", id="open"),
        reply("none", "B|: |Рим", id="choice", language="ru", reference="B: Рим"),
    ]
    prompts = {
        "plain": Prompt("plain", "x", chat=False, language="ru"),
        "switch": Prompt("switch", "x", chat=False, language="ru", switch="latin"),
        "open": Prompt("open", "x", chat=False),
        "choice": Prompt("choice", "x", chat=False, language="ru", answer="B"),
    }
    told = data_of(reply_page(replies, {}, FAMILIES, title="t", prompts=prompts))
    assert kinds_of(told) == [["Latin", "Chinese characters"], [], [], []]
    guessed = data_of(reply_page(replies, {}, FAMILIES, title="t"))
    assert kinds_of(guessed) == [["Latin", "Chinese characters"], ["Latin"], [], []]


def kinds_of(told: dict[str, Any]) -> list[list[str]]:
    """What is unwanted in each reply of a page."""
    return [[told["kinds"][kind] for kind in packed[8]] for packed in told["replies"]]


def test_letters_are_judged_by_script_whatever_families_a_gate_has() -> None:
    made = reply("none", "Рим|Rome|罗马|かな", language="ru", reference="Рим")
    told = data_of(reply_page([made], {}, ("latin", "han", "symbols", "cyrillic"), title="t"))
    assert kinds_of(told) == [["Latin", "Kana", "Chinese characters"]]


def test_thoughts_are_told_and_do_not_count_as_wrong() -> None:
    thinks = reply("none", "<think>|Rome|</think>|Рим", language="ru", reference="Рим", thinking=[(0, 7, 11, 19)])
    (packed,) = data_of(reply_page([thinks], {}, FAMILIES, title="t"))["replies"]
    assert packed[8:] == [[], [], [0, 1, 2]]


def test_confusion_is_counted_by_language_and_method() -> None:
    made = [("none", "ru", ["han"]), ("none", "ru", []), ("lcg", "ru", []), ("none", "ar", ["han", "latin"])]
    made += [("lcg", "", []), ("lcg", "el", None)]
    replies = [reply(method, "a", language=language) for method, language, _ in made]
    tables = confusion(replies, [wrong for *_, wrong in made], ["none", "lcg"], ["han", "latin"])
    in_arabic, in_russian = ("ar", [Share(1, 1), Share(0, 0)]), ("ru", [Share(1, 2), Share(0, 1)])
    assert [(table.kind, table.rows) for table in tables] == [
        (ANY, [in_arabic, in_russian]),
        ("han", [in_arabic, in_russian]),
        ("latin", [in_arabic]),
    ]
    (alone,) = confusion(replies[:3], [["han"], [], []], ["none", "lcg"], ["han"])
    assert (alone.kind, alone.rows) == ("han", [in_russian])
    assert confusion([replies[4]], [[]], ["lcg"], ["han"]) == []


def test_interventions_are_counted_by_their_place() -> None:
    replies = [
        reply("none", "a|b"),
        reply("lcg", "a|b|c|d", events=[event(0), event(4)]),  # the second one changed how the reply ended
        reply("lcg", "a|b|c|d|e", finish="length", events=[event(2)]),
        reply("lcg", "a"),
    ]
    plot = positions(replies, ["none", "lcg"])
    assert plot is not None
    (bars,) = plot.charts
    assert (bars.method, bars.labels) == ("lcg", ["1", "2", "3", "5"])
    # steps: 5 (the end is one), 5 (cut off), 2
    assert bars.shares == [Share(1, 3), Share(0, 3), Share(1, 4), Share(1, 2)]
    assert bars.titles[2] == "tokens 3 to 4: 1 of 4, 25.0 %"
    assert plot.top == 50.0
    assert positions(replies[:1], ["none"]) is None


@pytest.mark.parametrize(
    ("part", "whole", "shown"),
    [
        (0, 7, ("0", "0.0")),
        (0, 0, ("0", "0.0")),
        (1, 3, ("33", "33.3")),
        (1, 300, ("< 1", "0.3")),
        (1, 5000, ("< 1", "< 0.1")),
    ],
)
def test_a_share_that_is_not_nothing_does_not_look_like_it(part: int, whole: int, shown: tuple[str, str]) -> None:
    assert (Share(part, whole).rounded(0), Share(part, whole).rounded(1)) == shown


def test_what_removed_means_is_told() -> None:
    page = reply_page([reply("lcg", "a", events=[event(0)])], {}, FAMILIES, title="t")
    (note,) = re.findall(r'<p class="note">(.*?)</p>', page)
    assert "summed over those that could have been sampled" in note
    assert "the mean of the interventions" in note


def test_removed_mass_is_the_sum_of_what_was_removed() -> None:
    masses = [0.0, 0.05, 0.95, 1.0]
    replies = [
        reply("lcg", "a", events=[event(0, removed=[["x", 1, mass / 2], ["y", 0, mass / 2]])]) for mass in masses
    ]
    plot = removed_mass(replies, ["lcg"])
    assert plot is not None
    assert [share.part for share in plot.charts[0].shares] == [2, 0, 0, 0, 0, 0, 0, 0, 0, 2]
    assert plot.charts[0].summary == "4 interventions removed 50.0 % on average"
    assert removed_mass([reply("lcg", "a")], ["lcg"]) is None


# ---- a big one ----


def many_replies(n: int, n_tokens: int = 256, n_events: int = 4) -> list[dict[str, Any]]:
    """Replies that are hard to pack: nothing in them repeats but the vocabulary."""
    rng = np.random.default_rng(0)
    letters = np.array(list("abcdefghijklmnop"))
    vocab = ["".join(rng.choice(letters, 6)) for _ in range(20_000)]
    replies = []
    for i in range(n):
        ids = (len(vocab) * rng.random(n_tokens) ** 3).astype(int).tolist()
        listed = [
            [vocab[t], LATIN, round(p, 6)] for t, p in zip(ids[: 15 * n_events], rng.random(15 * n_events).tolist())
        ]
        events = [
            event(
                k * n_tokens // n_events,
                removed=listed[15 * k : 15 * k + 5],
                candidates=listed[15 * k + 5 : 15 * k + 15],
                chosen=vocab[ids[k * n_tokens // n_events]],
            )
            for k in range(n_events if i % 2 else 0)
        ]
        pieces = [vocab[t] for t in ids]
        method, number = ("none", "lcg")[i % 2], i // 2
        replies.append(
            reply(
                method,
                "",
                id=f"p{number}",
                prompt=f"prompt {number} " * 20,
                language=("ar", "ru", "el")[number % 3],
                tokens=ids,
                pieces=pieces,
                families=[LATIN] * n_tokens,
                reply="".join(pieces),
                events=events,
            )
        )
    return replies


# ---- what a reader sees ----


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """The browser; tests that need it are skipped where there is none."""
    path = find_chromium()
    if path is None:
        pytest.skip("there is no Chromium")
    with Browser(path) as opened:
        yield opened


class Reader:
    """Opens pages, and reads what is on them."""

    def __init__(self, browser: Browser, folder: Path) -> None:
        self.browser, self._folder = browser, folder

    def open(self, page: str) -> None:
        """Opens a page, light and wide."""
        path = self._folder / "page.html"
        path.write_text(page, encoding="utf-8")
        self.browser.emulate()
        self.browser.console.clear()
        self.browser.requests.clear()
        self.browser.open(path, ready=READY)
        assert self.browser.requests == [path.as_uri()]

    def texts(self, selector: str) -> list[str]:
        """The text in every element that fits."""
        return self.evaluate(f"[...document.querySelectorAll({json.dumps(selector)})].map((e) => e.textContent)")

    def style(self, selector: str, name: str) -> str:
        """A computed style of the first element that fits."""
        return self.evaluate(f"getComputedStyle(document.querySelector({json.dumps(selector)}))[{json.dumps(name)}]")

    def choose(self, name: str, value: str | bool) -> None:
        """Sets a filter, as a hand would."""
        self.evaluate(
            f"""(() => {{
                const field = document.querySelector({json.dumps(f"#filters {name}")});
                field[{json.dumps("checked" if isinstance(value, bool) else "value")}] = {json.dumps(value)};
                field.dispatchEvent(new Event("input", {{ bubbles: true }}));
            }})()"""
        )

    def evaluate(self, expression: str) -> Any:
        """The value of a JavaScript expression."""
        return self.browser.evaluate(expression)


@pytest.fixture
def reader(browser: Browser, tmp_path: Path) -> Iterator[Reader]:
    """A reader whose pages write nothing to the console."""
    yield Reader(browser, tmp_path)
    assert browser.console == []


PAIR = (
    reply("none", "Rome|, |Рим", id="one", language="ru", reference="Рим, Рим"),
    reply(
        "lcg", "Р|им|, |Рим", id="one", language="ru", reference="Рим, Рим", events=[event(0, last=None, chosen="Р")]
    ),
    reply("none", "אב|, |ג", id="two", language="he", reference="אב, ג", subset="switch"),
    reply("lcg", "אב|, |ג", id="two", language="he", reference="אב, ג", subset="switch"),
)


def test_replies_stand_side_by_side_with_their_first_difference(reader: Reader) -> None:
    reader.open(reply_page(PAIR, {}, FAMILIES, title="t"))
    assert reader.texts(".card h3") == ["one", "two"]
    assert reader.texts(".card:first-child h4") == ["none", "lcg"]
    assert reader.texts(".card:first-child .text") == ["Rome, Рим ∎", "Рим, Рим ∎"]
    assert reader.texts(".card .first") == ["Rome", "Р"]
    assert "differs from none at token 1" in reader.texts(".reply header")[1]
    assert "same as none" in reader.texts(".reply header")[3]
    boxes = reader.evaluate(
        "[...document.querySelectorAll('.card:first-child .reply')].map((e) => e.getBoundingClientRect().y)"
    )
    assert boxes[0] == boxes[1]
    assert "unwanted Latin" in reader.texts(".reply header")[0]


def test_replies_belong_together_by_prompt_and_seed(reader: Reader) -> None:
    made = [
        reply("prompt", "c", id="x", prompt="Be careful. Say it."),
        *(reply(method, "ab"[seed], id="x", seed=seed) for seed in (0, 1) for method in ("none", "lcg")),
    ]
    reader.open(reply_page(made, {"methods": {"none": {}, "lcg": {}}}, FAMILIES, title="t"))
    reader.choose("[name=method][value='2']", True)
    assert reader.texts("#methods label") == [" none", " lcg", " prompt"]
    assert reader.texts(".card:nth-child(1) .text") == ["a ∎", "a ∎", "c ∎"]
    assert reader.texts(".card:nth-child(2) .text") == ["b ∎", "b ∎"]
    assert reader.texts(".card:nth-child(2) > header span") == ["seed 1"]
    assert reader.texts("#count") == ["1–2 of 2 (1 prompt)"]


def test_a_reply_that_ends_early_differs_at_its_end(reader: Reader) -> None:
    reader.open(reply_page([reply("none", "a|b"), reply("lcg", "a", finish="length")], {}, FAMILIES, title="t"))
    assert reader.texts(".card .first") == ["b", " …"]
    assert "differs from none at token 2" in reader.texts(".reply header")[1]


def test_tokens_have_the_colours_of_their_families(reader: Reader) -> None:
    reader.open(reply_page([reply("none", "中|ab|!|д")], {}, FAMILIES, title="t"))
    colours = [reader.style(f".text .t:nth-child({i})", "color") for i in (1, 2, 3, 4)]
    assert len(set(colours)) == 4
    assert colours == [reader.style(f"#legend .f-{family}", "color") for family in ("cj", "latin")] + [
        reader.style(".text", "color"),
        reader.style("#legend .f-lowres", "color"),
    ]


def test_the_legend_says_what_a_family_is(reader: Reader) -> None:
    made = reply("lcg", "a|д|ξ|.", families=[LATIN, LOWRES, 4, SYMBOLS], events=[event(0)])
    reader.open(trace_page(made, (*FAMILIES, "greek", "thai")))  # of `thai` there is nothing
    assert reader.texts("#legend > span") == [
        "cj: Chinese and Japanese",
        "latin: Latin letters",
        "symbols: no letters (digits, punctuation, vowel signs, …)",
        "lowres: every other script (Arabic, Hangul, Cyrillic, …)",
        "greek",
        "here the gate intervened (choose it to see why)",
    ]
    reader.open(trace_page(reply("lcg", "a")))
    assert len(reader.texts("#legend > span")) == 2


# ---- many families ----

MANY = family_set("scripts").names
INDEX = {name: f for f, name in enumerate(MANY)}


def test_families_are_told_apart_by_colour_or_underline_also_without_red_and_green(reader: Reader) -> None:
    text = {"cyrillic": 3, "latin": 2, "greek": 1, "thai": 2, "han": 1, "kana": 1, "hans": 1, "devanagari": 1}
    families = [INDEX[name] for name, n in text.items() for _ in range(n)]
    reader.open(trace_page(reply("lcg", "|".join("a" * len(families)), families=families), MANY))
    looks = {}
    for name in text:
        span = f".text .t.f-{name}"
        looks[name] = tuple(reader.style(span, f"textDecoration{part}") for part in ("Line", "Style"))
    plain = ("none", "solid")
    assert looks["cyrillic"] == plain  # the most frequent one of a bluish colour
    assert looks["han"] == looks["kana"] == looks["hans"] == plain  # of a yellowish one: three tokens together
    assert len({looks[name] for name in ("cyrillic", "latin", "greek")}) == 3
    assert len({looks[name] for name in ("han", "thai", "devanagari")}) == 3
    assert reader.texts("#legend .swatch")[:-1] == [name for name in MANY if name in text]


@pytest.mark.parametrize(("theme", "ground"), [(0, 1.0), (1, 0.01)])
def test_every_colour_can_be_read_and_is_bluish_or_yellowish_as_told(theme: int, ground: float) -> None:
    # what is left of linear RGB without the cones for green (Machado et al. 2009)
    seen = np.array([[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.01182, 0.04294, 0.968881]])
    for name, pair in HUES.items():
        channels = np.array([int(pair[theme][i : i + 2], 16) / 255 for i in (1, 3, 5)])
        linear = np.where(channels <= 0.04045, channels / 12.92, ((channels + 0.055) / 1.055) ** 2.4)
        lightness = float(linear @ [0.2126, 0.7152, 0.0722])
        assert (max(lightness, ground) + 0.05) / (min(lightness, ground) + 0.05) > 4.5, name
        red, green, blue = seen @ linear
        if name != "grey":
            assert (blue > (red + green) / 2) == (name in BLUISH), name


def test_every_family_has_a_colour_and_a_class_that_css_can_name() -> None:
    css = family_css(("symbols", *MANY, "a b{}", "new"))
    assert {*hues(MANY)} == {*HUES}
    for name in MANY:
        assert f".f-{name} {{ --family: var(--" in css
    assert "a b" not in css
    assert f".f-{len(MANY) + 1} {{" in css
    assert ".f-new {" in css


def test_letters_that_are_unwanted_are_marked(reader: Reader) -> None:
    made = reply("none", "Рим|, |Ro|me|. ", language="ru", reference="Рим")
    reader.open(reply_page([made], {}, FAMILIES, title="t"))
    assert reader.texts(".text .bad") == ["Ro", "me"]
    assert reader.style(".text .bad", "textDecorationStyle") == "wavy"
    assert reader.texts("#legend .bad") == ["unwanted letters"]
    reader.open(reply_page(PAIR[2:], {}, FAMILIES, title="t"))
    assert reader.texts(".bad") == []


def test_an_intervention_of_many_families_names_those_that_matter(reader: Reader) -> None:
    banned = [name for name in MANY if name not in ("arabic", "symbols")]
    z = [-5.0] * len(MANY)
    z[INDEX["arabic"]], z[INDEX["thai"]], z[INDEX["lao"]] = 4.0, -1.0, -2.0
    made = event(
        0, last=None, predicted=["arabic"], allowed=["arabic"], banned=banned, z=z, candidates=[], chosen="ر",
        removed=[["x", INDEX["latin"], 0.5], ["і", INDEX["cyrillic"], 0.1]],
    )  # fmt: skip
    reader.open(trace_page(reply("lcg", "ر", families=[INDEX["arabic"]], events=[made]), MANY))
    (story,) = reader.texts(".detail p")
    assert f"the gate allowed arabic and banned latin, cyrillic, {len(banned) - 2} others." in story
    rows = reader.texts(".detail table:nth-child(2) tr")
    assert [row.split()[0] for row in rows[:3]] == ["latin0.7", "cyrillic0.7", "greek0.7"]
    assert [row for row in rows if row.startswith(("arabic", "thai", "lao"))] == [
        "arabic98.2 %expected",
        "thai26.9 %banned",
        "lao11.9 %banned",
    ]
    assert len(rows) == 9
    assert rows[-1] == f"{len(MANY) - 8} others, each at most 0.7 %"


def test_a_probability_that_rounds_to_nothing_is_told_as_small(reader: Reader) -> None:
    small = event(0, z=[-20.0, -2.0, 0.0, 2.0], removed=[["x", LATIN, 4e-4], ["y", LATIN, 1e-6]])
    reader.open(trace_page(reply("lcg", "ר", events=[small])))
    assert reader.texts(".detail table:first-child .number") == ["< 0.1 %", "< 0.1 %"]
    assert reader.texts(".detail table:nth-child(2) .number")[0] == "< 0.1 %"
    assert reader.texts(".detail caption")[0] == "wanted and banned: < 0.1 %"
    reader.open(trace_page(reply("lcg", "ר", events=[event(0, removed=[])])))
    assert reader.texts(".detail caption")[0] == "wanted and banned: nothing"


@pytest.mark.parametrize(
    ("pieces", "families", "wanted"),
    [
        ("|ק|ז", [LOWRES, SYMBOLS, LOWRES], ["lowres", "lowres"]),  # two tokens make up a letter
        ("||中|!", [CJ, SYMBOLS, SYMBOLS, SYMBOLS], ["cj", "symbols"]),  # three do
        ("|대rome", [LOWRES, LATIN], ["latin"]),  # the second one ends a letter and holds others
        ("เ|จ|ี", [LOWRES, SYMBOLS, SYMBOLS], ["lowres", "lowres", "symbols"]),  # the first one begins a second letter
        ("ab|A|1|é", [LATIN, SYMBOLS, SYMBOLS, LATIN], ["latin", "symbols", "symbols", "latin"]),  # A: as exempt
    ],
)
def test_a_character_of_several_tokens_has_the_colour_of_the_strongest(
    reader: Reader, pieces: str, families: list[int], wanted: list[str]
) -> None:
    page = reply_page([reply("none", pieces, families=families)], {}, FAMILIES, title="t")
    reader.open(page)
    classes = reader.evaluate("[...document.querySelectorAll('.text .t:not(.end)')].map((e) => e.className)")
    assert classes == [f"t f-{family}" for family in wanted]
    assert [data_of(page)["pieces"][2][token] for token in data_of(page)["replies"][0][6]] == families


def test_a_token_tells_its_family_and_id(reader: Reader) -> None:
    made = reply("none", "a||é", families=[LATIN, LATIN, SYMBOLS], tokens=[5, 7, 9])
    reader.open(reply_page([made], {}, FAMILIES, title="t"))
    told = reader.evaluate(
        "[...document.querySelectorAll('.text .t')].map((e) => {"
        " e.dispatchEvent(new Event('mouseover', { bubbles: true })); return e.title; })"
    )
    assert told == ["token 1: latin, id 5", "token 2: latin, id 7\ntoken 3: symbols, id 9", "end of the reply"]


def test_an_intervention_tells_what_was_wanted_banned_and_chosen(reader: Reader) -> None:
    reader.open(reply_page(PAIR, {}, FAMILIES, title="t"))
    assert reader.texts(".detail") == []
    reader.browser.click("#replies .event")
    assert reader.texts(".detail h5") == ["lcg: intervention 1 of 1, at token 1"]
    assert reader.texts(".detail p") == [
        "Before the first letter of the reply, the model gave Rome 50.0 %; the gate allowed lowres and banned cj,"
        " latin. Р was chosen."
    ]
    rows = reader.evaluate(
        "[...document.querySelectorAll('.detail table')].map((t) => [t.caption.textContent, ...[...t.rows].map((r) =>"
        " [...r.cells].map((c) => c.textContent).join(' '))])"
    )
    assert rows == [
        ["wanted and banned: 62.5 %", "Rome  50.0 % ", "罗马  12.5 % "],
        # 1 / (1 + exp(-z))
        [
            "what the gate expects next",
            "cj  1.8 % banned",
            "latin  11.9 % banned",
            "symbols  50.0 % ",
            "lowres  88.1 % expected",
        ],
        ["left to choose from", "ל  25.0 % ", "ר  6.3 % ", "Р   chosen"],
    ]
    bars = reader.evaluate(
        "[...document.querySelectorAll('.detail table:first-child i')].map((e) => e.getBoundingClientRect().width /"
        " e.parentElement.clientWidth)"
    )
    assert bars[0] == pytest.approx(4 * bars[1], rel=0.05)
    reader.browser.click("#replies .event")
    assert reader.texts(".detail") == []


def test_interventions_are_there_for_the_keyboard(reader: Reader) -> None:
    events = [event(0), event(2)]
    reader.open(reply_page([reply("lcg", "ר|, |ר", events=events)], {}, FAMILIES, title="t"))
    reader.evaluate("document.querySelector('#replies .event').focus()")
    expanded = "document.querySelector('#replies .event').getAttribute('aria-expanded')"
    assert reader.evaluate(expanded) == "false"
    reader.browser.press("Enter")
    assert reader.evaluate(expanded) == "true"
    reader.browser.press("Tab")  # the next intervention in the text, then what was opened
    reader.browser.press("Tab")
    assert reader.evaluate("document.activeElement.ariaLabel") == "Next intervention"
    reader.browser.press("Enter")
    assert reader.texts(".detail h5") == ["lcg: intervention 2 of 2, at token 3"]
    assert reader.evaluate("document.activeElement.ariaLabel") == "Close"  # there is no next one
    reader.browser.press("Escape")
    assert reader.texts(".detail") == []
    assert reader.evaluate("document.activeElement === document.querySelectorAll('#replies .event')[1]")
    reader.browser.press(" ")
    assert reader.texts(".detail h5") == ["lcg: intervention 2 of 2, at token 3"]


def test_interventions_within_a_character_and_at_the_end_can_be_chosen(reader: Reader) -> None:
    made = reply("lcg", "a||é|\n", events=[event(1, chosen="\\xc3"), event(2), event(3, chosen="\n"), event(4)])
    reader.open(reply_page([made], {}, FAMILIES, title="t"))
    assert reader.texts("#replies .event") == ["é", "⏎\n", " ∎"]
    reader.browser.click("#replies .event")
    assert reader.texts(".detail h5") == ["lcg: intervention 1 of 4, at token 2"]
    reader.browser.click(".detail [data-go='1']")
    assert reader.texts(".detail h5") == ["lcg: intervention 2 of 4, at token 3"]
    reader.browser.click(".detail [data-go='1']")
    assert reader.texts(".detail .chosen td:first-child") == ["⏎"]
    reader.browser.click(".detail [data-go='1']")
    assert reader.evaluate("document.querySelector('[aria-expanded=true]').textContent") == " ∎"


def test_a_gate_that_did_not_run_says_so(reader: Reader) -> None:
    made = reply("lcg", "a", events=[event(0, z=[], removed=[], allowed=[], candidates=[])])
    reader.open(reply_page([made], {}, FAMILIES, title="t"))
    reader.browser.click("#replies .event")
    assert reader.texts(".detail caption")[1] == "the gate did not run"
    assert reader.texts(".detail p") == [
        "After lowres text; the gate allowed nothing and banned cj, latin. ר was chosen."
    ]


def test_filters_choose_languages_methods_and_texts(reader: Reader) -> None:
    extra = reply("paper", "Рим|, |罗马", id="one", language="ru", reference="Рим, Рим", finish="length")
    reader.open(reply_page([*PAIR, extra], {"methods": {"none": {}, "paper": {}, "lcg": {}}}, FAMILIES, title="t"))
    assert reader.texts("#methods label") == [" none", " paper", " lcg"]
    assert reader.texts(".card:first-child h4") == ["none", "lcg"]
    assert reader.texts("#filters [name=language] option") == ["all", "Hebrew (he)", "Russian (ru)"]
    reader.choose("[name=language]", "he")
    assert reader.texts(".card h3") == ["two"]
    assert reader.texts("#count") == ["1–1 of 1 prompt"]
    reader.choose("[name=language]", "")
    reader.choose("[name=method][value='1']", True)
    assert reader.texts(".card:first-child h4") == ["none", "paper", "lcg"]
    reader.choose("[name=method][value='0']", False)
    assert reader.texts(".card h4") == ["paper", "lcg", "lcg"]
    for show, wanted in (("events", ["one"]), ("differs", ["one"]), ("confused", ["one"]), ("cut", ["one"])):
        reader.choose("[name=show]", show)
        assert reader.texts(".card h3") == wanted
    reader.choose("[name=method][value='1']", False)
    assert reader.texts("#replies") == ["No reply matches."]
    assert reader.texts("#count") == ["none"]
    reader.choose("[name=show]", "")
    reader.choose("[name=subset]", "switch")
    assert reader.texts(".card h3") == ["two"]
    reader.choose("[name=subset]", "")
    reader.choose("[name=text]", "РИМ, р")
    assert reader.texts(".card h3") == ["one"]


def test_a_number_of_the_confusion_table_leads_to_its_replies(reader: Reader) -> None:
    others = (
        reply("none", "罗马", id="three", language="ru", reference="Рим"),
        reply("lcg", "Rome", id="three", language="ru", reference="Рим"),
        reply("none", "Roma", id="four", language="he", reference="א"),
    )
    reader.open(reply_page([*others, *PAIR], {"methods": {"none": {}, "lcg": {}}}, FAMILIES, title="t"))
    assert reader.texts(".heat[data-table=latin] tbody tr") == ["Hebrew (he)500", "Russian (ru)5050"]
    reader.browser.click(".heat[data-table=latin] tr:nth-child(2) button")
    assert reader.texts(".card h3") == ["one"]
    assert (
        reader.evaluate("document.querySelector('[name=show]').selectedOptions[0].text")
        == "with unwanted Latin by none"
    )
    assert reader.evaluate("document.activeElement.id") == "replies-heading"


def test_text_from_right_to_left_stays_so_and_joined(reader: Reader) -> None:
    arabic = "ال|ألم|ان|ية"
    made = [
        reply("none", f"Rome|, |{arabic}", language="ar", reference="روما, الألمانية"),
        reply("lcg", arabic, language="ar", reference="روما, الألمانية", events=[event(1)]),
    ]
    reader.open(reply_page(made, {}, FAMILIES, title="t"))
    assert [reader.style(f".reply:nth-child({i}) .text", "direction") for i in (1, 2)] == ["rtl", "rtl"]
    assert reader.style(".asked dd:nth-of-type(1)", "direction") == "ltr"
    assert reader.style(".asked dd:nth-of-type(2)", "direction") == "rtl"
    assert reader.style(".text", "unicodeBidi") == "isolate"
    # letters join across tokens only if these are as wide as the word in one piece
    widths = reader.evaluate(
        """(() => {
            const text = document.querySelector(".reply:nth-child(2) .text");
            text.lastChild.remove();
            const width = () => {
                const range = document.createRange();
                range.selectNodeContents(text);
                return range.getBoundingClientRect().width;
            };
            const inTokens = width();
            text.textContent = text.textContent;
            const whole = width();
            text.innerHTML = [...text.textContent].map((c) => c + "\u200c").join("");
            return [inTokens, whole, width()];
        })()"""
    )
    assert widths[0] == pytest.approx(widths[1], abs=0.1)
    if abs(widths[2] - widths[1]) < 1:
        pytest.skip("no font here joins Arabic letters")


def test_hostile_text_is_only_text(reader: Reader) -> None:
    made = reply(
        EVIL,
        "x",
        pieces=[EVIL],
        reply=EVIL,
        **dict.fromkeys(("id", "prompt", "language", "subset", "reference"), EVIL),
        events=[event(0, removed=[[EVIL, LATIN, 0.5]], candidates=[[EVIL, LATIN, 0.5]], chosen=EVIL)],
    )
    other = {**made, "language": "de", "subset": "s", "id": "b"}
    reader.open(
        reply_page([made, other], {"methods": {EVIL: {EVIL: {"value": 1, "low": 0, "high": 2}}}}, FAMILIES, title=EVIL)
    )
    assert reader.texts(".card h3, .card dd") == [EVIL, EVIL, EVIL, "b", EVIL, EVIL]
    assert reader.texts(".text")[0].startswith(EVIL)
    reader.browser.click("#replies .event")
    assert reader.texts(".detail .banned td:first-child")[0].startswith("</script>")
    assert reader.evaluate("document.querySelectorAll('script').length") == 2
    assert reader.evaluate("document.querySelectorAll('img').length") == 0


def test_a_page_is_dark_where_the_reader_wants_it_dark(reader: Reader) -> None:
    reader.open(reply_page(PAIR, {}, FAMILIES, title="t"))

    def brightness(selector: str, name: str) -> float:
        return sum(map(float, re.findall(r"[\d.]+", reader.style(selector, name))[:3])) / 3

    for dark in (False, True):
        reader.browser.emulate(dark=dark)
        page = brightness("body", "backgroundColor")
        assert (page < 64) == dark
        for selector in (".text .f-latin", ".text .f-lowres", ".text", "#count", ".card h3"):
            assert abs(brightness(selector, "color") - page) > 90


def test_a_phone_shows_everything_in_its_width(reader: Reader) -> None:
    long = [
        reply(m, "x" * 300 + "|" + "д" * 300, id="i" * 200, language="ru", events=[event(0)]) for m in ("none", "lcg")
    ]
    reader.open(reply_page(long, {}, FAMILIES, title="t" * 200))
    reader.browser.emulate(width=360, height=640)
    reader.browser.click("#replies .event")
    assert reader.evaluate("document.documentElement.scrollWidth") == 360


def test_few_replies_are_there_as_soon_as_the_page_is(reader: Reader) -> None:
    look = "addEventListener('DOMContentLoaded', () => { window.early = document.querySelectorAll('.text').length; })"
    script = reader.browser.call("Page.addScriptToEvaluateOnNewDocument", source=look)
    reader.open(reply_page([reply("none", "a", id=str(i)) for i in range(50)], {}, FAMILIES, title="t"))
    assert reader.evaluate("window.early") == 20
    reader.open(trace_page(reply("lcg", "ר", events=[event(0)])))
    assert reader.evaluate("window.early") == 1
    reader.browser.call("Page.removeScriptToEvaluateOnNewDocument", **script)


def test_thousands_of_replies_come_in_pages(reader: Reader) -> None:
    replies = many_replies(5000)
    page = reply_page(replies, {}, FAMILIES, title="t")
    assert len(page.encode()) < 15_000_000
    reader.open(page)
    print(f"{len(page.encode()) / 1e6:.1f} MB, the first replies after {reader.evaluate(READY)} ms")
    assert reader.texts("#count") == ["1–20 of 2,500 prompts"]
    assert len(reader.texts(".card")) == 20
    assert reader.texts(".card:last-child .text")[1] == replies[39]["reply"] + " ∎"
    reader.browser.click("#filters [data-step='1']")
    assert reader.texts("#count") == ["21–40 of 2,500 prompts"]
    assert reader.texts(".card:first-child h3") == ["p20"]
    reader.browser.click("p [data-step='-1']")
    assert reader.texts("#count") == ["1–20 of 2,500 prompts"]
    assert reader.evaluate("document.querySelector('p [data-step=\"-1\"]').disabled")
    reader.choose("[name=language]", "el")
    assert reader.texts("#count") == ["1–20 of 833 prompts"]


# ---- a single reply ----


def test_a_trace_shows_one_reply_and_its_first_intervention(reader: Reader) -> None:
    made = reply("lcg", "Ro|, |ר|, |אבג", prompt="Say it.", events=[event(2), event(4)])
    reader.open(trace_page(made, facts=[("model", "m.gguf")]))
    assert reader.texts("h1") == ["One reply"]
    assert reader.texts(".facts tr") == ["modelm.gguf"]
    assert reader.texts("#filters") == []
    assert reader.texts(".asked dd") == ["Say it."]
    assert reader.texts(".text") == ["Ro, ר, אבג ∎"]
    assert reader.style(".text", "direction") == "rtl"  # though its first letter goes the other way
    assert reader.texts(".detail h5") == ["lcg: intervention 1 of 2, at token 3"]
    reader.browser.click(".detail [data-go='0']")
    assert reader.texts(".detail") == []


def lcg_cpp(*args: object) -> subprocess.CompletedProcess[bytes]:
    """Runs the command."""
    return subprocess.run([sys.executable, "-m", "lcg_cpp", *map(str, args)], capture_output=True)


def test_run_traces_its_reply(tiny_model_path: Path, gate16: Path, tmp_path: Path) -> None:
    target = tmp_path / "trace.html"
    arguments = (
        "run",
        "-m",
        tiny_model_path,
        "--lcg",
        gate16,
        "-t",
        1,
        "-c",
        256,
        "-n",
        40,
        "--seed",
        1,
        "-p",
        "the name",
    )
    done = lcg_cpp(*arguments, "--json", "--trace", target)
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    page = target.read_text(encoding="utf-8")
    assert gate16.name in page
    assert str(gate16) not in page
    data = data_of(page)
    (packed,) = data["replies"]
    _, texts, _ = data["pieces"]
    assert "".join(texts[token] for token in packed[6]).replace("\ufffd", "") == told["reply"]
    assert len(packed[6]) == told["stats"]["tokens"] == 40
    assert (data["methods"], packed[3], packed[5]) == (["lcg"], "length", told["stats"]["prompt_tokens"])
    assert len(packed[7]) == len(told["events"]) > 0
    for found, event_ in zip(packed[7], told["events"]):
        assert found[0] == event_["position"]
        assert [data["families"][f] for f in found[4]] == event_["banned"]
        assert [texts[token] for token in found[6][::2]] == [removed["text"] for removed in event_["removed"]]
        assert found[6][1::2] == [round(removed["probability"] * 1e4) for removed in event_["removed"]]
        assert found[7]
        assert found[8] == event_["chosen"]["text"]
    plain = lcg_cpp(*arguments, "--no-lcg", "--trace", target)
    assert plain.returncode == 0, plain.stderr
    stock = data_of(target.read_text(encoding="utf-8"))
    assert (stock["methods"], stock["replies"][0][7]) == (["none"], [])
    held, table = vocab_families(read_base_model(tiny_model_path).vocab, "scripts")
    assert tuple(stock["families"]) == held.names
    assert all(table[i] == f for i, f in zip(stock["pieces"][0], stock["pieces"][2]) if i >= 0)


def test_run_refuses_to_trace_where_it_cannot(tiny_model_path: Path, gate16: Path, tmp_path: Path) -> None:
    before = tiny_model_path.read_bytes()
    for target, reason in (
        (tmp_path / "none" / "x.html", f"there is no folder {tmp_path / 'none'}, expected a file to write"),
        (tmp_path, "is a folder, expected a file to write"),
        (tiny_model_path, "is the model, the gate or the prompt, expected another file"),
    ):
        done = lcg_cpp("run", "-m", tiny_model_path, "--lcg", gate16, "-p", "x", "--trace", target)
        assert (done.returncode, done.stdout) == (2, b"")
        assert done.stderr.decode() == f"lcg-cpp: error: --trace: {target}: {reason}\n"
    assert tiny_model_path.read_bytes() == before
