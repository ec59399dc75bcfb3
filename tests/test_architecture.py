"""The house stays as it is drawn: who imports whom, what is private, how large rooms and files are."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "python" / "lcg_cpp"
SOURCES = sorted(PACKAGE.rglob("*.py"))
MOST_ROOMS = 26
MOST_LINES = 350
# Private names of other projects that may be used; `engine` and `run` extend llama_cpp, which leaves no other way.
FOREIGN = {"_ActionsContainer", "_ArgumentGroup", "_extract_corpus_statistics"}  # argparse's types; sacrebleu's
EXTEND_LLAMA_CPP = {"engine", "run"}


def room_of(path: Path) -> str:
    """The room of a file: a folder or a module directly in the package."""
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def is_private(name: str) -> bool:
    return name.startswith("_") and not name.startswith("__") and name not in {"_", "_core"}


def private_definitions(tree: ast.AST) -> Iterator[str]:
    """Private names that a module defines: functions, classes, variables and attributes."""
    for node in ast.walk(tree):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
            yield node.name
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            yield node.id
        elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
            yield node.attr


def private_uses(tree: ast.AST, *, of_objects: bool) -> Iterator[tuple[int, str]]:
    """Line and name of everything private that a module imports from this package or, if asked, reads of an object."""
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and (node.level or of_objects):
            yield from ((node.lineno, alias.name) for alias in node.names if is_private(alias.name))
        elif of_objects and isinstance(node, ast.Attribute) and is_private(node.attr):
            yield node.lineno, node.attr


def strangers(rooms: dict[str, list[tuple[str, ast.AST]]]) -> list[str]:
    """Uses of private names that the room of the use does not define, as "FILE:LINE: name"."""
    found = []
    for room, files in rooms.items():
        own = {name for _, tree in files for name in private_definitions(tree)}
        for name, tree in files:
            uses = private_uses(tree, of_objects=room not in EXTEND_LLAMA_CPP)
            found += [f"{name}:{line}: {used}" for line, used in uses if used not in own | FOREIGN]
    return found


def test_imports_go_down_and_never_in_circles() -> None:
    pytest.importorskip("importlinter")  # which needs Python 3.11
    code = "from importlinter.cli import lint_imports; raise SystemExit(lint_imports('pyproject.toml', no_cache=True))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def test_what_is_private_is_used_in_its_own_room_only() -> None:
    rooms: dict[str, list[tuple[str, ast.AST]]] = {}
    for path in SOURCES:
        file = str(path.relative_to(PACKAGE))
        rooms.setdefault(room_of(path), []).append((file, ast.parse(path.read_text(encoding="utf-8"))))
    assert strangers(rooms) == []


def test_a_private_name_of_another_room_is_found() -> None:
    mine = ast.parse("from ..gate.rules import _band\nclass A:\n  def f(self, b):\n    self._x = b._y\n    return b._x")
    assert strangers({"a": [("a.py", mine)]}) == ["a.py:1: _band", "a.py:4: _y"]
    assert strangers({"run": [("run.py", mine)]}) == ["run.py:1: _band"]


def test_the_house_has_few_rooms() -> None:
    rooms = {room_of(path) for path in SOURCES} | {path.name for path in PACKAGE.iterdir() if path.is_dir()}
    assert len(rooms - {"__pycache__"}) <= MOST_ROOMS


@pytest.mark.parametrize("folder", ["python/lcg_cpp", "csrc", "tools"])
def test_no_file_is_long(folder: str) -> None:
    files = [path for path in (ROOT / folder).rglob("*") if path.suffix in {".py", ".pyi", ".cpp", ".h", ".js", ".css"}]
    assert files
    lengths = {str(path.relative_to(ROOT)): len(path.read_text(encoding="utf-8").splitlines()) for path in files}
    assert {name: lines for name, lines in lengths.items() if lines > MOST_LINES} == {}
