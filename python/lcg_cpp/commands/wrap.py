"""`lcg-cpp wrap`: runs a program that knows nothing of the gate, with the gate in its llama.cpp.

The program is loaded together with a library (csrc/preload.cpp) that takes the place of some of llama.cpp's functions.
Here the settings become environment variables, and what cannot work is refused before the program begins.
"""

from __future__ import annotations

import argparse
import os
import platform
import shutil
import stat
import struct
import sys
from collections.abc import Sequence
from pathlib import Path

from ..engine.fingerprint import model_fingerprint
from ..errors import GateError
from ..gate.find import AUTO, find_gate
from ..gate.gate import read_gate_file
from . import options
from .errors import UsageError
from .paths import require_file

_IS_MACOS = sys.platform == "darwin"
_PRELOAD = "DYLD_INSERT_LIBRARIES" if _IS_MACOS else "LD_PRELOAD"
_LIBRARY = Path(__file__).resolve().parent.parent / "lib" / ("liblcg_preload" + (".dylib" if _IS_MACOS else ".so"))
_PROTECTED = ("/bin/", "/sbin/", "/usr/bin/", "/usr/sbin/", "/usr/libexec/", "/System/")  # by macOS
_MODEL_OPTIONS = ("-m", "--model")
_MODEL_VARIABLE = "LLAMA_ARG_MODEL"  # llama-server's
_PT_INTERP = 3  # ELF: which program loads the shared libraries

_EPILOG = """\
The program must use llama.cpp as a shared library. Every model that a gate fits is gated, every other one is not, which
a line on stderr says. Without the command, the same: LD_PRELOAD (macOS: DYLD_INSERT_LIBRARIES) is lib/liblcg_preload of
`lcg-cpp --prefix`, and LCG_GATE names gates, with colons between them; further variables are LCG_MODE, LCG_STRENGTH,
LCG_ALLOW, LCG_DENY, LCG_WHILE_THINKING, LCG_LEAVE_ALONE, LCG_DEVICE, LCG_STRICT=1 and LCG_STATS.

    lcg-cpp wrap --lcg auto -- llama-server -m MODEL.gguf --port 8080
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add this command's arguments."""
    parser.epilog = _EPILOG
    group = parser.add_argument_group("gate")
    several = "the gate, a GGUF file; auto, the default, finds that of the program's -m; several where it has several"
    options.add(group, "--lcg", action="append", help=several)
    options.add(group, "--any-model")
    options.add(group, "--lcg-device")
    options.add_mode(group)
    options.add_pin(group)
    parser.add_argument("--strict", action="store_true", help="end the program instead of going on without a gate")
    parser.add_argument(
        "--stats",
        metavar="FILE",
        type=options.path,
        default="-",
        help="append statistics to a file, as JSON, when the program ends and on SIGUSR1; - is stderr (the default)",
    )
    parser.add_argument("program", metavar="PROGRAM", nargs=argparse.REMAINDER, help="the program and its arguments")


def run(args: argparse.Namespace) -> int:
    """Become the program."""
    arguments = args.program[1:] if args.program[:1] == ["--"] else args.program
    if not arguments:
        raise UsageError("PROGRAM is missing: write it and its arguments behind --")
    if os.name == "nt":
        raise UsageError("wrap does not work on Windows, which has nothing like LD_PRELOAD; see `lcg-cpp serve --help`")
    if not _LIBRARY.exists():
        raise UsageError(f"{_LIBRARY}: is missing; install lcg-cpp again")
    program = _find_program(arguments[0])
    model = _model_of(arguments[1:])
    has_pin = args.allow_scripts is not None or args.deny_scripts is not None
    wanted = args.lcg or ([] if has_pin else [AUTO])
    gates = [_find_gate(lcg, model, any_model=args.any_model) for lcg in wanted]
    variables = {
        _PRELOAD: _preloaded(),
        "LCG_GATE": os.pathsep.join(gates),
        "LCG_MODE": args.lcg_mode,
        "LCG_STRENGTH": "" if args.lcg_strength is None else str(args.lcg_strength),
        "LCG_DEVICE": args.lcg_device,
        "LCG_ALLOW": ",".join(args.allow_scripts or ()),
        "LCG_DENY": ",".join(args.deny_scripts or ()),
        "LCG_WHILE_THINKING": args.while_thinking or "",
        "LCG_LEAVE_ALONE": ",".join(args.leave_alone or ()),
        "LCG_STRICT": "1" if args.strict else "",
        "LCG_STATS": args.stats if args.stats == "-" else os.path.abspath(args.stats),
        "LCG_WRAPPED": str(os.getpid()),
    }
    sys.stdout.flush()
    sys.stderr.flush()
    os.execve(program, arguments, {**os.environ, **variables})


