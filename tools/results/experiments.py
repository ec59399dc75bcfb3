"""The experiments: which prompts, which methods, which gates."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from demo import corpus
from demo.cldr import LANGUAGES, LOW_RESOURCE, Term, load_terms
from demo.gates import DEFAULT, PAPER, UNADJUSTED
from demo.prompts import DemoPrompt
from lcg_cpp.demo import GATES
from lcg_cpp.evaluate.methods import Method, builtin_methods
from lcg_cpp.gate.gate_file import OUTTYPES
from lcg_cpp.gate.options import LEAST_CONFIDENCE_TEMPERATURE, PAPER_OPTIONS, GateOptions
from lcg_cpp.train.options import TrainOptions

SEED = 0  # the demo's
SHIPPED = str(GATES["default"])

N_BARS = 8_400
N_METHODS = 2_800
N_SWEEP = 1_400  # each value of a sweep; whole rounds of seven languages and eight kinds
N_OTHER = 1_400
N_LONG = 700
LONG_LISTS = (9, 12)  # items; the model was trained on 4 to 6
LONG_TOKENS = 180

WIDTHS = (0, 4, 16, 64, None)
LABELS = ((20, 0.95), (5, 0.9), (3, 0.7), (1, 1.0))
TRAINING_SEEDS = (0, 1, 2, 3, 4)
THRESHOLDS = (0.05, 0.2, 0.35, 0.5, 0.65, 0.8, 0.95)
TEMPERATURES = (0.0, 0.2, 0.5, 0.7, 1.0, 1.5)
LOW_TEMPERATURES = tuple(t for t in TEMPERATURES if 0 < t < LEAST_CONFIDENCE_TEMPERATURE)

# of the methods, those that differ in one thing
PAIRS = (
    ("unadjusted, paper's rules", "adjusted, paper's rules"),
    ("rules-only", "adjusted, paper's rules"),
    ("adjusted", "lcg"),
    ("lcg, no first token", "lcg"),
    ("lcg, no persistence", "lcg"),
    ("lcg, no confidence", "lcg"),
    ("lcg, paper's families", "lcg"),
)


def width_name(width: int | None) -> str:
    """As tables have it."""
    return {None: "full (160)", 0: "linear"}.get(width, str(width))


def gates() -> dict[str, TrainOptions]:
    """Every gate that is trained, by the name of its file."""
    found = {"unadjusted": UNADJUSTED, "adjusted": PAPER, "paper's families": replace(DEFAULT, rules="paper")}
    found.update({f"width {width_name(width)}": replace(DEFAULT, n_hidden=width) for width in WIDTHS})
    found.update({f"labels {k} / {p:g}": replace(DEFAULT, top_k=k, top_p=p) for k, p in LABELS})
    found.update({f"seed {seed}": replace(DEFAULT, seed=seed) for seed in TRAINING_SEEDS})
    return found


@dataclass(frozen=True)
class Experiment:
    """Methods on prompts.

    Attributes:
        prompts: Makes the prompts.
        methods: The ways to generate; the first is what the others are compared with.
        max_tokens: Of a reply.
    """

    prompts: Callable[[], list[DemoPrompt]]
    methods: tuple[Method, ...]
    max_tokens: int | None = None


def experiments(files: Mapping[str, Path]) -> dict[str, Experiment]:
    """All of them, by name.

    Args:
        files: The trained gates.
    """
    builtin = builtin_methods(SHIPPED)
    none, lcg = builtin["none"], builtin["lcg"]

    def gated(name: str, gate: str, options: GateOptions = GateOptions()) -> Method:  # noqa: B008 (frozen)
        return Method(name, options, str(files[gate]))

    def sweep(methods: Iterable[Method], baseline: Method = none) -> Experiment:
        return Experiment(lambda: contaminated(N_SWEEP, "sweep"), (baseline, *methods))

    return {
        "bars": Experiment(lambda: contaminated(N_BARS, "bars"), (none, lcg)),
        "methods": Experiment(
            lambda: contaminated(N_METHODS, "methods"),
            (
                *(builtin[name] for name in ("none", "greedy", "prompt", "ban", "rules-only", "gate-only")),
                gated("unadjusted, paper's rules", "unadjusted", PAPER_OPTIONS),
                gated("adjusted, paper's rules", "adjusted", PAPER_OPTIONS),
                gated("unadjusted", "unadjusted"),
                gated("adjusted", "adjusted"),
                lcg,
                gated("lcg, paper's families", "paper's families"),
                replace(lcg, name="lcg, no first token", options=GateOptions(first_token=False)),
                replace(lcg, name="lcg, no persistence", options=GateOptions(persistence=False)),
                replace(lcg, name="lcg, no confidence", options=GateOptions(confidence=False)),
                builtin["lcg-soft"],
            ),
        ),
        "other": Experiment(other_languages, (none, lcg)),
        "long": Experiment(long_lists, (none, lcg), LONG_TOKENS),
        "context": Experiment(behind_a_list, (none, lcg)),
        "threshold": sweep(replace(lcg, name=f"{t:g}", options=GateOptions(threshold=t)) for t in THRESHOLDS),
        "width": sweep(gated(width_name(width), f"width {width_name(width)}") for width in WIDTHS),
        "labels": sweep(gated(f"{k} / {p:g}", f"labels {k} / {p:g}") for k, p in LABELS),
        "seeds": sweep(gated(f"seed {seed}", f"seed {seed}") for seed in TRAINING_SEEDS),
        "quantized": sweep(gated(outtype, f"type {outtype}") for outtype in OUTTYPES),
        **{
            f"temperature {t:g}": sweep([replace(lcg, temperature=t)], replace(none, temperature=t))
            for t in TEMPERATURES
        },
        **{
            f"temperature {t:g}, paper's confidence": sweep(
                [replace(lcg, temperature=t, options=GateOptions(confidence_temperature=0.0))],
                replace(none, temperature=t),
            )
            for t in LOW_TEMPERATURES
        },
    }


# ---- prompts ----


def as_prompts(examples: list[corpus.Example]) -> list[DemoPrompt]:
    """As the package reads them."""
    return [
        DemoPrompt(example.prompt, example.reference, LANGUAGES[example.language], example.switch, example.items, i)
        for i, example in enumerate(examples)
    ]


def contaminated_terms() -> list[Term]:
    """The terms that the gates never saw, part of whose names are contaminated."""
    return corpus.split_terms(load_terms(), SEED)[0]


def contaminated(n: int, stream: str) -> list[DemoPrompt]:
    """As the demo's prompts: contaminated languages in turn, every fourth with a switch."""
    return as_prompts(corpus.evaluation_examples(contaminated_terms(), n, f"{SEED} results {stream}"))


def other_languages() -> list[DemoPrompt]:
    """Prompts for the languages that no training text contaminates."""
    languages = [language for language in LANGUAGES if language not in LOW_RESOURCE]
    stream = corpus.Corpus(contaminated_terms(), f"{SEED} results other")
    return as_prompts([stream.draw(languages[i % len(languages)]) for i in range(N_OTHER)])


def long_lists() -> list[DemoPrompt]:
    """Prompts that list twice as many names as any text that the model was trained on."""
    stream = corpus.Corpus(contaminated_terms(), f"{SEED} results long")
    examples = [stream.draw(LOW_RESOURCE[i % len(LOW_RESOURCE)], None, LONG_LISTS) for i in range(N_LONG)]
    return as_prompts(examples)


def behind_a_list() -> list[DemoPrompt]:
    """Prompts behind a list that was asked for and answered before, which no text that the model was trained on has."""
    clean = corpus.Corpus(corpus.split_terms(load_terms(), SEED)[1], f"{SEED} results context")
    earlier = (clean.draw() for _ in range(N_LONG))
    return [
        replace(prompt, prompt=f"{example.prompt}{example.reply}\n{prompt.prompt}")
        for example, prompt in zip(earlier, contaminated(N_LONG, "context"))
    ]
