"""The fast convolution of single pixels is flax's own, in value and gradient."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxseg.models.layers import convolve

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
