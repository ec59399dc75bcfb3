"""The marks around parts of a reply: thoughts, code, calls of tools. The core has them (csrc/marks.cpp)."""

from __future__ import annotations

from .. import _core

# By name: the marks, control tokens written out, and whether the first of them counts only in front of everything else.
NAMED = _core.named_marks()

LEFT_ALONE = ("code", "tool_calls")  # what nobody reads as prose
