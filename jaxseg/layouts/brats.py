"""BraTS folders of every year, and sets that are named alike: UCSF-PDGM, UPENN-GBM, BRATS 2015.

One file for each sequence, named at its end; which case a file belongs to is said by what stands
before, or by the folder where nothing does. So it does not matter whether each case has a folder.
"""

import re
from collections import defaultdict
from pathlib import PurePosixPath

from jaxseg.config import Dataset
from jaxseg.errors import UserError
from jaxseg.layouts.cases import Case, make_cases, put, told
from jaxseg.layouts.names import SEQUENCES, TRUTH, sequence_of, unread
from jaxseg.scans.files import Files
from jaxseg.scans.regions import PRESETS, Region

# The first that some case is named like; else as to 2021, by whose values most sets are marked.
_YEARS = (
    (re.compile(r"BraTS-[A-Z]+-\d+", re.IGNORECASE), "brats2023"),
    (re.compile(r"brats_(2013|tcia)_pat", re.IGNORECASE), "brats2015"),
)


def find_cases(names: list[str], config: Dataset, problems: list[str]) -> dict[str, Case]:
    """Return the cases by id, with the sequences of config.dataset.channel_names; see `tell`."""
    _check_sequences(config.channel_names)
    found, masks = _sort(names, problems)
    channels = config.channel_names or _sequences(found)
    return make_cases(found, masks, channels, config, problems)


def sort_images(
    names: list[str], config: Dataset, problems: list[str]
) -> dict[str, dict[str, str]]:
    """Return {case: {sequence: file}} of scans, whether they have labels or not; doubles go to
    problems."""
    return _sort([name for name in names if sequence_of(name)[1] != TRUTH], problems)[0]


def tell(files: Files, config: Dataset) -> Dataset:
    """Return the settings with the sequences that some case has, and the regions of the year.

    Raises:
        UserError: no file is named as a sequence; a channel that is none.
    """
    _check_sequences(config.channel_names)
    names = list(files.stamps)
    found, _ = _sort(names, [])
    if not found:
        about = "; ".join(f"{line}, which jaxseg does not read" for line in unread(names))
        raise UserError(
            f"{files.path}: no files named as BraTS names them (..._t1.nii.gz, _t1ce, _t2, "
            f"_flair, -t1n, -t1c, -t2w, -t2f) among {len(names)} files" + (about and f"; {about}")
        )
    return told(config, _sequences(found), regions_of(found))


def regions_of(cases) -> tuple[Region, ...]:
    """Return what the labels mean in the year that the ids of cases tell."""
    found = (year for pattern, year in _YEARS if any(pattern.search(case) for case in cases))
    return PRESETS[next(found, "brats2021")]


def count(names: list[str]) -> tuple[int, int]:
    """Return how many cases have two sequences or more, and how many label files there are."""
    found, masks = _sort(names, [])
    return sum(len(files) > 1 for files in found.values()), len(masks)


def _sequences(found: dict[str, dict[str, str]]) -> tuple[str, ...]:
    return tuple(s for s in SEQUENCES if any(s in files for files in found.values()))


def _check_sequences(names: tuple[str, ...]):
    for name in names:
        if name not in SEQUENCES:
            raise UserError(
                f"config.dataset.channel_names={names}: no sequence {name!r} of brats; choose "
                f"from {', '.join(SEQUENCES)}, in any order"
            )


def _sort(
    names: list[str], problems: list[str]
) -> tuple[dict[str, dict[str, str]], dict[str, str]]:
    """Return {case: {sequence: file}} and {case: file of labels}; doubles go to problems."""
    found, masks = defaultdict(dict), {}
    for name in names:
        case, sequence = sequence_of(name)
        if sequence == TRUTH:
            put(masks, case, name, f"label file of {case}", problems)
        elif sequence:
            put(found[case], sequence, name, f"{sequence} of {case}", problems)
    return dict(found), _adopted(found, masks)


def _adopted(found: dict[str, dict[str, str]], masks: dict[str, str]) -> dict[str, str]:
    """Give a label file of a name of its own to the one case of its folder that has none.

    BraTS20_Training_355 holds W39_1998.09.19_Segm.nii.
    """
    folders = defaultdict(list)
    for case, files in found.items():
        folders[PurePosixPath(next(iter(files.values()))).parent].append(case)
    result = {}
    for case, name in masks.items():
        beside = folders[PurePosixPath(name).parent]
        alone = case not in found and len(beside) == 1 and beside[0] not in masks
        result[beside[0] if alone else case] = name
    return result
