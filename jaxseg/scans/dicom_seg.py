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
    SAME_PLACE_MM,
    Plane,
    in_order,
    load_pydicom,
    open_file,
    place_of,
    quiet,
    read_planes,
)
from jaxseg.scans.regions import TUMOUR, Region, to_labels
from jaxseg.scans.volume import Images, Order, axial_order, to_axial

# What a DICOM-SEG takes over from the series, and anonymisation may take away: it can be empty.
_MAY_BE_EMPTY = ("PatientID", "PatientName", "PatientBirthDate", "PatientSex", "StudyID") + (
    *("StudyDate", "StudyTime", "AccessionNumber", "ReferringPhysicianName", "SliceThickness"),
)
_PERSONAL = (*_MAY_BE_EMPTY[:5], "AccessionNumber", "ReferringPhysicianName", "OtherPatientIDs")
_OWN = "SOPInstanceUID"  # of each file
_OF_ALL = ("StudyInstanceUID", "FrameOfReferenceUID", "SOPClassUID")  # one in the whole series
_HIDDEN = "..."
# What a segment is, by the first pattern in its region's name: terms of DICOM's context group 7159,
# lesion segmentation types; it has none for the cavity of a resection.
_TYPES = {
    r"non[\W_]?enhanc": ("NCIt", "NonEnhancingLesion"),
    r"enhanc|^et$": ("NCIt", "EnhancingLesion"),
    r"edema|^ed$": ("SCT", "Edema"),
    r"necro|^ncr$": ("SCT", "Necrosis"),
    r"cavity": ("SCT", "MorphologicallyAbnormalStructure"),
    r"tumou?r|^wt$|^tc$": ("SCT", "Neoplasm"),
}
_OTHER = ("SCT", "Lesion")
_LONGEST_LABEL = 64


class Segmentation(NamedTuple):
    """What a DICOM-SEG holds, its frames in their order in space or in that of a series."""

    values: np.ndarray  # [D, H, W] float32 in 0..1; of several segments uint8, see below
    images: Images | None  # that the frames say they are of; None: not each says one of its own


def read_segmentation(
    path: Path, images: Images | None = None, regions: Sequence[Region] = ()
) -> Segmentation:
    """Return the segments of a DICOM-SEG, that `write` or others made.

    A frame belongs to the image that it refers to, where each refers to one of the series of its
    own: images without a frame are empty then, as those who leave out empty frames mean it.
    Otherwise frames are put in order by their places, as the slices of the series were: it may
    have gaps, uneven distances or a tilt.

    Segments named as the regions, that may lie in each other, become the labels of the regions,
    see `regions.to_labels`; others may not overlap, and have their number as label.

    Args:
        path: of the file.
        images: of the series; None: by place.
        regions: that segments may be of.

    Raises:
        UserError: pydicom is missing; it cannot be read; of several segments, probabilities, or
            two that overlap and are no regions.
    """
    planes = read_planes(path, passed_over=())
    if not planes:
        raise UserError(f"{path}: no DICOM-SEG")
    with quiet(), named(f"{path}: cannot be read as DICOM-SEG"):
        found = open_file(path)
        frames = found.pixel_array.reshape(-1, *planes[0].size)
        segments = {int(s.SegmentNumber): str(s.SegmentLabel) for s in found.SegmentSequence}
        of = _segments_of(found, list(segments), len(planes))
        fractions = found.SegmentationType == "FRACTIONAL"
        highest = found.MaximumFractionalValue if fractions else 1
        names = _referred(found, of)
    if images and names and set(names) <= set(images.names):
        order, at = images.order, [images.names.index(name) for name in names]
        count = len(images.names)
    else:
        chosen, at = _by_place(planes, of)
        order, count = axial_order(place_of(chosen)[0]), len(chosen)
        own = tuple(names[plane.frame] for plane in chosen) if names else ()
        images = Images(order, own) if own else None
    values = np.zeros((count, *planes[0].size, len(segments)), frames.dtype)
    values[at, :, :, of] = frames
    values = to_axial(values, order)
    if len(segments) == 1:
        return Segmentation(values[..., 0].astype(np.float32) / np.float32(highest), images)
    if fractions:
        raise UserError(f"{path}: probabilities of {len(segments)} segments; give masks")
    return Segmentation(_labels(values > 0, segments, regions, path), images)


