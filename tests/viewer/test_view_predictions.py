"""The viewer on what `predict` wrote: masks and probabilities lie on the scan's own voxels."""

import dataclasses
import functools
from pathlib import Path

import numpy as np
import pytest
from fake_config import tiny_config
from fake_data import write_image
from fake_run import NOTHING
from fake_volumes import oblique_affine, write_nifti, write_series

from jaxseg.config import Dataset
from jaxseg.errors import UserError
from jaxseg.layouts.find import find_scans
from jaxseg.layouts.kinds import KINDS
from jaxseg.prediction import predictions
from jaxseg.runs import workdir
from jaxseg.viewer.of_predictions import open_predictions

NAMES = ("t1", "flair", "t1c")
SHAPE = (11, 7, 6)  # slices (2 and 10 would be out of order by letter), rows, columns


def mask_of(shape) -> np.ndarray:
    """Return a mask without any symmetry."""
    mask = np.zeros(shape, bool)
    mask[1, 1:4, 2], mask[2, 1, 2:5], mask[3:, 1, 2] = True, True, True
    return mask


def probability_of(mask: np.ndarray) -> np.ndarray:
    ramp = np.linspace(0, 0.4, mask.size, dtype=np.float32).reshape(mask.shape)
    return np.where(mask, 1 - ramp, ramp).astype(np.float32)


@pytest.fixture
def run(tmp_path):
    """A run that takes three channels; weights are not needed."""
    config = tiny_config(tmp_path / "cache")
    dataset = dataclasses.replace(config.dataset, flair_channel=1)
    workdir.claim(tmp_path / "run", dataclasses.replace(config, dataset=dataset), NOTHING, {})
    return tmp_path / "run"


def write_scan(folder, kind: str) -> np.ndarray:
    """Write a scan of one channel; return its voxels as the viewer shall show them."""
    voxels = np.arange(np.prod(SHAPE)).reshape(SHAPE).astype(np.uint16)
    if kind == "png":
        for i, pixels in enumerate(voxels):
            write_image(folder / f"slice_{i}.png", pixels[..., None])
    elif kind == "nifti":
        pytest.importorskip("nibabel")
        write_nifti(folder / "case.nii.gz", voxels, oblique_affine())
    else:
        pytest.importorskip("highdicom")
        places = [4.0 * n + 8 * (n > 5) for n in range(len(voxels))] if kind == "gap" else None
        frame = "" if kind == "anonymised" else "1.2.9"  # without it there is no DICOM-SEG
        write_series(folder, voxels, places, FrameOfReferenceUID=frame)
    return voxels


@pytest.mark.parametrize("kind", ["png", "nifti", "dicom", "gap", "anonymised"])
def test_a_prediction_comes_back_as_it_was_written(kind, run, tmp_path):
    write_scan(tmp_path / "scans", kind)
    (found,) = find_scans(tmp_path / "scans", Dataset(), NAMES, "flair")
    volume, output = found.read(), tmp_path / "out"
    mask = mask_of(volume.image.shape[:3])
    probability = probability_of(mask)
    row = predictions.measure(found.patient, "x", mask, probability, volume.spacing_mm)

    def write(folder):
        volume.write(folder / "mask", mask)
        volume.write(folder / "probability", probability)

    output.mkdir()
    predictions.keep(output, row, {}, write)
    predictions.write_table(output)

    gallery = open_predictions(run, [tmp_path / "scans"], output, None, "flair")
    scan, prediction = gallery.scan(0), gallery.predict(0)
    np.testing.assert_array_equal(prediction.mask, mask[..., None])
    np.testing.assert_allclose(prediction.probability[..., 0] / 255, probability, atol=1.01 / 255)
    for channel, pixels in zip(scan.channels, np.moveaxis(volume.image, -1, 0), strict=True):
        np.testing.assert_array_equal(channel.offset + channel.step * channel.numbers, pixels)
    assert scan.truth is None
    assert scan.oriented == (kind != "png")
    assert scan.num_planes == (1 if kind == "png" else 3)
    assert scan.spacing_mm == volume.spacing_mm

    (shown,) = gallery.rows
    (region,) = shown.regions
    assert (shown.patient, region.dice) == (found.patient, None)
    assert gallery.volume_unit == ("voxels" if kind == "png" else "ml")
    size = mask.sum() if kind == "png" else mask.sum() * np.prod(volume.spacing_mm) / 1000
    assert region.volume == pytest.approx(size)
    assert dict(region.facts)["predicted voxels"] == str(mask.sum())
    assert gallery.channel == 1


