"""The options that several commands share, each declared once. Their names are llama.cpp's."""

from __future__ import annotations

import argparse
import inspect
import math
import secrets
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from ..engine.load import Engine
from ..gate.families import RULES
from ..gate.marks import LEFT_ALONE
from .downloads import refuse_downloads
from .errors import UsageError

if TYPE_CHECKING:
    from ..gate.options import GateOptions, ModelCheck
    from ..gate.steps import Sampling

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


def _scripts(field: str) -> Callable[[str], tuple[str, ...]]:
    def parse(text: str) -> tuple[str, ...]:
        from ..errors import GateError  # noqa: PLC0415 (only when a command runs)
        from ..gate.pin import check_scripts  # noqa: PLC0415

        try:
            return check_scripts(field, tuple(name.strip() for name in text.split(",")))
        except GateError as error:
            raise argparse.ArgumentTypeError(str(error).partition("` ")[2]) from error

    return parse


def _parts(text: str) -> tuple[str, ...]:
    names = tuple(name.strip().replace("-", "_") for name in text.split(","))
    if not set(names) <= set(LEFT_ALONE):
        raise argparse.ArgumentTypeError(f"is {text!r}, expected {' or '.join(LEFT_ALONE)}, or both with a comma")
    return names


def _layers(text: str) -> int:
    return -1 if text == "all" else whole(-1)(text)


def path(text: str) -> str:
    """An argparse type: a name that is not empty, which pathlib would take for the current folder."""
    if not text:
        raise argparse.ArgumentTypeError("is empty, expected a name; has the shell a value for it?")
    return text


# The options of all commands, by their long names: further names, and what `add_argument` takes.
_VOCABULARY: dict[str, dict[str, Any]] = {
    "--model": {"flags": ("-m",), "metavar": "FILE", "type": path, "help": "the base model, a GGUF file"},
    "--lcg": {"metavar": "FILE", "type": path, "help": "the gate, a GGUF file made for this model; auto finds it"},
    "--any-model": {
        "action": "store_true",
        "help": "take a gate of another model with the same architecture, width and tokenizer, such as a fine-tune",
    },
    "--lcg-device": {"choices": ("cpu", "gpu", "auto"), "default": "cpu", "help": "where the gate runs"},
    "--data": {"flags": ("-d",), "metavar": "TEXTS", "type": path, "action": "append"},
    "--benchmark": {
        "flags": ("-d",),
        "metavar": "BENCH",
        "type": path,
        "default": "cldr",
        "help": "prompts: cldr, everyday, demo, flores:…, include:…, humaneval-xl:…, lcb:…, or a .jsonl file",
    },
    "--output": {"flags": ("-o",), "metavar": "FILE", "type": path},
    "--rules": {"choices": RULES, "default": RULES[0], "help": "rule set of the token families"},
    "--n-predict": {"flags": ("-n",), "type": whole(1), "help": "tokens of a reply at most"},
    "--limit": {"type": whole(1), "help": "use N of them at most, drawn at random"},
    "--seed": {"type": whole(0), "help": "seed of the random choices"},
    "--temp": {"metavar": "T", "type": real(0), "help": "temperature; 0 always takes the most probable token"},
    "--top-k": {"type": whole(0), "help": "keep the N most probable tokens; 0 keeps all"},
    "--top-p": {"metavar": "P", "type": real(0, 1), "help": "keep the most probable tokens up to this probability"},
    "--min-p": {"metavar": "P", "type": real(0, 1), "help": "drop tokens less probable than P times the best one"},
    "--ctx-size": {"flags": ("-c",), "type": whole(1), "help": "tokens of context"},
    "--batch-size": {"flags": ("-b",), "type": whole(1), "help": "tokens evaluated at once"},
    "--parallel": {
        "flags": ("-np",),
        "type": whole(1, 252),
        "help": "replies generated at once (default: up to 16, as many as fit into 16,384 tokens or four contexts)",
    },
    "--threads": {
        "flags": ("-t",),
        "type": whole(1),
        "help": "CPU threads (default: half of the CPUs, all for prompts)",
    },
    "--n-gpu-layers": {
        "flags": ("-ngl",),
        "type": _layers,
        "help": "layers to keep on the GPU; -1 or all keeps every one (default: 0)",
    },
    "--allow-scripts": {
        "metavar": "LIST",
        "type": _scripts("allow"),
        "help": "no letters but those of these scripts may come out (latin,hangul,…; chinese, japanese, korean, cj)",
    },
    "--deny-scripts": {
        "metavar": "LIST",
        "type": _scripts("deny"),
        "help": "no letters of these scripts may come out (`lcg-cpp families --rules scripts` lists names)",
    },
    "--while-thinking": {
        "choices": ("mask", "observe", "off"),
        "help": "how gate and pin act on the thoughts of a model that thinks before it answers (default: as elsewhere)",
    },
    "--leave-alone": {
        "metavar": "LIST",
        "type": _parts,
        "help": "parts of a reply on which gate and pin do not act: code (between fences), tool_calls",
    },
    "--json": {"action": "store_true", "help": "print one JSON object and nothing else"},
}


