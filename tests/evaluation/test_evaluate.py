"""Evaluation: native grid, every slice in its patient, external sources, the files it writes."""

import csv
import dataclasses
import json
import os
import subprocess
import sys
from pathlib import Path

import cv2
import jax.numpy as jnp
import numpy as np
import pytest
from fake_config import tiny_config
from fake_data import write_folders

from jaxseg import evaluate
from jaxseg.config import Input, command_line
from jaxseg.datasets.prepare import prepare
from jaxseg.evaluation import score
from jaxseg.evaluation.parts import Part
from jaxseg.machine.files import write_json
from jaxseg.machine.sharding import make_mesh
from jaxseg.prediction import inference, predictor
from jaxseg.prediction.operating import OperatingPoint
from jaxseg.prediction.predictor import Predictor
from jaxseg.prediction.trained import Trained
from jaxseg.scans.regions import TUMOUR
from jaxseg.scoring import baselines
from jaxseg.training.state import best_weights, new_state

BASELINE = baselines.ThresholdBaseline(channel=1, threshold=1.0, train_dice=0.2)


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    return tiny_config(tmp_path_factory.mktemp("cache"))


@pytest.fixture(scope="module")
def prepared(config):
    return prepare(config.dataset)


def with_size(config, size, crop=False):
    loader = Input(image_size=(size, size), num_threads=1, crop_to_head=crop)
    return dataclasses.replace(config, input=loader)


@pytest.fixture
def oracle(monkeypatch):
    """Make the loader put the truth into the images, for a 'network' that returns its input."""
    loader = inference.evaluation_batches

    def batches(*args, **options):
        for batch in loader(*args, **options):
            yield batch | {"image": batch["mask"].astype(np.float32)}

    monkeypatch.setattr(inference, "evaluation_batches", batches)
    return lambda weights, image, temperature: image


def test_devices_predict_the_next_batch_while_a_patient_is_scored(oracle, config, prepared):
    asked = 0

    def predict(*args):
        nonlocal asked
        asked += 1
        return oracle(*args)

    model = Predictor(predict, None, None, (1.0,), config, make_mesh(), 8)
    slices, num_slices = 0, sum(p.num_slices for p in prepared.patients)
    for case in inference.predict_patients(model, prepared, prepared.patients):
        slices += case.patient.num_slices
        needed, total = (-(-n // config.evaluation.batch_size) for n in (slices, num_slices))
        assert asked == min(needed + 1, total)


def oracle_scores(oracle, config, prepared):
    model = Predictor(oracle, None, None, (1.0,), config, make_mesh(), 8)
    cases = inference.predict_patients(model, prepared, prepared.patients)
    ours, trivial = score.score_cases(cases, TUMOUR, [OperatingPoint()], [BASELINE])
    return [s for (s,) in ours], [s for (s,) in trivial]


def test_the_truth_predicted_on_the_native_grid_scores_one(oracle, config, prepared):
    scores, _ = oracle_scores(oracle, with_size(config, 128), prepared)
    assert [s.patient for s in scores] == [p.id for p in prepared.patients]
    assert [s.dice for s in scores] == [1.0] * 6
    assert [s.truth_voxels for s in scores] == [sum(p.tumour_pixels) for p in prepared.patients]
    assert [s.num_slices for s in scores] == [p.num_slices for p in prepared.patients]


@pytest.mark.parametrize("crop", [False, True])
def test_scores_are_on_the_native_grid_whatever_the_training_grid(oracle, config, prepared, crop):
    scores, _ = oracle_scores(oracle, with_size(config, 64, crop), prepared)
    # The truth passed through the coarser grid loses some of its outline, and no more.
    assert all(0.85 < s.dice < 1 for s in scores), scores
    assert [s.truth_voxels for s in scores] == [sum(p.tumour_pixels) for p in prepared.patients]


def test_a_volume_is_predicted_like_the_patient_of_the_data_set(config, prepared):
    """Also one with more slices than a batch: padded, one program, in order."""
    config = with_size(config, 64)
    mesh = make_mesh()
    model = predictor.make_predictor(
        config, best_weights(new_state(config, 3, mesh)), (1.5,), mesh=mesh
    )
    before = model.logits._cache_size()  # other tests share it
    cases = inference.predict_patients(model, prepared, prepared.patients[:2])
    for patient, case in zip(prepared.patients, cases, strict=False):
        volume = prepared.volume(patient)
        assert len(volume.image) % 8 and len(volume.image) > 8
        predicted = inference.predict_volume(model, volume)
        assert predicted.dtype == np.float32 and predicted.std() > 1e-3
        np.testing.assert_allclose(predicted, case.probability, atol=1e-6)
    assert model.logits._cache_size() - before <= 1


def test_the_baseline_is_scored_on_the_same_patients(oracle, config, prepared):
    _, trivial = oracle_scores(oracle, with_size(config, 64), prepared)
    patient, source = prepared.patients[0], prepared.source()
    predicted = true = both = 0
    for i in range(patient.num_slices):
        record = source[i]
        low, high, mean, std = record["stats"][1]
        flair = (np.clip(record["image"][..., 1].astype(np.float32), low, high) - mean) / std
        prediction, truth = flair >= 1.0, record["mask"][..., 0] > 0
        predicted, true = predicted + prediction.sum(), true + truth.sum()
        both += (prediction & truth).sum()
    assert trivial[0].dice == pytest.approx(2 * both / (predicted + true))


def test_the_files_and_their_keys(config, prepared, tmp_path):
    config = with_size(config, 64)
    write_json(tmp_path / "baseline.json", BASELINE._asdict())

    def left_half(weights, image, temperature):
        """A network that finds the left half of the frame."""
        left = jnp.arange(image.shape[2]) < image.shape[2] // 2
        shape = (*image.shape[:3], 1)
        return jnp.broadcast_to(left[None, None, :, None], shape).astype(jnp.float32)

    model = Predictor(left_half, None, None, (1.0,), config, make_mesh(), 8)
    run = Trained(tmp_path, config, 3, ("tumour",), 1, None, (OperatingPoint(),))
    output, patients = tmp_path / "out", prepared.patients[:3]
    returned = score.evaluate([Part(run, model, patients)], prepared, output, "title", {})
    scores = json.loads((output / "scores.json").read_text())
    assert scores == returned
    assert scores["about"] == {} and set(scores["scans"]) == {p.id for p in patients}
    assert len(set(scores["truths"].values()) - {""}) == len(patients)
    assert scores["operating_point"] == OperatingPoint()._asdict() | {"tuned": False}
    assert set(scores) >= {"patients", "slices", "pooled", "baselines"}
    for name in ("dice", "iou", "sensitivity", "precision", "hd95"):
        assert set(scores["patients"][name]) == {"mean", "median", "ci95"}
    assert scores["slices"]["false_positive_rate"] == 1.0
    assert set(scores["baselines"]) == {"predict_nothing", "best_threshold"}
    with (output / "patients.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["patient"] for row in rows] == [p.id for p in patients]
    drawn = {path.name for path in output.glob("*.png")}
    assert drawn == {"dice_per_patient.png"} | {
        f"patient_{n}.png" for n in ("best", "median", "worst")
    }
    report = (output / "report.html").read_text()
    assert "title" in report and "http" not in report


FOLDER_CONFIG = """
import dataclasses, sys
sys.path.insert(0, {tests!r})
from pathlib import Path
from fake_config import tiny_config
from jaxseg.config import Dataset, Split

def get_config():
    config = tiny_config(Path({cache!r}))
    return dataclasses.replace(
        config,
        dataset=Dataset(name="image_folder", source={source!r}, cache_dir={cache!r}),
        split=Split(train=("p0", "p1"), validation=("p2",), test=("p3",)),
        train=dataclasses.replace(config.train, num_steps=2, eval_every_steps=2),
    )
"""


def program(name: str, *arguments) -> subprocess.CompletedProcess:
    devices = "--xla_force_host_platform_device_count=2"  # quicker on two cores than eight
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])}
    environment["XLA_FLAGS"] = f"--xla_backend_optimization_level=0 {devices}"
    command = [sys.executable, "-m", f"jaxseg.{name}", *map(str, arguments)]
    return subprocess.run(command, env=environment, capture_output=True, text=True)


