"""`Teacher` against `Llama` evaluating each text alone, and everything it refuses."""

from __future__ import annotations

import socket
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import gguf
import llama_cpp
import numpy as np
import numpy.typing as npt
import pytest
from llama_cpp import Llama

import odd_models
from lcg_cpp import GateError
from lcg_cpp.engine.teacher import Teacher

N_BATCH = 32
N_CTX = 96

# Logits have a standard deviation of 2.7; the cache is in half precision, and other batches round differently.
TOLERANCE = 1e-2

Floats = npt.NDArray[np.float32]


def random_texts(lengths: Sequence[int]) -> list[list[int]]:
    """Texts of random bytes."""
    rng = np.random.default_rng(0)
    return [rng.integers(0, 256, n).tolist() for n in lengths]


def evaluated(teacher: Teacher, texts: Sequence[Sequence[int]]) -> tuple[list[tuple[int, int]], Floats, Floats]:
    """All rows of all steps: (text, position), hidden states and logits. Views are copied as they come."""
    rows: list[tuple[int, int]] = []
    hidden, logits = [], []
    for states in teacher.states(texts):
        n = len(states.text)
        assert states.text.shape == states.position.shape == (n,)
        assert states.hidden.shape == (n, teacher.n_embd)
        assert states.logits.shape == (n, teacher.n_vocab)
        assert states.hidden.dtype == states.logits.dtype == np.float32
        assert states.logits.flags.c_contiguous
        rows += zip(states.text.tolist(), states.position.tolist())
        hidden.append(states.hidden.copy())
        logits.append(states.logits.copy())
    return rows, np.concatenate(hidden), np.concatenate(logits)


def all_rows(texts: Sequence[Sequence[int]]) -> list[tuple[int, int]]:
    """Every token of every text, once and in order."""
    return [(i, position) for i, text in enumerate(texts) for position in range(len(text))]


def one_at_a_time(path: Path, texts: Sequence[Sequence[int]]) -> Floats:
    """Logits of every token, as `Llama` gives them for one text after the other."""
    llm = Llama(str(path), n_ctx=N_CTX, n_batch=N_CTX, n_threads=1, logits_all=True, verbose=False)
    parts = []
    for text in texts:
        llm.reset()
        llm.eval(text)
        parts.append(np.array(llm.scores[: len(text)], np.float32))
    llm.close()
    return np.concatenate(parts)


@pytest.fixture(scope="module")
def teacher(tiny_model_path: Path) -> Iterator[Teacher]:
    """The tiny model, with batches so small that texts are longer."""
    with Teacher(tiny_model_path, n_ctx=N_CTX, n_batch=N_BATCH, n_threads=1) as teacher:
        yield teacher


# ---- what it gives ----


@pytest.mark.parametrize(
    "lengths",
    [
        pytest.param([1], id="one token"),
        pytest.param([N_BATCH - 1, N_BATCH, N_BATCH + 1], id="around a batch"),
        pytest.param([2 * N_BATCH, 2 * N_BATCH - 1, 2 * N_BATCH + 1, 3, 4], id="around two batches"),
        pytest.param([16, 16, 16, 15, 1, 1], id="batches that are just full"),
        pytest.param([1] * 70, id="more texts than sequences"),
        pytest.param([3, N_CTX, 5, 1, N_CTX, 2], id="long between short"),
        pytest.param([5, 9, 1, 30, 2, 2, 7, 40, 1, 1, 6, 31, 33, 12], id="mixed"),
    ],
)
def test_texts_evaluated_together_equal_each_evaluated_alone(
    teacher: Teacher, tiny_model_path: Path, lengths: list[int]
) -> None:
    texts = random_texts(lengths)
    rows, _, logits = evaluated(teacher, texts)
    assert rows == all_rows(texts)
    np.testing.assert_allclose(logits, one_at_a_time(tiny_model_path, texts), atol=TOLERANCE, rtol=0)


def test_recurrent_models_keep_texts_apart(tmp_path: Path) -> None:
    path = tmp_path / "mamba.gguf"
    odd_models.write_mamba(path)
    texts = random_texts([1, 3, 7, 31, 32, 33, 64, 2, 2, 5, 1, 8, 40, *[1] * 40])
    with Teacher(path, n_ctx=N_CTX, n_batch=N_BATCH, n_threads=1) as teacher:
        rows, _, logits = evaluated(teacher, texts)
    assert rows == all_rows(texts)
    np.testing.assert_allclose(logits, one_at_a_time(path, texts), atol=TOLERANCE, rtol=0)


