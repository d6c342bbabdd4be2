"""Image files to arrays, exactly as stored or not at all.

OpenCV decodes, but it may fill the missing part of a broken file, drop a channel, multiply by
alpha, leave a negative or a turned picture without a word, and allocates what the header claims.
`image_headers` reads the few fields that tell, before.
"""

import contextlib
import os
import tempfile
import threading
from collections.abc import Iterator

import cv2
import numpy as np

from jaxseg.scans.image_headers import JPEG, PNG, TIFF_CHANNELS, Header, read_header

_GREY_WITH_ALPHA = 4  # PNG colour type
# EXIF orientation: whether rows and columns are exchanged, the axes that then run the other way.
_TURNS = {2: (False, 1), 3: (False, (0, 1)), 4: (False, 0), 5: (True, ())} | {
    **{6: (True, 1), 7: (True, (0, 1)), 8: (True, 0)}
}
# What the libraries print of damage for which they fill in pixels.
_COMPLAINTS = {b"Corrupt JPEG": "damaged JPEG data", b"Premature end": "damaged JPEG data"} | {
    b"TIFF_Error": "damaged TIFF data"
}
_MAX_STDERR_BYTES = 65536
_STDERR = threading.Lock()


def decode_image(data: bytes) -> np.ndarray:
    """Decode a PNG, TIFF or JPEG file.

    Returns:
        [H, W, C] uint8 or uint16, C = 1 to 4 channels in the order of the file, 0 black, turned
        as its EXIF orientation says.

    Raises:
        ValueError: the file is truncated, broken, of another format or cannot be read
            without loss.
    """
    header = read_header(data)
    pixels = _decode(header)
    if pixels.dtype not in (np.uint8, np.uint16):
        raise ValueError(f"{pixels.dtype} pixels; save as unsigned 8 or 16 bit")
    if header.white_is_zero:
        pixels = np.iinfo(pixels.dtype).max - pixels
    if header.orientation in _TURNS:
        exchanged, turned = _TURNS[header.orientation]
        pixels = np.flip(pixels.swapaxes(0, 1) if exchanged else pixels, turned)
    if data.startswith(PNG) and data[25] == _GREY_WITH_ALPHA:
        return np.ascontiguousarray(pixels[..., [0, 3]])
    num_channels = pixels.shape[-1]
    if num_channels < header.num_samples:
        raise ValueError(TIFF_CHANNELS)
    order = {1: [0], 3: [2, 1, 0], 4: [2, 1, 0, 3]}[num_channels]
    return np.ascontiguousarray(pixels[..., order])


def decode_mask_values(data: bytes) -> np.ndarray:
    """Decode a mask with values {0, 1}, {0, 255} or, of 16 bit, {0, 65535}.

    Returns:
        [H, W, 1] uint8 or uint16 as stored; 0 is background.

    Raises:
        ValueError: as `decode_image`; a JPEG file; other values; channels that differ.
    """
    if data.startswith(JPEG):
        raise ValueError("a JPEG mask; JPEG changes values at edges, save masks as PNG or TIFF")
    pixels = decode_image(data)
    mask = pixels[..., :1]
    if pixels.shape[-1] not in (1, 3) or (pixels != mask).any():
        raise ValueError(f"mask of {pixels.shape[-1]} different channels; save it as grey")
    high = mask.max()
    if high not in (0, 1, 255, 65535) or ((mask != 0) & (mask != high)).any():
        found = np.unique(mask)
        values = ", ".join(map(str, found[:6])) + ("..." if len(found) > 6 else "")
        raise ValueError(
            f"mask with values {values}; expected only 0 and 1, or 0 and 255 (several labels? "
            "save mask > 0)"
        )
    return mask


def _decode(header: Header) -> np.ndarray:
    with _stderr() as words:
        try:
            pixels = cv2.imdecode(np.frombuffer(header.data, np.uint8), cv2.IMREAD_UNCHANGED)
        except cv2.error:
            pixels = None
    if pixels is None:
        raise ValueError(header.rare or "truncated or broken file")
    for complaint, damage in _COMPLAINTS.items():
        if any(complaint in line for line in words):
            raise ValueError(header.rare or damage)
    return pixels.reshape(*pixels.shape[:2], -1)


@contextlib.contextmanager
def _stderr() -> Iterator[list[bytes]]:
    """Catch what C libraries say of broken files: to them libjpeg's damage is but a warning."""
    words = []
    with _STDERR, tempfile.TemporaryFile() as file:
        kept = os.dup(2)
        os.dup2(file.fileno(), 2)
        try:
            yield words
        finally:
            os.dup2(kept, 2)
            os.close(kept)
            file.seek(0)
            words += file.read(_MAX_STDERR_BYTES).splitlines()
