"""Regions of a volume in three planes: truth and prediction beside each other, in mm."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from jaxseg.scoring import colours
from jaxseg.scoring.contours import draw_mask, window
from jaxseg.scoring.figures import new_figure, plain, png

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_PLANES = ("axial", "coronal", "sagittal")
_MARGIN_MM = 15  # around the tumour, where it is enlarged
_LEAST_MM = 60  # side of the part that is enlarged


def region_planes(
    title: str,
    image: np.ndarray,
    truth: np.ndarray,
    prediction: np.ndarray,
    regions: tuple[str, ...],
    spacing_mm: tuple[float, ...],
) -> bytes:
    """Draw the regions on three planes through the tumour: whole, and enlarged on both sides.

    The planes cross in the slice, the row and the column with the most voxels of truth and
    prediction, the inner of nested regions counting more. Above the whole head with the truth;
    below, enlarged, the truth and the prediction.

    Args:
        title: above the figure, drawn as it stands; may have several lines.
        image: [D, H, W] one channel, as in `scans.volume`: slice 0 the lowest, row 0 in front.
        truth: [D, H, W, K] bool.
        prediction: [D, H, W, K] bool.
        regions: K names.
        spacing_mm: (slice distance, row, column).
    """
    together = truth.sum(-1, dtype=np.float32) + prediction.sum(-1)
    rows = (("truth", truth, False), ("truth, enlarged", truth, True))
    rows += (("prediction, enlarged", prediction, True),)
    return _planes(title, image, rows, together, regions, spacing_mm)


def prediction_planes(
    title: str,
    image: np.ndarray,
    prediction: np.ndarray,
    regions: tuple[str, ...],
    spacing_mm: tuple[float, ...],
) -> bytes:
    """Draw regions that were predicted, where there is no truth: as `region_planes`, two rows."""
    rows = (("prediction", prediction, False), ("prediction, enlarged", prediction, True))
    weight = prediction.sum(-1, dtype=np.float32)
    return _planes(title, image, rows, weight, regions, spacing_mm)


def _planes(
    title: str,
    image: np.ndarray,
    rows: Sequence[tuple[str, np.ndarray, bool]],
    weight: np.ndarray,
    regions: tuple[str, ...],
    spacing_mm: tuple[float, ...],
) -> bytes:
    """Draw rows of three planes: (label, masks [D, H, W, K], whether enlarged); whole ones first.

    Args:
        title, image, regions, spacing_mm: as `region_planes` takes them.
        rows: from above.
        weight: [D, H, W] float32: where the planes cross and what is enlarged.
    """
    centre, near = _centre(weight), _part(weight > 0, spacing_mm)
    whole = tuple((0, n) for n in image.shape)
    shown = {n: colours.as_hex(c) for n, c in colours.of_regions(regions).items()}
    figure = new_figure(3.5 * len(rows))
    limits = window(image)
    for row, (label, masks, enlarged) in enumerate(rows):
        for axis, plane in enumerate(_PLANES):
            axes = figure.add_subplot(len(rows), 3, 1 + 3 * row + axis)
            box = near if enlarged else whole
            _draw_plane(axes, image, axis, centre, box, spacing_mm, limits)
            for k, name in enumerate(regions):
                cut = np.take(masks[..., k], centre[axis], axis)
                # The inner above and narrower, so that both are seen where they share an edge.
                width = (1.1 if enlarged else 0.6) * min(1 + 2 * (len(regions) - 1 - k), 3.2)
                draw_mask(axes, cut, shown[name], width)
            if row == 0:
                axes.set_title(f"{plane}, {centre[axis] + 1} of {image.shape[axis]}", fontsize=10)
                _draw_frame(axes, axis, near)
            if axis == 0:
                axes.set_ylabel(label, fontsize=11)
    figure.suptitle(plain(title), fontsize=12)
    for name in regions:
        axes.plot([], [], color=shown[name], linewidth=4, label=plain(name))
    handles = axes.get_legend_handles_labels()
    figure.legend(*handles, loc="outside lower center", ncols=4, frameon=False)
    return png(figure)


def _centre(weight: np.ndarray) -> tuple[int, int, int]:
    """Return the voxel in which the planes cross: the fullest slice, its fullest row and column."""
    if not weight.any():
        return tuple(n // 2 for n in weight.shape)
    z = int(weight.sum((1, 2)).argmax())
    return z, int(weight[z].sum(1).argmax()), int(weight[z].sum(0).argmax())


def _part(mask: np.ndarray, spacing_mm: tuple[float, ...]) -> tuple[tuple[int, int], ...]:
    """Return the box around a mask [D, H, W] with a margin: (first, one after the last) by axis."""
    if not mask.any():
        return tuple((0, n) for n in mask.shape)
    box = []
    for axis, (size, step) in enumerate(zip(mask.shape, spacing_mm, strict=True)):
        found = np.flatnonzero(mask.any(tuple(a for a in range(3) if a != axis)))
        low, high = found[0], found[-1] + 1
        margin = max(_MARGIN_MM / step, (_LEAST_MM / step - (high - low)) / 2)
        box.append((int(max(low - margin, 0)), int(min(np.ceil(high + margin), size))))
    return tuple(box)


def _draw_plane(
    axes: "Axes",
    image: np.ndarray,
    axis: int,
    centre: tuple[int, int, int],
    box: tuple[tuple[int, int], ...],
    spacing_mm: tuple[float, ...],
    limits: tuple[float, float],
):
    """Draw the plane across one axis; in coronal and sagittal planes the head stands upright."""
    rows, columns = (a for a in range(3) if a != axis)
    cut = np.take(image, centre[axis], axis)
    axes.imshow(cut, cmap="gray", vmin=limits[0], vmax=limits[1], interpolation="nearest")
    (top, bottom), (left, right) = box[rows], box[columns]
    ends = (bottom - 0.5, top - 0.5) if axis == 0 else (top - 0.5, bottom - 0.5)
    axes.set(xlim=(left - 0.5, right - 0.5), ylim=ends, xticks=[], yticks=[])
    axes.set_aspect(spacing_mm[rows] / spacing_mm[columns])


def _draw_frame(axes: "Axes", axis: int, box: tuple[tuple[int, int], ...]):
    (top, bottom), (left, right) = (box[a] for a in range(3) if a != axis)
    x, y = (left - 0.5, right - 0.5), (top - 0.5, bottom - 0.5)
    axes.plot((x[0], x[1], x[1], x[0], x[0]), (y[0], y[0], y[1], y[1], y[0]), "w:", linewidth=0.8)
