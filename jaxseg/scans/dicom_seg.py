"""Results to DICOM-SEG and back; needs highdicom, `[dicom]`."""

import contextlib
import importlib.metadata
import io
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from jaxseg.errors import UserError, named, one_line
from jaxseg.scans.dicom_planes import (
    Plane,
    in_order,
    load_pydicom,
    open_file,
    place_of,
    quiet,
    read_planes,
)
from jaxseg.scans.volume import Images, Order, axial_order, to_axial

# What a DICOM-SEG takes over from the series, and anonymisation may take away: it can be empty.
_MAY_BE_EMPTY = ("PatientID", "PatientName", "PatientBirthDate", "PatientSex", "StudyID") + (
    *("StudyDate", "StudyTime", "AccessionNumber", "ReferringPhysicianName", "SliceThickness"),
)
_PERSONAL = (*_MAY_BE_EMPTY[:5], "AccessionNumber", "ReferringPhysicianName", "OtherPatientIDs")
_OWN = "SOPInstanceUID"  # of each file
_OF_ALL = ("StudyInstanceUID", "FrameOfReferenceUID", "SOPClassUID")  # one in the whole series
_HIDDEN = "..."


class Segmentation(NamedTuple):
    """A segment, its frames in their order in space or in that of a series."""

    values: np.ndarray  # [D, H, W] float32 in 0..1
    images: Images | None  # that the frames say they are of; None: not each says one of its own


def read_segmentation(path: Path, images: Images | None = None) -> Segmentation:
    """Return the segment of a DICOM-SEG, that `write` or others made.

    A frame belongs to the image that it refers to, where each refers to one of the series of its
    own: images without a frame are empty then, as those who leave out empty frames mean it.
    Otherwise frames are put in order by their places, as the slices of the series were: it may
    have gaps, uneven distances or a tilt.

    Args:
        path: of the file.
        images: of the series; None: by place.

    Raises:
        UserError: pydicom is missing; it cannot be read, or has several segments.
    """
    planes = read_planes(path, passed_over=())
    if not planes:
        raise UserError(f"{path}: no DICOM-SEG")
    with quiet(), named(f"{path}: cannot be read as DICOM-SEG"):
        found = open_file(path)
        frames = found.pixel_array.reshape(-1, *planes[0].size).astype(np.float32)
        if found.SegmentationType == "FRACTIONAL":
            frames /= np.float32(found.MaximumFractionalValue)
        names = _referred(found, len(planes))
    if images and names and set(names) <= set(images.names):
        values = np.zeros((len(images.names), *planes[0].size), np.float32)
        values[[images.names.index(name) for name in names]] = frames
        return Segmentation(to_axial(values, images.order), images)
    planes = in_order(planes)
    affine, _ = place_of(planes)
    chosen, order = [plane.frame for plane in planes], axial_order(affine)
    own = Images(order, tuple(names[frame] for frame in chosen)) if names else None
    return Segmentation(to_axial(frames[chosen], order), own)


def _referred(found: Any, num_frames: int) -> list[tuple[str, int]] | None:
    """Return the image that each frame is of; None where not each says one of its own."""
    names = []
    for group in (found.get("PerFrameFunctionalGroupsSequence") or ())[:num_frames]:
        for derived in (group.get("DerivationImageSequence") or ())[:1]:
            for source in (derived.get("SourceImageSequence") or ())[:1]:
                frame = np.atleast_1d(source.get("ReferencedFrameNumber") or 1)[0]
                names.append((str(source.get("ReferencedSOPInstanceUID", "")), int(frame) - 1))
    return names if len(set(names)) == num_frames else None


def images_of(planes: Sequence[Plane], order: Order) -> Images | None:
    """Return the images of a series; None where they have no names of their own."""
    names = tuple((str(p.header.get(_OWN) or ""), p.frame) for p in planes)
    is_named = len(set(names)) == len(names) and all(name for name, _ in names)
    return Images(order, names) if is_named else None


