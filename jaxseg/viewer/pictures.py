"""What the viewer shows of a patient: flat cuts through volumes, as bytes for the page."""

import functools
import gzip
import struct
import threading
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from jaxseg.imaging import intensity
from jaxseg.scoring import colours, contours

KEPT_PATIENTS = 4  # in memory, each with its volumes
_LARGEST = 65535  # of the numbers that intensities are sent as
# NIfTI codes: types of the voxels, unit of the spacing, space of the coordinates.
_UINT8, _UINT16, _MM, _SCANNER = 2, 512, 2, 1


class Channel(NamedTuple):
    """One sequence of a scan: intensity = offset + step * number."""

    numbers: np.ndarray  # [D, H, W] little-endian uint16
    offset: float
    step: float
    low: float  # of the window shown first
    high: float


class Scan(NamedTuple):
    """A patient's volumes; where oriented, from below up, from front to back, from right to left.

    That is how a slice is shown: the front on top, the patient's right on the left.
    """

    channels: tuple[Channel, ...]
    truth: np.ndarray | None  # [D, H, W, K] bool, one for each region
    spacing_mm: tuple[float, ...]  # (slice distance, row, column); (): unknown
    oriented: bool
    voxel_mm3: float | None = None  # None: unknown

    @property
    def num_planes(self) -> int:
        """Three, or one: without the spacing, cuts across the slices have no proportions."""
        return 3 if self.spacing_mm and len(self.channels[0].numbers) > 1 else 1


class Prediction(NamedTuple):
    """What the network says, on the grid of the scan."""

    mask: np.ndarray  # [D, H, W, K] bool, one for each region
    probability: np.ndarray | None  # [D, H, W, K] uint8, 255 for 1


class RegionRow(NamedTuple):
    """What is known of one region of a patient."""

    dice: float | None
    volume: float | None  # of the truth where there is one, else predicted; ml or voxels
    facts: tuple[tuple[str, str], ...] = ()  # label and value of each score, ready to be read
    hd95: str = ""  # with its unit, ready to be read


class PatientRow(NamedTuple):
    """One patient in the list."""

    patient: str
    regions: tuple[RegionRow, ...]  # in order of the gallery's


class Gallery(NamedTuple):
    """Everything that the viewer shows."""

    title: str
    notes: tuple[str, ...]
    volume_unit: str  # ml or voxels
    rows: tuple[PatientRow, ...]
    thresholds: tuple[float, ...] | None  # of the probability of each region; None: not known
    channel: int  # shown first, from 0
    scan: Callable[[int], Scan]  # of the n-th patient
    predict: Callable[[int], Prediction]
    channels: tuple[str, ...] = ()  # names, in order; (): not known, they are numbered
    regions: tuple[str, ...] = ("tumour",)  # names, in order of the masks


def remember(function: Callable[[int], Any]) -> Callable[[int], Any]:
    """Return the function with its results for the latest patients kept; one call at a time."""
    kept, lock = functools.lru_cache(KEPT_PATIENTS)(function), threading.Lock()

    def call(patient: int) -> Any:
        with lock:
            return kept(patient)

    return call


def cut(volume: np.ndarray, axis: int, index: int) -> np.ndarray:
    """Return a plane [rows, columns, ...] of [D, H, W, ...] as it is shown.

    Axis 0: a slice. Axis 1 and 2: across the slices at a row or a column, the last slice on top.

    Raises:
        IndexError: there is no such plane.
    """
    return volume[index] if axis == 0 else volume[::-1].take(index, axis)


def plane_bytes(volume: np.ndarray, axis: int, index: int) -> bytes:
    """Return a plane of a volume of `layer`, row by row, as it is sent; errors as `cut`.

    Masks have a bit for each region, the first the lowest of the first byte, so that all regions
    come at once: ceil(K / 8) bytes for a pixel.
    """
    plane = cut(volume, axis, index)
    if plane.ndim == 3:
        plane = np.packbits(plane, axis=-1, bitorder="little")
    return plane.tobytes()


def make_scan(
    image: np.ndarray,
    truth: np.ndarray | None,
    spacing_mm: tuple[float, ...],
    oriented: bool = False,
    voxel_mm3: float | None = None,
    stats: np.ndarray | None = None,
) -> Scan:
    """Return a scan to be shown.

    Integers stay exact where a channel's range is below 65536; others are rounded to a 65535th of
    it. The window shown first is the clipping range of `intensity.volume_statistics`.

    Args:
        image: [D, H, W, C] any numeric type, finite.
        truth: [D, H, W, K] bool; None: not known.
        spacing_mm: (slice distance, row, column); (): unknown.
        oriented: whether the axes run as `Scan` says.
        voxel_mm3: volume of a voxel; None: unknown.
        stats: [C, 4] `intensity.volume_statistics` of the image; None: found here, which takes
            seconds of a whole head.
    """
    if stats is None:
        stats = intensity.volume_statistics(intensity.darken_background(image))
    windows = stats[:, :2].tolist()
    channels = [_channel(image[..., c], *windows[c]) for c in range(image.shape[-1])]
    return Scan(tuple(channels), truth, spacing_mm, oriented, voxel_mm3)


def _channel(volume: np.ndarray, low: float, high: float) -> Channel:
    least, most = float(volume.min()), float(volume.max())
    exact = np.issubdtype(volume.dtype, np.integer) and most - least <= _LARGEST
    step = 1.0 if exact or most == least else (most - least) / _LARGEST
    numbers = np.rint((volume.astype(np.float64) - least) / step).astype("<u2")
    return Channel(numbers, least, step, low, high)


