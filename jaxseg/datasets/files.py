"""The files of a source, a folder or a zip, behind one read function."""

import dataclasses
import os
import zipfile
from collections.abc import Callable, Iterable
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from jaxseg.errors import UserError

IMAGE_SUFFIXES = (".png", ".tif", ".tiff", ".jpg", ".jpeg")


@dataclasses.dataclass(frozen=True)
class Files:
    """Names relative to the root, in order, and how to read them."""

    path: Path  # the folder or zip, for messages
    stamps: dict[str, tuple[int, int]]  # name: (bytes, mtime in ns; in a zip the CRC-32)
    read: Callable[[str], bytes]


class Slice(NamedTuple):
    """One slice on disk: its number within the patient, its image and its mask."""

    number: int
    image: str
    mask: str


class Entry(NamedTuple):
    """A file and the slice it belongs to; image and mask of a slice share the key."""

    key: tuple
    is_mask: bool
    name: str


def list_files(source: str | Path, roots: Iterable[str] = ()) -> Files:
    """List the files of a folder or zip; hidden files are left out.

    Args:
        source: folder or zip.
        roots: folders inside; only the first that exists is listed, else everything is.

    Raises:
        UserError: source does not exist, is neither folder nor zip, or the zip is broken or
            has a member that would lie outside of it.
    """
    path = Path(source).expanduser()
    if not path.exists():
        raise UserError(f"{path}: does not exist; set config.dataset.source to your scans")
    if path.is_dir():
        root = next((path / r for r in roots if (path / r).is_dir()), path)
        return Files(root, _folder_stamps(root), lambda name: (root / name).read_bytes())
    if not zipfile.is_zipfile(path):
        raise UserError(
            f"{path}: neither a folder nor a complete zip file; if it is a download, repeat it"
        )
    return _list_zip(path, roots)


def _folder_stamps(root: Path) -> dict[str, tuple[int, int]]:
    stamps = {}

    def refuse(error: OSError):
        raise UserError(f"{error.filename}: cannot be listed ({error.strerror})")

    for folder, folders, names in os.walk(root, followlinks=True, onerror=refuse):
        folders[:] = [name for name in folders if _is_visible(name)]
        for file in (Path(folder, name) for name in names if _is_visible(name)):
            stamps[file.relative_to(root).as_posix()] = _stamp(file)
    return dict(sorted(stamps.items()))


def _stamp(file: Path) -> tuple[int, int]:
    try:
        status = file.stat()
    except OSError:  # a link to nowhere is reported when it is read
        return 0, 0
    return status.st_size, status.st_mtime_ns


def _list_zip(path: Path, roots: Iterable[str]) -> Files:
    archive = zipfile.ZipFile(path)
    members = {m.filename: m for m in archive.infolist() if not m.is_dir()}
    for name in members:
        if name.startswith("/") or ".." in PurePosixPath(name).parts:
            raise UserError(f"{path}: member {name!r} lies outside of the zip; do not trust it")
    inside = (f"{r}/" for r in roots if any(name.startswith(f"{r}/") for name in members))
    prefix = next(inside, "")
    names = [n.removeprefix(prefix) for n in sorted(members) if n.startswith(prefix)]
    stamps = {
        name: (members[prefix + name].file_size, members[prefix + name].CRC)
        for name in names
        if all(_is_visible(part) for part in name.split("/"))
    }
    return Files(path / prefix, stamps, lambda name: archive.read(prefix + name))


def _is_visible(name: str) -> bool:
    return not name.startswith((".", "__MACOSX"))


def pair(entries: Iterable[Entry], problems: list[str]) -> dict[tuple, tuple[str, str]]:
    """Return (image, mask) by key; what is missing, orphaned or double goes to problems."""
    images, masks = {}, {}
    for entry in entries:
        found = masks if entry.is_mask else images
        kind = "mask" if entry.is_mask else "image"
        first = found.setdefault(entry.key, entry.name)
        if first != entry.name:
            problems.append(f"{entry.name}: a second {kind} of the slice of {first}")
    problems += [f"{name}: image without mask" for k, name in images.items() if k not in masks]
    problems += [f"{name}: mask without image" for k, name in masks.items() if k not in images]
    return {key: (images[key], masks[key]) for key in images if key in masks}
