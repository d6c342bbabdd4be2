"""Intensities on the device against the host's functions, on equal numbers."""

import numpy as np
import pytest

from jaxseg.imaging import augment_contrast, intensity
from jaxseg.transforms import contrast

SHAPE = (24, 20)


@pytest.fixture
def image():
    return np.random.default_rng(0).normal(size=(*SHAPE, 2)).astype(np.float32)


@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.float32])
def test_normalise(dtype):
    raw = np.random.default_rng(1).integers(0, 200, (4, 6, 5, 2)).astype(dtype)
    stats = np.array([[10, 150, 70, 30], [0, 199, 90, 50]], np.float32)
    expected = intensity.normalise(raw, stats)
    np.testing.assert_allclose(contrast.normalise(raw, stats), expected, atol=1e-6)


def test_contrast_and_brightness(image):
    factors, shifts = np.array([0.8, 1.2], np.float32), np.array([0.1, -0.2], np.float32)
    expected = augment_contrast.brightness(augment_contrast.contrast(image, factors), shifts)
    np.testing.assert_allclose(
        contrast.scale_and_shift(image, factors, shifts), expected, atol=1e-6
    )


def test_gamma(image):
    exponents = np.array([0.7, 1.5], np.float32)
    expected = augment_contrast.gamma(image, exponents)
    np.testing.assert_allclose(contrast.gamma(image, exponents), expected, atol=1e-4)
    one = np.ones(2, np.float32)
    np.testing.assert_array_equal(np.asarray(contrast.gamma(image, one)), image)


def test_bias_field(image):
    dark = np.array([-1.0, -2.0], np.float32)
    nodes = np.random.default_rng(2).uniform(-1, 1, (4, 4))
    expected = augment_contrast.bias_field(image, nodes, 0.3, dark)
    field = augment_contrast.smooth_field(nodes, SHAPE, max(SHAPE))
    np.testing.assert_allclose(contrast.bias_field(image, field, 0.3, dark), expected, atol=1e-5)


def test_noise_has_the_spread_and_depends_on_the_seed(image):
    zeros = np.zeros((64, 64, 4), np.float32)
    one, same, other = (np.asarray(contrast.noise(zeros, np.uint32(s), 0.5)) for s in (7, 7, 8))
    assert abs(one.std() - 0.5) < 0.02 and abs(one.mean()) < 0.02
    np.testing.assert_array_equal(one, same)
    assert not np.array_equal(one, other)
    np.testing.assert_array_equal(np.asarray(contrast.noise(image, np.uint32(1), 0.0)), image)
