"""NIfTI and Analyze files to volumes and back; needs nibabel, the extra `[nifti]`."""

import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from jaxseg.errors import UserError, named
from jaxseg.scans.oriented import volume_of, written
from jaxseg.scans.volume import MAX_PATIENT_BYTES, Volume, as_pixels, from_axial

SUFFIXES = (".nii.gz", ".nii", ".hdr")  # .hdr: of a pair with .img
_MM = {0: 1.0, 1: 1000.0, 2: 1.0, 3: 0.001}  # by unit code; 0: none is stated
_SAME_PLACE_MM = 1.0  # what qform and sform may differ by
_ABOUT_THE_PATIENT = ("descrip", "aux_file", "db_name")  # header fields of free text
_UNORIENTED = (
    "the file does not state its orientation (qform and sform codes are 0, or Analyze); taken as "
    "NIfTI's default, voxels from right to left, back to front, bottom to top: check the overlay"
)


def read_nifti(path: Path, convert: Callable[[np.ndarray], np.ndarray] = as_pixels) -> Volume:
    """Read a NIfTI file: 3D of one channel or of colours (RGB, RGBA), or 4D, channels last.

    A pair of .hdr and .img is read by its .hdr; what is written for it is .nii.gz.

    Args:
        path: of the file.
        convert: `as_pixels` or `as_stored`.

    Raises:
        UserError: nibabel is missing; the file is broken or too large, or has other axes.
    """
    nibabel = _nibabel()
    with named(f"{path}: cannot be read as NIfTI", str(path)):
        file = nibabel.load(path)
        if not isinstance(file, nibabel.analyze.AnalyzeImage):  # the parent of all that are
            raise ValueError(f"a {type(file).__name__.removesuffix('Image')} file, no NIfTI volume")
        affine, warnings = _affine_mm(file)
        _check_size(file)
        voxels = convert(_channels_last(np.asanyarray(file.dataobj)))
        volume, order = volume_of(voxels, affine, warnings)

    def write(to: Path, values: np.ndarray):
        if "qform_code" in file.header.keys():  # noqa: SIM118 (a header is no dict)
            _write(file, from_axial(values, order), to)
        else:
            write_axial(to, values, volume.affine)

    return written(volume, "NIfTI", _suffix(path), write)


def write_axial(path: Path, values: np.ndarray, affine: np.ndarray):
    """Write [D, H, W] of bool, uint8 or float32 whose input was no NIfTI file.

    Args:
        path: with its suffix.
        values: of an axial volume.
        affine: [4, 4], (slice, row, column, 1) to RAS+ mm.
    """
    nibabel = _nibabel()
    dtype = np.uint8 if values.dtype in (bool, np.uint8) else np.float32
    image = nibabel.Nifti1Image(values.T.astype(dtype), affine[:, [2, 1, 0, 3]])
    image.header.set_xyzt_units("mm")
    image.to_filename(path)


def _nibabel() -> Any:
    try:
        import nibabel
    except ImportError as error:
        raise UserError("NIfTI needs nibabel: pip install 'jaxseg[nifti]'") from error
    return nibabel


def _suffix(path: Path) -> str:
    return ".nii" if path.name.lower().endswith(".nii") else ".nii.gz"


def _check_size(file: Any):
    """Raise ValueError for what is no volume or had better not be loaded."""
    shape = file.shape
    if not 2 <= len(shape) <= 5 or min(shape) < 1 or (len(shape) == 5 and shape[3] != 1):
        raise ValueError(f"axes {shape}; 3 of space and one of channels can be read")
    num_bytes = int(np.prod(shape, dtype=np.float64)) * max(file.get_data_dtype().itemsize, 4)
    if num_bytes > MAX_PATIENT_BYTES:
        raise ValueError(f"{num_bytes} bytes of voxels; at most {MAX_PATIENT_BYTES}")


def _channels_last(voxels: np.ndarray) -> np.ndarray:
    """Return [X, Y, Z, C] of 2D to 5D voxels."""
    if voxels.dtype.names:  # colours: R, G, B and perhaps A
        colours = np.stack([voxels[name] for name in voxels.dtype.names], axis=-1)
        if voxels.ndim > 3:
            raise ValueError("colours and a fourth axis")
        return colours.reshape(*voxels.shape, *(1,) * (3 - voxels.ndim), colours.shape[-1])
    if voxels.ndim <= 3:
        return voxels.reshape(*voxels.shape, *(1,) * (4 - voxels.ndim))
    return voxels.reshape(*voxels.shape[:3], -1)  # of 5D files, a vector in each voxel


def _affine_mm(file: Any) -> tuple[np.ndarray, list[str]]:
    """Return [4, 4] float64, voxel to RAS+ mm, and what is odd about it."""
    affine = np.array(file.affine, np.float64)
    if "qform_code" not in file.header.keys():  # noqa: SIM118 (Analyze)
        return affine, [_UNORIENTED]
    unit = int(file.header["xyzt_units"]) % 8  # above are those of time
    warnings = [] if unit in _MM else [f"its unit of length, {unit}, is no code; taken as mm"]
    affine[:3] *= _MM.get(unit, 1.0)
    if not int(file.header["qform_code"]) and not int(file.header["sform_code"]):
        return affine, [*warnings, _UNORIENTED]
    return affine, warnings + _contradiction(file, _MM.get(unit, 1.0))


def _contradiction(file: Any, unit_mm: float) -> list[str]:
    """Return a line when qform and sform are stated and put the voxels at different places."""
    if not int(file.header["qform_code"]) or not int(file.header["sform_code"]):
        return []
    try:
        change = file.header.get_sform() - file.header.get_qform()
    except Exception:  # a qform that is none: nothing to choose between
        return []
    corners = itertools.product(*((0, n - 1) for n in (*file.shape, 1, 1)[:3]))
    apart = unit_mm * np.abs(change @ np.array([(*c, 1) for c in corners]).T).max()
    if not apart > _SAME_PLACE_MM:
        return []
    return [f"qform and sform put its voxels up to {apart:.3g} mm apart; the sform is taken"]


def _write(file: Any, values: np.ndarray, path: Path):
    """Write voxels [X, Y, Z] under the header of the input: its qform, sform, zooms and units."""
    nibabel, header = _nibabel(), file.header.copy()
    header.extensions.clear()  # whatever a scanner's software left about the patient
    dtype = np.uint8 if values.dtype in (bool, np.uint8) else np.float32
    header.set_data_dtype(dtype)
    header.set_slope_inter(1, 0)
    header.set_intent("none")
    header["cal_min"] = header["cal_max"] = 0
    for name in {*_ABOUT_THE_PATIENT} & {*header.keys()}:
        header[name] = b"jaxseg" if name == "descrip" else b""
    voxels = values.astype(dtype).reshape(file.shape[:3])
    second = isinstance(header, nibabel.Nifti2Header)
    # Without an affine nibabel leaves both forms and their codes as they are.
    kind = nibabel.Nifti2Image if second else nibabel.Nifti1Image
    kind(voxels, None, header).to_filename(path)
