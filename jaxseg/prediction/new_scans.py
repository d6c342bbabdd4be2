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
from jaxseg.imaging.volumes import (
    fitted_warnings,
    in_its_volume,
    slice_records,
    with_statistics,
)
from jaxseg.layouts.channels import find_by_channel, find_by_kind, parse_patterns
from jaxseg.layouts.find import Scan, find_scans
from jaxseg.prediction import places, predictions
from jaxseg.prediction.ensemble import Ensemble, predict_probability
from jaxseg.prediction.operating import segment_regions
from jaxseg.prediction.predictor import Predictor
from jaxseg.prediction.trained import load, predictor
from jaxseg.runs import workdir
from jaxseg.scans.scan_files import is_scan_file
from jaxseg.scans.volume import Volume
from jaxseg.scoring import contours, planes

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

    A folder or volume of one slice is all there is of a patient: a warning tells. A run on volumes
    refuses single slices.

    Args:
        scan: to be read.
        ensemble: its runs tell whether slices were normalised together in training.
        alone: whether a slice may be normalised by itself.
        known: of the last patient around a slice, kept from one to the next.

    Raises:
        UserError: it cannot be read, or it is a slice with none beside it, or of a run on volumes.
    """
    volume = scan.read()
    if ensemble.of_volumes:
        return _for_patches(volume, ensemble.config)
    if len(volume.image) > 1 or not any(workdir.knows_volumes(run) for run in ensemble.runs):
        return volume
    text = "a single slice is normalised by itself, which training did not show the network"
    is_all = not scan.path.is_file() or is_scan_file(scan.path.name)
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


def _for_patches(volume: Volume, config: Config) -> Volume:
    """Return a volume that patches can be cut of; UserError of a single slice."""
    size, wanted = config.input.image_size, config.input.spacing_mm
    if len(volume.image) == 1 < size[0]:
        raise UserError(
            "a single slice, and the run was trained on volumes: give all slices of the patient"
        )
    if not wanted or volume.spacing_mm:
        return volume
    said = (
        f"its spacing is unknown and taken for that of the training grid, "
        f"{' x '.join(map('{:g}'.format, wanted))} mm: the masks may be far off"
    )
    return volume._replace(warnings=(*volume.warnings, said))


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
    dark = with_statistics(volume, fitted=not ensemble.of_volumes)
    warnings = head_warnings(dark.image)
    warnings += [] if ensemble.of_volumes else fitted_warnings(volume)
    warnings += tile_warnings(models, dark) if how["tile"] else []
    for warning in (*volume.warnings, *warnings):
        tqdm.write(f"warning: {scan.patient}: {warning}", file=sys.stderr)
    probability = predict_probability(models, dark, how["tile"])
    regions, place = ensemble.kind.regions, (volume.spacing_mm, volume.affine)
    masks = segment_regions(probability, ensemble.mean_points(), regions, *place)
    who, each = (scan.patient, str(scan.path)), range(len(regions))
    rows = [predictions.measure(*who, masks[..., k], probability[..., k], *place) for k in each]
    pieces = {"mask": lambda folder: volume.write(folder / "mask", masks, regions)}
    for k, region in enumerate(regions if how["probabilities"] else ()):
        name = "probability" + (f"_{region.name}" if len(regions) > 1 else "")
        pieces[name] = functools.partial(
            lambda folder, name, k, region: volume.write(
                folder / name, probability[..., k], (region,)
            ),
            **{"name": name, "k": k, "region": region},
        )
    pieces["overlay.png"] = lambda folder: (folder / "overlay.png").write_bytes(
        overlay(rows, volume, masks, ensemble)
    )

    def write(folder: Path) -> list[str]:
        return [line for name, make in pieces.items() if (line := _failed(name, make, folder))]

    about = places.describe(scan, ensemble.config.dataset.shown_channel(len(ensemble.channels)))
    kept = {"how": how, "scan": about, "regions": predictions.by_region(regions, rows)}
    return predictions.keep(output, rows[0], kept, write)


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
    rows: Sequence[predictions.PredictionRow],
    volume: Volume,
    masks: np.ndarray,
    ensemble: Ensemble,
) -> bytes:
    """Return the picture of a patient, as PNG: of one region on slices, of several in planes.

    Args:
        rows: of each region.
        volume: the scan.
        masks: [D, H, W, K] bool.
        ensemble: what predicted.
    """
    side = "" if volume.affine is None else "; the patient's right is on the left"
    image = volume.image[..., ensemble.config.dataset.shown_channel(volume.image.shape[-1])]
    names = ensemble.kind.region_names
    if len(names) > 1 and len(image) > 1 and volume.spacing_mm:
        sizes = (f"{n} {_ml(row.volume_ml)}" for n, row in zip(names, rows, strict=True))
        title = f"{rows[0].patient}\n{', '.join(sizes)}{side}"
        return planes.prediction_planes(title, image, masks, names, volume.spacing_mm)
    row = rows[0]
    size = f"{row.voxels:,} voxels predicted" if row.voxels else "nothing predicted"
    if row.volume_ml:
        size += f", {_ml(row.volume_ml)}"
    aspect = volume.spacing_mm[1] / volume.spacing_mm[2] if volume.spacing_mm else 1.0
    title = f"{row.patient}\n{size}{side}"
    return contours.prediction_contours(title, image, masks[..., 0], aspect)


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
        kept = find_by_kind(path, dataset, names, fill, notes)
        scans += kept or find_scans(path, dataset, names, fill, notes)
    if not scans:
        raise UserError("; ".join(["no scans", *notes]))
    return scans


def _ml(volume: float) -> str:
    """Return a volume in ml with three digits, or all that are before the point."""
    return f"{volume:,.0f} ml" if volume >= 1000 else f"{volume:.3g} ml"
