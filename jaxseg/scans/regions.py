"""Regions of a tumour: which values in a mask's file make which mask, and back.

Regions may lie in each other, as the enhancing tumour lies in the whole one; each has its own
output of the network, its own mask and its own score. They are data: `tumour_core=1,4` in a
config, or a name of PRESETS.
"""

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np

from jaxseg.errors import UserError


class Region(NamedTuple):
    """A region and the label values that make it."""

    name: str
    labels: tuple[int, ...] = ()  # in the mask's file; (): every value but 0
    written: int | None = None  # for its mask, of several that are its own; None: it has one


TUMOUR = (Region("tumour"),)  # of masks that only say where the tumour is


def _nested(whole: tuple[int, ...], core: tuple[int, ...], enhancing: int) -> tuple[Region, ...]:
    return (
        Region("whole_tumour", whole),
        Region("tumour_core", core),
        Region("enhancing_tumour", (enhancing,)),
    )


# What the values of the field's data sets mean, by the name of config.dataset.labels. To BraTS
# 2021: 1 necrosis and non-enhancing core, 2 oedema, 4 enhancing; from 2023 on 3 is enhancing, and
# in 2024, after treatment, 4 the cavity of the resection. MSD Task01: 1 oedema, 2 non-enhancing.
# BRATS 2013 and 2015 part necrosis (1) and non-enhancing core (3), which no challenge scores: both
# are written as 1, as BraTS has had them since 2017.
PRESETS = {
    "brats2015": (
        Region("whole_tumour", (1, 2, 3, 4)),
        Region("tumour_core", (1, 3, 4), written=1),
        Region("enhancing_tumour", (4,)),
    ),
    "brats2021": _nested((1, 2, 4), (1, 4), 4),
    "brats2023": _nested((1, 2, 3), (1, 3), 3),
    "brats2024": (*_nested((1, 2, 3), (1, 3), 3), Region("resection_cavity", (4,))),
    "msd_task01": _nested((1, 2, 3), (2, 3), 3),
    "any": TUMOUR,
}


def to_masks(labels: np.ndarray, regions: Sequence[Region]) -> np.ndarray:
    """Return the mask of each region.

    Args:
        labels: [...] whole numbers as in the mask's file.
        regions: K of them.

    Returns:
        [..., K] uint8 of {0, 1}.
    """
    masks = np.empty((*labels.shape, len(regions)), np.uint8)
    for k, region in enumerate(regions):
        masks[..., k] = np.isin(labels, region.labels) if region.labels else labels != 0
    return masks


def to_labels(masks: np.ndarray, regions: Sequence[Region]) -> np.ndarray:
    """Return the label values that stand for the masks; later regions lie over earlier ones.

    Args:
        masks: [..., K] bool or {0, 1}.
        regions: K of them, the outer before the inner.

    Returns:
        [...] uint8.

    Raises:
        ValueError: as `own_labels`.
    """
    labels = np.zeros(masks.shape[:-1], np.uint8)
    for k, label in enumerate(own_labels(regions)):
        labels[masks[..., k] > 0] = label
    return labels


def is_within(inner: Region, outer: Region) -> bool:
    """Tell whether a region is a part of another one by its labels, as the tumour core is."""
    if not outer.labels:
        return bool(inner.labels)
    return bool(inner.labels) and set(inner.labels) < set(outer.labels)


def as_written(masks: np.ndarray, regions: Sequence[Region]) -> np.ndarray:
    """Return the masks that are read back from the labels written for these.

    Where regions that share no label overlap, the later one has the voxel, since it can have but
    one label. One region stays as it is.

    Args:
        masks: [..., K] bool, inner regions within the outer.
        regions: K of them, the outer before the inner.

    Returns:
        [..., K] bool.
    """
    if len(regions) == 1:
        return masks
    return to_masks(to_labels(masks, regions), regions).view(bool)


def one_each(values: np.ndarray, regions: Sequence[Region]) -> np.ndarray:
    """Return what a file holds that has one value for each voxel.

    Args:
        values: [D, H, W, K] bool, a mask for each region; or [D, H, W] as it is.
        regions: K of them.

    Returns:
        [D, H, W]: of one region its mask, of several `to_labels`.
    """
    if values.ndim == 3:
        return values
    return values[..., 0] if len(regions) == 1 else to_labels(values, regions)


def own_labels(regions: Sequence[Region]) -> tuple[int, ...]:
    """Return the label that is written for each region: its own beside those of the later ones.

    Raises:
        ValueError: a region has none, or several and none of them is to be written.
    """
    written = []
    for k, region in enumerate(regions):
        own = set(region.labels or (1,)) - {n for r in regions[k + 1 :] for n in r.labels}
        label = region.written if region.written in own else None
        if region.written is None and len(own) == 1:
            (label,) = own
        if label is None:
            other = "" if region.written is None else f" ({region.written} is none of them)"
            raise ValueError(
                f"region {region.name}: labels of its own {sorted(own)}, not one{other}"
            )
        written.append(label)
    return tuple(written)


