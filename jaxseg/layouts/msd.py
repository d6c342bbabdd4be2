"""The Medical Segmentation Decathlon: dataset.json, one 4D file of all channels per case."""

from pathlib import PurePosixPath

from jaxseg.config import Dataset
from jaxseg.layouts import dataset_json
from jaxseg.layouts.cases import Case, make_cases, put, told
from jaxseg.layouts.names import stem_of
from jaxseg.scans.files import Files
from jaxseg.scans.regions import PRESETS, Region
from jaxseg.scans.scan_files import is_scan_file

_ALL = "the images"  # of a case are one file


def find_cases(names: list[str], config: Dataset, problems: list[str]) -> dict[str, Case]:
    """Return the cases by the stem of their file; UserError: no dataset.json."""
    root = dataset_json.root_of(names)
    found, masks = {}, {}
    for name in filter(is_scan_file, names):
        case, folder = stem_of(name), str(PurePosixPath(name).parent) + "/"
        if folder == f"{root}{dataset_json.IMAGES}/":
            put(found.setdefault(case, {}), _ALL, name, f"file of {case}", problems)
        elif folder == f"{root}{dataset_json.LABELS}/":
            put(masks, case, name, f"label file of {case}", problems)
    return make_cases(found, masks, (_ALL,), config, problems)


def tell(files: Files, config: Dataset) -> Dataset:
    """Return the settings with channels and regions of dataset.json; Task01 has nested ones.

    Raises:
        UserError: as `dataset_json.read`, `channels_of` and `regions_of`.
    """
    content = dataset_json.read(files)
    regions = dataset_json.regions_of(content)
    is_brats = _looks_like_task01(regions) and config.labels != "plain"
    regions = PRESETS["msd_task01"] if is_brats else regions
    return told(config, dataset_json.channels_of(content), regions)


def _looks_like_task01(regions: tuple[Region, ...]) -> bool:
    """Tell whether these are oedema (1), non-enhancing (2) and enhancing tumour (3)."""
    names = [region.name.lower() for region in regions]
    return (
        [region.labels for region in regions] == [(1,), (2,), (3,)]
        and "edema" in names[0]
        and names[1].startswith("non")
        and names[2].startswith("enhancing")
    )
