"""`HfTeacher` against `Teacher` on the same weights, training by both routes, and everything that is refused."""

from __future__ import annotations

import dataclasses
import json
import os
import socket
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

import hf_models  # noqa: E402
from lcg_cpp import Gate, GateError, cli  # noqa: E402
from lcg_cpp.convert.convert import convert  # noqa: E402
from lcg_cpp.convert.gate_checkpoint import write_gate_checkpoint  # noqa: E402
from lcg_cpp.convert.gate_weights import read_weights  # noqa: E402
from lcg_cpp.convert.pytorch import open_checkpoint  # noqa: E402
from lcg_cpp.data import Encoder, Message, Sample  # noqa: E402
from lcg_cpp.engine.hf_teacher import HfTeacher  # noqa: E402
from lcg_cpp.engine.hf_vocab import read_vocab, tokenizer_metadata  # noqa: E402
from lcg_cpp.engine.load import Engine, HfEngine  # noqa: E402
from lcg_cpp.engine.model import read_base_model  # noqa: E402
from lcg_cpp.engine.output_norms import label_norms, read_output_matrix  # noqa: E402
from lcg_cpp.engine.teacher import Teacher  # noqa: E402
from lcg_cpp.gate.families import RULES, token_families  # noqa: E402
from lcg_cpp.gate.labels import family_labels  # noqa: E402
from lcg_cpp.gate.spec import Source, spec_for  # noqa: E402
from lcg_cpp.train.options import TrainOptions  # noqa: E402
from lcg_cpp.train.train import train  # noqa: E402
from training_data import chat_rows, write_rows  # noqa: E402

N_BATCH = 32
N_CTX = 96
TOLERANCE = 0.01  # of logits with a standard deviation of 2.8: llama.cpp keeps keys and values in half precision

Floats = npt.NDArray[np.float32]


def random_texts(lengths: Sequence[int], n_vocab: int = 256) -> list[list[int]]:
    rng = np.random.default_rng(0)
    return [rng.integers(0, n_vocab, n).tolist() for n in lengths]


def evaluated(
    teacher: HfTeacher | Teacher, texts: Sequence[Sequence[int]]
) -> tuple[list[tuple[int, int]], Floats, Floats]:
    """All rows of all steps: (text, position), hidden states and logits."""
    rows: list[tuple[int, int]] = []
    hidden, logits = [], []
    for states in teacher.states(texts):
        n = len(states.text)
        assert 1 <= n <= N_BATCH
        assert states.hidden.shape == (n, teacher.n_embd)
        assert states.logits.shape == (n, teacher.n_vocab)
        assert states.text.dtype == states.position.dtype == np.int32
        assert states.hidden.dtype == states.logits.dtype == np.float32
        assert states.logits.flags.c_contiguous
        rows += zip(states.text.tolist(), states.position.tolist())
        hidden.append(states.hidden.copy())
        logits.append(states.logits.copy())
    return rows, np.concatenate(hidden), np.concatenate(logits)


