"""The operations in C++: equal to XLA's in value and gradient, at every shape that they take."""

import functools
import os
import shutil
import subprocess
import sys

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxseg.models import layers, native, resampling
from jaxseg.shipping import bundle

# Not what else may be the matter: a source that does not compile must fail here.
NO_COMPILER = "no C++ compiler" in native.problem()
pytestmark = pytest.mark.skipif(NO_COMPILER, reason=native.problem())

ORDER = ("NHWC", "HWIO", "NHWC")
HALF = jnp.dtype(jnp.bfloat16)
in_bfloat16 = pytest.mark.skipif(
    NO_COMPILER or not native.takes(HALF), reason="this CPU does not multiply bfloat16"
)
VOLUMES = (  # batch, depth, height, width, channels, outputs
    (2, 6, 8, 16, 16, 32),
    (1, 1, 4, 5, 4, 16),  # one plane: the kernel's middle alone
    (2, 2, 1, 3, 3, 8),  # smaller than the kernel
    (1, 5, 7, 13, 5, 24),  # odd sizes, channels in no register, one and a half registers
    (1, 3, 4, 6, 136, 64),  # more sums than pixels
    (2, 3, 3, 3, 12, 96),  # boxes of several planes, and parts that share one
    (1, 19, 35, 47, 24, 8),  # several boxes behind, below and beside one another
)
SHAPES = (  # batch, height, width, channels, outputs
    (2, 16, 16, 16, 32),
    (1, 1, 1, 3, 8),  # smaller than the kernel
    (3, 5, 1, 8, 8),
    (1, 1, 9, 1, 16),
    (2, 7, 13, 5, 24),  # odd sizes, channels in no register, one and a half registers
    (1, 33, 19, 11, 40),
    (2, 8, 8, 136, 128),  # more sums than pixels: split by channels, in blocks
    (1, 6, 5, 132, 128),  # channels that blocks do not divide
    (2, 8, 8, 128, 120),  # nor outputs
    (1, 70, 300, 24, 8),  # several bands of rows
)


def made(shape, window, seed=0):
    rng = np.random.default_rng(seed)
    *size, c, o = shape
    sizes = (*size, c), (*window, c, o), (*size, o)
    return tuple(rng.normal(size=size).astype(np.float32) for size in sizes)


def rounded(*arrays):
    """Round to bfloat16: the arrays, and the same numbers in float64."""
    half = [jnp.asarray(a, HALF) for a in arrays]
    return half, [np.asarray(a, np.float64) for a in half]


