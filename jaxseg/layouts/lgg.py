"""The Kaggle set lgg-mri-segmentation: which of its files are which slices."""

from collections import defaultdict
from collections.abc import Iterable

from jaxseg.config import Dataset
from jaxseg.errors import UserError
from jaxseg.layouts.names import LGG_NAME, looks_like
from jaxseg.layouts.slices import Entry, Slice, pair

CHANNELS = ("t1", "flair", "t1c")  # T1c: after contrast; FLAIR stands in where one is missing
# The zip holds the set twice; the first of these that exists is read.
ROOTS = ("kaggle_3m", "lgg-mri-segmentation/kaggle_3m")


def is_slice(name: str) -> bool:
    """Tell whether a file is named like those of the set."""
    return bool(LGG_NAME.fullmatch(name.split("/")[-1]))


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
    matches = {n: LGG_NAME.fullmatch(n.split("/")[-1]) for n in names if _is_tiff(n)}
    if not any(matches.values()):
        looks = looks_like(names)
        raise UserError(
            "config.dataset.source: expected the folder kaggle_3m, its parent or the downloaded "
            "zip, with files TCGA_<institution>_<patient>_<date>_<slice>.tif; found "
            + (f"{len(names)} other files, such as {names[0]}" if names else "no files")
            + (f"; {looks}" if looks else "")
        )
    problems += [f"{n}: not named TCGA_..._<slice>.tif" for n, m in matches.items() if not m]
    entries = [Entry((m[1], m[2], int(m[3])), bool(m[4]), name) for name, m in matches.items() if m]
    slices = pair(entries, problems)
    dates = _dates(slices)
    problems += [
        f"{patient}: scans of several dates ({', '.join(sorted(found))}); keep one of them"
        for patient, found in dates.items()
        if len(found) > 1
    ]
    patients = defaultdict(list)
    for (patient, date, number), (image, mask) in slices.items():
        patients[_scan(patient, date, dates)].append(Slice(number, image, mask))
    return patients


def find_images(names: list[str]) -> dict[str, tuple[str, ...]]:
    """Return the images of each patient in order of the slices, for prediction.

    Patients are those of `find_slices`; scans on two dates are two volumes.
    """
    matches = {name: LGG_NAME.fullmatch(name.split("/")[-1]) for name in names}
    images = {name: m for name, m in matches.items() if m and not m[4]}
    dates, patients = _dates((m[1], m[2], m[3]) for m in images.values()), defaultdict(list)
    for name, m in images.items():
        patients[_scan(m[1], m[2], dates)].append((int(m[3]), name))
    return {p: tuple(name for _, name in sorted(found)) for p, found in sorted(patients.items())}


def _dates(slices: Iterable[tuple]) -> dict[str, set[str]]:
    """Return the dates of each patient, of (patient, date, number)."""
    dates = defaultdict(set)
    for patient, date, _ in slices:
        dates[patient].add(date)
    return dates


def _scan(patient: str, date: str, dates: dict[str, set[str]]) -> str:
    return patient if len(dates[patient]) == 1 else f"{patient}_{date}"


def _is_tiff(name: str) -> bool:
    return name.lower().endswith((".tif", ".tiff"))
