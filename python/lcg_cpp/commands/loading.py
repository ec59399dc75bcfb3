"""Opening the files a command was given: every refusal names the option, and llama.cpp's own log stays quiet."""

from __future__ import annotations

import argparse
import contextlib
import io
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

from ..engine.model import quiet_log, read_base_model
from ..errors import GateError
from ..gate.find import AUTO, find_gate
from ..gate.gate import Gate, read_gate_file
from ..gate.options import Device, GateOptions
from ..run.llama import GatedLlama
from .errors import UsageError
from .paths import checkpoint_given_as_model, named, require_file
from .progress import tell

if TYPE_CHECKING:
    from ..benchmarks import Benchmark, Prompt
    from ..engine.base_model import BaseModel


def read_benchmark(name: str, check: Callable[[Sequence[Prompt]], object], limit: int | None = None) -> Benchmark:
    """Load the prompts of -d/--benchmark, and tell how many rows were left out.

    `check` refuses prompts that cannot be used.
    """
    from ..benchmarks import load_benchmark  # noqa: PLC0415 (most commands need none)

    try:
        benchmark = load_benchmark(name, limit=limit)
        check(benchmark.prompts)
    except GateError as error:
        raise UsageError(f"-d/--benchmark: {error}") from error
    if benchmark.n_bad:
        tell(f"{name}: left out {benchmark.n_bad:,} rows that cannot be used, the first: {benchmark.bad[0]}")
    return benchmark


@contextlib.contextmanager
def interruptible() -> Iterator[None]:
    """Let Ctrl-C end the process at once while a model is loaded.

    Python would notice it inside llama.cpp's log callback, whose exceptions go nowhere, or minutes later. There is
    nothing to save yet.
    """
    in_main_thread = threading.current_thread() is threading.main_thread()  # only there can it be changed
    if not in_main_thread or signal.getsignal(signal.SIGINT) is not signal.default_int_handler:
        yield
        return
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def load_base(path: str, option: str) -> BaseModel:
    """Read the facts of a base model."""
    require_file(path, option)
    try:
        with interruptible():
            return read_base_model(path)
    except GateError as error:
        raise UsageError(f"{option}: {not_a_model(path) or error}") from error


def gate_path(lcg: str | None, model: str, option: str = "--lcg") -> str | None:
    """The gate file that --lcg names, or the one that it finds for the model."""
    if lcg != AUTO:
        return lcg
    require_file(model, "-m/--model")
    try:
        return find_gate(model)
    except GateError as error:
        raise UsageError(named(option, str(error))) from error


def chosen_gate(args: argparse.Namespace) -> str | None:
    """The gate file to generate with; None where --no-lcg is given, or scripts are pinned instead."""
    if args.no_lcg:
        return None
    if args.lcg is None and args.allow_scripts is None and args.deny_scripts is None:
        raise UsageError(
            "--lcg is missing: give the gate file made for this model, or --no-lcg to run without a gate, or"
            " --allow-scripts or --deny-scripts to pin scripts"
        )
    return gate_path(args.lcg, args.model)


def load_gate(path: str, option: str, device: Device = "cpu") -> Gate:
    """Load a gate; `option` says how it was given, "" if not by an option."""
    require_file(path, option)
    try:
        return Gate.load(path, device)
    except GateError as error:
        raise UsageError(named(option, _model_given_as_gate(path) or str(error))) from error


@contextlib.contextmanager
def quiet_engine() -> Iterator[None]:
    """Let llama.cpp's log go nowhere: llama_cpp writes some of it to `sys.stderr` even when it is not verbose."""
    with contextlib.redirect_stderr(io.StringIO()):
        yield


def load_model(path: str, gate: Gate | None, options: GateOptions, llama_arguments: dict[str, Any]) -> GatedLlama:
    """Load a model with its gate; what does not fit is told as of -m/--model or --lcg."""
    require_file(path, "-m/--model")

    try:
        with quiet_engine(), interruptible():
            llm = GatedLlama(path, gate_options=options, verbose=False, **llama_arguments)
    except GateError as error:
        raise UsageError(f"-m/--model: {not_a_model(path) or error}") from error
    except ValueError as error:
        raise UsageError(f"-m/--model: {path}: {error}") from error
    try:
        llm.set_gate(gate)
    except GateError as error:
        llm.close()
        raise UsageError(f"--lcg: {error}") from error
    quiet_log()
    return llm


def not_a_model(path: str) -> str:
    """What a file is that llama.cpp cannot load, and what to do; empty if nothing is known of it."""
    try:
        architecture = read_gate_file(path).metadata["general.architecture"]
    except (GateError, OSError):
        return checkpoint_given_as_model(path)
    return f"{path}: is a gate (for {architecture}), expected a base model; a gate goes to --lcg"


def _model_given_as_gate(path: str) -> str | None:
    """What is wrong with a gate that cannot be read, if it is a base model."""
    try:
        architecture = read_base_model(path).architecture
    except (GateError, OSError):
        return None
    return f"{path}: is a base model ({architecture}), expected a gate; a base model goes to -m/--model"
