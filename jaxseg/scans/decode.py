"""Image files to arrays, exactly as stored or not at all.

OpenCV decodes, but it may fill the missing part of a broken file, drop a channel or multiply
by alpha without a word, and allocates what the header claims. The few header fields that tell
are therefore read here, before.
"""

import contextlib
import os
import re
import struct
import tempfile
import threading
import zlib
from collections.abc import Iterator

import cv2
import numpy as np

MAX_SIDE = 8192  # pixels; 16 times the usual slice, and 512 MiB in 4 channels of 16 bit
_MAX_SCANS = 100  # of a progressive JPEG, usually 10; each tiny scan costs a pass over all pixels
_PNG = b"\x89PNG\r\n\x1a\n"
_JPEG = b"\xff\xd8"
_TIFF_ORDER = {b"II*\0": "<", b"MM\0*": ">"}
_BIG_TIFF = (b"II+\0", b"MM\0+")
_GREY_WITH_ALPHA = 4  # PNG colour type
_JPEG_MARKER = re.compile(rb"\xff+([^\x00\xff])")
_NOT_FRAMES = b"\xc4\xc8\xcc"  # JPEG markers among the frame headers C0 to CF that are none
_WIDTH, _HEIGHT, _TILE_WIDTH, _TILE_HEIGHT = 256, 257, 322, 323  # TIFF tags
_BITS, _PHOTOMETRIC, _SAMPLES, _EXTRA_SAMPLES = 258, 262, 277, 338
_TAGS_READ = (256, 257, 258, 262, 277, 322, 323, 338)
_TIFF_CHANNELS = "TIFF of 2 or above 4 channels; 2 can be read from PNG, more cannot"
_CMYK = 5  # TIFF photometric value
_TIFF_TYPES = dict(enumerate((1, 1, 2, 4, 8, 1, 1, 2, 4, 8, 4, 8, 4), 1))  # bytes of each
_MAX_STDERR_BYTES = 65536
_STDERR = threading.Lock()


def decode_image(data: bytes) -> np.ndarray:
    """Decode a PNG, TIFF or JPEG file.

    Returns:
        [H, W, C] uint8 or uint16, C = 1 to 4 channels in the order of the file.

    Raises:
        ValueError: the file is truncated, broken, of another format or cannot be read
            without loss.
    """
    num_samples = 1
    if data.startswith(_PNG):
        data = _checked_png(data)
    elif data.startswith(_JPEG):
        _check_jpeg(data)
    elif data[:4] in _TIFF_ORDER:
        data, num_samples = _checked_tiff(data)
    elif data[:4] in _BIG_TIFF:
        raise ValueError("a BigTIFF file; save as plain TIFF")
    else:
        raise ValueError("no PNG, TIFF or JPEG file" if data else "empty file")
    pixels = _decode(data)
    if pixels.dtype not in (np.uint8, np.uint16):
        raise ValueError(f"{pixels.dtype} pixels; save as unsigned 8 or 16 bit")
    if data.startswith(_PNG) and data[25] == _GREY_WITH_ALPHA:
        return pixels[..., [0, 3]]
    num_channels = pixels.shape[-1]
    if num_channels < num_samples:
        raise ValueError(_TIFF_CHANNELS)
    return pixels[..., {1: [0], 3: [2, 1, 0], 4: [2, 1, 0, 3]}[num_channels]]


