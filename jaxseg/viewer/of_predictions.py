"""Scans and what `predict` made of them, for the viewer."""

from collections.abc import Container, Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np

from jaxseg.errors import UserError
from jaxseg.evaluation.truths import Truths, find_truths, read_truth
from jaxseg.layouts.find import Scan as FoundScan
from jaxseg.prediction import places, predictions
from jaxseg.prediction.ensemble import read_ensemble
from jaxseg.prediction.new_scans import find_all
from jaxseg.prediction.results import read_records, read_result
from jaxseg.scans.regions import Region, to_masks
from jaxseg.scans.volume import Images
from jaxseg.viewer.of_run import read_table
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


def open_predictions(
    run: Path,
    inputs: Sequence[Path],
    folder: Path,
    patterns: str | None,
    fill: str | None,
    truth: Path | None = None,
) -> Gallery:
    """Return the scans with the masks that `predict` wrote for them.

    Args:
        run: workdir of the training run that predicted.
        inputs: where the scans are.
        folder: what `predict` wrote.
        patterns: --channels; None: what `predict` was told there.
        fill: --fill; None: what `predict` was told there.
        truth: masks that people drew, as `evaluate --truth` takes them.

    Raises:
        UserError: no run, no scans, or none of them is predicted there.
    """
    ensemble = read_ensemble([run])
    config, regions = ensemble.config, ensemble.kind.regions
    table = read_table(folder / predictions.TABLE)
    found = find_all(inputs, ensemble, *_told(folder, table, patterns, fill))
    scans = _those_predicted(found, folder, table)
    rows = [table[scan.patient] for scan in scans]
    truths = find_truths(truth, folder, read_records(folder)) if truth else None
    scores = _scores(folder, regions) if truth else [{} for _ in regions]
    in_ml = all(row["volume_ml"] for row in rows)
    images: dict[int, Images | None] = {}  # of the series that were shown

    def scan(number: int) -> Scan:
        volume = scans[number].read()
        images[number] = volume.images
        true = truths and _truth(truths, folder, scans[number].patient, regions, volume.images)
        oriented = volume.affine is not None
        return make_scan(volume.image, true, volume.spacing_mm, oriented, volume.voxel_mm3)

    shown = remember(scan)

    def predict(number: int) -> Prediction:
        size = shown(number).channels[0].numbers.shape
        return _prediction(scans[number], folder, size, regions, images[number])

    return Gallery(
        title=f"{folder.absolute().name} of {run.absolute().name}",
        notes=tuple(_notes(folder, scans, len(found), truth)),
        volume_unit="ml" if in_ml else "voxels",
        rows=tuple(_row(row, in_ml, regions, scores) for row in rows),
        thresholds=None,  # several runs may have predicted, each with its own
        channel=config.dataset.shown_channel(len(ensemble.channels)),
        scan=shown,
        predict=remember(predict),
        channels=tuple(name.upper() for name in ensemble.kind.channels),
        regions=tuple(region.name for region in regions),
    )


def _prediction(
    scan: FoundScan,
    folder: Path,
    size: tuple[int, ...],
    regions: Sequence[Region],
    images: Images | None,
) -> Prediction:
    """Return what was predicted for a scan; UserError where that is of other files or voxels."""
    places.check_same(scan, folder)
    where = folder / scan.patient
    mask = read_result(where / "mask", images, regions)
    if mask is None:
        raise UserError(f"{where}: no mask there")
    found = mask.values.shape
    if found != size:
        raise UserError(f"{where}: mask of {found} voxels, scan of {size}: predict anew")
    return make_prediction(_masks(mask.values, regions), _probability(where, regions, images))


def _those_predicted(
    found: Sequence[FoundScan], folder: Path, table: Container[str]
) -> list[FoundScan]:
    """Return the scans that were predicted, named as there; UserError when none was."""
    named = [(scan, places.predicted(scan, folder, table)) for scan in found]
    scans = [scan._replace(patient=name) for scan, name in named if name]
    if not scans:
        raise UserError(
            f"{folder}: none of the {len(found)} scans is predicted there; run python -m "
            "jaxseg.predict first, or say where with --predictions"
        )
    return scans


