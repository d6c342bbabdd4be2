"""What a reader asks about a patient beside the pictures: its lesions, another threshold."""

import math
from typing import Any

import numpy as np

from jaxseg.errors import TrainingFailed, UserError
from jaxseg.prediction import operating
from jaxseg.scoring import metrics
from jaxseg.viewer.pictures import Gallery, areas, layer


def preview(gallery: Gallery, patient: int, region: int, percent: int) -> dict[str, Any]:
    """Return what a region would be at another threshold, as JSON; no lesion is too small for it.

    Args:
        gallery: what is shown.
        patient: number in the list.
        region: number, from 0.
        percent: 1..99, the probability from which a voxel is in.

    Returns:
        `areas` as the prediction's, `dice` of the volume; None: the truth is not known.

    Raises:
        LookupError: there is no such region, no probability, or no such percentage.
    """
    if not 1 <= percent <= 99:
        raise LookupError(percent)
    probability = layer(gallery, patient, f"probability-{region}")
    mask = probability >= math.ceil(255 * percent / 100)  # the page's contour has the same rule
    truth, dice = gallery.scan(patient).truth, None
    if truth is not None:
        true = truth[..., region]
        counts = metrics.Counts(*(int(m.sum()) for m in (mask & true, mask, true)))
        dice = float(metrics.dice(counts))
    return {"areas": areas(mask), "dice": dice}


def lesions(gallery: Gallery, patient: int, region: int) -> dict[str, Any]:
    """Return the lesions of a region, the largest first, as JSON.

    A lesion is a connected component (26 neighbours) of truth and prediction together, so that
    those that are missed and those that are invented are among them.

    Args:
        gallery: what is shown.
        patient: number in the list; where it cannot be predicted, its truth alone counts.
        region: number, from 0.

    Returns:
        `lesions`: for each its `voxels`, of these how many are in the `truth` and in the
        `prediction` (None: not known), and `position` (slice, row, column), its voxel nearest
        to its centre in mm.

    Raises:
        LookupError: there is no such region.
        UserError, TrainingFailed: the patient cannot be read, or has neither.
    """
    if region >= len(gallery.regions):
        raise LookupError(region)
    scan, prediction = gallery.scan(patient), None
    try:
        prediction = gallery.predict(patient)
    except (UserError, TrainingFailed):
        if scan.truth is None:
            raise
    masks = {"truth": scan.truth, "prediction": prediction and prediction.mask}
    known = {name: m[..., region].ravel() for name, m in masks.items() if m is not None}
    shape = scan.channels[0].numbers.shape
    parts = _parts(np.logical_or.reduce(list(known.values())).reshape(shape))
    spacing = np.array(scan.spacing_mm or (1.0, 1.0, 1.0))
    found = []
    for voxels in sorted(parts, key=len, reverse=True):
        at = np.stack(np.unravel_index(voxels, shape), axis=-1)
        far = (((at - at.mean(0)) * spacing) ** 2).sum(-1)
        inside = {n: int(known[n][voxels].sum()) if n in known else None for n in masks}
        found.append({"voxels": len(voxels), "position": at[far.argmin()].tolist()} | inside)
    return {"lesions": found}


def _parts(mask: np.ndarray) -> list[np.ndarray]:
    """Return the flat indices of each component's voxels."""
    components, sizes = operating.lesions(mask)
    flat = components.ravel()
    inside = np.flatnonzero(flat)
    inside = inside[np.argsort(flat[inside], kind="stable")]
    return np.split(inside, np.cumsum(sizes)[:-1]) if len(sizes) else []
