"""Which mask that people drew belongs to which patient that was predicted, by names alone.

Nothing is guessed: all folders of a mask must be those of the scan, its name that of the scan or
of its folder, and no mask may serve two patients. What is left without a mask is named.
"""

import re
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from jaxseg.errors import UserError
from jaxseg.layouts import names as says
from jaxseg.layouts.dicom_files import no_scan
from jaxseg.scans.dicom import SUFFIXES as DICOM_SUFFIXES
from jaxseg.scans.files import IMAGE_SUFFIXES, Files
from jaxseg.scans.scan_files import is_scan_file

_CHANNEL_NUMBER = re.compile(r"_\d{4}$")  # of nnU-Net: case_0000.nii.gz, truth case.nii.gz
_LAST_WORD = re.compile(r"[-_. ][^-_. ]+$")  # p1_flair.nii.gz, truth p1_seg.nii.gz


class Predicted(NamedTuple):
    """What is known of a prediction."""

    scan: Path  # where its scan is, or was
    slices: tuple[str, ...] = ()  # names of its slices; (): a volume in a file


def find_masks(files: Files) -> list[str]:
    """Return the masks among the files; where none is named as one, all that could be."""
    found = [n for n in files.stamps if n.lower().endswith(IMAGE_SUFFIXES) or is_scan_file(n)]
    found = [n for n in found if says.is_mask(n)] or found
    dicom = [n for n in files.stamps if n.lower().endswith(DICOM_SUFFIXES)]
    return found + [n for n in dicom if no_scan(files, n) == "segmentation"]


def assign(
    masks: Sequence[str], predicted: Mapping[str, Predicted]
) -> tuple[dict[str, tuple[str, ...]], dict[str, str]]:
    """Return the mask of each patient, one for a volume, else one for each slice.

    Args:
        masks: names of files, by `find_masks`.
        predicted: by the name of the patient.

    Returns:
        {patient: masks}, and {patient: why not} of the others.
    """
    slices, volumes = defaultdict(list), []
    for name in masks:
        if name.lower().endswith(IMAGE_SUFFIXES):
            for stem in {says.stem_of(name), says.image_stem(name)}:
                slices[stem].append(name)
        else:
            volumes.append(name)
    found, problems = {}, {}
    for patient, of in predicted.items():
        try:
            if of.slices:
                stems = [PurePosixPath(name).stem for name in of.slices]
                options = {stem: _fitting(slices[stem], patient, of.scan) for stem in stems}
            else:
                named = [n for n in volumes if _is_named(n, patient, of.scan)]
                options = {patient: _fitting(named, patient, of.scan)}
            found[patient] = tuple(_only(names, what) for what, names in options.items())
        except UserError as error:
            problems[patient] = str(error)
    uses = Counter(name for names in found.values() for name in names)
    for patient, names in list(found.items()):
        if twice := next((name for name in names if uses[name] > 1), None):
            problems[patient] = f"{twice} may be the truth of several patients"
            del found[patient]
    return found, problems


def _only(found: Sequence[str], what: str) -> str:
    if len(found) == 1:
        return found[0]
    if not found:
        raise UserError(f"no truth for {what}")
    raise UserError(f"{len(found)} masks may be the truth of {what}: {says.listed(list(found))}")


def _fitting(masks: Sequence[str], patient: str, scan: Path) -> list[str]:
    """Return the masks in folders of the scan's names; masks in no folder fit all."""
    known = {*scan.parts, *_wanted(patient, scan)}
    return [name for name in masks if known.issuperset(says.inner_folders(name))]


def _is_named(mask: str, patient: str, scan: Path) -> bool:
    """Tell whether a volume's mask has its name, or only says mask in a folder of its own."""
    stem = says.image_stem(mask)
    only_says_mask = says.is_mask(f"x/{stem}.nii") and says.image_stem(f"{stem}.nii") == stem
    return stem in _wanted(patient, scan) or (only_says_mask and bool(says.inner_folders(mask)))


def _wanted(patient: str, scan: Path) -> set[str]:
    """Return the names that a truth may have: of the scan, in shorter form, or of its folder."""
    stem, folder = says.stem_of(scan.name), scan.parent
    if folder.name.lower() in says.IMAGE_FOLDERS:
        folder = folder.parent
    shorter = {_CHANNEL_NUMBER.sub("", stem), _LAST_WORD.sub("", stem)}
    return {patient, stem, scan.name, folder.name, *shorter}
