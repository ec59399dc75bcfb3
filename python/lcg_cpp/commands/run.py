"""`lcg-cpp run`: one reply, streamed, with the gate's interventions marked if wanted."""

from __future__ import annotations

import argparse
import sys
from typing import Any

from ..engine.base_model import Vocab
from ..gate.results import GateEvent
from ..run.llama import GatedLlama
from ..run.prompt import PromptTokens, chat_prompt, completion_prompt, template_notice
from ..run.reply import Reply, follow
from . import options
from .errors import EXIT_INTERRUPTED, UsageError
from .loading import chosen_gate, load_gate, load_model
from .output import print_json
from .paths import check_output, read_prompt, require_file
from .reply_printer import ReplyPrinter
from .trace import write_trace

_N_PREDICT = 256


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add this command's arguments."""
    options.add_model(parser)
    prompt = parser.add_mutually_exclusive_group()
    prompt.add_argument("-p", "--prompt", metavar="TEXT", help="the prompt")
    prompt.add_argument(
        "-f", "--file", metavar="FILE", type=options.path, help="read the prompt from a file, - is standard input"
    )
    most = "tokens to generate at most; -1 until the context is full"
    options.add(parser, "--n-predict", _N_PREDICT, type=options.whole(-1), help=most)
    parser.add_argument("--chat", action="store_true", help="put the prompt into the model's chat template")
    parser.add_argument(
        "-sys", "--system", "--system-prompt", metavar="TEXT", help="what the system says first (with --chat)"
    )
    parser.add_argument(
        "--highlight", action="store_true", help="mark the tokens that the gate changed, and what it removed"
    )
    parser.add_argument(
        "--trace",
        metavar="PAGE.html",
        type=options.path,
        help="write the reply as a page that shows each intervention and its reason",
    )
    options.add_json(parser)
    options.add_gate(parser)
    options.add_sampling(parser)
    options.add_engine(parser)


def run(args: argparse.Namespace) -> int:
    """Run the command."""
    args.lcg = chosen_gate(args)
    if args.system is not None and not args.chat:
        raise UsageError("--system needs --chat: without a chat template there is no system message")
    if args.n_predict == 0:
        raise UsageError("-n/--n-predict: is 0, expected a number of tokens from 1, or -1")
    require_file(args.model, "-m/--model")
    if args.trace is not None:
        sources = [source for source in (args.model, args.lcg, args.file) if source is not None]
        check_output(args.trace, "--trace", sources, "the model, the gate or the prompt")
    prompt = _read_prompt(args)
    gate = None if args.lcg is None else load_gate(args.lcg, "--lcg", args.lcg_device)
    gate_options = options.gate_options(args, n_events=1)  # each is collected as it happens
    llm = load_model(args.model, gate, gate_options, options.llama_arguments(args))
    if args.chat and (notice := template_notice(llm)):
        print(notice, file=sys.stderr)
    sampling = options.sampling_arguments(args)
    reply = Reply(_prompt_tokens(args, llm, prompt), llm.vocab)
    _generate(args, llm, reply, sampling)
    summary = _summary(args, llm, reply, sampling["seed"])
    if args.json:
        print_json(summary)
    else:
        sys.stdout.flush()
        print(_summary_line(args, summary), file=sys.stderr)
    if args.trace is not None:
        write_trace(args, llm, reply, prompt, sampling["seed"])
        print(f"wrote {args.trace}", file=sys.stderr)
    return EXIT_INTERRUPTED if reply.finish == "interrupted" else 0


def _read_prompt(args: argparse.Namespace) -> str:
    if args.prompt is None and args.file is None:
        raise UsageError("no prompt: give -p TEXT, or -f FILE (- is standard input)")
    if args.file is not None:
        return read_prompt(args.file, "-f/--file")
    prompt = str(args.prompt)
    try:
        prompt.encode()
    except UnicodeError as error:
        raise UsageError(f"-p/--prompt: is not UTF-8: {error}") from error
    if not prompt:
        raise UsageError("-p/--prompt: the prompt is empty, expected some text")
    return prompt


