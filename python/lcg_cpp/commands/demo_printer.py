"""The demo on the terminal: what changed side by side, and the closing table."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.progress import Progress, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from ..measure.unwanted import unwanted

if TYPE_CHECKING:
    from ..benchmarks import Prompt
    from ..measure.answer import Reply

_WRONG, _REMOVED, _CHOSEN = "bold white on red", "red strike", "green"
_ROWS = {
    "cj_percent": ("replies with unwanted Chinese", "%"),
    "latin_percent": ("replies with unwanted Latin", "%"),
    "switches_kept_percent": ("requested switches kept", "%"),
    "exact_match_percent": ("exact match", "%"),
    "tokens_per_second": ("tokens/s", ""),
}


class Printer:
    """Prints the demo as it goes."""

    def __init__(self, *, quiet: bool) -> None:
        self._console = Console(quiet=quiet, highlight=False)
        self._mark = "{}" if self._console.color_system is not None else "[-{}-]"

    def follow(self, replies: Iterable[Reply], total: int) -> Iterator[Reply]:
        """The replies as they come, with a bar that says how far it is."""
        columns = (*Progress.get_default_columns()[:-1], TimeRemainingColumn())
        with Progress(*columns, console=self._console) as progress:
            yield from progress.track(replies, total, description="demo")

    def examples(self, prompts: Sequence[Prompt], replies: Sequence[Reply], n: int) -> None:
        """Print the first replies in which the gate intervened, next to what the plain model said."""
        table = Table("prompt", "plain", "gated", title="same prompt, same seed", show_lines=True, expand=True)
        for prompt, plain, gated in zip(prompts, replies[::2], replies[1::2]):
            if table.row_count < n and any(event["removed"] for event in gated["events"]):
                table.add_row(
                    Text(prompt.prompt), _marked(plain["reply"].strip(), prompt), self._with_removed(gated, prompt)
                )
        if table.row_count:
            self._console.print(table)
            removed = (self._mark.format("removed by the gate"), _REMOVED)
            self._console.print(
                Text.assemble(("wrong script", _WRONG), "  ", removed, "  ", ("sampled instead", _CHOSEN))
            )

    def _with_removed(self, reply: Reply, prompt: Prompt) -> Text:
        """The reply, with what the gate removed before what was sampled instead."""
        removed = {event["position"]: event["removed"][0][0] for event in reply["events"] if event["removed"]}
        marked, style = Text(), ""
        for position, piece in enumerate(reply["pieces"]):
            if position in removed:
                marked.append(self._mark.format(_visible(removed[position])), _REMOVED)
                style = _CHOSEN
            marked.append_text(_marked(piece, prompt, style))
            style = "" if piece else style  # a character that is not complete yet
        return marked[1:] if marked.plain.startswith(" ") else marked

    def result(self, result: Mapping[str, Any]) -> None:
        """Print the closing table."""
        title = f"{result['prompts']} prompts, temperature 0.7, top-p 0.8, top-k 20"
        table = Table("", "plain", "gated", title=title)
        for metric, (name, unit) in _ROWS.items():
            table.add_row(name, *(f"{side[metric]:.1f} {unit}" for side in (result["plain"], result["gated"])))
        self._console.print(table)
        share = 100.0 * result["interventions"] / max(result["steps"], 1)
        self._console.print(f"{result['interventions']} interventions in {result['steps']} steps ({share:.2f} %)")


def _marked(text: str, prompt: Prompt, style: str = "") -> Text:
    """The text, with every letter of a script that was not asked for in colour."""
    marked = Text(text, style)
    for begin, end, _ in unwanted(text, prompt) or ():
        marked.stylize(_WRONG, begin, end)
    return marked


def _visible(token: str) -> str:
    """A token's text; the bytes of an unfinished character in hexadecimal."""
    text = token.replace("\\x", "")
    return text if text.strip() else repr(text)
