"""`lcg-cpp convert`: a gate file from a PyTorch checkpoint."""

from __future__ import annotations

import argparse
import os
import shlex

from ..convert.convert import convert
from ..gate.families import RULES
from ..gate.gate_file import OUTTYPES, gate_file_name
from . import options
from .errors import UsageError
from .loading import load_base
from .output import print_facts, print_heading, print_json, quantity
from .paths import file_size


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add this command's arguments."""
    parser.add_argument(
        "checkpoint",
        metavar="CKPT",
        type=options.path,
        help="a .safetensors, .pt, .pth, .bin or .ckpt file, the .index.json of a sharded one, or a folder with either;"
        " it may hold the gate alone or beside the base model's weights",
    )
    parser.add_argument(
        "--base",
        metavar="FILE",
        type=options.path,
        required=True,
        help="the model the gate was trained for, a GGUF file",
    )
    options.add(parser, "--output", help="the gate file to write (default: lcg-<base name>-<TYPE>.gguf, here)")
    parser.add_argument("--outtype", choices=OUTTYPES, default="f16", help="type of the weights (default: f16)")
    parser.add_argument(
        "--rules",
        choices=RULES,
        default="",
        help="rule set the gate was trained with (default: what CKPT says, else paper)",
    )
    parser.add_argument(
        "--threshold",
        metavar="P",
        type=float,
        help="probability of a predicted family (default: what CKPT says, else 0.5)",
    )
    for option, metavar, what in (
        ("--name", "NAME", "name of the gate (default: what CKPT says, else LCG for <base name>)"),
        ("--gate-version", "VERSION", "version of the gate, e.g. v1.0 (default: what CKPT says)"),
        ("--license", "SPDX", "licence of the gate, e.g. apache-2.0 (default: what CKPT says)"),
    ):
        parser.add_argument(option, metavar=metavar, default="", help=what)
    options.add_json(parser)


def run(args: argparse.Namespace) -> int:
    """Run the command."""
    base = load_base(args.base, "--base")
    name = gate_file_name(base.name, args.outtype, args.gate_version)
    output = args.output or name
    if os.path.isdir(output):
        output = os.path.join(output, name)
    for option, path in (("--base", args.base), ("CKPT", args.checkpoint)):
        if os.path.exists(output) and os.path.samefile(output, path):
            raise UsageError(f"-o/--output: {output}: is the file given as {option}, expected another one")
    result = convert(
        args.checkpoint,
        base,
        output,
        outtype=args.outtype,
        rules=args.rules,
        threshold=args.threshold,
        name=args.name,
        version=args.gate_version,
        license=args.license,
    )
    spec, size = result.spec, file_size(result.path)
    if args.json:
        print_json(
            {
                "path": str(result.path),
                "file_size": size,
                "name": spec.name,
                "architecture": spec.architecture,
                "n_embd": spec.n_embd,
                "n_hidden": spec.n_hidden,
                "n_vocab": spec.n_vocab,
                "rules": spec.families.rules,
                "outtype": args.outtype,
                "sources": result.sources,
                "untrained": result.untrained,
            }
        )
        return 0
    print_heading(f"wrote {result.path} ({quantity(size)}): {spec.name}")
    print_facts([*((name, f"from `{key}`") for name, key in result.sources.items()), ("rules", spec.families.rules)])
    if result.untrained:
        print(f"left out `{result.untrained[0]}`, of which PEFT has trained the copy that was taken")
    print(f"try: lcg-cpp run -m {shlex.quote(args.base)} --lcg {shlex.quote(str(result.path))} --highlight -p …")
    return 0
