"""A gate as a detector: of tokens that are known to be wrong or right, which would it remove?

Nothing is generated. Replies that are known to be clean, and the same with slips and switches of script spliced in (see
`detect.texts`), are evaluated teacher forced, and at known places it is asked: if the sampler were about to choose
this token, would the gate remove it? So the rules see the survivors S and this token besides, as the model itself would
seldom choose a wrong one. Where S holds a token of the family anyway (it is in reach), the answer is what the gate
really does there.

Of a token only the family matters, and of a wrong word only the first token is asked about: persistence then allows the
rest, by design.
"""

from __future__ import annotations

import dataclasses
import random
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from ..engine.load import Engine, Model
from ..engine.teacher import Teacher
from ..errors import GateError
from ..files import PathLike
from ..gate.decisions import DecodingRules
from ..gate.gate import Gate
from ..gate.options import GateOptions, ModelCheck
from ..gate.steps import Sampling
from ..gate.walk import ForcedText, Rows, StoppedError, Walk, grouped
from .places import GROUPS
from .rules import Answers
from .texts import Probe, Question, Splicer

if TYPE_CHECKING:
    from ..benchmarks import Prompt
    from ..engine.base_model import BaseModel


@dataclass(frozen=True)
class DetectOptions:
    """What is measured."""

    sampling: Sampling = field(default_factory=Sampling)  # the request whose survivors are looked at
    # threshold and rules; `mode` and `strength` have no meaning here
    gate_options: GateOptions = field(default_factory=GateOptions)
    gate_check: ModelCheck = "weights"  # how alike the model and the one of the gate must be, see `Gate.check_model`
    n_texts: int = 30  # replies to evaluate, drawn at random
    n_ctx: int = 2048  # most tokens of a text; longer ones are left out
    seed: int = 0  # of the drawing and of what is spliced in

    def __post_init__(self) -> None:
        for name, low in (("n_texts", 1), ("n_ctx", 2), ("seed", 0)):
            if getattr(self, name) < low:
                raise GateError(f"`{name}` is {getattr(self, name)}, expected at least {low}")


@dataclass(frozen=True, eq=False)
class Detection:
    """What was measured so far; `detect.scores.score` sums it up."""

    base: BaseModel
    gate: Gate
    options: DetectOptions
    answers: Answers  # to all questions
    n_given: int  # prompts that have a reference
    n_wanted: int  # replies that will be used, if none is left out
    own_tokens: npt.NDArray[np.int64]  # (n_texts,), tokens of each clean reply
    skipped: Counter[str]  # why prompts were left out, and how many
    tokens: int
    seconds: float
    finished: bool  # False if it was stopped

    @property
    def n_texts(self) -> int:
        """Replies used."""
        return len(self.own_tokens)

    @property
    def rules(self) -> DecodingRules:
        """The rules that are asked."""
        return DecodingRules.of(self.gate, self.options.gate_options)


@dataclass(frozen=True)
class Progress:
    """How far it is: replies used or left out, of how many; tokens evaluated; seconds."""

    texts: int
    total: int
    tokens: int
    seconds: float


def detect(
    model: PathLike,
    gate: Gate,
    prompts: Sequence[Prompt],
    options: DetectOptions | None = None,
    *,
    engine: Engine | None = None,
    should_stop: Callable[[], bool] = lambda: False,
    on_progress: Callable[[Progress], None] = lambda progress: None,
) -> Detection:
    """Measure a gate as a detector of wrong tokens.

    Args:
        model: A GGUF file.
        gate: A gate that was made for it.
        prompts: What was asked; those without a reference say nothing.
        options: What is measured.
        engine: Settings of llama.cpp.
        should_stop: Asked after every evaluation; what was measured until then is the result.
        on_progress: Called after every few replies.

    Raises:
        GateError: Model, gate or prompts cannot be used, or it was stopped before anything was measured.
        OSError: A file cannot be read.
    """
    options, engine = options or DetectOptions(), engine or Engine()
    usable_prompts(prompts)
    with Teacher(model, n_ctx=options.n_ctx, **dataclasses.asdict(engine)) as teacher:
        return detect_on(teacher, gate, prompts, options, should_stop=should_stop, on_progress=on_progress)


