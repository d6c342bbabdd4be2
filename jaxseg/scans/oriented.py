"""From a file's voxels and affine to a volume, and results back: alike for all that state one."""

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from jaxseg.errors import named
from jaxseg.scans.regions import TUMOUR, Region, one_each
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


def written(
    volume: Volume, form: str, suffix: str, write: Callable[[Path, np.ndarray], None]
) -> Volume:
    """Return the volume with a `write` for its results.

    Args:
        volume: from `volume_of`.
        form: name of the format, for errors.
        suffix: of the files.
        write: takes the path, with its suffix, and [D, H, W] of bool, uint8 or float32.
    """

    def write_results(to: Path, values: np.ndarray, regions: Sequence[Region] = TUMOUR):
        to, values = to.with_name(to.name + suffix), one_each(values, regions)
        with named(f"{to.name}: cannot be written as {form}", but=(OSError,)):
            write(to, values)

    return volume._replace(write=write_results)
