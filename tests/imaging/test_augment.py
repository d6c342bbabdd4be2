"""Image and mask move together; changes do what they say; the same seed gives the same bytes."""

import dataclasses

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from jaxseg.config import Augment
from jaxseg.errors import UserError
from jaxseg.imaging import (
    augment,
    augment_contrast,
    augment_shape,
    draws,
    geometry,
    slice_draws,
)

SIZE = (96, 128)
PROBABILITIES = [f.name for f in dataclasses.fields(Augment) if f.name.endswith("_probability")]
GEOMETRY = ["flip", "rotation", "scale", "translation", "elastic"]
INTENSITY = ["gamma", "brightness", "contrast", "noise", "blur", "low_resolution", "bias_field"]


def _only(*names, **settings) -> Augment:
    """Settings with these changes always on and all others off."""
    chances = {p: float(p.removesuffix("_probability") in names) for p in PROBABILITIES}
    return Augment(**{**chances, **settings})


def _record(channels=3, size=SIZE) -> dict:
    """An ellipse of 200 on 0, off the centre, equal to its mask; statistics keep 0..1."""
    y, x = np.indices(size)
    mask = (((y - 40) / 22) ** 2 + ((x - 74) / 16) ** 2 < 1).astype(np.uint8)[..., None]
    stats = np.tile(np.array([0, 200, 0, 200], np.float32), (channels, 1))
    image = np.repeat(200 * mask, channels, axis=-1)
    return {"image": image, "mask": mask, "stats": stats, "head_box": np.array([8, 20, 90, 120])}


def _textured(seed=0, channels=3) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(*SIZE, channels)).astype(np.float32)


def _augmented(seed, config, record=None, size=SIZE, crop=False):
    return augment.augment_slice(
        record or _record(), np.random.default_rng(seed), size, crop, config
    )


def _random_geometry(matrix, rng, size, config):
    numbers = slice_draws.draw(rng.random(slice_draws.count(size, 3, config)), size, 3, config)
    where = augment_shape.moved_matrix(matrix, numbers, size)
    if not numbers["nodes"].any():
        return where
    return augment_shape.bent(where, numbers["nodes"], size, config.elastic_smoothness * max(size))


def _random_intensity(image, rng, dark, config):
    uniform = rng.random(draws.intensity_count(image.shape[-1], 2))
    numbers = draws.intensity(uniform, image.shape[-1], 2, config)
    return augment_contrast.change_intensity(image, numbers, dark)


def _centre_goes_to(where):
    """The place where the slice's centre is seen: solve linear @ place + offset = centre."""
    centre = (np.array(SIZE[::-1]) - 1) / 2
    return np.linalg.solve(where[..., :2], (centre - where[..., 2])[..., None])[..., 0]


def _dice(a, b):
    return 2 * np.sum(a & b) / (np.sum(a) + np.sum(b))


def test_the_lists_above_are_complete():
    assert sorted(PROBABILITIES) == sorted(f"{n}_probability" for n in GEOMETRY + INTENSITY)


@given(
    seed=st.integers(0, 2**32),
    size=st.sampled_from([SIZE, (128, 128), (192, 224)]),
    crop=st.booleans(),
    cubic=st.booleans(),
    elastic=st.booleans(),
)
def test_image_and_mask_move_together(seed, size, crop, cubic, elastic):
    names = GEOMETRY if elastic else GEOMETRY[:-1]
    got = _augmented(seed, _only(*names, rotation_degrees=40.0, cubic=cubic), None, size, crop)
    mask = got["mask"][..., 0]
    assert mask.sum() > 300 and set(np.unique(mask)) == {0, 1}
    for channel in range(3):
        assert _dice(got["image"][..., channel] > 0.5, mask > 0) > 0.95


@given(st.integers(0, 2**32))
def test_the_mask_is_left_alone_by_intensities(seed):
    record = _record()
    plain = geometry.prepare_slice(record, SIZE, crop_to_head=False)
    got = _augmented(seed, _only(*INTENSITY), record)
    np.testing.assert_array_equal(got["mask"], plain["mask"])
    assert got["image"].dtype == np.float32 and not np.array_equal(got["image"], plain["image"])


