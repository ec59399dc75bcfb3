"""Finding the gate of a model: beside it, in folders of the user's, among those that are published with lcg-cpp.

Gates are known by what they were made for (`engine.fingerprint`), not by their names. Published gates lie in `gates/`
of the repository, which wheels bring along:

    gates/index.json                   a list of all of them, see `PublishedGate`
    gates/NAME/README.md               a model card
    gates/NAME/lcg-….gguf              the gate
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from ..engine.fingerprint import model_fingerprint
from ..engine.gguf_header import read_header
from ..errors import GateError
from ..files import PathLike, write_whole

AUTO = "auto"  # in place of a gate: find it
FOLDERS = "LCG_GATES"  # the environment variable that names folders of gates
INDEX = "index.json"
_VERSION = 1
_PATTERN = "lcg-*.gguf"


@dataclass(frozen=True)
class PublishedGate:
    """A gate in the index."""

    name: str  # of its folder
    file: str  # relative to the index
    sha256: str  # of the file
    base_model: str  # what it was made for, e.g. `Qwen/Qwen2.5-Coder-0.5B-Instruct`
    architecture: str
    fingerprint: str
    license: str


def published_folder() -> Path:
    """The folder of the published gates: in an installed wheel inside the package, else that of the source tree."""
    package = Path(__file__).resolve().parent.parent
    installed = package / "published"
    return installed if installed.is_dir() else package.parent.parent / "gates"


def read_index(folder: Path | None = None) -> list[PublishedGate]:
    """The gates in an index, by default that of the published ones; none if there is no index.

    Raises:
        GateError: It is no index that this lcg-cpp can read.
    """
    path = (published_folder() if folder is None else folder) / INDEX
    if not path.exists():
        return []
    try:
        index = json.loads(path.read_bytes())
        if index["version"] != _VERSION:
            raise GateError(f"{path}: `version` is {index['version']!r}, expected {_VERSION}; update lcg-cpp")
        return [PublishedGate(**gate) for gate in index["gates"]]
    except (ValueError, TypeError, KeyError) as error:
        raise GateError(f"{path}: is no index of gates ({error})") from error


def write_index(folder: Path, gates: list[PublishedGate]) -> None:
    """Write the index of a folder, whole or not at all."""
    listed = [asdict(gate) for gate in sorted(gates, key=lambda gate: gate.name)]
    text = json.dumps({"version": _VERSION, "gates": listed}, ensure_ascii=False, indent=1)
    write_whole(folder / INDEX, text.encode() + b"\n")


def find_gate(model: PathLike) -> str:
    """Find the gate that was made for the weights of a model, in any quantization.

    It looks for `lcg-*.gguf` in the model's folder, then in the folders that the environment variable `LCG_GATES` names
    and in theirs, then in the index of the published gates.

    Args:
        model: The model, a GGUF file; of a split one, the first.

    Returns:
        The path of the gate; the last by name where several are in one place.

    Raises:
        GateError: There is none.
        OSError: The model cannot be read.
    """
    wanted = model_fingerprint(model)
    if not wanted:
        raise GateError(f"{os.fspath(model)}: has no norms to know it by; name the gate file instead of `{AUTO}`")
    for place in _places(Path(model)):
        found = [path for path in place if _fingerprint(path) == wanted]
        if found:
            return str(max(found))
    raise GateError(
        f"{os.fspath(model)}: no gate for it was found, neither beside it, nor in the folders of {FOLDERS}, nor among"
        " the published ones (`lcg-cpp gates list`); train one with `lcg-cpp train`"
    )


def _places(model: Path) -> Iterator[list[Path]]:
    yield list(model.parent.glob(_PATTERN))
    for folder in filter(None, os.environ.get(FOLDERS, "").split(os.pathsep)):
        yield [*Path(folder).glob(_PATTERN), *Path(folder).glob(f"*/{_PATTERN}")]
    yield [published_folder() / gate.file for gate in read_index()]


def _fingerprint(path: Path) -> object:
    """The fingerprint in a gate file; None in what is none."""
    try:
        return read_header(path).values.get("adapter.lcg.fingerprint")
    except (GateError, OSError):
        return None
