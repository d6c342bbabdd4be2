"""Slices changed on the device are those that the host makes of the same numbers.

With OpenCV 5; OpenCV 4 places samples at multiples of 1/32 pixel.
"""

import dataclasses
import itertools
from functools import partial

import jax
import numpy as np
import pytest

from jaxseg.config import STRONG_AUGMENT, Augment, Config, Input, Model, Train
from jaxseg.datasets import raw_slices
from jaxseg.datasets.index import Patient
from jaxseg.datasets.samples import training_batches
from jaxseg.machine.sharding import make_mesh
from jaxseg.transforms.augment import augment as change
from jaxseg.transforms.augment import jit_augment, on_device, place_raw

NAMES = [n.removesuffix("_probability") for n in vars(Augment()) if n.endswith("_probability")]
SIZES = {"a": (96, 80), "b": (64, 64), "c": (80, 96)}


def only(*names, **settings):
    chances = {f"{n}_probability": float(n in names) for n in NAMES}
    return Augment(**chances, **settings)


class Source:
    """Smooth slices of three patients of different size, with a round tumour."""

    def __init__(self, dtype, sizes, channels):
        rng = np.random.default_rng(0)
        self.records, self.dtype = {}, np.dtype(dtype)
        for name, size in sizes.items():
            y, x = np.indices(size)
            waves = [np.sin(x / 9 + c) + np.cos(y / 7 - c) for c in range(channels)]
            head = ((y / size[0] - 0.5) ** 2 + (x / size[1] - 0.5) ** 2 < 0.2)[..., None]
            image = (100 + 40 * np.stack(waves, -1)) * head
            tumour = (y / size[0] - 0.4) ** 2 + (x / size[1] - 0.55) ** 2 < 0.02
            self.records[name] = {
                "image": image.astype(dtype),
                "mask": np.stack([tumour, tumour & (x > 0.5 * size[1])], -1).astype(np.uint8),
                "stats": rng.uniform((3, 150, 90, 30), (9, 170, 99, 40), (channels, 4)).astype(
                    np.float32
                ),
                "head_box": np.array([2, 3, size[0] - 4, size[1] - 6], np.int32),
            }

    def run(self, patient, first, depth):
        return [self.records[patient.id]] * depth


class FakePrepared:
    def __init__(self, dtype=np.uint8, sizes=SIZES, channels=3):
        self.num_channels, self.made = channels, Source(dtype, sizes, channels)

    def source(self):
        return self.made


def patients(sizes=SIZES):
    common = {"digests": (), "files": (), "slice_numbers": (0, 1)}
    return [
        Patient(id=n, first=2 * i, tumour_pixels=(9, 9), shape=(2, *size), **common)
        for i, (n, size) in enumerate(sizes.items())
    ]


def both(augment, count=3, size=(64, 64), crop=False, prepared=None, sizes=SIZES):
    """Return some batches as the host makes them and as the device does, in either way."""
    config = Config(
        input=Input(image_size=size, crop_to_head=crop, num_threads=0, augment_on="device"),
        model=Model(widths=(4, 8)),
        augment=augment,
        train=Train(batch_size=4),
    )
    prepared = prepared or FakePrepared()
    host, raw = (
        itertools.islice(training_batches(prepared, patients(sizes), config, 0, raw=raw), count)
        for raw in (False, True)
    )
    mesh = make_mesh(devices=jax.devices()[:1])
    program, together = jit_augment(config, mesh), jax.jit(partial(change, config=config))
    stop, device = {"stop": np.zeros(4, np.int32)}, []
    for batch in raw:
        placed = place_raw(batch | stop, mesh)
        device.append(jax.tree.map(np.asarray, program(placed)))
        # As on a GPU: no other numbers than those of one after the other, as on a CPU.
        at_once = jax.tree.map(np.asarray, together(placed))
        np.testing.assert_allclose(at_once["image"], device[-1]["image"], atol=2e-4)
        assert (at_once["mask"] != device[-1]["mask"]).mean() < 1e-4
    return list(host), device


def assert_alike(host, device):
    """Equal up to rounding: 1e-3 standard deviations, but for one pixel of a mask in 1,000."""
    for one, other in zip(host, device, strict=True):
        assert one["image"].dtype == other["image"].dtype == np.float32
        assert one["mask"].dtype == other["mask"].dtype == np.uint8
        np.testing.assert_allclose(other["image"], one["image"], atol=1e-3)
        assert (one["mask"] != other["mask"]).mean() < 1e-3  # ties of the nearest pixel
    assert any(one["mask"].any() for one in host)