@pytest.mark.parametrize("crop", [False, True])
def test_without_chance_it_is_prepare_slice(crop):
    record = _record() | {"image": np.random.default_rng(1).integers(0, 256, (*SIZE, 3), np.uint8)}
    for size in (SIZE, (64, 64)):
        plain = geometry.prepare_slice(record, size, crop)
        got = _augmented(5, _only(), record, size, crop)
        for key in ("image", "mask"):
            np.testing.assert_array_equal(got[key], plain[key])


@pytest.mark.parametrize("name", GEOMETRY + INTENSITY)
def test_each_change_alone(name):
    """Same seed, same bytes; other seeds differ; the record stays; only geometry moves masks."""
    record = _record()
    record["image"] = np.random.default_rng(1).integers(0, 201, (*SIZE, 3), np.uint8)
    before = {key: value.copy() for key, value in record.items()}
    plain = geometry.prepare_slice(record, SIZE, crop_to_head=False)
    one, again, other = (_augmented(seed, _only(name), record) for seed in (3, 3, 4))
    for key in ("image", "mask"):
        np.testing.assert_array_equal(one[key], again[key])
    assert not np.array_equal(one["image"], plain["image"])
    assert (name in GEOMETRY) == (not np.array_equal(one["mask"], plain["mask"]))
    assert np.array_equal(one["image"], other["image"]) == (name == "flip")
    for key, value in before.items():
        np.testing.assert_array_equal(record[key], value)


def test_switching_one_change_off_leaves_the_others_numbers():
    """The numbers do not depend on what is on: the centre moves alike with and without the rest."""
    matrix = geometry.fit_matrix(SIZE, SIZE)
    alone, beside = (
        _random_geometry(matrix, np.random.default_rng(7), SIZE, _only(*names))
        for names in (("translation",), GEOMETRY[:-1])
    )
    np.testing.assert_allclose(_centre_goes_to(alone), _centre_goes_to(beside), atol=1e-9)
    assert np.abs(_centre_goes_to(alone) - _centre_goes_to(matrix)).max() > 1


def test_cubic_setting_reaches_the_warp():
    linear, cubic = (_augmented(0, _only("rotation", cubic=c)) for c in (False, True))
    assert linear["image"].max() <= 1 < cubic["image"].max()  # only cubic overshoots an edge


def test_probability_is_a_share_of_the_slices():
    config = _only(flip_probability=0.3)
    matrix = geometry.fit_matrix(SIZE, SIZE)
    rng = np.random.default_rng(0)
    draws = [_random_geometry(matrix, rng, SIZE, config)[0, 0] < 0 for _ in range(2000)]
    assert abs(np.mean(draws) - 0.3) < 0.04  # four standard deviations


def test_flip_exchanges_left_and_right():
    plain = geometry.prepare_slice(_record(), SIZE, crop_to_head=False)
    got = _augmented(0, _only("flip"))
    np.testing.assert_array_equal(got["image"], plain["image"][:, ::-1])
    np.testing.assert_array_equal(got["mask"], plain["mask"][:, ::-1])


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({}, (9, 5)),
        ({"flip": True}, (11, 5)),
        ({"degrees": 90.0}, (5, 11)),  # right of and above the centre -> counter-clockwise
        ({"degrees": -90.0}, (15, 9)),
        ({"scale": 2.0}, (8, 0)),
        ({"scale": 0.5}, (9.5, 7.5)),
        ({"shift": (3, -2)}, (12, 3)),
        ({"flip": True, "degrees": 90.0, "shift": (1, 0)}, (6, 9)),
        ({"degrees": 90.0, "scale": 2.0, "shift": (0, 4)}, (0, 16)),
    ],
)
def test_movement_takes_a_point_where_it_should(settings, expected):
    """Centre (10, 10) of a 21x21 grid; the point (9, 5) lies 1 left of it and 5 above."""
    defaults = {"flip": False, "degrees": 0.0, "scale": 1.0, "shift": (0, 0)}
    moved = {**defaults, **settings}
    matrix = augment_shape.movement((21, 21), **{**moved, "shift": np.array(moved["shift"])})
    np.testing.assert_allclose(matrix @ [*expected, 1], (9, 5), atol=1e-12)  # from moved back


def test_a_pixel_turns_counter_clockwise_as_displayed():
    image = np.zeros((21, 21, 1), np.float32)
    image[10, 18] = 1  # to the right of the centre
    matrix = augment_shape.movement((21, 21), False, 90.0, 1.0, np.zeros(2))
    mask = (image > 0).astype(np.uint8)
    got, moved = geometry.warp(image, mask, matrix, (21, 21), np.zeros(1))
    assert np.argwhere(moved[..., 0]).tolist() == [[2, 10]]  # now above
    np.testing.assert_allclose(got[2, 10], 1, atol=1e-3)