def all_rows(texts: Sequence[Sequence[int]]) -> list[tuple[int, int]]:
    return [(i, position) for i, text in enumerate(texts) for position in range(len(text))]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny Llama as a Hugging Face checkpoint."""
    folder = tmp_path_factory.mktemp("hf") / "tiny-llama"
    hf_models.save_llama(folder)
    return folder


@pytest.fixture(scope="module")
def gguf_path(folder: Path) -> Path:
    """The same model as GGUF."""
    path = folder.with_suffix(".gguf")
    hf_models.write_llama_gguf(path, transformers.LlamaForCausalLM.from_pretrained(folder))
    return path


@pytest.fixture(scope="module")
def hf(folder: Path) -> Iterator[HfTeacher]:
    with HfTeacher(folder, n_ctx=N_CTX, n_batch=N_BATCH) as teacher:
        yield teacher


@pytest.fixture(scope="module")
def llama(gguf_path: Path) -> Iterator[Teacher]:
    with Teacher(gguf_path, n_ctx=N_CTX, n_batch=N_BATCH, n_threads=1) as teacher:
        yield teacher


@pytest.fixture
def copy_of(folder: Path, tmp_path: Path) -> Callable[..., Path]:
    """Copies the checkpoint without some of its files, with another configuration."""

    def copy(*without: str, **config: Any) -> Path:
        target = tmp_path / "copy"
        target.mkdir()
        for file in folder.iterdir():
            if file.name not in without:
                (target / file.name).write_bytes(file.read_bytes())
        if config:
            values = json.loads((target / "config.json").read_text())
            (target / "config.json").write_text(json.dumps({**values, **config}))
        return target

    return copy


# ---- states ----


def test_hidden_states_and_logits_are_those_of_llama_cpp(hf: HfTeacher, llama: Teacher) -> None:
    texts = random_texts([1, 5, 31, 32, 33, 64, 90, 3, 4, 10], n_vocab=770)
    rows, hidden, logits = evaluated(hf, texts)
    llama_rows, llama_hidden, llama_logits = evaluated(llama, texts)
    assert rows == llama_rows == all_rows(texts)
    assert logits.std() > 2
    np.testing.assert_allclose(hidden, llama_hidden, atol=TOLERANCE, rtol=0)
    np.testing.assert_allclose(logits, llama_logits, atol=TOLERANCE, rtol=0)


def test_hidden_states_are_what_the_output_matrix_multiplies(hf: HfTeacher, folder: Path) -> None:
    model = transformers.LlamaForCausalLM.from_pretrained(folder)
    (text,) = random_texts([20])
    _, hidden, logits = evaluated(hf, [text])
    with torch.no_grad():
        normed = model.model(torch.tensor([text])).last_hidden_state[0].numpy()
    np.testing.assert_allclose(hidden, normed, atol=1e-5)
    np.testing.assert_allclose(normed @ model.lm_head.weight.detach().numpy().T, logits, atol=1e-4)


@pytest.mark.parametrize(
    "lengths",
    [
        pytest.param([1], id="one token"),
        pytest.param([N_BATCH - 1, N_BATCH, N_BATCH + 1], id="around a batch"),
        pytest.param([N_CTX, 1, N_CTX], id="longest"),
        pytest.param([1] * 70, id="many short ones"),
        pytest.param([5, 9, 1, 30, 2, 2, 7, 40, 1, 1, 6, 31, 33, 12], id="mixed"),
        pytest.param([], id="none"),
    ],
)
def test_texts_evaluated_together_equal_each_evaluated_alone(hf: HfTeacher, lengths: list[int]) -> None:
    texts = random_texts(lengths)
    if not texts:
        assert list(hf.states(texts)) == []
        return
    rows, _, logits = evaluated(hf, texts)
    assert rows == all_rows(texts)
    alone = np.concatenate([evaluated(hf, [text])[2] for text in texts])
    np.testing.assert_allclose(logits, alone, atol=1e-4, rtol=0)


def test_short_texts_share_an_evaluation(hf: HfTeacher, monkeypatch: pytest.MonkeyPatch) -> None:
    sizes: list[list[int]] = []
    evaluate = HfTeacher._evaluate

    def counting(self: HfTeacher, texts: Sequence[Sequence[int]]) -> Any:
        sizes.append([len(text) for text in texts])
        return evaluate(self, texts)

    monkeypatch.setattr(HfTeacher, "_evaluate", counting)
    list(hf.states(random_texts([8, 8, 8, 8, 3, 16, 3, 40, 2])))
    # all in a batch of 32 are as long as the longest: 3 and 16 fit as 2 x 16, a third one does not
    assert sizes == [[8, 8, 8, 8], [3, 16], [3], [40], [2]]


@pytest.mark.parametrize(("texts", "said"), [([[1], []], "text 1 has 0 tokens"), ([[1] * 97], "text 0 has 97 tokens")])
def test_texts_of_other_lengths_are_refused(hf: HfTeacher, texts: list[list[int]], said: str) -> None:
    with pytest.raises(GateError, match=f"{said}, expected 1 to {N_CTX}"):
        list(hf.states(texts))


@pytest.mark.parametrize("token", [-1, 10_000])
def test_tokens_of_another_vocabulary_are_refused(hf: HfTeacher, token: int) -> None:
    with pytest.raises(GateError, match=f"text 1 holds a token that is none of the {hf.n_vocab}"):
        list(hf.states([[1], [2, token]]))


def test_failure_in_pytorch_is_one_line(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise RuntimeError("CUDA out of memory.\nTried to allocate 2 GiB")

    with HfTeacher(folder) as teacher:
        monkeypatch.setattr(teacher._model, "forward", fail)
        with pytest.raises(GateError) as refused:
            list(teacher.states([[1, 2, 3]]))
    assert (
        str(refused.value)
        == f"{folder}: PyTorch failed to evaluate 3 tokens: CUDA out of memory. Tried to allocate 2 GiB"
    )


# ---- the output matrix ----


def test_norms_are_those_of_the_output_rows(
    hf: HfTeacher, folder: Path, gguf_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lcg_cpp.engine.hf_teacher._ROWS", 7)
    matrix = hf.output_matrix()
    weight = transformers.LlamaForCausalLM.from_pretrained(folder).lm_head.weight.detach().numpy()
    assert matrix.norms.dtype == np.float32
    np.testing.assert_allclose(matrix.norms, np.sqrt(np.square(weight.astype(np.float64)).sum(1)), rtol=1e-6)
    np.testing.assert_allclose(matrix.norms, read_output_matrix(gguf_path).norms, rtol=1e-6)
    assert matrix.softcap == 0.0


def test_tied_models_have_the_norms_of_their_embeddings(tmp_path: Path) -> None:
    model = hf_models.save_llama(tmp_path, tie_word_embeddings=True)
    with HfTeacher(tmp_path) as teacher:
        norms = teacher.output_matrix().norms
    np.testing.assert_allclose(norms, model.model.embed_tokens.weight.detach().norm(dim=1).numpy(), rtol=1e-6)


def test_soft_capping_bends_the_logits_and_leaves_the_states_alone(tmp_path: Path) -> None:
    results = {}
    for softcap in (5.0, None):
        config = transformers.Gemma2Config(
            vocab_size=len(hf_models.byte_level_tokens()[0]),
            hidden_size=32,
            intermediate_size=64,
            num_hidden_layers=2,
            num_attention_heads=2,
            num_key_value_heads=1,
            head_dim=16,
            final_logit_softcapping=softcap,
        )
        target = tmp_path / str(softcap)
        hf_models.save(target, transformers.Gemma2ForCausalLM(config))
        with HfTeacher(target, n_batch=N_BATCH) as teacher:
            _, hidden, logits = evaluated(teacher, random_texts([9]))
            results[softcap] = hidden, logits
            assert teacher.output_matrix().softcap == (softcap or 0.0)
            assert teacher.base.architecture == "gemma2"
    np.testing.assert_array_equal(results[5.0][0], results[None][0])
    raw = results[None][1]
    assert np.abs(raw).max() > 5
    np.testing.assert_allclose(results[5.0][1], 5 * np.tanh(raw / 5), atol=1e-5)


def test_output_matrix_that_is_not_finite_is_refused(tmp_path: Path) -> None:
    model = hf_models.llama(len(hf_models.byte_level_tokens()[0]))
    with torch.no_grad():
        model.lm_head.weight[5, 3] = float("nan")
    hf_models.save(tmp_path, model, randomized=True)
    with HfTeacher(tmp_path) as teacher, pytest.raises(GateError, match=f"^{tmp_path}: row 5 of the output matrix"):
        teacher.output_matrix()


# ---- what it knows of the model ----


def test_it_knows_the_model(hf: HfTeacher, folder: Path) -> None:
    assert (hf.n_embd, hf.n_vocab, hf.n_ctx) == (64, len(hf.base.vocab.tokens), N_CTX)
    assert (hf.base.name, hf.base.architecture, hf.base.n_embd) == ("tiny-llama", "llama", 64)
    assert (hf.base.path, hf.base.file_type) == (str(folder), "float32")


def test_texts_are_no_longer_than_the_model_was_trained_for(folder: Path, tmp_path: Path) -> None:
    with HfTeacher(folder, n_ctx=4096) as teacher:
        assert teacher.n_ctx == 512
    n_vocab = len(hf_models.byte_level_tokens()[0])
    config = transformers.GPT2Config(
        vocab_size=n_vocab, n_embd=32, n_layer=1, n_head=2, n_positions=24, bos_token_id=None, eos_token_id=None
    )
    hf_models.save(tmp_path, transformers.GPT2LMHeadModel(config))
    with HfTeacher(tmp_path, n_batch=N_BATCH) as teacher:  # its positions are learned: there are no others
        assert teacher.n_ctx == 24
        evaluated(teacher, random_texts([24]))


def test_weights_are_computed_with_as_they_are_stored_or_as_wanted(folder: Path, tmp_path: Path) -> None:
    model = hf_models.llama(len(hf_models.byte_level_tokens()[0])).to(torch.bfloat16)
    hf_models.save(tmp_path, model, randomized=True)
    texts = random_texts([12])
    with HfTeacher(folder, n_batch=N_BATCH) as teacher:
        _, exact, _ = evaluated(teacher, texts)
    for dtype, kind in (("auto", "bfloat16"), ("float32", "float32")):
        with HfTeacher(tmp_path, n_batch=N_BATCH, dtype=dtype) as teacher:
            assert teacher.base.file_type == kind
            _, hidden, logits = evaluated(teacher, texts)
        assert np.any(hidden != exact)
        np.testing.assert_allclose(hidden, exact, atol=0.3)  # 8 bits, of values up to 4
        is_rounded = not np.any(logits.view(np.uint32) & 0xFFFF)
        assert is_rounded == (kind == "bfloat16")


def test_vocabulary_is_what_llama_cpp_makes_of_it(hf: HfTeacher, llama: Teacher) -> None:
    assert hf.base.vocab.tokens == llama.base.vocab.tokens
    np.testing.assert_array_equal(hf.base.vocab.types, llama.base.vocab.types)
    for rules in RULES:
        np.testing.assert_array_equal(token_families(hf.base.vocab, rules), token_families(llama.base.vocab, rules))
    assert hf.base.vocab.tokenizer_hash == llama.base.vocab.tokenizer_hash


def test_rows_beyond_the_tokenizer_are_unused_and_empty(hf: HfTeacher) -> None:
    assert hf.base.vocab.tokens[-hf_models.N_PADDING :] == (b"",) * hf_models.N_PADDING
    assert hf.base.vocab.tokens[-hf_models.N_PADDING - 1] == b"<|im_end|>"


def test_tokens_beyond_the_output_matrix_are_left_out(tmp_path: Path) -> None:
    n_vocab = len(hf_models.byte_level_tokens()[0]) - hf_models.N_PADDING - 2
    hf_models.save(tmp_path, hf_models.llama(n_vocab), randomized=True)
    with HfTeacher(tmp_path) as teacher:
        assert teacher.n_vocab == len(teacher.base.vocab.tokens) == n_vocab


@pytest.mark.parametrize("special", [False, True])
@pytest.mark.parametrize("bos", [False, True])
@pytest.mark.parametrize(
    "text", ["", "hello the <|im_end|> of 中国 10!", "  a\n\nb ", "<think>x</think>", "é\x00<|begin|>"]
)
def test_tokens_of_a_text_are_those_of_llama_cpp(
    hf: HfTeacher, llama: Teacher, text: str, bos: bool, special: bool
) -> None:
    assert hf.tokenize(text, special=special, bos=bos) == llama.tokenize(text, special=special, bos=bos)


SAMPLES = (
    Sample(messages=(Message("user", "the name of 中国?"), Message("assistant", "日本 and мир"))),
    Sample(
        messages=(Message("user", " a"), Message("assistant", " b"), Message("user", "c"), Message("assistant", "d"))
    ),
    Sample(text="the city of שלום, 10 ไทย"),
)


@pytest.mark.parametrize("sample", SAMPLES)
def test_samples_become_the_same_tokens(hf: HfTeacher, llama: Teacher, sample: Sample) -> None:
    encoded = Encoder(hf.tokenize, hf.base, N_CTX).encode(sample)
    assert encoded == Encoder(llama.tokenize, llama.base, N_CTX).encode(sample)
    assert encoded is not None
    assert any(encoded.is_reply)


# ---- tokenizers of SentencePiece's kind ----


@pytest.fixture(scope="module")
def pieces(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """The tokenizer of transformers, and what llama.cpp makes of the same one."""
    folder = tmp_path_factory.mktemp("pieces")
    hf_models.save_tokenizer(folder, hf_models.sentencepiece_tokenizer(), bos="<s>", eos="</s>")
    hf_models.write_sentencepiece_gguf(folder / "pieces.gguf")
    return transformers.AutoTokenizer.from_pretrained(folder), read_base_model(folder / "pieces.gguf")


def test_pieces_are_what_llama_cpp_makes_of_them(pieces: Any) -> None:
    tokenizer, base = pieces
    vocab = read_vocab(tokenizer.backend_tokenizer, base.vocab.n_vocab, "pieces")
    assert vocab.tokens == base.vocab.tokens
    for rules in RULES:
        np.testing.assert_array_equal(token_families(vocab, rules), token_families(base.vocab, rules))


def test_metadata_says_how_pieces_are_put_together(pieces: Any) -> None:
    tokenizer, base = pieces
    metadata = tokenizer_metadata(tokenizer)
    assert metadata.pop("tokenizer.ggml.add_space_prefix") == "true"  # llama.cpp's default, which the file leaves out
    assert metadata.items() <= base.metadata.items()


def test_samples_become_the_same_pieces(pieces: Any, tmp_path: Path) -> None:
    from lcg_cpp.run.llama import Llama

    tokenizer, base = pieces
    hf_models.llama(base.vocab.n_vocab + 3).save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    llm = Llama(base.path, vocab_only=True, verbose=False)

    def tokenize(text: str, *, special: bool = False, bos: bool = False) -> list[int]:
        return list(llm.tokenize(text.encode(), add_bos=bos, special=special))

    with HfTeacher(tmp_path) as teacher:
        mine, theirs = Encoder(teacher.tokenize, teacher.base, N_CTX), Encoder(tokenize, base, N_CTX)
        for sample in (*SAMPLES, Sample(text="<start_of_turn>the name"), Sample(text="\x01\U0001f600")):
            encoded = mine.encode(sample)
            assert encoded == theirs.encode(sample)
            assert encoded is not None
            assert encoded.tokens[0] == 1  # <s>
    llm.close()


@pytest.mark.parametrize(
    ("template", "wanted"),
    [(None, None), ("{{ 1 }}", "{{ 1 }}"), ({"tool_use": "t", "default": "d"}, "d"), ({"rag": "r"}, None)],
)
def test_chat_template_is_the_one_for_chats(template: Any, wanted: str | None) -> None:
    tokenizer = transformers.PreTrainedTokenizerFast(tokenizer_object=hf_models.byte_level_tokenizer())
    tokenizer.chat_template = template
    assert tokenizer_metadata(tokenizer).get("tokenizer.chat_template") == wanted


def test_token_for_unknown_text_is_no_text() -> None:
    tokenizer = hf_models.sentencepiece_tokenizer()
    vocab = read_vocab(tokenizer, tokenizer.get_vocab_size(), "pieces")
    unknown = tokenizer.token_to_id("<unk>")  # not among the added tokens here
    assert vocab.tokens[unknown] == b"<unk>"
    for rules in RULES:
        assert token_families(vocab, rules)[unknown] == 2  # symbols


def test_unigram_tokenizers_are_read_as_pieces() -> None:
    from tokenizers import Tokenizer, decoders, models

    pieces = ["<unk>", "▁", "▁ab", "中", "<0xE4>", "é"]
    tokenizer = Tokenizer(models.Unigram([(piece, -float(i)) for i, piece in enumerate(pieces)], 0, byte_fallback=True))
    tokenizer.decoder = decoders.Metaspace()
    vocab = read_vocab(tokenizer, 7, "pieces")
    assert vocab.tokens == (b"<unk>", b" ", b" ab", "中".encode(), b"\xe4", "é".encode(), b"")
    assert vocab.types.tolist() == [1, 4, 4, 4, 32, 4, 2]  # unknown, normal, …, byte, normal, unused


def test_words_put_into_a_byte_level_vocabulary_as_they_are_stay_so() -> None:
    from tokenizers import Tokenizer, decoders, models

    tokenizer = Tokenizer(models.BPE({"Ġa": 0, "ä¸Ń": 1, "中": 2}, []))
    tokenizer.decoder = decoders.Sequence([decoders.ByteLevel()])
    assert read_vocab(tokenizer, 3, "words").tokens == (b" a", "中".encode(), "中".encode())


def test_tokenizers_of_other_kinds_are_refused() -> None:
    from tokenizers import Tokenizer, decoders, models

    tokenizer = Tokenizer(models.WordPiece({"[UNK]": 0, "##a": 1}, unk_token="[UNK]"))
    tokenizer.decoder = decoders.WordPiece()
    with pytest.raises(
        GateError, match=r"^here: its tokenizer \(WordPiece, decoder WordPiece\) .+, expected byte-level"
    ):
        read_vocab(tokenizer, 2, "here")


# ---- training ----


def write_chats(folder: Path, n: int) -> list[str]:
    return [write_rows(folder / "chats.jsonl", chat_rows(n))]


@pytest.mark.parametrize(("norm", "soft"), [("token", False), ("relative", False), ("none", False), ("relative", True)])
def test_labels_agree_with_those_from_llama_cpp(
    hf: HfTeacher, llama: Teacher, gguf_path: Path, norm: str, soft: bool
) -> None:
    texts = random_texts([30, 60, 90, 20])
    labels = []
    for teacher, matrix in ((hf, hf.output_matrix()), (llama, read_output_matrix(gguf_path))):
        _, _, logits = evaluated(teacher, texts)
        families = token_families(teacher.base.vocab)
        norms = label_norms(matrix.norms, norm)
        labels.append(family_labels(logits, norms, families, 5, 0.9, soft=soft, softcap=matrix.softcap, n_threads=1))
    assert 0.1 < labels[0].mean() < 0.9
    # a token at the edge of what is probable enough can fall to either side
    assert np.mean(np.abs(labels[0] - labels[1]).max(1) > 0.02) < 0.03


@pytest.mark.parametrize(
    "options",
    [
        pytest.param(TrainOptions(n_hidden=8), id="hidden layer"),
        pytest.param(TrainOptions(n_hidden=0, norm="token"), id="linear"),
        pytest.param(TrainOptions(n_hidden=None, top_k=20, top_p=0.95, positions="reply"), id="full width"),
    ],
)
def test_both_routes_learn_the_same_gate(folder: Path, gguf_path: Path, tmp_path: Path, options: TrainOptions) -> None:
    data = write_chats(tmp_path, 150)
    options = dataclasses.replace(options, batch=64, passes=2, warmup=5, held_out=0.1, n_ctx=64)
    checkpoint = tmp_path / "gate.safetensors"
    by_hf = train(folder, data, checkpoint, options, engine=HfEngine(n_batch=64, n_threads=1))
    by_llama = train(gguf_path, data, tmp_path / "gate.gguf", options, engine=Engine(n_batch=64, n_threads=1))
    assert (by_hf.run.tokens, by_hf.run.positions) == (by_llama.run.tokens, by_llama.run.positions)
    before, after = (by_hf.run.measurements[i].scores.loss for i in (0, -1))
    assert after < before - 0.1
    assert abs(after - by_llama.run.measurements[-1].scores.loss) < 0.01
    for name, weight in by_llama.weights.items():  # labels made without norms would move them by 0.16 and more
        assert np.linalg.norm(by_hf.weights[name] - weight) < 0.12 * np.linalg.norm(weight)

    converted = convert(checkpoint, read_base_model(gguf_path), tmp_path / "converted.gguf", outtype="f32")
    assert converted.spec.n_hidden == options.hidden_width(64)
    said = Gate.load(converted.path).metadata
    for key, value in Gate.load(tmp_path / "gate.gguf").metadata.items():
        if key.startswith(("general.dataset.", "adapter.lcg.train.")):
            measured = isinstance(value, float) or key.endswith("base_file_type")
            assert (type(said[key]) if measured else said[key]) == (type(value) if measured else value)
    assert said["adapter.lcg.train.held_out.loss"] == pytest.approx(after)
    assert said["adapter.lcg.train.label_norm"] == options.norm
    hidden = np.random.default_rng(0).normal(size=(50, 64)).astype(np.float32)
    layers = [by_hf.weights[name] for name in ("lcg.fc1.weight", "lcg.fc2.weight") if name in by_hf.weights]
    z = np.maximum(hidden @ layers[0].T, 0) @ layers[1].T if len(layers) == 2 else hidden @ layers[0].T
    np.testing.assert_allclose(Gate.load(converted.path).predict(hidden), z, atol=1e-4)


def test_stopped_run_goes_on_to_the_same_gate(folder: Path, tmp_path: Path) -> None:
    data = write_chats(tmp_path, 60)
    options = TrainOptions(n_hidden=4, batch=64, held_out=0.1, n_ctx=64, rules="default")
    whole, parts = tmp_path / "whole.safetensors", tmp_path / "parts.safetensors"
    train(folder, data, whole, options, engine=HfEngine(n_threads=1))

    asked: list[int] = []
    stopped = train(
        folder, data, parts, options, engine=HfEngine(n_threads=1), should_stop=lambda: len(asked) >= 3,
        on_progress=lambda run: asked.append(1),
    )  # fmt: skip
    assert not stopped.finished
    assert read_weights(open_checkpoint(parts), 64, 4).tensors.keys() == {"lcg.fc1.weight", "lcg.fc2.weight"}
    assert (tmp_path / "parts.unfinished.safetensors").exists()
    assert train(folder, data, parts, options, engine=HfEngine(n_threads=1), resume=True).finished
    assert parts.read_bytes() == whole.read_bytes()
    assert not (tmp_path / "parts.unfinished.safetensors").exists()
    assert (tmp_path / "parts.html").exists()


def test_checkpoint_cannot_be_gone_on_with_in_another_precision(folder: Path, tmp_path: Path) -> None:
    data = write_chats(tmp_path, 60)
    options, gate = TrainOptions(n_hidden=4, batch=64, n_ctx=64), tmp_path / "gate.safetensors"
    asked: list[int] = []
    train(
        folder, data, gate, options, engine=HfEngine(n_threads=1), should_stop=lambda: len(asked) >= 1,
        on_progress=lambda run: asked.append(1),
    )  # fmt: skip
    with pytest.raises(GateError, match="was written by a run with `file type` 'float32', this one has 'bfloat16'"):
        train(folder, data, gate, options, engine=HfEngine(n_threads=1, dtype="bfloat16"), resume=True)


def test_gate_is_never_written_into_the_models_folder(folder: Path, tmp_path: Path) -> None:
    data = write_chats(tmp_path, 10)
    before = (folder / "model.safetensors").read_bytes()
    with pytest.raises(GateError, match="is in the model's folder"):
        train(folder, data, folder / "model.safetensors", engine=HfEngine(n_threads=1))
    assert (folder / "model.safetensors").read_bytes() == before


# ---- the file ----


@pytest.fixture
def weights() -> dict[str, Floats]:
    rng = np.random.default_rng(3)
    return {
        "lcg.fc1.weight": rng.normal(size=(8, 64)).astype(np.float32),
        "lcg.fc2.weight": rng.normal(size=(4, 8)).astype(np.float32),
    }


def test_checkpoint_has_the_keys_of_the_reference_and_says_how_it_was_made(
    hf: HfTeacher, tmp_path: Path, weights: dict[str, Floats]
) -> None:
    from safetensors import safe_open

    path = tmp_path / "gate.safetensors"
    made = {"tokens": 12, "loss": 0.25, "label_soft": False, "label_norm": "tøken"}
    datasets = (Source("a.jsonl"), Source("b", repo_url="https://b"))
    names = {"version": "v2", "license": "MIT"}
    thresholds = {
        "own_thresholds": (0.5, 0.25, 0.5, 0.125),
        "first_thresholds": (0.5, 0.25, 0.5, 0.375),
        "allow_thresholds": (0.125, 1.0, 1.0, 1.0),
    }
    spec = spec_for(hf.base, n_hidden=8, rules="paper", **names, **thresholds, datasets=datasets, train=made)
    write_gate_checkpoint(path, dataclasses.replace(spec, base_models=(Source("Tïny"),)), weights)
    with safe_open(path, "numpy") as file:
        assert set(file.keys()) == {"code_switch_pre.weight", "code_switch_head.weight"}
        np.testing.assert_array_equal(file.get_tensor("code_switch_pre.weight"), weights["lcg.fc1.weight"])
        np.testing.assert_array_equal(file.get_tensor("code_switch_head.weight"), weights["lcg.fc2.weight"])
        assert file.metadata() == {
            "format": "pt",
            "lcg.name": "LCG for tiny-llama",
            "lcg.version": "v2",
            "lcg.license": "MIT",
            "lcg.base_model": "Tïny",
            "lcg.families": "cj, latin, symbols, lowres",
            "lcg.rules": "paper",
            "lcg.thresholds": "[0.5, 0.25, 0.5, 0.125]",
            "lcg.first_thresholds": "[0.5, 0.25, 0.5, 0.375]",
            "lcg.allow_thresholds": "[0.125, 1.0, 1.0, 1.0]",
            "lcg.datasets": '[{"name": "a.jsonl"}, {"name": "b", "repo_url": "https://b"}]',
            "lcg.train": '{"tokens": 12, "loss": 0.25, "label_soft": false, "label_norm": "tøken"}',
        }
    first = path.read_bytes()
    write_gate_checkpoint(path, dataclasses.replace(spec, base_models=(Source("Tïny"),)), weights)
    assert path.read_bytes() == first
    (length,) = np.frombuffer(first[:8], "<u8")
    assert length % 8 == 0


def test_linear_gates_have_no_first_layer(hf: HfTeacher, tmp_path: Path) -> None:
    path = tmp_path / "gate.safetensors"
    head = np.arange(4 * 64, dtype=np.float32).reshape(4, 64)
    write_gate_checkpoint(path, spec_for(hf.base, n_hidden=0), {"lcg.fc2.weight": head})
    loaded = read_weights(open_checkpoint(path), 64, 4)
    assert loaded.sources == {"lcg.fc2.weight": "code_switch_head.weight"}
    np.testing.assert_array_equal(loaded.tensors["lcg.fc2.weight"], head)


def test_checkpoint_that_cannot_be_written_leaves_the_old_one(
    hf: HfTeacher, tmp_path: Path, weights: dict[str, Floats], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "gate.safetensors"
    path.write_bytes(b"old")

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left") as refused:
        write_gate_checkpoint(path, spec_for(hf.base, n_hidden=8), weights)
    assert refused.value.filename == str(path)
    assert [file.name for file in tmp_path.iterdir()] == ["gate.safetensors"]
    assert path.read_bytes() == b"old"


# ---- loading ----


def test_nothing_is_downloaded_and_nothing_is_printed(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    def connect(*_: Any) -> None:
        raise AssertionError("a connection was made")

    monkeypatch.setattr(socket.socket, "connect", connect)
    level = transformers.utils.logging.get_verbosity()
    with HfTeacher(folder) as teacher:
        list(teacher.states([[1, 2, 3], [4]]))
    assert capfd.readouterr() == ("", "")
    assert transformers.utils.logging.get_verbosity() == level
    assert transformers.utils.logging.is_progress_bar_enabled()


def test_name_of_a_model_elsewhere_is_no_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(
        GateError, match=r"^Qwen/Qwen3-0.6B: no such folder, expected .+ not downloaded here \(`hf download"
    ):
        HfTeacher("Qwen/Qwen3-0.6B")


def test_file_given_as_a_folder_is_refused(gguf_path: Path) -> None:
    with pytest.raises(GateError, match=f"^{gguf_path}: is a file, expected the folder .+ a GGUF file goes to -m"):
        HfTeacher(gguf_path)


def test_folder_without_a_configuration_is_refused(copy_of: Callable[..., Path]) -> None:
    path = copy_of("config.json")
    with pytest.raises(GateError, match=f"^{path}: no config.json in this folder"):
        HfTeacher(path)


@pytest.mark.parametrize(
    ("without", "config", "said"),
    [
        pytest.param((), {"model_type": "t5", "is_encoder_decoder": True}, "t5 has an encoder, expected", id="encoder"),
        pytest.param((), {"architectures": ["BertForMaskedLM"]}, "is a BertForMaskedLM, expected a model", id="masked"),
        pytest.param(("model.safetensors",), {}, "transformers cannot load the model: ", id="no weights"),
        pytest.param(("tokenizer.json", "tokenizer_config.json"), {}, "cannot load the tokenizer: ", id="no tokenizer"),
        pytest.param((), {"model_type": "of my own"}, "cannot load config.json: .*`of my own`", id="unknown type"),
        pytest.param(
            (),
            {"model_type": "mine", "auto_map": {"AutoConfig": "code.Mine"}},
            "cannot load config.json: it needs code that comes with the checkpoint, which is never run",
            id="code of its own",
        ),
        pytest.param(
            (), {"vocab_size": 700}, r"tensor `lm_head.weight` has shape \(780, 64\), expected \(700, 64\)", id="size"
        ),
        pytest.param((), {"num_hidden_layers": 3}, r"no tensor `model.layers.2.+`, expected all weights", id="layers"),
    ],
)
def test_checkpoints_that_cannot_be_used_are_refused_in_one_line(
    copy_of: Callable[..., Path], without: tuple[str, ...], config: dict[str, Any], said: str
) -> None:
    path = copy_of(*without, **config)
    with pytest.raises(GateError, match=f"^{path}: .*{said}") as refused:
        HfTeacher(path)
    assert "\n" not in str(refused.value)
    assert len(str(refused.value)) < len(str(path)) + 350


@pytest.mark.parametrize("name", ["config.json", "tokenizer.json", "model.safetensors"])
@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"{}"])
def test_damaged_files_are_refused_in_one_line(copy_of: Callable[..., Path], name: str, content: bytes) -> None:
    path = copy_of()
    (path / name).write_bytes(content)
    with pytest.raises(GateError, match=f"^{path}: ") as refused:
        HfTeacher(path)
    assert "\n" not in str(refused.value)


def test_slow_tokenizers_are_refused(copy_of: Callable[..., Path]) -> None:
    path = copy_of("tokenizer.json")
    (path / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "ByT5Tokenizer"}))
    with pytest.raises(GateError, match=f"^{path}: its tokenizer is a ByT5Tokenizer, expected a fast one"):
        HfTeacher(path)


@pytest.mark.parametrize("device", ["gpu", "cuda:99", "", "meta"])
def test_devices_that_are_not_there_are_refused(folder: Path, device: str) -> None:
    with pytest.raises(GateError, match=f"`device` is '{device}', expected one that PyTorch has here"):
        HfTeacher(folder, device=device)


def test_unknown_precision_is_refused() -> None:
    with pytest.raises(GateError, match="`dtype` is 'int8', expected one of auto, float32, bfloat16, float16"):
        HfEngine(dtype="int8")


def test_missing_transformers_is_told_with_the_fix(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(GateError) as refused:
        train(folder, ["none.jsonl"], tmp_path / "gate.safetensors", engine=HfEngine())
    assert str(refused.value) == 'training needs `transformers`: pip install "lcg-cpp[hf]"'


# ---- the command ----


def run(*arguments: str) -> int:
    """The exit code of `lcg-cpp`."""
    try:
        return cli.main(arguments)
    except SystemExit as end:
        return int(end.code or 0)


def test_command_trains_and_its_gate_converts(
    folder: Path, gguf_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (data,) = write_chats(tmp_path, 60)
    settings = ("--hidden", "4", "--batch", "64", "-c", "64", "-t", "1", "--rules", "paper", "--held-out", "0.1")
    assert run("train", "--hf", str(folder), "-d", data, *settings) == 0
    written = capsys.readouterr().out
    assert "wrote lcg-tiny-llama-F32.safetensors" in written
    assert "try: lcg-cpp convert lcg-tiny-llama-F32.safetensors --rules paper --base …" in written
    assert run("convert", "lcg-tiny-llama-F32.safetensors", "--base", str(gguf_path), "--rules", "paper") == 0
    assert Gate.load(tmp_path / "lcg-tiny-llama-F16.gguf").token_families.shape == (780,)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["-m", "m.gguf", "--hf", "f"], "argument --hf: not allowed with argument -m/--model"),
        ([], "one of the arguments -m/--model --hf is required"),
        (
            ["--hf", "f", "-o", "gate.gguf"],
            "-o/--output: gate.gguf: expected a name that ends in .safetensors with --hf",
        ),
        (["--hf", "f", "--outtype", "f16"], "--outtype: is for GGUF files (-m/--model), expected none with --hf"),
        (["--hf", "f", "-ngl", "3"], "-ngl/--n-gpu-layers: is for GGUF files (-m/--model), expected none with --hf"),
        (["--hf", "f", "--rpc", "a:1"], "--rpc: is for GGUF files (-m/--model), expected none with --hf"),
        (
            ["-m", "m.gguf", "--dtype", "float32"],
            "--dtype: is for Hugging Face checkpoints (--hf), expected none with -m",
        ),
        (
            ["-m", "m.gguf", "--device", "cpu"],
            "--device: is for Hugging Face checkpoints (--hf), expected none with -m",
        ),
    ],
)
def test_options_that_do_not_go_together_are_refused(
    arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("train", *arguments, "-d", "d.jsonl") == 2
    error = capsys.readouterr().err
    assert error.startswith(f"lcg-cpp: error: {said}")
    assert error.count("\n") == 1
