"""Scans that nobody has labelled: found, predicted, kept."""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from jaxseg.config import Config
from jaxseg.errors import UserError
from jaxseg.imaging.geometry import record_matrix
from jaxseg.imaging.volumes import slice_records
from jaxseg.layouts.channels import find_by_channel, parse_patterns
from jaxseg.layouts.find import Scan, find_scans
from jaxseg.prediction import predictions
from jaxseg.prediction.ensemble import Ensemble, predict_probability
from jaxseg.prediction.inference import Predictor
from jaxseg.prediction.operating import segment_regions
from jaxseg.prediction.trained import load, predictor
from jaxseg.scans.regions import to_labels
from jaxseg.scans.volume import Volume
from jaxseg.scoring import contours

_LARGEST_SCALE = 1.3  # of a tile's pixels to the training's
# Predictions made with others are not taken for done.
OPTIONS = ("channels", "fill", "tta", "tile", "probabilities")


def tile_warnings(models: Sequence[Predictor], volume: Volume) -> list[str]:
    """Return a line when a model would have seen this scan much larger or smaller in training."""
    record, inputs = slice_records(volume)[0], [model.config.input for model in models]
    scales = [record_matrix(record, i.image_size, i.crop_to_head)[0, 0] for i in inputs]
    worst = max(scales, key=lambda scale: abs(np.log(scale)))
    if 1 / _LARGEST_SCALE <= worst <= _LARGEST_SCALE:
        return []
    return [
        f"--tile shows the network {worst:.2g} times the pixels per length that training showed "
        "it; without --tile the scan is resized"
    ]


def predict_scan(
    scan: Scan, models: Sequence[Predictor], ensemble: Ensemble, output: Path, how: dict[str, Any]
):
    """Read a scan, predict it and keep what was found.

    Args:
        scan: whom to predict.
        models: of the ensemble, by `trained.predictor`.
        ensemble: their operating points, and the channel to show.
        output: folder of the predictions.
        how: options, kept beside the result.

    Raises:
        UserError: the scan cannot be read, or the result cannot be written.
    """
    volume = scan.read()
    warnings = tile_warnings(models, volume) if how["tile"] else []
    for warning in (*volume.warnings, *warnings):
        tqdm.write(f"warning: {scan.patient}: {warning}", file=sys.stderr)
    probability = predict_probability(models, volume, how["tile"])
    masks = segment_regions(probability, ensemble.mean_points(), volume.spacing_mm)
    first = masks[..., 0], probability[..., 0]
    row = predictions.measure(scan.patient, str(scan.path), *first, volume.spacing_mm)

    def write(folder: Path):
        regions = ensemble.kind.regions
        labels = masks[..., 0] if len(regions) == 1 else to_labels(masks, regions)
        volume.write(folder / "mask", labels)
        for k, region in enumerate(regions if how["probabilities"] else ()):
            name = "probability" + (f"_{region.name}" if len(regions) > 1 else "")
            volume.write(folder / name, probability[..., k])
        (folder / "overlay.png").write_bytes(overlay(row, volume, masks[..., 0], ensemble.config))

    predictions.keep(output, row, how, write)


def overlay(
    row: predictions.PredictionRow, volume: Volume, mask: np.ndarray, config: Config
) -> bytes:
    """Return the picture of a patient, as PNG."""
    size = f"{row.voxels:,} voxels predicted" if row.voxels else "nothing predicted"
    if row.volume_ml:
        size += f", {row.volume_ml:.3g} ml"
    side = "" if volume.affine is None else "; the patient's right is on the left"
    channel = config.dataset.shown_channel(volume.image.shape[-1])
    aspect = volume.spacing_mm[1] / volume.spacing_mm[2] if volume.spacing_mm else 1.0
    title = f"{row.patient}\n{size}{side}"
    focus = predictions.largest_component(mask)
    return contours.prediction_contours(title, volume.image[..., channel], mask, focus, aspect)


def predict_scans(
    scans: Sequence[Scan], ensemble: Ensemble, output: Path, how: dict[str, Any]
) -> list[str]:
    """Predict one scan after the other, with one in memory; return a line for each that failed."""
    models = [predictor(load(run), how["tta"]) for run in ensemble.runs]
    problems, progress = [], tqdm(scans, "predicting", unit="patient", disable=None)
    try:
        for scan in progress:
            try:
                predict_scan(scan, models, ensemble, output, how)
            except UserError as error:
                problems.append(f"{scan.patient}: {error}")
    finally:  # whatever ends it early, the table holds who is done
        progress.close()
        predictions.write_table(output)
    return problems


def find_all(
    inputs: Sequence[Path], ensemble: Ensemble, patterns: str | None, fill: str | None
) -> list[Scan]:
    """Return the scans at the inputs; UserError when two have one name, or nothing is there."""
    names, scans = ensemble.channels, []
    if fill is not None and fill not in names:
        raise UserError(f"--fill {fill}: no such channel; the model takes {', '.join(names)}")
    by_channel = parse_patterns(patterns, names, fill) if patterns else None
    for path in inputs:
        if by_channel is not None:
            scans += find_by_channel(path, by_channel, names, fill)
        else:
            scans += find_scans(path, ensemble.config.dataset, names, fill)
    known = {}
    for scan in scans:
        first = known.setdefault(scan.patient, scan)
        if first is not scan:
            raise UserError(
                f"{first.path} and {scan.path}: both are named {scan.patient}; predict them into "
                "different folders (--output)"
            )
    return scans
