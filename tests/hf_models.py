"""Tiny Hugging Face checkpoints with random weights, and the same models as GGUF files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gguf
import numpy as np
import torch
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

import tiny_model
from tiny_model import CHAT_TEMPLATE

N_ADDED = 3  # pieces that are added to SentencePiece's own
N_PADDING = 6  # rows of the output matrix beyond the tokenizer's tokens

# What Llama 3 and its kin split texts by; llama.cpp knows it as `llama-bpe`.
_WORDS = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)

_LLAMA = {
    "model.embed_tokens.weight": "token_embd.weight",
    "model.norm.weight": "output_norm.weight",
    "lm_head.weight": "output.weight",
}
_LLAMA_LAYER = {
    "input_layernorm": "attn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "post_attention_layernorm": "ffn_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}


def byte_level_tokens() -> tuple[list[str], list[int]]:
    """The tiny model's tokens and their types; unused ones, which tokenizers do not know, are at the end."""
    vocab = tiny_model.make_vocab()
    rows = [(text, kind) for text, kind in zip(vocab.tokens, vocab.types) if kind != gguf.TokenType.UNUSED]
    rows += [(f"[PAD{len(rows) + i}]", int(gguf.TokenType.UNUSED)) for i in range(N_PADDING)]
    return [text for text, _ in rows], [int(kind) for _, kind in rows]


def byte_level_tokenizer() -> Tokenizer:
    """The tiny model's tokenizer: byte-level BPE, with tokens added to it."""
    tokens, types = byte_level_tokens()
    normal = {text: i for i, (text, kind) in enumerate(zip(tokens, types)) if kind == gguf.TokenType.NORMAL}
    merges = [tuple(merge.split(" ")) for merge in tiny_model.make_vocab().merges]
    tokenizer = Tokenizer(models.BPE(normal, merges, ignore_merges=True))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(_WORDS), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    for text, kind in zip(tokens, types):
        if kind in (gguf.TokenType.USER_DEFINED, gguf.TokenType.CONTROL):
            tokenizer.add_tokens([AddedToken(text, special=kind == gguf.TokenType.CONTROL, normalized=False)])
    tokenizer.post_processor = _begin_with("<|begin|>", tokenizer)
    return tokenizer


def sentencepiece_pieces() -> tuple[list[str], list[int], list[str]]:
    """Pieces as SentencePiece spells them, their types, and the merges that make them."""
    words = ["▁the", "▁of", "▁name", "中国", "日本", "こんにちは", "▁мир", "한국", "▁שלום", "ไทย", "▁café"]
    characters = sorted({character for word in words for character in word} | set("abcdefgh.,!?0123456789"))
    merges: list[str] = []
    for word in words:
        for end in range(2, len(word) + 1):
            if f"{word[: end - 1]} {word[end - 1]}" not in merges:
                merges.append(f"{word[: end - 1]} {word[end - 1]}")
    kinds = gguf.TokenType
    rows = [("<unk>", kinds.UNKNOWN), ("<s>", kinds.CONTROL), ("</s>", kinds.CONTROL)]
    rows += [(f"<0x{byte:02X}>", kinds.BYTE) for byte in range(256)]
    rows += [(merge.replace(" ", ""), kinds.NORMAL) for merge in merges]
    rows += [(character, kinds.NORMAL) for character in characters]
    rows += [("<start_of_turn>", kinds.CONTROL), ("▁▁▁▁", kinds.USER_DEFINED), ("<unused7>", kinds.CONTROL)]
    return [text for text, _ in rows], [int(kind) for _, kind in rows], merges


