"""What lies at a path, patient by patient: slices, volumes in files, DICOM series."""

import contextlib
import functools
import hashlib
import re
import shutil
import tempfile
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from jaxseg.config import Dataset
from jaxseg.errors import UserError
from jaxseg.layouts import names as says
from jaxseg.layouts.detect import guess_patient_regex
from jaxseg.layouts.dicom_files import INDEX, about_no_scans, is_dicom_member, no_scan
from jaxseg.layouts.kinds import LGG, find_images
from jaxseg.scans.dicom import is_dicom, read_series
from jaxseg.scans.files import IMAGE_SUFFIXES, UNREADABLE, Files, list_beside, list_files, open_file
from jaxseg.scans.scan_files import (
    SUFFIXES,
    is_scan_file,
    read_scan_file,
    read_stored,
    with_voxels,
)
from jaxseg.scans.slices import read_slices
from jaxseg.scans.volume import Volume, with_channels

_KINDS = "PNG, TIFF or JPEG slices, NIfTI, NRRD or MetaImage files or DICOM series"
_LONGEST = 180  # bytes of a patient's name; folders have at most 255, and more is added


class Scan(NamedTuple):
    """A patient whose scan can be read."""

    patient: str  # fit to name a folder
    path: Path  # the file or folder to be read
    read: Callable[[], Volume]  # raises UserError
    root: Path  # what was given; the patient is named by the path from there on
    files: Files  # where its files are
    names: tuple[str, ...]  # of its files
    around: "Scan | None" = None  # of a slice by itself: its patient, if the others lie beside it

    def digest(self) -> str:
        """Return a text that is the same only for the same files; UserError: not readable."""
        found = hashlib.sha256()
        for name in self.names:
            try:
                with self.files.open(name) as file:
                    content = hashlib.file_digest(file, "sha256").hexdigest()
            except UNREADABLE as error:
                raise UserError(f"{name}: {error}") from error
            found.update(f"{PurePosixPath(name).name}\0{content}\n".encode())
        if self.around:
            found.update(self.around.digest().encode())
        return found.hexdigest()

    def slices_around(self) -> list[int]:
        """Return which slices of `around` these are."""
        return [self.around.names.index(name) for name in self.names]

    def other_names(self) -> list[str]:
        """Return names that tell it from others of its name: by the folders above, the last by
        the whole path."""
        above = [_stem(part) for part in self.root.absolute().parts[1:]]
        further = ["_".join((*above[-n:], self.patient)) for n in range(1, min(len(above), 3) + 1)]
        where = hashlib.sha256("\0".join([str(self.path.absolute()), *self.names]).encode())
        return [_short(name) for name in further] + [f"{self.patient}-{where.hexdigest()[:10]}"]


def find_scans(
    path: Path,
    dataset: Dataset,
    names: Sequence[str] | None = None,
    fill: str | None = None,
    notes: list[str] | None = None,
    masks: bool = False,
) -> list[Scan]:
    """Return the patients at a path, in order of their names; no voxel is read yet.

    A file is one patient, and so is a folder with a DICOM series; all folders inside are
    searched. Of volumes in files each file is a patient. Patients of slices are those of
    `kinds.find_images`. Masks, by the name of file or folder, are left out.

    Args:
        path: file, folder or zip.
        dataset: of the run; also the spacing of images, which do not state it.
        names: the model's channels, in order; None: whatever a scan has.
        fill: the channel that stands in for missing ones; see `volume.with_channels`.
        notes: what was left out is appended, one line each.
        masks: whether a file that is named as a mask is read, too.

    Raises:
        UserError: nothing is there, or nothing of these kinds.
    """
    if not path.exists():
        raise UserError(f"{path}: does not exist")
    notes, left_out, found = [] if notes is None else notes, [], []
    if path.is_file() and path.suffix.lower() != ".zip":
        if not masks and says.is_mask("/".join(path.absolute().parts[-2:])):
            left_out.append("a mask by its name, no scan")
        else:
            found = [_file_scan(path, dataset)]
    else:
        files = list_files(path, LGG.roots)
        found = _tree_scans(path, files, dataset, left_out)
        if not found:
            listed = list(files.stamps)
            about = left_out or [says.looks_like(listed)] * bool(says.looks_like(listed))
            raise UserError("; ".join([f"{path}: no {_KINDS} among {len(listed)} files", *about]))
    notes += [f"{path}: {line}" for line in left_out]

    def adapted(read: Callable[[], Volume]) -> Volume:
        return with_channels(read(), names, fill) if names else read()

    def adapt(scan: Scan) -> Scan:
        around = adapt(scan.around) if scan.around else None
        return scan._replace(read=functools.partial(adapted, scan.read), around=around)

    return sorted((adapt(scan) for scan in found), key=lambda scan: scan.patient)


