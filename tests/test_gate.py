"""Gates: the MLP against an independent forward pass in NumPy, devices, options, and arguments that are refused."""

from __future__ import annotations

import dataclasses
import itertools
import math
import platform
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import gguf
import llama_cpp
import numpy as np
import numpy.typing as npt
import pytest

import gguf_bytes as gb
from lcg_cpp import Gate, GateError, GateOptions
from lcg_cpp.gate.gate_file import write_gate
from lcg_cpp.gate.options import PAPER_OPTIONS
from lcg_cpp.gate.rule_set import FamilySet
from lcg_cpp.gate.spec import GateSpec

N_EMBD = 64
N_FAMILIES = 4
FLOAT = npt.NDArray[np.float64]

MakeGate = Callable[..., Path]


@pytest.fixture(scope="module")
def gate_file(tmp_path_factory: pytest.TempPathFactory) -> MakeGate:
    """Writes gates with random weights."""
    folder = tmp_path_factory.mktemp("gates")
    numbers = itertools.count()

    def make(n_hidden: int, *, outtype: str = "f32", biases: bool = True, n_embd: int = N_EMBD, **changes: Any) -> Path:
        rng = np.random.default_rng(n_hidden)
        n_in = n_hidden or n_embd
        weights = {"lcg.fc2.weight": rng.normal(0, 2 / n_in**0.5, (N_FAMILIES, n_in))}
        if n_hidden:
            weights["lcg.fc1.weight"] = rng.normal(0, 1 / n_embd**0.5, (n_hidden, n_embd))
        if biases:
            weights["lcg.fc2.bias"] = rng.normal(0, 2, N_FAMILIES)
            if n_hidden:
                weights["lcg.fc1.bias"] = rng.normal(0, 2, n_hidden)
        table = np.array([0, 1, 2, 3, 0, 1, 2, 3], np.uint8)
        spec = GateSpec("llama", n_embd, n_hidden, table, "0" * 64, **changes)
        path = folder / f"{next(numbers)}.gguf"
        write_gate(path, spec, {name: weight.astype(np.float32) for name, weight in weights.items()}, outtype)
        return path

    return make


# ---- the MLP ----


def round_bf16(x: FLOAT) -> FLOAT:
    """To the nearest number with 8 bits of mantissa, ties to even."""
    mantissa, exponent = np.frexp(x)
    return np.asarray(np.ldexp(np.rint(mantissa * 256) / 256, exponent))


def round_q8_0(x: FLOAT, shift: float) -> FLOAT:
    """In blocks of 32: int8 times an F16 scale of max/127. `shift` moves the maximum by that part of itself."""
    blocks = x.reshape(len(x), -1, 32)
    scale = np.abs(blocks).max(axis=2, keepdims=True) * (1 + shift) / 127
    scale[scale == 0] = 1
    return np.asarray((np.rint(blocks / scale) * scale.astype(np.float16)).reshape(x.shape))


@dataclasses.dataclass(frozen=True)
class Layer:
    """One matrix as stored, dequantized by gguf-py, with its bias."""

    kind: str
    weight: FLOAT
    bias: FLOAT

    def rounded(self, x: FLOAT, error: FLOAT) -> tuple[FLOAT, FLOAT]:
        """The activations as ggml multiplies them, and their error given that of x.

        ggml rounds the activations to the type of the matrix. An error of x before that either vanishes or, if a
        rounding boundary lies within it, becomes a whole step.
        """
        if self.kind == "F32":
            return x, error
        error = error + np.abs(x) * 2.0**-22
        if self.kind == "Q8_0":
            largest = float((error / np.maximum(np.abs(x), np.abs(x).max())).max())
            ways = [round_q8_0(x + e, s) for s in (0, -largest, largest) for e in (0, -error, error)]
        else:
            step = round_bf16 if self.kind == "BF16" else lambda y: np.float64(np.float16(y))
            ways = [step(x), step(x - error), step(x + error)]
            if platform.machine() not in ("x86_64", "AMD64"):  # ARM's kernels may leave the activations in F32
                ways.append(x)
        return ways[0], np.max([np.abs(way - ways[0]) for way in ways], axis=0)

    def summed(self, x: FLOAT) -> FLOAT:
        """Largest error of adding up n_in products in F32; ARM adds F16 products up in F16, in 32 lanes."""
        size = np.abs(x) @ np.abs(self.weight).T + np.abs(self.bias)
        n = self.weight.shape[1]
        f16_sums = self.kind == "F16" and platform.machine().lower() in ("arm64", "aarch64")
        return np.asarray(size * ((n / 32 + 5) * 2.0**-11 if f16_sums else n * 2.0**-24))

    def forward(self, x: FLOAT, error: FLOAT) -> tuple[FLOAT, FLOAT]:
        """The layer's output in float64 and the largest error of ggml's, given that of its input."""
        x, error = self.rounded(x, error)
        return x @ self.weight.T + self.bias, error @ np.abs(self.weight).T + self.summed(np.abs(x) + error)


