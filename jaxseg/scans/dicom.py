"""DICOM series to volumes, and results to DICOM-SEG; needs pydicom and highdicom, `[dicom]`."""

import importlib.metadata
from collections import defaultdict
from collections.abc import Sequence
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

SUFFIXES = (".dcm", ".dicom", ".ima")
_PREAMBLE = 128  # bytes before the letters that mark a DICOM file
_NO_SCANS = ("SEG", "RTSTRUCT", "SR", "PR", "KO", "REG")  # modalities beside scans in a folder
# Attributes that give a slice its place in space, and how many numbers each has.
_GEOMETRY = {"ImagePositionPatient": 3, "ImageOrientationPatient": 6, "PixelSpacing": 2}
_LARGEST_GAP = 1.5  # of the usual distance; above, slices are missing
_UNEVEN = 0.02  # of the usual distance
_TURNED = 1e-3  # difference of direction cosines
_SAME_PLACE_MM = 1e-3
_HEADER_ERRORS = (OSError, EOFError, ValueError, TypeError, AttributeError, KeyError, IndexError)
_PIXEL_ERRORS = (*_HEADER_ERRORS, RuntimeError, NotImplementedError)


def is_dicom(path: Path) -> bool:
    """Return whether a file is DICOM: by suffix, or by the mark behind the preamble."""
    if path.name.lower().endswith(SUFFIXES):
        return True
    try:
        with path.open("rb") as file:
            return file.read(_PREAMBLE + 4)[_PREAMBLE:] == b"DICM"
    except OSError:
        return False


def read_series(paths: Sequence[Path]) -> Volume:
    """Read the images of one series, in any order; files that are no images are passed over.

    Slices are sorted by their position along the normal of the plane; values are rescaled by
    each slice's own slope and intercept. `write` makes a DICOM-SEG file that refers to the
    series: BINARY for masks, FRACTIONAL in steps of 1/255 for probabilities.

    Raises:
        UserError: pydicom is missing; no image, several series, several images at one place,
            planes that are not parallel, or what cannot be read.
    """
    slices = _sorted(_one_series(_read_headers(paths)))
    headers = [header for header, _ in slices]
    _check_size(headers)
    place, distance_warnings = _affine(headers)
    voxels = _read_pixels([path for _, path in slices])
    order = axial_order(place)
    axial = axial_affine(place, voxels.shape, order)
    spacing_mm = spacing_of(axial) if _slice_distance(headers) else ()
    warnings = distance_warnings + (warn_of_shape(spacing_mm) if spacing_mm else [])

    def write(to: Path, values: np.ndarray):
        _write(headers, from_axial(values, order), to.with_name(to.name + ".dcm"))

    return Volume(to_axial(voxels, order), spacing_mm, axial, tuple(warnings), write)


def read_segmentation(path: Path) -> np.ndarray:
    """Return the segment of a DICOM-SEG that `read_series` wrote, [D, H, W] float32 in 0..1.

    Raises:
        UserError: highdicom is missing; it cannot be read, or its slices are not evenly spaced.
    """
    highdicom = _highdicom()
    try:
        volume = highdicom.seg.segread(path).get_volume(dtype=np.float32)
    except _PIXEL_ERRORS as error:
        raise UserError(f"{path}: cannot be read as DICOM-SEG ({one_line(error)})") from error
    affine = np.diag([-1.0, -1.0, 1.0, 1.0]) @ volume.affine  # DICOM counts left and backwards
    return to_axial(volume.array[..., 0], axial_order(affine))


def _highdicom() -> Any:
    try:
        import highdicom
    except ImportError as error:
        raise UserError("DICOM-SEG needs highdicom: pip install 'jaxseg[dicom]'") from error
    return highdicom


def _pydicom() -> Any:
    try:
        import pydicom
    except ImportError as error:
        raise UserError("DICOM needs pydicom and highdicom: pip install 'jaxseg[dicom]'") from error
    return pydicom


