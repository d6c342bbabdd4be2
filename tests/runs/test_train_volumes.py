"""Whole runs on volumes with three regions: what they leave, resume bit for bit, any mesh."""

import contextlib
import csv
import dataclasses
import functools
import itertools
import json
import math
from pathlib import Path

import jax
import numpy as np
import pytest
from fake_steps import on_host
from test_train import assert_same_state, lasting, latest, run_training, stop_after, with_train

from jaxseg import train
from jaxseg.config import Config, Mesh, Optimizer
from jaxseg.datasets.prepare import prepare
from jaxseg.datasets.samples import training_batches
from jaxseg.datasets.splits import split_patients
from jaxseg.evaluation.comparison import read_scores
from jaxseg.layouts.kinds import told_by_files
from jaxseg.machine.sharding import make_mesh
from jaxseg.runs import workdir
from jaxseg.runs.validation import Validation
from jaxseg.scoring.intervals import mean_interval
from jaxseg.training.state import abstract_state, new_state
from jaxseg.training.steps import jit_train_step
from jaxseg.transforms.augment import make_feed

REGIONS = ("whole_tumour", "tumour_core", "enhancing_tumour")
TESTED = ("BraTS-GLI-00005-000", "BraTS-GLI-00006-000", "BraTS-GLI-00006-001")


def run_program(config: Config, folder: Path):
    with contextlib.ExitStack() as stack:
        train.train_and_test(config, folder, stack)


@pytest.fixture(scope="module")
def config(volume_config) -> Config:
    """As the program completes it from the files."""
    return dataclasses.replace(volume_config, dataset=told_by_files(volume_config.dataset))


@pytest.fixture(scope="module")
def run(volume_config, tmp_path_factory):
    """Trained, tuned and tested by the program, without a break."""
    folder = tmp_path_factory.mktemp("run") / "r"
    run_program(volume_config, folder)
    return folder


def test_a_run_leaves_all_that_it_promises(run):
    names = {path.name for path in run.iterdir()}
    assert names >= {"config.json", "data.json", "versions.json", "metrics.jsonl", "checkpoints"}
    assert names >= {"baseline.json", "operating_point.json", "finished.json", "evaluation"}
    data = json.loads((run / "data.json").read_text())
    assert tuple(data["regions"]) == REGIONS and data["num_channels"] == 3
    assert data["patients"]["test"] == list(TESTED)
    records = workdir.read_metrics(run)
    assert [r["step"] for r in records if "train_loss" in r] == list(range(1, 7))
    assert [r["step"] for r in records if "validation_dice" in r] == list(range(1, 7))
    about = json.loads((run / "operating_point.json").read_text())
    assert about["nesting"].startswith("each region was chosen by itself")
    points = about["regions"]
    assert tuple(points) == REGIONS


