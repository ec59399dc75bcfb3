"""The options that several commands share. Their names are llama.cpp's."""

from __future__ import annotations

import argparse
import inspect
import math
import secrets
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from .errors import UsageError

if TYPE_CHECKING:
    from ..gate.options import GateOptions

RANDOM_SEED = -1
_MAX_SEED = 2**32 - 2  # llama.cpp takes 2^32 - 1 for "random"
_INT_MAX = 2**31 - 1


def whole(low: int, high: int = _INT_MAX) -> Callable[[str], int]:
    """An argparse type: whole numbers from `low` to `high`."""
    expected = f"a whole number from {low}" + ("" if high == _INT_MAX else f" to {high}")
    return _number(int, low, high, expected)


def real(low: float, high: float = math.inf) -> Callable[[str], float]:
    """An argparse type: numbers from `low` to `high`."""
    expected = f"a number from {low:g}" + ("" if high == math.inf else f" to {high:g}")
    return _number(float, low, min(high, 1e30), expected)


def _number(kind: Callable[[str], Any], low: float, high: float, expected: str) -> Callable[[str], Any]:
    def parse(text: str) -> Any:
        try:
            value = kind(text)
        except ValueError:
            value = None
        if value is None or not low <= value <= high:
            raise argparse.ArgumentTypeError(f"is {text!r}, expected {expected}")
        return value

    return parse


def _defaults(function: Callable[..., Any]) -> dict[str, Any]:
    return {name: parameter.default for name, parameter in inspect.signature(function).parameters.items()}


def _layers(text: str) -> int:
    return -1 if text == "all" else whole(-1)(text)


def add_model(parser: argparse.ArgumentParser) -> None:
    """Add -m/--model."""
    parser.add_argument("-m", "--model", metavar="FILE", required=True, help="the base model, a GGUF file")


def add_json(parser: argparse.ArgumentParser) -> None:
    """Add --json."""
    parser.add_argument("--json", action="store_true", help="print one JSON object and nothing else")


def add_threads(parser: argparse._ActionsContainer) -> None:
    """Add -t/--threads."""
    parser.add_argument(
        "-t", "--threads", metavar="N", type=whole(1), help="CPU threads (default: half of the CPUs, all for prompts)"
    )


def add_gpu_layers(parser: argparse._ActionsContainer) -> None:
    """Add -ngl/--n-gpu-layers."""
    parser.add_argument(
        "-ngl",
        "--n-gpu-layers",
        metavar="N",
        type=_layers,
        help="layers to keep on the GPU, -1 or all for every one (default: 0)",
    )


def add_engine(parser: argparse.ArgumentParser) -> None:
    """Add the options of how llama.cpp runs the model; those not given keep `Llama()`'s own defaults."""
    from ..run.llama import GatedLlama  # noqa: PLC0415 (only for the command that was asked for)

    default = _defaults(GatedLlama.__mro__[1])
    group = parser.add_argument_group("model (defaults are those of llama-cpp-python's Llama())")
    group.add_argument(
        "-c",
        "--ctx-size",
        metavar="N",
        type=whole(0),
        help=f"tokens of context; 0 takes what the model was trained for (default: {default['n_ctx']})",
    )
    add_threads(group)
    add_gpu_layers(group)
    group.add_argument(
        "-b",
        "--batch-size",
        metavar="N",
        type=whole(1),
        help=f"tokens per batch of the prompt (default: {default['n_batch']})",
    )


def llama_arguments(args: argparse.Namespace) -> dict[str, Any]:
    """The arguments for `Llama()` that were given."""
    given = {
        "n_ctx": args.ctx_size,
        "n_threads": args.threads,
        "n_threads_batch": args.threads,
        "n_gpu_layers": args.n_gpu_layers,
        "n_batch": args.batch_size,
    }
    return {name: value for name, value in given.items() if value is not None}


