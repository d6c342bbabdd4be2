"""Another resolution: by hand, identity, known shifts, soft masks."""

import numpy as np
import pytest

from jaxseg.imaging.resample import averaging, interpolating, resample, shape_at


def test_by_hand():
    line = np.array([0.0, 4.0, 8.0, 12.0])[:, None]
    np.testing.assert_allclose(resample(line, (2,))[:, 0], [2, 10])
    np.testing.assert_allclose(resample(line[:2], (4,))[:, 0], [0, 1, 3, 4])
    np.testing.assert_allclose(averaging(3, 2), [[2 / 3, 1 / 3, 0], [0, 1 / 3, 2 / 3]])
    np.testing.assert_allclose(interpolating(1, 3), [[1], [1], [1]])


def test_the_same_shape_gives_the_same_values():
    image = np.random.default_rng(0).normal(size=(3, 4, 5, 2)).astype(np.float32)
    np.testing.assert_array_equal(resample(image, (3, 4, 5)), image)


@pytest.mark.parametrize("shape", [(6, 5, 9), (3, 8, 4), (12, 12, 12), (2, 2, 2)])
def test_a_linear_ramp_stays_one_within_the_outermost_centres(shape):
    size = (6, 8, 8)
    index = np.stack(np.meshgrid(*map(np.arange, size), indexing="ij"), axis=-1)
    ramp = (index @ [1.0, -2.0, 0.5])[..., None]
    found = resample(ramp, shape)[..., 0]
    at = [(np.arange(m) + 0.5) * n / m - 0.5 for n, m in zip(size, shape, strict=True)]
    expected = at[0][:, None, None] - 2 * at[1][None, :, None] + 0.5 * at[2]
    inner = np.ix_(
        *[np.flatnonzero((a >= 0) & (a <= n - 1)) for a, n in zip(at, size, strict=True)]
    )
    np.testing.assert_allclose(found[inner], expected[inner], atol=1e-4)


def test_a_soft_mask_keeps_its_volume():
    mask = np.zeros((12, 12, 12, 1), np.uint8)
    mask[3:9, 2:10, 4:8] = 1
    soft = resample(mask, (4, 6, 12))
    assert soft.min() >= 0 and soft.max() <= 1 + 1e-6
    assert soft.sum() * (12 / 4) * (12 / 6) == pytest.approx(mask.sum(), rel=1e-5)


def test_nothing_aliases_where_many_voxels_become_few():
    """Stripes finer than the new voxels are grey, not black or white."""
    stripes = (np.arange(24.0) % 2)[:, None]
    np.testing.assert_allclose(resample(stripes, (4,)), 0.5, atol=1e-6)
    spike = np.zeros((24, 1))
    spike[7] = 1
    assert resample(spike, (4,)).sum() == pytest.approx(1 / 6, rel=1e-5)


def test_there_and_back_moves_nothing():
    """A blob's centre of mass stays where it is in mm."""
    index = np.stack(np.meshgrid(*[np.arange(20)] * 3, indexing="ij"), axis=-1)
    blob = np.exp(-(((index - [9, 10, 8]) / 3.0) ** 2).sum(-1))[..., None]
    back = resample(resample(blob, (13, 16, 27)), (20, 20, 20))[..., 0]
    centre = (index * back[..., None]).sum((0, 1, 2)) / back.sum()
    np.testing.assert_allclose(centre, [9, 10, 8], atol=0.02)


def test_number_of_voxels():
    assert shape_at((155, 240, 240), (1.0, 1.0, 1.0), (2.0, 1.0, 1.5)) == (78, 240, 160)
    assert shape_at((1, 2, 3), (1.0, 1.0, 1.0), (9.0, 9.0, 9.0)) == (1, 1, 1)
