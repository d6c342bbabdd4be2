"""The best global threshold: what a score must beat before a network is worth its trouble.

The other trivial baseline, predicting nothing, needs no image: see `scorecard.predict_nothing`.
"""

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np

from jaxseg.errors import UserError
from jaxseg.scoring.metrics import Counts, dice

NUM_BINS = 256
STEPS_PER_UNIT = 16  # a power of two: scaling and floor are exact in float32
LOWEST = -4  # normalised intensity; the thresholds are -4, -3.9375, ... 11.9375


class ThresholdBaseline(NamedTuple):
    """Predict tumour where `volume[..., channel] >= threshold`."""

    channel: int
    threshold: float  # in units of the normalised image (standard deviations)
    train_dice: float  # mean over the patients it was chosen on, 0..1


class FoldThresholds(NamedTuple):
    """The baselines of several folds: each patient is thresholded by that of its fold."""

    folds: list[dict[str, Any]]  # fields of `ThresholdBaseline`


def of_folds(found: Sequence[ThresholdBaseline]) -> ThresholdBaseline | FoldThresholds:
    """Return the baseline as the scorecard names it: the only one, or those of the folds."""
    return found[0] if len(found) == 1 else FoldThresholds([b._asdict() for b in found])


def dice_per_threshold(volume: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """Return one patient's Dice for each channel and threshold, float64 [C, NUM_BINS].

    Args:
        volume: normalised, float32 [D, H, W, C].
        truth: bool [D, H, W].
    """
    return dice(_counts_per_threshold(volume, truth))


def choose(patients: Iterable[np.ndarray]) -> ThresholdBaseline:
    """Choose the channel and threshold with the best mean Dice per patient.

    A tie goes to the lower channel, then to the lower threshold.

    Args:
        patients: the `dice_per_threshold` of each training patient, one in memory at a time.

    Raises:
        UserError: no patients.
    """
    total, num_patients = 0.0, 0
    for table in patients:
        total = total + table
        num_patients += 1
    if num_patients == 0:
        raise UserError("no training patients to choose the baseline threshold on")
    mean = total / num_patients
    channel, index = np.unravel_index(np.argmax(mean), mean.shape)
    threshold = LOWEST + index / STEPS_PER_UNIT
    return ThresholdBaseline(int(channel), float(threshold), float(mean[channel, index]))


def look_up(baseline: ThresholdBaseline, table: np.ndarray) -> float:
    """Return the baseline's Dice on a patient with this `dice_per_threshold`."""
    index = round((baseline.threshold - LOWEST) * STEPS_PER_UNIT)
    return float(table[baseline.channel, index])


def apply(baseline: ThresholdBaseline, volume: np.ndarray) -> np.ndarray:
    """Return the prediction, bool [D, H, W], for a normalised volume, float32 [D, H, W, C]."""
    return volume[..., baseline.channel] >= np.float32(baseline.threshold)


def _counts_per_threshold(volume: np.ndarray, truth: np.ndarray) -> Counts:
    """Return counts [C, NUM_BINS]: those of `channel >= threshold` for every threshold."""
    channels = np.moveaxis(volume, -1, 0)
    tp = np.stack([_num_at_least(c[truth]) for c in channels])
    predicted = np.stack([_num_at_least(c.ravel()) for c in channels])
    return Counts(tp, predicted, np.full_like(tp, truth.sum()))


def _num_at_least(values: np.ndarray) -> np.ndarray:
    """Return how many of the values reach each threshold, int64 [NUM_BINS]."""
    # Clipped before the cast, so that no value overflows; bin 0 is for values below all thresholds.
    scaled = np.clip(values * np.float32(STEPS_PER_UNIT), -(2**15), 2**15)
    index = np.floor(scaled).astype(np.int32) - LOWEST * STEPS_PER_UNIT
    bins = np.bincount(np.clip(index, -1, NUM_BINS - 1) + 1, minlength=NUM_BINS + 1)
    return np.cumsum(bins[::-1])[::-1][1:]
