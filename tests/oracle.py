"""The decoding rules in NumPy, float64, written from their description alone, and llama.cpp's truncation samplers.

Nothing here shares code or structure with the C++ core: every step evaluates every rule on all the data, sorts the
whole vocabulary and builds Python sets. Where a decision hangs on a comparison of floats, the distance to the border is
kept in `margin`, so that a test can leave out what rounding decides.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, field
from functools import cache

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Rules:
    """What a gate file says about families.

    Attributes:
        family: int (n_vocab,), family of each token, exemptions applied.
        maskable: For each family, whether it may be banned.
        neutral: Index of the family that is no language.
        threshold: A family is predicted when the sigmoid of its z reaches this.
        own_thresholds: One for each family instead; empty: the same for all.
        first_thresholds: Those where no language token was generated yet; empty: as later.
        masked_as: Token -> the family whose ban removes it, where that is not its own.
        allow_thresholds: A family whose sigmoid reaches its own is allowed, predicted or not; empty: none is.
        confidence: The (k, p) pairs whose topkp sets form H.
    """

    family: Ints
    maskable: tuple[bool, ...]
    neutral: int
    threshold: float = 0.5
    confidence: tuple[tuple[int, float], ...] = ((5, 0.999), (20, 0.95))
    own_thresholds: tuple[float, ...] = ()
    first_thresholds: tuple[float, ...] = ()
    masked_as: dict[int, int] = field(default_factory=dict)
    allow_thresholds: tuple[float, ...] = ()

    def goes_with(self, token: int) -> int:
        """The family whose ban removes a token."""
        return self.masked_as.get(token, int(self.family[token]))


def draw_masked_as(rng: np.random.Generator, n_vocab: int, n_families: int) -> dict[int, int]:
    """A few tokens that go with another family than their own."""
    tokens = rng.choice(n_vocab, n_vocab // 8, replace=False)
    return {int(token): int(rng.integers(n_families)) for token in tokens}


def draw_allowed(rng: np.random.Generator, n_families: int) -> tuple[float, ...]:
    """From which probability families may come, or nothing; 1 for those that must be predicted."""
    return tuple(rng.choice([0.03, 0.3, 0.6, 1.0], n_families).tolist()) if rng.random() < 0.4 else ()


@dataclass(frozen=True)
class Switches:
    """The user's options, with the defaults of the paper."""

    strength: float = math.inf
    threshold: float | None = None
    persistence: bool = True
    confidence: bool = True
    confidence_temperature: float = 0.0
    first_token: bool = False


@dataclass(frozen=True)
class Outcome:
    """What the rules decide for one step.

    Attributes:
        reason: "intervene", "no_history", "nothing_banned", "not_confident" or "would_empty".
        predicted: P, family indices.
        allowed: A.
        banned: B.
        confident: H, token ids.
        candidates: Token id -> logit of what may be sampled afterwards.
        margin: Distance of the closest float comparison from its border: cumulative probabilities and sigmoids.
    """

    reason: str
    predicted: frozenset[int]
    allowed: frozenset[int]
    banned: frozenset[int]
    confident: frozenset[int]
    candidates: dict[int, float]
    margin: float = field(compare=False, default=math.inf)

    @property
    def intervene(self) -> bool:
        """Whether the candidates were changed."""
        return self.reason == "intervene"


def softmax(logits: npt.ArrayLike, temperature: float = 1.0) -> Floats:
    """Returns the probabilities of `logits / temperature`; -inf gets 0."""
    scaled = np.asarray(logits, np.float64) / temperature
    weights = np.exp(scaled - scaled.max())
    return weights / weights.sum()


def ranking(ids: npt.ArrayLike, logits: npt.ArrayLike) -> Ints:
    """Returns the positions of the candidates, most probable first, the lower id first among equals."""
    return np.lexsort((np.asarray(ids), -np.asarray(logits, np.float64)))


