from collections.abc import Sequence
from typing import TypedDict

import numpy as np
import numpy.typing as npt

Families = list[int]

class Event(TypedDict):
    reply: int
    position: int
    last: int | None
    observed: bool
    predicted: Families
    allowed: Families
    banned: Families
    z: list[float]
    removed: list[tuple[int, float]]
    left: list[tuple[int, float]]
    chosen: int

class Stats(TypedDict):
    steps: int
    gate_runs: int
    interventions: int
    observed: int
    not_confident: int
    without_hidden: int
    removed_mass: float
    gate_seconds: float
    pin_yields: int

def host_functions() -> list[str]: ...
def set_host_api(addresses: dict[str, int]) -> None: ...
def host_layouts() -> dict[str, dict[str, int]]: ...
def read_vocab(vocab: int) -> tuple[bytes, npt.NDArray[np.int64], npt.NDArray[np.uint32]]: ...
def has_tokenizer_hash(vocab: int, hash: str) -> bool: ...

class GateFile:
    @property
    def metadata(self) -> dict[str, object]: ...
    @property
    def tensors(self) -> dict[str, tuple[str, tuple[int, ...]]]: ...

def parse_gate_file(data: bytes, source: str) -> GateFile: ...

class Rules:
    def __init__(
        self,
        thresholds: Sequence[float],
        first_thresholds: Sequence[float],
        allow_thresholds: Sequence[float],
        persistence: bool,
        confidence: bool,
        first_token: bool,
        confidence_temperature: float,
    ) -> None: ...

PROMPT_END: int

def named_marks() -> dict[str, tuple[tuple[tuple[str, str], ...], bool]]: ...
def character_families() -> npt.NDArray[np.uint8]: ...
def denied_families(allow: str, deny: str) -> list[int]: ...

class TokenTexts:
    def __init__(self, bytes: bytes, offset: npt.NDArray[np.int64]) -> None: ...

class LetterTable:
    def __init__(
        self, family: npt.NDArray[np.uint8], neutral: int, texts: TokenTexts, free: npt.NDArray[np.uint8]
    ) -> None: ...

class Pin:
    def __init__(self, table: LetterTable, denied: list[int], kept: list[int]) -> None: ...
    def away(self, tokens: list[int]) -> npt.NDArray[np.bool_]: ...

class Conduct:
    def __init__(self, mode: str, rules: Rules, strength: float, pinned: Pin | None = None) -> None: ...

class Phase:
    def __init__(self, begin: bytes | list[int], end: bytes | list[int], leading: bool, options: Conduct) -> None: ...

class PhaseSet:
    def __init__(self, texts: TokenTexts, phases: list[Phase]) -> None: ...

class StageOptions:
    def __init__(self, usual: Conduct, n_events: int, eager: bool, phases: PhaseSet | None = None) -> None: ...

class ChainFacts: ...

class Gate:
    def __init__(self, file: GateFile, device: str) -> None: ...
    @property
    def device(self) -> str: ...
    @property
    def architecture(self) -> str: ...
    @property
    def rules(self) -> str: ...
    @property
    def tokenizer_hash(self) -> str: ...
    @property
    def fingerprint(self) -> str: ...
    @property
    def n_embd(self) -> int: ...
    @property
    def n_hidden(self) -> int: ...
    @property
    def n_vocab(self) -> int: ...
    @property
    def families(self) -> list[str]: ...
    @property
    def maskable(self) -> list[bool]: ...
    @property
    def neutral(self) -> int: ...
    @property
    def thresholds(self) -> list[float]: ...
    @property
    def first_thresholds(self) -> list[float]: ...
    @property
    def allow_thresholds(self) -> list[float]: ...
    @property
    def exempt_tokens(self) -> list[int]: ...
    @property
    def confidence(self) -> list[tuple[int, float]]: ...
    @property
    def masked_as(self) -> npt.NDArray[np.uint8]: ...
    @property
    def token_families(self) -> npt.NDArray[np.uint8]: ...
    def predict(self, hidden: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]: ...
    def training_free(
        self,
        families: npt.NDArray[np.uint8],
        norms: npt.NDArray[np.float32] | None,
        top_k: int,
        top_p: float,
        softcap: float,
        siblings: Sequence[int],
    ) -> Gate: ...
    def decide(
        self,
        ids: npt.NDArray[np.int32],
        logits: npt.NDArray[np.float32],
        survivors: npt.NDArray[np.int32],
        z: npt.NDArray[np.float32],
        last: int | None,
        temperature: float,
        rules: Rules,
        strength: float,
    ) -> tuple[int, Families, Families, Families, tuple[npt.NDArray[np.int32], npt.NDArray[np.float32]]]: ...

def family_labels(
    logits: npt.NDArray[np.float32],
    norms: npt.NDArray[np.float32] | None,
    families: npt.NDArray[np.uint8],
    n_families: int,
    top_k: int,
    top_p: float,
    soft: bool,
    softcap: float,
    n_threads: int,
) -> npt.NDArray[np.float32]: ...
def read_likely(
    logits: npt.NDArray[np.float32],
    norms: list[npt.NDArray[np.float32] | None],
    order: int,
    n_best: int,
    softcap: float,
    n_threads: int,
) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.float64]]: ...
def read_steps(
    logits: npt.NDArray[np.float32],
    n_best: int,
    top_k: int,
    top_p: float,
    temperature: float,
    confident_at: float,
    confidence: list[tuple[int, float]],
    n_threads: int,
) -> tuple[
    npt.NDArray[np.int32],
    npt.NDArray[np.float32],
    npt.NDArray[np.float64],
    npt.NDArray[np.int32],
    npt.NDArray[np.int32],
]: ...
def judge(
    rules: Rules,
    strength: float,
    maskable: npt.NDArray[np.bool_],
    z: npt.NDArray[np.float32],
    last: npt.NDArray[np.int64],
    survivors: npt.NDArray[np.bool_],
    confident: npt.NDArray[np.bool_],
    confident_masked: npt.NDArray[np.bool_],
) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.bool_], npt.NDArray[np.bool_], npt.NDArray[np.bool_]]: ...
def tap_callback() -> int: ...

class Tap:
    active: bool
    capacity: int
    def __init__(self, capacity: int, keys: bool = False) -> None: ...
    @property
    def address(self) -> int: ...
    @property
    def n_embd(self) -> int: ...
    def forget(self) -> None: ...
    def row_of(self, context: int, row: int, n_vocab: int) -> npt.NDArray[np.float32] | None: ...
    def newest(self, n: int) -> npt.NDArray[np.float32]: ...

class StagePair:
    def __init__(self, gate: Gate, options: StageOptions) -> None: ...
    @staticmethod
    def without_gate(n_vocab: int, options: StageOptions) -> StagePair: ...
    @property
    def has_gate(self) -> bool: ...
    def set_options(self, options: StageOptions) -> None: ...
    def begin_reply(self, facts: ChainFacts, continued: bool = False) -> None: ...
    def read_prompt(self, tokens: list[int]) -> None: ...
    @property
    def phase(self) -> int | None: ...
    def insert(self, chain: int, temperature: float, top_k: int) -> tuple[int, int, ChainFacts]: ...
    def sample(self, chain: int, context: int, row: int, tap: Tap) -> int: ...
    def apply_row(
        self, chain: int, logits: npt.NDArray[np.float32], hidden: npt.NDArray[np.float32] | None, direct: bool
    ) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.float32]]: ...
    def stats(self) -> Stats: ...
    def events(self) -> list[Event]: ...
    def reset_stats(self) -> None: ...
