"""Calibration: of the voxels given a probability of 0.7, are seven of ten tumour?

Everything is computed from one histogram of the logits: the memory is the same for any number
of voxels, and the parts of several processes add up exactly.

References:
    Guo et al., "On calibration of modern neural networks", ICML 2017, arXiv:1706.04599.
"""

from typing import NamedTuple

import numpy as np

STEPS_PER_UNIT, LIMIT = 64, 32  # logits beyond +-32 count as 32
_LOGITS = (np.arange(2 * LIMIT * STEPS_PER_UNIT) + 0.5) / STEPS_PER_UNIT - LIMIT  # bin centres

TEMPERATURES = (0.1, 10.0)
NUM_BINS = 15  # of the probability, as in Guo et al.
DOUBT = 2  # voxels in doubt per voxel of tumour


class Reliability(NamedTuple):
    """Voxels in bins of equal width of their probability; empty bins are left out."""

    probability: np.ndarray  # [B] float64, mean of the bin
    tumour: np.ndarray  # [B] float64, share of its voxels that are tumour
    voxels: np.ndarray  # [B] int64


def logit_histogram(logits: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """Count logits in bins of 1/64.

    Args:
        logits: any shape, float; infinities count as +-32.
        truth: bool of the same shape.

    Returns:
        [2, N] int64: background, tumour.
    """
    index = np.floor(np.clip(logits, -LIMIT, LIMIT) * STEPS_PER_UNIT).astype(np.int64)
    index = np.minimum(index + LIMIT * STEPS_PER_UNIT, len(_LOGITS) - 1)
    return np.stack([np.bincount(index[t], minlength=len(_LOGITS)) for t in (~truth, truth)])


def in_doubt(histogram: np.ndarray) -> np.ndarray:
    """Return the histogram of the voxels in doubt: the most likely, twice as many as are tumour.

    Nearly all voxels are background beyond doubt. Over all of them any network looks calibrated,
    and the temperature would suit the background alone. Which voxels are in doubt does not
    depend on the temperature.
    """
    voxels = histogram.sum(axis=0)
    above = np.cumsum(voxels[::-1])[::-1] - voxels  # of higher logits
    return np.where(above < DOUBT * histogram[1].sum(), histogram, 0)


def negative_log_likelihood(histogram: np.ndarray, temperature: float) -> float:
    """Return the mean over at least one voxel, in nats, of logits divided by the temperature."""
    background, tumour = histogram
    scaled = _LOGITS / temperature
    total = background @ np.logaddexp(0, scaled) + tumour @ np.logaddexp(0, -scaled)
    return float(total / histogram.sum())


def fit_temperature(histogram: np.ndarray) -> float:
    """Return the temperature with the least negative log likelihood, in 0.1..10.

    Four digits, so that rounding elsewhere does not show. 1 where the voxels are all tumour or
    all background, or there are none: then every certainty would do.
    """
    from scipy.optimize import minimize_scalar  # takes time to import, and few starts need it

    if not histogram.sum(axis=1).all():
        return 1.0
    found = minimize_scalar(
        lambda log: negative_log_likelihood(histogram, np.exp(log)),
        bounds=np.log(TEMPERATURES),  # one minimum: convex in 1 / temperature
        method="bounded",
        options={"xatol": 1e-6},
    )
    return float(f"{np.exp(found.x):.4g}")


def reliability(histogram: np.ndarray, temperature: float) -> Reliability:
    """Compare the probability of tumour with its share, in `NUM_BINS` bins of equal width."""
    probability = 1 / (1 + np.exp(-_LOGITS / temperature))  # of at most 320: no overflow
    index = np.minimum((probability * NUM_BINS).astype(int), NUM_BINS - 1)
    voxels, tumour, sums = (
        np.bincount(index, weights, NUM_BINS)
        for weights in (histogram.sum(0), histogram[1], histogram.sum(0) * probability)
    )
    filled = voxels > 0
    voxels, tumour, sums = voxels[filled], tumour[filled], sums[filled]
    return Reliability(sums / voxels, tumour / voxels, voxels.astype(np.int64))


def expected_calibration_error(bins: Reliability) -> float | None:
    """Return the mean distance of probability and share, each bin weighing as its voxels.

    In 0..1; None without voxels. Of the probability of tumour, where Guo et al. take the
    confidence in the class predicted.
    """
    if not len(bins.voxels):
        return None
    return float(np.average(np.abs(bins.probability - bins.tumour), weights=bins.voxels))