def test_regions_come_back_from_the_labels_that_predict_wrote(tmp_path):
    """With probabilities and truth of each; ids of scores are of the region's rows."""
    config = tiny_config(tmp_path / "cache")
    dataset = dataclasses.replace(config.dataset, name="brain_phantom_regions", flair_channel=1)
    workdir.claim(tmp_path / "run", dataclasses.replace(config, dataset=dataset), NOTHING, {})
    pytest.importorskip("nibabel")
    write_scan(tmp_path / "scans", "nifti")
    (found,) = find_scans(tmp_path / "scans", Dataset(), NAMES, "flair")
    volume, output = found.read(), tmp_path / "out"
    labels = np.zeros(volume.image.shape[:3], np.uint8)
    labels[1:6, 1:5, 1:5], labels[2:5, 2:4, 2:4], labels[3, 2, 2:4] = 2, 1, 4
    kinds = KINDS["brain_phantom_regions"].regions
    names, masks = (
        [region.name for region in kinds],
        (labels > 0, np.isin(labels, (1, 4)), labels == 4),
    )
    measured = [
        predictions.measure(found.patient, "x", mask, labels / 4, volume.spacing_mm)
        for mask in masks
    ]
    ramp = np.linspace(0, 1, labels.size, dtype=np.float32).reshape(labels.shape)

    def write(folder):
        volume.write(folder / "mask", labels)
        for k, name in enumerate(names):
            volume.write(folder / f"probability_{name}", ramp / (k + 1))

    output.mkdir()
    about = {"scan": {"path": str(found.path), "sha256": found.digest()}}
    about["regions"] = predictions.by_region(kinds, measured)
    predictions.keep(output, measured[0], about, write)
    predictions.write_table(output)
    truth = labels.copy()
    truth[1] = 0
    (tmp_path / "truth").mkdir()
    volume.write(tmp_path / "truth" / f"{found.patient}_mask", truth)
    scores = ["patient,dice,hd95,region"]
    scores += [f"{found.patient},0.{k + 5},{k},{name}" for k, name in enumerate(names)]
    (output / "evaluation").mkdir()
    (output / "evaluation/patients.csv").write_text("\n".join(scores))

    asked = tmp_path / "run", [tmp_path / "scans"], output, None, "flair", tmp_path / "truth"
    gallery = open_predictions(*asked)
    prediction, scan = gallery.predict(0), gallery.scan(0)
    expected = np.stack([labels > 0, np.isin(labels, (1, 4)), labels == 4], axis=-1)
    np.testing.assert_array_equal(prediction.mask, expected)
    expected[1] = False
    np.testing.assert_array_equal(scan.truth, expected)
    for k in range(3):
        np.testing.assert_allclose(
            prediction.probability[..., k] / 255, ramp / (k + 1), atol=1.01 / 255
        )
    assert gallery.regions == tuple(names)
    (shown,) = gallery.rows
    assert [region.dice for region in shown.regions] == [0.5, 0.6, 0.7]
    assert [region.hd95 for region in shown.regions] == ["0.0 mm", "1.0 mm", "2.0 mm"]
    voxels = [int(mask.sum()) for mask in masks]
    ml = [n * volume.voxel_mm3 / 1000 for n in voxels]
    assert voxels == [80, 12, 2]
    assert [region.volume for region in shown.regions] == pytest.approx(ml, rel=1e-5)
    facts = [dict(region.facts) for region in shown.regions]
    assert [fact["predicted voxels"] for fact in facts] == [str(n) for n in voxels]
    assert [fact["largest component"] for fact in facts] == [str(n) for n in voxels]
    assert facts[2]["mean confidence"] == "1.000"  # 4 / 4
    table = output / predictions.TABLE
    table.write_text("\n".join(",".join(r.split(",")[:6]) for r in table.read_text().split()))
    old = open_predictions(*asked).rows[0].regions  # a table of before each region was measured
    assert [region.volume for region in old] == [pytest.approx(ml[0], rel=1e-5), None, None]
    assert scan.voxel_mm3 == pytest.approx(volume.voxel_mm3)
    (output / found.patient / f"probability_{names[1]}.nii.gz").unlink()
    assert open_predictions(*asked).predict(0).probability is None


