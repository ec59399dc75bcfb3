"""Programs under `lcg-cpp wrap`, and what GatedLlama gives in their place."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from lcg_cpp import GatedLlama, GateOptions, demo

GATE = str(demo.GATES["default"])
N_PREDICT = 24
N_PROMPTS = 12


def demo_prompts() -> list[str]:
    """Prompts of the demo as tokens, "5,6,7"."""
    llm = GatedLlama(str(demo.MODEL), n_ctx=256, verbose=False)
    lines = demo.PROMPTS.read_text(encoding="utf-8").splitlines()[:N_PROMPTS]
    texts = [json.loads(line)["prompt"].encode() for line in lines]
    return [",".join(map(str, llm.tokenize(text, special=True))) for text in texts]


def replies(
    prompts: list[str], gate: str | None = GATE, options: GateOptions | None = None, model: Path = demo.MODEL
) -> tuple[list[str], dict[str, int]]:
    """What GatedLlama generates, and its statistics."""
    llm = GatedLlama(str(model), gate=gate, gate_options=options, n_ctx=256, verbose=False)
    lines = []
    for prompt in prompts:
        llm.reset()
        tokens = [int(token) for token in prompt.split(",")]
        lines.append(" ".join(str(t) for _, t in zip(range(N_PREDICT), llm.generate(tokens, temp=0.0))))
    stats = llm.gate_stats
    return lines, {"steps": stats.steps, "interventions": stats.interventions, "without_hidden": stats.without_hidden}


def wrapped(*arguments: str, gates: tuple[str, ...] = (GATE,), options: tuple[str, ...] = ()) -> list[str]:
    given = [argument for gate in gates for argument in ("--lcg", gate)]
    return [sys.executable, "-m", "lcg_cpp", "wrap", *given, *options, "--", *arguments]


def run(*command: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, capture_output=True, text=True)


def tokens(result: subprocess.CompletedProcess[str]) -> list[str]:
    assert result.returncode == 0, result.stderr
    return [line.strip() for line in result.stdout.splitlines()]


def stats_in(path: Path, gate: str = GATE) -> dict[str, int]:
    """The newest statistics, as far as GatedLlama's are compared."""
    newest = json.loads(path.read_text("utf-8").splitlines()[-1])
    assert newest["gate"] == gate
    return {name: newest[name] for name in ("steps", "interventions", "without_hidden")}
