"""What surrounds the network when a scan is segmented in patches, as JAX functions to be exported.

The shapes of scans may be symbolic. The host does the same with NumPy (`imaging.volumes`,
`imaging.resample`, `intensity.normalise`); tests hold the two together.
"""

import jax
import jax.numpy as jnp

from jaxseg.imaging.volumes import MARGIN
from jaxseg.shipping.portable import EXACT, block_means
from jaxseg.shipping.portable_volume import darken_background, head_box_3d, head_mask, statistics


def scan(volume: jax.Array, least: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Return what a prediction needs to know of a scan, as `volumes.with_statistics`.

    Args:
        volume: [D, H, W, C] float32, finite, raw intensities.
        least: float32, that its integers can be, as -32768 of int16; -inf: of other numbers.

    Returns:
        The volume with its background dark, stats [C, 4] float32, and the box of its head, [2, 3]
        int32, as `volumes.head_and_truth` has it without truth.
    """
    volume = darken_background(volume, least)
    head = head_mask(volume)
    end = jnp.stack([jnp.asarray(n, jnp.int32) for n in volume.shape[:3]])
    box = jnp.clip(head_box_3d(head) + jnp.array([[-MARGIN], [MARGIN]]), 0, end[None])
    return volume, statistics(volume, head), box


def normalise(image: jax.Array, stats: jax.Array) -> jax.Array:
    """Return [..., C] float32, as `intensity.normalise`; stats [C, 4]."""
    low, high, mean, std = jnp.expand_dims(stats.T, range(1, image.ndim))
    return (jnp.clip(image, low, high) - mean) / std


def to_grid(image: jax.Array, stats: jax.Array, grid: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Normalise and resample an image to the spacing of the training grid.

    Args:
        image: [D, H, W, C] float32, raw intensities.
        stats: [C, 4] float32.
        grid: [d, h, w], of any values: the new shape.

    Returns:
        [d, h, w, C] float32, and the stats [C, 4] that it has now: bounds, 0 and 1.
    """
    low, high = normalise(stats[:, :2].T, stats)
    now = jnp.stack([low, high, jnp.zeros_like(low), jnp.ones_like(low)], axis=-1)
    return resample(normalise(image, stats), grid), now


def resample(array: jax.Array, grid: jax.Array) -> jax.Array:
    """Return [D, H, W, C] float32 as [d, h, w, C], as `resample.resample`; grid as in `to_grid`."""
    for axis, new in enumerate(grid.shape):
        weights = _weights(array.shape[axis], new)
        array = jnp.tensordot(weights, array, (1, axis), precision=EXACT)
        array = jnp.moveaxis(array, 0, axis)
    return array


def _weights(source: int, target: int) -> jax.Array:
    """Return [target, source] float32; positions are exact integers before they are divided."""
    size, new = jnp.asarray(source, jnp.int32), jnp.asarray(target, jnp.int32)
    blocks, means = block_means(source, jnp.maximum(size // new, 1))
    position = jnp.clip((2 * jnp.arange(target) + 1) * blocks - new, 0, 2 * new * (blocks - 1))
    whole, rest = position // (2 * new), position % (2 * new)
    upper = (rest / (2 * new)).astype(jnp.float32)[:, None]
    block = jnp.arange(source)[None]
    linear = jnp.where(block == whole[:, None], 1 - upper, 0)
    linear += jnp.where(block == whole[:, None] + 1, upper, 0)
    return jnp.matmul(linear, means, precision=EXACT)