def write_mask(volume, mask: np.ndarray, folder: Path):
    volume.write(folder / "mask", mask)


def test_a_name_too_long_for_a_folder_is_cut_and_told_apart(run, tmp_path):
    """Of folders within folders: each part has a name that a file system takes."""
    parts = ("a" * 150, "ä" * 70)
    for last in ("1", "2"):
        write_scan(tmp_path / "scans" / Path(*parts, last), "png")
    found = find_scans(tmp_path / "scans", Dataset(), NAMES, "flair")
    (tmp_path / "out").mkdir()
    for number, scan in enumerate(found):
        volume = scan.read()
        mask = np.zeros(volume.image.shape[:3], bool)
        mask[number] = True
        row = predictions.measure(scan.patient, "x", mask, mask.astype(np.float32))
        write = functools.partial(write_mask, volume, mask)
        predictions.keep(tmp_path / "out", row, {}, write)
    first, second = (scan.patient for scan in found)
    assert first != second and max(len(first.encode()), len(second.encode())) <= 255
    predictions.write_table(tmp_path / "out")
    gallery = open_predictions(run, [tmp_path / "scans"], tmp_path / "out", None, "flair")
    assert [row.patient for row in gallery.rows] == [scan.patient for scan in found]
    for number in (0, 1):
        assert gallery.predict(number).mask.any((1, 2, 3)).nonzero()[0].tolist() == [number]


def test_without_probabilities_and_with_scans_not_predicted(run, tmp_path):
    for patient in ("a", "b"):
        write_scan(tmp_path / "scans" / patient, "png")
    first, _ = find_scans(tmp_path / "scans", Dataset(), NAMES, "flair")
    mask = np.zeros(SHAPE, bool)
    row = predictions.measure(first.patient, "x", mask, mask.astype(np.float32))
    output = tmp_path / "out"
    with pytest.raises(UserError, match="none of the 2 scans is predicted there; run python -m"):
        open_predictions(run, [tmp_path / "scans"], output, None, "flair")
    output.mkdir()
    volume = first.read()
    predictions.keep(output, row, {}, lambda folder: volume.write(folder / "mask", mask))
    predictions.write_table(output)
    gallery = open_predictions(run, [tmp_path / "scans"], output, None, "flair")
    assert gallery.notes[1] == "1 of 2 scans are not predicted."
    prediction = gallery.predict(0)
    assert not prediction.mask.any() and prediction.probability is None
    assert gallery.rows[0].regions[0].facts == (("predicted voxels", "0"),)
    (tmp_path / "scans/a/slice_10.png").unlink()
    fresh = open_predictions(run, [tmp_path / "scans"], output, None, "flair")
    with pytest.raises(UserError, match=r"mask of \(11, 7, 6\) voxels, scan of \(10, 7, 6\)"):
        fresh.predict(0)
    (output / "a" / "mask").rename(output / "a" / "gone")
    fresh = open_predictions(run, [tmp_path / "scans"], output, None, "flair")
    with pytest.raises(UserError, match="no mask there"):
        fresh.predict(0)
