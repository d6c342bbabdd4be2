"""Contours of masks on slices of a scan."""

from typing import TYPE_CHECKING

import numpy as np

from jaxseg.scoring.figures import png

if TYPE_CHECKING:
    from matplotlib.axes import Axes

from jaxseg.scoring.figures import new_figure, plain
from jaxseg.scoring.scorecard import PatientScore

TRUTH, PREDICTION = "#00E0A0", "#FF9500"  # the green and orange, brighter: they lie on dark images
# Colour, and width on the whole head and enlarged: the truth broad below, the prediction narrow
# above, so that both are seen where they agree.
_LINES = {"truth": (TRUTH, (1.8, 2.6)), "prediction": (PREDICTION, (0.9, 1.4))}


def patient_contours(
    patient: str,
    image: np.ndarray,
    truth: np.ndarray,
    prediction: np.ndarray,
    score: PatientScore,
) -> bytes:
    """Draw contours of truth and prediction on slices through the tumour, whole and enlarged.

    Args:
        patient: id, for the title.
        image: [D, H, W] one channel, any numeric type and range; NaN-free.
        truth: [D, H, W] bool.
        prediction: [D, H, W] bool.
        score: the patient's.
    """
    # Scattered false alarms would leave no zoom.
    focus = truth if truth.any() else prediction
    masks = {"truth": truth, "prediction": prediction}
    return contours(_contour_title(patient, score), image, masks, focus)


def prediction_contours(
    title: str,
    image: np.ndarray,
    prediction: np.ndarray,
    focus: np.ndarray,
    aspect: float = 1.0,
) -> bytes:
    """Draw the contours of a prediction on the slices it affects most, whole and enlarged.

    Args:
        title: above the figure, drawn as it stands.
        image: [D, H, W] one channel, any numeric type and range; NaN-free.
        prediction: [D, H, W] bool; empty: slices from all over the volume are shown.
        focus: [D, H, W] bool, what is enlarged; empty: the head.
        aspect: height of a pixel, relative to its width.
    """
    return contours(plain(title), image, {"prediction": prediction}, focus, aspect)


def contours(title: str, image: np.ndarray, masks, focus: np.ndarray, aspect=1.0):
    """Draw masks by name, [D, H, W] bool, in two rows: the head, and the surroundings of focus."""
    shown = _slices_to_show(np.logical_or.reduce(list(masks.values())))
    low, high = np.percentile(image, (1, 99))
    limits = low, max(high, low + 1e-6)
    head = _box(image > low + 0.3 * (high - low), margin=4)
    zoom = _square(_box(focus, margin=12) if focus.any() else head, image.shape[1:])
    figure = new_figure(6.3)
    for column, z in enumerate(shown):
        here = {name: mask[z] for name, mask in masks.items()}
        for row, box in enumerate((head, zoom)):
            axes = figure.add_subplot(2, len(shown), 1 + row * len(shown) + column)
            _draw_slice(axes, image[z], here, box, limits, enlarged=row)
            axes.set_aspect(aspect)
            if row == 0:
                axes.set_title(f"slice {z + 1} of {len(image)}", fontsize=10)
    figure.suptitle(title, fontsize=12)
    for name in masks:
        colour, widths = _LINES[name]
        axes.plot([], [], color=colour, linewidth=2 * widths[0], label=name)
    handles = axes.get_legend_handles_labels()
    figure.legend(*handles, loc="outside lower center", ncols=2, frameon=False)
    return png(figure)


def _slices_to_show(mask: np.ndarray, num_slices: int = 4) -> np.ndarray:
    """Return up to num_slices slice numbers from 0, spread over the bulk of the mask's voxels."""
    area = mask.sum((1, 2), dtype=np.float64)
    if not area.any():
        area = np.ones(len(area))
    share = np.cumsum(area) / area.sum()
    quantiles = (np.arange(num_slices) + 0.5) / num_slices
    return np.unique(np.searchsorted(share, quantiles))


def _box(mask: np.ndarray, margin: int) -> tuple[int, int, int, int]:
    """Return (top, bottom, left, right) around a mask [D, H, W], all slices taken together."""
    if not mask.any():
        return 0, mask.shape[1], 0, mask.shape[2]
    bounds = []
    for axis in (1, 2):
        found = np.flatnonzero(mask.any((0, 3 - axis)))
        bounds += [max(found[0] - margin, 0), min(found[-1] + 1 + margin, mask.shape[axis])]
    return tuple(int(b) for b in bounds)


def _square(box: tuple[int, int, int, int], shape: tuple[int, int]) -> tuple[int, int, int, int]:
    """Return the box widened to a square as far as the image allows."""
    side = max(box[1] - box[0], box[3] - box[2])
    out = []
    for low, high, size in ((box[0], box[1], shape[0]), (box[2], box[3], shape[1])):
        start = min(max((low + high - side) // 2, 0), max(size - side, 0))
        out += [start, min(start + side, size)]
    return tuple(out)


def _draw_slice(axes: "Axes", image, masks, box, limits: tuple[float, float], enlarged: int):
    top, bottom, left, right = box
    axes.imshow(image, cmap="gray", vmin=limits[0], vmax=limits[1], interpolation="nearest")
    for name, mask in masks.items():
        colour, widths = _LINES[name]
        if mask.any():
            # Padded, so that the contour of a mask at the image's edge is closed.
            axes.contour(
                np.arange(-1, mask.shape[1] + 1),
                np.arange(-1, mask.shape[0] + 1),
                np.pad(mask, 1).astype(np.float32),
                levels=[0.5],
                colors=[colour],
                linewidths=widths[enlarged],
            )
    axes.set(xlim=(left - 0.5, right - 0.5), ylim=(bottom - 0.5, top - 0.5), xticks=[], yticks=[])


def _contour_title(patient: str, score: PatientScore) -> str:
    error = score.volume_error
    change = "" if error is None else f" ({100 * error:+.0f} %)"
    sizes = f"truth {score.truth_voxels:,} voxels, prediction {score.predicted_voxels:,}{change}"
    return f"{plain(patient)}: Dice {score.dice:.3f}\n{sizes}"
