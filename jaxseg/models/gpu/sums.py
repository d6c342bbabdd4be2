"""What a norm sums over its images, and a kernel that sums it: Pallas, on Triton.

The terms are written once, for images and for the blocks of a kernel alike. Pallas on Triton is
deprecated from jax 0.11 on: the kernel has to earn its place on a card, or go with it.
"""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp

_BLOCK = 16384  # numbers of all images that a program holds: 128 registers a thread
_CHANNELS = 8, 1024  # fewest and most: a block has as many columns


def unit(x: jax.Array, shift: jax.Array, moved: jax.Array, rate: jax.Array) -> jax.Array:
    """Return the images with mean 0 and variance 1, float32; the mean is shift + moved."""
    return ((x.astype(jnp.float32) - shift) - moved) * rate


def activate(y: jax.Array, slope: float) -> jax.Array:
    """Return leaky ReLU as `layers.leaky_relu` does; slope 1: y itself."""
    if slope == 1:
        return y
    return jax.nn.leaky_relu(y, slope) if slope else jax.nn.relu(y)


def unit_and_gradient(x, dy, shift, moved, rate, scale, bias, *, slope: float):
    """Return `unit`, and the gradient before the activation: both float32."""
    normal, dy = unit(x, shift, moved, rate), dy.astype(jnp.float32)
    if slope == 1:
        return normal, dy
    y = normal * scale + bias
    if slope:
        return normal, jnp.where(y >= 0, dy, slope * dy)
    return normal, jnp.where(y > 0, dy, 0)  # at exactly 0 as jax has it


def moments(x: jax.Array, shift: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Return what the mean and the variance are sums of: float32."""
    near = x.astype(jnp.float32) - shift
    return near, jnp.square(near)


def gradients(x, dy, *rows, slope: float) -> tuple[jax.Array, jax.Array]:
    """Return what the gradients of bias and scale are sums of: float32."""
    normal, dy = unit_and_gradient(x, dy, *rows, slope=slope)
    return dy, dy * normal


def fits(channels: int) -> bool:
    """Return whether the kernel takes so many channels: a power of two, neither few nor many."""
    return _CHANNELS[0] <= channels <= _CHANNELS[1] and not channels & (channels - 1)


def by_kernel(
    terms: Callable, images: tuple[jax.Array, ...], rows: tuple[jax.Array, ...]
) -> tuple[jax.Array, jax.Array]:
    """Return the sums of two terms over the images in one pass.

    Args:
        terms: `moments` or `gradients`: (*images, *rows) -> two arrays, float32.
        images: [B, *S, C] each, `fits(C)`.
        rows: float32 [B, 1, ..., C] for sums by sample, [1, 1, ..., C] for sums over all.

    Returns:
        Two arrays shaped as the rows. On a device other than a GPU the same by XLA.
    """
    groups, channels = rows[0].shape[0], rows[0].shape[-1]
    blocks = [x.reshape(groups, -1, channels) for x in images]
    vectors = [row.reshape(groups, 1, channels) for row in rows]
    # By the device that the program is lowered for, which may not be of this machine.
    first, second = jax.lax.platform_dependent(
        *(*blocks, *vectors),
        cuda=functools.partial(_in_blocks, terms, len(blocks), False),
        default=functools.partial(_at_once, terms),
    )
    return first.reshape(rows[0].shape), second.reshape(rows[0].shape)


def _at_once(terms: Callable, *arrays: jax.Array) -> list[jax.Array]:
    return [jnp.sum(term, 1) for term in terms(*arrays)]


def _in_blocks(
    terms: Callable, images: int, interpret: bool, *arrays: jax.Array
) -> list[jax.Array]:
    """Return two sums [G, C] of images [G, R, C] and vectors [G, 1, C], in that order."""
    from jax.experimental import pallas as pl  # takes a while, and only this needs it
    from jax.experimental.pallas import triton

    groups, rows, channels = arrays[0].shape
    block = min(_BLOCK // (images * channels), pl.next_power_of_2(rows))

    def kernel(*refs):
        *given, made = refs
        # In the last block there may be fewer: beyond is memory of something else.
        row = jax.lax.broadcasted_iota(jnp.int32, (block, channels), 0)
        inside = pl.program_id(0) * block + row < rows
        loaded = [triton.load(ref, mask=inside, other=0.0) for ref in given[:images]]
        vectors = [ref[...] for ref in given[images:]]
        for number, term in enumerate(terms(*loaded, *vectors)):
            made[number, :] = jnp.sum(jnp.where(inside, term, 0), 0)

    count = pl.cdiv(rows, block)
    image = pl.BlockSpec((None, block, channels), lambda i, group: (group, i, 0))
    vector = pl.BlockSpec((None, 1, channels), lambda i, group: (group, 0, 0))
    parts = pl.pallas_call(
        kernel,
        grid=(count, groups),
        in_specs=[image] * images + [vector] * (len(arrays) - images),
        out_specs=pl.BlockSpec((None, None, 2, channels), lambda i, group: (group, i, 0, 0)),
        out_shape=jax.ShapeDtypeStruct((groups, count, 2, channels), jnp.float32),
        interpret=interpret,
        compiler_params=triton.CompilerParams(num_warps=4),
    )(*arrays)
    total = jnp.sum(parts, 1)
    return [total[:, 0], total[:, 1]]
