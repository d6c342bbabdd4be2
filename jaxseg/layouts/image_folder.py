"""A user's own slices in folders: which files are which slices of which patient.

Understood are `images/` + `masks/` (same stem, or stem + `_mask`), one folder per patient with
`_mask` files beside the images, and one folder per patient with `images/` + `masks/` inside. Other
usual names of masks, in any capitals, are in `names.py`.
"""

import re
from collections import defaultdict
from pathlib import PurePosixPath

from jaxseg import config
from jaxseg.errors import UserError
from jaxseg.layouts import names as says
from jaxseg.layouts.slices import Entry, Slice, pair
from jaxseg.scans.files import IMAGE_SUFFIXES

LAYOUT = (
    "expected images/ + masks/ (same stem, or stem + _mask), or one folder per patient with "
    "_mask files beside the images or images/ + masks/ inside; PNG, TIFF or JPEG"
)


def find_slices(
    names: list[str], dataset: config.Dataset, problems: list[str]
) -> dict[str, list[Slice]]:
    """Return the slices of each patient; problems with names are appended.

    The patient is the first group of `dataset.patient_regex` in the stem; without a regex it
    is the folder of the patient. The slice number is the last integer in the stem; where a
    patient's numbers are missing or repeat, slices are counted from 0 in natural order.

    Args:
        names: file names relative to the source.
        dataset: settings patient_regex and every_image_is_a_patient.
        problems: what is wrong is appended, one line each.

    Raises:
        UserError: no images, no patient ids, or settings that contradict each other.
    """
    regex = _compile(dataset)
    num_images, num_masks = count(names)
    if not num_images or not num_masks:
        looks = says.looks_like(names)
        raise UserError(
            f"config.dataset.source: {LAYOUT}; found {num_images} images and {num_masks} masks "
            f"among {len(names)} files" + (f"; {looks}" if looks else "") + _unread_masks(names)
        )
    entries = _without_common_folder(_entries(names))
    problems += [f"{n}: neither PNG, TIFF nor JPEG" for n in names if _is_stray(n)]
    slices = defaultdict(list)
    for key, files in pair(entries, problems).items():
        patient = _patient(key, dataset, regex, problems)
        if patient:
            slices[patient].append((key, files))
    return {patient: _number(found) for patient, found in slices.items()}


def count(names: list[str]) -> tuple[int, int]:
    """Return how many of the files are images, and how many are masks."""
    num_masks = sum(e.is_mask for e in _entries(names))
    return len(_entries(names)) - num_masks, num_masks


def image_stems(names: list[str]) -> list[str]:
    """Return the stems of the images, without the masks."""
    return [e.key[1] for e in _entries(names) if not e.is_mask]


def _entries(names: list[str]) -> list[Entry]:
    """Return the files under the key (folders without images/ and masks/, stem of the image)."""
    slices = [name for name in names if name.lower().endswith(IMAGE_SUFFIXES)]
    found = [(name, says.is_mask(name), says.inner_folders(name)) for name in slices]
    images = {(inside, says.stem_of(name)) for name, is_mask, inside in found if not is_mask}
    entries = []
    for name, is_mask, inside in found:
        key = (inside, says.stem_of(name))
        if is_mask and not (says.in_masks(name) and key in images):
            key = (inside, says.image_stem(name))
        entries.append(Entry(key, is_mask, name))
    return entries


def find_images(names: list[str], dataset: config.Dataset) -> dict[str, tuple[str, ...]]:
    """Return the images of each patient in order of the slices, for prediction.

    Masks are left out. Patients and slice numbers are told as by `find_slices`; where no
    setting does, a patient is a folder, and "" is the source itself.

    Args:
        names: file names relative to the source.
        dataset: settings patient_regex and every_image_is_a_patient.

    Raises:
        UserError: settings that contradict each other.
    """
    regex = _compile(dataset)
    found = defaultdict(list)
    images = [entry for entry in _entries(names) if not entry.is_mask]
    for (folders, stem), _, name in _without_common_folder(images):
        match = regex and regex.search(stem)
        patient = match[1] if match and match[1] else "/".join(folders)
        if dataset.every_image_is_a_patient:
            patient = "/".join((*folders, stem))
        found[patient].append(((folders, stem), (name, "")))
    return {p: tuple(s.image for s in sorted(_number(files))) for p, files in sorted(found.items())}


