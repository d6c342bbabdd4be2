"""The fast up-sampling and pooling are flax's own operations, in value and gradient."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxseg.models.layers import UpConv, convolve, max_pool, pixel_shuffle, repeat

SIZES = {1: (2, 6, 3), 2: (2, 4, 6, 3), 3: (1, 2, 4, 6, 2)}
ranks = pytest.mark.parametrize("rank", SIZES)


def value_and_gradients(function, *arguments):
    """Return the value and the gradients against one fixed random cotangent."""

    def run(*arguments):
        value, pull_back = jax.vjp(function, *arguments)
        cotangent = jax.random.normal(jax.random.key(7), value.shape)
        return value, pull_back(cotangent)

    return jax.jit(run)(*arguments)


def assert_trees_close(left, right, rtol=1e-5, atol=1e-5):
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol, atol), left, right)


@ranks
def test_upconv_is_flax_conv_transpose(rank):
    shape = SIZES[rank]
    x = jax.random.normal(jax.random.key(0), shape)
    kernel = jax.random.normal(jax.random.key(1), (2,) * rank + (shape[-1], 5))
    params = {"kernel": kernel, "bias": jnp.arange(5.0)}
    two = (2,) * rank
    ours, flaxs = UpConv(5), nn.ConvTranspose(5, two, strides=two)
    expected = value_and_gradients(lambda p, x: flaxs.apply({"params": p}, x), params, x)
    assert expected[0].shape == (shape[0], *(2 * s for s in shape[1:-1]), 5)
    actual = value_and_gradients(lambda p, x: ours.apply({"params": p}, x), params, x)
    assert_trees_close(actual, expected)


@ranks
@pytest.mark.parametrize("features", [1, 7])
def test_convolution_of_single_pixels_is_flax_conv(rank, features):
    """Fewer and more outputs than inputs, since the gradient transposes the smaller array."""
    x = jax.random.normal(jax.random.key(0), SIZES[rank])
    kernel = jax.random.normal(jax.random.key(1), (1,) * rank + (x.shape[-1], features))
    params = {"kernel": kernel, "bias": jnp.arange(1.0, features + 1)}

    def run(**how):
        layer = nn.Conv(features, (1,) * rank, **how)
        return value_and_gradients(lambda p, x: layer.apply({"params": p}, x), params, x)

    expected = run()
    assert expected[0].shape == (*x.shape[:-1], features)
    assert_trees_close(run(conv_general_dilated=convolve), expected)


def test_convolution_of_single_pixels_with_a_stride_skips_pixels():
    x, kernel = jnp.arange(18.0).reshape(1, 3, 3, 2), jnp.ones((1, 1, 2, 4))
    order = ("NHWC", "HWIO", "NHWC")
    strided = convolve(x, kernel, (2, 2), "SAME", dimension_numbers=order)
    np.testing.assert_array_equal(strided[0, ..., 0], [[1, 9], [25, 33]])


def test_upconv_starts_as_flax_conv_transpose():
    """The same key gives the same kernel, hence the same spread of the initial weights."""
    x = jnp.zeros((1, 4, 4, 3))
    make = lambda layer: jax.jit(layer.init)(jax.random.key(3), x)  # noqa: E731
    assert_trees_close(make(UpConv(5)), make(nn.ConvTranspose(5, (2, 2), strides=(2, 2))))


@ranks
@pytest.mark.parametrize("values", ["distinct", "integers", "after_relu"])
def test_max_pool_is_flax_max_pool(rank, values):
    """Ties, which are common after ReLU, give the gradient to the same element."""
    x = {
        "distinct": lambda r: r.normal(size=SIZES[rank]),
        "integers": lambda r: r.integers(0, 3, SIZES[rank]),
        "after_relu": lambda r: np.maximum(r.normal(size=SIZES[rank]) - 0.5, 0),
    }[values](np.random.default_rng(0)).astype(np.float32)
    two = (2,) * rank
    expected = value_and_gradients(lambda x: nn.max_pool(x, two, strides=two), x)
    actual = value_and_gradients(max_pool, x)
    jax.tree.map(np.testing.assert_array_equal, actual, expected)


def test_max_pool_gradient_by_hand():
    """Window [1 5; 5 2]: the first 5 in row-major order takes it all."""
    x = jnp.array([[1.0, 5.0], [5.0, 2.0]]).reshape(1, 2, 2, 1)
    gradient = jax.grad(lambda x: 3 * max_pool(x).sum())(x)
    np.testing.assert_array_equal(gradient.reshape(2, 2), [[0, 3], [0, 0]])


@pytest.mark.parametrize("size", [(3,), (4, 5), (5, 4), (4, 4, 1)])
def test_max_pool_of_odd_sizes_raises(size):
    x = jnp.zeros((1, *size, 2))
    with pytest.raises(ValueError, match="even sizes"):
        max_pool(x)
    with pytest.raises(ValueError, match="even sizes"):
        jax.grad(lambda x: max_pool(x).sum())(x)


@ranks
def test_repeat_is_numpy_repeat(rank):
    x = np.random.default_rng(0).normal(size=SIZES[rank]).astype(np.float32)
    expected = x
    for axis in range(1, rank + 1):
        expected = np.repeat(expected, 2, axis=axis)
    np.testing.assert_array_equal(jax.jit(repeat)(x), expected)


def test_pixel_shuffle_by_hand():
    """4 channels become the rows of a 2 x 2 window."""
    x = jnp.array([[0.0, 1.0, 2.0, 3.0], [4.0, 5.0, 6.0, 7.0]]).reshape(1, 1, 2, 4)
    np.testing.assert_array_equal(pixel_shuffle(x, 2).reshape(2, 4), [[0, 1, 4, 5], [2, 3, 6, 7]])
