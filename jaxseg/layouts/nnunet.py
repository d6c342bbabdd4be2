"""nnU-Net's raw data sets: imagesTr/CASE_0000.nii.gz, labelsTr/CASE.nii.gz, dataset.json."""

import re
from collections import defaultdict
from pathlib import PurePosixPath

from jaxseg.config import Dataset
from jaxseg.layouts import dataset_json
from jaxseg.layouts.cases import Case, make_cases, put, told
from jaxseg.layouts.names import stem_of
from jaxseg.scans.files import Files
from jaxseg.scans.scan_files import is_scan_file

_CHANNEL = re.compile(r"(?P<case>.+)_(?P<channel>\d{4})")


def find_cases(names: list[str], config: Dataset, problems: list[str]) -> dict[str, Case]:
    """Return the cases by id; as many channels as config.dataset.channel_names, see `tell`."""
    root = dataset_json.root_of(names)
    numbers = [f"channel {i:04d}" for i in range(len(config.channel_names))]
    found, masks = defaultdict(dict), {}
    for name in filter(is_scan_file, names):
        folder, match = str(PurePosixPath(name).parent) + "/", _CHANNEL.fullmatch(stem_of(name))
        if folder == f"{root}{dataset_json.LABELS}/":
            put(masks, stem_of(name), name, f"label file of {stem_of(name)}", problems)
        elif folder == f"{root}{dataset_json.IMAGES}/" and not match:
            problems.append(f"{name}: no number of a channel at the end, as in CASE_0000.nii.gz")
        elif folder == f"{root}{dataset_json.IMAGES}/":
            channel = f"channel {match['channel']}"
            if channel not in numbers:
                problems.append(f"{name}: {channel}, but {dataset_json.NAME} has {len(numbers)}")
            put(found[match["case"]], channel, name, f"{channel} of {match['case']}", problems)
    return make_cases(found, masks, numbers, config, problems)


def sort_images(
    names: list[str], config: Dataset, problems: list[str]
) -> dict[str, dict[str, str]]:
    """Return {case: {channel: file}} of CASE_0000.nii.gz and so on, in whatever folder; doubles go
    to problems."""
    found = defaultdict(dict)
    for name in filter(is_scan_file, names):
        match = _CHANNEL.fullmatch(stem_of(name))
        if match and int(match["channel"]) < len(config.channel_names):
            channel, case = config.channel_names[int(match["channel"])], match["case"]
            put(found[case], channel, name, f"{channel} of {case}", problems)
    return dict(found)


def tell(files: Files, config: Dataset) -> Dataset:
    """Return the settings with channels and regions of dataset.json, version 1 or 2.

    Raises:
        UserError: as `dataset_json.read`, `channels_of` and `regions_of`.
    """
    content = dataset_json.read(files)
    return told(config, dataset_json.channels_of(content), dataset_json.regions_of(content))


def is_nnunet(names: list[str]) -> bool:
    """Tell whether imagesTr of these names holds numbered channels, rather than 4D files."""
    labels = {stem_of(n) for n in names if PurePosixPath(n).parent.name == dataset_json.LABELS}
    images = [stem_of(n) for n in names if PurePosixPath(n).parent.name == dataset_json.IMAGES]
    matches = [_CHANNEL.fullmatch(stem) for stem in images]
    return any(match and match["case"] in labels for match in matches)
