"""A tiny random-weight llama-architecture model and random gates for it.

The model knows no language. Its vocabulary is made by hand so that every token family, byte fragments of every
script and the control tokens occur, and its weights are scaled so that the next-token distribution is neither flat
nor one-hot: with usual sampler settings the survivors of most steps belong to several families.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import gguf
import numpy as np
import numpy.typing as npt

N_EMBD = 64
N_HEAD = 4
N_FF = 128
N_LAYER = 2
N_CTX_TRAIN = 512

CONTROL = ("<|endoftext|>", "<|begin|>", "<|im_start|>", "<|im_end|>")
USER_DEFINED = ("<think>", "</think>", "<tool_call>")
UNUSED = ("[unused0]", "[unused1]")

LATIN = (
    "assistant user system the of and to in is that it for was on are with as his they be at one have this from or had "
    "by hot word but what some we can out other were all there when up use your how said an each she which do their "
    "time if will way about many then them write would like so these her long make thing see him two has look more day "
    "could go come did number sound no most people my over know water than call first who may down side been now find "
    "name city A B C D E F G H json key value día año señor über größe été naïve ção ñ"
)
CJ = (
    "的 一 是 不 了 人 我 在 有 他 这 为 之 大 来 以 个 中 上 们 到 说 国 和 地 也 子 时 道 出 而 要 于 就 下 得 "
    "可 你 年 生 中国 我们 他们 时间 世界 名字 城市 语言 今天 明天 北京 上海 日本 東京 言語 名前 です ます した "
    "から まで する これ それ あれ どこ の は に を が で と も コンピュータ データ テスト カタカナ ひらがな "
    "こんにちは ありがとう 㐀 𠀀"
)
LOWRES = (
    "في من على إلى أن هذا التي الذي كان مدينة اسم السلام عليكم لغة العربية של את על זה לא הוא היא אני שלום עולם "
    "עברית שם 은 는 이 가 을 를 의 에 한국 언어 도시 이름 안녕 하세요 ที่ และ การ เป็น ไทย ภาษา เมือง ชื่อ สวัสดี "
    "и в не на я что он с как это язык город имя привет мир και το της γλώσσα πόλη όνομα के है में भाषा शहर नाम"
)
SYMBOLS = ". , ! ? : ; - ( ) [ ] { } \" ' 0 1 2 3 10 100 2024 ... -- == => 。 、 ！ ？ 「 」 … → 😀 🎉 ، ؟"

CHAT_TEMPLATE = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>\\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)


def byte_alphabet() -> list[str]:
    """Returns the printable stand-in of each of the 256 bytes in a byte-level BPE vocabulary, by byte value."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    names = {byte: chr(byte) for byte in printable}
    spare = iter(range(0x100, 0x200))
    return [names.get(byte) or chr(next(spare)) for byte in range(256)]


def byte_level(text: bytes) -> str:
    """Spells bytes with the byte-level alphabet."""
    alphabet = byte_alphabet()
    return "".join(alphabet[byte] for byte in text)


@dataclass(frozen=True)
class TinyVocab:
    """The vocabulary as it goes into the GGUF file, and the bytes that each token stands for."""

    tokens: tuple[str, ...]
    types: tuple[int, ...]
    merges: tuple[str, ...]
    contents: tuple[bytes, ...]

    def id_of(self, text: str) -> int:
        """Returns the id of the token with exactly this text."""
        return self.contents.index(text.encode())


def make_vocab() -> TinyVocab:
    """Builds the vocabulary: 256 bytes, every word with and without a leading space, then the special tokens.

    The merges build a word out of its first characters, so only a few words (Latin, ASCII) can be reached from text;
    the model generates all of them.
    """
    tokens = byte_alphabet()
    types = [int(gguf.TokenType.NORMAL)] * 256
    contents = [bytes([byte]) for byte in range(256)]
    merges: list[str] = []
    known = set(tokens)

    def add(piece: bytes) -> None:
        spelled = byte_level(piece)
        if spelled not in known:
            known.add(spelled)
            tokens.append(spelled)
            types.append(int(gguf.TokenType.NORMAL))
            contents.append(piece)

    for words, spaced in ((LATIN, True), (CJ, False), (LOWRES, True), (SYMBOLS, False)):
        for word in words.split():
            add(word.encode())
            if spaced:
                add(b" " + word.encode())
    # unfinished characters: what byte-level vocabularies of every size hold
    for piece in ("中", "語", "あ", "가", "ไ", "😀", "ع", "ш"):
        add(piece.encode()[:2])
    for word in ("the", "of", "and", "to", "in", "is", " the", " of", "中国", "我们", "日本"):
        raw = word.encode()
        for end in range(2, len(raw) + 1):
            add(raw[:end])
            merge = f"{byte_level(raw[: end - 1])} {byte_level(raw[end - 1 : end])}"
            if merge not in merges:
                merges.append(merge)
    for texts, kind in (
        (USER_DEFINED, gguf.TokenType.USER_DEFINED),
        (UNUSED, gguf.TokenType.UNUSED),
        (CONTROL, gguf.TokenType.CONTROL),
    ):
        for text in texts:
            tokens.append(text)
            types.append(int(kind))
            contents.append(text.encode())
    return TinyVocab(tuple(tokens), tuple(types), tuple(merges), tuple(contents))


