"""The files of a source, a folder or a zip, behind one read function."""

import contextlib
import dataclasses
import os
import re
import stat
import zipfile
import zlib
from collections import defaultdict
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import BinaryIO

from jaxseg.errors import UserError

IMAGE_SUFFIXES = (".png", ".tif", ".tiff", ".jpg", ".jpeg")
# The pixels of the largest slice, 8192 x 8192 of 4 channels of 16 bit, and as much for the rest.
MAX_FILE_BYTES = 2 * 8192 * 8192 * 4 * 2
# Deflate, the one packing that is read, cannot do better; bzip2 and LZMA can, a thousandfold.
MAX_DEFLATE_RATIO, _ZLIB_STEP = 1032, 4096
PREDICTION = "prediction.json"  # lies in each folder that jaxseg.predict writes
# Files of which all lie in a folder that jaxseg wrote: a prediction, an evaluation, a run.
_OWN = (
    {PREDICTION},
    {"scores.json", "patients.csv"},
    {"config.json", "data.json", "versions.json"},
)

# What systems leave beside files, in small letters; names that begin with a dot are hidden too.
_COMPANIONS = (
    *("__macosx", "desktop.ini", "thumbs.db", "ehthumbs.db", "ehthumbs_vista.db", "icon\r"),
    *("$recycle.bin", "system volume information", "lost+found"),
    *("@eadir", "#recycle", "#snapshot", "@tmp", "@recycle", "@recently-snapshot"),
)
_COMPANION_ENDS = ("@synoeastream", "@synoresource", ":zone.identifier")

_OUTSIDE = re.compile(r"[/\\]|[A-Za-z]:|(.*[/\\])?\.\.([/\\]|$)", re.DOTALL)  # zip members


@dataclasses.dataclass(frozen=True)
class Files:
    """Names relative to the root, in order, and how to read them."""

    path: Path  # the folder or zip, for messages
    stamps: dict[str, tuple[int, int]]  # name: (bytes, mtime in ns; in a zip the CRC-32)
    read: Callable[[str], bytes]
    open: Callable[[str], BinaryIO]  # of any size; raises as read does
    own: tuple[str, ...] = ()  # folders that jaxseg wrote, left out
    dead: tuple[str, ...] = ()  # names of links to nowhere

    def start(self, name: str, num_bytes: int) -> bytes:
        """Return the first bytes of a file, b'' when it cannot be read."""
        try:
            with self.open(name) as file:
                return file.read(num_bytes)
        except UNREADABLE:
            return b""


# What reading a file of a source may raise.
UNREADABLE = (OSError, ValueError, RuntimeError, EOFError, zipfile.BadZipFile, zlib.error)


def list_files(source: str | Path, roots: Iterable[str] = ()) -> Files:
    """List the files of a folder or zip, without hidden ones and companions that systems leave.

    Links in a folder are followed, in a zip they are refused. What jaxseg itself has
    written there is left out. Nothing in a zip is unpacked to disk. `Files.read` raises OSError,
    ValueError, RuntimeError or an error of zipfile or zlib for what cannot be read or had better
    not be.

    Args:
        source: folder or zip.
        roots: folders inside; only the first that exists is listed, else everything is.

    Raises:
        UserError: source does not exist, is neither folder nor zip, or the zip is broken; a
            folder that links show twice; a name that cannot be printed or, in a zip, lies outside
            or is there twice.
    """
    path = Path(source).expanduser()
    if not path.exists():
        raise UserError(f"{path}: does not exist; set config.dataset.source to your scans")
    if path.is_dir():
        root = next((path / r for r in roots if (path / r).is_dir()), path)
        return _list_folder(root)
    if not path.is_file() or not zipfile.is_zipfile(path):
        raise UserError(
            f"{path}: neither a folder nor a complete zip file; if it is a download, repeat it"
        )
    return _list_zip(path, roots)


def list_beside(file: Path) -> Files:
    """List the files in the folder of a file, without those in folders inside."""
    folder, names = file.parent, [file.name]
    with contextlib.suppress(PermissionError):  # a folder may be closed and its file readable
        names = sorted(p.name for p in folder.iterdir() if p.is_file())
    stamps = {n: _stamp(folder / n) for n in names if n == file.name or _is_seen(folder, n)}
    return Files(
        folder, stamps, lambda name: read_file(folder / name), lambda n: open_file(folder / n)
    )


