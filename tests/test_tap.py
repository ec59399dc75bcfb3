"""The hidden state: which row the tap gives, when it gives none, and the proof before a gate relies on it."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gguf
import llama_cpp
import numpy as np
import numpy.typing as npt
import pytest
from llama_cpp import Llama

import odd_models
import tiny_model
from lcg_cpp import GatedLlama, GateError, GateOptions, _core
from lcg_cpp.engine import proof
from lcg_cpp.engine.connect import attach_tap, connect_core
from lcg_cpp.engine.teacher import Teacher

Floats = npt.NDArray[np.float32]
MakeGateFile = Callable[..., Path]

SETTINGS: dict[str, Any] = {"n_ctx": 256, "n_threads": 1, "n_threads_batch": 1, "verbose": False}
TOKENS = list(range(300, 320))


def load(path: Path, gate: Path | None, **arguments: Any) -> GatedLlama:
    """Opens the model with a gate."""
    return GatedLlama(str(path), gate=gate, **{**SETTINGS, **arguments})


def output_matrix(path: Path) -> Floats:
    """What the model multiplies its states by, float32 (n_vocab, n_embd), as the file has it."""
    tensors = {tensor.name: tensor.data for tensor in gguf.GGUFReader(path).tensors}
    return np.array(tensors.get("output.weight", tensors.get("token_embd.weight")))


def logits_at(llm: Llama, row: int) -> Floats:
    """A row of logits of the newest evaluation."""
    return np.ctypeslib.as_array(llama_cpp.llama_get_logits_ith(llm.ctx, row), (llm.n_vocab(),)).copy()


def hidden_at(llm: GatedLlama, row: int) -> Floats | None:
    """The state that a token sampled from this row of logits would be judged by."""
    return llm._tap.row_of(llm.ctx, row, llm.n_vocab())


# ---- which row ----


@pytest.mark.parametrize("n_ubatch", [1, 3, 16, 64])
@pytest.mark.parametrize("n_batch", [16, 64])
@pytest.mark.parametrize("logits_all", [False, True])
@pytest.mark.parametrize("embedding", [False, True])
def test_a_state_times_the_output_matrix_is_the_row_of_logits(
    tiny_model_path: Path, gate16: Path, n_ubatch: int, n_batch: int, logits_all: bool, embedding: bool
) -> None:
    llm = load(tiny_model_path, gate16, n_batch=n_batch, n_ubatch=n_ubatch, logits_all=logits_all, embedding=embedding)
    matrix = output_matrix(tiny_model_path)
    llm.eval(TOKENS)
    n_last_batch = len(TOKENS) % n_batch
    rows = range(-n_last_batch, 0) if logits_all or embedding else [-1]
    for row in [*rows, *rows]:  # reading one takes none away
        hidden = hidden_at(llm, row)
        assert hidden is not None
        np.testing.assert_allclose(matrix @ hidden, logits_at(llm, row), atol=1e-4, rtol=0)
    for token in (5, 6):  # one after the other
        llm.eval([token])
        hidden = hidden_at(llm, -1)
        assert hidden is not None
        np.testing.assert_allclose(matrix @ hidden, logits_at(llm, -1), atol=1e-4, rtol=0)


def test_a_long_prompt_takes_no_more_memory_than_a_batch(tiny_model_path: Path, gate16: Path) -> None:
    llm = load(tiny_model_path, gate16, n_batch=4, logits_all=True)
    assert llm._tap.capacity == 4
    llm.eval(TOKENS + TOKENS[:3])  # 5 batches of 4, and 3 tokens
    matrix = output_matrix(tiny_model_path)
    for row in (-3, -2, -1):
        hidden = hidden_at(llm, row)
        assert hidden is not None
        np.testing.assert_allclose(matrix @ hidden, logits_at(llm, row), atol=1e-4, rtol=0)


def test_the_first_token_of_a_reply_has_a_state_and_the_prompt_is_evaluated_as_in_stock(
    tiny_model_path: Path, gate16: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for mode in ("mask", "observe"):
        llm = load(tiny_model_path, gate16, gate_options=GateOptions(mode=mode, eager=True, persistence=False))
        decode, sizes = llm._ctx.decode, []
        monkeypatch.setattr(llm._ctx, "decode", lambda batch, d=decode, s=sizes: (s.append(batch.n_tokens()), d(batch)))
        next(llm.generate(TOKENS, temp=0.0))
        assert sizes == [len(TOKENS)]
        assert (llm.gate_stats.steps, llm.gate_stats.gate_runs, llm.gate_stats.without_hidden) == (1, 1, 0)


def test_observe_sees_the_first_token_that_mask_changes(tiny_model_path: Path, make_gate_file: MakeGateFile) -> None:
    weights = {"lcg.fc2.weight": np.zeros((4, tiny_model.N_EMBD), np.float32)}
    weights["lcg.fc2.bias"] = np.array([-6, -6, -6, 6], np.float32)  # other scripts only
    gate = make_gate_file(weights)
    first = []
    for mode in ("mask", "observe"):
        llm = load(tiny_model_path, gate, gate_options=GateOptions(mode=mode, confidence=False))
        for prompt in ("the name of the city", "1, 2, 3", "{"):
            llm.reset_gate_stats()
            next(llm.generate(llm.tokenize(prompt.encode()), temp=1.0, top_k=40))
            first.append([(event.position, event.banned, event.removed) for event in llm.gate_events])
    assert first[:3] == first[3:]
    assert any(first)


def sequences_of_different_lengths(path: Path, keys: bool) -> tuple[Floats, list[Floats | None]]:
    """The logits of three prompts in one batch, (3, n_vocab), and the states that the tap gives for them."""
    lengths = (15, 9, 12)
    params = llama_cpp.llama_context_default_params()
    params.n_ctx, params.n_seq_max, params.n_threads_batch = 768, len(lengths), 1
    connect_core()
    tap = _core.Tap(64, keys=keys)
    attach_tap(tap, params)
    tap.active = True
    model = llama_cpp.llama_model_load_from_file(str(path).encode(), llama_cpp.llama_model_default_params())
    context = llama_cpp.llama_init_from_model(model, params)
    batch = llama_cpp.llama_batch_init(64, 0, 1)
    outputs = []
    for sequence, length in enumerate(lengths):
        for i in range(length):
            row = batch.n_tokens
            batch.token[row], batch.pos[row], batch.n_seq_id[row] = 300 + 7 * sequence + i, i, 1
            batch.seq_id[row][0], batch.logits[row] = sequence, i + 1 == length
            batch.n_tokens += 1
        outputs.append(batch.n_tokens - 1)
    assert llama_cpp.llama_decode(context, batch) == 0
    n_vocab = llama_cpp.llama_vocab_n_tokens(llama_cpp.llama_model_get_vocab(model))
    rows = [llama_cpp.llama_get_logits_ith(context, i) for i in outputs]
    logits = np.stack([np.ctypeslib.as_array(row, (n_vocab,)) for row in rows])
    address = ctypes.cast(context, ctypes.c_void_p).value or 0
    states = [tap.row_of(address, i, n_vocab) for i in outputs]
    llama_cpp.llama_batch_free(batch)
    llama_cpp.llama_free(context)
    llama_cpp.llama_model_free(model)
    return logits, states


def test_with_keys_a_row_is_found_though_the_logits_lie_in_another_order_than_the_states(tiny_model_path: Path) -> None:
    matrix = output_matrix(tiny_model_path)
    logits, states = sequences_of_different_lengths(tiny_model_path, keys=True)
    for row, state in zip(logits, states):
        assert state is not None
        np.testing.assert_allclose(matrix @ state, row, atol=1e-4, rtol=0)
    _, in_order = sequences_of_different_lengths(tiny_model_path, keys=False)
    assert not np.array_equal(in_order[0], states[0])  # llama.cpp did reorder them


# ---- when there is none ----


def test_states_of_an_earlier_evaluation_are_never_used(tiny_model_path: Path, gate16: Path) -> None:
    llm = load(tiny_model_path, None)
    gate = load(tiny_model_path, gate16).gate
    llm.eval(TOKENS)  # nothing wants a state
    assert hidden_at(llm, -1) is None
    llm.set_gate(gate)
    assert hidden_at(llm, -1) is None
    llm.gate_options = GateOptions(eager=True, persistence=False)
    llm.sample(temp=0.0)
    assert llm.gate_stats.without_hidden == 1
    llm.eval([7])
    assert hidden_at(llm, -1) is not None
    llm.gate_options = GateOptions(mode="off")
    llm.eval([8])
    llm.gate_options = GateOptions()
    assert hidden_at(llm, -1) is None  # that of token 7 was there


def test_a_failed_evaluation_leaves_no_state(
    tiny_model_path: Path, gate16: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    llm = load(tiny_model_path, gate16)
    llm.eval(TOKENS)

    def fail(batch: Any) -> None:
        raise RuntimeError("llama_decode returned -3")

    monkeypatch.setattr(llm._ctx, "decode", fail)
    with pytest.raises(RuntimeError):
        llm.eval([5])
    assert hidden_at(llm, -1) is None


def test_a_gate_set_after_the_prompt_was_evaluated_acts_from_the_next_reply_on(
    tiny_model_path: Path, gate16: Path
) -> None:
    whole = load(tiny_model_path, gate16)
    prompt = whole.tokenize(b"the name of the city")
    stream = whole.generate(prompt, temp=0.0)
    expected = [next(stream) for _ in range(20)]
    llm = load(tiny_model_path, None)
    next(llm.generate(prompt, temp=0.0))
    llm.set_gate(whole.gate)
    llm.reset()
    stream = llm.generate(prompt, temp=0.0)
    assert [next(stream) for _ in range(20)] == expected


def test_a_loaded_state_is_evaluated_before_it_is_sampled(tiny_model_path: Path, gate16: Path) -> None:
    llm = load(tiny_model_path, gate16)
    prompt = llm.tokenize(b"the name of the city")
    stream = llm.generate(prompt, temp=0.0)
    expected = [next(stream) for _ in range(10)]
    llm.reset()
    llm.eval(prompt)
    state = llm.save_state()
    llm.eval(TOKENS)
    llm.load_state(state)
    stream = llm.generate(prompt, temp=0.0)
    assert [next(stream) for _ in range(10)] == expected
    assert llm.gate_stats.without_hidden == 0


# ---- the proof ----


def test_the_proof_changes_nothing_of_the_context(tiny_model_path: Path, gate16: Path) -> None:
    llm, stock = load(tiny_model_path, None), Llama(str(tiny_model_path), **SETTINGS)
    gate = load(tiny_model_path, gate16).gate
    for each in (llm, stock):
        each.eval(TOKENS)
    before = logits_at(llm, -1), llm.save_state(), llama_cpp.llama_perf_context(llm.ctx).n_p_eval
    llm.gate_options = GateOptions(mode="observe")
    llm.set_gate(gate)
    assert llama_cpp.llama_perf_context(llm.ctx).n_p_eval == before[2]
    np.testing.assert_array_equal(logits_at(llm, -1), before[0])
    assert llm.save_state().llama_state == before[1].llama_state
    for each in (llm, stock):
        each.set_seed(5)
    ours, theirs = ([t for t, _ in zip(each.generate([*TOKENS, 4], temp=1.0), range(30))] for each in (llm, stock))
    assert ours == theirs


def test_the_proof_is_made_once_for_a_model(
    tiny_model_path: Path, gate16: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = []
    evaluate = proof._evaluate
    monkeypatch.setattr(proof, "_evaluate", lambda *arguments: (calls.append(1), evaluate(*arguments))[1])
    llm = load(tiny_model_path, gate16)
    llm.set_gate(None)
    llm.set_gate(load(tiny_model_path, None, vocab_only=True).gate)
    gate = load(tiny_model_path, gate16).gate
    assert len(calls) == 2
    for _ in range(3):
        llm.set_gate(gate)
    assert len(calls) == 2


WRONG: dict[str, Callable[[Floats, Floats], tuple[Floats, Floats | None]]] = {
    "logits of zeros": lambda logits, hidden: (0 * logits, hidden),
    "logits that are NaN": lambda logits, hidden: (np.nan * logits, hidden),
    "no state": lambda logits, hidden: (logits, None),
    "a state of zeros": lambda logits, hidden: (logits, 0 * hidden),
    "the state of another token": lambda logits, hidden: (logits, hidden[::-1]),
    # the tiny model's final norm has weights of one: what comes in is the same vector of another length
    "a state before the final norm": lambda logits, hidden: (logits, 1.7 * hidden),
    "a state of another width": lambda logits, hidden: (logits, hidden[:, :-1]),
}


@pytest.mark.parametrize("wrong", WRONG)
def test_whatever_else_the_tap_would_read_is_refused(
    tiny_model_path: Path, gate16: Path, monkeypatch: pytest.MonkeyPatch, wrong: str
) -> None:
    evaluate = proof._evaluate
    monkeypatch.setattr(proof, "_evaluate", lambda *arguments: WRONG[wrong](*evaluate(*arguments)))
    with pytest.raises(GateError, match=r"architecture llama|shape \(\d+, 64\)"):
        load(tiny_model_path, gate16)
    with pytest.raises(GateError):
        Teacher(tiny_model_path, n_ctx=32, n_batch=8, n_threads=1)
    load(tiny_model_path, None)  # without a gate nothing has to be proven


def test_a_model_without_a_named_state_is_refused_with_its_architecture(
    tmp_path: Path, make_gate_file: MakeGateFile
) -> None:
    path = tmp_path / "plamo3.gguf"
    odd_models.write_plamo3(path)
    gate = make_gate_file(tiny_model.gate_weights(0, n_embd=odd_models.N_EMBD), base=path)
    message = f"{path}: lcg-cpp cannot use the architecture plamo3 in this llama-cpp-python: its graph does not name"
    with pytest.raises(GateError, match=message):
        load(path, gate)
    with pytest.raises(GateError, match=message):
        Teacher(path, n_ctx=32, n_batch=8, n_threads=1)


# ---- LFM2, which has no logits where embeddings are on ----


@pytest.fixture(scope="module")
def lfm2(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random LFM2."""
    path = tmp_path_factory.mktemp("lfm2") / "lfm2.gguf"
    odd_models.write_lfm2(path)
    return path


