"""The scores of the BraTS challenges, by the name of their definition.

Three definitions are in use and their numbers are not interchangeable: for a false positive
beside a perfect prediction the second gives Dice 0.5 and HD95 187, the third 1.0 and 0. Whoever
prints one says which. All take one region of one patient.

`legacy`, to 2022: the whole region. Dice; HD95 by area of surface elements, the larger direction.
Both masks empty: 1 and 0; one empty: 0 and 374.

`lesionwise_2023`, 2023 to 2025 (rachitsaluja/BraTS-2023-Metrics): the truth is dilated, and lesions
whose dilations touch are one. Each lesion has all parts of the prediction that touch its dilation;
Dice and HD95 (as in legacy) are between these and the undilated lesion, 0 and 374 where there are
none. Lesions of the truth of at most 50 mm^3 (metastases 2) are left out; a part of the prediction
that touches no lesion counts as one more, with 0 and 374. The mean; of nothing at all 1 and 0.

`brats_2026` (brats-evaluation 0.0.10 on panoptica 2.1.7): lesions are paired one to one; the mean
over the pairs of Dice, HD95 (95th percentile of both directions' surface voxels together) and NSD
(the mean of both directions' shares of surface voxels; tolerance: the finest spacing). No pair: 0,
373 and 0; both masks empty: undefined. Metastases: over lesions of 20 mm^3 and more, missed ones
and all parts of the prediction without a lesion counted with 0, 373 and 0; undefined where the
truth has none so large. One difference is kept: given files whose voxels are no cubes, that tool
takes the spacing of x for z and the other way round; here each axis has its own.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from jaxseg.scoring import lesions, metrics, surface, surfels

_WORST_2023, _WORST_2026 = 374.0, 373.0  # mm; the diagonal of 240 x 240 x 155 mm is 373.1


class Challenge(NamedTuple):
    """What differs between the challenges."""

    dilations: int  # of the truth, in 2023
    dropped_mm3: float  # in 2023: lesions of the truth up to this are left out
    large_mm3: float = 0.0  # in 2026: lesions from this are scored; > 0: misses and inventions too


CHALLENGES = {
    "GLI": Challenge(3, 50),  # gliomas
    "SSA": Challenge(3, 50),  # Sub-Saharan Africa
    "PED": Challenge(3, 50),  # paediatric
    "MEN": Challenge(1, 50),  # meningiomas
    "MET": Challenge(1, 2, 20),  # metastases
}


class Rules(NamedTuple):
    """Which of the definitions is wanted, and by the rules of which challenge."""

    definition: str  # of `DEFINITIONS`
    challenge: str = "GLI"  # of `CHALLENGES`


class Score(NamedTuple):
    """One region of one patient; None where the definition has no such number."""

    dice: float | None
    hd95: float | None  # mm
    nsd: float | None = None
    found: int | None = None  # lesions of the truth; of those that are not left out
    missed: int | None = None
    invented: int | None = None  # parts of the prediction without a lesion


def legacy(
    prediction: np.ndarray,
    truth: np.ndarray,
    spacing_mm: tuple[float, ...] = (1.0, 1.0, 1.0),
    challenge: Challenge = CHALLENGES["GLI"],
) -> Score:
    """Score the region as a whole; see the top of the file.

    Args:
        prediction: [D, H, W] bool.
        truth: [D, H, W] bool.
        spacing_mm: (slice distance, row, column).
        challenge: makes no difference here.
    """
    prediction, truth = _cut(prediction, truth, margin=0)
    return Score(*_dice_and_hd95(prediction, truth, spacing_mm))


def lesionwise_2023(
    prediction: np.ndarray,
    truth: np.ndarray,
    spacing_mm: tuple[float, ...] = (1.0, 1.0, 1.0),
    challenge: Challenge = CHALLENGES["GLI"],
) -> Score:
    """Score lesion by lesion as from 2023 to 2025; see the top of the file.

    Args:
        prediction: [D, H, W] bool.
        truth: [D, H, W] bool.
        spacing_mm: (slice distance, row, column).
        challenge: whose rules.
    """
    prediction, truth = _cut(prediction, truth, margin=challenge.dilations)
    matched = lesions.match_touching(prediction, truth, challenge.dilations)
    values, found = [], 0
    for part, lesion in lesions.each_lesion(matched):
        if np.count_nonzero(lesion) * np.prod(spacing_mm) > challenge.dropped_mm3:
            values.append(_dice_and_hd95(part, lesion, spacing_mm))
            found += bool(part.any())
    counts = {"found": found, "missed": len(values) - found, "invented": matched.invented}
    values += [(0.0, _WORST_2023)] * matched.invented
    return Score(*(np.mean(values, axis=0).tolist() if values else (1.0, 0.0)), **counts)


def brats_2026(
    prediction: np.ndarray,
    truth: np.ndarray,
    spacing_mm: tuple[float, ...] = (1.0, 1.0, 1.0),
    challenge: Challenge = CHALLENGES["GLI"],
) -> Score:
    """Score lesion by lesion as in 2026; see the top of the file.

    Args:
        prediction: [D, H, W] bool.
        truth: [D, H, W] bool.
        spacing_mm: (slice distance, row, column).
        challenge: whose rules.
    """
    prediction, truth = _cut(prediction, truth, margin=0)
    matched = lesions.match_one_to_one(prediction, truth)
    counts = {n: getattr(matched, n) for n in ("found", "missed", "invented")}
    worst, large, num_large = (0.0, _WORST_2026, 0.0), challenge.large_mm3, 0
    values = []
    for part, lesion in lesions.each_lesion(matched):
        if np.count_nonzero(lesion) * np.prod(spacing_mm) >= large:
            num_large += 1
            if part.any():
                values.append(pair_2026(part, lesion, spacing_mm))
            elif large:
                values.append(worst)
    values += [worst] * matched.invented if large else []
    if large and not num_large or not sum(counts.values()):
        return Score(None, None, None, **counts)
    return Score(*(np.mean(values, axis=0).tolist() if values else worst), **counts)


def pair_2026(
    prediction: np.ndarray, truth: np.ndarray, spacing_mm: tuple[float, ...]
) -> tuple[float, float, float]:
    """Return Dice, HD95 and NSD of two masks, [D, H, W] bool and not empty, as panoptica does."""
    borders = [surface.surface_voxels(mask) for mask in (prediction, truth)]
    there = surface.distances(*borders, spacing_mm)
    back = surface.distances(*borders[::-1], spacing_mm)
    near = min(spacing_mm) * (1 + 1e-9)
    return (
        float(metrics.dice(lesions.counts(prediction, truth))),
        float(np.percentile(np.concatenate([back, there]), 95)),
        float(((there <= near).mean() + (back <= near).mean()) / 2),
    )


DEFINITIONS: dict[str, Callable[..., Score]] = {
    function.__name__: function for function in (legacy, lesionwise_2023, brats_2026)
}


def score(
    prediction: np.ndarray, truth: np.ndarray, spacing_mm: tuple[float, ...], rules: Rules | None
) -> Score:
    """Return the score by the rules that are wanted; all None without any."""
    if rules is None:
        return Score(None, None)
    function = DEFINITIONS[rules.definition]
    return function(prediction, truth, spacing_mm, CHALLENGES[rules.challenge])


def _dice_and_hd95(
    prediction: np.ndarray, truth: np.ndarray, spacing_mm: tuple[float, ...]
) -> tuple[float, float]:
    if not prediction.any() or not truth.any():
        return (0.0, _WORST_2023) if prediction.any() or truth.any() else (1.0, 0.0)
    surfaces = surfels.measure(prediction, truth, spacing_mm)
    dice = float(metrics.dice(lesions.counts(prediction, truth)))
    return dice, surfels.hd95_by_area(surfaces)


def _cut(prediction: np.ndarray, truth: np.ndarray, margin: int) -> tuple[np.ndarray, np.ndarray]:
    """Return both masks cut to the box around both, with a margin as far as the volume goes.

    At least one more slice, since a volume of one is scored in its plane.
    """
    together = prediction | truth
    if not together.any():
        return prediction[:1, :1, :1], truth[:1, :1, :1]
    box, margins = surface.bounding_box(together), (max(margin, 1), margin, margin)
    wide = tuple(slice(max(s.start - m, 0), s.stop + m) for s, m in zip(box, margins, strict=True))
    return prediction[wide], truth[wide]
