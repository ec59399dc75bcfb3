"""node-llama-cpp under `lcg-cpp wrap`: its replies are those of GatedLlama, and docs/node.md runs as written.

`LCG_NODE` names a folder whose node_modules holds node-llama-cpp with its prebuilt library; without it these tests are
left out.
"""

from __future__ import annotations

import json
import os
import re
from pathlib import Path

import pytest

from lcg_cpp import demo
from wrapping import GATE, N_PREDICT, N_PROMPTS, demo_prompts, replies, run, stats_in, tokens, wrapped

FOLDER = os.environ.get("LCG_NODE", "")
pytestmark = pytest.mark.skipif(not FOLDER, reason="LCG_NODE names no folder with node-llama-cpp")

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="module")
def prompts() -> list[str]:
    return demo_prompts()


@pytest.fixture(scope="module")
def gated(prompts: list[str]) -> tuple[list[str], dict[str, int]]:
    return replies(prompts)


def program(folder: Path, code: str) -> str:
    """A program of Node that finds the packages."""
    (folder / "node_modules").symlink_to(Path(FOLDER).resolve() / "node_modules")
    (folder / "program.mjs").write_text(code, encoding="utf-8")
    return str(folder / "program.mjs")


@pytest.mark.parametrize("mode", ["one", "rebuilt chains", "side by side", "drafts"])
def test_replies_and_interventions_are_those_of_gated_llama(
    prompts: list[str], gated: tuple[list[str], dict[str, int]], tmp_path: Path, mode: str
) -> None:
    stats = tmp_path / "stats.jsonl"
    script = program(tmp_path, (ROOT / "tests" / "node" / "replies.mjs").read_text("utf-8"))
    command = ("node", script, mode, str(demo.MODEL), str(N_PREDICT), *prompts)
    result = run(*wrapped(*command, options=("--stats", str(stats), "--strict")))
    assert tokens(result) == gated[0]
    assert result.stderr == ""
    found = stats_in(stats)
    assert found["without_hidden"] == 0
    if mode != "drafts":  # where rows behind a wrong draft are sampled too
        assert found["interventions"] == gated[1]["interventions"]
        assert found["steps"] == gated[1]["steps"] - N_PROMPTS  # the last token of a reply is not decoded


def test_the_program_of_the_page_runs_as_written(tmp_path: Path) -> None:
    (code,) = re.findall(r"^```js\n(.*?)^```$", (ROOT / "docs" / "node.md").read_text("utf-8"), re.M | re.S)
    written = '"Qwen3-4B-Q4_K_M.gguf"'
    assert written in code
    script = program(tmp_path, code.replace(written, json.dumps(str(demo.MODEL))))
    result = run(*wrapped("node", script, options=("--strict",)))
    assert result.returncode == 0, result.stderr
    assert result.stdout.strip()
    assert re.search(r"^lcg: tiny-names \(llama\): \d+ tokens, \d+ gate runs, \d+ interventions$", result.stderr, re.M)
    assert GATE not in result.stderr
