"""A training run for the viewer: its patients, their scores, predictions on demand."""

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path

from jaxseg.datasets.index import Patient
from jaxseg.errors import UserError
from jaxseg.evaluation.of_runs import choose_patients
from jaxseg.machine.files import read_json
from jaxseg.prediction import operating, trained
from jaxseg.prediction.inference import predict_volume
from jaxseg.prediction.operating import OperatingPoint
from jaxseg.runs import workdir
from jaxseg.viewer.pictures import (
    Gallery,
    PatientRow,
    Prediction,
    RegionRow,
    Scan,
    make_prediction,
    make_scan,
    remember,
)


def open_run(run: Path, split: str, source: str | None) -> Gallery:
    """Return the patients of a split, or all of another source, with the run's best weights.

    Scores are those that `evaluate` wrote; without them the list has volumes only.

    Args:
        run: workdir of the training run.
        split: train, validation, test or all.
        source: another folder or zip of the same layout; None: the data set of the training.

    Raises:
        UserError: no run, no usable checkpoint, no scans or no patients.
    """
    config = workdir.load_config(run)
    prepared, patients = choose_patients(run, config, split, source)
    if not patients:
        raise UserError(f"the {split} split of this run has no patients")
    workdir.check_fits(run, prepared)
    run_trained = trained.load(run)
    points, model = run_trained.points, trained.predictor(run_trained)

    def scan(number: int) -> Scan:
        volume = prepared.volume(patients[number])
        known = {"voxel_mm3": volume.voxel_mm3, "stats": volume.stats}
        place = volume.spacing_mm, volume.affine is not None
        return make_scan(volume.image, volume.mask > 0, *place, **known)

    def predict(number: int) -> Prediction:
        volume = prepared.volume(patients[number])
        probability = predict_volume(model, volume)
        place = volume.spacing_mm, volume.affine
        masks = operating.segment_regions(probability, points, run_trained.kind.regions, *place)
        return make_prediction(masks, probability)

    folder = run / "evaluation" / ("external" if source else split)
    regions = run_trained.regions
    scores = [read_table(folder / "patients.csv", name) for name in regions]
    return Gallery(
        title=f"{run.absolute().name}, {source or split}",
        notes=tuple(_notes(folder, run_trained, source, split)),
        volume_unit="ml" if any(p.spacing_mm for p in patients) else "voxels",
        rows=tuple(_row(p, [table.get(p.id) for table in scores]) for p in patients),
        thresholds=tuple(point.threshold for point in points),
        channel=config.dataset.shown_channel(prepared.num_channels),
        scan=remember(scan),
        predict=remember(predict),
        channels=tuple(name.upper() for name in run_trained.kind.channels),
        regions=regions,
    )


def read_table(path: Path, region: str | None = None) -> dict[str, dict[str, str]]:
    """Return the rows of a table by its column `patient`; none when there is no such file.

    Args:
        path: of the table.
        region: only its rows; tables of before there were regions have no such column. None: of
            several regions the first.
    """
    if not path.is_file():
        return {}
    try:
        with path.open(newline="", encoding="utf-8") as file:
            rows = [*csv.DictReader(file)]
            wanted = [row for row in rows if region in (None, row.get("region", region))]
            return {row["patient"]: row for row in reversed(wanted)}
    except (OSError, KeyError, ValueError) as error:
        raise UserError(f"{path}: not readable as a table of patients ({error})") from error


def _notes(folder: Path, run: trained.Trained, source: str | None, split: str) -> list[str]:
    """Return what has to be known before the pictures are believed."""
    step, point = run.step, run.points[0]
    notes = [f"Predictions of the best weights, step {step}."]
    if not (folder / "scores.json").is_file():
        notes.append("Not scored yet: run python -m jaxseg.evaluate.")
    else:
        scores = read_json(folder / "scores.json")
        scored, about = scores.get("operating_point"), scores.get("about", {})
        same = scored is None or point == OperatingPoint(*(scored[f] for f in point._fields))
        if about.get("step") != step or not same:
            notes.append("The scores are of another state of the run: run jaxseg.evaluate again.")
        if source and about.get("source") != source:
            notes.append(f"The scores are of another source, {about.get('source')}.")
    if not source and split in ("train", "validation"):
        notes.append("These patients took part in the training: not an honest score.")
    if not source and split == "all":
        notes.append("These include the patients of the training: not an honest score.")
    return notes


def _row(patient: Patient, scores: Sequence[Mapping[str, str] | None]) -> PatientRow:
    """Return the patient's line in the list and the scores of each region beside its picture."""
    alone = len(scores) == 1
    return PatientRow(
        patient.id, tuple(_scored(patient, s) if s else _unscored(patient, alone) for s in scores)
    )


def _unscored(patient: Patient, alone: bool) -> RegionRow:
    """Return a region without scores; the index knows the volume of all regions together only."""
    voxels, voxel_mm3 = sum(patient.tumour_pixels), patient.voxel_mm3
    label = "truth" if alone else "truth, all regions"
    facts = (label, _volume(voxels, voxel_mm3)), ("slices", str(patient.num_slices))
    return RegionRow(None, _in_unit(voxels, voxel_mm3) if alone else None, facts)


def _scored(patient: Patient, score: Mapping[str, str]) -> RegionRow:
    voxels, voxel_mm3 = int(score["truth_voxels"]), patient.voxel_mm3
    change, distance = score["volume_error"], float(score["hd95"])
    unit = "mm" if voxel_mm3 else "pixels"
    facts = (
        ("Dice", f"{float(score['dice']):.3f}"),
        ("IoU", f"{float(score['iou']):.3f}"),
        ("sensitivity", f"{float(score['sensitivity']):.3f}"),
        ("precision", f"{float(score['precision']):.3f}"),
        (f"HD95, {unit}", f"{distance:.1f}"),
        ("truth", _volume(voxels, voxel_mm3)),
        ("predicted", _volume(int(score["predicted_voxels"]), voxel_mm3)),
        ("volume error", f"{100 * float(change):+.1f} %" if change else "-"),
        ("empty slices hit", f"{score['false_positive_slices']} of {score['empty_slices']}"),
    )
    size = _in_unit(voxels, voxel_mm3)
    return RegionRow(float(score["dice"]), size, facts, f"{distance:.1f} {unit}")


def _in_unit(voxels: int, voxel_mm3: float | None) -> float:
    return voxels * voxel_mm3 / 1000 if voxel_mm3 else voxels


def _volume(voxels: int, voxel_mm3: float | None) -> str:
    volume = _in_unit(voxels, voxel_mm3)
    return f"{volume:.1f} ml" if voxel_mm3 else f"{volume:,} voxels"
