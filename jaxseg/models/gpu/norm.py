"""Norm and ReLU in eight passes, gradient included: three forward, five backward.

Plain two-pass statistics read the images once more, and what autodiff keeps is more than the
images: here everything else is computed anew from them.
"""

import functools
import math

import jax
import jax.numpy as jnp


@functools.partial(jax.custom_vjp, nondiff_argnums=(3, 4, 5))
def norm(
    x: jax.Array, scale: jax.Array, bias: jax.Array, epsilon: float, slope: float, by_sample: bool
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

    Returns:
        [B, *S, C] like x, mean and biased variance, float32, [B, C] by sample, otherwise [C].
        Only the first has a gradient.
    """
    return _forward(x, scale, bias, epsilon, slope, by_sample)[0]


def _forward(x, scale, bias, epsilon, slope, by_sample) -> tuple[tuple, tuple]:
    shift, count, axes = _middle(x, by_sample), _count(x, by_sample), _axes(x, by_sample)
    near = x.astype(jnp.float32) - shift
    moved = jnp.sum(near, axes, keepdims=True) / count
    variance = jnp.sum(jnp.square(near), axes, keepdims=True) / count - jnp.square(moved)
    variance = jnp.maximum(variance, 0)
    rate = jax.lax.rsqrt(variance + epsilon)
    # Mean and shift stay two numbers: of a large mean a single one would lose digits.
    rows = shift, moved, rate, _row(scale, x), _row(bias, x)
    y = _activate(_before(_unit(x, rows), rows), slope).astype(x.dtype)
    shape = (x.shape[0], x.shape[-1]) if by_sample else scale.shape
    statistics = (shift + moved).reshape(shape), variance.reshape(shape)
    return (y, *statistics), (x, rows)


def _backward(epsilon, slope, by_sample, saved: tuple, gradients: tuple) -> tuple:
    x, rows = saved
    count, axes = _count(x, by_sample), _axes(x, by_sample)
    # Where XLA sees that a number is computed twice it keeps it, as large as the images.
    rows = jax.lax.optimization_barrier(rows)
    unit, dy = _unit_and_gradient(x, gradients[0], rows, slope)
    d_bias, d_scale = (jnp.sum(v, axes, keepdims=True) for v in (dy, dy * unit))
    rows, d_bias, d_scale = jax.lax.optimization_barrier((rows, d_bias, d_scale))
    unit, dy = _unit_and_gradient(x, gradients[0], rows, slope)
    dx = (rows[3] * rows[2]) * (dy - d_bias / count - unit * (d_scale / count))
    channels = x.shape[-1]
    over = (jnp.sum(v.reshape(-1, channels), 0) for v in (d_scale, d_bias))
    return (dx.astype(x.dtype), *over)


norm.defvjp(_forward, _backward)


def _unit(x: jax.Array, rows: tuple) -> jax.Array:
    """Return the images with mean 0 and variance 1, float32."""
    shift, moved, rate, *_ = rows
    return ((x.astype(jnp.float32) - shift) - moved) * rate


def _before(unit: jax.Array, rows: tuple) -> jax.Array:
    """Return what the activation takes."""
    return unit * rows[3] + rows[4]


def _activate(y: jax.Array, slope: float) -> jax.Array:
    """Return leaky ReLU as `layers.leaky_relu` does; slope 1: y itself."""
    if slope == 1:
        return y
    return jax.nn.leaky_relu(y, slope) if slope else jax.nn.relu(y)


def _unit_and_gradient(
    x: jax.Array, dy: jax.Array, rows: tuple, slope: float
) -> tuple[jax.Array, jax.Array]:
    """Return `_unit`, and the gradient before the activation: both float32."""
    unit, dy = _unit(x, rows), dy.astype(jnp.float32)
    if slope == 1:
        return unit, dy
    return unit, _through_activation(_before(unit, rows), dy, slope)


def _through_activation(y: jax.Array, dy: jax.Array, slope: float) -> jax.Array:
    """Return the gradient of `_activate` at y for a gradient dy, float32, at exactly 0 as jax's.

    By bits: of a comparison XLA would make an array, rather than to compare within a sum.
    """
    bits = functools.partial(jax.lax.bitcast_convert_type, new_dtype=jnp.int32)
    of_y = bits(y)
    sign = of_y >> 31  # all bits 1 where negative, else all 0
    if slope:
        negative = sign & (-(of_y & 0x7FFFFFFF) >> 31)  # and not -0
        chosen = (bits(dy) & ~negative) | (bits(slope * dy) & negative)
    else:
        chosen = bits(dy) & ((-of_y >> 31) & ~sign)
    return jax.lax.bitcast_convert_type(chosen, jnp.float32)


def _middle(x: jax.Array, by_sample: bool) -> jax.Array:
    """Return the voxel in the middle, float32 [1 or B, 1, ..., C]."""
    sample = slice(None) if by_sample else slice(0, 1)
    place = (slice(size // 2, size // 2 + 1) for size in x.shape[1:-1])
    return x[(sample, *place)].astype(jnp.float32)


def _axes(x: jax.Array, by_sample: bool) -> tuple[int, ...]:
    return tuple(range(int(by_sample), x.ndim - 1))


def _count(x: jax.Array, by_sample: bool) -> float:
    return float(math.prod(x.shape[by_sample:-1]))


def _row(vector: jax.Array, x: jax.Array) -> jax.Array:
    return vector.reshape((1,) * (x.ndim - 1) + vector.shape)
