"""The folder that prediction writes: one folder per patient, whole or not at all, and a table."""

import csv
import io
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from jaxseg.errors import UserError
from jaxseg.machine.files import read_json, replace_text, write_json
from jaxseg.prediction import operating
from jaxseg.scans.files import PREDICTION
from jaxseg.scans.regions import Region
from jaxseg.scans.volume import voxel_mm3

TABLE = "predictions.csv"


class PredictionRow(NamedTuple):
    """What predictions.csv says of a patient; None: unknown, or nothing was predicted.

    Of several regions it is of the first.
    """

    patient: str
    file: str  # the file or folder of the scan
    volume_ml: float | None  # of the mask; None when the spacing is unknown
    voxels: int  # of the mask, after the smallest lesions are dropped; pixels over all slices
    largest_component_voxels: int  # neighbours share a face, an edge or a corner
    mean_confidence: float | None  # calibrated probability, mean over the mask


SIZES = PredictionRow._fields[2:]  # what is measured of each region


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


def by_region(regions: Sequence[Region], rows: Sequence[PredictionRow]) -> list[dict[str, Any]]:
    """Return what is kept of each region: its name, its labels, and its sizes of these rows."""
    pairs = zip(regions, rows, strict=True)
    return [r._asdict() | {field: getattr(row, field) for field in SIZES} for r, row in pairs]


def largest_component(mask: np.ndarray) -> np.ndarray:
    """Return the largest connected component of a mask, [D, H, W] bool; empty when it is."""
    components, sizes = operating.lesions(mask)
    return components == 1 + np.argmax(sizes) if len(sizes) else mask


def keep(
    output: Path,
    row: PredictionRow,
    about: dict[str, Any],
    write: Callable[[Path], list[str] | None],
) -> list[str]:
    """Write the folder of a patient beside its place and move it there; an older one goes.

    Args:
        output: folder of the predictions.
        row: of the patient.
        about: kept beside the row: `how` and of which `scan`, for `places.plan`.
        write: writes the other files of the patient into a folder, and returns a line for each
            that cannot be written.

    Returns:
        The lines of `write`; they are kept too, as `failed`.

    Raises:
        UserError: it cannot be written, for other reasons than a full disk; a folder of this name
            is there that `predict` has not written.
    """
    target = output / row.patient
    if target.exists() and not (target / PREDICTION).is_file():
        raise UserError(f"{target}: is there already, and no prediction; give another --output")
    try:
        with tempfile.TemporaryDirectory(prefix=".new.", dir=output) as scratch:
            made, old = Path(scratch, "new"), Path(scratch, "old")
            made.mkdir()
            failed = write(made) or []
            write_json(made / PREDICTION, {**row._asdict(), **about, "failed": failed})
            if target.exists():
                target.rename(old)
            made.rename(target)
    except PermissionError as error:
        raise UserError(f"{target}: cannot be written ({error.strerror})") from error
    return failed


def write_table(output: Path) -> Path:
    """Write predictions.csv with a row for each patient in the folder; return its path.

    Where there are several regions, each has columns of its own behind the others.
    """
    records = [read_json(path) for path in sorted(output.glob(f"*/{PREDICTION}"))]
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    sizes = [_sizes(record) for record in records]
    columns = {name: None for size in sizes for name in size}  # in order, each once
    table.writerow([*PredictionRow._fields, *columns])
    for record, size in zip(records, sizes, strict=True):
        values = [record[name] for name in PredictionRow._fields]
        table.writerow([_cell(value) for value in (*values, *map(size.get, columns))])
    replace_text(output / TABLE, text.getvalue())
    return output / TABLE


def _sizes(record: dict[str, Any]) -> dict[str, float | None]:
    """Return {column: value} of the regions of a record, none where it has but one."""
    regions = record.get("regions", ())
    return {
        f"{region['name']}_{field}": region.get(field)
        for region in (regions if len(regions) > 1 else ())
        for field in SIZES
    }


def _cell(value: str | float | None) -> str:
    if isinstance(value, float):
        return f"{value:.6g}"
    return "" if value is None else str(value)
