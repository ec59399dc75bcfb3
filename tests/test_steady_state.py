"""Sampling allocates nothing per token once it is warm: measured in C++, where every allocation can be counted."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent


def test_sampling_allocates_nothing_per_token(tmp_path: Path) -> None:
    compiler = os.environ.get("CXX") or shutil.which("c++") or shutil.which("g++") or shutil.which("clang++")
    if compiler is None:
        pytest.skip("no C++ compiler")
    program = tmp_path / "steady_state"
    sources = [ROOT / "tests/cpp/steady_state.cpp"]
    sources += [
        ROOT / "csrc" / name
        for name in (
            "gate.cpp",
            "gate_config.cpp",
            "gate_file.cpp",
            "gguf_reader.cpp",
            "labels.cpp",
            "phases.cpp",
            "pin.cpp",
            "policy.cpp",
            "rows.cpp",
            "sampler.cpp",
            "stage_pair.cpp",
            "step.cpp",
        )
    ]
    subprocess.run([compiler, "-std=c++17", "-O1", "-pthread", "-o", program, *sources], check=True)
    result = subprocess.run([program], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout
    assert result.stdout.count(" 0 allocations") == 16
