"""What is known about the patients of a prepared copy without reading its records."""

import dataclasses
import hashlib
import json
from collections import defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from jaxseg.machine.files import replace_text
from jaxseg.scans.volume import Volume, cut, voxel_mm3


@dataclasses.dataclass(frozen=True)
class Patient:
    """Where a patient's records are and what its slices hold.

    Of a scan of a volume set: the slices are those of its copy, which is a box of the scan.
    """

    id: str
    first: int  # record index of the first slice; the others follow in order
    tumour_pixels: tuple[int, ...]  # per slice
    slice_numbers: tuple[int, ...]
    # SHA-256 of each slice's pixels, of a volume's channels; '' where all of them are equal.
    digests: tuple[str, ...]
    files: tuple[str, ...]  # image file of each, relative to the source
    spacing_mm: tuple[float, ...] = ()  # (slice distance, row, column); () when unknown
    affine: tuple[tuple[float, ...], ...] | None = None  # (slice, row, column, 1) to RAS+ mm
    mask_digests: tuple[str, ...] = ()  # of each slice's masks, of a volume's; '' when empty
    group: str = ""  # the person, see `person`
    native_shape: tuple[int, ...] = ()  # of the scan: slices, rows, columns
    offset: tuple[int, ...] = (0, 0, 0)  # where the copy lies in the scan; the affine is the scan's
    shape: tuple[int, ...] = ()  # of the copy
    region_voxels: tuple[int, ...] = ()  # of each region

    @property
    def person(self) -> str:
        """Whose scan it is; the other time points of one person have the same."""
        return self.group or self.id

    @property
    def num_slices(self) -> int:
        """Number of slices, also of records."""
        return len(self.slice_numbers)

    @property
    def voxel_mm3(self) -> float | None:
        """Volume of a voxel; None when the spacing is unknown."""
        return voxel_mm3(self.spacing_mm, self.affine)


def make_patient(volume: Volume, first: int, box: np.ndarray | None = None) -> Patient:
    """Return the index entry of a volume with truth.

    Args:
        volume: as scanned; its files are those of its slices, with a box those of its channels or
            the one of all.
        first: record of its first slice.
        box: [2, 3], low and high of the part of a scan of a volume set that the copy holds, with
            all of the truth; None: slices, and the copy holds them whole.
    """
    affine, files = volume.affine, volume.files
    images, masks, copy, numbers = volume.image, volume.mask, volume, volume.slice_numbers
    if box is not None:
        images, masks, copy = np.moveaxis(images, -1, 0)[..., None], masks[None], cut(volume, *box)
        files = files if len(files) == len(images) else files[:1] * len(images)
        numbers = copy.slice_numbers or tuple(range(int(box[0][0]), int(box[1][0])))
    return Patient(
        id=volume.patient,
        first=first,
        tumour_pixels=tuple(copy.mask.any(-1).sum((1, 2)).tolist()),
        slice_numbers=numbers,
        digests=tuple(_image_digest(image) for image in images),
        files=files,
        spacing_mm=volume.spacing_mm,
        affine=None if affine is None else tuple(map(tuple, affine.tolist())),
        mask_digests=tuple(_digest(mask) if mask.any() else "" for mask in masks),
        group=volume.group,
        native_shape=volume.mask.shape[:3],
        offset=(0, 0, 0) if box is None else tuple(map(int, box[0])),
        shape=copy.mask.shape[:3],
        region_voxels=tuple(copy.mask.sum((0, 1, 2), dtype=np.int64).tolist()),
    )


def fingerprint(patients: Sequence[Patient]) -> str:
    """Return a text that is the same only for the same patients, images and masks."""
    content = json.dumps([[p.id, p.first, p.digests, p.mask_digests] for p in patients])
    return hashlib.sha256(content.encode()).hexdigest()


def find_copies(
    groups: dict[str, Iterable[Patient]],
) -> dict[tuple[str, str], list[str]]:
    """Return the pairs of ids of patients with identical images, and which files these are.

    Each image is compared with the first of its kind in every group, so that many copies of
    one image in a group make as many pairs, not the square. A patient is its own partner where
    it has an image twice. Constant images are not counted: blank slices repeat.

    Args:
        groups: name -> patients; a patient may be in several.
    """
    seen = defaultdict(dict)  # digest: group: (id, file) where it stands first
    pairs = defaultdict(list)
    for name, patients in groups.items():
        for patient in patients:
            for digest, file in zip(patient.digests, patient.files, strict=True):
                if digest:
                    for first, first_file in seen[digest].values():
                        pairs[first, patient.id].append(f"{first_file} = {file}")
                    seen[digest].setdefault(name, (patient.id, file))
    return dict(pairs)


def same_images(files: list[str]) -> str:
    """Return how many images are identical and which, three of them by name."""
    count = "1 identical image" if len(files) == 1 else f"{len(files)} identical images"
    return f"{count}: {', '.join(files[:3])}{', ...' if len(files) > 3 else ''}"


def scan_digest(patient: Patient) -> str:
    """Return a text that is the same only for the same images and tumour areas, whoever it is."""
    content = json.dumps([patient.digests, patient.tumour_pixels])
    return hashlib.sha256(content.encode()).hexdigest()


def truth_digest(patient: Patient) -> str:
    """Return a text that is the same only for the same masks; '' where a copy of old has none."""
    content = json.dumps(patient.mask_digests)
    return hashlib.sha256(content.encode()).hexdigest() if patient.mask_digests else ""


def _image_digest(image: np.ndarray) -> str:
    # Blank slices repeat without a leak.
    pixels = image.reshape(-1, image.shape[-1])
    return "" if (pixels == pixels[:1]).all() else _digest(image)


def _digest(image: np.ndarray) -> str:
    header = f"{image.shape} {image.dtype} ".encode()
    return hashlib.sha256(header + np.ascontiguousarray(image).tobytes()).hexdigest()


def write_index(path: Path, **content: Any):
    """Write the fields of a `Prepared` but its path as JSON, whole or not at all."""
    patients = [dataclasses.asdict(p) for p in content["patients"]]
    replace_text(path, json.dumps(content | {"patients": patients}))


def read_index(path: Path) -> dict[str, Any]:
    """Return what was given to `write_index`, lists as tuples."""
    index = _tuples(json.loads(path.read_text()))
    return index | {"patients": tuple(Patient(**p) for p in index["patients"])}


def _tuples(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: _tuples(v) for k, v in value.items()}
    return tuple(map(_tuples, value)) if isinstance(value, list) else value
