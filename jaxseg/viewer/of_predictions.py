"""Scans and what `predict` made of them, for the viewer."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from jaxseg.config import Dataset
from jaxseg.errors import UserError
from jaxseg.layouts.find import find_scans
from jaxseg.prediction import predictions
from jaxseg.prediction.ensemble import read_ensemble
from jaxseg.prediction.new_scans import find_all
from jaxseg.scans.dicom import read_segmentation
from jaxseg.viewer.of_run import read_table
from jaxseg.viewer.pictures import (
    Gallery,
    PatientRow,
    Prediction,
    Scan,
    make_prediction,
    make_scan,
    remember,
)

_FORMS = ("", ".nii.gz", ".nii", ".dcm")  # of a result: a folder of slices, or a file
_FULL = 65535  # a probability of 1 in files of 16 bit


def open_predictions(
    run: Path, inputs: Sequence[Path], folder: Path, patterns: str | None, fill: str | None
) -> Gallery:
    """Return the scans with the masks that `predict` wrote for them; there is no truth.

    Args:
        run: workdir of the training run that predicted.
        inputs: where the scans are.
        folder: what `predict` wrote.
        patterns: --channels, as given to `predict`.
        fill: --fill, as given to `predict`.

    Raises:
        UserError: no run, no scans, or none of them is predicted there.
    """
    ensemble = read_ensemble([run])
    config = ensemble.config
    found = find_all(inputs, ensemble, patterns, fill)
    table = read_table(folder / predictions.TABLE)
    scans = [scan for scan in found if scan.patient in table]
    if not scans:
        raise UserError(
            f"{folder}: none of the {len(found)} scans is predicted there; run python -m "
            "jaxseg.predict first, or say where with --predictions"
        )
    rows = [table[scan.patient] for scan in scans]
    in_ml = all(row["volume_ml"] for row in rows)

    def scan(number: int) -> Scan:
        volume = scans[number].read()
        oriented = volume.affine is not None
        return make_scan(volume.image, None, volume.spacing_mm, oriented)

    shown = remember(scan)

    def predict(number: int) -> Prediction:
        patient = folder / scans[number].patient
        mask, probability = (read_result(patient / name) for name in ("mask", "probability"))
        if mask is None:
            raise UserError(f"{patient}: no mask there")
        size = shown(number).channels[0].numbers.shape
        if mask.shape != size:
            raise UserError(f"{patient}: mask of {mask.shape} voxels, scan of {size}: predict anew")
        return make_prediction(mask > 0, probability)

    missing = len(found) - len(scans)
    notes = [f"Predictions in {folder}; there is no truth to compare with."]
    notes += [f"{missing} of {len(found)} scans are not predicted."] * bool(missing)
    return Gallery(
        title=f"{folder.absolute().name} of {run.absolute().name}",
        notes=tuple(notes),
        volume_unit="ml" if in_ml else "voxels",
        rows=tuple(_row(row, in_ml) for row in rows),
        threshold=None,  # several runs may have predicted, each with its own
        channel=config.dataset.shown_channel(len(ensemble.channels)),
        scan=shown,
        predict=remember(predict),
        channels=tuple(name.upper() for name in ensemble.kind.channels),
    )


def read_result(path: Path) -> np.ndarray | None:
    """Return a mask or probability in 0..1, [D, H, W], as the scan is read; None: not there.

    Args:
        path: without the suffix, as given to `Volume.write`.
    """
    there = [path.with_name(path.name + form) for form in _FORMS]
    there = [file for file in there if file.exists()]
    if not there:
        return None
    if there[0].suffix == ".dcm":
        return read_segmentation(there[0])
    (result,) = find_scans(there[0], Dataset())
    values = result.read().image[..., 0]
    return values / np.float32(_FULL) if values.dtype == np.uint16 else values


def _row(row: Mapping[str, str], in_ml: bool) -> PatientRow:
    facts = [("predicted voxels", f"{int(row['voxels']):,}")]
    if row["volume_ml"]:
        facts.insert(0, ("volume", f"{float(row['volume_ml']):.1f} ml"))
    if row["mean_confidence"]:
        facts.append(("largest component", f"{int(row['largest_component_voxels']):,}"))
        facts.append(("mean confidence", f"{float(row['mean_confidence']):.3f}"))
    volume = float(row["volume_ml" if in_ml else "voxels"])
    return PatientRow(row["patient"], None, volume, tuple(facts))
