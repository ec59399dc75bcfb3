"""The marks around parts of a reply: thoughts, code, calls of tools."""

from __future__ import annotations

# What begins and what ends a thought; control tokens are written out.
THOUGHTS = (
    *((f"<{name}>", f"</{name}>") for name in ("think", "thinking", "thought", "reasoning", "seed:think", "mm:think")),
    ("[THINK]", "[/THINK]"),
    ("◁think▷", "◁/think▷"),
    ("<|START_THINKING|>", "<|END_THINKING|>"),
    ("<|channel>thought", "<channel|>"),
    ("<unused94>thought", "<unused95>"),
    ("Here are my reasoning steps:", "[BEGIN FINAL RESPONSE]"),
)

# The same of formats that go on with a header of the answer.
_CHANNELS = (
    ("<|think|>", "<|end|>"),
    *((f"<|channel|>{name}", "<|channel|>final") for name in ("analysis", "commentary")),
)

# A fence of code; what ends one looks like what begins one.
_FENCES = (("```", "```"),)

# Calls of tools; some formats have nothing behind them.
_TOOL_CALLS = (
    *((f"<{name}>", f"</{name}>") for name in ("tool_call", "function_call", "minimax:tool_call")),
    ("<function=", "</function>"),
    ("<|python_tag|>", ""),
    ("[TOOL_CALLS]", ""),
    ("<|tool_call|>", ""),
    ("<|START_ACTION|>", "<|END_ACTION|>"),
    ("<｜tool▁calls▁begin｜>", "<｜tool▁calls▁end｜>"),
    ("<|tool_calls_section_begin|>", "<|tool_calls_section_end|>"),
)

LEFT_ALONE = ("code", "tool_calls")  # what nobody reads as prose

# By name: the marks, and whether the first of them counts only in front of everything else.
NAMED: dict[str, tuple[tuple[tuple[str, str], ...], bool]] = {
    "thinking": ((*THOUGHTS, *_CHANNELS), True),
    "code": (_FENCES, False),
    "tool_calls": (_TOOL_CALLS, False),
}
