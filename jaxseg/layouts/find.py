"""What lies at a path, patient by patient: slices, NIfTI files, DICOM series."""

import functools
import re
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from jaxseg.config import Dataset
from jaxseg.errors import UserError
from jaxseg.layouts import image_folder
from jaxseg.layouts.kinds import LGG
from jaxseg.scans.dicom import is_dicom, read_series
from jaxseg.scans.files import IMAGE_SUFFIXES, Files, list_files, read_file
from jaxseg.scans.nifti import SUFFIXES, is_nifti, read_nifti
from jaxseg.scans.slices import read_slices
from jaxseg.scans.volume import Volume, join_channels, with_channels

_KINDS = "PNG, TIFF or JPEG slices, NIfTI files or DICOM series"
_PATIENT = "{patient}"


class Scan(NamedTuple):
    """A patient whose scan can be read."""

    patient: str  # fit to name a folder
    path: Path  # the file or folder to be read
    read: Callable[[], Volume]  # raises UserError


def find_scans(
    path: Path, dataset: Dataset, names: Sequence[str] | None = None, fill: str | None = None
) -> list[Scan]:
    """Return the patients at a path, in order of their names; nothing is read yet.

    A file is one patient, and so is a folder with slices or with a DICOM series; all folders
    inside are searched. In a folder of NIfTI files each file is a patient. Of images, masks
    (`masks/`, `..._mask`) are left out, a folder `images` belongs to the one around it, and
    `patient_regex` and `every_image_is_a_patient` of the data set hold as in training.

    Args:
        path: file, folder or zip of images.
        dataset: of the run; also the spacing of images, which do not state it.
        names: the model's channels, in order; None: whatever a scan has.
        fill: the channel that stands in for missing ones; see `volume.with_channels`.

    Raises:
        UserError: nothing is there, or nothing of these kinds.
    """
    if not path.exists():
        raise UserError(f"{path}: does not exist")
    if path.is_file() and path.suffix.lower() != ".zip":
        found = [_file_scan(path, dataset)]
    else:
        files = list_files(path, LGG.roots)
        found = [*_image_scans(path, files, dataset), *_volume_scans(path, files)]
        if not found:
            raise UserError(f"{path}: no {_KINDS} among {len(files.stamps)} files")

    def adapted(read: Callable[[], Volume]) -> Volume:
        return with_channels(read(), names, fill) if names else read()

    scans = (scan._replace(read=functools.partial(adapted, scan.read)) for scan in found)
    return sorted(scans, key=lambda scan: scan.patient)


def parse_patterns(text: str, names: Sequence[str], fill: str | None = None) -> dict[str, str]:
    """Return {channel: pattern} of `t1={patient}_t1.nii.gz,flair={patient}_flair.nii.gz,...`.

    Raises:
        UserError: another form, an unknown channel, or a missing one without fill.
    """
    patterns = {}
    for part in text.split(","):
        name, _, pattern = part.strip().partition("=")
        if name not in names:
            raise UserError(f"--channels: no channel {name!r}; the model takes {', '.join(names)}")
        if _PATIENT not in pattern or name in patterns:
            example = f"{name}={_PATIENT}_{name}.nii.gz"
            raise UserError(f"--channels: {part.strip()!r}: give each once, as in {example}")
        patterns[name] = pattern
    missing = [name for name in names if name not in patterns]
    if missing and fill not in patterns:
        raise UserError(
            f"--channels: lacks {', '.join(missing)}; the model takes {', '.join(names)} (--fill "
            "says which channel stands in)"
        )
    return patterns


