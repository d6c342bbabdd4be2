"""Surfaces of masks as voxels, distances between them, and HD95: robust against a few outliers."""

import cv2
import numpy as np
import scipy  # loads its parts when they are used: ndimage takes as long as all of NumPy


def hd95(
    prediction: np.ndarray, truth: np.ndarray, spacing: tuple[float, ...] = (1.0, 1.0, 1.0)
) -> float:
    """Return the 95th percentile Hausdorff distance between two masks.

    A mask's surface is its voxels with at least one of the six face neighbours outside the
    mask; beyond the edge of the volume is outside. In a volume of one slice the surface is
    the contour in the plane. For each direction, every surface voxel's distance to the
    nearest surface voxel of the other mask is taken (centre to centre) and of these the 95th
    percentile (linear interpolation); the result is the larger of the two directions.

    Args:
        prediction: [D, H, W] bool.
        truth: [D, H, W] bool.
        spacing: size of a voxel along each axis; in mm for a result in mm. With the default
            every step counts one pixel, in the plane and between slices.

    Returns:
        Distance >= 0 in the units of spacing, 0 for equal masks. Both empty: 0. One empty: the
        diagonal of the whole volume, so that a missed patient counts and is never dropped.

    Raises:
        ValueError: the masks differ in shape or are not bool [D, H, W].

    References:
        Huttenlocher et al., "Comparing images using the Hausdorff distance", PAMI 1993.
    """
    if prediction.shape != truth.shape or prediction.ndim != 3:
        raise ValueError(f"masks {prediction.shape} and {truth.shape}: need two equal [D, H, W]")
    if prediction.dtype != bool or truth.dtype != bool:
        raise ValueError(f"masks must be bool, not {prediction.dtype} and {truth.dtype}")
    if not prediction.any() or not truth.any():
        return diagonal(truth.shape, spacing) if prediction.any() or truth.any() else 0.0
    box = bounding_box(prediction | truth)
    axes = (1, 2) if truth.shape[0] == 1 else (0, 1, 2)
    a, b = (surface_voxels(mask[box], axes) for mask in (prediction, truth))
    both = distances(a, b, spacing), distances(b, a, spacing)
    return float(max(np.percentile(one, 95) for one in both))


def diagonal(shape: tuple[int, ...], spacing: tuple[float, ...]) -> float:
    """Return the length of a volume's diagonal, outer edge to outer edge, in units of spacing."""
    return float(np.linalg.norm(np.multiply(shape, spacing)))


def bounding_box(mask: np.ndarray) -> tuple[slice, ...]:
    """Return the slices that cut out the part of a mask [D, H, W], not empty, that is set."""
    rows, columns = mask.any(2), mask.any((0, 1))
    found = [np.flatnonzero(line) for line in (rows.any(1), rows.any(0), columns)]
    return tuple(slice(f[0], f[-1] + 1) for f in found)


def surface_voxels(mask: np.ndarray, axes: tuple[int, ...] = (0, 1, 2)) -> np.ndarray:
    """Return the voxels of a mask [D, H, W] with a neighbour along the axes outside."""
    padded = np.pad(mask, 1)
    inner = mask.copy()
    for axis in axes:
        for shift in (0, 2):
            window = [slice(1, -1)] * 3
            window[axis] = slice(shift, shift + mask.shape[axis])
            inner &= padded[tuple(window)]
    return mask & ~inner


def distances(start: np.ndarray, target: np.ndarray, spacing: tuple[float, ...]) -> np.ndarray:
    """Return how far each set voxel of start is from the nearest set one of target.

    Args:
        start: [D, H, W] bool, not empty.
        target: [D, H, W] bool, not empty.
        spacing: size of a voxel along each axis.

    Returns:
        float64 [number of set voxels of start], in the order of `np.nonzero(start)`.
    """
    # Each slice of the target gives the squared distance in its plane; a voxel's squared distance
    # is the least over the slices of that and the squared way between the slices.
    in_plane: dict[int, np.ndarray] = {}  # of the slices needed so far
    occupied = np.flatnonzero(target.any((1, 2)))
    found = []
    for z in np.flatnonzero(start.any((1, 2))):
        voxels = np.nonzero(start[z])
        least = np.full(len(voxels[0]), np.inf)
        for other in occupied[np.argsort(np.abs(occupied - z), kind="stable")]:
            between = ((other - z) * spacing[0]) ** 2
            if between >= least.max():
                break  # so are all further slices
            if other not in in_plane:
                in_plane[other] = _squared_in_plane(target[other], spacing[1:])
            least = np.minimum(least, in_plane[other][voxels] + between)
        found.append(np.sqrt(least))
    return np.concatenate(found)


def _squared_in_plane(target: np.ndarray, spacing: tuple[float, ...]) -> np.ndarray:
    """Return float64 [H, W], each pixel's squared distance to the nearest of a mask [H, W]."""
    if spacing[0] != spacing[1]:
        return scipy.ndimage.distance_transform_edt(~target, sampling=spacing) ** 2
    # OpenCV is several times faster; its float32 squares are whole numbers but for rounding.
    pixels = cv2.distanceTransform((~target).view(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
    return np.rint(np.square(pixels, dtype=np.float64)) * spacing[0] ** 2
