"""New scans of a run on a volume set: found as it is kept, predicted, written, scored."""

import csv
import dataclasses
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
from fake_config import tiny_config
from fake_data import write_image
from fake_run import write_run
from fake_volume_sets import AFFINE, NEW, OLD, head, labels, write_brats, write_case, write_nnunet
from fake_volumes import write_nifti, write_series

from jaxseg import evaluate, predict
from jaxseg.config import Dataset, Input, Model, Split
from jaxseg.datasets.prepare import prepare
from jaxseg.errors import UserError
from jaxseg.layouts.kinds import kind_of, told_by_files
from jaxseg.machine.files import read_json
from jaxseg.prediction import operating, trained
from jaxseg.prediction.ensemble import read_ensemble
from jaxseg.prediction.inference import predict_patients, predict_volume
from jaxseg.prediction.new_scans import find_all
from jaxseg.prediction.operating import OperatingPoint, segment_regions
from jaxseg.prediction.predictor import make_predictor
from jaxseg.prediction.results import read_result
from jaxseg.scans.regions import to_labels, to_masks
from jaxseg.viewer.of_predictions import open_predictions

nibabel = pytest.importorskip("nibabel")
REGIONS = ("whole_tumour", "tumour_core", "enhancing_tumour")
CHANNELS = ("t1", "t1c", "t2", "flair")
PATCH, POINT = (4, 8, 8), OperatingPoint(0.5, 3.0)


def run_on(folder: Path, dataset: Dataset, ids, seed: int = 0, patch=PATCH) -> Path:
    """Write a run on volumes: the first cases for training, two for validation and test."""
    *train, validation, test = ids
    cache = str(folder / "cache")
    dataset = told_by_files(dataclasses.replace(dataset, cache_dir=cache))
    config = tiny_config(
        cache,
        seed=seed,
        dataset=dataset,
        model=Model(widths=(2, 4), num_classes=len(dataset.regions)),
        split=Split(train=tuple(train), validation=(validation,), test=(test,)),
        input=Input(image_size=patch, num_threads=1),
    )
    run = write_run(folder / "run", config, POINT)
    loaded, prepared = trained.load(run), prepare(config.dataset)
    (case,) = predict_patients(trained.predictor(loaded), prepared, prepared.patients[:1])
    middle = np.median(case.probability, axis=(0, 1, 2))  # so that masks are neither full nor empty
    points = [{"point": POINT._replace(threshold=float(t))._asdict()} for t in middle]
    operating.write(run, loaded.regions, points)
    return run


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    root = tmp_path_factory.mktemp("brats")
    write_brats(root)
    return root


@pytest.fixture(scope="module")
def run(source, tmp_path_factory):
    ids = [f"BraTS20_Training_{n:03d}" for n in (1, 2, 3)]
    made = tmp_path_factory.mktemp("made")
    return run_on(made, Dataset(name="brats", source=str(source)), ids)


@pytest.fixture
def program(monkeypatch):
    monkeypatch.setattr(predict, "start_computing", lambda: None)
    return lambda *argv: predict.main([str(a) for a in argv])


def table(output: Path) -> dict[str, dict[str, str]]:
    with (output / "predictions.csv").open() as file:
        return {row["patient"]: row for row in csv.DictReader(file)}


def found(path: Path, run: Path, fill: str | None = None, notes=None) -> dict[str, tuple]:
    scans = find_all([path], read_ensemble([run]), None, fill, notes)
    return {scan.patient: tuple(Path(n).name for n in scan.names) for scan in scans}