def read_stored_volume(files: Files, name: str) -> Volume:
    """Read a volume's file, also in a zip, with its voxels as they are stored; errors as below."""
    return _read(files, with_voxels(name, files), lambda paths: read_stored(paths[0]))


def read_volume(files: Files, names: Sequence[str]) -> Volume:
    """Read a volume's file or the files of a DICOM series, also in a zip.

    Raises:
        UserError: as `read_scan_file` and `read_series`; a file is not there.
    """
    if is_scan_file(names[0]):
        whole = with_voxels(names[0], files)
        return _read(files, whole, lambda paths: read_scan_file(paths[0]))
    return _read(files, names, read_series)


def _read(files: Files, names: Sequence[str], read: Callable[[list[Path]], Volume]) -> Volume:
    with _on_disk(files, names) as paths:
        try:
            return read(paths)
        except UserError as error:  # in a zip, of the file in there
            text = str(error).replace(str(paths[0].parent), str(files.path))
            raise UserError(text) from error


@contextlib.contextmanager
def _on_disk(files: Files, names: Sequence[str]) -> Iterator[list[Path]]:
    """Lend the paths of files, for libraries that read no others; those of a zip are copies."""
    with contextlib.ExitStack() as stack:
        paths, folder = [files.path / name for name in names], None
        for i, name in enumerate(names):
            try:
                if files.path.is_dir():
                    open_file(paths[i]).close()
                    continue
                folder = folder or Path(stack.enter_context(tempfile.TemporaryDirectory()))
                paths[i] = folder / PurePosixPath(name).name
                with files.open(name) as packed, paths[i].open("wb") as copy:
                    shutil.copyfileobj(packed, copy)
            except UNREADABLE as error:
                raise UserError(f"{files.path / name}: {error}") from error
        yield paths


def folder_series(files: Files, folder: PurePosixPath) -> tuple[str, ...]:
    """Return the DICOM files right in a folder of the files, those that are scans."""
    inside = [name for name in files.stamps if PurePosixPath(name).parent == folder]
    found = [n for n in inside if _may_be_dicom(files, n) and not no_scan(files, n)]
    return tuple(found)


def _is_other(name: str) -> bool:
    """Tell whether a file is named neither as a slice nor as a volume."""
    return not name.lower().endswith((*IMAGE_SUFFIXES, *SUFFIXES))


def _may_be_dicom(files: Files, name: str) -> bool:
    if not _is_other(name):
        return False
    return is_dicom(files.path / name) if files.path.is_dir() else is_dicom_member(files, name)


def _file_scan(path: Path, dataset: Dataset) -> Scan:
    files, name = list_beside(path.absolute()), path.name
    root, patient = path.absolute().parent, patient_name(_stem(name))
    if name.lower().endswith(IMAGE_SUFFIXES):
        read = functools.partial(read_slices, files.read, spacing_mm=dataset.spacing_mm)
        patients = find_images(list(files.stamps), dataset)
        alone = ("", (name,))  # what is named as a mask has none beside it
        own, names = next((p for p in patients.items() if name in p[1]), alone)
        whole = Scan(
            *(patient_name(own or root.name), root, functools.partial(read, names)),
            *(root, files, names),
        )
        around = whole if len(names) > 1 else None
        one = functools.partial(read, [name])
        return Scan(patient, path, one, root, files, (name,), around)
    if not is_scan_file(name) and (kind := no_scan(files, name)):
        remedy = "give the folder around it" if kind == INDEX else "no scan"
        raise UserError(f"{path}: DICOM, but {kind}; {remedy}")
    if not is_scan_file(name) and not is_dicom(path):
        about = says.looks_like([name])
        raise UserError(
            f"{path}: expected {_KINDS}, or a folder of them" + (f"; {about}" if about else "")
        )
    own = with_voxels(name, files)
    return Scan(patient, path, functools.partial(read_volume, files, own), root, files, own)


