"""The transposed convolution in C++, beside its skip: values and gradients, images and volumes."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from test_native import HALF, NO_COMPILER, assert_close, assert_rounded, in_bfloat16, rounded

from jaxseg.models import native
from jaxseg.models.resampling import UpConv, _upconv_native

pytestmark = pytest.mark.skipif(NO_COMPILER, reason=native.problem())

CASES = (  # size, window, channels of skip, image and result
    ((2, 8, 16), (2, 2), 32, 64, 32),
    ((3, 1, 1), (2, 2), 8, 8, 8),
    ((1, 5, 7), (2, 2), 16, 24, 40),  # blocks of all widths, pixels that blocks do not divide
    ((2, 3, 5), (3, 1), 24, 16, 48),  # an odd number of pixels, more than a block and half of one
    ((2, 4, 4), (2, 2), 128, 264, 136),  # more sums than pixels: several parts by outputs
    ((1, 40, 50), (2, 2), 8, 16, 8),  # several pieces of pixels in every part
    ((2, 3, 4, 5), (2, 2, 2), 16, 32, 16),
    ((1, 2, 5, 6), (1, 2, 2), 24, 40, 56),
    ((1, 4, 3, 3), (3, 1, 2), 8, 24, 16),
)
cases = pytest.mark.parametrize(("size", "window", "skipped", "channels", "features"), CASES)


def made(size, window, skipped, channels, features):
    """Return skip, image, kernel, bias and a gradient of the result."""
    rng = np.random.default_rng(0)
    fine = (size[0], *(n * w for n, w in zip(size[1:], window, strict=True)))
    shapes = (*fine, skipped), (*size, channels), (*window, channels, features), (features,)
    return [rng.normal(size=s).astype(np.float32) for s in (*shapes, (*fine, skipped + features))]


def reference(skip, image, kernel, bias, dy):
    """Return the result and the gradients of image, kernel and bias, in float64, tap by tap."""
    skip, image, kernel, bias, dy = (
        np.asarray(a, np.float64) for a in (skip, image, kernel, bias, dy)
    )
    axes, window = tuple(range(image.ndim - 1)), kernel.shape[:-2]
    dy = dy[..., skip.shape[-1] :]
    enlarged, d_image, d_kernel = np.full(dy.shape, np.nan), 0, np.zeros(kernel.shape)
    for tap in np.ndindex(window):
        at = (slice(None), *(slice(t, None, w) for t, w in zip(tap, window, strict=True)))
        enlarged[at] = image @ kernel[tap] + bias
        d_image = d_image + dy[at] @ kernel[tap].T
        d_kernel[tap] = np.tensordot(image, dy[at], (axes, axes))
    return np.concatenate([skip, enlarged], -1), d_image, d_kernel, dy.sum(axes)


def computed(skip, image, kernel, bias, dy):
    gradients = functools.partial(native.upconv_kernel_gradient, features=kernel.shape[-1])
    result = jax.jit(native.upconv)(skip, image, kernel, bias)
    return result, jax.jit(native.upconv_image_gradient)(dy, kernel), *jax.jit(gradients)(image, dy)


@cases
def test_values_and_gradients_are_the_sums_over_all_taps(size, window, skipped, channels, features):
    arrays = made(size, window, skipped, channels, features)
    found, expected = computed(*arrays), reference(*arrays)
    for one, other in zip(found, expected, strict=True):
        assert_close(one, other)
    np.testing.assert_array_equal(found[0][..., :skipped], arrays[0])


@in_bfloat16
@cases
def test_in_bfloat16_sums_are_those_of_float32_rounded_once(
    size, window, skipped, channels, features
):
    (*halves, _, dy), exact = rounded(*made(size, window, skipped, channels, features))
    bias = exact[3].astype(np.float32)
    *found, d_bias = computed(*halves, bias, dy)
    *expected, exact_bias = reference(*exact)
    for one, other in zip(found, expected, strict=True):
        assert_rounded(one, other)
    assert d_bias.dtype == jnp.float32
    assert_close(d_bias, exact_bias)


def test_by_hand():
    """Two pixels, 2 and 3, whose first channel goes to four pixels with weights 1 to 4, plus 10."""
    image = np.zeros((1, 1, 2, 8), np.float32)
    image[..., 0] = [2, 3]
    kernel = np.zeros((2, 2, 8, 8), np.float32)
    kernel[:, :, 0, 0] = [[1, 2], [3, 4]]
    skip = np.full((1, 2, 4, 8), 7, np.float32)
    result = native.upconv(skip, image, kernel, np.full(8, 10, np.float32))
    np.testing.assert_array_equal(result[0, ..., 8], [[12, 14, 13, 16], [16, 18, 19, 22]])
    np.testing.assert_array_equal(result[..., :8], skip)
    np.testing.assert_array_equal(result[..., 9:], np.full((1, 2, 4, 7), 10))


def value_and_gradients(layer, variables, skip, x):
    """Of skip, image and weights."""
    value, pull_back = jax.vjp(layer.apply, variables, skip, x)
    dy = jnp.cos(jnp.arange(value.size)).reshape(value.shape).astype(HALF).astype(value.dtype)
    return value, *jax.tree.leaves(pull_back(dy))


@pytest.mark.parametrize("dtype", [jnp.float32, pytest.param(HALF, marks=in_bfloat16)], ids=str)
@pytest.mark.parametrize("window", [(2, 2), (2, 2, 2), (1, 2, 2)], ids=str)
def test_the_layer_is_that_of_xla_in_float32(monkeypatch, window, dtype):
    skip, x, *_ = made((2, *(3, 4, 5)[-len(window) :]), window, 16, 32, 16)
    layer, exact = UpConv(16, window, jnp.dtype(dtype)), UpConv(16, window)
    variables = exact.init(jax.random.key(0), skip, x)
    variables["params"]["bias"] = jnp.linspace(-1, 1, 16)
    # Numbers that bfloat16 has.
    arrays = jax.tree.map(lambda a: jnp.asarray(a, dtype).astype(jnp.float32), (variables, skip, x))
    assert "jaxseg_upconv" not in str(jax.make_jaxpr(layer.apply)(*arrays))
    expected = value_and_gradients(exact, *arrays)
    monkeypatch.setattr(native, "available", lambda: True)
    assert "jaxseg_upconv" in str(jax.make_jaxpr(layer.apply)(*arrays))
    value, *gradients = value_and_gradients(layer, *arrays)
    assert value.dtype == dtype and {g.dtype for g in gradients} == {jnp.dtype(jnp.float32)}
    for mine, xla in zip((value, *gradients), expected, strict=True):
        if dtype == jnp.float32:
            assert_close(mine, xla)
        else:  # what is given and what comes of it is rounded to 8 digits
            assert np.abs(np.float64(mine) - xla).max() < 2**-7 * np.abs(xla).max()


@pytest.mark.parametrize(
    ("window", "skipped", "channels", "features"),
    [((2,), 8, 8, 8), ((2, 2), 4, 8, 8), ((2, 2), 8, 12, 8), ((2, 2), 8, 8, 5)],
)
def test_xla_serves_where_it_does_not_fit(monkeypatch, window, skipped, channels, features):
    monkeypatch.setattr(native, "available", lambda: True)
    skip, x, *_ = made((1, *(2, 3)[: len(window)]), window, skipped, channels, features)
    layer = UpConv(features, window)
    variables = jax.eval_shape(layer.init, jax.random.key(0), skip, x)
    assert "jaxseg_upconv" not in str(jax.make_jaxpr(layer.apply)(variables, skip, x))


@pytest.mark.parametrize("dtype", [jnp.float32, pytest.param(HALF, marks=in_bfloat16)], ids=str)
def test_the_same_bits_every_time(dtype):
    for size, window in (((2, 20, 24), (2, 2)), ((1, 6, 7, 8), (2, 2, 2))):
        *arrays, _ = made(size, window, 16, 32, 16)
        skip, image, kernel = (jnp.asarray(a, dtype) for a in arrays[:3])
        run = jax.jit(lambda *a: jax.vjp(_upconv_native, *a)[1](_upconv_native(*a)))
        for one, other in zip(
            *(run(skip, image, kernel, arrays[3]) for _ in range(2)), strict=True
        ):
            np.testing.assert_array_equal(one, other)
