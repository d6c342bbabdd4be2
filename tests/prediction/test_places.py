"""Done means the same files, model and options; no mask of one scan stands for another's."""

import csv
import json
import shutil

import numpy as np
import pytest
from fake_config import tiny_config
from fake_data import write_folders, write_image
from fake_run import write_run
from fake_volumes import write_nifti, write_series

from jaxseg import api, evaluate, predict
from jaxseg.config import Dataset, Split
from jaxseg.errors import UserError
from jaxseg.imaging.volumes import with_statistics
from jaxseg.layouts.find import find_scans
from jaxseg.prediction import new_scans, places
from jaxseg.prediction.operating import OperatingPoint
from jaxseg.runs import workdir
from jaxseg.scoring import contours
from jaxseg.viewer.of_predictions import open_predictions

rng = np.random.default_rng(0)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run of one channel with random weights."""
    root = tmp_path_factory.mktemp("trained")
    for p in range(3):
        for s in range(3):
            image = rng.integers(1, 255, (20, 20, 1), np.uint8)
            write_image(root / f"data/p{p}/s{s}.png", image)
            write_image(root / f"data/p{p}/s{s}_mask.png", 255 * (image > 200).astype(np.uint8))
    config = tiny_config(
        str(root / "cache"),
        dataset=Dataset("image_folder", str(root / "data"), str(root / "cache")),
        split=Split(train=("p0",), validation=("p1",), test=("p2",)),
    )
    return write_run(root / "run", config, OperatingPoint(0.5, 0))


@pytest.fixture
def program(monkeypatch, run, tmp_path, capsys):
    """Run the program; return its exit code and what it says."""
    monkeypatch.setattr(predict, "start_computing", lambda: None)

    def main(*argv, output="out"):
        code = 0
        try:
            predict.main(
                ["--workdir", str(run), "--output", str(tmp_path / output), *map(str, argv)]
            )
        except SystemExit as stop:
            code = stop.code
        said = capsys.readouterr()
        return code, said.out, said.err

    return main


def rows(output):
    with (output / "predictions.csv").open() as file:
        return {row["patient"]: row for row in csv.DictReader(file)}


def voxels(seed, depth=3):
    return np.random.default_rng(seed).integers(1, 999, (20, 20, depth)).astype(np.uint16)


def test_scans_of_one_name_are_told_apart(program, tmp_path):
    pytest.importorskip("nibabel")
    paths = [
        write_nifti(tmp_path / f"p{n}/flair.nii.gz", voxels(n, 3 + n), np.eye(4)) for n in (1, 2, 3)
    ]
    assert program(paths[0])[0] == 0
    assert program(paths[1])[0] == 0
    found = rows(tmp_path / "out")
    assert {name: row["file"] for name, row in found.items()} == {
        "flair": str(paths[0]),
        "p2_flair": str(paths[1]),
    }
    # All at once: those that are done are known by what is in them.
    code, out, _ = program(*paths, paths[0])
    assert (code, sorted(rows(tmp_path / "out"))) == (0, ["flair", "p2_flair", "p3_flair"])
    assert "already done: 2 of" in out
    code, out, _ = program(*paths)
    assert code == 0 and "already done: 3 of 3 patients" in out
    program(*paths, output="anew")
    assert sorted(rows(tmp_path / "anew")) == ["p1_flair", "p2_flair", "p3_flair"]


def test_two_disks_with_the_same_folders(program, tmp_path):
    pytest.importorskip("highdicom")
    for n in (1, 2):
        write_series(tmp_path / f"cd{n}/PT000000/ST000000/SE000000", voxels(n), seed=n)
        assert program(tmp_path / f"cd{n}")[0] == 0
    name = "PT000000_ST000000_SE000000"
    assert sorted(rows(tmp_path / "out")) == [name, f"cd2_{name}"]
    # The second disk in the drive of the first: the path is the same.
    before = (tmp_path / f"out/{name}/mask.dcm").read_bytes()
    shutil.rmtree(tmp_path / "cd1")
    write_series(tmp_path / "cd1/PT000000/ST000000/SE000000", voxels(3), seed=3)
    code, _, err = program(tmp_path / "cd1")
    assert code == 1
    assert f"  {name}: {tmp_path}/out/{name}: predicted of other files at the same path" in err
    assert "give another --output, or --overwrite to replace what is there" in err
    assert (tmp_path / f"out/{name}/mask.dcm").read_bytes() == before
    assert program("--overwrite", tmp_path / "cd1")[0] == 0
    assert (tmp_path / f"out/{name}/mask.dcm").read_bytes() != before


def test_a_scan_exported_anew_is_not_done_and_the_others_are(program, tmp_path):
    write_folders(tmp_path / "in")
    for file in (tmp_path / "in").rglob("*.png"):
        write_image(file, rng.integers(0, 255, (20, 20, 1), np.uint8))
    program(tmp_path / "in/p0")
    write_image(tmp_path / "in/p0/s1.png", rng.integers(0, 255, (20, 20, 1), np.uint8))
    code, _, err = program(tmp_path / "in")
    assert code == 1 and "failed: 1 of 3 patients\n  p0: " in err
    assert sorted(rows(tmp_path / "out")) == ["p0", "p1", "p2"]


def sound(folder, *patients):
    for patient in patients:
        for n in range(2):
            write_image(folder / patient / f"s{n}.png", rng.integers(1, 255, (20, 20, 1), np.uint8))
    return folder


def test_moved_scans_are_done(program, tmp_path):
    sound(tmp_path / "in", "a")
    program(tmp_path / "in")
    (tmp_path / "in").rename(tmp_path / "elsewhere")
    assert "already done: 1 of 1" in program(tmp_path / "elsewhere")[1]


def test_predictions_of_old_are_never_taken_for_done(program, tmp_path):
    sound(tmp_path / "in", "a")
    program(tmp_path / "in")
    path = tmp_path / "out/a/prediction.json"
    record = json.loads(path.read_text())
    del record["scan"]
    path.write_text(json.dumps(record))
    code, _, err = program(tmp_path / "in")
    assert code == 1 and "predicted by an older jaxseg, which did not keep of which content" in err
    assert program("--overwrite", tmp_path / "in")[0] == 0
    assert "already done: 1 of 1" in program(tmp_path / "in")[1]


def test_another_state_of_the_run_is_another_model(program, run, tmp_path):
    sound(tmp_path / "in", "a")
    program(tmp_path / "in")
    metrics = workdir.metrics_path(run)
    metrics.write_text('{"step": 2}\n')
    try:
        with pytest.raises(UserError, match="other weights of the run: it was trained on, or anew"):
            program(tmp_path / "in")
    finally:
        metrics.unlink()


def test_a_folder_that_predict_has_not_written_is_never_touched(program, tmp_path):
    """With the scans' own folder as output, folders of one name would have been replaced."""
    folder = sound(tmp_path / "in", "a")
    before = {p: p.read_bytes() for p in folder.rglob("*.png")}
    assert program(folder, output="in")[0] == 0
    assert all(p.read_bytes() == content for p, content in before.items())
    assert sorted(rows(folder)) == ["in_a"]
    code, out, err = program(folder, output="in")
    assert code == 0 and "already done: 1 of 1" in out and "written by jaxseg: in_a" in err


