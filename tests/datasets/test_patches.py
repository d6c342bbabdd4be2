"""Patches of volumes: where they lie, what is read, that they depend on seed and step alone."""

import dataclasses
import itertools

import numpy as np
import pytest

from jaxseg.config import Augment, Config, Input, Model, Train
from jaxseg.datasets import patches
from jaxseg.datasets.index import Patient
from jaxseg.imaging import intensity
from jaxseg.transforms import warp
from jaxseg.transforms.augment import augment_one

NOTHING = Augment(**{n: 0.0 for n in vars(Augment()) if n.endswith("_probability")})
STATS = np.array([[0, 5000, 400, 200]], np.float32)
SHAPES = {"a": (10, 12, 14), "b": (6, 20, 9), "c": (9, 9, 9)}
SPACING = {"a": (1.0, 1.0, 1.0), "b": (2.0, 1.0, 1.0), "c": (1.0, 1.0, 1.0)}


class Source:
    """Volumes whose voxels hold their own number; region 1 is a corner, region 2 empty in c."""

    dtype = np.dtype(np.int16)

    def __init__(self):
        self.images = {
            name: np.arange(np.prod(shape), dtype=np.int16).reshape(*shape, 1)
            for name, shape in SHAPES.items()
        }
        self.masks = {name: np.zeros((*shape, 2), np.uint8) for name, shape in SHAPES.items()}
        for name, mask in self.masks.items():
            mask[-3:, -3:, -3:, 0] = 1
            if name != "c":
                mask[4, 5, 6, 1] = 1
        self.read = []

    def box(self, patient, low, high):
        self.read.append((tuple(low), tuple(high)))
        where = tuple(slice(a, b) for a, b in zip(low, high, strict=True))
        assert all(0 <= s.start < s.stop <= n for s, n in zip(where, patient.shape, strict=True))
        name = patient.id
        return {"image": self.images[name][where], "mask": self.masks[name][where], "stats": STATS}

    def foreground(self, patient):
        mask = self.masks[patient.id]
        return [np.argwhere(mask[..., k]).astype(np.int32) for k in range(2)]


class FakePrepared:
    num_channels = 1

    def __init__(self):
        self.made = Source()

    def source(self):
        return self.made


def patient(name):
    empty = {"tumour_pixels": (), "slice_numbers": (), "digests": (), "files": ()}
    return Patient(id=name, first=0, spacing_mm=SPACING[name], shape=SHAPES[name], **empty)


PATIENTS = [patient(name) for name in SHAPES]


def settings(size=(4, 8, 8), spacing=(), augment=NOTHING, share=0.5, **train):
    return Config(
        input=Input(image_size=size, spacing_mm=spacing, tumour_fraction=share, num_threads=0),
        model=Model(widths=(2, 4)),
        augment=augment,
        train=Train(batch_size=2, **train),
    )


def read_patch(source, one, centre, shape, rng, config):
    box, numbers = patches.draw_patch(one, centre, shape, rng, config, 1)
    return patches.read_padded(source, box, shape) | numbers


def raw_batches(config, count, start=0, **part):
    made = patches.patch_batches(FakePrepared(), PATIENTS, config, start, **part)
    return list(itertools.islice(made, count))


def test_without_augmentation_a_patch_is_a_box_of_the_scan():
    config = settings()
    for batch in raw_batches(config, 6):
        for i in range(2):
            one = {name: value[i] for name, value in batch.items()}
            assert one["image"].dtype == np.int16 and one["mask"].dtype == np.uint8
            np.testing.assert_array_equal(one["matrix"][:, :3], np.eye(3))
            sample = augment_one(one, (4, 8, 8), 1.0)
            found = np.asarray(sample["image"])[..., 0]
            assert sample["mask"].shape == (4, 8, 8, 2)
            assert rows_count_up(found)


def rows_count_up(found):
    """Tell whether neighbours in a row, what lies outside left out, differ by one as stored."""
    real = found > found.min()
    steps = np.diff(found, axis=2)[real[:, :, 1:] & real[:, :, :-1]]
    return np.allclose(steps, 1 / STATS[0, 3], atol=1e-4)


@pytest.mark.parametrize("name", SHAPES)
def test_a_share_of_the_patches_has_a_region_in_its_centre(name):
    config, source, rng = settings(share=0.7), Source(), np.random.default_rng(0)
    one, found = patient(name), source.foreground(patient(name))
    size, shape = np.array(config.input.image_size), np.array(SHAPES[name])
    hits = []
    for _ in range(600):
        centre = patches.choose_centre(found, one, rng, config)
        assert (centre >= np.minimum(size, shape) / 2 - 1).all()
        assert (centre <= shape - np.minimum(size, shape) / 2).all()
        low = np.ceil(centre - size / 2)
        inside = [((v >= low) & (v < low + size)).all(1).any() for v in found if len(v)]
        hits.append(any(inside))
    assert np.mean(hits) >= 0.7 - 0.06


