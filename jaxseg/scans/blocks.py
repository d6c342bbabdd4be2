"""Voxels behind a header of text, or in a file beside it: what NRRD and MetaImage have in common.

Nobody vouches for the files: a block is read whole only where it is no larger than a scan, it is
unpacked no further than its header says, and a header names no file outside of its folder.
"""

import os
import re
import zlib
from pathlib import Path
from typing import BinaryIO

import numpy as np

from jaxseg.scans.files import open_file
from jaxseg.scans.volume import MAX_PATIENT_BYTES

HEADER_BYTES = 1 << 16  # of text hold what names the voxels' file
_DATA = re.compile(rb"^(?:data ?file\s*:|ElementDataFile\s*=)\s*(.*?)\s*$", re.I | re.M)
_END = re.compile(rb"\r?\n\r?\n")
_ANY = 47  # zlib's window bits for zlib and gzip
LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])
UNORIENTED = (
    "the file does not state its orientation; taken as LPS, voxels from right to left, front to "
    "back, bottom to top: check the overlay"
)
MM = {"": 1.0, "?": 1.0, "mm": 1.0, "cm": 10.0, "m": 1000.0, "um": 0.001, "µm": 0.001}


def data_file(start: bytes) -> str:
    """Return the file that a header, the first bytes of a file, says to hold the voxels.

    '' where they are in the same file, or in several.
    """
    name = said_file(start).removeprefix("./")
    return "" if name.upper() == "LOCAL" or not _is_plain(name) else name


def said_file(start: bytes) -> str:
    """Return what the header in the first bytes of a file says of its voxels' files; or ''."""
    found = _DATA.search(_END.split(start, maxsplit=1)[0])
    return found[1].decode(errors="replace") if found else ""


def beside(header: Path, name: str) -> Path:
    """Return the path of a header's voxels; ValueError: several files, or one in another folder."""
    if not _is_plain(name := name.removeprefix("./")):
        raise ValueError(
            f"its voxels are in {name!r}; one file beside the header is read: save it as one"
        )
    return header.with_name(name)


def _is_plain(name: str) -> bool:
    several = name.upper().startswith("LIST") or "%" in name
    return bool(name) and not several and not re.search(r"[/\\:\0]", name) and name != ".."


def read_rest(file: BinaryIO) -> bytes:
    """Return the bytes from here to the end; ValueError: more than a scan has."""
    size = os.fstat(file.fileno()).st_size
    if size > MAX_PATIENT_BYTES:
        raise ValueError(f"{size} bytes; at most {MAX_PATIENT_BYTES}")
    return file.read()


def read_beside(header: Path, name: str) -> bytes:
    """Return the voxels that a header says to be in another file.

    Raises:
        ValueError: several files, or one in another folder; it is not there, is no regular file or
            too large.
    """
    path = beside(header, name)
    try:
        with open_file(path) as file:
            return read_rest(file)
    except FileNotFoundError:
        raise ValueError(f"its voxels should be beside it in {path.name}: no such file") from None


def unpacked(data: bytes, num_bytes: int) -> bytes:
    """Return what zlib or gzip has packed, but no more than one byte beyond what is expected."""
    return zlib.decompressobj(_ANY).decompress(data, num_bytes + 1)


def block_bytes(shape: tuple[int, ...], dtype: np.dtype) -> int:
    """Return the bytes of voxels; ValueError: none, or more than a scan has.

    Args:
        shape: of three axes.
        dtype: as stored.
    """
    if len(shape) != 3 or min(shape) < 1:
        raise ValueError(f"axes {tuple(shape)}; 3 of space can be read")
    num_bytes = int(np.prod(shape, dtype=np.float64)) * max(dtype.itemsize, 4)
    if num_bytes > MAX_PATIENT_BYTES:
        raise ValueError(f"{num_bytes} bytes of voxels; at most {MAX_PATIENT_BYTES}")
    return int(np.prod(shape)) * dtype.itemsize


def shaped(data: bytes, shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
    """Return voxels [X, Y, Z] of bytes whose first axis runs fastest; ValueError: other bytes."""
    expected = block_bytes(shape, dtype)
    if len(data) != expected:
        more = "more than " * (len(data) == expected + 1)
        raise ValueError(f"holds {more}{len(data)} bytes of voxels, its header says {expected}")
    return np.frombuffer(data, dtype).reshape(shape, order="F")
