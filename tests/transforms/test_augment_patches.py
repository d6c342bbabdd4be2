"""Raw patches to samples: neutral numbers, known movements, any rank, any mesh."""

import dataclasses
import functools

import jax
import numpy as np
import pytest

from jaxseg.config import Augment, Config, Input, Model
from jaxseg.config import Mesh as MeshConfig
from jaxseg.imaging import draws, intensity
from jaxseg.machine.sharding import make_mesh
from jaxseg.transforms import smoothing
from jaxseg.transforms.augment import augment, augment_one, jit_augment, make_feed, place_raw

NOTHING = Augment(**{n: 0.0 for n in vars(Augment()) if n.endswith("_probability")})
STATS = np.array([[2, 190, 90, 40], [-20, 150, 70, 35]], np.float32)
SIZE, SPACING = (4, 8, 8), (1.0, 1.0, 1.0)


def neutral(size, seed=0):
    rng = np.random.default_rng(seed)
    rank = len(size)
    elastic = draws.draw_elastic(rng, size, NOTHING)
    return {
        "image": rng.integers(-30, 220, (*size, 2)).astype(np.int16),
        "mask": (rng.random((*size, 3)) < 0.3).astype(np.uint8),
        "stats": STATS,
        "outside": intensity.outside_level(STATS),
        "matrix": np.eye(rank, rank + 1, dtype=np.float32),
        "nodes": elastic,
    } | draws.draw_intensity(rng, (1.0,) * rank, 2, NOTHING)


def applied(raw, size=None):
    size = size or raw["image"].shape[:-1]
    return jax.tree.map(np.asarray, augment_one(raw, size, 0.125 * max(size)))


@pytest.mark.parametrize("size", [(8, 6), SIZE])
def test_neutral_numbers_only_normalise(size):
    raw = neutral(size)
    found = applied(raw)
    np.testing.assert_allclose(found["image"], intensity.normalise(raw["image"], STATS), atol=1e-5)
    np.testing.assert_array_equal(found["mask"], raw["mask"])


def test_a_mirrored_patch():
    raw = neutral(SIZE)
    raw["matrix"] = np.array([[1, 0, 0, 0], [0, 1, 0, 0], [0, 0, -1, 7]], np.float32)
    found = applied(raw)
    expected = intensity.normalise(raw["image"], STATS)[:, :, ::-1]
    np.testing.assert_allclose(found["image"], expected, atol=1e-5)
    np.testing.assert_array_equal(found["mask"], raw["mask"][:, :, ::-1])


def test_outside_of_the_source_is_the_darkest():
    raw = neutral(SIZE)
    raw["matrix"] = np.eye(3, 4, dtype=np.float32)
    raw["matrix"][0, 3] = 2  # two slices further up
    found = applied(raw)
    np.testing.assert_array_equal(
        found["image"][2:], np.broadcast_to(intensity.outside_level(STATS), (2, 8, 8, 2))
    )
    np.testing.assert_array_equal(found["mask"][:2], raw["mask"][2:])
    assert not found["mask"][2:].any()


def test_image_and_masks_move_together():
    """A ball, turned and elastically moved: its mask stays where it is bright."""
    size = (24, 24, 24)
    index = np.stack(np.meshgrid(*map(np.arange, size), indexing="ij"), axis=-1)
    inside = (((index - [10, 13, 12]) / [5, 4, 6]) ** 2).sum(-1) < 1
    config = Augment(rotation_probability=1, elastic_probability=1, scale_probability=1)
    rng = np.random.default_rng(4)
    raw = neutral(size) | {"image": inside[..., None] * np.full((1, 1, 1, 2), 100, np.uint8)}
    raw |= {
        "mask": inside[..., None].astype(np.uint8),
        "nodes": draws.draw_elastic(rng, size, config),
    }
    raw["stats"] = np.array([[0, 100, 50, 50]] * 2, np.float32)
    raw["outside"] = intensity.outside_level(raw["stats"])
    linear = draws.draw_movement(rng, SPACING, config)
    offset = 11.5 - linear @ np.full(3, 11.5)
    raw["matrix"] = np.hstack([linear, offset[:, None]]).astype(np.float32)
    found = applied(raw)
    assert found["mask"].sum() > 100
    np.testing.assert_array_equal(found["mask"][..., 0] > 0, found["image"][..., 0] >= -1e-5)


