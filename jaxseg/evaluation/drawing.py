"""The figures of an evaluation: all patients in numbers, and some of them in pictures."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from jaxseg.datasets.prepared import Prepared
from jaxseg.evaluation.parts import Part, Scores
from jaxseg.prediction import operating
from jaxseg.prediction.inference import predict_patients
from jaxseg.prediction.operating import segment_regions
from jaxseg.runs import workdir
from jaxseg.scoring import (
    contours,
    figures,
    operating_figure,
    planes,
    region_figure,
    scoretext,
)
from jaxseg.scoring.patient_score import PatientScore


def draw_figures(
    scores: Scores,
    summary: dict[str, Any],
    parts: Sequence[Part],
    prepared: Prepared,
) -> dict[str, bytes]:
    """Draw the figures; the patients that are shown are predicted once more.

    Returns:
        Name -> PNG of each figure. What is of a later region than the first ends with its name.
    """
    drawn, first = {}, parts[0].trained
    tuned = operating.how_chosen(first.run) if len(parts) == 1 else {}
    if len(first.regions) > 1:
        drawn["regions"] = region_figure.by_region(scores, summary)
    for k, (name, part) in enumerate(scoretext.each_region(summary)):
        end = f"_{name}" if k else ""
        of_region = [patient[k] for patient in scores]
        drawn[f"dice_per_patient{end}"] = figures.dice_per_patient(of_region, part)
    records = workdir.read_metrics(first.run) if len(parts) == 1 else ()
    if records:
        drawn["learning_curves"] = figures.learning_curves(records, first.config.train.monitor)
    for k, name in enumerate(first.regions):
        how = tuned.get("regions", {}).get(name, tuned)
        if "threshold_curve" in how:  # not where somebody wrote the point alone
            drawn["operating_point" + (f"_{name}" if k else "")] = operating_figure.draw(how)
    return drawn | _draw_patients(pick_patients(scores), scores, parts, prepared)


def pick_patients(scores: Scores) -> dict[str, str]:
    """Return who is shown: name of the figure -> id.

    Worst, median and best of the first region, and the worst of each other one unless shown.
    """
    picks = {}
    for k, score in enumerate(scores[0]):
        ranked = sorted((patient[k] for patient in scores), key=lambda s: (s.dice, s.patient))
        if k == 0:
            chosen = {"worst": ranked[0], "median": ranked[len(ranked) // 2], "best": ranked[-1]}
            picks |= {f"patient_{name}": score.patient for name, score in chosen.items()}
        elif ranked[0].patient not in picks.values():
            picks[f"patient_worst_{score.region}"] = ranked[0].patient
    return picks


def _draw_patients(
    picks: dict[str, str], scores: Scores, parts: Sequence[Part], prepared: Prepared
) -> dict[str, bytes]:
    by_id = {p.id: (part, p) for part in parts for p in part.patients}
    scored = {regions[0].patient: regions for regions in scores}
    drawn = {}
    for name, patient in picks.items():
        part, found = by_id[patient]
        (case,) = predict_patients(part.model, prepared, [found])
        volume, run = case.volume, part.trained
        image = volume.image[..., run.config.dataset.shown_channel(volume.image.shape[-1])]
        place = volume.spacing_mm, volume.affine
        masks = segment_regions(case.probability, run.points, run.kind.regions, *place)
        shown = image, case.truth, masks, run.regions, volume.spacing_mm
        drawn[name] = draw_patient(scored[patient], *shown)
    return drawn


def draw_patient(
    scores: Sequence[PatientScore],
    image: np.ndarray,
    truth: np.ndarray,
    masks: np.ndarray,
    regions: Sequence[str],
    spacing_mm: tuple[float, ...],
) -> bytes:
    """Draw all regions in three planes where the voxels' size allows it, else the first one.

    Args:
        scores: of the regions.
        image: [D, H, W], the channel that is shown.
        truth, masks: [D, H, W, K] bool.
        regions: names.
        spacing_mm: (slice distance, row, column); () when unknown.

    Returns:
        PNG.
    """
    if len(scores) > 1 and len(image) > 1 and spacing_mm:
        dice = ", ".join(f"{s.region} {s.dice:.3f}" for s in scores)
        title = f"{scores[0].patient}\nDice: {dice}"
        return planes.region_planes(title, image, truth, masks, regions, spacing_mm)
    first = truth[..., 0], masks[..., 0], scores[0]
    return contours.patient_contours(scores[0].patient, image, *first)
