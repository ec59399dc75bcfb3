"""`lcg-cpp gates`: the gates that are published, the gate of a model, and how one is published."""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict
from pathlib import Path

from ..errors import GateError
from ..gate.card import publish_gate
from ..gate.find import FOLDERS, find_gate, published_folder, read_index
from . import options
from .errors import UsageError
from .output import print_json, print_table, quantity
from .paths import file_size, require_file

_EPILOG = f"""\
`list` shows the gates that come with lcg-cpp. `path` prints where a gate lies, by its name or for the model of -m: what
`--lcg auto` and GatedLlama(gate="auto") take. They look beside the model, in the folders that the environment variable
{FOLDERS} names, and among the published gates. `add` puts a gate file into a folder of gates with a model card.
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add this command's arguments."""
    parser.epilog = _EPILOG
    parser.set_defaults(action="list")
    actions = parser.add_subparsers(dest="action", metavar="ACTION")
    options.add_json(actions.add_parser("list", help="show the published gates (the default)", allow_abbrev=False))
    path = actions.add_parser("path", help="print the path of a gate", allow_abbrev=False)
    one = path.add_mutually_exclusive_group(required=True)
    options.add(one, "--model", help="the model whose gate is wanted")
    one.add_argument("name", metavar="NAME", nargs="?", help="a published gate")
    new = actions.add_parser("add", help="publish a gate, with a model card", allow_abbrev=False)
    new.add_argument("file", metavar="GATE.gguf", type=options.path, help="the gate file")
    new.add_argument("--name", required=True, help="of its folder")
    new.add_argument("--base-model", metavar="ORGANIZATION/NAME", required=True, help="what hubs call its base model")
    new.add_argument("--license", default="", help="SPDX expression (default: the gate file's)")
    new.add_argument("--summary", metavar="FILE", type=options.path, help="what `lcg-cpp eval` measured, summary.json")
    new.add_argument("--notes", metavar="FILE.md", type=options.path, help="Markdown for the end of the card")
    options.add(new, "--output", metavar="DIR", required=True, help="the folder of gates")


def run(args: argparse.Namespace) -> int:
    """Run the command."""
    try:
        return {"list": _list, "path": _path, "add": _add}[args.action or "list"](args)
    except GateError as error:
        raise UsageError(str(error)) from error


def _list(args: argparse.Namespace) -> int:
    folder, gates = published_folder(), read_index()
    if vars(args).get("json"):
        print_json({"folder": str(folder), "gates": [asdict(gate) for gate in gates]})
    elif not gates:
        print(f"{folder}: no gates are published")
    else:
        sizes = [quantity(file_size(str(folder / gate.file))) for gate in gates]
        rows = [(gate.name, gate.base_model, gate.license, size) for gate, size in zip(gates, sizes)]
        print_table(("gate", "base model", "license", ">size"), rows)
    return 0


def _path(args: argparse.Namespace) -> int:
    if args.model is not None:
        require_file(args.model, "-m/--model")
        print(find_gate(args.model))
        return 0
    gates = {gate.name: gate for gate in read_index()}
    if args.name not in gates:
        known = f"expected {', '.join(gates)}" if gates else "there is none yet"
        raise UsageError(f"NAME: {args.name}: no such gate is published, {known}")
    print(published_folder() / gates[args.name].file)
    return 0


def _add(args: argparse.Namespace) -> int:
    for name in ("file", "summary", "notes"):
        if vars(args)[name] is not None:
            require_file(vars(args)[name], f"--{name}" if name != "file" else "")
    summary = None
    if args.summary is not None:
        try:
            summary = json.loads(Path(args.summary).read_bytes())
            summary["methods"], summary["settings"]["sampling"]
        except (ValueError, TypeError, KeyError) as error:
            raise UsageError(f"--summary: {args.summary}: is no summary.json of `lcg-cpp eval`") from error
    notes = Path(args.notes).read_text(encoding="utf-8") if args.notes is not None else ""
    published = publish_gate(
        args.file,
        args.output,
        name=args.name,
        base_model=args.base_model,
        license=args.license,
        summary=summary,
        notes=notes,
    )
    print(f"wrote {Path(args.output) / published.file}, its README.md, and the index")
    return 0
