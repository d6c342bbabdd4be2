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

from jaxseg.models import layers, native
from jaxseg.shipping import bundle

# Not what else may be the matter: a source that does not compile must fail here.
NO_COMPILER = "no C++ compiler" in native.problem()
pytestmark = pytest.mark.skipif(NO_COMPILER, reason=native.problem())

ORDER = ("NHWC", "HWIO", "NHWC")
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


def made(shape, seed=0):
    rng = np.random.default_rng(seed)
    b, h, w, c, o = shape
    sizes = (b, h, w, c), (3, 3, c, o), (b, h, w, o)
    return tuple(rng.normal(size=size).astype(np.float32) for size in sizes)


def reference(image, kernel, dy):
    """Sum over the nine taps in float64: the result and both gradients."""
    image, kernel, dy = (np.asarray(a, np.float64) for a in (image, kernel, dy))
    _, h, w, _ = image.shape
    padded = np.pad(image, ((0, 0), (1, 1), (1, 1), (0, 0)))
    result, d_padded, d_kernel = 0, np.zeros_like(padded), np.zeros_like(kernel)
    for i in range(3):
        for j in range(3):
            window = padded[:, i : i + h, j : j + w]
            result = result + window @ kernel[i, j]
            d_kernel[i, j] = np.einsum("bhwc,bhwo->co", window, dy)
            d_padded[:, i : i + h, j : j + w] += dy @ kernel[i, j].T
    return result, d_padded[:, 1:-1, 1:-1], d_kernel


def assert_close(actual, expected):
    assert actual.shape == expected.shape
    np.testing.assert_allclose(actual, expected, rtol=0, atol=3e-6 * np.abs(expected).max())


@pytest.mark.parametrize("shape", SHAPES)
def test_values_and_gradients_are_the_sums_over_nine_taps(shape):
    image, kernel, dy = made(shape)
    result, d_image, d_kernel = reference(image, kernel, dy)
    assert_close(jax.jit(native.convolve)(image, kernel), result)
    assert_close(jax.jit(native.kernel_gradient)(image, dy), d_kernel)
    if native.fits(shape[3]):
        assert_close(jax.jit(native.image_gradient)(dy, kernel), d_image)


@pytest.mark.parametrize("channels", (3, 16))
def test_differentiated_as_xla_does(channels):
    image, kernel, dy = made((2, 12, 10, channels, 16))

    def plain(x, k):
        return jax.lax.conv_general_dilated(x, k, (1, 1), "SAME", dimension_numbers=ORDER)

    expected, pull_back = jax.vjp(plain, image, kernel)
    actual, native_pull_back = jax.vjp(layers._convolve_native, image, kernel)
    assert_close(actual, expected)
    for mine, xla in zip(native_pull_back(dy), pull_back(dy), strict=True):
        assert_close(mine, xla)


EPSILON = 1e-5
NORMED = (  # shape of the images, mean, standard deviation
    ((2, 16, 16, 16), 0.0, 1.0),
    ((1, 1, 1, 8), 3.0, 1.0),  # one number, no variance
    ((1, 3, 2, 24), 0.0, 1e-3),  # fewer pixels than parts
    ((2, 9, 7, 136), 100.0, 1.0),  # the mean takes two digits
    ((1, 70, 300, 40), -2.0, 5.0),  # several blocks
    ((1, 4, 5, 6, 8), 0.0, 1.0),  # volumes
)


def normed(shape, mean, std):
    rng = np.random.default_rng(1)
    x, dy = rng.normal(mean, std, shape), rng.normal(size=shape)
    scale, bias = rng.normal(1, 0.3, shape[-1]), rng.normal(size=shape[-1])
    return tuple(a.astype(np.float32) for a in (x, dy, scale, bias))


def reference_norm(x, dy, scale, bias, relu):
    """In float64: the result, mean and variance, and the gradients of x, scale and bias."""
    x, dy, scale, bias = (np.asarray(a, np.float64) for a in (x, dy, scale, bias))
    axes = tuple(range(x.ndim - 1))
    mean, variance = x.mean(axes), x.var(axes)
    root = np.sqrt(variance + EPSILON)
    unit = (x - mean) / root
    y = unit * scale + bias
    if relu:
        dy = np.where(y > 0, dy, 0)
        y = np.maximum(y, 0)
    d_bias, d_scale = dy.sum(axes), (dy * unit).sum(axes)
    count = x.size // x.shape[-1]
    dx = scale / root * (dy - d_bias / count - unit * d_scale / count)
    return (y, mean, variance), (dx, d_scale, d_bias)


