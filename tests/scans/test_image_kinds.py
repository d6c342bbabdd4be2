"""Kinds of image files that programs show alike: read as they show them, or refused by name."""

import struct
import zlib

import cv2
import numpy as np
import pytest
from fake_data import make_slice, tiff

from jaxseg.scans.decode import decode_image, decode_mask_values

SMOOTH = cv2.GaussianBlur(make_slice(3)[0], (3, 3), 0)
# What EXIF's numbers mean, by the corner in which the first pixel stored is shown.
UPRIGHT = {
    1: lambda a: a,
    2: np.fliplr,
    3: lambda a: np.rot90(a, 2),
    4: np.flipud,
    5: lambda a: a.swapaxes(0, 1),
    6: lambda a: np.rot90(a, -1),
    7: lambda a: np.rot90(a.swapaxes(0, 1), 2),
    8: lambda a: np.rot90(a, 1),
}


def retagged(data: bytes, **tags: int) -> bytes:
    """Return a TIFF of `fake_data.tiff` whose tags, as _262=0, have another value."""
    data = bytearray(data)
    (start,) = struct.unpack_from("<I", data, 4)
    (count,) = struct.unpack_from("<H", data, start)
    for entry in range(start + 2, start + 2 + 12 * count, 12):
        tag = f"_{struct.unpack_from('<H', data, entry)[0]}"
        if tag in tags:
            struct.pack_into("<I", data, entry + 8, tags[tag])
    return bytes(data)


def exif(orientation: int) -> bytes:
    return b"II*\0\x08\0\0\0\1\0" + struct.pack("<HHIHHI", 274, 3, 1, orientation, 0, 0)


def turned_jpeg(orientation: int) -> bytes:
    data, body = cv2.imencode(".jpg", SMOOTH)[1].tobytes(), b"Exif\0\0" + exif(orientation)
    return data[:2] + b"\xff\xe1" + struct.pack(">H", 2 + len(body)) + body + data[2:]


def turned_png(orientation: int) -> bytes:
    data, body = cv2.imencode(".png", SMOOTH)[1].tobytes(), b"eXIf" + exif(orientation)
    crc = struct.pack(">I", zlib.crc32(body))
    return data[:33] + struct.pack(">I", len(body) - 4) + body + crc + data[33:]


@pytest.mark.parametrize("compression", [1, 5, 8, 32773])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_white_as_zero_is_no_negative(dtype, compression):
    pixels = make_slice(1, 1, dtype)[0]
    top, flags = np.iinfo(dtype).max, (cv2.IMWRITE_TIFF_COMPRESSION, compression)
    stored = cv2.imencode(".tif", top - pixels, flags)[1].tobytes()
    assert (decode_image(stored) == top - pixels).all()
    np.testing.assert_array_equal(decode_image(retagged(stored, _262=0)), pixels)


def test_a_mask_of_one_bit_with_white_as_zero():
    mask = make_slice(0)[1]
    bits = np.packbits(1 - mask[..., 0], axis=1)
    stored = retagged(tiff(bits[..., None], photometric=0), _256=16, _258=1)
    np.testing.assert_array_equal(decode_mask_values(stored), 255 * mask)


@pytest.mark.parametrize("orientation", UPRIGHT)
def test_pictures_are_turned_as_exif_says_in_every_format(orientation):
    upright = UPRIGHT[orientation]
    plain = decode_image(cv2.imencode(".jpg", SMOOTH)[1].tobytes())
    np.testing.assert_array_equal(decode_image(turned_jpeg(orientation)), upright(plain))
    expected = upright(SMOOTH[..., ::-1])
    np.testing.assert_array_equal(decode_image(turned_png(orientation)), expected)
    # The number of samples, RowsPerStrip, gives way to the orientation.
    stored = tiff(np.ascontiguousarray(SMOOTH[..., ::-1]))
    at = stored.rfind(struct.pack("<HHI", 278, 3, 1))
    fields = [stored[at - 12 * n : at - 12 * n + 12] for n in range(4, -1, -1)]
    fields = sorted([*fields[:-1], struct.pack("<HHII", 274, 3, 1, orientation)])
    stored = stored[: at - 48] + b"".join(fields) + stored[at + 12 :]
    np.testing.assert_array_equal(decode_image(stored), expected)


