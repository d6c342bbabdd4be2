"""Learning rate, weight decay and clipping, with numbers worked by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxseg.config import Optimizer
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
    "cosine, warmup, step, expected",
    [
        (False, 100, 0, 0.0),
        (False, 100, 25, 0.25),
        (False, 100, 100, 1.0),
        (False, 100, 1000, 1.0),
        (False, 0, 0, 1.0),
        (False, 0, 1000, 1.0),
        (True, 100, 0, 0.0),
        (True, 100, 50, 0.5),
        (True, 100, 100, 1.0),
        (True, 100, 400, 0.75),  # a third of the decay: (1 + cos(pi / 3)) / 2
        (True, 100, 550, 0.5),  # half of it
        (True, 100, 1000, 0.0),
        (True, 100, 2000, 0.0),
        (True, 0, 0, 1.0),
        (True, 0, 500, 0.5),
        (True, 0, 1000, 0.0),
    ],
)
def test_learning_rate(cosine, warmup, step, expected):
    config = Optimizer(learning_rate=0.3, warmup_steps=warmup, cosine=cosine)
    schedule = learning_rate_schedule(config, num_steps=1000)
    np.testing.assert_allclose(schedule(step), 0.3 * expected, rtol=1e-5, atol=1e-7)


def test_warm_up_longer_than_the_run_still_rises():
    schedule = learning_rate_schedule(Optimizer(1.0, warmup_steps=100, cosine=True), 10)
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
