"""Draws docs/architecture.svg: the rooms as floors, and how a text, a reply and a token walk through them.

python tools/draw_architecture.py
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from html import escape
from pathlib import Path

PICTURE = Path(__file__).resolve().parents[1] / "docs" / "architecture.svg"

# Top to bottom: name, what it is, height, style.
FLOORS = (
    ("cli · commands", "", 58, "floor"),
    ("analyze · detect · bench · serve", "", 58, "floor"),
    ("train", "", 58, "floor"),
    ("convert · evaluate", "", 58, "floor"),
    ("pages", "", 58, "floor"),
    ("measure", "", 58, "floor"),
    ("benchmarks", "", 58, "floor"),
    ("data", "", 58, "floor"),
    ("run", "GatedLlama", 58, "floor"),
    ("gate", "", 58, "floor"),
    ("engine", "", 58, "floor"),
    ("demo · errors · files", "", 34, "floor"),
    ("C++ core", "csrc/", 136, "core"),
    ("llama.cpp", "in llama-cpp-python", 76, "host"),
)
WIDTH, MARGIN, TOP, GAP, PILL = 1220, 14, 84, 5, 27
HIGH, LOW = -33, 31  # the two levels of the core

STYLE = """
text { font: 14.5px system-ui, -apple-system, "Segoe UI", "DejaVu Sans", sans-serif; fill: #1f2328; }
text.room { font-weight: 600; }
text.small { font-size: 12.5px; fill: #59636e; }
text.title { font-size: 20px; font-weight: 700; }
text.pill { font-weight: 600; fill: #ffffff; text-anchor: middle; }
text.middle { text-anchor: middle; }
.card { fill: #ffffff; stroke: #d0d7de; }
.floor { fill: #f3f5f8; }
.core { fill: #ebe6f7; }
.host { fill: #e1e8ef; }
path { fill: none; stroke-width: 3.5; stroke-linecap: round; }
.dots { stroke-dasharray: 0.1 9; stroke-width: 4.5; }
.shared { fill: #7657bf; stroke: #7657bf; }
.text { fill: #0b62c4; stroke: #0b62c4; }
.reply { fill: #1a7441; stroke: #1a7441; }
.token { fill: #b34a05; stroke: #b34a05; }
text.title, rect { stroke: none; }
path.text, path.reply, path.token, path.shared { fill: none; }
@media (prefers-color-scheme: dark) {
text { fill: #e6edf3; }
text.small { fill: #9aa5b1; }
.card { fill: #0d1117; stroke: #30363d; }
.floor { fill: #171d26; }
.core { fill: #251d3d; }
.host { fill: #1e2833; }
text.title.text { fill: #4493f8; }
text.title.reply { fill: #3fb950; }
text.title.token { fill: #f0883e; }
}
"""


@dataclass(frozen=True)
class Stop:
    """A station: `name` in its label, `about` beneath it. `dy` moves it within its floor."""

    x: int
    floor: str
    name: str
    about: str = ""
    dy: int = 0

    @property
    def y(self) -> float:
        """Height of the label's middle."""
        return middle(self.floor) + (self.dy or (-8 if self.about else 0))

    @property
    def width(self) -> float:
        """Width of the label."""
        return 9 * len(self.name) + 24


def middle(floor: str) -> float:
    """The middle of a floor."""
    y = float(TOP)
    for name, _, height, _ in FLOORS:
        if name == floor:
            return y + height / 2
        y += height + GAP
    raise KeyError(floor)


CORE, HOST = "C++ core", "llama.cpp"
ROW = Stop(262, "data", "row → tokens", "chat template")
WALK = Stop(262, "gate", "walk", "teacher forced")
TEACHER = Stop(262, "engine", "teacher")
POSITIONS = Stop(262, HOST, "graph", "every position")
LABELS = Stop(358, CORE, "labels", "", HIGH)
LEARNER = Stop(358, "train", "learner", "moves the weights")
FILE = Stop(428, "gate", "gate file")
JUDGED = Stop(544, CORE, "", "", HIGH)
DECISIONS = Stop(544, "gate", "decisions")
COUNTS = Stop(544, "analyze · detect · bench · serve", "counts", "by place and family")

ASKED = Stop(650, "cli · commands", "command", "run, eval, demo, data synth")
PROMPT = Stop(650, "benchmarks", "prompt", "or your own")
FOLLOW = Stop(650, "run", "follow", "token, bytes, event")
REPLIES = Stop(744, "convert · evaluate", "replies.jsonl")
METRICS = Stop(834, "measure", "metrics", "with intervals")
PAGE = Stop(910, "pages", "report.html")

EVAL = Stop(912, "run", "eval", "the last token")
GRAPH = Stop(912, HOST, "graph", "logits, state")
TAPPED = Stop(880, CORE, "", "", LOW)
SHORTLIST = Stop(984, CORE, "shortlist", "", LOW)
TRUNCATE = Stop(1040, HOST, "top-k, top-p", "survivors")
GATE = Stop(1050, CORE, "gate", "", HIGH)
CHOICE = Stop(1152, HOST, "choice", "temperature")
TOKEN = Stop(1152, "run", "token", "and event")

# from, to, where the way leaves ("side", or so far right of the label's middle), and where it arrives
WALKS: dict[str, tuple[tuple[Stop, Stop, int | str, int], ...]] = {
    "text": (
        (ROW, WALK, 0, 0),
        (WALK, TEACHER, 0, 0),
        (TEACHER, POSITIONS, 0, 0),
        (POSITIONS, LABELS, "side", 0),
        (LABELS, LEARNER, 0, 0),
        (LEARNER, FILE, "side", 0),
        (POSITIONS, JUDGED, "side", 0),
        (JUDGED, DECISIONS, 0, 0),
        (DECISIONS, COUNTS, 0, 0),
    ),
    "reply": (
        (ASKED, PROMPT, 0, 0),
        (PROMPT, FOLLOW, 0, 0),
        (FOLLOW, REPLIES, 24, 0),
        (REPLIES, METRICS, "side", 0),
        (METRICS, PAGE, "side", 0),
    ),
    "token": (
        (EVAL, GRAPH, 0, 0),
        (GRAPH, TAPPED, -16, 0),
        (GRAPH, SHORTLIST, 18, 0),
        (SHORTLIST, TRUNCATE, 24, -14),
        (TRUNCATE, GATE, 12, 0),
        (GATE, CHOICE, "side", -16),
        (CHOICE, TOKEN, 14, 14),
    ),
}
TITLES = {
    "text": (212, "A text", "teaches a gate, or tests it"),
    "reply": (600, "A reply", "is generated and measured"),
    "token": (880, "A token", "is chosen"),
}


def text(x: float, y: float, what: str, style: str) -> str:
    """A line of text."""
    return f'<text x="{x:g}" y="{y:g}" class="{style}">{escape(what)}</text>'


def box(x: float, y: float, width: float, height: float, style: str, radius: float = 6) -> str:
    """A rectangle with round corners."""
    return f'<rect x="{x:g}" y="{y:g}" width="{width:g}" height="{height:g}" rx="{radius:g}" class="{style}"/>'


def floors() -> Iterator[str]:
    """The floors, and the parts of the core that several paths share."""
    for name, about, height, style in FLOORS:
        y = middle(name)
        yield box(MARGIN, y - height / 2, WIDTH - 2 * MARGIN, height, style)
        yield text(MARGIN + 14, y - 3 if about else y + 5, name, "room")
        if about:
            yield text(MARGIN + 14, y + 15, about, "small")
    y = middle(CORE)
    yield box(436, y + HIGH - 17, 660, 34, "shared", 17)
    yield text(730, y + HIGH + 5, "MLP and decoding rules, once", "pill")
    yield box(206, y + LOW - 17, 690, 34, "shared", 17)
    yield text(726, y + LOW + 5, "tap: each row's hidden state", "pill")
    yield f'<path class="shared" marker-end="url(#shared)" d="M852 {y + LOW - 17:g}V{y + HIGH + 24:g}"/>'


def step(a: Stop, b: Stop, leaves: int | str, arrives: int, style: str) -> str:
    """A line from one station to the next; it starts and ends clear of the text beneath them."""
    down, to = b.y > a.y, b.x + arrives
    sign = 1 if down else -1
    end = b.y - sign * (PILL / 2 + (7 if b.name else 11)) + (17 if b.about and not down else 0)
    if leaves == "side":
        way = f"M{a.x + a.width / 2:g} {a.y:g}H{to - 26}Q{to} {a.y:g} {to} {a.y + sign * 26:g}V{end:g}"
    else:
        x, y = a.x + int(leaves), a.y + sign * PILL / 2 + (17 if a.about and down else 0)
        turn = y + sign * min(abs(end - y) - 1, 84)
        bend = (turn - y) * 0.55
        way = f"M{x} {y:g}C{x} {y + bend:g} {to} {turn - bend:g} {to} {turn:g}V{end:g}"
    return f'<path class="{style}" marker-end="url(#{style})" d="{way}"/>'


def dotted(a: Stop, b: Stop, style: str) -> str:
    """A dotted line between two stations of one floor."""
    sign = 1 if b.x > a.x else -1
    x1, x2 = a.x + sign * (a.width / 2 + 8), b.x - sign * (b.width / 2 + 8)
    return f'<path class="{style} dots" marker-end="url(#{style})" d="M{x1:g} {a.y:g}H{x2:g}"/>'


def stations(style: str) -> Iterator[str]:
    """The stations of a path."""
    stops = dict.fromkeys(stop for a, b, *_ in WALKS[style] for stop in (a, b) if stop.name)
    for stop in stops:
        yield box(stop.x - stop.width / 2, stop.y - PILL / 2, stop.width, PILL, style, PILL / 2)
        yield text(stop.x, stop.y + 5, stop.name, "pill")
        if stop.about:
            yield text(stop.x, stop.y + PILL / 2 + 14, stop.about, "small middle")


def draw() -> str:
    """The picture."""
    bottom = middle(HOST) + FLOORS[-1][2] / 2 + MARGIN
    markers = "".join(
        f'<marker id="{style}" viewBox="0 0 10 10" refX="5" refY="5" markerWidth="11" markerHeight="11"'
        f' markerUnits="userSpaceOnUse" orient="auto"><path class="{style}" style="fill:context-stroke"'
        ' d="M1 1L9 5L1 9z"/></marker>'
        for style in (*WALKS, "shared")
    )
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {bottom:g}" role="img"'
        ' aria-label="How a text, a reply and a token walk through lcg-cpp">',
        f"<style>{STYLE}</style><defs>{markers}</defs>",
        box(0.5, 0.5, WIDTH - 1, bottom - 1, "card", 10),
        *floors(),
        text(MARGIN + 14, 44, "A room imports", "small"),
        text(MARGIN + 14, 61, "only from those below", "small"),
    ]
    for style, (x, title, about) in TITLES.items():
        parts += [text(x, 40, title, f"title {style}"), text(x, 61, about, "small")]
    for style, ways in WALKS.items():
        parts += [step(*way, style) for way in ways]
    parts += [dotted(FOLLOW, EVAL, "token"), dotted(TOKEN, EVAL, "token")]
    parts.append(text((FOLLOW.x + EVAL.x) / 2, FOLLOW.y - 9, "one token at a time", "small middle"))
    parts.append(text((TOKEN.x + EVAL.x) / 2, FOLLOW.y - 9, "the next step", "small middle"))
    for style in WALKS:
        parts += stations(style)
    return "\n".join([*parts, "</svg>"]) + "\n"


if __name__ == "__main__":
    PICTURE.write_text(draw(), encoding="utf-8", newline="\n")
