"""The gate's MLP and its optimizer against AdamW written in NumPy, float64; the schedule by hand."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import numpy.typing as npt
import pytest

torch = pytest.importorskip("torch")

import oracle  # noqa: E402
from lcg_cpp import GateError  # noqa: E402
from lcg_cpp.train.learner import Learner, Weights  # noqa: E402
from lcg_cpp.train.options import PAPER_TRAINING, PRESETS, TrainOptions  # noqa: E402

N_EMBD, N_FAMILIES = 24, 4
OPTIONS = TrainOptions(n_hidden=16, learning_rate=0.01, schedule="constant", warmup=0)

Floats = npt.NDArray[np.float32]
Wide = npt.NDArray[np.float64]


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Lets PyTorch use one thread, so that the tests can share a machine."""
    n_threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(n_threads)


def states(n: int, seed: int = 0, scale: float = 1.0) -> Floats:
    """Hidden states."""
    return (scale * np.random.default_rng(seed).normal(0, 1, (n, N_EMBD))).astype(np.float32)


def labels_for(hidden: Floats, *, soft: bool = False) -> Floats:
    """Labels that can be learned."""
    z = hidden @ np.random.default_rng(99).normal(0, 1, (N_EMBD, N_FAMILIES))
    return (1 / (1 + np.exp(-z)) if soft else z > 0).astype(np.float32)


def learner_with(options: TrainOptions = OPTIONS, sample: Floats | None = None) -> Learner:
    """An untrained gate."""
    return Learner(N_FAMILIES, options, states(64, seed=1) if sample is None else sample)


# ---- NumPy ----


def gradients(weights: dict[str, Wide], hidden: Floats, labels: Floats) -> dict[str, Wide]:
    """Of the mean binary cross-entropy over positions and families."""
    x, y = hidden.astype(np.float64), labels.astype(np.float64)
    linear = "lcg.fc1.weight" not in weights
    before = x if linear else x @ weights["lcg.fc1.weight"].T
    active = before if linear else np.maximum(before, 0)
    z = active @ weights["lcg.fc2.weight"].T
    dz = (1 / (1 + np.exp(-z)) - y) / y.size
    found = {"lcg.fc2.weight": dz.T @ active}
    if not linear:
        found["lcg.fc1.weight"] = ((dz @ weights["lcg.fc2.weight"]) * (before > 0)).T @ x
    return found


class AdamW:
    """Loshchilov and Hutter, 2019, algorithm 2, with the usual betas and epsilon."""

    def __init__(self, weights: Weights, decay: float) -> None:
        self.weights = {name: value.astype(np.float64) for name, value in weights.items()}
        self.first = {name: np.zeros_like(value) for name, value in self.weights.items()}
        self.second = {name: np.zeros_like(value) for name, value in self.weights.items()}
        self.decay = decay
        self.step = 0

    def update(self, gradient: dict[str, Wide], rates: dict[str, float]) -> None:
        """Takes a step."""
        self.step += 1
        for name, rate in rates.items():
            g = gradient[name]
            self.first[name] = 0.9 * self.first[name] + 0.1 * g
            self.second[name] = 0.999 * self.second[name] + 0.001 * g * g
            first = self.first[name] / (1 - 0.9**self.step)
            second = self.second[name] / (1 - 0.999**self.step)
            self.weights[name] *= 1 - rate * self.decay
            self.weights[name] -= rate * first / (np.sqrt(second) + 1e-8)


def cross_entropy(z: Wide, labels: Floats) -> float:
    """Mean over families, sum over positions."""
    y = labels.astype(np.float64)
    sigmoid = 1 / (1 + np.exp(-z))
    return float(-(y * np.log(sigmoid) + (1 - y) * np.log(1 - sigmoid)).mean(1).sum())


# ---- steps ----


@pytest.mark.parametrize("n_hidden", [0, 1, 16])
@pytest.mark.parametrize("decay", [0.0, 0.1])
@pytest.mark.parametrize("soft", [False, True])
def test_steps_are_those_of_adamw(n_hidden: int, decay: float, soft: bool) -> None:
    options = replace(OPTIONS, n_hidden=n_hidden, weight_decay=decay, warmup=4, schedule="linear")
    learner = learner_with(options)
    wanted = AdamW(learner.weights(), decay)
    for step in range(8):
        hidden = states(20 + step, seed=10 + step)
        labels = labels_for(hidden, soft=soft)
        z = oracle.gate_forward({name: w.astype(np.float32) for name, w in wanted.weights.items()}, hidden)
        gradient = gradients(wanted.weights, hidden, labels)
        # warm-up 1/4, 2/4, 3/4, 1, 1 …; then linearly down with the progress
        rate = 0.01 * min(1, (step + 1) / 4) * (1 - step / 10)
        wanted.update(gradient, dict.fromkeys(wanted.weights, rate))
        loss = learner.update(hidden, labels, step / 10)
        assert loss == pytest.approx(cross_entropy(z, labels), rel=1e-4)
    assert learner.step == 8
    for name, weight in learner.weights().items():
        np.testing.assert_allclose(weight, wanted.weights[name], atol=2e-5, rtol=0)


