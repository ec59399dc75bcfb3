"""What gates do on clean texts, teacher forced: what they would ban wrongly, and which unwanted tokens they remove."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from lcg_cpp.data import Encoder, open_dataset
from lcg_cpp.engine.teacher import Teacher
from lcg_cpp.gate.decisions import DecodingRules, FamilyTable, last_families
from lcg_cpp.gate.families import family_set, text_families
from lcg_cpp.gate.gate import Gate
from lcg_cpp.gate.options import GateOptions
from lcg_cpp.gate.scripts import IMPLIED, SIBLINGS, families_of_script
from lcg_cpp.gate.spec import CONFIDENCE, spec_for
from lcg_cpp.gate.steps import Steps
from lcg_cpp.gate.walk import ForcedText, Walk
from prose.names import LANGUAGES, SCRIPTS

Bools = npt.NDArray[np.bool_]
Ints = npt.NDArray[np.int64]
Sets = tuple[tuple[int, float], ...]  # (top-k, top-p) of the sets whose union is H, what a model is confident about

# kinds of unwanted tokens
LATIN, HAN, OTHER, SIBLING = "Latin", "Chinese or Japanese", "another script", "other Han"
KINDS = (LATIN, HAN, OTHER, SIBLING)

_CODES = {name: code for code, name in LANGUAGES.items()}
_SCRIPT_FAMILIES = family_set("scripts")


def right_families(text: str, code: str) -> frozenset[str]:
    """The families of the rule set `scripts` that are right in a text: its language's and those it holds itself."""
    right = families_of_script(SCRIPTS[code]) | text_families(text, _SCRIPT_FAMILIES)
    return right.union(*(IMPLIED[family] for family in right & SIBLINGS))


def kind_of(family: str, code: str) -> str:
    """What an unwanted token of a family is in a text of a language."""
    if family not in SIBLINGS:
        return LATIN if family == "latin" else OTHER
    return SIBLING if families_of_script(SCRIPTS[code]) & SIBLINGS else HAN


@dataclass(frozen=True, eq=False)
class Forced:
    """Positions that predict a token of a clean reply.

    Attributes:
        hidden: float32 (n, n_embd).
        steps: The most probable tokens.
        n_confident: H -> int32 (n,), how many of these are in it.
        following: int64 (n,), the text's own next token.
        text: int64 (n,), which text.
        languages: Of each text, its code.
        tokens: Of each text, ids and which of them belong to the reply.
        at: int64 (n,), which of these tokens a position is.
        unwanted: bool (n, k), the tokens of `steps` that could be sampled and are of no family that is right there.
        kinds: Of each kind, which of these there are: bool (n, k).
        is_switch: bool (n,), whether the text's own next token is one that its language does not write.
    """

    hidden: npt.NDArray[np.float32]
    steps: Steps
    n_confident: Mapping[Sets, npt.NDArray[np.int32]]
    following: Ints
    text: Ints
    languages: list[str]
    tokens: list[tuple[Ints, Bools]]
    at: Ints
    unwanted: Bools
    kinds: Mapping[str, Bools]
    is_switch: Bools

    def last(self, table: FamilyTable) -> Ints:
        """int64 (n,), the family of the reply's newest language token at each position."""
        found = [last_families(tokens, is_reply, table) for tokens, is_reply in self.tokens]
        starts = np.cumsum([0, *(len(tokens) for tokens, _ in self.tokens)])
        return np.concatenate(found)[starts[self.text] + self.at]


