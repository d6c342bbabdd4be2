"""What the header of an image file says, before a decoder that would pass over it sees the file."""

import re
import struct
import zlib
from typing import NamedTuple

MAX_SIDE = 8192  # pixels; 16 times the usual slice, and 512 MiB in 4 channels of 16 bit
_MAX_SCANS = 100  # of a progressive JPEG, usually 10; each tiny scan costs a pass over all pixels
PNG, JPEG = b"\x89PNG\r\n\x1a\n", b"\xff\xd8"
_TIFF_ORDER = {b"II*\0": "<", b"MM\0*": ">"}
_OTHERS = {  # how files begin that people give the suffix of another
    **{b"II+\0": "BigTIFF", b"MM\0+": "BigTIFF", b"GIF8": "GIF", b"BM": "BMP", b"RIFF": "WebP"},
    **{b"\0\0\0\x0cjP": "JPEG 2000", b"\xff\x4f\xff\x51": "JPEG 2000", b"8BPS": "Photoshop"},
    **{b"NRRD": "NRRD", b"ObjectType": "MetaImage", b"\x1f\x8b": "gzip", b"PK\3\4": "zip"},
}
_JPEG_MARKER = re.compile(rb"\xff+([^\x00\xff])")
_NOT_FRAMES = b"\xc4\xc8\xcc"  # JPEG markers among the frame headers C0 to CF that are none
_RESTARTS = range(0xD0, 0xD8)
_JPEG_END, _EXIF_SEGMENT, _EXIF = 0xD9, 0xE1, b"Exif\0\0"
_WIDTH, _HEIGHT, _TILE_WIDTH, _TILE_HEIGHT = 256, 257, 322, 323  # TIFF tags
_BITS, _COMPRESSION, _PHOTOMETRIC, _ORIENTATION = 258, 259, 262, 274
_SAMPLES, _EXTRA_SAMPLES = 277, 338
_TAGS_READ = (256, 257, 258, 259, 262, 274, 277, 322, 323, 338)
TIFF_CHANNELS = "TIFF of 2 or above 4 channels; 2 can be read from PNG, more cannot"
_WHITE_IS_ZERO, _BLACK_IS_ZERO = 0, 1
_COLOURS = {0: "grey", 1: "grey", 2: "RGB", 3: "palette", 6: "YCbCr"}  # that decode as shown
_OTHER_COLOURS = {4: "transparency", 5: "CMYK", 8: "CIE L*a*b*", 9: "ICC L*a*b*"} | {
    **{10: "ITU L*a*b*", 32803: "raw camera", 34892: "raw camera", 32844: "LogL", 32845: "LogLuv"}
}
_PLAIN = (1, 5, 7, 8, 32773, 32946)  # compressions that every decoder knows
_COMPRESSIONS = {2: "CCITT", 3: "CCITT", 4: "CCITT", 6: "old JPEG", 34712: "JPEG 2000"} | {
    **{33003: "JPEG 2000", 33005: "JPEG 2000", 34887: "LERC", 34925: "LZMA", 50000: "Zstandard"},
    **{50001: "WebP", 50002: "JPEG XL", 52546: "JPEG XL"},
}
_TIFF_TYPES = dict(enumerate((1, 1, 2, 4, 8, 1, 1, 2, 4, 8, 4, 8, 4), 1))  # bytes of each
_SAVE = "save it uncompressed, or with LZW or deflate"


class Header(NamedTuple):
    """A file that may be decoded, and what to know beside its pixels."""

    data: bytes  # to decode
    num_samples: int = 1  # a decoder that returns fewer has dropped some
    white_is_zero: bool = False  # what the decoder returns is a negative
    orientation: int = 1  # as EXIF counts, of what the decoder returns
    rare: str = ""  # what a decoder may not know: the reason where it fails


def read_header(data: bytes) -> Header:
    """Look at a PNG, TIFF or JPEG file; ValueError for what is broken or would be altered."""
    if data.startswith(PNG):
        return _png(data)
    if data.startswith(JPEG):
        return _jpeg(data)
    if data[:4] in _TIFF_ORDER:
        return _tiff(data)
    other = next((name for start, name in _OTHERS.items() if data.startswith(start)), None)
    if other:
        raise ValueError(f"no PNG, TIFF or JPEG file but {other}; save as PNG or plain TIFF")
    raise ValueError("no PNG, TIFF or JPEG file" if data else "empty file")


def _check_side(height: int, width: int):
    if not (1 <= height <= MAX_SIDE and 1 <= width <= MAX_SIDE):
        raise ValueError(
            f"claims {height} x {width} pixels; between 1 and {MAX_SIDE} a side can be read"
        )


def _png(data: bytes) -> Header:
    """Walk the chunks, whose lengths and CRCs must hold, and keep those that make pixels.

    The others can be bombs (compressed text) and set off warnings.
    """
    chunks, at, kind, orientation = [PNG], len(PNG), b"", 1
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
        if (kind == b"IHDR" and length == 13) != (at == len(PNG)):
            raise ValueError("broken PNG file (header)")
        if kind[:1].isupper() or kind == b"tRNS":
            chunks.append(data[at:end])
        if kind == b"eXIf":
            orientation = _exif_orientation(data[at + 8 : end - 4])
        at = end
    width, height = struct.unpack_from(">II", chunks[1], 8)
    _check_side(height, width)
    return Header(b"".join(chunks), orientation=orientation)


