"""Write a model of real shapes and a real vocabulary with random weights, and a random gate for it.

    python tools/bench/make_random_model.py --vocab ggml-vocab-qwen2.gguf -o random-0.6B-Q8_0.gguf

Speed does not depend on the values of the weights, so a random model is as fast as a real one of the same shape: the
same reads, the same arithmetic, a vocabulary of the same size. The default shape is Qwen3-0.6B.

One thing does depend on the weights: how often the survivors of top-k and top-p hold a token of a maskable family other
than the text's own. Only then is the gate evaluated: at every step with random weights, at few steps in real text.
`--outside` scales down the output rows of Chinese, Japanese and Latin tokens, so that the model writes in the other
scripts and maskable families reach the survivors now and then. `lcg-cpp bench` prints the share of steps on which the
gate ran.
"""

from __future__ import annotations

import argparse
import re
from dataclasses import dataclass
from pathlib import Path

import gguf
import numpy as np
import numpy.typing as npt

from lcg_cpp.engine.model import read_base_model
from lcg_cpp.gate.families import DEFAULT_FAMILIES, token_families
from lcg_cpp.gate.gate_file import write_gate
from lcg_cpp.gate.spec import spec_for

Q8_0_BLOCK = 32


@dataclass(frozen=True)
class Shape:
    """Hyperparameters of a dense Qwen3 model."""

    n_embd: int = 1024
    n_layer: int = 28
    n_ff: int = 3072
    n_head: int = 16
    n_head_kv: int = 8
    head_dim: int = 128
    n_ctx: int = 4096


def random_q8_0(rng: np.random.Generator, std: npt.NDArray[np.float64], n_columns: int) -> npt.NDArray[np.uint8]:
    """Random Q8_0 rows: blocks of an F16 scale and 32 int8, uniform with the standard deviation `std` of each row."""
    n_rows, n_blocks = len(std), n_columns // Q8_0_BLOCK
    blocks = np.empty((n_rows, n_blocks, 2 + Q8_0_BLOCK), dtype=np.uint8)
    scale = (std / (127 / 3**0.5)).astype(np.float16).view(np.uint8).reshape(n_rows, 1, 2)
    blocks[:, :, :2] = scale
    values = rng.integers(-127, 128, (n_rows, n_blocks, Q8_0_BLOCK), dtype=np.int8)
    blocks[:, :, 2:] = values.view(np.uint8)
    return blocks.reshape(n_rows, n_blocks * (2 + Q8_0_BLOCK))


def copy_tokenizer(reader: gguf.GGUFReader, writer: gguf.GGUFWriter) -> int:
    """Copy every `tokenizer.*` key but the chat templates; returns the number of tokens."""
    n_vocab = 0
    for field in reader.fields.values():
        if not field.name.startswith("tokenizer.") or "chat_template" in field.name:
            continue
        value = field.contents()
        sub_type = field.types[1] if field.types[0] == gguf.GGUFValueType.ARRAY else None
        writer.add_key_value(field.name, value, field.types[0], sub_type=sub_type)
        if field.name == "tokenizer.ggml.tokens":
            n_vocab = len(value)
    return n_vocab