def read_layers(path: Path) -> list[Layer]:
    tensors = {tensor.name: tensor for tensor in gguf.GGUFReader(path).tensors}
    layers = []
    for name in ("lcg.fc1", "lcg.fc2"):
        if f"{name}.weight" in tensors:
            weight = tensors[f"{name}.weight"]
            matrix = gguf.quants.dequantize(weight.data, weight.tensor_type).astype(np.float64)
            bias = tensors.get(f"{name}.bias")
            zero = np.zeros(len(matrix))
            layers.append(Layer(weight.tensor_type.name, matrix, zero if bias is None else np.float64(bias.data)))
    return layers


def reference(path: Path, hidden: npt.NDArray[np.float32]) -> tuple[FLOAT, FLOAT]:
    """z in float64, and for each element how far a correct evaluation may be from it."""
    x = hidden.astype(np.float64)
    error = np.zeros_like(x)
    layers = read_layers(path)
    for i, layer in enumerate(layers):
        x, error = layer.forward(x, error)
        if i + 1 < len(layers):
            x = np.maximum(x, 0.0)  # relu moves no two numbers further apart
    return x, error


def states(n: int, seed: int = 0) -> npt.NDArray[np.float32]:
    """Hidden states like those after a final norm, a few channels much larger than the others."""
    rng = np.random.default_rng(seed)
    scale = np.where(np.arange(N_EMBD) % 29 == 7, 8.0, 1.0)
    return (rng.standard_normal((n, N_EMBD)) * scale).astype(np.float32)


@pytest.mark.parametrize("outtype", ["f32", "f16", "bf16", "q8_0"])
@pytest.mark.parametrize("biases", [True, False])
@pytest.mark.parametrize("n_hidden", [0, 16, N_EMBD])
def test_predictions_equal_numpy_within_the_rounding_of_the_type(
    gate_file: MakeGate, outtype: str, biases: bool, n_hidden: int
) -> None:
    path = gate_file(n_hidden, outtype=outtype, biases=biases)
    gate = Gate.load(path)
    hidden = states(600)
    expected, error = reference(path, hidden)
    assert np.median(error) < 5e-3 * expected.std()  # a tolerance that hides no mistake
    for n in (0, 1, 2, 255, 256, 257, 600):
        z = gate.predict(hidden[:n])
        assert z.dtype == np.float32
        assert z.shape == (n, N_FAMILIES)
        assert (np.abs(z - expected[:n]) <= error[:n]).all()


@pytest.mark.parametrize("outtype", ["f32", "f16", "bf16", "q8_0"])
def test_matrices_keep_the_type_of_the_file(gate_file: MakeGate, outtype: str) -> None:
    path = gate_file(16, outtype=outtype)
    narrow = "F16" if outtype == "q8_0" else outtype.upper()  # rows of 16 are no block of Q8_0
    assert Gate.load(path).tensors == {
        "lcg.fc1.weight": (outtype.upper(), (16, N_EMBD)),
        "lcg.fc1.bias": ("F32", (16,)),
        "lcg.fc2.weight": (narrow, (N_FAMILIES, 16)),
        "lcg.fc2.bias": ("F32", (N_FAMILIES,)),
        "lcg.token_family": ("I8", (8,)),
    }


def test_a_bias_may_stand_in_one_layer_only(tmp_path: Path) -> None:
    for missing in ("lcg.fc1.bias", "lcg.fc2.bias"):
        path = tmp_path / f"{missing}.gguf"
        path.write_bytes(gb.minimal().drop(missing).bytes())
        z = Gate.load(path).predict([[3, 7, 1, 5]])
        # fc1: [3, 3] + [0.5, 0.25]; fc2: [a, b, 2a - 2b] + [0, 0, 1]
        assert z.tolist() == ([[3, 3, 1]] if missing == "lcg.fc1.bias" else [[3.5, 3.25, 0.5]])


