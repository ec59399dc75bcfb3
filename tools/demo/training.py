"""Training of a base model on texts of two parts, replies only."""

from __future__ import annotations

import contextlib
import random
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor
from torch.nn import functional
from torch.nn.attention import SDPBackend, sdpa_kernel

from .model import Model
from .tokenizer import Bpe


@dataclass(frozen=True)
class TrainConfig:
    """How the base model is trained.

    Attributes:
        n_texts: Texts, each seen once.
        batch: Texts a step.
        embedding_rate: AdamW's learning rate for the embedding matrix.
        output_rate: AdamW's for the output matrix and the norms.
        muon_rate: Muon's, for the matrices of the blocks.
        warmup: Steps until the rates are reached.
        decay: Share of the steps over which they fall to zero.
        weight_decay: AdamW's.
        curriculum: Share of the texts over which the longest grows from one item to its full length: how to find the
            n-th item is learned in minutes that way, and not at all in the time we have without.
        seed: Order of the texts.
        bf16: Multiply in bfloat16, and attend with plain products: twice as fast where the processor can do it.
        device: Where, as PyTorch calls it. Another one rounds otherwise.
    """

    n_texts: int = 150_000
    batch: int = 32
    embedding_rate: float = 1.5e-2
    output_rate: float = 1.5e-2
    muon_rate: float = 0.02
    warmup: int = 40
    decay: float = 0.5
    curriculum: float = 0.24
    weight_decay: float = 0.05
    seed: int = 0
    bf16: bool = False
    device: str = "cpu"


class Pair(Protocol):
    """A text to train on: what is given, and what follows."""

    @property
    def prompt(self) -> str:
        """What is given."""

    @property
    def reply(self) -> str:
        """What follows, with its leading space."""


class Muon(torch.optim.Optimizer):
    """Momentum whose updates are made orthogonal: learns the dictionary in a third of AdamW's steps here.

    Keller Jordan et al., "Muon: An optimizer for hidden layers in neural networks", 2024.
    """

    def __init__(
        self, groups: list[dict[str, object]], lr: float, momentum: float = 0.95, dtype: torch.dtype = torch.float32
    ):
        super().__init__(groups, {"lr": lr, "momentum": momentum})
        self.dtype = dtype

    @torch.no_grad()
    def step(self) -> None:  # type: ignore[override]
        """Updates every matrix once."""
        for group in self.param_groups:
            for weight in group["params"]:
                mean = self.state[weight].setdefault("mean", torch.zeros_like(weight))
                mean.mul_(group["momentum"]).add_(weight.grad)
                update = orthogonal((weight.grad + group["momentum"] * mean).to(self.dtype))
                rows, columns = weight.shape
                weight.add_(update, alpha=-group["lr"] * max(1.0, rows / columns) ** 0.5)


def orthogonal(matrix: Tensor) -> Tensor:
    """Brings all singular values near one, in five Newton-Schulz steps."""
    x = matrix / (matrix.norm() + 1e-7)
    is_tall = x.shape[0] > x.shape[1]
    x = x.T if is_tall else x
    for _ in range(5):
        gram = x @ x.T
        x = 3.4445 * x + (-4.7750 * gram + 2.0315 * gram @ gram) @ x
    return x.T if is_tall else x


@dataclass(frozen=True)
class Text:
    """A tokenized text: control token, prompt, reply, control token."""

    tokens: list[int]
    n_prompt: int


def tokenize(bpe: Bpe, prompt: str, reply: str) -> Text:
    """Tokens of a text. Prompt and reply meet at a colon and a space, which no token spans."""
    head = [bpe.bos, *bpe.encode(prompt)]
    return Text([*head, *bpe.encode(reply), bpe.eos], len(head))


def collate(texts: list[Text]) -> tuple[Tensor, Tensor]:
    """Pads texts: inputs (batch, position), and what follows each position, -1 where that is not a reply's token."""
    width = max(len(text.tokens) for text in texts) - 1
    inputs = torch.zeros(len(texts), width, dtype=torch.long)
    targets = torch.full((len(texts), width), -1)
    for row, text in enumerate(texts):
        n = len(text.tokens) - 1
        inputs[row, :n] = torch.tensor(text.tokens[:-1])
        targets[row, text.n_prompt - 1 : n] = torch.tensor(text.tokens[text.n_prompt :])
    return inputs, targets


