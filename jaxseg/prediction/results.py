"""What `predict` wrote, read back as the scan is read: slices, a volume's file, DICOM-SEG."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from jaxseg.config import Dataset
from jaxseg.errors import UserError
from jaxseg.layouts.find import find_scans
from jaxseg.machine.files import read_json
from jaxseg.scans.dicom import SUFFIXES
from jaxseg.scans.dicom_seg import read_segmentation
from jaxseg.scans.files import PREDICTION
from jaxseg.scans.regions import Region
from jaxseg.scans.volume import Images

# Of a result: a folder of slices, or a file.
_FORMS = ("", ".nii.gz", ".nii", ".nrrd", ".mha", ".dcm")
_FULL = 65535  # a probability of 1 in files of 16 bit


class Result(NamedTuple):
    """A mask or a probability."""

    values: np.ndarray  # [D, H, W] of labels; probabilities in 0..1
    spacing_mm: tuple[float, ...] = ()  # (slice distance, row, column); () when unknown
    affine: np.ndarray | None = None  # as that of a `Volume`
    slices: tuple[str, ...] = ()  # names of the files, where each slice has one
    images: Images | None = None  # of the series that a DICOM-SEG is of


def read_result(
    path: Path, images: Images | None = None, regions: Sequence[Region] = ()
) -> Result | None:
    """Return what `Volume.write` has written; None: not there.

    Args:
        path: without the suffix, as given to `Volume.write`.
        images: of the series, see `read_values`.
        regions: that were written, see `read_values`.
    """
    there = [path.with_name(path.name + form) for form in _FORMS]
    there = [file for file in there if file.exists()]
    return read_values(there[0], images, regions) if there else None


def read_values(path: Path, images: Images | None = None, regions: Sequence[Region] = ()) -> Result:
    """Return a mask or probability in a file, or a folder of slices.

    Args:
        path: of either.
        images: of the series that a DICOM-SEG is laid upon: each frame on the image that it refers
            to. None: by place.
        regions: whose labels the segments of a DICOM-SEG become, see `read_segmentation`.
    """
    if path.name.lower().endswith(SUFFIXES):
        values, images = read_segmentation(path, images, regions)
        return Result(values, images=images)
    (result,) = find_scans(path, Dataset(), masks=True)
    volume = result.read()
    values = volume.image[..., 0]
    if path.is_dir() and values.dtype == np.uint16:
        values = values / np.float32(_FULL)
    slices = result.names if path.is_dir() else ()
    return Result(values, volume.spacing_mm, volume.affine, slices)


def slice_names(folder: Path) -> tuple[str, ...]:
    """Return the files of a result in the order of its slices."""
    (result,) = find_scans(folder, Dataset(), masks=True)
    return result.names


def regions_in(record: Mapping[str, Any]) -> tuple[Region, ...]:
    """Return the regions that `predict` kept of a patient; none of old, which had but one."""
    found = record.get("regions", ())
    return tuple(Region(r["name"], tuple(r["labels"]), r.get("written")) for r in found)


def read_records(output: Path) -> dict[str, dict[str, Any]]:
    """Return what `predict` kept of each patient; UserError when it has written nothing there."""
    found = {p.parent.name: read_json(p) for p in sorted(output.glob(f"*/{PREDICTION}"))}
    if not found:
        raise UserError(f"{output}: nothing that jaxseg.predict wrote (no */{PREDICTION})")
    return found
