"""The slices of a prepared copy, decoded, in one file that all processes read at memory speed.

TFDS takes about as long to read and decode a slice as it takes to warp it; here it is a copy
out of the system's page cache, which the processes of a machine share. The file is written
beside the records where it fits; without it, they are read.
"""

import math
import os
import shutil
import zlib
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from jaxseg.datasets.index import Patient
from jaxseg.datasets.mapped_file import MappedFile

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


def _checksum(pixels: bytes | np.ndarray, row: np.ndarray) -> int:
    """Return the CRC-32 of the pixels and of all of the row behind the checksum itself."""
    return zlib.crc32(row.tobytes()[4:], zlib.crc32(pixels))


class Decoded:
    """Random access to the file that `write` made; records as `Prepared.source` has them.

    Pixels are views of the file mapped into memory, not to be changed.

    Raises:
        OSError, ValueError: the file is missing or damaged; of a damaged record when it is read.
    """

    def __init__(self, folder: Path, patients: Sequence[Patient]):
        self._rows = np.load(folder / _INDEX, allow_pickle=False)
        self._names = [(p.id.encode(), number) for p in patients for number in p.slice_numbers]
        # As plain numbers: to take a field out of a row costs as much as to copy a slice.
        self._forms = [_form(row) for row in self._rows]
        self._file = MappedFile(folder / _PIXELS, self._forms[-1][1])

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: int) -> dict[str, Any]:
        content = self._file.bytes()
        offset, end, masks, dtype, (height, width, channels) = self._forms[index]
        row = self._rows[index]
        if _checksum(content[offset:end], row) != row["checksum"]:
            raise ValueError("checksum mismatch")
        patient, number = self._names[index]
        return {
            "image": content[offset:masks].view(dtype).reshape(height, width, channels),
            "mask": content[masks:end].reshape(height, width, -1),
            "patient": patient,
            "slice": number,
            "stats": row["stats"],
            "head_box": row["head_box"],
        }


def _form(row: np.ndarray) -> tuple[int, int, int, np.dtype, tuple[int, ...]]:
    """Return where pixels begin, where they end, where their masks begin, dtype and shape."""
    offset, shape = int(row["offset"]), tuple(map(int, row["shape"]))
    dtype = np.dtype(row["dtype"].decode())
    masks = offset + math.prod(shape) * dtype.itemsize
    return offset, masks + shape[0] * shape[1] * int(row["regions"]), masks, dtype, shape


def exists(folder: Path) -> bool:
    """Return whether `write` has written the file."""
    return (folder / _INDEX).exists()
