"""What a split by slices would leak: how well it scores who only copies the neighbour's mask.

Neighbouring slices of a patient look alike. Where slices, not patients, are drawn at random,
nearly every test slice has a neighbour in train, and its mask is all but known.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from jaxseg.scoring.metrics import Counts, dice

TEST_SHARE = 0.2
DRAWS = 10  # random splits, to be averaged


class Copied(NamedTuple):
    """One patient under DRAWS random splits of its slices; arrays [DRAWS]."""

    test: np.ndarray  # int64, test slices
    beside_train: np.ndarray  # int64, those whose next slice on either side is in train
    dice: np.ndarray  # float64, over all its test slices together; NaN without any
    slice_dice: np.ndarray  # float64, sum of the Dice of the single test slices
    num_slices: int


def copy_nearest(
    truth: np.ndarray, slice_numbers: Sequence[int], rng: np.random.Generator
) -> Copied:
    """Copy to each test slice the mask of the patient's nearest training slice.

    Each slice is a test slice with probability TEST_SHARE, as in a random split of many
    slices. Of two that are as near the lower is copied; the mask is empty where the whole
    patient is in test. Dice of two empty masks is 1.

    Args:
        truth: [D, H, W] bool, in ascending order of slice_numbers.
        slice_numbers: D integers.
        rng: draws the splits.
    """
    numbers, areas = np.asarray(slice_numbers), truth.sum((1, 2), dtype=np.int64)
    shared = {}  # (slice, slice): pixels that are tumour in both
    draws = []
    for test in rng.random((DRAWS, len(truth))) < TEST_SHARE:
        train = np.flatnonzero(~test)
        tp, pred = np.zeros_like(areas), np.zeros_like(areas)
        for i in np.flatnonzero(test) if len(train) else ():
            j = train[np.abs(numbers[train] - numbers[i]).argmin()]
            if (i, j) not in shared:
                shared[i, j] = np.count_nonzero(truth[i] & truth[j])
            tp[i], pred[i] = shared[i, j], areas[j]
        counts = Counts(tp[test], pred[test], areas[test])
        known = np.pad(~test, 1)
        beside = (known[:-2] | known[2:])[test].sum()
        whole = float(dice(Counts(*(c.sum() for c in counts)))) if test.any() else np.nan
        draws.append((test.sum(), beside, whole, dice(counts).sum()))
    return Copied(*(np.array(values) for values in zip(*draws, strict=True)), len(truth))


def mean_over_draws(patients: Sequence[Copied]) -> dict[str, Any]:
    """Return the means over the draws.

    Returns:
        both_sides (patients with slices in test and train), beside_train (share of test
        slices), dice (mean over patients), slice_dice (mean over slices); None without slices
        in test, as may be with a handful of slices.
    """
    test, beside, whole, slices = (np.stack([p[k] for p in patients]) for k in range(4))
    sizes = np.array([p.num_slices for p in patients])[:, None]
    both = ((test > 0) & (test < sizes)).sum(0).mean()
    total = test.sum()
    return {
        "both_sides": float(both),
        "beside_train": float(beside.sum() / total) if total else None,
        "dice": float(np.nanmean(whole)) if total else None,
        "slice_dice": float(slices.sum() / total) if total else None,
    }
