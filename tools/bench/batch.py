"""Measures how much faster replies are generated side by side than one after the other.

    python tools/bench/batch.py --model qwen2.5-0.5b-Q4_K_M.gguf [--lcg GATE.gguf] [--threads 2] [--parallel 16,24]

Stock `Llama` answers a few prompts one by one, then `generate_batch` answers more of them, in turn and in one process,
both with the paper's sampling. Tokens a second are those of replies, the prompts' evaluation included. `--cpu-time`
counts the process's CPU time instead of the clock's: on a busy machine, with one thread, it comes near to what an idle
one would take.
"""

from __future__ import annotations

import argparse
import os
import statistics
import time
from collections.abc import Callable
from typing import Any

from lcg_cpp.benchmarks import load_benchmark
from lcg_cpp.run.llama import GatedLlama
from lcg_cpp.run.prompt import chat_prompt, completion_prompt, has_template
from lcg_cpp.run.requests import Request

_LONG = 400  # characters
SAMPLING = {"temperature": 0.7, "top_k": 20, "top_p": 0.8, "min_p": 0.0}


def load_prompts(llm: GatedLlama) -> list[list[int]]:
    """Everyday questions as tokens."""
    texts = [prompt.prompt for prompt in load_benchmark("everyday").prompts if len(prompt.prompt) < _LONG]
    if has_template(llm):
        return [list(chat_prompt(llm, [{"role": "user", "content": text}]).tokens) for text in texts]
    return [list(completion_prompt(llm, text + "\n").tokens) for text in texts]


def one_by_one(llm: GatedLlama, prompts: list[list[int]], n_tokens: int) -> int:
    """Generates replies as a user of stock llama_cpp does; their tokens."""
    total = 0
    for seed, prompt in enumerate(prompts):
        llm.reset()
        llm.set_seed(seed)
        for n, token in enumerate(llm.generate(prompt, temp=0.7, top_k=20, top_p=0.8, min_p=0.0), 1):
            total += 1
            if n == n_tokens or llm.ends_reply(token):
                break
    return total


def side_by_side(llm: GatedLlama, prompts: list[list[int]], n_tokens: int, parallel: int) -> int:
    """Generates replies in a batch; their tokens."""
    requests = [Request(prompt, n_tokens, seed, **SAMPLING) for seed, prompt in enumerate(prompts)]
    return sum(len(reply.tokens) for _, reply in llm.generate_batch(requests, parallel=parallel))


def rate(generate: Callable[..., int], clock: Callable[[], float], *arguments: Any) -> float:
    """Tokens a second."""
    begin = clock()
    n_tokens = generate(*arguments)
    return n_tokens / (clock() - begin)


def main() -> None:
    """Reads the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True)
    parser.add_argument("--lcg")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--parallel", default="16", help="sequences; several with commas (default: %(default)s)")
    parser.add_argument("--tokens", type=int, default=128, help="of a reply at most (default: %(default)s)")
    parser.add_argument("--prompts", type=int, default=3, help="for each sequence (default: %(default)s)")
    parser.add_argument("--alone", type=int, default=4, help="prompts answered one by one (default: %(default)s)")
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--cpu-time", action="store_true")
    arguments = parser.parse_args()
    clock = time.process_time if arguments.cpu_time else time.perf_counter
    n_threads = arguments.threads
    llm = GatedLlama(arguments.model, n_ctx=1024, n_threads=n_threads, n_threads_batch=n_threads, verbose=False)
    gated = GatedLlama(
        arguments.model, gate=arguments.lcg, n_ctx=1024, n_threads=n_threads, n_threads_batch=n_threads, verbose=False
    )
    prompts = load_prompts(llm)
    for parallel in map(int, arguments.parallel.split(",")):
        pairs = []
        for run in range(arguments.runs):
            some = [prompts[(run * 97 + i) % len(prompts)] for i in range(parallel * arguments.prompts)]
            few = some[:: max(1, len(some) // arguments.alone)]
            alone = rate(one_by_one, clock, llm, few, arguments.tokens)
            batch = rate(side_by_side, clock, gated, some, arguments.tokens, parallel)
            pairs.append((alone, batch))
            print(f"  {alone:.1f} {batch:.1f} tokens/s, load {os.getloadavg()[0]:.1f}", flush=True)
        ratio = statistics.median(batch / alone for alone, batch in pairs)
        print(
            f"{parallel} sequences: {statistics.median(batch for _, batch in pairs):.1f} tokens/s, one by one"
            f" {statistics.median(alone for alone, _ in pairs):.1f}; {ratio:.2f} times (median of {arguments.runs})"
        )


if __name__ == "__main__":
    main()
