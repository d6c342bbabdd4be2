"""Images made to harm, or damaged at random, are refused in a line, without memory or noise."""

import os
import struct
import subprocess
import sys
import zlib
from pathlib import Path

import cv2
import numpy as np
import pytest
from fake_data import make_slice, tiff
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxseg.scans.decode import decode_image
from jaxseg.scans.image_headers import MAX_SIDE

SMOOTH = cv2.GaussianBlur(make_slice(3)[0], (3, 3), 0)


def png(width: int, height: int, chunks: bytes = b"", pixels: bytes = b"", kind: int = 0) -> bytes:
    header = struct.pack(">IIBBBBB", width, height, 8, kind, 0, 0, 0)
    ends = chunk(b"IDAT", zlib.compress(pixels)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunks + ends


def chunk(kind: bytes, content: bytes) -> bytes:
    crc = zlib.crc32(kind + content)
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", crc)


def jpeg(height: int, width: int, *flags: int) -> bytes:
    """A JPEG of 12 x 16 pixels that claims another size."""
    data = bytearray(cv2.imencode(".jpg", SMOOTH, flags)[1].tobytes())
    at = max(data.find(b"\xff\xc0"), data.find(b"\xff\xc2"))
    struct.pack_into(">HH", data, at + 5, height, width)
    return bytes(data)


def retag(tag: int, kind: int, count: int, value: int) -> bytes:
    """A TIFF in which a tag has another content; a new tag takes the place of RowsPerStrip."""
    data = tiff(SMOOTH)
    at = data.find(struct.pack("<HH", tag, 3)), data.find(struct.pack("<HH", tag, 4))
    place = max(at) if max(at) > 0 else data.find(struct.pack("<HH", 278, 3))
    return data[:place] + struct.pack("<HHII", tag, kind, count, value) + data[place + 12 :]


SCAN = jpeg(12, 16, cv2.IMWRITE_JPEG_PROGRESSIVE, 1).rsplit(b"\xff\xda", 1)[1][:-2]
CLAIMS = f"claims 60000 x 60000 pixels; between 1 and {MAX_SIDE} a side can be read"
HOSTILE_IMAGES = {  # what is wrong: (the file, the reason)
    "size of a PNG": (png(60000, 60000), CLAIMS),
    "size of a JPEG": (jpeg(60000, 60000), CLAIMS),
    "size of a progressive JPEG": (
        jpeg(8193, 16, cv2.IMWRITE_JPEG_PROGRESSIVE, 1),
        "claims 8193 x",
    ),
    "height left for later in a JPEG": (jpeg(0, 16), "claims 0 x 16"),
    "width of a TIFF": (retag(256, 4, 1, 60000), "claims 12 x 60000 pixels"),
    "height of a TIFF": (retag(257, 4, 1, 2**32 - 1), "claims 4294967295 x 16"),
    "width of a TIFF as text": (retag(256, 2, 2, 16), "tag 256"),
    "tile of a TIFF": (retag(322, 4, 1, 1 << 30), "claims 1 x 1073741824"),
    "bits of a TIFF": (retag(258, 3, 1, 65535), "65535-bit pixels"),
    "channels of a TIFF": (retag(277, 3, 1, 65535), "2 or above 4 channels"),
    "strips of a TIFF": (retag(273, 4, 2**32 - 1, 8), r"tag 273 ends beyond"),
    "text of a TIFF beyond its end": (retag(270, 2, 5, 10**6), r"tag 270 ends beyond"),
    "tags of a TIFF that share their bytes": (
        b"II*\0\x08\0\0\0\x32\0"
        + b"".join(struct.pack("<HHII", 40000 + n, 7, 500, 8) for n in range(50))
        + bytes(4),
        "tag 40001 ends beyond",
    ),
    "pixels of a TIFF beyond its end": (retag(273, 4, 1, 10**6), "truncated or broken"),
    "bytes of a strip beyond the end": (tiff(SMOOTH)[:8] + tiff(SMOOTH)[300:], "truncated"),
    "first page beyond the end": (b"II*\0\xff\xff\xff\x7f" + bytes(400), "truncated TIFF"),
    "first page in the header": (b"II*\0\4\0\0\0" + bytes(400), "claims 0 x 0"),
    "page that leads to itself": (tiff(SMOOTH, next_page=590), "several pages"),
    "BigTIFF": (b"II+\0\x08\0\0\0" + bytes(400), "BigTIFF"),
    "animated PNG": (png(4, 4, chunk(b"acTL", bytes(8)), bytes(20)), "animated PNG"),
    "second header in a PNG": (png(4, 4, png(60000, 60000)[8:33], bytes(20)), "header"),
    "short header in a PNG": (png(4, 4)[:8] + chunk(b"IHDR", b"") + png(4, 4)[33:], "header"),
    "too few pixels in a PNG": (png(4, 4, b"", bytes(9)), "truncated or broken"),
    "scans of a JPEG": (
        jpeg(12, 16, cv2.IMWRITE_JPEG_PROGRESSIVE, 1)[:-2]
        + 100 * (b"\xff\xda" + SCAN)
        + b"\xff\xd9",
        "more than 100 scans",
    ),
    "damage in a JPEG": (jpeg(12, 16)[:-40] + b"\0" * 38 + b"\xff\xd9", "damaged JPEG data"),
    "JPEG without a frame": (b"\xff\xd8\xff\xe0\0\2\xff\xd9", "no frame header"),
}


@pytest.mark.parametrize("fault", HOSTILE_IMAGES)
def test_hostile_image(capfd, fault):
    data, reason = HOSTILE_IMAGES[fault]
    with pytest.raises(ValueError, match=reason) as caught:
        decode_image(data)
    assert "\n" not in str(caught.value)
    assert capfd.readouterr() == ("", "")


def test_chunks_of_a_png_beside_the_pixels_do_not_reach_the_decoder(monkeypatch):
    pixels = make_slice(0, 1)[0]
    raw = b"".join(b"\0" + row.tobytes() for row in pixels)
    text = zlib.compress(bytes(7_900_000))  # as much as libpng would unpack
    extra = b"".join(chunk(b"zTXt", b"%d\0\0" % n + text) for n in range(100))
    extra += chunk(b"iTXt", b"k\0\1\0\0\0" + text) + chunk(b"iCCP", b"k\0\0" + text)
    extra += chunk(b"gAMA", b"\0\0\0\1") + chunk(b"sBIT", b"\2") + chunk(b"pHYs", bytes(9))
    seen, imdecode = [], cv2.imdecode
    monkeypatch.setattr(
        cv2, "imdecode", lambda data, flag: seen.append(data) or imdecode(data, flag)
    )
    np.testing.assert_array_equal(decode_image(png(16, 12, extra, raw)), pixels)
    assert seen[0].tobytes() == png(16, 12, b"", raw)


def test_decoder_without_memory(monkeypatch):
    def fail(*_):
        raise cv2.error("Insufficient memory")

    monkeypatch.setattr(cv2, "imdecode", fail)
    with pytest.raises(ValueError, match="truncated or broken file"):
        decode_image(png(4, 4, b"", bytes(20)))


def test_the_largest_slice_is_read_and_one_more_pixel_is_not():
    raw = bytes((MAX_SIDE + 1) * MAX_SIDE)
    assert decode_image(png(MAX_SIDE, MAX_SIDE, b"", raw)).shape == (MAX_SIDE, MAX_SIDE, 1)
    with pytest.raises(ValueError, match="claims 8192 x 8193"):
        decode_image(png(MAX_SIDE + 1, MAX_SIDE, b"", raw))


def test_hostile_images_take_no_memory(tmp_path):
    """JPEG and PNG that claim 30000 x 30000 pixels would take gigabytes (and seconds)."""
    images = {"a.jpg": jpeg(30000, 30000), "a.png": png(30000, 30000, b"", bytes(10), 2)}
    images["a.tif"] = retag(257, 4, 1, 30000)
    for name, data in images.items():
        (tmp_path / name).write_bytes(data)
    code = f"""
import resource
from pathlib import Path
from jaxseg.scans.decode import decode_image
used = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
before = used()
for name in {list(images)}:
    try:
        decode_image((Path({str(tmp_path)!r}) / name).read_bytes())
    except ValueError:
        continue
    raise AssertionError(name)
print(used() - before)
"""
    env = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])}
    run = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True)
    assert (run.returncode, run.stderr) == (0, "")
    assert int(run.stdout) < 50_000  # KiB


