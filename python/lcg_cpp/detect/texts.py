"""Texts whose right and wrong tokens are known: where a reply could slip, and where it may switch script.

Only what stands before a token decides whether a gate would remove it, so a clean reply answers for a wrong token at
every one of its positions. What follows a slip, and switches that the reply does not have, are spliced in.

| wrong token | where it would stand |
|---|---|
| start | the reply's first token |
| between words | where a word ends or begins, white space beside it |
| inside a word | between two letters of a word |
| unspaced script | between two letters of a script that puts no spaces between words |
| after a slip | any of these but the first, in a reply that holds wrong words before it |

| legitimate token | what it is |
|---|---|
| own switch | where the reply itself changes to a family that is not its language's |
| own language | where it begins in its language, comes back to it, or goes on in another of its families |
| brackets, quotation, code, code block | where such a thing, spliced in behind a word, changes the family |

Positions within a character, before punctuation, and in brackets, quotations and code are no place for a wrong token:
there another script can be right.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from ..data import Encoder, Message, Sample
from ..gate.decisions import FamilyTable, last_families
from ..gate.families import families_of_scripts, text_families
from ..measure.unwanted import Expected, expected
from .places import (
    AFTER,
    BETWEEN,
    LANGUAGE,
    PLAIN,
    START,
    SWITCH,
    UNSPACED,
    ends,
    insert,
    marked,
    name_in,
    place_of,
    splice,
)
from .words import BRACKETS, switches, words

if TYPE_CHECKING:
    from ..benchmarks import Prompt
    from ..engine.load import Model


@dataclass(frozen=True)
class Question:
    """Whether the gate would remove a token of a family."""

    index: int  # the token's place in the text: all tokens before it are there
    family: int  # its family
    group: str  # one of `GROUPS`: those of `PLACES` are wrong, the others right
    last: int  # family of the newest language token of the reply before it, NO_FAMILY if there is none


@dataclass(frozen=True, eq=False)
class Rendered:
    """A reply behind its prompt, as the model sees it."""

    reply: str  # its text
    tokens: npt.NDArray[np.intp]  # (n,), of the prompt and the reply
    is_reply: npt.NDArray[np.bool_]  # (n,), which of them are the reply's
    # for each of them, where in the text of the reply it begins, in characters; 0 also for one that begins before and
    # reaches into it, -1 for tokens outside of it and those that begin within a character
    cuts: list[int]
    stops: npt.NDArray[np.intp]  # (n,), where each ends, in bytes of the reply's text
    last: npt.NDArray[np.int64]  # (n,), family of the newest language token of the reply before each


@dataclass(frozen=True, eq=False)
class Probe:
    """A text to evaluate."""

    tokens: list[int]  # its tokens; nothing is asked of what would follow the last question
    questions: tuple[Question, ...]  # what is asked of it
    n_own: int = 0  # tokens of the reply, the one that ends it included; 0 where something is spliced in


class Splicer:
    """Makes the texts that a gate is asked about.

    Attributes:
        skipped: Why prompts were left out, and how many.
    """

    def __init__(self, model: Model, families: FamilyTable, n_ctx: int, seed: int = 0) -> None:
        """Prepare for a model; the random choices for a prompt are the same whichever others there are."""
        base = model.base
        plain = {key: value for key, value in base.metadata.items() if key != "tokenizer.chat_template"}
        self._has_template = bool(base.metadata.get("tokenizer.chat_template"))
        self._chat = Encoder(model.tokenize, base, n_ctx)
        self._plain = Encoder(model.tokenize, replace(base, metadata=plain), n_ctx)
        self._texts, self._families, self._names, self._seed = base.vocab.tokens, families, families.names, seed
        self._plain.skipped = self._chat.skipped
        self.skipped: Counter[str] = self._chat.skipped

    def probes(self, prompt: Prompt, number: int) -> list[Probe]:
        """The texts of a prompt: its reply as it is, one with slips, and some with a switch; none if it is left out.

        `number`, its place among the prompts, makes scripts and kinds of slips and switches take turns.
        """
        clean = self._render(prompt, prompt.reference.strip())
        if clean is None:
            return []
        letters = text_families(clean.reply, self._families.families)
        if not letters:
            self.skipped["the reference holds no letter"] += 1
            return []
        held = self._families.token_family[clean.tokens[clean.is_reply]]
        right = expected(prompt)
        own = self._own_families(right, held)
        if right is not None:
            letters |= families_of_scripts(right.every, self._families.families)
        wrong = [
            f
            for f in np.flatnonzero(self._families.maskable).tolist()
            if self._names[f] not in letters and f not in held.tolist()
        ]
        rng = random.Random(f"{self._seed}:{prompt.id}")
        return [
            self._clean(clean, wrong, own),
            *self._slips(prompt, clean, wrong, number, rng),
            *self._switches(prompt, clean, own, number, rng),
        ]

    def _own_families(self, right: Expected | None, held: npt.NDArray[np.intp]) -> frozenset[int]:
        """The families of the reply's language; where that is unknown the one that most tokens of the reply have."""
        names = families_of_scripts(right.own, self._families.families) if right is not None else ()
        if names:
            return frozenset(map(self._names.index, names))
        counts = np.bincount(held[held != self._families.neutral], minlength=len(self._names))
        return frozenset((int(counts.argmax()),))

    def _render(self, prompt: Prompt, reply: str) -> Rendered | None:
        """The reply behind its prompt, as `eval` asks for it."""
        asked = prompt.prompt
        if prompt.chat and self._has_template:
            encoder = self._chat
        else:
            encoder = self._plain
            asked += "\n" if prompt.chat else ""
            if not asked[-1].isspace() and not reply[:1].isspace():
                reply = f" {reply}"
        encoded = encoder.encode(Sample(messages=(Message("user", asked), Message("assistant", reply))))
        if encoded is None:
            return None
        tokens, is_reply = np.array(encoded.tokens, np.intp), np.array(encoded.is_reply, np.bool_)
        pieces = [self._texts[token] if mine else b"" for token, mine in zip(encoded.tokens, encoded.is_reply)]
        data = reply.encode()
        begin = b"".join(pieces).find(data)
        if begin < 0:
            self.skipped["the reply is too long, or its tokens do not make it up"] += 1
            return None
        offsets = np.cumsum([0, *map(len, pieces)]) - begin
        at_byte = dict(zip(accumulate((len(c.encode()) for c in reply), initial=0), range(len(reply) + 1)))
        cuts = [
            at_byte.get(max(first, 0) if end > 0 else -1, -1) if mine else -1
            for first, end, mine in zip(offsets.tolist(), offsets[1:].tolist(), is_reply.tolist())
        ]
        last = np.roll(last_families(tokens, is_reply, self._families), 1)
        return Rendered(reply, tokens, is_reply, cuts, offsets[1:], last)

    def _places(self, rendered: Rendered) -> Iterator[tuple[int, str]]:
        """The tokens in front of which a wrong word could stand, and the kind of place."""
        is_marked = marked(rendered.reply)
        for index, cut in enumerate(rendered.cuts):
            place = place_of(rendered.reply, cut, is_marked) if cut >= 0 and index else None
            if place is not None:
                yield index, place

    def _ask(self, rendered: Rendered, index: int, family: int, group: str) -> Question:
        return Question(index, family, group, int(rendered.last[index]))

    def _clean(self, clean: Rendered, wrong: Sequence[int], own: frozenset[int]) -> Probe:
        """What is asked of a reply as it is: wrong tokens at all places, and its own tokens of maskable families."""
        questions = [self._ask(clean, index, f, place) for index, place in self._places(clean) for f in wrong]
        at = np.flatnonzero(clean.is_reply)
        for index in at[at > 0].tolist():
            family = int(self._families.token_family[clean.tokens[index]])
            if self._families.maskable[family]:
                group = PLAIN if clean.last[index] == family else LANGUAGE if family in own else SWITCH
                questions.append(self._ask(clean, index, family, group))
        return Probe(clean.tokens.tolist(), tuple(questions), len(at))

    def _slips(
        self, prompt: Prompt, clean: Rendered, wrong: Sequence[int], number: int, rng: random.Random
    ) -> Iterator[Probe]:
        """The reply with a wrong word about a third and two thirds into it, and what is asked behind the first."""
        places = [clean.cuts[index] for index, place in self._places(clean) if place in (START, BETWEEN, UNSPACED)]
        family = wrong[number % len(wrong)] if wrong else -1
        known = words(self._names[family], self._families.families) if wrong else ()
        slips = [word for word in known if word not in clean.reply]
        if not places or not slips:
            return
        reply, end = clean.reply, 0
        for at in sorted({places[len(places) // 3], places[2 * len(places) // 3]}, reverse=True):
            reply, end = insert(reply, at, rng.choice(slips))
        slipped = self._render(prompt, reply)
        if slipped is None:
            return
        questions = [  # persistence allows the family of the wrong word until a language token follows it
            self._ask(slipped, index, family, AFTER)
            for index, _ in self._places(slipped)
            if slipped.cuts[index] > end and slipped.last[index] != family
        ]
        if questions:
            yield Probe(slipped.tokens[: questions[-1].index].tolist(), tuple(questions))

    def _switches(
        self, prompt: Prompt, clean: Rendered, own: frozenset[int], number: int, rng: random.Random
    ) -> Iterator[Probe]:
        """The reply up to a switch to Latin, and up to one to another script, which take turns; both are right."""
        places, families = ends(clean.reply), self._families.families
        able = {f: switches(name, families) for f, name in enumerate(self._names) if self._families.maskable[f]}
        others = [f for f, kinds in able.items() if kinds and f not in own]
        latin = [f for f in others if self._names[f] == "latin"]
        others = [f for f in others if f not in latin]
        turns = [(others[number % len(others)], number // len(others))] if others else []
        for family, turn in [*turns, *((f, number) for f in latin)] if places else []:
            kinds = able[family]
            kind = tuple(kinds)[turn % len(kinds)]
            at = rng.choice(places)
            what = rng.choice(kinds[kind])
            if kind == BRACKETS:
                what = name_in(prompt.prompt, clean.reply, at, self._names[family], families) or what
            reply, begin = splice(clean.reply, at, kind, what)
            switched = self._render(prompt, reply)
            if switched is None:
                continue
            index = self._first_of(switched, family, begin)
            if index is not None and switched.last[index] != family:
                yield Probe(switched.tokens[:index].tolist(), (self._ask(switched, index, family, kind),))

    def _first_of(self, rendered: Rendered, family: int, begin: int) -> int | None:
        """The first token of a family that holds anything of the reply behind a place; it may begin before it."""
        is_behind = rendered.is_reply & (rendered.stops > len(rendered.reply[:begin].encode()))
        found = np.flatnonzero(is_behind & (self._families.token_family[rendered.tokens] == family))
        return int(found[0]) if len(found) else None
