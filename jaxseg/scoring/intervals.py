"""Means over patients with a bootstrap interval; one person's time points stay together."""

from collections.abc import Sequence
from typing import Any

import numpy as np


def mean_interval(
    values: Sequence[float], num_samples: int, seed: int, persons: Sequence[str] = ()
) -> list[float | None]:
    """Return the 95 % percentile bootstrap interval of the mean, [low, high].

    Persons are resampled, each with all its values; fewer than two have no interval: [None, None].

    Args:
        values: to take the mean of.
        num_samples: of the bootstrap.
        seed: of the resampling.
        persons: whose each value is; (): each of its own.

    References:
        Efron and Tibshirani, "An introduction to the bootstrap", 1993, chapter 13; whole persons,
        since their time points are alike: Davison and Hinkley, 1997, section 3.8.
    """
    values = np.asarray(values, np.float64)
    _, whose = np.unique(persons, return_inverse=True) if len(persons) else (0, range(len(values)))
    sums, sizes = np.bincount(whose, values), np.bincount(whose)
    n = len(sums)
    if n < 2:
        return [None, None]
    rng = np.random.default_rng(seed)
    num_chunks = 1 + num_samples * n // 1_000_000  # bounds the memory
    means = []
    for chunk in np.array_split(np.arange(num_samples), num_chunks):
        drawn = rng.integers(n, size=(len(chunk), n))
        means.append(sums[drawn].sum(axis=1) / sizes[drawn].sum(axis=1))
    return np.percentile(np.concatenate(means), [2.5, 97.5]).tolist()


def spread(
    values: Sequence[float | None], persons: Sequence[str], num_samples: int, seed: int
) -> dict[str, Any]:
    """Return mean, median and interval of the values that are defined; None where there are none.

    Args:
        values: one per patient, None where undefined.
        persons: whose each value is.
        num_samples: of the bootstrap.
        seed: of the resampling.
    """
    known = [i for i, value in enumerate(values) if value is not None]
    defined = [values[i] for i in known]
    return {
        "mean": mean(defined),
        "median": float(np.median(defined)) if defined else None,
        "ci95": mean_interval(defined, num_samples, seed, [persons[i] for i in known]),
    }


def mean(values: Sequence[float]) -> float | None:
    """Return the mean; None of nothing."""
    return float(np.mean(values)) if len(values) else None
