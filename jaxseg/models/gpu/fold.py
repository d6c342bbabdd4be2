"""Convolutions of few channels, with neighbours in a row taken together as more channels.

A GPU's matrix units take channels by tens. Pixels that lie side by side in a row lie so in memory:
seen as one pixel with more channels nothing is moved, and the kernel becomes one of the same window
with noughts in it: twice the products, of a shape that suits. On an H100 at 32 channels the
gradient of the kernel takes half the time so, forward and the image's gradient 0.9 of it, and the
scans' own three channels a third.
"""

import math

import jax
import jax.numpy as jnp
import numpy as np

_FEW = 8  # inputs of a convolution of the scans themselves, at most
_WIDE = 64  # outputs up to which others are folded
_MOST = 4  # neighbours


def fits(x: jax.Array, kernel: jax.Array) -> bool:
    """Return whether there is something to fold: bfloat16 of few channels, and whole groups."""
    number = together(kernel)
    half = x.dtype == kernel.dtype == jnp.bfloat16
    return half and kernel.shape[-3] == 3 and number > 1 and not x.shape[-2] % number


def fold(x: jax.Array, kernel: jax.Array, together: int) -> tuple[jax.Array, jax.Array]:
    """Return images and kernel whose convolution with noughts around, reshaped, is the same.

    Args:
        x: [B, *S, W, C]; `fits`.
        kernel: [*window, C, O], three voxels wide along the last axis.
        together: P neighbours taken as one, a divisor of the width.

    Returns:
        [B, *S, W / P, P C] and [*window, P C, P O], C made even.
    """
    odd, none = (0, x.shape[-1] % 2), (0, 0)  # so that four together are a multiple of eight
    x = jnp.pad(x, [none] * (x.ndim - 1) + [odd])
    kernel = jnp.pad(kernel, [none] * (kernel.ndim - 2) + [odd, none])
    *size, width, inputs = x.shape
    return x.reshape(*size, width // together, together * inputs), _wide(kernel, together)


def together(kernel: jax.Array) -> int:
    """Return how many neighbours to take as one; 1: the kernel is wide enough."""
    inputs, outputs = kernel.shape[-2:]
    return _MOST if inputs < _FEW else max(1, min(_MOST, _WIDE // outputs))


def _wide(kernel: jax.Array, together: int) -> jax.Array:
    """Return the kernel [*window, P C, P O] for P neighbours as one."""
    *window, taps, inputs, outputs = kernel.shape
    rows = kernel.reshape(math.prod(window), taps, 1, 1, inputs, 1, outputs)
    # Exact: of each sum one term is not nought. The gradient adds up what copies of a tap get. As a
    # matrix product, which it is, XLA would look for the best kernel for it.
    places = _places(together)[:, None, :, :, None, :, None]
    wide = sum(places[k] * rows[:, k].astype(jnp.float32) for k in range(taps))
    return wide.reshape(*window, taps, together * inputs, together * outputs).astype(kernel.dtype)


def _places(together: int) -> np.ndarray:
    """Return float32 [3, 3, P, P]: 1 where tap k leads from pixel p of group d to pixel q."""
    k, d, p, q = np.ogrid[:3, :3, :together, :together]
    return (together * (d - 1) + p - q == k - 1).astype(np.float32)
