"""Methods side by side: the same prompts with the same seeds, several replies at once.

replies.jsonl has one object a line:

| field | what it is |
|---|---|
| method, seed, id | which reply this is; `id` is the prompt's |
| prompt, language, subset, reference | of the prompt |
| reply | the text |
| thinking | its thoughts, see `run.thinking.Thought`: of each, characters of the reply |
| tokens, pieces, families | of each generated token its id, the text it completes and the index of its family |
| n_prompt | tokens of the prompt |
| finish | `stop`, or `length` if the reply was cut |
| seconds | the reply took, the prompt's evaluation included; its share where several were generated at once |
| events | the gate's interventions |
| unwanted | letters of the answer by kind, see `measure.unwanted`; null if none can be wrong |

The pieces of a reply make up its text: a character that several tokens share is with the token that completes it, and
what is behind a text that ends the reply is left out. The token that ends a reply is not told, but an event can be at
its position. Events have the fields of `GateEvent`; `removed` and `candidates` (the first of what was left) hold
[text, index of the family, probability], most probable first.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..engine.sequences import least_rows
from ..errors import GateError
from ..gate.gate import Gate
from ..measure.judge import unwanted_letters
from ..run.batch import Job, check_parallel, follow_all
from ..run.llama import GatedLlama
from ..run.prompt import PromptTokens
from ..run.reply import context_size
from .folder import (
    REPLIES,
    Json,
    append_reply,
    check_replies,
    join_settings,
    method_settings,
    read_replies,
    read_settings,
)
from .methods import METHODS, Method, parse_methods
from .record import prompt_record
from .replies import Replier, reply_seed

if TYPE_CHECKING:
    from ..benchmarks import Benchmark, Prompt

__all__ = ["METHODS", "EvalOptions", "Evaluation", "Method", "Progress", "evaluate", "parse_methods"]


@dataclass(frozen=True)
class EvalOptions:
    """How replies are generated; the sampling is the paper's by default."""

    n_seeds: int = 1  # replies of each method to each prompt
    max_tokens: int | None = None  # most tokens of a reply; None: what the prompt says
    temperature: float = 0.7  # 0 always takes the most probable token
    top_k: int = 20  # 0 keeps all
    top_p: float = 0.8  # 1 keeps all
    min_p: float = 0.0  # 0 keeps all
    thinking: bool = True  # False asks the chat template to leave a model's thinking out (`enable_thinking`)

    def __post_init__(self) -> None:
        if self.n_seeds < 1:
            raise GateError(f"`n_seeds` is {self.n_seeds}, expected at least 1")
        if self.max_tokens is not None and self.max_tokens < 1:
            raise GateError(f"`max_tokens` is {self.max_tokens}, expected at least 1")
        if not self.temperature >= 0:
            raise GateError(f"`temperature` is {self.temperature}, expected at least 0")

    def sampling(self) -> dict[str, Any]:
        """As arguments of `Llama.generate`."""
        return {"temp": self.temperature, "top_k": self.top_k, "top_p": self.top_p, "min_p": self.min_p}


@dataclass(frozen=True)
class Progress:
    """How far an evaluation is."""

    done: int  # replies that are there
    total: int  # replies that are wanted
    new: int  # replies generated since it was begun or continued
    tokens: int  # tokens of those
    seconds: float  # since then


@dataclass(frozen=True)
class Evaluation:
    """What is in the folder."""

    replies: Sequence[Json]  # all of them, as in replies.jsonl
    families: tuple[str, ...]
    finished: bool  # whether every reply that was asked for is there
    settings: Json  # how they were made


