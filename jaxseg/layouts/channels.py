"""Scans whose channels are files of their own, found by their names."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath

from jaxseg.config import Dataset
from jaxseg.errors import UserError
from jaxseg.layouts import names as says
from jaxseg.layouts.find import Scan, folder_series, patient_name, read_volume
from jaxseg.layouts.kinds import kind_of
from jaxseg.scans.files import Files, list_files
from jaxseg.scans.volume import Volume, join_channels

_PATIENT = says.PATIENT


def parse_patterns(text: str, names: Sequence[str], fill: str | None = None) -> dict[str, str]:
    """Return {channel: pattern} of `t1={patient}_t1.nii.gz,flair={patient}_flair.nii.gz,...`.

    Raises:
        UserError: another form, an unknown channel, or a missing one without fill.
    """
    patterns = {}
    for part in text.split(","):
        name, _, pattern = part.strip().partition("=")
        if name not in names:
            raise UserError(f"--channels: no channel {name!r}; the model takes {', '.join(names)}")
        if _PATIENT not in pattern or name in patterns:
            example = f"{name}={_PATIENT}_{name}.nii.gz"
            raise UserError(f"--channels: {part.strip()!r}: give each once, as in {example}")
        patterns[name] = pattern
    missing = [name for name in names if name not in patterns]
    if missing and fill not in patterns:
        raise UserError(
            f"--channels: lacks {', '.join(missing)}; the model takes {', '.join(names)} (--fill "
            "says which channel stands in)"
        )
    return patterns


def find_by_channel(
    folder: Path, patterns: Mapping[str, str], names: Sequence[str], fill: str | None = None
) -> list[Scan]:
    """Return the patients whose channels are volumes in files or DICOM folders of their own.

    Args:
        folder: where to search.
        patterns: path relative to the folder for each channel; `{patient}` is a part of a name,
            the same wherever it stands.
        names: the model's channels, in order.
        fill: the channel that stands in for those that a patient lacks.

    Raises:
        UserError: no folder, or no path matches.
    """
    if not folder.is_dir():
        raise UserError(f"{folder}: --channels are searched in a folder")
    files = list_files(folder)
    listed = list(files.stamps)
    folders = {str(parent) for name in listed for parent in PurePosixPath(name).parents}
    patients: dict[str, dict[str, tuple]] = defaultdict(dict)
    for channel, pattern in patterns.items():
        regex = says.pattern_regex(pattern)
        for name in [*listed, *sorted(folders)]:
            if match := regex.fullmatch(name):
                is_file = name in files.stamps
                found = (name,) if is_file else folder_series(files, PurePosixPath(name))
                patients[match["patient"]][channel] = name, found
    if not patients:
        looks = says.looks_like(listed)
        raise UserError(
            f"{folder}: nothing matches {' or '.join(patterns.values())} among {len(listed)} files "
            f"({says.listed(listed)})" + (f"; {looks}" if looks else "")
        )
    return [_scan(folder, files, p, found, names, fill) for p, found in sorted(patients.items())]


def find_by_kind(
    path: Path,
    dataset: Dataset,
    names: Sequence[str],
    fill: str | None = None,
    notes: list[str] | None = None,
) -> list[Scan]:
    """Return the scans of a folder or zip that is kept as the volume set that was trained on.

    A channel that a scan lacks is told when it is read, so that the others are predicted.

    Args:
        path: folder, zip, or anything else: then there are none.
        dataset: of the run.
        names: the model's channels, in order.
        fill: the channel that stands in for those that a scan lacks.
        notes: what is left out is appended, one line each.

    Returns:
        None at all where it is not kept so, by example where each file is a scan.
    """
    if kind_of(dataset).sort is None or not (path.is_dir() or path.suffix.lower() == ".zip"):
        return []
    files = list_files(path)
    scans, lacking, doubles = [], [], []
    for case, found in sorted(_cases(files, path, dataset, doubles).items()):
        wanted = {c: (found[c], (found[c],)) for c in names if c in found}
        if wanted:
            scans.append(_scan(path, files, case, wanted, names, fill))
        else:
            lacking.append(case)
    notes = [] if notes is None else notes
    notes += [f"{path}: left out, {line}" for line in doubles]
    if lacking:
        notes.append(
            f"{path}: left out, none of the channels {', '.join(names)}: {says.listed(lacking)}"
        )
    return scans


def _cases(
    files: Files, path: Path, dataset: Dataset, doubles: list[str]
) -> dict[str, dict[str, str]]:
    """Return {case: {channel: file}}; of the folder of one case its own name may tell it."""
    sort, listed, said = kind_of(dataset).sort, list(files.stamps), []
    cases = sort(listed, dataset, said)
    if set(cases) - {says.NAMELESS}:
        doubles += said
        return cases
    above = f"{path.resolve().name if path.is_dir() else path.stem}/"
    said.clear()
    cases = sort([above + name for name in listed], dataset, said)
    doubles += [line.replace(above, "") for line in said]
    return {
        case: {channel: name.removeprefix(above) for channel, name in found.items()}
        for case, found in cases.items()
    }


def _scan(
    folder: Path,
    files: Files,
    patient: str,
    found: Mapping[str, tuple[str, tuple[str, ...]]],
    names: Sequence[str],
    fill: str | None,
) -> Scan:
    """Return the scan of {channel: (file or folder, files to read)}."""

    def read() -> Volume:
        volumes = {}
        for channel, (name, own) in found.items():
            if not own:
                raise UserError(f"{folder / name}: no DICOM images")
            volumes[channel] = read_volume(files, own)
        return join_channels(volumes, names, fill)

    where = folder / found.get(fill, next(iter(found.values())))[0]
    everything = tuple(name for _, own in found.values() for name in own)
    return Scan(patient_name(patient), where, read, folder.absolute(), files, everything)
