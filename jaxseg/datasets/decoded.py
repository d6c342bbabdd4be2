"""The slices of a prepared copy, decoded, in one file that all processes read at memory speed.

TFDS takes about as long to read and decode a slice as it takes to warp it; here it is a copy
out of the system's page cache, which the processes of a machine share. The file is written
beside the records where it fits; without it, they are read.
"""

import os
import shutil
import weakref
import zlib
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from jaxseg.datasets.index import Patient

_PIXELS, _INDEX = "decoded.bin", "decoded.npy"
_SHARE = 0.5  # of the memory and of the free disk that the file may take


def write(folder: Path, records: Iterable[dict[str, Any]]):
    """Write the records of `Prepared.source`, in order; nothing where they do not fit."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    limit, rows = _SHARE * min(memory, shutil.disk_usage(folder).free), []
    with (folder / _PIXELS).open("wb") as file:
        for record in records:
            pixels = record["image"].tobytes() + record["mask"].tobytes()
            row = _row(record, file.tell())
            row["checksum"] = _checksum(pixels, row)
            rows.append(row)
            file.write(pixels)
            if file.tell() > limit:
                (folder / _PIXELS).unlink()
                return
    np.save(folder / _INDEX, np.array(rows))


def _row(record: dict[str, Any], offset: int) -> np.ndarray:
    image, mask, stats = record["image"], record["mask"], record["stats"]
    kind = [("checksum", "u4"), ("offset", "i8"), ("shape", "i8", 3), ("dtype", "S4")]
    kind += [("regions", "i8"), ("stats", "f4", stats.shape), ("head_box", "i4", 4)]
    values = image.shape, image.dtype.str, mask.shape[-1], stats, record["head_box"]
    return np.array((0, offset, *values), kind)


def _checksum(pixels: bytes, row: np.ndarray) -> int:
    """Return the CRC-32 of the pixels and of all of the row behind the checksum itself."""
    return zlib.crc32(row.tobytes()[4:], zlib.crc32(pixels))


class Decoded:
    """Random access to the file that `write` made; records as `Prepared.source` has them.

    Raises:
        OSError, ValueError: the file is missing or damaged; of a damaged record when it is read.
    """

    def __init__(self, folder: Path, patients: Sequence[Patient]):
        self._rows = np.load(folder / _INDEX, allow_pickle=False)
        self._names = [(p.id.encode(), number) for p in patients for number in p.slice_numbers]
        self._file = os.open(folder / _PIXELS, os.O_RDONLY)
        weakref.finalize(self, os.close, self._file)
        if os.fstat(self._file).st_size != self._end(len(self) - 1):
            raise OSError(f"{_PIXELS} is cut off")

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: int) -> dict[str, Any]:
        row, (patient, number) = self._rows[index], self._names[index]
        height, width, channels = row["shape"]
        # Not mapped into memory: where the file is cut off that would kill the process.
        pixels = os.pread(self._file, self._end(index) - row["offset"], row["offset"])
        if _checksum(pixels, row) != row["checksum"]:
            raise ValueError("checksum mismatch")
        image = np.frombuffer(pixels, row["dtype"].decode(), height * width * channels)
        mask = np.frombuffer(pixels, np.uint8, offset=image.nbytes)
        return {
            "image": image.reshape(row["shape"]),
            "mask": mask.reshape(height, width, row["regions"]),
            "patient": patient,
            "slice": number,
            "stats": row["stats"],
            "head_box": row["head_box"],
        }

    def _end(self, index: int) -> int:
        """Return where in the file the pixels of a record end."""
        row = self._rows[index]
        height, width, channels = row["shape"]
        pixel = channels * np.dtype(row["dtype"].decode()).itemsize + row["regions"]
        return row["offset"] + height * width * pixel


def exists(folder: Path) -> bool:
    """Return whether `write` has written the file."""
    return (folder / _INDEX).exists()
