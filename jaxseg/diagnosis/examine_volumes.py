"""What the doctor finds out about a volume set."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import jax
from tqdm import tqdm

from jaxseg.config import Config, Dataset
from jaxseg.datasets.index import Patient
from jaxseg.datasets.splits import check_split, place
from jaxseg.datasets.volume_checks import read_cases
from jaxseg.diagnosis import findings
from jaxseg.diagnosis.cost import Work, step_budget
from jaxseg.diagnosis.findings import Finding
from jaxseg.diagnosis.suggest import (
    FEW_PATIENTS,
    in_words,
    num_persons,
    suggest_folds,
    suggest_split,
)
from jaxseg.diagnosis.suggest_volumes import (
    fit_memory,
    median_grid,
    num_patches,
    suggest_config,
)
from jaxseg.diagnosis.volume_facts import VolumeFacts, measure, sum_up
from jaxseg.errors import UserError
from jaxseg.layouts.cases import Case
from jaxseg.layouts.kinds import DataSet, kind_of, list_source, told_by_files
from jaxseg.layouts.names import listed, unread
from jaxseg.scans.files import Files
from jaxseg.scans.regions import to_texts


def examine(
    dataset: Dataset,
) -> tuple[dict[str, Any], list[Finding], Config | None, list[VolumeFacts]]:
    """Read a volume set.

    What the settings or a dataset.json say wrong is a finding too.

    Returns:
        What the report gets, the findings, the suggested config, and facts of each case.
    """
    report, problems, warnings = {}, [], []
    try:
        dataset = told_by_files(dataset)
        files, kind = list_source(dataset), kind_of(dataset)
        cases = kind.find(list(files.stamps), dataset, problems)
    except UserError as error:
        return report, [Finding("error", str(error))], None, []
    report["patients_by"] = _persons_by(dataset, cases)
    report["labels_mean"] = list(to_texts(kind.regions))
    report["settings"] = {
        "channel_names": list(kind.channels),
        "regions": list(dataset.regions),
    }
    volumes = read_cases(files, cases, kind.regions, problems, warnings)
    shown = tqdm(volumes, "reading", len(cases), unit="scan", leave=False, disable=None)
    facts = [measure(volume) for volume, _ in shown]
    found = [*findings.of_lines("error", problems), *findings.of_lines("warning", warnings)]
    found += _others(files, cases, problems)
    if not facts:
        text = "no scan could be read" if cases else "no scan has all its images and its labels"
        return report, [*found, Finding("error", text)], None, []
    used = {name for case in cases.values() for name in (*case.images, case.mask)}
    size = sum(files.stamps[name][0] for name in used)
    report["volumes"] = sum_up(facts, kind.channels, kind.regions, size)
    config = _suggested(report, found, facts, dataset)
    return report, found + _of_facts(facts), config, facts


def _suggested(
    report: dict[str, Any], found: list[Finding], facts: Sequence[VolumeFacts], dataset: Dataset
) -> Config:
    """Return the suggested config; add it and its split to report and findings."""
    patients = [f.patient for f in facts]
    split = suggest_split(patients)
    made, problems = check_split(patients, split)
    if (persons := num_persons(patients)) < len(made):
        some = "1 person" if persons == 1 else f"{persons} persons"
        problems = [f"scans of {some}: training needs three, for train, validation and test"]
    broken = any(f.severity == "error" for f in found)  # mended scans make another split
    found += findings.of_split({"all": patients} if broken else made, [] if broken else problems)
    report["split"] = {name: _size(part, kind_of(dataset)) for name, part in made.items()}
    if persons < FEW_PATIENTS:
        report["folds"] = in_words(suggest_folds(patients))
        found.append(findings.of_few(persons))
    on_cpu, num_devices = jax.default_backend() == "cpu", jax.device_count()
    config = suggest_config(dataset, facts, split, not on_cpu, num_devices)
    report |= _of_config(config, facts)
    return config


def _size(part: Sequence[Patient], kind: DataSet) -> dict[str, Any]:
    having = {
        name: sum(p.region_voxels[k] > 0 for p in part) for k, name in enumerate(kind.region_names)
    }
    return {"scans": len(part), "persons": num_persons(part), "regions": having}


def _of_config(config: Config, facts: Sequence[VolumeFacts]) -> dict[str, Any]:
    shape, spacing = median_grid(facts, config)
    median = {"size": shape, "spacing_mm": spacing}
    return {"suggested": dataclasses.asdict(config), "median_scan": median}


def fitted(config: Config, facts: Sequence[VolumeFacts]) -> tuple[Config, dict[str, Any]]:
    """Return the config whose training step fits the device's memory, and lines of the report."""
    budget = step_budget()
    config, tried = fit_memory(config, facts, budget)
    return config, _of_config(config, facts) | {"tried": tried, "budget_bytes": budget}


def work(config: Config, facts: Sequence[VolumeFacts]) -> Work:
    """Return what there is to do: a patch of each scan is an epoch."""
    made = place([f.patient for f in facts], config.split)
    validated = {p.id for p in made["validation"]}
    patches = num_patches(config, [f for f in facts if f.patient.id in validated])
    return Work("patch", "patches", len(made["train"]), patches)


def _persons_by(dataset: Dataset, cases: Mapping[str, Case]) -> str:
    if dataset.patient_regex:
        return f"the first group of {dataset.patient_regex} in the name of a scan"
    several = [f"{c.group} of {name}" for name, c in cases.items() if c.group != name]
    if several:
        return f"the name of a scan without its time point, as {several[0]}"
    return "the name of a scan: each is taken for a person"


def _of_facts(facts: Sequence[VolumeFacts]) -> list[Finding]:
    """Return what the measured numbers say; none of it stops a training."""
    found = findings.of_channels(facts)
    empty = tuple(f.patient.id for f in facts if not f.region_ml.any())
    if empty:
        found.append(Finding("note", "no tumour at all in the label file", empty))
    return found


def _others(files: Files, cases: Mapping[str, Case], problems: Sequence[str]) -> list[Finding]:
    """Return notes on the files that belong to no case, and on those that cannot be read."""
    used = {name for case in cases.values() for name in (*case.images, case.mask)}
    used |= {line.partition(": ")[0] for line in problems}
    broken = [line.split(" (")[0].removeprefix("patient ") for line in problems if " (" in line]
    unused = tuple(
        name
        for name in files.stamps
        if name not in used and not any(case in name for case in broken)
    )
    found = [Finding("note", "neither image nor label of a scan, not read", unused)]
    lines = unread(list(unused))
    note = f"formats that jaxseg does not read, convert them to NIfTI: {listed(lines)}"
    return found * bool(unused) + [Finding("note", note)] * bool(lines)
