"""The guard of a data set: every volume is checked while it is read, all problems are kept.

A problem is a line that names the file. Nothing is raised on the way, so that one run lists
all that is to be mended.
"""

import itertools
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence

import numpy as np

from jaxseg.datasets.index import Patient, find_copies, same_images
from jaxseg.errors import UserError
from jaxseg.imaging.intensity import darken_background, head_warnings
from jaxseg.layouts.slices import Slice
from jaxseg.scans.decode import decode_image, decode_mask_values
from jaxseg.scans.files import Files
from jaxseg.scans.regions import Region, to_masks
from jaxseg.scans.slices import read_slice
from jaxseg.scans.volume import MAX_PATIENT_BYTES, Volume

_MAX_LINES = 50


def read_volumes(
    files: Files,
    patients: dict[str, list[Slice]],
    regions: Sequence[Region],
    problems: list[str],
    warnings: list[str],
) -> Iterator[tuple[Volume, bool]]:
    """Yield the volume of each patient, in order of the ids, and whether it is sound.

    A patient with a problem is not sound: its volume holds what could be read, the slices of
    the commonest form; it is left out where nothing could. Neither are patients whose images
    have other channels or another depth than the first. All sound volumes have one form.

    Args:
        files: the source.
        patients: slices of each patient, in any order.
        regions: what the values in the masks mean.
        problems: what is wrong is appended, one line each.
        warnings: gaps in slice numbers, volumes without a head are appended, one line each.
    """
    forms = defaultdict(list)  # (channels, dtype): files
    for patient, slices in sorted(patients.items()):
        slices = sorted(slices)
        before = len(problems)
        warnings += _gaps(patient, [s.number for s in slices])
        pairs = _read_slices(files, patient, slices, problems)
        for s, (image, _) in zip(slices, pairs, strict=False):
            if image is not None:
                forms[image.shape[-1], image.dtype.name].append(s.image)
        _check_sizes(patient, slices, pairs, problems)
        volume = _volume(patient, slices, pairs, regions)
        if volume is not None:
            whole = len(volume.image) == len(slices) and len(problems) == before
            image = volume.image
            heads = head_warnings(darken_background(image))
            warnings += [f"patient {patient}: {line}" for line in heads]
            yield volume, whole and (image.shape[-1], image.dtype.name) == next(iter(forms))
    _check_forms(forms, problems)


def _volume(
    patient: str, slices: list[Slice], pairs: list[tuple], regions: Sequence[Region]
) -> Volume | None:
    """Stack the slices that have the commonest form; None when none can be read."""
    forms = [_form(*pair) for pair in pairs]
    counts = Counter(form for form in forms if form)
    if not counts:
        return None
    commonest = counts.most_common(1)[0][0]
    chosen = [i for i, form in enumerate(forms) if form == commonest]
    image, mask = (np.stack(arrays) for arrays in zip(*(pairs[i] for i in chosen), strict=True))
    return Volume(
        image,
        patient=patient,
        mask=to_masks(mask[..., 0], regions),
        slice_numbers=tuple(slices[i].number for i in chosen),
        files=tuple(slices[i].image for i in chosen),
        mask_values=tuple(int(value) for value in mask.max((1, 2, 3))),
    )


def _form(image: np.ndarray | None, mask: np.ndarray | None) -> tuple | None:
    """Return shape and depth of an image; None when it or its mask is of no use."""
    if image is None or mask is None or image.shape[:2] != mask.shape[:2]:
        return None
    return image.shape, image.dtype.name


def copy_warnings(patients: Iterable[Patient]) -> list[str]:
    """Return a line for each pair of patients with the same images, or patient with one twice."""
    lines = []
    for (a, b), files in find_copies({"": patients}).items():
        who = f"patient {a}" if a == b else f"patients {a} and {b}"
        why = "an image twice?" if a == b else "one person under two ids?"
        lines.append(f"{who}: {same_images(files)}; {why}")
    return lines


def raise_problems(title: str, problems: list[str]):
    """Raise one UserError with a line for each problem (the first 50); none: do nothing."""
    if problems:
        hidden = len(problems) - _MAX_LINES
        more = [f"and {hidden} more"] if hidden > 0 else []
        lines = [f"  {line}" for line in problems[:_MAX_LINES] + more]
        count = "1 problem" if len(problems) == 1 else f"{len(problems)} problems"
        raise UserError("\n".join([f"{title}: {count} to mend first", *lines]))


def _read_slices(files: Files, patient: str, slices: list[Slice], problems: list[str]) -> list:
    """Read the slices up to the limit; many that are empty and large are a bomb, too."""
    pairs, num_bytes = [], 0
    for s in slices:
        image, mask = _read_slice(files, s, problems)
        pairs.append((image, mask))
        num_bytes += sum(array.nbytes for array in (image, mask) if array is not None)
        if num_bytes > MAX_PATIENT_BYTES:
            problems.append(
                f"patient {patient}: more than {MAX_PATIENT_BYTES} bytes of pixels up to {s.image}"
            )
            break
    return pairs


def _read_slice(files: Files, s: Slice, problems: list[str]):
    """Return image [H, W, C] and mask [H, W, 1] as stored; None for what cannot be read."""
    image = _read(files, s.image, decode_image, problems)
    mask = _read(files, s.mask, decode_mask_values, problems)
    if image is not None and mask is not None and image.shape[:2] != mask.shape[:2]:
        problems.append(f"{s.mask}: mask of {_size(mask)} pixels, image of {_size(image)}")
    return image, mask


def _read(files: Files, name: str, decode: Callable, problems: list[str]) -> np.ndarray | None:
    try:
        return read_slice(files.read, name, decode)
    except UserError as error:
        problems.append(str(error))
        return None


def _gaps(patient: str, numbers: list[int]) -> list[str]:
    jumps = [f"{a} to {b}" for a, b in itertools.pairwise(numbers) if b > a + 1]
    return [f"patient {patient}: slice numbers jump from {', '.join(jumps)}"] if jumps else []


def _check_sizes(patient: str, slices: list[Slice], pairs: list[tuple], problems: list[str]):
    sizes = defaultdict(list)
    for s, (image, _) in zip(slices, pairs, strict=False):
        if image is not None:
            sizes[_size(image)].append(s.image)
    if len(sizes) > 1:
        problems.append(f"patient {patient}: slices of different sizes: {_by_count(sizes)}")


def _check_forms(forms: dict[tuple[int, str], list[str]], problems: list[str]):
    if len(forms) > 1:
        named = {f"{c} channels {dtype}": files for (c, dtype), files in forms.items()}
        problems.append(
            f"images of different channels or depth, make them alike: {_by_count(named)}"
        )


def _by_count(groups: dict[str, list[str]]) -> str:
    """Say how many files are of each kind, the rare ones last and named."""
    ordered = sorted(groups.items(), key=lambda item: -len(item[1]))
    return "; ".join(
        f"{kind} ({len(files)}: {', '.join(files[:3])}{', ...' if len(files) > 3 else ''})"
        for kind, files in ordered
    )


def _size(array: np.ndarray) -> str:
    return f"{array.shape[0]}x{array.shape[1]}"