def test_regions_are_picked_evenly_among_those_present():
    config, source, rng = settings(size=(2, 2, 2), share=1.0), Source(), np.random.default_rng(1)
    one = patient("a")
    centres = [patches.choose_centre(source.foreground(one), one, rng, config) for _ in range(400)]
    near = [(np.abs(c - [4, 5, 6]) <= 0.5).all() for c in centres]
    small = np.mean(near)  # one voxel against 27
    assert 0.42 < small < 0.58


def test_a_patient_without_any_region_is_sampled_anywhere():
    one, rng = patient("a"), np.random.default_rng(2)
    empty = [np.zeros((0, 3), np.int32)] * 2
    centres = np.array(
        [patches.choose_centre(empty, one, rng, settings(share=1.0)) for _ in range(100)]
    )
    assert np.ptp(centres, axis=0).min() > 2


def test_a_patch_larger_than_the_scan_is_padded_with_its_darkest():
    config = settings(size=(16, 16, 16))
    (batch,) = raw_batches(config, 1)
    for i in range(2):
        one = {name: value[i] for name, value in batch.items()}
        sample = augment_one(one, (16, 16, 16), 2.0)
        outside = intensity.outside_level(STATS)[0]
        image = np.asarray(sample["image"])[..., 0]
        edge = np.concatenate([image[[0, -1]].ravel(), image[:, :, [0, -1]].ravel()])
        assert (edge == outside).mean() > 0.9


def test_what_is_not_read_is_as_dark_as_the_darkest():
    source, one = Source(), patient("c")
    box = source.box
    low = {"stats": np.array([[-7, 5000, 400, 200]], np.float32)}
    source.box = lambda *place: box(*place) | low
    place = patches.Box(one, np.array([-1, 8, 0]), np.array([2, 11, 2]))
    found = patches.read_padded(source, place, (4, 3, 2))
    expected = np.full((4, 3, 2), -7)
    expected[1:3, 0] = source.images["c"][:2, 8, :2, 0]
    np.testing.assert_array_equal(found["image"][..., 0], expected)
    assert found["image"].dtype == np.int16 and not found["mask"].any()


def test_rotations_keep_angles_in_mm_whatever_the_two_spacings():
    """From training voxels to mm and from source voxels to mm: what lies between is a rotation."""
    augment = dataclasses.replace(NOTHING, rotation_probability=1.0, rotation_degrees=40.0)
    config = settings(spacing=(1.0, 1.5, 1.2), augment=augment)
    one, source = patient("b"), Source()  # of 2 x 1 x 1 mm
    shape = patches.source_shape([one], config)
    rng, centre = np.random.default_rng(0), np.array([3.0, 10, 4])
    raw = read_patch(source, one, centre, shape, rng, config)
    in_mm = np.diag(SPACING["b"]) @ raw["matrix"][:, :3] @ np.diag(1 / np.array([1.0, 1.5, 1.2]))
    np.testing.assert_allclose(in_mm @ in_mm.T, np.eye(3), atol=1e-6)
    assert np.abs(in_mm - np.eye(3)).max() > 0.1


def test_masks_of_another_spacing_are_there_from_their_half():
    source, one = Source(), patient("c")
    source.masks["c"][...] = 0
    source.masks["c"][3:7, 3:6, 3:6, 0] = 1  # of voxels three to one: 1 to 2 1/3, and 1
    config = settings(size=(4, 4, 4), spacing=(3.0, 3.0, 3.0))
    _, mask, _ = patches.on_training_grid(source, one, config)
    expected = np.zeros((3, 3, 3))
    expected[1, 1, 1] = 1
    np.testing.assert_array_equal(mask[..., 0], expected)


def test_batches_depend_on_seed_and_step_alone():
    config = settings(augment=Augment())
    whole = raw_batches(config, 6)
    later = raw_batches(config, 3, start=3)
    for one, other in zip(whole[3:], later, strict=True):
        for name in one:
            np.testing.assert_array_equal(one[name], other[name], err_msg=name)
    for start in (0, 3):
        shares = [raw_batches(config, 3, start, process=p, num_processes=2) for p in range(2)]
        for i, batch in enumerate(whole[start : start + 3]):
            for name in batch:
                joined = np.concatenate([shares[0][i][name], shares[1][i][name]])
                np.testing.assert_array_equal(batch[name], joined, err_msg=name)
    other = raw_batches(dataclasses.replace(config, seed=1), 1)[0]
    assert not np.array_equal(whole[0]["image"], other["image"])


