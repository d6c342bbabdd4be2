"""The guard of a volume set: every case is checked while it is read, all problems are kept.

As `checks.py` for slices: a problem is a line that names file or patient, and nothing is raised
on the way.
"""

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from jaxseg.errors import UserError
from jaxseg.imaging.intensity import darken_background, head_warnings
from jaxseg.layouts.cases import Case
from jaxseg.layouts.find import read_stored_volume
from jaxseg.scans.files import Files
from jaxseg.scans.regions import Region, changed_labels, fitting, merged_labels, to_masks, unnamed
from jaxseg.scans.volume import MAX_PATIENT_BYTES, Volume, as_stored, describe_grid, same_grid

_OUTSIDE, _FAR_OUTSIDE = 0.01, 0.5  # share of the label's voxels in empty air: a hint, a fault
_COARSE = 64  # voxels along each axis, above which half of them will do
_TABLE = 1 << 20  # values up to this far apart are counted, those farther are sorted


def read_cases(
    files: Files,
    cases: Mapping[str, Case],
    regions: Sequence[Region],
    problems: list[str],
    warnings: list[str],
) -> Iterator[tuple[Volume, bool]]:
    """Yield the volume of each case, in order of the ids, and whether it is sound.

    A case with a problem is not sound; it is left out where images and labels do not lie on the
    same voxels, or cannot be read. Neither are those of another number of channels than the first.

    Volumes have the integer type of their files, or float32: patients may differ in it. Of
    channels of several types it is one that holds all. `slice_numbers` count from 0, `files` are
    those of the channels, `mask_values` are all values but 0 of the label file.

    Args:
        files: the source.
        cases: files of each case.
        regions: what the labels mean.
        problems: what is wrong is appended, one line each; what all cases together show, as a
            region that is empty in every one, after the last.
        warnings: what is odd but can be trained on is appended.
    """
    channels, values, filled = defaultdict(list), Counter(), np.zeros(len(regions), bool)
    forms = {"voxels": defaultdict(list), "orientations": defaultdict(list)}
    for patient, case in sorted(cases.items()):
        before = len(problems)
        volume = _read_case(files, patient, case, regions, problems, warnings)
        if volume is None:
            continue
        channels[volume.image.shape[-1]].append(patient)
        values.update(volume.mask_values)
        filled |= volume.mask.any((0, 1, 2))
        forms["voxels"][" x ".join(f"{mm:.3g}" for mm in volume.spacing_mm)].append(patient)
        forms["orientations"][volume.orientation].append(patient)
        sound = len(problems) == before and volume.image.shape[-1] == next(iter(channels))
        yield volume, sound
    if len(channels) > 1:
        named = {f"{count} channels": ids for count, ids in channels.items()}
        problems.append(f"patients of different channels: {_by_count(named)}")
    problems += _of_all(values, filled, regions, sum(map(len, channels.values())))
    warnings += merged_labels(set(values) - {*unnamed(values, regions)}, regions)
    warnings += [
        f"patients of different {what}: {_by_count(found)}"
        for what, found in forms.items()
        if len(found) > 1
    ]


def _read_case(
    files: Files,
    patient: str,
    case: Case,
    regions: Sequence[Region],
    problems: list[str],
    warnings: list[str],
) -> Volume | None:
    """Return the volume of a case; None where what was read does not make one."""
    parts = [_read(files, name, problems) for name in (*case.images, case.mask)]
    *images, label = parts
    for name, image in zip(case.images, images, strict=True):
        if image is not None:
            _check_image(name, image, len(case.images) == 1, problems)
    values = None if label is None else _label_values(case.mask, label, regions, problems)
    whole = all(part is not None for part in parts) and values is not None
    if not _on_one_grid(patient, case, parts, problems) or not whole:
        return None
    if len(images) > 1 and any(image.image.shape[-1] != 1 for image in images):
        return None
    joined = as_stored(np.concatenate([_finite(part.image) for part in images], axis=-1))
    if joined.nbytes > MAX_PATIENT_BYTES:
        problems.append(f"patient {patient}: more than {MAX_PATIENT_BYTES} bytes of voxels")
        return None
    labels = label.image[..., 0]
    masks = to_masks(labels.astype(np.int64) if labels.dtype.kind == "f" else labels, regions)
    about = dict.fromkeys(line for part in parts for line in part.warnings)
    about |= dict.fromkeys(head_warnings(darken_background(_coarse(joined))))
    warnings += [f"patient {patient}: {line}" for line in about]
    _check_place(patient, case, joined, masks.any(-1), problems, warnings)
    depth = len(joined)
    return images[0]._replace(
        image=joined,
        write=None,
        patient=patient,
        group=case.group,
        mask=masks,
        slice_numbers=tuple(range(depth)),
        files=case.images,
        mask_values=tuple(value for value in values if value),
    )


def _read(files: Files, name: str, problems: list[str]) -> Volume | None:
    try:
        return read_stored_volume(files, name)
    except UserError as error:
        problems.append(str(error).replace(f"{files.path}/", ""))
        return None


