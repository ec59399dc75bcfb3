"""Reports: one page that needs nothing else, all text as text, figures that are the same every time."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from html.parser import HTMLParser

import pytest

from lcg_cpp import GateError
from lcg_cpp.pages.report import Facts, Figure, Section, Table, figure_svg, new_figure, page

VOID = {"meta", "link", "br", "img", "hr", "input"}


class Outline(HTMLParser):
    """Reads a page back: every tag is closed where it must be, and cells, headings and paragraphs are kept."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.attributes: list[tuple[str, str, str | None]] = []
        self.texts: dict[str, list[str]] = {}
        self.feed(html)
        self.close()
        assert not self.open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.attributes += [(tag, name, value) for name, value in attrs]
        if tag not in VOID:
            self.open.append(tag)
            self.texts.setdefault(tag, []).append("")

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.attributes += [(tag, name, value) for name, value in attrs]

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        for tag in set(self.open):
            self.texts[tag][-1] += data

    def of(self, tag: str) -> list[str]:
        """The text in each element of this kind."""
        return [text.strip() for text in self.texts.get(tag, [])]


def curve(label: str = "loss") -> str:
    """A figure with everything that is usual: line, legend, grid, labels, bars, image."""
    figure = new_figure(6, 2)
    left, right, image = figure.subplots(1, 3)
    left.plot([0, 1, 2], [3, 1, 2], label=label)
    left.set_xlabel("step")
    left.grid(alpha=0.3)
    left.legend()
    right.bar(["cj", "latin"], [1, 2])
    image.imshow([[0, 1], [1, 0]])
    return figure_svg(figure)


def test_a_page_holds_its_sections_in_order() -> None:
    html = page(
        "How it went",
        [
            Section("", ["First.", "Second."]),
            Section("Numbers", [Facts([("texts", "1,234"), ("loss", "0.5")]), "Between."]),
            Section("Families", [Table(["family", ">share"], [["cj", "1 %"], ["latin", "20 %"]], caption="of all")]),
        ],
    )
    outline = Outline(html)
    assert html.startswith("<!DOCTYPE html>")
    assert outline.of("title") == outline.of("h1") == ["How it went"]
    assert outline.of("h2") == ["Numbers", "Families"]
    assert outline.of("p") == ["First.", "Second.", "Between."]
    assert outline.of("th") == ["texts", "loss", "family", "share"]
    assert outline.of("td") == ["1,234", "0.5", "cj", "1 %", "latin", "20 %"]
    assert outline.of("caption") == ["of all"]
    places = [html.index(text) for text in ("First.", "Second.", "1,234", "Between.", "of all", "20 %")]
    assert places == sorted(places)


def test_what_is_not_given_leaves_no_empty_element() -> None:
    outline = Outline(page("t", [Section("", [Table(["a"], [])])]))
    assert not {"h2", "caption", "p", "td"} & outline.texts.keys()


def test_only_columns_of_numbers_are_aligned_to_the_right() -> None:
    html = page("t", [Section("", [Table(["name", ">n", "kind", ">share"], [["a", "1", "b", "2"]])])])
    assert re.findall(r'<th scope="col"( class="number")?>(\w+)', html) == [
        ("", "name"),
        (' class="number"', "n"),
        ("", "kind"),
        (' class="number"', "share"),
    ]
    assert re.findall(r'<td( class="number")?><bdi>(\w)', html) == [
        ("", "a"),
        (' class="number"', "1"),
        ("", "b"),
        (' class="number"', "2"),
    ]


def test_all_text_is_text() -> None:
    evil = '<script>alert("1")</script> & \''
    figure = Figure(curve(), evil)
    html = page(evil, [Section(evil, [evil, Facts([(evil, evil)]), Table([evil], [[evil]], evil), figure])])
    assert "<script" not in html
    outline = Outline(html)
    for tag in ("title", "h1", "h2", "p", "caption", "td", "figcaption"):
        assert set(outline.of(tag)) == {evil}
    assert ("div", "aria-label", evil) in outline.attributes


def test_tokens_of_any_script_stay_as_they_are_and_apart() -> None:
    tokens = ["日本", "السلام(", "עברית", "ไทย", "한국", "\u200f)", "😀", "\x00", "a\nb"]
    outline = Outline(page("t", [Section("", [Table(["token"], [[token] for token in tokens])])]))
    assert outline.of("bdi") == outline.of("td") == [token.strip() for token in tokens]


def test_lone_surrogates_do_not_keep_a_page_from_being_written() -> None:
    html = page("a\ud800b", [Section("", ["\udfff"])])
    assert html.encode("utf-8").decode("utf-8") == html
    assert "a?b" in html


def test_a_page_needs_nothing_else() -> None:
    html = page("t", [Section("", ["text", Figure(curve(), "a curve")])])
    outline = Outline(html)
    loading = [
        value for _, name, value in outline.attributes if name in ("src", "href", "xlink:href", "srcset", "action")
    ]
    assert loading
    assert all(value is not None and value.startswith(("#", "data:")) for value in loading)
    assert not re.search(r"@import|url\((?!#)|<script|<link|<iframe", html)
    assert set(re.findall(r"https?://[^\"' <]+", html)) <= {
        "http://www.w3.org/2000/svg",
        "http://www.w3.org/1999/xlink",
    }


def test_a_page_follows_the_readers_colours_and_width() -> None:
    html = page("t", [])
    assert "prefers-color-scheme: dark" in html
    assert '<meta name="viewport" content="width=device-width, initial-scale=1">' in html
    assert "@media print" in html


def test_a_figure_is_one_element_without_a_date_or_a_colour_of_the_page() -> None:
    svg = curve()
    assert svg.startswith("<svg ")
    assert svg.rstrip().endswith("</svg>")
    assert "<metadata" not in svg
    # black and white would vanish on a page of that colour
    assert "#000000" not in svg
    assert "#ffffff" not in svg
    assert 'fill="currentColor"' in svg
    assert "stroke: currentColor" in svg


def test_text_of_a_figure_can_be_searched() -> None:
    texts = Outline(curve("held-out loss")).of("text")
    assert "held-out loss" in texts
    assert "step" in texts


def test_the_same_figure_is_the_same_text_in_every_process() -> None:
    code = "import test_report; print(test_report.curve(), end='')"
    for seed in ("1", "2"):
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "PYTHONHASHSEED": seed}
        run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment)
        assert run.stdout == curve()


def test_figures_on_one_page_cannot_mix_up_their_parts() -> None:
    svg = curve()
    names = re.findall(r' id="([^"]+)"', svg)
    # only parts that are referred to have a name, and it is a hash of what they are: equal names are equal parts
    assert names
    assert all(re.fullmatch(r"[a-z]+[0-9a-f]{10}", name) for name in names)
    assert set(re.findall(r"#([a-z]+[0-9a-f]{10})\b", svg)) <= set(names)


def test_a_table_with_a_row_of_another_width_is_refused() -> None:
    with pytest.raises(GateError) as error:
        Table(["a", "b"], [["1", "2"], ["3"]])
    assert str(error.value) == "`rows` has 1 cells in row 1, expected 2"


def test_without_matplotlib_the_way_out_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(GateError) as error:
        new_figure()
    assert str(error.value) == 'matplotlib is missing, needed to draw figures: pip install "lcg-cpp[analyze]"'
