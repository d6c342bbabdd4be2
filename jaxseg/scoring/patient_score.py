"""All that is scored of one region of one patient."""

from typing import NamedTuple

import numpy as np

from jaxseg.scoring import brats, lesions, metrics, surface, surfels

OVERLAPS = ("dice", "iou", "sensitivity", "precision")
SCORES = (*OVERLAPS, "hd95", "nsd")


class PatientScore(NamedTuple):
    """All that a summary needs of one region of one patient; no volumes."""

    patient: str
    dice: float
    iou: float
    sensitivity: float
    precision: float
    hd95: float  # mm where the spacing is known, else pixels
    volume_error: float | None  # (predicted - truth) / truth; None when the truth is empty
    truth_voxels: int
    predicted_voxels: int
    overlap_voxels: int
    num_slices: int
    empty_slices: int  # without tumour in the truth
    false_positive_slices: int  # empty slices with predicted tumour
    tumour_slice_dice: tuple[float, ...]  # one per slice with tumour in the truth
    diagonal: float  # of the volume, units of hd95: the hd95 of a missed tumour
    region: str
    group: str  # the person, who may have several time points
    voxel_mm3: float | None  # None when the spacing is unknown
    nsd: float  # 0..1, at 1 mm, or 1 pixel where the spacing is unknown
    lesions: int  # of the truth
    found_lesions: int  # with a predicted voxel
    invented_lesions: int  # parts of the prediction without a voxel of truth
    lesion_dice: float | None  # mean over the lesions of the truth; None without
    lesion_hd95: float | None  # likewise; units of hd95
    # By the BraTS definition that was asked for; None without one, and where it has no such number.
    brats_dice: float | None
    brats_hd95: float | None
    brats_nsd: float | None
    brats_found: int | None
    brats_missed: int | None
    brats_invented: int | None


def score_patient(
    patient: str,
    prediction: np.ndarray,
    truth: np.ndarray,
    spacing_mm: tuple[float, ...] = (),
    region: str = "tumour",
    group: str = "",
    rules: brats.Rules | None = None,
) -> PatientScore:
    """Score one region of one patient's volume.

    Both masks empty: all scores 1, HD95 0. One empty: all scores 0, HD95 the volume's diagonal.

    Args:
        patient: id.
        prediction: [D, H, W] bool, on the pixel grid of the input files.
        truth: [D, H, W] bool.
        spacing_mm: (slice distance, row, column), or () when unknown: distances in pixels.
        region: name of what the masks show.
        group: the person; "" where the patient is one.
        rules: the BraTS definition to score by besides; voxels of unknown size count as 1 mm.

    Raises:
        ValueError: the masks differ in shape or are not bool [D, H, W].
    """
    spacing = tuple(spacing_mm) or (1.0, 1.0, 1.0)
    distance = surface.hd95(prediction, truth, spacing)
    in_plane = (1, 2)
    slices = metrics.Counts(
        (prediction & truth).sum(in_plane), prediction.sum(in_plane), truth.sum(in_plane)
    )
    volume = metrics.Counts(*(int(c.sum()) for c in slices))
    tumour = slices.true > 0
    return PatientScore(
        patient,
        *overlaps(volume),
        distance,
        (volume.pred - volume.true) / volume.true if volume.true else None,
        truth_voxels=volume.true,
        predicted_voxels=volume.pred,
        overlap_voxels=volume.tp,
        num_slices=len(truth),
        empty_slices=int((~tumour).sum()),
        false_positive_slices=int((~tumour & (slices.pred > 0)).sum()),
        tumour_slice_dice=tuple(metrics.dice(slices)[tumour].tolist()),
        diagonal=surface.diagonal(truth.shape, spacing),
        region=region,
        group=group or patient,
        voxel_mm3=float(np.prod(spacing)) if spacing_mm else None,
        nsd=surfels.nsd(prediction, truth, spacing),
        **_of_lesions(prediction, truth, spacing),
        **{
            f"brats_{name}": value
            for name, value in brats.score(prediction, truth, spacing, rules)._asdict().items()
        },
    )


def predict_nothing(score: PatientScore) -> PatientScore:
    """Return the score that an empty prediction gets on the same patient; without BraTS's."""
    empty = score.truth_voxels == 0
    same = dict.fromkeys((*OVERLAPS, "nsd"), float(empty))
    return score._replace(
        **same,
        hd95=0.0 if empty else score.diagonal,
        volume_error=None if empty else -1.0,
        predicted_voxels=0,
        overlap_voxels=0,
        false_positive_slices=0,
        tumour_slice_dice=(0.0,) * len(score.tumour_slice_dice),
        found_lesions=0,
        invented_lesions=0,
        lesion_dice=None if empty else 0.0,
        lesion_hd95=None if empty else score.diagonal,
        **{f"brats_{name}": None for name in brats.Score._fields},
    )


def overlaps(counts: metrics.Counts) -> list[float]:
    """Return the values of `OVERLAPS`."""
    functions = (metrics.dice, metrics.iou, metrics.sensitivity, metrics.precision)
    return [float(f(counts)) for f in functions]


def _of_lesions(prediction: np.ndarray, truth: np.ndarray, spacing: tuple[float, ...]) -> dict:
    scores = lesions.score_lesions(prediction, truth, spacing)
    return {
        "lesions": scores.lesions,
        "found_lesions": scores.found,
        "invented_lesions": scores.invented,
        "lesion_dice": float(np.mean(scores.dice)) if scores.dice else None,
        "lesion_hd95": float(np.mean(scores.hd95)) if scores.hd95 else None,
    }
