"""Masks that `predict` wrote, scored against masks that people drew."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from jaxseg.config import Evaluation
from jaxseg.errors import UserError
from jaxseg.evaluation.drawing import draw_patient, pick_patients
from jaxseg.evaluation.score import say_results
from jaxseg.evaluation.truths import Pair, find_truths, regions_of
from jaxseg.machine.files import make_folder, replace_bytes, replace_text, write_json
from jaxseg.prediction.results import read_records
from jaxseg.runs import workdir
from jaxseg.scans.regions import Region, to_masks
from jaxseg.scoring import figures, report, scorecard, scoretext
from jaxseg.scoring.cohort import cohort
from jaxseg.scoring.patient_score import PatientScore, score_patient


def score_masks(predictions: Path, truth: Path, output: Path | None):
    """Score all that `predict` wrote to a folder; write and print what `evaluate` does.

    Raises:
        UserError: nothing there, or not one patient has a truth that fits.
    """
    records = read_records(predictions)
    truths = find_truths(truth, predictions, records)
    pairs, problems, values = {}, [], (set(), set())
    for patient, record in tqdm(records.items(), "reading", unit="patient", disable=None):
        pair = pairs[patient] = Pair(patient, record, predictions, truths)
        try:
            for known, labels in zip(values, pair.read(), strict=True):
                known.update(np.unique(labels).tolist())
        except UserError as error:
            problems.append(f"{patient}: not scored: {error}")
            del pairs[patient]
    if not pairs:
        raise UserError("\n  ".join([f"{truth}: no truth for any of {len(records)}", *problems]))
    regions, said = regions_of([pair.record for pair in pairs.values()], *values)
    scores = [
        _score(pair, regions)
        for pair in tqdm(pairs.values(), "scoring", unit="patient", disable=None)
    ]
    in_mm = any(pair.spacing_mm() for pair in pairs.values())
    samples = Evaluation().bootstrap_samples
    summary = scorecard.join_regions(
        [scorecard.summarise(of, samples, in_mm=in_mm) for of in zip(*scores, strict=True)],
        scorecard.mean_over_regions(scores, samples),
    )
    summary["about"] = {"predictions": str(predictions), "truth": str(truth)}
    notes = [f"Masks in {predictions} against those in {truth}; {said}."]
    notes += [f"Warning: {problem}" for problem in problems]
    drawn = _draw(pairs, regions, scores, summary, notes)
    print("\n".join(notes), end="\n\n")
    _write(output or predictions / "evaluation", summary, scores, drawn, notes, records)


def _score(pair: Pair, regions: Sequence[Region]) -> list[PatientScore]:
    masks, truths = (to_masks(labels, regions) > 0 for labels in pair.read())
    return [
        score_patient(pair.patient, masks[..., k], truths[..., k], pair.spacing_mm(), region.name)
        for k, region in enumerate(regions)
    ]


def _draw(
    pairs: Mapping[str, Pair],
    regions: Sequence[Region],
    scores: Sequence[Sequence[PatientScore]],
    summary: dict[str, Any],
    notes: list[str],
) -> dict[str, bytes]:
    """Draw the figures; a line is noted where a scan is not there any more."""
    drawn = {}
    for k, (name, part) in enumerate(scoretext.each_region(summary)):
        end = f"_{name}" if k else ""
        drawn[f"dice_per_patient{end}"] = figures.dice_per_patient([s[k] for s in scores], part)
    by_patient = {regions[0].patient: regions for regions in scores}
    names = [region.name for region in regions]
    for name, patient in pick_patients(scores).items():
        pair = pairs[patient]
        try:
            image = pair.image()
        except UserError as error:
            notes.append(f"Warning: no picture of {patient}: {error}")
            continue
        masks, truths = (to_masks(labels, regions) > 0 for labels in pair.read())
        spacing_mm, scored = pair.spacing_mm(), by_patient[patient]
        drawn[name] = draw_patient(scored, image, truths, masks, names, spacing_mm)
    return drawn


def _write(
    output: Path,
    summary: dict[str, Any],
    scores: Sequence[Sequence[PatientScore]],
    drawn: Mapping[str, bytes],
    notes: list[str],
    records: Mapping[str, Mapping[str, Any]],
):
    make_folder(output)
    flat = [score for patient in scores for score in patient]
    write_json(output / "scores.json", summary)
    replace_text(output / "patients.csv", scorecard.patients_csv(flat))
    for name, image in drawn.items():
        replace_bytes(output / f"{name}.png", image)
    captioned = {name.removeprefix("patient_"): image for name, image in drawn.items()}
    how = json.dumps(next(iter(records.values())).get("how", {}), indent=1)
    who = cohort(len(scores), len({score.group for score in flat}))
    title = f"{output.absolute().parent.name}: {who}"
    text = report.page(title, summary, flat, captioned, how, workdir.versions(), notes)
    replace_text(output / "report.html", text)
    say_results(output, summary, list(drawn))