def test_short_texts_share_an_evaluation(teacher: Teacher) -> None:
    # 8 x 4 tokens fill one batch of 32
    assert [len(states.text) for states in teacher.states(random_texts([4] * 8))] == [32]
    # a text that does not fit any more waits; a long one has its batches for itself
    assert [len(states.text) for states in teacher.states(random_texts([20, 13, 19, 40, 1]))] == [20, 32, 32, 8, 1]


def test_no_more_than_32_texts_share_an_evaluation(tiny_model_path: Path) -> None:
    texts = random_texts([1] * 70)
    with Teacher(tiny_model_path, n_ctx=N_CTX, n_batch=64, n_threads=1) as teacher:
        assert [len(states.text) for states in teacher.states(texts)] == [32, 32, 6]
        rows, _, logits = evaluated(teacher, texts)
    assert rows == all_rows(texts)
    np.testing.assert_allclose(logits, one_at_a_time(tiny_model_path, texts), atol=TOLERANCE, rtol=0)


def test_texts_are_no_longer_than_what_the_model_was_trained_for(tiny_model_path: Path) -> None:
    with Teacher(tiny_model_path, n_ctx=100_000, n_batch=32, n_threads=1) as teacher:
        assert teacher.n_ctx == 512
        with pytest.raises(GateError, match="text 0 has 513 tokens, expected 1 to 512"):
            next(teacher.states([[1] * 513]))


def test_hidden_states_are_what_the_output_matrix_multiplies(teacher: Teacher, tiny_model_path: Path) -> None:
    tensors = {tensor.name: tensor.data for tensor in gguf.GGUFReader(tiny_model_path).tensors}
    _, hidden, logits = evaluated(teacher, random_texts([40, 3, 3, 17]))
    # the engine multiplies in single precision; norms of the rows are about 2.6, of the states 8
    np.testing.assert_allclose(hidden @ np.array(tensors["output.weight"]).T, logits, atol=1e-4, rtol=0)
    np.testing.assert_allclose(np.square(hidden).mean(1), 1, atol=1e-3)  # after the final norm


def test_texts_do_not_remember_what_was_evaluated_before(teacher: Teacher) -> None:
    texts = random_texts([10, 40, 5])
    _, hidden, logits = evaluated(teacher, texts)
    list(teacher.states(random_texts([7, 90])))
    _, again_hidden, again_logits = evaluated(teacher, texts)
    np.testing.assert_array_equal(hidden, again_hidden)
    np.testing.assert_array_equal(logits, again_logits)


def test_evaluation_given_up_half_way_leaves_nothing_behind(teacher: Teacher) -> None:
    texts = random_texts([10, 40, 5])
    _, _, logits = evaluated(teacher, texts)
    steps = teacher.states(random_texts([90]))
    next(steps)
    _, _, again = evaluated(teacher, texts)
    np.testing.assert_array_equal(logits, again)


def test_no_texts_are_no_evaluations(teacher: Teacher) -> None:
    assert list(teacher.states([])) == []


@pytest.mark.parametrize("n_batch", [1, 7, 512])
def test_size_of_batches_changes_nothing(tiny_model_path: Path, n_batch: int) -> None:
    texts = random_texts([1, 8, 30, 2])
    with Teacher(tiny_model_path, n_ctx=30, n_batch=n_batch, n_threads=1) as teacher:
        rows, _, logits = evaluated(teacher, texts)
    assert rows == all_rows(texts)
    np.testing.assert_allclose(logits, one_at_a_time(tiny_model_path, texts), atol=TOLERANCE, rtol=0)


def test_it_knows_the_model(teacher: Teacher, tiny_model_path: Path) -> None:
    assert (teacher.base.name, teacher.base.architecture) == ("tiny", "llama")
    assert (teacher.n_embd, teacher.n_vocab, teacher.n_ctx) == (64, len(teacher.base.vocab.tokens), N_CTX)
    assert teacher.base.n_embd == 64
    assert teacher.base.path == str(tiny_model_path)


def test_control_tokens_are_read_only_where_they_are_wanted(teacher: Teacher) -> None:
    end = teacher.base.vocab.tokens.index(b"<|im_end|>")
    begin = teacher.base.vocab.tokens.index(b"<|begin|>")
    assert teacher.tokenize("<|im_end|>", special=True) == [end]
    plain = teacher.tokenize("<|im_end|>")
    assert end not in plain
    assert b"".join(teacher.base.vocab.tokens[token] for token in plain) == b"<|im_end|>"
    assert teacher.tokenize("<|im_end|>", special=True, bos=True) == [begin, end]
    assert teacher.tokenize("") == []