def test_names_that_become_one_are_told_apart(program, tmp_path):
    sound(tmp_path / "in", "x/a_b", "x_a/b", "c")
    assert program(tmp_path / "in")[0] == 0
    assert len(rows(tmp_path / "out")) == 3
    assert "already done: 3 of 3" in program(tmp_path / "in")[1]


@pytest.mark.parametrize("raised", [KeyError("x"), MemoryError(), ZeroDivisionError("a\nb")])
def test_whatever_a_scan_raises_the_others_are_done(program, tmp_path, monkeypatch, raised):
    sound(tmp_path / "in", "a", "b", "c")
    predict_probability = new_scans.predict_probability
    calls = []

    def odd(*arguments):
        calls.append(1)
        if len(calls) == 2:
            raise raised
        return predict_probability(*arguments)

    monkeypatch.setattr(new_scans, "predict_probability", odd)
    code, _, err = program(tmp_path / "in")
    cause = {KeyError: "KeyError: 'x'", MemoryError: "not enough memory"}
    assert code == 1
    assert f"1 of 3 patients\n  b: {cause.get(type(raised), 'ZeroDivisionError: a b')}\n" in err
    assert sorted(rows(tmp_path / "out")) == ["a", "c"]
    assert program(tmp_path / "in")[0] == 0 and len(rows(tmp_path / "out")) == 3


