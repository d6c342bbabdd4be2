"""HD95 against numbers worked out by hand and a brute-force reference."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy import ndimage

from jaxseg.scoring.surface import diagonal, hd95

SHAPES = st.tuples(st.integers(1, 4), st.integers(1, 5), st.integers(1, 5))
SPACINGS = st.tuples(*[st.sampled_from([0.5, 1.0, 3.0])] * 3)
PAIRS = SHAPES.flatmap(lambda shape: st.tuples(hnp.arrays(bool, shape), hnp.arrays(bool, shape)))


def _points(shape, *points):
    mask = np.zeros(shape, bool)
    for point in points:
        mask[point] = True
    return mask


def _surface_points(mask, spacing):
    """Reference: voxels with a face neighbour outside, one at a time, as coordinates."""
    axes = (1, 2) if mask.shape[0] == 1 else (0, 1, 2)
    padded = np.pad(mask, 1)
    found = []
    for index in np.argwhere(mask):
        neighbours = []
        for axis in axes:
            for step in (-1, 1):
                other = index + 1
                other[axis] += step
                neighbours.append(padded[tuple(other)])
        if not all(neighbours):
            found.append(index * np.array(spacing))
    return np.array(found)


def _brute_force(prediction, truth, spacing):
    a, b = _surface_points(prediction, spacing), _surface_points(truth, spacing)
    distance = np.sqrt(((a[:, None] - b[None]) ** 2).sum(-1))
    return max(np.percentile(distance.min(1), 95), np.percentile(distance.min(0), 95))


def test_two_points_apart_in_pixels_and_in_mm():
    a, b = _points((5, 9, 9), (1, 2, 2)), _points((5, 9, 9), (4, 2, 6))
    assert hd95(a, b) == 5.0  # three slices and four columns
    assert hd95(a, b, (2.0, 1.0, 0.5)) == pytest.approx(np.hypot(3 * 2, 4 * 0.5))


def test_nested_cubes_are_as_far_apart_as_their_corners():
    outer, inner = np.zeros((9, 9, 9), bool), np.zeros((9, 9, 9), bool)
    outer[1:8, 1:8, 1:8] = True
    inner[3:6, 3:6, 3:6] = True
    # Along an axis a voxel of the outer surface is 0, 1 or 2 steps beyond the inner cube. Of the
    # 7^3 - 5^3 = 218 voxels 8 (corners) are sqrt(4 + 4 + 4) away and 24 (next to them on the
    # edges) sqrt(4 + 4 + 1): the 95th percentile, rank 206 of 0..217, is one of the 24.
    assert hd95(inner, outer) == 3.0
    # Slices 10 apart: 8 corners at sqrt(400 + 8), then 16 at sqrt(400 + 4 + 1).
    assert hd95(inner, outer, (10.0, 1.0, 1.0)) == pytest.approx(np.sqrt(405))


def test_the_five_percent_farthest_voxels_do_not_count():
    truth = np.zeros((1, 3, 200), bool)
    truth[0, 1, :100] = True
    prediction = truth.copy()
    prediction[0, 1, 196:200] = True  # 4 of 104 voxels, 97 to 100 columns away
    assert hd95(prediction, truth) == 0.0
    prediction[0, 1, 190:200] = True  # 10 of 110 voxels
    assert hd95(prediction, truth) > 90


def test_the_larger_direction_counts():
    truth = _points((1, 1, 50), (0, 0, 0))
    prediction = _points((1, 1, 50), (0, 0, 0), (0, 0, 40))
    assert hd95(prediction, truth) == pytest.approx(0.95 * 40)  # between 0 and 40, interpolated
    assert hd95(truth, prediction) == pytest.approx(0.95 * 40)


def test_the_edge_of_the_volume_is_outside():
    full, hollow = np.ones((5, 5, 5), bool), np.ones((5, 5, 5), bool)
    hollow[1:4, 1:4, 1:4] = False
    assert hd95(full, hollow) == 0.0  # both surfaces are the outermost voxels


def test_a_single_slice_is_compared_by_its_contours_in_the_plane():
    full, ring = np.ones((1, 21, 21), bool), np.ones((1, 21, 21), bool)
    ring[0, 1:20, 1:20] = False
    assert hd95(full, ring) == 0.0  # were all voxels of the slice surface, it would be 9 or so


def test_masks_within_one_slice_of_several_are_all_surface():
    full, ring = np.zeros((3, 21, 21), bool), np.zeros((3, 21, 21), bool)
    full[1] = ring[1] = True
    ring[1, 1:20, 1:20] = False
    # Square shell k of 19 x 19, counted from outside, is k away and has 4 (20 - 2 k) pixels, the
    # innermost 1: of 441 pixels 49 lie 7 or more away and 25 8 or more; rank 418 is an 8th.
    assert hd95(full, ring) == 8.0


@pytest.mark.parametrize("spacing", [(1.0, 1.0, 1.0), (3.0, 0.7, 0.7), (3.0, 0.7, 0.9)])
def test_large_masks_agree_with_scipy(spacing):
    rng = np.random.default_rng(0)
    noise = [ndimage.gaussian_filter(rng.normal(size=(8, 300, 200)), s) for s in (2, 5)]
    a, b = (n > np.percentile(n, 97) for n in noise)

    def directed(start, target):
        start, target = (m & ~ndimage.binary_erosion(m) for m in (start, target))
        distance = ndimage.distance_transform_edt(~target, sampling=spacing)
        return np.percentile(distance[start], 95)

    expected = max(directed(a, b), directed(b, a))
    assert expected > 10
    assert hd95(a, b, spacing) == pytest.approx(expected, rel=1e-12)


def test_far_away_in_a_large_image():
    a, b = _points((1, 300, 4000), (0, 0, 1)), _points((1, 300, 4000), (0, 299, 3998))
    assert hd95(a, b) == pytest.approx(np.hypot(299, 3997), rel=1e-6)  # float32


def test_empty_masks():
    empty, mask = np.zeros((3, 4, 12), bool), _points((3, 4, 12), (0, 0, 0))
    assert hd95(empty, empty) == 0.0
    assert hd95(empty, mask) == hd95(mask, empty) == 13.0  # sqrt(9 + 16 + 144)
    assert hd95(empty, mask, (4.0, 1.0, 0.25)) == 13.0  # sqrt(144 + 16 + 9)
    assert diagonal((3, 4, 12), (2.0, 2.0, 2.0)) == 26.0


@pytest.mark.parametrize(
    "prediction, truth",
    [
        (np.ones((2, 3, 4), bool), np.ones((2, 3, 5), bool)),
        (np.ones((3, 4), bool), np.ones((3, 4), bool)),
        (np.ones((2, 3, 4), np.uint8), np.ones((2, 3, 4), bool)),
        (np.ones((2, 3, 4), bool), np.full((2, 3, 4), 255, np.uint8)),
    ],
)
def test_wrong_masks_raise(prediction, truth):
    with pytest.raises(ValueError, match="mask"):
        hd95(prediction, truth)


@settings(deadline=None, max_examples=150)
@given(PAIRS, SPACINGS)
def test_equals_brute_force_and_is_symmetric(pair, spacing):
    prediction, truth = pair
    result = hd95(prediction, truth, spacing)
    assert result == hd95(truth, prediction, spacing)
    if prediction.any() and truth.any():
        assert result == pytest.approx(_brute_force(prediction, truth, spacing), abs=1e-9)
        assert result <= diagonal(truth.shape, spacing)


@settings(deadline=None, max_examples=50)
@given(PAIRS, st.tuples(*[st.integers(0, 3)] * 6))
def test_padding_a_volume_changes_nothing(pair, pads):
    # From two slices on: one slice is compared in its plane, by definition.
    prediction, truth = (np.concatenate([m, m]) for m in pair)
    widths = [pads[:2], pads[2:4], pads[4:]]
    if prediction.any() == truth.any():
        padded = (np.pad(m, widths) for m in (prediction, truth))
        assert hd95(*padded) == hd95(prediction, truth)