def plain(regions: Sequence[Region]) -> tuple[Region, ...]:
    """Return one region for each label that some region names, in ascending order."""
    labels = sorted({label for region in regions for label in region.labels})
    alone = {r.labels[0]: r.name for r in regions if len(r.labels) == 1}
    return tuple(Region(alone.get(n, f"label_{n}"), (n,)) for n in labels)


def to_texts(regions: Iterable[Region]) -> tuple[str, ...]:
    """Return regions as the config has them: `core=1,3,4:1`, the label to be written last."""

    def text(region: Region) -> str:
        labels = "=" + ",".join(map(str, region.labels)) if region.labels else ""
        return region.name + labels + ("" if region.written is None else f":{region.written}")

    return tuple(map(text, regions))


def parse_regions(texts: Sequence[str]) -> tuple[Region, ...]:
    """Return the regions of config.dataset.regions, whose form config has checked.

    Raises:
        UserError: their masks cannot be written as labels.
    """
    regions = []
    for text in texts:
        name, _, rest = text.partition("=")
        labels, _, written = rest.partition(":")
        numbers = tuple(int(label) for label in labels.split(",") if label)
        regions.append(Region(name.strip(), numbers, int(written) if written else None))
    if problem := unwritable(regions):
        raise UserError(f"config.dataset.regions={tuple(texts)}: {problem}")
    return tuple(regions)


def unwritable(regions: Sequence[Region]) -> str:
    """Say why masks of the regions cannot be written as labels, and how to mend it; '': they can.

    A single region is always written as 1.
    """
    if len(regions) == 1:
        return ""
    try:
        own_labels(regions)
    except ValueError as error:
        outer_first = sorted(regions, key=lambda region: -len(region.labels))
        try:
            own_labels(outer_first)
        except ValueError:
            return (
                f"{error}, so its mask cannot be written back; say which, as in "
                "'tumour_core=1,3,4:1' (writes 1), or name a region that holds the others alone"
            )
        return f"{error}; give the outer before the inner: {to_texts(outer_first)}"
    return ""


def changed_labels(values: Iterable[int], regions: Sequence[Region]) -> list[str]:
    """Prove labels -> regions -> labels on the values there are; return a line for what fails.

    A value that is written as another must mean the same regions. Of a single region nothing is
    proved: every value that it has is written as 1.

    Args:
        values: of the files, without those that no region names.
        regions: whose masks can be written, see `unwritable`.
    """
    return [
        f"label {a} would be written as {b}, which means other regions: give {a} a region of its "
        "own, or the outer regions before the inner"
        for a, b, is_same in _written_as(values, regions)
        if not is_same
    ]


def merged_labels(values: Iterable[int], regions: Sequence[Region]) -> list[str]:
    """Return a line for each value that is written as another one of the same regions."""
    return [
        f"label {a} will be written as {b}: no region parts them"
        for a, b, is_same in _written_as(values, regions)
        if is_same and a != b
    ]


def _written_as(values: Iterable[int], regions: Sequence[Region]) -> list[tuple[int, int, bool]]:
    """Return (value, what its masks are written as, whether that has the same masks)."""
    labels = np.array(sorted(values), np.int64)
    if len(regions) == 1 or not labels.size:
        return []
    masks = to_masks(labels, regions)
    back = to_labels(masks, regions)
    same = (to_masks(back, regions) == masks).all(-1)
    return list(zip(labels.tolist(), back.tolist(), same.tolist(), strict=True))


def unnamed(values: Iterable[int], regions: Sequence[Region]) -> list[int]:
    """Return the values but 0 that no region names, ascending."""
    if any(not region.labels for region in regions):
        return []
    return sorted(set(values) - {0} - {n for region in regions for n in region.labels})


def fitting(values: Iterable[int]) -> str:
    """Say which setting fits these values of label files: presets, or one region for each."""
    found = {value for value in values if value}
    labels = {
        name: {n for region in regions for n in region.labels}
        for name, regions in PRESETS.items()
        if regions != TUMOUR
    }
    exact = [name for name, known in labels.items() if known == found]
    exact = exact or [name for name in labels if _fits(found, PRESETS[name])]
    each = tuple(f"label_{n}={n}" for n in sorted(found)) if len(found) > 1 else ()
    each = each or tuple(f"tumour={n}" for n in found)
    options = [f"--config.dataset.labels={name}" for name in exact]
    if all(0 < n < 256 for n in found):
        options.append(f'--config.dataset.regions="{each}"')
    return " or ".join(options)


def _fits(found: set[int], regions: Sequence[Region]) -> bool:
    """Tell whether regions name all values and none of them is empty."""
    return not unnamed(found, regions) and all(found & {*region.labels} for region in regions)
