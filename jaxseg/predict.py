"""Segment scans: python -m jaxseg.predict --workdir DIR INPUT... [--output DIR].

INPUT is a PNG, TIFF or JPEG slice; a folder with the slices of one patient, or with a folder for
each patient (masks beside them are left out); a zip of those; a NIfTI file (.nii, .nii.gz; 3D, or
4D with the model's channels in order); a folder with one DICOM series; or a folder of any of
these. Scans need the channels the model was trained on, named t1, flair, t1c for the LGG set and
the phantom.

  --workdir DIR    folder of the training run (required); several, each with --workdir, are an
                   ensemble: the mean of their calibrated probabilities and operating points
  --output DIR     where to write; default WORKDIR/predictions
  --channels LIST  one NIfTI file or DICOM folder per channel, searched in the folders INPUT;
                   t1={patient}_t1.nii.gz,flair={patient}_flair.nii.gz,t1c={patient}/T1C
  --fill CHANNEL   stands in for channels that are missing, as FLAIR does in the LGG set; a scan of
                   one channel is taken as this one
  --tta            average with the prediction of the mirrored slices; twice the time
  --tile           tiles of the training size at the scan's own resolution, overlapping by half,
                   instead of slices resized as in training; for runs that did not resize much
  --probabilities  write the calibrated probabilities too
  --overwrite      predict anew what is done already

Writes OUTPUT/PATIENT/mask in the grid and format of the scan: .nii or .nii.gz with its affine,
codes and zooms; .dcm, a DICOM-SEG; or a folder with a mask (0, 255) for each slice, TIFF for TIFF,
else PNG. Likewise probability (NIfTI float32; DICOM-SEG in steps of 1/255; 16 bit), and
overlay.png, contours on the slices most affected. OUTPUT/predictions.csv has for each patient

  patient, file             its name, and where the scan is
  volume_ml                 of the mask; empty when the spacing is unknown
  voxels                    of the mask; pixels of all slices
  largest_component_voxels  neighbours share a face, an edge or a corner
  mean_confidence           calibrated probability, mean over the mask; empty without a mask

Threshold, smallest lesion kept and temperature are those that the run tuned on its validation
patients. What cannot be read is listed at the end, and the others are done. Exit code 0, 1 when
scans failed, or 2 with one line on what to mend. For research use only.
"""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from absl import flags
from tqdm import tqdm

from jaxseg import cli, figures, operating, predictions, workdir
from jaxseg.compile_cache import keep_compiled_programs
from jaxseg.config import Config
from jaxseg.datasets import channel_names
from jaxseg.errors import UserError
from jaxseg.geometry import record_matrix
from jaxseg.inference import Model, load_model, make_records, predict_volume
from jaxseg.operating import OperatingPoint
from jaxseg.tiles import predict_tiles
from jaxseg.volume import Volume
from jaxseg.volume_io import Scan, find_by_channel, find_scans, parse_patterns

_LARGEST_SCALE = 1.3  # of a tile's pixels to the training's
# Predictions made with others are not taken for done.
_OPTIONS = ("channels", "fill", "tta", "tile", "probabilities")


class Ensemble(NamedTuple):
    """Runs that predict together."""

    runs: tuple[Path, ...]
    configs: tuple[Config, ...]
    channels: tuple[str, ...]  # the same for all
    points: tuple[OperatingPoint, ...]

    def point(self) -> OperatingPoint:
        """Return the mean of the runs' thresholds and smallest lesions; 1 as temperature."""
        threshold = float(np.mean([p.threshold for p in self.points]))
        min_lesion = float(np.mean([p.min_lesion for p in self.points]))
        return OperatingPoint(threshold, min_lesion, self.points[0].unit)


def read_ensemble(runs: Sequence[Path]) -> Ensemble:
    """Return what the runs agree on, without their weights.

    Raises:
        UserError: a folder holds no run; they take other channels or measure lesions otherwise.
    """
    configs = tuple(workdir.load_config(run) for run in runs)
    channels = [
        channel_names(config.dataset, workdir.num_channels(run))
        for run, config in zip(runs, configs, strict=True)
    ]
    points = [operating.read(run, config) for run, config in zip(runs, configs, strict=True)]
    for run, names, point in zip(runs, channels, points, strict=True):
        if names != channels[0]:
            raise UserError(
                f"--workdir {run}: takes the channels {', '.join(names)}, but {runs[0]} takes "
                f"{', '.join(channels[0])}"
            )
        if point.unit != points[0].unit:
            raise UserError(
                f"--workdir {run}: its smallest lesion is in {point.unit}, that of {runs[0]} in "
                f"{points[0].unit}"
            )
    return Ensemble(tuple(runs), configs, channels[0], tuple(points))


def predict_probability(
    models: Sequence[Model], records: Sequence[dict[str, Any]], tile: bool
) -> np.ndarray:
    """Return the mean probability of the models, float32 [D, H, W] in 0..1, calibrated.

    Args:
        models: at least one.
        records: of the slices, from `inference.make_records`.
        tile: at the scan's own resolution, see `tiles`; else resized as in training.
    """
    predict = predict_tiles if tile else predict_volume
    return sum(predict(model, records)[..., 0] for model in models) / np.float32(len(models))


def tile_warnings(models: Sequence[Model], record: dict[str, Any]) -> list[str]:
    """Return a line when a model would have seen this scan much larger or smaller in training."""
    inputs = [model.config.input for model in models]
    scales = [record_matrix(record, i.image_size, i.crop_to_head)[0, 0] for i in inputs]
    worst = max(scales, key=lambda scale: abs(np.log(scale)))
    if 1 / _LARGEST_SCALE <= worst <= _LARGEST_SCALE:
        return []
    return [
        f"--tile shows the network {worst:.2g} times the pixels per length that training showed "
        "it; without --tile the scan is resized"
    ]


