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
  --config.dataset.source=PATH
                   the scans have moved here, the same ones; the run keeps it for all programs
                   (as it does --config.dataset.cache_dir=PATH, for prepared copies)
  --output DIR     where to write; default WORKDIR/evaluation/SPLIT, with --source
                   WORKDIR/evaluation/external

With masks that python -m jaxseg.predict wrote, and masks that people drew for the same scans:

  --predictions DIR  the folder that predict wrote; needs no --workdir
  --truth PATH       folder, zip or file of masks: PNG, TIFF, NIfTI, NRRD (3D Slicer's .seg.nrrd
                     too), MetaImage, DICOM-SEG. Each is matched by its name, as p1_seg.nii.gz or
                     p1/mask.nii.gz with p1_flair.nii.gz, and must lie on the voxels of the scan;
                     the scans' own folder will do
  --output DIR       default PREDICTIONS/evaluation

Patients without a truth that fits are named. Exit code 0, or 2 with one line on what to mend.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jaxseg.config import command_line
from jaxseg.errors import UserError
from jaxseg.evaluation.of_masks import score_masks
from jaxseg.evaluation.of_runs import score_folds, score_run
from jaxseg.machine.distributed import failing_together, join, on_main
from jaxseg.machine.start import start_computing
from jaxseg.runs.scans import MOVED, move


def main(argv: Sequence[str]):
    """Run the program; see the top of the file."""
    splits = ("train", "validation", "test", "all")
    options, rest = command_line.parse(
        argv,
        __doc__,
        text=("source", "output", "predictions", "truth", *MOVED),
        several=("workdir",),
        split=splits,
    )
    command_line.refuse_arguments(rest)
    if options.predictions or options.truth:
        of_masks(options)
        return
    if not options.workdir:
        raise UserError("which run? Give --workdir DIR (see --help)")
    runs = [Path(run).expanduser() for run in options.workdir]
    output = Path(options.output).expanduser() if options.output else None
    if options.source is not None and options.split:
        raise UserError("--source takes all its patients; leave --split out")
    if len(runs) > 1 and (options.source is not None or options.split not in (None, "test")):
        raise UserError(
            "several folds are scored on their test patients; leave --source and --split out"
        )
    start_computing(joining=True)
    join()
    with failing_together():
        moved = [getattr(options, name) for name in MOVED]
        for run in runs if any(moved) else ():
            on_main(lambda run=run: move(run, *moved))
        if len(runs) > 1:
            score_folds(runs, output)
        else:
            score_run(runs[0], options.split or "test", options.source, output)


def of_masks(options: Any):
    """Score the masks in a folder."""
    if not (options.predictions and options.truth):
        raise UserError("give both --predictions DIR and --truth PATH (see --help)")
    if options.workdir or options.split or options.source:
        raise UserError("--predictions are masks already; leave --workdir, --split, --source out")
    output = Path(options.output).expanduser() if options.output else None
    score_masks(Path(options.predictions).expanduser(), Path(options.truth).expanduser(), output)


if __name__ == "__main__":
    command_line.run(main)