def changed(numbers, size=SIZE):
    """Return a patch with some numbers of its own, what becomes of it, and of the neutral one."""
    raw = neutral(size)
    same = applied(raw)["image"]
    return raw | numbers, applied(raw | numbers)["image"], same


def test_contrast_brightness_and_gamma_are_applied_one_after_the_other():
    factors, shifts = np.array([0.8, 1.3], np.float32), np.array([0.2, -0.4], np.float32)
    exponents = np.array([0.7, 1.4], np.float32)
    numbers = {"factors": factors, "shifts": shifts, "exponents": exponents}
    _, found, same = changed(numbers)
    linear = same.astype(np.float64) * factors + shifts
    low, high = linear.min((0, 1, 2)), linear.max((0, 1, 2))
    expected = ((linear - low) / (high - low)) ** exponents * (high - low) + low
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_a_gain_leaves_what_is_dark_and_reaches_its_strength():
    _, found, same = changed({"gain_strength": np.float32(0.3)})
    outside = intensity.outside_level(STATS)
    dark = np.isclose(same, outside, atol=1e-5)
    np.testing.assert_allclose(found[dark], same[dark], atol=1e-5)
    gain = (found - outside)[~dark] / (same - outside)[~dark]
    assert 0.28 < np.abs(gain - 1).max() < 0.3 + 1e-4 and gain.std() > 0.02


def test_each_axis_is_smoothed_by_its_own_matrix():
    for axis, size in enumerate(SIZE):
        sigma = 0.8 * (np.arange(3) == axis).astype(np.float32)
        _, found, same = changed({"sigma_voxels": sigma})
        matrix = np.asarray(smoothing.blur(size, 0.8))
        expected = np.moveaxis(np.tensordot(matrix, same, (1, axis)), 0, axis)
        assert np.abs(expected - same).max() > 0.1
        np.testing.assert_allclose(found, expected, atol=1e-5)


def test_noise_comes_last_and_from_the_samples_own_seed():
    size = (16, 16, 16)
    blur = {"sigma_voxels": np.full(3, 1.5, np.float32)}
    noise = [{"noise_std": np.float32(0.5), "noise_seed": np.uint32(n)} for n in (1, 2)]
    first, second = (changed(blur | n, size)[1] - changed(blur, size)[1] for n in noise)
    assert abs(first.std() - 0.5) < 0.01 and abs(first.mean()) < 0.02  # not blurred
    assert abs(np.corrcoef(first.ravel(), second.ravel())[0, 1]) < 0.05


def test_a_voxel_is_inside_a_mask_from_its_half():
    raw = neutral(SIZE)
    raw["mask"][...] = (np.arange(8) < 4)[:, None]
    for shift, count in ((0.45, 4), (0.55, 3)):  # of what is shown, to the left
        raw["matrix"] = np.eye(3, 4, dtype=np.float32)
        raw["matrix"][2, 3] = shift
        np.testing.assert_array_equal(
            applied(raw)["mask"], np.broadcast_to((np.arange(8) < count)[:, None], (*SIZE, 3))
        )


