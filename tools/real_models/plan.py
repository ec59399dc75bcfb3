"""What is trained and measured: the commands of every step, so that each can be run alone, and again.

Everything here works without a network, from a GGUF file and two files of texts.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass, field, replace
from pathlib import Path

from lcg_cpp.measure.language_id import language_script

from .copies import COPIES

Command = tuple[str, ...]

PROSE = ("udhr", "manuals")
KINDS = (*PROSE, "starts")  # of clean texts
UNMEASURED = "respell"  # requests so rare that no threshold should make room for them

# Languages of `lcg-cpp data synth` that the models know well enough to answer in.
LANGUAGES = (
    "en", "zh", "ja", "ko", "ar", "he", "th", "hi", "ru", "el", "es", "fr", "de", "bn", "fa", "ur", "ta", "te", "uk",
    "ka", "hy", "am", "mr", "vi", "id", "tr", "bg", "sr", "pl", "pt", "it", "zh_Hant",
)  # fmt: skip
NOT_LATIN = tuple(code for code in LANGUAGES if language_script(code) != "Latn")


@dataclass(frozen=True)
class Fit:
    """A gate that is fitted to kept states."""

    options: tuple[str, ...] = ()
    data: tuple[str, ...] = ("udhr", "manuals", "starts:2", "replies:2", "hant:2", "respell")  # with weights


_SCRIPTS = ("--rules", "scripts", "--hidden", "256")
MAIN = "scripts"  # the gate that is compared with everything else
FITS = {
    MAIN: Fit(_SCRIPTS),
    "udhr": Fit(_SCRIPTS, data=("udhr",)),
    "replies": Fit(_SCRIPTS, data=("replies",)),
    "no-manuals": Fit(_SCRIPTS, data=("udhr", "starts:2", "replies:2", "hant:2", "respell")),
    "no-replies": Fit(_SCRIPTS, data=("udhr", "manuals", "starts:2")),  # `hant` and `respell` are replies too
    "no-starts": Fit(_SCRIPTS, data=("udhr", "manuals", "replies:2", "hant:2", "respell")),
    "no-hant": Fit(_SCRIPTS, data=("udhr", "manuals", "starts:2", "replies:2")),
    "likely": Fit((*_SCRIPTS, "--label-scripts", "likely")),
    "no-window": Fit((*_SCRIPTS, "--window", "0")),
    "window-24": Fit((*_SCRIPTS, "--window", "24")),
    "labels-20": Fit((*_SCRIPTS, "--label-top-k", "20", "--label-top-p", "0.95")),
    "norm-none": Fit((*_SCRIPTS, "--norm", "none")),
    "hidden-64": Fit((*_SCRIPTS, "--hidden", "64")),
    "hidden-full": Fit((*_SCRIPTS, "--hidden", "full")),
    "no-thresholds": Fit((*_SCRIPTS, "--max-missed", "1")),
    "positions-reply": Fit((*_SCRIPTS, "--positions", "reply")),
    "four": Fit(("--rules", "default", "--hidden", "256")),
    "paper": Fit(("--preset", "paper", "--rules", "paper")),
}
CURVE = (5_000, 20_000, 60_000)  # tokens of the learning curve's gates, besides all
FITS.update({f"tokens-{n}": Fit((*_SCRIPTS, "--tokens", str(n))) for n in CURVE})


@dataclass(frozen=True)
class Run:
    """Replies: some methods on one benchmark with one sampling, in a folder of their own."""

    methods: str  # as for `lcg-cpp eval`; `lcg` has the main gate, {NAME} is that of a fit
    benchmark: str = "everyday"  # {NAME} is one of `Plan.benchmarks`
    options: tuple[str, ...] = ()
    seeds: int = 1
    copy: str = ""  # of `COPIES`: the quantization that answers; empty: the model itself


PAIRS = 24  # of runs whose speeds are compared
PAPER_SAMPLING = ("--temp", "0.3", "--top-p", "0.75", "--top-k", "0")  # of the Language Confusion Benchmark
RUNS = {
    "none": Run("none", seeds=3),
    "lcg": Run("lcg", seeds=3),
    "baselines": Run("greedy,prompt,ban"),
    "training-free": Run("training-free"),
    "rules": Run("rules-only,later=lcg+first_token=off"),
    "four": Run("four={four}"),
    "paper": Run("paper={paper}"),
    "fits-data": Run("udhr={udhr},replies={replies},positions-reply={positions-reply},no-thresholds={no-thresholds}"),
    "fits-labels": Run("no-window={no-window},labels-20={labels-20},norm-none={norm-none},hidden-64={hidden-64}"),
    "curve": Run(",".join(f"tokens-{n}={{tokens-{n}}}" for n in CURVE)),
    "cool": Run("none,lcg", options=("--temp", "0.2")),
    "hot": Run("none,lcg", options=("--temp", "1.0")),
    "lcb": Run("none,lcg", "lcb:{lcb}", PAPER_SAMPLING),
    "translation": Run("none,lcg", "{translation}"),
    "code": Run("none,lcg", "{code}", ("--temp", "0")),
    **{copy: Run("none,lcg", copy=copy) for copy in COPIES},
}


@dataclass(frozen=True)
class Plan:
    """The work on one model.

    Attributes:
        model: The GGUF file.
        folder: Where everything is kept.
        lcb: A clone of the Language Confusion Benchmark's repository; None leaves its runs out.
        engine: Options of every command that evaluates the model: `-t`, `-ngl` and the like.
        texts: Prompts that the model answers to learn from, in Chinese and in all languages each.
        replies: Options of `lcg-cpp data synth`.
        runs: Options of `lcg-cpp eval`, such as a limit of prompts.
        seeds: Seeds of the runs that have several.
        only: Names of fits and runs; all if it is empty.
        start: The gate file that the main gate goes on from; None begins anew.
        is_chat: Whether the model answers questions. From a model that does not, a gate learns on prose alone.
    """

    model: Path
    folder: Path
    lcb: Path | None = None
    engine: tuple[str, ...] = ()
    texts: int = 1000
    replies: tuple[str, ...] = ("-n", "200")
    runs: tuple[str, ...] = ()
    seeds: int = 3
    only: frozenset[str] = field(default_factory=frozenset)
    start: Path | None = None
    is_chat: bool = True

    def text_file(self, kind: str) -> Path:
        """Texts of one of `KINDS`, balanced, or of the model's Chinese replies: `hant`, `respell`; see `mix`."""
        return self.folder / f"{kind}.jsonl"

    @property
    def test(self) -> Path:
        """Articles and pages of them that no gate learns from."""
        return self.folder / "test.jsonl"

    @property
    def said(self) -> list[Path]:
        """The model's own replies: the files that are there."""
        return sorted(self.folder.glob("replies-*.jsonl"))

    @property
    def clean(self) -> Path:
        """Those of its replies that a gate may learn from."""
        return self.folder / "clean.jsonl"

    @property
    def bans(self) -> Path:
        """What the gates would ban of these articles."""
        return self.folder / "bans.json"

    @property
    def speed(self) -> Path:
        """How fast the model generates with and without its gate."""
        return self.folder / "speed.json"

    @property
    def benchmarks(self) -> dict[str, str]:
        """What the runs call the benchmarks that are not built in, and their places."""
        own = {name: str(self.folder / f"{name}.jsonl") for name in ("translation", "code")}
        return {"lcb": str(self.lcb), **own}

    def copy(self, quantization: str) -> Path:
        """The model in another quantization; the model itself if it is empty."""
        return self.folder / f"{self.model.stem}-{quantization}.gguf" if quantization else self.model

    def gate(self, name: str) -> Path:
        """The gate of a fit."""
        return self.folder / "gates" / f"{name}.gguf"

    def states(self, name: str) -> Path:
        """What the model makes of the texts of a kind, of its own `replies`, or of the `test` (and `test-Q8_0`, …)."""
        return self.folder / f"states-{name}"

    def run(self, name: str) -> Path:
        """The folder of a run."""
        return self.folder / "runs" / name

    def reply_commands(self, parts: int) -> list[Command]:
        """Let the model answer prompts, in parts that can be made at once.

        Chinese and Japanese have a part of their own besides: which of their families comes next is hardest to tell.
        So have questions about technology in the languages with other letters, whose answers rightly hold Latin words,
        and Chinese, whose replies are learned from in traditional characters too: a model that slips into simplified
        ones shows hardly a trace of what it has written so far, which takes many lessons to see.
        """
        if not self.is_chat:
            return []
        asked = [(str(part), LANGUAGES, -(-self.texts // parts), "") for part in range(parts)]
        asked.append(("cj", ("zh", "zh_Hant", "ja"), -(-self.texts // 10), ""))
        asked.append(("tech", NOT_LATIN, -(-self.texts // 3), "tech,table,command"))
        asked.append(("zh", ("zh",), self.texts, "about,words,free"))
        return [
            self._lcg(
                "data", "synth", "-o", str(self.folder / f"replies-{name}.jsonl"), "--resume", "--seed", str(seed),
                "--languages", ",".join(languages), *(("--kinds", kinds) if kinds else ()), "--texts", str(n),
                *self.replies, *self.engine,
            )
            for seed, (name, languages, n, kinds) in enumerate(asked)
        ]  # fmt: skip

    def state_commands(self) -> list[Command]:
        """Evaluate the model on the texts, and its copies on those that no gate learns from, once."""
        data = {"test": self.test, **{kind: self.text_file(kind) for kind in KINDS}}
        data.update({"replies": self.clean, **{kind: self.text_file(kind) for kind in ("hant", "respell")}})
        needed = {"test", *(name.partition(":")[0] for fit in self._fits().values() for name in fit.data)}
        models = {name: (self.model, file) for name, file in data.items() if name in needed}
        models.update({f"test-{name}": (self.copy(name), self.test) for name in self.copies})
        return [
            self._lcg("train", "-d", str(file), "--keep-states", str(self.states(name)), *self.engine, model=model)
            for name, (model, file) in models.items()
        ]

    def gate_commands(self) -> list[Command]:
        """Fit the gates that are not there."""
        start = {MAIN: ("--from", str(self.start))} if self.start else {}
        return [
            self._lcg("train", *self._states_of(fit), "-o", str(self.gate(name)), *fit.options, *start.get(name, ()))
            for name, fit in self._fits().items()
            if not self.gate(name).exists()
        ]

    def run_commands(self) -> list[Command]:
        """Let the model answer the benchmarks by every method."""
        return [self._eval(name, run) for name, run in self._runs().items()]

    def speed_command(self) -> Command:
        """Generate with and without the gate in turn, and print how fast each was."""
        runs = ("--benchmark", "everyday", "--repetitions", str(PAIRS), "--n-prompt", "64", "--json")
        return self._lcg("bench", "--lcg", str(self.gate(MAIN)), *runs, *self.engine)

    def _eval(self, name: str, run: Run) -> Command:
        gates = {fit: str(self.gate(fit)) for fit in FITS}
        lcg = ("--lcg", gates[MAIN]) if "lcg" in run.methods else ()
        what = ("--methods", run.methods.format_map(gates), "--benchmark", run.benchmark.format_map(self.benchmarks))
        seeds = ("--seeds", str(min(run.seeds, self.seeds)))
        where = ("-o", str(self.run(name)), "--no-page")
        options = (*seeds, *run.options, *self.runs, *self.engine)
        return self._lcg("eval", *lcg, *what, *where, *options, model=self.copy(run.copy))

    def _lcg(self, *words: str, model: Path | None = None) -> Command:
        """A command of lcg-cpp on the model, or on a copy."""
        n = 2 if words[0] == "data" else 1  # words of its name
        return (sys.executable, "-m", "lcg_cpp", *words[:n], "-m", str(model or self.model), *words[n:])

    def _states_of(self, fit: Fit) -> list[str]:
        parts = (source.partition(":") for source in fit.data)
        return [
            word
            for name, *weight in parts
            for word in ("--unmeasured" if name == UNMEASURED else "--states", str(self.states(name)) + "".join(weight))
        ]

    @property
    def _possible_fits(self) -> dict[str, Fit]:
        if self.is_chat:
            return FITS
        prose = {name: tuple(of for of in fit.data if of in PROSE) for name, fit in FITS.items()}
        left = {name: replace(FITS[name], data=data) for name, data in prose.items() if data}
        first = {fit: name for name, fit in reversed(left.items())}  # some differed in what is left out
        return {name: fit for name, fit in left.items() if first[fit] == name}

    def _fits(self) -> dict[str, Fit]:
        return {name: fit for name, fit in self._possible_fits.items() if not self.only or name in self.only}

    @property
    def copies(self) -> list[str]:
        """Quantizations that are measured too."""
        return [name for name in COPIES if not self.only or name in self.only]

    def _runs(self) -> dict[str, Run]:
        impossible = [f"{{{fit}}}" for fit in FITS.keys() - self._possible_fits.keys()]
        return {
            name: run
            for name, run in RUNS.items()
            if (not self.only or name in self.only)
            and (self.lcb is not None or name != "lcb")
            and not any(gate in run.methods for gate in impossible)
        }
