"""The numbers of one random change of a patch, drawn on the host, applied on the device.

They are drawn in one fixed order, used or not, so a sample depends on its generator, its place
and the settings alone. `transforms.augment` applies them; what does not happen has numbers that
change nothing, so that all samples of a batch go through one program.
"""

import functools
import itertools
import math
from collections.abc import Sequence

import numpy as np

from jaxseg.config import Augment
from jaxseg.imaging.augment_shape import node_grid
from jaxseg.imaging.resample import averaging, interpolating

THICK = 3.0  # an axis whose voxels are longer than so many of the shortest is not turned into
_GAIN_NODES = 4
_ANGLES = 9  # of each plane, tried for the largest extent
_BETWEEN = 1.01  # it may lie between them: the reserve up to 37 degrees, see `between`


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
    reserve = between(most, math.comb(len(shape), 2)) if len(turns) > 1 else _BETWEEN
    return reserve * np.max(extents, axis=0) / shrink


def between(degrees: float, planes: int) -> float:
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
    rng: np.random.Generator,
    shape: Sequence[int],
    spacing_mm: Sequence[float],
    channels: int,
    config: Augment,
) -> dict[str, np.ndarray]:
    """Draw the changes of the intensities.

    Returns:
        float32 `factors`, `shifts`, `exponents` [C], `gain_nodes` [4, ...] of rank n,
        `gain_strength`, `smooth_0` [S, S] and so on for each axis, `noise_std`; uint32
        `noise_seed`.
    """
    c, rank = config, len(shape)
    factors = rng.uniform(*c.contrast_range, channels)
    shifts = rng.uniform(-1, 1, channels) * c.brightness_shift
    exponents = rng.uniform(*c.gamma_range, channels)
    gain_nodes = rng.uniform(-1, 1, (_GAIN_NODES,) * rank)
    strength = rng.uniform() * c.bias_field_strength
    sigma_voxels = rng.uniform(*c.blur_sigma_pixels)
    resolution = rng.uniform(*c.low_resolution_range)
    noise_std, seed = rng.uniform() * c.noise_std, rng.integers(2**32)
    happens = rng.random(7) < (
        c.contrast_probability,
        c.brightness_probability,
        c.gamma_probability,
        c.bias_field_probability,
        c.blur_probability,
        c.low_resolution_probability,
        c.noise_probability,
    )
    thick = thick_axes(spacing_mm, config)
    smooth = {
        f"smooth_{axis}": smoothing(
            size,
            sigma_voxels if happens[4] and not thick[axis] else 0.0,
            resolution if happens[5] and not thick[axis] else 1.0,
        )
        for axis, size in enumerate(shape)
    }
    numbers = {
        "factors": np.where(happens[0], factors, 1),
        "shifts": np.where(happens[1], shifts, 0),
        "exponents": np.where(happens[2], exponents, 1),
        "gain_nodes": gain_nodes,
        "gain_strength": strength * happens[3],
        "noise_std": noise_std * happens[6],
    }
    as_float = {name: np.asarray(value, np.float32) for name, value in numbers.items()}
    return as_float | smooth | {"noise_seed": np.uint32(seed)}


def smoothing(size: int, sigma_voxels: float, resolution: float) -> np.ndarray:
    """Return the matrix [size, size] float32 that blurs a line and lowers its resolution.

    Args:
        size: of the line.
        sigma_voxels: of the Gaussian; 0: none.
        resolution: share (0..1) of the voxels it is averaged down to, then interpolated up; 1:
            none.
    """
    if sigma_voxels == 0 and resolution == 1:
        return _identity(size)
    matrix = np.eye(size)
    if sigma_voxels:
        offsets = np.arange(size) - np.arange(size)[:, None]
        weights = np.exp(-0.5 * (offsets / sigma_voxels) ** 2)
        matrix = weights / weights.sum(1, keepdims=True)
    small = max(round(size * resolution), 1)
    if small < size:
        matrix = interpolating(small, size) @ (averaging(size, small) @ matrix)
    return matrix.astype(np.float32)


@functools.lru_cache(maxsize=16)
def _identity(size: int) -> np.ndarray:
    return np.eye(size, dtype=np.float32)
