"""Smaller and larger feature maps, fast on every device, for images and volumes.

XLA's own gradients of the transposed convolution and of max-pooling run tens of times slower on
CPU than the rest of the network. On windows that do not overlap, the first is exactly a matrix
product, the second a maximum over views; tests compare values and gradients with flax's
`nn.ConvTranspose` and `nn.max_pool`. A window has a length per spatial axis, 1 where the axis
stays as it is.
"""

import functools
import itertools
import math

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxseg.models import gpu, native
from jaxseg.models.gpu import pool
from jaxseg.models.initial import kernel_init
from jaxseg.models.layers import product


class UpConv(nn.Module):
    """Transposed convolution whose stride is its window, put behind a skip.

    The kernel `[*window, C, features]` means the same as that of `nn.ConvTranspose`.
    """

    features: int
    window: tuple[int, ...]
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, skip: jax.Array, x: jax.Array) -> jax.Array:
        """Return [B, *(S w), K + features] of a skip [B, *(S w), K] and x [B, *S, C]."""
        rank = len(self.window)
        shape = (*self.window, x.shape[-1], self.features)
        kernel = self.param("kernel", kernel_init, shape, jnp.float32)
        bias = self.param("bias", nn.initializers.zeros_init(), (self.features,), jnp.float32)
        # flax keeps transposed kernels mirrored.
        kernel = jnp.flip(kernel, axis=tuple(range(rank))).astype(self.dtype)
        skip, x = skip.astype(self.dtype), x.astype(self.dtype)
        simple = rank in (2, 3) and all(native.fits(a.shape[-1]) for a in (skip, x, kernel))
        if simple and native.available() and native.takes(x.dtype):
            return _upconv_native(skip, x, kernel, bias)
        windows = jnp.moveaxis(kernel, rank, 0)  # [C, *window, O]
        y = product(x, windows.reshape(x.shape[-1], -1))
        bias = bias.astype(self.dtype).reshape((1,) * (rank + 1) + (-1,))
        y = pixel_shuffle(y, self.window) + bias
        return jnp.concatenate([skip, y], axis=-1)


@jax.custom_vjp
def _upconv_native(skip: jax.Array, x: jax.Array, kernel: jax.Array, bias: jax.Array) -> jax.Array:
    return native.upconv(skip, x, kernel, bias)


def _upconv_native_forward(skip, x, kernel, bias) -> tuple[jax.Array, tuple]:
    return native.upconv(skip, x, kernel, bias), (x, kernel)


def _upconv_native_backward(saved: tuple, dy: jax.Array) -> tuple[jax.Array, ...]:
    x, kernel = saved
    features = kernel.shape[-1]
    dx = native.upconv_image_gradient(dy, kernel)
    return dy[..., :-features], dx, *native.upconv_kernel_gradient(x, dy, features)


_upconv_native.defvjp(_upconv_native_forward, _upconv_native_backward)


def pixel_shuffle(x: jax.Array, window: tuple[int, ...]) -> jax.Array:
    """Spread channels over space: [B, *S, prod(window) O] -> [B, *(S w), O]."""
    batch, *size, channels = x.shape
    rank, outputs = len(window), channels // math.prod(window)
    x = x.reshape(batch, *size, *window, outputs)
    # [B, s1..sn, w1..wn, O] -> [B, s1, w1, ..., sn, wn, O]
    order = itertools.chain.from_iterable((1 + i, 1 + rank + i) for i in range(rank))
    x = x.transpose(0, *order, 2 * rank + 1)
    return x.reshape(batch, *(s * w for s, w in zip(size, window, strict=True)), outputs)


def _views(x: jax.Array, window: tuple[int, ...]) -> list[jax.Array]:
    """Return the strided views of x, one per element of the window, in row-major order."""
    return [
        x[(slice(None), *(slice(o, None, w) for o, w in zip(offset, window, strict=True)))]
        for offset in itertools.product(*map(range, window))
    ]


def _check_divides(x: jax.Array, window: tuple[int, ...]):
    if any(size % w for size, w in zip(x.shape[1:-1], window, strict=True)):
        raise ValueError(f"sizes {x.shape[1:-1]} must be multiples of the window {window}")


def max_pool(x: jax.Array, window: tuple[int, ...]) -> jax.Array:
    """Return the maximum of each window: [B, *(S w), C] -> [B, *S, C].

    The gradient goes to the first largest element of a window, as in `nn.max_pool`.

    Raises:
        ValueError: a size is no multiple of the window's (a row would be lost).
    """
    _check_divides(x, window)
    if gpu.uses("pool") and pool.fits(window):
        return pool.max_pool(x, window)
    return _max_pool(x, window)


@functools.partial(jax.custom_vjp, nondiff_argnums=(1,))
def _max_pool(x: jax.Array, window: tuple[int, ...]) -> jax.Array:
    return functools.reduce(jnp.maximum, _views(x, window))


def _max_pool_forward(x: jax.Array, window: tuple[int, ...]) -> tuple[jax.Array, tuple]:
    y = _max_pool(x, window)
    return y, (x, y)


def _max_pool_backward(window: tuple[int, ...], saved: tuple, dy: jax.Array) -> tuple[jax.Array]:
    x, y = saved
    simple = len(window) in (2, 3) and native.fits(x.shape[-1])
    if simple and native.available() and native.takes(x.dtype):
        return (native.pool_gradient(x, y, dy),)
    gradients, taken = [], jnp.zeros(y.shape, bool)
    for view in _views(x, window):
        first = (view == y) & ~taken
        taken |= first
        gradients.append(jnp.where(first, dy, 0))
    return (pixel_shuffle(jnp.concatenate(gradients, axis=-1), window),)


_max_pool.defvjp(_max_pool_forward, _max_pool_backward)


def mean_pool(x: jax.Array, window: tuple[int, ...]) -> jax.Array:
    """Return the mean of each window: [B, *(S w), C] -> [B, *S, C].

    Raises:
        ValueError: a size is no multiple of the window's.
    """
    _check_divides(x, window)
    pairs = ((size // w, w) for size, w in zip(x.shape[1:-1], window, strict=True))
    x = x.reshape(x.shape[0], *itertools.chain.from_iterable(pairs), x.shape[-1])
    return jnp.mean(x, axis=tuple(range(2, 2 * len(window) + 1, 2)))


def repeat(x: jax.Array, window: tuple[int, ...]) -> jax.Array:
    """Enlarge by the window with the nearest neighbour: [B, *S, C] -> [B, *(S w), C]."""
    return pixel_shuffle(jnp.concatenate([x] * math.prod(window), axis=-1), window)