def test_ranges_are_respected_and_used():
    config = _only(
        *GEOMETRY[1:4], rotation_degrees=20.0, scale_range=(0.8, 1.1), translation_fraction=0.1
    )
    matrix, rng = geometry.fit_matrix(SIZE, SIZE), np.random.default_rng(0)
    drawn = np.array([_random_geometry(matrix, rng, SIZE, config) for _ in range(500)])
    linear = drawn[..., :2]
    scale = 1 / np.sqrt(np.linalg.det(linear))
    degrees = np.degrees(np.arctan2(linear[:, 1, 0], linear[:, 0, 0]))
    for values, low, high in (
        (scale, 0.8, 1.1),
        (degrees, -20, 20),
        (_centre_goes_to(drawn) - (63.5, 47.5), -12.8, 12.8),  # a tenth of the longer side
    ):
        margin = 0.02 * (high - low)
        assert low - 1e-9 <= values.min() < low + margin
        assert high - margin < values.max() <= high + 1e-9


def test_smooth_field_partition_and_ramp():
    """Cubic B-splines reproduce constants and straight lines, and stay within their nodes."""
    grid, spacing = augment_shape.node_grid((40, 60), 8.0), 8.0
    ones = augment_shape.smooth_field(np.ones(grid), (40, 60), spacing)
    np.testing.assert_allclose(ones, 1, atol=1e-6)
    columns = (np.arange(grid[1]) - 1) * spacing  # node 0 lies one spacing before pixel 0
    ramp = augment_shape.smooth_field(np.tile(columns, (grid[0], 1)), (40, 60), spacing)
    np.testing.assert_allclose(ramp, np.tile(np.arange(60), (40, 1)), atol=1e-4)
    single = np.zeros(grid)
    single[2, 3] = 1  # at pixel (8, 16), where its weight is (2/3)^2
    bump = augment_shape.smooth_field(single, (40, 60), spacing)
    np.testing.assert_allclose(bump[8, 16], 4 / 9, atol=1e-6)
    assert np.unravel_index(bump.argmax(), bump.shape) == (8, 16)


@given(st.integers(0, 2**32))
def test_the_strongest_elastic_field_does_not_fold(seed):
    config = _only("elastic", elastic_amplitude=0.025, elastic_smoothness=0.1)
    matrix = geometry.fit_matrix(SIZE, SIZE)
    where = _random_geometry(matrix, np.random.default_rng(seed), SIZE, config)
    still = np.moveaxis(np.indices(SIZE)[::-1], 0, -1)
    assert 0.3 < np.abs(where - still).max() <= 0.025 * 128
    along_x, along_y = np.diff(where, axis=1)[:-1], np.diff(where, axis=0)[:, :-1]
    area = along_x[..., 0] * along_y[..., 1] - along_x[..., 1] * along_y[..., 0]
    assert area.min() > 0


def test_a_folding_setting_is_refused():
    with pytest.raises(UserError, match=r"elastic_amplitude=0\.1.*fold"):
        Augment(elastic_amplitude=0.1, elastic_smoothness=0.1)


def test_contrast_and_brightness_by_hand():
    image = np.array([[[1.0, -2.0], [0.5, 3.0]]], np.float32)
    scaled, shifted = (
        augment_contrast.contrast(image, [2.0, 0.5]),
        augment_contrast.brightness(image, [0.25, -1]),
    )
    np.testing.assert_allclose(scaled, [[[2, -1], [1, 1.5]]])
    np.testing.assert_allclose(shifted, [[[1.25, -3], [0.75, 2]]])


@given(st.lists(st.floats(0.5, 3), min_size=3, max_size=3))
def test_gamma_is_monotone_and_keeps_the_ends(exponents):
    image = _textured()
    got = augment_contrast.gamma(image, np.array(exponents))
    for c, exponent in enumerate(exponents):
        before, after = image[..., c].ravel(), got[..., c].ravel()
        assert (np.diff(after[np.argsort(before)]) >= 0).all()
        low, span = before.min(), np.ptp(before)
        expected = ((before - low).astype(np.float64) / span) ** exponent * span + low
        np.testing.assert_allclose(after, expected, atol=1e-4)
        assert abs(after.max() - before.max()) < 1e-4
    constant = np.full((4, 4, 1), 2.5, np.float32)
    np.testing.assert_allclose(augment_contrast.gamma(constant, np.array([2.0])), 2.5)