@pytest.fixture
def here(monkeypatch, capsys):
    """Run `jaxseg.evaluate` as `program` does, but in this process: without its start."""

    def run(*arguments) -> subprocess.CompletedProcess:
        command = ["jaxseg.evaluate", *map(str, arguments)]
        monkeypatch.setattr(sys, "argv", command)
        code = 0
        capsys.readouterr()
        try:
            command_line.run(evaluate.main)
        except SystemExit as ended:
            code = ended.code
        return subprocess.CompletedProcess(command, code, *capsys.readouterr())

    monkeypatch.setattr(evaluate, "start_computing", lambda **_: None)
    return run


@pytest.mark.slow
def test_own_slices_from_training_to_external_validation(tmp_path, here):
    inside, outside = tmp_path / "inside", tmp_path / "outside"
    write_folders(inside, patients=4)
    write_folders(outside, patients=2)
    file = tmp_path / "folder.py"
    settings = {"tests": Path(__file__).parents[1], "cache": tmp_path / "cache", "source": inside}
    file.write_text(FOLDER_CONFIG.format(**{k: str(v) for k, v in settings.items()}))
    run = tmp_path / "run"
    done = program("train", "--config", file, "--workdir", run)
    assert done.returncode == 0, done.stdout + done.stderr
    assert (run / "evaluation/test/report.html").is_file()

    done = here("--workdir", run, "--source", outside)
    assert done.returncode == 2
    assert "not external: images of 2 of 2 patients took part" in done.stderr

    for patient in (0, 1):  # other ids, the same images
        (outside / f"p{patient}").rename(outside / f"q{patient}")
    done = here("--workdir", run, "--source", outside)
    assert done.returncode == 2
    assert "not external: images of 2 of 2 patients took part" in done.stderr

    for image in outside.glob("q*/s?.png"):
        pixels = cv2.imread(str(image))
        cv2.imwrite(str(image), 255 - pixels)
    done = program("evaluate", "--workdir", run, "--source", outside)
    assert done.returncode == 0, done.stdout + done.stderr
    scores = json.loads((run / "evaluation/external/scores.json").read_text())
    assert scores["patients"]["n"] == 2
    assert "n = 2" in done.stdout

    for patient in (0, 1):  # the ids of training patients, other images
        (outside / f"q{patient}").rename(outside / f"p{patient}")
    done = here("--workdir", run, "--source", outside)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "warning: 2 of 2 patients have the id, but not the images" in done.stdout

    done = here("--workdir", run, "--source", tmp_path / "nowhere")
    assert done.returncode == 2
    assert "--source is read like the training data: image_folder" in done.stderr

    done = here("--workdir", run, "--split", "all", "--output", tmp_path / "all")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "not an honest score" in done.stdout
    assert json.loads((tmp_path / "all/scores.json").read_text())["patients"]["n"] == 4

    done = here("--workdir", run, "--source", outside, "--split", "test")
    assert done.returncode == 2
    assert "leave --split out" in done.stderr
