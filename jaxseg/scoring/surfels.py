"""Surfaces as elements of known area: the surface Dice, and HD95 as the BraTS tools take it.

A surface element sits where eight voxels meet that are not all alike, and has the area that
marching cubes gives to these eight, at the voxels' size. So a slanted face counts by its area, not
by its number of voxels. The same definition, area for area, as the package `surface-distance`.

References:
    Nikolov et al., "Clinically applicable segmentation of head and neck anatomy for radiotherapy:
    deep learning algorithm development and validation study", JMIR 2021 (arXiv 1809.04430, 2018).
"""

import functools
import itertools
from typing import NamedTuple

import numpy as np

from jaxseg.scoring import surface

TOLERANCE = 1.0  # of NSD: mm, or pixels where the spacing is unknown

# Marching cubes: which of the eight voxels (bit 4 z + 2 y + x) lie inside, and the normals of the
# triangles between them, in eighths of a voxel's faces; each length is an area. All other cases
# are these, turned, mirrored or with inside and outside exchanged.
_CASES = {
    0b00000001: [(1, 1, 1)],
    0b00000011: [(2, 2, 0)] * 2,
    0b00000110: [(1, 1, 1)] * 2,
    0b00000111: [(4, 0, 0), (2, 2, 2), (1, 1, 1)],
    0b00001111: [(4, 0, 0)] * 2,
    0b00010110: [(1, 1, 1)] * 3,
    0b00010111: [(1, 1, 1), (2, 2, 2)] * 2,
    0b00011000: [(1, 1, 1)] * 2,
    0b00011001: [(0, 2, 2), (0, 2, 2), (1, 1, 1)],
    0b00011011: [(1, 1, 1), (3, 3, 3), (0, 2, 2), (2, 0, 2)],
    0b00011110: [(4, 0, 0), (1, 1, 1), (2, 2, 2), (1, 1, 1)],
    0b00111100: [(2, 2, 0)] * 4,
    0b01101001: [(1, 1, 1)] * 4,
}


class Surfaces(NamedTuple):
    """The surface elements of two masks: how far from the other surface, and how large."""

    prediction: np.ndarray  # [N] distances to the truth's surface, units of the spacing
    prediction_areas: np.ndarray  # [N]
    truth: np.ndarray  # [M] distances to the prediction's surface
    truth_areas: np.ndarray  # [M]


def measure(prediction: np.ndarray, truth: np.ndarray, spacing: tuple[float, ...]) -> Surfaces:
    """Return the surface elements of two masks, neither of them empty.

    In a volume of one slice they are the elements of the contour in the plane, by length.

    Args:
        prediction: [D, H, W] bool.
        truth: [D, H, W] bool.
        spacing: size of a voxel along each axis.
    """
    box = surface.bounding_box(prediction | truth)
    codes = [_codes(mask[box], flat=len(truth) == 1) for mask in (prediction, truth)]
    borders = [(code > 0) & (code < 255) for code in codes]
    table = areas((1.0, *spacing[1:]) if len(truth) == 1 else tuple(spacing))
    sizes = [table[code[border]] for code, border in zip(codes, borders, strict=True)]
    there, back = surface.distances(*borders, spacing), surface.distances(*borders[::-1], spacing)
    return Surfaces(there, sizes[0], back, sizes[1])


def surface_dice(surfaces: Surfaces, tolerance: float = TOLERANCE) -> float:
    """Return the share of both surfaces' area that lies within the tolerance of the other, 0..1."""
    tolerance *= 1 + 1e-9  # sums of squares are not exact
    sides = (surfaces[:2], surfaces[2:])
    near = sum(sizes[distance <= tolerance].sum() for distance, sizes in sides)
    return float(near / sum(sizes.sum() for _, sizes in sides))


def nsd(
    prediction: np.ndarray,
    truth: np.ndarray,
    spacing: tuple[float, ...] = (1.0, 1.0, 1.0),
    tolerance: float = TOLERANCE,
) -> float:
    """Return the normalised surface Dice of two masks [D, H, W] bool, 0..1.

    Both empty: 1; one empty: 0.
    """
    if not prediction.any() or not truth.any():
        return float(prediction.any() == truth.any())
    return surface_dice(measure(prediction, truth, spacing), tolerance)


def hd95_by_area(surfaces: Surfaces) -> float:
    """Return the larger of the two directed 95th percentiles, by area, not interpolated."""
    return max(_percentile_95(*surfaces[:2]), _percentile_95(*surfaces[2:]))


def _percentile_95(distance: np.ndarray, sizes: np.ndarray) -> float:
    order = np.lexsort((sizes, distance))
    share = np.cumsum(sizes[order]) / sizes.sum()
    return float(distance[order[min(np.searchsorted(share, 0.95), len(order) - 1)]])


@functools.lru_cache(maxsize=64)
def areas(spacing: tuple[float, ...]) -> np.ndarray:
    """Return the area of the surface between eight voxels, float64 [256], for each code."""
    table = np.zeros(256)
    faces = np.prod(spacing) / np.array(spacing)
    for code, normals in _CASES.items():
        inside = ((code >> np.arange(8)) & 1).reshape(2, 2, 2)
        for turn in itertools.permutations(range(3)):
            size = np.linalg.norm(np.array(normals)[:, turn] / 8 * faces, axis=1).sum()
            for z, y, x in itertools.product((1, -1), repeat=3):
                turned = inside.transpose(turn)[::z, ::y, ::x].ravel()
                number = int((turned << np.arange(8)).sum())
                table[number] = table[255 - number] = size
    return table


def _codes(mask: np.ndarray, flat: bool) -> np.ndarray:
    """Return which of the eight voxels around each corner are set, uint8 [D + 1, H + 1, W + 1].

    Args:
        mask: [D, H, W] bool.
        flat: one slice, as if it went on above and below: [1, H + 1, W + 1].
    """
    padded = (
        np.pad(np.repeat(mask, 2, axis=0), ((0, 0), (1, 1), (1, 1))) if flat else np.pad(mask, 1)
    )
    size = np.array(padded.shape) - 1
    codes = np.zeros(size, np.uint8)
    for bit, start in enumerate(itertools.product((0, 1), repeat=3)):
        window = tuple(slice(s, s + n) for s, n in zip(start, size, strict=True))
        codes |= padded[window].view(np.uint8) << np.uint8(bit)
    return codes
