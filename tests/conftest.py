"""Fixtures for all tests: the tiny model, gates for it, and the folder of real vocabularies."""

from __future__ import annotations

import dataclasses
import itertools
import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import settings

import tiny_model

if TYPE_CHECKING:
    from lcg_cpp import Gate
    from oracle import Rules

settings.register_profile("any speed", deadline=None)  # a busy machine fails no test
settings.load_profile("any speed")


@pytest.fixture(scope="session")
def vocab_dir() -> Path:
    """The folder of vocabulary-only GGUF files that `LCG_VOCAB_DIR` names; tests that need it are skipped without."""
    name = os.environ.get("LCG_VOCAB_DIR")
    if not name:
        pytest.skip("LCG_VOCAB_DIR is not set: it names a folder with llama.cpp's ggml-vocab-*.gguf files")
    folder = Path(name)
    if not folder.is_dir():
        pytest.fail(f"LCG_VOCAB_DIR is {name}, expected a folder")
    return folder


@pytest.fixture(scope="session")
def _tiny_model(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, tiny_model.TinyVocab]:
    path = tmp_path_factory.mktemp("tiny") / "tiny.gguf"
    return path, tiny_model.write_model(path)


@pytest.fixture(scope="session")
def tiny_model_path(_tiny_model: tuple[Path, tiny_model.TinyVocab]) -> Path:
    """The tiny model."""
    return _tiny_model[0]


@pytest.fixture(scope="session")
def tiny_vocab(_tiny_model: tuple[Path, tiny_model.TinyVocab]) -> tiny_model.TinyVocab:
    """The vocabulary of the tiny model."""
    return _tiny_model[1]


@pytest.fixture(scope="session")
def looping_model_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model with the tiny model's vocabulary whose greedy text runs into a cycle."""
    path = tmp_path_factory.mktemp("looping") / "looping.gguf"
    tiny_model.write_model(path, seed=1, memory=0.0)
    return path


@pytest.fixture(scope="session")
def make_gate_file(tmp_path_factory: pytest.TempPathFactory, tiny_model_path: Path) -> Callable[..., Path]:
    """Writes gate files for the tiny model."""
    folder = tmp_path_factory.mktemp("gates")
    numbers = itertools.count()

    def make(
        weights: dict[str, npt.NDArray[np.float32]],
        *,
        base: Path | None = None,
        outtype: str = "f32",
        **changes: Any,
    ) -> Path:
        """Writes a gate.

        Args:
            weights: The tensors.
            base: The model it is for; the tiny model if None.
            outtype: Type of the matrices.
            **changes: Fields of the specification that shall differ from those of the model.

        Returns:
            The file.
        """
        from lcg_cpp.engine.model import read_base_model
        from lcg_cpp.gate.gate_file import write_gate
        from lcg_cpp.gate.spec import spec_for

        n_hidden = weights["lcg.fc1.weight"].shape[0] if "lcg.fc1.weight" in weights else 0
        spec = spec_for(read_base_model(base or tiny_model_path), n_hidden=n_hidden)
        path = folder / f"gate-{next(numbers)}.gguf"
        write_gate(path, dataclasses.replace(spec, **changes), weights, outtype)
        return path

    return make


@pytest.fixture(scope="session")
def gate16(make_gate_file: Callable[..., Path]) -> Path:
    """A random gate with 16 hidden units for the tiny model."""
    return make_gate_file(tiny_model.gate_weights(16, seed=2))


@pytest.fixture(scope="session")
def make_gate(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Gate]:
    """Makes gates over arbitrary families and vocabularies whose answer z is the hidden state itself."""
    folder = tmp_path_factory.mktemp("rules")
    numbers = itertools.count()

    def make(rules: Rules, *, exempt_tokens: tuple[int, ...] = ()) -> Gate:
        """Makes a gate.

        Args:
            rules: The families, as the oracle sees them.
            exempt_tokens: Tokens that count as neutral.

        Returns:
            A linear gate with the identity as its matrix: n_embd = n_families.
        """
        from lcg_cpp import Gate
        from lcg_cpp.gate.gate_file import write_gate
        from lcg_cpp.gate.rule_set import FamilySet
        from lcg_cpp.gate.spec import GateSpec

        n_families = len(rules.maskable)
        four = ("cj", "latin", "symbols", "lowres")
        names = four if n_families == 4 else tuple(f"family {f}" for f in range(n_families))
        spec = GateSpec(
            architecture="llama",
            n_embd=n_families,
            n_hidden=0,
            token_family=rules.family.astype(np.uint8),
            tokenizer_hash="0" * 64,
            families=FamilySet(names, rules.maskable, rules.neutral, "default"),
            threshold=rules.threshold,
            own_thresholds=rules.own_thresholds,
            first_thresholds=rules.first_thresholds,
            allow_thresholds=rules.allow_thresholds,
            confidence=rules.confidence,
            exempt_tokens=exempt_tokens,
            masked_as=rules.masked_as,
        )
        path = folder / f"gate-{next(numbers)}.gguf"
        write_gate(path, spec, {"lcg.fc2.weight": np.eye(n_families, dtype=np.float32)}, "f32")
        return Gate.load(path)

    return make
