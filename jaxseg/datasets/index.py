"""What is known about the patients of a prepared copy without reading its records."""

import dataclasses
import hashlib
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np


@dataclasses.dataclass(frozen=True)
class Volume:
    """All slices of one patient in order."""

    patient: str
    image: np.ndarray  # [D, H, W, C] uint8 or uint16
    mask: np.ndarray  # [D, H, W, 1] uint8 of {0, 1}
    slice_numbers: tuple[int, ...]
    files: tuple[str, ...]  # image files, relative to the source


@dataclasses.dataclass(frozen=True)
class Patient:
    """Where a patient's records are and what its slices hold."""

    id: str
    first: int  # record index of the first slice; the others follow in order
    tumour_pixels: tuple[int, ...]  # per slice
    slice_numbers: tuple[int, ...]
    digests: tuple[str, ...]  # SHA-256 of each slice's pixels, '' when the slice is constant
    files: tuple[str, ...]  # image files, relative to the source

    @property
    def num_slices(self) -> int:
        """Number of slices, also of records."""
        return len(self.slice_numbers)


def describe(volume: Volume, first: int) -> Patient:
    """Return the index entry of a volume whose first slice is record `first`."""
    return Patient(
        id=volume.patient,
        first=first,
        tumour_pixels=tuple(int(n) for n in volume.mask.sum((1, 2, 3), dtype=np.int64)),
        slice_numbers=volume.slice_numbers,
        digests=tuple(_digest(image) for image in volume.image),
        files=volume.files,
    )


def fingerprint(patients: Sequence[Patient]) -> str:
    """Return a text that is the same only for the same patients with the same images."""
    content = json.dumps([[p.id, p.first, p.tumour_pixels, p.digests] for p in patients])
    return hashlib.sha256(content.encode()).hexdigest()


def scan_digest(patient: Patient) -> str:
    """Return a text that is the same only for the same images and tumour areas, whoever it is."""
    content = json.dumps([patient.digests, patient.tumour_pixels])
    return hashlib.sha256(content.encode()).hexdigest()


def _digest(image: np.ndarray) -> str:
    if (image == image[:1, :1]).all():  # blank slices repeat without a leak
        return ""
    header = f"{image.shape} {image.dtype} ".encode()
    return hashlib.sha256(header + np.ascontiguousarray(image).tobytes()).hexdigest()


def write_index(path: Path, num_channels: int, patients: list[Patient], warnings: list[str]):
    """Write the index as JSON."""
    index = {
        "num_channels": num_channels,
        "warnings": warnings,
        "patients": [dataclasses.asdict(p) for p in patients],
    }
    path.write_text(json.dumps(index))


def read_index(path: Path) -> tuple[int, tuple[Patient, ...], tuple[str, ...]]:
    """Return number of channels, patients and warnings as written by `write_index`."""
    index = json.loads(path.read_text())
    patients = tuple(
        Patient(**{k: tuple(v) if isinstance(v, list) else v for k, v in p.items()})
        for p in index["patients"]
    )
    return index["num_channels"], patients, tuple(index["warnings"])
