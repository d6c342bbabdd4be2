"""Masks that `predict` wrote, scored against masks that people drew."""

import contextlib
import json
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from tqdm import tqdm

from jaxseg.config import Evaluation
from jaxseg.errors import UserError
from jaxseg.evaluation.score import say_results
from jaxseg.layouts.truths import Predicted, assign, find_masks
from jaxseg.machine.files import make_folder, replace_bytes, replace_text, write_json
from jaxseg.prediction.results import (
    Result,
    read_records,
    read_result,
    read_values,
    slice_names,
)
from jaxseg.runs import workdir
from jaxseg.scans.decode import decode_mask_values
from jaxseg.scans.files import UNREADABLE, Files, list_beside, list_files
from jaxseg.scans.slices import read_slice
from jaxseg.scoring import figures, report, scorecard
from jaxseg.scoring.scorecard import PatientScore

_SAME_MM = 0.1  # grids whose corners lie closer than this are one


class Truths(NamedTuple):
    """The masks that people drew, and whose they are."""

    files: Files
    found: dict[str, tuple[str, ...]]  # patient: a mask, or one for each slice
    problems: dict[str, str]  # patient: why it has none


def find_truths(path: Path, predictions: Path, records: Mapping[str, Mapping[str, Any]]) -> Truths:
    """Find the masks of predicted patients in a file, a folder or a zip.

    Raises:
        UserError: no masks are there.
    """
    if not path.exists():
        raise UserError(f"--truth {path}: does not exist")
    is_volume = path.is_file() and path.suffix.lower() != ".zip"
    files = list_beside(path.absolute()) if is_volume else list_files(path)
    masks = find_masks(files) if not is_volume else [path.name]
    if not masks:
        raise UserError(f"--truth {path}: no masks as PNG, TIFF, NIfTI or DICOM-SEG")
    predicted = {
        patient: Predicted(_scan(record), _slices(predictions / patient / "mask"))
        for patient, record in records.items()
    }
    return Truths(files, *assign(masks, predicted))


def _scan(record: Mapping[str, Any]) -> Path:
    return Path(record.get("scan", {}).get("path") or record["file"])


def _slices(mask: Path) -> tuple[str, ...]:
    """Return the names of the slices in the order of the mask; none of a volume."""
    return slice_names(mask) if mask.is_dir() else ()


def read_truth(truths: Truths, patient: str, mask: Result) -> np.ndarray:
    """Return the truth of a predicted patient, [D, H, W] bool; as `read_truth_values`."""
    return read_truth_values(truths, patient, mask) > 0


def read_truth_values(truths: Truths, patient: str, mask: Result) -> np.ndarray:
    """Return the truth of a predicted patient, [D, H, W] as in the file, on the grid of its mask.

    Raises:
        UserError: it has none, it cannot be read, or it lies on other voxels.
    """
    if patient in truths.problems:
        raise UserError(truths.problems[patient])
    names = truths.found[patient]
    if mask.slices:
        slices = [read_slice(truths.files.read, n, decode_mask_values)[..., 0] for n in names]
        for name, pixels in zip(names, slices, strict=True):
            _check_shape(name, pixels.shape, mask.values.shape[1:])
        return np.stack(slices)
    (name,) = names
    with _on_disk(truths, name) as path:
        truth = read_values(path)
    _check_shape(name, truth.values.shape, mask.values.shape)
    if truth.affine is not None and mask.affine is not None:
        ends = np.array([(*c, 1) for c in np.ndindex(2, 2, 2)]) * (*mask.values.shape, 1)
        apart = float(np.abs((truth.affine - mask.affine) @ ends.T).max())
        if apart > _SAME_MM:
            raise UserError(f"{name}: lies on other voxels than the scan, up to {apart:.3g} mm off")
    return truth.values


def score_masks(predictions: Path, truth: Path, output: Path | None):
    """Score all that `predict` wrote to a folder; write and print what `evaluate` does.

    Raises:
        UserError: nothing there, or not one patient has a truth that fits.
    """
    records = read_records(predictions)
    truths = find_truths(truth, predictions, records)
    scores, problems, in_mm = [], [], False
    for patient, record in tqdm(records.items(), "scoring", unit="patient", disable=None):
        try:
            mask = read_result(predictions / patient / "mask")
            if mask is None:
                raise UserError("no mask there")
            true = read_truth(truths, patient, mask)
        except UserError as error:
            problems.append(f"{patient}: not scored: {error}")
            continue
        spacing_mm = mask.spacing_mm or _spacing_mm(record)
        in_mm = in_mm or bool(spacing_mm)
        scores.append(scorecard.score_patient(patient, mask.values > 0, true, spacing_mm))
    if not scores:
        raise UserError("\n  ".join([f"{truth}: no truth for any of {len(records)}", *problems]))
    summary = scorecard.summarise(scores, Evaluation().bootstrap_samples, in_mm=in_mm)
    summary["about"] = {"predictions": str(predictions), "truth": str(truth)}
    notes = [f"Masks in {predictions} against those in {truth}; whatever is above 0 is tumour."]
    notes += [f"Warning: {problem}" for problem in problems]
    print("\n".join(notes), end="\n\n")
    _write(output or predictions / "evaluation", summary, scores, notes, records)


def _write(
    output: Path,
    summary: dict[str, Any],
    scores: list[PatientScore],
    notes: list[str],
    records: Mapping[str, Mapping[str, Any]],
):
    make_folder(output)
    write_json(output / "scores.json", summary)
    replace_text(output / "patients.csv", scorecard.patients_csv(scores))
    drawn = {"dice_per_patient": figures.dice_per_patient(scores, summary)}
    for name, image in drawn.items():
        replace_bytes(output / f"{name}.png", image)
    how = json.dumps(next(iter(records.values())).get("how", {}), indent=1)
    title = f"{output.absolute().parent.name}: {len(scores)} patients"
    text = report.page(title, summary, scores, drawn, how, workdir.versions(), notes)
    replace_text(output / "report.html", text)
    say_results(output, summary, list(drawn))


def _check_shape(name: str, truth: tuple[int, ...], mask: tuple[int, ...]):
    if truth != mask:
        sizes = ("x".join(map(str, shape)) for shape in (truth, mask))
        raise UserError("{}: {} voxels, the mask {}".format(name, *sizes))


def _spacing_mm(record: Mapping[str, Any]) -> tuple[float, ...]:
    """Return the spacing that the run was told, where it is still there."""
    try:
        return workdir.load_config(Path(record["how"]["runs"][0])).dataset.spacing_mm
    except (UserError, LookupError):
        return ()


@contextlib.contextmanager
def _on_disk(truths: Truths, name: str) -> Iterator[Path]:
    """Lend the path of a mask; of one in a zip that of a copy."""
    if truths.files.path.is_dir():
        yield truths.files.path / name
        return
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, Path(name).name)
        try:
            path.write_bytes(truths.files.read(name))
        except UNREADABLE as error:
            raise UserError(f"{name}: {error}") from error
        yield path