def _read_headers(paths: Sequence[Path]) -> list[tuple[Any, Path]]:
    """Return the headers of the scans among the files, with their paths."""
    pydicom, found = _pydicom(), []
    for path in paths:
        try:
            header = pydicom.dcmread(path, stop_before_pixels=True)
            if "Rows" in header and header.get("Modality") not in _NO_SCANS:
                found.append((header, path))
        except (*_HEADER_ERRORS, pydicom.errors.InvalidDicomError) as error:
            raise UserError(f"{path}: cannot be read as DICOM ({one_line(error)})") from error
    return found


def _one_series(slices: list[tuple[Any, Path]]) -> list[tuple[Any, Path]]:
    """Return the slices if all are of one series; UserError lists the series else."""
    series = defaultdict(list)
    for header, path in slices:
        series[header.get("SeriesInstanceUID", "no series")].append((header, path))
    if not series:
        raise UserError("no DICOM images")
    if len(series) == 1:
        return slices
    listed = "; ".join(
        f"{found[0][0].get('SeriesDescription', 'no description')!r} ({len(found)} images, {uid})"
        for uid, found in series.items()
    )
    raise UserError(f"{len(series)} series, give each a folder of its own: {listed}")


def _sorted(slices: list[tuple[Any, Path]]) -> list[tuple[Any, Path]]:
    """Return the slices by position along the normal, after a look at what they must share."""
    first, first_path = slices[0]
    for header, path in slices:
        problem = _problem(header, first)
        if problem:
            raise UserError(f"{path}: {problem} (beside {first_path.name})")
    normal = _normal(first)
    ordered = sorted(slices, key=lambda s: float(normal @ _position(s[0])))
    for (a, path_a), (b, path_b) in zip(ordered, ordered[1:], strict=False):
        if normal @ (_position(b) - _position(a)) < _SAME_PLACE_MM:
            raise UserError(
                f"{path_a} and {path_b.name}: two images at one position (several echoes or "
                "times in one series?); keep one of each"
            )
    return ordered


def _problem(header: Any, first: Any) -> str | None:
    """Return what makes an image unfit to be a slice of the volume that first belongs to."""
    if int(header.get("NumberOfFrames", 1)) > 1:
        return "several frames in one file (enhanced DICOM); convert it to one file per slice"
    for name, count in _GEOMETRY.items():
        if len(header.get(name) or ()) != count:
            return f"no {name}: its place in space is not known"
    if header.get("PhotometricInterpretation") != "MONOCHROME2":
        return f"{header.get('PhotometricInterpretation')} pixels; MONOCHROME2 can be read"
    size, first_size = ((h.Rows, h.Columns) for h in (header, first))
    if size != first_size:
        return f"{size[0]}x{size[1]} pixels, not {first_size[0]}x{first_size[1]}"
    if np.abs(_cosines(header) - _cosines(first)).max() > _TURNED:
        return "a slice that is not parallel to the others"
    if np.abs(np.subtract(header.PixelSpacing, first.PixelSpacing)).max() > _SAME_PLACE_MM:
        return "another pixel spacing"
    return None


def _position(header: Any) -> np.ndarray:
    return np.array(header.ImagePositionPatient, np.float64)


def _cosines(header: Any) -> np.ndarray:
    """Return [2, 3]: the directions in which columns and rows are counted, LPS+."""
    return np.array(header.ImageOrientationPatient, np.float64).reshape(2, 3)


def _normal(header: Any) -> np.ndarray:
    return np.cross(*_cosines(header))


def _slice_distance(headers: Sequence[Any]) -> float:
    """Return the usual distance of neighbours in mm; of one slice what its header says, or 0."""
    if len(headers) == 1:
        header = headers[0]
        return float(header.get("SpacingBetweenSlices") or header.get("SliceThickness") or 0)
    places = [_normal(headers[0]) @ _position(header) for header in headers]
    return float(np.median(np.diff(places)))


