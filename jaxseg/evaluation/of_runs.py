"""Runs to be scored: of a split, of another source, of folds."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path

from jaxseg.config import Config
from jaxseg.datasets.index import Patient, fingerprint
from jaxseg.datasets.prepare import prepare
from jaxseg.datasets.prepared import Prepared
from jaxseg.datasets.splits import split_patients
from jaxseg.errors import UserError
from jaxseg.evaluation import folds
from jaxseg.evaluation.parts import Part
from jaxseg.evaluation.score import evaluate
from jaxseg.machine.distributed import check_same, gather, together
from jaxseg.prediction import trained
from jaxseg.runs import workdir
from jaxseg.runs.scans import scans_of
from jaxseg.scoring.cohort import cohort


def choose_patients(
    run: Path, config: Config, split: str, source: str | None
) -> tuple[Prepared, tuple[Patient, ...]]:
    """Return the data set and the patients of the split, or all patients of another source."""
    if source is not None:
        try:
            prepared = prepare(dataclasses.replace(config.dataset, source=source))
        except UserError as error:
            how = f"{config.dataset.name}, patient_regex={config.dataset.patient_regex!r}"
            raise UserError(f"{error}\n(--source is read like the training data: {how})") from error
        return prepared, prepared.patients
    prepared = scans_of(run, config)
    if split == "all":
        return prepared, prepared.patients
    return prepared, split_patients(prepared.patients, config.split)[split]


def score_folds(runs: Sequence[Path], output: Path | None):
    """Score the test patients of several folds together, each by the model of its fold."""
    if output is None:
        raise UserError("where to write the scores of all folds? Give --output DIR")
    made = together(lambda: folds.read_folds(runs))
    config = made[0].config
    prepared = together(lambda: scans_of(made[0].run, config))
    check_same("scans", fingerprint(prepared.patients))
    together(lambda: folds.check_unchanged(made, prepared.patients))
    parts, described = [], []
    for fold in made:
        patients = [p for p in prepared.patients if p.id in fold.test]
        run = trained.load(fold.run)
        about = {"fold": fold.config.split.fold, "run": str(fold.run), "step": run.step}
        about["operating_point"] = run.points[0]._asdict()
        if len(run.regions) > 1:
            points = zip(run.regions, run.points, strict=True)
            about["operating_points"] = {name: point._asdict() for name, point in points}
        described.append(about)
        parts.append(Part(run, trained.predictor(run), patients))
    notes = together(lambda: folds.sentences(made))
    print("\n".join(notes), end="\n\n", flush=True)
    title = f"{config.dataset.name}: test patients of {len(parts)} folds"
    about = {"split": "test", "source": config.dataset.source, "folds": described}
    evaluate(parts, prepared, output, title, about, notes)
    gather(None)  # the others stay until the first one has written


def score_run(run: Path, split: str, source: str | None, output: Path | None):
    """Score the best weights of a run on a split, or on all patients of another source."""
    config = together(lambda: workdir.load_config(run))
    prepared, patients = together(lambda: choose_patients(run, config, split, source))
    check_same("scans", fingerprint(patients))
    for warning in prepared.warnings:
        print(f"warning: {warning}")
    name = "external" if source else split
    together(lambda: workdir.check_fits(run, prepared))
    same_ids = together(lambda: workdir.check_unseen(run, patients)) if source else []
    loaded = trained.load(run)
    output = output or run / "evaluation" / name
    who = cohort(len(patients), len({patient.person for patient in patients}))
    title = f"{config.dataset.name}: {name} ({who})"
    note = f"Best weights of {run}, step {loaded.step}."
    if source:
        note += f" External validation on all patients of {source}."
    if name in ("train", "validation"):
        note += f" These patients took part in the training ({name}): not an honest score."
    if name == "all":
        note += " These include the patients of the training: not an honest score."
    notes = [note, *same_ids]
    print("\nwarning: ".join(notes), end="\n\n")
    about = {"split": name, "source": source or config.dataset.source, "step": loaded.step}
    evaluate(
        [Part(loaded, trained.predictor(loaded), patients)], prepared, output, title, about, notes
    )
    gather(None)  # the others stay until the first one has written