@pytest.mark.parametrize("n_families", [2, 5, 127])
def test_any_number_of_families_is_predicted(tmp_path: Path, n_families: int) -> None:
    rng = np.random.default_rng(n_families)
    weight = rng.integers(-3, 4, (n_families, 8)).astype(np.float32)
    names = tuple(f"family {i}" for i in range(n_families))
    families = FamilySet(names, (True,) * (n_families - 1) + (False,), n_families - 1, "numbers")
    spec = GateSpec("llama", 8, 0, np.arange(n_families, dtype=np.uint8), "0" * 64, families)
    write_gate(tmp_path / "gate.gguf", spec, {"lcg.fc2.weight": weight}, "f32")
    hidden = rng.integers(-9, 10, (5, 8)).astype(np.float32)  # integers: no rounding anywhere
    np.testing.assert_array_equal(Gate.load(tmp_path / "gate.gguf").predict(hidden), hidden @ weight.T)


def test_hidden_states_may_be_strided_float64_or_lists(gate_file: MakeGate) -> None:
    gate = Gate.load(gate_file(16))
    hidden = states(6)
    expected = gate.predict(hidden)
    wide = np.repeat(np.repeat(hidden, 2, axis=0), 3, axis=1)
    for same in (
        wide[::2, ::3],
        np.asfortranarray(hidden),
        hidden[::-1].copy()[::-1],
        hidden.astype(np.float64),
        hidden.astype(">f4"),
        hidden.tolist(),
    ):
        np.testing.assert_array_equal(gate.predict(same), expected)
    read_only = hidden.copy()
    read_only.flags.writeable = False
    np.testing.assert_array_equal(gate.predict(read_only), expected)
    np.testing.assert_array_equal(hidden, states(6))


@pytest.mark.parametrize(
    ("shape", "found"),
    [
        ((), ""),
        ((N_EMBD,), "64,"),
        ((2, N_EMBD - 1), "2, 63"),
        ((2, N_EMBD + 1), "2, 65"),
        ((N_EMBD, 2), "64, 2"),
        ((1, 2, N_EMBD), "1, 2, 64"),
        ((0,), "0,"),
        ((0, 0), "0, 0"),
    ],
)
def test_hidden_states_of_another_shape_are_refused(gate_file: MakeGate, shape: tuple[int, ...], found: str) -> None:
    with pytest.raises(GateError) as caught:
        Gate.load(gate_file(16)).predict(np.zeros(shape))
    assert str(caught.value) == f"`hidden` has shape ({found}), expected (n, 64)"


def test_hidden_states_that_are_no_numbers_are_refused(gate_file: MakeGate) -> None:
    gate = Gate.load(gate_file(16))
    for hidden in ("text", [["a"] * N_EMBD], [[None, {}] * 32], [[1.0], [1.0, 2.0]]):
        with pytest.raises((TypeError, ValueError)):
            gate.predict(hidden)  # type: ignore[arg-type]


@pytest.mark.parametrize("outtype", ["f32", "f16", "bf16", "q8_0"])
def test_a_row_that_is_not_finite_leaves_the_other_rows_alone(gate_file: MakeGate, outtype: str) -> None:
    gate = Gate.load(gate_file(N_EMBD, outtype=outtype))
    hidden = states(4)
    expected = gate.predict(hidden)
    for value in (math.nan, math.inf, -math.inf, 3e38):
        broken = hidden.copy()
        broken[1, 3] = value
        np.testing.assert_array_equal(gate.predict(broken)[[0, 2, 3]], expected[[0, 2, 3]])


def test_one_gate_serves_several_threads(gate_file: MakeGate) -> None:
    gate = Gate.load(gate_file(N_EMBD, outtype="q8_0"))
    batches = [states(n, seed=n) for n in (1, 2, 3, 257) * 8]
    expected = [gate.predict(batch) for batch in batches]
    with ThreadPoolExecutor(8) as pool:
        for _ in range(5):
            for found, wanted in zip(pool.map(gate.predict, batches), expected):
                np.testing.assert_array_equal(found, wanted)


def test_results_outlive_the_gate(gate_file: MakeGate) -> None:
    path = gate_file(16)
    gate = Gate.load(path)
    z, families, metadata, tensors = gate.predict(states(3)), gate.token_families, gate.metadata, gate.tensors
    copies = z.copy(), families.copy(), dict(metadata), dict(tensors)
    del gate
    Gate.load(path).predict(states(300))
    np.testing.assert_array_equal(z, copies[0])
    np.testing.assert_array_equal(families, copies[1])
    assert (metadata, tensors) == copies[2:]


# ---- devices ----

NO_GPU = pytest.mark.skipif(llama_cpp.llama_supports_gpu_offload(), reason="this llama-cpp-python has a GPU backend")