def topkp(
    ids: npt.ArrayLike, logits: npt.ArrayLike, k: int, p: float, temperature: float = 1.0
) -> tuple[list[int], float]:
    """Keeps at most k tokens, and of these each token whose more-probable predecessors sum to less than p.

    Returns:
        The ids kept, most probable first, and how close a predecessors' sum came to p.
    """
    ids = np.asarray(ids, np.int64)
    logits = np.asarray(logits, np.float64)
    finite = logits > -math.inf
    ids, logits = ids[finite], logits[finite]
    if len(ids) == 0:
        return [], math.inf
    probability = softmax(logits, temperature)
    order = ranking(ids, logits)
    kept: list[int] = []
    before = 0.0
    margin = math.inf
    for position in order[:k]:
        if kept:  # the sum before the first token is exactly zero
            margin = min(margin, abs(before - p))
        if before < p:
            kept.append(int(ids[position]))
        before += float(probability[position])
    return kept, margin


def predict(z: npt.ArrayLike, thresholds: npt.ArrayLike) -> tuple[frozenset[int], float]:
    """Returns P: the families whose sigmoid reaches their threshold, and the most probable one; and the margin."""
    z = np.asarray(z, np.float64)
    sigmoid = np.where(z >= 0, 1 / (1 + np.exp(-np.abs(z))), np.exp(-np.abs(z)) / (1 + np.exp(-np.abs(z))))
    bars = np.broadcast_to(np.asarray(thresholds, np.float64), z.shape)
    families = {f for f in range(len(z)) if sigmoid[f] >= bars[f]}
    families.add(int(np.argmax(z)))
    gaps = [abs(float(s - bar)) for s, bar in zip(sigmoid, bars) if s != bar and bar < 1]  # who reaches 1 is predicted
    return frozenset(families), min(gaps, default=math.inf)


def last_family(rules: Rules, generated: list[int]) -> int | None:
    """Returns the family of the most recent generated token that is not neutral, or None."""
    for token in reversed(generated):
        family = int(rules.family[token])
        if family != rules.neutral:
            return family
    return None


def decide(
    rules: Rules,
    ids: npt.ArrayLike,
    logits: npt.ArrayLike,
    survivors: npt.ArrayLike,
    z: npt.ArrayLike,
    *,
    last: int | None,
    temperature: float = 1.0,
    switches: Switches = Switches(),
) -> Outcome:
    """Applies the decoding rules to explicit data.

    Args:
        rules: The gate's families.
        ids: (n,) the candidates C.
        logits: (n,) their logits.
        survivors: (m,) the ids of S.
        z: (n_families,) the gate's output.
        last: Family of the last generated token that is not neutral.
        temperature: T.
        switches: Options.
    """
    ids = np.asarray(ids, np.int64)
    logits = np.asarray(logits, np.float64)
    logit_of = {int(i): float(x) for i, x in zip(ids, logits)}
    stock = {int(i): logit_of[int(i)] for i in np.asarray(survivors, np.int64)}
    s_set = {i for i, x in stock.items() if x > -math.inf}
    family = {i: int(rules.family[i]) for i in logit_of}

    thresholds: npt.ArrayLike = rules.own_thresholds or rules.threshold
    if last is None and rules.first_thresholds:
        thresholds = rules.first_thresholds
    if switches.threshold is not None:
        thresholds = switches.threshold
    predicted, margin = predict(z, thresholds)
    allowed = set(predicted)
    if rules.allow_thresholds and switches.threshold is None:
        likely, distance = predict(z, rules.allow_thresholds)
        allowed |= likely
        margin = min(margin, distance)
    if switches.persistence and last is not None:
        allowed.add(last)
    banned = {f for f, maskable in enumerate(rules.maskable) if maskable and f not in allowed}

    h_set: set[int] = set()
    for k, p in rules.confidence:
        kept, distance = topkp(ids, logits, k, p, max(temperature, switches.confidence_temperature))
        h_set |= set(kept)
        margin = min(margin, distance)

    def outcome(reason: str, candidates: dict[int, float]) -> Outcome:
        return Outcome(
            reason, predicted, frozenset(allowed), frozenset(banned), frozenset(h_set), dict(candidates), margin
        )

    if last is None and switches.persistence and not switches.first_token:
        return outcome("no_history", stock)
    if not any(rules.goes_with(i) in banned for i in s_set):
        return outcome("nothing_banned", stock)
    if switches.confidence and not any(family[i] in predicted for i in h_set):
        return outcome("not_confident", stock)
    union = s_set | h_set
    if math.isinf(switches.strength):
        after = {i: logit_of[i] for i in union if rules.goes_with(i) not in banned}
    else:
        after = {i: logit_of[i] - (switches.strength if rules.goes_with(i) in banned else 0.0) for i in union}
    if not after:
        return outcome("would_empty", stock)
    return outcome("intervene", after)


