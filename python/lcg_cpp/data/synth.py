"""A corpus without any download: the model answers prompts in many languages itself (the self in self-distillation)."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import GateError
from ..gate.families import text_families
from ..run.prompt import chat_prompt, completion_prompt, has_template
from ..run.reply import Reply, follow
from .languages import cldr_version

if TYPE_CHECKING:
    from ..run.llama import GatedLlama
    from .prompts import Prompt, PromptSeries

_CJ_LANGUAGES = ("zh", "ja")


@dataclass(frozen=True)
class Answer:
    """What a model said."""

    prompt: str  # the prompt, as the model saw it
    text: str  # the reply; empty or blank if it said nothing
    n_tokens: int  # tokens it generated


def answer(llm: GatedLlama, prompt: Prompt, *, n_predict: int, temperature: float) -> Answer:
    """Let a model answer a prompt.

    Through its chat template; a model without one continues the prompt's text from a new line. The same prompt gets
    the same answer, whatever was answered before.
    """
    is_chat = has_template(llm)
    text = prompt.text if is_chat else prompt.text + "\n"
    try:
        messages = [{"role": "user", "content": text}]
        reply = Reply(chat_prompt(llm, messages) if is_chat else completion_prompt(llm, text), llm.vocab)
        for _ in follow(llm, reply, max_tokens=n_predict, seed=prompt.seed, temp=temperature):
            pass
    except GateError as error:
        raise GateError(f"prompt {prompt.number} ({prompt.language}) cannot be answered: {error}") from error
    return Answer(text, reply.data.decode("utf-8", "ignore"), len(reply.tokens))


def is_confused(prompt: Prompt, reply: str) -> bool:
    """Whether a reply holds Chinese or Japanese letters that were not asked for.

    A gate learns from clean text: taught by its model's own confusion it would allow just that. Latin letters say
    nothing here, replies in every language rightly hold names and code.
    """
    return prompt.language not in _CJ_LANGUAGES and prompt.kind not in ("say", "quote") and "cj" in text_families(reply)


class Corpus:
    """A file of rows that grows by one answer after the other; what is in it is always whole.

    Attributes:
        path: The JSON lines.
        next_number: Number of the prompt to be answered next.
    """

    def __init__(self, path: Path, model: str, series: PromptSeries, *, resume: bool) -> None:
        """Begin with a file, or go on where it ends; it appears with its first row.

        The name of the model is written into every row.
        """
        self.path = path
        self.next_number = 0
        self._model = model
        if path.exists():
            if not resume:
                raise GateError(f"{path}: is there already; continue it with --resume, or choose another name")
            self._continue(series)

    def _continue(self, series: PromptSeries) -> None:
        with self.path.open("r+b") as file:
            data = file.read()
            whole = data.rfind(b"\n") + 1
            lines = data[:whole].splitlines()
            if lines:
                self.next_number = self._check_last(lines[-1], len(lines), series) + 1
            file.truncate(whole)  # the end of a row that was being written when the process was killed

    def _check_last(self, line: bytes, number: int, series: PromptSeries) -> int:
        """The number of the last row's prompt, if it is what it must be."""
        where = f"{self.path}:{number}"
        try:
            row = json.loads(line)
            last, model, said = row["number"], row["model"], row["messages"][0]["content"]
        except (ValueError, LookupError, TypeError) as error:
            raise GateError(f"{where}: is no row of `lcg-cpp data synth`, which cannot be continued") from error
        if model != self._model:
            raise GateError(f"{where}: was answered by {model!r}, expected {self._model!r}")
        if not isinstance(last, int) or said.strip() != series.prompt(last).text:
            names = row.get("names", "an earlier version")
            options = f"the names of {names} (here {cldr_version()}), another --seed or --languages"
            raise GateError(f"{where}: holds another prompt; was it made with {options}?")
        return last

    def add(self, prompt: Prompt, said: Answer) -> None:
        """Write a row; it is in the file when this returns."""
        row = {
            "messages": [{"role": "user", "content": said.prompt}, {"role": "assistant", "content": said.text}],
            "language": prompt.language,
            "kind": prompt.kind,
            "number": prompt.number,
            "model": self._model,
            "names": cldr_version(),
        }
        with self.path.open("ab") as file:
            file.write(json.dumps(row, ensure_ascii=False).encode() + b"\n")
