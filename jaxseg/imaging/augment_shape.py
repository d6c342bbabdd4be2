"""Random changes."""

import functools
import math

import cv2
import numpy as np

from jaxseg.config import Augment
from jaxseg.imaging import geometry


def random_geometry(
    matrix: np.ndarray, rng: np.random.Generator, image_size: tuple[int, int], config: Augment
) -> np.ndarray:
    """Draw a movement on the training grid and put it before the fit.

    Args:
        matrix: [2, 3] from `geometry.fit_matrix`.
        rng: source of chance.
        image_size: (h, w) of the training grid.
        config: probabilities and ranges.

    Returns:
        Where to sample: a [2, 3] matrix, or a [h, w, 2] map if the movement is elastic.
    """
    side = max(image_size)
    spacing = config.elastic_smoothness * side
    degrees = rng.uniform(-1, 1) * config.rotation_degrees
    scale = rng.uniform(*config.scale_range)
    shift = rng.uniform(-1, 1, 2) * config.translation_fraction * side
    nodes = rng.uniform(-1, 1, (2, *node_grid(image_size, spacing)))
    flipped, turned, scaled, shifted, elastic = rng.random(5) < (
        config.flip_probability,
        config.rotation_probability,
        config.scale_probability,
        config.translation_probability,
        config.elastic_probability,
    )
    moved = movement(
        image_size, flipped, degrees * turned, scale if scaled else 1.0, shift * shifted
    )
    matrix = geometry.compose(matrix, moved)
    if not elastic:
        return matrix
    nodes *= config.elastic_amplitude * side
    displacement = np.stack([smooth_field(n, image_size, spacing) for n in nodes])
    return geometry.dense_map(matrix, image_size, displacement)


def movement(
    image_size: tuple[int, int], flip: bool, degrees: float, scale: float, shift: np.ndarray
) -> np.ndarray:
    """Return the matrix from the moved image's pixels back to the unmoved one's.

    Args:
        image_size: (h, w) of the grid; flip, rotation and scaling leave its centre in place.
        flip: left becomes right, before the rest.
        degrees: counter-clockwise as displayed (rows downwards).
        scale: above 1 magnifies.
        shift: (x, y) in pixels, right and down, after the rest.

    Returns:
        [2, 3] float64, moved (x, y, 1) to unmoved (x, y).
    """
    centre = (np.array(image_size[::-1]) - 1) / 2
    cos, sin = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    mirror = np.diag([-1.0 if flip else 1.0, 1.0])
    linear = mirror @ np.array([[cos, -sin], [sin, cos]]) / scale
    return np.hstack([linear, (centre - linear @ (centre + shift))[:, None]])


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
