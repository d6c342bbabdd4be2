"""Image files to arrays, exactly as stored or not at all.

OpenCV decodes, but it may fill the missing part of a broken file, drop a channel or multiply
by alpha without a word. The few header fields that tell are therefore read here.
"""

import contextlib
import struct
import zlib
from collections.abc import Iterator

import cv2
import numpy as np

_PNG = b"\x89PNG\r\n\x1a\n"
_JPEG = b"\xff\xd8"
_TIFF_ORDER = {b"II*\0": "<", b"MM\0*": ">"}
_GREY_WITH_ALPHA = 4  # PNG colour type
_PHOTOMETRIC, _SAMPLES, _EXTRA_SAMPLES = 262, 277, 338  # TIFF tags
_PALETTE, _CMYK = 3, 5  # TIFF photometric values


def decode_image(data: bytes) -> np.ndarray:
    """Decode a PNG, TIFF or JPEG file.

    Returns:
        [H, W, C] uint8 or uint16, C = 1 to 4 channels in the order of the file.

    Raises:
        ValueError: the file is truncated, broken, of another format or cannot be read
            without loss.
    """
    if data.startswith(_PNG):
        _check_png(data)
    elif data.startswith(_JPEG):
        if not data.rstrip(b"\0\r\n").endswith(b"\xff\xd9"):
            raise ValueError("truncated JPEG file (no end marker)")
    elif data[:4] in _TIFF_ORDER:
        data = _checked_tiff(data)
    else:
        raise ValueError("no PNG, TIFF or JPEG file" if data else "empty file")
    pixels = _decode(data)
    if pixels.dtype not in (np.uint8, np.uint16):
        raise ValueError(f"{pixels.dtype} pixels; save as unsigned 8 or 16 bit")
    if data.startswith(_PNG) and data[25] == _GREY_WITH_ALPHA:
        return pixels[..., [0, 3]]
    num_channels = pixels.shape[-1]
    if data[:4] in _TIFF_ORDER and num_channels < _tiff_tags(data)[0].get(_SAMPLES, (1, 0))[0]:
        raise ValueError("TIFF of 2 or above 4 channels; 2 can be read from PNG, more cannot")
    return pixels[..., {1: [0], 3: [2, 1, 0], 4: [2, 1, 0, 3]}[num_channels]]


def decode_mask(data: bytes) -> np.ndarray:
    """Decode a mask with values {0, 1}, {0, 255} or, of 16 bit, {0, 65535}.

    Returns:
        [H, W, 1] uint8 of {0, 1}.

    Raises:
        ValueError: as `decode_image`; a JPEG file; other values; channels that differ.
    """
    if data.startswith(_JPEG):
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
    return (mask != 0).astype(np.uint8)


@contextlib.contextmanager
def quiet_opencv() -> Iterator[None]:
    """Keep OpenCV from writing about broken files to stderr: they are reported by name."""
    level = cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)
    try:
        yield
    finally:
        cv2.utils.logging.setLogLevel(level)


def _decode(data: bytes) -> np.ndarray:
    try:
        pixels = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    except cv2.error:
        pixels = None
    if pixels is None:
        raise ValueError("truncated or broken file")
    return pixels.reshape(*pixels.shape[:2], -1)


def _check_png(data: bytes):
    """Walk the chunks: every length and CRC must hold up to the end chunk."""
    at, kind = len(_PNG), b""
    while kind != b"IEND":
        if at + 12 > len(data):
            raise ValueError("truncated PNG file")
        length, kind = struct.unpack(">I4s", data[at : at + 8])
        end = at + 12 + length
        if end > len(data):
            raise ValueError("truncated PNG file")
        if zlib.crc32(data[at + 4 : end - 4]) != int.from_bytes(data[end - 4 : end], "big"):
            raise ValueError("broken PNG file (checksum)")
        at = end


def _checked_tiff(data: bytes) -> bytes:
    """Refuse what OpenCV would alter; mark a fourth channel as pixels rather than alpha."""
    try:
        tags, next_page = _tiff_tags(data)
    except struct.error:
        raise ValueError("truncated TIFF file") from None
    if next_page:
        raise ValueError("TIFF with several pages; save one slice per file")
    if tags.get(_PHOTOMETRIC, (1, 0))[0] == _CMYK:
        raise ValueError("CMYK TIFF; save as RGBA")
    extra, at = tags.get(_EXTRA_SAMPLES, (0, 0))
    if extra != 2:
        return data
    # 2 is alpha that libtiff would multiply the others by, 1 is alpha already multiplied.
    return data[:at] + struct.pack(_TIFF_ORDER[data[:4]] + "H", 1) + data[at + 2 :]


def _tiff_tags(data: bytes) -> tuple[dict[int, tuple[int, int]], int]:
    """Return {tag: (first short value, its offset)} of the first page, and the next's offset."""
    order = _TIFF_ORDER[data[:4]]
    (start,) = struct.unpack_from(order + "I", data, 4)
    (count,) = struct.unpack_from(order + "H", data, start)
    offsets = range(start + 2, start + 2 + 12 * count, 12)
    tags = {
        struct.unpack_from(order + "H", data, at)[0]: (
            struct.unpack_from(order + "H", data, at + 8)[0],
            at + 8,
        )
        for at in offsets
    }
    return tags, struct.unpack_from(order + "I", data, start + 2 + 12 * count)[0]
