"""The fast up-sampling and pooling are flax's own operations, in value and gradient."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from test_layers import assert_trees_close, value_and_gradients

from jaxseg.models.resampling import UpConv, max_pool, mean_pool, pixel_shuffle, repeat

# A window for each number of axes, and thin axes that stay as they are.
WINDOWS = [(2,), (2, 2), (2, 2, 2), (1, 2, 2), (3, 1)]
windows = pytest.mark.parametrize("window", WINDOWS, ids=str)


def small(window):
    """Return the shape of a small image with 3 channels."""
    return (2, *(2, 3, 4)[: len(window)], 3)


def large(window):
    """Return the shape of an image that the window makes small."""
    return (2, *(s * w for s, w in zip(small(window)[1:-1], window, strict=True)), 3)


@windows
def test_upconv_is_flax_conv_transpose(window):
    shape = small(window)
    x = jax.random.normal(jax.random.key(0), shape)
    kernel = jax.random.normal(jax.random.key(1), (*window, shape[-1], 5))
    params = {"kernel": kernel, "bias": jnp.arange(5.0)}
    skip = jax.random.normal(jax.random.key(2), large(window))
    ours, flaxs = UpConv(5, window), nn.ConvTranspose(5, window, strides=window)

    def behind_the_skip(params, skip, x):
        return jnp.concatenate([skip, flaxs.apply({"params": params}, x)], axis=-1)

    expected = value_and_gradients(behind_the_skip, params, skip, x)
    assert expected[0].shape == (*large(window)[:-1], 3 + 5)
    actual = value_and_gradients(lambda p, s, x: ours.apply({"params": p}, s, x), params, skip, x)
    assert_trees_close(actual, expected)


@pytest.mark.parametrize("window", [(2, 2), (1, 2, 2)], ids=str)
def test_upconv_starts_as_flax_conv_transpose(window):
    """The same key gives the same kernel, hence the same spread of the initial weights."""
    x, skip = jnp.zeros(small(window)), jnp.zeros(large(window))
    ours, flaxs = UpConv(5, window), nn.ConvTranspose(5, window, strides=window)
    make = lambda layer, *a: jax.jit(layer.init)(jax.random.key(3), *a)  # noqa: E731
    assert_trees_close(make(ours, skip, x), make(flaxs, x))


@windows
def test_max_pool_is_flax_max_pool(window):
    """Ties, which are common after ReLU, give the gradient to the same element."""
    rng, shape = np.random.default_rng(0), large(window)
    distinct, few = rng.normal(size=shape), rng.integers(0, 3, shape)
    x = np.concatenate([distinct, few, np.maximum(distinct - 0.5, 0)], dtype=np.float32)
    expected = value_and_gradients(lambda x: nn.max_pool(x, window, strides=window), x)
    assert expected[0].shape[1:] == small(window)[1:]
    actual = value_and_gradients(lambda x: max_pool(x, window), x)
    jax.tree.map(np.testing.assert_array_equal, actual, expected)


def test_max_pool_gradient_by_hand():
    """Window [1 5; 5 2]: the first 5 in row-major order takes it all."""
    x = jnp.array([[1.0, 5.0], [5.0, 2.0]]).reshape(1, 2, 2, 1)
    gradient = jax.grad(lambda x: 3 * max_pool(x, (2, 2)).sum())(x)
    np.testing.assert_array_equal(gradient.reshape(2, 2), [[0, 3], [0, 0]])
    gradient = jax.grad(lambda x: 3 * max_pool(x, (1, 2)).sum())(x)
    np.testing.assert_array_equal(gradient.reshape(2, 2), [[0, 3], [3, 0]])


@windows
def test_mean_pool_is_flax_avg_pool(window):
    x = jax.random.normal(jax.random.key(0), large(window))
    expected = value_and_gradients(lambda x: nn.avg_pool(x, window, strides=window), x)
    assert_trees_close(value_and_gradients(lambda x: mean_pool(x, window), x), expected)


@pytest.mark.parametrize("pool", [max_pool, mean_pool])
@pytest.mark.parametrize(
    "size, window",
    [((3,), (2,)), ((4, 5), (2, 2)), ((5, 4), (2, 2)), ((4, 4, 1), (2, 2, 2)), ((4, 4), (2, 3))],
)
def test_pooling_of_a_size_that_does_not_divide_raises(pool, size, window):
    x = jnp.zeros((1, *size, 2))
    with pytest.raises(ValueError, match="multiples of the window"):
        pool(x, window)
    with pytest.raises(ValueError, match="multiples of the window"):
        jax.grad(lambda x: pool(x, window).sum())(x)


@windows
def test_repeat_is_numpy_repeat(window):
    x = np.random.default_rng(0).normal(size=small(window)).astype(np.float32)
    expected = x
    for axis, length in enumerate(window, 1):
        expected = np.repeat(expected, length, axis=axis)
    actual = jax.jit(repeat, static_argnums=1)(x, window)
    np.testing.assert_array_equal(actual, expected)


def test_pixel_shuffle_by_hand():
    """4 channels become the rows of a 2 x 2 window, or two slices of two columns each."""
    x = jnp.array([[0.0, 1.0, 2.0, 3.0], [4.0, 5.0, 6.0, 7.0]]).reshape(1, 1, 2, 4)
    shuffled = pixel_shuffle(x, (2, 2))
    np.testing.assert_array_equal(shuffled.reshape(2, 4), [[0, 1, 4, 5], [2, 3, 6, 7]])
    shuffled = pixel_shuffle(x.reshape(1, 1, 1, 2, 4), (2, 1, 2))
    np.testing.assert_array_equal(shuffled.reshape(2, 4), [[0, 1, 4, 5], [2, 3, 6, 7]])
