"""A corpus without any download: the model answers prompts in many languages itself (the self in self-distillation)."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import GateError
from ..gate.families import text_families
from ..run.batch import Job, check_parallel, follow_all
from ..run.prompt import chat_prompt, completion_prompt, has_template
from ..run.reply import Reply, context_size, room
from .languages import cldr_version

if TYPE_CHECKING:
    from ..run.llama import GatedLlama
    from .prompts import Prompt, PromptSeries

_CJ_LANGUAGES = ("zh", "zh_Hant", "ja")
_LOOP = re.compile(r"((.{1,60}?)\2{5,}).{0,60}\Z", re.DOTALL)
_LEAST_LOOP = 48  # characters
_MOST_LOOKED_AT = 480  # characters of a reply's end


@dataclass(frozen=True)
class Answer:
    """What a model said."""

    prompt: str  # the prompt, as the model saw it
    text: str  # the reply; empty or blank if it said nothing
    n_tokens: int  # tokens it generated


def answers(
    llm: GatedLlama,
    prompts: Iterable[Prompt],
    *,
    n_predict: int,
    temperature: float,
    parallel: int | None = None,
    should_stop: Callable[[], bool] = lambda: False,
) -> Iterator[tuple[Prompt, Answer]]:
    """Let a model answer prompts, several at once, and give each answer as it ends.

    Through its chat template; a model without one continues the prompt's text from a new line. The same prompt gets
    the same answer, whatever is answered before or beside it. `parallel` is as for `check_parallel`.
    """
    n_tokens = context_size(llm)
    jobs = (_job(llm, prompt, n_predict, temperature) for prompt in prompts)
    for job in follow_all(llm, jobs, check_parallel(llm, parallel, n_tokens), n_tokens, should_stop):
        if job.reply.finish != "interrupted":
            prompt, text = job.label
            yield prompt, Answer(text, job.reply.text, len(job.reply.tokens))


def _job(llm: GatedLlama, prompt: Prompt, n_predict: int, temperature: float) -> Job:
    is_chat = has_template(llm)
    text = prompt.text if is_chat else prompt.text + "\n"
    try:
        messages = [{"role": "user", "content": text}]
        tokens = chat_prompt(llm, messages) if is_chat else completion_prompt(llm, text)
        room(llm, tokens)
    except GateError as error:
        raise GateError(f"prompt {prompt.number} ({prompt.language}) cannot be answered: {error}") from error
    return Job(Reply(tokens, llm.vocab), n_predict, prompt.seed, {"temp": temperature}, label=(prompt, text))


def is_confused(prompt: Prompt, reply: str) -> bool:
    """Whether a reply holds Chinese or Japanese letters that were not asked for.

    A gate learns from clean text: taught by its model's own confusion it would allow just that. Latin letters say
    nothing here, replies in every language rightly hold names and code.
    """
    return prompt.language not in _CJ_LANGUAGES and prompt.kind not in ("say", "quote") and "cj" in text_families(reply)


def is_looping(reply: str) -> bool:
    """Whether a reply ends by saying the same words, or the same letter, over and over.

    The states of a model that loops are unlike any others, and there are many of them.
    """
    found = _LOOP.search(reply[-_MOST_LOOKED_AT:])
    return found is not None and len(found[1]) >= _LEAST_LOOP and any(map(str.isalpha, found[2]))


def flaw(prompt: Prompt, reply: str) -> str:
    """Why a gate should not learn from a reply: `empty`, `looping`, `confused`, or "" where it may."""
    if not reply.strip():
        return "empty"
    if is_looping(reply):
        return "looping"
    return "confused" if is_confused(prompt, reply) else ""


class Corpus:
    """A file of rows that grows by one answer after the other; what is in it is always whole.

    Rows come in the order in which the answers end. Each says which prompt is the `next`: the first of which nothing is
    known; those before it are in the file, or were left out.

    Attributes:
        path: The JSON lines.
    """

    def __init__(self, path: Path, model: str, series: PromptSeries, *, resume: bool) -> None:
        """Begin with a file, or go on where it ends; it appears with its first row.

        The name of the model is written into every row.
        """
        self.path = path
        self._model = model
        self._next = 0
        self._ahead: set[int] = set()  # prompts behind `_next` that are dealt with
        if path.exists():
            if not resume:
                raise GateError(f"{path}: is there already; continue it with --resume, or choose another name")
            self._continue(series)

    @property
    def n_done(self) -> int:
        """How many prompts are dealt with."""
        return self._next + len(self._ahead)

    def missing(self, n_prompts: int) -> Iterator[int]:
        """Numbers of the prompts that are to be answered, of the first `n_prompts`."""
        known = frozenset(self._ahead)
        return (number for number in range(self._next, n_prompts) if number not in known)

    def _continue(self, series: PromptSeries) -> None:
        with self.path.open("r+b") as file:
            data = file.read()
            whole = data.rfind(b"\n") + 1
            lines = data[:whole].splitlines()
            rows = [self._read(line, f"{self.path}:{number}") for number, line in enumerate(lines, 1)]
            if rows:
                self._check_last(rows[-1], f"{self.path}:{len(rows)}", series)
                self._next = rows[-1].get("next", rows[-1]["number"] + 1)
                self._ahead = {row["number"] for row in rows if row["number"] >= self._next}
            file.truncate(whole)  # the end of a row that was being written when the process was killed

    def _read(self, line: bytes, where: str) -> dict[str, Any]:
        """A row, if it is what it must be."""
        try:
            row: dict[str, Any] = json.loads(line)
            number, model, said = row["number"], row["model"], row["messages"][0]["content"]
        except (ValueError, LookupError, TypeError) as error:
            raise GateError(f"{where}: is no row of `lcg-cpp data synth`, which cannot be continued") from error
        if model != self._model:
            raise GateError(f"{where}: was answered by {model!r}, expected {self._model!r}")
        if not (type(number) is int and number >= 0 and type(row.get("next", 0)) is int and isinstance(said, str)):
            raise GateError(f"{where}: is no row of `lcg-cpp data synth`, which cannot be continued")
        return row

    def _check_last(self, row: dict[str, Any], where: str, series: PromptSeries) -> None:
        """Find out whether the last row answers a prompt of the series."""
        if row["messages"][0]["content"].strip() != series.prompt(row["number"]).text:
            names = row.get("names", "an earlier version")
            options = f"the names of {names} (here {cldr_version()}), another --seed, --languages or --kinds"
            raise GateError(f"{where}: holds another prompt; was it made with {options}?")

    def settle(self, prompt: Prompt, said: Answer, *, keep: bool) -> None:
        """Deal with an answer; one to `keep` is in the file when this returns."""
        self._ahead.add(prompt.number)
        while self._next in self._ahead:
            self._ahead.remove(self._next)
            self._next += 1
        if not keep:
            return
        row = {
            "messages": [{"role": "user", "content": said.prompt}, {"role": "assistant", "content": said.text}],
            "language": prompt.language,
            "kind": prompt.kind,
            "number": prompt.number,
            "next": self._next,
            "model": self._model,
            "names": cldr_version(),
        }
        with self.path.open("ab") as file:
            file.write(json.dumps(row, ensure_ascii=False).encode() + b"\n")
