"""How `family_labels` and `Steps` treat memory, threads and mistakes; what they compute is in test_labels.py."""

from __future__ import annotations

import ctypes
import sys
import threading
import tracemalloc
from collections.abc import Callable, Iterator

import numpy as np
import numpy.typing as npt
import pytest

from lcg_cpp import GateError
from lcg_cpp.gate.labels import family_labels
from lcg_cpp.gate.steps import Sampling, Steps

Singles = npt.NDArray[np.float32]

N_VOCAB = 5000  # several chunks of the kernel and a part of one


def random_rows(n: int, n_vocab: int = N_VOCAB, seed: int = 0) -> Singles:
    """Logits."""
    return np.random.default_rng(seed).normal(0, 3, (n, n_vocab)).astype(np.float32)


def random_families(n_vocab: int = N_VOCAB) -> npt.NDArray[np.uint8]:
    """Families 0 to 3."""
    return np.random.default_rng(1).integers(0, 4, n_vocab, dtype=np.uint8)


def random_norms(n_vocab: int = N_VOCAB) -> Singles:
    """Norms around 1."""
    return np.random.default_rng(2).lognormal(0, 0.3, n_vocab).astype(np.float32)


# ---- memory ----


def test_rows_are_read_where_they_lie() -> None:
    # as llama.cpp's logits: memory of somebody else, of which an array is a view
    rows = random_rows(3)
    buffer = (ctypes.c_float * rows.size)()
    view = np.frombuffer(buffer, np.float32).reshape(rows.shape)
    view[:] = rows
    families, norms = random_families(), random_norms()
    np.testing.assert_array_equal(family_labels(view, norms, families), family_labels(rows, norms, families))
    np.testing.assert_array_equal(family_labels(view[1:2], norms, families), family_labels(rows, norms, families)[1:2])


@pytest.mark.parametrize("writeable", [True, False])
def test_logits_are_not_copied(writeable: bool) -> None:
    rows = random_rows(400)
    rows.flags.writeable = writeable
    families, norms = random_families(), random_norms()
    tracemalloc.start()  # NumPy reports what it allocates, and a copy would be NumPy's
    try:
        family_labels(rows, norms, families, n_threads=1)
        Steps.of(rows, n_threads=1)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < rows.nbytes / 50


@pytest.mark.parametrize(
    "logits",
    [
        random_rows(2).astype(np.float64),
        random_rows(2)[:, ::2],
        np.asfortranarray(random_rows(2)),
        random_rows(2).astype(">f4"),
        random_rows(2).tolist(),
    ],
    ids=["float64", "strided", "fortran", "big-endian", "list"],
)
def test_logits_that_would_have_to_be_copied_are_refused(logits: Singles) -> None:
    with pytest.raises(GateError, match=r"^`logits` is .*, expected a"):
        family_labels(logits, None, random_families())
    with pytest.raises(GateError, match=r"^`logits` is .*, expected a"):
        Steps.of(logits)


@pytest.mark.parametrize("shape", [(N_VOCAB,), (1, 1, N_VOCAB), (1, 0), ()])
def test_logits_are_rows_of_a_vocabulary(shape: tuple[int, ...]) -> None:
    for call in (lambda rows: family_labels(rows, None, random_families()), Steps.of):
        with pytest.raises(GateError, match=r"^`logits` has shape \(.*\), expected \(n, n_vocab\)$"):
            call(np.zeros(shape, np.float32))


def test_no_rows_give_empty_arrays() -> None:
    rows = np.empty((0, N_VOCAB), np.float32)
    assert family_labels(rows, random_norms(), random_families(), n_families=5).shape == (0, 5)
    steps = Steps.of(rows, Sampling(top_k=30))
    assert (steps.ids.shape, steps.logits.shape, steps.log_sum.shape) == ((0, 30), (0, 30), (0,))
    assert steps.n_survivors.shape == steps.n_confident.shape == (0,)


# ---- threads ----


@pytest.fixture
def patient_interpreter() -> Iterator[None]:
    """A thread that holds the interpreter's lock keeps it until it gives it up."""
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1000)
    yield
    sys.setswitchinterval(interval)