def test_what_can_be_written_is(program, tmp_path, monkeypatch):
    sound(tmp_path / "in", "a", "b")
    draw = contours.prediction_contours

    def odd(title, *rest):
        if title.startswith("a"):
            raise ValueError("no picture")
        return draw(title, *rest)

    with monkeypatch.context() as patch:
        patch.setattr(contours, "prediction_contours", odd)
        code, _, err = program(tmp_path / "in")
    assert code == 1 and "  a: overlay.png cannot be written: ValueError: no picture" in err
    assert sorted(rows(tmp_path / "out")) == ["a", "b"]
    assert len(list((tmp_path / "out/a/mask").iterdir())) == 2
    code, out, _ = program(tmp_path / "in")
    assert code == 0 and "already done: 1 of 2" in out
    assert (tmp_path / "out/a/overlay.png").is_file()


def test_one_slice_has_the_mask_that_it_has_in_its_volume(program, tmp_path):
    """Normalised by itself it would have another."""
    folder = tmp_path / "in"
    for n, gain in enumerate((1.0, 0.1, 0.02)):
        image = gain * rng.integers(50, 255, (20, 20, 1))
        write_image(folder / f"s{n}.png", image.astype(np.uint8))
    program("--probabilities", folder)
    code, _, err = program("--probabilities", folder / "s1.png")
    assert code == 0
    assert "s1: one slice: normalised with all 3 slices of its patient in" in err
    whole, one = (tmp_path / f"out/{p}/probability/s1.png" for p in ("in", "s1"))
    assert one.read_bytes() == whole.read_bytes()
    code, _, err = program("--probabilities", "--single-slice", folder / "s1.png", output="alone")
    assert code == 0 and "a single slice is normalised by itself" in err
    assert (tmp_path / "alone/s1/probability/s1.png").read_bytes() != whole.read_bytes()


def test_one_slice_of_a_scan_with_grey_background_has_the_mask_of_its_volume(program, tmp_path):
    """As of scans that were z-scored within the brain; the slice alone does not show that."""
    folder, head = tmp_path / "in", np.zeros((20, 20, 1), bool)
    head[4:17, 3:16] = True
    for n, (low, high) in enumerate([(20, 250), (140, 250), (20, 120)]):
        tissue = rng.integers(low, high, head.shape)
        write_image(folder / f"s{n}.png", np.where(head, tissue, 128).astype(np.uint8))
    program("--probabilities", folder)
    for n in range(3):
        code, _, err = program("--probabilities", folder / f"s{n}.png")
        assert code == 0 and f"s{n}: one slice: normalised with all 3 slices" in err
        for kind in ("probability", "mask"):
            whole, one = (tmp_path / f"out/{p}/{kind}/s{n}.png" for p in ("in", f"s{n}"))
            assert one.read_bytes() == whole.read_bytes()
        read = api.read_scan(folder / f"s{n}.png")
        within = with_statistics(api.read_scan(folder))
        np.testing.assert_array_equal(read.image[0], within.image[n])
        assert within.image[0, 0, 0, 0] < 20


def test_a_slice_without_others_is_refused_unless_asked_for(program, run, tmp_path, monkeypatch):
    write_image(tmp_path / "one/s.png", rng.integers(1, 255, (20, 20, 1), np.uint8))
    code, _, err = program(tmp_path / "one/s.png")
    assert code == 1 and not (tmp_path / "out/s").exists()
    assert "by itself, which training did not show the network: give the folder of" in err
    assert "or --single-slice to go on" in err
    assert program("--single-slice", tmp_path / "one/s.png")[0] == 0
    code, _, err = program(tmp_path / "one", output="folder")  # all there is of a patient
    assert code == 0, err
    assert "warning: one: a single slice is normalised by itself, which training did not" in err
    write_image(tmp_path / "one/t.png", rng.integers(1, 255, (9, 9, 1), np.uint8))
    code, _, err = program(tmp_path / "one/s.png", output="two")
    assert code == 1 and "what lies beside it is no volume with it (t.png: 9x9 pixels" in err
    monkeypatch.setattr(workdir, "knows_volumes", lambda run: False)  # trained on single slices
    (tmp_path / "one/t.png").unlink()
    code, _, err = program(tmp_path / "one/s.png", output="three")
    assert code == 0 and "by itself" not in err


def test_a_run_knows_whether_its_patients_were_volumes(run, tmp_path):
    assert workdir.knows_volumes(run)
    (tmp_path / "data.json").write_text(json.dumps({"digests": {"train": [["a"], ["b"]]}}))
    assert not workdir.knows_volumes(tmp_path)


