"""The numbers of one random change of a sample, drawn on the host.

They are drawn in one fixed order, used or not, so a sample depends on its generator, its place
and the settings alone. `transforms.augment` applies them on the device, those of a slice
`imaging.augment` on the host; what does not happen has numbers that change nothing, so that all
samples of a batch go through one program.
"""

import itertools
import math
from collections.abc import Sequence

import numpy as np

from jaxseg.config import Augment
from jaxseg.imaging.augment_shape import node_grid

THICK = 3.0  # an axis whose voxels are longer than so many of the shortest is not turned into
_GAIN_NODES = 4
_CHANGES = 7  # of the intensities
_ANGLES = 9  # of each plane, tried for the largest extent
_BETWEEN = 1.01  # it may lie between them: up to 37 degrees, see `reserve`


def thick_axes(spacing_mm: Sequence[float], config: Augment) -> np.ndarray:
    """Return which axes are neither turned into nor blurred, [n] bool."""
    spacing = np.asarray(spacing_mm, np.float64)
    thick = spacing > THICK * spacing.min()
    if len(spacing) == 3:
        thick[0] |= config.in_plane
    return thick


def draw_movement(
    rng: np.random.Generator, spacing_mm: Sequence[float], config: Augment
) -> np.ndarray:
    """Draw mirroring, rotation and scaling.

    Args:
        rng: source of chance; advanced.
        spacing_mm: of the training grid; rotations keep shapes in mm, and only within the plane
            where one axis is thick.
        config: probabilities and ranges.

    Returns:
        [n, n] float64: training voxels about the patch's centre to those of the unmoved grid.
    """
    rank, planes = len(spacing_mm), list(itertools.combinations(range(len(spacing_mm)), 2))
    mirrored = rng.random(rank) < config.flip_probability
    angles = rng.uniform(-1, 1, len(planes)) * config.rotation_degrees
    scale = rng.uniform(*config.scale_range)
    turned, scaled = rng.random(2) < (config.rotation_probability, config.scale_probability)
    if not config.flip_all_axes:
        mirrored[:-1] = False  # left and right only
    mirror = np.diag(np.where(mirrored, -1.0, 1.0))
    turn = rotation(angles * turned, spacing_mm, thick_axes(spacing_mm, config))
    return mirror @ turn / (scale if scaled else 1.0)


def rotation(
    degrees: Sequence[float], spacing_mm: Sequence[float], thick: np.ndarray
) -> np.ndarray:
    """Return the rotation [n, n] in voxels, one angle for each plane of two axes, in order.

    Angles of planes that hold a thick axis do not count; thick [n] bool.
    """
    rank, spacing = len(spacing_mm), np.asarray(spacing_mm, np.float64)
    matrix = np.eye(rank)
    for (i, j), angle in zip(itertools.combinations(range(rank), 2), degrees, strict=True):
        if thick[i] or thick[j]:
            continue
        one = np.eye(rank)
        cos, sin = math.cos(math.radians(angle)), math.sin(math.radians(angle))
        one[i, i], one[i, j], one[j, i], one[j, j] = cos, -sin, sin, cos
        matrix = matrix @ one
    return matrix * spacing / spacing[:, None]


def largest_extent(
    shape: Sequence[int], spacing_mm: Sequence[float], config: Augment
) -> np.ndarray:
    """Return how many voxels of the unmoved grid a moved patch can span, float64 [n]."""
    turns, most = [0.0], min(config.rotation_degrees, 180.0)
    if config.rotation_probability:
        turns = np.linspace(-most, most, _ANGLES).tolist()
    thick = thick_axes(spacing_mm, config)
    elastic = config.elastic_amplitude * max(shape) if config.elastic_probability else 0.0
    size = np.asarray(shape) - 1.0 + 2 * elastic
    extents = [
        np.abs(rotation(angles, spacing_mm, thick)) @ size
        for angles in itertools.product(turns, repeat=math.comb(len(shape), 2))
    ]
    shrink = min(config.scale_range[0], 1.0) if config.scale_probability else 1.0
    beyond = reserve(most, math.comb(len(shape), 2)) if len(turns) > 1 else _BETWEEN
    return beyond * np.max(extents, axis=0) / shrink


def reserve(degrees: float, planes: int) -> float:
    """Return how much farther a patch may reach between the angles tried than at them.

    An extent is a sum of cosines of the angle: half a step from its peak it has lost one less the
    cosine of that, in each plane.
    """
    return max(_BETWEEN, math.cos(math.radians(degrees / (_ANGLES - 1))) ** -planes)


