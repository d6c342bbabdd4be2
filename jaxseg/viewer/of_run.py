"""A training run for the viewer: its patients, their scores, predictions on demand."""

import csv
from collections.abc import Mapping
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
    point, model = run_trained.points[0], trained.predictor(run_trained)
    # What is shown is the first region.

    def scan(number: int) -> Scan:
        volume = prepared.volume(patients[number])
        return make_scan(volume.image, volume.mask[..., 0] > 0, volume.spacing_mm)

    def predict(number: int) -> Prediction:
        volume = prepared.volume(patients[number])
        probability = predict_volume(model, volume)[..., 0]
        mask = operating.segment(probability, point, volume.spacing_mm, volume.affine)
        return make_prediction(mask, probability)

    folder = run / "evaluation" / ("external" if source else split)
    scores = read_table(folder / "patients.csv")
    return Gallery(
        title=f"{run.absolute().name}, {source or split}",
        notes=tuple(_notes(folder, run_trained, source, split)),
        volume_unit="ml" if any(p.spacing_mm for p in patients) else "voxels",
        rows=tuple(_row(p, scores.get(p.id)) for p in patients),
        threshold=point.threshold,
        channel=config.dataset.shown_channel(prepared.num_channels),
        scan=remember(scan),
        predict=remember(predict),
        channels=tuple(name.upper() for name in run_trained.kind.channels),
    )


def read_table(path: Path) -> dict[str, dict[str, str]]:
    """Return the rows of a table by its column `patient`; none when there is no such file."""
    if not path.is_file():
        return {}
    try:
        with path.open(newline="", encoding="utf-8") as file:
            # Of several regions the first.
            return {row["patient"]: row for row in reversed([*csv.DictReader(file)])}
    except (OSError, KeyError, ValueError) as error:
        raise UserError(f"{path}: not readable as a table of patients ({error})") from error


def _notes(folder: Path, run: trained.Trained, source: str | None, split: str) -> list[str]:
    """Return what has to be known before the pictures are believed."""
    step, point = run.step, run.points[0]
    notes = [f"Predictions of the best weights, step {step}."]
    if len(run.regions) > 1:
        notes.append(f"Shown is the region {run.regions[0]} of {', '.join(run.regions)}.")
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


def _row(patient: Patient, score: Mapping[str, str] | None) -> PatientRow:
    """Return the patient's line in the list and the scores beside its picture."""
    voxel_mm3 = patient.voxel_mm3
    volume = sum(patient.tumour_pixels)
    truth = ("truth", _volume(volume, voxel_mm3))
    shown = _in_unit(volume, voxel_mm3)
    if score is None:
        return PatientRow(patient.id, None, shown, (truth, ("slices", str(patient.num_slices))))
    change = score["volume_error"]
    unit = "mm" if voxel_mm3 else "pixels"
    facts = (
        ("Dice", f"{float(score['dice']):.3f}"),
        ("IoU", f"{float(score['iou']):.3f}"),
        ("sensitivity", f"{float(score['sensitivity']):.3f}"),
        ("precision", f"{float(score['precision']):.3f}"),
        (f"HD95, {unit}", f"{float(score['hd95']):.1f}"),
        truth,
        ("predicted", _volume(int(score["predicted_voxels"]), voxel_mm3)),
        ("volume error", f"{100 * float(change):+.1f} %" if change else "-"),
        ("empty slices hit", f"{score['false_positive_slices']} of {score['empty_slices']}"),
    )
    return PatientRow(patient.id, float(score["dice"]), shown, facts)


def _in_unit(voxels: int, voxel_mm3: float | None) -> float:
    return voxels * voxel_mm3 / 1000 if voxel_mm3 else voxels


def _volume(voxels: int, voxel_mm3: float | None) -> str:
    volume = _in_unit(voxels, voxel_mm3)
    return f"{volume:.1f} ml" if voxel_mm3 else f"{volume:,} voxels"
