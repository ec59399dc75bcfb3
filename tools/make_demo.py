"""Makes everything that `lcg-cpp demo` ships: model, gates, prompts and model card.

    python tools/make_demo.py --out python/lcg_cpp/demo

Needs lcg_cpp with the extras `train` and `data`, and the package tokenizers. The same versions of PyTorch and Babel on
the same kind of machine give the same files. --work names a folder for finished work: start again to continue a run
that was stopped. It also gets the inputs of tools/gate_settings.py: gate-texts, points and prompts-dev.jsonl.
"""

from __future__ import annotations

import argparse
import dataclasses
import itertools
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch

from demo import card, corpus, export, gates, measure, training
from demo.cldr import LANGUAGES, Term, load_terms
from demo.jsonl import write_rows
from demo.model import Model, ModelConfig
from demo.prompts import DemoPrompt
from demo.tokenizer import Bpe, train_or_load
from lcg_cpp.demo import GATES, MODEL, PROMPTS
from lcg_cpp.engine.model import read_base_model
from lcg_cpp.gate.families import token_families
from lcg_cpp.gate.options import PAPER_OPTIONS, GateOptions
from timed_log import elapsed, log

N_PROMPTS = 400
N_DEVELOPMENT_PROMPTS = 300
N_POINTS = 3000
N_TOKENIZER_TEXTS = 20_000
N_CHECKED_TEXTS = 2_000


def make_tokenizer(terms: list[Term], table: corpus.Contamination, seed: int, work: Path) -> Bpe:
    """Trains the tokenizer on texts like the model's, or reads what an earlier run left."""
    stream = corpus.Corpus(terms, f"{seed} tokenizer", table)
    examples = (stream.draw() for _ in range(N_TOKENIZER_TEXTS))
    texts = (example.prompt + example.reply for example in examples)
    return train_or_load(work / "tokenizer.json", texts, ModelConfig().n_vocab)


def training_examples(terms: list[Term], table: corpus.Contamination, seed: int) -> Iterator[corpus.Example]:
    """What the model is trained on, in order."""
    config = training.TrainConfig()
    return corpus.training_examples(corpus.Corpus(terms, f"{seed} training", table), config.n_texts, config.curriculum)


def make_model(
    terms: list[Term], table: corpus.Contamination, bpe: Bpe, seed: int, work: Path, device: str
) -> tuple[Model, float, float]:
    """Trains the base model, or reads what an earlier run left.

    Returns:
        The model in the form that ships; its training loss; the seconds an earlier run spent on it.
    """
    torch.manual_seed(seed)
    model = Model(ModelConfig(n_vocab=len(bpe.tokens)))
    config = training.TrainConfig(seed=seed, device=device)
    examples = training_examples(terms, table, seed)
    loss, earlier = training.train_or_load(model, examples, bpe, config, work / "model.pt", log)
    log(f"mean output norm {export.scale_norms(model):.2f}, scaled to 1")
    export.round_weights(model)
    return model.eval(), loss, earlier


def as_prompts(examples: Sequence[corpus.Example]) -> list[DemoPrompt]:
    """The examples as the package reads them; the seed of a prompt is its number."""
    return [
        DemoPrompt(example.prompt, example.reference, LANGUAGES[example.language], example.switch, example.items, seed)
        for seed, example in enumerate(examples)
    ]


def check_unseen(prompts: Sequence[DemoPrompt], terms: list[Term], table: corpus.Contamination, seed: int) -> None:
    """Makes sure that no prompt is one the model was trained on."""
    seen = {example.prompt for example in training_examples(terms, table, seed)}
    for prompt in prompts:
        if prompt.prompt in seen:
            raise RuntimeError(f"prompt {prompt.prompt!r} is a training text, expected an unseen one")


def seen_tokens(terms: list[Term], table: corpus.Contamination, bpe: Bpe, seed: int) -> np.ndarray:
    """Which tokens occur in the first texts that the model was trained on: bool (n_vocab,)."""
    seen = np.zeros(len(bpe.tokens), np.bool_)
    for example in itertools.islice(training_examples(terms, table, seed), N_TOKENIZER_TEXTS):
        seen[[*bpe.encode(example.prompt), *bpe.encode(example.reply), bpe.bos, bpe.eos]] = True
    return seen


def make_gates(model_path: Path, seed: int, work: Path, n_threads: int) -> tuple[dict[str, Path], int]:
    """Trains every gate from the model that ships.

    Returns:
        Name of each gate -> its file, and the number of hidden states each learned from.
    """
    texts = work / "gate-texts.jsonl"
    corpus.write_gate_texts(texts, seed)
    files, n_states = {}, 0
    for name, options in gates.CANDIDATES.items():
        files[name] = work / f"{name}.gguf"
        run = gates.train_gate(model_path, texts, dataclasses.replace(options, seed=seed), files[name], n_threads)
        n_states = run.positions
        log(f"gate {name}: held-out loss {run.measurements[-1].scores.loss:.4f}")
    return files, n_states


