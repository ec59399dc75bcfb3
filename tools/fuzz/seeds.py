"""Writes small valid gate files, one of each kind, as seeds for fuzz_gate_file.

Usage: python tools/fuzz/seeds.py FOLDER
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "tests"))

import gguf_bytes as gb


def main() -> None:
    """Writes the files."""
    folder = Path(sys.argv[1])
    folder.mkdir(parents=True, exist_ok=True)
    seeds = {
        "two-layers": gb.minimal(),
        "f16": gb.linear(gb.TENSOR_F16, gb.halves(*[1.0] * 96)),
        "bf16": gb.linear(gb.TENSOR_BF16, gb.brain_floats(*[1.0] * 96)),
        "q8_0": gb.linear(gb.TENSOR_Q8_0, gb.q8_0_block(1.0, [127] * 32) * 3),
    }
    for kind, name in enumerate(gb.TYPE_NAMES):
        if kind != gb.ARRAY:
            sample = "日" if kind == gb.STRING else 1
            seeds[name] = gb.minimal().set("x", gb.scalar(kind, sample)).set("y", gb.array(kind, [sample, sample]))
    for name, file in seeds.items():
        (folder / f"{name}.gguf").write_bytes(file.bytes())


if __name__ == "__main__":
    main()
