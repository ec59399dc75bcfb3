"""The demo itself: the same prompts with the same seeds, plain and gated, side by side."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, TypedDict

from rich.console import Console
from rich.progress import Progress, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from ..gate.families import text_families
from ..gate.options import PAPER_OPTIONS, GateOptions
from ..run.llama import GatedLlama
from . import GATES, MODEL, DemoPrompt, load_prompts
from .score import Score, score_reply, summarize

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

GateName = Literal["default", "paper"]
OPTIONS: dict[str, GateOptions] = {"default": GateOptions(), "paper": PAPER_OPTIONS}
SAMPLING: dict[str, Any] = {"temp": 0.7, "top_p": 0.8, "top_k": 20, "min_p": 0.0, "repeat_penalty": 1.0}
MAX_TOKENS = 120
_WRONG, _REMOVED, _CHOSEN = "bold white on red", "red strike", "green"


class Measures(TypedDict):
    """What is measured of one of the two runs."""

    cj_percent: float
    latin_percent: float
    switches_kept_percent: float
    exact_match_percent: float
    tokens_per_second: float


class DemoResult(TypedDict):
    """The closing table."""

    prompts: int
    plain: Measures
    gated: Measures
    interventions: int
    steps: int


@dataclass(frozen=True)
class Piece:
    """One generated token.

    Attributes:
        text: Its bytes.
        removed: Bytes of the most probable token the gate removed at this step, None if it did not intervene.
    """

    text: bytes
    removed: bytes | None = None


@dataclass(frozen=True)
class Reply:
    """One reply and how long it took, the prompt's evaluation included (seconds)."""

    pieces: tuple[Piece, ...]
    seconds: float

    @property
    def text(self) -> str:
        """The reply as text; what is no complete character reads U+FFFD."""
        return b"".join(piece.text for piece in self.pieces).decode("utf-8", "replace").strip()


@dataclass(frozen=True)
class Arm:
    """One of the two runs: its replies and their scores, in prompt order."""

    replies: tuple[Reply, ...]
    scores: tuple[Score, ...]

    def measures(self) -> Measures:
        """Shares over the replies, and generated tokens per second."""
        n_tokens = sum(len(reply.pieces) for reply in self.replies)
        seconds = sum(reply.seconds for reply in self.replies)
        shares = summarize(self.scores)
        return Measures(
            cj_percent=shares.cj_percent,
            latin_percent=shares.latin_percent,
            switches_kept_percent=shares.switches_kept_percent,
            exact_match_percent=shares.exact_match_percent,
            tokens_per_second=round(n_tokens / seconds, 1),
        )


def load_model(gate: str | Path | None, options: GateOptions | None = None, model: str | Path = MODEL) -> GatedLlama:
    """Loads the demo model; one thread, since it is too small to share.

    Args:
        gate: A gate file, None for the plain model.
        options: How the gate acts.
        model: The base model.
    """
    return GatedLlama(
        str(model), gate=gate, gate_options=options, n_ctx=256, n_threads=1, n_threads_batch=1, verbose=False
    )


def reply_to(llm: GatedLlama, prompt: DemoPrompt, seed: int) -> Reply:
    """Generates one reply with the demo's sampling settings.

    Args:
        llm: From `load_model`.
        prompt: What to answer.
        seed: Added to the prompt's own seed.
    """
    begin = time.perf_counter()
    llm.reset()
    llm.set_seed(prompt.seed + seed)
    n_before = llm.gate_stats.interventions
    tokens: list[int] = []
    for token in llm.generate(llm.tokenize(prompt.prompt.encode()), **SAMPLING):
        if token == llm.token_eos() or len(tokens) == MAX_TOKENS:
            break
        tokens.append(token)
    seconds = time.perf_counter() - begin
    n_new = llm.gate_stats.interventions - n_before
    events = llm.gate_events[-n_new:] if n_new else []
    removed = {event.position: event.removed[0][0] for event in events if event.removed}
    pieces = [
        Piece(llm.detokenize([token]), llm.detokenize([removed[i]]) if i in removed else None)
        for i, token in enumerate(tokens)
    ]
    return Reply(tuple(pieces), seconds)


def run_prompts(llms: Sequence[GatedLlama], prompts: Sequence[DemoPrompt], seed: int) -> Iterator[list[Reply]]:
    """Yields each prompt's replies, one of each model in turn, so that a busy machine slows all of them alike."""
    for prompt in prompts:
        yield [reply_to(llm, prompt, seed) for llm in llms]


