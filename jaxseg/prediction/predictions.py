"""The folder that prediction writes: one folder per patient, whole or not at all, and a table."""

import csv
import hashlib
import io
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from jaxseg.errors import UserError
from jaxseg.machine.files import read_json, replace_text, write_json
from jaxseg.prediction import operating
from jaxseg.scans.volume import voxel_mm3

TABLE, _RECORD = "predictions.csv", "prediction.json"
_LONGEST = 245  # bytes of a folder's name; file systems take 255


class PredictionRow(NamedTuple):
    """What predictions.csv says of a patient; None: unknown, or nothing was predicted."""

    patient: str
    file: str  # the file or folder of the scan
    volume_ml: float | None  # of the mask; None when the spacing is unknown
    voxels: int  # of the mask, after the smallest lesions are dropped; pixels over all slices
    largest_component_voxels: int  # neighbours share a face, an edge or a corner
    mean_confidence: float | None  # calibrated probability, mean over the mask


def measure(
    patient: str,
    file: str,
    mask: np.ndarray,
    probability: np.ndarray,
    spacing_mm: tuple[float, ...] = (),
    affine: np.ndarray | None = None,
) -> PredictionRow:
    """Return the row of a patient.

    Args:
        patient: its name.
        file: where its scan is.
        mask: [D, H, W] bool.
        probability: [D, H, W] float32 in 0..1, calibrated.
        spacing_mm: (slice distance, row, column), or () when unknown.
        affine: [4, 4], whose directions tell a sheared voxel from a box; None: a box.
    """
    voxels = int(mask.sum())
    voxel = voxel_mm3(spacing_mm, affine)
    volume_ml = None if voxel is None else voxels * voxel / 1000
    largest = int(largest_component(mask).sum())
    confidence = float(probability[mask].mean(dtype=np.float64)) if voxels else None
    return PredictionRow(patient, file, volume_ml, voxels, largest, confidence)


def largest_component(mask: np.ndarray) -> np.ndarray:
    """Return the largest connected component of a mask, [D, H, W] bool; empty when it is."""
    components, sizes = operating.lesions(mask)
    return components == 1 + np.argmax(sizes) if len(sizes) else mask


def folder_of(output: Path, patient: str) -> Path:
    """Return the folder of a patient; a name too long for one is cut, a digest tells it apart."""
    name = patient.encode()
    if len(name) > _LONGEST:
        digest = hashlib.sha256(name).hexdigest()[:16]
        patient = f"{name[: _LONGEST - 17].decode(errors='ignore')}-{digest}"
    return output / patient


def is_done(output: Path, patient: str, how: dict[str, Any]) -> bool:
    """Return whether a patient is predicted, and in this way.

    Raises:
        UserError: it was predicted in another way.
    """
    path = folder_of(output, patient) / _RECORD
    if not path.exists():
        return False
    made = read_json(path).get("how", {})
    changed = [name for name in how if made.get(name) != how[name]]
    if changed:
        raise UserError(
            f"{path.parent}: was predicted with {changed[0]} = {made.get(changed[0])}, now it is "
            f"{how[changed[0]]}; give another --output, or --overwrite"
        )
    return True


def keep(output: Path, row: PredictionRow, how: dict[str, Any], write: Callable[[Path], None]):
    """Write the folder of a patient beside its place and move it there; an older one goes.

    Args:
        output: folder of the predictions.
        row: of the patient.
        how: by what it was predicted, for `is_done`.
        write: writes the other files of the patient into a folder.

    Raises:
        UserError: it cannot be written, for other reasons than a full disk.
    """
    target = folder_of(output, row.patient)
    try:
        with tempfile.TemporaryDirectory(prefix=".new.", dir=output) as scratch:
            made, old = Path(scratch, "new"), Path(scratch, "old")
            made.mkdir()
            write(made)
            write_json(made / _RECORD, {**row._asdict(), "how": how})
            if target.exists():
                target.rename(old)
            made.rename(target)
    except PermissionError as error:
        raise UserError(f"{target}: cannot be written ({error.strerror})") from error


def write_table(output: Path) -> Path:
    """Write predictions.csv with a row for each patient in the folder; return its path."""
    records = [read_json(path) for path in sorted(output.glob(f"*/{_RECORD}"))]
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow(PredictionRow._fields)
    for record in records:
        table.writerow([_cell(record[name]) for name in PredictionRow._fields])
    replace_text(output / TABLE, text.getvalue())
    return output / TABLE


def _cell(value: str | float | None) -> str:
    if isinstance(value, float):
        return f"{value:.6g}"
    return "" if value is None else str(value)