def find_by_channel(
    folder: Path, patterns: Mapping[str, str], names: Sequence[str], fill: str | None = None
) -> list[Scan]:
    """Return the patients whose channels are NIfTI files or DICOM folders of their own.

    Args:
        folder: where to search.
        patterns: path relative to the folder for each channel; `{patient}` is a part of a name,
            the same wherever it stands.
        names: the model's channels, in order.
        fill: the channel that stands in for those that a patient lacks.

    Raises:
        UserError: no folder, or no path matches.
    """
    if not folder.is_dir():
        raise UserError(f"{folder}: --channels are searched in a folder")
    listed = list(list_files(folder).stamps)
    folders = {str(parent) for name in listed for parent in PurePosixPath(name).parents}
    patients = defaultdict(dict)
    for channel, pattern in patterns.items():
        regex = _regex(pattern)
        for name in [*listed, *sorted(folders)]:
            if match := regex.fullmatch(name):
                patients[match["patient"]][channel] = folder / name
    if not patients:
        raise UserError(f"{folder}: nothing matches {' or '.join(patterns.values())}")

    def read(paths: dict[str, Path]) -> Volume:
        return join_channels({c: _read(p) for c, p in paths.items()}, names, fill)

    return [
        Scan(patient, paths.get(fill, next(iter(paths.values()))), functools.partial(read, paths))
        for patient, paths in sorted(patients.items())
    ]


def _regex(pattern: str) -> re.Pattern:
    first, *others = (re.escape(part) for part in pattern.split(_PATIENT))
    return re.compile(f"{first}(?P<patient>[^/]+?)" + "(?P=patient)".join(others))


def _file_scan(path: Path, dataset: Dataset) -> Scan:
    patient = _patient(_stem(path.name))
    if path.name.lower().endswith(IMAGE_SUFFIXES):
        folder = path.resolve().parent
        read = functools.partial(read_slices, lambda name: read_file(folder / name, folder))
        name = path.resolve().name
        return Scan(patient, path, functools.partial(read, [name], dataset.spacing_mm))
    if not is_nifti(path.name) and not is_dicom(path):
        raise UserError(f"{path}: expected {_KINDS}, or a folder of them")
    return Scan(patient, path, functools.partial(_read, path))


def _image_scans(path: Path, files: Files, dataset: Dataset) -> Iterator[Scan]:
    for patient, names in image_folder.find_images(list(files.stamps), dataset).items():
        where = Path(names[0]) if len(names) == 1 else Path(names[0]).parent
        read = functools.partial(read_slices, files.read, names, dataset.spacing_mm)
        yield Scan(_patient(patient or _root(path)), files.path / where, read)


def _volume_scans(path: Path, files: Files) -> Iterator[Scan]:
    """Yield NIfTI files and folders with DICOM files; there are none in a zip."""
    series = []
    for name in files.stamps if path.is_dir() else ():
        file, folder = files.path / name, PurePosixPath(name).parent
        if is_nifti(name):
            yield Scan(_patient(_stem(name)), file, functools.partial(_read, file))
        elif not name.lower().endswith(IMAGE_SUFFIXES) and folder not in series and is_dicom(file):
            series.append(folder)
    for folder in series:
        patient = _patient(str(folder)) if folder.name else _patient(_root(path))
        where = files.path / folder
        yield Scan(patient, where, functools.partial(_read, where))


def _read(path: Path) -> Volume:
    """Read a NIfTI file, a DICOM file or a folder with a DICOM series."""
    if is_nifti(path.name):
        return read_nifti(path)
    if path.is_dir():
        return read_series([p for p in sorted(path.iterdir()) if p.is_file() and is_dicom(p)])
    return read_series([path])


def _root(path: Path) -> str:
    """Return the name of the folder or zip that was given."""
    return _stem(path.resolve().name)


def _stem(name: str) -> str:
    """Return a path without what marks the kind of file; other dots may be part of a name."""
    kinds = (*SUFFIXES, *IMAGE_SUFFIXES, ".dcm", ".zip")
    kind = next((s for s in kinds if name.lower().endswith(s)), "")
    return name[: len(name) - len(kind)]


def _patient(path: str) -> str:
    """Return a path below the input as the name of one folder."""
    return path.replace("/", "_").strip(".") or "scan"
