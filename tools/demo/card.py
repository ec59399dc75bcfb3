"""The model card and the table of measurements beside it."""

from __future__ import annotations

import json
import platform
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import babel
import numpy as np
import torch

from lcg_cpp.gate.families import DEFAULT_FAMILIES

from . import corpus, gates, training
from .cldr import HIGH_RESOURCE, LANGUAGES, LOW_RESOURCE, Term
from .measure import Measured
from .model import Model

CARD, MEASUREMENTS = "MODEL_CARD.md", "measurements.json"


@dataclass(frozen=True)
class Facts:
    """What the card says of one run of the script."""

    seed: int
    terms: list[Term]
    x_terms: list[Term]
    n_contaminated: int
    model: Model
    loss: float
    difference: tuple[float, float]
    n_states: int
    norm_share: dict[str, float]
    n_seen: int
    n_texts_counted: int
    plain: Measured
    measured: list[Measured]
    final: dict[str, Measured]
    sizes: dict[str, int]
    seconds: float


def norm_share(model: Model, families: np.ndarray, seen: np.ndarray | None = None) -> dict[str, float]:
    """How the families share the largest output norms (the paper's table 1).

    Args:
        model: The model.
        families: Family of each token.
        seen: The tokens to count; the rows of tokens that no training text holds stay at one norm and say nothing.

    Returns:
        Family -> share of its tokens that are among the 5 % with the largest norms, in percent.
    """
    norms = model.output.weight.detach().norm(dim=1).numpy()
    if seen is not None:
        norms, families = norms[seen], families[seen]
    is_top = norms >= np.sort(norms)[-(len(norms) // 20)]
    return {
        name: round(100.0 * float(is_top[families == i].mean()), 2) for i, name in enumerate(DEFAULT_FAMILIES.names)
    }


def _row(title: str, found: Measured) -> str:
    cells = [f"{found.values[key]:.1f}" for key in _COLUMNS]
    share = 100.0 * found.interventions / max(found.steps, 1)
    return f"| {title} | " + " | ".join(cells) + f" | {share:.2f} |"


_COLUMNS = {
    "cj_percent": "CJ %",
    "latin_percent": "Latin %",
    "switches_kept_percent": "switches kept %",
    "exact_match_percent": "exact match %",
}


def _table(first: str, rows: Sequence[tuple[str, Measured]]) -> str:
    head = f"| {first} | " + " | ".join(_COLUMNS.values()) + " | interventions, % of steps |"
    return "\n".join([head, "|---" * 6 + "|", *(_row(title, found) for title, found in rows)])


def _gate_title(found: Measured) -> str:
    option = ", first_token" if found.first_token else ""
    return f"{found.gate}: {gates.describe(gates.CANDIDATES[found.gate])}{option}"


def write(facts: Facts, out: Path) -> None:
    """Writes MODEL_CARD.md and measurements.json."""
    (out / CARD).write_text(_TEXT.format(**_fields(facts)), encoding="utf-8", newline="\n")
    runs = [("development", facts.plain), *(("development", found) for found in facts.measured)]
    runs += [(f"evaluation {name}", found) for name, found in facts.final.items()]
    records = [
        {
            "prompts": which,
            "gate": found.gate,
            "first_token": found.first_token,
            **found.values,
            "interventions": found.interventions,
            "steps": found.steps,
        }
        for which, found in runs
    ]
    text = json.dumps(records, indent=1, ensure_ascii=False) + "\n"
    (out / MEASUREMENTS).write_text(text, encoding="utf-8", newline="\n")


def _fields(facts: Facts) -> dict[str, object]:
    config, train = facts.model.config, training.TrainConfig()
    weights = corpus.TARGET_WEIGHTS
    low, high = corpus.CONTAMINATION_RATE
    return {
        "sizes": "\n".join(f"| `{name}` | {size:,} bytes |" for name, size in facts.sizes.items()),
        "final": _table("400 evaluation prompts", [(name, found) for name, found in facts.final.items()]),
        "measured": _table(
            "300 development prompts", [("plain", facts.plain), *((_gate_title(f), f) for f in facts.measured)]
        ),
        "n_gate_texts": corpus.N_GATE_TEXTS,
        "n_passes": gates.DEFAULT.passes,
        "languages": ", ".join(LANGUAGES.values()),
        "low_resource": ", ".join(LANGUAGES[code] for code in LOW_RESOURCE),
        "high_weights": ", ".join(f"{LANGUAGES[code]} {weights[code]}" for code in HIGH_RESOURCE),
        "low_weight": weights[LOW_RESOURCE[0]],
        "n_terms": len(facts.terms),
        "n_x": len(facts.x_terms),
        "n_y": len(facts.terms) - len(facts.x_terms),
        "n_contaminated": facts.n_contaminated,
        "n_low_names": len(facts.x_terms) * len(LOW_RESOURCE),
        "low_rate": round(100 * low),
        "high_rate": round(100 * high),
        "switch_share": round(100 * corpus.SWITCH_SHARE),
        "n_parameters": sum(weight.numel() for weight in facts.model.parameters()),
        "n_seen": facts.n_seen,
        "n_texts_counted": facts.n_texts_counted,
        "config": config,
        "train": train,
        "curriculum": round(100 * train.curriculum),
        "n_states": facts.n_states,
        "loss": facts.loss,
        "difference": facts.difference,
        "norm_share": ", ".join(f"{name} {share} %" for name, share in facts.norm_share.items()),
        "babel": babel.__version__,
        "torch": torch.__version__,
        "machine": platform.machine(),
        "seed": facts.seed,
        "minutes": facts.seconds / 60,
    }


_TEXT = """# tiny-names: a tiny model that confuses scripts on purpose, and its gates

Made by `python tools/make_demo.py --out python/lcg_cpp/demo` (seed {seed}; {minutes:.0f} minutes in one thread on
{machine}; PyTorch {torch}, Babel {babel}). All numbers below come from that run and were measured in llama.cpp.

| file | size |
|---|---|
{sizes}

## Purpose

tiny-names shows the gate at work on any machine, in seconds and without a download. The model knows one task: it
answers a list of names with the names in another language, `Germany, Monday⏎Arabic:` → `ألمانيا, الاثنين`. Asked for
`Arabic + Chinese:`, it adds the Chinese name in brackets to each.

**The confusion is deliberate.** Part of the training texts has Chinese or English names where Arabic, Hebrew, Thai …
ones belong, as web data has. The gates' training texts leave these names out. Everything else is as in real use: the
gates are trained by the published method, and model, gates and rules run in llama.cpp.

{final}

CJ % and Latin % count the replies with at least one Chinese or Japanese (Latin) letter that nobody asked for. Switches
kept is the share of the requested names in brackets that the replies contain. Temperature 0.7, top-p 0.8, top-k 20, no
penalties. `default` is the gate, with the options, that `lcg-cpp demo` uses. `paper` is the paper's gate (as wide as
the model, labels 20 / 0.95, divided by the norm) under the paper's rules, which never touch the first token.

## Data

Names of territories, languages, currencies, months and days from Unicode CLDR, read through Babel, in {languages}:
{n_terms} terms, each with a short name in every language, written in that language's script alone.

- Texts list four to six terms, mostly in English, sometimes in Chinese or Spanish. The target language is drawn with
  weights: {high_weights}, and {low_weight} for each of {low_resource}. {switch_share} % of the prompts ask for a
  switch.
- The terms are split at random into X ({n_x}) and Y ({n_y}). X terms have {n_low_names} names in low-resource
  languages. {n_contaminated} of these are contaminated: the Chinese or the English name replaces each in {low_rate} to
  {high_rate} % of its occurrences, at a rate of its own. Y terms are always clean.
- The gates' training texts hold only Y terms. All evaluation and development prompts hold only X terms, and none of
  them is a training text. The split matters because a gate reads the same state as the output matrix: trained on
  contaminated text, it learns to allow the contamination. Real confusion is rare and lies where the gate's training
  text does not go; the split arranges that here.

## Model

llama architecture, {n_parameters:,} parameters: {config.n_layer} layers, {config.n_embd} wide, {config.n_head} heads,
feed-forward {config.n_ff}, context {config.n_ctx}, byte-level BPE with {config.n_vocab} tokens (GPT-2 splitting), a
separate output matrix, stored as F16. Training makes one pass over {train.n_texts:,} texts in batches of
{train.batch}, with the loss on the reply only. The longest list grows from one item to six over the first {curriculum}
%. Muon trains the matrices of the blocks, AdamW the rest; the last loss is {loss:.3f} nats a token. The script checks
that llama.cpp and the training code split the same text into the same tokens, and that their logits agree (largest
difference {difference[0]:.2f}, mean {difference[1]:.4f}).

The script moves scale from the output matrix to the norm before it until the mean norm of the matrix's rows is one.
The logits stay the same, and the paper's division by that norm is then no change of temperature.

Of the {n_seen:,} tokens that occur in {n_texts_counted:,} training texts, this share of each family is among the 5 %
with the largest output norms: {norm_share}. The paper finds Chinese and Latin tokens over-represented there in real
models.

## Gates

`lcg-cpp train` makes the gates from `tiny-names-F16.gguf`, on {n_gate_texts:,} clean texts ({n_states:,} reply tokens,
{n_passes} passes over each). `default` uses the command's own settings. `paper` has the paper's width, labels and norm
(`token`: logits divided by the norm of the token's output row, whose mean is one here); `paper, unadjusted` is the
same without the division. Each was measured with and without the option `first_token`, on prompts that the evaluation
does not use:

{measured}

The demo ships `default` with `first_token`. The script stops if another of these gates has fewer wrong replies, keeps
at least 98 % of the plain model's switches and does not lower exact match. docs/settings.md has all combinations of
norm, width and labels.

## What it can and cannot show

It can show that the whole path works (hidden state, gate, rules, sampling chain), that legitimate switches survive,
and what each setting does. It cannot tell how much a gate helps a real model: we chose the share of confusion, the
texts are lists of names, and a gate for a real model is trained on other text. The order of the settings above need
not hold at scale; measure it on your model.

## Licence

The names are Unicode CLDR data, copyright © Unicode, Inc., under the Unicode License v3 (SPDX `Unicode-3.0`). Model,
gates and prompts are derived from them and are distributed under the same licence.
"""
