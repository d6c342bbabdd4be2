"""Tuning: what is found on volumes made for it, what is not taken for a gain, never the test."""

import contextlib
import dataclasses
import json

import jax.numpy as jnp
import numpy as np
import pytest
from fake_config import tiny_config
from scipy.special import expit

from jaxseg import train
from jaxseg.config import Input, Split
from jaxseg.datasets import prepared as prepared_module
from jaxseg.datasets.prepare import prepare
from jaxseg.datasets.splits import split_patients
from jaxseg.evaluation import tuning
from jaxseg.machine import distributed
from jaxseg.machine.sharding import make_mesh
from jaxseg.prediction import inference, operating, trained
from jaxseg.prediction.operating import OperatingPoint, segment, segment_regions
from jaxseg.prediction.predictor import Predictor
from jaxseg.prediction.trained import Trained
from jaxseg.scans.regions import Region

RING, CORE, NOTHING = 1.0, 2.5, -6.0  # logits


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    config = tiny_config(tmp_path_factory.mktemp("cache"))
    native = Input(image_size=(128, 128), num_threads=1)  # the phantom's own grid
    return dataclasses.replace(config, input=native)


@pytest.fixture(scope="module")
def prepared(config):
    return prepare(config.dataset)


@pytest.fixture
def network(monkeypatch, config):
    """A network sure of the tumour, less so of a ring around it, and of a speck in a corner."""
    loader = inference.evaluation_batches

    def batches(*args, **options):
        for batch in loader(*args, **options):
            core = batch["mask"] > 0
            near = core.copy()
            for axis in (1, 2):
                near |= np.roll(near, 1, axis) | np.roll(near, -1, axis)
            image = np.where(core, CORE, np.where(near, RING, NOTHING)).astype(np.float32)
            image[:, 0, 0] = CORE
            yield batch | {"image": image}

    monkeypatch.setattr(inference, "evaluation_batches", batches)
    monkeypatch.setattr(tuning, "evaluation_batches", batches)

    def predict(weights, image, temperatures):
        return 1 / (1 + jnp.exp(-image / temperatures[0]))

    logits = lambda weights, image: image  # noqa: E731
    return Predictor(predict, logits, None, (1.0,), config, make_mesh(), 8)


def tune(network, prepared) -> tuple[OperatingPoint, dict]:
    """Return the operating point of all patients, and how it was chosen."""
    run = Trained(None, network.config, 3, ("tumour",), 1, None, (OperatingPoint(),))
    (how,) = tuning.tune(run, network, prepared, prepared.patients)
    return OperatingPoint(**how["point"]), how


def test_the_point_that_makes_the_masks_right_is_found(network, prepared, tmp_path):
    """The ring is shut out by the threshold, the speck (one voxel a slice) by its size."""
    point, how = tune(network, prepared)
    t = point.temperature
    assert expit(RING / t) < point.threshold <= expit(CORE / t)
    slices = max(p.num_slices for p in prepared.patients)
    sizes = tuning.MIN_LESIONS
    assert point.min_lesion == next(s for s in sizes if s > slices) and point.unit == "voxels"
    assert how["validation_dice"]["tuned"] == 1.0
    assert how["validation_dice"]["untuned"] < 0.97
    # All cores are tumour and all the rest is none: more certainty, less error.
    before, after = (how["calibration"][name] for name in ("before", "after"))
    name = "expected_calibration_error"
    assert t != 1 and after[name] < before[name]
    calibrated = network._replace(temperatures=(t,))
    (case,) = inference.predict_patients(calibrated, prepared, prepared.patients[:1])
    assert (segment(case.probability[..., 0], point) == case.truth[..., 0]).all()
    operating.write(tmp_path, ["tumour"], [how])
    assert operating.read(tmp_path, network.config, ["tumour"]) == (point,)


def test_in_mm3_where_the_spacing_is_known(network):
    dataset = dataclasses.replace(network.config.dataset, spacing_mm=(5.0, 2.0, 2.0))
    prepared = prepare(dataset)
    point, _ = tune(network, prepared)
    slices = max(p.num_slices for p in prepared.patients)
    assert point.unit == "mm3"
    assert point.min_lesion == next(s for s in tuning.MIN_LESIONS if s > 20 * slices)


