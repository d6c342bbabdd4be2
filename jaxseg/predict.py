"""Segment scans: python -m jaxseg.predict --workdir DIR INPUT... [--output DIR].

INPUT is a folder with the PNG, TIFF or JPEG slices of one patient, or with a folder for each
patient; a NIfTI file (.nii, .nii.gz, or .hdr with its .img; 3D, or 4D with the model's channels in
order); a NRRD or MetaImage file (.nrrd, .mha, or .nhdr, .mhd with its voxels beside it; 3D); a
folder with one DICOM series, a file for each slice or one of several frames (enhanced); or a folder
or zip of any of these. Patients are told apart as in training. Links are followed;
masks (by name), what jaxseg wrote and what it cannot read are left out and named. A slice by itself
is normalised with its patient's slices in the same folder. Scans need the channels the model was
trained on, named t1, flair, t1c for the LGG set and the phantom. For a run on a volume set INPUT
may be kept as that set: a folder or zip with a file for each channel (BraTS of any year, nnU-Net,
the patterns of the run's config), one case or many; labels beside them are not needed. A run on
volumes predicts in overlapping patches and takes a stack of slices, but no single slice.

  --workdir DIR    folder of the training run (required); several, each with --workdir, are an
                   ensemble: the mean of their calibrated probabilities and operating points
  --output DIR     where to write; default WORKDIR/predictions
  --channels LIST  one file or DICOM folder per channel, searched in the folders INPUT;
                   t1={patient}_t1.nii.gz,flair={patient}_flair.nii.gz,t1c={patient}/T1C
  --fill CHANNEL   stands in for channels that are missing, as FLAIR does in the LGG set; a scan of
                   one channel is taken as this one
  --tta            average with the prediction of the mirrored scan, left and right only; twice the
                   time
  --tile           tiles of the training size at the scan's own resolution, overlapping by half,
                   instead of slices resized as in training; for runs on slices that did not resize
                   them much
  --probabilities  write the calibrated probabilities too
  --overwrite      predict anew what is done already: the same files, model and options
  --single-slice   normalise a single slice by itself; the mask may be far off

Writes OUTPUT/PATIENT/mask in the grid and format of the scan: .nii or .nii.gz with its affine,
codes and zooms; .nrrd; .mha; .dcm, a DICOM-SEG (.nii.gz, with a warning, where none can be made of
the series); or a folder with a mask (0, 255) for each slice, TIFF for TIFF, else PNG. Several
regions are the labels of the data set, in a DICOM-SEG a coded segment each. Likewise probability,
or probability_REGION (float32; DICOM-SEG in steps of 1/255; 16 bit), and overlay.png, contours on
the slices most affected, or all regions in three planes. OUTPUT/predictions.csv has for each
patient

  patient, file             its name, and where the scan is
  volume_ml                 of the mask; empty when the spacing is unknown
  voxels                    of the mask; pixels of all slices
  largest_component_voxels  neighbours share a face, an edge or a corner
  mean_confidence           calibrated probability, mean over the mask; empty without a mask

of several regions the first, and then REGION_volume_ml and so on of each. Regions agree: one whose
labels are part of another's (enhancing tumour, core, whole tumour) lies within it, what sticks out
is cut off before the smallest lesions are dropped; of two without a common label the later has a
voxel that both would have. Evaluation scores the same masks.

Threshold, smallest lesion kept and temperature are those that the run tuned on its validation
patients. Scans of one name are told apart by the folders above them. What fails is listed at the
end, and the others are done. Exit code 0, 1 when scans failed, or 2 with one line on what to mend.
For research use only.
"""

import sys
from collections.abc import Sequence
from pathlib import Path

from jaxseg.config import command_line
from jaxseg.errors import UserError
from jaxseg.machine.files import make_folder
from jaxseg.machine.start import start_computing
from jaxseg.prediction import places, predictions
from jaxseg.prediction.ensemble import read_ensemble
from jaxseg.prediction.new_scans import OPTIONS, find_all, predict_scans
from jaxseg.runs import workdir


def main(argv: Sequence[str]):
    """Run the program; see the top of the file."""
    options, rest = command_line.parse(
        argv,
        __doc__,
        text=("output", "channels", "fill"),
        several=("workdir",),
        switch=("tta", "tile", "probabilities", "overwrite", "single-slice"),
    )
    inputs = [Path(path).expanduser() for path in rest]
    if not options.workdir:
        raise UserError("which run? Give --workdir DIR (see --help)")
    if not inputs:
        raise UserError("which scans? Give files or folders (see --help)")
    start_computing()
    runs = [Path(run).expanduser() for run in options.workdir]
    ensemble = read_ensemble(runs)
    if options.tile and ensemble.of_volumes:
        raise UserError(
            "--tile is for runs on slices; a run on volumes predicts in overlapping patches anyway"
        )
    notes = []
    scans = find_all(inputs, ensemble, options.channels, options.fill, notes)
    if options.single_slice:  # whatever lies beside it
        scans = [scan._replace(around=None) for scan in scans]
    for note in notes:
        print(f"note: {note}", file=sys.stderr)
    output = Path(options.output).expanduser() if options.output else runs[0] / "predictions"
    how = {
        "runs": [str(run.absolute()) for run in runs],
        "models": [workdir.fingerprint(run) for run in runs],
        "operating_points": [p._asdict() for points in ensemble.points for p in points],
        **{name: getattr(options, name) for name in OPTIONS},
    }
    work = places.plan(scans, output, how, options.overwrite)
    if work.done:
        print(f"already done: {work.done} of {_patients(len(scans))}")
    failed = {}
    if work.todo:
        make_folder(output)
        failed = predict_scans(work.todo, ensemble, output, how, options.single_slice)
    print(f"predicted {_patients(len(work.todo) - len(failed))}: {output / predictions.TABLE}")
    problems = [*work.problems, *(f"{patient}: {why}" for patient, why in failed.items())]
    if problems:
        lines = [f"failed: {len(problems)} of {_patients(len(scans))}", *problems]
        print("error: " + "\n  ".join(lines), file=sys.stderr)
        sys.exit(1)


def _patients(count: int) -> str:
    return "1 patient" if count == 1 else f"{count} patients"


if __name__ == "__main__":
    command_line.run(main)