def test_loss_is_that_of_torch() -> None:
    learner = learner_with()
    hidden = states(33)
    labels = labels_for(hidden)
    z = learner.predict(hidden)
    wanted = torch.nn.functional.binary_cross_entropy_with_logits(torch.from_numpy(z), torch.from_numpy(labels))
    assert learner.update(hidden, labels, 0.0) == pytest.approx(33 * float(wanted), rel=1e-5)


def test_it_learns() -> None:
    learner = learner_with()
    hidden = states(400)
    labels = labels_for(hidden)
    losses = [learner.update(hidden, labels, 0.0) / 400 for _ in range(200)]
    assert losses[0] == pytest.approx(math.log(2), abs=0.1)
    assert losses[-1] < 0.1
    assert np.mean((learner.predict(hidden) > 0) == (labels > 0.5)) > 0.98


# ---- the gate ----


@pytest.mark.parametrize(
    ("n_hidden", "shapes"),
    [
        (0, {"lcg.fc2.weight": (4, 24)}),
        (16, {"lcg.fc1.weight": (16, 24), "lcg.fc2.weight": (4, 16)}),
        (None, {"lcg.fc1.weight": (24, 24), "lcg.fc2.weight": (4, 24)}),
    ],
)
def test_weights_are_those_of_the_gate_file(n_hidden: int | None, shapes: dict[str, tuple[int, ...]]) -> None:
    learner = learner_with(replace(OPTIONS, n_hidden=n_hidden))
    weights = learner.weights()
    assert {name: weight.shape for name, weight in weights.items()} == shapes
    assert all(weight.dtype == np.float32 for weight in weights.values())
    hidden = states(30)
    np.testing.assert_allclose(learner.predict(hidden), oracle.gate_forward(weights, hidden), atol=1e-5)
    weights["lcg.fc2.weight"][:] = 0  # a copy
    assert learner.weights()["lcg.fc2.weight"].any()


def test_seed_makes_the_gate() -> None:
    first, again, other = (learner_with(replace(OPTIONS, seed=seed)).weights() for seed in (5, 5, 6))
    np.testing.assert_array_equal(first["lcg.fc1.weight"], again["lcg.fc1.weight"])
    assert (first["lcg.fc1.weight"] != other["lcg.fc1.weight"]).all()


def test_random_numbers_of_the_caller_are_left_alone() -> None:
    torch.manual_seed(1)
    wanted = torch.rand(3)
    torch.manual_seed(1)
    learner_with()
    assert torch.equal(torch.rand(3), wanted)


def test_numbers_that_are_none_are_noticed() -> None:
    learner = learner_with(replace(OPTIONS, learning_rate=1e6, weight_decay=1e6))
    hidden = states(20)
    assert learner.is_finite()
    for _ in range(4):
        learner.update(hidden, labels_for(hidden), 0.0)
    assert not learner.is_finite()


# ---- checkpoints ----


@pytest.mark.parametrize("n_hidden", [0, 16])
@pytest.mark.parametrize("n_before", [0, 1, 7])
def test_learning_goes_on_from_a_state_to_the_same_weights(n_hidden: int, n_before: int) -> None:
    options = replace(OPTIONS, n_hidden=n_hidden, warmup=5, schedule="cosine", learning_rate=None)

    def learn(learner: Learner, steps: range) -> None:
        for step in steps:
            hidden = states(20, seed=step)
            learner.update(hidden, labels_for(hidden), step / 12)

    whole, first = learner_with(options), learner_with(options)
    learn(whole, range(12))
    learn(first, range(n_before))
    state = first.state()
    learn(first, range(n_before, 12))  # the state is no view on what goes on
    second = learner_with(options)
    second.load_state(state, n_before)
    assert second.step == n_before
    learn(second, range(n_before, 12))
    for name, weight in whole.state().items():
        np.testing.assert_array_equal(second.state()[name], weight)
        np.testing.assert_array_equal(first.state()[name], weight)
    assert set(whole.state()) == set(second.state())
    assert all(tensor.dtype == np.float32 for tensor in state.values())