@pytest.mark.parametrize("name", [n for n in NAMES if n != "noise"])
def test_each_change_alone(name):
    host, device = both(only(name))
    assert_alike(host, device)
    plain, _ = both(only())
    assert any(not np.array_equal(a["image"], b["image"]) for a, b in zip(host, plain, strict=True))


def test_no_change_at_all():
    assert_alike(*both(only()))


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32])
@pytest.mark.parametrize("crop", [False, True])
def test_everything_together(dtype, crop):
    names = [n for n in NAMES if n != "noise"]
    config = only(*names, rotation_degrees=30.0)
    assert_alike(*both(config, crop=crop, prepared=FakePrepared(dtype)))


@pytest.mark.parametrize("channels", [1, 4])
def test_any_number_of_channels(channels):
    quiet = dataclasses.replace(STRONG_AUGMENT, noise_probability=0.0)
    assert_alike(*both(quiet, prepared=FakePrepared(channels=channels)))


@pytest.mark.parametrize("size", [(16, 24), (32, 32)])
def test_a_slice_to_be_shrunk_is_averaged_first(size):
    names = ("flip", "rotation", "scale", "translation")
    host, device = both(only(*names, scale_range=(0.6, 1.5)), size=size)
    assert_alike(host, device)


def test_beyond_a_float_scan_of_negative_values_lies_its_zero():
    """Intensity 0 lies outside of a slice, whatever the darkest is."""
    prepared = FakePrepared(np.float32)
    for record in prepared.made.records.values():
        record["image"] -= 90
        record["stats"][:, :3] -= 90
    assert_alike(*both(only("translation", translation_fraction=0.3), prepared=prepared))


def test_noise_has_the_spread_of_the_hosts():
    (host,), (device,) = both(only("noise", noise_std=0.5), count=1)
    (plain,), _ = both(only(), count=1)
    for i in range(4):
        ours, theirs = ((b["image"][i] - plain["image"][i]).std() for b in (device, host))
        assert ours == pytest.approx(theirs, rel=0.1) and theirs > 0.01
    assert np.array_equal(host["mask"], device["mask"])


def test_any_number_of_processes_makes_the_same_batches():
    config = Config(
        input=Input(image_size=(32, 32), num_threads=0),
        model=Model(widths=(4, 8)),
        train=Train(batch_size=4),
    )

    def batches(process, processes, start=0):
        part = training_batches(FakePrepared(), patients(), config, start, process, processes, True)
        return list(itertools.islice(part, 3))

    whole, halves = batches(0, 1), [batches(p, 2) for p in range(2)]
    later = batches(0, 1, start=1)
    for step in range(3):
        for name, values in whole[step].items():
            joined = np.concatenate([half[step][name] for half in halves])
            np.testing.assert_array_equal(joined, values)
            if step:
                np.testing.assert_array_equal(later[step - 1][name], values)


def test_raw_batches_hold_the_integers_of_the_file():
    config = Config(input=Input(image_size=(32, 32), num_threads=0), model=Model(widths=(4, 8)))
    (batch,) = itertools.islice(
        training_batches(FakePrepared(), patients(), config, 0, raw=True), 1
    )
    assert batch["image"].dtype == np.uint8 and batch["image"].shape[1:] == (96, 96, 3)
    others = sum(v.nbytes for n, v in batch.items() if n not in ("image", "mask"))
    assert others < 0.1 * batch["image"].nbytes


def test_patients_of_several_integer_types_keep_their_values():
    source = FakePrepared(np.int16).source()
    narrow, *wide = (source.records[p.id] for p in patients())
    narrow["image"] = narrow["image"].astype(np.uint8)
    for record in wide:
        record["image"] += 1000
    wanted = [(p, 0, 1) for p in patients()]
    batch = raw_slices.read_slices(source, wanted, (96, 96), Config())
    assert batch["image"].dtype == np.int16
    for record, image in zip((narrow, *wide), batch["image"], strict=True):
        height, width = record["image"].shape[:2]
        np.testing.assert_array_equal(image[:height, :width], record["image"])
        assert not image[height:].any() and not image[:, width:].any()


def test_who_changes_the_slices(monkeypatch):
    def config(where, **augment):
        return Config(input=Input(augment_on=where), augment=Augment(**augment))

    assert not on_device(config("auto")) and on_device(config("device"))
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    assert on_device(config("auto")) and not on_device(config("host"))
    assert not on_device(config("auto", cubic=True))
