"""A scan in memory: slices as radiologists see them, and the way back to the file's voxels.

Volumes are shown as axial slices: slice 0 is the lowest, rows run from the front (anterior) to
the back, columns from the patient's right to the left. Which axis of a file is which follows
from its affine: of all assignments of the three voxel axes to (superior, posterior, left) the
one that turns them least. So an oblique scan keeps its own voxels, and nothing is interpolated.
"""

import itertools
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from jaxseg.errors import UserError

MAX_PATIENT_BYTES = 4 << 30  # 500 slices of 1024 x 1024 of 4 channels of 16 bit
_INTEGERS = tuple(map(np.dtype, (np.uint8, np.uint16, np.int16, np.int32)))  # kept as they are
_SAME_MM = 1e-2  # grids whose corners lie closer than this are one


class Order(NamedTuple):
    """How the axes of a file become (slice, row, column)."""

    axes: tuple[int, int, int]  # the file's axis of slices, rows, columns
    flipped: tuple[bool, bool, bool]  # whether each then runs the other way


class Images(NamedTuple):
    """The images of a DICOM series, one for each plane: results are matched by them, not places."""

    order: Order  # from (plane, row, column) to (slice, row, column)
    names: tuple[tuple[str, int], ...]  # SOPInstanceUID and frame, from 0, of each plane


class Volume(NamedTuple):
    """One patient's scan: voxels, place in space, the truth where it is known."""

    image: np.ndarray  # [D, H, W, C] of integers of at most 32 bits or float32, finite
    spacing_mm: tuple[float, ...] = ()  # (slice distance, row, column); () when unknown
    affine: np.ndarray | None = None  # [4, 4] float64, (slice, row, column, 1) to RAS+ mm
    warnings: tuple[str, ...] = ()  # what the user should know, one line each
    # Takes a path without suffix, the masks [D, H, W, K] bool of K regions, or of one [D, H, W],
    # bool or float32 in 0..1, and the regions; writes them on the grid, in the format of the input.
    write: Callable[..., None] | None = None
    patient: str = ""
    mask: np.ndarray | None = None  # [D, H, W, K] uint8 of {0, 1}, one for each region
    slice_numbers: tuple[int, ...] = ()  # as the files count, ascending
    files: tuple[str, ...] = ()  # image files of the slices, relative to the source
    # Of slices the highest of each in the mask's file, 0: no tumour; of a volume set all there are.
    mask_values: tuple[int, ...] = ()
    stats: np.ndarray | None = None  # [C, 4] float32, `intensity.volume_statistics` of the image
    head_box: np.ndarray | None = None  # [4] int32, `intensity.head_box` of the image
    cropped: bool = False  # a prepared copy, smaller than the scan: all of the head and the truth
    group: str = ""  # the person, who may have several scans; "": the patient is the person
    orientation: str = ""  # of the file's axes, where each runs to: 'LPS'; '' when it is no file's
    images: Images | None = None  # of a DICOM series whose images have names of their own

    @property
    def voxel_mm3(self) -> float | None:
        """Volume of a voxel; None when the spacing is unknown."""
        return voxel_mm3(self.spacing_mm, self.affine)


def axial_order(affine: np.ndarray) -> Order:
    """Return the order that shows a volume as in the head of this file.

    Args:
        affine: [4, 4], the file's voxel indices to RAS+ mm; its axes are independent.
    """
    axis = affine[:3, :3] / np.linalg.norm(affine[:3, :3], axis=0)
    wanted = np.array([[0, 0, 1], [0, -1, 0], [-1, 0, 0]]) @ axis  # superior, posterior, left
    axes = max(itertools.permutations(range(3)), key=lambda p: np.abs(wanted[range(3), p]).sum())
    return Order(axes, tuple(bool(wanted[i, a] < 0) for i, a in enumerate(axes)))


def to_axial(voxels: np.ndarray, order: Order) -> np.ndarray:
    """Return [D, H, W, ...] of a file's voxels [X, Y, Z, ...]."""
    turned = np.transpose(voxels, (*order.axes, *range(3, voxels.ndim)))
    return np.ascontiguousarray(np.flip(turned, np.flatnonzero(order.flipped)))


