"""Statistics over the head against hand-computed numbers and NumPy; boxes; normalisation."""

import re

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from jaxseg.imaging import intensity
from jaxseg.imaging.volumes import slice_records
from jaxseg.scans.volume import Volume


def _ball(background_noise: float = 0.0, offset: float = 0.0) -> np.ndarray:
    """A head of 60..140 in 7 slices of 48x48, one channel, float64."""
    rng = np.random.default_rng(0)
    z, y, x = np.indices((7, 48, 48))
    head = ((z - 3) / 4) ** 2 + ((y - 20) / 16) ** 2 + ((x - 26) / 14) ** 2 < 1
    noise = np.hypot(*rng.normal(0, background_noise, (2, *head.shape)))  # Rayleigh, as in MRI
    return np.where(head, rng.uniform(60, 140, head.shape), noise + offset)[..., None]


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.int32, np.float32, np.float64])
def test_statistics_by_hand(dtype):
    volume = np.zeros((10, 10, 10, 1), dtype)
    volume.reshape(-1)[300:401] = np.arange(100, 201)  # the head: 100, 101, .. 200
    # Percentiles 1 and 99 of 101 values are the 2nd and the 100th; clipping moves the two ends.
    variance = (2 * sum(d * d for d in range(1, 50)) + 2 * 49**2) / 101
    np.testing.assert_allclose(
        intensity.volume_statistics(volume), [[101, 199, 150, np.sqrt(variance)]], rtol=1e-6
    )


@given(st.integers(0, 10_000), st.sampled_from([np.uint8, np.uint16, np.float32]))
def test_statistics_agree_with_numpy(seed, dtype):
    rng = np.random.default_rng(seed)
    volume = (rng.gamma(2.0, 20.0, (3, 6, 5, 2)) + 40).clip(0, 255).astype(dtype)
    volume[:, :2] = 0
    dark, bright = np.percentile(volume, (0.5, 99.5), axis=(0, 1, 2))
    head = (volume > dark + 0.1 * (bright - dark)).any(-1)  # one of two channels is half of them
    found = intensity.volume_statistics(volume)
    for channel, stats in zip(np.moveaxis(volume, -1, 0), found, strict=True):
        voxels = channel[head].astype(np.float64)
        low, high = np.percentile(voxels, (1, 99))
        clipped = voxels.clip(low, high)
        np.testing.assert_allclose(stats, [low, high, clipped.mean(), clipped.std()], rtol=1e-5)


def test_background_does_not_count():
    """Stripped, raw, and in a wide frame: the head decides alone."""
    stripped = intensity.volume_statistics(_ball())
    raw = intensity.volume_statistics(_ball(background_noise=3.0).astype(np.uint8))
    wide = intensity.volume_statistics(np.pad(_ball(), ((0, 0), (30, 30), (30, 30), (0, 0))))
    np.testing.assert_allclose(stripped[0, :3], [60.8, 139.2, 100], rtol=0.02)
    np.testing.assert_allclose(raw, stripped, rtol=0.02)
    np.testing.assert_array_equal(wide, stripped)


def test_a_channel_with_a_grey_background_is_outvoted():
    volume = np.concatenate([_ball(), 2 * _ball(), _ball(offset=76.0)], axis=-1)
    volume[:2, :2, :2, 2] = 0  # its darkest pixels lie far below its background
    stats = intensity.volume_statistics(volume)
    np.testing.assert_allclose(stats[0], intensity.volume_statistics(_ball())[0], rtol=1e-6)
    np.testing.assert_allclose(stats[1], 2 * stats[0], rtol=1e-6)
    np.testing.assert_allclose(stats[2], stats[0], rtol=1e-6)


def _scored(volume: np.ndarray, background: float = 0.0) -> np.ndarray:
    """Bring a stripped head to mean 0 and deviation 1, as nnU-Net and MONAI do."""
    head = volume > 0
    scored = (volume - volume[head].mean()) / volume[head].std()
    return np.where(head, scored, background).astype(np.float32)


@pytest.mark.parametrize("gain, offset", [(1, 0), (0.01, 5), (300, -1000)])
def test_a_background_amid_the_tissue_is_darkened(gain, offset):
    """Whatever the unit: the head alone decides, and the network sees a dark background."""
    scored = gain * _scored(_ball()) + offset
    dark = intensity.darken_background(scored)
    head = _ball() > 0
    assert (dark != scored)[head].mean() < 2e-3 and (dark[~head] < scored[head].min()).all()
    raw, found = (intensity.normalise(v, intensity.volume_statistics(v)) for v in (_ball(), dark))
    assert (abs(found - raw) < 0.02).mean() > 0.999
    np.testing.assert_array_equal(intensity.head_box(dark), intensity.head_box(_ball()))
    assert intensity.darken_background(dark) is dark
    assert not intensity.head_warnings(dark)


