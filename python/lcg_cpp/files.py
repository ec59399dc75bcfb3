"""Files: what kind of file a path names, and writing one whole or not at all."""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, Union

PathLike = Union[str, "os.PathLike[str]"]

PYTORCH_SUFFIXES = (".safetensors", ".pt", ".pth", ".bin", ".ckpt")  # of files with weights for PyTorch


def kind_of(path: PathLike) -> str:
    """What stands at a path: "folder", "pipe", "device" or "socket"; "" for a regular file."""
    mode = os.stat(path).st_mode
    kinds = {stat.S_IFREG: "", stat.S_IFDIR: "folder", stat.S_IFIFO: "pipe", stat.S_IFSOCK: "socket"}
    return kinds.get(stat.S_IFMT(mode), "device")


def require_regular(path: PathLike) -> None:
    """Check that a path names a regular file: a pipe would wait for its writer, a device may never end."""
    kind = kind_of(path)
    if kind:
        raise OSError(errno.EINVAL, f"is a {kind}, expected a regular file", os.fspath(path))
    with open(path, "rb"):  # an unreadable file is an OSError here, not the riddle of who reads it
        pass


@contextlib.contextmanager
def replacing(path: str | os.PathLike[str]) -> Iterator[Path]:
    """A path beside a file, to be written to; what is there at the end takes the file's place.

    What the file held stays until the end, and if anything fails. An OSError names it, and nothing is left behind.
    """
    target = Path(path)
    kind = kind_of(target) if target.exists() else ""
    if kind not in ("", "folder"):  # /dev/null must stay what it is
        raise OSError(errno.EINVAL, f"is a {kind}, expected a regular file", str(target))
    temporary = target.with_name(f".lcg-{secrets.token_hex(8)}.tmp")
    try:
        yield temporary
        temporary.replace(target)
    except OSError as error:
        # NumPy reports a full disk without a number, and no message would name the file the caller asked for
        raise OSError(error.errno or errno.EIO, error.strerror or str(error), str(target)) from error
    finally:
        temporary.unlink(missing_ok=True)


def write_whole(path: str | os.PathLike[str], data: bytes) -> None:
    """Write a file whole or not at all; it is on the disk when this returns."""
    with replacing(path) as temporary, temporary.open("wb") as file:
        file.write(data)
        sync(file)


def sync(file: BinaryIO) -> None:
    """Bring what was written to the disk: a replaced file must not be empty after a power cut."""
    file.flush()
    os.fsync(file.fileno())
