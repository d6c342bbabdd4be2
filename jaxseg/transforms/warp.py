"""Sampling of images and volumes at any places, linear, without a rank."""

import itertools

import jax
import jax.numpy as jnp

from jaxseg.imaging.augment_shape import spline_weights
from jaxseg.transforms.smoothing import EXACT


def places(matrix: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    """Return where each voxel of the training grid lies in the source: [*shape, n] float32.

    Args:
        matrix: [n, n + 1] float32, (training voxel, 1) to source voxel.
        shape: of the training grid, n sizes.
    """
    rank = len(shape)
    grid = matrix[:, -1].reshape((1,) * rank + (-1,))
    for axis, size in enumerate(shape):
        line = jnp.arange(size, dtype=jnp.float32)
        line = line.reshape((1,) * axis + (-1,) + (1,) * (rank - axis))
        grid = grid + line * matrix[:, axis].reshape((1,) * rank + (-1,))
    return grid


def displace(nodes: jax.Array, shape: tuple[int, ...], spacing: float) -> jax.Array:
    """Return the smooth displacement of each voxel: cubic B-splines between nodes.

    As `imaging.augment_shape.smooth_field`, one field for each axis of the source.

    Args:
        nodes: [n, *N] float32, `augment_shape.node_grid` of them along the axes.
        shape: of the training grid, n sizes.
        spacing: training voxels between neighbouring nodes.

    Returns:
        [*shape, n] float32.
    """
    field = jnp.moveaxis(nodes, 0, -1)
    for axis, size in enumerate(shape):
        weights = spline_weights(size, nodes.shape[1 + axis], spacing)
        product = jnp.tensordot(weights, field, (1, axis), precision=EXACT)
        field = jnp.moveaxis(product, 0, axis)
    return field


def sample(image: jax.Array, where: jax.Array) -> jax.Array:
    """Sample linearly; outside of the image is 0.

    Args:
        image: [*S, C] float32.
        where: [*T, n] float32, in voxels of the image, centres at integers.

    Returns:
        [*T, C] float32.
    """
    *size, channels = image.shape
    rows = image.reshape(-1, channels)
    low = jnp.floor(where)
    part = where - low
    low = low.astype(jnp.int32)
    total = jnp.zeros((*where.shape[:-1], channels), image.dtype)
    for corner in itertools.product((0, 1), repeat=len(size)):
        weight = jnp.ones(where.shape[:-1], image.dtype)
        index = jnp.zeros(where.shape[:-1], jnp.int32)
        for axis, offset in enumerate(corner):
            at = low[..., axis] + offset
            along = part[..., axis] if offset else 1 - part[..., axis]
            weight *= jnp.where((at >= 0) & (at < size[axis]), along, 0)
            index = index * size[axis] + jnp.clip(at, 0, size[axis] - 1)
        total += weight[..., None] * jnp.take(rows, index, axis=0)
    return total


def nearest(image: jax.Array, where: jax.Array) -> jax.Array:
    """Take the nearest voxel; outside of the image is 0. As `sample`, of any dtype."""
    *size, channels = image.shape
    at = jnp.moveaxis(jnp.floor(where + 0.5).astype(jnp.int32), -1, 0)
    index, inside = jnp.zeros(where.shape[:-1], jnp.int32), jnp.ones(where.shape[:-1], bool)
    for place, length in zip(at, size, strict=True):
        inside &= (place >= 0) & (place < length)
        index = index * length + jnp.clip(place, 0, length - 1)
    found = jnp.take(image.reshape(-1, channels), index, axis=0)
    return jnp.where(inside[..., None], found, 0)
