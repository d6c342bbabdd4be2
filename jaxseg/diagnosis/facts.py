"""What is measured of each patient of a data set, and how it sums up."""

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np

from jaxseg.datasets.index import Patient, make_patient
from jaxseg.diagnosis import leakage
from jaxseg.imaging.intensity import darken_background, head_box, normalise, volume_statistics
from jaxseg.scans.volume import Volume
from jaxseg.scoring import baselines


class PatientFacts(NamedTuple):
    """All that the doctor keeps of a patient; no volumes."""

    patient: Patient
    size: tuple[int, int]  # (H, W) pixels
    dtype: str
    stored: np.ndarray  # [C, 2] lowest and highest stored value
    stats: np.ndarray  # [C, 4] float32, see intensity.volume_statistics
    head_box: np.ndarray  # [4] int32, see intensity.head_box
    blank_slices: int  # all pixels the same
    equal_channels: tuple[tuple[int, ...], ...]  # groups of the same pixels everywhere
    mask_values: tuple[int, ...]  # per slice, that of tumour in the file; 0: no tumour
    threshold_dice: np.ndarray  # see baselines.dice_per_threshold
    copied: leakage.Copied

    @property
    def num_channels(self) -> int:
        """Number of channels."""
        return len(self.stored)

    @property
    def tumour_voxels(self) -> int:
        """Number of tumour voxels."""
        return sum(self.patient.tumour_pixels)


def measure(volume: Volume, first: int) -> PatientFacts:
    """Measure a patient's volume.

    Args:
        volume: at least one slice.
        first: number of slices before it; seeds the random splits, too.
    """
    image, truth = volume.image, volume.mask.any(-1)
    channels = range(image.shape[-1])
    dark = darken_background(image)
    stats = volume_statistics(dark)
    patient = make_patient(volume, first)
    return PatientFacts(
        patient=patient,
        size=image.shape[1:3],
        dtype=image.dtype.name,
        stored=np.array([(image[..., c].min(), image[..., c].max()) for c in channels]),
        stats=stats,
        head_box=head_box(dark),
        blank_slices=patient.digests.count(""),
        equal_channels=equal_channels_of(image),
        mask_values=volume.mask_values,
        threshold_dice=baselines.dice_per_threshold(normalise(dark, stats), truth),
        copied=leakage.copy_nearest(truth, volume.slice_numbers, np.random.default_rng(first)),
    )


def sum_up(facts: Sequence[PatientFacts]) -> dict[str, Any]:
    """Return the numbers of the whole data set, ready for JSON.

    Args:
        facts: at least one patient.
    """
    slices = [f.patient.num_slices for f in facts]
    tumours = [f.tumour_voxels for f in facts if f.tumour_voxels]
    tumour_slices = sum(n > 0 for f in facts for n in f.patient.tumour_pixels)
    return {
        "patients": len(facts),
        "slices": sum(slices),
        "slices_per_patient": spread(slices),
        "sizes": count(f"{f.size[0]} x {f.size[1]}" for f in facts),
        "forms": count(f"{f.num_channels} of {f.dtype}" for f in facts),
        "head_share": float(np.median([_box_share(f) for f in facts])),
        "blank_slices": sum(f.blank_slices for f in facts),
        "intensities": intensities(facts),
        "empty_slices": sum(slices) - tumour_slices,
        "tumour_slices_per_patient": spread(
            [sum(n > 0 for n in f.patient.tumour_pixels) for f in facts]
        ),
        "patients_without_tumour": len(facts) - len(tumours),
        "tumour_voxels": spread(tumours),
        "mask_values": count(str(v) for f in facts for v in f.mask_values if v),
        "equal_channels": {f.patient.id: f.equal_channels for f in facts if f.equal_channels},
        "slice_split": leakage.mean_over_draws([f.copied for f in facts]),
        "predict_nothing": {
            "dice": 1 - len(tumours) / len(facts),
            "slice_dice": 1 - tumour_slices / sum(slices),
        },
    }


def intensities(facts: Sequence[PatientFacts]) -> list[dict[str, Any]]:
    """Return ranges per channel over the patients that have the commonest number of channels."""
    num_channels = Counter(f.num_channels for f in facts).most_common(1)[0][0]
    alike = [f for f in facts if f.num_channels == num_channels]
    stored, stats = np.stack([f.stored for f in alike]), np.stack([f.stats for f in alike])
    return [
        {
            "lowest": int(stored[:, c, 0].min()),
            "highest": int(stored[:, c, 1].max()),
            "head_mean": spread(stats[:, c, 2].astype(float).tolist()),
            "head_p1": float(np.median(stats[:, c, 0])),
            "head_p99": float(np.median(stats[:, c, 1])),
        }
        for c in range(num_channels)
    ]


def best_threshold(
    train: Sequence[PatientFacts], test: Sequence[PatientFacts]
) -> dict[str, Any] | None:
    """Return the baseline chosen on train and its mean Dice on test; None without patients."""
    if not train or not test:
        return None
    found = baselines.choose(f.threshold_dice for f in train)
    scores = [baselines.look_up(found, f.threshold_dice) for f in test]
    return found._asdict() | {"test_dice": float(np.mean(scores))}


def equal_channels_of(image: np.ndarray) -> tuple[tuple[int, ...], ...]:
    """Return the groups of channels [..., C] that are the same image."""
    groups = []
    for c in range(image.shape[-1]):
        same = (g for g in groups if np.array_equal(image[..., g[0]], image[..., c]))
        group = next(same, None)
        if group is None:
            groups.append([c])
        else:
            group.append(c)
    return tuple(tuple(group) for group in groups if len(group) > 1)


def _box_share(facts: PatientFacts) -> float:
    y0, x0, y1, x1 = (int(v) for v in facts.head_box)
    return (y1 - y0) * (x1 - x0) / (facts.size[0] * facts.size[1])


def spread(values: Sequence[float]) -> dict[str, float] | None:
    """Return lowest, median and highest; None of nothing."""
    if not values:
        return None
    return {"low": min(values), "median": float(np.median(values)), "high": max(values)}


def count(values: Iterable[str]) -> dict[str, int]:
    """Return how often each value occurs, the commonest first."""
    return dict(Counter(values).most_common())