@NO_GPU
def test_a_gpu_that_is_not_there_is_refused(gate_file: MakeGate) -> None:
    with pytest.raises(GateError) as caught:
        Gate.load(gate_file(16), "gpu")
    assert str(caught.value) == '`device` is "gpu", but this build of llama-cpp-python has no GPU backend'


@NO_GPU
def test_auto_takes_the_cpu_where_there_is_no_gpu(gate_file: MakeGate) -> None:
    path = gate_file(16)
    gate = Gate.load(path, "auto")
    assert gate.device == Gate.load(path, device="cpu").device == "CPU"
    np.testing.assert_array_equal(gate.predict(states(3)), Gate.load(path).predict(states(3)))


@pytest.mark.skipif(not llama_cpp.llama_supports_gpu_offload(), reason="this llama-cpp-python has no GPU backend")
@pytest.mark.parametrize("outtype", ["f32", "f16", "q8_0"])
def test_a_gpu_predicts_what_numpy_predicts(gate_file: MakeGate, outtype: str) -> None:
    path = gate_file(N_EMBD, outtype=outtype)
    gate = Gate.load(path, "gpu")
    assert gate.device != "CPU"
    expected, error = reference(path, states(257))
    # GPUs add up in another order and some round activations to F16 whatever the matrix
    assert (np.abs(gate.predict(states(257)) - expected) <= error + 5e-2 * expected.std()).all()


@pytest.mark.parametrize("device", ["", "CPU", "cuda", "tpu"])
def test_other_devices_are_refused(gate_file: MakeGate, device: Any) -> None:
    with pytest.raises(GateError) as caught:
        Gate.load(gate_file(16), device)
    assert str(caught.value) == f'`device` is "{device}", expected "cpu", "gpu" or "auto"'


# ---- what a gate says of itself ----


def test_token_families_are_read_only_with_exemptions_applied(gate_file: MakeGate) -> None:
    gate = Gate.load(gate_file(0, exempt_tokens=(1, 3, 7)))
    assert gate.token_families.dtype == np.uint8
    assert gate.token_families.tolist() == [0, 2, 2, 2, 0, 1, 2, 2]
    with pytest.raises(ValueError, match="read-only"):
        gate.token_families[0] = 1
    assert gate.exempt_tokens == (1, 3, 7)


def test_properties_cannot_be_assigned(gate_file: MakeGate) -> None:
    gate = Gate.load(gate_file(0))
    for name in ("architecture", "n_embd", "n_hidden", "n_vocab", "maskable", "neutral", "thresholds", "confidence"):
        with pytest.raises(AttributeError):
            setattr(gate, name, getattr(gate, name))


def test_repr_names_the_file_and_the_model(gate_file: MakeGate) -> None:
    path = gate_file(16)
    assert repr(Gate.load(path)) == (
        f"Gate({str(path)!r}, architecture='llama', n_embd=64, n_hidden=16, n_vocab=8, device='CPU')"
    )


# ---- options ----


def test_default_options_are_the_methods_but_for_first_token_and_a_least_temperature_of_confidence() -> None:
    assert dataclasses.asdict(GateOptions()) == {
        "mode": "mask",
        "strength": math.inf,
        "allow": (),
        "deny": (),
        "threshold": None,
        "persistence": True,
        "confidence": True,
        "confidence_temperature": 0.7,
        "first_token": True,
        "n_events": 256,
        "eager": False,
        "phases": (),
    }
    paper = {**dataclasses.asdict(GateOptions()), "first_token": False, "confidence_temperature": 0.0}
    assert dataclasses.asdict(PAPER_OPTIONS) == paper
    with pytest.raises(dataclasses.FrozenInstanceError):
        GateOptions().mode = "off"  # type: ignore[misc]


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("mode", "masked", '`mode` is "masked", expected "mask", "observe" or "off"'),
        ("mode", None, '`mode` is "None", expected "mask", "observe" or "off"'),
        ("strength", -0.5, "`strength` is -0.5, expected logits from 0 to infinity"),
        ("strength", math.nan, "`strength` is nan, expected logits from 0 to infinity"),
        ("threshold", 0, "`threshold` is 0, expected a probability between 0 and 1"),
        ("threshold", 1.0, "`threshold` is 1.0, expected a probability between 0 and 1"),
        ("threshold", math.nan, "`threshold` is nan, expected a probability between 0 and 1"),
        ("n_events", 2.5, "`n_events` is 2.5, expected 0 to 65536"),
        ("n_events", True, "`n_events` is True, expected 0 to 65536"),
        ("threshold", 1e-60, "`threshold` is 1e-60, expected a probability between 0 and 1"),
        ("confidence_temperature", -0.1, "`confidence_temperature` is -0.1, expected a number from 0"),
        ("confidence_temperature", math.nan, "`confidence_temperature` is nan, expected a number from 0"),
        ("confidence_temperature", math.inf, "`confidence_temperature` is inf, expected a number from 0"),
        ("confidence_temperature", 1e39, "`confidence_temperature` is 1e+39, expected a number from 0"),
        ("n_events", -1, "`n_events` is -1, expected 0 to 65536"),
        ("n_events", 65537, "`n_events` is 65537, expected 0 to 65536"),
    ],
)
def test_bad_options_are_refused(field: str, value: object, message: str) -> None:
    with pytest.raises(GateError) as caught:
        GateOptions(**{field: value})  # type: ignore[arg-type]
    assert str(caught.value) == message