def test_the_masks_are_those_of_evaluation_with_every_region(program, run, source, tmp_path):
    out = tmp_path / "out"
    program("--workdir", run, "--output", out, "--probabilities", source)
    loaded = trained.load(run)
    prepared = prepare(loaded.config.dataset, loaded.config.split)
    rows = table(out)
    assert list(rows) == [p.id for p in prepared.patients]
    for case in predict_patients(trained.predictor(loaded), prepared, prepared.patients):
        name, regions = case.patient.id, loaded.kind.regions
        expected = segment_regions(case.probability, loaded.points, regions)
        assert expected[..., 0].any() and not expected[..., 0].all()
        made = nibabel.load(out / name / "mask.nii.gz")
        np.testing.assert_array_equal(made.affine, AFFINE)
        values = read_result(out / name / "mask").values
        low = case.patient.offset
        inside = tuple(slice(a, a + n) for a, n in zip(low, expected.shape[:3], strict=True))
        np.testing.assert_array_equal(values[inside], to_labels(expected, regions))
        assert int((values > 0).sum()) == expected[..., 0].sum()  # none outside of the copy
        record = read_json(out / name / "prediction.json")
        masks = to_masks(values, regions)
        for k, region in enumerate(REGIONS):
            probability = read_result(out / name / f"probability_{region}").values
            np.testing.assert_allclose(probability[inside], case.probability[..., k], atol=1e-5)
            voxels = int(masks[..., k].sum())
            assert int(rows[name][f"{region}_voxels"]) == voxels
            assert float(rows[name][f"{region}_volume_ml"]) == pytest.approx(voxels / 1000)
            assert record["regions"][k]["voxels"] == voxels
        assert rows[name]["voxels"] == rows[name]["whole_tumour_voxels"]


def test_patches_are_cut_of_voxels_that_are_not_square_without_a_word(
    program, run, tmp_path, capsys
):
    for n, suffix in enumerate(OLD):
        voxels = head(n)
        write_nifti(tmp_path / f"in/p/p{suffix}.nii.gz", voxels, np.diag((-1, -1.5, 4, 1)))
    program("--workdir", run, "--output", tmp_path / "out", tmp_path / "in")
    assert "squeezed" not in capsys.readouterr().err


