"""What is measured of each case of a volume set, and how it sums up."""

import math
from collections import Counter, defaultdict
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from jaxseg.datasets.index import Patient, make_patient
from jaxseg.diagnosis.facts import count, equal_channels_of, spread
from jaxseg.imaging.intensity import darken_background, volume_statistics
from jaxseg.scans.regions import Region
from jaxseg.scans.volume import Volume
from jaxseg.scoring.lesions import parts

_ML = 1000.0  # mm3
_EVERY = 2  # voxel along each axis, for percentiles and the head's box
_LARGE = 64  # voxels along an axis, above which those will do


class VolumeFacts(NamedTuple):
    """All that the doctor keeps of a case; no voxels."""

    patient: Patient
    group: str  # the person
    shape: tuple[int, ...]  # (D, H, W) of the axial slices
    spacing_mm: tuple[float, ...]
    orientation: str  # of the file's axes
    dtype: str
    stored: np.ndarray  # [C, 2] lowest and highest stored value
    stats: np.ndarray  # [C, 4] float32, see intensity.volume_statistics; about
    head_shape: tuple[int, ...]  # of a box around the head, (D, H, W); about that of the copy
    equal_channels: tuple[tuple[int, ...], ...]  # groups of the same voxels everywhere
    values: tuple[int, ...]  # of the label file, without 0
    region_ml: np.ndarray  # [K]
    lesions: np.ndarray  # [K] int, parts that touch by no corner

    @property
    def num_bytes(self) -> int:
        """Bytes of a copy cropped to the head: images as stored, a byte for each region."""
        voxel = len(self.stored) * np.dtype(self.dtype).itemsize + len(self.region_ml)
        return math.prod(self.head_shape) * voxel

    @property
    def head_share(self) -> float:
        """Which share of the volume the head's box takes."""
        return math.prod(self.head_shape) / math.prod(self.shape)


def measure(volume: Volume) -> VolumeFacts:
    """Measure a volume with truth."""
    image = volume.image
    large = min(image.shape[:3]) > _LARGE
    coarse = darken_background(image[::_EVERY, ::_EVERY, ::_EVERY] if large else image)
    voxels = volume.mask.sum((0, 1, 2), dtype=np.int64)
    low, high = image.min((0, 1, 2)), image.max((0, 1, 2))
    return VolumeFacts(
        patient=make_patient(volume, 0, np.array([(0, 0, 0), image.shape[:3]])),
        group=volume.group or volume.patient,
        shape=image.shape[:3],
        spacing_mm=volume.spacing_mm,
        orientation=volume.orientation,
        dtype=image.dtype.name,
        stored=np.stack([low, high], axis=-1),
        stats=volume_statistics(coarse),
        head_shape=_box_shape(coarse, image.shape[:3]),
        equal_channels=equal_channels_of(image),
        values=volume.mask_values,
        region_ml=voxels * volume.voxel_mm3 / _ML,
        lesions=np.array([count_lesions(mask) for mask in np.moveaxis(volume.mask, -1, 0)]),
    )


def count_lesions(mask: np.ndarray) -> int:
    """Return the number of parts [D, H, W] that do not touch, not even by a corner."""
    from scipy import ndimage  # takes time to import

    boxes = ndimage.find_objects((mask > 0).astype(np.uint8))
    if not boxes or boxes[0] is None:
        return 0
    return parts(mask[boxes[0]])[1]


def sum_up(
    facts: Sequence[VolumeFacts],
    channels: Sequence[str],
    regions: Sequence[Region],
    source_bytes: int,
) -> dict[str, Any]:
    """Return the numbers of the whole set, ready for JSON.

    Args:
        facts: at least one case.
        channels: names, in order.
        regions: what the labels mean.
        source_bytes: of all files that are read.
    """
    persons = defaultdict(list)
    for f in facts:
        persons[f.group].append(f.patient.id)
    return {
        "scans": len(facts),
        "persons": len(persons),
        "time_points": {who: scans for who, scans in persons.items() if len(scans) > 1},
        "sizes": count(" x ".join(map(str, f.shape)) for f in facts),
        "spacings_mm": count(" x ".join(f"{mm:.3g}" for mm in f.spacing_mm) for f in facts),
        "orientations": count(f.orientation for f in facts),
        "types": count(f.dtype for f in facts),
        "head_share": float(np.median([f.head_share for f in facts])),
        "channels": _channels(facts, channels),
        "label_values": {str(v): n for v, n in sorted(Counter(_values(facts)).items())},
        "regions": [_region(facts, k, region) for k, region in enumerate(regions)],
        "source_bytes": source_bytes,
        "copy_bytes": sum(f.num_bytes for f in facts),
        "largest_bytes": max(f.num_bytes for f in facts),
    }


def _values(facts: Sequence[VolumeFacts]) -> list[int]:
    return [value for f in facts for value in f.values]


def _channels(facts: Sequence[VolumeFacts], names: Sequence[str]) -> list[dict[str, Any]]:
    """Return the intensities of each channel over the cases that have all of them."""
    alike = [f for f in facts if len(f.stored) == len(names)] or facts[:1]
    found = []
    for c, name in enumerate(names[: len(alike[0].stored)]):
        stats = np.stack([f.stats[c] for f in alike]).astype(float)
        found.append(
            {
                "name": name,
                "lowest": float(min(f.stored[c, 0] for f in alike)),
                "highest": float(max(f.stored[c, 1] for f in alike)),
                "head_p1": float(np.median(stats[:, 0])),
                "head_p99": float(np.median(stats[:, 1])),
                "head_mean": spread(stats[:, 2].tolist()),
            }
        )
    return found


def _region(facts: Sequence[VolumeFacts], k: int, region: Region) -> dict[str, Any]:
    """Return in how many cases a region is, and its size and parts there."""
    ml = [float(f.region_ml[k]) for f in facts if f.region_ml[k]]
    return {
        "name": region.name,
        "labels": list(region.labels),
        "scans": len(ml),
        "ml": spread(ml),
        "lesions": spread([int(f.lesions[k]) for f in facts if f.region_ml[k]]),
    }


def _box_shape(image: np.ndarray, shape: tuple[int, ...]) -> tuple[int, ...]:
    """Return the size of the box of what is no air, all where there is no air.

    Args:
        image: [d, h, w, C], perhaps every second voxel only.
        shape: of the volume itself.
    """
    edges = image[:, [0, -1]].reshape(-1, image.shape[-1])
    seen = (image != np.median(edges, axis=0)).any(-1)
    box = list(shape)
    for axis in range(3):
        there = np.flatnonzero(seen.any(tuple(a for a in range(3) if a != axis)))
        if len(there):
            share = (there[-1] - there[0] + 1) / seen.shape[axis]
            box[axis] = round(shape[axis] * share)
    return tuple(box)
