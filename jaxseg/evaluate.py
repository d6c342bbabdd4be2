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
import itertools
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from absl import flags

from jaxseg import baselines, checkpoint, cli, figures, report, scorecard, scoretext, workdir
from jaxseg.compile_cache import keep_compiled_programs
from jaxseg.config import Config
from jaxseg.datasets import Patient, Prepared, fingerprint, prepare, scan_digest, split_patients
from jaxseg.distributed import (
    check_same,
    failing_together,
    gather,
    is_main,
    join,
    on_main,
    together,
)
from jaxseg.errors import UserError
from jaxseg.inference import Case, predict_patients, read_patient
from jaxseg.intensity import normalise
from jaxseg.settings import to_json
from jaxseg.sharding import make_mesh, replicated, split_batch
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
) -> dict[str, Any] | None:
    """Predict and score patients, write all files to output and print the scorecard.

    Each process predicts its share of the patients on its own devices; the first one writes.

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
        The content of scores.json; None on the other processes.
    """
    on_main(lambda: workdir.make_folder(output))
    mesh = make_mesh(devices=jax.local_devices())
    weights = jax.device_put(weights, replicated(mesh))
    per_device = -(-config.evaluation.batch_size // jax.device_count())
    section = dataclasses.replace(config.evaluation, batch_size=per_device * mesh.size)
    local = dataclasses.replace(config, evaluation=section)
    predict = jit_predict(config, split_batch(mesh))

    def cases(chosen: Sequence[Patient]) -> Iterator[Case]:
        return predict_patients(predict, weights, prepared, chosen, local, mesh)

    baseline = together(lambda: threshold_baseline(run))
    mine = patients[jax.process_index() :: jax.process_count()]
    scores, baseline_scores = map(gather_scores, score_cases(cases(mine), config, baseline))
    if not is_main():
        return None
    samples, spacing_mm = config.evaluation.bootstrap_samples, config.dataset.spacing_mm
    summary = scorecard.summarise(
        scores, samples, spacing_mm=spacing_mm, best_threshold=(baseline, baseline_scores)
    )
    summary["about"], summary["scans"] = about, {p.id: scan_digest(p) for p in patients}
    scorecard.write_json(output / "scores.json", summary)
    scorecard.write_patients_csv(output / "patients.csv", scores)
    shown = write_figures(run, output, scores, summary, patients, cases, config)
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
    parts = gather([score._asdict() for score in mine])
    rows = itertools.chain(*itertools.zip_longest(*parts))
    scores = [scorecard.PatientScore(**row) for row in rows if row is not None]
    return [s._replace(tumour_slice_dice=tuple(s.tumour_slice_dice)) for s in scores]


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
    join()
    keep_compiled_programs()
    with failing_together():
        output = Path(options.output) if options.output else None
        score_run(Path(options.workdir).expanduser(), options.split, options.source, output)


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
    step, weights = checkpoint.load_best(run, config, prepared.num_channels)
    output = output or run / "evaluation" / name
    title = f"{config.dataset.name}: {name} ({len(patients)} patients)"
    note = f"Best weights of {run}, step {step}."
    if source:
        note += f" External validation on all patients of {source}."
    if name in ("train", "validation"):
        note += f" These patients took part in the training ({name}): not an honest score."
    if name == "all":
        note += " These include the patients of the training: not an honest score."
    print("\nwarning: ".join([note, *same_ids]), end="\n\n")
    about = {"split": name, "source": source or config.dataset.source, "step": step}
    evaluate(run, config, weights, prepared, patients, output, title, about, [note, *same_ids])
    gather(None)  # the others stay until the first one has written


if __name__ == "__main__":
    cli.run(main)