def run_demo(
    *, prompts: int | None = None, seed: int = 0, gate: GateName = "default", show: int = 8, json: bool = False
) -> DemoResult:
    """Runs the demo and shows it on the terminal.

    Args:
        prompts: How many prompts, all if None.
        seed: Added to each prompt's own seed.
        gate: `default`, or `paper`: the paper's width, labels and rules.
        show: How many of the replies in which the gate intervened are shown.
        json: Print nothing; the caller prints the result.

    Returns:
        What the closing table says.

    Raises:
        ValueError: `prompts` is not positive.
    """
    chosen = load_prompts()[:prompts]
    if prompts is not None and prompts < 1:
        raise ValueError(f"`prompts` is {prompts}, expected at least 1")
    console = Console(quiet=json, highlight=False)
    plain_llm, gated_llm = load_model(None), load_model(GATES[gate], OPTIONS[gate])
    for llm in (plain_llm, gated_llm):
        reply_to(llm, chosen[0], seed)  # the first reply of a process is slow
        llm.reset_gate_stats()
    pairs = []
    with Progress(*Progress.get_default_columns()[:-1], TimeRemainingColumn(), console=console) as progress:
        for pair in progress.track(run_prompts([plain_llm, gated_llm], chosen, seed), len(chosen), description="demo"):
            pairs.append(pair)
    arms = [
        Arm(tuple(replies), tuple(score_reply(prompt, reply.text) for prompt, reply in zip(chosen, replies)))
        for replies in zip(*pairs)
    ]
    stats = gated_llm.gate_stats
    plain_llm.close()
    gated_llm.close()
    result = DemoResult(
        prompts=len(chosen),
        plain=arms[0].measures(),
        gated=arms[1].measures(),
        interventions=stats.interventions,
        steps=stats.steps,
    )
    if not json:
        print_examples(console, chosen, arms[0], arms[1], show)
        print_result(console, result)
    return result


# ---- on the terminal ----


def print_examples(console: Console, prompts: Sequence[DemoPrompt], plain: Arm, gated: Arm, n: int) -> None:
    """Prints the first replies in which the gate intervened, next to what the plain model said.

    Args:
        console: Where to.
        prompts: What was asked.
        plain: The plain run.
        gated: The gated run.
        n: How many at most.
    """
    removed_mark = "{}" if console.color_system is not None else "[-{}-]"
    table = Table("prompt", "plain", "gated", title="same prompt, same seed", show_lines=True, expand=True)
    for prompt, before, after in zip(prompts, plain.replies, gated.replies):
        if table.row_count < n and any(piece.removed is not None for piece in after.pieces):
            allowed = _allowed(prompt)
            table.add_row(
                Text(prompt.prompt), _marked(before.text, allowed), _with_removed(after, allowed, removed_mark)
            )
    if table.row_count:
        console.print(table)
        removed = Text(removed_mark.format("removed by the gate"), _REMOVED)
        legend = Text("wrong script", _WRONG) + Text("  ") + removed
        console.print(legend + Text("  ") + Text("sampled instead", _CHOSEN))


def _allowed(prompt: DemoPrompt) -> set[str]:
    return set(text_families(prompt.reference))


def _marked(text: str, allowed: set[str], style: str = "") -> Text:
    """The text, with every letter of a script that was not asked for in colour."""
    marked = Text()
    for character in text:
        marked.append(character, _WRONG if text_families(character) - allowed else style)
    return marked


def _with_removed(reply: Reply, allowed: set[str], removed_mark: str) -> Text:
    """The reply, with what the gate removed before what was sampled instead."""
    marked = Text()
    run, style = b"", ""
    for piece in reply.pieces:
        if piece.removed is not None:
            marked.append_text(_marked(run.decode("utf-8", "replace"), allowed, style))
            marked.append(removed_mark.format(_visible(piece.removed)), _REMOVED)
            run, style = b"", _CHOSEN
        elif style and _is_complete(run):
            marked.append_text(_marked(run.decode("utf-8", "replace"), allowed, style))
            run, style = b"", ""
        run += piece.text
    marked.append_text(_marked(run.decode("utf-8", "replace"), allowed, style))
    return marked[1:] if marked.plain.startswith(" ") else marked


def _is_complete(text: bytes) -> bool:
    return "\ufffd" not in text.decode("utf-8", "replace")


def _visible(token: bytes) -> str:
    """A token's text; the bytes of an unfinished character in hexadecimal."""
    text = token.decode("utf-8", "backslashreplace").replace("\\x", "")
    return text if text.strip() else repr(text)


def print_result(console: Console, result: DemoResult) -> None:
    """Prints the closing table.

    Args:
        console: Where to.
        result: From `run_demo`.
    """
    table = Table("", "plain", "gated", title=f"{result['prompts']} prompts, temperature 0.7, top-p 0.8, top-k 20")
    rows = {
        "replies with unwanted Chinese": ("cj_percent", "%"),
        "replies with unwanted Latin": ("latin_percent", "%"),
        "requested switches kept": ("switches_kept_percent", "%"),
        "exact match": ("exact_match_percent", "%"),
        "tokens/s": ("tokens_per_second", ""),
    }
    plain, gated = dict(result["plain"]), dict(result["gated"])
    for title, (key, unit) in rows.items():
        table.add_row(title, f"{plain[key]:.1f} {unit}", f"{gated[key]:.1f} {unit}")
    console.print(table)
    share = 100.0 * result["interventions"] / max(result["steps"], 1)
    console.print(f"{result['interventions']} interventions in {result['steps']} steps ({share:.2f} %)")