def _jpeg(data: bytes) -> Header:
    """Walk the segments, as libjpeg does, to the end marker; what follows it is left out."""
    frame, orientation, at = None, 1, len(JPEG)
    while marker := _JPEG_MARKER.search(data, at):
        kind, at = marker[1][0], marker.end()
        if kind == _JPEG_END:
            break
        if kind == 0x01 or kind in _RESTARTS:  # these have no length
            continue
        if 0xC0 <= kind <= 0xCF and marker[1] not in _NOT_FRAMES and frame is None:
            frame = kind, *data[at + 2 : at + 8]
            if len(frame) == 7:  # before the rest is walked through
                _check_side(*struct.unpack_from(">HH", data, at + 3))
        length = int.from_bytes(data[at : at + 2], "big")
        if kind == _EXIF_SEGMENT and data[at + 2 : at + 8] == _EXIF:
            orientation = _exif_orientation(data[at + 8 : at + length])
        at += length
    if not marker:
        raise ValueError("truncated JPEG file (no end marker)")
    if frame is None or len(frame) != 7:
        raise ValueError("broken JPEG file (no frame header)")
    if frame[6] not in (1, 3):
        raise ValueError(f"JPEG of {frame[6]} channels (CMYK?); save as RGB or grey")
    data = data[:at]
    if data.count(b"\xff\xda") > _MAX_SCANS:
        raise ValueError(f"JPEG of more than {_MAX_SCANS} scans; save anew")
    rare = f"{frame[1]}-bit JPEG; save as PNG" if frame[1] != 8 else ""
    if not rare and frame[0] > 0xC2:
        rare = "lossless or arithmetic JPEG, which cannot be read here; save as PNG"
    return Header(data, orientation=orientation, rare=rare)


def _exif_orientation(exif: bytes) -> int:
    """Return the orientation in EXIF data, 1 (as stored) where it says none."""
    try:
        value = _tiff_tags(exif)[0][_ORIENTATION][0]
    except (KeyError, ValueError, struct.error):
        return 1
    return value if 1 <= value <= 8 else 1


def _tiff(data: bytes) -> Header:
    """Refuse what OpenCV would alter; mark a fourth channel as pixels rather than alpha."""
    try:
        tags, next_page = _tiff_tags(data)
    except struct.error:
        raise ValueError("truncated TIFF file") from None
    if next_page:
        raise ValueError("TIFF with several pages; save one slice per file")
    values = {tag: value for tag, (value, _, _) in tags.items()}
    _check_side(values.get(_HEIGHT, 0), values.get(_WIDTH, 0))
    tile = values.get(_TILE_HEIGHT, 1), values.get(_TILE_WIDTH, 1)
    _check_side(*tile)
    bits, num_samples = values.get(_BITS, 1), values.get(_SAMPLES, 1)
    colours = values.get(_PHOTOMETRIC, _BLACK_IS_ZERO)
    if colours not in _COLOURS:
        name = _OTHER_COLOURS.get(colours, f"photometric {colours}")
        raise ValueError(f"{name} TIFF; save as RGB, RGBA or grey")
    if bits not in (1, 8, 16):
        raise ValueError(f"{bits}-bit pixels; save as unsigned 8 or 16 bit")
    if num_samples not in (1, 3, 4):
        raise ValueError(TIFF_CHANNELS)
    white_is_zero = colours == _WHITE_IS_ZERO
    if white_is_zero and num_samples > 1:
        raise ValueError(f"TIFF of {num_samples} channels with white as 0; save as RGB or grey")
    patched = bytearray(data)
    if white_is_zero and _PHOTOMETRIC in tags:  # decoders turn 8 bit but not 16
        _patch(patched, tags[_PHOTOMETRIC], _BLACK_IS_ZERO)
    if values.get(_EXTRA_SAMPLES) == 2:
        # 2 is alpha that libtiff would multiply the others by, 1 is alpha already multiplied.
        _patch(patched, tags[_EXTRA_SAMPLES], 1)
    compression, rare = values.get(_COMPRESSION, 1), ""
    if compression not in _PLAIN:
        name = _COMPRESSIONS.get(compression, f"method {compression}")
        rare = f"TIFF compressed by {name}, which cannot be read here; {_SAVE}"
        if compression not in _COMPRESSIONS:  # OpenCV makes pixels of what it does not know
            raise ValueError(rare)
    elif _TILE_WIDTH in tags:
        rare = f"TIFF in tiles of {tile[0]}x{tile[1]}, which cannot be read here; save in strips"
    return Header(bytes(patched), num_samples, white_is_zero, rare=rare)


def _patch(data: bytearray, tag: tuple[int, int, str], value: int):
    _, at, form = tag
    struct.pack_into(form, data, at, value)


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