def test_options_at_the_edges_are_allowed() -> None:
    for options in (
        {"strength": 0},
        {"strength": math.inf},
        {"threshold": 1e-6},
        {"threshold": 0.999},
        {"n_events": 0},
    ):
        GateOptions(**options)  # type: ignore[arg-type]


# ---- arguments of decide ----

GOOD: dict[str, Any] = {
    "ids": [0, 1, 2, 3],
    "logits": [4.0, 3.0, 2.0, 1.0],
    "survivors": [0, 1],
    "z": [-9.0, 9.0, -9.0, -9.0],
    "last": 3,
}


@pytest.fixture(scope="module")
def gate(gate_file: MakeGate) -> Gate:
    """A gate whose eight tokens belong to the families 0, 1, 2, 3, 0, 1, 2, 3."""
    return Gate.load(gate_file(0))


def test_good_arguments_decide(gate: Gate) -> None:
    decision = gate.decide(**GOOD)
    assert decision.reason == "intervene"
    assert decision.candidates.tolist() == [1, 2, 3]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"logits": [1.0, 2.0]}, "`ids` and `logits` have 4 and 2 elements"),
        ({"ids": [[0, 1], [2, 3]], "logits": [[1, 2], [3, 4]]}, "expected two flat arrays of one length"),
        ({"ids": [0, 1, 2, 8]}, "`ids` holds token 8, the gate's vocabulary has 8"),
        ({"ids": [0, 1, 2, -1]}, "`ids` holds token -1, the gate's vocabulary has 8"),
        ({"ids": [0, 1, 2, 0]}, "`ids` holds token 0 twice"),
        ({"logits": [1, 2, math.nan, 3]}, "`logits` holds NaN or +inf at index 2"),
        ({"logits": [1, math.inf, 2, 3]}, "`logits` holds NaN or +inf at index 1"),
        ({"survivors": [0, 4]}, "`survivors` holds token 4, which is not in `ids`"),
        ({"survivors": [0, -1]}, "`survivors` holds token -1, which is not in `ids`"),
        ({"survivors": [0, 1_000_000]}, "`survivors` holds token 1000000, which is not in `ids`"),
        ({"survivors": [0, 0]}, "`survivors` holds token 0 twice"),
        ({"z": [1.0, 2.0, 3.0]}, "`z` has "),
        ({"z": [1.0, 2.0, 3.0, 4.0, 5.0]}, "`z` has "),
        ({"last": 2}, "`last` is 2, expected None or a family that is not neutral"),
        ({"last": 4}, "`last` is 4, expected None or a family that is not neutral"),
        ({"last": -1}, "`last` is -1, expected None or a family that is not neutral"),
        ({"last": -2}, "`last` is -2, expected None or a family that is not neutral"),
        ({"temperature": 0.0}, "`temperature` is 0.0, expected more than 0 (1 for greedy)"),
        ({"temperature": -1.0}, "`temperature` is -1.0, expected more than 0 (1 for greedy)"),
        ({"temperature": math.nan}, "`temperature` is nan, expected more than 0 (1 for greedy)"),
    ],
)
def test_bad_arguments_of_decide_are_refused(gate: Gate, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(GateError) as caught:
        gate.decide(**{**GOOD, **changes})
    assert message in str(caught.value)


def test_nothing_to_decide_is_no_error(gate: Gate) -> None:
    nothing = gate.decide([], [], [], GOOD["z"], last=3)
    assert (nothing.intervene, nothing.reason, nothing.candidates.tolist()) == (False, "nothing_banned", [])
    forbidden = gate.decide([0, 1], [-math.inf, -math.inf], [0, 1], GOOD["z"], last=3)
    assert (forbidden.intervene, forbidden.reason) == (False, "nothing_banned")
