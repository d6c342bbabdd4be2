"""Contours of masks on slices of a scan."""

from typing import TYPE_CHECKING

import numpy as np

from jaxseg.scoring.figures import new_figure, plain, png
from jaxseg.scoring.lesions import parts
from jaxseg.scoring.patient_score import PatientScore

if TYPE_CHECKING:
    from matplotlib.axes import Axes

TRUTH, PREDICTION = "#00E0A0", "#FF9500"  # the green and orange, brighter: they lie on dark images
_FOCI = 3  # that are enlarged, the largest first
_SOME_SIZE = 0.1  # of the largest, from which a focus is enlarged
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

    Each focus of some size has a row of its own, false alarms too.

    Args:
        patient: id, for the title.
        image: [D, H, W] one channel, any numeric type and range; NaN-free.
        truth: [D, H, W] bool.
        prediction: [D, H, W] bool.
        score: the patient's.
    """
    masks = {"truth": truth, "prediction": prediction}
    return contours(_contour_title(patient, score), image, masks)


def prediction_contours(
    title: str,
    image: np.ndarray,
    prediction: np.ndarray,
    aspect: float = 1.0,
) -> bytes:
    """Draw the contours of a prediction on the slices it affects most, whole and enlarged.

    Args:
        title: above the figure, drawn as it stands.
        image: [D, H, W] one channel, any numeric type and range; NaN-free.
        prediction: [D, H, W] bool; empty: slices from all over the volume are shown.
        aspect: height of a pixel, relative to its width.
    """
    return contours(plain(title), image, {"prediction": prediction}, aspect)


def contours(title: str, image: np.ndarray, masks: dict[str, np.ndarray], aspect: float = 1.0):
    """Draw masks by name, [D, H, W] bool: a row of whole slices, and one for each focus."""
    together = np.logical_or.reduce(list(masks.values()))
    limits = window(image)
    head = _box(image > limits[0] + 0.1 * (limits[1] - limits[0]), margin=4)
    parts = _foci(together) or [together]
    zooms = [_box(part, margin=12) if part.any() else head for part in parts]
    rows = [(_slices_to_show(together), head, 0)]
    rows += [
        (_slices_to_show(p), _square(z, image.shape[1:]), 1)
        for p, z in zip(parts, zooms, strict=True)
    ]
    columns = max(len(shown) for shown, _, _ in rows)
    figure = new_figure(6.3 + 2.9 * (len(rows) - 2))
    for row, (shown, box, enlarged) in enumerate(rows):
        for column, z in enumerate(shown):
            axes = figure.add_subplot(len(rows), columns, 1 + row * columns + column)
            here = {name: mask[z] for name, mask in masks.items()}
            _draw_slice(axes, image[z], here, box, limits, enlarged)
            axes.set_aspect(aspect)
            if row == 0 or len(rows) > 2:
                axes.set_title(f"slice {z + 1} of {len(image)}", fontsize=10)
    figure.suptitle(title, fontsize=12)
    for name in masks:
        colour, widths = _LINES[name]
        axes.plot([], [], color=colour, linewidth=2 * widths[0], label=name)
    handles = axes.get_legend_handles_labels()
    figure.legend(*handles, loc="outside lower center", ncols=2, frameon=False)
    return png(figure)


def window(image: np.ndarray) -> tuple[float, float]:
    """Return the intensities drawn black and white: the 1st and 99.8th percentile of the head.

    Of the whole volume, most of it air, tumour would be white all over.
    """
    dark, bright = np.percentile(image, (0.5, 99.5))
    head = image[image > dark + 0.1 * (bright - dark)]
    low, high = np.percentile(head, (1, 99.8)) if head.size else (dark, bright)
    return float(low), max(float(high), float(low) + 1e-6)


def _foci(mask: np.ndarray) -> list[np.ndarray]:
    """Return the components that are enlarged, the largest first."""
    components, number = parts(mask)
    sizes = np.bincount(components.ravel(), minlength=number + 1)[1:]
    ranked = [i for i in np.argsort(-sizes, kind="stable") if sizes[i] >= _SOME_SIZE * sizes.max()]
    return [components == i + 1 for i in ranked[:_FOCI]]


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
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_visible(False)  # to make no ticks, as [], takes longer than the image
    axes.imshow(image, cmap="gray", vmin=limits[0], vmax=limits[1], interpolation="nearest")
    for name, mask in masks.items():
        colour, widths = _LINES[name]
        draw_mask(axes, mask, colour, widths[enlarged])
    axes.set(xlim=(left - 0.5, right - 0.5), ylim=(bottom - 0.5, top - 0.5))


def draw_mask(axes: "Axes", mask: np.ndarray, colour: str, width: float):
    """Draw the contour of a mask, [H, W] bool, on the pixels of an image."""
    if not mask.any():
        return
    # Padded, so that the contour of a mask at the image's edge is closed.
    axes.contour(
        np.arange(-1, mask.shape[1] + 1),
        np.arange(-1, mask.shape[0] + 1),
        np.pad(mask, 1).astype(np.float32),
        levels=[0.5],
        colors=[colour],
        linewidths=width,
    )


def _contour_title(patient: str, score: PatientScore) -> str:
    error = score.volume_error
    change = "" if error is None else f" ({100 * error:+.0f} %)"
    sizes = f"truth {score.truth_voxels:,} voxels, prediction {score.predicted_voxels:,}{change}"
    return f"{plain(patient)}: Dice {score.dice:.3f}\n{sizes}"
