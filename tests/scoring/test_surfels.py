"""Surface elements: areas and distances worked out by hand, and properties."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from jaxseg.scoring import surfels

SPACING = (2.0, 0.5, 3.0)
PAIRS = st.tuples(*[st.integers(1, 5)] * 3).flatmap(
    lambda shape: st.tuples(*[hnp.arrays(bool, shape)] * 2)
)


def _box(shape, *bounds):
    mask = np.zeros(shape, bool)
    mask[tuple(slice(*b) for b in bounds)] = True
    return mask


def test_areas_of_faces_corners_and_edges():
    table = surfels.areas(SPACING)
    assert table[0] == table[255] == 0
    assert table[0b00001111] == pytest.approx(0.5 * 3.0)  # between two slices: a whole face
    assert table[0b00110011] == pytest.approx(2.0 * 3.0)
    assert table[0b01010101] == pytest.approx(2.0 * 0.5)
    # One voxel of eight: the triangle between three edges' middles, 1 mm, 1/4 mm and 3/2 mm away.
    legs = np.diag([1.0, 0.25, 1.5])
    triangle = np.linalg.norm(np.cross(legs[1] - legs[0], legs[2] - legs[0])) / 2
    assert table[0b00000001] == table[0b11111110] == pytest.approx(triangle)
    # Two side by side along the columns: a slanted rectangle, as long as a column is wide.
    assert table[0b00000011] == pytest.approx(np.hypot(1.0, 0.25) * 3.0)
    assert (table[1:255] > 0).all()


def test_the_surface_of_a_box_has_its_area():
    # Faces of a box of 4 x 5 x 6 voxels without the half voxel at every edge, which slants.
    mask = _box((8, 9, 10), (2, 6), (2, 7), (2, 8))
    found = surfels.measure(mask, mask, (1.0, 1.0, 1.0)).prediction_areas.sum()
    faces = 2 * (3 * 4 + 4 * 5 + 3 * 5)
    edges = 4 * (3 + 4 + 5) * np.sqrt(0.5)
    corners = 8 * np.sqrt(3) / 8
    assert found == pytest.approx(faces + edges + corners)


def test_a_slice_is_measured_by_the_length_of_its_contour():
    mask = _box((1, 5, 6), (0, 1), (1, 4), (1, 5))
    surfaces = surfels.measure(mask, mask, (9.0, 2.0, 3.0))  # the slice distance plays no part
    expected = 2 * (2 * 2.0 + 3 * 3.0) + 4 * np.hypot(1.0, 1.5)
    assert surfaces.truth_areas.sum() == pytest.approx(expected)


def test_surface_dice_by_hand():
    # A slab of two slices and the same one shifted by one.
    truth = _box((9, 12, 12), (2, 4), (0, 12), (0, 12))
    shifted = np.roll(truth, 1, axis=0)
    assert surfels.nsd(shifted, truth, (0.9, 1.0, 1.0)) == 1.0
    assert surfels.nsd(shifted, truth, (1.0, 1.0, 1.0)) == 1.0  # the tolerance itself is within
    # Slices 2 mm apart and a tolerance of 0.5: near are the walls between the two slices and the
    # edge that lies on the other's walls; not the faces (11 x 11) nor the other edge.
    walls = 44 * 2.0 + 4 * 2 * np.sqrt(0.5)
    edge = 44 * np.hypot(1, 0.5) + 4 * np.sqrt(1 / 4 + 1 / 4 + 1 / 16) / 2
    near, all_area = walls + edge, walls + 2 * (121 + edge)
    apart = surfels.nsd(shifted, truth, (2.0, 1.0, 1.0), tolerance=0.5)
    assert apart == pytest.approx(near / all_area)
    assert surfels.nsd(shifted, truth, (2.0, 1.0, 1.0), tolerance=2.0) == 1.0
    # Two single voxels 3 mm apart: no part of either is near; equal ones are.
    a, b = _box((3, 3, 9), (1, 2), (1, 2), (1, 2)), _box((3, 3, 9), (1, 2), (1, 2), (4, 5))
    assert surfels.nsd(a, b) == 0.0
    assert surfels.nsd(a, b, tolerance=2.0) == pytest.approx(0.5)  # the corners that face the other
    assert surfels.nsd(a, a) == 1.0


def test_empty_masks():
    empty, full = np.zeros((2, 3, 3), bool), np.ones((2, 3, 3), bool)
    assert surfels.nsd(empty, empty) == 1.0
    assert surfels.nsd(empty, full) == surfels.nsd(full, empty) == 0.0


def test_hd95_by_area_takes_no_value_between():
    a, b = _box((3, 3, 30), (1, 2), (1, 2), (1, 2)), _box((3, 3, 30), (1, 2), (1, 2), (21, 22))
    both = surfels.measure(a | b, a, (1.0, 1.0, 1.0))
    assert surfels.hd95_by_area(both) == 20.0  # half of the area of a | b is 19 or 20 away
    assert surfels.hd95_by_area(surfels.measure(a, a, (1.0, 1.0, 1.0))) == 0.0


@settings(deadline=None, max_examples=60)
@given(PAIRS)
def test_properties(pair):
    a, b = pair
    value = surfels.nsd(a, b, SPACING)
    assert 0 <= value <= 1
    assert value == pytest.approx(surfels.nsd(b, a, SPACING))
    assert surfels.nsd(a, a, SPACING) == 1.0
    flipped = surfels.nsd(a[:, ::-1], b[:, ::-1], SPACING)
    assert value == pytest.approx(flipped)
    if len(a) > 1:
        turned = surfels.nsd(a.transpose(2, 1, 0), b.transpose(2, 1, 0), SPACING[::-1])
        assert a.shape[2] == 1 or value == pytest.approx(turned)
    assert surfels.nsd(a, b, SPACING, tolerance=100.0) == float(a.any() == b.any())
