"""Score a trained model: python -m jaxseg.evaluate --workdir DIR [--split test] [--source PATH].

Predicts every patient of a split with the best weights of the run, scores whole volumes on
the pixel grid of the input files, and writes scores.json, patients.csv, figures and
report.html.

  --workdir DIR    folder of the training run (required); given several times, once for each
                   fold of a cross-validation, the test patients of all are predicted, each by
                   the model of its own fold, and scored together; needs --output
  --split NAME     train, validation, test (default) or all
  --source PATH    another folder or zip of the same layout: all its patients, external
                   validation
  --output DIR     where to write; default WORKDIR/evaluation/SPLIT, with --source
                   WORKDIR/evaluation/external

Exit code 0, or 2 with one line on what to mend.
"""

import dataclasses
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
from absl import flags

from jaxseg import (
    baselines,
    checkpoint,
    cli,
    figures,
    folds,
    operating,
    operating_figure,
    report,
    scorecard,
    scoretext,
    threshold_baseline,
    workdir,
)
from jaxseg.compile_cache import keep_compiled_programs
from jaxseg.config import Config
from jaxseg.datasets import Patient, Prepared, fingerprint, prepare, scan_digest, split_patients
from jaxseg.distributed import (
    check_same,
    failing_together,
    gather,
    gather_shares,
    is_main,
    join,
    on_main,
    together,
)
from jaxseg.errors import UserError
from jaxseg.inference import Case, Model, make_model, predict_patients
from jaxseg.intensity import normalise_volume
from jaxseg.operating import OperatingPoint, segment
from jaxseg.settings import to_json


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
    on_main(lambda: workdir.make_folder(output))
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
        thresholded = baselines.apply(baseline, normalise_volume(case.image, case.stats))
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
    flags.DEFINE_multi_string("workdir", None, "folder of the training run")
    flags.DEFINE_enum("split", "test", ["train", "validation", "test", "all"], "patients to score")
    flags.DEFINE_string("source", None, "another folder or zip of the same layout")
    flags.DEFINE_string("output", None, "where to write")
    cli.parse_flags(argv, __doc__)
    options = flags.FLAGS
    if not options.workdir:
        raise UserError("which run? Give --workdir DIR (see --help)")
    runs = [Path(run).expanduser() for run in options.workdir]
    output = Path(options.output).expanduser() if options.output else None
    if options.source is not None and options["split"].present:
        raise UserError("--source takes all its patients; leave --split out")
    if len(runs) > 1 and (options.source is not None or options.split != "test"):
        raise UserError(
            "several folds are scored on their test patients; leave --source and --split out"
        )
    join()
    keep_compiled_programs()
    with failing_together():
        if len(runs) > 1:
            score_folds(runs, output)
        else:
            score_run(runs[0], options.split, options.source, output)


def load_part(
    run: Path, config: Config, num_channels: int, patients: Sequence[Patient]
) -> tuple[int, Part]:
    """Return the step of the best weights of a run, and the part that scores them on patients."""
    step, weights = checkpoint.load_best(run, config, num_channels)
    point = OperatingPoint(*on_main(lambda: operating.read(run, config)))
    return step, Part(run, make_model(config, weights, point.temperature), point, patients)


def score_folds(runs: Sequence[Path], output: Path | None):
    """Score the test patients of several folds together, each by the model of its fold."""
    if output is None:
        raise UserError("where to write the scores of all folds? Give --output DIR")
    made = together(lambda: folds.read(runs))
    config = made[0].config
    prepared = together(lambda: prepare(config.dataset))
    check_same("scans", fingerprint(prepared.patients))
    together(lambda: folds.check_unchanged(made, prepared.patients))
    parts, described = [], []
    for fold in made:
        patients = [p for p in prepared.patients if p.id in fold.test]
        step, part = load_part(fold.run, fold.config, prepared.num_channels, patients)
        about = {"fold": fold.config.split.fold, "run": str(fold.run), "step": step}
        described.append(about | {"operating_point": part.point._asdict()})
        parts.append(part)
    notes = together(lambda: folds.describe(made))
    print("\n".join(notes), end="\n\n", flush=True)
    title = f"{config.dataset.name}: test patients of {len(parts)} folds"
    about = {"split": "test", "source": config.dataset.source, "folds": described}
    evaluate(config, parts, prepared, output, title, about, notes)
    gather(None)  # the others stay until the first one has written


def score_run(run: Path, split: str, source: str | None, output: Path | None):
    """Score the best weights of a run on a split, or on all patients of another source."""
    config = together(lambda: workdir.load_config(run))
    prepared, patients = together(lambda: choose_patients(config, split, source))
    check_same("scans", fingerprint(patients))
    for warning in prepared.warnings:
        print(f"warning: {warning}")
    name = "external" if source else split
    together(lambda: workdir.check_channels(run, prepared.num_channels))
    same_ids = together(lambda: workdir.check_unseen(run, patients)) if source else []
    step, part = load_part(run, config, prepared.num_channels, patients)
    output = output or run / "evaluation" / name
    title = f"{config.dataset.name}: {name} ({len(patients)} patients)"
    note = f"Best weights of {run}, step {step}."
    if source:
        note += f" External validation on all patients of {source}."
    if name in ("train", "validation"):
        note += f" These patients took part in the training ({name}): not an honest score."
    if name == "all":
        note += " These include the patients of the training: not an honest score."
    notes = [note, *same_ids]
    print("\nwarning: ".join(notes), end="\n\n")
    about = {"split": name, "source": source or config.dataset.source, "step": step}
    evaluate(config, [part], prepared, output, title, about, notes)
    gather(None)  # the others stay until the first one has written


if __name__ == "__main__":
    cli.run(main)