def _segments_of(found: Any, numbers: Sequence[int], num_frames: int) -> list[int]:
    """Return of each frame which segment it is of, from 0."""
    if len(numbers) == 1:
        return [0] * num_frames
    shared = (found.get("SharedFunctionalGroupsSequence") or ())[:1]
    groups = (found.get("PerFrameFunctionalGroupsSequence") or ())[:num_frames]
    said = []
    for group in groups:
        either = (g.get("SegmentIdentificationSequence") for g in (group, *shared))
        said.append(int(next(s for s in either if s)[0].ReferencedSegmentNumber))
    return [numbers.index(number) for number in said]


def _by_place(planes: Sequence[Plane], of: Sequence[int]) -> tuple[list[Plane], list[int]]:
    """Return a plane for each place in order, and of all planes at which place they are."""
    for segment in set(of):  # two of one segment at one place are refused
        in_order([plane for plane, own in zip(planes, of, strict=True) if own == segment])
    chosen, at = [], [0] * len(planes)
    for plane in sorted(planes, key=lambda plane: plane.along):
        if not chosen or plane.along - chosen[-1].along >= SAME_PLACE_MM:
            chosen.append(plane)
        at[plane.frame] = len(chosen) - 1
    return in_order(chosen), at


def _labels(
    masks: np.ndarray, segments: dict[int, str], regions: Sequence[Region], path: Path
) -> np.ndarray:
    """Return the labels, [D, H, W] uint8, of segments [D, H, W, S] bool."""
    named_so = [_plain(name) for name in segments.values()]
    wanted = [_plain(region.name) for region in regions]
    if wanted and set(wanted) <= set(named_so):
        return to_labels(masks[..., [named_so.index(name) for name in wanted]], regions)
    if (masks.sum(-1, dtype=np.uint8) > 1).any():
        raise UserError(
            f"{path}: segments that overlap, {', '.join(segments.values())}, and are not named as "
            f"the regions ({', '.join(r.name for r in regions) or 'none'})"
        )
    return (masks * np.array(list(segments), np.uint8)).max(-1)


def _plain(name: str) -> str:
    return re.sub(r"[\W_]+", " ", name).strip().casefold()


def _referred(found: Any, of: Sequence[int]) -> list[tuple[str, int]] | None:
    """Return the image that each frame is of; None where not each of a segment has its own."""
    names = []
    for group in (found.get("PerFrameFunctionalGroupsSequence") or ())[: len(of)]:
        for derived in (group.get("DerivationImageSequence") or ())[:1]:
            for source in (derived.get("SourceImageSequence") or ())[:1]:
                frame = np.atleast_1d(source.get("ReferencedFrameNumber") or 1)[0]
                names.append((str(source.get("ReferencedSOPInstanceUID", "")), int(frame) - 1))
    return names if len({*zip(names, of, strict=False)}) == len(of) else None


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
            _make(some, np.zeros((len(some), *some[0].size), bool), TUMOUR).save_as(io.BytesIO())
    except UserError as error:
        return str(error)
    return None


def write(path: Path, planes: Sequence[Plane], values: np.ndarray, regions: Sequence[Region]):
    """Write a segment for each region, which may lie in each other.

    Each has one frame for each image of the series, also where it is empty.

    Args:
        path: of the file.
        planes: of the series.
        values: [planes, rows, columns, K] bool, or of one region without K, bool or float32 in
            0..1.
        regions: K of them; their names are the labels of the segments and choose their codes.
    """
    made = _make(planes, values, regions)
    with quiet(), named("the DICOM-SEG cannot be written", but=(OSError,)):
        made.save_as(path)


def _make(planes: Sequence[Plane], values: np.ndarray, regions: Sequence[Region]) -> Any:
    """Return the DICOM-SEG; UserError when it cannot be made."""
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
                segment_descriptions=[
                    _segment(highdicom, n, region.name) for n, region in enumerate(regions, 1)
                ],
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


def _segment(highdicom: Any, number: int, name: str) -> Any:
    from pydicom.sr.codedict import codes

    known = (code for pattern, code in _TYPES.items() if re.search(pattern, name, re.IGNORECASE))
    scheme, keyword = next(known, _OTHER)
    label = name.replace("_", " ")[:_LONGEST_LABEL]
    return highdicom.seg.SegmentDescription(
        segment_number=number,
        segment_label=label[:1].upper() + label[1:],
        segmented_property_category=codes.SCT.MorphologicallyAbnormalStructure,
        segmented_property_type=getattr(getattr(codes, scheme), keyword),
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
