"""Predict slices in tiles at their own resolution, blended with Gaussian weights.

The tiles have the size of the training grid and overlap by half. A pixel's probability is the
mean over its tiles, each weighted by a Gaussian about its centre (Isensee et al., 2021, nnU-Net,
doi:10.1038/s41592-020-01008-z), as a network sees least at its edges.
"""

import itertools
from typing import Any

import jax
import numpy as np

from jaxseg.imaging.geometry import warp_record
from jaxseg.imaging.volumes import slice_records
from jaxseg.prediction.inference import Predictor, in_batches, predict_part
from jaxseg.scans.volume import Volume

_SIGMA = 1 / 8  # of the tile's side


def predict_tiles(model: Predictor, volume: Volume) -> np.ndarray:
    """Predict the slices of one volume without resizing, in padded batches of one compiled shape.

    Args:
        model: from `inference.make_predictor`.
        volume: at least one slice, with the channels trained on.

    Returns:
        [D, H, W, K] float32 in 0..1, calibrated, on the native grid.
    """
    size, native = model.config.input.image_size, volume.image.shape[1:3]
    records = slice_records(volume)
    places = list(itertools.product(*(_starts(n, t) for n, t in zip(native, size, strict=True))))
    jobs = list(itertools.product(range(len(records)), places))
    weight = np.multiply.outer(*(_gaussian(t) for t in size))[..., None]
    total = np.zeros((len(records), *native, model.config.model.num_classes), np.float32)
    weights = np.zeros((*native, 1), np.float32)
    for place in places:
        here, there = _overlap(place, size, native)
        weights[here] += weight[there]
    for part in in_batches(jobs, model.batch_size):
        images = [_cut(records[i], place, size) for i, place in part]
        predicted = jax.device_get(predict_part(model, images))
        for (i, place), tile in zip(part, predicted, strict=False):
            here, there = _overlap(place, size, native)
            total[i][here] += (weight * tile)[there]
    return total / weights


def _starts(native: int, tile: int) -> list[int]:
    """Return where tiles begin so that they overlap by half; a short axis lies in its middle."""
    if native <= tile:
        return [(native - tile) // 2]
    count = -(-2 * (native - tile) // tile) + 1
    return [int(x) for x in np.rint(np.linspace(0, native - tile, count))]


def _gaussian(tile: int) -> np.ndarray:
    """Return [tile] float32, 1 in the middle."""
    offset = np.arange(tile) - (tile - 1) / 2
    return np.exp(-0.5 * (offset / (_SIGMA * tile)) ** 2).astype(np.float32)


def _cut(record: dict[str, Any], place: tuple[int, int], size: tuple[int, int]) -> np.ndarray:
    """Return the normalised tile [h, w, C] that begins at a place, which may lie outside."""
    matrix = np.array([[1.0, 0, place[1]], [0, 1.0, place[0]]])
    return warp_record(record, matrix, size)["image"]


def _overlap(place, size, native) -> tuple[tuple[slice, ...], tuple[slice, ...]]:
    """Return where tile and slice meet: in the slice, and in the tile."""
    low = [max(p, 0) for p in place]
    high = [min(p + t, n) for p, t, n in zip(place, size, native, strict=True)]
    here = tuple(slice(a, b) for a, b in zip(low, high, strict=True))
    there = tuple(slice(a - p, b - p) for a, b, p in zip(low, high, place, strict=True))
    return here, there
