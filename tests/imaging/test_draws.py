"""The numbers of a patch's random change."""

import numpy as np
import pytest

from jaxseg.config import Augment
from jaxseg.imaging import draws

NOTHING = {name: 0.0 for name in vars(Augment()) if name.endswith("_probability")}
ALWAYS = {name: 1.0 for name in vars(Augment()) if name.endswith("_probability")}
ISOTROPIC, THICK = (1.0, 1.0, 1.0), (5.0, 0.5, 0.5)


NONE = np.zeros(3, bool)


def rng(seed=0):
    return np.random.default_rng(seed)


def test_without_any_change_all_numbers_are_neutral():
    config, shape = Augment(**NOTHING), (4, 6, 8)
    np.testing.assert_array_equal(draws.draw_movement(rng(), ISOTROPIC, config), np.eye(3))
    assert not draws.draw_elastic(rng(), shape, config).any()
    found = draws.draw_intensity(rng(), ISOTROPIC, 2, config)
    assert (found["factors"] == 1).all() and (found["exponents"] == 1).all()
    assert not found["shifts"].any() and not found["gain_strength"] and not found["noise_std"]
    assert not found["sigma_voxels"].any() and (found["resolution"] == 1).all()


def test_a_quarter_turn_in_each_plane():
    np.testing.assert_allclose(
        draws.rotation((90, 0, 0), ISOTROPIC, NONE), [[0, -1, 0], [1, 0, 0], [0, 0, 1]], atol=1e-12
    )
    np.testing.assert_allclose(
        draws.rotation((0, 0, 90), ISOTROPIC, NONE), [[1, 0, 0], [0, 0, -1], [0, 1, 0]], atol=1e-12
    )


def test_rotation_keeps_lengths_in_mm():
    spacing = np.array([2.0, 1.0, 1.5])
    matrix = draws.rotation((20, -35, 50), spacing, NONE)
    in_mm = matrix * spacing[:, None] / spacing
    np.testing.assert_allclose(in_mm @ in_mm.T, np.eye(3), atol=1e-12)
    assert np.linalg.det(in_mm) == pytest.approx(1)


def test_thick_slices_are_not_turned_into():
    thick = draws.thick_axes(THICK, Augment())
    assert thick.tolist() == [True, False, False]
    assert draws.thick_axes(ISOTROPIC, Augment(in_plane=True)).tolist() == thick.tolist()
    matrix = draws.rotation((20, -35, 50), THICK, thick)
    np.testing.assert_array_equal(matrix[0], [1, 0, 0])
    np.testing.assert_array_equal(matrix[:, 0], [1, 0, 0])
    assert abs(matrix[1, 2]) > 0.5
    found = draws.draw_intensity(rng(), THICK, 1, Augment(**ALWAYS))
    assert (found["sigma_voxels"] > 0).tolist() == [False, True, True]
    assert (found["resolution"] < 1).tolist() == [False, True, True]


def test_left_and_right_are_mirrored_alone_unless_asked():
    config = Augment(**NOTHING | {"flip_probability": 1.0})
    np.testing.assert_array_equal(
        draws.draw_movement(rng(), ISOTROPIC, config), np.diag([1, 1, -1])
    )
    config = Augment(**NOTHING | {"flip_probability": 1.0}, flip_all_axes=True)
    np.testing.assert_array_equal(draws.draw_movement(rng(), ISOTROPIC, config), -np.eye(3))


def test_a_scale_above_one_makes_things_larger():
    """The patch then shows less of the scan: training voxels lie closer together."""
    config = Augment(**NOTHING | {"scale_probability": 1.0}, scale_range=(2.0, 2.0))
    np.testing.assert_allclose(draws.draw_movement(rng(), ISOTROPIC, config), np.eye(3) / 2)


@pytest.mark.parametrize("spacing", [ISOTROPIC, THICK, (3.0, 1.0, 1.0)])
def test_no_drawn_patch_is_larger_than_the_largest_extent(spacing):
    config, shape = Augment(**ALWAYS, rotation_degrees=30.0, scale_range=(0.7, 1.4)), (8, 12, 16)
    bound, generator = draws.largest_extent(shape, spacing, config), rng()
    size = np.array(shape) - 1.0
    for _ in range(200):
        linear = draws.draw_movement(generator, spacing, config)
        nodes = draws.draw_elastic(generator, shape, config)
        spans = np.abs(linear) @ (size + 2 * np.abs(nodes).max((1, 2, 3)))
        assert (spans <= bound + 1e-9).all()


def beyond_the_angles_tried(degrees: float, spacing, shape) -> float:
    """Return by what factor patches turned by any angles up to these span more than the largest
    of the nine angles tried."""
    config = Augment(**NOTHING | {"rotation_probability": 1.0}, rotation_degrees=degrees)
    tried = draws.largest_extent(shape, spacing, config) / draws.reserve(degrees, 3)
    thick, size = draws.thick_axes(spacing, config), np.array(shape) - 1.0
    angles = np.random.default_rng(0).uniform(-degrees, degrees, (1500, 3))
    spans = [np.abs(draws.rotation(a, spacing, thick)) @ size for a in angles]
    return np.max(np.max(spans, axis=0) / tried)


@pytest.mark.parametrize("degrees", [10.0, 15.0, 30.0, 45.0, 60.0, 90.0, 180.0])
def test_between_the_angles_tried_a_patch_spans_no_more_than_the_reserve(degrees):
    found = [
        beyond_the_angles_tried(degrees, spacing, shape)
        for spacing in (ISOTROPIC, THICK, (2.5, 1.0, 1.0))
        for shape in ((160, 16, 16), (8, 12, 16), (16, 160, 96))
    ]
    assert np.max(found) <= draws.reserve(degrees, 3)
    assert np.max(found) > 1  # a reserve is needed
    assert (draws.reserve(degrees, 3) == 1.01) == (degrees < 38)  # as it was: the same patches


def test_more_than_half_a_turn_is_none_beyond_it():
    config = Augment(**NOTHING | {"rotation_probability": 1.0}, rotation_degrees=720.0)
    half = Augment(**NOTHING | {"rotation_probability": 1.0}, rotation_degrees=180.0)
    found = [draws.largest_extent((8, 12, 16), ISOTROPIC, c) for c in (config, half)]
    np.testing.assert_array_equal(*found)


def test_the_same_generator_gives_the_same_numbers_whatever_happens():
    """A changed probability must not change what else is drawn."""
    one = draws.draw_intensity(rng(3), ISOTROPIC, 2, Augment(**ALWAYS))
    other = draws.draw_intensity(
        rng(3), ISOTROPIC, 2, Augment(**ALWAYS | {"gamma_probability": 0.0})
    )
    for name in ("factors", "shifts", "gain_nodes", "noise_std", "noise_seed", "resolution"):
        np.testing.assert_array_equal(one[name], other[name])
    assert (other["exponents"] == 1).all()
