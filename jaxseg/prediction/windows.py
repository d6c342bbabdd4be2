"""Predict in windows that overlap by half, blended with Gaussian weights.

A voxel's probability is the mean over its windows, each weighted by a Gaussian about its centre
(Isensee et al., 2021, nnU-Net, doi:10.1038/s41592-020-01008-z), as a network sees least at its
edges. Slices are cut into tiles at their own resolution, volumes into patches.
"""

import functools
import itertools
from collections.abc import Callable, Sequence

import jax
import numpy as np

from jaxseg.imaging import windows
from jaxseg.imaging.geometry import warp_record
from jaxseg.imaging.intensity import darkest, normalise, outside_level
from jaxseg.imaging.resample import resample, shape_at
from jaxseg.imaging.volumes import patch_box, slice_records, with_statistics
from jaxseg.prediction.predictor import Predictor, in_batches, predict_part
from jaxseg.scans.volume import Volume

OVERLAP = 0.5  # of neighbouring windows, see `windows.overlapping`
SIGMA = 1 / 8  # of the window's side


def predict_tiles(model: Predictor, volume: Volume) -> np.ndarray:
    """Predict the slices of one volume without resizing, in padded batches of one compiled shape.

    Args:
        model: from `predictor.make_predictor`; trained on slices.
        volume: at least one slice, with the channels trained on.

    Returns:
        [D, H, W, K] float32 in 0..1, calibrated, on the native grid.
    """
    size, records = model.config.input.image_size, slice_records(volume)

    def tile(place: windows.Place) -> np.ndarray:
        matrix = np.array([[1.0, 0, place[2]], [0, 1.0, place[1]]])
        return warp_record(records[place[0]], matrix, size)["image"]

    return _blended(model, volume.image.shape[:3], (1, *size), tile)


def predict_patches(model: Predictor, volume: Volume) -> np.ndarray:
    """Predict one volume in patches of the training's size and spacing, one compiled shape.

    Only the head's box is looked at; outside of it nothing is predicted. The scan is held as it
    is, patches are normalised as they are cut; where the training grid has a spacing of its own
    the box is resampled, and its probabilities back.

    Args:
        model: from `predictor.make_predictor`; trained on volumes.
        volume: with the channels trained on.

    Returns:
        [D, H, W, K] float32 in 0..1, calibrated, on the native grid.
    """
    volume, size = with_statistics(volume, fitted=False), model.config.input.image_size
    wanted = model.config.input.spacing_mm
    head = tuple(slice(a, b) for a, b in zip(*patch_box(volume), strict=True))
    image, stats = volume.image[head], volume.stats
    outside, native = outside_level(stats), volume.image[head].shape[:3]
    if wanted and volume.spacing_mm:
        image = resample(normalise(image, stats), shape_at(native, volume.spacing_mm, wanted))
        patch = functools.partial(windows.cut, image, size=size, outside=outside)
    else:
        fill = darkest(stats, image.dtype)

        def patch(place: windows.Place) -> np.ndarray:
            return normalise(windows.cut(image, place, size, fill), stats)

    found = _blended(model, image.shape[:3], size, patch)
    if found.shape[:3] != native:
        found = resample(found, native)
    result = np.zeros((*volume.image.shape[:3], found.shape[-1]), np.float32)
    result[head] = found
    return result


def _blended(
    model: Predictor,
    shape: Sequence[int],
    size: Sequence[int],
    cut: Callable[[windows.Place], np.ndarray],
) -> np.ndarray:
    """Predict all windows of a grid and return their weighted mean, [*shape, K] float32."""
    axes = [windows.overlapping(n, t) for n, t in zip(shape, size, strict=True)]
    places = list(itertools.product(*axes))
    weight = functools.reduce(np.multiply.outer, (_gaussian(t) for t in size))[..., None]
    total = np.zeros((*shape, model.config.model.num_classes), np.float32)
    weights = np.zeros((*shape, 1), np.float32)
    for part in in_batches(places, model.batch_size):
        predicted = jax.device_get(predict_part(model, [cut(place) for place in part]))
        for place, window in zip(part, predicted, strict=False):
            here, there = windows.meet(place, size, shape)
            total[here] += (weight * window.reshape(*size, -1))[there]
            weights[here] += weight[there]
    total /= weights
    return total


def _gaussian(window: int) -> np.ndarray:
    """Return [window] float32, 1 in the middle."""
    offset = np.arange(window) - (window - 1) / 2
    return np.exp(-0.5 * (offset / (SIGMA * window)) ** 2).astype(np.float32)