def _list_folder(root: Path) -> Files:
    stamps, listed, own = {}, {}, []

    def refuse(error: OSError):
        raise UserError(f"{error.filename!r}: cannot be listed ({error.strerror})")

    for folder, folders, names in os.walk(root, followlinks=True, onerror=refuse):
        _check_folder(Path(folder), listed)
        if _is_own(set(names), Path(folder) == root):
            own.append(Path(folder).relative_to(root).as_posix())
            folders[:] = []
            continue
        folders[:] = sorted(name for name in folders if is_visible(name))
        for file in (Path(folder, name) for name in names if is_visible(name)):
            name = file.relative_to(root).as_posix()
            if _can_be_printed(root, name):
                stamps[name] = _stamp(file)
    stamps = dict(sorted(stamps.items()))
    dead = tuple(n for n, s in stamps.items() if s == (0, 0) and is_dead(root / n))
    return Files(
        *(root, stamps, lambda name: read_file(root / name), lambda name: open_file(root / name)),
        tuple(own),
        dead,
    )


def _is_own(names: set[str], is_root: bool) -> bool:
    """Tell whether jaxseg wrote a folder; the one that the user names may hold runs as well."""
    return any(mark <= names for mark in _OWN[: 1 if is_root else None])


def _check_folder(folder: Path, listed: dict[Path, Path]):
    """Refuse, so that the walk ends and nothing counts twice, a folder met before."""
    first = listed.setdefault(Path(os.path.realpath(folder)), folder)
    if first != folder:
        raise UserError(
            f"{str(folder)!r}: the same folder as {str(first)!r} by a symbolic link, so its scans "
            "would count twice; remove the link"
        )


def _is_seen(folder: Path, name: str) -> bool:
    return is_visible(name) and _can_be_printed(folder, name)


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


def is_dead(file: Path) -> bool:
    """Tell whether a file is a link to nowhere."""
    return file.is_symlink() and not os.path.lexists(os.path.realpath(file))


def read_file(file: Path) -> bytes:
    """Return the bytes of a regular file of at most MAX_FILE_BYTES; ValueError for others."""
    with open_file(file) as stream:
        _check_bytes(os.fstat(stream.fileno()).st_size)
        return stream.read()


def open_file(file: Path) -> BinaryIO:
    """Open a regular file, wherever links lead; ValueError for others, OSError for none."""
    if is_dead(file):
        raise ValueError(
            f"No such file: a symbolic link to {os.readlink(file)!r}, where there is none; fetch "
            "it (dvc pull, datalad get, git annex get) or remove the link"
        )
    if not stat.S_ISREG(file.stat().st_mode):  # reading a pipe would wait for ever
        raise ValueError("no regular file but a pipe, a socket or a device; remove it")
    return file.open("rb")


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
        if all(is_visible(part) for part in name.split("/")) and _can_be_printed(path, name)
    }
    folders = defaultdict(set)
    for name in stamps:
        folders[name.rpartition("/")[0]].add(name.rpartition("/")[2])
    own = tuple(folder for folder in folders if _is_own(folders[folder], not folder))
    for folder in own:
        inside = f"{folder}/" if folder else ""
        stamps = {n: stamp for n, stamp in stamps.items() if not n.startswith(inside)}
    return Files(
        path / prefix,
        stamps,
        lambda name: _read_member(archive, members[prefix + name]),
        lambda name: _open_member(archive, members[prefix + name]),
        own,
    )


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
    _check_bytes(member.file_size)
    try:
        with _open_member(archive, member) as stream:
            return stream.read(member.file_size)  # without the size, all there is would come
    except EOFError:
        raise ValueError("truncated zip member") from None


def _open_member(archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> BinaryIO:
    if member.flag_bits & 1:
        raise ValueError("encrypted; unpack the zip and give the folder")
    if stat.S_ISLNK(member.external_attr >> 16):
        raise ValueError("a symbolic link in a zip; pack the file itself")
    if member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise ValueError(
            f"packed by method {member.compress_type}, not deflate; unpack the zip and give the "
            "folder"
        )
    if member.file_size > MAX_DEFLATE_RATIO * member.compress_size + _ZLIB_STEP:
        raise ValueError(
            f"claims {member.file_size} bytes out of {member.compress_size} packed; a zip bomb"
        )
    return archive.open(member)


def is_visible(name: str) -> bool:
    """Tell whether a file or folder is neither hidden nor a companion that a system left."""
    low = name.lower()
    return not (low.startswith(".") or low in _COMPANIONS or low.endswith(_COMPANION_ENDS))
