"""A prepared copy of a data set on disk, and its records."""

import dataclasses
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from jaxseg.datasets import decoded
from jaxseg.datasets.index import Patient
from jaxseg.errors import TrainingFailed, one_line
from jaxseg.scans.volume import Volume

_MAX_CAUSE = 200  # characters of a library's message


@dataclasses.dataclass(frozen=True)
class Prepared:
    """A checked data set on disk, ready to be read."""

    path: Path
    num_channels: int
    regions: tuple[str, ...]  # names, in order of the masks
    patients: tuple[Patient, ...]  # in order of the ids, as are the records
    warnings: tuple[str, ...]

    def file_of(self, index: int) -> str:
        """Return the image file, relative to the source, that record `index` was made from."""
        patient = next(p for p in self.patients if index < p.first + p.num_slices)
        return patient.files[index - patient.first]

    def source(self) -> Any:
        """Return a random-access source of the records; it can be pickled.

        The copy is opened here, its file of records at the first read. Both raise
        TrainingFailed when something is gone or damaged; damage is found by checksums.

        Records come patient by patient in ascending slice number: `image` [H, W, C] uint8 or
        uint16, `mask` [H, W, K] uint8 of {0, 1}, `patient` bytes, `slice` int, `stats` [C, 4]
        float32 (`intensity.volume_statistics`), `head_box` [4] int32 (`intensity.head_box`).
        """
        return _Records(self)

    def volume(self, patient: Patient) -> Volume:
        """Return the whole scan of a patient, with its truth and statistics; errors as above."""
        records = self.source().run(patient, 0, patient.num_slices)
        return Volume(
            np.stack([r["image"] for r in records]),
            patient.spacing_mm,
            None if patient.affine is None else np.array(patient.affine),
            patient=patient.id,
            mask=np.stack([r["mask"] for r in records]),
            slice_numbers=patient.slice_numbers,
            files=patient.files,
            stats=records[0]["stats"],
            head_box=records[0]["head_box"],
        )


class _Records:
    """The records of a prepared copy; what cannot be read is named."""

    def __init__(self, prepared: Prepared):
        self._prepared = prepared
        try:
            if decoded.exists(prepared.path):
                self._source = decoded.Decoded(prepared.path, prepared.patients)
            else:
                self._source = load_builder().open_source(prepared.path)
        except Exception as error:  # whatever TFDS raises over missing or broken files
            where = f"{prepared.path}: the prepared copy cannot be opened"
            raise TrainingFailed(_unreadable(where, error)) from error

    def __reduce__(self) -> tuple:
        return _Records, (self._prepared,)

    def __len__(self) -> int:
        return len(self._source)

    def run(self, patient: Patient, first: int, depth: int) -> list[dict[str, Any]]:
        """Return the records of `depth` slices of a patient, from its slice `first` on."""
        return [self[i] for i in range(patient.first + first, patient.first + first + depth)]

    def __getitem__(self, index: int) -> dict[str, Any]:
        if not 0 <= index < len(self):
            raise IndexError(index)  # ends a loop over the records
        try:
            return self._source[index]
        except Exception as error:  # of NumPy, array_record or TFDS: any
            path = self._prepared.path
            where = f"{self._prepared.file_of(index)}: cannot be read from the prepared copy {path}"
            raise TrainingFailed(_unreadable(where, error)) from error


def load_builder() -> ModuleType:
    """Return the module of the TFDS builders."""
    from jaxseg.datasets import builder

    return builder


def _unreadable(what: str, error: Exception) -> str:
    cause = f"{type(error).__name__}: {one_line(error)}"[:_MAX_CAUSE]
    remedy = "delete the folder of the prepared copy, it is made again at the next start"
    return f"{what} ({cause}); {remedy}"