def _told(
    folder: Path, table: Iterable[str], patterns: str | None, fill: str | None
) -> tuple[str | None, str | None]:
    """Return --channels and --fill; where neither is given, those that `predict` was given."""
    for name in table if patterns is None and fill is None else ():
        if record := places.read_record(folder, name):
            return record.get("how", {}).get("channels"), record.get("how", {}).get("fill")
    return patterns, fill


def _truth(
    truths: Truths,
    folder: Path,
    patient: str,
    regions: Sequence[Region],
    images: Images | None,
) -> np.ndarray | None:
    """Return the truth of a patient; None where there is no sound one, for it is not scored."""
    mask = read_result(folder / patient / "mask", images, regions)
    try:
        return _masks(read_truth(truths, patient, mask, regions), regions) if mask else None
    except UserError:
        return None


def _masks(values: np.ndarray, regions: Sequence[Region]) -> np.ndarray:
    """Return [D, H, W, K] bool of the values in a mask's file; of one region any but 0 is in."""
    return values[..., None] > 0 if len(regions) == 1 else to_masks(values, regions) > 0


def _probability(
    patient: Path, regions: Sequence[Region], images: Images | None
) -> np.ndarray | None:
    """Return the probabilities [D, H, W, K] that `predict` wrote; None: not of every region."""
    names = [f"probability_{r.name}" for r in regions] if len(regions) > 1 else ["probability"]
    found = [read_result(patient / name, images) for name in names]
    return None if None in found else np.stack([f.values for f in found], axis=-1)


def _scores(folder: Path, regions: Sequence[Region]) -> list[dict[str, dict[str, str]]]:
    """Return for each region patient -> row of what `evaluate --truth` wrote."""
    path = folder / "evaluation" / "patients.csv"
    if len(regions) == 1:
        return [read_table(path)]
    return [read_table(path, region.name) for region in regions]


def _notes(
    folder: Path, scans: Sequence[FoundScan], num_found: int, truth: Path | None
) -> list[str]:
    """Return what has to be known before the pictures are believed."""
    beside = f"the truth is that in {truth}" if truth else "there is no truth to compare with"
    notes = [f"Predictions in {folder}; {beside}."]
    missing = num_found - len(scans)
    notes += [f"{missing} of {num_found} scans are not predicted."] * bool(missing)
    old = sum(not places.says_of_what(folder, scan.patient) for scan in scans)
    if old:
        notes.append(f"Of {old} only the name says of which scan: an older jaxseg predicted them.")
    return notes


def _row(
    row: Mapping[str, str],
    in_ml: bool,
    regions: Sequence[Region],
    scores: Sequence[Mapping[str, Mapping[str, str]]],
) -> PatientRow:
    """Return the patient's line: of each region its scores, where there are any, and sizes."""
    unit, shown = "mm" if row["volume_ml"] else "pixels", []
    for k, (region, table) in enumerate(zip(regions, scores, strict=True)):
        score = table.get(row["patient"])
        found = _scored(score, unit) if score else RegionRow(None, None)
        own = {field: row.get(f"{region.name}_{field}") for field in predictions.SIZES}
        # Of a single region, and in tables of before there were several, only the first is there.
        sizes = own if own["voxels"] else {field: row[field] for field in own if not k}
        if sizes:
            volume = float(sizes["volume_ml" if in_ml else "voxels"])
            found = found._replace(volume=volume, facts=(*found.facts, *_measured(sizes)))
        shown.append(found)
    return PatientRow(row["patient"], tuple(shown))


def _measured(sizes: Mapping[str, str]) -> list[tuple[str, str]]:
    facts = [("predicted voxels", f"{int(sizes['voxels']):,}")]
    if sizes["volume_ml"]:
        facts.insert(0, ("volume", f"{float(sizes['volume_ml']):.1f} ml"))
    if sizes["mean_confidence"]:
        facts.append(("largest component", f"{int(sizes['largest_component_voxels']):,}"))
        facts.append(("mean confidence", f"{float(sizes['mean_confidence']):.3f}"))
    return facts


def _scored(score: Mapping[str, str], unit: str) -> RegionRow:
    dice, distance = float(score["dice"]), float(score["hd95"])
    return RegionRow(dice, None, (("Dice", f"{dice:.3f}"),), f"{distance:.1f} {unit}")