@pytest.mark.usefixtures("patient_interpreter")
@pytest.mark.parametrize("function", ["family_labels", "Steps.of"])
def test_other_python_threads_run_meanwhile(function: str) -> None:
    rows, families = random_rows(200), random_families()
    calls: dict[str, Callable[[], object]] = {
        "family_labels": lambda: family_labels(rows, None, families, n_threads=1),
        "Steps.of": lambda: Steps.of(rows, n_threads=1),
    }
    start, ran = threading.Lock(), []

    def note() -> None:
        with start:
            ran.append(True)

    start.acquire()
    other = threading.Thread(target=note)
    other.start()
    start.release()
    for _ in range(1000):  # the system may be slow to wake the other thread
        calls[function]()
        if ran:
            break
    assert ran
    other.join()


def test_labels_are_the_same_bits_with_any_number_of_threads() -> None:
    rows, families, norms = random_rows(37), random_families(), random_norms()
    for options in ({}, {"soft": True}, {"soft": True, "top_k": 0}, {"softcap": 30.0, "soft": True}):
        one = family_labels(rows, norms, families, n_threads=1, **options)  # type: ignore[arg-type]
        for n_threads in (0, 2, 3, 64):
            many = family_labels(rows, norms, families, n_threads=n_threads, **options)  # type: ignore[arg-type]
            assert many.tobytes() == one.tobytes()


@pytest.mark.parametrize("n_threads", [1, 2, 8])
def test_the_first_bad_row_is_named_whichever_thread_meets_it(n_threads: int) -> None:
    rows = random_rows(50)
    rows[[7, 8, 9, 30], [4999, 3, 2, 0]] = np.nan
    for _ in range(20):
        with pytest.raises(GateError) as error:
            family_labels(rows, random_norms(), random_families(), n_threads=n_threads)
        assert str(error.value) == "`logits` is nan in row 7 at token 4999, expected a finite number or -inf"


# ---- values ----


@pytest.mark.parametrize("token", [0, 63, 2048, N_VOCAB - 1])
@pytest.mark.parametrize("softcap", [0.0, 30.0])
def test_a_bad_logit_is_found_anywhere(token: int, softcap: float) -> None:
    for value, text in ((np.nan, "nan"), (np.inf, "inf")):
        rows = random_rows(2)
        rows[1, token] = value
        message = f"^`logits` is {text} in row 1 at token {token}, expected a finite number or -inf$"
        with pytest.raises(GateError, match=message):
            family_labels(rows, random_norms(), random_families(), softcap=softcap)
        with pytest.raises(GateError, match=message):
            Steps.of(rows)


def test_a_row_of_forbidden_tokens_is_named() -> None:
    rows = random_rows(3)
    rows[2] = -np.inf
    message = "^`logits` is -inf at every token of row 2, expected one that is finite$"
    with pytest.raises(GateError, match=message):
        family_labels(rows, random_norms(), random_families())
    with pytest.raises(GateError, match=message):
        Steps.of(rows)


@pytest.mark.parametrize(("value", "text"), [(0.0, "0.0*"), (-1.5, "-1.50*"), (np.inf, "inf"), (np.nan, "nan")])
def test_a_bad_norm_is_named(value: float, text: str) -> None:
    norms = random_norms()
    norms[[1234, 2345]] = value
    with pytest.raises(GateError, match=f"^`norms` is {text} at token 1234, expected a finite number above 0$"):
        family_labels(random_rows(1), norms, random_families())


def test_an_unknown_family_is_named() -> None:
    families = random_families()
    families[[4000, 4500]] = 4
    with pytest.raises(GateError, match=r"^`families` is 4 at token 4000, expected 0 to 3$"):
        family_labels(random_rows(1), None, families)
    assert family_labels(random_rows(1), None, families, n_families=5).shape == (1, 5)


def test_norms_and_families_of_another_vocabulary_are_refused() -> None:
    with pytest.raises(GateError, match=r"^`families` has shape \(4999,\), expected \(5000,\)$"):
        family_labels(random_rows(1), None, random_families()[1:])
    with pytest.raises(GateError, match=r"^`norms` has shape \(5000, 1\), expected \(5000,\)$"):
        family_labels(random_rows(1), random_norms()[:, None], random_families())


def test_logits_at_the_ends_of_single_precision_are_just_numbers() -> None:
    families = np.zeros(100, np.uint8)
    families[[10, 20]] = 1, 2
    rows = np.zeros((2, 100), np.float32)
    rows[0, 10], rows[1, 20] = 3e38, -3e38
    np.testing.assert_array_equal(family_labels(rows, None, families, 1, 1.0), [[0, 1, 0, 0], [1, 0, 0, 0]])
    # a quotient beyond single precision, by a norm below its normal numbers
    norms = np.ones(100, np.float32)
    norms[10] = 1e-40
    np.testing.assert_array_equal(family_labels(rows, norms, families, 1, 1.0), [[0, 1, 0, 0], [1, 0, 0, 0]])


