"""Norms of output rows and the soft-capping, read from models of every kind, against whole matrices in NumPy."""

from __future__ import annotations

import math
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import numpy.typing as npt
import pytest
from gguf import GGML_QUANT_SIZES, GGMLQuantizationType
from gguf.quants import dequantize, quantize

from lcg_cpp import GateError
from lcg_cpp.engine import output_norms
from lcg_cpp.engine.output_norms import label_norms, read_output_matrix

N_EMBD = 512
N_VOCAB = 37
OUTPUT, EMBEDDINGS = "output.weight", "token_embd.weight"

QUANTIZABLE = ("F32", "F16", "BF16", "Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0", "TQ1_0", "TQ2_0", "MXFP4")
DECODABLE = (
    *("Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K", "NVFP4", "IQ1_S", "IQ1_M", "IQ2_XXS", "IQ2_XS", "IQ2_S"),
    *("IQ3_XXS", "IQ3_S", "IQ4_NL", "IQ4_XS"),
)

Matrix = npt.NDArray[Any]
Settings = Callable[[gguf.GGUFWriter], None]


def type_named(name: str) -> GGMLQuantizationType:
    """The type; an older gguf package knows fewer, and the tests of the others are skipped."""
    if name not in GGMLQuantizationType.__members__:
        pytest.skip(f"the installed gguf package does not know {name}")
    return GGMLQuantizationType[name]


