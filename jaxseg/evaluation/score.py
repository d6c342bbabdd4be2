"""Patients predicted and scored: numbers, figures and report of an evaluation."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax

from jaxseg.config import Config
from jaxseg.config.settings import to_json
from jaxseg.datasets.index import Patient, scan_digest
from jaxseg.datasets.prepared import Prepared
from jaxseg.evaluation import threshold_baseline
from jaxseg.imaging.intensity import normalise
from jaxseg.machine.distributed import (
    gather_shares,
    is_main,
    on_main,
    together,
)
from jaxseg.machine.files import make_folder
from jaxseg.prediction import operating
from jaxseg.prediction.inference import Case, Model, predict_patients
from jaxseg.prediction.operating import OperatingPoint, segment
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


class Part(NamedTuple):
    """A trained model and whom it is scored on; the folds of a cross-validation are several."""

    run: Path  # workdir; holds the threshold baseline found on train
    model: Model  # with the temperature of the operating point
    point: OperatingPoint  # how its probabilities become masks
    patients: Sequence[Patient]


def evaluate(
    config: Config,
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
        config: of the run; of several, the fold apart, they have the same.
        parts: which model is scored on whom; a patient is in one of them.
        prepared: the data set.
        output: folder to write to.
        title: heading of the report.
        about: what was scored (split, source, step), for scores.json.
        notes: sentences for the report, by example which checkpoint.

    Returns:
        The content of scores.json; None on the other processes.
    """
    on_main(lambda: make_folder(output))
    found = together(lambda: [threshold_baseline.read(part.run) for part in parts])
    scores, baseline_scores = [], []
    for part, baseline in zip(parts, found, strict=True):
        mine = part.patients[jax.process_index() :: jax.process_count()]
        cases = predict_patients(part.model, prepared, mine)
        both = score_cases(cases, config, part.point, baseline)
        scores += gather_scores(both[0])
        baseline_scores += gather_scores(both[1])
    if not is_main():
        return None
    samples, spacing_mm = config.evaluation.bootstrap_samples, config.dataset.spacing_mm
    best_threshold = baselines.of_folds(found), baseline_scores
    summary = scorecard.summarise(
        scores, samples, spacing_mm=spacing_mm, best_threshold=best_threshold
    )
    summary["about"] = about
    summary["scans"] = {p.id: scan_digest(p) for part in parts for p in part.patients}
    if len(parts) == 1:
        tuned = bool(operating.how_chosen(parts[0].run))
        summary["operating_point"] = parts[0].point._asdict() | {"tuned": tuned}
    scorecard.write_json(output / "scores.json", summary)
    scorecard.write_patients_csv(output / "patients.csv", scores)
    shown = write_figures(output, scores, summary, parts, prepared, config)
    report_path, settings = output / "report.html", to_json(config)
    report.write_report(
        report_path, title, summary, scores, shown, settings, workdir.versions(), notes
    )
    say_results(output, summary, shown)
    return summary


def say_results(output: Path, summary: dict[str, Any], shown: dict[str, Path]):
    """Print the scorecard and where the files are."""
    print(scoretext.format_scorecard(summary), flush=True)
    print(f"\nreport   {output / 'report.html'}\nscores   {output / 'scores.json'}")
    print(f"patients {output / 'patients.csv'}")
    print("figures  " + "\n         ".join(str(path) for path in shown.values()), flush=True)


def gather_scores(mine: Sequence[scorecard.PatientScore]) -> list[scorecard.PatientScore]:
    """Return the scores of all processes, which took every n-th patient each, in order."""
    scores = [scorecard.PatientScore(**row) for row in gather_shares([s._asdict() for s in mine])]
    return [s._replace(tumour_slice_dice=tuple(s.tumour_slice_dice)) for s in scores]


def score_cases(
    cases: Iterable[Case],
    config: Config,
    point: OperatingPoint,
    baseline: baselines.ThresholdBaseline,
) -> tuple[list[scorecard.PatientScore], list[scorecard.PatientScore]]:
    """Return the scores of the predictions and those of the threshold baseline."""
    ours, trivial = [], []
    for case in cases:
        truth, spacing = case.truth[..., 0], config.dataset.spacing_mm
        prediction = segment(case.probability[..., 0], point, spacing)
        thresholded = baselines.apply(baseline, normalise(case.image, case.stats))
        ours.append(scorecard.score_patient(case.patient.id, prediction, truth, spacing))
        trivial.append(scorecard.score_patient(case.patient.id, thresholded, truth, spacing))
    return ours, trivial


def write_figures(
    output: Path,
    scores: Sequence[scorecard.PatientScore],
    summary: dict[str, Any],
    parts: Sequence[Part],
    prepared: Prepared,
    config: Config,
) -> dict[str, Path]:
    """Draw the figures; the best, median and worst patients are predicted once more.

    Returns:
        Name -> path of each figure.
    """
    shown = {"dice_per_patient": output / "dice_per_patient.png"}
    figures.dice_per_patient(scores, summary, shown["dice_per_patient"])
    records = workdir.read_metrics(parts[0].run) if len(parts) == 1 else ()
    if records:
        shown["learning_curves"] = output / "learning_curves.png"
        figures.learning_curves(records, shown["learning_curves"], config.train.monitor)
    tuned = operating.how_chosen(parts[0].run) if len(parts) == 1 else {}
    if "threshold_curve" in tuned:  # not where somebody wrote the point alone
        shown["operating_point"] = output / "operating_point.png"
        operating_figure.draw(tuned, shown["operating_point"])
    ranked = sorted(scores, key=lambda s: (s.dice, s.patient))
    picks = {"worst": ranked[0], "median": ranked[len(ranked) // 2], "best": ranked[-1]}
    by_id = {p.id: (part, p) for part in parts for p in part.patients}
    for name, score in picks.items():
        part, patient = by_id[score.patient]
        (case,) = predict_patients(part.model, prepared, [patient])
        channel = min(config.dataset.flair_channel, case.image.shape[-1] - 1)
        prediction = segment(case.probability[..., 0], part.point, config.dataset.spacing_mm)
        shown[name] = output / f"patient_{name}.png"
        image, truth = case.image[..., channel], case.truth[..., 0]
        contours.patient_contours(shown[name], score.patient, image, truth, prediction, score)
    return shown
