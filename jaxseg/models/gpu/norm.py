"""Norm and ReLU in eight passes, gradient included: three forward, five backward.

Plain two-pass statistics read the images once more, and what autodiff keeps is more than the
images: here the ReLU's mask is computed anew from them.
"""

import functools
import math
from collections.abc import Callable

import jax
import jax.numpy as jnp

from jaxseg.models.gpu import sums


@functools.partial(jax.custom_vjp, nondiff_argnums=(3, 4, 5, 6))
def norm(
    x: jax.Array,
    scale: jax.Array,
    bias: jax.Array,
    epsilon: float,
    slope: float,
    by_sample: bool,
    kernels: bool,
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Normalise each channel by its own mean and variance, then apply leaky ReLU.

    The statistics are taken in one pass, about the voxel in the middle (of the first sample, or
    of each). It lies a few standard deviations from the mean, which costs about a digit, where
    sums about 0 lose all of them to a large mean; so they need no history, as sums about the
    running mean would, which is far away in the first steps.

    Args:
        x: [B, *S, C], at least one number per channel (and sample).
        scale, bias: [C] float32.
        epsilon: added to the variance.
        slope: what is negative in the end is multiplied with it; 0: ReLU, 1: left as it is.
        by_sample: instance norm; otherwise all of the batch together.
        kernels: sum with those of `sums` where they fit; for one device.

    Returns:
        [B, *S, C] like x, mean and biased variance, float32, [B, C] by sample, otherwise [C].
        Only the first has a gradient.
    """
    return _forward(x, scale, bias, epsilon, slope, by_sample, kernels)[0]


def _forward(x, scale, bias, epsilon, slope, by_sample, kernels) -> tuple[tuple, tuple]:
    shift = _middle(x, by_sample)
    first, second = _totals(sums.moments, (x,), (shift,), by_sample, kernels)
    count = _count(x, by_sample)
    moved = first / count
    variance = jnp.maximum(second / count - jnp.square(moved), 0)
    rate = jax.lax.rsqrt(variance + epsilon)
    # Mean and shift stay two numbers: of a large mean a single one would lose digits.
    unit = sums.unit(x, shift, moved, rate)
    y = sums.activate(unit * _row(scale, x) + _row(bias, x), slope).astype(x.dtype)
    shape = (x.shape[0], x.shape[-1]) if by_sample else scale.shape
    statistics = (shift + moved).reshape(shape), variance.reshape(shape)
    return (y, *statistics), (x, shift, moved, rate, scale, bias)


def _backward(epsilon, slope, by_sample, kernels, saved: tuple, gradients: tuple) -> tuple:
    x, shift, moved, rate, scale, bias = saved
    wide_scale, wide_bias = _row(scale, x), _row(bias, x)
    rows = shift, moved, rate, *(jnp.broadcast_to(v, shift.shape) for v in (wide_scale, wide_bias))
    with_slope = functools.partial(sums.gradients, slope=slope)
    d_bias, d_scale = _totals(with_slope, (x, gradients[0]), rows, by_sample, kernels)
    unit, dy = sums.unit_and_gradient(x, gradients[0], *rows, slope=slope)
    count = _count(x, by_sample)
    dx = (wide_scale * rate) * (dy - d_bias / count - unit * (d_scale / count))
    channels = x.shape[-1]
    over = (jnp.sum(v.reshape(-1, channels), 0) for v in (d_scale, d_bias))
    return (dx.astype(x.dtype), *over)


norm.defvjp(_forward, _backward)


def _middle(x: jax.Array, by_sample: bool) -> jax.Array:
    """Return the voxel in the middle, float32 [1 or B, 1, ..., C]."""
    sample = slice(None) if by_sample else slice(0, 1)
    place = (slice(size // 2, size // 2 + 1) for size in x.shape[1:-1])
    return x[(sample, *place)].astype(jnp.float32)


def _count(x: jax.Array, by_sample: bool) -> float:
    return float(math.prod(x.shape[by_sample:-1]))


def _row(vector: jax.Array, x: jax.Array) -> jax.Array:
    return vector.reshape((1,) * (x.ndim - 1) + vector.shape)


def _totals(
    terms: Callable, images: tuple, rows: tuple, by_sample: bool, kernels: bool
) -> tuple[jax.Array, jax.Array]:
    """Return the sums of both terms over all but channels (and samples), shaped as the rows."""
    if kernels and sums.fits(images[0].shape[-1]):
        return sums.by_kernel(terms, images, rows)
    axes = tuple(range(int(by_sample), images[0].ndim - 1))
    first, second = (jnp.sum(term, axes, keepdims=True) for term in terms(*images, *rows))
    return first, second
