"""Replies as the data of a page: every text once, everything else as numbers, deflated where there are many.

5,000 replies of 256 tokens are 1.3 million tokens and, of each intervention, up to 30 more with their probabilities.
"""

from __future__ import annotations

import base64
import json
import zlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ..errors import GateError
from ..measure.answer import Reply, take_apart
from ..measure.unwanted import title_of
from .families import BLUISH, hues

MAX_PLAIN = 50  # replies that a page has as they are, to be read at once: a browser inflates only in its own time
MAX_LISTED = 20  # tokens of an intervention, of those banned and of those left
_NOT_SAMPLED = -1  # in place of the id of a token that is only told of


def ordered(values: Iterable[str]) -> list[str]:
    """Each value once, in the order they first come in."""
    return list(dict.fromkeys(values))


@dataclass(frozen=True)
class Unwanted:
    """What is unwanted in a reply, see `measure.unwanted`."""

    kinds: Sequence[str] = ()  # of the letters
    tokens: Sequence[int] = ()  # those that hold one


class _Indices(dict[Any, int]):
    """Value -> number, counted from 0 as they come in."""

    def __missing__(self, value: Any) -> int:
        self[value] = number = len(self)
        return number


class _Packer:
    def __init__(self, methods: Sequence[str], families: Sequence[str]) -> None:
        self.pieces = _Indices()  # of (token id, text, family)
        self.prompts = _Indices()  # of (id, prompt, language, subset, reference)
        self.kinds = _Indices()  # of unwanted letters
        self._methods = {name: i for i, name in enumerate(methods)}
        self._families = {name: i for i, name in enumerate(families)}

    def reply(self, reply: Reply, unwanted: Unwanted) -> list[Any]:
        """See `pack` for the fields."""
        columns = [reply[name] for name in ("tokens", "pieces", "families")]
        if len({len(column) for column in columns}) > 1:
            raise GateError(
                f"the reply of `{reply['method']}` to prompt `{reply['id']}` has {len(columns[0])} tokens,"
                f" {len(columns[1])} pieces and {len(columns[2])} families, expected as many of each"
            )
        prompt = (reply["id"], reply["prompt"], *(reply.get(name, "") for name in ("language", "subset", "reference")))
        return [
            self.prompts[prompt],
            self._methods[reply["method"]],
            reply["seed"],
            reply["finish"],
            round(reply["seconds"], 2),
            reply["n_prompt"],
            [self.pieces[token] for token in zip(*columns)],
            [self._event(event) for event in reply["events"]],
            [self.kinds[kind] for kind in unwanted.kinds],
            list(unwanted.tokens),
            [i for i, is_thought in enumerate(take_apart(reply).is_thought) if is_thought],
        ]

    def _event(self, event: Mapping[str, Any]) -> list[Any]:
        return [
            event["position"],
            _NOT_SAMPLED if event["last"] is None else self._family(event["last"]),
            *([self._family(name) for name in event[field]] for field in ("predicted", "allowed", "banned")),
            [round(z, 2) for z in event["z"]],
            self._listed(event["removed"]),
            self._listed(event.get("candidates", ())),
            event["chosen"],
        ]

    def _family(self, name: str) -> int:
        if name not in self._families:
            raise GateError(f"an event names the family `{name}`, expected one of {', '.join(self._families)}")
        return self._families[name]

    def _listed(self, tokens: Sequence[tuple[str, int, float]]) -> list[int]:
        """Pieces and ten thousandths of a probability, in turn."""
        flat = []
        for text, family, p in tokens[:MAX_LISTED]:
            flat += [self.pieces[_NOT_SAMPLED, text, family], round(p * 1e4)]
        return flat


def pack(
    replies: Sequence[Reply], confused: Sequence[Unwanted], methods: Sequence[str], families: Sequence[str]
) -> str:
    """Packs replies.

    Args:
        replies: Objects of replies.jsonl.
        confused: Of each, what is unwanted in it.
        methods: Names of the methods, in the order they are to be shown.
        families: Names of the families.

    Returns:
        A JSON object without `<`, which can stand in a script element, of up to `MAX_PLAIN` replies; of more the
        base64 of its zlib stream:
        "methods", "families", "kinds": names; "bluish": of each family whether its colour is;
        "pieces": [ids, texts, families]; "prompts": [id, prompt, language, subset, reference];
        "replies": [prompt, method, seed, finish, seconds, tokens of the prompt, pieces, events, kinds of unwanted
        letters, tokens with such, tokens of thoughts]; an event is [position, last, predicted, allowed, banned, z,
        removed, left, chosen text].

    Raises:
        GateError: A reply has not as many pieces as tokens, or an event names an unknown family.
    """
    packer = _Packer(methods, families)
    packed = [packer.reply(reply, wrong) for reply, wrong in zip(replies, confused)]
    data = {
        "methods": list(methods),
        "families": list(families),
        "bluish": [hue in BLUISH for hue in hues(families)],
        "kinds": [title_of(kind) for kind in packer.kinds],
        "pieces": [[piece[i] for piece in packer.pieces] for i in range(3)],
        "prompts": list(packer.prompts),
        "replies": packed,
    }
    text = json.dumps(data, separators=(",", ":"))
    if len(replies) <= MAX_PLAIN:
        return text.replace("<", "\\u003c")
    return base64.b64encode(zlib.compress(text.encode())).decode()
