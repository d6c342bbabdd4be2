"""Raw patches to samples: neutral numbers, known movements, any rank, any mesh."""

import dataclasses

import jax
import numpy as np
import pytest

from jaxseg.config import Augment, Config, Input, Model
from jaxseg.config import Mesh as MeshConfig
from jaxseg.imaging import draws, intensity
from jaxseg.machine.sharding import make_mesh
from jaxseg.transforms.augment import augment_one, make_feed

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
        "matrix": np.eye(rank, rank + 1, dtype=np.float32),
        "nodes": elastic,
    } | draws.draw_intensity(rng, size, (1.0,) * rank, 2, NOTHING)


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
    linear = draws.draw_movement(rng, SPACING, config)
    offset = 11.5 - linear @ np.full(3, 11.5)
    raw["matrix"] = np.hstack([linear, offset[:, None]]).astype(np.float32)
    found = applied(raw)
    assert found["mask"].sum() > 100
    np.testing.assert_array_equal(found["mask"][..., 0] > 0, found["image"][..., 0] >= -1e-5)


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


def test_slices_are_only_placed():
    config = dataclasses.replace(Config(), augment=NOTHING)
    batch = {"image": np.zeros((8, 8, 8, 1), np.float32), "stop": np.zeros(8, np.int32)}
    fed = make_feed(config, make_mesh())(batch)
    assert set(fed) == set(batch)
    np.testing.assert_array_equal(np.asarray(fed["image"]), batch["image"])
