"""Image files are decoded exactly as stored or refused with the reason."""

import cv2
import numpy as np
import pytest
from fake_data import make_slice, tiff

from jaxseg.scans.decode import decode_image, decode_mask_values

SMOOTH = cv2.GaussianBlur(make_slice(3)[0], (3, 3), 0)


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".tif"])
def test_a_file_cut_anywhere_is_refused(suffix):
    data = cv2.imencode(suffix, SMOOTH)[1].tobytes()
    assert decode_image(data).shape == (12, 16, 3)
    for length in range(len(data)):
        with pytest.raises(ValueError, match="truncated|empty|no PNG"):
            decode_image(data[:length])


def test_a_jpeg_without_end_is_not_left_to_the_decoder():
    """Versions of libjpeg fill the missing rows with grey."""
    data = cv2.imencode(".jpg", SMOOTH)[1].tobytes()
    with pytest.raises(ValueError, match="no end marker"):
        decode_image(data[:-2])
    np.testing.assert_array_equal(decode_image(data + b"\0\0"), decode_image(data))


def test_a_flipped_bit_in_a_png_is_refused():
    data = bytearray(cv2.imencode(".png", SMOOTH)[1].tobytes())
    data[len(data) // 2] ^= 1
    with pytest.raises(ValueError, match="checksum"):
        decode_image(bytes(data))


@pytest.mark.parametrize(
    "channels, settings, expected",
    [
        (4, {"photometric": 5}, "CMYK"),
        (2, {"photometric": 1, "extra": (0,)}, "TIFF of 2 or above 4 channels"),
        (3, {"next_page": 8}, "several pages"),
    ],
)
def test_tiff_that_would_be_altered_is_refused(channels, settings, expected):
    pixels = np.random.default_rng(0).integers(0, 256, (12, 16, channels), np.uint8)
    with pytest.raises(ValueError, match=expected):
        decode_image(tiff(pixels, **settings))


@pytest.mark.parametrize("high, dtype", [(1, np.uint8), (255, np.uint8), (65535, np.uint16)])
@pytest.mark.parametrize("channels", [1, 3])
def test_masks_that_are_taken(high, dtype, channels):
    mask = make_slice(0)[1]
    stored = np.repeat(mask.astype(dtype) * dtype(high), channels, axis=-1)
    for suffix in (".png", ".tif"):
        decoded = decode_mask_values(cv2.imencode(suffix, stored)[1].tobytes())
        assert decoded.dtype == dtype
        np.testing.assert_array_equal(decoded, stored[..., :1])
