"""NRRD files (.nrrd, and .nhdr with a file of voxels) to volumes and back.

Needs pynrrd, the extra `[nrrd]`, which reads the header. The fields are those of
https://teem.sourceforge.net/nrrd/format.html.
"""

import bz2
import io
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from jaxseg.errors import UserError, named
from jaxseg.scans import blocks
from jaxseg.scans.files import open_file
from jaxseg.scans.oriented import volume_of, written
from jaxseg.scans.volume import Volume, as_pixels, from_axial

SUFFIXES = (".nrrd", ".nhdr")
_TO_RAS = {  # signs of a space's axes; the others say nothing of the patient
    **dict.fromkeys(("right-anterior-superior", "ras"), (1, 1, 1)),
    **dict.fromkeys(("left-anterior-superior", "las"), (-1, 1, 1)),
    **dict.fromkeys(("left-posterior-superior", "lps"), (-1, -1, 1)),
}
_OF_SPACE = ("domain", "space", "???", "none")  # kinds of axes
_ZLIB, _BZIP2 = ("gzip", "gz"), ("bzip2", "bz2")
_SKIPS = ("line skip", "lineskip", "byte skip", "byteskip")


def read_nrrd(path: Path, convert: Callable[[np.ndarray], np.ndarray] = as_pixels) -> Volume:
    """Read a volume of one channel; results are written as .nrrd.

    A segmentation of 3D Slicer (.seg.nrrd) whose segments do not overlap is one, of their labels;
    where they overlap it has several layers.

    Args:
        path: of the .nrrd, or of the .nhdr beside its voxels.
        convert: `as_pixels` or `as_stored`.

    Raises:
        UserError: pynrrd is missing; the file is broken or too large, has other than 3 axes of
            space, or does not say how large its voxels are.
    """
    nrrd = _nrrd()
    with named(f"{path}: cannot be read as NRRD", str(path)):
        with open_file(path) as file:
            if said := blocks.said_file(file.read(blocks.HEADER_BYTES)):
                blocks.beside(path, said)  # a list of files is no header to pynrrd
            file.seek(0)
            header = nrrd.read_header(file)
            _check_axes(header)
            voxels = convert(_voxels(path, file, header)[..., None])
        affine, warnings = _affine(header)
        volume, order = volume_of(voxels, affine, warnings)

    def write(to: Path, values: np.ndarray):
        _write(to, from_axial(values, order), affine)

    return written(volume, "NRRD", ".nrrd", write)


def _nrrd() -> Any:
    try:
        import nrrd
    except ImportError as error:
        raise UserError("NRRD needs pynrrd: pip install 'jaxseg[nrrd]'") from error
    return nrrd


def _check_axes(header: dict[str, Any]):
    """Raise ValueError unless there are three axes, all of space."""
    kinds, count = header.get("kinds", []), len(header["sizes"])
    if count == 3 and all(kind.lower() in _OF_SPACE for kind in kinds):
        return
    what = f"{count} axes" + (f" ({', '.join(kinds)})" if kinds else "")
    if any(key.startswith("Segment0_") for key in header):
        raise ValueError(
            f"{what}: segments in layers, as 3D Slicer keeps those that overlap; export them there "
            "as a label map"
        )
    raise ValueError(f"{what}; 3 of space can be read: save one file per channel")


def _voxels(path: Path, file: BinaryIO, header: dict[str, Any]) -> np.ndarray:
    """Return [X, Y, Z] of what the header tells; the file stands behind it."""
    nrrd, header = _nrrd(), dict(header)
    name = header.pop("data file", None) or header.pop("datafile", None)
    data = blocks.read_rest(file) if name is None else blocks.read_beside(path, name)
    # pynrrd unpacks without a limit; of a block of no more than is said it makes an array.
    num_bytes = 2 * blocks.block_bytes(tuple(header["sizes"]), np.dtype("f4"))
    is_skipped = any(header.get(key) for key in _SKIPS)
    if header["encoding"] in (*_ZLIB, *_BZIP2):
        if is_skipped:
            raise ValueError("bytes to be skipped in packed voxels; save it without")
        is_zlib = header["encoding"] in _ZLIB
        unpack = blocks.unpacked if is_zlib else bz2.BZ2Decompressor().decompress
        data, header["encoding"] = unpack(data, num_bytes), "raw"
    voxels = nrrd.read_data(header, io.BytesIO(data))
    if header["encoding"] == "raw" and len(data) > voxels.nbytes and not is_skipped:
        raise ValueError(f"holds more than the {voxels.nbytes} bytes of voxels its header says")
    return voxels


def _affine(header: dict[str, Any]) -> tuple[np.ndarray, list[str]]:
    """Return [4, 4], voxel to RAS+ mm, and what is odd about it."""
    space, warnings = header.get("space", "").lower(), []
    if space and space not in _TO_RAS:
        raise ValueError(f"its space is {header['space']!r}; patient's axes are LPS, RAS or LAS")
    affine = np.eye(4)
    if "space directions" in header:
        affine[:3, :3] = np.transpose(header["space directions"])
        affine[:3, 3] = header.get("space origin", (0, 0, 0))
    elif "spacings" in header:
        affine[:3, :3] = np.diag(header["spacings"])
    else:
        raise ValueError("it has neither space directions nor spacings: voxels of unknown size")
    if not space or "space directions" not in header:
        space, warnings = "lps", [blocks.UNORIENTED]
    affine[:3] *= _unit_mm(header)
    return np.diag([*_TO_RAS[space], 1.0]) @ affine, warnings


def _unit_mm(header: dict[str, Any]) -> float:
    units = {unit.lower() for unit in header.get("space units", header.get("units", ["mm"]))}
    if len(units) != 1 or not units <= set(blocks.MM):
        raise ValueError(f"its units of length are {', '.join(sorted(units))}, not mm")
    return blocks.MM[units.pop()]


def _write(path: Path, voxels: np.ndarray, affine: np.ndarray):
    """Write [X, Y, Z] of bool, uint8 or float32 on the voxels of an affine to RAS+ mm."""
    place = blocks.LPS_TO_RAS @ affine
    header = {
        "space": "left-posterior-superior",
        "kinds": ["domain"] * 3,
        "space directions": place[:3, :3].T,
        "space origin": place[:3, 3],
    }
    dtype = np.uint8 if voxels.dtype in (bool, np.uint8) else np.float32
    _nrrd().write(str(path), voxels.astype(dtype), header)
