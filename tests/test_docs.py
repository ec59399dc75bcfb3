"""README.md and docs/: the Python runs, the commands parse, the options and links exist."""

from __future__ import annotations

import contextlib
import importlib.util
import io
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tools"))

import draw_architecture
from lcg_cpp.cli import COMMANDS, build_parser, main
from lcg_cpp.demo import GATES, MODEL
from lcg_cpp.serve.settings import read_settings
from serving import serving

ROOT = Path(__file__).resolve().parents[1]
SERVER_PAGE = ROOT / "docs" / "server.md"
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
LINKING = [*PAGES, ROOT / "CHANGELOG.md", *sorted((ROOT / "python").rglob("*.md"))]
FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
OPTION = re.compile(r"(?<![\w-])--?[a-z][a-z-]*")
DEMO = {
    "Qwen3-4B-Q4_K_M.gguf": str(MODEL),
    "lcg-Qwen3-4B-F16.gguf": str(GATES["default"]),
    "n_ctx=8192": "n_ctx=256",
}


def name_of(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


def blocks(page: Path, language: str) -> list[str]:
    """The code blocks of a page in one language."""
    return [code for found, code in FENCE.findall(page.read_text("utf-8")) if found == language]


def commands(page: Path) -> list[list[str]]:
    """The arguments of every lcg-cpp that a page's console blocks call."""
    lines = "\n".join(blocks(page, "console")).replace("\\\n", " ").splitlines()
    calls = [call.strip() for line in lines for call in line.split(" && ")]
    found = [re.fullmatch(r"(?:lcg-cpp|torchrun .*-m lcg_cpp) (.+)", call) for call in calls]
    return [shlex.split(match[1], comments=True) for match in found if match]


def anchors(page: Path) -> set[str]:
    """What GitHub calls a page's headings."""
    titles = re.findall(r"^#+ (.+)$", FENCE.sub("", page.read_text("utf-8")), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-") for title in titles}


@cache
def options() -> dict[str, set[str]]:
    """The options of each command; those of `data` are its kinds' together."""
    found: dict[str, set[str]] = {}
    for arguments in (*([name] for name in COMMANDS), ["data", "synth"], ["data", "recipe"]):
        printed = io.StringIO()
        with contextlib.redirect_stdout(printed), pytest.raises(SystemExit):
            main([*arguments, "--help"])
        found.setdefault(arguments[0], set()).update(OPTION.findall(printed.getvalue()))
    return found


def with_demo(code: str) -> str:
    """Code with the demo's files in place of those that it names."""
    for written, real in DEMO.items():
        code = code.replace(written, real)
    return code


@pytest.mark.parametrize("page", sorted({*PAGES} - {SERVER_PAGE}), ids=name_of)
def test_python_blocks_of_a_page_run_one_after_the_other(page):
    exec(compile(with_demo("\n".join(blocks(page, "python"))), name_of(page), "exec"), {})


def is_installed(code: str) -> bool:
    """Whether the packages that some code imports first are there."""
    names = re.findall(r"^(?:from|import) (\w+)", code, re.MULTILINE)
    return all(importlib.util.find_spec(name) is not None for name in names)


def test_the_blocks_of_the_servers_page_run_against_a_server():
    code = blocks(SERVER_PAGE, "python")
    assert [is_installed(block) for block in code if "openai import OpenAI" in block] == [True]
    with serving("-m", MODEL, "--lcg", GATES["default"], "-c", "256", "-t", "1") as server:
        there = ("http://127.0.0.1:8000/v1", server.url)
        runs = "\n".join(block for block in code if is_installed(block))
        # a program of its own, as on the page: these clients keep their connections until the process ends
        program = [sys.executable, "-c", runs.replace(*there)]
        done = subprocess.run(program, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        assert "'interventions': " in done.stdout
        if os.name != "nt" and shutil.which("curl"):
            (script,) = blocks(SERVER_PAGE, "sh")
            done = subprocess.run(["sh", "-c", script.replace(*there)], capture_output=True, check=True)
            assert json.loads(done.stdout)["usage"]["lcg"]["mode"] == "mask"


def test_the_servers_page_shows_a_config_file_that_can_be_read(tmp_path):
    (text,) = blocks(SERVER_PAGE, "json")
    path = tmp_path / "models.json"
    path.write_text(with_demo(text).replace("\\", "/"), "utf-8")
    found = read_settings(str(path))
    assert [model.name for model in found.models] == ["qwen", "arabic only", "plain"]
    assert Path(found.models[0].lcg["gate"]) == GATES["default"]


# Code blocks that other tests run: in test_c_interface.py, test_wrap.py, test_node.py, and above.
RUN_ELSEWHERE = {("c", "cpp"), ("llama-server", "sh"), ("node", "js"), ("server", "sh"), ("server", "json")}


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_every_code_block_is_of_a_kind_that_a_test_runs(page):
    for language, _ in FENCE.findall(page.read_text("utf-8")):
        assert language in {"", "text", "python", "console"} or (page.stem, language) in RUN_ELSEWHERE, language


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_commands_in_console_blocks_parse(page):
    for arguments in commands(page):
        build_parser(arguments[0]).parse_args(arguments)


def test_readme_shows_the_main_commands():
    shown = {arguments[0] for arguments in commands(ROOT / "README.md")}
    assert shown >= {"demo", "run", "train", "data", "eval", "detect", "analyze", "bench", "inspect", "families"}


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_options_in_running_text_exist(page):
    tools = "".join(path.read_text("utf-8") for path in sorted((ROOT / "tools").rglob("*.py")))
    known = set().union(*options().values())
    for span in re.findall(r"`([^`\n]+)`", FENCE.sub("", page.read_text("utf-8"))):
        if span.startswith("lcg-cpp "):
            command = span.split()[1]
            assert command in COMMANDS, span
            assert set(OPTION.findall(span)) <= options()[command], span
        elif span.startswith("-"):
            assert all(option in known or f'"{option}"' in tools for option in OPTION.findall(span)), span


@pytest.mark.parametrize("page", LINKING, ids=name_of)
def test_local_links_lead_somewhere(page):
    for target in re.findall(r"\]\(([^)\s]+)\)", FENCE.sub("", page.read_text("utf-8"))):
        if "://" in target:
            continue
        path, _, anchor = target.partition("#")
        linked = (page.parent / path).resolve() if path else page
        assert linked.exists(), target
        assert not anchor or anchor in anchors(linked), target


def test_the_picture_shows_every_room_and_is_what_its_script_draws():
    assert draw_architecture.draw() == draw_architecture.PICTURE.read_text("utf-8")
    shown = {name for rooms, *_ in draw_architecture.FLOORS for name in rooms.split(" · ")}
    files = [path for path in (ROOT / "python/lcg_cpp").iterdir() if path.name[0] != "_"]
    rooms = {path.stem for path in files if path.suffix == ".py" or (path / "__init__.py").exists()}
    assert shown - {"C++ core", "llama.cpp"} == rooms
