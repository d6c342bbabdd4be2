"""Overlap scores as pure functions of counts that add up.

`Counts` are sums over voxels, so per slice, per patient and pooled scores are three
groupings of the same numbers, and merging two parts is `+`. The functions use operators
only: they take NumPy arrays, JAX arrays and tracers alike.

Empty masks, decided once: when truth and prediction are both empty every score is 1 (the
caller reports how many such cases there were); when only one is empty every score is 0.
"""

from typing import Any, NamedTuple

Array = Any  # NumPy array, JAX array or scalar


class Counts(NamedTuple):
    """Voxel counts, all of one shape (any shape, by example `[num_patients, num_classes]`)."""

    tp: Array  # true positives
    pred: Array  # predicted positives
    true: Array  # positives of the truth

    def __add__(self, other: "Counts") -> "Counts":  # merges, where a tuple would concatenate
        return Counts(*(a + b for a, b in zip(self, other, strict=True)))


def dice(counts: Counts) -> Array:
    """Return 2 tp / (pred + true) in 0..1; 1 where both are empty (Dice, 1945)."""
    total = counts.pred + counts.true
    return (2 * counts.tp + (total == 0)) / (total + (total == 0))


def iou(counts: Counts) -> Array:
    """Return tp / (pred + true - tp) in 0..1; 1 where both are empty (Jaccard, 1912)."""
    union = counts.pred + counts.true - counts.tp
    return (counts.tp + (union == 0)) / (union + (union == 0))


def sensitivity(counts: Counts) -> Array:
    """Return tp / true in 0..1; where the truth is empty 1 if the prediction is too, else 0."""
    both_empty = counts.pred + counts.true == 0
    return (counts.tp + both_empty) / (counts.true + (counts.true == 0))


def precision(counts: Counts) -> Array:
    """Return tp / pred in 0..1; where the prediction is empty 1 if the truth is too, else 0."""
    both_empty = counts.pred + counts.true == 0
    return (counts.tp + both_empty) / (counts.pred + (counts.pred == 0))
