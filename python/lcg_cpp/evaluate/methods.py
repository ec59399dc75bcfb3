"""The ways to generate that an evaluation compares.

| method | what it is |
|---|---|
| none | the model alone |
| greedy | always the most probable token |
| ban | Chinese, Japanese and Latin tokens have a logit bias of -inf from the first token on, as people do today |
| prompt | `WARNING` in front of the prompt, as in the paper's in-context baseline |
| rules-only | the paper's rules around a gate that knows nothing, see `rules_gate` |
| training-free | the rules of `lcg` without an MLP: P is what the step itself makes likely, see `training_free_gate` |
| gate-only | the gate without the persistence and the confidence rule (the paper's "no rule") |
| lcg | the gate and the rules |
| lcg-soft | the same, but banned tokens only lose `SOFT_STRENGTH` logits |

Families are those of the gate while decoding: what it exempts (`A` to `G`, letters of multiple choice) is not banned.
Without a gate file they are those of the rule set `scripts` where `training-free` is among the methods, or else of
`default`, which `ban` always has.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from ..errors import GateError
from ..gate.options import PAPER_OPTIONS, GateOptions, Mode, with_phases

SOFT_STRENGTH = 3.0  # a banned token keeps 1/73 of its weight at temperature 0.7

# The paper's warning (appendix D) says what language confusion is, shows a sentence with it and the same without, and
# asks to avoid it; so does this one, in other words.
WARNING = (
    "Language confusion means that a text slips into another language or script where it should not. Do not let that"
    ' happen. For example, "Сегодня мы читали новые books в библиотеке." is wrong, and "Сегодня мы читали новые книги в'
    ' библиотеке." is right. Write your whole reply without language confusion.\n\n'
)


@dataclass(frozen=True)
class Method:
    """One way to generate."""

    name: str  # what it is called in the results
    options: GateOptions | None = None  # how a gate acts; None: there is none
    gate: str | None = None  # the gate's file; None with `options`: a gate that needs no training
    training_free: bool = False  # whether that is `training_free_gate`; else `rules_gate`
    temperature: float | None = None  # 0 is greedy; None is the evaluation's
    ban: bool = False  # whether Chinese, Japanese and Latin tokens are forbidden throughout
    warning: bool = False  # whether `WARNING` stands in front of the prompt
    allow: tuple[str, ...] = ()  # the only scripts that may come out, as in `GateOptions`; also without a gate
    deny: tuple[str, ...] = ()  # scripts that must not come out
    while_thinking: Mode | None = None  # how gate and pin act on thoughts; None: as on the answer
    leave_alone: tuple[str, ...] = ()  # parts of a reply on which they do not act: `code`, `tool_calls`

    def __post_init__(self) -> None:
        if self.gate is not None and self.options is None:
            raise GateError(f"method `{self.name}` has a gate and no `options`, expected both")
        if self.training_free and (self.gate is not None or self.options is None):
            raise GateError(f"method `{self.name}` is training-free, expected `options` and no gate")
        if self.ban and self.options is not None:
            raise GateError(f"method `{self.name}` bans Chinese, Japanese and Latin tokens, expected no gate beside it")
        if self.temperature is not None and not self.temperature >= 0:
            raise GateError(f"method `{self.name}`: `temperature` is {self.temperature}, expected at least 0")
        try:
            self.gate_options()
        except GateError as error:
            raise GateError(f"method `{self.name}`: {error}") from error

    def gate_options(self) -> GateOptions:
        """All that is asked of the gate and of the pin; of a pin alone where there is no gate."""
        options = self.options if self.options is not None else GateOptions()
        options = dataclasses.replace(options, allow=self.allow, deny=self.deny)
        return with_phases(options, self.while_thinking, self.leave_alone)


def builtin_methods(gate: str | None) -> dict[str, Method]:
    """The methods that have a name of their own; without a gate file, those that need none."""
    methods = [
        Method("none"),
        Method("greedy", temperature=0.0),
        Method("ban", ban=True),
        Method("prompt", warning=True),
        Method("rules-only", PAPER_OPTIONS),
        Method("training-free", GateOptions(), training_free=True),
    ]
    if gate is not None:
        methods += [
            Method("gate-only", GateOptions(persistence=False, confidence=False), gate),
            Method("lcg", GateOptions(), gate),
            Method("lcg-soft", GateOptions(strength=SOFT_STRENGTH), gate),
        ]
    return {method.name: method for method in methods}


METHODS = tuple(builtin_methods(""))


# ---- methods as text ----


def _names(text: str) -> tuple[str, ...]:
    return tuple(text.split("/"))


def _switch(text: str) -> bool:
    if text not in ("on", "off"):
        raise ValueError
    return text == "on"


# option -> how its value is read, and what it must be
_CHANGES: dict[str, tuple[Callable[[str], Any], str]] = {
    "threshold": (float, "a probability"),
    "strength": (float, "a number of logits, or inf"),
    "persistence": (_switch, "on or off"),
    "confidence": (_switch, "on or off"),
    "confidence_temperature": (float, "a number from 0"),
    "first_token": (_switch, "on or off"),
    "temperature": (float, "a number from 0"),
    "allow": (_names, "scripts with / in between"),
    "deny": (_names, "scripts with / in between"),
    "while_thinking": (str, "mask, observe or off"),
    "leave_alone": (_names, "code or tool_calls, or both with / in between"),
}
_OF_METHOD = ("temperature", "allow", "deny", "while_thinking", "leave_alone")  # those that need no gate
_METHOD = re.compile(rf"(?P<base>.*?)(?P<changes>(?:\+(?:{'|'.join(_CHANGES)})=[^+]*)*)", re.DOTALL)
_NAME = re.compile(r"\w[\w.-]*")


def parse_methods(text: str, gate: str | None) -> tuple[Method, ...]:
    """Read a list of methods.

    Args:
        text: Methods with commas in between. Each is a built-in one or a gate file, `NAME=` in front of it (which a
            file needs), options behind it: `none`, `unadjusted=other-gate.gguf`, `early=lcg+first_token=off`,
            `lcg+threshold=0.3+temperature=1`. `all` is every built-in one that can be.
        gate: The gate file of the built-in methods.

    Raises:
        GateError: It cannot be read, or two methods have one name.
    """
    builtin = builtin_methods(gate)
    methods: list[Method] = []
    for part in filter(None, (part.strip() for part in text.split(","))):
        methods += builtin.values() if part == "all" else [_parse_method(part, builtin)]
    names = [method.name for method in methods]
    for name in names:
        if names.count(name) > 1:
            raise GateError(f"two methods are called `{name}`, expected NAME=METHOD with another name for one of them")
    if not methods:
        raise GateError(f"no method is named, expected some of {', '.join(METHODS)}, or NAME=GATE.gguf")
    return tuple(methods)


def _parse_method(text: str, builtin: dict[str, Method]) -> Method:
    match = _METHOD.fullmatch(text)
    assert match is not None  # the base takes what is no change
    name, is_named, base = match["base"].partition("=")
    if not is_named or not _NAME.fullmatch(name):
        name, is_named, base = text, "", match["base"]
    if base in builtin:
        method = dataclasses.replace(builtin[base], name=name)
    elif base in METHODS:
        raise GateError(f"method `{base}` needs a gate file (--lcg)")
    elif is_named:
        method = Method(name, GateOptions(), base)
    else:
        raise GateError(
            f"method `{text}` is unknown, expected some of {', '.join(METHODS)}, or NAME=GATE.gguf, each with options"
            f" such as +threshold=0.3 ({', '.join(_CHANGES)})"
        )
    for change in filter(None, match["changes"].split("+")):
        option, _, value = change.partition("=")
        method = _changed(method, option, value)
    return method


def _changed(method: Method, option: str, value: str) -> Method:
    read, expected = _CHANGES[option]
    try:
        setting = read(value)
    except ValueError as error:
        raise GateError(f"method `{method.name}`: `{option}` is {value!r}, expected {expected}") from error
    if option in _OF_METHOD:
        return dataclasses.replace(method, **{option: setting})
    if method.options is None or (method.training_free and option == "threshold"):
        what = "no gate" if method.options is None else "no probabilities"
        raise GateError(f"method `{method.name}` has {what}, `{option}` has no meaning")
    try:
        return dataclasses.replace(method, options=dataclasses.replace(method.options, **{option: setting}))
    except GateError as error:
        raise GateError(f"method `{method.name}`: {error}") from error
