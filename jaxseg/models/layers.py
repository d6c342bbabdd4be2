"""Convolution and batch norm that are fast on every device, for images and volumes.

Convolutions of 3x3 and 3x3x3, batch and instance norm are XLA's, but for a single CPU device,
where `native` has faster ones, and for a GPU that `gpu` has something for. What changes the size
of an image is in `resampling.py`.
"""

import functools
from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxseg.models import gpu, native
from jaxseg.models.gpu import fold, head
from jaxseg.models.gpu.norm import norm as gpu_norm

_NATIVE_WINDOWS = (3, 3), (1, 3, 3), (3, 3, 3)


def convolve(x: jax.Array, kernel: jax.Array, strides, padding, **options) -> jax.Array:
    """Convolve as `jax.lax.conv_general_dilated` does; what `nn.Conv` is to call.

    Args:
        x: [B, *S, C].
        kernel: [*window, C, O].
        strides, padding, options: as `nn.Conv` gives them.

    Returns:
        [B, *S, O], equal up to rounding; exactly where neither `native` nor `gpu` has something
        for it.
    """
    # A window of one pixel is a matrix product, whose gradient is faster than a convolution's.
    if kernel.size == kernel.shape[-2] * kernel.shape[-1] and set(strides) == {1}:
        weights = kernel.reshape(kernel.shape[-2:])
        by_sums = head.fits(weights) and gpu.uses("head")
        return (head.product if by_sums else product)(x, weights)
    window, pixels = kernel.shape[:-2], set(strides) == {1}
    around = "SAME" if pixels else [(n // 2, n // 2) for n in window]
    if pixels and padding == around and fold.fits(x, kernel) and gpu.uses("fold"):
        folded = fold.fold(x, kernel, fold.together(kernel))
        y = jax.lax.conv_general_dilated(*folded, strides, padding, **options)
        return y.reshape(*x.shape[:-1], kernel.shape[-1])
    simple = window in _NATIVE_WINDOWS and padding == around
    simple &= x.dtype == kernel.dtype and native.fits(kernel.shape[-1])
    if simple and native.available() and native.takes(x.dtype):
        y = _convolve_native(x, kernel)
        # Strides by leaving out: XLA's gradient of a strided convolution takes forty times as long.
        return y if pixels else y[(slice(None), *(slice(None, None, s) for s in strides))]
    return jax.lax.conv_general_dilated(x, kernel, strides, padding, **options)


@jax.custom_vjp
def _convolve_native(x: jax.Array, kernel: jax.Array) -> jax.Array:
    return native.convolve(x, kernel)


def _convolve_native_forward(x: jax.Array, kernel: jax.Array) -> tuple[jax.Array, tuple]:
    return native.convolve(x, kernel), (x, kernel)


def _convolve_native_backward(saved: tuple, dy: jax.Array) -> tuple[jax.Array, jax.Array]:
    x, kernel = saved
    if native.fits(x.shape[-1]):
        dx = native.image_gradient(dy, kernel)
    else:  # the scans themselves, whose gradient nobody asks for and XLA leaves out
        window, axes = kernel.shape[:-2], "DHW"[-(x.ndim - 2) :]
        mirrored = jnp.flip(kernel, range(len(window))).swapaxes(-1, -2)
        order = (f"N{axes}C", f"{axes}IO", f"N{axes}C")
        strides = (1,) * len(window)
        dx = jax.lax.conv_general_dilated(dy, mirrored, strides, "SAME", dimension_numbers=order)
    return dx, native.kernel_gradient(x, dy, kernel.shape[:-2])


_convolve_native.defvjp(_convolve_native_forward, _convolve_native_backward)


@jax.custom_vjp
def product(x: jax.Array, weights: jax.Array) -> jax.Array:
    """Return x @ weights, [..., C] and [C, O]: [..., O]."""
    return x @ weights


def _product_forward(x: jax.Array, weights: jax.Array) -> tuple[jax.Array, tuple]:
    return x @ weights, (x, weights)


def _product_backward(saved: tuple, dy: jax.Array) -> tuple[jax.Array, jax.Array]:
    x, weights = saved
    batch = tuple(range(x.ndim - 1))
    # XLA on CPU transposes the first operand, slowly: let it be the smaller one.
    if x.size < dy.size:
        dw = jax.lax.dot_general(x, dy, ((batch, batch), ((), ())))
    else:
        dw = jax.lax.dot_general(dy, x, ((batch, batch), ((), ()))).T
    return dy @ weights.T, dw


product.defvjp(_product_forward, _product_backward)


def batch_norm(x: jax.Array, train: bool, relu: bool, dtype: jnp.dtype) -> jax.Array:
    """Normalise a batch, then apply ReLU where asked; to be called by a compact module.

    Args:
        x: [B, *S, C].
        train: use the batch's own statistics, in float32, and move the running ones towards them.
        relu: set what is negative to 0 in the end.
        dtype: of the result.

    Returns:
        [B, *S, C]; the variables are those of an `nn.BatchNorm` with the name "batch".
    """
    common = {"momentum": 0.9, "epsilon": 1e-5, "name": "batch"}
    if train and (norm := _own_norm(x, dtype)):
        return _BatchNorm(norm=norm, relu=relu, **common)(x)
    # Two-pass variance: the one-pass form loses all digits on inputs with a large mean.
    y = nn.BatchNorm(not train, dtype=dtype, use_fast_variance=False, **common)(x)
    return nn.relu(y) if relu else y


def _own_norm(x: jax.Array, dtype: jnp.dtype) -> Callable | None:
    """Return norm and leaky ReLU in one, called as `native.norm` is; None: flax's serves."""
    if x.dtype == dtype and gpu.uses("norm"):
        return gpu_norm
    simple = x.dtype == dtype and native.fits(x.shape[-1])
    return _norm_native if simple and native.available() and native.takes(dtype) else None


class _BatchNorm(nn.Module):
    """`nn.BatchNorm` in training, and ReLU where asked, of [..., C]."""

    norm: Callable
    relu: bool
    momentum: float
    epsilon: float

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        shape, initial = x.shape[-1:], nn.initializers
        scale = self.param("scale", initial.ones_init(), shape, jnp.float32)
        bias = self.param("bias", initial.zeros_init(), shape, jnp.float32)
        mean = self.variable("batch_stats", "mean", jnp.zeros, shape, jnp.float32)
        variance = self.variable("batch_stats", "var", jnp.ones, shape, jnp.float32)
        slope = 0.0 if self.relu else 1.0
        y, *statistics = self.norm(x, scale, bias, self.epsilon, slope, False)
        statistics = jax.lax.stop_gradient(statistics)  # it has none for them
        if not self.is_initializing():
            for running, new in zip((mean, variance), statistics, strict=True):
                running.value = self.momentum * running.value + (1 - self.momentum) * new
        return y


def leaky_relu(x: jax.Array, slope: float) -> jax.Array:
    """Return x where it is positive, else slope x: of any shape."""
    return nn.leaky_relu(x, slope) if slope else nn.relu(x)


def instance_norm(x: jax.Array, slope: float, dtype: jnp.dtype, epsilon: float = 1e-6) -> jax.Array:
    """Normalise each channel of each sample, then leaky ReLU; to be called by a compact module.

    Args:
        x: [B, *S, C].
        slope: what is negative in the end is multiplied with it; 0: ReLU, 1: left as it is.
        dtype: of the result; statistics are taken in float32.
        epsilon: added to the variance.

    Returns:
        [B, *S, C]; the variables are those of an `nn.GroupNorm` with the name "instance".
    """
    if norm := _own_norm(x, dtype):
        return _InstanceNorm(norm, epsilon, slope, name="instance")(x)
    # Two-pass variance, as with the batch.
    common = {"epsilon": epsilon, "dtype": dtype, "use_fast_variance": False, "name": "instance"}
    y = nn.GroupNorm(num_groups=x.shape[-1], **common)(x)
    return y if slope == 1 else leaky_relu(y, slope)


class _InstanceNorm(nn.Module):
    """`nn.GroupNorm` with a group per channel, then leaky ReLU, of [B, *S, C]."""

    norm: Callable
    epsilon: float
    slope: float

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        shape, initial = x.shape[-1:], nn.initializers
        scale = self.param("scale", initial.ones_init(), shape, jnp.float32)
        bias = self.param("bias", initial.zeros_init(), shape, jnp.float32)
        return self.norm(x, scale, bias, self.epsilon, self.slope, True)[0]


@functools.partial(jax.custom_vjp, nondiff_argnums=(3, 4, 5))
def _norm_native(x, scale, bias, epsilon, slope, by_sample) -> tuple[jax.Array, ...]:
    return tuple(native.norm(x, scale, bias, epsilon, slope, by_sample))


def _norm_native_forward(x, scale, bias, epsilon, slope, by_sample) -> tuple[tuple, tuple]:
    y, *statistics = native.norm(x, scale, bias, epsilon, slope, by_sample)
    return (y, *statistics), (x, statistics, scale, bias)


def _norm_native_backward(epsilon, slope, by_sample, saved: tuple, gradients) -> tuple:
    return tuple(native.norm_gradient(gradients[0], *saved, epsilon, slope))


_norm_native.defvjp(_norm_native_forward, _norm_native_backward)
