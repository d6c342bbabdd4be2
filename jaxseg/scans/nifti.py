"""NIfTI files to volumes and back; needs nibabel, the extra `[nifti]`."""

import zlib
from pathlib import Path
from typing import Any

import numpy as np

from jaxseg.errors import UserError, one_line
from jaxseg.scans.volume import (
    MAX_PATIENT_BYTES,
    Volume,
    as_pixels,
    axial_affine,
    axial_order,
    from_axial,
    spacing_of,
    to_axial,
    warn_of_shape,
)

SUFFIXES = (".nii.gz", ".nii")
_MM = {"meter": 1000.0, "micron": 0.001}  # millimetres else, also where no unit is stated
_UNORIENTED = (
    "the file does not state its orientation (qform and sform codes are 0); taken as NIfTI's "
    "default, voxels from right to left, back to front, bottom to top: check the overlay"
)


def read_nifti(path: Path) -> Volume:
    """Read a NIfTI file: 3D of one channel or of colours (RGB, RGBA), or 4D, channels last.

    Raises:
        UserError: nibabel is missing; the file is broken or too large, or has other axes.
    """
    nibabel = _nibabel()
    try:
        file = nibabel.load(path)
        affine = _affine_mm(file)
        _check_size(file)
        voxels = as_pixels(_channels_last(np.asanyarray(file.dataobj)))
    except (
        *(nibabel.filebasedimages.ImageFileError, nibabel.spatialimages.HeaderDataError),
        *(OSError, EOFError, ValueError, MemoryError, zlib.error),
    ) as error:
        cause = one_line(error).removeprefix(f"{path}: ")
        raise UserError(f"{path}: cannot be read as NIfTI ({cause})") from error
    order = axial_order(affine)
    axial = axial_affine(affine, voxels.shape, order)
    spacing_mm = spacing_of(axial)
    stated = int(file.header["qform_code"]) or int(file.header["sform_code"])
    warnings = ([] if stated else [_UNORIENTED]) + warn_of_shape(spacing_mm)

    def write(to: Path, values: np.ndarray):
        _write(file, from_axial(values, order), to.with_name(to.name + _suffix(path)))

    return Volume(to_axial(voxels, order), spacing_mm, axial, tuple(warnings), write)


def is_nifti(name: str) -> bool:
    """Return whether a file's name is that of a NIfTI file."""
    return name.lower().endswith(SUFFIXES)


def _nibabel() -> Any:
    try:
        import nibabel
    except ImportError as error:
        raise UserError("NIfTI needs nibabel: pip install 'jaxseg[nifti]'") from error
    return nibabel


def _suffix(path: Path) -> str:
    return next(s for s in SUFFIXES if path.name.lower().endswith(s))


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


def _affine_mm(file: Any) -> np.ndarray:
    """Return [4, 4] float64, voxel to RAS+ mm; ValueError when it is no map of a volume."""
    affine = np.array(file.affine, np.float64)
    if not np.isfinite(affine).all() or abs(np.linalg.det(affine[:3, :3])) < 1e-12:
        raise ValueError("its affine is singular: voxels have no place in space")
    affine[:3] *= _MM.get(file.header.get_xyzt_units()[0], 1.0)
    return affine


def _write(file: Any, values: np.ndarray, path: Path):
    """Write voxels [X, Y, Z] under the header of the input: its qform, sform, zooms and units."""
    header = file.header.copy()
    header.extensions.clear()  # whatever a scanner's software left about the patient
    dtype = np.uint8 if values.dtype in (bool, np.uint8) else np.float32
    header.set_data_dtype(dtype)
    header.set_slope_inter(1, 0)
    header.set_intent("none")
    header["cal_min"] = header["cal_max"] = 0
    header["descrip"], header["aux_file"], header["db_name"] = b"jaxseg", b"", b""
    voxels = values.astype(dtype).reshape(file.shape[:3])
    # Without an affine nibabel leaves both forms and their codes as they are.
    type(file)(voxels, None, header).to_filename(path)
