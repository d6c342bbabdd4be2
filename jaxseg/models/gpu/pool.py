"""Max-pooling that keeps where each largest element was: 2.75 passes, gradient included.

A view for each element of the window is compared on the way forward, when all of them are read
anyway; on the way back nothing of the images is read.
"""

import functools
import itertools
import math

import jax
import jax.numpy as jnp


def fits(window: tuple[int, ...]) -> bool:
    """Return whether the elements of a window can be numbered in a byte."""
    return math.prod(window) <= 256


@functools.partial(jax.custom_vjp, nondiff_argnums=(1,))
def max_pool(x: jax.Array, window: tuple[int, ...]) -> jax.Array:
    """Return the maximum of each window: [B, *(S w), C] -> [B, *S, C].

    The gradient goes to the first largest element of a window, in row-major order. Sizes are
    multiples of the window's.
    """
    return _forward(x, window)[0]


def _forward(x: jax.Array, window: tuple[int, ...]) -> tuple[jax.Array, jax.Array]:
    """Return the maxima and, uint8, which element of its window each is."""
    first, *others = (_view(x, window, place) for place in itertools.product(*map(range, window)))
    y, which = first, jnp.zeros(first.shape, jnp.uint8)
    for number, view in enumerate(others, 1):
        which = jnp.where(view > y, jnp.uint8(number), which)
        y = jnp.maximum(y, view)
    return y, which


def _view(x: jax.Array, window: tuple[int, ...], place: tuple[int, ...]) -> jax.Array:
    # Reshaped, neighbours in memory stay neighbours; strided slices were slower on a card.
    index = itertools.chain.from_iterable((slice(None), at) for at in place)
    return _split(x, window)[(slice(None), *index)]


def _split(x: jax.Array, window: tuple[int, ...]) -> jax.Array:
    sizes = ((size // w, w) for size, w in zip(x.shape[1:-1], window, strict=True))
    return x.reshape(x.shape[0], *itertools.chain.from_iterable(sizes), x.shape[-1])


def _backward(window: tuple[int, ...], which: jax.Array, dy: jax.Array) -> tuple[jax.Array]:
    rank, batch, channels = len(window), dy.shape[0], dy.shape[-1]
    sizes = tuple(dy.shape[1:-1])
    shape = (batch, *itertools.chain.from_iterable(zip(sizes, window, strict=True)), channels)
    kept = (0, *range(1, 2 * rank, 2), 2 * rank + 1)  # all axes but those within a window
    wide = functools.partial(jax.lax.broadcast_in_dim, shape=shape, broadcast_dimensions=kept)
    number = jnp.arange(math.prod(window), dtype=jnp.uint8).reshape(window)
    number = jax.lax.broadcast_in_dim(number, shape, tuple(range(2, 2 * rank + 1, 2)))
    dx = jnp.where(wide(which) == number, wide(dy), 0)
    return (dx.reshape(batch, *(s * w for s, w in zip(sizes, window, strict=True)), channels),)


max_pool.defvjp(_forward, _backward)