def test_the_table_holds_what_the_masks_score():
    rng = np.random.default_rng(0)
    truth = np.zeros((4, 20, 20), bool)
    truth[1:3, 5:12, 5:12] = True
    probability = np.clip(0.5 * truth + 0.6 * rng.random(truth.shape), 0, 1).astype(np.float32)
    thresholds = (0.3, 0.55, 0.99)
    table = tuning.dice_table(probability, truth, thresholds, voxel=2.0)
    for row, threshold in zip(table, thresholds, strict=True):
        for found, size in zip(row, tuning.MIN_LESIONS, strict=True):
            mask = segment(probability, OperatingPoint(threshold, size, "mm3"), (2.0, 1.0, 1.0))
            both, total = (mask & truth).sum(), mask.sum() + truth.sum()
            assert found == pytest.approx(2 * both / total)
    nothing = np.zeros_like(probability)
    assert tuning.dice_table(nothing, truth, (0.5,), 1.0) == [[0.0] * len(tuning.MIN_LESIONS)]
    assert tuning.dice_table(nothing, truth & False, (0.5,), 1.0)[0][0] == 1.0


def test_a_region_is_tuned_without_the_cut_by_the_region_around_it():
    """The same Dice where it lies inside; else that before the cut, as the file says."""
    regions = Region("whole", (1, 2)), Region("core", (2,))
    truth = np.zeros((4, 12, 12), bool)
    truth[1:3, 4:9, 4:9] = True
    whole = np.where(truth, 0.9, 0.1).astype(np.float32)
    nested, beyond = whole * np.float32(0.8), whole.copy()
    beyond[1:3, 4:9, 9] = 0.7  # a row beside the whole
    points = OperatingPoint(0.5), OperatingPoint(0.6)
    for core, is_cut in ((nested, False), (beyond, True)):
        masks = segment_regions(np.stack([whole, core], -1), points, regions)
        found = tuning.dice_table(core, truth, (0.6,), 1.0)[0][0]
        scored = 2 * (masks[..., 1] & truth).sum() / (masks[..., 1].sum() + truth.sum())
        assert scored == 1 and found == pytest.approx(2 * 50 / 110 if is_cut else 1)
    assert "cut off what sticks out" in tuning.about_nesting(regions)["nesting"]
    assert tuning.about_nesting((Region("a", (1,)), Region("b", (2,)))) == {}
    assert tuning.about_nesting(regions[:1]) == {}


def dice(*patients):
    return np.array(patients, np.float64)


@pytest.mark.parametrize(
    "table, chosen",
    [
        (dice([0.5, 0.7], [0.6, 0.8], [0.7, 0.9]), 1),  # better for everyone
        (dice([0.5, 0.9], [0.6, 0.6], [0.7, 0.7]), 0),  # for one patient alone: luck
        (dice([0.5, 0.7], [0.6, 0.8]), 0),  # two patients show nothing
        (dice([0.5, 0.5005], [0.6, 0.6005], [0.7, 0.7005]), 0),  # not worth a rule
        (dice([0.9, 0.8], [0.9, 0.7], [0.9, 0.8]), 0),
        # Each has another favourite: what is best for the others is not for the one left out.
        (dice([0.7, 0.9, 0.6, 0.6], [0.7, 0.6, 0.9, 0.6], [0.7, 0.6, 0.6, 0.9]), 0),
        (dice([0.7, 0.8, 0.9], [0.7, 0.8, 0.9], [0.7, 0.8, 0.89]), 2),
    ],
)
def test_only_a_gain_beyond_luck_is_taken(table, chosen):
    assert tuning.choose(table, simplest=0) == chosen


def test_noise_is_seldom_taken_for_a_gain():
    """Five patients, 19 options alike but for noise: the plain best would win nearly always."""
    rng = np.random.default_rng(0)
    tables = [0.8 + 0.02 * rng.normal(size=(5, 19)) for _ in range(500)]
    fooled = np.mean([tuning.choose(t, simplest=9) != 9 for t in tables])
    assert fooled < 0.1
    assert np.mean([np.argmax(t.mean(0)) != 9 for t in tables]) > 0.9


