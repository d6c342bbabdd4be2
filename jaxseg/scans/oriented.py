"""From a file's voxels and affine to a volume: the same for every format that states one."""

from collections.abc import Sequence

import numpy as np

from jaxseg.scans.volume import Order, Volume, axial_affine, axial_order, spacing_of, to_axial

_ENDS = ("SI", "PA", "LR")  # where the axes of slices, rows and columns run to, and flipped


def volume_of(
    voxels: np.ndarray, affine: np.ndarray, warnings: Sequence[str] = ()
) -> tuple[Volume, Order]:
    """Return a file's voxels [X, Y, Z, C] as a volume that cannot be written, and their order.

    Args:
        voxels: of a type that `Volume.image` may have.
        affine: [4, 4] float64, voxel to RAS+ mm.
        warnings: what is odd about the file.

    Raises:
        ValueError: the affine is no map of a volume.
    """
    if not np.isfinite(affine).all() or abs(np.linalg.det(affine[:3, :3])) < 1e-12:
        raise ValueError("its affine is singular: voxels have no place in space")
    order = axial_order(affine)
    axial = axial_affine(affine, voxels.shape, order)
    ends = dict(zip(order.axes, zip(_ENDS, order.flipped, strict=True), strict=True))
    orientation = "".join(ends[axis][0][ends[axis][1]] for axis in range(3))
    image = to_axial(voxels, order)
    return Volume(image, spacing_of(axial), axial, tuple(warnings), orientation=orientation), order
