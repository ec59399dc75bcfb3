"""The gate's MLP in PyTorch: learns the families of the base model's likely tokens from its hidden states.

The only module that imports torch for training; `train` imports it when it is needed.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn import functional

from .options import TrainOptions

Weights = dict[str, npt.NDArray[np.float32]]

_MAX_SHIFT = 0.2  # how far one step of AdamW may move a pre-activation, where the learning rate is ours to choose
_MOMENTS = ("exp_avg", "exp_avg_sq")


class GateModule(nn.Module):
    """z = W2 · relu(W1 · h), without biases; no hidden layer: z = W2 · h."""

    def __init__(self, n_embd: int, n_hidden: int, n_families: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(n_embd, n_hidden, bias=False) if n_hidden > 0 else None
        self.fc2 = nn.Linear(n_hidden or n_embd, n_families, bias=False)

    def activations(self, hidden: Tensor) -> Tensor:
        """What the last layer sees: (n, n_hidden), or the states themselves in a linear gate."""
        return hidden if self.fc1 is None else functional.relu(self.fc1(hidden))

    def forward(self, hidden: Tensor) -> Tensor:
        """States (n, n_embd) -> logits z (n, n_families)."""
        z: Tensor = self.fc2(self.activations(hidden))
        return z


def set_threads(n_threads: int) -> None:
    """How many CPU threads PyTorch may use in this process."""
    torch.set_num_threads(n_threads)


class Learner:
    """A gate and its optimizer.

    Attributes:
        step: Optimizer steps done.
        learning_rates: Of the layers, at the top of the schedule.
    """

    def __init__(
        self, n_families: int, options: TrainOptions, sample: npt.NDArray[np.float32], start: Weights | None = None
    ) -> None:
        """Set up a gate that is untrained, or goes on from another one.

        Without a learning rate in the options, each layer gets the one at which a step of AdamW, which moves every
        weight by about that much, moves its outputs by `_MAX_SHIFT`: hidden states differ in width and scale by
        orders of magnitude between models, and what is right for one explodes with another. The first layer then
        starts with outputs of about the same size for every model, too.

        Args:
            n_families: Number of families.
            options: Settings.
            sample: float32 (n, n_embd), states of the model; only their scale matters.
            start: Matrices to begin with, as `weights` gives them; None for random ones.
        """
        self.step = 0
        self._options = options
        n_embd = sample.shape[1]
        with torch.random.fork_rng(devices=()):  # the caller's random numbers stay as they are
            torch.manual_seed(options.seed)
            self._gate = GateModule(n_embd, options.hidden_width(n_embd), n_families)
        layers = [layer for layer in (self._gate.fc1, self._gate.fc2) if layer is not None]
        states = torch.from_numpy(sample)
        with torch.no_grad():
            if start is not None:
                self._load_weights(start)
            elif options.learning_rate is None:
                layers[0].weight /= states.square().mean().sqrt()
            if start is None and self._gate.fc1 is not None:
                # a unit that no state reaches would never learn: its negative is reached
                self._gate.fc1.weight[~(self._gate.fc1(states) > 0).any(0)] *= -1
            inputs = [states, self._gate.activations(states)][-len(layers) :]
        self.learning_rates = [
            _MAX_SHIFT / float(x.abs().sum(1).mean()) if options.learning_rate is None else options.learning_rate
            for x in inputs
        ]
        self._optimizer = torch.optim.AdamW(
            [{"params": [layer.weight], "lr": lr} for layer, lr in zip(layers, self.learning_rates)],
            weight_decay=options.weight_decay,
        )

    def update(self, hidden: npt.NDArray[np.float32], labels: npt.NDArray[np.float32], progress: float) -> float:
        """Take one step.

        Args:
            hidden: float32 (n, n_embd), at least one.
            labels: float32 (n, n_families), 0 to 1.
            progress: Share of the training that is done, 0 to 1.

        Returns:
            Binary cross-entropy, averaged over the families and summed over the states.
        """
        for group, rate in zip(self._optimizer.param_groups, self.learning_rates):
            group["lr"] = rate * self._options.rate_factor(self.step, progress)
        z = self._gate(torch.from_numpy(hidden))
        loss = functional.binary_cross_entropy_with_logits(z, torch.from_numpy(labels), reduction="sum") / z.shape[1]
        self._optimizer.zero_grad(set_to_none=True)
        (loss / len(hidden)).backward()
        self._optimizer.step()
        self.step += 1
        return float(loss.detach())

    @torch.no_grad()
    def predict(self, hidden: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        """float32 (n, n_embd) -> z, float32 (n, n_families)."""
        z: npt.NDArray[np.float32] = self._gate(torch.from_numpy(hidden)).numpy()
        return z

    def weights(self) -> Weights:
        """The matrices as `write_gate` wants them."""
        named = {"lcg.fc1.weight": self._gate.fc1, "lcg.fc2.weight": self._gate.fc2}
        return {name: layer.weight.detach().numpy().copy() for name, layer in named.items() if layer is not None}

    def is_finite(self) -> bool:
        """Whether training has not diverged."""
        return all(math.isfinite(float(weight.detach().sum())) for weight in self._gate.parameters())

    # ---- saving and going on ----

    def state(self) -> Weights:
        """Everything that another process needs to go on: weights and AdamW's moments."""
        tensors = self.weights()
        for name, weight in self._gate.named_parameters():
            for moment in _MOMENTS:
                value = self._optimizer.state[weight].get(moment)
                if value is not None:
                    tensors[f"{moment}.{name}"] = value.numpy().copy()
        return tensors

    def load_state(self, tensors: Mapping[str, npt.NDArray[np.float32]], step: int) -> None:
        """Go on where `state` was taken.

        Args:
            tensors: What it returned.
            step: `step` at that time.
        """
        self._load_weights(tensors)
        for name, weight in self._gate.named_parameters() if step > 0 else ():
            moments = {moment: torch.from_numpy(tensors[f"{moment}.{name}"]).clone() for moment in _MOMENTS}
            self._optimizer.state[weight] = {"step": torch.tensor(float(step)), **moments}
        self.step = step

    @torch.no_grad()
    def _load_weights(self, tensors: Mapping[str, npt.NDArray[np.float32]]) -> None:
        for name, weight in self._gate.named_parameters():
            weight.copy_(torch.from_numpy(tensors[f"lcg.{name}"]))
