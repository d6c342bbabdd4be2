"""The map between native and training grid: by hand, against block means, there and back."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from jaxseg.imaging import geometry

IDENTITY = np.array([[1.0, 0, 0], [0, 1, 0]])


def _random(shape, seed=0):
    rng = np.random.default_rng(seed)
    image = rng.normal(size=shape).astype(np.float32)
    return image, rng.integers(0, 2, (*shape[:2], 1), dtype=np.uint8)


def _blob(size, centre, radius):
    """A smooth bump of height 1 at centre (x, y), and the disc above one half."""
    y, x = np.indices(size)
    bump = np.exp2(-((x - centre[0]) ** 2 + (y - centre[1]) ** 2) / radius**2)
    return bump[..., None].astype(np.float32), (bump > 0.5)[..., None].astype(np.uint8)


def _dice(a, b):
    return 2 * np.sum(a & b) / (np.sum(a) + np.sum(b))


@pytest.mark.parametrize(
    ("native", "size", "box", "scale", "shift"),
    [
        ((256, 256), (256, 256), None, 1, (0, 0)),
        ((256, 256), (128, 128), None, 2, (0.5, 0.5)),
        ((64, 64), (128, 128), None, 0.5, (-0.25, -0.25)),
        ((5, 7), (7, 7), None, 1, (0, -1)),  # a row of padding above and below
        ((100, 200), (50, 50), None, 4, (1.5, -48.5)),  # width decides; rows padded
        ((200, 100), (50, 50), None, 4, (-48.5, 1.5)),
        ((240, 155), (96, 64), None, 2.5, (-1.75, 0.75)),  # 64 * 2.5 = 160 columns for 155
        ((256, 256), (64, 64), (30, 40, 158, 168), 2, (40.5, 30.5)),
        ((256, 256), (64, 64), (0, 100, 128, 164), 2, (68.5, 0.5)),  # 128 x 64: columns padded
    ],
)
def test_fit_matrix_by_hand(native, size, box, scale, shift):
    matrix = geometry.fit_matrix(native, size, box)
    np.testing.assert_allclose(matrix, [[scale, 0, shift[0]], [0, scale, shift[1]]])
    assert matrix.dtype == np.float64


def test_compose_applies_inner_first():
    outer, inner = np.random.default_rng(0).normal(size=(2, 2, 3))
    point = np.array([3.0, -2.0])
    moved = inner[:, :2] @ point + inner[:, 2]
    expected = outer[:, :2] @ moved + outer[:, 2]
    np.testing.assert_allclose(geometry.compose(outer, inner) @ [*point, 1], expected)


@pytest.mark.parametrize("cubic", [False, True])
@pytest.mark.parametrize("dense", [False, True])
def test_identity_is_exact(cubic, dense):
    image, mask = _random((31, 42, 3))
    still = np.zeros((2, 31, 42), np.float32)
    where = geometry.dense_map(IDENTITY, (31, 42), still) if dense else IDENTITY
    got = geometry.warp(image, mask, where, (31, 42), np.zeros(3), cubic)
    np.testing.assert_array_equal(got[0], image)
    np.testing.assert_array_equal(got[1], mask)
    assert got[0].dtype == np.float32 and got[1].dtype == np.uint8


def test_mask_takes_the_nearest_pixel_and_never_mixes():
    labels = np.random.default_rng(0).integers(0, 256, (20, 30, 1), dtype=np.uint8)
    matrix = np.array([[1, 0, 2.3], [0, 1, 3.7]])  # nearest: 2 columns and 4 rows further
    _, got = geometry.warp(labels.astype(np.float32), labels, matrix, (10, 20), np.zeros(1))
    np.testing.assert_array_equal(got, labels[4:14, 2:22])


def test_cubic_follows_a_wave_more_closely_than_linear():
    x = np.arange(60, dtype=np.float32)
    wave = np.tile(np.sin(x), (60, 1))[..., None]
    matrix = np.array([[1, 0, 10.5], [0, 1, 10]])
    mask = np.zeros((60, 60, 1), np.uint8)
    linear, cubic = (
        np.abs(
            geometry.warp(wave, mask, matrix, (40, 40), np.zeros(1), c)[0][0, :, 0] - truth
        ).max()
        for truth in [np.sin(x[:40] + 10.5)]
        for c in (False, True)
    )
    assert linear > 0.11 and cubic < 0.05  # midway between samples linear loses 1 - cos(1/2)


@pytest.mark.parametrize("factor", [2, 4, 5])
def test_shrinking_averages_blocks(factor):
    image, mask = _random((20 * factor, 30 * factor, 3))
    matrix = geometry.fit_matrix(image.shape[:2], (20, 30))
    got, moved = geometry.warp(image, mask, matrix, (20, 30), np.zeros(3))
    blocks = image.reshape(20, factor, 30, factor, 3).mean((1, 3))
    np.testing.assert_allclose(got, blocks, atol=1e-6)
    assert set(np.unique(moved)) <= {0, 1}


@pytest.mark.parametrize("dense", [False, True])
def test_fine_stripes_do_not_alias(dense):
    """Stripes finer than the training grid must fade; sampling alone would keep them."""
    x = np.arange(401)
    image = np.tile(np.cos(2 * np.pi * x / 2.9), (401, 1))[..., None].astype(np.float32)
    matrix = geometry.fit_matrix((401, 401), (100, 100))
    still = np.zeros((2, 100, 100), np.float32)
    where = geometry.dense_map(matrix, (100, 100), still) if dense else matrix
    mask = np.zeros((401, 401, 1), np.uint8)
    got, _ = geometry.warp(image, mask, where, (100, 100), np.zeros(1))
    assert np.abs(got[2:-2, 2:-2]).max() < 0.35


@pytest.mark.parametrize("dense", [False, True])
@pytest.mark.parametrize("shrink", [0.7, 1.9, 3.3])
def test_a_ramp_is_sampled_where_the_map_says(dense, shrink):
    y, x = np.indices((150, 170), np.float32)
    ramp = np.stack([x, y], axis=-1)
    matrix = np.array([[0.9 * shrink, 0.2 * shrink, 12.3], [-0.2 * shrink, 0.9 * shrink, 9.7]])
    v, u = np.indices((40, 50))
    push = np.full((2, 40, 50), 0.0, np.float32)
    push[0] = 1.5 if dense else 0  # training pixels to the right
    where = geometry.dense_map(matrix, (40, 50), push) if dense else matrix
    expected = np.stack([u + push[0], v, np.ones_like(u)], axis=-1) @ matrix.T
    mask = np.zeros((150, 170, 1), np.uint8)
    got, _ = geometry.warp(ramp, mask, where, (40, 50), np.zeros(2))
    inside = ((expected > 6) & (expected < (163, 143))).all(-1)
    assert inside.sum() > 300
    np.testing.assert_allclose(got[inside], expected[inside], atol=0.06)  # OpenCV: 1/32 pixel


def test_padding_takes_each_channels_border_value():
    """More channels than OpenCV's border colour has."""
    image, mask = _random((10, 20, 6))
    border = np.arange(6, dtype=np.float32) - 2.5
    matrix = geometry.fit_matrix((10, 20), (20, 20))
    got, moved = geometry.warp(image, mask | 1, matrix, (20, 20), border)
    np.testing.assert_array_equal(got[:5], np.broadcast_to(border, (5, 20, 6)))
    np.testing.assert_array_equal(got[5:15], image)
    assert moved[5:15].all() and not moved[:5].any() and not moved[15:].any()