def reference(image, kernel, dy):
    """Sum over the taps in float64: the result and both gradients."""
    image, kernel, dy = (np.asarray(a, np.float64) for a in (image, kernel, dy))
    size, window = image.shape[1:-1], kernel.shape[:-2]
    padded = np.pad(image, ((0, 0), *((w // 2, w // 2) for w in window), (0, 0)))
    axes = tuple(range(image.ndim - 1))
    result, d_padded, d_kernel = 0, np.zeros_like(padded), np.zeros_like(kernel)
    for tap in np.ndindex(window):
        here = (slice(None), *(slice(t, t + n) for t, n in zip(tap, size, strict=True)))
        result = result + padded[here] @ kernel[tap]
        d_kernel[tap] = np.tensordot(padded[here], dy, (axes, axes))
        d_padded[here] += dy @ kernel[tap].T
    inside = (slice(None), *(slice(w // 2, w // 2 + n) for w, n in zip(window, size, strict=True)))
    return result, d_padded[inside], d_kernel


def assert_close(actual, expected):
    assert actual.shape == expected.shape
    np.testing.assert_allclose(actual, expected, rtol=0, atol=3e-6 * np.abs(expected).max())


def assert_rounded(actual, expected, exact=3e-6):
    """Equal to a sum in float32 (see above) that was rounded to bfloat16: 8 digits."""
    assert actual.shape == expected.shape and actual.dtype == HALF
    apart = np.abs(np.asarray(actual, np.float64) - expected)
    assert (apart <= 2.0**-8 * np.abs(expected) + exact * np.abs(expected).max()).all()


CASES = [(shape, (3, 3)) for shape in SHAPES]
CASES += [(shape, window) for shape in VOLUMES for window in ((3, 3, 3), (1, 3, 3))]


@pytest.mark.parametrize(("shape", "window"), CASES)
def test_values_and_gradients_are_the_sums_over_all_taps(shape, window):
    image, kernel, dy = made(shape, window)
    result, d_image, d_kernel = reference(image, kernel, dy)
    assert_close(jax.jit(native.convolve)(image, kernel), result)
    kernel_gradient = jax.jit(functools.partial(native.kernel_gradient, window=window))
    assert_close(kernel_gradient(image, dy), d_kernel)
    if native.fits(shape[-2]):
        assert_close(jax.jit(native.image_gradient)(dy, kernel), d_image)


@in_bfloat16
@pytest.mark.parametrize(("shape", "window"), CASES)
def test_in_bfloat16_sums_are_those_of_float32_rounded_once(shape, window):
    (image, kernel, dy), exact = rounded(*made(shape, window))
    result, d_image, d_kernel = reference(*exact)
    assert_rounded(jax.jit(native.convolve)(image, kernel), result)
    kernel_gradient = jax.jit(functools.partial(native.kernel_gradient, window=window))
    assert_rounded(kernel_gradient(image, dy), d_kernel)
    if native.fits(shape[-2]):
        assert_rounded(jax.jit(native.image_gradient)(dy, kernel), d_image)


@pytest.mark.parametrize("size", ((3, 9, 10), (9, 1, 12), (1, 1, 1), (2, 8, 7)))
def test_a_volume_of_planes_is_the_images_bit_for_bit(size):
    """1x3x3, and 3x3x3 with nothing but zeros before and behind."""
    image, kernel, dy = made((2, *size, 8, 16), (1, 3, 3))
    thick = np.pad(kernel, ((1, 1), (0, 0), (0, 0), (0, 0), (0, 0)))
    planes, plane_kernel = image.reshape(-1, *image.shape[2:]), kernel[0]
    expected = native.convolve(planes, plane_kernel).reshape(dy.shape)
    np.testing.assert_array_equal(native.convolve(image, kernel), expected)
    np.testing.assert_array_equal(native.convolve(image, thick), expected)
    expected = native.image_gradient(dy.reshape(-1, *dy.shape[2:]), plane_kernel)
    np.testing.assert_array_equal(native.image_gradient(dy, kernel), expected.reshape(image.shape))


@pytest.mark.parametrize("channels", (3, 16))
@pytest.mark.parametrize("window", ((3, 3), (1, 3, 3), (3, 3, 3)))
def test_differentiated_as_xla_does(window, channels):
    rank = len(window)
    image, kernel, dy = made((2, *(5, 12, 10)[-rank:], channels, 16), window)

    def plain(x, k):
        return jax.lax.conv_general_dilated(x, k, (1,) * rank, "SAME", **OPTIONS[rank + 2])

    expected, pull_back = jax.vjp(plain, image, kernel)
    actual, native_pull_back = jax.vjp(layers._convolve_native, image, kernel)
    assert_close(actual, expected)
    for mine, xla in zip(native_pull_back(dy), pull_back(dy), strict=True):
        assert_close(mine, xla)


@in_bfloat16
@pytest.mark.parametrize("channels", (3, 16))
@pytest.mark.parametrize("window", ((3, 3), (1, 3, 3), (3, 3, 3)))
def test_differentiated_in_bfloat16_as_xla_does(window, channels):
    rank = len(window)
    (image, kernel, dy), _ = rounded(*made((2, *(5, 12, 10)[-rank:], channels, 16), window))

    def plain(x, k):
        return jax.lax.conv_general_dilated(x, k, (1,) * rank, "SAME", **OPTIONS[rank + 2])

    expected, pull_back = jax.vjp(plain, image, kernel)
    actual, native_pull_back = jax.vjp(layers._convolve_native, image, kernel)
    for mine, xla in zip((actual, *native_pull_back(dy)), (expected, *pull_back(dy)), strict=True):
        xla = np.asarray(xla, np.float64)
        assert_rounded(mine, xla, exact=2e-3)  # XLA may round on the way


EPSILON = 1e-5
NORMED = (  # groups, pixels and channels, mean, standard deviation
    ((1, 512, 16), 0.0, 1.0),
    ((3, 1, 8), 3.0, 1.0),  # one number, no variance
    ((1, 6, 24), 0.0, 1e-3),  # fewer pixels than parts
    ((2, 63, 136), 100.0, 1.0),  # the mean takes two digits
    ((2, 21000, 40), -2.0, 5.0),  # several blocks
)
SLOPES = 0.0, 0.01, 1.0  # ReLU, leaky ReLU, neither


def normed(shape, mean, std):
    rng = np.random.default_rng(1)
    x, dy = rng.normal(mean, std, shape), rng.normal(size=shape)
    x += np.arange(shape[0]).reshape(-1, *(1,) * (len(shape) - 1))  # no group is like another
    scale, bias = rng.normal(1, 0.3, shape[-1]), rng.normal(size=shape[-1])
    return tuple(a.astype(np.float32) for a in (x, dy, scale, bias))


def reference_norm(x, dy, scale, bias, slope):
    """In float64: the result, mean and variance, and the gradients of x, scale and bias."""
    x, dy, scale, bias = (np.asarray(a, np.float64) for a in (x, dy, scale, bias))
    mean, variance = x.mean(1), x.var(1)
    root = np.sqrt(variance + EPSILON)[:, None]
    unit = (x - mean[:, None]) / root
    y = unit * scale + bias
    dy = np.where(y > 0, dy, slope * dy)
    y = np.where(y > 0, y, slope * y)
    d_bias, d_scale = dy.sum(1), (dy * unit).sum(1)
    dx = scale / root * (dy - (d_bias[:, None] + unit * d_scale[:, None]) / x.shape[1])
    return (y, mean, variance), (dx, d_scale.sum(0), d_bias.sum(0))


@pytest.mark.parametrize("slope", SLOPES)
@pytest.mark.parametrize(("shape", "mean", "std"), NORMED)
def test_norm_and_its_gradient_are_those_of_float64(shape, mean, std, slope):
    x, dy, scale, bias = normed(shape, mean, std)
    values, gradients = reference_norm(x, dy, scale, bias, slope)
    options = {"epsilon": EPSILON, "slope": slope}
    actual = jax.jit(functools.partial(native.norm, by_sample=True, **options))(x, scale, bias)
    for mine, expected in zip(actual, values, strict=True):
        np.testing.assert_allclose(mine, expected, rtol=1e-6, atol=4e-6 * np.abs(values[0]).max())
    gradient = jax.jit(functools.partial(native.norm_gradient, **options))
    # With the statistics of float64, lest a rounding of the mean decide what is below 0.
    statistics = tuple(np.float32(v) for v in values[1:])
    actual = gradient(dy, x, statistics, scale, bias)
    unsure = np.abs(values[0]) < max(slope, 0.01) * 1e-2 * np.abs(values[0]).max()
    for mine, expected in zip(actual, gradients, strict=True):
        close = np.isclose(mine, expected, rtol=0, atol=2e-4 * np.abs(expected).max())
        assert (close | (unsure & (slope < 1) if mine.shape == shape else False)).all()


@in_bfloat16
@pytest.mark.parametrize("slope", SLOPES)
@pytest.mark.parametrize(("shape", "mean", "std"), NORMED)
def test_norm_in_bfloat16_has_the_statistics_of_float32(shape, mean, std, slope):
    x, dy, scale, bias = normed(shape, mean, std)
    (x, dy), (exact_x, exact_dy) = rounded(x, dy)
    values, gradients = reference_norm(exact_x, exact_dy, scale, bias, slope)
    y, *statistics = native.norm(x, scale, bias, EPSILON, slope, True)
    assert_rounded(y, values[0], exact=4e-6)
    for mine, expected in zip(statistics, values[1:], strict=True):
        assert mine.dtype == jnp.float32
        np.testing.assert_allclose(mine, expected, rtol=1e-6, atol=4e-6 * np.abs(values[0]).max())
    statistics = tuple(np.float32(v) for v in values[1:])
    dx, *others = native.norm_gradient(dy, x, statistics, scale, bias, EPSILON, slope)
    sure = (slope == 1) | (np.abs(values[0]) > 1e-4 * np.abs(values[0]).max())
    assert_rounded(jnp.where(sure, dx, 0), np.where(sure, gradients[0], 0), exact=2e-4)
    for mine, expected in zip(others, gradients[1:], strict=True):
        assert mine.dtype == jnp.float32
        np.testing.assert_allclose(mine, expected, rtol=0, atol=2e-4 * np.abs(expected).max())


def test_what_is_not_a_number_is_not_hidden_by_the_relu():
    x, _, scale, bias = normed((2, 35, 16), 0.0, 1.0)
    x[1, 20, 5] = np.nan
    y, *_ = native.norm(x, scale, bias, EPSILON, 0.0, True)
    hidden = np.isnan(y)
    assert hidden[1, :, 5].all()
    assert hidden.sum() == 35, "no other channel and no other group"


@pytest.mark.parametrize(("slope", "kept"), [(0.0, 0.0), (0.01, 1.0), (1.0, 1.0)])
def test_the_gradient_of_what_is_exactly_0_is_that_of_jax(slope, kept):
    """An empty patch: every number is its channel's mean."""
    x, dy = (
        np.ones((1, 4, 8), np.float32),
        np.float32([[1, 2, 3, 4]]).reshape(1, 4, 1) + np.zeros(8),
    )
    one, zero = np.ones(8, np.float32), np.zeros(8, np.float32)
    statistics = np.ones((1, 8), np.float32), np.zeros((1, 8), np.float32)
    gradient = native.norm_gradient(dy.astype(np.float32), x, statistics, one, zero, 1.0, slope)
    np.testing.assert_array_equal(gradient[2], 10 * kept * one)
    np.testing.assert_array_equal(gradient[0][0, :, 0], kept * np.float32([-1.5, -0.5, 0.5, 1.5]))


@pytest.mark.parametrize(
    "shape", ((2, 4, 6, 16), (1, 2, 6, 8, 40), (2, 2, 2, 2, 8)), ids=lambda s: f"{len(s) - 2}D"
)
def test_the_gradient_of_pooling_goes_to_the_first_largest(monkeypatch, shape):
    """Whole numbers: most windows have several."""
    rng = np.random.default_rng(0)
    x = jnp.asarray(rng.integers(0, 3, shape).astype(np.float32))
    window = (2,) * (len(shape) - 2)
    y, saved = resampling._max_pool_forward(x, window)
    dy = jnp.asarray(rng.normal(size=y.shape).astype(np.float32))
    (expected,) = resampling._max_pool_backward(window, saved, dy)
    monkeypatch.setattr(native, "available", lambda: True)
    (actual,) = resampling._max_pool_backward(window, saved, dy)
    np.testing.assert_array_equal(actual, expected)
    np.testing.assert_array_equal(actual, native.pool_gradient(x, y, dy))


@in_bfloat16
def test_the_gradient_of_pooling_in_bfloat16_is_that_of_float32():
    rng = np.random.default_rng(0)
    (x, dy), _ = rounded(rng.integers(0, 3, (2, 4, 6, 24)), rng.normal(size=(2, 2, 3, 24)))
    y = resampling.max_pool(x, (2, 2))
    actual = native.pool_gradient(x, y, dy)
    expected = native.pool_gradient(*(a.astype(jnp.float32) for a in (x, y, dy)))
    np.testing.assert_array_equal(actual.astype(jnp.float32), expected)


def test_windows_of_pooling_may_differ_by_axis():
    """1x2x4 and 3x1x1, against the first largest found by argmax."""
    rng = np.random.default_rng(1)
    for window in ((1, 2, 4), (3, 1, 1)):
        size = (2, 3, 5)
        x = rng.integers(0, 4, (2, *(n * w for n, w in zip(size, window, strict=True)), 8))
        blocks = x.reshape(2, 2, window[0], 3, window[1], 5, window[2], 8)
        blocks = blocks.transpose(0, 1, 3, 5, 7, 2, 4, 6).reshape(2, *size, 8, -1)
        y, dy = blocks.max(-1), rng.normal(size=(2, *size, 8))
        first = np.eye(blocks.shape[-1])[blocks.argmax(-1)] * dy[..., None]
        expected = first.reshape(2, *size, 8, *window).transpose(0, 1, 5, 2, 6, 3, 7, 4)
        arrays = (jnp.asarray(a, jnp.float32) for a in (x, y, dy))
        actual = native.pool_gradient(*arrays)
        np.testing.assert_array_equal(actual, expected.reshape(x.shape).astype(np.float32))


@pytest.mark.parametrize(
    "dtype", (jnp.float32, pytest.param(HALF, marks=in_bfloat16)), ids=("float32", "bfloat16")
)
def test_the_same_bits_every_time(dtype):
    for size, window in (((3, 40, 64), (3, 3)), ((1, 24, 20, 20), (3, 3, 3))):
        image, _, dy = (jnp.asarray(a, dtype) for a in made((*size, 16, 32), window))
        kernel_gradient = jax.jit(functools.partial(native.kernel_gradient, window=window))
        first, second = (kernel_gradient(image, dy) for _ in range(2))
        np.testing.assert_array_equal(first, second)
    scale, bias = np.ones(32, np.float32), np.zeros(32, np.float32)
    x = dy.reshape(2, -1, 32)
    norm = jax.jit(lambda x: native.norm(x, scale, bias, EPSILON, 0.0, True))
    for one, other in zip(norm(x), norm(x), strict=True):
        np.testing.assert_array_equal(one, other)


class Normed(nn.Module):
    """Batch norm and ReLU as the model calls them."""

    @nn.compact
    def __call__(self, x, train):
        return layers.batch_norm(x, train, relu=True, dtype=jnp.dtype(jnp.float32))


@pytest.mark.parametrize("initialise", (True, False))
def test_batch_norm_is_that_of_flax(monkeypatch, initialise):
    x, dy, scale, bias = normed((2, 12, 10, 24), 3.0, 2.0)
    variables = {"params": {"batch": {"scale": scale, "bias": bias}}}
    variables["batch_stats"] = {"batch": {"mean": bias, "var": scale**2}}

    def run():
        if initialise:
            return Normed().init_with_output(jax.random.key(0), x, True)

        def loss(params):
            y, new = Normed().apply(variables | {"params": params}, x, True, mutable="batch_stats")
            return jnp.sum(y * dy), (y, new)

        return jax.value_and_grad(loss, has_aux=True)(variables["params"])

    expected = run()
    monkeypatch.setattr(native, "available", lambda: True)
    actual = run()
    assert "jaxseg_norm" in str(jax.make_jaxpr(run)())
    assert jax.tree.structure(actual) == jax.tree.structure(expected)
    for mine, flax in zip(jax.tree.leaves(actual), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(mine, flax, rtol=2e-6, atol=2e-5)


def test_batch_norm_is_chosen_for_what_it_can_do_and_for_nothing_else(monkeypatch):
    monkeypatch.setattr(native, "available", lambda: True)

    def is_native(x, train=True):
        def run(x):
            return Normed().init_with_output(jax.random.key(0), x, train)

        return "jaxseg_norm" in str(jax.make_jaxpr(run)(x))

    assert is_native(jnp.zeros((2, 4, 4, 8)))
    assert not is_native(jnp.zeros((2, 4, 4, 8)), train=False)
    assert not is_native(jnp.zeros((2, 4, 4, 12)))
    assert not is_native(jnp.zeros((2, 4, 4, 8), HALF))  # the result is to be float32
    monkeypatch.setattr(native, "available", lambda: False)
    assert not is_native(jnp.zeros((2, 4, 4, 8)))


class InstanceNormed(nn.Module):
    """Instance norm and leaky ReLU as the model calls them."""

    slope: float

    @nn.compact
    def __call__(self, x):
        return layers.instance_norm(x, self.slope, jnp.dtype(jnp.float32))


@pytest.mark.parametrize("slope", SLOPES)
@pytest.mark.parametrize("shape", ((2, 12, 10, 24), (1, 4, 5, 6, 8), (2, 2, 3, 1, 16)))
def test_instance_norm_is_that_of_flax(monkeypatch, shape, slope):
    x, dy, scale, bias = normed(shape, 3.0, 2.0)
    params = {"instance": {"scale": scale, "bias": bias}}

    def run():
        def loss(params, x):
            y = InstanceNormed(slope).apply({"params": params}, x)
            return jnp.sum(y * dy), y

        first = InstanceNormed(slope).init(jax.random.key(0), x)
        return first, jax.value_and_grad(loss, argnums=(0, 1), has_aux=True)(params, x)

    expected = run()
    monkeypatch.setattr(native, "available", lambda: True)
    actual = run()
    assert "jaxseg_norm" in str(jax.make_jaxpr(run)())
    assert jax.tree.structure(actual) == jax.tree.structure(expected)
    for mine, flax in zip(jax.tree.leaves(actual), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(mine, flax, rtol=2e-6, atol=2e-5)


def test_instance_norm_is_chosen_for_what_it_can_do_and_for_nothing_else(monkeypatch):
    monkeypatch.setattr(native, "available", lambda: True)

    def is_native(x):
        run = functools.partial(InstanceNormed(0.0).init_with_output, jax.random.key(0))
        return "jaxseg_norm" in str(jax.make_jaxpr(run)(x))

    assert is_native(jnp.zeros((2, 4, 4, 4, 8)))
    assert not is_native(jnp.zeros((2, 4, 4, 12)))
    assert not is_native(jnp.zeros((2, 4, 4, 8), HALF))
    monkeypatch.setattr(native, "available", lambda: False)
    assert not is_native(jnp.zeros((2, 4, 4, 8)))


def test_not_used_on_several_devices(monkeypatch):
    assert jax.device_count() == 8
    assert not native.available()
    monkeypatch.setattr(jax, "device_count", lambda: 1)
    assert native.available()
    with native.plain_operations():
        assert not native.available()
    assert native.available()


def uses_native(x, kernel, strides=(1, 1), padding="SAME"):
    call = jax.make_jaxpr(lambda x, k: layers.convolve(x, k, strides, padding, **OPTIONS[x.ndim]))
    return "jaxseg_convolve" in str(call(x, kernel))


OPTIONS = {4: {"dimension_numbers": ORDER}, 5: {"dimension_numbers": ("NDHWC", "DHWIO", "NDHWC")}}


def test_chosen_for_what_it_can_do_and_for_nothing_else(monkeypatch):
    monkeypatch.setattr(native, "available", lambda: True)
    x, kernel = jnp.zeros((1, 8, 8, 4)), jnp.zeros((3, 3, 4, 8))
    assert uses_native(x, kernel)
    assert not uses_native(x, kernel[..., :7])
    assert not uses_native(x, kernel[:1, :1])
    assert not uses_native(x, kernel, strides=(2, 2))
    assert not uses_native(x, kernel, padding="VALID")
    assert not uses_native(x.astype(jnp.float16), kernel.astype(jnp.float16))
    assert uses_native(x.astype(HALF), kernel.astype(HALF)) == native.takes(HALF)
    volume, window = jnp.zeros((1, 8, 8, 8, 4)), jnp.zeros((3, 3, 3, 4, 8))
    assert uses_native(volume, window, strides=(1, 1, 1))
    assert uses_native(volume, window[:1], strides=(1, 1, 1))
    assert not uses_native(volume, window[:, :1], strides=(1, 1, 1))
    assert not uses_native(volume, window, strides=(1, 2, 2))
    assert uses_native(volume, window, strides=(1, 2, 2), padding=[(1, 1)] * 3)
    assert not uses_native(volume, window, strides=(1, 2, 2), padding=[(0, 0), (1, 1), (1, 1)])


@pytest.mark.parametrize(
    ("size", "window", "strides"),
    [
        ((6, 9), (3, 3), (2, 2)),
        ((5, 6, 9), (3, 3, 3), (2, 2, 2)),
        ((4, 6, 7), (1, 3, 3), (1, 2, 2)),
        ((4, 6, 7), (3, 3, 3), (1, 2, 3)),
    ],
)
def test_strides_are_those_of_xla(monkeypatch, size, window, strides):
    image, kernel, _ = made((2, *size, 8, 16), window)
    around = [(n // 2, n // 2) for n in window]

    def value_and_gradients():
        def run(x, k):
            return layers.convolve(x, k, strides, around, **OPTIONS[x.ndim])

        value, pull_back = jax.vjp(run, image, kernel)
        return value, *pull_back(jnp.cos(jnp.arange(value.size)).reshape(value.shape))

    expected = value_and_gradients()
    monkeypatch.setattr(native, "available", lambda: True)
    for mine, xla in zip(value_and_gradients(), expected, strict=True):
        assert_close(mine, xla)


def test_an_exported_program_holds_none_of_them(monkeypatch):
    pytest.importorskip("flatbuffers")
    monkeypatch.setattr(jax, "device_count", lambda: 1)
    kernel = np.zeros((3, 3, 4, 8), np.float32)

    def function(x):
        return layers.convolve(x, kernel, (1, 1), "SAME", **OPTIONS[4])

    assert "jaxseg_convolve" in str(jax.make_jaxpr(function)(np.zeros((1, 8, 8, 4), np.float32)))
    jax.clear_caches()
    program = bundle.serialise(function, [((None, 8, 8, 4), np.float32)], ("cpu", "cuda", "tpu"))
    assert b"jaxseg_convolve" not in program


PROGRAM = "from jaxseg.models import native; print(native.problem())"


def run_program(program=PROGRAM, **environment):
    done = subprocess.run(
        [sys.executable, "-c", program],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout.strip()


def test_without_a_compiler_xla_serves_and_says_why(tmp_path):
    cache = {"XDG_CACHE_HOME": str(tmp_path)}
    assert "no C++ compiler" in run_program(**cache, PATH="", CXX="")
    broken = tmp_path / "c++"
    broken.write_text("#!/bin/sh\necho 'x.cc:1: error: unknown flag' >&2\nexit 1\n")
    broken.chmod(0o755)
    assert "error: unknown flag" in run_program(**cache, CXX=str(broken))
    assert not list(tmp_path.rglob("*.so"))
    assert "JAXSEG_NATIVE=0" in run_program(**cache, JAXSEG_NATIVE="0")


@in_bfloat16
def test_without_the_instruction_float32_alone_is_taken(tmp_path):
    """As compiled for a CPU that has no AVX512-BF16; at -O0, which takes half as long."""
    compiler = tmp_path / "c++"
    compiler.write_text(f'#!/bin/sh\nexec {shutil.which("c++")} -mno-avx512bf16 "$@" -O0\n')
    compiler.chmod(0o755)
    program = """
import jax.numpy as jnp
from jaxseg.models import native
print(native.problem() or "none", native.takes(jnp.float32), native.takes(jnp.bfloat16))
"""
    told = run_program(program, XDG_CACHE_HOME=str(tmp_path), CXX=str(compiler))
    assert told.split() == ["none", "True", "False"]


COMPARED = """
import jax, jax.numpy as jnp, numpy as np
from jaxseg.models import native
assert not native.problem(), native.problem()
x = np.random.default_rng(0).normal(size=(2, 9, 7, 24)).astype(np.float32)
scale, bias = np.ones(24, np.float32), np.zeros(24, np.float32)
y, *statistics = native.norm(x, scale, bias, 1e-5, 1.0, False)
dx, *_ = native.norm_gradient(y, x, statistics, scale, bias, 1e-5, 1.0)
kernel = np.eye(24) * np.eye(9)[4].reshape(3, 3, 1, 1)
centre = native.convolve(x, kernel.astype(np.float32))
means = np.asarray(y).mean((0, 1, 2)), np.asarray(dx).mean((0, 1, 2))
same = (centre == x).all()
window = np.broadcast_to(np.eye(24, dtype=np.float32), (2, 2, 24, 24))
large = x.repeat(2, 1).repeat(2, 2)
both = np.concatenate([large, large], -1)
same &= (native.upconv(large, x, window, bias) == both).all()
same &= (native.upconv_image_gradient(both, window) == 4 * x).all()
sums = native.upconv_kernel_gradient(x, both, 24)[1]
same &= np.abs(sums - large.sum((0, 1, 2))).max() < 1e-3
if native.takes(jnp.bfloat16):
    x, kernel = jnp.asarray(x, jnp.bfloat16), jnp.asarray(kernel, jnp.bfloat16)
    same &= (native.convolve(x, kernel) == x).all() & (native.image_gradient(x, kernel) == x).all()
    same &= bool(jnp.isfinite(native.kernel_gradient(x, x, (3, 3))).all())
    y, *statistics = native.norm(x, scale, bias, 1e-5, 1.0, False)
    dx = native.norm_gradient(y, x, statistics, scale, bias, 1e-5, 1.0)[0]
    same &= bool(jnp.isfinite(dx).all())
    both, window = jnp.asarray(both, jnp.bfloat16), jnp.asarray(window, jnp.bfloat16)
    same &= (native.upconv(both[..., :24], x, window, bias) == both).all()
    same &= (native.upconv_image_gradient(both, window) == 4 * x).all()
    same &= bool(jnp.isfinite(native.upconv_kernel_gradient(x, both, 24)[0]).all())
print(np.abs(means).max() < 1e-6, same)
"""


@pytest.mark.slow
@pytest.mark.parametrize("compiler", ("g++", "clang++"))
def test_every_compiler_makes_what_works(tmp_path, compiler):
    """clang once made loads that need whole alignment, which 24 channels have not."""
    if shutil.which(compiler) is None:
        pytest.skip(f"{compiler} is not installed")
    environment = {"XDG_CACHE_HOME": str(tmp_path), "CXX": compiler}
    assert run_program(COMPARED, **environment).split() == ["True", "True"]
