"""Prediction: the masks of evaluation, whole folders or none, honest tables, faults."""

import csv
import dataclasses
import errno
import functools
import io
import json
import subprocess
import sys

import cv2
import numpy as np
import pytest
from fake_config import tiny_config
from fake_data import write_image
from fake_volumes import oblique_affine, write_nifti
from tqdm import tqdm

from jaxseg import predict
from jaxseg.config import Dataset, Input, Split
from jaxseg.datasets import phantom
from jaxseg.datasets.prepare import prepare
from jaxseg.datasets.splits import split_patients
from jaxseg.errors import UserError
from jaxseg.machine.files import read_json, write_json
from jaxseg.machine.sharding import make_mesh
from jaxseg.prediction import inference, operating, predictor, trained
from jaxseg.prediction.ensemble import read_ensemble
from jaxseg.prediction.operating import OperatingPoint
from jaxseg.prediction.predictions import measure
from jaxseg.runs import checkpoint, workdir
from jaxseg.scans.decode import decode_image
from jaxseg.scoring import contours
from jaxseg.training.state import new_state

POINT = OperatingPoint(threshold=0.5, min_lesion=12, temperature=1.5)


def make_run(folder, config, prepared, point=POINT):
    """Make what a training leaves behind, with random weights."""
    splits = split_patients(prepared.patients, config.split)
    workdir.claim(folder, config, prepared, splits)
    state = new_state(config, prepared.num_channels, make_mesh())
    with checkpoint.open_checkpoints(folder) as checkpoints:
        checkpoint.save(checkpoints, 1, state, 0.5)
    operating.write(folder, ["tumour"], [{"point": point._asdict()}])
    return folder


@pytest.fixture(scope="module")
def scans(tmp_path_factory):
    """Three phantom patients as PNG files with masks, every third slice."""
    root = tmp_path_factory.mktemp("scans")
    for i in range(3):
        image, labels = phantom.generate_patient(0, i)
        mask = (labels > 0)[..., None].astype(np.uint8)
        for n in range(0, len(image), 3):
            write_image(root / f"p{i}" / f"s_{n}.png", image[n, :, :100])
            write_image(root / f"p{i}" / f"s_{n}_mask.png", 255 * mask[n, :, :100])
    return root


@pytest.fixture(scope="module")
def prepared(config):
    return prepare(config.dataset)


@pytest.fixture(scope="module")
def config(scans, tmp_path_factory):
    cache = str(tmp_path_factory.mktemp("cache"))
    return tiny_config(
        cache,
        dataset=Dataset(name="image_folder", source=str(scans), cache_dir=cache),
        split=Split(train=("p0",), validation=("p1",), test=("p2",)),
        input=Input(image_size=(32, 32), num_threads=1, crop_to_head=True),
    )


@pytest.fixture(scope="module")
def run(config, prepared, tmp_path_factory):
    return make_run(tmp_path_factory.mktemp("run") / "run", config, prepared)


@pytest.fixture
def program(monkeypatch):
    """The program's main, in this process."""
    monkeypatch.setattr(predict, "start_computing", lambda: None)
    return lambda *argv: predict.main([str(a) for a in argv])


def read_mask(folder):
    files = sorted(folder.iterdir(), key=lambda p: int(p.stem.split("_")[1]))
    return np.stack([decode_image(p.read_bytes())[..., 0] for p in files])


def read_table(output):
    with (output / "predictions.csv").open() as file:
        return list(csv.DictReader(file))


def test_the_masks_are_those_of_evaluation(program, run, scans, prepared, tmp_path, capsys):
    program("--workdir", run, "--output", tmp_path / "out", "--probabilities", scans)
    assert "predicted 3 patients" in capsys.readouterr().out
    rows = {row["patient"]: row for row in read_table(tmp_path / "out")}
    assert list(rows) == ["p0", "p1", "p2"]
    model = trained.predictor(trained.load(run))
    for case in inference.predict_patients(model, prepared, prepared.patients):
        folder, row = tmp_path / "out" / case.patient.id, rows[case.patient.id]
        expected = operating.segment(case.probability[..., 0], POINT)
        assert 0 < expected.mean() < 1
        np.testing.assert_array_equal(read_mask(folder / "mask"), 255 * expected)
        stored = read_mask(folder / "probability") / 65535
        np.testing.assert_allclose(stored, case.probability[..., 0], atol=1e-5)
        assert int(row["voxels"]) == expected.sum()
        assert row["volume_ml"] == ""
        assert cv2.imread(str(folder / "overlay.png")).shape[1] > 1000
        assert row["file"] == str(scans / case.patient.id)


