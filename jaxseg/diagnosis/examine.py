"""All that the doctor finds out about a source, but for what training costs."""

import dataclasses
import shlex
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
from tqdm import tqdm

from jaxseg.config import Config, Dataset
from jaxseg.datasets.checks import read_volumes
from jaxseg.datasets.splits import check_split
from jaxseg.diagnosis import cost, examine_volumes, findings, noise
from jaxseg.diagnosis.facts import PatientFacts, best_threshold, measure, sum_up
from jaxseg.diagnosis.findings import Finding
from jaxseg.diagnosis.suggest import (
    FEW_PATIENTS,
    in_words,
    suggest_config,
    suggest_folds,
    suggest_split,
)
from jaxseg.diagnosis.volume_facts import VolumeFacts
from jaxseg.errors import UserError
from jaxseg.layouts import detect
from jaxseg.layouts.kinds import LGG, kind_of, list_source
from jaxseg.layouts.slices import Slice
from jaxseg.scans.files import Files, list_files


class Examination(NamedTuple):
    """All that was found out."""

    report: dict[str, Any]  # for JSON and page
    findings: list[Finding]
    config: Config | None  # suggested; None without patients
    facts: list[PatientFacts] | list[VolumeFacts]

    @property
    def fails(self) -> bool:
        """Whether training would fail."""
        return any(f.severity == "error" for f in self.findings)


def examine(source: str, given: Dataset, name: str | None) -> Examination:
    """Read a source and find out all but what training costs.

    Args:
        source: an existing path.
        given: with the settings of the data set as the user has them.
        name: layout; None: told by the files.

    Raises:
        UserError: name or a setting of `given` does not fit the files.
    """
    report = {"source": source}
    try:
        files = list_files(source, LGG.roots)
        layout = detect.detect(files)
    except UserError as error:
        report |= {"layout": "", "why": str(error)}
        return Examination(report, [Finding("error", str(error))], None, [])
    if name:
        layout = detect.Layout(name, f"you say so; by themselves: {layout.why}")
    report |= {"layout": layout.name, "why": layout.why}
    if not layout.name:
        return Examination(report, [Finding("error", layout.advice)], None, [])
    dataset = dataclasses.replace(given, name=layout.name, source=source)
    if kind_of(dataset).volumes:
        more, *others_found = examine_volumes.examine(dataset)
        return Examination(report | more, *others_found)
    files, problems, warnings = list_source(dataset), [], []
    patients, dataset = find_patients(dataset, files, problems)
    report["patients_by"] = patients_by(dataset, given)
    regions = kind_of(dataset).regions
    volumes = read_volumes(files, patients, regions, problems, warnings)
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
    summary = sum_up(facts)
    report |= {
        "facts": summary,
        "split": {name: _size(part) for name, part in parts.items()},
        "best_threshold": best_threshold(parts["train"], parts["test"]),
    }
    if kind_of(dataset).channels:  # as words and pages name them
        names = kind_of(dataset).channel_names(len(summary["intensities"]))
        report["channels"] = [name.upper() for name in names]
        if best := report["best_threshold"]:
            best["channel_name"] = report["channels"][best["channel"]]
    found = found + findings.of_split(made, problems)
    found += findings.of_facts(facts, summary)
    if len(facts) < FEW_PATIENTS:
        report["folds"] = in_words(suggest_folds(patients))
        found.append(findings.of_few(len(facts)))
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
        return kind_of(dataset).find(list(files.stamps), dataset, problems), dataset
    except UserError as error:
        if dataset.name != "image_folder" or _says_who(dataset):
            raise
        cause = str(error)
    guess = detect.guess_patient_regex(list(files.stamps))
    if guess is None:
        other = dataclasses.replace(dataset, every_image_is_a_patient=True)
        advice = "the numbers here take every image for a patient of its own"
    else:
        other = dataclasses.replace(dataset, patient_regex=guess)
        advice = f"if the numbers here look right, say so: --patient-regex={shlex.quote(guess)}"
    patients = kind_of(other).find(list(files.stamps), other, [])
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


def with_cost(found: Examination) -> Examination:
    """Add what training would cost on this machine, measured; patches are fitted to its memory."""
    config, facts, split = found.config, found.facts, found.report["split"]
    if len(config.input.image_size) == 3:
        config, more = examine_volumes.fitted(config, facts)
        load, num_channels = noise.patches(config, facts), len(facts[0].stored)
        work = examine_volumes.work(config, facts)
    else:
        load, num_channels, more = noise.slices(config, facts), facts[0].num_channels, {}
        sizes = (split[name]["slices"] for name in ("train", "validation"))
        work = cost.Work("slice", "slices", *sizes)
    estimate, warnings = cost.estimate(config, load, num_channels, work)
    report = found.report | {"cost": estimate} | more
    return found._replace(report=report, findings=found.findings + warnings, config=config)