def measure_gates(
    model_path: Path, files: dict[str, Path], prompts: Sequence[DemoPrompt]
) -> tuple[measure.Measured, list[measure.Measured]]:
    """Runs the plain model, and every gate with and without `first_token`, on the same prompts."""
    plain = measure.measure(model_path, None, "", False, prompts)
    log(f"plain: {plain.values}")
    found = []
    for name, path in files.items():
        for first_token in (False, True):
            found.append(measure.measure(model_path, path, name, first_token, prompts))
            log(f"{name} first_token={first_token}: {found[-1].values}")
    return plain, found


def make_demo(out: Path, work: Path, seed: int, n_threads: int, device: str) -> None:
    """Makes everything.

    Args:
        out: Folder for what ships.
        work: Folder for what does not.
        seed: Seed of all of it.
        n_threads: CPU threads.
        device: What trains the base model.
    """
    terms = load_terms()
    x_terms, _ = corpus.split_terms(terms, seed)
    table = corpus.contamination(x_terms, seed)
    log(f"{len(terms)} terms, {len(x_terms)} of them X; {len(table)} contaminated names")
    bpe = make_tokenizer(terms, table, seed, work)
    model, loss, earlier = make_model(terms, table, bpe, seed, work, device)
    model_path = out / MODEL.name
    export.write_model(model, bpe, model_path, export.TINY_NAMES)
    stream = corpus.Corpus(terms, f"{seed} check", table)
    checked = [example.prompt + example.reply for example in (stream.draw() for _ in range(N_CHECKED_TEXTS))]
    difference = export.check_model(model, bpe, model_path, checked)
    log(f"llama.cpp agrees on the tokens of {N_CHECKED_TEXTS} texts; logits differ by at most {difference[0]:.3f}")

    seen = seen_tokens(terms, table, bpe, seed)
    files, n_states = make_gates(model_path, seed, work, n_threads)
    evaluation = as_prompts(corpus.evaluation_examples(x_terms, N_PROMPTS, f"{seed} evaluation"))
    development = as_prompts(corpus.evaluation_examples(x_terms, N_DEVELOPMENT_PROMPTS, f"{seed} development"))
    check_unseen([*evaluation, *development], terms, table, seed)
    write_rows(work / "prompts-dev.jsonl", map(vars, development))
    points = corpus.evaluation_examples(x_terms, N_POINTS, f"{seed} points")
    write_rows(work / "points.jsonl", ({"prompt": e.prompt, "response": f" {e.reference}"} for e in points))
    plain, found = measure_gates(model_path, files, development)
    chosen = measure.choose(plain, found)
    log(f"best: {chosen.gate}, first_token={chosen.first_token}")
    if (chosen.gate, chosen.first_token) != ("default", GateOptions().first_token):
        raise RuntimeError(f"the measurement prefers {chosen.gate}, first_token={chosen.first_token} to the defaults")
    final = ship(out, files, evaluation)
    facts = card.Facts(
        seed=seed,
        terms=terms,
        x_terms=x_terms,
        n_contaminated=len(table),
        model=model,
        loss=loss,
        difference=difference,
        n_states=n_states,
        norm_share=card.norm_share(model, token_families(read_base_model(model_path).vocab), seen),
        n_seen=int(seen.sum()),
        n_texts_counted=N_TOKENIZER_TEXTS,
        plain=plain,
        measured=found,
        final=final,
        sizes={path.name: path.stat().st_size for path in sorted(out.glob("*.gguf"))},
        seconds=elapsed() + earlier,
    )
    card.write(facts, out)
    log(f"done: {final}")


def ship(out: Path, files: dict[str, Path], evaluation: Sequence[DemoPrompt]) -> dict[str, measure.Measured]:
    """Writes the prompts and the two gates that ship, and runs them as the demo will."""
    write_rows(out / PROMPTS.name, map(vars, evaluation))
    final = {"plain": measure.measure(out / MODEL.name, None, "", False, evaluation)}
    for name, options in (("default", GateOptions()), ("paper", PAPER_OPTIONS)):
        path = out / GATES[name].name
        path.write_bytes(files[name].read_bytes())
        final[name] = measure.measure(out / MODEL.name, path, name, options.first_token, evaluation)
    return final


def main() -> None:
    """Reads the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder for what ships")
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
        make_demo(arguments.out, work, arguments.seed, arguments.threads, arguments.device)


if __name__ == "__main__":
    main()
