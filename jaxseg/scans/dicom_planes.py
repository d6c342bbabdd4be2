"""Where the images of DICOM files lie in space; every number of a header is checked here."""

import contextlib
import logging
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from jaxseg.errors import UserError, named, one_line

# Modalities beside scans in a folder.
_NO_SCANS = ("SEG", "RTSTRUCT", "RTDOSE", "RTPLAN", "SR", "PR", "KO", "REG", "DOC", "PLAN")
_OF_AN_IMAGE = ("Rows", "Columns", "BitsAllocated", "ImagePositionPatient")
# Attributes that give an image its place in space, and how many numbers each has.
_GEOMETRY = {"ImagePositionPatient": 3, "ImageOrientationPatient": 6, "PixelSpacing": 2}
_MEASURES, _VALUES = "PixelMeasuresSequence", "PixelValueTransformationSequence"
_GROUPS = {  # where files of several frames have them, for each frame or for all
    "ImagePositionPatient": "PlanePositionSequence",
    "ImageOrientationPatient": "PlaneOrientationSequence",
    **dict.fromkeys(("PixelSpacing", "SliceThickness", "SpacingBetweenSlices"), _MEASURES),
    **dict.fromkeys(("RescaleSlope", "RescaleIntercept"), _VALUES),
}
_PER_FRAME, _SHARED = "PerFrameFunctionalGroupsSequence", "SharedFunctionalGroupsSequence"
_SQUARE = 0.01  # directions of rows and columns: off by this, they are none
_LARGEST = 1e9  # of the numbers that are read
_LARGEST_GAP = 1.5  # of the usual distance; above, slices are missing
_UNEVEN = 0.02  # of the usual distance
_TURNED = 1e-3  # difference of direction cosines
SAME_PLACE_MM = 1e-3


class Plane(NamedTuple):
    """One image of a file, and its place; LPS+, as DICOM counts."""

    header: Any  # of the file, without pixels
    path: Path
    frame: int  # in the file, from 0
    num_frames: int  # of the file
    size: tuple[int, int]  # rows, columns
    position: np.ndarray  # [3] mm, middle of the first voxel
    cosines: np.ndarray  # [2, 3], directions in which columns and rows are counted
    spacing_mm: tuple[float, float]  # between rows, between columns
    distance_mm: float  # to the next slice, as the header says; 0: it does not
    slope: float = 1.0
    intercept: float = 0.0

    @property
    def name(self) -> str:
        """The file, and where it has several, the frame."""
        return f"{self.path}" + (f", frame {self.frame + 1}" if self.num_frames > 1 else "")

    @property
    def along(self) -> float:
        """Place along the normal of the plane, mm."""
        return float(np.cross(*self.cosines) @ self.position)


def load_pydicom() -> Any:
    """Return the library, imported late; UserError when it is missing."""
    try:
        import pydicom
    except ImportError as error:
        raise UserError("DICOM needs pydicom and highdicom: pip install 'jaxseg[dicom]'") from error
    return pydicom


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Keep the libraries from quoting headers, patients' names among them, into logs."""
    loggers = [logging.getLogger(name) for name in ("pydicom", "highdicom")]
    levels = [logger.level for logger in loggers]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            for logger in loggers:
                logger.setLevel(logging.CRITICAL + 1)
            yield
        finally:
            for logger, level in zip(loggers, levels, strict=True):
                logger.setLevel(level)


def open_file(path: Path, **options: Any) -> Any:
    """Return a file as pydicom reads it, also one without preamble or transfer syntax."""
    pydicom = load_pydicom()
    try:
        found = pydicom.dcmread(path, **options)
    except pydicom.errors.InvalidDicomError:
        found = pydicom.dcmread(path, force=True, **options)
        if "SOPClassUID" not in found and "Rows" not in found:
            raise ValueError("no DICOM file") from None
    if "TransferSyntaxUID" not in found.file_meta:
        implicit, little = found.original_encoding
        uid = pydicom.uid
        syntax = uid.ImplicitVRLittleEndian if implicit else uid.ExplicitVRLittleEndian
        found.file_meta.TransferSyntaxUID = syntax if little else uid.ExplicitVRBigEndian
    return found


def read_planes(path: Path, passed_over: Sequence[str] = _NO_SCANS) -> list[Plane]:
    """Return the images of a file, none when it holds none.

    Args:
        path: of a DICOM file.
        passed_over: modalities that are no scans.

    Raises:
        UserError: it cannot be read, or a number that must be known is missing or none.
    """
    with quiet(), named(f"{path}: cannot be read as DICOM"):
        header = open_file(path, stop_before_pixels=True)
        is_image = any(name in header for name in _OF_AN_IMAGE)
        if not is_image or header.get("Modality") in passed_over:
            return []
        try:
            return _planes(header, path)
        except ValueError as error:
            raise UserError(f"{path}: {one_line(error)}") from error


def _planes(header: Any, path: Path) -> list[Plane]:
    num_frames = int((_numbers(header, "NumberOfFrames", 1) or [0])[0]) or 1
    if num_frames > 1 and len(header.get(_PER_FRAME) or ()) != num_frames:
        raise ValueError(
            f"several frames in one file ({num_frames}) without a place in space for each; "
            "convert it to one file per slice"
        )
    if "MOSAIC" in (header.get("ImageType") or ()):
        raise ValueError("a mosaic, all slices in one picture; convert it with dcm2niix")
    pixels = header.get("PhotometricInterpretation")
    if pixels != "MONOCHROME2":
        raise ValueError(f"{pixels} pixels; MONOCHROME2 can be read")
    size = tuple(int(_known(header, name, 1)[0]) for name in ("Rows", "Columns"))
    if min(size) < 1:
        raise ValueError(f"{size[0]}x{size[1]} pixels")
    return [_plane(header, path, frame, num_frames, size) for frame in range(num_frames)]