def test_the_viewer_shows_no_prediction_of_another_scan(program, run, tmp_path):
    pytest.importorskip("nibabel")
    for n in (1, 2):
        write_nifti(tmp_path / f"p{n}/flair.nii.gz", voxels(n), np.eye(4))
        program(tmp_path / f"p{n}/flair.nii.gz")
    gallery = open_predictions(run, [tmp_path / "p2"], tmp_path / "out", None, None)
    assert [row.patient for row in gallery.rows] == ["p2_flair"]
    gallery.predict(0)
    write_nifti(tmp_path / "p3/flair.nii.gz", voxels(3), np.eye(4))
    with pytest.raises(UserError, match="none of the 1 scans is predicted there"):
        open_predictions(run, [tmp_path / "p3"], tmp_path / "out", None, None)
    write_nifti(tmp_path / "p2/flair.nii.gz", voxels(4), np.eye(4))
    gallery = open_predictions(run, [tmp_path / "p2"], tmp_path / "out", None, None)
    with pytest.raises(UserError, match="predicted of other files than lie there now"):
        gallery.predict(0)


def test_the_viewer_shows_frames_on_the_images_that_they_refer_to(program, run, tmp_path):
    """Their places contradict: by place the mask would stand upside down."""
    pytest.importorskip("highdicom")
    pydicom = pytest.importorskip("pydicom")
    write_series(tmp_path / "in/p", voxels(1))
    assert program("--probabilities", tmp_path / "in")[0] == 0
    gallery = open_predictions(run, [tmp_path / "in"], tmp_path / "out", None, None)
    expected = gallery.predict(0)
    for name in ("mask", "probability"):
        path = tmp_path / f"out/p/{name}.dcm"
        header = pydicom.dcmread(path)
        for group in header.PerFrameFunctionalGroupsSequence:
            place = group.PlanePositionSequence[0]
            place.ImagePositionPatient = [-x for x in place.ImagePositionPatient]
        header.save_as(path)
    gallery = open_predictions(run, [tmp_path / "in"], tmp_path / "out", None, None)
    for before, after in zip(expected, gallery.predict(0), strict=True):
        assert before is not None
        np.testing.assert_array_equal(after, before)
    assert (expected.probability != expected.probability[::-1]).any()


def test_the_viewer_reads_what_predict_was_told(program, run, tmp_path):
    pytest.importorskip("nibabel")
    for n in (1, 2):
        write_nifti(tmp_path / f"in/p{n}/Flair.nii.gz", voxels(n), np.eye(4))
    told = "channel_1={patient}/Flair.nii.gz"
    assert program("--channels", told, tmp_path / "in")[0] == 0
    gallery = open_predictions(run, [tmp_path / "in"], tmp_path / "out", None, None)
    assert [row.patient for row in gallery.rows] == ["p1", "p2"]
    gallery.predict(1)


def test_the_viewer_shows_a_truth_and_its_scores(program, run, tmp_path):
    for patient in ("a", "b"):
        sound(tmp_path / "in", patient)
    mask = np.zeros((20, 20, 1), np.uint8)
    mask[3:9, 4:8] = 255
    for n in range(2):
        write_image(tmp_path / f"in/a/s{n}_mask.png", mask)
    program(tmp_path / "in")
    evaluate.main(["--predictions", str(tmp_path / "out"), "--truth", str(tmp_path / "in")])
    gallery = open_predictions(
        run, [tmp_path / "in"], tmp_path / "out", None, None, tmp_path / "in"
    )
    assert [row.patient for row in gallery.rows] == ["a", "b"]
    np.testing.assert_array_equal(gallery.scan(0).truth, np.stack([mask > 0] * 2))
    assert gallery.scan(1).truth is None
    truth, found = gallery.scan(0).truth, gallery.predict(0).mask
    dice = 2 * (truth & found).sum() / (truth.sum() + found.sum())
    (first,), (second,) = (row.regions for row in gallery.rows)
    assert first.dice == pytest.approx(dice, rel=1e-5) and second.dice is None
    assert first.facts[0] == ("Dice", f"{dice:.3f}")
    assert gallery.notes[0].endswith(f"the truth is that in {tmp_path}/in.")


def test_names_of_a_scan(tmp_path):
    write_image(tmp_path / "cd 1/p/a.1/s.png", np.ones((9, 9, 1), np.uint8))
    (scan,) = find_scans(tmp_path / "cd 1/p/a.1", Dataset())
    names = places.names_of(scan)
    assert names[:3] == ["a.1", "p_a.1", "cd 1_p_a.1"] and names[-1].startswith("a.1-")
