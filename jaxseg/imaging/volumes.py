"""A whole scan as the slices that are fitted into the training grid one by one."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from jaxseg.imaging.intensity import darken_background, head_box, head_box_3d, volume_statistics

_SQUARE = 1.1  # longest side of a pixel, relative to the other, that passes as a square
MARGIN = 2  # voxels around the head in a copy of a volume


def slice_records(volume: Any) -> list[dict[str, np.ndarray]]:
    """Return the records of a volume, as `geometry.prepare_slice` takes them.

    Args:
        volume: a `scans.volume.Volume`; what it lacks is computed, see `with_statistics`, its mask
            is empty where there is no truth.

    Returns:
        For each slice `image` [H, W, C], its background dark (`intensity.darken_background`),
        `mask` [H, W, K], `stats` [C, 4], `head_box` [4].
    """
    volume = with_statistics(volume)
    mask = volume.mask
    if mask is None:
        mask = np.zeros((*volume.image.shape[:3], 1), np.uint8)
    shared = {"stats": volume.stats, "head_box": volume.head_box}
    return [
        {"image": np.ascontiguousarray(x), "mask": m} | shared
        for x, m in zip(volume.image, mask, strict=True)
    ]


def fitted_warnings(volume: Any) -> list[str]:
    """Return a line when slices whose file states a spacing have pixels far from square.

    Patches keep the voxels, or are resampled to those of training: only slices are fitted.
    """
    if volume.affine is None or not volume.spacing_mm:
        return []
    row, column = volume.spacing_mm[1:]
    if max(row, column) <= _SQUARE * min(row, column):
        return []
    return [
        f"axial slices have pixels of {row:.3g} x {column:.3g} mm: the network sees a squeezed "
        "head; resample the scan first"
    ]


def with_statistics(volume: Any, fitted: bool = True) -> Any:
    """Return the volume with dark background, statistics and, if asked, the box of its head.

    They are computed where it has none: call it once where records are made several times.

    Args:
        volume: a `scans.volume.Volume`.
        fitted: whether its slices are to be fitted into the grid, which needs `head_box`; patches
            have `patch_box`.
    """
    image = darken_background(volume.image) if volume.stats is None else volume.image
    stats = volume_statistics(image) if volume.stats is None else volume.stats
    box = head_box(image) if fitted and volume.head_box is None else volume.head_box
    return volume._replace(image=image, stats=stats, head_box=box)


def patch_box(volume: Any) -> np.ndarray:
    """Return the box in which patches are predicted: the head, with its margin.

    A cropped copy is not searched anew: without its air it has other percentiles than the scan,
    and so a head that may be a voxel smaller (seen on two of four scans of BRATS 2015). Its rows
    and columns are those of the scan's head, its slices are all that the copy has.

    Args:
        volume: a `scans.volume.Volume`, its background dark; of a cropped one `head_box` is known.

    Returns:
        [2, 3] int32, low and high in slices, rows and columns, half-open.
    """
    shape = volume.image.shape[:3]
    if not volume.cropped:
        return head_and_truth(volume.image, np.zeros((*shape, 0)))
    y0, x0, y1, x1 = volume.head_box
    box = [(0, y0 - MARGIN, x0 - MARGIN), (shape[0], y1 + MARGIN, x1 + MARGIN)]
    return np.clip(box, 0, shape).astype(np.int32)


def head_and_truth(image: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Return the box of a volume outside which there is neither head nor truth.

    Args:
        image: [D, H, W, C], its background dark.
        mask: [D, H, W, K].

    Returns:
        [2, 3] int32, low and high in slices, rows and columns, half-open: that of
        `intensity.head_box_3d` with a margin, since its brim may be too thin to be seen, and
        the truth's.
    """
    low, high = head_box_3d(image)
    low, high = low - MARGIN, high + MARGIN
    truth = mask.any(-1)
    if truth.any():
        seen = [np.flatnonzero(truth.any(axis)) for axis in ((1, 2), (0, 2), (0, 1))]
        low = np.minimum(low, [s[0] for s in seen])
        high = np.maximum(high, [s[-1] + 1 for s in seen])
    return np.clip([low, high], 0, truth.shape).astype(np.int32)


def in_its_volume(part: Any, whole: Any, slices: Sequence[int]) -> Any:
    """Return some slices of a volume as they are within it: background, statistics, head's box.

    Args:
        part: a `scans.volume.Volume` of these slices.
        whole: of all.
        slices: which of its slices they are.
    """
    whole = with_statistics(whole)
    return part._replace(
        image=whole.image[list(slices)], stats=whole.stats, head_box=whole.head_box
    )
