"""dataset.json, in which the Medical Decathlon and nnU-Net say what a data set holds."""

import json
from pathlib import PurePosixPath
from typing import Any

from jaxseg.errors import UserError, one_line
from jaxseg.layouts.cases import fit_for_names
from jaxseg.layouts.names import listed
from jaxseg.scans.files import UNREADABLE, Files
from jaxseg.scans.regions import Region, own_labels, unwritable
from jaxseg.scans.scan_files import is_scan_file

NAME = "dataset.json"
IMAGES, LABELS = "imagesTr", "labelsTr"


def root_of(names: list[str]) -> str:
    """Return the folder of dataset.json with a slash at the end, '' for the source itself.

    Raises:
        UserError: there is none beside imagesTr, or there are several.
    """
    folders = {
        n.rpartition(f"{IMAGES}/")[0] for n in names if PurePosixPath(n).parent.name == IMAGES
    }
    found = [n for n in names if PurePosixPath(n).name == NAME and n.removesuffix(NAME) in folders]
    if not found:
        raise UserError(
            f"config.dataset.source: no {NAME} beside {IMAGES}/ and {LABELS}/ among {len(names)} "
            f"files ({listed(names)})"
        )
    if len(found) > 1:
        raise UserError(f"config.dataset.source: several data sets ({listed(found)}); give one")
    return found[0].removesuffix(NAME)


def read(files: Files) -> dict[str, Any]:
    """Return the content of dataset.json.

    Raises:
        UserError: there is none, it is no JSON of a data set, or it is of a kind that is not read.
    """
    name = root_of(list(files.stamps)) + NAME
    try:
        content = json.loads(files.read(name))
    except UNREADABLE as error:  # ValueError of json too
        raise UserError(f"{files.path / name}: cannot be read ({one_line(error)})") from None
    if not isinstance(content, dict) or not isinstance(content.get("labels"), dict):
        raise UserError(f"{files.path / name}: has no 'labels', a table of names and numbers")
    ending = content.get("file_ending", ".nii.gz")
    if not is_scan_file(str(ending)):
        raise UserError(f"{files.path / name}: file_ending {ending!r}; convert to .nii.gz first")
    if "dataset" in content:
        raise UserError(
            f"{files.path / name}: lists files by 'dataset', which jaxseg does not read; put them "
            f"into {IMAGES} and {LABELS}"
        )
    return content


def channels_of(content: dict[str, Any]) -> tuple[str, ...]:
    """Return the names of the channels, in order of their numbers.

    Raises:
        UserError: they are not numbered from 0 on.
    """
    table = content.get("channel_names", content.get("modality"))
    numbered = isinstance(table, dict) and sorted(table) == sorted(map(str, range(len(table))))
    if not numbered or not table:
        raise UserError(
            f"{NAME}: 'channel_names' (or 'modality') must number the channels from 0 on, as in "
            '{"0": "T1", "1": "FLAIR"}'
        )
    names = [fit_for_names(str(table[str(i)])) for i in range(len(table))]
    twice = len({name.lower() for name in names}) < len(names)
    return tuple(f"{name}_{i}" for i, name in enumerate(names)) if twice else tuple(names)


def regions_of(content: dict[str, Any]) -> tuple[Region, ...]:
    """Return the regions of the labels, in ascending order, or as listed where they are regions.

    Version 1 has {"1": "oedema"}, version 2 {"oedema": 1} or {"whole_tumour": [1, 2, 3]}.

    Raises:
        UserError: a label is no number in 1..255; voxels that are to be ignored; masks that
            cannot be written; regions_class_order would write labels of other regions.
    """
    regions = []
    for key, value in content["labels"].items():
        name, labels = (value, [key]) if str(key).isdigit() else (key, value)
        labels = labels if isinstance(labels, list) else [labels]
        if not all(str(n).isdigit() and int(n) < 256 for n in labels) or not isinstance(name, str):
            raise UserError(f"{NAME}: labels {key!r}: {value!r}: give whole numbers in 0..255")
        if name.lower() == "ignore":
            raise UserError(f"{NAME}: voxels to be ignored ({key}: {value}) are not known here")
        numbers = tuple(sorted(int(n) for n in labels))
        if numbers != (0,):
            regions.append(Region(fit_for_names(name), numbers))
    if not regions:
        raise UserError(f"{NAME}: 'labels' names nothing but background")
    if all(len(region.labels) == 1 for region in regions):
        return tuple(sorted(regions, key=lambda region: region.labels))
    order = content.get("regions_class_order")
    if order is not None:
        regions = _in_class_order(regions, order)
    if problem := unwritable(regions):
        raise UserError(f"{NAME}: {problem}")
    return tuple(regions)


def _in_class_order(regions: list[Region], order: Any) -> list[Region]:
    """Return the regions with the labels that nnU-Net would write, the later over the earlier."""
    if not isinstance(order, list) or len(order) != len(regions):
        raise UserError(
            f"{NAME}: regions_class_order {order}: give a label for each of {len(regions)} regions"
        )
    for k, (region, label) in enumerate(zip(regions, order, strict=True)):
        own = set(region.labels) - {n for later in regions[k + 1 :] for n in later.labels}
        if label not in own:
            try:
                right = f"; regions_class_order must be {list(own_labels(regions))}"
            except ValueError:
                right = f"; its own labels are {sorted(own)}"
            raise UserError(
                f"{NAME}: regions_class_order {order} writes {region.name} {list(region.labels)} "
                f"as {label}, which is the label of other regions{right}"
            )
    return [r._replace(written=n) for r, n in zip(regions, order, strict=True)]