def test_shares_come_back_in_order(monkeypatch):
    assert distributed.gather_shares(["a", "b"]) == ["a", "b"]
    monkeypatch.setattr(distributed, "gather", lambda mine: [["a", "c"], ["b"]])
    assert distributed.gather_shares([]) == ["a", "b", "c"]


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    split = Split(
        train=("phantom_000", "phantom_001"),
        validation=("phantom_002", "phantom_003", "phantom_004"),
        test=("phantom_005",),
    )
    config = tiny_config(tmp_path_factory.mktemp("cache"), split=split)
    return dataclasses.replace(config, train=dataclasses.replace(config.train, num_steps=2))


def test_killed_before_tuning_it_tunes_at_the_next_start(tiny, tmp_path, monkeypatch):
    points = []  # that the test patients are scored with
    monkeypatch.setattr(train, "evaluate", lambda *args: points.extend(args[0][0].trained.points))

    def run_to_the_end():
        with contextlib.ExitStack() as stack:
            train.train_and_test(tiny, tmp_path, stack)

    def killed(*_, **__):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(operating, "write", killed)
        with pytest.raises(KeyboardInterrupt):
            run_to_the_end()
    assert not points and not (tmp_path / "operating_point.json").exists()
    run_to_the_end()
    found = json.loads((tmp_path / "operating_point.json").read_text())
    assert found["patients"] == list(tiny.split.validation)
    assert [p._asdict() for p in points] == [found["point"]]
    assert found["point"]["temperature"] != 1
    assert trained.load(tmp_path).points[0].temperature == found["point"]["temperature"]


def bright_logits(weights, image):
    """A network that takes what is bright for tumour."""
    return image[..., :1]


def brightness(weights, image, temperatures):
    return 1 / (1 + jnp.exp(-image[..., :1] / temperatures[0]))


def bright(config, run, step=1) -> tuple[Trained, Predictor]:
    """Return a run of that network, and what predicts with it."""
    found = Trained(run, config, 3, ("tumour",), step, None, (OperatingPoint(),))
    return found, Predictor(brightness, bright_logits, None, (1.0,), config, make_mesh(), 8)


@pytest.fixture
def validation(tiny):
    """The prepared data and its validation patients."""
    prepared = prepare(tiny.dataset)
    return prepared, split_patients(prepared.patients, tiny.split)["validation"]


def test_no_other_patient_is_read_for_tuning(tiny, validation, tmp_path, monkeypatch):
    allowed = {i for p in validation[1] for i in range(p.first, p.first + p.num_slices)}
    read, original = set(), prepared_module.Records.__getitem__

    def watched(self, index):
        read.add(index)
        return original(self, index)

    monkeypatch.setattr(prepared_module.Records, "__getitem__", watched)
    tuning.tuned(*bright(tiny, tmp_path), *validation)
    assert read == allowed


def test_a_point_is_kept_unless_the_weights_are_others(tiny, validation, tmp_path):
    (first,) = tuning.tuned(*bright(tiny, tmp_path), *validation).points
    kept = OperatingPoint(threshold=0.9)
    operating.write(tmp_path, ["tumour"], [{"point": kept._asdict()}], step=1)
    assert tuning.tuned(*bright(tiny, tmp_path), *validation).points == (kept,)
    assert tuning.tuned(*bright(tiny, tmp_path, step=2), *validation).points == (first,) != (kept,)


def test_without_tuning_the_threshold_of_the_config_stands(tiny, validation, tmp_path):
    evaluation = dataclasses.replace(tiny.evaluation, tune=False, threshold=0.4)
    config = dataclasses.replace(tiny, evaluation=evaluation)
    (point,) = tuning.tuned(*bright(config, tmp_path), *validation).points
    assert point == OperatingPoint(threshold=0.4)
    assert not (tmp_path / "operating_point.json").exists()