def from_axial(array: np.ndarray, order: Order) -> np.ndarray:
    """Return a file's voxels [X, Y, Z, ...] of [D, H, W, ...]; the inverse of `to_axial`."""
    turned = np.flip(array, np.flatnonzero(order.flipped))
    return np.transpose(turned, (*np.argsort(order.axes), *range(3, array.ndim)))


def axial_affine(affine: np.ndarray, shape: Sequence[int], order: Order) -> np.ndarray:
    """Return the affine of (slice, row, column) from that of the file's voxels of this shape."""
    change = np.zeros((4, 4))
    change[3, 3] = 1
    for i, (axis, flipped) in enumerate(zip(*order, strict=True)):
        change[axis, i] = -1 if flipped else 1
        change[axis, 3] = shape[axis] - 1 if flipped else 0
    return affine @ change


def cut(volume: Volume, low: Sequence[int], high: Sequence[int]) -> Volume:
    """Return the box low..high (slices, rows, columns; half-open) of a volume, in its place.

    Its affine, slice numbers and head box are those of the box; it cannot be written.
    """
    part = tuple(slice(int(a), int(b)) for a, b in zip(low, high, strict=True))
    numbers, box = volume.slice_numbers, volume.head_box
    if box is not None:
        shift, frame = np.tile(low[1:], 2), np.tile(np.subtract(high, low)[1:], 2)
        box = np.clip(box - shift, 0, frame).astype(np.int32)
    return volume._replace(
        image=volume.image[part],
        mask=None if volume.mask is None else volume.mask[part],
        affine=None if volume.affine is None else moved(volume.affine, low),
        slice_numbers=numbers[part[0]],
        head_box=box,
        write=None,
    )


def moved(affine: np.ndarray, first: Sequence[int]) -> np.ndarray:
    """Return the affine [4, 4] of a box whose voxel (0, 0, 0) is the whole's voxel `first`."""
    result = np.array(affine, np.float64)
    result[:3, 3] += result[:3, :3] @ np.asarray(first, np.float64)
    return result


def spacing_of(affine: np.ndarray) -> tuple[float, ...]:
    """Return the distance in mm between neighbours along each axis of an affine."""
    return tuple(float(x) for x in np.linalg.norm(affine[:3, :3], axis=0))


def voxel_mm3(
    spacing_mm: Sequence[float], affine: np.ndarray | Sequence | None = None
) -> float | None:
    """Return the volume of a voxel: of a box, or of a sheared one, which is smaller.

    Registration of 12 parameters and a tilted gantry shear: the edges keep their lengths.

    Args:
        spacing_mm: (slice distance, row, column): lengths of the edges; () when unknown.
        affine: [4, 4], its directions; None: at right angles.

    Returns:
        mm3; None when the spacing is unknown.
    """
    if not len(spacing_mm):
        return None
    box = float(np.prod(spacing_mm))
    if affine is None:
        return box
    edges = np.asarray(affine, np.float64)[:3, :3]
    part = abs(np.linalg.det(edges / np.linalg.norm(edges, axis=0)))
    return box * round(float(part), 6)  # headers' float32 leave right angles a little off


def as_stored(voxels: np.ndarray) -> np.ndarray:
    """Return voxels as integers as they are, or as float32, NaN and infinities among them.

    Integers are uint8, uint16, int16 or int32; others become the first of these that holds them,
    float32 where none does.

    Raises:
        ValueError: complex numbers or colours.
    """
    if voxels.dtype.kind not in "iufb":
        raise ValueError(f"voxels of type {voxels.dtype}; save real numbers")
    if voxels.dtype.kind == "f":
        return voxels.astype(np.float32)
    native = voxels.dtype.newbyteorder("=")
    return voxels.astype(native if native in _INTEGERS else _least_integer(voxels))