def draw_elastic(rng: np.random.Generator, shape: Sequence[int], config: Augment) -> np.ndarray:
    """Draw the nodes of an elastic displacement, float32 [n, *N] in training voxels."""
    side = max(shape)
    grid = node_grid(shape, config.elastic_smoothness * side)
    nodes = rng.uniform(-1, 1, (len(shape), *grid)) * config.elastic_amplitude * side
    return (nodes * (rng.random() < config.elastic_probability)).astype(np.float32)


def draw_intensity(
    rng: np.random.Generator, spacing_mm: Sequence[float], channels: int, config: Augment
) -> dict[str, np.ndarray]:
    """Draw the changes of a patch's intensities.

    Returns:
        What `intensity` returns, float32, but `sigma_voxels` and `resolution` for each axis [n],
        and `noise_seed` uint32.
    """
    rank = len(spacing_mm)
    count = intensity_count(channels, rank) - _CHANGES
    drawn, seed = rng.random(count), rng.integers(2**32)
    numbers = intensity(np.append(drawn, rng.random(_CHANGES)), channels, rank, config)
    thick = thick_axes(spacing_mm, config)
    numbers["sigma_voxels"] = np.where(thick, 0, numbers["sigma_voxels"])
    numbers["resolution"] = np.where(thick, 1, numbers["resolution"])
    as_float = {name: np.asarray(value, np.float32) for name, value in numbers.items()}
    return as_float | {"noise_seed": np.uint32(seed)}


def intensity_count(channels: int, rank: int) -> int:
    """Return how many numbers `intensity` takes."""
    return 3 * channels + _GAIN_NODES**rank + 4 + _CHANGES


def intensity(
    uniform: np.ndarray, channels: int, rank: int, config: Augment
) -> dict[str, np.ndarray]:
    """Make the changes of the intensities of numbers drawn from 0..1.

    Args:
        uniform: [..., `intensity_count`] float64.
        channels: of the image.
        rank: of its space.
        config: probabilities and ranges.

    Returns:
        float64 `factors`, `shifts`, `exponents` [..., C], `gain_nodes` [..., 4, ...] of that rank,
        `gain_strength`, `sigma_voxels` (0: no blur), `resolution` (1: as it is), `noise_std` [...].
    """
    c = config
    sizes = (channels, channels, channels, _GAIN_NODES**rank, 1, 1, 1, 1, _CHANGES)
    parts = split(uniform, sizes)
    happens = parts[-1] < (
        c.contrast_probability,
        c.brightness_probability,
        c.gamma_probability,
        c.bias_field_probability,
        c.blur_probability,
        c.low_resolution_probability,
        c.noise_probability,
    )
    strength, sigma_voxels, resolution, noise_std = (part[..., 0] for part in parts[4:8])
    nodes = between(parts[3], -1, 1)
    return {
        "factors": np.where(happens[..., :1], between(parts[0], *c.contrast_range), 1),
        "shifts": np.where(happens[..., 1:2], between(parts[1], -1, 1) * c.brightness_shift, 0),
        "exponents": np.where(happens[..., 2:3], between(parts[2], *c.gamma_range), 1),
        "gain_nodes": nodes.reshape(*nodes.shape[:-1], *(_GAIN_NODES,) * rank),
        "gain_strength": strength * c.bias_field_strength * happens[..., 3],
        "sigma_voxels": between(sigma_voxels, *c.blur_sigma_pixels) * happens[..., 4],
        "resolution": np.where(happens[..., 5], between(resolution, *c.low_resolution_range), 1),
        "noise_std": noise_std * c.noise_std * happens[..., 6],
    }


def between(uniform: np.ndarray, low: float, high: float) -> np.ndarray:
    """Return numbers of low..high for those of 0..1, the same as `Generator.uniform` gives."""
    return low + (high - low) * uniform


def split(uniform: np.ndarray, sizes: Sequence[int]) -> list[np.ndarray]:
    """Return the parts of the last axis, of so many numbers each, which are all."""
    ends = list(itertools.accumulate(sizes))
    assert uniform.shape[-1] == ends[-1], (uniform.shape, sizes)
    return [uniform[..., end - size : end] for size, end in zip(sizes, ends, strict=True)]
