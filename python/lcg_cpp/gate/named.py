"""`GateOptions` from names and plain values, as JSON and command lines give them."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping
from typing import Any, get_args

from ..errors import GateError
from .marks import LEFT_ALONE
from .options import GateOptions, Mode, with_phases


def make_options(values: Mapping[str, Any], **changes: Any) -> GateOptions:
    """Make options of plain values.

    Args:
        values: By name: `mode`, `strength`, `threshold`, `persistence`, `confidence`, `confidence_temperature` and
            `first_token` as in `GateOptions`; `allow`, `deny` and `leave_alone` (parts of a reply: `code`,
            `tool_calls`) as a list or as one text with commas; `while_thinking`, a mode. None leaves the default.
        changes: Fields of `GateOptions` that have no name here.

    Raises:
        GateError: A name is unknown or a value is not what it must be.
    """
    given = {name: _checked(name, value) for name, value in values.items() if value is not None}
    thinking, alone = given.pop("while_thinking", None), given.pop("leave_alone", ())
    return with_phases(GateOptions(**given, **changes), thinking, alone)


def _checked(name: str, value: object) -> Any:
    if name not in NAMES:
        near = difflib.get_close_matches(name, NAMES, n=1) or NAMES
        raise GateError(f"`{name}` is unknown, expected {', '.join(f'`{each}`' for each in near)}")
    return NAMES[name](name, value)


def _mode(name: str, value: object) -> object:
    if value not in get_args(Mode):
        raise GateError(f'`{name}` is {value!r}, expected "mask", "observe" or "off"')
    return value


def _number(name: str, value: object) -> float:
    if value == "inf":  # which JSON cannot write
        return float("inf")
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise GateError(f"`{name}` is {value!r}, expected a number")
    return float(value)


def _switch(name: str, value: object) -> bool:
    if not isinstance(value, bool):
        raise GateError(f"`{name}` is {value!r}, expected true or false")
    return value


def _list(name: str, value: object) -> tuple[str, ...]:
    items = value.split(",") if isinstance(value, str) else value
    if not isinstance(items, (list, tuple)) or not all(isinstance(item, str) for item in items):
        raise GateError(f"`{name}` is {value!r}, expected a list of names")
    return tuple(filter(None, (item.strip() for item in items)))


def _parts(name: str, value: object) -> tuple[str, ...]:
    parts = tuple(part.replace("-", "_") for part in _list(name, value))
    for part in parts:
        if part not in LEFT_ALONE:
            raise GateError(f"`{name}` names {part!r}, expected {' or '.join(LEFT_ALONE)}")
    return parts


NAMES: dict[str, Callable[[str, object], Any]] = {
    "mode": _mode,
    "strength": _number,
    "allow": _list,
    "deny": _list,
    "threshold": _number,
    "persistence": _switch,
    "confidence": _switch,
    "confidence_temperature": _number,
    "first_token": _switch,
    "while_thinking": _mode,
    "leave_alone": _parts,
}
