"""Scans that nobody has labelled: found, predicted, kept."""

import errno
import functools
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from jaxseg.config import Config
from jaxseg.errors import UserError, cause
from jaxseg.imaging.geometry import record_matrix
from jaxseg.imaging.intensity import head_warnings
from jaxseg.imaging.volumes import in_its_volume, slice_records, with_statistics
from jaxseg.layouts.channels import find_by_channel, find_by_kind, parse_patterns
from jaxseg.layouts.find import Scan, find_scans
from jaxseg.prediction import predictions
from jaxseg.prediction.ensemble import Ensemble, predict_probability
from jaxseg.prediction.operating import segment_regions
from jaxseg.prediction.predictor import Predictor
from jaxseg.prediction.trained import load, predictor
from jaxseg.runs import workdir
from jaxseg.scans.nifti import is_nifti
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


def read_scan(scan: Scan, ensemble: Ensemble, alone: bool, known: dict) -> Volume:
    """Read a scan; a slice named by itself is normalised as within its patient, or refused.

    A folder or volume of one slice is all there is of a patient: a warning tells.

    Args:
        scan: to be read.
        ensemble: its runs tell whether slices were normalised together in training.
        alone: whether a slice may be normalised by itself.
        known: of the last patient around a slice, kept from one to the next.

    Raises:
        UserError: it cannot be read, or it is a slice with none beside it.
    """
    volume = scan.read()
    if len(volume.image) > 1 or not any(workdir.knows_volumes(run) for run in ensemble.runs):
        return volume
    text = "a single slice is normalised by itself, which training did not show the network"
    is_all = not scan.path.is_file() or is_nifti(scan.path.name)
    if alone or is_all:
        return volume._replace(warnings=(*volume.warnings, f"{text}: the mask may be far off"))
    if scan.around is None:
        raise UserError(f"{text}: give the folder of the patient, or --single-slice to go on")
    key = str(scan.around.path), scan.around.names
    if key not in known:
        known.clear()
        try:
            known[key] = with_statistics(scan.around.read()._replace(write=None))
        except UserError as error:
            raise UserError(
                f"{text}, and what lies beside it is no volume with it ({error}): give the folder "
                "of the patient, or --single-slice to go on"
            ) from error
    whole = known[key]
    said = (
        f"one slice: normalised with all {len(whole.image)} slices of its patient in "
        f"{scan.around.path} (--single-slice: by itself)"
    )
    volume = volume._replace(warnings=(*volume.warnings, said))
    return in_its_volume(volume, whole, scan.slices_around())


def predict_scan(
    scan: Scan,
    volume: Volume,
    models: Sequence[Predictor],
    ensemble: Ensemble,
    output: Path,
    how: dict[str, Any],
) -> list[str]:
    """Predict a scan and keep what was found.

    Args:
        scan: whom to predict.
        volume: its voxels.
        models: of the ensemble, by `trained.predictor`.
        ensemble: their operating points, and the channel to show.
        output: folder of the predictions.
        how: options, kept beside the result.

    Returns:
        A line for each file that cannot be made; all others are there.

    Raises:
        UserError: the scan cannot be read, or nothing can be written.
    """
    dark = with_statistics(volume)
    warnings = head_warnings(dark.image)
    warnings += tile_warnings(models, dark) if how["tile"] else []
    for warning in (*volume.warnings, *warnings):
        tqdm.write(f"warning: {scan.patient}: {warning}", file=sys.stderr)
    probability = predict_probability(models, dark, how["tile"])
    masks = segment_regions(probability, ensemble.mean_points(), ensemble.kind.regions, *place)
    first = masks[..., 0], probability[..., 0]
    place = volume.spacing_mm, volume.affine
    row = predictions.measure(scan.patient, str(scan.path), *first, *place)
    regions = ensemble.kind.regions
    labels = masks[..., 0] if len(regions) == 1 else to_labels(masks, regions)
    pieces = {"mask": lambda folder: volume.write(folder / "mask", labels)}
    for k, region in enumerate(regions if how["probabilities"] else ()):
        name = "probability" + (f"_{region.name}" if len(regions) > 1 else "")
        pieces[name] = functools.partial(
            lambda folder, name, k: volume.write(folder / name, probability[..., k]), name=name, k=k
        )
    pieces["overlay.png"] = lambda folder: (folder / "overlay.png").write_bytes(
        overlay(row, volume, masks[..., 0], ensemble.config)
    )

    def write(folder: Path) -> list[str]:
        return [line for name, make in pieces.items() if (line := _failed(name, make, folder))]

    about = {"path": str(scan.path.absolute()), "sha256": scan.digest()}
    kept = {"how": how, "scan": about, "regions": [region._asdict() for region in regions]}
    return predictions.keep(output, row, kept, write)


def _failed(name: str, make: Callable[[Path], Any], folder: Path) -> str | None:
    """Make a file; return why it cannot be made, unless nothing else can be either."""
    try:
        make(folder)
    except Exception as error:
        if _ends_all(error):
            raise
        return f"{name} cannot be written: {cause(error)}"
    return None


def _ends_all(error: Exception) -> bool:
    """Tell whether an error would meet every other scan as well: a full disk."""
    full = (errno.ENOSPC, errno.EDQUOT, errno.EROFS)
    return isinstance(error, OSError) and error.errno in full


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
    return contours.prediction_contours(title, volume.image[..., channel], mask, aspect)


def predict_scans(
    scans: Sequence[Scan],
    ensemble: Ensemble,
    output: Path,
    how: dict[str, Any],
    alone: bool = False,
) -> dict[str, str]:
    """Predict one scan after the other, with one in memory.

    Args:
        scans: named as their folders in the output.
        ensemble: what predicts.
        output: folder of the predictions.
        how: options.
        alone: whether single slices are normalised by themselves.

    Returns:
        For each scan that failed, or of which something could not be written, its name and why,
        on one line, whatever was raised.
    """
    models = [predictor(load(run), how["tta"]) for run in ensemble.runs]
    problems, known, progress = {}, {}, tqdm(scans, "predicting", unit="patient", disable=None)
    try:
        for scan in progress:
            try:
                volume = read_scan(scan, ensemble, alone, known)
                failed = predict_scan(scan, volume, models, ensemble, output, how)
            except Exception as error:
                if _ends_all(error):
                    raise
                failed = [cause(error)]
            if failed:
                problems[scan.patient] = "; ".join(failed)
    finally:  # whatever ends it early, the table holds who is done
        progress.close()
        predictions.write_table(output)
    return problems


def find_all(
    inputs: Sequence[Path],
    ensemble: Ensemble,
    patterns: str | None,
    fill: str | None,
    notes: list[str] | None = None,
) -> list[Scan]:
    """Return the scans at the inputs; UserError when there are none.

    Args:
        inputs: files, folders, zips.
        ensemble: its channels, and the settings of its data set.
        patterns: one file per channel, see `channels.parse_patterns`.
        fill: the channel that stands in for missing ones.
        notes: what is left out is appended, one line each.
    """
    names, scans, notes = ensemble.channels, [], [] if notes is None else notes
    if fill is not None and fill not in names:
        raise UserError(f"--fill {fill}: no such channel; the model takes {', '.join(names)}")
    by_channel = parse_patterns(patterns, names, fill) if patterns else None
    for path in inputs:
        if by_channel is not None:
            scans += find_by_channel(path, by_channel, names, fill)
            continue
        dataset = ensemble.config.dataset
        kept = find_by_kind(path, dataset, names, fill)
        scans += kept or find_scans(path, dataset, names, fill, notes)
    if not scans:
        raise UserError("; ".join(["no scans", *notes]))
    return scans
