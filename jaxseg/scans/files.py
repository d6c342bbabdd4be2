"""The files of a source, a folder or a zip, behind one read function."""

import dataclasses
import os
import re
import stat
import zipfile
from collections.abc import Callable, Iterable
from pathlib import Path

from jaxseg.errors import UserError

IMAGE_SUFFIXES = (".png", ".tif", ".tiff", ".jpg", ".jpeg")
# The pixels of the largest slice, 8192 x 8192 of 4 channels of 16 bit, and as much for the rest.
MAX_FILE_BYTES = 2 * 8192 * 8192 * 4 * 2
# Deflate, the one packing that is read, cannot do better; bzip2 and LZMA can, a thousandfold.
MAX_DEFLATE_RATIO, _ZLIB_STEP = 1032, 4096

_OUTSIDE = re.compile(r"[/\\]|[A-Za-z]:|(.*[/\\])?\.\.([/\\]|$)", re.DOTALL)  # zip members


@dataclasses.dataclass(frozen=True)
class Files:
    """Names relative to the root, in order, and how to read them."""

    path: Path  # the folder or zip, for messages
    stamps: dict[str, tuple[int, int]]  # name: (bytes, mtime in ns; in a zip the CRC-32)
    read: Callable[[str], bytes]


def list_files(source: str | Path, roots: Iterable[str] = ()) -> Files:
    """List the files of a folder or zip; hidden files are left out.

    Nothing in a zip is unpacked to disk. `Files.read` raises OSError, ValueError, RuntimeError
    or an error of zipfile or zlib for what cannot be read or had better not be.

    Args:
        source: folder or zip.
        roots: folders inside; only the first that exists is listed, else everything is.

    Raises:
        UserError: source does not exist, is neither folder nor zip, or the zip is broken; a
            name that lies outside of the source, is there twice or cannot be printed.
    """
    path = Path(source).expanduser()
    if not path.exists():
        raise UserError(f"{path}: does not exist; set config.dataset.source to your scans")
    if path.is_dir():
        root = next((path / r for r in roots if (path / r).is_dir()), path)
        inside = Path(os.path.realpath(path))
        stamps = _folder_stamps(root, inside)
        return Files(root, stamps, lambda name: read_file(root / name, inside))
    if not path.is_file() or not zipfile.is_zipfile(path):
        raise UserError(
            f"{path}: neither a folder nor a complete zip file; if it is a download, repeat it"
        )
    return _list_zip(path, roots)


def _folder_stamps(root: Path, inside: Path) -> dict[str, tuple[int, int]]:
    stamps, listed = {}, {}

    def refuse(error: OSError):
        raise UserError(f"{error.filename!r}: cannot be listed ({error.strerror})")

    for folder, folders, names in os.walk(root, followlinks=True, onerror=refuse):
        _check_folder(Path(folder), inside, listed)
        folders[:] = sorted(name for name in folders if _is_visible(name))
        for file in (Path(folder, name) for name in names if _is_visible(name)):
            name = file.relative_to(root).as_posix()
            if _can_be_printed(root, name):
                stamps[name] = _stamp(file)
    return dict(sorted(stamps.items()))


def _check_folder(folder: Path, inside: Path, listed: dict[Path, Path]):
    """Refuse a link out of the source and, so that the walk ends, a folder met before."""
    target = Path(os.path.realpath(folder))
    if not target.is_relative_to(inside):
        raise UserError(f"{str(folder)!r}: {_leads_out(target, inside, 'folder')}")
    first = listed.setdefault(target, folder)
    if first != folder:
        raise UserError(
            f"{str(folder)!r}: the same folder as {str(first)!r} by a symbolic link, so its scans "
            "would count twice; remove the link"
        )


def _leads_out(target: Path, inside: Path, kind: str) -> str:
    return (
        f"a symbolic link to {str(target)!r}, out of the source {str(inside)!r}; copy the {kind} "
        "to its place, or give the folder that holds all of them as config.dataset.source"
    )


