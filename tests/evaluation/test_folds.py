"""Folds: every patient scored once, by the model that has not seen it, in one scorecard."""

import csv
import dataclasses
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from fake_config import tiny_config

from jaxseg import compare
from jaxseg.config import Split
from jaxseg.datasets.prepare import prepare
from jaxseg.datasets.splits import split_patients
from jaxseg.errors import UserError
from jaxseg.evaluation import folds, of_runs, score, threshold_baseline
from jaxseg.machine.files import read_json
from jaxseg.machine.sharding import make_mesh
from jaxseg.prediction import operating, trained
from jaxseg.prediction.inference import predict_patients
from jaxseg.prediction.operating import OperatingPoint
from jaxseg.runs import checkpoint, workdir
from jaxseg.scoring import scorecard
from jaxseg.training.state import new_state

NUM_FOLDS, SALT = 3, 0


def fold_config(cache: Path, fold: int, **changes):
    split = Split(num_folds=NUM_FOLDS, fold=fold, salt=SALT)
    return tiny_config(cache, split=split, **changes)


def claimed(run: Path, config) -> Path:
    prepared = prepare(config.dataset)
    splits = split_patients(prepared.patients, config.split)
    workdir.claim(run, config, prepared, splits)
    return run


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="module")
def runs(cache, tmp_path_factory):
    """One finished run for each fold: other weights, another threshold, scored on its patients."""
    folder = tmp_path_factory.mktemp("runs")
    for fold in range(NUM_FOLDS):
        config = fold_config(cache, fold)
        run, prepared = claimed(folder / f"fold{fold}", config), prepare(config.dataset)
        train = split_patients(prepared.patients, config.split)["train"]
        threshold_baseline.find_baselines(run, prepared, train)
        state = new_state(dataclasses.replace(config, seed=fold), 3, make_mesh())
        with checkpoint.open_checkpoints(run) as checkpoints:
            checkpoint.save(checkpoints, 1, state, monitor=0.5)
        point = OperatingPoint(threshold=0.4 + 0.1 * fold)
        operating.write(run, ["tumour"], [{"point": point._asdict()}])
        workdir.mark_finished(run, 1)
        with pytest.MonkeyPatch.context() as patch:  # figures take seconds
            patch.setattr(score, "draw_figures", lambda *_: {})
            of_runs.score_run(run, "test", None, None)
    return sorted(folder.iterdir())


@pytest.fixture(scope="module")
def pooled(runs, tmp_path_factory):
    output = tmp_path_factory.mktemp("pooled")
    of_runs.score_folds(runs[::-1], output)
    return output


def rows(folder: Path) -> dict[str, dict]:
    with (folder / "patients.csv").open() as file:
        return {row["patient"]: row for row in csv.DictReader(file)}


def scores(folder: Path) -> dict:
    return json.loads((folder / "scores.json").read_text())


def test_each_patient_is_scored_as_by_the_model_that_has_not_seen_it(runs, pooled):
    whole = rows(pooled)
    assert len(whole) == 6
    for run in runs:
        own, members = rows(run / "evaluation/test"), read_json(run / "data.json")
        assert set(own) == set(members["patients"]["test"])
        assert not set(own) & {*members["patients"]["train"], *members["patients"]["validation"]}
        assert all(whole[patient] == row for patient, row in own.items())


def test_the_pooled_scorecard_is_that_of_all_patients_together(cache, runs, pooled):
    together, prepared = [], prepare(fold_config(cache, 0).dataset)
    for run in runs:
        config = workdir.load_config(run)
        patients = split_patients(prepared.patients, config.split)["test"]
        loaded = trained.load(run)
        cases = predict_patients(trained.predictor(loaded), prepared, patients)
        found = threshold_baseline.read_baselines(run, loaded.regions)
        scores_here, _ = score.score_cases(cases, loaded.kind.regions, loaded.points, found)
        together += [s for (s,) in scores_here]
    expected = scorecard.summarise(together, config.evaluation.bootstrap_samples)
    found = scores(pooled)
    for part in ("patients", "slices", "pooled"):
        assert found[part] == expected[part]
    assert found["baselines"]["predict_nothing"] == expected["baselines"]["predict_nothing"]
    # By hand: the mean over all patients is that of the folds, each by its number of patients.
    single = [scores(run / "evaluation/test")["patients"] for run in runs]
    total = sum(s["n"] * s["dice"]["mean"] for s in single)
    assert found["patients"]["dice"]["mean"] == pytest.approx(total / sum(s["n"] for s in single))


def test_the_baseline_of_each_patient_is_that_of_its_fold(runs, pooled):
    found = scores(pooled)["baselines"]["best_threshold"]
    names = ("T1", "FLAIR", "T1C")
    for fold, run in zip(found["folds"], runs, strict=True):
        kept = read_json(run / "baseline.json")
        assert fold == kept | {"channel_name": names[kept["channel"]]}
    single = [scores(run / "evaluation/test") for run in runs]
    total = sum(
        s["patients"]["n"] * s["baselines"]["best_threshold"]["patients"]["dice"]["mean"]
        for s in single
    )
    assert found["patients"]["dice"]["mean"] == pytest.approx(total / 6)