# ---- the learning rate ----


@pytest.mark.parametrize(
    ("schedule", "factors"),
    [
        ("constant", [1, 1, 1, 1, 1]),
        ("linear", [1, 0.75, 0.5, 0.02, 0.02]),
        ("cosine", [1, (1 + math.sqrt(0.5)) / 2, 0.5, 0.02, 0.02]),
    ],
)
def test_schedules(schedule: str, factors: list[float]) -> None:
    options = TrainOptions(schedule=schedule, warmup=0)
    found = [options.rate_factor(1000, progress) for progress in (0, 0.25, 0.5, 0.99, 1)]
    assert found == pytest.approx(factors)


def test_warm_up() -> None:
    options = TrainOptions(schedule="linear", warmup=4)
    assert [options.rate_factor(step, 0) for step in range(6)] == pytest.approx([0.25, 0.5, 0.75, 1, 1, 1])
    assert options.rate_factor(1, 0.5) == pytest.approx(0.25)
    assert options.rate_factor(0, 1) == pytest.approx(0.25 * 0.02)


def test_rate_follows_the_schedule() -> None:
    # the first step of AdamW moves every weight by the rate, whatever its gradient
    for progress, factor in ((0.0, 1.0), (0.5, 0.5), (1.0, 0.02)):
        learner = learner_with(replace(OPTIONS, schedule="linear", weight_decay=0.0, n_hidden=0))
        before = learner.weights()["lcg.fc2.weight"]
        hidden = states(50)
        learner.update(hidden, labels_for(hidden), progress)
        moved = np.abs(learner.weights()["lcg.fc2.weight"] - before)
        np.testing.assert_allclose(moved, 0.01 * factor, rtol=1e-2)


def test_learning_rate_that_was_given_is_that_of_every_layer() -> None:
    assert learner_with(replace(OPTIONS, learning_rate=0.0125)).learning_rates == [0.0125, 0.0125]
    assert learner_with(replace(OPTIONS, learning_rate=0.0125, n_hidden=0)).learning_rates == [0.0125]


@pytest.mark.parametrize("scale", [1e-3, 1.0, 250.0])
def test_learning_rate_fits_the_scale_of_the_states(scale: float) -> None:
    options = replace(OPTIONS, learning_rate=None, weight_decay=0.0)
    sample = states(200, seed=1, scale=scale)
    learner = learner_with(options, sample)
    first = learner.weights()
    # 0.2, divided by the mean absolute sum of what the layer multiplies
    assert learner.learning_rates[0] == pytest.approx(0.2 / np.abs(sample).sum(1).mean(), rel=1e-5)
    active = np.maximum(sample @ first["lcg.fc1.weight"].T, 0)
    assert learner.learning_rates[1] == pytest.approx(0.2 / active.sum(1).mean(), rel=1e-4)
    # so that no pre-activation moves further in a step
    learner.update(sample, labels_for(sample), 0.0)
    moved = sample @ (learner.weights()["lcg.fc1.weight"] - first["lcg.fc1.weight"]).T
    assert np.abs(moved).mean() < 0.2
    linear = learner_with(replace(options, n_hidden=0), sample)
    assert linear.learning_rates == [learner.learning_rates[0]]


def test_gate_begins_alike_on_states_of_any_scale() -> None:
    options = replace(OPTIONS, learning_rate=None)
    small, large = (learner_with(options, states(64, seed=1, scale=scale)) for scale in (1.0, 1000.0))
    np.testing.assert_allclose(small.predict(states(9)), large.predict(states(9, scale=1000.0)), rtol=1e-4, atol=1e-6)


def test_hidden_layer_that_no_state_reaches_still_learns() -> None:
    # states that all lie on one side, as those of real models do, can leave a narrow layer at zero
    side = np.abs(states(64))
    for seed in range(40):
        learner = learner_with(replace(OPTIONS, n_hidden=1, learning_rate=None, seed=seed), side)
        assert all(0 < rate < math.inf for rate in learner.learning_rates)


# ---- options ----


