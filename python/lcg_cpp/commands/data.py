"""`lcg-cpp data`: texts to train on: the mix that the paper used, or answers of the model itself."""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from pathlib import Path

from ..data.prompts import PROMPT_KINDS, PromptSeries, prompt_languages
from ..data.recipe import SOURCES, SourceRows, read_source, write_mix
from ..data.synth import Answer, Corpus, answers, flaw
from ..errors import GateError
from ..gate.options import GateOptions
from . import options
from .errors import EXIT_INTERRUPTED, UsageError
from .loading import load_base, load_model
from .output import print_heading, print_json, print_table
from .paths import check_output
from .progress import StatusLines, ask_to_stop, duration, tell

_RECIPES = ("paper",)
_N_TEXTS = 1000
_N_PREDICT = 256
_N_PROMPT = 1024  # tokens of context left for a prompt
_TEMPERATURE = 0.7
_MAX_SEED = 2**63 - 1


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add this command's arguments."""
    kinds = parser.add_subparsers(dest="kind", metavar="KIND", required=True)
    for name, summary, add in (
        ("recipe", "the mix of public datasets that the paper trained on", _add_recipe),
        ("synth", "prompts in many languages, answered by the model itself; nothing is downloaded", _add_synth),
    ):
        add(
            kinds.add_parser(
                name,
                help=summary,
                description=f"{summary[0].upper()}{summary[1:]}.",
                formatter_class=argparse.RawDescriptionHelpFormatter,
                allow_abbrev=False,
            )
        )


