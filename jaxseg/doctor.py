"""Say what a data set is and what is wrong with it: python -m jaxseg.doctor SOURCE.

SOURCE is a folder or zip of scans: slices, or volumes in NIfTI, NRRD or MetaImage. Every file is
read, nothing is changed. The page says what was found, how patients are told apart, what trivial
predictors score, what training would cost here, and lists errors, warnings and notes. It suggests a
config; the patches of volumes fit this machine by XLA's own analysis of the compiled step's memory.

  --write-config FILE          write the suggested config, and prepare the scans for training
  --patient-regex REGEX        its first group in a file's stem is the patient
  --every-image-is-a-patient   state it when it is so
  --name NAME                  lgg_mri, image_folder, or of volumes brats, msd, nnunet; by default
                               told by the files' names
  --channels A=PATTERN,...     volumes found by patterns of their paths, as in
                               't1={patient}/t1.nii.gz,flair={patient}/flair.nii.gz'
  --mask PATTERN               and their labels, as in '{patient}/seg.nii.gz'
  --labels NAME                what labels mean, see config.dataset.labels: brats2021, plain, ...
  --regions A=LABELS;...       or region by region, as in 'whole=1,2,4;enhancing=4'
  --no-timing                  do not compile and measure a training step; patches of volumes are
                               then not fitted to this machine's memory
  --json FILE                  write all numbers and findings

Without SOURCE, what training keeps of the data sets it has read:

  --cache                      list the prepared copies with their sizes
  --cache-dir DIR              of config.dataset.cache_dir, instead of the user's cache folder
  --remove NAME                remove this copy (all: every one), made anew when it is needed;
                               may be given several times; not while a training reads it

Exit code 0, 1 when training would fail, 2 with one line on what to mend in the command.
"""

import argparse
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

from jaxseg.config import Dataset, command_line
from jaxseg.datasets import cache
from jaxseg.datasets.prepare import copies_folder, prepare
from jaxseg.diagnosis.examine import Examination, examine, with_cost
from jaxseg.diagnosis.page import format_page
from jaxseg.diagnosis.suggest import to_python
from jaxseg.errors import UserError
from jaxseg.machine.files import replace_text, write_json
from jaxseg.machine.start import start_computing

_OF_VOLUMES = ("channels", "mask", "labels", "regions")


def main(argv: Sequence[str]):
    """Run the program; see the top of the file."""
    options, sources = command_line.parse(
        argv,
        __doc__,
        text=("write-config", "patient-regex", "json", "cache-dir", *_OF_VOLUMES),
        several=("remove",),
        switch=("every-image-is-a-patient", "no-timing", "cache"),
        name=("lgg_mri", "image_folder", "brats", "msd", "nnunet"),
    )
    if options.cache or options.cache_dir or options.remove:
        command_line.refuse_arguments(sources)
        say_cache(options.cache_dir, options.remove)
        return
    if len(sources) != 1:
        raise UserError("which scans? Give one folder or zip (see --help)")
    source = Path(sources[0]).expanduser().absolute()
    if not source.exists():
        raise UserError(f"{source}: does not exist")
    target = options.write_config
    for path in filter(None, (target, options.json)):
        if not Path(path).expanduser().absolute().parent.is_dir():
            raise UserError(f"{path}: its folder does not exist")
        if Path(path).expanduser().is_dir():
            raise UserError(f"{path}: is a folder; give the name of a file")
    if target and Path(target).expanduser().exists():
        raise UserError(f"--write-config {target}: exists; give another name or remove it")
    given = given_settings(options)
    start_computing()
    name = "nifti" if options.channels or options.mask else options.name
    found = examine(str(source), given, name)
    if found.config is not None and not options.no_timing:
        found = with_cost(found)
    print(format_page(found.report, found.findings), flush=True)
    if options.json:
        write_report(Path(options.json).expanduser(), found)
    say_what_next(found, target)
    if found.fails:
        sys.exit(1)


def given_settings(options: argparse.Namespace) -> Dataset:
    """Return the settings of the data set that the command names."""
    split = {"channel_files": options.channels and options.channels.split(",")}
    split["regions"] = options.regions and options.regions.split(";")
    volumes = {name: tuple(values) for name, values in split.items() if values}
    volumes |= {"labels": options.labels} if options.labels else {}
    if options.channels or options.mask:
        volumes |= {"name": "nifti", "mask_file": options.mask}
    elif volumes:
        volumes["name"] = options.name or "brats"  # until the files tell
    return Dataset(
        patient_regex=options.patient_regex,
        every_image_is_a_patient=options.every_image_is_a_patient,
        **volumes,
    )


def say_cache(cache_dir: str | None, names: list[str]):
    """Print the prepared copies, those that are removed and those that stay."""
    folder = copies_folder(cache_dir)
    copies = cache.find_copies(folder)
    gone = cache.remove(copies, names)
    for copy in gone:
        print(f"removed {copy.name} ({copy.num_bytes / 1e6:.1f} MB)")
    left = [copy for copy in copies if copy not in gone]
    print(f"prepared copies in {folder}:\n{cache.format_copies(left)}")


def write_report(path: Path, found: Examination):
    """Write the report and all findings as strict JSON."""
    content = found.report | {"findings": [f._asdict() for f in found.findings]}
    write_json(path, content | {"training_would_fail": found.fails})


def say_what_next(found: Examination, target: str | None):
    """Print the verdict; write the config and prepare the scans where that was asked for."""
    num_errors = sum(f.severity == "error" for f in found.findings)
    if num_errors:
        kept = f"; {target} is not written" if target else ""
        count = "the error" if num_errors == 1 else f"the {num_errors} kinds of errors"
        print(f"\nTraining would fail: mend {count} first{kept}.")
        return
    if not target:
        print("\nNothing stops a training. --write-config FILE writes the suggested config.")
        return
    prepare(found.config.dataset, found.config.split)
    path = Path(target).expanduser()
    replace_text(path, to_python(found.config))
    command = f"python -m jaxseg.train --config {shlex.quote(str(path))}"
    print(f"\nThe scans are prepared, the config is written. Train with\n  {command}")


if __name__ == "__main__":
    command_line.run(main)