def _check_image(name: str, volume: Volume, may_hold_all: bool, problems: list[str]):
    """Append what is wrong with the voxels of an image file by itself."""
    image = volume.image
    if image.shape[-1] != 1 and not may_hold_all:
        problems.append(
            f"{name}: 4D or in colours, {image.shape[-1]} values a voxel, where one sequence is "
            "expected: split it"
        )
        return
    for c in range(image.shape[-1]):
        channel, which = image[..., c], f" of channel {c + 1}" if image.shape[-1] > 1 else ""
        if image.dtype.kind == "f" and not np.isfinite(channel).all():
            problems.append(
                f"{name}: voxels{which} that are no numbers (NaN or infinite): set them to the "
                "background's value"
            )
        elif channel.min() == channel.max():
            problems.append(f"{name}: an empty volume: all voxels{which} are {channel.flat[0]:g}")


def _label_values(
    name: str, volume: Volume, regions: Sequence[Region], problems: list[str]
) -> list[int] | None:
    """Return the values of a label file, ascending; None where it holds no labels."""
    labels = volume.image[..., 0]
    if volume.image.shape[-1] != 1:
        problems.append(
            f"{name}: 4D, {volume.image.shape[-1]} values a voxel, where labels of 3D are "
            "expected: write one label for each voxel"
        )
        return None
    if labels.dtype.kind == "f":
        if not np.isfinite(labels).all():
            problems.append(f"{name}: labels that are no numbers (NaN or infinite)")
            return None
        fractions = labels != np.rint(labels)
        if fractions.any():
            problems.append(
                f"{name}: labels with fractions, as {labels[fractions][0]:.4g}: whole numbers are "
                "expected; resample labels by nearest neighbour"
            )
            return None
        labels = labels.astype(np.int64)
    values = _unique(labels)
    if unknown := unnamed(values, regions):
        listed = ", ".join(map(str, unknown[:8])) + (", ..." if len(unknown) > 8 else "")
        problems.append(f"{name}: label {listed}, which no region names")
    return values


def _unique(labels: np.ndarray) -> list[int]:
    """Return the distinct values of an integer array, ascending; counted, where that is faster."""
    low, high = int(labels.min()), int(labels.max())
    if high - low > _TABLE:
        return np.unique(labels).tolist()
    shifted = np.subtract(labels, low, dtype=np.int64).ravel()
    return (np.flatnonzero(np.bincount(shifted)) + low).tolist()


def _on_one_grid(
    patient: str, case: Case, parts: Sequence[Volume | None], problems: list[str]
) -> bool:
    """Tell whether all files that could be read lie on the voxels of the first; name the others."""
    read = [(n, p) for n, p in zip((*case.images, case.mask), parts, strict=True) if p is not None]
    others = [(name, part) for name, part in read[1:] if not same_grid(part, read[0][1])]
    problems += [
        f"patient {patient}: {name} lies on other voxels than {read[0][0]} "
        f"({describe_grid(part)}; {describe_grid(read[0][1])}): resample it to those"
        for name, part in others
    ]
    return not others


def _finite(image: np.ndarray) -> np.ndarray:
    """Return an image whose voxels that are no numbers are the least of the others."""
    finite = np.isfinite(image) if image.dtype.kind == "f" else np.True_
    if finite.all():
        return image
    return np.where(finite, image, image[finite].min() if finite.any() else 0).astype(image.dtype)


def _coarse(image: np.ndarray) -> np.ndarray:
    """Return every second voxel of a large volume: enough to see whether there is a head."""
    return image[::2, ::2, ::2] if min(image.shape[:3]) > _COARSE else image


def _check_place(
    patient: str,
    case: Case,
    image: np.ndarray,
    truth: np.ndarray,
    problems: list[str],
    warnings: list[str],
):
    """Append a line where the label lies in empty air: where each channel has its edges' value."""
    if not truth.any():
        return
    inside = image[truth]
    edges = image[:, [0, -1]].reshape(-1, image.shape[-1])
    air = (inside == np.median(edges, axis=0)).all(-1).mean()
    if air > _FAR_OUTSIDE:
        problems.append(
            f"{case.mask}: {air:.0%} of the label lies outside of the head, where the images of "
            f"{patient} are empty: of another patient, or turned?"
        )
    elif air > _OUTSIDE:
        warnings.append(
            f"patient {patient}: {air:.0%} of the label lies where the images are empty"
        )


def _of_all(
    values: Counter, filled: np.ndarray, regions: Sequence[Region], num_patients: int
) -> list[str]:
    """Return lines on what the labels of all patients together show, with the remedy."""
    if not num_patients:
        return []
    lines = [
        f"region {region.name} (label {', '.join(map(str, region.labels)) or 'any'}): empty in "
        f"{'the only patient' if num_patients == 1 else f'all {num_patients} patients'}"
        for region, is_filled in zip(regions, filled, strict=True)
        if not is_filled
    ]
    unknown = unnamed(values, regions)
    lines += changed_labels(set(values) - {*unknown}, regions)
    if not lines and not unknown:
        return []
    found = ", ".join(f"{v} in {n}" for v, n in sorted(values.items())) or "none but 0"
    means = f"the label files have the values {found} of {num_patients} files"
    if options := fitting(values):
        means += f"; what fits them: {options}"
    return [*lines, means]


def _by_count(groups: Mapping[str, Sequence[str]]) -> str:
    """Say how many patients are of each kind, the rare ones last and named."""
    ordered = sorted(groups.items(), key=lambda item: -len(item[1]))
    return "; ".join(
        f"{kind} ({len(ids)}: {', '.join(ids[:3])}{', ...' if len(ids) > 3 else ''})"
        for kind, ids in ordered
    )
