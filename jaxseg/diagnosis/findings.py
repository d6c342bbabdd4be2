"""What is wrong with a data set, or worth knowing, by severity."""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from jaxseg.datasets.checks import copy_warnings
from jaxseg.datasets.index import Patient
from jaxseg.diagnosis.facts import PatientFacts

SEVERITIES = ("error", "warning", "note")
_EXAMPLES = 3


class Finding(NamedTuple):
    """One line of the doctor's list."""

    severity: str  # one of SEVERITIES; with an error training would fail
    text: str
    where: tuple[str, ...] = ()  # files or patients, all of them


def of_lines(severity: str, lines: Iterable[str]) -> list[Finding]:
    """Return the guard's lines `where: what`; those of the same `what` are one finding."""
    groups = defaultdict(list)
    for line in lines:
        where, colon, what = line.partition(": ")
        groups[what if colon else line].append(where if colon else "")
    return [Finding(severity, what, tuple(filter(None, places))) for what, places in groups.items()]


def shown(finding: Finding) -> str:
    """Return a finding in words, with three of its places at most."""
    first = ", ".join(finding.where[:_EXAMPLES])
    if len(finding.where) < 2:
        return f"{first}: {finding.text}" if first else finding.text
    more = ", ..." if len(finding.where) > _EXAMPLES else ""
    return f"{finding.text} ({len(finding.where)}: {first}{more})"


def of_split(made: Mapping[str, Sequence[Patient]], problems: Sequence[str]) -> list[Finding]:
    """Return what `splits.check_split` found, and copies within a part; across it is an error."""
    found = of_lines("error", problems)
    for part in made.values():
        found += of_lines("warning", copy_warnings(part))
    return found


def of_few(number: int) -> Finding:
    """Return the warning that so many patients are few."""
    text = f"{number} patients are few: the score of a single split is a matter of luck"
    return Finding("warning", text)


def of_facts(facts: Sequence[PatientFacts], summary: dict[str, Any]) -> list[Finding]:
    """Return what the measured numbers say; none of it stops a training."""
    found = [*_ids(facts), *of_channels(facts)]
    if len(summary["sizes"]) > 1:
        sizes = ", ".join(f"{size} ({n})" for size, n in summary["sizes"].items())
        found.append(Finding("note", f"patients of different sizes, all brought to one: {sizes}"))
    covered = [
        f.patient.id
        for f in facts
        if 2 * f.tumour_voxels > f.patient.num_slices * f.size[0] * f.size[1]
    ]
    if covered:
        text = "tumour in more than half of all pixels; are the masks inverted?"
        found.append(Finding("warning", text, tuple(covered)))
    empty = tuple(f.patient.id for f in facts if not f.tumour_voxels)
    if empty:
        text = "no tumour in any slice; an empty prediction scores 1 there, any other 0"
        found.append(Finding("note", text, empty))
    if len(summary["mask_values"]) > 1:
        values = ", ".join(f"{v} in {n} masks" for v, n in summary["mask_values"].items())
        found.append(
            Finding("note", f"tumour is marked by different values, taken alike: {values}")
        )
    if summary["blank_slices"]:
        text = f"{summary['blank_slices']} slices are blank, the same value everywhere"
        found.append(Finding("note", text))
    return found


def _ids(facts: Sequence[PatientFacts]) -> list[Finding]:
    if sum(f.patient.num_slices == 1 for f in facts) <= len(facts) / 2:
        return []
    text = (
        "most patients have a single slice; if some of these images show the same person, their "
        "ids are wrong and every score is inflated"
    )
    return [Finding("warning", text)]


def of_channels(facts: Sequence[Any]) -> list[Finding]:
    """Return a note on channels that are the same image; facts have `patient`, `equal_channels`."""
    groups = defaultdict(list)
    for f in facts:
        for channels in f.equal_channels:
            groups[channels].append(f.patient.id)
    found = []
    for channels, ids in sorted(groups.items()):
        text = f"channels {', '.join(str(c + 1) for c in channels)} are the same image"
        if len(ids) == len(facts):
            text += " in every patient; where this is grey saved as colour, save it as grey"
            found.append(Finding("note", text))
        else:
            found.append(Finding("note", f"{text}: a sequence missing there?", tuple(ids)))
    return found