@pytest.mark.parametrize("relu", (False, True))
@pytest.mark.parametrize(("shape", "mean", "std"), NORMED)
def test_batch_norm_and_its_gradient_are_those_of_float64(shape, mean, std, relu):
    x, dy, scale, bias = normed(shape, mean, std)
    values, gradients = reference_norm(x, dy, scale, bias, relu)
    options = {"epsilon": EPSILON, "relu": relu}
    actual = jax.jit(functools.partial(native.batch_norm, **options))(x, scale, bias)
    for mine, expected in zip(actual, values, strict=True):
        np.testing.assert_allclose(mine, expected, rtol=1e-6, atol=4e-6 * np.abs(values[0]).max())
    gradient = jax.jit(functools.partial(native.batch_norm_gradient, **options))
    # With the statistics of float64, lest a rounding of the mean decide what is below 0.
    statistics = tuple(np.float32(v) for v in values[1:])
    actual = gradient(dy, x, statistics, scale, bias)
    unsure = np.abs(values[0]) < 1e-4 * np.abs(values[0]).max()
    for mine, expected in zip(actual, gradients, strict=True):
        close = np.isclose(mine, expected, rtol=0, atol=2e-4 * np.abs(expected).max())
        assert (close | (unsure & relu if mine.shape == shape else False)).all()


def test_what_is_not_a_number_is_not_hidden_by_the_relu():
    x, _, scale, bias = normed((2, 5, 7, 16), 0.0, 1.0)
    x[1, 2, 3, 5] = np.nan
    y, *_ = native.batch_norm(x, scale, bias, EPSILON, True)
    hidden = np.isnan(y)
    assert hidden[..., 5].all()
    assert not np.delete(hidden, 5, axis=-1).any()


def test_the_same_bits_every_time():
    image, _, dy = made((3, 40, 64, 16, 32))
    first, second = (jax.jit(native.kernel_gradient)(image, dy) for _ in range(2))
    np.testing.assert_array_equal(first, second)
    scale, bias = np.ones(32, np.float32), np.zeros(32, np.float32)
    norm = jax.jit(lambda x: native.batch_norm(x, scale, bias, EPSILON, True))
    for one, other in zip(norm(dy), norm(dy), strict=True):
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
    assert "jaxseg_batch_norm" in str(jax.make_jaxpr(run)())
    assert jax.tree.structure(actual) == jax.tree.structure(expected)
    for mine, flax in zip(jax.tree.leaves(actual), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(mine, flax, rtol=2e-6, atol=2e-5)


def test_batch_norm_is_chosen_for_what_it_can_do_and_for_nothing_else(monkeypatch):
    monkeypatch.setattr(native, "available", lambda: True)

    def is_native(x, train=True):
        def run(x):
            return Normed().init_with_output(jax.random.key(0), x, train)

        return "jaxseg_batch_norm" in str(jax.make_jaxpr(run)(x))

    assert is_native(jnp.zeros((2, 4, 4, 8)))
    assert not is_native(jnp.zeros((2, 4, 4, 8)), train=False)
    assert not is_native(jnp.zeros((2, 4, 4, 12)))
    assert not is_native(jnp.zeros((2, 4, 4, 8), jnp.bfloat16))
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
    assert not uses_native(x.astype(jnp.bfloat16), kernel.astype(jnp.bfloat16))
    volume, window = jnp.zeros((1, 8, 8, 8, 4)), jnp.zeros((3, 3, 3, 4, 8))
    assert not uses_native(volume, window, strides=(1, 1, 1))


def test_an_exported_program_holds_none_of_them(monkeypatch):
    pytest.importorskip("flatbuffers")
    monkeypatch.setattr(jax, "device_count", lambda: 1)
    kernel = np.zeros((3, 3, 4, 8), np.float32)

    def function(x):
        return layers.convolve(x, kernel, (1, 1), "SAME", **OPTIONS[4])

    assert "jaxseg_convolve" in str(jax.make_jaxpr(function)(np.zeros((1, 8, 8, 4), np.float32)))
    jax.clear_caches()
    program = bundle.serialise(function, (None, 8, 8, 4), ("cpu", "cuda", "tpu"))
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


COMPARED = """
import jax, numpy as np
from jaxseg.models import native
assert not native.problem(), native.problem()
x = np.random.default_rng(0).normal(size=(2, 9, 7, 24)).astype(np.float32)
scale, bias = np.ones(24, np.float32), np.zeros(24, np.float32)
y, *statistics = native.batch_norm(x, scale, bias, 1e-5, False)
dx, *_ = native.batch_norm_gradient(y, x, statistics, scale, bias, 1e-5, False)
kernel = np.eye(24) * np.eye(9)[4].reshape(3, 3, 1, 1)
centre = native.convolve(x, kernel.astype(np.float32))
means = np.asarray(y).mean((0, 1, 2)), np.asarray(dx).mean((0, 1, 2))
print(np.abs(means).max() < 1e-6, (centre == x).all())
"""


@pytest.mark.parametrize("compiler", ("g++", "clang++"))
def test_every_compiler_makes_what_works(tmp_path, compiler):
    """clang once made loads that need whole alignment, which 24 channels have not."""
    if shutil.which(compiler) is None:
        pytest.skip(f"{compiler} is not installed")
    environment = {"XDG_CACHE_HOME": str(tmp_path), "CXX": compiler}
    assert run_program(COMPARED, **environment).split() == ["True", "True"]