def add_sampling(parser: argparse.ArgumentParser) -> None:
    """Add the options of the sampling chain; those not given keep llama-cpp-python's own defaults."""
    from ..run.llama import GatedLlama  # noqa: PLC0415 (only for the command that was asked for)

    plain, chat = _defaults(GatedLlama.create_completion), _defaults(GatedLlama.create_chat_completion)
    group = parser.add_argument_group("sampling (defaults are those of llama-cpp-python)")
    for option, metavar, name, kind, what in (
        ("--temp", "T", "temperature", real(0), "temperature; 0 always takes the most probable token"),
        ("--top-k", "N", "top_k", whole(0), "keep the N most probable tokens; 0 keeps all"),
        ("--top-p", "P", "top_p", real(0, 1), "keep the most probable tokens up to this sum of probabilities"),
        ("--min-p", "P", "min_p", real(0, 1), "drop tokens less probable than this part of the best one"),
    ):
        with_chat = "" if chat[name] == plain[name] else f", with --chat {chat[name]}"
        group.add_argument(option, metavar=metavar, type=kind, help=f"{what} (default: {plain[name]}{with_chat})")
    group.add_argument(
        "--seed",
        metavar="N",
        type=whole(RANDOM_SEED, _MAX_SEED),
        default=RANDOM_SEED,
        help="seed of the random choices; -1, the default, picks one and reports it",
    )


def sampling_arguments(args: argparse.Namespace) -> dict[str, Any]:
    """The arguments for `follow()`: a seed, and what was not given as llama-cpp-python has it."""
    from ..run.llama import GatedLlama  # noqa: PLC0415 (only for the command that was asked for)

    default = _defaults(GatedLlama.create_chat_completion if args.chat else GatedLlama.create_completion)
    seed = secrets.randbelow(_MAX_SEED + 1) if args.seed == RANDOM_SEED else args.seed
    names = {"temp": "temperature", "top_k": "top_k", "top_p": "top_p", "min_p": "min_p"}
    given = {name: getattr(args, name) for name in names}
    return {"seed": seed, **{name: default[names[name]] if value is None else value for name, value in given.items()}}


def add_gate(parser: argparse.ArgumentParser) -> None:
    """Add the options of the gate."""
    group = parser.add_argument_group("gate")
    group.add_argument("--lcg", metavar="FILE", help="the gate, a GGUF file made for this model")
    group.add_argument("--no-lcg", action="store_true", help="generate without a gate, as stock llama.cpp does")
    group.add_argument(
        "--lcg-device", choices=("cpu", "gpu", "auto"), default="cpu", help="where the gate runs (default: cpu)"
    )
    group.add_argument(
        "--lcg-mode",
        choices=("mask", "observe", "off"),
        default="mask",
        help="mask acts (the default); observe decides and counts but changes nothing; off does nothing",
    )
    group.add_argument(
        "--lcg-strength",
        metavar="X",
        type=float,
        help="lower the logits of banned tokens by X; the default, inf, removes them",
    )
    add_rules(group)


def add_rules(group: argparse._ActionsContainer) -> None:
    """Add the options of the decoding rules."""
    group.add_argument(
        "--lcg-threshold",
        metavar="P",
        type=float,
        help="probability from which the gate predicts a family (default: the gate file's)",
    )
    group.add_argument(
        "--no-lcg-persistence",
        action="store_true",
        help="act before the first language token too, and do not keep the current script allowed",
    )
    group.add_argument(
        "--no-lcg-confidence",
        action="store_true",
        help="act even where the model finds no predicted family plausible",
    )
    group.add_argument(
        "--lcg-confidence-temperature",
        metavar="T",
        type=real(0.0),
        help="take what the model finds plausible at no lower temperature than this (default: 0.7; paper: 0)",
    )
    group.add_argument(
        "--lcg-first-token",
        action=argparse.BooleanOptionalAction,
        help="act on the first language token of the reply too, which the paper never does (default: on)",
    )


def gate_options(args: argparse.Namespace, **changes: Any) -> GateOptions:
    """The gate's options as they were given.

    Args:
        args: The parsed arguments.
        **changes: Fields of `GateOptions` that are no options of the command line.

    Raises:
        UsageError: A value is out of range.
    """
    from ..errors import GateError  # noqa: PLC0415 (only when a command runs)
    from ..gate.options import GateOptions  # noqa: PLC0415

    fields = ("mode", "strength", "threshold", "confidence_temperature", "first_token")
    given = {field: vars(args).get(f"lcg_{field}") for field in fields}  # not every command has all of them
    try:
        return GateOptions(
            persistence=not args.no_lcg_persistence,
            confidence=not args.no_lcg_confidence,
            **{name: value for name, value in given.items() if value is not None},
            **changes,
        )
    except GateError as error:  # its message begins with the field in backticks, which is the option without --lcg-
        raise UsageError(str(error).replace("`", "`--lcg-", 1)) from error
