"""Slices as PNG, TIFF or JPEG files to volumes and back."""

from collections.abc import Callable, Sequence
from pathlib import Path, PurePosixPath

import cv2
import numpy as np

from jaxseg.errors import UserError, one_line
from jaxseg.scans.decode import decode_image
from jaxseg.scans.regions import TUMOUR, Region, one_each
from jaxseg.scans.volume import MAX_PATIENT_BYTES, Volume

_HIGHEST = 65535  # a probability of 1, in 16 bit


def read_slice(
    read: Callable[[str], bytes], name: str, decode: Callable[[bytes], np.ndarray] = decode_image
) -> np.ndarray:
    """Return what `decode` makes of a file; UserError with its name and the reason, on one line."""
    try:
        return decode(read(name))
    except Exception as error:  # of the decoder, the zip, the disk
        raise UserError(f"{name}: {one_line(error)}") from error


def read_slices(
    read: Callable[[str], bytes], names: Sequence[str], spacing_mm: tuple[float, ...] = ()
) -> Volume:
    """Read the slices of one patient.

    `write` makes a folder with one file per slice, of the slice's own name: TIFF for TIFF, PNG
    for PNG and JPEG, which would change a mask. Masks hold 0 and 255 or labels, probabilities
    p are round(65535 p) in 16 bit.

    Args:
        read: returns a file's bytes, as `files.Files.read` does.
        names: the files in order of the slices, at least one.
        spacing_mm: (slice distance, row, column), where it is known.

    Raises:
        UserError: a slice is broken; slices differ in size, channels or depth, or share a name.
    """
    slices, num_bytes = [], 0
    for name in names:
        slices.append(read_slice(read, name))
        num_bytes += slices[-1].nbytes
        if num_bytes > MAX_PATIENT_BYTES:
            raise UserError(f"{name}: more than {MAX_PATIENT_BYTES} bytes of pixels in one patient")
        if (_form(slices[-1])) != _form(slices[0]):
            raise UserError(f"{name}: {_form(slices[-1])}, but {names[0]}: {_form(slices[0])}")
    outputs = [_output_name(name) for name in names]
    if len(set(outputs)) < len(outputs):
        twice = next(n for n, o in zip(names, outputs, strict=True) if outputs.count(o) > 1)
        raise UserError(f"{twice}: two slices of this name in one patient; rename one")

    def write(to: Path, values: np.ndarray, regions: Sequence[Region] = TUMOUR):
        to.mkdir()
        for name, pixels in zip(outputs, one_each(values, regions), strict=True):
            _write(to / name, pixels)

    return Volume(np.stack(slices), spacing_mm, write=write)


def _form(image: np.ndarray) -> str:
    channels = "1 channel" if image.shape[-1] == 1 else f"{image.shape[-1]} channels"
    return f"{image.shape[0]}x{image.shape[1]} pixels, {channels} of {image.dtype}"


def _output_name(name: str) -> str:
    path = PurePosixPath(name)
    return path.stem + (".tif" if path.suffix.lower() in (".tif", ".tiff") else ".png")


def _write(path: Path, values: np.ndarray):
    if values.dtype == bool:
        values = np.where(values, np.uint8(255), np.uint8(0))
    elif values.dtype != np.uint8:
        values = np.rint(values * _HIGHEST).astype(np.uint16)
    _, data = cv2.imencode(path.suffix, values)
    path.write_bytes(data)
