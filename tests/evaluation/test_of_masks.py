"""Masks that predict wrote, scored against a truth found by name and geometry."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from fake_data import make_slice, write_image
from fake_volumes import oblique_affine, write_nifti, write_scan, write_series

from jaxseg import evaluate
from jaxseg.config import Dataset
from jaxseg.errors import UserError
from jaxseg.evaluation.of_masks import score_masks
from jaxseg.evaluation.truths import regions_of
from jaxseg.layouts.find import find_scans
from jaxseg.layouts.truths import Predicted, assign
from jaxseg.prediction import predictions
from jaxseg.scans.regions import TUMOUR
from jaxseg.scoring.patient_score import score_patient
from jaxseg.scoring.scorecard import read_patients_csv

SHAPE = (4, 12, 16)  # slices, rows, columns, as shown


def masks(seed):
    """Return a truth and a prediction that differ."""
    rng = np.random.default_rng(seed)
    truth = np.zeros(SHAPE, bool)
    truth[2:, 3:8, 4:9] = True  # no symmetry
    return truth, truth ^ (rng.random(SHAPE) > 0.9)


def keep(scan, mask, output):
    """Keep a prediction as `predict` does."""
    volume = scan.read()
    output.mkdir(exist_ok=True)
    row = predictions.measure(
        scan.patient, str(scan.path), mask, mask.astype(np.float32), volume.spacing_mm
    )
    about = {"scan": {"path": str(scan.path.absolute()), "sha256": scan.digest()}}
    predictions.keep(output, row, about, lambda folder: volume.write(folder / "mask", mask))


def check(output, expected, spacing=(), folder=None):
    read = read_patients_csv((folder or output / "evaluation") / "patients.csv")
    assert sorted(read) == sorted(expected)
    for patient, (truth, mask) in expected.items():
        score = score_patient(patient, mask, truth, spacing)
        for name in ("dice", "hd95", "truth_voxels", "predicted_voxels"):
            assert read[patient][name] == pytest.approx(getattr(score, name), rel=1e-5)


def write_slices(root, image, mask_name, number, truth):
    for n in range(SHAPE[0]):
        write_image(root / image.format(number, n), make_slice(n)[0])
        pixels = np.where(truth[n], np.uint8(255), np.uint8(0))[..., None]
        write_image(root / mask_name.format(number, n), pixels)


@pytest.mark.parametrize(
    "image, mask",
    [
        ("p{}/s{}.png", "p{}/s{}_mask.png"),
        ("p{}/images/s{}.tif", "p{}/Masks/s{}.png"),
        ("scans/p{}/s{}.png", "truth/p{}/s{}.png"),
    ],
)
def test_slices(tmp_path, capsys, image, mask):
    expected = {f"p{i}": masks(i) for i in range(3)}
    for i in range(3):
        write_slices(tmp_path / "in", image, mask, i, expected[f"p{i}"][0])
    scans, truth = tmp_path / "in", tmp_path / "in"
    if image.startswith("scans"):
        scans, truth = tmp_path / "in/scans", tmp_path / "in/truth"
    for scan in find_scans(scans, Dataset()):
        keep(scan, expected[scan.patient][1], tmp_path / "out")
    evaluate.main(["--predictions", str(tmp_path / "out"), "--truth", str(truth)])
    check(tmp_path / "out", expected)
    assert "Dice per patient 0." in capsys.readouterr().out
    summary = json.loads((tmp_path / "out/evaluation/scores.json").read_text())
    assert summary["patients"]["n"] == 3
    assert "p1" in (tmp_path / "out/evaluation/report.html").read_text()
    shutil.make_archive(tmp_path / "truth", "zip", truth)
    score_masks(tmp_path / "out", tmp_path / "truth.zip", tmp_path / "scored")
    check(tmp_path / "out", expected, folder=tmp_path / "scored")


def to_file(mask):
    """Return shown slices as a file's voxels under the affine of `write_pair`."""
    return np.transpose(mask, (2, 1, 0)).astype(np.uint8)


AFFINE = np.diag((-1.0, -2.0, 3.0, 1.0))


