"""`lcg-cpp chat`: talk to a model in the terminal, and see what the gate does."""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from ..errors import GateError
from ..gate.named import NAMES, make_options
from ..gate.options import GateOptions
from ..run.conversation import Conversation
from ..run.llama import GatedLlama
from ..run.prompt import template_notice
from . import options
from .errors import one_line
from .loading import chosen_gate, load_gate, load_model
from .output import print_facts
from .paths import require_file
from .progress import stop_at_ctrl_c, tell
from .reply_printer import ReplyPrinter
from .why import count, explain

_N_CTX = 4096
_BLOCK = '"""'  # around a message of several lines
_SHOWN = ("mode", "allow", "deny", "strength")  # options that /lcg always shows
_HELP = f"""\
/lcg              show the gate and its options
/lcg NAME VALUE   change one from the next reply on: mode, allow, deny, strength, …; `default` as the value resets it
/why              what the gate did in the last reply, and why
/reset            forget the conversation
/help             this list
/quit             leave; Ctrl-D too
A line that ends in \\ goes on in the next one; {_BLOCK} begins and ends a message of several lines.
Ctrl-C ends a reply; at the prompt it leaves."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add this command's arguments."""
    options.add_model(parser)
    most = "tokens of a reply at most; -1 until the context is full"
    options.add(parser, "--n-predict", -1, type=options.whole(-1), help=most)
    parser.add_argument("-sys", "--system", "--system-prompt", metavar="TEXT", help="what the system says first")
    parser.add_argument(
        "--highlight",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="mark the tokens that the gate changed, and what it removed (default: on)",
    )
    options.add_gate(parser)
    options.add_sampling(parser, chat=True)
    options.add_engine(parser, _N_CTX)
    parser.set_defaults(chat=True)


def run(args: argparse.Namespace) -> int:
    """Run the command."""
    args.lcg = chosen_gate(args)
    require_file(args.model, "-m/--model")
    gate = None if args.lcg is None else load_gate(args.lcg, "--lcg", args.lcg_device)
    llm = load_model(args.model, gate, options.gate_options(args), options.llama_arguments(args))
    if notice := template_notice(llm):
        tell(notice)
    chat = _Chat(llm, args)
    if _is_interactive():
        with contextlib.suppress(ImportError):  # not on Windows
            import readline  # noqa: F401, PLC0415 (lines can be edited, and come again)
        tell(f"{chat.describe()}. /help lists commands, Ctrl-D leaves.")
    try:
        with contextlib.suppress(EOFError):  # /quit
            for message in _messages():
                chat.take(message)
    except KeyboardInterrupt:
        if not _is_interactive():
            raise
    if _is_interactive():
        print()
    return 0


# ---- what is said ----


def _is_interactive() -> bool:
    return sys.stdin.isatty() and sys.stdout.isatty()


def _messages() -> Iterator[str]:
    """Messages and commands, until the input ends."""
    with contextlib.suppress(EOFError):
        while True:
            text = _line("> ")
            if text.lstrip().startswith(_BLOCK):
                yield _block(text.lstrip()[len(_BLOCK) :])
                continue
            while text.endswith("\\"):
                text = text[:-1] + "\n" + _line("… ")
            yield text


def _block(text: str) -> str:
    """A message of several lines, up to the mark that ends it or the end of the input."""
    with contextlib.suppress(EOFError):
        while not text.rstrip().endswith(_BLOCK):
            text += "\n" + _line("… ")
    return text.rstrip().removesuffix(_BLOCK).strip("\n")


def _line(prompt: str) -> str:
    """The next line of the input; raises EOFError behind the last."""
    if _is_interactive():
        return input(prompt).encode("utf-8", "surrogateescape").decode("utf-8", "replace")
    line = sys.stdin.buffer.readline()
    if not line:
        raise EOFError
    return line.decode("utf-8", "replace").rstrip("\r\n")


# ---- what is answered ----


