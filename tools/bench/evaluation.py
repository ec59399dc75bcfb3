"""Measures the time `lcg-cpp eval` adds to plain generation, and the size of its page.

    python tools/bench/evaluation.py --model random-0.6B-Q8_0.gguf --lcg GATE.gguf [--threads 2]
    python tools/bench/evaluation.py --page [--replies 5000]

`Llama.generate` alone and `eval` (with text, events and the line in replies.jsonl) answer the same prompts of random
tokens with the same seeds, in turn and in one process. `--page` makes the page of that many replies of the demo model,
half of them gated, and prints its size. tools/bench/make_random_model.py writes models.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np

from lcg_cpp.benchmarks import load_benchmark
from lcg_cpp.commands.demo import load_demo_model
from lcg_cpp.demo import GATES, MODEL
from lcg_cpp.evaluate.evaluate import EvalOptions, evaluate, parse_methods
from lcg_cpp.evaluate.folder import append_reply
from lcg_cpp.evaluate.methods import Method, builtin_methods
from lcg_cpp.evaluate.replies import Replier
from lcg_cpp.evaluate.summary import write_summary
from lcg_cpp.gate.gate import Gate
from lcg_cpp.gate.options import GateOptions
from lcg_cpp.pages.reply_page import reply_page
from lcg_cpp.run.llama import GatedLlama
from lcg_cpp.run.prompt import PromptTokens

SAMPLING = EvalOptions().sampling()


def plain(llm: GatedLlama, gate: Gate | None, prompt: PromptTokens, n_tokens: int, seed: int) -> float:
    """Generates a reply and does nothing with it; seconds a token."""
    llm.set_gate(gate)
    start = time.perf_counter()
    llm.reset()
    llm.set_seed(seed)
    for n, _ in enumerate(llm.generate(prompt.tokens, **SAMPLING), 1):
        if n == n_tokens:
            break
    return (time.perf_counter() - start) / n_tokens


def evaluated(replier: Replier, method: Method, prompt: PromptTokens, n_tokens: int, seed: int, file: Path) -> float:
    """Generates a reply as `eval` does; seconds a token."""
    start = time.perf_counter()
    reply = replier.reply(method, prompt, seed, n_tokens)
    with file.open("ab") as stream:
        append_reply(stream, replier.record(method, reply))
    return (time.perf_counter() - start) / max(len(reply.tokens), 1)


def overhead(arguments: argparse.Namespace) -> None:
    """Prints what eval adds, for the plain model and for the gated one."""
    gate = Gate.load(arguments.lcg)
    methods = {name: builtin_methods(str(arguments.lcg))[name] for name in ("none", "lcg")}
    llm = GatedLlama(
        str(arguments.model), n_ctx=1024, n_threads=arguments.threads, n_threads_batch=arguments.threads, verbose=False
    )
    replier = Replier(llm, list(methods.values()), {str(arguments.lcg): gate}, SAMPLING)
    rng = np.random.default_rng(0)
    with tempfile.TemporaryDirectory() as folder:
        replies = Path(folder) / "replies.jsonl"
        for name, method in methods.items():
            times = []
            for run in range(arguments.runs + 1):  # the first warms up
                prompt = PromptTokens(rng.integers(0, llm.n_vocab(), arguments.prompt).tolist())
                llm.gate_options = GateOptions()
                bare = gate if name == "lcg" else None
                if run % 2:
                    before = plain(llm, bare, prompt, arguments.tokens, run)
                    after = evaluated(replier, method, prompt, arguments.tokens, run, replies)
                else:
                    after = evaluated(replier, method, prompt, arguments.tokens, run, replies)
                    before = plain(llm, bare, prompt, arguments.tokens, run)
                times.append((before, after))
            ratio = statistics.median(after / before for before, after in times[1:])
            milliseconds = 1e3 * statistics.median(before for before, _ in times[1:])
            print(f"{name}: {milliseconds:.2f} ms a token alone; eval / alone {ratio:.4f} (median of {arguments.runs})")


def page_size(n_replies: int) -> None:
    """Prints the size of a page of the demo model's replies."""
    benchmark = load_benchmark("demo")
    n_seeds = -(-n_replies // (2 * len(benchmark.prompts)))
    methods = parse_methods("none,lcg", str(GATES["default"]))
    with tempfile.TemporaryDirectory() as folder:
        evaluation = evaluate(load_demo_model(), benchmark, methods, folder, EvalOptions(n_seeds=n_seeds))
        summary = write_summary(folder, evaluation, benchmark, model=MODEL.name, gate=GATES["default"].name)
        prompts = {prompt.id: prompt for prompt in benchmark.prompts}
        page = reply_page(evaluation.replies, summary, evaluation.families, title="page", prompts=prompts)
    print(f"{len(evaluation.replies):,} replies: {len(page.encode()) / 1e6:.1f} MB")


def main() -> None:
    """Reads the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path)
    parser.add_argument("--lcg", type=Path)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--prompt", type=int, default=32, help="tokens of a prompt (default: %(default)s)")
    parser.add_argument("--tokens", type=int, default=128, help="of a reply (default: %(default)s)")
    parser.add_argument("--runs", type=int, default=9)
    parser.add_argument("--page", action="store_true", help="the size of a page instead")
    parser.add_argument("--replies", type=int, default=5_000)
    arguments = parser.parse_args()
    if arguments.page:
        page_size(arguments.replies)
    elif arguments.model is None or arguments.lcg is None:
        parser.error("expected --model and --lcg, or --page")
    else:
        overhead(arguments)


if __name__ == "__main__":
    main()
