"""Score a trained model: python -m jaxseg.evaluate --workdir DIR [--split test] [--source PATH].

Predicts every patient of a split with the best weights of the run, scores whole volumes on
the pixel grid of the input files, and writes scores.json, patients.csv, figures and
report.html.

  --workdir DIR    folder of the training run (required)
  --split NAME     train, validation, test (default) or all
  --source PATH    another folder or zip of the same layout: all its patients, external
                   validation
  --output DIR     where to write; default WORKDIR/evaluation/SPLIT, with --source
                   WORKDIR/evaluation/external

Exit code 0, or 2 with one line on what to mend.
"""

import dataclasses
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from absl import flags

from jaxseg import baselines, checkpoint, cli, figures, report, scorecard, scoretext, workdir
from jaxseg.config import Config
from jaxseg.datasets import Patient, Prepared, prepare, split_patients
from jaxseg.errors import UserError
from jaxseg.inference import Case, predict_patients, read_patient
from jaxseg.intensity import normalise
from jaxseg.settings import to_json
from jaxseg.sharding import check_batch_size, make_mesh
from jaxseg.state import Weights
from jaxseg.steps import jit_predict


def evaluate(
    run: Path,
    config: Config,
    weights: Weights,
    prepared: Prepared,
    patients: Sequence[Patient],
    output: Path,
    title: str,
    about: dict[str, Any],
    notes: Sequence[str] = (),
) -> dict[str, Any]:
    """Predict and score patients, write all files to output and print the scorecard.

    Args:
        run: workdir of the training run; holds the threshold baseline found on train.
        config: of the run.
        weights: to evaluate.
        prepared: the data set.
        patients: whom to score.
        output: folder to write to.
        title: heading of the report.
        about: what was scored (split, source, step), for scores.json.
        notes: sentences for the report, by example which checkpoint.

    Returns:
        The content of scores.json.
    """
    try:
        output.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"{output}: cannot be written ({error.strerror})") from error
    mesh = make_mesh()
    check_batch_size(config.evaluation.batch_size, mesh, "evaluation.batch_size")
    predict = jit_predict(config, mesh)

    def cases(chosen: Sequence[Patient]) -> Iterator[Case]:
        return predict_patients(predict, weights, prepared, chosen, config, mesh)

    baseline = threshold_baseline(run)
    scores, baseline_scores = score_cases(cases(patients), config, baseline)
    summary = scorecard.summarise(
        scores,
        config.evaluation.bootstrap_samples,
        spacing_mm=config.dataset.spacing_mm,
        best_threshold=(baseline, baseline_scores),
    )
    summary["about"] = about
    scorecard.write_json(output / "scores.json", summary)
    scorecard.write_patients_csv(output / "patients.csv", scores)
    shown = write_figures(run, output, scores, summary, patients, cases, config)
    versions = workdir.versions()
    report_path = output / "report.html"
    report.write_report(
        report_path, title, summary, scores, shown, to_json(config), versions, notes
    )
    print(scoretext.format_scorecard(summary), flush=True)
    print(f"\nreport   {report_path}\nscores   {output / 'scores.json'}")
    print(f"patients {output / 'patients.csv'}")
    print("figures  " + "\n         ".join(str(path) for path in shown.values()), flush=True)
    return summary


def score_cases(
    cases: Iterable[Case], config: Config, baseline: baselines.ThresholdBaseline
) -> tuple[list[scorecard.PatientScore], list[scorecard.PatientScore]]:
    """Return the scores of the predictions and those of the threshold baseline."""
    ours, trivial = [], []
    for case in cases:
        truth, spacing = case.truth[..., 0], config.dataset.spacing_mm
        prediction = case.probability[..., 0] >= config.evaluation.threshold
        thresholded = baselines.apply(baseline, normalise_volume(case.image, case.stats))
        ours.append(scorecard.score_patient(case.patient.id, prediction, truth, spacing))
        trivial.append(scorecard.score_patient(case.patient.id, thresholded, truth, spacing))
    return ours, trivial


def normalise_volume(volume: np.ndarray, stats: np.ndarray) -> np.ndarray:
    """Normalise [D, H, W, C] by its statistics [C, 4] to float32."""
    return np.stack([normalise(image, stats) for image in volume])


def threshold_baseline(run: Path) -> baselines.ThresholdBaseline:
    """Return the baseline found by `find_threshold_baseline`.

    Raises:
        UserError: the run has none yet.
    """
    path = run / "baseline.json"
    if not path.exists():
        raise UserError(f"{path}: missing; the training run writes it when it begins")
    return baselines.ThresholdBaseline(**workdir.read_json(path))


