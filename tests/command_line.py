"""Commands in the tests' own process."""

from __future__ import annotations

import re

import pytest

from lcg_cpp.cli import main


def refusal(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """What a command says that must be refused in one line."""
    try:
        code = main(arguments)
    except SystemExit as stop:
        code = int(stop.code or 0)
    out, err = capsys.readouterr()
    assert (code, out) == (2, ""), err
    match = re.fullmatch(r"lcg-cpp: error: (.+)\n", err)
    assert match, err
    return match[1]