def _preloaded() -> str:
    if any(separator in str(_LIBRARY) for separator in " :"):
        raise UsageError(f"{_LIBRARY}: {_PRELOAD} takes no path with a space or a colon; install lcg-cpp elsewhere")
    before = os.environ.get(_PRELOAD)
    return f"{_LIBRARY}:{before}" if before else str(_LIBRARY)


# ---- the gate ----


def _model_of(arguments: Sequence[str]) -> str | None:
    """The model that a program of llama.cpp's is given; None if that cannot be seen."""
    for argument, following in zip(arguments, [*arguments[1:], ""]):
        if argument in _MODEL_OPTIONS:
            return following
        if argument.startswith("--model="):
            return argument.partition("=")[2]
    return os.environ.get(_MODEL_VARIABLE)


def _find_gate(lcg: str, model: str | None, *, any_model: bool) -> str:
    """The path of a gate, which is valid, and fits the model if that is known."""
    if lcg == AUTO:
        if model is None:
            raise UsageError(
                f"--lcg {AUTO}: the program's arguments name no model (-m FILE), so its gate cannot be found; name the"
                " gate file"
            )
        require_file(model, "-m/--model")
        try:
            return os.path.abspath(find_gate(model))
        except GateError as error:
            raise UsageError(f"--lcg: {error}") from error
    require_file(lcg, "--lcg")
    path = os.path.abspath(lcg)
    if os.pathsep in path:
        raise UsageError(f"--lcg: {path}: a path with {os.pathsep!r} cannot be handed on; rename it")
    try:
        wanted = read_gate_file(path).metadata.get("adapter.lcg.fingerprint")
        if wanted and model is not None and os.path.exists(model) and not any_model:
            found = model_fingerprint(model)
            if found and found != wanted:
                raise UsageError(
                    f"--lcg: {path}: was made for other weights than those of {model}; pass the gate of this model, or"
                    " --any-model to try it all the same"
                )
    except GateError as error:
        raise UsageError(f"--lcg: {error}") from error
    return path


# ---- the program ----


def _find_program(name: str) -> str:
    """The file of a program, which a library can be loaded into."""
    path = shutil.which(name)
    if path is None:
        raise UsageError(f"{name}: no such program; is it in PATH, and executable?")
    _require_reachable(path, seen=())
    return path


def _require_reachable(path: str, *, seen: tuple[str, ...]) -> None:
    status = os.stat(path)
    is_foreign = (status.st_mode & stat.S_ISUID and status.st_uid != os.geteuid()) or (
        status.st_mode & stat.S_ISGID and status.st_gid != os.getegid()
    )
    if is_foreign or (_has_capabilities(path) and os.geteuid() != 0):
        raise UsageError(f"{path}: runs with rights of its own, so nothing can be loaded into it; run a copy of it")
    if _IS_MACOS and os.path.realpath(path).startswith(_PROTECTED):
        raise UsageError(f"{path}: macOS lets nothing be loaded into its own programs; run a copy or another build")
    with open(path, "rb") as file:
        start = file.read(4096)
    if start.startswith(b"#!") and len(seen) < 4:
        interpreter = os.fsdecode(start[2:].split(b"\n")[0].split()[0]) if start[2:].split() else ""
        if os.path.exists(interpreter):
            _require_reachable(interpreter, seen=(*seen, path))
    elif start.startswith(b"\x7fELF"):
        _require_dynamic(path, start)


def _has_capabilities(path: str) -> bool:
    try:
        return bool(os.getxattr(path, "security.capability")) if hasattr(os, "getxattr") else False
    except OSError:  # it has none, or the file system knows none
        return False


def _require_dynamic(path: str, start: bytes) -> None:
    """Refuse an ELF program that loads no shared libraries, or those of another processor."""
    is_64 = start[4] == 2
    order = "<" if start[5] == 1 else ">"
    if is_64 != (struct.calcsize("P") == 8):
        raise UsageError(f"{path}: is a program of another kind than this Python ({platform.machine()}); use its own")
    offset, size, count = (
        (*struct.unpack_from(order + "Q", start, 32), *struct.unpack_from(order + "HH", start, 54))
        if is_64
        else (*struct.unpack_from(order + "I", start, 28), *struct.unpack_from(order + "HH", start, 42))
    )
    with open(path, "rb") as file:
        file.seek(offset)
        headers = file.read(size * count)
    types = [struct.unpack_from(order + "I", headers, i)[0] for i in range(0, len(headers), size)] if size else []
    if _PT_INTERP not in types:
        raise UsageError(
            f"{path}: is linked statically, so nothing can be loaded into it; build llama.cpp with"
            " -DBUILD_SHARED_LIBS=ON"
        )