def test_the_records_of_a_scan_have_a_dark_background():
    record = slice_records(Volume(_scored(_ball())))[3]
    image = intensity.normalise(record["image"], record["stats"])
    raw = slice_records(Volume(_ball().astype(np.float32)))[3]
    assert abs(image - intensity.normalise(raw["image"], raw["stats"])).max() < 0.02


def test_a_background_amid_the_tissue_of_integers_and_of_a_small_head():
    whole = (40 * _scored(_ball()) + 128).clip(0, 255).astype(np.uint8)
    dark = intensity.darken_background(whole)
    assert dark.dtype == np.uint8 and dark[0, 0, 0, 0] < whole[_ball() > 0].min()
    np.testing.assert_array_equal(intensity.head_box(dark), intensity.head_box(_ball()))
    small = np.pad(_scored(_ball()), ((0, 0), (150, 150), (150, 150), (0, 0)))  # 2 % of the voxels
    box = intensity.head_box(intensity.darken_background(small))
    np.testing.assert_array_equal(box, intensity.head_box(_ball()) + 150)


@pytest.mark.parametrize("noise", [0.0, 3.0])
@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
def test_other_backgrounds_stay_as_they_are(noise, dtype):
    volume = _ball(background_noise=noise).astype(dtype)
    grey = np.concatenate([volume, volume, 1 + volume + 90 * (volume < 60)], axis=-1)  # outvoted
    for sound in (volume, grey.astype(dtype), np.full_like(volume, 7), volume[:0]):
        assert intensity.darken_background(sound) is sound


def test_statistics_that_nothing_explains_are_said():
    noise = np.random.default_rng(0).normal(100, 5, (4, 20, 20, 1))
    assert "no head stands out" in intensity.head_warnings(noise)[0]
    assert len(intensity.head_warnings(np.full((4, 20, 20, 1), 7))) == 1
    assert not intensity.head_warnings(_ball()) and not intensity.head_warnings(_ball(3.0))


def test_constant_and_empty_volumes():
    for value in (0, 7):
        constant = np.full((2, 4, 6, 1), value, np.uint8)
        stats = intensity.volume_statistics(constant)
        np.testing.assert_array_equal(stats, [[value, value, value, 1]])
        np.testing.assert_array_equal(intensity.head_box(constant), [0, 0, 4, 6])
        np.testing.assert_array_equal(intensity.normalise(constant[0], stats), 0)
    nothing = intensity.volume_statistics(np.zeros((0, 4, 4, 2), np.uint8))
    np.testing.assert_array_equal(nothing, [[0, 0, 0, 1]] * 2)
    one_dead = np.concatenate([_ball(), np.zeros_like(_ball())], axis=-1)
    np.testing.assert_array_equal(intensity.volume_statistics(one_dead)[1], [0, 0, 0, 1])


def test_head_box_by_hand():
    volume = np.zeros((3, 40, 50, 2), np.uint16)
    volume[0, 8:20, 10:30] = 900  # half-open: rows 8..19, columns 10..29
    volume[2, 12:25, 6:14] = 700  # another slice reaches further down and left
    np.testing.assert_array_equal(intensity.head_box(volume), [8, 6, 25, 30])
    assert intensity.head_box(volume).dtype == np.int32


def test_head_box_ignores_specks_and_marks():
    volume = np.zeros((3, 40, 50, 1), np.uint8)
    volume[:, 8:20, 10:30] = 200
    rng = np.random.default_rng(0)
    volume[0, rng.integers(0, 7, 5), rng.integers(0, 50, 5)] = 255  # single pixels
    volume[1, 30:34, 40:44] = 255  # 16 pixels against 240: a letter in the corner
    np.testing.assert_array_equal(intensity.head_box(volume), [8, 10, 20, 30])


def test_head_box_of_a_noisy_deep_volume():
    """Bright pixels at 2 % of the places in each of 60 slices: together they fill the frame."""
    volume = np.where(np.random.default_rng(0).random((60, 40, 50, 1)) < 0.02, 255, 0)
    volume[:, 8:20, 10:30] = 200
    np.testing.assert_allclose(intensity.head_box(volume.astype(np.uint8)), [8, 10, 20, 30], atol=2)


def test_head_box_reaches_the_frame():
    volume = np.zeros((1, 16, 16, 1), np.uint8)
    volume[:, :10, 3:] = 100
    np.testing.assert_array_equal(intensity.head_box(volume), [0, 3, 10, 16])


