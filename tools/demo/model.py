"""The toy base models: a llama-architecture transformer in plain PyTorch, exactly what llama.cpp computes."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional


@dataclass(frozen=True)
class ModelConfig:
    """Sizes of the model; those of the demo's where none are given."""

    n_vocab: int = 3072
    n_embd: int = 160
    n_layer: int = 4
    n_head: int = 5
    n_ff: int = 448
    n_ctx: int = 256
    rope_base: float = 10000.0
    norm_eps: float = 1e-5

    @property
    def n_rot(self) -> int:
        """Width of one head, all of which is rotated."""
        return self.n_embd // self.n_head


def rotation(config: ModelConfig) -> tuple[Tensor, Tensor]:
    """Cosines and sines (n_ctx, n_rot / 2) of the rotary position embedding."""
    frequency = config.rope_base ** (-torch.arange(0, config.n_rot, 2, dtype=torch.float64) / config.n_rot)
    angle = torch.outer(torch.arange(config.n_ctx, dtype=torch.float64), frequency)
    return angle.cos().float(), angle.sin().float()


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotates neighbouring pairs of a (batch, head, position, n_rot) tensor: llama.cpp's layout for `llama`."""
    even, odd = x[..., 0::2], x[..., 1::2]
    return torch.stack((even * cos - odd * sin, even * sin + odd * cos), dim=-1).flatten(-2)


class Norm(nn.Module):
    """Root-mean-square norm."""

    def __init__(self, n: int, eps: float):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(n))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        """Normalises the last dimension."""
        x = x.float()
        return x * torch.rsqrt(x.square().mean(-1, keepdim=True) + self.eps) * self.weight


class Block(nn.Module):
    """Attention and feed-forward, each with its norm before and its residual around."""

    def __init__(self, config: ModelConfig):
        super().__init__()
        n, self.n_head = config.n_embd, config.n_head
        self.attn_norm = Norm(n, config.norm_eps)
        self.attn_q = nn.Linear(n, n, bias=False)
        self.attn_k = nn.Linear(n, n, bias=False)
        self.attn_v = nn.Linear(n, n, bias=False)
        self.attn_output = nn.Linear(n, n, bias=False)
        self.ffn_norm = Norm(n, config.norm_eps)
        self.ffn_gate = nn.Linear(n, config.n_ff, bias=False)
        self.ffn_up = nn.Linear(n, config.n_ff, bias=False)
        self.ffn_down = nn.Linear(config.n_ff, n, bias=False)

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        """(batch, position, n_embd) -> the same."""
        batch, n_pos, n = x.shape
        h = self.attn_norm(x)
        q, k, v = (
            layer(h).view(batch, n_pos, self.n_head, -1).transpose(1, 2)
            for layer in (self.attn_q, self.attn_k, self.attn_v)
        )
        q, k = rotate(q, cos, sin).to(v.dtype), rotate(k, cos, sin).to(v.dtype)
        mixed = functional.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.attn_output(mixed.transpose(1, 2).reshape(batch, n_pos, n))
        h = self.ffn_norm(x)
        return x + self.ffn_down(functional.silu(self.ffn_gate(h)) * self.ffn_up(h))


class Model(nn.Module):
    """The transformer; `output` is a matrix of its own, so that its row norms are free to follow the frequencies."""

    def __init__(self, config: ModelConfig):
        super().__init__()
        self.config = config
        self.token_embd = nn.Embedding(config.n_vocab, config.n_embd)
        self.blk = nn.ModuleList(Block(config) for _ in range(config.n_layer))
        self.output_norm = Norm(config.n_embd, config.norm_eps)
        self.output = nn.Linear(config.n_embd, config.n_vocab, bias=False)
        cos, sin = rotation(config)
        self.register_buffer("cos", cos, persistent=False)
        self.register_buffer("sin", sin, persistent=False)
        for name, weight in self.named_parameters():
            if weight.dim() == 2:
                deep = name.endswith(("attn_output.weight", "ffn_down.weight"))
                nn.init.normal_(weight, std=0.02 / (2 * config.n_layer) ** 0.5 if deep else 0.02)
        nn.init.normal_(self.token_embd.weight, std=0.1)

    def hidden(self, tokens: Tensor) -> Tensor:
        """Token ids (batch, position) -> states after the final norm, float32 (batch, position, n_embd)."""
        x = self.token_embd(tokens)
        cos, sin = self.cos[: tokens.shape[1]], self.sin[: tokens.shape[1]]
        for block in self.blk:
            x = block(x, cos, sin)
        return self.output_norm(x)

    def forward(self, tokens: Tensor) -> Tensor:
        """Token ids (batch, position) -> logits (batch, position, n_vocab)."""
        return self.output(self.hidden(tokens))