def _affine(headers: Sequence[Any]) -> tuple[np.ndarray, list[str]]:
    """Return [4, 4], (slice, row, column, 1) to RAS+ mm, and what is odd about the distances."""
    first, usual = headers[0], _slice_distance(headers)
    positions = np.array([_position(header) for header in headers])
    if len(headers) == 1:
        step = _normal(first) * (usual or 1.0)
    else:
        step = np.median(np.diff(positions, axis=0), axis=0)
    row_mm, column_mm = (float(x) for x in first.PixelSpacing)
    along_columns, along_rows = _cosines(first)
    affine = np.eye(4)
    affine[:3] = np.stack([step, along_rows * row_mm, along_columns * column_mm, positions[0]], 1)
    affine[:2] *= -1  # DICOM counts to the left and to the back
    distances = np.diff(positions @ _normal(first))
    wide = np.flatnonzero(distances > _LARGEST_GAP * usual)
    if len(wide):
        gaps = ", ".join(f"{distances[i]:.3g} mm after slice {i + 1}" for i in wide[:3])
        return affine, [f"slices are missing: {gaps}, usually {usual:.3g} mm"]
    if len(distances) and np.abs(distances - usual).max() > _UNEVEN * usual:
        range_mm = f"{distances.min():.3g} to {distances.max():.3g} mm"
        return affine, [f"slices are not evenly spaced: {range_mm} apart"]
    return affine, []


def _check_size(headers: Sequence[Any]):
    num_bytes = 4 * len(headers) * int(headers[0].Rows) * int(headers[0].Columns)
    if num_bytes > MAX_PATIENT_BYTES:
        raise UserError(f"{num_bytes} bytes of voxels; at most {MAX_PATIENT_BYTES}")


def _read_pixels(paths: Sequence[Path]) -> np.ndarray:
    """Return [D, H, W, 1], rescaled."""
    pydicom, slices = _pydicom(), []
    for path in paths:
        try:
            image = pydicom.dcmread(path)
            pixels = image.pixel_array
            slope, intercept = image.get("RescaleSlope", 1), image.get("RescaleIntercept", 0)
            if (slope, intercept) != (1, 0):
                pixels = pixels.astype(np.float32) * np.float32(slope) + np.float32(intercept)
            slices.append(as_pixels(pixels))
        except _PIXEL_ERRORS as error:
            raise UserError(f"{path}: pixels cannot be read ({one_line(error)})") from error
    return np.stack(slices)[..., None]


def _write(headers: Sequence[Any], values: np.ndarray, path: Path):
    """Write [D, H, W], one frame for each image of the series, also where it is empty."""
    highdicom = _highdicom()
    from pydicom.sr.codedict import codes

    version = importlib.metadata.version("jaxseg")
    segment = highdicom.seg.SegmentDescription(
        segment_number=1,
        segment_label="Tumour",
        segmented_property_category=codes.SCT.MorphologicallyAbnormalStructure,
        segmented_property_type=codes.SCT.Neoplasm,
        algorithm_type=highdicom.seg.SegmentAlgorithmTypeValues.AUTOMATIC,
        algorithm_identification=highdicom.AlgorithmIdentificationSequence(
            name="jaxseg", version=version, family=codes.DCM.ArtificialIntelligence
        ),
    )
    if values.dtype == np.uint8:
        raise UserError("masks of several regions cannot be written as DICOM-SEG yet")
    binary = values.dtype == bool
    try:
        made = highdicom.seg.Segmentation(
            source_images=headers,
            pixel_array=values.astype(np.uint8 if binary else np.float32),
            segmentation_type="BINARY" if binary else "FRACTIONAL",
            segment_descriptions=[segment],
            series_instance_uid=highdicom.UID(),
            series_number=int(headers[0].get("SeriesNumber") or 0) + 1000,
            sop_instance_uid=highdicom.UID(),
            instance_number=1,
            manufacturer="jaxseg",
            manufacturer_model_name="jaxseg",
            software_versions=version,
            device_serial_number="none",
            omit_empty_frames=False,
        )
        made.save_as(path)
    except _HEADER_ERRORS as error:
        if isinstance(error, OSError):
            raise
        raise UserError(f"no DICOM-SEG can be made of this series ({one_line(error)})") from error
