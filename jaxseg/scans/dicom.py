"""DICOM series to volumes; needs pydicom, and highdicom to write DICOM-SEG, `[dicom]`."""

import re
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from jaxseg.errors import UserError, named, one_line
from jaxseg.scans import dicom_seg
from jaxseg.scans.dicom_planes import (
    Plane,
    in_order,
    open_file,
    place_of,
    quiet,
    read_planes,
    slice_distance,
)
from jaxseg.scans.nifti import write_axial
from jaxseg.scans.regions import TUMOUR, Region, one_each
from jaxseg.scans.volume import (
    MAX_PATIENT_BYTES,
    Volume,
    as_pixels,
    axial_affine,
    axial_order,
    from_axial,
    spacing_of,
    to_axial,
)

SUFFIXES = (".dcm", ".dicom", ".ima")
_PREAMBLE = 128  # bytes before the letters that mark a DICOM file
_START = 1024  # bytes that hold what kind of object is stored
_APPLE_DOUBLE = b"\0\5\x16\7"  # macOS's companion of a file, by the file's own suffix
_STORED = re.compile(rb"\x02\x00\x02\x00UI(..)", re.DOTALL)  # element of group 2, its length
_STORAGE = b"1.2.840.10008.5.1.4.1.1."
_NO_SCANS = (  # kinds of objects: the index of a CD; results, reports and plans beside scans
    b"1.2.840.10008.1.3.10",
    *(_STORAGE + kind for kind in (b"66", b"11.", b"88.", b"104.", b"481.", b"9.", b"4.2")),
)
# How a file without preamble begins: group 2 or 8, its first elements; then an explicit type of
# two letters, or the length of the value, which is short.
_GROUPS = (b"\2\0", b"\x08\0", b"\0\x08")
_FIRST_ELEMENTS, _TYPES = (0, 1, 5, 8, 0x10, 0x12, 0x16, 0x18), (b"UL", b"OB", b"CS", b"UI", b"DA")


def is_dicom(path: Path) -> bool:
    """Return whether a file is DICOM, by suffix or by how it begins, and may hold a scan."""
    named_so = path.name.lower().endswith(SUFFIXES)
    try:
        with path.open("rb") as file:
            start = file.read(_START)
    except OSError:
        return named_so
    if start.startswith(_APPLE_DOUBLE) or _stored(start).startswith(_NO_SCANS):
        return False
    marked = start[_PREAMBLE : _PREAMBLE + 4] == b"DICM"
    return named_so or marked or _begins_without_preamble(start)


def _stored(start: bytes) -> bytes:
    """Return the UID of the kind of object, b"" where the start of a file does not say it."""
    found = _STORED.search(start)
    length = int.from_bytes(found[1], "little") if found else 0
    return start[found.end() : found.end() + length].rstrip(b"\0 ") if found else b""


def _begins_without_preamble(start: bytes) -> bool:
    order = "big" if start[:2] == _GROUPS[2] else "little"
    if start[:2] not in _GROUPS or int.from_bytes(start[2:4], order) not in _FIRST_ELEMENTS:
        return False
    return start[4:6] in _TYPES or 0 < int.from_bytes(start[4:8], order) <= 64


def read_series(paths: Sequence[Path]) -> Volume:
    """Read the images of one series, in any order; files that are no images are passed over.

    A file holds one image or, enhanced, several frames. Slices are sorted by their position along
    the normal of the plane; values are rescaled by each slice's own slope and intercept. `write`
    makes a DICOM-SEG file that refers to the series: BINARY for masks, a segment for each region,
    FRACTIONAL in steps of 1/255 for probabilities; where none can be made (a warning says why)
    NIfTI files.

    Raises:
        UserError: pydicom is missing; no image, several series, several images at one place,
            planes that are not parallel, or what cannot be read.
    """
    with quiet(), named("cannot be read as a DICOM series"):
        planes = in_order(_one_series([plane for path in paths for plane in read_planes(path)]))
        check_size(planes)
        place, warnings = place_of(planes)
        voxels = _read_pixels(planes)
        order = axial_order(place)
        axial = axial_affine(place, voxels.shape, order)
        spacing_mm = spacing_of(axial) if slice_distance(planes) else ()
        obstacle = dicom_seg.obstacle(planes)
    if obstacle:
        warnings += [f"no DICOM-SEG can be made of this series ({obstacle}): written as NIfTI"]

    def write(to: Path, values: np.ndarray, regions: Sequence[Region] = TUMOUR):
        if obstacle:
            write_axial(to.with_name(to.name + ".nii.gz"), one_each(values, regions), axial)
        else:
            to = to.with_name(to.name + ".dcm")
            dicom_seg.write(to, planes, from_axial(values, order), regions)

    images = dicom_seg.images_of(planes, order)
    return Volume(
        *(to_axial(voxels, order), spacing_mm, axial, tuple(warnings), write), images=images
    )


def _one_series(planes: list[Plane]) -> list[Plane]:
    """Return the planes if all are of one series; UserError lists the series else."""
    series = defaultdict(list)
    for plane in planes:
        series[plane.header.get("SeriesInstanceUID", "no series")].append(plane)
    if not series:
        raise UserError("no DICOM images")
    if len(series) == 1:
        return planes
    listed = "; ".join(
        f"{found[0].header.get('SeriesDescription', 'no description')!r} ({len(found)} images, "
        f"{one_line(uid)})"
        for uid, found in series.items()
    )
    raise UserError(f"{len(series)} series, give each a folder of its own: {listed}")


def check_size(planes: Sequence[Plane]):
    """Raise UserError for more voxels than one patient should have."""
    num_bytes = 4 * len(planes) * int(np.prod(planes[0].size, dtype=np.int64))
    if num_bytes > MAX_PATIENT_BYTES:
        raise UserError(f"{num_bytes} bytes of voxels; at most {MAX_PATIENT_BYTES}")


def _read_pixels(planes: Sequence[Plane]) -> np.ndarray:
    """Return [D, H, W, 1], rescaled."""
    of_file = defaultdict(list)
    for at, plane in enumerate(planes):
        of_file[plane.path].append((at, plane))
    slices = {}
    for path, inside in of_file.items():
        with named(f"{path}: pixels cannot be read"):
            frames = open_file(path).pixel_array.reshape(-1, *inside[0][1].size)
            for at, plane in inside:
                pixels = frames[plane.frame]
                if (plane.slope, plane.intercept) != (1, 0):
                    pixels = pixels.astype(np.float32) * np.float32(plane.slope)
                    pixels += np.float32(plane.intercept)
                slices[at] = as_pixels(pixels)
    return np.stack([slices[at] for at in range(len(planes))])[..., None]
