"""HD95: the distance between two surfaces, robust against a few outlying voxels."""

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
    box = scipy.ndimage.find_objects((prediction | truth).astype(np.uint8))[0]  # joint bounding box
    in_plane = 0 if truth.shape[0] == 1 else slice(None)
    a, b = (_surface(mask[box][in_plane]) for mask in (prediction, truth))
    step = spacing[3 - a.ndim :]
    return max(_directed(a, b, step), _directed(b, a, step))


def diagonal(shape: tuple[int, ...], spacing: tuple[float, ...]) -> float:
    """Return the length of a volume's diagonal, outer edge to outer edge, in units of spacing."""
    return float(np.linalg.norm(np.multiply(shape, spacing)))


def _surface(mask: np.ndarray) -> np.ndarray:
    return mask & ~scipy.ndimage.binary_erosion(mask, border_value=0)


def _directed(start: np.ndarray, target: np.ndarray, spacing: tuple[float, ...]) -> float:
    distance = scipy.ndimage.distance_transform_edt(~target, sampling=spacing)
    return float(np.percentile(distance[start], 95))
