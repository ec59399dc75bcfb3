"""The two kinds of models that `lcg-cpp train` learns from, and their options."""

from __future__ import annotations

import argparse
from pathlib import Path

from ..engine.load import DTYPES, Engine, HfEngine
from ..engine.model import quiet_log
from ..gate.gate_file import gate_file_name
from ..train.options import TrainOptions
from . import options
from .downloads import refuse_downloads
from .errors import UsageError
from .loading import load_base
from .paths import check_output, require_file


def add_model(parser: argparse.ArgumentParser) -> None:
    """Add -m/--model and --hf."""
    model = parser.add_mutually_exclusive_group(required=True)
    options.add(model, "--model")
    model.add_argument(
        "--hf",
        metavar="FOLDER",
        type=options.path,
        help="the base model, a Hugging Face checkpoint; the gate is then for `convert`",
    )
    refuse_downloads(parser)


def add_engine(parser: argparse.ArgumentParser) -> None:
    """Add how the model is evaluated."""
    group = options.add_teacher(parser, TrainOptions().n_ctx)
    group.add_argument(
        "--rpc",
        metavar="HOST:PORT,…",
        default="",
        help="llama.cpp RPC servers that share the model's weights; -ngl says how many layers they take",
    )
    group.add_argument("--dtype", choices=DTYPES, help="with --hf: what it computes in (default: as it is stored)")
    group.add_argument("--device", metavar="NAME", help="with --hf: cpu, cuda, … (default: CUDA if there is one)")


def output_and_engine(args: argparse.Namespace) -> tuple[str, Engine | HfEngine]:
    """The gate to write, and what evaluates the model.

    Raises:
        UsageError: The model is not there, or options do not go together.
    """
    return _with_llama(args) if args.hf is None else _with_transformers(args)


def _with_llama(args: argparse.Namespace) -> tuple[str, Engine]:
    """What to write and how to evaluate a GGUF file."""
    for option, value in (("--dtype", args.dtype), ("--device", args.device)):
        if value is not None:
            raise UsageError(f"{option}: is for Hugging Face checkpoints (--hf), expected none with -m/--model")
    require_file(args.model, "-m/--model")
    quiet_log()
    base = load_base(args.model, "-m/--model")
    output = args.output or gate_file_name(base.name, args.outtype or "f16")
    check_output(output, "-o/--output", (args.model,), "the file given as -m/--model")
    rpc = tuple(server for server in args.rpc.split(",") if server)
    return output, options.teacher_engine(args, rpc)


def _with_transformers(args: argparse.Namespace) -> tuple[str, HfEngine]:
    """What to write and how to evaluate a Hugging Face checkpoint."""
    for option, value in (("--outtype", args.outtype), ("-ngl/--n-gpu-layers", args.n_gpu_layers), ("--rpc", args.rpc)):
        if value:
            raise UsageError(f"{option}: is for GGUF files (-m/--model), expected none with --hf")
    name = gate_file_name(Path(args.hf).resolve().name, "f32")
    output = args.output or str(Path(name).with_suffix(".safetensors"))
    if Path(output).suffix != ".safetensors":
        raise UsageError(f"-o/--output: {output}: expected a name that ends in .safetensors with --hf")
    return output, HfEngine(args.batch_size, args.threads or 0, args.dtype or "auto", args.device or "auto")
