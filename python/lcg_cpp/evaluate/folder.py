"""What an evaluation leaves on disk: how its replies were made, the replies, and their summary."""

from __future__ import annotations

import hashlib
import json
import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO, Any

from ..errors import GateError
from ..files import write_whole
from .methods import Method

REPLIES, SUMMARY, SETTINGS, PAGE = "replies.jsonl", "summary.json", "settings.json", "report.html"
_FIELDS = ("method", "seed", "id", "prompt", "reply", "tokens", "events")  # of a reply, without which it is none

# of a gate's, those that change replies
_OPTIONS = ("strength", "threshold", "persistence", "confidence", "confidence_temperature", "first_token", "mode")
# of a method, those that few have
_PARTS = ("allow", "deny", "while_thinking", "leave_alone", "training_free")

Json = dict[str, Any]


def write_json(path: Path, value: Json) -> None:
    """Write a JSON object whole or not at all."""
    write_whole(path, json.dumps(value, ensure_ascii=False, indent=1, allow_nan=False).encode() + b"\n")


# ---- settings ----


def method_settings(method: Method) -> Json:
    """What the replies of a method depend on; a gate is known by its bytes, wherever it lies."""
    settings: Json = {"temperature": method.temperature, "ban": method.ban, "warning": method.warning}
    settings.update({field: value for field in _PARTS if (value := getattr(method, field))})
    if method.options is not None:
        options = method.options
        settings["gate"] = None if method.gate is None else {"file": method.gate, "sha256": _sha256(method.gate)}
        settings["options"] = {name: getattr(options, name) for name in _OPTIONS}
        if options.phases:
            settings["options"]["phases"] = repr(options.phases)
        settings["options"]["strength"] = "inf" if math.isinf(options.strength) else options.strength
    return settings


def _sha256(path: str) -> str:
    with open(path, "rb") as file:
        digest = hashlib.sha256()
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def read_settings(folder: Path) -> Json:
    """The settings of the replies in a folder, empty if there are none."""
    path = folder / SETTINGS
    if not path.exists():
        return {}
    try:
        settings = json.loads(path.read_bytes())
        if isinstance(settings, dict) and isinstance(settings.get("methods"), dict):
            return settings
    except ValueError:
        pass
    raise GateError(f"{path}: is no file of `lcg-cpp eval`, expected another folder")


def join_settings(folder: Path, settings: Json) -> Json:
    """Begin a folder, or check that new replies would be made like those in it; the settings of all its replies.

    More methods, prompts or seeds may come to a folder; all else must be as it was.
    """
    folder.mkdir(parents=True, exist_ok=True)
    found = read_settings(folder)
    if not found and (folder / REPLIES).exists():
        raise GateError(f"{folder / REPLIES}: is there without {SETTINGS}, expected another folder")
    if found:
        for name, was, now in _differences(found, settings):
            raise GateError(
                f"{folder}: was made with {name} {_shown(was)}, now it is {_shown(now)}; continue as it was, or choose"
                " another folder"
            )
        settings = {**settings, "methods": {**found["methods"], **settings["methods"]}}
    if settings != found:
        write_json(folder / SETTINGS, settings)
    return settings


def _differences(was: Any, now: Any, name: str = "") -> list[tuple[str, Any, Any]]:
    """What is not the same: the path to it, and both values.

    New methods do not count, nor where a gate lies, nor threads: llama.cpp's results are the same with any number.
    """
    if not (isinstance(was, dict) and isinstance(now, dict)):
        return [] if was == now else [(name, was, now)]
    found = []
    for key in {**was, **now}:
        new_or_old_method = name == "methods" and not (key in was and key in now)
        where_it_lies = key == "file" and "sha256" in was and "sha256" in now
        if not new_or_old_method and not where_it_lies and key != "n_threads":
            found += _differences(was.get(key), now.get(key), f"{name}.{key}".lstrip("."))
    return found


def _shown(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 80 else text[:77] + "…"


# ---- replies ----


def read_replies(folder: Path) -> list[Json]:
    """The replies in a folder, each once.

    Two processes that were started on one folder write some of them twice; the first one counts. The end of one that
    was being written when its process was killed is cut off.
    """
    path = folder / REPLIES
    if not path.exists():
        return []
    data = path.read_bytes()
    whole = data.rfind(b"\n") + 1
    if whole < len(data):
        os.truncate(path, whole)
    replies: dict[tuple[Any, ...], Json] = {}
    for number, line in enumerate(data[:whole].splitlines(), 1):
        try:
            reply = json.loads(line)
            if any(field not in reply for field in _FIELDS):
                raise ValueError
        except (ValueError, TypeError) as error:
            raise GateError(f"{path}:{number}: is no reply of `lcg-cpp eval`, which cannot be continued") from error
        replies.setdefault((reply["method"], reply["seed"], reply["id"]), reply)
    return list(replies.values())


def append_reply(file: IO[bytes], reply: Mapping[str, Any]) -> None:
    """Write a reply; it is in the file when this returns."""
    file.write(json.dumps(reply, ensure_ascii=False, separators=(",", ":")).encode() + b"\n")
    file.flush()


def check_replies(folder: Path, replies: Sequence[Json], prompts: Mapping[str, str]) -> None:
    """Find out whether the replies in a folder are to the prompts (text by id) of a benchmark."""
    for number, reply in enumerate(replies, 1):
        if prompts.get(reply["id"]) != reply["prompt"]:
            raise GateError(
                f"{folder / REPLIES}:{number}: is a reply to a prompt `{reply['id']}` that is not asked now; ask for as"
                " many prompts as before (--limit) or more, or choose another folder"
            )
