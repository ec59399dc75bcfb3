"""The `lcg-cpp` command: its commands, their arguments, and how an error looks.

A command is a module of `commands` with two functions: `add_arguments(parser)` and `run(args)`, which returns the exit
code. Only the module of the command that was asked for is imported.
"""

from __future__ import annotations

import argparse
import importlib
import os
import sys
from collections.abc import Sequence
from typing import NoReturn

from . import __version__
from .commands.errors import EXIT_BROKEN_PIPE, EXIT_INTERRUPTED, EXIT_USAGE, UsageError, one_line
from .errors import GateError

COMMANDS = {
    "demo": "see the gate work: a tiny model that confuses scripts, without and with its gate",
    "run": "generate a reply with a model and its gate",
    "chat": "talk to a model in the terminal, and see what its gate does",
    "serve": "answer OpenAI clients: llama-cpp-python's server with a gate",
    "wrap": "run llama-server or another program of llama.cpp with the gate in it",
    "data": "make texts to train on: the paper's mix, or the model's own answers",
    "train": "train a gate for a model, from the model itself",
    "convert": "make a gate file from a PyTorch checkpoint",
    "eval": "compare methods on the same prompts: how much confusion is left, what it costs",
    "detect": "test a gate on tokens known to be wrong or right, without generating",
    "analyze": "show where a model's language confusion comes from: output norms, confusion points",
    "families": "show which script family each token of a model belongs to",
    "inspect": "show what is in a gate file",
    "gates": "list the published gates, find the gate of a model, publish one",
    "bench": "measure what the gate costs: stock and gated generation in turn",
}


class _Parser(argparse.ArgumentParser):
    """Reports an error in one line; argparse would print the usage before it."""

    def error(self, message: str) -> NoReturn:
        _print_error(f"{message} (see {self.prog} --help)")
        self.exit(EXIT_USAGE)


def build_parser(command: str | None = None) -> argparse.ArgumentParser:
    """Make the parser; only `command` gets its arguments, the others a name and a line of help."""
    parser = _Parser(
        prog="lcg-cpp",
        description="The Language Confusion Gate for llama.cpp: keeps a local model in the right script.",
        epilog="`lcg-cpp COMMAND --help` shows a command's options.",
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"%(prog)s {__version__}")
    prefix = os.path.dirname(os.path.abspath(__file__))
    parser.add_argument(
        "--prefix",
        action="version",
        version=prefix,
        help="print the folder of lib/ and include/ for C and C++ programs, for CMAKE_PREFIX_PATH, and exit",
    )
    commands = parser.add_subparsers(dest="command", metavar="COMMAND")
    for name, summary in COMMANDS.items():
        subparser = commands.add_parser(
            name,
            help=summary,
            description=f"{summary[0].upper()}{summary[1:]}.",
            formatter_class=argparse.RawDescriptionHelpFormatter,
            allow_abbrev=False,
        )
        if name == command:
            module = importlib.import_module(f"{__package__}.commands.{name}")
            module.add_arguments(subparser)
            subparser.set_defaults(run=module.run)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line, by default the process's; the exit code is 0, 2 for bad input or 130 after Ctrl-C."""
    _write_utf8()
    arguments = sys.argv[1:] if argv is None else list(argv)
    try:
        try:
            return _dispatch(arguments)
        finally:
            sys.stdout.flush()
    except BrokenPipeError:  # the reader has seen enough, as in `lcg-cpp … | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return EXIT_BROKEN_PIPE
    except KeyboardInterrupt:
        return EXIT_INTERRUPTED
    except (GateError, UsageError) as error:
        _print_error(str(error))
    except OSError as error:
        _print_error(_describe(error))
    return EXIT_USAGE


def _dispatch(arguments: list[str]) -> int:
    parser = build_parser(arguments[0] if arguments else None)
    if not arguments:
        parser.print_help()
        return 0
    args = parser.parse_args(arguments)
    if args.command is None:
        parser.error("no command given")
    return int(args.run(args))


def _write_utf8() -> None:
    """Write UTF-8 whatever the locale says: the texts are in every script."""
    for stream in (sys.stdout, sys.stderr):
        reconfigure = getattr(stream, "reconfigure", None)  # absent where a test replaced the stream
        if reconfigure is not None:
            reconfigure(encoding="utf-8", errors="replace")


def _describe(error: OSError) -> str:
    reason = error.strerror or str(error)
    reason = reason[:1].lower() + reason[1:]
    return f"{os.fsdecode(error.filename)}: {reason}" if isinstance(error.filename, (str, bytes)) else reason


def _print_error(message: str) -> None:
    print(f"lcg-cpp: error: {one_line(message)}", file=sys.stderr)


if __name__ == "__main__":
    sys.exit(main())
