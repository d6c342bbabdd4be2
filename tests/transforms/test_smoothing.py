"""Matrices that blur, average and lower the resolution: what OpenCV does on the host."""

import cv2
import jax
import numpy as np
import pytest

from jaxseg.imaging import augment_contrast
from jaxseg.transforms import smoothing

SHAPE = (24, 20)


@pytest.fixture
def image():
    return np.random.default_rng(0).normal(size=(*SHAPE, 2)).astype(np.float32)


def smooth(image, sigma=0.0, resolution=1.0):
    matrices = [smoothing.smoothing(n, sigma, resolution) for n in image.shape[:-1]]
    return np.asarray(smoothing.along_axes(image, matrices))


@pytest.mark.parametrize("sigma", [0.31, 0.5, 0.8, 1.0, 1.9])
def test_blur_equals_the_host_up_to_the_edges(image, sigma):
    np.testing.assert_allclose(smooth(image, sigma), augment_contrast.blur(image, sigma), atol=1e-5)


@pytest.mark.parametrize("factor", [0.05, 0.4, 0.5, 0.77, 0.9, 0.99])
def test_low_resolution_equals_the_host(image, factor):
    expected = augment_contrast.low_resolution(image, factor)
    np.testing.assert_allclose(smooth(image, 0, factor), expected, atol=1e-5)


def test_blur_comes_first(image):
    expected = augment_contrast.low_resolution(augment_contrast.blur(image, 0.9), 0.4)
    np.testing.assert_allclose(smooth(image, 0.9, 0.4), expected, atol=1e-5)


def test_nothing_to_do_is_the_identity(image):
    np.testing.assert_array_equal(np.asarray(smoothing.smoothing(9, 0.0, 1.0)), np.eye(9))
    np.testing.assert_array_equal(smooth(image), image)


def test_a_constant_stays():
    for sigma, resolution in ((0.9, 1.0), (0.0, 0.6), (0.7, 0.5)):
        matrix = np.asarray(smoothing.smoothing(20, sigma, resolution))
        np.testing.assert_allclose(matrix.sum(1), 1, rtol=1e-5)
        assert matrix.dtype == np.float32 and (matrix >= 0).all()


@pytest.mark.parametrize("few", [6, 7, 12])
def test_averaging_equals_shrinking_by_area(few):
    image = np.random.default_rng(1).normal(size=(24, 3)).astype(np.float32)
    expected = cv2.resize(image, (3, few), interpolation=cv2.INTER_AREA)
    found = np.asarray(smoothing.averaging(24, 24, 24 / few) @ image)
    np.testing.assert_allclose(found[:few], expected, atol=1e-5)
    np.testing.assert_allclose(found[few:], 0, atol=1e-5)


def test_products_keep_all_digits_on_accelerators():
    """Without it a GPU multiplies with 11 bits: places would be off by a tenth of a voxel."""
    text = jax.jit(smooth_by_numbers).lower(np.zeros((8, 6, 1), np.float32)).as_text()
    products = [line for line in text.splitlines() if "dot_general" in line]
    assert len(products) == 2 + 2 * 2 and all("HIGHEST" in line for line in products)


def smooth_by_numbers(image):
    matrices = [smoothing.smoothing(n, 0.5, 0.5) for n in image.shape[:-1]]
    return smoothing.along_axes(image, matrices)