def test_a_row_by_hand():
    mask = np.zeros((2, 4, 4), bool)
    mask[0, 0, 0] = mask[1, 1, 1] = mask[0, 3, 3] = True  # the first two touch at a corner
    probability = np.full(mask.shape, 0.1, np.float32)
    probability[mask] = 0.5, 0.75, 1.0
    row = measure("p", "file", mask, probability, (5.0, 2.0, 1.0))
    assert row == ("p", "file", pytest.approx(0.03), 3, 2, 0.75)
    assert measure("p", "f", np.zeros_like(mask), probability) == ("p", "f", None, 0, 0, None)


def test_a_second_run_skips_and_other_options_are_refused(program, run, scans, tmp_path, capsys):
    options = ("--workdir", run, "--output", tmp_path)
    program(*options, scans / "p0")
    record = tmp_path / "p0" / "prediction.json"
    before = record.stat().st_mtime_ns
    program(*options, scans / "p0", scans / "p1")
    assert "already done: 1 of 2 patients" in capsys.readouterr().out
    assert record.stat().st_mtime_ns == before
    assert [row["patient"] for row in read_table(tmp_path)] == ["p0", "p1"]
    with pytest.raises(UserError, match=r"p0: was predicted with tta = False, now it is True"):
        program(*options, "--tta", scans)
    assert not (tmp_path / "p2").exists()
    program(*options, "--tta", "--overwrite", scans / "p0")
    assert json.loads(record.read_text())["how"]["tta"]
    assert sorted(p.name for p in tmp_path.iterdir()) == ["p0", "p1", "predictions.csv"]


def test_what_cannot_be_read_is_reported_and_the_others_are_done(
    program, run, scans, tmp_path, capsys
):
    (tmp_path / "in").mkdir()
    for name in ("a", "b", "c"):
        (tmp_path / "in" / name).mkdir()
        for path in (scans / "p0").glob("s_?.png"):
            (tmp_path / "in" / name / path.name).write_bytes(path.read_bytes())
    (tmp_path / "in" / "b" / "s_3.png").write_bytes(b"broken")
    with pytest.raises(SystemExit) as stop:
        program("--workdir", run, "--output", tmp_path / "out", tmp_path / "in")
    assert stop.value.code == 1
    error = capsys.readouterr().err
    assert "error: failed: 1 of 3 patients\n  b: b/s_3.png: no PNG, TIFF or JPEG file" in error
    assert [row["patient"] for row in read_table(tmp_path / "out")] == ["a", "c"]


def test_a_full_disk_leaves_whole_patients_and_nothing_else(
    program, run, scans, tmp_path, monkeypatch
):
    draw = contours.prediction_contours

    def full(title, *rest):
        if title.startswith("p1"):
            raise OSError(errno.ENOSPC, "No space left on device")
        return draw(title, *rest)

    monkeypatch.setattr(contours, "prediction_contours", full)
    with pytest.raises(OSError, match="No space left"):
        program("--workdir", run, "--output", tmp_path, scans)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["p0", "predictions.csv"]
    assert [row["patient"] for row in read_table(tmp_path)] == ["p0"]


def test_several_runs_are_an_ensemble(program, run, config, prepared, scans, tmp_path):
    other = dataclasses.replace(config, seed=1)
    point = OperatingPoint(threshold=0.46, min_lesion=4, temperature=0.7)
    second = make_run(tmp_path / "second", other, prepared, point)
    program(
        *("--workdir", run, "--workdir", second, "--probabilities", "--tta"),
        *("--output", tmp_path / "out", scans / "p1"),
    )
    cases = [
        next(
            inference.predict_patients(
                trained.predictor(trained.load(r), True), prepared, prepared.patients[1:]
            )
        )
        for r in (run, second)
    ]
    mean = (cases[0].probability + cases[1].probability)[..., 0] / 2
    stored = read_mask(tmp_path / "out" / "p1" / "probability") / 65535
    np.testing.assert_allclose(stored, mean, atol=1e-5)
    expected = operating.segment(mean, OperatingPoint(0.48, 8))
    np.testing.assert_array_equal(read_mask(tmp_path / "out" / "p1" / "mask"), 255 * expected)

    data = read_json(second / "data.json")
    write_json(second / "data.json", {**data, "num_channels": 2})
    with pytest.raises(UserError, match=r"second: takes the channels channel_1, channel_2, but .*"):
        read_ensemble([run, second])
    write_json(second / "data.json", data)
    operating.write(second, ["tumour"], [{"point": point._replace(unit="mm3")._asdict()}])
    with pytest.raises(UserError, match="second: its smallest lesion is in mm3, that of .* voxels"):
        read_ensemble([run, second])


