"""Masks that people drew for scans that were predicted, and both side by side."""

import contextlib
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from jaxseg.config import Dataset
from jaxseg.errors import UserError
from jaxseg.layouts.find import find_scans
from jaxseg.layouts.truths import Predicted, assign, find_masks
from jaxseg.prediction import places
from jaxseg.prediction.results import (
    Result,
    read_result,
    read_values,
    regions_in,
    slice_names,
)
from jaxseg.runs import workdir
from jaxseg.scans.decode import decode_mask_values
from jaxseg.scans.files import UNREADABLE, Files, list_beside, list_files
from jaxseg.scans.regions import TUMOUR, Region
from jaxseg.scans.slices import read_slice

_MOST_LABELS = 16  # of a mask; more are no labels
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
        raise UserError(
            f"--truth {path}: no masks as PNG, TIFF, NIfTI, NRRD, MetaImage or DICOM-SEG"
        )
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


def read_truth(
    truths: Truths, patient: str, mask: Result, regions: Sequence[Region] = ()
) -> np.ndarray:
    """Return the truth of a predicted patient, [D, H, W] of label values, on its mask's grid.

    Args:
        truths: of all.
        patient: whose.
        mask: of the patient, as predicted.
        regions: that the segments of a DICOM-SEG may be named as.

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
        truth = read_values(path, mask.images, regions)
    _check_shape(name, truth.values.shape, mask.values.shape)
    if truth.affine is not None and mask.affine is not None:
        ends = np.array([(*c, 1) for c in np.ndindex(2, 2, 2)]) * (*mask.values.shape, 1)
        apart = float(np.abs((truth.affine - mask.affine) @ ends.T).max())
        if apart > _SAME_MM:
            raise UserError(f"{name}: lies on other voxels than the scan, up to {apart:.3g} mm off")
    return truth.values


class Pair(NamedTuple):
    """What was predicted for a patient, and what somebody drew."""

    patient: str
    record: Mapping[str, Any]  # that predict kept
    predictions: Path
    truths: Truths

    def read(self) -> tuple[np.ndarray, np.ndarray]:
        """Return the label values of mask and truth, [D, H, W] each; UserError: one is missing."""
        mask = self._mask()
        return mask.values, read_truth(self.truths, self.patient, mask, regions_in(self.record))

    def _mask(self) -> Result:
        mask = read_result(
            self.predictions / self.patient / "mask", regions=regions_in(self.record)
        )
        if mask is None:
            raise UserError("no mask there")
        return mask

    def spacing_mm(self) -> tuple[float, ...]:
        """Return the spacing of the mask, else that the run was told, where it is still there."""
        if spacing_mm := self._mask().spacing_mm:
            return spacing_mm
        try:
            return workdir.load_config(Path(self.record["how"]["runs"][0])).dataset.spacing_mm
        except (UserError, LookupError):
            return ()

    def image(self) -> np.ndarray:
        """Return the channel of the scan that is shown, [D, H, W]; UserError: it is not there."""
        path, mask = _scan(self.record), self._mask()
        if not path.exists():
            raise UserError(f"{path}: not there any more")
        stems = [Path(name).stem for name in mask.slices]
        about = self.record.get("scan", {})
        if "names" in about:  # one of the channels' files is shown
            (scan,) = find_scans(Path(about["root"], about["shown"]), Dataset())
            files = list_files(about["root"])
            whole = scan._replace(patient=self.patient, files=files, names=tuple(about["names"]))
            places.check_same(whole, self.predictions)
            return scan.read().image[..., 0]
        for scan in find_scans(path, Dataset()):
            if stems and [Path(name).stem for name in scan.names] != stems:
                continue
            if not self.record.get("how", {}).get("channels"):  # else its files are more than these
                places.check_same(scan._replace(patient=self.patient), self.predictions)
            image = scan.read().image
            if image.shape[:3] == mask.values.shape:
                return image[..., Dataset().shown_channel(image.shape[-1])]
        raise UserError(f"{path}: no scan of the mask's size")


def regions_of(
    records: Sequence[Mapping[str, Any]], masks: set[float], truths: set[float]
) -> tuple[tuple[Region, ...], str]:
    """Return the regions that masks and truths tell apart, and a line on what they are.

    Args:
        records: that predict kept.
        masks: all values in the masks.
        truths: all values in what people drew.

    Returns:
        The model's regions where the truths have several of their labels and no others; else a
        region for each label where both have several; else whatever is above 0 is tumour.
    """
    masks, truths = masks - {0}, truths - {0}
    kept = {regions_in(record) for record in records}
    regions = kept.pop() if len(kept) == 1 else ()
    known = {label for region in regions for label in region.labels}
    if len(truths) > 1 and masks | truths <= known:
        return regions, "regions and their labels are the model's"
    are_labels = len(masks | truths) <= _MOST_LABELS and all(v == int(v) for v in masks | truths)
    if min(len(masks), len(truths)) > 1 and are_labels:
        found = tuple(Region(f"label_{int(v)}", (int(v),)) for v in sorted(masks | truths))
        return found, "each label is scored by itself"
    return TUMOUR, "whatever is above 0 is tumour"


def _check_shape(name: str, truth: tuple[int, ...], mask: tuple[int, ...]):
    if truth != mask:
        sizes = ("x".join(map(str, shape)) for shape in (truth, mask))
        raise UserError("{}: {} voxels, the mask {}".format(name, *sizes))


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
