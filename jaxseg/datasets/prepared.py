"""A prepared copy of a data set on disk, and its records."""

import dataclasses
import functools
from collections.abc import Callable, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any, TypeVar

import numpy as np

from jaxseg.datasets import decoded, mapped
from jaxseg.datasets.index import Patient
from jaxseg.errors import TrainingFailed, one_line
from jaxseg.scans.volume import Volume, moved

_MAX_CAUSE = 200  # characters of a library's message
T = TypeVar("T")


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
        if mapped.exists(self.path):
            return patient.files[0]
        return patient.files[index - patient.first]

    def source(self) -> Any:
        """Return a random-access source of the records; it can be pickled.

        The copy is opened here, its file of records at the first read. Both raise
        TrainingFailed when something is gone or damaged; damage is found by checksums.

        Records come patient by patient in ascending slice number: `image` [H, W, C] as in
        `Volume`, `mask` [H, W, K] uint8 of {0, 1}, `patient` bytes, `slice` int, `stats` [C, 4]
        float32 (`intensity.volume_statistics`), `head_box` [4] int32 (`intensity.head_box`).

        `box(patient, low, high)` returns what lies in low..high (slices, rows, columns; half-open)
        of the patient's copy: `image` [d, h, w, C], perhaps a view of the file, not to be changed,
        `mask` [d, h, w, K], `stats`, `head_box`.
        `foreground(patient)` returns up to `mapped.MOST_POINTS` voxels of each region of the copy,
        evenly spread, int32 [n, 3]; none where the region is empty.
        """
        return Records(self)

    def volume(self, patient: Patient) -> Volume:
        """Return the whole copy of a patient's scan, its truth and statistics; errors as above.

        Of a volume set it is the box of the scan at `patient.offset`, and so is its affine.
        """
        whole = self.source().box(patient, (0, 0, 0), patient.shape)
        return Volume(
            np.array(whole["image"]),  # no view of a file that may be gone while it is used
            patient.spacing_mm,
            None if patient.affine is None else moved(patient.affine, patient.offset),
            patient=patient.id,
            mask=whole["mask"],
            slice_numbers=patient.slice_numbers,
            files=patient.files,
            stats=whole["stats"],
            head_box=whole["head_box"],
            cropped=patient.shape != patient.native_shape,
            group=patient.group,
        )


class Records:
    """The records of a prepared copy; what cannot be read is named."""

    def __init__(self, prepared: Prepared):
        self._prepared, self._foreground = prepared, {}
        try:
            if mapped.exists(prepared.path):
                self._source = mapped.Mapped(prepared.path, prepared.patients)
            elif decoded.exists(prepared.path):
                self._source = decoded.Decoded(prepared.path, prepared.patients)
            else:
                self._source = load_builder().open_source(prepared.path)
        except Exception as error:  # whatever TFDS raises over missing or broken files
            where = f"{prepared.path}: the prepared copy cannot be opened"
            raise TrainingFailed(_unreadable(where, error)) from error

    def __reduce__(self) -> tuple:
        return Records, (self._prepared,)

    def __len__(self) -> int:
        return len(self._source)

    @functools.cached_property
    def dtype(self) -> np.dtype:
        """What holds the pixels of every record, in at most 4 bytes."""
        if isinstance(self._source, mapped.Mapped):
            return self._source.dtype
        return self[0]["image"].dtype

    def run(self, patient: Patient, first: int, depth: int) -> list[dict[str, Any]]:
        """Return the records of `depth` slices of a patient, from its slice `first` on."""
        return [self[i] for i in range(patient.first + first, patient.first + first + depth)]

    def __getitem__(self, index: int) -> dict[str, Any]:
        if not 0 <= index < len(self):
            raise IndexError(index)  # ends a loop over the records
        return self._read(index, lambda: self._source[index])

    def box(self, patient: Patient, low: Sequence[int], high: Sequence[int]) -> dict[str, Any]:
        """Return a box of a patient's copy, see `Prepared.source`."""
        if not all(0 <= a < b <= n for a, b, n in zip(low, high, patient.shape, strict=True)):
            raise IndexError(f"{patient.id}: no box {low} to {high} in {patient.shape}")
        if isinstance(self._source, mapped.Mapped):
            return self._read(patient.first, lambda: self._source.box(patient, low, high))
        records = self.run(patient, low[0], high[0] - low[0])
        part = tuple(slice(a, b) for a, b in zip(low[1:], high[1:], strict=True))
        voxels = {name: np.stack([r[name][part] for r in records]) for name in ("image", "mask")}
        return voxels | {name: records[0][name] for name in ("stats", "head_box")}

    def foreground(self, patient: Patient) -> list[np.ndarray]:
        """Return some voxels of each region, see `Prepared.source`."""
        if isinstance(self._source, mapped.Mapped):
            return self._read(patient.first, lambda: self._source.foreground(patient))
        if patient.first not in self._foreground:  # kept: all slices are read for it
            mask = self.box(patient, (0, 0, 0), patient.shape)["mask"]
            found = [mapped.some_voxels(mask[..., k]) for k in range(mask.shape[-1])]
            self._foreground[patient.first] = found
        return self._foreground[patient.first]

    def _read(self, index: int, read: Callable[[], T]) -> T:
        try:
            return read()
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
