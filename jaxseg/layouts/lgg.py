"""The Kaggle set lgg-mri-segmentation: which of its files are which slices."""

import re
from collections import defaultdict

from jaxseg.config import Dataset
from jaxseg.errors import UserError
from jaxseg.layouts.slices import Entry, Slice, pair

CHANNELS = ("t1", "flair", "t1c")  # T1c: after contrast; FLAIR stands in where one is missing
# The zip holds the set twice; the first of these that exists is read.
ROOTS = ("kaggle_3m", "lgg-mri-segmentation/kaggle_3m")
_NAME = re.compile(r"(TCGA_[^_/]+_[^_/]+)_(\d+)_(\d+)(_mask)?\.tiff?", re.IGNORECASE)


def is_slice(name: str) -> bool:
    """Tell whether a file is named like those of the set."""
    return bool(_NAME.fullmatch(name.split("/")[-1]))


def find_slices(names: list[str], settings: Dataset, problems: list[str]) -> dict[str, list[Slice]]:
    """Return the slices of each patient; problems with names are appended.

    Names are `TCGA_<institution>_<patient>_<date>_<slice>.tif`, masks `..._mask.tif`, in any
    folder; files of other types are left out. The patient is `TCGA_<institution>_<patient>`.
    Scans of one patient on two dates are a problem: they are two volumes, of which the set
    has room for one.

    Args:
        names: file names relative to the root.
        settings: none is used.
        problems: what is wrong is appended, one line each.

    Raises:
        UserError: no file has such a name.
    """
    matches = {n: _NAME.fullmatch(n.split("/")[-1]) for n in names if _is_tiff(n)}
    if not any(matches.values()):
        raise UserError(
            "config.dataset.source: expected the folder kaggle_3m, its parent or the downloaded "
            "zip, with files TCGA_<institution>_<patient>_<date>_<slice>.tif; found "
            + (f"{len(names)} other files, such as {names[0]}" if names else "no files")
        )
    problems += [f"{n}: not named TCGA_..._<slice>.tif" for n, m in matches.items() if not m]
    entries = [Entry((m[1], m[2], int(m[3])), bool(m[4]), name) for name, m in matches.items() if m]
    slices = pair(entries, problems)
    dates = defaultdict(set)
    for patient, date, _ in slices:
        dates[patient].add(date)
    problems += [
        f"{patient}: scans of several dates ({', '.join(sorted(found))}); keep one of them"
        for patient, found in dates.items()
        if len(found) > 1
    ]
    patients = defaultdict(list)
    for (patient, date, number), (image, mask) in slices.items():
        scan = patient if len(dates[patient]) == 1 else f"{patient}_{date}"
        patients[scan].append(Slice(number, image, mask))
    return patients


def _is_tiff(name: str) -> bool:
    return name.lower().endswith((".tif", ".tiff"))