@pytest.mark.parametrize(
    "scan, truth",
    [
        ("p{}/flair.nii.gz", "p{}/seg.nii.gz"),
        ("p{}_flair.nii.gz", "p{}_seg.nii.gz"),
        ("imagesTr/p{}_0000.nii.gz", "labelsTr/p{}.nii.gz"),
        ("p{}.nii.gz", "p{}.seg.nrrd"),
        ("p{}/flair.nrrd", "p{}/Segmentation.seg.nrrd"),
        ("p{}/flair.nhdr", "p{}/seg.mhd"),
        ("p{}_flair.mha", "p{}_seg.nii.gz"),
    ],
)
def test_volumes_whatever_the_order_of_the_axes(tmp_path, scan, truth):
    pytest.importorskip("nibabel")
    pytest.importorskip("nrrd")
    expected = {}
    for i in range(2):
        true, mask = masks(i)
        write_scan(tmp_path / "in" / scan.format(i), to_file(true) + np.uint8(i), AFFINE)
        turned = AFFINE @ np.array([[-1, 0, 0, 15], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1.0]])
        write_scan(tmp_path / "in" / truth.format(i), to_file(true)[::-1], turned)
    for i, found in enumerate(find_scans(tmp_path / "in", Dataset())):
        expected[found.patient] = masks(i)
        keep(found, masks(i)[1], tmp_path / "out")
    score_masks(tmp_path / "out", tmp_path / "in", None)
    check(tmp_path / "out", expected, (3.0, 2.0, 1.0))


def test_dicom_and_what_does_not_fit(tmp_path, capsys):
    pytest.importorskip("nibabel")
    pytest.importorskip("highdicom")
    true, mask = masks(0)
    for n in range(3):
        write_series(tmp_path / f"in/p{n}", np.ones(SHAPE, np.uint16), seed=n)
    scans = find_scans(tmp_path / "in", Dataset())
    for scan in scans:
        keep(scan, mask, tmp_path / "out")
    (tmp_path / "truth").mkdir()
    scans[0].read().write(tmp_path / "truth/p0", true)
    write_nifti(tmp_path / "truth/p1_seg.nii.gz", np.ones((5, 5, 5), np.uint8), np.eye(4))
    score_masks(tmp_path / "out", tmp_path / "truth", None)
    check(tmp_path / "out", {"p0": (true, mask)})
    said = capsys.readouterr().out
    assert "Warning: p1: not scored: p1_seg.nii.gz: 5x5x5 voxels, the mask 4x12x16" in said
    assert "Warning: p2: not scored: no truth for p2" in said


def test_a_dicom_seg_that_leaves_out_empty_frames_is_a_truth(tmp_path, monkeypatch):
    pytest.importorskip("nibabel")
    highdicom = pytest.importorskip("highdicom")
    true, mask = masks(0)
    true = true.copy()
    true[[0, 2]] = False
    write_series(tmp_path / "in/p0", np.ones(SHAPE, np.uint16))
    (scan,) = find_scans(tmp_path / "in", Dataset())
    keep(scan, mask, tmp_path / "out")
    make = highdicom.seg.Segmentation
    monkeypatch.setattr(
        highdicom.seg, "Segmentation", lambda **given: make(**given | {"omit_empty_frames": True})
    )
    (tmp_path / "truth").mkdir()
    scan.read().write(tmp_path / "truth/p0", true)
    score_masks(tmp_path / "out", tmp_path / "truth", None)
    check(tmp_path / "out", {"p0": (true, mask)})


def test_a_truth_elsewhere_in_space_is_refused(tmp_path):
    pytest.importorskip("nibabel")
    write_nifti(tmp_path / "in/p.nii.gz", to_file(masks(0)[0]), AFFINE)
    (scan,) = find_scans(tmp_path / "in", Dataset())
    keep(scan, masks(0)[1], tmp_path / "out")
    write_nifti(tmp_path / "in/p_seg.nii.gz", to_file(masks(0)[0]), oblique_affine())
    with pytest.raises(
        UserError, match=r"p_seg.nii.gz: (lies on other voxels|.* voxels, the mask)"
    ):
        score_masks(tmp_path / "out", tmp_path / "in", None)
    moved = AFFINE.copy()
    moved[0, 3] += 2
    write_nifti(tmp_path / "in/p_seg.nii.gz", to_file(masks(0)[0]), moved)
    with pytest.raises(UserError, match="lies on other voxels than the scan, up to 2 mm off"):
        score_masks(tmp_path / "out", tmp_path / "in", None)


REGIONS = [{"name": "whole", "labels": [1, 2]}, {"name": "core", "labels": [1]}]


