"""Say what a data set is and what is wrong with it: python -m jaxseg.doctor SOURCE.

SOURCE is a folder or zip of scans. Every file is read, nothing is changed. The page says what
was found, how patients are told apart, what trivial predictors score, what training would cost
here, and lists errors, warnings and notes.

  --write-config FILE          write the suggested config, and prepare the scans for training
  --patient-regex REGEX        its first group in a file's stem is the patient
  --every-image-is-a-patient   state it when it is so
  --name NAME                  lgg_mri or image_folder; by default told by the files' names
  --no-timing                  do not measure a training step
  --json FILE                  write all numbers and findings

Exit code 0, 1 when training would fail, 2 with one line on what to mend in the command.
"""

import dataclasses
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
from absl import flags
from tqdm import tqdm

from jaxseg import cli, cost, findings, workdir
from jaxseg.compile_cache import keep_compiled_programs
from jaxseg.config import Config, Dataset, Split
from jaxseg.dataset_facts import PatientFacts, best_threshold, measure, summarise
from jaxseg.datasets import find_slices, layouts, lgg, list_source, prepare
from jaxseg.datasets.checks import copy_warnings, read_volumes
from jaxseg.datasets.files import Files, Slice, list_files
from jaxseg.datasets.splits import check_split
from jaxseg.doctor_page import format_page
from jaxseg.errors import UserError
from jaxseg.findings import Finding
from jaxseg.suggest import FEW_PATIENTS, suggest_config, suggest_folds, suggest_split, to_python


class Examination(NamedTuple):
    """All that was found out."""

    report: dict[str, Any]  # for JSON and page
    findings: list[Finding]
    config: Config | None  # suggested; None without patients
    facts: list[PatientFacts]

    @property
    def fails(self) -> bool:
        """Whether training would fail."""
        return any(f.severity == "error" for f in self.findings)


def examine(source: str, given: Dataset, name: str | None) -> Examination:
    """Read a source and find out all but what training costs.

    Args:
        source: an existing path.
        given: with patient_regex and every_image_is_a_patient as the user has them.
        name: layout; None: told by the files.

    Raises:
        UserError: name or a setting of `given` does not fit the files.
    """
    report = {"source": source}
    try:
        files = list_files(source, lgg.ROOTS)
        layout = layouts.detect(files)
    except UserError as error:
        report |= {"layout": "", "why": str(error)}
        return Examination(report, [Finding("error", str(error))], None, [])
    if name:
        layout = layouts.Layout(name, f"you say so by --name; by themselves: {layout.why}")
    report |= {"layout": layout.name, "why": layout.why}
    if not layout.name:
        return Examination(report, [Finding("error", layout.advice)], None, [])
    dataset = dataclasses.replace(given, name=layout.name, source=source)
    files, problems, warnings = list_source(dataset), [], []
    patients, dataset = find_patients(dataset, files, problems)
    report["patients_by"] = patients_by(dataset, given)
    volumes = read_volumes(files, patients, problems, warnings)
    shown = tqdm(volumes, "reading", len(patients), unit="patient", leave=False, disable=None)
    facts = [measure(volume, position) for position, (volume, _) in enumerate(shown)]
    found = [*findings.of_lines("error", problems), *findings.of_lines("warning", warnings)]
    found += others(files, patients, problems)
    if not facts:
        text = "no patient could be read" if patients else "no patient has image and mask"
        return Examination(report, [*found, Finding("error", text)], None, [])
    return judge(report, found, facts, dataset)


def judge(
    report: dict[str, Any], found: list[Finding], facts: list[PatientFacts], dataset: Dataset
) -> Examination:
    """Add to the report what the facts say: summary, split, baselines, config, findings."""
    patients = [f.patient for f in facts]
    split = suggest_split(patients)
    made, problems = check_split(patients, split)
    by_id = {f.patient.id: f for f in facts}
    parts = {name: [by_id[p.id] for p in part] for name, part in made.items()}
    summary = summarise(facts)
    report |= {
        "facts": summary,
        "split": {name: _size(part) for name, part in parts.items()},
        "best_threshold": best_threshold(parts["train"], parts["test"]),
    }
    found = found + findings.of_lines("error", problems)
    for part in made.values():  # copies in different parts are errors of the split
        found += findings.of_lines("warning", copy_warnings(part))
    found += findings.of_facts(facts, summary)
    if len(facts) < FEW_PATIENTS:
        report["folds"] = _folds(suggest_folds(patients))
        text = f"{len(facts)} patients are few: the score of a single split is a matter of luck"
        found.append(Finding("warning", text))
    on_cpu, num_devices = jax.default_backend() == "cpu", jax.device_count()
    config = suggest_config(dataset, facts, split, not on_cpu, num_devices)
    report["suggested"] = dataclasses.asdict(config)
    return Examination(report, found, config, facts)


