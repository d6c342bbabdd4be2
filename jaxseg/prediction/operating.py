"""The operating point: how the calibrated probabilities of a region become its mask.

`tuning.py` chooses it on the validation patients when the training has ended; evaluation,
prediction and export read it from WORKDIR/operating_point.json.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from jaxseg.config import Config
from jaxseg.errors import UserError
from jaxseg.machine.distributed import on_main
from jaxseg.machine.files import read_json, write_json
from jaxseg.scans.regions import Region, as_written, is_within
from jaxseg.scans.volume import voxel_mm3
from jaxseg.scoring.lesions import parts

UNITS = ("voxels", "mm3")


class OperatingPoint(NamedTuple):
    """Threshold, smallest lesion kept, temperature."""

    threshold: float = 0.5  # calibrated probability from which a voxel is tumour
    min_lesion: float = 0.0  # connected components of the volume smaller than this are dropped
    unit: str = "voxels"  # of min_lesion: voxels (spacing unknown) or mm3
    temperature: float = 1.0  # logits are divided by it before the sigmoid


def segment(
    probability: np.ndarray,
    point: OperatingPoint,
    spacing_mm: tuple[float, ...] = (),
    affine: np.ndarray | None = None,
    within: np.ndarray | None = None,
) -> np.ndarray:
    """Return the mask: thresholded, without the components that are too small.

    Components are three-dimensional; voxels that share a face, an edge or a corner (26
    neighbours) belong to one.

    Args:
        probability: [D, H, W] float32 in 0..1, calibrated, on the native grid.
        point: with min_lesion 0 it is a threshold only.
        spacing_mm: (slice distance, row, column), or () when unknown.
        affine: [4, 4], whose directions tell a sheared voxel from a box; None: a box.
        within: [D, H, W] bool, outside of which there is none of it; None: it may be anywhere.

    Returns:
        [D, H, W] bool.

    Raises:
        UserError: the smallest lesion is given in mm3 and the spacing is unknown.
    """
    mask = probability >= np.float32(point.threshold)
    if within is not None:
        mask &= within
    if point.min_lesion == 0:
        return mask
    components, sizes = lesions(mask)
    kept = sizes * voxel_volume(point.unit, spacing_mm, affine) >= point.min_lesion
    return np.concatenate([[False], kept])[components]


def segment_regions(
    probability: np.ndarray,
    points: Sequence[OperatingPoint],
    regions: Sequence[Region],
    spacing_mm: tuple[float, ...] = (),
    affine: np.ndarray | None = None,
) -> np.ndarray:
    """Return the masks of all regions, which agree with each other and with the labels written.

    A region whose labels are a part of another's lies within its mask: what sticks out is cut
    off before its components are measured, see `segment`, so that the enhancing tumour lies in
    the core and that in the whole tumour, and no lesion is smaller than the point allows. Of
    regions that share no label the later one has a voxel that both would have. So the masks that
    are scored are those that are read from the labels written.

    Args:
        probability: [D, H, W, K] float32 in 0..1, calibrated, on the native grid.
        points: K of them.
        regions: K of them, the outer before the inner.
        spacing_mm: (slice distance, row, column), or () when unknown.
        affine: as `segment` takes it.

    Returns:
        [D, H, W, K] bool.
    """
    masks = np.empty(probability.shape, bool)
    for k, (point, region) in enumerate(zip(points, regions, strict=True)):
        outer = [masks[..., j] for j in range(k) if is_within(region, regions[j])]
        within = np.logical_and.reduce(outer) if outer else None
        masks[..., k] = segment(probability[..., k], point, spacing_mm, affine, within)
    return as_written(masks, regions)


def lesions(mask: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the number of each voxel's component, [D, H, W] int32, and their sizes in voxels.

    Components are numbered from 1, 0 is none; sizes int64 [N] in the same order.
    """
    components, number = parts(mask)
    return components, np.bincount(components.ravel(), minlength=number + 1)[1:]


def voxel_volume(
    unit: str, spacing_mm: tuple[float, ...], affine: np.ndarray | None = None
) -> float:
    """Return the size of a voxel in the unit; UserError for mm3 without a spacing."""
    if unit == "voxels":
        return 1.0
    volume = voxel_mm3(spacing_mm, affine)
    if volume is None:
        raise UserError(
            "the smallest lesion kept is in mm3, and the size of these voxels is unknown: give "
            "their spacing"
        )
    return volume


def path(run: Path) -> Path:
    """Return where a run keeps its operating point."""
    return run / "operating_point.json"


def how_chosen(run: Path) -> dict[str, Any]:
    """Return the point and how it was chosen, as `write` took them; empty when none was tuned."""
    if not path(run).exists():
        return {}
    found = read_json(path(run))
    if not isinstance(found, dict) or not isinstance(found.get("point"), dict):
        raise UserError(f"{path(run)}: no operating point")
    return found


def read(run: Path, config: Config, regions: Sequence[str]) -> tuple[OperatingPoint, ...]:
    """Return the operating point of each region; the config's threshold where none was tuned.

    All of several processes must call it.

    Raises:
        UserError: the file cannot be read or holds no operating point.
    """
    return tuple(OperatingPoint(*p) for p in on_main(lambda: _read(run, config, regions)))


def _read(run: Path, config: Config, regions: Sequence[str]) -> list[OperatingPoint]:
    found = how_chosen(run)
    if not found:
        return [OperatingPoint(threshold=config.evaluation.threshold)] * len(regions)
    others = found.get("regions", {})
    return [_checked(path(run), others.get(name, found)["point"]) for name in regions]


def _checked(source: Path, values: dict[str, Any]) -> OperatingPoint:
    try:
        point = OperatingPoint(**values)
        holds = 0 < point.threshold < 1 and 0 <= point.min_lesion < np.inf
        holds = holds and 0 < point.temperature < np.inf and point.unit in UNITS
    except TypeError as error:
        raise UserError(f"{source}: no operating point ({error})") from error
    if not holds:
        raise UserError(f"{source}: out of range: {point}")
    return point


def write(run: Path, regions: Sequence[str], tuned: Sequence[dict[str, Any]], **about: Any):
    """Keep the operating points, and how they were chosen, with the run; whole or not at all.

    Args:
        run: workdir.
        regions: names.
        tuned: for each, `point`, and whatever else says how it was chosen.
        about: what is common to them.
    """
    content = about | tuned[0]
    if len(regions) > 1:
        content |= {"regions": dict(zip(regions, tuned, strict=True))}
    write_json(path(run), content)