def decode_mask_values(data: bytes) -> np.ndarray:
    """Decode a mask with values {0, 1}, {0, 255} or, of 16 bit, {0, 65535}.

    Returns:
        [H, W, 1] uint8 or uint16 as stored; 0 is background.

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
    return mask


def _decode(data: bytes) -> np.ndarray:
    with _stderr() as words:
        try:
            pixels = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
        except cv2.error:
            pixels = None
    if pixels is None:
        raise ValueError("truncated or broken file")
    if any(b"Corrupt JPEG" in line or b"Premature end" in line for line in words):
        raise ValueError("damaged JPEG data")
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


def _check_side(height: int, width: int):
    if not (1 <= height <= MAX_SIDE and 1 <= width <= MAX_SIDE):
        raise ValueError(
            f"claims {height} x {width} pixels; between 1 and {MAX_SIDE} a side can be read"
        )


def _checked_png(data: bytes) -> bytes:
    """Walk the chunks, whose lengths and CRCs must hold, and return those that make pixels.

    The others can be bombs (compressed text) and set off warnings.
    """
    chunks, at, kind = [_PNG], len(_PNG), b""
    while kind != b"IEND":
        if at + 12 > len(data):
            raise ValueError("truncated PNG file")
        length, kind = struct.unpack(">I4s", data[at : at + 8])
        end = at + 12 + length
        if end > len(data):
            raise ValueError("truncated PNG file")
        if zlib.crc32(data[at + 4 : end - 4]) != int.from_bytes(data[end - 4 : end], "big"):
            raise ValueError("broken PNG file (checksum)")
        if kind == b"acTL":
            raise ValueError("animated PNG; save one slice per file")
        if (kind == b"IHDR" and length == 13) != (at == len(_PNG)):
            raise ValueError("broken PNG file (header)")
        if kind[:1].isupper() or kind == b"tRNS":
            chunks.append(data[at:end])
        at = end
    width, height = struct.unpack_from(">II", chunks[1], 8)
    _check_side(height, width)
    return b"".join(chunks)


def _check_jpeg(data: bytes):
    """Walk the segments up to the frame header, which has the size, as libjpeg does."""
    if not data.rstrip(b"\0\r\n").endswith(b"\xff\xd9"):
        raise ValueError("truncated JPEG file (no end marker)")
    at = len(_JPEG)
    while marker := _JPEG_MARKER.search(data, at):
        kind, at = marker[1][0], marker.end()
        if 0xC0 <= kind <= 0xCF and marker[1] not in _NOT_FRAMES:
            break
        if kind != 0x01 and not 0xD0 <= kind <= 0xD7:  # these have no length
            at += int.from_bytes(data[at : at + 2], "big")
    if not marker or at + 8 > len(data):
        raise ValueError("broken JPEG file (no frame header)")
    _check_side(*struct.unpack_from(">HH", data, at + 3))
    if data.count(b"\xff\xda") > _MAX_SCANS:
        raise ValueError(f"JPEG of more than {_MAX_SCANS} scans; save anew")


def _checked_tiff(data: bytes) -> tuple[bytes, int]:
    """Refuse what OpenCV would alter; mark a fourth channel as pixels rather than alpha.

    Returns:
        The file to decode and its number of channels.
    """
    try:
        tags, next_page = _tiff_tags(data)
    except struct.error:
        raise ValueError("truncated TIFF file") from None
    if next_page:
        raise ValueError("TIFF with several pages; save one slice per file")
    values = {tag: value for tag, (value, _, _) in tags.items()}
    _check_side(values.get(_HEIGHT, 0), values.get(_WIDTH, 0))
    _check_side(values.get(_TILE_HEIGHT, 1), values.get(_TILE_WIDTH, 1))
    if values.get(_PHOTOMETRIC) == _CMYK:
        raise ValueError("CMYK TIFF; save as RGBA")
    if values.get(_BITS, 1) > 16:
        raise ValueError(f"{values[_BITS]}-bit pixels; save as unsigned 8 or 16 bit")
    num_samples = values.get(_SAMPLES, 1)
    if num_samples not in (1, 3, 4):
        raise ValueError(_TIFF_CHANNELS)
    if values.get(_EXTRA_SAMPLES) != 2:
        return data, num_samples
    # 2 is alpha that libtiff would multiply the others by, 1 is alpha already multiplied.
    _, at, form = tags[_EXTRA_SAMPLES]
    return data[:at] + struct.pack(form, 1) + data[at + struct.calcsize(form) :], num_samples


def _tiff_tags(data: bytes) -> tuple[dict[int, tuple[int, int, str]], int]:
    """Return {tag: (first value, its offset, its format)} of page one, and the next's offset."""
    order = _TIFF_ORDER[data[:4]]
    (start,) = struct.unpack_from(order + "I", data, 4)
    (count,) = struct.unpack_from(order + "H", data, start)
    tags, num_bytes = {}, 0
    for entry in range(start + 2, start + 2 + 12 * count, 12):
        tag, kind, length = struct.unpack_from(order + "HHI", data, entry)
        size = length * _TIFF_TYPES.get(kind, 0)
        at = entry + 8 if size <= 4 else struct.unpack_from(order + "I", data, entry + 8)[0]
        num_bytes += size
        if at + size > len(data) or num_bytes > len(data):  # or tags share bytes
            raise ValueError(f"truncated or broken TIFF file (tag {tag} ends beyond it)")
        if tag in _TAGS_READ:
            if kind not in (3, 4) or not length or tag in tags:
                raise ValueError(f"broken TIFF file (tag {tag})")
            form = order + ("H" if kind == 3 else "I")
            tags[tag] = struct.unpack_from(form, data, at)[0], at, form
    return tags, struct.unpack_from(order + "I", data, start + 2 + 12 * count)[0]
