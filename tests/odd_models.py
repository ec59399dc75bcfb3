"""Tiny random models of architectures other than the usual: recurrent, sliding windows, a head for ranking, encoders.

All have the tiny model's vocabulary. Names and shapes of the tensors are llama.cpp's; shapes are NumPy's, rows first.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import gguf
import numpy as np
import numpy.typing as npt

from tiny_model import make_vocab

N_EMBD = 32
N_FF = 64
N_HEAD = 2
N_LAYER = 2

Shapes = dict[str, tuple[int, ...]]
Adjust = Callable[[str, npt.NDArray[np.float32]], npt.NDArray[np.float32]]


def _write(
    path: Path,
    architecture: str,
    shapes: Shapes,
    describe: Callable[[gguf.GGUFWriter], None],
    adjust: Adjust = lambda _, tensor: tensor,
) -> None:
    """Writes a model of random weights; a vector is one, unless it is a bias."""
    vocab = make_vocab()
    rng = np.random.default_rng(0)
    writer = gguf.GGUFWriter(path, architecture)
    writer.add_name(architecture)
    writer.add_context_length(512)
    writer.add_embedding_length(N_EMBD)
    writer.add_block_count(N_LAYER)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("llama-bpe")
    writer.add_token_list(list(vocab.tokens))
    writer.add_token_types(list(vocab.types))
    writer.add_token_merges(list(vocab.merges))
    describe(writer)
    for name, shape in shapes.items():
        if len(shape) > 1:
            tensor = rng.normal(0, 1.5 / shape[-1] ** 0.5, shape).astype(np.float32)
        else:
            tensor = np.full(shape, 0 if name.endswith("bias") else 1, np.float32)
        writer.add_tensor(name, adjust(name, tensor))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def write_mamba(path: Path) -> None:
    """A model whose memory is a state of fixed size for each text instead of a cache of tokens."""
    n_inner, n_state, n_conv, n_rank = 2 * N_EMBD, 4, 4, 8
    shapes: Shapes = {"token_embd.weight": (len(make_vocab().tokens), N_EMBD), "output_norm.weight": (N_EMBD,)}
    for layer in range(N_LAYER):
        block = f"blk.{layer}."
        shapes |= {
            block + "attn_norm.weight": (N_EMBD,),
            block + "ssm_in.weight": (2 * n_inner, N_EMBD),
            block + "ssm_conv1d.weight": (n_inner, n_conv),
            block + "ssm_conv1d.bias": (n_inner,),
            block + "ssm_x.weight": (n_rank + 2 * n_state, n_inner),
            block + "ssm_dt.weight": (n_inner, n_rank),
            block + "ssm_dt.bias": (n_inner,),
            block + "ssm_a": (n_inner, n_state),
            block + "ssm_d": (n_inner,),
            block + "ssm_out.weight": (N_EMBD, n_inner),
        }

    def describe(writer: gguf.GGUFWriter) -> None:
        writer.add_feed_forward_length(0)
        writer.add_head_count(0)
        writer.add_layer_norm_rms_eps(1e-5)
        writer.add_ssm_conv_kernel(n_conv)
        writer.add_ssm_inner_size(n_inner)
        writer.add_ssm_state_size(n_state)
        writer.add_ssm_time_step_rank(n_rank)

    # the state decays: its matrix is negative
    _write(path, "mamba", shapes, describe, lambda name, t: -np.abs(t) if name.endswith("ssm_a") else t)


def write_t5(path: Path) -> None:
    """An encoder and a decoder that reads what it says."""
    shapes: Shapes = {
        "token_embd.weight": (len(make_vocab().tokens), N_EMBD),
        "enc.output_norm.weight": (N_EMBD,),
        "dec.output_norm.weight": (N_EMBD,),
    }
    for layer in range(N_LAYER):
        for side, attentions in (("enc", ("attn",)), ("dec", ("attn", "cross_attn"))):
            block = f"{side}.blk.{layer}."
            for attention in attentions:
                shapes[f"{block}{attention}_norm.weight"] = (N_EMBD,)
                shapes |= {f"{block}{attention}_{part}.weight": (N_EMBD, N_EMBD) for part in "qkvo"}
            shapes |= {
                block + "ffn_norm.weight": (N_EMBD,),
                block + "ffn_up.weight": (N_FF, N_EMBD),
                block + "ffn_down.weight": (N_EMBD, N_FF),
            }
        if layer == 0:
            shapes |= {f"{side}.blk.0.attn_rel_b.weight": (32, N_HEAD) for side in ("enc", "dec")}

    def describe(writer: gguf.GGUFWriter) -> None:
        writer.add_feed_forward_length(N_FF)
        writer.add_head_count(N_HEAD)
        writer.add_layer_norm_rms_eps(1e-5)
        writer.add_relative_attn_buckets_count(32)
        writer.add_decoder_start_token_id(0)

    _write(path, "t5", shapes, describe)


def write_bert(path: Path) -> None:
    """A model that makes embeddings of texts and predicts no token."""
    shapes: Shapes = {
        "token_embd.weight": (len(make_vocab().tokens), N_EMBD),
        "position_embd.weight": (512, N_EMBD),
        "token_types.weight": (2, N_EMBD),
        "token_embd_norm.weight": (N_EMBD,),
        "token_embd_norm.bias": (N_EMBD,),
    }
    for layer in range(N_LAYER):
        block = f"blk.{layer}."
        for name, shape in (
            ("attn_q", (N_EMBD, N_EMBD)),
            ("attn_k", (N_EMBD, N_EMBD)),
            ("attn_v", (N_EMBD, N_EMBD)),
            ("attn_output", (N_EMBD, N_EMBD)),
            ("attn_output_norm", (N_EMBD,)),
            ("ffn_up", (N_FF, N_EMBD)),
            ("ffn_down", (N_EMBD, N_FF)),
            ("layer_output_norm", (N_EMBD,)),
        ):
            shapes |= {f"{block}{name}.weight": shape, f"{block}{name}.bias": shape[:1]}

    def describe(writer: gguf.GGUFWriter) -> None:
        writer.add_feed_forward_length(N_FF)
        writer.add_head_count(N_HEAD)
        writer.add_layer_norm_eps(1e-5)
        writer.add_causal_attention(False)
        writer.add_token_type_count(2)

    _write(path, "bert", shapes, describe)


def _norms_and_ffn(block: str) -> Shapes:
    return {
        block + "attn_norm.weight": (N_EMBD,),
        block + "ffn_norm.weight": (N_EMBD,),
        block + "ffn_gate.weight": (N_FF, N_EMBD),
        block + "ffn_up.weight": (N_FF, N_EMBD),
        block + "ffn_down.weight": (N_EMBD, N_FF),
    }


def write_lfm2(path: Path) -> None:
    """Short convolutions beside attention; llama.cpp computes no logits for it where embeddings are wanted."""
    n_head_kv = [0, 1]
    shapes: Shapes = {"token_embd.weight": (len(make_vocab().tokens), N_EMBD), "token_embd_norm.weight": (N_EMBD,)}
    for layer, n_kv in enumerate(n_head_kv):
        block = f"blk.{layer}."
        shapes |= _norms_and_ffn(block)
        if n_kv == 0:
            shapes |= {
                block + "shortconv.conv.weight": (N_EMBD, 3),
                block + "shortconv.in_proj.weight": (3 * N_EMBD, N_EMBD),
                block + "shortconv.out_proj.weight": (N_EMBD, N_EMBD),
            }
        else:
            n_embd_kv = N_EMBD // N_HEAD * n_kv
            shapes |= {
                block + "attn_q.weight": (N_EMBD, N_EMBD),
                block + "attn_k.weight": (n_embd_kv, N_EMBD),
                block + "attn_v.weight": (n_embd_kv, N_EMBD),
                block + "attn_output.weight": (N_EMBD, N_EMBD),
                block + "attn_q_norm.weight": (N_EMBD // N_HEAD,),
                block + "attn_k_norm.weight": (N_EMBD // N_HEAD,),
            }

    def describe(writer: gguf.GGUFWriter) -> None:
        writer.add_feed_forward_length(N_FF)
        writer.add_head_count(N_HEAD)
        writer.add_head_count_kv(n_head_kv)
        writer.add_layer_norm_rms_eps(1e-5)
        writer.add_shortconv_l_cache(3)

    _write(path, "lfm2", shapes, describe)


def write_plamo3(path: Path) -> None:
    """A model whose graph in llama.cpp gives the state after the final norm no name."""
    n_head_dim = N_EMBD // N_HEAD
    shapes: Shapes = {"token_embd.weight": (len(make_vocab().tokens), N_EMBD), "output_norm.weight": (N_EMBD,)}
    for layer in range(N_LAYER):
        block = f"blk.{layer}."
        shapes |= {
            block + "attn_norm.weight": (N_EMBD,),
            block + "attn_qkv.weight": (3 * N_EMBD, N_EMBD),
            block + "attn_q_norm.weight": (n_head_dim,),
            block + "attn_k_norm.weight": (n_head_dim,),
            block + "attn_output.weight": (N_EMBD, N_EMBD),
            block + "post_attention_norm": (N_EMBD,),
            block + "ffn_norm.weight": (N_EMBD,),
            block + "post_ffw_norm": (N_EMBD,),
            block + "ffn_up.weight": (2 * N_FF, N_EMBD),
            block + "ffn_down.weight": (N_EMBD, N_FF),
        }

    def describe(writer: gguf.GGUFWriter) -> None:
        writer.add_feed_forward_length(N_FF)
        writer.add_head_count(N_HEAD)
        writer.add_head_count_kv(N_HEAD)
        writer.add_key_length(n_head_dim)
        writer.add_value_length(n_head_dim)
        writer.add_layer_norm_rms_eps(1e-5)

    _write(path, "plamo3", shapes, describe)


def _attention(n_layer: int) -> Shapes:
    """Of models whose queries and keys have norms of their own."""
    shapes: Shapes = {}
    for layer in range(n_layer):
        block = f"blk.{layer}."
        shapes |= {block + f"attn_{name}.weight": (N_EMBD, N_EMBD) for name in ("q", "k", "v", "output")}
        shapes |= {block + f"attn_{name}_norm.weight": (N_EMBD // N_HEAD,) for name in "qk"}
        shapes |= _norms_and_ffn(block)
    return shapes


def _describe_attention(writer: gguf.GGUFWriter) -> None:
    writer.add_feed_forward_length(N_FF)
    writer.add_head_count(N_HEAD)
    writer.add_head_count_kv(N_HEAD)
    writer.add_key_length(N_EMBD // N_HEAD)
    writer.add_value_length(N_EMBD // N_HEAD)
    writer.add_layer_norm_rms_eps(1e-5)


def write_gemma3(path: Path) -> None:
    """A model whose first layer sees the latest 8 tokens only."""
    n_vocab = len(make_vocab().tokens)
    shapes: Shapes = {"token_embd.weight": (n_vocab, N_EMBD), "output_norm.weight": (N_EMBD,)}
    shapes |= {"output.weight": (n_vocab, N_EMBD), **_attention(N_LAYER)}
    for layer in range(N_LAYER):
        shapes |= {f"blk.{layer}.post_{part}_norm.weight": (N_EMBD,) for part in ("attention", "ffw")}

    def describe(writer: gguf.GGUFWriter) -> None:
        _describe_attention(writer)
        writer.add_sliding_window(8)
        writer.add_sliding_window_pattern([True, False])

    _write(path, "gemma3", shapes, describe)


def write_qwen3(path: Path) -> None:
    """A model that also ranks: its head makes two numbers of a text."""
    shapes: Shapes = {"token_embd.weight": (len(make_vocab().tokens), N_EMBD), "output_norm.weight": (N_EMBD,)}
    shapes |= _attention(N_LAYER)
    shapes |= {"cls.output.weight": (2, N_EMBD)}

    def describe(writer: gguf.GGUFWriter) -> None:
        _describe_attention(writer)
        writer.add_classifier_output_labels(["yes", "no"])

    _write(path, "qwen3", shapes, describe)
