"""llama.cpp's options that download a model, which are refused with the command that does it."""

from __future__ import annotations

import argparse
from typing import Any

_BY_URL = ("-mu", "--model-url")


class _Download(argparse.Action):
    """Says how to download a model, where llama.cpp's option for it is given."""

    def __call__(
        self, parser: argparse.ArgumentParser, namespace: object, values: Any, option: str | None = None
    ) -> None:
        """Refuse the option, and say how to get the file."""
        repository, _, quantization = str(values).partition(":")
        wanted = f"*{quantization}*" if quantization else "*"
        command = f"`hf download {repository} --include '{wanted}.gguf' --local-dir .`"
        if option in _BY_URL:
            command = f"`curl -LO {values}`"
        parser.error(f"{option}: models are read from local files: download it with {command}, then give -m FILE")


def refuse_downloads(parser: argparse.ArgumentParser) -> None:
    """Explain llama.cpp's options that download a model, where people give them."""
    names = ("-hf", "-hfr", "--hf-repo", *_BY_URL)
    parser.add_argument(*names, action=_Download, help=argparse.SUPPRESS)
