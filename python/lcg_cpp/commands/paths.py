"""Files that a command was given: whether they can be read or written, and what to do where they cannot."""

from __future__ import annotations

import os
import stat
import sys
from collections.abc import Iterable
from pathlib import Path

from ..files import PYTORCH_SUFFIXES, kind_of
from .errors import UsageError

_BYTE_ORDER_MARK = "\ufeff"
_CONVERT = "llama.cpp's `convert_hf_to_gguf.py"


def named(option: str, message: str) -> str:
    """A message about what an option was given; `option` is empty where it was none."""
    return f"{option}: {message}" if option else message


def require_file(path: str, option: str) -> None:
    """Refuse a file that cannot be read: missing, a folder, a pipe, a device or an address of the web."""
    problem = _problem(path)
    if problem:
        raise UsageError(named(option, f"{path}: {problem}"))


def _problem(path: str) -> str:
    """What is wrong with a file, and what to do; empty if nothing is."""
    if path.startswith(("http://", "https://")):
        return f"is an address of the web, expected a file: download it first, with `curl -LO {path}`"
    try:
        kind = kind_of(path)
        if not kind:
            with open(path, "rb"):
                return ""
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        return f"{reason}, expected a file that can be read{_hint(path)}"
    if kind == "folder":
        return f"is a folder, expected a file{_in_folder(Path(path))}"
    return f"is a {kind}, expected a regular file"


def _hint(path: str) -> str:
    """Why a file may be missing."""
    if path.startswith("~"):
        return "; the shell expands `~` only at the beginning of a word: write $HOME"
    owner, _, name = path.partition("/")
    if owner and name and "/" not in name and not Path(owner).exists() and Path(name).suffix != ".gguf":
        command = f"hf download {path} --include '*.gguf' --local-dir ."
        return f"; a model of Hugging Face's hub has to be downloaded first: `{command}`"
    return ""


def _in_folder(folder: Path) -> str:
    """Which file of a folder was meant."""
    models = sorted(folder.glob("*.gguf"))
    if models:
        return f", such as {models[0]}"
    if (folder / "config.json").exists():
        return f" in GGUF: a Hugging Face checkpoint becomes one with {_CONVERT} {folder}`"
    return ""


def checkpoint_given_as_model(path: str) -> str:
    """What to do with a model that llama.cpp cannot load, if it holds weights for PyTorch; else empty."""
    if Path(path).suffix.lower() not in PYTORCH_SUFFIXES:
        return ""
    folder = Path(path).parent
    return f"{path}: holds weights for PyTorch, expected a GGUF file: make one with {_CONVERT} {folder}`"


def check_output(path: str, option: str, sources: Iterable[str], what: str) -> None:
    """Find out before long work whether a file can be written, and that it is none of the sources, in words `what`.

    Names of sources that are not files are ignored.
    """
    output = Path(path)
    kind = kind_of(path) if output.exists() else ""
    if kind:
        raise UsageError(f"{option}: {output}: is a {kind}, expected a file to write")
    if not output.parent.is_dir():
        raise UsageError(f"{option}: {output}: there is no folder {output.parent}, expected a file to write")
    if output.exists() and any(Path(source).exists() and output.samefile(source) for source in sources):
        raise UsageError(f"{option}: {output}: is {what}, expected another file")


def read_prompt(path: str, option: str) -> str:
    """Read a text once: from a file, a pipe, or standard input (`-`).

    A byte order mark and a line break at the end are left out.
    """
    if path != "-" and not _is_pipe(path):
        require_file(path, option)
    try:
        data = sys.stdin.buffer.read() if path == "-" else Path(path).read_bytes()
        text = data.decode().removeprefix(_BYTE_ORDER_MARK).removesuffix("\n").removesuffix("\r")
    except UnicodeError as error:
        utf16 = " but UTF-16: save it as UTF-8" if data[:2] in (b"\xff\xfe", b"\xfe\xff") else f": {error}"
        raise UsageError(f"{option}: is not UTF-8{utf16}") from error
    if not text:
        raise UsageError(f"{option}: the prompt is empty, expected some text")
    return text


def _is_pipe(path: str) -> bool:
    return os.path.exists(path) and stat.S_ISFIFO(os.stat(path).st_mode)


def file_size(path: str | os.PathLike[str]) -> int:
    """Size of a file in bytes."""
    return os.stat(path).st_size
