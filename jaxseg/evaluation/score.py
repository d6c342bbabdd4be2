"""Patients predicted and scored: numbers, figures and report of an evaluation."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax

from jaxseg.config.settings import to_json
from jaxseg.datasets.index import Patient, scan_digest, truth_digest
from jaxseg.datasets.prepared import Prepared
from jaxseg.evaluation.threshold_baseline import read_baselines
from jaxseg.imaging.intensity import normalise
from jaxseg.machine.distributed import gather_shares, is_main, on_main, together
from jaxseg.machine.files import make_folder, replace_bytes, replace_text, write_json
from jaxseg.prediction import operating
from jaxseg.prediction.inference import Case, Predictor, predict_patients
from jaxseg.prediction.operating import OperatingPoint, segment_regions
from jaxseg.prediction.trained import Trained
from jaxseg.runs import workdir
from jaxseg.scoring import (
    baselines,
    contours,
    figures,
    operating_figure,
    report,
    scorecard,
    scoretext,
)
from jaxseg.scoring.scorecard import PatientScore

Scores = list[list[PatientScore]]  # [patients][regions]


class Part(NamedTuple):
    """A trained run and whom it is scored on; the folds of a cross-validation are several."""

    trained: Trained
    model: Predictor  # of the run
    patients: Sequence[Patient]


def evaluate(
    parts: Sequence[Part],
    prepared: Prepared,
    output: Path,
    title: str,
    about: dict[str, Any],
    notes: Sequence[str] = (),
) -> dict[str, Any] | None:
    """Predict and score patients, write all files to output and print the scorecard.

    Each process predicts its share of the patients on its own devices; the first one writes.

    Args:
        parts: which run is scored on whom; a patient is in one of them, and the runs have the
            same settings, the fold apart.
        prepared: the data set.
        output: folder to write to.
        title: heading of the report.
        about: what was scored (split, source, step), for scores.json.
        notes: sentences for the report, by example which checkpoint.

    Returns:
        The content of scores.json; None on the other processes.
    """
    on_main(lambda: make_folder(output))
    regions = parts[0].trained.regions
    found = together(lambda: [read_baselines(part.trained.run, regions) for part in parts])
    scores, baseline_scores = [], []
    for part, baseline in zip(parts, found, strict=True):
        mine = part.patients[jax.process_index() :: jax.process_count()]
        cases = predict_patients(part.model, prepared, mine)
        both = score_cases(cases, regions, part.trained.points, baseline)
        scores += gather_scores(both[0])
        baseline_scores += gather_scores(both[1])
    if not is_main():
        return None
    summary = summarise(parts, scores, found, baseline_scores)
    summary["about"] = about
    summary["scans"] = {p.id: scan_digest(p) for part in parts for p in part.patients}
    summary["truths"] = {p.id: truth_digest(p) for part in parts for p in part.patients}
    flat = [score for patient in scores for score in patient]
    write_json(output / "scores.json", summary)
    replace_text(output / "patients.csv", scorecard.patients_csv(flat))
    drawn = draw_figures(scores, summary, parts, prepared)
    for name, image in drawn.items():
        replace_bytes(output / f"{name}.png", image)
    captioned = {name.removeprefix("patient_"): image for name, image in drawn.items()}
    settings = to_json(parts[0].trained.config)
    text = report.page(title, summary, flat, captioned, settings, workdir.versions(), notes)
    replace_text(output / "report.html", text)
    say_results(output, summary, drawn)
    return summary


def summarise(
    parts: Sequence[Part],
    scores: Scores,
    found: Sequence[Sequence[baselines.ThresholdBaseline]],
    baseline_scores: Scores,
) -> dict[str, Any]:
    """Return the summary of all regions; `found` are the threshold baselines of each part."""
    first = parts[0].trained
    in_mm = any(patient.spacing_mm for part in parts for patient in part.patients)
    summaries = []
    for k in range(len(first.regions)):
        best = baselines.of_folds([part[k] for part in found])
        summary = scorecard.summarise(
            [patient[k] for patient in scores],
            first.config.evaluation.bootstrap_samples,
            in_mm=in_mm,
            best_threshold=(best, [patient[k] for patient in baseline_scores]),
        )
        best = summary["baselines"]["best_threshold"]
        for one in best.get("folds", [best]) if first.kind.channels else ():
            one["channel_name"] = first.kind.channels[one["channel"]].upper()
        if len(parts) == 1:
            tuned = bool(operating.how_chosen(first.run))
            summary["operating_point"] = first.points[k]._asdict() | {"tuned": tuned}
        summaries.append(summary)
    return scorecard.join_regions(summaries)


def say_results(output: Path, summary: dict[str, Any], drawn: Sequence[str]):
    """Print the scorecard and where the files are."""
    print(scoretext.format_scorecard(summary), flush=True)
    print(f"\nreport   {output / 'report.html'}\nscores   {output / 'scores.json'}")
    print(f"patients {output / 'patients.csv'}")
    print("figures  " + "\n         ".join(str(output / f"{n}.png") for n in drawn), flush=True)


def gather_scores(mine: Scores) -> Scores:
    """Return the scores of all processes, which took every n-th patient each, in order."""
    rows = gather_shares([[s._asdict() for s in patient] for patient in mine])
    return [[_score(**row) for row in patient] for patient in rows]


def _score(tumour_slice_dice: Sequence[float], **others: Any) -> PatientScore:
    return PatientScore(**others, tumour_slice_dice=tuple(tumour_slice_dice))


def score_cases(
    cases: Iterable[Case],
    regions: Sequence[str],
    points: Sequence[OperatingPoint],
    found: Sequence[baselines.ThresholdBaseline],
) -> tuple[Scores, Scores]:
    """Return the scores of the predictions and those of the threshold baselines."""
    ours, trivial = [], []
    for case in cases:
        patient, truth, spacing = case.patient.id, case.truth, case.volume.spacing_mm
        masks = segment_regions(case.probability, points, spacing, case.volume.affine)
        image = normalise(case.volume.image, case.volume.stats)
        scored = [
            (
                scorecard.score_patient(patient, mask, truth[..., k], spacing, name),
                scorecard.score_patient(patient, simple, truth[..., k], spacing, name),
            )
            for k, name in enumerate(regions)
            for mask, simple in [(masks[..., k], baselines.apply(found[k], image))]
        ]
        ours.append([s[0] for s in scored])
        trivial.append([s[1] for s in scored])
    return ours, trivial


def chosen(scores: Sequence[PatientScore]) -> dict[str, PatientScore]:
    """Return the patients that are drawn: worst, median and best by Dice."""
    ranked = sorted(scores, key=lambda s: (s.dice, s.patient))
    return {"worst": ranked[0], "median": ranked[len(ranked) // 2], "best": ranked[-1]}


def draw_figures(
    scores: Scores,
    summary: dict[str, Any],
    parts: Sequence[Part],
    prepared: Prepared,
) -> dict[str, bytes]:
    """Draw the figures; the best, median and worst patients are predicted once more.

    Returns:
        Name -> PNG of each figure.
    """
    drawn, first = {}, parts[0].trained
    tuned = operating.how_chosen(first.run) if len(parts) == 1 else {}
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
    by_id = {p.id: (part, p) for part in parts for p in part.patients}
    for name, score in chosen([patient[0] for patient in scores]).items():
        part, patient = by_id[score.patient]
        (case,) = predict_patients(part.model, prepared, [patient])
        volume, points = case.volume, part.trained.points
        channel = first.config.dataset.shown_channel(volume.image.shape[-1])
        mask = operating.segment(
            case.probability[..., 0], points[0], volume.spacing_mm, volume.affine
        )
        drawn[f"patient_{name}"] = contours.patient_contours(
            score.patient, volume.image[..., channel], case.truth[..., 0], mask, score
        )
    return drawn