def write_model(path: Path, *, seed: int = 0, logit_scale: float = 2.6, memory: float = 1.5) -> TinyVocab:
    """Writes the model as F32 GGUF.

    Args:
        path: The file to write.
        seed: Seed of the weights.
        logit_scale: Standard deviation of the logits; the hidden state after the final norm has unit RMS, so this
            divided by sqrt(n_embd) is the standard deviation of the output matrix.
        memory: Scale of what attention adds to the state. With 0 the next token depends on the last one alone, so that
            greedy text runs into a cycle: what prompt-lookup decoding needs.

    Returns:
        The vocabulary that was written.
    """
    vocab = make_vocab()
    n_vocab = len(vocab.tokens)
    rng = np.random.default_rng(seed)

    def normal(*shape: int, std: float) -> npt.NDArray[np.float32]:
        return rng.normal(0.0, std, shape).astype(np.float32)

    writer = gguf.GGUFWriter(path, "llama")
    writer.add_name("tiny")
    writer.add_file_type(int(gguf.LlamaFileType.ALL_F32))
    writer.add_context_length(N_CTX_TRAIN)
    writer.add_embedding_length(N_EMBD)
    writer.add_block_count(N_LAYER)
    writer.add_feed_forward_length(N_FF)
    writer.add_head_count(N_HEAD)
    writer.add_head_count_kv(N_HEAD)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_dimension_count(N_EMBD // N_HEAD)
    writer.add_vocab_size(n_vocab)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("llama-bpe")
    writer.add_token_list(list(vocab.tokens))
    writer.add_token_types(list(vocab.types))
    writer.add_token_merges(list(vocab.merges))
    writer.add_bos_token_id(vocab.tokens.index("<|begin|>"))
    writer.add_eos_token_id(vocab.tokens.index("<|im_end|>"))
    writer.add_add_bos_token(True)
    writer.add_chat_template(CHAT_TEMPLATE)

    writer.add_tensor("token_embd.weight", normal(n_vocab, N_EMBD, std=1.0))
    writer.add_tensor("output_norm.weight", np.ones(N_EMBD, np.float32))
    output = normal(n_vocab, N_EMBD, std=logit_scale / N_EMBD**0.5)
    # replies must not end by chance: the logits of control tokens stay near zero while the best of the others are
    # three standard deviations up
    output[np.asarray(vocab.types) == int(gguf.TokenType.CONTROL)] *= 0.1
    writer.add_tensor("output.weight", output)
    for layer in range(N_LAYER):
        block = f"blk.{layer}."
        writer.add_tensor(block + "attn_norm.weight", np.ones(N_EMBD, np.float32))
        for name in ("attn_q", "attn_k", "attn_v"):
            writer.add_tensor(f"{block}{name}.weight", normal(N_EMBD, N_EMBD, std=1.5 / N_EMBD**0.5))
        writer.add_tensor(f"{block}attn_output.weight", normal(N_EMBD, N_EMBD, std=memory / N_EMBD**0.5))
        writer.add_tensor(block + "ffn_norm.weight", np.ones(N_EMBD, np.float32))
        writer.add_tensor(block + "ffn_gate.weight", normal(N_FF, N_EMBD, std=1.5 / N_EMBD**0.5))
        writer.add_tensor(block + "ffn_up.weight", normal(N_FF, N_EMBD, std=1.5 / N_EMBD**0.5))
        writer.add_tensor(block + "ffn_down.weight", normal(N_EMBD, N_FF, std=1.5 / N_FF**0.5))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return vocab


def gate_weights(
    n_hidden: int, *, n_families: int = 4, n_embd: int = N_EMBD, seed: int = 0, scale: float = 2.0
) -> dict[str, npt.NDArray[np.float32]]:
    """Makes random gate weights whose logits z have a standard deviation of about `scale` on this model's states.

    Args:
        n_hidden: Width of the hidden layer; 0 makes a linear gate.
        n_families: Number of outputs.
        n_embd: Width of the model's states, whose RMS is 1.
        seed: Seed of the weights.
        scale: Standard deviation of z.

    Returns:
        The tensors by their names in the gate file, float32.
    """
    rng = np.random.default_rng(seed)
    if n_hidden == 0:
        return {"lcg.fc2.weight": rng.normal(0.0, scale / n_embd**0.5, (n_families, n_embd)).astype(np.float32)}
    return {
        "lcg.fc1.weight": rng.normal(0.0, 1.0 / n_embd**0.5, (n_hidden, n_embd)).astype(np.float32),
        # relu halves the second moment of its input
        "lcg.fc2.weight": rng.normal(0.0, scale * (2.0 / n_hidden) ** 0.5, (n_families, n_hidden)).astype(np.float32),
    }
