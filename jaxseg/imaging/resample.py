"""Lines, images and volumes at another resolution: one matrix for each axis."""

import functools
from collections.abc import Sequence

import numpy as np


@functools.lru_cache(maxsize=32)
def averaging(size: int, new: int) -> np.ndarray:
    """Return [new, size] float64, each new voxel the mean over the length that it covers."""
    edges = np.linspace(0, size, new + 1)
    low, high = edges[:-1, None], edges[1:, None]
    voxel = np.arange(size)
    covered = np.clip(np.minimum(high, voxel + 1) - np.maximum(low, voxel), 0, None)
    return covered / covered.sum(1, keepdims=True)


@functools.lru_cache(maxsize=32)
def interpolating(size: int, new: int) -> np.ndarray:
    """Return [new, size] float64, linear between voxel centres, constant beyond the outermost.

    Both lines have the same ends: new voxel i lies at (i + 1/2) size / new - 1/2.
    """
    at = np.clip((np.arange(new) + 0.5) * size / new - 0.5, 0, size - 1)
    low = np.minimum(np.floor(at).astype(int), max(size - 2, 0))
    matrix, rows = np.zeros((new, size)), np.arange(new)
    matrix[rows, low] = 1 - (at - low)
    matrix[rows, np.minimum(low + 1, size - 1)] += at - low
    return matrix


def resample(array: np.ndarray, shape: Sequence[int]) -> np.ndarray:
    """Return an array on another grid over the same box.

    Linear along each axis; where an axis gets less than half of its voxels they are first
    averaged, so nothing aliases. The same shape: the same values.

    Args:
        array: [*S, C], any real type.
        shape: the new S.

    Returns:
        [*shape, C] float32; a mask becomes the share of each voxel that is inside.
    """
    array = array.astype(np.float32, copy=False)
    for axis, new in enumerate(shape):
        size = array.shape[axis]
        if new != size:
            fewer = -(-size // max(size // new, 1))  # rounded up; `size` itself down to a half
            matrix = interpolating(fewer, new) @ averaging(size, fewer)
            array = np.tensordot(matrix.astype(np.float32), array, (1, axis))
            array = np.moveaxis(array, 0, axis)
    return np.ascontiguousarray(array)


def shape_at(
    shape: Sequence[int], spacing_mm: Sequence[float], wanted_mm: Sequence[float]
) -> tuple[int, ...]:
    """Return how many voxels of the wanted spacing fill a grid, at least 1 along each axis."""
    triples = zip(shape, spacing_mm, wanted_mm, strict=True)
    return tuple(max(round(n * s / w), 1) for n, s, w in triples)