def test_an_elastic_displacement_turns_and_scales_with_the_patch():
    """A displacement of one training voxel is two of the source's where the grid is half as fine.

    And of a turned patch it goes along the training's axis.
    """
    raw = neutral((8, 8, 8))
    linear = np.array([[1, 0, 0], [0, 0, -2], [0, 1, 0]], np.float32)  # rows, columns: turned
    raw["matrix"] = np.hstack([linear, [[0], [7], [0]]]).astype(np.float32)
    moved = raw["matrix"] + np.pad(linear[:, 2:], ((0, 0), (3, 0)))  # one training column on
    raw["nodes"] = np.zeros_like(raw["nodes"])
    expected = applied(raw | {"matrix": moved})
    raw["nodes"][2] = 1
    found = applied(raw)
    np.testing.assert_allclose(found["image"], expected["image"], atol=1e-4)
    np.testing.assert_array_equal(found["mask"], expected["mask"])


CHANGES = {  # numbers, and between what they are drawn
    "nodes": (-0.4, 0.4),
    "exponents": (1.2, 1.5),
    "gain_strength": (0.1, 0.3),
    "sigma_voxels": (0.5, 1.0),
    "resolution": (0.5, 0.6),
    "noise_std": (0.05, 0.1),
}


def batch_of(size, count):
    ones = [neutral(size, seed) for seed in range(count)]
    raw = {name: np.stack([one[name] for one in ones]) for name in ones[0]}
    return raw | {"stop": np.zeros(count, np.int32)}


@pytest.mark.parametrize("mesh", [MeshConfig(), MeshConfig(data=2, spatial=4)])
def test_the_feed_gives_the_same_on_every_mesh(mesh):
    size, config = (
        (8, 8, 8),
        Config(input=Input(image_size=(8, 8, 8)), model=Model(widths=(4, 8)), augment=NOTHING),
    )
    raw = batch_of(size, 8)
    fed = make_feed(config, make_mesh(mesh))(raw)
    assert set(fed) == {"image", "mask", "stop"}
    for i in range(8):
        one = applied({name: value[i] for name, value in raw.items() if name != "stop"})
        np.testing.assert_allclose(np.asarray(fed["image"])[i], one["image"], atol=1e-5)
        np.testing.assert_array_equal(np.asarray(fed["mask"])[i], one["mask"])


@pytest.mark.parametrize("size", [(16, 12), (8, 12, 10)], ids=str)
def test_one_after_the_other_gives_what_all_together_give(size):
    """On a CPU what was not drawn is left out, on a GPU it is computed and not taken."""
    config = Config(input=Input(image_size=size), model=Model(widths=(4, 8)), augment=NOTHING)
    raw, rng = batch_of(size, 8), np.random.default_rng(0)
    raw["gain_nodes"] = rng.uniform(-1, 1, raw["gain_nodes"].shape).astype(np.float32)
    drawn = {name: np.arange(8) == n for n, name in enumerate(CHANGES)}
    for name, (low, high) in CHANGES.items():
        new = rng.uniform(low, high, raw[name].shape).astype(np.float32)
        raw[name] = np.where(drawn[name].reshape(-1, *(1,) * (new.ndim - 1)), new, raw[name])
    together = jax.jit(functools.partial(augment, config=config))(raw)
    mesh = make_mesh(devices=jax.devices()[:1])
    alone = jit_augment(config, mesh)(place_raw(raw, mesh))
    neutral_batch = jit_augment(config, mesh)(place_raw(batch_of(size, 8), mesh))
    for i in range(8):
        images = (np.asarray(x["image"])[i] for x in (together, alone, neutral_batch))
        at_once, one, plain = images
        np.testing.assert_allclose(one, at_once, atol=1e-5)
        assert (np.abs(one - plain).max() > 1e-3) == (i < len(CHANGES)), "changed where drawn"
    np.testing.assert_array_equal(alone["mask"], together["mask"])


def test_slices_are_only_placed():
    config = dataclasses.replace(Config(), augment=NOTHING)
    batch = {"image": np.zeros((8, 8, 8, 1), np.float32), "stop": np.zeros(8, np.int32)}
    fed = make_feed(config, make_mesh())(batch)
    assert set(fed) == set(batch)
    np.testing.assert_array_equal(np.asarray(fed["image"]), batch["image"])
