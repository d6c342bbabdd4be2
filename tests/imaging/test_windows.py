"""Windows that cover a grid."""

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from jaxseg.imaging import windows

sizes = st.tuples(st.integers(1, 40), st.integers(1, 24))


@given(sizes)
def test_overlapping_windows_cover_an_axis(pair):
    native, window = pair
    starts = windows.overlapping(native, window)
    seen = np.zeros(native, int)
    for start in starts:
        seen[max(start, 0) : start + window] += 1
    assert (seen > 0).all()
    if native > window:
        assert starts[0] == 0 and starts[-1] + window == native
        assert np.diff(starts).max() <= -(-window // 2) + 1  # half of each lies in the next


@given(st.lists(sizes, min_size=1, max_size=3))
def test_every_voxel_is_owned_once(pairs):
    shape, size = zip(*pairs, strict=True)
    owners = np.zeros(shape, int)
    for place, own in windows.owned(shape, size):
        at = tuple(slice(p + s.start, p + s.stop) for p, s in zip(place, own, strict=True))
        owners[at] += 1
        assert all(0 <= s.start < s.stop <= t for s, t in zip(own, size, strict=True))
    assert (owners == 1).all()


def test_partition_by_hand():
    assert windows.partition(10, 4) == [(0, 0, 4), (4, 4, 8), (6, 8, 10)]
    assert windows.partition(8, 4) == [(0, 0, 4), (4, 4, 8)]
    assert windows.partition(3, 8) == [(-3, 0, 3)]


def test_overlapping_by_hand():
    assert windows.overlapping(12, 8) == [0, 4]
    assert windows.overlapping(13, 8) == [0, 2, 5]
    assert windows.overlapping(8, 8) == [0] and windows.overlapping(3, 8) == [-3]


@pytest.mark.parametrize("place", [(0, 0), (-2, 1), (3, -4), (4, 6)])
def test_a_cut_is_the_padded_array(place):
    array = np.random.default_rng(0).normal(size=(6, 7, 2)).astype(np.float32)
    outside = np.array([5.0, -5.0])
    padded = np.empty((26, 27, 2), np.float32)
    padded[...] = outside
    padded[10:16, 10:17] = array
    low = [p + 10 for p in place]
    expected = padded[low[0] : low[0] + 4, low[1] : low[1] + 5]
    np.testing.assert_array_equal(windows.cut(array, place, (4, 5), outside), expected)


def test_what_lay_in_a_window_before_is_gone():
    place, image = np.full((4, 5, 2), 7, np.uint8), np.arange(12, dtype=np.uint8).reshape(3, 2, 2)
    windows.fill(place, image, (slice(0, 3), slice(0, 2)), 0)
    np.testing.assert_array_equal(place[:3, :2], image)
    assert place.sum() == image.sum()


def test_windows_meet_the_grid_where_they_say():
    here, there = windows.meet((-1, 5), (4, 4), (10, 7))
    assert here == (slice(0, 3), slice(5, 7)) and there == (slice(1, 4), slice(0, 2))
    assert list(itertools.chain(here)) and list(there)


@given(st.data())
def test_the_boxes_around_an_inner_one_hold_the_rest_once(data):
    size = data.draw(st.lists(st.integers(1, 6), min_size=1, max_size=3))
    ends = [sorted(data.draw(st.tuples(st.integers(0, n), st.integers(0, n)))) for n in size]
    inner = tuple(slice(*pair) for pair in ends)
    count = np.zeros(size, int)
    count[inner] += 1
    for box in windows.around(inner, size):
        count[box] += 1
    assert (count == 1).all()