def write_model(
    path: Path,
    tensors: dict[str, tuple[Matrix, GGMLQuantizationType]],
    *,
    architecture: str = "llama",
    settings: Settings = lambda writer: None,
) -> Path:
    """Writes a file with these tensors and settings; it is no model that anything could run."""
    writer = gguf.GGUFWriter(path, architecture)
    settings(writer)
    for name, (data, kind) in tensors.items():
        writer.add_tensor(name, data, raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def normal_rows(seed: int = 0, n_rows: int = N_VOCAB) -> npt.NDArray[np.float32]:
    """Rows (n_rows, N_EMBD) whose norms differ."""
    rng = np.random.default_rng(seed)
    return (rng.normal(size=(n_rows, N_EMBD)) * rng.uniform(0.1, 3, (n_rows, 1))).astype(np.float32)


def random_blocks(kind: GGMLQuantizationType, n_rows: int = N_VOCAB, n_embd: int = N_EMBD) -> npt.NDArray[np.uint8]:
    """Stored rows of random bytes; all are small, so that no block's scale is infinite or NaN."""
    block, block_bytes = GGML_QUANT_SIZES[kind]
    rng = np.random.default_rng(kind.value)
    return rng.integers(0, 60, (n_rows, n_embd // block * block_bytes), dtype=np.uint8)


def norms_of(matrix: Matrix) -> npt.NDArray[np.float64]:
    """The L2 norms of the rows of a whole matrix."""
    return np.linalg.norm(matrix.astype(np.float64), axis=1)


def small_model(path: Path, **changes: Any) -> Path:
    """A model with an output matrix of ones, in F32."""
    return write_model(path, {OUTPUT: (np.ones((3, 32), np.float32), GGMLQuantizationType.F32)}, **changes)


# --- every type of matrix ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", QUANTIZABLE)
def test_norms_are_those_of_the_stored_rows(tmp_path: Path, name: str) -> None:
    kind = type_named(name)
    stored = quantize(normal_rows(), kind)
    matrix = read_output_matrix(write_model(tmp_path / "model.gguf", {OUTPUT: (stored, kind)}))
    assert (matrix.tensor, matrix.tensor_type, matrix.softcap) == (OUTPUT, name, 0.0)
    assert (matrix.norms.dtype, matrix.norms.shape) == (np.float32, (N_VOCAB,))
    np.testing.assert_allclose(matrix.norms, norms_of(dequantize(stored, kind)), rtol=1e-6)
    if name in ("F32", "F16", "BF16", "Q8_0", "Q5_1"):
        np.testing.assert_allclose(matrix.norms, norms_of(normal_rows()), rtol=0.01)


@pytest.mark.parametrize("name", DECODABLE)
def test_norms_of_types_without_a_quantizer_are_those_of_the_stored_blocks(tmp_path: Path, name: str) -> None:
    kind = type_named(name)
    stored = random_blocks(kind)
    matrix = read_output_matrix(write_model(tmp_path / "model.gguf", {OUTPUT: (stored, kind)}))
    assert matrix.tensor_type == name
    np.testing.assert_allclose(matrix.norms, norms_of(dequantize(stored, kind)), rtol=1e-6)


def test_every_type_that_the_gguf_package_decodes_is_tried_here() -> None:
    def decodes(kind: GGMLQuantizationType) -> bool:
        try:
            dequantize(np.zeros((1, GGML_QUANT_SIZES[kind][1]), np.uint8), kind)
        except NotImplementedError:
            return False
        return True

    assert {kind.name for kind in GGMLQuantizationType if decodes(kind)} <= {*QUANTIZABLE, *DECODABLE}


@pytest.mark.parametrize("rows_per_slice", [1, 2, 5, 36, 37, 38, 1000])
@pytest.mark.parametrize("name", ["F16", "Q6_K"])
def test_norms_do_not_depend_on_the_slices(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, rows_per_slice: int
) -> None:
    monkeypatch.setattr(output_norms, "_SLICE_BYTES", rows_per_slice * N_EMBD * 4)
    kind = type_named(name)
    stored = random_blocks(kind)
    matrix = read_output_matrix(write_model(tmp_path / "model.gguf", {OUTPUT: (stored, kind)}))
    np.testing.assert_allclose(matrix.norms, norms_of(dequantize(stored, kind)), rtol=1e-6)


def test_the_whole_matrix_is_never_in_memory(tmp_path: Path) -> None:
    n_vocab, n_embd = 16_384, 2048
    stored = random_blocks(GGMLQuantizationType.Q8_0, n_vocab, n_embd)  # 128 MiB as float32
    path = write_model(tmp_path / "model.gguf", {OUTPUT: (stored, GGMLQuantizationType.Q8_0)})
    tracemalloc.start()
    read_output_matrix(path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 16 << 20


def test_norms_beyond_the_square_root_of_single_precision_are_exact(tmp_path: Path) -> None:
    rows = np.array([[3e25, 4e25], [3e-25, 4e-25]], np.float32)
    path = write_model(tmp_path / "model.gguf", {OUTPUT: (rows, GGMLQuantizationType.F32)})
    np.testing.assert_allclose(read_output_matrix(path).norms, [5e25, 5e-25], rtol=1e-6)


def test_the_scale_of_an_nvfp4_matrix_counts(tmp_path: Path) -> None:
    kind = type_named("NVFP4")
    stored = random_blocks(kind)
    scale = (np.array([-2.5], np.float32), GGMLQuantizationType.F32)
    path = write_model(tmp_path / "model.gguf", {OUTPUT: (stored, kind), "output.scale": scale})
    np.testing.assert_allclose(read_output_matrix(path).norms, 2.5 * norms_of(dequantize(stored, kind)), rtol=1e-6)


# --- which matrix --------------------------------------------------------------------------------------------------


def test_tied_models_use_the_embeddings(tmp_path: Path) -> None:
    path = write_model(tmp_path / "model.gguf", {EMBEDDINGS: (normal_rows(1), GGMLQuantizationType.F32)})
    matrix = read_output_matrix(path)
    assert matrix.tensor == EMBEDDINGS
    np.testing.assert_allclose(matrix.norms, norms_of(normal_rows(1)), rtol=1e-6)


def test_untied_models_use_the_output_matrix(tmp_path: Path) -> None:
    tensors = {EMBEDDINGS: normal_rows(1), OUTPUT: normal_rows(2), "output_norm.weight": np.ones(N_EMBD, np.float32)}
    path = write_model(
        tmp_path / "model.gguf", {name: (data, GGMLQuantizationType.F32) for name, data in tensors.items()}
    )
    matrix = read_output_matrix(path)
    assert matrix.tensor == OUTPUT
    np.testing.assert_allclose(matrix.norms, norms_of(normal_rows(2)), rtol=1e-6)


def test_norms_of_the_tiny_model_are_those_of_its_matrix(tiny_model_path: Path) -> None:
    matrix = read_output_matrix(str(tiny_model_path))
    stored = {tensor.name: tensor for tensor in gguf.GGUFReader(tiny_model_path).tensors}
    assert matrix.tensor == (OUTPUT if OUTPUT in stored else EMBEDDINGS)
    whole = dequantize(np.array(stored[matrix.tensor].data), stored[matrix.tensor].tensor_type)
    np.testing.assert_allclose(matrix.norms, norms_of(whole), rtol=1e-6)


def write_split(folder: Path, parts: list[dict[str, Matrix]], prefix: str = "model") -> Path:
    """Writes a split model as llama.cpp does: settings in the first file alone; returns the first."""
    for number, tensors in enumerate(parts):

        def settings(writer: gguf.GGUFWriter, number: int = number) -> None:
            writer.add_uint16("split.no", number)
            writer.add_uint16("split.count", len(parts))
            if number == 0:
                writer.add_float32("llama.final_logit_softcapping", 12.5)

        path = folder / f"{prefix}-{number + 1:05}-of-{len(parts):05}.gguf"
        write_model(path, {n: (d, GGMLQuantizationType.F32) for n, d in tensors.items()}, settings=settings)
    return folder / f"{prefix}-00001-of-{len(parts):05}.gguf"


@pytest.mark.parametrize("where", [0, 1, 2])
def test_split_models_are_searched_whole(tmp_path: Path, where: int) -> None:
    parts: list[dict[str, Matrix]] = [{"a": np.ones(4, np.float32)}, {"b": np.ones(4, np.float32)}, {}]
    parts[0][EMBEDDINGS] = normal_rows(1)
    parts[where][OUTPUT] = normal_rows(2)
    matrix = read_output_matrix(write_split(tmp_path, parts))
    assert (matrix.tensor, matrix.softcap) == (OUTPUT, 12.5)
    np.testing.assert_allclose(matrix.norms, norms_of(normal_rows(2)), rtol=1e-6)


def test_split_models_may_have_numbers_in_their_names(tmp_path: Path) -> None:
    first = write_split(
        tmp_path, [{"a": np.ones(4, np.float32)}, {OUTPUT: normal_rows()}], prefix="m-00002-of-00002.gguf"
    )
    assert len(read_output_matrix(first).norms) == N_VOCAB


def test_a_missing_part_is_an_error_with_its_name(tmp_path: Path) -> None:
    first = write_split(tmp_path, [{OUTPUT: normal_rows()}, {"b": np.ones(4, np.float32)}])
    second = tmp_path / "model-00002-of-00002.gguf"
    second.unlink()
    with pytest.raises(FileNotFoundError) as error:
        read_output_matrix(first)
    assert error.value.filename == str(second)


def test_a_part_other_than_the_first_is_refused(tmp_path: Path) -> None:
    write_split(tmp_path, [{"a": np.ones(4, np.float32)}, {OUTPUT: normal_rows()}])
    second = tmp_path / "model-00002-of-00002.gguf"
    with pytest.raises(GateError) as error:
        read_output_matrix(second)
    assert str(error.value) == f"{second}: split into 2 files, expected the first, named *-00001-of-00002.gguf"


# --- soft-capping --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("architecture", "key", "softcap"),
    [
        ("llama", None, 0.0),
        ("llama", 20.0, 20.0),
        ("gemma", None, 0.0),
        ("gemma2", None, 30.0),
        ("gemma2", 50.0, 50.0),
        ("gemma3", None, 0.0),
        ("gemma3", 30.0, 30.0),
        ("gemma3", 0.0, 0.0),
        ("gemma3n", None, 30.0),
        ("gemma4", None, 30.0),
        ("gemma4", 0.0, 0.0),
        ("grok", None, 0.0),
        ("grok", 15.0, 15.0),
        ("muse-glimmer", None, 30.0),
    ],
)
def test_soft_capping_is_what_llama_cpp_applies(
    tmp_path: Path, architecture: str, key: float | None, softcap: float
) -> None:
    def settings(writer: gguf.GGUFWriter) -> None:
        if key is not None:
            writer.add_final_logit_softcapping(key)
        writer.add_attn_logit_softcapping(99.0)
        writer.add_logit_scale(0.25)

    path = small_model(tmp_path / "model.gguf", architecture=architecture, settings=settings)
    assert read_output_matrix(path).softcap == softcap


@pytest.mark.parametrize("value", [-30.0, math.nan, math.inf, "30"])
def test_a_soft_capping_that_is_no_size_is_refused(tmp_path: Path, value: float | str) -> None:
    def settings(writer: gguf.GGUFWriter) -> None:
        key = "llama.final_logit_softcapping"
        writer.add_string(key, value) if isinstance(value, str) else writer.add_float32(key, value)

    path = small_model(tmp_path / "model.gguf", settings=settings)
    with pytest.raises(GateError) as error:
        read_output_matrix(path)
    wanted = f"{path}: `llama.final_logit_softcapping` is {value!r}, expected a finite number of at least 0"
    assert str(error.value) == wanted


# --- refusals ------------------------------------------------------------------------------------------------------


def test_a_type_that_cannot_be_decoded_is_refused_with_the_way_out(tmp_path: Path) -> None:
    kind = GGMLQuantizationType.Q8_1
    for tensor, option in ((OUTPUT, "--output-tensor-type"), (EMBEDDINGS, "--token-embedding-type")):
        path = write_model(tmp_path / "model.gguf", {tensor: (random_blocks(kind), kind)})
        with pytest.raises(GateError) as error:
            read_output_matrix(path)
        message = str(error.value)
        assert message.startswith(f"{path}: tensor `{tensor}` is Q8_1, which gguf ")
        assert f"pip install -U gguf, or store it as Q8_0 (llama-quantize {option} q8_0)" in message


def test_a_type_that_is_newer_than_the_gguf_package_is_refused(tmp_path: Path) -> None:
    path = small_model(tmp_path / "model.gguf")
    content = bytearray(path.read_bytes())
    content[content.index(OUTPUT.encode()) + len(OUTPUT) + 4 + 16] = 250  # after n_dims and two dimensions
    path.write_bytes(content)
    with pytest.raises(GateError, match=r"tensor `output\.weight` is of type 250, which gguf"):
        read_output_matrix(path)


def test_a_model_without_any_of_both_matrices_is_refused(tmp_path: Path) -> None:
    path = write_model(tmp_path / "model.gguf", {"a": (np.ones(4, np.float32), GGMLQuantizationType.F32)})
    with pytest.raises(GateError) as error:
        read_output_matrix(path)
    assert str(error.value) == f"{path}: neither `output.weight` nor `token_embd.weight` is among the tensors"


def test_a_matrix_that_ends_after_the_file_is_refused(tmp_path: Path) -> None:
    path = small_model(tmp_path / "model.gguf")
    content = path.read_bytes()
    path.write_bytes(content[:-33])
    with pytest.raises(GateError, match=r"tensor `output\.weight` ends at byte \d+, the file has \d+"):
        read_output_matrix(path)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("name", ["F32", "F16", "BF16"])
def test_a_row_that_is_no_number_is_refused(tmp_path: Path, name: str, value: float) -> None:
    kind = type_named(name)
    rows = normal_rows()
    rows[7, 100] = value
    stored = (rows.view(np.uint32) >> 16).astype(np.uint16).view(np.uint8) if name == "BF16" else quantize(rows, kind)
    path = write_model(tmp_path / "model.gguf", {OUTPUT: (stored, kind)})
    with pytest.raises(GateError) as error:
        read_output_matrix(path)
    assert str(error.value) == f"{path}: row 7 of tensor `output.weight` holds NaN or Inf, expected finite numbers"


@pytest.mark.parametrize("shape", [(32,), (2, 3, 32)])
def test_a_tensor_that_is_no_matrix_is_refused(tmp_path: Path, shape: tuple[int, ...]) -> None:
    path = write_model(tmp_path / "model.gguf", {OUTPUT: (np.ones(shape, np.float32), GGMLQuantizationType.F32)})
    with pytest.raises(GateError, match=r"tensor `output\.weight` has shape"):
        read_output_matrix(path)


# --- label_norms ---------------------------------------------------------------------------------------------------


def test_label_norms_are_the_norms_or_their_ratio_to_the_mean() -> None:
    norms = np.array([1, 2, 6], np.float32)
    for norm, wanted in (("token", [1, 2, 6]), ("relative", [1 / 3, 2 / 3, 2])):
        divisors = label_norms(norms, norm)
        assert divisors is not None
        assert divisors.dtype == np.float32
        np.testing.assert_allclose(divisors, wanted, rtol=1e-7)
    assert label_norms(norms, "none") is None


def test_rows_of_zeros_stand_at_the_mean_of_the_others() -> None:
    norms = np.array([0, 2, 0, 4], np.float32)
    for norm, wanted in (("token", [3, 2, 3, 4]), ("relative", [1, 2 / 3, 1, 4 / 3])):
        divisors = label_norms(norms, norm)
        assert divisors is not None
        np.testing.assert_allclose(divisors, wanted, rtol=1e-7)
    np.testing.assert_array_equal(norms, [0, 2, 0, 4])


def test_a_matrix_of_zeros_has_no_label_norms() -> None:
    for norm in ("token", "relative"):
        with pytest.raises(GateError, match="`norms` are all zero"):
            label_norms(np.zeros(5, np.float32), norm)


def test_an_unknown_norm_is_refused() -> None:
    with pytest.raises(GateError) as error:
        label_norms(np.ones(5, np.float32), "l1")
    assert str(error.value) == "`norm` is 'l1', expected token, relative, none"