@pytest.mark.parametrize(
    ("field", "value", "said"),
    [
        ("n_hidden", -1, "`n_hidden` is -1, expected 0 to 65536"),
        ("top_k", -1, "`top_k` is -1, expected 0 to 4194304"),
        ("top_p", 0.0, "`top_p` is 0.0, expected more than 0 and at most 1"),
        ("top_p", 1.01, "`top_p` is 1.01, expected more than 0 and at most 1"),
        ("top_p", math.nan, "`top_p` is nan, expected more than 0 and at most 1"),
        ("norm", "l1", "`norm` is 'l1', expected one of token, relative, none"),
        ("positions", "prompt", "`positions` is 'prompt', expected one of all, reply"),
        ("schedule", "step", "`schedule` is 'step', expected one of cosine, linear, constant"),
        ("rules", "mine", "`rules` is 'mine', expected one of default, paper, scripts"),
        ("batch", 0, "`batch` is 0, expected 1 to 1048576"),
        ("passes", 0, "`passes` is 0, expected 1 to 100"),
        ("warmup", -1, "`warmup` is -1, expected 0 to 1073741824"),
        ("n_ctx", 1, "`n_ctx` is 1, expected 2 to 4194304"),
        ("n_tokens", 0, "`n_tokens` is 0, expected 1 to 1125899906842624"),
        ("seed", -1, "`seed` is -1, expected 0 to 9223372036854775807"),
        ("learning_rate", 0.0, "`learning_rate` is 0.0, expected more than 0 and at most 1e+06"),
        ("learning_rate", math.inf, "`learning_rate` is inf, expected more than 0 and at most 1e+06"),
        ("learning_rate", math.nan, "`learning_rate` is nan, expected more than 0 and at most 1e+06"),
        ("minutes", 0.0, "`minutes` is 0.0, expected more than 0"),
        ("minutes", math.nan, "`minutes` is nan, expected more than 0"),
        ("weight_decay", -0.1, "`weight_decay` is -0.1, expected 0 or a positive number"),
        ("weight_decay", math.nan, "`weight_decay` is nan, expected 0 or a positive number"),
        ("held_out", 1.0, "`held_out` is 1.0, expected 0 to less than 1"),
        ("max_missed", -0.1, "`max_missed` is -0.1, expected 0 to 1"),
        ("max_missed", math.nan, "`max_missed` is nan, expected 0 to 1"),
        ("held_out", -0.1, "`held_out` is -0.1, expected 0 to less than 1"),
    ],
)
def test_settings_out_of_range_are_refused(field: str, value: object, said: str) -> None:
    with pytest.raises(GateError) as refused:
        TrainOptions(**{field: value})  # type: ignore[arg-type]
    assert str(refused.value) == said


def test_paper_preset_is_the_papers() -> None:
    # section 3.2 and its reference's trainer: full width, top-k 20, top-p 0.95, ‖e‖, AdamW at 2e-5, 100 steps of
    # warm-up, decay 0.01, one epoch, 2,048 tokens a text, all of its tokens
    paper = PRESETS["paper"]
    assert paper is PAPER_TRAINING
    assert (paper.hidden_width(4096), paper.top_k, paper.top_p, paper.norm) == (4096, 20, 0.95, "token")
    assert (paper.learning_rate, paper.warmup, paper.weight_decay) == (2e-5, 100, 0.01)
    assert (paper.passes, paper.n_tokens, paper.n_ctx) == (1, None, 2048)
    assert (paper.positions, paper.soft, paper.max_missed) == ("all", False, 1)


@pytest.mark.parametrize(
    ("n_states", "passes"),
    [(512_000, 3), (170_000, 4), (100_000, 6), (51_200, 10), (1000, 20), (0, 20)],
)
def test_few_states_are_learned_from_more_often(n_states: int, passes: int) -> None:
    # 1,000 steps of 512 states, with 3 to 20 passes
    assert TrainOptions().passes_for(n_states) == passes
    assert TrainOptions(passes=7).passes_for(n_states) == 7


@pytest.mark.parametrize(
    ("share", "n_texts", "wanted"),
    [
        *((None, 10_000, 500), (None, 100_000, 512), (None, 2000, 128), (None, 640, 128)),
        *((None, 200, 40), (None, 100, 20), (None, 4, 1)),
        *((0.02, 1000, 20), (0.02, 10, 1), (0.02, 100_000, 512), (0.0, 1000, 0), (None, 1, 0)),
    ],
)
def test_texts_that_are_measured_on(share: float | None, n_texts: int, wanted: int) -> None:
    assert TrainOptions(held_out=share).n_held_out(n_texts) == wanted


@pytest.mark.parametrize(("n_hidden", "width"), [(0, 0), (16, 16), (None, 64)])
def test_width_of_the_hidden_layer(n_hidden: int | None, width: int) -> None:
    assert TrainOptions(n_hidden=n_hidden).hidden_width(64) == width
