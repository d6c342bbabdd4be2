"""Statistics, head and resampling of a scan of any shape agree with the host's NumPy and OpenCV."""

import jax
import numpy as np
import pytest
from scipy import ndimage

from jaxseg.imaging import intensity
from jaxseg.imaging.resample import resample
from jaxseg.imaging.volumes import head_and_truth
from jaxseg.shipping import portable_scan, portable_volume


def volume(kind: type, amid: int) -> np.ndarray:
    """Return a head with specks beside it; `amid` of three channels have air amid their tissue."""
    rng = np.random.default_rng(3)
    image = np.zeros((9, 30, 34, 3))
    image[2:-2, 6:24, 8:25] = rng.normal(300, 80, (5, 18, 17, 3))
    image[0, 2:4, 2:4] = 400  # too few pixels to be seen
    image[3, 27:30, 28:33] = 300  # a part that is too small
    image[..., :amid] -= 300 * (image[..., :amid] != 0)
    return image.astype(kind)


def least(kind: type) -> np.float32:
    return np.float32(np.iinfo(kind).min if np.dtype(kind).kind in "iu" else -np.inf)


@pytest.mark.parametrize("kind", [np.int16, np.uint16, np.int32, np.float32])
def test_a_scan_as_imaging(kind):
    found = jax.jit(portable_scan.scan)
    for amid in (0, 2) if kind != np.uint16 else (0,):
        image = volume(kind, amid)
        dark = intensity.darken_background(image)
        assert (dark is image) == (amid == 0)
        same, stats, box = found(image.astype(np.float32), least(kind))
        np.testing.assert_allclose(same, dark, rtol=1e-6)
        np.testing.assert_allclose(stats, intensity.volume_statistics(dark), rtol=3e-6, atol=2e-5)
        nothing = np.zeros((*image.shape[:3], 0), np.uint8)
        np.testing.assert_array_equal(box, head_and_truth(dark, nothing))
        assert np.asarray(box).tolist() == [[0, 4, 6], [9, 26, 27]]


def test_unsigned_air_amid_the_tissue_ends_at_0():
    rng = np.random.default_rng(4)
    image = np.full((4, 20, 20, 1), 40, np.uint8)
    image[:, 4:-4, 4:-4] = rng.integers(0, 120, (4, 12, 12, 1))
    dark = intensity.darken_background(image)
    assert dark[0, 0, 0, 0] == 0
    found = portable_scan.scan(image.astype(np.float32), least(np.uint8))[0]
    np.testing.assert_array_equal(found, dark)


def test_no_head_is_the_whole_scan():
    image = np.full((3, 6, 7, 2), 5, np.float32)
    _, stats, box = jax.jit(portable_scan.scan)(image, np.float32(-np.inf))
    assert np.asarray(box).tolist() == [[0, 0, 0], [3, 6, 7]]
    assert np.asarray(stats).tolist() == [[5, 5, 0 + 5, 1]] * 2


@pytest.mark.parametrize("shape", [(5, 9, 8), (10, 4, 21), (1, 3, 2), (13, 27, 8), (3, 9, 1)])
def test_resampling_as_imaging(shape):
    array = np.random.default_rng(0).normal(size=(7, 9, 8, 2)).astype(np.float32)
    found = jax.jit(portable_scan.resample)(array, np.zeros(shape, bool))
    np.testing.assert_allclose(found, resample(array, shape), atol=1e-6)
    same = jax.jit(portable_scan.resample)(array, np.zeros((7, 9, 8), bool))
    np.testing.assert_array_equal(same, array)


def test_to_the_grid_normalised_and_with_bounds_that_change_nothing_more():
    image = np.random.default_rng(1).normal(100, 30, (6, 8, 9, 2)).astype(np.float32)
    stats = intensity.volume_statistics(image)
    found, now = jax.jit(portable_scan.to_grid)(image, stats, np.zeros((4, 12, 9), bool))
    wanted = resample(intensity.normalise(image, stats), (4, 12, 9))
    np.testing.assert_allclose(found, wanted, atol=2e-6)
    np.testing.assert_allclose(portable_scan.normalise(found, now), wanted, atol=2e-6)
    np.testing.assert_allclose(now[:, 0], intensity.outside_level(stats), rtol=1e-6)


def test_sizes_of_components_as_scipy():
    mask = np.random.default_rng(2).random((6, 12, 11)) < 0.12
    number, count = ndimage.label(mask, np.ones((3, 3, 3)))
    wanted = np.bincount(number.ravel())[number] * mask
    assert count > 10
    np.testing.assert_array_equal(jax.jit(portable_volume.component_sizes)(mask), wanted)
