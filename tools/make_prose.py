"""Makes the larger toy model, of prose in fifteen languages, on which settings of gates are compared.

    python tools/make_prose.py --out DIR

Needs lcg_cpp with the extras `train` and `data`, and the package tokenizers. Training takes an hour in one thread of a
processor that multiplies in bfloat16, most of a day in one that does not, and minutes with --device cuda. Writes to
DIR:

    prose-F16.gguf      the base model, which confuses scripts on purpose
    gate-train.jsonl    texts to train gates on: clean, of terms that are never contaminated
    points.jsonl        clean texts of the other terms, to read teacher forced
    prompts.jsonl       prompts to answer, in the demo's format
    prompts-dev.jsonl   more prompts, to choose settings by
    facts.json          sizes, loss, norms, and how the plain model answers some of prompts-dev

--work names a folder for finished work: start again to continue a run that was stopped.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from demo import export, training
from demo.card import norm_share
from demo.cldr import Term
from demo.jsonl import write_rows
from demo.measure import measure
from demo.model import Model, ModelConfig
from demo.prompts import DemoPrompt
from demo.tokenizer import Bpe, train_or_load
from lcg_cpp.benchmarks.prompt_rows import DEMO_MAX_TOKENS
from lcg_cpp.engine.model import read_base_model
from lcg_cpp.gate.families import token_families
from prose import corpus, evaluation
from prose.contamination import Contamination, contamination
from prose.names import LANGUAGES, load_terms
from timed_log import log

MODEL = ModelConfig(n_vocab=8192, n_embd=288, n_layer=6, n_head=9, n_ff=768, n_ctx=512)
TRAINING = training.TrainConfig(n_texts=80_000, batch=48, curriculum=0.8, bf16=True)
# Tokens of real models are seldom longer; without this limit whole clauses of our few sentences would become tokens.
MAX_TOKEN_BYTES = 16
N_TOKENIZER_TEXTS = 20_000
N_CHECKED_TEXTS = 2_000
N_GATE_TEXTS = 10_000
N_POINTS = 3_000
N_PROMPTS = 1_200
N_DEVELOPMENT_PROMPTS = 300
N_MEASURED = 100
# The demo's runner leaves a prompt and its reply so much room.
N_CTX_PROMPTS = 256
DESCRIPTION = export.Description(
    name="prose",
    text="Paragraphs in fifteen languages with CLDR names, deliberately contaminated; made by tools/make_prose.py",
    languages=tuple(LANGUAGES),
)


def training_examples(terms: Sequence[Term], table: Contamination, seed: int) -> Iterator[corpus.Example]:
    """What the model is trained on, in order."""
    stream = corpus.Corpus(terms, f"{seed} training", table)
    return corpus.training_examples(stream, TRAINING.n_texts, TRAINING.curriculum)


def make_model(
    terms: Sequence[Term], table: Contamination, seed: int, work: Path, device: str
) -> tuple[Model, Bpe, float, float]:
    """Trains tokenizer and model, or reads what an earlier run left.

    Returns:
        The model in the form that is written; its tokenizer; its training loss; the seconds of its training.
    """
    stream = corpus.Corpus(terms, f"{seed} tokenizer", table)
    examples = (stream.draw() for _ in range(N_TOKENIZER_TEXTS))
    texts = (example.prompt + example.reply for example in examples)
    bpe = train_or_load(work / "tokenizer.json", texts, MODEL.n_vocab, MAX_TOKEN_BYTES)
    torch.manual_seed(seed)
    model = Model(MODEL)
    start = time.monotonic()
    config = dataclasses.replace(TRAINING, seed=seed, device=device)
    loss, earlier = training.train_or_load(
        model, training_examples(terms, table, seed), bpe, config, work / "model.pt", log
    )
    seconds = earlier or time.monotonic() - start
    export.round_weights(model)
    return model.eval(), bpe, loss, seconds


@dataclass(frozen=True)
class Seen:
    """What the model was trained on.

    Attributes:
        prompts: Every prompt.
        n_tokens: Tokens of the texts.
        counts: How often each token of the vocabulary was to be predicted.
    """

    prompts: frozenset[str]
    n_tokens: int
    counts: npt.NDArray[np.int64]


def read_training(terms: Sequence[Term], table: Contamination, bpe: Bpe, seed: int) -> Seen:
    """Draws the training texts once more, and counts."""
    counts = np.zeros(len(bpe.tokens), np.int64)
    prompts = []
    n_tokens = 0
    for example in training_examples(terms, table, seed):
        reply = [*bpe.encode(example.reply), bpe.eos]
        n_tokens += 1 + len(bpe.encode(example.prompt)) + len(reply)
        np.add.at(counts, reply, 1)
        prompts.append(example.prompt)
    return Seen(frozenset(prompts), n_tokens, counts)


def draw_prompts(x_terms: Sequence[Term], bpe: Bpe, seen: Seen, name: str, n: int, seed: int) -> list[DemoPrompt]:
    """Draws prompts that are no training texts and that leave the demo's runner room for the reply."""

    def is_usable(example: corpus.Example) -> bool:
        n_reply = len(bpe.encode(example.reference)) + 1
        n_all = len(bpe.encode(example.prompt)) + 1 + n_reply
        return example.prompt not in seen.prompts and n_reply <= DEMO_MAX_TOKENS and n_all <= N_CTX_PROMPTS

    return evaluation.prompts(corpus.Corpus(x_terms, f"{seed} {name}"), n, is_usable)


