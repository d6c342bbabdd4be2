"""Patients predicted and scored: numbers, figures and report of an evaluation."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import jax

from jaxseg.config import Config
from jaxseg.config.settings import to_json
from jaxseg.datasets.index import scan_digest, truth_digest
from jaxseg.datasets.prepared import Prepared
from jaxseg.evaluation.drawing import draw_figures
from jaxseg.evaluation.parts import Part, Scores
from jaxseg.evaluation.threshold_baseline import read_baselines
from jaxseg.imaging.intensity import normalise
from jaxseg.machine.distributed import gather_shares, is_main, on_main, together
from jaxseg.machine.files import make_folder, replace_bytes, replace_text, write_json
from jaxseg.prediction import operating
from jaxseg.prediction.inference import Case, predict_patients
from jaxseg.prediction.operating import OperatingPoint, segment_regions
from jaxseg.runs import workdir
from jaxseg.scans.regions import Region
from jaxseg.scoring import baselines, report, scorecard, scoretext
from jaxseg.scoring.brats import Rules
from jaxseg.scoring.patient_score import PatientScore, score_patient


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
    regions, names = parts[0].trained.kind.regions, parts[0].trained.regions
    found = together(lambda: [read_baselines(part.trained.run, names) for part in parts])
    scores, baseline_scores = [], []
    for part, baseline in zip(parts, found, strict=True):
        mine = part.patients[jax.process_index() :: jax.process_count()]
        cases = predict_patients(part.model, prepared, mine)
        rules = brats_rules(part.trained.config)
        both = score_cases(cases, regions, part.trained.points, baseline, rules)
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
    summaries, samples = [], first.config.evaluation.bootstrap_samples
    for k in range(len(first.regions)):
        best = baselines.of_folds([part[k] for part in found])
        summary = scorecard.summarise(
            [patient[k] for patient in scores],
            samples,
            in_mm=in_mm,
            best_threshold=(best, [patient[k] for patient in baseline_scores]),
            rules=brats_rules(first.config),
        )
        best = summary["baselines"]["best_threshold"]
        for one in best.get("folds", [best]) if first.kind.channels else ():
            one["channel_name"] = first.kind.channels[one["channel"]].upper()
        if len(parts) == 1:
            tuned = bool(operating.how_chosen(first.run))
            summary["operating_point"] = first.points[k]._asdict() | {"tuned": tuned}
        summaries.append(summary)
    means = scorecard.mean_over_regions(scores, samples, best_threshold=baseline_scores)
    return scorecard.join_regions(summaries, means)


def brats_rules(config: Config) -> Rules | None:
    """Return the BraTS definition that the config asks for; None for none."""
    chosen = config.evaluation
    return (
        Rules(chosen.brats_definition, chosen.brats_challenge) if chosen.brats_definition else None
    )


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
    regions: Sequence[Region],
    points: Sequence[OperatingPoint],
    found: Sequence[baselines.ThresholdBaseline],
    rules: Rules | None = None,
) -> tuple[Scores, Scores]:
    """Return the scores of the predictions and those of the threshold baselines.

    Predicted regions lie in each other as their labels do, see `operating.segment_regions`.
    Only the predictions are scored by the BraTS definition that the rules name.
    """
    ours, trivial = [], []
    for case in cases:
        patient, truth, spacing = case.patient.id, case.truth, case.volume.spacing_mm
        masks = segment_regions(case.probability, points, regions, spacing, case.volume.affine)
        image = normalise(case.volume.image, case.volume.stats)
        person = case.patient.group
        scored = [
            (
                score_patient(patient, mask, truth[..., k], spacing, region.name, person, rules),
                score_patient(patient, simple, truth[..., k], spacing, region.name, person),
            )
            for k, region in enumerate(regions)
            for mask, simple in [(masks[..., k], baselines.apply(found[k], image))]
        ]
        ours.append([s[0] for s in scored])
        trivial.append([s[1] for s in scored])
    return ours, trivial
