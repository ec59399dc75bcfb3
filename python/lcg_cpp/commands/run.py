"""`lcg-cpp run`: one reply, streamed, with the gate's interventions marked if wanted."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ..gate.results import GateEvent
from ..run.llama import GatedLlama
from . import options
from .errors import EXIT_INTERRUPTED, UsageError
from .loading import check_output, load_gate, load_model, require_file
from .output import print_json
from .reply_printer import ReplyPrinter
from .trace import token_text, write_trace

_N_PREDICT = 256


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add this command's arguments."""
    options.add_model(parser)
    prompt = parser.add_mutually_exclusive_group()
    prompt.add_argument("-p", "--prompt", metavar="TEXT", help="the prompt")
    prompt.add_argument("-f", "--file", metavar="FILE", help="read the prompt from a file, - is standard input")
    parser.add_argument(
        "-n",
        "--n-predict",
        metavar="N",
        type=options.whole(-1),
        default=_N_PREDICT,
        help=f"tokens to generate at most (default: {_N_PREDICT}); -1 until the context is full",
    )
    parser.add_argument("--chat", action="store_true", help="put the prompt into the model's chat template")
    parser.add_argument(
        "-sys", "--system", "--system-prompt", metavar="TEXT", help="what the system says first (with --chat)"
    )
    parser.add_argument(
        "--highlight", action="store_true", help="mark the tokens that the gate changed, and what it removed"
    )
    parser.add_argument(
        "--trace", metavar="PAGE.html", help="write the reply as a page that shows each intervention and its reason"
    )
    options.add_json(parser)
    options.add_gate(parser)
    options.add_sampling(parser)
    options.add_engine(parser)


def run(args: argparse.Namespace) -> int:
    """Run the command."""
    if args.lcg is None and not args.no_lcg:
        raise UsageError("--lcg is missing: give the gate file made for this model, or --no-lcg to run without a gate")
    if args.system is not None and not args.chat:
        raise UsageError("--system needs --chat: without a chat template there is no system message")
    if args.n_predict == 0:
        raise UsageError("-n/--n-predict: is 0, expected a number of tokens from 1, or -1")
    require_file(args.model, "-m/--model")
    if args.trace is not None:
        sources = [source for source in (args.model, args.lcg, args.file) if source is not None]
        check_output(args.trace, "--trace", sources, "the model, the gate or the prompt")
    prompt = _read_prompt(args)
    gate = None if args.no_lcg else load_gate(args.lcg, "--lcg", args.lcg_device)
    gate_options = options.gate_options(args, n_events=1)  # each is collected as it happens
    llm = load_model(args.model, gate, gate_options, options.llama_arguments(args))
    if args.chat and "tokenizer.chat_template" not in llm.metadata:
        print(f"the model has no chat template, llama-cpp-python's `{llm.chat_format}` is used", file=sys.stderr)
    sampling = options.sampling_arguments(args)
    reply = _Reply(llm, None if args.json else ReplyPrinter(llm, highlight=args.highlight))
    reply.generate(args, prompt, sampling)
    if args.json:
        print_json(_to_json(args, llm, reply, sampling["seed"]))
    else:
        sys.stdout.flush()
        print(_summary(args, llm, reply, sampling["seed"]), file=sys.stderr)
    if args.trace is not None:
        write_trace(args, llm, reply, prompt, sampling["seed"])
        print(f"wrote {args.trace}", file=sys.stderr)
    return EXIT_INTERRUPTED if reply.finish_reason == "interrupted" else 0


def _read_prompt(args: argparse.Namespace) -> str:
    if args.prompt is None and args.file is None:
        raise UsageError("no prompt: give -p TEXT, or -f FILE (- is standard input)")
    option = "-p/--prompt" if args.file is None else "-f/--file"
    try:
        if args.file is None:
            prompt = str(args.prompt)
            prompt.encode()
        else:
            if args.file != "-":
                require_file(args.file, option)
            data = sys.stdin.buffer.read() if args.file == "-" else Path(args.file).read_bytes()
            prompt = data.decode().removesuffix("\n")
    except UnicodeError as error:
        raise UsageError(f"{option}: is not UTF-8: {error}") from error
    if not prompt:
        raise UsageError(f"{option}: the prompt is empty, expected some text")
    return prompt


# ---- following a reply ----