def plugin_slip(rules: Rules, ids: npt.ArrayLike, logits: npt.ArrayLike, temperature: float = 1.0) -> frozenset[int]:
    """Returns H as the reference plugin computes it: tokens of the 20/0.95 set outside the 5/0.999 set get lost."""
    (first, second) = (topkp(ids, logits, k, p, temperature)[0] for k, p in rules.confidence)
    return frozenset(first) | (frozenset(second) & frozenset(first))


# ---------------------------------------------------------------------------------------------------------------
# a whole step: truncation as llama.cpp does it, the gate, the rest of the chain


@dataclass(frozen=True)
class Chain:
    """The sampler settings of a request. `temp` 0 is greedy, below 0 plain random choice without truncation."""

    top_k: int = 40
    typical_p: float = 1.0
    top_p: float = 0.95
    min_p: float = 0.05
    temp: float = 0.8


@dataclass(frozen=True)
class Step:
    """The result of a whole step.

    Attributes:
        survivors: S, most probable first.
        outcome: The gate's decision, or None for a plain chain.
        candidates: Token id -> logit (divided by the temperature) of what the random choice sees.
        chosen: The token that greedy takes; None when the choice is random.
        margin: Distance of the closest float comparison from its border.
    """

    survivors: list[int]
    outcome: Outcome | None
    candidates: dict[int, float]
    chosen: int | None
    margin: float


def _by_rank(candidates: dict[int, float]) -> list[int]:
    ids = list(candidates)
    return [ids[position] for position in ranking(ids, [candidates[i] for i in ids])]


def truncate(candidates: dict[int, float], chain: Chain) -> tuple[dict[int, float], float]:
    """Applies top-k, typical and top-p in this order, each on what the one before left.

    Returns:
        The survivors with unchanged logits and the distance of the closest comparison from its border.
    """
    if chain.temp == 0.0:
        best = _by_rank(candidates)[0]
        return {best: candidates[best]}, math.inf
    if chain.temp < 0.0:
        return dict(candidates), math.inf
    margin = math.inf
    left = dict(candidates)
    if chain.top_k > 0:
        left = {i: left[i] for i in _by_rank(left)[: chain.top_k]}
    if chain.typical_p < 1.0:
        left, distance = _typical(left, chain.typical_p)
        margin = min(margin, distance)
    if chain.top_p < 1.0:
        order = _by_rank(left)
        probability = softmax([left[i] for i in order])
        kept = []
        total = 0.0
        for token, share in zip(order, probability):
            kept.append(token)
            total += float(share)
            margin = min(margin, abs(total - chain.top_p))
            if total >= chain.top_p:
                break
        left = {i: left[i] for i in kept}
    return left, margin


def _typical(candidates: dict[int, float], p: float) -> tuple[dict[int, float], float]:
    order = _by_rank(candidates)
    probability = softmax([candidates[i] for i in order])
    if float(probability.min()) < np.finfo(np.float32).tiny:
        return candidates, 0.0  # llama.cpp computes 0 * log 0 here, and sorts by NaN
    surprise = -np.log(probability)
    distance = np.abs(surprise - float(np.sum(probability * surprise)))
    by_typicality = np.argsort(distance, kind="stable")
    kept: list[int] = []
    total = 0.0
    margin = math.inf
    for position in by_typicality:
        kept.append(int(position))
        total += float(probability[position])
        margin = min(margin, abs(total - p))
        if total > p:
            break
    if len(kept) < len(order):
        # two tokens on different sides of the entropy can be equally typical
        margin = min(margin, abs(float(distance[by_typicality[len(kept)]] - distance[kept[-1]])))
        if len(kept) > 1:
            margin = min(margin, abs(float(distance[kept[-1]] - distance[kept[-2]])))
    return {order[position]: candidates[order[position]] for position in kept}, margin