def make_prediction(mask: np.ndarray, probability: np.ndarray | None) -> Prediction:
    """Return a prediction to be shown, of bool and float32 in 0..1, both [D, H, W, K]."""
    if probability is not None:
        probability = np.rint(255 * probability).astype(np.uint8)
    return Prediction(mask, probability)


def layer(gallery: Gallery, patient: int, name: str) -> np.ndarray:
    """Return a volume: [D, H, W] uint16 or of a probability uint8, [D, H, W, K] bool of masks.

    Args:
        gallery: what is shown.
        patient: number in the list.
        name: `image-N` (channel N), `truth`, `prediction` or `probability-N` (region N).

    Raises:
        LookupError: the patient has no such volume.
    """
    kind, _, number = name.partition("-")
    if kind == "image":
        return gallery.scan(patient).channels[int(number)].numbers
    if kind == "truth":
        shown = gallery.scan(patient).truth
    elif kind == "prediction":
        shown = gallery.predict(patient).mask
    else:
        shown = gallery.predict(patient).probability
    if shown is None:
        raise LookupError(name)
    return shown[..., int(number)] if kind == "probability" else shown


def describe_gallery(gallery: Gallery, niivue: bool) -> dict[str, Any]:
    """Return what the page asks for first: the list of patients."""
    names = ("title", "notes", "volume_unit", "thresholds", "channel", "channels")
    rows = [
        {"patient": row.patient, "regions": [region._asdict() for region in row.regions]}
        for row in gallery.rows
    ]
    described = {name: getattr(gallery, name) for name in names}
    described["colours"] = {"truth": contours.TRUTH, "prediction": contours.PREDICTION}
    described["regions"] = [
        {"name": name.replace("_", " "), "colour": colours.as_hex(colour)}
        for name, colour in colours.of_regions(gallery.regions).items()
    ]
    return described | {"patients": rows, "niivue": niivue}


def describe_scan(scan: Scan) -> dict[str, Any]:
    """Return shape, spacing, intensities and tumour areas of a scan, to be sent as JSON."""
    channels = [
        {k: v for k, v in channel._asdict().items() if k != "numbers"}
        | {"most": channel.offset + channel.step * int(channel.numbers.max())}
        for channel in scan.channels
    ]
    return {
        "shape": scan.channels[0].numbers.shape,
        "spacing_mm": scan.spacing_mm,
        "oriented": scan.oriented,
        "num_planes": scan.num_planes,
        "voxel_mm3": scan.voxel_mm3,
        "channels": channels,
        "truth": None if scan.truth is None else areas_of_regions(scan.truth),
    }


def describe_prediction(prediction: Prediction) -> dict[str, Any]:
    """Return what the page needs beside the planes of a prediction, to be sent as JSON."""
    known = prediction.probability is not None
    return {"areas": areas_of_regions(prediction.mask), "probability": known}


def areas_of_regions(masks: np.ndarray) -> list[list[list[int]]]:
    """Return `areas` of each region of [D, H, W, K]."""
    return [areas(masks[..., k]) for k in range(masks.shape[-1])]


def areas(mask: np.ndarray) -> list[list[int]]:
    """Return the number of voxels in every plane of each axis of [D, H, W]."""
    return [mask.sum(axes, dtype=np.int64).tolist() for axes in ((1, 2), (0, 2), (0, 1))]


def nifti(scan: Scan, name: str, volume: np.ndarray) -> bytes:
    """Return a volume of `layer` as a .nii.gz file of [D, H, W].

    Voxels are cubes of 1 where the spacing is unknown; the middle of the volume is the origin.

    Args:
        scan: the patient's.
        name: of the layer.
        volume: of the layer; of several regions, a voxel is in the mask when it is in one.

    References:
        https://nifti.nimh.nih.gov/nifti-1/documentation/nifti1fields
    """
    volume = volume.any(-1) if volume.ndim == 4 else volume
    spacing = scan.spacing_mm or (1.0, 1.0, 1.0)
    to_world = np.diag([-spacing[2], -spacing[1], spacing[0]])  # to right, front and up
    shape = np.array(volume.shape[::-1])  # columns vary fastest
    affine = np.column_stack([to_world, to_world @ (1 - shape) / 2])
    kind, _, number = name.partition("-")
    channel = scan.channels[int(number)] if kind == "image" else None
    code, slope, intercept = (_UINT16, channel.step, channel.offset) if channel else (_UINT8, 1, 0)
    header = bytearray(352)
    struct.pack_into("<i", header, 0, 348)
    struct.pack_into("<8h", header, 40, 3, *shape, 1, 1, 1, 1)
    struct.pack_into("<2h", header, 70, code, 8 * volume.itemsize)
    struct.pack_into("<8f", header, 76, 1, *spacing[::-1], 0, 0, 0, 0)
    struct.pack_into("<3f", header, 108, len(header), slope, intercept)
    header[123] = _MM if scan.spacing_mm else 0
    struct.pack_into("<h", header, 254, _SCANNER)
    struct.pack_into("<12f", header, 280, *affine.ravel())
    header[344:348] = b"n+1\0"
    return gzip.compress(bytes(header) + volume.tobytes(), compresslevel=1)