def evaluate(
    llm: GatedLlama,
    benchmark: Benchmark,
    methods: Sequence[Method],
    folder: str | os.PathLike[str],
    options: EvalOptions = EvalOptions(),
    *,
    gates: Mapping[str, Gate] | None = None,
    parallel: int | None = None,
    should_stop: Callable[[], bool] = lambda: False,
    on_progress: Callable[[Progress], None] = lambda progress: None,
) -> Evaluation:
    """Let a model answer the prompts of a benchmark by every method; what is in the folder already is not done again.

    Every reply is generated from an empty context with a seed that only depends on the prompt and the number of the
    seed, so the replies are the same whichever methods, prompts and seeds are asked for, in one run or in several; they
    are written in the order in which they end. Several at once differ from one by one in the last bits of the logits,
    see `generate_batch`; settings.json tells which it was.

    Args:
        llm: The model; its gate is changed.
        benchmark: The prompts.
        methods: What is compared.
        folder: Where replies.jsonl and settings.json are written; replies are on disk as soon as they are there.
        options: How replies are generated.
        gates: By path, gates of the methods that are loaded already.
        parallel: Replies generated at once. None: as for the replies in the folder, or else see `check_parallel`.
        should_stop: Asked after every token.
        on_progress: Called after every reply.

    Raises:
        GateError: A gate does not fit the model, a prompt does not fit the context, or the folder holds replies that
            were made otherwise.
        OSError: A file cannot be read or written.
    """
    path = Path(folder)
    paths = {method.gate for method in methods if method.gate is not None}
    loaded = {name: (gates or {}).get(name) or Gate.load(name) for name in sorted(paths)}
    replier = Replier(llm, methods, loaded, options.sampling(), thinking=options.thinking)
    asked = _asked(replier, benchmark.prompts, methods)
    wanted = list(_jobs(benchmark.prompts, methods, options))
    n_tokens = min(context_size(llm), max(len(asked[job.asked].tokens) + job.max_tokens for job in wanted))
    parallel = check_parallel(llm, parallel, n_tokens) if parallel is not None else _as_before(llm, path, n_tokens)
    settings = join_settings(path, _settings(llm, benchmark, methods, options, parallel))
    replies = read_replies(path)
    check_replies(path, replies, {prompt.id: prompt.prompt for prompt in benchmark.prompts})
    done = {(reply["method"], reply["seed"], reply["id"]) for reply in replies}
    missing = [job for job in wanted if job.key not in done]
    total = len(replies) + len(missing)
    jobs = _generated(replier, missing, asked, warm_up=parallel == 1)
    places = min(parallel, max(least_rows(parallel), len(missing)))
    begin, n_before, n_tokens_new = time.monotonic(), len(replies), 0
    with (path / REPLIES).open("ab") as file:
        for said in follow_all(llm, jobs, places, n_tokens, should_stop):
            job = said.label
            if job is None or said.reply.finish == "interrupted":
                continue
            reply = {**prompt_record(job.prompt, job.method.name, job.seed), **replier.record(job.method, said.reply)}
            reply["unwanted"] = unwanted_letters(reply, job.prompt)
            append_reply(file, reply)
            replies.append(reply)
            n_tokens_new += len(said.reply.tokens)
            n_new, seconds = len(replies) - n_before, time.monotonic() - begin
            on_progress(Progress(len(replies), total, n_new, n_tokens_new, seconds))
    return Evaluation(replies, replier.families.names, len(replies) == total, settings)


def _as_before(llm: GatedLlama, folder: Path, n_tokens: int) -> int:
    """How many replies are generated at once, so that they are like those in a folder."""
    found, usual = read_settings(folder), check_parallel(llm, None, n_tokens)
    if not found:
        return usual
    least = found.get("engine", {}).get("batch", 1)
    return usual if least_rows(usual) == least else check_parallel(llm, least, n_tokens)


@dataclass(frozen=True)
class _Job:
    """One reply that is wanted."""

    seed: int
    prompt: Prompt
    method: Method
    max_tokens: int

    @property
    def key(self) -> tuple[str, int, str]:
        return self.method.name, self.seed, self.prompt.id

    @property
    def asked(self) -> tuple[str, bool]:
        return self.prompt.id, self.method.warning


def _jobs(prompts: Sequence[Prompt], methods: Sequence[Method], options: EvalOptions) -> Iterator[_Job]:
    """Methods inside: a machine that is busy for a while slows all of them alike, and they share the prompt."""
    for seed in range(options.n_seeds):
        for prompt in prompts:
            for method in sorted(methods, key=lambda method: method.warning):
                yield _Job(seed, prompt, method, options.max_tokens or prompt.max_tokens)


def _generated(
    replier: Replier, jobs: Sequence[_Job], asked: Mapping[tuple[str, bool], PromptTokens], *, warm_up: bool
) -> Iterator[Job]:
    """Jobs as they are generated, labelled with themselves; `warm_up`: the first reply of a process is slow."""
    for job in jobs[:1] if warm_up else ():
        yield replier.job(job.method, asked[job.asked], 0, 1)
    for job in jobs:
        yield replier.job(job.method, asked[job.asked], reply_seed(job.seed, job.prompt.id), job.max_tokens, job)


def _asked(
    replier: Replier, prompts: Sequence[Prompt], methods: Sequence[Method]
) -> dict[tuple[str, bool], PromptTokens]:
    """All prompts as tokens, without and with the warning: one that cannot be asked is found before any reply."""
    return {
        (prompt.id, warning): replier.prompt_tokens(prompt, warning=warning)
        for warning in sorted({method.warning for method in methods})
        for prompt in prompts
    }


def _settings(
    llm: GatedLlama, benchmark: Benchmark, methods: Sequence[Method], options: EvalOptions, parallel: int
) -> Json:
    """What the replies depend on."""
    batch = least_rows(parallel)
    return {
        "model": {"file": os.path.basename(llm.model_path), "bytes": os.stat(llm.model_path).st_size},
        "benchmark": benchmark.name,
        "sampling": options.sampling(),
        "max_tokens": options.max_tokens,
        "thinking": options.thinking,
        "engine": {
            "n_ctx": context_size(llm),
            "n_batch": llm.n_batch,
            "n_threads": llm.n_threads,
            "n_gpu_layers": llm.model_params.n_gpu_layers,
            **({"batch": batch} if batch > 1 else {}),  # earlier versions had none
        },
        "methods": {method.name: method_settings(method) for method in methods},
    }