def _plane(header: Any, path: Path, frame: int, num_frames: int, size: tuple[int, int]) -> Plane:
    place = {name: _known(header, name, count, frame) for name, count in _GEOMETRY.items()}
    position, cosines, spacing_mm = map(np.array, place.values())
    cosines = cosines.reshape(2, 3)
    if np.abs(cosines @ cosines.T - np.eye(2)).max() > _SQUARE:
        raise ValueError("ImageOrientationPatient: no two directions at right angles")
    if spacing_mm.min() <= 0:
        raise ValueError("PixelSpacing: no distance")
    others = ("SpacingBetweenSlices", "SliceThickness", "RescaleSlope", "RescaleIntercept")
    between, thick, slope, intercept = (_numbers(header, name, 1, frame) for name in others)
    return Plane(
        *(header, path, frame, num_frames, size, position, cosines, tuple(spacing_mm.tolist())),
        distance_mm=abs((between or [0])[0]) or abs((thick or [0])[0]),
        slope=(slope or [1.0])[0],
        intercept=(intercept or [0.0])[0],
    )


def _known(header: Any, name: str, count: int, frame: int = 0) -> list[float]:
    found = _numbers(header, name, count, frame)
    if found is None:
        raise ValueError(f"no {name}" + (": its place in space is not known" * (count > 1)))
    return found


def _numbers(header: Any, name: str, count: int, frame: int = 0) -> list[float] | None:
    """Return the numbers of an attribute; None when it is missing or empty.

    Raises:
        ValueError: text, what is not finite or huge, or another count. It is not quoted: it may be
            what somebody wrote about the patient.
    """
    try:
        value = _value(header, name, frame)
        if value is None or (hasattr(value, "__len__") and not len(value)):
            return None
        numbers = np.array(value, np.float64).ravel()
    except Exception as error:  # pydicom turns text into numbers when it is asked for them
        raise ValueError(f"{name}: no number") from error
    if len(numbers) != count or not (np.abs(numbers) < _LARGEST).all():  # nor what is no number
        raise ValueError(f"{name}: {len(numbers)} numbers, {count} finite ones are expected")
    return numbers.tolist()


def _value(header: Any, name: str, frame: int) -> Any:
    """Return an attribute of a frame, of all frames or of the file."""
    for groups, index in ((_PER_FRAME, frame), (_SHARED, 0)):
        for group in (header.get(groups) or ())[index : index + 1]:
            for item in group.get(_GROUPS.get(name, ""), None) or ():
                if name in item:
                    return item.get(name)
    return header.get(name)


def in_order(planes: Sequence[Plane]) -> list[Plane]:
    """Return the planes by position along the normal, after a look at what they must share.

    Raises:
        UserError: sizes, directions or pixels differ, or two lie at one place.
    """
    first = planes[0]
    for plane in planes:
        problem = _problem(plane, first)
        if problem:
            raise UserError(f"{plane.name}: {problem} (beside {first.path.name})")
    ordered = sorted(planes, key=lambda plane: plane.along)
    for a, b in zip(ordered, ordered[1:], strict=False):
        if b.along - a.along < SAME_PLACE_MM:
            raise UserError(
                f"{a.name} and {b.path.name}: two images at one position (several echoes or "
                "times in one series?); keep one of each"
            )
    return ordered


def _problem(plane: Plane, first: Plane) -> str | None:
    """Return what makes an image unfit to be a slice of the volume that first belongs to."""
    if plane.size != first.size:
        return "{}x{} pixels, not {}x{}".format(*plane.size, *first.size)
    if np.abs(plane.cosines - first.cosines).max() > _TURNED:
        return "a slice that is not parallel to the others"
    if np.abs(np.subtract(plane.spacing_mm, first.spacing_mm)).max() > SAME_PLACE_MM:
        return "another pixel spacing"
    return None


def slice_distance(planes: Sequence[Plane]) -> float:
    """Return the usual distance of neighbours in mm; of one slice what its header says, or 0."""
    if len(planes) == 1:
        return planes[0].distance_mm
    return float(np.median(np.diff([plane.along for plane in planes])))


def place_of(planes: Sequence[Plane]) -> tuple[np.ndarray, list[str]]:
    """Return [4, 4], (slice, row, column, 1) to RAS+ mm, and what is odd about the distances."""
    first, usual = planes[0], slice_distance(planes)
    positions = np.array([plane.position for plane in planes])
    if len(planes) == 1:
        step = np.cross(*first.cosines) * (usual or 1.0)
    else:
        step = np.median(np.diff(positions, axis=0), axis=0)
    along_columns, along_rows = first.cosines
    row_mm, column_mm = first.spacing_mm
    affine = np.eye(4)
    affine[:3] = np.stack([step, along_rows * row_mm, along_columns * column_mm, positions[0]], 1)
    affine[:2] *= -1  # DICOM counts to the left and to the back
    distances = np.diff([plane.along for plane in planes])
    wide = np.flatnonzero(distances > _LARGEST_GAP * usual)
    if len(wide):
        gaps = ", ".join(f"{distances[i]:.3g} mm after slice {i + 1}" for i in wide[:3])
        return affine, [f"slices are missing: {gaps}, usually {usual:.3g} mm"]
    if len(distances) and np.abs(distances - usual).max() > _UNEVEN * usual:
        range_mm = f"{distances.min():.3g} to {distances.max():.3g} mm"
        return affine, [f"slices are not evenly spaced: {range_mm} apart"]
    return affine, []
