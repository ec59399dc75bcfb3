"""How a gate is trained: every setting of norm-adjusted self-distillation (paper, section 3.2)."""

from __future__ import annotations

import math
from dataclasses import dataclass

from ..engine.output_norms import NORMS
from ..errors import GateError
from ..gate.families import RULES
from ..gate.labels import LABEL_NORM, LABEL_TOP_K, LABEL_TOP_P

SCHEDULES = ("cosine", "linear", "constant")
BALANCES = ("scripts", "none")
POSITIONS = ("all", "reply")
LABEL_SCRIPTS = ("written", "likely")

_MAX_RATE = 1e6  # PyTorch computes with it in single precision
_LEAST_RATE = 0.02  # of the schedule's end, as a share of its top: the last texts count too
_HELD_OUT = 0.05  # of the texts, where the share is ours to choose
_LEAST_HELD_OUT, _MOST_HELD_OUT = 128, 512  # texts
_STEPS = 1000  # of the optimizer, at least, where the number of passes is ours to choose
_PASSES = (3, 20)  # the least and the most of them
_TEXTS_PER_STATE = 1 / 32  # texts whose states are gathered and shuffled together, for each state of a batch


@dataclass(frozen=True)
class TrainOptions:
    """Settings of a training run. The same settings, model and data give the same gate.

    Attributes:
        n_hidden: Width of the gate's hidden layer; 0 is a linear gate, None the model's own width (paper).
        top_k: At most so many tokens of the model's distribution make a label; 0 is no limit.
        top_p: And only until they hold this much probability.
        label_scripts: Of the families of these tokens, a label holds those that the text itself has in the same prompt
            or reply, and always that of its own next token (`written`, see `train.written`), or all (`likely`, paper).
        norm: What the logit of token v is divided by before: `token` ‖e_v‖ (paper), `relative` ‖e_v‖ / mean ‖e‖, which
            leaves the temperature of the distribution alone, `none` nothing (the paper's ablation).
        window: A family of Chinese or Japanese (rule set `scripts`) is in a label if it is plausible within so many
            tokens of the same prompt or reply; 0 is the position alone. Rule sets without such families have no
            windows.
        soft: Labels are each family's share of these tokens' probability instead of 0 or 1.
        positions: `all` tokens are learned from (paper), or those that predict a token of a `reply`.
        batch: States per step of the optimizer.
        passes: How often each state is learned from; None: 3 times (paper: once), but up to 20 times where there are
            few texts, so that the gate takes about 1,000 steps. Evaluating the model is what takes time.
        learning_rate: Of AdamW; None fits it to the scale of the model's hidden states.
        schedule: How the learning rate falls: `cosine`, `linear` or `constant`.
        warmup: Steps over which it rises first.
        weight_decay: Of AdamW.
        n_ctx: Most tokens of a text; what is longer is cut.
        n_tokens: Tokens to evaluate; texts are repeated if there are too few. None: every text once.
        minutes: Time for the run. How fast the held-out texts were evaluated, which takes a tenth of it at most, tells
            how many tokens there is time for; the run ends after so many, or when the time is up, with the group of
            texts that is in work. Two runs that it limits give different gates.
        balance: What a run learns from that evaluates fewer tokens than there are: texts in which every script has its
            share of the tokens (`scripts`, see `data.balance`), or as chance has it (`none`).
        held_out: Share of the texts that is only measured on, of at most 512 of them. None: 0.05, but of at least 128
            texts, or a fifth where there are so few: the thresholds are fitted to them.
        max_missed: At what share of the held-out texts that hold a family the gate may remove it where it is right;
            each family's threshold follows, see `train.thresholds`. 1 leaves all of them at 0.5 (paper).
        rules: Rule set of the token families.
        seed: Seed of everything.
    """

    n_hidden: int | None = None
    top_k: int = LABEL_TOP_K
    top_p: float = LABEL_TOP_P
    label_scripts: str = "written"
    norm: str = LABEL_NORM
    window: int = 12
    soft: bool = False
    positions: str = "all"
    batch: int = 512
    passes: int | None = None
    learning_rate: float | None = None
    schedule: str = "linear"
    warmup: int = 100
    weight_decay: float = 0.01
    n_ctx: int = 2048
    n_tokens: int | None = None
    minutes: float | None = None
    balance: str = "scripts"
    held_out: float | None = None
    max_missed: float = 0.001
    rules: str = "scripts"
    seed: int = 0

    def __post_init__(self) -> None:
        for name, low, high in (
            ("n_hidden", 0, 1 << 16),
            ("top_k", 0, 1 << 22),
            ("window", 0, 1 << 16),
            ("batch", 1, 1 << 20),
            ("passes", 1, 100),
            ("warmup", 0, 1 << 30),
            ("n_ctx", 2, 1 << 22),
            ("n_tokens", 1, 1 << 50),
            ("seed", 0, 2**63 - 1),
        ):
            value = getattr(self, name)
            if value is not None and not low <= value <= high:
                raise GateError(f"`{name}` is {value}, expected {low} to {high}")
        for name, choices in (
            ("label_scripts", LABEL_SCRIPTS),
            ("norm", NORMS),
            ("positions", POSITIONS),
            ("schedule", SCHEDULES),
            ("balance", BALANCES),
            ("rules", RULES),
        ):
            if getattr(self, name) not in choices:
                raise GateError(f"`{name}` is {getattr(self, name)!r}, expected one of {', '.join(choices)}")
        if not 0.0 < self.top_p <= 1.0:
            raise GateError(f"`top_p` is {self.top_p}, expected more than 0 and at most 1")
        if self.learning_rate is not None and not 0.0 < self.learning_rate <= _MAX_RATE:
            raise GateError(f"`learning_rate` is {self.learning_rate}, expected more than 0 and at most {_MAX_RATE:g}")
        if self.minutes is not None and not 0.0 < self.minutes < math.inf:
            raise GateError(f"`minutes` is {self.minutes}, expected more than 0")
        if not 0.0 <= self.weight_decay < math.inf:
            raise GateError(f"`weight_decay` is {self.weight_decay}, expected 0 or a positive number")
        if self.held_out is not None and not 0.0 <= self.held_out < 1.0:
            raise GateError(f"`held_out` is {self.held_out}, expected 0 to less than 1")
        if not 0.0 <= self.max_missed <= 1.0:
            raise GateError(f"`max_missed` is {self.max_missed}, expected 0 to 1")

    def hidden_width(self, n_embd: int) -> int:
        """Width of the gate's hidden layer for a model of this width."""
        return n_embd if self.n_hidden is None else self.n_hidden

    def passes_for(self, n_states: float) -> int:
        """How often each of about so many states is learned from."""
        if self.passes is not None:
            return self.passes
        return min(max(math.ceil(_STEPS * self.batch / max(n_states, 1)), _PASSES[0]), _PASSES[1])

    def n_held_out(self, n_texts: int) -> int:
        """How many of so many texts are only measured on."""
        wanted, least = self.held_out, int(self.held_out != 0)
        if wanted is None:
            wanted, least = _HELD_OUT, max(least, min(_LEAST_HELD_OUT, n_texts // 5))
        return min(max(round(n_texts * wanted), least), _MOST_HELD_OUT, n_texts - 1)

    @property
    def group(self) -> int:
        """Texts that are evaluated before the gate learns from their states, in random order."""
        return max(1, round(self.batch * _TEXTS_PER_STATE))

    def rate_factor(self, step: int, progress: float) -> float:
        """What the learning rate is multiplied by.

        Args:
            step: Optimizer steps done.
            progress: Share of the training that is done, 0 to 1.
        """
        rise = min(1.0, (step + 1) / self.warmup) if self.warmup else 1.0
        fall = {
            "constant": 1.0,
            "linear": 1.0 - progress,
            "cosine": 0.5 * (1.0 + math.cos(math.pi * progress)),
        }[self.schedule]
        return rise * max(fall, _LEAST_RATE)


# The paper's own settings (section 3.2 and its reference's trainer).
PAPER_TRAINING = TrainOptions(
    n_hidden=None,
    top_k=20,
    top_p=0.95,
    label_scripts="likely",
    norm="token",
    learning_rate=2e-5,
    passes=1,
    balance="none",
    max_missed=1.0,
    rules="default",
)

PRESETS = {"default": TrainOptions(), "paper": PAPER_TRAINING}
