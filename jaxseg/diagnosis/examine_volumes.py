"""What the doctor finds out about a volume set."""

from collections.abc import Mapping, Sequence
from typing import Any

from tqdm import tqdm

from jaxseg.config import Dataset
from jaxseg.datasets.checks import copy_warnings
from jaxseg.datasets.volume_checks import read_cases
from jaxseg.diagnosis import findings
from jaxseg.diagnosis.findings import Finding
from jaxseg.diagnosis.volume_facts import VolumeFacts, measure, sum_up
from jaxseg.errors import UserError
from jaxseg.layouts.cases import Case
from jaxseg.layouts.kinds import kind_of, list_source, told_by_files
from jaxseg.layouts.names import listed, unread
from jaxseg.scans.files import Files
from jaxseg.scans.regions import to_texts


def examine(dataset: Dataset) -> tuple[dict[str, Any], list[Finding], list[VolumeFacts]]:
    """Read a volume set; return what the report gets, the findings, and facts of each case.

    What the settings or a dataset.json say wrong is a finding too.
    """
    report, problems, warnings = {}, [], []
    try:
        dataset = told_by_files(dataset)
        files, kind = list_source(dataset), kind_of(dataset)
        cases = kind.find(list(files.stamps), dataset, problems)
    except UserError as error:
        return report, [Finding("error", str(error))], []
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
        return report, [*found, Finding("error", text)], []
    used = {name for case in cases.values() for name in (*case.images, case.mask)}
    size = sum(files.stamps[name][0] for name in used)
    report["volumes"] = sum_up(facts, kind.channels, kind.regions, size)
    return report, found + _of_facts(facts), facts


def _persons_by(dataset: Dataset, cases: Mapping[str, Case]) -> str:
    if dataset.patient_regex:
        return f"the first group of {dataset.patient_regex} in the name of a scan"
    several = [f"{c.group} of {name}" for name, c in cases.items() if c.group != name]
    if several:
        return f"the name of a scan without its time point, as {several[0]}"
    return "the name of a scan: each is taken for a person"


def _of_facts(facts: Sequence[VolumeFacts]) -> list[Finding]:
    """Return what the measured numbers say; none of it stops a training."""
    found = findings.of_lines("warning", copy_warnings([f.patient for f in facts]))
    found += findings.of_channels(facts)
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