def _compile(dataset: config.Dataset) -> re.Pattern | None:
    text = dataset.patient_regex
    if text is None:
        return None
    if dataset.every_image_is_a_patient:
        raise UserError("config.dataset: give patient_regex or every_image_is_a_patient, not both")
    try:
        regex = re.compile(text)
    except re.error as error:
        raise UserError(f"config.dataset.patient_regex={text!r}: {error}") from None
    if not regex.groups:
        raise UserError(
            f"config.dataset.patient_regex={text!r}: needs a group, as in '(case\\d+)_'"
        )
    return regex


def _without_common_folder(entries: list[Entry]) -> list[Entry]:
    """Drop a folder around everything, as zip files have it, unless it is the only one."""
    folders = [e.key[0] for e in entries]
    if len({f[:1] for f in folders}) > 1 or not all(len(f) > 1 for f in folders):
        return entries
    return [e._replace(key=(e.key[0][1:], e.key[1])) for e in entries]


def _is_stray(name: str) -> bool:
    """Tell whether a file has the place or the name of a slice, but none of the formats."""
    folders = [folder.lower() for folder in PurePosixPath(name).parts[:-1]]
    if name.lower().endswith((*IMAGE_SUFFIXES, ".txt", ".csv", ".db", ".json")):
        return False
    in_place = says.in_masks(name) or any(f in says.IMAGE_FOLDERS for f in folders)
    return in_place or bool(says.is_mask(name) and says.unread([name]))


def _unread_masks(names: list[str]) -> str:
    lines = says.unread([name for name in names if says.is_mask(name)])
    return "".join(f"; {line}: masks can be read from PNG and TIFF" for line in lines)


def _patient(
    key: tuple, dataset: config.Dataset, regex: re.Pattern | None, problems: list[str]
) -> str | None:
    folders, stem = key
    path = "/".join((*folders, stem))
    if dataset.every_image_is_a_patient:
        return path
    if regex:
        match = regex.search(stem)
        if not match or not match[1]:
            problems.append(f"{path}: config.dataset.patient_regex does not match")
        return match and match[1]
    if not folders:
        raise UserError(
            "config.dataset: the files do not tell which patient they belong to, and slices of "
            "one patient in train and test would inflate the score; set patient_regex (its first "
            "group in the stem is the patient), or every_image_is_a_patient=True if it is so"
        )
    if folders[0].lower() in _SPLITS:
        problems.append(f"{path}: the folder names a split, no patient; set patient_regex")
    elif len(folders) > 1:
        problems.append(f"{path}: folders in the folder of a patient; set patient_regex")
    return folders[0]


_SPLITS = ("train", "training", "val", "valid", "validation", "test", "testing")
_LARGEST_NUMBER = 99_999  # larger integers in a file name are dates or ids, no slice numbers


def _number(found: list[tuple[tuple, tuple[str, str]]]) -> list[Slice]:
    integers = [re.findall(r"\d+", stem)[-1:] for (_, stem), _ in found]
    numbers = [int(i[0]) for i in integers if i]
    if len(set(numbers)) < len(found) or max(numbers) > _LARGEST_NUMBER:
        found = sorted(found, key=lambda item: _natural(item[0][1]))
        numbers = range(len(found))
    return [Slice(n, *files) for n, (_, files) in zip(numbers, found, strict=True)]


def _natural(stem: str) -> list[tuple[str, int]]:
    """Sort key that places a2 before a10."""
    return [(text, int(digits or -1)) for text, digits in re.findall(r"(\D*)(\d*)", stem)]