def test_predictions_are_scored_and_shown_by_region(program, run, source, tmp_path, capsys):
    out = tmp_path / "out"
    program("--workdir", run, "--output", out, source)
    evaluate.main(["--predictions", str(out), "--truth", str(source)])
    said = capsys.readouterr().out
    assert "regions and their labels are the model's" in said and "Warning: no" not in said
    with (out / "evaluation" / "patients.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["region"] for row in rows] == [*REGIONS] * 3
    regions = trained.load(run).kind.regions
    truth = to_masks(labels().transpose(2, 1, 0), regions) > 0
    for n, row in enumerate(rows):
        values = read_result(out / row["patient"] / "mask").values
        mask = to_masks(values, regions)[..., n % 3] > 0
        both = mask & truth[..., n % 3]
        expected = 2 * both.sum() / (mask.sum() + truth[..., n % 3].sum())
        assert float(row["dice"]) == pytest.approx(expected, abs=1e-6)
    assert (out / "evaluation" / "patient_worst.png").is_file()
    gallery = open_predictions(run, [source], out, None, None, source)
    assert len(gallery.rows) == 3 and gallery.regions == REGIONS
    shown = gallery.predict(0).mask
    values = read_result(out / gallery.rows[0].patient / "mask").values
    np.testing.assert_array_equal(shown, to_masks(values, regions) > 0)
    assert gallery.scan(0).truth.shape == shown.shape


def test_folders_of_cases_of_every_kind(run, source, tmp_path):
    files = {f"BraTS20_Training_{n:03d}": OLD for n in (1, 2, 3)}
    order = ("_t1", "_t1ce", "_t2", "_flair")
    expected = {case: tuple(f"{case}{s}.nii.gz" for s in order) for case in files}
    assert found(source, run) == expected
    one = source / "BraTS20_Training_002"
    assert found(one, run) == {one.name: expected[one.name]}
    flat = tmp_path / "flat"
    flat.mkdir()
    for file in source.rglob("*.nii.gz"):
        shutil.copy(file, flat)
    assert found(flat, run) == expected
    with zipfile.ZipFile(tmp_path / "all.zip", "w") as archive:
        for file in source.rglob("*.nii.gz"):
            archive.write(file, file.relative_to(source))
    assert found(tmp_path / "all.zip", run) == expected
    later = tmp_path / "later"
    write_case(later / "a", "BraTS-GLI-00007-001", NEW, "-seg")
    (case,) = found(later, run).items()
    assert case == ("BraTS-GLI-00007-001", tuple(f"{case[0]}{s}.nii.gz" for s in NEW))
    bare = tmp_path / "Jane"
    for n, name in enumerate(("t1", "t1ce", "t2", "flair", "seg")):
        write_nifti(bare / f"{name}.nii.gz", head(n), AFFINE)
    assert found(bare, run) == {"Jane": ("t1.nii.gz", "t1ce.nii.gz", "t2.nii.gz", "flair.nii.gz")}


def test_a_zip_is_predicted_as_the_folder(program, run, source, tmp_path):
    case = source / "BraTS20_Training_001"
    with zipfile.ZipFile(tmp_path / "one.zip", "w") as archive:
        for file in case.iterdir():
            archive.write(file, f"{case.name}/{file.name}")
    for path in (case, tmp_path / "one.zip"):
        program("--workdir", run, "--output", tmp_path / path.suffix[1:] / "out", path)
    a, b = (read_result(tmp_path / n / "out" / case.name / "mask") for n in ("", "zip"))
    np.testing.assert_array_equal(a.values, b.values)


def test_a_case_that_lacks_a_sequence_fails_alone_or_is_filled(
    program, run, source, tmp_path, capsys
):
    scans = shutil.copytree(source, tmp_path / "scans")
    (scans / "BraTS20_Training_002/BraTS20_Training_002_t2.nii.gz").unlink()
    (scans / "BraTS20_Training_001/BraTS20_Training_001_seg.nii.gz").unlink()  # none is needed
    out = ["--workdir", run, "--output", tmp_path / "out"]
    with pytest.raises(SystemExit) as ended:
        program(*out, scans)
    assert ended.value.code == 1
    said = capsys.readouterr()
    assert "failed: 1 of 3" in said.err and "predicted 2 patients" in said.out
    assert "BraTS20_Training_002: lacks t2; the model takes t1, t1c, t2, flair" in said.err
    assert list(table(tmp_path / "out")) == ["BraTS20_Training_001", "BraTS20_Training_003"]
    program(*out[:-1], tmp_path / "filled", "--fill", "flair", scans)
    rows = table(tmp_path / "filled")
    assert len(rows) == 3 and rows["BraTS20_Training_002"]["file"].endswith("_flair.nii.gz")


def test_a_second_file_of_a_sequence_is_named(program, run, tmp_path, capsys):
    case = tmp_path / "in" / "Jane"
    for n, name in enumerate(("t1", "t1ce", "t2", "flair", "seg")):
        write_nifti(case / f"{name}.nii.gz", head(n), AFFINE)
    write_nifti(case / "t1.nii", head(9), AFFINE)
    write_nifti(case / "seg.nii", head(9), AFFINE)  # no labels are needed, so none are spoken of
    program("--workdir", run, "--output", tmp_path / "out", case.parent)
    said = "in: left out, Jane/t1.nii.gz: a second t1 of Jane beside Jane/t1.nii\n"
    assert said in capsys.readouterr().err
    notes = []
    assert found(case, run, notes=notes)["Jane"][0] == "t1.nii"
    assert notes == [f"{case}: left out, t1.nii.gz: a second t1 of Jane beside t1.nii"]
    content = Dataset(name="nnunet", channel_names=("t1", "t2"))
    problems = []
    names = ["a/x_0000.nii.gz", "b/x_0000.nii.gz", "b/x_0001.nrrd"]
    assert kind_of(content).sort(names, content, problems)["x"]["t1"] == names[0]
    assert problems == [f"{names[1]}: a second t1 of x beside {names[0]}"]


def test_a_case_without_any_of_the_channels_is_named(source, tmp_path):
    cases = [f"BraTS20_Training_{n:03d}" for n in (1, 2, 3)]
    dataset = Dataset(name="brats", source=str(source), channel_names=("flair",))
    run = run_on(tmp_path, dataset, cases)
    write_nifti(tmp_path / "in/x/x_t1.nii.gz", head(0), AFFINE)
    write_nifti(tmp_path / "in/y/y_flair.nii.gz", head(0), AFFINE)
    notes = []
    assert found(tmp_path / "in", run, notes=notes) == {"y": ("y_flair.nii.gz",)}
    assert notes == [f"{tmp_path}/in: left out, none of the channels flair: x"]


def test_images_of_nnunet_and_of_a_tree_by_patterns(program, tmp_path):
    content = {
        "channel_names": {"0": "T1", "1": "FLAIR"},
        "labels": {"background": 0, "core": 1, "edema": 2},
        "file_ending": ".nii.gz",
        "numTraining": 3,
    }
    root = tmp_path / "set"
    write_nnunet(root, content, (1, 2), count=3)
    cases = [f"case_{n}" for n in range(3)]
    run = run_on(tmp_path / "n", Dataset(name="nnunet", source=str(root)), cases)
    shutil.copytree(root / "imagesTr", tmp_path / "new/imagesTs")
    expected = {case: (f"{case}_0000.nii.gz", f"{case}_0001.nii.gz") for case in cases}
    for path in (tmp_path / "new", tmp_path / "new/imagesTs", root):
        assert found(path, run) == expected
    program("--workdir", run, "--output", tmp_path / "out", tmp_path / "new/imagesTs")
    assert list(table(tmp_path / "out")) == cases
    evaluate.main(["--predictions", str(tmp_path / "out"), "--truth", str(root / "labelsTr")])
    assert (tmp_path / "out/evaluation/scores.json").is_file()

    tree = tmp_path / "tree"
    for n in range(3):
        for seed, name in enumerate(("a", "b", "truth")):
            voxels = labels((1, 1)) if name == "truth" else head(10 * n + seed)
            write_nifti(tree / f"p{n}" / "scans" / f"{name}.nii.gz", voxels, AFFINE)
    dataset = Dataset(
        name="nifti",
        source=str(tree),
        channel_files=("x={patient}/scans/a.nii.gz", "y={patient}/scans/b.nii.gz"),
        mask_file="{patient}/scans/truth.nii.gz",
    )
    run = run_on(tmp_path / "t", dataset, ["p0", "p1", "p2"])
    expected = {f"p{n}": ("a.nii.gz", "b.nii.gz") for n in range(3)}
    assert found(tree, run) == expected
    assert found(tree / "p1", run) == {"p1": expected["p1"]}


def test_what_is_of_slices_is_refused_in_a_line(program, run, source, tmp_path, capsys):
    with pytest.raises(UserError, match="--tile is for runs on slices") as error:
        program("--workdir", run, "--tile", source)
    assert "\n" not in str(error.value)
    rng = np.random.default_rng(0)
    for n in range(6):
        write_image(tmp_path / f"p/s{n}.png", rng.integers(0, 255, (12, 12, 4), np.uint8))
    for alone in ([], ["--single-slice"]):
        with pytest.raises(SystemExit):
            program("--workdir", run, "--output", tmp_path / "o", *alone, tmp_path / "p/s1.png")
        assert "s1: a single slice, and the run was trained on volumes" in capsys.readouterr().err
    program("--workdir", run, "--output", tmp_path / "o", tmp_path / "p")  # a stack is a volume
    assert len(list((tmp_path / "o/p/mask").iterdir())) == 6
    values = set(np.unique(read_result(tmp_path / "o/p/mask").values).tolist())
    assert values <= {0, 1, 2, 4} and values != {0}


def test_mirrored_left_and_right_and_folds_together(program, run, source, tmp_path):
    """--tta averages with the scan mirrored along its columns alone; runs are averaged."""
    cases = [f"BraTS20_Training_{n:03d}" for n in (1, 2, 3)]
    dataset = Dataset(name="brats", source=str(source))
    other = run_on(tmp_path, dataset, cases, seed=1)
    scan = source / cases[0]
    both = ["--workdir", run, "--workdir", other]
    program(*both, "--tta", "--probabilities", "--output", tmp_path / "out", scan)
    prepared = prepare(trained.load(run).config.dataset)
    volume = prepared.volume(prepared.patients[0])
    expected = []
    for loaded in map(trained.load, (run, other)):
        model = make_predictor(loaded.config, loaded.weights)
        plain = model.predict

        def mirrored(weights, image, temperature, plain=plain):
            flipped = plain(weights, image[..., ::-1, :], temperature)[..., ::-1, :]
            return (plain(weights, image, temperature) + flipped) / 2

        model = model._replace(predict=mirrored)
        expected.append(predict_volume(model, volume))
    low = prepared.patients[0].offset
    inside = tuple(slice(a, a + n) for a, n in zip(low, volume.image.shape[:3], strict=True))
    for k, region in enumerate(REGIONS):
        made = read_result(tmp_path / "out" / cases[0] / f"probability_{region}").values
        mean = (expected[0] + expected[1])[..., k] / 2
        np.testing.assert_allclose(made[inside], mean, atol=1e-5)
    assert np.abs(expected[0] - expected[1]).max() > 0.01


def test_a_dicom_series_for_each_channel_gives_segments(program, run, source, tmp_path, capsys):
    pytest.importorskip("highdicom")
    for n, channel in enumerate(CHANNELS):
        write_series(tmp_path / "in/p" / channel, head(n).transpose(2, 1, 0).astype(np.uint16))
    channels = ",".join(f"{c}={{patient}}/{c}" for c in CHANNELS)
    out = tmp_path / "out"
    program(
        *("--workdir", run, "--output", out, "--probabilities"),
        *("--channels", channels, tmp_path / "in"),
    )
    assert {f.name for f in (out / "p").iterdir()} == {
        *("mask.dcm", "overlay.png", "prediction.json"),
        *(f"probability_{region}.dcm" for region in REGIONS),
    }
    regions = trained.load(run).kind.regions
    values = read_result(out / "p/mask", None, regions).values
    masks = to_masks(values, regions)
    sizes = [int(table(out)["p"][f"{region}_voxels"]) for region in REGIONS]
    assert masks.sum((0, 1, 2)).tolist() == sizes and sizes[0] > 0
    # The prediction itself as truth: DICOM-SEG against DICOM-SEG.
    truth = tmp_path / "truth"
    truth.mkdir()
    shutil.copy(out / "p/mask.dcm", truth / "p_seg.dcm")
    evaluate.main(["--predictions", str(out), "--truth", str(truth)])
    assert "regions and their labels are the model's" in capsys.readouterr().out
    scores = read_json(out / "evaluation/scores.json")
    assert [scores["regions"][r]["patients"]["dice"]["mean"] for r in REGIONS] == [1, 1, 1]
    gallery = open_predictions(run, [tmp_path / "in"], out, channels, None, truth)
    np.testing.assert_array_equal(gallery.predict(0).mask, masks > 0)
    np.testing.assert_array_equal(gallery.scan(0).truth, masks > 0)


MEASURED = """
import sys
from jaxseg import predict
predict.main(sys.argv[1:])
print([line for line in open("/proc/self/status") if line.startswith("VmHWM")][0])
"""


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").is_file(), reason="no /proc")
def test_a_case_of_brats_takes_less_than_2_gb(source, tmp_path):
    """240 x 240 x 155 voxels of four sequences and three regions, the whole program.

    That devices do not matter is shown in test_patch_windows.py.
    """
    cases = [f"BraTS20_Training_{n:03d}" for n in (1, 2, 3)]
    run = run_on(tmp_path, Dataset(name="brats", source=str(source)), cases, patch=(64, 64, 64))
    rng = np.random.default_rng(0)
    for suffix in OLD:
        voxels = np.zeros((240, 240, 155), np.int16)
        voxels[30:210, 10:230, 5:150] = rng.integers(300, 3000, (180, 220, 145))
        write_nifti(tmp_path / f"in/x/x{suffix}.nii", voxels, AFFINE)
    done = subprocess.run(
        [
            *(sys.executable, "-c", MEASURED, "--workdir", str(run)),
            *("--output", str(tmp_path / "out"), str(tmp_path / "in")),
        ],
        env=os.environ | {"XLA_FLAGS": ""},
        capture_output=True,
        text=True,
        check=True,
    )
    peak_mib = int(done.stdout.split("VmHWM:")[1].split()[0]) / 1024
    assert peak_mib < 2000e6 / 2**20
    assert read_result(tmp_path / "out/x/mask").values.shape == (155, 240, 240)