def _prompt_tokens(args: argparse.Namespace, llm: GatedLlama, prompt: str) -> PromptTokens:
    if not args.chat:
        return completion_prompt(llm, prompt)
    messages = [{"role": "user", "content": prompt}]
    if args.system is not None:
        messages.insert(0, {"role": "system", "content": args.system})
    return chat_prompt(llm, messages)


def _generate(args: argparse.Namespace, llm: GatedLlama, reply: Reply, sampling: dict[str, Any]) -> None:
    """Generate the reply, printing it meanwhile; Ctrl-C ends it."""
    printer = None if args.json else ReplyPrinter(llm.vocab, highlight=args.highlight)
    max_tokens = args.n_predict if args.n_predict > 0 else None
    try:
        for step in follow(llm, reply, max_tokens=max_tokens, **sampling):
            if printer is not None:
                printer.step(step)
    except KeyboardInterrupt:
        reply.finish = "interrupted"
    if printer is not None:
        last = reply.events[-1] if reply.events else None
        printer.end(last if last is not None and last.position == len(reply.tokens) else None)


# ---- what is reported at the end ----


def _summary(args: argparse.Namespace, llm: GatedLlama, reply: Reply, seed: int) -> dict[str, Any]:
    """What the reply came to, as --json prints it."""
    n, stats = len(reply.tokens), llm.gate_stats
    return {
        "reply": reply.data.decode("utf-8", "ignore"),
        "finish_reason": reply.finish,
        "model": args.model,
        "gate": None if llm.gate is None else llm.gate.path,
        "gate_match": None if llm.gate is None else llm.gate.match(llm.base_model),
        "mode": None if llm.gate is None else args.lcg_mode,
        "seed": seed,
        "stats": {
            "prompt_tokens": len(reply.prompt.tokens),
            "prompt_seconds": reply.prompt_seconds,
            "tokens": n,
            "tokens_per_second": (n - 1) / reply.seconds if n > 1 else None,
            "steps": stats.steps,
            "gate_runs": stats.gate_runs,
            "interventions": stats.interventions,
            "observed": stats.observed,
            "not_confident": stats.not_confident,
            "removed_mass": stats.removed_mass,
            "gate_seconds": stats.gate_seconds,
            "pin_yields": stats.pin_yields,
        },
        "events": [_event_to_json(llm.vocab, event) for event in reply.events],
    }


def _event_to_json(vocab: Vocab, event: GateEvent) -> dict[str, Any]:
    return {
        "position": event.position,
        "last": event.last,
        "predicted": list(event.predicted),
        "allowed": list(event.allowed),
        "banned": list(event.banned),
        "z": list(event.z),
        "removed": [{"id": id_, "text": vocab.text(id_), "probability": p} for id_, p in event.removed],
        "observed": event.observed,
        "chosen": {"id": event.chosen, "text": vocab.text(event.chosen)},
    }


def _summary_line(args: argparse.Namespace, summary: dict[str, Any]) -> str:
    """The same for the terminal."""
    stats = summary["stats"]
    parts = [f"{stats['tokens']} tokens"]
    if summary["finish_reason"] == "length":
        is_cut = 0 < args.n_predict <= stats["tokens"]
        parts[0] += f" (cut off by -n {args.n_predict})" if is_cut else " (the context is full, see -c)"
    elif summary["finish_reason"] == "interrupted":
        parts[0] += " (interrupted)"
    if stats["tokens_per_second"] is not None:
        parts.append(f"{stats['tokens_per_second']:.1f} tokens/s")
    if summary["gate"] is None:
        parts.append("no gate")
    else:
        if args.any_model and summary["gate_match"] == "shape":
            parts.append("a gate of another model")
        parts.append(f"gate runs {stats['gate_runs']}")
        if summary["mode"] != "observe":
            parts.append(f"interventions {stats['interventions'] - stats['observed']}")
        if stats["observed"] or summary["mode"] == "observe":
            parts.append(f"interventions only observed {stats['observed']}")
        parts.append(f"removed mass {stats['removed_mass']:.2f}")
    parts.append(f"seed {summary['seed']}")
    return "lcg-cpp: " + " · ".join(parts)
