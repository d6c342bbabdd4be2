"""Which files are one scan of a volume set, whose scan it is, and what its settings become."""

import dataclasses
import re
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

from jaxseg.config import Dataset
from jaxseg.errors import UserError
from jaxseg.scans.regions import PRESETS, Region, parse_regions, plain, to_texts


class Case(NamedTuple):
    """One scan of one person; names of files are relative to the source."""

    images: tuple[str, ...]  # one file for each channel, in order, or one 4D file
    mask: str  # of labels
    group: str  # the person, whose time points must not part


# What is one person: the first group. BraTS numbers time points at the end, others name them.
_TIME_POINTS = tuple(
    re.compile(pattern, re.IGNORECASE)
    for pattern in (
        r"(BraTS-[A-Z]+-\d+)-\d+",
        r"(brats_(?:2013|tcia)_pat\w+?)_\d+",
        r"(brats1[789]_.+)_\d+",
        r"(UPENN-GBM-\d+)_\d+",
        r"(UCSF-PDGM-\d+)_FU\w+",
        r"(.+?)[_.-]*(?:time[_-]?point|ses|session|visit|tp)[_.-]?\d+",
    )
)


def grouping(config: Dataset) -> Callable[[str], str]:
    """Return what tells the person of a case's id: config.dataset.patient_regex or the usual names.

    Raises:
        UserError: the pattern is none, has no group, or does not match an id.
    """
    if config.patient_regex is None:
        return person
    try:
        regex = re.compile(config.patient_regex)
    except re.error as error:
        raise UserError(f"config.dataset.patient_regex={config.patient_regex}: {error}") from None
    if not regex.groups:
        raise UserError(
            f"config.dataset.patient_regex={config.patient_regex}: needs a group (...), the person"
        )

    def told(case: str) -> str:
        match = regex.search(case)
        if not match or not match[1]:
            raise UserError(
                f"config.dataset.patient_regex={config.patient_regex}: does not match case {case}"
            )
        return match[1]

    return told


def person(case: str) -> str:
    """Return the person of a case's id: `BraTS-GLI-00001` of `BraTS-GLI-00001-000`."""
    matches = (pattern.fullmatch(case.split("/")[-1]) for pattern in _TIME_POINTS)
    return next((match[1] for match in matches if match), case)


def make_cases(
    found: Mapping[str, Mapping[str, str]],
    masks: Mapping[str, str],
    channels: Sequence[str],
    config: Dataset,
    problems: list[str],
) -> dict[str, Case]:
    """Return the cases that are whole; a line for each file that others lack goes to problems.

    Args:
        found: {case: {channel: file}}; other channels than those that are wanted do no harm.
        masks: {case: file of labels}.
        channels: wanted, in order.
        config: its patient_regex tells the persons.
        problems: what is missing is appended.
    """
    cases, group_of = {}, grouping(config)
    for case in sorted({*found, *masks}):
        files = found.get(case, {})
        lacking = [channel for channel in channels if channel not in files]
        beside = next(iter([*files.values(), *([masks[case]] if case in masks else [])]))
        where = f"patient {case} ({beside})"
        if len(lacking) == len(channels):
            problems.append(f"{where}: a label file without images")
            continue
        problems += [f"{where}: no file of {channel}" for channel in lacking]
        if case not in masks:
            problems.append(f"{where}: no label file")
        if not lacking and case in masks:
            images = tuple(files[channel] for channel in channels)
            cases[case] = Case(images, masks[case], group_of(case))
    return cases


def put(files: dict[str, str], key: str, name: str, what: str, problems: list[str]):
    """Enter a file under its key; a second one is a problem, and the first stays."""
    first = files.setdefault(key, name)
    if first != name:
        problems.append(f"{name}: a second {what} beside {first}")


def told(config: Dataset, channels: Sequence[str], regions: Sequence[Region]) -> Dataset:
    """Return the settings with the channels and regions of the files, but for what they say.

    `labels` is then spelled out in `regions`, and `flair_channel` is the one of that name.

    Args:
        config: of a volume set.
        channels: names that the files tell.
        regions: what label values mean by themselves; `config.labels` and `config.regions` win.

    Raises:
        UserError: masks of the regions could not be written as labels.
    """
    if config.labels == "plain":
        regions = plain(regions)
    elif config.labels:
        regions = PRESETS[config.labels]
    texts = config.regions or to_texts(regions)
    parse_regions(texts)
    names = config.channel_names or tuple(channels)
    flair = next((i for i, n in enumerate(names) if re.search("flair|t2f", n.lower())), None)
    flair = config.flair_channel if flair is None else flair
    return dataclasses.replace(
        config, channel_names=names, regions=texts, labels="", flair_channel=flair
    )


def fit_for_names(name: str) -> str:
    """Return a name of a channel or region as names of files may hold it."""
    return re.sub(r"[^\w.+-]+", "_", name.strip()).strip("_") or "unnamed"