@pytest.mark.parametrize("kind", ["usual", "gemma3"])  # llama.cpp warns of the memory of sliding windows
def test_nothing_is_printed(tiny_model_path: Path, tmp_path: Path, kind: str) -> None:
    path = tiny_model_path
    if kind == "gemma3":
        path = tmp_path / "gemma3.gguf"
        odd_models.write_gemma3(path)
    code = (
        "import sys; from lcg_cpp.engine.teacher import Teacher\n"
        "with Teacher(sys.argv[1], n_ctx=32, n_batch=8, n_threads=1) as teacher:\n"
        "    list(teacher.states([[1, 2, 3]]))"
    )
    done = subprocess.run([sys.executable, "-c", code, str(path)], capture_output=True, check=True)
    assert (done.stdout, done.stderr) == (b"", b"")


# ---- what it refuses ----


@pytest.mark.parametrize(("texts", "said"), [([[1], []], "text 1 has 0 tokens"), ([[1] * 97], "text 0 has 97 tokens")])
def test_texts_of_other_lengths_are_refused(teacher: Teacher, texts: list[list[int]], said: str) -> None:
    with pytest.raises(GateError, match=f"{said}, expected 1 to {N_CTX}"):
        list(teacher.states(texts))


def test_tokens_of_another_vocabulary_are_refused(teacher: Teacher) -> None:
    with pytest.raises(GateError, match="failed to evaluate 2 tokens"):
        list(teacher.states([[1, 10_000_000]]))
    rows, _, _ = evaluated(teacher, [[1, 2]])  # and nothing is broken
    assert rows == [(0, 0), (0, 1)]


def test_missing_file_is_an_os_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError) as refused:
        Teacher(tmp_path / "none.gguf")
    assert refused.value.filename == str(tmp_path / "none.gguf")


def test_gate_given_as_a_model_is_refused(gate16: Path) -> None:
    with pytest.raises(GateError, match=f"^{gate16}: llama.cpp cannot load it"):
        Teacher(gate16)


@pytest.mark.parametrize("kind", ["t5", "bert"])
def test_models_that_do_not_generate_are_refused(tmp_path: Path, kind: str) -> None:
    path = tmp_path / f"{kind}.gguf"
    getattr(odd_models, f"write_{kind}")(path)
    with pytest.raises(GateError, match=f"^{path}: .+, expected a "):
        Teacher(path, n_ctx=32, n_batch=8, n_threads=1)


# ---- RPC ----


@pytest.mark.parametrize("server", ["nowhere", ":50052", "host:", "host:port", "host:-1", "host:²", "host:99999999"])
def test_rpc_servers_without_host_or_port_are_refused(tiny_model_path: Path, server: str) -> None:
    with pytest.raises(GateError) as refused:
        Teacher(tiny_model_path, rpc=[server])
    assert repr(server) in str(refused.value)
    assert "expected host:port" in str(refused.value)


@pytest.mark.skipif(llama_cpp.llama_supports_rpc(), reason="this llama.cpp has the RPC backend")
def test_rpc_needs_a_llama_cpp_with_that_backend(tiny_model_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening, pytest.raises(GateError) as refused:
        Teacher(tiny_model_path, rpc=[f"127.0.0.1:{listening.getsockname()[1]}"])
    assert "without the RPC backend; build it with it: CMAKE_ARGS=" in str(refused.value)
    assert "\n" not in str(refused.value)


def test_rpc_servers_that_do_not_answer_are_refused(tiny_model_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        port = listening.getsockname()[1]
    with pytest.raises(GateError, match=f"RPC server 127.0.0.1:{port}: .*refused"):
        Teacher(tiny_model_path, rpc=[f"127.0.0.1:{port}"])


@pytest.mark.parametrize("host", ["a..b", "x" * 80])
def test_rpc_hosts_that_are_no_names_are_refused(tiny_model_path: Path, host: str) -> None:
    with pytest.raises(GateError, match=f"RPC server {host}:1: "):
        Teacher(tiny_model_path, rpc=[f"{host}:1"])


def test_no_rpc_server_is_no_refusal(tiny_model_path: Path) -> None:
    with Teacher(tiny_model_path, n_ctx=32, n_batch=8, n_threads=1, rpc=()) as teacher:
        assert evaluated(teacher, [[1]])[0] == [(0, 0)]