def find_patients(
    dataset: Dataset, files: Files, problems: list[str]
) -> tuple[dict[str, list[Slice]], Dataset]:
    """Return the slices of each patient, and the settings that found them.

    Where the files do not tell the patients, that is a problem, and a guess serves the
    statistics: a pattern in the names, else every image by itself.

    Raises:
        UserError: the user's own settings do not fit the files.
    """
    try:
        return find_slices(dataset, files, problems), dataset
    except UserError as error:
        if dataset.name != "image_folder" or _says_who(dataset):
            raise
        cause = str(error)
    guess = layouts.guess_patient_regex(list(files.stamps))
    if guess is None:
        other = dataclasses.replace(dataset, every_image_is_a_patient=True)
        advice = "the numbers here take every image for a patient of its own"
    else:
        other = dataclasses.replace(dataset, patient_regex=guess)
        advice = f"if the numbers here look right, say so: --patient-regex={shlex.quote(guess)}"
    patients = find_slices(other, files, [])
    problems.append(f"{cause.removeprefix('config.dataset: ')}; {advice}")
    return patients, other


def patients_by(dataset: Dataset, given: Dataset) -> str:
    """Say in words how patients are told apart."""
    guessed = "" if _says_who(given) else ", a GUESS that you must confirm"
    if dataset.name == "lgg_mri":
        return "TCGA_<institution>_<patient> in the file's name"
    if dataset.patient_regex:
        return f"the first group of {dataset.patient_regex} in the file's stem{guessed}"
    if dataset.every_image_is_a_patient:
        return f"nothing: every image is taken for a patient{guessed}"
    return "the folder"


def _says_who(dataset: Dataset) -> bool:
    return dataset.patient_regex is not None or dataset.every_image_is_a_patient


def others(
    files: Files, patients: dict[str, list[Slice]], problems: Sequence[str]
) -> list[Finding]:
    """Return a note on the files that are no part of a slice, nor named by a problem."""
    used = {name for slices in patients.values() for s in slices for name in (s.image, s.mask)}
    used |= {line.partition(": ")[0] for line in problems}
    unused = tuple(name for name in files.stamps if name not in used)
    return [Finding("note", "neither image nor mask, not read", unused)] if unused else []


def _size(facts: Sequence[PatientFacts]) -> dict[str, int]:
    tumour = sum(n > 0 for f in facts for n in f.patient.tumour_pixels)
    slices = sum(f.patient.num_slices for f in facts)
    return {"patients": len(facts), "slices": slices, "tumour_slices": tumour}


def _folds(first: Split | None) -> str | None:
    if first is None:
        return None
    return (
        f"tests on every patient: --config.split.num_folds={first.num_folds} "
        f"--config.split.salt={first.salt} and --config.split.fold=0 to {first.num_folds - 1}"
    )


def main(argv: Sequence[str]):
    """Run the program; see the top of the file."""
    flags.DEFINE_string("write-config", None, "file for the suggested config")
    flags.DEFINE_string("patient-regex", None, "its first group in a file's stem is the patient")
    flags.DEFINE_boolean("every-image-is-a-patient", False, "state it when it is so")
    flags.DEFINE_enum("name", None, ["lgg_mri", "image_folder"], "layout")
    flags.DEFINE_boolean("timing", True, "measure a training step")
    flags.DEFINE_string("json", None, "file for all numbers and findings")
    sources = cli.parse_arguments([_plain(a) for a in argv], __doc__)
    options = flags.FLAGS
    if len(sources) != 1:
        raise UserError("which scans? Give one folder or zip (see --help)")
    source = Path(sources[0]).expanduser().absolute()
    if not source.exists():
        raise UserError(f"{source}: does not exist")
    target = options["write-config"].value
    for path in filter(None, (target, options.json)):
        if not Path(path).expanduser().absolute().parent.is_dir():
            raise UserError(f"{path}: its folder does not exist")
        if Path(path).expanduser().is_dir():
            raise UserError(f"{path}: is a folder; give the name of a file")
    if target and Path(target).expanduser().exists():
        raise UserError(f"--write-config {target}: exists; give another name or remove it")
    given = Dataset(
        patient_regex=options["patient-regex"].value,
        every_image_is_a_patient=options["every-image-is-a-patient"].value,
    )
    keep_compiled_programs()
    found = examine(str(source), given, options.name)
    if found.config is not None and options.timing:
        found = with_cost(found)
    print(format_page(found.report, found.findings), flush=True)
    if options.json:
        write_report(Path(options.json).expanduser(), found)
    say_what_next(found, target)
    if found.fails:
        sys.exit(1)


def _plain(argument: str) -> str:
    """Return absl's spelling of a switch."""
    return "--notiming" if argument in ("--no-timing", "-no-timing") else argument


def with_cost(found: Examination) -> Examination:
    """Add what training would cost on this machine, measured."""
    estimate, more = cost.estimate(found.config, found.facts, found.report["split"])
    return found._replace(report=found.report | {"cost": estimate}, findings=found.findings + more)


def write_report(path: Path, found: Examination):
    """Write the report and all findings as strict JSON."""
    content = found.report | {"findings": [f._asdict() for f in found.findings]}
    workdir.write_json(path, content | {"training_would_fail": found.fails})


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
    workdir.replace_text(path, to_python(found.config))
    command = f"python -m jaxseg.train --config {shlex.quote(str(path))}"
    print(f"\nThe scans are prepared, the config is written. Train with\n  {command}")


if __name__ == "__main__":
    cli.run(main)