def test_scores_are_of_three_regions_and_their_mean(run):
    folder = run / "evaluation/test"
    scores = json.loads((folder / "scores.json").read_text())
    assert tuple(scores["regions"]) == REGIONS
    means = [scores["regions"][name]["patients"]["dice"]["mean"] for name in REGIONS]
    assert scores["mean_over_regions"]["patients"]["dice"]["mean"] == pytest.approx(np.mean(means))
    with (folder / "patients.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [(r["patient"], r["region"]) for r in rows] == list(itertools.product(TESTED, REGIONS))
    assert [r["group"] for r in rows[::3]] == ["BraTS-GLI-00005"] + ["BraTS-GLI-00006"] * 2
    report = (folder / "report.html").read_text()
    assert all(name in report for name in (*REGIONS, *TESTED)) and "data:image/png" in report
    figures = {path.stem for path in folder.glob("*.png")}
    assert len(figures) > 3 and all(path.stat().st_size > 1000 for path in folder.glob("*.png"))


def test_intervals_resample_persons_with_all_their_time_points(run):
    scores = json.loads((run / "evaluation/test/scores.json").read_text())
    rows = read_scores(run, REGIONS[0]).patients
    dice = [rows[patient]["dice"] for patient in TESTED]
    persons = ["BraTS-GLI-00005"] + ["BraTS-GLI-00006"] * 2
    expected = mean_interval(dice, 100, 0, persons)
    assert scores["regions"][REGIONS[0]]["patients"]["dice"]["ci95"] == pytest.approx(
        expected, rel=1e-5
    )  # the table has six digits
    assert expected != mean_interval(dice, 100, 0)


def test_another_time_point_of_a_person_in_the_training_is_not_taken_for_another_person(
    run, config, tmp_path
):
    new = [
        dataclasses.replace(p, digests=("x", "y", "z"), id=p.id.replace("-00", "-09"))
        for p in prepare(config.dataset).patients
    ]
    training = {p.person for p in new[:4]}
    assert training == {f"BraTS-GLI-0000{n}" for n in (1, 2, 3, 4)}
    (warning,) = workdir.check_unseen(run, new)
    assert warning.startswith("4 of 7 patients are, by their names, other time points of persons")
    assert new[0].id in warning and "make sure that they are other people" in warning
    assert not workdir.check_unseen(run, new[4:])
    old = json.loads((run / "data.json").read_text())
    del old["persons"]  # as a run from before there were persons
    (tmp_path / "data.json").write_text(json.dumps(old))
    assert not workdir.check_unseen(tmp_path, new)
    ids = [dataclasses.replace(p, id=p.id.replace("-09", "-00")) for p in new]
    (warning,) = workdir.check_unseen(tmp_path, ids)
    assert warning.startswith("4 of 7 patients have the id, but not the images, of patients")


def test_a_second_start_says_that_it_is_finished(run, volume_config, capsys):
    before = {p: p.stat().st_mtime_ns for p in run.rglob("*") if p.is_file()}
    run_program(volume_config, run)
    assert f"{run} is finished" in capsys.readouterr().out
    after = {p: p.stat().st_mtime_ns for p in run.rglob("*") if p.is_file()}
    assert after.keys() == before.keys()
    assert {p.name for p in before if after[p] != before[p]} <= {"config.json", "lock"}


def test_a_part_restart_and_the_rest_equal_the_whole(run, config, tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        stop_after(patch, 2)
        assert run_training(config, tmp_path) == "SIGTERM"
    assert 0 < int(latest(config, tmp_path).step) < 6
    assert run_training(config, tmp_path) == ""
    assert_same_state(latest(config, run), latest(config, tmp_path))
    assert lasting(workdir.read_metrics(run)) == lasting(workdir.read_metrics(tmp_path))


def first_batches(config: Config, count: int, start: int = 0) -> list[dict[str, np.ndarray]]:
    prepared = prepare(config.dataset)
    patients = split_patients(prepared.patients, config.split)["train"]
    return list(itertools.islice(training_batches(prepared, patients, config, start), count))


def assert_same_batches(left, right):
    assert len(left) == len(right)
    for one, other in zip(left, right, strict=True):
        assert one.keys() == other.keys()
        for name in one:
            np.testing.assert_array_equal(one[name], other[name], err_msg=name)


@pytest.mark.parametrize("workers, threads", [(2, 1), (0, 3), (0, 0)])
def test_loader_processes_and_threads_make_the_same_batches(config, workers, threads):
    changed = dataclasses.replace(config.input, num_workers=workers, num_threads=threads)
    other = dataclasses.replace(config, input=changed)
    assert_same_batches(first_batches(other, 4, start=2), first_batches(config, 6)[2:])


# One plain step, whose rounding Adam would blow up; sums of the same terms in another order.
PLAIN = Optimizer(name="sgd", momentum=0.0, learning_rate=0.1, warmup_steps=0, ema_decay=0.5)
CLOSE = {"rtol": 1e-4, "atol": 2e-5}


@functools.cache
def three_steps(config: Config, num_devices: int, **axes):
    """Return the samples of three steps, the weights after them, their losses and validation."""
    model = dataclasses.replace(config.model, dropout=0.0)
    mesh_config = Mesh(fsdp_min_size=64, **axes)
    config = dataclasses.replace(config, model=model, optimizer=PLAIN, mesh=mesh_config)
    prepared, mesh = prepare(config.dataset), make_mesh(mesh_config, jax.devices()[:num_devices])
    splits = split_patients(prepared.patients, config.split)
    feed, state = make_feed(config, mesh), new_state(config, 3, mesh)
    step = jit_train_step(config, abstract_state(config, 3, mesh), mesh)
    samples, losses = [], []
    for batch in first_batches(config, 3):
        fed = feed(batch | {"stop": np.zeros(8, np.int32)})
        samples.append({name: np.asarray(fed[name]) for name in ("image", "mask")})
        state, log = step(state, fed)
        losses.append(float(log["train_loss"]))
    scores = Validation(config, prepared, splits["validation"], mesh).scores(state.weights)
    return samples, on_host(state, mesh).weights, losses, scores


@pytest.mark.parametrize(
    "num_devices, axes",
    [
        pytest.param(2, {}, id="2"),
        pytest.param(8, {}, id="8", marks=pytest.mark.slow),
        pytest.param(8, {"data": 2, "fsdp": 2, "spatial": 2}, id="8 in three axes"),
    ],
)
def test_any_number_of_devices_trains_the_same(config, num_devices, axes):
    """Masks to the bit, images to a rounding; losses and weights as in test_mesh.py."""
    samples, weights, losses, scores = three_steps(config, num_devices, **axes)
    expected = three_steps(config, 1)
    for one, other in zip(samples, expected[0], strict=True):
        np.testing.assert_array_equal(one["mask"], other["mask"])
        np.testing.assert_allclose(one["image"], other["image"], atol=1e-5)
    np.testing.assert_allclose(losses, expected[2], rtol=1e-5)
    for name, value in expected[3].items():
        assert math.isclose(scores[name], value, rel_tol=1e-3), name
    paths = jax.tree_util.tree_leaves_with_path(expected[1])
    for (path, right), left in zip(paths, jax.tree.leaves(weights), strict=True):
        np.testing.assert_allclose(left, right, **CLOSE, err_msg=str(path))


def test_a_patch_larger_than_the_scans_is_padded_and_trains(config, tmp_path):
    whole = dataclasses.replace(config.input, image_size=(16, 16, 24))
    large = with_train(dataclasses.replace(config, input=whole), num_steps=1)
    assert run_training(large, tmp_path) == ""
    trained = workdir.read_metrics(tmp_path)[0]
    assert np.isfinite(trained["train_loss"]) and trained["nonfinite_total"] == 0
