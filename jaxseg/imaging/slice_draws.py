"""The numbers of one random change of a slice; both executors take them.

All are made of numbers drawn at once from 0..1, for one slice or for a whole batch of them. Their
order stands: a run of an older version goes on with the same slices.
"""

import numpy as np

from jaxseg.config import Augment
from jaxseg.imaging import draws
from jaxseg.imaging.augment_shape import node_grid

_MOVEMENTS = 5


def count(image_size: tuple[int, int], channels: int, config: Augment) -> int:
    """Return how many numbers `draw` takes."""
    return sum(_sizes(image_size, channels, config))


def draw(
    uniform: np.ndarray, image_size: tuple[int, int], channels: int, config: Augment
) -> dict[str, np.ndarray]:
    """Make the numbers of a change.

    Args:
        uniform: [..., `count`] float64 of 0..1.
        image_size: (h, w) of the training grid.
        channels: of the image.
        config: probabilities and ranges.

    Returns:
        float64, for `augment_shape.movement`: `degrees`, `scale`, `flipped` (bool) [...], `shift`
        [..., 2] (x, y) in pixels; `nodes` [..., 2, ny, nx] (x, y) in pixels, 0 where the movement
        is not elastic; and what `draws.intensity` returns.
    """
    c, side = config, max(image_size)
    degrees, scale, shift, nodes, chance, rest = draws.split(
        uniform, _sizes(image_size, channels, config)
    )
    flipped, turned, scaled, shifted, elastic = np.moveaxis(
        chance
        < (
            c.flip_probability,
            c.rotation_probability,
            c.scale_probability,
            c.translation_probability,
            c.elastic_probability,
        ),
        -1,
        0,
    )
    grid = node_grid(image_size, c.elastic_smoothness * side)
    nodes = draws.between(nodes, -1, 1) * (c.elastic_amplitude * side) * elastic[..., None]
    shift = draws.between(shift, -1, 1) * c.translation_fraction * side
    return {
        "flipped": flipped,
        "degrees": draws.between(degrees[..., 0], -1, 1) * c.rotation_degrees * turned,
        "scale": np.where(scaled, draws.between(scale[..., 0], *c.scale_range), 1.0),
        "shift": shift * shifted[..., None],
        "nodes": nodes.reshape(*nodes.shape[:-1], 2, *grid),
    } | draws.intensity(rest, channels, 2, config)


def _sizes(image_size: tuple[int, int], channels: int, config: Augment) -> tuple[int, ...]:
    rows, columns = node_grid(image_size, config.elastic_smoothness * max(image_size))
    intensities = draws.intensity_count(channels, 2)
    return 1, 1, 2, 2 * rows * columns, _MOVEMENTS, intensities