def read(model: Path, points: Path, confidence: Collection[Sets], n_threads: int) -> Forced:
    """Leads the model through texts.

    Args:
        model: The base model.
        points: The texts: rows with `prompt`, `response` and `language`, an English name.
        confidence: The H of all gates.
        n_threads: CPU threads.
    """
    rows = [json.loads(line) for line in points.read_text("utf-8").splitlines()]
    dataset = open_dataset(str(points))
    parts: list[tuple[Any, ...]] = []
    texts: list[ForcedText] = []
    n_confident: dict[Sets, list[npt.NDArray[np.int32]]] = {sets: [] for sets in confidence}
    with Teacher(model, n_ctx=512, n_threads=n_threads) as teacher:
        encoder = Encoder(teacher.tokenize, teacher.base, teacher.n_ctx)
        table = FamilyTable.of(spec_for(teacher.base, n_hidden=0, rules="scripts"))
        walk = Walk(teacher, table, lambda: False)
        for i in range(len(dataset)):
            encoded = encoder.encode(dataset[i])
            if encoded is None:
                raise RuntimeError(f"{points}: row {i + 1} has no tokens to measure on")
            texts.append(ForcedText.of(encoded.tokens, encoded.is_reply))
            for found in walk.rows(texts[-1:]):
                where = np.full(len(found.last), i)
                for sets, counts in n_confident.items():
                    counts.append(Steps.of(found.logits, confidence=sets).n_confident)
                parts.append((found.hidden.copy(), Steps.of(found.logits), found.following, where, found.position))
    hidden, steps, following, text, at = zip(*parts)
    all_steps, all_text = Steps.join(steps), np.concatenate(text)
    next_tokens, languages = np.concatenate(following).astype(np.int64), [_CODES[row["language"]] for row in rows]
    unwanted, kinds = _unwanted(rows, table, all_steps, all_text)
    own = np.array(
        [[name in families_of_script(SCRIPTS[code]) for name in table.names] for code in languages], np.bool_
    )
    own[:, table.neutral] = True
    return Forced(
        np.concatenate(hidden),
        all_steps,
        {sets: np.concatenate(counts) for sets, counts in n_confident.items()},
        next_tokens,
        all_text,
        languages,
        [(text.tokens, text.is_reply) for text in texts],
        np.concatenate(at).astype(np.int64),
        unwanted,
        kinds,
        ~own[all_text, table.token_family[next_tokens]],
    )


def _unwanted(
    rows: list[dict[str, Any]], table: FamilyTable, steps: Steps, text: Ints
) -> tuple[Bools, dict[str, Bools]]:
    """`unwanted` and `kinds` of `Forced`."""
    kind = np.full((len(rows), len(table.names)), "", dtype=object)
    for i, row in enumerate(rows):
        code = _CODES[row["language"]]
        wrong = set(table.names) - right_families(row["response"], code) - {table.names[table.neutral]}
        for family in wrong:
            kind[i, table.names.index(family)] = kind_of(family, code)
    of_tokens = kind[text[:, None], table.token_family[steps.ids]]
    survivors = steps.survivors()
    kinds = {name: (of_tokens == name) & survivors for name in KINDS}
    return np.logical_or.reduce(list(kinds.values())), kinds


@dataclass(frozen=True)
class Counts:
    """Of some positions, how many there are and at how many something holds."""

    n: int
    found: int

    @property
    def percent(self) -> float:
        """The share."""
        return 100 * self.found / self.n if self.n else float("nan")

    @classmethod
    def of(cls, what: Bools, among: Bools) -> Counts:
        """Where `what` holds among some."""
        return cls(int(among.sum()), int((what & among).sum()))


@dataclass(frozen=True)
class Scores:
    """What a gate does on clean texts.

    Attributes:
        banned: Of each language, positions at which it would ban the text's own next token.
        interventions: Of each language, positions at which it acts at all.
        needless: Of each language, positions at which it acts though nothing unwanted could be sampled.
        repaired: Of each kind of unwanted tokens, and of `any`, the positions where one could be sampled, and those of
            them at which the gate leaves none.
        switches: Positions at which the text itself goes on in another script; `found`: with a token the gate bans.
    """

    banned: dict[str, Counts]
    interventions: dict[str, Counts]
    needless: dict[str, Counts]
    repaired: dict[str, Counts]
    switches: Counts


def score(forced: Forced, gate: Gate, options: GateOptions, confidence: Sets = CONFIDENCE) -> Scores:
    """Applies a gate to all positions."""
    steps = replace(forced.steps, n_confident=forced.n_confident[confidence])
    rules = DecodingRules.of(gate, options)
    table = rules.families
    rulings = rules.judge(steps, gate.predict(forced.hidden), forced.last(table))
    active = rulings.banned & rulings.intervene[:, None]
    everywhere = np.arange(len(forced.text))
    banned = active[everywhere, table.token_family[forced.following]]
    removed = active[everywhere[:, None], table.token_family[forced.steps.ids]]
    language = np.array(forced.languages)[forced.text]
    confused = forced.unwanted.any(1)
    repaired = {
        name: Counts.of(~(found & ~removed).any(1), found.any(1))
        for name, found in {"any": forced.unwanted, **forced.kinds}.items()
    }

    def by_language(what: Bools) -> dict[str, Counts]:
        found = {code: Counts.of(what, language == code) for code in LANGUAGES if code in forced.languages}
        return {**found, "all": Counts.of(what, np.ones(len(what), np.bool_))}

    return Scores(
        by_language(banned),
        by_language(rulings.intervene),
        by_language(rulings.intervene & ~confused),
        repaired,
        Counts.of(banned, forced.is_switch),
    )