def test_normalise_by_hand():
    image = np.array([[[0, 10], [50, 20]], [[110, 40], [255, 70]]], np.uint8)
    stats = np.array([[10, 210, 110, 50], [20, 60, 40, 10]], np.float32)
    expected = [[[-2, -2], [-1.2, -2]], [[0, 0], [2, 2]]]
    np.testing.assert_allclose(intensity.normalise(image, stats), expected, rtol=1e-6)
    assert intensity.normalise(image, stats).dtype == np.float32


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32, np.float64])
def test_normalise_gives_the_head_mean_0_and_std_1(dtype):
    volume = _ball(background_noise=3.0).astype(dtype)
    stats, before = intensity.volume_statistics(volume), volume.copy()
    normalised = np.stack([intensity.normalise(image, stats) for image in volume])
    head = volume[..., 0] > 50
    assert abs(normalised[head].mean()) < 1e-3 and abs(normalised[head].std() - 1) < 1e-3
    np.testing.assert_array_equal(volume, before)


@pytest.mark.parametrize("channels", [1, 3, 5])
def test_normalise_looks_up_what_it_would_compute(channels):
    image = np.random.default_rng(0).integers(0, 256, (40, 50, channels)).astype(np.uint8)
    stats = intensity.volume_statistics(image[None])
    computed = intensity.normalise(image.astype(np.float32), stats)
    np.testing.assert_array_equal(intensity.normalise(image, stats), computed)


@given(st.floats(0.1, 100))
def test_normalised_image_does_not_depend_on_the_gain(gain):
    volume = _ball(background_noise=3.0)
    one, other = (
        intensity.normalise(v[3], intensity.volume_statistics(v)) for v in (volume, gain * volume)
    )
    np.testing.assert_allclose(one, other, atol=1e-4)


def test_real_scans(lgg_source):
    """The box of each of some patients holds the tumour and leaves background out."""
    for folder in sorted(p for p in lgg_source.iterdir() if p.is_dir())[::9]:
        paths = sorted(folder.glob("*_mask.tif"), key=lambda p: int(re.findall(r"\d+", p.stem)[-1]))
        mask = np.stack([cv2.imread(str(p), cv2.IMREAD_UNCHANGED) for p in paths]) > 0
        names = [str(p).replace("_mask", "") for p in paths]
        volume = np.stack([cv2.imread(n, cv2.IMREAD_UNCHANGED) for n in names])
        y0, x0, y1, x1 = intensity.head_box(volume)
        assert mask[:, y0:y1, x0:x1].sum() == mask.sum()
        assert (y1 - y0) * (x1 - x0) < 0.9 * mask[0].size
        assert intensity.darken_background(volume) is volume  # as runs were trained before
        assert not intensity.head_warnings(volume)
        low, high, mean, std = intensity.volume_statistics(volume).T
        assert (low < mean).all() and (mean < high).all() and (low < mean - std).all()


@pytest.mark.parametrize(
    "dtype, gain, offset",
    [(np.int16, 1, -1000), (np.int16, 300, -20_000), (np.int32, 1, -1000), (np.int32, 20_000, 7)],
)
def test_statistics_of_integers_are_those_of_their_floats(dtype, gain, offset):
    """Negative ones, and ones as far apart as in BraTS (4e6), counted without a long table."""
    values = gain * np.rint(_ball(background_noise=3.0)) + offset
    volume = values.astype(dtype)
    found = intensity.volume_statistics(volume)
    np.testing.assert_allclose(found, intensity.volume_statistics(values), rtol=1e-6)
    np.testing.assert_array_equal(intensity.head_box(volume), intensity.head_box(values))
    levels, counts = intensity._histogram(volume)
    assert len(levels) <= 1 << 20 and counts.sum() == volume.size
    np.testing.assert_array_equal(np.repeat(levels, counts), np.sort(volume, axis=None))


def test_head_box_in_three_dimensions_by_hand():
    volume = np.zeros((9, 40, 50, 2), np.int16)
    volume[2:5, 8:20, 10:30] = 900
    volume[5, 10:13, 12:15] = 900  # a brim of nine pixels
    volume[6, 10:12, 12:14] = 900  # a speck
    volume[7, 35:39, 40:44] = 900  # a mark outside of the head
    found = intensity.head_box_3d(volume)
    np.testing.assert_array_equal(found, [[2, 8, 10], [6, 20, 30]])
    assert found.dtype == np.int32
    np.testing.assert_array_equal(found[:, 1:].ravel(), intensity.head_box(volume))
    nothing = intensity.head_box_3d(np.full_like(volume, 7))
    np.testing.assert_array_equal(nothing, [[0, 0, 0], [9, 40, 50]])
