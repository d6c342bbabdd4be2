"""From raw slices to the prediction on their own grid, as one JAX function that can be exported.

The host does the same with NumPy and OpenCV (`intensity.normalise`, `geometry.prepare_slice`,
`geometry.to_native_grid`); tests hold the two together. Resizing without rotation is separable: a
matrix product along the rows and one along the columns, whose weights follow from the box.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp

# The default of GPU and TPU rounds to fewer bits than an image has.
EXACT = jax.lax.Precision.HIGHEST
EDGE = 1e-4  # training pixels; a pixel whose centre lies just on the edge of the grid is inside


def segment_slices(
    image: jax.Array,
    stats: jax.Array,
    box: jax.Array,
    *,
    predict: Callable[[jax.Array], jax.Array],
    image_size: tuple[int, int],
) -> jax.Array:
    """Normalise slices, fit the box into the training grid, predict and bring the result back.

    Args:
        image: [B, H, W, C] float32, raw intensities.
        stats: [C, 4] float32, see `intensity.volume_statistics`.
        box: [4] int32, y0, x0, y1, x1, half-open, in pixels: `intensity.head_box`, or the whole
            slice.
        predict: [B, h, w, C] float32 on the training grid -> [B, h, w, K] in 0..1.
        image_size: (h, w) of the training grid.

    Returns:
        [B, H, W, K] float32 in 0..1; 0 outside the training grid.
    """
    low, high, mean, std = (stats[:, i].reshape(1, 1, 1, -1) for i in range(4))
    dark = (jnp.clip(0.0, low, high) - mean) / std  # what lies outside the slice
    normal = (jnp.clip(image, low, high) - mean) / std
    there, back = fit_weights(image.shape[1:3], image_size, box)
    return _resize(predict(_resize(normal - dark, *there) + dark), *back)


def fit_weights(
    native_size: tuple[int, int], image_size: tuple[int, int], box: jax.Array
) -> tuple[tuple[jax.Array, jax.Array], tuple[jax.Array, jax.Array]]:
    """Return the weights of rows and columns for the way to the training grid and back.

    Args:
        native_size: (H, W) of the slice, pixels.
        image_size: (h, w) of the training grid, pixels.
        box: [4] int32, as in `segment_slices`.

    Returns:
        ([h, H], [w, W]), outside the slice 0, and ([H, h], [W, w]), outside the training grid 0.
    """
    starts, ends = (box[0], box[1]), (box[2], box[3])
    sizes = [end - start for start, end in zip(starts, ends, strict=True)]
    ratios = [_float(n) / size for n, size in zip(sizes, image_size, strict=True)]
    scale = jnp.maximum(*ratios)  # native pixels per training pixel
    # What shrinks by more than 2 is averaged over blocks of so many pixels first. In integers,
    # so that no rounding decides.
    block = jnp.maximum(*(n // size for n, size in zip(sizes, image_size, strict=True)))
    block = jnp.where(jnp.logical_or(*_more_than(sizes, image_size)), block, 1)
    block_back = jnp.minimum(*(size // n for n, size in zip(sizes, image_size, strict=True)))
    block_back = jnp.where(jnp.logical_and(*_more_than(image_size, sizes)), block_back, 1)
    there, back = [], []
    for start, end, native, size in zip(starts, ends, native_size, image_size, strict=True):
        shift = _float(start + end - 1) / 2 - scale * (size - 1) / 2
        there.append(_weights(_iota(size) * scale + shift, native, block))
        position = (_iota(native) - shift) / scale
        inside = (position >= -0.5 - EDGE) & (position <= size - 0.5 + EDGE)
        weights = _weights(position, size, block_back, clamp=True)  # no fading at the edge
        back.append(jnp.where(inside[:, None], weights, 0))
    return tuple(there), tuple(back)


def _more_than(sizes, others) -> list[jax.Array]:
    """Return of each axis whether a size is more than twice the other."""
    return [n > 2 * other for n, other in zip(sizes, others, strict=True)]


def _weights(position: jax.Array, source: int, block: jax.Array, clamp: bool = False) -> jax.Array:
    """Return [target, source]: means of blocks of pixels, then linear between their centres.

    Args:
        position: [target] float32, where to sample, in source pixels.
        source: number of pixels.
        block: int32 scalar, pixels; 1: no means.
        clamp: sample the outermost block instead of nothing outside.
    """
    blocks, means = block_means(source, block)
    centre = (position + 0.5) * (_float(blocks) / source) - 0.5
    if clamp:
        centre = jnp.clip(centre, 0.0, _float(blocks - 1))
    linear = jnp.maximum(0.0, 1 - jnp.abs(centre[:, None] - _iota(source)[None]))
    return jnp.matmul(linear, means, precision=EXACT)


def block_means(source: int, block: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Return how many blocks of so many pixels there are, and their means.

    Blocks are a little smaller than asked for where they must be.

    Returns:
        int32 scalar and [source, source] float32: block by pixel, 0 from the number of blocks on.
    """
    blocks = (source + block - 1) // block
    i, j = jnp.arange(source)[:, None], jnp.arange(source)[None]
    # Overlap of block i with pixel j in units of 1/blocks pixel; none from i = blocks on.
    first = jnp.maximum(i * source, j * blocks)
    last = jnp.minimum((i + 1) * source, (j + 1) * blocks)
    return blocks, _float(jnp.maximum(last - first, 0)) / source


def _resize(image: jax.Array, rows: jax.Array, columns: jax.Array) -> jax.Array:
    """Resize [B, H, W, C] to [B, h, w, C] by the weights [h, H] and [w, W]."""
    batch, height, width, channels = image.shape
    image = jnp.matmul(rows, image.reshape(batch, height, width * channels), precision=EXACT)
    image = image.reshape(batch, rows.shape[0], width, channels)
    return jnp.matmul(columns, image, precision=EXACT)


def _iota(size: int) -> jax.Array:
    return jnp.arange(size, dtype=jnp.float32)


def _float(x: jax.Array) -> jax.Array:
    return x.astype(jnp.float32)