@given(
    native=st.tuples(st.integers(90, 300), st.integers(90, 300)),
    size=st.tuples(st.sampled_from([64, 96, 128]), st.sampled_from([64, 96, 128])),
    place=st.tuples(st.floats(0.35, 0.65), st.floats(0.35, 0.65)),
    box=st.booleans(),
)
def test_there_and_back(native, size, place, box):
    """A smooth bump comes back to the native grid in its place, with its height."""
    centre = np.array(place) * native[::-1]
    image, mask = _blob(native, centre, min(native) / 8)
    corner = (native[0] // 10, native[1] // 12, native[0] - 7, native[1] - 9)
    matrix = geometry.fit_matrix(native, size, corner if box else None)
    small, _ = geometry.warp(image, mask, matrix, size, np.zeros(1))
    back = geometry.to_native_grid(small, matrix, native)
    assert back.shape == image.shape and back.dtype == np.float32
    np.testing.assert_allclose(back, image, atol=0.12)
    assert _dice(back > 0.5, mask > 0) > 0.95
    y, x = np.indices(native)
    inside = back[..., 0] * (back[..., 0] > 0.05)
    found = np.array([(inside * x).sum(), (inside * y).sum()]) / inside.sum()
    np.testing.assert_allclose(found, centre, atol=0.25)  # no shift by half a pixel


def test_native_grid_is_filled_to_the_edge_and_0_outside_the_crop():
    ones = np.ones((16, 16, 2), np.float32)
    everything = geometry.to_native_grid(ones, geometry.fit_matrix((40, 32), (16, 16)), (40, 32))
    np.testing.assert_array_equal(everything, 1)
    box = (4, 10, 36, 42)
    cropped = geometry.to_native_grid(ones, geometry.fit_matrix((50, 60), (16, 16), box), (50, 60))
    expected = np.zeros((50, 60, 2))
    expected[4:36, 10:42] = 1
    np.testing.assert_array_equal(cropped, expected)


def test_to_native_grid_is_linear_between_training_pixels():
    probability = np.arange(4, dtype=np.float32).reshape(1, 4, 1).repeat(4, 0)
    native = geometry.to_native_grid(probability, geometry.fit_matrix((8, 8), (4, 4)), (8, 8))
    row = [0, 0.25, 0.75, 1.25, 1.75, 2.25, 2.75, 3]
    np.testing.assert_allclose(native[..., 0], np.tile(row, (8, 1)), atol=1e-6)


def test_prepare_slice_by_hand():
    image = np.zeros((8, 4, 1), np.uint8)
    image[2:4, :2] = [[[100], [120]], [[140], [160]]]
    mask = np.zeros((8, 4, 1), np.uint8)
    mask[2:4, :2] = 1
    stats = np.array([[20, 200, 100, 40]], np.float32)
    record = {"image": image, "mask": mask, "stats": stats, "head_box": np.array([2, 0, 4, 2])}
    before = {key: value.copy() for key, value in record.items()}
    whole = geometry.prepare_slice(record, (4, 4), crop_to_head=False)
    expected = np.full((4, 4), -2.0)  # intensity 0, clipped to 20; columns 0 and 3 are padding
    expected[1, 1] = 0.75  # mean of 0, 0.5, 1, 1.5
    np.testing.assert_allclose(whole["image"][..., 0], expected, atol=1e-6)
    np.testing.assert_array_equal(whole["mask"][..., 0], expected > 0)
    cropped = geometry.prepare_slice(record, (2, 2), crop_to_head=True)
    np.testing.assert_allclose(cropped["image"][..., 0], [[0, 0.5], [1, 1.5]], atol=1e-6)
    assert cropped["mask"].all() and cropped["mask"].dtype == np.uint8
    for key, value in before.items():
        np.testing.assert_array_equal(record[key], value)


@pytest.mark.parametrize("top", range(12))
@pytest.mark.parametrize("height", [7, 9, 11, 13, 21, 23, 27, 29])
def test_pixels_centred_on_the_edge_of_the_training_grid_are_inside(top, height):
    """A box wider than half its height by nothing: rows fit, columns reach height / 2 each way."""
    box = np.array([top, 20, top + height, 20 + 1])
    matrix = geometry.fit_matrix((50, 50), (16, 16), box)
    back = geometry.to_native_grid(np.ones((16, 16, 1), np.float32), matrix, (50, 50))[..., 0]
    # The middle of the box is the centre of column 20; height / 2 from it is no pixel centre, so
    # that columns end there; with an even width, 20 and 21, it is one.
    assert back[top].sum() == height
    even = geometry.fit_matrix((50, 50), (16, 16), box + np.array([0, 0, 0, 1]))
    back = geometry.to_native_grid(np.ones((16, 16, 1), np.float32), even, (50, 50))[..., 0]
    assert back[top].sum() == height + 1


@pytest.mark.parametrize("step", [1.0, 3.0])
def test_an_empty_mask_stays_empty_and_the_image_does_not_depend_on_it(step):
    image = np.random.default_rng(0).random((30, 40, 2)).astype(np.float32)
    empty, full = np.zeros((30, 40, 1), np.uint8), np.ones((30, 40, 1), np.uint8)
    where = np.array([[step, 0.1, 1.0], [-0.1, step, 2.0]])
    moved, mask = geometry.warp(image, empty, where, (8, 12), image[0, 0])
    other, filled = geometry.warp(image, full, where, (8, 12), image[0, 0])
    assert (mask.shape, mask.dtype) == (filled.shape, filled.dtype) and filled.any()
    assert not mask.any()
    np.testing.assert_array_equal(moved, other)


@pytest.mark.parametrize("elastic", [False, True])
def test_three_channels_are_sampled_like_each_alone(elastic):
    image = np.random.default_rng(0).random((30, 40, 3)).astype(np.float32)
    mask, border = np.zeros((30, 40, 1), np.uint8), np.array([-1.0, -2.0, -3.0], np.float32)
    where = np.array([[1.1, 0.1, -3.0], [-0.1, 1.1, 2.0]])
    if elastic:
        where = geometry.dense_map(where, (32, 32), np.ones((2, 32, 32), np.float32))
    together, _ = geometry.warp(image, mask, where, (32, 32), border)
    assert (together == border).all(axis=-1).any()  # some of it lies outside
    for c in range(3):
        one = image[..., c : c + 1]
        alone, _ = geometry.warp(one, mask, where, (32, 32), border[c : c + 1])
        np.testing.assert_allclose(together[..., c : c + 1], alone, atol=1e-5)
