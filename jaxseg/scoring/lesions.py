"""Lesions: the connected parts of a mask, and which of the prediction's belong to which of truth.

Parts are connected by 26 neighbours, over the slices too.
"""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import scipy  # loads its parts when they are used

from jaxseg.scoring import metrics, surface

_BY_26, _BY_18 = np.ones((3, 3, 3), bool), np.ones((3, 3, 3), bool)
_BY_18[::2, ::2, ::2] = False  # the corners
_LEAST_DICE = 1e-6  # of a pair that `match_one_to_one` may make


class Lesions(NamedTuple):
    """The lesions of truth and prediction in one volume, and who belongs to whom."""

    truth: np.ndarray  # [D, H, W] int32: the number of the lesion from 1; 0 outside
    prediction: np.ndarray  # [D, H, W] int32, likewise
    partners: tuple[tuple[int, ...], ...]  # of each lesion of the truth: numbers of the prediction
    num_predicted: int

    @property
    def found(self) -> int:
        """Number of lesions of the truth with a partner."""
        return sum(map(bool, self.partners))

    @property
    def missed(self) -> int:
        """Number of lesions of the truth without one."""
        return len(self.partners) - self.found

    @property
    def invented(self) -> int:
        """Number of lesions of the prediction that belong to none of the truth."""
        return self.num_predicted - len(set().union(*self.partners))


class LesionScores(NamedTuple):
    """How one patient's lesions were found."""

    lesions: int  # of the truth
    found: int
    invented: int
    dice: tuple[float, ...]  # of each lesion of the truth
    hd95: tuple[float, ...]


def match_touching(prediction: np.ndarray, truth: np.ndarray, dilations: int = 0) -> Lesions:
    """Give each lesion of the truth all parts of the prediction that touch it; some may share one.

    Args:
        prediction: [D, H, W] bool.
        truth: [D, H, W] bool.
        dilations: how often the truth is first dilated by 18 neighbours; lesions whose dilations
            then touch are one, and what touches the dilation touches the lesion.
    """
    # scipy takes 0 iterations for "until nothing changes".
    reach = scipy.ndimage.binary_dilation(truth, _BY_18, dilations) if dilations else truth
    lesions, num_lesions = parts(reach)
    predicted, num_predicted = parts(prediction)
    # The dilation of lesions that are one is the part itself: no lesion is dilated alone.
    partners = [[] for _ in range(num_lesions)]
    for lesion, part, _ in _overlaps(lesions, predicted):
        partners[lesion - 1].append(part)
    return Lesions(lesions * truth, predicted, tuple(map(tuple, partners)), num_predicted)


def match_one_to_one(prediction: np.ndarray, truth: np.ndarray) -> Lesions:
    """Pair lesions of truth and prediction, [D, H, W] bool, so that the sum of their Dice is most.

    A pair needs a Dice of at least 1e-6, so any overlap but of enormous lesions.
    """
    lesions, num_lesions = parts(truth)
    predicted, num_predicted = parts(prediction)
    true_sizes, sizes = (np.bincount(a.ravel(), minlength=1) for a in (lesions, predicted))
    dice = np.zeros((num_lesions, num_predicted))
    for lesion, part, voxels in _overlaps(lesions, predicted):
        dice[lesion - 1, part - 1] = 2 * voxels / (true_sizes[lesion] + sizes[part])
    dice[dice < _LEAST_DICE] = -1e-6  # rather none than such a pair
    partners = [()] * num_lesions
    for lesion, part in zip(*scipy.optimize.linear_sum_assignment(-dice), strict=True):
        if dice[lesion, part] > 0:
            partners[lesion] = (int(part) + 1,)
    return Lesions(lesions, predicted, tuple(partners), num_predicted)


def each_lesion(lesions: Lesions) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Return the masks (prediction, truth) of each lesion of the truth, in order.

    Both are cut to the box around the lesion and its partners, [d, h, w] bool; in a volume of
    several slices with one more below and above, so that they stay a volume.
    """
    true_boxes = scipy.ndimage.find_objects(lesions.truth)
    boxes = scipy.ndimage.find_objects(lesions.prediction)
    around = ((int(len(lesions.truth) > 1),) * 2, (0, 0), (0, 0))
    for i, partners in enumerate(lesions.partners):
        box = _union([true_boxes[i], *(boxes[p - 1] for p in partners)])
        prediction = np.isin(lesions.prediction[box], partners)
        yield np.pad(prediction, around), np.pad(lesions.truth[box] == i + 1, around)


def score_lesions(
    prediction: np.ndarray, truth: np.ndarray, spacing: tuple[float, ...]
) -> LesionScores:
    """Score each lesion of the truth against all parts of the prediction that overlap it.

    A missed lesion has Dice 0 and as HD95 the diagonal of the volume.

    Args:
        prediction: [D, H, W] bool.
        truth: [D, H, W] bool.
        spacing: size of a voxel along each axis.
    """
    matched = match_touching(prediction, truth)
    dice, hd95 = [], []
    for part, lesion in each_lesion(matched):
        dice.append(float(metrics.dice(counts(part, lesion))))
        missed = surface.diagonal(truth.shape, spacing)
        hd95.append(surface.hd95(part, lesion, spacing) if part.any() else missed)
    numbers = (len(matched.partners), matched.found, matched.invented)
    return LesionScores(*numbers, tuple(dice), tuple(hd95))


def counts(prediction: np.ndarray, truth: np.ndarray) -> metrics.Counts:
    """Return the counts of two masks of one shape, bool."""
    return metrics.Counts(
        *(int(np.count_nonzero(m)) for m in (prediction & truth, prediction, truth))
    )


def parts(mask: np.ndarray) -> tuple[np.ndarray, int]:
    """Return the number of each voxel's part from 1, int32 [D, H, W], 0 outside, and how many."""
    labels, number = scipy.ndimage.label(mask, _BY_26)
    return labels, int(number)


def _overlaps(one: np.ndarray, other: np.ndarray) -> list[tuple[int, int, int]]:
    """Return (number in one, number in the other, voxels) of all parts that overlap, in order."""
    both = np.flatnonzero((one > 0) & (other > 0))
    base = int(other.max()) + 1
    pairs = one.ravel()[both].astype(np.int64) * base + other.ravel()[both]
    found, voxels = np.unique(pairs, return_counts=True)
    return list(zip(*(a.tolist() for a in (found // base, found % base, voxels)), strict=True))


def _union(boxes: list[tuple[slice, ...]]) -> tuple[slice, ...]:
    return tuple(
        slice(min(s.start for s in axis), max(s.stop for s in axis))
        for axis in zip(*boxes, strict=True)
    )
