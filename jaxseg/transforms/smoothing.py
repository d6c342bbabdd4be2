"""Blur, a lower resolution and block means along a line: as matrices made on the device.

They are what OpenCV does to a line on the host (`imaging.augment_contrast`, `imaging.geometry`).
"""

import jax
import jax.numpy as jnp

EXACT = jax.lax.Precision.HIGHEST  # a GPU or TPU would round places and intensities to 8 to 11 bits


def smoothing(size: int, sigma: jax.Array, resolution: jax.Array) -> jax.Array:
    """Return the matrix that blurs a line, then lowers its resolution.

    Args:
        size: of the line.
        sigma: of the Gaussian in voxels, well below the size; 0: none.
        resolution: share (0..1) of the voxels it is averaged down to, then interpolated up; 1:
            none.

    Returns:
        [size, size] float32, its rows sum to 1; the identity where there is nothing to do.
    """
    return jnp.matmul(lower_resolution(size, resolution), blur(size, sigma), precision=EXACT)


def blur(size: int, sigma: jax.Array) -> jax.Array:
    """Return the Gaussian [size, size] of four standard deviations, mirrored at the outermost."""
    reach = jnp.round(8 * sigma + 1) // 2  # OpenCV's size of the window, an odd number, halved
    at, of = jnp.arange(size)[:, None], jnp.arange(size)[None]
    inner = (of > 0, of < size - 1)  # the outermost are the mirrors
    offsets = (of - at, -of - at, 2 * (size - 1) - of - at)
    counts = (jnp.ones((1, size), bool), *inner)
    width = 2 * jnp.square(jnp.maximum(sigma, 1e-3))
    weights = sum(
        jnp.where((jnp.abs(d) <= reach) & counted, jnp.exp(-jnp.square(d) / width), 0.0)
        for d, counted in zip(offsets, counts, strict=True)
    )
    return weights / weights.sum(1, keepdims=True)


def lower_resolution(size: int, resolution: jax.Array) -> jax.Array:
    """Return the matrix [size, size] that averages a line down and interpolates it up again."""
    small = jnp.maximum(jnp.round(size * resolution), 1)
    centre = jnp.clip((jnp.arange(size) + 0.5) * small / size - 0.5, 0, small - 1)
    up = jnp.maximum(1 - jnp.abs(centre[:, None] - jnp.arange(size)[None]), 0)
    return jnp.matmul(up, averaging(size, size, size / small), precision=EXACT)


def averaging(size: int, rows: int, block: jax.Array) -> jax.Array:
    """Return the matrix [rows, size] whose row i is the mean of voxels i block .. (i + 1) block.

    Args:
        size: of the line.
        rows: as many as are wanted; those beyond the line's end are 0.
        block: at least 1, may be a fraction.
    """
    low = jnp.arange(rows)[:, None] * block
    voxel = jnp.arange(size)[None]
    covered = jnp.minimum(low + block, voxel + 1) - jnp.maximum(low, voxel)
    return jnp.maximum(covered, 0) / block


def along_axes(image: jax.Array, matrices: list[jax.Array]) -> jax.Array:
    """Multiply a matrix [new, S] along each axis of an image [*S, C]."""
    for axis, matrix in enumerate(matrices):
        product = jnp.tensordot(matrix, image, (1, axis), precision=EXACT)
        image = jnp.moveaxis(product, 0, axis)
    return image