def _least_integer(voxels: np.ndarray) -> np.dtype:
    low, high = (int(voxels.min()), int(voxels.max())) if voxels.size else (0, 0)
    holds = (t for t in _INTEGERS if np.iinfo(t).min <= low and high <= np.iinfo(t).max)
    return next(holds, np.dtype(np.float32))


def as_pixels(voxels: np.ndarray) -> np.ndarray:
    """Return voxels as `as_stored`; what is not finite becomes the least value.

    Raises:
        ValueError: complex numbers or colours, or nothing finite.
    """
    pixels = as_stored(voxels)
    finite = np.isfinite(pixels) if pixels.dtype.kind == "f" else np.True_
    if not finite.all():
        if not finite.any():
            raise ValueError("no voxel is a finite number")
        pixels[~finite] = pixels[finite].min()
    return pixels


def join_channels(
    found: Mapping[str, Volume], names: Sequence[str], fill: str | None = None
) -> Volume:
    """Return one volume of the channels that the model takes.

    Args:
        found: volumes of one channel by name; all on one grid.
        names: the model's channels, in order.
        fill: the channel that stands in for the missing ones, as FLAIR does in the LGG set;
            None: nothing may be missing.

    Returns:
        The channels [D, H, W, C] in order of the names; geometry and `write` of the first one
        found, or of `fill` where it is given.

    Raises:
        UserError: channels are missing, have other grids, or more than one channel themselves.
    """
    missing = [name for name in names if name not in found]
    if missing and fill not in found:
        raise UserError(f"lacks {', '.join(missing)}; the model takes {', '.join(names)}")
    first = fill if fill in found else next(iter(found))
    like = found[first]
    for name, volume in found.items():
        if volume.image.shape[-1] != 1:
            raise UserError(f"{name} has {volume.image.shape[-1]} channels; give one per file")
        if not same_grid(volume, like):
            grids = f"{describe_grid(volume)}; {describe_grid(like)}"
            raise UserError(
                f"{name} and {first} lie on different voxels ({grids}): register and resample "
                "them first"
            )
    image = np.concatenate([found.get(name, like).image for name in names], axis=-1)
    warnings = dict.fromkeys(line for volume in found.values() for line in volume.warnings)
    return like._replace(image=image, warnings=tuple(warnings))


def with_channels(volume: Volume, names: Sequence[str], fill: str | None = None) -> Volume:
    """Return a volume read from one file if its channels are the model's, else say what lacks.

    Args:
        volume: as read.
        names: the model's channels, in order.
        fill: a scan of a single channel is taken as this one, and it stands in for the others.

    Raises:
        UserError: another number of channels.
    """
    count = volume.image.shape[-1]
    if count == len(names):
        return volume
    if count == 1 and fill is not None:
        return join_channels({fill: volume}, names, fill)
    has = "1 channel" if count == 1 else f"{count} channels"
    raise UserError(
        f"has {has}; the model takes {len(names)}: {', '.join(names)} (one file per channel: "
        "--channels; a missing one: --fill)"
    )


def same_grid(a: Volume, b: Volume) -> bool:
    """Tell whether two volumes have the same voxels in space, to a hundredth of a mm."""
    if a.image.shape[:3] != b.image.shape[:3] or (a.affine is None) != (b.affine is None):
        return False
    if a.affine is None:
        return True
    corners = np.array(
        [(*c, 1) for c in itertools.product(*((0, n - 1) for n in a.image.shape[:3]))]
    )
    return np.abs((a.affine - b.affine) @ corners.T).max() < _SAME_MM


def describe_grid(volume: Volume) -> str:
    """Say how many voxels a volume has, of which size, and where they begin and end."""
    shape = volume.image.shape[:3]
    size = "x".join(map(str, shape))
    if volume.affine is None:
        return f"{size} pixels"
    ends = volume.affine @ np.array([(0, 0, 0, 1), (*(n - 1 for n in shape), 1)]).T
    first, last = (", ".join(f"{x:.5g}" for x in end) for end in ends[:3].T)
    voxel = "x".join(f"{mm:.4g}" for mm in spacing_of(volume.affine))
    return f"{size} voxels of {voxel} mm, the first at ({first}), the last at ({last}) mm"
