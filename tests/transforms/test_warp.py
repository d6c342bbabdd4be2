"""Sampling on the device: by hand, against SciPy in float64, against the host's own."""

import cv2
import jax
import numpy as np
import pytest
from scipy import ndimage

from jaxseg.imaging.augment_shape import node_grid, smooth_field
from jaxseg.transforms import warp


def test_sampling_by_hand():
    line = np.array([[1.0], [3.0], [7.0]], np.float32)
    where = np.array([[0.0], [0.5], [1.75], [2.0], [-0.5], [2.25], [-1.0], [9.0]], np.float32)
    expected = [1, 2, 6, 7, 0.5, 5.25, 0, 0]  # beyond the ends it fades to 0 within a voxel
    np.testing.assert_allclose(warp.sample(line, where)[:, 0], expected, rtol=1e-6)


@pytest.mark.parametrize("size", [(9, 7), (6, 9, 5)])
def test_sampling_equals_scipy(size):
    rng = np.random.default_rng(0)
    image = rng.normal(size=(*size, 2)).astype(np.float32)
    where = rng.uniform(-2, max(size) + 1, (200, len(size))).astype(np.float32)
    padded = np.pad(image.astype(np.float64), [(1, 1)] * len(size) + [(0, 0)])
    found = np.asarray(jax.jit(warp.sample)(image, where))
    for c in range(2):
        expected = ndimage.map_coordinates(padded[..., c], where.T + 1.0, order=1, cval=0)
        np.testing.assert_allclose(found[:, c], expected, atol=2e-5)


@pytest.mark.parametrize("shape", [(8, 6), (4, 5, 6)])
def test_places_are_the_affine_map(shape):
    rng = np.random.default_rng(1)
    matrix = rng.normal(size=(len(shape), len(shape) + 1)).astype(np.float32)
    found = np.asarray(warp.places(matrix, shape))
    index = np.stack(np.meshgrid(*map(np.arange, shape), indexing="ij"), axis=-1)
    expected = index @ matrix[:, :-1].T.astype(np.float64) + matrix[:, -1]
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_displacement_equals_the_host():
    shape, spacing = (24, 32), 4.0
    nodes = np.random.default_rng(2).normal(size=(2, *node_grid(shape, spacing))).astype(np.float32)
    found = np.asarray(warp.displace(nodes, shape, spacing))
    for axis in range(2):
        expected = smooth_field(nodes[axis], shape, spacing)
        np.testing.assert_allclose(found[..., axis], expected, atol=1e-5)


def test_displacement_of_equal_nodes_is_constant_in_any_rank():
    shape = (5, 6, 7)
    nodes = np.ones((3, *node_grid(shape, 2.0)), np.float32)
    nodes *= np.array([1, 2, 3], np.float32)[:, None, None, None]
    found = np.asarray(warp.displace(nodes, shape, 2.0))
    np.testing.assert_allclose(found, np.broadcast_to([1, 2, 3], (*shape, 3)), rtol=1e-5)


def test_affine_sampling_equals_opencv():
    image = np.random.default_rng(3).normal(size=(20, 16, 3)).astype(np.float32)
    linear = np.array([[0.9, 0.2], [-0.15, 1.1]])  # rows, columns
    offset = np.array([1.5, -0.5])
    matrix = np.hstack([linear, offset[:, None]]).astype(np.float32)
    found = np.asarray(warp.sample(image, warp.places(matrix, (18, 14))))
    xy = np.hstack([linear[::-1, ::-1], offset[::-1, None]])
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    expected = cv2.warpAffine(image, xy, (14, 18), None, flags, cv2.BORDER_CONSTANT, 0)
    assert np.abs(found - expected).max() < 0.05  # OpenCV's weights may have five bits
    assert np.abs(found - expected).mean() < 0.01