def batches(texts: list[Text], size: int, rng: random.Random) -> list[list[Text]]:
    """Cuts texts into batches of about equal lengths; the order changes only within runs of 32 batches."""
    cut: list[list[Text]] = []
    for i in range(0, len(texts), 32 * size):
        run = sorted(texts[i : i + 32 * size], key=lambda text: len(text.tokens))
        part = [run[j : j + size] for j in range(0, len(run), size)]
        rng.shuffle(part)
        cut += part
    return cut


def train(model: Model, examples: Iterable[Pair], bpe: Bpe, config: TrainConfig, log: Callable[[str], None]) -> float:
    """Trains the model in one pass over fresh texts.

    Args:
        model: The model, fresh.
        examples: The texts, in order.
        bpe: The tokenizer.
        config: How.
        log: Takes a line every 50 steps.

    Returns:
        The mean loss (nats a token) of the last hundred steps.
    """
    texts = [tokenize(bpe, example.prompt, example.reply) for example in examples]
    work = batches(texts, config.batch, random.Random(config.seed))
    model.to(config.device)
    optimizers = _optimizers(model, config)
    losses: list[float] = []
    start = time.monotonic()
    for step, batch in enumerate(work):
        share = min((step + 1) / config.warmup, (1 - step / len(work)) / config.decay, 1.0)
        for optimizer in optimizers:
            for group in optimizer.param_groups:
                group["lr"] = group["peak"] * share
        losses.append(_step(model, optimizers, *(x.to(config.device) for x in collate(batch)), config.bf16))
        if (step + 1) % 50 == 0:
            mean = sum(losses[-50:]) / 50
            log(f"step {step + 1}/{len(work)} loss {mean:.4f} {time.monotonic() - start:.0f} s")
    model.to("cpu")
    return sum(losses[-100:]) / len(losses[-100:])


def train_or_load(
    model: Model, examples: Iterable[Pair], bpe: Bpe, config: TrainConfig, path: Path, log: Callable[[str], None]
) -> tuple[float, float]:
    """Trains the model and keeps its weights, or reads what an earlier run left.

    Args:
        model: The model, fresh.
        examples: The texts, in order; not drawn from where nothing is trained.
        bpe: The tokenizer.
        config: How.
        path: Where the weights are kept.
        log: Takes a line every 50 steps.

    Returns:
        The training loss, and the seconds an earlier run spent.
    """
    is_new = not path.exists()
    if is_new:
        start = time.monotonic()
        loss = train(model, examples, bpe, config, log)
        torch.save({"model": model.state_dict(), "loss": loss, "seconds": time.monotonic() - start}, path)
    saved = torch.load(path, weights_only=True)
    model.load_state_dict(saved["model"])
    return saved["loss"], 0.0 if is_new else saved["seconds"]


def _optimizers(model: Model, config: TrainConfig) -> list[torch.optim.Optimizer]:
    """Muon for the matrices of the blocks, AdamW for the rest; each group keeps its highest rate under `peak`."""
    inner = [weight for weight in model.blk.parameters() if weight.dim() == 2]
    norms = [weight for weight in model.parameters() if weight.dim() == 1]
    groups = [
        {"params": [model.token_embd.weight], "weight_decay": config.weight_decay, "peak": config.embedding_rate},
        {"params": [model.output.weight], "weight_decay": config.weight_decay, "peak": config.output_rate},
        {"params": norms, "weight_decay": 0.0, "peak": config.output_rate},
    ]
    return [
        Muon(
            [{"params": inner, "peak": config.muon_rate}],
            lr=config.muon_rate,
            dtype=torch.bfloat16 if config.bf16 else torch.float32,
        ),
        torch.optim.AdamW(groups, lr=config.output_rate, betas=(0.9, 0.98)),
    ]


def _step(model: Model, optimizers: list[torch.optim.Optimizer], inputs: Tensor, targets: Tensor, bf16: bool) -> float:
    with sdpa_kernel(SDPBackend.MATH) if bf16 else contextlib.nullcontext():
        with torch.autocast(inputs.device.type, dtype=torch.bfloat16, enabled=bf16):
            logits = model.output(model.hidden(inputs)[targets >= 0])
        loss = functional.cross_entropy(logits.float(), targets[targets >= 0])
        model.zero_grad(set_to_none=True)
        loss.backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    for optimizer in optimizers:
        optimizer.step()
    return float(loss.detach())
