"""The demo's gates: norm-adjusted self-distillation (paper, section 3.2) from the frozen base model."""

from __future__ import annotations

import random
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional

from .corpus import Corpus
from .model import Model
from .tokenizer import Bpe
from .training import batches, collate, tokenize

N_FAMILIES = 4


@dataclass(frozen=True)
class GateRecipe:
    """How a gate is made.

    Attributes:
        n_hidden: Width of the hidden layer, 0 for a linear gate; the paper's is the model's width.
        top_k: At most so many tokens of the adjusted distribution make a label.
        top_p: And only until they hold this much probability.
        norm: What a token's logit is divided by: `token` the norm of its output row (the paper), `none` nothing (the
            paper's ablation).
    """

    n_hidden: int
    top_k: int = 20
    top_p: float = 0.95
    norm: str = "token"

    @property
    def name(self) -> str:
        """Short name, for tables and files."""
        return f"h{self.n_hidden}-{self.norm}-{self.top_k}-{self.top_p}"


@dataclass(frozen=True)
class GateTraining:
    """How all gates are trained; rates and steps suit a gate that sees thousands of texts, not the paper's millions."""

    n_texts: int = 8000
    batch: int = 512
    epochs: int = 3
    learning_rate: float = 2e-3
    warmup: int = 100
    weight_decay: float = 0.01
    seed: int = 0


class Gate(nn.Module):
    """z = W2 · relu(W1 · h), without biases; the reference's names in the checkpoint."""

    def __init__(self, n_embd: int, n_hidden: int):
        super().__init__()
        self.code_switch_pre = nn.Linear(n_embd, n_hidden, bias=False) if n_hidden else None
        self.code_switch_head = nn.Linear(n_hidden or n_embd, N_FAMILIES, bias=False)

    def forward(self, hidden: Tensor) -> Tensor:
        """States (n, n_embd) -> logits z (n, families)."""
        if self.code_switch_pre is not None:
            hidden = functional.relu(self.code_switch_pre(hidden))
        return self.code_switch_head(hidden)


@torch.no_grad()
def reply_states(model: Model, bpe: Bpe, corpus: Corpus, n_texts: int) -> Tensor:
    """The states (n, n_embd) from which each token of each reply is predicted, teacher forced."""
    examples = (corpus.draw() for _ in range(n_texts))
    texts = [tokenize(bpe, example.prompt, example.reply) for example in examples]
    states = []
    for batch in batches(texts, 96, random.Random(0)):
        inputs, targets = collate(batch)
        states.append(model.hidden(inputs)[targets >= 0])
    return torch.cat(states)


@torch.no_grad()
def family_labels(states: Tensor, output: Tensor, families: Tensor, recipe: GateRecipe) -> Tensor:
    """Which families the model itself would allow: those of its likely tokens, after the norm adjustment.

    Args:
        states: (n, n_embd).
        output: The output matrix (n_vocab, n_embd).
        families: The family of each token (n_vocab,).
        recipe: Norm, top-k and top-p.

    Returns:
        0 or 1, float32 (n, families).
    """
    norms = output.norm(dim=1)
    divisor = {"none": torch.ones_like(norms), "token": norms}[recipe.norm]
    labels = []
    for chunk in states.split(4096):
        probabilities = ((chunk @ output.T) / divisor).softmax(-1)
        best, ids = probabilities.topk(recipe.top_k, -1)
        kept = best.cumsum(-1) - best < recipe.top_p
        held = functional.one_hot(families[ids], N_FAMILIES) * kept.unsqueeze(-1)
        labels.append(held.amax(1).float())
    return torch.cat(labels)


def train_gate(states: Tensor, labels: Tensor, n_hidden: int, training: GateTraining) -> tuple[Gate, float]:
    """Trains a gate on its labels with binary cross-entropy.

    Returns:
        The gate, and its mean loss over all states at the end.
    """
    torch.manual_seed(training.seed)
    gate = Gate(states.shape[1], n_hidden)
    optimizer = torch.optim.AdamW(gate.parameters(), lr=training.learning_rate, weight_decay=training.weight_decay)
    n_steps = training.epochs * -(-len(states) // training.batch)
    order = (rows for _ in range(training.epochs) for rows in torch.randperm(len(states)).split(training.batch))
    for step, rows in enumerate(order):
        share = min((step + 1) / training.warmup, max(1 - step / n_steps, 0.05))
        optimizer.param_groups[0]["lr"] = training.learning_rate * share
        loss = functional.binary_cross_entropy_with_logits(gate(states[rows]), labels[rows])
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
    with torch.no_grad():
        loss = functional.binary_cross_entropy_with_logits(gate(states), labels)
    return gate, float(loss)


def save_gate(gate: Gate, path: Path) -> None:
    """Writes the checkpoint: `code_switch_pre.weight` (not for a linear gate) and `code_switch_head.weight`."""
    save_file({name: weight.detach().contiguous() for name, weight in gate.state_dict().items()}, str(path))