def obstacle(planes: Sequence[Plane]) -> str | None:
    """Return why no DICOM-SEG can be made of a series, before work is spent on it; None: it can.

    Tried on the first two images: with many, a try takes seconds.
    """
    some = planes if planes[0].num_frames > 1 else planes[:2]
    headers = _headers(planes)
    for name in _OF_ALL:
        found = {str(header.get(name, "")) for header in headers}
        if len(found) > 1 or "" in found:
            return f"no {name}" if "" in found else f"several {name}"
    if load_pydicom().uid.UID(headers[0].SOPClassUID).type != "SOP Class":
        return one_line(f"SOPClassUID {headers[0].SOPClassUID} is none of DICOM's")
    if len({str(header.get(_OWN, "")) for header in headers} - {""}) < len(headers):
        return f"images without a {_OWN} of their own"
    try:
        with quiet(), named("it cannot be written"):
            _make(some, np.zeros((len(some), *some[0].size), bool)).save_as(io.BytesIO())
    except UserError as error:
        return str(error)
    return None


def write(path: Path, planes: Sequence[Plane], values: np.ndarray):
    """Write [D, H, W], one frame for each image of the series, also where it is empty."""
    made = _make(planes, values)
    with quiet(), named("the DICOM-SEG cannot be written", but=(OSError,)):
        made.save_as(path)


def _make(planes: Sequence[Plane], values: np.ndarray) -> Any:
    """Return the DICOM-SEG of bool or float32 [D, H, W]; UserError when it cannot be made."""
    headers = _headers(planes)
    if len(headers) < len(planes):  # several frames in a file, in whose order they are expected
        values = values[np.argsort([plane.frame for plane in planes])]
    highdicom, binary = _highdicom(), values.dtype == bool
    try:
        with quiet():
            _fill(headers)
            return highdicom.seg.Segmentation(
                source_images=headers,
                pixel_array=values.astype(np.uint8 if binary else np.float32),
                segmentation_type="BINARY" if binary else "FRACTIONAL",
                segment_descriptions=[_segment(highdicom)],
                series_instance_uid=highdicom.UID(),
                series_number=_series_number(headers[0]) + 1000,
                sop_instance_uid=highdicom.UID(),
                instance_number=1,
                manufacturer="jaxseg",
                manufacturer_model_name="jaxseg",
                software_versions=importlib.metadata.version("jaxseg"),
                device_serial_number="none",
                omit_empty_frames=False,
            )
    except Exception as error:  # of whatever an odd header makes highdicom stumble over
        raise UserError(_without_names(one_line(error), headers[0])) from error


def _headers(planes: Sequence[Plane]) -> list[Any]:
    """Return the header of each file, once."""
    return list({id(plane.header): plane.header for plane in planes}.values())


def _highdicom() -> Any:
    try:
        import highdicom
    except ImportError as error:
        raise UserError("it needs highdicom: pip install 'jaxseg[dicom]'") from error
    return highdicom


def _segment(highdicom: Any) -> Any:
    from pydicom.sr.codedict import codes

    return highdicom.seg.SegmentDescription(
        segment_number=1,
        segment_label="Tumour",
        segmented_property_category=codes.SCT.MorphologicallyAbnormalStructure,
        segmented_property_type=codes.SCT.Neoplasm,
        algorithm_type=highdicom.seg.SegmentAlgorithmTypeValues.AUTOMATIC,
        algorithm_identification=highdicom.AlgorithmIdentificationSequence(
            name="jaxseg",
            version=importlib.metadata.version("jaxseg"),
            family=codes.DCM.ArtificialIntelligence,
        ),
    )


def _fill(headers: Sequence[Any]):
    for header in headers:
        for name in _MAY_BE_EMPTY:
            if name not in header:
                setattr(header, name, None)
        if header.PatientSex not in ("M", "F", "O"):
            header.PatientSex = None


def _series_number(header: Any) -> int:
    with contextlib.suppress(Exception):  # it may be text
        return max(0, int(header.get("SeriesNumber") or 0))
    return 0


def _without_names(text: str, header: Any) -> str:
    """Return what a library says without what the header says of the patient."""
    for name in _PERSONAL:
        with contextlib.suppress(Exception):
            value = str(header.get(name) or "").strip()
            text = (
                re.sub(rf"(?<![\w.]){re.escape(value)}(?![\w.])", _HIDDEN, text) if value else text
            )
    return text
