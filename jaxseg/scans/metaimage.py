"""MetaImage files (.mha, and .mhd with a file of voxels) to volumes and back.

A dozen lines of text and a block of bytes, read here: of its light readers one (metaimageio 1.3.2)
takes a MET_LONG, 4 bytes, for 8 and a header of unknown size for none, another (tiny-metaio 0.4.0)
states no licence, and SimpleITK weighs 50 MB. The tags are those of
https://itk.org/Wiki/ITK/MetaIO/Documentation, places in LPS mm as ITK has them; the tests hold
what SimpleITK says of such files.
"""

import itertools
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

import numpy as np

from jaxseg.errors import named
from jaxseg.scans import blocks
from jaxseg.scans.files import open_file
from jaxseg.scans.oriented import volume_of, written
from jaxseg.scans.volume import Volume, as_pixels, from_axial

SUFFIXES = (".mha", ".mhd")
_TYPES = {
    **{"MET_CHAR": "i1", "MET_UCHAR": "u1", "MET_SHORT": "i2", "MET_USHORT": "u2"},
    **{"MET_INT": "i4", "MET_UINT": "u4", "MET_LONG": "i4", "MET_ULONG": "u4"},
    **{"MET_LONG_LONG": "i8", "MET_ULONG_LONG": "u8", "MET_FLOAT": "f4", "MET_DOUBLE": "f8"},
}
_MAX_LINES = 1000
_AT_THE_END = -1  # the header size that says: the last bytes of the file are the voxels


def read_metaimage(path: Path, convert: Callable[[np.ndarray], np.ndarray] = as_pixels) -> Volume:
    """Read a volume of one channel; results are written as .mha.

    Args:
        path: of the .mha, or of the .mhd beside its voxels.
        convert: `as_pixels` or `as_stored`.

    Raises:
        UserError: the file is broken or too large, has other than 3 axes or several channels.
    """
    with named(f"{path}: cannot be read as MetaImage", str(path)):
        with open_file(path) as file:
            tags = _tags(file)
            voxels = convert(_voxels(path, file, tags)[..., None])
        affine, warnings = _affine(tags)
        volume, order = volume_of(voxels, affine, warnings)

    def write(to: Path, values: np.ndarray):
        _write(to, from_axial(values, order), affine)

    return written(volume, "MetaImage", ".mha", write)


def _tags(file: BinaryIO) -> dict[str, str]:
    """Return the tags, in small letters; the file stands behind the last, where voxels may be."""
    tags = {}
    for line in itertools.islice(iter(lambda: file.readline(blocks.HEADER_BYTES), b""), _MAX_LINES):
        key, is_tag, value = line.decode("utf-8", "replace").partition("=")
        if not is_tag and key.strip():
            raise ValueError("no MetaImage: its header has other lines than TAG = VALUE")
        tags[key.strip().lower()] = value.strip()
        if key.strip().lower() == "elementdatafile":
            return tags
    raise ValueError("no MetaImage: its header names no ElementDataFile")


def _voxels(path: Path, file: BinaryIO, tags: dict[str, str]) -> np.ndarray:
    """Return [X, Y, Z] of what the tags tell."""
    shape = tuple(int(n) for n in tags["dimsize"].split())
    channels = int(tags.get("elementnumberofchannels") or 1)
    if channels > 1:
        raise ValueError(f"{channels} channels in a voxel; give one file per channel")
    if (kind := tags["elementtype"].upper()) not in _TYPES:
        raise ValueError(f"voxels of type {kind}; save real numbers")
    big = _first(tags, "binarydatabyteordermsb", "elementbyteordermsb").upper() == "TRUE"
    dtype = np.dtype(_TYPES[kind]).newbyteorder(">" if big else "<")
    num_bytes = blocks.block_bytes(shape, dtype)
    if tags.get("binarydata", "True").upper() == "FALSE":
        raise ValueError("voxels as text; save them as binary data")
    name, skip = tags["elementdatafile"], int(tags.get("headersize") or 0)
    data = blocks.read_rest(file) if name.upper() == "LOCAL" else blocks.read_beside(path, name)
    data = data[-num_bytes:] if skip == _AT_THE_END else data[skip:]
    if tags.get("compresseddata", "").upper() == "TRUE":
        data = blocks.unpacked(data, num_bytes)
    return blocks.shaped(data, shape, dtype)


def _affine(tags: dict[str, str]) -> tuple[np.ndarray, list[str]]:
    """Return [4, 4], voxel to RAS+ mm, and what is odd about it."""
    spacing = _numbers(_first(tags, "elementspacing", "elementsize"), 3, "ElementSpacing")
    turned = _first(tags, "transformmatrix", "rotation", "orientation")
    # Three numbers for each axis of the file: where it runs to.
    directions = _numbers(turned, 9, "TransformMatrix").reshape(3, 3) if turned else np.eye(3)
    origin = _first(tags, "offset", "position", "origin") or "0 0 0"
    unit = tags.get("distanceunits", "").lower()
    if unit not in blocks.MM:
        raise ValueError(f"its DistanceUnits are {unit!r}, not mm")
    affine = np.eye(4)
    affine[:3, :3] = directions.T * spacing * blocks.MM[unit]
    affine[:3, 3] = _numbers(origin, 3, "Offset") * blocks.MM[unit]
    return blocks.LPS_TO_RAS @ affine, [] if turned else [blocks.UNORIENTED]


def _first(tags: dict[str, str], *names: str) -> str:
    """Return the value of the first of several names for one thing; '' when none is there."""
    return next((tags[name] for name in names if tags.get(name)), "")


def _numbers(text: str, count: int, what: str) -> np.ndarray:
    values = np.array([float(x) for x in text.split()])
    if len(values) != count:
        raise ValueError(f"{what} has {len(values)} numbers, not {count}")
    return values


def _write(path: Path, voxels: np.ndarray, affine: np.ndarray):
    """Write [X, Y, Z] of bool, uint8 or float32 on the voxels of an affine to RAS+ mm."""
    is_float = voxels.dtype not in (bool, np.uint8)
    place = blocks.LPS_TO_RAS @ affine
    spacing = np.linalg.norm(place[:3, :3], axis=0)
    data = zlib.compress(voxels.astype("<f4" if is_float else "u1").tobytes(order="F"))
    tags = {
        **{"ObjectType": "Image", "NDims": 3, "BinaryData": "True"},
        **{"BinaryDataByteOrderMSB": "False", "CompressedData": "True"},
        "CompressedDataSize": len(data),
        "TransformMatrix": _text((place[:3, :3] / spacing).T.ravel()),
        "Offset": _text(place[:3, 3]),
        "ElementSpacing": _text(spacing),
        "DimSize": " ".join(map(str, voxels.shape)),
        "ElementType": "MET_FLOAT" if is_float else "MET_UCHAR",
        "ElementDataFile": "LOCAL",
    }
    header = "".join(f"{key} = {value}\n" for key, value in tags.items())
    path.write_bytes(header.encode() + data)


def _text(values: np.ndarray) -> str:
    return " ".join(f"{value:.17g}" for value in values)