@pytest.fixture(scope="module")
def lfm2_gate(lfm2: Path, make_gate_file: MakeGateFile) -> Path:
    """A random gate for it."""
    return make_gate_file(tiny_model.gate_weights(16, n_embd=odd_models.N_EMBD), base=lfm2)


@pytest.mark.parametrize("mode", ["mask", "observe"])
def test_lfm2_generates_with_a_gate(lfm2: Path, lfm2_gate: Path, mode: Any) -> None:
    matrix = output_matrix(lfm2)
    llm = load(lfm2, lfm2_gate, gate_options=GateOptions(mode=mode, eager=True, persistence=False))
    stock = Llama(str(lfm2), **SETTINGS)
    for each in (llm, stock):
        each.set_seed(3)
    ours, theirs = (each.generate(TOKENS, temp=0.9) for each in (llm, stock))
    for step in range(25):
        token, stock_token = next(ours), next(theirs)
        logits, hidden = logits_at(llm, -1), hidden_at(llm, -1)
        assert hidden is not None
        assert logits.std() > 0.5
        np.testing.assert_allclose(matrix @ hidden, logits, atol=1e-4, rtol=0)
        if mode == "observe":
            assert token == stock_token, step
    assert (llm.gate_stats.gate_runs, llm.gate_stats.without_hidden) == (25, 0)
    assert llm.gate_stats.interventions > 0


def test_lfm2_teaches(lfm2: Path) -> None:
    rng = np.random.default_rng(0)
    texts = [rng.integers(0, 256, n).tolist() for n in (3, 40, 1, 12, 70)]
    stock = Llama(str(lfm2), **SETTINGS, logits_all=True)
    matrix = output_matrix(lfm2)
    expected = []
    for text in texts:
        stock.reset()
        stock.eval(text)
        expected.append(np.array(stock.scores[: len(text)]))
    rows, hidden, logits = [], [], []
    with Teacher(lfm2, n_ctx=96, n_batch=32, n_threads=1) as teacher:
        assert teacher.n_embd == odd_models.N_EMBD
        for states in teacher.states(texts):
            rows += zip(states.text.tolist(), states.position.tolist())
            hidden.append(states.hidden.copy())
            logits.append(states.logits.copy())
    assert rows == [(i, position) for i, text in enumerate(texts) for position in range(len(text))]
    np.testing.assert_allclose(np.concatenate(logits), np.concatenate(expected), atol=1e-2, rtol=0)
    np.testing.assert_allclose(np.concatenate(hidden) @ matrix.T, np.concatenate(logits), atol=1e-4, rtol=0)