def add(group: argparse._ActionsContainer, option: str, default: Any = None, **changes: Any) -> None:
    """Add an option that several commands have; `changes` go before what the vocabulary has for `add_argument`."""
    given = {**_VOCABULARY[option], **changes}
    default = given.pop("default", None) if default is None else default
    if default is not None:
        given["default"] = default
        if default != []:
            given["help"] += f" (default: {default})"
    if "action" not in given and "choices" not in given:
        given.setdefault("metavar", "N")
    group.add_argument(*given.pop("flags", ()), option, **given)


def add_model(parser: argparse.ArgumentParser) -> None:
    """Add -m/--model, and refuse llama.cpp's options that download one."""
    add(parser, "--model", required=True)
    refuse_downloads(parser)


def add_json(parser: argparse.ArgumentParser) -> None:
    """Add --json."""
    add(parser, "--json")


def _defaults(function: Callable[..., Any]) -> dict[str, Any]:
    return {name: parameter.default for name, parameter in inspect.signature(function).parameters.items()}


def add_engine(parser: argparse.ArgumentParser, n_ctx: int | None = None) -> None:
    """Add the options of how `Llama()` runs the model; those not given keep its own defaults, but for `n_ctx`."""
    from llama_cpp import Llama  # noqa: PLC0415 (only for the command that was asked for)

    default = _defaults(Llama)
    group = parser.add_argument_group("model (defaults of llama-cpp-python's Llama())")
    context = "tokens of context; 0 takes the length the model was trained for"
    if n_ctx is None:
        context += f" (default: {default['n_ctx']})"
    add(group, "--ctx-size", n_ctx, type=whole(0), help=context)
    add(group, "--threads")
    add(group, "--n-gpu-layers")
    add(group, "--batch-size", help=f"tokens per batch of the prompt (default: {default['n_batch']})")


def add_teacher(parser: argparse.ArgumentParser, n_ctx: int) -> argparse._ArgumentGroup:
    """Add the options of how whole texts are evaluated; gives their group, for more of its kind."""
    group = parser.add_argument_group("model")
    add(group, "--ctx-size", n_ctx, type=whole(2), help="cut texts at N tokens")
    add(group, "--batch-size", Engine().n_batch)
    add(group, "--threads", help="CPU threads (default: all)")
    add(group, "--n-gpu-layers")
    return group


def teacher_engine(args: argparse.Namespace, rpc: tuple[str, ...] = ()) -> Engine:
    """How llama.cpp shall evaluate whole texts."""
    return Engine(args.batch_size, args.threads or 0, args.n_gpu_layers or 0, rpc)


def add_reach(parser: argparse.ArgumentParser, default: Sampling, max_top_k: int) -> None:
    """Add the sampling that says which tokens are in reach."""
    group = parser.add_argument_group("sampling (decides what the model could choose; defaults of the paper)")
    add(group, "--temp", default.temperature, type=real(0.01), help="temperature")
    add(group, "--top-k", default.top_k, type=whole(1, max_top_k), help="keep the N most probable tokens")
    add(group, "--top-p", default.top_p, type=real(0.01, 1), help="of these, keep the likely up to this probability")


def gate_check(args: argparse.Namespace) -> ModelCheck:
    """How alike the model and the one that the gate was made for must be."""
    return "shape" if args.any_model else "weights"