@pytest.mark.parametrize("kept, expected", [(True, "whole core"), (False, "label_1 label_2")])
def test_regions_are_scored_by_their_labels(tmp_path, capsys, kept, expected):
    """By the names that predict kept, else label by label; contours are of the first."""
    pytest.importorskip("nibabel")
    labels = {}
    for i in range(2):
        true, mask = (m.astype(np.uint8) for m in masks(i))
        true[3] *= 2
        mask[:, :, 6:] *= 2
        labels[f"p{i}"] = true, mask
        write_nifti(tmp_path / f"in/p{i}.nii.gz", to_file(true) * 9 + np.uint8(i), AFFINE)
        write_nifti(tmp_path / f"in/p{i}_seg.nii.gz", to_file(true), AFFINE)
    for scan in find_scans(tmp_path / "in", Dataset()):
        keep(scan, labels[scan.patient][1], tmp_path / "out")
        path = tmp_path / f"out/{scan.patient}/prediction.json"
        record = json.loads(path.read_text()) | ({"regions": REGIONS} if kept else {})
        path.write_text(json.dumps(record))
    score_masks(tmp_path / "out", tmp_path / "in", None)
    folder = tmp_path / "out/evaluation"
    summary = json.loads((folder / "scores.json").read_text())
    assert list(summary["regions"]) == expected.split()
    chosen = {"whole": (1, 2), "core": (1,), "label_1": (1,), "label_2": (2,)}
    for region in expected.split():
        read = read_patients_csv(folder / "patients.csv", region)
        for patient, pair in labels.items():
            true, mask = (np.isin(m, chosen[region]) for m in pair)
            score = score_patient(patient, mask, true, (3.0, 2.0, 1.0))
            assert read[patient]["dice"] == pytest.approx(score.dice, rel=1e-5)
    drawn = {path.name for path in folder.glob("*.png")}
    assert drawn >= {f"patient_{name}.png" for name in ("worst", "median", "best")}
    assert f"dice_per_patient_{expected.split()[1]}.png" in drawn
    assert "no picture" not in capsys.readouterr().out


def test_labels_of_one_side_alone_are_no_regions():
    records = [{"regions": REGIONS}]
    assert regions_of(records, {0, 1, 2}, {0, 255})[0] == TUMOUR
    assert [r.name for r in regions_of(records, {0, 1}, {0, 1, 2})[0]] == ["whole", "core"]
    assert [r.name for r in regions_of(records, {0, 1, 2}, {0, 1, 3})[0]] == [
        *("label_1", "label_2", "label_3")
    ]
    assert regions_of([{}], {0, 1}, {0, 1, 2})[0] == TUMOUR
    assert regions_of([{}], {0, 0.2, 0.7}, {0, 1, 2})[0] == TUMOUR


def test_without_its_scan_a_patient_is_scored_but_not_drawn(tmp_path, capsys):
    for i in range(2):
        write_slices(tmp_path / "in", "p{}/s{}.png", "p{}/s{}_mask.png", i, masks(i)[0])
    for scan in find_scans(tmp_path / "in", Dataset()):
        keep(scan, masks(int(scan.patient[1]))[1], tmp_path / "out")
    write_image(tmp_path / "in/p0/s1.png", make_slice(77)[0])
    score_masks(tmp_path / "out", tmp_path / "in", None)
    said = capsys.readouterr().out
    assert f"no picture of p0: {tmp_path}/out/p0: predicted of other files than lie there" in said
    assert "no picture of p1" not in said
    check(tmp_path / "out", {f"p{i}": masks(i) for i in range(2)})


VOLUME = Predicted(Path("/in/p2/flair.nii"))


@pytest.mark.parametrize(
    "masks, predicted, why",
    [
        (["p2/a_seg.nii", "p2/seg.nii", "p2/mask.nii"], VOLUME, "2 masks may be the truth of p2_f"),
        (["p1/flair_seg.nii"], VOLUME, "no truth for p2_flair"),  # of another patient
        (["p1/seg.nii"], VOLUME, "no truth for p2_flair"),
        (["seg.nii"], VOLUME, "no truth for p2_flair"),
        (["p1/p2/flair_seg.nii"], VOLUME, "no truth for p2_flair"),
        (["p2/t1_seg.nii"], VOLUME, "no truth for p2_flair"),
        (["p1/s0_mask.png"], Predicted(Path("/in/p2"), ("s0.png",)), "no truth for s0"),
        (["p2/s0_mask.png"], Predicted(Path("/in/p2"), ("s0.png", "s1.png")), "no truth for s1"),
    ],
)
def test_no_truth_is_guessed(masks, predicted, why):
    found, problems = assign(masks, {"p2_flair": predicted})
    assert not found and problems["p2_flair"].startswith(why)


def test_no_mask_serves_two_patients():
    predicted = {p: Predicted(Path(f"/in/{p}"), ("s0.png",)) for p in ("p1", "p2")}
    found, problems = assign(["s0_mask.png"], predicted)
    assert not found and problems["p2"] == "s0_mask.png may be the truth of several patients"
    found, problems = assign(["p1/s0_mask.png"], predicted)
    assert found == {"p1": ("p1/s0_mask.png",)} and problems == {"p2": "no truth for s0"}


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["--predictions", "x"], "give both --predictions DIR and --truth PATH"),
        (["--predictions", "x", "--truth", "y", "--workdir", "z"], "are masks already; leave"),
        (["--predictions", "{}", "--truth", "{}"], "nothing that jaxseg.predict wrote"),
    ],
)
def test_bad_usage(tmp_path, arguments, message):
    with pytest.raises(UserError, match=message):
        evaluate.main([a.format(tmp_path) for a in arguments])