def test_a_moved_patch_has_read_all_that_it_needs():
    """Whatever lies within the scan and is reached by the map was read, at the right place."""
    augment = Augment(rotation_probability=1.0, scale_probability=1.0, rotation_degrees=40.0)
    elastic = {"elastic_smoothness": 0.5, "elastic_amplitude": 0.125}  # up to 0.75 voxels
    augment = dataclasses.replace(augment, elastic_probability=1.0, **elastic)
    config = settings(size=(4, 6, 6), augment=augment)
    source, shape = Source(), patches.source_shape(PATIENTS, config)
    rng = np.random.default_rng(3)
    corners = np.array(list(itertools.product(range(4), range(6), range(6))))
    for _ in range(60):
        one = PATIENTS[int(rng.integers(3))]
        centre = patches.choose_centre(source.foreground(one), one, rng, config)
        raw = read_patch(source, one, centre, shape, rng, config)
        value = raw["image"][..., 0]
        known = np.argwhere(value > 0)  # voxel 0 looks like what is outside
        native = np.stack(np.unravel_index(value[tuple(known.T)], one.shape), axis=-1)
        low = (native - known)[0]
        assert ((native - known) == low).all()
        moved = warp.displace(raw["nodes"], (4, 6, 6), 3.0)
        moved = corners + np.asarray(moved).reshape(-1, 3)
        places = moved @ raw["matrix"][:, :3].T + raw["matrix"][:, 3]
        for need in np.unique([*np.floor(places), *np.ceil(places)], axis=0).astype(int):
            inside = ((need + low >= 0) & (need + low < one.shape)).all()
            if inside and (need + low).any():
                assert (need >= 0).all() and (need < shape).all()
                assert value[tuple(need)] == np.ravel_multi_index(need + low, one.shape)


def every_voxel(config):
    counted = {name: np.zeros(SHAPES[name]) for name in SHAPES}
    for batch in patches.evaluation_patches(FakePrepared(), PATIENTS, config):
        for i, index in enumerate(batch["patient"]):
            yield batch, i, PATIENTS[index], counted


def test_evaluation_counts_every_voxel_once():
    config, source = settings(), Source()
    truth = {name: source.masks[name].sum((0, 1, 2)) for name in SHAPES}
    voxels, tumour = dict.fromkeys(SHAPES, 0), {name: np.zeros(2) for name in SHAPES}
    for batch, i, one, _ in every_voxel(config):
        weight = batch["weight"][i]
        voxels[one.id] += weight.sum()
        tumour[one.id] += (batch["mask"][i] * weight[..., None]).sum((0, 1, 2))
        assert batch["image"].dtype == np.float32
    assert voxels == {name: np.prod(shape) for name, shape in SHAPES.items()}
    for name in SHAPES:
        np.testing.assert_array_equal(tumour[name], truth[name])


def test_evaluation_shares_between_processes():
    config = dataclasses.replace(
        settings(), evaluation=dataclasses.replace(Config().evaluation, batch_size=2)
    )
    whole = list(patches.evaluation_patches(FakePrepared(), PATIENTS, config))
    parts = [
        list(patches.evaluation_patches(FakePrepared(), PATIENTS, config, p, 2)) for p in range(2)
    ]
    assert len(parts[0]) == len(parts[1]) == len(whole)
    assert sum(b["weight"].sum() for p in parts for b in p) == sum(b["weight"].sum() for b in whole)


def test_another_spacing_samples_the_same_places():
    """With a training grid of 2 mm a patch shows twice the field, evaluation an eighth."""
    config = settings(size=(4, 4, 4), spacing=(2.0, 2.0, 2.0))
    one = patient("a")
    np.testing.assert_array_equal(patches.native_per_training(one, config), [2, 2, 2])
    assert patches.grid_shape(one, config) == (5, 6, 7)
    np.testing.assert_array_equal(patches.native_per_training(patient("b"), config), [1, 2, 2])
    image, mask, outside = patches.on_training_grid(Source(), one, config)
    assert image.shape == (5, 6, 7, 1) and mask.shape == (5, 6, 7, 2)
    assert outside == pytest.approx(intensity.outside_level(STATS))
    voxels = sum(batch["weight"][i].sum() for batch, i, p, _ in every_voxel(config) if p.id == "a")
    assert voxels == 5 * 6 * 7
    rng = np.random.default_rng(0)
    shape = patches.source_shape(PATIENTS, config)
    raw = read_patch(Source(), one, np.array([4.5, 5.5, 6.5]), shape, rng, config)
    sample = np.asarray(augment_one(raw, (4, 4, 4), 0.5)["image"])[..., 0]
    np.testing.assert_allclose(sample, image[..., 0][0:4, 1:5, 1:5], atol=0.9)