class _Chat:
    """A chat, and the commands in it."""

    def __init__(self, llm: GatedLlama, args: argparse.Namespace) -> None:
        self._llm = llm
        self._args = args
        self._talk = Conversation(llm, args.system)
        self._lcg = options.named_gate_options(args)
        self._sampling = options.sampling_arguments(args)
        self._commands: dict[str, Callable[[str], None]] = {
            "/lcg": self._change,
            "/why": self._why,
            "/reset": self._reset,
            "/help": lambda rest: print(_HELP),
            "/quit": self._quit,
            "/exit": self._quit,
        }

    def describe(self) -> str:
        """The model and its gate."""
        gate = self._llm.gate
        name = "no gate" if gate is None else f"gate {Path(gate.path).name}, mode {self._llm.gate_options.mode}"
        return f"{Path(self._args.model).name}, {name}"

    def take(self, message: str) -> None:
        """Answer a message, or do what a command says."""
        found = re.fullmatch(r"(/[a-z]+)(?:\s+(.*))?", message.strip(), re.DOTALL)
        try:
            if found and found[1] in self._commands:
                self._commands[found[1]](found[2] or "")
            elif found:
                tell(f"{found[1]} is unknown, expected {', '.join(self._commands)}")
            elif message.strip():
                self._reply(message)
        except GateError as error:
            tell(str(error))
        sys.stdout.flush()

    def _reply(self, message: str) -> None:
        self._llm.reset_gate_stats()
        most = self._args.n_predict if self._args.n_predict > 0 else None
        printer = ReplyPrinter(self._llm.vocab, highlight=self._args.highlight)
        with stop_at_ctrl_c() as stop:  # the second Ctrl-C leaves the chat
            for step in self._talk.ask(message, max_tokens=most, should_stop=stop, **self._sampling):
                printer.step(step)
        self._sampling["seed"] = (self._sampling["seed"] + 1) % (2**32 - 1)
        reply = self._talk.reply
        assert reply is not None
        last = reply.events[-1] if reply.events else None
        printer.end(last if last is not None and last.position == len(reply.tokens) else None)
        notes = []
        if self._talk.n_forgotten:
            notes.append(f"forgot the oldest {self._talk.n_forgotten} messages, for which the context has no room (-c)")
        if reply.finish == "interrupted":
            notes.append("interrupted")
        elif reply.finish == "length":
            notes.append("cut off by -n" if len(reply.tokens) == most else "cut off: the context is full, see -c")
        if reply.events:
            notes.append(f"{count(len(reply.events), 'intervention')}, see /why")
        if notes:
            tell(f"({'; '.join(notes)})")

    def _change(self, rest: str) -> None:
        """Show the options of the gate, or change one."""
        name, _, value = rest.partition(" ")
        if name:
            changed = {**self._lcg, name: _value(name, value.strip())}
            self._llm.gate_options = make_options(changed)
            self._lcg = {name: value for name, value in changed.items() if value is not None}
        gate = self._llm.gate
        facts = [("gate", "none: only pins (allow, deny) act" if gate is None else gate.path)]
        usual = dataclasses.asdict(GateOptions())
        named = {**{name: usual[name] for name in _SHOWN}, **self._lcg}
        named = {name: value for name, value in named.items() if name in _SHOWN or value != usual.get(name)}
        print_facts([*facts, *((name, _shown(name, value)) for name, value in named.items())])

    def _why(self, rest: str) -> None:
        del rest
        reply = self._talk.reply
        if reply is None:
            tell("there is no reply yet")
            return
        for line in explain(self._llm, reply, self._llm.gate_stats):
            print(line)

    def _reset(self, rest: str) -> None:
        del rest
        self._talk.reset()
        tell("the conversation begins anew")

    def _quit(self, rest: str) -> None:
        raise EOFError


def _value(name: str, text: str) -> Any:
    """The value of an option as it was typed; None is its default."""
    if not text and name in NAMES:
        raise GateError(f"/lcg {name}: the value is missing, expected e.g. `/lcg {name} default`")
    if text in ("default", "none"):
        return None
    words = {"on": True, "true": True, "off": False, "false": False}
    if name not in ("mode", "while_thinking") and text in words:
        return words[text]
    try:
        return float(text)
    except ValueError:
        return text


def _shown(name: str, value: Any) -> str:
    if isinstance(value, bool):
        return "on" if value else "off"
    if isinstance(value, (tuple, list)):
        return ", ".join(value) or ("all scripts" if name == "allow" else "none")
    return one_line(f"{value}")