def test_the_report_says_what_the_score_is(runs, pooled):
    report = (pooled / "report.html").read_text()
    assert "Pooled over 3 of 3 folds, 6 of 6 patients" in report
    assert "Best threshold, of each fold" in report
    assert "missing" not in report
    about = scores(pooled)["about"]
    assert [f["fold"] for f in about["folds"]] == [0, 1, 2]
    assert [f["run"] for f in about["folds"]] == [str(run) for run in runs]
    thresholds = [f["operating_point"]["threshold"] for f in about["folds"]]
    assert thresholds == pytest.approx([0.4, 0.5, 0.6])
    drawn = {path.name for path in pooled.glob("*.png")}
    assert drawn >= {"dice_per_patient.png", "patient_best.png", "patient_worst.png"}


def program(*arguments) -> subprocess.CompletedProcess:
    devices = "--xla_force_host_platform_device_count=2"  # quicker on two cores than eight
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])}
    environment["XLA_FLAGS"] = f"--xla_backend_optimization_level=0 {devices}"
    command = [sys.executable, "-m", "jaxseg.evaluate", *map(str, arguments)]
    return subprocess.run(command, env=environment, capture_output=True, text=True)


def test_the_program_pools_what_it_is_given_and_says_what_is_missing(runs, pooled, tmp_path):
    given = [f"--workdir={run}" for run in runs[:2]]
    done = program(*given, "--output", tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    num_patients = len(rows(tmp_path))
    assert f"Pooled over 2 of 3 folds, {num_patients} of 6 patients" in done.stdout
    assert f"Warning: fold 2 is missing; {6 - num_patients} patients are not scored" in done.stdout
    assert set(rows(tmp_path)) < set(rows(pooled))
    part, whole = compare.read_scores(tmp_path), compare.read_scores(pooled)
    with pytest.raises(UserError, match="different patients; only in"):
        compare.check_comparable(part, whole)
    compare.check_comparable(compare.read_scores(pooled), whole._replace(folder=tmp_path))


def test_where_to_write_must_be_said(tmp_path):
    with pytest.raises(UserError, match="where to write the scores of all folds"):
        of_runs.score_folds([tmp_path / "a", tmp_path / "b"], None)


def test_what_is_not_the_folds_of_one_recipe(cache, tmp_path):
    first, second = (claimed(tmp_path / f"{i}", fold_config(cache, i)) for i in (0, 1))
    assert [f.config.split.fold for f in folds.read_folds([second, first])] == [0, 1]

    again = claimed(tmp_path / "again", fold_config(cache, 1))
    with pytest.raises(UserError, match=r"/1 and .*/again have the same test patients \(\d"):
        folds.read_folds([first, second, again])

    other = claimed(tmp_path / "seed", fold_config(cache, 1, seed=7))
    with pytest.raises(UserError, match="config.seed is 0 in .*/0 and 7 in .*/seed"):
        folds.read_folds([first, other])

    single = claimed(tmp_path / "single", tiny_config(cache))
    with pytest.raises(UserError, match="single: not trained on one of several folds; train each"):
        folds.read_folds([first, single])

    with pytest.raises(UserError, match="no run here"):
        folds.read_folds([first, tmp_path / "nowhere"])

    path = second / "data.json"
    data = json.loads(path.read_text())
    masks = data.pop("mask_digests")
    path.write_text(json.dumps(data))
    assert len(folds.read_folds([first, second])) == 2  # an older run: not known, no reason
    masks["test"][0][0] = "another mask"
    path.write_text(json.dumps(data | {"mask_digests": masks}))
    with pytest.raises(UserError, match=f"masks: 1 .*{data['patients']['test'][0]}$"):
        folds.read_folds([first, second])
    data["digests"]["train"][0][0] = "another image"
    path.write_text(json.dumps(data))
    with pytest.raises(UserError, match=f"differ in .*: 1 .*{data['patients']['train'][0]}$"):
        folds.read_folds([first, second])


def test_settings_of_the_machine_may_differ_and_the_scans_may_not_change(cache, tmp_path):
    config = fold_config(cache, 1)
    quick = dataclasses.replace(config.evaluation, batch_size=4)
    runs = [
        claimed(tmp_path / "0", fold_config(cache, 0)),
        claimed(tmp_path / "1", dataclasses.replace(config, evaluation=quick)),
    ]
    made, patients = folds.read_folds(runs), prepare(config.dataset).patients
    folds.check_unchanged(made, patients)
    assert sum("has not finished" in note for note in folds.sentences(made)) == 2
    with pytest.raises(UserError, match="the scans as they are now differ .*: 1 patients"):
        folds.check_unchanged(made, patients[1:])
    redrawn = dataclasses.replace(patients[0], mask_digests=("x", *patients[0].mask_digests[1:]))
    with pytest.raises(UserError, match="differ in their images or masks: 1 patients"):
        folds.check_unchanged(made, [redrawn, *patients[1:]])