def write_texts(x_terms: Sequence[Term], y_terms: Sequence[Term], seed: int, out: Path) -> None:
    """Writes what gates are trained on, and what they are measured on teacher forced."""
    stream = corpus.Corpus(y_terms, f"{seed} gate")
    examples = (stream.draw() for _ in range(N_GATE_TEXTS))
    rows = ({"prompt": example.prompt, "response": example.reply} for example in examples)
    write_rows(out / "gate-train.jsonl", rows)
    write_rows(out / "points.jsonl", evaluation.points(corpus.Corpus(x_terms, f"{seed} points"), N_POINTS))


def model_facts(model: Model, families: npt.NDArray[np.uint8], seen: Seen) -> dict[str, object]:
    """Sizes, and how the families share the 5 % largest output norms."""
    is_predicted = seen.counts > 0
    return {
        "parameters": sum(weight.numel() for weight in model.parameters()),
        "training_tokens": seen.n_tokens,
        "training_reply_tokens": int(seen.counts.sum()),
        "mean_output_norm": round(float(model.output.weight.detach().norm(dim=1).mean()), 3),
        "top_5_percent_norms": norm_share(model, families),
        "predicted_tokens": int(is_predicted.sum()),
        "top_5_percent_norms_of_predicted_tokens": norm_share(model, families, is_predicted),
    }


def make_prose(out: Path, work: Path, seed: int, device: str) -> None:
    """Makes everything.

    Args:
        out: Folder for the results.
        work: Folder for the rest.
        seed: Seed of all of it.
        device: What trains the base model.
    """
    terms = load_terms()
    x_terms, y_terms = corpus.split_terms(terms, seed)
    table = contamination(x_terms, corpus.INTRUDERS, f"{seed} contamination")
    log(f"{len(terms)} terms, {len(x_terms)} of them X; {len(table)} contaminated names")
    write_texts(x_terms, y_terms, seed, out)
    model, bpe, loss, seconds = make_model(terms, table, seed, work, device)
    seen = read_training(terms, table, bpe, seed)
    prompts = draw_prompts(x_terms, bpe, seen, "evaluation", N_PROMPTS, seed)
    development = draw_prompts(x_terms, bpe, seen, "development", N_DEVELOPMENT_PROMPTS, seed)
    write_rows(out / "prompts.jsonl", map(vars, prompts))
    write_rows(out / "prompts-dev.jsonl", map(vars, development))

    path = out / "prose-F16.gguf"
    export.write_model(model, bpe, path, DESCRIPTION)
    stream = corpus.Corpus(terms, f"{seed} check", table)
    checked = [example.prompt + example.reply for example in (stream.draw() for _ in range(N_CHECKED_TEXTS))]
    difference = export.check_model(model, bpe, path, checked)
    log(f"llama.cpp agrees on the tokens of {N_CHECKED_TEXTS} texts; logits differ by at most {difference[0]:.3f}")
    facts = {
        "terms": len(terms),
        "x_terms": len(x_terms),
        "contaminated_names": len(table),
        **model_facts(model, token_families(read_base_model(path).vocab), seen),
        "training_loss": round(loss, 4),
        "training_minutes": round(seconds / 60, 1),
        "largest_logit_difference": round(difference[0], 4),
        "mean_logit_difference": round(difference[1], 5),
        "measured_prompts": N_MEASURED,
        **measure(path, None, "plain", False, development[:N_MEASURED]).values,
    }
    (out / "facts.json").write_text(json.dumps(facts, indent=1) + "\n", encoding="utf-8", newline="\n")
    log(f"done: {facts}")


def main() -> None:
    """Reads the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder for the results")
    parser.add_argument("--work", type=Path, help="folder for intermediate files, kept (default: a temporary one)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1, help="other numbers give other rounding (default: 1)")
    parser.add_argument("--device", default="cpu", help="what trains the base model: cpu, cuda (default: %(default)s)")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    arguments.out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as temporary:
        work = arguments.work or Path(temporary)
        work.mkdir(parents=True, exist_ok=True)
        make_prose(arguments.out, work, arguments.seed, arguments.device)


if __name__ == "__main__":
    main()