def _can_be_printed(source: Path, name: str) -> bool:
    """Tell whether messages can show the name; images must have such a name."""
    if not name.isprintable() and name.lower().endswith(IMAGE_SUFFIXES):
        raise UserError(f"{source}: {ascii(name)} has characters that are no text; rename it")
    return name.isprintable()


def _stamp(file: Path) -> tuple[int, int]:
    try:
        status = file.stat()
    except OSError:  # a link to nowhere is reported when it is read
        return 0, 0
    return status.st_size, status.st_mtime_ns


def read_file(file: Path, inside: Path) -> bytes:
    """Return the bytes of a regular file of at most MAX_FILE_BYTES; ValueError for others.

    Args:
        file: to read.
        inside: a folder without links, in which it must lie, wherever links lead.
    """
    target = Path(os.path.realpath(file))
    if not target.is_relative_to(inside):
        raise ValueError(_leads_out(target, inside, "file"))
    status = target.stat()
    if not stat.S_ISREG(status.st_mode):  # reading a pipe would wait for ever
        raise ValueError("no regular file but a pipe, a socket or a device; remove it")
    _check_bytes(status.st_size)
    return target.read_bytes()


def _check_bytes(num_bytes: int):
    if num_bytes > MAX_FILE_BYTES:
        raise ValueError(f"{num_bytes} bytes; a slice has at most {MAX_FILE_BYTES}")


def _list_zip(path: Path, roots: Iterable[str]) -> Files:
    try:
        archive = zipfile.ZipFile(path)
    except (OSError, ValueError, NotImplementedError, zipfile.BadZipFile) as error:
        raise UserError(f"{path}: broken zip ({error}); if it is a download, repeat it") from None
    members = _members(path, archive.infolist())
    inside = (f"{r}/" for r in roots if any(name.startswith(f"{r}/") for name in members))
    prefix = next(inside, "")
    names = [n.removeprefix(prefix) for n in sorted(members) if n.startswith(prefix)]
    stamps = {
        name: (members[prefix + name].file_size, members[prefix + name].CRC)
        for name in names
        if all(_is_visible(part) for part in name.split("/")) and _can_be_printed(path, name)
    }
    return Files(path / prefix, stamps, lambda name: _read_member(archive, members[prefix + name]))


def _members(path: Path, listed: list[zipfile.ZipInfo]) -> dict[str, zipfile.ZipInfo]:
    """Return the members by name; refuse names and sizes that no honest zip has."""
    members = {}
    for member in listed:
        name = member.filename
        if not name or _OUTSIDE.match(name):
            raise UserError(f"{path}: member {name!r} lies outside of the zip; do not trust it")
        if "\\" in name:
            raise UserError(
                f"{path}: member {name!r} has a backslash; unpack the zip and give the folder"
            )
        if members.setdefault(name, member) is not member:
            raise UserError(f"{path}: member {name!r} is there twice; pack the zip anew")
    if sum(m.compress_size for m in listed) > path.stat().st_size:
        raise UserError(f"{path}: members that overlap, a zip bomb; do not trust it")
    return {name: member for name, member in members.items() if not member.is_dir()}


def _read_member(archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> bytes:
    if member.flag_bits & 1:
        raise ValueError("encrypted; unpack the zip and give the folder")
    if stat.S_ISLNK(member.external_attr >> 16):
        raise ValueError("a symbolic link in a zip; pack the file itself")
    if member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise ValueError(
            f"packed by method {member.compress_type}, not deflate; unpack the zip and give the "
            "folder"
        )
    _check_bytes(member.file_size)
    if member.file_size > MAX_DEFLATE_RATIO * member.compress_size + _ZLIB_STEP:
        raise ValueError(
            f"claims {member.file_size} bytes out of {member.compress_size} packed; a zip bomb"
        )
    try:
        with archive.open(member) as stream:
            return stream.read(member.file_size)  # without the size, all there is would come
    except EOFError:
        raise ValueError("truncated zip member") from None


def _is_visible(name: str) -> bool:
    return not name.startswith((".", "__MACOSX"))