def test_bias_field_gains():
    """Intensity 0 stays; the largest gain is the one asked for; it varies smoothly."""
    dark = np.array([-2.0, -1.0], np.float32)
    nodes = np.random.default_rng(0).uniform(-1, 1, (4, 4))
    image = np.broadcast_to(dark, (*SIZE, 2)).astype(np.float32)
    np.testing.assert_array_equal(augment_contrast.bias_field(image, nodes, 0.3, dark), image)
    gain = (
        augment_contrast.bias_field(image + 1, nodes, 0.3, dark) - image
    )  # of a raw intensity of 1
    np.testing.assert_allclose(gain[..., 0], gain[..., 1], atol=1e-6)
    np.testing.assert_allclose(np.abs(gain - 1).max(), 0.3, atol=1e-5)
    assert np.abs(np.diff(gain, axis=0)).max() < 0.02 and gain.std() > 0.02


def test_noise_has_the_std_asked_for():
    image = _textured(channels=4)
    added = augment_contrast.noise(image, 0.25, np.random.default_rng(0)) - image
    assert abs(added.std() - 0.25) < 0.005 and abs(added.mean()) < 0.005
    assert abs(np.corrcoef(added[..., 0].ravel(), added[..., 1].ravel())[0, 1]) < 0.04


def test_noise_is_normal():
    added = augment_contrast.noise(
        np.zeros((300, 300, 3), np.float32), 1.0, np.random.default_rng(0)
    )
    below = [(added < z).mean() for z in (-3, -1, 0, 1, 3)]
    np.testing.assert_allclose(below, [0.00135, 0.15866, 0.5, 0.84134, 0.99865], atol=0.002)
    centred = added - added.mean()
    assert (centred**4).mean() / centred.var() ** 2 == pytest.approx(3, abs=0.05)


def test_blur_spreads_a_point_by_sigma():
    image = np.zeros((41, 41, 5), np.float32)
    image[20, 20] = 1
    got = augment_contrast.blur(image, 1.5)
    np.testing.assert_allclose(got.sum((0, 1)), 1, atol=1e-5)
    squares = (np.arange(41)[:, None] - 20) ** 2  # of the distance, along the columns
    np.testing.assert_allclose((got * squares).sum((0, 1)), 1.5**2, rtol=0.02)


@pytest.mark.parametrize("factor", [0.25, 0.5])
def test_low_resolution_removes_what_the_coarse_grid_cannot_hold(factor):
    image = _textured(channels=5)
    got = augment_contrast.low_resolution(image, factor)
    assert got.shape == image.shape
    y, x = np.fft.fftfreq(SIZE[0])[:, None], np.fft.fftfreq(SIZE[1])
    fine = np.maximum(np.abs(y), np.abs(x)) > factor / 2  # cycles per pixel
    power = [np.abs(np.fft.fft2(a, axes=(0, 1))[fine]) ** 2 for a in (got, image)]
    assert power[0].sum() < 0.05 * power[1].sum()
    smooth = np.tile(np.linspace(0, 1, SIZE[1], dtype=np.float32), (SIZE[0], 1))[..., None]
    np.testing.assert_allclose(augment_contrast.low_resolution(smooth, factor), smooth, atol=0.02)


@given(st.integers(0, 2**32))
def test_drawn_intensities_stay_in_their_ranges(seed):
    """A plain image shows the drawn number: contrast of 1, brightness of 0."""
    ones, dark = np.ones((8, 8, 3), np.float32), np.zeros(3, np.float32)
    rng = np.random.default_rng(seed)
    factors = _random_intensity(ones, rng, dark, _only("contrast"))
    assert (factors >= 0.75).all() and (factors <= 1.25).all()
    shifts = _random_intensity(0 * ones, rng, dark, _only("brightness"))
    assert (np.abs(shifts) <= 0.2).all() and len(np.unique(shifts)) == 3
    gain = _random_intensity(ones, rng, dark, _only("bias_field"))
    assert (np.abs(gain - 1) <= 0.3 + 1e-5).all()
