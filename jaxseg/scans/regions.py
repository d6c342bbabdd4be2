"""Regions of a tumour: which values in a mask's file make which mask, and back.

Regions may lie in each other, as the enhancing tumour lies in the whole one; each has its own
output of the network, its own mask and its own score.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np


class Region(NamedTuple):
    """A region and the label values that make it."""

    name: str
    labels: tuple[int, ...] = ()  # in the mask's file; (): every value but 0


TUMOUR = (Region("tumour"),)  # of masks that only say where the tumour is


def to_masks(labels: np.ndarray, regions: Sequence[Region]) -> np.ndarray:
    """Return the mask of each region.

    Args:
        labels: [...] whole numbers as in the mask's file.
        regions: K of them.

    Returns:
        [..., K] uint8 of {0, 1}.
    """
    masks = [np.isin(labels, r.labels) if r.labels else labels != 0 for r in regions]
    return np.stack(masks, axis=-1).astype(np.uint8)


def to_labels(masks: np.ndarray, regions: Sequence[Region]) -> np.ndarray:
    """Return the label values that stand for the masks; later regions lie over earlier ones.

    Args:
        masks: [..., K] bool or {0, 1}.
        regions: K of them, the outer before the inner.

    Returns:
        [...] uint8.

    Raises:
        ValueError: as `own_labels`.
    """
    labels = np.zeros(masks.shape[:-1], np.uint8)
    for k, label in enumerate(own_labels(regions)):
        labels[masks[..., k] > 0] = label
    return labels


def own_labels(regions: Sequence[Region]) -> tuple[int, ...]:
    """Return the label that each region has beside those of the regions after it.

    Raises:
        ValueError: a region has none or several, so that its masks cannot be written back.
    """
    own = []
    for k, region in enumerate(regions):
        labels = set(region.labels or (1,)) - {n for r in regions[k + 1 :] for n in r.labels}
        if len(labels) != 1:
            raise ValueError(f"region {region.name}: labels of its own {sorted(labels)}, not one")
        own.append(*labels)
    return tuple(own)