def find_threshold_baseline(run: Path, prepared: Prepared, patients: Sequence[Patient]):
    """Find the best global threshold on the training patients and keep it in baseline.json."""

    def volumes() -> Iterator[tuple[np.ndarray, np.ndarray]]:
        for patient in patients:
            records = read_patient(prepared, patient)
            volume = np.stack([r["image"] for r in records])
            truth = np.stack([r["mask"][..., 0] for r in records]) > 0
            yield normalise_volume(volume, records[0]["stats"]), truth

    baseline = baselines.best_threshold(volumes())
    workdir.write_json(run / "baseline.json", baseline._asdict())


def write_figures(
    run: Path,
    output: Path,
    scores: Sequence[scorecard.PatientScore],
    summary: dict[str, Any],
    patients: Sequence[Patient],
    cases: Any,
    config: Config,
) -> dict[str, Path]:
    """Draw the figures; the best, median and worst patients are predicted once more.

    Returns:
        Name -> path of each figure.
    """
    shown = {"dice_per_patient": output / "dice_per_patient.png"}
    figures.dice_per_patient(scores, summary, shown["dice_per_patient"])
    records = workdir.read_metrics(run)
    if records:
        shown["learning_curves"] = output / "learning_curves.png"
        figures.learning_curves(records, shown["learning_curves"], config.train.monitor)
    ranked = sorted(scores, key=lambda s: (s.dice, s.patient))
    picks = {"worst": ranked[0], "median": ranked[len(ranked) // 2], "best": ranked[-1]}
    by_id = {p.id: p for p in patients}
    for name, score in picks.items():
        (case,) = cases([by_id[score.patient]])
        channel = min(config.dataset.flair_channel, case.image.shape[-1] - 1)
        prediction = case.probability[..., 0] >= config.evaluation.threshold
        shown[name] = output / f"patient_{name}.png"
        image, truth = case.image[..., channel], case.truth[..., 0]
        figures.patient_contours(shown[name], score.patient, image, truth, prediction, score)
    return shown


def choose_patients(
    config: Config, split: str, source: str | None
) -> tuple[Prepared, tuple[Patient, ...]]:
    """Return the data set and the patients of the split, or all patients of another source."""
    if source is not None:
        try:
            prepared = prepare(dataclasses.replace(config.dataset, source=source))
        except UserError as error:
            how = f"{config.dataset.name}, patient_regex={config.dataset.patient_regex!r}"
            raise UserError(f"{error}\n(--source is read like the training data: {how})") from error
        return prepared, prepared.patients
    prepared = prepare(config.dataset)
    if split == "all":
        return prepared, prepared.patients
    return prepared, split_patients(prepared.patients, config.split)[split]


def main(argv: Sequence[str]):
    """Run the program; see the top of the file."""
    flags.DEFINE_string("workdir", None, "folder of the training run")
    flags.DEFINE_enum("split", "test", ["train", "validation", "test", "all"], "patients to score")
    flags.DEFINE_string("source", None, "another folder or zip of the same layout")
    flags.DEFINE_string("output", None, "where to write")
    cli.parse_flags(argv, __doc__)
    options = flags.FLAGS
    if options.workdir is None:
        raise UserError("which run? Give --workdir DIR (see --help)")
    if options.source is not None and options["split"].present:
        raise UserError("--source takes all its patients; leave --split out")
    run = Path(options.workdir).expanduser()
    config = workdir.load_config(run)
    prepared, patients = choose_patients(config, options.split, options.source)
    for warning in prepared.warnings:
        print(f"warning: {warning}")
    name = "external" if options.source else options.split
    workdir.check_channels(run, prepared.num_channels)
    same_ids = workdir.check_unseen(run, patients) if options.source else []
    step, weights = checkpoint.load_best(run, config, prepared.num_channels)
    output = Path(options.output) if options.output else run / "evaluation" / name
    title = f"{config.dataset.name}: {name} ({len(patients)} patients)"
    note = f"Best weights of {run}, step {step}."
    if options.source:
        note += f" External validation on all patients of {options.source}."
    if name in ("train", "validation"):
        note += f" These patients took part in the training ({name}): not an honest score."
    if name == "all":
        note += " These include the patients of the training: not an honest score."
    print("\nwarning: ".join([note, *same_ids]), end="\n\n")
    about = {"split": name, "source": options.source or config.dataset.source, "step": step}
    evaluate(run, config, weights, prepared, patients, output, title, about, [note, *same_ids])


if __name__ == "__main__":
    cli.run(main)
