"""What jaxseg itself predicts with a trained model, to hold an exported file against."""

import collections
import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from jaxseg.datasets import phantom
from jaxseg.datasets.index import Patient
from jaxseg.datasets.prepared import Prepared
from jaxseg.imaging import geometry
from jaxseg.prediction import operating
from jaxseg.prediction.inference import predict_patients, predict_volume
from jaxseg.prediction.operating import OperatingPoint, segment
from jaxseg.prediction.trained import Trained, predictor

_EXAMPLE_SLICES = 5


def min_lesion_voxels(point: OperatingPoint, spacing_mm: tuple[float, ...]) -> int:
    """Return the size of the smallest lesion kept, in voxels of the scans trained on."""
    if point.min_lesion == 0:
        return 0
    return math.ceil(point.min_lesion / operating.voxel_volume(point.unit, spacing_mm) - 1e-9)


def example_volume(trained: Trained, size: tuple[int, int]) -> Any:
    """Return five slices of the phantom, which are no patient's, as a `Volume` without truth.

    Its image is [5, H, W, C] float32, whole numbers.
    """
    volume = phantom.make_volume(0, 0, trained.kind.regions)
    image, mask = volume.image, np.zeros((*volume.image.shape[1:3], 1), np.uint8)
    slices = image[:: -(-len(image) // _EXAMPLE_SLICES)].astype(np.float32)
    where = geometry.fit_matrix(image.shape[1:3], size)
    border = np.zeros(image.shape[-1], np.float32)
    scaled = np.stack([geometry.warp(x, mask, where, size, border)[0] for x in slices])
    channels = np.arange(trained.num_channels) % image.shape[-1]
    return volume._replace(image=np.round(scaled)[..., channels], mask=None)


def make_example(trained: Trained, size: tuple[int, int], flip: bool) -> dict[str, np.ndarray]:
    """Return volume [5, H, W, C], and the probability and mask [5, H, W] that jaxseg predicts."""
    volume = example_volume(trained, size)
    probability = predict_volume(predictor(trained, flip), volume)[..., 0]
    return {"volume": volume.image, "probability": probability, "mask": _mask(trained, probability)}


def native_size(prepared: Prepared, patients: Sequence[Patient]) -> tuple[int, int]:
    """Return (H, W) of most patients' slices; the other sizes are printed."""
    found = collections.Counter(_size(prepared, p) for p in patients)
    (size, _), *others = found.most_common()
    for other, count in others:
        print(f"note: {count} patients have slices of {other[0]}x{other[1]}: that is another file")
    return size


def same_size(
    prepared: Prepared, patients: Sequence[Patient], size: tuple[int, int]
) -> list[Patient]:
    """Return the patients whose slices have this size (H, W)."""
    return [p for p in patients if _size(prepared, p) == size]


def _size(prepared: Prepared, patient: Patient) -> tuple[int, int]:
    (record,) = prepared.source().run(patient, 0, 1)
    return record["image"].shape[:2]


def agreement(
    call: Callable,
    trained: Trained,
    flip: bool,
    prepared: Prepared,
    patients: Sequence[Patient],
) -> dict[str, Any] | None:
    """Return how far the predictions of an exported computation are from those of jaxseg.

    Args:
        call: volume [D, H, W, C] float32 -> probability, mask [D, H, W].
        trained: the run it was made from.
        flip: average with the mirrored slice.
        prepared: the data set.
        patients: whom to predict both ways.

    Returns:
        patients and slices compared, probability (largest difference), voxels (whose mask
        differs) and mask_dice (of the two masks, least over the patients); None without patients.
    """
    rows = []
    for case in predict_patients(predictor(trained, flip), prepared, patients):
        ours = case.probability[..., 0]
        theirs = map(np.asarray, call(case.volume.image.astype(np.float32)))
        rows.append(differences((ours, _mask(trained, ours)), tuple(theirs)))
    return summary(rows)


def differences(
    ours: tuple[np.ndarray, np.ndarray], theirs: tuple[np.ndarray, np.ndarray]
) -> tuple[int, float, int, float]:
    """Return the row of a patient for `summary` from two pairs of probability and mask."""
    (probability, mask), (other, their_mask) = ours, theirs
    both, total = (mask & their_mask).sum(), mask.sum() + their_mask.sum()
    dice = float(2 * both / total) if total else 1.0
    difference = float(np.abs(other - probability).max())
    return len(mask), difference, int((mask != their_mask).sum()), dice


def summary(rows: Sequence[tuple[int, float, int, float]]) -> dict[str, Any] | None:
    """Return what `agreement` does, of rows by `differences`."""
    if not rows:
        return None
    slices, probability, voxels, dice = zip(*rows, strict=True)
    return {
        "patients": len(rows),
        "slices": sum(slices),
        "probability": max(probability),
        "voxels": sum(voxels),
        "mask_dice": min(dice),
    }


def _mask(trained: Trained, probability: np.ndarray) -> np.ndarray:
    return segment(probability, trained.points[0], trained.config.dataset.spacing_mm)