@pytest.mark.parametrize("orientation", [0, 9, 65535])
def test_an_orientation_that_is_none_turns_nothing(orientation):
    plain = cv2.imencode(".jpg", SMOOTH)[1].tobytes()
    np.testing.assert_array_equal(decode_image(turned_jpeg(orientation)), decode_image(plain))


def test_bytes_after_the_end_of_a_jpeg_are_left_out():
    for flags in ((), (cv2.IMWRITE_JPEG_PROGRESSIVE, 1), (cv2.IMWRITE_JPEG_RST_INTERVAL, 1)):
        plain = cv2.imencode(".jpg", SMOOTH, flags)[1].tobytes()
        for more in (b"SEFH trailer of a phone", plain, b"\0\0", b"\xff\xda" * 200):
            np.testing.assert_array_equal(decode_image(plain + more), decode_image(plain))
        with pytest.raises(ValueError, match="no end marker"):
            decode_image(plain[:-2] + b"trailer")


def jpeg_of_four_channels() -> bytes:
    data = bytearray(cv2.imencode(".jpg", SMOOTH)[1].tobytes())
    data[data.find(b"\xff\xc0") + 9] = 4
    return bytes(data)


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (jpeg_of_four_channels(), "JPEG of 4 channels .CMYK.*; save as RGB or grey"),
        (tiff(SMOOTH, photometric=8), r"CIE L\*a\*b\* TIFF; save as RGB"),
        (tiff(SMOOTH, photometric=9), r"ICC L\*a\*b\* TIFF; save as RGB"),
        (tiff(SMOOTH, photometric=999), "photometric 999 TIFF; save as RGB"),
        (tiff(SMOOTH, photometric=0), "3 channels with white as 0"),
        (retagged(tiff(SMOOTH[..., :1], 1), _258=4), "4-bit pixels; save as unsigned 8 or 16"),
        (retagged(tiff(SMOOTH[..., :1], 1), _258=2), "2-bit pixels; save as unsigned 8 or 16"),
        (retagged(tiff(SMOOTH), _259=50000), "compressed by Zstandard.*; save it uncompressed"),
        (retagged(tiff(SMOOTH), _259=34925), "compressed by LZMA.*; save it uncompressed"),
        (retagged(tiff(SMOOTH), _259=34712), "compressed by JPEG 2000.*; save it uncompressed"),
        (retagged(tiff(SMOOTH), _259=5), "damaged TIFF data"),  # else a black picture
        (retagged(tiff(SMOOTH), _259=8), "damaged TIFF data"),
        (retagged(tiff(SMOOTH), _259=60001), "compressed by method 60001.*; save it uncompressed"),
        (b"GIF89a" + bytes(99), "but GIF; save as PNG"),
        (b"NRRD0004\n" + bytes(99), "but NRRD; save as PNG"),
    ],
)
def test_what_cannot_be_read_is_named_with_its_remedy(data, reason):
    with pytest.raises(ValueError, match=reason):
        decode_image(data)


def test_tiles_that_the_decoder_does_not_know_are_named():
    """OpenCV reads no tiles of 16 x 16; where one does, the pixels must be right."""
    pixels = cv2.GaussianBlur(make_slice(5, 1)[0], (3, 3), 0)
    tile = np.zeros((16, 16), np.uint8)
    tile[:12] = pixels
    fields = [(256, 16), (257, 12), (258, 8), (259, 1), (262, 1), (277, 1)]
    fields += [(322, 16), (323, 16), (324, 8), (325, 256)]
    directory = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in fields)
    data = b"II*\0" + struct.pack("<I", 264) + tile.tobytes()
    data += struct.pack("<H", len(fields)) + directory + bytes(4)
    try:
        np.testing.assert_array_equal(decode_image(data)[..., 0], pixels)
    except ValueError as error:
        assert "TIFF in tiles of 16x16" in str(error)