def llama_arguments(args: argparse.Namespace) -> dict[str, Any]:
    """The arguments for `Llama()` that were given."""
    given = {
        "n_ctx": args.ctx_size,
        "n_threads": args.threads,
        "n_threads_batch": args.threads,
        "n_gpu_layers": args.n_gpu_layers,
        "n_batch": args.batch_size,
    }
    if vars(args).get("any_model"):
        given["gate_check"] = gate_check(args)
    return {name: value for name, value in given.items() if value is not None}


# the options of the sampling chain, and what llama-cpp-python calls them
SAMPLING = {"--temp": "temperature", "--top-k": "top_k", "--top-p": "top_p", "--min-p": "min_p"}


def add_sampling(parser: argparse.ArgumentParser, *, chat: bool = False) -> None:
    """Add the options of the sampling chain; those not given keep llama-cpp-python's own defaults."""
    from ..run.llama import GatedLlama  # noqa: PLC0415 (only for the command that was asked for)

    plain, of_chat = _defaults(GatedLlama.create_completion), _defaults(GatedLlama.create_chat_completion)
    group = parser.add_argument_group("sampling (defaults of llama-cpp-python)")
    for option, name in SAMPLING.items():
        default = f"{of_chat[name] if chat else plain[name]}"
        if not chat and of_chat[name] != plain[name]:
            default += f", with --chat {of_chat[name]}"
        add(group, option, help=f"{_VOCABULARY[option]['help']} (default: {default})")
    seed = "seed of the random choices; -1 picks one and reports it"
    add(group, "--seed", RANDOM_SEED, type=whole(RANDOM_SEED, _MAX_SEED), help=seed)


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
    add(group, "--lcg")
    add(group, "--any-model")
    group.add_argument("--no-lcg", action="store_true", help="generate without a gate, as stock llama.cpp does")
    add(group, "--lcg-device")
    add_mode(group)
    add_rules(group)
    add_pin(group)


def add_mode(group: argparse._ActionsContainer) -> None:
    """Add what the gate does with what it bans."""
    group.add_argument(
        "--lcg-mode",
        choices=("mask", "observe", "off"),
        default="mask",
        help="mask acts (the default); observe decides and counts but changes nothing; off does nothing",
    )
    strength = "lower the logits of banned tokens by X; the default, inf, removes them"
    group.add_argument("--lcg-strength", metavar="X", type=float, help=strength)


def add_pin(group: argparse._ActionsContainer) -> None:
    """Add the scripts whose letters may come out, and in which parts of a reply that and the gate are different."""
    for option in ("--allow-scripts", "--deny-scripts", "--while-thinking", "--leave-alone"):
        add(group, option)


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
        help="act before the first language token too, and allow banning the current script",
    )
    group.add_argument(
        "--no-lcg-confidence",
        action="store_true",
        help="act even where the model itself finds no predicted family plausible",
    )
    group.add_argument(
        "--lcg-confidence-temperature",
        metavar="T",
        type=real(0.0),
        help="judge what the model finds plausible at this temperature or above (default: 0.7; paper: 0)",
    )
    group.add_argument(
        "--lcg-first-token",
        action=argparse.BooleanOptionalAction,
        help="act on the reply's first language token too; the paper never does (default: on)",
    )


def named_gate_options(args: argparse.Namespace) -> dict[str, Any]:
    """The gate's options as they were given, by the names of `gate.named`."""
    fields = ("mode", "strength", "threshold", "confidence_temperature", "first_token")
    given = vars(args)  # not every command has all of them
    named = {
        **{field: given.get(f"lcg_{field}") for field in fields},
        "persistence": not args.no_lcg_persistence,
        "confidence": not args.no_lcg_confidence,
        "allow": given.get("allow_scripts"),
        "deny": given.get("deny_scripts"),
        "while_thinking": given.get("while_thinking"),
        "leave_alone": given.get("leave_alone"),
    }
    return {name: value for name, value in named.items() if value is not None}


def gate_options(args: argparse.Namespace, **changes: Any) -> GateOptions:
    """The same as `GateOptions`; `changes` are fields that the command line does not have."""
    from ..errors import GateError  # noqa: PLC0415 (only when a command runs)
    from ..gate.named import make_options  # noqa: PLC0415

    try:
        return make_options(named_gate_options(args), **changes)
    except GateError as error:  # its message begins with the field in backticks, which is the option without --lcg-
        raise UsageError(str(error).replace("`", "`--lcg-", 1)) from error
