"""The formats that keep a volume in a file, told by its name: NIfTI, NRRD, MetaImage."""

from collections.abc import Callable
from pathlib import Path, PurePosixPath

import numpy as np

from jaxseg.scans import blocks, metaimage, nifti, nrrd
from jaxseg.scans.files import Files
from jaxseg.scans.volume import Volume, as_pixels, as_stored

SUFFIXES = (*nifti.SUFFIXES, *nrrd.SUFFIXES, *metaimage.SUFFIXES)
# What the voxels of a header are kept in; the name is free, these are written.
VOXELS = (".img", ".raw", ".zraw", ".gz")
PAIRED = (".hdr", ".nhdr", ".mhd")  # headers whose voxels are, or may be, in a file beside


def is_scan_file(name: str) -> bool:
    """Return whether a file's name is that of a volume, or of the header of one."""
    return name.lower().endswith(SUFFIXES)


def with_voxels(name: str, files: Files) -> tuple[str, ...]:
    """Return a volume's file, and that of its voxels where it is the header of a pair."""
    if name.lower().endswith(".hdr"):
        voxels = [n for n in files.stamps if n.lower().endswith(".img") and n[:-4] == name[:-4]]
        return (name, *voxels)
    if not name.lower().endswith((*nrrd.SUFFIXES, *metaimage.SUFFIXES)):
        return (name,)
    said = blocks.data_file(files.start(name, blocks.HEADER_BYTES))
    voxels = str(PurePosixPath(name).with_name(said)) if said else ""
    return (name, voxels) if voxels in files.stamps else (name,)


def read_scan_file(path: Path) -> Volume:
    """Read a volume; what is no finite number becomes the least value.

    Raises:
        UserError: the library of the format is missing; the file is broken or too large, or has
            other axes.
    """
    return _read(path, as_pixels)


def read_stored(path: Path) -> Volume:
    """Read a volume as `read_scan_file`, but its voxels as they are stored, see `as_stored`.

    For training, where what is no number is to be mended, and for masks.
    """
    return _read(path, as_stored)


def _read(path: Path, convert: Callable[[np.ndarray], np.ndarray]) -> Volume:
    if path.name.lower().endswith(nrrd.SUFFIXES):
        return nrrd.read_nrrd(path, convert)
    if path.name.lower().endswith(metaimage.SUFFIXES):
        return metaimage.read_metaimage(path, convert)
    return nifti.read_nifti(path, convert)
