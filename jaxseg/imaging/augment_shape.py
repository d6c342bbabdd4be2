"""The place of a slice: movements and elastic displacements."""

import functools
import math
from collections.abc import Mapping

import cv2
import numpy as np

from jaxseg.imaging import geometry


def moved_matrix(
    matrix: np.ndarray, numbers: Mapping[str, np.ndarray], image_size: tuple[int, int]
) -> np.ndarray:
    """Return where to sample: the movement on the training grid, put before the fit.

    Args:
        matrix: [2, 3] from `geometry.fit_matrix`.
        numbers: from `slice_draws.draw`.
        image_size: (h, w) of the training grid.

    Returns:
        [2, 3] float64; where leading axes hold many slices, [..., 2, 3].
    """
    names = ("flipped", "degrees", "scale", "shift")
    moved = movement(image_size, *(numbers[name] for name in names))
    return geometry.compose(matrix, moved)


def bent(
    matrix: np.ndarray, nodes: np.ndarray, image_size: tuple[int, int], spacing: float
) -> np.ndarray:
    """Return where to sample with an elastic displacement before the matrix, [h, w, 2] float32.

    Args:
        matrix: [2, 3] from `moved_matrix`.
        nodes: [2, ny, nx] (x, y) in training pixels, as `node_grid` says.
        image_size: (h, w) of the training grid.
        spacing: training pixels between neighbouring nodes.
    """
    displacement = np.stack([smooth_field(n, image_size, spacing) for n in nodes])
    return geometry.dense_map(matrix, image_size, displacement)


def movement(
    image_size: tuple[int, int],
    flip: np.ndarray,
    degrees: np.ndarray,
    scale: np.ndarray,
    shift: np.ndarray,
) -> np.ndarray:
    """Return the matrix from the moved image's pixels back to the unmoved one's.

    Args:
        image_size: (h, w) of the grid; flip, rotation and scaling leave its centre in place.
        flip: [...] bool, left becomes right, before the rest.
        degrees: [...], counter-clockwise as displayed (rows downwards).
        scale: [...], above 1 magnifies.
        shift: [..., 2], (x, y) in pixels, right and down, after the rest.

    Returns:
        [..., 2, 3] float64, moved (x, y, 1) to unmoved (x, y).
    """
    centre = (np.array(image_size[::-1]) - 1) / 2
    # Not NumPy's cosine, whose last digit depends on the processor.
    cos, sin = (
        np.reshape([of(math.radians(d)) for d in np.ravel(degrees)], np.shape(degrees))
        for of in (math.cos, math.sin)
    )
    mirror = np.where(flip, -1.0, 1.0)
    linear = np.stack([mirror * cos, -mirror * sin, sin, cos], -1)
    linear = linear.reshape(*linear.shape[:-1], 2, 2) / np.asarray(scale)[..., None, None]
    offset = centre - (linear @ (centre + shift)[..., None])[..., 0]
    return np.concatenate([linear, offset[..., None]], axis=-1)


def node_grid(image_size: tuple[int, int], spacing: float) -> tuple[int, int]:
    """Return how many nodes (rows, columns) a `smooth_field` needs."""
    return tuple(math.ceil((size - 1) / spacing) + 3 for size in image_size)


def smooth_field(nodes: np.ndarray, image_size: tuple[int, int], spacing: float) -> np.ndarray:
    """Interpolate nodes by uniform cubic B-splines (as in Rueckert et al., 1999).

    The weights are positive and sum to 1: no value leaves the range of the nodes, and a field
    of displacements cannot fold when the nodes stay below a quarter of their spacing.

    Args:
        nodes: [ny, nx] as `node_grid` says.
        image_size: (h, w).
        spacing: pixels between neighbouring nodes.

    Returns:
        [h, w] float32, twice continuously differentiable.
    """
    rows, columns = (
        spline_weights(size, count, spacing)
        for size, count in zip(image_size, nodes.shape, strict=True)
    )
    # Not `@`: NumPy's BLAS would start threads of its own beside the loader's.
    across = cv2.gemm(nodes.astype(np.float32), columns, 1, None, 0, flags=cv2.GEMM_2_T)
    return cv2.gemm(rows, across, 1, None, 0)


@functools.lru_cache(maxsize=8)  # the training grid is always the same
def spline_weights(size: int, count: int, spacing: float) -> np.ndarray:
    """Return [size, count] float32, the weight of each node at each pixel; not to be changed."""
    distance = np.abs(np.arange(size)[:, None] / spacing - (np.arange(count) - 1))
    near, far = 2 / 3 - distance**2 + distance**3 / 2, np.clip(2 - distance, 0, None) ** 3 / 6
    return np.where(distance < 1, near, far).astype(np.float32)
