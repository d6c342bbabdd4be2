"""The volumes of a prepared copy, in one file that all processes map into memory.

A box of a scan is a view of the system's page cache; nothing else of the scan is read, after its
checksum has been verified once. Of each scan the file holds some voxels of each region, the
image in its own integers and one bit for each region and voxel: a byte up to eight regions. No
records are written beside it. So a scan takes C times the bytes of an intensity, plus 1 up to eight
regions, for each voxel of the box of its head, and at most 12 `MOST_POINTS` bytes for each region:
31 MB for BraTS2021_00006, whose five files have 80 MB of voxels, 10 MB as they are compressed.
"""

import zlib
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from jaxseg.datasets.index import Patient
from jaxseg.datasets.mapped_file import MappedFile
from jaxseg.scans.volume import Volume

MOST_POINTS = 4096  # of a region
_VOXELS, _INDEX = "volumes.bin", "volumes.npy"
_ALIGNMENT = 64  # bytes; of each scan in the file


def write(folder: Path, volumes: Iterable[Volume]):
    """Write volumes with truth, statistics and head box, one in memory at a time."""
    rows = []
    with (folder / _VOXELS).open("wb") as file:
        for volume in volumes:
            file.write(bytes(-file.tell() % _ALIGNMENT))
            points = [some_voxels(volume.mask[..., k]) for k in range(volume.mask.shape[-1])]
            row = _row(volume, points, file.tell())
            checksum = 0
            for part in (np.concatenate(points), volume.image, _packed(volume.mask)):
                content = np.ascontiguousarray(part).reshape(-1).view(np.uint8)
                checksum = zlib.crc32(content, checksum)
                file.write(content)
            row["checksum"] = zlib.crc32(row.tobytes()[4:], checksum)
            rows.append(row)
    np.save(folder / _INDEX, np.array(rows))


def exists(folder: Path) -> bool:
    """Return whether `write` has written the file."""
    return (folder / _INDEX).exists()


def some_voxels(mask: np.ndarray) -> np.ndarray:
    """Return up to MOST_POINTS voxels of a mask [D, H, W], evenly spread: int32 [n, 3]."""
    inside = np.flatnonzero(mask)
    if len(inside) > MOST_POINTS:
        inside = inside[np.linspace(0, len(inside) - 1, MOST_POINTS).astype(np.int64)]
    return np.stack(np.unravel_index(inside, mask.shape), axis=-1).astype(np.int32)


def _row(volume: Volume, points: list[np.ndarray], offset: int) -> np.ndarray:
    image, stats, box = volume.image, volume.stats, volume.head_box
    kind = [("checksum", "u4"), ("offset", "i8"), ("shape", "i8", 4), ("dtype", "S4")]
    kind += [("points", "i8", len(points)), ("stats", "f4", stats.shape), ("head_box", "i4", 4)]
    counts = [len(p) for p in points]
    return np.array((0, offset, image.shape, image.dtype.str, counts, stats, box), kind)


def _packed(mask: np.ndarray) -> np.ndarray:
    """Return [..., ceil(K / 8)] uint8 of the masks [..., K]: region k is bit k % 8 of k // 8."""
    packed = np.zeros((*mask.shape[:-1], -(-mask.shape[-1] // 8)), np.uint8)
    for k in range(mask.shape[-1]):
        packed[..., k // 8] |= mask[..., k] << np.uint8(k % 8)
    return packed


def _unpacked(packed: np.ndarray, num_regions: int) -> np.ndarray:
    mask = np.empty((*packed.shape[:-1], num_regions), np.uint8)
    for k in range(num_regions):  # several times faster than np.unpackbits
        np.bitwise_and(packed[..., k // 8] >> np.uint8(k % 8), 1, out=mask[..., k])
    return mask


class Mapped:
    """Random access to the file that `write` made, also slice by slice as `Prepared.source` has it.

    Raises:
        OSError, ValueError: the file is missing or cut off, at any use; a scan is damaged, at its
            first use.
    """

    def __init__(self, folder: Path, patients: Sequence[Patient]):
        self._rows = np.load(folder / _INDEX, allow_pickle=False)
        self._patients = patients
        self._firsts = np.array([p.first for p in patients])
        self._places = {p.first: n for n, p in enumerate(patients)}
        self._sound = set()  # places of scans that are verified
        self._file = MappedFile(folder / _VOXELS, max(map(_end_of, self._rows)))

    @property
    def dtype(self) -> np.dtype:
        """What holds the voxels of every scan, in at most 4 bytes."""
        common = np.result_type(*(row["dtype"].decode() for row in self._rows))
        return common if common.itemsize <= 4 else np.dtype(np.float32)

    def __len__(self) -> int:
        return self._patients[-1].first + self._patients[-1].num_slices

    def __getitem__(self, index: int) -> dict[str, Any]:
        place = int(np.searchsorted(self._firsts, index, side="right")) - 1
        patient, at = self._patients[place], index - int(self._firsts[place])
        record = self.box(patient, (at, 0, 0), (at + 1, *patient.shape[1:]))
        record |= {"image": record["image"][0], "mask": record["mask"][0]}
        return record | {"patient": patient.id.encode(), "slice": patient.slice_numbers[at]}

    def box(self, patient: Patient, low: Sequence[int], high: Sequence[int]) -> dict[str, Any]:
        """Return image, mask, stats and head_box of a box, see `Prepared.source`."""
        row = self._row(patient)
        part = tuple(slice(int(a), int(b)) for a, b in zip(low, high, strict=True))
        _, image, packed = self._parts(row)
        return {
            "image": image[part],
            "mask": _unpacked(packed[part], len(row["points"])),
            "stats": row["stats"],
            "head_box": row["head_box"],
        }

    def foreground(self, patient: Patient) -> list[np.ndarray]:
        """Return some voxels of each region, see `Prepared.source`."""
        row = self._row(patient)
        points = np.array(self._parts(row)[0]).reshape(-1, 3)
        return np.split(points, np.cumsum(row["points"])[:-1])

    def _row(self, patient: Patient) -> np.ndarray:
        """Return what is known of a patient's scan, which is verified at its first use."""
        content = self._file.bytes()
        place = self._places[patient.first]
        row = self._rows[place]
        if place not in self._sound:
            part = content[row["offset"] : _end_of(row)]
            if zlib.crc32(row.tobytes()[4:], zlib.crc32(part)) != row["checksum"]:
                raise ValueError("checksum mismatch")
            self._sound.add(place)
        return row

    def _parts(self, row: np.ndarray) -> list[np.ndarray]:
        """Return views of the points [3 N] int32, the image [D, H, W, C] and the packed masks."""
        content, arrays, at = self._file.bytes(), [], int(row["offset"])
        for shape, dtype in _forms(row):
            size = int(np.prod(shape)) * dtype.itemsize
            arrays.append(content[at : at + size].view(dtype).reshape(shape))
            at += size
        return arrays


def _end_of(row: np.ndarray) -> int:
    sizes = (int(np.prod(shape)) * dtype.itemsize for shape, dtype in _forms(row))
    return int(row["offset"]) + sum(sizes)


def _forms(row: np.ndarray) -> list[tuple[tuple[int, ...], np.dtype]]:
    """Return shape and dtype of points, image and packed masks, in order."""
    shape, num_regions = tuple(map(int, row["shape"])), len(row["points"])
    masks = (*shape[:3], -(-num_regions // 8))
    points = (3 * int(row["points"].sum()),)
    return [
        (points, np.dtype(np.int32)),
        (shape, np.dtype(row["dtype"].decode())),
        (masks, np.dtype(np.uint8)),
    ]
