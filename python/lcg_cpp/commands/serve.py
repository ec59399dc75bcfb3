"""`lcg-cpp serve`: llama-cpp-python's OpenAI server with a gate."""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..engine.model import quiet_log
from ..errors import GateError
from . import options
from .downloads import refuse_downloads
from .errors import UsageError
from .loading import chosen_gate, gate_path, interruptible, load_base, load_gate, not_a_model, quiet_engine
from .paths import named, require_file
from .progress import tell

if TYPE_CHECKING:
    from ..gate.gate import Gate
    from ..serve.settings import ServedModel, Settings

API_KEY = "LLAMA_API_KEY"  # llama-server's name for it
_N_CTX = 4096
_HOST, _PORT = "127.0.0.1", 8000  # llama_cpp.server's, but for this machine only


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add this command's arguments."""
    source = parser.add_mutually_exclusive_group(required=True)
    options.add(source, "--model")
    source.add_argument(
        "--config",
        metavar="FILE",
        type=options.path,
        help="serve the models of a file: the config file of llama_cpp.server, with `lcg` for each model",
    )
    refuse_downloads(parser)
    parser.add_argument("-a", "--alias", metavar="NAME", help="what requests call the model (default: its file's name)")
    parser.add_argument(
        "--host", metavar="ADDRESS", help=f"address to listen on; any but this machine's needs a key (default: {_HOST})"
    )
    parser.add_argument(
        "--port", metavar="N", type=options.whole(0, 65535), help=f"0 takes one that is free (default: {_PORT})"
    )
    parser.add_argument(
        "--api-key", metavar="KEY", help=f"the key that requests must bring (default: the environment's {API_KEY})"
    )
    parser.add_argument(
        "--logprobs",
        action="store_true",
        help="answer requests for logprobs too; keeps context x vocabulary x 4 bytes of logits",
    )
    options.add_gate(parser)
    options.add_engine(parser, _N_CTX)


def run(args: argparse.Namespace) -> int:
    """Run the command."""
    try:
        from ..serve import app, listen, settings  # noqa: PLC0415 (the extra `server` is needed for this command only)
    except ImportError as error:
        raise UsageError(
            f"`{error.name}` is not installed, expected the packages of the server: pip install 'lcg-cpp[server]'"
        ) from error
    chosen = _settings(args, settings)
    gates = _load_gates(chosen, args.model is not None)
    with listen.listen(chosen) as listening:
        first = chosen.models[0]
        try:
            with quiet_engine(), interruptible():
                application = app.make_app(chosen, gates)
        except (GateError, ValueError) as error:
            raise UsageError(not_a_model(first.model) or str(error)) from error
        if not first.verbose:
            quiet_log()
        for model in chosen.models:
            tell(f"{model.name}: {_describe(model, gates[model.name])}")
        scheme = "http" if chosen.ssl_certfile is None else "https"
        tell(f"listening at {scheme}://{listen.address(chosen, listening.getsockname()[1])}/v1 (Ctrl-C ends)")
        listen.run(application, chosen, listening)
    tell("stopped")
    return 0


def _settings(args: argparse.Namespace, settings: Any) -> Settings:
    """The settings of the command line; where there is a file of settings, those of the file, in place of its."""
    api_key = (os.environ.get(API_KEY) or None) if args.api_key is None else args.api_key
    given = {"host": args.host, "port": args.port, "api_key": api_key}
    given = {name: value for name, value in given.items() if value is not None}
    try:
        if args.config is not None:
            _refuse_model_options(args)
            require_file(args.config, "--config")
            return settings.read_settings(args.config, **given)
        require_file(args.model, "-m/--model")
        return settings.make_settings({**given, "models": [_model(args)]})
    except GateError as error:
        raise UsageError(named("--config" if args.config is not None else "", str(error))) from error


def _refuse_model_options(args: argparse.Namespace) -> None:
    """With --config, what a model is and how it runs stands in the file."""
    parser = argparse.ArgumentParser(allow_abbrev=False)
    add_arguments(parser)
    default = parser.parse_args(["--config", "x"])
    free = ("config", "host", "port", "api_key", "command", "run")
    for name, value in vars(args).items():
        if name not in free and value != getattr(default, name):
            option = f"--{name.replace('_', '-')}"
            raise UsageError(f"{option}: is given with --config, expected it in the file, for each model")


def _model(args: argparse.Namespace) -> dict[str, Any]:
    """The one model of the command line."""
    options.gate_options(args)  # says what is wrong with an option as of the command line
    lcg = {"gate": chosen_gate(args), "device": args.lcg_device, "any_model": args.any_model}
    named_options = options.named_gate_options(args)
    engine = options.llama_arguments(args)
    engine.pop("gate_check", None)
    return {
        "model": args.model,
        "model_alias": args.alias or Path(args.model).stem,
        "logits_all": args.logprobs,
        "lcg": {**{name: value for name, value in lcg.items() if value is not None}, **named_options},
        **engine,
    }


def _load_gates(settings: Settings, from_options: bool) -> dict[str, Gate | None]:
    """The gate of each model by its name; all are compared with their models now, not when the first request comes."""
    gates: dict[str, Gate | None] = {}
    for i, model in enumerate(settings.models):
        option, model_option = (
            ("--lcg", "-m/--model") if from_options else (f"models.{i}.lcg.gate", f"models.{i}.model")
        )
        require_file(model.model, model_option)
        path = gate_path(model.lcg.get("gate"), model.model, option)
        gates[model.name] = gate = None if path is None else load_gate(path, option, model.lcg.get("device", "cpu"))
        if gate is not None:
            try:
                gate.check_model(load_base(model.model, model_option), model.gate_check)
            except GateError as error:
                raise UsageError(f"{option}: {error}") from error
    return gates


def _describe(model: ServedModel, gate: Gate | None) -> str:
    """What is done to a model's replies."""
    lcg = {name: value for name, value in model.lcg.items() if name in ("allow", "deny") and value}
    parts = [f"gate {Path(gate.path).name} ({model.lcg.get('mode', 'mask')})" if gate is not None else "no gate"]
    parts += [f"{name} {','.join([value] if isinstance(value, str) else value)}" for name, value in lcg.items()]
    return ", ".join(parts)