def test_a_logit_at_the_soft_cap_counts_as_just_below_it() -> None:
    rows = np.array([[30.0, np.nextafter(np.float32(30), np.float32(0)), 29.0]], np.float32)
    shares = family_labels(
        rows, np.full(3, 100, np.float32), np.arange(3, dtype=np.uint8), 3, 1.0, soft=True, softcap=30.0
    )
    raw = 30 * np.arctanh([1 - 2.0**-24, float(rows[0, 1]) / 30, 29 / 30]) / 100
    wanted = np.exp(raw - raw.max())
    np.testing.assert_allclose(shares[0, :3], wanted / wanted.sum(), rtol=1e-6)


# ---- where single precision could mislead ----


def test_tokens_closer_than_single_precision_can_tell_are_told_apart() -> None:
    rng = np.random.default_rng(3)
    norms = rng.lognormal(0, 0.5, N_VOCAB).astype(np.float32)
    for level in rng.uniform(5, 30, 200):  # some are on the edge of what the pass rounds to
        rows = (level * norms).astype(np.float32)[None]  # all quotients are the level, but for this rounding
        order = np.argsort(-(rows[0].astype(np.float64) / norms), kind="stable")
        families = np.zeros(N_VOCAB, np.uint8)
        families[order[:6]] = 1
        assert family_labels(rows, norms, families, 6, 1.0).tolist() == [[0, 1, 0, 0]]


@pytest.mark.parametrize("height", [50.0, 101.0, 150.0, 400.0])
def test_rows_whose_sampled_tokens_say_nothing_of_the_others(height: float) -> None:
    rows = np.full((1, N_VOCAB), height, np.float32)
    rows[0, :: N_VOCAB // 64 + 1] = 0  # the pass takes its scale from these
    families = np.zeros(N_VOCAB, np.uint8)
    families[np.flatnonzero(rows[0])[19]] = 1
    assert family_labels(rows, None, families, 20, 0.95).tolist() == [[1, 1, 0, 0]]
    assert family_labels(rows, None, families, 19, 0.95).tolist() == [[1, 0, 0, 0]]


@pytest.mark.parametrize("height", [45.0, 68.0, 72.0, 300.0, 1e5, 1e30])
@pytest.mark.parametrize("base", [0.0, -300.0, 3e5, -1e30])
def test_a_peak_of_any_height_over_a_row_of_any_size_is_the_label(height: float, base: float) -> None:
    rows = np.full((1, N_VOCAB), base, np.float32)
    rows[0, 1234] = max(base + height, float(np.nextafter(rows[0, 0], np.float32(np.inf))))
    families = np.zeros(N_VOCAB, np.uint8)
    families[1234] = 2
    alone = rows[0, 1234].astype(np.float64) - base > 12  # exp(12) is 95 % of itself and 4999 times 1
    wanted = [[0, 0, 1, 0]] if alone else [[1, 0, 1, 0]]
    assert family_labels(rows, None, families, 20, 0.95).tolist() == wanted


@pytest.mark.parametrize("level", [0.0, -1e4, 9e4, 3e5, 1e30])
def test_of_equal_logits_the_lower_half_is_half_of_the_probability(level: float) -> None:
    families = (np.arange(N_VOCAB) >= N_VOCAB // 2).astype(np.uint8)
    rows = np.full((1, N_VOCAB), level, np.float32)
    assert family_labels(rows, None, families, 0, 0.5).tolist() == [[1, 0, 0, 0]]
    assert family_labels(rows, None, families, 0, 0.5001).tolist() == [[1, 1, 0, 0]]


def test_the_soft_cap_is_undone_in_double_precision() -> None:
    # one token at a time against a reference; equal otherwise, so that its share tells its logit
    capped = np.linspace(-29.99, 29.99, 501, dtype=np.float32)
    rows = np.stack([np.zeros_like(capped), capped], axis=1)
    norms = np.full(2, 50, np.float32)
    shares = family_labels(rows, norms, np.array([0, 1], np.uint8), 2, 1.0, soft=True, softcap=30.0, n_families=2)
    raw = 30 * np.arctanh(capped.astype(np.float64) / 30) / 50
    np.testing.assert_allclose(shares[:, 1], 1 / (1 + np.exp(-raw)), rtol=2e-7)