def write_model(path: Path, vocab: Path, shape: Shape, sharpness: float, outside: float, seed: int) -> None:
    """Write the model. `sharpness` is the standard deviation of the logits, times `outside` for maskable families."""
    rng = np.random.default_rng(seed)
    writer = gguf.GGUFWriter(path, "qwen3")
    writer.add_name(f"random {path.stem}")
    writer.add_block_count(shape.n_layer)
    writer.add_context_length(shape.n_ctx)
    writer.add_embedding_length(shape.n_embd)
    writer.add_feed_forward_length(shape.n_ff)
    writer.add_head_count(shape.n_head)
    writer.add_head_count_kv(shape.n_head_kv)
    writer.add_key_length(shape.head_dim)
    writer.add_value_length(shape.head_dim)
    writer.add_rope_freq_base(1e6)
    writer.add_layer_norm_rms_eps(1e-6)
    writer.add_file_type(gguf.LlamaFileType.MOSTLY_Q8_0)
    n_vocab = copy_tokenizer(gguf.GGUFReader(vocab), writer)

    def matrix(name: str, n_in: int, n_out: int, std: float | npt.NDArray[np.float64]) -> None:
        data = random_q8_0(rng, np.broadcast_to(np.float64(std), n_out), n_in)
        writer.add_tensor(name, data, raw_dtype=gguf.GGMLQuantizationType.Q8_0)

    def norm(name: str, size: int, value: float = 1.0) -> None:
        writer.add_tensor(name, np.full(size, value, dtype=np.float32))

    width = shape.n_embd
    # Embedding rows of unit variance: logits get the deviation sqrt(n_embd) * the norm's scale. Each layer adds far
    # more than that to the residual stream, or else the next token would always be the last one again.
    residual = 16.0
    maskable = np.array(DEFAULT_FAMILIES.maskable)[token_families(read_base_model(vocab).vocab)]
    matrix("token_embd.weight", width, n_vocab, np.where(maskable, outside, 1.0))
    norm("output_norm.weight", width, sharpness / width**0.5)
    for layer in range(shape.n_layer):
        prefix = f"blk.{layer}."
        n_q, n_kv = shape.n_head * shape.head_dim, shape.n_head_kv * shape.head_dim
        norm(prefix + "attn_norm.weight", width)
        norm(prefix + "attn_q_norm.weight", shape.head_dim)
        norm(prefix + "attn_k_norm.weight", shape.head_dim)
        matrix(prefix + "attn_q.weight", width, n_q, width**-0.5)
        matrix(prefix + "attn_k.weight", width, n_kv, width**-0.5)
        matrix(prefix + "attn_v.weight", width, n_kv, width**-0.5)
        matrix(prefix + "attn_output.weight", n_q, width, residual * n_q**-0.5)
        norm(prefix + "ffn_norm.weight", width)
        matrix(prefix + "ffn_gate.weight", width, shape.n_ff, width**-0.5)
        matrix(prefix + "ffn_up.weight", width, shape.n_ff, width**-0.5)
        matrix(prefix + "ffn_down.weight", shape.n_ff, width, residual * shape.n_ff**-0.5)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def write_random_gate(path: Path, model: Path, n_hidden: int, outtype: str, seed: int) -> None:
    """Write a gate of random weights for `model`; about half of its predictions are positive."""
    rng = np.random.default_rng(seed)
    base = read_base_model(model)
    spec = spec_for(base, n_hidden=n_hidden)
    n_in = n_hidden or base.n_embd
    weights = {"lcg.fc2.weight": rng.normal(0, n_in**-0.5, (len(spec.families), n_in)).astype(np.float32)}
    if n_hidden:
        weights["lcg.fc1.weight"] = rng.normal(0, base.n_embd**-0.5, (n_hidden, base.n_embd)).astype(np.float32)
    write_gate(path, spec, weights, outtype=outtype)


def shape_option(text: str) -> tuple[str, int]:
    """Parse one `name=value` of --shape."""
    match = re.fullmatch(r"(\w+)=(\d+)", text)
    if match is None or match[1] not in Shape.__dataclass_fields__:
        names = ", ".join(Shape.__dataclass_fields__)
        raise argparse.ArgumentTypeError(f"`{text}`: expected name=number with a name of {names}")
    return match[1], int(match[2])


def main() -> None:
    """Entry point."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--vocab", type=Path, required=True, help="GGUF file with the vocabulary (weights are not read)"
    )
    parser.add_argument("-o", "--output", type=Path, required=True, help="the model; its gate goes beside it")
    parser.add_argument("--shape", type=shape_option, nargs="*", default=[], metavar="NAME=N", help="e.g. n_layer=4")
    parser.add_argument("--sharpness", type=float, default=4.0, help="standard deviation of the logits (default: 4)")
    parser.add_argument(
        "--outside",
        type=float,
        default=0.65,
        help="scale of the logits of maskable families (default: 0.65; see above)",
    )
    parser.add_argument("--n-hidden", type=int, default=None, help="width of the gate (default: n_embd, as the paper)")
    parser.add_argument("--outtype", default="f16", choices=["f32", "f16", "bf16", "q8_0"], help="type of the gate")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    shape = Shape(**dict(args.shape))
    write_model(args.output, args.vocab, shape, args.sharpness, args.outside, args.seed)
    gate = args.output.with_name(f"lcg-{args.output.stem}-{args.outtype.upper()}.gguf")
    n_hidden = shape.n_embd if args.n_hidden is None else args.n_hidden
    write_random_gate(gate, args.output, n_hidden, args.outtype, args.seed)
    print(f"{args.output}\n{gate}")


if __name__ == "__main__":
    main()
