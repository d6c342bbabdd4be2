"""Any tree of volumes in files whose sequences and labels are told by patterns in the config."""

from collections import defaultdict

from jaxseg.config import Dataset
from jaxseg.errors import UserError
from jaxseg.layouts.cases import Case, make_cases, put, told
from jaxseg.layouts.names import looks_like, pattern_regex
from jaxseg.scans.files import Files
from jaxseg.scans.regions import Region
from jaxseg.scans.scan_files import is_scan_file

_EXAMPLE = (
    "--config.dataset.channel_files=\"('t1={patient}/{patient}_t1.nii.gz', "
    "'flair={patient}/{patient}_flair.nii.gz')\" "
    "--config.dataset.mask_file='{patient}/{patient}_seg.nii.gz'"
)


def find_cases(names: list[str], config: Dataset, problems: list[str]) -> dict[str, Case]:
    """Return the cases by what stands for `{patient}` in the patterns of the config.

    Raises:
        UserError: there are no patterns, or nothing matches them.
    """
    patterns = patterns_of(config)
    found, masks = _sort(names, patterns, problems), {}
    mask_regex = pattern_regex(config.mask_file)
    for name in filter(is_scan_file, names):
        if match := mask_regex.fullmatch(name):
            put(masks, match["patient"], name, f"label file of {match['patient']}", problems)
    if not found or not masks:
        missed = config.mask_file if found else " or ".join(patterns.values())
        looks = looks_like(names)
        raise UserError(
            f"config.dataset.{'mask_file' if found else 'channel_files'}: no volume's file matches "
            f"{missed} among {len(names)} files ({', '.join(names[:3])}, ...)"
            + (f"; {looks}" if looks else "")
        )
    return make_cases(found, masks, tuple(patterns), config, problems)


def sort_images(
    names: list[str], config: Dataset, problems: list[str]
) -> dict[str, dict[str, str]]:
    """Return {case: {channel: file}} of scans, whether they have labels or not; doubles go to
    problems."""
    return _sort(names, patterns_of(config), problems)


def _sort(
    names: list[str], patterns: dict[str, str], problems: list[str]
) -> dict[str, dict[str, str]]:
    found = defaultdict(dict)
    regexes = {channel: pattern_regex(pattern) for channel, pattern in patterns.items()}
    for name in filter(is_scan_file, names):
        for channel, regex in regexes.items():
            if match := regex.fullmatch(name):
                case = match["patient"]
                put(found[case], channel, name, f"{channel} of {case}", problems)
    return dict(found)


def tell(files: Files, config: Dataset) -> Dataset:
    """Return the settings with the channels of the patterns; labels are 1 unless they say more."""
    return told(config, tuple(patterns_of(config)), (Region("tumour", (1,)),))


def patterns_of(config: Dataset) -> dict[str, str]:
    """Return {channel: pattern} of config.dataset.channel_files, whose form config has checked.

    Raises:
        UserError: none are given, or none of the label files.
    """
    if not config.channel_files or not config.mask_file:
        raise UserError(f"nifti needs patterns of its files: {_EXAMPLE}")
    split = (text.partition("=") for text in config.channel_files)
    return {name.strip(): pattern.strip() for name, _, pattern in split}
