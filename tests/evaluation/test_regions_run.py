"""Three nested regions from the data set to the scorecard, the operating point and the masks."""

import contextlib
import csv
import dataclasses
import json

import numpy as np
import pytest
from fake_config import tiny_config
from fake_volumes import write_nifti

from jaxseg import predict, train
from jaxseg.config import Model, Split, Train
from jaxseg.datasets import phantom
from jaxseg.datasets.prepare import prepare
from jaxseg.errors import UserError
from jaxseg.evaluation.comparison import read_scores
from jaxseg.layouts.kinds import PHANTOM, PHANTOM_REGIONS
from jaxseg.prediction import trained
from jaxseg.prediction.inference import predict_patients
from jaxseg.prediction.operating import segment_regions
from jaxseg.scans.regions import to_labels, to_masks
from jaxseg.scoring.patient_score import score_patient
from jaxseg.shipping.make import check_one_region

NAMES = ("whole_tumour", "tumour_core", "enhancing_tumour")


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    split = Split(
        train=("phantom_000", "phantom_001"),
        validation=("phantom_002", "phantom_003", "phantom_004"),
        test=("phantom_005", "phantom_006"),
    )
    config = tiny_config(tmp_path_factory.mktemp("cache"), split=split)
    dataset = dataclasses.replace(config.dataset, name="brain_phantom_regions", phantom_patients=7)
    return dataclasses.replace(
        config,
        dataset=dataset,
        model=Model(widths=(4, 8), num_classes=3),
        train=Train(num_steps=4, batch_size=8, eval_every_steps=2, log_every_steps=2),
    )


@pytest.fixture(scope="module")
def run(config, tmp_path_factory):
    """Trained, tuned and tested by the program."""
    folder = tmp_path_factory.mktemp("run") / "r"
    with contextlib.ExitStack() as stack:
        train.train_and_test(config, folder, stack)
    return folder


def test_the_phantom_paints_nested_regions(config):
    prepared = prepare(config.dataset)
    assert prepared.regions == PHANTOM_REGIONS.region_names == NAMES
    with_rim = 0
    for i, patient in enumerate(prepared.patients):
        _, labels = phantom.generate_patient(0, i)
        mask = prepared.volume(patient).mask
        np.testing.assert_array_equal(mask, to_masks(labels, PHANTOM_REGIONS.regions))
        whole, core, rim = np.moveaxis(mask, -1, 0)
        assert (core <= whole).all() and (rim <= core).all() and core.any()
        assert patient.tumour_pixels == tuple(whole.sum((1, 2)))
        with_rim += rim.any()
    assert 0 < with_rim < len(prepared.patients)  # some do not enhance
    # The whole tumour is the one region of the plain phantom, and the images are the same.
    plain = prepare(dataclasses.replace(config.dataset, name=PHANTOM.name))
    first = plain.volume(plain.patients[3])
    np.testing.assert_array_equal(
        first.mask[..., 0], prepared.volume(prepared.patients[3]).mask[..., 0]
    )
    np.testing.assert_array_equal(first.image, prepared.volume(prepared.patients[3]).image)


def test_every_region_is_scored_by_its_own_name(run, config):
    summary = json.loads((run / "evaluation/test/scores.json").read_text())
    assert summary["region"] == NAMES[0] and tuple(summary["regions"]) == NAMES
    with (run / "evaluation/test/patients.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [(r["patient"], r["region"]) for r in rows] == [
        (p, name) for p in ("phantom_005", "phantom_006") for name in NAMES
    ]
    loaded, prepared = trained.load(run), prepare(config.dataset)
    assert loaded.regions == NAMES and len(loaded.points) == 3
    cases = predict_patients(trained.predictor(loaded), prepared, prepared.patients[5:])
    found = {}
    for case in cases:
        masks = segment_regions(case.probability, loaded.points, loaded.kind.regions)
        for k, name in enumerate(NAMES):
            score = score_patient(case.patient.id, masks[..., k], case.truth[..., k])
            found.setdefault(name, []).append(score.dice)
    for name in NAMES:
        part = summary["regions"][name]
        assert part["patients"]["dice"]["mean"] == pytest.approx(np.mean(found[name]))
        assert "best_threshold" in part["baselines"] and part["operating_point"]["tuned"]
        assert read_scores(run, name).summary["patients"] == part["patients"]
    assert summary["patients"] == summary["regions"][NAMES[0]]["patients"]
    with pytest.raises(UserError, match="no region tumour; it has whole_tumour, "):
        read_scores(run, "tumour")
    report = (run / "evaluation/test/report.html").read_text()
    assert all(f"Scores per patient, {name}" in report for name in NAMES)


def test_operating_points_and_baselines_are_kept_for_each_region(run):
    for name in ("operating_point.json", "baseline.json"):
        kept = json.loads((run / name).read_text())
        assert tuple(kept["regions"]) == NAMES
        assert kept["regions"][NAMES[0]].items() <= kept.items()  # the first stands on top, too
    assert json.loads((run / "data.json").read_text())["regions"] == list(NAMES)


def test_predicted_masks_have_the_labels_of_the_data_set(run, tmp_path, monkeypatch):
    nibabel = pytest.importorskip("nibabel")
    monkeypatch.setattr(predict, "start_computing", lambda: None)
    image, _ = phantom.generate_patient(0, 5)
    scan = write_nifti(
        tmp_path / "scan.nii.gz", image.transpose(2, 1, 0, 3), np.diag([-2, -2, 4, 1.0])
    )
    out = ["--output", str(tmp_path / "out"), "--probabilities"]
    predict.main(["--workdir", str(run), *out, str(scan)])
    folder = tmp_path / "out/scan"
    probability = np.stack(
        [nibabel.load(folder / f"probability_{n}.nii.gz").get_fdata() for n in NAMES], axis=-1
    )
    points, regions = trained.load(run).points, PHANTOM_REGIONS.regions
    masks = segment_regions(probability.astype(np.float32), points, regions)
    labels = np.asanyarray(nibabel.load(folder / "mask.nii.gz").dataobj)
    np.testing.assert_array_equal(labels, to_labels(masks, regions))
    np.testing.assert_array_equal(masks, to_masks(labels, regions))
    assert labels.dtype == np.uint8 and set(np.unique(labels)) <= {0, 1, 2, 4}


def test_what_does_not_fit_is_said(run, config, tmp_path):
    one = dataclasses.replace(config, model=Model(widths=(4, 8)))
    with contextlib.ExitStack() as stack, pytest.raises(UserError, match="has 3 regions"):
        train.train_and_test(one, tmp_path / "other", stack)
    with pytest.raises(UserError, match="only those of one region can be exported yet"):
        check_one_region(trained.load(run))