def finish(candidates: dict[int, float], chain: Chain) -> tuple[dict[int, float], int | None, float]:
    """Applies min-p and temperature, or the greedy choice.

    Returns:
        Candidates with final logits, the greedy token, and the distance of the closest comparison from its border.
    """
    if chain.temp == 0.0:
        return dict(candidates), _by_rank(candidates)[0], math.inf
    if chain.temp < 0.0:
        return dict(candidates), None, math.inf
    left = dict(candidates)
    margin = math.inf
    if chain.min_p > 0.0:
        floor = max(left.values()) + math.log(chain.min_p)
        margin = min((abs(x - floor) for x in left.values()), default=math.inf)
        left = {i: x for i, x in left.items() if x >= floor}
    return {i: x / chain.temp for i, x in left.items()}, None, margin


@dataclass(frozen=True, eq=False)
class Letters:
    """All assigned characters: letters that must not come out, letters that may, and what is no letter."""

    denied: frozenset[str]
    allowed: frozenset[str]
    neutral: frozenset[str]


def pinned_away(tokens: list[bytes], free: list[bool], opened: bytes, letters: Letters) -> npt.NDArray[np.bool_]:
    """Which tokens a pin takes away, by writing out every character that pieces can become.

    Args:
        tokens: The bytes of each token.
        free: Tokens that are no text.
        opened: The bytes of an unfinished character before the token.
        letters: The characters.
    """
    return np.array([_is_pinned(token, f, opened, letters) for token, f in zip(tokens, free)])


@cache
def characters_of_bytes() -> tuple[dict[bytes, str], dict[bytes, list[str]]]:
    """Every character by its bytes, and by each start of them."""
    whole = {chr(c).encode(): chr(c) for c in range(0x110000) if not 0xD800 <= c <= 0xDFFF}
    becomes: dict[bytes, list[str]] = {}
    for data, character in whole.items():
        for n in range(1, len(data)):
            becomes.setdefault(data[:n], []).append(character)
    return whole, becomes


def _is_pinned(token: bytes, free: bool, opened: bytes, letters: Letters) -> bool:
    if free:
        return bool(opened)
    characters = characters_of_bytes()[0]
    data = opened + token
    while data:
        whole = next((n for n in (1, 2, 3, 4) if data[:n] in characters), None)
        if whole is None:
            blank = token[: len(token) - len(data)]
            begins_behind_blank = not opened and blank != b"" and blank.strip(b" \t\r\n") == b""
            return not _may_open(data, letters) or (begins_behind_blank and _may_be_denied_ideograph(data, letters))
        if characters[data[:whole]] in letters.denied:
            return True
        data = data[whole:]
    return False


@cache
def _may_open(data: bytes, letters: Letters) -> bool:
    becomes = characters_of_bytes()[1].get(data, [])  # empty: not UTF-8
    n_denied, n_allowed, n_neutral = (
        len(group.intersection(becomes)) for group in (letters.denied, letters.allowed, letters.neutral)
    )
    if len(data) == 1 and data[0] >= 0xF0:
        return n_neutral + n_allowed > 0
    return n_allowed > 0 or n_neutral > n_denied


def _may_be_denied_ideograph(data: bytes, letters: Letters) -> bool:
    """Whether the bytes E4 to E9, and perhaps another, can become a character that must not come out."""
    return 0xE4 <= data[0] <= 0xE9 and not letters.denied.isdisjoint(characters_of_bytes()[1][data])


def pin(row: npt.ArrayLike, away: npt.NDArray[np.bool_], strength: float) -> dict[int, float]:
    """Token id -> logit of C without what is pinned away, or with it where nothing else is left."""
    candidates = {i: float(x) for i, x in enumerate(np.asarray(row, np.float64))}
    if not math.isinf(strength):
        return {i: x - (strength if away[i] else 0.0) for i, x in candidates.items()}
    left = {i: x for i, x in candidates.items() if not away[i]}
    return left if any(x > -math.inf for x in left.values()) else candidates


@dataclass(frozen=True)
class Phase:
    """A part of a reply between two marks, bytes or ids of tokens; an empty one is the reply's start or its end."""

    begin: bytes | tuple[int, ...]
    end: bytes | tuple[int, ...]
    leading: bool = False


