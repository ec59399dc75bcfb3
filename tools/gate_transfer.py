"""Measures whether a gate fits another quantization of its model: trains a gate on each and applies both to both.

    python tools/gate_transfer.py --model MODEL-F16.gguf --type q4_0 --train TRAIN.jsonl --points POINTS.jsonl --out DIR

Needs the extra `train`. A decision is whether the gate acts at a position and what it bans. Flips count against the
gate trained on the file that runs.
"""

from __future__ import annotations

import argparse
import itertools
import json
from pathlib import Path

from llama_cpp import llama_cpp as engine

from gate_settings import evaluate, find_points, score
from lcg_cpp import Gate
from lcg_cpp.engine.load import Engine
from lcg_cpp.engine.model import read_base_model
from lcg_cpp.gate.decisions import DecodingRules, Rulings
from lcg_cpp.gate.spec import spec_for
from lcg_cpp.train.options import TrainOptions
from lcg_cpp.train.train import train
from timed_log import log


def quantize(model: Path, kind: str, out: Path) -> None:
    """Writes a copy of a model whose matrices are of another type."""
    params = engine.llama_model_quantize_default_params()
    params.ftype = getattr(engine, f"LLAMA_FTYPE_MOSTLY_{kind.upper()}")
    code = engine.llama_model_quantize(str(model).encode(), str(out).encode(), params)
    if code != 0:
        raise RuntimeError(f"{model}: llama.cpp cannot quantize it to {kind} ({code})")


def flips(found: Rulings, wanted: Rulings) -> float:
    """Share of the positions with another decision."""
    active, expected = (d.banned & d.intervene[:, None] for d in (found, wanted))
    return float((active != expected).any(1).mean())


def main() -> None:
    """Reads the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--type", default="q4_0", help="of the copy (default: %(default)s)")
    parser.add_argument("--train", type=Path, required=True)
    parser.add_argument("--points", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    copy = arguments.out / f"{arguments.model.stem}-{arguments.type}.gguf"
    quantize(arguments.model, arguments.type, copy)
    models = {"original": arguments.model, arguments.type: copy}
    gates = {}
    for name, model in models.items():
        path = arguments.out / f"lcg-{name}.gguf"
        train(
            model,
            [str(arguments.train)],
            path,
            TrainOptions(positions="reply"),
            engine=Engine(n_threads=arguments.threads),
            outtype="f32",
        )
        gates[name] = Gate.load(path)
        log(f"trained {path}")
    rules = DecodingRules.of(spec_for(read_base_model(arguments.model), n_hidden=0))
    results = {}
    for name, model in models.items():
        rows = evaluate(model, arguments.points, 1 << 40, False, arguments.threads)
        points = find_points(rows, rules.families)
        z = {gate: gates[gate].predict(rows.hidden) for gate in gates}
        decisions = {gate: rules.judge(rows.steps, z[gate], rows.last) for gate in gates}
        for gate in gates:
            results[f"model {name}, gate of {gate}"] = {
                "flips": flips(decisions[gate], decisions[name]),
                "acts": float(decisions[gate].intervene.mean()),
                **score(rows, points, rules, z[gate]),
            }
    (arguments.out / "transfer.json").write_text(json.dumps(results, indent=1))
    print("| model | gate trained on | decisions flipped % | acts % | repaired % | wrongly banned % |")
    print("|---|---|---|---|---|---|")
    for model, gate in itertools.product(models, gates):
        values = results[f"model {model}, gate of {gate}"]
        cells = [f"{100 * values['flips']:.3f}"]
        cells += [f"{100 * values[key]:.2f}" for key in ("acts", "repaired", "wrongly_banned")]
        print(f"| {model} | {gate} | " + " | ".join(cells) + " |")


if __name__ == "__main__":
    main()