def detect_on(
    model: Model,
    gate: Gate,
    prompts: Sequence[Prompt],
    options: DetectOptions,
    *,
    should_stop: Callable[[], bool] = lambda: False,
    on_progress: Callable[[Progress], None] = lambda progress: None,
) -> Detection:
    """The same on a model that is loaded; see `detect`."""
    gate.check_model(model.base, options.gate_check)
    given = usable_prompts(prompts)
    drawn = random.Random(options.seed).sample(given, min(options.n_texts, len(given)))
    rules = DecodingRules.of(gate, options.gate_options)
    splicer = Splicer(model, rules.families, min(options.n_ctx, model.n_ctx), options.seed)
    asking = _Asking(gate, rules, options.sampling, Walk(model, rules.families, should_stop))
    start, finished = time.monotonic(), True
    own_tokens: list[int] = []
    n_done = 0
    try:
        for group in grouped((splicer.probes(prompt, n) for n, prompt in enumerate(drawn, 1)), _n_tokens):
            texts = [probes for probes in group if probes]
            asking.ask([(len(own_tokens) + i, probe) for i, probes in enumerate(texts) for probe in probes])
            own_tokens += [sum(probe.n_own for probe in probes) for probes in texts]
            n_done += len(group)
            on_progress(Progress(n_done, len(drawn), asking.walk.tokens, time.monotonic() - start))
    except StoppedError:
        finished = False
    if not own_tokens:
        reason = splicer.skipped.most_common(1)[0][0] if finished else "it was stopped"
        raise GateError(f"none of {len(drawn)} replies was measured: {reason}")
    return Detection(
        base=model.base,
        gate=gate,
        options=options,
        answers=Answers.join(asking.parts),
        n_given=len(given),
        n_wanted=len(drawn),
        own_tokens=np.array(own_tokens, np.int64),
        skipped=splicer.skipped,
        tokens=asking.walk.tokens,
        seconds=time.monotonic() - start,
        finished=finished,
    )


def usable_prompts(prompts: Sequence[Prompt]) -> list[Prompt]:
    """The prompts whose right reply is known."""
    given = [prompt for prompt in prompts if prompt.reference.strip()]
    if not given:
        raise GateError(f"none of {len(prompts):,} prompts has a `reference`, expected some whose right reply is known")
    return given


def _n_tokens(probes: Sequence[Probe]) -> int:
    return sum(len(probe.tokens) for probe in probes)


class _Asking:
    """Evaluates texts and keeps what the rules look at.

    Attributes:
        walk: Evaluates them.
        parts: The answers.
    """

    def __init__(self, gate: Gate, rules: DecodingRules, sampling: Sampling, walk: Walk) -> None:
        self._gate, self._rules, self._sampling = gate, rules, sampling
        self.walk = walk
        self.parts: list[Answers] = []

    def ask(self, probes: Sequence[tuple[int, Probe]]) -> None:
        """Ask about some texts, each with the number of its reply; keeps nothing if it is stopped."""
        asked: dict[tuple[int, int], list[Question]] = defaultdict(list)  # by text and the row that predicts the token
        texts = []
        for number, (_, probe) in enumerate(probes):
            for question in probe.questions:
                asked[number, question.index - 1].append(question)
            wanted = np.isin(np.arange(len(probe.tokens)), [question.index - 1 for question in probe.questions])
            texts.append(ForcedText(np.array(probe.tokens), np.zeros(len(wanted), np.bool_), wanted))
        parts = []
        for rows in self.walk.rows(texts):
            at = [asked[place] for place in zip(rows.text.tolist(), rows.position.tolist())]
            of_row = np.repeat(np.arange(len(at)), [len(questions) for questions in at])
            numbers = [probes[number][0] for number in rows.text[of_row].tolist()]
            parts.append(self._answers(rows, of_row, numbers, [question for questions in at for question in questions]))
        self.parts += parts

    def _answers(
        self, rows: Rows, of_row: npt.NDArray[np.intp], texts: Sequence[int], questions: Sequence[Question]
    ) -> Answers:
        """What the rules look at, for each question that is asked of a row."""
        steps = self._rules.steps(rows.logits, self._sampling)
        survivors, confident, confident_masked = self._rules.families_at(steps)
        return Answers(
            text=np.array(texts, np.intp),
            group=np.array([GROUPS.index(question.group) for question in questions], np.intp),
            family=np.array([question.family for question in questions], np.intp),
            last=np.array([question.last for question in questions], np.int64),
            z=self._gate.predict(rows.hidden)[of_row],
            survivors=survivors[of_row],
            confident=confident[of_row],
            confident_masked=confident_masked[of_row],
        )