FLAGS = {
    ".png": [()],
    ".tif": [(cv2.IMWRITE_TIFF_COMPRESSION, packing) for packing in (1, 5, 7, 8, 32773)],
    ".jpg": [(), (cv2.IMWRITE_JPEG_PROGRESSIVE, 1)],
}
VALID = [
    cv2.imencode(suffix, pixels, flags)[1].tobytes()
    for suffix, all_flags in FLAGS.items()
    for flags in all_flags
    for pixels in (SMOOTH, SMOOTH[..., 0])
] + [tiff(make_slice(1, 4)[0], extra=(2,)), tiff(SMOOTH)]

CHANGES = st.lists(
    st.tuples(
        st.floats(0, 1, exclude_max=True),  # where
        st.integers(0, 8),  # bytes taken out there
        st.binary(max_size=8)
        | st.sampled_from([b"\xff" * 4, b"\0\0\0\x80", b"\x7f" + b"\xff" * 3]),
    ),
    min_size=1,
    max_size=5,
)


def mutate(data: bytes, changes) -> bytes:
    for where, cut, put in changes:
        at = int(where**2 * len(data))  # more of the header than of the pixels
        data = data[:at] + put + data[at + cut :]
    return data


def with_checksums(data: bytes) -> bytes:
    """Give the chunks of a PNG their right CRCs, so that the damage reaches the decoder."""
    chunks, at = [data[:8]], 8
    while at + 12 <= len(data):
        end = at + 8 + int.from_bytes(data[at : at + 4], "big")
        chunks.append(chunk(data[at + 4 : at + 8], data[at + 8 : end]))
        at = end + 4
    return b"".join(chunks)


def decode_or_refuse(data: bytes):
    try:
        pixels = decode_image(data)
    except ValueError as error:
        assert type(error) is ValueError and str(error) and "\n" not in str(error)
    else:
        assert pixels.dtype in (np.uint8, np.uint16) and pixels.ndim == 3 and pixels.size


@settings(deadline=None, max_examples=600)
@given(st.sampled_from(VALID), CHANGES)
def test_damaged_image_is_decoded_or_refused(data, changes):
    decode_or_refuse(mutate(data, changes))
    if data in VALID[:2]:
        decode_or_refuse(with_checksums(data[:8] + mutate(data[8:], changes)))