class _Reply:
    """One reply, followed token by token: a stream of text would not say which token the gate changed."""

    def __init__(self, llm: GatedLlama, printer: ReplyPrinter | None) -> None:
        self.tokens: list[int] = []
        self.events: list[GateEvent] = []
        self.n_prompt = 0
        self.text = ""
        self.finish_reason = ""
        self.prompt_seconds = 0.0
        self.seconds = 0.0  # from the first token to the newest
        self._llm = llm
        self._printer = printer
        self._pending: tuple[int, GateEvent | None] | None = None
        self._n_interventions = 0

    def generate(self, args: argparse.Namespace, prompt: str, sampling: dict[str, Any]) -> None:
        """Generate the reply; Ctrl-C ends it."""
        stock = self._llm.generate
        self._llm.generate = self._following(stock)  # type: ignore[method-assign]
        try:
            self._complete(args, prompt, sampling)
        except KeyboardInterrupt:
            self.finish_reason = "interrupted"
        except ValueError as error:  # Llama's refusals of a prompt: it is too long, or the chat template rejects it
            raise UsageError(_refusal(args, str(error))) from error
        finally:
            self._llm.generate = stock  # type: ignore[method-assign]
        if self.finish_reason != "stop":
            self._accept()
        if self._printer is not None:  # what is still pending only ended the reply
            self._printer.end(self._pending[1] if self._pending is not None else None)

    def _complete(self, args: argparse.Namespace, prompt: str, sampling: dict[str, Any]) -> None:
        if args.chat:
            messages: list[Any] = [{"role": "user", "content": prompt}]
            if args.system is not None:
                messages.insert(0, {"role": "system", "content": args.system})
            result: Any = self._llm.create_chat_completion(messages, max_tokens=args.n_predict, **sampling)
            self.text = result["choices"][0]["message"]["content"]
        else:
            result = self._llm.create_completion(prompt, max_tokens=args.n_predict, **sampling)
            self.text = result["choices"][0]["text"]
        self.finish_reason = result["choices"][0]["finish_reason"]

    def _following(self, stock: Any) -> Any:
        """`Llama.generate`, telling us of every token."""

        def generate(prompt: list[int], *args: Any, **kwargs: Any) -> Iterator[int]:
            self.n_prompt = len(prompt)
            start = time.perf_counter()
            for token in stock(prompt, *args, **kwargs):
                self._pending = token, self._new_event()
                if not self.tokens:
                    self.prompt_seconds, start = time.perf_counter() - start, time.perf_counter()
                self.seconds = time.perf_counter() - start
                yield token  # completion looks here whether this ends the reply; if so, it does not come back
                self._accept()

        return generate

    def _accept(self) -> None:
        if self._pending is None:
            return
        token, event = self._pending
        self._pending = None
        self.tokens.append(token)
        if self._printer is not None:
            self._printer.token(token, event)

    def _new_event(self) -> GateEvent | None:
        """The intervention on the newest token, if there was one."""
        n = self._llm.gate_stats.interventions
        if n == self._n_interventions:
            return None
        self._n_interventions = n
        self.events.append(self._llm.gate_events[-1])
        return self.events[-1]


def _refusal(args: argparse.Namespace, message: str) -> str:
    """What is wrong with the prompt, out of the message with which `Llama` refused it."""
    if message.startswith("Requested tokens"):
        return f"-c/--ctx-size: {message[0].lower()}{message[1:]}, expected a longer context or a shorter prompt"
    return f"--chat: the model's chat template refuses: {message}" if args.chat else message


# ---- what is reported at the end ----


def _summary(args: argparse.Namespace, llm: GatedLlama, reply: _Reply, seed: int) -> str:
    n, stats = len(reply.tokens), llm.gate_stats
    parts = [f"{n} tokens"]
    if reply.finish_reason == "length":
        parts[0] += (
            f" (cut off by -n {args.n_predict})" if 0 < args.n_predict <= n else " (the context is full, see -c)"
        )
    elif reply.finish_reason == "interrupted":
        parts[0] += " (interrupted)"
    if n > 1:
        parts.append(f"{(n - 1) / reply.seconds:.1f} tokens/s")
    if llm.gate is None:
        parts.append("no gate")
    else:
        action = "interventions" if args.lcg_mode != "observe" else "interventions only observed"
        parts += [f"gate runs {stats.gate_runs}", f"{action} {stats.interventions}"]
        parts.append(f"removed mass {stats.removed_mass:.2f}")
    parts.append(f"seed {seed}")
    return "lcg-cpp: " + " · ".join(parts)


def _to_json(args: argparse.Namespace, llm: GatedLlama, reply: _Reply, seed: int) -> dict[str, Any]:
    n, stats = len(reply.tokens), llm.gate_stats
    finished = reply.finish_reason != "interrupted"
    return {
        "reply": reply.text if finished else llm.detokenize(reply.tokens).decode("utf-8", "ignore"),
        "finish_reason": reply.finish_reason,
        "model": args.model,
        "gate": None if llm.gate is None else llm.gate.path,
        "mode": None if llm.gate is None else args.lcg_mode,
        "seed": seed,
        "stats": {
            "prompt_tokens": reply.n_prompt,
            "prompt_seconds": reply.prompt_seconds,
            "tokens": n,
            "tokens_per_second": (n - 1) / reply.seconds if n > 1 else None,
            "steps": stats.steps,
            "gate_runs": stats.gate_runs,
            "interventions": stats.interventions,
            "not_confident": stats.not_confident,
            "removed_mass": stats.removed_mass,
            "gate_seconds": stats.gate_seconds,
        },
        "events": [_event_to_json(llm, event) for event in reply.events],
    }


def _event_to_json(llm: GatedLlama, event: GateEvent) -> dict[str, Any]:
    return {
        "position": event.position,
        "last": event.last,
        "predicted": list(event.predicted),
        "allowed": list(event.allowed),
        "banned": list(event.banned),
        "z": list(event.z),
        "removed": [{"id": id_, "text": token_text(llm, id_), "probability": p} for id_, p in event.removed],
        "chosen": {"id": event.chosen, "text": token_text(llm, event.chosen)},
    }