def _add_recipe(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("recipe", choices=_RECIPES, help="the mix")
    _add_output(parser)
    group = parser.add_argument_group(
        "sources", "Each may be a copy: a file, a folder, or hf:NAME of a dataset with the same columns."
    )
    for name, source in SOURCES.items():
        group.add_argument(
            f"--{name}",
            metavar="DATA",
            type=options.path,
            default=source.hub,
            help=f"{source.about} (default: %(default)s)",
        )
    group.add_argument(
        "--without", metavar="SOURCE", action="append", default=[], choices=SOURCES, help="leave one out; repeatable"
    )
    _add_seed(parser, "the sampling and the order")
    options.add_json(parser)


def _add_synth(parser: argparse.ArgumentParser) -> None:
    options.add_model(parser)
    _add_output(parser)
    parser.add_argument("--resume", action="store_true", help="go on with a file that was begun with the same options")
    parser.add_argument(
        "--languages",
        metavar="LANGUAGES",
        type=_languages,
        help=f"codes such as ko,ar,th, or how many (default: all {len(prompt_languages())}, or those with --kinds)",
    )
    parser.add_argument(
        "--kinds",
        metavar="KINDS",
        type=_prompt_kinds,
        default=[],
        help=f"what to ask for: some of {','.join(PROMPT_KINDS)} (default: all)",
    )
    parser.add_argument(
        "--texts", metavar="N", type=options.whole(1), default=_N_TEXTS, help=f"prompts to answer (default: {_N_TEXTS})"
    )
    options.add(parser, "--n-predict", _N_PREDICT, help="tokens of an answer at most")
    options.add(parser, "--temp", _TEMPERATURE)
    parser.add_argument(
        "--keep-confused",
        action="store_true",
        help="keep answers that hold Chinese or Japanese although nobody asked for it; they are left out otherwise",
    )
    options.add(parser, "--parallel")
    options.add(parser, "--ctx-size", help=f"tokens of context of each answer (default: -n and {_N_PROMPT})")
    options.add(parser, "--threads")
    options.add(parser, "--n-gpu-layers")
    _add_seed(parser, "the prompts and their answers")
    options.add_json(parser)


def _add_output(parser: argparse.ArgumentParser) -> None:
    options.add(parser, "--output", required=True, help="the .jsonl file to write")


def _add_seed(parser: argparse.ArgumentParser, what: str) -> None:
    options.add(parser, "--seed", 0, type=options.whole(0, _MAX_SEED), help=f"seed of {what}")


def _languages(text: str) -> list[str]:
    known = prompt_languages()
    if text.isdecimal() and 1 <= int(text) <= len(known):
        return known[: int(text)]
    return _listed(text, known, f"a number up to {len(known)} or some of")


def _prompt_kinds(text: str) -> list[str]:
    return _listed(text, PROMPT_KINDS, "some of")


def _listed(text: str, known: Sequence[str], expected: str) -> list[str]:
    names = text.split(",")
    if unknown := [name for name in names if name not in known]:
        raise argparse.ArgumentTypeError(f"holds {unknown[0]!r}, expected {expected} {','.join(known)}")
    return list(dict.fromkeys(names))


def run(args: argparse.Namespace) -> int:
    """Run the command."""
    output = Path(args.output)
    check_output(args.output, "-o/--output", (), "")
    return _recipe(args, output) if args.kind == "recipe" else _synth(args, output)


# ---- recipe ----


def _recipe(args: argparse.Namespace, output: Path) -> int:
    wanted = [name for name in SOURCES if name not in args.without]
    if not wanted:
        raise UsageError("--without leaves nothing of the mix, expected at least one source")
    parts = [_read(source, getattr(args, source.replace("-", "_")), args.seed) for source in wanted]
    n_rows = write_mix(output, parts, args.seed)
    if args.json:
        counts = {
            part.source: {"rows": len(part.rows), "languages": part.n_languages, "bad_rows": part.n_bad}
            for part in parts
        }
        print_json({"path": str(output), "rows": n_rows, "sources": counts})
        return 0
    print_heading(f"wrote {output}: {n_rows:,} rows")
    print_table(
        (">rows", ">languages", ">bad rows", "source"),
        [(f"{len(part.rows):,}", str(part.n_languages), f"{part.n_bad:,}", part.source) for part in parts],
    )
    return 0


def _read(source: str, name: str, seed: int) -> SourceRows:
    tell(f"reading {source}: {name}")
    try:
        part = read_source(source, name, seed)
    except GateError as error:
        raise UsageError(f"--{source}: {error} (`--without {source}` leaves it out)") from error
    for reason in part.bad:
        tell(f"bad row: {reason}")
    if part.n_bad > len(part.bad):
        tell(f"and {part.n_bad - len(part.bad):,} more bad rows of {source}")
    return part


# ---- synth ----


def _synth(args: argparse.Namespace, output: Path) -> int:
    series = PromptSeries(args.languages or prompt_languages(args.kinds), args.seed, args.kinds)
    model = load_base(args.model, "-m/--model").name
    try:
        corpus = Corpus(output, model, series, resume=args.resume)
    except GateError as error:
        raise UsageError(f"-o/--output: {error}") from error
    engine = {
        "n_ctx": args.ctx_size or args.n_predict + _N_PROMPT,
        "n_gpu_layers": args.n_gpu_layers or 0,
        "n_threads": args.threads,
        "n_threads_batch": args.threads,
    }
    llm = load_model(args.model, None, GateOptions(), engine)
    tally = _Tally(corpus.n_done, args.texts)
    with StatusLines() as line, ask_to_stop("what is answered is in the file", line) as should_stop:
        prompts = map(series.prompt, corpus.missing(args.texts))
        how = {"n_predict": args.n_predict, "temperature": args.temp, "parallel": args.parallel}
        try:
            for prompt, said in answers(llm, prompts, **how, should_stop=should_stop):
                found = flaw(prompt, said.text)
                why = "" if found == "confused" and args.keep_confused else found
                corpus.settle(prompt, said, keep=not why)
                tally.count(said, why)
                line.show(f"{tally.status()}  {prompt.language}")
        except GateError as error:
            raise UsageError(f"-m/--model: {args.model}: {error}") from error
    interrupted = corpus.n_done < args.texts
    tally.report(args, output, interrupted=interrupted)
    return EXIT_INTERRUPTED if interrupted else 0


_LEFT_OUT = {
    "empty": "empty answers",
    "looping": "answers that repeat themselves without end",
    "confused": "answers with Chinese or Japanese that nobody asked for",
}


class _Tally:
    """What became of the prompts so far."""

    def __init__(self, first: int, n_texts: int) -> None:
        self._first, self._n_texts = first, n_texts
        self._done = self._tokens = 0
        self._left_out = dict.fromkeys(_LEFT_OUT, 0)
        self._start = time.monotonic()

    def count(self, said: Answer, flaw: str) -> None:
        """Count an answer, and why it is left out, if it is."""
        self._done += 1
        self._tokens += said.n_tokens
        if flaw:
            self._left_out[flaw] += 1

    def status(self) -> str:
        """How far it is, how fast and how long it takes; after the first answer."""
        seconds = time.monotonic() - self._start
        done = self._first + self._done
        left = seconds / self._done * (self._n_texts - done)
        rate = self._tokens / max(seconds, 1e-9)
        return f"{done:,} of {self._n_texts:,} texts  {rate:,.1f} tokens/s  {duration(left)} left"

    def report(self, args: argparse.Namespace, output: Path, *, interrupted: bool) -> None:
        """Say what became of it."""
        written = self._done - sum(self._left_out.values())
        if self._done and not written and not interrupted:
            n, flaw = max((n, flaw) for flaw, n in self._left_out.items())
            what = flaw + (" (--keep-confused keeps them)" if flaw == "confused" else "")
            raise UsageError(
                f"-m/--model: {args.model}: {n:,} of {self._done:,} answers are {what}, expected some text"
            )
        if args.json:
            facts = {"written": written, **self._left_out, "tokens": self._tokens, "before": self._first}
            print_json({"path": str(output), **facts, "complete": not interrupted, "seed": args.seed})
            return
        print_heading(f"{output}: {written:,} texts added, {self._tokens:,} tokens")
        for flaw, what in _LEFT_OUT.items():
            if n := self._left_out[flaw]:
                print(f"{n:,} {what} were left out")
        if interrupted:
            print(f"{self._n_texts - self._first - self._done:,} texts are missing; --resume goes on")
