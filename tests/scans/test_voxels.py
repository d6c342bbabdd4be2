"""The types of voxels, and boxes of volumes in their place."""

import numpy as np
import pytest
from fake_volumes import oblique_affine, world

from jaxseg.scans.volume import Volume, as_pixels, cut


@pytest.mark.parametrize(
    "stored, kept",
    [
        (np.array([0, 255], np.uint8), np.uint8),
        (np.array([-5, 9], ">i2"), np.int16),
        (np.array([-5, 4_400_000], np.int32), np.int32),
        (np.array([-5, 9], np.int8), np.int16),
        (np.array([0, 9], np.uint32), np.uint8),
        (np.array([0, 300], np.int64), np.uint16),
        (np.array([False, True]), np.uint8),
        (np.array([0, 1 << 40], np.int64), np.float32),
        (np.array([0.5, 2], np.float64), np.float32),
    ],
)
def test_integers_stay_what_they_are(stored, kept):
    pixels = as_pixels(stored)
    assert pixels.dtype == kept and pixels.dtype.isnative
    np.testing.assert_array_equal(pixels, stored)


def test_a_box_lies_where_it_was_cut_out():
    image = np.arange(6 * 7 * 8 * 2).reshape(6, 7, 8, 2)
    affine, box = oblique_affine(), np.array([1, 0, 6, 7], np.int32)
    volume = Volume(image, affine=affine, slice_numbers=tuple(range(10, 16)), head_box=box)
    part = cut(volume, (2, 1, 3), (5, 7, 8))
    np.testing.assert_array_equal(part.image, image[2:5, 1:7, 3:8])
    np.testing.assert_allclose(
        world(part.affine, (3, 6, 5)), world(affine, (6, 7, 8))[2:5, 1:7, 3:8], atol=1e-9
    )
    assert part.slice_numbers == (12, 13, 14) and part.write is None and part.mask is None
    np.testing.assert_array_equal(part.head_box, [0, 0, 5, 4])
