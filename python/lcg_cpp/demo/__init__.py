"""The embedded demo: a tiny multilingual model, its gates and its prompts. See MODEL_CARD.md for how they were made."""

from pathlib import Path

_FOLDER = Path(__file__).resolve().parent

MODEL = _FOLDER / "tiny-names-F16.gguf"
PROMPTS = _FOLDER / "prompts.jsonl"
CARD = _FOLDER / "MODEL_CARD.md"
GATES = {"default": _FOLDER / "lcg-tiny-names-F16.gguf", "paper": _FOLDER / "lcg-tiny-names-paper-F16.gguf"}