@pytest.mark.parametrize("tile", [False, True])
def test_a_volume_keeps_its_grid(program, run, tmp_path, capsys, tile):
    nibabel = pytest.importorskip("nibabel")
    image, _ = phantom.generate_patient(0, 0)
    affine = oblique_affine((1, 2, 0), (1, -1, -1), (1.0, 2.0, 1.0))
    voxels = image[::4, :, :100].transpose(1, 0, 2, 3).astype(np.float32)
    path = write_nifti(tmp_path / "p.nii.gz", voxels, affine)
    program("--workdir", run, "--output", tmp_path / "out", *["--tile"] * tile, path)
    # The head of about 100 pixels was shown on 32 in training.
    said = capsys.readouterr().err
    assert ("p: --tile shows the network 3." in said) == tile and "squeezed" not in said
    made = nibabel.load(tmp_path / "out" / "p" / "mask.nii.gz")
    assert made.shape == voxels.shape[:3]
    np.testing.assert_allclose(made.affine, affine, atol=1e-5)
    (row,) = read_table(tmp_path / "out")
    count = int(np.asarray(made.dataobj).sum())
    assert 0 < count == int(row["voxels"])
    assert float(row["volume_ml"]) == pytest.approx(count * 2 / 1000, rel=1e-4)


def test_pixels_that_are_not_square_are_warned_of(program, run, tmp_path, capsys):
    pytest.importorskip("nibabel")
    image, _ = phantom.generate_patient(0, 0)
    voxels = image[::8].transpose(1, 2, 0, 3).astype(np.float32)
    write_nifti(tmp_path / "p.nii.gz", voxels, np.diag((-1.0, -1.5, 4.0, 1)))
    program("--workdir", run, "--output", tmp_path / "out", tmp_path / "p.nii.gz")
    said = "warning: p: axial slices have pixels of 1.5 x 1 mm: the network sees a squeezed head"
    assert said in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["{scans}"], "which run"),
        (["--workdir", "{run}"], "which scans"),
        (["--workdir", "{scans}", "{scans}"], "no run here"),
        (["--workdir", "{run}", "{scans}/x"], "does not exist"),
        (["--workdir", "{run}", "--fill", "t2", "{scans}"], "--fill t2: no such channel"),
        (["--workdir", "{run}", "--channels", "t2=x", "{scans}"], "no channel 't2'"),
        (["--workdir", "{run}", "{scans}/p0/s_0_mask.png"], "no scans; .*s_0_mask.png: a mask by"),
        (["--workdir", "{run}", "--output", "{scans}/p0/s_0.png", "{scans}"], "cannot be written"),
    ],
)
def test_bad_usage(program, run, scans, arguments, message):
    with pytest.raises(UserError, match=message) as error:
        program(*(a.format(run=run, scans=scans) for a in arguments))
    assert "\n" not in str(error.value)


def test_the_program_exits_with_2_and_a_line(tmp_path):
    command = [sys.executable, "-m", "jaxseg.predict", "--workdir", str(tmp_path), "x.png"]
    result = subprocess.run(command, capture_output=True, text=True)
    assert result.returncode == 2
    assert result.stderr == f"error: --workdir {tmp_path}: no run here (no config.json)\n"


def test_a_terminal_shows_how_far_a_large_scan_is(monkeypatch):
    shown = io.StringIO()
    shown.isatty = lambda: True
    bar = functools.partial(tqdm, file=shown, mininterval=0, ascii=True)
    monkeypatch.setattr(predictor, "tqdm", lambda **how: bar(**how | {"delay": 0}))
    assert list(predictor.in_batches(range(5), 2)) == [range(2), range(2, 4), range(4, 5)]
    for done in ("0/5", "2/5", "4/5"):  # at the end it is wiped away
        assert done in shown.getvalue()
    assert list(predictor.in_batches([], 2)) == []