def sentencepiece_tokenizer() -> Tokenizer:
    """A tokenizer of Llama 2's kind: BPE over pieces, with byte fallback."""
    pieces, _, merges = sentencepiece_pieces()
    known = {text: i for i, text in enumerate(pieces[:-N_ADDED])}
    pairs = [tuple(merge.split(" ")) for merge in merges]
    tokenizer = Tokenizer(models.BPE(known, pairs, unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    for text in ("<s>", "</s>", "<start_of_turn>"):
        tokenizer.add_tokens([AddedToken(text, special=True, normalized=False)])
    for text in ("▁▁▁▁", "<unused7>"):  # the latter as in Gemma, whose tokenizer does not call it special
        tokenizer.add_tokens([AddedToken(text, special=False, normalized=False)])
    assert [tokenizer.token_to_id(text) for text in pieces] == list(range(len(pieces)))
    tokenizer.post_processor = _begin_with("<s>", tokenizer)
    return tokenizer


def _begin_with(bos: str, tokenizer: Tokenizer) -> processors.TemplateProcessing:
    return processors.TemplateProcessing(
        single=f"{bos} $A", pair=f"{bos} $A {bos} $B", special_tokens=[(bos, tokenizer.token_to_id(bos))]
    )


def save_tokenizer(folder: Path, tokenizer: Tokenizer, *, bos: str, eos: str, chat_template: str | None = None) -> None:
    """Writes a tokenizer as it lies beside a model."""
    wrapped = PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token=bos, eos_token=eos)
    wrapped.chat_template = chat_template
    wrapped.save_pretrained(folder)


def llama(n_vocab: int, *, seed: int = 0, **changes: Any) -> LlamaForCausalLM:
    """A tiny model whose next-token distribution is neither flat nor one-hot."""
    config = LlamaConfig(
        **{
            "vocab_size": n_vocab,
            "hidden_size": 64,
            "intermediate_size": 128,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "max_position_embeddings": 512,
            "rms_norm_eps": 1e-5,
            "tie_word_embeddings": False,
            "bos_token_id": None,
            "eos_token_id": None,
            **changes,
        }
    )
    model = LlamaForCausalLM(config)
    randomize(model, seed)
    return model


def randomize(model: torch.nn.Module, seed: int = 0) -> None:
    """Random weights: norms around one, matrices that keep the scale of what they multiply."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            values = torch.randn(weight.shape, generator=generator)
            if weight.ndim == 1:
                weight.copy_(1 + 0.3 * values)
            elif "embed" in name:
                weight.copy_(values)
            else:
                weight.copy_(values * (2.6 if "lm_head" in name else 0.7) / weight.shape[1] ** 0.5)


def save(folder: Path, model: Any, *, randomized: bool = False) -> None:
    """Writes a model, with random weights if it has none yet, and the tiny model's tokenizer."""
    if not randomized:
        randomize(model)
    model.save_pretrained(folder)
    save_tokenizer(folder, byte_level_tokenizer(), bos="<|begin|>", eos="<|im_end|>", chat_template=CHAT_TEMPLATE)


def save_llama(folder: Path, **changes: Any) -> LlamaForCausalLM:
    """Writes a tiny Llama; returns it."""
    model = llama(len(byte_level_tokens()[0]), **changes)
    save(folder, model, randomized=True)
    return model


def write_llama_gguf(path: Path, model: LlamaForCausalLM) -> None:
    """Writes a Llama of `save_llama` as llama.cpp's converter does, in F32."""
    config = model.config
    tokens, types = byte_level_tokens()
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_name("tiny-llama")
    writer.add_file_type(int(gguf.LlamaFileType.ALL_F32))
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_dimension_count(config.hidden_size // config.num_attention_heads)
    writer.add_vocab_size(len(tokens))
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("llama-bpe")
    writer.add_token_list(tokens)
    writer.add_token_types(types)
    writer.add_token_merges(list(tiny_model.make_vocab().merges))
    writer.add_bos_token_id(tokens.index("<|begin|>"))
    writer.add_eos_token_id(tokens.index("<|im_end|>"))
    writer.add_add_bos_token(True)
    writer.add_chat_template(CHAT_TEMPLATE)
    for name, tensor in _gguf_tensors(model).items():
        writer.add_tensor(name, tensor)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _gguf_tensors(model: LlamaForCausalLM) -> dict[str, np.ndarray[Any, Any]]:
    heads = {"attn_q": model.config.num_attention_heads, "attn_k": model.config.num_key_value_heads}
    tensors = {}
    for name, weight in model.state_dict().items():
        array = weight.numpy()
        if name in _LLAMA:
            tensors[_LLAMA[name]] = array
            continue
        _, _, layer, rest = name.split(".", 3)
        short = _LLAMA_LAYER[rest.removesuffix(".weight")]
        if short in heads:  # the halves of a head that turn together lie next to each other in llama.cpp
            halves = array.reshape(heads[short], 2, -1, array.shape[1])
            array = np.ascontiguousarray(halves.swapaxes(1, 2).reshape(array.shape))
        tensors[f"blk.{layer}.{short}.weight"] = array
    return tensors


def write_sentencepiece_gguf(path: Path) -> None:
    """Writes the tokenizer of `sentencepiece_tokenizer` as a GGUF file without weights."""
    pieces, types, merges = sentencepiece_pieces()
    rank = {merge.replace(" ", ""): i for i, merge in enumerate(merges)}
    texts = [
        text.replace("▁", " ") if kind == gguf.TokenType.USER_DEFINED else text for text, kind in zip(pieces, types)
    ]
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_name("tiny-pieces")
    writer.add_tokenizer_model("llama")
    writer.add_tokenizer_pre("default")
    writer.add_token_list(texts)
    writer.add_token_types(types)
    writer.add_token_scores([-float(rank[text]) if text in rank else -1000.0 for text in pieces])
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_add_bos_token(True)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
