"""Learning rate, weight decay and clipping, with numbers worked by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxseg.config import Optimizer
from jaxseg.errors import UserError
from jaxseg.training.optimizer import is_kernel, learning_rate_schedule, make_optimizer

PARAMS = {
    "conv": {"kernel": jnp.full((3, 3, 2, 2), 2.0), "bias": jnp.full(2, 2.0)},
    "norm": {"scale": jnp.full(2, 2.0), "bias": jnp.full(2, 2.0)},
}


def one_update(config, gradients, steps=1):
    tx = make_optimizer(config, num_steps=100)
    state = tx.init(PARAMS)
    for _ in range(steps):
        updates, state = jax.jit(tx.update)(gradients, state, PARAMS)
    return updates, state


@pytest.mark.parametrize(
    "decay, warmup, step, expected",
    [
        ("", 100, 0, 0.0),
        ("", 100, 25, 0.25),
        ("", 100, 100, 1.0),
        ("", 100, 1000, 1.0),
        ("", 0, 0, 1.0),
        ("", 0, 1000, 1.0),
        ("cosine", 100, 0, 0.0),
        ("cosine", 100, 50, 0.5),
        ("cosine", 100, 100, 1.0),
        ("cosine", 100, 400, 0.75),  # a third of the decay: (1 + cos(pi / 3)) / 2
        ("cosine", 100, 550, 0.5),  # half of it
        ("cosine", 100, 1000, 0.0),
        ("cosine", 100, 2000, 0.0),
        ("cosine", 0, 0, 1.0),
        ("cosine", 0, 500, 0.5),
        ("cosine", 0, 1000, 0.0),
        ("poly", 100, 50, 0.5),
        ("poly", 100, 100, 1.0),
        ("poly", 100, 550, 0.535887),  # half of it: 0.5^0.9
        ("poly", 0, 0, 1.0),
        ("poly", 0, 750, 0.287175),  # a quarter left: 0.25^0.9
        ("poly", 0, 1000, 0.0),
        ("poly", 0, 2000, 0.0),
    ],
)
def test_learning_rate(decay, warmup, step, expected):
    decays = {decay: True} if decay else {}
    config = Optimizer(learning_rate=0.3, warmup_steps=warmup, **decays)
    schedule = learning_rate_schedule(config, num_steps=1000)
    np.testing.assert_allclose(schedule(step), 0.3 * expected, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("decay", ["cosine", "poly"])
def test_warm_up_longer_than_the_run_still_rises(decay):
    config = Optimizer(1.0, warmup_steps=100, **{decay: True})
    schedule = learning_rate_schedule(config, 10)
    np.testing.assert_allclose([schedule(s) for s in (0, 5, 10)], [0, 0.05, 0.1], atol=1e-6)


def test_only_kernels_count_as_kernels():
    assert is_kernel(PARAMS) == {
        "conv": {"kernel": True, "bias": False},
        "norm": {"scale": False, "bias": False},
    }


def test_decay_shrinks_kernels_only():
    """Without a gradient: -learning rate * decay * weight = -0.1 * 0.5 * 2 for kernels."""
    config = Optimizer(learning_rate=0.1, warmup_steps=0, weight_decay=0.5)
    updates, _ = one_update(config, jax.tree.map(jnp.zeros_like, PARAMS))
    np.testing.assert_allclose(updates["conv"]["kernel"], -0.1, rtol=1e-6)
    for untouched in (updates["conv"]["bias"], *updates["norm"].values()):
        np.testing.assert_array_equal(untouched, 0)


def test_first_step_has_the_size_of_the_learning_rate():
    """Adam's first step is -learning rate * sign of the gradient, and 0 in warm-up's first."""
    gradients = jax.tree.map(lambda p: -3.0 * jnp.ones_like(p), PARAMS)
    updates, _ = one_update(Optimizer(0.1, warmup_steps=0, weight_decay=0.0), gradients)
    jax.tree.map(lambda u: np.testing.assert_allclose(u, 0.1, rtol=1e-5), updates)
    updates, _ = one_update(Optimizer(0.1, warmup_steps=10, weight_decay=0.0), gradients)
    jax.tree.map(lambda u: np.testing.assert_array_equal(u, 0), updates)
    updates, _ = one_update(Optimizer(0.1, warmup_steps=10, weight_decay=0.0), gradients, steps=6)
    jax.tree.map(lambda u: np.testing.assert_allclose(u, 0.05, rtol=1e-4), updates)


def test_sgd_has_nesterov_momentum_and_decays_kernels():
    """By hand: the velocity is g, then 1.9 g; the step is rate (g + 0.9 velocity)."""
    config = Optimizer(0.1, name="sgd", momentum=0.9, warmup_steps=0, weight_decay=0.5, clip_norm=0)
    gradients = jax.tree.map(jnp.ones_like, PARAMS)
    for steps, factor in ((1, 1 + 0.9), (2, 1 + 0.9 * 1.9)):
        updates, _ = one_update(config, gradients, steps)
        np.testing.assert_allclose(updates["norm"]["scale"], -0.1 * factor, rtol=1e-6)
        # The decay adds 0.5 x 2 to the gradient of a kernel.
        np.testing.assert_allclose(updates["conv"]["kernel"], -0.1 * 2 * factor, rtol=1e-6)


def test_sgd_clips_the_gradient_before_the_decay():
    config = Optimizer(0.1, name="sgd", momentum=0.0, warmup_steps=0, weight_decay=0.5)
    gradients = jax.tree.map(lambda p: 100 * jnp.ones_like(p), PARAMS)
    updates, _ = one_update(config, gradients)
    clipped = 1 / np.sqrt(42)
    np.testing.assert_allclose(updates["norm"]["bias"], -0.1 * clipped, rtol=1e-5)
    np.testing.assert_allclose(updates["conv"]["kernel"], -0.1 * (clipped + 1), rtol=1e-5)


@pytest.mark.parametrize(
    "setting, values",
    [
        ("name", {"name": "adam"}),
        ("momentum", {"momentum": 1.0}),
        ("poly", {"poly": True, "cosine": True}),
    ],
)
def test_settings_that_raise(setting, values):
    with pytest.raises(UserError, match=f"optimizer.{setting}"):
        Optimizer(**values)


@pytest.mark.parametrize(
    "clip_norm, size, factor",
    [
        (1.0, 1.0, 1 / np.sqrt(42)),  # 42 elements of 1: norm sqrt(42)
        (1.0, 100.0, 0.01 / np.sqrt(42)),
        (1.0, 0.1, 1.0),  # norm 0.65: untouched
        (0.0, 100.0, 1.0),  # off
    ],
)
def test_clipping_by_the_norm_of_all_gradients(clip_norm, size, factor):
    """Seen in Adam's first moment, 0.1 of the clipped gradient."""
    gradients = jax.tree.map(lambda p: size * jnp.ones_like(p), PARAMS)
    _, state = one_update(Optimizer(clip_norm=clip_norm, warmup_steps=0), gradients)
    moment = optax.tree.get(state, "mu")
    jax.tree.map(lambda m: np.testing.assert_allclose(m, 0.1 * size * factor, rtol=1e-5), moment)