def phase_at_start(phases: list[Phase], texts: list[bytes], prompt: list[int]) -> int | None:
    """Index of the phase that is open when a reply to this prompt begins."""
    text = b"".join(texts[token] for token in prompt)
    for i, phase in enumerate(phases):
        if isinstance(phase.begin, bytes):
            found = re.search(re.escape(phase.begin) + rb"\s*\Z", text) is not None
        else:
            n = len(phase.begin)
            found = any(
                tuple(prompt[at : at + n]) == phase.begin and not b"".join(texts[t] for t in prompt[at + n :]).strip()
                for at in range(len(prompt) - n + 1)
            )
        if found and phase.begin and phase.begin != phase.end:
            return i
    return next((i for i, phase in enumerate(phases) if not phase.begin), None)


def follow_phases(
    phases: list[Phase], texts: list[bytes], tokens: list[int], prompt: list[int]
) -> tuple[list[int | None], list[int]]:
    """The phase that is open before each token of a reply and behind its last one, and the tokens that end in a mark.

    Everything since the newest mark is compared again at every byte and every token.
    """
    opened = phase_at_start(phases, texts, prompt)
    found, marks = [opened], []
    text, whole = b"", []  # since the newest mark: its bytes, and the tokens that begin behind it

    def completes(mark: bytes | tuple[int, ...], leading: bool) -> bool:
        if not mark:
            return False
        if isinstance(mark, bytes):
            return at_byte and text.endswith(mark) and not (leading and text[: -len(mark)].strip())
        before = text[: len(text) - sum(len(texts[t]) for t in mark)]
        return not at_byte and tuple(whole[-len(mark) :]) == mark and not (leading and before.strip())

    for token in tokens:
        marks_before = len(marks)
        for at_byte, piece in [*((True, bytes([b])) for b in texts[token]), (False, b"")]:
            text += piece
            if not at_byte:
                if len(marks) > marks_before:
                    break
                whole.append(token)
            if opened is None:
                now = next((i for i, phase in enumerate(phases) if completes(phase.begin, phase.leading)), None)
            else:
                now = None if completes(phases[opened].end, False) else opened
            if now != opened:
                opened, text, whole = now, b"", []
                marks.append(len(found) - 1)
        found.append(opened)
    return found, marks


def step(
    row: npt.ArrayLike,
    chain: Chain,
    *,
    rules: Rules | None = None,
    z: npt.ArrayLike | None = None,
    last: int | None = None,
    switches: Switches = Switches(),
    away: npt.NDArray[np.bool_] | None = None,
) -> Step:
    """One sampling step from a row of logits to the candidates of the random choice; without `rules` the plain chain.

    Args:
        row: (n_vocab,) logits after penalties, bias and grammar; -inf is forbidden.
        chain: Sampler settings.
        rules: The gate's families.
        z: (n_families,) the gate's output for this step.
        last: Family of the last generated token that is not neutral.
        switches: Options.
        away: (n_vocab,) which tokens are pinned away.
    """
    candidates = pin(row, away if away is not None else np.zeros(len(np.asarray(row)), bool), switches.strength)
    survivors, margin = truncate(candidates, chain)
    outcome = None
    left = survivors
    if rules is not None and z is not None:
        temperature = chain.temp if chain.temp > 0.0 else 1.0
        outcome = decide(
            rules,
            list(candidates),
            list(candidates.values()),
            list(survivors),
            z,
            last=last,
            temperature=temperature,
            switches=switches,
        )
        left = outcome.candidates
        margin = min(margin, outcome.margin)
    final, chosen, distance = finish(left, chain)
    return Step(_by_rank(survivors), outcome, final, chosen, min(margin, distance))


def gate_forward(weights: dict[str, npt.NDArray[np.float32]], hidden: npt.ArrayLike) -> Floats:
    """Returns z = W2 relu(W1 h), or W2 h for a linear gate, with the biases there are; float64 (..., n_families)."""
    x = np.asarray(hidden, np.float64)
    if "lcg.fc1.weight" in weights:
        x = x @ weights["lcg.fc1.weight"].astype(np.float64).T
        if "lcg.fc1.bias" in weights:
            x = x + weights["lcg.fc1.bias"]
        x = np.maximum(x, 0.0)
    z = x @ weights["lcg.fc2.weight"].astype(np.float64).T
    if "lcg.fc2.bias" in weights:
        z = z + weights["lcg.fc2.bias"]
    return z