def predict_scan(
    scan: Scan, models: Sequence[Model], ensemble: Ensemble, output: Path, how: dict[str, Any]
):
    """Read a scan, predict it and keep what was found.

    Args:
        scan: whom to predict.
        models: of the ensemble, by `inference.load_model`.
        ensemble: their operating point, and the channel to show.
        output: folder of the predictions.
        how: options, kept beside the result.

    Raises:
        UserError: the scan cannot be read, or the result cannot be written.
    """
    volume = scan.read()
    records = make_records(volume.image)
    warnings = tile_warnings(models, records[0]) if how["tile"] else []
    for warning in (*volume.warnings, *warnings):
        tqdm.write(f"warning: {scan.patient}: {warning}", file=sys.stderr)
    probability = predict_probability(models, records, how["tile"])
    mask = operating.segment(probability, ensemble.point(), volume.spacing_mm)
    row = predictions.measure(scan.patient, str(scan.path), mask, probability, volume.spacing_mm)

    def write(folder: Path):
        volume.write(folder / "mask", mask)
        if how["probabilities"]:
            volume.write(folder / "probability", probability)
        draw(folder / "overlay.png", row, volume, mask, ensemble.configs[0])

    predictions.keep(output, row, how, write)


def draw(path: Path, row: predictions.Row, volume: Volume, mask: np.ndarray, config: Config):
    """Draw the overlay of a patient."""
    size = f"{row.voxels:,} voxels predicted" if row.voxels else "nothing predicted"
    if row.volume_ml:
        size += f", {row.volume_ml:.3g} ml"
    side = "" if volume.affine is None else "; the patient's right is on the left"
    channel = min(config.dataset.flair_channel, volume.image.shape[-1] - 1)
    aspect = volume.spacing_mm[1] / volume.spacing_mm[2] if volume.spacing_mm else 1.0
    title = f"{row.patient}\n{size}{side}"
    focus = predictions.largest_component(mask)
    figures.prediction_contours(path, title, volume.image[..., channel], mask, focus, aspect)


def predict_scans(
    scans: Sequence[Scan], ensemble: Ensemble, output: Path, how: dict[str, Any]
) -> list[str]:
    """Predict one scan after the other, with one in memory; return a line for each that failed."""
    models, problems = [load_model(run, how["tta"]) for run in ensemble.runs], []
    progress = tqdm(scans, "predicting", unit="patient", disable=None)
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


def find(inputs: Sequence[Path], ensemble: Ensemble, patterns: str | None, fill: str | None):
    """Return the scans at the inputs; UserError when two have one name, or nothing is there."""
    names, scans = ensemble.channels, []
    if fill is not None and fill not in names:
        raise UserError(f"--fill {fill}: no such channel; the model takes {', '.join(names)}")
    by_channel = parse_patterns(patterns, names, fill) if patterns else None
    for path in inputs:
        if by_channel is not None:
            scans += find_by_channel(path, by_channel, names, fill)
        else:
            scans += find_scans(path, ensemble.configs[0].dataset, names, fill)
    known = {}
    for scan in scans:
        first = known.setdefault(scan.patient, scan)
        if first is not scan:
            raise UserError(
                f"{first.path} and {scan.path}: both are named {scan.patient}; predict them into "
                "different folders (--output)"
            )
    return scans


def main(argv: Sequence[str]):
    """Run the program; see the top of the file."""
    flags.DEFINE_multi_string("workdir", None, "folder of the training run")
    flags.DEFINE_string("output", None, "where to write")
    flags.DEFINE_string("channels", None, "one file or folder per channel")
    flags.DEFINE_string("fill", None, "channel that stands in for missing ones")
    flags.DEFINE_bool("tta", False, "average with the mirrored slices")
    flags.DEFINE_bool("tile", False, "tiles at the scan's own resolution")
    flags.DEFINE_bool("probabilities", False, "write the probabilities too")
    flags.DEFINE_bool("overwrite", False, "predict anew what is done already")
    inputs = [Path(path).expanduser() for path in cli.parse_arguments(argv, __doc__)]
    options = flags.FLAGS
    if not options.workdir:
        raise UserError("which run? Give --workdir DIR (see --help)")
    if not inputs:
        raise UserError("which scans? Give files or folders (see --help)")
    keep_compiled_programs()
    runs = [Path(run).expanduser() for run in options.workdir]
    ensemble = read_ensemble(runs)
    scans = find(inputs, ensemble, options.channels, options.fill)
    output = Path(options.output).expanduser() if options.output else runs[0] / "predictions"
    how = {
        "runs": [str(run.absolute()) for run in runs],
        "operating_points": [point._asdict() for point in ensemble.points],
        **{name: options[name].value for name in _OPTIONS},
    }
    todo = scans
    if not options.overwrite:
        todo = [s for s in scans if not predictions.is_done(output, s.patient, how)]
    if len(todo) < len(scans):
        print(f"already done: {len(scans) - len(todo)} of {_patients(len(scans))}")
    problems = []
    if todo:
        workdir.make_folder(output)
        problems = predict_scans(todo, ensemble, output, how)
    print(f"predicted {_patients(len(todo) - len(problems))}: {output / predictions.TABLE}")
    if problems:
        lines = [f"failed: {len(problems)} of {_patients(len(todo))}", *problems]
        print("error: " + "\n  ".join(lines), file=sys.stderr)
        sys.exit(1)


def _patients(count: int) -> str:
    return "1 patient" if count == 1 else f"{count} patients"


if __name__ == "__main__":
    cli.run(main)