def _tree_scans(path: Path, files: Files, dataset: Dataset, left_out: list[str]) -> list[Scan]:
    """Return the scans in a folder or zip, and name what is left out."""
    scans, root = [], path.absolute()

    def add(name: str, where: Path, read: Callable[[], Volume], names: Sequence[str]):
        # What is named by the folder given itself can be told from others by the folder above.
        above = root if name else root.parent
        patient = patient_name(name or _stem(path.resolve().name))
        scans.append(Scan(patient, files.path / where, read, above, files, tuple(names)))

    for patient, names in find_images(list(files.stamps), dataset).items():
        left_out += _perhaps_several(patient or ".", names, dataset)
        read = functools.partial(read_slices, files.read, names, dataset.spacing_mm)
        add(patient, Path(names[0]).parent, read, names)
    masks, kinds, series = [n for n in files.stamps if says.is_mask(n)], {}, {}
    volumes = defaultdict(list)
    for name in files.stamps:
        if is_scan_file(name) and not says.is_mask(name):
            volumes[_stem(name)].append(name)
    for stem, names in volumes.items():
        for name in names:  # x.nii and x.hdr are told apart
            patient = stem if len(names) == 1 else stem + name[len(stem) :].replace(".", "_")
            own = with_voxels(name, files)
            add(patient, Path(name), functools.partial(read_volume, files, own), own)
    clashes = [says.listed(names) for names in volumes.values() if len(names) > 1]
    left_out += [f"files of one name, each taken for a scan of its own: {c}" for c in clashes]
    for name in files.stamps:
        if _is_other(name) and (kind := no_scan(files, name)):
            kinds[name] = kind
        elif _may_be_dicom(files, name):
            series.setdefault(PurePosixPath(name).parent, []).append(name)
    for folder, names in series.items():
        read = functools.partial(read_volume, files, tuple(names))
        add(str(folder) if folder.name else "", Path(folder), read, names)
    left_out += _left_out(files, masks, kinds)
    return scans


def _perhaps_several(patient: str, names: Sequence[str], dataset: Dataset) -> list[str]:
    """Return a line when slices read as one patient are named as those of several."""
    if dataset.patient_regex is not None or not (guess := guess_patient_regex(list(names))):
        return []
    count = len({re.search(guess, says.stem_of(name))[1] for name in names})
    return [
        f"{patient}: by their names its {len(names)} slices may be of {count} patients; taken for "
        "one and normalised together: give each a folder, or train with patient_regex"
    ]


def _left_out(files: Files, masks: list[str], kinds: dict[str, str]) -> list[str]:
    """Return lines on what in a source is no scan, or none that can be read."""
    scanlike = [n for n in masks if is_scan_file(n) or n.lower().endswith(IMAGE_SUFFIXES)]
    lines = [f"left out, masks by their names: {len(scanlike)} ({says.listed(scanlike)})"]
    lines = lines if scanlike else []
    lines += about_no_scans(kinds)
    lines += [f"not read: {line}" for line in says.unread(list(files.stamps))]
    if files.own:
        lines.append(f"left out, written by jaxseg: {says.listed(list(files.own))}")
    if files.dead:
        lines.append(f"links to nowhere: {says.listed(list(files.dead))}")
    return lines


def patient_name(path: str) -> str:
    """Return a path below the input as the name of one folder."""
    return _short(path.replace("/", "_").strip(".") or "scan")


def _stem(name: str) -> str:
    """Return a path without what marks the kind of file; other dots may be part of a name."""
    kinds = (*SUFFIXES, *IMAGE_SUFFIXES, ".dcm", ".zip")
    kind = next((s for s in kinds if name.lower().endswith(s)), "")
    return name[: len(name) - len(kind)]


def _short(name: str) -> str:
    """Return a name that every file system can hold: what is too long ends in its digest."""
    stored = name.encode(errors="surrogateescape")
    if len(stored) <= _LONGEST:
        return name
    digest = hashlib.sha256(stored).hexdigest()[:10]
    return f"{stored[: _LONGEST - 11].decode(errors='ignore')}-{digest}"
